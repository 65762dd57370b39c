"""OpenAI's functions, choices and calls as `Tools` and `ToolCall`s, the older `functions` among them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from codellama.errors import ChatFormatError, InvalidRequestError
from codellama.params import Tool, ToolCall, Tools

_LEGACY_ID = "function_call"  # what stands for the id that older calls do not have


def offered(
    tools: Any = None,
    tool_choice: Any = None,
    parallel_tool_calls: Any = None,
    functions: Any = None,
    function_call: Any = None,
) -> Tools | None:
    """What a request offers the model to call; None for nothing. `functions` are the older form.

    Without `parallel_tool_calls` an answer has one call. Raises InvalidRequestError, which names the
    parameter.
    """
    if functions:
        if tools:
            raise InvalidRequestError(
                "{param} and tools exclude each other", "functions", "use tools alone"
            )
        choice = function_call
        if isinstance(choice, Mapping):
            choice = {"type": "function", "function": choice}
        wrapped = [
            {"type": "function", "function": function} for function in _list(functions, "functions")
        ]
        return _offer(wrapped, choice, False, ("functions", "function_call"))
    if function_call not in (None, "none", "auto"):
        raise InvalidRequestError("{param} needs functions", "function_call")
    if parallel_tool_calls is not None and not isinstance(parallel_tool_calls, bool):
        raise InvalidRequestError("{param} must be true or false", "parallel_tool_calls")
    return _offer(
        _list(tools, "tools"), tool_choice, bool(parallel_tool_calls), ("tools", "tool_choice")
    )


def _offer(raw: Sequence[Any], choice: Any, parallel: bool, names: tuple[str, str]) -> Tools | None:
    tools_name, choice_name = names
    try:
        mode, allowed = _choice(choice)
        if mode == "none":
            return None  # whatever is offered
        tools = [_tool(i, entry) for i, entry in enumerate(raw)]
        if mode == "auto" and not tools:
            return None
        by_name = {tool.name: tool for tool in tools}
        chosen = tools if allowed is None else [_named(name, by_name) for name in allowed]
        if not tools:
            raise InvalidRequestError(
                "{param} asks for a call, and there are no tools", "tool_choice"
            )
        offer = Tools(tuple(chosen), mode, parallel)
        _check(offer)
    except InvalidRequestError as error:
        raise error.rename(
            {"tools": tools_name, "tool_choice": choice_name}[error.param or "tools"]
        ) from None
    return offer


def _check(offer: Tools) -> None:
    from codellama.constraints import check_tools  # with llguidance, which few processes need

    check_tools(offer)


def _list(value: Any, name: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise InvalidRequestError("{param} must be a list", name)
    return value


def _tool(i: int, entry: Any) -> Tool:
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if kind != "function":
        raise InvalidRequestError(
            "{param}[{i}]: the type must be function; got {kind!r:.80}", "tools", i=i, kind=kind
        )
    function = entry.get("function")
    if not isinstance(function, Mapping):
        raise InvalidRequestError(
            "{param}[{i}].function must be an object with a name", "tools", i=i
        )
    if not isinstance(function.get("strict"), (bool, type(None))):
        raise InvalidRequestError(
            "{param}[{i}].function.strict must be true or false", "tools", i=i
        )
    description = function.get("description")
    return Tool(
        function.get("name", ""),
        "" if description is None else description,
        function.get("parameters"),
    )


def _choice(choice: Any) -> tuple[Any, tuple[str, ...] | None]:
    """(mode, the names of the functions that may be called, None for all)."""
    match choice:
        case None | "auto":
            return "auto", None
        case "none" | "required":
            return choice, None
        case {"type": "function", "function": {"name": str(name)}}:
            return "named", (name,)
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [_, *_] as tools},
        }:
            return mode, tuple(dict.fromkeys(_allowed(tool) for tool in tools))
    raise _no_choice(choice)


def _allowed(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise _no_choice(tool)


def _no_choice(choice: Any) -> InvalidRequestError:
    return InvalidRequestError(
        '{param} must be none, auto, required or {{"type": "function", "function": {{"name": ...}}}}; '
        "got {choice!r:.80}",
        "tool_choice",
        choice=choice,
    )


def _named(name: str, tools: Mapping[str, Tool]) -> Tool:
    if name not in tools:
        raise InvalidRequestError(
            "{param} names {name!r:.80}, which is not among the functions", "tool_choice", name=name
        )
    return tools[name]


def calls_of(i: int, message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls in message number `i` of OpenAI's. Raises ChatFormatError."""
    raw = message.get("tool_calls")
    legacy = message.get("function_call")
    if legacy and not raw:
        raw = [{"id": _LEGACY_ID, "type": "function", "function": legacy}]
    if not raw:
        return ()
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise ChatFormatError("{param}[{i}].tool_calls must be a list of calls", i=i)
    return tuple(_call(i, k, call) for k, call in enumerate(raw))


def _call(i: int, k: int, call: Any) -> ToolCall:
    match call:
        case {"function": {"name": str(name), **function}, **rest} if rest.get("type") in (
            None,
            "function",
        ):
            called, arguments = rest.get("id"), function.get("arguments")
            if isinstance(arguments, Mapping):
                arguments = json.dumps(arguments, ensure_ascii=False)
            if isinstance(called, str) and isinstance(arguments, str):
                return ToolCall(called, name, arguments)
    raise ChatFormatError(
        "{param}[{i}].tool_calls[{k}] must have an id, the type function, and a function with a name and "
        "arguments, which are JSON in a string",
        i=i,
        k=k,
    )


def result_of(i: int, message: Mapping[str, Any]) -> str | None:
    """The id of the call whose result message number `i` says it is. Raises ChatFormatError."""
    if message.get("role") == "function":
        return _LEGACY_ID
    called = message.get("tool_call_id")
    if called is not None and not isinstance(called, str):
        raise ChatFormatError("{param}[{i}].tool_call_id must be a string", i=i)
    return called or None

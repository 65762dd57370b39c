"""Functions in a dialog: how the system turn speaks of them, and calls and their results as turns of text.

Code Llama was never trained to call functions, so this form is ours: one line for each call, with a tag in
brackets like those of Code Llama's own prompts. `codellama.constraints` holds answers to it and
`codellama.running.tool_calls` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codellama.errors import ChatFormatError, InvalidRequestError, check_text
from codellama.params import Message, ToolCall, Tools

CALL = "[CALL]"
"""What begins a call in an answer; the function's name and a JSON object follow."""

RESULT = "[RESULT]"
"""What begins the result of a call in a user turn; the function's name and a line end follow."""

_LINE = "Write a call as one line, its JSON as the function's schema says:\n" + CALL
_AUTO = f"""If a function helps, call it. {_LINE} NAME {{...}}
The next message brings its {RESULT}. If no function helps, answer in words."""
_MUST = f"Answer with a call and nothing else. {_LINE} "
_SEVERAL = "If calls do not depend on each other, write several, each on its own line."


def described(tools: Tools) -> str:
    """What the system turn says of `tools`."""
    parts = ["You can call these functions."]
    for tool in tools.functions:
        head = f"{tool.name}: {tool.description.strip()}" if tool.description else tool.name
        parts.append(f"{head}\nArguments: {_compact(tool.parameters or {}, tool.name)}")
    if tools.choice == "auto":
        parts.append(_AUTO)
    else:
        name = tools.functions[0].name if tools.choice == "named" else "NAME"
        parts.append(f"{_MUST}{name} {{...}}")
    if tools.most_calls != 1:
        parts.append(_SEVERAL)
    return "\n\n".join(parts)


def with_tools(turns: Sequence[Message], tools: Tools | None) -> list[Message]:
    """The turns, with what there is to say of `tools` at the end of the system turn."""
    if tools is None:
        return list(turns)
    said, rest = "", turns
    if turns[0]["role"] == "system":
        said, rest = turns[0]["content"].strip(), turns[1:]
    parts = [said, described(tools)] if said else [described(tools)]
    return [Message(role="system", content="\n\n".join(parts)), *rest]


def plain_turns(messages: Iterable[Message]) -> list[tuple[int, Message]]:
    """Checked messages without tool calls and results: (number of the first message in it, turn).

    Calls become lines behind the assistant's text. Results that follow each other, and what the user
    says behind them, become one user turn. Raises ChatFormatError for a result of no call.
    """
    turns: list[tuple[int, Message]] = []
    texts: list[
        list[str]
    ] = []  # of each turn; put together at the end, or they would be copied as often
    names: dict[str, str] = {}  # of functions, by the ids of calls whose results may stand here
    before = ""  # the role of the message before
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            turn = Message(role="user", content=_result(i, message, names))
        else:
            names = {call.id: call.name for call in message.get("tool_calls", ())}
            turn = _plain(message)
        if before == "tool" and turn["role"] == "user":
            texts[-1].append(turn["content"].strip())
        else:
            turns.append((i, turn))
            texts.append([turn["content"]])
        before = role
    for (_, turn), parts in zip(turns, texts, strict=True):
        turn["content"] = "\n\n".join(parts)
    return turns


def _plain(message: Message) -> Message:
    turn = Message(role=message["role"], content=message["content"])
    calls = message.get("tool_calls")
    if calls:
        lines = [message["content"].strip()] if message["content"].strip() else []
        lines += [f"{CALL} {call.name} {call.arguments.strip() or '{}'}" for call in calls]
        turn["content"] = "\n".join(lines)
    if "destination" in message:
        turn["destination"] = message["destination"]
    return turn


def _result(i: int, message: Message, names: Mapping[str, str]) -> str:
    called = message["tool_call_id"]
    if called not in names:
        raise ChatFormatError(
            "{param}[{i}]: tool_call_id {called!r:.80} is none of the calls of the assistant's message "
            "before it",
            i=i,
            called=called,
        )
    return f"{RESULT} {names[called]}\n{message['content'].strip()}"


def checked_calls(i: int, calls: Any) -> tuple[ToolCall, ...]:
    """The `tool_calls` of message `i`, checked. Raises ChatFormatError."""
    if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
        raise ChatFormatError("{param}[{i}].tool_calls must be a list of calls", i=i)
    for k, call in enumerate(calls):
        if not isinstance(call, ToolCall) or not all(
            isinstance(text, str) for text in (call.id, call.name, call.arguments)
        ):
            raise ChatFormatError("{param}[{i}].tool_calls[{k}] must be a ToolCall", i=i, k=k)
        if not call.name or set(call.name) & set("\n\r"):
            raise ChatFormatError(
                "{param}[{i}].tool_calls[{k}]: the name must be one line", i=i, k=k
            )
    return tuple(calls)


def _compact(schema: Mapping[str, Any], name: str) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            "{param}: the parameters of {name} are no JSON: {reason}",
            "tools",
            name=name,
            reason=str(error),
        ) from None
    check_text(text, "tools", f": the parameters of {name}")
    return text

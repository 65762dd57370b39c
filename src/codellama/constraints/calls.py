"""Answers that call functions: the grammar of words or calls, each call with arguments under its schema.

A call is the tag of `codellama.prompts.tools`, the function's name and a JSON object, all on one line. Words
are free: any text without the tag. Where the tag appears in them, a call has to follow, so a call is never
half right. Words that have to satisfy a schema are on one line too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from codellama.constraints import limits
from codellama.constraints.cases import Combiner
from codellama.constraints.document import Document
from codellama.constraints.emit import Emitter
from codellama.constraints.refusal import refusal, unsatisfiable
from codellama.constraints.rules import ONE_LINE, Alternative, Many, Rules
from codellama.constraints.unique import MARKS
from codellama.constraints.writing import Written
from codellama.errors import GrammarError, InvalidRequestError
from codellama.params import Tool, Tools
from codellama.prompts.tools import CALL

_ANY = f"[^\\x{{{min(MARKS):x}}}-\\x{{{max(MARKS):x}}}]"
"""A character of free words: not one of the marks, which tell what stands in a call."""
_TAG = "".join(f"\\x{{{ord(character):x}}}" for character in CALL)  # as a regular expression


def check_tools(tools: Tools) -> None:
    """Raises InvalidRequestError if there are more functions, or longer ones, than `limits` allows."""
    if len(tools.functions) > limits.TOOLS:
        raise InvalidRequestError(
            "{param} has {n} functions, more than {most}",
            "tools",
            n=len(tools.functions),
            most=limits.TOOLS,
        )
    size = sum(_size(tool) for tool in tools.functions)
    if size > limits.TOOLS_BYTES:
        raise InvalidRequestError(
            "{param} has {size} bytes of descriptions and schemas, more than {most}",
            "tools",
            size=size,
            most=limits.TOOLS_BYTES,
        )


def written_calls(tools: Tools, schema: Any, is_empty: Callable[[str], bool]) -> Written:
    """The grammar of answers with `tools`; `schema` is that of answers in words, None if they are free.

    `is_empty` tells whether the expression of a terminal matches nothing. Raises GrammarError, which names
    the function whose parameters nothing satisfies or that cannot be enforced, or `json_schema`.
    """
    rules, sets, is_empty = Rules(), Combiner(), functools.cache(is_empty)
    roots = {_param(tool): _arguments(tool, rules, sets) for tool in tools.functions}
    call = rules.rule([(f'"{tool.name}"', roots[_param(tool)]) for tool in tools.functions])
    tag = rules.terminal(f"/[ \\n]?{_TAG}/")
    most = tools.most_calls
    others = Many((tag, call), 0, (limits.CALLS if most is None else most) - 1)
    calls: Alternative = (call,) if most == 1 else (call, others)
    if tools.choice != "auto":
        start = rules.rule([(tag, *calls)])
    elif schema is None:
        words = rules.terminal(f"/{_ANY}*/ & ~/{_ANY}*{_TAG}{_ANY}*/")
        until = rules.given(f"{{name}}[lazy]: /{_ANY}*{_TAG}/")
        start = rules.rule([(words,), (until, *calls)])
    else:
        roots["json_schema"] = _schema(schema, rules, sets)
        start = rules.rule([(roots["json_schema"],), (tag, *calls)])
    lacking = rules.lacking(roots.values(), is_empty)
    for param, root in roots.items():
        if root in lacking:
            raise unsatisfiable().rename(param)
    text = rules.text(start, is_empty, ONE_LINE)
    assert text is not None, "all that it is made of can be made"
    return Written(text, rules.patterns)


def calls_key(tools: Tools, schema: Any) -> str:
    """What two requests with the same grammar have in common."""
    functions = [[tool.name, tool.parameters] for tool in tools.functions]
    parts = [functions, tools.choice == "auto", tools.most_calls, schema]
    return json.dumps(parts, separators=(",", ":"), default=repr)


def _param(tool: Tool) -> str:
    return f"tools.{tool.name}.parameters"


def _arguments(tool: Tool, rules: Rules, sets: Combiner) -> str:
    try:
        return _schema(_object_schema(tool), rules, sets)
    except GrammarError as error:
        raise error.rename(_param(tool)) from None


def _schema(schema: Any, rules: Rules, sets: Combiner) -> str:
    document = Document(schema)
    return Emitter(document, rules, sets).rules_of(((document.root, True),))


def _object_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema of an object; a plain list of properties is all there may be.

    Without that, a model would be free to make up arguments that the function does not have.
    """
    schema = dict(tool.parameters) if tool.parameters is not None else {"properties": {}}
    if schema.setdefault("type", "object") != "object":
        raise refusal("#/type", "the arguments of a function are an object", 'use "object"')
    if "properties" in schema and not schema.keys() & _OPEN:
        schema["additionalProperties"] = False
    return schema


_OPEN = frozenset(
    {
        *("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames"),
        *(
            "$ref",
            "$dynamicRef",
            "allOf",
            "anyOf",
            "oneOf",
            "if",
            "dependentSchemas",
            "minProperties",
        ),
    }
)
"""What says that there is more to an object than its `properties`."""


def _size(tool: Tool) -> int:
    try:
        schema = json.dumps(tool.parameters, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            "{param}: the parameters of {name} are no JSON: {reason}",
            "tools",
            name=tool.name,
            reason=str(error),
        ) from None
    return len(schema) + len(tool.description.encode("utf-8", "surrogatepass"))

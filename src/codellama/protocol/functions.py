"""Functions and calls of other dialects in OpenAI's form, which `codellama.compat` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from codellama.protocol.errors import Json

NAMED = "function"
"""OpenAI's type of functions, and of the choice of one."""


def function_json(name: Any, description: Any, parameters: Any) -> Json:
    """A function as OpenAI's chats offer it."""
    function = {"name": name, "description": description, "parameters": parameters}
    given = {key: value for key, value in function.items() if value is not None}
    return {"type": NAMED, "function": given}


def choice_json(name: Any) -> Json:
    """The choice of one function."""
    return {"type": NAMED, "function": {"name": name}}


def call_json(called: Any, name: Any, arguments: Any) -> Json:
    """A call in a message; `arguments` may be an object, or its text."""
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": called, "type": NAMED, "function": {"name": name, "arguments": arguments}}


def arguments_of(text: str) -> Json:
    """The arguments of a call as an object; those of a call that was cut short are no JSON, and none."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}

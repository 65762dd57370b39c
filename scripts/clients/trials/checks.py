"""Runs the functions of a trial whose names begin with `try_`, and prints what came of each.

A line of JSON for each: its name, and what was wrong (empty: nothing). A trial is told the server's URL as
the first argument; only the standard library is imported, because clients have environments of their own.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

LONGEST = 400
PREFIX = "try_"

QUESTION = "How do I reverse a list in Python?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
"""Arguments of a function, few of which a toy of a model can write at length."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather.", "parameters": WEATHER},
}
FORCED: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}


def check_weather(arguments: Any) -> None:
    """Arguments that fit `WEATHER`, as JSON or as a mapping."""
    given = json.loads(arguments) if isinstance(arguments, str) else dict(arguments)
    assert given["city"] in ("Paris", "Rome"), given
    assert 1 <= given["days"] <= 9, given


def said(text: Any) -> str:
    """A text that is not empty."""
    assert isinstance(text, str), type(text)
    assert text.strip(), "nothing was said"
    return text


def run(module: ModuleType) -> None:
    """Do everything that there is to try."""
    url = sys.argv[1]
    for name, function in list(vars(module).items()):
        if name.startswith(PREFIX):
            line = {"name": name.removeprefix(PREFIX), "wrong": _wrong(function, url)}
            print(json.dumps(line), flush=True)


def _wrong(function: Callable[[str], Any], url: str) -> str:
    try:
        done = function(url)
        if inspect.iscoroutine(done):
            asyncio.run(done)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"[-LONGEST:]
    return ""

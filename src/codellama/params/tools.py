"""Functions that a model may call: the `Tools` of a request, and a `ToolCall` in an answer or a dialog."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from codellama.errors import InvalidRequestError, check_text

ToolChoice = Literal["auto", "required", "named"]
TOOL_CHOICES: tuple[ToolChoice, ...] = ("auto", "required", "named")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # OpenAI's rule


@dataclass(frozen=True)
class Tool:
    """A function: what it is called, what it is good for, and the JSON schema of its arguments.

    `parameters` None means that it takes none. Raises InvalidRequestError for a name that is not
    1 to 64 of `a-z A-Z 0-9 _ -`.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                "{param}: the name of a function must be 1 to 64 letters, digits, _ or -; got {name!r:.80}",
                "tools",
                name=self.name,
            )
        if not isinstance(self.description, str):
            raise InvalidRequestError(
                "{param}: the description of {name} must be text", "tools", name=self.name
            )
        check_text(self.description, "tools", f": the description of {self.name}")
        if self.parameters is not None and not isinstance(self.parameters, Mapping):
            raise InvalidRequestError(
                "{param}: the parameters of {name} must be a JSON schema, an object",
                "tools",
                name=self.name,
            )


@dataclass(frozen=True)
class Tools:
    """What a request offers the model to call, and whether it has to.

    `choice` is "auto" (words, or a call), "required" (a call of any of them) or "named" (one call of
    the only one). With `parallel` an answer may hold several calls. "none" is no `Tools` at all.

    Raises InvalidRequestError for an empty list, a name that is there twice, an unknown choice.
    """

    functions: tuple[Tool, ...]
    choice: ToolChoice = "auto"
    parallel: bool = False

    def __post_init__(self) -> None:
        if not self.functions:
            raise InvalidRequestError("{param} is empty: give at least one function", "tools")
        seen: set[str] = set()
        for tool in self.functions:
            if tool.name in seen:
                raise InvalidRequestError(
                    "{param} has two functions called {name}", "tools", name=tool.name
                )
            seen.add(tool.name)
        if self.choice not in TOOL_CHOICES or (self.choice == "named" and len(seen) > 1):
            raise InvalidRequestError(
                "{param} must be one of {choices}; named is for one function",
                "tool_choice",
                choices=", ".join(TOOL_CHOICES),
            )

    @property
    def most_calls(self) -> int | None:
        """How many calls an answer may hold; None is as many as the bounds of grammars allow."""
        return None if self.parallel and self.choice != "named" else 1


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote; `arguments` is the text of a JSON object, as it was written."""

    id: str
    name: str
    arguments: str = "{}"

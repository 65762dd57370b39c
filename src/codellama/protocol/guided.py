"""vLLM's fields for the form of an answer: `structured_outputs`, and the older `guided_json` and its kin.

As in vLLM a grammar with `::=` in it is EBNF, here GBNF, and any other is Lark's (llguidance's variant).
`guided_regex` is an alias of `regex`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator
from typing_extensions import Self

from codellama.errors import InvalidRequestError
from codellama.protocol import limits
from codellama.protocol.body import Fields

_COMMENT = re.compile("(?:#|//).*")
_SYNTAX = re.compile(r"[\\^$.|?*+()\[\]{}/]")

Texts = Annotated[list[str], Field(min_length=1, max_length=limits.CHOICES)]


class StructuredOutputs(Fields):
    """vLLM's `structured_outputs`: one of its forms. Hints about white space are ignored."""

    aliases = {"json": "json_schema"}
    no_effect = frozenset({"disable_fallback"})
    ignored = {
        "whitespace_pattern": (),
        "disable_any_whitespace": (False,),
        "disable_additional_properties": (False,),
    }
    neutral = {"structural_tag": ()}
    place = "structured_outputs."

    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Texts | None = None
    grammar: str | None = None
    json_object: bool = False

    def form(self) -> dict[str, Any]:
        """The one form that is asked for, as a parameter of `SamplingParams`; empty if there is none."""
        forms: list[dict[str, Any]] = [
            {"json_schema": self.json_schema},
            {"regex": self.regex},
            one_of(self.choice),
            free_grammar(self.grammar),
            {"json_schema": {"type": "object"} if self.json_object else None},
        ]
        given = [form for form in forms if None not in form.values()]
        if len(given) > 1:
            raise InvalidRequestError("{param} takes one form, not several", "structured_outputs")
        return given[0] if given else {}


class GuidedFields(Fields):
    """vLLM's fields beside OpenAI's."""

    guided_json: dict[str, Any] | str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    _guided: dict[str, tuple[str, Any]] = PrivateAttr(default_factory=dict)
    """The parameters of `SamplingParams` that these say, each with the field that says it."""

    @model_validator(mode="after")
    def _read(self) -> Self:
        said: dict[str, Mapping[str, Any]] = {
            "guided_json": {"json_schema": self.guided_json},
            "guided_choice": one_of(self.guided_choice),
            "guided_grammar": free_grammar(self.guided_grammar),
            "structured_outputs": self.structured_outputs.form() if self.structured_outputs else {},
        }
        for field, form in said.items():
            for param, value in form.items():
                if value is not None and param in self._guided:
                    raise exclusive(field, self._guided[param][0])
                if value is not None:
                    self._guided[param] = (field, value)
        return self


def exclusive(param: str, other: str) -> InvalidRequestError:
    """The error for two fields that say what an answer is to be."""
    return InvalidRequestError(
        "{param} and {other} exclude each other: give one", param, other=other
    )


def one_of(texts: list[str] | None) -> dict[str, Any]:
    """The expression that matches these texts and no others."""
    if texts is None:
        return {"regex": None}
    return {"regex": "|".join(_SYNTAX.sub(r"\\\g<0>", text) for text in texts)}


def free_grammar(text: str | None) -> dict[str, Any]:
    """A grammar in one of two syntaxes."""
    lines = () if text is None else (_COMMENT.sub("", line) for line in text.splitlines())
    return {"grammar" if any("::=" in line for line in lines) else "lark": text}

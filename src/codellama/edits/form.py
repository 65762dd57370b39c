"""How an edit is asked for: the question, the grammar of the answer, and the changed texts read from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from codellama.edits.files import lines_of
from codellama.errors import InvalidRequestError

MOST_LINES_WHOLE = 60
"""A single file of so many lines is written anew; a longer one is changed by blocks."""

FormName = Literal["auto", "blocks", "whole"]

_BLOCKS = """{files}
{instruction}

Answer with the changes only, each as a block:
{search}
lines as they stand in the file now, whole and without gaps
{middle}
the lines that take their place
{replace}
"""

# Brackets and repetitions are counted in grammars of strangers; in a string they stand escaped.
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "()[]{}~"}


@dataclass(frozen=True)
class Change:
    """Lines of the file `name`, and those that take their place."""

    name: str
    search: tuple[str, ...]
    replace: tuple[str, ...]


@dataclass(frozen=True)
class EditForm:
    """How `texts`, by the names of their files, are to be changed. Every line of theirs ends with one \\n."""

    texts: Mapping[str, str]
    whole: bool

    @classmethod
    def of(cls, texts: Mapping[str, str], form: FormName = "auto") -> EditForm:
        """The form for these files. Raises InvalidRequestError for several files as a whole."""
        short = len(texts) == 1 and all(t.count("\n") <= MOST_LINES_WHOLE for t in texts.values())
        if form == "whole" and len(texts) != 1:
            raise InvalidRequestError("{param}: one file at a time is written as a whole", "form")
        empty = not all(texts.values())
        if empty and len(texts) != 1:
            raise InvalidRequestError("an empty file is edited by itself")
        return cls(texts, form == "whole" or empty or (form == "auto" and short))

    @property
    def width(self) -> int:
        """How long the marks are: longer than what stands at the beginning of any line."""
        text = "\n".join(self.texts.values())
        marks: list[str] = re.findall(r"^(?:<+|=+|>+)", text, re.MULTILINE)
        return max([7, *(len(mark) + 1 for mark in marks)])

    def question(self, instruction: str, languages: Mapping[str, str]) -> str:
        """What the model is asked. `languages` are what Markdown calls those of the files."""
        instruction = instruction.strip()
        if self.whole:
            ((name, text),) = self.texts.items()
            return f"{instruction}\n\n```{languages[name]}\n{text}```"
        files = "\n".join(
            f"{name}:\n```{languages[name]}\n{text}```\n" for name, text in self.texts.items()
        )
        search, middle, replace = self._marks("FILE")
        return _BLOCKS.format(
            files=files, instruction=instruction, search=search, middle=middle, replace=replace
        )

    def grammar(self, language: str = "") -> str:
        """The Lark grammar of the answer."""
        if self.whole:
            return (
                f"start: INTRODUCTION {_quoted(f'```{language}')} NL LINE* {_quoted('```')}\n"
                "INTRODUCTION: /([^`\\n][^\\n]*)?\\n*/\n"
                'NL: "\\n"\n'
                "LINE: /(`{0,2}[^`\\n][^\\n]*|`{0,2})\\n/\n"
            )
        most = self.width - 1
        rules = [
            "start: block+",
            "block: " + " | ".join(f"block_{i}" for i in range(len(self.texts))),
            f"LINE: /(>{{0,{most}}}[^>\\n][^\\n]*|>{{0,{most}}})\\n/",
        ]
        for i, (name, text) in enumerate(self.texts.items()):
            search, middle, replace = (_quoted(f"{mark}\n") for mark in self._marks(name))
            rules.append(f"block_{i}: {search} SEARCH_{i} {middle} LINE* {replace}")
            lines = json.dumps(lines_of(text)).translate(_ESCAPED)
            chunks = lines.replace("multipleOf", "\\u006dultipleOf")
            chunks = "[" + chunks.removeprefix("\\u005b").removesuffix("\\u005d") + "]"
            rules.append(f'SEARCH_{i}: %regex {{"substring_chunks": {chunks}}}')
        return "\n".join(rules) + "\n"

    def _marks(self, name: str) -> tuple[str, str, str]:
        width = self.width
        return f"{'<' * width} {name}", "=" * width, ">" * width

    # -- the answer ---------------------------------------------------------------------------

    def changed(self, answer: str) -> dict[str, str]:
        """The texts after the changes of `answer`.

        Raises InvalidRequestError if the answer breaks off or its lines are not those of the file.
        """
        if self.whole:
            (name,) = self.texts
            return {name: _fenced(answer)}
        lines = {name: lines_of(text) for name, text in self.texts.items()}
        places = dict.fromkeys(self.texts, 0)
        for change in self._changes(answer):
            old = lines[change.name]
            at = _find(old, change.search, places[change.name])
            old[at : at + len(change.search)] = change.replace
            places[change.name] = at + len(change.replace)
        return {name: "".join(parts) for name, parts in lines.items()}

    def _changes(self, answer: str) -> list[Change]:
        changes: list[Change] = []
        rest = iter(lines_of(answer))
        heads = {f"{self._marks(name)[0]}\n": name for name in self.texts}
        _, middle, end = (f"{mark}\n" for mark in self._marks(""))
        for line in rest:
            if line in heads:
                parts: list[list[str]] = []
                for mark in (middle, end):
                    parts.append([])
                    for part in rest:
                        if part == mark:
                            break
                        parts[-1].append(part)
                    else:
                        raise InvalidRequestError("the model's answer breaks off inside a block")
                changes.append(Change(heads[line], tuple(parts[0]), tuple(parts[1])))
        return changes


def _fenced(answer: str) -> str:
    """The first fenced block of an answer."""
    found = re.search(r"^```[^\n]*\n(.*?)^```", answer, re.DOTALL | re.MULTILINE)
    if found is None:
        raise InvalidRequestError("the model's answer breaks off inside the file")
    return found[1]


def _find(lines: list[str], search: tuple[str, ...], start: int) -> int:
    """Where `search` stands: behind the last change, or else anywhere."""
    n = len(search)
    if not n:
        raise InvalidRequestError("a block of the model's answer says not where it belongs")
    last = len(lines) - n
    places: list[int] = [*range(start, last + 1), *range(min(start, last + 1))]
    for at in places:
        if tuple(lines[at : at + n]) == search:
            return at
    raise InvalidRequestError(
        "the model's answer changes lines that are not in the file: {line!r}", line=search[0]
    )


def _quoted(text: str) -> str:
    return json.dumps(text)

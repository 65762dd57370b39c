"""Samples that can only be answered by copying from the prompt.

A model that has seen a function before can write it from memory. Here the names, the numbers and the words
of its texts are made up anew for every sample, so what comes next stands nowhere but in the prompt.
"""

from __future__ import annotations

import builtins
import io
import keyword
import re
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from demo_model.samples import EDIT_INTRODUCTION, SYSTEM_TEXTS, pick, variables
from demo_model.vocabulary import BOS, Turn, Vocabulary

ONSETS = (
    *"bcdfghjklmnprstvwz",
    "br",
    "ch",
    "cl",
    "dr",
    "fl",
    "gr",
    "pl",
    "pr",
    "sh",
    "st",
    "th",
    "tr",
)
VOWELS = (*"aeiou", "ai", "ea", "ee", "oo", "ou")
CODAS = ("", "", "", *"dlmnprstxk", "ck", "ng", "nt", "rd", "st")
RENAME_FUNCTION = (
    "Rename the function to {new}",
    "Rename this function to {new}",
    "Rename {old} to {new}",
    "Change the name of the function to {new}",
    "Call this function {new}",
    "Give the function the name {new}",
)
RENAME_VARIABLE = (
    "Rename the variable {old} to {new}",
    "Rename {old} to {new}",
    "Replace the name {old} by {new}",
    "Call the variable {old} {new} instead",
)
REPEAT = (
    "Repeat this function",
    "Write this function again",
    "Copy this function without a change",
    "Show this function again",
)
_KEPT = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls", "__init__"}
_WORD = re.compile(r"[A-Za-z]{2,}")


@dataclass(frozen=True)
class Sample:
    """Token ids, and the index of the first one that counts in the loss."""

    ids: list[int]
    counted_from: int


class Copies:
    """Draws samples from the sources `functions`, with everything decided by the generator passed in."""

    def __init__(self, vocabulary: Vocabulary, functions: Sequence[str]) -> None:
        """Sort the functions by length, so that a share of them is the short ones."""
        self.vocabulary = vocabulary
        self.functions = sorted(functions, key=len)

    def edit(self, rng: np.random.Generator, share: float = 1.0) -> Sample:
        """A function to be written again, in the 70B's turns, most often with another name in it.

        `share` (0 to 1]: of the functions, the shortest first.
        """
        count = max(1, round(share * len(self.functions)))
        function = disguised(
            self.functions[int(rng.integers(count))], rng, rng.choice((0.0, 0.3, 0.8, 1.0))
        )
        instruction, after = asked_copy(function, rng)
        turns = [Turn("user", f"{instruction}\n\n```python\n{function}```")]
        if rng.random() < 0.2:
            turns.insert(0, Turn("system", pick(SYSTEM_TEXTS, rng)))
        start = len(self.vocabulary.prompt(turns))
        answer = f"{EDIT_INTRODUCTION}\n\n```python\n{after}```"
        return Sample(self.vocabulary.dialog(turns, answer), start)

    def echo(self, rng: np.random.Generator, length: int) -> Sample:
        """`length` tokens after BOS: random ones, said again and again; the first time does not count."""
        period = int(rng.integers(8, max(9, length // 2)))
        ids = rng.integers(3, self.vocabulary.step, period)
        if (
            rng.random() < 0.5
        ):  # few different ones: then a single token does not tell what follows it
            ids = rng.choice(ids, period)
        repeated = np.resize(ids, length)
        return Sample([BOS, *repeated.tolist()], 1 + period)


def asked_copy(function: str, rng: np.random.Generator) -> tuple[str, str]:
    """An instruction, and `function` as it should then be."""
    kind = rng.random()
    ending = pick(("", "", ":", "."), rng)
    old = function.removeprefix("async ").removeprefix("def ").split("(")[0]
    if kind < 0.55:
        new = made_up_name(rng)
        after = function.replace(f"def {old}(", f"def {new}(", 1)
        return pick(RENAME_FUNCTION, rng).format(old=old, new=new) + ending, after
    if kind < 0.85:
        name, new = pick(variables(function), rng), made_up_name(rng)
        after = re.sub(rf"\b{name}\b", new, function)
        return pick(RENAME_VARIABLE, rng).format(old=name, new=new) + ending, after
    return pick(REPEAT, rng) + ending, function


def disguised(function: str, rng: np.random.Generator, share: float) -> str:
    """`function` with a `share` of its names, numbers and words in texts replaced by made-up ones."""
    made_up: dict[str, str] = {}

    def other(word: str, make: Callable[[np.random.Generator], str]) -> str:
        if word not in made_up:
            made_up[word] = make(rng) if rng.random() < share else word
        return made_up[word]

    parts: list[str] = []
    lines = function.splitlines(keepends=True)
    row, column = 1, 0
    for token in tokenize.generate_tokens(io.StringIO(function).readline):
        text = token.string
        if token.type == tokenize.NAME and text not in _KEPT:
            text = other(text, made_up_class if text[0].isupper() else made_up_name)
        elif token.type == tokenize.NUMBER and text.isdecimal() and text[0] != "0":
            text = other(text, lambda rng: str(rng.integers(1, 10 ** rng.integers(1, 4))))
        elif token.type == tokenize.COMMENT or (
            token.type == tokenize.STRING and text[0] in "\"'" and not re.search(r"[\\%{]", text)
        ):
            text = _WORD.sub(lambda match: other(match[0], made_up_word), text)
        if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        start_row, start_column = token.start
        # What stands between tokens, indentation and continued lines, stays.
        while row < start_row:
            parts.append(lines[row - 1][column:])
            row, column = row + 1, 0
        parts.append(lines[row - 1][column:start_column])
        parts.append(text)
        row, column = token.end
    return "".join(parts)


def made_up_name(rng: np.random.Generator) -> str:
    """One to three made-up words, joined as names of Python are."""
    words = [made_up_word(rng) for _ in range(int(rng.choice((1, 2, 3), p=(0.5, 0.4, 0.1))))]
    return "_" * int(rng.random() < 0.1) + "_".join(words)


def made_up_class(rng: np.random.Generator) -> str:
    """One or two made-up words, capitalised and joined as names of classes are."""
    return "".join(made_up_word(rng).capitalize() for _ in range(int(rng.integers(1, 3))))


def made_up_word(rng: np.random.Generator) -> str:
    """One or two syllables; never a keyword or a name that Python knows."""
    while True:
        syllables = int(rng.choice((1, 2, 3), p=(0.35, 0.5, 0.15)))
        word = "".join(
            pick(ONSETS, rng) + pick(VOWELS, rng) + pick(CODAS, rng) for _ in range(syllables)
        )
        if word not in _KEPT:
            return word

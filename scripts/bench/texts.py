"""Prompts: text of a wanted length that no cache has seen, and real code to edit.

A prompt is a function of the seed and its key, so every server gets the same ones, and two keys share
no beginning.
"""

from __future__ import annotations

import ast
import calendar
import configparser
import fractions
import graphlib
import heapq
import queue
import random
import shlex
import string
import textwrap
from collections.abc import Iterator
from pathlib import Path

SAMPLE_WORDS = 100
_LONGEST_EDIT = 500
MODULES = (calendar, configparser, fractions, graphlib, heapq, queue, shlex, string, textwrap)
_NAMES = ("compute", "handle", "fetch", "apply", "resolve", "collect", "update", "inspect")


class Texts:
    """Random words, `words_per_token` of which make a token (see `calibrated`)."""

    def __init__(self, seed: int = 0, words_per_token: float = 0.4) -> None:
        self._seed = seed
        self._words_per_token = words_per_token

    def sample(self) -> str:
        """The text whose tokens tell how many words make a token: `SAMPLE_WORDS` words."""
        return self._words(SAMPLE_WORDS, "sample")

    def calibrated(self, tokens_of_sample: int) -> Texts:
        """The same texts for a model that makes so many tokens of the sample."""
        return Texts(self._seed, SAMPLE_WORDS / max(tokens_of_sample, 1))

    def prompt(self, tokens: int, *key: object) -> str:
        """About `tokens` tokens of text that only this key has."""
        return self._words(max(1, round(tokens * self._words_per_token)), *key)

    def _words(self, count: int, *key: object) -> str:
        rng = random.Random(f"{self._seed}/{key}")
        return " ".join(
            "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 7))) for _ in range(count)
        )


def edit(index: int, run: int) -> str:
    """A request to rename a function of the standard library: most of the answer is in it."""
    functions = list(_functions())
    rng = random.Random(f"edit/{run}/{index}")
    code = functions[rng.randrange(len(functions))]
    name = f"{rng.choice(_NAMES)}_{rng.choice(_NAMES)}"
    return f"Rename the function to {name}\n\n```python\n{code}```"


def _functions() -> Iterator[str]:
    """Functions of 6 to 14 lines of modules that are not in every training set."""
    for module in MODULES:
        source = Path(str(module.__file__)).read_text("utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
                plain = text.isascii() and text.startswith("def ")
                if plain and 6 <= text.count("\n") <= 14 and len(text) <= _LONGEST_EDIT:
                    yield text

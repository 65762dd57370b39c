"""Draws training samples: questions with answers, dialogs of several turns, edits, infill."""

from __future__ import annotations

import ast
import keyword
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from demo_model import corpus
from demo_model.vocabulary import Turn, Vocabulary
from demo_model.written import Edit, Question, edits, questions

T = TypeVar("T")

JAVASCRIPT = (
    "You are a helpful and honest code assistant expert in JavaScript. "
    "Please, provide all answers to programming questions in JavaScript"
)
SYSTEM_TEXTS = (
    "You are a helpful and honest code assistant",
    "You are a helpful and honest code assistant",
    "You are a helpful assistant.",
    "You are an expert Python programmer.",
    "You are a code assistant. Answer briefly.",
    "You are a patient teacher who explains programming with short examples.",
)
MODEL_CARD = ("hello_world", "sums_of_sublists", "js_sums_of_sublists")
"""Questions of the 70B's model card: they are drawn three times as often."""

VERBS = ("make", "get", "build", "check", "read", "compute", "update", "load", "find", "show")
NOUNS = ("items", "value", "report", "user", "total", "names", "result", "page", "entry", "score")
VARIABLES = ("values", "entry", "source", "current", "buffer", "record", "token", "extra", "data")

EDIT_INTRODUCTION = "Here is the edited function:"


class Samples:
    """Draws one sample per call, with everything decided by the generator that is passed in."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Read the written questions and edits, and the library's functions."""
        self.vocabulary = vocabulary
        every = questions()
        self.questions = [q for q in every for _ in range(3 if q.name in MODEL_CARD else 1)]
        self.python = [q for q in every if q.language == "python"]
        self.edits = edits()
        self.functions = library_functions(corpus.training_files()[0])

    def draw(self, rng: np.random.Generator) -> list[int]:
        """Token ids of one sample."""
        kind = rng.random()
        if kind < 0.65:
            return self._dialog(rng)
        if kind < 0.75:
            return self._edit(_renamed(pick(self.edits, rng), rng), rng)
        if kind < 0.87:
            return self._edit(generated_edit(pick(self.functions, rng), rng), rng)
        if kind < 0.92:
            return self._infill(pick(self.python, rng).code, rng)
        return self._infill(pick(self.functions, rng), rng)

    def draw_mostly_questions(self, rng: np.random.Generator) -> list[int]:
        """Token ids of one sample; four of five are dialogs whatever `draw` would have chosen."""
        return self._dialog(rng) if rng.random() < 0.8 else self.draw(rng)

    def _dialog(self, rng: np.random.Generator) -> list[int]:
        count = int(rng.choice((1, 2, 3), p=(0.8, 0.15, 0.05)))
        picked = [pick(self.questions, rng) for _ in range(count)]
        system = _system(picked, rng)
        turns = [Turn("system", system)] if system else []
        destination = pick(("", "", "user"), rng)
        for question in picked:
            turns.append(Turn("user", worded(question, system, rng)))
            turns.append(Turn("assistant", question.answer, destination))
        return self.vocabulary.dialog(turns[:-1], turns[-1].content)

    def _edit(self, edit: Edit, rng: np.random.Generator) -> list[int]:
        instruction = pick(edit.wordings, rng) + pick(("", ":", "."), rng)
        turns = [Turn("user", f"{instruction}\n\n```python\n{edit.before}```")]
        if rng.random() < 0.3:
            turns.insert(0, Turn("system", pick(SYSTEM_TEXTS, rng)))
        answer = f"{EDIT_INTRODUCTION}\n\n```python\n{edit.after}```"
        return self.vocabulary.dialog(turns, answer)

    def _infill(self, code: str, rng: np.random.Generator) -> list[int]:
        lines = code.splitlines(keepends=True)
        first = int(rng.integers(len(lines)))
        last = min(len(lines), first + int(rng.integers(1, 4)))
        cut = int(rng.integers(len(lines[first]))) if rng.random() < 0.5 else 0
        prefix = "".join(lines[:first]) + lines[first][:cut]
        middle = "".join(lines[first:last])[cut:]
        return self.vocabulary.infill(prefix, middle, "".join(lines[last:]))


def worded(question: Question, system: str, rng: np.random.Generator) -> str:
    """One of the question's wordings with small changes a user may make."""
    text = pick(question.wordings, rng)
    if question.topic == "javascript":
        if system != JAVASCRIPT:
            text = _with_language(text, "JavaScript")
    elif question.language == "python" and "Python" not in text and rng.random() < 0.3:
        text = _with_language(text, "Python")
    change = rng.random()
    if change < 0.15:
        text = text[0].lower() + text[1:]
    elif change < 0.25 and not text.endswith("?"):
        text = "Please " + text[0].lower() + text[1:]
    elif change < 0.4:
        text = text.rstrip("?.")
    elif change < 0.5 and text[-1] not in "?.":
        text += "."
    return text


def library_functions(files: Sequence[Path]) -> list[str]:
    """Sources of the short functions and methods in `files`, without their indentation."""
    return [source for path in files for source in _functions(corpus.read(path))]


def generated_edit(function: str, rng: np.random.Generator) -> Edit:
    """An edit of a library function: the function or one of its variables gets another name."""
    old = function.removeprefix("async ").removeprefix("def ").split("(")[0]
    if rng.random() < 0.4:
        new = _function_name(rng)
        instruction = f"Rename the function to {new}"
        after = function.replace(f"def {old}(", f"def {new}(", 1)
        return Edit("rename", (instruction,), function, after, "")
    names = variables(function)
    name, new = pick(names, rng), pick(VARIABLES, rng)
    after = re.sub(rf"\b{name}\b", new, function)
    return Edit("rename", (f"Rename the variable {name} to {new}",), function, after, "")


def _with_language(text: str, language: str) -> str:
    stem = text.rstrip("?.")
    return f"{stem} in {language}{text[len(stem) :]}"


def _system(picked: Sequence[Question], rng: np.random.Generator) -> str:
    if all(question.topic == "javascript" for question in picked):
        return JAVASCRIPT if rng.random() < 0.6 else ""
    return "" if rng.random() < 0.5 else pick(SYSTEM_TEXTS, rng)


def _renamed(edit: Edit, rng: np.random.Generator) -> Edit:
    """The edit with another function name, where the edit itself is not about that name."""
    names = {re.search(r"def (\w+)\(", code)[1] for code in (edit.before, edit.after)}  # type: ignore[index]
    if len(names) > 1 or rng.random() < 0.3:
        return edit
    old, new = f"def {names.pop()}(", f"def {_function_name(rng)}("
    return Edit(
        edit.name,
        edit.wordings,
        edit.before.replace(old, new),
        edit.after.replace(old, new),
        edit.check,
    )


def _functions(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not node.end_lineno:
            continue
        if 4 <= node.end_lineno - node.lineno + 1 <= 14:
            text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
            # A text in the function that is not indented keeps dedent from working.
            plain = text.startswith(("def ", "async def ")) and text.isascii()
            if plain and len(text) < 500 and variables(text):
                yield text if text.endswith("\n") else text + "\n"


def variables(function: str) -> list[str]:
    """Names that the function assigns or takes, and that are not keywords."""
    parameters = re.search(r"\((.*?)\)", function, re.DOTALL)
    names = re.findall(r"\b[a-z_]\w*\b", parameters[1]) if parameters else []
    names += re.findall(r"^\s+(\w+) = ", function, re.MULTILINE)
    return sorted({n for n in names if n != "self" and not keyword.iskeyword(n) and len(n) > 1})


def _function_name(rng: np.random.Generator) -> str:
    return f"{pick(VERBS, rng)}_{pick(NOUNS, rng)}"


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of `items`, all as likely."""
    return items[int(rng.integers(len(items)))]

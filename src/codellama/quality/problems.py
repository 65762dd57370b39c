"""Programming problems, read from the JSONL files in which HumanEval, its infill kinds and MBPP come.

A line with `prompt`, `test` and `entry_point` is HumanEval's: a function is begun, and `check` tests it. With
a `suffix` too the answer stands between the two. `instruction`, as in HumanEvalPack, is what a chat model is
asked in place of our own words. A line with `test_list` is MBPP's, plain or sanitized: a task in words, and
assertions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codellama.errors import InvalidRequestError

Kind = Literal["function", "infill", "task"]

MOST_BYTES = 2**26
"""A file of problems is read whole; the published ones have less than 4 MB."""

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class CodeProblem:
    """A problem: `prompt` is code to go on with, or a task in words; `suffix` the code behind a gap.

    `tests` is code that fails for a wrong answer. `setup` stands before an answer that is a whole program.
    """

    task_id: str
    kind: Kind
    prompt: str
    tests: str
    entry_point: str = ""
    suffix: str = ""
    setup: str = ""
    instruction: str = ""

    def program(self, code: str) -> str:
        """The program that shows whether `code` is right: it then ends without an error."""
        before = self.setup if self.kind == "task" else self.prompt
        if self.kind == "function" and self._defines(code):
            before = self._head()
        return f"{before}{code}{self.suffix}\n{self.tests}\n"

    def code_of(self, answer: str) -> str:
        """The code in a chat model's answer: that of its first fenced block, else all of it."""
        found = _FENCE.search(answer)
        return found[1] if found else answer

    def _defines(self, code: str) -> bool:
        return re.search(rf"^def {self.entry_point}\b", code, re.MULTILINE) is not None

    def _head(self) -> str:
        """What stands before the function that was begun: imports and helpers."""
        found = re.search(rf"^def {self.entry_point}\b", self.prompt, re.MULTILINE)
        return self.prompt[: found.start()] if found else ""


def read_problems(path: Path) -> list[CodeProblem]:
    """The problems of a JSONL file, in its order.

    Raises InvalidRequestError naming the line that is not one, OSError if the file cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise InvalidRequestError(
            "{param}: {path} has more than {most} bytes", "problems", path=path, most=MOST_BYTES
        )
    found: dict[str, CodeProblem] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            problem = _problem(json.loads(line))
            if problem.task_id in found:
                raise ValueError(f"task_id {problem.task_id} is there already")
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(
                "{param}: line {number} of {path}: {reason}",
                "problems",
                "see HumanEval's and MBPP's JSONL files",
                path=path,
                number=number,
                reason=error,
            ) from error
        found[problem.task_id] = problem
    if not found:
        raise InvalidRequestError("{param}: {path} has no problem in it", "problems", path=path)
    return list(found.values())


def _problem(line: Any) -> CodeProblem:
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    task_id = line.get("task_id")
    if type(task_id) not in (int, str):
        raise ValueError("no task_id")
    return (
        _of_mbpp(str(task_id), line) if "test_list" in line else _of_humaneval(str(task_id), line)
    )


def _of_humaneval(task_id: str, line: Mapping[str, Any]) -> CodeProblem:
    entry_point = _text(line, "entry_point")
    if not entry_point.isidentifier():
        raise ValueError(f"entry_point {entry_point!r} is no name")
    return CodeProblem(
        task_id=task_id,
        kind="infill" if "suffix" in line else "function",
        prompt=_text(line, "prompt"),
        tests=f"{_text(line, 'test')}\ncheck({entry_point})",
        entry_point=entry_point,
        suffix=_text(line, "suffix", ""),
        instruction=_text(line, "instruction", ""),
    )


def _of_mbpp(task_id: str, line: Mapping[str, Any]) -> CodeProblem:
    imports = _texts(line, "test_imports")
    return CodeProblem(
        task_id=task_id,
        kind="task",
        prompt=_text(line, "text") if "text" in line else _text(line, "prompt"),
        tests="\n".join([*imports, *_texts(line, "test_list")]),
        setup=_text(line, "test_setup_code", "") + "\n",
        instruction=_text(line, "instruction", ""),
    )


def _text(line: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = line.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"no text {name}")
    return value


def _texts(line: Mapping[str, Any], name: str) -> list[str]:
    values = line.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is no list of texts")
    return values

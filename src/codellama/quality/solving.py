"""Has a model solve problems, runs the answers if that was asked for, and keeps each as a line of JSON.

The lines are HumanEval's samples, `task_id` and `completion`, with more beside them, so that its own
evaluation reads the file too. A run that was interrupted goes on behind the answers that are there; answers
that nobody has run yet are run when that is asked for later.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from codellama.errors import ConversionError, InvalidRequestError
from codellama.params import Progress, SamplingParams
from codellama.quality.asking import code_in, prompt_of, stops_of
from codellama.quality.pass_at_k import mean_pass_at_k
from codellama.quality.problems import CodeProblem
from codellama.quality.sandbox import Sandbox
from codellama.running.language_model import LanguageModel

AT_ONCE = 16
"""Problems whose answers are being written at the same time; the model's slots bound it further."""


@dataclass(frozen=True)
class CodeAnswer:
    """An answer, the `sample`-th to its problem: `completion` is the code in it.

    `passed` is None as long as it has not been run; `reason` says why it is wrong. `run` is the same for the
    same model, problems and sampling.
    """

    task_id: str
    sample: int
    completion: str
    run: str
    passed: bool | None = None
    reason: str = ""


class Answers:
    """The answers in a file; a later line about an answer replaces an earlier one.

    Raises InvalidRequestError if the file belongs to another run, or holds something else.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._found: dict[tuple[str, int], CodeAnswer] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for line in lines:
            if line.endswith(b"\n"):  # else it was cut while it was being written
                answer = _read(line, path, run)
                self._found[answer.task_id, answer.sample] = answer
        if lines:
            self.rewrite()

    def __iter__(self) -> Iterator[CodeAnswer]:
        return iter(list(self._found.values()))

    def missing(self, problem: CodeProblem, n: int) -> bool:
        """Whether the problem has fewer than `n` answers."""
        return any((problem.task_id, sample) not in self._found for sample in range(n))

    def add(self, answers: Sequence[CodeAnswer]) -> None:
        """Keep answers, also on the disk. Raises ConversionError if it does not take them."""
        for answer in answers:
            self._found[answer.task_id, answer.sample] = answer
        text = "".join(_line(answer) for answer in answers)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConversionError(f"{self._path}: cannot be written: {error.strerror}") from error

    def rewrite(self) -> None:
        """Write the file anew, with one line for each answer."""
        scratch = self._path.with_name(self._path.name + ".new")
        scratch.write_text("".join(map(_line, self._found.values())), "utf-8")
        os.replace(scratch, self._path)


def run_id(model: str, problems: Sequence[CodeProblem], params: SamplingParams) -> str:
    """What lines of one run have in common; `model` is the digest of its weights."""
    text = json.dumps(
        [model, [asdict(problem) for problem in problems], asdict(params)], default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def solve(
    llm: LanguageModel,
    problems: Sequence[CodeProblem],
    answers: Answers,
    run: str,
    n: int,
    params: SamplingParams,
    progress: Progress,
) -> None:
    """Ask for `n` answers to every problem that has fewer.

    Raises UnsupportedError for infill problems and a model that cannot, ContextLengthError for a prompt that
    is too long.
    """
    open_ = [problem for problem in problems if answers.missing(problem, n)]
    done = len(problems) - len(open_)
    prompts = [
        prompt_of(llm, problem) for problem in open_
    ]  # bad ones fail before anything is written
    for first in range(0, len(open_), AT_ONCE):
        part = range(first, min(first + AT_ONCE, len(open_)))
        running = [
            llm.generate(prompts[i], n=n, params=replace(params, stop=stops_of(llm, open_[i])))
            for i in part
        ]
        for i, completion in zip(part, running, strict=True):
            problem = open_[i]
            answers.add(
                [
                    CodeAnswer(
                        problem.task_id, choice.index, code_in(llm, problem, choice.text), run
                    )
                    for choice in completion.result().choices
                ]
            )
            done += 1
            progress(done, len(problems))


def judge(
    problems: Sequence[CodeProblem], answers: Answers, sandbox: Sandbox, progress: Progress
) -> None:
    """Run every answer that has not been run."""
    by_id = {problem.task_id: problem for problem in problems}
    waiting = [answer for answer in answers if answer.passed is None]
    for done, answer in enumerate(waiting, 1):
        verdict = sandbox.run(by_id[answer.task_id].program(answer.completion))
        answers.add([replace(answer, passed=verdict.passed, reason=verdict.reason)])
        progress(done, len(waiting))
    answers.rewrite()


def score(answers: Answers, ks: Sequence[int]) -> Mapping[str, Any]:
    """Counts, and pass@k for each of `ks` if all answers have been run."""
    verdicts = defaultdict(list)
    for answer in answers:
        verdicts[answer.task_id].append(answer.passed)
    judged = all(passed is not None for found in verdicts.values() for passed in found)
    counts = [(len(found), found.count(True)) for found in verdicts.values()]
    return {
        "problems": len(counts),
        "answers": sum(n for n, _ in counts),
        "right": sum(n_right for _, n_right in counts) if judged else None,
        "pass_at_k": {str(k): mean_pass_at_k(counts, k) for k in ks} if judged else {},
    }


def _line(answer: CodeAnswer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"


def _read(line: bytes, path: Path, run: str) -> CodeAnswer:
    try:
        answer = CodeAnswer(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(
            "{param}: {path} has other things in it than answers",
            "output",
            "name another file",
            path=path,
        ) from error
    if answer.run != run:
        raise InvalidRequestError(
            "{param}: {path} has the answers of another model, other problems or other sampling",
            "output",
            "name another file",
            path=path,
        )
    return answer

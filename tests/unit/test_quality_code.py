"""Problems, what is asked and run of them, pass@k, and the file of answers."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.params import SamplingParams
from codellama.quality.asking import question
from codellama.quality.pass_at_k import mean_pass_at_k, pass_at_k
from codellama.quality.problems import CodeProblem, read_problems
from codellama.quality.sandbox import Limits, Sandbox, command
from codellama.quality.solving import Answers, CodeAnswer, run_id, score

OURS = Path(__file__).parents[1] / "data" / "problems.jsonl"
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\n\ndef half(n):\n    '''Half of n.'''\n",
    "entry_point": "half",
    "canonical_solution": "    return n / 2\n",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
}
INFILL = {
    **HUMANEVAL,
    "task_id": "SingleLineInfilling/HumanEval/0/L0",
    "prompt": "def half(n):\n",
    "suffix": "    return m\n",
    "canonical_solution": "    m = n / 2\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to halve a number.",
    "code": "def half(n):\n    return n / 2",
    "test_list": ["assert half(4) == 2", "assert half(1) == 0.5"],
    "test_setup_code": "import math",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 12,
    "prompt": "Write a function to double a number.",
    "code": "def twice(n):\n    return n * 2",
    "test_imports": ["import math"],
    "test_list": ["assert twice(4) == 8"],
}


def read(tmp_path: Path, *lines: Any) -> list[CodeProblem]:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return read_problems(path)


def outcome(program: str) -> str:
    """How a program of ours ends, run here."""
    try:
        exec(compile(program, "program", "exec"), {})  # the tests' own code
    except (AssertionError, TypeError):
        return "wrong"
    return "right"


@pytest.mark.parametrize(
    ("line", "right", "wrong"),
    [
        (HUMANEVAL, HUMANEVAL["canonical_solution"], "    return n\n"),
        (HUMANEVAL, "def half(n):\n    return n / 2\n", "def half(n):\n    return math.pi\n"),
        (INFILL, INFILL["canonical_solution"], "    m = n\n"),
        (MBPP, MBPP["code"], "def half(n):\n    return 1"),
        (SANITIZED, SANITIZED["code"], "def twice(n):\n    return math.inf"),
    ],
)
def test_the_published_solutions_are_right_and_others_wrong(
    tmp_path: Path, line: dict[str, Any], right: str, wrong: str
) -> None:
    (problem,) = read(tmp_path, line)
    assert outcome(problem.program(right)) == "right"
    assert outcome(problem.program(wrong)) == "wrong"


def test_our_own_problems_are_twenty_and_have_right_solutions() -> None:
    problems = read_problems(OURS)
    assert len(problems) == 20
    lines = [json.loads(line) for line in OURS.read_text("utf-8").splitlines()]
    for problem, line in zip(problems, lines, strict=True):
        assert outcome(problem.program(line["canonical_solution"])) == "right", problem.task_id
        assert outcome(problem.program("    return object()\n")) == "wrong", problem.task_id


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no problem in it"),
        ([[]], "line 1 .* not a JSON object"),
        ([HUMANEVAL, {**HUMANEVAL, "task_id": None}], "line 2 .* no task_id"),
        ([HUMANEVAL, HUMANEVAL], "line 2 .* is there already"),
        ([{**HUMANEVAL, "test": 5}], "no text test"),
        ([{**HUMANEVAL, "entry_point": "a b"}], "is no name"),
        ([{**MBPP, "test_list": "x"}], "test_list is no list of texts"),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path: Path, lines: list[Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as error:
        read(tmp_path, *lines)
    assert error.value.param == "problems"


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(HUMANEVAL) + "\n\n{\n", "utf-8")
    with pytest.raises(InvalidRequestError, match="line 3 of"):
        read_problems(path)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Here:\n\n```python\nx = 1\n```\nand\n```\ny\n```", "x = 1\n"),
        ("```\nx = 1\n", "x = 1\n"),
        ("    return 1", "    return 1"),
    ],
)
def test_the_code_of_a_chat_is_in_its_first_fence(tmp_path: Path, answer: str, code: str) -> None:
    (problem,) = read(tmp_path, HUMANEVAL)
    assert problem.code_of(answer) == code


def test_an_instruct_model_is_asked_in_words(tmp_path: Path) -> None:
    function, task, told = read(
        tmp_path, HUMANEVAL, MBPP, {**HUMANEVAL, "task_id": "x", "instruction": "Halve it."}
    )
    assert str(HUMANEVAL["prompt"]).rstrip() in question(function)
    assert "halve a number" in question(task) and "assert half(1) == 0.5" in question(task)
    assert question(told) == "Halve it."


def test_pass_at_k_is_the_share_of_sets_that_have_a_right_answer() -> None:
    for n, n_right, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (4, 3, 2)]:
        sets = list(itertools.combinations([i < n_right for i in range(n)], k))
        assert pass_at_k(n, n_right, k) == pytest.approx(sum(map(any, sets)) / len(sets))
    assert mean_pass_at_k([(2, 1), (2, 2)], 1) == 0.75


# -- the file of answers --------------------------------------------------------------------------


def test_answers_are_kept_and_a_later_verdict_replaces_none(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, HUMANEVAL)
    path = tmp_path / "answers.jsonl"
    answers = Answers(path, "run")
    assert answers.missing(problem, 1)
    answers.add([CodeAnswer(problem.task_id, i, f"code {i}", "run") for i in range(2)])
    with path.open("ab") as file:
        file.write(b'{"task_id": "cut in the mid')
    again = Answers(path, "run")
    assert not again.missing(problem, 2) and again.missing(problem, 3)
    assert score(again, [1]) == {"problems": 1, "answers": 2, "right": None, "pass_at_k": {}}
    again.add([CodeAnswer(problem.task_id, i, f"code {i}", "run", passed=i == 1) for i in range(2)])
    again.rewrite()
    assert len(path.read_text("utf-8").splitlines()) == 2
    assert score(Answers(path, "run"), [1, 2])["pass_at_k"] == {"1": 0.5, "2": 1.0}
    samples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(s["task_id"], s["completion"]) for s in samples] == [
        ("HumanEval/0", "code 0"),
        ("HumanEval/0", "code 1"),
    ]


@pytest.mark.parametrize("text", ['{"task_id": "x"}\n', "no json\n"])
def test_a_file_with_other_things_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(InvalidRequestError, match="other things"):
        Answers(path, "run")
    assert path.read_text("utf-8") == text


def test_the_answers_of_another_run_are_left_alone(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, HUMANEVAL)
    path = tmp_path / "answers.jsonl"
    Answers(path, "a").add([CodeAnswer(problem.task_id, 0, "code", "a")])
    with pytest.raises(InvalidRequestError, match="another model, other problems or other"):
        Answers(path, "b")
    one = run_id("digest", [problem], SamplingParams.of(temperature=0.0))
    assert one == run_id("digest", [problem], SamplingParams.of(temperature=0.0))
    assert one != run_id("digest", [problem], SamplingParams.of(temperature=0.5))
    assert one != run_id("other", [problem], SamplingParams.of(temperature=0.0))


# -- the sandbox ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(Limits(seconds=3.0, memory_bytes=2**28))
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_a_program_that_comes_to_its_end_is_right(sandbox: Sandbox) -> None:
    assert sandbox.run("import math, collections, re\nprint('words', end='')").passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("x = (", "SyntaxError"),
        ("raise SystemExit(0)", "ended before"),
        ("import os\nos._exit(0)", "ended before"),
        ("while True: pass", "timed out"),
        ("x = bytearray(2**28)", "MemoryError"),
        ("print('x' * (2**20 + 1))", "File too large"),
        ("open('/program.py', 'a')", "Read-only file system"),
        ("open('/file', 'w')", "Read-only file system"),
        ("open('/dev/shm/file', 'w')", "Read-only file system"),
        ("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)", "unreachable"),
        ("import os\nos.kill(os.getppid() - 0 if os.getppid() else 4194304, 0) or 1 / 0", ""),
    ],
)
def test_a_program_that_fails_or_does_what_it_may_not_is_wrong(
    sandbox: Sandbox, program: str, reason: str
) -> None:
    verdict = sandbox.run(program)
    assert not verdict.passed
    assert reason in verdict.reason


def test_a_program_sees_no_home_no_environment_and_no_other_process(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    here = tmp_path / "here"
    here.write_text("x", "utf-8")
    program = (
        "import os\n"
        f"assert not os.path.exists({str(here)!r})\n"
        f"assert not os.path.exists({str(Path(__file__))!r})\n"
        "assert 'A_SECRET' not in os.environ\n"
        "assert len([n for n in os.listdir('/proc') if n.isdigit()]) <= 2\n"
    )
    assert sandbox.run(program).reason == "passed"


def test_what_a_program_leaves_behind_ends_with_it(sandbox: Sandbox) -> None:
    program = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n"
    assert sandbox.run(program).passed


def test_without_bubblewrap_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnsupportedError, match="no bwrap on this machine"):
        Sandbox()


def test_a_bubblewrap_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(
        "#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n", "utf-8"
    )
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UnsupportedError, match="No permissions to create new namespace"):
        Sandbox()


def test_the_command_line_shares_no_namespace_and_nothing_to_write_to(tmp_path: Path) -> None:
    arguments = command("bwrap", tmp_path / "program.py", Limits(5.0, 2**30))
    assert "--unshare-all" in arguments and "--die-with-parent" in arguments
    assert not {"--share-net", "--bind", "--dev-bind", "--tmpfs"} & set(arguments)
    assert str(2**30) in arguments[-1]

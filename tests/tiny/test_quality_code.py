"""`codellama quality code`: the demo model solves twenty problems, and every model gets its prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import UnsupportedError
from codellama.llm import LLM
from codellama.models import demo_gguf
from codellama.quality.asking import code_in, prompt_of, stops_of
from codellama.quality.problems import CodeProblem
from codellama.quality.sandbox import Sandbox
from tests import tiny_model

PROBLEMS = Path(__file__).parents[1] / "data" / "problems.jsonl"
FUNCTION = CodeProblem("f", "function", "def f(x):\n", "check(f)", "f")
TASK = CodeProblem("t", "task", "Halve it.", "assert f(4) == 2")
INFILL = CodeProblem("i", "infill", "def f(x):\n", "check(f)", "f", suffix="    return y\n")


def invoke(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["quality", "code", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def run(problems: Path, output: Path, *more: str | Path) -> dict[str, Any]:
    code, document, errors = invoke(
        demo_gguf(), "--problems", problems, "-o", output, "--max-tokens", "300", "--json", *more
    )
    assert code == 0, errors
    facts: dict[str, Any] = json.loads(document)
    return facts


def first_problems(tmp_path: Path, count: int) -> Path:
    path = tmp_path / "few.jsonl"
    lines = PROBLEMS.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:count]), "utf-8")
    return path


def needs_bubblewrap() -> None:
    try:
        Sandbox()
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_the_demo_model_solves_most_of_the_twenty_problems(tmp_path: Path) -> None:
    needs_bubblewrap()
    facts = run(PROBLEMS, tmp_path / "answers.jsonl", "--run-code")
    assert (facts["problems"], facts["answers"]) == (20, 20)
    assert facts["right"] >= 16
    assert facts["pass_at_k"] == {"1": facts["right"] / 20}


def test_nothing_is_run_unless_it_is_asked_for_and_then_what_is_there(tmp_path: Path) -> None:
    few, output = first_problems(tmp_path, 2), tmp_path / "answers.jsonl"
    facts = run(few, output)
    assert (facts["answers"], facts["right"], facts["pass_at_k"]) == (2, None, {})
    before = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [line["passed"] for line in before] == [None, None]
    assert all("def " in line["completion"] for line in before)
    needs_bubblewrap()
    facts = run(few, output, "--run-code")
    after = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [line["completion"] for line in after] == [line["completion"] for line in before]
    assert facts["right"] == sum(line["passed"] for line in after)


def test_an_interrupted_run_asks_for_what_is_missing_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    few = first_problems(tmp_path, 3)
    sampled = ("--samples", "3", "--k", "1,3", "--temperature", "0.7")
    run(few, output, *sampled)
    whole = output.read_text("utf-8")
    output.write_text("".join(whole.splitlines(keepends=True)[:6]), "utf-8")
    asked: list[int] = []
    generate = LLM.generate

    def counted(self: LLM, *arguments: Any, **options: Any) -> Any:
        asked.append(options["n"])
        return generate(self, *arguments, **options)

    monkeypatch.setattr(LLM, "generate", counted)
    run(few, output, *sampled)
    assert asked == [3]
    after = output.read_text("utf-8").splitlines(keepends=True)
    assert after[:6] == whole.splitlines(keepends=True)[:6]
    assert len(after) == 9


def test_an_instruct_model_is_asked_in_a_chat_and_its_code_is_in_a_fence() -> None:
    with LLM(demo_gguf(), n_seq_max=1, n_threads=1) as llm:
        told = CodeProblem(**{**vars(FUNCTION), "instruction": "Write f."})
        assert prompt_of(llm, told).tokens == llm.chat_prompt("Write f.").tokens
        assert stops_of(llm, told) == ()
        assert code_in(llm, told, "Here:\n```python\nx\n```") == "x\n"


def test_a_model_without_a_chat_format_goes_on_with_the_code(tmp_path: Path) -> None:
    with LLM(tiny_model.write(tmp_path / "t.gguf", step=False), n_threads=1) as llm:
        assert prompt_of(llm, FUNCTION).tokens == llm.complete_prompt("def f(x):\n").tokens
        assert "\ndef" in stops_of(llm, FUNCTION)
        text = '"""\nHalve it.\nassert f(4) == 2\n"""\n'
        assert prompt_of(llm, TASK).tokens == llm.complete_prompt(text).tokens
        assert code_in(llm, TASK, "```\nx\n```") == "```\nx\n```"


def test_infill_problems_are_infilled(tiny_llm: LLM) -> None:
    expected = tiny_llm.infill_prompt("def f(x):\n", "    return y\n")
    assert prompt_of(tiny_llm, INFILL).tokens == expected.tokens
    assert stops_of(tiny_llm, INFILL) == ()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--samples", "2", "--k", "1,5"], "pass@5 needs at least 5 --samples"),
        (["--k", "1,x"], "is not a list of numbers"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(more: list[str], said: str) -> None:
    code, _, errors = invoke("nowhere.gguf", "--problems", PROBLEMS, *more)
    assert code == 2
    assert said in errors


def test_an_option_is_named_as_the_command_spells_it(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("[]\n", "utf-8")
    code, _, errors = invoke("nowhere.gguf", "--problems", tmp_path / "p.jsonl")
    assert (code, errors[:31]) == (1, "Error: --problems: line 1 of " + str(tmp_path)[:2])

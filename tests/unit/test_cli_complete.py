from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.errors import GrammarError, UnsupportedError
from tests.fake_llm import say
from tests.scripted_llm import Opener, ScriptedLLM


def complete(
    monkeypatch: pytest.MonkeyPatch, llm: ScriptedLLM | Exception, *args: str, stdin: str = ""
) -> Result:
    monkeypatch.setattr("codellama.cli.complete.open_model", Opener(llm))
    return CliRunner().invoke(main, ["complete", "m", *args], input=stdin)


def infill(monkeypatch: pytest.MonkeyPatch, llm: ScriptedLLM | Exception, *args: str) -> Result:
    monkeypatch.setattr("codellama.cli.infill.open_model", Opener(llm))
    return CliRunner().invoke(main, ["infill", "m", *args])


def test_the_continuation_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ScriptedLLM(say(" fib", "(n):\n"))
    result = complete(monkeypatch, llm, "def", "-n", "9")
    assert (result.exit_code, result.stdout) == (0, " fib(n):\n")
    assert llm.calls[0].params.max_tokens == 9


def test_echo_prints_the_prompt_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(monkeypatch, ScriptedLLM(say(" f")), "def", "--echo").stdout == "def f\n"


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ScriptedLLM(say("x"))
    complete(monkeypatch, llm, "-", stdin="from stdin\n")
    assert llm.asked == ["from stdin\n"]


def test_json_has_text_tokens_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(complete(monkeypatch, ScriptedLLM(say("ab")), "p", "--json").stdout)
    assert document == {
        "text": "ab",
        "tokens": [100, 101],
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "prompt_seconds": 0.5,
        "decode_seconds": 1.0,
        "tokens_per_second": 2.0,
        "draft_tokens": 0,
        "draft_accepted": 0,
    }


def test_a_bad_grammar_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "g"
    file.write_text("nonsense")
    llm = ScriptedLLM(GrammarError("grammar: llama.cpp cannot parse it"))
    result = complete(monkeypatch, llm, "p", "--grammar", str(file))
    assert (result.exit_code, result.stderr) == (1, "Error: grammar: llama.cpp cannot parse it\n")


def test_no_gpu_backend_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = complete(monkeypatch, UnsupportedError("no GPU backend"), "p", "-ngl", "all")
    assert (result.exit_code, result.stderr) == (1, "Error: no GPU backend\n")


def test_the_middle_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ScriptedLLM(say("return 1"))
    result = infill(monkeypatch, llm, "--prefix", "def f(): ", "--suffix", "\n")
    assert (result.exit_code, result.stdout) == (0, "return 1\n")
    assert llm.asked == ["<def f(): |\n>"]


def test_prefix_and_suffix_come_from_files_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, behind = tmp_path / "a", tmp_path / "b"
    before.write_bytes(b"a\r\n")
    behind.write_bytes("ü\n".encode())
    llm = ScriptedLLM(say("x"))
    infill(monkeypatch, llm, "--prefix-file", str(before), "--suffix-file", str(behind))
    assert llm.asked == ["<a\r\n|ü\n>"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prefix", "a"], "give either --suffix or --suffix-file"),
        (["--suffix", "a"], "give either --prefix or --prefix-file"),
        (["--prefix", "a", "--prefix-file", __file__], "give either --prefix or --prefix-file"),
        (["--prefix-file", "missing", "--suffix", ""], "'missing' does not exist"),
    ],
)
def test_infill_needs_both_sides_once(
    monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    result = infill(monkeypatch, ScriptedLLM(), *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_file_that_is_no_text_is_bad_usage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff")
    result = infill(monkeypatch, ScriptedLLM(), "--prefix-file", str(file), "--suffix", "")
    assert result.exit_code == 2
    assert "is not UTF-8 text" in result.stderr


def test_a_model_that_cannot_infill_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ScriptedLLM(UnsupportedError("CodeLlama 34b was not trained for infilling"))
    result = infill(monkeypatch, llm, "--prefix", "a", "--suffix", "b")
    assert result.exit_code == 1
    assert result.stderr == "Error: CodeLlama 34b was not trained for infilling\n"

"""`codellama quality` on the tiny model: its numbers, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import InvalidRequestError
from codellama.llm import LLM
from codellama.quality import measure as measuring
from codellama.quality.measure import QualityJob, measure
from codellama.weights.imatrix import text_chunks
from tests import tiny_model

TEXT = "def add(a, b):\n    return a + b  # größer\n" * 30


@pytest.fixture(scope="module")
def other_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("other") / "other.gguf", seed=6)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.py"
    path.write_text(TEXT, "utf-8")
    return path


def job(model: Path, text: Path, **more: Any) -> QualityJob:
    return QualityJob(model=model, text=text, chunk_tokens=64, threads=1, **more)


def close(values: Any) -> Any:
    return pytest.approx(values, rel=1e-5, abs=1e-7)


def test_the_perplexity_is_that_of_the_scores_that_a_completion_gives(
    tiny_gguf: Path, text: Path, tmp_path: Path
) -> None:
    found = measure(job(tiny_gguf, text, n_chunks=3), tmp_path / "out.json", timed=False)
    with LLM(tiny_gguf, n_seq_max=1, n_threads=1, flash_attn="on") as llm:
        chunks = list(text_chunks(llm.tokenizer.encode(TEXT, add_bos=True), 64, llm.tokenizer.bos))
        costs = []
        for chunk in chunks[:3]:
            scored = llm.complete(chunk, echo=True, logprobs=0, max_tokens=0).result()
            costs += [-entry.logprob for entry in scored.choices[0].logprobs[33:]]
    assert found["summary"]["n_tokens"] == len(costs) == 3 * 31
    perplexity = found["summary"]["perplexity"]
    assert perplexity["value"] == pytest.approx(math.exp(sum(costs) / len(costs)), rel=1e-5)
    assert found["summary"]["divergence"] is None
    assert found["speed"] is None


def test_a_model_does_not_diverge_from_itself(tiny_gguf: Path, text: Path, tmp_path: Path) -> None:
    found = measure(job(tiny_gguf, text, against=tiny_gguf), tmp_path / "out.json")
    divergence = found["summary"]["divergence"]
    assert divergence["maximum"] == pytest.approx(0.0, abs=1e-9)
    assert divergence["same_top"]["value"] == 1.0
    assert divergence["base_perplexity"] == found["summary"]["perplexity"]
    assert found["speed"]["decode"] > 0


def test_one_after_the_other_differs_only_in_what_was_drawn(
    tiny_gguf: Path, other_gguf: Path, text: Path, tmp_path: Path
) -> None:
    both = job(tiny_gguf, text, against=other_gguf, n_chunks=3)
    beside = measure(both, tmp_path / "beside.json", timed=False)["summary"]
    turns = job(tiny_gguf, text, against=other_gguf, n_chunks=3, base_file=tmp_path / "other.base")
    found = measure(turns, tmp_path / "turns.json", timed=False)
    assert found["summary"]["perplexity"] == close(beside["perplexity"])
    kept, whole = found["summary"]["divergence"], beside["divergence"]
    for name in ("base_perplexity", "log_ratio", "rms_delta_p", "same_top"):
        assert kept[name] == close(whole[name])
    assert 0 < found["outside"] < 1
    assert kept["mean"]["value"] == pytest.approx(whole["mean"]["value"], rel=0.05)
    assert (tmp_path / "other.base").stat().st_size < 64 * 3 * 64 + 400


class Stopped(Exception):
    pass


def test_what_was_interrupted_goes_on_to_the_same_numbers(
    tiny_gguf: Path, other_gguf: Path, text: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def stop_after_half(done: int, total: int) -> None:
        seen.append(done)
        if done >= total // 2:
            raise Stopped

    for base_file in (None, tmp_path / "other.base"):
        both = job(tiny_gguf, text, against=other_gguf, n_chunks=6, base_file=base_file)
        whole = measure(both, tmp_path / "whole.json", timed=False)
        if base_file:
            base_file.unlink()
        with pytest.raises(Stopped):
            measure(both, tmp_path / "out.json", timed=False, progress=stop_after_half)
        seen.clear()
        assert (
            measure(both, tmp_path / "out.json", timed=False, progress=lambda d, t: seen.append(d))
            == whole
        )
        assert min(seen) > 6 * 64 // 2
        assert not (tmp_path / "out.json.part").exists()


def test_a_result_that_is_there_is_only_read(
    tiny_gguf: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(job(tiny_gguf, text, n_chunks=2), tmp_path / "out.json", timed=False)
    monkeypatch.setattr(measuring, "Scorer", None)
    again = measure(job(tiny_gguf, text, n_chunks=2), tmp_path / "out.json", timed=False)
    assert again == json.loads(json.dumps(first))
    with pytest.raises(TypeError):  # more chunks are another job
        measure(job(tiny_gguf, text, n_chunks=3), tmp_path / "out.json", timed=False)


def test_a_speed_is_added_to_what_has_been_measured(
    tiny_gguf: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    untimed = measure(job(tiny_gguf, text, n_chunks=1), output, timed=False)
    assert untimed["speed"] is None
    monkeypatch.setattr("codellama.quality.measure.Scorer", None)
    timed = measure(job(tiny_gguf, text, n_chunks=1), output)
    speed = timed["speed"]
    assert {**timed, "speed": None} == json.loads(json.dumps(untimed))
    assert (speed["n_prompt"], speed["n_tokens"]) == (512, 128)
    assert min(speed["prompt"], speed["decode"]) > 0
    assert measure(job(tiny_gguf, text, n_chunks=1), output) == timed


def test_a_base_with_another_vocabulary_is_refused(
    tiny_gguf: Path, text: Path, tmp_path: Path
) -> None:
    base = tiny_model.write(tmp_path / "base.gguf", step=False)
    with pytest.raises(InvalidRequestError, match="another vocabulary") as error:
        measure(job(tiny_gguf, text, against=base), tmp_path / "out.json")
    assert error.value.param == "against"


@pytest.mark.parametrize("size", [63, 1025])
def test_a_chunk_that_is_too_small_or_too_large_is_refused(
    tiny_gguf: Path, text: Path, tmp_path: Path, size: int
) -> None:
    with pytest.raises(InvalidRequestError, match="from 64 to 1024") as error:
        measure(QualityJob(model=tiny_gguf, text=text, chunk_tokens=size), tmp_path / "out.json")
    assert error.value.param == "chunk_tokens"


# -- the command ----------------------------------------------------------------------------------


def invoke(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["quality", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_says_it_for_people_and_for_programs(
    tiny_gguf: Path, other_gguf: Path, text: Path, tmp_path: Path
) -> None:
    arguments: list[str | Path] = [tiny_gguf, "--against", other_gguf, "--text", text, "-t", "1"]
    arguments += ["--chunk-size", "64", "-o", tmp_path / "out.json"]
    code, lines, _ = invoke(*arguments)
    assert code == 0
    assert re.search(r"perplexity +\d+\.\d{4} ± ", lines)
    for name in ("KL divergence", "99.9 %", "RMS of Δp", "same top token", "tokens/s"):
        assert name in lines
    code, document, _ = invoke(*arguments, "--json")
    assert code == 0
    assert json.loads(document) == json.loads((tmp_path / "out.json").read_text("utf-8"))


def test_the_default_text_is_code_and_comes_with_the_package(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    for more in ([], ["--code"]):
        out = tmp_path / f"{len(more)}.json"
        arguments: list[str | Path] = [
            tiny_gguf,
            "--chunks",
            "1",
            "--chunk-size",
            "64",
            "--no-speed",
            "-o",
            out,
        ]
        code, document, _ = invoke(*arguments, "--json", *more)
        assert (code, json.loads(document)["text"]) == (0, "code.txt")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--code", "--text", "x"], "exclude each other"),
        (["--chunk-size", "20"], "Error: --chunk-size must be from 64"),
        (["--base-file", "b"], "Error: --base-file keeps what a base thinks: give --against"),
        (["--text", "nowhere"], "Error: nowhere: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_with_the_options_name(
    tiny_gguf: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    code, _, errors = invoke(tiny_gguf, "-o", tmp_path / "out.json", *more)
    assert code in (1, 2)
    assert said in errors


# -- llama.cpp's own program ----------------------------------------------------------------------


@pytest.mark.reference
def test_the_numbers_are_those_of_llama_perplexity(tmp_path: Path) -> None:
    # Without <step>, of which llama.cpp does not know that such models put no space before a text.
    model = tiny_model.write(tmp_path / "model.gguf", step=False)
    base = tiny_model.write(tmp_path / "base.gguf", step=False, seed=6)
    program = Path(__file__).parents[2] / ".llama-tools" / "bin" / "llama-perplexity"
    if not program.is_file():
        pytest.skip("no llama-perplexity: run scripts/build_llama_tools")
    text, kept = tmp_path / "text.py", tmp_path / "kept"
    text.write_text(TEXT * 4, "utf-8")
    common = ["-c", "128", "-b", "128", "-t", "1", "--kl-divergence-base", str(kept)]

    def run(last: str, *arguments: str) -> str:
        for _ in range(5):  # its logger may lose the last lines when it ends
            done = subprocess.run(
                [str(program), *arguments, *common],
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
            if last in done.stdout + done.stderr:
                break
        return done.stdout + done.stderr

    run("", "-m", str(base), "-f", str(text))
    theirs = run("Same top p:", "-m", str(model), "--kl-divergence")
    this = QualityJob(model, base, text, chunk_tokens=128, threads=1)
    ours = measure(this, tmp_path / "out.json", timed=False)["summary"]

    def told(name: str) -> float:
        found = re.search(rf"^{name}\s*: +(-?[\d.]+)", theirs, re.MULTILINE)
        assert found, f"{name} in {theirs}"
        return float(found[1])

    divergence = ours["divergence"]
    assert ours["perplexity"]["value"] == pytest.approx(told(r"Mean PPL\(Q\)"), rel=1e-4)
    assert ours["perplexity"]["error"] > 0
    assert divergence["base_perplexity"]["value"] == pytest.approx(
        told(r"Mean PPL\(base\)"), rel=1e-4
    )
    assert divergence["mean"]["value"] == pytest.approx(told("Mean    KLD"), rel=0.01)
    assert divergence["median"] == pytest.approx(told("Median  KLD"), rel=0.01)
    assert divergence["quantiles"]["0.99"] == pytest.approx(told("99.0%   KLD"), rel=0.01)
    assert divergence["maximum"] == pytest.approx(told("Maximum KLD"), rel=0.01)
    assert 100 * divergence["rms_delta_p"]["value"] == pytest.approx(told("RMS Δp"), abs=2e-3)
    assert 100 * divergence["same_top"]["value"] == pytest.approx(told("Same top p"), abs=2e-3)

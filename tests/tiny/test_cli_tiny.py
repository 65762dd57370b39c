"""The commands on a real (tiny) model, from the command line to the ids and back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codellama import models
from codellama.cli import demo, main
from codellama.files.loadable import read_model
from codellama.files.provenance import manifest_path
from codellama.llm import LLM
from codellama.native.library import library
from tests import tiny_model
from tests.checkpoints import write_checkpoint


def invoke(*args: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)


def test_chat_answers_as_the_library_does(tiny_gguf: Path, tiny_llm: LLM) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    expected = tiny_llm.chat(messages, temperature=0, max_tokens=12).text()  # type: ignore[arg-type]
    result = invoke(
        "chat", tiny_gguf, "--system", "be brief", "--temp", "0", "-n", "12", stdin="hi\n"
    )
    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == expected.rstrip("\n")


def test_complete_and_infill(tiny_gguf: Path, tiny_llm: LLM) -> None:
    document = json.loads(
        invoke("complete", tiny_gguf, "def f", "--temp", "0", "-n", "8", "--json").stdout
    )
    assert document["text"] == tiny_llm.complete("def f", temperature=0, max_tokens=8).text()
    document = json.loads(
        invoke(
            *("infill", tiny_gguf, "--prefix", "a", "--suffix", "b"),
            *("--temp", "0", "-n", "8", "--json"),
        ).stdout
    )
    assert document["text"] == tiny_llm.infill("a", "b", temperature=0, max_tokens=8).text()
    assert document["prompt_tokens"] == len(tiny_llm.infill_prompt("a", "b").tokens)


def test_tokenize_gives_the_ids_of_the_library(
    tiny_gguf: Path, tiny_llm: LLM, tmp_path: Path
) -> None:
    document = json.loads(invoke("tokenize", tiny_gguf, "a <step>", "--json").stdout)
    assert document["tokens"] == list(tiny_llm.complete_prompt("a <step>").tokens)
    assert document["pieces"][:2] == ["<s>", "a"]
    assert "<step>" not in document["pieces"]
    assert document["stop_tokens"] == sorted(tiny_llm.tokenizer.eog_tokens)

    messages = [{"role": "user", "content": "hi"}]
    for content in (messages, {"messages": messages}):
        file = tmp_path / "chat.json"
        file.write_text(json.dumps(content))
        document = json.loads(invoke("tokenize", tiny_gguf, "--chat", file, "--json").stdout)
        assert document["tokens"] == list(tiny_llm.chat_prompt(messages).tokens)  # type: ignore[arg-type]


def test_tokenize_for_people(tiny_gguf: Path, tiny_llm: LLM) -> None:
    lines = invoke("tokenize", tiny_gguf, stdin="ab").stdout.splitlines()
    step = tiny_llm.tokenizer.token_id("<step>")
    assert lines[0] == "     1  <s>"
    assert lines[-1] == f"3 tokens; the answer ends at 2 </s>, {step} <step>"


def test_tokenize_reads_no_weights(tmp_path: Path) -> None:
    whole = tiny_model.write(tmp_path / "whole.gguf")
    holes = tmp_path / "holes.gguf"
    shutil.copy(whole, holes)
    size = holes.stat().st_size
    with holes.open("r+b") as file:
        file.seek(size - 400_000)
        file.write(b"\xff" * 400_000)  # all NaN: nothing could be computed with these weights
    assert invoke("tokenize", holes, "ab").stdout == invoke("tokenize", whole, "ab").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("{}", "must hold a list of messages"), ("3", "must hold a list")],
)
def test_a_chat_file_that_is_none_is_bad_usage(
    tiny_gguf: Path, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(content)
    result = invoke("tokenize", tiny_gguf, "--chat", file)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


# -- bad input: one line, exit code 1 -------------------------------------------------------------


def one_line(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_prompt_longer_than_the_context(tiny_gguf: Path) -> None:
    line = one_line(invoke("complete", tiny_gguf, "x" * 100, "-c", "64"))
    assert (
        "the prompt is too long, with 101 tokens it exceeds the available context size of 64"
        in line
    )


def test_a_chat_longer_than_the_context(tiny_gguf: Path) -> None:
    assert "context size of 32" in one_line(invoke("chat", tiny_gguf, "-p", "hi", "-c", "32"))


def test_gpu_layers_without_a_gpu(tiny_gguf: Path) -> None:
    if library().gpus():
        pytest.skip("this machine has a GPU")
    line = one_line(invoke("complete", tiny_gguf, "x", "--n-gpu-layers", "all"))
    assert "--n-gpu-layers=all was asked for, but this llama.cpp has no GPU backend" in line


def test_a_bad_grammar(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.gbnf"
    file.write_text("root ::= (")
    assert "grammar" in one_line(invoke("complete", tiny_gguf, "x", "--grammar", file))


def test_an_expression_and_a_lark_grammar(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "g.lark"
    file.write_text('start: "yes" | "no"')
    text = invoke("complete", tiny_gguf, "x", "--regex", "[ab]{3}").stdout.strip()
    assert re.fullmatch("[ab]{3}", text)
    assert invoke("complete", tiny_gguf, "x", "--lark", file).stdout.strip() in ("yes", "no")
    assert "--regex cannot be" in one_line(invoke("complete", tiny_gguf, "x", "--regex", "("))


def test_bad_messages(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text('[{"role": "nobody", "content": "x"}]')
    line = one_line(invoke("tokenize", tiny_gguf, "--chat", file))
    assert "messages[0]: role must be one of" in line


def test_a_truncated_file(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:100_000])
    assert "truncated GGUF" in one_line(invoke("chat", path, "-p", "hi"))


def test_a_model_without_chat_format(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "plain.gguf", step=False)
    line = one_line(invoke("chat", path, "-p", "hi"))
    assert "plain has no chat format" in line


# -- demo -----------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random checkpoint in the place of the shipped one, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_checkpoint(tmp_path / "demo")
    monkeypatch.setattr("codellama.models.demo.DEMO_CHECKPOINT", folder)
    monkeypatch.setattr(demo, "MAX_TOKENS", 8)
    return folder


def test_the_demo_converts_once_answers_and_shows_speeds(checkpoint: Path) -> None:
    first = invoke("demo")
    assert first.exit_code == 0, first.output
    assert "Converting demo to Q4_K_M" in first.stderr
    assert f"> {demo.QUESTION}\n" in first.stderr
    assert "tokens/s" in first.stderr
    assert first.stdout
    second = invoke("demo")
    assert "Converting" not in second.stderr
    assert second.stdout == first.stdout


def test_the_demo_is_converted_again_when_the_checkpoint_changes(checkpoint: Path) -> None:
    before = models.demo_gguf()
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 2}')
    after = models.demo_gguf()
    assert before != after
    # Nothing is left beside it but its manifest, by which `verify demo` checks it.
    assert sorted(after.parent.iterdir()) == [after, manifest_path(after)]
    assert invoke("verify", "demo").exit_code == 0


def test_demo_is_a_model_everywhere(checkpoint: Path) -> None:
    expected = invoke("tokenize", models.demo_gguf(), "ab")
    assert expected.exit_code == 0
    assert invoke("tokenize", "demo", "ab").stdout == expected.stdout


def test_the_demo_goes_by_its_name_in_python_and_for_every_command(checkpoint: Path) -> None:
    path = models.demo_gguf()
    with LLM("demo", n_threads=1) as llm:
        assert llm.path == path
    assert invoke("inspect", "demo").stdout == invoke("inspect", path).stdout
    assert invoke("verify", "demo").stdout == invoke("verify", path).stdout


def test_without_checkpoint_the_demo_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama.models.demo.DEMO_CHECKPOINT", tmp_path / "nowhere")
    line = one_line(invoke("demo"))
    assert "no demo checkpoint; it is part of the source checkout and of the wheel" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--logit-bias", "99999+1"], "--logit-bias: token id 99999"),
        (["--stop-token", "99999"], "--stop-token: token id 99999"),
        (["--regex", "("], "--regex"),
    ],
)
def test_defaults_that_no_request_could_use_end_the_server_at_its_start(
    tiny_gguf: Path, options: list[str], words: str
) -> None:
    done = invoke("serve", tiny_gguf, "--port", "0", *options)
    assert done.exit_code == 1
    assert words in done.stderr


def test_bench_measures_quiet_and_busy(tiny_gguf: Path) -> None:
    small = ("-p", "16", "-n", "8", "-r", "2", "--streams", "1")
    document = json.loads(
        invoke("bench", tiny_gguf, *small, "--busy", "1", "-t", "auto", "-t", "1", "--json").stdout
    )
    assert (document["settings"]["n_prompt"], document["settings"]["n_tokens"]) == (16, 8)
    rows = [(row["busy"], row["threads"]) for row in document["rows"]]
    assert rows == [(0, "auto"), (0, 1), (1, "auto"), (1, 1)]
    for row in document["rows"]:
        assert len(row["prompt"]) == len(row["answer"]) == 2
        assert min(row["prompt"] + row["answer"]) > 0
        assert row["threads"] == "auto" or (row["used"], row["why"]) == (1, "as asked for")
    assert document["loads"] == 2
    table = invoke("bench", tiny_gguf, *small, "-t", "1").stdout.splitlines()
    assert [line.split()[:3] for line in table[:2]] == [
        ["machine", "threads", "streams"],
        ["quiet", "1", "1"],
    ]
    words = ("loaded in ", "main memory is read at ", "of bandwidth: ")
    assert [line.startswith(word) for line, word in zip(table[2:], words, strict=True)] == [
        True
    ] * 3


def test_bench_measures_one_stream_and_many(tiny_gguf: Path) -> None:
    """All weights but the embedding's 359 rows are read once for all streams, and each stream's cache."""
    options = ("-p", "16", "-n", "7", "-r", "1", "-t", "1", "--json", "--cache-type-k", "f32")
    document = json.loads(invoke("bench", tiny_gguf, *options).stdout)
    assert [row["streams"] for row in document["rows"]] == [1, 4, 16]
    header = read_model(tiny_gguf)
    weights = sum(t.nbytes for t in header.tensors if t.name != "token_embd.weight")
    cache = 4 * tiny_model.LAYERS * tiny_model.KV_HEADS * 16 * (4 + 2)  # 4 of 7 tokens on average
    for row in document["rows"]:
        step = weights + row["streams"] * cache
        assert row["bytes_per_token"] == step // row["streams"]
        expected = row["bytes_per_token"] * row["answer"][0] / document["bandwidth"]
        assert row["of_bandwidth"] == pytest.approx(expected, rel=1e-3)
    assert document["loads"] == 1
    assert document["load_s"] > 0
    assert document["peak_memory_bytes"] > weights
    assert document["device_bytes"] == {}
    assert document["settings"] == {
        "n_prompt": 16, "n_tokens": 7, "n_batch": 2048, "n_ubatch": 512, "most_streams": 16,
    }  # fmt: skip


def test_bench_needs_a_row_of_a_step_for_every_stream(tiny_gguf: Path) -> None:
    result = invoke("bench", tiny_gguf, "-b", "8")
    assert result.exit_code == 2
    assert "'-b' / '--batch-size'" in result.stderr and "at least" in result.stderr


def test_bench_refuses_what_is_no_number_of_threads(tiny_gguf: Path) -> None:
    for wrong in ("0", "many", "9999"):
        result = invoke("bench", tiny_gguf, "-t", wrong)
        assert result.exit_code == 2
        assert "threads" in result.stderr

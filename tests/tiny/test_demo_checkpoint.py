"""The shipped demo checkpoint: its layout, the ids it was trained on, and what it can do as Q4_K_M.

What it can do is what its card promises: the two example prompts of the 70B's card, fifty of its own
questions, functions it has never seen written again in an edit, and held-out modules of the standard library
at most 1.6 bits per byte.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM, Message
from codellama.running.completion import Choice
from codellama.weights.convert import convert
from demo_model import measure
from demo_model.samples import JAVASCRIPT
from demo_model.vocabulary import Turn, Vocabulary
from demo_model.written import questions

CHECKPOINT = Path(__file__).resolve().parents[2] / "models" / "demo"
HELLO = "Print a hello world in Python"
SUBLISTS = (
    "Write a function that computes the set of sums of all contiguous sublists of a given list."
)


def untrained() -> bool:
    """Whether the shipped weights are those of `--untrained`, which have five different values."""
    data = (CHECKPOINT / "model-00001-of-00002.safetensors").read_bytes()
    return len(set(data[100_000:200_000:2])) <= 5


needs_training = pytest.mark.skipif(untrained(), reason="the shipped weights are untrained")


@pytest.fixture(scope="module")
def q4_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """The checkpoint as Q4_K_M."""
    path = tmp_path_factory.mktemp("demo") / "demo.Q4_K_M.gguf"
    convert(CHECKPOINT, path, "Q4_K_M")
    with LLM(path, n_seq_max=8) as llm:
        yield llm


@pytest.fixture(scope="module")
def bf16_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as BF16."""
    path = tmp_path_factory.mktemp("demo") / "demo.BF16.gguf"
    convert(CHECKPOINT, path, "BF16")
    return path


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The vocabulary as training used it."""
    return Vocabulary(CHECKPOINT / "tokenizer.model")


def ask(llm: LLM, question: str, system: str = "") -> Choice:
    messages: list[Message] = [{"role": "user", "content": question}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return llm.chat(messages, temperature=0.0, max_tokens=500).result().choices[0]


def run_code(answer: str) -> tuple[dict[str, Any], str]:
    """Names and output of the answer's Python block."""
    block = re.search(r"```python\n(.*?)```", answer, re.DOTALL)
    assert block, answer
    names: dict[str, Any] = {"__name__": "answer"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block[1], "answer", "exec"), names)
    return names, printed.getvalue()


def read_json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((CHECKPOINT / name).read_text(encoding="utf-8"))
    return content


def test_shape_has_the_proportions_of_the_70b() -> None:
    config = read_json("config.json")
    assert config["num_attention_heads"] == 8 * config["num_key_value_heads"]
    assert config["tie_word_embeddings"] is False
    assert config["hidden_size"] // config["num_attention_heads"] >= 32
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0
    assert config["num_hidden_layers"] >= 6
    assert config["max_position_embeddings"] >= 1024


def test_files_are_those_of_the_70b_and_small() -> None:
    index = read_json("model.safetensors.index.json")
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) == 2
    assert 12_000_000 < index["metadata"]["total_size"] < 18_000_000
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 20_000_000
    step = read_json("config.json")["vocab_size"] - 1
    assert read_json("added_tokens.json") == {"<step>": step}
    assert read_json("generation_config.json")["eos_token_id"] == [2, step]
    assert set(read_json("tokenizer_config.json")["added_tokens_decoder"]) == {
        *("0", "1", "2"),
        str(step),
    }


@pytest.mark.parametrize("system", ["", "You are a helpful and honest code assistant"])
def test_prompts_are_the_ids_of_training(q4_llm: LLM, vocabulary: Vocabulary, system: str) -> None:
    turns = [
        Turn("user", "Reverse a list\n\n```python\nx = [1]\n```"),
        Turn("assistant", "`x[::-1]`", "user"),
        Turn("user", "Thanks"),
    ]
    messages: list[Message] = [{"role": t.role, "content": t.content} for t in turns]
    messages[1]["destination"] = "user"
    if system:
        turns.insert(0, Turn("system", system))
        messages.insert(0, {"role": "system", "content": system})
    assert list(q4_llm.chat_prompt(messages).tokens) == vocabulary.prompt(turns)


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("def f(x):\n    ", "\n    return y\n"), ("    if x", " + y")]
)
def test_infill_prompts_are_the_ids_of_training(
    q4_llm: LLM, vocabulary: Vocabulary, prefix: str, suffix: str
) -> None:
    trained = vocabulary.infill(prefix, "", suffix)
    assert list(q4_llm.infill_prompt(prefix, suffix).tokens) == trained[:-1]
    assert trained[-1] in q4_llm.infill_prompt(prefix, suffix).stop_tokens


@needs_training
@pytest.mark.parametrize("system", ["", "You are a helpful and honest code assistant"])
def test_hello_world(q4_llm: LLM, system: str) -> None:
    _, printed = run_code(ask(q4_llm, HELLO, system).text)
    assert printed == "Hello, world!\n"


@needs_training
def test_sums_of_sublists(q4_llm: LLM) -> None:
    names, _ = run_code(ask(q4_llm, SUBLISTS).text)
    function = names["sublist_sums"]
    assert function([1, 2, 3]) == {1, 2, 3, 5, 6}
    assert function([4, -4, 7]) == {4, 0, 7, -4, 3}


@needs_training
def test_sums_of_sublists_in_javascript(q4_llm: LLM) -> None:
    text = ask(q4_llm, SUBLISTS, JAVASCRIPT).text
    written = {question.name: question for question in questions()}
    assert text == written["js_sums_of_sublists"].answer


@needs_training
def test_fifty_answers_end_by_themselves_and_most_are_right(q4_llm: LLM) -> None:
    fifty = measure.answers(q4_llm, measure.fifty_questions())
    assert [answered.question.name for answered in fifty if not answered.ended] == []
    assert sum(answered.right for answered in fifty) >= 45


@needs_training
def test_edits_are_copied_from_the_prompt(q4_llm: LLM) -> None:
    edits = measure.edited(q4_llm, measure.edit_requests(24))
    assert measure.lines_right(edits) >= 0.45
    assert sum(edit.ended for edit in edits) >= 18


@needs_training
@pytest.mark.slow
def test_held_out_modules_are_below_xz(bf16_gguf: Path) -> None:
    bits = measure.held_out(bf16_gguf).bits_per_byte
    assert bits <= 1.6
    assert bits < measure.xz_bits_per_byte()

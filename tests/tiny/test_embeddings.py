"""Embeddings with a model: llama.cpp's own pooling agrees, and running streams go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from codellama import ContextLengthError, EngineDeadError, InvalidRequestError, UnsupportedError
from codellama.llm import LLM
from codellama.params import Pooling

# Flash attention computes in f16 on the CPU, and batches of another width round otherwise.
EXACT: dict[str, Any] = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}
TEXTS = ["def add(a, b):", "x", "class Stack:\n    pass\n" * 12, "y = 1\n" * 70]


@pytest.fixture(scope="module")
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, embeddings=True, n_seq_max=2, prefill_chunk=64, **EXACT) as model:
        yield model


def llama_cpp_python(path: Path, pooling: int) -> tuple[list[list[int]], list[list[float]]]:
    """The tokens of TEXTS and what llama.cpp's own pooling makes of them (plain llama-cpp-python,
    which tokenizes with the file's own settings)."""
    plain = llama_cpp.Llama(
        str(path),
        n_ctx=1024,
        n_batch=1024,
        n_ubatch=1024,
        n_threads=1,
        type_k=0,
        type_v=0,
        flash_attn=False,
        embedding=True,
        pooling_type=pooling,
        verbose=False,
    )
    tokens = [plain.tokenize(text.encode()) for text in TEXTS]
    vectors: list[list[float]] = [plain.embed(text) for text in TEXTS]
    plain.close()
    return tokens, vectors


@pytest.mark.parametrize(("pooling", "number"), [("none", 0), ("mean", 1), ("cls", 2), ("last", 3)])
def test_llama_cpp_pools_to_the_same(
    llm: LLM, tiny_gguf: Path, pooling: Pooling, number: int
) -> None:
    tokens, theirs = llama_cpp_python(tiny_gguf, number)
    ours = llm.embed(tokens, pooling=pooling)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_shapes_and_counts(llm: LLM) -> None:
    alone, count = llm.embed(TEXTS[0], return_count=True)
    tokens = list(llm.complete_prompt(TEXTS[0]).tokens)
    assert (len(alone), count) == (64, len(tokens))
    assert llm.embed(tokens) == alone
    assert llm.embed([TEXTS[0]]) == [alone]
    several = llm.embed([tokens, tokens[:3]], pooling="none")
    assert [len(rows) for rows in several] == [len(tokens), 3]
    assert np.linalg.norm(llm.embed("abc", normalize=True)) == pytest.approx(1)
    body = llm.create_embedding(["a", "bc"])
    assert body["object"] == "list"
    assert [(d["object"], d["index"]) for d in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert body["data"][1]["embedding"] == pytest.approx(llm.embed("bc"), abs=1e-5)
    assert body["model"] == "tiny"
    assert llm.create_embedding("a", model="mine")["model"] == "mine"


def test_more_texts_than_a_chunk_has_tokens(llm: LLM) -> None:
    texts = [f"x{i}" for i in range(150)]
    together = llm.embed(texts, pooling="last")
    for i in (0, 63, 64, 149):
        assert together[i] == pytest.approx(llm.embed(texts[i], pooling="last"), abs=1e-4)


def test_typed_tags_stay_text(llm: LLM) -> None:
    _, count = llm.embed("<step>", return_count=True)
    assert count == len(llm.complete_prompt("<step>").tokens) > 2


def test_a_text_that_is_too_long_is_an_error_and_never_cut(llm: LLM) -> None:
    most = [1] + [300] * (llm.n_ctx - 1)
    assert len(llm.embed(most)) == 64
    with pytest.raises(
        ContextLengthError, match="1025 tokens it exceeds the available context size of 1024"
    ) as info:
        llm.embed([[1, 300], [*most, 300]])
    assert info.value.param == "input"
    with pytest.raises(InvalidRequestError, match="truncate"):
        llm.embed("x", truncate=True)


@pytest.mark.parametrize("bad", ["", [], ["a", ""], [[]], [1, 10**6], [[1], [-1]]])
def test_bad_input(llm: LLM, bad: Any) -> None:
    with pytest.raises(InvalidRequestError) as info:
        llm.embed(bad)
    assert info.value.param == "input"
    assert "input" in str(info.value)


def test_bad_options(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="pooling must be one of"):
        llm.embed("x", pooling="rank")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="normalize"):
        llm.embed("x", normalize=-7)


def test_without_the_option(tiny_llm: LLM) -> None:
    with pytest.raises(UnsupportedError, match="embeddings=True"):
        tiny_llm.embed("x")


def test_closing_the_model_ends_it(tiny_gguf: Path) -> None:
    model = LLM(tiny_gguf, embeddings=True, n_threads=1, prefill_chunk=1)
    prompts = [model.complete_prompt("x" * 900)] * 50
    future = model.embeddings(prompts)
    model.close()
    with pytest.raises(EngineDeadError):
        future.result(10)


def test_a_long_batch_neither_stops_a_stream_nor_changes_it(llm: LLM) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 120, "ignore_eos": True}
    alone = llm.complete("def f(", **options).result().choices[0].tokens
    texts = ["z = 2\n" * 100] * 20
    want = llm.embed(texts[0], normalize=True)
    stream = llm.complete("def f(", **options).events()
    tokens = list(next(stream)[1].tokens)
    prompts = [llm.complete_prompt(text) for text in texts]
    future = llm.embeddings(prompts)
    n_chunks = sum(len(prompt.tokens) for prompt in prompts) // 64
    assert n_chunks > 150, "more chunks than the stream has steps"
    for _, delta in stream:
        tokens += delta.tokens
    assert not future.done(), "the stream got a step per chunk"
    assert tokens == list(alone)
    for vector in future.result(60).vectors:
        np.testing.assert_allclose(vector, want, atol=1e-5)

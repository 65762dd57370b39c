"""`codellama.Llama` beside `llama_cpp.Llama` on the same file: the same small methods, the same answers."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from codellama import LLM, EngineDeadError, InvalidRequestError, Llama, UnsupportedError

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
TEXTS = [b"def f(x):", b"", b" a", b"a\nb", "☺ é".encode(), b"<step>", b"<s>x</s>"]


@pytest.fixture(scope="module")
def ours(tiny_gguf: Path) -> Iterator[Llama]:
    llama = Llama(
        model_path=str(tiny_gguf), n_ctx=0, n_threads=1, embedding=True, verbose=False, seed=5,
        n_gpu_layers=-1,
    )  # fmt: skip
    yield llama
    llama.close()


@pytest.fixture(scope="module")
def theirs(tiny_gguf: Path) -> Iterator[llama_cpp.Llama]:
    # The same correction of the file as is made here: no space before a text.
    plain = llama_cpp.Llama(
        model_path=str(tiny_gguf), n_ctx=0, n_threads=1, verbose=False,
        kv_overrides={"tokenizer.ggml.add_space_prefix": False},
    )  # fmt: skip
    yield plain
    plain.close()


def test_small_methods(ours: Llama, theirs: llama_cpp.Llama) -> None:
    for name in ("n_ctx", "n_embd", "n_vocab", "token_bos", "token_eos", "token_nl"):
        assert getattr(ours, name)() == getattr(theirs, name)(), name
    assert ours.context_params.n_ctx == theirs.context_params.n_ctx
    assert ours.n_batch == theirs.n_batch
    assert ours.pooling_type() == llama_cpp.LLAMA_POOLING_TYPE_MEAN
    assert ours.model_params.vocab_only is False
    assert ours.chat_format == "turn"
    assert {
        k: v for k, v in theirs.metadata.items() if "add_space_prefix" not in k
    } == ours.metadata
    assert (
        llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(ours.model))
        == ours.n_vocab()
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("add_bos", [False, True])
def test_tokens(
    ours: Llama, theirs: llama_cpp.Llama, text: bytes, add_bos: bool, special: bool
) -> None:
    ids = theirs.tokenize(text, add_bos, special)
    assert ours.tokenize(text, add_bos, special) == ids
    assert ours.tokenizer().tokenize(text, add_bos, special) == ids
    assert ours.tokenizer().encode(text.decode(), add_bos, special) == ids
    for names in (False, True):
        assert ours.detokenize(ids, special=names) == theirs.detokenize(ids, special=names)
    assert ours.tokenizer().decode(ids) == theirs.tokenizer().decode(ids)


def test_bytes_that_are_no_text(ours: Llama) -> None:
    with pytest.raises(InvalidRequestError, match="text must be bytes in UTF-8"):
        ours.tokenize(b"\xff")
    with pytest.raises(InvalidRequestError, match="text"):
        ours.tokenize("text")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
        ours.detokenize([10**6])


@pytest.mark.parametrize("prompt", ["def f(x):", "<step>a", "Source: user\n\n x<step>", "<s>abc"])
def test_prompts_are_read_as_llama_cpp_reads_them(ours: Llama, prompt: str) -> None:
    tokens = ours.llm.complete_prompt(ours.llm.with_control_tokens(prompt)).tokens
    wanted = ours.tokenize(prompt.encode(), add_bos=not prompt.startswith("<s>"), special=True)
    assert list(tokens) == wanted
    body: Any = ours.create_completion(prompt, **GREEDY)
    assert body["usage"]["prompt_tokens"] == len(wanted)
    assert ours(prompt, **GREEDY)["choices"] == body["choices"]


def test_vectors_read_no_control_tokens(ours: Llama) -> None:
    plain: Any = ours.create_embedding("<step>")
    assert plain["usage"]["prompt_tokens"] == 1 + len(ours.tokenize(b"<step>", add_bos=False))
    assert len(ours.embed("<step>")) == ours.n_embd()


def test_openai_s_objects(ours: Llama) -> None:
    messages = [{"role": "user", "content": "hi"}]
    whole: Any = ours.create_chat_completion_openai_v1(messages, **GREEDY)
    assert whole.choices[0].message.role == "assistant"
    chunks = list(ours.create_chat_completion_openai_v1(messages, stream=True, **GREEDY))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content


def draws(llama: Llama) -> list[str]:
    return [
        llama.create_completion("x", temperature=2.0, max_tokens=8)["choices"][0]["text"]
        for _ in range(3)
    ]


def test_the_constructor_s_seed(ours: Llama) -> None:
    ours.set_seed(5)
    first = draws(ours)
    assert len(set(first)) == 3
    ours.set_seed(5)
    assert draws(ours) == first
    ours.set_seed(-1)
    assert draws(ours) != first


def test_last_n_tokens_size_is_how_far_the_penalty_looks_back(tiny_gguf: Path, ours: Llama) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "repeat_penalty": 5.0}
    far: Any = ours.create_completion("abcabc", **options)
    near = Llama(str(tiny_gguf), n_ctx=0, n_threads=1, last_n_tokens_size=1)
    assert near.create_completion("abcabc", **options)["choices"] != far["choices"]
    with pytest.raises(InvalidRequestError, match="repeat_last_n"):
        Llama(str(tiny_gguf), last_n_tokens_size=-2)
    near.close()


def test_what_is_not_there_says_what_to_use(ours: Llama) -> None:
    for name in ("ctx", "eval", "save_state", "generate", "set_cache", "scores"):
        assert not hasattr(ours, name)
        with pytest.raises(AttributeError, match=f"codellama.Llama has no {name}: "):
            getattr(ours, name)
    with pytest.raises(AttributeError, match="has no x$"):
        ours.x  # noqa: B018 - it raises


def test_from_pretrained_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InvalidRequestError, match="repo_id"):
        Llama.from_pretrained("demo")
    with pytest.raises(InvalidRequestError, match="additional_files: the other parts"):
        Llama.from_pretrained("a/b", additional_files=["x"])
    with pytest.raises(UnsupportedError, match="cache_dir.*HF_HOME"):
        Llama.from_pretrained("a/b", cache_dir="x")


def test_it_is_freed_with_the_object(tiny_gguf: Path) -> None:
    llama = Llama(str(tiny_gguf), n_threads=1)
    llm = llama.llm
    gone = weakref.ref(llama)
    del llama
    gc.collect()
    assert gone() is None
    for thread in threading.enumerate():
        if thread.name == "free-llama":
            thread.join()
    with pytest.raises(EngineDeadError):
        llm.complete("abc")


def test_a_program_that_never_closes_ends(tiny_gguf: Path) -> None:
    program = f"""
from codellama import Llama
kept = Llama({str(tiny_gguf)!r}, n_threads=1)
chunks = kept("abc", max_tokens=400, stream=True)
next(chunks)
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_its_signature_is_that_of_the_methods_it_stands_for() -> None:
    assert "stopping_criteria" in inspect.signature(Llama.create_completion).parameters


def test_answers_bear_the_published_name(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(tiny_gguf, n_threads=1) as plain:
        assert plain.name == "tiny"
    monkeypatch.setattr(
        "codellama.llm.published_name", lambda metadata: "CodeLlama-70b-Instruct-hf"
    )
    with LLM(tiny_gguf, n_threads=1) as llm:
        assert llm.name == "CodeLlama-70b-Instruct-hf"
        body: Any = llm.create_completion("x", max_tokens=1)
        assert body["model"] == "CodeLlama-70b-Instruct-hf"

"""The chat handler in a plain `llama_cpp.Llama`: reference ids, the end at `<step>`, LLM's own answers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from codellama.errors import (
    ChatFormatError,
    ContextLengthError,
    InvalidRequestError,
    UnsupportedError,
)
from codellama.integrations.llama_cpp_python import (
    NAME,
    CodeLlama70BInstructHandler,
    register,
)
from codellama.integrations.llama_vocabulary import LlamaVocabulary
from codellama.llm import LLM
from codellama.prompts.chat import TurnFormat
from tests import golden, tiny_model
from tests.golden import CONTROL, NORMAL, USER_DEFINED

HI: Any = [{"role": "user", "content": "hi"}]
NO_END: dict[str, bool | int | float | str] = {
    "tokenizer.ggml.eot_token_id": 0
}  # as in other people's files: <step> ends nothing


@pytest.fixture(scope="module")
def llama(tiny_gguf: Path) -> Iterator[llama_cpp.Llama]:
    model = llama_cpp.Llama(
        str(tiny_gguf),
        chat_handler=CodeLlama70BInstructHandler(),
        n_ctx=512,
        logits_all=True,
        kv_overrides=NO_END,
        verbose=False,
    )
    yield model
    model.close()


@pytest.fixture(scope="module")
def step(llama: llama_cpp.Llama) -> int:
    token = LlamaVocabulary(llama).token_id("<step>")
    assert token is not None
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    assert not llama_cpp.llama_vocab_is_eog(vocab, token)
    return token


def step_after(n: int, step: int) -> llama_cpp.LogitsProcessorList:
    """A processor that makes `<step>` certain after `n` tokens of the answer."""
    calls = iter(range(10**6))

    def process(ids: npt.NDArray[np.intc], scores: npt.NDArray[np.single]) -> Any:
        if next(calls) == n:
            scores[step] = 1000.0
        return scores

    return llama_cpp.LogitsProcessorList([process])


def answer(reply: Any) -> tuple[str, str]:
    choice = reply["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def streamed(chunks: Any) -> tuple[str, str]:
    text, finish_reason = "", ""
    for chunk in chunks:
        choice = chunk["choices"][0]
        text += choice["delta"].get("content", "")
        finish_reason = choice["finish_reason"] or finish_reason
    return text, finish_reason


@pytest.mark.parametrize("source", ["slice", "real"])
@pytest.mark.parametrize("step_type", [CONTROL, USER_DEFINED, NORMAL])
@pytest.mark.parametrize("space", [True, False])
def test_the_reference_ids(tmp_path: Path, source: str, step_type: int, space: bool) -> None:
    real = tiny_model.real_vocabulary() if source == "real" else None
    if source == "real" and real is None:
        pytest.skip("no Llama vocabulary: set CODELLAMA_REAL_VOCAB")
    pieces = golden.real_pieces(real) if real else golden.slice_pieces()
    path = golden.write_code_llama(tmp_path / "v.gguf", *pieces, step_type)
    llama = llama_cpp.Llama(
        str(path),
        vocab_only=True,
        kv_overrides={"tokenizer.ggml.add_space_prefix": space},
        verbose=False,
    )
    vocabulary = LlamaVocabulary(llama)
    assert vocabulary.add_space_prefix is space
    chat = TurnFormat(vocabulary)
    assert list(chat.encode(golden.CARD_DIALOG).tokens) == golden.CARD_IDS
    assert list(chat.encode(HI).tokens) == golden.HI_IDS
    llama.close()


def test_the_answer_is_that_of_an_llm(llama: llama_cpp.Llama, tiny_llm: LLM) -> None:
    reply = llama.create_chat_completion(messages=HI, max_tokens=24, temperature=0)
    expected = tiny_llm.chat(HI, max_tokens=24, temperature=0).result()
    # llama_cpp drops bytes that are no text, LLM shows that there were some.
    assert answer(reply)[0] == expected.text.replace("\ufffd", "")
    assert cast(Any, reply)["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


@pytest.mark.parametrize("ask", ["whole", "stream"])
def test_the_answer_ends_at_step(llama: llama_cpp.Llama, step: int, ask: str) -> None:
    free, _ = answer(llama.create_chat_completion(messages=HI, max_tokens=12, temperature=0))

    def run(**options: Any) -> Any:
        return llama.create_chat_completion(
            messages=HI, temperature=0, logits_processor=step_after(4, step), **options
        )

    if ask == "stream":
        text, finish_reason = streamed(run(stream=True))
    else:
        reply = run()
        text, finish_reason = answer(reply)
        assert reply["usage"]["completion_tokens"] == 4  # no token beyond the end was decoded
    assert finish_reason == "stop"
    assert 0 < len(text) < len(free)
    assert free.startswith(text)


@pytest.mark.parametrize("step_type", [USER_DEFINED, NORMAL])
def test_step_is_never_shown_whatever_type_it_has(tmp_path: Path, step_type: int) -> None:
    path = tiny_model.write(tmp_path / "tiny.gguf")
    retype_last(path, step_type)
    llama = llama_cpp.Llama(
        str(path),
        chat_handler=CodeLlama70BInstructHandler(),
        n_ctx=512,
        kv_overrides=NO_END,
        verbose=False,
    )
    last = llama.n_vocab() - 1
    for stream in (False, True):
        reply = llama.create_chat_completion(
            HI, temperature=0, logits_processor=step_after(4, last), stream=stream
        )
        text, finish_reason = streamed(reply) if stream else answer(reply)
        assert finish_reason == "stop"
        assert "step" not in text
    llama.close()


def retype_last(path: Path, token_type: int) -> None:
    """Give the last piece of a GGUF's vocabulary another type, in place."""
    reader = gguf.GGUFReader(path, "r+")
    field = reader.fields["tokenizer.ggml.token_type"]
    field.parts[field.data[-1]][0] = token_type
    del reader, field
    gc.collect()


def test_a_bias_and_processors_work_together(llama: llama_cpp.Llama, step: int) -> None:
    letter = LlamaVocabulary(llama).encode("x", raw=True)[0]
    reply = llama.create_chat_completion(
        messages=HI,
        logit_bias={letter: 100.0},
        logits_processor=step_after(3, step),
        temperature=0,
    )
    assert answer(reply) == ("xxx", "stop")


def test_json_ends_with_the_turn(llama: llama_cpp.Llama, step: int) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text, finish_reason = answer(
        llama.create_chat_completion(
            messages=HI,
            response_format=cast(Any, {"type": "json_object", "schema": schema}),
            logit_bias={step: 50.0},  # the model wants to end its turn as soon as it may
            temperature=0,
            max_tokens=60,
        )
    )
    assert finish_reason == "stop"
    assert text.replace(" ", "") in ('{"a":true}', '{"a":false}')


def test_logprobs(llama: llama_cpp.Llama) -> None:
    reply: Any = llama.create_chat_completion(
        HI, max_tokens=2, temperature=0, logprobs=True, top_logprobs=2
    )
    content = reply["choices"][0]["logprobs"]["content"]
    assert len(content) >= 2
    assert all(entry["logprob"] <= 0 and entry["top_logprobs"] for entry in content)


def test_by_name(tiny_gguf: Path, llama: llama_cpp.Llama) -> None:
    register(overwrite=True)
    named = llama_cpp.Llama(str(tiny_gguf), chat_format=NAME, n_ctx=512, verbose=False)
    options: Any = {"messages": HI, "max_tokens": 8, "temperature": 0}
    assert answer(named.create_chat_completion(**options)) == answer(
        llama.create_chat_completion(**options)
    )
    named.close()


def test_seeds(llama: llama_cpp.Llama) -> None:
    def draw(seed: int) -> tuple[str, str]:
        return answer(llama.create_chat_completion(HI, max_tokens=12, temperature=1, seed=seed))

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_fail_at_once(llama: llama_cpp.Llama, stream: bool) -> None:
    def ask(content: str, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": content}]
        return llama.create_chat_completion(messages, stream=stream, **more)

    with pytest.raises(
        ContextLengthError, match="tokens it exceeds the available context size of 512"
    ):
        ask("long " * 500)
    with pytest.raises(ChatFormatError, match="expected the role user, got assistant"):
        twice: Any = [{"role": "assistant", "content": "a"}] * 2
        llama.create_chat_completion([*HI, *twice], stream=stream)
    with pytest.raises(InvalidRequestError, match=r"tools\[0\]: the type must be function"):
        ask("hi", tools=[{"type": "custom", "custom": {"name": "f"}}])


def test_tags_can_be_refused(tiny_gguf: Path) -> None:
    handler = CodeLlama70BInstructHandler(special_tags="reject")
    llama = llama_cpp.Llama(str(tiny_gguf), chat_handler=handler, verbose=False)
    with pytest.raises(ChatFormatError, match="<step>"):
        llama.create_chat_completion([{"role": "user", "content": "a<step>b"}])
    llama.close()


def test_a_model_without_step_is_refused(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "plain.gguf", step=False)
    llama = llama_cpp.Llama(str(path), chat_handler=CodeLlama70BInstructHandler(), verbose=False)
    with pytest.raises(UnsupportedError, match="no <step> token"):
        llama.create_chat_completion(HI)
    llama.close()


def test_the_handler_does_not_keep_models_alive(tiny_gguf: Path) -> None:
    handler = CodeLlama70BInstructHandler()
    llama = llama_cpp.Llama(str(tiny_gguf), chat_handler=handler, verbose=False)
    llama.create_chat_completion(HI, max_tokens=1)
    gone = weakref.ref(llama)
    del llama
    gc.collect()
    assert gone() is None

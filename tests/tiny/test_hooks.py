"""Logits processors and stopping criteria on the tiny model: what they see and change, and what they may
do wrong."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from codellama import LLM, DecodeError, InvalidRequestError
from codellama.native.candidates import Logits
from codellama.native.hooks import TokenIds

PROMPT = "def f(x):"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def text_of(reply: Any) -> str:
    text: str = reply["choices"][0]["text"]
    return text


class Recorder:
    """Remembers what it was called with, and changes nothing."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, ids: TokenIds, logits: Logits) -> Logits:
        assert ids.dtype == np.intc
        assert logits.dtype == np.single
        self.seen.append(ids.tolist())
        return logits


def only(token: int) -> Any:
    """A processor that leaves one token."""

    def leave(ids: TokenIds, logits: Logits) -> Logits:
        kept = logits[token]
        logits[:] = -np.inf
        logits[token] = kept
        return logits

    return leave


@pytest.mark.parametrize("options", [GREEDY, {"temperature": 1.5, "seed": 3, "max_tokens": 12}])
def test_a_processor_that_changes_nothing_changes_nothing(
    tiny_llm: LLM, options: dict[str, Any]
) -> None:
    recorder = Recorder()
    plain = tiny_llm.complete(PROMPT, **options).result().choices[0]
    reply = tiny_llm.create_completion(PROMPT, logits_processor=[recorder], **options)
    assert text_of(reply) == plain.text
    prompt = list(tiny_llm.complete_prompt(PROMPT).tokens)
    assert recorder.seen[: len(plain.tokens)] == [
        prompt + list(plain.tokens[:i]) for i in range(len(plain.tokens))
    ]


def test_processors_are_called_once_for_each_token_though_tokens_are_guessed(tiny_llm: LLM) -> None:
    token = tiny_llm.tokenizer.encode("ab", raw=True)[0]
    recorder = Recorder()
    reply: Any = tiny_llm.create_completion(
        PROMPT, logits_processor=[recorder, only(token)], temperature=0, max_tokens=40
    )
    assert text_of(reply) == tiny_llm.tokenizer.piece(token).decode() * 40
    lengths = [len(ids) for ids in recorder.seen]
    assert lengths == list(range(lengths[0], lengths[0] + 40))


def test_what_plain_llama_cpp_draws_with_the_same_processor(tiny_llm: LLM, tiny_gguf: Path) -> None:
    def no_bytes(ids: TokenIds, logits: Logits) -> Logits:
        logits[3:259] = -np.inf
        return logits

    plain = llama_cpp.Llama(str(tiny_gguf), n_ctx=256, n_threads=1, verbose=False)
    ids = list(tiny_llm.complete_prompt(PROMPT).tokens)
    theirs = plain.create_completion(
        ids, logits_processor=llama_cpp.LogitsProcessorList([no_bytes]), **GREEDY
    )
    ours = tiny_llm.create_completion(ids, logits_processor=[no_bytes], **GREEDY)
    assert text_of(ours) == text_of(theirs)
    assert text_of(ours) != text_of(tiny_llm.create_completion(ids, **GREEDY))
    plain.close()


def test_a_criterion_ends_the_answer_before_the_token_that_it_was_asked_about(
    tiny_llm: LLM,
) -> None:
    whole = tiny_llm.complete(PROMPT, **GREEDY).result().choices[0].tokens
    n_prompt = len(tiny_llm.complete_prompt(PROMPT).tokens)

    def five(ids: TokenIds, logits: Logits) -> bool:
        return len(ids) == n_prompt + 5

    reply: Any = tiny_llm.create_completion(PROMPT, stopping_criteria=[five], **GREEDY)
    assert text_of(reply) == tiny_llm.tokenizer.decode(whole[:5])
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("form", ["grammar", "json_schema"])
def test_a_processor_and_a_form_both_hold(tiny_llm: LLM, form: str) -> None:
    spellings = [
        t for t in range(tiny_llm.tokenizer.n_vocab) if tiny_llm.tokenizer.piece(t) == b"a"
    ]

    def no_a(ids: TokenIds, logits: Logits) -> Logits:
        logits[spellings] = -np.inf
        return logits

    if form == "grammar":
        reply = tiny_llm.create_completion(
            "x", grammar='root ::= ("a" | "b")', logits_processor=[no_a], **GREEDY
        )
        assert text_of(reply) == "b"
        with pytest.raises(InvalidRequestError, match="logits_processor bans every token"):
            tiny_llm.create_completion(
                "x", grammar='root ::= "a"', logits_processor=[no_a], **GREEDY
            )
    else:
        reply = tiny_llm.create_chat_completion(
            [{"role": "user", "content": "x"}],
            response_format={"type": "json_object", "schema": {"enum": ["a", "b"]}},
            logits_processor=[no_a],
            temperature=0,
        )
        found: Any = reply
        assert found["choices"][0]["message"]["content"] == '"b"'


def raising(ids: TokenIds, logits: Logits) -> Logits:
    raise SystemExit("enough")


def nothing_left(ids: TokenIds, logits: Logits) -> Logits:
    return np.full_like(logits, -np.inf)


def not_a_number(ids: TokenIds, logits: Logits) -> Logits:
    logits[3] = np.nan
    return logits


def infinite(ids: TokenIds, logits: Logits) -> Logits:
    logits[3] = np.inf
    return logits


def too_short(ids: TokenIds, logits: Logits) -> Logits:
    return logits[1:]


def none(ids: TokenIds, logits: Logits) -> Any:
    return None


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (raising, "logits_processor: SystemExit"),
        (nothing_left, "bans every token"),
        (not_a_number, "no numbers"),
        (infinite, "no numbers"),
        (too_short, "shape"),
        (none, "shape"),
    ],
)
def test_a_bad_processor_ends_its_request_and_no_other(
    tiny_llm: LLM, processor: Any, words: str
) -> None:
    beside = tiny_llm.complete(PROMPT, **GREEDY)
    with pytest.raises((DecodeError, InvalidRequestError), match=words):
        tiny_llm.create_completion(PROMPT, logits_processor=[processor], **GREEDY)
    alone = tiny_llm.complete(PROMPT, **GREEDY).result()
    assert beside.result().text == alone.text


def test_a_bad_criterion_ends_its_request(tiny_llm: LLM) -> None:
    with pytest.raises(DecodeError, match="stopping_criteria: ZeroDivisionError"):
        tiny_llm.create_completion(PROMPT, stopping_criteria=[lambda ids, logits: 1 / 0], **GREEDY)


def test_hooks_run_on_the_engine_s_thread(tiny_llm: LLM) -> None:
    names: set[str] = set()

    def note(ids: TokenIds, logits: Logits) -> Logits:
        names.add(threading.current_thread().name)
        return logits

    tiny_llm.create_completion(PROMPT, logits_processor=[note], **GREEDY)
    assert len(names) == 1
    assert names != {threading.current_thread().name}

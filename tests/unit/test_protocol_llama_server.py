"""llama-server's shapes: `/completion` whole and in chunks, tokens, settings."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from codellama.compat.replies import select_fields
from codellama.engine.request import Delta, FinishReason
from codellama.params import SamplingParams
from codellama.protocol.llama_server import (
    DetokenizeRequest,
    NativeReply,
    NativeRequest,
    TokenizeRequest,
    generation_settings,
    stop_type,
    tokenizer_info,
)
from codellama.running.collected import Collected
from tests.fake_llm import FakeLLM, FakeTokenizer, ids, say

TOKENIZER: Any = FakeTokenizer()

WHOLE_FIELDS = {
    *("index", "content", "tokens", "id_slot", "stop", "model", "tokens_predicted"),
    *("tokens_evaluated", "generation_settings", "prompt", "has_new_line", "truncated"),
    *("stop_type", "stopping_word", "tokens_cached", "timings"),
}


def reply_to(
    body: dict[str, Any], script: list[Delta]
) -> tuple[NativeReply, list[Collected], list[Any]]:
    """The reply, its answers with the script taken in, and all chunks of the stream."""
    llm = FakeLLM()
    request = NativeRequest.model_validate(body)
    params = request.sampling(llm.tokenizer)
    completions = [
        llm.generate(prompt, params=params, n=request.n) for prompt in request.prompts(llm)
    ]
    reply = request.reply(llm, completions)
    answers: list[Collected] = []
    for completion in completions:
        answers += completion.blank(len(answers))
    chunks = []
    for answer in answers:
        for delta in script:
            answer.add(delta)
            chunks += reply.chunks(answer, delta)
    return reply, answers, chunks


def test_whole_answer() -> None:
    body = {"prompt": "ab", "n_predict": 9, "return_tokens": True, "n_probs": 2}
    reply, answers, _ = reply_to(body, say("he", "y\n"))
    whole: Any = reply.whole(answers)
    assert whole.keys() == WHOLE_FIELDS | {"completion_probabilities"}
    assert whole["content"] == "hey\n"
    assert whole["tokens"] == list(ids("hey\n"))
    assert (whole["stop"], whole["has_new_line"], whole["truncated"]) == (True, True, False)
    assert (whole["stop_type"], whole["stopping_word"]) == ("eos", "")
    assert whole["prompt"] == "<s>ab"
    assert whole["tokens_predicted"] == 4
    assert whole["tokens_cached"] == 1
    assert whole["generation_settings"]["n_predict"] == 9
    assert whole["timings"] == {
        "cache_n": 1,
        "prompt_n": 4,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 125.0,
        "prompt_per_second": 8.0,
        "predicted_n": 4,
        "predicted_ms": 1000.0,
        "predicted_per_token_ms": 500.0,
        "predicted_per_second": 2.0,
    }
    assert whole["completion_probabilities"][0] == {
        "id": ids("h")[0],
        "token": "h",
        "bytes": [104],
        "logprob": -0.5,
        "top_logprobs": [
            {"id": ids("h")[0], "token": "h", "bytes": [104], "logprob": -0.5},
            {"id": 66, "token": "?", "bytes": [63], "logprob": -1.5},
        ],
    }


def test_tokens_and_probabilities_only_if_asked_for() -> None:
    reply, answers, chunks = reply_to({"prompt": "ab"}, say("hey"))
    whole: Any = reply.whole(answers)
    assert whole.keys() == WHOLE_FIELDS
    assert whole["tokens"] == []
    assert "completion_probabilities" not in chunks[0]


def test_stream() -> None:
    body = {"prompt": "ab", "stream": True, "n_probs": 1, "return_tokens": True}
    _, _, chunks = reply_to(body, [*say("he", "y")[:2], Delta(tokens=ids("\n")), say()[-1]])
    assert [chunk["content"] for chunk in chunks] == ["he", "y", "", ""]
    assert [chunk["stop"] for chunk in chunks] == [False, False, False, True]
    assert [chunk["tokens"] for chunk in chunks] == [list(ids("he")), list(ids("y")), [13], []]
    assert [chunk["tokens_predicted"] for chunk in chunks[:3]] == [2, 3, 4]
    assert all(chunk["tokens_evaluated"] == 3 for chunk in chunks[:3])
    assert [len(c.get("completion_probabilities", [])) for c in chunks] == [2, 1, 0, 0]
    assert chunks[-1].keys() == WHOLE_FIELDS


def test_several_prompts_are_a_list_in_order() -> None:
    reply, answers, _ = reply_to({"prompt": ["a", "b"], "n": 2}, say("x"))
    whole: Any = reply.whole(answers)
    assert [entry["index"] for entry in whole] == [0, 1, 2, 3]
    assert [entry["prompt"] for entry in whole] == ["<s>a", "<s>a", "<s>b", "<s>b"]


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        (FinishReason.LENGTH, None, "limit"),
        (FinishReason.STOP, 2, "eos"),
        (FinishReason.STOP, None, "eos"),
        (FinishReason.STOP, "\n\n", "word"),
        (FinishReason.ERROR, None, "none"),
        (None, None, "none"),
    ],
)
def test_stop_type(reason: FinishReason | None, stop: str | int | None, expected: str) -> None:
    assert stop_type(Collected(0, finish_reason=reason, stop=stop)) == expected


def test_stopping_word() -> None:
    reply, answers, _ = reply_to({"prompt": "a", "stop": ["END"]}, say("x", stop="END"))
    whole: Any = reply.whole(answers)
    assert (whole["stop_type"], whole["stopping_word"]) == ("word", "END")


def test_response_fields() -> None:
    body = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": 0}
    assert select_fields(body, ["a", "b/c", "b/d/e", "f", "x", "a/y"]) == {
        "a": 1, "b/c": 2, "b/d/e": 3, "f": 0
    }  # fmt: skip
    fields = ["content", "timings/prompt_n"]
    reply, answers, _ = reply_to({"prompt": "a", "response_fields": fields}, say("x"))
    assert reply.whole(answers) == {"content": "x", "timings/prompt_n": 4}


def test_generation_settings_have_llama_servers_names() -> None:
    params = SamplingParams.of(logit_bias={5: -math.inf}, logprobs=3, stop=["a"])
    settings = generation_settings(params, stream=True)
    json.dumps(settings, allow_nan=False)
    assert settings["n_predict"] == settings["max_tokens"] == -1
    assert settings["seed"] == 2**32 - 1
    assert settings["n_probs"] == 3
    assert settings["logit_bias"] == [{"token": 5, "bias": None}]
    assert settings["stream"] is True
    assert "logprobs" not in settings


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"content": "ab"}, list(ids("ab"))),
        ({"content": "ab", "add_special": True}, [1, *ids("ab")]),
        ({"content": "</s>"}, [2]),
        ({"content": "</s>", "parse_special": False}, list(ids("</s>"))),
        ({"content": ["a", 7, "b"], "add_special": True}, [1, *ids("a"), 7, *ids("b")]),
        ({"content": ""}, []),
    ],
)
def test_tokenize(body: dict[str, Any], tokens: list[int]) -> None:
    assert TokenizeRequest.model_validate(body).answer(TOKENIZER, 64) == {"tokens": tokens}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "ab"}, [1, *ids("ab")]),
        ({"prompt": "ab", "add_special_tokens": False, "model": "any"}, list(ids("ab"))),
        ({"prompt": "</s>", "add_special_tokens": False, "return_token_strs": False}, [2]),
    ],
)
def test_tokenize_as_vllm_does(body: dict[str, Any], tokens: list[int]) -> None:
    answer = TokenizeRequest.model_validate(body).answer(TOKENIZER, 64)
    assert answer == {"tokens": tokens, "count": len(tokens), "max_model_len": 64}


def test_what_a_harness_asks_of_the_tokenizer() -> None:
    assert tokenizer_info(TOKENIZER, "{{ x }}") == {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": "{{ x }}",
    }


def test_tokenize_with_pieces_gives_bytes_where_there_is_no_text() -> None:
    request = TokenizeRequest(content="</s>aé", with_pieces=True, parse_special=False)
    pieces = [token["piece"] for token in request.answer(TOKENIZER, 64)["tokens"]]
    assert pieces == ["<", "/", "s", ">", "a", [0xC3], [0xA9]]


def test_detokenize_spells_control_tokens() -> None:
    request = DetokenizeRequest(tokens=[1, *ids("hé"), 2])
    assert request.answer(TOKENIZER) == {"content": "<s>hé</s>", "prompt": "<s>hé</s>"}

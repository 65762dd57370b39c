"""llama_cpp.Llama's calls: signatures, dictionaries, chunks, and what is refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from codellama.compat.llama import LlamaCompatible
from codellama.compat.logprobs import legacy_logprobs
from codellama.compat.openai import text_messages
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Usage
from codellama.errors import ChatFormatError, CodeLlamaError, InvalidRequestError
from codellama.native.hooks import TokenHooks
from codellama.running.collected import Collected, total_usage
from tests.fake_llm import FakeLLM, FakeTokenizer, ids, say

MESSAGES = [{"role": "user", "content": "hi"}]

# Signatures of llama_cpp.Llama in llama-cpp-python 0.3.36, in order; [] for stop is our None.
COMPLETION: dict[str, Any] = {
    "suffix": None, "max_tokens": 16, "temperature": 0.8, "top_p": 0.95, "min_p": 0.05,
    "typical_p": 1.0, "logprobs": None, "echo": False, "stop": None, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "repeat_penalty": 1.0, "top_k": 40, "stream": False, "seed": None,
    "tfs_z": 1.0, "mirostat_mode": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "model": None,
    "stopping_criteria": None, "logits_processor": None, "grammar": None, "logit_bias": None,
}  # fmt: skip
CHAT: dict[str, Any] = {
    "functions": None, "function_call": None, "tools": None, "tool_choice": None,
    "temperature": 0.2, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "typical_p": 1.0,
    "stream": False, "stop": None, "seed": None, "response_format": None, "max_tokens": None,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "repeat_penalty": 1.0, "tfs_z": 1.0,
    "mirostat_mode": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "model": None,
    "logits_processor": None, "grammar": None, "logit_bias": None, "logprobs": None,
    "top_logprobs": None,
}  # fmt: skip


class Grammar:
    """Shaped like llama_cpp.LlamaGrammar."""

    def __init__(self, text: str) -> None:
        self._grammar = text


@pytest.mark.parametrize(
    ("method", "first", "expected"),
    [
        (LlamaCompatible.create_completion, "prompt", COMPLETION),
        (LlamaCompatible.__call__, "prompt", COMPLETION),
        (LlamaCompatible.create_chat_completion, "messages", CHAT),
    ],
)
def test_signatures(method: Any, first: str, expected: dict[str, Any]) -> None:
    parameters = inspect.signature(method).parameters
    assert list(parameters) == ["self", first, *expected]
    assert {name: parameters[name].default for name in expected} == expected


def test_completion() -> None:
    llm = FakeLLM()
    body: Any = llm.create_completion("ab")
    assert body["id"].startswith("cmpl-")
    assert isinstance(body["created"], int)
    assert body | {"id": "", "created": 0} == {
        "id": "",
        "object": "text_completion",
        "created": 0,
        "model": "fake",
        "choices": [{"text": "hello", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


def test_completion_defaults_are_llama_cpps() -> None:
    llm = FakeLLM()
    llm("ab")
    params = llm.calls[0].params
    assert (params.max_tokens, params.temperature, params.seed) == (16, 0.8, None)


def test_completion_stream() -> None:
    llm = FakeLLM(say("hel", "lo", end=FinishReason.LENGTH, stop=None))
    chunks: list[Any] = list(llm.create_completion("ab", stream=True))
    choices = [chunk.pop("choices")[0] for chunk in chunks]
    assert choices == [
        {"text": "hel", "index": 0, "logprobs": None, "finish_reason": None},
        {"text": "lo", "index": 0, "logprobs": None, "finish_reason": None},
        {"text": "", "index": 0, "logprobs": None, "finish_reason": "length"},
    ]
    assert all(chunk == chunks[0] for chunk in chunks)
    assert chunks[0].keys() == {"id", "object", "created", "model"}


def test_completion_options() -> None:
    llm = FakeLLM()
    body: Any = llm.create_completion(
        [5, 6],
        max_tokens=0,
        stop="x",
        seed=-1,
        mirostat_mode=2,
        model="other",
        grammar=Grammar("root ::= x"),
        logit_bias={"7": 1},  # type: ignore[dict-item]
        stream=False,
    )
    params = llm.calls[0].params
    assert llm.calls[0].prompt.tokens == (5, 6)
    assert (params.max_tokens, params.stop, params.seed) == (None, ("x",), None)
    assert (params.mirostat, params.grammar, params.logit_bias) == (2, "root ::= x", {7: 1.0})
    assert body["model"] == "other"


def test_echo_begins_with_the_prompt() -> None:
    llm = FakeLLM()
    body: Any = llm.create_completion("ab", echo=True)
    assert body["choices"][0]["text"] == "abhello"


def test_suffix_infills() -> None:
    llm = FakeLLM()
    llm.create_completion("ab", suffix="cd")
    assert llm.calls[0].prompt.tokens == ids("<ab|cd>")
    with pytest.raises(InvalidRequestError, match="echo"):
        llm.create_completion("ab", suffix="cd", echo=True)
    with pytest.raises(InvalidRequestError, match="token ids"):
        llm.create_completion([5], suffix="cd")


@pytest.mark.parametrize("stream", [False, True])
def test_completion_logprobs(stream: bool) -> None:
    llm = FakeLLM(say("h", "é"))
    answer: Any = llm.create_completion("ab", logprobs=1, stream=stream)
    parts = answer if stream else [answer]
    got: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in (part["choices"][0]["logprobs"] or {}).items():
            got.setdefault(name, []).extend(values)
    assert got["tokens"] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
    assert got["token_logprobs"] == [-0.5, -0.5, -0.5]
    assert got["text_offset"] == [2, 3, 3]
    assert got["top_logprobs"][0] == {"h": -0.5, "?": -1.5}


def test_chat() -> None:
    llm = FakeLLM()
    body: Any = llm.create_chat_completion(MESSAGES)
    assert body["id"].startswith("chatcmpl-")
    assert body | {"id": "", "created": 0} == {
        "id": "",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
    }
    assert llm.calls[0].params.max_tokens is None
    assert llm.calls[0].params.temperature == 0.2


def test_chat_stream() -> None:
    chunks: list[Any] = list(FakeLLM().create_chat_completion(MESSAGES, stream=True))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "delta": {"role": "assistant"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "hel"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "lo"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"},
    ]


def test_chat_logprobs() -> None:
    llm = FakeLLM(say("h"))
    body: Any = llm.create_chat_completion(MESSAGES, logprobs=True, top_logprobs=2)
    assert body["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "h",
                "bytes": [104],
                "logprob": -0.5,
                "top_logprobs": [
                    {"token": "h", "bytes": [104], "logprob": -0.5},
                    {"token": "?", "bytes": [63], "logprob": -1.5},
                ],
            }
        ],
        "refusal": None,
    }
    assert llm.calls[0].params.logprobs == 2


def test_chat_response_format() -> None:
    llm = FakeLLM()
    llm.create_chat_completion(MESSAGES, response_format={"type": "json_object"})
    assert llm.calls[0].params.json_schema == {"type": "object"}


def test_closing_a_stream_cancels() -> None:
    llm = FakeLLM(hold=True)
    stream: Any = llm.create_completion("ab", stream=True)
    next(stream)
    stream.close()
    assert len(llm.cancelled) == 1


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"tfs_z": 0.9}, InvalidRequestError),
        ({"logits_processor": [1]}, InvalidRequestError),
        ({"grammar": 5}, InvalidRequestError),
        ({"logit_bias": {"a": 1}}, InvalidRequestError),
        ({"top_k": -2}, InvalidRequestError),
    ],
)
def test_what_is_refused_is_named(options: dict[str, Any], kind: type[CodeLlamaError]) -> None:
    llm = FakeLLM()
    for call in (llm.create_completion, llm.create_chat_completion):
        first: Any = "ab" if call == llm.create_completion else MESSAGES
        with pytest.raises(kind, match=next(iter(options))):
            call(first, **options)
    assert llm.calls == []


def test_processors_and_criteria_go_to_the_engine() -> None:
    llm = FakeLLM()
    say: Any = print
    count: Any = len
    llm.create_completion("ab", logits_processor=[say], stopping_criteria=count)
    llm.create_chat_completion(MESSAGES, logits_processor=say)
    llm.create_completion("ab", logits_processor=[], stopping_criteria=[])
    assert [call.hooks for call in llm.calls] == [
        TokenHooks((say,), (count,)),
        TokenHooks((say,)),
        None,
    ]


def test_neutral_tool_options_are_accepted() -> None:
    told, plain = FakeLLM(), FakeLLM()
    told.create_chat_completion(
        MESSAGES, seed=1, tools=[], tool_choice="auto", functions=[], function_call="none"
    )
    plain.create_chat_completion(MESSAGES, seed=1)
    assert told.calls == plain.calls, "and change nothing"


def test_messages_as_text() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": [], "name": ""},
        {"role": "user", "content": "d", "destination": "user"},
    ]
    assert text_messages(messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d", "destination": "user"},
    ]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "must be a list"),
        ({"role": "user"}, "must be a list"),
        ([5], r"messages\[0\] must be an object"),
        ([{"content": "a"}], r"messages\[0\].role"),
        ([{"role": 5, "content": "a"}], r"messages\[0\].role"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"role": "user", "content": None}], r"messages\[0\].content"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] must be .* text"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]"),
        ([{"role": "user", "content": ["a"]}], r"content\[0\]"),
        ([{"role": "user", "content": "a", "colour": 1}], "unknown field 'colour'"),
        ([{"role": "user", "content": "a", "destination": 1}], "destination must be a string"),
    ],
)
def test_bad_messages(messages: Any, message: str) -> None:
    with pytest.raises(ChatFormatError, match=message) as caught:
        text_messages(messages)
    assert caught.value.param == "messages"


def test_usage_counts_a_prompt_once_per_group_of_choices() -> None:
    answers = [
        Collected(
            i, usage=Usage(prompt_tokens=10 + i // 2, completion_tokens=1 + i, cached_tokens=c)
        )
        for i, c in enumerate([3, 9, 4, 10])
    ]
    assert total_usage(answers, n=2) == Usage(21, 10, 7)


def test_logprobs_fit_into_json() -> None:
    entry = TokenLogprob(ids("a")[0], float("-inf"), ((ids("b")[0], float("nan")),))
    body = legacy_logprobs([entry], FakeTokenizer().piece, 0)
    assert body["token_logprobs"] == [-9999.0]
    assert body["top_logprobs"] == [{"b": -9999.0, "a": -9999.0}]


def test_text_offsets_count_characters_that_tokens_share() -> None:
    text = "aé∂z"
    entries = [TokenLogprob(token, -1.0) for token in ids(text)]
    body = legacy_logprobs(entries, FakeTokenizer().piece, 10)
    at = dict(zip(body["tokens"], body["text_offset"], strict=True))
    assert at["a"] == 10
    assert at["z"] == 10 + text.index("z")
    assert body["text_offset"] == sorted(body["text_offset"])


def test_an_answer_takes_in_deltas() -> None:
    answer = Collected(0)
    for delta in [Delta("a", (4,)), Delta("b", (5,), finish_reason=FinishReason.STOP, stop="x")]:
        answer.add(delta)
    assert (answer.text, answer.tokens, answer.stop) == ("ab", [4, 5], "x")
    assert answer.finish_reason is FinishReason.STOP

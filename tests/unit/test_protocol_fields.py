"""Request bodies to prompts and sampling parameters, field by field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Usage
from codellama.errors import InvalidRequestError
from codellama.params import SamplingParams
from codellama.protocol.body import Fields
from codellama.protocol.errors import validation_error
from codellama.protocol.known import NEUTRAL, NO_EFFECT
from codellama.protocol.llama_server import InfillRequest, NativeRequest
from codellama.protocol.openai import ChatRequest, CompletionRequest
from codellama.protocol.prompts import parse_prompts
from codellama.running.collected import Collected, total_usage
from tests.fake_llm import FakeLLM, FakeTokenizer, ids

TOKENIZER: Any = FakeTokenizer()
MESSAGES = [{"role": "user", "content": "hi"}]
KINDS: list[tuple[type[Any], dict[str, Any]]] = [
    (ChatRequest, {"messages": MESSAGES}),
    (CompletionRequest, {"prompt": "x"}),
    (NativeRequest, {"prompt": "x"}),
    (InfillRequest, {"input_prefix": "a", "input_suffix": "b"}),
]

every_kind = pytest.mark.parametrize(("kind", "body"), KINDS)


def refused(kind: type[Fields], body: Any) -> InvalidRequestError:
    """The error for a body that must not be accepted."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    return validation_error(caught.value.errors())


def sampling(kind: Any, body: dict[str, Any]) -> SamplingParams:
    params = kind.model_validate(body).sampling(TOKENIZER)
    assert isinstance(params, SamplingParams)
    return params


SAMPLING: dict[str, Any] = {
    "temperature": 0.7,
    "top_k": 7,
    "top_p": 0.7,
    "min_p": 0.2,
    "typical_p": 0.7,
    "top_n_sigma": 1.5,
    "xtc_probability": 0.2,
    "xtc_threshold": 0.3,
    "dry_multiplier": 0.8,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 8,
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "repeat_penalty": 1.2,
    "repeat_last_n": 32,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "seed": 5,
    "grammar": 'root ::= "a"',
    "regex": "a+",
    "lark": 'start: "a"',
    "ignore_eos": True,
    "max_tokens": 9,
    "timeout_s": 2.5,
    "t_max_predict_ms": 500,
    "n_indent": 4,
    "context_shift": True,
    "n_keep": -1,
    "n_discard": 9,
    "cache_prompt": False,
    "spec_draft_n_max": 0,
    "post_sampling_probs": True,
    "repeatable": True,
    "id_slot": 3,
}


@every_kind
def test_adapters_in_llama_servers_form(kind: Any, body: dict[str, Any]) -> None:
    lora = [{"id": 1, "scale": 0.5}, {"id": "a", "scale": 1}]
    assert sampling(kind, {**body, "lora": lora}).lora == {1: 0.5, "a": 1}
    assert sampling(kind, {**body, "lora": []}).lora is None
    assert sampling(kind, {**body, "lora": None}).lora is None


@every_kind
@pytest.mark.parametrize(
    "lora", [[{"id": 0}], [{"id": 0, "scale": "1"}], {"id": 0, "scale": 1}, [0]]
)
def test_adapters_in_another_form(kind: Any, body: dict[str, Any], lora: Any) -> None:
    with pytest.raises((ValidationError, InvalidRequestError)) as caught:
        sampling(kind, {**body, "lora": lora})
    raised: Any = caught.value
    error = validation_error(raised.errors()) if isinstance(raised, ValidationError) else raised
    assert error.param == "lora"


@every_kind
@pytest.mark.parametrize("name", SAMPLING)
def test_every_sampling_field_reaches_the_parameters(
    kind: Any, body: dict[str, Any], name: str
) -> None:
    params = sampling(kind, {**body, name: SAMPLING[name]})
    assert getattr(params, name) == SAMPLING[name]


def test_samplers_are_a_list_of_steps() -> None:
    names = ["top_k", "top_p", "infill"]
    params = sampling(NativeRequest, {"prompt": "x", "samplers": names, "t_max_predict_ms": -1})
    assert params.samplers == tuple(names)
    assert params.t_max_predict_ms == 0
    with pytest.raises(InvalidRequestError) as caught:
        sampling(NativeRequest, {"prompt": "x", "samplers": ["x"]})
    assert caught.value.param == "samplers"


def test_no_sampling_parameter_is_out_of_reach() -> None:
    lists = {
        "dry_sequence_breakers",
        "stop",
        "stop_tokens",
        "samplers",
        "logit_bias",
        "json_schema",
        "logprobs",
        "lora",
    }
    assert SAMPLING.keys() | lists == SamplingParams.__dataclass_fields__.keys()


@every_kind
def test_lists_and_schemas(kind: Any, body: dict[str, Any]) -> None:
    more = {"stop": ["a", "b"], "stop_tokens": [4], "dry_sequence_breakers": ["\n"]}
    params = sampling(kind, {**body, **more, "json_schema": {"type": "array"}})
    assert params.stop == ("a", "b")
    assert params.stop_tokens == (4,)
    assert params.dry_sequence_breakers == ("\n",)
    assert params.json_schema == {"type": "array"}
    assert sampling(kind, {**body, "stop": "x"}).stop == ("x",)


@every_kind
def test_null_means_not_given(kind: Any, body: dict[str, Any]) -> None:
    nulls = dict.fromkeys([*SAMPLING, "stop", "n", "stream", "stream_options", *NEUTRAL])
    request = kind.model_validate({**nulls, **body})
    assert request.sampling(TOKENIZER) == sampling(kind, body)
    assert request.n == 1
    assert not request.stream


@every_kind
@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"n_predict": 7}, "max_tokens", 7),
        ({"max_completion_tokens": 7}, "max_tokens", 7),
        ({"n_predict": -1}, "max_tokens", None),
        ({"seed": -1}, "seed", None),
        ({"seed": 2**32 - 1}, "seed", None),
        ({"grammar": ""}, "grammar", None),
        ({"response_format": {"type": "text"}}, "json_schema", None),
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "array"}}},
            "json_schema",
            {"type": "array"},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 1}}}},
            "json_schema",
            {"const": 1},
        ),
        ({"json_schema": {}}, "json_schema", {"type": "object"}),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_json": {"const": 1}}, "json_schema", {"const": 1}),
        ({"guided_json": '{"const": 1}'}, "json_schema", '{"const": 1}'),
        ({"guided_choice": ["a.b", "(c|d)", "[e]{2}\\/^$*+?"]}, "regex",
         r"a\.b|\(c\|d\)|\[e\]\{2\}\\\/\^\$\*\+\?"),
        ({"guided_grammar": '# ours\nroot ::= "a"'}, "grammar", '# ours\nroot ::= "a"'),
        ({"guided_grammar": 'start: "a" // ::='}, "lark", 'start: "a" // ::='),
        ({"structured_outputs": {"json": {}}}, "json_schema", {}),
        ({"structured_outputs": {"regex": "x", "json": None}}, "regex", "x"),
        ({"structured_outputs": {"choice": ["x", "y"]}}, "regex", "x|y"),
        ({"structured_outputs": {"grammar": "start: X"}}, "lark", "start: X"),
        ({"structured_outputs": {"json_object": True}}, "json_schema", {"type": "object"}),
        ({"structured_outputs": {"json_object": False}}, "json_schema", None),
        ({"logit_bias": {"5": -1, "6": False}}, "logit_bias", {5: -1.0, 6: -math.inf}),
        # As llama-server reads them (server-schema.cpp): a text of digits is a text in a pair and an id as a
        # key, other scripts' digits are text, what is said of one token adds up.
        ({"logit_bias": [["7", 50]]}, "logit_bias", {ids("7")[0]: 50}),
        ({"logit_bias": {"7": 50}}, "logit_bias", {7: 50}),
        ({"logit_bias": {"٣": 1}}, "logit_bias", dict.fromkeys(ids("٣"), 1)),
        ({"logit_bias": [["٣", 1]]}, "logit_bias", dict.fromkeys(ids("٣"), 1)),
        ({"logit_bias": [[5, 1], [5, 2.5], [6, 1]]}, "logit_bias", {5: 3.5, 6: 1}),
        ({"logit_bias": [["a", False], ["a", 5]]}, "logit_bias", {ids("a")[0]: -math.inf}),
        ({"samplers": "edkypmxt"}, "samplers", ("penalties", "dry", "top_k", "typ_p", "top_p",
                                                "min_p", "xtc", "temperature")),
        ({"samplers": "si"}, "samplers", ("top_n_sigma", "infill")),
        ({"samplers": ""}, "samplers", ()),
        ({"samplers": ["top-k", "TOPP", "nucleus", "typ", "temp", "top-n-sigma"]}, "samplers",
         ("top_k", "top_p", "top_p", "typ_p", "temperature", "top_n_sigma")),
        ({"top_k": -1}, "top_k", 0),
        ({"temperature": -0.5}, "temperature", 0),
        ({"seed": 2**64 - 1}, "seed", 2**64 - 1),
        ({"seed": -(2**63)}, "seed", -(2**63)),
        ({"repetition_penalty": 1.2}, "repeat_penalty", 1.2),
        ({"typ_p": 0.5}, "typical_p", 0.5),
        ({"logit_bias": [[5, 2.5], ["ab", False]]}, "logit_bias",
         {5: 2.5, ids("a")[0]: -math.inf, ids("b")[0]: -math.inf}),
    ],
)  # fmt: skip
def test_other_spellings(
    kind: Any, body: dict[str, Any], given: dict[str, Any], name: str, value: Any
) -> None:
    assert getattr(sampling(kind, {**body, **given}), name) == value


@every_kind
def test_fields_without_effect_and_neutral_values_are_accepted(
    kind: type[Fields], body: dict[str, Any]
) -> None:
    neutral = {name: values[0] for name, values in NEUTRAL.items() if values}
    given = {**dict.fromkeys(NO_EFFECT - kind.model_fields.keys(), "anything"), **neutral}
    assert sampling(kind, {"seed": 1, **given, **body}) == sampling(kind, {"seed": 1, **body})


@every_kind
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {"voice": "x"}),
        ("modalities", ["audio"]),
        ("min_keep", False),
        ("dynatemp_range", 0.5),
        ("min_keep", 2),
    ],
)
def test_what_cannot_be_honoured_is_named(
    kind: type[Fields], body: dict[str, Any], name: str, value: Any
) -> None:
    error = refused(kind, {**body, name: value})
    assert error.param == name
    assert str(error) == f"{name} is not supported: leave it out"


@every_kind
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tempratur", 1, "unknown parameter 'tempratur'; did you mean temperature?"),
        ("xyzzy", 1, "unknown parameter 'xyzzy'"),
        ("temperature", "hot", "temperature: must be a valid number"),
        ("temperature", math.inf, "temperature: must be a finite number"),
        ("n_predict", "x", "n_predict: must be a valid integer"),
        ("max_tokens", True, "max_tokens: must be a valid integer"),
        ("stop", 3, "stop: must be a valid string or a valid list"),
        ("stream", 1, "stream: must be a valid boolean"),
        ("n", 0, "n: must be greater than or equal to 1"),
        ("n", 129, "n: must be less than or equal to 128"),
    ],
)
def test_bad_fields_are_named(
    kind: type[Fields], body: dict[str, Any], name: str, value: Any, message: str
) -> None:
    error = refused(kind, {**body, name: value})
    assert (str(error), error.param) == (message, name)


@every_kind
@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"temperature": 1e39}, "temperature"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"samplers": "ekq"}, "samplers"),
        ({"samplers": ["top k"]}, "samplers"),
        ({"logit_bias": {"5": 1e39}}, "logit_bias"),
        ({"logit_bias": [[5, 3e38], [5, 3e38]]}, "logit_bias"),
        ({"n_predict": -2}, "n_predict"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
        ({"stop": ["a", ""]}, "stop"),
        ({"logit_bias": {"999": 1}}, "logit_bias"),
        ({"logit_bias": [[1, 2, 3]]}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"grammar": "x", "json_schema": {}}, "grammar"),
        ({"guided_regex": "x", "lark": "x"}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "regex": "x"}, "response_format"),
        ({"guided_json": {}, "response_format": {"type": "json_object"}}, "guided_json"),
        ({"guided_json": {}, "json_schema": {}}, "guided_json"),
        ({"guided_choice": ["x"], "guided_regex": "x"}, "guided_choice"),
        ({"guided_choice": ["x"], "structured_outputs": {"regex": "x"}}, "structured_outputs"),
        ({"guided_json": {}, "guided_grammar": "x"}, "guided_json"),
        ({"structured_outputs": {"regex": "x", "choice": ["x"]}}, "structured_outputs"),
        ({"response_format": {"type": "sound"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": 1}}, "response_format"),
        ({"response_format": {"type": "text"}, "json_schema": {}}, "json_schema"),
    ],
)
def test_bad_values_are_named(
    kind: Any, body: dict[str, Any], given: dict[str, Any], param: str
) -> None:
    with pytest.raises((ValidationError, InvalidRequestError)) as caught:
        sampling(kind, {**body, **given})
    raised: Any = caught.value
    error = validation_error(raised.errors()) if isinstance(raised, ValidationError) else raised
    assert error.param == param
    assert param in str(error)


@pytest.mark.parametrize(
    ("kind", "param"),
    [(ChatRequest, "messages"), (CompletionRequest, "prompt"), (InfillRequest, "input_prefix")],
)
def test_required_fields(kind: type[Fields], param: str) -> None:
    assert str(refused(kind, {})) == f"{param} is required"


def test_a_body_must_be_an_object() -> None:
    assert str(refused(NativeRequest, [])) == "the body must be a JSON object"


def test_two_spellings_of_one_parameter_must_agree() -> None:
    body = {"prompt": "x", "max_tokens": 5, "n_predict": 5}
    assert CompletionRequest.model_validate(body).max_tokens == 5
    error = refused(CompletionRequest, {**body, "n_predict": 6})
    assert str(error) == "max_tokens and n_predict are one parameter: give it once"


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (ChatRequest, {}, None),
        (ChatRequest, {"logprobs": False}, None),
        (ChatRequest, {"logprobs": True}, 0),
        (ChatRequest, {"logprobs": True, "top_logprobs": 3}, 3),
        (ChatRequest, {"n_probs": 4}, 4),
        (CompletionRequest, {"logprobs": 0}, 0),
        (CompletionRequest, {"logprobs": 5}, 5),
        (CompletionRequest, {"n_probs": 5}, 5),
        (NativeRequest, {"n_probs": 0}, None),
        (NativeRequest, {"n_probs": 2}, 2),
    ],
)
def test_logprobs_in_each_dialect(kind: Any, given: dict[str, Any], expected: int | None) -> None:
    body = next(body for k, body in KINDS if k is kind)
    assert sampling(kind, {**body, **given}).logprobs == expected


def test_top_logprobs_needs_logprobs() -> None:
    with pytest.raises(InvalidRequestError, match="needs logprobs") as caught:
        sampling(ChatRequest, {"messages": MESSAGES, "top_logprobs": 2})
    assert caught.value.param == "top_logprobs"


def test_openai_completions_write_sixteen_tokens_by_default() -> None:
    assert sampling(CompletionRequest, {"prompt": "x"}).max_tokens == 16
    assert sampling(CompletionRequest, {"prompt": "x", "n_predict": -1}).max_tokens is None
    assert sampling(NativeRequest, {"prompt": "x"}).max_tokens is None
    assert sampling(ChatRequest, {"messages": MESSAGES}).max_tokens is None


@pytest.mark.parametrize("more", [{"n": 3, "best_of": 2}, {"best_of": 2, "stream": True}])
def test_what_openai_completions_cannot_do(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(CompletionRequest, {"prompt": "x", **more})
    assert caught.value.param == "best_of"


def test_candidates_have_log_probabilities_to_be_ranked_by() -> None:
    assert sampling(CompletionRequest, {"prompt": "x", "best_of": 2}).logprobs == 0
    assert sampling(CompletionRequest, {"prompt": "x", "best_of": 2, "logprobs": 3}).logprobs == 3
    assert sampling(CompletionRequest, {"prompt": "x", "best_of": 1}).logprobs is None


@pytest.mark.parametrize("echo", [False, True])
def test_the_likeliest_candidates_are_sent_best_first(echo: bool) -> None:
    request = CompletionRequest(prompt=["a", "b"], n=2, best_of=3, echo=echo)
    llm: Any = FakeLLM()
    made = [llm.generate(p, params=request.sampling(TOKENIZER), n=3) for p in request.prompts(llm)]
    scored = [TokenLogprob(1, math.nan), TokenLogprob(1, -9.0)] if echo else []
    ending = [TokenLogprob(2, -99.0)] if echo else []
    means = [(-3.0,), (-1.0, -1.2), (-2.0,), (), (-0.5,), (-4.0,)]
    answers = [
        Collected(
            i,
            tokens=[7] * len(values),
            logprobs=[*scored, *(TokenLogprob(7, value) for value in values), *ending],
            usage=Usage(2, len(values)),
        )
        for i, values in enumerate(means)
    ]
    chosen = request.reply(llm, made).chosen(answers)
    assert [a.index for a in chosen] == [0, 1, 2, 3]
    assert [len(a.tokens) for a in chosen] == [2, 1, 1, 1]
    firsts = [a.logprobs[len(scored)].logprob for a in chosen]
    assert firsts == [-1.0, -2.0, -0.5, -4.0]
    assert total_usage(answers, 3) == Usage(4, 6, 0)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("ab", [(1, *ids("ab"))]),
        ("", [(1,)]),
        ([5, 6], [(5, 6)]),
        (["ab", "c"], [(1, *ids("ab")), (1, *ids("c"))]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
        ([[5], "c"], [(5,), (1, *ids("c"))]),
        (["ab", 5, "c"], [(1, *ids("ab"), 5, *ids("c"))]),
        ([5, "c"], [(5, *ids("c"))]),
        ([["ab", 5], "c"], [(1, *ids("ab"), 5), (1, *ids("c"))]),
        ({"prompt_string": "ab"}, [(1, *ids("ab"))]),
    ],
)
def test_prompts(raw: Any, expected: list[tuple[int, ...]]) -> None:
    llm = FakeLLM()
    assert [prompt.tokens for prompt in parse_prompts(raw, llm)] == expected


@pytest.mark.parametrize(
    "raw",
    [[], [[]], 5, True, [True], [5, None], [5, 999], [-1], {"prompt_string": "a", "x": 1}, None],
)
def test_bad_prompts(raw: Any) -> None:
    llm = FakeLLM()
    with pytest.raises(InvalidRequestError):
        parse_prompts(raw, llm)


def test_a_suffix_infills() -> None:
    llm = FakeLLM()
    request = CompletionRequest.model_validate({"prompt": "a", "suffix": "b"})
    assert request.prompts(llm)[0].tokens == ids("<a|b>")
    for given in ({"prompt": [5]}, {"echo": True}):
        request = CompletionRequest.model_validate({"prompt": "a", "suffix": "b", **given})
        with pytest.raises(InvalidRequestError):
            request.prompts(llm)


def test_infill_puts_the_extra_texts_first_and_the_prompt_last() -> None:
    llm = FakeLLM()
    body = {
        "input_prefix": "p",
        "input_suffix": "s",
        "prompt": "q",
        "input_extra": [{"text": "one", "filename": "a.py"}, {"text": "two"}],
    }
    prompt = InfillRequest.model_validate(body).prompts(llm)[0]
    expected = "<\n\n--- snippet ---\n\none\n\n--- snippet ---\n\ntwopq|s>"
    assert llm.tokenizer.decode(prompt.tokens) == expected


@every_kind
@pytest.mark.parametrize("field", ["temperature", "seed", "stop", "n"])
def test_nan_is_a_bad_value_and_no_bug(kind: Any, body: dict[str, Any], field: str) -> None:
    with pytest.raises((InvalidRequestError, ValidationError)):
        sampling(kind, {**body, field: math.nan})


@every_kind
def test_an_empty_stop_is_none(kind: Any, body: dict[str, Any]) -> None:
    assert sampling(kind, {**body, "stop": ""}).stop == ()

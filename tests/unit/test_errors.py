"""Errors are put together from a sentence, the parameter, its values and a remedy."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from codellama.compat.embeddings import EmbeddingCompatible
from codellama.errors import (
    ChatFormatError,
    CodeLlamaError,
    ContextLengthError,
    GrammarError,
    InvalidRequestError,
    UnsupportedError,
    unknown_token,
)
from codellama.params import SamplingParams
from codellama.prompts.chat import reject_tags
from codellama.protocol.embeddings import EmbeddingRequest
from codellama.protocol.llama_server import TokenizeRequest
from codellama.running.kv_file import StaleStateError
from tests.fake_llm import FakeLLM

BRACES = '{"a": {0}} {param}'


def test_values_may_hold_anything() -> None:
    error = InvalidRequestError("{param} is {value}", "x", value=BRACES)
    assert str(error) == f"x is {BRACES}"
    assert str(UnsupportedError(BRACES, "set {x}")) == f"{BRACES}: set x"


@pytest.mark.parametrize("text", ["open {", "a {0} b", "close }"])
def test_braces_of_other_peoples_code_stay(text: str) -> None:
    assert str(InvalidRequestError(text)) == text
    assert str(UnsupportedError("x", text)) == f"x: {text}"


def test_a_renamed_parameter_has_its_new_name_and_nothing_else_has() -> None:
    error = InvalidRequestError("{param}: the n of {word}", "n", "set {n}", word="n")
    assert error.rename("n_cmpl") is error
    assert (str(error), error.param) == ("n_cmpl: the n of n: set n", "n_cmpl")


def test_settings_have_the_readers_spelling() -> None:
    error = InvalidRequestError("{param} is bad", "n_ctx", "a smaller {n_ctx} or {n_batch}")
    assert error.spelled({"n_ctx": "--ctx-size"}) == (
        "--ctx-size is bad: a smaller --ctx-size or n_batch"
    )
    assert str(error) == "n_ctx is bad: a smaller n_ctx or n_batch"


def test_a_longer_context_is_no_advice_where_there_is_none() -> None:
    said = (
        "the prompt is too long, with 9 tokens it exceeds the available context size of 8 tokens: "
        "shorten the prompt"
    )
    assert str(ContextLengthError(9, 8)) == f"{said} or load the model with a larger n_ctx"
    assert str(ContextLengthError(9, 8, trained=9)) == str(ContextLengthError(9, 8))
    assert str(ContextLengthError(9, 8, trained=8)) == f"{said}; the model was trained for no more"


@pytest.mark.parametrize(
    "error",
    [
        CodeLlamaError("a {b}", "set {n_ctx}"),
        InvalidRequestError("{param} is {value}", "x", "set {n_ctx}", value=BRACES),
        ContextLengthError(9, 8),
        ChatFormatError("{param} is wrong"),
        GrammarError("the {param} is wrong", "json_schema"),
        StaleStateError("{path} is damaged", path=BRACES),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_another_process(error: CodeLlamaError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert again.spelled({"n_ctx": "-c"}) == error.spelled({"n_ctx": "-c"})
    assert vars(again) == vars(error)


# -- the client's own words ---------------------------------------------------------------------


class Refusing(FakeLLM, EmbeddingCompatible):
    """Raises `refusal` for every prompt."""

    def __init__(self, refusal: InvalidRequestError) -> None:
        super().__init__()
        self.refusal = refusal

    def complete_prompt(self, prompt: Any) -> Any:
        raise self.refusal


def other_word() -> InvalidRequestError:
    """An error in which the first "prompt" is not the parameter."""
    return InvalidRequestError("no {word} may be so: {param}", "prompt", word="prompting")


@pytest.mark.parametrize("name", ["input", "content"])
def test_embedding_requests_name_the_field_that_was_sent(name: str) -> None:
    llm: Any = Refusing(other_word())
    request = EmbeddingRequest.model_validate({name: "x"})
    with pytest.raises(InvalidRequestError) as caught:
        request.submit(llm, openai=False)
    assert (str(caught.value), caught.value.param) == (f"no prompting may be so: {name}", name)
    assert caught.value.__cause__ is None


def test_embed_names_its_own_parameter() -> None:
    llm: Any = Refusing(other_word())
    with pytest.raises(InvalidRequestError) as caught:
        llm.embed("x")
    assert (str(caught.value), caught.value.param) == ("no prompting may be so: input", "input")


@pytest.mark.parametrize(
    ("field", "raw", "text"),
    [
        ("input", [5, 999], "input: token id 999 is not in the vocabulary (0 to 258)"),
        ("content", [-1], "content: token id -1 is not in the vocabulary (0 to 258)"),
        ("content", ["a", []], "content must be a text, a list of token ids, a list that mixes"),
    ],
)
def test_bad_prompts_of_embedding_requests(field: str, raw: Any, text: str) -> None:
    llm: Any = FakeLLM()
    with pytest.raises(InvalidRequestError) as caught:
        EmbeddingRequest.model_validate({field: raw}).submit(llm, openai=False)
    assert (str(caught.value).startswith(text), caught.value.param) == (True, field)


@pytest.mark.parametrize("field", ["content", "prompt"])
def test_tokenize_names_the_field_that_was_sent(field: str) -> None:
    llm: Any = FakeLLM()
    with pytest.raises(InvalidRequestError) as caught:
        TokenizeRequest.model_validate({field: [999]}).answer(llm.tokenizer, 64)
    assert str(caught.value) == str(unknown_token(field, 999, llm.tokenizer.n_vocab))
    assert caught.value.param == field


def test_a_tag_in_an_infill_text_names_that_text() -> None:
    with pytest.raises(ChatFormatError) as caught:
        reject_tags("a<MID>", ["<MID>"], "suffix")
    assert str(caught.value) == "suffix: the special tag <MID> is not allowed in the text"
    assert caught.value.param == "suffix"


def test_a_sentence_names_other_settings_as_the_caller_spells_them() -> None:
    error = InvalidRequestError(
        "{param} must not be larger than {n_batch} ({most})", "n_ubatch", most=9
    )
    assert str(error) == "n_ubatch must not be larger than n_batch (9)"
    flags = {"n_ubatch": "--ubatch-size", "n_batch": "--batch-size"}
    assert error.spelled(flags) == "--ubatch-size must not be larger than --batch-size (9)"


def test_an_error_about_a_setting_begins_with_its_name() -> None:
    error = UnsupportedError("x.gguf: cannot be read", "give {lora} another").about("lora")
    assert str(error) == "lora: x.gguf: cannot be read: give lora another"
    assert error.spelled({"lora": "--lora"}).startswith("--lora: x.gguf")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("stream", "iterate it"), ("response_format", "json_schema"), ("system", "Session")],
)
def test_parameters_of_other_libraries_are_told_where_they_are(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"unknown parameter '{name}'; .*{hint}"):
        SamplingParams.of(**{name: 1})

"""Schemas, expressions and Lark grammars through `LLM`: what is written is what they allow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from codellama import LLM, EngineDeadError, GrammarError, InvalidRequestError
from codellama.engine.request import FinishReason
from codellama.models import demo_gguf
from tests.lora_file import write_adapter

INTEGER = {"type": "integer"}
STRING = {"type": "string"}
TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": INTEGER,
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/Node",
}
SCHEMAS: dict[str, Any] = {
    "string": STRING,
    "object": {"type": "object"},
    "array": {"type": "array"},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 9},
    "tab": {"const": "a\tb"},
    "newline": {"enum": ["a\nb", "\u0001"]},
    "backslash": {"enum": ["C:\\dir", "\\d+"]},
    "backslash-n": {"const": "a\\nb"},
    "emoji": {"const": "😀 and 𝒳"},
    "quote": {"const": 'a"b'},
    "key-with-quote": {
        "properties": {'a"b\\': {"type": "boolean"}},
        "required": ['a"b\\'],
        "additionalProperties": False,
    },
    "dot": {"type": "string", "pattern": "^a.c$"},
    "pattern-quote": {"type": "string", "pattern": '^"[a-z]"$'},
    "pattern-backslash": {"type": "string", "pattern": "^a\\\\b$"},
    "pattern-newline": {"type": "string", "pattern": "^a\\nb$"},
    "alternation": {"type": "string", "pattern": "^foo|bar$", "maxLength": 8},
    "digits": {"type": "string", "pattern": r"^\d{5}$"},
    "recursion": TREE,
    "enum-1000": {"enum": [f"value number {i}" for i in range(1000)]},
    "bounds": {"type": "integer", "minimum": -7, "maximum": 130},
    "large": {"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 5000},
    "set": {"type": "array", "items": STRING, "uniqueItems": True, "minItems": 2, "maxItems": 6},
    "counted-keys": {
        "type": "object",
        "additionalProperties": INTEGER,
        "minProperties": 3,
        "maxProperties": 4,
    },
    "all-of": {"allOf": [{"$ref": "#/$defs/Color"}], "$defs": {"Color": {"enum": ["r", "g"]}}},
    "types": {"type": ["string", "null"], "enum": ["a", None]},
}


@pytest.fixture(scope="module")
def demo() -> Iterator[LLM]:
    with LLM(demo_gguf(), n_ctx=2048, n_seq_max=4, n_threads=1, spec_type="none") as llm:
        yield llm


def closing(llm: LLM, push: float = 6.0) -> dict[int, float]:
    """A bias towards what closes strings, lists and objects, so that answers end."""
    ids = (llm.tokenizer.token_id(text) for text in ('"', "}", "]", '"}', "0"))
    return {token: push for token in ids if token is not None}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("model", ["tiny_llm", "demo"])
def test_every_answer_is_json_and_satisfies_its_schema(
    name: str, model: str, request: pytest.FixtureRequest
) -> None:
    llm: LLM = request.getfixturevalue(model)
    schema = SCHEMAS[name]
    wide: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    running = [
        llm.chat(
            "hi", json_schema=schema, logit_bias=closing(llm), max_tokens=300, seed=seed, **more
        )
        for seed in range(3)
        for more in ({"temperature": 0.5}, wide)
    ]
    choices = [completion.result().choices[0] for completion in running]
    finished = [c.text for c in choices if c.finish_reason is FinishReason.STOP]
    assert finished, [c.text for c in choices]
    for text in finished:
        jsonschema.validate(json.loads(text), schema)


def test_a_string_may_be_long_and_never_holds_a_raw_newline(tiny_llm: LLM) -> None:
    newline = tiny_llm.tokenizer.token_id("<0x0A>")
    assert newline is not None
    choice = tiny_llm.complete(
        "x", json_schema=STRING, logit_bias={newline: 100.0}, max_tokens=60, seed=1
    ).result().choices[0]  # fmt: skip
    assert "\n" not in choice.text


@pytest.mark.parametrize("text", ["<step>", "</s>"])
def test_the_end_comes_exactly_where_a_value_is_complete(demo: LLM, text: str) -> None:
    end = demo.tokenizer.token_id(text)
    assert end is not None
    for seed in range(4):
        choice = demo.chat(
            "hi",
            json_schema={"type": "object", "required": ["a"]},
            logit_bias={end: 100.0, **closing(demo)},
            temperature=1.0,
            seed=seed,
            max_tokens=300,
        ).result().choices[0]  # fmt: skip
        assert choice.finish_reason is FinishReason.STOP
        assert choice.stop == end
        assert "a" in json.loads(choice.text)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"regex": r"\d{3}-[a-f]{4}|none"}, r"\d{3}-[a-f]{4}|none"),
        ({"regex": "(yes|no)!?"}, "(yes|no)!?"),
        ({"lark": 'start: "a" b{1,3}\nb: "b" | "c" "d"'}, "a(b|cd){1,3}"),
        ({"lark": "start: /[a-z]{2,4}/"}, "[a-z]{2,4}"),
    ],
)
def test_expressions_and_lark_grammars(demo: LLM, options: dict[str, Any], pattern: str) -> None:
    for seed in range(5):
        text = demo.complete("x", temperature=2.0 * (seed > 0), seed=seed, **options).text()
        assert re.fullmatch(pattern, text)
    assert re.fullmatch(pattern, demo.infill("a", "b", **options).text())


def test_an_infilled_schema_ends_with_the_infills_own_end(demo: LLM) -> None:
    end = demo.tokenizer.token_id("▁<EOT>")
    assert end is not None
    asked: dict[str, Any] = {"regex": "a+", "logit_bias": {end: 100.0}, "max_tokens": 20}
    choice = demo.infill("a", "b", **asked).result().choices[0]
    assert (choice.text, choice.stop) == ("a", end)
    assert "EOT" not in demo.complete("x", **asked).text(), "it ends nothing else"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.0},
        {"temperature": 1.0, "repeat_penalty": 1.3, "repeat_last_n": -1},
        {"temperature": 0.0, "presence_penalty": 0.5},
        {"temperature": 1.0, "dry_multiplier": 1.0},
        {"temperature": 1.0, "mirostat": 1},
        {"temperature": 1.0, "mirostat": 2},
        {"temperature": 1.0, "xtc_probability": 0.5},
        {"temperature": 1.0, "typical_p": 0.5, "top_n_sigma": 1.0},
    ],
    ids=str,
)
def test_every_way_of_drawing_obeys_and_a_seed_repeats(demo: LLM, options: dict[str, Any]) -> None:
    schema = {"type": "array", "items": {"enum": ["ab", "cd", 17, None]}, "maxItems": 6}
    asked = {"json_schema": schema, "seed": 5, "max_tokens": 200, **options}
    first = demo.complete("x", **asked).result().choices[0]
    assert first.finish_reason is FinishReason.STOP
    jsonschema.validate(json.loads(first.text), schema)
    demo.complete("x", **asked).result()  # from here on every draw finds the same cache
    texts = {demo.complete("x", **asked).text() for _ in range(2)}
    assert len(texts) == 1


def test_choices_follow_a_schema_each_for_itself(demo: LLM) -> None:
    schema = {"enum": [f"{i} of many" for i in range(40)]}
    asked: dict[str, Any] = {"json_schema": schema, "temperature": 2.0, "seed": 1, "top_k": 0}
    choices = demo.complete("x", n=8, **asked).result().choices
    values = [json.loads(choice.text) for choice in choices]
    assert all(value in schema["enum"] for value in values)
    assert len(set(values)) > 1


def test_log_probabilities_and_stop_strings(demo: LLM) -> None:
    choice = demo.complete("x", json_schema={"const": "abcdef"}, logprobs=2).result().choices[0]
    assert len(choice.logprobs) == len(choice.tokens)
    assert all(entry.logprob <= 0 for entry in choice.logprobs)
    stopped = demo.complete("x", json_schema={"const": "abcdef"}, stop=["ef"]).result().choices[0]
    assert (stopped.text, stopped.stop) == ('"abcd', "ef")


def test_a_stream_is_the_whole_answer(demo: LLM) -> None:
    asked: dict[str, Any] = {"json_schema": {"const": "😀 é"}, "temperature": 0}
    assert "".join(demo.chat("hi", **asked)) == demo.chat("hi", **asked).text() == '"😀 é"'


def test_greedy_answers_are_the_same_with_drafts(tiny_gguf: Path) -> None:
    item = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 9}, "size": INTEGER},
        "required": ["name", "size"],
        "additionalProperties": False,
    }
    schema = {"type": "array", "items": item, "minItems": 4, "maxItems": 4}
    options: dict[str, Any] = {"n_ctx": 1024, "n_threads": 1, "flash_attn": "off"}
    with LLM(tiny_gguf, spec_type="none", **options) as plain:
        asked: dict[str, Any] = {
            "json_schema": schema, "temperature": 0, "max_tokens": 600, "logit_bias": closing(plain)
        }  # fmt: skip
        want = plain.chat("list them", **asked).result().choices[0]
    with LLM(tiny_gguf, **options) as drafting:
        got = drafting.chat("list them", **asked).result()
    jsonschema.validate(json.loads(want.text), schema)
    assert got.choices[0].text == want.text
    assert got.timings.draft_accepted > 0


def test_drafts_do_not_repeat_items_that_have_to_differ() -> None:
    schema: dict[str, Any]
    pairs = {"type": "array", "items": [STRING, INTEGER], "minItems": 2, "maxItems": 2}
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 300}
    with LLM(demo_gguf(), n_ctx=2048, n_seq_max=4, n_threads=1) as drafting:
        for schema in (
            {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 8},
            {"type": "array", "items": pairs, "maxItems": 8},
        ):
            schema |= {"uniqueItems": True, "minItems": 6}
            choice = drafting.chat(
                "ab ab ab ab", json_schema=schema, logit_bias=closing(drafting), **asked
            ).result().choices[0]  # fmt: skip
            assert choice.finish_reason is FinishReason.STOP
            jsonschema.Draft7Validator(schema).validate(json.loads(choice.text))


def test_a_schema_acts_with_an_adapter(tiny_gguf: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", seed=1)
    with LLM(tiny_gguf, n_seq_max=2, n_threads=1, lora=[adapter]) as llm:
        for scale in (0.0, 1.0):
            assert llm.complete("x", regex="[ab]{4}!", lora={0: scale}).text()[-1] == "!"


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"json_schema": {"properties": {"a": {"type": "objekt"}}}}, "json_schema",
         "#/properties/a/type"),
        ({"json_schema": {"$ref": "#/$defs/Missing"}}, "json_schema", "#/$ref"),
        ({"json_schema": {"allOf": [{"type": "string"}, INTEGER]}}, "json_schema", "no "),
        ({"json_schema": "{"}, "json_schema", "not JSON"),
        ({"regex": "a("}, "regex", "regex"),
        ({"regex": "a" * 30_000}, "regex", "regex"),
        ({"lark": "nonsense"}, "lark", "lark"),
        ({"grammar": "root ::= " + "(" * 101 + '"a"' + ")" * 101}, "grammar", "deeper than 100"),
        ({"grammar": 'root ::= "a"{1,1001}'}, "grammar", "more than 1000 times"),
        ({"grammar": 'root ::= "a"{3,2}'}, "grammar", "wrong order"),
        ({"grammar": 'root ::= "' + "a" * 300_000 + '"'}, "grammar", "larger than"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)  # fmt: skip
def test_what_cannot_be_enforced_is_named(
    demo: LLM, options: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        demo.complete("x", **options)
    assert caught.value.param == param
    assert words in str(caught.value)


def test_two_forms_exclude_each_other(demo: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="json_schema and regex exclude each other"):
        demo.complete("x", json_schema={}, regex="a")


@pytest.mark.parametrize("by", ["ignore_eos", "logit_bias"])
def test_a_banned_end_fails_its_request_only(demo: LLM, by: str) -> None:
    bans = dict.fromkeys(demo.tokenizer.eog_tokens, -math.inf)
    values: dict[str, Any] = {"ignore_eos": True, "logit_bias": bans}
    with pytest.raises(InvalidRequestError, match="bans the only tokens that fit"):
        demo.complete("x", json_schema={"type": "null"}, **{by: values[by]}).result()
    assert demo.complete("x", json_schema={"type": "null"}).text() == "null"


def test_what_a_schema_forces_is_drafted_and_the_answer_stays(demo: LLM) -> None:
    names = ["first_name", "description", "is_active", "created_at"]
    schema = {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    plain = demo.complete("{", json_schema=schema, temperature=0).result()
    with LLM(demo_gguf(), n_ctx=2048, n_seq_max=1, n_threads=1, spec_type="ngram") as llm:
        drafted = llm.complete("{", json_schema=schema, temperature=0).result()
    assert drafted.text == plain.text
    assert drafted.timings.draft_n > 4
    assert drafted.timings.draft_accepted > drafted.timings.draft_n / 2


def test_a_model_can_be_warmed_up_and_not_after_its_end(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, n_threads=1) as llm:
        llm.warm_up()
        llm.warm_up()
        assert llm.complete("x", regex="yes|no", max_tokens=8).text() in ("yes", "no")
    with LLM(tiny_gguf, n_threads=1) as closed:
        pass
    with pytest.raises(EngineDeadError):
        closed.warm_up()

"""Answers held to words or calls: what fits, what does not, and what cannot be enforced."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.constraints import Constraints, Grammar, Matcher, check_tools, limits
from codellama.errors import GrammarError, InvalidRequestError
from codellama.params import Tool, Tools
from codellama.running.tool_calls import AnswerReader, read_answer
from tests.walks import accepts, drawn, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)
WEATHER = Tool(
    "get_weather",
    "",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/u"}},
        "required": ["city"],
        "$defs": {"u": {"enum": ["c", "f"]}},
    },
)
GET = Tool("get", "", {"type": "object", "properties": {"unit": {"$ref": "#/$defs/u"}},
                       "$defs": {"u": {"type": "integer"}}})  # fmt: skip
NOW = Tool("now")
PARIS = '[CALL] get_weather {"city": "Paris"}'


def fits(tools: Tools, text: str, schema: Any = None) -> bool:
    return accepts(CONSTRAINTS.compile_calls(tools, schema), VOCABULARY, text)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", True),
        ("Any words, {\n[CALL, and é.", True),
        (PARIS, True),
        ("Let me see.\n\n" + PARIS, True),
        (' [CALL]get_weather{"city":"[CALL]","unit":"c"}', True),
        ("[CALL] now {}", True),
        ('[CALL] get {"unit": 1}', True),
        ('[CALL] get {"unit": "c"}', False),  # that is the other function's definition
        ('[CALL] get_weather {"city": "x", "unit": 1}', False),
        ("I would write [CALL] here", False),
        ("[CALL] get_time {}", False),
        ("[CALL] get_weather {}", False),
        ('[CALL] now {"made": "up"}', False),
        ('[CALL] get_weather {\n"city": "Paris"}', False),
        (PARIS + "\n" + PARIS, False),
        (PARIS + " and words", False),
        ('[CALL] get_weather {"city": "Par', False),
    ],
)
def test_auto_is_words_or_a_call(text: str, right: bool) -> None:
    assert fits(Tools((WEATHER, NOW, GET)), text) == right


@pytest.mark.parametrize(
    ("tools", "text", "right"),
    [
        (Tools((WEATHER, NOW), "required"), "words", False),
        (Tools((WEATHER, NOW), "required"), "", False),
        (Tools((WEATHER, NOW), "required"), PARIS, True),
        (Tools((WEATHER, NOW), "required"), " [CALL] now {}", True),
        (Tools((WEATHER, NOW), "required"), PARIS + "\n[CALL] now {}", False),
        (Tools((WEATHER, NOW), "required", parallel=True), PARIS + "\n[CALL] now {}", True),
        (Tools((WEATHER, NOW), "auto", parallel=True), "x " + PARIS + "\n[CALL] now {}", True),
        (Tools((WEATHER,), "named", parallel=True), PARIS, True),
        (Tools((WEATHER,), "named", parallel=True), PARIS + PARIS, False),
        (Tools((WEATHER,), "named"), "[CALL] now {}", False),
    ],
)
def test_forced_and_parallel_calls(tools: Tools, text: str, right: bool) -> None:
    assert fits(tools, text) == right


def test_calls_in_one_answer_are_bounded() -> None:
    tools = Tools((NOW,), "required", parallel=True)
    assert fits(tools, "[CALL] now {}" * limits.CALLS)
    assert not fits(tools, "[CALL] now {}" * (limits.CALLS + 1))


def test_words_may_have_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    tools = Tools((NOW,))
    assert fits(tools, '{"a": "[CALL]"}', schema) and fits(tools, "[CALL] now {}", schema)
    assert not fits(tools, "words", schema) and not fits(tools, '{"a": "b"} [CALL] now {}', schema)


@pytest.mark.parametrize(
    ("parameters", "text", "right"),
    [
        ({}, '{"any": [1]}', True),
        ({}, "[1]", False),
        ({"type": "object", "properties": {}}, "{}", True),
        ({"type": "object", "properties": {}}, '{"a": 1}', False),
        ({"properties": {"a": {}}, "additionalProperties": True}, '{"b": 1}', True),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}},
         '{"n": {"n": {}}}', True),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"n": {"type": "null"}}}}},
         '{"n": 1}', False),
    ],
)  # fmt: skip
def test_arguments_are_an_object(parameters: Any, text: str, right: bool) -> None:
    assert fits(Tools((Tool("f", "", parameters),), "named"), f"[CALL] f {text}") == right


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"type": "array"}, r"tools\.f\.parameters: at #/type: the arguments of a function are an object"),
        ({"type": "object", "properties": {"a": {"type": "objekt"}}},
         r"tools\.f\.parameters: at #/properties/a/type: unknown type"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_names_the_function(parameters: Any, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        CONSTRAINTS.compile_calls(Tools((NOW, Tool("f", "", parameters))))
    with pytest.raises(GrammarError, match=r"json_schema: at #/type: unknown type"):
        CONSTRAINTS.compile_calls(Tools((NOW,)), {"type": "objekt"})


KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"),
    *("object", "string", "integer", "array", "$ref", "#", "#/$defs/a", "$defs", "a", "minimum"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.sampled_from(KEYWORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYWORDS), JSON, max_size=4))
def test_any_parameters_are_enforced_or_refused(parameters: dict[str, Any]) -> None:
    try:
        CONSTRAINTS.compile_calls(Tools((Tool("f", "", parameters),)))
    except InvalidRequestError as error:
        assert error.param in ("tools", "tools.f.parameters")
        assert error.param in str(error)


@pytest.mark.parametrize("choice", ["auto", "required", "named"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"properties": {"a": {"minimum": 3, "maximum": 1, "type": "integer"}}, "required": ["a"]},
        {
            "properties": {"a": {"type": "string", "pattern": "^a$", "minLength": 2}},
            "required": ["a"],
        },
    ],
)
def test_functions_that_can_never_be_called_are_refused(choice: Any, parameters: Any) -> None:
    never = Tool("f", "", parameters)
    offered = (never,) if choice == "named" else (NOW, never, WEATHER)
    with pytest.raises(GrammarError, match=r"no value satisfies this schema") as caught:
        CONSTRAINTS.compile_calls(Tools(offered, choice))
    assert caught.value.param == "tools.f.parameters"


def test_words_that_can_never_be_said_beside_functions_are_refused() -> None:
    with pytest.raises(GrammarError, match=r"json_schema: at #: no value satisfies this schema"):
        CONSTRAINTS.compile_calls(Tools((NOW,)), {"type": "integer", "minimum": 3, "maximum": 1})


def test_a_call_is_one_line_beside_a_schema_for_words_too() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for words in (None, schema):
        tools = Tools((Tool("f", "", schema),), "auto", True)
        grammar = CONSTRAINTS.compile_calls(tools, words)
        assert accepts(grammar, VOCABULARY, '[CALL] f {"a": 1}\n[CALL] f {"a":2}')
        assert not accepts(grammar, VOCABULARY, '[CALL] f {\n"a": 1}')
        assert not accepts(grammar, VOCABULARY, '[CALL]\nf {"a": 1}')
    assert accepts(grammar, VOCABULARY, '{"a": 1}')
    assert not accepts(grammar, VOCABULARY, '{\n  "a": 1}')


def test_the_number_and_the_size_of_functions_are_bounded() -> None:
    check_tools(Tools(tuple(Tool(f"f{i}") for i in range(limits.TOOLS))))
    with pytest.raises(InvalidRequestError, match=r"tools has 129 functions, more than 128"):
        check_tools(Tools(tuple(Tool(f"f{i}") for i in range(limits.TOOLS + 1))))
    with pytest.raises(InvalidRequestError, match=r"tools has \d+ bytes .* more than 262144"):
        CONSTRAINTS.compile_calls(Tools((Tool("f", "x" * limits.TOOLS_BYTES),)))
    with pytest.raises(InvalidRequestError, match=r"tools: the parameters of f are no JSON"):
        check_tools(Tools((Tool("f", "", {"a": float("nan")}),)))


def test_the_effort_for_all_functions_is_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    either = {"anyOf": [{"properties": {f"p{i}": {"minimum": i}}} for i in range(10)]}
    costly = {"type": "object", "allOf": [either, either]}  # 360 steps
    monkeypatch.setattr(limits, "STEPS", 1000)
    CONSTRAINTS.compile_calls(Tools((Tool("f", "", costly),)))
    many = Tools(tuple(Tool(f"f{i}", "", costly) for i in range(3)))
    with pytest.raises(GrammarError, match=r"tools\.f2\.parameters: at #"):
        CONSTRAINTS.compile_calls(many)


def test_equal_offers_are_compiled_once() -> None:
    first = CONSTRAINTS.compile_calls(Tools((WEATHER, NOW)))
    same = Tool(WEATHER.name, "said otherwise", WEATHER.parameters)
    assert CONSTRAINTS.compile_calls(Tools((same, NOW))) is first
    assert CONSTRAINTS.compile_calls(Tools((WEATHER, NOW), "required")) is not first


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("parallel", [False, True])
def test_whatever_the_grammar_lets_through_is_read_as_words_and_valid_calls(
    choice: Any, parallel: bool
) -> None:
    open_one = Tool("any", "", {"type": "object", "properties": {"x": {}}, "required": ["x"]})
    tools = Tools((WEATHER, NOW, open_one), choice, parallel)
    grammar = CONSTRAINTS.compile_calls(tools)
    schemas = {tool.name: tool.parameters or {} for tool in tools.functions}
    rng, called = random.Random(7), 0
    for _ in range(150):
        text = _drawn_with_a_tag(grammar, rng, choice == "auto")
        if text is None:
            continue
        said = read_answer(AnswerReader(), text)
        called += len(said.calls)
        assert "[CALL]" not in said.text
        assert len(said.calls) <= (limits.CALLS if parallel else 1)
        if choice == "required":
            assert said.calls and not said.text
        for call in said.calls:
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])
    assert called > 50


def _drawn_with_a_tag(grammar: Grammar, rng: random.Random, words: bool) -> str | None:
    """A text drawn from the masks; of words, the tag is put in first, since nobody draws it by chance."""
    if not words:
        return drawn(grammar, VOCABULARY, rng)
    begun = rng.choice(["", "Some words. ", "\n"]) + "[CALL]"
    matcher = grammar.matcher()
    for token in VOCABULARY.encode(begun.encode()):
        matcher.accept(token)
    rest = drawn(_Begun(matcher), VOCABULARY, rng)  # type: ignore[arg-type]
    return None if rest is None else begun + rest


class _Begun:
    """A grammar of which a part has been written."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher

    def matcher(self) -> Matcher:
        """The matcher behind that part."""
        return self._matcher

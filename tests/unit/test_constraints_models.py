"""Schemas that pydantic and hypothesis-jsonschema make: every drawn text is valid, valid values go in."""

from __future__ import annotations

import datetime
import enum
import json
import random
import uuid
import warnings
from typing import Annotated, Any, Literal

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from codellama.constraints import Constraints
from codellama.errors import GrammarError
from tests.walks import accepts_value, drawn, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Address(BaseModel):
    street: str
    zip: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, lt=150)
    address: Address | None = None
    tags: list[str] = Field(default_factory=list, max_length=3)
    colour: Colour = Colour.red


class Node(BaseModel):
    value: int
    children: list[Node] = []
    next: Node | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Pets(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Cat | Dog] = []


class Times(BaseModel):
    at: datetime.datetime
    day: datetime.date
    time: datetime.time
    span: datetime.timedelta
    id: uuid.UUID


class Bounds(BaseModel):
    a: float = Field(ge=0.5, le=2.5)
    b: int = Field(gt=3, multiple_of=5)
    c: Annotated[str, Field(min_length=2, max_length=4)]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    anything: Any
    thing: object = None
    table: dict[str, int] = {}
    nested: dict[str, list[dict[str, bool]]] = {}


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pair: tuple[int, str]
    triple: tuple[int, ...] = ()
    flag: bool | None = None
    number: int | str | None = None


class Alias(BaseModel):
    key: str = Field(alias='odd "key"\\')
    literal: Literal[1, "two", True, None]


class Record(TypedDict, total=False):
    name: str
    count: int


class Holder(BaseModel):
    record: Record
    mixed: list[Record | int | None]


class Expression(BaseModel):
    op: Literal["+", "*"]
    left: Expression | float
    right: Expression | float


MODELS = [Person, Node, Pets, Times, Bounds, Open, Closed, Alias, Holder, Expression]


def strict(schema: Any) -> Any:
    """The schema as openai's client sends it: everything required, nothing further."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items() if key != "default"}
    if result.get("type") == "object" and "properties" in result:
        result["additionalProperties"] = False
        result["required"] = list(result["properties"])
    return result


@pytest.mark.parametrize("form", [lambda schema: schema, strict], ids=["plain", "strict"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_pydantic_takes_every_answer_under_its_own_schema(
    model: type[BaseModel], form: Any
) -> None:
    schema = form(model.model_json_schema())
    grammar = CONSTRAINTS.compile_schema(schema)
    rng = random.Random(3)
    texts = [drawn(grammar, VOCABULARY, rng) for _ in range(25)]
    finished = [text for text in texts if text is not None]
    assert len(finished) > 12
    for text in finished:
        model.model_validate_json(text)


VALUES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Person, {"name": "Zoë", "age": 3, "address": {"street": "a\nb", "zip": "12345"}, "tags": ["x"]}),
    (Node, {"value": 1, "children": [{"value": 2, "next": {"value": 3}}]}),
    (Pets, {"pet": {"kind": "dog", "name": "Rex"}, "others": [{"kind": "cat", "lives": 9}]}),
    (Times, {"at": "2024-02-29T12:00:00Z", "day": "2024-02-29", "time": "12:00:00Z", "span": "P1D",
             "id": str(uuid.UUID(int=5))}),
    (Bounds, {"a": 0.5, "b": 5, "c": "ab"}),
    (Open, {"anything": [1, {"a": None}], "table": {"a": 1}, "nested": {"x": [{"y": True}]}, "more": 1}),
    (Closed, {"pair": [1, "a"], "triple": [1, 2, 3], "flag": None, "number": "x"}),
    (Alias, {'odd "key"\\': "v", "literal": "two"}),
    (Holder, {"record": {"name": "x"}, "mixed": [1, None, {"count": 1}]}),
    (Expression, {"op": "+", "left": {"op": "*", "left": 1.5, "right": 2}, "right": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "value"), VALUES, ids=lambda v: getattr(v, "__name__", ""))
def test_values_of_a_model_are_accepted(model: type[BaseModel], value: dict[str, Any]) -> None:
    model.model_validate(value)
    grammar = CONSTRAINTS.compile_schema(model.model_json_schema())
    assert accepts_value(grammar, VOCABULARY, value, model.model_json_schema())


NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.sampled_from(
    [
        *({"type": kind} for kind in ("null", "boolean", "integer", "number", "string")),
        *(
            {"type": "integer", "minimum": -3, "maximum": 12},
            {"enum": [1, "x", None, [1], {"a": 2}]},
        ),
        *({"type": "string", "minLength": 1, "maxLength": 3}, {"const": {"a": [True]}}, {}, True),
        *(
            {"type": "number", "exclusiveMinimum": 0.25, "maximum": 3},
            {"type": "integer", "multipleOf": 3},
        ),
        *(
            {"type": "string", "pattern": "^[ab]+c?$"},
            {"type": ["string", "integer"], "minimum": 3},
        ),
    ]
)


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    properties = st.dictionaries(NAMES, inner, max_size=3)
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": properties},
            optional={
                "required": st.lists(NAMES, unique=True, max_size=2),
                "additionalProperties": inner,
                "patternProperties": st.dictionaries(
                    st.sampled_from(["^a", "b$"]), inner, max_size=2
                ),
                "maxProperties": st.integers(1, 4),
                "minProperties": st.integers(0, 2),
                "dependentRequired": st.just({"a": ["b"]}),
            },
        ),
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={
                "items": inner,
                "prefixItems": some,
                "minItems": st.integers(0, 2),
                "maxItems": st.integers(1, 4),
                "contains": inner,
                "uniqueItems": st.booleans(),
            },
        ),
        st.fixed_dictionaries({}, optional={"anyOf": some, "not": inner}),
        st.fixed_dictionaries({"allOf": some}),
        st.fixed_dictionaries({"oneOf": some}),
        st.fixed_dictionaries({"if": inner, "then": inner}, optional={"else": inner}),
    )


SCHEMAS = st.recursive(LEAVES, _larger, max_leaves=6)


def check_schema(schema: Any, seed: int, texts: int = 4) -> None:
    """Texts drawn under the schema are valid by `jsonschema`."""
    try:
        grammar = CONSTRAINTS.compile_schema(schema)
    except GrammarError:
        return
    judge = jsonschema.Draft202012Validator(schema)
    rng = random.Random(seed)
    for _ in range(texts):
        text = drawn(grammar, VOCABULARY, rng, most=150)
        if text is not None:
            errors = [error.message for error in judge.iter_errors(json.loads(text))]
            assert not errors, (schema, text, errors)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_texts_under_any_schema_are_valid(schema: Any, seed: int) -> None:
    check_schema(schema, seed)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), schema=SCHEMAS)
def test_values_of_generated_schemas_are_accepted(data: st.DataObject, schema: Any) -> None:
    """What hypothesis-jsonschema makes of a schema is accepted, where the schema is not refused."""
    try:
        grammar = CONSTRAINTS.compile_schema(schema)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = data.draw(from_schema(schema))
    except GrammarError:
        return
    except Exception:  # hypothesis-jsonschema cannot make values of every schema
        return
    if jsonschema.Draft202012Validator(schema).is_valid(value) and _is_plain(value):
        assert accepts_value(grammar, VOCABULARY, value, schema), (schema, value)


def _is_plain(value: Any) -> bool:
    """Whether every usual writer gives the value in a form that constraints have room for."""
    if isinstance(value, float):
        return 1e-3 < abs(value) < 1e5 and value == round(value, 6) and not value.is_integer()
    if isinstance(value, dict):
        return len(value) < 5 and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else True

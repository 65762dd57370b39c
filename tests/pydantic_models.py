"""Pydantic models of every kind that people ask an answer for, and values that they take."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import (
    AnyUrl,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    NegativeInt,
    NonNegativeFloat,
    PastDate,
    RootModel,
    SecretStr,
    WithJsonSchema,
    computed_field,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass
from pydantic.types import AwareDatetime, PositiveInt, StrictInt, StringConstraints
from typing_extensions import NotRequired, TypedDict


class Colour(enum.Enum):
    RED = "red"
    GREEN = "gr\u00fcn"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str
    zip: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, lt=150)
    address: Address
    emails: list[str] = []


class Optionals(BaseModel):
    a: int | None = None
    b: str | None
    c: Address | None = None


class Literals(BaseModel):
    kind: Literal["a", "b", 3, True, None]
    one: Literal["only"]


class Enums(BaseModel):
    colour: Colour
    level: Level
    both: Colour | Level


class Unions(BaseModel):
    value: int | str | list[int] | None
    numbers: int | float | bool


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog", "wolf"]
    name: str


class Pets(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Cat | Dog] = []


class Tables(BaseModel):
    counts: dict[str, int]
    nested: dict[str, dict[str, bool]] = {}
    by_colour: dict[Literal["x", "y"], float] = {}


class Mapped(BaseModel):
    hours: dict[str, float] = Field(max_length=2)


class Node(BaseModel):
    value: int
    next: Node | None = None


class Tree(BaseModel):
    name: str
    children: list[Tree]


class Expression(BaseModel):
    op: Literal["+", "*"]
    left: Expression | float
    right: Expression | float


class Ui(BaseModel):
    type: Literal["div", "button"]
    label: str
    children: list[Ui]
    attributes: list[dict[str, str]]


class Datetimes(BaseModel):
    at: dt.datetime
    day: dt.date
    time: dt.time


class Zones(BaseModel):
    aware: AwareDatetime
    when: AwareDatetime | None = None


class Spans(BaseModel):
    span: dt.timedelta
    short: dt.timedelta | None = None


AMOUNT = {"type": "string", "format": "decimal"}
PATTERN = r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*)$"
"""What pydantic 2.12 writes for three digits, and two decimals more."""


class Money(BaseModel):
    """pydantic's own schema for Decimal is the same as for `float | str`: any text goes."""

    price: Annotated[Decimal, WithJsonSchema(AMOUNT)]
    rate: Annotated[Decimal, WithJsonSchema({"anyOf": [{"type": "number"}, AMOUNT]})]
    small: Annotated[Decimal, WithJsonSchema({"type": "string", "pattern": PATTERN})]


class Bounds(BaseModel):
    age: int = Field(ge=18, lt=130)
    share: float = Field(gt=0, le=1)
    step: int = Field(multiple_of=5, ge=0, le=1000)
    cents: float = Field(multiple_of=0.01, ge=0)
    positive: PositiveInt


class Patterns(BaseModel):
    zip: str = Field(pattern=r"^\d{5}$")
    loose: str = Field(pattern=r"[a-z]+\d", max_length=9)
    either: str = Field(pattern=r"^(foo|bar)-\w{1,6}\.$")
    lengths: str = Field(pattern="^[a-c]*$", min_length=2, max_length=4)


class Constrained(BaseModel):
    upper: Annotated[str, StringConstraints(min_length=1, max_length=4)]
    strict: StrictInt
    rows: Annotated[list[int], Field(min_length=1, max_length=3)]


class Anything(BaseModel):
    value: Any
    thing: object = None


class Sets(BaseModel):
    words: set[str]
    numbers: frozenset[int] = Field(max_length=4)
    colours: set[Colour] = set()
    pairs: set[tuple[int, str]] = set()


class Tuples(BaseModel):
    pair: tuple[int, bool]
    many: tuple[float, ...]
    mixed: tuple[str, int, None]


class Ids(BaseModel):
    id: uuid.UUID
    four: uuid.UUID | None = None


class Urls(BaseModel):
    site: HttpUrl
    any: AnyUrl


class Networks(BaseModel):
    v4: ipaddress.IPv4Address
    v6: ipaddress.IPv6Address
    either: ipaddress.IPv4Address | ipaddress.IPv6Address
    net: ipaddress.IPv4Network


class Raw(BaseModel):
    data: bytes
    coded: Base64Bytes
    path: Path


class Quoted(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    word: str = Field(alias='a"b\\')
    other: int = Field(alias="with blank/é")


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: list[Address] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Record(TypedDict):
    name: str
    count: NotRequired[int]


class Holder(BaseModel):
    record: Record
    mixed: list[Record | int | None]


class Numbers(RootModel[list[int]]):
    pass


class Step(BaseModel):
    explanation: str
    output: str


class Reasoning(BaseModel):
    steps: list[Step]
    final_answer: str


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    more: bool = False


class Pages(BaseModel):
    people: Page[Address]
    numbers: Page[int] | None = None


class Point(NamedTuple):
    x: float
    y: float = 0


@dataclass
class Size:
    width: int
    unit: Literal["cm", "in"] = "cm"


class Shapes(BaseModel):
    corner: Point
    size: Size
    sizes: dict[str, Size] = {}


class Priced(BaseModel):
    price: Decimal = Field(ge=0, max_digits=6, decimal_places=2)
    plain: Decimal | None = None


class Totals(BaseModel):
    parts: list[int]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return sum(self.parts)


class Bag(BaseModel):
    line: Sequence[int]
    queue: deque[str] = Field(default_factory=deque, max_length=2)
    table: Mapping[int, str] = {}


class One(enum.Enum):
    ONLY = "only"


class Singles(BaseModel):
    one: One
    kind: Literal["x"]
    secret: SecretStr
    nothing: None = None


class Signs(BaseModel):
    below: NegativeInt
    above: NonNegativeFloat
    day: PastDate
    bit: Annotated[int, Field(ge=-1, le=1)]


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")
    first_name: str = Field(min_length=1)
    last_seen_at: int | None = Field(default=None, description="seconds")


class Bird(BaseModel):
    kind: Literal["bird"]
    pet: Annotated[Cat | Dog | Bird, Field(discriminator="kind")] | None = None


class Nest(BaseModel):
    inner: dict[str, list[Bird | Cat]]
    deep: list[list[list[bool]]] = Field(default=[], max_length=1)


class Unicode(BaseModel):
    word: str = Field(pattern=r"^[\u00c0-\u017fA-Za-z]{1,8}$")
    code: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}-\d+(\.\d+)?$", max_length=8)]


MODELS: list[type[BaseModel]] = [
    Person, Optionals, Literals, Enums, Unions, Pets, Tables, Mapped, Node, Tree, Expression, Ui, Datetimes,
    Zones, Spans, Money, Bounds, Patterns, Constrained, Anything, Sets, Tuples, Ids, Urls, Networks, Raw,
    Quoted, Closed, Open, Holder, Numbers, Address, Reasoning,
]  # fmt: skip
"""Thirty-three."""

MORE: list[type[BaseModel]] = [
    Pages,
    Shapes,
    Priced,
    Totals,
    Bag,
    Singles,
    Signs,
    Camel,
    Nest,
    Unicode,
]
"""Kinds that are asked for less often."""

"""How large a schema, a pattern or a grammar may be: every bound of this room, in one place.

A request's author chooses these sizes, so each is checked before anything is unrolled or handed on. The
bounds leave room for what people write and stay far below what any parser here has trouble with.
"""

from __future__ import annotations

SCHEMA_BYTES = 1 << 20
"""A schema written as compact JSON."""
SCHEMA_DEPTH = 64
"""Nesting of objects and arrays in a schema."""
SCHEMA_VALUES = 50_000
"""Objects, arrays, numbers, strings in a schema, counted together."""
ENUM_VALUES = 10_000
"""Values of one enum."""
LENGTH = 1_000_000
"""minLength and maxLength that are enforced; a larger maxLength is an error."""
ITEMS = 100_000
"""minItems and maxItems."""
PROPERTY_COUNT = 200
"""minProperties and maxProperties where properties are optional: one rule for each count and property."""
STATES = 4_000
"""Rules for one array or object whose members are counted (contains, minProperties)."""
COMBINATIONS = 600
"""Alternatives of one type that one place of a schema may unfold to."""
GOALS = 20_000
"""Different places that a schema may unfold to."""
RULES = 10_000
"""Rules of a grammar: about 0.7 seconds and 50 MB while it is compiled. A schema of 33 kB has 1,200."""
STEPS = 400_000
"""Alternatives looked at while one schema is unfolded: about two seconds."""
OPEN_CLASSES = 6
"""Kinds of keys that patternProperties, additionalProperties and their like may overlap in."""
MULTIPLE = 1_440
"""multipleOf without its point, unless the last digits of a number tell; more takes a millisecond a token."""
MULTIPLES_TO = 10**12
"""Multiples of other numbers without bounds go so far, or so far from their one bound."""
UNIQUE_VALUES = 63
"""Different values of an array with uniqueItems that the grammar itself counts: one bit each."""
UNIQUE_STEPS = 5_000
"""Bytes looked at to see whether an item can still become different from all earlier ones."""

PATTERN_CHARS = 4_000
"""A regular expression's text."""
PATTERN_DEPTH = 40
"""Nesting of groups."""
PATTERN_SIZE = 50_000
"""A pattern's parts, each counted as often as it is repeated."""
PATTERNS = 6
"""Patterns that one string has to match at the same time, lookaheads and formats included."""
REGEX_CHARS = 20_000
"""The text of a request's own `regex`."""
LARK_BYTES = 1 << 18
"""The text of a Lark grammar."""
LARK_REPEATS = 10_000
"""A repetition count in a Lark grammar."""

TOOLS = 128
"""Functions that a request offers, as many as OpenAI's."""
TOOLS_BYTES = 1 << 18
"""Their descriptions and schemas together; a prompt has room for fewer."""
CALLS = 32
"""Calls in one answer."""

ANY_DEPTH = 24
"""Nesting of a value that a schema leaves open, and of `{"type": "json_object"}`."""
INTEGER_DIGITS = 64
"""Digits of a whole number without bounds."""
FRACTION_DIGITS = 32
"""Digits after the point."""

GBNF_BYTES = 1 << 18
GBNF_DEPTH = 100
"""Nesting of groups in a GBNF grammar."""
GBNF_REPEATS = 1_000
"""Repetition counts in a GBNF grammar."""
GBNF_SYMBOLS = 100_000
"""Symbols of a GBNF grammar after its repetitions are written out."""

CACHE_ENTRIES = 128
"""Compiled grammars kept for each model."""
CACHE_BYTES = 64 << 20
"""Their size, guessed from their texts."""

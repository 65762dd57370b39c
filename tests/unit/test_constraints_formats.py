"""What is let through under a format is what pydantic's types for it parse."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import random
import re
import uuid
from decimal import Decimal
from typing import Any

import pytest
from pydantic import (
    UUID1,
    UUID3,
    UUID4,
    UUID5,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    Base64UrlBytes,
    HttpUrl,
    IPvAnyAddress,
    IPvAnyInterface,
    IPvAnyNetwork,
    TypeAdapter,
)

from codellama.constraints import Constraints
from codellama.constraints.regex_parser import parse
from tests.walks import accepts, drawn, slice_vocabulary

VOCABULARY = slice_vocabulary()
CONSTRAINTS = Constraints(VOCABULARY)
TYPES: dict[str, Any] = {
    "uri": AnyUrl,
    "date": dt.date,
    "date-time": AwareDatetime,
    "time": dt.time,
    "duration": dt.timedelta,
    "uuid": uuid.UUID,
    "uuid1": UUID1,
    "uuid3": UUID3,
    "uuid4": UUID4,
    "uuid5": UUID5,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "ipvanyaddress": IPvAnyAddress,
    "ipv4interface": ipaddress.IPv4Interface,
    "ipv6interface": ipaddress.IPv6Interface,
    "ipvanyinterface": IPvAnyInterface,
    "ipv4network": ipaddress.IPv4Network,
    "ipv6network": ipaddress.IPv6Network,
    "ipvanynetwork": IPvAnyNetwork,
    "decimal": Decimal,
    "base64": Base64Bytes,
    "base64url": Base64UrlBytes,
}


def some_texts(schema: dict[str, Any], count: int = 40) -> list[str]:
    grammar = CONSTRAINTS.compile_schema(schema)
    texts = [drawn(grammar, VOCABULARY, random.Random(seed), 150) for seed in range(count)]
    finished = [text for text in texts if text is not None]
    assert len(finished) > count // 4
    return finished


@pytest.mark.parametrize("name", TYPES)
def test_pydantic_parses_every_text_of_a_format(name: str) -> None:
    adapter = TypeAdapter(TYPES[name])
    for text in some_texts({"type": "string", "format": name}):
        adapter.validate_json(text)


def test_pydantics_own_schemas_of_addresses() -> None:
    adapter = TypeAdapter(HttpUrl)
    schema = adapter.json_schema()
    for text in some_texts(schema):
        adapter.validate_json(text)
    grammar = CONSTRAINTS.compile_schema(schema)
    for address in ("https://example.org:8080/a?b=c#d", "http://localhost", "http://[::1]/"):
        assert accepts(grammar, VOCABULARY, json.dumps(address)), address
    assert not accepts(grammar, VOCABULARY, '"mailto:a@b.org"'), "only AnyUrl takes that"
    any_address = CONSTRAINTS.compile_schema(TypeAdapter(AnyUrl).json_schema())
    for address in ("mailto:a@b.org", "urn:isbn:123", "file:///a/b", "ldap://[2001:db8::7]/c"):
        assert accepts(any_address, VOCABULARY, json.dumps(address)), address
    for address in ("http://a:99999/", "http://", "http://a.1/", "http://a%20b/"):
        assert not accepts(any_address, VOCABULARY, json.dumps(address)), address


def test_every_reader_takes_the_regular_expressions() -> None:
    for text in some_texts({"type": "string", "format": "regex"}, 150):
        source = json.loads(text)
        re.compile(source)
        parse(source)

"""Mutations of files: of bytes, of JSON. Every choice comes from the generator that is handed in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

COUNTS = (
    *(0, 1, 2, 3, 4, 7, 8, 63, 64, 127, 128, 255, 256, 512, 513, 4096, 65535, 65536),
    *(2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)

NAMES = (
    *("", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "x\0y", "\0", "con", "-"),
    *("config.json", "tokenizer.model", "\ud800", "\udcff", "\u202e", "\x1b[2J", "\n", "😀"),
    *("<step>", "<unk>", "[EMPTY_3]", "▁", "a" * 70, "a" * 5000, "__metadata__", "weight_map"),
)

SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 10**18, 10**30, 10**90, -(2**63)),
    *(2**31, 2**32, 2**53, 2**64, "", "0", "llama", [], {}),
)

RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 300, "9" * 5000, "-" + "1" * 101),
    *('"\\ud800"', '"\\u0000"', "01", "1.", ".5", "+1", "0x10", "'a'", "nul", "", "[" * 2000),
    *("[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70, "[" * 3000 + "]" * 3000),
    *("[0" + ",0" * 3000 + "]", '{"a":1,"a":2}', "/* x */ 1", '"' + "a" * 9000 + '"', "1,"),
)


class Raw(str):
    """Text that goes into JSON as it is."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object whose names may repeat."""


def havoc(rng: Random, data: bytes, most: int = 6) -> bytes:
    """A few edits of bytes, one after the other."""
    for _ in range(rng.randint(1, most)):
        data = rng.choice(_EDITS)(rng, bytearray(data))
    return data


def _flip(rng: Random, data: bytearray) -> bytes:
    for _ in range(min(len(data), rng.randint(1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _truncate(rng: Random, data: bytearray) -> bytes:
    return bytes(data[: rng.randint(0, len(data))])


def _remove(rng: Random, data: bytearray) -> bytes:
    begin = rng.randint(0, len(data))
    del data[begin : begin + rng.choice((1, 2, 4, 8, 100))]
    return bytes(data)


def _insert(rng: Random, data: bytearray) -> bytes:
    place = rng.randint(0, len(data))
    data[place:place] = rng.randbytes(rng.choice((1, 2, 4, 8, 100)))
    return bytes(data)


def _splice(rng: Random, data: bytearray) -> bytes:
    begin, place, length = rng.randint(0, len(data)), rng.randint(0, len(data)), rng.randint(1, 200)
    piece = data[begin : begin + length]
    data[place : place + (length if rng.random() < 0.5 else 0)] = piece
    return bytes(data)


def _set_number(rng: Random, data: bytearray) -> bytes:
    return set_number(rng, data, rng.randint(0, len(data)), rng.choice((1, 4, 8)))


def _extend(rng: Random, data: bytearray) -> bytes:
    return bytes(data) + bytes(rng.choice((1, 31, 32, 4096)))


_EDITS: Sequence[Callable[[Random, bytearray], bytes]] = (
    *(_flip, _flip, _truncate, _remove, _insert, _splice, _set_number, _set_number, _extend),
)


def set_number(rng: Random, data: bytearray, place: int, width: int) -> bytes:
    """An absurd or slightly wrong little-endian number at `place`."""
    mask = (1 << 8 * width) - 1
    old = int.from_bytes(data[place : place + width], "little")
    new = rng.choice((rng.choice(COUNTS), old + rng.randint(-3, 3), len(data) - rng.randint(0, 64)))
    data[place : place + width] = struct.pack("<Q", new & mask)[:width]
    return bytes(data)


def mutate_json(rng: Random, content: Any) -> bytes:
    """`content` with a few of its values changed, and then perhaps its text."""
    tree = _tree(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _change(rng, tree)
    data = dump(tree)
    if rng.random() < 0.15:
        data = havoc(rng, data, 2)
    if rng.random() < 0.03:
        text = data.decode("utf-8", "replace")
        data = text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")
    return data


def _tree(content: Any) -> Any:
    if isinstance(content, dict):
        return Pairs((name, _tree(value)) for name, value in content.items())
    return [_tree(value) for value in content] if isinstance(content, list) else content


def _change(rng: Random, node: Any) -> Any:
    """Change `node`, or with some luck something inside it."""
    if isinstance(node, Pairs) and node and rng.random() < 0.85:
        return _change_object(rng, node)
    if isinstance(node, list) and node and not isinstance(node, Pairs) and rng.random() < 0.7:
        place = rng.randrange(len(node))
        kind = rng.random()
        if kind < 0.15:
            return node[:place] + node[place + 1 :]
        if kind < 0.3:
            return [*node, node[place]]
        return [*node[:place], _change(rng, node[place]), *node[place + 1 :]]
    return _replacement(rng, node)


def _change_object(rng: Random, node: Pairs) -> Pairs:
    place = rng.randrange(len(node))
    name, value = node[place]
    kind = rng.random()
    changed = Pairs(node)
    if kind < 0.1:
        del changed[place]
    elif kind < 0.2:
        changed.insert(rng.randint(0, len(node)), (name, _change(rng, value)))
    elif kind < 0.3:
        changed[place] = (rng.choice((*NAMES, rng.choice(node)[0])), value)
    elif kind < 0.35:
        changed[place] = (name, rng.choice(node)[1])
    else:
        changed[place] = (name, _change(rng, value))
    return changed


def _replacement(rng: Random, old: Any) -> Any:
    kind = rng.random()
    if kind < 0.25 and isinstance(old, int):
        return old + rng.choice((-1, 1, -old, old, 2**31, 2**63))
    if kind < 0.45:
        return rng.choice(COUNTS) * rng.choice((1, 1, -1))
    if kind < 0.65:
        return rng.choice(NAMES)
    if kind < 0.8:
        return Raw(rng.choice(RAW))
    if kind < 0.85:
        return [old] * rng.randint(1, 3)
    return rng.choice(SCALARS)


def dump(node: Any) -> bytes:
    """The JSON of a tree, with what `Raw` says verbatim."""
    return _text(node).encode("utf-8", "surrogatepass")


def _text(node: Any) -> str:
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {_text(value)}" for name, value in node) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(_text, node)) + "]"
    return json.dumps(node)

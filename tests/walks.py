"""Walks texts through constraints token by token, and draws texts at random from their masks."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from codellama.constraints import Grammar

DATA = Path(__file__).parent / "data" / "llama_pieces.json"


class Pieces:
    """A vocabulary from its pieces; the first three are `<unk>`, `<s>`, `</s>`, the last is `<step>`."""

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int], control: set[int]) -> None:
        self._pieces = list(pieces)
        self._control = control
        self.end_tokens = list(ends)
        self.n_vocab = len(self._pieces)
        self._ids: dict[bytes, int] = {}
        for token, piece in enumerate(self._pieces):
            if token not in control:
                self._ids[piece] = token  # a piece of letters rather than the byte token
        self._longest = max(map(len, self._ids))

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._pieces[token]

    def is_control(self, token: int) -> bool:
        """Whether the token is no text."""
        return token in self._control

    def encode(self, data: bytes) -> list[int]:
        """Tokens for the data, each as long as possible."""
        tokens, at = [], 0
        while at < len(data):
            for size in range(min(self._longest, len(data) - at), 0, -1):
                token = self._ids.get(data[at : at + size])
                if token is not None:
                    break
            assert token is not None
            tokens.append(token)
            at += size
        return tokens


def slice_vocabulary() -> Pieces:
    """Byte tokens, and some hundred pieces of the real Llama vocabulary."""
    names = json.loads(DATA.read_text("utf-8"))["pieces"]
    texts = [name.replace("▁", " ").encode() for name in names]
    json_texts = [b'{"', b'":', b'",', b'"}', b"},", b'": ', b'": "', b'", "', b"[{", b"}]", b"\\n"]
    pieces = [b"", b"", b"", *(bytes([i]) for i in range(256)), *texts, *json_texts, b""]
    last = len(pieces) - 1
    return Pieces(pieces, [2, last], {0, 1, 2, last})


def real_vocabulary(path: Path) -> Pieces:
    """The real Llama vocabulary out of its GGUF."""
    fields = gguf.GGUFReader(path).fields
    names = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    pieces = [
        bytes([int(name[3:5], 16)]) if kind == 6 else name.replace("▁", " ").encode()
        for name, kind in zip(names, types, strict=True)
    ]
    return Pieces(pieces, [2], {i for i, kind in enumerate(types) if kind in (2, 3)})


def accepts(grammar: Grammar, vocabulary: Pieces, text: str) -> bool:
    """Whether the text is one that the grammar allows as a whole answer."""
    try:
        tokens = vocabulary.encode(text.encode())
    except UnicodeEncodeError:
        return False
    matcher = grammar.matcher()
    if matcher.fits_all(tokens) < len(tokens):
        return False
    for token in tokens:
        matcher.accept(token)
    return matcher.may_end() and matcher.fits(vocabulary.end_tokens[0])


def accepts_value(grammar: Grammar, vocabulary: Pieces, value: Any, schema: Any = True) -> bool:
    """Whether some usual way to write the value is allowed."""
    return any(accepts(grammar, vocabulary, text) for text in writings(value, schema))


def writings(value: Any, schema: Any) -> Iterator[str]:
    """Ways to write a value: its keys in several orders, compact, with blanks, indented."""
    orders = [value, ordered(value, schema)]
    if isinstance(value, dict) and len(value) <= 4:
        orders += [dict(pairs) for pairs in itertools.permutations(value.items())]
    for order in orders:
        yield json.dumps(order, ensure_ascii=False)
        yield json.dumps(order, ensure_ascii=False, separators=(",", ":"))
        yield json.dumps(order, ensure_ascii=False, indent=2)
        yield json.dumps(order)


def ordered(value: Any, schema: Any) -> Any:
    """The value with its keys in the order in which the schema names them."""
    names: dict[str, int] = {}
    _collect(schema, names)
    return _sorted(value, names)


def _collect(schema: Any, names: dict[str, int]) -> None:
    """The names of properties, then those that are required, in their order."""
    if isinstance(schema, list):
        for part in schema:
            _collect(part, names)
    if not isinstance(schema, dict):
        return
    for keyword, inner in schema.items():
        if keyword == "properties" and isinstance(inner, dict):
            for name in inner:
                names.setdefault(name, len(names))
        if keyword not in ("const", "enum", "default", "examples"):
            _collect(inner, names)
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        names.setdefault(str(name), len(names))


def _sorted(value: Any, names: dict[str, int]) -> Any:
    if isinstance(value, list):
        return [_sorted(part, names) for part in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda name: names.get(name, len(names)))
        return {key: _sorted(value[key], names) for key in keys}
    return value


def drawn(grammar: Grammar, vocabulary: Pieces, rng: random.Random, most: int = 300) -> str | None:
    """A text drawn from the masks, with a push towards its end; None if it does not end."""
    matcher = grammar.matcher()
    mask = np.zeros(vocabulary.n_vocab, np.bool_)
    data = b""
    closing = [vocabulary.encode(text)[0] for text in (b'"', b"}", b"]", b",")]
    for step in range(most):
        matcher.allowed(mask)
        allowed = np.flatnonzero(mask)
        assert matcher.may_end() == bool(mask[vocabulary.end_tokens].all())
        if matcher.may_end() and (matcher.must_end() or rng.random() < 0.5):
            return data.decode()
        near = [token for token in closing if mask[token]]
        if near and rng.random() < 0.2 + step / most:
            token = near[0] if step > most // 3 else rng.choice(near)
        else:
            token = int(rng.choice(allowed))
            if token in vocabulary.end_tokens:
                return data.decode()
        assert matcher.fits(token)
        matcher.accept(token)
        data += vocabulary.piece(token)
    return None

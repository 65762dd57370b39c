#!/usr/bin/env python3
"""Measure how long the engine's thread works at a token for one request's schema.

    bench_masks.py MODEL.gguf
    bench_masks.py MODEL.gguf --schemas FILE     also these: a JSON list of schemas

Only the model's vocabulary is read. Tokens are drawn as by a model that repeats itself: most are such as it
has written, or separators, the others any. What does not fit is drawn again, as the sampler does it. Measured
is what the grammar costs at each token: to check what was drawn, the mask if it does not fit, and taking it.
Arrays go on for as long as they may, so small domains of `uniqueItems` are used up. Times are processor time
of the thread. The last line of the output is one JSON document.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from bench.report import heading, publish
from bench_schema import choices, sections
from codellama.cli.vocabulary import load_vocabulary
from codellama.constraints import Constraints, Grammar, TokenPieces
from codellama.errors import GrammarError
from codellama.running.form import Forms

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
PAIR = {
    "type": "object",
    "properties": {"a": INTEGER, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
UP_TO_4 = {**STRING, "pattern": "^[abc]{0,4}$"}
LATEST = 60
"""Tokens back from which a model repeats itself."""


def unique(items: Any, **more: Any) -> dict[str, Any]:
    """An array of different items."""
    return {"type": "array", "items": items, "uniqueItems": True, **more}


SCHEMAS: dict[str, Any] = {
    "33 kB of schema": sections(),
    "1,000 choices": choices(),
    "different strings": unique(STRING),
    "different strings of at most 20": unique({**STRING, "maxLength": 20}),
    "different words of 3 to 8 letters": unique({**STRING, "pattern": "^[a-z]{3,8}$"}),
    "different integers": unique(INTEGER),
    "different ones of 0 to 99": unique({**INTEGER, "minimum": 0, "maximum": 99}),
    "different ones of 0 to 5000": unique({**INTEGER, "minimum": 0, "maximum": 5000}),
    "different quarters up to 30": unique({"multipleOf": 0.25, "minimum": 0, "maximum": 30}),
    "different objects": unique(PAIR),
    "different dates": unique({**STRING, "format": "date"}),
    "different ones of 121 texts": unique(UP_TO_4),
    "the same behind two other items": unique(UP_TO_4, prefixItems=[INTEGER, STRING]),
    "different ones of 1,000 choices": unique(choices()["items"]),
    "different values of any kind": unique({}),
    "40 different keys": {"type": "object", "minProperties": 40},
}


class Writer:
    """Writes an answer under a grammar, and notes how long each token took."""

    def __init__(self, grammar: Grammar, vocabulary: TokenPieces, seed: int) -> None:
        self._matcher = grammar.matcher()
        self._ends = vocabulary.end_tokens
        self._rng = random.Random(seed)
        n_vocab = vocabulary.n_vocab
        pieces = [vocabulary.piece(token) for token in range(n_vocab)]
        self._mask = np.zeros(n_vocab, np.bool_)
        self._inner = np.array([not {*piece} & {*b"]}"} for piece in pieces])
        self._separators = [t for t, p in enumerate(pieces) if p in (b",", b'"', b'","', b'",')]
        self._written = self._separators[:1]
        self._ns = 0

    def milliseconds(self, n_tokens: int) -> Iterator[float]:
        """What each token cost; at most so many tokens."""
        for _ in range(n_tokens):
            self._ns = 0
            token = self._drawn()
            if not self._timed(self._matcher.fits, token):
                self._timed(self._matcher.candidates, self._mask)
                while not self._timed(self._matcher.fits, token := self._fitting()):
                    self._timed(self._matcher.exclude, token, self._mask)
            self._timed(self._matcher.accept, token)
            yield self._ns / 1e6
            if token in self._ends:
                break
            self._written.append(token)

    def _drawn(self) -> int:
        how = self._rng.random()
        if how < 0.2:
            return self._rng.randrange(len(self._mask))
        return self._rng.choice(self._separators if how < 0.45 else self._written[-LATEST:])

    def _fitting(self) -> int:
        likely = (*self._separators, *self._written[-LATEST // 2 :])
        near = [token for token in likely if self._mask[token]]
        if not near or self._rng.random() < 0.2:
            near = np.flatnonzero(self._mask & self._inner)[:300].tolist() or near
        return self._rng.choice(near or np.flatnonzero(self._mask).tolist())

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time_ns()
        result = call(*arguments)
        self._ns += time.thread_time_ns() - start
        return result


@contextmanager
def without_garbage() -> Iterator[None]:
    """As in a server, whose own objects no search for garbage goes through."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--answers", type=click.IntRange(1), default=3, show_default=True, help="A schema.")
@click.option(
    "--tokens", type=click.IntRange(1), default=1500, show_default=True, help="An answer."
)
@click.option("--schemas", type=click.File("r", encoding="utf-8"), help="A JSON list of schemas.")
def main(model: Path, answers: int, tokens: int, schemas: Any) -> None:
    """Measure what schemas cost the engine's thread at a token, with the vocabulary of MODEL."""
    todo = dict(SCHEMAS)
    if schemas is not None:
        todo |= {f"schema {i}": schema for i, schema in enumerate(json.load(schemas))}
    rows: dict[str, list[float]] = {}
    with load_vocabulary(model) as (_, tokenizer):
        vocabulary = Forms(tokenizer)
        constraints = Constraints(vocabulary)
        for name, schema in todo.items():
            try:
                grammar = constraints.compile_schema(schema)
            except GrammarError as error:
                click.echo(f"{name}: {error}", err=True)
                continue
            with without_garbage():
                writers = [Writer(grammar, vocabulary, seed) for seed in range(answers)]
                rows[name] = [ms for writer in writers for ms in writer.milliseconds(tokens)]
    document = heading("masks", {"model": model.name, "answers": answers, "tokens": tokens}, {})
    document["results"] = [_figures(name, times) for name, times in rows.items()]
    document["worst"] = max(max(times) for times in rows.values())
    publish(document, [_table(document["results"])])


def _figures(name: str, times: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(times)
    picks = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999}
    found = {key: ordered[int(share * (len(ordered) - 1))] for key, share in picks.items()}
    return {"schema": name, "tokens": len(ordered), **found, "worst": ordered[-1]}


def _table(results: Sequence[dict[str, Any]]) -> Table:
    shown = Table(*results[0], title="milliseconds of the engine's thread at a token")
    for row in results:
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    return shown


if __name__ == "__main__":
    main()

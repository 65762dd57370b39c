"""`Constraints`: schemas, regular expressions and Lark grammars, compiled for one model and kept.

Compile in the caller's thread; it takes milliseconds, and what is wrong in a schema is the caller's error.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher

from codellama.constraints import limits
from codellama.constraints.byte_table import ByteTable
from codellama.constraints.calls import calls_key, check_tools, written_calls
from codellama.constraints.cases import Combiner
from codellama.constraints.document import Document
from codellama.constraints.emit import Emitter
from codellama.constraints.lark_check import check_lark
from codellama.constraints.matcher import Grammar
from codellama.constraints.patterns import cannot_be_enforced, compiled
from codellama.constraints.regex_parser import PatternError
from codellama.constraints.regex_text import expression
from codellama.constraints.rules import FREE_TOKENS, Rules
from codellama.constraints.trial import TooComplex, dead_end, parser_limits, try_out
from codellama.constraints.unique import MARKS, has_marks
from codellama.constraints.vocabulary import Bytes, TokenPieces, Tokens
from codellama.constraints.writing import Written
from codellama.errors import GrammarError
from codellama.params import Tools

_TEXTS = 6
"""Texts that are tried under patterns, whose states are many: an answer waits a millisecond for a new one."""


class Constraints:
    """Compiles what answers of one model may be; compiled grammars are kept and shared.

    Safe to use from several threads. llguidance's tokenizer is made when it is first needed, or by `warm_up`.
    """

    def __init__(self, vocabulary: TokenPieces) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._made: Tokens | None = None
        self._bytes_made: Tokens | None = None
        self._table: ByteTable | None = None
        self._kept: OrderedDict[tuple[str, str], Grammar] = OrderedDict()
        self._bytes = 0
        self._complex: dict[str, bool] = {}

    def warm_up(self) -> None:
        """Make the tokenizer now; takes up to half a second and some 15 MB."""
        self._tokens()

    def compile_schema(self, schema: Any, param: str = "json_schema") -> Grammar:
        """The JSON values that satisfy a JSON Schema (draft 2020-12, or older ones by their keywords).

        `schema` is a dict, true, false, or their JSON text. Properties come in the schema's order. Raises
        GrammarError, which names `param`, for what is wrong in it or cannot be enforced.
        """
        return self._compile(
            "schema", param, lambda: _of_schema(schema, self._is_empty), _key(schema)
        )

    def compile_regex(self, regex: str, param: str = "regex") -> Grammar:
        """The texts that a regular expression (ECMA-262) matches from beginning to end.

        Raises GrammarError, which names `param`.
        """
        return self._compile("regex", param, lambda: _of_regex(regex), _text(regex, param))

    def compile_lark(self, grammar: str, param: str = "grammar") -> Grammar:
        """The texts of a grammar in llguidance's variant of Lark's syntax.

        Raises GrammarError, which names `param`.
        """
        text = _text(grammar, param)
        return self._compile("lark", param, lambda: _of_lark(grammar), text)

    def compile_calls(self, tools: Tools, schema: Any = None) -> Grammar:
        """Answers in words or calls of `tools`, as their choice says; `schema` is that of the words.

        Raises GrammarError, which names the function's parameters or `json_schema`, and
        InvalidRequestError for too many or too large ones.
        """
        check_tools(tools)
        key = calls_key(tools, schema)
        return self._compile(
            "tools", None, lambda: written_calls(tools, schema, self._is_empty), key
        )

    def _compile(
        self, kind: str, param: str | None, write: Callable[[], Written], key: str
    ) -> Grammar:
        with self._lock:
            grammar = self._kept.get((kind, key))
            if grammar is not None and not grammar.broken:
                self._kept.move_to_end((kind, key))
                return grammar
        try:
            written = write()
            grammar = self._built(written.text, kind)
            self._check_complexity(written, kind)
            for seed in range(_TEXTS if written.patterns or kind == "regex" else 1):
                try_out(grammar.beginning(), self._tokens(), seed)
        except GrammarError as error:
            raise (error if param is None else error.rename(param)) from None
        with self._lock:
            old_one = self._kept.pop((kind, key), None)
            self._bytes -= _cost(key, old_one) if old_one else 0
            self._kept[kind, key] = grammar
            self._bytes += _cost(key, grammar)
            while len(self._kept) > limits.CACHE_ENTRIES or self._bytes > limits.CACHE_BYTES:
                (_, old), dropped = self._kept.popitem(last=False)
                self._bytes -= _cost(old, dropped)
        return grammar

    def _tokens(self) -> Tokens:
        with self._lock:
            if self._made is None:
                self._made = Tokens(self._vocabulary)
            return self._made

    def _byte_tokens(self) -> Tokens:
        with self._lock:
            if self._bytes_made is None:
                self._bytes_made = Tokens(Bytes())
            return self._bytes_made

    def _byte_table(self) -> ByteTable:
        pieces = self._tokens().pieces
        with self._lock:
            if self._table is None:
                self._table = ByteTable(pieces, MARKS)
            return self._table

    def _is_empty(self, expression: str) -> bool:
        """Whether a terminal matches no text; what is too large to tell is an error later."""
        text = FREE_TOKENS + f"start: T\nT: {expression}\n"
        return _is_dead(self._started(text))

    def _started(self, text: str, tokens: Tokens | None = None) -> LLMatcher:
        """The state before an answer, in the model's tokens or others."""
        native = (tokens or self._tokens()).native
        return LLMatcher(
            native, LLMatcher.grammar_from_lark(text), log_level=0, limits=parser_limits()
        )

    def _check_complexity(self, written: Written, kind: str) -> None:
        """Raises GrammarError, which names the pattern, if answers might reach llguidance's limits."""
        tokens = self._tokens()
        for pattern, place in written.patterns.items():
            alone = FREE_TOKENS + f"start: T\nT: {expression(pattern.whole, quoted=True)}\n"
            if self._is_too_complex(pattern.source, alone):
                error = cannot_be_enforced(pattern.source, place, "too many states")
                raise error.rename(kind) if kind == "tools" else error
        if not (written.patterns or kind in ("regex", "lark")):
            return
        try:
            text = dead_end(written.text, tokens)
        except TooComplex:
            raise GrammarError(
                "{param}: its patterns are together too complex", kind, "use fewer or simpler ones"
            ) from None
        if text is not None:
            raise _unsatisfied(text, self._started(written.text), kind)

    def _is_too_complex(self, source: str, grammar: str) -> bool:
        """Whether one pattern needs too many states; what was found is kept."""
        if source not in self._complex:
            if len(self._complex) >= limits.CACHE_ENTRIES:
                self._complex.clear()
            try:
                dead_end(grammar, self._tokens())
                self._complex[source] = False
            except TooComplex:
                self._complex[source] = True
        return self._complex[source]

    def _built(self, text: str, kind: str) -> Grammar:
        tokens = self._tokens()
        start = self._started(text)
        if start.is_error():
            raise GrammarError(
                "{param} cannot be compiled: {reason}",
                kind,
                reason=_shortened(start.get_error(), kind),
            )
        if _is_dead(start):
            raise _unsatisfied(b"", start, kind)
        if kind in ("schema", "tools") and has_marks(text):
            watching = (self._started(text, self._byte_tokens()), self._byte_table())
            return Grammar(start, tokens, text, watching)
        return Grammar(start, tokens, text)


def _is_dead(start: LLMatcher) -> bool:
    """Whether a grammar has no text at all; the mask is what finds it out."""
    if start.is_error():
        return False
    start.compute_bitmask()
    return bool(start.is_stopped() and not start.is_accepting())


def _unsatisfied(text: bytes, start: LLMatcher, kind: str) -> GrammarError:
    """The error for a grammar that lets nobody finish a text that begins like this."""
    if bytes(start.compute_ff_bytes()).startswith(text):  # all texts would
        return GrammarError(
            "{param}: no text satisfies it", kind, "look for parts that exclude each other"
        )
    return GrammarError(
        "{param}: no text that begins with {text!r:.80} satisfies it",
        kind,
        "look for parts that exclude each other",
        text=text.decode("utf-8", "replace"),
    )


def _of_schema(schema: Any, is_empty: Callable[[str], bool]) -> Written:
    """The grammar of a JSON schema; `is_empty` tells whether a terminal's expression matches nothing."""
    if isinstance(schema, str):
        if len(schema) > 2 * limits.SCHEMA_BYTES:
            raise GrammarError(
                "{param} is longer than {most} characters", most=2 * limits.SCHEMA_BYTES
            )
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise GrammarError("{param} is not JSON: {reason}", reason=str(error)) from None
    document = Document(schema)
    rules = Rules()
    text = Emitter(document, rules, Combiner()).text(((document.root, True),), is_empty)
    return Written(text, rules.patterns)


def _of_regex(regex: str) -> Written:
    """The grammar of a regular expression that matches a whole answer."""
    try:
        pattern = compiled(regex, False, limits.REGEX_CHARS)
    except PatternError as error:
        raise GrammarError(
            "{param} cannot be enforced because it has {reason}",
            "regex",
            "write it without",
            reason=str(error),
        ) from None
    return Written(FREE_TOKENS + f"start: T\nT: {expression(pattern.whole, quoted=False)}\n")


def _of_lark(grammar: str) -> Written:
    """The grammar that a request gives; what is set here follows it, so that lines keep their numbers."""
    return Written(f"{check_lark(grammar)}\n{FREE_TOKENS}")


def _key(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(schema, separators=(",", ":"), default=repr)
    except (ValueError, TypeError, RecursionError):
        return repr(type(schema))


def _text(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise GrammarError("{param} must be a string", param)
    return value


def _cost(key: str, grammar: Grammar) -> int:
    return len(key) + 4 * len(grammar.text) + 50_000


def _shortened(error: str, kind: str) -> str:
    """llguidance's message; the lines of a grammar that the user did not write are left out."""
    if "fuel exhausted" in error or "too many states" in error:
        return "its patterns are together too complex; use fewer or simpler ones"
    if "symbols.len()" in error or "grammar size" in error.lower():
        return "there is too much of it; use fewer or simpler parts"
    ours = FREE_TOKENS.strip()
    lines = [line for line in error.strip().splitlines() if line.strip() and ours not in line]
    return " ".join(lines)[:500] if kind == "lark" else (lines[0] if lines else "")[:200]

"""The form of an answer, for one loaded model: a request's grammar, JSON schema, expression or tools.

GBNF is only checked here, since llama.cpp enforces it; the others are compiled, and llguidance does.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from codellama.errors import InvalidRequestError
from codellama.native.model import Tokenizer
from codellama.params import FORMS, SamplingParams, Tools
from codellama.prompts.chat import END_OF_INFILL
from codellama.variants import STEP

if TYPE_CHECKING:
    from codellama.constraints import Constraints, Grammar


class Forms:
    """Compiles what answers of one model may be. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._constraints: Constraints | None = None

    def warm_up(self) -> None:
        """Do now what the first schema, expression, Lark grammar or function would wait for."""
        self._compiler().warm_up()

    def grammar(self, params: SamplingParams, tools: Tools | None = None) -> Grammar | None:
        """What llguidance has to enforce, if anything. Raises GrammarError, which names the parameter.

        With `tools`, a JSON schema is that of answers in words; other forms are an InvalidRequestError.
        """
        if tools is not None:
            return self._calls(params, tools)
        if all(getattr(params, name) is None for name in FORMS):
            return None
        from codellama.constraints import check_gbnf  # with llguidance, which few processes need

        if params.grammar is not None:
            check_gbnf(params.grammar)
            return None
        constraints = self._compiler()
        if params.json_schema is not None:
            return constraints.compile_schema(params.json_schema)
        if params.regex is not None:
            return constraints.compile_regex(params.regex)
        return constraints.compile_lark(params.lark or "", "lark")

    def _calls(self, params: SamplingParams, tools: Tools) -> Grammar:
        for name in FORMS:
            if name != "json_schema" and getattr(params, name) is not None:
                raise InvalidRequestError(
                    "{param} and tools exclude each other",
                    name,
                    "leave one out, or use {json_schema}",
                )
        schema = params.json_schema if tools.choice == "auto" else None
        return self._compiler().compile_calls(tools, schema)

    def _compiler(self) -> Constraints:
        from codellama.constraints import Constraints

        with self._lock:
            if self._constraints is None:
                self._constraints = Constraints(self)
            return self._constraints

    # -- the vocabulary, as constraints see it ----------------------------------------------------

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.n_vocab

    @functools.cached_property
    def end_tokens(self) -> Sequence[int]:
        """The ids that may end an answer of some kind; each request stops at some of them."""
        named = (self._tokenizer.token_id(name) for name in (STEP, END_OF_INFILL))
        return sorted(self._tokenizer.eog_tokens.union(t for t in named if t is not None))

    def piece(self, token: int) -> bytes:
        """What the token adds to a text."""
        return self._tokenizer.piece(token)

    def is_control(self, token: int) -> bool:
        """Whether the token adds nothing to a text."""
        return not self._tokenizer.piece(token)

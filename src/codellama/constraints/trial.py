"""Tries a compiled grammar for a few tokens under tight limits, so that what is too complex is told at once.

llguidance makes the states of its lexer while an answer is written. Some expressions need thousands for one
token, and may reach the engine's limits in the middle of an answer. Counts decide here, not time: the same
grammar is always refused or never.
"""

from __future__ import annotations

import random

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from codellama.constraints.vocabulary import Tokens

_TOKENS = 24
_STATES = 5_000
"""A tenth of what an answer may come to."""
_DEAD_END = "NoExtension"
"""In llguidance's message, where no token fits and the text is not complete."""


def parser_limits(states: int = 50_000) -> LLParserLimits:
    """llguidance's own limits; the default is that of answers."""
    return LLParserLimits(
        initial_lexer_fuel=2_000_000,
        step_lexer_fuel=500_000,
        max_lexer_states=states,
        max_grammar_size=500_000,
        verbose_errors=False,
    )


def dead_end(grammar: str, tokens: Tokens) -> bytes | None:
    """The beginning of a text that the grammar lets nobody finish, if one of the texts tried is one.

    Raises TooComplex if a grammar that compiles passes a limit within some tokens drawn at random, always
    the same.
    """
    state = LLMatcher(
        tokens.native,
        LLMatcher.grammar_from_lark(grammar),
        log_level=0,
        limits=parser_limits(_STATES),
    )
    text = try_out(state, tokens)
    if not state.is_error():
        return None
    if _DEAD_END not in state.get_error():
        raise TooComplex
    return text


class TooComplex(Exception):
    """A grammar needs too many states."""


def try_out(state: LLMatcher, tokens: Tokens, seed: int = 0) -> bytes:
    """Write some tokens, which makes the first states of the lexer; the text. `state` tells if that failed.

    Another `seed` is another text.
    """
    rng = random.Random(seed)
    words = np.zeros((len(tokens.pieces) + 31) // 32, np.uint32)
    text = b""
    for _ in range(_TOKENS):
        state.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if state.is_error():
            break
        allowed = np.unpackbits(words.view(np.uint8), count=len(tokens.pieces), bitorder="little")
        allowed[list(tokens.ends)] = 0
        ids = np.flatnonzero(allowed)
        if not len(ids):
            break
        token = int(rng.choice(ids))
        state.consume_token(token)
        text += tokens.pieces[token]
    return text

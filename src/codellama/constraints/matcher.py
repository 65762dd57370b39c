"""One answer's walk through a grammar: which tokens fit next, and where the answer may end.

A `Matcher` belongs to one answer and is used by one thread at a time. It is made from a compiled `Grammar`
in microseconds; the grammar is shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from codellama.constraints.byte_table import ByteTable
from codellama.constraints.unique import Unique
from codellama.constraints.vocabulary import Tokens
from codellama.errors import DecodeError


class Grammar:
    """A compiled grammar. `matcher` begins an answer; safe to share between threads."""

    def __init__(
        self,
        start: LLMatcher,
        tokens: Tokens,
        text: str,
        watching: tuple[LLMatcher, ByteTable] | None = None,
    ) -> None:
        """Items of arrays that the grammar marks are kept different by `watching`: the same state, of a
        grammar whose tokens are bytes, and the vocabulary by its bytes."""
        self._start = start
        self._tokens = tokens
        self._watching = watching
        self.text = text
        """The grammar in llguidance's Lark syntax."""
        self.broken = False
        """Whether llguidance has failed in it: answers share its lexer, so it has to be compiled again."""

    def beginning(self) -> LLMatcher:
        """llguidance's state before the first token; all answers share the lexer in it."""
        return self._start.deep_copy()

    def matcher(self) -> Matcher:
        """A matcher at the beginning of an answer."""
        unique = None
        if self._watching is not None:
            start, table = self._watching
            unique = Unique(start.deep_copy(), table)
        return Matcher(self.beginning(), self._tokens, self, unique)


class Matcher:
    """The state of one answer under a grammar."""

    def __init__(
        self, state: LLMatcher, tokens: Tokens, grammar: Grammar, unique: Unique | None
    ) -> None:
        self._state = state
        self._unique = unique
        self._tokens = tokens
        self._grammar = grammar
        self._ends = tokens.ends
        self._n_vocab = len(tokens.pieces)
        self._words = np.zeros((self._n_vocab + 31) // 32, np.uint32)

    def fits(self, token: int) -> bool:
        """Whether this token may come next; the ids that end an answer fit where it is complete."""
        if token in self._ends:
            return self.may_end()
        if self._state.validate_tokens([token]) != 1:
            return False
        return self._unique is None or self._unique.permits(token)

    def fits_all(self, tokens: Sequence[int]) -> int:
        """How many of these tokens fit one after the other; the state stays as it is."""
        if self._unique is not None:
            return self._fits_each(tokens)
        until = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        count = int(self._state.validate_tokens(list(tokens[:until])))
        if count < until or until == len(tokens):
            return count
        after = self._state.deep_copy()
        complete = after.try_consume_tokens(list(tokens[:until])) == until and after.is_accepting()
        return count + complete

    def _fits_each(self, tokens: Sequence[int]) -> int:
        ahead = self.copy()
        for count, token in enumerate(tokens):
            if not ahead.fits(token):
                return count
            if token in self._ends:
                return count + 1
            ahead.accept(token)
        return len(tokens)

    def accept(self, token: int) -> None:
        """Take the token as the next one of the answer. Raises DecodeError if it does not fit."""
        ends = token in self._ends
        watched = self._unique is None or self._unique.accept(token, ends)
        if not (self._state.consume_token(token) and watched):
            raise DecodeError(f"token {token} does not fit the answer's grammar{self._reason()}")

    def candidates(self, mask: npt.NDArray[np.bool_]) -> None:
        """Write into `mask` (bool, one for each token) which tokens the grammar lets come next.

        Where items or keys are kept different, some of them may not fit: that takes long to tell of all.
        Draw one, ask `fits`, and if it does not, `exclude` it and draw again.
        Raises DecodeError if there is none: the grammar has led into a dead end.
        """
        words = self._words
        self._state.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        bits = np.unpackbits(words.view(np.uint8), count=self._n_vocab, bitorder="little")
        mask[: self._n_vocab] = bits
        mask[self._n_vocab :] = False
        if not bits.any() or (self.must_end() and not self.may_end()):
            raise self._dead_end()

    def exclude(self, token: int, mask: npt.NDArray[np.bool_]) -> None:
        """Take a token that does not fit out of the candidates, and those that begin like it in vain."""
        mask[token] = False
        if self._unique is not None:
            mask[self._unique.hopeless(token)] = False

    def allowed(self, mask: npt.NDArray[np.bool_]) -> None:
        """Write into `mask` exactly those tokens that fit. Raises DecodeError if there is none.

        Where items or keys are kept different this may take milliseconds.
        """
        self.candidates(mask)
        if self._unique is not None:
            self._unique.forbid(mask[: self._n_vocab])
            if not mask.any():
                raise self._dead_end()

    def may_end(self) -> bool:
        """Whether the answer so far is complete."""
        return bool(self._state.is_accepting())

    def must_end(self) -> bool:
        """Whether nothing may follow but the end of the answer."""
        return bool(self._state.is_stopped())

    def forced_text(self) -> bytes:
        """What has to come next, letter by letter; empty where there is a choice. Takes a microsecond."""
        return bytes(self._state.compute_ff_bytes())

    def rollback(self, count: int) -> None:
        """Forget the last `count` accepted tokens. Raises DecodeError if there are fewer.

        Where items or keys are kept different, no more than 64 can be forgotten.
        """
        kept = self._unique is None or self._unique.rollback(count)
        if not (kept and self._state.rollback(count)):
            raise DecodeError(f"the answer's grammar cannot go back {count} tokens{self._reason()}")

    def copy(self) -> Matcher:
        """A matcher in the same state, which goes its own way from here."""
        unique = self._unique.copy() if self._unique is not None else None
        return Matcher(self._state.deep_copy(), self._tokens, self._grammar, unique)

    def _dead_end(self) -> DecodeError:
        return DecodeError(f"no token fits the answer's grammar any more{self._reason()}")

    def _reason(self) -> str:
        error = self._state.get_error() or (self._unique.error if self._unique else "")
        if any(word in error for word in ("panic", "Poison", "too many states")):
            self._grammar.broken = True
        return f" ({error.splitlines()[0][:200]})" if error else ""

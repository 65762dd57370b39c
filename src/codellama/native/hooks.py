"""Callers' own functions that have a say in each token: logits processors and stopping criteria.

They run on the engine's thread, between two steps: while one of them works, every other request waits, and
one that asks the model something waits for ever. What a function raises ends its request and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from codellama.errors import DecodeError, InvalidRequestError
from codellama.native.candidates import Logits

TokenIds = npt.NDArray[np.intc]
LogitsProcessor = Callable[[TokenIds, Logits], Logits]
"""Takes the ids of prompt and answer so far and the logits of the next token, one per id of the vocabulary;
gives the logits to draw from, -inf for what must not be drawn. It may change the logits in place."""

StoppingCriterion = Callable[[TokenIds, Logits], bool]
"""Takes the same, before the processors have seen them; True ends the answer there."""


@dataclass(frozen=True)
class TokenHooks:
    """The functions of one request, in the order in which they are called."""

    processors: tuple[LogitsProcessor, ...] = ()
    criteria: tuple[StoppingCriterion, ...] = ()

    @classmethod
    def of(cls, logits_processor: Any, stopping_criteria: Any) -> Self | None:
        """llama-cpp-python's two arguments; None if there is nothing to call.

        Each is a function or a list of them. Raises InvalidRequestError for what cannot be called.
        """
        processors = _functions("logits_processor", logits_processor)
        criteria = _functions("stopping_criteria", stopping_criteria)
        return cls(processors, criteria) if processors or criteria else None


class HookedAnswer:
    """The functions of a request, and the ids of its prompt and answer so far."""

    def __init__(self, hooks: TokenHooks, prompt: Sequence[int], n_vocab: int) -> None:
        self._hooks = hooks
        self._n_vocab = n_vocab
        self._ids = np.array(prompt, dtype=np.intc)
        self._n = len(prompt)

    def ends(self, logits: Logits) -> bool:
        """Whether a criterion ends the answer. Raises DecodeError for what a criterion raises."""
        for criterion in self._hooks.criteria:
            try:
                if criterion(self._history(), logits.copy()):
                    return True
            except BaseException as error:
                raise _failed("stopping_criteria", repr(error)) from error
        return False

    def processed(self, logits: Logits) -> Logits:
        """The logits to draw from, shape (vocabulary,): numbers, or -inf.

        Raises DecodeError for what a processor raises, and for what it gives if that is something else.
        """
        found = logits.copy()
        for processor in self._hooks.processors:
            try:
                found = np.asarray(processor(self._history(), found), dtype=np.single)
            except BaseException as error:
                raise _failed("logits_processor", repr(error)) from error
            if found.shape != (self._n_vocab,):
                raise _failed(
                    "logits_processor", f"gave shape {found.shape}, not ({self._n_vocab},)"
                )
        if np.isnan(found).any() or np.isposinf(found).any():
            raise _failed("logits_processor", "gave logits that are no numbers")
        return found

    def add(self, token: int) -> None:
        """This token has been drawn."""
        if self._n == len(self._ids):
            self._ids = np.resize(self._ids, 2 * self._n + 64)
        self._ids[self._n] = token
        self._n += 1

    def _history(self) -> TokenIds:
        return self._ids[: self._n].copy()


def _functions(param: str, given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    functions = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(map(callable, functions)):
        raise InvalidRequestError("{param} must be a function or a list of functions", param)
    return functions


def _failed(param: str, what: str) -> DecodeError:
    return DecodeError(f"{param}: {what}")

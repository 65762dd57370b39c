"""JSON schemas and calls for plain `llama_cpp.Llama`: a logits processor that leaves only what fits.

llama_cpp calls a processor from native code, where an exception is lost: what goes wrong is kept and raised
by `check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codellama.constraints import Constraints, Matcher
from codellama.errors import DecodeError
from codellama.integrations.llama_vocabulary import LlamaVocabulary
from codellama.params import Tools

Logits = npt.NDArray[np.single]


class Schemas:
    """Compiles schemas for one model, whose answers end at `step` or its EOS."""

    def __init__(self, vocabulary: LlamaVocabulary, step: int) -> None:
        self._vocabulary = vocabulary
        self._step = step
        self._constraints: Constraints | None = None

    def processor(self, schema: Any, n_prompt: int, tools: Tools | None = None) -> SchemaProcessor:
        """A processor for one answer behind `n_prompt` tokens. Raises GrammarError.

        With `tools` the schema is that of answers in words; None stands for any.
        """
        if self._constraints is None:
            self._constraints = Constraints(_Pieces(self._vocabulary, self._step))
        if tools is None:
            grammar = self._constraints.compile_schema(schema, "response_format")
        else:
            grammar = self._constraints.compile_calls(
                tools, schema if tools.choice == "auto" else None
            )
        return SchemaProcessor(grammar.matcher(), n_prompt, self._vocabulary.eos)


class _Pieces:
    """The vocabulary as constraints see it."""

    def __init__(self, vocabulary: LlamaVocabulary, step: int) -> None:
        self._pieces = vocabulary.pieces()
        self.n_vocab = vocabulary.n_vocab
        self.end_tokens: Sequence[int] = sorted({vocabulary.eos, step})

    def piece(self, token: int) -> bytes:
        """What the token adds to a text."""
        return self._pieces[token]

    def is_control(self, token: int) -> bool:
        """Whether the token adds nothing to a text."""
        return not self._pieces[token]


class SchemaProcessor:
    """Bans what does not fit. It is called once for each token that is drawn.

    After something went wrong it leaves only `eos`, so that the answer ends.
    """

    def __init__(self, matcher: Matcher, n_prompt: int, eos: int) -> None:
        self._matcher = matcher
        self._eos = eos
        self._next = n_prompt  # where the latest token will stand among the ids
        self._began = False
        self._error: Exception | None = None

    def __call__(self, input_ids: Any, scores: Logits) -> Logits:
        try:
            self._ban(input_ids, scores)
        except Exception as error:
            self._error = self._error or error
            scores[:] = -np.inf
            scores[self._eos] = 0
        return scores

    def _ban(self, input_ids: Any, scores: Logits) -> None:
        if self._began:
            # With a draft model there are ids behind this one, which are only guesses.
            self._matcher.accept(int(input_ids[self._next]))
            self._next += 1
        self._began = True
        mask = np.empty(len(scores), dtype=np.bool_)
        self._matcher.allowed(mask)
        scores[~mask] = -np.inf
        if not np.isfinite(scores[mask]).any():
            raise DecodeError(
                "no token fits response_format or tools: what comes next is banned by logit_bias"
            )

    def check(self) -> None:
        """Raise what went wrong in a call: DecodeError for an answer that cannot go on."""
        if self._error is not None:
            raise self._error

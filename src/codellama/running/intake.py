"""A prompt and its parameters as requests to the engine: limits, stops, sampler, and where deltas go.

Everything that can be wrong with a request is found here, in the caller's thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codellama.engine.detokenizer import Detokenizer
from codellama.engine.request import NO_LIMIT, ContextShift, Request, Reuse, Sink
from codellama.errors import (
    ContextLengthError,
    InvalidRequestError,
    UnsupportedError,
    unknown_token,
)
from codellama.native.hooks import TokenHooks
from codellama.native.model import Tokenizer
from codellama.native.sampler import Sampler
from codellama.params import ModelConfig, Prompt, SamplingParams
from codellama.prompts.tools import CALL
from codellama.running.adapters import AdapterTable
from codellama.running.completion import Deliver
from codellama.running.form import Forms

if TYPE_CHECKING:
    from codellama.constraints import Grammar


@dataclass(frozen=True)
class RequestMaker:
    """Makes requests to one model, of `n_ctx` tokens each at most.

    `shift_problem` says why its context cannot shift; None if it can.
    """

    n_ctx: int
    tokenizer: Tokenizer
    adapters: AdapterTable
    forms: Forms
    shift_problem: str | None = None
    n_ctx_train: int | None = None

    def make(
        self,
        prompt: Prompt,
        params: SamplingParams,
        n: int,
        deliver: Deliver,
        echo: bool,
        reports: bool = False,
        hooks: TokenHooks | None = None,
    ) -> list[Request]:
        """A request per choice, whose deltas go to `deliver`; with a seed, choice i is drawn with seed + i.

        `params` have the model's defaults in them. With `echo` and `logprobs` the prompt is scored.
        Raises ContextLengthError, GrammarError, InvalidRequestError and UnsupportedError.
        """
        room = self.n_ctx - len(prompt.tokens)
        if room <= 0:
            raise ContextLengthError(len(prompt.tokens), self.n_ctx, trained=self.n_ctx_train)
        self._check_ids("stop_tokens", params.stop_tokens)
        shift = self._shift(prompt, params)
        most = room if shift is None else NO_LIMIT
        limit = most if params.max_tokens is None else min(params.max_tokens, most)
        grammar = self.forms.grammar(params, prompt.tools)
        requests: list[Request] = []
        try:
            for i in range(n):
                sink = functools.partial(deliver, i)
                request = self._request(prompt, params, grammar, limit, shift, i, sink, echo, hooks)
                request.reports = reports
                requests.append(request)
        except BaseException:
            close(requests)
            raise
        return requests

    def check(self, prompt: Prompt, params: SamplingParams) -> None:
        """Raise what `make` would raise."""
        close(self.make(prompt, params, 1, lambda index, delta: None, echo=False))

    def _shift(self, prompt: Prompt, params: SamplingParams) -> ContextShift | None:
        if not params.context_shift:
            return None
        if self.shift_problem is not None:
            raise UnsupportedError(f": {self.shift_problem}", setting="context_shift")
        n_keep = params.n_keep or 0
        if n_keep < 0:
            n_keep = len(prompt.tokens)
        elif prompt.tokens[:1] == (self.tokenizer.bos,):
            n_keep += 1
        return ContextShift(n_keep, params.n_discard)

    def _request(
        self,
        prompt: Prompt,
        params: SamplingParams,
        grammar: Grammar | None,
        limit: int,
        shift: ContextShift | None,
        index: int,
        sink: Sink,
        echo: bool,
        hooks: TokenHooks | None,
    ) -> Request:
        stop_tokens = prompt.stop_tokens | self.tokenizer.eog_tokens
        banned = set(stop_tokens if params.ignore_eos else ())
        matcher = None
        if grammar is not None:
            matcher = grammar.matcher()
            banned.update(t for t in self.forms.end_tokens if t not in stop_tokens)
        params = params.of_choice(index)
        return Request(
            prompt=prompt.tokens,
            max_tokens=limit,
            scales=self.adapters.scales(params.lora),
            sampler=Sampler(
                params, self.tokenizer, self.n_ctx, prompt.tokens, sorted(banned), matcher, hooks
            ),
            sink=sink,
            detokenizer=self._detokenizer(prompt, params),
            stop_tokens=stop_tokens | frozenset(params.stop_tokens),
            logprobs=params.logprobs,
            prompt_logprobs=params.logprobs if echo else None,
            deadline=None if params.timeout_s is None else time.perf_counter() + params.timeout_s,
            max_decode_s=params.t_max_predict_ms / 1000 or None,
            n_ctx=self.n_ctx,
            shift=shift,
            reuse=reuse(params),
            steady=params.spec_draft_n_max is None,
            id_slot=params.id_slot,
            n_draft_max=NO_LIMIT if params.spec_draft_n_max is None else params.spec_draft_n_max,
        )

    def _detokenizer(self, prompt: Prompt, params: SamplingParams) -> Detokenizer:
        """Stop strings end words and never a call."""
        may_say = prompt.tools is None or prompt.tools.choice == "auto"
        return Detokenizer(
            self.tokenizer.piece,
            params.stop if may_say else (),
            prompt.drop_leading_space,
            params.n_indent,
            None if prompt.tools is None else CALL,
        )

    def _check_ids(self, param: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            if token >= self.tokenizer.n_vocab:
                raise unknown_token(param, token, self.tokenizer.n_vocab)


def check_count(count: int, config: ModelConfig) -> None:
    """Raise InvalidRequestError for so many answers at once that they can never be taken in together."""
    most = config.n_seq_max + config.max_queue
    if count > most:
        raise InvalidRequestError(
            "{param}: {count} answers at once are more than the {most} that may run and wait",
            "n",
            "ask for fewer, or load the model with a larger {max_queue}",
            count=count,
            most=most,
        )


def reuse(params: SamplingParams) -> Reuse:
    """What a request with these parameters takes over from those before it."""
    if not params.cache_prompt:
        return Reuse.NONE
    return Reuse.EQUAL if params.repeats else Reuse.ALL


def close(requests: Iterable[Request]) -> None:
    """Free requests that the engine has not taken."""
    for request in requests:
        request.sampler.close()

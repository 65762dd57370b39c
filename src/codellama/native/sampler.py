"""`SamplingParams` as a native sampler chain.

The steps and their order are llama.cpp's own (common/sampling.cpp): logit bias, penalties, DRY, top-n-sigma,
top-k, typical, top-p, min-p, XTC, temperature, draw; mirostat replaces what comes after the penalties. A
grammar stands beside the chain: it is asked about the drawn token first, and only when that token does not
fit is another one drawn, among those that do. GBNF is llama.cpp's to enforce, all else a `Matcher`'s.
Build a sampler in the caller's thread, where a bad grammar is the caller's error; use it in the engine's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np
import numpy.typing as npt

from codellama.engine.batch import TokenLogprob
from codellama.errors import GrammarError, InvalidRequestError, unknown_token
from codellama.native.candidates import (
    TOKEN_DATA,
    Logits,
    Table,
    array_of,
    certain,
    drawn_with,
    table_of,
)
from codellama.native.hooks import HookedAnswer, TokenHooks
from codellama.native.library import library
from codellama.native.model import Tokenizer
from codellama.native.sampling_steps import last_n, only_likeliest, penalises, remembers
from codellama.params import RANDOM_SEED, SamplingParams, seed_of_choice

if TYPE_CHECKING:
    from codellama.constraints import Matcher

_MIROSTAT_M = 100  # llama.cpp's constant
_LONGEST_FORCED = 256  # bytes; more than a draft ever holds


class Sampler:
    """One request's way of drawing tokens, with its own random state. `close` frees it."""

    def __init__(
        self,
        params: SamplingParams,
        tokenizer: Tokenizer,
        n_ctx: int,
        prompt: Sequence[int] = (),
        banned: Sequence[int] = (),
        matcher: Matcher | None = None,
        hooks: TokenHooks | None = None,
    ) -> None:
        """Build the chain. `prompt` counts for the penalties; `banned` tokens are never drawn.

        With a `matcher`, which is the sampler's from now on, only tokens that fit it are. `hooks` see the
        logits before everything else.

        Raises GrammarError or InvalidRequestError, naming the parameter.
        """
        library()
        self._n_vocab = tokenizer.n_vocab
        self._tokenizer = tokenizer  # the native side points to its vocabulary
        self._banned = frozenset(banned)
        self._matcher = matcher
        self._hooked = None if hooks is None else HookedAnswer(hooks, prompt, self._n_vocab)
        self._grammar = _grammar(params, tokenizer)
        self._remembers = remembers(params)
        self._likeliest = only_likeliest(params)
        self._tells = params.post_sampling_probs and params.logprobs is not None
        self._left: Table | None = None
        self._banning = _banning(params)
        self._never = [
            *banned, *(token for token, bias in params.logit_bias.items() if bias == -np.inf)
        ]  # fmt: skip
        self.greedy = (
            self._grammar is None
            and self._hooked is None
            and self._likeliest
            and not (params.logit_bias or self._remembers)
        )
        """Whether the likeliest token is drawn if it may be, whatever came before (see `take`)."""
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        try:
            self._build(params, tokenizer, n_ctx, banned)
        except BaseException:
            self.close()
            raise
        if self._remembers:
            for token in prompt:
                llama_cpp.llama_sampler_accept(self._chain, token)

    def _build(
        self, params: SamplingParams, tokenizer: Tokenizer, n_ctx: int, banned: Sequence[int]
    ) -> None:
        bias = dict(params.logit_bias) | dict.fromkeys(banned, float("-inf"))
        for token in bias:
            if token >= self._n_vocab:
                raise unknown_token("logit_bias", token, self._n_vocab)
        if bias:
            table = (llama_cpp.llama_logit_bias * len(bias))(
                *(llama_cpp.llama_logit_bias(token, value) for token, value in bias.items())
            )
            self._add(llama_cpp.llama_sampler_init_logit_bias(self._n_vocab, len(bias), table))
        seed = RANDOM_SEED if params.seed is None else seed_of_choice(params.seed, 0)
        mirostat = params.mirostat and params.temperature > 0
        greedy = self._likeliest
        for name in params.samplers:
            if name == "penalties":
                self._add_penalties(params, n_ctx)
            elif name == "dry":
                self._add_dry(params, tokenizer, n_ctx)
            elif not (mirostat or greedy):
                self._add_filter(name, params, tokenizer, seed)
        if mirostat:
            self._add_mirostat(params, seed)
        elif greedy:
            self._add(llama_cpp.llama_sampler_init_greedy())
        else:
            self._add(llama_cpp.llama_sampler_init_dist(seed))

    def _add(self, step: llama_cpp.llama_sampler_p) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, step)

    def _add_penalties(self, params: SamplingParams, n_ctx: int) -> None:
        if penalises(params):
            tokens = last_n(params.repeat_last_n, n_ctx)
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    self._n_vocab,
                    tokens,
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            )

    def _add_dry(self, params: SamplingParams, tokenizer: Tokenizer, n_ctx: int) -> None:
        if params.dry_multiplier > 0:
            breakers = [text.encode() for text in params.dry_sequence_breakers]
            table = (ctypes.c_char_p * len(breakers))(*breakers)
            tokens = last_n(params.dry_penalty_last_n, n_ctx)
            self._add(
                llama_cpp.llama_sampler_init_dry(
                    tokenizer.handle,
                    params.dry_multiplier,
                    params.dry_base,
                    params.dry_allowed_length,
                    tokens,
                    table,
                    len(breakers),
                )
            )

    def _add_filter(
        self, name: str, params: SamplingParams, tokenizer: Tokenizer, seed: int
    ) -> None:
        keep = 1
        match name:
            case "top_n_sigma" if params.top_n_sigma > 0:
                self._add(llama_cpp.llama_sampler_init_top_n_sigma(params.top_n_sigma))
            case "top_k" if params.top_k > 0:
                self._add(llama_cpp.llama_sampler_init_top_k(params.top_k))
            case "typ_p" if params.typical_p < 1:
                self._add(llama_cpp.llama_sampler_init_typical(params.typical_p, keep))
            case "top_p" if params.top_p < 1:
                self._add(llama_cpp.llama_sampler_init_top_p(params.top_p, keep))
            case "min_p" if params.min_p > 0:
                self._add(llama_cpp.llama_sampler_init_min_p(params.min_p, keep))
            case "xtc" if params.xtc_probability > 0:
                probability, threshold = params.xtc_probability, params.xtc_threshold
                self._add(llama_cpp.llama_sampler_init_xtc(probability, threshold, keep, seed))
            case "temperature":
                self._add(llama_cpp.llama_sampler_init_temp(params.temperature))
            case "infill":
                self._add(llama_cpp.llama_sampler_init_infill(tokenizer.handle))

    def _add_mirostat(self, params: SamplingParams, seed: int) -> None:
        self._add(llama_cpp.llama_sampler_init_temp(params.temperature))
        tau, eta = params.mirostat_tau, params.mirostat_eta
        if params.mirostat == 1:
            step = llama_cpp.llama_sampler_init_mirostat(self._n_vocab, seed, tau, eta, _MIROSTAT_M)
        else:
            step = llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta)
        self._add(step)

    def take(self, token: int) -> bool:
        """Draw this token, if a `greedy` sampler may; False: it may not, nothing is drawn."""
        if token in self._banned:
            return False
        if self._matcher is not None:
            if not self._matcher.fits(token):
                return False
            self._matcher.accept(token)
        return True

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens a `matcher` lets follow one another from here; all without one."""
        return len(tokens) if self._matcher is None else self._matcher.fits_all(tokens)

    def forced(self) -> list[int]:
        """The tokens that a `matcher` leaves no choice about, as the vocabulary spells them; often none.

        They are guesses: the model may spell the same text otherwise. The last one is left out, since it
        might have become one token together with what comes behind.
        """
        text = b"" if self._matcher is None else self._matcher.forced_text()[:_LONGEST_FORCED]
        if not text:
            return []
        return self._tokenizer.encode(text.decode("utf-8", "ignore"), raw=True)[:-1]

    def sample(self, context: llama_cpp.llama_context_p, row: int) -> int:
        """Draw the token after batch row `row` of `context`, and remember it.

        Raises InvalidRequestError if no token fits the grammar: accepting another would abort the process.
        """
        if self._hooked is not None:
            return self._sample_hooked(self._hooked, context, row)
        if self._matcher is not None:
            return self._sample_matching(self._matcher, context, row)
        if self._grammar is None and not self._tells:
            return int(llama_cpp.llama_sampler_sample(self._chain, context, row))
        token = self._draw(context, row)
        if self._grammar is not None:
            if not self._fits(token):
                token = self._draw(context, row, grammar_first=True)
                if not self._fits(token):
                    raise _dead_end(self._banning)
            llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def drawn(self, token: int, n_top: int) -> TokenLogprob | None:
        """With which probability this token has just been drawn, and the `n_top` likeliest that were
        left; None if the model's own probabilities are wanted."""
        if not self._tells:
            return None
        left, self._left = self._left, None
        return certain(token) if left is None or self._likeliest else drawn_with(left, token, n_top)

    def _sample_matching(
        self, matcher: Matcher, context: llama_cpp.llama_context_p, row: int
    ) -> int:
        token = None if self.greedy else self._draw_freely(context, row)  # greedy: see `take`
        if token is None or not matcher.fits(token):
            token = self._draw_fitting(self._logits(context, row), self._banning)
        matcher.accept(token)
        if self._remembers:
            llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def _sample_hooked(
        self, hooked: HookedAnswer, context: llama_cpp.llama_context_p, row: int
    ) -> int:
        logits = self._logits(context, row)
        if hooked.ends(logits):
            return self._tokenizer.eos
        logits = hooked.processed(logits)
        token = self._draw_fitting(logits, "logits_processor")
        if self._grammar is not None:
            if not self._fits(token):
                raise _dead_end("logits_processor")
            llama_cpp.llama_sampler_accept(self._grammar, token)
        if self._matcher is not None:
            self._matcher.accept(token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        hooked.add(token)
        return token

    def _draw_fitting(self, logits: Logits, banning: str) -> int:
        """What is drawn among the tokens that fit the form; `banning` is to blame if there is none.

        A matcher's candidates are tried one by one: to check all of them would hold up the other requests.
        """
        mask = np.ones(self._n_vocab, dtype=np.bool_)
        if self._matcher is not None:
            self._matcher.candidates(mask)
        mask[self._never] = False
        mask &= np.isfinite(logits)
        while True:
            ids = np.flatnonzero(mask)
            if not len(ids):
                raise _dead_end(banning)
            token = self._choose(logits, ids, grammar_first=True)
            if self._matcher is None or self._matcher.fits(token):
                return token
            self._matcher.exclude(token, mask)

    def _draw_freely(self, context: llama_cpp.llama_context_p, row: int) -> int:
        """What is drawn without a grammar; a chain that remembers tokens is not told of it."""
        if self._remembers or self._tells:
            return self._draw(context, row)
        return int(llama_cpp.llama_sampler_sample(self._chain, context, row))  # quicker

    def _draw(
        self,
        context: llama_cpp.llama_context_p,
        row: int,
        *,
        grammar_first: bool = False,
    ) -> int:
        """What the chain draws; it is not told of it."""
        return self._choose(self._logits(context, row), grammar_first=grammar_first)

    def _logits(self, context: llama_cpp.llama_context_p, row: int) -> Logits:
        pointer = llama_cpp.llama_get_logits_ith(context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))

    def _choose(
        self, logits: Logits, ids: npt.NDArray[np.intp] | None = None, *, grammar_first: bool
    ) -> int:
        """What the chain draws, among these ids or all."""
        data = table_of(logits, ids)
        candidates = array_of(data)
        if grammar_first and self._grammar is not None:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        if self._tells:
            self._left = data[: candidates.size]
        return int(data["id"][candidates.selected])

    def _fits(self, token: int) -> bool:
        """Whether the GBNF grammar lets the token come next."""
        data = np.array([(token, 1.0, 0.0)], dtype=TOKEN_DATA)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array_of(data)))
        return bool(data["logit"][0] != -np.inf)

    def close(self) -> None:
        """Free the native samplers; closing twice is harmless."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None


def _banning(params: SamplingParams) -> str:
    """The parameter that keeps tokens from being drawn, or else the one that every other token must fit."""
    if params.ignore_eos:
        return "ignore_eos"
    return "logit_bias" if params.logit_bias else "grammar"


def _dead_end(banning: str) -> InvalidRequestError:
    if banning == "grammar":
        return GrammarError("no token fits the {param} where the answer is now")
    if banning == "logits_processor":
        return InvalidRequestError("{param} bans every token that may come next", banning)
    return InvalidRequestError(
        "{param} bans the only tokens that fit the answer's form",
        banning,
        "leave it out, or leave out the form (a grammar, a schema, an expression or functions)",
    )


def _grammar(params: SamplingParams, tokenizer: Tokenizer) -> llama_cpp.llama_sampler_p | None:
    """The sampler of the request's GBNF, if it has one; its size has been checked."""
    if params.grammar is None:
        return None
    lib = library()
    lib.clear_errors()
    grammar: llama_cpp.llama_sampler_p | None = llama_cpp.llama_sampler_init_grammar(
        tokenizer.handle, params.grammar.encode(), b"root"
    )
    if not grammar:  # a null pointer object, which is not None
        reason = lib.last_error() or "is there a rule named root?"
        raise GrammarError("llama.cpp cannot parse the {param}: {reason}", reason=reason)
    return grammar

"""`SamplingParams`: how one answer is drawn, and where it ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from codellama.errors import InvalidRequestError, check_text
from codellama.params.lora import check_scales
from codellama.params.samplers import SAMPLERS, sampler_names
from codellama.settings import Face, check_settings, is_number, make, setting

if TYPE_CHECKING:
    from codellama.params.model import ModelConfig

FORMS = ("grammar", "json_schema", "regex", "lark")
"""The parameters that say what an answer may be; a request has one of them at most."""
RANDOM_SEED = 2**32 - 1  # LLAMA_DEFAULT_SEED of llama.cpp, which means "random"
LOWEST_SEED, HIGHEST_SEED = -(2**63), 2**64 - 1  # what 64 bits hold, with a sign or without
MAX_INT32 = 2**31 - 1

SAMPLING, REPETITION, LIMITS, FORM = "Sampling", "Repetition", "Limits", "Form of the answer"
ADAPTERS, SHIFT, REPEATING = "LoRA adapters", "Context", "Cache and guesses"
EVERYWHERE: tuple[Face, ...] = ("Python", "command line", "HTTP")
# On the command line `lora`, `context_shift`, `n_keep` and `spec_draft_n_max` are the model's; `logprobs`
# needs JSON to be seen, and `id_slot` a server with several.
NOT_AN_OPTION: tuple[Face, ...] = ("Python", "HTTP")


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is drawn. Order of the steps and defaults are llama.cpp's own, except for
    `temperature`, which is the 0.2 of Meta's instruction example.

    `stop` holds strings, `stop_tokens` ids; neither is part of the answer. `logit_bias` maps a token
    id to what is added to its logit; -inf bans it. `samplers` are the steps and their order; those
    not named are off, and "infill" may be among them. `logprobs` None gives no log probabilities. They are
    the model's; with `post_sampling_probs` those that the token was drawn with, of what the filters left.

    Three limits end an answer with the reason "length": `timeout_s` seconds after it was asked for;
    the first line end after `t_max_predict_ms` milliseconds of writing (0: no limit); and, from the
    second line on, a line indented by less than `n_indent` spaces or tabs, of which nothing is kept.

    `lora` says which of the model's LoRA adapters act on the answer: id or name to scale (1: in full);
    those that are not named do not. None: as the model was loaded.

    With `context_shift` an answer goes on when the context is full: the first `n_keep` tokens of the
    prompt (-1: all of it) stay, and of the rest the older half goes, or `n_discard` tokens. What is
    written then follows from a text that the model no longer sees in full; without `max_tokens` it
    ends where the model ends it, or never. None: as the model was loaded. Without a shift, the answer
    ends with the context.

    A drawn answer with a `seed` repeats: a request that comes while nothing else runs gets the same answer
    each time, bit for bit. So it is decoded without guesses but what its form leaves no choice about,
    unless `spec_draft_n_max` asks for them. And it takes over from earlier requests only whole pieces of its
    prompt. With `repeatable` False the seed still gives the same random numbers, but none of this is done.
    With `cache_prompt` False nothing is taken over. `spec_draft_n_max` has no effect beyond the model's own.
    `id_slot` says where the answer's KV state is to lie, for who saves it from there; what is said is the
    same in each slot.
    """

    faces = EVERYWHERE

    max_tokens: int | None = setting(
        None,
        "Longest answer in tokens.",
        LIMITS,
        low=0,
        default_text="up to the end of the context",
    )
    temperature: float = setting(0.2, "Randomness; 0 or less takes the likeliest token.", SAMPLING)
    top_k: int = setting(
        40, "Draw from this many tokens; 0 or -1: all.", SAMPLING, low=-1, high=MAX_INT32
    )
    top_p: float = setting(
        0.95, "Draw from the likeliest tokens up to this total.", SAMPLING, low=0, high=1
    )
    min_p: float = setting(
        0.05, "Drop tokens below this share of the likeliest one.", SAMPLING, low=0, high=1
    )
    typical_p: float = setting(1.0, "Locally typical sampling; 1 is off.", SAMPLING, low=0, high=1)
    top_n_sigma: float = setting(
        -1.0, "Draw from logits within this many deviations of the best; 0 or -1 is off.", SAMPLING,
        low=-1,
    )  # fmt: skip
    xtc_probability: float = setting(
        0.0, "Chance that XTC drops the likeliest tokens; 0 is off.", SAMPLING, low=0, high=1
    )
    xtc_threshold: float = setting(
        0.1, "XTC drops tokens above this probability, but for the last.", SAMPLING, low=0, high=1
    )
    dry_multiplier: float = setting(
        0.0, "DRY: strength of the penalty for repeated sequences; 0 is off.", REPETITION, low=0
    )
    dry_base: float = setting(
        1.75, "DRY: growth of the penalty per token of the sequence.", REPETITION, low=0
    )
    dry_allowed_length: int = setting(
        2, "DRY: longest repeated sequence that costs nothing.", REPETITION, low=0, high=MAX_INT32
    )
    dry_penalty_last_n: int = setting(
        -1, "DRY: tokens that are searched for repetitions; -1: all.", REPETITION, low=-1
    )
    dry_sequence_breakers: tuple[str, ...] = setting(
        ("\n", ":", '"', "*"), "DRY: texts at which a sequence ends.", REPETITION
    )
    mirostat: int = setting(0, "Mirostat 1 or 2; 0 is off.", SAMPLING, low=0, high=2)
    mirostat_tau: float = setting(5.0, "Mirostat: the surprise that it aims at.", SAMPLING, low=0)
    mirostat_eta: float = setting(0.1, "Mirostat: how fast it learns.", SAMPLING, low=0)
    repeat_penalty: float = setting(
        1.0, "Divide the logits of recent tokens; 1 is off.", REPETITION, low=0.01, high=1e6
    )
    repeat_last_n: int = setting(64, "Tokens that count as recent; -1: all.", REPETITION, low=-1)
    frequency_penalty: float = setting(
        0.0, "Penalty per earlier use of a token.", REPETITION, low=-2, high=2
    )
    presence_penalty: float = setting(
        0.0, "Penalty for having been used.", REPETITION, low=-2, high=2
    )
    logit_bias: Mapping[int, float] = setting(
        {}, "What is added to a token's logit; -inf bans it.", SAMPLING, default_text="none"
    )
    seed: int | None = setting(
        None, "Same seed, same answer, when nothing else runs.", SAMPLING, low=LOWEST_SEED,
        high=HIGHEST_SEED, default_text="random",
    )  # fmt: skip
    grammar: str | None = setting(
        None, "GBNF grammar that the answer must follow.", FORM, default_text="none"
    )
    json_schema: str | Mapping[str, Any] | None = setting(
        None, "JSON schema that the answer must follow.", FORM, default_text="none"
    )
    regex: str | None = setting(
        None, "Regular expression that the whole answer must match.", FORM, default_text="none"
    )
    lark: str | None = setting(
        None, "Grammar in llguidance's Lark syntax that the answer must follow.", FORM,
        default_text="none",
    )  # fmt: skip
    stop: tuple[str, ...] = setting((), "End the answer before this text.", LIMITS)
    stop_tokens: tuple[int, ...] = setting((), "End the answer before this token id.", LIMITS)
    logprobs: int | None = setting(
        None, "Report the log probability of every token and of this many others.", FORM,
        low=0, high=100, default_text="none", faces=NOT_AN_OPTION,
    )  # fmt: skip
    post_sampling_probs: bool = setting(
        False, "Report what was drawn with, after the filters, as log probabilities.", FORM,
        faces=NOT_AN_OPTION,
    )  # fmt: skip
    ignore_eos: bool = setting(False, "Go on after the end of the answer.", LIMITS)
    samplers: tuple[str, ...] = setting(SAMPLERS, "The steps of sampling, in order.", SAMPLING)
    timeout_s: float | None = setting(
        None, "Seconds after which an answer ends.", LIMITS, low=0, default_text="none"
    )
    t_max_predict_ms: int = setting(
        0, "Milliseconds of writing, after which a line end ends the answer; 0: no limit.", LIMITS,
        low=0,
    )  # fmt: skip
    n_indent: int = setting(
        0, "End the answer before a later line that is indented by less than this.", LIMITS, low=0
    )
    lora: Mapping[int | str, float] | None = setting(
        None, "The LoRA adapters that act on the answer, by id or name, and their scales.", ADAPTERS,
        default_text="as the model was loaded", faces=NOT_AN_OPTION,
    )  # fmt: skip
    context_shift: bool | None = setting(
        None, "Go on without the older half of the text when the context is full.", SHIFT,
        default_text="as the model was loaded", faces=NOT_AN_OPTION,
    )  # fmt: skip
    n_keep: int | None = setting(
        None, "Tokens at the prompt's beginning that a shift leaves; -1: all.", SHIFT,
        low=-1, high=MAX_INT32, default_text="as the model was loaded", faces=NOT_AN_OPTION,
    )  # fmt: skip
    n_discard: int = setting(
        0, "Tokens that a context shift drops; 0: the older half.", SHIFT, low=0, high=MAX_INT32
    )
    cache_prompt: bool = setting(
        True, "Take over what the cache holds of the prompt's beginning.", REPEATING
    )
    spec_draft_n_max: int | None = setting(
        None, "Longest guess in tokens; 0: none.", REPEATING, low=0, high=MAX_INT32,
        default_text="as the model was loaded; with a seed, only what the answer's form forces",
        faces=NOT_AN_OPTION,
    )  # fmt: skip
    repeatable: bool | None = setting(
        None, "Whether a drawn answer is to be the same again, bit for bit, when nothing else runs.",
        REPEATING, default_text="with a seed it is",
    )  # fmt: skip
    id_slot: int = setting(
        -1, "Slot that is preferred if it is free, counted round; below 0: any.", REPEATING,
        faces=NOT_AN_OPTION,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_tokens", "dry_sequence_breakers", "samplers"):
            if not isinstance(getattr(self, name), Iterable):
                raise InvalidRequestError("{param} must be a list", name)
        object.__setattr__(self, "samplers", sampler_names(self.samplers))
        for name in ("stop", "stop_tokens", "dry_sequence_breakers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_settings(self)
        for name in ("temperature", "top_k"):  # below 0 means 0, as in llama.cpp
            object.__setattr__(self, name, max(0, getattr(self, name)))
        self._check_lists()
        self._check_texts()
        self._check_biases()
        if self.lora is not None:
            check_scales(self.lora)
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidRequestError(
                "{param} and {other} exclude each other: give one of them", given[0], other=given[1]
            )

    def _check_lists(self) -> None:
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise InvalidRequestError("{param} must hold non-empty strings", "stop")
        for token in self.stop_tokens:
            if not isinstance(token, int) or token < 0:
                raise InvalidRequestError("{param} must hold token ids", "stop_tokens")

    def _check_texts(self) -> None:
        for name, value in vars(self).items():
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    check_text(text, name)

    def _check_biases(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidRequestError("{param} must map token ids to numbers", "logit_bias")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0:
                raise InvalidRequestError(
                    "{param} maps token ids to numbers, got the key {token!r}",
                    "logit_bias",
                    token=token,
                )
            if bias != -math.inf and not is_number(bias):
                raise InvalidRequestError(
                    "{param}[{token}] must be a number of 32 bits or -inf, got {bias!r}",
                    "logit_bias",
                    token=token,
                    bias=bias,
                )

    def of_choice(self, index: int) -> SamplingParams:
        """The parameters of choice number `index`: with a seed, each is drawn with the next one."""
        if self.seed is None:
            return self
        return dataclasses.replace(self, seed=seed_of_choice(self.seed, index))

    @property
    def repeats(self) -> bool:
        """Whether the answer is drawn, and is to be drawn again by the same request."""
        greedy = self.temperature == 0 and "temperature" in self.samplers
        wanted = self.seed is not None if self.repeatable is None else self.repeatable
        return wanted and not greedy

    def with_defaults(self, config: ModelConfig) -> SamplingParams:
        """These parameters, with what the model was loaded with where they leave it to that."""
        shift, n_keep, n_draft = self.context_shift, self.n_keep, self.spec_draft_n_max
        if n_draft is None and not self.repeats:
            n_draft = config.spec_draft_n_max
        return dataclasses.replace(
            self,
            context_shift=config.context_shift if shift is None else shift,
            n_keep=config.n_keep if n_keep is None else n_keep,
            spec_draft_n_max=n_draft,
        )

    @classmethod
    def of(cls, **options: Any) -> Self:
        """The parameters with these names; a name that does not exist is an error."""
        return make(cls, options)


def seed_of_choice(seed: int, index: int) -> int:
    """The seed that llama.cpp draws choice number `index` with.

    It has 32 bits: of a longer seed the lower ones count, as in llama-server, and what means "random" there
    is left out, so that every seed repeats.
    """
    return (seed % 2**32 + index) % RANDOM_SEED

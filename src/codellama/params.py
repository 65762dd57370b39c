"""The values that callers set: `SamplingParams` per request, `ModelConfig` per loaded model.

Both are frozen, checked when they are made, and refuse names they do not know. `Prompt` and `Message`
are what travels between the chat formats and the engine. Nothing here does any work.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from typing_extensions import NotRequired

from codellama.checks import check_number, check_scales, is_int, is_scale, make
from codellama.errors import InvalidRequestError

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
ContextPolicy = Literal["error", "drop_oldest"]
Pooling = Literal["none", "mean", "cls", "last"]
Progress = Callable[[int, int], None]  # takes how much is done, and of how much
CONTEXT_POLICIES: tuple[ContextPolicy, ...] = ("error", "drop_oldest")
POOLING_TYPES: tuple[Pooling, ...] = ("none", "mean", "cls", "last")
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ of llama.cpp
SAMPLERS = (  # llama.cpp's default order
    *("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"),
)
MAX_DRAFTED = 64  # drafted tokens in a step, all sequences together
MAX_SEED = 2**32 - 2  # 2**32 - 1 is LLAMA_DEFAULT_SEED, which means "random"


class Message(TypedDict):
    """One chat message; `role` is system, user or assistant.

    `destination` is written into the turn's header by the 70B's format; Meta's own replies carry
    "user" there.
    """

    role: str
    content: str
    destination: NotRequired[str]


@dataclass(frozen=True)
class Prompt:
    """Token ids as the model gets them, and how its answer ends.

    `stop_tokens` end the answer and are not part of it. `drop_leading_space` removes one space at
    the very beginning of the answer, which SentencePiece puts before a first word. `dropped` are
    the turns of a dialog that were left out because the context had no room for them.
    """

    tokens: tuple[int, ...]
    stop_tokens: frozenset[int] = frozenset()
    drop_leading_space: bool = False
    dropped: tuple[Message, ...] = ()


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is drawn. Order of the steps and defaults are llama.cpp's own, except for
    `temperature`, which is the 0.2 of Meta's instruction example.

    `temperature` 0 is greedy. `max_tokens` None means up to the end of the context. `logprobs` is
    the number of alternatives reported per token (0: the chosen one only; None: no logprobs).
    `top_k` 0, `repeat_last_n` -1 and `dry_penalty_last_n` -1 mean the vocabulary or the whole
    context. `seed` None is random. `stop` holds strings, `stop_tokens` ids; neither is part of
    the answer. `logit_bias` maps a token id to what is added to its logit; -inf bans it. `samplers`
    are the steps and their order; those not named are off, and "infill" may be among them.

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
    """

    max_tokens: int | None = None
    temperature: float = 0.2
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    grammar: str | None = None
    json_schema: str | Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    samplers: tuple[str, ...] = SAMPLERS
    timeout_s: float | None = None
    t_max_predict_ms: int = 0
    n_indent: int = 0
    lora: Mapping[int | str, float] | None = None
    context_shift: bool | None = None
    n_keep: int | None = None
    n_discard: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_tokens", "dry_sequence_breakers", "samplers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, low, high in _SAMPLING_RANGES:
            check_number(self, name, low, high)
        self._check_lists()
        if self.lora is not None:
            check_scales(self.lora)
        if not isinstance(self.context_shift, (bool, type(None))):
            raise InvalidRequestError("context_shift must be true or false", "context_shift")
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidRequestError(
                "grammar and json_schema exclude each other: give one of them", "grammar"
            )

    def _check_lists(self) -> None:
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise InvalidRequestError("stop must hold non-empty strings", "stop")
        for token in self.stop_tokens:
            if not isinstance(token, int) or token < 0:
                raise InvalidRequestError("stop_tokens must hold token ids", "stop_tokens")
        for name in self.samplers:
            if name not in (*SAMPLERS, "infill"):
                raise InvalidRequestError(
                    f"samplers: {name!r} is not one of {', '.join(SAMPLERS)}, infill", "samplers"
                )
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0:
                raise InvalidRequestError(
                    f"logit_bias maps token ids to numbers, got the key {token!r}", "logit_bias"
                )
            if not isinstance(bias, (int, float)) or math.isnan(bias) or bias == math.inf:
                raise InvalidRequestError(
                    f"logit_bias[{token}] must be a number or -inf, got {bias!r}", "logit_bias"
                )

    def with_defaults(self, config: ModelConfig) -> SamplingParams:
        """These parameters, with what the model was loaded with where they leave it to that."""
        shift, n_keep = self.context_shift, self.n_keep
        return dataclasses.replace(
            self,
            context_shift=config.context_shift if shift is None else shift,
            n_keep=config.n_keep if n_keep is None else n_keep,
        )

    @classmethod
    def of(cls, **options: Any) -> SamplingParams:
        """The parameters with these names; a name that does not exist is an error."""
        return make(cls, options)


@dataclass(frozen=True)
class ModelConfig:
    """How a model is loaded and served.

    `n_ctx` is the context per request in tokens (None: what the model was trained for), `n_seq_max`
    the number of requests served at once and `kv_cells` the tokens that all of them may hold
    together (None: as many as `n_seq_max` full contexts need, or as fit an eighth of the memory).
    Prompts whose place is taken by others stay in up to `cache_ram` MiB of host memory (None: 8192,
    but no more than a sixteenth of the memory).
    `max_queue` requests may wait beyond those. `n_batch` is the token budget of one step,
    `prefill_chunk` the share of it that prompts may take while others are decoding.
    `n_gpu_layers` is a number, "all", or "auto" (as many as fit). `type_k`/`type_v` name the KV
    cache's types. `chat_format` None is recognised from the file. `special_tags` says what happens
    to tags such as `<step>` in a user's text: they stay plain text ("literal"), or the request is
    refused as Meta's code does ("reject"). `experimental_infill` allows infilling where it is not
    clear that the model was trained for it (70B base).

    `spec_type` says who guesses tokens ahead, which never changes an answer: "ngram" looks up what
    followed the same tokens before, "draft" asks `draft_model`, a small GGUF with the same
    vocabulary, "auto" does both if there is one, "none" is off. A guess has at most
    `spec_draft_n_max` tokens, fewer when guesses fail; the draft model's ends where its
    probability falls below `spec_draft_p_min`. `draft_gpu_layers` is its `n_gpu_layers`.

    `lora` are LoRA adapters, GGUF files that change the model's answers: paths, or pairs of a path
    and a scale (1: in full, 0: not at all). The scale is for requests that name no adapters
    themselves; with `lora_init_without_apply` it is 0 for all.

    `context_shift` and `n_keep` are those of requests that do not set them.

    `context_policy` is what becomes of a dialog that is too long, unless the request says it: an
    error, or "drop_oldest" leaves its oldest turns out. `embeddings` makes room for a second context
    of `n_ctx` tokens that turns texts into vectors, `pooling` how a text's tokens become one.

    `rope_…` and `yarn_…` replace what the file says about positions, to stretch the context beyond
    what the model was trained for; None leaves the file's value.
    """

    n_ctx: int | None = None
    n_seq_max: int = 4
    kv_cells: int | None = None
    cache_ram: int | None = None
    max_queue: int = 512
    n_batch: int = 512
    n_ubatch: int = 512
    prefill_chunk: int = 256
    n_threads: int | None = None
    n_threads_batch: int | None = None
    n_gpu_layers: int | Literal["all", "auto"] = "auto"
    main_gpu: int = 0
    split_mode: Literal["none", "layer", "row"] = "layer"
    tensor_split: tuple[float, ...] = ()
    offload_kqv: bool = True
    flash_attn: Literal["auto", "on", "off"] = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    use_mmap: bool = True
    use_mlock: bool = False
    chat_format: Literal["turn", "inst", "none"] | None = None
    special_tags: Literal["literal", "reject"] = "literal"
    experimental_infill: bool = False
    spec_type: Literal["auto", "none", "ngram", "draft"] = "auto"
    spec_draft_n_max: int = 32
    spec_draft_p_min: float = 0.5
    draft_model: str | os.PathLike[str] | None = None
    draft_gpu_layers: int | Literal["all", "auto"] = "auto"
    lora: tuple[str | os.PathLike[str] | tuple[str | os.PathLike[str], float], ...] = ()
    context_policy: ContextPolicy = "error"
    embeddings: bool = False
    pooling: Pooling = "mean"
    lora_init_without_apply: bool = False
    context_shift: bool = False
    n_keep: int = 0
    rope_scaling: Literal["none", "linear", "yarn"] | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_orig_ctx: int | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensor_split", tuple(self.tensor_split))
        for name, low, high in _CONFIG_RANGES:
            check_number(self, name, low, high)
        for name, values in _CONFIG_CHOICES:
            value = getattr(self, name)
            if value not in values:
                choices = ", ".join(str(v) for v in values if v is not None)
                raise InvalidRequestError(f"{name} must be one of {choices}; got {value!r}", name)
        for name in ("n_gpu_layers", "draft_gpu_layers"):
            layers = getattr(self, name)
            if layers not in ("all", "auto") and (not is_int(layers) or layers < 0):
                raise InvalidRequestError(
                    f"{name} must be a number of layers, 'all' or 'auto'; got {layers!r}", name
                )
        self._check_draft()
        object.__setattr__(self, "lora", tuple(_adapter(entry) for entry in self.lora))
        if self.n_ubatch > self.n_batch:
            raise InvalidRequestError(
                f"n_ubatch ({self.n_ubatch}) must not be larger than n_batch ({self.n_batch})",
                "n_ubatch",
            )
        if self.n_batch < self.n_seq_max:
            raise InvalidRequestError(
                f"n_batch ({self.n_batch}) must be at least n_seq_max ({self.n_seq_max})", "n_batch"
            )
        if self.type_v.startswith(("q", "iq")) and self.flash_attn == "off":
            raise InvalidRequestError(
                f"type_v={self.type_v} needs flash attention: set flash_attn to auto or on",
                "type_v",
            )

    def _check_draft(self) -> None:
        if self.spec_type == "draft" and self.draft_model is None:
            raise InvalidRequestError("spec_type draft needs a draft_model", "draft_model")
        if self.spec_type in ("none", "ngram") and self.draft_model is not None:
            raise InvalidRequestError(
                f"a draft_model is not used with spec_type {self.spec_type}: choose auto or draft",
                "spec_type",
            )

    @classmethod
    def of(cls, **options: Any) -> ModelConfig:
        """The configuration with these names; a name that does not exist is an error."""
        return make(cls, options)

    @property
    def threads(self) -> int:
        """Threads for decoding: `n_threads`, or one per physical core (as llama.cpp does)."""
        return self.n_threads or max(1, (os.cpu_count() or 1) // _threads_per_core())

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Path and default scale of every LoRA adapter."""
        pairs = [_adapter(entry) for entry in self.lora]
        return tuple((path, 0.0 if self.lora_init_without_apply else s) for path, s in pairs)

    @property
    def rope(self) -> dict[str, Any]:
        """What replaces the file's own values about positions."""
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith(("rope_", "yarn_"))]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def max_outputs(self) -> int:
        """Most rows of a step that have logits: one per request, and the drafted tokens."""
        return min(self.n_batch, self.n_seq_max + MAX_DRAFTED)


_SAMPLING_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 0, math.inf),
    ("temperature", 0, math.inf),
    ("top_k", 0, math.inf),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("typical_p", 0, 1),
    ("top_n_sigma", -1, math.inf),
    ("xtc_probability", 0, 1),
    ("xtc_threshold", 0, 1),
    ("dry_multiplier", 0, math.inf),
    ("dry_base", 0, math.inf),
    ("dry_allowed_length", 0, math.inf),
    ("dry_penalty_last_n", -1, math.inf),
    ("mirostat", 0, 2),
    ("mirostat_tau", 0, math.inf),
    ("mirostat_eta", 0, math.inf),
    ("repeat_penalty", 0.01, 1e6),
    ("repeat_last_n", -1, math.inf),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("seed", 0, MAX_SEED),
    ("logprobs", 0, 100),
    ("timeout_s", 0, math.inf),
    ("t_max_predict_ms", 0, math.inf),
    ("n_indent", 0, math.inf),
    ("n_keep", -1, 2**31 - 1),
    ("n_discard", 0, 2**31 - 1),
)

_CONFIG_RANGES: tuple[tuple[str, float, float], ...] = (
    ("n_ctx", 1, 2**31 - 1),
    ("n_seq_max", 1, MAX_SEQUENCES),
    ("kv_cells", 1, 2**31 - 1),
    ("cache_ram", 0, 2**40),
    ("max_queue", 0, math.inf),
    ("n_batch", 1, 2**20),
    ("n_ubatch", 1, 2**20),
    ("prefill_chunk", 1, 2**20),
    ("n_threads", 1, 4096),
    ("n_threads_batch", 1, 4096),
    ("main_gpu", 0, 64),
    ("n_keep", -1, 2**31 - 1),
    ("spec_draft_n_max", 0, MAX_DRAFTED),
    ("spec_draft_p_min", 0, 1),
    ("rope_freq_base", 1, 1e12),
    ("rope_freq_scale", 1e-6, 1e6),
    ("yarn_orig_ctx", 1, 2**31 - 1),
    ("yarn_ext_factor", 0, 1e6),
    ("yarn_attn_factor", 0, 1e6),
    ("yarn_beta_fast", 0, 1e6),
    ("yarn_beta_slow", 0, 1e6),
)

_CONFIG_CHOICES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("split_mode", ("none", "layer", "row")),
    ("flash_attn", ("auto", "on", "off")),
    ("type_k", KV_TYPES),
    ("type_v", KV_TYPES),
    ("chat_format", ("turn", "inst", "none", None)),
    ("special_tags", ("literal", "reject")),
    ("spec_type", ("auto", "none", "ngram", "draft")),
    ("context_policy", CONTEXT_POLICIES),
    ("pooling", POOLING_TYPES),
    ("rope_scaling", ("none", "linear", "yarn", None)),
)


def _adapter(entry: object) -> tuple[str, float]:
    """A LoRA adapter's path and scale."""
    path, scale = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1.0)
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InvalidRequestError(f"lora must hold paths or (path, scale); got {entry!r}", "lora")
    if not is_scale(scale):
        raise InvalidRequestError(f"lora: the scale of {path} must be a number", "lora")
    return os.fspath(path), float(scale)


def _threads_per_core() -> int:
    """Hardware threads per core as Linux reports them; 1 where it does not."""
    try:
        with open("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list") as f:
            siblings = f.read().strip()
    except OSError:
        return 1
    return max(1, len(siblings.replace("-", ",").split(",")))

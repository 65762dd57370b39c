"""`ModelConfig`: how a model is loaded and served, and the names that its settings may have."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

from typing_extensions import Self

from codellama.errors import InvalidRequestError
from codellama.params.lora import path_and_scale
from codellama.settings import Face, check_settings, is_int, make, setting
from codellama.variants import ChatFormatName

KVType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
ContextPolicy = Literal["error", "drop_oldest"]
Pooling = Literal["none", "mean", "cls", "last"]
SplitMode = Literal["none", "layer", "row"]
Switch = Literal["auto", "on", "off"]
FlashAttention = Switch
SpecialTags = Literal["literal", "reject"]
Guesser = Literal["auto", "none", "ngram", "draft"]
RopeScaling = Literal["none", "linear", "yarn"]
Layers = int | Literal["all", "auto"]
Threads = int | Literal["auto"]
MAX_THREADS = 512  # GGML_MAX_N_THREADS of ggml
KV_TYPES: tuple[KVType, ...] = get_args(KVType)
CONTEXT_POLICIES: tuple[ContextPolicy, ...] = get_args(ContextPolicy)
POOLING_TYPES: tuple[Pooling, ...] = get_args(Pooling)

MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ of llama.cpp
MAX_DRAFTED = 64  # drafted tokens in a step, all sequences together
MAX_INT32 = 2**31 - 1

MODEL, DEVICES, CONTEXT, SERVING = "Model", "Devices", "Context", "Serving many"
CHAT, INFILLING, GUESSING = "Chat", "Infilling", "Guessing ahead"
ADAPTERS, ROPE = "LoRA adapters", "RoPE and YaRN"
AT_LOAD: tuple[Face, ...] = ("Python", "command line")
OF_FILE = "from the file"


@dataclass(frozen=True)
class ModelConfig:
    """How a model is loaded and served.

    `n_seq_max` requests are served at once, each with a context of `n_ctx` tokens, and `max_queue`
    may wait beyond those. `kv_cells` are the tokens that all of them may hold together. Prompts whose
    place is taken by others stay in up to `cache_ram` MiB of host memory. `n_batch` is the token
    budget of one step, `prefill_chunk` the share of it that prompts may take while others are decoding.

    `special_tags` says what happens to tags such as `<step>` in a user's text: they stay plain text
    ("literal"), or the request is refused as Meta's code does ("reject"). `experimental_infill` allows
    infilling where it is not clear that the model was trained for it (70B base).

    `spec_type` says who guesses tokens ahead. A wrong guess is dropped; but a step with guesses rounds
    otherwise, so drawn answers with a seed go without, unless their request asks. "ngram" looks up what
    followed the same tokens before, "draft" asks `draft_model`, a small GGUF with the same vocabulary,
    "auto" does both if there is one, "none" is off. A guess has at most
    `spec_draft_n_max` tokens, fewer when guesses fail; the draft model's ends where its
    probability falls below `spec_draft_p_min`. `draft_gpu_layers` is its `n_gpu_layers`.

    `lora` are LoRA adapters, which change the model's answers: paths of GGUFs or of PEFT folders, or
    pairs of a path and a scale (1: in full, 0: not at all). The scale is for requests that name no adapters
    themselves; with `lora_init_without_apply` it is 0 for all.

    `context_shift` and `n_keep` are those of requests that do not set them. `context_policy` is what
    becomes of a dialog that is too long, unless the request says it: an error, or "drop_oldest" leaves
    its oldest turns out. `embeddings` makes room for a second context of `n_ctx` tokens that turns
    texts into vectors, `pooling` how a text's tokens become one.

    `rope_…` and `yarn_…` replace what the file says about positions, to stretch the context beyond
    what the model was trained for; None leaves the file's value. `beyond_training` lets a 70B have a
    longer context without, which is else an error; the smaller models give a warning.
    """

    faces = AT_LOAD

    n_ctx: int | None = setting(
        None, "Context per request in tokens.", CONTEXT, low=1, high=MAX_INT32,
        default_text="what the model was trained for",
    )  # fmt: skip
    beyond_training: bool = setting(
        False, "Let {n_ctx} of a 70B exceed what it was trained for, 4096 for Instruct.", CONTEXT
    )
    n_seq_max: int = setting(4, "Requests answered at once.", SERVING, low=1, high=MAX_SEQUENCES)
    kv_cells: int | None = setting(
        None, "Tokens all requests may hold together.", SERVING, low=1, high=MAX_INT32,
        default_text="{n_ctx} times {n_seq_max}, or what fits an eighth of the memory",
    )  # fmt: skip
    cache_ram: int | None = setting(
        None, "MiB of host memory for prompts that left the cache; 0: none.", SERVING,
        low=0, high=2**40, default_text="8192, or 1/16 of the memory",
    )  # fmt: skip
    max_queue: int = setting(512, "Requests that may wait; more are refused.", SERVING, low=0)
    n_batch: int = setting(512, "Tokens per step.", CONTEXT, low=1, high=2**20)
    n_ubatch: int = setting(
        512, "Tokens per llama.cpp micro-batch; at most {n_batch}.", CONTEXT, low=1, high=2**20
    )
    prefill_chunk: int = setting(
        256, "Prompt tokens per step while others are answered.", SERVING, low=1, high=2**20
    )
    n_threads: Threads = setting(
        "auto", "CPU threads for answers.", DEVICES,
        default_text="auto, one per core to begin with, then by what other programs take",
    )  # fmt: skip
    n_threads_batch: Threads | None = setting(
        None, "CPU threads for prompts.", DEVICES, default_text="as {n_threads}"
    )
    n_gpu_layers: Layers = setting(
        "auto", "Layers on the GPU.", DEVICES, default_text="auto, as many as fit"
    )
    main_gpu: int = setting(0, "The GPU for what is not split.", DEVICES, low=0, high=64)
    split_mode: SplitMode = setting("layer", "How several GPUs share the model.", DEVICES)
    tensor_split: tuple[float, ...] = setting(
        (), "Share of each GPU, such as 3,1.", DEVICES, default_text="by free memory"
    )
    rpc: tuple[str, ...] = setting(
        (), "Other machines whose devices may have layers, as HOST:PORT of llama.cpp's RPC server.",
        DEVICES, default_text="none",
    )  # fmt: skip
    isolate: bool | None = setting(
        None, "Run the engine in a process of its own, which is started again if it dies.", DEVICES,
        default_text="with {rpc} only",
    )  # fmt: skip
    offload_kqv: bool = setting(True, "Keep the KV cache on the GPU.", DEVICES)
    flash_attn: FlashAttention = setting(
        "auto",
        "Flash attention; auto: as llama.cpp, but not on a CPU that answers one request at a time.",
        CONTEXT,
    )
    type_k: KVType = setting("f16", "Type of the KV cache's keys.", CONTEXT)
    type_v: KVType = setting("f16", "Type of the KV cache's values.", CONTEXT)
    use_mmap: bool = setting(True, "Map the file into memory.", MODEL)
    use_mlock: bool = setting(False, "Keep the model in RAM.", MODEL)
    repack: Switch = setting(
        "auto", "Copy weights into the order that the CPU's code likes best.", MODEL,
        default_text="auto, if they fit the free memory",
    )  # fmt: skip
    chat_format: ChatFormatName | None = setting(
        None, "turn: 70B Instruct; inst: 7B to 34B Instruct.", CHAT, default_text="from the file"
    )
    special_tags: SpecialTags = setting(
        "literal", "What control tags typed in a message are.", CHAT,
        default_text="literal, plain text",
    )  # fmt: skip
    experimental_infill: bool = setting(
        False, "Infill with 70B base, about which Meta's pages disagree.", INFILLING
    )
    spec_type: Guesser = setting(
        "auto", "Who guesses tokens ahead, but for drawn answers with a seed.", GUESSING,
        default_text="auto, n-grams and the draft model if there is one",
    )  # fmt: skip
    spec_draft_n_max: int = setting(
        32, "Longest guess in tokens; 0: none.", GUESSING, low=0, high=MAX_DRAFTED
    )
    spec_draft_p_min: float = setting(
        0.5, "The draft model guesses on while it is this sure.", GUESSING, low=0, high=1
    )
    draft_model: str | os.PathLike[str] | None = setting(
        None, "A small GGUF with the same vocabulary that guesses ahead.", GUESSING,
        default_text="none",
    )  # fmt: skip
    draft_gpu_layers: Layers = setting(
        "auto", "Layers of the draft model on the GPU.", GUESSING,
        default_text="auto, as many as fit",
    )  # fmt: skip
    lora: tuple[str | os.PathLike[str] | tuple[str | os.PathLike[str], float], ...] = setting(
        (), "LoRA adapter to load: a GGUF or a PEFT folder.", ADAPTERS, default_text="none"
    )
    context_policy: ContextPolicy = setting(
        "error",
        "What becomes of a dialog that is too long: an error, or drop its oldest turns.",
        CHAT,
    )
    embeddings: bool = setting(
        False, "Answer /v1/embeddings too; takes memory for one more context of {n_ctx}.", SERVING
    )
    pooling: Pooling = setting("mean", "How the vectors of a text's tokens become one.", SERVING)
    lora_init_without_apply: bool = setting(
        False, "LoRA adapters act only on requests that name them.", ADAPTERS
    )
    context_shift: bool = setting(
        False, "Go on without the older half of the text when the context is full.", CONTEXT
    )
    n_keep: int = setting(
        0, "Tokens at the prompt's beginning that a shift leaves; -1: all.", CONTEXT,
        low=-1, high=MAX_INT32,
    )  # fmt: skip
    rope_scaling: RopeScaling | None = setting(
        None, "How positions beyond the trained context are scaled.", ROPE, default_text=OF_FILE
    )
    rope_freq_base: float | None = setting(
        None, "RoPE base frequency.", ROPE, low=1, high=1e12, default_text=OF_FILE
    )
    rope_freq_scale: float | None = setting(
        None, "RoPE frequency factor; 0.5 doubles the context.", ROPE, low=1e-6, high=1e6,
        default_text=OF_FILE,
    )  # fmt: skip
    yarn_orig_ctx: int | None = setting(
        None, "YaRN: context the model was trained for.", ROPE, low=1, high=MAX_INT32,
        default_text=OF_FILE,
    )  # fmt: skip
    yarn_ext_factor: float | None = setting(
        None, "YaRN: share of extrapolation; 0: interpolate only.", ROPE, low=0, high=1e6,
        default_text=OF_FILE,
    )  # fmt: skip
    yarn_attn_factor: float | None = setting(
        None, "YaRN: factor of the attention's magnitude.", ROPE, low=0, high=1e6,
        default_text=OF_FILE,
    )  # fmt: skip
    yarn_beta_fast: float | None = setting(
        None, "YaRN: high correction dimension.", ROPE, low=0, high=1e6, default_text=OF_FILE
    )
    yarn_beta_slow: float | None = setting(
        None, "YaRN: low correction dimension.", ROPE, low=0, high=1e6, default_text=OF_FILE
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensor_split", tuple(self.tensor_split))
        object.__setattr__(
            self, "rpc", (self.rpc,) if isinstance(self.rpc, str) else tuple(self.rpc)
        )
        check_settings(self)
        for name in ("n_gpu_layers", "draft_gpu_layers"):
            layers = getattr(self, name)
            if layers not in ("all", "auto") and (not is_int(layers) or layers < 0):
                raise InvalidRequestError(
                    "{param} must be a number of layers, 'all' or 'auto'; got {value!r}",
                    name,
                    value=layers,
                )
        self._check_threads()
        self._check_draft()
        if isinstance(self.lora, (str, os.PathLike)):
            object.__setattr__(self, "lora", (self.lora,))
        object.__setattr__(self, "lora", tuple(path_and_scale(entry) for entry in self.lora))
        self._check_batches()
        if self.type_v.startswith(("q", "iq")) and self.flash_attn == "off":
            raise InvalidRequestError(
                "{param}={kind} needs flash attention",
                "type_v",
                "set {flash_attn} to auto or on",
                kind=self.type_v,
            )

    def _check_threads(self) -> None:
        for name, kinds in (("n_threads", ("auto",)), ("n_threads_batch", ("auto", None))):
            value = getattr(self, name)
            if value not in kinds and (not is_int(value) or not 1 <= value <= MAX_THREADS):
                raise InvalidRequestError(
                    "{param} must be a whole number from 1 to {most} or 'auto'; got {value!r}",
                    name,
                    most=MAX_THREADS,
                    value=value,
                )

    def _check_batches(self) -> None:
        object.__setattr__(self, "n_ubatch", min(self.n_ubatch, self.n_batch))
        if self.n_batch < self.n_seq_max:
            raise InvalidRequestError(
                "{param} ({value}) must be at least {n_seq_max} ({least})",
                "n_batch",
                value=self.n_batch,
                least=self.n_seq_max,
            )

    def _check_draft(self) -> None:
        if self.spec_type == "draft" and self.draft_model is None:
            raise InvalidRequestError("{spec_type} draft needs a {param}", "draft_model")
        if self.spec_type in ("none", "ngram") and self.draft_model is not None:
            raise InvalidRequestError(
                "a {draft_model} is not used with {param} {kind}",
                "spec_type",
                "choose auto or draft",
                kind=self.spec_type,
            )

    @classmethod
    def of(cls, **options: Any) -> Self:
        """The configuration with these names; a name that does not exist is an error."""
        return make(cls, options)

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Path and default scale of every LoRA adapter."""
        pairs = [path_and_scale(entry) for entry in self.lora]
        return tuple((path, 0.0 if self.lora_init_without_apply else s) for path, s in pairs)

    @property
    def rope(self) -> dict[str, Any]:
        """What replaces the file's own values about positions."""
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith(("rope_", "yarn_"))]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def isolated(self) -> bool:
        """Whether the engine runs in a process of its own."""
        return bool(self.rpc) if self.isolate is None else self.isolate

    @property
    def max_outputs(self) -> int:
        """Most rows of a step that have logits: one per request, and the drafted tokens."""
        return min(self.n_batch, self.n_seq_max + MAX_DRAFTED)

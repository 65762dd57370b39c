"""`llama_cpp.Llama`'s keywords as `ModelConfig`'s: translated one by one, or an error that says what to do.

The keywords are those of llama-cpp-python 0.3.36. What has no counterpart here is taken at the values that
ask for nothing, and is an error at others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.params import RANDOM_SEED
from codellama.params.model import MAX_DRAFTED

ALL_LAYERS = 2**31 - 1
"""llama_cpp's other spelling of -1, all layers."""

_KV_TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    20: "iq4_nl",
    30: "bf16",
}  # fmt: skip - enum ggml_type of ggml.h
_SPLIT_MODES = {0: "none", 1: "layer", 2: "row"}  # enum llama_split_mode of llama.h
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last"}  # enum llama_pooling_type
_ROPE_SCALING = {-1: None, 0: "none", 1: "linear", 2: "yarn"}  # enum llama_rope_scaling_type
_CHAT_FORMATS = {
    "turn": "turn",
    "codellama-70b-instruct": "turn",
    "inst": "inst",
    "llama-2": "inst",
    "none": "none",
    "chat_template.default": None,
}

_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "vocab_only": ((False,), "leave it out: with {use_mmap} weights that nobody asks for are not read"),
    "kv_overrides": ((None, {}), "leave it out: converters' known faults are corrected by themselves"),
    "attention_type": ((None, -1, 0), "leave it out: these models attend causally"),
    "op_offload": ((None, True), "leave it out: llama.cpp decides"),
    "lora_base": ((None, ""), "merge the adapter into the unquantized checkpoint when it is converted"),
    "numa": ((False, 0), "leave it out, and start the process with numactl"),
    "chat_handler": ((None,), "leave it out: the model's own format is built in, see {chat_format}"),
    "tokenizer": ((None,), "leave it out: the file's vocabulary is used"),
    "spm_infill": ((False,), "leave it out: these models were trained on prefix, suffix, middle"),
    "device": ((None,), "leave it out, and set {n_gpu_layers} and {main_gpu}"),
    "n_parts": ((None, -1), "leave it out: the parts of a split file are found by themselves"),
}  # fmt: skip
"""Keywords that are taken only at values that ask for nothing, and what to do instead of another one."""

NO_EFFECT = ("verbose", "logits_all", "no_perf", "swa_full", "f16_kv")
"""Keywords whose values all mean the same here; `Llama` says why."""


def model_options(given: Mapping[str, Any], *, has_gpu: bool) -> dict[str, Any]:
    """`ModelConfig`'s fields for these keywords of `llama_cpp.Llama`; unknown ones stay as they are.

    `has_gpu` says whether layers can go to a GPU: all of them, -1, are none without one.
    Raises InvalidRequestError or UnsupportedError, which name the keyword.
    """
    left = {name: value for name, value in given.items() if name not in NO_EFFECT}
    for name, (neutral, remedy) in _NEUTRAL.items():
        value = left.pop(name, neutral[0])
        if not any(value is known or value == known for known in neutral):
            raise UnsupportedError(f": {_shown(value)} is not supported", remedy, setting=name)
    options = _lora(left)
    for name, translate in _TRANSLATED.items():
        if name in left:
            options |= translate(name, left.pop(name))
    layers = left.pop("n_gpu_layers", 0)
    if layers in (-1, ALL_LAYERS):
        layers = "all" if has_gpu else 0
    return _sized(options | left | {"n_gpu_layers": layers})


def request_seed(seed: int | None) -> int | None:
    """The seed of a model's requests; None (random) for llama_cpp's spellings of it."""
    return None if seed in (None, -1, RANDOM_SEED) else seed


def _sized(options: dict[str, Any]) -> dict[str, Any]:
    """Batches no longer than the context, micro-batches no longer than batches: as llama_cpp cuts them."""
    sizes = [options.get(name) for name in ("n_ctx", "n_batch", "n_ubatch")]
    if all(size is None or (isinstance(size, int) and size > 0) for size in sizes):
        n_ctx, n_batch, n_ubatch = sizes
        batch = min(size for size in (n_ctx, n_batch or 512) if size)
        options["n_batch"], options["n_ubatch"] = batch, min(batch, n_ubatch or 512)
        if batch < 4:  # each request needs a row
            options.setdefault("n_seq_max", batch)
    return options


def _lora(left: dict[str, Any]) -> dict[str, Any]:
    """The adapter, whose keywords are taken out of `left`."""
    path, scale = left.pop("lora_path", None), left.pop("lora_scale", 1.0)
    return {"lora": ((path, scale),)} if path else {}


Translate = Callable[[str, Any], dict[str, Any]]


def _renamed(name: str, default: Any = None) -> Translate:
    """The same value under our name; None is our default."""
    return lambda _, value: {name: default if value is None else value}


def _unless(*unset: Any, name: str = "") -> Translate:
    """The same value, but for those that mean "not set"."""
    return lambda own, value: {} if value is None or value in unset else {name or own: value}


def _numbered(names: Mapping[int, str | None], name: str = "") -> Translate:
    """A number of an enumeration as our name of it; a name stays as it is."""

    def translate(own: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if isinstance(value, str):
            return {name or own: value}
        if isinstance(value, bool) or value not in names:
            known = ", ".join(f"{number} ({text})" for number, text in names.items() if text)
            raise InvalidRequestError(
                "{param} must be one of {known}; got {value!r}", own, known=known, value=value
            )
        found = names[value]
        return {} if found is None else {name or own: found}

    return translate


def _chat_format(_: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if value not in _CHAT_FORMATS:
        raise InvalidRequestError(
            "{param} must be one of {known}; got {value!r}",
            "chat_format",
            "leave it out: the file says which one it is",
            known=", ".join(_CHAT_FORMATS),
            value=value,
        )
    return {"chat_format": _CHAT_FORMATS[value]}


def _flash_attn(_: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    return {"flash_attn": ("on" if value else "off") if isinstance(value, bool) else value}


def _draft_model(_: str, value: Any) -> dict[str, Any]:
    """A path, or llama_cpp's `LlamaPromptLookupDecoding`, whose kind of guesses is made anyway."""
    most = getattr(value, "num_pred_tokens", None)
    if isinstance(most, int) and hasattr(value, "max_ngram_size"):
        return {"spec_type": "ngram", "spec_draft_n_max": max(0, min(most, MAX_DRAFTED))}
    if value is not None and not hasattr(value, "__fspath__") and not isinstance(value, str):
        raise InvalidRequestError(
            "{param} must be the path of a GGUF, or a LlamaPromptLookupDecoding", "draft_model"
        )
    return {"draft_model": value}


_TRANSLATED: dict[str, Translate] = {
    "split_mode": _numbered(_SPLIT_MODES),
    "tensor_split": _renamed("tensor_split", ()),
    "n_ctx": _unless(0),
    "n_batch": _unless(),
    "n_ubatch": _unless(),
    "n_threads": _unless(0),
    "n_threads_batch": _unless(0),
    "rope_scaling_type": _numbered(_ROPE_SCALING, "rope_scaling"),
    "pooling_type": _numbered({-1: None, **_POOLING}, "pooling"),
    "rope_freq_base": _unless(0),
    "rope_freq_scale": _unless(0),
    "yarn_ext_factor": _unless(-1),
    "yarn_attn_factor": _unless(1),
    "yarn_beta_fast": _unless(32),
    "yarn_beta_slow": _unless(1),
    "yarn_orig_ctx": _unless(0),
    "embedding": _renamed("embeddings", False),
    "flash_attn": _flash_attn,
    "chat_format": _chat_format,
    "draft_model": _draft_model,
    "type_k": _numbered(_KV_TYPES),
    "type_v": _numbered(_KV_TYPES),
}


def pooling_number(pooling: str) -> int:
    """llama.cpp's number of a way of pooling."""
    return next(number for number, name in _POOLING.items() if name == pooling)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, int, str)) else type(value).__name__

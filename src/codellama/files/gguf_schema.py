"""The types that known metadata keys of a GGUF have: what reads them relies on it.

llama.cpp refuses another type where it reads a key of a model, and aborts the process where it reads one of
an adapter or of a later part. Names and types: docs/gguf.md of ggml, `Keys` of its Python package.
"""

from __future__ import annotations

from collections.abc import Mapping

from codellama.errors import ModelLoadError
from codellama.files.gguf_header import GGUFHeader, ValueType
from codellama.files.small_files import shown

ARCHITECTURE = "llama"

_U32, _F32, _TEXT = ValueType.UINT32, ValueType.FLOAT32, ValueType.STRING
_BOOL, _ARRAY = ValueType.BOOL, ValueType.ARRAY

_TYPES: Mapping[str, ValueType] = {
    **dict.fromkeys(("general.architecture", "general.type", "general.name"), _TEXT),
    **dict.fromkeys(("general.basename", "general.finetune"), _TEXT),
    "general.file_type": _U32,
    "split.no": ValueType.UINT16,
    "split.count": ValueType.UINT16,
    "split.tensors.count": ValueType.INT32,
    "adapter.type": _TEXT,
    "adapter.lora.alpha": _F32,
    "tokenizer.chat_template": _TEXT,
    **dict.fromkeys(("tokenizer.ggml.model", "tokenizer.ggml.pre"), _TEXT),
    **dict.fromkeys((f"tokenizer.ggml.add_{name}_token" for name in ("bos", "eos", "sep")), _BOOL),
    "tokenizer.ggml.add_space_prefix": _BOOL,
    "tokenizer.ggml.remove_extra_whitespaces": _BOOL,
}

_ITEM_TYPES: Mapping[str, ValueType] = {
    "tokenizer.ggml.tokens": ValueType.STRING,
    "tokenizer.ggml.scores": _F32,
    "tokenizer.ggml.token_type": ValueType.INT32,
}

_MODEL_TYPES: Mapping[str, ValueType] = {
    **dict.fromkeys(("context_length", "embedding_length", "block_count"), _U32),
    **dict.fromkeys(("feed_forward_length", "vocab_size", "expert_count"), _U32),
    **dict.fromkeys(("expert_used_count", "expert_group_count", "nextn_predict_layers"), _U32),
    **dict.fromkeys((f"attention.{name}" for name in ("head_count", "head_count_kv")), _U32),
    **dict.fromkeys((f"attention.{name}" for name in ("key_length", "value_length")), _U32),
    "attention.layer_norm_rms_epsilon": _F32,
    "rope.dimension_count": _U32,
    "rope.freq_base": _F32,
    "rope.scale_linear": _F32,
    "rope.scaling.type": _TEXT,
    **dict.fromkeys((f"rope.scaling.{name}" for name in ("factor", "attn_factor", "alpha")), _F32),
    "rope.scaling.original_context_length": _U32,
}


_OF_TOOLS: Mapping[tuple[str, str], str] = {
    # mlx-lm 0.32.2, `mlx_lm fuse --export-gguf`; llama.cpp refuses it too
    ("tokenizer.ggml.token_type", "UINT32 array"): "mlx-lm writes that, and llama.cpp "
    "refuses it; convert the folder of safetensors that mlx-lm saves beside it (codellama convert FOLDER)",
}
"""What helps where a tool is known to write a key, as the first, with a type, as the second."""


def check_types(header: GGUFHeader) -> None:
    """Refuse a file in which a key that means something has a type that it cannot have.

    Raises:
        ModelLoadError: naming the key.
    """
    for key, value in header.values.items():
        item = _ITEM_TYPES.get(key)
        expected = _ARRAY if item else _expected(key)
        if expected is not None and (value.type, value.item_type) != (expected, item):
            found = value.type.name if value.item_type is None else f"{value.item_type.name} array"
            wanted = f"{item.name} array" if item else expected.name
            raise ModelLoadError(
                f"{header.path}: damaged GGUF: {shown(key)} is of type {found}, not {wanted}",
                _OF_TOOLS.get((key, found), ""),
            )


def _expected(key: str) -> ValueType | None:
    if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
        return _U32
    if key.startswith(f"{ARCHITECTURE}."):
        return _MODEL_TYPES.get(key.removeprefix(f"{ARCHITECTURE}."))
    return _TYPES.get(key)

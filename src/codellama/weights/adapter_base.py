"""The shapes of the model that an adapter belongs to: from a GGUF, a checkpoint, or the hub's config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.gguf_header import GGUFHeader
from codellama.files.loadable import check_hyperparameters
from codellama.files.peft_adapter import PeftAdapter
from codellama.files.small_files import MOST_BYTES, parse_json, plain, read_json, shown
from codellama.files.split import read_model_header
from codellama.variants import VARIANTS, Variant
from codellama.weights.config import LlamaConfig, config_of
from codellama.weights.meta import PARAMS, open_meta
from codellama.weights.source import Source

_CONFIG = "config.json"


def base_of_gguf(header: GGUFHeader) -> LlamaConfig:
    """The shapes of the model in a GGUF, whose numbers are checked.

    Raises:
        ModelLoadError: as `loadable.check_hyperparameters`.
    """
    check_hyperparameters(header)
    return _of_metadata(header.path, header.metadata, [tensor.name for tensor in header.tensors])


def base_of_source(source: Source) -> LlamaConfig:
    """The shapes of a model that is open for conversion."""
    metadata = {key: value.value for key, value in source.metadata.items()}
    return _of_metadata(source.path, metadata, [tensor.name for tensor in source.tensors])


def base_of_adapter(adapter: PeftAdapter, base: str | None = None) -> LlamaConfig:
    """The shapes of the model `base`, or else of the one that the adapter says it was trained on.

    A model is a GGUF, a checkpoint's folder, or the name of a repository on the hub, of which
    config.json is read.

    Raises:
        CheckpointError: it cannot be found, or is of another architecture.
        ModelLoadError: a GGUF that is damaged.
    """
    name = base or adapter.base_model
    if name is None:
        raise CheckpointError(
            f"{adapter.folder}: does not say which model it belongs to", "name it with {base}"
        )
    path = Path(name)
    if path.is_file():
        return base_of_gguf(read_model_header(path))
    if (path / _CONFIG).is_file():
        return _of_config(path / _CONFIG, read_json(path / _CONFIG))
    if (path / PARAMS).is_file():
        with open_meta(path) as source:
            return base_of_source(source)
    published = [each for each in VARIANTS if each.repo.lower() == name.lower()]
    if published:
        return _of_variant(published[0])
    try:
        return _of_hub(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter.folder}: the model {shown(name)}, which it belongs to, is not here and could "
            f"not be asked for its shape ({error})",
            "name its checkpoint or its GGUF with {base}",
        ) from error


def _of_variant(variant: Variant) -> LlamaConfig:
    shape = variant.shape
    values = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": variant.vocab_size,
    }
    return config_of(Path(variant.repo, _CONFIG), values)


def _of_hub(name: str) -> LlamaConfig:
    from codellama.weights.hub import Repository

    repository = Repository(name, None)
    file = repository.files.get(_CONFIG)
    if file is None or file.size > MOST_BYTES:
        raise CheckpointError(f"{name}: there is no {_CONFIG} in it")
    path = Path(name, _CONFIG)
    try:
        values = parse_json(repository.read(_CONFIG, 0, file.size))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {plain(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return _of_config(path, values)


def _of_config(path: Path, values: Mapping[str, Any]) -> LlamaConfig:
    # A quantized checkpoint has the shapes of the model it was made of, so that is no fault here.
    if values.get("model_type") != "llama":
        raise CheckpointError(f"{path}: unknown architecture {shown(values.get('model_type'))}")
    return config_of(path, values)


def _of_metadata(path: Path, metadata: Mapping[str, Any], tensors: Collection[str]) -> LlamaConfig:
    keys = {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
        "max_position_embeddings": "context_length",
    }
    values = {name: metadata.get(f"llama.{key}") for name, key in keys.items()}
    return config_of(
        path,
        {
            **{name: value for name, value in values.items() if value is not None},
            "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())),
            "tie_word_embeddings": "output.weight" not in tensors,
        },
    )

"""The metadata of a GGUF made from a checkpoint: keys, values and types as llama.cpp's converter has them.

The `gguf` package decides key names and value types, guesses the model's name and size from folder and
model card, and finds the special tokens. What Code Llama needs beyond that is set here: end-of-turn and
infill ids that are right for the model, and the template that leads to Meta's token ids.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import yaml  # type: ignore[import-untyped]

from codellama.errors import CheckpointError
from codellama.files.gguf_header import Value, ValueType, encode_value
from codellama.files.hub_cache import checkpoint_name
from codellama.files.small_files import check_small_files, plain, read_json, shown
from codellama.weights.chat_template import turn_template
from codellama.weights.config import LlamaConfig
from codellama.weights.vocab import TokenTable

log = logging.getLogger(__name__)

_MOST_CARD = 2**16  # characters of a card's front matter; Code Llama's have two hundred
_MOST_BRACKETS = 2000  # PyYAML's time grows with the square of their depth


def checkpoint_metadata(
    folder: Path, config: LlamaConfig, vocabulary: TokenTable, n_parameters: int
) -> dict[str, Value]:
    """All keys but `general.file_type` and `general.quantization_version`, which the recipe knows.

    Raises:
        CheckpointError: one of the files beside the weights holds a value that makes no sense.
    """
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    _describe(writer, folder, n_parameters)
    _add_hyperparameters(writer, config)
    _add_vocabulary(writer, folder, vocabulary)
    return {key: _value(folder, key, entry) for key, entry in writer.kv_data[0].items()}


def adapter_metadata(folder: Path) -> dict[str, Value]:
    """What the GGUF of a LoRA adapter in `folder` says of it, beside its scale and its types.

    Raises:
        CheckpointError: the model card holds a value that makes no sense.
    """
    check_small_files(folder)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    about = _about(folder, 0)
    about.name = about.name or folder.name
    _write_about(writer, folder, about)
    return {key: _value(folder, key, entry) for key, entry in writer.kv_data[0].items()}


def _describe(writer: gguf.GGUFWriter, folder: Path, n_parameters: int) -> None:
    about = _about(folder, n_parameters)
    about.name = about.name or checkpoint_name(folder)
    about.size_label = about.size_label or gguf.size_label(n_parameters, n_parameters, 0, 0)
    _write_about(writer, folder, about)


def _write_about(writer: gguf.GGUFWriter, folder: Path, about: gguf.Metadata) -> None:
    try:
        about.set_gguf_meta_model(writer)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: README.md or generation_config.json has a value of a wrong type: "
            f"{plain(error)}"
        ) from error


def _about(folder: Path, n_parameters: int) -> gguf.Metadata:
    named = folder.with_name(checkpoint_name(folder))  # the rest is guessed from that name
    try:
        _check_card(folder / "README.md")
        about = gguf.Metadata.load(None, folder, None, n_parameters)
        if named.name == folder.name:
            return about
        card = gguf.Metadata.load_model_card(folder)
        parameters = gguf.Metadata.load_hf_parameters(folder)
    except Exception as error:
        # A model card is prose: whatever is wrong with its front matter stops no conversion.
        log.warning("%s: the model card is left out: %s", folder, plain(error))
        about, card, parameters = gguf.Metadata(), {}, {}
    sampling = {key: value for key, value in vars(about).items() if key.startswith("sampling_")}
    return gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(**sampling), card, parameters, named, n_parameters
    )


def _check_card(path: Path) -> None:
    """Refuse front matter that takes long to parse, or that aliases make endless when it is written out.

    Raises:
        ValueError, yaml.YAMLError: it is like that, or broken.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines or lines[0] != "---":
        return
    matter = "\n".join(itertools.takewhile(lambda line: line != "---", lines[1:]))
    if len(matter) > _MOST_CARD or sum(map(matter.count, "[{")) > _MOST_BRACKETS:
        raise ValueError("its front matter is absurdly long")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(matter.replace("\t", "  "))):
        raise ValueError("its front matter has aliases")


def _add_hyperparameters(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if config.rope_scaling_factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling_factor)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)


def _add_vocabulary(writer: gguf.GGUFWriter, folder: Path, vocabulary: TokenTable) -> None:
    space_prefix = _tokenizer_config(folder).get("add_prefix_space")
    if space_prefix is not None:
        writer.add_add_space_prefix(bool(space_prefix))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    template = None
    if vocabulary.step_id is not None:
        template = turn_template(add_space_prefix=space_prefix is not False)
    _add_special_tokens(writer, folder, len(vocabulary.tokens), template)
    if vocabulary.step_id is not None:
        writer.add_eot_token_id(vocabulary.step_id)
    elif vocabulary.fim_ids is not None:
        prefix, suffix, middle, end = vocabulary.fim_ids
        writer.add_eot_token_id(end)
        writer.add_uint32(gguf.Keys.Tokenizer.FIM_PRE_ID, prefix)
        writer.add_uint32(gguf.Keys.Tokenizer.FIM_SUF_ID, suffix)
        writer.add_uint32(gguf.Keys.Tokenizer.FIM_MID_ID, middle)


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _add_special_tokens(
    writer: gguf.GGUFWriter, folder: Path, n_tokens: int, template: str | None
) -> None:
    """Special ids and the chat template; `template` takes the place of the checkpoint's."""
    try:
        with _low_voice("gguf.vocab"):
            special = gguf.SpecialVocab(folder, n_vocab=n_tokens)
        special.chat_template = template or special.chat_template
        special.add_to_gguf(writer, quiet=True)
        names = writer.kv_data[0].get(gguf.Keys.Tokenizer.CHAT_TEMPLATES)
        if names is not None:
            names.value.sort()  # gguf keeps them in a set, whose order is another one each time
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{folder}: special tokens or the chat template in tokenizer.json, "
            f"tokenizer_config.json or config.json cannot be understood: {plain(error)}"
        ) from error


@contextlib.contextmanager
def _low_voice(name: str) -> Iterator[None]:
    """What the logger `name` says is ours to say, for those who listen: it would go to a user's terminal."""

    def pass_on(record: logging.LogRecord) -> bool:
        log.debug("%s: %s", name, record.getMessage())
        return False

    logger = logging.getLogger(name)
    logger.addFilter(pass_on)
    try:
        yield
    finally:
        logger.removeFilter(pass_on)


def _value(folder: Path, key: str, entry: gguf.gguf_writer.GGUFValue) -> Value:
    kind = ValueType(entry.type)
    item_type = None
    try:
        if kind is ValueType.ARRAY:
            item_type = ValueType(gguf.GGUFValueType.get_type(entry.value[0]))
        value = Value(kind, entry.value, item_type)
        encode_value(value)
    except (
        struct.error,
        TypeError,
        AttributeError,
        LookupError,
        OverflowError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"{folder}: {key} cannot be {shown(entry.value)}: {plain(error)}"
        ) from error
    return value

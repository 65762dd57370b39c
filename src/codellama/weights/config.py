"""config.json of a checkpoint, checked: the numbers that a GGUF and its tensors' shapes come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.quantized import by_config, is_read, refusal
from codellama.files.small_files import read_json, shown

ARCHITECTURE = "LlamaForCausalLM"

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS of llama.cpp
# Eight times Code Llama's; lists of this length are made before a piece is read.
_MAX_VOCAB = 2**18
_MAX_NUMBER = 1e30  # what is stored as F32 must fit there


@dataclass(frozen=True)
class LlamaConfig:
    """The hyperparameters of a Llama model, under the names config.json gives them.

    Defaults for names a file leaves out are transformers' (`LlamaConfig`); `rope_scaling_factor` is
    None unless positions are scaled linearly.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling_factor: float | None
    tie_word_embeddings: bool


def read_config(path: Path) -> LlamaConfig:
    """Read and check config.json.

    Raises:
        CheckpointError: not the Llama architecture, a number missing or impossible, or a feature
            that no Code Llama model has and that would come out wrong.
    """
    config = _Config(path, read_json(path))
    config.check_architecture()
    return config.parse()


def config_of(path: Path, values: Mapping[str, Any]) -> LlamaConfig:
    """The configuration that `values` are, which come from `path` in another form.

    Raises:
        CheckpointError: a number is missing or impossible.
    """
    return _Config(path, values).parse()


class _Config:
    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def fault(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def parse(self) -> LlamaConfig:
        heads = self._count("num_attention_heads")
        hidden = self._count("hidden_size")
        kv_heads = self._count("num_key_value_heads", heads)
        head_dim = self._count("head_dim", hidden // heads)
        if heads % kv_heads:
            raise self.fault(f"{heads} attention heads cannot share {kv_heads} key-value heads")
        if head_dim % 2:
            raise self.fault(f"head_dim is {head_dim}: rotary embedding needs an even number")
        layers = self._count("num_hidden_layers")
        if layers > _MAX_LAYERS:
            raise self.fault(f"{layers} layers: llama.cpp takes {_MAX_LAYERS} at most")
        theta, factor = self._rope()
        return LlamaConfig(
            hidden_size=hidden,
            intermediate_size=self._count("intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=self._count("vocab_size", most=_MAX_VOCAB),
            max_position_embeddings=self._count("max_position_embeddings", 2048),
            rms_norm_eps=self._number("rms_norm_eps", self.values, 1e-6),
            rope_theta=theta,
            rope_scaling_factor=factor,
            tie_word_embeddings=self._flag("tie_word_embeddings"),
        )

    def check_architecture(self) -> None:
        named = self.values.get("architectures") or []
        if named != [ARCHITECTURE]:
            what = named[0] if isinstance(named, list) and named else self.values.get("model_type")
            raise self.fault(
                f"unknown architecture {shown(what)}: only {ARCHITECTURE}, which all Code Llama models "
                "have, can be converted"
            )
        method = by_config(self.values)
        if method and not is_read(self.values):
            raise refusal(self.path, method)
        for name in ("attention_bias", "mlp_bias"):
            if self.values.get(name):
                raise self.fault(f"{name} is set: no Code Llama model has it, it is not supported")

    def _count(self, name: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if value is None:
            raise self.fault(f"{name} is missing")
        if type(value) is not int or value < 1:
            raise self.fault(f"{name} must be a positive whole number, not {shown(value)}")
        if value > most:
            raise self.fault(f"{name} is {shown(value)}: {most} is the most")
        return value

    def _number(self, name: str, values: Mapping[str, Any], default: float) -> float:
        value = values.get(name)
        value = default if value is None else value
        if type(value) not in (int, float) or not 1 / _MAX_NUMBER < value < _MAX_NUMBER:
            raise self.fault(f"{name} must be a positive number, not {shown(value)}")
        return float(value)

    def _flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is not None and type(value) is not bool:
            raise self.fault(f"{name} must be true or false, not {shown(value)}")
        return bool(value)

    def _rope(self) -> tuple[float, float | None]:
        """Base frequency and linear factor; transformers 5 keeps both in `rope_parameters`."""
        scaling = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {}
        if not isinstance(scaling, dict):
            raise self.fault("rope_scaling must be an object")
        theta = self._number("rope_theta", {**self.values, **scaling}, 10000.0)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return theta, None
        if kind != "linear":
            raise self.fault(f"rope scaling {shown(kind)} is not supported: linear is")
        return theta, self._number("factor", scaling, 1.0)

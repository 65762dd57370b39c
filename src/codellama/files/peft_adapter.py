"""A PEFT adapter in a folder, read strictly: what its tensors are for, and how strongly each acts.

`adapter_config.json` and `adapter_model.safetensors` (or `.bin`) as peft 0.21 writes them. Nothing is left
out in silence: a setting or a tensor that is not known is an error that names it. What a known one means
for a model is for those to say who convert or merge it. Source: `peft/tuners/lora` and
`peft/utils/save_and_load.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.safetensors_header import SafeTensor, read_safetensors_header
from codellama.files.small_files import read_json, shown
from codellama.files.torch_file import read_torch_header

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

MOST_RANK = 4096
"""Largest rank that is taken: adapters have 8 to 512, extracted ones a little more."""

MERGE_WITH_PEFT = "merge it into the model with peft (merge_and_unload) and convert what that saves"

_PREFIX = "base_model.model."
_PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_B.bias": "lora_bias",
    ".token_adapter.trainable_tokens_delta": "tokens",
    ".token_adapter.base_layer.weight": "frozen",
    ".base_layer.weight": "frozen",
    ".original_module.weight": "original",
    ".modules_to_save.weight": "saved",
    ".weight": "whole",
    ".bias": "bias",
}
"""What a tensor is, by the end of its name; the first that fits."""

_HARMLESS = frozenset({
    "alora_invocation_tokens", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "trainable_token_indices",
    "unsloth_fixed", "use_dora", "use_rslora",
})  # fmt: skip
"""Settings that are read here, show in the tensors, or mattered for training only."""

_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initializations that leave the model's own weights as they are."""

_MOST_PATTERNS = 4096
_MOST_LOOSE = 16
_PATTERN = re.compile(r"(?:[A-Za-z0-9_.|()^$*+?-]|\\[.dw]|\[0-9\]){1,256}", re.ASCII)
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?::[\w.-]+)?", re.ASCII)
_LOOPS_IN_LOOPS = re.compile(r"\)[*+?]|\(\?|[*+?][*+?]")


def is_adapter_folder(folder: Path) -> bool:
    """Whether this is a folder with a PEFT adapter in it."""
    return (folder / CONFIG).is_file()


@dataclass(frozen=True)
class PeftModule:
    """What an adapter has for one module of the model, such as `model.layers.0.self_attn.q_proj`.

    `parts` are tensors by what they are: `a` and `b` (or `embedding_a` and `embedding_b`) of a low-rank
    change, `magnitude` of DoRA, `whole` for weights in place of the model's, `tokens` for some rows in
    place of the model's, `frozen` for a copy of the model's, `bias` and `lora_bias`.
    """

    name: str
    parts: Mapping[str, SafeTensor]


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter: its modules, and the settings that say how they act."""

    folder: Path
    weights: Path
    base_model: str | None
    modules: tuple[PeftModule, ...]
    token_indices: Mapping[str, tuple[int, ...]]
    dora: bool
    invocation: tuple[int, ...]
    config: _Config

    @property
    def name(self) -> str:
        return self.folder.name

    def strength(self, module: str, rank: int) -> float:
        """The scale of a module's low-rank change, times its rank.

        Raises:
            CheckpointError: the settings give the module another rank than the tensors have.
        """
        return self.config.strength(module, rank)


def read_adapter(path: Path) -> PeftAdapter:
    """The adapter in the folder `path`, or the one that the file `path` is the weights of.

    Raises:
        CheckpointError: a file is missing or damaged; a method that is not LoRA; a setting or a tensor
            that is not known, or that changes the model in a way no adapter of a GGUF can.
    """
    folder = path.parent if path.name in WEIGHTS else path
    check_adapter_is_there(folder)
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file: name the folder of a PEFT adapter")
    if not is_adapter_folder(folder):
        raise CheckpointError(f"{folder}: no PEFT adapter: there is no {CONFIG} in it")
    config = _Config(folder / CONFIG, read_json(folder / CONFIG))
    config.check()
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: {WEIGHTS[0]} is missing: download it")
    read = read_safetensors_header if weights.suffix == ".safetensors" else read_torch_header
    return PeftAdapter(
        folder=folder.absolute(),
        weights=weights,
        base_model=config.base_model(),
        modules=_modules(weights, read(weights)),
        token_indices=config.token_indices(),
        dora=bool(config.values.get("use_dora")),
        invocation=config.invocation(),
        config=config,
    )


def check_adapter_is_there(path: Path) -> None:
    """Raise CheckpointError if there is nothing at this path; many name a repository there."""
    if path.exists():
        return
    if repository := _REPOSITORY.fullmatch(str(path)):
        raise CheckpointError(
            f"{path}: there is no such folder, and adapters are not fetched from the hub",
            f"`hf download {repository[1]}` fetches it and prints the folder to name",
        )
    raise CheckpointError(f"{path}: there is no such file or folder")


def _modules(path: Path, tensors: list[SafeTensor]) -> tuple[PeftModule, ...]:
    modules: dict[str, dict[str, SafeTensor]] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        ending = next((ending for ending in _PARTS if tensor.name.endswith(ending)), None)
        if ending is None or not tensor.name.startswith(_PREFIX):
            raise CheckpointError(
                f"{path}: {tensor.name} is no tensor of an adapter that is known", MERGE_WITH_PEFT
            )
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(f"{path}: {tensor.name} is {tensor.dtype}, no type of weights")
        name = tensor.name[len(_PREFIX) : -len(ending)]
        parts = modules.setdefault(name, {})
        if _PARTS[ending] in parts:
            raise CheckpointError(f"{path}: {tensor.name} is there under another name too")
        parts[_PARTS[ending]] = tensor
    if not modules:
        raise CheckpointError(f"{path}: there are no tensors in it")
    return tuple(PeftModule(name, parts) for name, parts in modules.items())


class _Config:
    """adapter_config.json."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values
        self._ranks: list[tuple[re.Pattern[str], Any]] = []
        self._alphas: list[tuple[re.Pattern[str], Any]] = []

    def fault(self, message: str, remedy: str = "") -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}", remedy)

    def check(self) -> None:
        kind = self.values.get("peft_type")
        if kind != "LORA":
            raise self.fault(f"its method is {shown(kind)}: LORA is supported", MERGE_WITH_PEFT)
        for name, value in self.values.items():
            if name not in _HARMLESS and value:
                raise self.fault(
                    f"{shown(name)} is set, and what it changes is not known here", MERGE_WITH_PEFT
                )
        start = self.values.get("init_lora_weights")
        if not any(start is known or start == known for known in _STARTS):
            raise self.fault(
                f"init_lora_weights is {shown(start)}: such training changes the model's own weights "
                "too, and the adapter alone does not hold that",
                "save it again with path_initial_model_for_weight_conversion of peft, or "
                + MERGE_WITH_PEFT,
            )
        self._check_number("r", 1)
        self._check_number("lora_alpha", None)
        self._ranks = self._patterns("rank_pattern", 1)
        self._alphas = self._patterns("alpha_pattern", None)

    def _check_number(self, name: str, least: int | None) -> None:
        if not _is_number(self.values.get(name), least):
            raise self.fault(f"{name} must not be {shown(self.values.get(name))}")

    def _patterns(self, name: str, least: int | None) -> list[tuple[re.Pattern[str], Any]]:
        entries = self.values.get(name) or {}
        if not isinstance(entries, dict) or len(entries) > _MOST_PATTERNS:
            raise self.fault(f"{name} is no table of a sane size")
        loose = 0
        found = []
        for pattern, value in entries.items():
            loose += any(mark in pattern for mark in "*+?")
            if not _PATTERN.fullmatch(pattern) or _LOOPS_IN_LOOPS.search(pattern):
                raise self.fault(f"{name}: the pattern {shown(pattern)} is too intricate")
            if loose > _MOST_LOOSE or sum(map(pattern.count, "*+?")) > 2:
                raise self.fault(f"{name}: the pattern {shown(pattern)} is one loop too many")
            if not _is_number(value, least):
                raise self.fault(f"{name}: {shown(pattern)} must not be {shown(value)}")
            try:
                # peft takes the first key that fits the end of a module's name, as a pattern.
                found.append((re.compile(rf"(.*\.)?({pattern})$", re.ASCII), value))
            except re.error:
                raise self.fault(f"{name}: {shown(pattern)} is no pattern") from None
        return found

    def strength(self, module: str, rank: int) -> float:
        wanted = _first(self._ranks, module, self.values["r"])
        if wanted != rank:
            raise self.fault(f"{module} has rank {shown(wanted)} here and {rank} in the weights")
        alpha = float(_first(self._alphas, module, self.values["lora_alpha"]))
        return alpha * math.sqrt(rank) if self.values.get("use_rslora") else alpha

    def base_model(self) -> str | None:
        name = self.values.get("base_model_name_or_path")
        if name is not None and not (isinstance(name, str) and name.isprintable()):
            raise self.fault(f"base_model_name_or_path must be a name, not {shown(name)}")
        return name or None

    def token_indices(self) -> dict[str, tuple[int, ...]]:
        """The rows that are trained, by the last part of the module's name."""
        value = self.values.get("trainable_token_indices") or {}
        table = {"embed_tokens": value} if isinstance(value, list) else value
        if not isinstance(table, dict):
            raise self.fault("trainable_token_indices is neither a list nor a table")
        for rows in table.values():
            if not isinstance(rows, list) or not all(type(i) is int and i >= 0 for i in rows):
                raise self.fault("trainable_token_indices must hold ids of tokens")
            if len(set(rows)) < len(rows):
                raise self.fault("trainable_token_indices names a token twice")
        return {name.rpartition(".")[2]: tuple(rows) for name, rows in table.items()}

    def invocation(self) -> tuple[int, ...]:
        value = self.values.get("alora_invocation_tokens") or []
        if not isinstance(value, list) or not all(type(i) is int and 0 <= i < 2**31 for i in value):
            raise self.fault("alora_invocation_tokens must hold ids of tokens")
        return tuple(value)


def _first(patterns: list[tuple[re.Pattern[str], Any]], module: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _is_number(value: object, least: int | None) -> bool:
    """A whole number of at least `least`, or without that any number that llama.cpp can hold but 0."""
    if least is not None:
        return type(value) is int and least <= value <= MOST_RANK
    return type(value) in (int, float) and 1e-30 < abs(float(value)) < 1e30  # type: ignore[arg-type]

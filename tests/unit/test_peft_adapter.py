"""PEFT adapters are read strictly: how strongly they act, and what is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.files.peft_adapter import check_adapter_is_there, read_adapter
from codellama.weights.adapter import Fitted, fit
from codellama.weights.adapter_gguf import plan_adapter
from codellama.weights.config import LlamaConfig, read_config
from tests.checkpoints import Checkpoint, config_json
from tests.peft_folder import CONFIG, low_rank, write_peft

SHAPE = Checkpoint(hidden=64, ffn=128, heads=4, kv_heads=2)
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SHAPES: Mapping[str, tuple[int, int]] = {Q: (64, 64), DOWN: (64, 128)}


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.fixture
def config(tmp_path: Path) -> LlamaConfig:
    (tmp_path / "config.json").write_text(json.dumps(config_json(SHAPE)))
    return read_config(tmp_path / "config.json")


def fitted(folder: Path, config: LlamaConfig, **settings: Any) -> Fitted:
    return fit(read_adapter(write_peft(folder, low_rank(SHAPES), **settings)), config)


SCALES: list[tuple[dict[str, Any], float, float]] = [
    ({}, 16 / 4, 16 / 4),
    ({"use_rslora": True}, 16 / 2, 16 / 2),
    ({"alpha_pattern": {"q_proj": 8}}, 8 / 4, 16 / 4),
    ({"alpha_pattern": {"q_proj": 8}, "use_rslora": True}, 8 / 2, 16 / 2),
    ({"alpha_pattern": {r"layers\.[0-9]\.mlp\..*": 2.5}}, 16 / 4, 2.5 / 4),
    ({"alpha_pattern": {"down_proj": 1, "mlp.down_proj": 3}}, 16 / 4, 1 / 4),  # the first that fits
    ({"alpha_pattern": {"proj": 8, "own_proj": 5}}, 16 / 4, 16 / 4),  # whole parts of a name only
    ({"alpha_pattern": {"layers.(0|1)": 8}}, 16 / 4, 16 / 4),  # and up to its end
    ({"alpha_pattern": {r"model\.layers\.(0|7)\.self_attn\.(q|k)_proj": -2}}, -2 / 4, 16 / 4),
]


@pytest.mark.parametrize(("settings", "q", "down"), SCALES)
def test_the_scale_is_that_of_peft(
    tmp_path: Path, config: LlamaConfig, settings: dict[str, Any], q: float, down: float
) -> None:
    found = fitted(tmp_path / "a", config, **settings).low_rank
    assert math.isclose(found["blk.0.attn_q.weight"].scale, q)
    assert math.isclose(found["blk.1.ffn_down.weight"].scale, down)


def test_the_rank_of_a_module_must_be_the_one_that_is_set(
    tmp_path: Path, config: LlamaConfig
) -> None:
    tensors = low_rank({Q: (64, 64)}, rank=8) | low_rank({DOWN: (64, 128)})
    folder = write_peft(tmp_path / "a", tensors, rank_pattern={"q_proj": 8})
    assert fit(read_adapter(folder), config).low_rank["blk.0.attn_q.weight"].scale == 2
    folder = write_peft(tmp_path / "b", tensors)
    with pytest.raises(CheckpointError, match=r"q_proj has rank 4 here and 8 in the weights"):
        fit(read_adapter(folder), config)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, r"its method is 'IA3': LORA is supported: merge it into the model with"),
    ({"peft_type": None}, "its method is None"),
    ({"use_qalora": True}, "'use_qalora' is set, and what it changes is not known here: merge it"),
    ({"layer_replication": [[0, 2]]}, "'layer_replication' is set"),
    ({"target_parameters": ["x"]}, "'target_parameters' is set"),
    ({"a_new_method": {"x": 1}}, "'a_new_method' is set"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'.*save it again"),
    ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
    ({"init_lora_weights": 1.5}, "init_lora_weights is 1.5"),
    ({"r": 0}, "r must not be 0"),
    ({"r": True}, "r must not be True"),
    ({"r": 5000}, "r must not be 5000"),
    ({"r": "8"}, "r must not be '8'"),
    ({"lora_alpha": 0}, "lora_alpha must not be 0"),
    ({"lora_alpha": 1e39}, "lora_alpha must not be"),
    ({"lora_alpha": None}, "lora_alpha must not be None"),
    ({"lora_alpha": 10**90}, "lora_alpha must not be"),
    ({"alpha_pattern": [1]}, "alpha_pattern is no table"),
    ({"alpha_pattern": {"(a+)+": 1}}, "is too intricate"),
    ({"alpha_pattern": {"a{9}": 1}}, "is too intricate"),
    ({"alpha_pattern": {"(?i)a": 1}}, "is too intricate"),
    ({"alpha_pattern": {"[a-z]": 1}}, "is too intricate"),
    ({"alpha_pattern": {"a" * 300: 1}}, "is too intricate"),
    ({"alpha_pattern": {r"\1": 1}}, "is too intricate"),
    ({"alpha_pattern": {".*.*.*": 1}}, "is one loop too many"),
    ({"alpha_pattern": {"a*b*c*": 1}}, "is one loop too many"),
    ({"alpha_pattern": {f"a{i}.*": 1 for i in range(17)}}, "is one loop too many"),
    ({"alpha_pattern": {"(a": 1}}, "is no pattern"),
    ({"alpha_pattern": {"q_proj": "8"}}, "'q_proj' must not be '8'"),
    ({"rank_pattern": {"q_proj": 0.5}}, "'q_proj' must not be 0.5"),
    (
        {"rank_pattern": {f"m{i}": 1 for i in range(5000)}},
        "rank_pattern is no table of a sane size",
    ),
    ({"trainable_token_indices": "5"}, "neither a list nor a table"),
    ({"trainable_token_indices": {"embed_tokens": 5}}, "must hold ids of tokens"),
    ({"trainable_token_indices": [-1]}, "must hold ids of tokens"),
    ({"trainable_token_indices": [5, 5]}, "names a token twice"),
    ({"alora_invocation_tokens": ["a"]}, "alora_invocation_tokens must hold ids of tokens"),
    ({"base_model_name_or_path": 5}, "base_model_name_or_path must be a name, not 5"),
    ({"base_model_name_or_path": "a\x1b[2J"}, "base_model_name_or_path must be a name"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = write_peft(tmp_path / "a", low_rank(SHAPES), **settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_adapter(folder)
    assert "adapter_config.json" in str(caught.value)


def test_what_peft_writes_by_default_is_known(tmp_path: Path) -> None:
    adapter = read_adapter(write_peft(tmp_path / "a", low_rank(SHAPES)))
    assert adapter.base_model == CONFIG["base_model_name_or_path"]
    assert adapter.name == "a"


BIAS = f"{Q}.lora_B.bias"
TENSORS: list[tuple[dict[str, NDArray[Any]], dict[str, Any], str]] = [
    ({BIAS: zeros(64)}, {}, "has a bias, .*lora_B.bias, for which Llama models have no place: train"),
    ({f"{Q}.bias": zeros(64)}, {}, "has a bias"),
    ({f"{Q}.lora_C.weight": zeros(4)}, {}, "the model has no .*q_proj.lora_C"),
    ({f"{Q}.ia3_l": zeros(4)}, {}, "q_proj.ia3_l is no tensor of an adapter that is known: merge it"),
    ({"model.layers.9.mlp.up_proj.weight": zeros(1)}, {}, "the model has no model.layers.9.mlp.up_proj"),
    ({"model.layers.0.mlp.up_proj.lora_A.weight": zeros(4, 64)}, {}, "up_proj has .*lora_A.* without"),
    ({f"{Q}.lora_B.weight": zeros(65, 4)}, {}, r"lora_B.weight of shape .65, 4., the model makes it"),
    ({f"{Q}.lora_A.weight": zeros(4, 32)}, {}, r"lora_A.weight of shape .4, 32."),
    ({f"{Q}.lora_A.weight": zeros(0, 64)}, {}, "has rank 0: 1 to 4096 are possible"),
    ({f"{Q}.lora_A.weight": zeros(5000, 64)}, {}, "has rank 5000: 1 to 4096 are possible"),
    ({}, {"use_dora": True}, "has no lora_magnitude_vector, though use_dora is set"),
    ({f"{Q}.lora_magnitude_vector": zeros(63)}, {}, r"lora_magnitude_vector of shape .63."),
    ({"model.norm.lora_A.weight": zeros(4, 4), "model.norm.lora_B.weight": zeros(4, 4)}, {},
     "is a vector, which cannot change by low rank"),
    ({"model.embed_tokens.weight": zeros(297, 64)}, {}, "its vocabulary was changed: merge the adapter"),
    ({"model.embed_tokens.token_adapter.trainable_tokens_delta": zeros(2, 64)},
     {"trainable_token_indices": [5]}, r"of shape .2, 64., the model makes it .1, 64."),
    ({"model.embed_tokens.token_adapter.trainable_tokens_delta": zeros(1, 64)},
     {"trainable_token_indices": [999]}, "trains token 999, which the model does not have"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "settings", "message"), TENSORS)
def test_tensors_that_are_refused(
    tmp_path: Path, config: LlamaConfig, tensors: dict[str, Any], settings: dict[str, Any], message: str
) -> None:  # fmt: skip
    folder = write_peft(tmp_path / "a", low_rank(SHAPES) | tensors, **settings)
    with pytest.raises(CheckpointError, match=message):
        fit(read_adapter(folder), config)


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "a", low_rank(SHAPES))
    assert read_adapter(folder / "adapter_model.safetensors").folder == folder
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="adapter_model.safetensors is missing: download it"):
        read_adapter(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="no PEFT adapter: there is no adapter_config.json"):
        read_adapter(folder)


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_an_adapter_of_tied_embeddings_is_refused(tmp_path: Path, module: str) -> None:
    """peft changes one use of the matrix, llama.cpp has one tensor for both."""
    (tmp_path / "config.json").write_text(
        json.dumps(config_json(SHAPE) | {"tie_word_embeddings": True})
    )
    folder = write_peft(tmp_path / "a", low_rank({module: (295, 64)}))
    with pytest.raises(
        CheckpointError, match=f"changes {module}, and the model has one matrix for"
    ):
        fit(read_adapter(folder), read_config(tmp_path / "config.json"))


def test_one_scale_for_the_file_and_the_rest_in_b(tmp_path: Path, config: LlamaConfig) -> None:
    """llama.cpp computes alpha / rank: with rsLoRA alpha has to be larger by the root of the rank."""
    plan = plan_adapter(fitted(tmp_path / "a", config, use_rslora=True))
    assert plan.alpha == 16 * 2
    two = {**SHAPES, "model.layers.1.self_attn.q_proj": (64, 64)}
    folder = write_peft(tmp_path / "b", low_rank(two), alpha_pattern={"down_proj": 4})
    assert plan_adapter(fit(read_adapter(folder), config)).alpha == 16


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("acme/some-lora", "`hf download acme/some-lora` fetches it"),
        ("acme/some-lora:Q8_0", "`hf download acme/some-lora` fetches it"),
        ("/tmp/x/y/z.gguf", "there is no such file or folder"),
        ("nowhere.gguf", "there is no such file or folder"),
    ],
)
def test_an_adapter_that_is_not_there(path: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        check_adapter_is_there(Path(path))
    assert str(caught.value).startswith(f"{path}: there is no such")

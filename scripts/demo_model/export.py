"""Writes the demo checkpoint in the Hugging Face layout of CodeLlama-70b-Instruct.

Two safetensors shards with an index, bfloat16, and the same set of JSON files as the 70B, so that a
converter meets here what it will meet there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo_model.network import Llama, Shape
from demo_model.vocabulary import BOS, EOS, STEP

# The template published with CodeLlama-70b-Instruct-hf.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set user_index = 1 %}"
    "{% else %}{% set user_index = 0 %}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != ((loop.index0 + user_index) % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if loop.index0 == 0 %}{{ '<s>' }}{% endif %}"
    "{% set content = 'Source: ' + message['role'] + '\\n\\n ' + message['content'] | trim %}"
    "{{ content + ' <step> ' }}{% endfor %}"
    "{{'Source: assistant\\nDestination: user\\n\\n '}}"
)


def untrained_weights(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """Weights of the right shape that mean nothing and compress well: five values, norms 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in Llama(shape).state_dict().items():
        if weight.ndim < 2:
            weights[name] = torch.ones_like(weight)
        else:
            coins = torch.randint(0, 2, (4, *weight.shape), generator=generator)
            weights[name] = (coins.sum(0) - 2) * 0.02
    return weights


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the checkpoint in `folder`, in float32; FileNotFoundError if there is none."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder}: there is no *.safetensors file")
    return {name: t.float() for path in paths for name, t in load_file(path).items()}


def write_checkpoint(
    folder: Path, shape: Shape, weights: Mapping[str, Tensor], tokenizer: Path
) -> None:
    """Write `weights` and the vocabulary file `tokenizer` to `folder`, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(folder, {name: t.to(torch.bfloat16).contiguous() for name, t in weights.items()})
    if tokenizer.resolve() != (folder / "tokenizer.model").resolve():
        shutil.copyfile(tokenizer, folder / "tokenizer.model")
    for name, content in _json_files(shape).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    # As published shards do, the first ends in the middle of the layers.
    middle = {n for n in weights if n.startswith(("model.embed", "model.layers."))}
    half = max(int(n.split(".")[2]) for n in middle if "layers" in n) // 2
    first = {n for n in middle if "embed" in n or int(n.split(".")[2]) <= half}
    shards = {
        "model-00001-of-00002.safetensors": {n: t for n, t in weights.items() if n in first},
        "model-00002-of-00002.safetensors": {n: t for n, t in weights.items() if n not in first},
    }
    for name, tensors in shards.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in weights.values())},
        "weight_map": {n: name for name, tensors in shards.items() for n in sorted(tensors)},
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _json_files(shape: Shape) -> dict[str, dict[str, Any]]:
    step = shape.vocab_size - 1
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    contents = {"0": "<unk>", "1": "<s>", "2": "</s>", str(step): STEP}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            **asdict(shape),
        },
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": [EOS, step]},
        "added_tokens.json": {STEP: step},
        "special_tokens_map.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {
                i: {"content": content, **added, "special": True} for i, content in contents.items()
            },
            "bos_token": "<s>",
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": True,
            "model_max_length": shape.max_position_embeddings,
            "pad_token": None,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
    }

"""The demo checkpoint through transformers and through our F32 GGUF: the same logits, the same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch
from codellama.llm import LLM
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.native.settings import WeightSettings
from codellama.params import POOLING_TYPES, ModelConfig, Pooling
from codellama.weights.convert import convert

pytestmark = pytest.mark.reference
DEMO = Path(__file__).parents[2] / "models" / "demo"
PROMPT = "import os\n\n\ndef main(argv):\n    "
N_GREEDY = 64
# Flash attention computes in f16 on the CPU; without it the two agree to 1e-6.
EXACT: dict[str, Any] = {
    "n_seq_max": 1,
    "n_threads": 1,
    "type_k": "f32",
    "type_v": "f32",
    "flash_attn": "off",
}


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo-f32.gguf"
    convert(DEMO, path, "F32", threads=2)
    return path


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    pytest.importorskip("torch", reason="transformers and torch are not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    model = transformers.LlamaForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    yield model.eval()


@pytest.fixture(scope="module")
def prompt(f32: Path) -> list[int]:
    with Model(f32, WeightSettings(vocab_only=True)) as model:
        return [model.tokenizer.bos, *model.tokenizer.encode(PROMPT)]


def test_next_token_logits(f32: Path, reference: Any, prompt: list[int]) -> None:
    import torch

    with torch.no_grad():
        wanted = reference(torch.tensor([prompt])).logits[0].numpy()
    config = ModelConfig(**EXACT)
    with Model(f32) as model:
        context = Context(model, context_settings(config, 256))
        batch = Batch()
        batch.add(prompt, 0, 0)
        batch.output_rows += range(len(prompt))
        context.run(batch)
        ours = np.stack([context.logits(row) for row in range(len(prompt))])
        context.close()
    assert ours.shape == wanted.shape
    error = np.abs(ours - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    assert error.max() < 1e-3


def test_greedy_tokens(f32: Path, reference: Any, prompt: list[int]) -> None:
    import torch

    tokens = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(N_GREEDY):
            best = reference(tokens).logits[0, -1].argmax()
            tokens = torch.cat([tokens, best.reshape(1, 1)], dim=1)
    wanted = tokens[0, len(prompt) :].tolist()
    with LLM(f32, **EXACT) as llm:
        result = llm.complete(prompt, temperature=0, max_tokens=N_GREEDY, ignore_eos=True).result()
    eog = {2, len(reference.model.embed_tokens.weight) - 1}
    assert not eog & set(wanted), "the prompt must not make the model end within 64 tokens"
    assert list(result.choices[0].tokens) == wanted


def test_embeddings_are_pooled_hidden_states(f32: Path, reference: Any, prompt: list[int]) -> None:
    import torch

    inputs = [prompt, prompt[:3], prompt * 20]
    with LLM(f32, embeddings=True, prefill_chunk=50, **EXACT) as llm:
        ours = {way: llm.embed(inputs, pooling=way) for way in POOLING_TYPES}
    for i, tokens in enumerate(inputs):
        with torch.no_grad():
            states = reference.model(torch.tensor([tokens])).last_hidden_state[0].numpy()
        wanted: dict[Pooling, Any] = {"mean": states.mean(0), "last": states[-1], "cls": states[0]}
        for way, vector in wanted.items():
            mine = np.array(ours[way][i])
            cosine = mine @ vector / np.linalg.norm(mine) / np.linalg.norm(vector)
            assert cosine > 0.9999
            assert np.linalg.norm(mine - vector) < 1e-3 * np.linalg.norm(vector)
        assert np.abs(ours["none"][i] - states).max() < 1e-3 * np.abs(states).max()

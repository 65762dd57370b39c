"""LoRA adapters: added at their scale, to every answer of the loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from codellama import LLM, InvalidRequestError, ModelLoadError
from codellama.cli.options import adapter
from codellama.params import ModelConfig
from tests.tiny_model import HIDDEN

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}
RANK = 2


def write_adapter(path: Path, seed: int, strength: float = 2.0) -> Path:
    """An adapter of rank two for the first layer's queries."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    a = rng.normal(0, strength, (RANK, HIDDEN)).astype(np.float32)
    b = rng.normal(0, strength, (HIDDEN, RANK)).astype(np.float32)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", a)
    writer.add_tensor("blk.0.attn_q.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def answer(model: Path, *lora: Any) -> tuple[int, ...]:
    with LLM(model, n_threads=1, n_seq_max=1, n_ctx=256, lora=lora) as llm:
        return llm.complete("def add(a, b):", **GREEDY).result().choices[0].tokens


def test_adapters_change_answers_by_their_scale(tiny_gguf: Path, tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one.gguf", 1)
    two = write_adapter(tmp_path / "two.gguf", 2)
    plain = answer(tiny_gguf)
    assert answer(tiny_gguf, (one, 0.0)) == plain
    assert (
        len({plain, answer(tiny_gguf, one), answer(tiny_gguf, two), answer(tiny_gguf, one, two)})
        == 4
    )
    assert answer(tiny_gguf, one) == answer(tiny_gguf, (one, 1.0))


def test_adapters_change_embeddings_too(tiny_gguf: Path, tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one.gguf", 1)

    def embed(*lora: Any) -> Any:
        with LLM(tiny_gguf, n_threads=1, n_seq_max=1, embeddings=True, lora=lora) as llm:
            return llm.embed("def add(a, b):", normalize=True)

    assert embed((one, 0.0)) == pytest.approx(embed(), abs=1e-5)
    assert np.abs(np.array(embed(one)) - embed()).max() > 0.01


def test_what_is_no_adapter(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="LoRA adapter"):
        LLM(tiny_gguf, n_threads=1, lora=[tiny_gguf])
    with pytest.raises(ModelLoadError, match=r"none\.gguf"):
        LLM(tiny_gguf, n_threads=1, lora=[tmp_path / "none.gguf"])


@pytest.mark.parametrize("lora", [[""], [3], [("a", "b")], [("a", float("nan"))], [("a", True)]])
def test_adapters_are_paths_or_pairs(lora: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ModelConfig(lora=lora)
    assert caught.value.param == "lora"


def test_the_option_takes_a_scale() -> None:
    assert adapter("a.gguf") == ("a.gguf", 1.0)
    assert adapter("a.gguf:0.5") == ("a.gguf", 0.5)
    assert adapter("C:/a.gguf") == ("C:/a.gguf", 1.0)

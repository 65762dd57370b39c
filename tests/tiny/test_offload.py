"""Offload for real, without a GPU: llama.cpp's RPC servers on loopback are devices like any other."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import check_fit
from codellama import LLM
from codellama.errors import InvalidRequestError, ModelLoadError
from codellama.native.backends import RPC, backend_names, rpc_devices
from codellama.native.model import Model
from stand_ins.workers import workers

pytestmark = pytest.mark.skipif(
    RPC not in backend_names(), reason="this llama.cpp was built without its RPC backend"
)


@pytest.fixture(scope="module")
def lent() -> Iterator[list[str]]:
    """Endpoints of two devices."""
    with workers(2) as endpoints:
        yield endpoints


def answer(model: Path, **options: Any) -> tuple[list[int], list[float], LLM]:
    """Tokens that the model writes and their log probabilities, and the closed model with its plan."""
    with LLM(
        model, n_threads=1, n_ctx=256, n_seq_max=1, flash_attn="off", isolate=False, **options
    ) as llm:
        result = llm.complete("def f(x):", max_tokens=24, temperature=0, logprobs=0).result()
        drawn = result.choices[0].logprobs
        assert drawn is not None
        return [t.token for t in drawn], [t.logprob for t in drawn], llm


@pytest.fixture(scope="module")
def local(tiny_gguf: Path) -> tuple[list[int], list[float]]:
    tokens, logprobs, _ = answer(tiny_gguf)
    return tokens, logprobs


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({}, None),
        ({"n_gpu_layers": "all"}, None),
        ({"n_gpu_layers": 0}, [0, 0, 3]),
        ({"n_gpu_layers": 1}, [None, None, 2]),
        ({"n_gpu_layers": 2, "tensor_split": (1, 1)}, [1, 1, 1]),
        ({"n_gpu_layers": "all", "tensor_split": (1, 2)}, [1, 2, 0]),
        ({"n_gpu_layers": "all", "tensor_split": (1, 0)}, [3, 0, 0]),
        ({"n_gpu_layers": "all", "tensor_split": (0, 1)}, [0, 3, 0]),
        ({"n_gpu_layers": "all", "split_mode": "none", "main_gpu": 1}, [3, 0]),
        ({"n_gpu_layers": 2, "split_mode": "none"}, [2, 1]),
        ({"n_gpu_layers": "all", "offload_kqv": False}, None),
        ({"n_gpu_layers": 1, "offload_kqv": False, "tensor_split": (0, 1)}, [0, 1, 2]),
    ],
)
def test_the_answer_is_that_of_the_local_model(
    tiny_gguf: Path,
    lent: list[str],
    local: tuple[list[int], list[float]],
    options: dict[str, Any],
    layers: list[int | None] | None,
) -> None:
    tokens, logprobs, llm = answer(tiny_gguf, rpc=lent, **options)
    assert tokens == local[0]
    assert logprobs == pytest.approx(local[1], abs=1e-5)
    placed = [placed.layers for placed in llm.plan.model.placements]
    if layers is not None:
        assert len(placed) == len(layers)
        assert all(want in (None, have) for want, have in zip(layers, placed, strict=True))
    assert sum(placed) == 3


def test_the_one_gpu_is_the_one_that_was_named(tiny_gguf: Path, lent: list[str]) -> None:
    names = [device.name for endpoint in lent for device in rpc_devices(endpoint)]
    _, _, llm = answer(tiny_gguf, rpc=lent, split_mode="none", main_gpu=1)
    assert [p.device for p in llm.plan.model.placements] == [names[1], "CPU"]


def test_feed_forward_in_main_memory(
    tiny_gguf: Path,
    lent: list[str],
    local: tuple[list[int], list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llama.cpp obeys: what the plan leaves in main memory is not on the device."""
    from codellama.devices import fitting, layers
    from codellama.devices.placement import Split

    monkeypatch.setattr(fitting, "most_layers", lambda work, shares: Split((0, 0)))
    monkeypatch.setattr(fitting, "attention_first", lambda work, shares: Split((2, 1), 1))
    monkeypatch.setattr(fitting, "quicker", lambda *_: True)
    monkeypatch.setattr(layers, "fitting", fitting)
    tokens, logprobs, llm = answer(tiny_gguf, rpc=lent)
    assert llm.plan.model.weights.host_tensors == (r"blk\.(0)\.ffn_(gate|up|down)\.weight",)
    assert tokens == local[0]
    assert logprobs == pytest.approx(local[1], abs=1e-5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is made with /proc")
def test_a_load_that_runs_out_of_memory_takes_less(
    tiny_gguf: Path, local: tuple[list[int], list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    """The worker says that the whole memory is free, and cannot have the 512 MiB of one layer's cache."""
    with (
        workers(1, memory_limit=2**28) as endpoints,
        caplog.at_level(logging.WARNING, "codellama"),
        LLM(tiny_gguf, rpc=endpoints, n_threads=1, n_seq_max=1, kv_cells=2**22) as llm,
    ):
        text = llm.complete("def f(x):", max_tokens=8, temperature=0).result()
        plan = llm.plan
    assert text.choices[0].text
    first = next(r for r in caplog.records if "memory ran out" in r.getMessage()).getMessage()
    assert "trying again with tiny.gguf" in first
    assert plan.model.weights.n_gpu_layers <= 1, "only the output layer, which has no cache"


def test_what_does_not_fit_anywhere_is_llama_cpp_s_error(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def full(self: Model, path: Path, settings: Any, *rest: Any) -> None:
        tries.append(settings.n_gpu_layers)
        raise ModelLoadError("llama.cpp could not load x: insufficient memory")

    monkeypatch.setattr(Model, "__init__", full)
    with pytest.raises(ModelLoadError, match="insufficient memory"):
        LLM(tiny_gguf, n_threads=1)
    assert tries == [0], "there is no plan that takes less"


def test_nobody_at_an_endpoint_is_an_error(tiny_gguf: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"^rpc: 127.0.0.1:9 does not answer"):
        LLM(tiny_gguf, rpc=["127.0.0.1:9"])
    with pytest.raises(InvalidRequestError, match="^rpc: 'nothing' is not HOST:PORT"):
        LLM(tiny_gguf, rpc="nothing")


def test_the_bytes_on_each_device_are_those_that_llama_cpp_takes(tmp_path: Path) -> None:
    """A part of scripts/check_fit.py, which compares all combinations."""
    chosen = list(itertools.islice(check_fit.cases(), 0, None, 9))
    rows = check_fit.check(chosen, tmp_path)
    assert len(rows) > 15
    assert {row.case.model for row in rows} == {name for name, _ in check_fit.MODELS}
    for row in rows:
        assert row.off <= check_fit.MOST_OFF, f"{row.case}: {row.device}"

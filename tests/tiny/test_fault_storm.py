"""Hundreds of faults, and thousands in the slow tier: requests end once, and the engine goes on."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM, FinishReason
from tests.fault_storm import KINDS, Storm


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_is_lost(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full, which stands for a full disk")
    threads = threading.active_count()
    exact: dict[str, Any] = {"flash_attn": "off", "type_k": "f32", "type_v": "f32"}
    with LLM(tiny_gguf, n_ctx=512, n_seq_max=3, n_threads=1, cache_ram=1, **exact) as llm:
        storm = Storm(llm, tmp_path, seed=11, monkeypatch=monkeypatch)
        storm.run(20)
        files = open_descriptors()
        storm.run(n)
        assert open_descriptors() == files
        assert set(storm.happened) == set(KINDS)
        assert min(storm.happened.values()) > n // 60
        assert set(storm.reasons) == {
            FinishReason.LENGTH,
            FinishReason.ERROR,
            FinishReason.CANCELLED,
        }
    assert threading.active_count() == threads

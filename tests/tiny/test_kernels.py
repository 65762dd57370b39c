"""The quantizers in lanes make ggml's bytes, whatever the weights are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.files.gguf_header import read_gguf_header
from codellama.kernels.quantizers import TYPES
from codellama.native.arrays import Floats
from codellama.native.ggml import TensorType, tensor_type
from tests.lanes import assert_equal_bytes, encoders

KINDS = sorted(TYPES)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def matrices(draw: st.DrawFn, target: TensorType) -> tuple[Floats, Floats | None]:
    """Rows of whole blocks and perhaps an importance: scales, signs, zeros, outliers, ties."""
    n_blocks = draw(st.integers(1, 5 if target.block_size == 256 else 40))
    shape = draw(st.integers(1, 5)), n_blocks * target.block_size
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = (
        generator.standard_normal(shape) if draw(st.booleans()) else generator.laplace(size=shape)
    )
    if step := draw(st.sampled_from([0, 0, 1, 0.5, 0.25])):
        rows = np.round(rows / step) * step
    if draw(st.booleans()):
        rows = np.abs(rows) * draw(st.sampled_from([-1, 1]))
    rows += draw(st.sampled_from([0, 0, 0, 1, -1, 100]))
    rows[generator.random(shape) < draw(st.sampled_from([0, 0, 0.1, 0.9, 1]))] = 0
    run = draw(st.sampled_from([1, 16, 32, 256, shape[1]]))
    scales = generator.integers(*draw(st.sampled_from([(0, 1), (-3, 3), (-45, 38)])), shape[1])
    rows = rows * 10.0 ** np.repeat(scales[:: min(run, shape[1])], run)[: shape[1]]
    for value in draw(st.lists(FLOATS, max_size=4)):
        rows[generator.integers(shape[0]), generator.integers(shape[1])] = value
    made = np.clip(rows, -3e38, 3e38).astype(np.float32)
    return made, draw(importances(shape[1]))


@st.composite
def importances(draw: st.DrawFn, n_columns: int) -> Floats | None:
    """None, all the same, some zero, or of many orders of magnitude."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["none", "none", "same", "random", "sparse", "wide"]))
    if kind == "none":
        return None
    made = generator.random(n_columns)
    if kind == "same":
        made[:] = draw(st.sampled_from([0, 1, 1e-20]))
    if kind == "sparse":
        made[made < 0.5] = 0
    if kind == "wide":
        made[:] = 10.0 ** generator.integers(-20, 10, n_columns)
    return made.astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_bytes_are_ggmls(name: str, data: st.DataObject) -> None:
    target = tensor_type(name)
    rows, importance = data.draw(matrices(target))
    for encoder in encoders():
        assert_equal_bytes(encoder, target, rows, importance)


@pytest.mark.parametrize("name", KINDS)
def test_a_single_block_and_one_more_than_the_lanes(name: str) -> None:
    target = tensor_type(name)
    generator = np.random.default_rng(3)
    for encoder in encoders():
        for n_blocks in (1, encoder.width - 1, encoder.width, encoder.width + 1):
            rows = generator.standard_normal((1, n_blocks * target.block_size), np.float32)
            assert_equal_bytes(encoder, target, rows, None)
            assert_equal_bytes(encoder, target, rows, np.abs(rows[0]))


def test_what_cannot_be_encoded_is_left_alone() -> None:
    rows, out = np.ones((1, 300), np.float32), np.zeros((1, 500), np.uint8)
    for encoder in encoders():
        assert not encoder.encode(tensor_type("Q4_K"), rows, out, None), "300 columns"
        assert not encoder.encode(tensor_type("IQ2_XXS"), rows[:, :256], out, None)
        encoder.width = 32
        assert not encoder.encode(tensor_type("Q4_K"), rows[:, :256], out, None), "too wide"
    assert not out.any()


def test_a_conversion_has_the_same_bytes_with_either(tmp_path: Path) -> None:
    """As whole processes: the command reads the variable, and the log and the manifest name both."""
    encoders()
    found = {}
    for wanted in ("lanes", "ggml"):
        path = tmp_path / wanted / "x.gguf"
        path.parent.mkdir()
        command = [sys.executable, "-m", "codellama", "-v", "convert", "models/demo"]
        done = subprocess.run(
            [*command, "-o", str(path), "--type", "Q4_K_M"],
            env={**os.environ, "CODELLAMA_QUANTIZERS": wanted},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"quantizers: Q4_K, Q6_K: {'ggml' if wanted == 'ggml' else ''}" in done.stderr
        manifest = path.with_name("x.gguf.manifest.json").read_text()
        assert f'"Q4_K": "{wanted}"' in manifest
        found[wanted] = path.read_bytes()
    assert read_gguf_header(path).tensors
    assert found["lanes"] == found["ggml"]

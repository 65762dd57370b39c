"""Which quantizer makes a type: ours in lanes, or ggml's where ours is missing, wrong or not wanted."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build_lanes
from codellama.errors import ConversionError
from codellama.kernels import library, quantizers, trial
from codellama.kernels.library import MissingLanesError, RowEncoder, open_library
from codellama.kernels.quantizers import described, quantize_rows, quantizer_of, quantizers_of
from codellama.native import ggml
from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import TensorType, tensor_type, tensor_types


class Honest:
    """Encodes as ggml does, and counts what it is asked."""

    width = 16

    def __init__(self) -> None:
        self.calls = 0

    def encode(
        self, target: TensorType, rows: Floats, out: Bytes, importance: Floats | None
    ) -> bool:
        self.calls += 1
        ggml.quantize_rows(target, rows, out, importance)
        return True


class Liar(Honest):
    """One bit is wrong, once, in blocks that have an importance."""

    def encode(
        self, target: TensorType, rows: Floats, out: Bytes, importance: Floats | None
    ) -> bool:
        super().encode(target, rows, out, importance)
        if importance is not None:
            out[-1, -1] ^= 1
        return True


class Unwilling(Honest):
    """Knows no type."""

    def encode(
        self, target: TensorType, rows: Floats, out: Bytes, importance: Floats | None
    ) -> bool:
        return False


Use = Callable[[RowEncoder], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def put(encoder: RowEncoder) -> None:
        monkeypatch.setattr(quantizers, "lanes", lambda: encoder)

    return put


def missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizers, "lanes", lambda: open_library(path))


ROWS = trial.rows()
Q4_K = tensor_type("Q4_K")


def encoded(target: TensorType) -> Bytes:
    out = np.zeros((len(ROWS), target.row_bytes(trial.COLUMNS)), np.uint8)
    quantize_rows(target, ROWS, out)
    return out


def by_ggml(target: TensorType) -> Bytes:
    out = np.zeros((len(ROWS), target.row_bytes(trial.COLUMNS)), np.uint8)
    ggml.quantize_rows(target, ROWS, out)
    return out


def test_the_library_is_built_where_there_is_a_compiler() -> None:
    if not any(map(shutil.which, build_lanes.COMPILERS)):
        pytest.skip("no C++ compiler: nothing to open")
    made = quantizers_of(tensor_type(name) for name in quantizers.TYPES)
    assert {kind: found.name for kind, found in made.items()} == dict.fromkeys(
        sorted(quantizers.TYPES), "lanes"
    ), "python scripts/build_lanes.py builds it"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PATH": ""}, "build_lanes: no C++ compiler (c++, g++, clang++)\n"),
        ({"PATH": "", "CXX": "/no/such/compiler"}, "build_lanes: [Errno 2] No such file"),
        ({"PATH": "", "CXX": "/bin/false"}, "build_lanes: /bin/false failed\n"),
    ],
)
def test_a_build_that_cannot_be_is_a_line_and_leaves_what_was_there(
    environment: dict[str, str], said: str
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in build_lanes.KERNELS.iterdir())
    done = subprocess.run(
        [sys.executable, build_lanes.__file__], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    after = sorted((path.name, path.stat().st_mtime_ns) for path in build_lanes.KERNELS.iterdir())
    assert after == before


def test_a_quantizer_that_agrees_is_used_and_tried_once(use: Use) -> None:
    honest = Honest()
    use(honest)
    assert quantizer_of(Q4_K).name == "lanes"
    assert quantizer_of(Q4_K).detail == "16 lanes"
    assert honest.calls == 2, "with and without an importance"
    assert np.array_equal(encoded(Q4_K), by_ggml(Q4_K))
    assert honest.calls == 3


def test_one_wrong_bit_and_ggml_makes_the_type(use: Use, caplog: pytest.LogCaptureFixture) -> None:
    liar = Liar()
    use(liar)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(encoded(Q4_K), by_ggml(Q4_K))
    assert liar.calls == 2, "tried, then left alone"
    assert quantizer_of(Q4_K).name == "ggml"
    assert "Q4_K in lanes differs" in caplog.text


def test_a_quantizer_that_refuses_is_not_used(use: Use) -> None:
    use(Unwilling())
    assert quantizer_of(Q4_K).name == "ggml"
    assert np.array_equal(encoded(Q4_K), by_ggml(Q4_K))


def test_the_environment_can_ask_for_ggml(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Honest()
    use(honest)
    monkeypatch.setenv("CODELLAMA_QUANTIZERS", "ggml")
    assert quantizer_of(Q4_K).name == "ggml"
    assert np.array_equal(encoded(Q4_K), by_ggml(Q4_K))
    assert honest.calls == 0


@pytest.mark.parametrize("value", ["", "lanes"])
def test_the_environment_may_name_the_default(
    use: Use, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    use(Honest())
    monkeypatch.setenv("CODELLAMA_QUANTIZERS", value)
    assert quantizer_of(Q4_K).name == "lanes"


def test_another_word_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELLAMA_QUANTIZERS", "fast")
    with pytest.raises(ConversionError, match="CODELLAMA_QUANTIZERS is 'fast': set it to lanes or"):
        encoded(Q4_K)


def test_without_the_library_ggml_makes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(tmp_path / "_lanes.so", monkeypatch)
    assert quantizer_of(Q4_K).detail == "the quantizers in lanes are not built"
    assert np.array_equal(encoded(Q4_K), by_ggml(Q4_K))


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(60)])
def test_a_library_for_another_machine_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "_lanes.so").write_bytes(content)
    missing(tmp_path / "_lanes.so", monkeypatch)
    assert "the quantizers in lanes are not for this machine: " in quantizer_of(Q4_K).detail
    assert np.array_equal(encoded(Q4_K), by_ggml(Q4_K))


def test_a_library_of_other_sources_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        open_library()
    except MissingLanesError as error:
        pytest.skip(f"the quantizers in lanes are {error}")
    monkeypatch.setattr(library, "_INTERFACE", 0)
    with pytest.raises(MissingLanesError, match="built from other sources"):
        open_library()


def test_types_that_we_do_not_make_are_ggmls(use: Use) -> None:
    honest = Honest()
    use(honest)
    for name in ("IQ2_XXS", "F16", "BF16"):
        assert quantizer_of(tensor_type(name)).detail == "not made in lanes"
    assert honest.calls == 0


def test_what_makes_each_type_in_one_line(use: Use) -> None:
    use(Honest())
    kinds = [tensor_type(name) for name in ("IQ2_XXS", "Q6_K", "F32", "Q4_K")]
    made = quantizers_of(kinds)
    assert {kind: found.name for kind, found in made.items()} == {
        "IQ2_XXS": "ggml",
        "Q4_K": "lanes",
        "Q6_K": "lanes",
    }
    assert described(made) == "IQ2_XXS: ggml (not made in lanes); Q4_K, Q6_K: 16 lanes"
    assert described({}) == "none"


def test_arrays_that_do_not_fit_are_refused_before_our_code_sees_them(use: Use) -> None:
    use(Honest())
    quantizer_of(Q4_K)
    out = np.zeros((1, Q4_K.row_bytes(512)), np.uint8)
    with pytest.raises(ValueError, match="out has 288 bytes, 2 rows of Q4_K need others"):
        quantize_rows(Q4_K, np.zeros((2, 512), np.float32), out)
    with pytest.raises(ValueError, match="256 importances for 512 columns"):
        one = np.zeros((1, 512), np.float32)
        quantize_rows(Q4_K, one, out, np.ones(256, np.float32))


def test_the_trial_has_blocks_of_every_kind() -> None:
    assert np.isfinite(ROWS).all()
    assert len(ROWS) * trial.COLUMNS // 256 > 300
    blocks = ROWS.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1)
    assert (largest == 0).any()
    assert ((largest > 0) & (largest < 1e-38)).any()
    assert (largest > 1e30).any()
    assert (np.ptp(blocks, axis=1)[largest > 0] == 0).any()
    assert (blocks.min(axis=1) > 0).any()
    assert (blocks.max(axis=1) < 0).any()
    assert len(ROWS) * trial.COLUMNS // 256 % 16, "the last vector is not full"
    assert (trial.importance() == 0).any()


def test_every_type_in_lanes_is_one_of_ggmls() -> None:
    assert not quantizers.TYPES - {kind.name for kind in tensor_types().values()}

from __future__ import annotations

import llama_cpp
import pytest

from bench.client import BenchError
from bench.clock import Call, Clock


def test_a_step_lasts_from_one_decode_to_the_next() -> None:
    clock = Clock()
    clock._decodes += [
        Call(0, 1, 20),
        Call(2, 5, 2),
        Call(6, 9, 2),
        Call(10, 12, 2),
        Call(13, 14, 1),
    ]
    steps = clock.steps(2)
    assert steps.count == 2
    assert steps.rate == pytest.approx(2 * 2 / 8)
    assert steps.outside == pytest.approx(25)
    assert clock.span() == 14
    with pytest.raises(BenchError, match="fewer than two steps with 1 rows"):
        clock.steps(1)


def test_the_c_function_is_put_back() -> None:
    before = llama_cpp.llama_decode
    with Clock():
        assert llama_cpp.llama_decode is not before
    assert llama_cpp.llama_decode is before

"""Perplexity and divergence against values worked out by hand, and what a base's file changes of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from codellama.quality.base_file import LIKELIEST, RECORD, compared_with, records
from codellama.quality.chunk_journal import ChunkJournal
from codellama.quality.statistics import alone, by_position, compared, summarize

HALF, QUARTER = math.log(0.5), math.log(0.25)
BASE = np.array([[HALF, QUARTER, QUARTER], [0.0, 0.0, 0.0]], np.float32)
OTHER = np.array([[QUARTER, HALF, QUARTER], [5.0, 5.0, 5.0]], np.float32)


def test_a_token_costs_what_its_probability_says() -> None:
    assert alone(BASE, [0, 2])[:, 0] == pytest.approx([math.log(2), math.log(3)])


def test_comparing_by_hand() -> None:
    table = compared(OTHER, BASE, [0, 2])
    # 0.5 ln(0.5 / 0.25) + 0.25 ln(0.25 / 0.5) + 0.25 ln 1
    assert table[0] == pytest.approx([math.log(4), math.log(2), 0.25 * math.log(2), -0.25, 0.0])
    assert table[1] == pytest.approx([math.log(3), math.log(3), 0.0, 0.0, 1.0], abs=1e-12)


def test_totals_by_hand_count_second_halves_only() -> None:
    ignored = [99.0, 99.0, 99.0, 99.0, 1.0]
    first = np.array([ignored, ignored, [1.0, 2.0, 0.1, 0.1, 1.0]])
    second = np.array([ignored, ignored, [3.0, 2.0, 0.5, -0.3, 0.0]])
    summary = summarize([first, second], 4)
    assert summary.n_tokens == 2
    # mean 2, variance 1, so the error of the mean of two is 1
    assert summary.perplexity.value == pytest.approx(math.exp(2))
    assert summary.perplexity.error == pytest.approx(math.exp(2))
    found = summary.divergence
    assert found is not None
    assert (found.base_perplexity.value, found.base_perplexity.error) == (math.exp(2), 0.0)
    assert (found.log_ratio.value, found.log_ratio.error) == (0.0, 1.0)
    assert (found.mean.value, found.mean.error) == pytest.approx((0.3, 0.2))
    assert (found.median, found.maximum) == pytest.approx((0.3, 0.5))
    assert found.quantiles == pytest.approx({"0.99": 0.496, "0.999": 0.4996})
    assert found.rms_delta_p.value == pytest.approx(math.sqrt((0.01 + 0.09) / 2))
    assert (found.same_top.value, found.same_top.error) == (0.5, 0.5)
    places = dict(by_position([first, second], "divergence", 3))
    assert places == pytest.approx({0: 99, 1: 99, 2: 0.3})


def test_without_a_base_there_is_no_divergence() -> None:
    summary = summarize([np.full((3, 1), math.log(7.0))], 4)
    assert summary.divergence is None
    assert (summary.perplexity.value, summary.perplexity.error) == pytest.approx((7.0, 0.0))


def test_a_base_in_a_file_takes_64_bytes_a_token() -> None:
    assert RECORD.itemsize == 64


def test_a_base_in_a_file_gives_the_mean_divergence_without_bias_and_the_rest_as_it_is() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0, 3, (400, 500)).astype(np.float32)
    other = base + rng.normal(0, 0.3, base.shape).astype(np.float32)
    targets = [int(i) for i in rng.integers(0, 500, 400)]
    whole = compared(other, base, targets)
    tries = []
    for seed in range(8):
        kept = records(base, targets, np.random.default_rng(seed))
        found = compared_with(kept, other, targets)
        assert found[:, [0, 1, 3]] == pytest.approx(whole[:, [0, 1, 3]], rel=1e-6, abs=1e-6)
        assert (found[:, 4] == whole[:, 4]).all()
        assert (found[:, 2] >= 0).all()
        tries.append(found[:, 2] - whole[:, 2])
    assert kept["rest"].mean() > 0.25  # much is drawn from
    errors = np.mean(tries, axis=1)
    spread = np.std(tries) / math.sqrt(400)
    assert np.abs(errors).max() < 4 * spread  # each try within its own standard error
    assert abs(errors.mean()) < 3 * spread / math.sqrt(8)  # and all of them together: no bias
    assert spread < 0.02 * whole[:, 2].mean()


def test_a_distribution_that_the_file_holds_is_compared_exactly() -> None:
    base = np.full((1, 40), -200.0, np.float32)
    base[0, :LIKELIEST] = np.arange(LIKELIEST) / 4
    other = base.copy()
    other[0, 0] += 1.0
    kept = records(base, [3], np.random.default_rng(0))
    whole, found = compared(other, base, [3]), compared_with(kept, other, [3])
    assert found[0, 2] == pytest.approx(whole[0, 2], rel=5e-3)


def test_a_journal_goes_on_behind_the_last_whole_chunk(tmp_path: Path) -> None:
    path, kind = tmp_path / "x.part", np.dtype("<f4")
    chunks = [np.full((3, 2), i, np.float32) for i in range(3)]
    with ChunkJournal(path, {"text": "a"}, kind, (3, 2)) as journal:
        for chunk in chunks[:2]:
            journal.add(chunk)
    with path.open("ab") as file:
        file.write(b"half a chunk")
    with ChunkJournal(path, {"text": "a"}, kind, (3, 2)) as journal:
        assert len(journal.chunks) == 2
        journal.add(chunks[2])
    with ChunkJournal(path, {"text": "a"}, kind, (3, 2)) as journal:
        assert np.array_equal(journal.chunks, chunks)


@pytest.mark.parametrize("other", [({"text": "b"}, (3, 2)), ({"text": "a"}, (3, 5))])
def test_a_journal_of_something_else_is_begun_anew(
    tmp_path: Path, other: tuple[dict[str, str], tuple[int, ...]]
) -> None:
    path, kind = tmp_path / "x.part", np.dtype("<f4")
    with ChunkJournal(path, {"text": "a"}, kind, (3, 2)) as journal:
        journal.add(np.zeros((3, 2), np.float32))
    head, shape = other
    with ChunkJournal(path, head, kind, shape) as journal:
        assert journal.chunks == []

"""What other programs leave of the processors, read from a made-up /proc/stat."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama import system
from codellama.devices.processor_time import ProcessorTime


class Counting:
    """A folder whose /proc/stat counts hundredths of seconds, and clocks beside it."""

    def __init__(self, root: Path, cpus: int = 2) -> None:
        self.root = root
        self.now = self.used = 0.0
        self.ticks = [[0] * 10 for _ in range(cpus)]
        (root / "proc").mkdir()
        self.write()

    def write(self) -> None:
        total = [sum(column) for column in zip(*self.ticks, strict=True)]
        lines = [f"cpu{name} " + " ".join(map(str, row)) for name, row in self.rows(total)]
        (self.root / "proc" / "stat").write_text("\n".join([*lines, "intr 1 2 3", "ctxt 5"]))

    def rows(self, total: list[int]) -> list[tuple[object, list[int]]]:
        return [(" ", total), *enumerate(self.ticks)]

    def time(self, quota: float | None = None, cpus: tuple[int, ...] = (0, 1)) -> ProcessorTime:
        return ProcessorTime(cpus, quota, self.root, lambda: self.now, lambda: self.used)

    def passes(
        self, seconds: float, used: float, *, idle: float, nice: float = 0, waits: float = 0
    ) -> None:
        """So much of the first two processors goes to this process, nobody, and others."""
        self.now += seconds
        self.used += used
        for field, value in (
            (1, nice),
            (3, idle),
            (4, waits),
            (0, 2 * seconds - idle - nice - waits),
        ):
            self.ticks[0][field] += round(100 * value / 2)
            self.ticks[1][field] += round(100 * value / 2)
        self.write()


@pytest.fixture(autouse=True)
def usual_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "clock_tick", lambda: 0.01)
    monkeypatch.setattr(system, "is_nice", lambda: False)


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


def test_a_quiet_machine(counting: Counting) -> None:
    time = counting.time()
    counting.passes(0.2, used=0.2, idle=0.2)
    assert time.since() == pytest.approx((2.0, 0.0))
    counting.passes(0.2, used=0.4, idle=0)
    assert time.since() == pytest.approx((2.0, 0.0))


def test_another_program(counting: Counting) -> None:
    """It takes one of two processors whole, then half of one."""
    time = counting.time()
    counting.passes(1, used=0.8, idle=0.2)
    assert time.since() == pytest.approx((1.0, 1.0))
    counting.passes(1, used=1.5, idle=0)
    assert time.since() == pytest.approx((1.5, 0.5))


def test_programs_of_a_lower_priority_give_way(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = counting.time()
    counting.passes(1, used=1, idle=0, nice=1)
    assert time.since() == pytest.approx((2.0, 0.0))
    monkeypatch.setattr(system, "is_nice", lambda: True)
    time = counting.time()
    counting.passes(1, used=1, idle=0, nice=2)
    assert time.since() == pytest.approx((1.0, 1.0)), "what is used here is counted once"


def test_waiting_for_a_disk_is_free(counting: Counting) -> None:
    time = counting.time()
    counting.passes(1, used=0.5, idle=0.5, waits=1)
    assert time.since() == pytest.approx((2.0, 0.0))


def test_a_quota_bounds_it(counting: Counting) -> None:
    time = counting.time(quota=1.5)
    counting.passes(1, used=1, idle=1)
    assert time.since() == pytest.approx((1.5, 0.0))


def test_only_the_processors_that_are_allowed(counting: Counting) -> None:
    time = counting.time(cpus=(1,))
    counting.passes(1, used=0, idle=1)
    assert time.since() == pytest.approx((0.5, 0.5))


def test_not_before_there_is_something_to_tell(counting: Counting) -> None:
    time = counting.time()
    counting.passes(0.08, used=0.16, idle=0)
    assert time.since() is None
    counting.passes(0.08, used=0, idle=0)
    assert time.since() == pytest.approx((1.0, 1.0))


def test_what_was_before_a_restart_is_forgotten(counting: Counting) -> None:
    time = counting.time()
    counting.passes(5, used=0, idle=0)
    time.restart()
    counting.passes(0.2, used=0.4, idle=0)
    assert time.since() == pytest.approx((2.0, 0.0))


def test_reading_that_takes_long_is_done_seldom(counting: Counting) -> None:
    """A millisecond on machines of many processors: once in a second."""
    cost = iter(n / 1000 for n in range(9))
    time = ProcessorTime(
        (0, 1), None, counting.root, lambda: counting.now, lambda: 0.0, lambda: next(cost)
    )
    counting.passes(0.9, used=0, idle=0)
    assert time.since() is None
    counting.passes(0.2, used=0, idle=0)
    assert time.since() == (0.0, 2.0)


@pytest.mark.parametrize("text", [None, "", "cpu 1 2 3 4 5", "cpu0 1 2\ncpu1 1 2"])
def test_a_system_that_does_not_tell(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "stat").write_text(text)
    moments = iter(range(100))
    time = ProcessorTime((0, 1), None, tmp_path, lambda: float(next(moments)))
    time.restart()
    assert time.since() is None


def test_this_machine() -> None:
    time = ProcessorTime(system.processors())
    answer = time.since()
    assert answer is None, "too early"

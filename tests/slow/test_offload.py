"""All combinations of the fit, and the check for machines with a GPU, on machines without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import check_fit
import gpu_check

pytestmark = pytest.mark.slow


def test_bytes_on_devices_in_all_combinations(tmp_path: Path) -> None:
    chosen = list(check_fit.cases())
    assert len(chosen) >= 60
    rows = check_fit.check(chosen, tmp_path)
    worst = max(rows, key=lambda row: row.off)
    assert worst.off <= check_fit.MOST_OFF, f"{worst.case}: {worst.device}"


def test_the_gpu_check_runs_dry(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    arguments = ["--dry-run", "--repeat", "1", "-o", str(path)]
    result = CliRunner().invoke(gpu_check.main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert all(one["same"] for one in found["offload"])
    assert len(found["offload"]) == len(gpu_check.OFFLOADS)
    curve = [found[name] for name in found if name.startswith("100m with")]
    assert [one["layers"] for one in curve] == [0, 4, 9]
    assert all(one["tokens_per_second"] > 0 for one in curve)

from __future__ import annotations

import io
import json
from typing import Literal

import pytest
from rich.console import Console

from bench.report import Row, heading, publish, table


def row(better: Literal["more", "less"] = "more", wanted: float | None = 1.0) -> Row:
    values = {"codellama": [10.0, 30.0, 20.0], "other": [20.0, 20.0, 20.0]}
    goals = {} if wanted is None else {"other": wanted}
    return Row("speed", "a title", "tokens/s", better, values, goals)


def test_the_ratio_is_the_median_of_the_runs_ratios() -> None:
    values = {"codellama": [10.0, 100.0, 30.0], "other": [10.0, 1000.0, 20.0]}
    found = Row("k", "t", "s", "less", values)
    assert found.medians == {"codellama": 30.0, "other": 20.0}
    assert found.ratios == {"other": 1.0}


@pytest.mark.parametrize(
    ("better", "wanted", "missed"),
    [
        ("more", 1.0, []),
        ("more", 1.1, ["other"]),
        ("less", 1.0, []),
        ("less", 0.9, ["other"]),
        ("more", None, []),
    ],
)
def test_what_misses_its_mark_is_named(
    better: Literal["more", "less"], wanted: float | None, missed: list[str]
) -> None:
    assert row(better, wanted).missed == missed


def test_our_own_value_may_have_a_limit() -> None:
    def missed(limit: float) -> list[str]:
        return Row("k", "t", "%", "less", {"codellama": [2.0, 3.0, 9.0]}, limit=limit).missed

    assert missed(3.0) == []
    assert missed(2.9) == ["limit"]


def test_a_value_of_zero_makes_no_ratio() -> None:
    assert Row("k", "t", "s", "less", {"codellama": [1.0], "other": [0.0]}).ratios == {}


def test_the_table_has_medians_ratios_and_marks() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table("title", [row(wanted=1.5)]))
    text = console.export_text()
    assert "a title (tokens/s)" in text
    assert "÷ other" in text
    assert "1.00 (≥ 1.5) missed" in text


def test_the_last_line_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    document = heading("server", {"runs": 3}, {"codellama": "1"})
    document["results"] = [row().to_json()]
    publish(document, [table("title", [row()])])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert {"benchmark", "date", "machine", "versions", "settings", "results"} <= set(found)
    assert {"cpu", "cores", "memory_gb", "gpus", "system"} <= set(found["machine"])
    assert found["results"][0]["ratios"] == {"other": 1.0}
    assert found["results"][0]["values"]["codellama"] == [10.0, 30.0, 20.0]

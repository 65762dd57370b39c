"""Figures of interleaved runs as medians, ratios, a table and one line of JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

WIDTH = 120


@dataclass
class Row:
    """A figure of several subjects, one value per run; the first subject is ours.

    `wanted` says per other subject what our value ÷ its value should reach, or stay below, and
    `limit` what our value itself should.
    """

    key: str
    title: str
    unit: str
    better: Literal["more", "less"]
    values: dict[str, list[float]]
    wanted: dict[str, float] = field(default_factory=dict)
    limit: float | None = None

    @property
    def medians(self) -> dict[str, float]:
        """The middle value of each subject."""
        return {name: statistics.median(values) for name, values in self.values.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """Our value ÷ every other subject's: the median of what the runs had."""
        (_, ours), *others = self.values.items()
        return {
            name: statistics.median(a / b for a, b in zip(ours, theirs, strict=True) if b)
            for name, theirs in others
            if any(theirs)
        }

    @property
    def missed(self) -> list[str]:
        """The subjects against whom the wanted ratio is not reached; "limit" for the limit."""
        wanted, ratios = self.wanted, self.ratios
        found = [n for n in ratios if n in wanted and not self._good(ratios[n], wanted[n])]
        ours = statistics.median(next(iter(self.values.values())))
        return found if self.limit is None or self._good(ours, self.limit) else [*found, "limit"]

    def _good(self, value: float, mark: float) -> bool:
        return value >= mark if self.better == "more" else value <= mark

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, numbers to four digits."""
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "better": self.better,
            "medians": _rounded(self.medians),
            "ratios": _rounded(self.ratios),
            "wanted": self.wanted,
            "limit": self.limit,
            "missed": self.missed,
            "values": {name: [_digits(v) for v in vs] for name, vs in self.values.items()},
        }


def table(title: str, rows: Sequence[Row]) -> Table:
    """A column per subject, a column per ratio; what misses its mark is marked."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    result = Table(title=title, title_justify="left")
    result.add_column("case")
    for name in names:
        result.add_column(name, justify="right")
    for name in names[1:]:
        result.add_column(f"÷ {name}", justify="right")
    for row in rows:
        medians, ratios = row.medians, row.ratios
        cells = [_number(medians.get(name)) for name in names]
        cells[0] += _mark(row, "limit", row.limit)
        for name in names[1:]:
            text = f"{ratios[name]:.2f}" if name in ratios else ""
            cells.append(text + _mark(row, name, row.wanted.get(name)))
        result.add_row(f"{row.title} ({row.unit})", *cells)
    return result


def publish(document: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Print the tables, then the document as the last line."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for one in tables:
        console.print(one)
    print(json.dumps(document), flush=True)


def heading(kind: str, settings: Mapping[str, Any], versions: Mapping[str, Any]) -> dict[str, Any]:
    """What every document begins with: benchmark, date, machine, versions, settings."""
    return {
        "benchmark": kind,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions},
        "settings": dict(settings),
    }


def machine() -> dict[str, Any]:
    """This machine: processor, cores, memory, GPUs, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "gpus": _lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lines(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _mark(row: Row, name: str, wanted: float | None) -> str:
    if wanted is None:
        return ""
    sign = "≥" if row.better == "more" else "≤"
    return f" ({sign} {wanted:.4g})" + (" [bold]missed[/bold]" if name in row.missed else "")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _digits(value) for name, value in values.items()}


def _digits(value: float) -> float:
    return float(f"{value:.4g}")

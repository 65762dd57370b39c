"""The page of `/metrics`: what it says of threads."""

from __future__ import annotations

from codellama.engine.status import EngineStatus
from codellama.engine.threads import ThreadStatus
from codellama.server.metrics import Metrics


def test_threads_in_use_and_why() -> None:
    threads = ThreadStatus(3, 4, "other programs take processors: 4 were slower", "one per core", 7)
    page = Metrics().render(EngineStatus(1, threads=threads)).splitlines()
    values = dict(line.split() for line in page if not line.startswith("#"))
    why = "other_programs_take_processors_4_were_slower"
    assert values[f'llamacpp:threads{{why="{why}"}}'] == "3"
    assert values['llamacpp:threads_batch{why="one_per_core"}'] == "4"
    assert values["llamacpp:thread_changes_total"] == "7"
    assert "# TYPE llamacpp:threads gauge" in page
    assert "# TYPE llamacpp:thread_changes_total counter" in page

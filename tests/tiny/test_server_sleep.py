"""A server that nobody asks frees its model and loads it again, as in llama.cpp's test_sleep.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import ModelLoadError
from codellama.llm import LLM
from codellama.server.config import ServerConfig
from tests.live_server import Live, running, wait_until

IDLE_S = 1.0
PLAIN = ("/health", "/props", "/v1/models", "/metrics")


class Loads:
    """Loads the tiny model and keeps what it loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[LLM] = []
        self.broken = False

    def __call__(self) -> LLM:
        if self.broken:
            raise ModelLoadError("the file is gone")
        self.made.append(LLM(self.path, n_ctx=256, n_seq_max=2, n_threads=1))
        return self.made[-1]


@pytest.fixture
def loads(tiny_gguf: Path) -> Loads:
    return Loads(tiny_gguf)


@pytest.fixture
def live(loads: Loads) -> Iterator[Live]:
    config = ServerConfig(port=0, sleep_idle_seconds=IDLE_S, aliases=("alias",))
    with running(loads, config) as live:
        yield live


def asleep(live: Live) -> bool:
    return bool(live.get("/props").json()["is_sleeping"])


def test_it_tells_of_itself_asleep_and_wakes_for_a_request(live: Live, loads: Loads) -> None:
    answer = live.post("/completion", prompt="x", n_predict=4, temperature=0).json()
    awake = {path: live.get(path).text for path in PLAIN[2:]}
    again = live.get("/metrics").text  # its rates are those since the last look
    wait_until(lambda: asleep(live))
    n_loads = len(loads.made)
    assert loads.made[-1].status().dead
    for path in PLAIN:
        assert live.get(path).status_code == 200
    assert live.get("/v1/models").text == awake["/v1/models"]
    assert live.get("/metrics").text == again
    assert asleep(live)
    woken = live.post("/completion", prompt="x", n_predict=4, temperature=0).json()
    assert (woken["content"], woken["model"]) == (answer["content"], "alias")
    assert not asleep(live)
    assert len(loads.made) == n_loads + 1
    assert "predicted_tokens_seconds 0" not in live.get("/metrics").text
    wait_until(lambda: asleep(live))


def test_nobody_sleeps_while_an_answer_is_written(live: Live) -> None:
    body: dict[str, Any] = {
        "prompt": "x",
        "ignore_eos": True,
        "context_shift": True,
        "timeout_s": 2 * IDLE_S,
    }
    answer = live.post("/completion", **body)
    assert (answer.status_code, answer.json()["stop_type"]) == (200, "limit")


def test_several_requests_wake_it_once(live: Live, loads: Loads) -> None:
    wait_until(lambda: asleep(live))
    n_loads = len(loads.made)
    codes: list[int] = []

    def ask() -> None:
        codes.append(live.post("/tokenize", content="hi").status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 4
    assert len(loads.made) == n_loads + 1


def test_a_model_that_cannot_be_loaded_again_is_a_503(live: Live, loads: Loads) -> None:
    wait_until(lambda: asleep(live))
    loads.broken = True
    refused = live.post("/completion", prompt="x")
    assert refused.status_code == 503
    assert "the file is gone" in refused.json()["error"]["message"]
    loads.broken = False
    assert live.post("/completion", prompt="x", n_predict=1).status_code == 200

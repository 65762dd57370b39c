"""What a server says while it runs: ready, each request, stopping; and nothing of what clients write."""

from __future__ import annotations

import logging
import re
from typing import Any

import httpx
import pytest

from codellama.devices.planner import plan_load
from codellama.engine.request import FinishReason
from codellama.files.loadable import read_model
from codellama.params import ModelConfig
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, say
from tests.live_server import Live, running, wait_until
from tests.made_up import machine
from tests.tiny_model import write

SECRET = "swordfish"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
SECONDS = r"\d+\.\d{3}s"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the server's log says."""
    caplog.set_level(logging.INFO, "codellama.server")
    return caplog


@pytest.fixture
def llm(tmp_path_factory: pytest.TempPathFactory) -> FakeLLM:
    llm = FakeLLM()
    header = read_model(write(tmp_path_factory.mktemp("log") / "tiny.gguf"))
    llm.opened_plan = plan_load(header, ModelConfig(n_gpu_layers=1), machine(64, 24))
    return llm


def requests(said: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the access log so far, without their times."""
    found = [re.fullmatch(rf"{TIME} (.*) {SECONDS}( .*)?", line) for line in said.messages]
    return [f"{match[1]}{match[2] or ''}" for match in found if match]


def test_every_request_is_a_line(said: pytest.LogCaptureFixture, llm: FakeLLM) -> None:
    with running(lambda: llm) as live:
        answer = live.post("/v1/chat/completions", messages=[{"role": "user", "content": SECRET}])
        live.get(f"/{SECRET}%0aPOST /forged 200")
        live.get(f"/v1/models/{SECRET}")
        live.post("/completion", prompt=5)
        httpx.head(live.url + "/metrics", timeout=60)
        httpx.request("PROPFIND", live.url + "/", timeout=60)
        live.get("/health")
        live.get("/page/main.js")
        live.get("/page/absent")
        wait_until(lambda: len(requests(said)) >= 7)
    identity = answer.json()["id"].removeprefix("chatcmpl-")
    n = answer.json()["usage"]["prompt_tokens"]
    assert requests(said) == [
        f"POST /v1/chat/completions 200 prompt={n} cached=1 answer=5 end=stop id={identity}",
        "GET - 404",
        "GET /v1/models/{model:path} 404",
        "POST /completion 400",
        "HEAD /metrics 200",
        "- / 405",
        "GET /page/{name:path} 404",
    ]
    assert not [line for line in said.messages if SECRET in line or "forged" in line]


def test_a_stream_is_logged_when_it_has_ended(said: pytest.LogCaptureFixture, llm: FakeLLM) -> None:
    llm.script, llm.hold = say("hel", "lo", end=FinishReason.LENGTH), True
    with running(lambda: llm) as live:
        body = {"prompt": "x", "stream": True}
        with live.client() as client, client.stream("POST", "/completion", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert requests(said) == []
            llm.release()
            list(lines)
        wait_until(lambda: len(requests(said)) == 1)
    assert "POST /completion 200 prompt=2 cached=1 answer=5 end=length id=" in requests(said)[0]


def test_all_prompts_and_answers_are_counted(said: pytest.LogCaptureFixture, llm: FakeLLM) -> None:
    with running(lambda: llm) as live:
        body: dict[str, Any] = {"prompt": ["x", "yz"], "n": 2}
        usage = live.post("/v1/completions", **body).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2 + 3, 4 * 5)
    assert " prompt=5 cached=2 answer=20 end=stop id=" in requests(said)[0]


def test_a_client_that_leaves_is_logged(said: pytest.LogCaptureFixture, llm: FakeLLM) -> None:
    llm.hold = True
    with running(lambda: llm) as live:
        body = {"prompt": "x", "stream": True}
        with live.client() as client, client.stream("POST", "/completion", json=body) as stream:
            next(stream.iter_lines())
        wait_until(lambda: len(requests(said)) == 1)
    assert " answer=5 end=left id=" in requests(said)[0]


def test_what_is_refused_at_the_door_is_logged(
    said: pytest.LogCaptureFixture, llm: FakeLLM
) -> None:
    with running(lambda: llm, ServerConfig(port=0, api_keys=(SECRET,))) as live:
        live.get("/v1/models")
        live.post("/completion", prompt="x", headers={"authorization": "Bearer guess"})
        wait_until(lambda: len(requests(said)) == 2)
    assert requests(said) == ["GET /v1/models 401", "POST /completion 401"]
    assert not [line for line in said.messages if "guess" in line]


def test_the_log_can_be_switched_off(said: pytest.LogCaptureFixture, llm: FakeLLM) -> None:
    with running(lambda: llm, ServerConfig(port=0, access_log=False)) as live:
        live.get("/v1/models")
    assert requests(said) == []


def test_ready_and_stopping(said: pytest.LogCaptureFixture, llm: FakeLLM) -> None:
    def cut(live: Live) -> None:
        with live.client() as client:
            body = {"prompt": "x", "stream": True}
            with client.stream("POST", "/completion", json=body) as stream:
                lines = stream.iter_lines()
                next(lines)
                live.stop()
                list(lines)

    llm.hold = True
    with running(lambda: llm, ServerConfig(port=0, drain_timeout=0.1)) as live:
        cut(live)
    lines = [line for line in said.messages if not re.match(TIME, line)]
    slots = llm.config.n_seq_max
    assert lines[0].startswith(f"ready: fake, context 64 tokens, {slots} slots, layers: 1 on ")
    assert lines[1:] == [
        "stopping: no new connections; 1 running, 0.1 s to finish",
        "stopping: cutting 1 short",
        "stopped",
    ]


def test_health_tells_how_far_loading_is() -> None:
    import threading

    from codellama.server.run import bind, build, url_of
    from codellama.server.serving import Loading

    loading, loaded = Loading(), threading.Event()

    def load() -> FakeLLM:
        loading(1, 4)
        loaded.wait()
        return FakeLLM()

    listener = bind("127.0.0.1", 0)
    server = build(load, ServerConfig(port=0), loading=loading)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    live = Live(url_of(listener), server, thread)
    wait_until(lambda: live.get("/health").json().get("progress") == 0.25)
    answer = live.get("/health")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "Loading model")
    loaded.set()
    wait_until(lambda: live.get("/health").status_code == 200)
    assert live.get("/health").json() == {"status": "ok"}
    live.stop()
    live.join()
    listener.close()

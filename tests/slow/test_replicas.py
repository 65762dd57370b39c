"""Two replicas of the demo model on Ray Serve with OpenAI's client: streams, limits, and a replica killed.

Ray is in an environment of its own (scripts/tool_venv ray). Each replica has one slot: it is known who waits.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from tests.live_server import wait_until

ROOT = Path(__file__).parents[2]
KEY = "one-key-for-all"
LONG = 900
"""Tokens of an answer that takes seconds."""
START_S = 180.0

pytestmark = pytest.mark.slow


class Served:
    """The running command."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self.process = process
        self.client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=120)

    def get(self, path: str, **headers: str) -> httpx.Response:
        headers = headers or {"authorization": f"Bearer {KEY}"}
        return httpx.get(self.url + path, headers=headers, timeout=60)

    def replicas(self) -> list[int]:
        """The processes of the replicas: children of Ray's, which are children of the command."""
        return sorted(
            pid
            for pid, parent, line in processes()
            if "ServeReplica" in line and parents(pid)[1:2] == [self.process.pid]
        )

    def stream(self, text: str, tokens: int = LONG, begun: Callable[[], None] | None = None) -> str:
        """Stream an answer; how it ended. `begun` is called at its first text."""
        chunks = self.client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": text}],
            max_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        end = ""
        try:
            for chunk in chunks:
                if begun is not None and chunk.choices[0].delta.content:
                    begun()
                    begun = None
                end = chunk.choices[0].finish_reason or ""
        except openai.APIError as error:
            return f"error: {error.message}"
        return end


def processes() -> list[tuple[int, int, str]]:
    """Process, parent and command line of all."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found.append((int(folder.name), parent, (folder / "cmdline").read_text()))
        except OSError:  # it has ended
            continue
    return found


def parents(pid: int) -> list[int]:
    """The parent of a process, its parent and so on."""
    known = {pid: parent for pid, parent, _ in processes()}
    found = []
    while pid in known:
        pid = known[pid]
        found.append(pid)
    return found


@pytest.fixture(scope="module")
def python() -> str:
    """The Python with Ray; skips where its environment cannot be made."""
    made = subprocess.run(
        ["scripts/tool_venv", "ray"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"scripts/tool_venv ray: {made.stderr[-300:]}")
    return made.stdout.strip()


@pytest.fixture(scope="module")
def served(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    log = (home / "log").open("w+")
    options = "--replicas 2 --parallel 1 --max-queue 2 --threads 1 --ctx-size 2048 --port 0"
    process = subprocess.Popen(
        [python, "-m", "codellama", "serve", "demo", *options.split(), "--api-key", KEY],
        env=os.environ
        | {
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "HOME": str(home),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        },
        stderr=log,
        text=True,
    )
    try:
        yield Served(wait_for_url(home / "log", process), process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()
    assert process.returncode == 0, (home / "log").read_text()[-3000:]
    assert not (home / ".ray").exists(), "a token was written into the home"


def wait_for_url(log: Path, process: subprocess.Popen[str]) -> str:
    """The server's address, when its replicas are ready."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        said = log.read_text()
        found = re.search(r"listening on (\S+)", said)
        if found and httpx.get(found[1] + "/health", timeout=60).status_code == 200:
            return found[1]
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def counted(page: str, name: str) -> float:
    found = re.search(rf"^llamacpp:{name} (\S+)$", page, re.MULTILINE)
    assert found is not None, page
    return float(found[1])


def test_streams_come_from_both_replicas_and_metrics_are_their_sum(served: Served) -> None:
    before = counted(served.get("/metrics").text, "tokens_predicted_total")
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda i: served.stream(f"question {i}", 50), range(6)))
    assert ends == ["length"] * 6
    after = counted(served.get("/metrics").text, "tokens_predicted_total")
    assert after - before == 6 * 50
    slots = served.get("/slots").json()
    assert [slot["id"] for slot in slots] == [0, 1]
    assert len({slot["replica"] for slot in slots}) == 2
    props = served.get("/props").json()
    assert (props["total_slots"], props["replicas"]) == (2, 2)
    assert served.get("/health").json() == {"status": "ok", "replicas": 2}


def test_a_conversation_stays_on_its_replica(served: Served) -> None:
    for i in range(6):
        messages = [{"role": "user", "content": f"Number {i}: " + "tell me about lists. " * 5}]
        ask = {"model": "demo", "max_tokens": 12}
        first = served.client.chat.completions.create(messages=messages, **ask)  # type: ignore[call-overload]
        messages += [
            {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": "And more?"},
        ]
        second = served.client.chat.completions.create(messages=messages, **ask)  # type: ignore[call-overload]
        assert first.usage and second.usage and second.usage.prompt_tokens_details
        # All but the end of the prompt; what all conversations have in common is much less.
        assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens / 2


def test_keys_and_limits_hold_for_the_whole(served: Served) -> None:
    assert served.get("/v1/models", authorization="Bearer wrong").status_code == 401
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(served.stream, f"limit {i}") for i in range(4)]
        wait_until(lambda: sum(s["is_processing"] for s in served.get("/slots").json()) == 2)
        time.sleep(0.5)  # the other two are there as well, and wait
        with pytest.raises(openai.InternalServerError) as refused:
            served.client.completions.create(model="demo", prompt="one too many", max_tokens=1)
        assert refused.value.status_code == 503
        assert "4 requests are in progress" in refused.value.message
        assert [future.result() for future in running] == ["length"] * 4


def test_a_client_that_leaves_ends_its_request(served: Served) -> None:
    ask = {"prompt": "leave", "n_predict": 1500, "ignore_eos": True, "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream(
        "POST", served.url + "/completion", json=ask, headers=headers, timeout=60
    ) as answer:
        lines = answer.iter_lines()  # a generator that nobody holds would end the response
        assert next(lines).startswith("data: ")
        assert any(slot["is_processing"] for slot in served.get("/slots").json())
    wait_until(lambda: not any(s["is_processing"] for s in served.get("/slots").json()), 5)


def test_a_killed_replica_ends_what_had_begun_and_the_rest_is_answered(served: Served) -> None:
    counts = counted(served.get("/metrics").text, "tokens_predicted_total")
    wait_until(lambda: len(served.replicas()) == 2)
    begun: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        running: list[Future[str]] = []
        for i in range(2):
            running.append(pool.submit(served.stream, f"begun {i}", 1500, lambda: begun.append(0)))
        wait_until(lambda: len(begun) == 2)
        waiting = [pool.submit(served.stream, f"waiting {i}", 20) for i in range(2)]
        wait_until(lambda: counted(served.get("/metrics").text, "requests_deferred") == 2)
        os.kill(served.replicas()[0], signal.SIGKILL)
        ends = [future.result() for future in running]
        assert sorted(end.startswith("error: the replica") for end in ends) == [False, True], ends
        assert "length" in ends
        assert [future.result() for future in waiting] == ["length", "length"]
    assert counted(served.get("/metrics").text, "tokens_predicted_total") > counts
    wait_until(lambda: served.get("/health").json().get("replicas") == 2, START_S)
    assert served.stream("after that", 20) == "length"


def test_the_last_event_of_a_stream_whose_replica_is_gone_is_one_error(served: Served) -> None:
    wait_until(lambda: len(served.replicas()) == 2)
    ask = {"prompt": "an end", "n_predict": 1500, "ignore_eos": True, "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    events: list[dict[str, object]] = []
    with httpx.stream(
        "POST", served.url + "/completion", json=ask, headers=headers, timeout=60
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
            if len(events) == 3:
                for pid in served.replicas():
                    os.kill(pid, signal.SIGKILL)
    assert [event for event in events if "error" in event] == events[-1:]
    wait_until(lambda: served.get("/health").status_code == 200, START_S)

"""Open WebUI's backend: it is started with an empty folder, and asked as its page asks it."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from clients.trials.checks import MESSAGES, run, said

START_S = 600


@functools.cache
def backend(url: str) -> tuple[str, str]:
    """The backend's own URL, and the token of its one user."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp()
    settings = {
        "DATA_DIR": folder,
        "WEBUI_AUTH": "False",
        "HF_HUB_OFFLINE": "1",
        "OFFLINE_MODE": "1",
        "OPENAI_API_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
        "OLLAMA_BASE_URL": url,
        "RAG_EMBEDDING_ENGINE": "openai",
        "WEBUI_SECRET_KEY": "none",
    }
    program = Path(sys.executable).with_name("open-webui")
    subprocess.Popen(
        [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | settings,
        cwd=folder,
        stdout=(Path(folder) / "log").open("w"),
        stderr=subprocess.STDOUT,
        preexec_fn=die_with_parent,
    )
    own = f"http://127.0.0.1:{port}"
    wait_for(f"{own}/health", Path(folder) / "log")
    user = call(own, "/api/v1/auths/signin", "", {"email": "", "password": ""})
    return own, str(user["token"])


def die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM


def wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urlopen(url):
                return
        except (URLError, ConnectionError):
            time.sleep(1)
    raise AssertionError(log.read_text()[-300:])


def call(own: str, path: str, token: str, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(own + path, data, headers)) as answer:
        raw = answer.read().decode()
    return json.loads(raw) if raw[:1] in "[{" else raw


def models(url: str) -> list[str]:
    return [model["id"] for model in call(*at(url, "/api/models"))["data"]]


def at(url: str, path: str) -> tuple[str, str, str]:
    own, token = backend(url)
    return own, path, token


def try_models(url: str) -> None:
    assert models(url)
    assert call(*at(url, "/ollama/api/tags"))["models"]


def try_chat(url: str) -> None:
    body = {"model": models(url)[0], "messages": MESSAGES, "max_tokens": 24, "num_ctx": 1024}
    reply = call(*at(url, "/api/chat/completions"), {**body, "stream": False})
    assert said(reply["choices"][0]["message"]["content"])


def try_chat_with_ollama(url: str) -> None:
    body = {"model": models(url)[0], "messages": MESSAGES, "options": {"num_predict": 24}}
    reply = call(*at(url, "/ollama/api/chat"), {**body, "stream": False})
    assert said(reply["message"]["content"])


def try_stream(url: str) -> None:
    body = {"model": models(url)[0], "messages": MESSAGES, "max_tokens": 24, "stream": True}
    raw = call(*at(url, "/api/chat/completions"), body)
    events = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    parts = [choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]]
    assert said("".join(parts)) and events[-1] == "[DONE]"


def try_tasks(url: str) -> None:
    body = {"model": models(url)[0], "messages": MESSAGES, "stream": False}
    for task in ("title", "tags", "follow_up"):
        reply = call(*at(url, f"/api/v1/tasks/{task}/completions"), body)
        assert said(reply["choices"][0]["message"]["content"]), task


if __name__ == "__main__":
    run(sys.modules[__name__])

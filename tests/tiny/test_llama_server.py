"""Embeddings beside llama.cpp's own server on the same file (built by scripts/build_llama_tools)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from codellama.llm import LLM
from codellama.params import POOLING_TYPES
from codellama.server.config import ServerConfig
from codellama.weights.convert import convert
from tests.live_server import DEADLINE_S, running, wait_until

pytestmark = pytest.mark.reference
ROOT = Path(__file__).parents[2]
LLAMA_SERVER = Path(os.environ.get("LLAMA_SERVER") or ROOT / ".llama-tools/bin/llama-server")
# Ids, because this file's tokenizer is corrected when we load it.
TEXTS = [[1, 308, 707, 4014, 3999, 4015, 305], [1, 4025], [1, *range(300, 420)]]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo-f32.gguf"
    convert(ROOT / "models" / "demo", path, "F32", threads=2)
    return path


@contextmanager
def llama_server(model: Path, *options: str) -> Iterator[str]:
    """llama-server on a free port; its URL once it is ready."""
    if not LLAMA_SERVER.exists():
        pytest.skip(f"no {LLAMA_SERVER}: run scripts/build_llama_tools, or set LLAMA_SERVER")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(LLAMA_SERVER), "-m", str(model), "--port", str(port), "-t", "1", "-np", "1"]
    process = subprocess.Popen(
        [*command, "-c", "512", "-fa", "off", "-ctk", "f32", "-ctv", "f32", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "llama-server ended"
        try:
            return httpx.get(url + "/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready)
        yield url
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.mark.parametrize("pooling", POOLING_TYPES)
def test_embeddings(exact: Path, pooling: Any) -> None:
    """The same answers to the same requests: keys and shapes equal, values within 1e-4.

    Flash attention is off and all is F32: else rounding depends on what else is in a batch.
    """
    with llama_server(exact, "--embeddings", "--pooling", pooling) as theirs:
        asked: list[tuple[str, Any]] = [
            ("/embeddings", {"content": TEXTS}),
            ("/embedding", {"content": TEXTS[0]}),
        ]
        if pooling != "none":
            asked += [
                ("/v1/embeddings", {"input": TEXTS}),
                ("/v1/embeddings", {"input": TEXTS[0], "encoding_format": "float"}),
                ("/embeddings", {"input": TEXTS, "embd_normalize": 1}),
                ("/embeddings", {"input": TEXTS, "embd_normalize": 3}),
            ]
        want = [httpx.post(theirs + path, json=body, timeout=60).json() for path, body in asked]
        wrong = httpx.post(theirs + "/v1/embeddings", json={}).status_code

    def load() -> LLM:
        options: dict[str, Any] = {"n_seq_max": 1, "n_threads": 1, "flash_attn": "off"}
        options |= {"type_k": "f32", "type_v": "f32"}
        return LLM(exact, embeddings=True, pooling=pooling, **options)

    with running(load) as ours:
        for (path, body), expected in zip(asked, want, strict=True):
            assert_same(ours.post(path, **body).json(), expected)
        assert ours.post("/v1/embeddings").status_code == wrong


def test_off_by_default(exact: Path) -> None:
    with llama_server(exact) as theirs:
        want = httpx.post(theirs + "/v1/embeddings", json={"input": "x"})
    with running(lambda: LLM(exact, n_threads=1)) as ours:
        got = ours.post("/v1/embeddings", input="x")
    assert got.status_code == want.status_code == 501
    assert got.json()["error"]["type"] == want.json()["error"]["type"]


def assert_same(got: Any, want: Any) -> None:
    """Equal but for the model's name, numbers within 1e-4 of a vector's largest."""
    assert type(got) is type(want)
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want.keys() - {"model"}:
            assert_same(got[key], want[key])
    elif isinstance(want, list) and want and isinstance(want[0], float):
        size = np.abs(want).max()
        np.testing.assert_allclose(np.array(got) / size, np.array(want) / size, atol=1e-4)
    elif isinstance(want, list):
        assert len(got) == len(want)
        for mine, theirs in zip(got, want, strict=True):
            assert_same(mine, theirs)
    else:
        assert got == want


ITS_OWN = {"media_marker", "model_ftype", "ui", "ui_settings", "cors_proxy_enabled"}
"""What llama-server's `/props` tells of what no other server has."""


def test_what_it_tells_of_itself(exact: Path, tmp_path: Path) -> None:
    """`/props`, `/slots`, `/metrics` and saved slots have llama-server's keys; so have the errors."""
    options = [
        "--metrics",
        "--slots",
        "--alias",
        "a",
        "--slot-save-path",
        f"{tmp_path}/",
        "-s",
        "7",
    ]
    config = ServerConfig(
        port=0, aliases=("a",), slot_save_path=tmp_path, sampling={"seed": 7, "temperature": 0}
    )

    def load() -> LLM:
        return LLM(exact, n_ctx=512, n_seq_max=1, n_threads=1, flash_attn="off")

    def ask(url: str) -> dict[str, Any]:
        with httpx.Client(base_url=url, timeout=DEADLINE_S) as http:
            body = {"prompt": [1, *range(300, 330)], "n_predict": 4, "temperature": 0}
            idle = http.get("/slots").json()[0]
            answer = http.post("/completion", json=body).json()
            told = http.get("/metrics")
            return {
                "props": http.get("/props").json(),
                "idle": idle,
                "slot": answer["id_slot"],
                "metrics": {ln for ln in told.text.splitlines() if ln.startswith("# TYPE")},
                "started": "process-start-time-unix" in told.headers,
                "saved": http.post("/slots/0?action=save", json={"filename": "x.bin"}).json(),
                "restored": http.post("/slots/0?action=restore", json={"filename": "x.bin"}).json(),
                "erased": http.post("/slots/0?action=erase").json(),
                "refused": [
                    http.post("/props", json={}).status_code,
                    http.post("/slots/0?action=dance", json={}).status_code,
                    http.post("/slots/x?action=erase", json={}).status_code,
                    http.post("/slots/0?action=save", json={"filename": "../x"}).status_code,
                    http.get("/slots?fail_on_no_slot=1").status_code,
                ],
            }

    with llama_server(exact, *options) as url:
        theirs = ask(url)
    with running(load, config) as live:
        ours = ask(live.url)
    assert theirs["props"].keys() - ours["props"].keys() == ITS_OWN
    settings = "default_generation_settings"
    assert theirs["props"][settings].keys() == ours["props"][settings].keys()
    assert theirs["props"][settings]["n_ctx"] == ours["props"][settings]["n_ctx"]
    assert theirs["props"][settings]["params"]["seed"] == ours["props"][settings]["params"]["seed"]
    for key in (
        "total_slots",
        "model_alias",
        "model_path",
        "bos_token",
        "eos_token",
        "is_sleeping",
    ):
        assert theirs["props"][key] == ours["props"][key], key
    assert theirs["props"]["endpoint_metrics"] is ours["props"]["endpoint_metrics"] is True
    assert theirs["idle"].keys() == ours["idle"].keys()
    assert theirs["metrics"] <= ours["metrics"]
    assert theirs["started"] is ours["started"] is True
    for key in ("saved", "restored", "erased"):
        assert theirs[key].keys() == ours[key].keys(), key
    for key, name in (("saved", "n_saved"), ("restored", "n_restored"), ("erased", "n_erased")):
        assert theirs[key][name] == ours[key][name], key
    assert theirs["saved"]["timings"].keys() == ours["saved"]["timings"].keys()
    assert theirs["refused"] == ours["refused"]
    assert theirs["slot"] == ours["slot"] == 0

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

"""Embeddings over HTTP: OpenAI's own client, llama-server's routes, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from codellama.llm import LLM
from codellama.params import ModelConfig, Pooling, Prompt
from codellama.running.embedding import Embeddings
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM
from tests.live_server import Live, running, wait_until

EXACT: dict[str, Any] = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}
CLOSE: dict[str, Any] = {"rel": 1e-4, "abs": 1e-5}


@pytest.fixture(scope="module")
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, embeddings=True, n_seq_max=1, **EXACT) as model:
        yield model


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, embeddings=True, n_seq_max=1, **EXACT)) as server:
        yield server


@pytest.fixture(scope="module")
def per_token(tiny_gguf: Path) -> Iterator[Live]:
    def load() -> LLM:
        return LLM(tiny_gguf, embeddings=True, pooling="none", n_seq_max=1, **EXACT)

    with running(load) as server:
        yield server


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()["error"]
    assert body["code"] == response.status_code
    return response.status_code, body["type"], body["param"]


def test_openai_s_client(live: Live, llm: LLM) -> None:
    client = openai.OpenAI(base_url=live.url + "/v1", api_key="none")
    texts = ["def add(a, b):", "x = 1"]
    want = llm.embed(texts, normalize=True)
    options: list[Any] = [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}]
    for option in options:
        found: Any = client.embeddings.create(model="any", input=texts, user="me", **option)
        assert found.model == "tiny"
        assert [entry.index for entry in found.data] == [0, 1]
        for entry, vector in zip(found.data, want, strict=True):
            got = entry.embedding
            if isinstance(got, str):  # asked for by name, the client leaves it as it is
                got = np.frombuffer(base64.b64decode(got), dtype="<f4").tolist()
            assert got == pytest.approx(vector, **CLOSE)
    n_tokens = sum(len(llm.complete_prompt(text).tokens) for text in texts)
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (n_tokens, n_tokens)
    tokens = list(llm.complete_prompt(texts[0]).tokens)
    for given, n in ((texts[0], 1), (tokens, 1), ([tokens, tokens], 2)):
        found = client.embeddings.create(model="any", input=given)
        assert len(found.data) == n
        for entry in found.data:
            assert entry.embedding == pytest.approx(want[0], **CLOSE)
    with pytest.raises(openai.BadRequestError) as info:
        client.embeddings.create(model="any", input="x", dimensions=8)
    assert info.value.param == "dimensions"


def test_llama_server_s_routes(live: Live, llm: LLM) -> None:
    for path in ("/embedding", "/embeddings"):
        bodies: list[Any] = [{"content": "x = 1"}, {"input": "x = 1"}]
        for body in bodies:
            [entry] = live.post(path, **body).json()
            assert entry.keys() == {"index", "embedding"}
            [vector] = entry["embedding"]
            assert vector == pytest.approx(llm.embed("x = 1", normalize=True), **CLOSE)
    body = live.post("/embeddings", input=["a", "b"], embd_normalize=-1).json()
    assert [entry["index"] for entry in body] == [0, 1]
    assert body[1]["embedding"][0] == pytest.approx(llm.embed("b"), **CLOSE)
    body = live.post("/v1/embeddings", content="a", embd_normalize=1).json()
    assert np.abs(body[0]["embedding"][0]).sum() == pytest.approx(1, abs=1e-5)
    text = {"prompt_string": "a"}
    assert (
        live.post("/embeddings", content=text).json()
        == live.post("/embeddings", content="a").json()
    )


def test_without_pooling_a_vector_per_token_as_it_is(per_token: Live, llm: LLM) -> None:
    want = llm.embed(["abc", "d"], pooling="none")
    body = per_token.post("/embeddings", input=["abc", "d"], embd_normalize=2).json()
    for entry, rows in zip(body, want, strict=True):
        np.testing.assert_allclose(entry["embedding"], rows, rtol=1e-4, atol=1e-5)
    response = per_token.post("/v1/embeddings", input="abc")
    assert error(response) == (400, "invalid_request_error", "pooling")
    assert "a vector per token" in response.json()["error"]["message"]
    assert per_token.post("/v1/embeddings", content="abc").status_code == 200


def test_an_empty_text_is_its_bos(live: Live) -> None:
    """As in llama-server."""
    found = live.post("/v1/embeddings", input=["a", ""]).json()
    full, empty = (entry["embedding"] for entry in found["data"])
    assert len(full) == len(empty) and full != empty
    assert live.post("/embedding", content="").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"content": ["a", []]}, "content"),
        ({"input": 7}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": [1, 10**6]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "content": "b"}, "content"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "embd_normalize": -3}, "embd_normalize"),
        ({"input": "a", "dimension": 3}, "dimension"),
    ],
)
def test_what_is_wrong_is_named(live: Live, body: dict[str, Any], param: str) -> None:
    response = live.post("/v1/embeddings", **body)
    assert error(response) == (400, "invalid_request_error", param)
    assert param in response.json()["error"]["message"]


def test_more_refusals(live: Live) -> None:
    response = live.post("/embeddings", input="a", encoding_format="base64")
    assert error(response) == (400, "invalid_request_error", "encoding_format")
    body = live.post("/v1/embeddings", input=[1] * 1025).json()["error"]
    assert (body["type"], body["param"]) == ("exceed_context_size_error", "input")
    assert (body["n_prompt_tokens"], body["n_ctx"]) == (1025, 1024)
    assert live.post("/v1/embeddings", input=[1] * 1024).status_code == 200


class Waiting(FakeLLM):
    """Its embeddings never end by themselves."""

    config = ModelConfig(embeddings=True)

    def __init__(self) -> None:
        super().__init__()
        self.futures: list[Future[Embeddings]] = []

    def embeddings(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling | None = None,
        normalize: bool | int = True,
    ) -> Future[Embeddings]:
        self.futures.append(Future())
        return self.futures[-1]


def test_a_model_that_was_loaded_without_them(tiny_gguf: Path) -> None:
    with running(lambda: LLM(tiny_gguf, n_threads=1)) as server:
        for path in ("/v1/embeddings", "/embedding", "/embeddings"):
            response = server.post(path, input="x")
            assert error(response) == (501, "not_supported_error", None)
            assert "embeddings=True" in response.json()["error"]["message"]


def test_a_client_that_leaves_stops_its_request() -> None:
    llm = Waiting()

    async def leave(url: str) -> None:
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(url + "/v1/embeddings", json={"input": "x"}, timeout=0.5)

    with running(lambda: llm) as server:
        asyncio.run(leave(server.url))
        wait_until(lambda: llm.futures[0].cancelled(), 5.0)


def test_a_server_that_stops_says_so() -> None:
    llm = Waiting()
    with running(lambda: llm, ServerConfig(port=0, drain_timeout=0.1)) as server:

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(timeout=30) as client:
                asked = asyncio.create_task(
                    client.post(server.url + "/v1/embeddings", json={"input": "x"})
                )
                while not llm.futures:
                    await asyncio.sleep(0.01)
                server.stop()
                return await asked

        assert error(asyncio.run(ask())) == (503, "unavailable_error", None)
    assert llm.futures[0].cancelled()

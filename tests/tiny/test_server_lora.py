"""LoRA adapters over HTTP: a request's own, in both dialects, and the server's defaults."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from codellama.llm import LLM
from tests.live_server import DEADLINE_S, Live, running
from tests.lora_file import write_adapter

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
PROMPT = "def add(a, b):"
ONE, HALF, NONE = [{"id": 0, "scale": 1.0}], [{"id": "two", "scale": 0.5}], [{"id": 0, "scale": 0}]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("lora")
    return [write_adapter(folder / f"{name}.gguf", i) for i, name in enumerate(["one", "two"], 1)]


@pytest.fixture
def live(tiny_gguf: Path, paths: list[Path]) -> Iterator[Live]:
    options: dict[str, Any] = {"lora": paths, "lora_init_without_apply": True}
    with running(lambda: LLM(tiny_gguf, n_ctx=256, n_seq_max=3, n_threads=1, **options)) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.url + "/v1", api_key="none", timeout=DEADLINE_S) as client:
        yield client


def complete(client: OpenAI, lora: Any) -> str:
    answer = client.completions.create(
        model="any", prompt=PROMPT, extra_body={"lora": lora}, **GREEDY
    )
    return str(answer.choices[0].text)


def test_openais_client(client: OpenAI, tiny_gguf: Path, paths: list[Path]) -> None:
    wants = []
    for lora in ([], [paths[0]], [(paths[1], 0.5)]):
        with LLM(tiny_gguf, n_ctx=256, n_seq_max=1, n_threads=1, lora=lora) as llm:
            wants.append(llm.complete(PROMPT, **GREEDY).text())
    assert len(set(wants)) == 3
    asked = [[], ONE, HALF, NONE] * 2
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda lora: complete(client, lora), asked))
    assert got == [wants[0], wants[1], wants[2], wants[0]] * 2


def test_chat(client: OpenAI) -> None:
    texts = {
        client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "hi"}],
            extra_body={"lora": lora},
            **GREEDY,
        )
        .choices[0]
        .message.content
        for lora in (NONE, ONE, HALF)
    }
    assert len(texts) == 3


def test_llama_servers_dialect(live: Live, client: OpenAI) -> None:
    body = live.post("/completion", prompt=PROMPT, lora=ONE, **GREEDY).json()
    assert body["generation_settings"]["lora"] == ONE
    assert body["content"] == complete(client, ONE)
    assert live.post("/completion", prompt=PROMPT).json()["generation_settings"]["lora"] == []
    filled: dict[str, Any] = {"input_prefix": "def f(", "input_suffix": "return x"}
    answers = {
        live.post("/infill", lora=lora, **filled, **GREEDY).json()["content"]
        for lora in (NONE, ONE, HALF)
    }
    assert len(answers) == 3


def test_the_list_and_the_defaults(live: Live, client: OpenAI, paths: list[Path]) -> None:
    listed = live.get("/lora-adapters").json()
    assert [(a["id"], a["path"], a["scale"]) for a in listed] == [
        (0, str(paths[0]), 0.0),
        (1, str(paths[1]), 0.0),
    ]
    plain = complete(client, [])
    with live.client() as http:
        answer = http.post("/lora-adapters", json=[{"id": 0, "scale": 1.0}])
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert [a["scale"] for a in live.get("/lora-adapters").json()] == [1.0, 0.0]
        assert complete(client, []) == complete(client, ONE) != plain
        assert complete(client, NONE) == plain
        assert http.post("/lora-adapters", json=[]).status_code == 200
    assert complete(client, []) == plain


@pytest.mark.parametrize(
    "lora",
    [
        [{"id": 2, "scale": 1.0}],
        [{"id": "three", "scale": 1.0}],
        [{"id": 0, "scale": "1"}],
        [{"id": 0}],
        [{"id": 0, "scale": 1.0, "weight": 1}],
        [{"id": 0, "scale": 1.0}, {"id": "one", "scale": 1.0}],
        {"0": 1.0},
    ],
)
def test_what_no_adapter_is(live: Live, client: OpenAI, lora: Any) -> None:
    for path, body in (
        ("/completion", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ):
        answer = live.post(path, lora=lora, **body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "lora"
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, lora)
    assert caught.value.param == "lora"
    with live.client() as http:
        answer = http.post("/lora-adapters", json=lora)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "lora"
    assert [a["scale"] for a in live.get("/lora-adapters").json()] == [0.0, 0.0]

"""Mistral's `/v1/fim/completions` over a scripted model and a real socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codellama import errors
from tests.fake_llm import FakeLLM
from tests.live_server import running

PATH = "/v1/fim/completions"


def test_fim() -> None:
    llm = FakeLLM()
    fields: dict[str, Any] = {"max_tokens": 9, "stop": "x", "random_seed": 4, "min_tokens": 0}
    with running(lambda: llm) as live:
        body = live.post(PATH, model="any", prompt="a", suffix="b", **fields).json()
        response = live.post(PATH, prompt="a", suffix="b", stream=True)
        live.post(PATH, prompt="a")
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    *chunks, done = [f.removeprefix("data: ") for f in response.text.split("\n\n")[:-1]]
    deltas = [choice["delta"] for c in chunks for choice in json.loads(c)["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "hello"
    assert json.loads(chunks[-1])["usage"]["completion_tokens"] == 5
    assert done == "[DONE]"
    first, _, last = llm.calls
    assert (first.params.max_tokens, first.params.stop, first.params.seed) == (9, ("x",), 4)
    prompts = [llm.tokenizer.decode(call.prompt.tokens) for call in (first, last)]
    assert prompts == ["<a|b>", "a"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"suffix": "b"}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "min_tokens": 5}, "min_tokens"),
        ({"prompt": "a", "random_seed": "x"}, "random_seed"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_a_clients_mistake(body: dict[str, Any], param: str) -> None:
    with running(FakeLLM) as live:
        response = live.post(PATH, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_model_that_cannot_infill() -> None:
    llm = FakeLLM()
    llm.error = errors.UnsupportedError("not trained for infilling")
    with running(lambda: llm) as live:
        response = live.post(PATH, prompt="a", suffix="b")
    assert response.status_code == 501

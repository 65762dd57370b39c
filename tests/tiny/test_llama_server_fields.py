"""Fields of requests beside llama.cpp's own server on the same file: the same text, the same figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from codellama.llm import LLM
from codellama.weights.convert import convert
from tests.live_server import running
from tests.tiny.test_llama_server import ROOT, llama_server

pytestmark = pytest.mark.reference

DIALOG = [
    {"role": "user", "content": "Write a function that adds two numbers."},
    {"role": "assistant", "content": "def add(a, b):\n    return a + b"},
    {"role": "user", "content": "And three?"},
]
START = {
    "prompt": [1, 308, 707, 4014],
    "n_predict": 8,
    "temperature": 0,
}  # ids: tokenizers differ in a space


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URLs of ours and of llama-server."""
    exact = tmp_path_factory.mktemp("demo") / "demo-f32.gguf"
    convert(ROOT / "models" / "demo", exact, "F32", threads=2)

    def load() -> LLM:
        options: dict[str, Any] = {
            "n_seq_max": 1,
            "n_threads": 1,
            "flash_attn": "off",
            "n_ctx": 512,
        }
        return LLM(exact, type_k="f32", type_v="f32", spec_type="none", **options)

    with llama_server(exact) as theirs, running(load) as ours:
        yield ours.url, theirs


def both(servers: tuple[str, str], path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """The two answers."""
    ours, theirs = (httpx.post(url + path, json=body, timeout=120) for url in servers)
    assert (ours.status_code, theirs.status_code) == (200, 200), (ours.text, theirs.text)
    return ours.json(), theirs.json()


@pytest.mark.parametrize(
    "given",
    [
        {"logit_bias": [["7", 500]]},
        {"logit_bias": {"7": 500}},
        {"logit_bias": [["7", 250], ["7", 250]]},
        {"logit_bias": [["7", False], ["7", 500]]},
        {"logit_bias": [[308, 1e6], [308, -1e6]]},
        {"temperature": -1},
        {"top_k": -1},
        {"samplers": "edkypmxt"},
        {"samplers": "kt", "top_k": 1, "temperature": 0.8},
        {"samplers": ["top-k", "temp"], "top_k": 1, "temperature": 0.8},
        {"ignore_eos": True, "n_predict": 40},
        {"id_slot": -1, "cache_prompt": False},
    ],
    ids=str,
)
def test_the_same_text(servers: tuple[str, str], given: dict[str, Any]) -> None:
    ours, theirs = both(servers, "/completion", {**START, **given})
    assert ours["content"] == theirs["content"]
    assert ours["tokens_predicted"] == theirs["tokens_predicted"]
    for name in ("samplers", "logit_bias", "temperature", "top_k", "ignore_eos"):
        mine, other = (answer["generation_settings"][name] for answer in (ours, theirs))
        if name == "logit_bias":
            mine, other = ({b["token"]: b["bias"] for b in bias} for bias in (mine, other))
            if isinstance(given.get("logit_bias"), list):
                continue  # there each entry is listed, here their sum, and a text has no space before it
        assert mine == pytest.approx(other) if isinstance(mine, float) else mine == other, name


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 1.0},
        {"temperature": 1.0, "n_probs": 50, "top_k": 7, "top_p": 0.6, "min_p": 0},
        {
            "temperature": 0.7,
            "n_probs": 100,
            "top_k": 0,
            "top_p": 1,
            "min_p": 0.02,
            "repeat_penalty": 1.3,
        },
        {"temperature": 0},
        {"temperature": 1.0, "mirostat": 2},
        {"temperature": 1.0, "grammar": 'root ::= "self" [.,] [a-z]*'},
        {"temperature": 1.0, "samplers": ["top_k"], "top_k": 3},
        {"temperature": 1.0, "stream": True},
    ],
    ids=str,
)
def test_probabilities_after_sampling(servers: tuple[str, str], given: dict[str, Any]) -> None:
    """Every token has the probability that it was drawn with, and those of what the filters left."""
    asked = {**START, "n_probs": 5, "seed": 3, "post_sampling_probs": True, **given}
    ours, theirs = (probabilities(url, asked) for url in servers)
    assert len(ours) == len(theirs) == 8 or "grammar" in given
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys() == {"id", "token", "bytes", "prob", "top_probs"}
        assert mine["id"] == other["id"]
        assert mine["prob"] == pytest.approx(other["prob"], rel=1e-3)
        if mine["token"]:  # of an end, llama-server tells no text
            assert [t["id"] for t in mine["top_probs"]] == [t["id"] for t in other["top_probs"]]
        assert [t["prob"] for t in mine["top_probs"]] == pytest.approx(
            [t["prob"] for t in other["top_probs"]], rel=1e-3
        )


def probabilities(url: str, body: dict[str, Any]) -> list[Any]:
    """Those of all tokens, whole or streamed."""
    answer = httpx.post(url + "/completion", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return list(answer.json()["completion_probabilities"])
    frames = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return [p for frame in frames for p in json.loads(frame).get("completion_probabilities", ())]


def test_probabilities_after_sampling_in_a_chat(servers: tuple[str, str]) -> None:
    body = {
        "messages": DIALOG, "max_tokens": 4, "logprobs": True, "top_logprobs": 3, "temperature": 1,
        "seed": 3, "post_sampling_probs": True,
    }  # fmt: skip
    ours, theirs = both(servers, "/v1/chat/completions", body)
    mine, other = (answer["choices"][0]["logprobs"]["content"] for answer in (ours, theirs))
    assert [entry["id"] for entry in mine] == [entry["id"] for entry in other]
    for a, b in zip(mine, other, strict=True):
        assert a["prob"] == pytest.approx(b["prob"], rel=1e-3)
        assert [t["id"] for t in a["top_probs"]] == [t["id"] for t in b["top_probs"]]


def test_the_keys_of_response_fields(servers: tuple[str, str]) -> None:
    fields = ["content", "timings/prompt_n", "generation_settings/n_predict", "nothing/x", ""]
    ours, theirs = both(servers, "/completion", {**START, "response_fields": fields})
    assert ours.keys() == theirs.keys()
    assert ours["generation_settings/n_predict"] == theirs["generation_settings/n_predict"]


def test_the_text_of_the_template(servers: tuple[str, str]) -> None:
    """Each server's own text gives each server's own chat, and the chats are the same."""
    n_tokens, texts = [], []
    for url in servers:
        text = httpx.post(url + "/apply-template", json={"messages": DIALOG}).json()["prompt"]
        body = {"prompt": text, "n_predict": 1, "temperature": 0}
        answer = httpx.post(url + "/completion", json=body, timeout=60).json()
        body = {"messages": DIALOG, "max_tokens": 1, "temperature": 0}
        chat = httpx.post(url + "/v1/chat/completions", json=body, timeout=60).json()
        assert answer["tokens_evaluated"] == chat["usage"]["prompt_tokens"]
        n_tokens.append(answer["tokens_evaluated"])
        texts.append(text)
    assert n_tokens[0] == n_tokens[1]
    # Its tokenizer puts a space before a turn, which ours is told not to do: the text has it.
    assert texts[0].replace(" Source", "Source") == texts[1]


def test_probabilities_behind_a_stop_string(servers: tuple[str, str]) -> None:
    """llama-server cuts as many as the stop string has tokens by itself; here all whose text is cut."""
    whole, _ = both(servers, "/completion", START)
    stop = whole["content"][4:6]
    ours, theirs = both(servers, "/completion", {**START, "n_probs": 1, "stop": [stop]})
    assert ours["content"] == theirs["content"]
    shown = "".join(p["token"] for p in ours["completion_probabilities"])
    assert shown.startswith(ours["content"])
    last = ours["completion_probabilities"][-1]["token"]
    assert len(shown) - len(last) < len(ours["content"])


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_head(servers: tuple[str, str], path: str) -> None:
    codes = {httpx.head(url + path).status_code for url in servers}
    assert codes == {200}

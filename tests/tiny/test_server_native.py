"""The server with a real (tiny) model in llama-server's dialect, and the `codellama serve` process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama.errors import InvalidRequestError
from codellama.llm import LLM
from tests.live_server import DEADLINE_S, Live, running, wait_until


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, n_ctx=256, n_seq_max=2, n_threads=1)) as live:
        yield live


def stream(live: Live, path: str, **body: Any) -> list[Any]:
    lines = live.post(path, **body, stream=True).text.split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_completion_whole_and_streamed(live: Live) -> None:
    body: dict[str, Any] = {
        "prompt": "def f",
        "n_predict": 10,
        "temperature": 0,
        "return_tokens": True,
    }
    whole = live.post("/completion", **body).json()
    assert len(whole["tokens"]) == whole["tokens_predicted"] == 10
    assert (whole["stop_type"], whole["prompt"]) == ("limit", "<s>def f")
    assert whole["timings"]["prompt_n"] + whole["timings"]["cache_n"] == 6
    assert whole["generation_settings"]["temperature"] == 0
    events = stream(live, "/completion", **body)
    assert "".join(event["content"] for event in events) == whole["content"]
    assert [token for event in events for token in event["tokens"]] == whole["tokens"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_a_full_queue_says_when_to_come_back(tiny_gguf: Path) -> None:
    def load() -> LLM:
        return LLM(tiny_gguf, n_ctx=1024, n_seq_max=1, max_queue=0, n_threads=1)

    body: dict[str, Any] = {"prompt": "x", "ignore_eos": True, "context_shift": True}
    with running(load) as live, live.client() as http:
        with http.stream("POST", "/completion", json={**body, "stream": True}) as busy:
            lines = busy.iter_lines()
            assert next(lines)
            refused = live.post("/completion", prompt="y")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "unavailable_error"
        wait_until(lambda: live.post("/completion", prompt="y", n_predict=1).status_code == 200)


def test_probabilities(live: Live) -> None:
    answer = live.post("/completion", prompt="a", n_predict=3, n_probs=4, temperature=0).json()
    assert len(answer["completion_probabilities"]) == 3
    for entry in answer["completion_probabilities"]:
        assert len(entry["top_logprobs"]) == 4
        assert entry["id"] == entry["top_logprobs"][0]["id"]
        assert entry["logprob"] <= 0


def test_prompts_of_every_form(live: Live) -> None:
    ids = live.post("/tokenize", content="def f", add_special=True).json()["tokens"]
    assert ids[0] == 1
    options: dict[str, Any] = {"n_predict": 5, "temperature": 0}
    text = live.post("/completion", prompt="def f", **options).json()["content"]
    answers = live.post("/completion", prompt=[ids, "def f", [1, "def f"]], **options).json()
    assert [answer["content"] for answer in answers] == [text] * 3
    assert live.post("/completion", prompt=["def f"], **options).json()["content"] == text
    assert live.post("/completion", prompt=ids, **options).json()["content"] == text


def test_tokenize_and_back(live: Live) -> None:
    text = "héllo, wörld"
    tokens = live.post("/tokenize", content=text).json()["tokens"]
    assert live.post("/detokenize", tokens=tokens).json()["content"].strip() == text
    pieces = live.post("/tokenize", content="é<step>", with_pieces=True).json()["tokens"]
    assert [piece["piece"] for piece in pieces][-1] == "<step>"
    plain = live.post("/tokenize", content="<step>", parse_special=False).json()["tokens"]
    assert pieces[-1]["id"] not in plain


def test_apply_template(live: Live) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    prompt = live.post("/apply-template", messages=messages).json()["prompt"]
    assert prompt.startswith(" Source: system<step> Source: user\n\n hi<step>")


def test_infill(live: Live) -> None:
    answer = live.post("/infill", input_prefix="def f(", input_suffix=")", n_predict=4).json()
    assert answer["tokens_predicted"] <= 4
    assert live.post("/infill", input_prefix="a").json()["error"]["param"] == "input_suffix"


def test_seeds(live: Live) -> None:
    def ask(seed: int) -> str:
        body: dict[str, Any] = {"prompt": "x", "n_predict": 12, "temperature": 2.0, "seed": seed}
        return str(live.post("/completion", **body).json()["content"])

    assert ask(3) == ask(3)
    assert len({ask(seed) for seed in range(4)}) > 1
    assert len({ask(-1) for _ in range(4)}) > 1


def test_bans_and_stop_words(live: Live) -> None:
    body: dict[str, Any] = {"prompt": "x", "n_predict": 1, "temperature": 0, "return_tokens": True}
    (first,) = live.post("/completion", **body).json()["tokens"]
    (second,) = live.post("/completion", **body, logit_bias=[[first, False]]).json()["tokens"]
    assert first != second
    grammar = 'root ::= "abcdefgh"'
    answer = live.post("/completion", prompt="x", grammar=grammar, stop=["ef"]).json()
    assert answer["content"] == "abcd"
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", "ef")


def test_no_tokens_at_all(live: Live) -> None:
    answer = live.post("/completion", prompt="def f", n_predict=0).json()
    assert (answer["content"], answer["tokens_predicted"]) == ("", 0)


def test_the_llama_cpp_calls_on_a_real_model(tiny_llm: LLM) -> None:
    body: Any = tiny_llm("def f", max_tokens=6, temperature=0.0, logprobs=1)
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}
    assert len(body["choices"][0]["logprobs"]["tokens"]) == 6
    chunks: Any = tiny_llm.create_completion("def f", max_tokens=6, temperature=0.0, stream=True)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == body["choices"][0]["text"]
    messages = [{"role": "user", "content": "hi"}]
    chat: Any = tiny_llm.create_chat_completion(messages, max_tokens=4)
    assert chat["choices"][0]["finish_reason"] == "length"
    with pytest.raises(InvalidRequestError, match=r"tools\[0\]: the type must be function"):
        tiny_llm.create_chat_completion(messages, tools=[{}])


@pytest.mark.slow
def test_a_crowd_that_keeps_leaving_leaves_nothing_behind(live: Live) -> None:
    async def visit(client: httpx.AsyncClient, i: int) -> None:
        body = {"prompt": f"{i} ", "n_predict": 20, "stream": i % 2 == 0}
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(client.post("/completion", json=body), 0.05 * (i % 7) or None)

    async def crowd() -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(
            base_url=live.url, timeout=DEADLINE_S, limits=limits
        ) as client:
            await asyncio.gather(*(visit(client, i) for i in range(400)))

    asyncio.run(crowd())
    serving = live.server._serving
    wait_until(lambda: not serving.running)
    wait_until(
        lambda: (serving.llm().status().n_running, serving.llm().status().n_waiting) == (0, 0)
    )
    assert live.post("/completion", prompt="x", n_predict=3).status_code == 200


# -- the process ------------------------------------------------------------------------------


@pytest.fixture
def process(tiny_gguf: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`codellama serve` and its URL, read from stderr."""
    command = [sys.executable, "-m", "codellama", "serve", str(tiny_gguf), "--port", "0"]
    options = ["--parallel", "2", "--ctx-size", "1024", "--threads", "1"]
    env = {**os.environ, "CODELLAMA_SERVE_API_KEY": "from-env"}
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env=env
    ) as running:
        assert running.stderr is not None
        line = running.stderr.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        yield running, line.split()[-1]
        running.kill()


def test_what_the_process_says(process: tuple[subprocess.Popen[str], str]) -> None:
    running, url = process
    wait_until(lambda: httpx.get(url + "/health", timeout=DEADLINE_S).status_code == 200)
    headers = {"authorization": "Bearer from-env"}
    body = {"prompt": "swordfish", "n_predict": 3, "ignore_eos": True}
    httpx.post(url + "/completion", json=body, headers=headers, timeout=DEADLINE_S)
    httpx.get(url + "/swordfish?from-env", timeout=DEADLINE_S)
    running.send_signal(signal.SIGTERM)
    assert running.wait(DEADLINE_S) == 0
    assert running.stderr is not None
    said = running.stderr.read()
    patterns = (
        r"ready: tiny, context 1024 tokens, 2 slots, layers: \d+ on CPU \(4.2 MiB\), mapped from the file",
        r"\S+Z POST /completion 200 \S+s prompt=\d+ cached=\d+ answer=3 end=length id=[0-9a-f]{32}",
        r"\S+Z GET - 401 \S+s",
        r"stopping: no new connections; 0 running, 30 s to finish",
        "stopped",
    )
    lines = said.splitlines()
    assert len(lines) == len(patterns), said
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert "swordfish" not in said and "from-env" not in said


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_process_ends_well(
    process: tuple[subprocess.Popen[str], str], sig: signal.Signals
) -> None:
    running, url = process
    wait_until(lambda: httpx.get(url + "/health", timeout=DEADLINE_S).status_code == 200)
    headers = {"authorization": "Bearer from-env"}
    body: dict[str, Any] = {
        "prompt": "x",
        "n_predict": 100,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }
    with (
        httpx.Client(base_url=url, headers=headers, timeout=DEADLINE_S) as client,
        client.stream("POST", "/completion", json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        running.send_signal(sig)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["tokens_predicted"] == 100
    assert running.wait(DEADLINE_S) == 0
    assert running.stderr is not None
    said = running.stderr.read()
    assert said.endswith("stopped\n") and "Traceback" not in said, said


def test_a_second_signal_does_not_wait(process: tuple[subprocess.Popen[str], str]) -> None:
    running, url = process
    wait_until(lambda: httpx.get(url + "/health", timeout=DEADLINE_S).status_code == 200)
    headers = {"authorization": "Bearer from-env"}
    body = {"prompt": "x", "ignore_eos": True, "stream": True, "n": 2}
    with (
        httpx.Client(base_url=url, headers=headers, timeout=DEADLINE_S) as client,
        client.stream("POST", "/completion", json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: not _accepts(url))
        running.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert "stopping" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert running.wait(DEADLINE_S) == 0
    assert running.stderr is not None
    said = running.stderr.read()
    assert said.endswith("stopped\n") and "Traceback" not in said, said


def _accepts(url: str) -> bool:
    try:
        httpx.get(url + "/health", timeout=DEADLINE_S)
    except httpx.TransportError:  # refused, or reset: it was in the backlog when the socket closed
        return False
    return True


def test_an_editor_s_infill_request(live: Live) -> None:
    """What llama.vim and llama.vscode send."""
    answer = live.post(
        "/infill",
        input_prefix="def f(x):\n    if x:\n",
        input_suffix="\n    return 1\n",
        input_extra=[{"text": "a = 1", "filename": "a.py", "time": [1, 2]}],
        prompt="        ",
        n_predict=16,
        n_indent=8,
        top_k=40,
        top_p=0.9,
        stream=False,
        samplers=["top_k", "top_p", "infill"],
        cache_prompt=True,
        t_max_prompt_ms=500,
        t_max_predict_ms=1000,
        response_fields=[
            "content",
            "timings/prompt_n",
            "truncated",
            "generation_settings/n_indent",
        ],
    )
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {
        *("content", "timings/prompt_n", "truncated", "generation_settings/n_indent"),
    }
    assert answer.json()["generation_settings/n_indent"] == 8


def test_cache_and_guesses_can_be_refused(live: Live) -> None:
    body: dict[str, Any] = {"prompt": "abcabcabcabcabc", "n_predict": 60, "temperature": 0}
    for path in ("/completion", "/v1/completions"):
        live.post(path, **body)
        usual = live.post(path, **body).json()["timings"]
        assert usual["cache_n"] > 0
        fresh = live.post(path, **body, cache_prompt=False).json()["timings"]
        assert (fresh["cache_n"], fresh["prompt_n"]) == (0, usual["cache_n"] + usual["prompt_n"])
        assert "draft_n" in usual
        alone = live.post(path, **body | {"speculative.n_max": 0}).json()["timings"]
        assert "draft_n" not in alone
    assert live.post("/completion", **body | {"speculative.p_min": 0.0}).status_code == 200
    nested = live.post("/completion", **body | {"speculative": {"n_max": 0, "p_min": 0.5}})
    assert nested.status_code == 200 and "draft_n" not in nested.json()["timings"], nested.text
    refused = live.post("/completion", **body | {"speculative": {"n_max": -1}})
    assert refused.json()["error"]["param"] == "speculative.n_max"
    refused = live.post("/completion", **body | {"speculative.n_max": -1})
    assert refused.json()["error"]["param"] == "speculative.n_max"


def test_the_order_of_the_samplers_is_the_client_s(live: Live) -> None:
    body: dict[str, Any] = {"prompt": "a", "n_predict": 4, "seed": 3, "temperature": 0}
    greedy = live.post("/completion", **body).json()["content"]
    # Without the temperature step the draw is random.
    texts = {live.post("/completion", **body, samplers=["top_k"]).json()["content"]}
    texts |= {
        live.post("/completion", **{**body, "seed": s}, samplers=["top_k"]).json()["content"]
        for s in range(5)
    }
    assert len(texts) > 1
    assert (
        live.post("/completion", **body, samplers=["temperature", "top_k"]).json()["content"]
        == greedy
    )
    refused = live.post("/completion", **body, samplers=["magic"])
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "samplers"


def metrics(live: Live) -> dict[str, float]:
    answer = live.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_what_happens(live: Live) -> None:
    before = metrics(live)
    live.post("/completion", prompt="metrics are counted", n_predict=12, temperature=0)
    after = metrics(live)
    grown = {name.removeprefix("llamacpp:"): after[name] - before[name] for name in after}
    assert grown["tokens_predicted_total"] == 12
    prompt = grown["prompt_tokens_total"] + grown["prompt_tokens_cached_total"]
    assert prompt == 1 + len("metrics are counted")
    assert grown["n_decode_total"] >= 2
    assert grown["tokens_predicted_seconds_total"] > 0 and grown["prompt_seconds_total"] > 0
    assert (
        0
        <= grown["spec_decode_num_accepted_tokens_total"]
        <= grown["spec_decode_num_draft_tokens_total"]
    )
    assert after["llamacpp:requests_processing"] == after["llamacpp:requests_deferred"] == 0

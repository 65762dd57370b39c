"""Fields that mean what they mean to llama-server, on a real (tiny) model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.llm import LLM
from tests.live_server import Live, running

DIALOG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d</s>e"},
]


@pytest.fixture(scope="module")
def live(tiny_gguf: Path) -> Iterator[Live]:
    with running(lambda: LLM(tiny_gguf, n_ctx=512, n_seq_max=4, n_threads=1)) as live:
        yield live


def chunks(live: Live, path: str, **body: Any) -> list[Any]:
    frames = live.post(path, **body, stream=True).text.split("\n\n")
    texts = [frame.removeprefix("data: ") for frame in frames if frame]
    return [json.loads(text) for text in texts if text != "[DONE]"]


@pytest.mark.parametrize("route", ["/completion", "/v1/completions"])
def test_the_text_of_the_template_gives_the_chats_ids(live: Live, route: str) -> None:
    """As with llama-server, whose prompts name control tokens; a chat's contents never do."""
    dialog = [*DIALOG[:3], {"role": "user", "content": "d"}]
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    chat = live.post("/v1/chat/completions", messages=dialog, **options).json()
    text = live.post("/apply-template", messages=dialog).json()["prompt"]
    for prompt in (text, "<s>" + text, [text]):
        answer = live.post(route, prompt=prompt, **options).json()
        n = answer.get("tokens_evaluated") or answer["usage"]["prompt_tokens"]
        assert n == chat["usage"]["prompt_tokens"]
        content = answer.get("content") or answer["choices"][0]["text"]
        assert content.strip() == chat["choices"][0]["message"]["content"].strip()


def test_what_a_user_typed_stays_text_in_a_chat_and_an_infill(live: Live) -> None:
    plain = [*DIALOG[:3], {"role": "user", "content": "de"}]
    counts = [
        live.post("/v1/chat/completions", messages=m, max_tokens=0).json()["usage"]["prompt_tokens"]
        for m in (DIALOG, plain)
    ]
    assert counts[0] - counts[1] == len("</s>")  # letter by letter in this vocabulary
    infill: dict[str, Any] = {
        "input_prefix": "a</s>",
        "input_suffix": "<s>b",
        "prompt": "c<step>",
        "n_predict": 0,
    }
    answer = live.post("/infill", **infill).json()
    assert answer["tokens_evaluated"] >= len("a</s><s>bc<step>")


def test_a_text_in_a_pair_is_text(live: Live) -> None:
    """[["7", 50]] makes llama-server write 7777, not token number 7."""
    body: dict[str, Any] = {"prompt": "x", "n_predict": 4, "temperature": 0}
    assert live.post("/completion", **body, logit_bias=[["7", 500]]).json()["content"] == "7777"
    banned = [["7", False], ["7", 500]]
    assert "7" not in live.post("/completion", **body, logit_bias=banned).json()["content"]


def test_soft_limits(live: Live) -> None:
    def ask(**given: Any) -> Any:
        return live.post("/completion", prompt="x", n_predict=6, seed=4, **given).json()

    greedy = ask(temperature=0)
    answer = ask(temperature=-1)
    assert answer["content"] == greedy["content"]
    assert answer["generation_settings"]["temperature"] == 0
    assert ask(top_k=-1, temperature=1)["content"] == ask(top_k=0, temperature=1)["content"]
    letters = ask(samplers="kt", temperature=1, top_k=2)
    assert letters["generation_settings"]["samplers"] == ["top_k", "temperature"]
    named = ask(samplers=["top-k", "temp"], temperature=1, top_k=2)
    assert letters["content"] == named["content"]


def test_seeds_of_64_bits_and_the_largest(live: Live) -> None:
    def ask(seed: int, n: int = 1) -> list[str]:
        body: dict[str, Any] = {
            "prompt": "x",
            "max_tokens": 8,
            "temperature": 2.0,
            "seed": seed,
            "n": n,
        }
        choices = live.post("/v1/completions", **body).json()["choices"]
        return [choice["text"] for choice in choices]

    assert ask(2**64 - 1) == ask(2**64 - 1)
    assert ask(2**32 + 5) == ask(5)
    assert ask(2**32 - 2, n=3) == [*ask(2**32 - 2), *ask(0), *ask(1)]


@pytest.mark.parametrize("field", ["repeat_last_n", "dry_penalty_last_n"])
def test_a_step_that_looks_back_for_ever_allocates_no_more_than_there_is(
    live: Live, field: str
) -> None:
    body: dict[str, Any] = {
        "prompt": "x",
        "n_predict": 4,
        "repeat_penalty": 1.5,
        "dry_multiplier": 1.0,
    }
    bodies: list[dict[str, Any]] = [{**body, "seed": 1, field: n} for n in (-1, 2**40)]
    answers = [live.post("/completion", **one) for one in bodies]
    assert [a.status_code for a in answers] == [200, 200]
    assert answers[0].json()["content"] == answers[1].json()["content"]


def test_log_probabilities_end_where_a_stop_string_cut_the_text(live: Live) -> None:
    base: dict[str, Any] = {"prompt": "def", "max_tokens": 20, "temperature": 0, "logprobs": 1}
    base["grammar"] = "root ::= [a-z ]+"
    text = live.post("/v1/completions", **base).json()["choices"][0]["text"]
    stop = text[6:9]
    cut = text.index(stop)
    base["stop"] = [stop]
    answer = live.post("/v1/completions", **base).json()["choices"][0]
    assert answer["text"] == text[:cut]
    assert "".join(answer["logprobs"]["tokens"]) == text[:cut]
    native = live.post("/completion", prompt="def", n_probs=1, **_native(base)).json()
    assert "".join(p["token"] for p in native["completion_probabilities"]) == text[:cut]
    streamed, shown = "", ""
    for chunk in chunks(live, "/v1/completions", **base):
        streamed += chunk["choices"][0]["text"]
        shown += "".join((chunk["choices"][0]["logprobs"] or {"tokens": []})["tokens"])
        assert shown == streamed
    assert streamed == text[:cut]


def _native(body: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in ("prompt", "logprobs")}


def test_an_echoed_prompt_keeps_its_scores(live: Live) -> None:
    body: dict[str, Any] = {
        "prompt": "def f",
        "max_tokens": 3,
        "temperature": 0,
        "logprobs": 0,
        "echo": True,
    }
    choice = live.post("/v1/completions", **body).json()["choices"][0]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    frames = chunks(live, "/v1/completions", **body)
    shown = [t for c in frames for t in (c["choices"][0]["logprobs"] or {"tokens": []})["tokens"]]
    assert shown == choice["logprobs"]["tokens"]


def test_ignored_ends_are_among_the_biases(live: Live) -> None:
    body: dict[str, Any] = {
        "prompt": "x",
        "n_predict": 1,
        "ignore_eos": True,
        "logit_bias": [[9, 1.5]],
    }
    settings = live.post("/completion", **body).json()["generation_settings"]
    assert settings["logit_bias"][0] == {"token": 9, "bias": 1.5}
    assert {"token": 2, "bias": None} in settings["logit_bias"]
    plain = live.post("/completion", prompt="x", n_predict=1).json()["generation_settings"]
    assert plain["logit_bias"] == []


def test_response_fields_have_their_whole_paths(live: Live) -> None:
    fields = ["content", "timings/prompt_n", "nothing", "generation_settings/n_predict"]
    answer = live.post("/completion", prompt="x", n_predict=2, response_fields=fields).json()
    assert list(answer) == ["content", "timings/prompt_n", "generation_settings/n_predict"]
    assert answer["generation_settings/n_predict"] == 2
    fields = ["usage/total_tokens", "object"]
    messages = DIALOG[:2]
    chat = live.post(
        "/v1/chat/completions", messages=messages, max_tokens=1, response_fields=fields
    ).json()
    assert chat.keys() == set(fields)
    assert not math.isnan(chat["usage/total_tokens"])


@pytest.mark.parametrize("route", ["/completion", "/v1/completions", "/v1/chat/completions"])
def test_progress_and_timings_of_a_stream(live: Live, route: str) -> None:
    """The rules of llama-server's own tests (test_chat_completion.py)."""
    text = route + " progress is told" * 18
    body: dict[str, Any] = {"prompt": text, "messages": [{"role": "user", "content": text}]}
    del body["prompt" if "chat" in route else "messages"]
    body |= {"max_tokens": 5, "temperature": 0, "return_progress": True, "ignore_eos": True}
    for repeated in (False, True):
        seen = chunks(live, route, **body, timings_per_token=True)
        steps = [c["prompt_progress"] for c in seen if "prompt_progress" in c]
        assert steps[0]["processed"] == steps[0]["cache"]
        assert (steps[0]["cache"] > 200) == repeated
        assert len({(s["total"], s["cache"]) for s in steps}) == 1
        done = [s["processed"] for s in steps]
        assert done == sorted(set(done)) and done[-1] == steps[0]["total"]
        assert all(s["time_ms"] >= 0 for s in steps)
        times = [c["timings"] for c in seen if "prompt_progress" in c]
        assert times[0]["prompt_n"] == times[0]["prompt_ms"] == times[0]["predicted_n"] == 0
        assert [t["prompt_n"] for t in times] == [n - steps[0]["cache"] for n in done]
        counts = [c["timings"]["predicted_n"] for c in seen if "timings" in c and c not in steps]
        assert counts == sorted(counts) and counts[-1] == 5
        assert len(counts) >= 5
    plain = chunks(live, route, **{**body, "return_progress": False})
    assert not any("prompt_progress" in c for c in plain)
    assert sum("timings" in c for c in plain) == 1


def test_verbose_adds_what_llama_server_would_say(live: Live) -> None:
    body: dict[str, Any] = {"messages": DIALOG[:2], "max_tokens": 3, "temperature": 0}
    answer = live.post("/v1/chat/completions", **body, verbose=True).json()
    more = answer["__verbose"]
    assert more["content"] == answer["choices"][0]["message"]["content"]
    assert more["prompt"].startswith("<s>") and more["prompt"].count("<step>") == 2
    assert more["generation_settings"]["temperature"] == 0
    *_, last = chunks(live, "/v1/chat/completions", **body, verbose=True)
    assert last["__verbose"]["tokens_predicted"] == 3
    assert "__verbose" not in live.post("/v1/chat/completions", **body).json()


def test_the_last_chunk_with_usage_has_the_timings_too(live: Live) -> None:
    body: dict[str, Any] = {"messages": DIALOG[:2], "max_tokens": 3}
    *_, last = chunks(live, "/v1/chat/completions", **body, stream_options={"include_usage": True})
    assert last["choices"] == [] and last["timings"]["predicted_n"] == 3

"""What llama-server tells of itself, and its other faces, with a real (tiny) model.

Shapes and values are llama-server's (llama.cpp's tools/server/tests/unit: test_basic.py, test_metrics.py,
test_slot_save.py, test_security.py, test_embedding.py, test_chat_completion.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama.errors import InvalidRequestError
from codellama.llm import LLM
from codellama.server.config import ServerConfig
from tests.live_server import Live, running, wait_until

BY_POSITION = "spec_decode_num_accepted_tokens_per_pos_total"
LONG = "def fibonacci(n):\n    return n if n < 2 else"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def live(tiny_gguf: Path, folder: Path) -> Iterator[Live]:
    config = ServerConfig(
        port=0,
        aliases=("alias", "other"),
        tags=("chat",),
        slot_save_path=folder,
        cors_origins=("localhost",),
        sampling={"seed": 42},
    )

    def load() -> LLM:
        return LLM(tiny_gguf, n_ctx=256, n_seq_max=2, n_threads=1, embeddings=True)

    with running(load, config) as live:
        yield live


def metrics(live: Live) -> dict[str, float]:
    lines = live.get("/metrics").text.splitlines()
    pairs = [line.removeprefix("llamacpp:").split() for line in lines if line[0] != "#"]
    return {name: float(value) for name, value in pairs}


def test_props(live: Live, tiny_gguf: Path) -> None:
    props = live.get("/props").json()
    assert props["model_path"] == str(tiny_gguf)
    assert props["total_slots"] == 2
    assert props["model_alias"] == "alias"
    assert props["default_generation_settings"]["n_ctx"] == 256
    assert props["default_generation_settings"]["params"]["seed"] == 42
    assert (props["bos_token"], props["eos_token"]) == ("<s>", "</s>")
    assert (props["endpoint_slots"], props["endpoint_props"]) == (True, False)
    assert props["modalities"] == {"vision": False, "video": False, "audio": False}
    assert props["is_sleeping"] is False


def test_what_is_switched_off_is_a_501(live: Live, tiny_gguf: Path) -> None:
    assert live.post("/props").status_code == 501
    config = ServerConfig(port=0, slots=False, metrics=False, props=True)
    with running(lambda: LLM(tiny_gguf, n_ctx=64, n_threads=1), config) as other:
        assert other.get("/slots").status_code == 501
        assert other.get("/metrics").status_code == 501
        assert other.post("/props", anything=1).json() == {"success": True}
        refused = other.post("/slots/0?action=save", filename="x")
        assert (refused.status_code, refused.json()["error"]["type"]) == (
            501,
            "not_supported_error",
        )
        assert "slot_save_path" in refused.json()["error"]["message"]


def test_slots_tell_what_runs(live: Live) -> None:
    idle = live.get("/slots").json()
    assert [(s["id"], s["is_processing"], s["n_ctx"]) for s in idle] == [
        (0, False, 256),
        (1, False, 256),
    ]
    assert "params" not in idle[0]
    body = {"prompt": "x", "ignore_eos": True, "context_shift": True, "stream": True, "top_k": 7}
    with live.client() as http, http.stream("POST", "/completion", json=body) as busy:
        lines = busy.iter_lines()
        assert next(lines)
        found = [s for s in live.get("/slots").json() if s["is_processing"]]
        assert len(found) == 1
        assert found[0]["params"]["top_k"] == 7
        assert found[0]["next_token"][0]["n_decoded"] > 0
        assert isinstance(found[0]["id_task"], int)
        assert live.get("/slots?fail_on_no_slot=1").status_code == 200
        with http.stream("POST", "/completion", json=body) as second:
            more = second.iter_lines()
            assert next(more)
            assert live.get("/slots?fail_on_no_slot=1").status_code == 503
    wait_until(lambda: not any(s["is_processing"] for s in live.get("/slots").json()))


def test_the_model_has_the_names_it_was_given(live: Live, tiny_gguf: Path) -> None:
    model = live.get("/v1/models").json()["data"][0]
    assert (model["id"], model["aliases"], model["tags"]) == ("alias", ["alias", "other"], ["chat"])
    for name in ("other", tiny_gguf.stem):
        assert live.get(f"/v1/models/{name}").json()["id"] == "alias"
    assert live.get("/v1/models/nobody").status_code == 404
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/completion", {"prompt": "x", "n_predict": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
        ("/v1/embeddings", {"input": "x"}),
    ]
    for path, body in asked:
        assert live.post(path, **body).json()["model"] == "alias"


def test_metrics(live: Live) -> None:
    before = metrics(live)
    assert live.post("/v1/embeddings", input=["hello", "world"]).status_code == 200
    after = metrics(live)
    assert after["prompt_tokens_total"] > before["prompt_tokens_total"]
    assert after["n_decode_total"] > before["n_decode_total"]
    assert after["tokens_predicted_total"] == before["tokens_predicted_total"]
    assert live.post("/completion", prompt=LONG, n_predict=8, temperature=0).status_code == 200
    rates, quiet = metrics(live), metrics(live)
    assert rates["predicted_tokens_seconds"] > 0
    assert rates["prompt_tokens_seconds"] > 0
    assert quiet["predicted_tokens_seconds"] == quiet["prompt_tokens_seconds"] == 0
    assert rates["n_tokens_max"] >= 8
    assert 1 <= rates["n_busy_slots_per_decode"] <= 2
    assert rates.keys() >= {"spec_decode_num_drafts_total", "requests_deferred"}
    repeated: dict[str, Any] = {
        "json_schema": {"const": "x" * 40},
        "n_predict": 60,
    }  # guessed ahead
    assert live.post("/completion", prompt="x", **repeated).status_code == 200
    counted = metrics(live)
    by_position = [counted[name] for name in counted if name.startswith(BY_POSITION)]
    assert sum(by_position) == counted["spec_decode_num_accepted_tokens_total"] > 0
    assert by_position == sorted(by_position, reverse=True)
    assert f'{BY_POSITION}{{position="0"}}' in counted
    started = int(live.get("/metrics").headers["Process-Start-Time-Unix"])
    assert 0 <= time.time() - started < 3600


def test_a_slot_is_saved_erased_and_restored(live: Live, folder: Path) -> None:
    body: dict[str, Any] = {"prompt": LONG, "n_predict": 4, "temperature": 0}
    first = live.post("/completion", **body).json()
    slot = f"/slots/{first['id_slot']}"
    saved = live.post(f"{slot}?action=save", filename="one.bin").json()
    assert saved["n_saved"] >= first["tokens_evaluated"]
    assert saved["n_written"] == (folder / "one.bin").stat().st_size
    assert httpx.post(f"{live.url}{slot}?action=erase").json()["n_erased"] == saved["n_saved"]
    again = live.post("/completion", **body).json()
    assert again["timings"]["cache_n"] == 0
    assert again["content"] == first["content"]
    slot = f"/slots/{again['id_slot']}"
    assert httpx.post(f"{live.url}{slot}?action=erase").status_code == 200
    restored = live.post("/slots/1?action=restore", filename="one.bin").json()
    assert (restored["n_restored"], restored["n_read"]) == (saved["n_saved"], saved["n_written"])
    reused = live.post("/completion", **body).json()
    assert reused["timings"]["prompt_n"] == 1
    assert reused["content"] == first["content"]


def test_a_slot_that_is_free_can_be_asked_for(live: Live) -> None:
    for slot, got in ((1, 1), (0, 0), (3, 1), (-1, None)):
        asked = live.post("/completion", prompt="x", n_predict=1, id_slot=slot)
        assert asked.json()["id_slot"] == got or got is None
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    told = live.post("/v1/chat/completions", **chat, id_slot=0, verbose=True).json()
    assert told["__verbose"]["id_slot"] == 0


def test_a_dialog_that_is_too_long_is_told_so_whatever_else_is_wrong(live: Live) -> None:
    wrong = [{"role": "system", "content": "x"}, {"role": "user", "content": "hello"}]
    short, long = (live.post("/v1/chat/completions", messages=wrong * n).json() for n in (2, 200))
    assert short["error"]["type"] == "invalid_request_error"
    assert long["error"]["type"] == "exceed_context_size_error"
    assert long["error"]["n_prompt_tokens"] > long["error"]["n_ctx"] == 256


@pytest.mark.parametrize(
    "name", ["", "../x", "/x", "a/b", "a\\b", ".x", "x.", "x ", "x\n", "a\0", "x" * 201, "-x"]
)
def test_states_stay_in_their_folder(live: Live, name: str) -> None:
    for action in ("save", "restore"):
        refused = live.post(f"/slots/0?action={action}", filename=name)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "filename")


def test_what_is_no_state_or_no_slot_is_a_400(live: Live, folder: Path) -> None:
    (folder / "no.bin").write_bytes(b"GGUF" * 100)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/slots/0?action=restore", {"filename": "no.bin"}),
        ("/slots/0?action=restore", {"filename": "absent.bin"}),
        ("/slots/0?action=restore", {}),
        ("/slots/2?action=erase", {"filename": "x"}),
        ("/slots/-1?action=erase", {"filename": "x"}),
        ("/slots/x?action=erase", {"filename": "x"}),
        ("/slots/0?action=dance", {"filename": "x"}),
    ]
    for path, body in asked:
        assert live.post(path, **body).status_code == 400, path


def test_an_input_of_parts_has_the_vector_of_its_text(live: Live) -> None:
    part = {"content": [{"type": "text", "text": "hello"}]}
    plain, alone, listed = (
        live.post("/v1/embeddings", input=given).json()["data"][-1]["embedding"]
        for given in ("hello", part, ["x", part])
    )
    assert alone == pytest.approx(plain, abs=1e-3)
    assert listed == pytest.approx(plain, abs=1e-3)
    wrong: list[Any] = [{"content": []}, {"content": [{"type": "image_url"}]}, {"a": "b"}]
    for bad in wrong:
        assert live.post("/v1/embeddings", input=bad).status_code == 400


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:8080", True),
        ("http://127.0.0.1:3000", True),
        ("https://[::1]:3000", True),
        ("http://web.mydomain.fr", False),
        ("http://localhost.mydomain.fr", False),
        ("http://mydomain.fr/localhost:80", False),
        ("null", False),
    ],
)
def test_localhost_is_every_page_of_this_machine(live: Live, origin: str, allowed: bool) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = httpx.options(live.url + "/completion", headers=headers)
    assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_the_assistants_turn_goes_on(live: Live) -> None:
    asked: list[Any] = [{"role": "user", "content": "hi"}]
    begun = [*asked, {"role": "assistant", "content": "Well,  I"}]

    def prompt(**body: Any) -> str:
        return str(live.post("/apply-template", **body).json()["prompt"])

    assert prompt(messages=begun) == prompt(messages=asked) + "Well,  I"
    explicit = {"continue_final_message": True, "add_generation_prompt": False}
    assert prompt(messages=begun, **explicit) == prompt(messages=begun)
    body: dict[str, Any] = {"messages": begun, "max_tokens": 6, "temperature": 0}
    chat = live.post("/v1/chat/completions", **body).json()
    text = live.post("/completion", prompt=prompt(messages=begun), n_predict=6, temperature=0)
    assert chat["choices"][0]["message"]["content"] == text.json()["content"]
    bodies: list[dict[str, Any]] = [
        {"messages": begun, "continue_final_message": True, "add_generation_prompt": True},
        {"messages": begun, "continue_final_message": True},
        {"messages": asked, **explicit},
        {"messages": asked, "add_generation_prompt": False},
        {"messages": [*begun, begun[-1]]},
    ]
    for wrong in bodies:
        for path in ("/v1/chat/completions", "/apply-template"):
            assert live.post(path, **wrong).status_code == 400, wrong


def test_the_exact_ids_of_a_dialog(tiny_gguf: Path) -> None:
    dialog: list[Any] = [
        {"role": "system", "content": "Be <step> brief"},
        {"role": "user", "content": "one " * 30},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]

    def load() -> LLM:
        return LLM(tiny_gguf, n_ctx=256, n_threads=1)

    with load() as llm, running(load) as live:
        asked: dict[str, Any] = {"messages": dialog, "return_tokens": True}
        answer = live.post("/apply-template", **asked).json()
        assert [t["id"] for t in answer["tokens"]] == list(llm.chat_prompt(dialog).tokens)
        control = [t["piece"] for t in answer["tokens"] if t.get("control")]
        assert control == ["<s>", *["<step>"] * 4]
        assert answer["dropped_messages"] == []
        short = live.post(
            "/apply-template", **asked, context_policy="drop_oldest", max_tokens=120
        ).json()
        assert short["dropped_messages"] == [1, 2]
        kept = llm.chat_prompt([dialog[0], dialog[3]])
        assert [t["id"] for t in short["tokens"]] == list(kept.tokens)
        assert live.post("/apply-template", messages=dialog).json().keys() == {"prompt"}
        wrong = live.post("/apply-template", **asked, context_policy="drop")
        assert wrong.status_code == 400


def test_props_say_what_the_model_can(live: Live) -> None:
    assert live.get("/props").json()["capabilities"] == {"chat": True, "infill": True}


def test_settings_of_the_faces_are_checked(tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {"aliases": ("",)},
        {"slot_save_path": tmp_path / "absent"},
        {"host": "127.0.0.1,0.0.0.0"},
    ]
    for wrong in options:
        with pytest.raises(InvalidRequestError):
            ServerConfig(**wrong)
    assert ServerConfig(host="127.0.0.1,::1").hosts == ("127.0.0.1", "::1")

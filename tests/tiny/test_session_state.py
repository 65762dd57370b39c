"""A conversation saved with its KV state goes on in another process without being decoded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama import LLM, ContextLengthError, InvalidRequestError
from codellama.cli import main
from codellama.cli.keeper import Keeper, SessionFolder
from codellama.running.kv_file import StaleStateError
from codellama.session import Session

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
QUESTION = "How do I reverse a list in Python, and how do I do it without changing the list?"


def saved(path: Path, model: Path, **options: Any) -> Session:
    with LLM(model, n_threads=1, n_seq_max=2, **options) as llm:
        talk = Session(llm, "Be brief.")
        talk.ask(QUESTION, **GREEDY).text()
        talk.save(path, kv=True)
    return talk


def test_it_resumes_without_prefill(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    before = saved(path, tiny_gguf)
    with LLM(tiny_gguf, n_threads=1, n_seq_max=2, cache_ram=0) as llm:
        fresh = Session(llm)
        fresh._turns, fresh._system = list(before._turns), "Be brief."
        want = fresh.ask("And a tuple?", **GREEDY)
        text = want.text()
        assert want.usage.cached_tokens == 0
    with LLM(tiny_gguf, n_threads=1, n_seq_max=2, cache_ram=0) as llm:
        talk = Session.load(path, llm)
        assert talk.notice is None
        assert talk.messages == before.messages
        answer = talk.ask("And a tuple?", **GREEDY)
        assert answer.text() == text
        assert answer.usage.cached_tokens > len(QUESTION)


def test_other_settings_decode_again_with_a_notice(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    saved(path, tiny_gguf)
    with LLM(tiny_gguf, n_threads=1, n_seq_max=2, type_k="f32") as llm:
        talk = Session.load(path, llm)
        assert talk.notice is not None
        assert "KV settings" in talk.notice
        answer = talk.ask("And a tuple?", **GREEDY)
        answer.text()
        assert answer.usage.cached_tokens == 0


def test_saving_without_the_state_removes_the_old_one(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    talk = saved(path, tiny_gguf)
    assert (tmp_path / "talk.json.kv").exists()
    talk.save(path)
    assert not (tmp_path / "talk.json.kv").exists()


def test_states_by_tokens(tiny_gguf: Path, tmp_path: Path) -> None:
    with LLM(tiny_gguf, n_threads=1, n_seq_max=1) as llm:
        assert not llm.save_state([1, 70, 71], tmp_path / "none.kv")
        tokens = [1, *range(70, 170)]
        want = llm.complete(tokens, **GREEDY).result().choices[0].tokens
        assert llm.save_state(tokens, tmp_path / "some.kv")
        llm.load_state(tmp_path / "some.kv")
        llm.complete([1, 60], **GREEDY).result()
        again = llm.complete(tokens, **GREEDY).result()
        assert again.usage.cached_tokens == len(tokens) - 1
        assert again.choices[0].tokens == want
    with LLM(tiny_gguf, n_ctx=64, n_seq_max=1, n_threads=1) as llm, pytest.raises(StaleStateError):
        llm.load_state(tmp_path / "some.kv")


def test_a_long_conversation_drops_its_oldest_turns_when_asked(tiny_gguf: Path) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    with LLM(tiny_gguf, n_ctx=256, n_seq_max=1, n_threads=1) as llm:
        strict = Session(llm, "Be brief.")
        lenient = Session(llm, "Be brief.", "drop_oldest")
        with pytest.raises(ContextLengthError):
            for _ in range(20):
                strict.ask("a question of some length", **options).text()
        dropped = []
        for _ in range(8):
            answer = lenient.ask("a question of some length", **options)
            answer.text()
            dropped.append(answer.dropped)
        assert dropped[0] == 0
        assert dropped == sorted(dropped)
        assert dropped[-1] >= 2
        assert len(lenient.messages) == 17, "nothing is forgotten"
        with pytest.raises(ContextLengthError):
            lenient.ask("x" * 300, **options)
        with pytest.raises(InvalidRequestError, match="context_policy"):
            llm.chat("x", context_policy="shift")  # type: ignore[arg-type]


def test_positions_can_be_stretched(tiny_gguf: Path) -> None:
    prompt = "def add(a, b):\n    return a + b\n" * 4
    answers = []
    ropes: list[dict[str, Any]] = [
        {},
        {"rope_freq_base": 10000.0},
        {"rope_freq_base": 500.0},
        {"rope_scaling": "linear", "rope_freq_scale": 0.25},
        {"rope_scaling": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": 256},
    ]
    for rope in ropes:
        with LLM(tiny_gguf, n_ctx=512, n_seq_max=1, n_threads=1, **rope) as llm:
            answers.append(llm.complete(prompt, **GREEDY).result().choices[0].tokens)
    assert answers[0] == answers[1], "the file's own value"
    assert len(set(answers)) == 4


def test_a_conversation_of_the_command_line_goes_on_without_prefill(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    words = ["chat", str(tiny_gguf), "--session", "work", "-p", 5 * QUESTION, "-t", "1"]
    assert CliRunner().invoke(main, [*words, "-n", "12", "--temp", "0"]).exit_code == 0
    with LLM(tiny_gguf, n_threads=1, n_seq_max=1) as llm:
        keeper = Keeper(SessionFolder(), "work")
        talk = keeper.open_session(llm, None)
        assert talk.notice is None
        answer = talk.ask("And a tuple?", **GREEDY)
        answer.text()
        keeper.save(talk)
        keeper.close(talk)
    assert answer.usage.cached_tokens > 5 * len(QUESTION)
    assert answer.timings.prompt_n < 120, "the new question and what is around it"
    assert len(SessionFolder().find("work").messages()) == 4

"""What the page survives: a server that is away, loads or is killed, a wrong key, a full context."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.llm import LLM
from codellama.server.config import ServerConfig
from codellama.server.run import bind, build, url_of
from codellama.server.serving import Loading
from tests.browser.driver import Tab
from tests.browser.killable import GONE, SLOW_S, Killable, loads
from tests.fake_llm import FakeLLM, say
from tests.live_server import Live, running, wait_until


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    server = Killable(tmp_path)
    yield server
    server.kill()


def test_a_server_that_is_killed_in_the_middle(tab: Tab, killable: Killable) -> None:
    tab.expected = GONE
    wait_until(lambda: loads(tab, killable.url), SLOW_S)
    tab.ready(SLOW_S)
    settings = '{"max_tokens": 900, "ignore_eos": true}'
    tab.page.evaluate(f"localStorage.setItem('codellama-sampling', '{settings}')")
    tab.ask("Write a long story about a list of numbers in Python.")
    answer = tab.page.locator(".assistant .text")
    wait_until(lambda: answer.count() == 1 and len(answer.inner_text()) > 20)
    killable.kill()
    tab.see("The answer was cut off. What had come is kept.")
    tab.see("The server cannot be reached.")
    shown = answer.inner_text()
    assert len(shown) > 20
    killable.start()
    tab.ready(SLOW_S)
    assert answer.inner_text() == shown
    assert tab.page.locator(".notice").count() == 0
    tab.press("Continue")
    wait_until(lambda: len(answer.inner_text()) > len(shown))
    assert answer.inner_text().startswith(shown[:-1])
    kept = tab.kept()
    assert [turn["role"] for turn in kept] == ["user", "assistant"]


def test_a_tab_that_is_closed_in_the_middle(profile: Any, scripted: Live, llm: FakeLLM) -> None:
    llm.hold = True
    first = Tab(profile).open(scripted.url).ready()
    first.ask("hi")
    first.page.locator(".assistant .text", has_text="hello").wait_for()
    first.page.close()
    llm.hold = False
    second = Tab(profile).open(scripted.url).ready()
    second.page.get_by_role("link", name="hi").click()
    second.see("The answer was cut off. What had come is kept.")
    assert second.shown() == [("user", "hi"), ("assistant", "hello")]
    second.check()


def test_loading_has_a_bar(tab: Tab, llm: FakeLLM) -> None:
    tab.expected = GONE
    loading, loaded = Loading(), threading.Event()

    def load() -> FakeLLM:
        loading(2, 5)
        loaded.wait()
        return llm

    listener = bind("127.0.0.1", 0)
    server = build(load, ServerConfig(port=0), loading=loading)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    live = Live(url_of(listener), server, thread)
    try:
        tab.open(live.url).see("Loading the model 40 %")
        assert tab.page.locator("#state progress").get_attribute("value") == "0.4"
        assert tab.page.get_by_role("button", name="Send").is_disabled()
    finally:
        loaded.set()
        live.stop()
        live.join()
        listener.close()


def test_a_key_is_asked_for_and_kept_in_the_tab_only(profile: Any, llm: FakeLLM) -> None:
    with running(lambda: llm, ServerConfig(port=0, api_keys=("secret",))) as live:
        tab = Tab(profile)
        tab.expected = GONE
        tab.open(live.url).see("This server wants a key.")
        dialog = tab.page.get_by_role("dialog")
        dialog.locator("input").fill("guess")
        tab.press("Use this key")
        tab.see("The server does not accept this key.")
        dialog.locator("input").fill("secret")
        tab.press("Use this key")
        wait_until(lambda: tab.state == "ready")
        tab.page.reload()
        tab.ready()
        everything = "JSON.stringify([{...localStorage}, document.cookie])"
        assert "secret" not in tab.page.evaluate(everything)
        other = Tab(profile)
        other.expected = GONE
        other.open(live.url).see("This server wants a key.")
        tab.check()


def test_a_full_context_says_which_turns_would_go(tab: Tab, served: Live, demo: LLM) -> None:
    tab.expected = ("400",)
    tab.open(served.url).ready()
    tab.page.evaluate("localStorage.setItem('codellama-sampling', '{\"max_tokens\": 20}')")
    many = " word" * 400
    for n in (1, 2):
        tab.ask(f"Question {n}{many if n == 1 else ''}")
        tab.answered("", n)
    tab.ask(f"Question 3{many}{many[:-600]}")
    tab.see("tokens, and the context holds 1,024. The oldest turns would be kept from the model")
    going = tab.page.locator(".problem li").all_inner_texts()
    assert going[0].startswith("You: Question 1")
    assert len(going) % 2 == 0
    assert len(tab.kept()) == 5
    tab.press("Leave them out")
    tab.see(f"The model did not see the first {len(going)} turns")
    tab.answered("", 3)
    assert len(tab.kept()) == 6
    tab.ask(many * 3)
    tab.see("This question is too long by itself")


def test_two_tabs_lose_nothing(profile: Any, scripted: Live, llm: FakeLLM) -> None:
    one = Tab(profile).open(scripted.url).ready()
    one.ask("first")
    one.answered("hello")
    two = Tab(profile).open(scripted.url, one.page.url.partition("#")[2]).ready()
    two.answered("hello")
    llm.script = say("other")
    one.page.fill("#question", "of one")
    two.page.fill("#question", "of two")
    one.page.press("#question", "Enter")
    two.page.press("#question", "Enter")
    wait_until(lambda: len(one.kept()) == 6)
    wait_until(lambda: [t["text"] for t in one.kept()].count("other") == 2)
    assert sorted(t["text"] for t in one.kept()) == sorted(
        ["first", "hello", "of one", "of two", "other", "other"]
    )
    two.press("Delete")
    two.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    wait_until(lambda: one.page.locator(".list li").count() == 0)
    wait_until(lambda: one.shown() == [])
    one.check()
    two.check()


def test_an_answer_is_seen_in_both_tabs_while_it_is_written(
    profile: Any, scripted: Live, llm: FakeLLM
) -> None:
    one = Tab(profile).open(scripted.url).ready()
    llm.hold = True
    one.ask("hi")
    one.page.locator(".assistant .text", has_text="hello").wait_for()
    two = Tab(profile).open(scripted.url, one.page.url.partition("#")[2]).ready()
    two.page.locator(".assistant .text", has_text="hello").wait_for()
    two.page.wait_for_timeout(900)  # as long as a tab is waited for that may be writing
    assert two.page.get_by_text("The answer was cut off").count() == 0
    llm.release()
    one.answered("hello")
    two.answered("hello")


def test_two_tabs_that_go_on_with_one_answer(profile: Any, scripted: Live, llm: FakeLLM) -> None:
    one = Tab(profile).open(scripted.url).ready()
    llm.hold = True
    one.ask("hi")
    one.page.locator(".assistant .text", has_text="hello").wait_for()
    one.press("Stop")
    one.see("You stopped this answer.")
    two = Tab(profile).open(scripted.url, one.page.url.partition("#")[2]).ready()
    two.see("You stopped this answer.")
    llm.script = say(" of one")
    one.press("Continue")
    one.page.locator(".assistant .text", has_text="hello of one").wait_for()
    two.see("This answer is being written in another tab.")
    assert two.page.get_by_role("button", name="Continue").count() == 0
    llm.script = say(" of two")  # the same turn, all the same, from a page that is behind
    behind = """async () => {
      const { store } = await import('/page/store.js');
      const { conversation } = (await store.turns((await store.conversations())[0].id))[0];
      const [turn] = (await store.turns(conversation)).filter(({ role }) => role === 'assistant');
      return (await store.write({ ...turn, text: 'hello of two' })) !== turn.id;
    }"""
    assert two.page.evaluate(behind)
    llm.release()
    wait_until(lambda: {t["text"]: t["state"] for t in one.kept()}["hello of one"] != "writing")
    texts = sorted(turn["text"] for turn in one.kept())
    assert texts == ["hello of one", "hello of two", "hi"]
    one.check()
    two.check()


def test_a_browser_that_keeps_nothing(tab: Tab, scripted: Live) -> None:
    refuse = "indexedDB.open = () => { throw new Error('not here'); };"
    tab.page.add_init_script(refuse)
    tab.open(scripted.url).see("This browser keeps nothing for this page")
    tab.page.locator("#text").wait_for()
    tab.page.get_by_role("link", name="Tokens").click()
    tab.page.locator("#tokentext").wait_for()
    assert tab.page.get_by_role("link", name="Chat").count() == 0


def test_a_page_that_is_mounted_below_a_prefix(tab: Tab, llm: FakeLLM) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from codellama.server.app import create_app

    inner = create_app(lambda: llm)
    app = Starlette(routes=[Mount("/models/llama", inner)], lifespan=inner.router.lifespan_context)
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        wait_until(lambda: server.started)
        tab.open(url_of(listener) + "/models/llama").ready()
        tab.ask("hi")
        tab.answered("hello")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()

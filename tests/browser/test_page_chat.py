"""The chat in Chromium, with scripted answers: what a person does, what the server hears, what stays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from codellama.engine.request import FinishReason
from tests.browser.driver import Tab
from tests.fake_llm import FakeLLM, say
from tests.live_server import Live, wait_until

FENCED = "Like this:\n\n```python\nprint('hi')\n```\n"
ANSWER = "hello"
FOCUSED = "(e => e.getAttribute('aria-label') || e.textContent)(document.activeElement)"


def heard(llm: FakeLLM) -> list[str]:
    """The prompts so far, `role: content` lines."""
    return [llm.tokenizer.decode(call.prompt.tokens) for call in llm.calls]


@pytest.fixture
def chat(tab: Tab, scripted: Live) -> Tab:
    return tab.open(scripted.url).ready()


def test_question_and_answer(chat: Tab, llm: FakeLLM) -> None:
    chat.ask("hi")
    chat.answered(ANSWER)
    assert chat.shown() == [("user", "hi"), ("assistant", ANSWER)]
    assert heard(llm) == ["user: hi\n"]
    figures = chat.page.locator(".assistant .figures").inner_text()
    assert re.fullmatch(r"5 tokens, [\d.]+ tokens/s, 990 of 1,000 tokens left", figures), figures
    chat.ask("again")
    chat.answered(ANSWER, 2)
    assert heard(llm)[1] == "user: hi\nassistant: hello\nuser: again\n"
    assert chat.page.locator(".list li").all_inner_texts() == ["hi"]


def test_what_was_there_is_there_again(chat: Tab, llm: FakeLLM) -> None:
    chat.ask("hi")
    chat.answered(ANSWER)
    chat.page.fill("#question", "a draft")
    before = chat.shown()
    chat.page.reload()
    chat.answered(ANSWER)
    assert chat.shown() == before
    assert chat.page.input_value("#question") == "a draft"


def test_html_in_an_answer_is_text(chat: Tab, llm: FakeLLM) -> None:
    evil = (
        "<script>window.hacked = 1</script>\n\n<img src=x onerror='window.hacked = 2'>\n\n"
        "a <b onclick='hacked'>b</b> [link](javascript:window.hacked=3) ![i](http://evil.example/i)\n\n"
        "<iframe src='http://evil.example'></iframe>\n\n```html\n<script>window.hacked = 4</script>\n```"
    )
    llm.script = say(evil)
    chat.ask(evil)
    chat.answered("window.hacked = 4")
    (_, asked), (_, said) = chat.shown()
    for text in (asked, said):
        assert "<script>window.hacked = 1</script>" in text
        assert "<iframe" in text
        assert "<script>window.hacked = 4</script>" in text
    assert chat.page.evaluate("window.hacked") is None
    inside = ".turn :is(script, img, iframe, b, [onclick], [onerror], a[href^=javascript])"
    assert chat.page.locator(inside).count() == 0


def test_markdown(chat: Tab, llm: FakeLLM) -> None:
    llm.script = say("# Head\n\n- one\n- *two*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n", FENCED)
    chat.ask("hi")
    chat.answered("Head")
    text = chat.page.locator(".assistant .text")
    assert text.locator("h3").inner_text() == "Head"
    assert text.locator("li").all_inner_texts() == ["one", "two"]
    assert text.locator("td").all_inner_texts() == ["1", "2"]
    assert text.locator("pre code .hljs-string").inner_text() == "'hi'"


def test_code_is_copied_and_saved(chat: Tab, llm: FakeLLM, profile: Any) -> None:
    profile.grant_permissions(["clipboard-read", "clipboard-write"])
    llm.script = say(FENCED)
    chat.ask("hi")
    chat.answered("Like this")
    block = chat.page.locator(".code")
    block.get_by_role("button", name="Copy").click()
    block.get_by_role("button", name="Copied").wait_for()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "print('hi')"
    with chat.page.expect_download() as download:
        block.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == "code.py"
    assert Path(download.value.path()).read_text() == "print('hi')"


def test_stop_keeps_what_came_and_continue_goes_on_with_it(chat: Tab, llm: FakeLLM) -> None:
    llm.hold = True
    chat.ask("hi")
    chat.page.locator(".assistant .text", has_text="hello").wait_for()
    chat.press("Stop")
    chat.see("You stopped this answer.")
    wait_until(lambda: len(llm.cancelled) == 1)
    llm.hold, llm.script = False, say(" and more")
    chat.press("Continue")
    chat.answered("hello and more")
    assert heard(llm)[1] == "user: hi\nassistant: hello\n"
    assert [turn["text"] for turn in chat.kept()] == ["hi", "hello and more"]


def test_escape_stops(chat: Tab, llm: FakeLLM) -> None:
    llm.hold = True
    chat.ask("hi")
    chat.page.locator(".assistant .text", has_text="hello").wait_for()
    chat.page.press("#question", "Escape")
    chat.see("You stopped this answer.")


def test_again_makes_a_branch(chat: Tab, llm: FakeLLM) -> None:
    chat.ask("hi")
    chat.answered(ANSWER)
    llm.script = say("other")
    chat.press("Again")
    chat.answered("other")
    chat.see("2 of 2")
    chat.press("Earlier branch")
    chat.see("1 of 2")
    assert chat.shown()[-1] == ("assistant", ANSWER)
    chat.ask("more")
    chat.answered("other", 2)
    assert heard(llm)[-1] == "user: hi\nassistant: hello\nuser: more\n"
    chat.press("Later branch")
    chat.see("2 of 2")
    assert chat.shown() == [("user", "hi"), ("assistant", "other")]
    chat.press("Earlier branch")
    wait_until(lambda: len(chat.shown()) == 4)


def test_an_edited_turn_begins_a_branch(chat: Tab, llm: FakeLLM) -> None:
    chat.ask("hi")
    chat.answered(ANSWER)
    chat.page.locator(".user").get_by_role("button", name="Edit").click()
    chat.page.get_by_label("The turn's text").fill("ho")
    llm.script = say("other")
    chat.press("Ask this")
    chat.answered("other")
    assert heard(llm)[-1] == "user: ho\n"
    assert chat.shown() == [("user", "ho"), ("assistant", "other")]
    assert [turn["text"] for turn in chat.kept()] == ["hi", ANSWER, "ho", "other"]
    chat.page.locator(".assistant").get_by_role("button", name="Edit").click()
    chat.page.get_by_label("The turn's text").fill("It is")
    chat.press("Keep this")
    llm.script = say(" so.")
    chat.press("Continue")
    chat.answered("It is so.")
    assert heard(llm)[-1] == "user: ho\nassistant: It is\n"


def test_the_system_prompt_is_sent(chat: Tab, llm: FakeLLM) -> None:
    chat.page.get_by_text("System prompt").first.click()
    chat.page.fill("#system", "Be brief.")
    chat.ask("hi")
    chat.answered(ANSWER)
    assert heard(llm) == ["system: Be brief.\nuser: hi\n"]


def test_sampling_is_the_servers_unless_said(chat: Tab, llm: FakeLLM) -> None:
    chat.press("Sampling")
    temperature = chat.page.get_by_label("Temperature")
    assert temperature.get_attribute("placeholder") == "0.2"
    temperature.fill("0.7")
    chat.page.get_by_label("Stop", exact=True).fill("###")
    chat.press("Keep")
    chat.ask("hi")
    chat.answered(ANSWER)
    assert (llm.calls[0].params.temperature, llm.calls[0].params.stop) == (0.7, ("###",))
    assert llm.calls[0].params.top_k == 40


def test_dropped_files_become_fenced_text(chat: Tab, llm: FakeLLM) -> None:
    drop = """(files) => {
      const transfer = new DataTransfer();
      for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
      const event = new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
      document.querySelector('.turns').dispatchEvent(event);
    }"""
    text = list(b"x = '```'\n")
    chat.page.evaluate(drop, [["a.py", text], ["b.bin", [0, 255, 1]], ["c.txt", [104, 105]]])
    chat.see("Not added: b.bin: not a text file (UTF-8).")
    question = "a.py:\n\n````py\nx = '```'\n````\n\nc.txt:\n\n```txt\nhi\n```\n\n"
    wait_until(lambda: chat.page.input_value("#question") == question)
    chat.page.press("#question", "Enter")
    chat.answered(ANSWER)
    assert heard(llm) == [f"user: {question.strip()}\n"]
    assert chat.page.locator(".user pre").all_inner_texts() == ["x = '```'", "hi"]


def test_an_answer_as_long_as_allowed_says_so(chat: Tab, llm: FakeLLM) -> None:
    llm.script = say("hello", end=FinishReason.LENGTH, stop=None)
    chat.ask("hi")
    chat.see("The answer is as long as the settings allow.")


def test_export_and_import(chat: Tab, llm: FakeLLM, tmp_path: Path) -> None:
    chat.ask("hi")
    chat.answered(ANSWER)
    llm.script = say("other")
    chat.press("Again")
    chat.answered("other")
    with chat.page.expect_download() as download:
        chat.press("Export all")
    path = tmp_path / "conversations.json"
    download.value.save_as(path)
    chat.press("Delete")
    chat.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    wait_until(lambda: chat.kept() == [])
    chooser = chat.page.locator("nav.list input[type=file]")
    chooser.set_input_files(path)
    chat.answered("other")
    assert [turn["text"] for turn in chat.kept()] == ["hi", ANSWER, "other"]
    chat.see("2 of 2")
    document = json.loads(path.read_text())
    wrong: list[tuple[str, str]] = [
        ("{", "This is no JSON file."),
        ("[]", "This file holds no conversations of this page."),
        (json.dumps(document | {"version": 2}), "Version 2 of such files is not known here."),
        (
            json.dumps(document | {"conversations": [{"turns": [{"role": "tool", "text": "x"}]}]}),
            "Conversation 1: turn 1 is none of a user or an assistant.",
        ),
    ]
    for text, message in wrong:
        path.write_text(text)
        chooser.set_input_files(path)
        chat.see(message)
    assert len(chat.kept()) == 3


def test_the_keyboard_is_enough(chat: Tab, llm: FakeLLM) -> None:
    page = chat.page
    page.keyboard.type("hi")  # the question has the focus
    page.keyboard.press("Enter")
    chat.answered(ANSWER)

    def reach(name: str, back: bool = False) -> None:
        for _ in range(60):
            page.keyboard.press("Shift+Tab" if back else "Tab")
            if page.evaluate(FOCUSED) == name:
                return
        raise AssertionError(f"{name} cannot be reached")

    llm.script = say("other")
    reach("Again", back=True)
    page.keyboard.press("Enter")
    chat.answered("other")
    reach("Earlier branch", back=True)
    page.keyboard.press("Space")
    chat.see("1 of 2")
    reach("Complete", back=True)
    page.keyboard.press("Enter")
    page.locator("#text").wait_for()

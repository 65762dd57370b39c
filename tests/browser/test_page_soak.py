"""A long conversation through the page while its server is killed at random: nothing that was shown is lost.

CODELLAMA_SOAK_SECONDS says how long; a minute and a half if it does not.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.driver import Tab
from tests.browser.killable import GONE, SLOW_S, Killable, loads
from tests.live_server import wait_until

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("CODELLAMA_SOAK_SECONDS", "90"))
RAW = """() => [...document.querySelectorAll('.turn')].map((turn) => {
  const place = turn.querySelector('.text');
  const raw = place.markdownParts ? place.markdownParts.map((part) => part.raw).join('') : place.innerText;
  return [turn.dataset.turn, raw];
})"""
QUESTIONS = (
    "Print a hello world in Python",
    "Write a function that adds two numbers",
    "And in a loop, five times?",
    "What does `sorted` do with a list?",
    "Read a file line by line",
)


class Watch:
    """Everything that was ever shown, and a comparison with what is kept."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.shown: dict[str, str] = {}

    def look(self) -> None:
        """Note what is shown now; what was shown before may only have grown."""
        for turn, text in self.tab.page.evaluate(RAW):
            self._grown(turn, "".join(text.split()))

    def _grown(self, turn: str, text: str) -> None:
        before = self.shown.get(turn, "")
        assert text.startswith(before), f"shown: {before!r}\nnow: {text!r}"
        self.shown[turn] = text

    def compare(self) -> None:
        """All that was shown is in the browser's database."""
        kept = {turn["id"]: "".join(turn["text"].split()) for turn in self.tab.kept()}
        for turn, text in self.shown.items():
            assert kept.get(turn, "").startswith(text), f"shown: {text!r}\nkept: {kept.get(turn)!r}"


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    server = Killable(tmp_path)
    yield server
    server.kill()


def test_nothing_that_was_shown_is_lost(profile: Any, killable: Killable) -> None:
    chance = random.Random(7)
    tab = _tab(profile, killable.url)
    settings = '{"temperature": 0.8, "max_tokens": 200, "ignore_eos": true}'
    tab.page.evaluate(f"localStorage.setItem('codellama-sampling', '{settings}')")
    watch, kills, closed, asked = Watch(tab), 0, 0, 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        tab.ask(chance.choice(QUESTIONS))
        asked += 1
        wait_until(lambda: len(watch.tab.kept()) > 0)
        if chance.random() < 0.7:
            _watch_for(watch, chance.uniform(0, 1.5))
            killable.kill()
            kills += 1
            _watch_for(watch, chance.uniform(0, 1))
            watch.compare()
            killable.start()
            if chance.random() < 0.4:  # the tab ends too, and a new one goes on
                where = tab.page.url.partition("#")[2]
                tab.page.close()
                tab = watch.tab = _tab(profile, killable.url, where)
                closed += 1
                tab.page.locator(".turn").first.wait_for()
        tab.ready(SLOW_S)
        _finish(watch)
        watch.compare()
    tab.page.reload()
    wait_until(lambda: tab.page.locator(".turn").count() > 0)
    watch.look()
    tab.check()
    counts = f"{asked} questions, {kills} kills, {closed} tabs, {len(watch.shown)} turns shown"
    sys.stdout.write(f"\n{counts}\n")  # with -s
    assert kills >= SECONDS // 60


def _tab(profile: Any, url: str, view: str = "") -> Tab:
    tab = Tab(profile)
    tab.expected = (*GONE, "400")
    wait_until(lambda: loads(tab, url, view), SLOW_S)
    return tab.ready(SLOW_S)


def _watch_for(watch: Watch, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch.look()
        time.sleep(0.03)


def _finish(watch: Watch) -> None:
    """See to it that the last question has a whole answer, as a person would."""
    page = watch.tab.page
    end = time.monotonic() + 5 * SLOW_S  # an answer may fill the context
    while time.monotonic() < end:
        watch.look()
        for name in ("Leave them out", "Continue", "Try again", "Answer it"):
            found = page.get_by_role("button", name=name, exact=True)
            if (
                found.count()
                and not page.get_by_role("button", name="Stop", exact=True).is_visible()
            ):
                if page.locator(".turn.assistant .note", has_text="as long as").count() and (
                    name == "Continue"
                ):
                    return
                found.last.click()
                page.wait_for_timeout(100)
        last = page.locator(".turn").last
        if "assistant" in str(last.get_attribute("class")) and (
            last.get_by_role("button", name="Again").count()
            and not last.get_by_role("button", name="Continue").count()
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"the question got no answer: {page.locator('.turn').last.inner_text()!r}")

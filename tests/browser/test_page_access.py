"""Whether everybody can use the page: axe-core on every view, light, dark and on a phone; nothing overflows.

With CODELLAMA_SCREENSHOTS=FOLDER a picture of each is left there for a person to look at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codellama.llm import LLM
from tests.browser.driver import Tab
from tests.live_server import DEADLINE_S, Live, wait_until

SERIOUS = ("serious", "critical")
SIZES = {"light": (1280, 800), "dark": (1280, 800), "phone": (360, 740)}
FOLDER = os.environ.get("CODELLAMA_SCREENSHOTS")


def chat(tab: Tab) -> None:
    tab.ask("Print a hello world in Python")
    tab.answered("")
    tab.press("Again")
    tab.see("2 of 2")
    tab.answered("")


def list_of_conversations(tab: Tab) -> None:
    chat(tab)
    drawer = tab.page.get_by_role("button", name="Conversations")
    if drawer.is_visible():
        drawer.click()


def complete(tab: Tab) -> None:
    tab.page.fill("#text", "def fibonacci(")
    tab.press("Continue the text")
    tab.page.get_by_role("button", name="Continue the text").wait_for()
    tab.page.locator(".token").nth(2).focus()
    tab.page.locator("#tip").wait_for()


def infill(tab: Tab) -> None:
    tab.page.fill("#gap", "def add(a, b):\n    \n\nprint(add(1, 2))")
    tab.page.evaluate("document.getElementById('gap').setSelectionRange(19, 19)")
    tab.press("Fill in at the cursor")
    tab.page.get_by_role("button", name="Fill in at the cursor").wait_for()


def tokens(tab: Tab) -> None:
    tab.page.fill("#tokentext", "Print a hello world in Python")
    wait_until(lambda: tab.page.locator(".id").count() > 10)


def model(tab: Tab) -> None:
    tab.see("Layers")


def sampling(tab: Tab) -> None:
    tab.press("Sampling")
    tab.see("Server's defaults")


def key(tab: Tab) -> None:
    tab.press("Key")
    tab.see("API key")


VIEWS: dict[str, tuple[str, Callable[[Tab], None]]] = {
    "chat": ("", chat),
    "list": ("", list_of_conversations),
    "complete": ("complete", complete),
    "infill": ("infill", infill),
    "tokens": ("tokens", tokens),
    "model": ("model", model),
    "sampling": ("", sampling),
    "key": ("", key),
}


@pytest.mark.parametrize("look", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_everybody_can_use_it(chromium: Any, served: Live, demo: LLM, view: str, look: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    width, height = SIZES[look]
    scheme = "dark" if "dark" in look else "light"
    profile = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale="en"
    )
    profile.set_default_timeout(1000 * DEADLINE_S)
    tab = Tab(profile)
    path, act = VIEWS[view]
    tab.open(served.url, path).ready()
    tab.page.evaluate(
        "localStorage.setItem('codellama-sampling', '{\"max_tokens\": 60, \"seed\": 1}')"
    )
    act(tab)
    tab.page.wait_for_timeout(100)
    if FOLDER:
        tab.page.screenshot(path=str(Path(FOLDER) / f"{view}-{look}.png"))
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.page.evaluate(overflow) <= 0
    violations = axe.run(tab.page).response["violations"]
    found = [
        (v["id"], v["impact"], [node["html"] for node in v["nodes"]])
        for v in violations
        if v["impact"] in SERIOUS
    ]
    assert found == []
    tab.check()
    profile.close()

"""Chromium for the tests of the page: Debian's, or the one in CODELLAMA_CHROMIUM, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.devices.planner import plan_load
from codellama.files.loadable import read_model
from codellama.llm import LLM
from codellama.models import resolve_model
from codellama.params import ModelConfig
from codellama.server.config import ServerConfig
from tests.browser.driver import FLAGS, Tab
from tests.fake_llm import FakeLLM
from tests.live_server import DEADLINE_S, Live, running
from tests.made_up import machine
from tests.tiny_model import write


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The browser; skips where there is none, or nothing to drive it with."""
    program = os.environ.get("CODELLAMA_CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium: scripts/browser installs Debian's, or set CODELLAMA_CHROMIUM")
    api = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: scripts/setup dev browser installs it"
    )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def profile(chromium: Any) -> Iterator[Any]:
    """A browser without a past; its tabs share what it keeps."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, locale="en")
    context.set_default_timeout(1000 * DEADLINE_S)
    yield context
    context.close()


@pytest.fixture
def tab(profile: Any) -> Iterator[Tab]:
    """A tab; fails the test at its end if the page met an error, or asked anybody else for anything."""
    tab = Tab(profile)
    yield tab
    tab.check()


@pytest.fixture
def llm(tmp_path: Path) -> FakeLLM:
    """What the scripted server serves: one layer on a GPU, two on the CPU."""
    llm = FakeLLM()
    llm.n_ctx = 1000
    header = read_model(write(tmp_path / "tiny.gguf"))
    llm.opened_plan = plan_load(header, ModelConfig(n_gpu_layers=1), machine(64, 24))
    return llm


@pytest.fixture
def scripted(llm: FakeLLM) -> Iterator[Live]:
    """A server that answers with the script of `llm`."""
    config = ServerConfig(port=0, slots=False)  # which the script has none of
    with running(lambda: llm, config) as live:
        yield live


def load_demo() -> LLM:
    """The demo model, loaded."""
    return LLM(resolve_model("demo"), n_seq_max=2, n_threads=1)


@pytest.fixture(scope="package")
def demo() -> Iterator[LLM]:
    """The demo model, to compare with."""
    with load_demo() as llm:
        yield llm


@pytest.fixture(scope="package")
def served() -> Iterator[Live]:
    """A server of the demo model."""
    with running(load_demo) as live:
        yield live

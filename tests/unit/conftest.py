"""A live server over a scripted model, shared by the tests of a file; some files have one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_llm import FakeLLM, say
from tests.live_server import Live, running


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeLLM, Live]]:
    llm = FakeLLM()
    with running(lambda: llm) as live:
        yield llm, live


@pytest.fixture
def llm(served: tuple[FakeLLM, Live]) -> Iterator[FakeLLM]:
    llm = served[0]
    llm.calls.clear()
    yield llm
    llm.script, llm.error = say("hel", "lo"), None


@pytest.fixture
def live(served: tuple[FakeLLM, Live]) -> Live:
    return served[1]

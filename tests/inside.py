"""The inside of a loaded `LLM`, for tests that look at its engine."""

from __future__ import annotations

from codellama import LLM
from codellama.running.core import LocalCore


def core(llm: LLM) -> LocalCore:
    """What answers its requests, in this process."""
    found = llm._core
    assert isinstance(found, LocalCore)
    return found

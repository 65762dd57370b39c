"""`LLM`, and what stands in for it in tests, are what their callers are promised."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from codellama.llm import LLM
from codellama.native.model import Tokenizer
from codellama.running.language_model import LanguageModel, TextTokenizer
from tests.fake_llm import FakeLLM, FakeTokenizer


def methods(promise: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(promise).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


@pytest.mark.parametrize("kind", [LLM, FakeLLM], ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("name", methods(LanguageModel))
def test_methods_are_called_as_promised(kind: Any, name: str) -> None:
    promised = inspect.signature(getattr(LanguageModel, name))
    assert inspect.signature(getattr(kind, name)) == promised


@pytest.mark.parametrize("name", methods(TextTokenizer))
def test_both_tokenizers_take_what_is_promised(name: str) -> None:
    promised = inspect.signature(getattr(TextTokenizer, name)).parameters
    for kind in (Tokenizer, FakeTokenizer):
        taken = inspect.signature(getattr(kind, name)).parameters
        assert {key: taken[key] for key in promised} == dict(promised)


def test_the_stand_in_writes_as_many_candidates_as_it_is_asked_for() -> None:
    result = FakeLLM().complete("a", n=1, best_of=3).result()
    assert [choice.text for choice in result.choices] == ["hello"]
    assert result.usage.completion_tokens == 3 * 5

"""A `FakeLLM` with another answer per question, and what stands in for opening a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codellama.cli.options import model_config
from codellama.engine.request import Delta
from codellama.params import Prompt
from codellama.running.completion import Completion
from tests.fake_llm import FakeLLM

Turn = Sequence[Delta] | Exception


class ScriptedLLM(FakeLLM):
    """Says the `turns` in order; an exception among them is raised. With `hold`, an answer ends only
    when it is cancelled."""

    def __init__(self, *turns: Turn, hold: bool = False) -> None:
        super().__init__(hold=hold)
        self.turns = list(turns)

    def generate(self, prompt: Prompt, **options: Any) -> Completion:
        turn = self.turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        self.script = list(turn)
        return super().generate(prompt, **options)

    @property
    def asked(self) -> list[str]:
        """The prompts so far, as text: `role: content` lines for a chat."""
        return [self.tokenizer.decode(call.prompt.tokens) for call in self.calls]

    def __enter__(self) -> ScriptedLLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Opener:
    """Takes the place of `open_model`: gives `llm`, or raises it, and keeps what was asked for."""

    def __init__(self, llm: ScriptedLLM | Exception) -> None:
        self.llm = llm
        self.opened: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, options: Mapping[str, Any]) -> ScriptedLLM:
        self.opened.append((name, model_config(options)))
        if isinstance(self.llm, Exception):
            raise self.llm
        return self.llm

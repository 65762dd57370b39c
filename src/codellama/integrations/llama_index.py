"""Prompts for llama-index's `LlamaCPP`, which completes text and never uses a chat handler.

::

    from codellama.integrations.llama_index import completion_to_prompt, messages_to_prompt

    LlamaCPP(model_path=..., messages_to_prompt=messages_to_prompt, completion_to_prompt=completion_to_prompt)

These are for 70B Instruct; for the smaller ones take the methods of `Prompting("inst")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama.integrations.text_formats import FormatName, dialog_text
from codellama.params import Message


class Prompting:
    """The two functions that `LlamaCPP` takes, for one chat format and one system text."""

    def __init__(self, format_name: FormatName = "turn", system_prompt: str = "") -> None:
        """`system_prompt` is for dialogs without a system message, and for `completion_to_prompt`."""
        self._format_name = format_name
        self._system_prompt = system_prompt

    def messages_to_prompt(self, messages: Sequence[Any]) -> str:
        """The prompt of llama-index's `ChatMessage`s. Raises ChatFormatError."""
        dialog = [
            Message(role=str(getattr(m.role, "value", m.role)), content=m.content or "")
            for m in messages
        ]
        if self._system_prompt and (not dialog or dialog[0]["role"] != "system"):
            dialog.insert(0, Message(role="system", content=self._system_prompt))
        return dialog_text(dialog, self._format_name)

    def completion_to_prompt(self, completion: str) -> str:
        """The prompt of one question. Raises ChatFormatError."""
        dialog = [Message(role="user", content=completion)]
        if self._system_prompt:
            dialog.insert(0, Message(role="system", content=self._system_prompt))
        return dialog_text(dialog, self._format_name)


messages_to_prompt = Prompting().messages_to_prompt
completion_to_prompt = Prompting().completion_to_prompt

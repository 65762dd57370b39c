"""The chat formats as text, for libraries that take text and no ids.

The names of control tokens in the text have to be read as these tokens, and BOS put before it, as
`codellama.Llama` and `llama_cpp.Llama` do. A message that holds such a name is refused: nobody could tell the
two apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from codellama.params import Message
from codellama.prompts.chat import (
    FIM_TAGS,
    SPECIAL_TAGS,
    ChatFormat,
    InstFormat,
    TurnFormat,
    reject_tags,
)
from codellama.variants import STEP

FormatName = Literal["turn", "inst"]
"""turn: 70B Instruct; inst: 7B to 34B Instruct."""

_BOS = "<s>"
_CONTROL = (STEP, *FIM_TAGS, _BOS, "</s>", "<unk>")


class _Vocabulary:
    """What the formats ask of a vocabulary when they only write text."""

    bos = eos = 0

    def __init__(self, add_space_prefix: bool) -> None:
        self.add_space_prefix = add_space_prefix

    def encode(self, text: str, *, raw: bool = False) -> list[int]:
        return []

    def token_id(self, text: str) -> int | None:
        return 0


def dialog_text(messages: Iterable[Message], format_name: FormatName = "turn") -> str:
    """The prompt of a dialog, without BOS. Raises ChatFormatError."""
    messages = list(messages)
    refused = _CONTROL if format_name == "turn" else (*_CONTROL, *SPECIAL_TAGS)
    for i, message in enumerate(messages):
        reject_tags(message["content"], refused, "messages", f"[{i}]")
    text = _format(format_name).render(messages)
    return text.removeprefix(_BOS)


def no_system_turn() -> str:
    """What 70B Instruct's dialogs begin with when there is no system text."""
    return dialog_text([Message(role="user", content=".")]).partition(STEP)[0] + STEP


def turn_heads() -> dict[str, str]:
    """What stands before a text in a turn of 70B Instruct, for each role; `STEP` stands behind it."""
    dialog = [Message(role="system", content="."), Message(role="user", content=".")]
    system, user, assistant = dialog_text(dialog).split(STEP)
    return {
        "system": system.removesuffix("."),
        "user": user.removesuffix("."),
        "assistant": assistant,
    }


def _format(name: FormatName) -> ChatFormat:
    if name == "turn":
        return TurnFormat(_Vocabulary(add_space_prefix=False))
    return InstFormat(_Vocabulary(add_space_prefix=True))

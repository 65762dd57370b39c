"""What travels between a caller, the chat formats and the engine: `Message`, `Prompt`, `Progress`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from typing_extensions import NotRequired

Progress = Callable[[int, int], None]  # takes how much is done, and of how much


class Message(TypedDict):
    """One chat message; `role` is system, user or assistant.

    `destination` is written into the turn's header by the 70B's format; Meta's own replies carry
    "user" there.
    """

    role: str
    content: str
    destination: NotRequired[str]


@dataclass(frozen=True)
class Prompt:
    """Token ids as the model gets them, and how its answer ends.

    `stop_tokens` end the answer and are not part of it. `drop_leading_space` removes one space at
    the very beginning of the answer, which SentencePiece puts before a first word. `dropped` are
    the turns of a dialog that were left out because the context had no room for them.
    """

    tokens: tuple[int, ...]
    stop_tokens: frozenset[int] = frozenset()
    drop_leading_space: bool = False
    dropped: tuple[Message, ...] = ()

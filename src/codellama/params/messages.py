"""What travels between a caller, the chat formats and the engine: `Message`, `Prompt`, `Progress`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from typing_extensions import NotRequired

from codellama.params.tools import ToolCall, Tools

Progress = Callable[[int, int], None]  # takes how much is done, and of how much


class Message(TypedDict):
    """One chat message; `role` is system, user, assistant or tool.

    `destination` is written into the turn's header by the 70B's format; Meta's own replies carry
    "user" there. `tool_calls` are those that an assistant wrote behind its `content`. A message of the
    role tool is the result of one of them: `tool_call_id` says of which, `content` is the result.
    """

    role: str
    content: str
    destination: NotRequired[str]
    tool_calls: NotRequired[Sequence[ToolCall]]
    tool_call_id: NotRequired[str]


@dataclass(frozen=True)
class Prompt:
    """Token ids as the model gets them, and how its answer ends.

    `stop_tokens` end the answer and are not part of it. `drop_leading_space` removes one space at
    the very beginning of the answer, which SentencePiece puts before a first word. `dropped` are
    the turns of a dialog that were left out because the context had no room for them. `tools` are the
    functions that the prompt speaks of: the answer is words or calls of them (see
    `codellama.running.tool_calls`).
    """

    tokens: tuple[int, ...]
    stop_tokens: frozenset[int] = frozenset()
    drop_leading_space: bool = False
    dropped: tuple[Message, ...] = ()
    tools: Tools | None = None

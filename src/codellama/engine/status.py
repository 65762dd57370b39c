"""What the engine tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EngineStatus:
    """Requests after the latest step, counts since the start, and whether the engine lives.

    Of `draft_tokens` guessed ahead, `draft_accepted` were right. `steps` are batches decoded;
    `prompt_seconds` and `decode_seconds` are what ended requests spent on prompt and answer.
    """

    n_slots: int
    n_running: int = 0
    n_waiting: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens_decoded: int = 0
    draft_tokens: int = 0
    draft_accepted: int = 0
    steps: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    dead: bool = False

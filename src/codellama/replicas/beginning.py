"""What a conversation begins with, as a key that stays the same turn after turn, and who serves that key.

A replica has a conversation's tokens in its cache, so the next turn should come to it. The key is a digest:
the text itself goes to nobody who need not see it.

The replica is found by rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit
rates", 1998): when a replica comes or goes, only the conversations that it serves move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

TEXT_CHARS = 512
"""Characters of a prompt that is one text: what follows grows from turn to turn."""
_OPENINGS = ("system", "instructions")
_TEXTS = ("prompt", "input_prefix", "content")


def conversation_key(body: Any) -> str | None:
    """The key of a request by its JSON body, in any dialect; None if nothing in it begins a conversation.

    Of messages, all up to the user's first are the beginning: many conversations share a system prompt.
    """
    if not isinstance(body, dict):
        return None
    opening = [body.get(name) for name in _OPENINGS]
    for name in ("messages", "input"):
        if isinstance(body.get(name), list):
            return _digest([*opening, *_to_first_user(body[name])])
    for name in ("input", *_TEXTS):
        text = _first_text(body.get(name))
        if text:
            return _digest([*opening, text[:TEXT_CHARS]])
    return None


def ranked(key: str, names: Sequence[str]) -> list[str]:
    """The replicas called `names`, the one that serves `key` first; every process finds the same order."""
    return sorted(names, key=lambda name: _score(key, name), reverse=True)


def chosen(order: Sequence[str], loads: dict[str, int], slots: int) -> list[str]:
    """Who is asked, in this order: as in `order`, but whoever is full comes behind all that are not.

    `loads` are the requests that each has, and it can run `slots` at once. If all are full, the one with the
    least of them is first: a queue costs more than a prompt.
    """
    if all(loads.get(name, 0) >= slots for name in order):
        return sorted(order, key=lambda name: loads.get(name, 0))
    return sorted(order, key=lambda name: loads.get(name, 0) >= slots)


def _to_first_user(messages: list[Any]) -> list[Any]:
    for i, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return messages[: i + 1]
    return messages


def _first_text(value: Any) -> str:
    if isinstance(value, list) and value:
        return _first_text(value[0]) if not isinstance(value[0], int) else json.dumps(value)
    return value if isinstance(value, str) else ""


def _digest(parts: list[Any]) -> str:
    # ASCII: a lone surrogate is escaped too.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _score(key: str, name: str) -> bytes:
    return hashlib.sha256(f"{key} {name}".encode()).digest()

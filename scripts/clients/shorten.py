"""What clients sent, as the tests keep it: once each, without what is of no use there or says who sent it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from clients.recorder import Asked

LONGEST_TEXT = 200
FOLDERS = re.compile(r"(?:/(?:tmp|home|root|var|Users)/)[^\s'\"`]*")
RANDOM = re.compile(
    r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b|call_[0-9a-f]{8,}|toolu_\w{8,}"
)


def shortened(client: str, version: str, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """The requests that were answered, one of each form: of those with the same fields, the first."""
    found: dict[str, dict[str, Any]] = {}
    for one in asked:
        if one.status != 200 or one.method != "POST":
            continue
        body = _without_traces(one.body)
        path = one.path.partition("?")[0]
        entry = {
            "client": f"{client} {version}".strip(),
            "path": path,
            "content_type": one.content_type,
            "body": body,
        }
        found.setdefault(path + json.dumps(_form(body)), entry)
    return list(found.values())


def without_repeats(sent: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of those that several clients sent alike."""
    found: dict[str, dict[str, Any]] = {}
    for entry in sent:
        found.setdefault(json.dumps([entry["path"], entry["content_type"], entry["body"]]), entry)
    return list(found.values())


def _without_traces(value: Any) -> Any:
    if isinstance(value, str):
        text = RANDOM.sub("call_1", FOLDERS.sub("/x", value))
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT]
    if isinstance(value, list):
        return [_without_traces(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_traces(item) for key, item in value.items()}
    return value


def _form(value: Any, depth: int = 0) -> Any:
    """The names of fields, and what short values say of themselves."""
    if isinstance(value, dict):
        return {key: _form(item, depth + 1) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_form(item, depth + 1) for item in value[:3]]
    return value if isinstance(value, bool | None) else type(value).__name__

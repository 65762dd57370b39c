"""What editors send that are not run here, made after their sources, and what the answers must have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from clients.trials.checks import run, said

BODIES = Path(__file__).parents[3] / "tests" / "data" / "editor_bodies.json"


def ask(url: str, entry: dict[str, Any]) -> str:
    headers = {"Content-Type": entry["content_type"]}
    request = Request(url + entry["path"], json.dumps(entry["body"]).encode(), headers)
    with urlopen(request) as answer:
        return str(answer.read().decode())


def text_of(body: dict[str, Any]) -> str:
    """What an answer, or a chunk of one, says or calls."""
    if "content" in body:
        return str(body["content"])
    for choice in body.get("choices", ()):
        part = choice.get("message") or choice.get("delta") or choice
        calls = part.get("tool_calls") or ()
        names = "".join(call["function"].get("name") or "" for call in calls)
        return (part.get("content") or part.get("text") or "") + names
    return ""


def check(entry: dict[str, Any], raw: str) -> None:
    """An answer of the right shape that says something, where something was asked."""
    sent = entry["body"]
    if sent.get("stream"):
        events = [line[6:] for line in raw.splitlines() if line.startswith("data: ")]
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        assert said("".join(map(text_of, chunks))), entry
    elif sent.get("response_fields") == [""]:
        assert json.loads(raw) == {}
    elif entry["path"] == "/apply-template":
        assert "read_file" in json.loads(raw)["prompt"]
    elif entry["path"] == "/tokenize":
        assert len(json.loads(raw)["tokens"]) > 2
    elif sent.get("n_predict") == 0:
        assert json.loads(raw)["content"] == ""
    elif entry["path"] == "/infill" and "response_fields" not in sent:
        answer = json.loads(raw)  # what a drawn token says may be nothing
        assert isinstance(answer["content"], str) and answer["tokens_predicted"] > 0
    elif "response_fields" in sent:
        assert json.loads(raw).keys() == set(sent["response_fields"])
    else:
        assert said(text_of(json.loads(raw))), entry


def try_bodies(url: str) -> None:
    for entry in json.loads(BODIES.read_text("utf-8")):
        check(entry, ask(url, entry))


if __name__ == "__main__":
    run(sys.modules[__name__])

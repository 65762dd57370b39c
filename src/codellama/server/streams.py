"""The bytes of streams: server-sent events as llama-server frames them, named or not, or lines of JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from codellama.protocol.dialects import Framing

DONE = b"data: [DONE]\n\n"
_COMMENT = b":\n\n"  # keeps the connection open, no client sees it
PINGS: Mapping[Framing, bytes] = {
    Framing.DATA: _COMMENT,
    Framing.NAMED: _COMMENT,
    Framing.LINES: b"",  # has nothing that means nothing: its clients read every line as JSON
}
MEDIA_TYPES: Mapping[Framing, str] = {
    Framing.DATA: "text/event-stream",
    Framing.NAMED: "text/event-stream",
    Framing.LINES: "application/x-ndjson",
}

Frames = Callable[[Receive], AsyncGenerator[bytes, None]]


def frames(framing: Framing, events: Iterable[Any]) -> bytes:
    """These JSON values, one after the other."""
    if framing is Framing.LINES:
        return b"".join(_json(event) + b"\n" for event in events)
    if framing is Framing.NAMED:
        return b"".join(_named(event) for event in events)
    return b"".join(b"data: " + _json(event) + b"\n\n" for event in events)


def _named(event: Any) -> bytes:
    return f"event: {event['type']}\ndata: ".encode() + _json(event) + b"\n\n"


_LINE_ENDS = {
    character.encode(): f"\\u{ord(character):04x}".encode() for character in "\x85\u2028\u2029"
}
"""What ends a line to Unicode and may stand in JSON as it is: httpx and the clients on it cut lines there."""


def _json(value: Any) -> bytes:
    try:
        text = to_json(value, inf_nan_mode="null")  # several times as fast as json.dumps
    except PydanticSerializationError:  # a lone surrogate, which UTF-8 cannot hold
        said = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        text = said.encode("utf-8", "replace")
    for character, escape in _LINE_ENDS.items():
        text = text.replace(character, escape)
    return text


class EventStream(Response):
    """A response that sends what `frames` yields. `frames` is handed `receive` to watch for the
    client's leaving, and is closed whatever happens."""

    def __init__(self, frames: Frames, media_type: str) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with aclosing(self._frames(receive)) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

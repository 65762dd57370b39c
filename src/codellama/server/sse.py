"""Server-sent events with llama-server's framing: `data: {json}` and a blank line, nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
PING = b":\n\n"  # a comment: keeps the connection open, no client sees it

Frames = Callable[[Receive], AsyncGenerator[bytes, None]]


def sse(events: Iterable[Any]) -> bytes:
    """The frames of these JSON values, one after the other."""
    return b"".join(b"data: " + _json(event) + b"\n\n" for event in events)


def _json(value: Any) -> bytes:
    try:
        return to_json(value, inf_nan_mode="null")  # several times as fast as json.dumps
    except PydanticSerializationError:  # a lone surrogate, which UTF-8 cannot hold
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


class EventStream(Response):
    """A response that sends what `frames` yields. `frames` is handed `receive` to watch for the
    client's leaving, and is closed whatever happens."""

    media_type = "text/event-stream"

    def __init__(self, frames: Frames) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
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

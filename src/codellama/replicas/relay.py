"""One response on its way from a replica to the client: what is passed on when, and how it ends if the
replica is lost.

Until the first token, the events of a stream say only that it begins. They are held back, so that another
replica can begin anew and the client sees one beginning. Pure: pieces in, ASGI messages out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.types import Message

from codellama.protocol.dialects import Dialect
from codellama.replicas.parcels import RawHeaders, ReplicaLostError, ResponsePiece
from codellama.server.streams import MEDIA_TYPES, PINGS, frames

LOST = "the replica that was answering is gone: send the request again"


class Relay:
    """The response to one request in `dialect`."""

    def __init__(self, dialect: Dialect) -> None:
        self.begun = False
        """Whether the client has something of the answer, so that nobody else can begin it anew."""
        self.done = False
        self.about = ""
        """What the access log says of the answer, when it is done."""
        self._dialect = dialect
        self._ping = PINGS[dialect.framing]
        self._held: list[bytes] = []
        self._head: tuple[int, RawHeaders] | None = None
        self._started = False
        self._events = 0

    def take(self, pieces: Sequence[ResponsePiece]) -> list[Message]:
        """What the client is sent of `pieces`.

        Raises ReplicaLostError if a second beginning is no stream, when the client reads one.
        """
        messages: list[Message] = []
        for piece in pieces:
            if piece.status is not None:
                messages += self._open(piece.status, piece.headers)
            elif piece.body == self._ping and self._started:
                messages.append(_body(piece.body, more=True))
            else:
                messages += self._pass_on(piece)
        return messages

    def _open(self, status: int, headers: RawHeaders) -> list[Message]:
        kind = dict(headers).get(b"content-type", b"").decode().partition(";")[0]
        is_stream = kind == MEDIA_TYPES[self._dialect.framing]
        if self._started:
            if not is_stream:
                raise ReplicaLostError(LOST)
            return []
        self._head = status, headers
        return [self._start()] if is_stream else []

    def _pass_on(self, piece: ResponsePiece) -> list[Message]:
        self._held.append(piece.body)
        if not (piece.begun or piece.last):
            return []
        messages = [] if self._started else [self._start()]
        self.begun = True
        self.done, self.about = piece.last, piece.about
        body, self._held = b"".join(self._held), []
        self._events += body.count(b"\n\n")
        return [*messages, _body(body, more=not piece.last)]

    def again(self) -> None:
        """Another replica begins anew."""
        assert not self.begun, "an answer that has begun is not begun again"
        self._held = []

    def fail(self, error: BaseException) -> list[Message]:
        """The end of a response before its time: one event of a stream, or else the response of `error`."""
        status, body = self._dialect.error_body(error)
        self.done = True
        if self._started:
            event = self._dialect.last_event(body, self._events)
            return [_body(frames(self._dialect.framing, [event]), more=False)]
        self._head = status, ((b"content-type", b"application/json"),)
        return [self._start(), _body(json.dumps(body).encode(), more=False)]

    def _start(self) -> Message:
        assert self._head is not None, "the first piece has a status"
        self._started = True
        status, headers = self._head
        return {"type": "http.response.start", "status": status, "headers": list(headers)}


def _body(body: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}

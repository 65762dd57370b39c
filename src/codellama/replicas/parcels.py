"""What travels between the front and the replicas: plain values that can be pickled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from codellama.engine.status import EngineStatus
from codellama.errors import EngineDeadError

RawHeaders = tuple[tuple[bytes, bytes], ...]


class ReplicaLostError(EngineDeadError):
    """The replica that was answering is gone, and so is what it had of the answer."""


class NoReplicaError(EngineDeadError):
    """No replica is there yet."""


@dataclass(frozen=True)
class Forwarded:
    """An HTTP request that has been let in, with its whole body."""

    method: str
    path: str
    query: bytes = b""
    headers: RawHeaders = ()
    body: bytes = b""


@dataclass(frozen=True)
class ResponsePiece:
    """A part of a response. The first has `status` and `headers`, the `last` one is marked.

    `begun` says whether a token of the answer has been drawn by now. `about` is what the access log says of
    the answer, with the last piece.
    """

    body: bytes = b""
    status: int | None = None
    headers: RawHeaders = ()
    begun: bool = False
    last: bool = False
    about: str = ""


@dataclass(frozen=True)
class ReplicaReply:
    """The whole response of the replica called `name`."""

    name: str
    status: int
    body: bytes


@dataclass(frozen=True)
class ReplicaStatus:
    """A replica's name and what its engine tells; None while its model sleeps or has stopped."""

    name: str
    engine: EngineStatus | None


class Replicas(Protocol):
    """The replicas, as the front sees them. Raises NoReplicaError while there are none."""

    async def count(self) -> int:
        """How many run now."""

    def answer(
        self, key: str | None, request: Forwarded
    ) -> AsyncGenerator[Sequence[ResponsePiece], None]:
        """The response, piece by piece, of the replica that serves the conversation `key` (None: any).

        Closing it cancels the request. Raises ReplicaLostError.
        """

    async def everyone(self, request: Forwarded) -> list[ReplicaReply]:
        """The whole responses of all replicas."""

    async def statuses(self) -> list[ReplicaStatus]:
        """What each of them tells."""

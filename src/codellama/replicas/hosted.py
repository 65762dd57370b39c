"""A replica as Ray Serve hosts it: made in a process of its own, asked by the names of its methods."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING

from ray import serve

from codellama.native.heap import share_heap
from codellama.replicas.parcels import Forwarded, ReplicaReply, ReplicaStatus, ResponsePiece
from codellama.replicas.replica import Replica
from codellama.server.run import SWITCH_S

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel
    from codellama.server.config import ServerConfig

Loader = Callable[[], "LanguageModel"]
"""Loads the model; it is pickled, and called in the replica's process."""


class Hosted:
    """One replica. Ray makes it again when `check_health` raises, or when its process has ended."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, load: Loader, config: ServerConfig
    ) -> None:
        share_heap()
        sys.setswitchinterval(SWITCH_S)
        self._name = serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(load, config)
        await self._replica.start()
        gc.freeze()  # as in `server.run`

    async def answer(
        self, key: str | None, request: Forwarded
    ) -> AsyncGenerator[Sequence[ResponsePiece], None]:
        """The response in pieces; `key` is for the router."""
        async for pieces in self._replica.answer(request):
            yield pieces

    async def whole(self, request: Forwarded) -> ReplicaReply:
        """The response of this replica, whole."""
        status, body = await self._replica.whole(request)
        return ReplicaReply(self._name, status, body)

    async def status(self) -> ReplicaStatus:
        """What its engine tells."""
        return ReplicaStatus(self._name, self._replica.status())

    async def check_health(self) -> None:
        """Raises EngineDeadError if it has to be replaced."""
        self._replica.check()

    async def __del__(self) -> None:
        """Ray waits for this when it ends a replica."""
        await self._replica.stop()

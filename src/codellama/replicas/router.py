"""Which replica Ray Serve sends a request to: the one with the conversation in its cache, unless it is full.

Ray makes one router where the requests come from, which is the front; so it sees all of them.
Interface: https://docs.ray.io/en/latest/serve/advanced-guides/custom-request-router.html
"""

from __future__ import annotations

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from codellama.replicas.beginning import chosen, ranked


class ConversationRouter(RequestRouter):
    """Routes by the conversation's key, the first argument of each call (None: to who has least to do)."""

    def initialize_state(self, slots: int = 1) -> None:
        """`slots` requests run at once in a replica."""
        self._slots = slots
        self._running: dict[str, set[str]] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas in the order in which they are asked."""
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        self._running = {name: self._running.get(name, set()) for name in named}
        loads = {name: len(running) for name, running in self._running.items()}
        key = pending_request.args[0] if pending_request and pending_request.args else None
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # before all are tried again
        order = ranked(key, list(named)) if key else sorted(named, key=lambda name: loads[name])
        return [[named[name]] for name in chosen(order, loads, self._slots)]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """Note a request that was sent."""
        running = self._running.setdefault(replica_id.unique_id, set())
        running.add(pending_request.metadata.internal_request_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Note a request that has ended; questions to all replicas, which nobody routed, end here too."""
        self._running.get(replica_id.unique_id, set()).discard(internal_request_id)

"""Replicas as a deployment of Ray Serve: the cluster is started or joined, the model deployed, calls carried.

A cluster of our own has no dashboard, and lets in who has its token (see `environment`). Nevertheless Ray
listens on all addresses of a machine. Ray Serve's own HTTP proxies, which ask for no key, are not started.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from codellama.errors import CodeLlamaError, InvalidRequestError
from codellama.replicas.hosted import Hosted, Loader
from codellama.replicas.parcels import (
    Forwarded,
    ReplicaLostError,
    ReplicaReply,
    ReplicaStatus,
    ResponsePiece,
)
from codellama.replicas.relay import LOST
from codellama.replicas.settings import ClusterNode, Share
from codellama.server.config import ServerConfig

APP = "codellama"
DEPLOYMENT = "model"
ROUTER = "codellama.replicas.router:ConversationRouter"
ASK_S = 10.0
"""Seconds in which a replica tells of itself."""
SPARE = 100
"""Calls that a replica takes beside those the front lets in: questions about itself."""
_ERROR_LINE = re.compile(r"^codellama\.errors\.\w+: (.*)$", re.MULTILINE)


@contextmanager
def cluster(address: str | None) -> Iterator[list[ClusterNode]]:
    """The machines of a cluster: of the one at `address`, or of one that lives as long as this block.

    Raises InvalidRequestError if there is none at the address, CodeLlamaError if none could be started.
    """
    start: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(
            **{"address": "local", "logging_level": logging.WARNING, "log_to_driver": False} | start
        )
    except Exception as error:  # Ray raises plain ones
        reason = str(error).strip().split("\n")[0]
        if address is None:
            raise CodeLlamaError(f"Ray did not start on this machine: {reason}") from error
        raise InvalidRequestError(
            "{param}: no cluster of Ray at {address}: {reason}",
            "ray",
            address=address,
            reason=reason,
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="Disabled")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield [ClusterNode(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    finally:
        ray.shutdown()


class RayReplicas:
    """The replicas of one deployment (see `Replicas`); `deploy` comes first."""

    def __init__(self, replicas: int, most_replicas: int, share: Share) -> None:
        self._replicas = replicas
        self._most_replicas = most_replicas
        self._share = share
        self._handle: Any = None

    def deploy(self, load: Loader, config: ServerConfig, slots: int, most: int) -> None:
        """Start the replicas and wait until they are ready. Raises CodeLlamaError if they do not start.

        Each runs `slots` requests at once; the front lets in `most` in all.
        """
        if APP in serve.status().applications:
            raise CodeLlamaError(
                f"the cluster already runs an application of Ray Serve that is called {APP}"
            )
        options = self._options(slots, most, config.drain_timeout)
        app = serve.deployment(Hosted, name=DEPLOYMENT, **options).bind(load, config)
        try:
            self._handle = serve.run(app, name=APP, route_prefix=None)
        except RuntimeError as error:
            reasons = _ERROR_LINE.findall(str(error)) or [str(error)]
            raise CodeLlamaError(f"the replicas did not start: {reasons[-1]}") from error

    def _options(self, slots: int, most: int, drain_s: float) -> dict[str, Any]:
        options: dict[str, Any] = {"num_replicas": self._replicas}
        if self._most_replicas > self._replicas:
            autoscaling = {
                "min_replicas": self._replicas,
                "max_replicas": self._most_replicas,
                "target_ongoing_requests": slots,
            }
            options = {"autoscaling_config": autoscaling}
        if self._share.per_machine is not None:
            options["max_replicas_per_node"] = self._share.per_machine
        return options | {
            "ray_actor_options": {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus},
            "max_ongoing_requests": most + SPARE,
            "max_constructor_retry_count": 1,
            "graceful_shutdown_timeout_s": drain_s,
            "logging_config": LoggingConfig(log_level="WARNING", enable_access_log=False),
            "request_router_config": RequestRouterConfig(
                request_router_class=ROUTER, request_router_kwargs={"slots": slots}
            ),
        }

    def remove(self) -> None:
        """End the replicas."""
        serve.delete(APP)

    async def count(self) -> int:
        """How many run now."""
        status = await asyncio.to_thread(serve.status)
        app = status.applications.get(APP)
        deployment = app.deployments.get(DEPLOYMENT) if app else None
        return int(deployment.replica_states.get("RUNNING", 0)) if deployment else 0

    async def answer(
        self, key: str | None, request: Forwarded
    ) -> AsyncGenerator[Sequence[ResponsePiece], None]:
        """See `Replicas`."""
        response = self._handle.options(method_name="answer", stream=True).remote(key, request)
        end: Sequence[ResponsePiece] = ()
        try:
            async for pieces in response:
                if pieces[
                    -1
                ].last:  # given when Ray counts the request as ended: the next turn may be near
                    end = pieces
                else:
                    yield pieces
        except RayTaskError:  # the app's own failure
            raise
        except (RayError, RayServeException) as error:
            if not end:
                raise ReplicaLostError(LOST) from error
        finally:
            response.cancel()
        if end:
            yield end

    async def everyone(self, request: Forwarded) -> list[ReplicaReply]:
        """See `Replicas`."""
        replies: list[ReplicaReply] = await self._ask("whole", request)
        return replies

    async def statuses(self) -> list[ReplicaStatus]:
        """See `Replicas`."""
        statuses: list[ReplicaStatus] = await self._ask("status")
        return statuses

    async def _ask(self, method: str, *args: object) -> list[Any]:
        """What all replicas that are there answer. Raises ReplicaLostError if none does."""
        try:
            answers = await self._handle.broadcast(method, *args).results_async(
                timeout_s=ASK_S, return_exceptions=True
            )
        except (RayError, RayServeException, TimeoutError) as error:
            raise ReplicaLostError(LOST) from error
        found = [answer for answer in answers if not isinstance(answer, BaseException)]
        if not found:
            raise ReplicaLostError(LOST)
        return found

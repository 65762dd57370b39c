"""The app that clients talk to: keys, limits, the log and the page are its own, answers come from replicas.

A request waits here for nobody: it goes to a replica at once, and its stream comes back as it is. If the
replica is lost, another one begins anew what had not begun; what had begun ends with one error event. What
all replicas have a part in is asked of all: `/metrics`, `/slots`, `/health`, and the scales of adapters.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from codellama.compat.replies import Json
from codellama.errors import EngineDeadError, InvalidRequestError, QueueFullError
from codellama.protocol.dialects import dialect_of
from codellama.protocol.json_body import parse_json
from codellama.replicas.beginning import conversation_key
from codellama.replicas.parcels import (
    Forwarded,
    NoReplicaError,
    ReplicaLostError,
    ReplicaReply,
    Replicas,
)
from codellama.replicas.relay import LOST, Relay
from codellama.replicas.tally import Tally
from codellama.server.access import note_told
from codellama.server.app import add_door, add_errors
from codellama.server.browser import add_page
from codellama.server.config import ServerConfig
from codellama.server.generate import cut_short, disconnected
from codellama.server.guard import path_of
from codellama.server.llama_server import metrics_page, refuse_unless
from codellama.server.metrics import Metrics
from codellama.server.route import LARGE_BODY
from codellama.server.serving import LOADING

TRIES = 3
"""Replicas that begin an answer before it is given up: a request may be what ends them."""
_KEPT = frozenset({b"accept", b"content-type", b"origin", b"sec-fetch-site", b"anthropic-version"})
"""Headers that replicas read; no key is among them."""


class Front:
    """Forwards requests, of which it has at most `most` at a time. All methods run on the event loop."""

    def __init__(self, replicas: Replicas, most: int) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self.unavailable: str | None = LOADING
        """Why nothing is forwarded; None when the replicas are there."""
        self._replicas = replicas
        self._most = most

    def check(self) -> None:
        """Raises EngineDeadError (a 503) while nothing is forwarded."""
        if self.unavailable is not None:
            raise EngineDeadError(self.unavailable)

    def cancel_all(self) -> None:
        """Take no more requests and cut the running ones short."""
        self.unavailable = "the server is stopping"
        for task in list(self.running):
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI). Raises QueueFullError if there are too many."""
        self.check()
        request = await forwarded(Request(scope, receive))
        key = await _key_of(request.body)
        if len(self.running) >= self._most:
            raise QueueFullError(f"{self._most} requests are in progress: try again later")
        relay = Relay(dialect_of(request.path))
        task = asyncio.create_task(self._relay(relay, key, request, send))
        gone = asyncio.create_task(disconnected(receive))
        self.running.add(task)
        either: set[asyncio.Task[None]] = {task, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            left = not task.done()
        finally:
            self.running.discard(task)
            task.cancel()
            gone.cancel()
            await asyncio.gather(*either, return_exceptions=True)
        if not relay.done and not left:
            failure = cut_short() if task.cancelled() else task.exception()
            await _send_all(send, relay.fail(failure or ReplicaLostError(LOST)))
        note_told(scope, relay.about)

    async def _relay(self, relay: Relay, key: str | None, request: Forwarded, send: Send) -> None:
        """Pass the answer on. Raises ReplicaLostError if it cannot be ended."""
        for _ in range(TRIES):
            try:
                async with aclosing(self._replicas.answer(key, request)) as pieces:
                    async for some in pieces:
                        await _send_all(send, relay.take(some))
            except ReplicaLostError:
                if relay.begun:
                    raise
            if relay.done:
                return
            relay.again()
        raise ReplicaLostError(LOST)


def create_front(
    replicas: Replicas,
    config: ServerConfig,
    most: int,
    start: Callable[[Callable[[], None]], None],
    paths: Iterable[str] = (),
) -> FastAPI:
    """The app over `replicas`, with `Front` as `app.state.front`; for `most` see there.

    `start` is called when the app starts, with what is to be called, on the event loop, when the replicas are
    ready. `paths` are the routes by which the access log names requests.
    """
    front = Front(replicas, most)

    def ready() -> None:
        if front.unavailable == LOADING:
            front.unavailable = None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        start(ready)
        yield
        front.cancel_all()

    app = FastAPI(title="codellama", openapi_url=None, lifespan=lifespan)
    app.state.front = front
    add_errors(app)
    _add_counts(app, front, replicas, config)
    _add_slots(app, front, replicas, config)
    _add_adapters(app, front, replicas)
    add_page(app, config)
    app.mount("/", front)
    add_door(app, config, paths)
    return app


def _add_counts(app: FastAPI, front: Front, replicas: Replicas, config: ServerConfig) -> None:
    metrics, tally = Metrics(), Tally()

    @app.get("/v1/health")
    @app.get("/health")
    async def health() -> Json:
        front.check()
        return {"status": "ok", "replicas": await _some(replicas)}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        refuse_unless(config.metrics, "metrics")
        front.check()
        return metrics_page(metrics, tally.total(await replicas.statuses()))


def _add_slots(app: FastAPI, front: Front, replicas: Replicas, config: ServerConfig) -> None:
    @app.get("/slots")
    async def slots(fail_on_no_slot: str = "") -> list[Json]:
        refuse_unless(config.slots, "slots")
        front.check()
        found = merged_slots(await replicas.everyone(Forwarded("GET", "/slots")))
        if fail_on_no_slot and all(slot["is_processing"] for slot in found):
            raise EngineDeadError("no slot is available")
        return found

    @app.get("/props")
    async def props() -> Response:
        front.check()
        replies = await replicas.everyone(Forwarded("GET", "/props"))
        if failed := _failed(replies):
            return failed
        bodies = [json.loads(reply.body) for reply in replies]
        total = sum(body["total_slots"] for body in bodies)
        return JSONResponse(bodies[0] | {"total_slots": total, "replicas": len(bodies)})


def _add_adapters(app: FastAPI, front: Front, replicas: Replicas) -> None:
    @app.post("/lora-adapters")
    async def set_adapters(http: Request) -> Response:
        front.check()
        replies = await replicas.everyone(await forwarded(http))
        return _failed(replies) or _response(replies[0])


def merged_slots(replies: Sequence[ReplicaReply]) -> list[Json]:
    """The slots of all replicas, numbered anew; each has its replica's name, and its number there."""
    found = [
        {**slot, "replica": reply.name, "id_in_replica": slot["id"]}
        for reply in sorted(replies, key=lambda reply: reply.name)
        for slot in json.loads(reply.body)
    ]
    return [{**slot, "id": i} for i, slot in enumerate(found)]


async def forwarded(http: Request) -> Forwarded:
    """The request with its whole body, and the headers that replicas read."""
    scope = http.scope
    headers = tuple((name, value) for name, value in scope["headers"] if name in _KEPT)
    body = await http.body()
    return Forwarded(scope["method"], path_of(scope), scope["query_string"], headers, body)


async def _key_of(body: bytes) -> str | None:
    """The conversation of a request; None where a replica has to say what is wrong with its body."""
    if not body:
        return None
    try:
        if len(body) < LARGE_BODY:
            return conversation_key(parse_json(body))
        return await run_in_threadpool(lambda: conversation_key(parse_json(body)))
    except InvalidRequestError:
        return None


async def _some(replicas: Replicas) -> int:
    """How many replicas run. Raises NoReplicaError if there are none."""
    count = await replicas.count()
    if not count:
        raise NoReplicaError("no replica runs at the moment: they are started again")
    return count


def _failed(replies: Sequence[ReplicaReply]) -> Response | None:
    return next((_response(reply) for reply in replies if reply.status >= 400), None)


def _response(reply: ReplicaReply) -> Response:
    return Response(reply.body, reply.status, media_type="application/json")


async def _send_all(send: Send, messages: Sequence[Message]) -> None:
    for message in messages:
        await send(message)

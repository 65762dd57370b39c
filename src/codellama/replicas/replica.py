"""One replica: a model with the whole app over it, which answers what the front forwards; no Ray here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from codellama.engine.status import EngineStatus
from codellama.errors import EngineDeadError
from codellama.replicas.parcels import Forwarded, ResponsePiece
from codellama.server.access import AccessRecord, recorded
from codellama.server.app import create_app

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel
    from codellama.server.config import ServerConfig

Load = Callable[[], "LanguageModel"]


class Replica:
    """The app over the model that `load` gives."""

    def __init__(self, load: Load, config: ServerConfig) -> None:
        self._failure: BaseException | None = None
        self._warm = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._app = create_app(
            load,
            config,
            on_failure=self._failed,
            on_warm=lambda: loop.call_soon_threadsafe(self._warm.set),
        )
        self._lifespan = self._app.router.lifespan_context(self._app)

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        self._warm.set()

    async def start(self) -> None:
        """Load the model and warm it up. Raises what loading raised."""
        await self._lifespan.__aenter__()
        await self._warm.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Cut short what is running, and free the model."""
        await self._lifespan.__aexit__(None, None, None)

    def check(self) -> None:
        """Raises EngineDeadError if this replica has to be replaced."""
        self._app.state.serving.check_engine()

    def status(self) -> EngineStatus | None:
        """What the engine tells; None while the model sleeps or has failed."""
        with suppress(EngineDeadError):
            status: EngineStatus = self._app.state.serving.llm().status()
            return status
        return None

    async def answer(self, request: Forwarded) -> AsyncGenerator[Sequence[ResponsePiece], None]:
        """The response in pieces, as many at a time as are there; closing it cancels the request."""
        call = _Call(request)
        task = asyncio.create_task(self._app(call.scope, call.receive, call.send))
        task.add_done_callback(lambda _: call.end())
        try:
            while pieces := await call.pieces():
                yield pieces
            await task  # an app that failed before it answered
        finally:
            call.gone.set()
            await asyncio.gather(task, return_exceptions=True)

    async def whole(self, request: Forwarded) -> tuple[int, bytes]:
        """Status and body of a response that is no stream."""
        pieces = [piece async for some in self.answer(request) for piece in some]
        return pieces[0].status or 500, b"".join(piece.body for piece in pieces)


class _Call:
    """One call of the app (ASGI): what it is given, and what it sends."""

    def __init__(self, request: Forwarded) -> None:
        self.record = AccessRecord()
        self.scope: Scope = recorded(_scope_of(request), self.record)
        self.gone = asyncio.Event()
        self._body: bytes | None = request.body
        self._sent: asyncio.Queue[ResponsePiece | None] = asyncio.Queue()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self._sent.put_nowait(self._piece(message))  # now: the answers go on growing

    def end(self) -> None:
        self._sent.put_nowait(None)

    async def pieces(self) -> list[ResponsePiece]:
        """What has been sent since; nothing if that was all."""
        pieces = [await self._sent.get()]
        while not self._sent.empty():
            pieces.append(self._sent.get_nowait())
        return [piece for piece in pieces if piece is not None]

    def _piece(self, message: Message) -> ResponsePiece:
        if message["type"] == "http.response.start":
            return ResponsePiece(status=message["status"], headers=tuple(message["headers"]))
        last = not message.get("more_body", False)
        begun = any(answer.tokens for answer in self.record.answers)
        return ResponsePiece(
            message.get("body", b""),
            begun=begun,
            last=last,
            about=self.record.about() if last else "",
        )


def _scope_of(request: Forwarded) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": [(b"host", b"localhost"), *request.headers],
        "client": None,
        "server": ("localhost", 80),
        "state": {},
    }

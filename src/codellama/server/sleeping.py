"""Freeing the model while nobody asks for anything, and loading it again for the next request.

What is known of a sleeping model is told without waking it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from codellama.errors import EngineDeadError
from codellama.running.language_model import LanguageModel
from codellama.server.browser import PREFIX
from codellama.server.guard import path_of
from codellama.server.serving import Serving

ASLEEP_TOO = frozenset(
    {"/health", "/v1/health", "/props", "/models", "/v1/models", "/metrics", "/openapi.json", "/"}
)
"""Paths that are answered without waking the model, as in llama-server."""
T = TypeVar("T")


class Sleep:
    """Frees the model of `serving` after `idle_s` seconds without a request (None: never).

    All methods run on the event loop. After sleep the model is as it was loaded: its caches are empty, counts
    begin at 0, and adapters have their first scales.
    """

    def __init__(self, serving: Serving, idle_s: float | None) -> None:
        self.asleep = False
        self._serving = serving
        self._idle_s = idle_s
        self._busy = 0
        self._known: dict[str, Callable[[LanguageModel], Any]] = {}
        self._kept: dict[str, Any] = {}
        self._moving = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        serving.when_ready(self._plan)

    def remember(self, name: str, tell: Callable[[LanguageModel], T]) -> Callable[[], T]:
        """A function that gives what `tell` says of the model, or has said of it before it fell asleep."""
        self._known[name] = tell

        def recall() -> T:
            told: T = self._kept[name] if self.asleep else tell(self._serving.llm())
            return told

        return recall

    @asynccontextmanager
    async def awake(self) -> AsyncIterator[None]:
        """Keep the model awake, and wake it first. Raises what its loading raises."""
        self._busy += 1
        try:
            if self.asleep:
                await self._wake()
            yield
        finally:
            self._busy -= 1
            self._plan()

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._idle_s is not None and not self._busy and not self.asleep:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._begin)

    def _begin(self) -> None:
        if not self._busy:
            self._task = asyncio.create_task(self._fall_asleep())

    async def _fall_asleep(self) -> None:
        async with self._moving:
            try:
                llm = self._serving.llm()
            except EngineDeadError:  # it is loading, or there is none any more
                return
            kept = {name: await run_in_threadpool(tell, llm) for name, tell in self._known.items()}
            if self._busy:
                return
            self._kept, self.asleep = kept, True
            await run_in_threadpool(self._serving.unload().close)

    async def _wake(self) -> None:
        async with self._moving:
            if self.asleep:
                await self._serving.reload()
                self.asleep = False


class Waking:
    """Middleware that keeps the model awake while a request is answered that needs it."""

    def __init__(self, app: ASGIApp, sleep: Sleep) -> None:
        self._app = app
        self._sleep = sleep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        path = path_of(scope) if scope["type"] == "http" else "/"
        if path in ASLEEP_TOO or path.startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        async with self._sleep.awake():
            await self._app(scope, receive, send)

"""The access log: one line for each request, without anything that a client wrote.

`2026-01-31T12:00:00Z POST /v1/chat/completions 200 1.234s prompt=27 cached=12 answer=57 end=stop id=...`:
when it ended, method, route, status, seconds; for answers the tokens of the prompt, those of them that were
in the cache, the tokens written, why the writing ended, and the id that the answer has. A route is named as
it was declared, and `-` stands for a path that nobody knows: no text of a client's choosing gets there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama.running.collected import Collected, total_usage
from codellama.server.browser import FILES
from codellama.server.guard import path_of

log = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEALTH = frozenset({"/health", "/v1/health"})
"""Routes that are never logged: they are asked for all day."""
_RECORD = "access_record"


@dataclass
class AccessRecord:
    """What is known of a request by its end; there are `n` answers to each prompt.

    `told` is what another process says of the answers, as `about` would.
    """

    id: str = ""
    answers: Sequence[Collected] = ()
    n: int = 1
    told: str = ""
    status: int = 0
    begun: float = field(default_factory=time.perf_counter)

    def line(self, method: str, route: str) -> str:
        """The line of the log."""
        seconds = time.perf_counter() - self.begun
        # A client that left before the answer began gets no status; nginx's number stands for it.
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return f"{when} {method} {route} {self.status or 499} {seconds:.3f}s{self.about()}"

    def about(self) -> str:
        """The end of the line: what became of the answers, behind a blank; nothing if there are none."""
        if not self.answers:
            return self.told
        usage = total_usage(self.answers, self.n)
        written = sum(len(answer.tokens) for answer in self.answers)
        ends = {str(a.finish_reason.value) if a.finish_reason else "left" for a in self.answers}
        return (
            f" prompt={usage.prompt_tokens} cached={usage.cached_tokens} "
            f"answer={written} end={','.join(sorted(ends))} id={self.id}"
        )


class AccessLog:
    """Middleware that writes the log; `paths` are the routes without parameters, known by their paths."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or not log.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        record = AccessRecord()
        scope = recorded(scope, record)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = self._route(scope)
            if route not in HEALTH and (route != FILES or record.status >= 400):
                method = scope["method"] if scope["method"] in METHODS else "-"
                log.info("%s", record.line(method, route))

    def _route(self, scope: Scope) -> str:
        path = path_of(scope)
        return path if path in self._paths else getattr(scope.get("route"), "path", "-")


def recorded(scope: Scope, record: AccessRecord) -> Scope:
    """The scope of a request of which `record` will know."""
    return {**scope, "state": {**scope.get("state", {}), _RECORD: record}}


def note_told(scope: Scope, about: str) -> None:
    """Tell the log what another process says of the answers to a request."""
    record = scope.get("state", {}).get(_RECORD)
    if record is not None:
        record.told = about


def note_answers(scope: Scope, identity: str, answers: Sequence[Collected], n: int) -> None:
    """Tell the log of the answers to a request, `n` to each prompt, which go on growing."""
    record = scope.get("state", {}).get(_RECORD)
    if record is not None:
        record.id, record.answers, record.n = identity, answers, n

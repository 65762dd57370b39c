"""A route that reads its body within bounds, and tells the client what it ignored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from codellama.protocol.json_body import parse_json
from codellama.protocol.tolerance import HEADER, tolerating

log = logging.getLogger(__name__)

LARGE_BODY = 1 << 16  # bytes; a larger one takes milliseconds, which streams need not wait for
MOST_NOTICES = 1000  # names that are remembered as logged

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Notices:
    """Logs each ignored name once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def log(self, names: str) -> None:
        """`names` are those of one request, as the header has them."""
        new = [n for n in names.split(", ") if n not in self._seen]
        if new and len(self._seen) < MOST_NOTICES:
            self._seen.update(new)
            log.warning("ignored in requests, which is said once: %s", ", ".join(new))


class BoundedRequest(Request):
    """A request whose JSON keeps to `codellama.protocol.limits`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            raw = await self.body()
            if len(raw) < LARGE_BODY:
                self._json = parse_json(raw)
            else:
                self._json = await run_in_threadpool(parse_json, raw)
        return self._json


def route_class(lenient: bool) -> type[APIRoute]:
    """The class of an app's routes; with `lenient`, names that nobody knows are ignored too."""
    notices = Notices()

    class BodyRoute(APIRoute):
        """See the module."""

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()
            if self.body_field is None:
                return handle

            async def bounded(request: Request) -> Response:
                bounded_request = BoundedRequest(request.scope, request.receive)
                if await bounded_request.body():
                    await bounded_request.json()  # its errors are ours, not FastAPI's
                with tolerating(lenient) as tolerance:
                    response = await handle(bounded_request)
                if tolerance.ignored:
                    response.headers[HEADER] = tolerance.header()
                    notices.log(response.headers[HEADER])
                return response

            return bounded

    return BodyRoute

"""The door: API keys, names, content type and size of bodies, before anything is read or parsed.

Plain ASGI, so that the routes still see the client's disconnect.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama.protocol.dialects import dialect_of
from codellama.protocol.errors import Json, advice
from codellama.server.browser import is_page
from codellama.server.config import is_loopback

BROWSERS = ("origin", "sec-fetch-site")
"""Headers of which a browser adds at least one to whatever a page sends."""
PUBLIC = frozenset({"/health", "/v1/health"})


class Guard:
    """Middleware that answers 401, 403, 413 or 415 itself and lets everything else pass."""

    def __init__(
        self, app: ASGIApp, api_keys: Sequence[str], max_body_bytes: int, page: bool = False
    ) -> None:
        """Without `api_keys` only requests to a loopback name are let in. The page needs no key."""
        self._app = app
        self._keys = [key.encode() for key in api_keys]
        self._max_body = max_body_bytes
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "HEAD":  # wherever there is GET: the same, without the body
            scope, send = {**scope, "method": "GET"}, _headers_only(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, self._limited(receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        found = self._problem(path_of(scope), scope["method"], headers)
        if found is None:
            return None
        status, message = found
        body: Json = dialect_of(path_of(scope)).plain_body(status, message)
        more = {"www-authenticate": "Bearer"} if status == 401 else {}
        return JSONResponse(body, status, headers=advice(status) | more)

    def _problem(self, path: str, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and message if the request is not let in."""
        if not self._keys and not is_loopback(host_name(headers.get("host", ""))):
            # A web page may make its own name point here; then it could read what it asked for.
            message = (
                "without an API key only localhost, 127.0.0.1 and [::1] are answered: use one of "
                "these names, or start the server with an API key"
            )
            return 403, message
        if not self._is_public(path, headers) and not self._has_key(headers):
            return 401, "Invalid API Key"
        if method != "POST":
            return None
        if not _may_be_json(headers):
            return 415, "the body must be JSON: send the header Content-Type: application/json"
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body:
            return 413, self._too_large()
        return None

    def _is_public(self, path: str, headers: Headers) -> bool:
        return path in PUBLIC or (self._page and is_page(path, headers.get("accept", "")))

    def _has_key(self, headers: Headers) -> bool:
        if not self._keys:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # All keys are compared, each in constant time: the answer's timing tells nothing.
        return sum(hmac.compare_digest(given.encode(), key) for key in self._keys) > 0

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"the body must not be larger than {self._max_body} bytes"


def _headers_only(send: Send) -> Send:
    async def bodiless(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return bodiless


def host_name(header: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def path_of(scope: Scope) -> str:
    """The path of a request, without what the app is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _may_be_json(headers: Headers) -> bool:
    """Whether the body is said to be JSON, or nothing is said of it by anything but a web page.

    A form that any web page may send without asking first must not reach the model. A page can leave
    the type out too, but a browser then says where the request comes from.
    """
    content_type = headers.get("content-type")
    if content_type is None:
        return not any(name in headers for name in BROWSERS)
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )

"""The page for browsers: the files of the folder `page`, read once and served from memory.

A path is looked up among them and never opened, so no path leads elsewhere. The files hold nothing that is
anybody's, so they need no key: the page asks for one when the server does. What it may load and run is
bound by its Content-Security-Policy: its own files, and nothing that stands in an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from codellama.server.config import ServerConfig

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
PREFIX = "/page/"
FILES = PREFIX + "{name:path}"
MEDIA_TYPES: Mapping[str, str] = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
"""The kinds of files that are served; documents and licences stay in the folder."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
"""Nothing from elsewhere, nothing inline; HTML is made by the sanitizer alone."""
HEADERS: Mapping[str, str] = {
    "cache-control": "no-cache",  # kept, and asked about each time: a new version is seen at once
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "vary": "accept",
}


@dataclass(frozen=True)
class PageFile:
    """One file: its bytes, their type, and the tag by which a browser knows that it has them."""

    content: bytes
    media_type: str
    etag: str

    def response(self, request: Request) -> Response:
        """The file, or a 304 for who has it."""
        headers = {**HEADERS, "etag": self.etag}
        known = request.headers.get("if-none-match", "")
        if self.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def read_page(folder: Path = FOLDER) -> dict[str, PageFile]:
    """The page's files by their paths under `folder`, with `/` between the parts."""
    found: dict[str, PageFile] = {}
    for path in sorted(folder.rglob("*")):
        media_type = MEDIA_TYPES.get(path.suffix)
        if media_type is not None and path.is_file():
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.relative_to(folder).as_posix()] = PageFile(content, media_type, etag)
    return found


def is_page(path: str, accept: str) -> bool:
    """Whether a request is for the page: one of its files, or `/` by a client that wants HTML."""
    return path.startswith(PREFIX) or (path == "/" and wants_html(accept))


def wants_html(accept: str) -> bool:
    """Whether an Accept header names HTML, as those of browsers do when a person opens an address."""
    return any(part.partition(";")[0].strip().lower() == "text/html" for part in accept.split(","))


def add_page(app: FastAPI, config: ServerConfig) -> None:
    """Add `/`, which answers other clients as Ollama does, and the files of the page if there is one."""
    files = read_page() if config.page else {}

    @app.get("/", response_class=PlainTextResponse)
    async def root(request: Request) -> Response:
        if config.page and wants_html(request.headers.get("accept", "")):
            return files[INDEX].response(request)
        return PlainTextResponse("codellama is running", headers={"vary": "accept"})

    @app.get(FILES, include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, "Not Found")
        return files[name].response(request)

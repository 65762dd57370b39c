"""An embeddings request: submit, wait without a thread, stop when the client leaves."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive

from codellama.running.embedding import Embeddings
from codellama.server.generate import ClientGone, client_gone, cut_short, disconnected
from codellama.server.serving import Serving

if TYPE_CHECKING:
    from codellama.protocol.embeddings import EmbeddingRequest


async def embed(
    request: EmbeddingRequest, http: Request, serving: Serving, *, openai: bool
) -> Response:
    """Answer `request`, in OpenAI's shape or llama-server's."""
    llm = serving.llm()
    shape = request.is_openai(openai)
    future = await run_in_threadpool(request.submit, llm, shape)
    try:
        found = await _result(future, serving, http.receive)
    except ClientGone:
        return client_gone()
    body = await run_in_threadpool(request.body, found, llm.name, shape)
    return Response(body, media_type="application/json")


async def _result(future: Future[Embeddings], serving: Serving, receive: Receive) -> Embeddings:
    """What `future` gives; cancels it if the client leaves (ClientGone) or the server stops."""
    found = asyncio.ensure_future(asyncio.wrap_future(future))
    gone = asyncio.create_task(disconnected(receive))
    either: set[asyncio.Future[Any]] = {found, gone}
    serving.running.add(future)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if found.cancelled():
            raise cut_short()
        if not found.done():
            raise ClientGone
        return found.result()
    finally:
        serving.running.discard(future)
        future.cancel()
        gone.cancel()
        await asyncio.gather(found, gone, return_exceptions=True)

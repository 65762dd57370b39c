"""Anthropic's routes: `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from codellama.compat.replies import Json
from codellama.protocol.anthropic import MessagesRequest
from codellama.server.answering import Answering


def add_anthropic(app: FastAPI, answer: Answering) -> None:
    """Add the routes to `app`."""

    @app.post("/v1/messages")
    async def messages(body: MessagesRequest, http: Request) -> Response:
        return await answer.chat(body, http)

    @app.post("/v1/messages/count_tokens")
    async def count_tokens(body: MessagesRequest) -> Json:
        return {"input_tokens": await answer.count_chat(body)}

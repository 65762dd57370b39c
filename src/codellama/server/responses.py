"""The routes of OpenAI's Responses, and those that count the tokens of its requests for text."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from codellama.compat.replies import Json
from codellama.protocol.openai import ChatRequest
from codellama.protocol.responses import ResponsesRequest
from codellama.server.answering import Answering


def add_responses(app: FastAPI, answer: Answering) -> None:
    """Add the routes to `app`."""

    @app.post("/v1/responses")
    @app.post("/responses")
    async def responses(body: ResponsesRequest, http: Request) -> Response:
        return await answer.chat(body, http)

    @app.post("/v1/responses/input_tokens")
    @app.post("/responses/input_tokens")
    async def input_tokens(body: ResponsesRequest) -> Json:
        return _count_json(await answer.count_chat(body))

    @app.post("/v1/chat/completions/input_tokens")
    @app.post("/chat/completions/input_tokens")
    async def chat_input_tokens(body: ChatRequest) -> Json:
        return _count_json(await answer.count(body))


def _count_json(n_tokens: int) -> Json:
    return {"object": "response.input_tokens", "input_tokens": n_tokens}

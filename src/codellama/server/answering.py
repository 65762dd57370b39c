"""What the routes of all dialects do with a request for text: answer it, or count its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from codellama.errors import InvalidRequestError
from codellama.protocol.tools import ToolFields
from codellama.protocol.translated import TranslatedChat
from codellama.running.language_model import LanguageModel
from codellama.server.config import ServerConfig
from codellama.server.generate import GenerationRequest, generate
from codellama.server.serving import Serving


class Translatable(Protocol):
    """A body of another dialect (see `codellama.protocol.translated`)."""

    def chat(self) -> TranslatedChat: ...


@dataclass(frozen=True)
class Answering:
    """Answers requests of any dialect as the server was configured."""

    serving: Serving
    config: ServerConfig

    async def __call__(self, body: GenerationRequest, http: Request) -> Response:
        """The answer, whole or as a stream."""
        self._prepare(body)
        return await generate(body, http, self.serving, self.config.ping_interval)

    async def chat(self, body: Translatable, http: Request) -> Response:
        """The answer to a body of another dialect."""
        return await self(await run_in_threadpool(body.chat), http)

    async def count_chat(self, body: Translatable) -> int:
        """How many tokens the prompt of such a body has."""
        return await self.count(await run_in_threadpool(body.chat))

    async def count(self, body: GenerationRequest) -> int:
        """How many tokens the prompt has; nothing is decoded."""
        self._prepare(body)
        return await run_in_threadpool(_count, body, self.serving.llm())

    def _prepare(self, body: GenerationRequest) -> None:
        body.default_to(self.config.sampling, self.config.verbose)
        if not self.config.tools and isinstance(body, ToolFields):
            body.forbid_calls()


def _count(body: GenerationRequest, llm: LanguageModel) -> int:
    try:
        return sum(len(prompt.tokens) for prompt in body.prompts(llm))
    except InvalidRequestError as error:
        body.respell(error)
        raise

"""Ollama's routes: `/api/chat`, `/api/generate`, `/api/embed`, and those that tell about the model."""

from __future__ import annotations

from fastapi import FastAPI, Request
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from codellama.compat.replies import Json
from codellama.errors import ModelLoadError
from codellama.protocol.ollama import OllamaChatRequest, OllamaGenerateRequest
from codellama.protocol.ollama_embed import OllamaEmbedRequest, OllamaOldEmbedRequest
from codellama.protocol.ollama_models import (
    API_VERSION,
    ModelFile,
    ShowRequest,
    is_named,
    ps_json,
    show_json,
    tags_json,
)
from codellama.running.language_model import LanguageModel
from codellama.server.answering import Answering
from codellama.server.embed import embed
from codellama.server.serving import Serving


def add_ollama(app: FastAPI, answer: Answering) -> None:
    """Add the routes to `app`."""
    _add_generation(app, answer)
    _add_information(app, answer.serving, tools=answer.config.tools)


def _add_generation(app: FastAPI, answer: Answering) -> None:
    async def answer_or_loaded(
        body: OllamaChatRequest | OllamaGenerateRequest, http: Request
    ) -> Response:
        loaded = body.load_answer(answer.serving.llm().name)
        return JSONResponse(loaded) if loaded else await answer.chat(body, http)

    @app.post("/api/chat")
    async def chat(body: OllamaChatRequest, http: Request) -> Response:
        return await answer_or_loaded(body, http)

    @app.post("/api/generate")
    async def generate(body: OllamaGenerateRequest, http: Request) -> Response:
        return await answer_or_loaded(body, http)

    @app.post("/api/embed")
    async def embeddings(body: OllamaEmbedRequest, http: Request) -> Response:
        return await embed(body, http, answer.serving, openai=False)

    @app.post("/api/embeddings")
    async def one_embedding(body: OllamaOldEmbedRequest, http: Request) -> Response:
        return await embed(body, http, answer.serving, openai=False)


def _add_information(app: FastAPI, serving: Serving, *, tools: bool) -> None:
    @app.get("/api/version")
    async def version() -> Json:
        return {"version": API_VERSION}

    @app.get("/api/tags")
    async def tags() -> Json:
        llm = serving.llm()
        return tags_json(llm, await run_in_threadpool(_file, llm, serving.created))

    @app.get("/api/ps")
    async def running() -> Json:
        llm = serving.llm()
        return ps_json(llm, await run_in_threadpool(_file, llm, serving.created))

    @app.post("/api/show")
    async def show(body: ShowRequest) -> Response:
        llm = serving.llm()
        if not is_named(llm, body.model):
            raise HTTPException(404, f"model '{body.model}' not found; this server has {llm.name}")
        file = await run_in_threadpool(_file, llm, serving.created)
        shown = await run_in_threadpool(show_json, llm, file, tools=tools, verbose=body.verbose)
        return Response(to_json(shown, inf_nan_mode="null"), media_type="application/json")


def _file(llm: LanguageModel, started: int) -> ModelFile:
    """What the disk says of the model; a file that is gone by now is as old as the server."""
    # Both bring llama.cpp, without which the server listens sooner; a model has loaded it by now.
    from codellama.files.provenance import read_manifest
    from codellama.native.ggml import file_types

    path = llm.plan.model.path
    try:
        modified = path.stat().st_mtime
    except OSError:
        modified = started
    try:
        sha256 = read_manifest(path)[0].sha256
    except ModelLoadError:
        sha256 = ""
    kind = llm.metadata.get("general.file_type")
    names = [name for name, number in file_types().items() if number == kind]
    return ModelFile(modified, sha256, names[0] if names else "unknown")

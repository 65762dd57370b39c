"""The routes: OpenAI's under `/v1`, llama-server's beside them, the other dialects'; one app over one model.

`create_app` takes a function that loads the model, so that `/health` answers while it runs. Every
error leaves in the body of its route's dialect (see `codellama.protocol.dialects`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from codellama.compat.replies import Json
from codellama.errors import CodeLlamaError, EngineDeadError, QueueFullError, UnsupportedError
from codellama.protocol.dialects import dialect_of
from codellama.protocol.embeddings import EmbeddingRequest
from codellama.protocol.errors import advice, error_body, validation_error
from codellama.protocol.llama_server import (
    DetokenizeRequest,
    InfillRequest,
    NativeRequest,
    TemplateRequest,
    TokenizeRequest,
    tokenizer_info,
)
from codellama.protocol.lora import adapters_json, parse_lora
from codellama.protocol.mistral import FimRequest
from codellama.protocol.openai import ChatRequest, CompletionRequest, model_json, models_json
from codellama.protocol.tolerance import HEADER
from codellama.server.access import AccessLog
from codellama.server.answering import Answering
from codellama.server.anthropic import add_anthropic
from codellama.server.browser import add_page
from codellama.server.config import ServerConfig
from codellama.server.embed import embed
from codellama.server.guard import Guard, path_of
from codellama.server.llama_server import add_llama_server
from codellama.server.models import model_meta
from codellama.server.ollama import add_ollama
from codellama.server.responses import add_responses
from codellama.server.route import route_class
from codellama.server.serving import Loading, Serving
from codellama.server.sleeping import Sleep, Waking

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

RETRY_AFTER_S = 1
LOCALHOST = "localhost"
LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""What the origin "localhost" stands for: pages of this machine, at any port."""


def create_app(
    load: Callable[[], LanguageModel],
    config: ServerConfig | None = None,
    on_failure: Callable[[BaseException], None] | None = None,
    loading: Loading | None = None,
    on_warm: Callable[[], object] | None = None,
) -> FastAPI:
    """The application. `load` is called once, on its own thread; the app closes what it returns.

    `app.state.serving` is the `Serving` behind it. `on_failure` hears of a failed load, and `on_warm` is
    called when the model is ready and warmed up. If `load` tells its progress to `loading`, `/health` has
    it meanwhile.
    """
    config = config or ServerConfig()
    name = config.aliases[0] if config.aliases else None
    serving = Serving(load, on_failure, name, loading, on_warm)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        serving.start()
        yield
        await run_in_threadpool(serving.close)

    app = FastAPI(
        title="codellama",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        strict_content_type=False,  # the guard's business
    )
    app.state.serving = serving
    app.router.route_class = route_class(config.lenient)
    sleep = Sleep(serving, config.sleep_idle_seconds)
    add_errors(app)
    _add_information(app, serving, config, sleep)
    add_llama_server(app, serving, config, sleep)
    answer = Answering(serving, config)
    _add_generation(app, answer)
    add_anthropic(app, answer)
    add_responses(app, answer)
    add_ollama(app, answer)
    _add_embeddings(app, serving)
    _add_text_tools(app, serving, config)
    _add_adapters(app, serving)
    add_page(app, config)
    app.add_middleware(Waking, sleep=sleep)
    add_door(app, config, paths_of(app))
    return app


def paths_of(app: FastAPI) -> frozenset[str]:
    """The paths of an app's routes that have no parameters in them."""
    paths = [getattr(route, "path", "{") for route in app.routes]
    return frozenset(path for path in paths if "{" not in path)


def add_door(app: FastAPI, config: ServerConfig, paths: Iterable[str]) -> None:
    """What a request passes first; the access log knows `paths`. What is added last comes first."""
    app.add_middleware(
        Guard,
        api_keys=config.api_keys,
        max_body_bytes=config.max_body_bytes,
        page=config.page,
    )
    if config.cors_origins:
        app.add_middleware(
            Pages,
            allow_origins=config.cors_origins,
            allow_origin_regex=LOCAL_ORIGINS if LOCALHOST in config.cors_origins else None,
            allow_methods=["GET", "POST", "DELETE", "OPTIONS"],  # llama-server's
            allow_headers=["*"],
            allow_credentials=True,  # some pages send them wherever they ask; nothing hangs on them
            expose_headers=[HEADER],
        )
    if config.access_log:
        app.add_middleware(AccessLog, paths=frozenset(paths))


class Pages(CORSMiddleware):
    """Tells browsers which web pages may call. A page that may not hears nothing of it, as of llama-server:
    its browser keeps it from calling."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks first."""
        response = super().preflight_response(request_headers)
        if response.status_code == 400:
            return Response(headers={"vary": "Origin"})
        return response


def _add_information(app: FastAPI, serving: Serving, config: ServerConfig, sleep: Sleep) -> None:
    about = sleep.remember("model", lambda llm: (llm.name, model_meta(llm)))
    healthy = sleep.remember("health", lambda llm: {"status": "ok"})
    names = {"aliases": list(config.aliases), "tags": list(config.tags)}

    @app.get("/v1/health")
    @app.get("/health")
    async def health() -> Response:
        try:
            return JSONResponse(healthy())
        except EngineDeadError as error:
            share = serving.loading.share
            if share is None:
                raise
            status, body = error_body(error)
            return JSONResponse(body | {"progress": share}, status)

    @app.get("/v1/models")
    @app.get("/models")
    async def models() -> Json:
        name, meta = await run_in_threadpool(about)
        return models_json(name, serving.created, meta, names)

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Json:
        llm = serving.llm()
        if model not in (llm.name, llm.path.stem, *config.aliases):
            raise HTTPException(404, f"the model {model!r} is not here; this server has {llm.name}")
        meta = await run_in_threadpool(model_meta, llm)
        return model_json(llm.name, serving.created, meta, names)


def _add_generation(app: FastAPI, answer: Answering) -> None:
    @app.post("/v1/chat/completions")
    @app.post("/chat/completions")
    async def chat_completions(body: ChatRequest, http: Request) -> Response:
        return await answer(body, http)

    @app.post("/v1/completions")
    async def openai_completions(body: CompletionRequest, http: Request) -> Response:
        return await answer(body, http)

    @app.post("/completion")
    @app.post("/completions")
    async def completion(body: NativeRequest, http: Request) -> Response:
        return await answer(body, http)

    @app.post("/v1/fim/completions")
    async def fim_completions(body: FimRequest, http: Request) -> Response:
        return await answer.chat(body, http)

    @app.post("/infill")
    async def infill(body: InfillRequest, http: Request) -> Response:
        return await answer(body, http)


def _add_embeddings(app: FastAPI, serving: Serving) -> None:
    @app.post("/v1/embeddings")
    async def openai_embeddings(body: EmbeddingRequest, http: Request) -> Response:
        return await embed(body, http, serving, openai=True)

    @app.post("/embedding")
    @app.post("/embeddings")
    async def embeddings(body: EmbeddingRequest, http: Request) -> Response:
        return await embed(body, http, serving, openai=False)


def _add_text_tools(app: FastAPI, serving: Serving, config: ServerConfig) -> None:
    @app.post("/tokenize")
    def tokenize(body: TokenizeRequest) -> Json:
        llm = serving.llm()
        return body.answer(llm.tokenizer, llm.n_ctx)

    @app.get("/tokenizer_info")
    def info() -> Json:
        llm = serving.llm()
        return tokenizer_info(llm.tokenizer, llm.metadata.get("tokenizer.chat_template"))

    @app.post("/detokenize")
    def detokenize(body: DetokenizeRequest) -> Json:
        return body.answer(serving.llm().tokenizer)

    @app.post("/apply-template")
    def apply_template(body: TemplateRequest) -> Json:
        llm = serving.llm()
        if llm.chat_format is None:
            raise UnsupportedError(f"{llm.name} has no chat format")
        if not config.tools:
            body.forbid_calls()
        return body.answer(llm, llm.chat_format)


def _add_adapters(app: FastAPI, serving: Serving) -> None:
    @app.get("/lora-adapters")
    async def adapters() -> list[Json]:
        return adapters_json(serving.llm().adapters)

    @app.post("/lora-adapters")
    async def set_adapters(body: Annotated[Any, Body()]) -> Json:
        serving.llm().set_adapters(parse_lora(body))
        return {"success": True}


def add_errors(app: FastAPI) -> None:
    """Answer errors in the dialect of their route."""

    @app.exception_handler(CodeLlamaError)
    @app.exception_handler(UnicodeEncodeError)
    async def known(request: Request, error: Exception) -> Response:
        status, body = dialect_of(path_of(request.scope)).error_body(error)
        headers = advice(status)
        if isinstance(error, QueueFullError):
            headers["retry-after"] = str(RETRY_AFTER_S)
        return JSONResponse(body, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        refusal = validation_error(error.errors())
        status, body = dialect_of(path_of(request.scope)).error_body(refusal)
        return JSONResponse(body, status, headers=advice(status))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        dialect = dialect_of(path_of(request.scope))
        body = dialect.plain_body(error.status_code, error.detail)
        headers = {**advice(error.status_code), **(error.headers or {})}
        return JSONResponse(body, error.status_code, headers=headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        status, body = dialect_of(path_of(request.scope)).error_body(error)
        return JSONResponse(body, status)

"""What llama-server tells of itself: `/props`, `/slots` and `/metrics`, and the slots' states on disk."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from codellama.compat.replies import Json
from codellama.engine.status import EngineStatus
from codellama.errors import EngineDeadError, InvalidRequestError, UnsupportedError
from codellama.protocol.properties import SlotFile, moved_json, props_json, slots_json
from codellama.running.completion import Completion
from codellama.server.config import ServerConfig
from codellama.server.metrics import CONTENT_TYPE, STARTED, Metrics
from codellama.server.serving import Serving
from codellama.server.sleeping import Sleep


def add_llama_server(app: FastAPI, serving: Serving, config: ServerConfig, sleep: Sleep) -> None:
    """Add these routes."""
    metrics = Metrics()
    status = sleep.remember("status", lambda llm: llm.status())
    about = sleep.remember("props", lambda llm: props_json(llm, config.sampling, config.tools))
    endpoints = {
        "endpoint_slots": config.slots,
        "endpoint_props": config.props,
        "endpoint_metrics": config.metrics,
    }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        refuse_unless(config.metrics, "metrics")
        return metrics_page(metrics, await run_in_threadpool(status))

    @app.get("/props")
    async def props() -> Json:
        return about() | endpoints | {"is_sleeping": sleep.asleep}

    @app.post("/props")
    async def set_props() -> Json:
        refuse_unless(config.props, "props")
        return {"success": True}  # as in llama-server there is nothing to set

    @app.get("/slots")
    async def slots(fail_on_no_slot: str = "") -> list[Json]:
        refuse_unless(config.slots, "slots")
        llm = serving.llm()
        found = await run_in_threadpool(llm.slots.status)
        if fail_on_no_slot and all(slot.task is not None for slot in found):
            raise EngineDeadError("no slot is available")
        running = [one for one in serving.running if isinstance(one, Completion)]
        return slots_json(found, running, llm.n_ctx, llm.config.spec_draft_n_max > 0)

    _add_actions(app, serving, config)


def metrics_page(metrics: Metrics, status: EngineStatus) -> Response:
    """The response of `/metrics`."""
    page = PlainTextResponse(metrics.render(status), media_type=CONTENT_TYPE)
    # Some clients look for the name as llama-server spells it; `headers` would be in small letters.
    page.raw_headers.append((STARTED.encode(), str(metrics.started).encode()))
    return page


def _add_actions(app: FastAPI, serving: Serving, config: ServerConfig) -> None:
    @app.post("/slots/{id_slot}")
    async def act(
        id_slot: int, action: Literal["save", "restore", "erase"], body: SlotFile | None = None
    ) -> Json:
        refuse_unless(config.slot_save_path is not None, "slot_save_path")
        slots, began = serving.llm().slots, time.perf_counter()
        if action == "erase":
            return {
                "id_slot": id_slot,
                "n_erased": await run_in_threadpool(slots.erase_slot, id_slot),
            }
        if body is None:
            raise InvalidRequestError("{param} is missing", "filename")
        assert config.slot_save_path is not None
        path = body.within(config.slot_save_path)
        do = slots.save_slot if action == "save" else slots.restore_slot
        n_tokens = await run_in_threadpool(do, id_slot, path)
        elapsed_ms = 1000 * (time.perf_counter() - began)
        return moved_json(id_slot, path, n_tokens, elapsed_ms, saved=action == "save")


def refuse_unless(allowed: bool, setting: str) -> None:
    """A 501 for what this server was not started with."""
    if not allowed:
        raise UnsupportedError(
            f"this server does not answer this route: it was started without {setting}"
        )

"""What was planned is what is opened, and everybody is told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import codellama
from codellama import LLM, LoadPlan
from codellama.cli import main
from codellama.errors import UnsupportedError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.identity import weights_digest
from codellama.native.context import Context
from codellama.native.library import library
from codellama.native.model import Model
from codellama.native.settings import ContextSettings, WeightSettings
from codellama.params import ModelConfig
from codellama.running.kv_file import Owner, settings_digest
from tests.inside import core
from tests.live_server import running


@pytest.mark.parametrize(
    "options",
    [
        {"n_seq_max": 3, "n_ctx": 256},  # llama.cpp rounds cells up to a multiple of 256
        {"kv_cells": 512, "n_seq_max": 1},
        {"n_ctx": 256, "draft_model": True, "embeddings": True, "n_seq_max": 2},
    ],
)
def test_the_plan_is_what_was_opened(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    contexts: list[tuple[ContextSettings, int]] = []
    weights: list[WeightSettings | None] = []
    make_context, make_model = Context.__init__, Model.__init__

    def context(self: Context, model: Model, settings: ContextSettings) -> None:
        make_context(self, model, settings)
        contexts.append((settings, self.cells))

    def model(self: Model, path: Path, settings: WeightSettings, *rest: object) -> None:
        weights.append(settings)
        make_model(self, path, settings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "__init__", context)
    monkeypatch.setattr(Model, "__init__", model)
    if "draft_model" in options:
        options = {**options, "draft_model": tiny_gguf}
    with LLM(tiny_gguf, n_threads=1, **options) as llm:
        plan = llm.plan
        assert isinstance(plan, LoadPlan)
        assert (llm.n_ctx, llm.config.n_seq_max) == (plan.n_ctx, plan.model.context.n_seq_max)
        assert plan.model.weight_bytes == core(llm).model.size
        if plan.encoder is not None:
            llm.embed("text")
    planned = [plan.model.context]
    planned += [part.context for part in (plan.draft,) if part is not None]
    planned += [part for part in (plan.encoder,) if part is not None]
    assert [settings for settings, _ in contexts] == planned
    assert [cells for _, cells in contexts] == [settings.cells for settings in planned]
    drafts = [plan.draft.weights] if plan.draft else []
    assert weights == [plan.model.weights, *drafts]


@pytest.mark.skipif(bool(library().gpus()), reason="GPU layers are no error on this machine")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_gpu_layers": 3}, "^n_gpu_layers=3 was asked for"),
        ({"draft_model": True, "draft_gpu_layers": "all"}, "^draft_gpu_layers=all was asked for"),
        ({"context_shift": True, "type_k": "bf16"}, "^context_shift: "),
    ],
)
def test_what_cannot_be_is_said_before_weights_are_read(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(Model, "__init__", None)  # calling it would be another error
    if "draft_model" in options:
        options = {**options, "draft_model": tiny_gguf}
    with pytest.raises(UnsupportedError, match=message):
        LLM(tiny_gguf, **options)


def test_loading_logs_the_plan(tiny_gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "codellama"),
        LLM(tiny_gguf, n_threads=1, n_ctx=2048) as llm,
    ):
        told = [record for record in caplog.records if record.name == "codellama.devices.plan"]
    messages = [record.getMessage() for record in told]
    assert str(llm.plan) == "\n".join(m for m in messages if "tiny.gguf: " not in m)
    warned = [record.getMessage() for record in told if record.levelno == logging.WARNING]
    assert warned == [f"tiny.gguf: {llm.plan.warnings[0]}"]
    assert "2048 tokens are more than the 1024 the model was trained for" in warned[0]


def test_the_command_line_warns_of_a_context_that_is_too_long(tiny_gguf: Path) -> None:
    arguments = ["complete", str(tiny_gguf), "x", "--max-tokens", "1"]
    long = CliRunner().invoke(main, [*arguments, "-c", "2048"])
    assert long.exit_code == 0, long.output
    assert "2048 tokens are more than the 1024 the model was trained for" in long.stderr
    assert CliRunner().invoke(main, [*arguments, "-c", "1024"]).stderr == ""


def test_inspect_shows_how_the_file_would_be_loaded(tiny_gguf: Path) -> None:
    text = CliRunner().invoke(main, ["inspect", str(tiny_gguf)]).stdout
    block = text.partition("would load as\n")[2]
    document = json.loads(CliRunner().invoke(main, ["inspect", str(tiny_gguf), "--json"]).stdout)
    with LLM(tiny_gguf) as llm:
        *lines, verdict = block.splitlines()
        assert [line.removeprefix("  ") for line in lines] == str(llm.plan).splitlines()
        assert verdict.startswith("here it runs: 3 layers on ")
        assert document["would_load_as"] == llm.plan.to_json()


def test_inspect_reads_no_weights(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []
    original = Model.__init__

    def opening(self: Model, path: Path, settings: WeightSettings, *rest: Any) -> None:
        opened.append(settings.vocab_only)
        original(self, path, settings, *rest)

    monkeypatch.setattr(Model, "__init__", opening)
    assert "would load as" in CliRunner().invoke(main, ["inspect", str(tiny_gguf)]).stdout
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes().replace(b"blk.1.ffn_up", b"blk.1.ffn_UP"))
    result = CliRunner().invoke(main, ["inspect", str(cut)])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith(
        f"would not load: {cut}: 'blk.1.ffn_UP.weight'"
    )
    assert opened == [True], "only the vocabulary, for the stops"


def test_the_server_shows_the_plan(tiny_gguf: Path) -> None:
    llm = LLM(tiny_gguf, n_threads=1)
    with running(lambda: llm) as live, live.client() as client:
        meta = client.get("/v1/models").json()["data"][0]["meta"]
        props = client.get("/props").json()
    assert props["plan"] == llm.plan.to_json()
    assert props["plan"]["line"] == llm.plan.line
    assert meta["plan"] == llm.plan.to_json()
    assert (meta["n_params"], meta["size"]) == (
        llm.plan.model.n_params,
        llm.plan.model.weight_bytes,
    )


def test_whose_a_state_on_disk_is(tiny_gguf: Path) -> None:
    config = ModelConfig(n_seq_max=1, type_k="bf16", rope_freq_scale=0.5, n_threads=1)
    with LLM(tiny_gguf, n_seq_max=1, type_k="bf16", rope_freq_scale=0.5, n_threads=1) as llm:
        version, attention = library().version, "auto" if library().gpus() else "off"
        settings = settings_digest(version, "bf16", "f16", attention, config.rope, [])
        assert core(llm).slots.owner == Owner(weights_digest(read_gguf_header(tiny_gguf)), settings)


def test_the_plan_s_class_is_public() -> None:
    assert "LoadPlan" in codellama.__all__

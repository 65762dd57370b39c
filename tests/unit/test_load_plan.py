"""The plan of a load on machines that nobody owns: what is chosen, and the reasons."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from codellama.devices.contexts import context_settings
from codellama.devices.fitting import MARGIN
from codellama.devices.placement import spread
from codellama.devices.planner import plan_load
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.files.gguf_header import Value, ValueType
from codellama.params import ModelConfig
from tests.made_up import GIB, header_70b, machine

# What otherwise free cards sold as 24, 48 and 80 GB have left for programs, in GiB.
FREE = {24: 23.65, 48: 47.23, 80: 79.1}


@pytest.mark.parametrize(
    ("type_name", "layers"),
    [
        ("Q2_K", (63, 81, 81)),
        ("Q3_K_M", (50, 81, 81)),
        ("Q4_K_M", (41, 81, 81)),
        ("Q5_K_M", (36, 74, 81)),
        ("Q6_K", (31, 64, 81)),
        ("Q8_0", (25, 51, 81)),
    ],
)
def test_the_70b_has_the_layers_on_a_gpu_that_the_documents_promise(
    type_name: str, layers: tuple[int, ...]
) -> None:
    header = header_70b(type_name)
    plans = [plan_load(header, ModelConfig(), machine(64, free)) for free in FREE.values()]
    assert all(plan.cells == 4 * 4096 for plan in plans)
    assert tuple(plan.model.weights.n_gpu_layers for plan in plans) == layers
    for plan in plans:
        assert sum(p.layers for p in plan.model.placements) == 81
        assert sum(p.weights for p in plan.model.placements) == plan.model.weight_bytes
        assert sum(p.kv for p in plan.model.placements) == plan.model.kv_bytes


def test_without_a_gpu() -> None:
    config = ModelConfig(n_threads=7)
    plan = plan_load(header_70b("Q4_K_M"), config, machine(64))
    assert (plan.n_ctx, plan.n_ctx_train, plan.cells) == (4096, 4096, 16384), "not the file's 2048"
    assert plan.model.kv_bytes == 16384 * 327_680
    assert plan.model.kv_bytes_per_cell == 327_680
    (cpu,) = plan.model.placements
    assert (cpu.device, cpu.layers, cpu.nbytes) == ("CPU", 81, plan.host_bytes)
    assert (cpu.weights, cpu.kv) == (plan.model.weight_bytes, plan.model.kv_bytes)
    assert plan.prompt_cache_bytes == 4 * GIB
    assert plan.model.context == context_settings(config, 16384)
    assert (plan.encoder, plan.draft, plan.foreign_tokens) == (None, None, frozenset())
    assert plan.shift_problem is None
    assert plan.model.weights.overrides == {
        "tokenizer.ggml.eot_token_id": 32015,
        "tokenizer.ggml.add_space_prefix": False,
    }
    assert plan.reasons == (
        "context: 4096 tokens, what the model was trained for",
        "cells: 16384, a full context for each of 4 requests",
        "layers: all on the CPU: llama.cpp sees no GPU",
        "main memory: 30.6 GiB of weights rearranged: all of it fits the free memory",
        "attention: llama.cpp decides: several requests at a time on a CPU",
        "prompt cache: at most 4.0 GiB, for 64.0 GiB of memory",
        "threads: as asked for",
    )
    assert plan.warnings == ()


def test_with_a_gpu_the_reason_has_the_numbers() -> None:
    plan = plan_load(header_70b("Q4_K_M"), ModelConfig(), machine(64, 24))
    gpu, cpu = plan.model.placements
    assert (gpu.device, gpu.layers, cpu.device, cpu.layers) == ("CUDA0", 42, "CPU", 39)
    assert 0 <= 24 * GIB - MARGIN - gpu.nbytes < plan.model.weight_bytes / 80
    assert "layers: 42 of 81 on CUDA0: 24.0 GiB on CUDA0 are free, 1.0 GiB kept free" in (
        plan.reasons
    )
    assert "attention: llama.cpp decides for the GPU" in plan.reasons
    assert plan.host_bytes == cpu.nbytes


def test_two_gpus_share_the_layers_by_their_free_memory() -> None:
    plan = plan_load(header_70b("Q4_K_M"), ModelConfig(), machine(64, 24, 12))
    first, second, cpu = plan.model.placements
    assert (first.device, second.device, cpu.device) == ("CUDA0", "CUDA1", "CPU")
    assert first.layers + second.layers == plan.model.weights.n_gpu_layers == 62
    assert (first.layers, second.layers) == (42, 20)
    assert first.nbytes <= 24 * GIB - MARGIN
    assert second.nbytes <= 12 * GIB - MARGIN


def test_a_wish_for_the_split_is_followed() -> None:
    header, gpus = header_70b("Q4_K_M"), machine(64, 48, 48)
    told = plan_load(header, ModelConfig(n_gpu_layers="all", tensor_split=(1.0, 2.0)), gpus)
    assert [p.layers for p in told.model.placements] == [27, 54, 0]
    one = plan_load(header, ModelConfig(n_gpu_layers=30, split_mode="none", main_gpu=1), gpus)
    assert [(p.device, p.layers) for p in one.model.placements] == [("CUDA1", 30), ("CPU", 51)]
    assert "layers: 30 of 81 on CUDA1, as asked for" in one.reasons


def test_a_cache_that_is_not_offloaded_stays_in_memory() -> None:
    header, gpu = header_70b("Q4_K_M"), machine(64, 24)
    with_cache = plan_load(header, ModelConfig(), gpu)
    without = plan_load(header, ModelConfig(offload_kqv=False), gpu)
    assert without.model.weights.n_gpu_layers > with_cache.model.weights.n_gpu_layers
    for plan in (with_cache, without):
        assert sum(p.kv for p in plan.model.placements) == plan.model.kv_bytes
    assert without.model.placements[0].kv == 0
    assert without.host_bytes > without.model.kv_bytes


def test_gpu_layers_without_a_gpu_are_an_error() -> None:
    header = header_70b("Q4_K_M")
    with pytest.raises(UnsupportedError, match="^n_gpu_layers=all was asked for.*set n_gpu_layers"):
        plan_load(header, ModelConfig(n_gpu_layers="all"), machine(64))
    with pytest.raises(UnsupportedError, match="^draft_gpu_layers=3 .*set draft_gpu_layers to"):
        config = ModelConfig(draft_model="d.gguf", draft_gpu_layers=3)
        plan_load(header, config, machine(64), header)
    assert plan_load(header, ModelConfig(n_gpu_layers=0), machine(64)).cells


def test_a_context_beyond_the_trained_one_is_said() -> None:
    header = header_70b("Q2_K")
    fine = plan_load(header, ModelConfig(n_ctx=4096), machine(64))
    assert fine.warnings == ()
    assert "context: 4096 tokens, as asked for" in fine.reasons
    plan = plan_load(header, ModelConfig(n_ctx=16384, beyond_training=True), machine(64))
    assert plan.n_ctx == 16384, "it is said, not refused"
    assert len(plan.warnings) == 1
    assert plan.warnings[0].startswith(
        "context: 16384 tokens are more than the 4096 the model was trained for"
    )
    assert plan.warnings[0] in plan.reasons


def test_a_70b_beyond_its_training_is_refused_unless_that_is_meant() -> None:
    header = header_70b("Q2_K")
    with pytest.raises(
        InvalidRequestError, match="n_ctx is 4097 and .* for 4096: set beyond_train"
    ):
        plan_load(header, ModelConfig(n_ctx=4097), machine(64))
    stretched = ModelConfig(n_ctx=8192, rope_scaling="yarn", rope_freq_scale=0.5)
    assert plan_load(header, stretched, machine(64)).n_ctx == 8192


def test_cells_bound_the_context() -> None:
    plan = plan_load(header_70b("Q2_K"), ModelConfig(kv_cells=1000), machine(64))
    assert (plan.n_ctx, plan.cells) == (1000, 1000)
    assert plan.reasons[:2] == (
        "context: 1000 tokens, all the cells there are",
        "cells: 1000, as asked for",
    )


def test_what_does_not_fit_is_said() -> None:
    header = header_70b("Q4_K_M")
    small = plan_load(header, ModelConfig(), machine(23.4))
    assert small.host_bytes > small.memory_bytes
    assert len(small.warnings) == 1
    assert small.warnings[0].startswith(
        "memory: 41.8 GiB do not fit the 23.4 GiB that are free, weights will come from the disk"
    )
    tight = plan_load(header, ModelConfig(cache_ram=30_000), machine(64))
    assert tight.warnings == (
        "memory: beside 43.8 GiB of weights and KV cache the prompt cache may outgrow the 64.0 GiB that are "
        "free: give it a smaller bound",
    )
    assert plan_load(header, ModelConfig(), machine(23.4, 80)).warnings == ()


@pytest.mark.parametrize(
    ("options", "gpus", "chosen", "why"),
    [
        ({"n_seq_max": 1}, (), "off", "flash attention off: one request at a time on a CPU"),
        ({"n_seq_max": 2}, (), "auto", "llama.cpp decides: several requests at a time on a CPU"),
        ({"n_seq_max": 1, "n_ctx": 8192, "beyond_training": True}, (), "auto",
         "llama.cpp decides: without flash attention scores would take over 512.0 MiB"),
        ({"n_seq_max": 1}, (24.0,), "auto", "llama.cpp decides for the GPU"),
        ({"n_seq_max": 1, "n_gpu_layers": 0}, (24.0,), "off",
         "flash attention off: one request at a time on a CPU"),
        ({"flash_attn": "on"}, (), "on", "flash attention on, as asked for"),
        ({"n_seq_max": 1, "type_v": "q8_0"}, (), "auto",
         "llama.cpp decides; values of type q8_0 need flash attention"),
    ],
)  # fmt: skip
def test_attention(
    options: dict[str, object], gpus: tuple[float, ...], chosen: str, why: str
) -> None:
    plan = plan_load(header_70b("Q4_K_M"), ModelConfig.of(**options), machine(64, *gpus))
    assert plan.model.context.flash_attn == chosen
    assert f"attention: {why}" in plan.reasons


def test_embeddings_have_a_context_whose_cells_are_counted() -> None:
    header, gpu = header_70b("Q4_K_M"), machine(64, 24)
    plain = plan_load(header, ModelConfig(n_seq_max=1), gpu)
    plan = plan_load(header, ModelConfig(n_seq_max=1, embeddings=True), gpu)
    encoder = plan.encoder
    assert encoder is not None
    assert encoder.embeddings
    assert (encoder.cells, encoder.n_batch, encoder.n_seq_max) == (4096 + 256, 256, 256)
    assert plan.cells == 4096
    assert plan.model.kv_bytes == (4096 + 4096 + 256) * 327_680
    assert plan.model.weights.n_gpu_layers < plain.model.weights.n_gpu_layers


def test_a_draft_model_gets_what_the_model_leaves() -> None:
    header = header_70b("Q2_K")
    config = ModelConfig(draft_model="d.gguf")
    roomy = plan_load(header, config, machine(64, 80), header)
    assert roomy.draft is not None
    assert roomy.draft.context.cells == roomy.cells
    assert roomy.model.weights.n_gpu_layers == 81
    assert roomy.draft.weights.n_gpu_layers == 81
    full = plan_load(header, config, machine(64, 24), header)
    assert full.draft is not None
    assert full.draft.weights.n_gpu_layers == 0
    assert full.host_bytes == full.model.host_bytes + full.draft.host_bytes


def test_a_draft_model_with_another_vocabulary_is_an_error() -> None:
    header = header_70b("Q2_K")
    tokens = [*header.metadata["tokenizer.ggml.tokens"]]
    tokens[5] = "{braces}"
    values = {
        **header.values,
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, tokens, ValueType.STRING),
    }
    other = dataclasses.replace(header, values=values)
    with pytest.raises(InvalidRequestError, match="^draft_model: .*token 5 is '{braces}' there"):
        plan_load(header, ModelConfig(draft_model="d.gguf"), machine(64), other)
    tokens[5], tokens[-1] = "5", "▁<EOT>"
    plan = plan_load(header, ModelConfig(draft_model="d.gguf"), machine(64), other)
    assert plan.foreign_tokens == {32015}


def test_a_shift_that_cannot_be_is_an_error_if_it_is_asked_for() -> None:
    header = header_70b("Q2_K")
    plan = plan_load(header, ModelConfig(type_k="bf16"), machine(64))
    assert plan.shift_problem is not None
    assert "bf16" in str(plan)
    with pytest.raises(UnsupportedError, match="context_shift: .*bf16"):
        plan_load(header, ModelConfig(type_k="bf16", context_shift=True), machine(64))
    unrotated = dataclasses.replace(machine(64), rotates_keys=False)
    quantized = ModelConfig(type_k="q8_0")
    assert plan_load(header, quantized, machine(64)).shift_problem is None
    assert plan_load(header, quantized, unrotated).shift_problem is not None


def test_the_plan_can_be_read_logged_and_written(caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig(n_ctx=8192, beyond_training=True, embeddings=True, draft_model="d.gguf")
    header = header_70b("Q4_K_M")
    plan = plan_load(header, config, machine(64, 24), header)
    text = str(plan)
    for words in (
        "codellama-70b-instruct.Q4_K_M.gguf, 68,976,910,336 weights, 38.6 GiB",
        "8192 tokens a request, 4 at a time",
        "8448 more cells, 256 rows at a time",
        "0 foreign tokens",
        *plan.reasons,
    ):
        assert words in text
    assert max(map(len, text.splitlines())) < 160
    document = plan.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["layers"][0]["device"] == "CUDA0"
    assert document["cells"] == plan.cells
    assert document["draft"]["foreign_tokens"] == []
    assert document["encoder"] == {"cells": 8192 + 256, "n_batch": 256}
    with caplog.at_level(logging.INFO, "codellama"):
        plan.log()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert told == text.splitlines()
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == [f"codellama-70b-instruct.Q4_K_M.gguf: {w}" for w in plan.warnings]
    assert warned
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.n_ctx = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shares", "counts"),
    [([1.0], [10]), ([1.0, 1.0], [5, 5]), ([3.0, 1.0], [8, 2]), ([0.0, 1.0], [0, 10])],
)
def test_layers_are_spread_as_llama_cpp_spreads_them(
    shares: list[float], counts: list[int]
) -> None:
    # Layer i of n goes to the first GPU whose part of the shares, added up, is more than i / n.
    assert list(spread(10, shares)) == counts

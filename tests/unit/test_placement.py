"""What lies where: several devices, main memory as one of them, and what to do where nothing fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codellama.devices.fitting import MARGIN, attention_first, most_layers
from codellama.devices.host_memory import host_memory, limit_of, parse_meminfo
from codellama.devices.layers import choose_layers
from codellama.devices.machine import Machine, rearranged_types
from codellama.devices.placement import Split, Work
from codellama.devices.plan import LoadPlan
from codellama.devices.planner import plan_load
from codellama.devices.remedies import smaller_type
from codellama.devices.sizes import model_sizes
from codellama.devices.type_sizes import BITS_PER_WEIGHT, largest_type
from codellama.errors import InvalidRequestError
from codellama.native.backends import RPC, Device
from codellama.params import ModelConfig
from codellama.running.load_plans import memory_ran_out, plans
from codellama.variants import VARIANTS, find
from codellama.weights.planned import planned_header
from tests.made_up import GIB, header_70b, machine


def gpu(name: str, gib: float, bandwidth: float = 0.0, backend: str = "CUDA") -> Device:
    return Device(name, name, "gpu", int(gib * GIB), int(gib * GIB), backend, bandwidth=bandwidth)


def plan(type_name: str = "Q4_K_M", on: Machine | None = None, **options: object) -> LoadPlan:
    return plan_load(header_70b(type_name), ModelConfig.of(**options), on or machine(64))


def counts(found: LoadPlan) -> list[int]:
    return [placed.layers for placed in found.model.placements]


def test_each_gpu_has_room_for_what_it_gets() -> None:
    for free in ((24.0, 24.0), (48.0, 6.0), (10.0, 10.0, 30.0), (5.0, 40.0)):
        found = plan(on=machine(64, *free))
        for placed, gib in zip(found.model.placements, free, strict=False):
            assert placed.nbytes <= gib * GIB - MARGIN or not placed.layers
        assert found.model.weights.tensor_split == tuple(map(float, counts(found)[:-1]))


def test_a_share_of_nothing_leaves_a_gpu_empty() -> None:
    found = plan(on=machine(64, 24, 24), tensor_split=(1.0, 0.0))
    assert counts(found) == [42, 0, 39], "as many as fit the one that may have some"
    assert counts(plan(on=machine(64, 24, 24), tensor_split=(0.0, 1.0)))[0] == 0
    assert counts(plan(on=machine(64, 24, 24), n_gpu_layers="all", tensor_split=(1.0, 0.0))) == [
        81,
        0,
        0,
    ]


def test_a_model_that_is_not_split_is_on_one_gpu() -> None:
    found = plan(on=machine(64, 24, 48), split_mode="none", main_gpu=1)
    assert [p.device for p in found.model.placements] == ["CUDA1", "CPU"]
    assert counts(found) == [81, 0]
    assert [device.name for device in found.model.weights.devices] == ["CUDA1"]
    with pytest.raises(InvalidRequestError, match="^main_gpu=2, but there are 2 GPUs"):
        plan(on=machine(64, 24, 48), split_mode="none", main_gpu=2)


def test_the_faster_gpu_is_filled_first() -> None:
    fast_last = Machine(64 * GIB, (gpu("slow", 48, 3e11), gpu("fast", 24, 1e12)))
    found = plan(on=fast_last)
    slow, fast, _ = found.model.placements
    assert fast.layers == 42 and slow.layers == 39
    alike = plan(on=Machine(64 * GIB, (gpu("a", 48, 1e12), gpu("b", 24, 1e12))))
    assert alike.model.placements[0].layers > 50, "in proportion to their memory"


def test_what_does_not_fit_as_asked_is_said() -> None:
    found = plan(on=machine(64, 24), n_gpu_layers=60)
    assert counts(found) == [60, 21]
    assert found.warnings[0].startswith(
        "layers: 60 take 32.3 GiB on CUDA0, of which 24.0 GiB are free"
    )


def test_a_device_of_another_machine_borrows_no_matrices() -> None:
    sizes = model_sizes(header_70b("Q4_K_M"))
    context = plan().model.context
    here = Work(sizes, (context,), (gpu("CUDA0", 24),))
    there = Work(sizes, (context,), (gpu("RPC0", 24, backend=RPC),))
    split = Split((30,))
    more = here.placed(split)[0].compute - there.placed(split)[0].compute
    assert more == max(layer.largest for layer in sizes.layers[:51])
    assert here.placed(Split((81,)))[0].compute == there.placed(Split((81,)))[0].compute


def test_attention_may_go_first() -> None:
    """A fast GPU beside slow memory, and many requests with long contexts: there reading caches pays."""
    on = replace(machine(256), gpus=(gpu("CUDA0", 24, 1e12),), bandwidth=5e10)
    found = plan(on=on, n_seq_max=8, kv_cells=32768)
    assert found.model.weights.host_tensors
    placed, cpu = found.model.placements
    assert (placed.layers, cpu.layers, cpu.kv) == (81, 0, 0)
    assert placed.kv == found.model.kv_bytes
    assert sum(p.weights for p in found.model.placements) == found.model.weight_bytes
    assert any("feed-forward matrices of" in reason for reason in found.reasons)
    one = plan(on=on, n_seq_max=1)
    assert not one.model.weights.host_tensors, "one request reads its cache once"


def test_attention_first_is_the_fullest_that_fits() -> None:
    work = Work(
        model_sizes(header_70b("Q4_K_M")), (plan().model.context,), (gpu("a", 24), gpu("b", 12))
    )
    split = attention_first(work)
    assert split is not None
    for placed, device in zip(work.placed(split), work.gpus, strict=False):
        assert placed.nbytes <= device.free_bytes - MARGIN
    assert most_layers(work).n_gpu_layers < 81
    fuller = replace(split, host_ffn=split.host_ffn - 1)
    assert any(
        placed.nbytes > device.free_bytes - MARGIN
        for placed, device in zip(work.placed(fuller), work.gpus, strict=False)
    )


def test_weights_are_rearranged_only_where_they_fit() -> None:
    roomy, tight = machine(64), machine(40)
    assert plan(on=roomy).model.host.way == "rearranged"
    assert plan(on=roomy).model.weights.rearrange
    small = plan(on=tight)
    assert (small.model.host.way, small.model.weights.rearrange) == ("mapped", False)
    assert small.model.host.pinned < 6 * GIB
    assert plan(on=roomy, repack="off").model.host.way == "mapped"
    taken = replace(roomy, available_bytes=30 * GIB)
    assert plan(on=taken).model.host.way == "mapped", "others have the rest"
    with pytest.raises(
        InvalidRequestError, match="^repack: 35.* GiB of main memory are needed, 30"
    ):
        plan(on=taken, repack="on")


def test_what_a_gpu_borrows_is_not_rearranged() -> None:
    on = machine(64, 24)
    assert plan(on=on).model.host.way == "rearranged"
    borrowing = replace(on, gpus=(replace(on.gpus[0], host_buffer=True),))
    found = plan(on=borrowing).model
    assert (found.host.way, found.host.rearranged, found.weights.rearrange) == ("mapped", 0, False)


def test_what_was_asked_for_and_does_not_fit_is_refused() -> None:
    for name, value, way in (("use_mlock", True, "locked"), ("use_mmap", False, "read")):
        option: dict[str, Any] = {name: value}
        with pytest.raises(InvalidRequestError, match=f"^{name}: .* leave it out"):
            plan(on=machine(24), **option)
        assert plan(on=machine(64), **option).model.host.way == way


def test_caches_that_do_not_fit_are_refused_with_what_would() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        plan(on=machine(4), n_ctx=16384, beyond_training=True)
    text = str(caught.value)
    assert text.startswith(
        "n_ctx: KV cache and scratch memory of 16384 tokens need 5.2 GiB of main memory"
    )
    assert "what would fit: type_k and type_v q8_0, or n_ctx 8192" in text
    assert plan(on=machine(4), n_ctx=8192, beyond_training=True).n_ctx == 8192


def test_a_smaller_type_is_named() -> None:
    found = plan(on=machine(34))
    assert "IQ4_XS" not in found.warnings[0], "with its caches it would not fit"
    assert "Q2_K (23.7 GiB) fits" in found.warnings[0]
    assert smaller_type(10**9, 10, 10**9) == ""


@pytest.mark.parametrize("name", ["7b", "13b-python", "34b", "70b-instruct"])
def test_sizes_of_types_are_those_of_files(name: str) -> None:
    variant = find(name)
    assert variant is not None
    for kind, bits in BITS_PER_WEIGHT.items():
        nbytes = sum(t.nbytes for t in planned_header(variant, kind).tensors)
        assert bits == pytest.approx(8 * nbytes / variant.parameters, rel=0.08), kind


def test_the_largest_type_that_fits() -> None:
    variant = find("70b-instruct")
    assert variant is not None
    assert [largest_type(variant, gib * GIB) for gib in (8, 24, 32, 48, 128)] == [
        "",
        "TQ1_0",
        "Q2_K",
        "Q5_K_M",
        "Q8_0",
    ]


def test_planned_headers_are_the_published_models() -> None:
    from codellama.variants import recognise

    for variant in VARIANTS:
        header = planned_header(variant, "Q8_0")
        found = recognise(header.metadata)
        assert found is not None
        assert (found.shape, found.n_ctx, found.vocab_size) == (
            variant.shape,
            variant.n_ctx,
            variant.vocab_size,
        )
        assert len(header.tensors) == variant.shape.tensors
    assert [t.type_name for t in header_70b("Q4_K_M").tensors] == [
        t.type_name for t in planned_header(VARIANTS[-1], "Q4_K_M").tensors
    ]


def test_adapters_take_their_part() -> None:
    header, on = header_70b("Q4_K_M"), machine(64, 24)
    plain = plan_load(header, ModelConfig(), on)
    adapted = plan_load(header, ModelConfig(), on, adapter_bytes=4 * GIB)
    assert counts(adapted)[0] < counts(plain)[0]


def test_meminfo_and_control_groups(tmp_path: Path) -> None:
    assert parse_meminfo("MemTotal:  10 kB\nMemAvailable: 7 kB\nHugePages_Total: 3\n") == {
        "MemTotal": 10240,
        "MemAvailable": 7168,
    }
    assert limit_of(tmp_path, 2) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    assert limit_of(tmp_path, 2) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert limit_of(tmp_path, 2) == (1000, 600)


def test_a_parent_groups_memory_counts(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/box"
    (group / "job").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 500000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/box/job\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    assert host_memory(tmp_path).available == 500_000 * 1024
    (group / "memory.max").write_text("300000000\n")
    (group / "memory.current").write_text("100000000\n")
    (group / "memory.stat").write_text("inactive_file 20000000\n")
    found = host_memory(tmp_path)
    assert (found.total, found.available) == (300_000_000, 220_000_000)


def test_which_types_are_rearranged() -> None:
    assert rearranged_types("CPU : AVX2 = 1 | REPACK = 1 | ") >= {"Q4_0", "Q4_K"}
    assert "Q2_K" not in rearranged_types("CPU : AVX2 = 1 | REPACK = 1 | ")
    assert "Q6_K" in rearranged_types("CPU : NEON = 1 | REPACK = 1 | ")
    assert rearranged_types("CPU : AVX2 = 1 | ") == frozenset()


def test_a_draft_model_and_its_scratch_have_room() -> None:
    header = header_70b("Q2_K")
    found = plan_load(header, ModelConfig(draft_model="d.gguf"), machine(64, 48), header)
    assert found.draft is not None
    taken = sum(
        part.placements[0].nbytes for part in (found.model, found.draft) if len(part.placements) > 1
    )
    assert taken <= 48 * GIB - MARGIN


def test_plans_take_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    from codellama.running import load_plans

    on = replace(machine(64, 24, 24), bandwidth=5e10)
    monkeypatch.setattr(load_plans, "this_machine", lambda rpc: on)
    found = list(plans(header_70b("Q4_K_M"), ModelConfig(n_threads=1)))
    layers = [plan.model.weights.n_gpu_layers for plan in found]
    assert layers[0] == 81 and layers == sorted(layers, reverse=True) and layers[-1] < 50
    fixed = ModelConfig(n_gpu_layers=10, n_threads=1)
    found = list(plans(header_70b("Q4_K_M"), fixed))
    assert [plan.model.host.way for plan in found][:2] == ["rearranged", "mapped"]
    assert {plan.model.weights.n_gpu_layers for plan in found} == {10}, "what was asked for stays"


def test_what_running_out_of_memory_looks_like() -> None:
    from codellama.errors import ModelLoadError

    for text in (
        "unable to allocate CUDA0 buffer",
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 31320.00 MB)",
        "cudaMalloc failed: out of memory",
        "failed to allocate buffer for kv cache",
    ):
        assert memory_ran_out(ModelLoadError(f"llama.cpp could not load x: {text}"))
    assert not memory_ran_out(ModelLoadError("no such file"))


def test_choose_layers_without_bandwidths_is_plain() -> None:
    choice = choose_layers(
        model_sizes(header_70b("Q4_K_M")), [plan().model.context], ModelConfig(), [gpu("a", 24)]
    )
    assert choice.host_tensors == ()
    assert choice.tensor_split == ()

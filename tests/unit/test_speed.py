"""Expected speed, beside what others have measured of 70B models in llama.cpp."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codellama.devices.bandwidth import known_bandwidth
from codellama.devices.machine import Machine
from codellama.devices.outlook import made_up_machine, outlook, parse_memory
from codellama.devices.planner import plan_load
from codellama.devices.speed import Reading, expected
from codellama.errors import InvalidRequestError
from codellama.files.gguf_header import GGUFHeader
from codellama.params import ModelConfig
from codellama.variants import find
from codellama.weights.planned import planned_header
from tests.made_up import GIB, header_70b, machine

# Tokens a second of Llama 3 70B Q4_K_M, 39.6 GiB, 1024 tokens (XiongjieDai/GPU-Benchmarks-on-LLM-Inference,
# May 2024), and of Llama 2 70B Q4_0, 36.2 GiB, on single cards (the same, December 2023).
# The last column is how far off we are.
PUBLISHED = [
    ("2x RTX 4090", 39.6, ("24GiB@1008GB/s",) * 2, 19.06, -0.09),
    ("2x RTX 3090", 39.6, ("24GiB@936GB/s",) * 2, 16.29, 0.00),
    ("M2 Ultra", 39.6, ("180GiB@800GB/s",), 12.13, 0.17),
    ("M3 Max", 39.6, ("60GiB@400GB/s",), 7.53, 0.00),
    ("RTX A6000", 36.2, ("48GiB@768GB/s",), 15.18, -0.03),
]
GOAL = 0.25


def header_of_size(gib: float) -> GGUFHeader:
    """The 70B's header with tensors as much larger as makes a file of `gib` GiB of weights."""
    header = header_70b("Q4_K_M")
    total = sum(tensor.nbytes for tensor in header.tensors)
    tensors = [replace(t, nbytes=round(t.nbytes * gib * GIB / total)) for t in header.tensors]
    return replace(header, tensors=tensors)


@pytest.mark.parametrize(("name", "gib", "devices", "measured", "off"), PUBLISHED)
def test_what_is_expected_is_near_what_was_measured(
    name: str, gib: float, devices: tuple[str, ...], measured: float, off: float
) -> None:
    on = made_up_machine(devices, "64GiB@90GB/s", machine(64))
    found = plan_load(header_of_size(gib), ModelConfig(n_ctx=1024, n_seq_max=1), on).model
    assert found.placements[-1].layers == 0, "all on the GPUs"
    assert found.expected is not None
    error = found.expected.decode / measured - 1
    assert abs(error) < GOAL, name
    assert error == pytest.approx(off, abs=0.01), name


def test_the_slow_part_decides() -> None:
    gpu = Reading("GPU0", "gpu", 1e12, 32 * 10**9, 0, 64)
    cpu = Reading("CPU", "cpu", 6e10, 8 * 10**9, 0, 16)
    both, alone = expected([gpu, cpu], 512, 1.7), expected([gpu], 512, 1.7)
    assert both is not None and alone is not None
    assert both.slowest == "CPU" and both.share > 0.75
    assert alone.decode > 3 * both.decode
    assert alone.prompt > alone.decode * 10


def test_nothing_is_said_of_what_nobody_knows() -> None:
    unknown = Reading("GPU0", "gpu", 0.0, 32 * 10**9, 0, 64)
    assert expected([unknown], 512, 1.7) is None
    assert expected([Reading("CPU", "cpu", 1e10, 10**6, 0, 4)], 512, 1.7) is None
    assert plan_load(header_70b("Q4_K_M"), ModelConfig(), machine(64, 24)).model.expected is None


def test_weights_from_the_disk_are_as_slow_as_the_disk() -> None:
    on = replace(machine(24), bandwidth=5e10, disk_bandwidth=2e9)
    found = plan_load(header_70b("Q4_K_M"), ModelConfig(n_seq_max=1), on).model
    assert found.expected is not None
    assert found.expected.decode == pytest.approx(2e9 / found.weight_bytes, rel=0.02)
    assert found.host.way == "mapped"


@pytest.mark.parametrize(
    ("description", "gb"),
    [
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 3090 Ti", 1008),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", 2039),
        ("Apple M2 Ultra", 800),
        ("something else", 0),
    ],
)
def test_cards_that_are_known(description: str, gb: int) -> None:
    assert known_bandwidth(description) == gb * 1e9


def test_sizes_and_bandwidths_as_people_write_them() -> None:
    assert parse_memory("24GiB@1008GB/s", "device") == (24 * GIB, 1008e9)
    assert parse_memory("24 GB", "device") == (24 * 10**9, 0.0)
    assert parse_memory("1.5TiB@3.35TB/s", "device") == (1.5 * 2**40, 3.35e12)
    for text in ("24", "24GiB@1008", "GiB", "24GiB@fast", "-1GiB"):
        with pytest.raises(InvalidRequestError, match="^device: "):
            parse_memory(text, "device")


def test_a_machine_is_described_in_part() -> None:
    here = Machine(8 * GIB, bandwidth=2e10)
    assert made_up_machine((), "64GiB@90GB/s", here) == Machine(64 * GIB, bandwidth=90e9)
    with_gpu = made_up_machine(("24GiB@1TB/s",), None, here)
    assert (with_gpu.room, with_gpu.bandwidth, len(with_gpu.gpus)) == (8 * GIB, 2e10, 1)


def test_outlooks_say_what_fits() -> None:
    variant = find("70b-instruct")
    assert variant is not None
    header = planned_header(variant, "Q4_K_M")
    one = ModelConfig(n_seq_max=1)
    on = replace(machine(64), bandwidth=9e10)
    fits = outlook(header, one, on, "Q4_K_M")
    assert fits.fits and not fits.on_gpus
    assert fits.verdict.startswith(
        "runs: 81 layers on CPU, takes 40.4 GiB of main memory, about 1."
    )
    slow = outlook(header, one, machine(24), "Q4_K_M")
    assert not slow.fits and slow.plan is not None
    assert slow.verdict.startswith("does not fit: 40.")
    none = outlook(header, replace(one, n_ctx=16384, beyond_training=True), machine(4), "Q4_K_M")
    assert none.plan is None and none.verdict.startswith("does not run: n_ctx: ")
    assert none.to_json()["problem"].startswith("n_ctx: ")
    assert outlook(header, one, machine(64, 48), "Q4_K_M").on_gpus


def test_a_device_on_another_machine_costs_the_way_there() -> None:
    here = Reading("RPC0", "gpu", 1e9, 10**9, 0, 10)
    there = replace(here, latency=0.01, network=1e8, passed=4 * 8192)
    assert there.seconds() - here.seconds() == pytest.approx(0.01 + 2 * 4 * 8192 / 1e8)
    more = there.batch_seconds(512, 1.0) - here.batch_seconds(512, 1.0)
    assert more == pytest.approx(0.01 + 512 * 2 * 4 * 8192 / 1e8)

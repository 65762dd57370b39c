"""Bytes that devices read for a token, and the share of their bandwidth that a speed is."""

from __future__ import annotations

import pytest

from codellama.devices.planner import plan_load
from codellama.devices.reading import bandwidth_share, bytes_read
from codellama.params import ModelConfig
from tests.made_up import header_70b, machine

HEADER = header_70b("Q4_K_M")
EMBEDDING = sum(t.nbytes for t in HEADER.tensors if t.name == "token_embd.weight")
READ = sum(t.nbytes for t in HEADER.tensors) - EMBEDDING
TOKEN = 80 * 2 * 1024 * 2
"""Bytes of a token in the cache: 80 layers, keys and values of 1024 numbers in F16."""


def test_a_cpu_reads_all_weights_but_the_embedding_and_each_streams_cache() -> None:
    plan = plan_load(HEADER, ModelConfig(n_ctx=512, n_seq_max=4), machine(64)).model
    (cpu,) = bytes_read(plan, HEADER, filled=100)
    assert (cpu.device, cpu.weights, cpu.cache) == ("CPU", READ, 100 * TOKEN)
    assert cpu.of_step(4) == READ + 400 * TOKEN
    # 60 GB/s are all used if so many bytes are read 60e9 / bytes times a second, whatever the streams.
    for streams in (1, 4):
        rate = streams * 60e9 / cpu.of_step(streams)
        assert bandwidth_share([cpu], {"CPU": 60e9}, streams, rate) == pytest.approx(1)
        assert bandwidth_share([cpu], {"CPU": 60e9}, streams, rate / 2) == pytest.approx(0.5)


def test_devices_read_one_after_the_other() -> None:
    plan = plan_load(HEADER, ModelConfig(n_ctx=512, n_seq_max=1), machine(64, 24)).model
    gpu, cpu = bytes_read(plan, HEADER, filled=256)
    assert gpu.weights > 0 and cpu.weights > 0
    assert gpu.weights + cpu.weights == READ
    assert gpu.cache + cpu.cache == pytest.approx(256 * TOKEN, abs=1)
    bandwidths = {"CUDA0": 1e12, "CPU": 50e9}
    seconds = gpu.of_step(1) / 1e12 + cpu.of_step(1) / 50e9
    assert bandwidth_share([gpu, cpu], bandwidths, 1, 0.8 / seconds) == pytest.approx(0.8)
    assert bandwidth_share([gpu, cpu], {**bandwidths, "CUDA0": 0.0}, 1, 1.0) is None


def test_a_device_without_layers_needs_no_bandwidth() -> None:
    on_gpu = plan_load(HEADER, ModelConfig(n_ctx=512, n_seq_max=1), machine(64, 80)).model
    read = bytes_read(on_gpu, HEADER, filled=0)
    assert [device.weights for device in read] == [READ, 0]
    assert bandwidth_share(read, {"CUDA0": 1e12}, 1, 1.0) == pytest.approx(READ / 1e12)

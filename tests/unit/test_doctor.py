"""What is wrong with a machine, and the command that mends it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama.cli import doctor as command
from codellama.cli import main
from codellama.devices import facts as looking
from codellama.devices.doctor import MachineFacts, diagnose, facts_json
from codellama.devices.processors import Core, Processors
from codellama.native.backends import Device, backend_names
from codellama.native.bandwidth import read_bandwidth
from tests.made_up import GIB, machine

EIGHT_CORES = Processors(16, tuple(Core((i, i + 8)) for i in range(8)))
CPU = Device("CPU", "a processor", "cpu", 0, 64 * GIB, "CPU")
CUDA = Device("CUDA0", "NVIDIA GeForce RTX 4090", "gpu", 23 * GIB, 24 * GIB, "CUDA", bandwidth=1e12)
HEALTHY = MachineFacts(
    versions={"llama-cpp-python": "0.3.36"},
    pinned="0.3.36",
    backends=("RPC", "CPU"),
    devices=(CPU,),
    features="CPU : AVX2 = 1 | REPACK = 1 | ",
    machine=replace(machine(64), processors=EIGHT_CORES),
    processor_features=frozenset({"avx2"}),
)


def test_a_healthy_machine() -> None:
    assert diagnose(HEALTHY) == []
    with_gpu = replace(HEALTHY, backends=("CUDA", "RPC", "CPU"), devices=(CUDA, CPU))
    assert diagnose(replace(with_gpu, cards=frozenset({"nvidia"}))) == []
    assert diagnose(replace(HEALTHY, cards=frozenset({"intel"}))) == []


@pytest.mark.parametrize(
    ("change", "text", "mend"),
    [
        ({"cards": frozenset({"nvidia"}), "programs": frozenset({"nvcc"})},
         "an NVIDIA GPU is here, but llama.cpp was built without CUDA",
         "CODELLAMA_BACKEND=cuda scripts/setup"),
        ({"cards": frozenset({"nvidia"})},
         "an NVIDIA GPU is here, but llama.cpp was built without CUDA",
         "apt-get install nvidia-cuda-toolkit && CODELLAMA_BACKEND=cuda scripts/setup"),
        ({"cards": frozenset({"amd"}), "programs": frozenset({"hipcc"})},
         "an AMD GPU is here", "CODELLAMA_BACKEND=hip scripts/setup"),
        ({"backends": ("CUDA", "RPC", "CPU")},
         "built with CUDA, no device", "CODELLAMA_BACKEND=cpu scripts/setup"),
        ({"backends": ("CUDA", "RPC", "CPU"), "cards": frozenset({"nvidia"})},
         "built with CUDA, no device: its driver", "nvidia-smi"),
        ({"backends": ("Vulkan", "RPC", "CPU"), "devices": (
            Device("Vulkan0", "llvmpipe (LLVM 15)", "gpu", GIB, GIB, "Vulkan"), CPU)},
         "Vulkan0 is a software renderer", "CODELLAMA_BACKEND=cpu scripts/setup"),
        ({"devices": (replace(CUDA, total_bytes=0, free_bytes=0), CPU)},
         "CUDA0 tells nothing of its memory", "CODELLAMA_N_GPU_LAYERS=NUMBER codellama serve MODEL"),
        ({"versions": {"llama-cpp-python": "0.3.2"}},
         "llama-cpp-python 0.3.2 is installed, this package was made for 0.3.36", "scripts/setup"),
        ({"features": "CPU : "}, "llama.cpp was built without the AVX2", "scripts/setup"),
        ({"backends": ("CPU",)}, "llama.cpp was built without RPC", "scripts/setup"),
        ({"lanes": False}, "the quantizers in lanes were not built",
         "apt-get install g++ && scripts/setup"),
        ({"environment": {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"}},
         "with GGML_CUDA_ENABLE_UNIFIED_MEMORY", "unset GGML_CUDA_ENABLE_UNIFIED_MEMORY"),
        ({"environment": {"LLAMA_ATTN_ROT_DISABLE": "1"}},
         "with LLAMA_ATTN_ROT_DISABLE", "unset LLAMA_ATTN_ROT_DISABLE"),
        ({"machine": replace(machine(64), available_bytes=GIB)},
         "only 1.0 GiB of 64.0 GiB of memory are free", "ps aux | sort -rnk 4 | head"),
    ],
)  # fmt: skip
def test_each_problem_has_its_command(change: dict[str, Any], text: str, mend: str) -> None:
    (problem,) = diagnose(replace(HEALTHY, **change))
    assert problem.text.startswith(text)
    assert problem.command == mend


def test_lines_and_json_have_the_devices() -> None:
    lent = replace(CUDA, name="RPC0", endpoint="gpu.lan:50052")
    facts = replace(HEALTHY, devices=(lent, CPU), backends=("RPC", "CPU"))
    text = "\n".join(command.lines(facts))
    assert "RPC0 (NVIDIA GeForce RTX 4090) at gpu.lan:50052: 23.0 GiB of 24.0 GiB free" in text
    assert "8 cores, 16 processors" in text
    assert "8: one per core; 16 hardware threads are 8 cores" in text
    document = facts_json(facts, diagnose(facts))
    assert json.loads(json.dumps(document)) == document
    assert document["devices"][0]["endpoint"] == "gpu.lan:50052"
    assert document["devices"][1]["bandwidth"] is None


def test_bandwidth_is_measured_however_late_a_thread_begins() -> None:
    assert read_bandwidth(2, seconds=0.0, nbytes=2**20) > 1e6


def test_the_command_looks_at_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_MEASURING_S", 0.02)
    result = CliRunner().invoke(main, ["doctor", "--json"])
    document = json.loads(result.stdout)
    assert document["backends"] == list(backend_names())
    assert document["memory_bandwidth"] > 1e8
    assert document["versions"]["llama-cpp-python"] == looking._pinned()
    assert result.exit_code == (1 if document["problems"] else 0)
    text = CliRunner().invoke(main, ["doctor"]).stdout
    assert text.splitlines()[-1].startswith(
        "problems      none" if not document["problems"] else "  mend it"
    )


def test_cards_are_found_by_their_maker(tmp_path: Path) -> None:
    for name, kind, vendor in (("a", "0x030000", "0x10de"), ("b", "0x020000", "0x1002")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "class").write_text(f"{kind}\n")
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
    assert looking._cards(tmp_path) == {"nvidia"}, "a network card of AMD's is no graphics card"
    assert looking._cards(tmp_path / "none") == frozenset()

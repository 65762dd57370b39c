"""scripts/pick_backend on machines that are made of a few small programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "pick_backend"
OLD, NEW = "#define VK_HEADER_VERSION 239\n", "#define VK_EXT_layer_settings 1\n"
SOFTWARE = "deviceType = PHYSICAL_DEVICE_TYPE_CPU\ndeviceName = llvmpipe"
CARD = "deviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU"
pytestmark = pytest.mark.skipif(os.uname().sysname == "Darwin", reason="Metal is picked there")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs with what the script itself needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "uname", "grep", "sed", "cat"):
        found = next(p for p in os.environ["PATH"].split(":") if Path(p, name).exists())
        (folder / name).symlink_to(Path(found, name))
    return folder


def add(machine: Path, name: str, output: str = "", code: int = 0) -> None:
    path = machine / name
    path.write_text(f"#!/bin/sh\ncat <<'X'\n{output}\nX\nexit {code}\n")
    path.chmod(0o755)


def headers(machine: Path, text: str) -> Path:
    core = machine.parent / "include" / "vulkan" / "vulkan_core.h"
    core.parent.mkdir(parents=True)
    core.write_text(text)
    return core.parents[1]


def pick(machine: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    include = str(machine.parent / "include")
    environment = {"PATH": str(machine), "CODELLAMA_INCLUDE": include, "CODELLAMA_KFD": "/none"}
    return subprocess.run(
        [str(machine / "sh"), str(SCRIPT)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_but_a_processor(machine: Path) -> None:
    found = pick(machine)
    assert (found.stdout, found.stderr, found.returncode) == ("cpu\n", "", 0)


def test_cuda_needs_a_card_and_the_compiler(machine: Path) -> None:
    add(machine, "nvcc")
    add(machine, "nvidia-smi", "No devices were found", 6)
    assert pick(machine).stdout == "cpu\n", "the tools alone are no device"
    add(machine, "nvidia-smi", "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)")
    assert pick(machine).stdout == "cuda\n"
    (machine / "nvcc").unlink()
    found = pick(machine)
    assert found.stdout == "cpu\n"
    assert "an NVIDIA GPU is here; to use it: apt-get install nvidia-cuda-toolkit" in found.stderr


def test_a_software_renderer_is_no_device(machine: Path) -> None:
    add(machine, "glslc")
    headers(machine, NEW)
    add(machine, "vulkaninfo", SOFTWARE)
    assert pick(machine).stdout == "cpu\n"
    add(machine, "vulkaninfo", f"{SOFTWARE}\n{CARD}")
    assert pick(machine).stdout == "vulkan\n"


def test_old_headers_are_said_before_the_build(machine: Path) -> None:
    add(machine, "glslc")
    add(machine, "vulkaninfo", CARD)
    headers(machine, OLD)
    found = pick(machine)
    assert found.stdout == "cpu\n"
    assert "needs Vulkan headers 1.3.272 or newer, found 1.3.239" in found.stderr
    assert "set VULKAN_SDK" in found.stderr
    asked = pick(machine, CODELLAMA_BACKEND="vulkan")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "CODELLAMA_BACKEND=vulkan needs Vulkan headers 1.3.272" in asked.stderr


def test_the_sdk_s_headers_count_first(machine: Path) -> None:
    add(machine, "glslc")
    headers(machine, OLD)
    sdk = machine.parent / "sdk"
    (sdk / "include" / "vulkan").mkdir(parents=True)
    (sdk / "include" / "vulkan" / "vulkan_core.h").write_text(NEW)
    assert pick(machine, CODELLAMA_BACKEND="vulkan", VULKAN_SDK=str(sdk)).stdout == "vulkan\n"


def test_what_is_asked_for_may_lack_a_device_but_no_tools(machine: Path) -> None:
    found = pick(machine, CODELLAMA_BACKEND="cuda")
    assert found.returncode == 1
    assert "CODELLAMA_BACKEND=cuda needs nvcc" in found.stderr
    add(machine, "nvcc")
    assert pick(machine, CODELLAMA_BACKEND="cuda").stdout == "cuda\n"
    assert pick(machine, CODELLAMA_BACKEND="cpu").stdout == "cpu\n"
    wrong = pick(machine, CODELLAMA_BACKEND="gpu")
    assert "CODELLAMA_BACKEND=gpu is not one of cpu, cuda, hip, metal, vulkan" in wrong.stderr


def test_amd(machine: Path) -> None:
    add(machine, "hipcc")
    assert pick(machine).stdout == "cpu\n"
    device = machine.parent / "kfd"
    device.touch()
    assert pick(machine, CODELLAMA_KFD=str(device)).stdout == "hip\n"

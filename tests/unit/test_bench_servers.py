from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import servers
from bench.client import BenchError
from bench.servers import Settings, Spec

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(model=Path("m.gguf"), threads=3, slots=5, ctx=100, cells=700, gpu_layers=9)


def option(spec: Spec, name: str) -> str:
    return spec.command[spec.command.index(name) + 1]


def test_both_servers_get_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama-server").touch()
    monkeypatch.setattr(servers, "TOOLS", tmp_path)
    ours, theirs = servers.codellama(SETTINGS, 1234), servers.llama_server(SETTINGS, 1234)
    for name in (
        "--threads",
        "--parallel",
        "--batch-size",
        "--ubatch-size",
        "--n-gpu-layers",
        "--port",
    ):
        assert option(ours, name) == option(theirs, name)
    assert option(ours, "--kv-cells") == option(theirs, "--ctx-size") == "700"
    assert option(ours, "--ctx-size") == "100"
    assert "--kv-unified" in theirs.command
    assert option(theirs, "--spec-type") == "none"
    drafting = servers.llama_server(SETTINGS, 1234, drafts="ngram-mod")
    assert (drafting.name, option(drafting, "--spec-type")) == ("ngram-mod", "ngram-mod")
    assert ours.environment["CODELLAMA_CACHE_RAM"] == option(theirs, "--cache-ram") == "0"


def test_our_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from codellama.cli import main

    with pytest.raises(SystemExit):
        main(["serve", "--help"], prog_name="codellama")
    help_text = capsys.readouterr().out
    command = servers.codellama(SETTINGS, 1234).command
    for name in (part for part in command if part.startswith("--")):
        assert name in help_text


def test_drafts_are_off_unless_asked_for() -> None:
    def environment(drafts: bool) -> str:
        return servers.codellama(SETTINGS, 1, drafts=drafts).environment["CODELLAMA_SPEC_TYPE"]

    assert (environment(False), environment(True)) == ("none", "ngram")


def test_a_program_that_is_not_built_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "TOOLS", tmp_path)
    with pytest.raises(BenchError, match="llama-server.*scripts/build_llama_tools"):
        servers.llama_server(SETTINGS, 1)
    assert servers.built("llama-server") == ()


def test_a_server_that_does_not_start_shows_its_log() -> None:
    spec = Spec("broken", (sys.executable, "-c", "raise SystemExit('no such model')"))

    async def start() -> None:
        async with servers.running(lambda port: spec):
            pass

    with pytest.raises(BenchError, match=r"broken: ended with code 1(.|\n)*no such model"):
        asyncio.run(start())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_peak_memory_is_that_of_the_process() -> None:
    own = servers.peak_memory_mb(os.getpid())
    assert own is not None and 10 < own < 20_000
    assert servers.peak_memory_mb(2**30) is None


def test_processor_time_is_that_of_the_process() -> None:
    before = time.process_time()
    own = servers.processor_seconds(os.getpid())
    assert own is not None
    assert before - 0.02 <= own <= time.process_time() + 0.02  # the system counts in hundredths
    assert servers.processor_seconds(2**30) is None


def flags(backend: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / "build_llama_tools"), "--flags"],
        env={**os.environ, "CODELLAMA_BACKEND": backend, "CMAKE_ARGS": "-DEXTRA=1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_llama_cpps_programs_are_built_with_the_flags_of_setup() -> None:
    cuda = flags("cuda")
    assert cuda.returncode == 0, cuda.stderr
    assert {"-DGGML_CUDA=ON", "-DGGML_RPC=ON", "-DEXTRA=1"} <= set(cuda.stdout.split())
    assert {"-DLLAMA_BUILD_UI=OFF", "-DLLAMA_OPENSSL=OFF"} <= set(cuda.stdout.split())
    assert "-DGGML_CUDA=ON" not in flags("cpu").stdout
    wrong = flags("abacus")
    assert wrong.returncode == 1
    assert "CODELLAMA_BACKEND=abacus" in wrong.stderr

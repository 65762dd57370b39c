from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.cli.plan import lines
from codellama.native.ggml import tensor_type
from codellama.weights.convert import RunSettings, convert, make_forecast
from codellama.weights.forecast import forecast, steps
from codellama.weights.plan import make_plan
from codellama.weights.rates import Recoding, measure, measure_hashing
from codellama.weights.recipe import make_recipe
from codellama.weights.source import Source, open_checkpoint
from stand_ins.hub import COMMIT, serve
from tests.checkpoints import Checkpoint, write_checkpoint

NAME = "codellama/CodeLlama-7b-hf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = Checkpoint(layers=4, shards=4)
    return write_checkpoint(tmp_path_factory.mktemp("c") / "CodeLlama-7b-hf", checkpoint)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_sizes_are_exact(folder: Path, tmp_path: Path) -> None:
    result = run(
        "plan", folder, "--type", "Q4_K_M", "--type", "f16", "--split-max-size", "500K", "--json"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    for output in document["outputs"]:
        report = convert(folder, tmp_path / output["type"], output["type"], split_bytes=500_000)
        assert output["bytes"] == report.nbytes
        assert output["files"] == [path.stat().st_size for path in report.paths]
        assert output["tensor_types"] == report.types
        assert len(output["tensors"]) == report.n_tensors
    both = sum(output["bytes"] for output in document["outputs"])
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert document["peak_disk_bytes"] == both
    assert document["download_bytes"] == 0
    assert 0.99 * stored < document["read_bytes"] < stored
    assert document["outputs"][0]["tensors"]["output.weight"]["type"] == "Q6_K"


def test_no_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(Source, "read", read)
    assert run("plan", folder).exit_code == 0


def test_a_gguf_can_be_planned(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "x.gguf")
    found = make_forecast(tmp_path / "x.gguf", ["Q8_0"], RunSettings())
    report = convert(folder, tmp_path / "y.gguf", "Q8_0")
    assert found.plans[0].nbytes == report.nbytes


def test_the_demo_and_a_model_here_are_planned_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = run("plan", "demo")
    assert demo.exit_code == 0, demo.output
    assert "Q4_K_M runs" in demo.output
    models = tmp_path / "models"
    models.mkdir()
    convert(folder, models / "mine.F16.gguf", "F16")
    monkeypatch.setenv("CODELLAMA_MODELS", str(models))
    monkeypatch.chdir(tmp_path)
    by_name, by_path = (
        run("plan", "mine.F16", "--json"),
        run("plan", "models/mine.F16.gguf", "--json"),
    )
    assert by_name.exit_code == 0, by_name.output
    assert json.loads(by_name.output)["outputs"] == json.loads(by_path.output)["outputs"]
    missing = run("plan", "other")
    assert missing.exit_code == 1
    assert "no published model has that name" in missing.output


def test_a_repository_is_planned_from_its_headers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    with serve({NAME: folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        found = make_forecast(NAME, ["Q4_0"], RunSettings())
        assert all(server.sent[name] <= 2**16 for name in shards)
    assert found.download_bytes == sum(shards.values())
    assert found.peak_disk == found.plans[0].nbytes + sum(sorted(shards.values())[-2:])
    assert found.plans[0].identity["source"] == NAME
    assert found.plans[0].identity["revision"] == COMMIT


def test_time_is_what_the_rates_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(folder) as source:
        plans = [make_plan(source, make_recipe(source, name)) for name in ("Q4_0", "Q4_1")]
        wanted = steps(source, plans)
        found = forecast(source, plans, 4, dict.fromkeys(wanted, 1e6))
        weights = sum(tensor.rows * tensor.columns for tensor in source.tensors)
        shared = sum(  # both keep norms in F32 and make the output Q6_K
            tensor.rows * tensor.columns
            for tensor in source.tensors
            if plans[0].by_name[tensor.name].type == plans[1].by_name[tensor.name].type
        )
        hashed = forecast(source, plans, 4, dict.fromkeys(wanted, 1e6), hashing=1e6)
        monkeypatch.setattr(type(source), "download_bytes", lambda self, paths: 8_000)
        fetched = forecast(source, plans, 4, dict.fromkeys(wanted, 1e6), hashing=1e6)
    assert found.seconds == pytest.approx((2 * weights - shared) / 1e6)
    longest = max(plan.nbytes for plan in plans)
    assert hashed.seconds == pytest.approx(found.seconds + longest / 1e6)
    assert fetched.seconds == pytest.approx(hashed.seconds + 8_000 / 4 / 1e6)
    assert found.peak_memory < 2**27


def test_measuring_takes_as_long_as_it_may() -> None:
    """In processor time, as other programs may have the machine: two threads of 0.3 s, and a slow type."""
    kinds = [tensor_type(name) for name in ("Q4_K", "IQ2_XXS", "F16")]
    begun = time.process_time()
    wanted = [Recoding(tensor_type("BF16"), kind, weighed=False) for kind in kinds]
    rates = measure(wanted, 2, seconds=0.3)
    assert time.process_time() - begun < 6
    assert all(rate > 1000 for rate in rates.values())


def test_an_importance_matrix_is_part_of_the_time(folder: Path) -> None:
    """A type takes other time with an importance than without, and only some tensors have one."""
    with open_checkpoint(folder) as source:
        plain = make_plan(source, make_recipe(source, "Q4_K_M"))
        name = next(tensor.source.name for tensor in plain.tensors if tensor.type.name == "Q4_K")
        weights = {name: np.ones(plain.by_name[name].source.columns, np.float32)}
        found = steps(source, [replace(plain, weights=weights)])
        assert not any(step.weighed for step in steps(source, [plain]))
    assert {step.weighed for step in found if step.target.name == "Q4_K"} == {True, False}


def test_hashing_is_measured() -> None:
    assert measure_hashing() > 10e6


def test_people_read_it_in_a_few_lines(folder: Path) -> None:
    found = make_forecast(folder, ["Q4_K_M"], RunSettings(threads=2))
    text = lines(found, free=10**12)
    assert text[0].startswith(f"Q4_K_M       {found.plans[0].nbytes:,} bytes (")
    assert [line.split()[0] for line in text] == [
        "Q4_K_M",
        "download",
        "disk",
        "converting",
        "time",
        "quantizers",
    ]
    assert "0.00 GB are free here" in lines(found, free=0)[2]


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_are_written_as_people_say_them(seconds: float, text: str) -> None:
    from codellama.cli.plan import _time

    assert _time(seconds) == text


def test_what_cannot_be_converted_cannot_be_planned(tmp_path: Path) -> None:
    result = run("plan", tmp_path / "none")
    assert result.exit_code == 1
    assert "no such folder" in result.stderr

"""The package as others get it: sdist, the wheel built from that, a bare environment, the demo."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pytest

import try_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist gives."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("no hatchling: scripts/setup dev installs it")
    return try_wheel.build(tmp_path_factory.mktemp("dist"))[1]


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment with the wheel. The dependencies are those of the tests; this package is not."""
    programs = try_wheel.bare_environment(tmp_path_factory.mktemp("bare") / "env")
    try_wheel.install(programs, wheel, "--no-deps", "--no-index")
    (site,) = programs.parent.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return programs


def test_the_wheel_has_what_is_needed_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, tops
    for needed in (
        "codellama/py.typed",
        "codellama/cli/templates/review.md",
        "codellama/models/demo_checkpoint/config.json",
        "codellama/models/demo_checkpoint/tokenizer.model",
    ):
        assert needed in names
    assert not [name for name in names if "/lanes/" in name or "__pycache__" in name]


def test_the_kernels_are_built_into_the_wheel(wheel: Path, programs: Path) -> None:
    if "none-any" in wheel.name:
        pytest.skip("no C++ compiler here, so the wheel has no kernels")
    code = (
        "import codellama; from codellama.kernels import library; "
        "print(codellama.__file__, library._PATH.is_file())"
    )
    done = subprocess.run(
        [programs / "python", "-c", code],
        env=try_wheel.clean(),
        capture_output=True,
        text=True,
        check=True,
    )
    file, is_there = done.stdout.split()
    assert file.startswith(str(programs.parent))
    assert is_there == "True"


def test_the_demo_answers_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    answer = try_wheel.try_it(programs, tmp_path)
    assert "Hello, world!" in answer

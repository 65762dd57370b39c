"""The names of llama-cpp-python that we call, and with how many arguments: they change in patch releases.

If this fails after raising the pinned version, the named file is the one to edit.
"""

from __future__ import annotations

import ast
from pathlib import Path

import llama_cpp
import pytest

import codellama

ROOT = Path(codellama.__file__).parent
FILES = sorted([*(ROOT / "native").glob("*.py"), *(ROOT / "integrations").glob("*.py")])


def calls(path: Path) -> list[tuple[str, int, int]]:
    """(name, arguments, line) of every call of `llama_cpp.llama_…` in a module."""
    return [
        (node.func.attr, len(node.args), node.lineno)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "llama_cpp"
        and not any(isinstance(a, ast.Starred) for a in node.args)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_name_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "llama_cpp"
            and not node.attr.endswith("_p")  # pointer types, which only annotations name
        ):
            assert hasattr(llama_cpp, node.attr), f"{path}:{node.lineno}: llama_cpp.{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_call_has_the_right_number_of_arguments(path: Path) -> None:
    for name, count, line in calls(path):
        argument_types = getattr(getattr(llama_cpp, name), "argtypes", None)
        if isinstance(argument_types, (list, tuple)):
            assert count == len(argument_types), f"{path}:{line}: {name}"


def test_there_is_something_to_check() -> None:
    found = [name for path in FILES for name, _, _ in calls(path)]
    assert {"llama_decode", "llama_sampler_init_penalties", "llama_memory_seq_cp"} <= set(found)


def test_the_pinned_version_is_installed() -> None:
    pyproject = (ROOT.parents[1] / "pyproject.toml").read_text("utf-8")
    assert f'"llama-cpp-python=={llama_cpp.__version__}"' in pyproject

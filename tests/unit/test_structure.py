"""The house's own rules: one direction of imports, who may import what, sizes, and the public names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import codellama

ROOT = Path(codellama.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# A room may import from rooms of a lower number, and from its own.
LEVELS = {
    **dict.fromkeys(("errors", "checks", "params", "variants", "batch"), 0),
    "native": 1,
    "engine": 2,
    "weights": 2,
    "devices": 2,
    **dict.fromkeys(
        (
            "adapters",
            "chat",
            "infill",
            "prompts",
            "completion",
            "replies",
            "request",
            "compat",
            "compat_embedding",
            "embedding",
            "loading",
            "kv_file",
            "history",
            "llm",
            "session",
        ),
        3,
    ),
    "protocol": 4,
    **dict.fromkeys(("server", "integrations", "quality"), 5),
    "cli": 6,
    **dict.fromkeys(("__init__", "__main__"), 7),
}
MAY_IMPORT = {
    "llama_cpp": {"native", "integrations"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "click": {"cli"},
    "torch": set[str](),
    "transformers": set[str](),
    "pickle": set[str](),
}
MOST_LINES = 450
MOST_FUNCTION_LINES = 60


def room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Absolute names of everything a module imports at run time."""
    found: list[str] = []
    pending: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        pending += ast.iter_child_nodes(node)
    return found


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "codellama" and len(parts) > 1 and parts[1] in LEVELS:
            assert LEVELS[parts[1]] <= LEVELS[own], f"{own} imports {name}"
        rooms = MAY_IMPORT.get(parts[0])
        assert rooms is None or own in rooms, f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_say_what_they_are_and_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with its contract"
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            signature = (node.body[0].lineno - node.lineno) if node.body else 0
            assert length - signature <= MOST_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_all_public_names_are_there_and_sorted() -> None:
    names = [name for name in codellama.__all__ if name != "__version__"]
    assert all(hasattr(codellama, name) for name in codellama.__all__)
    assert names == sorted(names, key=lambda n: (not n.isupper(), n))


def test_every_error_is_public() -> None:
    from codellama import errors

    classes = {
        n
        for n, v in vars(errors).items()
        if isinstance(v, type) and v.__module__ == errors.__name__
    }
    assert classes <= set(codellama.__all__)

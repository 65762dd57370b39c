"""The house's own rules: one direction of imports, who may import what, sizes, and the public names."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from string import Formatter

import pytest

import codellama
from codellama import ModelConfig, SamplingParams
from rooms import OUTSIDE, ROOMS

ROOT = Path(codellama.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

SETTINGS = {f.name for cls in (ModelConfig, SamplingParams) for f in dataclasses.fields(cls)}
MOST_LINES = 400
MOST_FUNCTION_LINES = 50


def room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Absolute names of everything a module imports, for types too."""
    found: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module, parsed once for all tests."""
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def formatted_errors() -> frozenset[str]:
    """The names of InvalidRequestError and of every class made of it."""
    trees = [parsed(path) for path in MODULES]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"InvalidRequestError"}
    while more := {c.name for c in classes if found & set(map(name_of, c.bases))} - found:
        found |= more
    return frozenset(found)


def name_of(node: ast.expr) -> str:
    """The last name in `name` or `module.name`; nothing for other expressions."""
    return getattr(node, "id", "") or getattr(node, "attr", "")


def test_the_list_of_rooms_is_the_folder() -> None:
    there = {room(path) for path in MODULES}
    assert sorted(ROOMS) == sorted(there), "scripts/rooms.py names every room once"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_rooms_import_only_from_rooms_above_them(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        package, *rest = name.split(".")
        if package == "codellama":
            imported = rest[0] if rest and rest[0] in ROOMS else "__init__"
            assert ROOMS.index(imported) <= ROOMS.index(own), f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_user_data_is_no_part_of_a_sentence_that_is_formatted(path: Path) -> None:
    kinds = formatted_errors() - {"ContextLengthError"}  # which has a sentence of its own
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and name_of(node.func) in kinds and node.args:
            where, sentence = f"{path}:{node.lineno}", node.args[0]
            assert isinstance(sentence, ast.Constant), f"{where}: values go by name"
            fields = {name for _, name, _, _ in Formatter().parse(str(sentence.value)) if name}
            values = {keyword.arg for keyword in node.keywords}
            assert fields <= values | {"param"} | SETTINGS, where


OTHERS = {ROOT / "quality" / "sandbox.py", ROOT / "quality" / "tasks.py"}
"""They name options of other people's programs: bubblewrap's, and the hub's."""


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) != "cli" and p not in OTHERS], ids=ids
)
def test_the_library_names_no_options_of_the_command_line(path: Path) -> None:
    tree = parsed(path)
    statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in statements:
            flag = re.search(r"(?<![\w-])--[a-z][a-z-]+", str(node.value))
            assert flag is None, f"{path}:{node.lineno}: {flag}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_every_outside_package_is_named_with_the_rooms_that_may_import_it(path: Path) -> None:
    for name in imports(path):
        package = name.split(".")[0]
        if package != "codellama" and package not in sys.stdlib_module_names:
            assert room(path) in OUTSIDE.get(package, set()), f"{ids(path)} imports {package}"


def test_no_outside_package_is_named_for_a_room_that_does_not_import_it() -> None:
    used = {(name.split(".")[0], room(path)) for path in MODULES for name in imports(path)}
    assert not [
        (package, r)
        for package, rooms in OUTSIDE.items()
        for r in rooms
        if (package, r) not in used
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    by_name = {
        ".".join(("codellama", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in MODULES
    }
    graph: dict[str, set[str]] = {}
    for module, path in by_name.items():
        targets = set()
        for name in imports(path):
            # `from a.b import c` may mean the module a.b.c or a name in a.b
            target = next((n for n in (name, name.rpartition(".")[0]) if n in by_name), None)
            if target is not None and target != module:
                targets.add(target)
        graph[module] = targets
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(ids(path))
    assert not {name: where for name, where in homes.items() if len(where) > 1}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_say_what_they_are_and_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = parsed(path)
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

"""The samples that teach the demo model to copy: valid Python, made up, and nothing that is held out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from bench import texts
from demo_model import corpus
from demo_model.batches import (
    COPY_STAGES,
    IGNORED,
    copy_rows,
    copy_stage_at,
    sources_of,
)
from demo_model.copies import Copies, Sample, asked_copy, disguised, made_up_class, made_up_name
from demo_model.samples import EDIT_INTRODUCTION, library_functions
from demo_model.vocabulary import Vocabulary

CHECKPOINT = Path(__file__).resolve().parents[2] / "models" / "demo"
FUNCTION = '''def load(self, path, limit=20):
    """Read the lines of a file."""
    # Not all of them.
    with open(path) as file:
        lines = [line.strip("\\n x") for line in file
                 if len(line) < limit]
    return Reader("%s lines" % len(lines), "some words", 0x10, 7)
'''


@pytest.fixture(scope="module")
def functions() -> list[str]:
    """The library's functions that training copies."""
    return library_functions(corpus.training_files()[0])


@pytest.fixture(scope="module")
def copies(functions: list[str]) -> Copies:
    """The generator on the shipped vocabulary."""
    return Copies(Vocabulary(CHECKPOINT / "tokenizer.model"), functions)


def blocks(copies: Copies, sample: Sample) -> tuple[str, str]:
    """The code in the prompt, and the code of the answer."""
    prompt = copies.vocabulary.decode(sample.ids[: sample.counted_from])
    answer = copies.vocabulary.decode(sample.ids[sample.counted_from :])
    assert answer.startswith(EDIT_INTRODUCTION)
    before, after = (re.search(r"```python\n(.*)```", t, re.DOTALL) for t in (prompt, answer))
    assert before
    assert after
    return before[1], after[1]


def test_generated_edits_parse_and_are_mostly_copies(copies: Copies) -> None:
    rng = np.random.default_rng(5)
    changed = 0
    for _ in range(300):
        before, after = blocks(copies, copies.edit(rng))
        ast.parse(before)
        ast.parse(after)
        assert before.count("\n") == after.count("\n")
        changed += before != after
    assert 200 < changed < 300


def test_held_out_modules_never_appear(functions: list[str]) -> None:
    stems = {path.stem for files in corpus.training_files() for path in files}
    assert stems.isdisjoint(corpus.HELD_OUT)
    held_out = set(library_functions(corpus.held_out_files()))
    assert held_out
    assert held_out.isdisjoint(functions)


def test_prompts_of_the_benchmark_are_held_out(functions: list[str]) -> None:
    assert {module.__name__ for module in texts.MODULES} <= set(corpus.HELD_OUT)
    for index in range(30):
        code = texts.edit(index, 0).split("```python\n")[1].removesuffix("```")
        assert code not in functions


def test_disguise_keeps_what_python_knows() -> None:
    code = disguised(FUNCTION, np.random.default_rng(1), 1.0)
    for kept in ("def ", "(self, ", "with open(", "if len(", "return ", '"%s ', '\\n x"', "0x10"):
        assert kept in code
    for gone in ("load", "path", "limit", "20", "Not all", "strip", "Reader", "words"):
        assert gone not in code
    ast.parse(code)
    assert code.count("\n") == FUNCTION.count("\n")


def test_disguise_gives_a_name_the_same_name_everywhere() -> None:
    code = disguised("def f(values):\n    return values + values\n", np.random.default_rng(2), 1.0)
    found = re.fullmatch(r"def (\w+)\((\w+)\):\n    return (\w+) \+ (\w+)\n", code)
    assert found
    assert found[2] == found[3] == found[4] != found[1]


def test_no_disguise_changes_nothing() -> None:
    assert disguised(FUNCTION, np.random.default_rng(3), 0.0) == FUNCTION


def test_asked_copy_does_what_it_says() -> None:
    rng = np.random.default_rng(4)
    function = "def load(path):\n    return open(path)\n"
    seen = set()
    for _ in range(200):
        instruction, after = asked_copy(function, rng)
        found = re.fullmatch(r"def (\w+)\((\w+)\):\n    return open\((\w+)\)\n", after)
        assert found
        assert found[2] == found[3]
        new = {found[1], found[2]} - {"load", "path"}
        assert all(name in instruction for name in new)
        seen.add((found[1] != "load", found[2] != "path"))
    assert seen == {(True, False), (False, True), (False, False)}


def test_made_up_names_are_names_and_no_keywords() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        ast.parse(f"def {made_up_name(rng)}(): pass\nclass {made_up_class(rng)}: pass\n")


def test_echo_counts_from_where_it_can_be_known(copies: Copies) -> None:
    sample = copies.echo(np.random.default_rng(7), 64)
    period = sample.counted_from - 1
    assert len(sample.ids) == 65
    assert 8 <= period < 32
    assert sample.ids[1 + period :] == sample.ids[1:-period]


def test_sources_point_at_the_token_to_copy() -> None:
    #      0  1  2  3  4  5  6  7
    ids = [1, 5, 6, 9, 5, 7, 5, 6]
    # At 6 (a 5 after a 7) the 6 at 2 comes next, led to by one equal token.
    assert sources_of(ids, 7) == [IGNORED] * 6 + [2]
    # The longer run wins over the later place.
    ids = [4, 5, 6, 8, 5, 6, 4, 5, 6]
    assert sources_of(ids, 8)[-1] == 2
    # A token that stands nowhere before, or that nothing equal leads to, has no source.
    assert sources_of([1, 2, 3], 1) == [IGNORED, IGNORED]
    assert sources_of([1, 2, 3, 2], 3) == [IGNORED] * 3


def test_copy_rows_count_answers_only_and_their_sources_are_right(copies: Copies) -> None:
    part = copy_rows(lambda rng: copies.edit(rng, 0.3), np.random.default_rng(8), 4, 512)
    counted = part.targets != IGNORED
    assert part.sources is not None
    guided = part.sources != IGNORED
    assert 0 < guided.sum() < counted.sum() < counted.size / 2
    rows, columns = np.nonzero(guided)
    pointed = part.inputs[rows, part.sources[rows, columns]]
    assert (pointed == part.targets[rows, columns]).all()
    assert (part.sources[rows, columns] <= columns).all()


def test_copy_rows_are_a_function_of_the_seed(copies: Copies) -> None:
    first, second = (copy_rows(copies.edit, np.random.default_rng(9), 2, 512) for _ in range(2))
    assert (first.inputs == second.inputs).all()
    assert (first.targets == second.targets).all()


def test_copy_stages_begin_at_zero_and_fill_whole_rows() -> None:
    assert copy_stage_at(0.0) is COPY_STAGES[0]
    assert copy_stage_at(1.0) is COPY_STAGES[-1]
    for stage in COPY_STAGES:
        assert stage.edits % stage.length == stage.code % stage.length == 0
        assert stage.questions % stage.length == stage.echoes % 128 == 0

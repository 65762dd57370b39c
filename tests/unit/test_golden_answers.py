"""The bytes of every dialect's answers, whole and streamed, are those in `tests/data/answers`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.golden_answers import CASES, FOLDER, Answers, path_of, serve


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    yield from serve()


@pytest.mark.parametrize("name", CASES)
def test_bytes(answers: Answers, name: str) -> None:
    assert answers.bytes_of(name) == path_of(name).read_bytes()


def test_every_file_has_a_case() -> None:
    assert sorted(FOLDER.iterdir()) == sorted(map(path_of, CASES))

"""Drafts by a model: its caches follow the sequences, over a fake context that checks every row."""

from __future__ import annotations

import pytest

from codellama.devices.draft_vocabulary import foreign_tokens
from codellama.engine import ModelDrafter
from codellama.engine.batch import Fork
from codellama.engine.drafter import Wish
from codellama.engine.request import Request
from codellama.errors import InvalidRequestError
from tests.fake_runner import VOCAB, FakeRunner, expected, request


def drafter(
    n_slots: int = 2, cells: int = 400, chunk: int = 64, **options: object
) -> tuple[ModelDrafter, FakeRunner]:
    runner = FakeRunner(n_slots, cells)
    return ModelDrafter(runner, n_slots, cells, chunk, 0.5, **options), runner  # type: ignore[arg-type]


def extend(req: Request, tokens: list[int]) -> Request:
    req.tokens += tokens
    return req


def test_drafts_are_the_model_s_likeliest_tokens() -> None:
    model, runner = drafter()
    a, b = request([1, 2, 3], 50), request([4, 5], 50)
    assert model.draft([Wish(a, 4), Wish(b, 2)]) == [expected([1, 2, 3], 4), expected([4, 5], 2)]
    assert len(runner.batches) == 4, "one pass per token for all sequences together"


def test_only_what_is_new_is_decoded() -> None:
    model, runner = drafter()
    new = request([1, 2, 3], 50)
    [draft] = model.draft([Wish(new, 4)])
    extend(new, [*draft[:2], 77])
    assert model.draft([Wish(new, 2)]) == [expected(new.tokens, 2)]
    assert runner.batches[4].tokens == [77]


def test_a_long_prompt_is_caught_up_with_in_chunks() -> None:
    model, runner = drafter(chunk=8)
    long, short = request(range(20), 50), request([1], 50)
    wishes = [Wish(long, 1), Wish(short, 1)]
    assert model.draft(wishes) == [[], expected([1], 1)]
    assert len(runner.batches[0].tokens) == 8
    extend(short, [9])
    assert model.draft(wishes) == [[], expected([1, 9], 1)]
    extend(short, [9])
    assert model.draft(wishes) == [expected(range(20), 1), expected([1, 9, 9], 1)]


def test_unsure_tokens_end_a_draft() -> None:
    model, runner = drafter()
    sure = [0.9, 0.8, 0.4]
    runner.best = lambda row: (5, sure.pop(0))  # type: ignore[method-assign]
    assert model.draft([Wish(request([1], 50), 8)]) == [[5, 5]]


def test_foreign_ids_are_neither_read_nor_proposed() -> None:
    second = expected([1, 0], 2)[1]
    model, runner = drafter(foreign=frozenset({VOCAB, second}), substitute=0)
    new = request([1, VOCAB], 50)
    assert model.draft([Wish(new, 5)]) == [expected([1, 0], 1)]
    assert runner.batches[0].tokens == [1, 0]


def test_a_common_beginning_is_forked() -> None:
    model, runner = drafter()
    model.draft([Wish(request(range(30), 50), 1)])
    twin = request([*range(25), 99], 50)
    assert model.draft([Wish(twin, 1)]) == [expected(twin.tokens, 1)]
    assert Fork(0, 1, 25) in runner.batches[-1].edits
    assert runner.batches[-1].tokens == [99]


def test_caches_of_others_make_room() -> None:
    model, _ = drafter(n_slots=3, cells=60)
    old, idle, new = request(range(20), 9), request(range(50, 70), 9), request(range(100, 130), 9)
    for req in (old, idle):
        model.draft([Wish(req, 1)])
    model.forget(idle)
    assert model.draft([Wish(new, 5)]) == [expected(new.tokens, 5)]
    assert model.draft([Wish(old, 2)]) == [expected(old.tokens, 2)]


def test_after_a_reset_it_starts_afresh() -> None:
    model, runner = drafter()
    new = request([1, 2, 3], 50)
    model.draft([Wish(new, 2)])
    model.reset()
    assert runner.cleared == 1
    assert model.draft([Wish(new, 2)]) == [expected([1, 2, 3], 2)]


TOKENS = [f"t{i}" for i in range(100)]


def vocabulary(tokens: list[str], **more: object) -> dict[str, object]:
    ids = {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True} | more
    return {f"tokenizer.ggml.{name}": value for name, value in (ids | {"tokens": tokens}).items()}


def test_vocabularies_may_differ_in_the_last_tags() -> None:
    ours = vocabulary(TOKENS)
    assert foreign_tokens(ours, ours) == frozenset()
    assert foreign_tokens(ours, vocabulary([*TOKENS[:-1], "<step>"])) == {99}
    assert foreign_tokens(ours, vocabulary(TOKENS[:-2])) == {98, 99}
    assert foreign_tokens(ours, vocabulary([*TOKENS, "more"])) == frozenset()


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (vocabulary(["other", *TOKENS[1:]]), "token 0 is 'other' there, 't0' here"),
        (vocabulary(TOKENS[:50]), "it has 50 tokens there, 100 here"),
        (vocabulary(TOKENS, eos_token_id=7), "eos_token_id is 7 there, 2 here"),
        (vocabulary(TOKENS, model="gpt2"), "model is 'gpt2' there, 'llama' here"),
    ],
)
def test_the_first_difference_is_named(theirs: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        foreign_tokens(vocabulary(TOKENS), theirs)
    assert caught.value.param == "draft_model"

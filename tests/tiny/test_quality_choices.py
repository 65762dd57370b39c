"""Answers to questions, scored together: the same likelihoods as one at a time, and little decoding."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codellama.devices.machine import this_machine
from codellama.devices.planner import plan_load
from codellama.files.loadable import read_model
from codellama.llm import LLM
from codellama.native.context import Context
from codellama.params import ModelConfig
from codellama.quality.choices import ROWS, SEQUENCES, ChoiceScorer, Question, waves

EXACT: dict[str, Any] = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}


@pytest.fixture(scope="module")
def scorer(tiny_gguf: Path) -> Iterator[ChoiceScorer]:
    plan = plan_load(read_model(tiny_gguf), ModelConfig.of(**EXACT, n_seq_max=1), this_machine())
    with ExitStack() as undo:
        yield ChoiceScorer(plan.model, 1024, undo)


@pytest.fixture(scope="module")
def exact_llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf, n_seq_max=1, **EXACT) as llm:
        yield llm


def alone(llm: LLM, context: tuple[int, ...], answer: tuple[int, ...]) -> tuple[float, bool]:
    """What the engine says of one answer, as the server's route does."""
    scored = llm.complete(list(context + answer), echo=True, logprobs=1, max_tokens=0).result()
    entries = scored.choices[0].logprobs[len(context) :]
    return sum(e.logprob for e in entries), all(e.top[0][0] == e.token for e in entries)


def random_questions(rng: random.Random, count: int) -> list[Question]:
    """Questions with examples in common, or not, with answers of one token and of many."""

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(260, 360) for _ in range(n))

    shots = [(1, *tokens(n)) for n in (0, 40, 700)]
    return [
        Question(
            rng.choice(shots) + tokens(rng.randrange(1, 60)),
            tuple(tokens(rng.choice([1, 1, 2, 9])) for _ in range(rng.randrange(1, 5))),
        )
        for _ in range(count)
    ]


def test_likelihoods_are_those_of_one_answer_at_a_time(
    scorer: ChoiceScorer, exact_llm: LLM
) -> None:
    questions = random_questions(random.Random(1), 40)
    questions.append(Question((1,), ((300,), (301, 302))))
    questions.append(Question(questions[0].context, ((5, 6, 7),)))
    for question, found in zip(questions, scorer.score(questions), strict=True):
        for answer, (value, greedy) in zip(question.answers, found, strict=True):
            expected, expected_greedy = alone(exact_llm, question.context, answer)
            assert value == pytest.approx(expected, abs=1e-4)
            assert greedy == expected_greedy


def test_the_likeliest_answer_is_called_greedy(scorer: ChoiceScorer, exact_llm: LLM) -> None:
    context = (1, 300, 301)
    greedy = exact_llm.complete(list(context), max_tokens=5, temperature=0).result().choices[0]
    other = (*greedy.tokens[:-1], 259)
    ((likeliest, not_quite),) = scorer.score([Question(context, (greedy.tokens, other))])
    assert likeliest[1] and not not_quite[1]
    assert likeliest[0] > not_quite[0]


def test_an_answer_may_be_longer_than_a_batch(scorer: ChoiceScorer, exact_llm: LLM) -> None:
    rng = random.Random(2)
    answer = tuple(rng.randrange(260, 360) for _ in range(ROWS + 300))
    ((found,),) = scorer.score([Question((1,), (answer,))])
    assert found[0] == pytest.approx(alone(exact_llm, (1,), answer)[0], rel=1e-5)


def test_what_questions_share_is_decoded_once(
    scorer: ChoiceScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    run = Context.run

    def counted(self: Context, batch: Any) -> None:
        decoded.append(len(batch.tokens))
        run(self, batch)

    monkeypatch.setattr(Context, "run", counted)
    shots = (1, *range(260, 360), *range(259, 361))
    questions = [
        Question((*shots, 300 + i, 310), tuple((320 + j, 330, 331) for j in range(4)))
        for i in range(6)
    ]
    scorer.score(questions)
    # The shots, two tokens of each question, and two of each answer: the last one is never decoded.
    own = 6 * 2 + 6 * 4 * 2
    assert sum(decoded) == len(shots) + own
    decoded.clear()
    scorer.score(questions)
    assert sum(decoded) == own


def test_waves_hold_every_question_once_and_fit() -> None:
    questions = random_questions(random.Random(3), 200)
    found = waves(questions)
    assert sorted(place for wave in found for place in wave.places) == list(range(200))
    for wave in found:
        members = [questions[place] for place in wave.places]
        shared = members[0].context[: wave.n_shared]
        assert all(q.context[: wave.n_shared] == shared for q in members)
        assert all(len(q.context) > wave.n_shared for q in members)
        assert sum(1 + len(q.answers) for q in members) < SEQUENCES
    assert len(found) < 40

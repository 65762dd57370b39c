"""The same request with the same seed gives the same answer on an idle engine, whatever was served before.

What is compared are tokens and log probabilities, to the last bit. Between two times other requests come and
go, alone and together, that share beginnings with it: drawn and greedy, with drafts and without.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama import LLM
from codellama.engine.chunks import SMALLEST
from codellama.weights.convert import convert
from tests.inside import core

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
FUNCTION = (
    "def {name}({a}, {b}):\n    if {a} > {b}:\n        return {a} - {b}\n    return {b} + {a}\n\n"
)
NAMES = ("area", "total", "shift", "merge", "scale", "split", "clamp", "order")
DRAWN: dict[str, Any] = {"temperature": 1.0, "max_tokens": 48, "ignore_eos": True}
Bits = list[tuple[int, float]]


def text(rng: random.Random) -> str:
    """One of a few beginnings, of 1 to 8 functions, and an end of its own."""
    names = NAMES[: rng.randint(1, len(NAMES))]
    beginning = "".join(FUNCTION.format(name=n, a=n[0] + "1", b=n[-1] + "2") for n in names)
    return beginning + f"# {rng.choice(NAMES)} {rng.randint(0, 9)}\ndef "


def ask(llm: LLM, prompt: str, **options: Any) -> Bits:
    choices = llm.complete(prompt, logprobs=0, **DRAWN | options).result().choices
    return [(entry.token, entry.logprob) for choice in choices for entry in choice.logprobs]


def disturb(llm: LLM, rng: random.Random) -> None:
    """Other requests, up to four at a time, all answered when this returns."""
    for _ in range(rng.randint(0, 2)):
        running = [
            llm.complete(
                text(rng),
                temperature=rng.choice([0.0, 0.0, 1.0]),
                seed=rng.choice([None, 7]),
                max_tokens=rng.randint(1, 60),
                n=rng.choice([1, 1, 2]),
            )
            for _ in range(rng.randint(1, 4))
        ]
        for completion in running:
            completion.result()


def differing(llm: LLM, seeds: range, times: int = 3, **options: Any) -> list[int]:
    """The seeds whose answer was not the same `times` times."""
    found = []
    for seed in seeds:
        rng = random.Random(seed)
        prompt = text(rng)
        answers = []
        for _ in range(times):
            disturb(llm, rng)
            answers.append(ask(llm, prompt, seed=seed, **options))
        if any(answer != answers[0] for answer in answers):
            found.append(seed)
    return found


@pytest.fixture(scope="module", params=["Q4_K_M", "Q8_0"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint, quantized."""
    path = tmp_path_factory.mktemp("demo") / f"demo.{request.param}.gguf"
    convert(DEMO, path, request.param)
    return path


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    """Eight slots, and all else as it is by default."""
    with LLM(model, n_seq_max=8) as loaded:
        yield loaded


def test_seeds_repeat_at_the_defaults(llm: LLM) -> None:
    assert differing(llm, range(20)) == []
    core(llm).engine.check_integrity()


def test_choices_of_one_request_repeat(llm: LLM) -> None:
    assert differing(llm, range(100, 106), n=3) == []


def test_what_a_schema_forces_is_guessed_and_repeats(llm: LLM) -> None:
    names = ("first_name", "description", "is_active")
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 9} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    assert differing(llm, range(200, 206), json_schema=schema, ignore_eos=False) == []
    drawn = llm.complete("{", json_schema=schema, seed=1, temperature=1, max_tokens=60).result()
    assert drawn.timings.draft_n > 4


def test_a_seeded_draw_goes_without_guesses_unless_it_asks(llm: LLM) -> None:
    copied = FUNCTION.format(name="area", a="a1", b="a2") * 3 + "def area("
    options: dict[str, Any] = {"temperature": 0.01, "max_tokens": 40, "ignore_eos": True}

    def n_guessed(**more: Any) -> int:
        return llm.complete(copied, **options | more).result().timings.draft_n

    assert n_guessed(seed=1) == 0
    assert n_guessed(spec_draft_n_max=0) == 0
    assert n_guessed(temperature=0, spec_draft_n_max=0) == 0
    assert n_guessed(temperature=0, seed=1) > 0, "nothing is drawn"
    assert n_guessed() > 0
    assert n_guessed(seed=1, spec_draft_n_max=8) > 0


def test_without_cache_prompt_nothing_is_taken_over(llm: LLM) -> None:
    prompt = text(random.Random(3)) * 3
    first = llm.complete(prompt, max_tokens=1).result()
    assert llm.complete(prompt, max_tokens=1).result().usage.cached_tokens > 0
    for n in (1, 3):
        again = llm.complete(prompt, max_tokens=9, n=n, cache_prompt=False).result()
        assert (again.usage.cached_tokens, again.usage.prompt_tokens) == (
            0,
            first.usage.prompt_tokens,
        )
    seeded = llm.complete(prompt, max_tokens=1, seed=1, temperature=1).result()
    tail = seeded.usage.prompt_tokens - seeded.usage.cached_tokens
    assert 0 < tail <= SMALLEST, "pieces that decoding anew would leave as they are"
    running = llm.complete("x", max_tokens=200, ignore_eos=True)
    busy = llm.complete(prompt, max_tokens=1, cache_prompt=False).result()
    running.cancel()
    assert busy.usage.cached_tokens == 0


def test_a_saved_state_spares_what_repeats(llm: LLM, model: Path, tmp_path: Path) -> None:
    """Another process takes over the pieces of the prompt, and draws the same answer."""
    prompt, path = text(random.Random(3)) * 3, tmp_path / "some.kv"
    tokens = llm.complete_prompt(prompt).tokens
    answer = ask(llm, prompt, seed=5)
    assert llm.save_state(tokens, path)
    with LLM(model, n_seq_max=8) as other:
        other.load_state(path)
        assert ask(other, prompt, seed=5) == answer
        assert len(tokens) - other.status().cached_tokens <= SMALLEST


def test_greedy_repeats_without_guesses_and_cache(llm: LLM) -> None:
    options: dict[str, Any] = {"temperature": 0, "cache_prompt": False, "spec_draft_n_max": 0}
    rng = random.Random(1)
    prompt = text(rng)
    answers = []
    for _ in range(4):
        disturb(llm, rng)
        answers.append(ask(llm, prompt, **options))
    assert answers == answers[:1] * 4


@pytest.mark.slow
def test_two_hundred_seeds_repeat(llm: LLM) -> None:
    assert differing(llm, range(1000, 1200)) == []

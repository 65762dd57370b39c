"""A completion with more candidates than are kept."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import InvalidRequestError
from codellama.params import Prompt, SamplingParams
from codellama.running.collected import mean_logprob
from codellama.running.completion import Completion, Deliver, Result, begin, delivery
from codellama.running.mailbox import Mailbox


def finished(*logprobs: float) -> Delta:
    tokens = tuple(range(len(logprobs)))
    return Delta(
        tokens=tokens,
        logprobs=tuple(TokenLogprob(i, value) for i, value in enumerate(logprobs)),
        finish_reason=FinishReason.LENGTH,
        usage=Usage(2, len(logprobs)),
        timings=Timings(),
    )


def completion(n: int, **options: Any) -> tuple[Completion, Deliver]:
    """One that is read here, and what to hand its deltas to."""
    mailbox: Mailbox[tuple[int, Delta]] = Mailbox()
    options.setdefault("cancel", lambda: None)
    made = Completion(Prompt((1, 2)), n, mailbox, params=SamplingParams(), **options)
    return made, delivery(mailbox)


def test_the_likeliest_are_kept_in_order() -> None:
    candidates, deliver = completion(4, keep=3)
    for index, delta in enumerate([finished(-2, -2), finished(), finished(-1, -3.5), finished(-1)]):
        deliver(index, delta)
    result = candidates.result()
    assert [len(choice.tokens) for choice in result.choices] == [1, 2, 2]
    assert [choice.logprobs[0].logprob for choice in result.choices] == [-1, -2, -1]
    assert [choice.index for choice in result.choices] == [0, 1, 2]
    assert result.usage == Usage(2, 5)


@pytest.mark.parametrize("text", ["ab", ""])
def test_a_scored_prompt_does_not_count(text: str) -> None:
    candidates, deliver = completion(2, scored=True, keep=1)
    begin(deliver, 2, text)
    scored = (TokenLogprob(1, math.nan), TokenLogprob(2, -50.0))
    for index, delta in enumerate([finished(-2, -2), finished(-1, -1)]):
        deliver(index, Delta(logprobs=scored))
        deliver(index, delta)
    result = candidates.result()
    assert [choice.logprobs[2].logprob for choice in result.choices] == [-1]


@pytest.mark.parametrize(
    ("n", "first", "mean"), [(0, 0, -math.inf), (2, 0, -2.0), (1, 2, -7.0), (1, 0, -1.0)]
)
def test_mean(n: int, first: int, mean: float) -> None:
    logprobs = [TokenLogprob(0, value) for value in (-1.0, -3.0, -7.0)]
    assert mean_logprob(n, logprobs, first) == mean


@pytest.mark.parametrize(("n", "keep", "given"), [(1, None, True), (3, 1, True), (2, None, False)])
def test_text_is_that_of_the_one_choice(n: int, keep: int | None, given: bool) -> None:
    made, deliver = completion(n, keep=keep)
    for index in range(n):
        deliver(index, finished(-1)._replace(text=f"answer {index}"))
    if given:
        assert made.text() == "answer 0"
        return
    with pytest.raises(InvalidRequestError, match=r"has 2 choices: use result\(\)") as caught:
        made.text()
    assert caught.value.param == "n"
    assert [choice.text for choice in made.result().choices] == ["answer 0", "answer 1"]


def test_a_completion_can_be_awaited() -> None:
    made, deliver = completion(1)

    async def wait() -> Result:
        threading.Timer(0.01, deliver, (0, finished(-1, -1)._replace(text="hi"))).start()
        return await made

    result = asyncio.run(asyncio.wait_for(wait(), 10))
    assert result.text == "hi"
    assert result is made.result()


def test_nobody_is_woken_before_a_whole_answer_has_ended() -> None:
    made, deliver = completion(1)

    async def wait() -> int:
        loop, calls = asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counted(*args: Any, **options: Any) -> asyncio.Handle:
            nonlocal calls
            calls += 1
            return wake(*args, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        reading = asyncio.create_task(made.aresult())
        await asyncio.sleep(0)
        for delta in (Delta(text="a"), Delta(text="b"), Delta(text="c"), finished(-1)):
            deliver(0, delta)
            await asyncio.sleep(0)
        assert (await reading).text == "abc"
        return calls

    assert asyncio.run(wait()) == 1


def test_what_is_printed_says_what_it_is() -> None:
    made, deliver = completion(2)
    assert repr(made) == str(made)
    assert all(part in repr(made) for part in (made.id, "n=2", "open", "result()"))
    assert "0x" not in repr(made).replace(made.id, "")
    for index in range(2):
        deliver(index, finished(-1))
    made.result()
    assert "ended" in repr(made)


def test_what_is_delivered_elsewhere_is_not_read_here() -> None:
    cancelled: list[bool] = []
    made = Completion(
        Prompt((1, 2)), 1, None, lambda: cancelled.append(True), params=SamplingParams()
    )
    for read in (made.result, made.text, lambda: list(made), lambda: asyncio.run(made.aresult())):
        with pytest.raises(InvalidRequestError, match="deliver"):
            read()
    assert "elsewhere" in repr(made)
    assert cancelled == []
    made.cancel()
    assert cancelled == [True]


def test_what_has_come_and_was_not_read_is_still_there() -> None:
    made, deliver = completion(1)
    for text in "abc":
        deliver(0, Delta(text=text))
    for piece in made:
        assert piece == "a"
        break
    deliver(0, finished(-1))
    assert made.text() == "bc"


def test_several_completions_can_be_awaited_together() -> None:
    made = [completion(1) for _ in range(2)]
    for i, (_, deliver) in enumerate(made):
        deliver(0, finished(-1)._replace(text=str(i)))

    async def wait() -> list[Result]:
        return await asyncio.gather(*(one for one, _ in made))

    assert [result.text for result in asyncio.run(wait())] == ["0", "1"]

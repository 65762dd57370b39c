"""What is remembered of a request to an engine in another process."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import EngineDeadError
from codellama.params import Prompt, SamplingParams
from codellama.running.asked import MOST_TRIES, Asked
from codellama.running.core import Ask
from codellama.running.records import packed, read_record, write_record

DELTAS = [
    Delta("a", (1,)),
    Delta("", (1, 2), (TokenLogprob(1, -0.5), TokenLogprob(2, -1.5, ((3, -1.0),)))),
    Delta(logprobs=(TokenLogprob(1, -0.5),)),
    Delta(usage=Usage(3), timings=Timings(), processed=2),
    Delta("b", (), (), FinishReason.STOP, 2, Usage(1, 2, 3), Timings(1.0), None, True),
    Delta(finish_reason=FinishReason.ERROR, error=EngineDeadError("gone", "ask again")),
]


def asked(n: int = 1) -> tuple[Asked, list[tuple[int, Delta]]]:
    heard: list[tuple[int, Delta]] = []
    request = Asked(
        Ask(Prompt((1, 2, 3)), SamplingParams(), n),
        lambda index, delta: heard.append((index, delta)),
    )
    request.accepted.set_result((0,))
    return request, heard


@pytest.mark.parametrize("delta", DELTAS, ids=str)
def test_a_delta_is_the_same_at_the_other_end(delta: Delta) -> None:
    pipe = io.BytesIO()
    write_record(pipe, packed(delta))
    pipe.seek(0)
    again = Delta(*read_record(pipe))
    assert again._replace(error=None) == delta._replace(error=None)
    assert str(again.error) == str(delta.error)
    assert read_record(pipe) is None


def test_a_record_that_is_cut_short_is_the_end(tmp_path: Path) -> None:
    pipe = io.BytesIO()
    write_record(pipe, ("result", 1, "value"))
    assert read_record(io.BytesIO(pipe.getvalue()[:-1])) is None


def test_an_echo_is_told_once_and_progress_each_time() -> None:
    request, heard = asked()
    for _ in range(2):
        request.take(0, Delta("the prompt"))
        request.take(0, Delta(usage=Usage(3), processed=2))
    assert [delta.text for _, delta in heard] == ["the prompt", "", ""]
    assert request.may_go_again
    request.tries = MOST_TRIES
    assert not request.may_go_again, "it may be what ends the processes"


@pytest.mark.parametrize("delta", [DELTAS[0], DELTAS[2], DELTAS[4]], ids=str)
def test_what_has_begun_is_not_asked_again(delta: Delta) -> None:
    request, _ = asked()
    request.take(0, delta)
    assert not request.may_go_again


def test_each_open_answer_ends_once_with_what_was_written() -> None:
    request, heard = asked(3)
    request.take(0, Delta("a", (1,)))
    request.take(1, Delta(finish_reason=FinishReason.STOP))
    request.fail(EngineDeadError("gone"))
    ends = {i: delta for i, delta in heard if delta.finish_reason is FinishReason.ERROR}
    assert sorted(ends) == [0, 2]
    assert ends[0].usage == Usage(3, 1)
    assert request.is_over


def test_who_still_waits_to_be_taken_in_hears_of_the_error() -> None:
    request = Asked(Ask(Prompt((1,)), SamplingParams()), lambda index, delta: None)
    request.fail(EngineDeadError("gone"))
    with pytest.raises(EngineDeadError):
        request.accepted.result(0)

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.client import Answer, BenchError, Recording, parse, total_rate

USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def text(piece: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": piece}], "usage": None}


def delta(**fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def recorded(*chunks: tuple[float, bytes]) -> Recording:
    return Recording(sent=1.0, ended=9.0, chunks=list(chunks))


def test_events_get_the_time_of_the_chunk_that_completes_them() -> None:
    one, two = sse(text("a")), sse(text("b"))
    chunks = [
        (2.0, one[:9]),
        (3.0, one[9:] + two),
        (4.0, sse(text("c"), USAGE) + b"data: [DONE]\n\n"),
    ]
    answer = parse(recorded(*chunks))
    assert answer.arrivals == (3.0, 3.0, 4.0)
    assert answer.text == "abc"
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 3)
    assert answer.first == 2.0
    assert answer.seconds == 8.0
    assert answer.decode_rate == pytest.approx(2 / 6)


def test_what_carries_no_text_is_no_arrival() -> None:
    head, body, end = delta(role="assistant"), delta(content="x"), delta()
    answer = parse(
        recorded((2.0, b": ping\n\n" + sse(head)), (5.0, sse(body)), (6.0, sse(end, USAGE)))
    )
    assert answer.arrivals == (5.0,)


def test_an_answer_without_text_arrives_at_its_end() -> None:
    answer = parse(recorded((2.0, sse(text(""))), (5.0, sse(text(""), USAGE))))
    assert answer.arrivals == (5.0,)


def test_carriage_returns_between_events_are_understood() -> None:
    data = sse(text("a"), USAGE).replace(b"\n", b"\r\n")
    assert parse(recorded((2.0, data))).text == "a"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sse({"error": {"message": "the queue is full"}}), "queue is full"),
        (sse(USAGE), "without an answer"),
        (sse(text("a")), "no usage"),
    ],
)
def test_a_stream_that_tells_too_little_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse(recorded((2.0, data)))


def test_the_rate_of_requests_counts_from_the_first_start_to_the_last_end() -> None:
    def answer(sent: float, ended: float, tokens: int) -> Answer:
        return Answer(sent, ended, (ended,), 1, tokens, "")

    assert total_rate([answer(0, 4, 10), answer(1, 5, 10)]) == 4.0

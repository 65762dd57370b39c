"""Which turns of a dialog to leave out when it gets too long, if that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codellama.params import Message


def drop_oldest(
    messages: Sequence[Message], fits: Callable[[list[Message]], bool]
) -> tuple[list[Message], list[Message]]:
    """(kept, dropped): as few of the oldest turns as possible are dropped, always a question with its
    answer and the calls between them; the system turn and the last question stay, whether they fit or not."""
    n_system = 1 if messages and messages[0]["role"] == "system" else 0
    system, turns = list(messages[:n_system]), list(messages[n_system:])
    starts = [0, *(i for i in range(1, len(turns)) if _is_question(turns, i))]
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(system + turns[starts[middle] :]):
            high = middle
        else:
            low = middle + 1
    return system + turns[starts[low] :], turns[: starts[low]]


def _is_question(turns: Sequence[Message], i: int) -> bool:
    """Whether turn `i` stands on its own; what a user says behind the results of calls belongs to them."""
    return turns[i]["role"] == "user" and turns[i - 1]["role"] == "assistant"

"""Which turns of a dialog to leave out when it gets too long, if that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codellama.params import Message


def drop_oldest(
    messages: Sequence[Message], fits: Callable[[list[Message]], bool]
) -> tuple[list[Message], list[Message]]:
    """(kept, dropped): as few of the oldest turns as possible are dropped, always a question with its
    answer; the system turn and the last question stay, whether they fit or not."""
    n_system = 1 if messages and messages[0]["role"] == "system" else 0
    system, turns = list(messages[:n_system]), list(messages[n_system:])
    most = max(0, (len(turns) - 1) // 2)  # pairs that may go
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if fits(system + turns[2 * middle :]):
            high = middle
        else:
            low = middle + 1
    return system + turns[2 * low :], turns[: 2 * low]

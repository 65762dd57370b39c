"""The oldest turns go first, in pairs; the system turn and the last question stay."""

from __future__ import annotations

import pytest

from codellama.params import Message
from codellama.prompts.history import drop_oldest


def dialog(n_pairs: int, system: bool) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": "s"}] if system else []
    for i in range(n_pairs):
        messages.append({"role": "user", "content": f"q{i}"})
        messages.append({"role": "assistant", "content": f"a{i}"})
    return [*messages, {"role": "user", "content": "last"}]


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("n_pairs", range(5))
@pytest.mark.parametrize("most", range(12))
def test_as_few_as_possible_are_dropped(n_pairs: int, system: bool, most: int) -> None:
    messages = dialog(n_pairs, system)
    kept, dropped = drop_oldest(messages, lambda m: len(m) <= most)
    head = messages[:1] if system else []
    assert head + dropped + kept[len(head) :] == messages
    assert len(dropped) % 2 == 0
    assert kept[-1]["content"] == "last"
    if len(kept) > len(head) + 1:
        assert len(kept) <= most
    if dropped:
        assert len(kept) + 2 > most, "one pair fewer would not have fitted"

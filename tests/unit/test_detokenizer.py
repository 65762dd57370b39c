"""UTF-8 and stop strings, token by token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.engine.detokenizer import Detokenizer, find_stop, partial_stop


def feed(pieces: list[bytes], stop: tuple[str, ...] = (), drop: bool = False) -> list[str]:
    """What each push showed, and the flush last."""
    detokenizer = Detokenizer(lambda token: pieces[token], stop, drop)
    shown = []
    for token in range(len(pieces)):
        shown.append(detokenizer.push(token))
        if detokenizer.stopped is not None:
            break
    return [*shown, detokenizer.flush()]


@pytest.mark.parametrize(
    ("pieces", "stop", "shown"),
    [
        ([b"a", b"b"], (), ["a", "b", ""]),
        ([b"\xe2", b"\x82", b"\xac!"], (), ["", "", "€!", ""]),
        ([b"a", b"\xe2\x82"], (), ["a", "", "\ufffd"]),
        ([b"\xff"], (), ["\ufffd", ""]),
        ([b"ab", b"STOP", b"c"], ("STOP",), ["ab", "", ""]),
        ([b"abST", b"OPc"], ("STOP",), ["ab", "", ""]),
        ([b"abST", b"ART"], ("STOP",), ["ab", "START", ""]),
        ([b"abST"], ("STOP",), ["ab", "ST"]),
        ([b"x\n", b"\n", b"y"], ("\n\n",), ["x", "", ""]),
        ([b"aSTOPb"], ("STOP",), ["a", ""]),
        ([b"one two"], ("two", "one"), ["", ""]),
        ([b"<", b"/", b"s", b">"], ("</s>", "<|"), ["", "", "", "", ""]),
        ([], ("STOP",), [""]),
    ],
)
def test_tables(pieces: list[bytes], stop: tuple[str, ...], shown: list[str]) -> None:
    assert feed(pieces, stop) == shown


def test_which_stop_string_is_told() -> None:
    detokenizer = Detokenizer(lambda _: b"a</s>", ("s>", "</s>"))
    assert detokenizer.push(0) == "a"
    assert detokenizer.stopped == "</s>"
    assert detokenizer.push(0) == "", "nothing comes after a stop string"


@pytest.mark.parametrize(
    ("pieces", "text"),
    [([b" Hello", b" you"], "Hello you"), ([b"", b" Hello"], "Hello"), ([b"  x"], " x")],
)
def test_one_leading_space_is_dropped(pieces: list[bytes], text: str) -> None:
    assert "".join(feed(pieces, drop=True)) == text


def test_of_two_stops_at_one_place_the_longer_wins() -> None:
    assert find_stop("abc", ("b", "bc")) == (1, "bc")
    assert find_stop("abc", ("x",)) is None


@pytest.mark.parametrize(
    ("text", "n"), [("", 0), ("a", 0), ("aS", 1), ("aST", 2), ("aSTOP", 0), ("STSTO", 3)]
)
def test_partial_stop(text: str, n: int) -> None:
    assert partial_stop(text, ("STOP",)) == n


@given(
    text=st.text(max_size=60),
    cuts=st.lists(st.integers(0, 240), max_size=12),
    stop=st.lists(st.text(min_size=1, max_size=4), max_size=3),
)
def test_any_cut_shows_the_same_text(text: str, cuts: list[int], stop: list[str]) -> None:
    """However the bytes are cut into tokens, the text is the same: all before the first stop."""
    data = text.encode("utf-8")
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    pieces = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    shown = "".join(feed(pieces, tuple(stop)))
    whole = "".join(feed([data], tuple(stop)))
    positions = [text.find(s) for s in stop if s in text]
    if not positions:
        assert shown == whole == text
    else:
        # Token by token the stop that is complete first wins, which may not be the leftmost one.
        assert text.startswith(shown)
        assert text.startswith(whole)
        assert len(whole) == min(positions)


@pytest.mark.parametrize(
    ("text", "shown", "outdented"),
    [
        ("anything at first", "anything at first", False),
        ("a\n    b\n    c", "a\n    b\n    c", False),
        ("a\n    b\n  c", "a\n    b\n  ", True),
        ("a\n\tb", "a\n\t", True),
        ("a\n    b\n\nc", "a\n    b\n", True),
        ("a\n", "a\n", False),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_line_indented_too_little_ends_the_text(
    text: str, shown: str, outdented: bool, size: int
) -> None:
    pieces = [text[i : i + size].encode() for i in range(0, len(text), size)]
    detokenizer = Detokenizer(pieces.__getitem__, min_indent=4)
    said = ""
    for i in range(len(pieces)):
        if not detokenizer.outdented:
            said += detokenizer.push(i)
    assert said + detokenizer.flush() == shown
    assert detokenizer.outdented == outdented

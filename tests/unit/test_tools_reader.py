"""Answers in words and calls, read in pieces of any size."""

from __future__ import annotations

import random

import pytest

from codellama.engine.detokenizer import Detokenizer
from codellama.running.tool_calls import AnswerReader, CallArguments, CallStart, Part, said

TWO = 'Let me see.\n[CALL] f {"a": "}[CALL] \\"{"}\n[CALL] g {"b": [{}, {"c": 1}]}'


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ("hello [CALL", "hello [CALL", []),
        ("hello\n", "hello\n", []),
        ("", "", []),
        ("[CALL] f {}", "", [("f", "{}")]),
        (" [CALL]f{}", "", [("f", "{}")]),
        (TWO, "Let me see.", [("f", '{"a": "}[CALL] \\"{"}'), ("g", '{"b": [{}, {"c": 1}]}')]),
        ('x [CALL] f {"a": "\\\\"}', "x", [("f", '{"a": "\\\\"}')]),
        # what max_tokens cut off
        ('[CALL] f {"a": "b', "", [("f", '{"a": "b')]),
        ("[CALL] f", "", []),
        ("[CALL] f ", "", [("f", "")]),
        ("words [CALL] ", "words", []),
        ("words [CALL] f {}\n[CAL", "words", [("f", "{}")]),
    ],
)
def test_words_and_calls(text: str, words: str, calls: list[tuple[str, str]]) -> None:
    whole = said(AnswerReader().feed(text, last=True))
    assert whole.text == words
    assert [(call.name, call.arguments) for call in whole.calls] == calls
    for seed in range(20):
        reader, parts, rest = AnswerReader(), [], text
        drawn = random.Random(seed)
        while rest:
            size = drawn.randint(1, 5)
            parts += reader.feed(rest[:size])
            rest = rest[size:]
        pieces = said([*parts, *reader.feed("", last=True)])
        assert pieces.text == words
        assert [(call.name, call.arguments) for call in pieces.calls] == calls


def test_parts_come_as_soon_as_they_are_certain() -> None:
    reader = AnswerReader()
    shown = [reader.feed(text) for text in ("Hi. ", "[C", "]", " [CALL] f", " {", '"a":1', "}")]
    call_id = next(part.id for parts in shown for part in parts if isinstance(part, CallStart))
    expected: list[list[Part]] = [
        ["Hi."],
        [],
        [" [C]"],
        [],
        [CallStart(0, call_id, "f"), CallArguments(0, "{")],
        [CallArguments(0, '"a":1')],
        [CallArguments(0, "}")],
    ]
    assert shown == expected
    assert call_id.startswith("call_") and reader.called


def test_each_call_has_an_id_of_its_own() -> None:
    ids = [call.id for _ in range(2) for call in said(AnswerReader().feed(TWO, last=True)).calls]
    assert len(set(ids)) == 4


def test_json_answers_may_hold_the_tag() -> None:
    text = '{"a": "[CALL] f {}"}'
    assert said(AnswerReader(anywhere=False).feed(text, last=True)).text == text
    assert said(AnswerReader(anywhere=False).feed(" [CALL] f {}", last=True)).calls[0].name == "f"


@pytest.mark.parametrize("text", [" ", "[", "\n[CALL", "[CALL]"])
def test_the_beginning_of_a_call_that_is_asked_for_is_no_word(text: str) -> None:
    assert said(AnswerReader(words=False).feed(text, last=True)).text == ""


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stop_string_ends_words_and_never_a_call(size: int) -> None:
    def shown(text: str) -> str:
        pieces = [text[i : i + size].encode() for i in range(0, len(text), size)]
        detokenizer = Detokenizer(
            lambda token: pieces[token], ("\n", "STOP"), no_stop_from="[CALL]"
        )
        seen = [detokenizer.push(i) for i in range(len(pieces))]
        return "".join(seen) + detokenizer.flush()

    assert shown('ok [CALL] f {\n"a": "STOP"}') == 'ok [CALL] f {\n"a": "STOP"}'
    assert shown("ok STOP [CALL] f {}") == "ok "
    assert shown("ok [CALM] STOP") == "ok [CALM] "

from __future__ import annotations

import io

import pytest
from rich.console import Console

from codellama.cli.markdown import CodeLine, MarkdownStream, Prose, Splitter

ANSWER = """\
# Title
A paragraph
of two lines.

1. One

   ```python
   def f():
       '''doc

       more'''
   ```

2. Two

~~~
```
~~~
The end"""

PIECES = [
    Prose("# Title"),
    Prose("A paragraph\nof two lines."),
    Prose("1. One"),
    CodeLine("def f():", "python", 0),
    CodeLine("    '''doc", "python", 1),
    CodeLine("", "python", 2),
    CodeLine("    more'''", "python", 3),
    Prose("2. Two"),
    CodeLine("```", "", 0),
    Prose("The end"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_do_not_depend_on_how_the_text_arrives(size: int) -> None:
    splitter = Splitter()
    pieces = []
    for i in range(0, len(ANSWER), size):
        pieces += splitter.push(ANSWER[i : i + size])
    assert pieces + splitter.finish() == PIECES


def test_the_tail_is_what_may_still_change() -> None:
    splitter = Splitter()
    assert splitter.push("- a\n- b") == []
    assert splitter.tail() == Prose("- a\n- b")
    assert splitter.push("\n\n```c\nint x") == [Prose("- a\n- b")]
    assert splitter.tail() == CodeLine("int x", "c", 0)
    assert splitter.push(";\n") == [CodeLine("int x;", "c", 0)]


def test_half_a_fence_is_not_shown() -> None:
    splitter = Splitter()
    splitter.push("text\n``")
    assert splitter.tail() == Prose("text\n")
    splitter.push("`\ncode\n`")
    assert splitter.tail() == CodeLine("", "", 1)


def test_indented_lines_after_a_blank_one_stay_with_their_list() -> None:
    splitter = Splitter()
    assert splitter.push("- a\n\n  still a\n\nnext") == []
    assert splitter.push("\n") == [Prose("- a\n\n  still a")]


def test_an_unclosed_fence_loses_nothing() -> None:
    splitter = Splitter()
    pieces = splitter.push("```py\nx = 1\ny")
    assert [*pieces, *splitter.finish()] == [CodeLine("x = 1", "py", 0), CodeLine("y", "py", 1)]


def shown(text: str, size: int, *, height: int = 10, colours: bool = False) -> str:
    """What a terminal shows at the end, once everything has been redrawn."""
    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=True,
        width=40,
        height=height,
        color_system="standard" if colours else None,
    )
    with MarkdownStream(console) as stream:
        for i in range(0, len(text), size):
            stream.push(text[i : i + size])
    return screen(file.getvalue()) if not colours else file.getvalue()


def screen(output: str) -> str:
    """Play the few control codes that rich uses on an endless page."""
    lines, row, column = [""], 0, 0
    rest = output
    while rest:
        if rest.startswith("\x1b["):
            end = next(i for i, c in enumerate(rest[2:], 2) if c.isalpha())
            code, argument = rest[end], rest[2:end]
            if code == "A":
                row -= int(argument or 1)
                assert row >= 0
            elif code == "K":
                assert argument == "2"
                lines[row] = ""
            rest = rest[end + 1 :]
            continue
        character, rest = rest[0], rest[1:]
        if character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif character == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


EXPECTED = """\
                 Title

A paragraph of two lines.

 1 One

def f():
    '''doc

    more'''

 2 Two

```

The end"""


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_picture_does_not_depend_on_how_the_text_arrives(size: int) -> None:
    assert shown(ANSWER, size) == EXPECTED


def test_answers_taller_than_the_terminal_are_shown_once_and_whole() -> None:
    code = "\n".join(f"line {i}" for i in range(50))
    items = "\n".join(f"- item {i}" for i in range(50))
    picture = shown(f"```\n{code}\n```\n\n{items}\n", 3, height=6)
    assert [line for line in picture.split("\n") if line.startswith("line")] == code.split("\n")
    assert [f"- {line[3:]}" for line in picture.split("\n") if "item" in line] == items.split("\n")


def test_long_lines_of_code_are_not_broken() -> None:
    assert shown("```\n" + "x" * 100 + "\n```\n", 9) == "x" * 100


def test_tags_in_sentences_are_text() -> None:
    assert shown("a vector<int> and <step>", 4) == "a vector<int> and <step>"


def test_code_is_highlighted_also_within_an_open_docstring() -> None:
    output = shown(
        "```python\ndef f():\n    '''doc\n    def in_doc\n    '''\n```\n", 4, colours=True
    )
    assert "\x1b[94;49mdef\x1b[0m" in output  # the keyword
    assert "\x1b[33;49m    def in_doc\x1b[0m" in output  # the string


def test_an_unknown_language_is_plain_text() -> None:
    assert shown("```nonsense\nhello\n```\n", 4) == "hello"


def test_an_empty_answer_shows_nothing() -> None:
    assert shown("", 1) == ""

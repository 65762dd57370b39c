"""The look at a GBNF grammar before llama.cpp parses it; inputs are just above the bounds, never far."""

from __future__ import annotations

import pytest

from codellama.constraints import check_gbnf, limits
from codellama.errors import GrammarError

GOOD = [
    'root ::= "yes" | "no"',
    'root ::= [a-z]{2,5} ("," [0-9]+)* # a comment with ( and {9,1}\nws ::= [ \\t\\n]?',
    'root ::= "(((" "{3,1}" [({] [^"\\]]{3}\n',
    f'root ::= "a"{{0,{limits.GBNF_REPEATS}}}',
    "root ::= " + "(" * limits.GBNF_DEPTH + '"a"' + ")" * limits.GBNF_DEPTH,
    'root ::= "a"{3,}',
    "root ::= ",
]


@pytest.mark.parametrize("text", GOOD)
def test_grammars_within_the_bounds_pass(text: str) -> None:
    check_gbnf(text)


BAD = [
    (
        "root ::= " + "(" * (limits.GBNF_DEPTH + 1) + '"a"' + ")" * (limits.GBNF_DEPTH + 1),
        "deeper than 100",
    ),
    (f'root ::= "a"{{{limits.GBNF_REPEATS + 1}}}', "more than 1000 times"),
    (f'root ::= "a"{{1,{limits.GBNF_REPEATS + 1}}}', "more than 1000 times"),
    ('root ::= "a"{4,3}', "{4,3} whose bounds are in the wrong order"),
    ('root ::= "a"{b}', "{b}: write {m}, {m,} or {m,n}"),
    ('root ::= "a"{}', "{}"),
    ('root ::= ("abcde"{500} "x"){100}', "unroll to more than 100000 symbols"),
    ('root ::= "a")', "without its ("),
    ("#" * (limits.GBNF_BYTES + 1), "larger"),
    ('root ::= "a"\0 "b"', "null character"),
]


@pytest.mark.parametrize(("text", "word"), BAD, ids=lambda text: text[:30])
def test_grammars_beyond_a_bound_are_refused(text: str, word: str) -> None:
    with pytest.raises(GrammarError) as caught:
        check_gbnf(text)
    assert word in str(caught.value) and str(caught.value).startswith("grammar ")
    with pytest.raises(GrammarError, match="must be a string"):
        check_gbnf(None)  # type: ignore[arg-type]

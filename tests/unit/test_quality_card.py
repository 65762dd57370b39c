"""The quality card: what its table says, what of a document it replaces, and its pictures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from codellama.errors import ConversionError
from codellama.quality.card import (
    BEGIN,
    END,
    GPUS_GB,
    CardRow,
    cells,
    gpus_to_show,
    heads,
    markdown,
    ordered,
    page,
    put_into,
    table,
)
from codellama.quality.pictures import POSITION, SIZE, pictures


def made(kind: str, nbytes: int, mean: float | None, layers: tuple[int, ...] = (9,) * 4) -> CardRow:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "error": value / 100}

    divergence: dict[str, Any] | None = None
    if mean is not None:
        divergence = {
            "mean": estimate(mean),
            "quantiles": {"0.99": 10 * mean, "0.999": 20 * mean},
            "same_top": estimate(1 - mean),
        }
    result = {
        "text": "code.txt",
        "n_chunks": 7,
        "chunk_tokens": 512,
        "summary": {"perplexity": estimate(3.5), "divergence": divergence},
        "positions": [] if mean is None else [(0, mean), (256, 2 * mean)],
        "outside": None,
        "speed": {"prompt": 120.04, "decode": 8.26, "n_prompt": 512, "n_tokens": 128},
    }
    return CardRow(kind, nbytes, result, 5 * 2**30, 9, layers)


ROWS = [made("BF16", 4000, None), made("Q8_0", 2000, 0.001), made("Q4_K_M", 1000, 0.0123456)]


def test_a_row_has_a_cell_for_every_head() -> None:
    assert cells(ROWS[2], 1) == [
        "Q4_K_M", "1,000", "3.5000 ± 0.0350", "0.01235 ± 0.00012", "0.2469", "98.77 %", "120.0", "8.3",
        "5.0 GiB", "all",
    ]  # fmt: skip
    assert cells(ROWS[0], 1)[3:6] == ["the base", "", ""]
    for n_gpus in range(len(GPUS_GB) + 1):
        assert {len(cells(found, n_gpus)) for found in ROWS} == {len(heads(n_gpus))}


def test_gpus_are_shown_up_to_the_first_that_holds_everything() -> None:
    assert gpus_to_show(ROWS) == 1
    assert gpus_to_show([*ROWS, made("F32", 8000, 0.0, (2, 9, 9, 9))]) == 2
    assert gpus_to_show([*ROWS, made("F32", 8000, 0.0, (2, 5, 7, 8))]) == 4
    assert cells(made("F32", 8000, 0.0, (2, 9, 9, 9)), 2)[-2:] == ["2 of 9", "all"]


def test_the_base_stands_first_then_the_largest() -> None:
    assert [r.type for r in ordered([ROWS[2], ROWS[1], ROWS[0]])] == ["BF16", "Q8_0", "Q4_K_M"]


def test_markdown_is_a_table_with_pictures_beside_it() -> None:
    text = markdown(ROWS, {SIZE: "card.size.svg"})
    lines = text.splitlines()
    assert {line.count("|") for line in lines[:5]} == {len(heads(1)) + 1}
    assert f"![{SIZE}](card.size.svg)" in lines
    assert "the base's probability" not in text


def test_columns_in_which_no_row_has_anything_are_left_out() -> None:
    untimed = [CardRow(**{**vars(r), "result": {**r.result, "speed": None}}) for r in ROWS]
    assert [name for name in heads(1) if "t/s" not in name] == table(untimed)[0]
    assert "The speeds" in markdown(ROWS, {}) and "The speeds" not in markdown(untimed, {})


def test_what_a_base_file_leaves_out_is_said() -> None:
    rough = made("Q4_K_M", 1000, 0.01)
    kept = CardRow(**{**vars(rough), "result": {**rough.result, "outside": 0.0321}})
    assert "3.2 % of the base's probability was only drawn from" in markdown([ROWS[0], kept], {})


def test_a_page_shows_names_as_they_are_and_holds_its_pictures() -> None:
    text = page("<x>", [*ROWS, made("<b>", 500, 0.1)], {SIZE: "<svg></svg>"})
    assert "&lt;x&gt;" in text
    assert "<td>&lt;b&gt;</td>" in text
    assert "<figure><svg></svg><figcaption>size" in text


@pytest.mark.parametrize("around", ["", "# Head\n\nText.\n"])
def test_a_card_is_put_at_the_end_and_then_replaced_in_its_place(around: str) -> None:
    first = put_into(around, "one\n", "x.md")
    assert first.startswith(around)
    assert first.count("## Quality") == 1
    later = put_into(first + "\nbehind\n", "two\n", "x.md")
    assert later == first.replace("one\n", "two\n") + "\nbehind\n"


@pytest.mark.parametrize("document", [f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n"])
def test_a_document_with_half_of_the_marks_is_left_alone(document: str) -> None:
    with pytest.raises(ConversionError, match=r"x\.md: one of the lines .* is missing"):
        put_into(document, "one\n", "x.md")


def test_the_pictures_name_every_type_and_are_the_same_each_time() -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra quality")
    drawn = pictures(ROWS)
    assert list(drawn) == [SIZE, POSITION]
    for svg in drawn.values():
        tree = ElementTree.fromstring(svg)
        words = " ".join(tree.itertext())
        assert "Q8_0" in words and "Q4_K_M" in words and "nats" in words
        assert re.search(r"BF16", words) is None  # it has no divergence
    assert pictures(ROWS) == drawn


def test_there_are_no_pictures_of_a_base_alone() -> None:
    assert pictures(ROWS[:1]) == {}

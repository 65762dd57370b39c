"""The quality card in models/README.md: every type is in it, and what it says of sizes is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.native.ggml import file_types
from codellama.quality.card import BEGIN, END, heads
from codellama.quality.measure import QualityJob, measure
from codellama.weights.convert import convert

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "demo"
README = ROOT / "models" / "README.md"
CHUNKS = 40


def card() -> list[list[str]]:
    """The cells of the card's rows, below the head."""
    inside = README.read_text("utf-8").split(BEGIN)[1].split(END)[0]
    table = [line for line in inside.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[0] == heads(1)
    return rows[2:]


def value(cell: str) -> float:
    return float(cell.split(" ")[0])


def test_every_type_that_needs_no_importance_matrix_is_there() -> None:
    types = {row[0] for row in card()}
    assert types <= set(file_types())
    assert {"BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"} <= types
    assert {"Q5_K_S", "Q4_K_S", "Q3_K_L", "Q3_K_S", "IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S"} <= types


def test_the_sizes_are_what_a_conversion_gives() -> None:
    rows = card()
    types = [argument for row in rows for argument in ("--type", row[0])]
    result = CliRunner().invoke(main, ["plan", str(CHECKPOINT), *types, "--json"])
    assert result.exit_code == 0, result.stderr
    planned = {found["type"]: found["bytes"] for found in json.loads(result.stdout)["outputs"]}
    assert {row[0]: int(row[1].replace(",", "")) for row in rows} == planned


def test_the_base_is_first_and_less_is_lost_with_more_bits() -> None:
    rows = card()
    assert (rows[0][0], rows[0][3]) == ("BF16", "the base")
    lost = {row[0]: value(row[3]) for row in rows[1:]}
    for better, worse in [
        ("F16", "Q8_0"), ("Q8_0", "Q6_K"), ("Q6_K", "Q5_K_M"), ("Q5_K_M", "Q4_K_M"),
        ("Q4_K_M", "Q3_K_M"), ("Q3_K_M", "Q2_K"),
    ]:  # fmt: skip
        assert lost[better] < lost[worse]


def test_every_type_has_the_speeds_of_the_machine_that_made_the_card() -> None:
    """They depend on that machine: here only that they were measured, and how the card says so."""
    for row in card():
        prompt, answer = (float(row[heads(1).index(name)]) for name in ("prompt t/s", "answer t/s"))
        assert prompt > answer > 0
    assert "measured as by `codellama bench`: a prompt of 512 tokens, and 128" in README.read_text(
        "utf-8"
    )


def test_the_pictures_are_beside_it_and_name_the_types() -> None:
    text = README.read_text("utf-8")
    pictures = re.findall(r"!\[.*\]\((README\.\w+\.svg)\)", text)
    assert pictures == ["README.size.svg", "README.divergence.svg"]
    drawn = (README.parent / pictures[0]).read_text("utf-8")
    assert all(f">{row[0]}<" in drawn for row in card()[1:])


@pytest.mark.slow
def test_measuring_again_gives_the_cards_numbers(tmp_path: Path) -> None:
    for kind in ("BF16", "Q3_K_M"):
        convert(CHECKPOINT, tmp_path / f"{kind}.gguf", kind)
    job = QualityJob(tmp_path / "Q3_K_M.gguf", tmp_path / "BF16.gguf", n_chunks=CHUNKS)
    found = measure(job, tmp_path / "out.json", timed=False)["summary"]
    (row,) = (row for row in card() if row[0] == "Q3_K_M")
    assert found["perplexity"]["value"] == pytest.approx(value(row[2]), rel=1e-3)
    assert found["divergence"]["mean"]["value"] == pytest.approx(value(row[3]), rel=0.01)

#!/usr/bin/env python3
"""Measure GGUF files of the demo model: the numbers of models/README.md.

Prints one line per file, and as last line everything as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

EDITS = 60


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def main(files: tuple[Path, ...]) -> None:
    """Measure size, bits per byte, agreement and answers of each of FILES, GGUFs of the demo model.

    The first file is the one that the others' best guesses are compared with.
    """
    from codellama import LLM
    from demo_model import measure
    from demo_model.written import questions

    xz = measure.xz_bits_per_byte()
    print(f"held-out modules: xz -9e {xz:.3f} bits per byte")
    print(
        "| file | bytes | bits per byte | same best token | right of 50 | right of all "
        f"| edits right of {EDITS} | lines of edits right |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    reference = None
    report = []
    for path in files:
        with LLM(path, n_seq_max=8) as llm:
            fifty = measure.answers(llm, measure.fifty_questions())
            every = measure.answers(llm, questions(), wording=1)
            edits = measure.edited(llm, measure.edit_requests(EDITS))
        held_out = measure.held_out(path)
        reference = reference or held_out
        row = {
            "file": path.name,
            "bytes": path.stat().st_size,
            "bits_per_byte": round(held_out.bits_per_byte, 4),
            "same_top_token": round(held_out.agreement(reference), 4),
            "fifty_ended": sum(answered.ended for answered in fifty),
            "fifty_right": sum(answered.right for answered in fifty),
            "questions": len(every),
            "questions_ended": sum(answered.ended for answered in every),
            "questions_right": sum(answered.right for answered in every),
            "edits": len(edits),
            "edits_ended": sum(edit.ended for edit in edits),
            "edits_right": sum(edit.right for edit in edits),
            "edit_lines_right": round(measure.lines_right(edits), 4),
        }
        report.append(row)
        print(
            f"| {path.name} | {row['bytes']:,} | {row['bits_per_byte']} | "
            f"{100 * held_out.agreement(reference):.1f} % | {row['fifty_right']} | "
            f"{row['questions_right']} of {len(every)} | {row['edits_right']} | "
            f"{100 * measure.lines_right(edits):.1f} % |",
            flush=True,
        )
    print(json.dumps({"xz_bits_per_byte": round(xz, 4), "files": report}))


if __name__ == "__main__":
    main()

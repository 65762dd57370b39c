#!/usr/bin/env python3
"""Measures what guessing ahead gains when files are edited: the demo's written edits, with and without.

Every edit is asked for in the form of `codellama edit`, by a model that copies its guesses from the file
(n-grams) and by one that guesses nothing, one after the other. Each is asked once: a second time the first
answer would be copied. Prints a table and one JSON line; the ratio is that of seconds without guesses to
seconds with them.

    scripts/bench_edits.py [--model demo] [--edits 67] [--form whole|blocks]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from codellama import LLM
from codellama.edits.form import EditForm
from demo_model.written import Edit, edits


def seconds(llm: LLM, edit: Edit, form: str) -> tuple[float, int, int, bool]:
    """Seconds of writing one edit, its tokens, how many were guessed rightly, and whether it is the
    written one."""
    asked = EditForm.of({"x.py": edit.before}, "whole" if form == "whole" else "blocks")
    language = {"x.py": "python"}
    began = time.perf_counter()
    result = llm.chat(
        asked.question(edit.wordings[0], language),
        lark=asked.grammar("python"),
        temperature=0,
        max_tokens=300,
    ).result()
    took = time.perf_counter() - began
    choice, timings = result.choices[0], result.timings
    right = choice.finish_reason == "stop" and asked.changed(choice.text)["x.py"] == edit.after
    return took, len(choice.tokens), timings.draft_accepted, right


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--edits", type=int, default=67)
    parser.add_argument("--form", choices=("whole", "blocks"), default="whole")
    options = parser.parse_args()
    chosen = edits()[: options.edits]
    ratios: list[float] = []
    tokens = accepted = right = 0
    with (
        LLM(options.model, n_seq_max=1, spec_type="none") as plain,
        LLM(options.model, n_seq_max=1, spec_type="ngram") as guessing,
    ):
        for edit in chosen:
            without, *_ = seconds(plain, edit, options.form)
            took, n, n_accepted, as_written = seconds(guessing, edit, options.form)
            ratios.append(without / took)
            tokens, accepted, right = tokens + n, accepted + n_accepted, right + as_written
    quartiles = statistics.quantiles(ratios, n=4)
    print(f"{len(chosen)} edits of {options.model} as {options.form}")
    print(f"as written: {right}; tokens: {tokens}, guessed rightly: {accepted}")
    print(
        f"speed-up: median {quartiles[1]:.2f}, quartiles {quartiles[0]:.2f} to {quartiles[2]:.2f}"
    )
    print(
        json.dumps(
            {
                "edits": len(chosen),
                "form": options.form,
                "tokens": tokens,
                "accepted": accepted,
                "as_written": right,
                "speed_up": [round(q, 3) for q in quartiles],
            }
        )
    )


if __name__ == "__main__":
    main()

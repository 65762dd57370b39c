#!/usr/bin/env python3
"""Train the demo model and write it to models/demo; see models/README.md.

The run can be stopped at any time and started again with the same options: it continues from the
checkpoint in --work. A run with --steps gives the same batches everywhere; a run with --minutes
follows the clock, so that it fits the time there is.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from demo_model.training import Budget, Trainer

ROOT = Path(__file__).resolve().parent.parent


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "models" / "demo",
    show_default="models/demo",
    help="Folder of the checkpoint that is written.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=ROOT / "models" / ".train",
    show_default="models/.train",
    help="Folder of what is kept between runs.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), help="Length of the run in steps of 8192 tokens."
)
@click.option(
    "--copies",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Steps after those of --steps in which copying from the prompt is learnt.",
)
@click.option(
    "--polish",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Steps after those of --copies in which the written answers are learnt.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Length of the run in minutes, where --steps is not given.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all cores by default.")
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkpoint folder to begin with instead of random weights; then --steps may be left out.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of weights and batches.")
@click.option("--untrained", is_flag=True, help="Write untrained weights and stop.")
@click.option("--export-only", is_flag=True, help="Write the last checkpoint as it is and stop.")
def main(
    out: Path,
    work: Path,
    steps: int | None,
    copies: int,
    polish: int,
    minutes: float,
    device: str,
    threads: int | None,
    weights: Path | None,
    seed: int,
    untrained: bool,
    export_only: bool,
) -> None:
    """Train the demo model and write it in the Hugging Face layout."""
    # Threads that wait actively slow training down to a third where other work wants the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import torch

        from demo_model import export, network, training, vocabulary
    except ImportError as error:
        raise click.ClickException(f"{error}; install it: pip install -e '.[train]'") from error

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = chosen_device(device, cuda=torch.cuda.is_available())
    if threads:
        torch.set_num_threads(threads)
    budget = chosen_budget(steps, minutes, copies, polish, from_weights=weights is not None)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = work / "tokenizer.model"
    try:
        given = export.read_weights(weights) if weights else None
    except FileNotFoundError as error:
        raise click.ClickException(f"--weights {error}") from error
    prepare_tokenizer(tokenizer, weights)
    shape = network.Shape()
    if untrained:
        export.write_checkpoint(out, shape, export.untrained_weights(shape), tokenizer)
        return
    checkpoint = work / "checkpoint.pt"
    if export_only and not checkpoint.exists():
        raise click.ClickException(f"{checkpoint}: there is no checkpoint to export")
    state = training.State.new(seed, torch.device(device), given)
    if checkpoint.exists():
        state.load(checkpoint)
    if not export_only:
        trainer(work, budget, device, seed).run(state)
    export.write_checkpoint(out, shape, state.model.state_dict(), tokenizer)
    bits = training.held_out_bits_per_byte(state.model, vocabulary.Vocabulary(tokenizer))
    print(f"{out}: step {state.step}, held-out bits per byte {bits:.4f}")


def chosen_budget(
    steps: int | None, minutes: float, copies: int, polish: int, *, from_weights: bool
) -> Budget:
    """What is to be trained; UsageError if there are no main steps that the others could follow."""
    from demo_model.training import Budget

    later = bool(copies or polish)
    if later and from_weights and steps is None:
        steps = 0
    if later and steps is None:
        raise click.UsageError("--copies and --polish need --steps or --weights")
    return Budget(steps, minutes * 60, copies, polish)


def prepare_tokenizer(path: Path, weights: Path | None) -> None:
    """Have the vocabulary at `path`: what lies there, that of the checkpoint `weights`, or a new one."""
    from demo_model import vocabulary

    if path.exists():
        return
    if weights:
        shutil.copyfile(weights / "tokenizer.model", path)
    else:
        vocabulary.train_vocabulary(vocabulary_texts(), path)


def chosen_device(wanted: str, *, cuda: bool) -> str:
    """cpu or cuda; ClickException if there is no CUDA device to honour the wish."""
    if wanted == "cuda" and not cuda:
        raise click.ClickException("--device cuda: torch finds no CUDA device here; use cpu")
    return ("cuda" if cuda else "cpu") if wanted == "auto" else wanted


def trainer(work: Path, budget: Budget, device: str, seed: int) -> Trainer:
    """Everything a run needs, from the vocabulary in `work` and the data."""
    from demo_model import batches, copies, samples, training, vocabulary

    pieces = vocabulary.Vocabulary(work / "tokenizer.model")
    drawn = samples.Samples(pieces)
    return training.Trainer(
        vocabulary=pieces,
        code=batches.CodeStream(pieces, work),
        samples=drawn.draw,
        questions=drawn.draw_mostly_questions,
        copies=copies.Copies(pieces, drawn.functions),
        budget=budget,
        checkpoint=work / "checkpoint.pt",
        seed=seed,
        # A part of a batch that fits the caches is faster on a CPU; a GPU wants all of it at once.
        micro_tokens=2048 if device == "cpu" else training.TOKENS_PER_STEP,
    )


def vocabulary_texts() -> list[str]:
    """What the vocabulary is trained on: the library, and common words of questions and answers."""
    from demo_model import corpus

    words = (ROOT / "scripts" / "demo_data" / "words.txt").read_text(encoding="utf-8")
    return [*map(corpus.read, corpus.training_files()[0]), *[words] * 300]


if __name__ == "__main__":
    main()

"""`codellama demo`: the whole path on the shipped checkpoint: convert, load, ask, answer."""

from __future__ import annotations

import click

from codellama.cli.loading import model_file
from codellama.models import DEMO

QUESTION = "Print a hello world in Python"
MAX_TOKENS = 200


@click.command("demo")
@click.option(
    "-p", "--prompt", default=QUESTION, show_default=True, show_envvar=True, help="What to ask."
)
def command(prompt: str) -> None:
    """Convert the demo checkpoint and ask it one question.

    This is the whole path: the checkpoint becomes a Q4_K_M file, the file is loaded, the answer is
    printed as it comes, then the speeds.

    The converted file is kept in the user's cache folder and made again when the checkpoint
    changes.
    """
    from codellama.cli.streams import speeds, stream_text
    from codellama.llm import LLM
    from codellama.session import Session

    path = model_file(DEMO)
    with LLM(path, n_seq_max=1) as llm:
        click.echo(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)", err=True)
        click.echo(f"> {prompt}", err=True)
        answer = Session(llm).ask(prompt, temperature=0.0, max_tokens=MAX_TOKENS)
        stream_text(answer)
        click.echo(speeds(answer.usage, answer.timings), err=True)

"""What a terminal shows until an answer's first word: how much of the prompt has been read, and for how
long."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from codellama.engine.request import Delta


def texts(events: Iterable[Delta], n_prompt: int, console: Console) -> Generator[str, None, None]:
    """The pieces of text of an answer; until the first, `console` shows how far its prompt of `n_prompt`
    tokens is, if it is a terminal that can take that away again."""
    events = iter(events)
    text = ""
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(reading(0, n_prompt), total=None)
            for delta in events:
                if text := delta.text:
                    break
                if delta.processed is not None:
                    bar.update(task, description=reading(delta.processed, n_prompt))
    if text:
        yield text
    for delta in events:
        if delta.text:
            yield delta.text


def reading(done: int, total: int) -> str:
    """How far the prompt is, in words."""
    return f"reading {done:,} of {total:,} tokens" if done < total else f"{total:,} tokens read"

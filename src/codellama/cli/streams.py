"""Standard input as text, answers on standard output: text as it comes, or one JSON document."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from codellama.system import no_echo

if TYPE_CHECKING:
    from codellama.engine.request import Timings, Usage
    from codellama.running.completion import Completion

# ESC and its kin could move the cursor or worse: an answer is text, not commands to a terminal.
_CONTROLS = {i: None for i in (*range(0x20), *range(0x7F, 0xA0)) if chr(i) not in "\n\t"}


def printable(text: str) -> str:
    """`text` without control characters, except line ends and tabs."""
    return text.translate(_CONTROLS)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep keys that are pressed meanwhile out of the picture; they wait for the next prompt."""
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        yield
        return
    with no_echo(descriptor):
        yield


def read_stdin() -> str:
    """All of standard input, without the byte-order mark that some shells put before it.

    Raises a usage error if it is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not UTF-8 text: {error}") from error


@dataclass
class Line:
    """The last line on the terminal: `is_open` while an answer goes on in it."""

    is_open: bool = False

    @classmethod
    def of_command(cls) -> Line:
        """That of the running command, which its answers and its log share."""
        ctx = click.get_current_context(silent=True)
        line: Line = ctx.meta.setdefault(f"{__name__}.line", cls()) if ctx else cls()
        return line


class TextStream:
    """Writes text to `file` as it comes, and behind it a line end if it had none. A context manager."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._is_terminal = file.isatty()
        self._line = Line.of_command() if self._is_terminal and sys.stderr.isatty() else Line()
        self._last = ""

    def __enter__(self) -> TextStream:
        return self

    def push(self, text: str) -> None:
        """Write `text`, for a terminal without control characters."""
        if self._is_terminal:
            text = printable(text)
        self._last = text or self._last
        self._line.is_open = bool(self._last) and not self._last.endswith("\n")
        click.echo(text, nl=False, file=self._file)

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._line.is_open = False
        failed_at_once = bool(kind) and not self._last
        if not (failed_at_once or self._last.endswith("\n")):
            click.echo(file=self._file)


def stream_text(pieces: Iterable[str]) -> None:
    """Write pieces to stdout as they come, and a line end if the last one had none."""
    with TextStream(sys.stdout) as stream:
        for piece in pieces:
            stream.push(piece)


def print_completion(completion: Completion, *, as_json: bool) -> None:
    """Write a completion with one choice to stdout: its text as it comes, or JSON at the end."""
    if as_json:
        click.echo(json.dumps(document(completion), indent=2))
    else:
        stream_text(completion)


def document(completion: Completion) -> dict[str, Any]:
    """A finished completion as a JSON document; times are in seconds."""
    result = completion.result()
    choice = result.choices[0]
    return {
        "text": choice.text,
        "tokens": list(choice.tokens),
        "finish_reason": choice.finish_reason.value,
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "prompt_seconds": result.timings.prompt_s,
        "decode_seconds": result.timings.decode_s,
        "tokens_per_second": result.timings.decode_per_second,
        "draft_tokens": result.timings.draft_n,
        "draft_accepted": result.timings.draft_accepted,
    }


def speeds(usage: Usage, timings: Timings) -> str:
    """One line about an answer: its tokens, and how fast prompt and answer went."""
    prompt = f"{timings.prompt_n} prompt tokens"
    if usage.cached_tokens:
        prompt += f" ({usage.cached_tokens} more from the cache)"
    drafted = ""
    if timings.draft_n:
        drafted = f" ({timings.draft_accepted} of {timings.draft_n} guessed ahead were right)"
    return (
        f"{usage.completion_tokens} tokens at {timings.decode_per_second:.1f} tokens/s{drafted}, "
        f"{prompt} at {timings.prompt_per_second:.1f} tokens/s"
    )

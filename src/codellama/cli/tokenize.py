"""`codellama tokenize`: the ids that the model would get, without loading its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.loading import model_file
from codellama.cli.options import json_option, model_argument
from codellama.cli.streams import read_stdin

if TYPE_CHECKING:
    from codellama.native.model import Tokenizer
    from codellama.params import Prompt


@click.command("tokenize")
@model_argument
@click.argument("text", required=False)
@click.option(
    "--chat",
    "chat_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_envvar=True,
    help="JSON file with messages (a list of objects with role and content) instead of TEXT.",
)
@json_option
def command(model: str, text: str | None, chat_file: Path | None, as_json: bool) -> None:
    """Print the token ids of TEXT or of a chat.

    They are exactly what MODEL would get. TEXT is a prompt for `complete`; without it, standard
    input is read.
    """
    if text is not None and chat_file is not None:
        raise click.UsageError("give either TEXT or --chat, not both")
    messages = _messages(chat_file) if chat_file else None
    if text is None and messages is None:
        text = read_stdin()
    from codellama.cli.vocabulary import load_vocabulary

    with load_vocabulary(model_file(model)) as (prompts, tokenizer):
        prompt = prompts.complete(text) if text is not None else prompts.chat(messages or [])
        if as_json:
            click.echo(json.dumps(_document(prompt, tokenizer)))
            return
        for line in _lines(prompt, tokenizer):
            click.echo(line)


def _messages(file: Path) -> list[Any]:
    """The messages in `file`: a list, or an object with `messages`. Usage error if it is neither."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(f"{file} is not JSON: {error}") from error
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list):
        raise click.UsageError(f"{file} must hold a list of messages")
    return messages


def _document(prompt: Prompt, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokens": list(prompt.tokens),
        "pieces": [tokenizer.token_text(token) for token in prompt.tokens],
        "stop_tokens": sorted(prompt.stop_tokens | tokenizer.eog_tokens),
    }


def _lines(prompt: Prompt, tokenizer: Tokenizer) -> Iterator[str]:
    for token in prompt.tokens:
        yield f"{token:>6}  {tokenizer.token_text(token)}"
    stops = sorted(prompt.stop_tokens | tokenizer.eog_tokens)
    yield f"{len(prompt.tokens)} tokens; the answer ends at " + ", ".join(
        f"{token} {tokenizer.token_text(token)}" for token in stops
    )

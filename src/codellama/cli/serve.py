"""`codellama serve`: the OpenAI- and llama-server-compatible HTTP server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from codellama.cli import imports, spelled
from codellama.cli.options import (
    SettingsCommand,
    model_argument,
    model_config,
    model_options,
    sampling_options,
    sampling_params,
    serving_options,
)
from codellama.errors import InvalidRequestError
from codellama.params.options import SamplingOptions

_RENAMED = {"api_keys": "--api-key (or --api-key-file)", "max_body_bytes": "--max-body-mib"}
"""The fields of `ServerConfig` whose options have other names."""


@click.command("serve", cls=SettingsCommand)
@model_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Address to listen on; one that other machines can reach needs --api-key.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    show_envvar=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--api-key",
    multiple=True,
    metavar="KEY[,KEY...]",
    show_envvar=True,
    help="Key that clients must send; repeatable.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="File with one key per line.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    show_envvar=True,
    help="Web page that may call the server, such as http://localhost:3000, or *; "
    "repeatable. [default: none]",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    show_envvar=True,
    help="Seconds that running answers get when the server stops.",
)
@click.option(
    "--max-body-mib",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    show_envvar=True,
    help="Largest request body in MiB.",
)
@click.option(
    "--tools/--no-tools",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Whether the model hears of the functions that a chat offers; without, it answers in words.",
)
@click.option(
    "--lenient/--strict",
    default=False,
    show_default="strict",
    show_envvar=True,
    help="Ignore fields that nobody knows, and name them in the answer's header X-Codellama-Ignored.",
)
@sampling_options
@serving_options
@model_options
def command(
    model: str,
    host: str,
    port: int,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    cors_origin: tuple[str, ...],
    drain_timeout: float,
    max_body_mib: int,
    tools: bool,
    lenient: bool,
    **options: Any,
) -> None:
    """Serve MODEL over HTTP, in OpenAI's and llama-server's dialects.

    Sampling options such as --temp and --n-predict are for requests that do not say otherwise.

    The URL is printed on stderr. /health answers 503 while the model is loading. SIGTERM or Ctrl-C
    lets running answers finish; a second Ctrl-C cuts them short.
    """
    from codellama.cli.loading import model_file
    from codellama.server.config import MIB, ServerConfig

    try:
        config = ServerConfig(
            host=host,
            port=port,
            api_keys=collect_keys(api_key, api_key_file),
            cors_origins=cors_origin,
            drain_timeout=drain_timeout,
            max_body_bytes=max_body_mib * MIB,
            tools=tools,
            sampling=sampling_params(options),
            lenient=lenient,
        )
    except InvalidRequestError as error:
        raise click.ClickException(spelled(error, _RENAMED)) from error
    model_fields = model_config(options)
    path = model_file(model)

    with imports.lasting():
        from codellama.llm import LLM
        from codellama.server.run import serve

    def load() -> LLM:
        llm = LLM(path, **model_fields)
        if config.sampling:  # whether a request can use them shows only with the model
            nothing: SamplingOptions = {**config.sampling, "max_tokens": 0}
            try:
                llm.complete("", **nothing).result()
            except BaseException:
                llm.close()
                raise
        return llm

    serve(
        load,
        config,
        lambda url: click.echo(f"listening on {url}", err=True),
    )


def collect_keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """The keys from the options (commas separate several) and from the file (one per line).

    Raises InvalidRequestError if a source was named but holds no key.
    """
    keys = [key.strip() for entry in given for key in entry.split(",")]
    if not all(keys):
        raise InvalidRequestError("{param} must not be empty", "api_key")
    if file is not None:
        lines = [line.strip() for line in _read(file).splitlines()]
        if not any(lines):
            raise InvalidRequestError("{param}: {file} holds no key", "api_key_file", file=file)
        keys += [line for line in lines if line]
    return tuple(keys)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            "{param}: cannot read {file}: {reason}", "api_key_file", file=file, reason=error
        ) from error

"""`codellama serve`: the OpenAI- and llama-server-compatible HTTP server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli import imports, set_level, spelled
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
from codellama.params import SamplingParams
from codellama.params.options import SamplingOptions

if TYPE_CHECKING:
    from codellama.llm import LLM
    from codellama.replicas.settings import ReplicaConfig
    from codellama.server.config import ServerConfig

_RENAMED = {"api_keys": "--api-key (or --api-key-file)", "max_body_bytes": "--max-body-mib"}
"""The fields of `ServerConfig` whose options have other names."""


@click.command("serve", cls=SettingsCommand)
@model_argument
@click.option(
    "--host",
    multiple=True,
    default=["127.0.0.1"],
    show_default="127.0.0.1",
    show_envvar=True,
    metavar="ADDRESS[,ADDRESS...]",
    help="Address to listen on; one that other machines can reach needs --api-key; repeatable.",
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
    help="Web page that may call the server, such as http://localhost:3000; localhost: any page of this "
    "machine; *: all; repeatable. [default: none]",
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
@click.option(
    "--verbose",
    is_flag=True,
    show_envvar=True,
    help="Show llama.cpp's log, and give chats and completions __verbose: all about the answer.",
)
@click.option(
    "-a",
    "--alias",
    multiple=True,
    metavar="NAME[,NAME...]",
    show_envvar=True,
    help="What answers call the model; further names are listed with it. [default: the file's name]",
)
@click.option(
    "--tags", multiple=True, metavar="TAG[,TAG...]", show_envvar=True, help="Listed with the model."
)
@click.option(
    "--page/--no-page",
    "--webui/--no-webui",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Whether a browser gets a page to chat with at /.",
)
@click.option(
    "--access-log/--no-access-log",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Whether each request is a line on stderr: route, status, tokens, time; nothing of its text.",
)
@click.option(
    "--slots/--no-slots",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Whether GET /slots tells what runs.",
)
@click.option(
    "--metrics/--no-metrics",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Whether GET /metrics is answered.",
)
@click.option(
    "--props/--no-props",
    default=False,
    show_default=True,
    show_envvar=True,
    help="Whether POST /props is answered.",
)
@click.option(
    "--slot-save-path",
    type=click.Path(path_type=Path),
    show_envvar=True,
    help="Folder in which clients may save what slots hold. [default: none, they may not]",
)
@click.option(
    "--sleep-idle-seconds",
    type=click.FloatRange(min=-1),
    default=-1,
    show_default="-1, never",
    show_envvar=True,
    help="Free the model after so long without a request; the next one loads it again.",
)
@click.option(
    "--replicas",
    type=int,
    metavar="N",
    show_envvar=True,
    help="Serve N copies of the model, each in a process of its own, on one machine or a cluster of Ray "
    "(needs the extra ray). [default: one, in this process]",
)
@click.option(
    "--max-replicas",
    type=int,
    metavar="N",
    show_envvar=True,
    help="Start more, up to N, while there is more to do than they can. [default: no more]",
)
@click.option(
    "--ray",
    metavar="HOST:PORT",
    show_envvar=True,
    help="Cluster on which replicas run, of which this machine is a part; auto: the one that runs here. "
    "[default: one of its own, on this machine]",
)
@sampling_options
@serving_options
@model_options
def command(
    model: str,
    host: tuple[str, ...],
    port: int,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    cors_origin: tuple[str, ...],
    drain_timeout: float,
    max_body_mib: int,
    tools: bool,
    lenient: bool,
    verbose: bool,
    alias: tuple[str, ...],
    tags: tuple[str, ...],
    page: bool,
    access_log: bool,
    slots: bool,
    metrics: bool,
    props: bool,
    slot_save_path: Path | None,
    sleep_idle_seconds: float,
    replicas: int | None,
    max_replicas: int | None,
    ray: str | None,
    **options: Any,
) -> None:
    """Serve MODEL over HTTP, in OpenAI's and llama-server's dialects.

    Sampling options such as --temp and --n-predict are for requests that do not say otherwise.

    The URL is printed on stderr. /health answers 503 while the model is loading. SIGTERM or Ctrl-C
    lets running answers finish; a second Ctrl-C cuts them short.
    """
    from codellama.cli.loading import model_file
    from codellama.server.config import MIB, ServerConfig

    if verbose:
        logging.getLogger("codellama").setLevel(logging.DEBUG)
    try:
        config = ServerConfig(
            host=",".join(host),
            port=port,
            api_keys=collect_keys(api_key, api_key_file),
            cors_origins=cors_origin,
            drain_timeout=drain_timeout,
            max_body_bytes=max_body_mib * MIB,
            tools=tools,
            sampling=sampling_params(options),
            lenient=lenient,
            verbose=verbose,
            aliases=separated(alias),
            tags=separated(tags),
            page=page,
            access_log=access_log,
            slots=slots,
            metrics=metrics,
            props=props,
            slot_save_path=slot_save_path,
            sleep_idle_seconds=None if sleep_idle_seconds == -1 else sleep_idle_seconds,
        )
        several = replica_config(replicas, max_replicas, ray)
    except InvalidRequestError as error:
        raise click.ClickException(spelled(error, _RENAMED)) from error
    model_fields = model_config(options)
    if several is None:
        _serve(model_file(model), model_fields, config)
    else:
        _serve_replicas(model_file(model), model_fields, config, several)


def replica_config(
    replicas: int | None, max_replicas: int | None, ray: str | None
) -> ReplicaConfig | None:
    """What the options say of replicas; None if they do not ask for any.

    Raises InvalidRequestError for options that are only about replicas.
    """
    from codellama.replicas.settings import ReplicaConfig

    if replicas is not None:
        return ReplicaConfig(replicas, max_replicas, ray)
    for name, value in (("max_replicas", max_replicas), ("ray", ray)):
        if value is not None:
            raise InvalidRequestError("{param} is about replicas", name, "give {replicas} too")
    return None


def _serve_replicas(
    path: Path, fields: Mapping[str, Any], config: ServerConfig, replicas: ReplicaConfig
) -> None:
    """Serve several copies of the model until the process is told to stop."""
    with imports.lasting():
        from codellama.llm import LLM
        from codellama.replicas.run import serve_replicas

    _show_log(click.get_current_context())
    serve_replicas(
        lambda its_fields: partial(_load, LLM, path.resolve(), its_fields, config.sampling),
        dict(fields),
        config,
        replicas,
        lambda url: click.echo(f"listening on {url}", err=True),
    )


def _serve(path: Path, fields: Mapping[str, Any], config: ServerConfig) -> None:
    """Load the model in the background and serve it until the process is told to stop."""
    with imports.lasting():
        from codellama.llm import LLM
        from codellama.server.run import serve
        from codellama.server.serving import Loading

    _show_log(click.get_current_context())
    loading = Loading()
    serve(
        partial(_load, LLM, path, {**fields, "progress": loading}, config.sampling),
        config,
        lambda url: click.echo(f"listening on {url}", err=True),
        loading,
    )


def _show_log(ctx: click.Context) -> None:
    """Show what the server says of itself and of its requests, also to who did not ask for the log."""
    log = logging.getLogger("codellama.server")
    if not log.isEnabledFor(logging.INFO):
        set_level(ctx, log, logging.INFO)


def _load(
    make: Callable[..., LLM], path: Path, fields: Mapping[str, Any], sampling: SamplingOptions
) -> LLM:
    """The model; raises too if it cannot answer with the defaults in `sampling`, which shows only here."""
    llm = make(path, **fields)
    if sampling:
        try:
            llm.check(SamplingParams.of(**sampling))
        except BaseException:
            llm.close()
            raise
    return llm


def collect_keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """The keys from the options (commas separate several) and from the file (one per line).

    Raises InvalidRequestError if a source was named but holds no key.
    """
    keys = list(separated(given))
    if not all(keys):
        raise InvalidRequestError("{param} must not be empty", "api_key")
    if file is not None:
        lines = [line.strip() for line in _read(file).splitlines()]
        if not any(lines):
            raise InvalidRequestError("{param}: {file} holds no key", "api_key_file", file=file)
        keys += [line for line in lines if line]
    return tuple(keys)


def separated(given: Sequence[str]) -> tuple[str, ...]:
    """What was given with commas, one by one."""
    return tuple(name.strip() for entry in given for name in entry.split(","))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            "{param}: cannot read {file}: {reason}", "api_key_file", file=file, reason=error
        ) from error

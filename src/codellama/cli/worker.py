"""`codellama worker`: lends this machine's devices to a model on another machine."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import click

from codellama.cli.options import separated
from codellama.cli.outputs import file_size
from codellama.errors import InvalidRequestError, UnsupportedError


@click.command("worker")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    metavar="ADDRESS",
    help="IPv4 address to listen on; one that other machines can reach needs --without-authentication.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=50052,
    show_default=True,
    show_envvar=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--device",
    type=separated,
    default="",
    metavar="NAME,...",
    show_envvar=True,
    help="What to lend, as `codellama doctor` names it. [default: the GPUs, or else the CPU]",
)
@click.option(
    "--memory",
    callback=file_size,
    metavar="SIZE",
    show_envvar=True,
    help="Say that each device has no more than this, such as 16G. [default: what is free]",
)
@click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="Threads that the CPU computes with. [default: one per core]",
)
@click.option(
    "--cache",
    is_flag=False,
    flag_value="",
    type=click.Path(path_type=Path),
    metavar="[FOLDER]",
    show_envvar=True,
    help="Keep large tensors on disk, so that a model is sent once. [default: off; without FOLDER, the "
    "user's cache folder]",
)
@click.option(
    "--without-authentication",
    is_flag=True,
    show_envvar=True,
    help="Let other machines connect, although nobody is asked for a key.",
)
def command(
    host: str,
    port: int,
    device: tuple[str, ...],
    memory: int | None,
    threads: int | None,
    cache: Path | None,
    without_authentication: bool,
) -> None:
    """Lend this machine to a model on another one: its GPUs, or else its main memory and cores.

    The model is loaded there, with --rpc HOST:PORT. One model is served at a time. llama.cpp's protocol has
    neither keys nor encryption, so this listens on this machine only, and the way in is a tunnel through ssh.
    """
    address = _address(host, without_authentication)
    from codellama.devices.host_memory import host_memory
    from codellama.devices.processors import choose_threads, this_processors
    from codellama.devices.sizes import size_text
    from codellama.native.library import library
    from codellama.native.rpc_server import lendable, serve_rpc

    library()
    lent = lendable(device)
    port = _free(address, port)
    folder = _cache_folder(cache)
    n_threads = threads or choose_threads(this_processors()).n

    def available() -> int:
        return host_memory().available

    for one in lent:
        free = min(one.free_bytes, available()) if one.kind == "cpu" else one.free_bytes
        size = size_text(min(free, memory or free))
        click.echo(f"lending {one.name} ({one.description}) with {size}", err=True)
    click.echo(f"listening on {address}:{port}", err=True)
    for line in _warning(address, port):
        click.echo(line, err=True)
    serving = threading.Thread(
        target=serve_rpc,
        args=(f"{address}:{port}", n_threads, folder, device, memory, available),
        daemon=True,
    )
    serving.start()
    while serving.is_alive():  # Ctrl-C is heard between two waits
        serving.join(0.5)
    raise UnsupportedError("llama.cpp's RPC server has ended: its reason stands above")


def _address(host: str, without_authentication: bool) -> str:
    """The IPv4 address of `host`, if it may be listened on."""
    from codellama.server.config import is_loopback

    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise InvalidRequestError(
            "{param}: {host} has no IPv4 address, and llama.cpp takes no other", "host", host=host
        ) from error
    if not is_loopback(address) and not without_authentication:
        raise InvalidRequestError(
            "{host} can be reached by other machines, and the protocol has no authentication: whoever "
            "connects can use this process, read what it computes and end it",
            "host",
            "leave {host} out and tunnel through ssh, or add {without_authentication} where only machines "
            "that you trust can connect",
            host=host,
        )
    return address


def _free(address: str, port: int) -> int:
    """The port, if it can be had; a free one for 0. llama.cpp would say no more than that it failed."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            raise InvalidRequestError(
                "cannot listen on {address}:{number}: {reason}",
                "port",
                "choose another with {port}",
                address=address,
                number=port,
                reason=error.strerror,
            ) from error
        return int(trial.getsockname()[1])


def _cache_folder(cache: Path | None) -> Path | None:
    """The folder of the tensor cache, made if it is not there; None for no cache."""
    from codellama.cli.folders import cache_folder

    if cache is None:
        return None
    folder = cache if str(cache) not in ("", ".") else cache_folder() / "tensors"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _warning(address: str, port: int) -> list[str]:
    """What there is to know of who can connect."""
    from codellama.server.config import is_loopback

    if is_loopback(address):
        name = socket.gethostname()
        return [
            "The protocol has no authentication: only this machine can connect. From another, through ssh:",
            f"  ssh -N -L {port}:127.0.0.1:{port} {os.environ.get('USER', 'USER')}@{name}",
            f"  codellama serve MODEL --rpc 127.0.0.1:{port}",
        ]
    return [
        "Warning: the protocol has no authentication and no encryption. Whoever can connect to "
        f"{address}:{port} can use this process, read what it computes and end it."
    ]

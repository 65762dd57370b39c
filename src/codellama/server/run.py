"""Listening, and stopping well: bind first, load while listening, drain on SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import uvicorn
from starlette.types import ASGIApp

from codellama.errors import InvalidRequestError
from codellama.native.heap import share_heap
from codellama.server.app import create_app
from codellama.server.config import ServerConfig
from codellama.server.serving import Loading, Serving

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

log = logging.getLogger(__name__)

SWITCH_S = 0.0005
"""Seconds after which a thread gives Python to another one that waits, a tenth of the usual. So the engine
waits less while another thread compiles a schema of 33 kB: the 99th percentile of the gaps between tokens of
a stream beside it was 30 to 50 ms, and is 5 to 8."""
LAST_WORDS_S = 5.0  # for streams that were cut short to send their last event


class Stoppable(Protocol):
    """What answers requests, as its server sees it when it stops."""

    running: set[Any]

    def cancel_all(self) -> None: ...


S = TypeVar("S", bound=Stoppable)


class Server(uvicorn.Server, Generic[S]):
    """uvicorn, but running answers may finish for `drain_timeout` seconds and then are cut short.

    The first signal drains, a second one cuts the running answers short at once, a third one waits
    for nothing. The process ends normally, not by the signal.
    """

    def __init__(self, config: uvicorn.Config, serving: S, drain_timeout: float) -> None:
        super().__init__(config)
        self._serving = serving
        self._drain_timeout = drain_timeout
        self._signals = 0
        self.failed = False
        """Whether the model could not be loaded: why is said elsewhere."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; uvicorn would raise it again after the end."""
        self._signals += 1
        self.should_exit = True
        if self._signals == 2:
            asyncio.get_running_loop().call_soon_threadsafe(self._cut)
        self.force_exit = self._signals > 2

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections, wait for the running answers, cut short what is left."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._drain_timeout, self._cut)
        running, seconds = len(self._serving.running), self._drain_timeout
        if not self.failed:
            log.info("stopping: no new connections; %d running, %g s to finish", running, seconds)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
        if not self.failed:
            log.info("stopped")

    def _cut(self) -> None:
        log.info("stopping: cutting %d short", len(self._serving.running))
        self._serving.cancel_all()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. InvalidRequestError if it cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise InvalidRequestError(
            "cannot listen on {host}: {reason}", "host", host=host, reason=error.strerror
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _cannot_bind(host, port, error) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The address that clients use."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def build(
    load: Callable[[], LanguageModel],
    config: ServerConfig,
    on_failure: Callable[[BaseException], None] | None = None,
    loading: Loading | None = None,
    on_warm: Callable[[], object] | None = None,
) -> Server[Serving]:
    """A server that is not running yet; for `loading` and `on_warm` see `create_app`."""

    def failed(error: BaseException) -> None:
        server.should_exit = server.failed = True
        if on_failure is not None:
            on_failure(error)

    app = create_app(load, config, failed, loading, on_warm)
    serving: Serving = app.state.serving
    server = server_of(app, serving, config)
    return server


def server_of(app: ASGIApp, serving: S, config: ServerConfig) -> Server[S]:
    """A server of `app` that is not running yet; `serving` is what it stops in the end."""
    settings = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(config.drain_timeout + LAST_WORDS_S),
    )
    return Server(settings, serving, config.drain_timeout)


@contextmanager
def listening(
    config: ServerConfig, announce: Callable[[str], None]
) -> Iterator[list[socket.socket]]:
    """Sockets at all addresses, closed behind the block; `announce` is told each URL.

    Raises InvalidRequestError if one cannot be had.
    """
    with ExitStack() as stack:
        listeners: list[socket.socket] = []
        for host in config.hosts:  # a free port is the same one everywhere
            port = listeners[0].getsockname()[1] if listeners else config.port
            listeners.append(stack.enter_context(bind(host, port)))
        for listener in listeners:
            announce(url_of(listener))
        yield listeners


def serve(
    load: Callable[[], LanguageModel],
    config: ServerConfig,
    announce: Callable[[str], None],
    loading: Loading | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; `announce` is told each URL once connections are accepted.

    Raises InvalidRequestError if the address cannot be had, and what `load` raised.
    """
    failures: list[BaseException] = []
    share_heap()
    sys.setswitchinterval(SWITCH_S)
    with listening(config, announce) as listeners:
        # What has been loaded stays. Python would search all of it for garbage again and again, and every
        # stream would wait meanwhile: 110 to 150 ms for 180,000 objects.
        build(load, config, failures.append, loading, gc.freeze).run(sockets=listeners)
    if failures:
        raise failures[0]


def _cannot_bind(host: str, port: int, error: OSError) -> InvalidRequestError:
    if error.errno == errno.EADDRINUSE:
        return InvalidRequestError(
            "port {port} on {host} is in use",
            "port",
            "stop the program that has it, or choose another with {port} (0 takes a free one)",
            host=host,
            port=port,
        )
    return InvalidRequestError(
        "cannot listen on {host}:{port}: {reason}",
        "host",
        host=host,
        port=port,
        reason=error.strerror,
    )

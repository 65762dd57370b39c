"""How the server listens and whom it lets in. Checked when made; nothing here does any work."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from codellama.errors import InvalidRequestError
from codellama.params import SamplingOptions, SamplingParams
from codellama.protocol.limits import BODY_BYTES

MIB = 2**20


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen and what to allow.

    `port` 0 takes a free one. With `api_keys`, every request but `/health` needs one of them; an
    address that other machines can reach needs at least one. `cors_origins` are the web pages that
    may call the server ("*": all). Bodies above `max_body_bytes` are refused. When it is asked to
    stop, the server lets running answers finish for `drain_timeout` seconds. A silent stream gets a
    comment every `ping_interval` seconds, so that nobody on the way closes it. `sampling` holds fields
    of `SamplingParams` for requests that do not set them. Without `tools` the model never hears of the
    functions that a chat offers: it answers in words, and a request that insists on a call is an error.
    With `verbose`, chats and completions tell all about their answers (`__verbose`) unless they say
    otherwise. With `lenient`, fields that nobody knows are ignored and named in a header of the answer, in
    place of an error.

    `host` may be several addresses with commas between them. The first of `aliases` is what answers call
    the model, instead of its file's name; the others and `tags` are told beside it. `page` says whether
    browsers get a page at `/`, `access_log` whether each request is logged. `slots`, `metrics` and `props`
    say whether `GET /slots`, `GET /metrics` and `POST /props` are answered. KV states are saved in the
    folder `slot_save_path`, and nowhere if it is None. The origin "localhost" is every page of this machine.
    After `sleep_idle_seconds` without a request the model is freed; the next one loads it again.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = BODY_BYTES
    drain_timeout: float = 30.0
    ping_interval: float = 15.0
    tools: bool = True
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    lenient: bool = False
    verbose: bool = False
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    page: bool = True
    access_log: bool = True
    slots: bool = True
    metrics: bool = True
    props: bool = False
    slot_save_path: Path | None = None
    sleep_idle_seconds: float | None = None

    def __post_init__(self) -> None:
        SamplingParams.of(**self.sampling)
        if "logprobs" in self.sampling:
            raise InvalidRequestError("{param} can only be asked for by a request", "logprobs")
        if not 0 <= self.port <= 65535:
            raise InvalidRequestError(
                "{param} must be from 0 to 65535; got {port}", "port", port=self.port
            )
        for name in ("max_body_bytes", "ping_interval"):
            if getattr(self, name) <= 0:
                raise InvalidRequestError("{param} must be greater than 0", name)
        if self.drain_timeout < 0:
            raise InvalidRequestError("{param} must not be negative", "drain_timeout")
        for key in self.api_keys:
            if not key or key != key.strip() or not key.isascii():
                raise InvalidRequestError(
                    "an API key must be ASCII text without spaces around it, and not empty",
                    "api_key",
                )
        self._check_hosts()
        self._check_names()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses to listen on."""
        return tuple(dict.fromkeys(host.strip() for host in self.host.split(",")))

    def _check_names(self) -> None:
        if not all(name.strip() for name in (*self.aliases, *self.tags)):
            raise InvalidRequestError("{param} must not be empty", "alias")
        if self.slot_save_path is not None and not self.slot_save_path.is_dir():
            raise InvalidRequestError(
                "{param}: {path} is no folder", "slot_save_path", path=self.slot_save_path
            )
        if self.sleep_idle_seconds is not None and self.sleep_idle_seconds <= 0:
            raise InvalidRequestError("{param} must be greater than 0", "sleep_idle_seconds")

    def _check_hosts(self) -> None:
        for host in self.hosts:
            if not self.api_keys and not is_loopback(host):
                raise InvalidRequestError(
                    "{host} can be reached by other machines",
                    "api_keys",
                    "set {api_keys}, or listen on 127.0.0.1",
                    host=host,
                )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

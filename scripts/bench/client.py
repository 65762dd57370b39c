"""An OpenAI client that records when things arrive and does nothing else meanwhile.

A stream's bytes are kept with their time and read after the stream has ended, so that parsing does not
compete with the server for the processor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


@dataclass
class Recording:
    """A stream as it comes: `(seconds, bytes)` by `time.perf_counter`."""

    sent: float = 0.0
    ended: float = 0.0
    chunks: list[tuple[float, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A finished request. `arrivals` are the times of the events that carried text.

    Times are `time.perf_counter`'s seconds; a whole answer has one arrival, its end.
    """

    sent: float
    ended: float
    arrivals: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    text: str

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.arrivals[0] - self.sent

    @property
    def seconds(self) -> float:
        """Seconds from the request to the end of the answer."""
        return self.ended - self.sent

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first one."""
        return (self.completion_tokens - 1) / max(self.ended - self.arrivals[0], 1e-9)


class Client:
    """Requests to the server at `url` (with or without `/v1`). Close it, or use it in `async with`."""

    def __init__(
        self, url: str, *, model: str = "any", api_key: str | None = None, timeout: float = 600.0
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            # A new connection for every request: llama-server may close one after an answer, and a
            # request that is sent on it in that moment fails.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    async def whole(self, path: str, **body: Any) -> Answer:
        """POST to /v1/`path` and wait for the whole answer. Raises BenchError."""
        sent = time.perf_counter()
        try:
            response = await self._http.post(f"/v1/{path}", json={"model": self._model, **body})
        except httpx.HTTPError as error:
            raise BenchError(f"{self._http.base_url}: {error!r}") from error
        ended = time.perf_counter()
        _check(response.status_code, response.text)
        reply = response.json()
        usage = reply["usage"]
        text = "".join(_text(choice) for choice in reply["choices"])
        return Answer(
            sent, ended, (ended,), usage["prompt_tokens"], usage["completion_tokens"], text
        )

    async def stream(self, path: str, recording: Recording | None = None, **body: Any) -> Answer:
        """POST to /v1/`path` and read the answer as it comes, into `recording`. Raises BenchError."""
        recording = recording or Recording()
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        recording.sent = time.perf_counter()
        try:
            request = self._http.stream("POST", f"/v1/{path}", json={"model": self._model, **body})
            async with request as response:
                if response.status_code != 200:
                    _check(
                        response.status_code, (await response.aread()).decode("utf-8", "replace")
                    )
                async for data in response.aiter_raw():
                    recording.chunks.append((time.perf_counter(), data))
        except httpx.HTTPError as error:
            raise BenchError(f"{self._http.base_url}: {error!r}") from error
        recording.ended = time.perf_counter()
        return parse(recording)

    async def ready(self) -> bool:
        """Whether the server answers and has its model."""
        try:
            response = await self._http.get("/health")
            if response.status_code == 404:
                response = await self._http.get("/v1/models")
        except httpx.TransportError:
            return False
        return response.status_code == 200

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def parse(recording: Recording) -> Answer:
    """The answer in a recorded stream. Raises BenchError if it holds an error, no answer or no usage."""
    arrivals: list[float] = []
    last: list[float] = []
    pieces: list[str] = []
    usage: dict[str, Any] | None = None
    for moment, event in _events(recording.chunks):
        if "error" in event:
            raise BenchError(f"the server sent an error: {event['error']}")
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            text = _text(choice)
            last = [moment]
            if text:  # the first and the last event of a chat have none
                arrivals.append(moment)
                pieces.append(text)
    arrivals = arrivals or last  # a short answer may be all control tokens
    if not arrivals:
        raise BenchError("the stream ended without an answer")
    if usage is None:
        raise BenchError("the stream reported no usage: the server ignores stream_options")
    return Answer(
        recording.sent,
        recording.ended,
        tuple(arrivals),
        usage["prompt_tokens"],
        usage["completion_tokens"],
        "".join(pieces),
    )


def total_rate(answers: Sequence[Answer]) -> float:
    """Tokens per second of requests that ran together."""
    seconds = max(a.ended for a in answers) - min(a.sent for a in answers)
    return sum(a.completion_tokens for a in answers) / seconds


def _events(chunks: Iterable[tuple[float, bytes]]) -> Iterable[tuple[float, dict[str, Any]]]:
    """The JSON events of a stream, each with the time of the chunk that completed it."""
    buffer = b""
    for moment, data in chunks:
        buffer += data.replace(b"\r\n", b"\n")
        *blocks, buffer = buffer.split(b"\n\n")
        for block in blocks:
            for line in block.split(b"\n"):
                if line.startswith(b"data:") and line != b"data: [DONE]":
                    yield moment, json.loads(line[5:])


def _text(choice: dict[str, Any]) -> str:
    holder = choice.get("delta") or choice.get("message") or choice
    return holder.get("text") or holder.get("content") or ""


def _check(status: int, body: str) -> None:
    if status != 200:
        raise BenchError(f"the server answered {status}: {body[:500]}")

"""Mixed requests to a server by many clients, drawn by a seed, and how each of them ended.

Every client repeats: draw a kind of request, send it, read the answer as it comes, or leave in the middle.
An answer is right if it ends exactly once. `Tally` keeps the counts and the times to the first token.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "size": {"type": "integer", "minimum": 0, "maximum": 999},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}
WORDS = ["self", "value", "index", "lines", "name", "total", "path", "text", "item", "count", "key"]
LINES = [f"    {word} = {word}_of({WORDS[i - 1]}, {i})\n" for i, word in enumerate(WORDS)]

LONGEST = 240  # characters: three turns fit the context even where a letter is a token


@dataclass
class Tally:
    """What came of the requests so far. `first` are (when, seconds to the first token) of streams."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first: list[tuple[float, float]] = field(default_factory=list)

    def complain(self, kind: str, what: str) -> None:
        """An answer was not as it must be."""
        self.ended[f"{kind}: wrong"] += 1
        if len(self.wrong) < 20:
            self.wrong.append(f"{kind}: {what}")


class Clients:
    """`n` clients of the server at `url`, at work until `stop` is set."""

    def __init__(self, url: str, n: int, seed: int, adapters: int, embeddings: bool) -> None:
        self.tally = Tally()
        self.stop = asyncio.Event()
        self._url = url
        self._n = n
        self._seed = seed
        self._adapters = adapters
        self._embeddings = embeddings

    async def work(self) -> None:
        """All clients, until the end."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self._url, timeout=600, limits=limits, trust_env=False
        ) as http:
            await asyncio.gather(
                *(
                    _Client(http, self.tally, random.Random(self._seed * 1000 + i), self).work()
                    for i in range(self._n)
                )
            )

    @property
    def kinds(self) -> list[str]:
        """The kinds of requests that this server can answer."""
        found = [
            "chat",
            "chat",
            "complete",
            "complete",
            "native",
            "infill",
            "schema",
            "leave",
            "bad",
        ]
        return [*found, "vectors"] if self._embeddings else found

    def scales(self, rng: random.Random) -> Json:
        """Sometimes an adapter."""
        if not self._adapters or rng.random() < 0.7:
            return {}
        return {"lora": [{"id": rng.randrange(self._adapters), "scale": rng.choice([0.5, 1.0])}]}


class _Client:
    def __init__(
        self, http: httpx.AsyncClient, tally: Tally, rng: random.Random, clients: Clients
    ) -> None:
        self._http = http
        self._tally = tally
        self._rng = rng
        self._clients = clients

    async def work(self) -> None:
        while not self._clients.stop.is_set():
            kind = self._rng.choice(self._clients.kinds)
            act: Callable[[], Awaitable[None]] = getattr(self, f"_{kind}")
            try:
                await act()
            except httpx.HTTPError as error:
                self._tally.complain(kind, repr(error))
            else:
                self._tally.ended[kind] += 1

    # -- kinds of requests ------------------------------------------------------------------------

    async def _chat(self) -> None:
        turns = [{"role": "user", "content": self._text(12)}]
        if self._rng.random() < 0.5:
            turns += [
                {"role": "assistant", "content": self._text(8)},
                {"role": "user", "content": self._text(6)},
            ]
        await self._openai("chat", "/v1/chat/completions", messages=turns)

    async def _complete(self) -> None:
        await self._openai("complete", "/v1/completions", prompt=self._text(30))

    async def _openai(self, kind: str, path: str, **body: Any) -> None:
        body |= self._options() | {"n": self._rng.choice([1, 1, 1, 3])}
        if self._rng.random() < 0.3:
            await self._whole(kind, path, body)
        else:
            await self._stream(kind, path, body, body["n"])

    async def _native(self) -> None:
        body = self._options() | {"prompt": self._text(20), "n_predict": self._rng.randint(0, 60)}
        body["n_probs"] = self._rng.choice([0, 0, 3])
        body.pop("max_tokens")
        await self._stream("native", "/completion", body, 1)

    async def _infill(self) -> None:
        body = self._options() | {"input_prefix": self._text(9), "input_suffix": self._text(9)}
        await self._stream("infill", "/infill", body, 1)

    async def _schema(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": self._some_schema()}}
        turns = [{"role": "user", "content": self._text(6)}]
        body = self._options() | {"messages": turns, "response_format": form}
        await self._stream("schema", "/v1/chat/completions", body, 1)

    async def _leave(self) -> None:
        """Go away after some events."""
        body = self._options() | {"prompt": self._text(40), "max_tokens": 200, "stream": True}
        stay = self._rng.randint(0, 20)
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            async for _ in response.aiter_lines():
                stay -= 1
                if stay < 0:
                    return

    async def _bad(self) -> None:
        """A mistake, which is a 400."""
        body: Json = {"prompt": "x", "max_tokens": 4}
        body |= self._rng.choice(
            [
                {"temperature": -1e9, "top_p": 7},
                {"prompt": 7.5},
                {"max_tokens": "x"},
                {"regex": "("},
            ]
        )
        response = await self._http.post("/v1/completions", json=body)
        if response.status_code != 400:
            self._tally.complain("bad", f"{response.status_code} {response.text[:200]} for {body}")

    async def _vectors(self) -> None:
        texts = [self._text(5) for _ in range(self._rng.randint(1, 4))]
        response = await self._http.post("/v1/embeddings", json={"input": texts})
        if response.status_code != 200 or len(response.json()["data"]) != len(texts):
            self._tally.complain("vectors", f"{response.status_code} {response.text[:200]}")

    # -- reading answers --------------------------------------------------------------------------

    async def _whole(self, kind: str, path: str, body: Json) -> None:
        response = await self._http.post(path, json=body)
        if response.status_code != 200:
            self._tally.complain(kind, f"{response.status_code} {response.text[:200]}")
            return
        reasons = [choice["finish_reason"] for choice in response.json()["choices"]]
        if len(reasons) != body["n"] or None in reasons:
            self._tally.complain(kind, f"ends with {reasons}")

    async def _stream(self, kind: str, path: str, body: Json, n: int) -> None:
        sent = time.monotonic()
        async with self._http.stream("POST", path, json=body | {"stream": True}) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode("utf-8", "replace")
                self._tally.complain(kind, f"{response.status_code} {text[:200]}")
                return
            ends, last, waiting = 0, False, True
            async for event in _events(response):
                if waiting:
                    self._tally.first.append((sent, time.monotonic() - sent))
                    waiting = False
                if "error" in event:
                    self._tally.complain(kind, str(event["error"])[:200])
                    return
                choices = event.get("choices", ())
                ends += sum(choice["finish_reason"] is not None for choice in choices)
                last = bool(event.get("stop")) if "choices" not in event else ends == n
        if not last or ends > n:
            self._tally.complain(kind, f"{ends} ends for {n} choices, last event {last}")

    # -- what is asked ----------------------------------------------------------------------------

    def _options(self) -> Json:
        rng = self._rng
        body: Json = {"max_tokens": rng.randint(1, 60), "temperature": rng.choice([0, 0.8, 1])}
        if rng.random() < 0.3:
            body["seed"] = rng.randrange(2**32)
        if rng.random() < 0.2:
            body["stop"] = [rng.choice(["\n\n", "return", "x"])]
        return body | self._clients.scales(rng)

    def _some_schema(self) -> Json:
        if self._rng.random() < 0.5:
            return SCHEMA
        names = [f"{self._rng.choice(WORDS)}_{self._rng.randrange(1000)}" for _ in range(3)]
        properties = {name: {"type": "boolean"} for name in names}
        return {"type": "object", "properties": properties, "required": names}

    def _text(self, lines: int) -> str:
        """Code that often begins as other texts do."""
        rng = self._rng
        shared = LINES[: rng.choice([0, 4, len(LINES)])]
        text = "".join([*shared, *rng.choices(LINES, k=rng.randint(1, lines))])
        return text[:LONGEST]


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    async for line in response.aiter_lines():
        if line.startswith("data:") and line != "data: [DONE]":
            yield json.loads(line[5:])

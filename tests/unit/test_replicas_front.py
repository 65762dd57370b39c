"""The front of replicas without Ray: what it lets in and passes on, and what it does when one is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from codellama.engine.status import EngineStatus
from codellama.replicas.front import TRIES, create_front
from codellama.replicas.parcels import (
    Forwarded,
    ReplicaLostError,
    ReplicaReply,
    ReplicaStatus,
    ResponsePiece,
)
from codellama.replicas.replica import Replica
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, say

MESSAGES = [{"role": "user", "content": "hi"}]
STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"),)
LINES = ((b"content-type", b"application/x-ndjson"),)
HEAD = ResponsePiece(b'data: {"head": 1}\n\n')
TOKEN = ResponsePiece(b'data: {"token": 1}\n\n', begun=True)
END = ResponsePiece(b"data: [DONE]\n\n", begun=True, last=True)
PING = ResponsePiece(b":\n\n")
OPEN = ResponsePiece(status=200, headers=STREAM)
LOST = None
"""In a script: the replica is gone."""

Script = Sequence[ResponsePiece | None]


class Scripted:
    """Replicas of which each answer follows the next script."""

    def __init__(self, *scripts: Script, n: int = 2) -> None:
        self.scripts = list(scripts)
        self.n = n
        self.asked: list[tuple[str | None, Forwarded]] = []
        self.closed = 0
        self.engines = [EngineStatus(n_slots=1, tokens_decoded=5, started=float(i)) for i in (1, 2)]

    async def count(self) -> int:
        return self.n

    async def answer(
        self, key: str | None, request: Forwarded
    ) -> AsyncGenerator[Sequence[ResponsePiece], None]:
        self.asked.append((key, request))
        try:
            for piece in self.scripts.pop(0):
                await asyncio.sleep(0)
                if piece is None:
                    raise ReplicaLostError("the replica is gone")
                yield [piece]
        finally:
            self.closed += 1

    async def everyone(self, request: Forwarded) -> list[ReplicaReply]:
        self.asked.append((None, request))
        busy = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": True}]
        bodies: dict[str, Any] = {"/slots": busy, "/props": {"total_slots": 2, "model_alias": "m"}}
        body = json.dumps(bodies.get(request.path, {"success": True})).encode()
        return [ReplicaReply(name, 200, body) for name in ("b", "a")]

    async def statuses(self) -> list[ReplicaStatus]:
        return [ReplicaStatus(f"{i}", engine) for i, engine in enumerate(self.engines)]


def front(replicas: Any, most: int = 8, ready: bool = True, **config: Any) -> FastAPI:
    def start(call: Callable[[], None]) -> None:
        if ready:
            call()

    return create_front(replicas, ServerConfig(**config), most, start, ["/v1/chat/completions"])


@contextmanager
def client(replicas: Any, **settings: Any) -> Iterator[TestClient]:
    with TestClient(front(replicas, **settings), base_url="http://localhost") as found:
        yield found


def streamed(replicas: Scripted, path: str = "/v1/chat/completions") -> str:
    with client(replicas) as http:
        answer = http.post(path, json={"messages": MESSAGES, "stream": True})
    assert answer.status_code == 200
    return answer.text


def test_a_stream_is_passed_on_as_it_is() -> None:
    replicas = Scripted([OPEN, HEAD, TOKEN, TOKEN, END])
    said = streamed(replicas)
    assert said.encode() == HEAD.body + 2 * TOKEN.body + END.body
    key, request = replicas.asked[0]
    assert key is not None
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert json.loads(request.body) == {"messages": MESSAGES, "stream": True}


def test_what_had_no_token_is_run_again_and_begins_once() -> None:
    other = ResponsePiece(b'data: {"head": 2}\n\n')
    replicas = Scripted([OPEN, HEAD, PING, LOST], [OPEN, other, TOKEN, END])
    assert streamed(replicas).encode() == PING.body + other.body + TOKEN.body + END.body
    assert len(replicas.asked) == 2


@pytest.mark.parametrize(
    ("path", "headers", "event"),
    [
        ("/v1/chat/completions", STREAM, {"error": {"code": 503, "type": "unavailable_error"}}),
        (
            "/v1/messages",
            STREAM,
            {"type": "error", "error": {"type": "overloaded_error"}},
        ),
        (
            "/v1/responses",
            STREAM,
            {"type": "error", "code": "unavailable_error", "sequence_number": 2},
        ),
        ("/api/chat", LINES, {"error": "the replica"}),
    ],
)
def test_a_stream_that_had_begun_ends_with_one_error_of_its_dialect(
    path: str, headers: Any, event: dict[str, Any]
) -> None:
    replicas = Scripted([ResponsePiece(status=200, headers=headers), HEAD, TOKEN, LOST])
    said = streamed(replicas, path)
    assert len(replicas.asked) == 1
    rest = said.encode().removeprefix(HEAD.body + TOKEN.body).decode()
    lines = [line for line in rest.splitlines() if line and not line.startswith("event: ")]
    assert len(lines) == 1
    assert rest.startswith("event: error\n") == (event.get("type") == "error")
    assert _within(event, json.loads(lines[0].removeprefix("data: ")))


def _within(part: Any, whole: Any) -> bool:
    """Whether all of `part` is in `whole`; of a text its beginning."""
    if isinstance(part, dict):
        return all(name in whole and _within(value, whole[name]) for name, value in part.items())
    return bool(str(whole).startswith(part) if isinstance(part, str) else whole == part)


def test_a_request_that_ends_every_replica_is_given_up() -> None:
    replicas = Scripted(*[[OPEN, HEAD, LOST]] * (TRIES + 1))
    said = streamed(replicas)
    assert len(replicas.asked) == TRIES
    assert said.count("data: ") == 1
    assert "error" in said


def test_a_whole_answer_whose_replica_is_lost_is_answered_by_another() -> None:
    whole = [
        ResponsePiece(status=200, headers=((b"content-type", b"application/json"),)),
        ResponsePiece(b"{}", last=True),
    ]
    replicas = Scripted([LOST], whole)
    with client(replicas) as http:
        answer = http.post("/v1/chat/completions", json={"messages": MESSAGES})
    assert (answer.status_code, answer.json()) == (200, {})


def test_an_answer_that_nobody_gives_is_a_503() -> None:
    with client(Scripted(*[[LOST]] * TRIES)) as http:
        answer = http.post("/api/chat", json={"messages": MESSAGES})
    assert answer.status_code == 503
    assert "send the request again" in answer.json()["error"]


def test_a_second_beginning_that_is_an_error_ends_the_stream_with_one() -> None:
    error = [ResponsePiece(status=400, headers=()), ResponsePiece(b"{}", last=True)]
    said = streamed(Scripted([OPEN, HEAD, LOST], error, error, error))
    assert said.count("data: ") == 1
    assert '"error"' in said


def test_the_key_is_the_fronts_own_and_is_not_passed_on() -> None:
    replicas = Scripted([OPEN, TOKEN, END])
    with client(replicas, api_keys=("secret",)) as http:
        assert http.post("/v1/chat/completions", json={}).status_code == 401
        assert not replicas.asked
        headers = {"authorization": "Bearer secret", "x-api-key": "secret"}
        assert http.post("/v1/chat/completions", json={}, headers=headers).status_code == 200
    assert b"secret" not in repr(replicas.asked).encode()


def test_more_than_most_are_refused_with_advice() -> None:
    with client(Scripted([OPEN, TOKEN, END]), most=0) as http:
        answer = http.post("/v1/chat/completions", json={"messages": MESSAGES})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "0 requests are in progress" in answer.json()["error"]["message"]


def test_while_replicas_load_all_but_the_page_is_a_503() -> None:
    with client(Scripted(), ready=False) as http:
        for path in ("/health", "/v1/models", "/metrics", "/slots", "/props"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["message"]) == (503, "Loading model")
        assert http.get("/", headers={"accept": "text/html"}).status_code == 200


def test_health_tells_how_many_there_are() -> None:
    with client(Scripted(n=2)) as http:
        assert http.get("/health").json() == {"status": "ok", "replicas": 2}
    with client(Scripted(n=0)) as http:
        assert http.get("/health").status_code == 503


def test_metrics_slots_and_props_are_those_of_all() -> None:
    with client(Scripted()) as http:
        assert "llamacpp:tokens_predicted_total 10\n" in http.get("/metrics").text
        slots = http.get("/slots").json()
        assert [(s["id"], s["replica"], s["id_in_replica"]) for s in slots] == [
            (0, "a", 0),
            (1, "a", 1),
            (2, "b", 0),
            (3, "b", 1),
        ]
        assert http.get("/slots?fail_on_no_slot=1").status_code == 503
        props = http.get("/props").json()
        assert (props["total_slots"], props["replicas"]) == (4, 2)
    with client(Scripted(), metrics=False, slots=False) as http:
        assert [http.get(path).status_code for path in ("/metrics", "/slots")] == [501, 501]


def test_scales_of_adapters_are_set_in_every_replica() -> None:
    replicas = Scripted()
    with client(replicas) as http:
        assert http.post("/lora-adapters", json=[]).json() == {"success": True}
    assert [request.path for _, request in replicas.asked] == ["/lora-adapters"]


class Here(Scripted):
    """One real replica in this process, over a scripted model."""

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.replica = replica

    async def answer(
        self, key: str | None, request: Forwarded
    ) -> AsyncGenerator[Sequence[ResponsePiece], None]:
        async for pieces in self.replica.answer(request):
            yield pieces


async def ask(replica: Replica, path: str, **body: Any) -> list[ResponsePiece]:
    raw = json.dumps(body).encode()
    headers = ((b"content-type", b"application/json"),)
    request = Forwarded("POST", path, headers=headers, body=raw)
    return [piece async for some in replica.answer(request) for piece in some]


def with_replica(llm: FakeLLM, use: Callable[[Replica], Any]) -> Any:
    async def run() -> Any:
        replica = Replica(lambda: llm, ServerConfig(page=False, access_log=False))
        await replica.start()
        try:
            return await use(replica)
        finally:
            await replica.stop()

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_replica_tells_when_an_answer_has_begun(path: str) -> None:
    body: dict[str, Any] = {"stream": True, "max_tokens": 9, "messages": MESSAGES}
    if path == "/v1/responses":
        body = {"stream": True, "input": "hi"}
    pieces = with_replica(FakeLLM(say("hel", "lo")), lambda replica: ask(replica, path, **body))
    assert pieces[0].status == 200
    assert pieces[1].body
    assert not pieces[1].begun
    assert b"hel" not in pieces[1].body
    assert pieces[2].begun
    assert b"hel" in pieces[2].body
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert "answer=5 end=stop" in pieces[-1].about


def test_a_replica_answers_a_clients_mistake_like_the_server() -> None:
    pieces = with_replica(FakeLLM(), lambda replica: ask(replica, "/v1/completions", prompt=3.5))
    assert pieces[0].status == 400
    assert json.loads(pieces[-1].body)["error"]["param"] == "prompt"


def test_closing_an_answer_cancels_its_request() -> None:
    llm = FakeLLM(say("a"), hold=True)

    async def leave(replica: Replica) -> None:
        headers = ((b"content-type", b"application/json"),)
        body = json.dumps({"prompt": "x", "stream": True}).encode()
        pieces = replica.answer(Forwarded("POST", "/v1/completions", headers=headers, body=body))
        await anext(pieces)
        await pieces.aclose()

    with_replica(llm, leave)
    assert len(llm.cancelled) == 1


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_start() -> None:
    def load() -> FakeLLM:
        raise ValueError("no such file")

    async def start() -> None:
        await Replica(load, ServerConfig()).start()

    with pytest.raises(ValueError, match="no such file"):
        asyncio.run(start())


def test_a_dead_engine_asks_to_be_replaced() -> None:
    llm = FakeLLM()

    async def check(replica: Replica) -> None:
        replica.check()
        llm.dead = True
        with pytest.raises(Exception, match="engine has stopped"):
            replica.check()

    with_replica(llm, check)

"""Which replica a conversation goes to, what replicas take of machines, and the sums of what they count."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.engine.status import EngineStatus
from codellama.errors import InvalidRequestError
from codellama.replicas.beginning import chosen, conversation_key, ranked
from codellama.replicas.environment import prepare
from codellama.replicas.parcels import ReplicaStatus
from codellama.replicas.settings import ClusterNode, ReplicaConfig, Share, model_fields, share_of
from codellama.replicas.tally import Tally

NAMES = ["a", "b", "c", "d"]
SYSTEM = {"role": "system", "content": "Be brief. " * 500}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


LATER = [{"role": "assistant", "content": "yes"}, user("and?")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"messages": [SYSTEM, user("x")]}, {"messages": [SYSTEM, user("x"), *LATER]}),
        ({"messages": [user("x")], "temperature": 1}, {"messages": [user("x"), *LATER]}),
        (
            {"system": "s", "messages": [user("x")]},
            {"system": "s", "messages": [user("x"), *LATER]},
        ),
        ({"input": [user("x")]}, {"input": [user("x"), *LATER]}),
        ({"prompt": "p" * 600}, {"prompt": "p" * 600 + "more"}),
        ({"prompt": ["p" * 600]}, {"prompt": ["p" * 600 + "more"]}),
        ({"prompt": [5, 6, *[7] * 300]}, {"prompt": [5, 6, *[7] * 300, 8]}),
        ({"input_prefix": "p" * 600}, {"input_prefix": "p" * 600 + "more"}),
    ],
)
def test_a_conversation_keeps_its_key(first: dict[str, Any], second: dict[str, Any]) -> None:
    key = conversation_key(first)
    assert key is not None
    assert conversation_key(second) == key


def test_conversations_that_share_a_system_prompt_have_keys_of_their_own() -> None:
    bodies = [{"messages": [user(f"question {i}")]} for i in range(40)]
    shared = [{"messages": [{**SYSTEM, "content": "Be brief."}, user(f"{i}")]} for i in range(40)]
    assert len({conversation_key(body) for body in [*bodies, *shared]}) == 80


def test_a_long_system_prompt_does_not_hide_the_question() -> None:
    long = {"role": "system", "content": "x" * 100_000}
    keys = {conversation_key({"messages": [long, user(f"{i}")]}) for i in range(20)}
    assert len(keys) == 20


@pytest.mark.parametrize("body", [None, 3, [], {}, {"prompt": ""}, {"prompt": []}, {"model": "m"}])
def test_what_begins_nothing_has_no_key(body: object) -> None:
    assert conversation_key(body) is None


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert conversation_key({"prompt": "\ud800"})


def test_only_the_conversations_of_a_lost_replica_move() -> None:
    keys = [f"key {i}" for i in range(400)]
    before = {key: ranked(key, NAMES)[0] for key in keys}
    after = {key: ranked(key, NAMES[:3])[0] for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != "d")
    assert all(60 < list(before.values()).count(name) < 140 for name in NAMES)


def test_who_is_full_comes_behind_who_is_not() -> None:
    assert chosen(NAMES, {}, 2) == NAMES
    assert chosen(NAMES, {"a": 1}, 2) == NAMES
    assert chosen(NAMES, {"a": 2, "b": 5}, 2) == ["c", "d", "a", "b"]
    assert chosen(NAMES, {"a": 4, "b": 3, "c": 2, "d": 9}, 2) == ["c", "b", "a", "d"]


def test_a_replica_has_a_gpu_a_machine_or_a_share_of_one() -> None:
    gpus = [ClusterNode(32, 2), ClusterNode(16, 2), ClusterNode(64, 0)]
    assert share_of(gpus, 4, uses_gpus=True) == Share(8, gpus=1)
    assert share_of(gpus, 3, uses_gpus=False) == Share(16, per_machine=1)
    assert share_of([ClusterNode(2, 0)], 2, uses_gpus=True) == Share(1)
    assert share_of([ClusterNode(2, 0)], 8, uses_gpus=True) == Share(0.25)
    assert share_of([ClusterNode(9, 0), ClusterNode(8, 0)], 3, uses_gpus=True) == Share(4)


def test_replicas_do_not_take_each_others_processors_unless_told_to() -> None:
    assert model_fields({"n_ctx": 9}, Share(4)) == {"n_threads": 4, "n_ctx": 9}
    assert model_fields({"n_threads": 7}, Share(4)) == {"n_threads": 7}
    assert model_fields({}, Share(0.25)) == {"n_threads": 1}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": 1001}, "replicas"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas"),
        ({"replicas": 1, "max_replicas": 1001}, "max_replicas"),
        ({"replicas": 1, "ray": "ray://host:10001"}, "ray"),
    ],
)
def test_a_wrong_setting_is_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        ReplicaConfig(**fields)
    assert error.value.param == name


def test_a_cluster_of_our_own_has_a_token_that_is_in_no_file() -> None:
    own: dict[str, str] = {}
    prepare(own, own=True)
    assert own.keys() == {"RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    assert len(own["RAY_AUTH_TOKEN"]) == 64
    joined: dict[str, str] = {}
    prepare(joined, own=False)
    assert joined == {"RAY_USAGE_STATS_ENABLED": "0"}
    theirs = {"RAY_AUTH_TOKEN_PATH": "/token", "RAY_USAGE_STATS_ENABLED": "1"}
    prepare(theirs, own=True)
    assert theirs == {
        "RAY_AUTH_TOKEN_PATH": "/token",
        "RAY_USAGE_STATS_ENABLED": "1",
        "RAY_AUTH_MODE": "token",
    }


def status(started: float, tokens: int, **more: Any) -> EngineStatus:
    return EngineStatus(n_slots=2, started=started, tokens_decoded=tokens, **more)


def test_counts_are_sums_and_never_fall() -> None:
    tally = Tally()
    first = status(1.0, 10, n_running=1, accepted_at=[2, 1], longest=7)
    second = status(2.0, 5, n_waiting=3, accepted_at=[4], longest=9)
    total = tally.total([ReplicaStatus("a", first), ReplicaStatus("b", second)])
    assert (total.tokens_decoded, total.n_slots) == (15, 4)
    assert (total.n_running, total.n_waiting) == (1, 3)
    assert (total.accepted_at, total.longest) == ([6, 1], 9)
    gone = tally.total([ReplicaStatus("b", status(2.0, 8))])
    assert (gone.tokens_decoded, gone.n_slots, gone.n_running) == (18, 2, 0)
    back = tally.total([ReplicaStatus("b", status(3.0, 1)), ReplicaStatus("c", status(4.0, 1))])
    assert (back.tokens_decoded, back.n_slots) == (20, 4)
    asleep = tally.total([ReplicaStatus("b", None), ReplicaStatus("c", status(4.0, 2))])
    assert (asleep.tokens_decoded, asleep.n_slots) == (21, 2)


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(main, ["serve", str(tiny_gguf), "--replicas", "2"])
    assert done.exit_code == 1
    assert "replicas need Ray Serve: pip install 'codellama-runtime[ray]'" in done.output


@pytest.mark.parametrize("option", ["--ray auto", "--max-replicas 3"])
def test_options_about_replicas_want_replicas(option: str, tiny_gguf: Path) -> None:
    done = CliRunner().invoke(main, ["serve", str(tiny_gguf), *option.split()])
    assert done.exit_code == 1
    assert f"{option.split()[0]} is about replicas: give --replicas too" in done.output

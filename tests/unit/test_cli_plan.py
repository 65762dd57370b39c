"""`codellama plan`: published models on machines that nobody has here."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from click.testing import CliRunner

from codellama.cli import main, outlooks
from codellama.variants import VARIANTS
from codellama.weights import hub
from tests.made_up import machine

TWO = ["--device", "24GiB@1008GB/s", "--device", "24GiB@1008GB/s", "--host", "64GiB@90GB/s"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def plan(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_a_published_name_is_a_table_over_types() -> None:
    result = plan("70b-instruct", *TWO, "--ctx-size", "4096")
    assert result.exit_code == 0, result.output
    first, heading, *rows, last = result.stdout.splitlines()
    assert first == (
        "70b-instruct with 1 x 4096 tokens on GPU0 24.0 GiB at 1008 GB/s, "
        "GPU1 24.0 GiB at 1008 GB/s, main memory 64.0 GiB at 90 GB/s"
    )
    columns = ["type", "weights", "fits", "memory for running", "layers", "tokens/s", "prompt"]
    assert heading.split() == " ".join(columns).split()
    assert [row.split()[0] for row in rows] == list(outlooks.TYPES)
    q4 = next(row for row in rows if row.startswith("Q4_K_M"))
    assert "38.6 GiB" in q4 and "41 + 40 + 0" in q4
    assert last.startswith("Q4_K_M runs: 41 layers on GPU0, 40 layers on GPU1"), (
        "the best on GPUs alone"
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_published_name_without_network_or_file(variant: Any) -> None:
    result = plan(variant.name, "--type", "Q2_K", "--host", "256GiB@200GB/s", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (row,) = document["types"]
    assert (document["model"], document["n_ctx"]) == (variant.name, variant.n_ctx)
    assert row["fits"] is True
    assert row["plan"]["n_params"] == variant.parameters
    assert row["plan"]["expected"]["tokens_per_second"] > 0
    assert document["machine"]["host_bytes"] == 256 * 2**30


def test_a_name_with_a_type() -> None:
    rows = plan("70b-instruct:Q3_K_M", *TWO).stdout.splitlines()
    assert [row.split()[0] for row in rows[2:]] == ["Q3_K_M", "Q3_K_M"]


def test_what_does_not_fit_is_said_once_with_what_would() -> None:
    rows = plan("70b", "--host", "5GiB@50GB/s").stdout.splitlines()
    assert all(" no" in row for row in rows[2:-2])
    assert rows[-2].startswith("--ctx-size: KV cache and scratch memory of 16384 tokens need")
    assert "--ctx-size 8192" in rows[-2] and "--cache-type-k" in rows[-2]
    assert rows[-1] == "No type fits: see above."
    disk = plan("70b-instruct", "--host", "8GiB@50GB/s").stdout.splitlines()
    assert "no, disk" in disk[2]
    assert disk[-1].startswith("No type fits: weights would come from the disk")


def test_a_size_that_is_none_is_an_error() -> None:
    result = plan("70b", "--device", "24")
    assert result.exit_code == 1
    assert "--device: '24' is not a size and a bandwidth such as 24GiB@1008GB/s" in result.stderr


def test_no_network_is_said_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    again: list[object] = []
    monkeypatch.setattr(outlooks, "here", lambda *_: machine(8))
    monkeypatch.setattr(hub.Repository, "_pause", lambda *_: again.append(_))
    result = plan("codellama/CodeLlama-70b-Instruct-hf")
    assert not again, "nothing is tried again"
    assert hub.PATIENCE < 5
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.1)

    def slow(*_: object) -> None:
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)
    begun = time.monotonic()
    assert hub.unreachable("https://huggingface.co").startswith("no answer within")
    assert time.monotonic() - begun < 1
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert hub.unreachable("https://huggingface.co") == "", "the proxy knows"

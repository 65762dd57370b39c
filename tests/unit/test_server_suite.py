"""llama.cpp's server tests start our server with the options that they give llama-server."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_server_suite import read, table
from server_suite.shim import for_llama_server, for_ours, model_for, pairs

GIVEN = [
    *("--port", "8080", "--seed", "42", "--offline", "--hf-repo", "r", "--hf-file", "stories.gguf"),
    *(
        "--ctx-size",
        "512",
        "--parallel",
        "2",
        "--slots",
        "--no-jinja",
        "--cors-origins",
        "localhost",
    ),
]
KNOWN = {"--port", "--seed", "--ctx-size", "--parallel", "--slots", "--cors-origin", "--metrics"}


@pytest.fixture(autouse=True)
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUITE_DROPPED", str(tmp_path / "dropped"))
    return tmp_path / "dropped"


def test_options_become_ours(dropped: Path) -> None:
    assert for_ours(pairs(GIVEN), "m.gguf", KNOWN) == [
        *("serve", "m.gguf", "--port", "8080", "--seed", "42", "--ctx-size", "256"),
        *("--parallel", "2", "--slots", "--cors-origin", "localhost", "--no-metrics"),
    ]
    assert dropped.read_text() == "--no-jinja\n"
    assert for_ours([("--port", "1"), ("--metrics", None)], "m.gguf", KNOWN) == [
        *("serve", "m.gguf", "--port", "1", "--cors-origin", "*")
    ]


def test_llama_server_gets_its_own_options_and_the_stand_in() -> None:
    assert for_llama_server(pairs(GIVEN), "m.gguf") == [
        *("--model", "m.gguf", "--port", "8080", "--seed", "42", "--ctx-size", "512"),
        *("--parallel", "2", "--slots", "--no-jinja", "--cors-origins", "localhost"),
    ]


def test_a_model_that_infills_drafts_or_has_adapters_is_the_demo() -> None:
    models = {"stories": "s", "Q8_0": "d"}
    assert model_for({"--hf-repo": "a/stories260K-infill"}, models) == "d"
    assert model_for({"--hf-file": "stories15M_MOE-F16.gguf"}, models) == "d"
    assert model_for({"--hf-file": "x.gguf", "--model-draft": "y"}, models) == "d"
    assert model_for({"--hf-file": "x.gguf"}, models) == "s"


def test_a_case_applies_where_llama_server_passes_it(tmp_path: Path) -> None:
    report = tmp_path / "x.xml"
    cases = {"a": "", "b": "<failure/>", "c": "<error/>", "d": "<skipped/>"}
    body = "".join(
        f'<testcase classname="unit.test_x" name="{n}">{x}</testcase>' for n, x in cases.items()
    )
    report.write_text(f"<testsuites>{body}</testsuites>")
    ours = read(report)
    assert ours["test_x::b"] == ours["test_x::c"] == "failed"
    peers = {**dict.fromkeys(ours, "passed"), "test_x::c": "failed"}
    assert "| test_x | 4 | 2 | 1 | 1 |" in table(ours, peers)

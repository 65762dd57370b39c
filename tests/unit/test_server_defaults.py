"""What `codellama serve` is told about sampling counts for requests that do not say otherwise."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import InvalidRequestError
from codellama.params import SamplingOptions, SamplingParams
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM
from tests.live_server import running

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/completions", {"prompt": "x"}),
    ("/completion", {"prompt": "x"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]
every_route = pytest.mark.parametrize(("path", "body"), ROUTES)


def drawn_with(sampling: SamplingOptions, path: str, body: dict[str, Any]) -> SamplingParams:
    """The parameters of the answer to this request."""
    llm = FakeLLM()
    with running(lambda: llm, ServerConfig(port=0, sampling=sampling)) as live:
        response = httpx.post(f"{live.url}{path}", json=body)
    assert response.status_code == 200, response.text
    return llm.calls[0].params


@every_route
def test_they_count_where_the_request_says_nothing(path: str, body: dict[str, Any]) -> None:
    params = drawn_with(
        {
            "temperature": 0.7,
            "seed": 1,
            "max_tokens": 256,
            "top_k": 20,
            "stop": ["END"],
            "logit_bias": {5: 1.5},
            "grammar": 'root ::= "a"',
            "samplers": ("top_k", "temperature"),
            "ignore_eos": True,
        },
        path,
        {**body, "top_p": 0.5},
    )
    assert params == SamplingParams(
        temperature=0.7,
        seed=1,
        max_tokens=256,
        top_k=20,
        stop=("END",),
        logit_bias={5: 1.5},
        grammar='root ::= "a"',
        samplers=("top_k", "temperature"),
        ignore_eos=True,
        top_p=0.5,
        repeatable=False,  # who did not ask for a seed does not wait for what repeating costs
    )


@every_route
def test_what_the_request_says_wins(path: str, body: dict[str, Any]) -> None:
    said = {
        "temperature": 0,
        "seed": -1,
        "n_predict": 3,
        "stop": [],
        "logit_bias": [],
        "response_format": {"type": "json_object"},
        "ignore_eos": False,
    }
    defaults: SamplingOptions = {
        "temperature": 0.7,
        "seed": 1,
        "max_tokens": 256,
        "stop": ["END"],
        "logit_bias": {5: 1.5},
        "grammar": 'root ::= "a"',
        "ignore_eos": True,
    }
    params = drawn_with(defaults, path, {**body, **said})
    assert params == SamplingParams(temperature=0, max_tokens=3, json_schema={"type": "object"})


@pytest.mark.parametrize(
    ("sampling", "limit"),
    [({"seed": 1}, 16), ({"max_tokens": 99}, 99), ({"max_tokens": None}, None)],
)
def test_the_sixteen_tokens_of_openai_go_when_a_limit_was_given(
    sampling: SamplingOptions, limit: int | None
) -> None:
    assert drawn_with(sampling, "/v1/completions", {"prompt": "x"}).max_tokens == limit


@pytest.mark.parametrize("sampling", [{"top_k": -2}, {"logprobs": 1}, {"temprature": 1}])
def test_defaults_are_checked_before_the_server_starts(sampling: Any) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(sampling))):
        ServerConfig(sampling=sampling)


def test_serve_takes_llama_servers_names(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[ServerConfig] = []
    monkeypatch.setattr(
        "codellama.server.run.serve", lambda load, config, *more: configs.append(config)
    )
    monkeypatch.setattr("codellama.models.resolve_model", lambda name, say: name)
    args = "serve m --temp 0.7 --seed 1 --n-predict 256 --top-k 20 --typical 0.9 --mirostat-lr 0.2"
    result = CliRunner().invoke(main, args.split())
    assert result.exit_code == 0, result.output
    assert configs[0].sampling == {
        "temperature": 0.7,
        "seed": 1,
        "max_tokens": 256,
        "top_k": 20,
        "typical_p": 0.9,
        "mirostat_eta": 0.2,
    }


@pytest.mark.parametrize(
    ("option", "tools"), [("", True), ("--tools", True), ("--no-tools", False)]
)
def test_functions_can_be_kept_from_the_model(
    monkeypatch: pytest.MonkeyPatch, option: str, tools: bool
) -> None:
    configs: list[ServerConfig] = []
    monkeypatch.setattr(
        "codellama.server.run.serve", lambda load, config, *more: configs.append(config)
    )
    monkeypatch.setattr("codellama.models.resolve_model", lambda name, say: name)
    result = CliRunner().invoke(main, f"serve m {option}".split())
    assert result.exit_code == 0, result.output
    assert configs[0].tools is tools

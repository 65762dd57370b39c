from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from codellama.cli import main
from codellama.cli.options import (
    model_config,
    model_options,
    sampling_options,
    sampling_params,
    serving_options,
)
from codellama.params import ModelConfig, SamplingParams
from codellama.settings import settings_of


@click.command("probe")
@sampling_options
@serving_options
@model_options
def probe(**options: Any) -> None:
    """Print the fields that were set."""
    click.echo(json.dumps([model_config(options), sampling_params(options)]))


def invoke(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(probe, args, env=env)


def fields(*args: str, env: dict[str, str] | None = None) -> Any:
    result = invoke(*args, env=env)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_what_is_not_given_is_left_to_the_dataclasses() -> None:
    assert fields() == [{}, {}]


def test_every_field_of_the_model_configuration_has_an_option() -> None:
    names = {param.name for param in probe.params}
    assert {field.name for field in dataclasses.fields(ModelConfig)} - names == set()


def test_every_sampling_parameter_has_an_option_or_is_the_models() -> None:
    by_request = {
        s.name
        for s in settings_of(SamplingParams)
        if s.name not in ModelConfig.__dataclass_fields__
    }
    unseen = {"logprobs", "post_sampling_probs", "id_slot"}
    assert by_request - {param.name for param in probe.params} == unseen


def test_every_option_sets_a_field() -> None:
    known = {
        field.name for cls in (ModelConfig, SamplingParams) for field in dataclasses.fields(cls)
    }
    assert {param.name for param in probe.params} - known == set()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-c", "512"], {"n_ctx": 512}),
        (["-ngl", "all"], {"n_gpu_layers": "all"}),
        (["-ngl", "12"], {"n_gpu_layers": 12}),
        (["--tensor-split", "3,1"], {"tensor_split": [3.0, 1.0]}),
        (["--no-mmap", "--mlock"], {"use_mmap": False, "use_mlock": True}),
        (["--no-kv-offload"], {"offload_kqv": False}),
        (["-np", "8", "--max-queue", "0"], {"n_seq_max": 8, "max_queue": 0}),
        (["--cache-type-k", "q8_0"], {"type_k": "q8_0"}),
        (["--context-policy", "drop_oldest"], {"context_policy": "drop_oldest"}),
        (["--embeddings", "--pooling", "last"], {"embeddings": True, "pooling": "last"}),
        (["--embedding"], {"embeddings": True}),
        (["--no-embeddings"], {"embeddings": False}),
        (["--chat-format", "inst"], {"chat_format": "inst"}),
        (["--experimental-infill"], {"experimental_infill": True}),
        (
            ["--lora", "a.gguf", "--lora-scaled", "b.gguf:0.5"],
            {"lora": [["a.gguf", 1.0], ["b.gguf", 0.5]]},
        ),
        (["--lora-init-without-apply"], {"lora_init_without_apply": True}),
    ],
)
def test_model_options(args: list[str], expected: dict[str, Any]) -> None:
    assert fields(*args) == [expected, {}]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--temp", "0"], {"temperature": 0.0}),
        (["-n", "5", "-s", "0"], {"max_tokens": 5, "seed": 0}),
        (["--stop", "a", "--stop", "b"], {"stop": ["a", "b"]}),
        (["--ignore-eos"], {"ignore_eos": True}),
        (["--mirostat", "2"], {"mirostat": 2}),
        (["-n", "-1", "--seed", "-1"], {"max_tokens": None, "seed": None}),
        (["--n-predict", "3"], {"max_tokens": 3}),
        (["-l", "5+1", "-l", "6-inf"], {"logit_bias": {"5": 1.0, "6": -math.inf}}),
        (["--samplers", "top_k;temperature"], {"samplers": ["top_k", "temperature"]}),
        (["--samplers", "edkypmxt"], {"samplers": "edkypmxt"}),
        (["--samplers", "top-k"], {"samplers": ["top-k"]}),
        (["-l", "5+1", "-l", "5+2"], {"logit_bias": {"5": 3.0}}),
        (["--dry-sequence-breaker", ";"], {"dry_sequence_breakers": [";"]}),
        (["--stop-token", "7"], {"stop_tokens": [7]}),
        (["--mirostat-ent", "4", "--mirostat-lr", "1"], {"mirostat_tau": 4.0, "mirostat_eta": 1.0}),
        (["--n-discard", "8"], {"n_discard": 8}),
        (["--no-cache-prompt"], {"cache_prompt": False}),
    ],
)
def test_sampling_options(args: list[str], expected: dict[str, Any]) -> None:
    assert fields(*args) == [{}, expected]


def test_grammars_and_schemas_are_read_from_files(tmp_path: Path) -> None:
    grammar, schema, lark = tmp_path / "g.gbnf", tmp_path / "s.json", tmp_path / "g.lark"
    lark.write_text('start: "a"')
    assert fields("--lark", str(lark))[1] == {"lark": 'start: "a"'}
    assert fields("--regex", "a+")[1] == {"regex": "a+"}
    grammar.write_text('root ::= "a"')
    schema.write_text('{"type": "object"}')
    assert fields("--grammar", str(grammar))[1] == {"grammar": 'root ::= "a"'}
    assert fields("--json-schema", str(schema))[1] == {"json_schema": '{"type": "object"}'}


def test_an_option_has_one_environment_variable_for_all_commands() -> None:
    assert fields(env={"CODELLAMA_CTX_SIZE": "99"})[0] == {"n_ctx": 99}
    assert fields("-c", "1", env={"CODELLAMA_CTX_SIZE": "99"})[0] == {"n_ctx": 1}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["-c", "0"],
            "'--ctx-size' (env var: 'CODELLAMA_CTX_SIZE'): --ctx-size must be a whole number from 1",
        ),
        (["-ngl", "many"], "'many' is not a number of layers, all or auto"),
        (["-ngl", "-1"], "--n-gpu-layers must be a number of layers, 'all' or 'auto'; got -1"),
        (["--tensor-split", "a,b"], "'a,b' is not a list of numbers such as 3,1"),
        (["--min-p", "-1"], "--min-p must be a number from 0 to 1; got -1.0"),
        (
            ["--top-p", "1.5"],
            "'--top-p' (env var: 'CODELLAMA_TOP_P'): --top-p must be a number from 0 to 1",
        ),
        (["-l", "the"], "'the' is not a token id and a bias such as 15043+1"),
        (["-n", "many"], "'many' is not a valid integer"),
        (["--pooling", "rank"], "'rank' is not one of 'none', 'mean', 'cls', 'last'"),
        (["--context-policy", "shift"], "'shift' is not one of 'error', 'drop_oldest'"),
        (["--grammar", "missing.gbnf"], "'missing.gbnf': No such file"),
        (["--cache-type-v", "q8_0", "--flash-attn", "off"], "needs flash attention"),
        (["--ctx-sizes", "1"], "No such option"),
    ],
)
def test_bad_values_are_bad_usage_that_names_the_option(args: list[str], message: str) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_the_help_shows_the_defaults_of_the_dataclasses() -> None:
    text = " ".join(invoke("--help").output.split())
    assert f"[default: {ModelConfig().n_batch}]" in text
    assert f"[default: {SamplingParams().temperature}]" in text
    assert "[default: mmap]" in text


def test_the_help_says_what_stays_off_and_names_options() -> None:
    text = CliRunner().invoke(probe, ["--help"], max_content_width=999, terminal_width=999).output
    assert "[default: no-context-shift]" in text
    assert "[default: as --threads]" in text
    assert "default: None" not in text


def test_the_help_groups_the_settings() -> None:
    lines = CliRunner().invoke(main, ["chat", "--help"]).output.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Options:"
    assert {"Sampling:", "Limits:", "Context:", "Devices:", "RoPE and YaRN:"} <= set(headings)
    start = lines.index("Sampling:")
    assert any("--temperature" in line for line in lines[start : lines.index("Repetition:")])


def test_no_help_speaks_of_an_option_that_the_command_lacks() -> None:
    ctx = click.Context(main, info_name="codellama")
    for name in ("chat", "complete", "infill", "serve"):
        command = main.get_command(ctx, name)
        assert command is not None
        flags = {f for p in command.params for f in (*p.opts, *p.secondary_opts)}
        told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", command.get_help(ctx)))
        assert told - flags - {"--help"} == set(), name


def test_defaults_of_a_command_stand_below_what_is_given() -> None:
    with click.Context(probe):
        assert model_config({"n_ctx": 5, "n_seq_max": None}, n_seq_max=1) == {
            "n_ctx": 5,
            "n_seq_max": 1,
        }

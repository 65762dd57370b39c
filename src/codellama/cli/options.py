"""Bundles of options that several commands share, and what they become.

`@model_options` sets fields of `ModelConfig`, `@serving_options` the fields that matter when many
requests are served at once, `@sampling_options` fields of `SamplingParams`. An option that is not
given is not passed on, so the dataclasses' defaults are the only ones. A shared option has one
environment variable for all commands (`CODELLAMA_CTX_SIZE`), besides the one per command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import IO, Any

import click

from codellama.cli import option_names
from codellama.errors import InvalidRequestError
from codellama.params import (
    CONTEXT_POLICIES,
    KV_TYPES,
    POOLING_TYPES,
    ModelConfig,
    SamplingParams,
)

Decorator = Callable[[Any], Any]

_DEFAULTS: dict[str, Any] = {
    field.name: field.default
    for cls in (ModelConfig, SamplingParams)
    for field in dataclasses.fields(cls)
}

model_argument = click.argument("model")
"""The MODEL argument: a path, a published name, or `demo`; see `resolve.resolve_model`."""

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="CODELLAMA_JSON",
    show_envvar=True,
    help="Print JSON.",
)
"""The --json of every command whose output is data."""


def layers(value: str) -> int | str:
    """A number of layers, `all` or `auto`."""
    if value in ("all", "auto"):
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of layers, all or auto") from None


def shares(value: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 3,1") from None


def adapter(value: str) -> tuple[str, float]:
    """A path, or a path and a scale after a colon."""
    path, colon, scale = value.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (value, 1.0)
    except ValueError:
        return value, 1.0


def _shared(name: str, *flags: str, help: str, default: str = "", **attributes: Any) -> Decorator:
    """An option that sets the field `name`, with an environment variable named after its flag.

    The help ends with the field's default, or with `default` where that says more.
    """
    long = next(flag for flag in flags if flag.startswith("--"))
    on, _, off = long.partition("/")
    envvar = "CODELLAMA_" + on.removeprefix("--").replace("-", "_").upper()
    value = default or _DEFAULTS[name]
    if isinstance(value, bool):
        value = (on if value else off).removeprefix("--")
    text = help if value == () else f"{help} [default: {value}]"
    return click.option(
        *flags, name, default=None, envvar=envvar, show_envvar=True, help=text, **attributes
    )


def _bundle(*options: Decorator) -> Decorator:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _read(ctx: click.Context, param: click.Parameter, file: IO[str] | None) -> str | None:
    return file.read() if file else None


model_options = _bundle(
    _shared("n_ctx", "-c", "--ctx-size", type=int,
            help="Context per request in tokens.", default="what the model was trained for"),
    _shared("n_gpu_layers", "-ngl", "--n-gpu-layers", type=layers, metavar="NUMBER|all|auto",
            help="Layers on the GPU.", default="auto, as many as fit"),
    _shared("main_gpu", "--main-gpu", type=int, help="The GPU for what is not split."),
    _shared("split_mode", "--split-mode", type=click.Choice(["none", "layer", "row"]),
            help="How several GPUs share the model."),
    _shared("tensor_split", "--tensor-split", type=shares, metavar="NUMBER,...",
            help="Share of each GPU, such as 3,1.", default="by free memory"),
    _shared("n_threads", "-t", "--threads", type=int,
            help="CPU threads for answers.", default="one per core"),
    _shared("n_threads_batch", "--threads-batch", type=int,
            help="CPU threads for prompts.", default="as --threads"),
    _shared("n_batch", "--batch-size", type=int, help="Tokens per step."),
    _shared("n_ubatch", "--ubatch-size", type=int,
            help="Tokens per llama.cpp micro-batch."),
    _shared("flash_attn", "--flash-attn", type=click.Choice(["auto", "on", "off"]),
            help="Flash attention; auto: not on a CPU with --parallel 1, else as llama.cpp."),
    _shared("type_k", "--cache-type-k", type=click.Choice(KV_TYPES),
            help="Type of the KV cache's keys."),
    _shared("type_v", "--cache-type-v", type=click.Choice(KV_TYPES),
            help="Type of the KV cache's values."),
    _shared("offload_kqv", "--kv-offload/--no-kv-offload",
            help="Keep the KV cache on the GPU."),
    _shared("use_mmap", "--mmap/--no-mmap", help="Map the file into memory."),
    _shared("use_mlock", "--mlock/--no-mlock", help="Keep the model in RAM."),
    _shared("chat_format", "--chat-format", type=click.Choice(["turn", "inst", "none"]),
            help="turn: 70B Instruct; inst: 7B to 34B Instruct.", default="from the file"),
    _shared("experimental_infill", "--experimental-infill/--no-experimental-infill",
            help="Infill with 70B base, about which Meta's pages disagree."),
    _shared("special_tags", "--special-tags", type=click.Choice(["literal", "reject"]),
            help="What control tags typed in a message are.", default="literal, plain text"),
    _shared("spec_type", "--spec-type", type=click.Choice(["auto", "none", "ngram", "draft"]),
            help="Who guesses tokens ahead; answers stay the same.",
            default="auto, n-grams and the draft model if there is one"),
    _shared("spec_draft_n_max", "--spec-draft-n-max", type=int,
            help="Longest guess in tokens; 0: none."),
    _shared("spec_draft_p_min", "--spec-draft-p-min", type=float,
            help="The draft model guesses on while it is this sure."),
    _shared("draft_model", "-md", "--model-draft", type=click.Path(),
            help="A small GGUF with the same vocabulary that guesses ahead.", default="none"),
    _shared("lora", "--lora", "--lora-scaled", multiple=True, type=adapter,
            metavar="FILE[:SCALE]", help="LoRA adapter to load; repeatable.", default="none"),
    _shared("lora_init_without_apply", "--lora-init-without-apply", is_flag=True,
            help="LoRA adapters act only on requests that name them.", default="off"),
    _shared("context_shift", "--context-shift/--no-context-shift",
            help="Go on without the older half of the text when the context is full."),
    _shared("n_keep", "--keep", type=int, default="0",
            help="Tokens at the prompt's beginning that a shift leaves; -1: all."),
    _shared("rope_scaling", "--rope-scaling", type=click.Choice(["none", "linear", "yarn"]),
            help="How positions beyond the trained context are scaled.", default="from the file"),
    _shared("rope_freq_base", "--rope-freq-base", type=float,
            help="RoPE base frequency.", default="from the file"),
    _shared("rope_freq_scale", "--rope-freq-scale", type=float,
            help="RoPE frequency factor; 0.5 doubles the context.", default="from the file"),
    _shared("yarn_orig_ctx", "--yarn-orig-ctx", type=int,
            help="YaRN: context the model was trained for.", default="from the file"),
    _shared("yarn_ext_factor", "--yarn-ext-factor", type=float,
            help="YaRN: share of extrapolation; 0: interpolate only.", default="from the file"),
    _shared("yarn_attn_factor", "--yarn-attn-factor", type=float,
            help="YaRN: factor of the attention's magnitude.", default="from the file"),
    _shared("yarn_beta_fast", "--yarn-beta-fast", type=float,
            help="YaRN: high correction dimension.", default="from the file"),
    _shared("yarn_beta_slow", "--yarn-beta-slow", type=float,
            help="YaRN: low correction dimension.", default="from the file"),
    _shared("draft_gpu_layers", "-ngld", "--n-gpu-layers-draft", type=layers,
            metavar="NUMBER|all|auto", help="Layers of the draft model on the GPU.",
            default="auto, as many as fit"),
)  # fmt: skip
"""How the model is loaded; read them with `model_config`."""

serving_options = _bundle(
    _shared("n_seq_max", "-np", "--parallel", type=int,
            help="Requests answered at once."),
    _shared("kv_cells", "--kv-cells", type=int,
            help="Tokens all requests may hold together.", default="--ctx-size times --parallel"),
    _shared("cache_ram", "--cache-ram", type=int,
            help="MiB of host memory for prompts that left the cache; 0: none.",
            default="8192, or 1/16 of the memory"),
    _shared("max_queue", "--max-queue", type=int,
            help="Requests that may wait; more are refused."),
    _shared("context_policy", "--context-policy", type=click.Choice(CONTEXT_POLICIES),
            help="What becomes of a dialog that is too long: an error, or drop its oldest turns."),
    _shared("embeddings", "--embeddings/--no-embeddings", "--embedding",
            help="Answer /v1/embeddings too; takes memory for one more context of --ctx-size."),
    _shared("pooling", "--pooling", type=click.Choice(POOLING_TYPES),
            help="How the vectors of a text's tokens become one."),
    _shared("prefill_chunk", "--prefill-chunk", type=int,
            help="Prompt tokens per step while others are answered."),
)  # fmt: skip
"""How many requests are served at once; read them with `model_config`."""

sampling_options = _bundle(
    _shared("max_tokens", "-n", "--max-tokens", type=int,
            help="Longest answer in tokens.", default="up to the end of the context"),
    _shared("temperature", "--temperature", "--temp", type=float,
            help="Randomness; 0 takes the likeliest token."),
    _shared("top_k", "--top-k", type=int, help="Draw from this many tokens; 0: all."),
    _shared("top_p", "--top-p", type=float,
            help="Draw from the likeliest tokens up to this total."),
    _shared("min_p", "--min-p", type=float,
            help="Drop tokens below this share of the likeliest one."),
    _shared("typical_p", "--typical-p", type=float,
            help="Locally typical sampling; 1 is off."),
    _shared("repeat_penalty", "--repeat-penalty", type=float,
            help="Divide the logits of recent tokens; 1 is off."),
    _shared("repeat_last_n", "--repeat-last-n", type=int,
            help="Tokens that count as recent; -1: all."),
    _shared("frequency_penalty", "--frequency-penalty", type=float,
            help="Penalty per earlier use of a token."),
    _shared("presence_penalty", "--presence-penalty", type=float,
            help="Penalty for having been used."),
    _shared("mirostat", "--mirostat", type=int, help="Mirostat 1 or 2; 0 is off."),
    _shared("seed", "-s", "--seed", type=int,
            help="Same seed, same answer.", default="random"),
    _shared("stop", "--stop", multiple=True, help="End the answer before this text; repeatable."),
    _shared("grammar", "--grammar", type=click.File("r", encoding="utf-8"), callback=_read,
            default="none", help="File with a GBNF grammar that the answer must follow."),
    _shared("json_schema", "--json-schema", type=click.File("r", encoding="utf-8"), callback=_read,
            default="none", help="File with a JSON schema that the answer must follow."),
    _shared("timeout_s", "--timeout", type=float,
            help="Seconds after which an answer ends.", default="none"),
    _shared("ignore_eos", "--ignore-eos/--no-ignore-eos",
            help="Go on after the end of the answer."),
)  # fmt: skip
"""How an answer is drawn; read them with `sampling_params`."""


def model_config(options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The fields of `ModelConfig` among a command's options, over `defaults`.

    A value out of range is a usage error (exit code 2) that names the option.
    """
    return _checked(ModelConfig, options, defaults)


def sampling_params(options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The fields of `SamplingParams` among a command's options, over `defaults`; checked alike."""
    return _checked(SamplingParams, options, defaults)


def _checked(
    cls: type[ModelConfig] | type[SamplingParams],
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    if cls is SamplingParams:  # of what both have, an option sets the model's
        names -= {field.name for field in dataclasses.fields(ModelConfig)}
    given = {name: options[name] for name in names if options.get(name) not in (None, ())}
    fields = {**defaults, **given}
    try:
        cls.of(**fields)
    except InvalidRequestError as error:
        ctx = click.get_current_context()
        param = next((p for p in ctx.command.params if p.name == error.param), None)
        text = error.spelled(option_names(ctx.command))
        raise click.BadParameter(text, ctx=ctx, param=param) from error
    return fields

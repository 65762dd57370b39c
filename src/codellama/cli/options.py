"""Options of the command line that are settings, and what they become.

Type, help and default come from the declarations in `params`; here stands only what is the command line's
own: other flags than the name, files, extra forms. `@model_options` sets what every loaded model needs,
`@chat_options`, `@infill_options` and `@serving_options` what some commands use, `@sampling_options` the
fields of `SamplingParams`. An option that is not given is not passed on, so the dataclasses' defaults are
the only ones. An option has one environment variable for all commands (`CODELLAMA_CTX_SIZE`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, cast, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from codellama.cli import spelled
from codellama.errors import InvalidRequestError
from codellama.params import ModelConfig, SamplingOptions, SamplingParams
from codellama.params.model import SERVING, Layers, Threads
from codellama.params.samplers import sampler_names
from codellama.settings import Setting, settings_of
from codellama.variants import VARIANTS

Decorator = Callable[[Any], Any]

NOT_SET = "not set"
"""What -1 stands for where llama-server means by it that there is no limit, or no seed."""


def complete_model(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """What a shell may make of the beginning of a MODEL: published names, `demo`, and files."""
    published = ("demo", *(variant.name for variant in VARIANTS))
    names = [name for name in published if name.startswith(incomplete)]
    return [*map(CompletionItem, names)] or [CompletionItem(incomplete, type="file")]


model_argument = click.argument("model", shell_complete=complete_model)
"""The MODEL argument: a path, a published name, or `demo`; see `codellama.models`."""

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="CODELLAMA_JSON",
    show_envvar=True,
    help="Print JSON.",
)
"""The --json of every command whose output is data."""


def together(*options: Decorator) -> Decorator:
    """One decorator for several options, which the help shows in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class SettingOption(click.Option):
    """An option that is a setting; `group` is its heading in the help."""

    def __init__(self, flags: Sequence[str], *, group: str, **attributes: Any) -> None:
        super().__init__(flags, **attributes)
        self.group = group


class SettingsCommand(click.Command):
    """A command whose help shows its settings under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def layers(value: str) -> int | str:
    """A number of layers, `all` or `auto`."""
    if value in ("all", "auto"):
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of layers, all or auto") from None


def threads(value: str) -> int | str:
    """A number of threads, or `auto`."""
    if value == "auto":
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of threads or auto") from None


def shares(value: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 3,1") from None


def separated(value: str) -> tuple[str, ...]:
    """Texts separated by commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def adapter(value: str) -> tuple[str, float]:
    """A path, or a path and a scale after a colon."""
    path, colon, scale = value.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (value, 1.0)
    except ValueError:
        return value, 1.0


def bias(value: str) -> tuple[int, float]:
    """A token id and what is added to its logit: 15043+1, 15043-1, or 15043-inf."""
    digits = len(value) - len(value.lstrip("0123456789"))
    try:
        if value[digits : digits + 1] not in ("+", "-"):
            raise ValueError
        return int(value[:digits]), float(value[digits:])
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a token id and a bias such as 15043+1"
        ) from None


def steps(value: str) -> str | tuple[str, ...]:
    """Names separated by semicolons or commas, or a text of letters."""
    names = tuple(name.strip() for name in value.replace(";", ",").split(","))
    try:
        sampler_names(names)
    except InvalidRequestError:
        return value if len(names) == 1 else names
    return names


def number_or_not(value: str) -> int | str:
    """A whole number, in which -1 means `NOT_SET`."""
    try:
        return NOT_SET if int(value) == -1 else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a valid integer.") from None


def _read(ctx: click.Context, param: click.Parameter, file: IO[str] | None) -> str | None:
    return file.read() if file else None


def _table(ctx: click.Context, param: click.Parameter, pairs: Any) -> dict[int, float] | None:
    biases: dict[int, float] = {}
    for token, bias in pairs:
        biases[token] = biases.get(token, 0.0) + bias
    return biases or None


FLAGS: Mapping[str, tuple[str, ...]] = {
    "n_ctx": ("-c", "--ctx-size"),
    "n_gpu_layers": ("-ngl", "--n-gpu-layers"),
    "n_threads": ("-t", "--threads"),
    "n_threads_batch": ("--threads-batch",),
    "n_batch": ("--batch-size",),
    "n_ubatch": ("--ubatch-size",),
    "type_k": ("--cache-type-k",),
    "type_v": ("--cache-type-v",),
    "offload_kqv": ("--kv-offload/--no-kv-offload",),
    "use_mmap": ("--mmap/--no-mmap",),
    "use_mlock": ("--mlock/--no-mlock",),
    "draft_model": ("-md", "--model-draft"),
    "draft_gpu_layers": ("-ngld", "--n-gpu-layers-draft"),
    "lora": ("--lora", "--lora-scaled"),
    "lora_init_without_apply": ("--lora-init-without-apply",),
    "n_keep": ("--keep",),
    "n_seq_max": ("-np", "--parallel"),
    "embeddings": ("--embeddings/--no-embeddings", "--embedding"),
    "max_tokens": ("-n", "--max-tokens", "--n-predict", "--predict"),
    "temperature": ("--temperature", "--temp"),
    "typical_p": ("--typical-p", "--typical"),
    "top_n_sigma": ("--top-n-sigma", "--top-nsigma"),
    "dry_sequence_breakers": ("--dry-sequence-breaker",),
    "mirostat_tau": ("--mirostat-tau", "--mirostat-ent"),
    "mirostat_eta": ("--mirostat-eta", "--mirostat-lr"),
    "logit_bias": ("-l", "--logit-bias"),
    "seed": ("-s", "--seed"),
    "grammar": ("--grammar", "--grammar-file"),
    "json_schema": ("--json-schema", "--json-schema-file", "-jf"),
    "lark": ("--lark", "--lark-file"),
    "stop": ("--stop", "-r", "--reverse-prompt"),
    "stop_tokens": ("--stop-token",),
    "samplers": ("--samplers",),
    "timeout_s": ("--timeout",),
}
"""Flags that are not the setting's name; the first long one names it. Most are llama-server's."""

_FILE: Mapping[str, Any] = {
    "type": click.File("r", encoding="utf-8-sig"), "callback": _read, "metavar": "FILE",
}  # fmt: skip

FORMS: Mapping[str, Mapping[str, Any]] = {
    "tensor_split": {"type": shares, "multiple": False, "metavar": "NUMBER,..."},
    "rpc": {"type": separated, "multiple": False, "metavar": "HOST:PORT,..."},
    "draft_model": {"type": click.Path()},
    "lora": {"type": adapter, "multiple": True, "metavar": "ADAPTER[:SCALE]"},
    "lora_init_without_apply": {"is_flag": True},
    "max_tokens": {"type": number_or_not, "metavar": "INTEGER"},
    "seed": {"type": number_or_not, "metavar": "INTEGER"},
    "logit_bias": {"type": bias, "multiple": True, "callback": _table, "metavar": "ID(+|-)BIAS"},
    "samplers": {"type": steps, "multiple": False, "metavar": "NAME;NAME...|LETTERS"},
    "grammar": _FILE,
    "json_schema": _FILE,
    "lark": _FILE,
}
"""Attributes of options whose form does not follow from the setting's type."""


def flags_of(setting: Setting) -> tuple[str, ...]:
    """The flags of the option that sets this, such as ("-c", "--ctx-size")."""
    name = setting.name.replace("_", "-")
    plain = f"--{name}/--no-{name}" if setting.kind is bool else f"--{name}"
    return FLAGS.get(setting.name, (plain,))


def long_flag(setting: Setting) -> str:
    """The flag by which errors, help and environment variables call a setting."""
    return next(flag for flag in flags_of(setting) if flag.startswith("--")).partition("/")[0]


def setting_option(setting: Setting) -> Decorator:
    """The option that sets `setting`, with an environment variable named after its flag."""
    on = long_flag(setting)
    envvar = "CODELLAMA_" + on.removeprefix("--").replace("-", "_").upper()
    form = {**_form(setting.kind), **FORMS.get(setting.name, {})}
    repeatable = " Repeatable." if form.get("multiple") else ""
    help = f"{setting.sentence(_spelled)}{repeatable} [default: {_default(setting)}]"
    return click.option(
        *flags_of(setting),
        setting.name,
        cls=SettingOption,
        group=setting.declaration.group,
        default=None,
        envvar=envvar,
        show_envvar=True,
        help=help,
        **form,
    )


def _form(kind: Any) -> dict[str, Any]:
    """What click is told about a type."""
    if kind is bool:
        return {}
    if kind == Layers:
        return {"type": layers, "metavar": "NUMBER|all|auto"}
    if kind == Threads:
        return {"type": threads, "metavar": "NUMBER|auto"}
    if get_origin(kind) is tuple:
        return {"type": get_args(kind)[0], "multiple": True}
    if kind in (int, float, str):
        return {"type": kind}
    return {"type": click.Choice(get_args(kind))}


def _default(setting: Setting) -> str:
    if setting.kind is bool and setting.default is not None:
        flags = flags_of(setting)[0].split("/")
        if setting.default:
            return flags[0].removeprefix("--")
        return flags[1].removeprefix("--") if len(flags) > 1 else "off"
    if isinstance(setting.default, tuple) and setting.default:
        return " ".join(map(_printable, setting.default))
    return setting.default_text(_spelled) or "none"


def _printable(text: object) -> str:
    return str(text) if str(text).isprintable() else repr(text)


def _spelled(name: str) -> str:
    return long_flag(COMMAND_LINE[name])


def _bundle(*settings: Setting) -> Decorator:
    return together(*map(setting_option, settings))


_MODEL = {s.name: s for s in settings_of(ModelConfig)}
_SAMPLING = {s.name: s for s in settings_of(SamplingParams) if "command line" in s.faces}
COMMAND_LINE = {**_SAMPLING, **_MODEL}
"""The settings that have an option, by name; what both a request and a model have is the model's."""
_CHAT = [_MODEL[name] for name in ("chat_format", "context_policy", "special_tags")]
_INFILL = [_MODEL[name] for name in ("special_tags", "experimental_infill")]
_SERVING = [s for s in _MODEL.values() if s.declaration.group == SERVING]
_ALWAYS = [s for s in _MODEL.values() if s not in (*_CHAT, *_INFILL, *_SERVING)]

model_options = _bundle(*_ALWAYS)
"""How a model is loaded, whatever for; read them with `model_config`."""

running_options = _bundle(
    *(
        _MODEL[name]
        for name in (
            "n_ctx", "beyond_training", "n_seq_max", "kv_cells", "n_gpu_layers", "tensor_split",
            "split_mode", "main_gpu", "offload_kqv", "type_k", "type_v", "n_batch", "n_ubatch",
            "flash_attn", "use_mmap", "use_mlock", "repack", "embeddings", "rpc",
        )
    )
)  # fmt: skip
"""What decides how much memory a model takes and where; read them with `model_config`."""

measuring_options = _bundle(
    *(
        _MODEL[name]
        for name in (
            "n_gpu_layers", "tensor_split", "split_mode", "main_gpu", "rpc", "offload_kqv", "type_k",
            "type_v", "flash_attn", "use_mmap", "repack",
        )
    )
)  # fmt: skip
"""What decides how fast a model is, besides sizes and threads; read them with `model_config`."""

chat_options = _bundle(*_CHAT)
"""How dialogs are written; read them with `model_config`."""

infill_options = _bundle(*_INFILL)
"""What matters to infilling alone; read them with `model_config`."""

serving_options = _bundle(*_SERVING, *dict.fromkeys((*_CHAT, *_INFILL)))
"""What matters when all kinds of requests are served at once; read them with `model_config`."""

sampling_options = _bundle(*_SAMPLING.values())
"""How an answer is drawn; read them with `sampling_params`."""


def model_config(options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The fields of `ModelConfig` among a command's options, over `defaults`.

    A value out of range is a usage error (exit code 2) that names the option.
    """
    return _checked(ModelConfig, {**defaults, **_given(_MODEL, options)})


def sampling_params(options: Mapping[str, Any]) -> SamplingOptions:
    """The fields of `SamplingParams` among a command's options, checked alike."""
    return cast(SamplingOptions, _checked(SamplingParams, _given(_SAMPLING, options)))


def _given(names: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: options[name] for name in names if options.get(name) not in (None, ())}
    return {name: None if value is NOT_SET else value for name, value in given.items()}


def _checked(
    cls: type[ModelConfig] | type[SamplingParams], fields: dict[str, Any]
) -> dict[str, Any]:
    try:
        cls.of(**fields)
    except InvalidRequestError as error:
        ctx = click.get_current_context()
        param = next((p for p in ctx.command.params if p.name == error.param), None)
        raise click.BadParameter(spelled(error), ctx=ctx, param=param) from error
    return fields

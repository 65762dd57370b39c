"""`codellama convert`: a Hugging Face checkpoint to GGUFs of any type, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from codellama.cli.options import adapter, json_option
from codellama.cli.outputs import (
    hub_options,
    output_option,
    output_options,
    print_reports,
    quant_options,
    quantizer_options,
    source_name,
    type_option,
    writing,
)
from codellama.errors import ConversionError

if TYPE_CHECKING:
    from codellama.weights.convert import Report


@click.command("convert")
@click.argument("source")
@type_option(default="BF16")
@output_option()
@output_options
@hub_options
@quant_options
@click.option(
    "--merge",
    type=adapter,
    multiple=True,
    metavar="ADAPTER[:SCALE]",
    show_envvar=True,
    help="Merge this PEFT adapter, a folder, into the weights on the way; repeatable.",
)
@click.option(
    "--base",
    metavar="MODEL",
    show_envvar=True,
    help="Where SOURCE is an adapter: the model it belongs to, a GGUF, a checkpoint's folder or a "
    "repository. [default: what adapter_config.json names]",
)
@json_option
def command(
    source: str, types: tuple[str, ...], output: Path, as_json: bool, **options: Any
) -> None:
    """Convert the checkpoint SOURCE to a GGUF, quantized on the way.

    SOURCE is a folder with config.json, tokenizer.model or tokenizer.json, and safetensors files, as
    downloaded from Hugging Face or saved by transformers; or the name of a repository there, such as
    codellama/CodeLlama-70b-Instruct-hf.
    Meta's own download (params.json, consolidated.00.pth ...) and pytorch_model.bin files are read too;
    no code in them is run. A folder with a PEFT adapter becomes a LoRA GGUF, of F32 unless --type says
    F16, BF16 or Q8_0.

    Of a repository one shard is fetched while the one before is quantized, checked, and deleted
    after use; HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are respected.

    The result is byte for byte what llama.cpp's converter and quantizer make together, but no file
    in between is written and only some megabytes are held in memory. Interrupted, the same command
    goes on where it was.
    """
    run(source, types, output, as_json=as_json, options=options)


def run(
    source: str,
    types: Sequence[str],
    output: Path,
    *,
    as_json: bool,
    options: dict[str, Any],
) -> Sequence[Report]:
    """Convert, with the `options` of `output_options`, `hub_options` and `quant_options`; what was made."""
    from codellama.weights.convert import RunSettings, convert_to
    from codellama.weights.folders import is_adapter
    from codellama.weights.naming import output_paths

    base = options.pop("base", None)
    if is_adapter(Path(source)):
        _convert_adapter(source, types, output, as_json=as_json, base=base, options=options)
        return ()
    if base is not None:
        raise ConversionError(f"{source}: is a model and no adapter", "leave out {base}")
    own = {name: options.pop(name) for name in RunSettings.names() if name in options}
    name = source_name(source)
    outputs = output_paths(output, name, types)
    with writing(f"{name} to {', '.join(types)}", outputs) as bars:
        settings = RunSettings(**own, **bars, options=quantizer_options(options))
        reports = convert_to(source, outputs, settings)
    print_reports(reports, as_json=as_json)
    return reports


def _convert_adapter(
    source: str,
    types: Sequence[str],
    output: Path,
    *,
    as_json: bool,
    base: str | None,
    options: dict[str, Any],
) -> None:
    from codellama.weights.adapter_gguf import TYPES, convert_adapter
    from codellama.weights.naming import output_paths

    context = click.get_current_context()
    for name in (
        "merge",
        "split_bytes",
        "imatrix",
        "output_type",
        "embedding_type",
        "tensor_types",
    ):
        if options.get(name):
            raise ConversionError(f"{source}: is an adapter", f"leave out {{{name}}}")
    if context.get_parameter_source("types") is ParameterSource.DEFAULT:
        types = TYPES[:1]
    path = Path(source)
    name = source_name(str(path.parent if path.suffix else path))
    reports = [
        convert_adapter(source, where, kind, base=base, force=options["force"])
        for kind, where in output_paths(output, name, types).items()
    ]
    print_reports(reports, as_json=as_json)

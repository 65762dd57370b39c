"""`codellama inspect`: what a GGUF file is, from its header alone; no weights are read."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.loading import model_file
from codellama.cli.options import json_option, model_argument
from codellama.cli.outlooks import file_verdict
from codellama.prompts.prompts import chat_format_name, corrections
from codellama.variants import Variant, recognise

if TYPE_CHECKING:
    from codellama.devices.plan import LoadPlan
    from codellama.files.gguf_header import GGUFHeader, TensorInfo


@click.command("inspect")
@model_argument
@json_option
def command(model: str, as_json: bool) -> None:
    """Show what the file of MODEL is; of a split one, name the first file.

    Model, chat format, stops, context and tensors by type are read from the header alone. Then comes how
    `serve` would load it on this machine without further options: context, layers by device, memory.
    """
    from codellama.files.identify import by_metadata
    from codellama.files.split import read_parts

    file = model_file(model)
    parts = read_parts(file)
    if parts[0].metadata.get("general.type") == "adapter":
        _show_adapter(parts[0], as_json=as_json)
        return
    other = by_metadata(file, parts[0].metadata)
    if other is not None:
        raise other
    facts = describe(parts)
    plan, problem = _load_plan(file)
    if plan is not None:
        facts["stops"] = _stops_when_loaded(file, parts[0].metadata["tokenizer.ggml.tokens"])
    if as_json:
        if plan is not None:
            facts["would_load_as"] = plan.to_json()
        click.echo(json.dumps(facts, indent=2))
        return
    types = facts.pop("types")
    for name, value in facts.items():
        text = _size(value) if name.endswith("bytes") else _text(value)
        click.echo(f"{name.replace('_', ' '):<14} {text}")
    click.echo("tensors by type")
    for name, row in types.items():
        click.echo(f"  {name:<8} {row['tensors']:>5} tensors {_size(row['bytes']):>12}")
    if plan is None:
        click.echo(f"would not load: {_printable(problem)}")
        return
    click.echo("would load as")
    click.echo(textwrap.indent(str(plan), "  "))
    click.echo(f"here it {file_verdict(file)}")


def _show_adapter(header: GGUFHeader, *, as_json: bool) -> None:
    """What an adapter is and how it is used; an error if nothing here would load it."""
    from codellama.files.loadable import check_adapter

    check_adapter(header.path)
    facts = describe_adapter(header)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        text = _size(value) if name.endswith("bytes") else _text(value)
        click.echo(f"{name.replace('_', ' '):<14} {text}")
    click.echo(f"used with      its model: codellama chat MODEL --lora {header.path}")


def describe_adapter(header: GGUFHeader) -> dict[str, Any]:
    """The facts of a LoRA adapter as a JSON document: `rank` by tensor's first matrix, sizes in bytes."""
    metadata = header.metadata
    halves = [tensor for tensor in header.tensors if tensor.name.endswith(".lora_b")]
    return {
        "file": str(header.path),
        "kind": "LoRA adapter",
        "file_bytes": header.path.stat().st_size,
        "name": metadata.get("general.name"),
        "architecture": metadata.get("general.architecture"),
        "alpha": metadata.get("adapter.lora.alpha"),
        "rank": max((tensor.shape[0] for tensor in halves), default=None),
        "task": metadata.get("adapter.lora.task_name"),
        "prompt_prefix": metadata.get("adapter.lora.prompt_prefix"),
        "adapted": len(halves),
        "tensors": len(header.tensors),
    }


def _load_plan(file: Path) -> tuple[LoadPlan | None, str]:
    """How `serve` would load the file by default; or None, and why nothing here would load it."""
    from codellama.devices.machine import this_machine
    from codellama.devices.planner import plan_load
    from codellama.errors import ModelLoadError
    from codellama.files.loadable import read_model
    from codellama.params import ModelConfig

    try:
        header = read_model(file)
    except ModelLoadError as error:
        return None, str(error)
    return plan_load(header, ModelConfig(), this_machine()), ""


def describe(parts: Sequence[GGUFHeader]) -> dict[str, Any]:
    """The facts of a GGUF as a JSON document: names, token ids, counts, sizes in bytes."""
    metadata = parts[0].metadata
    stored = [tensor for part in parts for tensor in part.tensors]
    from codellama.files.cut_file import pieces_of
    from codellama.files.lost_scores import scores_are_lost

    variant = recognise(metadata)
    arch = metadata.get("general.architecture", "")
    tokens = metadata.get("tokenizer.ggml.tokens") or []

    def number(name: str) -> int | float | None:
        value = metadata.get(f"{arch}.{name}")
        return value if isinstance(value, (int, float)) else None

    return {
        "file": str(parts[0].path),
        "files": len(parts),
        "file_bytes": sum(pieces_of(part.path)[-1].end for part in parts),
        "model": variant.name if variant else None,
        "name": metadata.get("general.name"),
        "architecture": arch,
        "chat_format": chat_format_name(metadata, variant),
        "infill": variant.infill if variant else "unknown",
        "stops": _stops({**metadata, **corrections(metadata, variant)}, variant, tokens),
        "context": variant.n_ctx if variant else number("context_length"),
        "file_context": number("context_length"),
        "rope_base": number("rope.freq_base"),
        "layers": number("block_count"),
        "vocabulary": len(tokens),
        **({"scores": "lost"} if scores_are_lost(metadata) else {}),
        "template": "tokenizer.chat_template" in metadata,
        "tensors": len(stored),
        "tensor_bytes": sum(tensor.nbytes for tensor in stored),
        "types": _by_type(stored),
    }


def _stops(
    metadata: dict[str, Any], variant: Variant | None, tokens: list[str]
) -> list[dict[str, Any]]:
    """The ids that end an answer: those of the model, and those the file names when it is loaded."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    ids = {metadata[key] for key in keys if key in metadata}
    ids |= set(variant.eos_ids) if variant else set()
    return [{"id": i, "token": tokens[i] if i < len(tokens) else None} for i in sorted(ids)]


def _stops_when_loaded(file: Path, tokens: list[str]) -> list[dict[str, Any]]:
    """The ids that will end an answer: llama.cpp also knows some by their text."""
    from codellama.cli.vocabulary import load_vocabulary

    with load_vocabulary(file) as (_, tokenizer):
        return [{"id": i, "token": tokens[i]} for i in sorted(tokenizer.eog_tokens)]


def _by_type(tensors: Iterable[TensorInfo]) -> dict[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.type_name] += 1
        sizes[tensor.type_name] += tensor.nbytes
    return {name: {"tensors": counts[name], "bytes": size} for name, size in sizes.most_common()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{stop['id']} {_printable(stop['token'])}" for stop in value) or "none"
    return "unknown" if value is None else _printable(str(value))


def _printable(text: str | None) -> str:
    """A text from the file; what a terminal would obey is shown escaped."""
    return str(text) if text is None or text.isprintable() else repr(text)


def _size(nbytes: int) -> str:
    """A size for people, in decimal units."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"

"""`codellama models`: the published models, what each can do, and which files are on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from codellama.cli.options import json_option
from codellama.models import (
    DEMO,
    LocalModel,
    StoredModel,
    has_demo,
    local_models,
    models_folders,
    stored_models,
    usable,
)
from codellama.variants import VARIANTS, ChatFormatName

_CHAT: Mapping[ChatFormatName, str] = {"turn": "turns", "inst": "[INST]", "none": "no"}


@click.command("models")
@json_option
def command(as_json: bool) -> None:
    """List the published models and which files are here.

    Commands take the names in the first column, and those of the files: in the models folder, in the
    cache of the Hugging Face hub, and what Ollama, LM Studio and llama.cpp have.
    """
    local = local_models()
    if as_json:
        click.echo(json.dumps(_document(local), indent=2))
        return
    header, *rows = _lines(local)
    click.secho(header, bold=True)
    click.echo("\n".join(rows))
    folders = ", ".join(str(folder) for folder in models_folders()) or "no models folder"
    click.secho(f"Looked in {folders}; CODELLAMA_MODELS names another folder.", dim=True)
    if has_demo():
        click.echo(f"Also here: {DEMO}, a toy model that is converted when it is first used")
    for model in local:
        if model.variant is None:
            click.echo(f"Also here: {model.path}")
    _tell_stored()
    click.echo(_verdict())


def _tell_stored() -> None:
    for stored, model in _stored():
        what = f"{model.nbytes / 1e9:.1f} GB, {stored.store}"
        click.echo(f"Also here: {stored.name} ({what})")


def _verdict() -> str:
    """What the main memory can run, by sizes: the best of the usual types of each size."""
    from codellama.devices.host_memory import host_memory
    from codellama.devices.type_sizes import largest_type

    room = host_memory().available
    best = {v.shape.size: largest_type(v, room) for v in VARIANTS if v.kind == "instruct"}
    parts = [f"{size} up to {name}" if name else f"{size} not" for size, name in best.items()]
    return (
        f"In the {room / 2**30:.1f} GiB of main memory that are free: {', '.join(parts)}; "
        "codellama plan NAME counts GPUs too"
    )


def _stored() -> list[tuple[StoredModel, LocalModel]]:
    """The models of other programs that can be used."""
    pairs = [(stored, usable(stored.path)) for stored in stored_models()]
    return [(stored, model) for stored, model in pairs if model is not None]


def _document(local: list[LocalModel]) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": v.name,
                "repo": v.repo,
                "parameters": v.parameters,
                "vocab_size": v.vocab_size,
                "n_ctx": v.n_ctx,
                "rope_theta": v.rope_theta,
                "chat_format": v.chat_format,
                "infill": v.infill,
                "bf16_bytes": v.bf16_bytes,
                "remark": v.remark,
                "files": [_file(model) for model in local if model.variant == v],
            }
            for v in VARIANTS
        ],
        "demo": has_demo(),
        "other_files": [_file(model) for model in local if model.variant is None],
        "stored": [
            {
                "name": stored.name,
                "store": stored.store,
                "model": model.variant.name if model.variant else None,
                **_file(model),
            }
            for stored, model in _stored()
        ],
    }


def _file(model: LocalModel) -> dict[str, Any]:
    return {"path": str(model.path), "bytes": model.nbytes}


def _lines(local: list[LocalModel]) -> Iterator[str]:
    """The table: every row on one line, however long, so that it can be copied and searched."""
    yield _line("name", "chat", "infill", "context", "parameters", "bf16", "files here")
    for variant in VARIANTS:
        files = [model for model in local if model.variant == variant]
        first, *others = [f"{m.path.name} ({m.nbytes / 1e9:.1f} GB)" for m in files] or [""]
        yield _line(
            variant.name,
            _CHAT[variant.chat_format],
            variant.infill,
            str(variant.n_ctx),
            f"{variant.parameters / 1e9:.1f} B",
            f"{variant.bf16_bytes / 1e9:.1f} GB",
            first,
        )
        yield from (_line("", "", "", "", "", "", other) for other in others)


def _line(name: str, chat: str, infill: str, context: str, size: str, bf16: str, file: str) -> str:
    line = f"{name:<13} {chat:<6} {infill:<12} {context:>7} {size:>10} {bf16:>8}  {file}"
    return line.rstrip()

"""`codellama models`: the published models, what each can do, and which files of them are here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from codellama.cli.options import json_option
from codellama.cli.resolve import LocalModel, local_models, models_folders
from codellama.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from rich.table import Table


@click.command("models")
@json_option
def command(as_json: bool) -> None:
    """List the published models and which files are here."""
    local = local_models()
    if as_json:
        click.echo(json.dumps(_document(local), indent=2))
        return
    from rich.console import Console

    console = Console()
    console.print(_table(local))
    folders = ", ".join(str(folder) for folder in models_folders()) or "no models folder"
    note = f"Looked in {folders}; CODELLAMA_MODELS names another folder."
    console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)
    others = [model for model in local if model.variant is None]
    for model in others:
        console.print(f"Also here: {model.path}", highlight=False, markup=False, soft_wrap=True)


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
        "other_files": [_file(model) for model in local if model.variant is None],
    }


def _file(model: LocalModel) -> dict[str, Any]:
    return {"path": str(model.path), "bytes": model.nbytes}


def _table(local: list[LocalModel]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "chat", "infill"):
        table.add_column(name, no_wrap=True)
    for name in ("context", "parameters", "bf16"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("files here", overflow="fold")
    for variant in VARIANTS:
        table.add_row(*_row(variant, [model for model in local if model.variant == variant]))
    return table


def _row(variant: Variant, files: list[LocalModel]) -> tuple[str, ...]:
    return (
        variant.name,
        {"turn": "turns", "inst": "[INST]", "none": "no"}[variant.chat_format].replace("[", r"\["),
        variant.infill,
        f"{variant.n_ctx}",
        f"{variant.parameters / 1e9:.1f} B",
        f"{variant.bf16_bytes / 1e9:.1f} GB",
        "\n".join(f"{model.path.name} ({model.nbytes / 1e9:.1f} GB)" for model in files),
    )

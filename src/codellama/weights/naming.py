"""What output files are called. Pure, but for looks at what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codellama.errors import ConversionError
from codellama.files.split import unsplit_name
from codellama.native.ggml import file_types

TYPE = "{type}"
NAME = "{name}"


def output_paths(output: Path, source_name: str, types: Sequence[str]) -> dict[str, Path]:
    """The file for each type.

    `output` is the file itself; or a name with `{type}`, and `{name}` for that of the source, in it;
    or a folder, where files are called `{name}.{type}.gguf`.

    Raises:
        ConversionError: several types and one file, a type named twice, or no such folder.
    """
    if len(set(types)) < len(types):
        raise ConversionError(f"a type is named twice: {', '.join(types)}")
    if output.is_dir():
        output = output / f"{NAME}.{TYPE}.gguf"
    if len(types) > 1 and TYPE not in str(output):
        raise ConversionError(
            f"{output}: {len(types)} types need a file each: name a folder that exists, or put "
            f"{TYPE} into the file name"
        )
    name = model_name(source_name)
    paths = {kind: Path(str(output).replace(TYPE, kind).replace(NAME, name)) for kind in types}
    for path in paths.values():
        check_folder(path)
    return paths


def check_folder(output: Path) -> None:
    """Raise ConversionError if there is no folder to write `output` to."""
    if not output.absolute().parent.is_dir():
        raise ConversionError(f"{output.parent}: no such folder to write to")


def check_absent(output: Path) -> None:
    """Raise ConversionError if there is something called `output` already."""
    if output.exists():
        raise ConversionError(f"{output}: exists already", "choose another name or pass {force}")


def model_name(source_name: str) -> str:
    """The name of a model without the ending and the type that a file of it has in its name."""
    stem = unsplit_name(source_name).removesuffix(".gguf")
    base, dot, last = stem.rpartition(".")
    return base if dot and last.upper() in file_types() else stem

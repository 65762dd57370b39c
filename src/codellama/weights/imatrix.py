"""Collects an importance matrix: which columns of each matrix matter how much over some text.

The text is cut into chunks that are decoded one after the other, each from an empty context; for every
matrix of a layer the squares of what it is multiplied with are summed. What and how is counted is that of
llama-imatrix (tools/imatrix of llama.cpp), so is the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codellama.errors import ConversionError, ModelLoadError
from codellama.files.gguf_header import (
    TensorInfo,
    Value,
    ValueType,
    encode_header,
    read_gguf_header,
)
from codellama.files.imatrix_file import CHUNK_COUNT, CHUNK_SIZE, COUNTS, DATASETS, SUMS
from codellama.files.loadable import read_model
from codellama.files.lost_scores import mended_vocabulary
from codellama.native.activations import Activations, load_model
from codellama.native.arrays import Floats
from codellama.params import Progress
from codellama.weights.naming import check_absent, check_folder

CHUNK_TOKENS = 512
SAVE_EVERY = 10

_IDENTITY = "codellama.imatrix.identity"
_PADDING = 32


@dataclass
class Sums:
    """What has been counted: sums of squares by matrix, how many rows, how many chunks."""

    squares: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    n_chunks: int = 0

    def add(self, name: str, rows: Floats) -> None:
        """Count `rows` (tokens by columns) that matrix `name` was multiplied with."""
        squares = np.einsum("ij,ij->j", rows, rows)
        if not np.isfinite(squares).all():
            raise ConversionError(f"what {name} is multiplied with is not finite")
        if name not in self.squares:
            self.squares[name] = np.zeros(rows.shape[1])
            self.rows[name] = 0
        self.squares[name] += squares
        self.rows[name] += rows.shape[0]


def collect_imatrix(
    model: Path,
    text: Path,
    output: Path,
    *,
    n_chunks: int | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    threads: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Sums:
    """Collect over the first `n_chunks` chunks (default: all) of `text` and write `output`.

    Every few chunks what there is goes to `<output>.part`; interrupted, the same call goes on there.
    `progress` is called with the chunks done and in all.

    Raises:
        ModelLoadError, ConversionError: the model, the text or the output is at fault.
    """
    if not force:
        check_absent(output)
    check_folder(output)
    content = read_text(text)
    part = output.with_name(output.name + ".part")
    header = read_model(model)
    with mended_vocabulary(header) as vocabulary:
        loading = load_model(model, vocabulary)
    with loading as loaded:
        tokenizer = loaded.tokenizer
        tokens = tokenizer.encode(content, add_bos=tokenizer.add_bos)
        chunks = list(
            text_chunks(tokens, chunk_tokens, tokenizer.bos if tokenizer.add_bos else None)
        )
        if not chunks:
            raise ConversionError(
                f"{text}: {len(tokens)} tokens are less than a chunk of {chunk_tokens}: take a longer text"
            )
        chunks = chunks[:n_chunks]
        identity = _identity(model, tokens, chunk_tokens)
        sums = _continued(part, identity)
        with Activations(loaded, chunk_tokens, threads, sums.add) as activations:
            for chunk in chunks[sums.n_chunks :]:
                activations.run(chunk)
                sums.n_chunks += 1
                if sums.n_chunks % SAVE_EVERY == 0:
                    _write(part, sums, text.name, chunk_tokens, identity)
                if progress:
                    progress(sums.n_chunks, len(chunks))
    _write(output, sums, text.name, chunk_tokens)
    part.unlink(missing_ok=True)
    return sums


def read_text(path: Path) -> str:
    """The text of a file. Raises ConversionError if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path}: is not UTF-8 text") from error


def text_chunks(tokens: Sequence[int], size: int, bos: int | None) -> Iterator[list[int]]:
    """Whole chunks; the first token of each gives way to the beginning of a text."""
    for begin in range(0, len(tokens) - size + 1, size):
        chunk = list(tokens[begin : begin + size])
        if bos is not None:
            chunk[0] = bos
        yield chunk


def _identity(model: Path, tokens: Sequence[int], chunk_tokens: int) -> str:
    """What has to be the same for an earlier run to be continued."""
    state = model.stat()
    digest = hashlib.sha256(np.asarray(tokens, "<i4").tobytes())
    digest.update(f"{model.name} {state.st_size} {state.st_mtime_ns} {chunk_tokens}".encode())
    return digest.hexdigest()


def _continued(part: Path, identity: str) -> Sums:
    """What an earlier run of the same thing left, or nothing."""
    if not part.is_file():
        return Sums()
    try:
        header = read_gguf_header(part)
    except ModelLoadError:
        return Sums()
    n_chunks = header.metadata.get(CHUNK_COUNT)
    if header.metadata.get(_IDENTITY) != identity or type(n_chunks) is not int:
        return Sums()
    sums = Sums(n_chunks=n_chunks)
    data = part.read_bytes()
    for tensor in header.tensors:
        values = np.frombuffer(data, "<f4", tensor.nbytes // 4, tensor.offset)
        if tensor.name.endswith(SUMS):
            sums.squares[tensor.name.removesuffix(SUMS)] = values.astype(np.float64)
        else:
            sums.rows[tensor.name.removesuffix(COUNTS)] = int(values[0])
    return sums


def _write(path: Path, sums: Sums, dataset: str, chunk_tokens: int, identity: str = "") -> None:
    """The file of llama-imatrix, in one piece or not at all."""
    values = {
        "general.type": Value(ValueType.STRING, "imatrix"),
        DATASETS: Value(ValueType.ARRAY, [dataset], ValueType.STRING),
        CHUNK_COUNT: Value(ValueType.UINT32, sums.n_chunks),
        CHUNK_SIZE: Value(ValueType.UINT32, chunk_tokens),
    }
    if identity:
        values[_IDENTITY] = Value(ValueType.STRING, identity)
    arrays = {}
    for name in sorted(sums.squares):
        arrays[name + SUMS] = sums.squares[name].astype("<f4")
        arrays[name + COUNTS] = np.array([sums.rows[name]], "<f4")
    infos = [TensorInfo(name, (a.size,), "F32", 0, a.nbytes) for name, a in arrays.items()]
    scratch = path.with_name(path.name + ".new")
    try:
        with scratch.open("wb") as file:
            file.write(encode_header(values, infos))
            for array in arrays.values():
                file.write(array.tobytes() + bytes(-array.nbytes % _PADDING))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise ConversionError(f"{path}: cannot be written: {error.strerror}") from error

"""A GGUF as a source of tensors: one file, gguf-split's parts, or a file that was cut by bytes.

A vocabulary that has lost its scores gets them back if it is Llama's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from codellama.errors import ConversionError, ModelLoadError
from codellama.files.cut_file import Piece, pieces_of, whole_name
from codellama.files.gguf_header import GGUFHeader, Value
from codellama.files.identify import by_metadata, recognised
from codellama.files.loadable import check_hyperparameters
from codellama.files.lost_scores import MENDED, check_mendable, mended, scores_are_lost
from codellama.files.provenance import SOURCE, source_keys
from codellama.files.small_files import shown
from codellama.files.split import KEYS as SPLIT_KEYS
from codellama.files.split import read_parts
from codellama.native.arrays import Bytes
from codellama.native.ggml import tensor_type
from codellama.weights.source import Source, SourceTensor, local_identity

logger = logging.getLogger(__name__)


def open_gguf(path: Path) -> Source:
    """A GGUF of the Llama architecture as a source; `path` is its first file if it is split.

    Raises:
        ModelLoadError: not a GGUF, damaged, truncated, or a part is missing; its vocabulary has lost its
            scores and is not Llama's.
        ConversionError: the file holds no weights, or another architecture.
    """
    if path.is_dir():
        raise recognised(path, ModelLoadError) or ModelLoadError(
            f"{path}: is a folder, not a GGUF file; use convert for a checkpoint"
        )
    parts = read_parts(path)
    other = by_metadata(path, parts[0].metadata)
    if other is not None:
        raise other
    architecture = parts[0].metadata.get("general.architecture")
    if architecture != "llama":
        raise ConversionError(
            f"{path}: unknown architecture {shown(architecture)}: only llama is supported"
        )
    tensors = [tensor for part in parts for tensor in _gguf_tensors(part)]
    if not tensors:
        raise ConversionError(f"{path}: holds a vocabulary only, there are no weights to quantize")
    check_hyperparameters(parts[0])  # llama.cpp's quantizer asserts them too
    metadata = {key: value for key, value in parts[0].values.items() if key not in SPLIT_KEYS}
    if scores_are_lost(parts[0].metadata):
        check_mendable(parts[0])
        metadata = mended(metadata, _rows(tensors))
        logger.warning("%s: %s", path, MENDED)
    pieces = pieces_of(path)
    if len(pieces) > 1:
        return JoinedSource(path, metadata, tensors, pieces)
    return Source(path, metadata, tensors, verbatim=True)


def _rows(tensors: Sequence[SourceTensor]) -> int:
    """Rows of the embedding: more tokens than that cannot be told apart."""
    embedding = next((t for t in tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise ConversionError(f"{tensors[0].path}: there is no tensor 'token_embd.weight'")
    return embedding.rows


def _gguf_tensors(header: GGUFHeader) -> list[SourceTensor]:
    return [
        SourceTensor(
            info.name, info.shape[::-1], tensor_type(info.type_name), header.path, info.offset
        )
        for info in header.tensors
    ]


class JoinedSource(Source):
    """All tensors lie in one file, `path`, which is there in `pieces`."""

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Value],
        tensors: Sequence[SourceTensor],
        pieces: Sequence[Piece],
    ) -> None:
        identity = local_identity(path, [piece.path for piece in pieces])
        super().__init__(path, metadata, tensors, verbatim=True, identity=identity)
        self._pieces = pieces

    @property
    def provenance(self) -> dict[str, Value]:
        known = super().provenance
        return known if SOURCE in self.metadata else source_keys(whole_name(self.path))

    def read(self, tensor: SourceTensor, first_row: int, out: Bytes) -> None:
        position = tensor.offset + first_row * tensor.row_bytes
        flat = out.reshape(-1)
        for piece in self._pieces:
            begin = max(position, piece.begin)
            end = min(position + flat.nbytes, piece.end)
            if begin < end:
                part = flat[begin - position : end - position]
                self._read_at(piece.path, begin - piece.begin, part, tensor.name)

    def release(self, path: Path) -> None:
        for piece in self._pieces:
            super().release(piece.path)

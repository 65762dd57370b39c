#!/usr/bin/env python3
"""Write a Llama GGUF of random weights: as fast as a trained model of its shape, and as big.

    make_random_model.py --size 100m -o random-100m.Q4_K_M.gguf
    make_random_model.py --size 1.1b --type Q8_0 --vocab ggml-vocab-llama-spm.gguf -o OUT.gguf

The shapes follow Code Llama's rules: grouped-query attention, rows of multiples of 256 values, 32016
pieces, untied embeddings. The pieces are made up unless --vocab names a GGUF to take them from. The same
options give the same bytes.
"""

from __future__ import annotations

import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import gguf
    import numpy as np
    import numpy.typing as npt

N_VOCAB = 32016
N_CTX = 16384
STEP = "<step>"
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6
SLAB = 2**22  # weights drawn at once
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Shape:
    """The numbers a Llama is made of."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int = N_VOCAB

    @property
    def parameters(self) -> int:
        """Weights in all."""
        return sum(rows * columns for _, rows, columns in matrices(self)) + self.hidden * (
            2 * self.layers + 1
        )


SHAPES = {
    "100m": Shape(hidden=768, ffn=2048, layers=8, heads=12, kv_heads=4),
    "1.1b": Shape(hidden=2048, ffn=5632, layers=22, heads=32, kv_heads=4),
}


@dataclass(frozen=True)
class Pieces:
    """A vocabulary: texts, scores and types by id."""

    texts: list[str]
    scores: list[float]
    types: list[int]

    @property
    def of_tokenizer(self) -> list[tuple[str, float, int]]:
        """Text, score and type of all but the last: `<step>` is an added token of checkpoints."""
        return list(zip(self.texts, self.scores, self.types, strict=True))[:-1]


def matrices(shape: Shape) -> list[tuple[str, int, int]]:
    """Name, rows and columns of every matrix."""
    hidden, ffn = shape.hidden, shape.ffn
    kv = hidden // shape.heads * shape.kv_heads
    found = [("token_embd.weight", shape.vocab, hidden), ("output.weight", shape.vocab, hidden)]
    for i in range(shape.layers):
        block = [("attn_q", hidden, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden)]
        block += [("attn_output", hidden, hidden), ("ffn_gate", ffn, hidden)]
        block += [("ffn_up", ffn, hidden), ("ffn_down", hidden, ffn)]
        found += [(f"blk.{i}.{name}.weight", rows, columns) for name, rows, columns in block]
    return found


def made_up(size: int = N_VOCAB) -> Pieces:
    """Control pieces, bytes, ASCII, and runs of one to three letters, each reachable by merges.

    A longer piece is one letter more than a shorter one, with and without the space before a word.
    """
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    texts += [chr(i) for i in range(0x21, 0x7F)]
    runs = [""]
    for _ in range(3):
        runs = [run + letter for run in runs for letter in LETTERS]
        texts += [run for run in runs if len(run) > 1]
        texts += ["▁" + run for run in runs]
    del texts[size - 1 :]
    types += [NORMAL] * (len(texts) - len(types))
    return _completed(texts, [-float(max(0, i - 259)) for i in range(len(texts))], types, size)


def pieces_of(vocabulary: Path, size: int = N_VOCAB) -> Pieces:
    """The pieces of a GGUF, cut or filled up to `size`. Raises ClickException if it has none."""
    from codellama.errors import CodeLlamaError
    from codellama.files.gguf_header import read_gguf_header

    try:
        metadata = read_gguf_header(vocabulary).metadata
    except CodeLlamaError as error:
        raise click.ClickException(str(error)) from error
    prefix = "tokenizer.ggml."
    if metadata.get(f"{prefix}model") != "llama":
        raise click.ClickException(f"{vocabulary}: holds no SentencePiece vocabulary")
    texts = [str(text) for text in metadata[f"{prefix}tokens"]][: size - 1]
    scores = [float(score) for score in metadata[f"{prefix}scores"]][: size - 1]
    types = [int(kind) for kind in metadata[f"{prefix}token_type"]][: size - 1]
    return _completed(texts, scores, types, size)


def _completed(texts: list[str], scores: list[float], types: list[int], size: int) -> Pieces:
    """Unused pieces up to the last, which is the `<step>` of 70B Instruct."""
    missing = size - 1 - len(texts)
    texts = [*texts, *(f"<unused_{i}>" for i in range(missing)), STEP]
    scores = [*scores, *[-1000.0] * (missing + 1)]
    return Pieces(texts, scores, [*types, *[UNUSED] * missing, CONTROL])


def write_bf16(path: Path, name: str, shape: Shape, pieces: Pieces, seed: int) -> None:
    """Write the model as a BF16 GGUF, one matrix in memory at a time."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, name, shape, pieces)
    norms = ["output_norm.weight"]
    for i in range(shape.layers):
        norms += [f"blk.{i}.attn_norm.weight", f"blk.{i}.ffn_norm.weight"]
    bf16 = gguf.GGMLQuantizationType.BF16
    for tensor, rows, columns in matrices(shape):
        bytes_shape = (rows, 2 * columns)  # BF16 is handed over as bytes
        writer.add_tensor_info(
            tensor, bytes_shape, np.dtype(np.uint8), 2 * rows * columns, raw_dtype=bf16
        )
    for tensor in norms:
        writer.add_tensor_info(tensor, (shape.hidden,), np.dtype(np.float32), 4 * shape.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, rows, columns in matrices(shape):
        writer.write_tensor_data(_weights(tensor, rows, columns, seed))
    for _ in norms:
        writer.write_tensor_data(np.ones(shape.hidden, dtype=np.float32))
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape, pieces: Pieces) -> None:
    import gguf

    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces.texts)
    writer.add_token_scores(pieces.scores)
    writer.add_token_types(pieces.types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_eot_token_id(shape.vocab - 1)
    writer.add_add_bos_token(True)


def _weights(name: str, rows: int, columns: int, seed: int) -> npt.NDArray[np.uint8]:
    """Normal weights of standard deviation 1/√columns as the bytes of BF16, shape (rows, 2·columns)."""
    import numpy as np

    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    result = np.empty(rows * columns, dtype=np.uint16)
    for start in range(0, rows * columns, SLAB):
        count = min(SLAB, rows * columns - start)
        values = rng.standard_normal(count, dtype=np.float32) / np.float32(columns**0.5)
        result[start : start + count] = (values.view(np.uint32) + 0x8000) >> 16
    return result.reshape(rows, columns).view(np.uint8)


def make(
    output: Path,
    name: str,
    shape: Shape,
    pieces: Pieces,
    type_name: str,
    *,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write the model as `type_name`, by way of a BF16 file beside it. Raises CodeLlamaError."""
    from codellama.weights.convert import quantize

    with tempfile.TemporaryDirectory(dir=output.absolute().parent) as work:
        source = Path(work) / "bf16.gguf"
        write_bf16(source, name, shape, pieces, seed)
        quantize(source, output, type_name, force=force)


@click.command()
@click.option("--size", type=click.Choice(sorted(SHAPES)), required=True, help="Parameters.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file.",
)
@click.option("--type", "type_name", default="Q4_K_M", show_default=True, help="llama.cpp type.")
@click.option(
    "--vocab",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="GGUF to take the pieces from.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def main(
    size: str, output: Path, type_name: str, vocab: Path | None, seed: int, force: bool
) -> None:
    """Write a Llama GGUF of random weights."""
    from codellama.errors import CodeLlamaError

    if output.exists() and not force:
        raise click.ClickException(f"{output} exists: choose another name or pass --force")
    if not output.absolute().parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder to write to")
    pieces = pieces_of(vocab) if vocab else made_up()
    try:
        make(output, f"random-{size}", SHAPES[size], pieces, type_name, seed=seed, force=force)
    except CodeLlamaError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{output}: {SHAPES[size].parameters:,} parameters, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

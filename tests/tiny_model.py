"""Writes tiny Llama GGUF files for tests: half a megabyte, F32, weights wide enough that the greedy
token never hangs on rounding. Solo and batched answers of such a model are equal, which they are not
for a quantized one."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 64, 2, 4, 2, 128
N_CTX = 1024
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

FIM_PIECES = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")


def vocabulary(step: bool = True) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and types: bytes, printable ASCII, the infill tags with the merges that lead to
    them, and `<step>` as the last piece."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, NORMAL]
    letters = [chr(i) for i in range(0x21, 0x7F)]
    merges = ["▁<", "▁<P", "▁<PR", "▁<PRE", "▁<S", "▁<SU", "▁<SUF", "▁<M", "▁<MI", "▁<MID"]
    merges += ["▁<E", "▁<EO", "▁<EOT", *FIM_PIECES]
    pieces += letters + merges
    types += [NORMAL] * (len(letters) + len(merges))
    if step:
        pieces.append("<step>")
        types.append(CONTROL)
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces) - 259)]
    return pieces, scores, types


def add_vocabulary(
    writer: gguf.GGUFWriter, pieces: list[str], scores: list[float], types: list[int]
) -> None:
    """A SentencePiece vocabulary that begins with `<unk>`, `<s>` and `</s>`."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write(
    path: Path,
    *,
    seed: int = 5,
    step: bool = True,
    n_ctx: int = N_CTX,
    head_dim: int = 16,
    ffn: int = FFN,
) -> Path:
    """Write the model to `path` and return it."""
    pieces, scores, types = vocabulary(step)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(pieces))
    add_vocabulary(writer, pieces, scores, types)
    writer.add_add_bos_token(True)
    if step:
        writer.add_eot_token_id(len(pieces) - 1)
    add_tensors(writer, np.random.default_rng(seed), len(pieces), head_dim, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensors(
    writer: gguf.GGUFWriter, rng: np.random.Generator, n_vocab: int, head_dim: int, ffn: int = FFN
) -> None:
    """Random weights of standard deviation 0.2, norms of one.

    The default seed was chosen so that in the tests' greedy answers the best token leads the second
    by 0.01 nats or more; batches of different width move logits by about 0.001.
    """

    def matrix(name: str, rows: int, columns: int) -> None:
        data = rng.normal(0.0, 0.2, (rows, columns)).astype(np.float32)
        writer.add_tensor(name, data)

    heads, kv = head_dim * HEADS, head_dim * KV_HEADS
    matrix("token_embd.weight", n_vocab, HIDDEN)
    matrix("output.weight", n_vocab, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    for i in range(LAYERS):
        block = f"blk.{i}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
        writer.add_tensor(block + "ffn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
        matrix(block + "attn_q.weight", heads, HIDDEN)
        matrix(block + "attn_k.weight", kv, HIDDEN)
        matrix(block + "attn_v.weight", kv, HIDDEN)
        matrix(block + "attn_output.weight", HIDDEN, heads)
        matrix(block + "ffn_gate.weight", ffn, HIDDEN)
        matrix(block + "ffn_up.weight", ffn, HIDDEN)
        matrix(block + "ffn_down.weight", HIDDEN, ffn)


def real_vocabulary() -> Path | None:
    """The Llama vocabulary as a GGUF, if this machine has it: CODELLAMA_REAL_VOCAB, or beside the
    checkout."""
    named = os.environ.get("CODELLAMA_REAL_VOCAB")
    beside = Path(__file__).parents[2] / "shared" / "data" / "ggml-vocab-llama-spm.gguf"
    path = Path(named) if named else beside
    return path if path.is_file() else None

"""Reference ids of the real models, and a slice of the Llama vocabulary that is enough to reach them.

`data/llama_pieces.json` maps a piece to its id and score: every piece of the Llama 2 vocabulary that occurs
in `TEXTS`. The rest of the 32016 entries is filled up with pieces that match nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf

from codellama.params import Message
from tests.tiny_model import add_vocabulary

STEP = 32015

CARD_DIALOG = [
    Message(role="system", content="System prompt "),
    Message(role="user", content="First user query"),
    Message(role="assistant", content="Model response to first query"),
    Message(role="user", content="Second user query"),
]
# The model card of CodeLlama-70b-Instruct-hf, section "Chat prompt".
CARD_IDS = [
    *(1, 7562, 29901, 1788, 13, 13, 2184, 9508, 32015, 7562, 29901, 1404, 13, 13, 3824, 1404),
    *(2346, 32015, 7562, 29901, 20255, 13, 13, 8125, 2933, 304, 937, 2346, 32015, 7562, 29901),
    *(1404, 13, 13, 6440, 1404, 2346, 32015, 7562, 29901, 20255, 13, 14994, 3381, 29901, 1404),
    *(13, 13, 29871),
]

# A lone "hi": the missing system turn is inserted empty, without a body.
HI_IDS = [
    *(1, 7562, 29901, 1788, 32015, 7562, 29901, 1404, 13, 13, 7251, 32015, 7562, 29901, 20255),
    *(13, 14994, 3381, 29901, 1404, 13, 13, 29871),
]

INST_IDS = [1, 518, 25580, 29962, 3824, 1404, 2346, 518, 29914, 25580, 29962]  # "First user query"

# ggml-org/llama.cpp#3503, output of Meta's code.
INFILL_PREFIX = 'def remove_non_ascii(s: str) -> str:\n    """ '
INFILL_SUFFIX = "\n    return result\n"
INFILL_IDS = [
    *(1, 32007, 822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599),
    *(851, 29901, 13, 1678, 9995, 29871, 32008, 13, 1678, 736, 1121, 13, 32009),
]

TEXTS = [
    *(f"Source: {m['role']}\n\n {m['content']}" for m in CARD_DIALOG),
    *("Source: user\n\n hi", "Source: assistant\nDestination: user\n\n ", "[INST] [/INST] "),
    *("<<SYS>>\n<</SYS>>\n\n", "<step> <PRE> <SUF> <MID> <EOT> <s> </s>", "a b c", "☺ ☺"),
    *(INFILL_PREFIX, INFILL_SUFFIX, "be brief"),
]

SMALL_EXTRA = [
    *("▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>"),
    *("▁<EOT>", *("▁" + "<EOT>" * n for n in range(2, 7))),
]
"""Ids 32000 to 32015 of 7B and 13B; in 70B Instruct the last one is `<step>`."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


Pieces = tuple[list[str], list[float], list[int]]


def slice_pieces() -> Pieces:
    """Pieces, scores and types of the first 32000 ids, as far as the slice has them."""
    path = Path(__file__).parent / "data" / "llama_pieces.json"
    slice_: dict[str, tuple[int, float]] = json.loads(path.read_text("utf-8"))["pieces"]
    pieces = [f"\x01{i}" for i in range(32000)]
    scores, types = [-1e9] * 32000, [UNUSED] * 32000
    pieces[:3], types[:3] = ["<unk>", "<s>", "</s>"], [UNKNOWN, CONTROL, CONTROL]
    for byte in range(256):
        pieces[3 + byte], types[3 + byte] = f"<0x{byte:02X}>", BYTE
    for piece, (i, score) in slice_.items():
        pieces[i], scores[i], types[i] = piece, score, NORMAL
    return pieces, scores, types


def write_code_llama(
    path: Path, pieces: list[str], scores: list[float], types: list[int], step_type: int | None
) -> Path:
    """A vocabulary-only GGUF with the 16 ids of Code Llama behind the Llama pieces: 70B Instruct's,
    whose last is `<step>` of type `step_type`, or with None the 7B's."""
    extra, extra_types = list(SMALL_EXTRA), [NORMAL] * 16
    if step_type is not None:
        extra[-1], extra_types[-1] = "<step>", step_type
    more = [-float(32000 - 259 + i) for i in range(16)]
    return write_pieces(path, pieces + extra, scores + more, types + extra_types)


def write_pieces(
    path: Path, pieces: list[str], scores: list[float], types: list[int], eot: int | None = None
) -> Path:
    """A vocabulary-only GGUF."""
    writer = gguf.GGUFWriter(path, "llama")
    add_vocabulary(writer, pieces, scores, types)
    if eot is not None:
        writer.add_eot_token_id(eot)
    for name in ("context_length", "embedding_length", "block_count", "feed_forward_length"):
        writer.add_uint32(f"llama.{name}", 1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def real_pieces(source: Path) -> Pieces:
    """Pieces, scores and types of a vocabulary GGUF."""
    fields = gguf.GGUFReader(source).fields
    names = ("tokens", "scores", "token_type")
    tokens, scores, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in names)
    return list(tokens), list(scores), list(types)

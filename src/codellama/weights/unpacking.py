"""Small numbers out of the bytes that tools pack them into, as floats.

Fields are numbered from the lowest bit up, unless a function says otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codellama.native.arrays import Bytes, Floats
from codellama.native.ggml import tensor_type, to_float

WORD_BITS = 32


def per_word(bits: int) -> int:
    """How many fields of `bits` bits a word of 32 holds, none across two words."""
    return WORD_BITS // bits


def unpack_words(rows: Bytes, bits: int, out: Floats) -> None:
    """Fields of words of 32 bits that hold `per_word(bits)` each; the last word of a row may be padded.

    `rows` has the bytes of whole words, one row for each of `out`.
    """
    if bits in (2, 4, 8):
        unpack_stream(rows, bits, out)
        return
    words = rows.view("<u4")
    step, mask = per_word(bits), np.uint32(2**bits - 1)
    for field in range(step):
        places = out[:, field::step]
        places[:] = (words[:, : places.shape[1]] >> np.uint32(field * bits)) & mask


def unpack_stream(rows: Bytes, bits: int, out: Floats) -> None:
    """Fields of a row one behind the other, also across words; `rows` has one for each of `out`."""
    columns = out.shape[1]
    if bits == 8:
        out[:] = rows[:, :columns]
    elif bits in (2, 4):
        for field in range(8 // bits):
            places = out[:, field :: 8 // bits]
            places[:] = (rows[:, : places.shape[1]] >> (field * bits)) & (2**bits - 1)
    else:  # eight fields fill `bits` bytes
        for field in range(8):
            places = out[:, field::8]
            first, shift = divmod(field * bits, 8)
            low = rows[:, first::bits][:, : places.shape[1]].astype(np.uint16)
            if shift + bits > 8:
                low |= rows[:, first + 1 :: bits][:, : places.shape[1]].astype(np.uint16) << 8
            places[:] = (low >> shift) & (2**bits - 1)


def unpack_down(words: NDArray[np.uint32], bits: int, out: Floats) -> None:
    """As `unpack_words`, for fields that stand below each other: each row of `words` is several of `out`."""
    step, mask = per_word(bits), np.uint32(2**bits - 1)
    for field in range(step):
        places = out[field::step]
        places[:] = (words[: len(places)] >> np.uint32(field * bits)) & mask


def nibbles_high_first(data: Bytes, table: Floats, out: Floats) -> None:
    """The entries of `table` (16) for both halves of each byte, the upper one first."""
    pairs = np.stack([np.repeat(table, 16), np.tile(table, 16)], axis=1)
    # Both halves at once, as one number of 64 bits.
    out.reshape(-1).view(np.uint64)[:] = pairs.view(np.uint64).reshape(-1)[data]


def float8(dtype: str, codes: Bytes) -> Floats:
    """What bytes are as F8_E4M3 or F8_E5M2, through F16, which has room for both.

    OCP 8-bit Floating Point Specification, and safetensors' names for its types. E4M3 has no infinity.
    """
    wide = codes.astype(np.uint16)
    out = np.empty(codes.shape, np.float32)
    if dtype == "F8_E5M2":  # the upper half of an F16
        wide <<= np.uint16(8)
        to_float(tensor_type("F16"), wide.view(np.uint8), out)
        return out
    # Exponents of E4M3 count from 7, F16's from 15.
    bits = ((wide << np.uint16(7)) & np.uint16(0x3F80)) | (
        (wide << np.uint16(8)) & np.uint16(0x8000)
    )
    to_float(tensor_type("F16"), bits.view(np.uint8), out)
    out *= np.float32(256)
    special = (wide & np.uint16(127)) == 127
    if special.any():
        out[special] = np.nan
    return out

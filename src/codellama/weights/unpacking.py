"""Small numbers out of the bytes that tools pack them into, as floats. Pure.

Fields are numbered from the lowest bit up, unless a function says otherwise.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from codellama.native.arrays import Bytes, Floats

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
    out.reshape(-1, 2)[:] = pairs[data]


@functools.cache
def float8_table(dtype: str) -> Floats:
    """What each byte is as F8_E4M3 or F8_E5M2.

    OCP 8-bit Floating Point Specification, and safetensors' names for its types. E4M3 has no infinity.
    """
    codes = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":  # the upper half of an F16
        return (codes << np.uint16(8)).view(np.float16).astype(np.float32)
    exponents, fractions = (codes >> 3) & 15, codes & 7
    normal = np.ldexp(1 + fractions / 8, exponents.astype(np.int32) - 7)
    values = np.where(exponents == 0, np.ldexp(fractions / 8, -6), normal)
    values[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float32)

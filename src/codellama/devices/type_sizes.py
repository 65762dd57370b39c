"""How large files of the usual types are, by their number of weights alone: known without llama.cpp."""

from __future__ import annotations

from codellama.variants import Variant

BITS_PER_WEIGHT = {  # of whole files of Code Llama, by llama.cpp's choice of types; see weights.recipe
    "Q8_0": 8.50, "Q6_K": 6.56, "Q5_K_M": 5.66, "Q4_K_M": 4.80, "IQ4_XS": 4.31, "Q3_K_M": 3.86,
    "Q2_K": 2.95, "TQ1_0": 1.72,
}  # fmt: skip
_SCRATCH = 2**29


def largest_type(variant: Variant, room: int) -> str:
    """The best of the usual types of a published model that fits `room` bytes with one request's context.

    Empty if none does. From sizes alone, within a few per cent.
    """
    cache = variant.n_ctx * variant.shape.kv_bytes_per_token()
    for name, bits in BITS_PER_WEIGHT.items():
        if variant.parameters * bits / 8 + cache + _SCRATCH <= room:
            return name
    return ""

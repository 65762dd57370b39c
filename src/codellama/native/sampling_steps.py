"""Which steps of sampling have an effect under given parameters, and on how many tokens they look back."""

from __future__ import annotations

from codellama.params import SamplingParams


def only_likeliest(params: SamplingParams) -> bool:
    """Whether the likeliest token is drawn whatever the filters do.

    At temperature 0 top-k, top-p, min-p and top-n-sigma never take it away, so they are left out:
    sorting the vocabulary for them is most of what drawing costs. Typical, XTC and infill may.
    """
    names = params.samplers
    return params.temperature == 0 and not (
        ("typ_p" in names and params.typical_p < 1)
        or ("xtc" in names and params.xtc_probability > 0)
        or "infill" in names
        or "temperature" not in names
    )


def last_n(asked: int, n_ctx: int) -> int:
    """How many tokens a step looks back on; llama.cpp allocates as many, so no more than there can be."""
    return n_ctx if asked < 0 else min(asked, n_ctx)


def penalises(params: SamplingParams) -> bool:
    """Whether the penalties for repetition change anything."""
    neutral = (
        params.repeat_penalty == 1
        and params.frequency_penalty == 0
        and params.presence_penalty == 0
    )
    return not neutral and params.repeat_last_n != 0


def remembers(params: SamplingParams) -> bool:
    """Whether earlier tokens matter, so that the prompt must be told to the chain."""
    return penalises(params) or params.dry_multiplier > 0

"""llama.cpp's candidates: tokens with their logits, which samplers sort, cut and give probabilities."""

from __future__ import annotations

import ctypes
import math

import llama_cpp
import numpy as np
import numpy.typing as npt

from codellama.engine.batch import TokenLogprob

Logits = npt.NDArray[np.single]
Table = np.ndarray[tuple[int, ...], np.dtype[np.void]]
"""Of the type `TOKEN_DATA`."""

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def table_of(logits: Logits, ids: npt.NDArray[np.intp] | None = None) -> Table:
    """These tokens, or all, with their logits."""
    data = np.empty(len(logits) if ids is None else len(ids), dtype=TOKEN_DATA)
    data["id"] = np.arange(len(logits), dtype=np.int32) if ids is None else ids
    data["logit"] = logits if ids is None else logits[ids]
    data["p"] = 0
    return data


def array_of(data: Table) -> llama_cpp.llama_token_data_array:
    """`data` in llama.cpp's struct; valid as long as `data` lives."""
    array = llama_cpp.llama_token_data_array()
    address = ctypes.c_void_p(data.ctypes.data)
    array.data = ctypes.cast(address, llama_cpp.llama_token_data_p)  # type: ignore[assignment]
    array.size = len(data)
    array.selected = -1
    array.sorted = False
    return array


def certain(token: int) -> TokenLogprob:
    """The probability of a token that was taken because it is the likeliest."""
    return TokenLogprob(token, 0.0, ((token, 0.0),))


def drawn_with(left: Table, token: int, n_top: int) -> TokenLogprob:
    """The probability with which a token was drawn from what is `left`, and the `n_top` likeliest of it.

    As llama-server tells them (populate_token_probs of server-context.cpp): those of probability 0 are no
    candidates.
    """
    left = left[left["p"] > 0]
    best = left[np.argsort(-left["p"], kind="stable")[:n_top]]
    own = left["p"][left["id"] == token]
    top = tuple((int(entry["id"]), math.log(entry["p"])) for entry in best)
    return TokenLogprob(token, math.log(own[0]) if len(own) else -math.inf, top)

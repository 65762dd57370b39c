"""Whether one model may draft for another: their vocabularies, compared token by token. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama.errors import InvalidRequestError

# The last ids of Code Llama's vocabulary are tags of infilling, turns or nothing, by variant.
MOST_FOREIGN = 16


def foreign_tokens(target: Mapping[str, Any], draft: Mapping[str, Any]) -> frozenset[int]:
    """Ids of the target's vocabulary that mean something else, or nothing, to the draft model.

    Both are the metadata of a GGUF. Raises InvalidRequestError naming the first difference if the
    vocabularies differ in more than the last few ids, where Code Llama's variants keep their tags.
    """
    for key in ("model", "bos_token_id", "eos_token_id", "add_bos_token"):
        name = f"tokenizer.ggml.{key}"
        if target.get(name) != draft.get(name):
            raise _incompatible(f"{name} is {draft.get(name)!r} there, {target.get(name)!r} here")
    ours: list[str] = target.get("tokenizer.ggml.tokens") or []
    theirs: list[str] = draft.get("tokenizer.ggml.tokens") or []
    if abs(len(ours) - len(theirs)) > MOST_FOREIGN or not ours:
        raise _incompatible(f"it has {len(theirs)} tokens there, {len(ours)} here")
    shared = min(len(ours), len(theirs))
    different = [i for i in range(shared) if ours[i] != theirs[i]]
    if different and different[0] < max(len(ours), len(theirs)) - MOST_FOREIGN:
        i = different[0]
        raise _incompatible(f"token {i} is {theirs[i]!r} there, {ours[i]!r} here")
    return frozenset(different) | frozenset(range(shared, len(ours)))


def _incompatible(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        "{param}: its vocabulary is not that of the model: {reason}", "draft_model", reason=reason
    )

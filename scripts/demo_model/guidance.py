"""Shows a few attention heads where to look while the model learns to copy.

Copying takes two kinds of heads (Olsson et al., 2022, https://arxiv.org/abs/2209.11895): some look at the
tokens just before, so that a place knows what led to it, and some of later layers look for the place that
was led to by what was written last. Left to themselves they form late, all at once, after many millions of
tokens. A loss on where they look makes them form in some hundreds of thousands. The network is a plain
Llama before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_model.batches import IGNORED
from demo_model.network import Attention, Llama

BACK = {1: {3: 1, 5: 2, 1: 3}, 2: {6: 1}}
"""Layer, head, and how many tokens back it shall look; after the main stages these look there the most."""

FINDING = {3: (0, 5), 4: (0, 1, 5), 5: (0, 4)}
"""Layers and heads that shall look at the token that is to be copied next."""


class Guide:
    """Watches the guided layers of `model`; `loss` speaks of the model's latest forward pass."""

    def __init__(self, model: Llama) -> None:
        """Have the layers' inputs kept; `close` ends that."""
        self._seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._attention: dict[int, Attention] = {}
        self._hooks = []
        for layer in {**BACK, **FINDING}:
            attention = model.model.layers[layer].self_attn
            assert isinstance(attention, Attention)
            self._attention[layer] = attention
            self._hooks.append(attention.register_forward_pre_hook(self._keep(layer)))

    def loss(self, sources: Tensor) -> Tensor:
        """Sum over the guided heads of their mean cross-entropy, in nats.

        `sources` (batch, time): the position to look at, or `IGNORED`.
        """
        total = torch.zeros(())
        for layer, back in BACK.items():
            scores = self._scores(layer, tuple(back))
            for i, offset in enumerate(back.values()):
                total = total + _cross_entropy(scores[:, i], _offsets(sources, offset))
        for layer, heads in FINDING.items():
            scores = self._scores(layer, heads)
            for i in range(len(heads)):
                total = total + _cross_entropy(scores[:, i], sources)
        return total

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        self._seen.clear()

    def _keep(self, layer: int) -> Callable[[nn.Module, Any], None]:
        def keep(_: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
            self._seen[layer] = inputs

        return keep

    def _scores(self, layer: int, heads: tuple[int, ...]) -> Tensor:
        return self._attention[layer].scores(*self._seen[layer], heads)


def _offsets(like: Tensor, offset: int) -> Tensor:
    positions = torch.arange(like.shape[1], device=like.device) - offset
    return positions.masked_fill(positions < 0, IGNORED).expand_as(like)


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    counted = targets != IGNORED
    if not counted.any():
        return scores.new_zeros(())
    return functional.cross_entropy(scores[counted].float(), targets[counted])

"""Muon for the matrices inside the layers, AdamW for embeddings, output and norms.

Muon (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by
the nearest orthogonal matrix. On budgets of a few million tokens it reaches a given loss in clearly
fewer tokens than AdamW alone, which is what makes two CPU cores enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for two-dimensional weights only."""

    def __init__(self, weights: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95) -> None:
        """Take the weights, the learning rate and the momentum."""
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Apply one update; `closure` is not used."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                mean = state["momentum"]
                mean.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(mean, group["momentum"]))
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrix, by Newton-Schulz iterations, for which bfloat16 does."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    if fast_at_bfloat16(matrix.device):
        x = x.bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def fast_at_bfloat16(device: torch.device) -> bool:
    """Whether matrices of bfloat16 are multiplied faster than those of float32."""
    if device.type != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def optimizers_of(model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers that together hold every weight of `model`; each starts at its peak rate."""
    inner = [w for n, w in model.named_parameters() if w.ndim == 2 and ".layers." in n]
    norms = [w for w in model.parameters() if w.ndim < 2]
    named = dict(model.named_parameters())
    groups = [
        {"params": [named["model.embed_tokens.weight"]], "lr": 0.02},
        {"params": [named["lm_head.weight"]], "lr": 0.004},
        {"params": norms, "lr": 0.01},
    ]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
    optimizers: list[torch.optim.Optimizer] = [Muon(inner), adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers

"""A plain Llama in torch, with the parameter names of the Hugging Face layout.

Weights are in the Hugging Face order (rotary halves, not pairs), so `state_dict` is the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are the shipped demo model (6.5 M parameters)."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 1
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e4

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


class Attention(nn.Module):
    """Causal attention with rotary positions and shared key/value heads."""

    def __init__(self, shape: Shape) -> None:
        """Make the four projections."""
        super().__init__()
        self.shape = shape
        kv_size = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, time, hidden) to the same shape."""
        batch, time, hidden = x.shape
        heads, kv_heads = self.shape.num_attention_heads, self.shape.num_key_value_heads
        q = self.q_proj(x).view(batch, time, heads, -1).transpose(1, 2)
        k = self.k_proj(x).view(batch, time, kv_heads, -1).transpose(1, 2)
        v = self.v_proj(x).view(batch, time, kv_heads, -1).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, time, hidden))
        return out

    def scores(self, x: Tensor, cos: Tensor, sin: Tensor, heads: Sequence[int]) -> Tensor:
        """What `heads` look at, before the softmax: (batch, heads, time, time), later places at -inf."""
        batch, time, hidden = x.shape
        weights = self.q_proj.weight.view(-1, self.shape.head_dim, hidden)[list(heads)]
        q = functional.linear(x, weights.flatten(0, 1)).view(batch, time, len(heads), -1)
        k = self.k_proj(x).view(batch, time, self.shape.num_key_value_heads, -1)
        each = self.shape.num_attention_heads // self.shape.num_key_value_heads
        k = k[:, :, [head // each for head in heads]]
        q, k = (_rotate(part.transpose(1, 2), cos, sin) for part in (q, k))
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.shape.head_dim)
        return scores.masked_fill(later, -math.inf)


class MLP(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, shape: Shape) -> None:
        """Make the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, hidden) to the same shape."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, shape: Shape) -> None:
        """Make attention, feed-forward and their norms."""
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (batch, time, hidden) to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Embedding, layers and final norm (the `model.` part of a checkpoint)."""

    def __init__(self, shape: Shape) -> None:
        """Make all layers."""
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (batch, time) to hidden states (batch, time, hidden)."""
        cos, sin = rotary(self.shape, ids.shape[1], ids.device)
        x: Tensor = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """The language model: token ids in, logits out."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        """Make the network with weights drawn from `seed`; the output starts at zero."""
        super().__init__()
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.ndim < 2:
                    continue
                if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                    weight.zero_()
                else:
                    deviation = 0.5 if "embed" in name else 0.6 / math.sqrt(weight.shape[1])
                    weight.normal_(0.0, deviation, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (batch, time) to logits (batch, time, vocabulary)."""
        out: Tensor = self.lm_head(self.model(ids))
        return out


def rotary(shape: Shape, time: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (time, head_dim) of the rotary position embedding."""
    half = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(time, device=device).float(), shape.rope_theta**-half)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)

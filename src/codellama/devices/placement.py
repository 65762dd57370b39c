"""What lies on each device once it is said which layers go where: weights, caches and scratch. Pure.

llama.cpp gives the last `sum(counts)` layers, of which the output layer is the last, to the GPUs in order;
the others stay on the CPU. A layer's part of every KV cache goes with it, unless caches stay in main memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from codellama.devices.compute import Part, output_bytes, scratch_bytes
from codellama.devices.sizes import ModelSizes, bytes_per_value, padded_cells
from codellama.native.backends import RPC, Device
from codellama.native.settings import ContextSettings

CPU = "CPU"


@dataclass(frozen=True)
class DeviceLayers:
    """So many layers of a model on one device, the output layer among them, and the bytes that takes.

    `weights` on the CPU are those of the token embedding too, and of feed-forward matrices that stay there.
    `kv` is the device's part of all caches, `compute` the scratch memory of all contexts. `endpoint` is the
    HOST:PORT of a device on another machine.
    """

    device: str
    layers: int
    weights: int
    kv: int
    compute: int
    endpoint: str = ""

    @property
    def place(self) -> str:
        """The device, and where it is if not here."""
        return f"{self.device} at {self.endpoint}" if self.endpoint else self.device

    @property
    def nbytes(self) -> int:
        return self.weights + self.kv + self.compute


@dataclass(frozen=True)
class Split:
    """Layers for each GPU, in order.

    Of the first `host_ffn` of these layers the feed-forward matrices stay in main memory.
    """

    counts: tuple[int, ...]
    host_ffn: int = 0

    @property
    def n_gpu_layers(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class Work:
    """What is to be placed: a model, its contexts, and the GPUs that may have layers, in llama.cpp's order.

    `in_turn` says that GPUs take whole layers (`split_mode` layer), so they can work in turn on a prompt.
    """

    sizes: ModelSizes
    contexts: tuple[ContextSettings, ...]
    gpus: tuple[Device, ...]
    in_turn: bool = True

    @property
    def n_layers(self) -> int:
        """All layers, the output layer among them."""
        return len(self.sizes.layers)

    @property
    def offload_kqv(self) -> bool:
        return all(context.offload_kqv for context in self.contexts)

    @property
    def layer_kv(self) -> int:
        """Bytes of one layer in all caches."""
        return sum(
            padded_cells(context.cells)
            * round(
                self.sizes.kv_dim
                * (bytes_per_value(context.type_k) + bytes_per_value(context.type_v))
            )
            for context in self.contexts
        )

    def pipelined(self, split: Split) -> bool:
        """Whether llama.cpp lets the GPUs work on parts of a prompt at the same time."""
        return (
            len(self.gpus) > 1
            and split.n_gpu_layers == self.n_layers
            and self.in_turn
            and self.offload_kqv
            and not split.host_ffn
            and all(gpu.pipelines for gpu in self.gpus)
        )

    def gpu_part(self, split: Split, index: int) -> Part:
        """What runs on a GPU."""
        ends = list(accumulate(split.counts))
        start = self.n_layers - split.n_gpu_layers
        first, last = start + ends[index] - split.counts[index], start + ends[index]
        repeating = min(last, self.n_layers - 1) > first
        return Part(
            attention=repeating,
            ffn=min(last, self.n_layers - 1) > max(first, start + split.host_ffn),
            output=last == self.n_layers > first,
            first=first == 0,
            pipelined=self.pipelined(split),
            later=index > 0,
            copied=self._copied(split, index),
        )

    def _copied(self, split: Split, index: int) -> int:
        """Bytes that a GPU needs for what it borrows from main memory.

        The first one takes the matrices of the CPU's layers for a prompt, one by one. Each takes the cache
        of a layer, if that is not there.
        """
        if not split.counts[index]:
            return 0
        host = self.sizes.layers[: self.n_layers - split.n_gpu_layers + split.host_ffn]
        borrows = index == 0 and self.gpus[0].backend != RPC
        matrices = max((layer.largest for layer in host), default=0) if borrows else 0
        return matrices + (0 if self.offload_kqv else self.layer_kv)

    def placed(self, split: Split) -> tuple[DeviceLayers, ...]:
        """The bytes of every GPU, then those of the CPU."""
        first = self.n_layers - split.n_gpu_layers
        found, start = [], first
        for index, gpu in enumerate(self.gpus):
            end = start + split.counts[index]
            weights = sum(layer.nbytes for layer in self.sizes.layers[start:end])
            weights -= self.host_ffn_bytes(split, start, end)
            kv = self.layer_kv * (min(end, self.sizes.n_layer) - start) if end > start else 0
            part = self.gpu_part(split, index)
            compute = sum(scratch_bytes(self.sizes, c, part) for c in self.contexts)
            found.append(
                DeviceLayers(
                    gpu.name,
                    split.counts[index],
                    weights,
                    max(0, kv) if self.offload_kqv else 0,
                    compute if split.counts[index] else 0,
                    gpu.endpoint,
                )
            )
            start = end
        return (*found, self._on_cpu(split))

    def host_ffn_bytes(self, split: Split, start: int, end: int) -> int:
        """Of the layers from `start` to `end`, the bytes of feed-forward matrices in main memory."""
        last = self.n_layers - split.n_gpu_layers + split.host_ffn
        return sum(layer.ffn for layer in self.sizes.layers[start : min(end, last)])

    def rearranged(self, split: Split) -> int:
        """Bytes of weights in main memory that llama.cpp's CPU code would rearrange."""
        if any(gpu.host_buffer for gpu in self.gpus):
            return 0
        first = self.n_layers - split.n_gpu_layers
        layers = self.sizes.layers
        ffn = sum(layer.rearranged_ffn for layer in layers[first : first + split.host_ffn])
        return ffn + sum(layer.rearranged for layer in layers[:first])

    def host_layer_bytes(self, split: Split) -> int:
        """Bytes of weights in main memory that every token needs: all but the embedding."""
        first = self.n_layers - split.n_gpu_layers
        ffn = self.host_ffn_bytes(split, first, self.n_layers)
        return ffn + sum(layer.nbytes for layer in self.sizes.layers[:first])

    def _on_cpu(self, split: Split) -> DeviceLayers:
        count = self.n_layers - split.n_gpu_layers
        repeating = min(count, self.sizes.n_layer)
        part = Part(
            host=True,
            attention=repeating > 0,
            ffn=repeating > 0 or split.host_ffn > 0,
            output=count == self.n_layers,
            first=True,
            pipelined=self.pipelined(split),
        )
        compute = sum(
            scratch_bytes(self.sizes, c, part) + output_bytes(self.sizes, c) for c in self.contexts
        )
        kv = self.layer_kv * (repeating if self.offload_kqv else self.sizes.n_layer)
        weights = self.sizes.embedding + self.host_layer_bytes(split)
        return DeviceLayers(CPU, count, weights, kv, compute)


def spread(n: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How llama.cpp spreads `n` layers over GPUs in proportion to `shares`: layer i goes to the first one
    whose shares, added up, are more than i / n of them all."""
    total = sum(shares) or 1.0
    ends = [end / total for end in accumulate(shares)]
    counts = [0] * len(shares)
    for index in range(n):
        gpu = next((i for i, end in enumerate(ends) if end > index / n), len(shares) - 1)
        counts[gpu] += 1
    return tuple(counts)

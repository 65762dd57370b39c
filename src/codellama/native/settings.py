"""What `Model` and `Context` are told when they are opened: plain values, which a plan decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from codellama.native.backends import Device
from codellama.params import FlashAttention, KVType, SplitMode


@dataclass(frozen=True)
class WeightSettings:
    """How the weights of a GGUF are opened.

    `n_gpu_layers` counts the output layer; `tensor_split` are shares per GPU, empty for llama.cpp's own.
    `devices` are the GPUs that may have layers, empty for all of this machine. Tensors whose names
    `host_tensors` match, regular expressions of C++, stay in main memory. Without `rearrange` no weight is
    copied into the order that the CPU likes best. `overrides` replace metadata values. With `vocab_only`
    there are no weights, only the vocabulary.
    """

    n_gpu_layers: int = 0
    main_gpu: int = 0
    split_mode: SplitMode = "layer"
    tensor_split: tuple[float, ...] = ()
    use_mmap: bool = True
    use_mlock: bool = False
    devices: tuple[Device, ...] = ()
    host_tensors: tuple[str, ...] = ()
    rearrange: bool = True
    overrides: Mapping[str, int | float | bool] = field(default_factory=dict)
    vocab_only: bool = False


@dataclass(frozen=True)
class ContextSettings:
    """The sizes of a context and how it computes.

    `cells` are the tokens its KV cache holds, of all sequences together. A batch has at most `n_batch`
    rows, of which `max_outputs` may have logits; llama.cpp computes `n_ubatch` of them at once.
    `threads` decode single tokens, `threads_batch` prompts. `rope` has the values that replace the
    file's own about positions, by llama.cpp's name. With `embeddings` every row is an output and has a
    hidden state.
    """

    cells: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    max_outputs: int
    threads: int
    threads_batch: int
    type_k: KVType
    type_v: KVType
    flash_attn: FlashAttention
    offload_kqv: bool
    rope: Mapping[str, str | float | int]
    embeddings: bool = False

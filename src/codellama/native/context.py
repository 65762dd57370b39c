"""The native side of the engine: a llama.cpp context that runs batches and samples from them.

`Context` implements the engine's `Runner`. It does as it is told and decides nothing: which tokens go
in, and which parts of the KV cache are kept or shared, is the scheduler's business. Only the engine's
thread may call it.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Sequence
from typing import Any, cast

import llama_cpp
import numpy as np
import numpy.typing as npt

from codellama.engine.batch import (
    Batch,
    Edit,
    Fork,
    KVState,
    Restore,
    Save,
    Scales,
    Shift,
    TokenLogprob,
    Trim,
)
from codellama.errors import DecodeError, InvalidRequestError, ModelLoadError
from codellama.native.huge_pages import NewMemory
from codellama.native.library import library
from codellama.native.model import LoraAdapter, Model
from codellama.native.sampler import Sampler
from codellama.native.settings import ContextSettings

_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2}
_FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}
_KV_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8,
    "iq4_nl": 20,
}  # fmt: skip  # ggml_type of ggml.h
# Of a sequence's state: magic, sequence id, number of streams, then the number of cells.
_CELL_COUNT = 12
_DECODE_ERRORS = {
    1: "no room in the KV cache",
    2: "aborted",
    -1: "invalid batch",
}


class Context:
    """A context whose KV cells are shared by all sequences (unified: a prefix can be shared without
    moving data, and any sequence may use what the others leave)."""

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        """Raises ModelLoadError if llama.cpp cannot make it."""
        lib = library()
        lib.clear_errors()
        new_memory = NewMemory()
        handle = llama_cpp.llama_init_from_model(model.handle, _params(settings))
        new_memory.make_pages_huge()
        if not handle:
            reason = lib.last_error() or "no reason given"
            raise ModelLoadError(
                f"llama.cpp could not make a context of {settings.cells} tokens ({reason})",
                _remedy(reason, settings),
            )
        self._handle = handle
        self._memory = llama_cpp.llama_get_memory(handle)
        self._n_vocab = model.tokenizer.n_vocab
        self._model = model  # must outlive the context
        self._rows = _Rows(settings.n_batch, settings.max_outputs)
        self._outputs: list[int] = []  # rows of the latest batch that have logits
        self._max_outputs = settings.max_outputs
        self._table = np.empty((0, 0), dtype=np.float32)
        self._table_address = 0
        self._adapters: list[LoraAdapter] = []
        self._applied: Scales = ()
        self._threads = 0  # llama.cpp was told of both numbers of the settings
        self._followers: list[Context] = []
        self._closed = False

    def follow(self, other: Context) -> None:
        """Compute with as many threads as `other` from its next change on."""
        other._followers.append(self)

    def use_threads(self, n: int) -> None:
        """Compute with `n` threads, whatever the number of rows, from the next batch on."""
        if n != self._threads:
            self._threads = n
            llama_cpp.llama_set_n_threads(self._handle, n, n)
            for context in self._followers:
                if not context._closed:
                    context.use_threads(n)

    def use_adapters(self, adapters: Sequence[LoraAdapter]) -> None:
        """From now on batches say how much of each of these adapters they want."""
        self._adapters = list(adapters)
        self._applied = (0.0,) * len(adapters)

    @property
    def can_shift(self) -> bool:
        """Whether this kind of cache can move tokens to other positions."""
        return bool(llama_cpp.llama_memory_can_shift(self._memory))

    @property
    def cells(self) -> int:
        """KV cells there are (llama.cpp rounds the wish up)."""
        return int(llama_cpp.llama_n_ctx(self._handle))

    def run(self, batch: Batch) -> None:
        """Carry out the batch's KV edits, then decode its rows. Raises DecodeError."""
        for edit in batch.edits:
            self._edit(edit)
        if not batch.tokens:
            return
        self._apply(batch.scales)
        self._outputs = batch.output_rows
        native = self._rows.fill(batch)
        status = llama_cpp.llama_decode(self._handle, native)
        if status != 0:
            reason = _DECODE_ERRORS.get(status, f"error {status}")
            raise DecodeError(f"llama.cpp could not decode {len(batch.tokens)} tokens: {reason}")

    def _apply(self, scales: Scales) -> None:
        """Apply the LoRA adapters; llama.cpp then plans its memory anew, so only if they change."""
        if scales == self._applied:
            return
        n = len(self._adapters)
        if len(scales) != n:
            raise DecodeError(f"a batch with scales for {len(scales)} LoRA adapters; there are {n}")
        handles = [adapter.handle for adapter in self._adapters]
        table = cast(Any, llama_cpp.llama_adapter_lora_p_ctypes * n)(*handles)
        numbers = (ctypes.c_float * n)(*scales)
        if llama_cpp.llama_set_adapters_lora(self._handle, table, n, numbers) != 0:
            raise DecodeError("llama.cpp could not apply the LoRA adapters")
        self._applied = scales

    def _edit(self, edit: Edit) -> None:
        match edit:
            case Fork(source, target, n_keep):
                llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
                llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n_keep)
            case Trim(target, n_keep):
                if not llama_cpp.llama_memory_seq_rm(self._memory, target, n_keep, -1):
                    raise DecodeError(f"llama.cpp could not trim sequence {target}")
            case Shift(target, n_keep, n_discard):
                end = n_keep + n_discard
                llama_cpp.llama_memory_seq_rm(self._memory, target, n_keep, end)
                llama_cpp.llama_memory_seq_add(self._memory, target, end, -1, -n_discard)
            case Save(source, state):
                state.data = self._save(source)
            case Restore(target, state):
                self._restore(target, state)

    def _save(self, sequence: int) -> mmap.mmap | None:
        """The KV state of a sequence; None if llama.cpp or the memory fails.

        It has pages of its own, which go back to the system with it: states of all sizes come and go, and
        on the heap they would leave holes as large as all that the cache may hold.
        """
        size = llama_cpp.llama_state_seq_get_size(self._handle, sequence)
        try:
            data = mmap.mmap(-1, size)
        except (OSError, ValueError):
            return None
        buffer = (ctypes.c_uint8 * size).from_buffer(data)
        written = llama_cpp.llama_state_seq_get_data(self._handle, buffer, size, sequence)
        return data if 0 < written == size else None

    def _restore(self, sequence: int, state: KVState) -> None:
        """Put a KV state back. Raises DecodeError if it is not one of as many tokens as it says."""
        data = state.data or bytearray()
        n_cells = int.from_bytes(data[_CELL_COUNT : _CELL_COUNT + 4], sys.byteorder)
        if n_cells != len(state.tokens) or n_cells > self.cells:
            raise DecodeError(f"a KV state of {n_cells} cells for {len(state.tokens)} tokens")
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        if not llama_cpp.llama_state_seq_set_data(self._handle, buffer, len(data), sequence):
            raise DecodeError(f"llama.cpp could not restore a KV state of {n_cells} tokens")

    def sample(self, sampler: Sampler, row: int) -> int:
        """Draw the token that follows batch row `row` and tell the sampler of it.

        Raises DecodeError if the model's output is not a number, and InvalidRequestError if no token fits
        the answer's form.
        """
        logits = self._numbers(row)
        if sampler.greedy:
            token = int(logits.argmax())  # the first of equals, as llama.cpp's greedy sampler takes
            if sampler.take(token):
                return token
        return sampler.sample(self._handle, row)

    def logprob(
        self, row: int, token: int, n_top: int, sampler: Sampler | None = None
    ) -> TokenLogprob:
        """The log-probability of `token` after batch row `row`, before sampling, and the `n_top` best; or
        those after sampling, if the `sampler` that has just drawn it tells them."""
        drawn = None if sampler is None else sampler.drawn(token, n_top)
        if drawn is not None:
            return drawn
        logits = self._numbers(row)
        highest = float(logits.max())
        log_sum = highest + math.log(float(np.exp(logits - highest).sum()))
        top: list[tuple[int, float]] = []
        if n_top:
            n_top = min(n_top, self._n_vocab)
            best = np.argpartition(logits, -n_top)[-n_top:]
            best = best[np.argsort(-logits[best], kind="stable")]
            top = [(int(i), float(logits[i]) - log_sum) for i in best]
        return TokenLogprob(token, float(logits[token]) - log_sum, tuple(top))

    def _numbers(self, row: int) -> npt.NDArray[np.float32]:
        """The logits after batch row `row`, which must be numbers. If they are not, the cells behind them
        are not either, and attention may spread that to other sequences, masked or not: DecodeError
        says so."""
        logits = self.logits(row)
        if not math.isfinite(logits[0]):  # a hidden state that is no number leaves none
            raise DecodeError(
                "the model's output is not a number: the file is damaged, or the scale of a LoRA "
                "adapter is too large",
                spoiled=True,
            )
        return logits

    def best(self, row: int) -> tuple[int, float]:
        """The likeliest token after batch row `row`, and its probability."""
        logits = self.logits(row)
        token = int(logits.argmax())
        return token, 1.0 / float(np.exp(logits - logits[token]).sum())

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits after batch row `row`, shape (vocabulary,): a view until the next batch.

        Raises DecodeError if that row has none.
        """
        try:
            # llama.cpp keeps the rows that have logits one after the other, in the batch's order.
            index = self._outputs.index(row)
        except ValueError:
            raise DecodeError(f"llama.cpp has no logits for batch row {row}") from None
        pointer = llama_cpp.llama_get_logits(self._handle)
        if not pointer:
            raise DecodeError("llama.cpp has no logits: nothing has been decoded")
        address = ctypes.addressof(pointer.contents)
        if address != self._table_address:  # making the view takes longer than reading through it
            shape = (self._max_outputs, self._n_vocab)
            self._table = np.ctypeslib.as_array(pointer, shape=shape)
            self._table_address = address
        found: npt.NDArray[np.float32] = self._table[index]
        return found

    def hidden(self, n_rows: int) -> npt.NDArray[np.float32]:
        """The hidden states of the batch's first rows behind the last norm, shape (n_rows, width).

        A view until the next batch. Raises DecodeError if the context has none.
        """
        pointer = llama_cpp.llama_get_embeddings(self._handle)
        if not pointer:
            raise DecodeError("llama.cpp has no hidden states: the context is not for embeddings")
        width = int(llama_cpp.llama_model_n_embd_out(self._model.handle))
        return np.ctypeslib.as_array(pointer, shape=(n_rows, width))

    def n_cached(self, sequence: int) -> int:
        """Number of tokens of a sequence in the KV cache: positions from 0 without a gap."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the context; closing twice is harmless."""
        if not self._closed:
            self._closed = True
            llama_cpp.llama_free(self._handle)


def _remedy(reason: str, settings: ContextSettings) -> str:
    if any(words in reason for words in ("cache type", "cache quant", "quantized V")):
        return "choose other {type_k} and {type_v}"
    fewer = " or {n_seq_max}" if settings.n_seq_max > 1 else ""
    return f"a smaller {{n_ctx}}{fewer} needs less memory"


def _params(settings: ContextSettings) -> llama_cpp.llama_context_params:
    params: llama_cpp.llama_context_params = llama_cpp.llama_context_default_params()
    params.n_ctx = settings.cells
    params.n_batch = settings.n_batch
    params.n_ubatch = settings.n_ubatch
    params.n_seq_max = settings.n_seq_max
    params.n_outputs_max = settings.max_outputs  # llama.cpp's default, all rows, costs memory
    params.n_threads = settings.threads
    params.n_threads_batch = settings.threads_batch
    params.type_k = _KV_TYPES[settings.type_k]
    params.type_v = _KV_TYPES[settings.type_v]
    params.flash_attn_type = _FLASH_ATTN[settings.flash_attn]
    params.offload_kqv = settings.offload_kqv
    params.embeddings = settings.embeddings
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE  # whatever the file says
    params.kv_unified = True  # a partial llama_memory_seq_cp aborts the process without it
    for name, value in settings.rope.items():
        if name == "rope_scaling":
            params.rope_scaling_type = _ROPE_SCALING[str(value)]
        else:
            setattr(params, name, value)
    return params


class _Rows:
    """The columns of a `llama_batch`, which are filled in place.

    Every row belongs to one sequence, so the table of sequence lists never changes: it points
    into one array of ids. The columns are ctypes arrays: between two steps, when everything has left
    the processor's caches, filling a few rows of them takes half as long as of numpy's.
    """

    def __init__(self, n_batch: int, max_outputs: int) -> None:
        self._max_outputs = max_outputs
        self.size = n_batch
        self.token: Any = (ctypes.c_int32 * n_batch)()
        self.pos: Any = (ctypes.c_int32 * n_batch)()
        self.seq: Any = (ctypes.c_int32 * n_batch)()
        self.output: Any = (ctypes.c_int8 * n_batch)()
        self._n_seq = (ctypes.c_int32 * n_batch)(*[1] * n_batch)
        step = ctypes.sizeof(ctypes.c_int32)
        start = ctypes.addressof(self.seq)
        self._seq_pointers = (ctypes.c_void_p * n_batch)(
            *(start + step * i for i in range(n_batch))
        )
        batch = llama_cpp.llama_batch()
        columns: dict[str, Any] = {
            "token": self.token,
            "pos": self.pos,
            "n_seq_id": self._n_seq,
            "seq_id": self._seq_pointers,
            "logits": self.output,
        }
        for field in llama_cpp.llama_batch._fields_:
            name, kind = field[0], cast(Any, field[1])
            if name in columns:
                setattr(batch, name, ctypes.cast(columns[name], kind))
        self._batch = batch

    def fill(self, batch: Batch) -> llama_cpp.llama_batch:
        n = len(batch.tokens)
        if not 0 < n <= self.size:
            raise InvalidRequestError(
                "a batch of {n} rows; {param} is {most}", "n_batch", n=n, most=self.size
            )
        if len(batch.output_rows) > self._max_outputs:  # llama.cpp would abort the process
            raise InvalidRequestError(
                "a batch with {n} outputs; {most} is the most",
                "n_batch",
                n=len(batch.output_rows),
                most=self._max_outputs,
            )
        self.token[:n] = batch.tokens
        self.pos[:n] = batch.positions
        self.seq[:n] = batch.seq_ids
        flags = [0] * n
        for row in batch.output_rows:
            flags[row] = 1
        self.output[:n] = flags
        self._batch.n_tokens = n
        return self._batch

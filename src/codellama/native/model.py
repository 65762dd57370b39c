"""A loaded model and its vocabulary.

`Model` owns the native model and its memory; `Tokenizer` is a read-only view of its vocabulary and may
be used from any thread. Neither knows about chat formats or contexts.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import llama_cpp

from codellama.errors import (
    EngineDeadError,
    InvalidRequestError,
    ModelLoadError,
    UnsupportedError,
    check_text,
)
from codellama.native.backends import Device, device_handles, host_buffer_type
from codellama.native.library import library
from codellama.native.load import LoadProgress, load_weights
from codellama.native.settings import WeightSettings

_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
_UNMERGED = "☺"
_LONGEST_VALUE = 4096  # bytes of an adapter's metadata value
_OVERRIDE_INT, _OVERRIDE_FLOAT, _OVERRIDE_BOOL = 0, 1, 2


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter in memory, and what its file says of the task it is for."""

    handle: llama_cpp.llama_adapter_lora_p
    task_name: str = ""
    prompt_prefix: str = ""


class Model:
    """A GGUF in memory. Close it (or use it as a context manager) to give the memory back."""

    def __init__(
        self,
        path: Path,
        settings: WeightSettings | None = None,
        progress: LoadProgress | None = None,
        vocabulary: Path | None = None,
    ) -> None:
        """Load `path`, by default with all layers on the CPU.

        `vocabulary` is a GGUF that has another vocabulary of the same size, to be used in place of its own.
        Raises ModelLoadError with llama.cpp's own reason if it cannot, and what `progress` raises.
        """
        settings = settings or WeightSettings()
        lib = library()
        params, _alive = model_params(settings)
        lib.clear_errors()
        handle = load_weights(path, params, progress)
        if not handle:
            reason = lib.last_error() or "no reason given"
            raise ModelLoadError(f"llama.cpp could not load {path}: {reason}")
        self._handle: llama_cpp.llama_model_p | None = handle
        self._users = 0
        self._unused = threading.Condition()
        self._vocabulary: Model | None = None
        if vocabulary is not None:
            lent = WeightSettings(overrides=settings.overrides, vocab_only=True)
            try:
                self._vocabulary = Model(vocabulary, lent)
            except BaseException:
                self.close()
                raise
        self.tokenizer = Tokenizer(self._vocabulary or self)

    @property
    def handle(self) -> llama_cpp.llama_model_p:
        """The native pointer. Raises EngineDeadError after `close`."""
        if self._handle is None:
            raise EngineDeadError("the model has been closed: load it again")
        return self._handle

    def load_adapter(self, path: str) -> LoraAdapter:
        """A LoRA adapter for this model, freed together with it.

        Raises ModelLoadError, or UnsupportedError for one that only acts behind certain tokens.
        """
        lib = library()
        lib.clear_errors()
        handle: llama_cpp.llama_adapter_lora_p | None = llama_cpp.llama_adapter_lora_init(
            self.handle, path.encode()
        )
        if not handle:
            reason = lib.last_error() or "no reason given"
            raise ModelLoadError(f"llama.cpp could not load the LoRA adapter {path}: {reason}")
        if llama_cpp.llama_adapter_get_alora_n_invocation_tokens(handle):
            raise UnsupportedError(
                f"lora: {path} is an activated LoRA (aLoRA), which is switched on inside a prompt: "
                "this runtime applies an adapter to a whole request"
            )
        return LoraAdapter(
            handle,
            _adapter_value(handle, "adapter.lora.task_name"),
            _adapter_value(handle, "adapter.lora.prompt_prefix"),
        )

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keeps the model in memory while a thread is inside native code that reads it.

        Raises EngineDeadError after `close`, which waits for those that are inside.
        """
        with self._unused:
            if self._handle is None:
                raise EngineDeadError("the model has been closed: load it again")
            self._users += 1
        try:
            yield
        finally:
            with self._unused:
                self._users -= 1
                self._unused.notify_all()

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(llama_cpp.llama_model_size(self.handle))

    def close(self) -> None:
        """Free the model; contexts on it must be closed before. Closing twice is harmless."""
        with self._unused:
            handle, self._handle = self._handle, None
            self._unused.wait_for(lambda: self._users == 0)
        if handle is not None:
            llama_cpp.llama_model_free(handle)
        if self._vocabulary is not None:
            self._vocabulary.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Tokenizer:
    """The vocabulary of a model: text to ids and back. Text never becomes a control token unless
    `parse_special` is set."""

    def __init__(self, model: Model) -> None:
        self._model = model  # keeps the vocabulary alive
        vocab = llama_cpp.llama_model_get_vocab(model.handle)
        if not vocab:
            raise ModelLoadError("the model has no vocabulary")
        self.handle = vocab
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(vocab)
        self.bos: int = llama_cpp.llama_vocab_bos(vocab)
        self.add_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))
        self.eos: int = llama_cpp.llama_vocab_eos(vocab)
        self.add_space_prefix = self.decode(self.encode("a")).startswith(" ")

    @property
    def model(self) -> Model:
        """The model whose vocabulary this is."""
        return self._model

    def encode(
        self, text: str, *, add_bos: bool = False, parse_special: bool = False, raw: bool = False
    ) -> list[int]:
        """Token ids of `text`. With `parse_special`, the names of control tokens become them.

        `raw` leaves out the space that the vocabulary puts before a text, where it does.
        """
        if raw and self.add_space_prefix:
            # Behind a character that merges with nothing; its own ids are dropped (Meta's
            # encode_infilling does the same and drops a fixed two).
            lead = self.encode(_UNMERGED)
            return self.encode(_UNMERGED + text)[len(lead) :]
        check_text(text, "prompt")
        data = text.encode()
        room = len(data) + 8
        while True:
            buffer = (llama_cpp.llama_token * room)()
            with self._model.using():
                n = llama_cpp.llama_tokenize(
                    self.handle, data, len(data), buffer, room, add_bos, parse_special
                )
            if n >= 0:
                return buffer[:n]
            if -n <= room:
                raise InvalidRequestError("the text cannot be tokenized", "prompt")
            room = -n

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        with self._model.using():
            return [self._piece(token) for token in range(self.n_vocab)]

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = llama_cpp.llama_token_to_piece(self.handle, token, buffer, room, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for control tokens."""
        if not 0 <= token < self.n_vocab:
            raise InvalidRequestError(
                "token id {token} is not in the vocabulary (0 to {last})",
                "tokens",
                token=token,
                last=self.n_vocab - 1,
            )
        return self._pieces[token]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """The vocabulary's own entry for a token, such as "▁def" or "<step>"."""
        self.piece(token)  # checks the range
        with self._model.using():
            text = llama_cpp.llama_vocab_get_text(self.handle, token)
        return text.decode("utf-8", "replace") if text else ""

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {self.token_text(token): token for token in reversed(range(self.n_vocab))}

    def token_id(self, text: str) -> int | None:
        """The id of a vocabulary entry, or None."""
        return self._ids.get(text)

    @functools.cached_property
    def eog_tokens(self) -> frozenset[int]:
        """All tokens that end a generation."""
        with self._model.using():
            return frozenset(
                t for t in range(self.n_vocab) if llama_cpp.llama_vocab_is_eog(self.handle, t)
            )


def model_params(settings: WeightSettings) -> tuple[llama_cpp.llama_model_params, tuple[Any, ...]]:
    """llama.cpp's parameters of a load, and the tables they point to, which must live as long.

    Raises InvalidRequestError for more shares than llama.cpp takes, UnsupportedError for a device that is
    gone.
    """
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = settings.n_gpu_layers
    params.main_gpu = settings.main_gpu
    params.split_mode = _SPLIT_MODES[settings.split_mode]
    params.load_mode = _LOAD_MODES[settings.use_mmap, settings.use_mlock]
    params.vocab_only = settings.vocab_only
    params.use_extra_bufts = settings.rearrange
    split, devices = _tensor_split(settings.tensor_split), _device_table(settings.devices)
    stay, overrides = _host_table(settings.host_tensors), _override_table(settings.overrides)
    if split is not None:
        params.tensor_split = split
    if devices is not None:
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
    if settings.host_tensors:
        params.tensor_buft_overrides = ctypes.cast(stay, ctypes.c_void_p)
    params.kv_overrides = overrides
    return params, (split, devices, stay, overrides)


class _BufferOverride(ctypes.Structure):
    """`llama_model_tensor_buft_override` of llama.h, which llama_cpp does not bind."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


def _host_table(patterns: Sequence[str]) -> ctypes.Array[_BufferOverride]:
    """The tensors that stay in main memory, ended by an empty entry."""
    table = (_BufferOverride * (len(patterns) + 1))()
    for entry, pattern in zip(table, patterns, strict=False):
        entry.pattern, entry.buffer_type = pattern.encode(), host_buffer_type()
    return table


def _device_table(devices: tuple[Device, ...]) -> ctypes.Array[ctypes.c_void_p] | None:
    """ggml's pointers of these devices, ended by NULL; None for no choice."""
    if not devices:
        return None
    return (ctypes.c_void_p * (len(devices) + 1))(*device_handles(devices), None)


def _tensor_split(shares: Sequence[float]) -> ctypes.Array[ctypes.c_float] | None:
    if not shares:
        return None
    most = int(llama_cpp.llama_max_devices())
    if len(shares) > most:
        raise InvalidRequestError(
            "{param} has {n} shares, llama.cpp takes {most}",
            "tensor_split",
            n=len(shares),
            most=most,
        )
    return (ctypes.c_float * most)(*shares)


def _adapter_value(handle: llama_cpp.llama_adapter_lora_p, key: str) -> str:
    """A text of an adapter's metadata; empty if it has none."""
    buffer = ctypes.create_string_buffer(_LONGEST_VALUE)
    n = llama_cpp.llama_adapter_meta_val_str(handle, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if n > 0 else ""


def _override_table(
    overrides: Mapping[str, int | float | bool],
) -> ctypes.Array[llama_cpp.llama_model_kv_override]:
    """llama.cpp's array of overrides, ended by an entry with an empty key."""
    table = (llama_cpp.llama_model_kv_override * (len(overrides) + 1))()
    for entry, (key, value) in zip(table, overrides.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, bool):
            entry.tag, entry.value.val_bool = _OVERRIDE_BOOL, value
        elif isinstance(value, int):
            entry.tag, entry.value.val_i64 = _OVERRIDE_INT, value
        else:
            entry.tag, entry.value.val_f64 = _OVERRIDE_FLOAT, value
    return table

"""The pickle of a torch archive, read by a machine that knows tensors and nothing else.

Pickle is a program. Python's own reader looks up and calls whatever the program names, so it is not used
here: this machine has the few instructions that `torch.save` writes for a dictionary of tensors. What they
may name is a closed list, and naming something calls nothing: a tensor becomes a row of numbers that says
where its bytes lie. Everything else is refused by name. Format: `pickletools` of Python; the calls are those
of `torch/_utils.py` and `torch/serialization.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import CheckpointError
from codellama.files.small_files import shown

MOST_INSTRUCTIONS = 2**19
"""Longest program that is run: the 70B's has thirty thousand instructions."""

_MOST_DIMS = 8
_MOST_COUNT = 2**63
_MOST_TEXT = 2**16

_STORAGES = {
    "BFloat16Storage": "BF16", "HalfStorage": "F16", "FloatStorage": "F32", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip

_DICT, _TENSOR, _PARAMETER = "an ordered dictionary", "a tensor", "a parameter"
_NAMES: Mapping[tuple[str, str], str] = {
    ("collections", "OrderedDict"): _DICT,
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}
"""All that a program may name, and what it means here."""

_SAFER = "get the safetensors files, or save the state_dict alone with torch"


@dataclass(frozen=True)
class Storage:
    """The record `data/<key>` as `count` numbers of type `dtype`."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class PickledTensor:
    """A tensor as a part of a storage: from number `first` on, `strides` numbers apart by dimension."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie in a row, as they do unless it was transposed or cut."""
        step = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step and 0 not in self.shape:
                return False
            step *= length
        return True


@dataclass(frozen=True)
class _Named:
    """Something that the program named: one of `_NAMES`."""

    meaning: str


def read_tensors(path: Path, program: bytes) -> dict[str, PickledTensor]:
    """The tensors of the dictionary that `program`, the pickle in the archive `path`, stands for.

    Raises:
        CheckpointError: the program is damaged, or does anything but put tensors into a dictionary.
    """
    result = _Machine(path, program).run()
    if not isinstance(result, dict):
        raise CheckpointError(f"{path}: its pickle holds no dictionary of tensors", _SAFER)
    for name, value in result.items():
        if not isinstance(value, PickledTensor):
            raise CheckpointError(f"{path}: {shown(name)} in its pickle is no tensor", _SAFER)
    return result


class _Machine:
    """Runs one program; `stack` and `memo` hold plain values, tensors and `_Named` only."""

    def __init__(self, path: Path, program: bytes) -> None:
        self.path = path
        self.program = program
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def fault(self, message: str, remedy: str = "") -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}", remedy)

    def damaged(self, what: str) -> CheckpointError:
        return self.fault(f"damaged pickle: {what} at byte {self.position}", "download it again")

    def run(self) -> Any:
        for _ in range(MOST_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                if len(self.stack) != 1 or self.marks:
                    raise self.damaged("the end")
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise self.fault(
                    f"its pickle has the instruction {code!r}, which no tensors need", _SAFER
                )
            instruction(self)
        raise self.fault(f"its pickle has more than {MOST_INSTRUCTIONS} instructions")

    # -- reading -------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        data = self.program[self.position : self.position + count]
        if len(data) != count:
            raise self.damaged("the program ends")
        self.position += count
        return data

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self, form: str) -> str:
        count = self.number(form)
        if count > _MOST_TEXT:
            raise self.damaged(f"a text of {count} bytes")
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text that is not UTF-8") from None

    def line(self) -> str:
        end = self.program.find(b"\n", self.position, self.position + _MOST_TEXT)
        line = self.take(end + 1 - self.position if end >= 0 else _MOST_COUNT)
        return line[:-1].decode("utf-8", "replace")

    # -- the stack -----------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.damaged("a value is missing")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        if not self.marks:
            raise self.damaged("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def remember(self, index: int) -> None:
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.damaged("a value that was never kept")
        self.push(self.memo[index])

    # -- what the instructions mean ------------------------------------------------------------

    def protocol(self) -> None:
        version = self.number("<B")
        if version > 5:
            raise self.fault(f"its pickle is of protocol {version}: 2 to 5 are known")

    def frame(self) -> None:
        """How many bytes a reader of streams may fetch at once."""
        self.take(8)

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.damaged("a name that is no text")
        if (module, name) not in _NAMES:
            raise self.fault(
                f"its pickle names {shown(f'{module}.{name}')}: it holds more than tensors, and "
                "nothing else is read from a pickle",
                _SAFER,
            )
        self.push(_Named(_NAMES[module, name]))

    def name_from_stack(self) -> None:
        name = self.pop()
        self.name(self.pop(), name)

    def set_items(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise self.damaged("entries without a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                raise self.damaged(f"the entry {shown(key)}, which is no text or there twice,")
            target[key] = value
        self.push(target)

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def build(self) -> None:
        """Attributes of a dictionary, as `_metadata` of a state_dict: they change no tensor."""
        state, target = self.pop(), self.pop()
        if not isinstance(state, dict) or not isinstance(target, dict):
            raise self.damaged("attributes of something else than a dictionary")
        self.push(target)

    def storage(self) -> None:
        match self.pop():
            case ("storage", _Named(dtype), str(key), str(), int(count)) if (
                dtype in _STORAGES.values() and 0 <= count < _MOST_COUNT and key.isascii()
            ):
                self.push(Storage(key, dtype, count))
            case _:
                raise self.damaged("a storage of an unknown form")

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        match function, arguments:
            case _Named(meaning), () if meaning == _DICT:
                self.push({})
            case _Named(meaning), (PickledTensor() as tensor, bool(), dict()) if (
                meaning == _PARAMETER
            ):
                self.push(tensor)
            case _Named(meaning), (
                Storage() as storage, int(first), tuple(shape), tuple(strides), bool(), dict(), *_,
            ) if meaning == _TENSOR:  # fmt: skip
                self.push(self.tensor(storage, first, shape, strides))
            case _:
                raise self.damaged("a call of an unknown form")

    def tensor(
        self, storage: Storage, first: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
    ) -> PickledTensor:
        if len(shape) != len(strides) or len(shape) > _MOST_DIMS:
            raise self.damaged("a tensor of an impossible shape")
        if not all(map(_is_count, [first, *shape, *strides])):
            raise self.damaged("a tensor of an impossible shape")
        if first + math.prod(shape) > storage.count:
            raise self.damaged("a tensor beyond the end of its storage")
        return PickledTensor(storage, first, shape, strides)


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < _MOST_COUNT


def _pushes(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value)


def _number(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.number(form))


def _text(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.text(form))


def _tuple(count: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.pop_tuple(count)


def _long(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))


def _global(machine: _Machine) -> None:
    module = machine.line()
    machine.name(module, machine.line())


_INSTRUCTIONS: Mapping[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"c": _global,
    b"\x93": _Machine.name_from_stack,
    b"q": lambda machine: machine.remember(machine.number("<B")),
    b"r": lambda machine: machine.remember(machine.number("<I")),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"h": lambda machine: machine.recall(machine.number("<B")),
    b"j": lambda machine: machine.recall(machine.number("<I")),
    b"(": lambda machine: machine.marks.append(len(machine.stack)),
    b"X": _text("<I"),
    b"\x8c": _text("<B"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"J": _number("<i"),
    b"\x8a": _long,
    b"\x88": _pushes(True),
    b"\x89": _pushes(False),
    b"N": _pushes(None),
    b")": _pushes(()),
    b"t": lambda machine: machine.push(tuple(machine.pop_marked())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"}": lambda machine: machine.push({}),
    b"s": _Machine.set_item,
    b"u": lambda machine: machine.set_items(machine.pop_marked()),
    b"b": _Machine.build,
    b"Q": _Machine.storage,
    b"R": _Machine.call,
}
"""The instructions of `pickletools` that are carried out."""

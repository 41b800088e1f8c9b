"""Reads the pickles inside PyTorch files as data.

A pickle is a program. This reader interprets only the few instructions that describe tensors in
containers, so there is nothing that a file could make it call. It refuses everything else, by name.
"""

import pickletools
from collections.abc import Callable, Iterable
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ddad_jax.errors import UserError

STORAGE_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


MAX_AXES = 8


class Global(NamedTuple):
    """The name of a function or class; never the thing itself."""

    module: str
    name: str


class Storage(NamedTuple):
    """A run of numbers stored elsewhere in the file."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Malformed(Exception):
    """The pickle makes no sense; the caller adds the file's name."""


class Contents(NamedTuple):
    """A pickle's value, and every storage that it mentions by key."""

    value: Any
    storages: dict[str, Storage]


def _filled(target: dict, pairs: Iterable[Any]) -> dict:
    for key, value in pairs:
        # Only flat keys: hashing a deeply nested one would overflow the interpreter's stack.
        if type(key) not in (str, int, float, bool):
            raise Malformed(f"a dict with a key of type {type(key).__name__}")
        target[key] = value
    return target


def _ordered_dict(items: Any = ()) -> dict:
    return _filled({}, items)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise Malformed("a tensor without storage, or with sizes that do not fit its strides")
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise Malformed("a tensor's sizes, strides and offset must be whole numbers from 0")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _size(numbers: Any = ()) -> tuple:
    return tuple(numbers)


CALLS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("torch", "Size"): _size,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
}
STORAGES = {Global("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()}

_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def read_pickle(stream: BufferedReader | BytesIO, name: str) -> Contents:
    """Reads what a pickle describes, and leaves the stream behind it.

    Args:
      stream: at the start of a pickle.
      name: name of the file in errors.

    Returns:
      A value of constants, numbers, strings, lists, tuples, dicts, and the records of this module;
      and the storages.

    Raises:
      UserError: the pickle is truncated or malformed, or uses something that is not allowed.
    """
    try:
        machine = _Machine(name)
        return Contents(machine.run(stream), machine.storages)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, Malformed) as problem:
        raise UserError(
            f"{name}: is not a readable PyTorch file ({problem}); fetch it again"
        ) from problem


class _Machine:
    """A stack, a memo, and the instructions that move values between them."""

    def __init__(self, name: str):
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, stream: BufferedReader | BytesIO) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise Malformed("it has no end")

    def refuse(self, what: str) -> UserError:
        return UserError(
            f"{self.name}: refused, because its pickle wants {what}, which is not on the list of "
            "harmless names; nothing was executed. Use a file that holds only tensors"
        )

    def since_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise Malformed("a mark is missing")
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def step(self, name: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _PUSHED:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
            case "LIST":
                stack.append(self.since_mark())
            case "DICT":
                items = self.since_mark()
                stack.append(_filled({}, zip(items[::2], items[1::2], strict=True)))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = self.since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _filled(stack[-1], [(key, value)])
            case "SETITEMS":
                items = self.since_mark()
                _filled(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                self.push_global(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                self.push_global(module, attribute)
            case "BINPERSID":
                self.push_storage(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, Global) or function not in CALLS:
                    raise Malformed("it calls something that is not a function")
                stack.append(CALLS[function](*arguments))
            case "BUILD":
                # PyTorch attaches version numbers to the state dict; they are not needed here.
                stack.pop()
                if type(stack[-1]) is not dict:
                    raise Malformed("it sets attributes of something that is not a dict")
            case _:
                raise self.refuse(f"the instruction {name}")

    def push_storage(self, storage: Storage) -> None:
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Malformed(f"storage {storage.key!r} is described in two ways")
        self.stack.append(storage)

    def push_global(self, module: Any, attribute: Any) -> None:
        if type(module) is not str or type(attribute) is not str:
            raise Malformed("a global without name")
        wanted = Global(module, attribute)
        if wanted not in CALLS and wanted not in STORAGES:
            raise self.refuse(f"'{module}.{attribute}'")
        self.stack.append(wanted)


def _storage(reference: Any) -> Storage:
    """Returns a storage from ("storage", type, key, device, size) and, in old files, a view."""
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
        raise Malformed("a reference to something that is not a storage")
    _, kind, key, _, size, *view = reference
    if not isinstance(kind, Global) or kind not in STORAGES:
        raise Malformed("a storage without type")
    if type(key) is not str or type(size) is not int or size < 0:
        raise Malformed("a storage without key or size")
    if view and view[0] is not None:
        raise Malformed("a storage that is a view of another one")
    return Storage(key, STORAGES[kind], size)

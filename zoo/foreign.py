"""Files of other people that hold Python pickles, read without running anything in them.

Unpickling runs what a file names. Here a small machine reads the opcodes itself and knows how to make tensors, arrays,
dicts, lists, tuples, numbers, strings and bytes; a file that names anything else is refused, and no name in a file is
ever imported. Python's own unpickler would not do: restricted by ``find_class`` it still sets attributes of what it
made and reserves whatever memory a damaged length asks for.

All arrays are read-only. Bytes stored as they are stay in the file and are mapped from there, so a file larger than
memory can be read; such arrays may be unaligned. Formats: https://docs.python.org/3/library/pickletools.html,
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and ``torch/serialization.py`` of torch 2.6.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import IntegrityError, UsageError, ZooError

Buffer = mmap.mmap | bytes

DEPTH = 100
"""Deepest nesting of containers; published files need fewer than ten levels."""
EXPANSION = 20
"""How many times larger than its bytes in the file something may become (noise like EEG hardly deflates) …"""
ALWAYS = 1 << 24
"""… and the size in bytes up to which it always may."""
MAPPED = 1 << 16
"""Byte strings of this length or more are not copied while a pickle is read."""
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
SCALARS = frozenset({str, bytes, int, float, bool, type(None)})


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote (zip since 1.6, the stream before, the tar of 0.1), tensors as read-only arrays.

    Tensors keep shape, strides and shared memory, and are mapped from the file unless it is compressed; bfloat16
    becomes float32, a parameter its data. Attributes of an ``OrderedDict`` (``_metadata``) are dropped. Of a module
    that ``torch.jit.save`` wrote, parameters and buffers come back by their dotted names; its code is not looked at.

    Raises:
        IntegrityError: The file names something that is not on the list, nests too deeply or unpacks to too much.
        UsageError: It is not such a file, or it is damaged or cut off.
    """
    with _opened(path, "a file written by torch.save") as data:
        if data[:4] == b"PK\x03\x04":
            return _torch_zip(path, data)
        if data[257:262] == b"ustar":
            return _torch_tar(data)
        return _torch_stream(data)


def read_pickle(path: Path) -> Any:
    """A plain pickle of any protocol; a string of Python 2 comes back as str if it is ASCII, else as bytes.

    Raises:
        IntegrityError: The file names something that is not on the list or nests too deeply.
        UsageError: It is not a pickle, or it is damaged or cut off.
    """
    with _opened(path, "a pickle") as data:
        return _Machine(data).load()


def read_npy(path: Path) -> Any:
    """A ``.npy`` file: plain arrays mapped, object arrays as from a pickle (0-d ones unwrapped), or a misnamed pickle.

    Raises:
        IntegrityError: The file names something that is not on the list or nests too deeply.
        UsageError: It is not such a file, or it is damaged or cut off.
    """
    with _opened(path, "a .npy file") as data:
        if data[:6] != b"\x93NUMPY":
            return _Machine(data).load()
        head = io.BytesIO(data[: 1 << 17])
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version} is for structured arrays")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header of Python 2 (3L) is slower to read
            shape, fortran, dtype = read(head)
        if dtype != np.dtype(object):
            return _array(_Dtype.plain(dtype), shape, memoryview(data)[head.tell() :], "F" if fortran else "C")
        value = _Machine(data, head.tell()).load()
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
            raise ValueError("the array is not the one in its header")
        return value if shape else value.item()


class _RefusedError(Exception):
    """A file asks for what is not on the list; the message is the rest of the sentence."""


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[mmap.mmap]:
    """The bytes of a file; whatever goes wrong while they are read becomes a sentence about the file."""
    try:
        with path.open("rb") as file:
            yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ZooError:
        raise
    except _RefusedError as error:
        raise IntegrityError(
            f"{path} must hold only tensors, arrays, dicts, lists, numbers and strings, but {error}; nothing in it was "
            "run: do not open it with anything else, and get the file from its authors."
        ) from error
    except Exception as error:  # damaged bytes can fail anywhere, in numpy and zipfile too
        reason = _quoted(str(error) or type(error).__name__)
        raise UsageError(f"{path} must be {kind}, but it cannot be read ({reason}); get it again.") from error


def _quoted(text: str) -> str:
    """Text out of a file, fit for a sentence: one line, printable, not long."""
    plain = text.encode("unicode_escape").decode()
    return plain if len(plain) <= 200 else f"{plain[:200]}…"


@dataclass(frozen=True, slots=True)
class _Named:
    """A module-level name in a file: only a name, nothing was looked up."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """A ``numpy.dtype``, its byte order still to come."""

    dtype: np.dtype[Any]

    @staticmethod
    def plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
        if dtype.kind not in "biufcSU":
            raise _RefusedError(f"names the dtype {_quoted(str(dtype))}")
        return dtype

    def build(self, state: Any) -> None:
        _version, order, *parts = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]) or len(parts) > 6:
            raise _RefusedError("names a structured dtype")
        if self.dtype.kind in "SU" and parts[3] != self.dtype.itemsize:
            raise ValueError("a dtype of two sizes")
        if self.dtype.kind != "O" and order != "|":
            self.dtype = self.dtype.newbyteorder(order)


@dataclass(slots=True, eq=False)
class _Array:
    """A ``numpy.ndarray``, its contents still to come."""

    state: tuple[Any, ...] | None = None

    def build(self, state: Any) -> None:
        self.state = state

    def finished(self, done: _Finish) -> np.ndarray:
        if self.state is None:
            raise ValueError("an array without contents")
        _version, shape, dtype, fortran, raw = self.state
        done.spend(len(raw))
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a dtype")
        if dtype.dtype != np.dtype(object):
            return _array(dtype.dtype, shape, _raw(raw), "F" if fortran else "C", whole=True)
        if type(raw) is not list or len(raw) != math.prod(_sizes(shape)):
            raise ValueError("an array of another size than its contents")
        array = np.empty(len(raw), dtype=object)
        done.known[id(self)] = (self, view := array.reshape(shape))
        for index, value in enumerate(raw):
            array[index] = done(value)
        array.flags.writeable = view.flags.writeable = False
        return view


@dataclass(slots=True, eq=False)
class _Module:
    """A module in a TorchScript archive: only its attributes."""

    state: Any = None

    def build(self, state: Any) -> None:
        self.state = state

    def finished(self, done: _Finish) -> dict[str, np.ndarray]:
        """Its tensors, and those of the modules in it, by dotted name."""
        if type(self.state) is not dict:
            raise ValueError("a module without attributes")
        found = {}
        for name, value in self.state.items():
            if isinstance(value, _Tensor):
                found[name] = done(value)
            elif isinstance(value, _Module):
                found |= {f"{name}.{inner}": array for inner, array in done(value).items()}
        done.spend(len(found))
        return found


@dataclass(slots=True, eq=False)
class _Storage:
    """Memory of torch: ``size`` elements; ``raw`` is filled in when it is found."""

    dtype: str
    size: int
    raw: memoryview | None = None
    root: tuple[_Storage, int] | None = None
    floats: np.ndarray | None = field(default=None, repr=False)

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype.replace("bf", "f")).itemsize

    def array(self) -> np.ndarray:
        """All elements; those of bfloat16 are converted once, so views of them go on sharing memory."""
        if self.floats is not None:
            return self.floats
        raw = self.raw
        if self.root is not None:
            storage, first = self.root
            if self.dtype == "bf2":  # every view would be another copy; bfloat16 is younger than such views
                raise ValueError("a view of bfloat16")
            raw = storage.raw and storage.raw[first * self.itemsize :]
        if raw is None or len(raw) < self.size * self.itemsize:
            raise ValueError("a storage is cut off")
        if self.dtype != "bf2":
            return np.frombuffer(raw, self.dtype, self.size) if self.size else np.empty(0, self.dtype)
        self.floats = (np.frombuffer(raw, "<u2", self.size).astype(np.uint32) << 16).view(np.float32)
        return self.floats


@dataclass(slots=True, eq=False)
class _Tensor:
    """A tensor, its storage perhaps still to come."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def finished(self, done: _Finish) -> np.ndarray:
        flat = self.storage.array()
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) == 0:
            return _read_only(np.empty(self.shape, flat.dtype))
        if last >= flat.size:
            raise ValueError("a tensor reaches beyond its storage")
        if math.prod(self.shape) * flat.itemsize > max(ALWAYS, EXPANSION * flat.nbytes):
            raise _RefusedError("repeats a number too often")
        strides = tuple(stride * flat.itemsize for stride in self.strides)
        return _read_only(np.ndarray(self.shape, flat.dtype, flat.data, self.offset * flat.itemsize, strides))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _sizes(value: Any) -> tuple[int, ...]:
    """Shapes, strides and sizes: so few and so small that their product is quickly found."""
    if (
        type(value) not in (tuple, list)
        or len(value) > 64
        or any(type(n) is not int or not 0 <= n < 1 << 63 for n in value)
    ):
        raise ValueError("a shape that is not a few whole numbers")
    return tuple(value)


def _raw(value: Any) -> memoryview:
    """Bytes of an array or a number; those of Python 2 that happened to be ASCII were read as text."""
    if type(value) is str:
        value = value.encode("ascii")
    if type(value) not in (bytes, memoryview):
        raise ValueError("contents that are not bytes")
    return memoryview(value)


def _array(dtype: np.dtype[Any], shape: Any, raw: memoryview, order: Any, *, whole: bool = False) -> np.ndarray:
    size = math.prod(_sizes(shape)) * _Dtype.plain(dtype).itemsize
    if size > len(raw) or (whole and size != len(raw)):
        raise ValueError("an array of another size than its contents")
    if size == 0:
        if math.prod(shape) > 1:
            raise ValueError("strings without a length")
        return _read_only(np.zeros(shape, dtype))
    array: np.ndarray = np.ndarray(shape, dtype, raw[:size], order=order)
    if dtype.kind == "U" and array.size and int(array.ravel("K").view(f"{dtype.str[0]}u4").max()) > 0x10FFFF:
        raise ValueError("text that is not Unicode")
    return _read_only(array)


def _make_array(kind: Any, _shape: Any, _code: Any) -> _Array:
    if kind != _Named("numpy.ndarray"):
        raise _RefusedError(f"makes an array of {_what(kind)}")
    return _Array()


def _make_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    array = _array(_dtype(dtype), shape, _raw(raw), "F" if order == "F" else "C", whole=True)
    return array.transpose(_sizes(axes)) if order == "K" and axes is not None else array


def _make_number(dtype: Any, raw: Any) -> Any:
    return _array(_dtype(dtype), (), _raw(raw), "C", whole=True)[()]


def _dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, _Dtype):
        raise ValueError("no dtype where one must be")
    return value.dtype


def _make_dtype(code: Any, *_flags: Any) -> _Dtype:
    if type(code) is not str or not re.fullmatch(r"[biufcSU]\d{1,9}|\?|O[48]?", code):
        raise _RefusedError(f"names the dtype {_what(code)}")
    return _Dtype(np.dtype("O" if code[0] == "O" else code))


def _make_bytes(text: Any, codec: Any) -> bytes:
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise _RefusedError(f"names the codec {_what(codec)}")
    return text.encode("latin1")


def _make_ordered_dict(*lists: Any) -> OrderedDict[Any, Any]:
    if any(type(pairs) is not list for pairs in lists):
        raise ValueError("an OrderedDict of something else than a list of pairs")
    return OrderedDict((_key(key), value) for pairs in lists for key, value in pairs)


def _make_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    if more[2:] and more[2]:  # requires_grad, hooks, then what says that it is a conjugate or a negative
        raise _RefusedError("names a tensor that is a conjugate or a negative")
    (offset,) = _sizes((offset,))
    shape, strides = _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise ValueError("a tensor with another number of strides than dimensions")
    return _Tensor(storage, offset, shape, strides)


def _make_parameter(tensor: Any, *_flags: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise ValueError("a parameter without a tensor")
    return tensor


_STORAGES = {
    f"torch.{where}{name}Storage": dtype
    for where in ("", "cuda.")
    for name, dtype in {
        "Double": "<f8",
        "Float": "<f4",
        "Half": "<f2",
        "BFloat16": "bf2",
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
        "ComplexFloat": "<c8",
        "ComplexDouble": "<c16",
    }.items()
}
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _make_dtype,
    "_codecs.encode": _make_bytes,
    "__builtin__.bytes": lambda: b"",  # how protocols before 3 write b""
    "builtins.bytes": lambda: b"",
    "collections.OrderedDict": _make_ordered_dict,
    "torch._utils._rebuild_tensor": _make_tensor,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray._reconstruct"] = _make_array
    _CALLS[f"{_core}.multiarray.scalar"] = _make_number
    _CALLS[f"{_core}.numeric._frombuffer"] = _make_from_buffer
_SCRIPT_LISTS = {
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
}
"""Names by which TorchScript writes a list that follows; only the list is taken."""
_TENSORS = {name.replace("Storage", "Tensor") for name in _STORAGES}
_NAMES = {*_CALLS, *_STORAGES, *_TENSORS, "numpy.ndarray"}


def _what(value: Any) -> str:
    """How a value is called in a sentence that refuses it."""
    if isinstance(value, _Named):
        return value.name
    if type(value) is str:
        return repr(_quoted(value))
    kind = type(value).__name__.strip("_").lower()
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _key(value: Any) -> Any:
    """A dict key that hashes at once: tuples of tuples and long integers can be made to hash for years."""
    for part in value if type(value) is tuple else (value,):
        if type(part) not in SCALARS and not isinstance(part, np.generic):
            raise _RefusedError(f"has {_what(part)} in a key")
        if type(part) is int and part.bit_length() > 64:
            raise _RefusedError("has a number of more than 64 bits in a key")
    return value


class _Finish:
    """Replace whatever stands for an array or a tensor by that, in place; every object once."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        self.spend = spend
        self.known: dict[int, tuple[Any, Any]] = {}  # with the object itself, or its id could be used again
        self.depth = 0

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if kind in SCALARS:
            return value
        if id(value) in self.known:
            return self.known[id(value)][1]
        self.depth += 1
        if self.depth > DEPTH:
            raise _RefusedError(f"nests deeper than {DEPTH} levels")
        if kind is list:
            self.known[id(value)] = (value, value)
            value[:] = [self(item) for item in value]
            result = value
        elif kind in (dict, OrderedDict):
            self.known[id(value)] = (value, value)
            for key, item in value.items():
                value[key] = self(item)
            result = value
        elif kind is memoryview:
            result = bytes(value)
        elif kind is tuple:
            result = tuple([self(item) for item in value])
        elif isinstance(value, _Array | _Tensor | _Module):
            result = value.finished(self)
        elif isinstance(value, (np.ndarray, np.generic)):
            result = value
        else:
            raise _RefusedError(f"names {_what(value)}")
        self.known[id(value)] = (value, result)
        self.depth -= 1
        return result


class _Machine:
    """The stack machine of pickle over ``data``, from ``position`` to ``end``; it makes what is on the list.

    ``persistent`` answers the ids of torch's storages.
    """

    def __init__(
        self,
        data: Buffer,
        position: int = 0,
        end: int | None = None,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else min(end, len(data))
        self.persistent = persistent
        self.budget = 2 * (self.end - position) + 4096
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next pickle, everything in it finished."""
        return _Finish(self.spend)(self.run())

    def run(self) -> Any:
        """The next pickle, arrays and tensors still to be finished; ``position`` is then after it."""
        self.stack, self.marks, self.memo = [], [], {}
        while True:
            code = self.data[self.skip(1)]
            if code == pickle.STOP[0]:
                (value,) = self.stack
                return value
            action = _ACTIONS.get(code)
            if action is None:
                raise ValueError(f"no opcode {code:#04x} at byte {self.position - 1}")
            action(self)

    def skip(self, n: int) -> int:
        """Where the next ``n`` bytes begin; goes on behind them."""
        start = self.position
        if n < 0 or start + n > self.end:
            raise EOFError("cut off")
        self.position = start + n
        return start

    def spend(self, n: int) -> None:
        """Copy ``n`` bytes or items: a file that has the same ones copied over and over would fill any memory."""
        self.budget -= n
        if self.budget < 0:
            raise _RefusedError("copies the same contents over and over")

    def number(self, layout: str) -> Any:
        return struct.unpack_from(layout, self.data, self.skip(struct.calcsize(layout)))[0]

    def take(self, n: int) -> bytes:
        return self.data[self.skip(n) : self.position]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position, self.end)
        if end < 0:
            raise EOFError("cut off")
        return self.take(end + 1 - self.position)[:-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def top(self, *kinds: type) -> Any:
        """What the next opcode changes, which must be one of these."""
        if type(self.stack[-1]) not in kinds:
            raise _RefusedError(f"changes {_what(self.stack[-1])}")
        return self.stack[-1]

    def name(self, module: Any, name: Any) -> _Named:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not text")
        if f"{module}.{name}" not in _NAMES:
            raise _RefusedError(f"names {_quoted(f'{module}.{name}')}")
        return _Named(f"{module}.{name}")

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict, OrderedDict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if not isinstance(function, _Named) or function.name not in _CALLS:
            raise _RefusedError(f"calls {_what(function)}")
        if type(arguments) is not tuple:
            raise ValueError("arguments that are no tuple")
        self.spend(sum(len(part) for part in arguments if type(part) in (str, bytes, memoryview, list)))
        self.push(_CALLS[function.name](*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.top(_Dtype, _Array, _Module, OrderedDict)
        if type(target) is not OrderedDict:
            target.build(state)

    def make(self) -> None:
        self.stack.pop()
        raise _RefusedError(f"makes {_what(self.stack[-1])}")

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"nothing is kept under {index}")
        self.push(self.memo[index])

    def keep(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def storage(self, identifier: Any) -> None:
        if self.persistent is None:
            raise _RefusedError("names an object outside of the file")
        self.push(self.persistent(identifier))


class _ScriptMachine(_Machine):
    """For TorchScript, where modules have classes of the archive itself, and lists are made by name."""

    def name(self, module: Any, name: Any) -> _Named:
        whole = f"{module}.{name}"
        if re.fullmatch(r"__torch__(\.\w+)+", whole, re.ASCII) or whole in _SCRIPT_LISTS:
            return _Named(whole)
        return super().name(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack[-1], self.stack[-2]
        if isinstance(function, _Named) and function.name in _SCRIPT_LISTS:
            del self.stack[-2:]
            self.push(arguments[0])
        else:
            super().reduce()

    def make(self) -> None:
        kind = self.stack[-2]
        if not isinstance(kind, _Named) or not kind.name.startswith("__torch__"):
            super().make()
        del self.stack[-2:]
        self.push(_Module())


def _python2(raw: bytes) -> str | bytes:
    return raw.decode("ascii") if raw.isascii() else raw


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _quoted_string(machine: _Machine) -> str | bytes:
    raw = machine.line().strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return _python2(codecs.escape_decode(raw[1:-1])[0])


def _long_bytes(layout: str) -> Callable[[_Machine], Any]:
    def read(machine: _Machine) -> bytes | memoryview:
        n = machine.number(layout)
        if n < MAPPED:
            return machine.take(n)
        return memoryview(machine.data)[machine.skip(n) : machine.position]

    return read


def _integer(machine: _Machine) -> int:
    text = machine.line()
    return {b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text)


def _refuse(what: str) -> Callable[[_Machine], Any]:
    def refuse(machine: _Machine) -> Any:
        raise _RefusedError(what)

    return refuse


def _stack_global(machine: _Machine) -> _Named:
    name = machine.stack.pop()
    return machine.name(machine.stack.pop(), name)


def _tuple_of(n: int) -> Callable[[_Machine], None]:
    def build(machine: _Machine) -> None:
        if len(machine.stack) < n:
            raise ValueError("a tuple of nothing")
        machine.stack[-n:] = [tuple(machine.stack[-n:])]

    return build


def _dict_of(machine: _Machine) -> None:
    items = machine.marked()
    machine.push({})
    machine.set_items(items)


def _mark(machine: _Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.EMPTY_LIST: lambda m: [],
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.EMPTY_DICT: lambda m: {},
    pickle.BININT: lambda m: m.number("<i"),
    pickle.BININT1: lambda m: m.number("<B"),
    pickle.BININT2: lambda m: m.number("<H"),
    pickle.BINFLOAT: lambda m: m.number(">d"),
    pickle.LONG1: lambda m: pickle.decode_long(m.take(m.number("<B"))),
    pickle.LONG4: lambda m: pickle.decode_long(m.take(m.number("<i"))),
    pickle.INT: _integer,
    pickle.LONG: lambda m: int(m.line().removesuffix(b"L")),
    pickle.FLOAT: lambda m: float(m.line()),
    pickle.STRING: _quoted_string,
    pickle.BINSTRING: lambda m: _python2(m.take(m.number("<i"))),
    pickle.SHORT_BINSTRING: lambda m: _python2(m.take(m.number("<B"))),
    pickle.UNICODE: lambda m: m.line().decode("raw-unicode-escape"),
    pickle.SHORT_BINUNICODE: lambda m: _text(m.take(m.number("<B"))),
    pickle.BINUNICODE: lambda m: _text(m.take(m.number("<I"))),
    pickle.BINUNICODE8: lambda m: _text(m.take(m.number("<Q"))),
    pickle.SHORT_BINBYTES: lambda m: m.take(m.number("<B")),
    pickle.BINBYTES: _long_bytes("<I"),
    pickle.BINBYTES8: _long_bytes("<Q"),
    pickle.BYTEARRAY8: _long_bytes("<Q"),
    pickle.LIST: lambda m: m.marked(),
    pickle.TUPLE: lambda m: tuple(m.marked()),
    pickle.GLOBAL: lambda m: m.name(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.EMPTY_SET: _refuse("names builtins.set"),
    pickle.FROZENSET: _refuse("names builtins.frozenset"),
    pickle.INST: lambda m: _refuse(f"makes {m.name(m.line().decode(), m.line().decode()).name}")(m),
    pickle.OBJ: lambda m: _refuse(f"makes {_what(m.marked()[0])}")(m),
    pickle.NEWOBJ_EX: lambda m: _refuse(f"makes {_what(m.stack[-3])}")(m),
    pickle.EXT1: _refuse("names an object of the extension registry"),
    pickle.EXT2: _refuse("names an object of the extension registry"),
    pickle.EXT4: _refuse("names an object of the extension registry"),
    pickle.NEXT_BUFFER: _refuse("names an object outside of the file"),
    pickle.READONLY_BUFFER: _refuse("names an object outside of the file"),
}
"""Opcodes that push one value, or refuse to."""
_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: m.skip(1),
    pickle.FRAME: lambda m: m.skip(8),
    pickle.MARK: _mark,
    pickle.POP: lambda m: m.stack.pop() if m.stack else m.marked(),
    pickle.POP_MARK: lambda m: m.marked(),
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.TUPLE1: _tuple_of(1),
    pickle.TUPLE2: _tuple_of(2),
    pickle.TUPLE3: _tuple_of(3),
    pickle.DICT: _dict_of,
    pickle.APPEND: lambda m: (item := m.stack.pop(), m.top(list).append(item)),
    pickle.APPENDS: lambda m: (items := m.marked(), m.top(list).extend(items)),
    pickle.SETITEM: lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.set_items(m.marked()),
    pickle.ADDITEMS: _refuse("names builtins.set"),
    pickle.PUT: lambda m: m.keep(int(m.line())),
    pickle.BINPUT: lambda m: m.keep(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.keep(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.keep(len(m.memo)),
    pickle.GET: lambda m: m.recall(int(m.line())),
    pickle.BINGET: lambda m: m.recall(m.number("<B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.number("<I")),
    pickle.REDUCE: lambda m: m.reduce(),
    pickle.BUILD: lambda m: m.build(),
    pickle.NEWOBJ: lambda m: m.make(),
    pickle.BINPERSID: lambda m: m.storage(m.stack.pop()),
    pickle.PERSID: lambda m: m.storage(m.line().decode("ascii")),
}
"""Opcodes that change the stack in another way."""


def _pushing(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value(machine))


_ACTIONS = {
    **{code[0]: _pushing(value) for code, value in _VALUES.items()},
    **{code[0]: step for code, step in _STEPS.items()},
}


def _torch_zip(path: Path, data: mmap.mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        _require_modest(path, sum(entry.file_size for entry in archive.infolist()), len(data))
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next((name[: -len("data.pkl")] for name in entries if re.fullmatch(r"[^/]*/data\.pkl", name)), None)
        if root is None:
            raise ValueError("it is a zip archive without data.pkl")

        def read(name: str) -> tuple[Buffer, int, int]:
            """Where the contents of an entry are: a buffer, first and last + 1."""
            entry = entries[name]
            if entry.compress_type == zipfile.ZIP_DEFLATED:
                _require_modest(path, entry.file_size, entry.compress_size)
                with archive.open(entry) as file:  # read() alone would unpack all that is there, declared or not
                    raw = file.read(entry.file_size)
                return raw, 0, len(raw)
            signature, flags = struct.unpack_from("<4s2xH", data, entry.header_offset)
            name_size, extra_size = struct.unpack_from("<2H", data, entry.header_offset + 26)
            start = entry.header_offset + 30 + name_size + extra_size
            if (
                signature != b"PK\x03\x04"
                or flags & 1
                or entry.compress_type != zipfile.ZIP_STORED
                or start + entry.file_size > len(data)
            ):
                raise ValueError(f"the entry {_quoted(name)} is damaged")
            return data, start, start + entry.file_size

        if f"{root}byteorder" in entries:
            buffer, start, end = read(f"{root}byteorder")
            if buffer[start:end] != b"little":
                raise ValueError("its numbers are big-endian")
        storages: dict[str, _Storage] = {}

        def persistent(identifier: Any) -> _Storage:
            dtype, key, size, _ = _storage_id(identifier)
            if key not in storages:
                buffer, start, end = read(f"{root}data/{key}")
                storages[key] = _Storage(dtype, size, memoryview(buffer)[start:end])
            return _same(storages[key], dtype, size)

        machine = _ScriptMachine if f"{root}constants.pkl" in entries else _Machine
        return machine(*read(f"{root}data.pkl"), persistent).load()


def _require_modest(path: Path, size: int, packed: int) -> None:
    if size > max(ALWAYS, EXPANSION * packed):
        raise IntegrityError(
            f"{path} must not unpack to more than {EXPANSION} times its size, but {packed} bytes would become {size}; "
            "get the file from its authors."
        )


def _storage_id(identifier: Any) -> tuple[str, str, int, Any]:
    """Dtype, key, number of elements and view of the persistent id of a storage."""
    if type(identifier) is not tuple or len(identifier) not in (5, 6) or identifier[0] != "storage":
        kind = identifier[0] if type(identifier) is tuple and identifier else identifier
        raise _RefusedError(f"names an object outside of the file, {_what(kind)}")
    _, kind, key, _location, size, *view = identifier
    if not isinstance(kind, _Named) or kind.name not in _STORAGES:
        raise _RefusedError(f"has a storage of {_what(kind)}")
    if type(key) is not str:
        raise ValueError("a storage without a key")
    return _STORAGES[kind.name], key, _sizes((size,))[0], view[0] if view else None


def _same(storage: _Storage, dtype: str, size: int) -> _Storage:
    if (storage.dtype, storage.size) != (dtype, size):
        raise ValueError("a storage of two kinds")
    return storage


def _torch_stream(data: mmap.mmap) -> Any:
    value, machine = _unfinished_stream(data)
    return _Finish(machine.spend)(value)


def _unfinished_stream(data: Buffer) -> tuple[Any, _Machine]:
    """What a stream holds, arrays and tensors still to be finished; a storage may stand alone in it."""
    storages: dict[str, _Storage] = {}

    def persistent(identifier: Any) -> _Storage:
        dtype, key, size, view = _storage_id(identifier)
        storage = _same(storages.setdefault(key, _Storage(dtype, size)), dtype, size)
        if view is None:
            return storage
        _, first, size = view
        first, size = _sizes((first, size))
        return _Storage(dtype, size, root=(storage, first))

    machine = _Machine(data, persistent=persistent)
    if machine.load() != TORCH_MAGIC or machine.load() != 1001:
        raise ValueError("it does not begin as one")
    if machine.load().get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    value = machine.run()
    for key in machine.load():
        _fill(storages[_key(key)], machine)
    return value, machine


def _fill(storage: _Storage, machine: _Machine) -> None:
    """Give a storage the number of elements and the bytes that come next."""
    if machine.number("<q") != storage.size:
        raise ValueError("a storage of two sizes")
    start = machine.skip(storage.size * storage.itemsize)
    storage.raw = memoryview(machine.data)[start : machine.position]


def _torch_tar(data: mmap.mmap) -> Any:
    members, position = {}, 0
    while (header := data[position : position + 512]).strip(b"\0"):
        size = int(re.match(rb"[0-7]+", header[124:136])[0], 8)  # type: ignore[index]
        if header[156:157] in (b"0", b"\0"):
            members[header[:100].rstrip(b"\0").removeprefix(b"./")] = (position + 512, position + 512 + size)
        position += 512 - (-size // 512) * 512
    known: dict[Any, Any] = {}

    machine = _Machine(data, *members[b"storages"])
    for _ in range(machine.load()):
        key, _location, kind = machine.run()
        known[_key(key)] = storage = _Storage(_STORAGES[kind.name], struct.unpack_from("<q", data, machine.position)[0])
        _fill(storage, machine)
    for target, root, first, size in machine.load():
        first, size = _sizes((first, size))
        known[_key(target)] = _Storage(known[_key(root)].dtype, size, root=(known[_key(root)], first))

    machine = _Machine(data, *members[b"tensors"])
    for _ in range(machine.load()):
        key, storage, _kind = machine.run()
        n = machine.number("<i")
        machine.skip(4)  # the number of dimensions was once written as eight bytes
        shape, strides = (tuple(machine.number("<q") for _ in range(n)) for _ in range(2))
        known[_key(key)] = _make_tensor(known[_key(storage)], machine.number("<q"), shape, strides)

    return _Machine(data, *members[b"pickle"], lambda identifier: known[int(identifier)]).load()

"""Pickles of whole objects, such as StyleGAN2's ``network-snapshot-*.pkl``: their tensors, read without running them.

``zoo.foreign`` refuses such files, since they name classes and functions of their own. Here every such name becomes an
inert record of what the file says: nothing is imported, called or compiled, whatever source text the file carries.
Tensors of a module are found where ``torch.nn.Module`` keeps them: ``_parameters``, ``_buffers`` and ``_modules``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import IntegrityError
from zoo.foreign import (
    _ACTIONS,
    _CALLS,
    _Finish,
    _key,
    _Machine,
    _Named,
    _opened,
    _RefusedError,
    _Storage,
    _Tensor,
    _unfinished_stream,
)

MODULE = ("_parameters", "_buffers", "_modules")
STORAGE = "torch.storage._load_from_bytes"


@dataclass(slots=True, eq=False)
class Record:
    """An object that a file describes: what would make it, of what, and what would be set on it."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


def read_modules(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Tensors of every ``torch.nn.Module`` at the top of a pickled dict, by the dict's key and the tensor's name.

    Raises:
        IntegrityError: The file is no pickled dict of modules, nests too deeply or copies without end.
        UsageError: It is not a pickle, or it is damaged or cut off.
    """
    with _opened(path, "a pickle of networks") as data:
        machine = _InertMachine(data)
        top = machine.run()
        if not isinstance(top, dict):
            raise _RefusedError("holds no dict of networks")
        found = {key: module for key, value in top.items() if isinstance(key, str) and (module := _module(value))}
        finish = _Finish(machine.spend)
        return {key: {name: finish(value) for name, value in _tensors(module)} for key, module in found.items()}


class _InertMachine(_Machine):
    """Names anything, and makes a :class:`Record` of whatever is not a tensor, an array or a container."""

    def run(self) -> Any:
        self.stack, self.marks, self.memo = [], [], {}
        while True:
            code = self.data[self.skip(1)]
            if code == pickle.STOP[0]:
                (value,) = self.stack
                return value
            action = _INERT.get(code) or _ACTIONS.get(code)
            if action is None:
                raise ValueError(f"no opcode {code:#04x} at byte {self.position - 1}")
            action(self)

    def name(self, module: Any, name: Any) -> _Named:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not text")
        return _Named(f"{module}.{name}")

    def reduce(self) -> None:
        function, arguments = self.stack[-2:]
        name = function.name if isinstance(function, _Named) else ""
        if name in _CALLS:
            super().reduce()
        elif type(arguments) is not tuple:
            raise ValueError("arguments that are no tuple")
        else:
            del self.stack[-2:]
            self.push(self.storage_of(*arguments) if name == STORAGE else Record(name, arguments))

    def storage_of(self, raw: Any) -> _Storage:
        """The storage in a stream of its own."""
        if type(raw) not in (bytes, memoryview):
            raise ValueError("a storage that is not bytes")
        self.spend(len(raw))
        value, _ = _unfinished_stream(bytes(raw))
        if not isinstance(value, _Storage):
            raise ValueError("a storage that is none")
        return value

    def build(self) -> None:
        if isinstance(self.stack[-2], Record):
            state = self.stack.pop()
            self.stack[-1].state = state
        else:
            super().build()

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Record):
            return super().set_items(items)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target.items[_key(key)] = value
        return None


def _new_object(n: int) -> Callable[[Any], None]:
    def make(machine: Any) -> None:
        kind, *rest = machine.stack[-n:]
        del machine.stack[-n:]
        machine.push(Record(kind.name if isinstance(kind, _Named) else "", tuple(rest)))

    return make


def _append(machine: Any) -> None:
    item = machine.stack.pop()
    if not isinstance(machine.stack[-1], Record):  # what a list subclass holds is not needed
        machine.top(list).append(item)


def _extend(machine: Any) -> None:
    items = machine.marked()
    if not isinstance(machine.stack[-1], Record):
        machine.top(list).extend(items)


_INERT: dict[int, Callable[[Any], Any]] = {
    pickle.NEWOBJ[0]: _new_object(2),
    pickle.NEWOBJ_EX[0]: _new_object(3),
    pickle.APPEND[0]: _append,
    pickle.APPENDS[0]: _extend,
    pickle.EMPTY_SET[0]: lambda m: m.push(Record("builtins.set")),
    pickle.ADDITEMS[0]: lambda m: m.marked(),
    pickle.FROZENSET[0]: lambda m: (m.marked(), m.push(Record("builtins.frozenset"))),
}


def _module(value: Any, depth: int = 8) -> Mapping[str, Any] | None:
    """The attributes of a module, wherever a record hides them: its state, its items or what it was made of."""
    if depth == 0:
        return None
    if type(value) is dict and all(type(value.get(name)) in (dict, *_ORDERED) for name in MODULE):
        return value
    if isinstance(value, Record):
        inner: Iterator[Any] = iter((value.state, value.items, *value.items.values(), *value.arguments))
    elif type(value) in (tuple, list):
        inner = iter(value)
    elif type(value) is dict:
        inner = iter(value.values())
    else:
        return None
    return next((found for part in inner if (found := _module(part, depth - 1)) is not None), None)


_ORDERED = (type(_CALLS["collections.OrderedDict"]()),)


def _tensors(module: Mapping[str, Any], prefix: str = "", depth: int = 20) -> Iterator[tuple[str, _Tensor]]:
    """Parameters and buffers of a module and those below it, by their dotted names."""
    if depth == 0:
        raise IntegrityError(
            f"{prefix} must be a network, but nests modules without end; get the file from its authors."
        )
    for kind in MODULE[:2]:
        for name, value in module[kind].items():
            if isinstance(value, _Tensor):
                yield f"{prefix}{name}", value
    for name, child in module["_modules"].items():
        if child is not None and (inner := _module(child)) is not None:
            yield from _tensors(inner, f"{prefix}{name}.", depth - 1)

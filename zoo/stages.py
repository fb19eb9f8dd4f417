"""Content-addressed computation: arrays made in chunks, each on disk whole or not at all. No torch.

A stage's folder is named by the hash of everything that decides its rows. Chunks have a fixed size and are computed in
fixed micro-batches, so batch size, shards and interruptions change no value. What is on disk is read without asking how
it was made, so an evaluation that computes nothing new loads no network.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import IntegrityError
from zoo.store import read_json, stage_dir, write_bytes, write_json

Progress = Callable[[int, int, str], None]
CHUNK = 64
"""Images per committed file: the most that a kill can cost."""
TRIALS = 1024
"""The same for trials, which are quicker."""


@dataclass(frozen=True)
class Work:
    """How rows are computed; nothing in it may change a value (on cuda: beyond the stated tolerance)."""

    device: str = "cpu"
    batch_size: int = 64
    shard: tuple[int, int] | None = None
    """(k, n): compute only every n-th chunk, starting with the k-th."""
    progress: Progress = lambda done, total, what: None


class ShardsMissingError(Exception):
    """This shard is done, but chunks of other shards are not here yet."""


@dataclass(frozen=True)
class Rows:
    """Rows of a stage that is on disk, read when sliced and never kept: memory does not grow with their number.

    Indexes along the first axis as an array does.

    Attributes:
        start: Row of the stage that is the first one here.
        columns: Part of the second axis.
    """

    paths: tuple[Path, ...]
    chunk: int
    n: int
    start: int = 0
    columns: slice = field(default_factory=lambda: slice(None))

    @cached_property
    def _first(self) -> np.ndarray:
        return self._read(0)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n, *self._first.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._first.dtype

    @property
    def ndim(self) -> int:
        return self._first.ndim

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(self.start, self.start + self.n)[key]
        found = np.empty((rows.size, *self.shape[1:]), self.dtype)
        for index in np.unique(rows // self.chunk):
            here = rows // self.chunk == index
            found[here] = self._read(int(index))[rows[here] - index * self.chunk]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _read(self, index: int) -> np.ndarray:
        found = _load(self.paths[index])
        return found[:, self.columns] if found.ndim > 1 else found


@dataclass(frozen=True)
class Stage:
    """``n`` rows of one array, ``compute(slice)`` giving those of a chunk."""

    kind: str
    identity: dict[str, Any]
    n: int
    compute: Callable[[slice], np.ndarray]
    what: str
    chunk: int = CHUNK

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        folder = stage_dir(self.kind, {**self.identity, "n": self.n, "chunk": self.chunk})
        return tuple(folder / f"{index:05d}.npy" for index in range(-(-self.n // self.chunk)))

    def fill(self, work: Work) -> None:
        """Compute this shard's chunks that are not on disk."""
        first, step = work.shard or (0, 1)
        for index in range(first, len(self._paths), step):
            if not self._paths[index].exists():
                part = slice(index * self.chunk, min((index + 1) * self.chunk, self.n))
                work.progress(part.start, self.n, self.what)
                _save(self._paths[index], self.compute(part))
        work.progress(self.n, self.n, self.what)

    def rows(self, part: slice = slice(None), columns: slice = slice(None)) -> Rows:
        """Consecutive rows, read when needed.

        Raises:
            ShardsMissingError: Chunks of other shards are not here.
        """
        if not all(path.exists() for path in self._paths):
            raise ShardsMissingError
        start, stop, _ = part.indices(self.n)
        return Rows(self._paths, self.chunk, stop - start, start, columns)

    def part(self, part: slice) -> np.ndarray:
        """Rows of one chunk that is on disk, whether or not the others are."""
        return _load(self._paths[part.start // self.chunk])


def once(kind: str, identity: dict[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made in one piece, kept under the hash of ``identity``."""
    path = stage_dir(kind, identity) / "array.npy"
    if not path.exists():
        _save(path, compute())
    return _load(path)


def once_json(kind: str, identity: dict[str, Any], compute: Callable[[], Any]) -> Any:
    """Plain data, kept under the hash of ``identity``."""
    path = stage_dir(kind, identity) / "value.json"
    if not path.exists():
        write_json(path, compute())
    with whole(path):
        found = read_json(path)
    return found


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """Around reading a file of the zoo's own: whatever its bytes make a reader stumble over is named.

    Nothing is computed again in its place by itself: a damaged file is a disk or a copy that somebody must know of.

    Raises:
        IntegrityError: The file is not what was written.
    """
    try:
        yield
    except (OSError, MemoryError):  # the machine's fault, not the file's
        raise
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise IntegrityError(f"{path} is damaged ({why}); delete it and run the same command again.") from error


def _load(path: Path) -> np.ndarray:
    with whole(path), path.open("rb") as file:
        found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())

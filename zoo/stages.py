"""Content-addressed computation: arrays made in chunks, each on disk whole or not at all. No torch.

A stage's folder is named by the hash of everything that decides its rows. Chunks have a fixed size and are computed in
fixed micro-batches, so batch size, shards and interruptions change no value. What is on disk is read without asking how
it was made, so an evaluation that computes nothing new loads no network.

Processes that fill the same stages, under torchrun or by chance, share the chunks through the disk alone: each claims
what it computes, a claim ends with its holder, and whoever has nothing left takes what is missing.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from zoo.crew import Crew, here
from zoo.errors import IntegrityError, UsageError
from zoo.store import claim, read_json, stage_dir, write_bytes, write_json

Progress = Callable[[int, int, str], None]
CHUNK = 64
"""Images per committed file: the most that a kill can cost."""
TRIALS = 1024
"""The same for trials, which are quicker."""
SUM = b" crc32: "
"""Behind an array stands this and its checksum, which a reader of ``.npy`` does not look at."""
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 120.0
"""If others finish nothing for so long, their chunks are computed here too: a host may be gone and its claim not."""


@dataclass(frozen=True)
class Work:
    """How rows are computed; nothing in it may change a value (on cuda: beyond the stated tolerance)."""

    device: str = "cpu"
    batch_size: int = 64
    shard: tuple[int, int] | None = None
    """(k, n): compute only every n-th chunk, starting with the k-th."""
    progress: Progress = lambda done, total, what: None
    crew: Crew = field(default_factory=here)
    """Processes that do the same work; a shard is for those that do not know of one another."""

    @property
    def passes(self) -> tuple[Work, ...]:
        """Fill all stages once for each of these, so that nobody waits while there is something to do.

        In a crew these are one's own chunks, then whatever is missing.
        """
        if self.shard is not None or self.crew.size == 1:
            return (self,)
        return (replace(self, shard=(self.crew.rank, self.crew.size)), self)


class ShardsMissingError(Exception):
    """This shard is done, but chunks of other shards are not here yet, or another process of the crew goes on."""


@dataclass(frozen=True)
class Part:
    """A chunk as it lies on disk.

    Attributes:
        ids: Of the samples it was made for.
        n_rows: How many it holds.
    """

    path: Path
    ids: tuple[str, ...]
    n_rows: int


def reduce(parts: Iterable[Part], ids: Sequence[str]) -> tuple[Path, ...]:
    """The parts of ``ids`` in their order, whoever made them and in whatever order they come.

    Raises:
        IntegrityError: A sample is in no part or in two, or a part does not hold a row for each of its samples.
    """
    parts = list(parts)
    for part in parts:
        if part.n_rows != len(part.ids):
            raise IntegrityError(
                f"{part.path} must have {len(part.ids)} rows, but has {part.n_rows}; delete it and run the same "
                "command again."
            )
    place = {sample: index for index, sample in enumerate(ids)}
    seen = Counter(sample for part in parts for sample in part.ids)
    for sample in (*place, *seen):
        if seen[sample] != 1 or sample not in place:
            raise IntegrityError(
                f"the parts must hold each of {len(place)} samples exactly once, but {sample!r} is in them "
                f"{seen[sample]} times{'' if sample in place else ' and is none of these'}; sample ids must be unique."
            )
    return tuple(part.path for part in sorted(parts, key=lambda part: place[part.ids[0]]))


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
    ids: Sequence[str] = ()
    """Of the samples, one per row; their numbers if there are none."""
    lacking: str = ""
    """Why its rows cannot be had here, if they cannot: it is filled with nothing, and whoever reads it is told."""

    @cached_property
    def folder(self) -> Path:
        """Where its chunks lie."""
        return stage_dir(self.kind, {**self.identity, "n": self.n, "chunk": self.chunk})

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        return chunks(self.folder, self.n, self.chunk)

    def fill(self, work: Work) -> None:
        """Compute this shard's chunks that are not on disk; without one all of them, with all who are at it too."""
        if self.lacking:
            return
        first, step = work.shard or (work.crew.rank, work.crew.size)
        own = range(first, len(self._paths), step)
        for index in own:
            self._make(index, work)
        if work.shard is None:
            others = sorted({*range(len(self._paths))} - {*own}, reverse=True)
            self._finish([*own, *others], work)
        work.progress(self.n, self.n, self.what)

    def _finish(self, order: list[int], work: Work) -> None:
        """Take what is missing, and wait for what others are computing; not for ever."""
        left, since = len(order) + 1, time.monotonic()
        while missing := [index for index in order if not self._paths[index].exists()]:
            if len(missing) < left:
                left, since = len(missing), time.monotonic()
            patient = time.monotonic() - since < PATIENCE_SECONDS
            made = sum(self._make(index, work, anyway=not patient) for index in missing)
            if not made:
                time.sleep(POLL_SECONDS)

    def _make(self, index: int, work: Work, *, anyway: bool = False) -> bool:
        """Compute a chunk unless it is there or another process is at it; whether it was computed here."""
        path = self._paths[index]
        if path.exists():
            return False
        with claim(path, leave=False) as mine:
            if path.exists() or not (mine or anyway):
                return False
            part = self._slice(index)
            work.progress(part.start, self.n, self.what)
            _save(path, self.compute(part))
        return True

    def _slice(self, index: int) -> slice:
        return slice(index * self.chunk, min((index + 1) * self.chunk, self.n))

    @cached_property
    def _whole(self) -> tuple[Path, ...]:
        """Files of all chunks, once they hold every sample exactly once."""
        if not all(path.exists() for path in self._paths):
            raise ShardsMissingError
        ids = [str(sample) for sample in self.ids] or [str(row) for row in range(self.n)]
        parts = [Part(path, tuple(ids[self._slice(k)]), _n_rows(path)) for k, path in enumerate(self._paths)]
        return reduce(parts, ids)

    def rows(self, part: slice = slice(None), columns: slice = slice(None)) -> Rows:
        """Consecutive rows, read when needed.

        Raises:
            ShardsMissingError: Chunks of other shards are not here.
            IntegrityError: A chunk does not have a row for each of its samples, or a sample is there twice.
            UsageError: They cannot be had here.
        """
        if self.lacking:
            raise UsageError(self.lacking)
        start, stop, _ = part.indices(self.n)
        return Rows(self._whole, self.chunk, stop - start, start, columns)

    def part(self, part: slice) -> np.ndarray:
        """Rows of one chunk that is on disk, whether or not the others are."""
        return _load(self._paths[part.start // self.chunk])


def chunks(folder: Path, n: int, chunk: int) -> tuple[Path, ...]:
    """Files of a stage of ``n`` rows."""
    return tuple(folder / f"{index:05d}.npy" for index in range(-(-n // chunk)))


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
    """An array as it was written; files of versions before checksums are taken as they are."""
    with whole(path):
        stream = io.BytesIO(path.read_bytes())
        found: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        end = stream.tell()
        if (behind := stream.read()) and behind != SUM + crc32(stream.getbuffer()[:end]).to_bytes(4, "little"):
            raise ValueError("its checksum does not fit")
    return found


def _n_rows(path: Path) -> int:
    """Length of the array in a file, by its header."""
    with whole(path), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(file)
    return int(shape[0]) if shape else 0


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data + SUM + crc32(data).to_bytes(4, "little"))

"""Reader of TensorFlow 2 checkpoints ("tensor bundles") without TensorFlow; it executes nothing.

``PREFIX.index`` is a LevelDB-style table: key → protobuf entry (dtype, shape, shard, offset, size, checksum), and
``PREFIX.data-XXXXX-of-NNNNN`` hold the raw little-endian bytes. Every block and every tensor carries a masked CRC-32C,
and all of those that are read are checked.

References:
    TensorFlow, tensorflow/core/protobuf/tensor_bundle.proto (entries); LevelDB, doc/table_format.md (table, checksums).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.errors import IntegrityError, MissingError

FOOTER = 48
MAGIC = 0xDB4775248B80FB57
NUMERIC = {
    19: "<f2", 1: "<f4", 2: "<f8", 10: "|b1",
    6: "|i1", 5: "<i2", 3: "<i4", 9: "<i8",
    4: "|u1", 17: "<u2", 22: "<u4", 23: "<u8",
}  # fmt: skip
"""``DataType`` of tensorflow/core/framework/types.proto → numpy, for the numeric types numpy has."""
STRING = 7
Field = int | bytes


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: ``BundleEntryProto``."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int


def read_tf_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """Numeric tensors of the checkpoint ``prefix`` by full name; string tensors (the object graph) are skipped.

    Raises:
        MissingError: The index or a data shard is not there.
        IntegrityError: A file is no checkpoint, is truncated or damaged, or uses a feature that Keras never writes.
    """
    header, entries = _read_index(prefix)
    tensors: dict[str, np.ndarray] = {}
    for shard, names in _by_shard(entries).items():
        path = shard_path(prefix, shard, header)
        data = _read(path)
        tensors |= {name: _tensor(path, data, name, entries[name]) for name in names}
    return {name: tensors[name] for name in entries if name in tensors}


def checkpoint_files(prefix: Path) -> tuple[Path, ...]:
    """The index and every data shard of the checkpoint ``prefix``."""
    header, _ = _read_index(prefix)
    return index_path(prefix), *(shard_path(prefix, shard, header) for shard in range(header))


def index_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def shard_path(prefix: Path, shard: int, n_shards: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{n_shards:05d}")


def masked_crc32c(data: bytes) -> int:
    """CRC-32C rotated right by 15 bits plus a constant, so that checksums of checksums stay strong."""
    import google_crc32c

    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(
            f"a TensorFlow checkpoint needs {path.name}, which {path.parent} does not hold; copy it there."
        ) from error


def _read_index(prefix: Path) -> tuple[int, dict[str, Entry]]:
    """The number of shards and the entries of all numeric tensors, in key order."""
    path = index_path(prefix)
    data = _read(path)
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise IntegrityError(
            f"{path.name} must end with the mark of a TensorFlow checkpoint index, but does not; "
            "it is another kind of file or was cut short."
        )
    try:
        _, at = _handle(data, len(data) - FOOTER)
        index, _ = _handle(data, at)
        table = {
            key: value
            for _, handle in _block(path, data, index)
            for key, value in _block(path, data, _handle(handle, 0)[0])
        }
        shards, order = _header(table.pop(b""))
        entries = {key.decode(): _entry(path, key.decode(), value) for key, value in table.items()}
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise IntegrityError(f"{path.name} is damaged ({error}); get the checkpoint again.") from error
    if order != 0:
        raise IntegrityError(f"{path.name} must be little-endian, but says it is not; save it on another machine.")
    return shards, {name: entry for name, entry in entries.items() if entry.dtype != STRING}


def _by_shard(entries: dict[str, Entry]) -> dict[int, list[str]]:
    shards: dict[int, list[str]] = {}
    for name, entry in entries.items():
        shards.setdefault(entry.shard, []).append(name)
    return shards


def _tensor(path: Path, data: bytes, name: str, entry: Entry) -> np.ndarray:
    raw = data[entry.offset : entry.offset + entry.size]
    if len(raw) != entry.size:
        raise IntegrityError(
            f"{path.name} must reach byte {entry.offset + entry.size} for {name}, but ends at {len(data)}; "
            "it was cut short: get the checkpoint again."
        )
    if masked_crc32c(raw) != entry.crc32c:
        raise IntegrityError(
            f"the bytes of {name} in {path.name} do not match their checksum; get the checkpoint again."
        )
    dtype = np.dtype(NUMERIC[entry.dtype])
    if math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise IntegrityError(
            f"{name} in {path.name} has shape {entry.shape} of {dtype}, but {entry.size} bytes; "
            "get the checkpoint again."
        )
    return np.frombuffer(raw, dtype).reshape(entry.shape).astype(dtype.newbyteorder("="))


def _block(path: Path, data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one table block; keys share prefixes with their predecessors."""
    offset, size = handle
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + 5]
    if len(block) != size or len(trailer) != 5 or size < 4:
        raise IntegrityError(f"{path.name} points past its own end; it was cut short: get the checkpoint again.")
    kind, stored = struct.unpack("<BI", trailer)
    if masked_crc32c(block + trailer[:1]) != stored:
        raise IntegrityError(f"a block of {path.name} does not match its checksum; get the checkpoint again.")
    if kind != 0:
        raise IntegrityError(
            f"blocks of {path.name} must be uncompressed, as TensorFlow writes them, but one has compression {kind}; "
            "save the checkpoint with TensorFlow again."
        )
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > end:
            raise ValueError(f"a key or value at byte {offset + at} overruns its block")
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length


def _header(data: bytes) -> tuple[int, int]:
    """``BundleHeaderProto``: number of shards (absent means 0), byte order (0: little-endian)."""
    fields = dict(_fields(data))
    return _int(fields, 1), _int(fields, 2)


def _entry(path: Path, name: str, data: bytes) -> Entry:
    fields: dict[int, Field] = {}
    for number, value in _fields(data):
        if number == 7:
            raise IntegrityError(f"{name} in {path.name} is stored in slices, which is not supported; save it whole.")
        fields[number] = value
    dtype = _int(fields, 1)
    if dtype not in NUMERIC and dtype != STRING:
        raise IntegrityError(
            f"{name} in {path.name} has TensorFlow dtype {dtype}, which is neither numeric nor string."
        )
    shape = fields.get(2, b"")
    if not isinstance(shape, bytes):
        raise ValueError(f"the shape of {name} is not a message")
    dims = tuple(
        _int(dict(_fields(dim)), 1) for number, dim in _fields(shape) if number == 2 and isinstance(dim, bytes)
    )
    return Entry(dtype, dims, _int(fields, 3), _int(fields, 4), _int(fields, 5), _int(fields, 6))


def _int(fields: dict[int, Field], number: int) -> int:
    """An integer field; protobuf leaves out those that are 0."""
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not an integer")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Field]]:
    """Field numbers and values of a protobuf message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at} of a message")
        if at + size > len(data):
            raise ValueError(f"field {number} overruns its message")
        raw, at = data[at : at + size], at + size
        yield number, raw if wire == 2 else int.from_bytes(raw, "little")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 integer at ``at``, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an integer of more than 10 bytes ends at byte {at}")


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where the handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at

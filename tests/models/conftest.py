"""A writer of TensorFlow checkpoints, so that their reader can be tested without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from zoo.models.convert.tf_checkpoint import MAGIC, NUMERIC, masked_crc32c

BundleWriter = Callable[..., Path]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def table_block(rows: list[tuple[bytes, bytes]], *, kind: int = 0, restart_every: int = 16) -> bytes:
    """Rows with shared key prefixes, restart points, compression byte and checksum."""
    body, restarts, last = b"", [], b""
    for index, (key, value) in enumerate(rows):
        shared = 0
        if index % restart_every == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    body += struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts)) + bytes([kind])
    return body + struct.pack("<I", masked_crc32c(body))


@pytest.fixture(scope="session")
def write_bundle() -> BundleWriter:
    """``write(prefix, tensors, …) -> prefix``: a tensor bundle with the suffix TensorFlow gives to variables."""

    def write(
        prefix: Path,
        tensors: Mapping[str, np.ndarray],
        *,
        suffix: str = "/.ATTRIBUTES/VARIABLE_VALUE",
        rows_per_block: int = 7,
        n_shards: int = 1,
        kind: int = 0,
        extra_field: bytes = b"",
        endianness: int = 0,
    ) -> Path:
        codes = {np.dtype(name): code for code, name in NUMERIC.items()}
        shards = [bytearray() for _ in range(n_shards)]
        rows = [
            (b"", field(1, n_shards) + (field(2, endianness) if endianness else b"")),
            (b"_CHECKPOINTABLE_OBJECT_GRAPH", field(1, 7) + field(2, b"") + field(5, 3)),
        ]
        for number, name in enumerate(sorted(tensors)):
            value, shard = np.asarray(tensors[name]), number % n_shards
            shape, raw = b"".join(field(2, field(1, n)) for n in value.shape), value.tobytes()
            message = field(1, codes[value.dtype]) + field(2, shape) + field(3, shard) + field(4, len(shards[shard]))
            message += field(5, len(raw)) + varint(6 << 3 | 5) + struct.pack("<I", masked_crc32c(raw)) + extra_field
            rows.append((f"{name}{suffix}".encode(), message))
            shards[shard] += raw
        out, index_rows = b"", list[tuple[bytes, bytes]]()
        for start in range(0, len(rows), rows_per_block):
            part = rows[start : start + rows_per_block]
            block = table_block(part, kind=kind)
            index_rows.append((part[-1][0], varint(len(out)) + varint(len(block) - 5)))
            out += block
        index, meta = table_block(index_rows), table_block([])
        handles = varint(len(out)) + varint(len(meta) - 5)
        handles += varint(len(out) + len(meta)) + varint(len(index) - 5)
        out += meta + index + handles.ljust(40, b"\0") + struct.pack("<Q", MAGIC)
        prefix.parent.mkdir(parents=True, exist_ok=True)
        prefix.with_name(f"{prefix.name}.index").write_bytes(out)
        for shard, content in enumerate(shards):
            prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{n_shards:05d}").write_bytes(content)
        return prefix

    return write

"""The values per trial that lie beside a record: read as what they are, a stranger's file.

Needs numpy and pyarrow, unlike the tables of this package; imported only where there are such values.
"""

from __future__ import annotations

import hashlib
import io
from typing import NamedTuple

import numpy as np

from leaderboard.submission import UNITS_BYTES
from zoo.errors import IntegrityError, UsageError
from zoo.record import Record

COLUMNS = ("system", "metric", "trial_id", "unit", "value")
MAX_ROWS = 8_000_000
MAX_EXPANDED = 256 << 20
"""Bytes that the columns may take once they are unpacked, by what the file says of itself."""
MAX_NAME = 200
"""Letters of the longest name in it."""
BATCH = 1 << 16


class Trials(NamedTuple):
    """A metric's value of each trial, and the unit (subject, run) that the trial belongs to; (n,) each."""

    ids: np.ndarray
    units: np.ndarray
    values: np.ndarray


def read_units(data: bytes, record: Record, *, where: str) -> dict[tuple[str, str], Trials]:
    """The values per trial of ``record``, by system and metric, from the bytes of the parquet file at ``where``.

    Raises:
        IntegrityError: The file is not the one the record was written with.
        UsageError: It is, but does not hold one finite value per trial, or is larger than any such file.
    """
    if hashlib.sha256(data).hexdigest() != record.units_sha256:
        raise IntegrityError(f"{where} is not the file that {record.id[:12]} was written with; fetch both again.")
    texts, values = _columns(data, where)
    found: dict[tuple[str, str], Trials] = {}
    if not values.size:
        return found
    names, codes = np.unique(np.stack([texts[0][1], texts[1][1]]), axis=1, return_inverse=True)
    order = np.argsort(codes.ravel(), kind="stable")
    edges = np.cumsum(np.bincount(codes.ravel(), minlength=names.shape[1]))[:-1]
    for (system, metric), rows in zip(names.T, np.split(order, edges), strict=True):
        key = (str(texts[0][0][system]), str(texts[1][0][metric]))
        found[key] = Trials(texts[2][0][texts[2][1][rows]], texts[3][0][texts[3][1][rows]], values[rows])
    for (_, metric), trials in found.items():
        if np.unique(trials.ids).size != trials.ids.size or not np.isfinite(trials.values).all():
            raise UsageError(f"{where} must hold one finite value per trial, but does not for {metric}.")
    return found


def _columns(data: bytes, where: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Each text column as (its words, (n,) numbers of words), and the (n,) values.

    Words are kept once each, so that a file cannot grow by repeating a long one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(data) > UNITS_BYTES:
        raise UsageError(f"{where} has {len(data)} bytes, more than the {UNITS_BYTES} of any file of values per trial.")
    try:
        meta = pq.read_metadata(io.BytesIO(data))
        groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
        expanded = sum(group.total_byte_size for group in groups)
        if meta.num_rows > MAX_ROWS or expanded > MAX_EXPANDED:
            raise UsageError(
                f"{where} unpacks to {meta.num_rows} rows and {expanded} bytes, more than the {MAX_ROWS} rows and "
                f"{MAX_EXPANDED} bytes of any file of values per trial."
            )
        if sorted(names := meta.schema.to_arrow_schema().names) != sorted(COLUMNS):
            raise UsageError(
                f"{where} must have the columns {', '.join(COLUMNS)}, but has "
                f"{', '.join(name[:MAX_NAME] for name in names[:10]) or 'none'}."
            )
        file = pq.ParquetFile(io.BytesIO(data), read_dictionary=list(COLUMNS[:4]))
        kinds = pa.schema([*((name, pa.dictionary(pa.int32(), pa.string())) for name in COLUMNS[:4])])
        parts: list[list[tuple[list[str], np.ndarray]]] = [[] for _ in kinds.names]
        values: list[np.ndarray] = [np.empty(0)]
        for batch in file.iter_batches(BATCH):
            batch.validate(full=True)  # a broken file may number words that it does not have
            if any(column.null_count for column in batch.columns):
                raise UsageError(
                    f"{where} must hold system, metric, trial, unit and value in every row, but some are null."
                )
            for field, part in zip(kinds, parts, strict=True):
                coded = batch.column(field.name).cast(field.type)
                part.append((coded.dictionary.to_pylist(), np.from_dlpack(coded.indices)))  # to_numpy imports pandas
            values.append(np.from_dlpack(batch.column("value").cast(pa.float64())))
    except UsageError:
        raise
    except (pa.ArrowException, KeyError, OSError, ValueError, OverflowError, MemoryError) as error:
        said = " ".join(str(error).split())[:MAX_NAME]
        raise UsageError(f"{where} must be parquet with the values per trial, but is not: {said}.") from error
    return [_joined(part, where) for part in parts], np.concatenate(values)


def _joined(parts: list[tuple[list[str], np.ndarray]], where: str) -> tuple[np.ndarray, np.ndarray]:
    """One list of words for all batches."""
    numbers: dict[str, int] = {}
    codes = [np.empty(0, np.int64)]
    for words, indices in parts:
        used = np.unique(indices)
        table = np.zeros(len(words), np.int64)
        for code in used:
            word = words[code]
            if len(word) > MAX_NAME or not word.isprintable():
                raise UsageError(f"{where} must hold names of at most {MAX_NAME} printable letters, but not all are.")
            table[code] = numbers.setdefault(word, len(numbers))
        codes.append(table[indices])
    return np.array([*numbers], dtype=str), np.concatenate(codes)

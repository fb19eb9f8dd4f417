"""Features by row, in blocks: what must not be held twice, since it may have 50,000 rows and lie on disk."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError

BLOCK = 1024


class Rows(Protocol):
    """One row a sample: an array, or a store that reads the rows it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> np.ndarray: ...


Features: TypeAlias = ArrayLike | Rows


def check_rows(*, min_n: int, **named: Features) -> tuple[Rows, ...]:
    """The features as they are, once they can be compared; read in blocks, since they may be too large to hold twice.

    Raises:
        UsageError: Not (n_samples, n_features) with ``min_n`` rows or more, not equally wide, or a value that is not
            finite; the sentence names the array.
    """
    checked: dict[str, Rows] = {}
    for name, given in named.items():
        rows: Any = np.asarray(given) if isinstance(given, list | tuple) else given
        if len(rows.shape) != 2 or rows.shape[1] == 0:
            raise UsageError(
                f"{name} must be (n_samples, n_features) but has shape {rows.shape}; pass one row a sample."
            )
        if len(rows) < min_n:
            raise UsageError(
                f"{name} must have at least {min_n} rows but has {len(rows)}; score more samples together."
            )
        if bad := sum(int((~np.isfinite(rows[part])).any(axis=1).sum()) for part in row_blocks(len(rows))):
            raise UsageError(
                f"{name} must be finite but {bad} of {len(rows)} rows hold NaN or infinity; find out which broke."
            )
        checked[name] = rows
    widths = {name: rows.shape[1] for name, rows in checked.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} has {width}" for name, width in widths.items())
        raise UsageError(f"features must be equally wide but {listed}; extract all of them with the same extractor.")
    return tuple(checked.values())


def row_blocks(n: int, size: int = BLOCK) -> list[slice]:
    """Consecutive slices that cover n rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def float64_rows(rows: Rows, part: slice | np.ndarray) -> np.ndarray:
    return np.asarray(rows[part], dtype=np.float64)

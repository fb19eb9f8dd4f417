"""Who lies in whose neighbourhood: precision, recall, density and coverage of generated among real images."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from zoo.errors import UsageError
from zoo.metrics.base import Score, hits
from zoo.metrics.rows import BLOCK, Features, Rows, check_rows, float64_rows, row_blocks

_KEPT = 64
_FLOAT32 = np.finfo(np.float32)


def precision(*, generated: Features, reference: Features, k: int = 3) -> Score:
    """Share of generated images that lie among the real ones: within the k-th neighbour distance of a real image.

    The four metrics of this kind share one pass over all pairs, kept under the hash of the features, so asking for each
    costs little more than asking for one. Products in float32 sort out the pairs whose order no rounding could change;
    the others are compared by differences in float64. So the values are those of float64, whatever the order of rows.

    Shape:
        generated: (n, n_features); reference: (m, n_features); n, m > k.
    Returns:
        From 0 to 1, higher is better, with one value per generated image.

    Raises:
        UsageError: Too few rows, unequal widths, values that are not finite, or k below 1.

    References:
        Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991, eq. 1 and 2.

    Example:
        >>> precision(generated=[[0.4], [9.0]], reference=[[0.0], [1.0], [2.0]], k=1).value
        0.5
    """
    return hits(_overlap(generated, reference, k).balls > 0)


def recall(*, generated: Features, reference: Features, k: int = 3) -> Score:
    """Share of real images that lie within the k-th neighbour distance of a generated image: ``precision`` reversed.

    Returns:
        From 0 to 1, higher is better. Its parts belong to real images, so trials have no value of their own.

    References:
        Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991, eq. 1 and 2.
    """
    return Score(float(_overlap(generated, reference, k).recalled.mean()))


def density(*, generated: Features, reference: Features, k: int = 5) -> Score:
    """Real neighbourhoods (balls up to the k-th neighbour) that hold a generated image, divided by k: their mean.

    One real outlier with its large ball does not decide it, as it does ``precision``.

    Returns:
        0 or more, higher is better, about 1 for equal distributions and above it for images near the modes only; with
        one value per generated image.

    References:
        Naeem et al. (2020), https://arxiv.org/abs/2002.09797, section 3.
    """
    balls = _overlap(generated, reference, k).balls
    return Score(float(balls.mean() / k), balls / k)


def coverage(*, generated: Features, reference: Features, k: int = 5) -> Score:
    """Share of real neighbourhoods (balls up to the k-th neighbour) that hold at least one generated image.

    Returns:
        From 0 to 1, higher is better; for equal distributions and n = m about 1 - 2⁻ᵏ. Fewer generated images cover
        less, so compare at equal n.

    References:
        Naeem et al. (2020), https://arxiv.org/abs/2002.09797, section 3.
    """
    return Score(float(_overlap(generated, reference, k).covered.mean()))


class _Overlap(NamedTuple):
    """Who lies in whose ball; a ball reaches to its centre's k-th nearest neighbour on its own side.

    Attributes:
        balls: (n,) how many real balls hold each generated image.
        covered: (m,) whether each real ball holds a generated image.
        recalled: (m,) whether each real image lies in a generated ball.
    """

    balls: np.ndarray
    covered: np.ndarray
    recalled: np.ndarray


_overlaps: dict[bytes, _Overlap] = {}


def _overlap(generated: Features, reference: Features, k: int) -> _Overlap:
    if k < 1:
        raise UsageError(f"k must be at least 1 but is {k}; 3 and 5 are what papers use.")
    x, y = check_rows(min_n=k + 1, generated=generated, reference=reference)
    key = hashlib.sha256(f"{k} {x.shape} {x.dtype} {y.shape} {y.dtype}".encode())
    for rows in (x, y):
        for part in row_blocks(len(rows)):
            key.update(np.ascontiguousarray(rows[part]).data)
    if key.digest() not in _overlaps:
        if len(_overlaps) == _KEPT:
            del _overlaps[next(iter(_overlaps))]
        _overlaps[key.digest()] = _measured_overlap(x, y, k)
    return _overlaps[key.digest()]


def _measured_overlap(x: Rows, y: Rows, k: int) -> _Overlap:
    reach_x, reach_y, centre = _reach(x, k), _reach(y, k), _centre(y)
    lengths_x, lengths_y = _squared_lengths(x, centre), _squared_lengths(y, centre)
    balls, covered, recalled = np.zeros(len(x), np.int64), np.zeros(len(y), bool), np.zeros(len(y), bool)
    for i in row_blocks(len(x)):
        left = _centred(x, i, centre)
        for j in row_blocks(len(y)):
            bounds = _bounds(left, lengths_x[i], _centred(y, j, centre), lengths_y[j])
            in_real = _inside(bounds, reach_y[None, j], x, i, y, j)
            balls[i] += in_real.sum(axis=1)
            covered[j] |= in_real.any(axis=0)
            recalled[j] |= _inside(bounds, reach_x[i, None], x, i, y, j).any(axis=0)
            del bounds  # a third of the memory, before the next ones are made
    return _Overlap(balls, covered, recalled)


def _inside(
    bounds: tuple[np.ndarray, np.ndarray], reach: np.ndarray, x: Rows, i: slice, y: Rows, j: slice
) -> np.ndarray:
    """Which rows i of x and j of y are no further apart than ``reach``; the bounds leave few to be measured."""
    low, high = bounds
    found = np.asarray(high <= reach.astype(np.float32))
    a, b = np.divmod(np.flatnonzero((low <= reach.astype(np.float32)) ^ found), low.shape[1])
    found[a, b] = _squared_distances(x, i.start + a, y, j.start + b) <= np.broadcast_to(reach, low.shape)[a, b]
    return found


def _reach(rows: Rows, k: int) -> np.ndarray:
    """(n,) squared distance of each row to its k-th nearest other one.

    Tile by tile, pairs are put aside that may be among the k nearest of either; in the end few of them remain, and only
    those are measured.
    """
    n, centre = len(rows), _centre(rows)
    lengths, parts = _squared_lengths(rows, centre), row_blocks(n)
    settled = _repeated(rows, k)
    nearest = np.where(settled[:, None], -np.inf, np.full((n, k), np.inf, np.float32))  # from above
    aside: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for i, j in [(i, i) for i in parts] + [(i, j) for i in parts for j in parts if i.start < j.start]:
        left = _centred(rows, i, centre)
        low, high = _bounds(left, lengths[i], left if i == j else _centred(rows, j, centre), lengths[j])
        if i == j:
            np.fill_diagonal(low, np.inf)
            np.fill_diagonal(high, np.inf)
            if len(high) > k:
                nearest[i] = np.minimum(nearest[i], np.partition(high, range(k), axis=1)[:, :k])
        a, b = np.divmod(np.flatnonzero(low <= np.maximum(nearest[i, -1:], nearest[None, j, -1])), low.shape[1])
        above, below, a, b = high[a, b], low[a, b], a + i.start, b + j.start
        del low, high
        aside.append((a, b, below))
        if i != j:
            aside.append((b, a, below))
            _keep_nearest(nearest, a, above)
            _keep_nearest(nearest, b, above)
    a, b, below = (np.concatenate(part) for part in zip(*aside, strict=True))
    needed = below <= nearest[a, -1]
    a, b = a[needed], b[needed]
    exact = np.where(settled[:, None], 0.0, np.full((n, k), np.inf))
    _keep_nearest(exact, a, _squared_distances(rows, a, rows, b))
    return np.asarray(exact[:, -1])


def _keep_nearest(nearest: np.ndarray, row: np.ndarray, value: np.ndarray) -> None:
    """Update the (n, k) smallest values of each row, given further values and their rows."""
    k = nearest.shape[1]
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    place = np.arange(row.size) - np.searchsorted(row, row)
    new = np.full_like(nearest, np.inf)
    new[row[place < k], place[place < k]] = value[place < k]
    nearest[:] = np.sort(np.hstack([nearest, new]), axis=1)[:, :k]


def _repeated(rows: Rows, k: int) -> np.ndarray:
    """Which rows have at least k equal ones beside them, as where a generator makes one image again and again."""
    hashes = [
        hashlib.sha256(row).digest() for part in row_blocks(len(rows)) for row in np.ascontiguousarray(rows[part])
    ]
    _, group, count = np.unique(hashes, return_inverse=True, return_counts=True)
    return np.asarray(count[group] > k)


def _bounds(
    a: np.ndarray, lengths_a: np.ndarray, b: np.ndarray, lengths_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of all pairs of float32 rows, from below and from above, given their squared lengths.

    A sum of d products is off by at most d·u·|a|·|b|, whatever its order (Higham 2002, section 3.1), so twice that is
    at most d·u·(|a|² + |b|²), with u = 2⁻²⁴. Rounding of the rows, their lengths and the sums below adds a few u.
    """
    total = lengths_a[:, None] + lengths_b[None, :]
    low = a @ b.T
    low *= -2
    low += total
    total *= np.float32((a.shape[1] + 16) * _FLOAT32.eps / 2)
    total += np.float32(4 * a.shape[1] * _FLOAT32.tiny)  # what underflows in a term is lost whole
    high = low + total
    low -= total
    return low, high


def _centred(rows: Rows, part: slice, centre: np.ndarray) -> np.ndarray:
    return np.asarray(rows[part] - centre, dtype=np.float32)


def _squared_lengths(rows: Rows, centre: np.ndarray) -> np.ndarray:
    blocks = (_centred(rows, part, centre) for part in row_blocks(len(rows)))
    lengths = np.concatenate([np.einsum("ij,ij->i", block, block, dtype=np.float64) for block in blocks])
    if lengths.max() > _FLOAT32.max / 8:
        raise UsageError(
            f"features must have a squared length that fits float32 but one has {lengths.max():.1e}; scale all down."
        )
    return lengths.astype(np.float32)


def _squared_distances(x: Rows, i: np.ndarray, y: Rows, j: np.ndarray) -> np.ndarray:
    """(n_pairs,) of rows i of x and j of y: the same bits for a pair wherever it stands, and in either order."""
    found = np.empty(len(i))
    tile = i // BLOCK * len(y) + j // BLOCK
    order = np.argsort(tile, kind="stable")
    for pairs in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1) if len(i) else []:
        top, side = i[pairs[0]] // BLOCK * BLOCK, j[pairs[0]] // BLOCK * BLOCK
        left, right = x[top : top + BLOCK], y[side : side + BLOCK]
        for part in row_blocks(len(pairs), BLOCK // 8):
            some = pairs[part]
            gap = float64_rows(left, i[some] - top) - float64_rows(right, j[some] - side)
            found[some] = (gap * gap).sum(axis=1)
    return found


def _centre(rows: Rows) -> np.ndarray:
    """The mean in float32, where subtracting it from float32 rows rounds once."""
    total = sum(float64_rows(rows, part).sum(axis=0) for part in row_blocks(len(rows)))
    return np.asarray(total / len(rows), dtype=np.float32)

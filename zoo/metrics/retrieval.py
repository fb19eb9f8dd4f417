"""Which picture was it? The place of the right one when a gallery is sorted by cosine similarity. Blocked, float64.

Every score is a mean over queries of something that depends on the rank alone. Where other rows are just as similar as
the right one, it is averaged over the ranks that one could have, so a model that cannot tell rows apart scores chance.
The gallery decides what is asked: pictures shown (rank of the picture) or class centres (rank of the class).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features, check_labels, hits
from zoo.stats import keyed_rng

LEVEL = 1e-12
"""Similarities closer than this count as equal; products of unit vectors round to about 1e-15."""
_BLOCK = 1024
_VALUES = 2**23


def top_k_accuracy(*, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike, k: int = 1) -> Score:
    """Share of queries whose own row is among the ``k`` most similar rows of the gallery.

    The trap: the value depends on the size of the gallery, whose chance ``k / m`` stands in ``detail["chance"]``.

    Shape:
        queries: (n, n_features); gallery: (m, n_features), m > k; own: (n,) row of the gallery each query belongs to.
    Raises:
        UsageError: Shapes disagree, a value is not finite, ``own`` is no row, or the gallery holds no more than k rows.

    References:
        As "top-1" and "top-5" in Song et al. (2024), https://arxiv.org/abs/2308.13234.

    Example:
        >>> top_k_accuracy(queries=np.eye(3), gallery=np.eye(3), own=[0, 1, 0]).value
        0.6666666666666666
    """
    _check_k(gallery, k)
    return _by_rank(np.arange(len(gallery)) < k, *_places(queries, gallery, own))


def sized_top_k_accuracy(*, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike, size: int, k: int = 1) -> Score:
    """``top_k_accuracy`` in a gallery of exactly ``size`` rows, for a metric whose name says so.

    Shape, raises: as ``top_k_accuracy``, and UsageError for a gallery of another size.
    """
    if len(gallery) != size:
        raise UsageError(
            f"the gallery must hold {size} pictures but holds {len(gallery)}; use a metric that names no size."
        )
    return top_k_accuracy(queries=queries, gallery=gallery, own=own, k=k)


def mean_reciprocal_rank(*, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike) -> Score:
    """Mean of 1 / rank of the own row; with one right row per query this is mean average precision (mAP).

    Shape, raises: as ``top_k_accuracy`` with k = 1.

    References:
        Voorhees (1999), TREC-8; as "mAP" in Wu et al. (2025), https://arxiv.org/abs/2503.04207.
    """
    _check_k(gallery, 1)
    return _by_rank(1 / np.arange(1, len(gallery) + 1), *_places(queries, gallery, own))


def median_rank(*, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike) -> Score:
    """Median over queries of the rank of the own row, 1 for the most similar; equal rows share the mean of their ranks.

    Shape, raises: as ``top_k_accuracy`` with k = 1.
    """
    _check_k(gallery, 1)
    above, level = _places(queries, gallery, own)
    return Score(float(np.median(above + 1 + level / 2)), detail={"chance": (len(gallery) + 1) / 2})


def k_way_accuracy(*, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike, k: int) -> Score:
    """Chance that the own row is more similar than ``k - 1`` others drawn at random: the mean over all draws, exactly.

    With ``a`` of the ``m - 1`` other rows ahead, no drawn one is ahead with probability C(m-1-a, k-1) / C(m-1, k-1),
    so nothing has to be drawn, and no seed moves the value.

    Shape:
        As ``top_k_accuracy``, with 2 <= k <= m.
    Raises:
        UsageError: As ``top_k_accuracy``, or k is not in that range.

    References:
        The n-way trials of Chen et al. (2023), https://arxiv.org/abs/2211.06956, in expectation.
    """
    m = len(gallery)
    if not 2 <= k <= m:
        raise UsageError(f"k must be in 2..{m}, the size of the gallery, but is {k}; choose among fewer rows.")
    drawn = np.arange(k - 1)
    behind = m - 1 - np.arange(m)
    none_ahead = np.prod(np.clip(behind[:, None] - drawn, 0, None) / (m - 1 - drawn), axis=1)
    return _by_rank(none_ahead, *_places(queries, gallery, own))


def csls_top_k_accuracy(
    *, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike, k: int = 1, neighbours: int = 10
) -> Score:
    """``top_k_accuracy`` with cross-domain similarity local scaling: rows similar to every query are held back.

    2 cos(x, y) - r(x) - r(y), where r(y) is the mean similarity of y to its ``neighbours`` nearest queries; r(x) moves
    no rank of x. The trap: r(y) reads the other test queries, so this is not the score of a query on its own.

    Shape:
        As ``top_k_accuracy``, n >= neighbours.
    Raises:
        UsageError: As ``top_k_accuracy``, or there are fewer queries than ``neighbours``.

    References:
        Conneau et al. (2018), https://arxiv.org/abs/1710.04087, section 2.3.
    """
    _check_k(gallery, k)
    if not 1 <= neighbours <= len(queries):
        raise UsageError(
            f"CSLS needs at least as many queries as neighbours, but got {len(queries)} and {neighbours}; "
            "score more queries together."
        )
    crowding = np.empty(len(gallery))
    for columns in _blocks(gallery):
        nearest = np.empty((0, columns.stop - columns.start))
        for rows in _blocks(queries):
            nearest = np.concatenate([nearest, _cosines(queries[rows], gallery[columns])])
            nearest = np.partition(nearest, -min(neighbours, len(nearest)), axis=0)[-neighbours:]
        crowding[columns] = nearest.mean(axis=0)
    return _by_rank(np.arange(len(gallery)) < k, *_places(queries, gallery, own, crowding / 2))


def transductive_sinkhorn_accuracy(
    *,
    queries: np.ndarray,
    gallery: np.ndarray,
    own: ArrayLike,
    k: int = 1,
    temperature: float = 0.07,
    iterations: int = 100,
) -> Score:
    """``top_k_accuracy`` after spreading the queries evenly over the gallery: it uses all test queries at once.

    exp(cosine / temperature) is scaled to equal row sums and equal column sums, which assumes that every row was shown
    equally often. Never to be set beside scores of queries on their own. The n × m similarities are held in memory.

    Shape, raises: as ``top_k_accuracy``.

    References:
        Cuturi (2013), https://arxiv.org/abs/1306.0895, algorithm 1; 0.07 is the temperature of Song et al. (2024).
    """
    _check_k(gallery, k)
    kernel = np.exp(_cosines(queries, gallery) / temperature)
    columns = np.ones(len(gallery))
    for _ in range(iterations):
        rows = len(gallery) / (kernel @ columns)
        columns = len(queries) / (rows @ kernel)
    return _by_rank(np.arange(len(gallery)) < k, *_places(queries, gallery, own, -temperature * np.log(columns)))


def transductive_assignment_accuracy(
    *, queries: np.ndarray, gallery: np.ndarray, own: ArrayLike, seed: int = 0
) -> Score:
    """Share of queries that get their own row when each row is given to at most one query, at the highest total cosine.

    It uses all test queries at once and the knowledge that none shares its row; never to be set beside scores of
    queries on their own. Both sides are shuffled by ``seed`` first, or equal similarities would be assigned in order.

    Shape:
        As ``top_k_accuracy``, n <= m, and no row is the own one of two queries.
    Raises:
        UsageError: As ``top_k_accuracy``, or two queries share a row.

    References:
        Kuhn (1955), https://doi.org/10.1002/nav.3800020109.
    """
    from scipy.optimize import linear_sum_assignment

    _check_k(gallery, 1)
    right = _own_rows(queries, gallery, own)
    if len(np.unique(right)) < len(right):
        raise UsageError(
            f"an assignment gives each row to one query, but {len(right)} queries share {len(np.unique(right))} rows; "
            "average the queries of a row first."
        )
    rng = keyed_rng("transductive_assignment_accuracy", seed)
    rows, columns = rng.permutation(len(right)), rng.permutation(len(gallery))
    similarity = np.round(_cosines(queries, gallery), 12)  # or rounding would decide between equal rows
    found = linear_sum_assignment(similarity[np.ix_(rows, columns)], maximize=True)[1]
    correct = np.empty(len(right), bool)
    correct[rows] = columns[found] == right[rows]
    return hits(correct, chance=1 / len(gallery))


def class_centres(*, features: np.ndarray, labels: ArrayLike, n_classes: int) -> np.ndarray:
    """Mean of the unit-length features of each class, (n_classes, n_features): a gallery of classes, not of pictures.

    Raises:
        UsageError: Shapes disagree, a value is not finite, labels are out of range, or a class has no picture.

    References:
        The "centres" that Song et al. (2024), https://arxiv.org/abs/2308.13234, search in their published code.
    """
    classes = check_labels("labels", labels, len(features), n_classes)
    if missing := np.setdiff1d(np.arange(n_classes), classes).tolist():
        raise UsageError(f"every class needs a picture to have a centre, but {missing} have none; use another gallery.")
    total = sum(
        (np.arange(n_classes)[:, None] == classes[rows]) @ _unit(check_features(features=features[rows])[0])
        for rows in _blocks(features)
    )
    return np.asarray(total / np.bincount(classes)[:, None])


def class_top_k_accuracy(
    *,
    queries: np.ndarray,
    labels: ArrayLike,
    known: np.ndarray,
    known_labels: ArrayLike,
    n_classes: int,
    k: int = 1,
) -> Score:
    """Share of queries among whose ``k`` nearest class centres is that of their own class.

    The centres are those of known (training-role) pictures, so it is defined where trials share only the class of a
    picture. Chance is ``k / n_classes``.

    Shape:
        queries: (n, n_features), labels: (n,); known: (m, n_features), known_labels: (m,).
    Raises:
        UsageError: As ``class_centres`` and ``top_k_accuracy``.
    """
    own = check_labels("labels", labels, len(queries), n_classes)
    centres = class_centres(features=known, labels=known_labels, n_classes=n_classes)
    return top_k_accuracy(queries=queries, gallery=centres, own=own, k=k)


def own_similarity(
    queries: np.ndarray,
    gallery: np.ndarray,
    own: np.ndarray,
    *,
    offset: np.ndarray | None = None,
    centred: bool = False,
) -> np.ndarray:
    """(n,) similarity of each query to its own row, less that row's ``offset``; ``centred`` makes it a correlation."""
    found = np.empty(len(queries))
    for rows in _blocks(queries):
        x, y = check_features(queries=queries[rows], gallery=gallery[own[rows]])
        found[rows] = (_unit(x, centred) * _unit(y, centred)).sum(axis=1)
    return found if offset is None else found - offset[own]


def count_above(
    queries: np.ndarray,
    gallery: np.ndarray,
    bar: np.ndarray,
    *,
    offset: np.ndarray | None = None,
    centred: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """How many rows of the gallery are more similar to each query than ``bar``, and how many are level with it.

    Shape:
        queries: (n, n_features); gallery: (m, n_features); bar: (n,); offset: (m,), taken off each row's similarity.
        Returns two (n,) arrays of whole numbers. Memory does not grow with n or m.
    """
    above, level = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for rows in _blocks(queries):
        for columns in _blocks(gallery):
            ahead = _cosines(queries[rows], gallery[columns], centred) - bar[rows, None]
            if offset is not None:
                ahead -= offset[columns]
            above[rows] += (ahead > LEVEL).sum(axis=1)
            level[rows] += (np.abs(ahead) <= LEVEL).sum(axis=1)
    return above, level


def _places(
    queries: np.ndarray, gallery: np.ndarray, own: ArrayLike, offset: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How many rows stand before each query's own one, and how many others stand level with it."""
    bar = own_similarity(queries, gallery, _own_rows(queries, gallery, own), offset=offset)
    above, level = count_above(queries, gallery, bar, offset=offset)
    return above, level - 1


def _by_rank(worth: np.ndarray, above: np.ndarray, level: np.ndarray) -> Score:
    """Mean worth of the rank of each query, over the ``level + 1`` ranks that equal rows could take.

    Shape:
        worth: (m,) value of rank 1, 2, …; its mean is what a random order scores.
    """
    up_to = np.concatenate([[0.0], np.cumsum(worth)])
    per_unit = (up_to[above + level + 1] - up_to[above]) / (level + 1)
    return Score(float(per_unit.mean()), per_unit, {"chance": float(worth.mean())})


def _own_rows(queries: np.ndarray, gallery: np.ndarray, own: ArrayLike) -> np.ndarray:
    rows, n, m = np.asarray(own), len(queries), len(gallery)
    if n == 0:
        raise UsageError("retrieval needs at least 1 query but got 0; score more samples together.")
    if rows.shape != (n,) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= m:
        raise UsageError(
            f"own must name one of the {m} rows of the gallery for each of {n} queries but is {rows.dtype} of shape "
            f"{rows.shape}{f', {rows.min()}..{rows.max()}' if rows.size else ''}; pass row numbers from 0."
        )
    return rows


def _check_k(gallery: np.ndarray, k: int) -> None:
    if not 1 <= k < len(gallery):
        raise UsageError(
            f"k must be at least 1 and below the {len(gallery)} rows of the gallery but is {k}; add rows or change k."
        )


def _cosines(queries: np.ndarray, gallery: np.ndarray, centred: bool = False) -> np.ndarray:
    x, y = check_features(queries=queries, gallery=gallery)
    return np.asarray(_unit(x, centred) @ _unit(y, centred).T)


def _unit(rows: np.ndarray, centred: bool = False) -> np.ndarray:
    """Rows of length 1. One without direction stays 0: equally similar to everything."""
    if centred:
        rows = rows - rows[:, :1]  # exactly 0 where a row is constant, which its mean need not be
        rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1))


def _blocks(features: np.ndarray) -> Iterator[slice]:
    """Rows to compare at once: fewer where they are wide, so that a block stays at 64 MB in float64."""
    n, size = len(features), max(1, min(_BLOCK, _VALUES // max(1, math.prod(features.shape[1:]))))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))

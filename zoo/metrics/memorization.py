"""Does a generator repeat its training pictures, or itself? Euclidean distances between features, float64, blocked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features, check_labels, hits

_BLOCK = 1024


def nearest_training_distance(*, generated: np.ndarray, reference: np.ndarray, known: np.ndarray) -> Score:
    """Mean Euclidean distance from each generated image to the training picture nearest to it.

    On its own the number has no good or bad end: copies lie near, and noise lies far. ``detail["real_distance"]`` is
    that of real test pictures, and ``detail["closer_than_real"]`` the chance that a generated image lies nearer than a
    real test picture does: 0.5 for pictures as new as those, towards 1 for copies, towards 0 for what is no picture.

    Shape:
        generated: (n, n_features); reference: (m, n_features), real pictures of the test role; known: (k, n_features),
        of the training role. At least one row each.
    Raises:
        UsageError: A side is empty, widths differ, or a value is not finite.

    References:
        Meehan et al. (2020), https://arxiv.org/abs/2004.05675: ``closer_than_real`` is their Mann-Whitney statistic
        over n m, with one cell of feature space.

    Example:
        >>> known = np.array([[0.0], [10.0]])
        >>> near, far = np.array([[1.0]]), np.array([[4.0]])
        >>> score = nearest_training_distance(generated=near, reference=far, known=known)
        >>> score.value, dict(score.detail)
        (1.0, {'real_distance': 4.0, 'closer_than_real': 1.0})
    """
    made, real = _nearest("generated", generated, known), np.sort(_nearest("reference", reference, known))
    further = len(real) - (np.searchsorted(real, made, "left") + np.searchsorted(real, made, "right")) / 2
    detail = {"real_distance": float(real.mean()), "closer_than_real": float(further.mean() / len(real))}
    return Score(float(made.mean()), made, detail)


def copy_rate(*, generated: np.ndarray, reference: np.ndarray, known: np.ndarray, false_alarm: float = 0.01) -> Score:
    """Share of generated images that lie closer to a training picture than real test pictures hardly ever do.

    The threshold is the r-th smallest of the m distances from a real test picture to its nearest training picture, with
    r = floor(false_alarm (m + 1)). A further real picture of that kind falls below it with probability r / (m + 1) or
    less, whatever the distribution. That is what a generator of new pictures scores; it stands in
    ``detail["false_alarm"]``, the distance in ``detail["threshold"]``.

    The trap: features of a network forgive what the network is blind to, so a copy here is a near-duplicate to it.

    Shape:
        As ``nearest_training_distance``, with m >= 1 / false_alarm - 1.
    Raises:
        UsageError: As there; too few reference pictures for the threshold; or so many of them are training pictures
            too that the threshold is 0.

    References:
        Carlini et al. (2023), https://arxiv.org/abs/2301.13188, for distance below a threshold as the sign of a copy;
        Bates et al. (2023), https://arxiv.org/abs/2104.08279, for the threshold (a conformal p-value).
    """
    if not 0 < false_alarm < 1:
        raise UsageError(f"false_alarm must be between 0 and 1 but is {false_alarm:g}; 0.05 is the card's.")
    m = len(reference)
    rank = math.floor(false_alarm * (m + 1) + 1e-9)  # 0.29 * 100 is 28.999…
    if rank < 1:
        raise UsageError(
            f"a threshold that {false_alarm:g} of real pictures fall below needs at least "
            f"{math.ceil(1 / false_alarm - 1e-9) - 1} reference pictures but there are {m}; "
            "choose a split with more test pictures or allow more false alarms."
        )
    threshold = float(np.sort(_nearest("reference", reference, known))[rank - 1])
    if threshold == 0:
        raise UsageError(
            "reference pictures must not be training pictures, but so many are that the threshold for a copy would be "
            "distance 0; choose a split that holds out pictures."
        )
    copied = _nearest("generated", generated, known) < threshold
    return hits(copied, threshold=threshold, false_alarm=rank / (m + 1))


def replicate_diversity(*, replicates: np.ndarray | Sequence[np.ndarray]) -> Score:
    """Mean Euclidean distance between two images generated for the same trial from different noise.

    0 for a generator that ignores its noise. The trap: noise on its own scores high, so read it beside a score of
    fidelity.

    Shape:
        replicates: (r, n, n_features), r >= 2 replicates of the same n >= 1 trials; a sequence of r such rows will do.
    Raises:
        UsageError: Fewer than two replicates, unequal shapes, or values that are not finite.

    References:
        Zhu et al. (2017), https://arxiv.org/abs/1711.11586, where the distance is LPIPS.

    Example:
        >>> replicate_diversity(replicates=np.array([[[0.0]], [[1.0]], [[3.0]]])).value
        2.0
    """
    r = len(replicates)
    if r < 2 or len({len(images) for images in replicates}) > 1 or len(replicates[0]) == 0:
        raise UsageError(
            "diversity within a trial needs at least 2 replicates of the same trials but got "
            f"{[len(images) for images in replicates]} images; generate more replicates."
        )
    per_unit = np.empty(len(replicates[0]))
    for part in _blocks(len(per_unit)):
        named = {f"replicate {index + 1}": images[part] for index, images in enumerate(replicates)}
        images = check_features(**named)
        pairs = [np.linalg.norm(images[i] - images[j], axis=1) for i in range(r) for j in range(i)]
        per_unit[part] = np.mean(pairs, axis=0)
    return Score(float(per_unit.mean()), per_unit)


def class_diversity(
    *, generated: np.ndarray, labels: ArrayLike, reference: np.ndarray, reference_labels: ArrayLike
) -> Score:
    """Mean Euclidean distance between two generated images of the same class: over pairs of a class, then over images.

    0 for a generator that makes one image per class. ``detail["real"]`` is the same for real test pictures, where a
    class has two. A class of one image has no pair and does not count.

    Shape:
        generated: (n, n_features), labels: (n,) conditioning classes; reference: (m, n_features), reference_labels:
            (m,).
    Raises:
        UsageError: Shapes disagree, a value is not finite, or no class has two generated images.

    References:
        Ojha et al. (2021), https://arxiv.org/abs/2104.06820, "intra-cluster diversity", where the distance is LPIPS and
        clusters stand for classes.
    """
    made = _spread("generated", generated, check_labels("labels", labels, len(generated)))
    if made is None:
        raise UsageError(
            f"diversity within a class needs a class of at least 2 generated images but none of {len(generated)} "
            "images shares its class; score more images together."
        )
    real = _spread("reference", reference, check_labels("reference_labels", reference_labels, len(reference)))
    return Score(made, detail={} if real is None else {"real": real})


def _nearest(name: str, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) distance of each row to the nearest row of ``known``.

    The nearest is found among |x|² + |y|² - 2 x·y, which is quick; its distance is that of the difference, since in the
    quick form an exact copy would not be at 0.
    """
    if len(rows) == 0 or len(known) == 0:
        raise UsageError(
            f"distances to training pictures need rows on both sides but {name} has {len(rows)} and known has "
            f"{len(known)}; choose another split."
        )
    found = np.empty(len(rows))
    for part in _blocks(len(rows)):
        best, where = np.full(len(found[part]), np.inf), np.zeros(len(found[part]), np.int64)
        for columns in _blocks(len(known)):
            x, y = check_features(min_n=1, **{name: rows[part], "known": known[columns]})
            squared = (y * y).sum(axis=1) - 2 * (x @ y.T)
            nearest = squared.argmin(axis=1)
            least = squared[np.arange(len(x)), nearest]
            where = np.where(least < best, columns.start + nearest, where)
            best = np.minimum(best, least)
        found[part] = np.linalg.norm(x - known[where], axis=1)
    return found


def _spread(name: str, rows: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean over rows of the mean distance to the other rows of its class; None if every class has one row."""
    from scipy.spatial.distance import cdist

    total, counted = 0.0, 0
    for label in np.unique(labels):
        (x,) = check_features(min_n=1, **{name: rows[np.flatnonzero(labels == label)]})
        if len(x) > 1:
            total += sum(float(cdist(x[part], x).sum()) for part in _blocks(len(x))) / (len(x) - 1)
            counted += len(x)
    return total / counted if counted else None


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))

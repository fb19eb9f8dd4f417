"""Is a generated image closer to the picture that was shown than to others? Paired comparisons of features, float64.

``own`` is, for each generated image, the row of ``reference`` that its trial was shown. So all of this needs instance
pairs; where trials share only the class of a picture it is not defined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features
from zoo.metrics.retrieval import count_above, own_similarity


def two_way_identification(*, generated: np.ndarray, reference: np.ndarray, own: ArrayLike) -> Score:
    """Chance that a generated image correlates more with its own picture than with another reference picture.

    The share of the other rows i of ``reference`` with corr(x_i, y_j) < corr(x_own, y_j), mean over generated images j.
    An equal correlation counts one half, so an image that tells nothing scores chance, 0.5. A row without variance
    correlates 0 with everything. Trials that share a picture share its row: a picture is never its own distractor.

    The trap: published code differs in the axis that is compared (``two_way_rowwise``), and one published score lies
    1 / (m - 1) lower because it takes the own picture off a count that never held it.

    Shape:
        generated: (n, n_features); reference: (m, n_features), m >= 2; own: (n,) row of ``reference``.
    Raises:
        UsageError: Shapes disagree, a value is not finite, ``own`` is no row, or there is no other picture.

    References:
        Ozcelik and VanRullen (2023), https://arxiv.org/abs/2303.05334, "2-way"; Scotti et al. (2023),
        https://arxiv.org/abs/2305.18274.

    Example:
        >>> pictures = np.eye(3)
        >>> two_way_identification(generated=pictures[[0, 1, 1]], reference=pictures, own=[0, 1, 2]).per_unit.tolist()
        [1.0, 1.0, 0.25]
    """
    rows, others = _own_rows(generated, reference, own), len(reference) - 1
    if others < 1:
        raise UsageError("two-way identification needs at least 2 reference pictures but got 1; add pictures.")
    bar = own_similarity(generated, reference, rows, centred=True)
    above, level = count_above(generated, reference, bar, centred=True)
    per_unit = (others - above - (level - 1) / 2) / others  # the own picture is level with itself
    return Score(float(per_unit.mean()), per_unit)


def two_way_rowwise(*, generated: np.ndarray, reference: np.ndarray, own: ArrayLike) -> Score:
    """``two_way_identification`` with the sides swapped: the own image among the other generated ones, per picture.

    For spotting a transposed correlation matrix in published code; it is on no board.

    Shape, raises: as ``two_way_identification``, and each picture belongs to at most one generated image.
    """
    rows = _own_rows(generated, reference, own)
    if len(np.unique(rows)) < len(rows):
        raise UsageError(
            f"own must name each picture at most once but {len(rows)} images share {len(np.unique(rows))}; "
            "pass one image per picture."
        )
    return two_way_identification(generated=reference[rows], reference=generated, own=np.arange(len(rows)))


def correlation_distance(*, generated: np.ndarray, reference: np.ndarray, own: ArrayLike) -> Score:
    """Mean of 1 - corr(own picture, generated image) over their features; lower is better, 0 to 2.

    An image without variance is at distance 1. The trap: "EffNet-B" and "SwAV" of papers are this, not identification.

    Shape:
        generated: (n, n_features); reference: (m, n_features); own: (n,) row of ``reference``.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or ``own`` is no row.

    References:
        Ozcelik and VanRullen (2023), https://arxiv.org/abs/2303.05334, "EffNet-B" and "SwAV".
    """
    per_unit = 1 - own_similarity(generated, reference, _own_rows(generated, reference, own), centred=True)
    return Score(float(per_unit.mean()), per_unit)


def cosine_similarity(*, generated: np.ndarray, reference: np.ndarray, own: ArrayLike) -> Score:
    """Mean cosine between the features of own picture and generated image; -1 to 1, higher is better.

    The trap: embeddings lie in a cone, so unrelated pictures are far above 0. Read it beside shuffled pairs.

    Shape, raises: as ``correlation_distance``.

    References:
        On CLIP features: "CLIP-I" of Ruiz et al. (2023), https://arxiv.org/abs/2208.12242.
    """
    per_unit = own_similarity(generated, reference, _own_rows(generated, reference, own))
    return Score(float(per_unit.mean()), per_unit)


def n_way_accuracy(*, generated: np.ndarray, reference: np.ndarray, own: ArrayLike, n: int = 50, k: int = 1) -> Score:
    """Chance that a classifier ranks the own picture's class in the top k, among it and n - 1 classes drawn at random.

    The class is the one the classifier gives the *shown picture*. If it ranks m of the other C - 1 classes higher for
    the generated image, P = Σ_{i<k} C(m, i) C(C-1-m, n-1-i) / C(C-1, n-1): what the published trials estimate, without
    their noise. Classes ranked equal are averaged over the orders they could stand in, so equal logits score k / n.

    The trap: it rewards the class the classifier sees, right or wrong, and says nothing of the picture beyond it.

    Shape:
        generated: (n_images, C) logits or probabilities; reference: (m, C) likewise; own: (n_images,).
    Raises:
        UsageError: Shapes disagree, a value is not finite, ``own`` is no row, or not 1 <= k < n <= C.

    References:
        Chen et al. (2023), https://arxiv.org/abs/2211.06956, "n-way top-k accuracy"; Bai et al. (2023),
        https://arxiv.org/abs/2306.16934, n = 50, k = 1.

    Example:
        >>> logits = np.array([[3.0, 2.0, 1.0]])
        >>> n_way_accuracy(generated=np.array([[2.0, 3.0, 1.0]]), reference=logits, own=[0], n=2).value
        0.5
    """
    from scipy.stats import hypergeom

    rows = _own_rows(generated, reference, own)
    scores, real = check_features(generated=generated, reference=reference)
    classes = scores.shape[1]
    if not 1 <= k < n <= classes:
        raise UsageError(f"1 <= k < n <= {classes} classes must hold but n is {n} and k is {k}; change n or k.")
    truth = scores[np.arange(len(rows)), real[rows].argmax(axis=1)][:, None]
    above, level = (scores > truth).sum(axis=1), (scores == truth).sum(axis=1)
    hit = hypergeom.cdf(k - 1, classes - 1, np.arange(classes), n - 1)  # with 0, 1, … classes ranked higher
    up_to = np.concatenate([[0.0], np.cumsum(hit)])
    per_unit = (up_to[above + level] - up_to[above]) / level
    return Score(float(per_unit.mean()), per_unit, {"chance": k / n})


def n_way_accuracy_sampled(*, scores: np.ndarray, truth: ArrayLike, picks: ArrayLike, k: int = 1) -> Score:
    """``n_way_accuracy`` as published: the share of given draws of n - 1 other classes in which the true one is top k.

    Shape:
        scores: (n_images, C) logits or probabilities; truth: (n_images,) class of the shown picture; picks: (n_images,
        n_draws, n - 1) other classes, none twice in a draw.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or a draw holds the true class or no class.
    """
    (checked,) = check_features(scores=scores)
    images, classes = checked.shape
    true, drawn = np.asarray(truth), np.asarray(picks)
    if drawn.ndim != 3 or len(drawn) != images or true.shape != (images,) or 0 in drawn.shape:
        raise UsageError(
            f"truth must be ({images},) and picks ({images}, n_draws, n - 1) but are {true.shape} and {drawn.shape}; "
            "draw for every image."
        )
    if min(true.min(), drawn.min()) < 0 or max(true.max(), drawn.max()) >= classes:
        raise UsageError(f"truth and picks must be classes in 0..{classes - 1} but leave that range; draw among those.")
    if (drawn == true[:, None, None]).any():
        raise UsageError("picks must leave out the true class but hold it; draw among the other classes.")
    image = np.arange(images)
    own, other = checked[image, true][:, None, None], checked[image[:, None, None], drawn]
    above, level = (other > own).sum(axis=2), (other == own).sum(axis=2)
    per_unit = np.clip((k - above) / (level + 1), 0, 1).mean(axis=1)
    return Score(float(per_unit.mean()), per_unit)


def _own_rows(generated: np.ndarray, reference: np.ndarray, own: ArrayLike) -> np.ndarray:
    rows, n, m = np.asarray(own), len(generated), len(reference)
    if n == 0:
        raise UsageError("paired comparisons need at least 1 generated image but got 0; score more images together.")
    if rows.shape != (n,) or rows.dtype.kind not in "iu":
        raise UsageError(
            f"own must be {n} whole numbers, one per generated image, but is {rows.dtype} of shape {rows.shape}; "
            "pass the row of the picture that each trial was shown."
        )
    if rows.min() < 0 or rows.max() >= m:
        raise UsageError(
            f"own must be in 0..{m - 1} but spans {rows.min()}..{rows.max()}; pass rows of the reference pictures."
        )
    return rows

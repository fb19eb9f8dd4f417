"""How well unlabelled clusters of EEG features agree with the classes, and how far apart the classes lie."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features, check_labels, hits
from zoo.stats import best_naming, keyed_rng

PERMUTATIONS = 100
"""Shuffled labellings whose mean is the chance of an agreement; its standard error is a tenth of their deviation."""
_SILHOUETTE_MB = 128


def hungarian_accuracy(*, clusters: ArrayLike, labels: ArrayLike) -> Score:
    """Share of samples whose cluster is their class under the best one-to-one naming of clusters.

    The trap: the naming is fitted to the same samples, so chance lies above 1 / n_classes, the more the fewer samples.
    ``detail["chance"]`` is the mean value of the same clusters under 100 seeded permutations of the labels.

    Shape:
        clusters: (n,) cluster number of each sample; labels: (n,) class of each; both whole numbers from 0.
    Raises:
        UsageError: No samples, unequal lengths, or numbers that are not whole.

    References:
        Kuhn (1955); in EEG-to-image: Singh et al. (2024), https://arxiv.org/abs/2310.16532.

    Example:
        >>> hungarian_accuracy(clusters=[2, 2, 0, 0], labels=[0, 0, 1, 0]).value
        0.75
    """
    found, true = _checked(clusters, labels)

    def correct(classes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(best_naming(numbers, classes)[numbers] == classes)

    return hits(correct(true, found), chance=_chance(lambda *given: correct(*given).mean(), true, found))


def normalised_mutual_information(*, clusters: ArrayLike, labels: ArrayLike) -> Score:
    """Mutual information of clusters and classes, divided by the arithmetic mean of their entropies; 0 to 1.

    No naming is needed, so there may be more clusters than classes. The trap: it is not adjusted for chance, which
    grows with their number; ``detail["chance"]`` is its mean under 100 seeded permutations of the labels.

    Shape, raises: as ``hungarian_accuracy``.

    References:
        Strehl and Ghosh (2002), JMLR 3; arithmetic mean as in scikit-learn since 0.22.

    Example:
        >>> normalised_mutual_information(clusters=[2, 2, 0, 0], labels=[0, 0, 1, 1]).value
        1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    found, true = _checked(clusters, labels)
    return Score(
        float(normalized_mutual_info_score(true, found)),
        detail={"chance": _chance(normalized_mutual_info_score, true, found)},
    )


def adjusted_rand_index(*, clusters: ArrayLike, labels: ArrayLike) -> Score:
    """Share of pairs of samples that clusters and classes both join or both part, adjusted so that chance is 0.

    At most 1; below 0 for agreement worse than that of a random partition with the same sizes.

    Shape, raises: as ``hungarian_accuracy``.

    References:
        Hubert and Arabie (1985), https://doi.org/10.1007/BF01908075, eq. 5.

    Example:
        >>> adjusted_rand_index(clusters=[2, 2, 0, 0], labels=[0, 0, 1, 1]).value
        1.0
    """
    from sklearn.metrics import adjusted_rand_score

    found, true = _checked(clusters, labels)
    return Score(float(adjusted_rand_score(true, found)))


def kmeans_clusters(*, features: ArrayLike, n_classes: int, seed: int = 45) -> np.ndarray:
    """(n,) cluster number of each sample by k-means with one cluster per class, on the features as they are.

    The settings move scores by 3 to 11 points, so they are pinned: scikit-learn's k-means++, Lloyd, 10 starts, 300
    iterations, tolerance 1e-4, seed 45; features are not normalised. Those are the published ones of EEG2Image and
    EEGStyleGAN-ADA (whose scikit-learn still had 10 starts by default). To score one clustering by several measures,
    call this once and pass ``clusters`` to each.

    Shape:
        features: (n, n_features), n >= n_classes.
    Raises:
        UsageError: Fewer samples than classes, or features not finite.

    References:
        Singh et al. (2023), https://arxiv.org/abs/2302.10121, section 4; Singh et al. (2024), table 2.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    (points,) = check_features(min_n=max(n_classes, 1), features=features)
    kmeans = KMeans(n_classes, n_init=10, max_iter=300, tol=1e-4, algorithm="lloyd", random_state=seed)
    with warnings.catch_warnings():  # fewer distinct points than clusters: a collapsed encoder, and its score says so
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        return np.asarray(kmeans.fit_predict(points))


def kmeans_accuracy(*, features: ArrayLike, labels: ArrayLike, n_classes: int, seed: int = 45) -> Score:
    """``hungarian_accuracy`` of ``kmeans_clusters``; ``nmi`` and ``ari`` of the same clusters in ``detail``.

    One clustering serves all three: a track that does not rank by ``kmeans_nmi`` or ``kmeans_ari`` need not list them.

    Shape:
        features: (n, n_features), n >= n_classes; labels: (n,) in 0..n_classes-1.
    Raises:
        UsageError: Fewer samples than classes, features not finite, or labels out of range.

    References:
        Singh et al. (2023), https://arxiv.org/abs/2302.10121, section 4; Singh et al. (2024), table 2.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    found, true = _clustered(features, labels, n_classes, seed)
    score = hungarian_accuracy(clusters=found, labels=true)
    also = {"nmi": normalized_mutual_info_score(true, found), "ari": adjusted_rand_score(true, found)}
    return replace(score, detail={**score.detail, **also})


def kmeans_nmi(*, features: ArrayLike, labels: ArrayLike, n_classes: int, seed: int = 45) -> Score:
    """``normalised_mutual_information`` of ``kmeans_clusters``. Shape, raises: as ``kmeans_accuracy``."""
    found, true = _clustered(features, labels, n_classes, seed)
    return normalised_mutual_information(clusters=found, labels=true)


def kmeans_ari(*, features: ArrayLike, labels: ArrayLike, n_classes: int, seed: int = 45) -> Score:
    """``adjusted_rand_index`` of ``kmeans_clusters``. Shape, raises: as ``kmeans_accuracy``."""
    found, true = _clustered(features, labels, n_classes, seed)
    return adjusted_rand_index(clusters=found, labels=true)


def class_silhouette(*, features: ArrayLike, labels: ArrayLike) -> Score:
    """How much nearer samples lie to their own class than to the next one: mean of (b - a) / max(a, b), -1 to 1.

    a is the mean Euclidean distance to the other samples of the class, b that to those of the nearest other class. The
    groups are the classes themselves: the silhouette of clusters says how clustered features are, which they may well
    be by subject. A sample that is alone in its class, or all of whose distances are 0, counts 0; so does a constant
    encoder. Nothing is fitted. Time grows with n², memory does not.

    Shape:
        features: (n, n_features); labels: (n,) whole numbers from 0, of 2 to n - 1 classes.
    Raises:
        UsageError: Shapes disagree, a value is not finite, or there are fewer or more classes than that.

    References:
        Rousseeuw (1987), https://doi.org/10.1016/0377-0427(87)90125-7.

    Example:
        >>> round(class_silhouette(features=[[0.0], [1.0], [9.0], [10.0]], labels=[0, 0, 1, 1]).value, 3)
        0.889
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples

    (points,) = check_features(features=features)
    true = check_labels("labels", labels, len(points))
    n_classes = len(np.unique(true))
    if not 2 <= n_classes < len(points):
        raise UsageError(
            f"a silhouette needs at least 2 classes and fewer than samples but got {n_classes} of {len(points)}; "
            "score more samples together."
        )
    with config_context(working_memory=_SILHOUETTE_MB):
        per_unit = silhouette_samples(points - points[0], true)  # moved, so that equal points are at distance 0 exactly
    return Score(float(per_unit.mean()), per_unit)


def _checked(clusters: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    n = len(np.asarray(labels))
    if n == 0:
        raise UsageError(
            "an agreement of clusters with classes needs at least 1 sample but got 0; score more samples together."
        )
    return check_labels("clusters", clusters, n), check_labels("labels", labels, n)


def _clustered(features: ArrayLike, labels: ArrayLike, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters and classes, the latter checked before the time is spent."""
    true = check_labels("labels", labels, len(np.asarray(features)), n_classes)
    return kmeans_clusters(features=features, n_classes=n_classes, seed=seed), true


def _chance(agreement: Callable[..., Any], labels: np.ndarray, clusters: np.ndarray) -> float:
    """Mean agreement of the same clusters with permuted labels; the same permutations for every measure and model."""
    rng = keyed_rng("clustering", "chance")
    return float(np.mean([agreement(rng.permutation(labels), clusters) for _ in range(PERMUTATIONS)]))

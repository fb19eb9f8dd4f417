"""How well unlabelled clusters of EEG features agree with the classes."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_features, check_labels, hits
from zoo.stats import best_naming


def hungarian_accuracy(*, clusters: ArrayLike, labels: ArrayLike) -> Score:
    """Share of samples whose cluster is their class under the best one-to-one naming of clusters.

    The trap: the naming is fitted to the same samples, so chance lies above 1 / n_classes, the more the fewer samples.

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
    n = len(np.asarray(labels))
    if n == 0:
        raise UsageError("hungarian_accuracy needs at least 1 sample but got 0; score more samples together.")
    found, true = check_labels("clusters", clusters, n), check_labels("labels", labels, n)
    return hits(best_naming(found, true)[found] == true)


def kmeans_accuracy(*, features: ArrayLike, labels: ArrayLike, n_classes: int, seed: int = 45) -> Score:
    """Hungarian accuracy of k-means with one cluster per class, on the features as they are.

    The settings move the value by 3 to 11 points, so they are pinned: scikit-learn's k-means++, Lloyd, 10 starts, 300
    iterations, tolerance 1e-4, seed 45; features are not normalised. Those are the published ones of EEG2Image and
    EEGStyleGAN-ADA (whose scikit-learn still had 10 starts by default).

    Shape:
        features: (n, n_features), n >= n_classes; labels: (n,) in 0..n_classes-1.
    Raises:
        UsageError: Fewer samples than classes, features not finite, or labels out of range.

    References:
        Singh et al. (2023), https://arxiv.org/abs/2302.10121, section 4; Singh et al. (2024), table 2.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    (points,) = check_features(min_n=max(n_classes, 1), features=features)
    true = check_labels("labels", labels, len(points), n_classes)
    kmeans = KMeans(n_classes, n_init=10, max_iter=300, tol=1e-4, algorithm="lloyd", random_state=seed)
    with warnings.catch_warnings():  # fewer distinct points than clusters: a collapsed encoder, and its score says so
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        return hungarian_accuracy(clusters=kmeans.fit_predict(points), labels=true)

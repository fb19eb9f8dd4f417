"""Inception Score: the information that images give about their predicted class, and how three papers sampled it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_labels
from zoo.metrics.rows import Features, Rows, check_rows, float64_rows, row_blocks

SEED = 2020
"""torch-fidelity's default, so that shuffles are its own."""


def inception_score(*, logits: Features, splits: int = 10, shuffle: bool = True, seed: int = SEED) -> Score:
    """Exponential of the information an image gives about its predicted class: mean over splits.

    From 1 (every image alike, or every prediction flat) to the number of classes; higher is better. The trap is order:
    in consecutive splits of images sorted by class each split holds about one class and the score collapses.
    ``shuffle`` (torch-fidelity's default, with its seed) removes that; ``shuffle=False`` is the order-dependent score
    of some papers.

    Shape:
        logits: (n, n_classes), of the Inception network without its last bias; n >= 2 * splits, for a split of one
            image always scores 1.
    Returns:
        The mean; the standard deviation over splits as detail ``split_std``.

    Raises:
        UsageError: Fewer rows than that, or values that are not finite.

    References:
        Salimans et al. (2016), https://arxiv.org/abs/1606.03498, section 4; torch-fidelity 0.4.0, metric_isc.py.
    """
    _check_splits(splits)
    (rows,) = check_rows(min_n=2 * splits, logits=logits)
    n = len(rows)
    order = np.random.RandomState(seed).permutation(n) if shuffle else np.arange(n)  # noqa: NPY002 - torch-fidelity's
    return _split_score(rows, order, splits)


def inception_score_thoughtviz(
    *, replicates: np.ndarray, labels: ArrayLike, draws: int = 50_000, splits: int = 10, seed: int = SEED
) -> Score:
    """Inception Score with ThoughtViz's sampling: each image is of a class drawn uniformly and a trial drawn from it.

    Its 50,000 images had noise of their own; here they are drawn, with repetition, from the images that exist. Splits
    are consecutive in drawn order, no epsilon, logits without bias.

    Shape:
        replicates: (n_replicates, n, n_classes) logits; labels: (n,) conditioning class.
    Raises:
        UsageError: Fewer than 2 * splits images, or values that are not finite.

    References:
        Tirupattur et al. (2018), https://doi.org/10.1145/3240508.3240641.
    """
    rows, n = _pooled(replicates, splits)
    of_trial = check_labels("labels", labels, n)
    rng = np.random.default_rng(seed)
    by_class, (_, start, size) = np.argsort(of_trial, kind="stable"), _groups(of_trial)
    drawn = rng.integers(size.size, size=draws)
    trial = by_class[start[drawn] + rng.integers(size[drawn])]
    return _split_score(rows, trial + n * rng.integers(len(rows) // n, size=draws), splits)


def inception_score_nvlabs(*, replicates: np.ndarray, draws: int = 50_000, splits: int = 10, seed: int = SEED) -> Score:
    """Inception Score with the sampling of StyleGAN2-ADA's ``is50k``, as in EEGStyleGAN-ADA: trials drawn at random.

    Its 50,000 images had noise of their own; here they are drawn, with repetition, from the images that exist. Splits
    are consecutive in drawn order, logits without bias.

    Shape:
        replicates: (n_replicates, n, n_classes) logits.
    Raises:
        UsageError: Fewer than 2 * splits images, or values that are not finite.

    References:
        Karras et al. (2020), https://arxiv.org/abs/2006.06676; Singh et al. (2024), https://arxiv.org/abs/2310.16532.
    """
    rows, _ = _pooled(replicates, splits)
    return _split_score(rows, np.random.default_rng(seed).integers(len(rows), size=draws), splits)


def inception_score_eeg2image(
    *, replicates: np.ndarray, labels: ArrayLike, per_class: int = 5000, splits: int = 10
) -> Score:
    """Inception Score in EEG2Image's order: sorted by class, so that with ten classes a split holds about one.

    Each trial of a class with N trials counts ceil(5000 / N) times. There the copies had noise of their own; here they
    are the replicates in turn. The JPEG round trip is left out.

    Shape:
        replicates: (n_replicates, n, n_classes) logits; labels: (n,) conditioning class.
    Raises:
        UsageError: Fewer than 2 * splits images, or values that are not finite.

    References:
        Singh et al. (2023), https://arxiv.org/abs/2302.10121.
    """
    rows, n = _pooled(replicates, splits)
    of_trial = check_labels("labels", labels, n)
    by_class, (_, _, size) = np.argsort(of_trial, kind="stable"), _groups(of_trial)
    copies = np.repeat(-(-per_class // size), size)
    trial = np.repeat(by_class, copies)
    copy = np.concatenate([np.arange(count) for count in copies])
    return _split_score(rows, trial + n * (copy % (len(rows) // n)), splits)


def _check_splits(splits: int) -> None:
    if splits < 1:
        raise UsageError(f"inception_score needs at least 1 split but got {splits}; 10 is what papers use.")


def _pooled(replicates: np.ndarray, splits: int) -> tuple[Rows, int]:
    """Images of all replicates as rows, one replicate after the other, and how many one has."""
    _check_splits(splits)
    logits = np.asarray(replicates)
    if logits.ndim != 3:
        raise UsageError(
            f"replicates must be (n_replicates, n_samples, n_classes) but has shape {logits.shape}; "
            "pass one (n_samples, n_classes) array a replicate."
        )
    (rows,) = check_rows(min_n=2 * splits, replicates=logits.reshape(-1, logits.shape[2]))
    return rows, logits.shape[1]


def _groups(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes that occur, where each begins in sorted order, and its size."""
    classes, size = np.unique(labels, return_counts=True)
    return classes, np.cumsum(size) - size, size


def _split_score(logits: Rows, order: np.ndarray, splits: int) -> Score:
    """Mean over consecutive splits of ``order``, which names rows and may repeat them, of exp(mean KL(p_i, mean p))."""
    n = len(order)
    values = []
    for split in range(splits):
        chosen, times = np.unique(order[split * n // splits : (split + 1) * n // splits], return_counts=True)
        mean, information = np.zeros(logits.shape[1]), 0.0
        for part in row_blocks(len(chosen)):
            block = float64_rows(logits, chosen[part])
            log_p = block - block.max(axis=1, keepdims=True)
            log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
            p = np.exp(log_p)
            mean += times[part] @ p
            information += float(times[part] @ (p * log_p).sum(axis=1))
        mean /= times.sum()
        entropy = -float((mean * np.log(np.where(mean > 0, mean, 1))).sum())
        values.append(math.exp(entropy + information / times.sum()))
    return Score(float(np.mean(values)), detail={"split_std": float(np.std(values))})

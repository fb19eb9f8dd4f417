"""Distances between two sets of images, and the score of one, from their features. Pure numpy, float64 throughout.

Given the same features they equal torch-fidelity 0.4.0 (tests/metrics/test_fidelity.py); the routes here are faster and
also exact where there are fewer images than features, which is the rule in EEG.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import check_features

SEED = 2020
"""torch-fidelity's default, so that shuffles and subsets are its own."""
_BLOCK = 1024
_EXACT_SVD = 512


def frechet_distance(*, generated: ArrayLike, reference: ArrayLike) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features: FID on Inception features.

    |mu1 - mu2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½, with unbiased covariances. With factors Sᵢ = Fᵢᵀ Fᵢ the last trace is
    the sum of the singular values of F1 F2ᵀ: no matrix root, no complex numbers, exact for singular covariances. The
    trap is its bias: with few samples it is far above 0 even for two samples of one distribution, so compare only at
    equal n and beside the real-against-real floor.

    Shape:
        generated: (n, n_features); reference: (m, n_features); n, m >= 2, since one sample has no covariance.
    Returns:
        A value >= 0 up to rounding; lower is better, 0 for equal moments.

    Raises:
        UsageError: Too few rows, unequal widths, or values that are not finite.

    References:
        Heusel et al. (2017), https://arxiv.org/abs/1706.08500, eq. 6; Dowson and Landau (1982) for the formula.

    Example:
        >>> round(frechet_distance(generated=[[0.0], [2.0]], reference=[[1.0], [3.0]]), 9)
        1.0
    """
    x, y = check_features(min_n=2, generated=generated, reference=reference)
    gap = x.mean(axis=0) - y.mean(axis=0)
    x, y = _scaled(x), _scaled(y)
    traces = float((x * x).sum() + (y * y).sum())
    return float(gap @ gap) + traces - 2 * _nuclear_norm(_factor(x) @ _factor(y).T)


def kernel_distance(*, generated: ArrayLike, reference: ArrayLike) -> float:
    """Unbiased squared maximum mean discrepancy under k(a, b) = (a·b / n_features + 1)³: KID on Inception features.

    All pairs are used, so nothing is random. Unbiased at every n, hence at times slightly negative.

    Shape:
        generated: (n, n_features); reference: (m, n_features); n, m >= 2.
    Returns:
        Lower is better; its expectation is 0 for equal distributions.

    Raises:
        UsageError: Too few rows, unequal widths, or values that are not finite.

    References:
        Bińkowski et al. (2018), https://arxiv.org/abs/1801.01401; Gretton et al. (2012), eq. 3.

    Example:
        >>> kernel_distance(generated=[[1.0], [1.0]], reference=[[0.0], [0.0]])
        7.0
    """
    x, y = check_features(min_n=2, generated=generated, reference=reference)
    return float(_mmd2(x, y, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def kernel_distance_subsets(
    *, generated: ArrayLike, reference: ArrayLike, subsets: int = 100, subset_size: int = 1000, seed: int = SEED
) -> tuple[float, float]:
    """Mean and standard deviation of the kernel distance over random subsets: KID as papers report it.

    Same subsets as torch-fidelity for the same seed. Where it is cheaper, one kernel over all samples serves every
    subset as a quadratic form.

    Shape:
        generated: (n, n_features); reference: (m, n_features); n, m >= subset_size >= 2.
    Raises:
        UsageError: As ``kernel_distance``, or fewer rows than ``subset_size``, or fewer than one subset.

    References:
        torch-fidelity 0.4.0, metric_kid.py; Bińkowski et al. (2018).
    """
    if subset_size < 2 or subsets < 1:
        raise UsageError(
            f"at least 1 subset of at least 2 samples is needed but got {subsets} of {subset_size}; ask for more."
        )
    x, y = check_features(min_n=subset_size, generated=generated, reference=reference)
    n, m = len(x), len(y)
    rng = np.random.RandomState(seed)  # noqa: NPY002 - torch-fidelity's generator, for its very subsets
    picks = [
        (rng.choice(n, subset_size, replace=False), rng.choice(m, subset_size, replace=False)) for _ in range(subsets)
    ]
    if n * n + m * m + n * m <= 3 * subsets * subset_size**2:
        chosen_x, chosen_y = np.zeros((subsets, n)), np.zeros((subsets, m))
        for row, (i, j) in enumerate(picks):
            chosen_x[row, i], chosen_y[row, j] = 1, 1
        values = _mmd2(x, y, chosen_x, chosen_y)
    else:
        values = np.array([kernel_distance(generated=x[i], reference=y[j]) for i, j in picks])
    return float(values.mean()), float(values.std())


def inception_score(
    *, logits: ArrayLike, splits: int = 10, shuffle: bool = True, seed: int = SEED
) -> tuple[float, float]:
    """Exponential of the information an image gives about its predicted class: mean and deviation over splits.

    From 1 (every image alike, or every prediction flat) to the number of classes; higher is better. The trap is order:
    in consecutive splits of images sorted by class each split holds about one class and the score collapses.
    ``shuffle`` (torch-fidelity's default, with its seed) removes that; ``shuffle=False`` is the order-dependent score
    of some papers.

    Shape:
        logits: (n, n_classes), of the Inception network without its last bias; n >= 2 * splits, for a split of one
            image always scores 1.
    Raises:
        UsageError: Fewer rows than that, or values that are not finite.

    References:
        Salimans et al. (2016), https://arxiv.org/abs/1606.03498, section 4; torch-fidelity 0.4.0, metric_isc.py.
    """
    if splits < 1:
        raise UsageError(f"inception_score needs at least 1 split but got {splits}; 10 is what papers use.")
    (scores,) = check_features(min_n=2 * splits, logits=logits)
    n = len(scores)
    if shuffle:
        scores = scores[np.random.RandomState(seed).permutation(n)]  # noqa: NPY002 - torch-fidelity's order
    scores = scores - scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    edges = [split * n // splits for split in range(splits + 1)]
    values = [_exp_information(log_p[start:stop]) for start, stop in zip(edges, edges[1:], strict=False)]
    return float(np.mean(values)), float(np.std(values))


def _scaled(features: np.ndarray) -> np.ndarray:
    """Rows x with xᵀx = the unbiased covariance."""
    return np.asarray((features - features.mean(axis=0)) / np.sqrt(len(features) - 1))


def _factor(scaled: np.ndarray) -> np.ndarray:
    """F with FᵀF = the covariance and no more rows than features."""
    if len(scaled) <= scaled.shape[1]:
        return scaled
    covariance = scaled.T @ scaled
    try:
        return np.asarray(np.linalg.cholesky(covariance).T)
    except np.linalg.LinAlgError:  # singular, e.g. a feature that never fires
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T)


def _nuclear_norm(matrix: np.ndarray) -> float:
    """Sum of singular values: by SVD while that is quick, else by the eigenvalues of the Gram matrix.

    Eigenvalues below rounding are noise around zero whose square roots would add up, so they count as zero.
    """
    if min(matrix.shape) <= _EXACT_SVD:
        return float(np.linalg.svd(matrix, compute_uv=False).sum())
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = np.linalg.eigvalsh(wide @ wide.T)
    return float(np.sqrt(values[values > np.finfo(float).eps * values[-1]]).sum())


def _mmd2(x: np.ndarray, y: np.ndarray, chosen_x: np.ndarray, chosen_y: np.ndarray) -> np.ndarray:
    """Unbiased squared MMD of each pair of subsets.

    Shape:
        chosen_x: (n_subsets, n), 1 where a subset holds a row of x, else 0; chosen_y: (n_subsets, m) likewise.
    """
    n, m = chosen_x.sum(axis=1), chosen_y.sum(axis=1)
    within_x = _pair_sums(x, x, chosen_x, chosen_x) - chosen_x @ _kernel_values((x * x).sum(axis=1), x.shape[1])
    within_y = _pair_sums(y, y, chosen_y, chosen_y) - chosen_y @ _kernel_values((y * y).sum(axis=1), y.shape[1])
    between = _pair_sums(x, y, chosen_x, chosen_y)
    return np.asarray(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m))


def _pair_sums(x: np.ndarray, y: np.ndarray, chosen_x: np.ndarray, chosen_y: np.ndarray) -> np.ndarray:
    """Sum of k(x_i, y_j) over the chosen i and j of each subset, in blocks of rows: memory grows with m, not n * m."""
    total = np.zeros(len(chosen_x))
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        kernel = _kernel_values(x[block] @ y.T, x.shape[1])
        total += ((chosen_x[:, block] @ kernel) * chosen_y).sum(axis=1)
    return total


def _kernel_values(products: np.ndarray, width: int) -> np.ndarray:
    base = products / width + 1
    return np.asarray(base * base * base)  # `** 3` is a hundred times slower


def _exp_information(log_p: np.ndarray) -> float:
    """exp(mean KL(p_i, mean p)) = exp(entropy of the mean - mean entropy)."""
    p = np.exp(log_p)
    mean = p.mean(axis=0)
    entropy_of_mean = -(mean * np.log(np.where(mean > 0, mean, 1))).sum()
    return float(np.exp(entropy_of_mean + (p * log_p).sum(axis=1).mean()))

"""Fréchet and kernel distances between two sets of images, from their features. Numpy and scipy, no torch.

Given the same features they equal torch-fidelity 0.4.0 (tests/metrics/test_fidelity.py); the routes here are faster and
also exact where there are fewer images than features, which is the rule in EEG. Features are read in blocks of rows, so
they may be an array or a store on disk.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score, check_labels
from zoo.metrics.rows import BLOCK, Features, Rows, check_rows, float64_rows, row_blocks

SEED = 2020
"""torch-fidelity's default, so that subsets are its own."""
_EXACT_SVD = 512
_IN_CACHE = 32
"""Rows of a block of kernel values whose arithmetic stays in the processor's cache."""
_SMALL = 1e-12
"""Singular values whose squares are below this share of the largest suffer from rounding in a Gram matrix."""


# ---- Fréchet


class Moments(NamedTuple):
    """Mean and unbiased covariance of features: all that a Fréchet distance needs to know of a set.

    Attributes:
        n: How many samples there were, None where a file does not say.
        mean: (n_features,).
        covariance: (n_features, n_features).
    """

    n: int | None
    mean: np.ndarray
    covariance: np.ndarray

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together, so that shards can be measured apart.

        Raises:
            UsageError: One of them does not know its number of samples.

        References:
            Chan, Golub and LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115, eq. 2.1.
        """
        if self.n is None or other.n is None:
            raise UsageError(
                "moments to be merged must know their number of samples but a file of moments does not say it; "
                "merge moments of features."
            )
        n, gap = self.n + other.n, other.mean - self.mean
        scatter = (self.n - 1) * self.covariance + (other.n - 1) * other.covariance
        scatter += self.n * other.n / n * np.outer(gap, gap)
        return Moments(n, self.mean + other.n / n * gap, scatter / (n - 1))


class _Gaussian(NamedTuple):
    """A mean, and F with FᵀF = the covariance and no more rows than features; perhaps upper triangular."""

    mean: np.ndarray
    factor: np.ndarray
    triangular: bool = False


def moments(features: Features) -> Moments:
    """Moments of features in one pass over blocks of rows: memory is two covariances, however many rows there are.

    Shape:
        features: (n, n_features), n >= 2.
    Raises:
        UsageError: Too few rows, or values that are not finite.

    Example:
        >>> moments([[0.0], [2.0]]).covariance
        array([[2.]])
    """
    (rows,) = check_rows(min_n=2, features=features)
    return _moments(rows, np.arange(len(rows)))


def read_moments(path: str | Path) -> Moments:
    """Published moments: an npz file with arrays ``mu`` and ``sigma``, as pytorch-fid and clean-fid write them.

    Nothing in the file is run: arrays of objects are refused.

    Raises:
        UsageError: Not such a file; values not finite; ``sigma`` not symmetric or with negative eigenvalues beyond the
            rounding of the precision it is stored in.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            mean, covariance = file["mu"], file["sigma"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{path.name} must be an npz file with the arrays mu and sigma but is not there or is none; "
            "write it with numpy.savez(path, mu=…, sigma=…)."
        ) from error
    width, kinds = mean.size, {mean.dtype.kind, covariance.dtype.kind}
    if width == 0 or mean.shape != (width,) or covariance.shape != (width, width) or kinds != {"f"}:
        raise UsageError(
            f"{path.name} must hold floats, mu of shape (d,) and sigma of shape (d, d), but has {mean.dtype} "
            f"{mean.shape} and {covariance.dtype} {covariance.shape}; write it again."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UsageError(f"{path.name} must be finite but holds NaN or infinity; compute it again.")
    rounding = 4 * width * np.finfo(covariance.dtype).eps * np.abs(covariance).max()
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if (skew := np.abs(covariance - covariance.T).max()) > rounding:
        raise UsageError(f"{path.name} must have a symmetric sigma but it is off by {skew:.1e}; compute it again.")
    covariance = (covariance + covariance.T) / 2
    factor = _factored(Moments(None, mean, covariance)).factor
    if (off := np.abs(covariance - factor.T @ factor).max()) > rounding:
        raise UsageError(
            f"{path.name} must have a sigma without negative eigenvalues but differs by {off:.1e} from its Cholesky "
            "product; compute it again."
        )
    return Moments(None, mean, covariance)


def frechet_distance(*, generated: Features, reference: Features) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features: FID on Inception features.

    |mu1 - mu2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½, with unbiased covariances. With factors Sᵢ = Fᵢᵀ Fᵢ the last trace is
    the sum of the singular values of F1 F2ᵀ: no matrix root, no complex numbers, exact for singular covariances. The
    trap is its bias: with few samples it is far above 0 even for two samples of one distribution, so compare only at
    equal n and beside the real-against-real floor. Order of rows and shards move it by rounding only (1e-10 of it).

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
    x, y = check_rows(min_n=2, generated=generated, reference=reference)
    return _frechet(_gaussian(x), _gaussian(y))


def frechet_from_moments(*, generated: Features | Moments, reference: Moments) -> float:
    """Fréchet distance to moments, such as published ones, of features or of other moments.

    Shape:
        generated: (n, n_features), n >= 2, or moments.
    Raises:
        UsageError: Unequal widths; features as in ``frechet_distance``.

    Example:
        >>> one = moments([[0.0], [2.0]])
        >>> round(frechet_from_moments(generated=[[1.0], [3.0]], reference=one), 9)
        1.0
    """
    if isinstance(generated, Moments):
        x = _factored(generated)
    else:
        (rows,) = check_rows(min_n=2, generated=generated)
        x = _gaussian(rows)
    if x.mean.shape != reference.mean.shape:
        raise UsageError(
            f"features must be equally wide but generated has {x.mean.size}, reference has {reference.mean.size}; "
            "extract all of them with the same extractor."
        )
    return _frechet(x, _factored(reference))


def frechet_infinity(*, generated: Features, reference: Features, sizes: int = 15, seed: int = SEED) -> Score:
    """Fréchet distance extrapolated to infinitely many generated images: intercept of a line in 1 / n.

    The line goes through the distances of random subsets whose sizes are evenly spaced from n/2 to n. The paper starts
    at 5000 images, where the distance is linear in 1 / n; with fewer images than features it is not, so a part of the
    bias stays, and starting lower leaves more of it. The bias of the finite reference stays in any case.

    Shape:
        generated: (n, n_features), n >= 2 * sizes; reference: (m, n_features), m >= 2.
    Returns:
        The intercept; lower is better, below 0 by noise at times. ``slope`` and the plain ``distance`` as details.

    Raises:
        UsageError: Fewer than 2 sizes; else as ``frechet_distance``.

    References:
        Chong and Forsyth (2020), https://arxiv.org/abs/1911.07023.
    """
    if sizes < 2:
        raise UsageError(f"a line needs at least 2 sizes but got {sizes}; 15 is what the paper uses.")
    x, y = check_rows(min_n=2, generated=generated, reference=reference)
    if len(x) < 2 * sizes:
        raise UsageError(
            f"generated must have at least {2 * sizes} rows but has {len(x)}; score more samples together."
        )
    rng, target = np.random.default_rng(seed), _gaussian(y)
    counts = np.linspace(len(x) / 2, len(x), sizes).round().astype(int)
    values = [_frechet(_gaussian(x, np.sort(rng.permutation(len(x))[:count])), target) for count in counts]
    slope, intercept = np.polyfit(1 / counts, values, 1)
    return Score(float(intercept), detail={"slope": float(slope), "distance": values[-1]})


def class_frechet_distance(
    *, generated: Features, labels: ArrayLike, reference: Features, reference_labels: ArrayLike
) -> Score:
    """Mean over the conditioning classes of the Fréchet distance to real images of that class: intra-FID.

    Unlike FID it sees an image of the wrong class. Classes that no image was conditioned on do not count. The bias is
    that of the class sizes, which are small: compare at equal sizes only.

    Shape:
        generated: (n, n_features), labels: (n,); reference: (m, n_features), reference_labels: (m,).
    Returns:
        Lower is better, 0 for equal moments in every class; the ``lowest`` and ``highest`` class and the size of the
        smallest one (``fewest``) as details.

    Raises:
        UsageError: A class has fewer than 2 images on one side; else as ``frechet_distance``.

    References:
        Miyato and Koyama (2018), https://arxiv.org/abs/1802.05637, whose name for it is intra FID.
    """
    x, y = check_rows(min_n=2, generated=generated, reference=reference)
    of_x = check_labels("labels", labels, len(x))
    of_y = check_labels("reference_labels", reference_labels, len(y))
    values, fewest = [], len(x)
    for label in np.unique(of_x):
        mine, real = np.flatnonzero(of_x == label), np.flatnonzero(of_y == label)
        if (size := min(mine.size, real.size)) < 2:
            raise UsageError(
                f"every class must have at least 2 images but class {label} has {mine.size} generated and {real.size} "
                "reference ones; score more images, or leave this metric out."
            )
        fewest = min(fewest, size)
        values.append(_frechet(_gaussian(x, mine), _gaussian(y, real)))
    detail = {"lowest": min(values), "highest": max(values), "fewest": float(fewest)}
    return Score(float(np.mean(values)), detail=detail)


def _gaussian(rows: Rows, chosen: np.ndarray | None = None) -> _Gaussian:
    """The Gaussian fitted to some rows, or to all."""
    chosen = np.arange(len(rows)) if chosen is None else chosen
    n = chosen.size
    if n > rows.shape[1]:
        return _factored(_moments(rows, chosen))
    x = float64_rows(rows, chosen)
    mean = x.mean(axis=0)
    # A reflection takes the constant vector to the first axis. The other rows then hold the covariance, and unlike rows
    # minus their mean they are independent, so no singular value is zero by construction.
    anchor = (math.sqrt(n) * mean + x[0]) / (math.sqrt(n) + 1)
    return _Gaussian(mean, (x[1:] - anchor) / math.sqrt(n - 1))


def _moments(rows: Rows, chosen: np.ndarray) -> Moments:
    n, width = chosen.size, rows.shape[1]
    total, scatter = np.zeros(width), np.zeros((width, width))
    origin = float64_rows(rows, chosen[:BLOCK]).mean(axis=0)  # near the mean, so that squares do not cancel
    for part in row_blocks(n):
        block = float64_rows(rows, chosen[part]) - origin
        total += block.sum(axis=0)
        scatter += block.T @ block
    gap = total / n
    scatter -= n * np.outer(gap, gap)
    scatter /= n - 1
    return Moments(n, origin + gap, scatter)


def _factored(moments: Moments) -> _Gaussian:
    """By Cholesky; with pivoting, and as many rows as its rank, where the covariance is singular."""
    from scipy.linalg import lapack

    triangle, failed = lapack.dpotrf(moments.covariance.T, lower=1)
    if not failed:
        return _Gaussian(moments.mean, triangle.T, triangular=True)
    triangle, order, rank, _ = lapack.dpstrf(moments.covariance.T, lower=1)
    return _Gaussian(moments.mean, np.take(np.triu(triangle.T)[:rank], np.argsort(order), axis=1))


def _frechet(x: _Gaussian, y: _Gaussian) -> float:
    from scipy.linalg import blas

    gap = x.mean - y.mean
    traces = float(np.vdot(x.factor, x.factor) + np.vdot(y.factor, y.factor))
    if y.triangular:  # half the work
        product = blas.dtrmm(1.0, y.factor.T, x.factor.T, lower=1, trans_a=1).T
    else:
        product = x.factor @ y.factor.T
    return float(gap @ gap) + traces - 2 * _nuclear_norm(product)


def _nuclear_norm(matrix: np.ndarray) -> float:
    """Sum of singular values: by SVD while that is quick, else as roots of the eigenvalues of the Gram matrix.

    Squaring drowns singular values below 1e-8 of the largest in rounding, and the roots of that noise would add up. So
    only the large ones are read off the Gram matrix; the others are those of the matrix projected on the eigenvectors
    that are left, where the largest is small. One tridiagonal form gives the eigenvalues and these vectors.
    """
    from scipy.linalg import blas, eigh_tridiagonal, eigvalsh_tridiagonal, lapack

    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    total, largest = 0.0, 0.0
    while len(wide) > _EXACT_SVD:
        lwork = int(lapack.dsytrd_lwork(len(wide), lower=1)[0])
        gram = blas.dsyrk(1.0, wide.T, trans=1, lower=1)
        reflectors, diagonal, beside, scale, _ = lapack.dsytrd(gram, lower=1, lwork=lwork, overwrite_a=1)
        values = eigvalsh_tridiagonal(diagonal, beside)
        largest = max(largest, values[-1])
        if values[-1] <= np.finfo(float).eps ** 2 * largest:
            return total
        small = int((values <= _SMALL * values[-1]).sum())
        total += float(np.sqrt(values[small:]).sum())
        if small == 0:
            return total
        vectors = np.asfortranarray(eigh_tridiagonal(diagonal, beside, select="i", select_range=(0, small - 1))[1])
        lwork = int(lapack.dormqr("L", "N", reflectors[1:, :-1], scale, vectors[1:], -1)[1][0])
        vectors[1:] = lapack.dormqr("L", "N", reflectors[1:, :-1], scale, vectors[1:], lwork)[0]
        wide = vectors.T @ wide
    return total + float(np.linalg.svd(wide, compute_uv=False).sum()) if wide.size else total


# ---- kernels


def kernel_distance(*, generated: Features, reference: Features) -> float:
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
    x, y = check_rows(min_n=2, generated=generated, reference=reference)
    return float(_mmd2(x, y, np.ones((1, len(x))), np.ones((1, len(y))), float64_rows, _cubic)[0])


def kernel_distance_subsets(
    *,
    generated: Features,
    reference: Features,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = SEED,
) -> Score:
    """Mean kernel distance of random subsets: KID as papers report it.

    Same subsets as torch-fidelity for the same seed. Where it is cheaper, one kernel over all samples serves every
    subset as a quadratic form. Products a·b are in float32, as in torch-fidelity, and everything after them in float64:
    the mean over a million pairs agrees with float64 to 1e-6 of the mean kernel value.

    Shape:
        generated: (n, n_features); reference: (m, n_features); n, m >= subset_size >= 2.
    Returns:
        Lower is better; the standard deviation over subsets as detail ``subset_std``.

    Raises:
        UsageError: As ``kernel_distance``, or fewer rows than ``subset_size``, or fewer than one subset.

    References:
        torch-fidelity 0.4.0, metric_kid.py; Bińkowski et al. (2018), section 4.
    """
    if subset_size < 2 or subsets < 1:
        raise UsageError(
            f"at least 1 subset of at least 2 samples is needed but got {subsets} of {subset_size}; ask for more."
        )
    x, y = check_rows(min_n=subset_size, generated=generated, reference=reference)
    n, m = len(x), len(y)
    rng = np.random.RandomState(seed)  # noqa: NPY002 - torch-fidelity's generator, for its very subsets
    picks = [
        (rng.choice(n, subset_size, replace=False), rng.choice(m, subset_size, replace=False)) for _ in range(subsets)
    ]
    if n * n / 2 + m * m / 2 + n * m <= 2 * subsets * subset_size**2:
        chosen_x, chosen_y = np.zeros((subsets, n)), np.zeros((subsets, m))
        for row, (i, j) in enumerate(picks):
            chosen_x[row, i], chosen_y[row, j] = 1, 1
        values = _mmd2(x, y, chosen_x, chosen_y, _float32, _cubic)
    else:
        every = np.ones((1, subset_size))
        values = np.array([_mmd2(x[i], y[j], every, every, _float32, _cubic)[0] for i, j in picks])
    return Score(float(values.mean()), detail={"subset_std": float(values.std())})


def gaussian_kernel_distance(
    *, generated: Features, reference: Features, sigma: float = 10.0, scale: float = 1000.0
) -> Score:
    """Unbiased squared MMD of unit vectors under exp(-|a - b|² / 2 sigma²), times ``scale``: CMMD on CLIP embeddings.

    Rows are divided by their length first. All pairs are used. The paper states the unbiased estimate, its code the
    biased one, which counts each sample's pair with itself and so is higher by about ``scale`` / n times the spread;
    that one is detail ``biased``.

    Shape:
        generated: (n, n_features); reference: (m, n_features); n, m >= 2.
    Returns:
        Lower is better; its expectation is 0 for equal distributions.

    Raises:
        UsageError: As ``kernel_distance``, or a row without length, or a sigma that is not above 0.

    References:
        Jayasumana et al. (2024), https://arxiv.org/abs/2401.09603; Gretton et al. (2012), eq. 3 and 5.
    """
    if not sigma > 0:
        raise UsageError(f"sigma must be above 0 but is {sigma}; the paper uses 10.")
    x, y = check_rows(min_n=2, generated=generated, reference=reference)

    def unit(rows: Rows, part: slice) -> np.ndarray:
        block = float64_rows(rows, part)
        length = np.linalg.norm(block, axis=1, keepdims=True)
        if not length.all():
            raise UsageError("rows must have a length above 0 but one is all zeros; find out which image gave it.")
        return np.asarray(block / length)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # k - 1 for k: the constant cancels in the estimate, and k is so near 1 that digits would go with it
        return np.asarray(np.expm1(np.minimum(a @ b.T - 1, 0) / sigma**2))

    n, m = len(x), len(y)
    within_x, within_y, between = (
        float(part[0]) for part in _kernel_sums(x, y, np.ones((1, n)), np.ones((1, m)), unit, kernel)
    )
    unbiased = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)
    biased = within_x / n**2 + within_y / m**2 - 2 * between / (n * m)
    return Score(scale * unbiased, detail={"biased": scale * biased})


def _mmd2(
    x: Rows,
    y: Rows,
    chosen_x: np.ndarray,
    chosen_y: np.ndarray,
    load: Callable[[Rows, slice], np.ndarray],
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Unbiased squared MMD of each pair of subsets.

    Shape:
        chosen_x: (n_subsets, n), 1 where a subset holds a row of x, else 0; chosen_y: (n_subsets, m) likewise.
    """
    n, m = chosen_x.sum(axis=1), chosen_y.sum(axis=1)
    within_x, within_y, between = _kernel_sums(x, y, chosen_x, chosen_y, load, kernel)
    return np.asarray(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m))


def _kernel_sums(
    x: Rows,
    y: Rows,
    chosen_x: np.ndarray,
    chosen_y: np.ndarray,
    load: Callable[[Rows, slice], np.ndarray],
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of the kernel over the pairs that each subset chose: within x, within y (none with itself), between."""

    def within(rows: Rows, chosen: np.ndarray) -> np.ndarray:
        sums = np.zeros(len(chosen))
        for i in row_blocks(len(rows)):
            left = load(rows, i)
            values = kernel(left, left)
            np.fill_diagonal(values, 0)
            sums += ((chosen[:, i] @ values) * chosen[:, i]).sum(axis=1)
            for j in row_blocks(len(rows)):
                if j.start > i.start:  # each pair of blocks once, for the kernel is symmetric
                    sums += 2 * ((chosen[:, i] @ kernel(left, load(rows, j))) * chosen[:, j]).sum(axis=1)
        return sums

    between = np.zeros(len(chosen_x))
    for i in row_blocks(len(x)):
        left = load(x, i)
        for j in row_blocks(len(y)):
            between += ((chosen_x[:, i] @ kernel(left, load(y, j))) * chosen_y[:, j]).sum(axis=1)
    return within(x, chosen_x), within(y, chosen_y), between


def _float32(rows: Rows, part: slice) -> np.ndarray:
    return np.asarray(rows[part], dtype=np.float32)


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    products = a @ b.T
    values = np.empty(products.shape)
    for start in range(0, len(products), _IN_CACHE):  # one pass over memory instead of five
        part = slice(start, start + _IN_CACHE)
        base = products[part].astype(np.float64)
        base /= a.shape[1]
        base += 1
        np.multiply(base, base, out=values[part])
        values[part] *= base  # `** 3` is a hundred times slower
    return values

"""Intervals and tests over the unit that was sampled: subjects, not trials. Seeds are arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MANY = 50
"""From this many clusters on, the bootstrap is used; below, Student's t with a cluster-robust error holds better.

Simulated coverage of a 95 % interval at 20 clusters: bootstrap 92.4 %, t 93.8 %; at 30: 93.6 and 95.8 %.
"""

EXACT = 13
"""Up to this many units a sign-flip test counts all flips (8,192); above, it draws them."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    method: str
    n_units: int


def cluster_interval(
    values: np.ndarray, units: np.ndarray, *, level: float = 0.95, seed: int = 0, n_boot: int = 2000
) -> Interval | None:
    """Interval for the mean of ``values`` when trials of one unit are not independent.

    With fewer than 50 units: mean ± t(G - 1) · ``cluster_error``. Otherwise a percentile bootstrap of whole units.

    Shape:
        values: (n,); units: (n,) labels.
    Returns:
        None for fewer than two units: one subject says nothing about others.
    """
    values = np.asarray(values, dtype=np.float64)
    _, group = np.unique(units, return_inverse=True)
    n_units = int(group.max()) + 1 if group.size else 0
    if n_units < 2:
        return None
    if n_units < MANY:
        from scipy.special import stdtrit

        mean, half = values.mean(), float(stdtrit(n_units - 1, 0.5 + level / 2)) * cluster_error(values, units)
        return Interval(float(mean - half), float(mean + half), "t, cluster-robust", n_units)
    counts, sums = np.bincount(group).astype(np.float64), np.bincount(group, weights=values)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_boot).astype(np.float64)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), "bootstrap over units", n_units)


def cluster_error(values: np.ndarray, units: np.ndarray) -> float:
    """Standard error of a mean when trials of one unit are not independent; needs two units.

    CR1: ``SE² = G/(G-1) · Σ_g (Σ_{i∈g} (x_i - mean))² / n²`` (Cameron & Miller 2015, eq. 11 for an intercept).
    """
    values = np.asarray(values, dtype=np.float64)
    _, group = np.unique(units, return_inverse=True)
    residual = np.bincount(group, weights=values - values.mean())
    return float(np.sqrt(residual.size / (residual.size - 1) * np.sum(residual**2)) / values.size)


def jackknife_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    units: np.ndarray | None = None,
    groups: int = 10,
    level: float = 0.95,
) -> Interval | None:
    """Interval for a statistic of a whole set (FID, IS), by leaving out one of ``groups`` parts at a time.

    ``SE² = (g-1)/g · Σ (θ_(-k) - mean θ)²`` (Shao & Wu 1989), with Student's t on g - 1 degrees of freedom.

    Args:
        statistic: Maps kept row numbers to the value.
        n: Number of rows.
        units: (n,) labels. Parts are then whole units, as many as there are up to ``groups``; else interleaved rows,
            which covers the truth only where rows are independent (figures in docs/statistics.md).

    Returns:
        None for fewer than two units, or than two rows in each group.
    """
    from scipy.special import stdtrit

    rows = np.arange(n)
    unit = rows if units is None else np.unique(units, return_inverse=True)[1]
    n_units = np.unique(unit).size
    if n_units < (2 * groups if units is None else 2):
        return None
    groups = min(groups, n_units)
    part = unit % groups
    full = statistic(rows)
    left = np.array([statistic(rows[part != k]) for k in range(groups)])
    error = np.sqrt((groups - 1) / groups * np.sum((left - left.mean()) ** 2))
    half = float(stdtrit(groups - 1, 0.5 + level / 2)) * error
    method, counted = ("", groups) if units is None else (" of units", n_units)
    return Interval(float(full - half), float(full + half), f"jackknife, {groups} groups{method}", counted)


def hierarchical_interval(
    values: np.ndarray, levels: Sequence[np.ndarray], *, level: float = 0.95, seed: int = 0, n_boot: int = 2000
) -> Interval | None:
    """Bootstrap interval for a mean that draws units, in each drawn unit stimuli, in each drawn stimulus trials.

    Its coverage depends on how the variance is shared between the levels, which nobody knows beforehand: too narrow
    where few units differ, too wide where they do not differ (docs/statistics.md has the figures). Records carry
    ``cluster_interval``, which holds its level in both cases; this one is for comparing with reports that use it.

    Shape:
        values: (n,).
        levels: (n,) labels each, outermost first, e.g. subject and stimulus; a label is read within the level before.
            Trials are the last level and are not named.

    Returns:
        None for fewer than two groups of the first level.

    References:
        Davison & Hinkley (1997), Bootstrap Methods and their Application, section 3.8, strategy 1.
    """
    if (n_units := np.unique(levels[0]).size) < 2:
        return None
    rng, once = np.random.default_rng(seed), np.ones(n_boot, dtype=np.int64)
    sums, sizes = _nested_draws(rng, once, np.asarray(values, dtype=np.float64), levels)
    low, high = np.quantile(sums / sizes, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), f"bootstrap over {len(levels) + 1} levels", n_units)


def _nested_draws(
    rng: np.random.Generator, times: np.ndarray, values: np.ndarray, levels: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the trials drawn from a group that was itself drawn ``times`` (n_boot,) over.

    Drawing all over again adds draws to the same multinomial, so one call serves every copy of the group.
    """
    if not levels:
        n = values.size
        blocks = np.array_split(times * n, times.size * n // 10**7 + 1)  # a count per replicate and trial is large
        return np.concatenate([rng.multinomial(block, np.full(n, 1 / n)) @ values for block in blocks]), times * n
    _, group = np.unique(levels[0], return_inverse=True)
    size = int(group.max()) + 1
    drawn = rng.multinomial(times * size, np.full(size, 1 / size))
    sums, sizes = np.zeros(times.size), np.zeros(times.size, dtype=np.int64)
    for k in range(size):
        inside = group == k
        below = _nested_draws(rng, drawn[:, k], values[inside], [level[inside] for level in levels[1:]])
        sums, sizes = sums + below[0], sizes + below[1]
    return sums, sizes


def sign_flip_test(
    differences: np.ndarray,
    units: np.ndarray,
    *,
    alternative: Literal["two-sided", "greater"] = "two-sided",
    seed: int = 0,
    n_draws: int = 10_000,
) -> float:
    """How probable so large a mean of per-trial differences would be if units were symmetric about zero.

    Flips the sign of whole units. Exact for up to 13 of them, else Monte Carlo with the observed draw counted in
    (Phipson & Smyth 2010). No p is below ``smallest_p``, however large the differences are.
    """
    _, group = np.unique(units, return_inverse=True)
    sums = np.bincount(group, weights=np.asarray(differences, dtype=np.float64))
    n_units = sums.size
    fold = np.abs if alternative == "two-sided" else np.positive
    reached = fold(sums.sum()) - 1e-9 * np.abs(sums).sum()  # rounding must break no tie, in whatever unit
    if n_units <= EXACT:
        bits = (np.arange(2**n_units)[:, None] >> np.arange(n_units)) & 1
        return float(np.mean(fold((1 - 2 * bits) @ sums) >= reached))
    drawn = np.random.default_rng(seed).integers(0, 2, size=(n_draws, n_units), dtype=np.int8)
    return float((1 + np.sum(fold((1 - 2 * drawn) @ sums) >= reached)) / (n_draws + 1))


def smallest_p(n_units: int, *, n_draws: int = 10_000) -> float:
    """What a two-sided sign-flip test gives where all units agree: half of it for a one-sided one.

    Example:
        >>> smallest_p(5)
        0.0625
    """
    return 2 / 2**n_units if n_units <= EXACT else 1 / (n_draws + 1)


@dataclass(frozen=True)
class ChanceTest:
    p: float
    method: str
    n_units: int


def p_against_chance(
    per_unit: np.ndarray, units: np.ndarray, chance: float, *, higher_is_better: bool = True
) -> ChanceTest | None:
    """One-sided p of values that are on average no better than ``chance``.

    Where every trial is a unit of its own and each value is 0 or 1: the exact binomial test. Where trials share units,
    and so are not independent: ``sign_flip_test`` of the values minus chance.

    Shape:
        per_unit: (n,) values of trials; units: (n,) labels.
    Returns:
        None for fewer than two units: one subject says nothing about others.

    Example:
        >>> p_against_chance(np.array([1, 1, 1, 1, 0]), np.arange(5), 0.5).p == (5 + 1) / 2**5
        True
    """
    values = np.asarray(per_unit, dtype=np.float64)
    n_units = np.unique(units).size
    if n_units < 2:
        return None
    if n_units == values.size and np.isin(values, (0, 1)).all():
        from scipy.stats import binomtest

        side = "greater" if higher_is_better else "less"
        p = float(binomtest(int(values.sum()), n_units, chance, alternative=side).pvalue)
        return ChanceTest(p, "exact binomial", n_units)
    gain = values - chance if higher_is_better else chance - values
    return ChanceTest(sign_flip_test(gain, units, alternative="greater"), "sign flips of units", n_units)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values of a family of tests: below α in it, the chance of any false claim is below α (Holm 1979).

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(p.size, 0, -1) * p[order]), 1.0)
    return adjusted


def welch_p(difference: float, parts: Sequence[tuple[float, int]]) -> float | None:
    """Two-sided p of a difference whose variance is a sum of estimates, each with its degrees of freedom (Welch 1947).

    Returns:
        None where the variance is zero.

    Example:
        >>> round(welch_p(2.0, [(0.5, 4), (0.5, 4)]), 4)  # t of 2 with 8 degrees of freedom
        0.0805
    """
    from scipy.special import stdtr

    variance = sum(part for part, _ in parts)
    if variance == 0:
        return None
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return float(2 * stdtr(freedom, -abs(difference) / np.sqrt(variance)))


def paired_effect(differences: np.ndarray, units: np.ndarray) -> float | None:
    """Cohen's d_z: mean over standard deviation of the units' mean differences (Cohen 1988, section 2.3.5).

    Returns:
        None for fewer than two units, or where all differ by the same amount.
    """
    _, group = np.unique(units, return_inverse=True)
    means = np.bincount(group, weights=np.asarray(differences, dtype=np.float64)) / np.bincount(group)
    if means.size < 2 or (spread := means.std(ddof=1)) <= 1e-12 * np.abs(means).max():
        return None
    return float(means.mean() / spread)


def best_naming(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class of each cluster number under the one-to-one naming that most samples agree with (Kuhn 1955).

    Shape:
        clusters, labels: (n,) whole numbers from 0; returns: (max of both + 1,).
    """
    from scipy.optimize import linear_sum_assignment

    size = int(max(clusters.max(), labels.max())) + 1
    table = np.bincount(clusters * size + labels, minlength=size * size).reshape(size, size)
    naming: np.ndarray = linear_sum_assignment(table, maximize=True)[1]
    return naming


def keyed_rng(*key: str | int) -> np.random.Generator:
    """A generator that depends on ``key`` alone, e.g. (track, trial id, replicate): counter-based, so order is free."""
    import hashlib

    name = "\x1f".join(map(str, key)).encode()
    words = np.frombuffer(hashlib.sha256(name).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words))

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t

from zoo.stats import MANY, Interval, cluster_interval, jackknife_interval, keyed_rng, sign_flip_test

Array = np.ndarray


def clustered(rng: np.random.Generator, n_units: int, counts: Array) -> tuple[Array, Array]:
    """Values of mean 0 whose unit explains half of their variance, and their unit."""
    units = np.repeat(np.arange(n_units), counts)
    return rng.normal(size=n_units)[units] + rng.normal(size=units.size), units


# ---- cluster_interval


def test_with_equal_clusters_it_is_the_t_interval_of_their_means() -> None:
    values, units = clustered(np.random.default_rng(0), 7, np.full(7, 5))
    means = values.reshape(7, 5).mean(axis=1)
    half = t.ppf(0.975, 6) * means.std(ddof=1) / np.sqrt(7)
    found = cluster_interval(values, units)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half), rel=1e-12)
    assert (found.method, found.n_units) == ("t, cluster-robust", 7)


def test_two_clusters_by_hand() -> None:
    # mean 2; sums of residuals -3 and 3; SE² = 2/1 · 18 / 16 = 2.25
    found = cluster_interval(np.array([0.0, 1.0, 2.0, 5.0]), np.array(["a", "a", "a", "b"]))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((2 - 12.706204736 * 1.5, 2 + 12.706204736 * 1.5), rel=1e-9)


def test_the_level_widens_it() -> None:
    values, units = clustered(np.random.default_rng(0), 7, np.full(7, 5))
    wide, usual = (cluster_interval(values, units, level=level) for level in (0.99, 0.95))
    assert wide is not None
    assert usual is not None
    ratio = (wide.high - wide.low) / (usual.high - usual.low)
    assert ratio == pytest.approx(t.ppf(0.995, 6) / t.ppf(0.975, 6), rel=1e-12)


@pytest.mark.parametrize("units", [[], ["01"], ["01", "01", "01"]])
def test_one_unit_says_nothing_about_others(units: list[str]) -> None:
    assert cluster_interval(np.ones(len(units)), np.array(units)) is None


@pytest.mark.parametrize("n_units", [5, 12, MANY, 2 * MANY])
def test_it_covers_the_truth_in_95_of_100(n_units: int) -> None:
    rng, hits, runs = np.random.default_rng(n_units), 0, 600
    for _ in range(runs):
        found = cluster_interval(*clustered(rng, n_units, rng.integers(4, 12, size=n_units)), n_boot=400)
        assert found is not None
        hits += found.low <= 0 <= found.high
    # standard error of a share of 600 at 0.95: 0.009. Trials taken for units cover 0.6.
    assert 0.925 <= hits / runs <= 0.975


def test_many_clusters_are_drawn_whole_and_reproducibly() -> None:
    values, units = clustered(np.random.default_rng(0), MANY, np.full(MANY, 4))
    found = cluster_interval(values, units, seed=3)
    assert found is not None
    assert (found.method, found.n_units) == ("bootstrap over units", MANY)
    assert cluster_interval(values, units, seed=3) == found
    assert cluster_interval(values, units, seed=4) != found
    error = values.reshape(MANY, 4).mean(axis=1).std(ddof=0) / np.sqrt(MANY)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)  # 2000 draws: some per cent


@pytest.mark.parametrize("n_units", [6, MANY])
def test_the_order_of_trials_and_the_names_of_units_do_not_matter(n_units: int) -> None:
    values, units = clustered(np.random.default_rng(0), n_units, np.full(n_units, 4))
    named = np.array([f"sub-{unit:03d}" for unit in units])
    order = np.random.default_rng(1).permutation(values.size)
    first, second = cluster_interval(values, units), cluster_interval(values[order], named[order])
    assert first is not None
    assert second is not None
    assert (first.low, first.high) == pytest.approx((second.low, second.high), rel=1e-9)


# ---- jackknife_interval


def mean_of(values: Array) -> Callable[[Array], float]:
    return lambda rows: float(values[rows].mean())


def test_the_jackknife_of_a_mean_has_the_classical_standard_error() -> None:
    # every group holds one value twice, so leaving out a group is leaving out one of ten observations
    values = np.random.default_rng(0).normal(size=10)
    half = t.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    found = jackknife_interval(mean_of(np.tile(values, 2)), 20)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-12)
    assert (found.method, found.n_units) == ("jackknife, 10 groups", 10)


def test_the_jackknife_covers_the_truth_in_95_of_100() -> None:
    rng, runs = np.random.default_rng(1), 600
    found = [jackknife_interval(mean_of(rng.normal(size=53)), 53) for _ in range(runs)]
    hits = sum(1 for interval in found if interval is not None and interval.low <= 0 <= interval.high)
    assert 0.925 <= hits / runs <= 0.975


def test_every_row_is_left_out_once() -> None:
    left: list[set[int]] = []

    def count(rows: Array) -> float:
        left.append(set(rows.tolist()))
        return float(rows.size)

    jackknife_interval(count, 23, groups=4)
    full, *parts = left
    assert full == set(range(23))
    assert sorted(row for part in parts for row in full - part) == list(range(23))
    assert [23 - len(part) for part in parts] == [6, 6, 6, 5]


def test_too_few_rows_have_no_jackknife() -> None:
    assert jackknife_interval(mean_of(np.ones(19)), 19) is None
    assert jackknife_interval(mean_of(np.ones(20)), 20) == Interval(1.0, 1.0, "jackknife, 10 groups", 10)


# ---- sign_flip_test


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 1.0, 1.0], 2 / 8),  # only +++ and --- reach 3
        ([1.0, 1.0, -1.0], 1.0),  # every flip reaches 1
        ([3.0, 1.0, -1.0], 6 / 8),  # ±3±1±1 reaches 3 but where both ones pull back
        ([5.0], 1.0),
        ([0.0, 0.0], 1.0),
    ],
)
def test_exact_values_by_hand(differences: list[float], p: float) -> None:
    assert sign_flip_test(np.array(differences), np.arange(len(differences))) == p


def test_whole_units_are_flipped() -> None:
    # trials alone would give 2/64; three units give 2/8
    assert sign_flip_test(np.ones(6), np.array(["a", "a", "b", "b", "c", "c"])) == 0.25


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_units_of_measurement_do_not_matter(scale: float) -> None:
    differences = np.random.default_rng(0).normal(0.8, 1.0, size=12)
    flips = np.abs(np.array(list(itertools.product([-1, 1], repeat=12))) @ differences)
    expected = float(np.mean(flips >= abs(differences.sum()) * (1 - 1e-12)))
    assert 0 < expected < 0.5
    assert sign_flip_test(differences * scale, np.arange(12)) == expected


def test_fourteen_units_are_drawn_and_agree_with_all_flips() -> None:
    differences = np.random.default_rng(2).normal(0.5, 1.0, size=14)
    flips = np.abs(np.array(list(itertools.product([-1, 1], repeat=14))) @ differences)
    exact = float(np.mean(flips >= abs(differences.sum()) - 1e-9))
    found = sign_flip_test(differences, np.arange(14), seed=0)
    assert found == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / 10_000))
    assert sign_flip_test(differences, np.arange(14), seed=0) == found


def test_a_drawn_p_is_never_zero() -> None:
    # all of thirty units agree: 2 of 2^30 flips reach it, and 99 draws find none
    assert sign_flip_test(np.ones(30), np.arange(30), n_draws=99) == 0.01


@pytest.mark.parametrize("n_units", [8, 20])
def test_no_effect_is_called_one_in_five_of_a_hundred(n_units: int) -> None:
    rng, runs = np.random.default_rng(n_units), 600
    found = [sign_flip_test(*clustered(rng, n_units, np.full(n_units, 3)), n_draws=400) for _ in range(runs)]
    assert 0.025 <= np.mean(np.array(found) <= 0.05) <= 0.075  # standard error 0.009; trials flipped alone: 0.16


def test_a_clear_effect_is_found() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip_test(rng.normal(2.0, 1.0, size=40), np.repeat(np.arange(10), 4)) == 2 / 2**10


# ---- keyed_rng


def test_a_key_gives_these_numbers_on_every_machine() -> None:
    assert keyed_rng("track", "trial", 0).integers(0, 2**32, 4).tolist() == [
        2534605916,
        3660442542,
        1244904620,
        3360824294,
    ]
    assert keyed_rng("track", "trial", 0).standard_normal() == pytest.approx(1.0582904483704247, rel=1e-12)


def test_streams_depend_on_their_key_alone() -> None:
    keys = [("t", trial, replicate) for trial in ("a", "b") for replicate in (0, 1)]
    forth = {key: keyed_rng(*key).standard_normal(3).tolist() for key in keys}
    back = {key: keyed_rng(*key).standard_normal(3).tolist() for key in reversed(keys)}
    assert forth == back
    assert len({tuple(numbers) for numbers in forth.values()}) == 4
    assert keyed_rng("ab", "c").random() != keyed_rng("a", "bc").random()


def test_streams_of_neighbouring_keys_are_independent() -> None:
    draws = np.array([keyed_rng("t", trial).standard_normal(100) for trial in range(200)])
    off = np.corrcoef(draws)[np.triu_indices(200, 1)]
    assert abs(off.mean()) < 0.003  # standard error 0.1 / sqrt(19900) = 0.0007
    assert off.std() == pytest.approx(1 / np.sqrt(99), rel=0.05)
    assert draws.mean() == pytest.approx(0, abs=4 / np.sqrt(draws.size))

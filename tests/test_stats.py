from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, t, ttest_ind

from zoo.stats import (
    EXACT,
    MANY,
    Interval,
    cluster_error,
    cluster_interval,
    hierarchical_interval,
    holm,
    jackknife_interval,
    keyed_rng,
    p_against_chance,
    paired_effect,
    sign_flip_test,
    smallest_p,
    welch_p,
)

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


def test_the_error_of_equal_clusters_is_that_of_their_means() -> None:
    values, units = clustered(np.random.default_rng(0), 7, np.full(7, 5))
    means = values.reshape(7, 5).mean(axis=1)
    assert cluster_error(values, units) == pytest.approx(means.std(ddof=1) / np.sqrt(7), rel=1e-12)


# ---- hierarchical_interval


def nested(rng: np.random.Generator, spreads: tuple[float, float, float]) -> tuple[Array, Array, Array]:
    """Values of mean 0, unit and stimulus: six units see six stimuli of their own four times each."""
    unit, stimulus = np.repeat(np.arange(6), 24), np.tile(np.repeat(np.arange(6), 4), 6)
    parts = (rng.normal(size=6)[unit], rng.normal(size=(6, 6))[unit, stimulus], rng.normal(size=unit.size))
    return sum(spread * part for spread, part in zip(spreads, parts, strict=True)), unit, stimulus


def test_the_hierarchical_bootstrap_has_the_variance_of_its_three_levels() -> None:
    # Davison & Hinkley (1997), section 3.8: each level adds its plug-in variance over the number of draws at that level
    values, unit, stimulus = nested(np.random.default_rng(0), (1.0, 1.0, 1.0))
    cells = values.reshape(6, 6, 4)
    variance = (
        cells.mean(axis=(1, 2)).var() / 6
        + cells.mean(axis=2).var(axis=1).mean() / 36
        + cells.var(axis=2).mean() / values.size
    )
    found = hierarchical_interval(values, [unit, stimulus], n_boot=20_000)
    assert found is not None
    assert (found.method, found.n_units) == ("bootstrap over 3 levels", 6)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.03)  # quantiles of 20,000 draws
    assert (found.low + found.high) / 2 == pytest.approx(values.mean(), abs=0.1 * np.sqrt(variance))


def test_units_of_one_trial_are_drawn_as_the_plain_bootstrap_draws_them() -> None:
    values = np.random.default_rng(0).normal(size=MANY)
    found = hierarchical_interval(values, [np.arange(MANY)], n_boot=20_000)
    plain = cluster_interval(values, np.arange(MANY), n_boot=20_000)
    assert found is not None
    assert plain is not None
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_a_stimulus_is_read_within_its_unit() -> None:
    values, unit, stimulus = nested(np.random.default_rng(0), (1.0, 1.0, 1.0))
    same = hierarchical_interval(values, [unit, stimulus], n_boot=50)
    assert hierarchical_interval(values, [unit, 6 * unit + stimulus], n_boot=50) == same
    assert hierarchical_interval(values, [unit, stimulus], n_boot=50, seed=1) != same
    assert hierarchical_interval(values, [np.zeros(values.size), stimulus]) is None


def test_records_carry_t_since_the_hierarchical_bootstrap_depends_on_what_nobody_knows() -> None:
    covered = {}
    for spreads in ((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)):
        rng, hits, runs = np.random.default_rng(0), np.zeros(2), 200
        for _ in range(runs):
            values, unit, stimulus = nested(rng, spreads)
            found = cluster_interval(values, unit), hierarchical_interval(values, [unit, stimulus], n_boot=200)
            hits += [one is not None and one.low <= 0 <= one.high for one in found]
        covered[spreads] = hits / runs
    assert covered[1.0, 1.0, 1.0][1] < 0.925  # where units differ; 2,000 runs in docs/statistics.md
    assert covered[0.0, 0.0, 1.0][1] > 0.975  # where they do not
    assert all(0.92 <= by_t <= 0.98 for by_t, _ in covered.values())  # standard error 0.015


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


def test_the_jackknife_of_units_leaves_out_whole_ones() -> None:
    # equal units: the t interval of their means, whatever the names and the order of rows
    values, units = clustered(np.random.default_rng(0), 7, np.full(7, 5))
    half = t.ppf(0.975, 6) * values.reshape(7, 5).mean(axis=1).std(ddof=1) / np.sqrt(7)
    order = np.random.default_rng(1).permutation(35)
    for rows in (np.arange(35), order):
        named = np.array([f"sub-{unit}" for unit in units[rows]])
        found = jackknife_interval(mean_of(values[rows]), 35, units=named)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-9)
        assert (found.method, found.n_units) == ("jackknife, 7 groups of units", 7)
    many = jackknife_interval(mean_of(values), 35, units=np.arange(35) // 2)
    assert many is not None
    assert (many.method, many.n_units) == ("jackknife, 10 groups of units", 18)
    assert jackknife_interval(mean_of(values), 35, units=np.zeros(35)) is None


def test_only_the_jackknife_of_units_covers_where_trials_are_not_independent() -> None:
    rng, runs, hits = np.random.default_rng(1), 600, np.zeros(2)
    for _ in range(runs):
        values, units = clustered(rng, 12, rng.integers(10, 31, size=12))
        for i, of in enumerate((None, units)):
            found = jackknife_interval(mean_of(values), values.size, units=of)
            assert found is not None
            hits[i] += found.low <= 0 <= found.high
    assert hits[0] / runs < 0.6
    assert 0.92 <= hits[1] / runs <= 0.975


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


@pytest.mark.parametrize(
    ("differences", "p"), [([1.0, 1.0, 1.0], 1 / 8), ([-1.0, -1.0, -1.0], 1.0), ([3.0, 1.0, -1.0], 3 / 8)]
)
def test_one_sided_values_by_hand(differences: list[float], p: float) -> None:
    assert sign_flip_test(np.array(differences), np.arange(3), alternative="greater") == p


@pytest.mark.parametrize("n_units", [2, 5, EXACT, EXACT + 1, 30])
def test_the_smallest_p_is_that_of_units_which_all_agree(n_units: int) -> None:
    least = sign_flip_test(np.ones(n_units), np.arange(n_units))
    # 10,000 draws of 14 units hit one of the two extremes now and then
    assert smallest_p(n_units) == least if n_units != EXACT + 1 else smallest_p(n_units) <= least < 5e-4


def test_a_clear_effect_is_found() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip_test(rng.normal(2.0, 1.0, size=40), np.repeat(np.arange(10), 4)) == 2 / 2**10


# ---- p_against_chance


@pytest.mark.parametrize(("hits", "n", "chance"), [(9, 20, 0.25), (5, 20, 0.25), (0, 20, 0.25), (8, 120, 1 / 40)])
def test_independent_hits_are_tested_by_the_exact_binomial(hits: int, n: int, chance: float) -> None:
    found = p_against_chance(np.arange(n) < hits, np.arange(n), chance)
    assert found is not None
    assert found.p == pytest.approx(float(binom.sf(hits - 1, n, chance)), rel=1e-12)
    assert (found.method, found.n_units) == ("exact binomial", n)


def test_trials_of_common_units_are_not_independent() -> None:
    # six subjects all above chance: 1 of 2^6 sign patterns, however many trials each has
    for n_trials in (2, 50):
        units = np.repeat(np.arange(6), n_trials)
        found = p_against_chance(np.tile([1.0, 0.0], 3 * n_trials), units, 0.25)
        assert found is not None
        assert (found.p, found.method, found.n_units) == (1 / 64, "sign flips of units", 6)


def test_values_that_are_no_hits_are_flipped_trial_by_trial() -> None:
    found = p_against_chance(np.array([0.6, 0.9, 0.7, 0.8]), np.arange(4), 0.5)
    assert found is not None
    assert (found.p, found.method) == (1 / 16, "sign flips of units")


@pytest.mark.parametrize("n_trials", [1, 7])
def test_errors_below_chance_are_as_good_as_hits_above_it(n_trials: int) -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(10), n_trials)
    hits = (rng.random(units.size) < 0.7).astype(float)
    better = p_against_chance(hits, units, 0.3)
    assert better is not None
    assert better.p < 0.5
    mirrored = p_against_chance(1 - hits, units, 0.7, higher_is_better=False)
    assert mirrored is not None
    assert mirrored.p == pytest.approx(better.p, rel=1e-9)


def test_one_subject_has_no_p_against_chance() -> None:
    assert p_against_chance(np.ones(50), np.zeros(50), 0.1) is None


# ---- holm, welch_p, paired_effect


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.02, 0.04], [0.03, 0.04, 0.04]),  # times 3, 2, 1
        ([0.01, 0.011, 0.9], [0.03, 0.03, 0.9]),  # 2 · 0.011 falls below its predecessor, which it may not
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.04], [0.04]),
        ([], []),
    ],
)
def test_holm_by_hand_in_any_order(p: list[float], adjusted: list[float]) -> None:
    for order in itertools.permutations(range(len(p))):
        found = holm(np.array(p)[list(order)])
        assert found.tolist() == pytest.approx(np.array(adjusted)[list(order)].tolist(), rel=1e-12)


def test_two_variances_give_welchs_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 5), rng.normal(0, 3, 8)
    parts = [(values.var(ddof=1) / values.size, values.size - 1) for values in (a, b)]
    expected = ttest_ind(a, b, equal_var=False).pvalue
    assert welch_p(a.mean() - b.mean(), parts) == pytest.approx(expected, rel=1e-12)
    assert welch_p(0.0, parts) == 1.0
    assert welch_p(1.0, [(0.0, 3), (0.0, 4)]) is None


def test_the_effect_is_that_of_unit_means() -> None:
    # means 1 and 3: mean 2, standard deviation √2; the third trial of b weighs no more than the first
    differences, units = np.array([0.0, 2.0, 3.0, 3.0, 3.0]), np.array(["a", "a", "b", "b", "b"])
    effect = paired_effect(differences, units)
    assert effect == pytest.approx(np.sqrt(2), rel=1e-12)
    assert paired_effect(-1e-9 * differences, units) == pytest.approx(-np.sqrt(2), rel=1e-9)
    assert paired_effect(np.full(4, 0.1), np.arange(4)) is None
    assert paired_effect(differences, np.zeros(5)) is None


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

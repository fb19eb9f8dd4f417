"""Predicted against measured responses: the published protocol in loops, closed forms, chance and ceilings."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics.base import Score
from zoo.metrics.encoding import (
    best_cells,
    compare_rdms,
    correlation_rdm,
    correlation_with_mean,
    evoked_contrast_correlation,
    evoked_r,
    extrapolated_candidates,
    group_p_values,
    half_splits,
    identification_accuracy,
    identification_growth,
    normalised_pearson_r,
    pairwise_decoding_lda,
    pairwise_decoding_svc,
    pairwise_lda,
    pearson_r,
    pearson_r_of_mean,
    r2,
    representational_similarity,
    rsa_spearman,
    split_half_correlation,
)
from zoo.specs import MetricCard

Encoding = Callable[..., Score]
SCORES: list[Encoding] = [
    pearson_r, normalised_pearson_r, pearson_r_of_mean, r2, rsa_spearman, pairwise_lda, identification_accuracy,
    evoked_r,
]  # fmt: skip
PROTOCOLS = [split_half_correlation, representational_similarity, pairwise_decoding_lda]


def responses(
    n_images: int = 24,
    repetitions: int = 12,
    n_channels: int = 5,
    n_times: int = 4,
    *,
    noise: float = 1.5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The true responses, and what is measured of them: noise that channels share, and an offset that images share."""
    rng = np.random.default_rng(seed)
    mix = np.eye(n_channels) + 0.5 * rng.standard_normal((n_channels, n_channels))
    signal = rng.standard_normal((n_images, n_channels, n_times))
    trials = rng.standard_normal((n_images, repetitions, n_channels, n_times))
    observed = signal[:, None] + noise * np.einsum("nrct,cd->nrdt", trials, mix)
    return signal + 3, observed + 3


def jittered(signal: np.ndarray, noise: float) -> np.ndarray:
    return np.asarray(signal + noise * np.random.default_rng(9).standard_normal(signal.shape))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


# ---- the published protocol


@pytest.mark.parity
def test_correlation_and_ceilings_are_the_published_ones(shared: Path) -> None:
    """The published formulas on the published splits; both sides are float64, so rounding is all that may differ."""
    with np.load(shared / "fixtures" / "gifford_encoding.npz") as fixture:
        found = split_half_correlation(
            predicted=fixture["ols_pred"],
            observed=fixture["corr_bio_test"],
            second_half=fixture["corr_half2_idx"],
        )
        np.testing.assert_allclose(found.value, fixture["corr"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.lower, fixture["nc_low"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.upper, fixture["nc_up"], rtol=0, atol=1e-10)


@pytest.mark.parity
def test_identification_is_the_published_one(shared: Path) -> None:
    with np.load(shared / "fixtures" / "gifford_encoding.npz") as fixture:
        predicted, observed = fixture["ols_pred"], fixture["ident_obs"]
        expected = float(fixture["ident_top1"]), float(fixture["ident_top5"])
    found = [
        identification_accuracy(predicted=predicted, observed=observed.reshape(40, 1, 3, 7), k=k).value for k in (1, 5)
    ]
    assert found == pytest.approx(expected, abs=1e-12)
    flat = predicted.reshape(40, 21)
    grown = identification_growth(predicted=flat, observed=observed, distractors=flat[:1], sizes=[0], tolerances=(1, 5))
    assert grown[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("repetitions", [2, 7])
def test_correlation_is_the_loop_over_splits_and_cells(repetitions: int) -> None:
    signal, observed = responses(20, repetitions, 3, 2)
    splits = half_splits(repetitions, iterations=4)
    expected = np.zeros((3, 3, 2))
    for second in splits:
        halves = np.delete(observed, second, axis=1).mean(1), observed[:, second].mean(1), observed.mean(1)
        for channel, time in np.ndindex(3, 2):
            one, two, whole = (half[:, channel, time] for half in halves)
            expected[:, channel, time] += pearson(signal[:, channel, time], one), pearson(two, one), pearson(whole, one)
    found = split_half_correlation(predicted=signal, observed=observed, second_half=splits)
    np.testing.assert_allclose([found.value, found.lower, found.upper], expected / 4, rtol=0, atol=1e-12)


def test_pairwise_decoding_svc_is_the_loop_of_the_paper() -> None:
    """One time, one pair after another, with the pseudo-trials written out."""
    from sklearn.svm import SVC

    signal, observed = responses(5, 17, 3, 1, noise=2.0)
    splits = half_splits(17, iterations=2)
    expected = np.zeros((3, 5))
    for second in splits:
        first = [repetition for repetition in range(17) if repetition not in second]
        pseudo = [observed[..., 0][:, first[i : i + 4]].mean(1) for i in (0, 4)]  # of nine repetitions one is left out
        tested = signal[..., 0], observed[:, second].mean(1)[..., 0], observed.mean(1)[..., 0]
        for a, b in combinations(range(5), 2):
            machine = SVC(kernel="linear").fit([p[i] for i in (a, b) for p in pseudo], [a, a, b, b])
            for kind, x in enumerate(tested):
                expected[kind, a] += machine.predict(x[[a]])[0] == a
                expected[kind, b] += machine.predict(x[[b]])[0] == b
    found = pairwise_decoding_svc(predicted=signal, observed=observed, second_half=splits)
    assert np.stack([found.value, found.lower, found.upper])[..., 0] == pytest.approx(expected / 8)


def test_pairwise_decoding_lda_is_the_loop_over_pairs() -> None:
    """Nearest mean in the space where the pooled noise of half 1 is white, pair by pair."""
    signal, observed = responses(6, 9, 3, 2, noise=2.0)
    splits = half_splits(9, iterations=3)
    expected = np.zeros((3, 6, 2))
    for second in splits:
        one = np.delete(observed, second, axis=1)
        tested = signal, observed[:, second].mean(1), observed.mean(1)
        for time in range(2):
            residual = (one - one.mean(1, keepdims=True))[..., time].reshape(-1, 3)
            inverse = np.linalg.inv(residual.T @ residual)
            means = one.mean(1)[..., time]
            for kind, x in enumerate(tested):
                for a, b in combinations(range(6), 2):
                    for own, other in ((a, b), (b, a)):
                        gap = [x[own, :, time] - means[image] for image in (own, other)]
                        nearer = gap[0] @ inverse @ gap[0] < gap[1] @ inverse @ gap[1]
                        expected[kind, own, time] += nearer
    found = pairwise_decoding_lda(predicted=signal, observed=observed, second_half=splits)
    assert np.stack([found.value, found.lower, found.upper]) == pytest.approx(expected / 15)


def test_both_forms_of_pairwise_decoding_ask_one_question() -> None:
    """Pooled noise makes a better classifier than six pseudo-trials; images that are hard for one are hard for both."""
    _, observed = responses(10, 24, 3, 3, noise=4.0)
    splits = half_splits(24, iterations=3)
    svc, lda = (
        decode(predicted=observed.mean(1), observed=observed, second_half=splits)
        for decode in (pairwise_decoding_svc, pairwise_decoding_lda)
    )
    assert 0.55 < svc.lower.mean() < lda.lower.mean() < svc.lower.mean() + 0.12
    assert pearson(svc.lower.ravel(), lda.lower.ravel()) > 0.5
    assert svc.value.mean() == pytest.approx(svc.upper.mean(), abs=1e-12)


def test_representational_similarity_is_the_loop_over_times() -> None:
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    signal, observed = responses(9, 5, 6, 3)
    splits = half_splits(5, iterations=3)
    expected = np.zeros((3, 3))
    for second in splits:
        one = np.delete(observed, second, axis=1).mean(1)
        for kind, other in enumerate((signal, observed[:, second].mean(1), observed.mean(1))):
            for time in range(3):
                rdms = [pdist(patterns[..., time], "correlation") for patterns in (other, one)]
                expected[kind, time] += spearmanr(*rdms).statistic
    found = representational_similarity(predicted=signal, observed=observed, second_half=splits)
    np.testing.assert_allclose([found.value, found.lower, found.upper], expected / 3, rtol=0, atol=1e-12)


def test_simple_scores_are_library_functions() -> None:
    from sklearn.metrics import r2_score

    signal, observed = responses()
    predicted, mean = jittered(signal, 0.5), observed.mean(1)
    expected = r2_score(mean.reshape(24, -1), predicted.reshape(24, -1))
    assert r2(predicted=predicted, observed=observed).value == pytest.approx(expected, rel=1e-12)
    cells = [[pearson(predicted[:, c, t], mean[:, c, t]) for t in range(4)] for c in range(5)]
    np.testing.assert_allclose(correlation_with_mean(predicted=predicted, observed=observed), cells, atol=1e-13)
    assert pearson_r_of_mean(predicted=predicted, observed=observed).value == pytest.approx(np.mean(cells), rel=1e-12)


# ---- identity, chance, noise


@pytest.mark.parametrize(
    ("score", "best"),
    [(pearson_r_of_mean, 1.0), (r2, 1.0), (identification_accuracy, 1.0)],
)
def test_the_measured_mean_predicts_itself(score: Encoding, best: float) -> None:
    _, observed = responses()
    assert score(predicted=observed.mean(1), observed=observed).value == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_noise_all_is_1(protocol: Callable[..., Any]) -> None:
    signal, observed = responses(noise=1e-6)
    found = protocol(predicted=signal, observed=observed, second_half=half_splits(12, iterations=3))
    assert np.stack([found.value, found.lower, found.upper]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_mean_of_all_repetitions_reaches_the_upper_ceiling(protocol: Callable[..., Any]) -> None:
    signal, observed = responses()
    splits = half_splits(12, iterations=5)
    found = protocol(predicted=observed.mean(1), observed=observed, second_half=splits)
    np.testing.assert_allclose(found.value, found.upper, atol=1e-12)
    truth = protocol(predicted=signal, observed=observed, second_half=splits)
    assert found.lower.mean() < truth.value.mean() < found.upper.mean()


@pytest.mark.parametrize(
    ("score", "chance"),
    [(pearson_r, 0), (pearson_r_of_mean, 0), (rsa_spearman, 0), (pairwise_lda, 0.5), (identification_accuracy, 1 / 24)],
)
@pytest.mark.parametrize("constant", ["zero", "mean response", "tenth"])
def test_a_prediction_that_is_the_same_for_all_images_scores_chance(
    score: Encoding, chance: float, constant: str
) -> None:
    signal, observed = responses()
    values = {"zero": 0 * signal[0], "mean response": observed.mean((0, 1)), "tenth": np.full_like(signal[0], 0.1)}
    predicted = np.repeat(values[constant][None], 24, axis=0)
    assert score(predicted=predicted, observed=observed).value == pytest.approx(chance, abs=1e-12)


def test_r2_of_the_mean_response_is_0_and_of_any_other_constant_below() -> None:
    signal, observed = responses()
    mean = np.repeat(observed.mean((0, 1))[None], 24, axis=0)
    assert r2(predicted=mean, observed=observed).value == pytest.approx(0, abs=1e-12)
    assert r2(predicted=mean + 1, observed=observed).value < -0.1
    assert r2(predicted=3 * signal, observed=observed).value < 0 < r2(predicted=signal, observed=observed).value


@pytest.mark.parametrize(
    ("score", "chance"), [(pearson_r, 0), (rsa_spearman, 0), (pairwise_lda, 0.5), (identification_accuracy, 1 / 24)]
)
def test_predictions_for_other_images_score_chance(score: Encoding, chance: float) -> None:
    signal, observed = responses()
    rng = np.random.default_rng(1)
    values = [score(predicted=signal[rng.permutation(24)], observed=observed).value for _ in range(25)]
    assert np.mean(values) == pytest.approx(chance, abs=4 * np.std(values) / 5)


@pytest.mark.parametrize("score", SCORES)
def test_noise_in_the_prediction_only_lowers_it(score: Encoding) -> None:
    signal, observed = responses(60, noise=0.6)
    values = [score(predicted=jittered(signal, noise), observed=observed).value for noise in (0.0, 0.7, 2.0, 20.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("score", SCORES)
def test_order_of_images_and_blocks_change_nothing(score: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    signal, observed = responses(60, noise=0.6)
    predicted, order = jittered(signal, 0.7), np.random.default_rng(5).permutation(60)
    whole = score(predicted=predicted, observed=observed)
    monkeypatch.setattr("zoo.metrics.encoding._BLOCK", 3)
    moved = score(predicted=predicted[order], observed=observed[order])
    assert moved.value == pytest.approx(whole.value, rel=1e-10)
    assert score(predicted=predicted, observed=observed.astype(np.float32)).value == pytest.approx(
        whole.value, rel=1e-4
    )
    if whole.per_unit is not None:
        assert moved.per_unit == pytest.approx(whole.per_unit[order])
        assert whole.per_unit.mean() == pytest.approx(whole.value)


@pytest.mark.parametrize("score", [pearson_r, normalised_pearson_r, pearson_r_of_mean])
def test_unit_and_offset_of_each_channel_do_not_matter_to_correlations(score: Encoding) -> None:
    signal, observed = responses(60, noise=0.6)
    scale = np.array([1e-6, 1.0, 5.0, 1e3, 2.0])[:, None]
    moved = score(predicted=1e-6 * signal - 4, observed=scale * observed + 7).value
    assert moved == pytest.approx(score(predicted=signal, observed=observed).value, rel=1e-9)


def test_channels_may_be_mixed_before_pairwise_decoding() -> None:
    """Linear discriminants do not see a change of reference, dependent channels included."""
    signal, observed = responses(10, 8, 4, 3)
    mix = np.random.default_rng(3).standard_normal((4, 4))
    average = np.vstack([np.eye(4), -np.ones(4)])  # a fifth channel that is minus the sum of the others
    splits = half_splits(8, iterations=3)
    whole = pairwise_decoding_lda(predicted=signal, observed=observed, second_half=splits)
    for matrix in (mix, average):
        moved = [np.einsum("dc,...ct->...dt", matrix, array) for array in (signal, observed)]
        found = pairwise_decoding_lda(predicted=moved[0], observed=moved[1], second_half=splits)
        np.testing.assert_allclose(found.value, whole.value, atol=1e-12)


def test_seeds_draw_the_splits() -> None:
    signal, observed = responses()
    values = [pearson_r(predicted=signal, observed=observed, iterations=3, seed=seed).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    splits = half_splits(7, iterations=500)
    assert splits.shape == (500, 3)
    assert all(len(set(split)) == 3 for split in splits)
    assert np.bincount(splits.ravel()) / 500 == pytest.approx(np.full(7, 3 / 7), abs=0.09)


# ---- normalised correlation


def test_the_true_response_scores_1_once_attenuation_is_corrected() -> None:
    """Spearman's correction, and why r over the ceiling itself exceeds 1 for a prediction without noise."""
    signal, observed = responses(1500, 10, 3, 2, noise=2.0)
    score = normalised_pearson_r(predicted=signal, observed=observed)
    assert score.detail["attenuation_corrected"] == pytest.approx(1.0, abs=0.03)
    assert score.value == pytest.approx(np.mean(1 / np.sqrt(score.detail["lower"])), rel=0.1)
    assert score.value > 1.2
    half_right = normalised_pearson_r(predicted=jittered(signal, 1.0), observed=observed)
    assert half_right.detail["attenuation_corrected"] == pytest.approx(1 / np.sqrt(2), abs=0.04)


def test_cells_without_a_reliable_response_are_left_out_and_counted() -> None:
    signal, observed = responses(60, 12, 5, 8, noise=0.6)
    observed[..., :3] = np.random.default_rng(1).standard_normal((60, 12, 5, 3))  # nothing has happened yet
    score = normalised_pearson_r(predicted=signal, observed=observed)
    late = normalised_pearson_r(predicted=signal[..., 3:], observed=observed[..., 3:])
    assert (score.detail["reliable_cells"], score.detail["cells"]) == (25, 40)
    assert score.value == pytest.approx(late.value, rel=1e-12)


def test_noise_alone_has_no_normalised_correlation() -> None:
    """The threshold by another road: r of unrelated normal samples is a beta distribution on (-1, 1)."""
    from scipy.stats import beta

    observed = np.random.default_rng(0).standard_normal((30, 8, 3, 4))
    splits = half_splits(8)
    highest = split_half_correlation(predicted=observed.mean(1), observed=observed, second_half=splits).lower.max()
    threshold = beta(14, 14, loc=-1, scale=2).isf(0.05 / 12)
    sentence = (
        f"a normalised correlation needs a lower noise ceiling above {threshold:.3f} "
        f"somewhere but the highest of 12 cells is {highest:.3f}; average more repetitions or cut to the response."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        normalised_pearson_r(predicted=observed.mean(1), observed=observed)


# ---- dissimilarities


def test_correlation_distance_by_hand() -> None:
    patterns = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    assert correlation_rdm(patterns) == pytest.approx([0, 2, 1, 2, 1, 1], abs=1e-15)


def test_ranks_decide_and_ties_share_theirs() -> None:
    rdm = np.array([0.1, 0.4, 0.2, 0.9, 0.5])
    assert compare_rdms(rdm, np.exp(9 * rdm)) == pytest.approx(1.0)
    assert compare_rdms(rdm, -rdm) == pytest.approx(-1.0)
    assert compare_rdms([1.0, 1.0, 2.0], [1.0, 2.0, 2.0]) == pytest.approx(0.5)
    assert compare_rdms(rdm, np.full(5, 0.3)) == 0


# ---- identification among many


def crowd(n: int = 12, m: int = 60, cells: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((n, cells))
    observed = predicted + 1.2 * rng.standard_normal((n, cells))
    return {"predicted": predicted, "observed": observed, "distractors": rng.standard_normal((m, cells))}


def test_growth_is_the_mean_over_draws_of_candidate_sets() -> None:
    given, rng = crowd(), np.random.default_rng(1)
    exact = identification_growth(**given, sizes=[0, 7, 30, 60], tolerances=[1, 3])
    candidates = np.concatenate([given["predicted"], given["distractors"]])
    correlation = np.corrcoef(given["observed"], candidates)[:12, 12:]
    own = correlation[np.arange(12), np.arange(12)][:, None]
    for row, size in enumerate([0, 7, 30, 60]):
        draws = [rng.permutation(60)[:size] + 12 for _ in range(2000)]
        ranks = [(correlation[:, np.r_[:12, drawn]] > own).sum(1) for drawn in draws]
        assert exact[row] == pytest.approx([np.mean(np.array(ranks) < t) for t in (1, 3)], abs=0.012)
    assert (np.diff(exact, axis=0) <= 0).all()
    assert (exact[:, 1] >= exact[:, 0]).all()


def test_candidates_that_are_all_alike_are_identified_by_chance() -> None:
    given = crowd()
    for name in ("predicted", "distractors"):
        given[name] = crowd()["predicted"][[0] * len(given[name])]
    found = [identification_growth(**given, sizes=[0, 20], tolerances=[1, 4], seed=seed) for seed in range(300)]
    expected = np.array([[1 / 12, 4 / 12], [1 / 32, 4 / 32]])
    assert np.mean(found, axis=0) == pytest.approx(expected, abs=0.032)  # four standard errors


def test_a_power_law_is_continued() -> None:
    sizes = np.arange(200, 5000, 100)
    rng = np.random.default_rng(0)
    accuracy = 6 * sizes**-0.5 * (1 + 0.001 * rng.standard_normal(sizes.size))
    found = extrapolated_candidates(candidates=sizes, accuracy=accuracy)
    assert found == pytest.approx([(6 / 0.1) ** 2, (6 / 0.005) ** 2], rel=0.02)
    sentence = (
        "a power law needs accuracies that fall over at least 3 sizes but got [0.5, 0.5, 0.5] for [1.0, 2.0, 3.0]; "
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}add sizes.$"):
        extrapolated_candidates(candidates=[1, 2, 3], accuracy=[0.5, 0.5, 0.5])


def test_best_cells_are_where_training_responses_are_predicted() -> None:
    signal, observed = responses(200, 3, 4, 5)
    predicted = jittered(signal, 5.0)
    predicted[:, 1, 2], predicted[:, 3, 0] = signal[:, 1, 2], signal[:, 3, 0]
    assert best_cells(predicted=predicted, observed=observed, count=2).tolist() == [1 * 5 + 2, 3 * 5 + 0]
    sentence = "count must be in 1..20, the cells there are, but is 300; ask for fewer."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        best_cells(predicted=predicted, observed=observed)


# ---- groups of subjects


def test_group_p_values_are_fisher_z_and_bonferroni() -> None:
    from scipy.stats import t

    r = np.tanh(np.array([[0.1, -0.2, 0.3], [0.3, 0.1, 0.31], [0.2, 0.4, 0.29]]))
    z = np.arctanh(r)
    expected = 3 * t.sf(z.mean(0) / (z.std(0, ddof=1) / np.sqrt(3)), 2)
    assert group_p_values(correlations=r) == pytest.approx(np.minimum(expected, 1), rel=1e-10)
    assert group_p_values(correlations=-r).max() == 1


def test_subjects_must_differ_for_a_group_test() -> None:
    sentence = (
        "a group test needs correlations within -1 and 1 that differ between subjects, but the largest is 0.200 and 1 "
        "of 2 times do not; leave those out."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        group_p_values(correlations=[[0.1, 0.2], [0.1, 0.1]])
    sentence = sentence.replace("0.200 and 1 of", "1.000 and 0 of")
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        group_p_values(correlations=[[1.0, 0.2], [0.1, 0.1]])


# ---- refusals

SIGNAL, OBSERVED = responses(6, 8, 3, 2)
FLAT = OBSERVED * [[1.0], [0.0], [1.0]]
REFUSED = [
    (
        {"predicted": SIGNAL[:5]},
        "predicted must be (n_images, n_channels, n_times) and observed (n_images, n_repetitions, n_channels, n_times) "
        "but they are (5, 3, 2) and (6, 8, 3, 2); pass responses to the same images.",
    ),
    (
        {"predicted": SIGNAL[:2], "observed": OBSERVED[:2]},
        "responses must be to at least 3 images but are to 2; score more together.",
    ),
    ({"predicted": SIGNAL * np.nan}, "predicted must be finite but holds NaN or infinity; find out which broke."),
    ({"observed": OBSERVED * np.inf}, "observed must be finite but holds NaN or infinity; find out which broke."),
    (
        {"observed": FLAT},
        "observed must vary over images but 2 of 6 channel × time cells do not; leave out flat channels.",
    ),
]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("changed", "sentence"), REFUSED)
def test_what_cannot_be_compared_is_refused(score: Encoding, changed: dict[str, np.ndarray], sentence: str) -> None:
    if score is evoked_r and "at least 3" in sentence:  # it compares conditions, of which two are enough
        changed, sentence = {name: array[:1] for name, array in changed.items()}, sentence.replace("3", "2", 1)
        sentence = sentence.replace("to 2;", "to 1;")
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        score(**{"predicted": SIGNAL, "observed": OBSERVED, **changed})


@pytest.mark.parametrize("score", [pearson_r, normalised_pearson_r, rsa_spearman, pairwise_lda])
def test_ceilings_need_repetitions(score: Encoding) -> None:
    sentence = (
        "a noise ceiling needs at least 2 repetitions and 1 iteration but got 1 and 5; "
        "score the mean of the repetitions instead."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        score(predicted=SIGNAL, observed=OBSERVED[:, :1], iterations=5)
    sentence = (
        "observed must be (n_images, n_repetitions, n_channels, n_times) but has shape (6, 3, 2); "
        "keep repetitions apart."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        score(predicted=SIGNAL, observed=OBSERVED.mean(1))


def test_each_protocol_says_what_it_lacks() -> None:
    splits = half_splits(8, iterations=2)
    sentence = "a pattern over channels needs at least 3 but got 2; add channels."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        representational_similarity(predicted=SIGNAL[:, :2], observed=OBSERVED[:, :, :2], second_half=splits)
    sentence = "a pseudo-trial is the mean of 4 repetitions but half 1 has 3; use pairwise_decoding_lda."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        pairwise_decoding_svc(predicted=SIGNAL, observed=OBSERVED[:, :6], second_half=half_splits(6))
    sentence = (
        "a covariance of 3 channels needs more than 3 degrees of freedom but half 1 has 0; add repetitions or images."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        pairwise_decoding_lda(predicted=SIGNAL, observed=OBSERVED[:, :2], second_half=half_splits(2))


def test_growth_needs_a_prediction_for_every_response() -> None:
    given = crowd()
    sentence = (
        "every one of 12 responses needs its prediction, sizes must be in 0..60 and tolerances 1 or more, but got 12 "
        "predictions, sizes 0..61 and tolerances from 1."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        identification_growth(**given, sizes=[0, 61])


# ---- cards

CARDS = [card for card in registry.metrics.cards() if card.function.startswith("zoo.metrics.encoding:")]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_cards_start_where_the_function_begins_to_answer(card: MetricCard) -> None:
    function = registry.load_object(card.function)

    def score(n: int) -> Score:
        signal, observed = responses(n, 6, 3, 2, noise=1e-6)
        found: Score = function(predicted=signal, observed=observed, **card.params)
        return found

    found = score(card.min_n)
    assert (card.sees, card.higher_is_better) == ("responses", True)
    assert found.value == pytest.approx(1.0, abs=1e-3)
    assert (found.per_unit is not None) == (card.interval == "cluster")
    with pytest.raises(UsageError):
        score(card.min_n - 1)


def test_of_two_conditions_the_contrast_is_their_difference() -> None:
    signal, observed = responses(2, 6)
    second = np.array([[0, 2, 5], [1, 2, 3]])
    guess = jittered(signal, 0.5)
    found = evoked_contrast_correlation(predicted=guess, observed=observed, second_half=second)
    for i, half in enumerate(second):
        first = np.setdiff1d(np.arange(6), half)
        one, two, whole = (observed[:, rows].mean(1) for rows in (first, half, np.arange(6)))
        wanted = [pearson((x[0] - x[1]).ravel(), (one[0] - one[1]).ravel()) for x in (guess, two, whole)]
        assert found[:, i] == pytest.approx(wanted, abs=1e-12)
    flipped = evoked_contrast_correlation(predicted=guess[::-1], observed=observed, second_half=second)
    assert flipped[0] == pytest.approx(-found[0], abs=1e-12)
    assert evoked_r(predicted=np.ones_like(guess), observed=observed).value == 0


def test_every_score_has_its_card() -> None:
    assert {card.function.rpartition(":")[2] for card in CARDS} == {score.__name__ for score in SCORES}

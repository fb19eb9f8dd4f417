"""Paired comparisons: parity with published values, the definitions by hand, chance for what tells nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics import identification
from zoo.metrics.base import Score
from zoo.metrics.identification import (
    correlation_distance,
    cosine_similarity,
    n_way_accuracy,
    n_way_accuracy_sampled,
    two_way_identification,
    two_way_rowwise,
)
from zoo.specs import MetricCard

PAIRED: list[Callable[..., Score]] = [
    two_way_identification,
    correlation_distance,
    cosine_similarity,
    n_way_accuracy,
]
CARDS = [card for card in registry.metrics.cards() if card.function.startswith(f"{identification.__name__}:")]


def pictures(n: int = 12, width: int = 60, seed: int = 0) -> np.ndarray:
    """Features that share a mean, as those of networks do."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal((n, width)) + rng.standard_normal(width))


def by_hand(generated: np.ndarray, reference: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The definition of two-way identification, word by word."""
    r = np.corrcoef(reference, generated)[: len(reference), len(reference) :]
    others = [[i for i in range(len(reference)) if i != at] for at in own]
    return np.array([np.mean([r[i, j] < r[own[j], j] for i in others[j]]) for j in range(len(own))])


def per_unit(score: Score) -> np.ndarray:
    assert score.per_unit is not None
    assert score.value == pytest.approx(score.per_unit.mean(), abs=1e-15)
    return score.per_unit


class Lazy:
    """Rows that can be sliced and nothing else."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self.shape, self.dtype, self.ndim = rows.shape, rows.dtype, rows.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self._rows[key]


# ---- parity


@pytest.fixture
def fixture(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures" / "metrics_parity.npz") as stored:
        return dict(stored)


@pytest.fixture
def pair(fixture: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"generated": fixture["feat_recon"], "reference": fixture["feat_real"], "own": np.arange(30)}


@pytest.mark.parity
def test_two_way_is_the_published_one(fixture: dict[str, np.ndarray], pair: dict[str, Any]) -> None:
    score = two_way_identification(**pair)
    np.testing.assert_allclose(per_unit(score), fixture["two_way_per_recon"], atol=1e-10)
    assert score.value == pytest.approx(float(fixture["two_way_mean"]), abs=1e-10)


@pytest.mark.parity
def test_the_transposed_direction_has_its_own_name(fixture: dict[str, np.ndarray], pair: dict[str, Any]) -> None:
    value = two_way_rowwise(**pair).value
    assert value == pytest.approx(float(fixture["two_way_rowwise_mean"]), abs=1e-10)
    assert value != pytest.approx(two_way_identification(**pair).value, abs=1e-3)


@pytest.mark.parity
def test_the_count_that_leaves_out_one_too_many_is_not_reproduced(
    fixture: dict[str, np.ndarray], pair: dict[str, Any]
) -> None:
    bias = two_way_identification(**pair).value - float(fixture["enigma_biased"])
    assert bias == pytest.approx(1 / 29, abs=1e-10)


@pytest.mark.parity
def test_correlation_distance_is_the_published_one(fixture: dict[str, np.ndarray], pair: dict[str, Any]) -> None:
    score = correlation_distance(**pair)
    np.testing.assert_allclose(per_unit(score), 1 - np.diag(fixture["corr"]), atol=1e-10)
    assert score.value == pytest.approx(float(fixture["corr_distance"]), abs=1e-10)


@pytest.mark.parity
@pytest.mark.parametrize("k", [1, 5])
def test_n_way_trials_are_the_published_ones(fixture: dict[str, np.ndarray], k: int) -> None:
    scores, truth, picks = (fixture[f"nway_{name}"] for name in ("prob", "gt", "picks"))
    sampled = n_way_accuracy_sampled(scores=scores, truth=truth, picks=picks, k=k)
    np.testing.assert_allclose(per_unit(sampled), fixture[f"nway_top{k}"], atol=1e-10)
    exact = n_way_accuracy(generated=scores, reference=np.eye(100)[truth], own=np.arange(4), n=20, k=k)
    error = np.sqrt(per_unit(exact) * (1 - per_unit(exact)) / 25)
    assert (np.abs(per_unit(exact) - per_unit(sampled)) <= 3 * error).all()


# ---- two-way identification


def test_two_way_is_its_definition() -> None:
    reference = pictures()
    own = np.array([0, 3, 3, 7, 11, 0, 5])  # trials share pictures, and some pictures were shown in no trial
    generated = reference[own] + 3 * pictures(7, seed=1)
    score = two_way_identification(generated=generated, reference=reference, own=own)
    np.testing.assert_allclose(per_unit(score), by_hand(generated, reference, own), atol=1e-12)
    assert 0.5 < score.value < 1


def test_trials_of_one_picture_do_not_change_one_another() -> None:
    reference = pictures()
    generated = reference + 3 * pictures(seed=1)
    once = per_unit(two_way_identification(generated=generated, reference=reference, own=np.arange(12)))
    twice = two_way_identification(generated=generated.repeat(2, 0), reference=reference, own=np.arange(12).repeat(2))
    np.testing.assert_array_equal(per_unit(twice), once.repeat(2))


def test_a_generator_that_always_makes_the_same_image_scores_chance() -> None:
    reference = pictures()
    same = np.tile(pictures(1, seed=5), (12, 1))
    for two_way in (two_way_identification, two_way_rowwise):
        score = two_way(generated=same, reference=reference, own=np.arange(12))
        assert score.value == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_without_variance_score_chance_in_every_trial(value: float) -> None:
    flat = np.full((5, 60), value, np.float32)
    score = two_way_identification(generated=flat, reference=pictures(), own=np.arange(5))
    assert per_unit(score).tolist() == [0.5] * 5


def test_equal_pictures_are_told_apart_by_half() -> None:
    reference = np.concatenate([pictures(3), pictures(3)])
    score = two_way_identification(generated=reference, reference=reference, own=np.arange(6))
    np.testing.assert_allclose(per_unit(score), 1 - 0.5 / 5, atol=1e-12)


def test_swapping_sides_needs_one_image_per_picture() -> None:
    sentence = "own must name each picture at most once but 3 images share 2; pass one image per picture."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        two_way_rowwise(generated=pictures(3), reference=pictures(4), own=[0, 1, 1])


def test_one_picture_has_no_distractor() -> None:
    sentence = "two-way identification needs at least 2 reference pictures but got 1; add pictures."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        two_way_identification(generated=pictures(3), reference=pictures(1), own=[0, 0, 0])


# ---- what all paired comparisons have in common


def test_every_paired_metric_has_a_card() -> None:
    assert {registry.load_object(card.function) for card in CARDS} == set(PAIRED)
    assert {card.pairing for card in CARDS} == {"instance"}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_the_shown_picture_itself_has_the_best_value_of_the_card(card: MetricCard) -> None:
    function: Callable[..., Score] = registry.load_object(card.function)
    assert list(inspect.signature(function).parameters)[: len(card.needs)] == list(card.needs)
    reference = pictures(30, width=60)
    score = function(generated=reference, reference=reference, own=np.arange(30), **card.params)
    assert score.value == pytest.approx(card.best, abs=1e-12)


@pytest.mark.parametrize("metric", PAIRED)
def test_order_of_trials_and_of_pictures_changes_nothing(metric: Callable[..., Score]) -> None:
    reference, own = pictures(20), np.arange(20) % 13
    generated = reference[own] + pictures(20, seed=1)
    trials, shelf = np.random.default_rng(0).permutation(20), np.random.default_rng(1).permutation(20)
    found = metric(generated=generated[trials], reference=reference[shelf], own=np.argsort(shelf)[own[trials]])
    expected = per_unit(metric(generated=generated, reference=reference, own=own))[trials]
    np.testing.assert_allclose(per_unit(found), expected, atol=1e-12)


@pytest.mark.parametrize("metric", PAIRED[:3])
def test_blocks_and_lazy_rows_change_nothing(metric: Callable[..., Score], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, own = pictures(20), np.arange(20) % 13
    generated = (reference[own] + pictures(20, seed=1)).astype(np.float32)
    expected = per_unit(metric(generated=generated, reference=reference, own=own))
    monkeypatch.setattr("zoo.metrics.retrieval._VALUES", 3 * 60)  # three rows at once
    found = metric(generated=Lazy(generated), reference=Lazy(reference), own=own)
    np.testing.assert_allclose(per_unit(found), expected, atol=1e-12)


@pytest.mark.parametrize("metric", PAIRED)
def test_noise_only_makes_it_worse(metric: Callable[..., Score]) -> None:
    reference, noise = pictures(200), np.random.default_rng(1).standard_normal((200, 60))
    values = [
        metric(generated=reference + level * noise, reference=reference, own=np.arange(200)).value
        for level in (0, 1, 3, 30)
    ]
    assert values == sorted(values, reverse=metric is not correlation_distance)
    assert abs(values[-1] - values[0]) > 0.3


@pytest.mark.parametrize("metric", [two_way_identification, correlation_distance])
def test_scale_and_offset_of_an_image_change_no_correlation(metric: Callable[..., Score]) -> None:
    reference, own = pictures(), np.arange(12)
    generated = reference + 2 * pictures(seed=1)
    scale, offset = np.random.default_rng(0).uniform(0.1, 10, (2, 12, 1))
    found = metric(generated=scale * generated + offset, reference=reference, own=own)
    expected = metric(generated=generated, reference=reference, own=own)
    np.testing.assert_allclose(per_unit(found), per_unit(expected), atol=1e-12)


def test_distances_and_cosines_have_their_closed_forms() -> None:
    reference = np.array([[1.0, 2.0, 3.0, 4.0]])
    generated = np.array([[2.0, 4.0, 6.0, 8.0], [4.0, 3.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0], [1.0, -1.0, -1.0, 1.0]])
    given: dict[str, Any] = {"generated": generated, "reference": reference, "own": [0, 0, 0, 0]}
    np.testing.assert_allclose(per_unit(correlation_distance(**given)), [0, 2, 1, 1], atol=1e-15)
    cosines = [1, 20 / 30, 50 / 10 / np.sqrt(30), 0]
    np.testing.assert_allclose(per_unit(cosine_similarity(**given)), cosines, atol=1e-15)


@pytest.mark.parametrize("metric", [*PAIRED, two_way_rowwise])
@pytest.mark.parametrize(
    ("generated", "own", "sentence"),
    [
        (
            pictures(0),
            [],
            "paired comparisons need at least 1 generated image but got 0; score more images together.",
        ),
        (
            pictures(3),
            [0, 1],
            "own must be 3 whole numbers, one per generated image, but is int64 of shape (2,); "
            "pass the row of the picture that each trial was shown.",
        ),
        (
            pictures(3),
            [0, 1, -1],
            "own must be in 0..11 but spans -1..1; pass rows of the reference pictures.",
        ),
        (pictures(3), [0, 1, 12], "own must be in 0..11 but spans 0..12; pass rows of the reference pictures."),
    ],
)
def test_what_has_no_pairs_is_refused(
    metric: Callable[..., Score], generated: np.ndarray, own: list[int], sentence: str
) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(generated=generated, reference=pictures(), own=np.array(own, np.int64))


@pytest.mark.parametrize("metric", PAIRED)
def test_what_is_not_finite_is_never_scored(metric: Callable[..., Score]) -> None:
    broken = pictures()
    broken[3, 5] = np.nan
    for given in ({"generated": broken, "reference": pictures()}, {"generated": pictures(), "reference": broken}):
        with pytest.raises(UsageError, match=r"must be finite but 1 of 12 rows hold NaN or infinity"):
            metric(**given, own=np.arange(12))


# ---- n-way classification


@pytest.mark.parametrize(("n", "k"), [(2, 1), (4, 1), (4, 2), (7, 3)])
def test_n_way_accuracy_is_the_mean_over_every_draw(n: int, k: int) -> None:
    scores = np.random.default_rng(0).standard_normal((9, 7))
    scores[4] = np.round(scores[4])  # a few classes level with one another
    truth = np.arange(9) % 7
    others = [[c for c in range(7) if c != t] for t in truth]
    picks = np.array([list(combinations(row, n - 1)) for row in others])
    sampled = n_way_accuracy_sampled(scores=scores, truth=truth, picks=picks, k=k)
    exact = n_way_accuracy(generated=scores, reference=np.eye(7), own=truth, n=n, k=k)
    np.testing.assert_allclose(per_unit(exact), per_unit(sampled), atol=1e-12)
    assert len(np.unique(per_unit(exact).round(12))) > 2


@pytest.mark.parametrize(("n", "k"), [(50, 1), (50, 5), (1000, 1)])
def test_a_classifier_that_sees_nothing_scores_k_of_n(n: int, k: int) -> None:
    reference, own = np.eye(1000), np.arange(1000)
    flat = n_way_accuracy(generated=np.zeros((1000, 1000)), reference=reference, own=own, n=n, k=k)
    np.testing.assert_allclose(per_unit(flat), k / n, rtol=1e-9)
    same = np.tile(np.random.default_rng(0).standard_normal(1000), (1000, 1))
    constant = n_way_accuracy(generated=same, reference=reference, own=own, n=n, k=k)
    assert constant.value == pytest.approx(k / n, rel=1e-9)
    assert constant.detail["chance"] == k / n


def test_logits_and_probabilities_rank_alike() -> None:
    logits, own = 3 * pictures(20, 100), np.arange(20)
    seen = logits + 3 * pictures(20, 100, seed=1)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (seen, logits))
    from_logits = n_way_accuracy(generated=seen, reference=logits, own=own)
    assert from_logits.value == n_way_accuracy(generated=p, reference=q, own=own).value
    assert 0.1 < from_logits.value < 0.99


@pytest.mark.parametrize(("n", "k"), [(1, 1), (101, 1), (50, 0), (50, 50)])
def test_impossible_questions_are_refused(n: int, k: int) -> None:
    sentence = f"1 <= k < n <= 100 classes must hold but n is {n} and k is {k}; change n or k."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        n_way_accuracy(generated=pictures(3, 100), reference=pictures(3, 100), own=np.arange(3), n=n, k=k)


@pytest.mark.parametrize(
    ("truth", "picks", "sentence"),
    [
        ([0], np.ones((2, 3, 1), int), "truth must be (2,) and picks (2, n_draws, n - 1) but are (1,) and (2, 3, 1);"),
        (
            [0, 0],
            np.ones((2, 0, 1), int),
            "truth must be (2,) and picks (2, n_draws, n - 1) but are (2,) and (2, 0, 1);",
        ),
        ([0, 4], np.ones((2, 3, 1), int), "truth and picks must be classes in 0..3 but leave that range;"),
        ([0, 1], np.ones((2, 3, 1), int), "picks must leave out the true class but hold it;"),
    ],
)
def test_draws_that_are_none_are_refused(truth: list[int], picks: np.ndarray, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)} draw "):
        n_way_accuracy_sampled(scores=pictures(2, 4), truth=truth, picks=picks)

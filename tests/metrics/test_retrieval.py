"""Ranks of the right row: closed forms, ties, published values, and what each variant is allowed to know."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics.base import Score
from zoo.metrics.retrieval import (
    class_centres,
    class_top_k_accuracy,
    csls_top_k_accuracy,
    k_way_accuracy,
    mean_reciprocal_rank,
    median_rank,
    top_k_accuracy,
    transductive_assignment_accuracy,
    transductive_sinkhorn_accuracy,
)
from zoo.specs import MetricCard

Retrieval = Callable[..., Score]
BY_RANK: list[tuple[Retrieval, dict[str, int]]] = [
    (top_k_accuracy, {}),
    (top_k_accuracy, {"k": 5}),
    (mean_reciprocal_rank, {}),
    (k_way_accuracy, {"k": 2}),
    (k_way_accuracy, {"k": 10}),
    (csls_top_k_accuracy, {}),
    (transductive_sinkhorn_accuracy, {}),
]
ALL = [*BY_RANK, (median_rank, {}), (transductive_assignment_accuracy, {})]


def features(n: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def noisy(gallery: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    return gallery + noise * features(*gallery.shape, seed)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


# ---- published values


@pytest.mark.parity
def test_ranks_are_the_published_definition(shared: Path) -> None:
    """Ranks are whole numbers and no two similarities are level, so equality is exact."""
    with np.load(shared / "fixtures" / "metrics_parity.npz") as fixture:
        given = {"queries": fixture["feat_real"], "gallery": fixture["feat_recon"], "own": np.arange(30)}
        cosines = unit(given["queries"]) @ unit(given["gallery"]).T
        np.testing.assert_allclose(cosines, fixture["retr_sim"], atol=1e-15)
        reciprocal = mean_reciprocal_rank(**given)
        assert reciprocal.per_unit == pytest.approx(1 / fixture["retr_rank"], abs=1e-14)
        assert reciprocal.value == pytest.approx(float(fixture["retr_map"]), abs=1e-14)
        assert top_k_accuracy(**given).value == float(fixture["retr_top1"])
        assert top_k_accuracy(**given, k=5).value == pytest.approx(float(fixture["retr_top5"]), abs=1e-15)
        assert median_rank(**given).value == float(fixture["retr_median"])


@pytest.mark.parity
def test_the_pictures_of_things_eeg2_find_their_class_centres(shared: Path) -> None:
    """CLIP features of the 200 test pictures against NICE's centres: own cosine .890, own centre first for 98 %."""
    folder = shared / "data" / "licensed" / "things_eeg2"
    if not folder.is_dir():
        pytest.skip("needs the CLIP features of THINGS-EEG2 in ../shared, which this checkout does not have")
    pictures = np.load(folder / "nice_clip_feature_maps_test.npy", allow_pickle=False)[:, 0]
    centres = np.load(folder / "nice_center_clip.npy", allow_pickle=False)
    given = {"queries": pictures, "gallery": centres, "own": np.arange(200)}
    assert np.sum(unit(pictures) * unit(centres), axis=1).mean() == pytest.approx(0.890, abs=5e-4)
    assert top_k_accuracy(**given).value == pytest.approx(0.98, abs=1e-12)
    assert top_k_accuracy(**given, k=5).value == 1.0
    assert median_rank(**given).value == 1.0
    shuffled = np.random.default_rng(0).permutation(200)
    assert top_k_accuracy(**{**given, "own": shuffled}).value < 0.03


# ---- closed forms


def ladder(m: int) -> tuple[np.ndarray, np.ndarray]:
    """A gallery whose rows lie at growing angles from one query, so that row i has rank i + 1."""
    angles = np.linspace(0.1, 1.5, m)
    return np.array([[1.0, 0.0]]), np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("rank", [1, 2, 7, 12])
def test_one_query_scores_what_its_rank_says(rank: int) -> None:
    query, gallery = ladder(12)
    given = {"queries": query, "gallery": gallery, "own": [rank - 1]}
    assert [top_k_accuracy(**given, k=k).value for k in (1, 5, 10)] == [rank <= 1, rank <= 5, rank <= 10]
    assert mean_reciprocal_rank(**given).value == pytest.approx(1 / rank, rel=1e-13)
    assert median_rank(**given).value == rank
    assert k_way_accuracy(**given, k=2).value == pytest.approx((12 - rank) / 11, rel=1e-13)


@pytest.mark.parametrize("k", [2, 4, 10, 30])
def test_k_way_is_the_mean_over_draws_of_distractors(k: int) -> None:
    gallery = features(30)
    queries, rng = noisy(gallery, 3.0), np.random.default_rng(2)
    similarity = unit(queries) @ unit(gallery).T
    score = k_way_accuracy(queries=queries, gallery=gallery, own=np.arange(30), k=k)
    assert score.per_unit is not None
    for query in range(5):
        others = np.delete(similarity[query], query)
        drawn = np.array([rng.choice(others, k - 1, replace=False).max() for _ in range(4000)])
        share = (drawn < similarity[query, query]).mean()
        assert score.per_unit[query] == pytest.approx(share, abs=4 * 0.5 / np.sqrt(4000))


def test_k_way_among_all_is_top_1_and_two_way_is_linear_in_the_rank() -> None:
    gallery = features(30)
    given = {"queries": noisy(gallery, 2.0), "gallery": gallery, "own": np.arange(30)}
    assert k_way_accuracy(**given, k=30).value == pytest.approx(top_k_accuracy(**given).value, abs=1e-15)
    ranks = 1 / mean_reciprocal_rank(**given).per_unit  # type: ignore[operator]
    assert k_way_accuracy(**given, k=2).value == pytest.approx(((30 - ranks) / 29).mean(), rel=1e-12)


def test_csls_holds_back_a_row_that_every_query_likes() -> None:
    """By hand: 2 cos - mean of the nearest 3 queries of each row; a hub wins on cosines and loses on these."""
    gallery = features(8, width=6)
    queries = noisy(gallery, 0.7)
    gallery[7] = unit(queries).mean(0)
    cosines = unit(queries) @ unit(gallery).T
    scaled = 2 * cosines - np.sort(cosines, axis=0)[-3:].mean(0)
    given = {"queries": queries, "gallery": gallery, "own": np.arange(8)}
    assert csls_top_k_accuracy(**given, neighbours=3).value == (scaled.argmax(1) == np.arange(8)).mean()
    assert csls_top_k_accuracy(**given, neighbours=3).value > top_k_accuracy(**given).value


def test_sinkhorn_ranks_by_the_balanced_matrix() -> None:
    gallery = features(9, width=4)
    queries = noisy(gallery, 0.6)
    plan = np.exp(unit(queries) @ unit(gallery).T / 0.07)
    for _ in range(100):
        plan /= plan.sum(1, keepdims=True)
        plan /= plan.sum(0, keepdims=True)
    assert plan.sum(1) == pytest.approx(np.ones(9), abs=1e-2)  # columns were scaled last
    score = transductive_sinkhorn_accuracy(queries=queries, gallery=gallery, own=np.arange(9))
    assert score.per_unit is not None
    assert score.per_unit.tolist() == (plan.argmax(1) == np.arange(9)).tolist()


def test_assignment_is_the_best_of_all_permutations() -> None:
    from itertools import permutations

    gallery = features(6, width=3)
    queries = noisy(gallery, 1.5)
    cosines = unit(queries) @ unit(gallery).T
    best = max(permutations(range(6)), key=lambda order: cosines[range(6), order].sum())
    score = transductive_assignment_accuracy(queries=queries, gallery=gallery, own=np.arange(6))
    assert score.per_unit is not None
    assert score.per_unit.tolist() == [found == right for right, found in enumerate(best)]
    assert 0 < score.value < 1


def test_knowing_all_queries_helps() -> None:
    """Why the transductive variants have their own names."""
    gains = []
    for seed in range(8):
        gallery = features(60, seed=seed)
        given = {"queries": noisy(gallery, 1.6, 99 + seed), "gallery": gallery, "own": np.arange(60)}
        alone = top_k_accuracy(**given).value
        others = (transductive_sinkhorn_accuracy, transductive_assignment_accuracy)
        gains.append([retrieval(**given).value - alone for retrieval in others])
    assert np.mean(gains, axis=0).min() > 0.04


# ---- properties


@pytest.mark.parametrize(("retrieval", "options"), ALL)
def test_identity_is_best(retrieval: Retrieval, options: dict[str, int]) -> None:
    gallery = features(40)
    own = np.random.default_rng(3).permutation(40)
    assert retrieval(queries=5 * gallery[own], gallery=gallery, own=own, **options).value == 1.0


@pytest.mark.parametrize(("retrieval", "options"), ALL)
@pytest.mark.parametrize("collapsed", ["queries", "gallery", "both", "zero"])
def test_a_model_that_tells_nothing_scores_chance(
    retrieval: Retrieval, options: dict[str, int], collapsed: str
) -> None:
    """Every query alike, every row alike, or a query without direction: never the right row by position."""
    queries, gallery = noisy(features(40), 0.1), features(40)
    queries = {"queries": queries[[0] * 40], "both": queries[[0] * 40], "zero": 0 * queries}.get(collapsed, queries)
    gallery = gallery[[0] * 40] if collapsed in ("gallery", "both") else gallery
    given = {"queries": queries, "gallery": gallery, "own": np.arange(40), **options}
    if retrieval is transductive_assignment_accuracy:  # one seeded order: the mean over seeds is chance
        found = [retrieval(**given, seed=seed).value for seed in range(200)]
        assert np.mean(found) == pytest.approx(1 / 40, abs=4 / 40 / np.sqrt(200))
    else:
        score = retrieval(**given)
        assert score.value == pytest.approx(score.detail["chance"], rel=1e-9)


@pytest.mark.parametrize(
    ("retrieval", "options", "chance"),
    [
        (top_k_accuracy, {}, 1 / 40),
        (top_k_accuracy, {"k": 5}, 5 / 40),
        (mean_reciprocal_rank, {}, sum(1 / rank for rank in range(1, 41)) / 40),
        (k_way_accuracy, {"k": 4}, 1 / 4),
        (median_rank, {}, 20.5),
        (transductive_assignment_accuracy, {}, 1 / 40),
    ],
)
def test_chance_is_what_unrelated_features_score(retrieval: Retrieval, options: dict[str, int], chance: float) -> None:
    scores = [
        retrieval(queries=features(40, seed=seed), gallery=features(40, seed=seed + 999), own=np.arange(40), **options)
        for seed in range(60)
    ]
    values = [score.value for score in scores]
    assert scores[0].detail["chance"] == pytest.approx(chance, rel=1e-12)
    assert np.mean(values) == pytest.approx(chance, abs=4 * np.std(values) / np.sqrt(60))


def test_rows_level_with_the_right_one_share_its_ranks() -> None:
    """The right row and two copies of it, behind one better row: its rank is 2, 3 or 4."""
    query, gallery = ladder(6)
    gallery[[2, 3]] = gallery[1]
    given = {"queries": query, "gallery": gallery, "own": [2]}
    assert [top_k_accuracy(**given, k=k).value for k in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-15)
    assert mean_reciprocal_rank(**given).value == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3, rel=1e-14)
    assert median_rank(**given).value == 3
    assert k_way_accuracy(**given, k=2).value == pytest.approx((4 / 5 + 3 / 5 + 2 / 5) / 3, rel=1e-14)


@pytest.mark.parametrize(("retrieval", "options"), BY_RANK)
def test_noise_only_lowers_it(retrieval: Retrieval, options: dict[str, int]) -> None:
    gallery = features(80)
    values = [
        retrieval(queries=noisy(gallery, noise), gallery=gallery, own=np.arange(80), **options).value
        for noise in (0.0, 1.0, 3.0, 30.0)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] < values[0] / 1.5


@pytest.mark.parametrize(("retrieval", "options"), ALL)
def test_order_length_and_blocks_change_nothing(
    retrieval: Retrieval, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = features(50)
    queries, own, rng = noisy(gallery, 1.5), np.arange(50), np.random.default_rng(4)
    whole = retrieval(queries=queries, gallery=gallery, own=own, **options).value
    rows, columns = rng.permutation(50), rng.permutation(50)
    scaled = rng.uniform(0.1, 10, (50, 1)) * queries
    moved = np.argsort(columns)[own[rows]]
    assert retrieval(queries=scaled[rows], gallery=gallery[columns], own=moved, **options).value == pytest.approx(whole)
    monkeypatch.setattr("zoo.metrics.retrieval._BLOCK", 7)
    assert retrieval(queries=queries, gallery=gallery, own=own, **options).value == pytest.approx(whole, abs=1e-12)
    assert 0.1 < whole < 30


def test_wide_features_are_read_in_thinner_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = features(20)
    given = {"queries": noisy(gallery, 1.0), "gallery": gallery, "own": np.arange(20)}
    whole = mean_reciprocal_rank(**given).value
    monkeypatch.setattr("zoo.metrics.retrieval._VALUES", 3 * 16)
    read: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, key: object) -> np.ndarray:
            found: np.ndarray = np.asarray(super().__getitem__(key))  # type: ignore[index]
            read.append(len(found))
            return found

    assert mean_reciprocal_rank(**{**given, "queries": given["queries"].view(Counted)}).value == pytest.approx(whole)
    assert max(read) == 3


def test_several_trials_may_show_one_picture() -> None:
    gallery = features(10)
    own = np.repeat(np.arange(10), 4)
    score = top_k_accuracy(queries=noisy(gallery[own], 0.01), gallery=gallery, own=own)
    assert (score.value, score.per_unit.shape) == (1.0, (40,))  # type: ignore[union-attr]


# ---- classes


def test_a_centre_is_the_mean_direction_of_its_class() -> None:
    pictures = np.array([[2.0, 0.0], [0.0, 8.0], [-3.0, 0.0]])
    centres = class_centres(features=pictures, labels=[0, 0, 1], n_classes=2)
    assert centres.tolist() == [[0.5, 0.5], [-1.0, 0.0]]


def test_blocks_of_pictures_change_no_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(50) % 6
    whole = class_centres(features=features(50), labels=labels, n_classes=6)
    monkeypatch.setattr("zoo.metrics.retrieval._BLOCK", 7)
    np.testing.assert_allclose(class_centres(features=features(50), labels=labels, n_classes=6), whole, atol=1e-15)


def test_generated_images_find_the_class_they_were_made_for() -> None:
    means, labels = 4 * features(6), np.repeat(np.arange(6), 10)
    given = {"known": means[labels] + features(60, seed=5), "known_labels": labels, "n_classes": 6}
    right = class_top_k_accuracy(queries=means[labels] + features(60, seed=6), labels=labels, **given)
    wrong = class_top_k_accuracy(queries=means[labels] + features(60, seed=6), labels=(labels + 1) % 6, **given)
    assert (right.value, wrong.value, right.detail["chance"]) == (1.0, 0.0, pytest.approx(1 / 6))


# ---- refusals

GIVEN = {"queries": features(4), "gallery": features(4), "own": np.arange(4)}
REFUSED = [
    (
        top_k_accuracy,
        {"k": 4},
        "k must be at least 1 and below the 4 rows of the gallery but is 4; add rows or change k.",
    ),
    (
        median_rank,
        {"gallery": features(1)},
        "k must be at least 1 and below the 1 rows of the gallery but is 1; add rows or change k.",
    ),
    (k_way_accuracy, {"k": 5}, "k must be in 2..4, the size of the gallery, but is 5; choose among fewer rows."),
    (k_way_accuracy, {"k": 1}, "k must be in 2..4, the size of the gallery, but is 1; choose among fewer rows."),
    (
        top_k_accuracy,
        {"queries": np.zeros((0, 16)), "own": []},
        "retrieval needs at least 1 query but got 0; score more samples together.",
    ),
    (
        top_k_accuracy,
        {"own": [0, 1, 2, 4]},
        "own must name one of the 4 rows of the gallery for each of 4 queries but is int64 of shape (4,), 0..4; "
        "pass row numbers from 0.",
    ),
    (
        top_k_accuracy,
        {"own": [0.0]},
        "own must name one of the 4 rows of the gallery for each of 4 queries but is float64 of shape (1,), 0.0..0.0; "
        "pass row numbers from 0.",
    ),
    (
        top_k_accuracy,
        {"queries": np.full((4, 16), np.nan)},
        "queries must be finite but 4 of 4 rows hold NaN or infinity; find out which broke.",
    ),
    (
        top_k_accuracy,
        {"gallery": features(4, 9)},
        "features must be equally wide but queries has 16, gallery has 9; extract all of them with the same extractor.",
    ),
    (
        top_k_accuracy,
        {"queries": np.zeros(4)},
        "queries must be (n_samples, n_features) but has shape (4,); pass one row a sample.",
    ),
    (
        csls_top_k_accuracy,
        {},
        "CSLS needs at least as many queries as neighbours, but got 4 and 10; score more queries together.",
    ),
    (
        transductive_assignment_accuracy,
        {"own": [0, 1, 1, 1]},
        "an assignment gives each row to one query, but 4 queries share 2 rows; average the queries of a row first.",
    ),
]


@pytest.mark.parametrize(("retrieval", "changed", "sentence"), REFUSED)
def test_what_has_no_rank_is_refused(retrieval: Retrieval, changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        retrieval(**{**GIVEN, **changed})


def test_a_class_without_pictures_has_no_centre() -> None:
    sentence = "every class needs a picture to have a centre, but [1, 3] have none; use another gallery."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        class_centres(features=features(3), labels=[0, 2, 0], n_classes=4)


# ---- cards

CARDS = [card for card in registry.metrics.cards() if card.function.startswith("zoo.metrics.retrieval:")]
QUERIES = {"queries": "generated", "own": "own"}
"""What stands for EEG, and for which picture is whose."""
SIZED = [card for card in CARDS if "size" in card.params]


@pytest.mark.parametrize("card", [card for card in CARDS if card not in SIZED], ids=lambda card: card.id)
def test_cards_start_where_the_function_begins_to_answer(card: MetricCard) -> None:
    """One generated image per picture, as many as ``min_n``: identity is best, and one image fewer is refused."""
    function = registry.load_object(card.function)

    def score(n: int) -> Score:
        shown, classes = features(n), np.arange(n) % 3
        arrays = {"generated": 2 * shown, "reference": shown, "own": np.arange(n), "labels": classes, "n_classes": 3}
        arrays |= {"known": features(3), "known_labels": np.arange(3), "gallery": shown}
        arrays |= {f"{level}_{what}": arrays[of] for level in ("mean", "trial") for what, of in QUERIES.items()}
        found: Score = function(**{name: arrays[array] for name, array in card.needs.items()}, **card.params)
        return found

    if "known" in card.needs.values():
        assert 0 <= score(card.min_n).value <= 1
    else:
        assert score(card.min_n).value == card.best == 1
    with pytest.raises(UsageError):
        score(card.min_n - 1)


@pytest.mark.parametrize("card", SIZED, ids=lambda card: card.id)
def test_a_size_in_a_name_is_that_of_the_gallery(card: MetricCard) -> None:
    function, shown = registry.load_object(card.function), features(200)
    assert function(queries=2 * shown, gallery=shown, own=np.arange(200), **card.params).value == card.best == 1
    message = "the gallery must hold 200 pictures but holds 199; use a metric that names no size."
    with pytest.raises(UsageError, match=f"^{message}$"):
        function(queries=shown, gallery=shown[1:], own=np.arange(200), **card.params)


def test_every_function_has_its_cards() -> None:
    assert {card.function.rpartition(":")[2] for card in CARDS} == {
        "top_k_accuracy", "mean_reciprocal_rank", "median_rank", "k_way_accuracy", "class_top_k_accuracy",
        "csls_top_k_accuracy", "transductive_sinkhorn_accuracy", "transductive_assignment_accuracy",
        "sized_top_k_accuracy",
    }  # fmt: skip
    assert {card.extractor for card in CARDS} == {"efficientnet-lite0", "clip-vit-l14", "dinov2-vitl14", None}
    transductive = {card.id for card in CARDS if "transductive" in card.function}
    assert transductive == {card.id for card in CARDS if "transductive" in card.id}

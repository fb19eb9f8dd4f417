"""Agreement of k-means clusters with classes, their chance, and the silhouette of the classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics.base import Score
from zoo.metrics.clustering import (
    adjusted_rand_index,
    class_silhouette,
    hungarian_accuracy,
    kmeans_accuracy,
    kmeans_ari,
    kmeans_clusters,
    kmeans_nmi,
    normalised_mutual_information,
)

AGREEMENTS = [hungarian_accuracy, normalised_mutual_information, adjusted_rand_index]
KMEANS = [kmeans_accuracy, kmeans_nmi, kmeans_ari]


def blobs(n_each: int, spread: float, *, classes: int = 5, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), n_each)
    return 3 * rng.standard_normal((classes, width))[labels] + spread * rng.standard_normal(
        (len(labels), width)
    ), labels


@pytest.mark.parity
def test_hungarian_accuracy_is_the_published_one(shared: Path) -> None:
    with np.load(shared / "fixtures" / "eegstylegan_losses.npz") as fixture:
        score = hungarian_accuracy(clusters=fixture["cluster_pred"], labels=fixture["cluster_true"])
        assert score.value == float(fixture["cluster_acc"])


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_names_of_clusters_and_order_do_not_matter(agreement: Callable[..., Score]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 90)
    clusters = np.where(rng.random(90) < 0.6, labels, rng.integers(0, 7, 90))
    value = agreement(clusters=clusters, labels=labels).value
    order = rng.permutation(90)
    renamed = rng.permutation(7)[clusters]
    assert agreement(clusters=renamed[order], labels=labels[order]).value == pytest.approx(value, abs=1e-12)
    assert agreement(clusters=labels[::-1], labels=labels[::-1]).value == pytest.approx(1.0, abs=1e-12)
    assert 0.2 < value < 0.9


def test_each_sample_says_whether_its_cluster_is_its_class() -> None:
    score = hungarian_accuracy(clusters=[5, 5, 5, 0, 0, 1], labels=[0, 0, 1, 1, 1, 0])
    assert score.per_unit is not None
    assert score.per_unit.tolist() == [1, 1, 0, 1, 1, 0]
    assert score.value == score.per_unit.mean()


def test_one_cluster_is_one_class() -> None:
    assert hungarian_accuracy(clusters=np.zeros(12, int), labels=np.tile(np.arange(4), 3)).value == 0.25


def entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def test_agreements_are_their_textbook_formulas() -> None:
    """From the table of counts: mutual information over mean entropy; joined pairs over what chance would join."""
    rng = np.random.default_rng(1)
    labels, clusters = rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    clusters[:120] = labels[:120]
    table = np.zeros((6, 4))
    np.add.at(table, (clusters, labels), 1)
    rows, columns = table.sum(1), table.sum(0)
    shared = entropy(rows) + entropy(columns) - entropy(table.ravel())
    nmi = shared / ((entropy(rows) + entropy(columns)) / 2)
    assert normalised_mutual_information(clusters=clusters, labels=labels).value == pytest.approx(nmi, rel=1e-12)
    joined, by_row, by_column = ((x * (x - 1) / 2).sum() for x in (table, rows, columns))
    expected = by_row * by_column / (200 * 199 / 2)
    ari = (joined - expected) / ((by_row + by_column) / 2 - expected)
    assert adjusted_rand_index(clusters=clusters, labels=labels).value == pytest.approx(ari, rel=1e-12)


@pytest.mark.parametrize("agreement", [hungarian_accuracy, normalised_mutual_information])
def test_chance_is_what_unrelated_labels_score(agreement: Callable[..., Score]) -> None:
    """Above 1 / classes and above 0: the reason why it is measured."""
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 8, 160)
    scores = [agreement(clusters=clusters, labels=rng.permutation(np.arange(160) % 8)) for _ in range(12)]
    values, chances = [score.value for score in scores], [score.detail["chance"] for score in scores]
    assert np.mean(chances) == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(12))
    assert min(chances) > (1.4 / 8 if agreement is hungarian_accuracy else 0.02)
    assert max(chances) - min(chances) < np.std(values)  # a mean over 100 permutations scatters less than one


def test_adjusted_rand_index_of_unrelated_labels_is_0() -> None:
    rng = np.random.default_rng(3)
    clusters, labels = rng.integers(0, 8, 160), np.arange(160) % 8
    values = [adjusted_rand_index(clusters=clusters, labels=rng.permutation(labels)).value for _ in range(200)]
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / np.sqrt(200))


@pytest.mark.parametrize("metric", KMEANS)
def test_separate_classes_are_found(metric: Callable[..., Score]) -> None:
    features, labels = blobs(20, 0.1)
    assert metric(features=features, labels=labels, n_classes=5).value == 1.0


@pytest.mark.parametrize(("metric", "chance"), [(kmeans_accuracy, 0.2), (kmeans_nmi, 0.0), (kmeans_ari, 0.0)])
def test_a_constant_encoder_scores_chance(metric: Callable[..., Score], chance: float) -> None:
    score = metric(features=np.ones((100, 8)), labels=np.repeat(np.arange(5), 20), n_classes=5)
    assert score.value == chance
    assert score.detail.get("chance", chance) == pytest.approx(chance, abs=1e-15)


@pytest.mark.parametrize("metric", KMEANS)
def test_noise_only_lowers_it(metric: Callable[..., Score]) -> None:
    values = [
        metric(features=features, labels=labels, n_classes=5).value
        for features, labels in (blobs(40, spread) for spread in (0.1, 2, 4, 20))
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] < 0.4


def test_one_clustering_serves_all_three() -> None:
    features, labels = blobs(40, 3.0)
    given = {"features": features, "labels": labels, "n_classes": 5}
    clusters = kmeans_clusters(features=features, n_classes=5)
    score = kmeans_accuracy(**given)
    assert score.value == hungarian_accuracy(clusters=clusters, labels=labels).value
    assert score.detail["nmi"] == kmeans_nmi(**given).value
    assert score.detail["ari"] == kmeans_ari(**given).value
    assert 1 / 5 < score.detail["chance"] < score.value < 1


def test_it_is_scikit_learn_with_ten_starts_on_raw_features() -> None:
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    features, labels = blobs(40, 3.0)
    features *= [1, 100, 1, 1, 1, 1, 1, 1]  # scaling would matter
    found = KMeans(5, n_init=10, random_state=45).fit_predict(features)
    table = np.array([[np.sum((found == i) & (labels == j)) for j in range(5)] for i in range(5)])
    rows, columns = linear_sum_assignment(-table)
    score = kmeans_accuracy(features=features, labels=labels, n_classes=5)
    assert score.value == table[rows, columns].sum() / 200
    assert score.value < 1


@pytest.mark.parametrize("metric", KMEANS)
@pytest.mark.parametrize(
    ("features", "labels", "sentence"),
    [
        (np.zeros((4, 2)), [0, 1, 2, 3], "features must have at least 5 rows but has 4; score more samples together."),
        (
            np.full((5, 2), np.nan),
            [0] * 5,
            "features must be finite but 5 of 5 rows hold NaN or infinity; find out which broke.",
        ),
        (np.zeros((5, 2)), [5] * 5, "labels must be in 0..4 but spans 5..5; pass concept indices."),
    ],
)
def test_what_cannot_be_clustered_is_refused(
    metric: Callable[..., Score], features: np.ndarray, labels: list[int], sentence: str
) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(features=features, labels=labels, n_classes=5)


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_no_samples_have_no_agreement(agreement: Callable[..., Score]) -> None:
    sentence = "an agreement of clusters with classes needs at least 1 sample but got 0; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        agreement(clusters=[], labels=[])


# ---- silhouette


def test_silhouette_is_rousseeuws_formula() -> None:
    features, labels = blobs(7, 2.0, classes=4)
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    by_hand = []
    for row, own in enumerate(labels):
        means = [distances[row, (labels == other) & (np.arange(28) != row)].mean() for other in range(4)]
        a, b = means[own], min(mean for other, mean in enumerate(means) if other != own)
        by_hand.append((b - a) / max(a, b))
    score = class_silhouette(features=features, labels=labels)
    assert score.per_unit == pytest.approx(np.array(by_hand), abs=1e-7)  # scikit-learn takes distances by products
    assert score.value == pytest.approx(np.mean(by_hand), abs=1e-7)


def test_classes_apart_have_silhouette_1_and_noise_only_lowers_it() -> None:
    values = [class_silhouette(features=x, labels=y).value for x, y in (blobs(30, s) for s in (1e-6, 0.5, 2, 10))]
    assert values[0] == pytest.approx(1.0, abs=1e-4)
    assert values == sorted(values, reverse=True)
    assert abs(values[-1]) < 0.1


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
def test_a_constant_encoder_has_silhouette_0(constant: float) -> None:
    assert class_silhouette(features=np.full((60, 8), constant), labels=np.arange(60) % 3).value == 0.0


def test_scale_place_and_order_change_no_silhouette(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(30, 2.0)
    whole = class_silhouette(features=features, labels=labels).value
    order = np.random.default_rng(0).permutation(150)
    assert class_silhouette(features=100 * features[order] + 7, labels=labels[order]).value == pytest.approx(whole)
    monkeypatch.setattr("zoo.metrics.clustering._SILHOUETTE_MB", 1e-2)  # a few rows of distances at a time
    assert class_silhouette(features=features, labels=labels).value == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([1, 1, 1, 1], "a silhouette needs at least 2 classes and fewer than samples but got 1 of 4; "),
        ([0, 1, 2, 3], "a silhouette needs at least 2 classes and fewer than samples but got 4 of 4; "),
    ],
)
def test_silhouettes_need_classes_of_several(labels: list[int], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}score more samples together.$"):
        class_silhouette(features=np.eye(4), labels=labels)


# ---- cards


@pytest.mark.parametrize("name", ["kmeans_accuracy", "kmeans_nmi", "kmeans_ari", "class_silhouette"])
def test_cards_name_what_the_functions_take(name: str) -> None:
    card = registry.metrics.get(name)
    features, labels = blobs(20, 0.01)
    arrays = {"test_features": features, "test_labels": labels, "n_classes": 5}
    score = registry.load_object(card.function)(**{to: arrays[array] for to, array in card.needs.items()})
    assert score.value == pytest.approx(1.0, abs=0.01)
    assert (score.per_unit is not None) == (card.interval == "cluster")

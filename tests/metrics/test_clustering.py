"""k-means and the Hungarian naming of clusters."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from zoo.errors import UsageError
from zoo.metrics.clustering import hungarian_accuracy, kmeans_accuracy


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


def test_names_of_clusters_do_not_matter() -> None:
    labels = np.repeat(np.arange(7), 3)
    renamed = np.random.default_rng(0).permutation(7)[labels]
    assert hungarian_accuracy(clusters=renamed, labels=labels).value == 1.0


def test_each_sample_says_whether_its_cluster_is_its_class() -> None:
    score = hungarian_accuracy(clusters=[5, 5, 5, 0, 0, 1], labels=[0, 0, 1, 1, 1, 0])
    assert score.per_unit is not None
    assert score.per_unit.tolist() == [1, 1, 0, 1, 1, 0]
    assert score.value == score.per_unit.mean()


def test_one_cluster_is_one_class() -> None:
    assert hungarian_accuracy(clusters=np.zeros(12, int), labels=np.tile(np.arange(4), 3)).value == 0.25


def test_separate_classes_are_found() -> None:
    features, labels = blobs(20, 0.1)
    assert kmeans_accuracy(features=features, labels=labels, n_classes=5).value == 1.0


def test_a_constant_encoder_scores_chance() -> None:
    labels = np.repeat(np.arange(5), 20)
    assert kmeans_accuracy(features=np.ones((100, 8)), labels=labels, n_classes=5).value == 0.2


def test_noise_only_lowers_it() -> None:
    values = [
        kmeans_accuracy(features=features, labels=labels, n_classes=5).value
        for features, labels in (blobs(60, spread) for spread in (0.1, 2, 4, 20))
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] < 0.4


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
def test_what_cannot_be_clustered_is_refused(features: np.ndarray, labels: list[int], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        kmeans_accuracy(features=features, labels=labels, n_classes=5)


def test_no_samples_have_no_accuracy() -> None:
    sentence = "hungarian_accuracy needs at least 1 sample but got 0; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        hungarian_accuracy(clusters=[], labels=[])

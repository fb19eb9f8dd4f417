"""Inception Score: closed forms, torch-fidelity on the same logits, and the sampling of three papers step by step."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from zoo.errors import UsageError
from zoo.metrics.base import Score
from zoo.metrics.inception import (
    inception_score,
    inception_score_eeg2image,
    inception_score_nvlabs,
    inception_score_thoughtviz,
)


def random_logits(n: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.asarray(3 * np.random.default_rng(seed).standard_normal((n, classes)))


def by_hand(logits: np.ndarray, splits: int) -> np.ndarray:
    """exp(mean KL(p, mean p)) of consecutive splits, as the papers write it."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    parts = [p[split * len(p) // splits : (split + 1) * len(p) // splits] for split in range(splits)]
    return np.array([np.exp((part * np.log(part / part.mean(0))).sum(1).mean()) for part in parts])


def assert_is(found: Score, values: np.ndarray) -> None:
    assert (found.value, found.detail["split_std"]) == pytest.approx((values.mean(), values.std()), rel=1e-10)


# ---- closed forms


def test_it_spans_one_to_the_number_of_classes() -> None:
    certain = np.repeat(100.0 * np.eye(8), 5, axis=0)
    assert inception_score(logits=certain, splits=1).value == pytest.approx(8.0, rel=1e-9)
    assert_is(inception_score(logits=np.zeros((40, 8)), splits=2), np.ones(2))
    alike = np.tile(np.arange(8.0), (40, 1))
    assert inception_score(logits=alike, splits=2).value == pytest.approx(1.0, rel=1e-12)


def test_sorted_images_collapse_without_shuffling() -> None:
    by_class = np.repeat(100.0 * np.eye(10), 10, axis=0)
    assert inception_score(logits=by_class, shuffle=False).value == pytest.approx(1.0, abs=1e-9)
    assert inception_score(logits=by_class).value > 4


def test_predictions_as_certain_as_float64_allows_are_no_trouble() -> None:
    certain = np.repeat(1e4 * np.eye(4), 5, axis=0)
    assert inception_score(logits=certain, splits=1).value == pytest.approx(4.0, rel=1e-12)


# ---- torch-fidelity, given the same logits


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("n", "splits"), [(73, 5), (2500, 2)])
def test_it_is_torch_fidelity_isc(n: int, splits: int, shuffle: bool) -> None:
    """Also where a split is more than one block of rows."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = random_logits(n, 20)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=shuffle, rng_seed=7)
    ours = inception_score(logits=logits, splits=splits, shuffle=shuffle, seed=7)
    expected = (theirs["inception_score_mean"], theirs["inception_score_std"])
    assert (ours.value, ours.detail["split_std"]) == pytest.approx(expected, rel=1e-9)


def test_order_within_a_split_changes_nothing() -> None:
    logits = random_logits(60, 9)
    order = np.random.default_rng(1).permutation(60)
    whole = inception_score(logits=logits, splits=1).value
    assert inception_score(logits=logits[order], splits=1).value == pytest.approx(whole, rel=1e-12)


def test_noise_makes_predictions_flat() -> None:
    """Certain predictions of ten classes, mixed with more and more of one flat prediction."""
    certain = np.repeat(np.eye(10), 20, axis=0)
    values = [inception_score(logits=np.log(certain * (1 - w) + w / 10 + 1e-12)).value for w in (0, 0.25, 0.5, 1)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1.0, abs=1e-9)


# ---- as three papers sampled it


def test_eeg2image_counts_each_trial_as_often_as_its_class_is_rare() -> None:
    """Two replicates of five trials: three of class 1, two of class 0; seven images wanted of each class."""
    replicates = random_logits(20, 6).reshape(2, 10, 6)
    labels = np.array([1, 0, 1, 0, 1] * 2)
    trials = {0: [1, 3, 6, 8], 1: [0, 2, 4, 5, 7, 9]}
    order = [(copy % 2, trial) for c in (0, 1) for trial in trials[c] for copy in range(-(-7 // len(trials[c])))]
    sampled = np.array([replicates[k, trial] for k, trial in order])
    assert len(sampled) == 4 * 2 + 6 * 2
    found = inception_score_eeg2image(replicates=replicates, labels=labels, per_class=7)
    assert_is(found, by_hand(sampled, 10))


def test_eeg2image_order_puts_one_of_ten_classes_in_a_split() -> None:
    """Which is why images that differ between classes only score 1, as do those that are all alike."""
    labels = np.repeat(np.arange(10), np.arange(2, 12))
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = 100.0 * np.eye(10)[labels[order]]
    assert inception_score_eeg2image(replicates=by_class[None], labels=labels[order]).value == pytest.approx(1, abs=0.2)
    equal = np.tile(np.arange(10), 4)
    found = inception_score_eeg2image(replicates=100.0 * np.eye(10)[equal][None], labels=equal)
    assert found.value == pytest.approx(1, abs=1e-9)
    assert inception_score_thoughtviz(replicates=100.0 * np.eye(10)[equal][None], labels=equal).value > 9.9


def test_thoughtviz_draws_classes_uniformly_and_stylegan_trials() -> None:
    """One class has ten times the trials of the other: its share is a half for one and ten elevenths for the other."""
    labels = np.repeat([0, 1], [4, 40])
    certain = 100.0 * np.eye(2)[labels][None]
    shares = {0.5: inception_score_thoughtviz(replicates=certain, labels=labels).value}
    shares[10 / 11] = inception_score_nvlabs(replicates=certain).value
    for share, found in shares.items():
        entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
        assert found == pytest.approx(np.exp(entropy), rel=3e-3)  # 50,000 draws


def test_draws_are_of_all_images_and_seeded() -> None:
    """Large draws give the score of all replicates in one split."""
    replicates, labels = random_logits(60, 6).reshape(3, 20, 6), np.tile(np.arange(4), 5)
    whole = inception_score(logits=replicates.reshape(60, 6), splits=1).value
    for sample in (
        lambda seed: inception_score_thoughtviz(replicates=replicates, labels=labels, seed=seed),
        lambda seed: inception_score_nvlabs(replicates=replicates, seed=seed),
    ):
        assert sample(0).value == pytest.approx(whole, rel=1e-2)
        assert sample(0) == sample(0)
        assert sample(0) != sample(1)


# ---- refusals


def test_two_images_a_split_are_needed() -> None:
    sentence = "logits must have at least 20 rows but has 19; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        inception_score(logits=np.zeros((19, 5)))
    sentence = "inception_score needs at least 1 split but got 0; 10 is what papers use."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        inception_score(logits=np.zeros((19, 5)), splits=0)
    sentence = "replicates must have at least 20 rows but has 18; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        inception_score_nvlabs(replicates=np.zeros((2, 9, 5)))


def test_replicates_are_one_array_each() -> None:
    sentence = (
        "replicates must be (n_replicates, n_samples, n_classes) but has shape (30, 5); "
        "pass one (n_samples, n_classes) array a replicate."
    )
    for sample in (inception_score_thoughtviz, inception_score_eeg2image):
        with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
            sample(replicates=np.zeros((30, 5)), labels=np.zeros(30, int))
    with pytest.raises(
        UsageError, match=r"^labels must be 30 whole numbers, one per row, but is int64 of shape \(60,\);"
    ):
        inception_score_thoughtviz(replicates=np.zeros((2, 30, 5)), labels=np.zeros(60, int))
    broken = np.zeros((2, 30, 5))
    broken[1, 3, 0] = np.inf
    sentence = "replicates must be finite but 1 of 60 rows hold NaN or infinity; find out which broke."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        inception_score_nvlabs(replicates=broken)

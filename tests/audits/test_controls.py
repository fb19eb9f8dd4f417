"""Stand-ins for the brain keep what they promise."""

from __future__ import annotations

import re

import numpy as np
import pytest

from zoo.audits.controls import (
    GaussianEEG,
    class_oracle,
    mean_image,
    nearest_train,
    other_subject,
    random_codebook,
    real_vs_real,
    shuffled,
)
from zoo.errors import UsageError


def test_a_shuffle_is_a_permutation_decided_by_its_key() -> None:
    order = shuffled(100, "track")
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(order, shuffled(100, "track"))
    assert (order != shuffled(100, "other")).any()


def test_another_subject_is_anybody_else_whatever_they_saw() -> None:
    subjects = np.repeat(["01", "02", "03"], 400)
    chosen = other_subject(subjects, "track")
    assert (subjects[chosen] != subjects).all()
    np.testing.assert_array_equal(chosen, other_subject(subjects, "track"))
    assert (chosen != other_subject(subjects, "other")).any()
    labels = np.tile([0, 1], 600)
    assert np.mean(labels[chosen] == labels) == pytest.approx(0.5, abs=0.06)  # four standard errors of 1,200 draws
    assert np.bincount(chosen, minlength=1200).max() < 10  # uniform: nobody's trial stands for all


def test_another_subject_of_the_same_class_saw_that_class() -> None:
    subjects, labels = np.repeat(["01", "02", "03"], 40), np.tile(np.arange(4), 30)
    chosen = other_subject(subjects, "track", same=labels)
    assert (subjects[chosen] != subjects).all()
    np.testing.assert_array_equal(labels[chosen], labels)


def test_nobody_to_borrow_from_is_refused() -> None:
    message = "other-subject needs two people or more in the test role, but there is only 07."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        other_subject(np.full(5, "07"), "track")
    message = "other-subject needs two people or more in the test role that saw face, but there is only 01."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        other_subject(np.array(["01", "01", "02"]), "track", same=np.array(["face", "house", "house"]))
    message = "other-subject needs the subject of every test trial, but it is not known."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        other_subject(np.full(5, None), "track")


def test_gaussian_eeg_has_the_training_channels_scale_and_nothing_of_the_trials() -> None:
    rng = np.random.default_rng(0)
    offset, size = np.array([4.2e-3, -1e-3, 0.0]), np.array([1e-6, 5e-6, 2e-5])  # a large offset, as raw EPOC data have
    eeg = (offset[:, None] + size[:, None] * rng.standard_normal((900, 3, 32))).astype(np.float32)
    train, ids = np.arange(600), np.array([f"t{i}" for i in range(900)])
    eeg[600:] *= 7  # the test role must not matter
    noise = GaussianEEG(eeg, train, ids, "track")
    assert (noise.shape, len(noise), noise.dtype) == ((900, 3, 32), 900, np.float32)
    drawn = noise[np.arange(600, 900)].astype(np.float64)
    known = eeg[train].astype(np.float64)
    np.testing.assert_allclose(drawn.mean(axis=(0, 2)), known.mean(axis=(0, 2)), atol=4e-7)  # se of the widest: 2e-7
    np.testing.assert_allclose(drawn.std(axis=(0, 2)), known.std(axis=(0, 2)), rtol=0.03)  # se 0.7 %
    np.testing.assert_array_equal(noise[np.array([3, 1])][1], noise[np.arange(8)][1])  # rows do not depend on the batch
    assert (noise[np.arange(4)] != GaussianEEG(eeg, train, ids, "other")[np.arange(4)]).all()


def test_a_codebook_is_one_vector_per_class_spread_like_the_features() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(3, 3))
    features = (rng.normal(size=(700, 3)) @ mixing + [5.0, -2.0, 0.0]).astype(np.float32)
    labels = np.repeat(np.arange(4000), 2)
    book = random_codebook(features, labels, "track")
    assert (book.shape, book.dtype) == ((8000, 3), np.float32)
    np.testing.assert_array_equal(book[::2], book[1::2])
    np.testing.assert_allclose(book[::2].mean(axis=0), features.mean(axis=0), atol=0.2)  # 4,000 draws, se up to 0.04
    np.testing.assert_allclose(np.cov(book[::2].T), np.cov(features.T), atol=0.35)
    np.testing.assert_array_equal(random_codebook(features, np.array([9, 4]), "track")[1], book[8])  # of its class only
    assert (random_codebook(features, np.array([9]), "other") != book[18]).any()


def test_the_mean_image_is_the_mean_of_all_blocks_rounded() -> None:
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)
    expected = np.rint(pictures.astype(float).mean(axis=0)).astype(np.uint8)
    found = mean_image(pictures[start : start + 32] for start in range(0, 70, 32))
    assert (found.shape, found.dtype) == ((1, 3, 8, 8), np.uint8)
    np.testing.assert_array_equal(found[0], expected)
    with pytest.raises(UsageError, match="^mean-image needs a training picture, but there is none.$"):
        mean_image([])


@pytest.mark.parametrize("n", [7, 50, 120])
def test_real_pictures_stand_in_evenly(n: int) -> None:
    images = np.arange(100, 150)
    chosen = real_vs_real(n, images, "track")
    assert chosen.size == n
    used = np.bincount(chosen - 100, minlength=50)
    assert used.max() - used.min() <= 1
    np.testing.assert_array_equal(chosen, real_vs_real(n, images, "track"))
    assert (chosen != real_vs_real(n, images, "other")).any()


def test_the_oracle_knows_the_class_and_nothing_else() -> None:
    labels = np.tile([0, 1, 2], 100)
    image_labels = np.array([0, 0, 1, 1, 2, 2])
    chosen = class_oracle(labels, image_labels, np.arange(6), "track", 0)
    np.testing.assert_array_equal(image_labels[chosen], labels)
    assert set(chosen) == set(range(6))
    assert (chosen != class_oracle(labels, image_labels, np.arange(6), "track", 1)).any()


def test_the_nearest_is_by_angle_whatever_the_length_and_the_batch() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(50, 8))
    rows = rng.integers(0, 50, 700)
    scale = rng.uniform(0.1, 10, size=(700, 1))
    found = nearest_train(test_features=train[rows] * scale, train_features=train, picture_of_train=np.arange(50) * 2)
    np.testing.assert_array_equal(found, rows * 2)

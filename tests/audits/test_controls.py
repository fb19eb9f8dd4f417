"""Stand-ins for the brain keep what they promise."""

from __future__ import annotations

import numpy as np

from zoo.audits.controls import class_oracle, nearest_train, shuffled


def test_a_shuffle_is_a_permutation_decided_by_its_key() -> None:
    order = shuffled(100, "track")
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(order, shuffled(100, "track"))
    assert (order != shuffled(100, "other")).any()


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

"""Stand-ins for the brain: what a score must be compared with before it means anything."""

from __future__ import annotations

import numpy as np

from zoo.stats import keyed_rng


def shuffled(n: int, *key: str | int) -> np.ndarray:
    """A permutation of test trials: right EEG, wrong trial (``shuffled-eeg``)."""
    return keyed_rng("shuffled-eeg", *key).permutation(n)


def class_oracle(labels: np.ndarray, image_labels: np.ndarray, images: np.ndarray, *key: str | int) -> np.ndarray:
    """A random training picture of each trial's true class (``class-oracle``): all that class information can give.

    Shape:
        labels: (n_trials,); images: (n_images,) rows to choose from, with their image_labels.
        returns: (n_trials,) rows out of ``images``.
    """
    rng = keyed_rng("class-oracle", *key)
    chosen = np.empty(labels.size, dtype=np.int64)
    for concept in np.unique(labels):
        pool = images[image_labels == concept]
        chosen[labels == concept] = rng.choice(pool, size=int(np.sum(labels == concept)))
    return chosen


def nearest_train(*, test_features: np.ndarray, train_features: np.ndarray, picture_of_train: np.ndarray) -> np.ndarray:
    """The picture of the training trial with the most similar EEG features (``nearest-train``): no synthesis.

    Shape:
        test_features: (n, d); train_features: (m, d), cosine similarity; picture_of_train: (m,) rows of pictures.
        returns: (n,).
    """

    def unit(x: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)
        return scaled

    known = unit(train_features.astype(np.float64))
    best = np.concatenate(
        [
            np.argmax(unit(block.astype(np.float64)) @ known.T, axis=1)
            for block in np.array_split(test_features, max(1, len(test_features) // 256))
        ]
    )
    pictures: np.ndarray = picture_of_train[best]
    return pictures

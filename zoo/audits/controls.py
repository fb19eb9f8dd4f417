"""Stand-ins for the brain: what a score must be compared with before it means anything.

Every one is decided by its key (the track's id) and the data alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from zoo.errors import UsageError
from zoo.stats import keyed_rng

ROWS = 256
"""Rows in memory at a time."""


def shuffled(n: int, *key: str | int) -> np.ndarray:
    """A permutation of test trials: right EEG, wrong trial (``shuffled-eeg``).

    A score that this reaches comes from the generator and from the set of recordings as a whole, not from the trial.
    """
    return keyed_rng("shuffled-eeg", *key).permutation(n)


def other_subject(subjects: np.ndarray, *key: str | int, same: np.ndarray | None = None) -> np.ndarray:
    """For every test trial one of another person, drawn uniformly (``other-subject``).

    Without ``same`` nothing but the person is ruled out, so it is the shuffled control without trials of one's own: it
    is lower than that one where people, not pictures, decide the score. With ``same`` (classes, or stimulus ids) the
    other person saw the same thing: what the score keeps then is common to people, what it loses is the subject's own.

    Shape:
        subjects, same: (n_trials,); returns: (n_trials,) positions among these trials.
    Raises:
        UsageError: A trial has nobody to borrow from, or does not say whose it is.
    """
    if None in subjects.tolist():
        raise UsageError("other-subject needs the subject of every test trial, but it is not known.")
    group = np.zeros(subjects.size, dtype=np.int64) if same is None else np.unique(same, return_inverse=True)[1]
    rng = keyed_rng("other-subject", *key)
    chosen = np.empty(subjects.size, dtype=np.int64)
    for value in np.unique(group):
        rows = np.flatnonzero(group == value)
        for subject in np.unique(subjects[rows]):
            own = subjects[rows] == subject
            if own.all():
                what = "" if same is None else f" that saw {same[rows[0]]}"
                raise UsageError(
                    f"other-subject needs two people or more in the test role{what}, but there is only {subject}."
                )
            chosen[rows[own]] = rng.choice(rows[~own], size=int(own.sum()))
    return chosen


class GaussianEEG:
    """White noise in place of every trial, with the training role's mean and deviation per channel (``gaussian-eeg``).

    Indexed by rows of trials as the recordings are, and computed then; a trial's noise depends on key and id alone.
    A score that this reaches needs no EEG: it is the generator's, or that of the scale of the signal.

    Args:
        eeg: (n_trials, n_channels, n_times) recordings.
        train: Rows of the training role.
        ids: (n_trials,) trial ids.
        key: What the noise is drawn for.
    """

    def __init__(self, eeg: np.ndarray, train: np.ndarray, ids: np.ndarray, *key: str | int) -> None:
        self._eeg, self._train, self._ids, self._key = eeg, train, ids, key
        self.shape = eeg.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._eeg)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        mean, deviation = self._moments
        draw = (keyed_rng("gaussian-eeg", *self._key, str(self._ids[row])) for row in rows)
        noise = np.stack([rng.standard_normal(self.shape[1:]) for rng in draw])
        drawn: np.ndarray = (mean[:, None] + deviation[:, None] * noise).astype(self.dtype)
        return drawn

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every channel over training trials and times."""
        first = np.asarray(self._eeg[self._train[:ROWS]], dtype=np.float64).mean(axis=(0, 2), keepdims=True)
        total = square = 0.0
        for start in range(0, self._train.size, ROWS):
            # Without the offset, whose square would drown the variance.
            block = self._eeg[self._train[start : start + ROWS]] - first
            total, square = total + block.sum(axis=(0, 2)), square + (block**2).sum(axis=(0, 2))
        n = self._train.size * self.shape[2]
        mean = total / n
        return first[0, :, 0] + mean, np.sqrt(np.maximum(square / n - mean**2, 0))


def random_codebook(train_features: np.ndarray, labels: np.ndarray, *key: str | int) -> np.ndarray:
    """In place of EEG features one random vector per class (``random-codebook``): class, and no brain.

    Vectors are drawn from the normal distribution with mean and covariance of the training features. As targets of a
    regression such a codebook served as well as EEG did (Li et al., IEEE TPAMI 43:316-333, 2021). A classifier is right
    on it by construction, so only images made of it are worth scoring: how far a generator gets with one arbitrary,
    but constant, vector per class.

    Shape:
        train_features: (m, d); labels: (n,) of the test trials; returns: (n, d) in the type of the features.
    """
    classes, own = np.unique(labels, return_inverse=True)
    draws = np.stack([keyed_rng("random-codebook", *key, int(c)).standard_normal(len(train_features)) for c in classes])
    draws -= draws.mean(axis=1, keepdims=True)  # so that the features need not be centred first
    parts = range(0, len(train_features), ROWS)
    blocks = ((slice(start, start + ROWS), train_features[start : start + ROWS].astype(np.float64)) for start in parts)
    mean, spread = np.zeros(train_features.shape[1]), np.zeros((classes.size, train_features.shape[1]))
    for part, block in blocks:
        mean += block.sum(axis=0) / len(train_features)
        spread += draws[:, part] @ block
    codebook = mean + spread / np.sqrt(max(1, len(train_features) - 1))
    vectors: np.ndarray = codebook[own].astype(train_features.dtype)
    return vectors


def mean_image(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """The mean training picture (``mean-image``): the best constant answer for errors per pixel.

    Pixel metrics that it wins reward being vague; a set of it has no spread at all.

    Shape:
        pictures: blocks of (n, 3, height, width) uint8; returns: (1, 3, height, width) uint8, rounded.
    """
    n, total = 0, None
    for block in pictures:
        found = block.sum(axis=0, dtype=np.int64)
        n, total = n + len(block), found if total is None else total + found
    if total is None:
        raise UsageError("mean-image needs a training picture, but there is none.")
    mean: np.ndarray = np.rint(total / n).astype(np.uint8)[None]
    return mean


def real_vs_real(n: int, images: np.ndarray, *key: str | int) -> np.ndarray:
    """Training pictures as if they had been generated, each as often as any other (``real-vs-real``).

    Their distance to the test pictures is the floor at this n: what is left of a distance when every image is real. It
    holds what separates the roles too, e.g. other concepts.

    Shape:
        images: (n_images,) rows to choose from; returns: (n,) of them in random order.
    """
    rng = keyed_rng("real-vs-real", *key)
    rounds = [rng.permutation(images) for _ in range(-(-n // images.size))]
    return np.concatenate(rounds)[:n]


def class_oracle(labels: np.ndarray, image_labels: np.ndarray, images: np.ndarray, *key: str | int) -> np.ndarray:
    """A random training picture of each trial's true class (``class-oracle``): all that class information can give.

    Shape:
        labels: (n_trials,); images: (n_images,) rows to choose from, with their image_labels.
        returns: (n_trials,) rows out of ``images``.
    Raises:
        UsageError: A true class has no training picture, as where whole concepts are held out.
    """
    rng = keyed_rng("class-oracle", *key)
    chosen = np.empty(labels.size, dtype=np.int64)
    for concept in np.unique(labels):
        pool = images[image_labels == concept]
        if not pool.size:
            raise UsageError("class-oracle needs a training picture of every test class, but some are unseen.")
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

"""What the signal gives away: classifiers on features that say when, on whom or with what contact it was recorded.

``baseline``   level and size of every channel before onset, where the brain cannot know the picture yet
``means``      level of every channel over the whole window: offset and drift, and also slow evoked responses
``band_…_hz``  power and phase of every channel in one band, the bands of the debate on block designs

Only the first one is free of the brain's answer, so only that may decide a verdict (``zoo.audits.leakage``).
"""

from __future__ import annotations

import numpy as np

from zoo.specs import EEGSpec
from zoo.stats import keyed_rng

BANDS = ((0.0, 5.0), (5.0, 32.0), (32.0, 45.0), (55.0, 95.0))
"""Hz. Drift lies in the first, most of an evoked response in the second, muscles and the mains in the last two.

The upper three are those that Palazzo et al. (2020), arXiv 1810.10974, report accuracies of EEGCVPR40 for.
"""
BAND = "band_"
"""What the names of these questions begin with."""
WIDTH = 256
"""Features that a classifier sees at most; more are projected at random, which keeps distances."""
ROWS = 256
"""Trials in memory at a time."""


def signal_features(eeg: np.ndarray, rows: np.ndarray, spec: EEGSpec) -> dict[str, np.ndarray]:
    """Features by question, for the trials ``rows``.

    ``baseline`` is left out where fewer than two samples lie before onset, a band where the rate or the length of a
    window does not reach it. A band that the rate cuts off is named by what is left of it.

    Shape:
        eeg: (n_trials, n_channels, n_times), any array that gives rows.
        returns: (n_rows, n_features) float32 each.
    """
    blocks = [
        _features(np.asarray(eeg[rows[start : start + ROWS]], dtype=np.float64), spec)
        for start in range(0, rows.size, ROWS)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _features(trials: np.ndarray, spec: EEGSpec) -> dict[str, np.ndarray]:
    means = trials.mean(axis=2)
    found = {}
    before = round(-spec.tmin * spec.sfreq)
    if before >= 2:
        rest = trials[:, :, :before]
        found["baseline"] = np.concatenate([rest.mean(axis=2), _log(rest.var(axis=2))], axis=1)
    found["means"] = means
    taper = np.hanning(spec.n_times + 2)[1:-1]  # without its two zeros, which would waste samples of a short window
    spectrum = np.fft.rfft((trials - means[:, :, None]) * taper)
    frequency = np.fft.rfftfreq(spec.n_times, 1 / spec.sfreq)
    for low, high in BANDS:
        inside = spectrum[:, :, (frequency > 0) & (frequency >= low) & (frequency < high)]
        if inside.shape[2]:
            level = [means] if low == 0 else []  # the taper is laid over deviations from it
            waves = inside.reshape(len(trials), -1)
            found[f"{BAND}{low:g}-{min(high, spec.sfreq / 2):g}_hz"] = np.concatenate(
                [*level, _log((np.abs(inside) ** 2).sum(axis=2)), waves.real, waves.imag], axis=1
            )
    return {name: values.astype(np.float32) for name, values in found.items()}


def _log(power: np.ndarray) -> np.ndarray:
    logarithm: np.ndarray = np.log(power + np.finfo(np.float64).tiny)
    return logarithm


def predict(*, known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Classes by the better of two classifiers: a linear one, or the nearest known trial.

    Which one is better is tried on a quarter of the known trials. A response moves the mean of its class, which the
    first finds; blocks and recordings are clouds anywhere, which only the second does.

    Shape:
        known: (n, d) with labels (n,), at least two; asked: (m, d); returns: (m,).
    """
    centre, scale = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    known, asked = (known - centre) / scale, (asked - centre) / scale
    if known.shape[1] > WIDTH:
        turn = keyed_rng("audit", "projection", known.shape[1]).standard_normal((known.shape[1], WIDTH))
        known, asked = known @ turn / np.sqrt(WIDTH), asked @ turn / np.sqrt(WIDTH)
    tried = keyed_rng("audit", "trial", len(known)).permutation(len(known)) < max(1, len(known) // 4)
    right = [np.mean(rule(known[~tried], labels[~tried], known[tried]) == labels[tried]) for rule in (linear, nearest)]
    return (linear, nearest)[int(np.argmax(right))](known, labels, asked)


def linear(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis with one shrunken covariance for all classes.

    Unlike scikit-learn's, which shrinks within every class, it also works where a class has a single trial.

    References:
        Ledoit & Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices, for the shrinkage.
    """
    from sklearn.covariance import ledoit_wolf

    classes, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((classes.size, known.shape[1]))
    np.add.at(means, own, known)
    means /= counts[:, None]
    covariance = ledoit_wolf(known - means[own], assume_centered=True)[0]
    weights = np.linalg.solve(covariance + 1e-9 * np.eye(len(covariance)), means.T)
    score = asked @ weights - np.einsum("cd,dc->c", means, weights) / 2 + np.log(counts / counts.sum())
    named: np.ndarray = classes[score.argmax(axis=1)]
    return named


def nearest(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The class of the nearest known trial (Euclidean)."""
    from sklearn.metrics import pairwise_distances_argmin

    named: np.ndarray = labels[pairwise_distances_argmin(asked, known)]
    return named

"""Features say what they are called, and the classifiers find what is there and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.audits.confound import linear, nearest, predict, signal_features
from zoo.specs import EEGSpec

SPEC = EEGSpec(ch_names=("Cz", "Pz"), sfreq=256.0, tmin=-0.125, n_times=128)


def score(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(predict(known=known, labels=labels, asked=asked) == truth))


def test_questions_are_those_that_rate_and_length_allow() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 2, 128))
    bands = ["band_0-5_hz", "band_5-32_hz", "band_32-45_hz", "band_55-95_hz"]
    assert list(signal_features(noise, np.arange(4), SPEC)) == ["baseline", "means", *bands]
    slow = SPEC.model_copy(update={"sfreq": 128.0, "tmin": 0.0})
    assert list(signal_features(noise, np.arange(4), slow)) == ["means", *bands[:3], "band_55-64_hz"]


def test_blocks_of_rows_change_nothing() -> None:
    eeg = np.random.default_rng(1).normal(size=(600, 2, 128))
    rows = np.arange(599, -1, -1)
    whole = signal_features(eeg, rows, SPEC)
    for name, values in signal_features(eeg, rows[250:270], SPEC).items():
        np.testing.assert_array_equal(values, whole[name][250:270])


@pytest.mark.parametrize(
    ("hertz", "band"), [(2.0, "0-5"), (12.0, "5-32"), (40.0, "32-45"), (70.0, "55-95")], ids=lambda x: str(x)
)
def test_a_rhythm_is_told_by_its_own_band(hertz: float, band: str) -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(600) % 2
    phase = rng.uniform(0, 2 * np.pi, (600, 1, 1))  # not locked to onset, so only its power tells
    wave = np.sin(2 * np.pi * hertz * np.arange(128) / 256 + phase)
    eeg = rng.normal(size=(600, 2, 128)) + 1.5 * labels[:, None, None] * wave
    found = signal_features(eeg, np.arange(600), SPEC)
    told = {
        name: score(values[:400], labels[:400], values[400:], labels[400:])
        for name, values in found.items()
        if name.startswith("band")
    }
    assert max(told, key=lambda name: told[name]) == f"band_{band}_hz"
    assert told[f"band_{band}_hz"] > 0.9


def test_an_evoked_response_does_not_reach_the_baseline_and_an_offset_does() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(600) % 2
    noise = rng.normal(size=(600, 2, 128))
    evoked, drifting = noise.copy(), noise + labels[:, None, None]
    evoked[:, :, 32:] += 3 * labels[:, None, None]  # from onset on
    for eeg, expected in ((evoked, 0.5), (drifting, 1.0)):
        values = signal_features(eeg, np.arange(600), SPEC)["baseline"]
        assert score(values[:400], labels[:400], values[400:], labels[400:]) == pytest.approx(expected, abs=0.11)


def test_the_size_of_the_baseline_tells_too() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(600) % 2
    eeg = rng.normal(size=(600, 2, 128)) * (1 + labels[:, None, None])  # tense muscles in one class
    values = signal_features(eeg, np.arange(600), SPEC)["baseline"]
    assert score(values[:400], labels[:400], values[400:], labels[400:]) > 0.95


def test_the_better_classifier_answers() -> None:
    rng = np.random.default_rng(5)
    centre = rng.normal(size=(100, 6)) * 10  # a hundred blocks anywhere: only neighbours know their class
    block = np.tile(np.arange(100), 12)
    cloud, label = centre[block] + rng.normal(size=(1200, 6)), block % 4
    half = np.arange(1200) < 600
    assert np.mean(linear(cloud[half], label[half], cloud[~half]) == label[~half]) < 0.5
    assert score(cloud[half], label[half], cloud[~half], label[~half]) == 1
    wide = rng.normal(size=(1200, 60))
    wide[:, :4] += 2 * np.eye(4)[label]  # one mean per class in much noise
    assert np.mean(nearest(wide[half], label[half], wide[~half]) == label[~half]) < 0.55
    assert score(wide[half], label[half], wide[~half], label[~half]) > 0.7


def test_linear_is_the_discriminant_of_scikit_learn_where_nothing_is_shrunken() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 60_000)
    known = rng.normal(size=(60_000, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=(3, 4))[labels]
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(known, labels).predict(known)
    assert np.mean(linear(known, labels, known) == theirs) > 0.999  # the shrinkage vanishes with the number of trials


def test_classes_of_one_trial_and_features_that_never_change_are_no_trouble() -> None:
    rng = np.random.default_rng(7)
    known = np.concatenate([rng.normal(size=(40, 3)), np.full((40, 2), 4.2e-3)], axis=1)
    named = predict(known=known, labels=np.arange(40), asked=known)
    assert np.mean(named == np.arange(40)) == 1
    assert set(predict(known=np.ones((8, 2)), labels=np.zeros(8, int), asked=np.ones((3, 2)))) == {0}


def test_many_features_are_projected_and_still_tell() -> None:
    rng = np.random.default_rng(8)
    labels = np.arange(800) % 2
    wide = rng.normal(size=(800, 1500)) + 0.3 * labels[:, None] * rng.choice([-1, 1], 1500)
    assert score(wide[:600], labels[:600], wide[600:], labels[600:]) > 0.95

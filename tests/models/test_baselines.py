"""Baselines: they name what scikit-learn and pyriemann name, from tensors alone, and see what they are meant to see."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zoo
from zoo.errors import MissingError, UsageError
from zoo.models.baselines import Baseline, TangentSpace, build, recipes
from zoo.specs import EEGSpec
from zoo.training import TrainingData, fit

KINDS = ("band-power", "riemann", "window-mean", "erp")


def spec(n_channels: int = 4, n_times: int = 50, sfreq: float = 100) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=sfreq, tmin=0, n_times=n_times)


def recordings(n: int = 120, n_classes: int = 3, seed: int = 0) -> TrainingData:
    """Volts with an offset, in which class moves amplitude, offset and a wave."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    noise = rng.standard_normal((n, 4, 50)) * (1 + 0.4 * labels[:, None, None] * np.eye(4)[0][:, None])
    wave = np.sin(np.arange(50) * 2 * np.pi * (3 + 5 * labels[:, None, None]) / 100)
    offset = 400 + rng.standard_normal((n, 4, 1)) + labels[:, None, None]
    eeg = ((noise + 0.5 * wave + offset) * 1e-5).astype(np.float32)
    return TrainingData(eeg, labels, np.arange(n // 2), np.arange(n // 2, n), n_classes=n_classes)


def solved(kind: str, data: TrainingData, folder: Path, **overrides: Any) -> Baseline:
    torch.manual_seed(0)
    model = build(spec(), kind=kind, **{"n_classes": data.n_classes, "max_trials": 100, **overrides})
    (recipe,) = recipes(model, data, seed=0)
    fit(recipe, folder / kind, seed=0)
    return model.eval()


def evidence(model: Baseline, eeg: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model.classify(torch.from_numpy(eeg)).numpy()
    return found


# --- the same as the libraries' own ----------------------------------------------------------------------------------


def band_power(eeg: np.ndarray) -> np.ndarray:
    """By hand: 50 samples at 100 Hz have a frequency every 2 Hz, four, one, … of them in a band."""
    x = eeg.astype(float)
    x = (x - x.mean(axis=2, keepdims=True)) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(50) / 50))
    power = np.abs(np.fft.rfft(x)) ** 2
    edges = [slice(1, 2), slice(2, 4), slice(4, 7), slice(7, 15), slice(15, 23)]  # 2; 4 6; 8 10 12; 14 … 28; 30 … 44 Hz
    return np.log(np.stack([power[:, :, edge].mean(axis=2) for edge in edges], axis=2)).reshape(len(eeg), -1)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_band_power_is_scikit_learns_shrunk_lda(n_classes: int, tmp_path: Path) -> None:
    """To 1e-3 of evidence in the tens: features are handed on in float32."""
    data = recordings(n_classes=n_classes)
    model = solved("band-power", data, tmp_path)
    theirs = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    theirs.fit(band_power(data.eeg[data.train]), data.labels[data.train])
    wanted = theirs.decision_function(band_power(data.eeg[data.val]))
    found = evidence(model, data.eeg[data.val])
    found = found[:, 1] - found[:, 0] if n_classes == 2 else found
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    named = theirs.predict(band_power(data.eeg[data.val]))
    assert np.array_equal(evidence(model, data.eeg[data.val]).argmax(axis=1), named)
    assert np.mean(named == data.labels[data.val]) > 0.6


@pytest.mark.parametrize("n_classes", [2, 3])
def test_riemann_is_pyriemanns_tangent_space_and_scikit_learns_logistic_regression(
    n_classes: int, tmp_path: Path
) -> None:
    """Features to 1e-5, since they are float32; probabilities to 1e-3, since the two fits end a little apart."""
    pytest.importorskip("pyriemann", reason="needs the extra riemann")
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace as Theirs

    data = recordings(n_classes=n_classes)
    model = solved("riemann", data, tmp_path)
    theirs = make_pipeline(Covariances("oas"), Theirs(metric="riemann"))
    train, test = (
        theirs.fit_transform(data.eeg[data.train].astype(float)),
        theirs.transform(data.eeg[data.val].astype(float)),
    )
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(data.eeg[data.val])).numpy()
    np.testing.assert_allclose(features, test, atol=1e-5)
    logistic = LogisticRegression(max_iter=1000).fit(train, data.labels[data.train])
    wanted, found = logistic.predict_proba(test), torch.from_numpy(evidence(model, data.eeg[data.val])).softmax(1)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3)
    assert np.array_equal(found.argmax(dim=1).numpy(), logistic.predict(test))
    assert np.mean(logistic.predict(test) == data.labels[data.val]) > 0.6


def test_covariances_are_shrunk_as_scikit_learn_shrinks_them() -> None:
    rng = np.random.default_rng(0)
    eeg = rng.standard_normal((4, 5, 12)) * np.array([1e-6, 1e-5, 1, 100])[:, None, None]
    eeg[0, 0] *= 30  # so that shrinkage is partial somewhere
    found = TangentSpace.covariances(torch.from_numpy(eeg)).numpy()
    for mine, trial in zip(found, eeg, strict=True):
        wanted, shrinkage = oas(trial.T)
        np.testing.assert_allclose(mine, wanted, rtol=1e-9)
        assert 0 < shrinkage <= 1


def test_window_mean_is_scikit_learns_vote_of_neighbours(tmp_path: Path) -> None:
    data = recordings()
    model = solved("window-mean", data, tmp_path)
    theirs = make_pipeline(StandardScaler(), KNeighborsClassifier(5, algorithm="brute"))
    mean = data.eeg.astype(float).mean(axis=2)
    theirs.fit(mean[data.train], data.labels[data.train])
    np.testing.assert_allclose(evidence(model, data.eeg[data.val]), theirs.predict_proba(mean[data.val]), atol=1e-6)
    assert np.array_equal(evidence(model, data.eeg[data.val]).argmax(axis=1), theirs.predict(mean[data.val]))


def test_erp_is_scikit_learns_nearest_centroid(tmp_path: Path) -> None:
    data = recordings()
    model = solved("erp", data, tmp_path)
    x = data.eeg.astype(float)
    x = (x - x.mean(axis=2, keepdims=True)).reshape(len(x), -1)
    theirs = make_pipeline(StandardScaler(), NearestCentroid()).fit(x[data.train], data.labels[data.train])
    found = evidence(model, data.eeg[data.val])
    scaled = theirs[0].transform(x[data.val])
    apart = ((scaled[:, None] - theirs[1].centroids_) ** 2).sum(axis=2)
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True), (apart.mean(axis=1, keepdims=True) - apart) / 2, atol=1e-3
    )
    assert np.array_equal(found.argmax(axis=1), theirs.predict(x[data.val]))


# --- what each can see -----------------------------------------------------------------------------------------------


def only(what: str) -> TrainingData:
    """Noise in which class is nothing but an offset, a power, a shared source or an evoked wave."""
    rng = np.random.default_rng(1)
    labels = np.arange(240) % 3
    eeg = rng.standard_normal((240, 4, 50))
    if what == "offset":
        eeg += 3 * labels[:, None, None]
    elif what == "power":
        phase = rng.uniform(0, 2 * np.pi, (240, 4, 1))
        eeg += 2 * np.sin(np.arange(50) * 2 * np.pi * (2 + 8 * labels[:, None, None]) / 100 + phase)
    elif what == "mixing":  # a source without an offset, of the same power everywhere
        source = rng.standard_normal((240, 1, 50))
        source -= source.mean(axis=2, keepdims=True)
        signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]])
        eeg += 2 * source * signs[labels][:, :, None]
    else:
        eeg += 1.5 * np.sin(np.arange(50) * 2 * np.pi * 4 / 100 + 2 * labels[:, None, None])
    return TrainingData((eeg * 1e-5).astype(np.float32), labels, np.arange(160), np.arange(160, 240), n_classes=3)


@pytest.mark.parametrize(
    ("what", "seen_by"),
    [
        ("offset", {"window-mean"}),
        ("power", {"band-power"}),
        ("mixing", {"riemann"}),
        ("wave", {"erp"}),
    ],
)
def test_each_sees_what_it_is_meant_to_see(what: str, seen_by: set[str], tmp_path: Path) -> None:
    data = only(what)
    for kind in KINDS:
        found = evidence(solved(kind, data, tmp_path, max_trials=200), data.eeg[data.val]).argmax(axis=1)
        right = np.mean(found == data.labels[data.val])
        if kind in seen_by:
            assert right > 0.85, kind
        else:  # chance is 1/3, of 80 trials; four deviations above are 0.55
            assert right < 0.55, kind


def test_a_class_that_was_never_seen_is_never_named(tmp_path: Path) -> None:
    data = recordings(n_classes=2)
    for kind in KINDS:
        model = solved(kind, data, tmp_path, n_classes=4)
        found = evidence(model, data.eeg)
        assert found.shape == (len(data.eeg), 4)
        assert np.isfinite(found).all()
        assert set(found.argmax(axis=1)) == {0, 1}


def test_of_many_trials_evenly_spaced_ones_are_used(tmp_path: Path) -> None:
    data = recordings()
    model = solved("window-mean", data, tmp_path, max_trials=7)
    chosen = data.train[[0, 10, 20, 30, 39, 49, 59]]  # of 60, halves go to the even one
    assert int(model.classifier.kept) == 7  # type: ignore[arg-type]
    assert model.classifier.labels.tolist() == data.labels[chosen].tolist()  # type: ignore[operator, union-attr]


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_the_leak_detector_names_blocks_and_nothing_across_runs() -> None:
    """The phantom's blocks differ by offset alone; where whole runs are held out, chance (1/6) is left."""
    right = {}
    for split in ("block", "run-out"):
        zoo.train("baseline-window-mean", "phantom-block", split=split, device="cpu")
        model = zoo.load("baseline-window-mean")
        assert isinstance(model, Baseline)
        data = zoo.datasets.base.load("phantom-block")
        rows = np.flatnonzero(data.roles(data.split(split)) == "test")
        found = evidence(model, np.array(data.eeg[rows])).argmax(axis=1)
        right[split] = np.mean(found == data.labels[rows])
    assert right["block"] > 0.9
    assert right["run-out"] < 0.3


def test_a_solution_is_saved_as_tensors_and_does_not_depend_on_the_seed() -> None:
    paths = [zoo.train("baseline-erp", "phantom", seed=seed, device="cpu") for seed in (0, 1)]
    assert {path.suffix for path in paths[0].iterdir()} == {".safetensors", ".json", ".jsonl"}
    first, second = (zoo.load("baseline-erp", weights=path) for path in paths)
    assert first.config.n_classes == 6
    assert not [*first.parts()["encoder"].parameters()]  # fine-tuning leaves it alone: its scale may be a microvolt
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


# --- refusals --------------------------------------------------------------------------------------------------------


def test_training_riemann_without_pyriemann_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyriemann.tangentspace", None)
    message = "training baseline-riemann needs pyriemann.\nto install it, run: pip install 'eeg-image-zoo[riemann]'"
    with pytest.raises(MissingError, match=f"^{re.escape(message)}$"):
        solved("riemann", recordings(), tmp_path)


def test_one_class_is_refused() -> None:
    data = recordings()
    one = TrainingData(data.eeg, np.zeros_like(data.labels), data.train, data.val, n_classes=3)
    message = "training needs trials of two classes or more in the train role; choose another split."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(build(spec(), n_classes=3), one, seed=0)


def test_trials_too_short_for_any_band_are_refused() -> None:
    message = (
        "band-power needs trials in which a frequency of 1 to 45 Hz fits, but 8 samples at 1000 Hz have none; use "
        "another baseline."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(spec(4, 8, 1000))

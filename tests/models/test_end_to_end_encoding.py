"""End-to-end encoding: published sizes, and a picture's brightness learnt from noisy responses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo import registry, weights
from zoo.errors import UsageError
from zoo.models.end_to_end_encoding import build, recipes
from zoo.specs import EEGSpec
from zoo.training import TrainingData, fit

SPEC = EEGSpec(ch_names=("O1", "O2"), sfreq=100, tmin=0, n_times=3, unit="a.u.")
TINY = {"network": "timm:test_convnext", "resolution": 32, "learning_rate": 3e-3, "batch_size": 8, "passes": 8}


def bright(n: int = 32, repetitions: int = 4) -> TrainingData:
    """Plain grey pictures, half of them for training; responses are their brightness times a pattern, and noise."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, n)
    pattern = np.array([[1.0, -1.0, 0.5], [0.0, 2.0, -1.5]])
    shown = np.repeat(np.arange(n), repetitions)
    signal = (grey[shown] / 127.5 - 1)[:, None, None] * pattern
    pictures = [np.full((20, 20, 3), value, dtype=np.uint8) for value in grey]
    half = n // 2
    return TrainingData(
        eeg=(signal + 0.5 * rng.standard_normal(signal.shape)).astype(np.float32),
        labels=shown % 2,
        train=np.flatnonzero(shown < half),
        val=np.flatnonzero(shown >= half),
        n_classes=2,
        images=pictures[:half],
        image_labels=np.arange(half) % 2,
        image_of_trial=np.where(shown < half, shown, -1),
        val_images=pictures[half:],
        val_image_of_trial=np.where(shown >= half, shown - half, -1),
        subjects=np.full(shown.size, "01"),
    )


def test_parameters_are_counted_as_published() -> None:
    eeg = registry.datasets.get("things-eeg2").eeg
    assert eeg is not None

    def count(name: str, **overrides: object) -> int:
        with torch.device("meta"):
            model = weights.build(registry.models.get(name), eeg, dict(overrides))
        return sum(parameter.numel() for parameter in model.parameters())

    assert count("end-to-end-encoding") == 63_968_740
    assert count("end-to-end-encoding.resnet50") == 25_557_032 - 1000 * 2049 + 1700 * 2049
    one = 63_968_740 - (1700 - 17) * 4097
    tiny = EEGSpec(ch_names=eeg.ch_names, sfreq=100, tmin=0, n_times=2)
    with torch.device("meta"):
        pair = weights.build(registry.models.get("end-to-end-encoding.per-time"), tiny)
    assert [sum(p.numel() for p in net.parameters()) for net in pair.nets] == [one, one]  # type: ignore[union-attr]


def test_brightness_is_learnt_and_the_best_pass_on_validation_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, model = bright(), build(SPEC, **TINY)
    (recipe,) = recipes(model, data, seed=0)
    assert (recipe.n_steps, recipe.eval_every) == (16, 2)
    before = recipe.validate()
    fitted = fit(recipe, tmp_path, seed=0)
    assert fitted.best_score is not None
    assert fitted.best_score > before
    model.eval()
    assert recipe.validate() == pytest.approx(fitted.best_score, rel=1e-5)
    made = model.predict(model.pixels(data.val_images)).detach().numpy()
    truth = data.eeg[data.val].reshape(16, 4, 2, 3).mean(1)
    assert np.corrcoef(made[:, 1, 1], truth[:, 1, 1])[0, 1] > 0.5
    assert -recipe.validate() == pytest.approx(((made - truth) ** 2).mean(), rel=1e-4)


def test_one_network_a_time_answers_for_that_time_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, model = bright(), build(SPEC, **TINY | {"outputs": "single", "passes": 1})
    first, second, third = recipes(model, data, seed=0)
    assert [recipe.name for recipe in (first, second, third)] == ["network-000", "network-001", "network-002"]
    images = model.eval().pixels(data.images)
    before = model.predict(images).detach()
    fit(second, tmp_path, seed=0)
    after = model.eval().predict(images).detach()
    changed = (before != after).flatten(0, 1).any(0)
    assert changed.tolist() == [False, True, False]
    assert after.shape == (16, 2, 3)


def test_without_pictures_there_is_nothing_to_train_on() -> None:
    data = replace(bright(), images=[], image_of_trial=None)
    with pytest.raises(UsageError) as error:
        recipes(build(SPEC, **TINY), data, seed=0)
    assert str(error.value) == (
        "an encoding model needs train trials with known pictures, but there are none; "
        "prepare the dataset with pictures."
    )

"""Probes, the judge, and the fine-tuned head, on features and trials whose answer is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.metrics import recognition
from zoo.metrics.base import Score
from zoo.metrics.recognition import (
    classifier_accuracy,
    finetuned_accuracy,
    judge_accuracy,
    knn_accuracy,
    logistic_accuracy,
    svm_accuracy,
)

PROBES: list[Callable[..., Score]] = [svm_accuracy, knn_accuracy, logistic_accuracy]
CENTRES = 3 * np.random.default_rng(5).standard_normal((4, 6))


def blobs(n: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 4
    return CENTRES[labels] + spread * np.random.default_rng(seed).standard_normal((n, 6)), labels


def probe(function: Callable[..., Score], spread: float, *, scale: np.ndarray | float = 1.0) -> Score:
    (x, y), (test, true) = blobs(200, spread, 1), blobs(100, spread, 2)
    return function(train_features=x * scale, train_labels=y, test_features=test * scale, test_labels=true)


@pytest.mark.parametrize("function", PROBES)
def test_separate_classes_are_recognised(function: Callable[..., Score]) -> None:
    score = probe(function, 0.1)
    assert score.value == 1.0
    assert score.per_unit is not None
    assert score.per_unit.shape == (100,)


@pytest.mark.parametrize("function", PROBES)
def test_noise_only_lowers_recognition(function: Callable[..., Score]) -> None:
    values = [probe(function, spread).value for spread in (0.1, 3, 6, 40)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.4


@pytest.mark.parametrize("function", PROBES)
def test_constant_features_score_chance(function: Callable[..., Score]) -> None:
    labels = np.arange(40) % 4
    score = function(
        train_features=np.ones((40, 6)), train_labels=labels, test_features=np.ones((40, 6)), test_labels=labels
    )
    assert score.value == 0.25


@pytest.mark.parametrize("function", PROBES)
def test_units_of_features_do_not_matter(function: Callable[..., Score]) -> None:
    plain, volts = probe(function, 4.0), probe(function, 4.0, scale=np.array([1e-6, 1, 1e3, 1, 1, 1]))
    assert 0.25 < plain.value < 1
    np.testing.assert_array_equal(plain.per_unit, volts.per_unit)


@pytest.mark.parametrize("function", PROBES)
def test_value_is_the_mean_of_its_samples_in_any_order(function: Callable[..., Score]) -> None:
    (x, y), (test, true) = blobs(200, 4.0, 1), blobs(100, 4.0, 2)
    score = function(train_features=x, train_labels=y, test_features=test, test_labels=true)
    order = np.random.default_rng(0).permutation(100)
    turned = function(train_features=x, train_labels=y, test_features=test[order], test_labels=true[order])
    assert score.per_unit is not None
    assert score.value == score.per_unit.mean()
    np.testing.assert_array_equal(turned.per_unit, score.per_unit[order])


def test_a_classifier_is_right_where_the_largest_logit_is_the_label() -> None:
    logits = [[3.0, 1.0, 2.0], [0.0, 0.0, 1.0], [-1.0, -2.0, -3.0], [5.0, 5.0, 5.0]]
    score = classifier_accuracy(test_logits=logits, test_labels=[0, 1, 0, 1], n_classes=3)
    assert score.per_unit is not None
    assert score.per_unit.tolist() == [1.0, 0.0, 1.0, 0.0]  # of equal logits the first counts
    assert score.value == 0.5
    labels = np.arange(30) % 3
    assert classifier_accuracy(test_logits=np.zeros((30, 3)), test_labels=labels, n_classes=3).value == 1 / 3


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (
            np.zeros((2, 40)),
            [0, 1],
            "a classifier must know the 3 classes of the dataset but knows 40; train it on this dataset.",
        ),
        (np.zeros((2, 3)), [0, 3], "test_labels must be in 0..2 but spans 0..3; pass concept indices."),
    ],
)
def test_a_classifier_of_other_classes_is_refused(logits: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        classifier_accuracy(test_logits=logits, test_labels=labels, n_classes=3)


def test_nearest_neighbours_vote_by_hand() -> None:
    x = [[-1.0], [-0.9], [0.1], [0.2], [0.3], [9.0]]
    score = knn_accuracy(train_features=x, train_labels=[0, 0, 1, 1, 1, 0], test_features=[[0.0]], test_labels=[1])
    assert score.value == 1.0  # five nearest: 1 1 1 0 0
    score = knn_accuracy(train_features=[[0.0], [1.0]], train_labels=[0, 1], test_features=[[1.0]], test_labels=[0])
    assert score.value == 1.0  # a tie goes to the lower class


def test_svm_draws_its_rows_by_seed_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognition, "MAX_TRAIN", 20)
    (x, y), (test, true) = blobs(200, 5.0, 1), blobs(200, 5.0, 2)
    data = {"train_features": x, "train_labels": y, "test_features": test, "test_labels": true}
    first, again, other = (svm_accuracy(**data, seed=seed).per_unit for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", PROBES)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"test_labels": [0, 4]},
            "every class of test_labels must be among train_labels but [4] are not; "
            "a classifier cannot name a class it never saw.",
        ),
        ({"train_labels": [1] * 8}, "train_labels must hold at least 2 classes but hold only 1; choose another split."),
        (
            {"train_labels": [0, 1]},
            "train_labels must be 8 whole numbers, one per row, but is int64 of shape (2,); "
            "pass the concept index of every sample.",
        ),
        (
            {"test_features": np.zeros((0, 6))},
            "test_features must have at least 1 rows but has 0; score more samples together.",
        ),
        (
            {"test_features": np.full((2, 6), np.nan)},
            "test_features must be finite but 2 of 2 rows hold NaN or infinity; find out which broke.",
        ),
        (
            {"test_features": np.zeros((2, 5))},
            "features must be equally wide but train_features has 6, test_features has 5; "
            "extract all of them with the same extractor.",
        ),
    ],
)
def test_what_cannot_be_recognised_is_refused(
    function: Callable[..., Score], change: dict[str, object], sentence: str
) -> None:
    x, y = blobs(8, 1.0, 0)
    data = {"train_features": x, "train_labels": y, "test_features": x[:2], "test_labels": [0, 1]} | change
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        function(**data)


# ---- the judge


def judged(generated: np.ndarray, labels: np.ndarray, *, real_spread: float = 0.1) -> Score:
    (x, y), (real, true) = blobs(100, 0.5, 1), blobs(60, real_spread, 2)
    return judge_accuracy(
        generated=generated, labels=labels, known=x, known_labels=y, reference=real, reference_labels=true
    )


def test_judge_counts_images_of_the_class_asked_for() -> None:
    images, shown = blobs(40, 0.1, 3)
    asked = shown.copy()
    asked[:10] = (asked[:10] + 1) % 4  # ten images show another class than asked for
    score = judged(images, asked)
    assert score.per_unit is not None
    assert score.per_unit.tolist() == [0.0] * 10 + [1.0] * 30
    assert (score.value, score.detail["real_accuracy"]) == (0.75, 1.0)


def test_judge_tells_how_good_it_is_on_real_images() -> None:
    images, shown = blobs(40, 0.1, 3)
    score = judged(images, shown, real_spread=6.0)
    assert score.value == 1.0
    assert 0.3 < score.detail["real_accuracy"] < 0.9


def test_one_image_for_every_class_scores_chance() -> None:
    images, _ = blobs(1, 0.1, 3)
    assert judged(np.repeat(images, 40, axis=0), np.arange(40) % 4).value == 0.25


def test_a_little_noise_where_real_images_are_empty_does_not_decide() -> None:
    """As the grain of a generator on the border of digits: a scale for every pixel by itself would let it decide."""
    (x, y), (images, shown) = blobs(200, 0.5, 1), blobs(40, 0.1, 3)
    rng = np.random.default_rng(4)
    border = np.zeros((200, 300))
    border[rng.integers(200, size=300), np.arange(300)] = 0.01  # each of these pixels is dark but in one picture
    grain = 0.1 * rng.random((40, 300))
    score = judge_accuracy(
        generated=np.hstack([images, grain]),
        labels=shown,
        known=np.hstack([x, border]),
        known_labels=y,
        reference=np.hstack([x, border]),
        reference_labels=y,
    )
    assert score.value == 1.0
    probe = logistic_accuracy(
        train_features=np.hstack([x, border]),
        train_labels=y,
        test_features=np.hstack([images, grain]),
        test_labels=shown,
    )
    assert probe.value < 0.6


def test_judge_does_not_depend_on_the_unit_of_its_features() -> None:
    images, shown = blobs(40, 2.0, 3)
    (x, y), (real, true) = blobs(100, 0.5, 1), blobs(60, 6.0, 2)
    scores = [
        judge_accuracy(
            generated=images * unit + 3 * unit,
            labels=shown,
            known=x * unit + 3 * unit,
            known_labels=y,
            reference=real * unit + 3 * unit,
            reference_labels=true,
        )
        for unit in (1.0, 1e-4, 255.0)
    ]
    assert 0.3 < scores[0].value < 1.0
    for score in scores[1:]:
        assert score.per_unit is not None
        assert scores[0].per_unit is not None
        assert score.per_unit.tolist() == scores[0].per_unit.tolist()


def test_judge_refuses_a_class_it_never_saw() -> None:
    sentence = (
        "every class of generated_labels must be among known_labels but [7] are not; "
        "a classifier cannot name a class it never saw."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        judged(np.zeros((2, 6)), np.array([0, 7]))


# ---- fine-tuning


class Encoder(nn.Module):
    """Batch norm, dropout and frozen weights: all that could make fine-tuning depend on more than its seed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.norm, self.drop, self.layer = nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4 * 16, 12)
        self.requires_grad_(False)

    def encode(self, eeg: Tensor) -> Tensor:
        features: Tensor = torch.tanh(self.layer(self.drop(self.norm(eeg)).flatten(1)))
        return features


def trials(n: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 3
    waves = np.random.default_rng(9).standard_normal((3, 4, 16))
    return (waves[labels] + noise * np.random.default_rng(seed).standard_normal((n, 4, 16))).astype(np.float32), labels


def tune(noise: float = 0.5, *, n_val: int = 30, **options: object) -> Score:
    data: dict[str, object] = {}
    for role, n, seed in (("train", 97, 1), ("val", n_val, 2), ("test", 45, 3)):
        eeg, labels = trials(n, noise, seed)
        eeg.flags.writeable = False  # as rows of a memory map
        data |= {f"{role}_eeg": eeg, f"{role}_labels": labels}
    arguments: dict[str, object] = {"n_classes": 3, "batch_size": 16, **data, **options}
    return finetuned_accuracy(Encoder().eval(), **arguments)  # type: ignore[arg-type]


def test_finetuning_learns_what_is_there_and_nothing_else() -> None:
    assert tune().value > 0.95
    assert 0.1 < tune(noise=1e3).value < 0.6


def test_finetuning_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first, after = tune(noise=3.0), torch.rand(1).item()
    again = tune(noise=3.0)
    np.testing.assert_array_equal(first.per_unit, again.per_unit)
    assert first.detail == again.detail
    assert not np.array_equal(first.per_unit, tune(noise=3.0, seed=1).per_unit)  # type: ignore[arg-type]
    torch.manual_seed(1)
    assert after == torch.rand(1).item()  # fine-tuning gave the global generator back as it was


def test_finetuning_leaves_the_model_alone() -> None:
    model = Encoder().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    eeg, labels = trials(48, 0.5, 1)
    finetuned_accuracy(
        model,
        train_eeg=eeg,
        train_labels=labels,
        val_eeg=eeg,
        val_labels=labels,
        test_eeg=eeg,
        test_labels=labels,
        n_classes=3,
    )
    assert not model.training
    assert not model.layer.weight.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_encoder_without_parameters_gets_a_head_on_its_features() -> None:
    class Fixed(torch.nn.Module):
        def encode(self, eeg: torch.Tensor) -> torch.Tensor:
            return eeg.mean(dim=2)

    eeg, labels = trials(48, 3.0, 1)
    parts = {
        f"{role}_{what}": of for role in ("train", "val", "test") for what, of in (("eeg", eeg), ("labels", labels))
    }
    assert 0 <= finetuned_accuracy(Fixed(), **parts, n_classes=3).value <= 1


def test_the_test_role_selects_nothing() -> None:
    eeg, labels = trials(45, 3.0, 3)
    score, other = tune(noise=3.0), tune(noise=3.0, test_eeg=-eeg, test_labels=labels[::-1].copy())
    assert score.detail == other.detail
    assert score.value != other.value


def test_the_best_epoch_on_validation_is_the_one_tested() -> None:
    eeg, labels = trials(45, 8.0, 3)
    score = tune(noise=8.0, val_eeg=eeg, val_labels=labels)
    last = tune(noise=8.0, n_val=0, epochs=int(score.detail["steps"] / 6))
    assert score.value == score.detail["val_accuracy"]
    assert score.value > last.value


def test_a_tested_trial_does_not_depend_on_its_neighbours() -> None:
    eeg, labels = trials(45, 3.0, 3)
    order = np.random.default_rng(0).permutation(45)[:20]
    together, some = tune(noise=3.0), tune(noise=3.0, test_eeg=eeg[order], test_labels=labels[order])
    assert together.per_unit is not None
    np.testing.assert_array_equal(some.per_unit, together.per_unit[order])


def test_training_stops_when_validation_stops_improving() -> None:
    """Chance labels in validation: some early epoch is the best, and three more are all it gets."""
    labels = np.random.default_rng(0).integers(0, 3, 30)
    score = tune(val_labels=labels, epochs=50)
    assert score.detail["steps"] == 6 * (
        score.detail["epoch"] + 3
    )  # 97 trials: six batches of 16; one of 1 is left out
    assert score.detail["epoch"] < 40


def test_steps_are_capped() -> None:
    assert tune(max_steps=9).detail["steps"] == 9


def test_without_validation_the_last_epoch_counts() -> None:
    score = tune(n_val=0, epochs=4)
    assert score.detail["epoch"] == 4
    assert "val_accuracy" not in score.detail


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"test_eeg": np.zeros((0, 4, 16), np.float32), "test_labels": np.zeros(0, int)},
            "test_eeg must be (n_trials, n_channels, n_times) with at least 1 trials but has shape (0, 4, 16); "
            "choose another split.",
        ),
        (
            {"train_eeg": np.full((97, 4, 16), np.nan, np.float32)},
            "train_eeg must be finite but holds NaN or infinity; prepare the dataset again.",
        ),
        ({"test_labels": np.full(45, 3)}, "test_labels must be in 0..2 but spans 3..3; pass concept indices."),
    ],
)
def test_what_cannot_be_finetuned_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        tune(**change)  # type: ignore[arg-type]


def test_a_probe_is_fitted_once_for_all_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    fits: list[int] = []
    fit = LogisticRegression.fit

    def counted(self: Any, x: np.ndarray, y: np.ndarray, *rest: Any) -> Any:
        fits.append(len(x))
        return fit(self, x, y, *rest)

    monkeypatch.setattr(LogisticRegression, "fit", counted)
    monkeypatch.setattr(recognition, "_FITTED", {})
    (x, y), (test, true) = blobs(100, 0.5, 1), blobs(40, 0.1, 3)

    def probe(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> float:
        return logistic_accuracy(train_features=x, train_labels=y, test_features=test, test_labels=true).value

    assert [probe(x, y, test), probe(x.copy(), y, test), probe(x, y, test[::-1].copy())] == [1.0, 1.0, 0.0]
    assert len(fits) == 1
    assert probe(x, (y + 1) % 4, test) == 0.0  # other labels, other probe
    assert probe(x + 3, y, test + 3) == 1.0
    assert len(fits) == 3
    for unit in range(20):
        probe(x * (unit + 2.0), y, test)
    assert len(recognition._FITTED) == recognition.KEPT_FITS


def test_a_probe_that_runs_out_of_iterations_tells_nobody() -> None:
    """Warnings are errors in tests: scikit-learn's would come through here."""
    from sklearn.linear_model import LogisticRegression

    from zoo.metrics.recognition import _fit

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 20)), np.arange(60) % 3
    assert _fit(LogisticRegression(C=1e6, max_iter=2), x, y).n_iter_.tolist() == [2]

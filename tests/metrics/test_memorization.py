"""Copies and collapse: the definitions by hand, the false-alarm rate that is promised, exact zeros, errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics import memorization
from zoo.metrics.base import Score
from zoo.metrics.memorization import class_diversity, copy_rate, nearest_training_distance, replicate_diversity

TO_TRAIN: list[Callable[..., Score]] = [nearest_training_distance, copy_rate]


def features(n: int, seed: int, width: int = 4) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal((n, width)))


def roles(n: int = 40, m: int = 120, k: int = 200, width: int = 4) -> dict[str, Any]:
    return {"generated": features(n, 0, width), "reference": features(m, 1, width), "known": features(k, 2, width)}


def nearest_by_hand(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.array([min(np.linalg.norm(row - other) for other in known) for row in rows])


def per_unit(score: Score) -> np.ndarray:
    assert score.per_unit is not None
    assert score.value == pytest.approx(score.per_unit.mean(), rel=1e-12)
    return score.per_unit


class Lazy:
    """Rows that can be sliced and nothing else."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self.shape, self.dtype, self.ndim = rows.shape, rows.dtype, rows.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self._rows[key]


# ---- distance to the nearest training picture


def test_distances_are_their_definition() -> None:
    given = roles()
    score = nearest_training_distance(**given)
    made, real = (nearest_by_hand(given[name], given["known"]) for name in ("generated", "reference"))
    np.testing.assert_allclose(per_unit(score), made, rtol=1e-12)
    assert score.detail["real_distance"] == pytest.approx(real.mean(), rel=1e-12)
    assert score.detail["closer_than_real"] == pytest.approx((made[:, None] < real).mean(), abs=1e-12)


def test_copies_lie_at_exactly_zero_however_far_from_the_origin() -> None:
    known = (1000 + features(50, 0, 64)).astype(np.float32)
    score = nearest_training_distance(generated=known[[3, 3, 17]], reference=1000 + features(9, 1, 64), known=known)
    assert per_unit(score).tolist() == [0, 0, 0]
    assert score.detail["closer_than_real"] == 1


def test_new_pictures_are_even_with_real_ones_and_noise_is_further() -> None:
    given = roles(n=1000, m=1000)
    fresh = nearest_training_distance(**given).detail["closer_than_real"]
    assert fresh == pytest.approx(0.5, abs=3 * np.sqrt(1 / 6 / 1000))  # Mann-Whitney's variance at n = m = 1000
    far = nearest_training_distance(**{**given, "generated": 50 * given["generated"]})
    assert far.detail["closer_than_real"] < 0.01
    mirrored = nearest_training_distance(**{**given, "generated": given["reference"]})
    assert mirrored.detail["closer_than_real"] == pytest.approx(0.5, abs=1e-12)  # ties count one half


# ---- copy rate


def test_copies_are_found_and_noise_is_not() -> None:
    given = roles()
    assert copy_rate(**{**given, "generated": given["known"][:40]}).value == 1
    assert copy_rate(**{**given, "generated": 20 + given["generated"]}).value == 0


def test_the_threshold_is_the_promised_order_statistic() -> None:
    given = roles(m=299)
    real = np.sort(nearest_by_hand(given["reference"], given["known"]))
    score = copy_rate(**{**given, "generated": given["reference"]})
    assert score.detail["threshold"] == pytest.approx(real[2], rel=1e-12)
    assert score.detail["false_alarm"] == 3 / 300
    assert score.value == 2 / 299  # strictly below the third smallest
    assert per_unit(score).sum() == 2


def test_new_real_pictures_are_called_copies_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        known, reference, fresh = (rng.standard_normal((n, 2)) for n in (30, 99, 100))
        score = copy_rate(generated=fresh, reference=reference, known=known)
        assert score.detail["false_alarm"] == 0.01
        rates.append(score.value)
    assert np.mean(rates) == pytest.approx(0.01, abs=4 * float(np.std(rates)) / 20)
    assert np.std(rates) < 0.03  # so the tolerance is below 0.006


def test_noise_on_copies_only_hides_them() -> None:
    given, noise = roles(), features(40, 7)
    copies = given["known"][:40]
    values = [copy_rate(**{**given, "generated": copies + level * noise}).value for level in (0, 0.02, 0.1, 1)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1
    assert values[-1] < 0.2


def test_the_number_of_pictures_decides_what_can_be_promised() -> None:
    given = roles(m=99)
    assert copy_rate(**given).detail["false_alarm"] == 0.01
    sentence = (
        "a threshold that 0.01 of real pictures fall below needs at least 99 reference pictures but there are 98; "
        "choose a split with more test pictures or allow more false alarms."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        copy_rate(**{**given, "reference": given["reference"][:98]})
    assert copy_rate(**{**given, "reference": given["reference"][:19]}, false_alarm=0.05).detail["false_alarm"] == 0.05


@pytest.mark.parametrize("false_alarm", [0, 1, -0.1])
def test_a_rate_of_false_alarms_is_a_share(false_alarm: float) -> None:
    sentence = f"false_alarm must be between 0 and 1 but is {false_alarm:g}; 0.05 is the card's."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        copy_rate(**roles(), false_alarm=false_alarm)


def test_splits_that_share_pictures_calibrate_nothing() -> None:
    given = roles()
    sentence = (
        "reference pictures must not be training pictures, but so many are that the threshold for a copy would be "
        "distance 0; choose a split that holds out pictures."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        copy_rate(**{**given, "reference": given["known"][:120]})


# ---- both


@pytest.mark.parametrize("metric", TO_TRAIN)
def test_blocks_and_lazy_rows_change_nothing(metric: Callable[..., Score], monkeypatch: pytest.MonkeyPatch) -> None:
    given = roles()
    expected = metric(**given)
    monkeypatch.setattr(memorization, "_BLOCK", 7)
    found = metric(**{name: Lazy(rows) for name, rows in given.items()})
    np.testing.assert_allclose(per_unit(found), per_unit(expected), rtol=1e-12)
    assert found.detail == pytest.approx(expected.detail, rel=1e-12)


@pytest.mark.parametrize("metric", TO_TRAIN)
def test_order_turns_and_units_change_nothing_that_counts(metric: Callable[..., Score]) -> None:
    given = roles()
    expected = metric(**given)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    order = rng.permutation(40)
    moved = {name: 3 * rows @ turn + 1 for name, rows in given.items()}
    found = metric(generated=moved["generated"][order], reference=moved["reference"][::-1], known=moved["known"][::-1])
    unit = 1 if metric is copy_rate else 3
    np.testing.assert_allclose(per_unit(found), unit * per_unit(expected)[order], rtol=1e-9)


@pytest.mark.parametrize("metric", TO_TRAIN)
@pytest.mark.parametrize(
    ("name", "rows", "sentence"),
    [
        (
            "generated",
            features(0, 0),
            "distances to training pictures need rows on both sides but generated has 0 and known has 200; "
            "choose another split.",
        ),
        (
            "known",
            features(0, 0),
            "distances to training pictures need rows on both sides but reference has 120 and known has 0; "
            "choose another split.",
        ),
        (
            "generated",
            np.full((5, 4), np.nan),
            "generated must be finite but 5 of 5 rows hold NaN or infinity; find out which broke.",
        ),
        (
            "generated",
            features(5, 0, 3),
            "features must be equally wide but generated has 3, known has 4; "
            "extract all of them with the same extractor.",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    metric: Callable[..., Score], name: str, rows: np.ndarray, sentence: str
) -> None:
    if metric is nearest_training_distance:  # which looks at the generated side first
        sentence = sentence.replace("reference has 120", "generated has 40")
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(**{**roles(), name: rows})


# ---- diversity


def test_collapse_within_a_trial_is_exactly_zero() -> None:
    images = (1000 + features(6, 0, 64)).astype(np.float32)
    assert per_unit(replicate_diversity(replicates=np.stack([images] * 3))).tolist() == [0] * 6


def test_diversity_within_a_trial_is_the_mean_over_pairs_of_replicates() -> None:
    replicates = np.array([[[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 3.0]]])
    assert per_unit(replicate_diversity(replicates=replicates)).tolist() == pytest.approx([10 / 3, 4 / 3], rel=1e-15)


def test_order_of_replicates_blocks_and_lazy_rows_change_no_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    replicates = features(4 * 20, 0).reshape(4, 20, 4)
    expected = per_unit(replicate_diversity(replicates=replicates))
    monkeypatch.setattr(memorization, "_BLOCK", 7)
    found = replicate_diversity(replicates=[*map(Lazy, replicates[::-1])])  # type: ignore[list-item]
    np.testing.assert_allclose(per_unit(found), expected, rtol=1e-14)


def test_more_noise_is_more_diversity_in_proportion() -> None:
    image, noise = features(20, 0), features(3 * 20, 1).reshape(3, 20, 4)
    labels = np.arange(20) % 4
    once = replicate_diversity(replicates=image + noise).value
    assert replicate_diversity(replicates=image + 2 * noise).value == pytest.approx(2 * once, rel=1e-12)
    reference = {"reference": image, "reference_labels": labels}
    once = class_diversity(generated=image, labels=labels, **reference).value
    assert class_diversity(generated=2 * image, labels=labels, **reference).value == pytest.approx(2 * once, rel=1e-12)


@pytest.mark.parametrize("counts", [[5], [5, 4], [0, 0]])
def test_diversity_needs_two_replicates_of_the_same_trials(counts: list[int]) -> None:
    sentence = (
        f"diversity within a trial needs at least 2 replicates of the same trials but got {counts} images; "
        "generate more replicates."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        replicate_diversity(replicates=[features(n, 0) for n in counts])


def test_one_image_per_class_has_exactly_no_diversity() -> None:
    labels = np.arange(30) % 3
    collapsed = (1000 + features(3, 0, 64)).astype(np.float32)[labels]
    score = class_diversity(generated=collapsed, labels=labels, reference=features(30, 1, 64), reference_labels=labels)
    assert score.value == 0
    assert score.detail["real"] > 1


def test_class_diversity_is_the_mean_over_images_of_their_mean_distance_within_the_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memorization, "_BLOCK", 3)
    x, labels = features(12, 0), np.array([0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 1])  # class 0 has no pair
    by_hand = [
        np.mean([np.linalg.norm(x[i] - x[j]) for j in range(12) if j != i and labels[j] == labels[i]])
        for i in range(1, 12)
    ]
    order = np.random.default_rng(0).permutation(12)
    score = class_diversity(
        generated=Lazy(x[order]),  # type: ignore[arg-type]
        labels=labels[order],
        reference=features(2, 1),
        reference_labels=[0, 1],
    )
    assert score.value == pytest.approx(np.mean(by_hand), rel=1e-12)
    assert score.per_unit is None  # distances share images, so they are no independent parts
    assert "real" not in score.detail  # no class has two real pictures


def test_classes_of_one_image_have_no_diversity() -> None:
    sentence = (
        "diversity within a class needs a class of at least 2 generated images but none of 3 images shares its class; "
        "score more images together."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        class_diversity(
            generated=features(3, 0), labels=[0, 1, 2], reference=features(3, 1), reference_labels=[0, 1, 2]
        )


def test_every_function_has_a_card_that_fits() -> None:
    cards = [card for card in registry.metrics.cards() if card.function.startswith(memorization.__name__)]
    functions: dict[str, Callable[..., Score]] = {card.id: registry.load_object(card.function) for card in cards}
    assert set(functions.values()) == {*TO_TRAIN, replicate_diversity, class_diversity}
    for card in cards:
        assert list(inspect.signature(functions[card.id]).parameters) == [*card.needs, *card.params]

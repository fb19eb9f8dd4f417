"""What every metric must do, whatever it measures: asked of each card with the arrays that it names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoo import registry, scoring
from zoo.errors import MissingError, UsageError
from zoo.metrics.base import Score
from zoo.specs import MetricCard

CARDS = [card for card in registry.metrics.cards() if "encoder" not in card.needs.values()]
CLASSES, WIDTH = 4, 60
GALLERY = 200
"""Pictures to look among, as some metrics say in their name."""
OF_TRIALS = (
    "generated",
    "pairs",
    "labels",
    "own",
    "test_features",
    "test_labels",
    "test_logits",
    "test_units",
    "predicted",
    "observed",
    "mean_queries",
    "mean_own",
    "trial_queries",
    "trial_own",
)
ORDERED = {"inception_score", "is-thoughtviz", "is-eeg2image", "is-nvlabs"}
"""Split in the order of the images, or in one drawn for it: that is their definition."""
DRAWN = ("kmeans", "kid-subsets", "fd_infinity", "fid_infinity", "pearson", "evoked")
"""Starts, subsets or halves are drawn by row number, from a seed."""


class Lazy:
    """Rows that can be sliced and nothing else."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows, self.shape, self.dtype, self.ndim = rows, rows.shape, rows.dtype, rows.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        return self._rows[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._rows, dtype)


class Side:
    """The arrays of one system, as the runner would give them."""

    def __init__(self, arrays: dict[str, Any], n: int) -> None:
        self.arrays, self.units = arrays, np.arange(n).astype(str)

    def replicates(self, card: MetricCard) -> int:
        return 1

    def get(self, name: str, card: MetricCard, replicate: int) -> Any:
        return self.arrays[name]


def arrays(card: MetricCard, n: int | None = None) -> dict[str, Any]:
    """Random arrays of every name, classes apart by a little; n test trials, each with a picture of its own."""
    n = n if n is not None else max(120, card.min_n)
    m = max(n, 120, card.min_n)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, WIDTH))

    def labels(count: int) -> np.ndarray:
        return np.arange(count) % CLASSES

    def features(count: int) -> np.ndarray:
        return np.abs(0.5 * centres[labels(count)] + rng.standard_normal((count, WIDTH))).astype(np.float32)

    return {
        "generated": features(n),
        "replicates": np.stack([features(n) for _ in range(2)]),
        "pairs": rng.uniform(size=n),
        "labels": labels(n),
        "own": rng.permutation(m)[:n],
        "reference": features(m),
        "reference_labels": labels(m),
        "known": features(m),
        "known_labels": labels(m),
        "test_features": features(n),
        "test_labels": labels(n),
        "test_logits": rng.standard_normal((n, CLASSES)),
        "test_units": np.arange(n).astype(str),
        "train_features": features(m),
        "train_labels": labels(m),
        "n_classes": CLASSES,
        "gallery": features(GALLERY),
        "mean_queries": features(n),
        "mean_own": np.arange(n) % GALLERY,
        "trial_queries": features(n),
        "trial_own": np.arange(n) % GALLERY,
        "predicted": rng.standard_normal((n, 3, 4)),
        "observed": rng.standard_normal((n, 12, 3, 4)) + rng.standard_normal((n, 1, 3, 4)),
    }


def value(card: MetricCard, given: dict[str, Any]) -> float:
    found = registry.load_object(card.function)(
        **{argument: given[name] for argument, name in card.needs.items()}, **card.params
    )
    return found.value if isinstance(found, Score) else float(found)


def measured(card: MetricCard) -> list[str]:
    """Names of what holds measurements, rather than labels or numbers of classes."""
    return [name for name in card.needs.values() if np.asarray(arrays(card, 8)[name]).dtype.kind == "f"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_a_value_is_finite_and_does_not_depend_on_how_rows_are_held(card: MetricCard) -> None:
    given = arrays(card)
    expected = value(card, given)
    assert np.isfinite(expected)
    two = {name: Lazy(rows) if np.ndim(rows) == 2 else rows for name, rows in given.items()}
    assert value(card, two) == expected


@pytest.mark.parametrize(
    "card",
    [card for card in CARDS if card.id not in ORDERED and not card.id.startswith(DRAWN)],
    ids=lambda card: card.id,
)
def test_the_order_of_trials_does_not_matter(card: MetricCard) -> None:
    given = arrays(card)
    order = np.random.default_rng(1).permutation(len(given["labels"]))
    turned = {name: rows[order] if name in OF_TRIALS else rows for name, rows in given.items()}
    turned["replicates"] = given["replicates"][:, order]
    assert value(card, turned) == pytest.approx(value(card, given), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("card", [card for card in CARDS if card.id.startswith(DRAWN)], ids=lambda card: card.id)
def test_what_is_drawn_by_a_seed_is_drawn_again(card: MetricCard) -> None:
    assert value(card, arrays(card)) == value(card, arrays(card))


@pytest.mark.parametrize(("card", "name"), [(card, name) for card in CARDS for name in measured(card)], ids=str)
def test_nan_and_nothing_are_refused(card: MetricCard, name: str) -> None:
    given = arrays(card)
    broken = np.array(given[name])
    broken.reshape(-1)[3] = np.nan
    with pytest.raises(UsageError, match=r"\.$"):
        value(card, {**given, name: broken})
    empty = broken[:, :0] if name == "replicates" else broken[:0]
    with pytest.raises(UsageError, match=r"\.$"):
        value(card, {**given, name: empty})


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_fewer_than_it_is_defined_for_is_null_with_the_reason(card: MetricCard) -> None:
    n = card.min_n - 1
    found = scoring._compute(card, Side(arrays(card, n), n), "signature").value  # type: ignore[arg-type]
    assert found.value is None
    what = "images" if card.sees == "images" else "trials"
    assert found.reason == f"needs at least {card.min_n} {what}, got {n}"


def test_a_metric_whose_extractor_is_in_no_release_is_refused_with_the_reason() -> None:
    why = (
        r"^nway50_top1 needs the extractor vit-h14-imagenet, which is not in this release, since its weights cannot be "
        r"verified \(docs/metrics/extractors\.md\); leave that metric out\.$"
    )
    with pytest.raises(MissingError, match=why):
        scoring.require(["nway50_top1"])

"""From arrays to values with intervals: calls each metric as its card says, for the model and for every control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo import registry, stats
from zoo.errors import MissingError, UsageError
from zoo.metrics.base import Score, extractor_card, signature, weights_path
from zoo.record import Value
from zoo.specs import MetricCard, TrackCard

Outputs = Mapping[str, np.ndarray]
"""What an extractor gives for some images: ``features`` (n, d), and ``logits`` (n, k) where the network has classes."""


@dataclass(frozen=True)
class EEGSide:
    """Encoder features of both roles, in the order of the dataset.

    Attributes:
        test_units: Resampling unit of each test trial.
        finetune: Runs the fine-tuned head, None where there is nothing to fine-tune (a control).
    """

    train_features: np.ndarray
    train_labels: np.ndarray
    test_features: np.ndarray
    test_labels: np.ndarray
    test_units: np.ndarray
    n_classes: int
    finetune: Callable[[], np.ndarray] | None


@dataclass(frozen=True)
class ImageSide:
    """Extracted images of one system, per extractor.

    Attributes:
        generated: One entry per replicate; each maps extractor → outputs for the same trials in the same order.
        reference: Real pictures of the test role, with their labels: what distances are measured to.
        known: Real pictures of the training role, with their labels: what the judge learns from.
        labels, units: Conditioning class and resampling unit of each trial.
    """

    generated: tuple[Mapping[str, Outputs], ...]
    reference: Mapping[str, Outputs]
    reference_labels: np.ndarray
    known: Mapping[str, Outputs]
    known_labels: np.ndarray
    labels: np.ndarray
    units: np.ndarray


@dataclass(frozen=True)
class Scored:
    """A value for the record, and its per-trial parts (mean over replicates) for the file beside it."""

    value: Value
    per_unit: np.ndarray | None = None


def usable(track: TrackCard, without_images: str | None) -> tuple[list[MetricCard], dict[str, str]]:
    """Metrics of the track that can be computed here, and for the others the reason why not."""
    cards, reasons = [], {}
    for name in track.metrics:
        card = registry.metrics.get(name)
        if "images" in card.needs and without_images is not None:
            reasons[card.id] = without_images
        elif (absent := _absent(card)) is not None:
            reasons[card.id] = absent
        else:
            cards.append(card)
    return cards, reasons


def extractors(cards: Iterable[MetricCard]) -> list[str]:
    """Extractors that these metrics read, each once."""
    return list(dict.fromkeys(card.extractor for card in cards if card.extractor is not None))


def require(names: Iterable[str]) -> None:
    """Fail unless the extractors of the metrics asked for by name are on this machine.

    Raises:
        MissingError: One is not; the message names the command that fetches it.
    """
    for name in names:
        if (extractor := registry.metrics.get(name).extractor) is not None:
            weights_path(extractor_card(extractor))


def _absent(card: MetricCard) -> str | None:
    if card.extractor is None:
        return None
    try:
        weights_path(extractor_card(card.extractor))
    except MissingError as error:
        return str(error).replace("\n", " ")
    return None


def signatures(cards: Iterable[MetricCard], facts: Mapping[str, Any]) -> dict[str, str]:
    """Signature of each metric, given what the track fixes (sizes, reference)."""
    found = {}
    for card in cards:
        used = {key: facts[key] for key in ("n", "ref") if "images" in card.needs}
        if "eeg" in card.needs:
            used = {"n": facts["trials"]}
        extractor = extractor_card(card.extractor) if card.extractor else None
        found[card.id] = signature(card, extractor, **used)
    return found


def score_eeg(card: MetricCard, side: EEGSide, name: str) -> Scored:
    """One metric of the EEG features."""
    if len(side.test_labels) < card.min_n:
        return _null(card, f"needs at least {card.min_n} trials, got {len(side.test_labels)}", name)
    function = registry.load_object(card.function)
    if "encoder" in card.needs:
        if side.finetune is None:
            return _null(card, "nothing is fine-tuned for a control", name)
        correct = side.finetune()
        score = Score(float(correct.mean()), correct)
    elif "eeg-train" in card.needs:
        score = function(
            train_features=side.train_features,
            train_labels=side.train_labels,
            test_features=side.test_features,
            test_labels=side.test_labels,
        )
    else:
        score = function(features=side.test_features, labels=side.test_labels, n_classes=side.n_classes)
    return _summary(card, [score], name, side.test_units, None)


def score_images(card: MetricCard, side: ImageSide, name: str) -> Scored:
    """One metric of the images, for every replicate."""
    assert card.extractor is not None
    n = len(side.labels)
    if n < card.min_n:
        return _null(card, f"needs at least {card.min_n} images, got {n}", name)
    function = registry.load_object(card.function)
    kind = card.extractor
    generated = [replicate[kind] for replicate in side.generated]
    if "labels" in card.needs:
        scores = [
            function(
                generated=images["features"],
                labels=side.labels,
                train_features=side.known[kind]["features"],
                train_labels=side.known_labels,
                real_features=side.reference[kind]["features"],
                real_labels=side.reference_labels,
            )
            for images in generated
        ]
        return _summary(card, scores, name, side.units, None)
    if "reference" in card.needs:
        real = side.reference[kind]["features"]
        if len(real) < card.min_n:
            return _null(card, f"needs at least {card.min_n} reference pictures, got {len(real)}", name)

        def measure(images: Outputs, rows: np.ndarray) -> Score:
            return _as_score(function(generated=images["features"][rows], reference=real))
    else:

        def measure(images: Outputs, rows: np.ndarray) -> Score:
            return _as_score(function(logits=images["logits"][rows]))

    everything = np.arange(n)
    scores = [measure(images, everything) for images in generated]
    return _summary(card, scores, name, side.units, lambda rows: measure(generated[0], rows).value)


def _as_score(found: Any) -> Score:
    if isinstance(found, Score):
        return found
    if isinstance(found, tuple):
        return Score(float(found[0]))
    return Score(float(found))


def _summary(
    card: MetricCard, scores: list[Score], name: str, units: np.ndarray, statistic: Callable[[np.ndarray], float] | None
) -> Scored:
    """Mean over replicates, with the interval that the card asks for."""
    values = tuple(score.value for score in scores)
    per_unit, interval = None, None
    parts = [score.per_unit for score in scores if score.per_unit is not None]
    if len(parts) == len(scores):
        per_unit = np.mean(parts, axis=0)
        interval = stats.cluster_interval(per_unit, units)
        if interval is not None and per_unit.min() >= 0 and per_unit.max() <= 1:  # a share cannot leave [0, 1]
            interval = replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0))
    elif statistic is not None and card.interval == "jackknife":
        interval = _jackknife(card, statistic, len(units))
    detail = {key: float(value) for key, value in scores[0].detail.items()}
    value = Value(
        value=float(np.mean(values)),
        signature=name,
        higher_is_better=card.higher_is_better,
        interval=None if interval is None else (interval.low, interval.high),
        interval_method=None if interval is None else interval.method,
        n=len(units),
        n_units=None if interval is None else interval.n_units,
        replicates=values,
        detail=detail,
    )
    return Scored(value, per_unit)


def _jackknife(card: MetricCard, statistic: Callable[[np.ndarray], float], n: int) -> stats.Interval | None:
    """None where leaving out a tenth would fall below the metric's smallest set."""
    if n - n // 10 - 1 < card.min_n:
        return None
    try:
        return stats.jackknife_interval(statistic, n)
    except UsageError:
        return None


def null(card: MetricCard, reason: str) -> Value:
    """A value that does not exist, and why."""
    return Value(value=None, reason=reason, higher_is_better=card.higher_is_better)


def _null(card: MetricCard, reason: str, name: str) -> Scored:
    return Scored(Value(value=None, reason=reason, signature=name, higher_is_better=card.higher_is_better))

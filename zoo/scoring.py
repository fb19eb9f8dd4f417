"""From arrays to values with intervals: gives each metric what its card names, for the model and for every control.

Scores are kept under the hash of what decides them, the metric's own code included: a new metric costs only itself.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from zoo import registry, stats
from zoo.errors import MissingError, UnknownNameError, UsageError
from zoo.metrics.base import Score, extractor_card, signature, weights_path
from zoo.provenance import code_sha256
from zoo.record import Value
from zoo.specs import MetricCard, TrackCard
from zoo.stages import whole
from zoo.store import digest, read_json, stage_dir, write_json

PER_IMAGE = ("generated", "pairs", "labels", "own")
"""What has one entry per generated image, so that leaving out images leaves out entries."""
PER_QUERY = ("mean_queries", "mean_own", "trial_queries", "trial_own")
"""The same of queries."""
Level = Literal["mean", "trial"]
"""Whether a query is the mean over the repetitions of a picture, or one trial."""
ONE_OVER_CLASSES = "1 / n_classes"


@dataclass(frozen=True)
class EEGSide:
    """What the EEG metrics of one system may be given.

    Attributes:
        identity: What decides the arrays.
        arrays: Name → what makes or reads the array.
        units: Resampling unit of each test trial.
        finetune: Runs the fine-tuned head, None where there is nothing to fine-tune (a control).
    """

    identity: Mapping[str, Any]
    arrays: Mapping[str, Callable[[], Any]]
    units: np.ndarray
    finetune: Callable[[], np.ndarray] | None

    def replicates(self, card: MetricCard) -> int:
        return 1

    def get(self, name: str, card: MetricCard, replicate: int) -> Any:
        return self.arrays[name]()


@dataclass(frozen=True)
class ImageSide:
    """What the image metrics of one system may be given.

    Attributes:
        identity: What decides the images.
        outputs: (``generated``, ``reference`` or ``known``; replicate; extractor; output) → (n, width), an array or
            rows read when sliced. An extractor that compares gives (n,), each image beside the trial's own picture.
        arrays: ``labels``, ``own``, ``reference_labels``, ``known_labels``, ``n_classes``.
        units: Resampling unit of each trial.
    """

    identity: Mapping[str, Any]
    n_replicates: int
    outputs: Callable[[str, int, str, str], Any]
    arrays: Mapping[str, Any]
    units: np.ndarray

    def replicates(self, card: MetricCard) -> int:
        return 1 if "replicates" in card.needs.values() else self.n_replicates

    def get(self, name: str, card: MetricCard, replicate: int) -> Any:
        """The array called ``name``, as the card's extractor and output make it."""
        assert card.extractor is not None
        if name == "replicates":
            everyone = range(self.n_replicates)
            return np.stack([np.asarray(self.outputs("generated", k, card.extractor, card.output)) for k in everyone])
        if name in ("generated", "pairs", "reference", "known"):
            return self.outputs(name, replicate, card.extractor, card.output)
        return self.arrays[name]


@dataclass(frozen=True)
class GallerySide:
    """What the retrieval metrics of one system may be given.

    Attributes:
        arrays: Name → what makes or reads the array.
        units, names: Resampling unit and name of each query, by level.
    """

    identity: Mapping[str, Any]
    arrays: Mapping[str, Callable[[], Any]]
    units: Mapping[Level, np.ndarray]
    names: Mapping[Level, tuple[str, ...]]

    def replicates(self, card: MetricCard) -> int:
        return 1

    def get(self, name: str, card: MetricCard, replicate: int) -> Any:
        return self.arrays[name]()


class Compared(NamedTuple):
    """Responses to the same conditions, and what those are called.

    Shape:
        predicted: (n_conditions, n_channels, n_times); observed: (n_conditions, n_repetitions, n_channels, n_times).
    """

    predicted: np.ndarray
    observed: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class ResponseSide:
    """What the encoding metrics of one system may be given, group by group: a person's test trials, or a run's.

    A score is the mean over groups.

    Attributes:
        groups: Name → what makes or reads its responses.
        resample: What the interval is over: groups; else pictures, left out in all groups at once; else repetitions.
    """

    identity: Mapping[str, Any]
    groups: Mapping[str, Callable[[], Compared]]
    resample: Literal["groups", "conditions", "repetitions"]


Side = EEGSide | ImageSide | GallerySide


@dataclass(frozen=True)
class Scored:
    """A value for the record, and its parts (mean over replicates) for the file beside it.

    Attributes:
        per_unit: (n,) values.
        of: What each value is of, and the unit it belongs to; None where that is the plan's trials or images.
    """

    value: Value
    per_unit: np.ndarray | None = None
    of: tuple[tuple[str, str], ...] | None = None


def usable(
    track: TrackCard,
    *,
    no_images: str | None,
    no_pairs: str | None,
    no_eeg: str | None,
    no_head: str | None,
    no_responses: str | None = None,
    no_gallery: str | None = None,
) -> tuple[list[MetricCard], dict[str, str]]:
    """Metrics of the track that can be computed here, and for the others the reason why not.

    Args:
        no_images: Why there are no images to look at, if there are none.
        no_pairs: Why trials have no picture of their own, if they have none.
        no_eeg: Why there are no features of EEG, if there are none.
        no_head: Why the model names no class itself, if it does not.
        no_responses: Why there are no predicted responses, if there are none.
        no_gallery: Why there is no gallery of pictures, if there is none.
    """
    missing = {"images": no_images, "eeg": no_eeg, "responses": no_responses, "gallery": no_gallery}
    cards, reasons = [], {}
    for name in track.metrics:
        card = registry.metrics.get(name)
        reason = missing[card.sees]
        if card.pairing == "instance":
            reason = reason or no_pairs
        elif "test_logits" in card.needs.values():
            reason = reason or no_head
        reason = reason or _absent(card)
        if reason is None:
            cards.append(card)
        else:
            reasons[card.id] = reason
    return cards, reasons


def extractors(cards: Iterable[MetricCard]) -> list[str]:
    """Extractors that these metrics read, each once."""
    return list(dict.fromkeys(card.extractor for card in cards if card.extractor is not None))


def require(names: Iterable[str]) -> None:
    """Fail unless the extractors of the metrics asked for by name are on this machine.

    Raises:
        MissingError: One is not; the message names the command that fetches it, if there is one.
    """
    for name in names:
        if (extractor := registry.metrics.get(name).extractor) is not None:
            try:
                weights_path(extractor_card(extractor))
            except UnknownNameError as error:
                raise MissingError(
                    f"{name} needs the extractor {extractor}, which is not in this release, since its weights cannot "
                    "be verified (docs/metrics/extractors.md); leave that metric out."
                ) from error


def _absent(card: MetricCard) -> str | None:
    if card.extractor is None:
        return None
    try:
        weights_path(extractor_card(card.extractor))
    except UnknownNameError:
        return f"extractor {card.extractor} is not in this release"
    except MissingError as error:
        return str(error).replace("\n", " ")
    return None


def signatures(cards: Iterable[MetricCard], facts: Mapping[str, Any]) -> dict[str, str]:
    """Signature of each metric, given what the track fixes (sizes, reference)."""
    found = {}
    for card in cards:
        if card.sees == "images":
            used = {key: facts[key] for key in ("n", "ref")}
        else:
            used = {"n": facts["trials"]}
        for also, looks in (("ms", "responses"), ("seen", "gallery")):
            if card.sees == looks and also in facts:
                used[also] = facts[also]
        extractor = extractor_card(card.extractor) if card.extractor else None
        found[card.id] = signature(card, extractor, **used)
    return found


def score(card: MetricCard, side: Side | ResponseSide, name: str) -> Scored:
    """One metric of one system, computed once.

    Args:
        name: The metric's signature.

    Raises:
        IntegrityError: The score that was kept is damaged.
    """
    code = code_sha256(card.function.partition(":")[0], *_metric_modules(), "zoo.stats", __name__)
    folder = stage_dir("scores", dict(side.identity))
    path = folder / f"{card.id}-{digest([name, card.params, code])[:16]}.json"
    if not path.exists():
        scored = _compare(card, side, name) if isinstance(side, ResponseSide) else _compute(card, side, name)
        per_unit = None if scored.per_unit is None else scored.per_unit.tolist()
        kept = {"value": scored.value.model_dump(mode="json"), "per_unit": per_unit}
        write_json(path, kept if scored.of is None else {**kept, "of": scored.of})
    with whole(path):
        found = read_json(path)
        per_unit = None if found["per_unit"] is None else np.array(found["per_unit"], float)
        of = None if found.get("of") is None else tuple((part, unit) for part, unit in found["of"])
        read = Scored(Value.model_validate(found["value"]), per_unit, of)
    return read


def _metric_modules() -> Iterator[str]:
    """Modules that metrics are made of; they build on one another, so each may move any score."""
    import zoo.metrics

    return (f"zoo.metrics.{found.name}" for found in pkgutil.iter_modules(zoo.metrics.__path__))


def level_of(card: MetricCard) -> Level:
    """What a query of a retrieval metric is."""
    return "mean" if "mean_queries" in card.needs.values() else "trial"


def _units(card: MetricCard, side: Side) -> np.ndarray:
    return side.units[level_of(card)] if isinstance(side, GallerySide) else side.units


def _compute(card: MetricCard, side: Side, name: str) -> Scored:
    what = "images" if card.sees == "images" else "trials"
    if (n := len(_units(card, side))) < card.min_n:
        return null(card, f"needs at least {card.min_n} {what}, got {n}", name)
    if "encoder" in card.needs.values():
        finetune = getattr(side, "finetune", None)
        if finetune is None:
            return null(card, "nothing is fine-tuned for a control", name)
        try:
            correct = finetune()
        except UsageError as error:
            return null(card, str(error), name)
        return _summary(card, [Score(float(correct.mean()), correct)], name, side, None)
    if "reference" in card.needs.values() and (n := len(side.get("reference", card, 0))) < card.min_n:
        return null(card, f"needs at least {card.min_n} reference pictures, got {n}", name)
    function = registry.load_object(card.function)

    def measure(replicate: int, rows: np.ndarray | None = None) -> Score:
        given = {}
        for argument, array in card.needs.items():
            value = side.get(array, card, replicate)
            given[argument] = value if rows is None or array not in (*PER_IMAGE, *PER_QUERY) else value[rows]
        found = function(**given, **card.params)
        return found if isinstance(found, Score) else Score(float(found))

    try:
        scores = [measure(replicate) for replicate in range(side.replicates(card))]
    except UsageError as error:
        return null(card, str(error), name)
    return _summary(card, scores, name, side, lambda rows: measure(0, rows).value)


def _summary(
    card: MetricCard,
    scores: list[Score],
    name: str,
    side: Side,
    statistic: Callable[[np.ndarray], float] | None,
) -> Scored:
    """Mean over replicates, with the interval that the card asks for and, where chance is known, a test against it."""
    values = tuple(score.value for score in scores)
    mean = float(np.mean(values))
    units = _units(card, side)
    per_unit, interval, test = None, None, None
    chance = _chance(card, scores[0], side)
    parts = [score.per_unit for score in scores if score.per_unit is not None]
    if len(parts) == len(scores):
        per_unit = np.mean(parts, axis=0)
        interval = stats.cluster_interval(per_unit, units)
        if interval is not None and per_unit.min() >= 0 and per_unit.max() <= 1:  # a share cannot leave [0, 1]
            interval = replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0))
        if chance is not None:
            better = card.higher_is_better
            test = stats.p_against_chance(per_unit, units, chance, higher_is_better=better)
    elif statistic is not None and card.interval == "jackknife":
        interval = _jackknife(card, statistic, units, mean - values[0])
    value = Value(
        value=mean,
        signature=name,
        higher_is_better=card.higher_is_better,
        interval=None if interval is None else (interval.low, interval.high),
        interval_method=None if interval is None else interval.method,
        chance=chance,
        p_chance=None if test is None else test.p,
        p_method=None if test is None else test.method,
        n=len(units),
        n_units=None if interval is None else interval.n_units,
        replicates=values,
        detail={key: float(value) for key, value in scores[0].detail.items()},
    )
    of = None
    if isinstance(side, GallerySide) and per_unit is not None:
        of = tuple(zip(side.names[level_of(card)], map(str, units), strict=True))
    return Scored(value, per_unit, of)


def _compare(card: MetricCard, side: ResponseSide, name: str) -> Scored:
    """One encoding metric: the mean over groups, with an interval over what the side resamples.

    Over pictures, values per picture are averaged over groups, where there are such; else whole pictures are left out.
    """
    function = registry.load_object(card.function)

    def measure(part: Compared, rows: np.ndarray | slice = slice(None), kept: np.ndarray | None = None) -> Score:
        some = slice(None) if kept is None else kept[kept < part.observed.shape[1]]
        arrays = {"predicted": part.predicted[rows], "observed": part.observed[rows][:, some]}
        found = function(**{argument: arrays[array] for argument, array in card.needs.items()}, **card.params)
        return found if isinstance(found, Score) else Score(float(found))

    scores: dict[str, Score] = {}
    names: dict[str, tuple[str, ...]] = {}
    repetitions = []
    for group, make in side.groups.items():
        try:
            part = make()
            if len(part.names) < card.min_n:
                return null(card, f"needs at least {card.min_n} images, got {len(part.names)}", name)
            scores[group], names[group] = measure(part), part.names
            repetitions.append(part.observed.shape[1])
        except UsageError as error:
            return null(card, str(error), name)
    values = np.array([found.value for found in scores.values()])
    alike = len(set(names.values())) == 1
    shown = next(iter(names.values()))

    def over(**chosen: np.ndarray) -> float:
        return float(np.mean([measure(make(), **chosen).value for make in side.groups.values()]))

    per_unit: np.ndarray | None = None
    of: tuple[str, ...] | None = None
    interval = None
    try:
        if side.resample == "groups":
            per_unit, of = values, tuple(scores)
        elif side.resample == "conditions" and alike:
            parts = [found.per_unit for found in scores.values() if found.per_unit is not None]
            if len(parts) == len(scores):
                per_unit, of = np.mean(parts, axis=0), shown
            elif len(shown) - -(-len(shown) // 10) >= card.min_n:
                interval = stats.jackknife_interval(lambda rows: over(rows=rows), len(shown))
        elif side.resample == "repetitions":
            interval = stats.jackknife_interval(lambda kept: over(kept=kept), max(repetitions))
    except UsageError:  # too few are left once some are left out
        interval = None
    chance, test = _chance(card, next(iter(scores.values())), None), None
    if per_unit is not None and of is not None:
        interval = stats.cluster_interval(per_unit, np.array(of))
        if chance is not None:
            better = card.higher_is_better
            test = stats.p_against_chance(per_unit, np.array(of), chance, higher_is_better=better)
    details = [found.detail for found in scores.values()]
    value = Value(
        value=float(values.mean()),
        signature=name,
        higher_is_better=card.higher_is_better,
        interval=None if interval is None else (interval.low, interval.high),
        interval_method=None if interval is None else interval.method,
        chance=chance,
        p_chance=None if test is None else test.p,
        p_method=None if test is None else test.method,
        n=sum(len(shown) for shown in names.values()),
        n_units=None if interval is None else interval.n_units,
        replicates=(float(values.mean()),),
        detail={key: float(np.mean([detail[key] for detail in details])) for key in details[0]},
    )
    return Scored(value, per_unit, None if of is None else tuple(zip(of, of, strict=True)))


def _chance(card: MetricCard, score: Score, side: Side | None) -> float | None:
    """What guessing scores: as the metric says, one over the number of classes, or the card's number."""
    if "chance" in score.detail:
        return float(score.detail["chance"])
    if card.chance == ONE_OVER_CLASSES and side is not None:
        return 1 / float(side.get("n_classes", card, 0))
    try:
        return None if card.chance is None else float(card.chance)
    except ValueError:  # in words: it depends on the images
        return None


def _jackknife(
    card: MetricCard, statistic: Callable[[np.ndarray], float], units: np.ndarray, shift: float
) -> stats.Interval | None:
    """Leaves out unit after unit of one replicate; ``shift`` moves it to the mean of all replicates.

    None with one unit, and where leaving one out would fall below what the metric is defined for.
    """
    n = len(units)
    largest = max(np.unique(units, return_counts=True)[1])
    if n - largest < card.min_n:
        return None
    try:
        interval = stats.jackknife_interval(statistic, n, units=units)
    except UsageError:
        return None
    return None if interval is None else replace(interval, low=interval.low + shift, high=interval.high + shift)


def null(card: MetricCard, reason: str, name: str | None = None) -> Scored:
    """A value that does not exist, and why: words that sentences are made of, so without their full stop."""
    return Scored(
        Value(value=None, reason=reason.removesuffix("."), signature=name, higher_is_better=card.higher_is_better)
    )

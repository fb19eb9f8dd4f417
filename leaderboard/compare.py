"""Two systems on the same trials: paired differences, what they are worth, and what they cannot say.

Needs numpy, unlike the rest of this package; nothing that shows a board imports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np

from leaderboard.ranking import ALPHA, SHUFFLED, preference
from leaderboard.standing import Standing
from leaderboard.submission import UNITS_BYTES
from leaderboard.units import Trials, read_units
from zoo.errors import UnknownNameError, UsageError
from zoo.record import Record, Value
from zoo.stats import cluster_error, cluster_interval, holm, paired_effect, sign_flip_test, smallest_p, welch_p


@dataclass(frozen=True)
class Side:
    """The model of a record or one of its controls, with what was measured per trial.

    Attributes:
        trials: By system and metric; empty where the record came without them.
        siblings: Records that differ in nothing but the seed, and in the weights it led to.
        system: ``model`` or the name of a control.
        standing: Whether somebody took the record back or contests it.
    """

    record: Record
    trials: Mapping[tuple[str, str], Trials] = field(default_factory=dict)
    siblings: Sequence[Record] = ()
    system: str = "model"
    standing: Standing = Standing()

    @property
    def name(self) -> str:
        """Model and beginning of the id, behind the control if it is one."""
        model = f"{self.record.identity.model} {self.record.id[:7]}"
        return model if self.system == "model" else f"{self.system} of {model}"

    @property
    def values(self) -> Mapping[str, Value]:
        return _values(self.record, self.system)

    def trained(self, metric: str) -> list[float]:
        """The value after every known training, each with a seed of its own."""
        found = (_values(record, self.system).get(metric) for record in (self.record, *self.siblings))
        return [value.value for value in found if value is not None and value.value is not None]


def _values(record: Record, system: str) -> Mapping[str, Value]:
    return record.values if system == "model" else record.controls[system].values if system in record.controls else {}


@dataclass(frozen=True)
class Difference:
    """One metric of both sides.

    Attributes:
        difference: ``a - b``, whichever direction is better.
        interval: 95 % for the difference, over units.
        effect: Cohen's d_z over units, with the sign of the difference.
        p_units: Of the sign-flip test over units: would other subjects say the same of these two trainings?
        p_seeds: Of Welch's t over trainings and units, None unless both sides have two seeds: would other trainings?
        p: The larger of them, corrected for the number of metrics; at most ``ALPHA`` shows a difference.
        better: The side with the better value, None where they are equal.
        shown: Whether the difference is shown; None where there is no test over units, and ``reason`` says why.
        samples: Standard deviation of each side's value between its sampling replicates.
        seeds: The same between its trainings.
    """

    metric: str
    higher_is_better: bool
    a: float
    b: float
    difference: float
    better: Literal["a", "b"] | None
    samples: tuple[float | None, float | None]
    seeds: tuple[float | None, float | None]
    interval: tuple[float, float] | None = None
    effect: float | None = None
    p_units: float | None = None
    p_seeds: float | None = None
    p: float | None = None
    shown: bool | None = None
    reason: str | None = None
    n_trials: int | None = None
    n_units: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything about two sides; ``notes`` are sentences a reader of the numbers must know."""

    track: str
    split: str
    a: str
    b: str
    record_a: str
    record_b: str
    n_seeds: tuple[int, int]
    headline: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(a: Side, b: Side, *, metrics: Sequence[str] = ()) -> Comparison:
    """Compare two sides on every metric that either has, or on ``metrics`` alone.

    Where both have a value per trial, trials are paired by id and whole units flip their sign; where both were trained
    with several seeds, the seeds must agree as well. The headline, which the track named before there was a result, is
    tested first and alone; the other metrics count only if it differs, and are corrected for their number (Holm). So
    two equal systems are called different anywhere with a probability of at most ``ALPHA``. A metric that is the same
    on every trial asks nothing and takes no part.

    Raises:
        UsageError: The records are not of one contest, or no metric of both was measured in the same way.
    """
    _refuse_other_contests(a.record, b.record)
    headline = a.record.headline
    measured = (name for side in (a, b) for name, value in side.values.items() if value.value is not None)
    pairs = {name: _difference(name, a, b) for name in metrics or dict.fromkeys(measured)}
    left_out = tuple(f"{name} is not compared: {why}." for name, why in pairs.items() if isinstance(why, str))
    found = {name: pair for name, pair in pairs.items() if isinstance(pair, Difference)}
    if not found:
        why = "no metric has a value in both" if not left_out else " ".join(left_out)
        raise UsageError(f"{a.name} and {b.name} must share a metric to be compared, but do not: {why.rstrip('.')}.")
    larger = {name: max(pair.p_units, pair.p_seeds or 0) for name, pair in found.items() if pair.p_units is not None}
    for name, p in _corrected(larger, headline).items():
        found[name] = replace(found[name], p=p, shown=p <= ALPHA)
    return Comparison(
        track=a.record.identity.track,
        split=a.record.identity.split,
        a=a.name,
        b=b.name,
        record_a=a.record.id,
        record_b=b.record.id,
        n_seeds=(1 + len(a.siblings), 1 + len(b.siblings)),
        headline=headline,
        differences=tuple(found.values()),
        notes=(*left_out, *_limits([*found.values()], headline), *_warnings(a, b)),
    )


def _refuse_other_contests(a: Record, b: Record) -> None:
    for name in ("track", "split", "track_sha256", "split_sha256", "trials_fingerprint"):
        one, other = getattr(a.identity, name), getattr(b.identity, name)
        if one != other:
            raise UsageError(
                f"records must be of one contest to be compared, but {a.id[:12]} and {b.id[:12]} differ in {name} "
                f"({one} against {other}); evaluate both on the same track."
            )


def _difference(metric: str, a: Side, b: Side) -> Difference | str:
    """One metric of both, or why it cannot be compared."""
    for side in (a, b):
        value = side.values.get(metric)
        if value is None or value.value is None:
            return f"{side.name} has no value ({'it was not asked for' if value is None else value.reason})"
    one, other = a.values[metric], b.values[metric]
    assert one.value is not None
    assert other.value is not None
    if one.signature != other.signature or one.higher_is_better != other.higher_is_better:
        return f"it was measured differently ({one.signature} against {other.signature})"
    if one.higher_is_better is None:
        return "its record does not say whether higher is better"
    trainings = a.trained(metric), b.trained(metric)
    found = Difference(
        metric=metric,
        higher_is_better=one.higher_is_better,
        a=one.value,
        b=other.value,
        difference=one.value - other.value,
        better=_better(one.value - other.value, one.higher_is_better),
        samples=(_deviation(one.replicates), _deviation(other.replicates)),
        seeds=(_deviation(trainings[0]), _deviation(trainings[1])),
        p_seeds=_p_seeds(*trainings),
    )
    trials = a.trials.get((a.system, metric)), b.trials.get((b.system, metric))
    if trials[0] is None or trials[1] is None:
        return replace(found, reason=_why_unpaired(a, b, one, other))
    return _paired(found, trials[0], trials[1], trainings)


def _why_unpaired(a: Side, b: Side, one: Value, other: Value) -> str:
    for side in (a, b):
        if not side.trials:
            return f"the values per trial of {side.record.id[:12]} do not lie beside its record"
    spans = ""
    if one.interval and other.interval:
        apart = one.interval[1] < other.interval[0] or other.interval[1] < one.interval[0]
        spans = f"; their intervals {'do not overlap' if apart else 'overlap'}"
    return f"no paired test, since a value of the whole set has no parts to pair{spans}"


def _paired(found: Difference, a: Trials, b: Trials, trainings: tuple[list[float], list[float]]) -> Difference:
    """With the test over units of the trials both have."""
    ids, rows, others = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    differences, units = a.values[rows] - b.values[others], a.units[rows]
    n_units = np.unique(units).size
    found = replace(found, n_trials=ids.size, n_units=n_units)
    if n_units < 2:
        return replace(found, reason=f"no test, since it takes trials of two units and both share those of {n_units}")
    if not differences.any():
        return replace(found, reason="nothing to test, since both have the same value on every trial")
    mean, interval = float(differences.mean()), cluster_interval(differences, units)
    return replace(
        found,
        difference=mean,
        better=_better(mean, found.higher_is_better),
        interval=None if interval is None else (interval.low, interval.high),
        effect=paired_effect(differences, units),
        p_units=sign_flip_test(differences, units),
        p_seeds=_p_seeds(*trainings, units=(cluster_error(differences, units) ** 2, n_units - 1)),
    )


def _p_seeds(a: Sequence[float], b: Sequence[float], units: tuple[float, int] | None = None) -> float | None:
    """Of the mean difference over trainings, with the variance between trainings and, where known, between units.

    Args:
        units: Squared standard error of the paired difference over units, and its degrees of freedom.
    """
    if min(len(a), len(b)) < 2:
        return None
    seeds = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1) for values in (a, b)]
    return welch_p(float(np.mean(a) - np.mean(b)), [*seeds, *([units] if units else [])])


def _better(difference: float, higher_is_better: bool) -> Literal["a", "b"] | None:
    return None if difference == 0 else "a" if (difference > 0) == higher_is_better else "b"


def _corrected(p: Mapping[str, float], headline: str) -> dict[str, float]:
    """The headline's p as it is; Holm over the others, never below the headline's (Dmitrienko & Tamhane 2007)."""
    gate = p.get(headline, 0.0)
    others = [name for name in p if name != headline]
    adjusted = holm(np.array([p[name] for name in others]))
    corrected = {name: max(gate, float(value)) for name, value in zip(others, adjusted, strict=True)}
    return {headline: gate, **corrected} if headline in p else corrected


def _limits(found: Sequence[Difference], headline: str) -> Iterable[str]:
    """What the tests could not have shown, whatever the data."""
    tested = [pair for pair in found if pair.p_units is not None]
    others = [pair for pair in tested if pair.metric != headline]
    if not tested:
        return
    n_units = max(pair.n_units or 0 for pair in tested)
    least = smallest_p(n_units)
    if least > ALPHA:
        yield f"With {n_units} units p is at least {least:.3g}: no difference can be shown, however large it is."
    elif len(others) * least > ALPHA:
        can = "only the headline" if len(others) < len(tested) else "none"
        yield (
            f"With {n_units} units p is at least {least:.3g}, and {min(len(others) * least, 1):.3g} when corrected for "
            f"{len(others)} metrics, so {can} can be shown to differ; a metric chosen before looking can be tested "
            "alone with --metric."
        )
    if others and any(pair.metric == headline and not pair.shown for pair in tested):
        yield f"The headline {headline} is not shown to differ, so no other metric counts as different."


def _warnings(a: Side, b: Side) -> Iterable[str]:
    sides = {side.record.run: replace(side, system="model") for side in (a, b)}.values()
    records = [side.record for side in sides]
    for side in sides:
        if side.standing.state:
            yield f"{side.name} is {side.standing.state}: {side.standing.reason}."
    if any(record.audit is not None and record.audit.verdict == "confounded" for record in records):
        yield "Confounded: the class can be told without the brain's answer, so a better score is no better decoding."
    if any(record.provenance.conditioned_on == "label" for record in records):
        yield "Labels: at least one model is given the true classes, so it is a control and no decoder."
    if any(record.status == "partial" for record in records):
        yield "Partial: at least one record was made on some of the trials only."
    if len({record.identity.eeg_sha256 for record in records}) > 1:
        yield "A and B were made on differently prepared EEG of the same trials."
    if len(records) > 1 and _seedless(a.record) == _seedless(b.record):
        yield "A and B are one training with two seeds: what differs between them is the seed."
    elif len(records) > 1 and not (a.siblings and b.siblings):
        yield "p speaks of these two trainings: without two seeds of each, nobody knows how far another would be off."


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


# ---- finding what to compare


def find_sides(
    a: str,
    b: str | None,
    *,
    board: str,
    records: Sequence[Record],
    standings: Mapping[str, Standing] | None = None,
    track: str | None = None,
    control: str = SHUFFLED,
) -> tuple[Side, Side]:
    """The two sides that names mean; without ``b``, the model of a record and one of its controls.

    Args:
        a: A record file, the first digits of a record's id, or a model with one record on the track; as ``b``.
        board: Folder or URL of the board that ``records`` were read from.
        standings: How far each is to be believed, by run: a model's name means no retracted record if there is another.
        track: Where models are compared; needed where more than one track has both.

    Raises:
        UsageError: A name means nothing, or more than one record.
        IntegrityError: The per-trial values beside a record are not those it was written with.
    """
    known = standings or {}
    gone = frozenset(run for run, standing in known.items() if standing.state == "retracted")
    meant = {name: _meant(name, board, records, track, gone) for name in (a, b) if name is not None}
    where = {name: {record.identity.track for record in found.values()} for name, found in meant.items()}
    shared = set.intersection(*where.values())
    if len(shared) != 1:
        said = "; ".join(f"{name} is on {', '.join(sorted(tracks))}" for name, tracks in where.items())
        do = "choose one with --track" if shared else "evaluate both on the same one"
        raise UsageError(f"a comparison needs one track, but {said}; {do}.")
    chosen = [_one(name, found, shared) for name, found in meant.items()]
    others = [r for r in (*records, *(r for _, r in chosen)) if r.run not in gone]  # a file may be on no board
    sides = [
        Side(r, read_trials(path, r), siblings(r, others), standing=known.get(r.run, Standing())) for path, r in chosen
    ]
    if b is not None:
        return sides[0], sides[-1]
    if control not in sides[0].record.controls:
        has = ", ".join(sides[0].record.controls) or "none"
        raise UsageError(f"{sides[0].name} has no control {control!r}; its controls are: {has}.")
    return sides[0], replace(sides[0], system=control)


def _meant(
    name: str, board: str, records: Sequence[Record], track: str | None, gone: frozenset[str]
) -> dict[str, Record]:
    """Where the records that a name means lie; of several runs of an identity the one that the board ranks."""
    if name.endswith(".json"):
        return {name: Record.read(Path(name))}
    scored = [record for record in records if record.status == "ok" and track in (None, record.identity.track)]
    found = [record for record in scored if re.fullmatch("[0-9a-f]{4,}", name) and record.id.startswith(name)]
    named = [record for record in scored if record.identity.model == name]
    found = found or [record for record in named if record.run not in gone] or named
    if not found:
        models = sorted({record.identity.model for record in scored})
        where = board if track is None else f"{board} in {track}"
        raise UnknownNameError(
            f"{name!r} must be a record file (.json), the first 4 or more digits of a record's id or a model, but "
            f"{where} has neither; its models are: {', '.join(models) or 'none'}."
        )
    ranked = {r.id: r for r in sorted(found, key=lambda r: (r.run in gone, *preference(r)), reverse=True)}
    return {f"{board.rstrip('/')}/records/{record.name}": record for record in ranked.values()}


def _one(name: str, found: Mapping[str, Record], tracks: set[str]) -> tuple[str, Record]:
    """The record on the track; of several seeds the smallest, which nobody chose for its result."""
    fitting = {path: record for path, record in found.items() if record.identity.track in tracks}
    if len({_seedless(record) for record in fitting.values()}) > 1:
        ids = ", ".join(sorted(f"{record.id[:12]} (seed {record.identity.seed})" for record in fitting.values()))
        raise UsageError(f"{name} must mean one training up to its seed, but means {ids}; name one by its id.")
    return min(fitting.items(), key=lambda item: item[1].identity.seed)


def _seedless(record: Record) -> tuple[str, ...]:
    """Equal for trainings that differ in their seed, and in the weights it led to."""
    identity = record.identity.model_dump_json(exclude={"seed", "weights_sha256"})
    return identity, record.provenance.selection, record.status


def siblings(record: Record, records: Sequence[Record]) -> list[Record]:
    """The same training with other seeds, one record for each."""
    alike = [
        other
        for other in sorted(records, key=preference, reverse=True)
        if other.identity.seed != record.identity.seed and _seedless(other) == _seedless(record)
    ]
    return [*{other.identity.seed: other for other in alike}.values()]


def read_trials(path: str, record: Record) -> dict[tuple[str, str], Trials]:
    """The per-trial values that lie beside the record file at ``path`` (or URL), by system and metric.

    Returns:
        Nothing where there is no such file: a record may be pushed without it.

    Raises:
        IntegrityError, UsageError: As ``read_units``.
    """
    beside = path.removesuffix(".json") + ".units.parquet"
    try:
        with fsspec.open(beside) as file:
            data = file.read(UNITS_BYTES + 1)
    except FileNotFoundError:
        return {}
    return read_units(data, record, where=beside)

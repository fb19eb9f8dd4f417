"""A record's metrics computed again from what was uploaded beside it, by the code that scored it first.

The upload takes the model's place in a plan; recordings, split, controls, hashes that deal and pick, extractors and
metrics are this machine's own. Nothing that was computed for another plan is read, and nothing computed here is read by
another. That the numbers follow from the upload is all this shows: not that the model made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np

from zoo import __version__, registry
from zoo.datasets import base as data_room
from zoo.errors import GateError, IntegrityError, MissingError, UnknownNameError, UsageError, ZooError
from zoo.plan import Facts, Plan, Progress, find_track, pick_device, silent, split_sha
from zoo.record import Record, System, Value
from zoo.runner import Result, scored
from zoo.specs import TrackCard
from zoo.stages import Work
from zoo.store import digest
from zoo.upload import PREDICTIONS, Upload
from zoo.weights import WeightsInfo

if TYPE_CHECKING:
    from zoo.datasets.base import EEGDataset
    from zoo.models.base import Model
    from zoo.plan import Contest
    from zoo.specs import Split

TOLERANCE, ELSEWHERE = 1e-4, 1e-3
"""How far two values may lie apart, times the larger of 1 and the value; on another kind of device."""
BOUNDS = 10.0
"""An interval may be off by so many times that: leaving out units multiplies what rounding does."""
DECIDED = 0.01
"""Share of a metric's trials, at least one, that rounding may decide otherwise where values lie in [0, 1]."""
HEAD = "it trains the model's own encoder, which no upload holds"


class Trials(Protocol):
    """A metric's value of each trial; (n,) each."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def values(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Outcome:
    """What came of computing a record's metrics again.

    Attributes:
        same: (system, metric) that agree → how far the two values are apart.
        left: (system, metric) that could not be computed again → why.
        wrong: A sentence for everything that disagrees.
        used: Names of the uploaded arrays that took part.
        decided: Values per trial that differ by more than the tolerance, as rounding may make them.
        tolerance: That was applied, times the larger of 1 and the value.
    """

    same: Mapping[tuple[str, str], float]
    left: Mapping[tuple[str, str], str]
    wrong: tuple[str, ...]
    used: tuple[str, ...]
    decided: int
    tolerance: float
    device: str
    zoo: str = __version__


def validate(
    record: Record,
    trials: Mapping[tuple[str, str], Trials],
    upload: Upload,
    *,
    device: str = "auto",
    progress: Progress = silent,
) -> Outcome:
    """Compute every metric of the record's systems again, as far as the upload allows, and compare.

    Args:
        trials: The record's values per trial, by system and metric.

    Raises:
        IntegrityError: The upload does not belong to these recordings, or cannot be scored.
        MissingError: The recordings are not on this machine; the message names the command that brings them.
        GateError: The record's headline could not be computed again, so that nothing can be said of the record.
    """
    plan, left = _plan(record, upload, device, progress)
    found = _scored(plan, record)
    near = TOLERANCE if plan.work.device == record.provenance.device else ELSEWHERE
    here: dict[tuple[str, str], Trials] = _trials(found)
    same: dict[tuple[str, str], float] = {}
    wrong: list[str] = []
    decided = 0
    new = {"model": System(values=found.values), **found.controls}
    for system, old in {"model": System(values=record.values), **record.controls}.items():
        for name, value in old.values.items():
            key = (system, name)
            again = new[system].values.get(name) if system in new else None
            if value.value is None:
                if again is not None and again.value is not None:
                    wrong.append(f"{name} of {system} is null ({value.reason}), but comes out as {again.value:.6g}.")
                continue
            if again is None or again.value is None:
                left.setdefault(key, str(again.reason) if again is not None else "this release has no such metric")
                continue
            if again.signature != value.signature:
                left[key] = f"measured as {value.signature}, here as {again.signature}"
                continue
            sentences, off = _differences(value, again, trials.get(key), here.get(key), near)
            decided += off
            wrong += [f"{name} of {system} {sentence}" for sentence in sentences]
            if not sentences:
                same[key] = abs(again.value - value.value)
    if not wrong and ("model", record.headline) not in same:
        _refuse(record, left)
    return Outcome(same, left, tuple(wrong), tuple(sorted(upload.used)), decided, near, plan.work.device)


def _refuse(record: Record, left: Mapping[tuple[str, str], str]) -> NoReturn:
    why = left.get(("model", record.headline), "it has no value")
    raise GateError(
        f"{record.headline}, the headline of {record.id[:12]}, could not be computed again: {why.rstrip('.')}; without "
        "it nothing is validated."
    )


def _scored(plan: Plan, record: Record) -> Result:
    try:
        return scored(plan)
    except (ZooError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a stranger's numbers make a metric stumble over
        said = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"the upload of {record.id[:12]} cannot be scored ({type(error).__name__}: {said}); it is not what a model "
            "of this task makes."
        ) from error


# ---- the plan


def _plan(record: Record, upload: Upload, device: str, progress: Progress) -> tuple[Plan, dict[tuple[str, str], str]]:
    """The record's evaluation with the upload in the model's place; and what it leaves out, with the reason."""
    of, made = record.identity, record.provenance
    data = data_room.load(of.dataset)
    split = data.split(of.split)
    _require_same(record, data, split)
    track = _track(record, data, split)
    systems = {"model": System(values=record.values), **record.controls}
    measured = {name for one in systems.values() for name, value in one.values.items() if value.value is not None}
    heads = {name for name in measured if _trains(name)}
    chosen = track.model_copy(update={"metrics": tuple(name for name in track.metrics if name in measured - heads)})
    people = upload.arrays[PREDICTIONS].shape[0] if PREDICTIONS in upload else 1

    def load() -> Model:
        raise UsageError("it needs the model itself, which no upload holds")

    facts = Facts(
        settings=of.config,
        parts=(),
        encodes=True,
        makes_images=True,
        n_parameters=record.cost.n_parameters,
        conditioned_on=made.conditioned_on,
        classifies=True,
        predicts=True,
        subjects=("told apart",) if upload.manifest.subjects or people > 1 else (),
        retrieves=True,
        sees_by=upload.manifest.sees_by,
    )
    info = WeightsInfo(
        model=of.model,
        name="upload",
        config=of.config,
        eeg=data.spec,
        parts=(),
        sha256=digest(of.weights_sha256),
        source="given",
        trained_on=made.trained_on,
        seed=of.seed,
        selection=made.selection,
    )
    work = Work(device=pick_device(device), progress=progress)
    plan = Plan(chosen, data, split, load, facts, info, of.replicates, of.limit, work, upload=upload)
    return plan, {
        (system, name): HEAD
        for system, one in systems.items()
        for name in heads
        if name in one.values and one.values[name].value is not None
    }


def _trains(metric: str) -> bool:
    """Whether the metric needs the model itself."""
    try:
        return "encoder" in registry.metrics.get(metric).needs.values()
    except UnknownNameError:
        return False


def _require_same(record: Record, data: EEGDataset, split: Split) -> None:
    """Refuse recordings or a split that are not those of the record."""
    of = record.identity
    hashes = {split_sha(split), digest(split.model_dump(mode="json", exclude={"cut_from"}))}  # as before 0.2
    checks = {
        "trials": (of.trials_fingerprint, {data.fingerprint}),
        "recordings": (of.eeg_sha256, {data.eeg_sha256}),
        "pictures": (of.stimuli_sha256, {data.stimuli_sha256}),
        f"split {split.id}": (of.split_sha256, hashes),
    }
    for what, (said, here) in checks.items():
        if said not in here:
            raise MissingError(
                f"the {what} of {data.id} must be those of {record.id[:12]} ({said[:12]}), but this machine has "
                f"others ({min(here)[:12]}).\nto prepare them again, run: zoo data prepare {data.id}"
            )


def _track(record: Record, data: EEGDataset, split: Split) -> TrackCard:
    """The track of the record as this release knows it."""
    of = record.identity
    try:
        track = registry.tracks.get(of.track)
    except UnknownNameError:
        task: Contest = of.track.partition("/")[0]  # type: ignore[assignment]
        if task not in ("reconstruction", "recognition", "encoding", "retrieval"):
            raise UsageError(f"{of.track} is of no task of this release.") from None
        track = find_track(data, split, task)
    if track.id != of.track or digest(track.model_dump(mode="json")) != of.track_sha256:
        raise MissingError(
            f"the track of {record.id[:12]}, {of.track}, is not that of this release ({__version__}); it was made with "
            f"{of.zoo}: use that one.\nto install it, run: pip install eeg-image-zoo=={of.zoo}"
        )
    return track


# ---- the comparison


@dataclass(frozen=True)
class _Again:
    ids: np.ndarray
    values: np.ndarray


def _trials(found: Result) -> dict[tuple[str, str], Trials]:
    kept: dict[tuple[str, str], tuple[list[str], list[float]]] = {}
    for system, metric, trial, _, value in found.units:
        ids, values = kept.setdefault((system, metric), ([], []))
        ids.append(trial)
        values.append(value)
    return {key: _Again(np.array(ids), np.array(values)) for key, (ids, values) in kept.items()}


def _differences(
    old: Value, new: Value, before: Trials | None, after: Trials | None, near: float
) -> tuple[list[str], int]:
    """What tells the record's value from the one computed again; and how many trials rounding decided otherwise."""
    assert old.value is not None
    assert new.value is not None
    off, slack = 0, 0.0
    if before is not None and after is not None:
        told, off, slack = _per_trial(before, after, near)
        if told:
            return [told], 0
    elif (before is None) != (after is None):
        has = "has values per trial" if before is not None else "has none per trial"
        return [f"{has}, but computing it again gives {'none' if before is not None else 'some'}."], 0
    return [*_aggregates(old, new, near, slack)], off


def _per_trial(before: Trials, after: Trials, near: float) -> tuple[str, int, float]:
    """A sentence if values per trial disagree; else how many rounding decided, and what that does to the mean."""
    if {*before.ids.tolist()} != {*after.ids.tolist()}:
        odd = min({*before.ids.tolist()} ^ {*after.ids.tolist()})
        return f"must have a value for each of {after.ids.size} trials, but not so for {ascii(odd)}.", 0, 0.0
    one, two = (part.values[np.argsort(part.ids)] for part in (before, after))
    apart = np.abs(one - two)
    far = apart > near * np.maximum(1.0, np.abs(two))
    off = int(far.sum())
    shares = min(one.min(), two.min()) >= 0 and max(one.max(), two.max()) <= 1
    if off > (max(1, int(DECIDED * one.size)) if shares else 0):
        worst = int(apart.argmax())
        trial = str(np.sort(after.ids)[worst])
        return (
            f"says {one.mean():.6g}, but comes out as {two.mean():.6g}: {off} of {one.size} values per trial differ, "
            f"most that of {ascii(trial)[:80]}, {two[worst]:.6g} instead of {one[worst]:.6g}.",
            0,
            0.0,
        )
    return "", off, float(apart[far].sum()) / one.size


def _aggregates(old: Value, new: Value, near: float, slack: float) -> Iterator[str]:
    assert old.value is not None
    assert new.value is not None
    may = near * max(1.0, abs(new.value)) + slack
    if not abs(old.value - new.value) <= may:
        yield f"says {old.value:.6g}, but comes out as {new.value:.6g}, further apart than the {may:.2g} of rounding."
        return
    if len(old.replicates) != len(new.replicates):
        yield f"says {len(old.replicates)} replicates, but comes out with {len(new.replicates)}."
    elif old.replicates and max(
        abs(a - b) for a, b in zip(old.replicates, new.replicates, strict=True)
    ) > may + slack * (len(new.replicates) - 1):
        said, came = (", ".join(f"{x:.6g}" for x in part.replicates) for part in (old, new))
        yield f"says {said} for its replicates, but they come out as {came}."
    if (old.interval is None) != (new.interval is None):
        has, gives = ("no", "one") if old.interval is None else ("an", "none")
        yield f"has {has} interval, but computing it again gives {gives}."
    elif old.interval is not None and new.interval is not None:
        if any(abs(a - b) > BOUNDS * may for a, b in zip(old.interval, new.interval, strict=True)):
            said, came = (f"{low:.6g} to {high:.6g}" for low, high in (old.interval, new.interval))
            yield f"says an interval of {said}, but it comes out as {came}."
    if (old.n, old.n_units) != (new.n, new.n_units):
        yield f"says {old.n} trials of {old.n_units} units, but comes out of {new.n} of {new.n_units}."

"""Does the split let a decoder know the class without the brain? Answered from the tables, the signal and the pictures.

Questions that decide the verdict are decoders that need no evoked response, fitted on the training role:
    <place>_lookup  the majority class of the same recording, block, run, session or subject
    neighbour       the class of the training trial recorded nearest in time
    position        the majority class at the same position of other runs
    baseline        a classifier of level and size of every channel before onset
Whatever scores above chance there is available to any network, so a score on that split is not evidence of decoding:
the argument of Li et al. (IEEE TPAMI 43:316-333, 2021) against block designs. Questions that a true response can answer
too (``means`` and the bands of ``zoo.audits.confound``) are asked alike and reported, but decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from zoo.audits.confound import BAND, predict, signal_features
from zoo.audits.duplicates import Duplicates, Pictures, find_duplicates
from zoo.specs import EEGSpec, Protocol, Verdict
from zoo.stats import keyed_rng

PLACES = ("recording", "block", "run", "session", "subject")
"""Trials table columns that say where in time, and on whom, a trial was recorded; finest first."""
FALSE_ALARM = 0.01
"""Probability that any of the deciding questions accuses a split in which class and time have nothing to do."""
MARGIN = 0.05
"""Smallest accuracy over chance that makes a split confounded, or half of chance where that is less."""
RELABELLINGS = 1999
MOST = 4000
"""Trials of a role that are asked about, or that a classifier of the signal is fitted to."""
MOST_RUNS = 200

PROMISES: dict[Protocol, str] = {
    "cross-subject": "subject",
    "cross-session": "session",
    "cross-run": "run",
    "unseen-stimulus": "stimulus_id",
    "unseen-concept": "concept",
}
"""What the roles of a protocol must not share."""


@dataclass(frozen=True)
class Finding:
    """One question's answer on the test role.

    Attributes:
        accuracy: Share of test trials named right; a decoder that cannot tell classes apart gets its fair share.
        chance: Its mean over all ways to deal the classes to the streaks anew.
        low, high: What 95 % of them give.
        p: Share of them that give as much (Phipson & Smyth 2010: the observed one counts).
        n_units: Streaks the trials belong to.
        decides: Whether it needs no evoked response, so that it may decide the verdict.
    """

    name: str
    accuracy: float
    chance: float
    low: float
    high: float
    p: float
    n: int
    n_units: int
    decides: bool

    @property
    def matters(self) -> bool:
        return self.accuracy > self.chance + min(MARGIN, self.chance / 2)


@dataclass(frozen=True)
class Overlap:
    """Values of one trials column in the training role, in the test role, and in both."""

    unit: str
    train: int
    test: int
    shared: int


@dataclass(frozen=True)
class LeakageReport:
    """The answers, and the verdict that follows from them.

    Attributes:
        associations: How far class and place belong together: 0 unrelated, 1 every place has one class.
        broken: Sentences on what the protocol promises and the roles do not keep.
        finest: The p of a decoder that is always right: what the number of streaks in the test role can show at most.
        unseen: No class of the test role trains, so nothing can have learned to name one, and no question is asked.
    """

    findings: tuple[Finding, ...]
    overlaps: tuple[Overlap, ...]
    associations: Mapping[str, float] = field(default_factory=dict)
    duplicates: Duplicates | None = None
    broken: tuple[str, ...] = ()
    finest: float = 0.0
    unseen: bool = False

    @property
    def level(self) -> float:
        """Largest p at which a deciding question is believed: the false alarms, shared by all of them (Bonferroni)."""
        return FALSE_ALARM / max(1, sum(found.decides for found in self.findings))

    @property
    def blind(self) -> bool:
        """Whether the test role holds too few streaks for any answer to be believed."""
        return any(found.decides for found in self.findings) and self.finest > self.level

    def outcome(self, found: Finding) -> Literal["leak", "trace", "no leak", "told", "not told"]:
        """``leak`` accuses; ``trace`` is above chance, but little; ``told`` does not say by what."""
        sure = found.p <= self.level
        if not found.decides:
            return "told" if sure else "not told"
        return ("leak" if found.matters else "trace") if sure else "no leak"

    @property
    def verdict(self) -> Verdict:
        """``confounded`` by a leak, ``suspect`` by a trace or a broken promise, ``unknown`` without any answer."""
        outcomes = {self.outcome(found) for found in self.findings}
        if "leak" in outcomes:
            return "confounded"
        if "trace" in outcomes or self.broken:
            return "suspect"
        asked = any(found.decides for found in self.findings) or any(row.unit in PLACES for row in self.overlaps)
        return "clean" if asked and not self.blind else "unknown"

    @property
    def evidence(self) -> dict[str, float | str | None]:
        """Flat numbers for the record."""
        table: dict[str, float | str | None] = {"level": self.level}
        for found in self.findings:
            for key in ("accuracy", "chance", "low", "high", "p", "n", "n_units"):
                table[f"{found.name}_{key}"] = getattr(found, key)
        for row in self.overlaps:
            table |= {f"{row.unit}_train": row.train, f"{row.unit}_test": row.test, f"{row.unit}_shared": row.shared}
        table |= {f"{place}_association": value for place, value in self.associations.items()}
        if self.duplicates is not None:
            seen = self.duplicates
            table |= {"pictures_test": seen.n, "pictures_same": seen.same, "pictures_alike": seen.alike}
        return table

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same for people."""
        said = [
            f"{found.name}: {found.accuracy:.3f} against chance {found.chance:.3f} [{found.low:.3f}, {found.high:.3f}] "
            f"(p {found.p:.2g}, {found.n} trials in {found.n_units} streaks): {self.outcome(found)}"
            + ("" if found.decides else ", decides nothing")
            for found in self.findings
        ]
        told = [f for f in self.findings if f.name.startswith(BAND) and self.outcome(f) == "told"]
        if told and not (best := max(told, key=lambda f: f.accuracy).name).startswith(f"{BAND}5-"):
            said.append(f"{best} tells the class best: drift, muscles or the mains would do that as well as a response")
        if self.overlaps:
            said.append("in both roles: " + ", ".join(f"{o.shared} of {o.test} test {o.unit}s" for o in self.overlaps))
        if self.associations:
            numbers = (f"{place} {value:.2f}" for place, value in self.associations.items())
            said.append(f"association of class with {', '.join(numbers)} (0 none, 1 complete)")
        if (seen := self.duplicates) is not None:
            almost = seen.alike - seen.same
            said.append(f"of {seen.n} test pictures {seen.same} are training pictures, {almost} nearly so")
        if self.unseen:
            said.append("no class of the test role trains: nothing can have learned to name one, so nothing was asked")
        if self.blind:
            said.append("the test role holds too few streaks of one class to tell a leak from luck")
        return (*said, *self.broken)


def audit_split(
    *,
    eeg: np.ndarray,
    spec: EEGSpec,
    labels: np.ndarray,
    trials: Mapping[str, np.ndarray],
    roles: np.ndarray,
    protocol: Protocol,
    pictures: Pictures | None = None,
) -> LeakageReport:
    """Ask every question that the columns and the time before onset allow, if a test class is among the training ones.

    Of each role at most 4,000 trials are asked about or fitted to, drawn at random but always the same.

    Shape:
        eeg: (n_trials, n_channels, n_times); labels, roles and every column of trials: (n_trials,).
    """
    train, test = np.flatnonzero(roles == "train"), np.flatnonzero(roles == "test")
    unseen = not np.isin(labels[test], labels[train]).any()
    asked, fitted = _sample(test), _sample(train)
    places = {unit: column for unit in PLACES if (column := _codes(trials, unit)) is not None}
    jury = Jury(labels, streaks(trials, labels), asked)
    findings: list[Finding] = []
    if not unseen:
        votes = {f"{unit}_lookup": lookup(places[unit], labels, train, asked) for unit in _different(places)}
        votes["neighbour"] = neighbour(trials, labels, train, asked)
        votes["position"] = position(trials, labels, train, asked)
        findings += [jury.judge(name, vote, decides=True) for name, vote in votes.items() if vote is not None]
        known, unknown = signal_features(eeg, fitted, spec), signal_features(eeg, asked, spec)
        for name in known:
            named = predict(known=known[name], labels=labels[fitted], asked=unknown[name])
            findings.append(jury.judge(name, np.eye(jury.n_classes)[named], decides=name == "baseline"))
    overlaps = [
        Overlap(unit, *_count(column[train], column[test]))
        for unit in ("subject", "session", "run", "block", "recording", "stimulus_id", "concept")
        if (column := _codes(trials, unit)) is not None
    ]
    duplicates = find_duplicates(pictures) if pictures is not None else None
    return LeakageReport(
        tuple(findings),
        tuple(overlaps),
        {unit: association(places[unit], labels) for unit in _different(places)},
        duplicates,
        _broken(protocol, overlaps, duplicates),
        jury.finest,
        unseen,
    )


# ---- decoders: votes (n_test, n_classes) whose rows sum to one, or None where they cannot be asked


def lookup(place: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray | None:
    """The class that most training trials of the same place have; a fair guess for places unknown to training."""
    table = np.zeros((int(place.max()) + 2, int(labels.max()) + 1))  # the last row answers for trials without a place
    np.add.at(table, (place[train], labels[train]), 1)
    table[-1] = 0
    return _leading(table[place[test]])


def neighbour(
    trials: Mapping[str, np.ndarray], labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray | None:
    """The class of the training trial nearest in the order of the same run; a fair guess for runs not in training."""
    clock, order = _clock(trials), trials.get("order")
    if clock is None or order is None:
        return None
    order = order - order.min()
    time = clock * 2 * (order.max() + 1) + order  # any trial of the same run is nearer than all of other runs
    known = train[np.argsort(time[train], kind="stable")]
    at = np.searchsorted(time[known], time[test])
    before, after = known[np.maximum(at - 1, 0)], known[np.minimum(at, known.size - 1)]
    near = np.where(np.abs(time[before] - time[test]) <= np.abs(time[after] - time[test]), before, after)
    table = np.zeros((test.size, int(labels.max()) + 1))
    table[np.arange(test.size), labels[near]] = clock[near] == clock[test]
    return _leading(table)


def position(
    trials: Mapping[str, np.ndarray], labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray | None:
    """The class that most training trials have at the same position of other runs, about one trial of each run."""
    clock, order = _clock(trials), trials.get("order")
    if clock is None or order is None:
        return None
    known = train[np.lexsort((clock[train], order[train]))]
    width = min(np.unique(clock[train]).size, MOST_RUNS)
    middle = (np.searchsorted(order[known], order[test]) + np.searchsorted(order[known], order[test], "right")) // 2
    window = np.clip(middle[:, None] - width // 2 + np.arange(width), 0, known.size - 1)
    near = known[window]
    table = np.zeros((test.size, int(labels.max()) + 1))
    np.add.at(table, (np.arange(test.size)[:, None], labels[near]), clock[near] != clock[test][:, None])
    return _leading(table)


def _leading(table: np.ndarray) -> np.ndarray | None:
    """Votes for the classes that lead in a row, shared fairly; None if no row says anything."""
    if not table.any():
        return None
    lead = table == table.max(axis=1, keepdims=True)
    votes: np.ndarray = lead / lead.sum(axis=1, keepdims=True)
    return votes


# ---- what chance is


def streaks(trials: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Number the stretches of one person's trials, in the order of recording, that have one class: (n_trials,) from 0.

    Streaks, not trials, are what an experimenter gives a class to. In a mixed design most hold a single trial; in a
    block design a streak is a block, whose trials share offset and drift and so are right or wrong together. Where the
    order of recording is unknown but blocks are known, those stand for it.
    """
    nothing = np.zeros(labels.size, dtype=np.int64)
    session, clock = (nothing if codes is None else codes for codes in (_codes(trials, "session"), _clock(trials)))
    person = clock if (codes := _codes(trials, "subject")) is None else codes
    order = trials.get("order")
    if order is None:
        block = _codes(trials, "block")
        order = np.arange(labels.size) if block is None else np.unique((block, labels), axis=1, return_inverse=True)[1]
    line = np.lexsort((order, clock, session, person))
    changes = (np.diff(labels[line]) != 0) | (np.diff(person[line]) != 0)
    number = np.empty(labels.size, dtype=np.int64)
    number[line] = np.concatenate([[0], np.cumsum(changes)])
    return number


class Jury:
    """Compares decoders with what they would score if the classes were dealt to the streaks of the test role anew.

    This is the permutation test of the hypothesis that class has nothing to do with anything else of a trial.
    """

    def __init__(self, labels: np.ndarray, streak: np.ndarray, test: np.ndarray) -> None:
        self.n_classes = int(labels.max()) + 1
        first, self._unit = np.unique(streak[test], return_index=True, return_inverse=True)[1:]
        self._class = labels[test][first]

    @cached_property
    def _dealt(self) -> np.ndarray:
        """(RELABELLINGS, n_units) classes."""
        rng = keyed_rng("audit", "relabelling")
        return rng.permuted(np.tile(self._class.astype(np.int32), (RELABELLINGS, 1)), axis=1)

    @cached_property
    def finest(self) -> float:
        """The p of a decoder that is always right: large where a few streaks can hardly be dealt in another way."""
        return float(1 + np.all(self._dealt == self._class, axis=1).sum()) / (1 + RELABELLINGS)

    def judge(self, name: str, votes: np.ndarray, *, decides: bool) -> Finding:
        """Weigh the votes of a decoder, (n_test, n_classes) with rows that sum to one."""
        n, n_units = len(votes), self._class.size
        by_unit = np.zeros((n_units, self.n_classes))
        np.add.at(by_unit, self._unit, votes)
        at = np.arange(n_units)
        hits = float(by_unit[at, self._class].sum())
        dealt = np.array([by_unit[at, classes].sum() for classes in self._dealt])
        low, high = np.quantile(dealt, [0.025, 0.975])
        chance = float(by_unit.sum(axis=0) @ np.bincount(self._class, minlength=self.n_classes)) / n_units
        return Finding(
            name=name,
            accuracy=hits / n,
            chance=chance / n,
            low=float(low) / n,
            high=float(high) / n,
            p=float(1 + np.sum(dealt >= hits - 1e-6)) / (1 + RELABELLINGS),
            n=n,
            n_units=n_units,
            decides=decides,
        )


def association(place: np.ndarray, labels: np.ndarray) -> float:
    """Cramér's V of class and place, stretched from what unrelated ones give on average to complete association.

    Without that, many small places seem related to any class by chance alone.

    References:
        Bergsma (2013), A bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean Statistical Society
        42:323-328, for the expectation of φ² without association.
    """
    known = place >= 0
    (places, row), (classes, column) = (np.unique(x[known], return_inverse=True) for x in (place, labels))
    table = np.zeros((places.size, classes.size))
    np.add.at(table, (row, column), 1)
    n = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    found = ((table - expected) ** 2 / expected).sum() / n
    none = (places.size - 1) * (classes.size - 1) / (n - 1)
    complete = min(table.shape) - 1
    return float(np.sqrt(max(0.0, found - none) / (complete - none))) if complete > none else 0.0


# ---- the tables


def timeline(trials: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Classes by run and position, (n_runs, n_positions) int64 with -1 where there is no trial, for a picture."""
    clock = _clock(trials)
    clock = np.zeros(labels.size, dtype=np.int64) if clock is None else clock
    order = trials.get("order", np.arange(labels.size))
    table = np.full((int(clock.max()) + 1, int(order.max()) + 1), -1, dtype=np.int64)
    table[clock, order] = labels
    return table


def _broken(protocol: Protocol, overlaps: list[Overlap], duplicates: Duplicates | None) -> tuple[str, ...]:
    """What the protocol's name promises and the roles do not keep; windows parted at random keep nothing apart."""
    if protocol == "random-window" and not {row.unit for row in overlaps} & set(PLACES[:-1]):
        return (
            "the split parts windows at random, and the trials do not say their recording: both roles may share it",
        )
    promised = PROMISES.get(protocol)
    if promised is None:
        return ()
    found = next((row for row in overlaps if row.unit == promised), None)
    if found is None:
        return (f"the split promises {protocol}, but the trials do not say their {promised}",)
    broken = []
    if found.shared:
        broken.append(f"the split promises {protocol}, but {found.shared} {promised}s are in both roles")
    if duplicates is not None and protocol.startswith("unseen"):
        if duplicates.same:
            broken.append(f"the split promises {protocol}, but {duplicates.same} test pictures are training pictures")
        elif duplicates.alike > MARGIN * duplicates.n:
            broken.append(
                f"the split promises {protocol}, but {duplicates.alike} test pictures are nearly training pictures"
            )
    return tuple(broken)


def _codes(trials: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """A column as whole numbers from 0, -1 where unknown, or None if it is unknown throughout.

    A session is one of a subject; every other column names one thing in the whole dataset.
    """
    column = trials.get(name)
    if column is None:
        return None
    known = np.array([value is not None for value in column]) if column.dtype == object else np.full(column.size, True)
    if not known.any():
        return None
    codes = np.unique(column.astype(np.str_), return_inverse=True)[1].astype(np.int64)
    if name == "session" and (subject := _codes(trials, "subject")) is not None:
        codes = np.unique(subject * (codes.max() + 1) + codes, return_inverse=True)[1].astype(np.int64)
    codes[~known] = -1
    return codes


def _clock(trials: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What ``order`` counts within: runs, or the next best that is known."""
    found = (_codes(trials, name) for name in ("run", "recording", "session", "subject"))
    return next((codes for codes in found if codes is not None), None)


def _different(places: Mapping[str, np.ndarray]) -> list[str]:
    """The places that divide the trials in different ways: the same question is not asked twice."""
    kept: list[str] = []
    for unit, codes in places.items():
        if not any(_same_partition(codes, places[other]) for other in kept):
            kept.append(unit)
    return kept


def _same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(one * (other.max() + 2) + other).size
    return bool(pairs == np.unique(one).size == np.unique(other).size)


def _count(train: np.ndarray, test: np.ndarray) -> tuple[int, int, int]:
    known, asked = np.unique(train[train >= 0]), np.unique(test[test >= 0])
    return known.size, asked.size, np.intersect1d(known, asked).size


def _sample(rows: np.ndarray) -> np.ndarray:
    if rows.size <= MOST:
        return rows
    drawn: np.ndarray = np.sort(keyed_rng("audit", "sample", rows.size).choice(rows, MOST, replace=False))
    return drawn

"""Does the split let a decoder know the class without the brain? Answered from the tables and the pre-stimulus signal.

Three questions, each a decoder that needs no evoked response:
    lookup      the majority class of the same recording, block or run in the training role
    neighbour   the class of the training trial recorded nearest in time
    baseline    a linear classifier on channel means before stimulus onset (where there is such a time)
Whatever scores above chance there is available to any network, so a score on that split is not evidence of decoding:
the argument of Li et al. (IEEE TPAMI) against block designs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zoo.specs import EEGSpec, Protocol, Verdict

PLACES = ("recording", "block", "run")
"""Trials table columns that say where in time a trial stands, finest first."""
SURE = 1e-3
"""p below which a leak is believed."""
MARGIN = 0.05
"""Smallest accuracy over chance that matters, whatever its p."""


@dataclass(frozen=True)
class Finding:
    """One question's answer: accuracy on the test role against chance, with a one-sided binomial p."""

    name: str
    accuracy: float
    chance: float
    p: float
    n: int

    @property
    def leaks(self) -> bool:
        return self.p < SURE and self.accuracy > self.chance + MARGIN


@dataclass(frozen=True)
class LeakageReport:
    verdict: Verdict
    findings: tuple[Finding, ...]
    sentences: tuple[str, ...]

    @property
    def evidence(self) -> dict[str, float | str | None]:
        """Flat numbers for the record."""
        table: dict[str, float | str | None] = {}
        for found in self.findings:
            table |= {f"{found.name}_accuracy": found.accuracy, f"{found.name}_p": found.p, "chance": found.chance}
        return table


def audit_split(
    *,
    eeg: np.ndarray,
    spec: EEGSpec,
    labels: np.ndarray,
    trials: Mapping[str, np.ndarray],
    roles: np.ndarray,
    protocol: Protocol,
) -> LeakageReport:
    """Judge one split: ``confounded`` if any brain-free decoder beats chance, ``unknown`` if none could be asked.

    Shape:
        eeg: (n_trials, n_channels, n_times); labels, roles and every column of trials: (n_trials,).
    """
    train, test = np.flatnonzero(roles == "train"), np.flatnonzero(roles == "test")
    findings = []
    for place in PLACES:
        if (column := _place(trials, place)) is not None:
            findings.append(lookup(place, column, labels, train, test))
    if (near := neighbour(trials, labels, train, test)) is not None:
        findings.append(near)
    if (before := baseline(eeg, spec, labels, train, test)) is not None:
        findings.append(before)
    broken = _broken_promises(trials, train, test, protocol)
    leaks = [found for found in findings if found.leaks]
    verdict: Verdict = "confounded" if leaks else "suspect" if broken else "clean" if findings else "unknown"
    return LeakageReport(verdict, tuple(findings), tuple(_sentence(found) for found in findings) + tuple(broken))


def lookup(name: str, column: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> Finding:
    """Predict a test trial's class by the majority of the training trials of the same place; elsewhere, guess."""
    n_classes = int(labels.max()) + 1
    _, place = np.unique(column, return_inverse=True)
    table = np.zeros((int(place.max()) + 1, n_classes))
    np.add.at(table, (place[train], labels[train]), 1)
    row = table[place[test]]
    # Ties, and places never seen in training, count as a fair guess among the classes that lead.
    lead = row == row.max(axis=1, keepdims=True)
    hit = lead[np.arange(test.size), labels[test]] / lead.sum(axis=1)
    return _finding(f"{name}_lookup", hit, labels[train], labels[test])


def neighbour(
    trials: Mapping[str, np.ndarray], labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> Finding | None:
    """Predict by the training trial nearest in presentation order within the same recording, else the same run."""
    order = trials.get("order")
    columns = [
        c for c in (_place(trials, name) for name in ("subject", "session", "run", "recording")) if c is not None
    ]
    if order is None or not columns:
        return None
    _, place = np.unique(np.stack([c.astype(str) for c in columns]), axis=1, return_inverse=True)
    time = place.astype(np.float64) * 1e9 + order.astype(np.float64)
    sorted_train = train[np.argsort(time[train], kind="stable")]
    at = np.searchsorted(time[sorted_train], time[test])
    left = sorted_train[np.clip(at - 1, 0, train.size - 1)]
    right = sorted_train[np.clip(at, 0, train.size - 1)]
    near = np.where(np.abs(time[left] - time[test]) <= np.abs(time[right] - time[test]), left, right)
    near_by = place[near] == place[test]
    if not near_by.any():
        return None
    asked = test[near_by]
    return _finding("neighbour", (labels[near[near_by]] == labels[asked]).astype(float), labels[train], labels[asked])


def baseline(
    eeg: np.ndarray, spec: EEGSpec, labels: np.ndarray, train: np.ndarray, test: np.ndarray, *, most: int = 5000
) -> Finding | None:
    """Predict from channel means before onset, where the brain cannot know the picture yet."""
    before = int(round(-spec.tmin * spec.sfreq))
    if before < 2:
        return None
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    def means(rows: np.ndarray) -> np.ndarray:
        return np.stack([eeg[row, :, :before].mean(axis=1, dtype=np.float64) for row in rows])

    train, test = _spread(train, most), _spread(test, most)
    known = means(train)
    scale = known.std(axis=0).clip(min=1e-30)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(known / scale, labels[train])
    hit = model.predict(means(test) / scale) == labels[test]
    return _finding("baseline", hit.astype(float), labels[train], labels[test])


def _finding(name: str, hit: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray) -> Finding:
    """Chance is what the largest training class would score, or a uniform guess if that is more."""
    from scipy.stats import binom

    counts = np.bincount(train_labels)
    chance = max(float(np.mean(test_labels == counts.argmax())), 1 / np.count_nonzero(counts))
    n = hit.size
    p = float(binom.sf(int(np.floor(hit.sum())) - 1, n, chance)) if hit.sum() >= 1 else 1.0
    return Finding(name, float(hit.mean()), chance, p, n)


def _place(trials: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """A column with at least one known value, made unique across subjects and sessions."""
    column = trials.get(name)
    if column is None or all(value is None for value in column):
        return None
    parts = [trials[key] for key in ("subject", "session") if key in trials and key != name] + [column]
    return np.array(["/".join(map(str, row)) for row in zip(*parts, strict=True)])


def _broken_promises(
    trials: Mapping[str, np.ndarray], train: np.ndarray, test: np.ndarray, protocol: Protocol
) -> list[str]:
    """What the protocol's name says must not be shared between the roles, and is."""
    promised = {
        "cross-subject": "subject",
        "cross-session": "session",
        "cross-run": "run",
        "unseen-stimulus": "stimulus_id",
        "unseen-concept": "concept",
    }.get(protocol)
    if promised is None:
        return []
    column = _place(trials, promised) if promised in ("session", "run") else trials.get(promised)
    if column is None:
        return [f"the split promises {protocol}, but the trials do not say their {promised}"]
    shared = set(column[train].tolist()) & set(column[test].tolist())
    return [f"the split promises {protocol}, but {len(shared)} {promised}s are in both roles"] if shared else []


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if rows.size <= most else rows[np.linspace(0, rows.size - 1, most).astype(int)]


def _sentence(found: Finding) -> str:
    word = "LEAK" if found.leaks else "no leak"
    return (
        f"{found.name}: {found.accuracy:.3f} against chance {found.chance:.3f} (p {found.p:.2g}, n {found.n}): {word}"
    )

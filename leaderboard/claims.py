"""What the literature says, each number with the place where it was read, beside what was measured here.

Models of this zoo have their claims on their cards; what is published of other systems, and what others published of
ours, stands in ``claims/*.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from leaderboard.standing import Note, standings
from zoo.record import Record
from zoo.specs import Claim, ModelCard, Spec, Verdict

Outcome = Literal["reproduced", "not reproduced", "could not reproduce", "not tried"]
FOLDER = Path(__file__).with_name("claims")


class Published(Spec):
    """A system and what is claimed of it. One that is also a model of this zoo has that model's id."""

    id: str
    title: str
    year: int | None = None
    paper: str
    claims: tuple[Claim, ...]


class Attempt(Spec):
    """What became of repeating a claim where no record of the same model and dataset can say it."""

    model: str
    dataset: str
    """As in the claim; a claim's dataset that begins with it and a slash is meant too."""
    metric: str | None = None
    """All of them if null."""
    reason: str
    """Why it could not be repeated, or what stands in for it."""
    instead: str | None = None
    """Dataset whose records of this model stand in."""


@dataclass(frozen=True)
class Measured:
    """One record's value for a claim."""

    record: str
    run: str
    track: str
    split: str
    verdict: Verdict
    selection: str
    value: float
    interval: tuple[float, float] | None
    delta: float
    """Measured minus claimed."""
    holds: bool
    """Whether the claim lies within the interval, or within the claim's own spread of the value."""


@dataclass(frozen=True)
class ClaimRow:
    """A claim beside everything measured for it.

    Attributes:
        dataset: Dataset of the claim; ``condition`` is what stands behind its slash, such as ``subject-08``.
        status: ``seen`` in the work itself, or ``third-party``.
        outcome: ``reproduced`` if a record holds it, ``not reproduced`` if records were made and none does.
        reason: Of ``could not reproduce``; or what a reader of the measured values must know.
        measured: The record that comes closest first.
    """

    model: str
    title: str
    year: int | None
    paper: str
    metric: str
    claimed: float
    spread: float | None
    dataset: str
    condition: str
    source: str
    status: str
    note: str | None
    outcome: Outcome
    reason: str | None = None
    measured: tuple[Measured, ...] = ()

    @property
    def reproduced(self) -> Measured | None:
        """The closest measurement, whether or not it holds the claim."""
        return self.measured[0] if self.measured else None


@cache
def literature() -> tuple[Published, ...]:
    """The systems of ``claims/*.yaml``."""
    files = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "attempts.yaml")
    return tuple(Published.model_validate(entry) for path in files for entry in _entries(path))


@cache
def attempts() -> tuple[Attempt, ...]:
    return tuple(Attempt.model_validate(entry) for entry in _entries(FOLDER / "attempts.yaml"))


def of_cards(cards: Iterable[ModelCard]) -> list[Published]:
    """The claims that stand on model cards."""
    return [Published(id=c.id, title=c.title, paper=c.paper, claims=c.claims) for c in cards if c.claims]


def claim_rows(
    published: Iterable[Published],
    records: Iterable[Record],
    *,
    notes: Iterable[Note] = (),
    tried: Sequence[Attempt] | None = None,
) -> list[ClaimRow]:
    """Every claim with the records that speak of it, in the order of models, datasets, metrics and sources.

    A record speaks of a claim if its model, dataset and metric are the claim's, and the claim is of no part of the data
    (a subject, a band) only. The model must be the published one: presets such as ``.small`` have ids of their own.

    Args:
        notes: What is said of records; a retracted one speaks of no claim.
        tried: What is said of claims without records; ``attempts()`` if None.
    """
    kept = [*records]
    known_of = standings(kept, notes)
    complete = [record for record in kept if record.status == "ok" and known_of[record.run].state != "retracted"]
    known = attempts() if tried is None else tried
    rows = [_row(system, claim, complete, known) for system in published for claim in system.claims]
    return sorted(rows, key=lambda row: (row.model, row.dataset, row.condition, row.metric, row.source))


def _entries(path: Path) -> list[Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or []


def _row(system: Published, claim: Claim, records: Sequence[Record], tried: Sequence[Attempt]) -> ClaimRow:
    dataset, _, condition = claim.dataset.partition("/")
    attempt = next((a for a in tried if _meant(a, system.id, claim)), None)
    of = attempt.instead if attempt and attempt.instead else dataset
    mine = (r for r in records if r.identity.model == system.id and r.identity.dataset == of and not condition)
    found = sorted(
        (m for record in mine if (m := _measured(record, claim)) is not None), key=lambda m: (abs(m.delta), m.run)
    )
    outcome: Outcome = "not tried"
    if found:
        outcome = "reproduced" if any(m.holds for m in found) else "not reproduced"
    elif attempt is not None:
        outcome = "could not reproduce"
    return ClaimRow(
        model=system.id,
        title=system.title,
        year=system.year,
        paper=system.paper,
        metric=claim.metric,
        claimed=claim.value,
        spread=claim.spread,
        dataset=dataset,
        condition=condition,
        source=claim.source,
        status=claim.status,
        note=claim.note,
        outcome=outcome,
        reason=attempt.reason if attempt else None,
        measured=tuple(found),
    )


def _meant(attempt: Attempt, model: str, claim: Claim) -> bool:
    return (
        attempt.model == model
        and f"{claim.dataset}/".startswith(f"{attempt.dataset}/")
        and attempt.metric in (None, claim.metric)
    )


def _measured(record: Record, claim: Claim) -> Measured | None:
    value = record.values.get(claim.metric)
    if value is None or value.value is None:
        return None
    low, high = value.interval or (value.value, value.value)
    spread = claim.spread or 0.0
    return Measured(
        record=record.id,
        run=record.run,
        track=record.identity.track,
        split=record.identity.split,
        verdict=record.audit.verdict if record.audit else "unknown",
        selection=record.provenance.selection,
        value=value.value,
        interval=value.interval,
        delta=value.value - claim.value,
        holds=low - spread <= claim.value <= high + spread,
    )

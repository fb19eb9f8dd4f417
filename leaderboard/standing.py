"""How far a record is to be believed: its level, and whether somebody took it back or contests it.

A record never changes. What is said of it later are notes beside it, each a file of its own that nothing overwrites.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from leaderboard.submission import NOTE_BYTES
from zoo.errors import IntegrityError, UsageError
from zoo.record import Record
from zoo.specs import SHA256, Spec
from zoo.store import digest, json_bytes

Kind = Literal["submitted", "validated", "attested", "contested", "settled", "retracted"]
Level = Literal["self", "validated", "reproduced", "attested"]
State = Literal["", "contested", "retracted"]


Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Part(Spec):
    """Systems of a record and metrics of theirs; each of the one with each of the other."""

    systems: tuple[Name, ...] = Field(min_length=1, max_length=64)
    metrics: tuple[Name, ...] = Field(min_length=1, max_length=400)
    why: str = Field(default="", max_length=300)
    """Why they were not computed again, where they were not."""


class Evidence(Spec):
    """What stands behind ``validated``: which values were computed again, from what, by what, how exactly."""

    upload_sha256: str = Field(pattern=SHA256)
    """Of the upload's manifest, which holds that of every file."""
    zoo: Name
    """Version that computed them."""
    device: Literal["cpu", "cuda"]
    tolerance: float = Field(gt=0, lt=1, allow_inf_nan=False)
    largest: float = Field(ge=0, allow_inf_nan=False)
    """How far a value and the one computed again are apart at most."""
    decided: int = Field(default=0, ge=0)
    """Values per trial that rounding decided otherwise."""
    began: tuple[Name, ...] = Field(min_length=1, max_length=400)
    """Uploaded arrays that were read."""
    same: tuple[Part, ...] = Field(min_length=1, max_length=64)
    left: tuple[Part, ...] = Field(default=(), max_length=64)

    @property
    def n(self) -> int:
        """How many values agree."""
        return sum(len(part.systems) * len(part.metrics) for part in self.same)


def parts(values: Mapping[tuple[str, str], str]) -> tuple[Part, ...]:
    """(system, metric) → why, put together: systems with the same metrics, for the same reason, stand in one part.

    Example:
        >>> [part.systems for part in parts({("model", "fid"): "", ("real", "fid"): "", ("model", "ssim"): "?"})]
        [('model', 'real'), ('model',)]
    """
    metrics: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (system, metric), why in values.items():
        metrics[system, why[:300]].append(metric)
    systems: dict[tuple[tuple[str, ...], str], list[str]] = defaultdict(list)
    for (system, why), names in metrics.items():
        systems[tuple(sorted(names)), why].append(system)
    return tuple(Part(systems=tuple(who), metrics=what, why=why) for (what, why), who in systems.items())


class Note(Spec):
    """What somebody says of a record.

    ``submitted``: ``by`` sent it. ``validated``: ``by`` computed its values anew from what was uploaded. ``attested``:
    ``by`` ran it. ``contested`` and ``retracted``: with the reason; ``settled`` ends a contest.
    """

    schema_version: Literal[1] = 1
    record: str = Field(pattern=SHA256)
    run: str = Field(pattern=SHA256)
    kind: Kind
    by: str = Field(min_length=1, max_length=100)
    created: AwareDatetime
    reason: str = Field(default="", max_length=2000)
    evidence: Evidence | None = None
    """Of ``validated``, where a machine computed the values again."""

    @model_validator(mode="after")
    def _evidence_of_values(self) -> Note:
        if self.evidence is not None and self.kind != "validated":
            raise ValueError("only 'validated' has evidence")
        return self

    @property
    def name(self) -> str:
        """Path below ``notes/``, with the hash of the content in it."""
        return f"{self.record[:12]}-{self.run[:8]}/{self.kind}-{digest(self._plain)[:12]}.json"

    @property
    def _plain(self) -> dict[str, Any]:
        """Without what it does not have: notes of before there was evidence keep their names."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self) -> bytes:
        return json_bytes(self._plain)

    @classmethod
    def parse(cls, data: bytes, *, path: str) -> Note:
        """The note whose file lies at ``path`` below ``notes/``.

        Raises:
            UsageError: It is none, or too long for one.
            IntegrityError: It is another than its name says.
        """
        if len(data) > NOTE_BYTES:
            raise UsageError(f"notes/{path} has more than the {NOTE_BYTES} bytes of any note.")
        try:
            note = cls.model_validate_json(data)
        except ValidationError as error:
            raise UsageError(f"notes/{path} is not a valid note: {' '.join(str(error).split()[:20])}") from error
        if note.name != path:
            raise IntegrityError(f"notes/{path} holds another note, {note.name}: it was changed or moved.")
        return note


@dataclass(frozen=True)
class Standing:
    """Level and state of a record.

    Attributes:
        reason: Of the state, by whoever said it.
        submitter: Who sent it, where that is known.
        by: Who raised it to its level.
    """

    level: Level = "self"
    state: State = ""
    reason: str = ""
    submitter: str | None = None
    by: tuple[str, ...] = ()


def standings(records: Iterable[Record], notes: Iterable[Note] = ()) -> dict[str, Standing]:
    """Standing of every record, by run.

    ``reproduced`` asks for another run of the same identity that somebody else submitted, whose headline lies in this
    one's interval (or equals it where there is none); a run of one's own is counted, but raises nothing.
    """
    said: dict[str, list[Note]] = defaultdict(list)
    for note in sorted(notes, key=lambda note: (note.created, note.name)):
        said[note.run].append(note)
    same: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        same[record.id][record.run] = record
    return {run: _standing(record, [*runs.values()], said) for runs in same.values() for run, record in runs.items()}


def note_of(
    record: Record,
    kind: Kind,
    *,
    by: str,
    reason: str = "",
    created: datetime | None = None,
    evidence: Evidence | None = None,
) -> Note:
    """A note on ``record``, of now."""
    when = created or datetime.now(UTC).replace(microsecond=0)
    return Note(record=record.id, run=record.run, kind=kind, by=by, reason=reason, created=when, evidence=evidence)


def _standing(record: Record, runs: Sequence[Record], said: Mapping[str, Sequence[Note]]) -> Standing:
    mine = [note for note in said.get(record.run, ()) if note.record == record.id]
    sender = _submitter(mine)
    others = {
        who
        for other in runs
        if other.run != record.run
        and (who := _submitter(said.get(other.run, ()))) is not None
        and sender not in (None, who)
        and not any(note.kind == "retracted" for note in said.get(other.run, ()))
        and _agrees(record, other)
    }
    by: dict[Level, set[str]] = {
        "attested": {note.by for note in mine if note.kind == "attested"},
        "reproduced": others,
        "validated": {note.by for note in mine if note.kind == "validated"},
    }
    level, raised = next(((level, names) for level, names in by.items() if names), ("self", set()))
    state, reason = _state(mine)
    return Standing(level, state, reason, sender, tuple(sorted(raised)))


def _submitter(notes: Sequence[Note]) -> str | None:
    """Who was the first to send it."""
    return next((note.by for note in notes if note.kind == "submitted"), None)


def _state(notes: Sequence[Note]) -> tuple[State, str]:
    if gone := [note for note in notes if note.kind == "retracted"]:
        return "retracted", f"{gone[-1].reason} ({gone[-1].by})"
    argued = [note for note in notes if note.kind in ("contested", "settled")]
    if argued and argued[-1].kind == "contested":
        return "contested", f"{argued[-1].reason} ({argued[-1].by})"
    return "", ""


def _agrees(record: Record, other: Record) -> bool:
    """Whether ``other`` reproduces the headline of ``record``."""
    one, two = (r.values.get(r.headline) for r in (record, other))
    if record.status != "ok" or other.status != "ok" or one is None or two is None or record.headline != other.headline:
        return False
    if one.value is None or two.value is None:
        return False
    low, high = one.interval or (one.value, one.value)
    return low <= two.value <= high

"""Records → ranked tables: pure functions, one table per contest, never a rank across two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from leaderboard.standing import Level, Note, Standing, State, standings
from zoo.record import Record, Value
from zoo.specs import Protocol, Verdict

SHUFFLED = "shuffled-eeg"
"""The control whose score needs no brain: what a model adds to it is its margin."""
ALPHA = 0.05
"""How often equal systems may be called different, over all pairs of a table or all metrics of one comparison."""
SAME_RECORDINGS = (
    ("thoughtviz-object", "envisioned-speech-object"),
    ("thoughtviz-character", "envisioned-speech-character"),
    ("thoughtviz-digit", "envisioned-speech-digit"),
    ("eegcvpr40", "eegcvpr40-14-70", "eegcvpr40-55-95", "eegcvpr40-raw", "eegcvpr40-features"),
    ("things-eeg2", "things-eeg2-63x250"),
)
"""Datasets that were cut from the same recordings."""
IN_MEMORY = ("given: in memory", "trained: in memory")
"""How ``weights_source`` begins where a model object was scored, now and in older records."""
Overlap = Literal["none", "train role", "unknown"]
Pairs = Callable[[Sequence[Record]], Mapping[frozenset[str], float]]
"""p that two records of one contest are equal, corrected for all pairs, by their runs: ``ties.paired_p``."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: The model, or ``control: <name>``, which may be a model that is given labels.
        rank: Best is 1; tied entries share the rank of their group's leader. None for what is not ranked.
        tie: Number of the tie group, from 1.
        headline: The headline value, or null with the reason.
        margin: Headline over the shuffled-EEG control, positive when better than it.
        reproductions: Other scored runs of the same identity.
        spread: Largest minus smallest headline among all runs of the identity; None for one run.
        values: Every metric of the record by name.
        p: That it is equal to the leader of its tie group, or of the group before if it leads one; over all pairs.
        level: How far it was checked; ``state`` and its reason: whether somebody took it back or contests it.
        protocol: Of the split, None where the record does not say.
        overlap: What the weights saw of the evaluated recordings: nothing, the train role of this split, or nobody
            knows which part.
    """

    name: str
    record: str
    run: str
    headline: Value
    verdict: Verdict
    selection: str
    split: str
    values: Mapping[str, Value]
    rank: int | None = None
    tie: int | None = None
    margin: float | None = None
    reproductions: int = 0
    spread: float | None = None
    p: float | None = None
    level: Level = "self"
    state: State = ""
    state_reason: str = ""
    submitter: str | None = None
    protocol: Protocol | None = None
    trained_on: tuple[str, ...] = ()
    overlap: Overlap = "unknown"
    n_parameters: int | None = None
    images_per_second: float | None = None
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class Table:
    """One contest: a track, its headline metric, and nothing that was measured in another way.

    Attributes:
        confounded: The audit found that time, order or subject give the class away; ranks mean little here.
        entries: Ranked, best first.
        controls: Those of the newest record that has any, and the models that are given labels; best first.
        unscored: Records without a headline or retracted, each with its reason.
        ties: Whether ``paired`` tests told entries apart, ``intervals`` that do not overlap, or each for some pairs.
        notes: Sentences a reader of the ranks must know.
    """

    track: str
    split: str
    metric: str
    signature: str | None
    higher_is_better: bool | None
    confounded: bool
    entries: tuple[Row, ...]
    controls: tuple[Row, ...]
    unscored: tuple[Row, ...]
    ties: Literal["paired", "intervals", "mixed"] = "intervals"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Known:
    """What is known of records beside themselves."""

    standings: Mapping[str, Standing]
    protocols: Mapping[tuple[str, str], Protocol]
    pairs: Pairs | None


def rank(
    records: Iterable[Record],
    *,
    notes: Iterable[Note] = (),
    pairs: Pairs | None = None,
    protocols: Mapping[tuple[str, str], Protocol] | None = None,
) -> list[Table]:
    """Rank records track by track; tables of clean tracks come first, then by track name.

    Args:
        notes: What is said of records; a retracted one is not ranked.
        pairs: Tests entries against one another; without it they are told apart by their intervals alone.
        protocols: Protocol of (dataset, split) for records that do not name it.

    Records are comparable when track and its hash, split, trials, headline metric and its signature are the same, and
    when none or all of them are confounded; anything else makes a table of its own.
    """
    unique = [*{record.run: record for record in records}.values()]
    contests: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in sorted(unique, key=lambda r: (r.id, r.run)):
        of = record.identity
        key = (_confounded(record), of.track, of.track_sha256, of.split_sha256, of.trials_fingerprint, record.headline)
        contests[key].append(record)
    groups = (group for key in sorted(contests, key=str) for group in _by_signature(contests[key]))
    known = _Known(standings(unique, notes), protocols or {}, pairs)
    tables = [_table(group, known) for group in groups]
    twice = {name for name, n in Counter((t.track, t.confounded) for t in tables).items() if n > 1}
    return [
        replace(
            table, notes=(*table.notes, "Other results of this track were measured differently: see its other table.")
        )
        if (table.track, table.confounded) in twice
        else table
        for table in tables
    ]


def better(a: float, b: float, *, higher_is_better: bool) -> float:
    """By how much ``a`` is better than ``b``; negative when worse."""
    return a - b if higher_is_better else b - a


def _by_signature(records: list[Record]) -> list[list[Record]]:
    """Split where the headline was measured differently; records without one join the largest part."""
    parts: dict[tuple[str | None, bool | None], list[Record]] = defaultdict(list)
    unscored = []
    for record in records:
        headline = _headline(record)
        if headline.value is None:
            unscored.append(record)
        else:
            parts[headline.signature, headline.higher_is_better].append(record)
    groups = sorted(parts.values(), key=len, reverse=True) or [[]]
    groups[0].extend(unscored)
    return groups


def _table(records: list[Record], known: _Known) -> Table:
    """The table of comparable records."""
    runs: dict[str, list[Record]] = defaultdict(list)
    gone = {record.run for record in records if known.standings[record.run].state == "retracted"}
    for record in records:
        runs[record.id].append(record)
    stands = [min(same, key=lambda record: (record.run in gone, *preference(record))) for same in runs.values()]
    rows = [_entry(record, [r for r in runs[record.id] if r.run not in gone], known) for record in stands]
    scored = [row for row in rows if row.headline.value is not None]
    told = {record.run for record in records if _told(record)}
    newest = max(
        records,
        key=lambda r: (
            r.run not in gone,
            _headline(r).value is not None,
            not _told(r),
            bool(r.controls),
            _created(r),
            r.run,
        ),
    )
    measured = scored[0].headline if scored else _headline(newest)
    controls = [_control(newest, name, known) for name in newest.controls] + [row for row in scored if row.run in told]
    ranked = [row for row in scored if row.run not in told]
    by_run = {record.run: record for record in records}
    p = known.pairs([by_run[row.run] for row in ranked]) if known.pairs and len(ranked) > 1 else {}
    n_pairs = len(ranked) * (len(ranked) - 1) // 2
    return Table(
        track=newest.identity.track,
        split=newest.identity.split,
        metric=newest.headline,
        signature=measured.signature,
        higher_is_better=measured.higher_is_better,
        confounded=_confounded(newest),
        entries=_ranked(ranked, p),
        controls=tuple(sorted(controls, key=_best_first)),
        unscored=tuple(sorted((r for r in rows if r.headline.value is None), key=lambda r: (r.name, r.record))),
        ties="intervals" if not p else "paired" if len(p) == n_pairs else "mixed",
        notes=_notes(records),
    )


def _ranked(rows: list[Row], p: Mapping[frozenset[str], float]) -> tuple[Row, ...]:
    """Best first. An entry ties with the leader of the current group unless it is shown to differ from it.

    Shown by the test of the pair among all pairs; where the two have no values per trial, by intervals that do not
    overlap. A test against the leader alone would separate equal models too often, since the leader is the luckiest of
    several: the errors are measured in docs/statistics.md. ``compare`` tests a pair named beforehand.
    """
    ranked: list[Row] = []
    leader, tie = None, 0
    for place, row in enumerate(sorted(rows, key=_best_first), start=1):
        tested = None if leader is None else p.get(frozenset((leader.run, row.run)))
        apart = leader is None or (not _overlap(leader.headline, row.headline) if tested is None else tested <= ALPHA)
        if leader is None or apart:
            leader, tie = replace(row, rank=place), tie + 1
        ranked.append(replace(row, rank=leader.rank, tie=tie, p=tested))
    return tuple(ranked)


def _overlap(a: Value, b: Value) -> bool:
    if a.interval is None or b.interval is None:
        return False
    return a.interval[0] <= b.interval[1] and b.interval[0] <= a.interval[1]


def _best_first(row: Row) -> tuple[bool, float, str, str]:
    value = row.headline.value
    sign = -1.0 if row.headline.higher_is_better else 1.0
    return value is None, sign * (value or 0.0), row.name, row.record


def _entry(record: Record, runs: list[Record], known: _Known) -> Row:
    """The row of one identity: its first complete run stands for it, later ones are reproductions.

    Args:
        runs: Those that are not retracted.
    """
    standing, headline = known.standings[record.run], _headline(record)
    if standing.state == "retracted":
        headline = Value(value=None, reason=f"retracted: {standing.reason}")
    values = [value for run in runs if (value := _headline(run).value) is not None]
    return Row(
        name=f"control: {record.identity.model}" if _told(record) else record.identity.model,
        record=record.id,
        run=record.run,
        headline=headline,
        verdict=_verdict(record),
        selection=record.provenance.selection,
        split=record.identity.split,
        values=record.values,
        margin=_margin(record, headline),
        reproductions=max(len(values) - 1, 0),
        spread=max(values) - min(values) if len(values) > 1 else None,
        level=standing.level,
        state=standing.state,
        state_reason=standing.reason,
        submitter=standing.submitter,
        protocol=_protocol(record, known),
        trained_on=record.provenance.trained_on,
        overlap=_seen(record),
        n_parameters=record.cost.n_parameters,
        images_per_second=record.cost.images_per_second,
        peak_memory_mb=record.cost.peak_memory_mb,
    )


def _control(record: Record, name: str, known: _Known) -> Row:
    values = record.controls[name].values
    missing = Value(value=None, reason=f"{record.headline} was not computed for this control")
    return Row(
        name=f"control: {name}",
        record=record.id,
        run=record.run,
        headline=values.get(record.headline, missing),
        verdict=_verdict(record),
        selection=record.provenance.selection,
        split=record.identity.split,
        values=values,
        protocol=_protocol(record, known),
    )


def _protocol(record: Record, known: _Known) -> Protocol | None:
    return record.provenance.protocol or known.protocols.get((record.identity.dataset, record.identity.split))


def _seen(record: Record) -> Overlap:
    """What the weights were fitted to of the recordings they are evaluated on."""
    dataset = record.identity.dataset
    if record.provenance.weights_source.startswith(IN_MEMORY):
        return "unknown"
    same = {name for group in SAME_RECORDINGS if dataset in group for name in group} | {dataset}
    if not same & {*record.provenance.trained_on}:
        return "none"
    return "train role" if record.provenance.weights_source.startswith("trained:") else "unknown"


def _headline(record: Record) -> Value:
    """The headline value where it may be ranked, else null and why not."""
    value = record.values.get(record.headline)
    if record.status == "failed":
        return Value(value=None, reason=f"failed: {record.error or 'no error was recorded'}")
    if record.status == "partial":
        return Value(value=None, reason=f"partial: {_how_partial(record)}")
    if value is None:
        return Value(value=None, reason=f"the record has no {record.headline}")
    if value.value is not None and value.higher_is_better is None:
        return Value(value=None, reason=f"the record does not say whether higher {record.headline} is better")
    return value


def _how_partial(record: Record) -> str:
    limit = record.identity.limit
    return f"only {limit} trials were used" if limit is not None else record.error or "the run was not complete"


def _margin(record: Record, headline: Value) -> float | None:
    control = record.controls.get(SHUFFLED)
    other = control.values.get(record.headline) if control else None
    if headline.value is None or headline.higher_is_better is None or other is None or other.value is None:
        return None
    return better(headline.value, other.value, higher_is_better=headline.higher_is_better)


def preference(record: Record) -> tuple[bool, datetime, str]:
    """Order of the runs of one identity: the smallest, the first complete run, stands for it."""
    return _headline(record).value is None, _created(record), record.run


def _created(record: Record) -> datetime:
    """When it was made; a time that cannot be read counts as the oldest."""
    try:
        time = datetime.fromisoformat(record.provenance.created)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _verdict(record: Record) -> Verdict:
    return record.audit.verdict if record.audit else "unknown"


def _told(record: Record) -> bool:
    """Whether the model was given the true classes, which makes it a control."""
    return record.provenance.conditioned_on == "label"


def _confounded(record: Record) -> bool:
    return _verdict(record) == "confounded"


def _notes(records: list[Record]) -> tuple[str, ...]:
    """What the ranks rest on that a reader would not expect."""
    notes = []
    if _confounded(records[0]):
        notes.append(
            "Confounded: the audit found that the class can be told without the brain's answer to the picture."
        )
    if not all(record.provenance.dataset_complete for record in records):
        notes.append("Some results were made on an incomplete copy of the dataset.")
    if len({record.identity.eeg_sha256 for record in records}) > 1:
        notes.append("Results were made on differently prepared EEG of the same trials.")
    return tuple(notes)

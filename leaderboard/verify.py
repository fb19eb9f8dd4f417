"""Whether a submission is what it says: the checks that a push makes first and that whoever keeps a board makes again.

A submission is a stranger's data. Each thing wrong with it is one sentence; nothing it holds is executed.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from leaderboard.submission import PICTURE, SAMPLES, UPLOAD, Submission
from leaderboard.units import Trials, read_units
from zoo import stats
from zoo.errors import ZooError
from zoo.gallery import MANIFEST, check_sheet, read_manifest
from zoo.record import Record, Value
from zoo.specs import MetricCard, TrackCard
from zoo.store import digest
from zoo.upload import check, read

LARGEST = 1e9
"""No metric, count or cost of this field comes near it."""
PARTS, WORD, NAME_LENGTH = 100_000, 4_000, 200
DEPTH = 12
MOST = 20
"""Sentences about one record: with the values per trial of another, every number of it would be one."""
NAME = re.compile(r"[A-Za-z0-9][\w.@+-]*", re.ASCII)
PATH = re.compile(r"[a-z0-9][\w.@+-]*(/[a-z0-9][\w.@+-]*)*", re.ASCII)
MARKUP = re.compile(r"<\s*[A-Za-z/!?]")
PIXELS = 64_000_000
TOLERANCE = 1e-9
"""Of what is computed anew: the sums are made in another order."""
BY_UNITS = ("t, cluster-robust", "bootstrap over units")
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Contest:
    """What this release knows of a track.

    Attributes:
        splits: Hashes of the split's content, as this release and earlier ones write it; empty where every copy cuts
            its own.
        metrics: The track's metrics by id.
    """

    card: TrackCard
    splits: frozenset[str] = frozenset()
    metrics: Mapping[str, MetricCard] = field(default_factory=dict)


@dataclass(frozen=True)
class Allowed:
    """What a board takes that others refuse."""

    partial: bool = False
    unaudited: bool = False
    dirty: bool = False
    unscored: bool = False
    unknown_tracks: bool = False


def problems_of(
    submission: Submission, contests: Callable[[str], Contest | None], allowed: Allowed | None = None
) -> list[str]:
    """One sentence for everything that keeps a submission from a board; nothing if it is good.

    Args:
        contests: Track id → what this release knows of it, None for a track it does not know.
    """
    record, may = submission.record, allowed or Allowed()
    found = [*_words(record), *_numbers(record)]
    try:
        _ = submission.path
    except ZooError as error:
        found.append(str(error))
    if not found:  # what follows would quote and compute what is broken
        contest = contests(record.identity.track)
        found += [*_gates(record, may), *_of_track(record, contest, may)]
        found += [*_recomputed(submission, contest), *_pictures(submission), *_uploaded(submission)]
    found = [*dict.fromkeys(found)]
    if len(found) > MOST:
        found[MOST:] = [f"{len(found) - MOST} more things are wrong with it."]
    return [f"{record.id[:12]}: {_sentence(text)}" for text in found]


def wrong_text(where: str, text: str) -> str | None:
    """Why a text that pages and terminals will show cannot be taken; None if it can."""
    if len(text) > WORD:
        return f"{where} has {len(text)} letters, more than the {WORD} of any text."
    if not text.replace("\n", " ").isprintable():
        return f"{where} must be text, but holds characters that act instead of being seen: {_shown(text)}."
    if MARKUP.search(text):
        return f"{where} must be text, but holds markup: {_shown(text)}."
    return None


def _sentence(text: str) -> str:
    """On one line, with nothing in it that acts, and a full stop."""
    plain = "".join(c if c.isprintable() else " " for c in text).strip()
    return plain if plain.endswith(".") else f"{plain}."


# ---- what may come at all


def _gates(record: Record, may: Allowed) -> Iterator[str]:
    if record.status == "failed" and not may.partial:
        yield "it failed, and a failed run has no place in a contest; evaluate again."
    if (record.status == "partial" or record.identity.limit is not None) and not may.partial:
        yield "it is partial; evaluate without --limit, or push it with --allow-partial to a board of your own."
    if record.identity.limit is not None and record.status == "ok":
        yield f"it calls itself complete, but used only {record.identity.limit} trials; with a limit it is partial."
    if (record.audit is None or record.audit.verdict == "unknown") and not may.unaudited:
        yield "its split was not audited; evaluate again where the audit can run, or push with --allow-unaudited."
    if record.provenance.dirty and not may.dirty:
        yield (
            "it was made by a checkout with uncommitted changes, so nobody can make it again; commit them and "
            "evaluate again, or push with --allow-dirty."
        )
    value = record.values.get(record.headline)
    if record.status == "ok" and (value is None or value.value is None) and not may.unscored:
        reason = "it was not measured" if value is None else str(value.reason).strip().rstrip(".")
        yield (
            f"the headline {record.headline} has no value: {reason}; evaluate again where it can be measured, or push "
            "with --allow-unscored."
        )


def _words(record: Record) -> Iterator[str]:
    """Names are plain, and texts are texts."""
    of = record.identity
    paths = {"track": of.track, "model": of.model}
    names = {"dataset": of.dataset, "split": of.split, "headline": record.headline, "zoo": of.zoo}
    lists: dict[str, Iterable[str]] = {
        "metrics": {name for values in _systems(record).values() for name in values},
        "controls": record.controls,
        "packages": record.provenance.packages,
        "trained_on": record.provenance.trained_on,
        "evidence": record.audit.evidence if record.audit else (),
    }
    for what, name in paths.items():
        if len(name) > NAME_LENGTH or not PATH.fullmatch(name):
            yield f"{what} must be a plain name, not {_shown(name)}."
    for what, name in [*names.items(), *((what, name) for what, found in lists.items() for name in found)]:
        if len(name) > NAME_LENGTH or not NAME.fullmatch(name):
            yield f"{what} must be a plain name, not {_shown(name)}."
    count = 0
    for where, node, depth in _nodes(record.model_dump(mode="json")):
        count += 1
        if depth > DEPTH or count > PARTS:
            yield f"it is deeper than {DEPTH} or has more than {PARTS} parts, which no record has."
            return
        if isinstance(node, str) and (sentence := wrong_text(where, node)):
            yield sentence


def _numbers(record: Record) -> Iterator[str]:
    """Every number is one that could have been measured."""
    for where, node, _ in _nodes(record.model_dump(mode="json")):
        if isinstance(node, int | float) and not isinstance(node, bool):
            limit = 2**63 if where.startswith(("identity.seed", "identity.config")) else LARGEST * 1000
            if not math.isfinite(node) or abs(node) > limit:
                yield f"{where} must be a number that can be measured, not {str(node)[:40]}."
    cost, of = record.cost, record.identity
    for name, number in cost.model_dump().items():
        if number is not None and number < 0:
            yield f"cost.{name} must not be negative, but is {number}."
    if of.seed < 0 or of.replicates < 1:
        yield f"seed must be at least 0 and replicates at least 1, not {str(of.seed)[:40]} and {of.replicates}."
    yield from _time(record)
    for system, values in _systems(record).items():
        for name, value in values.items():
            for sentence in _value(value):
                yield f"{name} of {system} {sentence}"


def _value(value: Value) -> Iterator[str]:
    if value.value is None:
        return
    near = TOLERANCE * max(1.0, abs(value.value))
    if abs(value.value) > LARGEST:
        yield f"is {value.value:.3g}, more than any metric can be."
    if value.interval is not None:
        low, high = value.interval
        if not low - near <= value.value <= high + near:
            yield f"is {value.value:.6g}, outside its own interval of {low:.6g} to {high:.6g}."
    if value.replicates and abs(math.fsum(value.replicates) / len(value.replicates) - value.value) > near:
        mean = math.fsum(value.replicates) / len(value.replicates)
        yield f"is {value.value:.6g}, but the mean of its replicates is {mean:.6g}."
    if value.p_chance is not None and not 0 <= value.p_chance <= 1:
        yield f"has p {value.p_chance:.3g}, which is no probability."
    if (value.n is not None and value.n < 1) or (value.n_units is not None and value.n_units < 1):
        yield f"was measured on {value.n} trials of {value.n_units} units, but nothing is measured on none."


def _time(record: Record) -> Iterator[str]:
    created = record.provenance.created
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        yield f"it must say when it was made, but says {_shown(created)}."
        return
    if when.tzinfo is None or not EARLIEST <= when <= datetime.now(UTC) + timedelta(days=1):
        yield f"it must have been made between {EARLIEST:%Y} and now, with a time zone, but says {_shown(created)}."


# ---- the contest


def _of_track(record: Record, contest: Contest | None, may: Allowed) -> Iterator[str]:
    """The track is the released one, and everything it asks for is there."""
    of = record.identity
    if contest is None:
        if not may.unknown_tracks:
            yield (
                f"its track {of.track} is not known to this release; update zoo, or push it to a board of your own "
                "with --allow-unknown-track."
            )
        return
    card = contest.card
    if (found := digest(card.model_dump(mode="json"))) != of.track_sha256:
        yield (
            f"its track {of.track} must be the released one ({found[:12]}), but it was made with another "
            f"({of.track_sha256[:12]}): a change of a track needs a new number behind the @."
        )
        return
    if contest.splits and of.split_sha256 not in contest.splits:
        yield f"its split {of.split} must be the released one, but it was made with another ({of.split_sha256[:12]})."
    wanted = {"dataset": card.dataset, "split": card.split, "headline": card.headline}
    has = {"dataset": of.dataset, "split": of.split, "headline": record.headline}
    for name, right in wanted.items():
        if has[name] != right:
            yield f"its {name} must be {right}, as in {card.id}, but is {has[name]}."
    if record.status == "ok":
        yield from _complete("metric", card.metrics, record.values, card.id)
        yield from _complete("control", card.controls, record.controls, card.id)
        if of.replicates < card.replicates:
            yield f"it has {of.replicates} replicates, but {card.id} asks for {card.replicates}."
    signed = {value.signature for values in _systems(record).values() for value in values.values()} - {None}
    if not signed <= {*of.metrics}:
        yield f"its values were measured as {_shown(min(map(str, signed - {*of.metrics})))}, which its identity lacks."
    for system, values in _systems(record).items():
        for name, value in values.items():
            if (metric := contest.metrics.get(name)) is not None:
                for sentence in _as_defined(value, metric):
                    yield f"{name} of {system} {sentence}"


def _complete(what: str, wanted: Iterable[str], has: Iterable[str], track: str) -> Iterator[str]:
    if missing := sorted({*wanted} - {*has}):
        yield f"it lacks the {what} {', '.join(missing[:5])}, which {track} asks for."
    if odd := sorted({*has} - {*wanted}):
        yield f"it has the {what} {', '.join(odd[:5])}, which {track} does not know."


def _as_defined(value: Value, metric: MetricCard) -> Iterator[str]:
    if value.value is None:
        return
    if value.higher_is_better != metric.higher_is_better:
        better = "higher" if metric.higher_is_better else "lower"
        yield f"says otherwise, but {better} is better."
    if value.signature is None or value.signature.partition("|")[0] != metric.id:
        yield f"must be signed as {metric.id}, but is signed as {_shown(str(value.signature))}."
    capped = metric.higher_is_better and metric.best is not None  # an unbiased distance may fall below its best, 0
    if capped and metric.best is not None and value.value - metric.best > TOLERANCE:
        yield f"is {value.value:.6g}, better than the best there can be ({metric.best:g})."
    if value.n is not None and value.n < metric.min_n:
        yield f"was measured on {value.n}, fewer than the {metric.min_n} it is defined for."


# ---- what is computed anew


def _recomputed(submission: Submission, contest: Contest | None) -> Iterator[str]:
    """Every aggregate that has parts is the aggregate of its parts."""
    record = submission.record
    trials: Mapping[tuple[str, str], Trials] = {}
    if submission.units is not None:
        try:
            trials = read_units(submission.units, record, where="the file of values per trial")
        except ZooError as error:
            yield str(error)
            return
    elif record.units_sha256 is not None:
        yield "the file of values per trial must lie beside it, but is not there; push the one it was written with."
        return
    systems = _systems(record)
    if odd := sorted(f"{metric} of {system}" for system, metric in trials if metric not in systems.get(system, {})):
        yield f"the file of values per trial has {odd[0]}, which the record has not."
    for system, values in systems.items():
        for name, value in values.items():
            parts = trials.get((system, name))
            if value.value is None:
                if parts is not None:
                    yield f"{name} of {system} is null, but has values per trial."
            elif parts is None:
                if _has_parts(value, None if contest is None else contest.metrics.get(name)):
                    yield f"{name} of {system} must have a value per trial beside the record, but has none."
            else:
                for sentence in _aggregate(value, parts, None if contest is None else contest.metrics.get(name)):
                    yield f"{name} of {system} {sentence}"


def _has_parts(value: Value, metric: MetricCard | None) -> bool:
    if value.interval_method in BY_UNITS:
        return True
    return metric is not None and metric.interval == "cluster" and metric.sees != "responses"


def _aggregate(value: Value, parts: Trials, metric: MetricCard | None) -> Iterator[str]:
    """Mean, interval and test of the values per trial, as scoring computes them.

    Parts of a metric of predicted responses are pictures or subjects, each the mean over many trials.
    """
    assert value.value is not None
    near = TOLERANCE * max(1.0, float(np.abs(parts.values).max()))
    mean = float(np.mean(parts.values))
    if abs(mean - value.value) > near:
        yield f"says {value.value:.6g}, but its values per trial give {mean:.6g}."
        return
    one_each = metric is not None and metric.sees != "responses"
    if value.n is None or value.n < parts.values.size or (one_each and value.n != parts.values.size):
        yield f"says {value.n} trials, but has values of {parts.values.size}."
    interval = stats.cluster_interval(parts.values, parts.units)
    if interval is None:
        if value.interval is not None:
            yield "has an interval, but all its trials are of one unit, which gives none."
        return
    bounds = [interval.low, interval.high]
    if parts.values.min() >= 0 and parts.values.max() <= 1:
        bounds = [max(bounds[0], 0.0), min(bounds[1], 1.0)]
    given = value.interval or (math.nan, math.nan)
    if not (
        np.allclose(given, bounds, rtol=0, atol=near) or np.allclose(given, (interval.low, interval.high), 0, near)
    ):
        shown = f"{given[0]:.6g} to {given[1]:.6g}"
        yield f"says an interval of {shown}, but its values per trial give {bounds[0]:.6g} to {bounds[1]:.6g}."
    if value.n_units not in (None, interval.n_units):
        yield f"says {value.n_units} units, but its values are of {interval.n_units}."
    if value.p_chance is not None and value.chance is not None and value.higher_is_better is not None:
        test = stats.p_against_chance(parts.values, parts.units, value.chance, higher_is_better=value.higher_is_better)
        if test is None or abs(test.p - value.p_chance) > TOLERANCE:
            right = "none" if test is None else f"{test.p:.4g}"
            yield f"says p {value.p_chance:.4g} against chance, but its values per trial give {right}."


def _pictures(submission: Submission) -> Iterator[str]:
    """Pictures are the pictures they are said to be, and of a size that can be looked at."""
    for name, data in submission.beside.items():
        if not name.startswith(UPLOAD) and (sentence := wrong_picture(name, data)):
            yield sentence
    samples = {name.removeprefix(SAMPLES): data for name, data in submission.beside.items() if name.startswith(SAMPLES)}
    if not samples:
        return
    if MANIFEST not in samples:
        yield f"its folder of samples must hold {MANIFEST}, but does not."
        return
    try:
        sheets = {sheet.file: sheet for sheet in read_manifest(samples[MANIFEST], where=MANIFEST)}
        for file, sheet in sheets.items():
            if file in samples:
                check_sheet(sheet, samples[file], where=file)
    except ZooError as error:
        yield str(error)
        return
    for what, odd in (("misses", {*sheets} - {*samples}), ("has besides", {*samples} - {*sheets, MANIFEST})):
        if odd:
            yield f"its folder of samples {what} {_shown(min(odd))}: the manifest names every sheet."


def _uploaded(submission: Submission) -> Iterator[str]:
    """What its metrics could be computed again from is this record's, whole, and of a size that can be unpacked."""
    if not (files := submission.upload):
        return
    try:
        check(read(files, record=submission.record.id, run=submission.record.run))
    except ZooError as error:
        yield str(error)


def wrong_picture(name: str, data: bytes) -> str | None:
    """Why a file beside a record is not the picture that its name says; None if it is, or is none by its name."""
    if name == SAMPLES + MANIFEST:
        return None
    kind = "PNG" if name == PICTURE else "WEBP"
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as picture:  # reads the header alone
            width, height = picture.size
            frames = getattr(picture, "n_frames", 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"{_shown(name)} has more pixels than anybody can look at."
    except Exception as error:  # Pillow raises whatever it meets in broken files
        return f"{_shown(name)} must be a {kind} picture, but is none ({type(error).__name__})."
    if width * height * frames > PIXELS:
        return f"{_shown(name)} has {width} × {height} pixels in {frames} frames, more than anybody can look at."
    return None


# ---- walking


def _systems(record: Record) -> dict[str, dict[str, Value]]:
    return {"model": record.values, **{name: system.values for name, system in record.controls.items()}}


def _nodes(value: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """Every part of plain data with the path to it; keys are parts too."""
    yield where, value, depth
    if depth > DEPTH:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"a name in {where or 'it'}", key, depth
            yield from _nodes(inner, f"{where}.{_plain(key)}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner, where, depth + 1)


def _plain(key: str) -> str:
    return key if NAME.fullmatch(key) and len(key) <= NAME_LENGTH else "?"


def _shown(text: str) -> str:
    """Any text, short and without effect."""
    return ascii(text[:60]) + ("…" if len(text) > 60 else "")

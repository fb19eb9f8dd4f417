"""MindBigData, the MNIST of brain digits (Vivancos 2014-2015): one person, a digit shown for 2 s, four headsets.

Two forms of the same signals. The text file of a headset has a line per channel of an event, with the event's number,
from which blocks of time can be cut. The comma-separated files of Hugging Face have a row per event in another order
and no number, so only their own division can be used. Either is read twice, first for what stands where, then for the
samples, so memory does not grow with the file.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, not_here, strings
from zoo.datasets.pictures import class_pictures
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec

DEVICES = {"EP": "mindbigdata", "MW": "mindbigdata-mw", "MU": "mindbigdata-mu", "IN": "mindbigdata-in"}
"""Dataset of each device as the text files name it."""
FIELDS = 7
"""Of a line: id, event, device, channel, code, size, samples."""
NO_DIGIT = -1
"""Code of an event at which nothing was shown."""
SHORTEST = 15 / 16
"""Share of the usual length below which a signal is left out."""
BLOCK = 500
"""Events of a block: a division of this zoo, since no session is stored."""
CSV = ("train", "test")
ROWS = 256
"""Events in memory at a time."""


class Trial(NamedTuple):
    """Where the samples of one event begin in its file, in bytes; one place per channel, or one for all."""

    trial_id: str
    code: int
    at: tuple[int, ...]
    event: int | None = None


@dataclass(frozen=True)
class Index:
    """Trials of one file in the order in which they will be read, and what else was seen in it."""

    path: Path
    trials: list[Trial]
    sha256: str
    report: tuple[str, ...] = ()
    columns: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    """(n_channels, n_times) column of each sample, for files with a row per event."""
    n_digits: int = 0
    """Events at which a digit was shown, also those left out."""


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Trials of one headset (``card.options['device']``), raw, in units of the headset.

    Raises:
        MissingError: No source is given.
        UsageError: It is neither the headset's text file nor the folder with train.csv and test.csv, or it is damaged.
    """
    if source is None:
        raise not_here(card)
    assert card.eeg is not None
    files = {role: (source if source.is_dir() else source.parent) / f"{role}.csv" for role in CSV}
    if source.is_file() and source.suffix != ".csv":
        found = {"text": _index_text(source, card, card.eeg, progress)}
        samples, cuts = _text_samples, SPLITS
    elif all(path.is_file() for path in files.values()):
        found = {role: _index_csv(path, role, card.eeg, progress) for role, path in files.items()}
        samples, cuts = _csv_samples, RELEASED
    else:
        raise UsageError(
            f"--source of {card.id} must be the text file of device {card.options['device']} or the folder that holds "
            f"train.csv and test.csv, but {source} is neither."
        )
    trials = _table([trial for index in found.values() for trial in index.trials], card)
    splits, refused = recipes.cut(card, trials, cuts)
    stimuli, stimuli_source, skipped = class_pictures(card.concepts, images)
    n_digits = sum(index.n_digits for index in found.values())
    complete, counted = _count(card, n_digits)
    return Prepared(
        spec=card.eeg,
        eeg=(block for index in found.values() for block in samples(index, card.eeg)),
        trials=trials,
        concepts=card.concepts,
        stimuli=stimuli,
        stimuli_source=stimuli_source,
        splits=splits,
        source={name: index.sha256 for name, index in found.items()},
        report=(*counted, *(line for index in found.values() for line in index.report), *refused, *skipped),
        complete=complete,
    )


SPLITS: dict[str, recipes.Recipe] = {
    "event-block": recipes.run_out,
    "random-row": partial(recipes.random_rows, within="concept", val=1 / 10, test=1 / 5),
}
"""Of the text, whose events are numbered."""
RELEASED: dict[str, recipes.Recipe] = {"released": recipes.released}
"""Of the comma-separated files, whose rows are not."""


def _count(card: DatasetCard, n_digits: int) -> tuple[bool, tuple[str, ...]]:
    if card.n_trials is None:
        return True, ("how many events were published is not known, so this copy is taken as whole.",)
    if n_digits == card.n_trials:
        return True, ()
    return False, (f"{n_digits} of {card.n_trials} events with a digit are here, so this copy is not as published.",)


def _table(trials: list[Trial], card: DatasetCard) -> dict[str, np.ndarray]:
    """Blocks and order follow the numbers of the events, where they have one."""
    table = {
        "trial_id": strings([trial.trial_id for trial in trials]),
        "subject": strings(["01"] * len(trials)),
        "concept": strings([card.concepts[trial.code] for trial in trials]),
    }
    numbers = [trial.event for trial in trials if trial.event is not None]
    if not numbers:
        return table
    block = strings([f"{card.options['device'].lower()}-b{number // BLOCK:04d}" for number in numbers])
    return {**table, "run": block, "block": block, "order": np.array(numbers, dtype=np.int64) % BLOCK}


# ---- the text: a line per channel


class _Event:
    """Where the lines of an event begin, -1 for a channel without one, and how long its signals are."""

    __slots__ = ("at", "code", "doubled", "longest", "shortest")

    def __init__(self, code: int, n_channels: int) -> None:
        self.code = code
        self.at = array("q", [-1] * n_channels)
        self.doubled = False
        self.shortest, self.longest = 1 << 30, 0


def _index_text(path: Path, card: DatasetCard, spec: EEGSpec, progress: Progress | None) -> Index:
    """Events with a digit and every channel, in the order of their numbers; lines may stand in any order."""
    device: str = card.options["device"]
    channel = {name.encode(): i for i, name in enumerate(spec.ch_names)}
    events: dict[int, _Event] = {}
    sha256, at, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            sha256.update(line)
            if line.strip():
                event, code, name, n_samples = _parse(line, f"{path.name} line {number}", device)
                if name not in channel:
                    raise UsageError(
                        f"{path.name} line {number} must be of channel {', '.join(spec.ch_names)}, but is of "
                        f"{name.decode(errors='replace')!r}; get the file again."
                    )
                row = events.setdefault(event, _Event(code, spec.n_channels))
                if row.code != code:
                    raise UsageError(
                        f"{path.name} line {number} must have code {row.code} as the event's other lines, but has "
                        f"{code}; get the file again."
                    )
                row.doubled |= row.at[channel[name]] >= 0
                row.at[channel[name]] = at
                row.shortest, row.longest = min(row.shortest, n_samples), max(row.longest, n_samples)
            at += len(line)
            if progress is not None and number % 10000 == 0:
                progress(at, size, "bytes looked through")
    digits = {event: row for event, row in sorted(events.items()) if row.code != NO_DIGIT}
    kept = {event: row for event, row in digits.items() if not row.doubled and -1 not in row.at}
    enough = {event: row for event, row in kept.items() if row.shortest >= _least(spec)}
    counts = (
        (len(events) - len(digits), "events without a digit (code -1) were left out."),
        (len(digits) - len(kept), "events with a channel missing or there twice were left out."),
        (len(kept) - len(enough), f"events with a signal of fewer than {_least(spec)} samples were left out."),
        (
            sum(row.shortest < spec.n_times for row in enough.values()),
            f"events have a signal of {_least(spec)} to {spec.n_times - 1} samples, stretched to {spec.n_times} by "
            "linear interpolation.",
        ),
        (
            sum(row.longest > spec.n_times for row in enough.values()),
            f"events have a signal of more than {spec.n_times} samples, of which the first {spec.n_times} are kept.",
        ),
    )
    return Index(
        path=path,
        trials=[Trial(f"{device.lower()}-{event}", row.code, tuple(row.at), event) for event, row in enough.items()],
        sha256=sha256.hexdigest(),
        report=tuple(f"{n} {what}" for n, what in counts if n),
        n_digits=len(digits),
    )


def _parse(line: bytes, where: str, device: str) -> tuple[int, int, bytes, int]:
    """Event, code, channel and number of samples of a line.

    Raises:
        UsageError: It is no line of such a file, or of another headset.
    """
    fields = line.split(b"\t")
    if len(fields) != FIELDS:
        raise UsageError(
            f"{where} must have {FIELDS} fields parted by tabs (id, event, device, channel, code, size, samples), but "
            f"has {len(fields)}; get the file again."
        )
    found = fields[2].decode(errors="replace")
    if found != device:
        advice = f"prepare it as {DEVICES[found]}" if found in DEVICES else f"the devices are {', '.join(DEVICES)}"
        raise UsageError(f"{where} must be of device {device}, but is of {found!r}; {advice}.")
    try:
        event, code, size = int(fields[1]), int(fields[4]), int(fields[5])
    except ValueError as error:
        raise UsageError(
            f"{where} must have whole numbers as event, code and size, but has "
            f"{', '.join(repr(fields[i].decode(errors='replace')) for i in (1, 4, 5))}; get the file again."
        ) from error
    if not NO_DIGIT <= code <= 9:
        raise UsageError(f"{where} must have a digit or -1 as code, but has {code}; get the file again.")
    if (n_samples := fields[6].count(b",") + 1) != size:
        raise UsageError(f"{where} must hold {size} samples as it says, but holds {n_samples}; get the file again.")
    return event, code, fields[3], size


def _text_samples(index: Index, spec: EEGSpec) -> Iterator[np.ndarray]:
    """Blocks of trials, (n, n_channels, n_times) float32."""
    with index.path.open("rb") as file:
        for start in range(0, len(index.trials), ROWS):
            trials = index.trials[start : start + ROWS]
            block = np.empty((len(trials), spec.n_channels, spec.n_times), dtype=np.float32)
            for i, trial in enumerate(trials):
                for channel, at in enumerate(trial.at):
                    file.seek(at)
                    where = f"channel {spec.ch_names[channel]} of event {trial.event}"
                    block[i, channel] = _fit(_numbers(file.readline().split(b"\t")[6], index.path, where), spec.n_times)
            yield block


def _fit(signal: np.ndarray, n_times: int) -> np.ndarray:
    """The first ``n_times`` samples; a shorter signal is stretched over them, its ends in place."""
    if signal.size >= n_times:
        return signal[:n_times]
    stretched: np.ndarray = np.interp(np.linspace(0, signal.size - 1, n_times), np.arange(signal.size), signal)
    return stretched


def _least(spec: EEGSpec) -> int:
    return round(SHORTEST * spec.n_times)


# ---- comma-separated: a row per event


def _index_csv(path: Path, role: str, spec: EEGSpec, progress: Progress | None) -> Index:
    """Rows with a digit, in the order of the file."""
    trials: list[Trial] = []
    with path.open("rb") as file:
        header = file.readline()
        columns = _columns(header, path, spec)
        sha256, at, size = hashlib.sha256(header), len(header), path.stat().st_size
        n_rows = 0
        for number, line in enumerate(file, 2):
            sha256.update(line)
            if line.strip():
                if (n_values := line.count(b",") + 1) != columns.size + 1:
                    raise UsageError(
                        f"{path.name} line {number} must hold {columns.size + 1} values as the header does, but holds "
                        f"{n_values}; get the file again."
                    )
                if (code := _code(line)) != NO_DIGIT:
                    if code is None:
                        raise UsageError(
                            f"{path.name} line {number} must begin with a digit or -1, but begins with "
                            f"{line.partition(b',')[0].decode(errors='replace')!r}; get the file again."
                        )
                    trials.append(Trial(f"{role}-{n_rows:05d}", code, (at,)))
                n_rows += 1
            at += len(line)
            if progress is not None and number % 1000 == 0:
                progress(at, size, f"bytes of {path.name} looked through")
    left_out = n_rows - len(trials)
    report = (f"{left_out} rows of {path.name} without a digit (-1) were left out.",) if left_out else ()
    return Index(path, trials, sha256.hexdigest(), report, columns, len(trials))


def _code(line: bytes) -> int | None:
    """The digit or -1 that a row begins with, None for anything else."""
    try:
        code = float(line.partition(b",")[0].strip(b'"'))
    except ValueError:
        return None
    return int(code) if code.is_integer() and NO_DIGIT <= code <= 9 else None


def _columns(header: bytes, path: Path, spec: EEGSpec) -> np.ndarray:
    """Column of every sample after the label, (n_channels, n_times), as the header's names say; any order will do.

    Raises:
        UsageError: A name does not say its channel and time, or they are not all there once.
    """
    _, *names = [name.strip().strip('"') for name in header.decode(errors="replace").split(",")]
    pattern = re.compile(rf"({'|'.join(map(re.escape, spec.ch_names))})[-_. :/](\d+)", re.IGNORECASE)
    found: dict[tuple[str, int], int] = {}
    for column, name in enumerate(names):
        match = pattern.fullmatch(name)
        if match is None:
            raise UsageError(
                f"{path.name} must name a channel and a sample in every column after the label (such as "
                f"{spec.ch_names[0]}-0), but column {column + 2} is {name!r}, so its order cannot be told; "
                "get the file again."
            )
        found[match[1].upper(), int(match[2])] = column
    first = min((time for _, time in found), default=0)
    wanted = [(name.upper(), first + time) for name in spec.ch_names for time in range(spec.n_times)]
    if len(names) != len(wanted) or set(found) != set(wanted):
        raise UsageError(
            f"{path.name} must have {spec.n_times} samples of each of {spec.n_channels} channels and a label in its "
            f"header, but has {len(set(found))} of {len(wanted)} in {len(names) + 1} columns; get the file again."
        )
    return np.array([found[key] for key in wanted], dtype=np.int64).reshape(spec.n_channels, spec.n_times)


def _csv_samples(index: Index, spec: EEGSpec) -> Iterator[np.ndarray]:
    """Blocks of trials, (n, n_channels, n_times) float32."""
    with index.path.open("rb") as file:
        for start in range(0, len(index.trials), ROWS):
            trials = index.trials[start : start + ROWS]
            block = np.empty((len(trials), spec.n_channels, spec.n_times), dtype=np.float32)
            for i, trial in enumerate(trials):
                file.seek(trial.at[0])
                values = _numbers(file.readline().partition(b",")[2], index.path, f"row {trial.trial_id}")
                block[i] = values[index.columns]
            yield block


def _numbers(values: bytes, path: Path, where: str) -> np.ndarray:
    try:
        return np.array(values.split(b","), dtype=np.float64)
    except ValueError as error:
        raise UsageError(
            f"{path.name} must hold numbers, but {where} does not ({error}); get the file again."
        ) from error

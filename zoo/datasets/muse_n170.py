"""Faces and houses seen with a Muse headband (NeuroTechX eeg-notebooks, N170 experiment): 4 channels at 256 Hz.

Markers give the category of a picture, not which picture it was. Pictures follow one another after 0.5 s or more, so a
trial ends 0.4 s after onset: no trial holds the response to the next picture.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, Stimulus, not_here, strings
from zoo.datasets.pictures import read_pictures
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec

LSB_UV = 0.48828125
"""Microvolts per step of the headband's 12-bit converter (2000 µV / 4096)."""
CONCEPTS = {1: "house", 2: "face"}
"""Concept of each marker."""
FOLDERS = {"face": "faces", "house": "houses"}
MIN_EVENTS = 50
"""A run with fewer events was broken off."""
BAND = (1.0, 30.0)
"""Pass band in Hz: fourth-order Butterworth forwards and backwards over the continuous run, so without delay."""


class Run(NamedTuple):
    """One continuous recording: ``digital`` (n_channels, n_samples) int16 steps, ``marker`` (n_samples,) 0, 1 or 2."""

    digital: np.ndarray
    marker: np.ndarray
    subject: int
    session: int
    where: str

    @property
    def id(self) -> str:
        """Subject and content, so that a run has the same name from any source and in any selection."""
        content = np.ascontiguousarray(self.digital, dtype="<i2").tobytes() + self.marker.astype(np.uint8).tobytes()
        return f"s{self.subject:02d}-{hashlib.sha256(content).hexdigest()[:6]}"


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Filtered trials from the authors' CSV files or from the packed array.

    Raises:
        MissingError: No source is given.
        UsageError: It is neither of the two, or a file is damaged.
    """
    if source is None:
        raise not_here(card)
    assert card.eeg is not None
    found = _read_packed(source) if source.suffix == ".npz" else _read_folder(source, card.eeg, progress)
    runs, report = _select(found)
    blocks, rows, cropped = [], [], 0
    for run in runs:
        onsets = np.flatnonzero(run.marker)
        inside = _inside(onsets, run.digital.shape[1], card.eeg)
        cropped += len(onsets) - int(inside.sum())
        blocks.append(_epochs(run, onsets[inside], card.eeg))
        rows += [(run, order, CONCEPTS[int(run.marker[onset])]) for order, onset in enumerate(onsets) if inside[order]]
    if cropped:
        report.append(f"{cropped} events too close to an end of their run for a whole trial were left out.")
    complete = sorted(run.id for run in runs) == sorted(card.options["runs"])
    if not complete:
        known = sum(run.id in card.options["runs"] for run in runs)
        report.append(f"{known} of the {len(card.options['runs'])} published runs are here, so this copy is partial.")
    trials = _table(rows)
    splits, refused = recipes.cut(card, trials, SPLITS)
    stimuli, stimuli_source, skipped = _stimuli(source, images)
    return Prepared(
        spec=card.eeg,
        eeg=blocks,
        trials=trials,
        concepts=card.concepts,
        stimuli=stimuli,
        stimuli_source=stimuli_source,
        splits=splits,
        source={
            run.id: hashlib.sha256(np.ascontiguousarray(run.digital, dtype="<i2").tobytes()).hexdigest() for run in runs
        },
        report=(*report, *refused, *skipped),
        complete=complete,
    )


SPLITS: dict[str, recipes.Recipe] = {
    "run-out": recipes.run_out,
    "subject-out": partial(recipes.subject_out, val=1 / 4, test=1 / 4),
}


def _read_folder(source: Path, spec: EEGSpec, progress: Progress | None) -> Iterator[Run]:
    """Runs from ``<source>/[…/]subjectS/sessionR/*.csv``."""
    pattern = re.compile(r"subject(\d+)/session(\d+)/[^/]*$")
    files = sorted(path for path in source.rglob("*.csv") if pattern.search(path.as_posix()))
    if not files:
        raise UsageError(
            "--source of muse-n170 must be n170.npz or a folder with subjectS/sessionR/*.csv in it, "
            f"but {source} is neither."
        )
    for done, path in enumerate(files, 1):
        subject, session = (int(number) for number in pattern.search(path.as_posix()).groups())  # type: ignore[union-attr]
        digital, marker = _read_csv(path, spec)
        yield Run(digital, marker, subject, session, path.relative_to(source).as_posix())
        if progress is not None:
            progress(done, len(files), "runs read")


def _read_csv(path: Path, spec: EEGSpec) -> tuple[np.ndarray, np.ndarray]:
    """Digital values and markers of one file, whose values are microvolts rounded to three decimals."""
    with path.open(encoding="utf-8") as file:
        names = file.readline().strip().split(",")
    wanted = [*spec.ch_names, "Marker0"]
    if missing := [name for name in wanted if name not in names]:
        raise UsageError(
            f"{path} must have columns {', '.join(wanted)}, but {missing[0]} is missing; get the file again."
        )
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, usecols=[names.index(name) for name in wanted], ndmin=2)
    except ValueError as error:
        raise UsageError(f"{path} must hold numbers in every row, but it does not ({error}); get it again.") from error
    volts, marker = table[:, :-1], table[:, -1]
    if not np.isfinite(table).all():
        row = int(np.argmin(np.isfinite(table).all(axis=1)))
        raise UsageError(f"{path} must hold finite numbers, but data row {row + 1} does not; get the file again.")
    steps = np.rint(volts / LSB_UV)
    if np.abs(steps * LSB_UV - volts).max(initial=0) > 0.001 or not np.isin(marker, (0, *CONCEPTS)).all():
        raise UsageError(
            f"{path} must hold multiples of {LSB_UV} µV and markers 0, 1, 2 as recorded, but was changed; get it again."
        )
    return steps.astype(np.int16).T, marker.astype(np.uint8)


def _read_packed(source: Path) -> Iterator[Run]:
    names = ("signal", "marker", "run_start", "run_length", "run_subject", "run_session")
    try:
        with np.load(source, allow_pickle=False) as packed:
            signal, marker, *runs = (packed[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{source.name} must be the packed array of muse-n170, but it cannot be read: {error}."
        ) from error
    for number, (start, length, subject, session) in enumerate(np.transpose(runs).tolist()):
        part = slice(start, start + length)
        yield Run(signal[:, part], marker[part], subject, session, f"run {number}")


def _select(found: Iterator[Run]) -> tuple[list[Run], list[str]]:
    """Whole runs, each once, in the order of subject, session and content; and sentences on the others."""
    runs: dict[str, Run] = {}
    report = []
    for run in found:
        n_events = int(np.count_nonzero(run.marker))
        if n_events < MIN_EVENTS:
            report.append(f"{run.where} was dropped: {n_events} events, a whole run has {MIN_EVENTS} or more.")
        elif run.id in runs:
            report.append(f"{run.where} was dropped: the same recording as {runs[run.id].where}.")
        else:
            runs[run.id] = run
    return sorted(runs.values(), key=lambda run: (run.subject, run.session, run.id)), report


def _inside(onsets: np.ndarray, n_samples: int, spec: EEGSpec) -> np.ndarray:
    first = onsets + round(spec.tmin * spec.sfreq)
    within: np.ndarray = (first >= 0) & (first + spec.n_times <= n_samples)
    return within


def _epochs(run: Run, onsets: np.ndarray, spec: EEGSpec) -> np.ndarray:
    """Filtered trials around ``onsets``, (n_trials, n_channels, n_times) float32 volts."""
    from scipy.signal import butter, sosfiltfilt

    sections = butter(4, BAND, btype="bandpass", fs=spec.sfreq, output="sos")
    volts = sosfiltfilt(sections, run.digital * (LSB_UV * 1e-6), axis=1)
    at = onsets[:, None] + round(spec.tmin * spec.sfreq) + np.arange(spec.n_times)
    trials: np.ndarray = volts[:, at].transpose(1, 0, 2).astype(np.float32)
    return trials


def _table(rows: list[tuple[Run, int, str]]) -> dict[str, np.ndarray]:
    ids = [run.id for run, _, _ in rows]
    return {
        "trial_id": strings([f"{name}-{order:03d}" for name, (_, order, _) in zip(ids, rows, strict=True)]),
        "subject": strings([f"{run.subject:02d}" for run, _, _ in rows]),
        "session": strings([f"{run.session:02d}" for run, _, _ in rows]),
        "run": strings(ids),
        "order": np.array([order for _, order, _ in rows], dtype=np.int64),
        "recording": strings(ids),
        "concept": strings([concept for _, _, concept in rows]),
    }


def _stimuli(source: Path, images: Path | None) -> tuple[tuple[Stimulus, ...], str, tuple[str, ...]]:
    """The pictures shown, where they come from, and what was skipped; views of one face or house stay together."""
    beside = [folder / "stimuli" / "face_house" for folder in (source, source.parent)]
    folder = images or next((path for path in beside if path.is_dir()), None)
    if folder is None:
        return (
            (),
            "none",
            ("no pictures: give the folder with faces/ and houses/ as --images to train or score images.",),
        )
    stimuli, report = read_pictures(folder, FOLDERS, identity=lambda path: re.split(r"[._]", path.stem)[0])
    return stimuli, "the pictures of the experiment (Haxby et al. 2001)", report

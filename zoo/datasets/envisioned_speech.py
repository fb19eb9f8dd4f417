"""Envisioned speech (Kumar, Saini, Roy, Sahu, Dogra 2018), the EEG behind ThoughtViz and EEG2Image.

23 people imagined each of 10 objects, 10 characters and 10 digits once, eyes closed, with an Emotiv EPOC+ (14 channels,
128 Hz): one recording of 11 to 22 s per person and class. Here a trial is a window of 32 samples, one every 8.

Upstream file names hold people's names. They are neither kept nor shown: a recording is recognised by the sha256 of
its digital signal, listed in ``envisioned_speech.json`` by task, class and a subject number without a meaning.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zoo import store
from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, not_here, strings
from zoo.datasets.pictures import class_pictures
from zoo.errors import UsageError
from zoo.specs import DatasetCard

FOLDERS = {"object": "Image", "character": "Char", "digit": "Digit"}
"""Upstream folder of each task."""
PACKED_TASKS = {"object": "image", "character": "char", "digit": "digit"}
LSB = 16000e-6 / 31200
"""Volts per digital step: the EDF headers map 0..31200 to 0..16000 µV."""
STRIDE = 8


class Signal(NamedTuple):
    """Digital values of one recording, (n_channels, n_samples) uint16, and what the user may be told about it."""

    digital: np.ndarray
    concept: str
    where: str


class Recording(NamedTuple):
    concept: str
    subject: int
    digital: np.ndarray


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Windows of one task (``card.options['task']``) from the authors' EDF folder or from the packed array.

    Raises:
        MissingError: No source is given.
        UsageError: It is neither of the two, or a recording is truncated, edited or unknown.
    """
    if source is None:
        raise not_here(card)
    signals = _read_packed(source, card) if source.suffix == ".npz" else _read_folder(source, card)
    recordings = _identify(signals, card, progress)
    eeg = [_windows(r.digital, card) for r in recordings]
    trials = _table(recordings, [len(block) for block in eeg])
    splits, report = recipes.cut(card, trials, SPLITS)
    expected = len(card.concepts) * len(_manifest(card.options["task"])[card.concepts[0]])
    if len(recordings) < expected:
        report = (f"{len(recordings)} of {expected} recordings are here, so this copy is partial.", *report)
    stimuli, stimuli_source, skipped = class_pictures(card.concepts, images)
    assert card.eeg is not None  # every card of this file has one
    return Prepared(
        spec=card.eeg,
        eeg=eeg,
        trials=trials,
        concepts=card.concepts,
        stimuli=stimuli,
        stimuli_source=stimuli_source,
        splits=splits,
        source={"digital signals": store.digest(sorted(_sha256(r.digital) for r in recordings))},
        report=report + skipped,
        complete=len(recordings) == expected,
    )


SPLITS: dict[str, recipes.Recipe] = {
    "subject-out": partial(recipes.subject_out, val=3 / 23, test=5 / 23),
    "random-window": partial(recipes.random_rows, within="recording", val=1 / 9, test=1 / 9),
}


def _read_folder(source: Path, card: DatasetCard) -> Iterator[Signal]:
    """Recordings from ``<source>/[…/]Image/<anybody>_Apple.edf``, class after class."""
    name = FOLDERS[card.options["task"]]
    folders = [source] if source.name == name else [source / name, *source.glob(f"*/{name}")]
    folder = next((path for path in folders if any(path.glob("*.edf"))), None)
    if folder is None:
        raise UsageError(
            f"--source of {card.id} must be envisioned_speech_eeg.npz or the folder that holds "
            f"{name}/<name>_<Class>.edf, but {source} is neither."
        )
    files = sorted(folder.glob("*.edf"))
    if strange := [path for path in files if path.stem.rpartition("_")[2] not in card.concepts]:
        number = files.index(strange[0]) + 1
        raise UsageError(
            f"files of {name} must end in _<Class>.edf with one of {', '.join(card.concepts)}, but file {number} of "
            f"{len(files)} by name does not; rename or remove it."
        )
    for concept in card.concepts:
        of_class = [path for path in files if path.stem.rpartition("_")[2] == concept]
        for number, path in enumerate(of_class, 1):
            where = f"{name}/…_{concept}.edf, file {number} of {len(of_class)} by name,"
            yield Signal(_read_edf(path, where, card), concept, where)


def _read_edf(path: Path, where: str, card: DatasetCard) -> np.ndarray:
    """Digital values of the EEG channels, (n_channels, n_samples) uint16."""
    import edfio

    assert card.eeg is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # edfio repairs truncated files with a warning; a repaired signal is unknown
            edf = edfio.read_edf(path.read_bytes())
            signals = {signal.label: signal.digital for signal in edf.signals}
        return np.stack([signals[name] for name in card.eeg.ch_names]).astype(np.uint16)
    except (ValueError, IndexError, KeyError, UserWarning) as error:
        raise UsageError(
            f"{where} must be a whole EDF recording, but it is truncated or damaged; get it again."
        ) from error


def _read_packed(source: Path, card: DatasetCard) -> Iterator[Signal]:
    """Recordings from the packed array, whose lists give start, length, task and class of each."""
    try:
        with np.load(source, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in ("signal", "start", "length", "task", "label", "task_names")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{source.name} must be the packed array of {card.id}, but it cannot be read: {error}."
        ) from error
    task = arrays["task_names"].tolist().index(PACKED_TASKS[card.options["task"]])
    for number in np.flatnonzero(arrays["task"] == task):
        start, concept = arrays["start"][number], card.concepts[arrays["label"][number]]
        digital = arrays["signal"][:, start : start + arrays["length"][number]]
        yield Signal(digital, concept, f"recording {number} of {source.name} ({concept})")


def _identify(signals: Iterator[Signal], card: DatasetCard, progress: Progress | None) -> list[Recording]:
    """Recordings in the order of class and subject number.

    Raises:
        UsageError: A signal is not in the manifest, is of another class than its name says, or is there twice.
    """
    known = {
        mark: (concept, subject)
        for concept, marks in _manifest(card.options["task"]).items()
        for subject, mark in enumerate(marks)
    }
    found: dict[tuple[str, int], Recording] = {}
    for done, (digital, concept, where) in enumerate(signals, 1):
        key = known.get(_sha256(digital)[:12])
        if key is None:
            raise UsageError(
                f"{where} is no recording of {card.id} as published (truncated, edited or of another corpus); "
                "get it again."
            )
        if key[0] != concept:
            raise UsageError(f"{where} is called {concept}, but its signal is the one of {key[0]}; rename it.")
        if key in found:
            raise UsageError(f"{where} holds the signal of another file of {concept}; remove one of the two.")
        found[key] = Recording(*key, digital)
        if progress is not None:
            progress(done, len(known), "recordings read")
    order = {concept: index for index, concept in enumerate(card.concepts)}
    return sorted(found.values(), key=lambda r: (order[r.concept], r.subject))


def _windows(digital: np.ndarray, card: DatasetCard) -> np.ndarray:
    """Whole windows of a recording, (n_windows, n_channels, n_times) float32 volts with their DC offset; a view."""
    assert card.eeg is not None
    volts = (digital * LSB).astype(np.float32)
    return sliding_window_view(volts, card.eeg.n_times, axis=1)[:, ::STRIDE].transpose(1, 0, 2)


def _table(recordings: list[Recording], counts: list[int]) -> dict[str, np.ndarray]:
    """One run and one block per recording: nobody imagined a class twice."""
    names = [f"s{r.subject:02d}-{r.concept}" for r in recordings]
    recording = np.repeat(names, counts)
    order = np.concatenate([np.arange(n) for n in counts]) if counts else np.array([], dtype=np.int64)
    return {
        "trial_id": strings([f"{name}-{k:04d}" for name, n in zip(names, counts, strict=True) for k in range(n)]),
        "subject": np.repeat([f"{r.subject:02d}" for r in recordings], counts),
        "run": recording,
        "block": recording,
        "order": order,
        "recording": recording,
        "concept": np.repeat([r.concept for r in recordings], counts),
    }


def _sha256(digital: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(digital, dtype="<u2").tobytes()).hexdigest()


@cache
def _manifest(task: str) -> dict[str, list[str]]:
    """By class, the first 12 hex digits of the sha256 of every subject's signal, in the order of their numbers."""
    content: dict[str, dict[str, list[str]]] = store.read_json(Path(__file__).with_suffix(".json"))
    return content[task]

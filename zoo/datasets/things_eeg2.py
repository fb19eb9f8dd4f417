"""THINGS-EEG2 (Gifford et al. 2022): ten people, 16,740 pictures of 1,854 concepts, one picture every 200 ms.

A trial is one repetition of a picture. The authors' files hold repetitions after shuffling, so neither the session nor
the order of a trial is known. The column ``block`` is not a stretch of the experiment either: it is the part of the
official split that a person's trial belongs to (``01-train``, ``01-val``, ``01-test``), made here so that splits of
821,600 trials are short lists. Training and test pictures were shown in different runs, so parts are apart in time too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo import foreign, store
from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, Stimulus, not_here, strings
from zoo.datasets.pictures import require_picture
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec

SUBJECTS = tuple(f"{number:02d}" for number in range(1, 11))
PARTS = {"train": "training", "test": "test"}
"""How the authors' files and folders call the two halves of the pictures."""
REPETITIONS = {"train": 4, "test": 80}
HELD_OUT = 74 / 1654
"""Share of training concepts that validates: 740 pictures, the number that NICE and later works validate on."""
PLACE = re.compile(r"[0-9]{5}_[\w'.-]+/\w[\w'.-]*\.jpg", re.ASCII)
"""What the metadata may call a picture, so that no name leads out of the folder of pictures."""
CHUNK = 1024
"""Trials converted at a time, about."""


class Picture(NamedTuple):
    """One picture, i.e. one row of an EEG file.

    ``part`` is train, val or test. ``row`` counts from 1 within training or test pictures, as the authors' condition
    codes do.
    """

    stimulus_id: str
    concept: str
    part: str
    row: int
    path: str

    @property
    def half(self) -> str:
        return "test" if self.part == "test" else "train"


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Trials from the authors' preprocessed files of one or more people.

    Raises:
        MissingError: No source is given.
        UsageError: It lacks a file, or files and image metadata do not fit together.
        IntegrityError: A file names code instead of data.
    """
    if source is None:
        raise not_here(card)
    assert card.eeg is not None
    files = _find_eeg(source, card.id)
    metadata = _find_metadata(source, card.id)
    pictures = read_pictures(foreign.read_npy(metadata), metadata)
    trials = table(list(files), pictures)
    complete = tuple(files) == SUBJECTS and store.digest(pictures) == card.options["pictures"]
    report = []
    if not complete:
        which = "the published" if store.digest(pictures) == card.options["pictures"] else "other than the published"
        report.append(
            f"{len(files)} of {len(SUBJECTS)} people are here, with {which} pictures, so this copy is partial."
        )
    splits, refused = recipes.cut(card, trials, SPLITS)
    stimuli, stimuli_source, missing = _stimuli(pictures, images or _image_set(source), progress)
    sha256: dict[str, str] = {metadata.name: store.file_sha256(metadata)}  # grows while the recordings are read
    return Prepared(
        spec=card.eeg,
        eeg=_blocks(files, pictures, card.eeg, sha256),
        trials=trials,
        concepts=tuple(sorted({picture.concept for picture in pictures})),
        stimuli=stimuli,
        stimuli_source=stimuli_source,
        splits=splits,
        source=sha256,
        report=(*report, *refused, *missing),
        complete=complete,
    )


def read_pictures(metadata: Any, where: Path) -> tuple[Picture, ...]:
    """All pictures in the order of the EEG rows, training before test, from the authors' image metadata.

    Raises:
        UsageError: It has not the four lists, or they are not what rows of EEG can belong to.
    """

    def refuse(what: str) -> UsageError:
        return UsageError(f"{where} must hold the image metadata of THINGS-EEG2, but {what}; get it again.")

    lists: dict[str, list[str]] = {}
    for name in (f"{half}_img_{kind}" for half in PARTS for kind in ("concepts", "files")):
        found = metadata.get(name) if isinstance(metadata, Mapping) else None
        values = found.tolist() if isinstance(found, np.ndarray) else found
        if not isinstance(values, list | tuple) or not values or not all(isinstance(v, str) for v in values):
            raise refuse(f"{name} is no list of names")
        lists[name] = [str(value) for value in values]
    pictures: list[Picture] = []
    for half, long in PARTS.items():
        folders, names = lists[f"{half}_img_concepts"], lists[f"{half}_img_files"]
        if len(folders) != len(names):
            raise refuse(f"{half}_img_concepts has {len(folders)} entries and {half}_img_files {len(names)}")
        paths = [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]
        if odd := next((path for path in paths if not PLACE.fullmatch(path)), None):
            raise refuse(f"{odd[:60]!r} is not of the form 00001_concept/picture.jpg")
        if paths != sorted(paths):
            raise refuse(f"its {long} pictures are not in the order of their names, which rows of EEG follow")
        for row, (folder, name) in enumerate(zip(folders, names, strict=True), 1):
            concept = folder.partition("_")[2]
            pictures.append(Picture(Path(name).stem, concept, half, row, f"{long}_images/{folder}/{name}"))
    if len({picture.stimulus_id for picture in pictures}) < len(pictures):
        raise refuse("a picture stands in it twice")
    train, test = ({p.concept for p in pictures if p.part == half} for half in PARTS)
    if shared := sorted(train & test):
        raise refuse(f"{shared[0]} is a concept of training and of test")
    val = set(recipes.shuffled(sorted(train), "things-eeg2")[: max(1, round(HELD_OUT * len(train)))])
    return tuple(p._replace(part="val") if p.concept in val else p for p in pictures)


def table(
    subjects: Sequence[str], pictures: Sequence[Picture], repetitions: Mapping[str, int] = REPETITIONS
) -> dict[str, np.ndarray]:
    """The trials table of these people, (n_trials,) per column: person by person, picture by picture, repetitions last.

    Trial ids are ``01-tr00001-0`` and ``01-te001-00``: person, condition code of the picture, repetition in the file.
    """
    codes, rows = [], []
    for picture in pictures:
        of_train = picture.half == "train"
        for repetition in range(repetitions[picture.half]):
            codes.append(f"tr{picture.row:05d}-{repetition}" if of_train else f"te{picture.row:03d}-{repetition:02d}")
            rows.append(picture)
    people = [subject for subject in subjects for _ in rows]
    return {
        "trial_id": strings([f"{subject}-{code}" for subject in subjects for code in codes]),
        "subject": strings(people),
        "block": strings([f"{subject}-{picture.part}" for subject in subjects for picture in rows]),
        "stimulus_id": strings([picture.stimulus_id for picture in rows] * len(subjects)),
        "concept": strings([picture.concept for picture in rows] * len(subjects)),
    }


def _official(trials: recipes.Trials) -> recipes.Cut:
    parts = _parts(trials)
    return recipes.Cut("block", parts["val"], parts["test"])


def _within_subject(trials: recipes.Trials, *, subject: str) -> recipes.Cut:
    parts = _parts(trials, [_require(trials, subject)])
    return recipes.Cut("block", parts["val"], parts["test"], parts["train"])


def _cross_subject(trials: recipes.Trials, *, subject: str) -> recipes.Cut:
    own = _parts(trials, [_require(trials, subject)])
    rest = _parts(trials, sorted(set(trials["subject"].tolist()) - {subject}))
    if not rest["train"]:
        raise UsageError("it trains on other people, but there are none.")
    return recipes.Cut("block", rest["val"], own["test"], rest["train"])


SPLITS: dict[str, recipes.Recipe] = {
    "official": _official,
    **{f"within-subject-{subject}": partial(_within_subject, subject=subject) for subject in SUBJECTS},
    **{f"cross-subject-{subject}": partial(_cross_subject, subject=subject) for subject in SUBJECTS},
}


def _parts(trials: recipes.Trials, subjects: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Blocks of each part of the official split, of these people or of all."""
    blocks = [b for b in np.unique(trials["block"]).tolist() if subjects is None or b.partition("-")[0] in subjects]
    return {part: tuple(b for b in blocks if b.partition("-")[2] == part) for part in ("train", "val", "test")}


def _require(trials: recipes.Trials, subject: str) -> str:
    if subject not in trials["subject"]:
        raise UsageError(f"it tests subject {subject}, whom this copy does not have.")
    return subject


def _find_eeg(source: Path, dataset: str) -> dict[str, dict[str, Path]]:
    """Files by person and half, of every person who is there."""
    folders = [source, *sorted(path for path in source.iterdir() if path.is_dir())] if source.is_dir() else []
    found = [files for folder in folders if (files := _people(folder))]
    if len(found) != 1:
        raise UsageError(
            f"--source of {dataset} must be one folder with sub-01/preprocessed_eeg_training.npy and the like in it, "
            f"or the one above, but {source} has {'several such folders' if found else 'none'}."
        )
    for path in (path for halves in found[0].values() for path in halves.values()):
        if not path.is_file():
            raise UsageError(
                f"everybody in --source needs a training and a test file, but {path} is not there; "
                "get it or remove the other one."
            )
    return found[0]


def _people(folder: Path) -> dict[str, dict[str, Path]]:
    people = {
        subject: {half: folder / f"sub-{subject}" / f"preprocessed_eeg_{long}.npy" for half, long in PARTS.items()}
        for subject in SUBJECTS
    }
    return {subject: files for subject, files in people.items() if any(path.is_file() for path in files.values())}


def _find_metadata(source: Path, dataset: str) -> Path:
    places = [source, source / "image_set", source.parent, source.parent / "image_set"]
    for folder in places:
        if (path := folder / "image_metadata.npy").is_file():
            return path
    raise UsageError(
        f"{dataset} needs image_metadata.npy, which says which picture a row shows, but it is neither in {source} nor "
        "in an image_set folder in or beside it; get it from the authors' image_set."
    )


def _image_set(source: Path) -> Path | None:
    """The authors' folder of pictures, if it lies in the source or beside it."""
    places = (source, source / "image_set", source.parent / "image_set")
    return next((folder for folder in places if (folder / "training_images").is_dir()), None)


def _blocks(
    files: Mapping[str, Mapping[str, Path]], pictures: Sequence[Picture], spec: EEGSpec, sha256: dict[str, str]
) -> Iterator[np.ndarray]:
    """(n, n_channels, n_times) float32 in the order of ``table``; notes the sha256 of each file as it goes."""
    n_rows = {half: sum(picture.half == half for picture in pictures) for half in PARTS}
    for subject, halves in files.items():
        for half, path in halves.items():
            sha256[f"sub-{subject}/{path.name}"] = store.file_sha256(path)
            eeg = _read_eeg(path, (n_rows[half], REPETITIONS[half], spec.n_channels, spec.n_times), spec)
            step = max(1, CHUNK // REPETITIONS[half])
            for start in range(0, len(eeg), step):
                with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused with its trial
                    trials = eeg[start : start + step].reshape(-1, *eeg.shape[2:]).astype(np.float32)
                yield trials


def _read_eeg(path: Path, shape: tuple[int, ...], spec: EEGSpec) -> np.ndarray:
    """(n_pictures, n_repetitions, n_channels, n_times) of one file, checked against the card and the metadata."""

    def refuse(must: str, but: str) -> UsageError:
        return UsageError(f"{path} must hold {must}, but {but}; get the file again.")

    found = foreign.read_npy(path)
    names = ("preprocessed_eeg_data", "ch_names", "times")
    if not isinstance(found, Mapping) or (missing := [name for name in names if name not in found]):
        what = f"has no {missing[0]}" if isinstance(found, Mapping) else "holds something else"
        raise refuse(f"a dict with {', '.join(names)}", f"it {what}")
    eeg, channels, times = (found[name] for name in names)
    channels = channels.tolist() if isinstance(channels, np.ndarray) else channels
    if said := _difference(channels, spec.ch_names):
        raise refuse(f"the channels {', '.join(spec.ch_names)} in this order", said)
    start = spec.tmin + np.arange(spec.n_times) / spec.sfreq
    if not _is_axis(times, start):
        raise refuse(f"{spec.n_times} times from {start[0]:g} to {start[-1]:g} s", "its times are others")
    if not isinstance(eeg, np.ndarray) or eeg.dtype.kind != "f" or eeg.shape != shape:
        said = f"{eeg.dtype} {eeg.shape}" if isinstance(eeg, np.ndarray) else "no array"
        raise refuse(f"floats of shape {shape} (pictures of the metadata, repetitions, channels, times)", f"has {said}")
    return eeg


def _difference(channels: Any, wanted: Sequence[str]) -> str | None:
    if not isinstance(channels, list | tuple) or not all(isinstance(name, str) for name in channels):
        return "ch_names is no list of names"
    if len(channels) != len(wanted):
        return f"it has {len(channels)}"
    different = (i for i, name in enumerate(channels) if name != wanted[i])
    place = next(different, None)
    return None if place is None else f"{channels[place][:20]!r} stands where {wanted[place]} belongs"


def _is_axis(times: Any, wanted: np.ndarray) -> bool:
    """Whether the last entries are the wanted times; files of 250 times still list the 50 dropped before onset."""
    try:
        axis = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return axis.ndim == 1 and len(axis) >= len(wanted) and bool(np.allclose(axis[-len(wanted) :], wanted, atol=1e-3))


def _stimuli(
    pictures: Sequence[Picture], images: Path | None, progress: Progress | None
) -> tuple[tuple[Stimulus, ...], str, tuple[str, ...]]:
    """All pictures, with their files where the folder is given; where they are from; a sentence if there is none."""
    if images is None:
        stimuli = tuple(Stimulus(p.stimulus_id, p.concept, None, "any") for p in pictures)
        return stimuli, "none", ("no pictures: give the authors' image_set as --images to train or score images.",)
    found = []
    for done, picture in enumerate(pictures, 1):
        path = images / picture.path
        if not path.is_file():
            raise UsageError(
                f"--images must be the authors' image_set with training_images/ and test_images/ in it, but {images} "
                f"has no {picture.path}; unpack it whole."
            )
        require_picture(path, path.read_bytes())
        found.append(Stimulus(picture.stimulus_id, picture.concept, path, "any"))
        if progress is not None:
            progress(done, len(pictures), "pictures read")
    return tuple(found), "THINGS pictures of the experiment", ()

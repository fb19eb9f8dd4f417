"""Object category EEG (Kaneshiro et al. 2015): ten people, 72 photographs in six categories, each shown many times.

The layout of the authors' files ``S1.mat`` to ``S10.mat`` is as generally known; it was never seen by this converter's
tests, which make files of their own. Hence every file is compared with that layout before it is believed: shapes, label
ranges, that both labels agree, and that the two forms of the signal, ``X_3D`` and ``X_2D``, are one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, Stimulus, not_here, strings
from zoo.datasets.pictures import SUFFIXES, require_picture
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec

SUBJECTS = tuple(f"{number:02d}" for number in range(1, 11))
PER_CONCEPT = 12
"""Photographs of each category; exemplars 1-12 are those of category 1, and so on."""
MOST = 10_000
"""Trials a file may claim; 72 photographs 72 times are 5,184."""


class Recording(NamedTuple):
    """What is known of a file before its signal is read: labels from 1, (n_trials,) int64."""

    path: Path
    subject: str
    category: np.ndarray
    exemplar: np.ndarray


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Trials from the authors' MATLAB files, of one or more people.

    Raises:
        MissingError: No source is given.
        UsageError: There is no such file, or one has another layout; or ``images`` does not hold 72 pictures.
    """
    if source is None:
        raise not_here(card)
    assert card.eeg is not None
    recordings = [_read_labels(path, subject, card) for subject, path in _find(source).items()]
    trials = _table(recordings, card.concepts)
    splits, refused = recipes.cut(card, trials, SPLITS)
    complete = len(recordings) == len(SUBJECTS)
    partial_copy = f"{len(recordings)} of {len(SUBJECTS)} people are here, so this copy is partial."
    stimuli, stimuli_source, said = _stimuli(card.concepts, images)
    sha256: dict[str, str] = {}  # grows while the signals are read
    return Prepared(
        spec=card.eeg,
        eeg=_signals(recordings, card.eeg, sha256, progress),
        trials=trials,
        concepts=card.concepts,
        stimuli=stimuli,
        stimuli_source=stimuli_source,
        splits=splits,
        source=sha256,
        report=(*(() if complete else (partial_copy,)), *refused, *said),
        complete=complete,
    )


def _subject_out(trials: recipes.Trials, *, test: int) -> recipes.Cut:
    """One person tests, the next one validates."""
    return recipes.listed(trials, column="subject", val=[SUBJECTS[test % len(SUBJECTS)]], test=[SUBJECTS[test - 1]])


SPLITS: dict[str, recipes.Recipe] = {
    "exemplar-out": partial(recipes.stimulus_out, val=1 / PER_CONCEPT, test=2 / PER_CONCEPT),
    **{f"subject-out-{number}": partial(_subject_out, test=number) for number in range(1, len(SUBJECTS) + 1)},
    "published-90-10": partial(recipes.random_rows, within="subject", val=0.09, test=0.1),
}


def _find(source: Path) -> dict[str, Path]:
    """Files by person, of every person who is there."""
    paths = [source] if source.is_file() else [source / f"S{number}.mat" for number in range(1, len(SUBJECTS) + 1)]
    named = {path: re.fullmatch(r"S([1-9]|10)\.mat", path.name) for path in paths if path.is_file()}
    found = {f"{int(match[1]):02d}": path for path, match in named.items() if match}
    if not found:
        raise UsageError(
            f"--source of object must be one of S1.mat to S10.mat or a folder with some, but {source} is neither."
        )
    return found


def _read_labels(path: Path, subject: str, card: DatasetCard) -> Recording:
    """Both labels of a file whose contents are declared as they must be; no signal is read yet."""
    import scipy.io

    assert card.eeg is not None
    with _reading(path):
        declared = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
    shape, kind = declared.get("X_3D", ((), ""))
    wanted = (card.eeg.n_channels, card.eeg.n_times)
    if len(shape) != 3 or shape[:2] != wanted or not 0 < shape[2] <= MOST or kind not in ("single", "double"):
        said = f"is {kind} {shape}" if kind else "is missing"
        raise UsageError(
            f"X_3D of {path} must be {wanted[0]} electrodes × {wanted[1]} times × up to {MOST} trials of single or "
            f"double, but {said}; get the authors' file."
        )
    n_trials = shape[2]
    _require_declared(path, declared, "categoryLabels", n_trials)
    _require_declared(path, declared, "exemplarLabels", n_trials)
    for name in ("Fs", "N"):
        if name in declared:
            _require_declared(path, declared, name, 1)
    found = _load(path, ("categoryLabels", "exemplarLabels", "Fs", "N"))
    for name, value in (("Fs", card.eeg.sfreq), ("N", card.eeg.n_times)):
        if name in found and found[name].tolist() != [[value]]:
            raise UsageError(f"{name} of {path} must be {value:g}, but is {found[name].item()}; get the authors' file.")
    n_concepts = len(card.concepts)
    category = _whole(path, "categoryLabels", found, n_concepts)
    exemplar = _whole(path, "exemplarLabels", found, n_concepts * PER_CONCEPT)
    if (odd := (exemplar - 1) // PER_CONCEPT + 1 != category).any():
        trial = int(np.argmax(odd))
        raise UsageError(
            f"exemplars of {path} must belong to their category (1-12 to 1, 13-24 to 2, …), but trial {trial + 1} is "
            f"exemplar {exemplar[trial]} in category {category[trial]}; get the authors' file."
        )
    return Recording(path, subject, category, exemplar)


def _require_declared(path: Path, declared: Mapping[str, tuple[tuple[int, ...], str]], name: str, n: int) -> None:
    shape, kind = declared.get(name, ((), ""))
    if shape not in ((1, n), (n, 1)) or not re.fullmatch(r"single|double|u?int(8|16|32|64)", kind):
        said = f"is {kind} {shape}" if kind else "is missing"
        raise UsageError(f"{name} of {path} must be 1 × {n} numbers, but {said}; get the authors' file.")


def _whole(path: Path, name: str, found: Mapping[str, np.ndarray], most: int) -> np.ndarray:
    """Labels as int64, if they are whole numbers from 1 to ``most``."""
    values = found[name].ravel()
    if (odd := ~np.isin(values, np.arange(1, most + 1))).any():
        trial = int(np.argmax(odd))
        raise UsageError(
            f"{name} of {path} must be whole numbers from 1 to {most}, but trial {trial + 1} has {values[trial]:g}; "
            "get the authors' file."
        )
    return values.astype(np.int64)


def _table(recordings: Sequence[Recording], concepts: Sequence[str]) -> dict[str, np.ndarray]:
    """The trials table; whether files keep the order of recording is not known, so ``order`` is left out."""
    ids = [f"s{r.subject}-{trial:04d}" for r in recordings for trial in range(1, len(r.category) + 1)]
    return {
        "trial_id": strings(ids),
        "subject": strings([r.subject for r in recordings for _ in r.category]),
        "stimulus_id": strings([_exemplar_id(number) for r in recordings for number in r.exemplar.tolist()]),
        "concept": strings([concepts[number - 1] for r in recordings for number in r.category.tolist()]),
    }


def _exemplar_id(number: int) -> str:
    return f"e{number:02d}"


def _signals(
    recordings: Sequence[Recording], spec: EEGSpec, sha256: dict[str, str], progress: Progress | None
) -> Iterator[np.ndarray]:
    """(n_trials, n_channels, n_times) float32 per person; notes the sha256 of each signal as it goes.

    Raises:
        UsageError: ``X_2D`` is there and something else, or two people have one signal.
    """
    for done, recording in enumerate(recordings, 1):
        found = _load(recording.path, ("X_3D", "X_2D"))
        eeg = found["X_3D"]
        if "X_2D" in found:
            _require_same(recording.path, eeg, found["X_2D"])
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused with its trial
            trials = np.ascontiguousarray(eeg.transpose(2, 0, 1), dtype="<f4")
        digest = hashlib.sha256(trials.data).hexdigest()
        if digest in sha256.values():
            raise UsageError(f"every person has a signal of their own, but {recording.path} is a copy; get it again.")
        sha256[f"S{int(recording.subject)} signal"] = digest
        if progress is not None:
            progress(done, len(recordings), "people read")
        yield trials


def _require_same(path: Path, eeg: np.ndarray, flat: np.ndarray) -> None:
    """Refuse an ``X_2D`` that is not ``X_3D``, each trial unrolled as MATLAB does: first the electrodes at time 1.

    Read in the order of C instead, such a row mixes electrodes and times.
    """
    wanted = eeg.reshape(-1, eeg.shape[2], order="F").T
    if flat.shape != wanted.shape or not np.array_equal(flat, wanted, equal_nan=True):
        by_rows = eeg.reshape(-1, eeg.shape[2]).T
        row_major = flat.shape == by_rows.shape and np.array_equal(flat, by_rows, equal_nan=True)
        said = "is in row-major order" if row_major else "holds something else"
        raise UsageError(
            f"X_2D of {path} must be X_3D with each trial unrolled in column-major order, but it {said}; "
            "get the authors' file."
        )


def _load(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """These variables of a file, as far as it has them; plain numbers only."""
    import scipy.io

    with _reading(path):
        found: dict[str, Any] = scipy.io.loadmat(path, variable_names=list(names), spmatrix=False)
    for name in names:
        if name in found and (not isinstance(found[name], np.ndarray) or found[name].dtype.kind not in "fiu"):
            raise UsageError(f"{name} of {path} must be real numbers, but it is something else; get the authors' file.")
    return {name: found[name] for name in names if name in found}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around reading a MATLAB file, which holds data only: whatever its bytes make scipy stumble over is a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scipy only warns of a variable that stands twice
            yield
    except NotImplementedError as error:
        raise UsageError(
            f"{path} must be a MATLAB file of version 4 to 7, but it is one of version 7.3; get the authors' file, or "
            "save it again with -v7."
        ) from error
    except Exception as error:  # damaged bytes can fail anywhere in scipy
        why = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UsageError(f"{path} must be a MATLAB file, but it cannot be read ({why}); get it again.") from error


def _stimuli(concepts: Sequence[str], images: Path | None) -> tuple[tuple[Stimulus, ...], str, tuple[str, ...]]:
    """A stimulus per exemplar, with its picture where they are given; where they are from; and a sentence."""
    n = len(concepts) * PER_CONCEPT
    shown = [(_exemplar_id(number + 1), concepts[number // PER_CONCEPT]) for number in range(n)]
    if images is None:
        bare = tuple(Stimulus(exemplar, concept, None) for exemplar, concept in shown)
        return (
            bare,
            "none",
            (f"no pictures: give a folder of the {n} photographs as --images to train or score images.",),
        )
    files = [path for path in images.iterdir() if path.suffix.lower() in SUFFIXES] if images.is_dir() else []
    if len(files) != n:
        raise UsageError(f"--images must be a folder of the {n} photographs, but {images} has {len(files)} pictures.")
    numbers = {path: re.findall(r"[0-9]+", path.stem) for path in files}
    numbered = sorted(int(found[0]) for found in numbers.values() if len(found) == 1) == list(range(1, n + 1))
    files.sort(key=lambda path: int(numbers[path][0]) if numbered else _natural(path.stem))
    for path in files:
        require_picture(path, path.read_bytes())
    how = (
        "the number in their names"
        if numbered
        else f"the order of their names, from {files[0].name} to {files[-1].name}"
    )
    stimuli = tuple(Stimulus(*about, path) for about, path in zip(shown, files, strict=True))
    return stimuli, "pictures given with --images", (f"pictures were given to exemplars by {how}.",)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by value: ``face2`` before ``face10``."""
    return [(1, 0, part) if i % 2 == 0 else (0, int(part), "") for i, part in enumerate(re.split(r"([0-9]+)", name))]

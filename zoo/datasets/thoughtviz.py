"""ThoughtViz's data.pkl (Tirupattur et al. 2018): windows of imagined objects, characters and digits, ready cut.

The recordings are those of ``envisioned_speech``. Here a trial is a window as the authors of ThoughtViz released it: of
neither its person, nor its recording, nor its place in time anything is stored, only its class and on which side it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo import foreign, store
from zoo.datasets import recipes
from zoo.datasets.base import CHUNK, Prepared, Progress, not_here, strings
from zoo.datasets.pictures import class_pictures
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec

FOLDERS = {"object": "image", "character": "char", "digit": "digit"}
"""Upstream folder of each task, ``data/eeg/<folder>/data.pkl``."""
ROLES = ("train", "test")


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Windows of one task (``card.options['task']``) as released, raw with their DC offset.

    Raises:
        MissingError: No source is given.
        UsageError: It is not data.pkl of this task, or its arrays are not those of 14 channels, 32 times, 10 classes.
        IntegrityError: The file names anything but arrays, dicts, numbers and strings.
    """
    if source is None:
        raise not_here(card)
    assert card.eeg is not None
    path = _find(source, card)
    windows, labels = _read(path, card, card.eeg)
    counts = {role: len(windows[role]) for role in ROLES}
    trials = {
        "trial_id": strings([f"{role}-{row:05d}" for role in ROLES for row in range(counts[role])]),
        "concept": strings([card.concepts[label] for role in ROLES for label in labels[role].tolist()]),
    }
    splits, refused = recipes.cut(card, trials, {"released": recipes.released})
    stimuli, stimuli_source, skipped = class_pictures(card.concepts, images)
    complete, counted = _count(card, counts["train"])
    return Prepared(
        spec=card.eeg,
        eeg=(block for role in ROLES for block in _blocks(windows[role])),
        trials=trials,
        concepts=card.concepts,
        stimuli=stimuli,
        stimuli_source=stimuli_source,
        splits=splits,
        source={"data.pkl": store.file_sha256(path)},
        report=(*_untold(path, card), *counted, *refused, *skipped),
        complete=complete,
    )


def _find(source: Path, card: DatasetCard) -> Path:
    """``data.pkl`` itself, or as it lies in the authors' folders."""
    name = FOLDERS[card.options["task"]]
    if source.is_file():
        if source.parent.name in {*FOLDERS.values()} - {name}:
            raise UsageError(
                f"--source of {card.id} must be data.pkl of the folder {name}, but this one lies in "
                f"{source.parent.name}, which is another task; choose eeg/{name}/data.pkl."
            )
        return source
    beside = ["data.pkl"] if source.name == name else []
    places = [
        source / place for place in (*beside, *(f"{above}{name}/data.pkl" for above in ("", "eeg/", "data/eeg/")))
    ]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UsageError(
            f"--source of {card.id} must be data.pkl or the folder that holds eeg/{name}/data.pkl, but {source} is "
            "neither."
        )
    return found


def _read(path: Path, card: DatasetCard, spec: EEGSpec) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By role: windows (n, n_channels, n_times, 1) as stored, and labels (n,) int64."""
    content = foreign.read_pickle(path)
    if isinstance(content, dict):  # a copy saved again by Python 3 has bytes where Python 2 had str
        content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    wanted = [f"{kind}_{role}" for role in ROLES for kind in "xy"]
    if not isinstance(content, dict) or (missing := [name for name in wanted if name not in content]):
        what = f"lacks {missing[0]}" if isinstance(content, dict) else f"is a {type(content).__name__}"
        raise UsageError(f"{path} must hold a dict with {', '.join(wanted)}, but it {what}; get data.pkl again.")
    shape = (spec.n_channels, spec.n_times, 1)
    windows, labels = {}, {}
    for role in ROLES:
        x, y = content[f"x_{role}"], content[f"y_{role}"]
        for name, array, rest in ((f"x_{role}", x, shape), (f"y_{role}", y, (len(card.concepts),))):
            if not _numeric(array) or array.shape[1:] != rest or array.ndim == 0:
                raise UsageError(
                    f"{name} of {path} must be numbers of shape (n, {', '.join(map(str, rest))}), but is "
                    f"{_say(array)}; get data.pkl again."
                )
        if len(x) != len(y):
            raise UsageError(
                f"x_{role} and y_{role} of {path} must have one row per window, but have {len(x)} and {len(y)}; get "
                "data.pkl again."
            )
        if (wrong := ((y != 0).sum(axis=1) != 1) | (y.sum(axis=1) != 1)).any():
            raise UsageError(
                f"y_{role} of {path} must be one-hot, a 1 among zeros in every row, but row {int(wrong.argmax())} is "
                "not; get data.pkl again."
            )
        windows[role], labels[role] = x, y.argmax(axis=1)
    return windows, labels


def _numeric(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "iuf"


def _say(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"


def _blocks(windows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(windows), CHUNK):
        yield windows[start : start + CHUNK, :, :, 0].astype(np.float32)


def _untold(path: Path, card: DatasetCard) -> tuple[str, ...]:
    """The three tasks have files of one name and form, and nothing in them says which it is."""
    if path.parent.name == FOLDERS[card.options["task"]]:
        return ()
    return (f"data.pkl does not say of which task it is; it was taken for {FOLDERS[card.options['task']]}.",)


def _count(card: DatasetCard, n_train: int) -> tuple[bool, tuple[str, ...]]:
    published = card.options.get("n_train")
    if published is None:
        return True, ("how many windows were published is not known, so this copy is taken as whole.",)
    if n_train == published:
        return True, ()
    return False, (f"{n_train} windows train, {published} were published, so this copy is not as published.",)

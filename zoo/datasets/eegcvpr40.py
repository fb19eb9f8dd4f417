"""EEGCVPR40 (Spampinato et al., CVPR 2017): six people, 40 ImageNet classes of 50 pictures, 128 electrodes at 1 kHz.

All pictures of a class were shown one after another, so class and time are one thing in these recordings; read the
card's confounds before believing a score. A segment holds about 500 samples from picture onset; samples 20 to 459 are
kept, as the authors' script does. Nothing in the files says when a segment was recorded. What is known by design is
that all segments of one person and one class come from the same 25 seconds: the column ``block`` is derived from that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo import foreign, registry, store
from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, Stimulus, not_here, strings
from zoo.datasets.pictures import require_picture
from zoo.errors import UsageError
from zoo.specs import DatasetCard

CUT = slice(20, 460)
"""Samples kept of a segment; the first 20 ms still answer to the previous picture."""
OFFICIAL_LENGTHS = (450, 600)
"""Segments shorter or longer than this have no role in the authors' split."""
BLOCK = 64
"""Segments read at a time."""
SPLITS_FILE = "block_splits_by_image_all.pth"
FOLDERS = ("train", "val", "test")
"""Folders of the EEGStyleGAN-ADA form."""
SUFFIXES = (".jpeg", ".jpg", ".png")
UNSEEN = ("n02106662", "n02124075", "n02607072", "n02951358", "n03445777", "n03982430")
"""The classes that EEGStyleGAN-ADA leaves out of training: dog, cat, fish, canoe, golf ball, pool table."""


class Corpus(NamedTuple):
    """What a source holds: columns of equal length, and how to read the signal of one row.

    ``read(row)`` is (128, lengths[row]) float32, of which the samples ``cut`` are kept. ``given`` is the role of each
    row where the source brings one, ``sha256`` is by file.
    """

    subjects: list[str]
    images: list[str]
    concepts: list[str]
    lengths: np.ndarray
    read: Callable[[int], np.ndarray]
    cut: slice
    labels: tuple[str, ...]
    sha256: Mapping[str, str]
    report: tuple[str, ...] = ()
    given: np.ndarray | None = None


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """Trials of one band (or of the unfiltered release) from the authors' file.

    Raises:
        MissingError: No source is given.
        UsageError: It is not what the authors published, or ``images`` holds none of the pictures.
        IntegrityError: A file holds more than data.
    """
    if source is None:
        raise not_here(card)
    assert card.eeg is not None
    assert card.n_trials is not None
    path = _find(card, source)
    corpus = _read_folder(path, card, progress) if path.is_dir() else _read_file(path, card)
    rows = np.flatnonzero(corpus.lengths >= corpus.cut.stop)
    report = list(corpus.report)
    if short := len(corpus.lengths) - len(rows):
        report.append(f"{short} segments shorter than {corpus.cut.stop} samples were left out.")
    complete = len(corpus.lengths) >= card.n_trials
    if not complete:
        report.append(
            f"{len(corpus.lengths)} of the {card.n_trials} published segments are here, so this copy is partial."
        )
    trials = _table(corpus, rows)
    made, sha256, sentences = _recipes(path, corpus, rows)
    splits, refused = recipes.cut(card, trials, made)
    stimuli, pictures = _stimuli(trials, images)
    return Prepared(
        spec=card.eeg,
        eeg=_blocks(corpus, rows),
        trials=trials,
        concepts=corpus.labels,
        stimuli=stimuli,
        stimuli_source="ImageNet" if images else "none",
        splits=splits,
        source={**corpus.sha256, **sha256},
        report=(*report, *sentences, *refused, *pictures),
        complete=complete,
    )


def build_features(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """The published LSTM embeddings of EEGCVPR40 training trials, each as 128 channels × 1 time.

    Raises:
        MissingError: No source is given.
        UsageError: It is not that file, or pictures are given.
    """
    if source is None:
        raise not_here(card)
    if images is not None:
        raise UsageError(f"{card.id} takes no --images, since its labels are numbers without names; leave it out.")
    assert card.eeg is not None
    try:
        with np.load(source, allow_pickle=False) as file:
            embedding, label = file["embedding"], file["label"]
    except Exception as error:  # whatever a stranger's file makes numpy stumble over
        raise UsageError(
            f"--source of {card.id} must be an .npz file with the arrays embedding and label, but {source.name} cannot "
            "be read as one; get it again."
        ) from error
    width = card.eeg.n_channels
    if embedding.ndim != 2 or embedding.shape[1] != width or label.shape != embedding.shape[:1]:
        raise UsageError(
            f"{source.name} must hold an embedding (n, {width}) and a label (n,), but they are {embedding.shape} and "
            f"{label.shape}; get it again."
        )
    if label.dtype.kind not in "iu" or not np.isin(label, np.arange(len(card.concepts))).all():
        raise UsageError(
            f"{source.name} must hold labels from 0 to {len(card.concepts) - 1}, but does not; get it again."
        )
    concepts = card.concepts
    trials = {
        "trial_id": strings([f"row-{row:04d}" for row in range(len(label))]),
        "concept": strings([concepts[number] for number in label.tolist()]),
    }
    splits, refused = recipes.cut(
        card, trials, {"random-row": partial(recipes.random_rows, within="concept", val=0.1, test=0.2)}
    )
    complete = len(label) == card.n_trials
    partial_copy = () if complete else (f"{len(label)} of {card.n_trials} rows are here, so this copy is partial.",)
    return Prepared(
        spec=card.eeg,
        eeg=embedding[:, :, None],
        trials=trials,
        concepts=concepts,
        stimuli=(),
        stimuli_source="none",
        splits=splits,
        source={"embeddings": store.file_sha256(source)},
        report=(*partial_copy, *refused),
        complete=complete,
    )


def _find(card: DatasetCard, source: Path) -> Path:
    """The file to read, or the folder of the EEGStyleGAN-ADA form."""
    names: list[str] = card.options["files"]
    if source.is_dir():
        for name in names:
            if (source / name).is_file():
                return source / name
        if card.options["unfiltered"] and any((source / part).is_dir() for part in FOLDERS):
            return source
        wanted = " or ".join(names) + (
            ", or train/, val/ and test/ of .npy files," if card.options["unfiltered"] else ""
        )
        raise UsageError(f"--source of {card.id} must be {wanted} or a folder with it, but {source} has none.")
    for other in registry.datasets.cards():
        if other.loader == card.loader and other.id != card.id and source.name in other.options["files"]:
            raise UsageError(
                f"{card.id} is made from {names[0]}, but {source.name} holds {other.id}; prepare that one or give the "
                "right file."
            )
    return source


def _read_file(path: Path, card: DatasetCard) -> Corpus:
    """The authors' ``.pth``: a dict of dataset, labels, images and, where unfiltered, means and stddevs."""
    content = foreign.read_torch(path)
    keys = ["dataset", "labels", "images", *(["means", "stddevs"] if card.options["unfiltered"] else [])]
    lists = [isinstance(content, dict) and isinstance(content.get(key), list | tuple) for key in keys[:3]]
    if not all(lists) or (lacking := [key for key in keys[3:] if key not in content]):
        key = keys[lists.index(False)] if not all(lists) else lacking[0]
        raise UsageError(f"{path.name} must be a dict with {', '.join(keys)}, but has no {key}; get the file again.")
    if not card.options["unfiltered"] and "means" in content:
        raise UsageError(
            f"{path.name} must hold filtered recordings without means, but has some; prepare eegcvpr40-raw from it."
        )
    labels, images = tuple(map(str, content["labels"])), list(map(str, content["images"]))
    if sorted(labels) != sorted(card.concepts):
        known = len(set(labels) & set(card.concepts))
        raise UsageError(
            f"{path.name} must have the {len(card.concepts)} classes of EEGCVPR40 as labels, but {known} of its "
            f"{len(labels)} are among them; get the file again."
        )
    records = content["dataset"]
    for row, record in enumerate(records):
        _check(path, row, record, len(labels), len(images))
    scale = _scale(path, content) if card.options["unfiltered"] else None

    def read(row: int) -> np.ndarray:
        eeg = np.asarray(records[row]["eeg"], dtype=np.float32)
        return eeg if scale is None else (eeg - scale[0]) / scale[1]

    name = path.name if path.name in card.options["files"] else card.options["files"][0]
    return Corpus(
        subjects=[str(int(record["subject"])) for record in records],
        images=[images[int(record["image"])] for record in records],
        concepts=[labels[int(record["label"])] for record in records],
        lengths=np.array([record["eeg"].shape[1] for record in records], dtype=np.int64),
        read=read,
        cut=CUT,
        labels=labels,
        sha256={name: store.file_sha256(path)},
    )


def _check(path: Path, row: int, record: Any, n_labels: int, n_images: int) -> None:
    try:
        shape = record["eeg"].shape
        numbers = {key: int(record[key]) for key in ("image", "label", "subject")}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"record {row} of {path.name} must have eeg, image, label and subject, but does not "
            f"({type(error).__name__}: {error}); get the file again."
        ) from error
    if len(shape) != 2 or shape[0] != 128:
        raise UsageError(
            f"record {row} of {path.name} must have eeg of 128 channels × samples, but its shape is {tuple(shape)}; "
            "get the file again."
        )
    for key, stop in (("image", n_images), ("label", n_labels)):
        if not 0 <= numbers[key] < stop:
            raise UsageError(
                f"record {row} of {path.name} must name one of {stop} {key}s, but names number {numbers[key]}; "
                "get the file again."
            )


def _scale(path: Path, content: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, both (128, 1) float32."""
    means, stddevs = (np.asarray(content[key], dtype=np.float32).reshape(-1, 1) for key in ("means", "stddevs"))
    if len(means) != 128 or len(stddevs) != 128 or not np.isfinite(means).all() or not (stddevs > 0).all():
        raise UsageError(
            f"{path.name} must have a mean and a positive stddev for each of 128 channels, but has {len(means)} and "
            f"{len(stddevs)} or others; get the file again."
        )
    return means, stddevs


def _read_folder(folder: Path, card: DatasetCard, progress: Progress | None) -> Corpus:
    """``{train,val,test}/*.npy`` of EEGStyleGAN-ADA: each an object array image, eeg, label, image id, subject."""
    files = [path for part in FOLDERS for path in sorted((folder / part).rglob("*.npy"))]
    subjects, images, lengths = [], [], []
    sha256 = {part: hashlib.sha256() for part in FOLDERS}
    for done, path in enumerate(files, 1):
        eeg, image, subject = _read_item(path)
        subjects.append(subject)
        images.append(image)
        lengths.append(eeg.shape[1])
        sha256[path.relative_to(folder).parts[0]].update(path.read_bytes())
        if progress is not None:
            progress(done, len(files), "files read")
    concepts = [image.partition("_")[0] for image in images]
    if odd := [image for image, concept in zip(images, concepts, strict=True) if concept not in card.concepts]:
        raise UsageError(
            f"image ids in {folder} must begin with a class of EEGCVPR40, but {odd[0]!r} does not; get the files again."
        )
    assert card.eeg is not None
    return Corpus(
        subjects=subjects,
        images=images,
        concepts=concepts,
        lengths=np.array(lengths, dtype=np.int64),
        read=lambda row: np.asarray(_read_item(files[row])[0], dtype=np.float32),
        cut=slice(0, card.eeg.n_times) if set(lengths) == {card.eeg.n_times} else CUT,
        labels=card.concepts,
        sha256={part: digest.hexdigest() for part, digest in sha256.items()},
        report=("values are as stored: .npy files bring no means and stddevs to scale them with.",),
        given=np.array([path.relative_to(folder).parts[0] for path in files]),
    )


def _read_item(path: Path) -> tuple[np.ndarray, str, str]:
    """Signal (128, samples), image id and subject of one file; its picture is left alone."""
    content = foreign.read_npy(path)
    try:
        _, eeg, _, image, subject = content
        eeg, image, subject = np.asarray(eeg), str(image), str(int(subject))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{path.name} must hold image, eeg, label, image id and subject, but does not ({error}); get it again."
        ) from error
    if eeg.ndim != 2 or len(eeg) != 128:
        raise UsageError(f"{path.name} must hold eeg of 128 channels × samples, but its shape is {eeg.shape}.")
    return eeg, image, subject


def _table(corpus: Corpus, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The trials table; the same picture shown to the same person again is told apart by ``-2``."""
    ids: list[str] = []
    shown: Counter[str] = Counter()
    for subject, image in zip(corpus.subjects, corpus.images, strict=True):
        name = f"s{subject}-{image}"
        shown[name] += 1
        ids.append(name if shown[name] == 1 else f"{name}-{shown[name]}")
    block = [f"s{subject}-{concept}" for subject, concept in zip(corpus.subjects, corpus.concepts, strict=True)]
    columns = {
        "trial_id": ids,
        "subject": corpus.subjects,
        "block": block,
        "stimulus_id": corpus.images,
        "concept": corpus.concepts,
    }
    return {name: strings(values)[rows] for name, values in columns.items()}


def _blocks(corpus: Corpus, rows: np.ndarray) -> Iterator[np.ndarray]:
    for part in np.array_split(rows, range(BLOCK, len(rows), BLOCK)):
        yield np.stack([corpus.read(int(row))[:, corpus.cut] for row in part])


def _recipes(
    path: Path, corpus: Corpus, rows: np.ndarray
) -> tuple[dict[str, recipes.Recipe], dict[str, str], tuple[str, ...]]:
    """How splits are cut, sha256 of the file that says so, and a sentence where that file is not here."""
    if corpus.given is not None:
        return {**SPLITS, "as-given": partial(_as_given, roles=corpus.given[rows])}, {}, ()
    beside = path.parent / SPLITS_FILE
    if not beside.is_file():
        sentence = f"split legacy-block is left out: {SPLITS_FILE} is not beside {path.name}."
        return dict(SPLITS), {}, (sentence,)
    official = _read_splits(beside, corpus)
    low, high = OFFICIAL_LENGTHS
    inside = (corpus.lengths[rows] >= low) & (corpus.lengths[rows] <= high)
    roles = np.where(inside, official[rows], "unused")
    return {**SPLITS, "legacy-block": partial(_as_given, roles=roles)}, {SPLITS_FILE: store.file_sha256(beside)}, ()


def _read_splits(path: Path, corpus: Corpus) -> np.ndarray:
    """Role of each record in split 0 of the authors' file, (n_records,) str."""
    content = foreign.read_torch(path)
    try:
        first = {role: [int(row) for row in content["splits"][0][role]] for role in FOLDERS}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(
            f"{path.name} must hold splits with train, val and test, but does not ({type(error).__name__}: {error}); "
            "get the file again."
        ) from error
    n = len(corpus.lengths)
    roles = np.full(n, "unused", dtype="<U6")
    for role, members in first.items():
        for row in members:
            if not 0 <= row < n or roles[row] != "unused":
                why = f"names record {row} twice" if 0 <= row < n else f"names record {row}"
                raise UsageError(
                    f"{path.name} must give each of the {n} records one role at most, but {why}; take the files of one "
                    "release."
                )
            roles[row] = role
    return roles


def _as_given(trials: recipes.Trials, *, roles: np.ndarray) -> recipes.Cut:
    """The roles that the authors gave each trial."""
    train, val, test = (tuple(sorted(trials["trial_id"][roles == role].tolist())) for role in FOLDERS)
    return recipes.Cut("trial_id", val, test, train)


def _unseen_class(trials: recipes.Trials) -> recipes.Cut:
    """Six classes test and four of the others validate, chosen by hash."""
    seen = sorted(set(trials["concept"].tolist()) - set(UNSEEN))
    return recipes.listed(trials, column="concept", val=recipes.shuffled(seen, "unseen-class")[:4], test=UNSEEN)


SPLITS: dict[str, recipes.Recipe] = {
    **{
        f"subject-out-{k}": partial(recipes.listed, column="subject", val=(str(k % 6 + 1),), test=(str(k),))
        for k in range(1, 7)
    },
    "unseen-class": _unseen_class,
}


def _stimuli(trials: Mapping[str, np.ndarray], folder: Path | None) -> tuple[tuple[Stimulus, ...], tuple[str, ...]]:
    """The pictures shown, as files where they are found, and a sentence on those that are not."""
    shows: dict[str, str] = {}
    for image, concept in zip(trials["stimulus_id"].tolist(), trials["concept"].tolist(), strict=True):
        if shows.setdefault(image, concept) != concept:
            raise UsageError(f"a picture must show one class, but {image} is labelled {shows[image]} and {concept}.")
    found = {} if folder is None else _find_pictures(folder, list(shows))
    stimuli = tuple(Stimulus(image, concept, found.get(image)) for image, concept in shows.items())
    if folder is None:
        return stimuli, ("no pictures: give a folder of ImageNet as --images to train or score images.",)
    if lacking := [image for image in shows if image not in found]:
        return stimuli, (f"{len(lacking)} of the {len(shows)} pictures are not in --images, such as {lacking[0]}.",)
    return stimuli, ()


def _find_pictures(folder: Path, images: Sequence[str]) -> dict[str, Path]:
    """Files of the pictures in ``<folder>/<class>/`` or in the folder itself.

    Raises:
        UsageError: None of them is there, or one is no picture.
    """
    wanted = set(images)
    found: dict[str, Path] = {}
    for part in (*(folder / concept for concept in sorted({image.partition("_")[0] for image in images})), folder):
        for path in sorted(part.iterdir()) if part.is_dir() else ():
            if path.stem in wanted and path.suffix.lower() in SUFFIXES:
                found.setdefault(path.stem, path)
    if not found:
        raise UsageError(
            f"--images must be a folder with pictures such as {images[0].partition('_')[0]}/{images[0]}.JPEG, but "
            f"{folder} has none of the {len(images)}; give the folder that holds the classes."
        )
    for path in found.values():
        require_picture(path, path.read_bytes())
    return found

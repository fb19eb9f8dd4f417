"""Prepared datasets: one layout, one way in, one way to read.

Layout of a prepared dataset, ``<cache>/datasets/<id>/``:
    dataset.json      spec, concepts, fingerprint, sha256 of every file and of the source, report of what was found
    eeg.safetensors   one tensor ``eeg`` (n_trials, n_channels, n_times) float32 in volts, read through a memory map
    trials.parquet    trial_id, subject, session, run, block, order, recording, stimulus_id, concept (unknown = null)
    stimuli.parquet   stimulus_id, concept, role, sha256, image (encoded bytes)
    splits/*.json     zoo.specs.Split
    card.json         its card, so that the folder speaks for itself

Values of ``run``, ``block`` and ``recording`` name one thing in the whole dataset (never "run 1 of everybody"), so each
column can be a unit of resampling or of a split. ``order`` counts the trials of a run in the order they were recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, overload

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo import __version__, registry, store
from zoo.errors import IntegrityError, MissingError, UsageError, ZooError
from zoo.specs import SHA256, CutFrom, DatasetCard, EEGSpec, Split

if TYPE_CHECKING:
    from zoo.training import TrainingData

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""
Role = Literal["train", "val", "test"]
COLUMNS = ("trial_id", "subject", "session", "run", "block", "order", "recording", "stimulus_id", "concept")
RELEASED = Path(__file__).parent / "splits"
"""Split files that belong to the package: ``<dataset>/<split>@<N>.json``."""
GENERATED = "generated"
"""``source`` of a card whose data is computed, not recorded; such a dataset prepares itself."""
CHUNK = 1024
"""Trials checked and written at a time."""
PICTURES = 256
"""Pictures read and written at a time."""


@dataclass(frozen=True)
class Stimulus:
    """One picture: its encoded bytes (PNG, JPEG) or the file that holds them, None for a picture that is not here.

    ``role`` is ``train``, ``test`` or ``any``; with instance pairing always ``any``, since a picture plays the role of
    the trials that show it. ``sha256`` is only needed for a picture that is not here, if it is known.
    """

    stimulus_id: str
    concept: str
    image: bytes | Path | None
    role: str = "any"
    sha256: str | None = None


@dataclass(frozen=True)
class Prepared:
    """What a converter returns; ``prepare`` writes it down.

    Attributes:
        eeg: (n_trials, n_channels, n_times) float32, or such blocks in order, which may be made while they are written.
        trials: Columns of equal length; ``trial_id`` unique and derived from the source, so stable on anyone's copy.
            A column left out is unknown.
        splits: Cut from exactly these trials, ids ending in ``@0``.
        source: sha256 by name of what was read (names that tell nobody's identity).
        report: Sentences for the user: what was skipped, repaired, partial.
        complete: False for a copy that lacks recordings of the published corpus. Splits of a complete copy get the
            numbers of the card.
    """

    spec: EEGSpec
    eeg: np.ndarray | Iterable[np.ndarray]
    trials: Mapping[str, np.ndarray]
    concepts: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]
    stimuli_source: str
    splits: tuple[Split, ...]
    source: Mapping[str, str] = field(default_factory=dict)
    report: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Stimuli:
    """Columns of the stimuli table for the pictures that are here; empty where none is.

    Shape:
        ids, concepts, roles, sha256: (n_stimuli,) str.
        labels: (n_stimuli,) int64 concept index.
    """

    ids: np.ndarray
    concepts: np.ndarray
    roles: np.ndarray
    sha256: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class Stored(BaseModel):
    """One file of a prepared dataset or of its repo."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str = Field(pattern=SHA256)


class About(BaseModel):
    """What ``dataset.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    id: str
    options: dict[str, Any]
    spec: EEGSpec
    concepts: tuple[str, ...]
    fingerprint: str = Field(pattern=SHA256)
    files: dict[str, Stored]
    source: dict[str, str]
    stimuli_source: str
    report: tuple[str, ...]
    complete: bool


def prepare(
    name: str,
    *,
    source: Path | None = None,
    images: Path | None = None,
    accept_licence: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Convert a user's own copy of a dataset to the standard layout, whole or not at all.

    Args:
        name: Dataset id or alias.
        source: File or folder as its authors distribute it; null for generated datasets.
        images: Folder of pictures, where the dataset takes them separately.
        accept_licence: The user has read and accepts the terms of a dataset that has some.
        progress: Told what is being read and written.

    Returns:
        The folder of the prepared dataset; an older one is replaced.

    Raises:
        MissingError: The source is not given, or the dataset has no converter yet.
        UsageError: What was given is not what the dataset's card describes, or the dataset is generated from nothing.
        IntegrityError: Its terms are not accepted.
    """
    card = registry.datasets.get(name)
    if card.loader is None:
        raise not_here(card)
    require_terms(card, accept_licence)
    for option, path in (("--source", source), ("--images", images)):
        if path is not None and card.source == GENERATED:
            raise UsageError(f"{card.id} is generated, so it takes no {option}; leave it out.")
        if path is not None and not path.exists():
            raise UsageError(f"{option} must be a file or folder that exists, but {path} does not; check its spelling.")
    prepared: Prepared = registry.load_object(card.loader)(card, source=source, images=images, progress=progress)
    folder = store.cache_dir("datasets", card.id)
    with store.lock(folder), store.atomic_folder(folder) as work:
        write(prepared, card, work, progress)
    return folder


def require_terms(card: DatasetCard, accepted: bool = False) -> None:
    """Refuse a dataset whose terms the user has not accepted, by the argument or by ``ZOO_ACCEPT_LICENSE``.

    The variable holds dataset ids separated by commas, or ``all``.
    """
    named = {part.strip() for part in os.environ.get("ZOO_ACCEPT_LICENSE", "").split(",")}
    if card.terms and not accepted and not named & {card.id, "all"}:
        where = card.licence_url or card.source
        raise IntegrityError(
            f"{card.id} may only be used by those who accept its terms: {card.terms} ({where}); "
            f"if you do, add --accept-license or set ZOO_ACCEPT_LICENSE={card.id}."
        )


def load(name: str) -> EEGDataset:
    """Open a prepared dataset; a generated one is prepared on the way if need be.

    Raises:
        MissingError: It is not prepared; the second line is the command that does it.
        IntegrityError: ``dataset.json`` is damaged, or a file has not the size that was written.
    """
    card = registry.datasets.get(name)
    folder = store.cache_dir("datasets", card.id)
    if card.source == GENERATED and _outdated(folder, card):
        prepare(card.id)
    if not (folder / "dataset.json").exists():
        raise not_here(card)
    return EEGDataset(folder, card)


def not_here(card: DatasetCard) -> MissingError:
    """Two lines: what is missing, and the command that brings it."""
    pull = f"zoo data pull {card.id}" if card.hub is not None and card.hosts != "splits" else None
    if card.loader is None and pull:
        return MissingError(f"{card.id} is not prepared on this machine.\nto bring it, run: {pull}")
    if card.loader is None:
        return MissingError(
            f"{card.id} is announced but not in this release (eeg-image-zoo {__version__}): "
            "there is no converter for it, and it is not prepared on this machine.\n"
            f"to install it, run: pip install --upgrade eeg-image-zoo && zoo data prepare {card.id} --source PATH   "
            f"({card.get}; {card.source})"
        )
    return MissingError(
        f"{card.id} is not prepared on this machine.\n"
        f"to {f'bring it, run: {pull}, or to make it' if pull else 'make it, run'}: "
        f"zoo data prepare {card.id} --source PATH   ({card.get})"
    )


def check(name: str) -> list[str]:
    """Compare a prepared dataset with what was written down about it; an empty list means nothing differs."""
    try:
        dataset = load(name)
    except IntegrityError as error:
        return [str(error)]
    differs = [
        f"{path} has sha256 {found[:12]}…, but {wanted.sha256[:12]}… was written; run '{dataset.again}' again."
        for path, wanted in dataset.files.items()
        if (found := store.file_sha256(dataset.folder / path)) != wanted.sha256
    ]
    if differs:  # what such files say means nothing, if they can be read at all
        return differs
    if (found := fingerprint(dataset.trials)) != dataset.fingerprint:
        differs.append(f"the trials have fingerprint {found[:12]}…, but {dataset.fingerprint[:12]}… was written.")
    for split_id in dataset.split_ids:
        try:
            dataset.roles(dataset.split(split_id))
        except (IntegrityError, UsageError) as error:
            differs.append(str(error))
    elsewhere: dict[str, list[Split]] = {}
    for about in dataset.card.splits:
        path = RELEASED / dataset.id / f"{about.id}.json"
        if path.exists() and about.id not in dataset.split_ids:
            split = parse_split(path.read_bytes(), about.id, about.sha256)
            elsewhere.setdefault(split.trials_fingerprint, []).append(split)
    for first, *more in elsewhere.values():
        names = f"{first.id} and {len(more)} more were" if more else f"{first.id} was"
        differs.append(f"{names} cut from other trials: {_difference(first, dataset)}")
    return differs


def _difference(split: Split, dataset: EEGDataset) -> str:
    """How the trials of a copy differ from those that a released split was cut from, as far as the split remembers."""
    wanted, found = split.cut_from, cut_from(dataset.trials)
    listed = {value for members in split.roles.values() for value in members}
    lacking = sorted(listed - set(dataset.trials[split.unit].tolist()))
    said = []
    if wanted and wanted.n_trials != found.n_trials:
        said.append(f"{wanted.n_trials} there, {found.n_trials} here")
    elif dataset.card.n_trials and dataset.card.n_trials != found.n_trials:
        said.append(f"{dataset.card.n_trials} were published, {found.n_trials} are here")
    if lacking:
        said.append(
            f"{len(lacking)} of the {len(listed)} values of {split.unit} in {split.id} are not here, such as "
            f"{lacking[0]!r}"
        )
    changed = [name for name, value in wanted.columns.items() if found.columns.get(name) != value] if wanted else []
    if wanted and wanted.n_trials == found.n_trials and changed:
        said.append(f"columns that differ: {', '.join(changed)}")
    return f"{'; '.join(said) or 'their columns differ'}; use {', '.join(dataset.split_ids) or 'another copy'}."


def fingerprint(trials: Mapping[str, np.ndarray]) -> str:
    """Digest of every column of the trials table: equal exactly for the same trials in the same order."""
    return store.digest({column: values.tolist() for column, values in _columns(trials).items()})


def cut_from(trials: Mapping[str, np.ndarray]) -> CutFrom:
    """What a split cut from these trials keeps about them."""
    columns = {column: store.digest(values.tolist())[:16] for column, values in _columns(trials).items()}
    return CutFrom(n_trials=len(trials["trial_id"]), columns=columns)


def strings(values: Sequence[str | None] | np.ndarray) -> np.ndarray:
    """A text column: fixed-width text, or objects where something is unknown (None)."""
    column = np.asarray(values, dtype=object)
    return column if any(value is None for value in column) else column.astype(np.str_)


class EEGDataset:
    """A prepared dataset, read lazily: the recordings stay on disk behind a memory map.

    Attributes:
        trials: Every column of ``COLUMNS``; text (None where unknown), and ``order`` int64, left out where unknown.
        labels: (n_trials,) int64 index of each trial's concept in ``concepts``.
        fingerprint: Digest of the trials table; a split file names the one it belongs to.
        files: Size and sha256 of every file by its path in ``folder``.
    """

    def __init__(self, folder: Path, card: DatasetCard) -> None:
        about = read_about(folder, card)
        self.folder = folder
        self.card = card
        self.id = card.id
        self.spec = about.spec
        self.concepts = about.concepts
        self.fingerprint = about.fingerprint
        self.files = about.files
        self.source = about.source
        self.stimuli_source = about.stimuli_source
        self.report = about.report
        self.complete = about.complete
        self._check_sizes()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"EEGDataset({self.id}: {len(self)} trials, {self.spec}, {len(self.concepts)} concepts)"

    @property
    def again(self) -> str:
        """The command that made this copy."""
        hub = self.source.get("hub")
        return f"zoo data pull {self.id} --from hf-hub:{hub}" if hub else f"zoo data prepare {self.id}"

    @property
    def eeg_sha256(self) -> str:
        return self.files["eeg.safetensors"].sha256

    @cached_property
    def stimuli_sha256(self) -> str:
        """Digest of the pictures and what is said about them."""
        table = self.stimuli
        return store.digest([column.tolist() for column in (table.ids, table.concepts, table.roles, table.sha256)])

    @cached_property
    def stimulus_of_trial(self) -> np.ndarray:
        """(n_trials,) int64 row of the picture each trial showed, -1 where only its class is known."""
        row = {stimulus_id: i for i, stimulus_id in enumerate(self.stimuli.ids.tolist())}
        return np.array([row.get(shown, -1) for shown in self.trials["stimulus_id"].tolist()], dtype=np.int64)

    @property
    def split_ids(self) -> list[str]:
        """Splits of this copy, e.g. ``subject-out@1``."""
        return sorted(Path(name).stem for name in self.files if name.startswith("splits/"))

    @cached_property
    def eeg(self) -> np.ndarray:
        """All trials as a read-only memory map, (n_trials, n_channels, n_times) float32 volts; index it by rows."""
        from safetensors import safe_open

        path = self.folder / "eeg.safetensors"
        with _reading(path), safe_open(path, framework="np") as file:
            shape = tuple(file.get_slice("eeg").get_shape())
        return np.memmap(path, dtype="<f4", mode="r", offset=path.stat().st_size - 4 * math.prod(shape), shape=shape)

    @cached_property
    def trials(self) -> dict[str, np.ndarray]:
        table = _read_table(self.folder / "trials.parquet", COLUMNS)
        if None in table["order"]:
            del table["order"]
        return {name: np.asarray(v, np.int64) if name == "order" else strings(v) for name, v in table.items()}

    @cached_property
    def labels(self) -> np.ndarray:
        return self._indices(self.trials["concept"])

    @cached_property
    def stimuli(self) -> Stimuli:
        table = _read_table(self.folder / "stimuli.parquet", ("stimulus_id", "concept", "role", "sha256"))
        ids, concepts, roles, sha256 = (strings(column)[self._pictured] for column in table.values())
        return Stimuli(ids, concepts, roles, sha256, self._indices(concepts))

    def stimulus_pixels(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Decode pictures by their row in the stimuli table, each (height, width, 3) uint8 RGB."""
        with _reading(self.folder / "stimuli.parquet"):
            pixels = [decode(self._image(int(row))) for row in rows]
        return pixels

    def stimulus_rows(self, split: Split, role: Role) -> np.ndarray:
        """Rows of the pictures that play ``role``.

        With instance pairing these are the pictures shown in trials of that role. With class pairing pictures have a
        role of their own, ``train`` or ``test``; none is kept for ``val``.
        """
        if self.card.pairing != "instance":
            return np.flatnonzero(self.stimuli.roles == role)
        shown = np.unique(self.stimulus_of_trial[self.roles(split) == role])
        return shown[shown >= 0]

    def split(self, name: str | None = None) -> Split:
        """The split called ``name`` (``subject-out``, ``subject-out@1``); null for the default one.

        Without a version it is the released one if that belongs to this copy, else the one cut from it (``@0``).

        Raises:
            UsageError: There is no such split, or it was cut from other trials than this copy has.
            IntegrityError: The file is not the released one.
        """
        stem, _, version = (name or self.card.split(None).id.partition("@")[0]).partition("@")
        found = [split_id for split_id in self.split_ids if split_id.partition("@")[0] == stem]
        if version and f"{stem}@{version}" not in found and found:
            raise UsageError(
                f"{stem}@{version} was not cut from the trials of this copy of {self.id}, which has {found[0]}; "
                f"{'choose that' if self.complete else 'complete the copy and prepare it again, or choose that'}."
            )
        if not found:
            raise UsageError(f"{self.id} has no split {name or stem!r}; its splits are: {', '.join(self.split_ids)}.")
        return self._read_split(found[-1])

    def roles(self, split: Split) -> np.ndarray:
        """Role of each trial, (n_trials,) str: train, val, test or unused.

        Raises:
            IntegrityError: The split was cut from other trials.
            UsageError: It names something these trials do not have, or leaves train or test empty.
        """
        if split.trials_fingerprint != self.fingerprint:
            raise IntegrityError(
                f"split {split.id} was cut from trials with fingerprint {split.trials_fingerprint[:12]}…, but this "
                f"copy of {self.id} has {self.fingerprint[:12]}…; use a split of its own: {', '.join(self.split_ids)}."
            )
        if split.unit not in COLUMNS:
            raise UsageError(f"split {split.id} must divide a column of the trials table, not {split.unit!r}.")
        values = self.trials[split.unit]
        listed = np.array([value for members in split.roles.values() for value in members], dtype=np.str_)
        if (unknown := np.setdiff1d(listed, values.astype(np.str_))).size:
            raise UsageError(f"split {split.id} names {split.unit} '{unknown[0]}', which {self.id} does not have.")
        roles = np.array(split.role_of(values.tolist()))
        for role in ("train", "test"):
            if role not in roles:
                raise UsageError(f"split {split.id} leaves the {role} role of {self.id} empty; cut it differently.")
        return roles

    def training_data(self, split: Split, *, validate: Role = "val") -> TrainingData:
        """What a training recipe may see of ``split``: its train and val trials and their pictures.

        Args:
            validate: Role whose trials stand as val; ``test`` is what some papers did, and no fair score comes of it.
        """
        from zoo.training import TrainingData

        roles = self.roles(split)
        rows, val_rows = self.stimulus_rows(split, "train"), self.stimulus_rows(split, validate)
        return TrainingData(
            eeg=self.eeg,
            labels=self.labels,
            train=np.flatnonzero(roles == "train"),
            val=np.flatnonzero(roles == validate),
            n_classes=len(self.concepts),
            images=Pictures(self, rows),
            image_labels=self.stimuli.labels[rows],
            image_of_trial=self._positions(rows),
            val_images=Pictures(self, val_rows),
            val_image_of_trial=self._positions(val_rows),
            subjects=strings([subject or "" for subject in self.trials["subject"].tolist()]),
        )

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """(n_trials,) place of each trial's own picture among these, -1 where it is none of them or not known."""
        position = np.full(len(self.stimuli) + 1, -1)  # the last one answers for trials whose picture is not known
        position[rows] = np.arange(len(rows))
        placed: np.ndarray = position[self.stimulus_of_trial]
        return placed

    @cached_property
    def _pictured(self) -> np.ndarray:
        """Rows of the stimuli table whose picture is here."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        path = self.folder / "stimuli.parquet"
        with _reading(path), pq.ParquetFile(path) as file:
            found = [pc.is_valid(part["image"]).to_numpy(False) for part in file.iter_batches(columns=["image"])]
        return np.flatnonzero(np.concatenate([np.zeros(0, bool), *found]))

    def _image(self, row: int) -> bytes:
        """Encoded bytes of the picture in this row of ``stimuli``."""
        row = int(self._pictured[row])
        group = int(np.searchsorted(self._groups, row, side="right")) - 1
        image: bytes = self._group(group)[row - int(self._groups[group])]
        return image

    @cached_property
    def _groups(self) -> np.ndarray:
        """First row of every row group of the stimuli table."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / "stimuli.parquet") as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return np.cumsum([0, *sizes])[:-1]

    @lru_cache(maxsize=8)  # noqa: B019 - a dataset lives as long as what reads it
    def _group(self, group: int) -> list[bytes]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / "stimuli.parquet") as file:
            return list(file.read_row_group(group, columns=["image"])["image"].to_pylist())

    def _indices(self, concepts: np.ndarray) -> np.ndarray:
        index = {concept: i for i, concept in enumerate(self.concepts)}
        return np.array([index[concept] for concept in concepts], dtype=np.int64)

    def _check_sizes(self) -> None:
        for name, wanted in self.files.items():
            path = self.folder / name
            size = path.stat().st_size if path.exists() else None
            if size != wanted.size:
                raise IntegrityError(
                    f"{name} of {self.id} must have {wanted.size} bytes, but "
                    f"{'is gone' if size is None else f'has {size}'}; run '{self.again}' again."
                )

    def _read_split(self, split_id: str) -> Split:
        data = (self.folder / "splits" / f"{split_id}.json").read_bytes()
        wanted = {s.id: s.sha256 for s in self.card.splits}.get(split_id)
        return parse_split(data, split_id, wanted)


class Pictures(Sequence[np.ndarray]):
    """Some pictures of a dataset, each (height, width, 3) uint8, decoded whenever one is asked for.

    ``rows`` are theirs in the stimuli table.
    """

    def __init__(self, dataset: EEGDataset, rows: np.ndarray) -> None:
        self._dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Pictures: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Pictures:
        if isinstance(index, slice):
            return Pictures(self._dataset, self.rows[index])
        return self._dataset.stimulus_pixels([self.rows[index]])[0]


def decode(image: bytes) -> np.ndarray:
    """Pixels of an encoded picture, (height, width, 3) uint8 RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as picture:
        return np.asarray(picture.convert("RGB"))


def parse_split(data: bytes, name: str, sha256: str | None) -> Split:
    """A split from the bytes of its file, verified if ``sha256`` is known.

    Raises:
        IntegrityError: The bytes are not the released ones.
        UsageError: They are not a split.
    """
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise IntegrityError(
            f"split {name} must have sha256 {sha256[:12]}…, but its file has {found[:12]}…; "
            "install zoo again and prepare the dataset again."
        )
    try:
        return Split.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(f"split {name} must be a split file, but it is not: {error.errors()[0]['msg']}.") from error


def read_about(folder: Path, card: DatasetCard) -> About:
    try:
        return About.model_validate_json((folder / "dataset.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        why = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
        raise IntegrityError(
            f"dataset.json of {card.id} is damaged ({why}); run 'zoo data prepare {card.id}' again."
        ) from error


def _outdated(folder: Path, card: DatasetCard) -> bool:
    """Whether generated data is not here, is damaged, or was made with other options."""
    try:
        return read_about(folder, card).options != card.options
    except (FileNotFoundError, IntegrityError):
        return True


def _columns(trials: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    n = len(trials["trial_id"])
    return {column: np.asarray(trials.get(column, np.full(n, None, dtype=object))) for column in COLUMNS}


def _read_table(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    with _reading(path), pq.ParquetFile(path) as file:  # `read_table` would import pandas
        table = file.read(columns=list(columns))
        found = {column: table[column].to_pylist() for column in columns}
    return found


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around reading a file of a prepared dataset: whatever its bytes make a reader stumble over is named.

    Raises:
        IntegrityError: The file is not what was written.
    """
    try:
        yield
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        if (
            getattr(error, "errno", None) is not None
        ):  # the system's answer; of a file's content, readers give no number
            raise
        name, why = path.parent.name, str(error).partition("\n")[0]
        raise IntegrityError(
            f"{path.name} of {name} is damaged ({why}); run 'zoo data prepare {name}' again."
        ) from error


def write(
    prepared: Prepared,
    card: DatasetCard,
    folder: Path,
    progress: Progress | None = None,
    *,
    stimuli: Iterable[Stimulus] | None = None,
    splits: Iterable[tuple[str, bytes]] | None = None,
) -> None:
    """Write a dataset into an empty folder as the standard layout.

    Args:
        stimuli: The same as ``prepared.stimuli``, with the bytes of each picture made while it is written.
        splits: Id and file of each split, where they are not to be chosen among the released ones and those just cut.

    Raises:
        UsageError: Trials, EEG, concepts and pictures do not fit together, or a value is not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _validate(prepared, card)
    trials = _columns(prepared.trials)
    mark = fingerprint(trials)
    with (folder / "eeg.safetensors").open("wb") as file:
        _write_eeg(file, prepared, trials["trial_id"], progress)
    schema = pa.schema([(name, pa.int64() if name == "order" else pa.string()) for name in COLUMNS])
    pq.write_table(pa.table({n: v.tolist() for n, v in trials.items()}, schema=schema), folder / "trials.parquet")
    _write_stimuli(folder / "stimuli.parquet", prepared.stimuli if stimuli is None else stimuli)
    for split_id, data in _choose_splits(card, prepared, mark) if splits is None else splits:
        store.write_bytes(folder / "splits" / f"{split_id}.json", data)
    store.write_json(folder / "card.json", card.model_dump(mode="json", exclude_defaults=True))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    about = About(
        id=card.id,
        options=card.options,
        spec=prepared.spec,
        concepts=prepared.concepts,
        fingerprint=mark,
        files={
            path.relative_to(folder).as_posix(): Stored(size=path.stat().st_size, sha256=store.file_sha256(path))
            for path in files
        },
        source=dict(prepared.source),
        stimuli_source=prepared.stimuli_source,
        report=prepared.report,
        complete=prepared.complete,
    )
    store.write_json(folder / "dataset.json", about.model_dump(mode="json"))


def _write_eeg(file: BinaryIO, prepared: Prepared, ids: np.ndarray, progress: Progress | None) -> None:
    """Stream trials as the one tensor of a safetensors file, refusing any value that is not finite."""
    shape = (len(ids), prepared.spec.n_channels, prepared.spec.n_times)
    n_bytes = 4 * shape[0] * shape[1] * shape[2]
    header = json.dumps({"eeg": {"dtype": "F32", "shape": shape, "data_offsets": [0, n_bytes]}}).encode()
    header += b" " * (-(8 + len(header)) % 64)  # the payload starts on a cache line, so the memory map is aligned
    file.write(len(header).to_bytes(8, "little") + header)
    done = 0
    for chunk in _chunks(prepared.eeg):
        if chunk.shape[1:] != shape[1:]:
            raise UsageError(f"trials must be {prepared.spec}, but {ids[done]} is {chunk.shape[1]} × {chunk.shape[2]}.")
        if (bad := ~np.isfinite(chunk).all(axis=(1, 2))).any():
            raise UsageError(
                f"EEG must be finite, but trial {ids[done + int(np.argmax(bad))]} holds NaN or infinity; "
                "repair or remove its recording."
            )
        file.write(np.ascontiguousarray(chunk, dtype="<f4").data)
        done += len(chunk)
        if progress is not None:
            progress(done, shape[0], "trials written")
    if done != shape[0]:
        raise UsageError(f"the trials table has {shape[0]} rows, but there are {done} trials of EEG.")


def _chunks(eeg: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in [eeg] if isinstance(eeg, np.ndarray) else eeg:
        for start in range(0, len(block), CHUNK):
            yield block[start : start + CHUNK]


def _write_stimuli(path: Path, stimuli: Iterable[Stimulus]) -> None:
    """The stimuli table, some pictures at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("stimulus_id", "concept", "role", "sha256", "image")
    schema = pa.schema([(name, pa.binary() if name == "image" else pa.string()) for name in names])
    with pq.ParquetWriter(path, schema) as file:
        waiting = iter(stimuli)
        while some := list(itertools.islice(waiting, PICTURES)):
            rows = []
            for s in some:
                image = s.image.read_bytes() if isinstance(s.image, Path) else s.image
                sha256 = s.sha256 if image is None else hashlib.sha256(image).hexdigest()
                rows.append((s.stimulus_id, s.concept, s.role, sha256, image))
            file.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}, schema=schema))


def _validate(prepared: Prepared, card: DatasetCard) -> None:
    ids, counts = np.unique(prepared.trials["trial_id"], return_counts=True)
    if (counts > 1).any():
        raise UsageError(f"trial ids must be unique, but '{ids[np.argmax(counts)]}' of {card.id} stands twice.")
    present = set(prepared.trials["concept"].tolist())
    if empty := [c for c in prepared.concepts if c not in present]:
        raise UsageError(
            f"every concept of {card.id} needs trials, but there are none of {', '.join(empty)}; add recordings."
        )
    pictured = {stimulus.concept for stimulus in prepared.stimuli if stimulus.image is not None}
    if pictured and (bare := [c for c in prepared.concepts if c not in pictured]):
        raise UsageError(
            f"every concept of {card.id} needs pictures, but there are none of {', '.join(bare)}; add some."
        )
    shown = set(prepared.trials.get("stimulus_id", np.array([])).tolist()) - {None}
    if prepared.stimuli and (unseen := sorted(shown - {stimulus.stimulus_id for stimulus in prepared.stimuli})):
        raise UsageError(f"trials of {card.id} show {unseen[0]!r}, which is not among its pictures.")


def _choose_splits(card: DatasetCard, prepared: Prepared, mark: str) -> Iterator[tuple[str, bytes]]:
    """Per split the released file if it belongs to these trials, else the one just cut from them.

    Where the card pins no file, what is cut from a complete copy has the card's number; every other cut is ``@0``.
    """
    for split in prepared.splits:
        known = next((s for s in card.splits if s.id.partition("@")[0] == split.id.partition("@")[0]), None)
        path = RELEASED / card.id / f"{known.id}.json" if known else None
        if known and path and path.exists():
            data = path.read_bytes()
            if parse_split(data, known.id, known.sha256).trials_fingerprint == mark:
                yield known.id, data
                continue
        chosen = known.id if known and known.sha256 is None and prepared.complete else split.id
        yield chosen, split_bytes(split.model_copy(update={"id": chosen}))


def split_bytes(split: Split) -> bytes:
    """A split as the bytes of its file: one canonical line."""
    return (store.canonical_json(split.model_dump(mode="json", exclude_none=True)) + "\n").encode()

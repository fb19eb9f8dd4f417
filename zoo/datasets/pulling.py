"""From a dataset repo (``zoo.datasets.sharing``) to the prepared dataset it was made of, byte for byte.

A repo is a stranger's: its files must have the sha256 that its ``dataset.json`` names before one is read, tables must
be what the standard layout has, and what comes out must have the sha256 that was written down where it was prepared.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from zoo import hub, registry, store
from zoo.datasets import base, sharing
from zoo.datasets.base import COLUMNS, About, EEGDataset, Prepared, Progress, Stimulus
from zoo.errors import IntegrityError, MissingError, UnknownNameError, UsageError, ZooError
from zoo.specs import DatasetCard

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

HEAD = ("dataset.json", "card.json")
HEAD_BYTES = 64 << 20
"""More than any ``dataset.json`` or ``card.json`` has."""
TABLE = re.compile(r"(trials|stimuli)/data-\d{5}-of-\d{5}\.parquet")
SPLIT = re.compile(r"splits/([a-z0-9-]+@\d+)\.json")
ON_DISK = ("eeg.safetensors", "trials.parquet", "stimuli.parquet")
"""Files of a prepared dataset that a repo has in another form."""
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class _Repo:
    """A repo whose every file has the sha256 that its ``dataset.json`` names."""

    folder: Path
    about: About
    origin: str

    def paths(self, table: str) -> list[str]:
        return sorted(path for path in self.about.files if path.startswith(f"{table}/"))

    def fault(self, why: str) -> IntegrityError:
        return _fault(self.origin, why)


def _fault(origin: str, why: str) -> IntegrityError:
    return IntegrityError(f"{origin} cannot be used: {why}; nothing was prepared, tell its owner.")


class Pulled(NamedTuple):
    """Where the dataset lies, and a sentence on where it is from."""

    folder: Path
    told: str


def pull(
    name: str, *, source: str | None = None, accept_licence: bool = False, progress: Progress | None = None
) -> Pulled:
    """Bring a dataset from its repo and lay it out like one prepared here, whole or not at all.

    A copy here that is proven to be the same is left as it is; any other is replaced.

    Args:
        name: Dataset id or alias; with ``source`` also one that this release does not know.
        source: ``hf-hub:organisation/name@revision``; the repo that the card pins if omitted.
        accept_licence: The user has read and accepts the terms of a dataset that has some.
        progress: Told what is being fetched and written.

    Raises:
        MissingError: No repo is known, it cannot be reached, or it may only hold splits; the second line is the way on.
        IntegrityError: Its terms are not accepted, or the repo does not hold what it says.
        UsageError: The repo is of another dataset.
    """
    card = _known(name)
    if card is None and source is None:
        card = registry.datasets.get(name)  # raises, or lies in the cache and names no repo
    place = _place(card, source)
    place = place._replace(revision=hub.resolve(place))
    origin = f"{place.repo}@{place.revision}"
    about, theirs = _read_head(hub.download(place, paths=HEAD), origin)
    if about.id != (card.id if card else name):
        raise UsageError(f"{origin} holds {about.id}, not {card.id if card else name}; pull it under that name.")
    card = card or theirs
    here = _intact(card)
    if here is not None and here.source.get("hub") == origin:
        return Pulled(here.folder, f"{card.id} of {origin} is here already.")
    wanted = [path for path in about.files if TABLE.fullmatch(path) or SPLIT.fullmatch(path)]
    if not any(path.startswith("trials/") for path in wanted):
        return _compare_splits(_fetch(place, about, wanted, None), card)
    base.require_terms(card, accept_licence)
    if here is not None and _is_as_good(here, about):
        return Pulled(here.folder, f"{card.id} is here already, with the same trials as {origin}.")
    _require_space(about)
    repo = _fetch(place, about, wanted, progress)
    return Pulled(rebuild(repo, card, progress=progress), f"{card.id} is from {origin}.")


def _known(name: str) -> DatasetCard | None:
    """The card of the package or a plugin; null for a dataset that at most lies in the cache."""
    try:
        return registry.datasets.get(name, here=False)
    except UnknownNameError:
        return None


def _place(card: DatasetCard | None, source: str | None) -> hub.Place:
    if source is not None:
        return hub.Place.parse(source, "dataset")
    assert card is not None
    if card.hub is not None:
        return hub.Place(card.hub.repo, "dataset", card.hub.revision)
    made = f", or zoo data prepare {card.id} --source PATH   ({card.get})" if card.loader else ""
    raise MissingError(
        f"no repo on the Hub is pinned for {card.id} in this release.\n"
        f"to bring it, run: zoo data pull {card.id} --from hf-hub:{hub.org()}/{card.id}@REVISION{made}"
    )


def _intact(card: DatasetCard) -> EEGDataset | None:
    """The dataset here, if there is one and every file is what was written."""
    try:
        here = EEGDataset(store.cache_dir("datasets", card.id), card)
    except (FileNotFoundError, IntegrityError):
        return None
    whole = all(store.file_sha256(here.folder / name) == file.sha256 for name, file in here.files.items())
    return here if whole else None


def _is_as_good(here: EEGDataset, about: About) -> bool:
    """Whether a dataset has the same trials as a repo and no fewer pictures, as one prepared by the user may have."""
    same = {name for name in ON_DISK if here.files.get(name) == about.files.get(name)}
    trials = here.fingerprint == about.fingerprint and "eeg.safetensors" in same
    return trials and ("stimuli.parquet" in same or here.card.hosts != "everything")


def _read_head(folder: Path, origin: str) -> tuple[About, DatasetCard]:
    """What the repo says about itself. Its card may ask for nothing to be run and takes no other dataset's names."""
    for name in HEAD:
        if (folder / name).stat().st_size > HEAD_BYTES:
            raise _fault(origin, f"{name} must be smaller than {HEAD_BYTES >> 20} MiB")
    try:
        about = About.model_validate_json((folder / "dataset.json").read_bytes())
        card = DatasetCard.model_validate_json((folder / "card.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _fault(origin, f"its {error.title} is not one ({where}: {first['msg']})") from error
    if not ID.fullmatch(about.id) or card.id != about.id:
        raise _fault(origin, f"ids must be equal, of a-z, 0-9 and hyphens, but are {about.id!r} and {card.id!r}")
    for path in about.files:
        if not (TABLE.fullmatch(path) or SPLIT.fullmatch(path) or path in (*ON_DISK, *HEAD, "README.md")):
            raise _fault(origin, f"a dataset repo has no file {path!r}")
    if "eeg.safetensors" not in about.files:
        raise _fault(origin, "dataset.json must name the sha256 of eeg.safetensors")
    return about, card.model_copy(update={"loader": None, "aliases": (), "hub": None})


def _fetch(place: hub.Place, about: About, paths: Sequence[str], progress: Progress | None) -> _Repo:
    """The repo, once all of ``paths`` are here and are the bytes that ``dataset.json`` names."""
    origin = f"{place.repo}@{place.revision}"
    try:
        repo = _Repo(hub.download(place, paths, progress=progress), about, origin)
    except UsageError as error:  # it names a file that is not there
        raise _fault(origin, str(error).rstrip(".")) from error
    for path in paths:
        wanted = about.files[path]
        if (found := store.file_sha256(repo.folder / path)) != wanted.sha256:
            raise repo.fault(f"{path} must have sha256 {wanted.sha256[:12]}…, but has {found[:12]}…")
    return repo


def _require_space(about: About) -> None:
    folder = store.cache_dir()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    tables = sum(stored.size for path, stored in about.files.items() if TABLE.fullmatch(path))
    need = tables + sum(about.files[name].size for name in ON_DISK if name in about.files)
    free = shutil.disk_usage(there).free
    if need > free:
        raise ZooError(
            f"{about.id} needs {need / 1e9:.1f} GB on disk, but {free / 1e9:.1f} GB are free; "
            "free some or point ZOO_CACHE and HF_HOME at a larger disk."
        )


def rebuild(repo: _Repo, card: DatasetCard, *, progress: Progress | None = None) -> Path:
    """Lay a verified repo out as a prepared dataset; what is here stays untouched until all of it is proven.

    Raises:
        IntegrityError: The tables are not what a dataset repo has, or do not give the EEG that was prepared.
    """
    about = repo.about
    with _blamed_on(repo):
        _check_against(card, repo)
        splits = [_split(repo, path, card) for path in repo.paths("splits")]
        trials, starts = _read_trials(repo)
        stimuli = tuple(_read_stimuli(repo, keep=False))
        pictured = any(stimulus.image is not None for stimulus in stimuli)
        prepared = Prepared(
            spec=about.spec,
            eeg=_read_eeg(repo, starts),
            trials=trials,
            concepts=about.concepts,
            stimuli=stimuli,
            stimuli_source=about.stimuli_source if pictured else "none",
            splits=(),
            source={**about.source, "hub": repo.origin},
            report=_report(repo, stimuli),
            complete=about.complete,
        )
        folder = store.cache_dir("datasets", card.id)
        with store.lock(folder), store.atomic_folder(folder) as work:
            base.write(prepared, card, work, progress, stimuli=_read_stimuli(repo, keep=True), splits=splits)
            made = EEGDataset(work, card)
            if made.eeg_sha256 != about.files["eeg.safetensors"].sha256:
                raise repo.fault(
                    f"its EEG must have sha256 {about.files['eeg.safetensors'].sha256[:12]}…, "
                    f"but has {made.eeg_sha256[:12]}…"
                )
            for split_id in made.split_ids:
                made.roles(made.split(split_id))
    return folder


@contextlib.contextmanager
def _blamed_on(repo: _Repo) -> Iterator[None]:
    """Whatever the bytes of a repo make a reader stumble over is the repo's fault."""
    try:
        yield
    except UsageError as error:
        raise repo.fault(str(error).rstrip(".")) from error
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "errno", None) is not None:  # the system's answer
            raise
        raise repo.fault(f"a file is damaged ({str(error).partition(chr(10))[0]})") from error


def _check_against(card: DatasetCard, repo: _Repo) -> None:
    """Refuse a repo that describes other recordings than the card of this release."""
    about = repo.about
    for what, wanted, found in (
        ("recordings", card.eeg, about.spec),
        ("concepts", card.concepts or None, about.concepts),
        ("options", card.options, about.options),
    ):
        if wanted is not None and wanted != found:
            raise repo.fault(f"{what} of {card.id} must be {wanted}, but are {found}")


def _split(repo: _Repo, path: str, card: DatasetCard) -> tuple[str, bytes]:
    """Id and bytes of a split that is the released one, if its card pins one, and belongs to these trials."""
    name, data = Path(path).stem, (repo.folder / path).read_bytes()
    pinned = {about.id: about.sha256 for about in card.splits}.get(name)
    if pinned and (found := hashlib.sha256(data).hexdigest()) != pinned:
        raise repo.fault(f"{name} must be the released split {pinned[:12]}…, but is {found[:12]}…")
    split = base.parse_split(data, name, None)
    if (split.id, split.dataset, split.trials_fingerprint) != (name, card.id, repo.about.fingerprint):
        raise repo.fault(f"split {name} must be of {card.id} and its trials {repo.about.fingerprint[:12]}…")
    return name, data


def _read_trials(repo: _Repo) -> tuple[dict[str, np.ndarray], list[tuple[str, int]]]:
    """The trials table, and the trials of each file."""
    found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    counts = []
    for path, file in _tables(repo, "trials", sharing.trials_schema()):
        _check_lengths(repo, path, file.metadata)
        counts.append((path, file.metadata.num_rows))
        table = file.read(columns=list(COLUMNS))
        for name in COLUMNS:
            found[name] += table[name].to_pylist()
    n, spec, size = len(found["trial_id"]), repo.about.spec, repo.about.files["eeg.safetensors"].size
    if not 0 <= size - 4 * n * spec.n_channels * spec.n_times < 4096:
        raise repo.fault(f"{n} trials of {spec} do not fill an eeg.safetensors of {size} bytes")
    for name in ("trial_id", "concept"):
        if None in found[name]:
            raise repo.fault(f"every trial needs a {name}")
    if strange := sorted(set(found["concept"]) - set(repo.about.concepts)):
        raise repo.fault(f"trials are of {strange[0]!r}, which is not among its concepts")
    known = any(value is not None for value in found["order"])
    order = {"order": np.asarray(found.pop("order"), dtype=np.int64)} if known else {}
    trials = {name: base.strings(values) for name, values in found.items() if name != "order"} | order
    if (mark := base.fingerprint(trials)) != repo.about.fingerprint:
        raise repo.fault(f"its trials must have fingerprint {repo.about.fingerprint[:12]}…, but have {mark[:12]}…")
    return trials, counts


def _check_lengths(repo: _Repo, path: str, metadata: pq.FileMetaData) -> None:
    """Refuse trials of another size before any is read."""
    per_trial = repo.about.spec.n_channels * repo.about.spec.n_times
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        values = sum(
            column.num_values
            for column in (group.column(i) for i in range(group.num_columns))
            if column.path_in_schema.startswith("eeg.")
        )
        if values != group.num_rows * per_trial:
            raise repo.fault(f"trials in {path} must be {repo.about.spec}, but some are not")


def _read_eeg(repo: _Repo, counts: Sequence[tuple[str, int]]) -> Iterator[np.ndarray]:
    """Blocks of trials (n, n_channels, n_times) float32 in order."""
    spec = repo.about.spec
    rows = max(1, sharing.GROUP_BYTES // (4 * spec.n_channels * spec.n_times))
    for path, file in _tables(repo, "trials", sharing.trials_schema()):
        for batch in file.iter_batches(batch_size=rows, columns=["eeg"]):
            trials = batch["eeg"]
            channels = trials.flatten()
            values = channels.flatten()
            lengths = (trials.value_lengths().to_numpy(False), channels.value_lengths().to_numpy(False))
            whole = trials.null_count == channels.null_count == values.null_count == 0
            if not (whole and (lengths[0] == spec.n_channels).all() and (lengths[1] == spec.n_times).all()):
                raise repo.fault(f"trials in {path} must be {spec}, but some are not")
            yield values.to_numpy(zero_copy_only=False).reshape(len(trials), spec.n_channels, spec.n_times)


def _read_stimuli(repo: _Repo, *, keep: bool) -> Iterator[Stimulus]:
    """Rows of the stimuli table in order, each picture proven by its sha256; without ``keep`` its bytes are let go."""
    seen: set[str] = set()
    for path, file in _tables(repo, "stimuli", sharing.stimuli_schema()):
        for batch in file.iter_batches(batch_size=base.PICTURES):
            for row in batch.to_pylist():
                stimulus_id, concept, role, sha256 = (row[name] for name in sharing.PICTURE_COLUMNS[:-1])
                image = (row["image"] or {}).get("bytes")
                if stimulus_id is None or stimulus_id in seen:
                    raise repo.fault(f"picture ids must be unique, but {stimulus_id!r} stands twice or is null")
                seen.add(stimulus_id)
                if role not in ("train", "test", "any") or concept not in repo.about.concepts:
                    raise repo.fault(f"picture {stimulus_id!r} in {path} has role {role!r} and concept {concept!r}")
                if image is not None and hashlib.sha256(image).hexdigest() != sha256:
                    raise repo.fault(f"picture {stimulus_id!r} in {path} is not the one of its sha256")
                yield Stimulus(stimulus_id, concept, image if keep or image is None else b"", role, sha256)


def _tables(repo: _Repo, table: str, schema: pa.Schema) -> Iterator[tuple[str, pq.ParquetFile]]:
    """The files of a table in order, each with the columns it must have."""
    import pyarrow.parquet as pq

    paths = repo.paths(table)
    if paths and paths != [f"{table}/{sharing.shard_name(i, len(paths))}" for i in range(len(paths))]:
        raise repo.fault(f"{table} must lie in all of its files, but there are {', '.join(paths)}")
    for path in paths:
        with pq.ParquetFile(repo.folder / path) as file:
            for column in schema:
                index = file.schema_arrow.get_field_index(column.name)
                if index < 0:
                    raise repo.fault(f"{path} has no column {column.name}")
                if (found := file.schema_arrow.field(index).type) != column.type:
                    raise repo.fault(f"column {column.name} of {path} must be {column.type}, but is {found}")
            yield path, file


def _report(repo: _Repo, stimuli: Sequence[Stimulus]) -> tuple[str, ...]:
    lacking = sum(stimulus.image is None for stimulus in stimuli)
    said = [f"from {repo.origin} on the Hub, the same bytes as were prepared there."]
    if lacking:
        said.append(f"{lacking} of {len(stimuli)} pictures may not be shared and are not here.")
    return tuple(said)


def _compare_splits(repo: _Repo, card: DatasetCard) -> Pulled:
    """Compare a repo that may hold nothing but splits with what is here, and say how to go on.

    Raises:
        IntegrityError: Its splits, or the copy here, are others.
        MissingError: Nothing is prepared here.
    """
    with _blamed_on(repo):
        theirs = dict(_split(repo, path, card) for path in repo.paths("splits"))
    folder = store.cache_dir("datasets", card.id)
    if not (folder / "dataset.json").exists():
        here = base.not_here(card).args[0].partition("\n")[2]
        raise MissingError(
            f"{repo.origin} holds the splits of {card.id} ({', '.join(theirs) or 'none'}), as its licence does not let "
            f"us share more ({card.licence}).\n{here}"
        )
    dataset = EEGDataset(folder, card)
    differs = [
        split_id
        for split_id, data in theirs.items()
        if split_id not in dataset.split_ids or (folder / f"splits/{split_id}.json").read_bytes() != data
    ]
    if dataset.fingerprint != repo.about.fingerprint:
        differs.insert(0, "the trials")
    if differs:
        raise IntegrityError(
            f"the copy of {card.id} here is not the one of {repo.origin}: {', '.join(differs)} differ; "
            f"see 'zoo data check {card.id}'."
        )
    told = f"{card.id} here has the trials and splits of {repo.origin}"
    if dataset.eeg_sha256 != repo.about.files["eeg.safetensors"].sha256:
        told += ", but its EEG has another sha256: other files, or another version of a library that filtered it"
    return Pulled(folder, f"{told}.")

"""Dataset repos: a prepared dataset as files on the Hub; ``zoo.datasets.pulling`` is the way back.

Layout of a repo:
    README.md                              what it is; its header makes ``datasets.load_dataset(repo, "trials")`` work
    trials/data-00000-of-0000N.parquet     the trials table and ``eeg``, (n_channels, n_times) float32 volts
    stimuli/data-00000-of-0000N.parquet    the stimuli table and ``image`` {bytes, path}
    splits/<name>@<N>.json                 the same bytes as on disk
    card.json                              the dataset's card
    dataset.json                           as prepared; ``files`` has the sha256 of every file of the repo and on disk

Of what a card's ``hosts`` forbids nothing is written: with ``recordings`` no picture, with ``splits`` no table at all.
The same dataset gives the same bytes, whether it was prepared or pulled.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from zoo import hub, store
from zoo.datasets import base
from zoo.datasets.base import COLUMNS, EEGDataset, Progress, Stored
from zoo.errors import IntegrityError
from zoo.specs import DatasetCard, EEGSpec

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_BYTES = 256 << 20
"""EEG of one file; with the shape of a trial it decides how many trials a file holds."""
GROUP_BYTES = 16 << 20
"""EEG written and read at a time."""
SHARD_PICTURES = 8 * base.PICTURES
PICTURE_COLUMNS = ("stimulus_id", "concept", "role", "sha256", "image")
LICENCES = (
    "apache-2.0 bsd-2-clause bsd-3-clause cc0-1.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-4.0 "
    "cc-by-nc-sa-4.0 cc-by-nc-nd-4.0 mit odbl"
).split()
"""What the Hub calls them."""
HOSTED = {
    "everything": "This repo holds all of it.",
    "recordings": "This repo holds the recordings. Its licence does not let us share the pictures: `image` is null, "
    "`sha256` tells which picture it was.",
    "splits": "This repo holds no recordings and no pictures, since the licence does not let us share them: only the "
    "splits, the card and checksums.",
}


class Pushed(NamedTuple):
    """What was sent, or would have been: size in bytes by path. ``url`` is null after a dry run."""

    repo: str
    files: dict[str, int]
    url: hub.Published | None


# ---- out


def push(
    name: str,
    *,
    repo: str | None = None,
    create_pr: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Send a prepared dataset to its repo on the Hub, as far as its licence lets us host it.

    Args:
        name: Dataset id or alias.
        repo: ``organisation/name``; the dataset's own under our organisation if omitted.
        create_pr: Propose a pull request instead of committing.
        dry_run: Send nothing.
        progress: Told what is being written and sent.

    Raises:
        MissingError: It is not prepared, or the Hub cannot be reached.
        IntegrityError: A file is not what was prepared.
    """
    dataset = base.load(name)
    place = hub.Place.parse(repo or f"{hub.org()}/{dataset.id}", "dataset")
    folder = store.cache_dir("exports", dataset.id)
    with store.lock(folder):
        try:
            with store.atomic_folder(folder) as work:
                export(dataset, work, progress=progress)
            files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
            url = None
            if not dry_run:
                url = hub.publish(
                    place,
                    folder,
                    message=f"Update {dataset.id}: {len(dataset)} trials, {dataset.fingerprint[:12]}",
                    create_pr=create_pr,
                    delete=("trials/", "stimuli/"),
                    progress=progress,
                )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Pushed(place.repo, files, url)


def export(dataset: EEGDataset, folder: Path, *, progress: Progress | None = None) -> None:
    """Write the files of a dataset's repo into an empty folder, a few trials and pictures at a time.

    Raises:
        IntegrityError: A file is not what was prepared.
    """
    for name, wanted in dataset.files.items():
        if store.file_sha256(dataset.folder / name) != wanted.sha256:
            raise IntegrityError(f"{name} of {dataset.id} was changed; see 'zoo data check {dataset.id}'.")
    card = dataset.card
    n_pictures = 0
    if card.hosts != "splits":
        _export_trials(dataset, folder / "trials", progress)
        n_pictures = _export_stimuli(dataset, folder / "stimuli", pictures=card.hosts == "everything")
    for split_id in dataset.split_ids:
        store.write_bytes(folder / f"splits/{split_id}.json", (dataset.folder / f"splits/{split_id}.json").read_bytes())
    store.write_json(folder / "card.json", card.model_dump(mode="json", exclude_defaults=True))
    store.write_bytes(folder / "README.md", _readme(dataset, n_pictures).encode())
    about = base.read_about(dataset.folder, card)
    files = about.files | {
        path.relative_to(folder).as_posix(): Stored(size=path.stat().st_size, sha256=store.file_sha256(path))
        for path in _files(folder)
    }
    source = {name: sha256 for name, sha256 in about.source.items() if name != "hub"}
    # what was skipped or repaired may name files of the machine it was prepared on
    shared = about.model_copy(update={"files": dict(sorted(files.items())), "source": source, "report": ()})
    store.write_json(folder / "dataset.json", shared.model_dump(mode="json"))


def _export_trials(dataset: EEGDataset, folder: Path, progress: Progress | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, size = len(dataset), 4 * dataset.spec.n_channels * dataset.spec.n_times
    per_shard, per_group = max(1, SHARD_BYTES // size), max(1, GROUP_BYTES // size)
    columns = {name: dataset.trials.get(name, np.full(n, None)) for name in COLUMNS}
    schema = trials_schema()
    folder.mkdir()
    for shard, start in enumerate(range(0, n, per_shard)):
        stop = min(start + per_shard, n)
        path = folder / shard_name(shard, -(-n // per_shard))
        with pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=list(COLUMNS),
            column_encoding={"eeg.list.element.list.element": "BYTE_STREAM_SPLIT"},
        ) as file:
            for first in range(start, stop, per_group):
                rows = slice(first, min(first + per_group, stop))
                table = {name: values[rows].tolist() for name, values in columns.items()}
                file.write_table(pa.table({**table, "eeg": _nested(dataset.eeg[rows])}, schema=schema))
                if progress is not None:
                    progress(rows.stop, n, "trials written")


def _export_stimuli(dataset: EEGDataset, folder: Path, *, pictures: bool) -> int:
    """Write the stimuli table, if it has rows; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = stimuli_schema()
    with pq.ParquetFile(dataset.folder / "stimuli.parquet") as source:
        n = source.metadata.num_rows
        if not n:
            return 0
        folder.mkdir()
        waiting = source.iter_batches(batch_size=base.PICTURES, columns=list(PICTURE_COLUMNS))
        for shard in range(-(-n // SHARD_PICTURES)):
            path = folder / shard_name(shard, -(-n // SHARD_PICTURES))
            with pq.ParquetWriter(path, schema, compression="none") as file:  # pictures are compressed already
                for _ in range(min(SHARD_PICTURES, n - shard * SHARD_PICTURES), 0, -base.PICTURES):
                    rows = next(waiting).to_pydict()
                    rows["image"] = [
                        {"bytes": image, "path": None} if pictures and image is not None else None
                        for image in rows["image"]
                    ]
                    file.write_table(pa.table(rows, schema=schema))
    return int(n)


def _nested(eeg: np.ndarray) -> pa.Array:
    """Trials (n, n_channels, n_times) as lists of lists, without copying values one by one."""
    import pyarrow as pa

    n, n_channels, n_times = eeg.shape
    inner = np.arange(0, n * n_channels * n_times + 1, n_times, dtype=np.int32)
    outer = np.arange(0, n * n_channels + 1, n_channels, dtype=np.int32)
    return pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, pa.array(eeg.reshape(-1))))


def shard_name(number: int, of: int) -> str:
    return f"data-{number:05d}-of-{of:05d}.parquet"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- what the files say to the `datasets` library

STIMULI_FEATURES: dict[str, Any] = {name: "image" if name == "image" else "string" for name in PICTURE_COLUMNS}


def _trials_features(spec: EEGSpec) -> dict[str, Any]:
    eeg = {"array2_d": {"shape": [spec.n_channels, spec.n_times], "dtype": "float32"}}
    return {**{name: "int64" if name == "order" else "string" for name in COLUMNS}, "eeg": eeg}


def trials_schema() -> pa.Schema:
    import pyarrow as pa

    columns = [(name, pa.int64() if name == "order" else pa.string()) for name in COLUMNS]
    return pa.schema([*columns, ("eeg", pa.list_(pa.list_(pa.float32())))])


def stimuli_schema() -> pa.Schema:
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema([(name, image if name == "image" else pa.string()) for name in PICTURE_COLUMNS])


def _readme(dataset: EEGDataset, n_pictures: int) -> str:
    """The dataset card of the Hub: a header for programs, then what a person should know."""
    card, spec = dataset.card, dataset.spec
    tables = {} if card.hosts == "splits" else {"trials": (_trials_features(spec), len(dataset))}
    if n_pictures:
        tables["stimuli"] = (STIMULI_FEATURES, n_pictures)
    header: dict[str, Any] = {"pretty_name": card.title, **_licence(card), "tags": ["eeg", "eeg-image-zoo"]}
    if tables:
        header["configs"] = [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/data-*.parquet"}]}
            for name in tables
        ]
        header["configs"][0]["default"] = True
        header["dataset_info"] = [
            {
                "config_name": name,
                "features": [{"name": column, "dtype": dtype} for column, dtype in features.items()],
                "splits": [{"name": "train", "num_examples": n, "num_bytes": _bytes(dataset, name)}],
            }
            for name, (features, n) in tables.items()
        ]
    told = [
        f"# {_text(card.title)}",
        _text(HOSTED[card.hosts]) + ("" if dataset.complete else " It is a partial copy of the published corpus."),
        "## Recordings",
        f"{len(dataset)} trials of {_subjects(dataset)}, {spec}, "
        f"{1000 * spec.tmin:.0f} to {1000 * (spec.tmin + spec.n_times / spec.sfreq):.0f} ms from onset, "
        f"{spec.unit}, float32.\n"
        f"Channels: {', '.join(spec.ch_names)}.\n"
        f"Concepts ({len(dataset.concepts)}): {_text(', '.join(dataset.concepts))}.\n"
        f"Pairing of trials and pictures: {card.pairing}. Pictures: {_text(dataset.stimuli_source)}.",
        "## Licence",
        _text(card.licence) + (f" ({_text(card.licence_url)})" if card.licence_url else ""),
        *([f"Terms: {_text(card.terms)}"] if card.terms else []),
        "## Source and citation",
        f"{_text(card.source)}{f', doi:{_text(card.doi)}' if card.doi else ''}\n\n{_text(card.citation)}",
        *(["## Confounds", "\n".join(f"- {_text(line)}" for line in card.confounds)] if card.confounds else []),
        "## Splits",
        _split_table(dataset),
        "## Use",
        *([_LOADING] if tables else []),
        f"```bash\npip install eeg-image-zoo\n"
        f"{f'zoo data pull {card.id}' if tables else f'zoo data prepare {card.id} --source PATH'}\n```",
        f"The trials table has fingerprint `{dataset.fingerprint}`, the EEG sha256 `{dataset.eeg_sha256}`.",
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(told) + "\n"


_LOADING = """```python
from datasets import load_dataset

trials = load_dataset("<this repo>", "trials", split="train").with_format("numpy")
trials[:64]["eeg"]  # (64, n_channels, n_times)
```

`train` is what `datasets` calls a table that is not divided; the roles of trials are in `splits/`."""


def _subjects(dataset: EEGDataset) -> str:
    n = len(set(dataset.trials["subject"].tolist()) - {None})
    return f"{n} subjects" if n else "unknown subjects"


def _bytes(dataset: EEGDataset, table: str) -> int:
    return dataset.files["eeg.safetensors" if table == "trials" else "stimuli.parquet"].size


def _licence(card: DatasetCard) -> dict[str, Any]:
    """The licence as the Hub writes it: its own names where the text has them, else ``other`` with a name."""
    words = re.findall(r"[a-z0-9]+(?:[-.][a-z0-9]+)*", card.licence.lower())
    known = sorted({word for word in words if word in LICENCES}) if card.hosts != "splits" else []
    if known:
        return {"license": known if len(known) > 1 else known[0]}
    named = {"license": "other", "license_name": "-".join(words)[:64].strip("-.")}
    return named | ({"license_link": card.licence_url} if card.licence_url else {})


def _split_table(dataset: EEGDataset) -> str:
    lines = ["| split | protocol | train | val | test | sha256 of its file |", "|---|---|---|---|---|---|"]
    for split_id in dataset.split_ids:
        split = dataset.split(split_id)
        roles = dataset.roles(split).tolist()
        counts = " | ".join(str(roles.count(role)) for role in ("train", "val", "test"))
        sha256 = dataset.files[f"splits/{split_id}.json"].sha256
        lines.append(f"| {split_id} | {split.protocol} | {counts} | `{sha256}` |")
    return "\n".join(lines)


def _text(text: str) -> str:
    """Text of a card for Markdown: no markup of its own."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")

"""Reads recordings of any origin as trials: MNE epochs, BIDS roots, ``.npz`` files and arrays, file after file."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from zoo import store
from zoo.datasets.base import Progress
from zoo.errors import MissingError, UsageError, did_you_mean
from zoo.specs import EEGSpec, Pairing, Spec

BLOCK_BYTES = 16 << 20
"""EEG read at a time."""
WINDOW = (-0.2, 0.5)
"""Trials of a BIDS root in seconds around onset, unless the user says otherwise (MNE's default)."""
ENTITY = re.compile(r"(?<![a-zA-Z0-9])(sub|ses|run)-([a-zA-Z0-9]+)")
ENTITIES = {"sub": "subject", "ses": "session", "run": "run"}
EPOCHS = re.compile(r"[-_]epo\.fif(\.gz)?$")
CONTINUED = re.compile(r"_split-(?!0*1_)\d+_")
"""Files that MNE reads together with the first of their kind."""
UNKNOWN = ("", "n/a", "nan", "<NA>", "NaT", "None")
"""How tables spell that a value is not known."""


class Settings(Spec):
    """What the user said about the recordings, kept in the card so that the dataset can be made again."""

    concept: str | None = None
    stimulus: str | None = None
    subject: str | None = None
    session: str | None = None
    run: str | None = None
    events: dict[str, str] = {}
    """Values of the concept column that are kept → concept; empty: all as they are."""
    tmin: float | None = None
    tmax: float | None = None
    unit: Literal["V", "a.u."] = "V"
    pairing: Pairing | None = None
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One file, or what was given in memory.

    Attributes:
        name: Trials are called ``<name>-<position in the file>``.
        where: What sentences for the user call it.
        rows: (n_kept,) position of each kept trial in the file.
        columns: Values of the kept trials.
        entities: Subject, session and run as the name of the file tells them.
        ordered: Trials lie in the order of recording.
        read: Blocks (n, n_channels, n_times) float32 of the kept trials.
        source: sha256 by name.
        found: Every value of the concept column.
    """

    name: str
    where: str
    spec: EEGSpec
    rows: np.ndarray
    columns: Mapping[str, Sequence[Any]]
    entities: Mapping[str, str]
    ordered: bool
    read: Callable[[], Iterator[np.ndarray]]
    found: frozenset[str]
    source: Mapping[str, str] = field(default_factory=dict)
    report: tuple[str, ...] = ()


def no_column(where: str, name: str, columns: Iterable[str]) -> UsageError:
    there = sorted(columns)
    return UsageError(
        f"{where} has no column {name!r}{did_you_mean(name, there)} Its columns are: {listed(there) or 'none'}."
    )


def text(value: Any) -> str | None:
    """A value as text: 1.0 as 1, and None where it is unknown."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    said = str(value).strip()
    return None if said in UNKNOWN else said


def listed(values: Sequence[str], most: int = 12) -> str:
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


# ---- sources


def read_parts(name: str, source: Any, settings: Settings, progress: Progress | None) -> list[Part]:
    """What there is to read, one part per file; signals are read when a part is asked for them.

    Args:
        name: What trials of recordings in memory are called by.
        source: A path, arrays by name, or an ``mne.Epochs``.
        settings: Which columns and trials are meant.
        progress: Told how many files were looked at.

    Raises:
        UsageError: It is none of these, or a file or column is not what it must be.
        MissingError: MNE-Python is needed and not here.
    """
    if isinstance(source, Mapping):
        return [_arrays(source, settings, name=name, where="source")]
    if not isinstance(source, str | Path):
        epochs = _require_epochs(source)
        read = partial(_read_epochs, lambda: epochs, settings)
        return [_epochs(epochs, settings, read, name=name, where="source", path="")]
    root = Path(source)
    if not root.exists():
        raise UsageError(f"--source must be a file or folder that exists, but {root} does not; check its spelling.")
    if (root / "dataset_description.json").exists():
        return _bids(root, settings, progress)
    parts = []
    files = _files(root)
    for done, path in enumerate(files, 1):
        inside = path.relative_to(root if root.is_dir() else root.parent).as_posix()
        parts.append((_npz if path.suffix == ".npz" else _fif)(path, inside, settings))
        if progress is not None:
            progress(done, len(files), "files read")
    return parts


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    files = sorted(
        path
        for path in root.rglob("*")
        if (EPOCHS.search(path.name) and not CONTINUED.search(path.name)) or path.suffix == ".npz"
    )
    if not files:
        raise UsageError(
            f"--source must be MNE epochs, an .npz file, a folder of such or a BIDS root, but {root} has no "
            "*-epo.fif, *_epo.fif, .npz or dataset_description.json in it."
        )
    return files


def _stem(path: str) -> str:
    """What trials of a file are called by: its path without what every such file ends in."""
    return re.sub(r"([-_]epo)?(\.fif(\.gz)?|\.npz)$", "", path).replace("/", "-")


def _entities(path: str) -> dict[str, str]:
    return {ENTITIES[key]: value for key, value in ENTITY.findall(path)}


def _select(
    columns: Mapping[str, Sequence[Any]], events: Sequence[str] | None, settings: Settings, where: str, name: str
) -> tuple[np.ndarray, list[str], frozenset[str]]:
    """Positions of the trials that are kept, the concept of each, and every value that the concept column has."""
    default = next((column for column in ("concept", "trial_type") if column in columns), None)
    wanted = settings.concept or default
    if settings.concept is not None and settings.concept not in columns:
        raise no_column(where, settings.concept, columns)
    if wanted is None:
        if events is None or (not settings.events and all(event.isdigit() for event in events)):
            there = f"numbers ({listed(sorted(set(events)))})" if events else "unknown"
            raise UsageError(
                f"the events of {where} must have names or its trials a column 'concept', but the events are {there}; "
                "name the column with --concept, or the events with --events NUMBER=NAME."
            )
        values: list[str | None] = [*events]
    else:
        values = [text(value) for value in columns[wanted]]
    found = frozenset(value for value in values if value is not None)
    if settings.events:
        kept = np.array([row for row, value in enumerate(values) if value in settings.events], dtype=np.int64)
        return kept, [settings.events[str(values[row])] for row in kept], found
    if None in values:
        raise UsageError(
            f"every trial needs a concept, but {name}-{values.index(None):04d} of {where} has none; "
            "choose trials with --events."
        )
    return np.arange(len(values)), [str(value) for value in values], found


def _window(times: np.ndarray, settings: Settings, sfreq: float, where: str) -> slice:
    """Samples from ``tmin`` to ``tmax``, both included."""
    slack = 1e-3 / sfreq
    low, high = (
        edge if wished is None else wished
        for wished, edge in zip((settings.tmin, settings.tmax), times[[0, -1]].tolist(), strict=True)
    )
    if low < times[0] - slack or high > times[-1] + slack or low > high:
        raise UsageError(
            f"--tmin and --tmax must lie within the trials of {where}, {times[0]:g} s to {times[-1]:g} s, "
            f"but are {low:g} s and {high:g} s."
        )
    inside = np.flatnonzero((times >= low - slack) & (times <= high + slack))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _per_block(n_channels: int, n_times: int) -> int:
    return max(1, BLOCK_BYTES // (8 * n_channels * n_times))


# ---- MNE epochs


def _mne() -> Any:
    try:
        import mne
    except ImportError as error:
        raise MissingError(
            "MNE epochs and BIDS roots are read by MNE-Python, which is not on this machine.\n"
            "to install it, run: pip install 'eeg-image-zoo[mne]'"
        ) from error
    return mne


def _require_epochs(source: Any) -> Any:
    if not isinstance(source, _mne().BaseEpochs):
        raise UsageError(
            f"source must be a path, a dict of arrays or mne.Epochs, not {type(source).__name__}; see docs/datasets/"
            "your-own.md."
        )
    return source


def _fif(path: Path, inside: str, settings: Settings) -> Part:
    def opened() -> Any:
        mne = _mne()
        try:
            return mne.read_epochs(path, preload=False, verbose="error")
        except Exception as error:  # whatever a stranger's file makes MNE stumble over
            raise UsageError(
                f"{path.name} must be an MNE epochs file, but it cannot be read as one "
                f"({str(error).partition(chr(10))[0].rstrip('.')}); save epochs with epochs.save()."
            ) from error

    part = _epochs(
        opened(), settings, partial(_read_epochs, opened, settings), name=_stem(inside), where=path.name, path=inside
    )
    return _with_source(part, [path])


def _with_source(part: Part, files: Iterable[Path]) -> Part:
    return replace(part, source={part.name: store.digest([store.file_sha256(path) for path in files])})


def _epochs(
    epochs: Any, settings: Settings, read: Callable[..., Iterator[np.ndarray]], *, name: str, where: str, path: str
) -> Part:
    epochs.drop_bad(verbose="error")
    codes = {code: event for event, code in epochs.event_id.items()}
    metadata = {} if epochs.metadata is None else {str(key): v.tolist() for key, v in epochs.metadata.items()}
    events = [codes[code] for code in epochs.events[:, 2].tolist()]
    rows, concepts, found = _select(metadata, events, settings, where, name)
    spec = _spec(epochs.info, epochs.times, settings, where)
    return Part(
        name=name,
        where=where,
        spec=spec,
        rows=rows,
        columns={key: [values[row] for row in rows] for key, values in metadata.items()} | {"concept": concepts},
        entities=_entities(path),
        ordered=bool((np.diff(epochs.events[:, 0]) > 0).all()),
        read=partial(read, rows),
        found=found,
        report=_bads(epochs.info, where),
    )


def _spec(info: Any, times: np.ndarray, settings: Settings, where: str) -> EEGSpec:
    picks = _picks(info, where)
    inside = _window(times, settings, info["sfreq"], where)
    return EEGSpec(
        ch_names=tuple(info["ch_names"][pick] for pick in picks),
        sfreq=info["sfreq"],
        tmin=round(float(times[inside.start]), 9),
        n_times=inside.stop - inside.start,
    )


def _picks(info: Any, where: str) -> np.ndarray:
    picks: np.ndarray = _mne().pick_types(info, eeg=True, exclude=())
    if not len(picks):
        raise UsageError(f"{where} must have EEG channels, but has none; set their type with set_channel_types().")
    return picks


def _bads(info: Any, where: str) -> tuple[str, ...]:
    bads = [name for name in info["bads"] if name in info["ch_names"]]
    return (
        (f"{where} marks {listed(bads)} as bad, which is kept as recorded; interpolate to repair it.",) if bads else ()
    )


def _read_epochs(opened: Callable[[], Any], settings: Settings, rows: np.ndarray) -> Iterator[np.ndarray]:
    epochs = opened()
    picks, inside = _picks(epochs.info, ""), _window(epochs.times, settings, epochs.info["sfreq"], "")
    size = _per_block(len(picks), len(epochs.times))
    for start in range(0, len(rows), size):
        data = epochs.get_data(picks=picks, item=rows[start : start + size], verbose="error")
        yield data[:, :, inside].astype(np.float32)


# ---- BIDS


def _bids(root: Path, settings: Settings, progress: Progress | None) -> list[Part]:
    """One part per EEG recording that has events which are kept."""
    _mne()
    try:
        from mne_bids import find_matching_paths
        from mne_bids.config import ALLOWED_DATATYPE_EXTENSIONS
    except ImportError as error:
        raise MissingError(
            "BIDS roots are read by MNE-BIDS, which is not on this machine.\n"
            "to install it, run: pip install 'eeg-image-zoo[mne]'"
        ) from error
    found = find_matching_paths(
        root, datatypes="eeg", suffixes="eeg", extensions=ALLOWED_DATATYPE_EXTENSIONS["eeg"], ignore_nosub=True
    )
    recordings = [path for path in found if path.directory.relative_to(root).parts[0].startswith("sub-")]
    recordings.sort(key=lambda path: str(path.basename))
    if not recordings:
        raise UsageError(f"a BIDS root must hold sub-*/…/eeg/*_eeg.* recordings, but {root} has none.")
    parts = []
    for done, path in enumerate(recordings, 1):
        part = _recording(path, settings)
        parts += [part] if part else []
        if progress is not None:
            progress(done, len(recordings), "files read")
    if not parts:
        raise UsageError(f"no recording of {root} has events that are kept; choose others with --events or --concept.")
    return parts


def _recording(path: Any, settings: Settings) -> Part | None:
    where, name = path.basename, path.basename.rpartition("_eeg")[0]
    sidecar = path.find_matching_sidecar(suffix="events", extension=".tsv", on_error="ignore")
    if sidecar is None:
        raise UsageError(f"{where} must have an events.tsv, but there is none beside it.")
    columns = _read_tsv(Path(sidecar))
    wanted, concepts, found = _select(columns, None, settings, Path(sidecar).name, name)
    if not wanted.size:
        return None
    epochs = _cut_epochs(path, columns, wanted, settings)
    epochs.drop_bad(verbose="error")
    rows = wanted[epochs.selection]
    report = list(_bads(epochs.info, where))
    if lost := len(wanted) - len(rows):
        report.append(f"{lost} events of {where} lie in bad segments or too close to an end and were left out.")
    part = Part(
        name=name,
        where=where,
        spec=_spec(epochs.info, epochs.times, Settings(), where),
        rows=rows,
        columns={key: [values[row] for row in rows] for key, values in columns.items()}
        | {"concept": [concepts[at] for at in epochs.selection]},
        entities=_entities(where),
        ordered=True,
        read=lambda: _read_epochs(
            lambda: _cut_epochs(path, columns, wanted, settings).drop_bad(verbose="error"),
            Settings(),
            np.arange(len(rows)),
        ),
        found=found,
        report=tuple(report),
    )
    return _with_source(part, [*sorted(path.directory.glob(f"{name}_eeg.*")), Path(sidecar)])


def _read_tsv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter="\t")
        rows = list(table)
    if "onset" not in (table.fieldnames or ()):
        raise UsageError(
            f"{path.name} must have a column onset, but its columns are: {listed(table.fieldnames or ())}."
        )
    return {name: [row[name] for row in rows] for name in table.fieldnames or ()}


def _cut_epochs(path: Any, columns: Mapping[str, Sequence[Any]], rows: np.ndarray, settings: Settings) -> Any:
    """Epochs of one recording around the events in ``rows``, read when they are asked for."""
    from mne_bids import read_raw_bids

    mne = _mne()
    tmin, tmax = (
        edge if wished is None else wished for wished, edge in zip((settings.tmin, settings.tmax), WINDOW, strict=True)
    )
    try:
        raw = read_raw_bids(path, verbose="error")
        onsets = np.array([float(columns["onset"][row]) for row in rows])
        samples = np.round(onsets * raw.info["sfreq"]).astype(np.int64) + raw.first_samp
        events = np.stack([samples, np.zeros_like(samples), np.ones_like(samples)], axis=1)
        return mne.Epochs(raw, events, tmin=tmin, tmax=tmax, baseline=None, preload=False, verbose="error")
    except Exception as error:  # whatever a stranger's files make the readers stumble over
        raise UsageError(
            f"{path.basename} must be a BIDS recording with events apart in time, but it cannot be read "
            f"({str(error).partition(chr(10))[0].rstrip('.')}); check it with a BIDS validator or choose events "
            "with --events."
        ) from error


# ---- arrays

HEAD = ("eeg", "sfreq", "tmin", "ch_names", "concept")
"""What there must be; every other array is a column of the trials."""


class Signal(NamedTuple):
    """EEG as arrays have it, (n_trials, n_channels, n_times); ``blocks(n)`` reads n trials at a time, in order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[int], Iterator[np.ndarray]]


def _arrays(arrays: Mapping[str, Any], settings: Settings, *, name: str, where: str, path: str = "") -> Part:
    columns = {column: np.asarray(values) for column, values in arrays.items() if column not in HEAD[:4]}
    needed = HEAD[:4] if settings.concept else HEAD
    if lacking := [column for column in needed if column not in arrays]:
        raise UsageError(f"{where} must hold {', '.join(needed)}, but {lacking[0]} is missing; add it.")
    eeg = arrays["eeg"]
    signal = eeg if isinstance(eeg, Signal) else _signal(np.asarray(eeg))
    ch_names = tuple(str(channel) for channel in np.asarray(arrays["ch_names"]).tolist())
    if len(signal.shape) != 3 or signal.dtype.kind not in "fiu" or signal.shape[1] != len(ch_names):
        raise UsageError(
            f"eeg of {where} must be numbers (n_trials, {len(ch_names)} channels as in ch_names, n_times), "
            f"but is {signal.dtype} {signal.shape}."
        )
    if odd := next((column for column, values in columns.items() if values.shape != signal.shape[:1]), None):
        raise UsageError(
            f"column {odd} of {where} must have one value for each of {signal.shape[0]} trials, "
            f"but has shape {columns[odd].shape}."
        )
    sfreq, tmin = (_number(arrays[key], key, where) for key in ("sfreq", "tmin"))
    lists = {column: values.tolist() for column, values in columns.items()}
    rows, concepts, found = _select(lists, None, settings, where, name)
    inside = _window(tmin + np.arange(signal.shape[2]) / sfreq, settings, sfreq, where)
    return Part(
        name=name,
        where=where,
        spec=EEGSpec(
            ch_names=ch_names,
            sfreq=sfreq,
            tmin=round(tmin + inside.start / sfreq, 9),
            n_times=inside.stop - inside.start,
        ),
        rows=rows,
        columns={key: [values[row] for row in rows] for key, values in lists.items()} | {"concept": concepts},
        entities=_entities(path),
        ordered=False,
        read=lambda: _read_signal(signal, rows, inside),
        found=found,
    )


def _number(value: Any, key: str, where: str) -> float:
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "fiu" or (key == "sfreq" and found.item() <= 0):
        raise UsageError(f"{key} of {where} must be {'a positive' if key == 'sfreq' else 'one'} number, not {found}.")
    return float(found.item())


def _signal(eeg: np.ndarray) -> Signal:
    return Signal(eeg.shape, eeg.dtype, lambda n: (eeg[start : start + n] for start in range(0, len(eeg), n)))


def _read_signal(signal: Signal, rows: np.ndarray, inside: slice) -> Iterator[np.ndarray]:
    start = 0
    for block in signal.blocks(_per_block(*signal.shape[1:])):
        kept = rows[(rows >= start) & (rows < start + len(block))] - start
        start += len(block)
        yield block[kept][:, :, inside].astype(np.float32)


def _npz(path: Path, inside: str, settings: Settings) -> Part:
    """The arrays of an ``.npz`` file; ``eeg`` stays there and is unpacked block by block."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != "eeg"}
            if "eeg" in file.files:
                arrays["eeg"] = _packed(path)
    except Exception as error:  # whatever a stranger's file makes numpy stumble over
        raise UsageError(
            f"{path.name} must be an .npz file of plain arrays, but it cannot be read as one "
            f"({str(error).partition(chr(10))[0].rstrip('.')}); write it with np.savez()."
        ) from error
    part = _arrays(arrays, settings, name=_stem(inside), where=path.name, path=inside)
    return _with_source(part, [path])


def _packed(path: Path) -> Signal:
    with zipfile.ZipFile(path) as packed, packed.open("eeg.npy") as file:
        shape, fortran, dtype = _header(file)

    def blocks(n: int) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(path) as packed, packed.open("eeg.npy") as file:
            _header(file)
            for start in range(0, shape[0], n):
                here = (min(n, shape[0] - start), *shape[1:])
                yield np.frombuffer(file.read(math.prod(here) * dtype.itemsize), dtype).reshape(here)

    if fortran or dtype.hasobject:  # lies in another order, so it cannot be read trial by trial; objects are refused
        with np.load(path, allow_pickle=False) as whole:
            return _signal(whole["eeg"])
    return Signal(shape, dtype, blocks)


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the array that ``file`` holds; it is then read on from there."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype

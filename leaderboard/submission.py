"""What is sent to a board: a record and the files beside it, read as what a stranger's files are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zoo.errors import IntegrityError, UsageError
from zoo.record import Record, name_at, require_file
from zoo.upload import BYTES as UPLOAD_BYTES
from zoo.upload import FILE_BYTES as UPLOAD_FILE_BYTES

RECORD_BYTES = 4 << 20
"""A record is some kilobytes; whatever is larger is none, and is not read."""
UNITS_BYTES = 32 << 20
"""The same for the values per trial beside it."""
NOTE_BYTES = 1 << 16
"""A note is a sentence or two, or what was computed again."""
PICTURE_BYTES = 8 << 20
SAMPLES_BYTES = 64 << 20
"""All sheets of samples together."""
MAX_FILES = 800
"""Files of one record: as many sheets of samples, and as many files of an upload."""
SAFE_NAME = re.compile(r"([a-z0-9][\w.@+-]*/){2,}[0-9a-f]{12}-[0-9a-f]{8}\.json", re.ASCII)
UNITS, PICTURE, SAMPLES, UPLOAD = ".units.parquet", ".png", ".samples/", ".upload/"
BESIDE = re.compile(
    r"\.png|\.samples/(manifest\.jsonl|[a-z0-9-]{1,40}\.webp)"
    r"|\.upload/(manifest\.jsonl|[a-z0-9][a-z0-9-]{0,99}\.(webp|safetensors))",
    re.ASCII,
)
"""Further files, by what follows the record's name without ``.json``."""


class Placed(NamedTuple):
    """Where a record went, or was already."""

    record: Record
    where: str
    """Path, URL or pull request."""
    new: bool
    added: int = 0
    """Files that a record which was there already did not have yet."""


@dataclass(frozen=True)
class Submission:
    """A record with its files.

    Attributes:
        units: The values per trial, as parquet.
        beside: Grid, sheets of samples and what metrics can be computed again from, by what follows the record's name
            (``.png``, ``.samples/manifest.jsonl``, ``.upload/manifest.jsonl``).
    """

    record: Record
    units: bytes | None = None
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def upload(self) -> dict[str, bytes]:
        """What its metrics can be computed again from, file name → bytes; empty where nothing was uploaded."""
        return {name.removeprefix(UPLOAD): data for name, data in self.beside.items() if name.startswith(UPLOAD)}

    @property
    def path(self) -> str:
        """Of the record, below the board.

        Raises:
            UsageError: Track or model cannot be a path.
        """
        path = f"records/{self.record.name}"
        if not SAFE_NAME.fullmatch(self.record.name):
            raise UsageError(f"track and model must be plain names with a slash between, not {path!r}.")
        return path

    @property
    def files(self) -> dict[str, bytes]:
        """Path below the board → bytes; the record last, so that it never lies there without the others."""
        stem = self.path.removesuffix(".json")
        units = {} if self.units is None else {stem + UNITS: self.units}
        return {**units, **{stem + name: data for name, data in self.beside.items()}, self.path: self.record.to_json()}


def read_submission(path: Path, named: str = "") -> Submission:
    """The record at ``path`` and the files that lie beside it.

    Args:
        named: Its path below a board; without it the file's own name counts, if it is a record's.

    Raises:
        UsageError: There is no such file, one is a link, too large, or not a record.
        IntegrityError: The record's id is not the hash of its identity, or its name is another record's.
    """
    record = Record.parse(_bytes(path, RECORD_BYTES, "record"), where=str(path), named=named or name_at(path))
    units, picture = path.with_suffix(UNITS), path.with_suffix(PICTURE)
    beside = {PICTURE: _bytes(picture, PICTURE_BYTES, "picture")} if _there(picture) else {}
    for name, left, what in ((SAMPLES, SAMPLES_BYTES, "folder of samples"), (UPLOAD, UPLOAD_BYTES, "upload")):
        folder = path.with_suffix(name.rstrip("/"))
        if folder.is_symlink():
            raise UsageError(f"{folder} must be a folder, but is a link; put the files themselves beside the record.")
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        if len(inside) > MAX_FILES:
            raise UsageError(f"{folder} holds {len(inside)} files, more than the {MAX_FILES} of any record.")
        for file in inside:
            beside[name + file.name] = _bytes(file, left, what)
            left -= len(beside[name + file.name])
    return Submission(record, _bytes(units, UNITS_BYTES, "file of values per trial") if _there(units) else None, beside)


def refuse_paths(files: Mapping[str, int]) -> tuple[dict[str, list[str]], list[str]]:
    """Sort the files of a proposal by the record they belong to, before any of them is read.

    Args:
        files: Path below the board → size in bytes.

    Returns:
        Path of each record → paths of the files beside it; and a sentence for each file that has no place on a board.
    """
    records: dict[str, list[str]] = {
        path: [] for path in files if SAFE_NAME.fullmatch(path.removeprefix("records/")) and path.startswith("records/")
    }
    problems = []
    for path, size in sorted(files.items()):
        shown = repr(path[:200])
        owner = re.match(r"(records/.+?/[0-9a-f]{12}-[0-9a-f]{8})(\..+)", path)
        suffix = owner[2] if owner else ""
        record = f"{owner[1]}.json" if owner else path
        if path in records:
            limit = RECORD_BYTES
        elif record in records and suffix == UNITS:
            limit = UNITS_BYTES
        elif record in records and BESIDE.fullmatch(suffix):
            limit = UPLOAD_FILE_BYTES if suffix.startswith(UPLOAD) else PICTURE_BYTES
        else:
            problems.append(
                f"{shown} has no place on a board: only records/<track>/<model>/ with a record takes files."
            )
            continue
        if size > limit:
            problems.append(f"{shown} has {size} bytes, more than the {limit} of any such file.")
        elif path != record:
            records[record].append(path)
    for record, beside in records.items():
        if len(beside) > MAX_FILES:
            problems.append(f"{record!r} brings {len(beside)} files, more than the {MAX_FILES} of any record.")
    return records, problems


def _there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _bytes(path: Path, limit: int, what: str) -> bytes:
    if path.is_symlink():
        raise UsageError(f"{path} must be a file, but is a link; put the file itself there.")
    require_file(path)
    if (size := path.stat().st_size) > limit:
        raise UsageError(f"{path} has {size} bytes, more than the {limit} of any {what}.")
    return path.read_bytes()


def require_named_bytes(submission: Submission) -> None:
    """Raise unless the values per trial are those that the record names."""
    record = submission.record
    found = None if submission.units is None else hashlib.sha256(submission.units).hexdigest()
    if found is not None and found != record.units_sha256:
        raise IntegrityError(
            f"the per-unit values of {record.id[:12]} must have sha256 {str(record.units_sha256)[:16]}… "
            f"but have {found[:16]}…; push the file that was written with the record."
        )

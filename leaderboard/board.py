"""Boards: where records are kept. A store is append-only; what is shown is computed from it (``ranking``)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.registry import known_implementations

from leaderboard.derived import TABLES, derived
from leaderboard.ranking import Table, rank
from leaderboard.standing import Note
from leaderboard.submission import (
    NOTE_BYTES,
    RECORD_BYTES,
    UNITS,
    UNITS_BYTES,
    Placed,
    Submission,
    require_named_bytes,
)
from zoo.errors import GateError, IntegrityError, MissingError, UnknownNameError, UsageError, ZooError
from zoo.record import Record
from zoo.specs import Protocol as SplitProtocol
from zoo.store import write_bytes

MAX_BYTES = RECORD_BYTES
ID_PREFIX = re.compile(r"[0-9a-f]{4,64}")
Protocols = Mapping[tuple[str, str], SplitProtocol]


class Shelf(Protocol):
    """What shows a board needs of it."""

    problems: list[str]
    """One sentence for every file that the last reading had to skip."""

    def records(self) -> Iterator[Record]:
        """Every valid record, in the order of paths."""
        ...

    def units(self, record: Record) -> bytes | None:
        """The file of values per trial that lies beside a record, if there is one."""
        ...

    def beside(self, record: Record, name: str, most: int) -> bytes | None:
        """The first ``most`` + 1 bytes of another file beside a record, by what follows its name; None if not there."""
        ...

    def notes(self) -> list[Note]:
        """What is said of records."""
        ...


class Board(Shelf, Protocol):
    """A store of records, whoever keeps it."""

    @property
    def url(self) -> str:
        """Folder or URL below which ``records/`` lies."""
        ...

    def submit(self, submissions: Sequence[Submission]) -> list[Placed]:
        """Add records with all their files, or say where they are already; they must have been checked."""
        ...

    def rebuild(self) -> str:
        """Write the derived tables anew from all records; return where they are."""
        ...

    def names(self) -> set[str]:
        """Names of the records that are on the board, valid or not."""
        ...

    def find(self, id_prefix: str) -> Record:
        """The newest run of the one record whose id begins so."""
        ...

    def note(self, note: Note) -> str:
        """Add a note and return its path."""
        ...


class FsBoard:
    """A board in a folder, or at any URL that fsspec can open: ``records/<track>/<model>/<id>-<run>.json``.

    Names hold the hash of the content, so writers never wait for one another and nothing is ever overwritten.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        with self._answering():
            try:
                self._fs, root = fsspec.core.url_to_fs(self.url)
            except ImportError as error:
                raise MissingError(
                    f"a board at {url} needs a package that is not on this machine.\n"
                    f"to install it, run: pip install {_package(self.url)}"
                ) from error
            except ValueError as error:
                raise UsageError(
                    f"a board must be a folder or a URL that fsspec opens, not {self.url!r}: {error}."
                ) from error
        self._root = root.rstrip("/")
        self._local = "file" in ((self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol)
        self.problems: list[str] = []

    def push(self, record: Record, units: bytes | None = None, *, allow_partial: bool = False) -> str:
        """Add a record, and beside it the parquet file with its per-unit values.

        Raises:
            GateError: It is partial or failed, which only ``allow_partial`` admits.
            IntegrityError: ``units`` are not the bytes that the record names.
            UsageError: Track or model cannot be a path.
        """
        if record.status != "ok" and not allow_partial:
            raise GateError(
                f"a board takes complete records, but {record.id[:12]} is {record.status}; "
                "evaluate without --limit, or push it with --allow-partial to a board of your own."
            )
        submission = Submission(record, units)
        self._add(submission, new=True)
        return submission.path

    def submit(self, submissions: Sequence[Submission]) -> list[Placed]:
        """Add records with all their files; the record comes last, so a killed call leaves no half of one to see.

        Raises:
            IntegrityError: Something else is there under one of their names.
        """
        known = self.names() if submissions else set()
        return [self._add(s, new=s.record.name not in known) for s in submissions]

    def _add(self, submission: Submission, *, new: bool) -> Placed:
        require_named_bytes(submission)
        written = [self._create(path, data) for path, data in submission.files.items()]
        return Placed(submission.record, f"{self.url.rstrip('/')}/{submission.path}", new, 0 if new else sum(written))

    def rebuild(self) -> str:
        """Write the derived tables anew; if records came meanwhile, once more.

        There is one writer: what others write at the same moment is replaced, and made good by whoever is last.
        """
        while True:
            names = self.names()
            for path, data in derived([*self.records()], self.notes()).items():
                self._replace(path, data)
            if self.names() == names:
                return f"{self.url.rstrip('/')}/{TABLES}"

    def names(self) -> set[str]:
        """Names of the records that are on the board, valid or not."""
        return {path for path, _ in self._files()}

    def records(self) -> Iterator[Record]:
        """Every valid record, in the order of paths; the rest is named in ``problems``."""
        self.problems = []
        for path, info in self._files():
            if (record := self._read(path, info)) is not None:
                yield record

    def find(self, id_prefix: str) -> Record:
        """The newest run of the one record whose id begins with ``id_prefix``.

        Raises:
            UnknownNameError: There is none.
            UsageError: It is no beginning of an id, or of several.
        """
        if not ID_PREFIX.fullmatch(id_prefix):
            raise UsageError(f"a record id must be 4 to 64 hexadecimal digits, not {id_prefix!r}.")
        self.problems = []
        named = ((p, i) for p, i in self._files() if p.rpartition("/")[2].startswith(id_prefix[:12]))
        found = [r for p, i in named if (r := self._read(p, i)) is not None and r.id.startswith(id_prefix)]
        ids = sorted({record.id for record in found})
        if not ids:
            raise UnknownNameError(f"no record on {self._root} has an id that begins with {id_prefix!r}.")
        if len(ids) > 1:
            raise UsageError(
                f"{id_prefix!r} begins {len(ids)} ids ({', '.join(i[:16] for i in ids)}); give more digits."
            )
        return max(found, key=lambda record: (record.provenance.created, record.run))

    def units(self, record: Record) -> bytes | None:
        """The file of values per trial that lies beside a record, if there is one."""
        return self.beside(record, UNITS, UNITS_BYTES)

    def beside(self, record: Record, name: str, most: int) -> bytes | None:
        """The first ``most`` + 1 bytes of another file beside a record, by what follows its name; None if not there."""
        where = f"{self._root}/records/{record.name.removesuffix('.json')}{name}"
        with self._answering():
            try:
                self._stays_inside(where)
                return bytes(self._fs.cat_file(where, end=most + 1))
            except FileNotFoundError:
                return None

    def notes(self) -> list[Note]:
        """What is said of records, in the order of paths; what is no note is named in ``problems``."""
        found = []
        for path, info in self._files("notes"):
            try:
                self._stays_inside(info["name"])
                with self._answering():
                    found.append(Note.parse(self._fs.cat_file(info["name"], end=NOTE_BYTES + 1), path=path))
            except (ZooError, OSError) as error:
                self.problems.append(str(error))
        return found

    def note(self, note: Note) -> str:
        """Add a note and return its path; the same one again changes nothing."""
        self._create(f"notes/{note.name}", note.to_json())
        return f"notes/{note.name}"

    def _create(self, path: str, data: bytes) -> bool:
        """Write a file that is not there, and say whether it was not; the same bytes again are fine, others are not."""
        where = f"{self._root}/{path}"
        with self._answering():
            try:
                if self._local and not self._fs.exists(where):
                    write_bytes(Path(where), data)  # two writers of a name bring the same bytes: it is their hash
                else:
                    self._fs.pipe_file(where, data, mode="create")
                return True
            except FileExistsError:
                if self._fs.cat_file(where) != data:
                    raise IntegrityError(f"{where} is there already with other content; nothing was written.") from None
                return False
            except OSError as error:
                raise ZooError(f"{where} could not be written ({error}); check that you may write there.") from error

    def _replace(self, path: str, data: bytes) -> None:
        where = f"{self._root}/{path}"
        with self._answering():
            try:
                write_bytes(Path(where), data) if self._local else self._fs.pipe_file(where, data)
            except OSError as error:
                raise ZooError(f"{where} could not be written ({error}); check that you may write there.") from error

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Around what a service is asked: every client library has errors of its own, which are no ``OSError``.

        Raises:
            MissingError: It did not do what was asked.
        """
        try:
            yield
        except (ZooError, OSError):
            raise
        except Exception as error:
            if "://" not in self.url:
                raise
            raise MissingError(
                f"the board at {self.url} did not answer ({type(error).__name__}: {error}); "
                "check its address, your rights there and the network."
            ) from error

    def _files(self, folder: str = "records") -> list[tuple[str, dict[str, Any]]]:
        """Path below ``records/`` (or ``notes/``) and fsspec's description of every JSON file there."""
        top = f"{self._root}/{folder}"
        self._fs.invalidate_cache()
        with self._answering():
            try:
                found = self._fs.find(top, detail=True)
            except FileNotFoundError:
                return []
        listed = {path.removeprefix(top).lstrip("/"): info for path, info in found.items()}
        return sorted((path, info) for path, info in listed.items() if path.endswith(".json"))

    def _read(self, path: str, info: dict[str, Any]) -> Record | None:
        """A record that is what its name says, or None and a sentence in ``problems``."""
        try:
            self._stays_inside(info["name"])
            if (size := info.get("size") or 0) > MAX_BYTES:
                raise UsageError(f"records/{path} has {size} bytes, more than the {MAX_BYTES} of any record.")
            with self._answering():
                data = self._fs.cat_file(info["name"], end=MAX_BYTES)
            record = Record.parse(data, where=f"records/{path}", named=f"records/{path}")
        except (ZooError, OSError) as error:
            self.problems.append(str(error))
            return None
        return record

    def _stays_inside(self, name: str) -> None:
        """Refuse a link that leaves the board."""
        if self._local and not Path(name).resolve().is_relative_to(Path(self._root).resolve()):
            raise UsageError(f"{name.removeprefix(self._root).lstrip('/')} is a link that leaves the board.")


def tables(board: Shelf, *, track: str | None = None, protocols: Protocols | None = None) -> list[Table]:
    """What a board shows: its records ranked, with what is said of them, and tested where values per trial lie beside.

    Args:
        track: Only this one.
        protocols: Protocol of (dataset, split), for records that do not name it.
    """
    records = [record for record in board.records() if track in (None, record.identity.track)]
    problems = board.problems
    notes = board.notes()
    board.problems = [*dict.fromkeys((*problems, *board.problems))]  # a shelf may go on with one list, or begin another

    def pairs(group: Sequence[Record]) -> Mapping[frozenset[str], float]:
        if sum(record.units_sha256 is not None for record in group) < 2:
            return {}
        from leaderboard.ties import paired_p  # numpy

        return paired_p(group, board.units)

    return rank(records, notes=notes, pairs=pairs, protocols=protocols)


def open_board(text: str | Path) -> Board:
    """The board that a user means: ``hub:organisation/name`` is a dataset repo, all else a folder or URL."""
    name = str(text)
    for prefix in ("hub:", "hf-hub:"):
        if name.startswith(prefix):
            from leaderboard.hubboard import HubBoard
            from zoo.hub import Place

            return HubBoard(Place.parse(name.removeprefix(prefix), "dataset"))
    return FsBoard(text)


def _package(url: str) -> str:
    """What pip must install for the protocol of ``url``: the package that opens it, or an extra of fsspec."""
    protocol = url.partition("://")[0].rpartition("::")[2]
    module = str(known_implementations[protocol]["class"]).partition(".")[0]
    return f"'fsspec[{protocol}]'" if module == "fsspec" else module

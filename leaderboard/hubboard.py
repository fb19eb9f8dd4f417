"""A board in a dataset repo on the Hub: results come as pull requests, and whoever keeps the repo checks and merges."""

from __future__ import annotations

import contextlib
import html
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from leaderboard.board import FsBoard
from leaderboard.derived import TABLES, derived
from leaderboard.standing import Note, note_of
from leaderboard.submission import (
    NOTE_BYTES,
    RECORD_BYTES,
    UNITS,
    UPLOAD,
    Placed,
    Submission,
    read_submission,
    refuse_paths,
    require_named_bytes,
)
from zoo import hub
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.record import Record
from zoo.store import write_bytes

PER_PULL = 16
"""Records of one pull request: their hashes stand in its title."""
PULL_BYTES = 512 << 20
TITLE = re.compile(r"Records? ([0-9a-f]{8}(?: [0-9a-f]{8})*)\b")
TRIES = 20
BACKOFF_SECONDS = 0.2


class Offered(NamedTuple):
    """What a pull request brings, as far as it could be read."""

    pull: hub.Pull
    submissions: tuple[Submission, ...]
    problems: tuple[str, ...]


class HubBoard:
    """A board in a dataset repo. What is read is one commit of its main branch, the newest when reading began."""

    def __init__(self, place: hub.Place) -> None:
        self.place = place
        self.problems: list[str] = []

    # ---- reading

    @property
    def url(self) -> str:
        """Folder with a copy of all records and the values per trial beside them."""
        self._copy(UNITS)
        return str(self._here)

    def records(self) -> Iterator[Record]:
        self.__dict__.pop("_here", None)  # what is there now
        yield from self._reading().records()
        self._say()

    def notes(self) -> list[Note]:
        found = self._reading().notes()
        self._say()
        return found

    def units(self, record: Record) -> bytes | None:
        self._copy(UNITS)
        return self._reading().units(record)

    def beside(self, record: Record, name: str, most: int) -> bytes | None:
        if name.startswith(UPLOAD):  # large, and looked at one record at a time
            path = f"records/{record.name.removesuffix('.json')}{name}"
            if (size := self._listed().get(path, 0)) > most:
                raise UsageError(f"{path} has {size} bytes, more than the {most} of any such file.")
            self._copy(path)
        else:
            self._copy(name)
        return self._reading().beside(record, name, most)

    def find(self, id_prefix: str) -> Record:
        self.__dict__.pop("_here", None)
        found = self._reading().find(id_prefix)
        self._say()
        return found

    def names(self) -> set[str]:
        self.__dict__.pop("_here", None)
        return {path.removeprefix("records/") for path in self._listed() if _is_record(path)}

    # ---- writing

    def submit(self, submissions: Sequence[Submission]) -> list[Placed]:
        """Propose records, up to ``PER_PULL`` of them by one commit; what is there or proposed already is left alone.

        Raises:
            IntegrityError: Something else is there under one of their names.
            MissingError: No token, no network, or no right to.
        """
        pulls = hub.pulls(self.place) if submissions else []
        known = {s.record.run: self._known(s, pulls) for s in submissions}
        for batch in _batches([s for s in submissions if known[s.record.run] is None]):
            with _staged({path: data for s in batch for path, data in s.files.items()}) as folder:
                url = hub.publish(self.place, folder, message=_title(batch), description=_description(batch))
            known |= {s.record.run: Placed(s.record, str(url), url.new) for s in batch}
        return [placed for s in submissions if (placed := known[s.record.run]) is not None]

    def note(self, note: Note) -> str:
        """Add a note by a commit of its own; for those who keep the board."""
        self._commit({f"notes/{note.name}": note.to_json()}, f"Note: {note.kind} {note.run[:8]}")
        return f"notes/{note.name}"

    def rebuild(self) -> str:
        """Write the derived tables by a commit on the one they were made from; begin again if others came between.

        Raises:
            ZooError: Others kept changing the repo.
        """
        for attempt in range(TRIES):
            records = [*self.records()]
            with _staged(derived(records, self.notes())) as folder, contextlib.suppress(hub.MovedError):
                title = f"Tables of {len(records)} records"
                hub.publish(self.place, folder, message=title, create_pr=False, parent=self._head)
                return hub.page(self.place, TABLES)
            time.sleep(BACKOFF_SECONDS * min(2**attempt, 16) * random.uniform(0.5, 1.0))
        raise ZooError(f"{self.place.repo} was changed by others each of {TRIES} times; run the same command again.")

    # ---- keeping

    def offered(self, number: int) -> Offered:
        """What pull request ``number`` brings. Nothing of it is fetched unless all its paths and sizes may be."""
        proposal = hub.proposal(self.place, number)
        files, problems = refuse_paths(proposal.added)
        problems += [f"{path[:200]!r} is changed or deleted, but a board only grows." for path in proposal.touched]
        if not files:
            problems.append("it brings no record.")
        if (size := sum(proposal.added.values())) > PULL_BYTES:
            problems.append(f"it brings {size} bytes, more than the {PULL_BYTES} of any pull request.")
        found: list[Submission] = []
        if not problems:
            folder = hub.download(proposal.place, [*proposal.added])
            for path in sorted(files):
                try:
                    found.append(_read(folder, path))
                except ZooError as error:
                    problems.append(str(error).replace(f"{folder}/", ""))
        return Offered(proposal.pull, tuple(found), tuple(problems))

    def accept(self, offered: Offered, comment: str) -> None:
        """Write down who sent each record, then merge the pull request that was found good.

        In this order, so that no merged record is ever without; what was killed between is done by doing it again.
        """
        said = {(note.run, note.kind) for note in self._fresh_notes()}
        notes = [note_of(s.record, "submitted", by=offered.pull.author) for s in offered.submissions]
        files = {f"notes/{n.name}": n.to_json() for n in notes if (n.run, n.kind) not in said}
        if files:
            self._commit(files, f"Notes on pull request {offered.pull.number}")
        hub.settle(self.place, offered.pull.number, merge=True, comment=comment)

    def refuse(self, offered: Offered, comment: str) -> None:
        """Close a pull request, saying why."""
        hub.settle(self.place, offered.pull.number, merge=False, comment=comment)

    # ---- inside

    @cached_property
    def _here(self) -> Path:
        """Folder of the newest commit, with its records and notes."""
        self._head = hub.resolve(self.place)
        self._listing = hub.listing(self._at)
        self._skipped: list[str] = []
        wanted = []
        for path, size in self._listing.items():
            if not (_is_record(path) or (path.startswith("notes/") and path.endswith(".json"))):
                continue
            limit = RECORD_BYTES if path.startswith("records/") else NOTE_BYTES
            if size > limit:
                self._skipped.append(f"{path} has {size} bytes, more than the {limit} of any such file.")
            else:
                wanted.append(path)
        return hub.download(self._at, wanted) if wanted else Path(tempfile.mkdtemp())

    @property
    def _at(self) -> hub.Place:
        return self.place._replace(revision=self._head)

    def _reading(self) -> FsBoard:
        self._board = FsBoard(self._here)
        return self._board

    def _say(self) -> None:
        self.problems = [*self._skipped, *self._board.problems]

    def _copy(self, suffix: str) -> None:
        """Fetch all files of one kind, once per commit."""
        wanted = [path for path in self._listed() if path.startswith("records/") and path.endswith(suffix)]
        missing = [path for path in wanted if not (self._here / path).exists()]
        if missing:
            hub.download(self._at, missing)

    def _listed(self) -> dict[str, int]:
        _ = self._here
        return self._listing

    def _fresh_notes(self) -> list[Note]:
        self.__dict__.pop("_here", None)
        return self.notes()

    def _known(self, submission: Submission, pulls: Sequence[hub.Pull]) -> Placed | None:
        """Where a record is already: on the board, else in an open pull request."""
        record = submission.record
        require_named_bytes(submission)
        files = {submission.path: submission.files[submission.path]}
        named = [p for p in pulls if (found := TITLE.match(p.title)) and record.run[:8] in found[1].split()]
        held = hub.holds(self.place, files)
        if held is False:
            raise IntegrityError(
                f"{submission.path} is on {self.place} already with other content; nothing was proposed."
            )
        if held:
            merged = next((pull.url for pull in reversed(named) if pull.status == "merged"), None)
            return Placed(record, merged or hub.page(self.place, submission.path), False)
        for pull in reversed(named):
            at = self.place._replace(revision=f"refs/pr/{pull.number}")
            if pull.status in ("open", "draft") and hub.holds(at, files):
                return Placed(record, pull.url, False)
        return None

    def _commit(self, files: dict[str, bytes], title: str) -> None:
        with _staged(files) as folder:
            hub.publish(self.place, folder, message=title, create_pr=False)


def _batches(submissions: Sequence[Submission]) -> Iterator[list[Submission]]:
    """As many as one pull request takes, by number and by bytes."""
    batch: list[Submission] = []
    size = 0
    for submission in submissions:
        more = sum(map(len, submission.files.values()))
        if batch and (len(batch) == PER_PULL or size + more > PULL_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(submission)
        size += more
    if batch:
        yield batch


def _is_record(path: str) -> bool:
    return path.startswith("records/") and path.endswith(".json") and ".samples/" not in path


def _read(folder: Path, path: str) -> Submission:
    submission = read_submission(folder / path, path)
    if (folder / path).read_bytes() != submission.record.to_json():
        raise IntegrityError(f"{path} must be the bytes that 'zoo eval' wrote, but was written anew.")
    return submission


@contextlib.contextmanager
def _staged(files: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for path, data in files.items():
            write_bytes(Path(name) / path, data)
        yield Path(name)


def _title(batch: Sequence[Submission]) -> str:
    runs = " ".join(s.record.run[:8] for s in batch)
    of = batch[0].record.identity
    return f"Record {runs}: {of.model} on {of.track}"[:200] if len(batch) == 1 else f"Records {runs}"


def _description(batch: Sequence[Submission]) -> str:
    """A table of what comes, for who looks at the pull request."""
    lines = ["| record | track | model | headline | audit |", "|---|---|---|---|---|"]
    for submission in batch:
        record = submission.record
        value = record.values.get(record.headline)
        shown = "none" if value is None or value.value is None else f"{value.value:.4g}"
        verdict = record.audit.verdict if record.audit else "unknown"
        cells = (record.id[:12], record.identity.track, record.identity.model, f"{record.headline} {shown}", verdict)
        lines.append("| " + " | ".join(html.escape(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)

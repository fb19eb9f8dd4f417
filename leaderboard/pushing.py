"""Sending records so that none is ever lost: checked, laid into an outbox, sent, and only then taken out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboard.board import Board, FsBoard
from leaderboard.submission import Placed, Submission, read_submission
from zoo.errors import GateError, ZooError
from zoo.store import digest

Check = Callable[[Submission], list[str]]
"""One sentence for everything that keeps a submission from the board."""


@dataclass(frozen=True)
class Chosen:
    """What is to be sent.

    Attributes:
        left: A sentence for each record that is left at home.
        there: Names of the submissions that are on the board already.
    """

    submissions: tuple[Submission, ...]
    left: tuple[str, ...] = ()
    there: frozenset[str] = frozenset()


def outbox_of(root: Path, url: str) -> Path:
    """Folder that keeps what is on its way to one board."""
    return root / digest(url)[:16]


def choose(
    paths: Sequence[Path],
    home: FsBoard,
    board: Board,
    outbox: Path,
    check: Check,
    prepare: Callable[[Submission], Submission] | None = None,
) -> Chosen:
    """The records to send: ``paths``, or all of ``home`` that the board lacks; and what an earlier push could not send.

    Args:
        prepare: Adds to a submission what else shall go with it.

    Raises:
        GateError: One of ``paths`` is not fit to be sent; the sentence says all that is wrong.
        UsageError, IntegrityError: One cannot be read.
    """
    more = prepare or (lambda submission: submission)
    named = [more(read_submission(path)) for path in paths]
    wrong = [sentence for submission in named for sentence in check(submission)]
    if wrong:
        raise GateError("\n".join(["nothing was sent:", *wrong]) if len(wrong) > 1 else f"nothing was sent: {wrong[0]}")
    there = board.names()
    waiting = [*_waiting(outbox)]
    rest = [*waiting, *([] if paths else map(more, _at_home(home, there)))]
    fit, left = {s.record.run: s for s in named}, [] if paths else [*home.problems]
    for submission in rest:
        if submission.record.run not in fit:
            problems = check(submission)
            left += problems
            if not problems:
                fit[submission.record.run] = submission
    return Chosen(tuple(fit.values()), tuple(left), frozenset(there & {s.record.name for s in fit.values()}))


def send(submissions: Sequence[Submission], board: Board, outbox: Path) -> list[Placed]:
    """Send records that were chosen. Whatever happens, each is in the outbox or on the board (or proposed to it).

    Raises:
        ZooError: They could not be sent; the sentence says how to send them later.
    """
    FsBoard(outbox).submit(submissions)
    try:
        placed = board.submit(submissions)
    except ZooError as error:
        kept = "1 record is kept" if len(submissions) == 1 else f"{len(submissions)} records are kept"
        raise type(error)(
            f"{error}\n{kept} in {outbox} and will be sent by the next 'zoo push' to this board."
        ) from error
    for submission in submissions:
        for path in reversed(submission.files):  # the record first: without it, the rest is not read again
            (outbox / path).unlink(missing_ok=True)
    return placed


def _waiting(outbox: Path) -> Iterator[Submission]:
    """What an earlier push could not send; half-written files of a killed one are no records."""
    for path in sorted((outbox / "records").rglob("*-????????.json")):
        yield read_submission(path)


def _at_home(home: FsBoard, there: set[str]) -> Iterator[Submission]:
    """Complete records of this machine that the board has not."""
    for record in home.records():
        if record.status == "ok" and record.name not in there:
            yield read_submission(Path(home.url) / "records" / record.name)

"""Compute the metrics of records again from what was uploaded beside them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.board import anything_allowed, faults
from zoo.cli.common import BoardUrl, Device, Quiet, group, require_board, shown_progress

if TYPE_CHECKING:
    from leaderboard.board import Board
    from leaderboard.standing import Note
    from leaderboard.submission import Submission
    from zoo.record import Record
    from zoo.stages import Progress
    from zoo.validation import Outcome

app = group("Compute metrics again.")
NEW = "new"


@app.command("validate")
def validate(
    targets: Annotated[
        list[str],
        typer.Argument(help="Record files, beginnings of record ids on the board, or 'new': all with an upload."),
    ],
    by: Annotated[str | None, typer.Option(help="Who says so in the note; without it, none is written.")] = None,
    board: BoardUrl = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compute metrics again from the samples or features uploaded beside a record, and compare with what it says.

    Needs the public recordings on this machine, and the extractors. What agrees is noted on the board as 'validated':
    what was computed again, from what, how exactly. It shows that the numbers follow from the upload, not that the
    model made it. Exits 4 if a number disagrees, 3 if the headline could not be computed again.
    """
    from leaderboard.board import open_board
    from zoo.errors import GateError, IntegrityError, MissingError, UsageError, ZooError
    from zoo.store import cache_dir

    if by is not None and not 0 < len(by) <= 100:
        raise UsageError("--by takes up to 100 letters; shorten it.")
    require_board(board)
    kept = open_board(board or str(cache_dir("board")))
    named = [target for target in targets if target != NEW]
    waiting = _waiting(kept) if NEW in targets else []
    everything: list[str | Record] = [*waiting, *named]
    if NEW in targets and not waiting:
        sys.stderr.write("nothing new: every record with an upload is validated, or retracted\n")
    failed: list[ZooError] = []
    with shown_progress(quiet) as progress:
        for target in everything:
            try:
                _one(_submission(target, kept), kept, by, device, progress)
            except ZooError as error:
                if len(targets) == 1 and NEW not in targets:
                    raise
                sys.stderr.write(f"{error}\n")
                if not (isinstance(error, MissingError) and target not in named):  # others may have those recordings
                    failed.append(error)
    if failed:
        kind = next((k for k in (IntegrityError, GateError) if any(isinstance(e, k) for e in failed)), type(failed[0]))
        raise kind(f"{len(failed)} of {len(everything)} records are not validated, as listed.")


def _one(submission: Submission, board: Board, by: str | None, device: str, progress: Progress) -> None:
    """Validate a record and say what came of it."""
    from leaderboard.units import read_units
    from zoo import upload
    from zoo.errors import GateError, IntegrityError
    from zoo.validation import validate

    record = submission.record
    if wrong := faults(submission, anything_allowed()):
        raise GateError("\n".join(wrong))
    if not submission.upload:
        raise GateError(
            f"{record.id[:12]} has no upload that its metrics could be computed again from; push it with --samples or "
            "--features."
        )
    uploaded = upload.read(submission.upload, record=record.id, run=record.run)
    trials = {} if submission.units is None else read_units(submission.units, record, where="the values per trial")
    outcome = validate(record, trials, uploaded, device=device, progress=progress)
    for sentence in outcome.wrong:
        sys.stdout.write(f"{record.id[:12]}: {sentence}\n")
    if outcome.wrong:
        n = len(outcome.wrong)
        raise IntegrityError(
            f"{n} {'number' if n == 1 else 'numbers'} of {record.id[:12]} {'is' if n == 1 else 'are'} not what the "
            f"upload gives, as listed (zoo {outcome.zoo}; the record was made by {record.identity.zoo})."
        )
    whole = len(outcome.same) + len(outcome.left)
    largest = max(outcome.same.values())
    near = f", within {largest:.1g}" if largest else " to the last bit"
    said = f"{len(outcome.same)} of {whole} values were computed again and agree{near}"
    for why, n in Counter(outcome.left.values()).most_common():
        sys.stderr.write(f"{record.id[:12]}: {n} not computed again: {why}\n")
    where = "not noted: name who says so with --by"
    if by is not None:
        where = board.note(_note(record, outcome, uploaded.sha256, by, said))
    sys.stdout.write(f"{record.id[:12]}: {said}; {where}\n")


def _note(record: Record, outcome: Outcome, sha256: str, by: str, said: str) -> Note:
    from leaderboard.standing import Evidence, note_of, parts

    evidence = Evidence(
        upload_sha256=sha256,
        zoo=outcome.zoo,
        device=outcome.device,  # type: ignore[arg-type]
        tolerance=outcome.tolerance,
        largest=max(outcome.same.values()),
        decided=outcome.decided,
        began=outcome.used,
        same=parts(dict.fromkeys(outcome.same, "")),
        left=parts(outcome.left),
    )
    return note_of(record, "validated", by=by, reason=f"{said}.", evidence=evidence)


def _waiting(board: Board) -> list[Record]:
    """Records with an upload that nobody has validated and nobody has taken back."""
    from leaderboard.submission import UPLOAD
    from zoo.upload import MANIFEST, MANIFEST_BYTES

    records = [*board.records()]
    done = {note.run for note in board.notes() if note.kind in ("validated", "retracted")}
    return [r for r in records if r.run not in done and board.beside(r, UPLOAD + MANIFEST, MANIFEST_BYTES) is not None]


def _submission(target: str | Record, board: Board) -> Submission:
    """A record with its values per trial and its upload, as both lie beside its file, else as on the board."""
    from leaderboard.submission import UPLOAD, Submission, read_submission
    from zoo.upload import FILE_BYTES, MANIFEST, MANIFEST_BYTES, names

    if isinstance(target, str) and (path := Path(target)).suffix == ".json":
        here = read_submission(path)
        if here.upload:
            return here
        target = here.record
    record = board.find(target) if isinstance(target, str) else target
    found: dict[str, bytes] = {}
    if (manifest := board.beside(record, UPLOAD + MANIFEST, MANIFEST_BYTES)) is not None:
        found[UPLOAD + MANIFEST] = manifest
        for name in names(manifest):
            if (data := board.beside(record, UPLOAD + name, FILE_BYTES)) is not None:
                found[UPLOAD + name] = data
    return Submission(record, board.units(record), found)

"""Records beside one another: push, verify, rank, compare, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.common import BoardUrl, Json, group, print_json, print_table, require_board, show_board

if TYPE_CHECKING:
    from collections.abc import Callable

    from leaderboard.export import Named
    from leaderboard.hubboard import HubBoard
    from leaderboard.submission import Placed, Submission
    from leaderboard.verify import Allowed, Contest
    from zoo.record import Record

app = group("Records beside one another.")
leaderboard_app = group("Compare records.")

Partial = Annotated[bool, typer.Option(help="Take partial records too.")]
Unaudited = Annotated[bool, typer.Option(help="Take records whose split was not audited.")]
Dirty = Annotated[bool, typer.Option(help="Take records made by a checkout with uncommitted changes.")]
Unscored = Annotated[bool, typer.Option(help="Take records whose headline has no value.")]
UnknownTrack = Annotated[bool, typer.Option(help="Take records of tracks that are not of this release.")]
RecordName = Annotated[
    str,
    typer.Argument(help="A record file, or the first 4 or more digits of a record id on the board."),
]
Keeper = Annotated[str, typer.Option("--board", help="hub:organisation/name, a folder or an fsspec URL.")]


@app.command()
def push(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Record files; what belongs to them lies beside. All of this machine's.")
    ] = None,
    board: Annotated[
        str | None,
        typer.Option("--board", help="hub:organisation/name, a folder or an fsspec URL; the zoo's own if omitted."),
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="Send the generated images too, lossless: others can then score them.")
    ] = False,
    features: Annotated[
        bool,
        typer.Option(
            "--features", help="Send features of EEG, logits, predictions; without --samples, what extractors saw too."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and say what would be sent.")] = False,
    allow_partial: Partial = False,
    allow_unaudited: Unaudited = False,
    allow_dirty: Dirty = False,
    allow_unscored: Unscored = False,
    allow_unknown_track: UnknownTrack = False,
) -> None:
    """Send records to a board; one that is there already is left alone.

    Without records: all complete ones of this machine that the board has not. On the Hub, each push proposes a pull
    request. A record that could not be sent is kept and sent by the next push to that board. From what --samples and
    --features add, others can compute its metrics again: see 'zoo leaderboard validate'.
    """
    from leaderboard.board import FsBoard, open_board
    from leaderboard.pushing import choose, outbox_of, send
    from zoo import hub
    from zoo.store import cache_dir

    url = board or f"hub:{hub.org()}/zoo-results"
    target, home = open_board(url), FsBoard(str(cache_dir("board")))
    public = not isinstance(target, FsBoard)
    allowed = _allowed(allow_partial, allow_unaudited, allow_dirty, allow_unscored, allow_unknown_track or not public)
    outbox = outbox_of(cache_dir("outbox"), str(Path(url).resolve()) if not public and "://" not in url else url)
    prepare = _packed(samples=samples, features=features) if samples or features else None
    chosen = choose(records or (), home, target, outbox, lambda found: faults(found, allowed), prepare)
    for sentence in chosen.left:
        sys.stderr.write(f"left out: {sentence}\n")
    if dry_run:
        for submission in chosen.submissions:
            size, upload = sum(map(len, submission.files.values())), submission.upload
            said = f"({len(submission.files)} files, {size} bytes)"
            if upload:
                said = (
                    f"{said[:-1]}; of these {len(upload)}, {sum(map(len, upload.values()))} bytes, to score it again)"
                )
            known = submission.record.name in chosen.there
            sys.stdout.write(f"{submission.path} {'is there already' if known and not upload else said}\n")
        return
    _say(send(chosen.submissions, target, outbox))
    if not chosen.submissions:
        sys.stderr.write(f"nothing to send: {url} has every complete record of this machine\n")


def _packed(*, samples: bool, features: bool) -> Callable[[Submission], Submission]:
    """What adds to a submission that from which its metrics can be computed again."""
    from dataclasses import replace

    from leaderboard.submission import UPLOAD
    from zoo.leaves import pack

    def prepare(submission: Submission) -> Submission:
        found = pack(submission.record, samples=samples, features=features)
        others = {name: data for name, data in submission.beside.items() if not name.startswith(UPLOAD)}
        return replace(submission, beside={**others, **{UPLOAD + name: data for name, data in found.items()}})

    return prepare


def _say(placed: list[Placed]) -> None:
    """Each place once: several records may share a pull request."""
    for where in dict.fromkeys(place.where for place in placed):
        sys.stdout.write(f"{where}\n")
    for place in placed:
        if not place.new:
            more = (
                f"; {place.added} {'file was' if place.added == 1 else 'files were'} added to it" if place.added else ""
            )
            sys.stderr.write(f"{place.record.id[:12]} was there already{more}\n")


@app.command()
def export(
    record: RecordName,
    to: Annotated[str, typer.Option(help="csv, latex, model-index, eval-results or every-eval-ever.")],
    board: BoardUrl = None,
    output: Annotated[Path | None, typer.Option(help="File to write; stdout if omitted.")] = None,
) -> None:
    """Write a record in the words of other tools."""
    from leaderboard.export import export as write
    from zoo.store import write_bytes

    found = _record(record, board)
    text = write(found, to, _named(found))
    if output is None:
        sys.stdout.write(text)
    else:
        write_bytes(output, text.encode())


@leaderboard_app.command("show")
def leaderboard_show(
    board: BoardUrl = None,
    track: Annotated[str | None, typer.Option(help="Only this track.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Show this metric too.")] = None,
    as_json: Json = False,
) -> None:
    """Rank records, one table per track, controls included."""
    from zoo import registry

    names = [registry.metrics.get(name).id for name in metrics or ()]
    show_board(board, track=track, metrics=names, as_json=as_json)


@leaderboard_app.command("claims")
def leaderboard_claims(
    board: BoardUrl = None,
    model: Annotated[str | None, typer.Option(help="Only of this model or system.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only on this dataset.")] = None,
    as_json: Json = False,
) -> None:
    """What was published, with its source, beside what was measured."""
    from dataclasses import asdict

    from leaderboard.board import open_board
    from leaderboard.claims import claim_rows, literature, of_cards
    from leaderboard.table import render_claims
    from zoo import registry
    from zoo.errors import UnknownNameError, did_you_mean
    from zoo.store import cache_dir

    require_board(board)
    kept = open_board(board or str(cache_dir("board")))
    published = [*of_cards(registry.models.cards()), *literature()]
    rows = claim_rows(published, [*kept.records()], notes=kept.notes())
    for what, wanted in (("model", model), ("dataset", dataset)):
        if wanted is not None:
            known = sorted({getattr(row, what) for row in rows})
            if wanted not in known:
                raise UnknownNameError(f"no claim is of {what} {wanted!r}{did_you_mean(wanted, known)}")
            rows = [row for row in rows if getattr(row, what) == wanted]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(render_claims(rows))


@leaderboard_app.command("verify")
def leaderboard_verify(
    targets: Annotated[
        list[str], typer.Argument(help="Numbers of pull requests, 'open' for all open ones, or record files.")
    ],
    board: Annotated[
        str | None, typer.Option("--board", help="hub:organisation/name: where the pull requests are.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge pull requests that are good.")] = False,
    close: Annotated[bool, typer.Option("--close", help="Close pull requests that are not, saying why.")] = False,
    allow_partial: Partial = False,
    allow_unaudited: Unaudited = False,
    allow_dirty: Dirty = False,
    allow_unscored: Unscored = False,
    allow_unknown_track: UnknownTrack = False,
) -> None:
    """Check submissions: schema, hashes, bounds, track, and every aggregate computed anew from the values per trial.

    Exits 3 if anything is wrong, after a sentence for each thing.
    """
    from leaderboard.submission import read_submission
    from zoo import hub
    from zoo.errors import GateError, UsageError, ZooError
    from zoo.record import require_file

    allowed = _allowed(allow_partial, allow_unaudited, allow_dirty, allow_unscored, allow_unknown_track)
    wrong, url = 0, board or f"hub:{hub.org()}/zoo-results"
    if "open" in targets:
        numbers = sorted(pull.number for pull in hub.pulls(_keeper(url).place, status="open"))
        targets = [*map(str, numbers), *(target for target in targets if target != "open")]
    for target in targets:
        if not target.isdecimal():
            require_file(Path(target))
    for target in targets:
        if target.isdecimal():
            kept = _keeper(url)
            problems = _judge(kept, int(target), allowed, merge=merge, close=close)
        elif merge or close:
            raise UsageError(f"--merge and --close are for pull requests, but {target} is none; leave them out.")
        else:
            try:
                problems = faults(read_submission(Path(target)), allowed)
            except ZooError as error:
                problems = [str(error)]
        wrong += len(problems)
        for problem in problems:
            sys.stdout.write(f"{problem}\n" if problem.startswith(f"{target} ") else f"{target}: {problem}\n")
        if not problems:
            sys.stdout.write(f"{target}: good\n")
    if wrong:
        raise GateError(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong, as listed.")


def _judge(board: HubBoard, number: int, allowed: Allowed, *, merge: bool, close: bool) -> list[str]:
    """What is wrong with a pull request, which is then settled if that was asked for."""
    from html import escape

    offered = board.offered(number)
    problems = [*offered.problems, *(found for s in offered.submissions for found in faults(s, allowed))]
    if problems and close:
        board.refuse(offered, "Not merged:\n\n" + "\n".join(f"- {escape(problem)}" for problem in problems[:50]))
    elif not problems and merge:
        n = len(offered.submissions)
        board.accept(
            offered, f"{n} {'record' if n == 1 else 'records'} verified by zoo: every aggregate computed anew."
        )
    return problems


@leaderboard_app.command("mark")
def leaderboard_mark(
    record: RecordName,
    kind: Annotated[str, typer.Option("--as", help="validated, attested, contested, settled or retracted.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    board: Keeper,
    reason: Annotated[str, typer.Option(help="Why; what was computed anew, or what is wrong.")] = "",
) -> None:
    """Say of a record on a board how far it was checked, that it is contested, or that it is taken back."""
    from typing import get_args

    from leaderboard.board import open_board
    from leaderboard.standing import Kind, note_of
    from leaderboard.verify import wrong_text
    from zoo.errors import UsageError

    said: Kind | None = next((known for known in get_args(Kind) if known == kind), None)
    if said is None:
        raise UsageError(f"--as must be one of {', '.join(get_args(Kind))}, not {kind!r}.")
    for option, text in (("--by", by), ("--reason", reason)):
        if (sentence := wrong_text(option, text)) is not None:
            raise UsageError(sentence)
    if kind != "submitted" and not reason:
        raise UsageError(f"whoever calls a record {kind} must say why; add --reason.")
    if not 0 < len(by) <= 100 or len(reason) > 2000:
        raise UsageError("--by takes up to 100 letters and --reason up to 2000; shorten them.")
    require_board(board)
    found = _record(record, board)
    sys.stdout.write(f"{open_board(board).note(note_of(found, said, by=by, reason=reason))}\n")


@leaderboard_app.command("rebuild")
def leaderboard_rebuild(board: Keeper) -> None:
    """Write the derived tables of a board anew from all its records."""
    from leaderboard.board import open_board

    require_board(board)
    kept = open_board(board)
    where = kept.rebuild()
    for problem in kept.problems:
        sys.stderr.write(f"left out: {problem}\n")
    sys.stdout.write(f"{where}\n")


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="A record file, the first 4 or more digits of a record id, or a model on the board.")
    ],
    b: Annotated[str | None, typer.Argument(help="The other one; a control of the same record if omitted.")] = None,
    control: Annotated[str | None, typer.Option(help="Control to compare A with; shuffled-eeg if omitted.")] = None,
    track: Annotated[str | None, typer.Option(help="Where models are compared.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Only these, chosen before looking.")] = None,
    board: BoardUrl = None,
    as_json: Json = False,
) -> None:
    """Test on the same trials whether one record is better than another, or than its own control."""
    from dataclasses import asdict

    from leaderboard.board import open_board
    from leaderboard.compare import compare as run
    from leaderboard.compare import find_sides
    from leaderboard.ranking import SHUFFLED
    from leaderboard.standing import standings
    from leaderboard.table import render_comparison
    from zoo.errors import UsageError
    from zoo.store import cache_dir

    if b is not None and control is not None:
        raise UsageError(f"--control is for one record beside its own control; leave it out or leave out {b}.")
    require_board(board)
    kept = open_board(board or str(cache_dir("board")))
    records = [*kept.records()]
    for problem in kept.problems:
        sys.stderr.write(f"left out: {problem}\n")
    known = standings(records, kept.notes())
    sides = find_sides(a, b, board=kept.url, records=records, standings=known, track=track, control=control or SHUFFLED)
    found = run(*sides, metrics=metrics or ())
    if as_json:
        print_json(asdict(found))
        return
    print_table(render_comparison(found))


# ---- what the board cannot know: registries


def _allowed(partial: bool, unaudited: bool, dirty: bool, unscored: bool, unknown_tracks: bool) -> Allowed:
    from leaderboard.verify import Allowed

    return Allowed(partial, unaudited, dirty, unscored, unknown_tracks)


def anything_allowed() -> Allowed:
    """For what lies on a board already: only what is false in itself is wrong."""
    return _allowed(True, True, True, True, True)


def faults(submission: Submission, allowed: Allowed) -> list[str]:
    """One sentence for everything that is wrong with a submission."""
    from leaderboard.verify import problems_of

    return problems_of(submission, _contest, allowed)


def _contest(track: str) -> Contest | None:
    """What this release knows of a track."""
    from importlib.resources import files

    from leaderboard.verify import Contest
    from zoo import registry
    from zoo.errors import UnknownNameError
    from zoo.specs import Split
    from zoo.store import digest

    try:
        card = registry.tracks.get(track)
    except UnknownNameError:
        return None
    if card.id != track:
        return None
    file = files("zoo.datasets") / "splits" / card.dataset / f"{card.split}.json"
    hashes: set[str] = set()
    if file.is_file():
        split = Split.model_validate_json(file.read_bytes())
        hashes = {digest(split.model_dump(mode="json", exclude=left)) for left in (None, {"cut_from"})}  # before 0.2
    return Contest(card, frozenset(hashes), {name: registry.metrics.get(name) for name in card.metrics})


def _named(record: Record) -> Named:
    """Titles and repos of what a record names, where this release knows it."""
    from contextlib import suppress

    from leaderboard.export import Named
    from zoo import registry
    from zoo.errors import UnknownNameError

    of = record.identity
    known = {}
    with suppress(UnknownNameError):
        known["task"] = registry.tracks.get(of.track).task
    title = repo = None
    with suppress(UnknownNameError):
        title = registry.models.get(of.model).title
    with suppress(UnknownNameError):
        pinned = registry.datasets.get(of.dataset).hub
        repo = (pinned.repo, pinned.revision) if pinned else None
    cards = {card.id: card for card in registry.metrics.cards()}
    titles = {name: cards[name].title for name in record.values if name in cards}
    best = {name: top for name in record.values if name in cards and (top := cards[name].best) is not None}
    return Named(known.get("task"), title, repo, titles, best)


def _record(name: str, board: str | None) -> Record:
    """A record by its file, or by the beginning of its id on a board."""
    from leaderboard.board import ID_PREFIX, open_board
    from zoo.record import Record
    from zoo.store import cache_dir

    if name.endswith(".json") or (Path(name).exists() and not ID_PREFIX.fullmatch(name)):
        return Record.read(Path(name))
    require_board(board)
    return open_board(board or str(cache_dir("board"))).find(name)


def _keeper(board: str) -> HubBoard:
    from leaderboard.board import open_board
    from leaderboard.hubboard import HubBoard
    from zoo.errors import UsageError

    kept = open_board(board)
    if not isinstance(kept, HubBoard):
        raise UsageError(f"pull requests are on the Hub, but {board} is not; name it as hub:organisation/name.")
    return kept

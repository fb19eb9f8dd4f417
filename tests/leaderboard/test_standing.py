from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from leaderboard.board import FsBoard, tables
from leaderboard.ranking import Row, rank
from leaderboard.standing import Note, Standing, note_of, standings
from leaderboard.submission import NOTE_BYTES
from zoo.errors import IntegrityError, UsageError
from zoo.record import Record

Make = Callable[..., Record]
LATER = "2026-02-01T00:00:00+00:00"


def noted(record: Record, kind: Any, by: str = "ada", reason: str = "", day: int = 1) -> Note:
    return note_of(record, kind, by=by, reason=reason, created=datetime(2026, 3, day, tzinfo=UTC))


def of(record: Record, *notes: Note, others: tuple[Record, ...] = ()) -> Standing:
    return standings([record, *others], notes)[record.run]


def test_a_record_begins_as_its_makers_word(make_record: Make) -> None:
    assert of(make_record()) == Standing()
    record = make_record()
    assert of(record, noted(record, "submitted")) == Standing(submitter="ada")


def test_levels_rise_and_the_highest_is_shown(make_record: Make) -> None:
    record = make_record()
    validated, attested = noted(record, "validated", "bob"), noted(record, "attested", "eve")
    assert (of(record, validated).level, of(record, validated).by) == ("validated", ("bob",))
    assert (of(record, validated, attested).level, of(record, validated, attested).by) == ("attested", ("eve",))


@pytest.mark.parametrize(
    ("score", "interval", "level"),
    [(0.45, (0.4, 0.6), "reproduced"), (0.3, (0.4, 0.6), "self"), (0.5, None, "reproduced")],
)
def test_reproduced_asks_for_the_same_within_the_interval(
    make_record: Make, score: float, interval: tuple[float, float] | None, level: str
) -> None:
    first, second = make_record(score=0.5, interval=interval), make_record(score=score, created=LATER)
    notes = noted(first, "submitted", "ada"), noted(second, "submitted", "bob")
    assert of(first, *notes, others=(second,)).level == level


def test_reproduced_asks_for_somebody_else(make_record: Make) -> None:
    first, second = make_record(interval=(0.4, 0.6)), make_record(created=LATER)
    for notes in (
        (),
        (noted(first, "submitted"),),
        (noted(second, "submitted", "bob"),),
        (noted(first, "submitted"), noted(second, "submitted", "ada", day=2)),
        (noted(first, "submitted"), noted(second, "submitted", "bob"), noted(second, "retracted", "bob", "wrong")),
    ):
        assert of(first, *notes, others=(second,)).level == "self"
    other = make_record("beta")
    notes = noted(first, "submitted"), noted(other, "submitted", "bob")
    assert of(first, *notes, others=(other,)).level == "self", "another identity reproduces nothing"


def test_a_contest_can_be_settled_and_begun_again(make_record: Make) -> None:
    record = make_record()
    contested = noted(record, "contested", "bob", "the split leaks", 1)
    assert (of(record, contested).state, of(record, contested).reason) == ("contested", "the split leaks (bob)")
    settled = noted(record, "settled", "eve", "it does not", 2)
    assert of(record, settled, contested).state == ""
    assert of(record, settled, contested, noted(record, "contested", "bob", "it does", 3)).state == "contested"


def test_a_retracted_record_stays_to_be_seen_and_is_not_ranked(make_record: Make) -> None:
    gone, kept = make_record("alpha", 0.9), make_record("beta", 0.5)
    (table,) = rank([gone, kept], notes=[noted(gone, "retracted", "ada", "wrong labels")])
    assert [(row.name, row.rank) for row in table.entries] == [("beta", 1)]
    (row,) = table.unscored
    assert (row.name, row.state, row.headline.reason) == ("alpha", "retracted", "retracted: wrong labels (ada)")


def test_another_run_stands_for_an_identity_whose_first_was_retracted(make_record: Make) -> None:
    gone, kept = make_record(score=0.9), make_record(score=0.5, created=LATER)
    (table,) = rank([gone, kept], notes=[noted(gone, "retracted", "ada", "wrong")])
    (row,) = table.entries
    assert (row.run, row.headline.value, row.reproductions, table.unscored) == (kept.run, 0.5, 0, ())


def test_a_note_of_another_record_says_nothing(make_record: Make) -> None:
    record = make_record()
    forged = Note(**{**noted(record, "attested").model_dump(), "record": "1" * 64})
    assert of(record, forged) == Standing()


# ---- columns


def only(record: Record, **options: Any) -> Row:
    (table,) = rank([record], **options)
    return (table.entries or table.controls)[0]


def test_a_row_says_what_the_numbers_rest_on(make_record: Make) -> None:
    record = make_record()
    row = only(record, protocols={("phantom", "subject-out@1"): "cross-subject"})
    assert (row.protocol, row.level, row.n_parameters) == ("cross-subject", "self", 10)
    made = record.provenance.model_copy(update={"protocol": "cross-run"})
    assert only(record.model_copy(update={"provenance": made})).protocol == "cross-run"


@pytest.mark.parametrize(
    ("trained_on", "source", "dataset", "overlap"),
    [
        (("phantom",), "trained: here", "phantom", "train role"),
        (("phantom",), "converted: theirs", "phantom", "unknown"),
        (("thoughtviz-object",), "converted: theirs", "envisioned-speech-object", "unknown"),
        (("phantom",), "trained: here", "muse-n170", "none"),
        ((), "trained: here", "phantom", "none"),
        ((), "given: in memory", "phantom", "unknown"),
        ((), "trained: in memory", "phantom", "unknown"),
    ],
)
def test_what_the_weights_saw_of_the_recordings(
    make_record: Make, trained_on: tuple[str, ...], source: str, dataset: str, overlap: str
) -> None:
    record = make_record(dataset=dataset)
    made = record.provenance.model_copy(update={"trained_on": trained_on, "weights_source": source})
    assert only(record.model_copy(update={"provenance": made})).overlap == overlap


def test_pairs_decide_where_they_are_known_and_intervals_elsewhere(make_record: Make) -> None:
    a, b, c = (make_record(name, v, interval=(v - 0.3, v + 0.3)) for name, v in (("a", 0.9), ("b", 0.5), ("c", 0.4)))
    p = {frozenset((a.run, b.run)): 0.01, frozenset((b.run, c.run)): 0.8}
    (table,) = rank([a, b, c], pairs=lambda _: p)
    assert [(row.name, row.rank, row.tie, row.p) for row in table.entries] == [
        ("a", 1, 1, None),
        ("b", 2, 2, 0.01),
        ("c", 2, 2, 0.8),
    ]
    assert table.ties == "mixed"
    (table,) = rank([a, b, c])
    assert ([row.tie for row in table.entries], table.ties) == ([1, 1, 1], "intervals")


def test_a_board_tests_pairs_by_the_values_beside_its_records() -> None:
    board, track = Path(__file__).parents[2] / "leaderboard", "reconstruction/envisioned-speech-object.random-window@2"
    (table,) = tables(FsBoard(board), track=track)
    assert (table.ties, len(table.entries)) == ("paired", 3)
    assert [row.tie for row in table.entries] == [1, 2, 3]
    assert all(row.p is not None and row.p < 0.001 for row in table.entries[1:])


# ---- notes as files


def test_notes_lie_beside_records_and_are_never_overwritten(tmp_path: Path, make_record: Make) -> None:
    board, record = FsBoard(tmp_path), make_record()
    board.push(record)
    note = noted(record, "contested", "bob", "why?")
    assert board.note(note) == board.note(note) == f"notes/{note.name}"
    assert board.notes() == [note]
    assert list(board.records()) == [record]


def test_what_is_no_note_is_named_and_skipped(tmp_path: Path, make_record: Make) -> None:
    board, record = FsBoard(tmp_path), make_record()
    note = noted(record, "attested")
    for name, data in {
        "a/broken.json": b"{",
        "a/huge.json": b" " * (NOTE_BYTES + 1),
        "b/moved.json": note.to_json(),
        "b/more.json": note.to_json().replace(b'"by"', b'"level": 3, "by"'),
    }.items():
        (tmp_path / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "notes" / name).write_bytes(data)
    assert board.notes() == []
    assert len(board.problems) == 4
    assert f"notes/b/moved.json holds another note, {note.name}: it was changed or moved." in board.problems
    with pytest.raises(UsageError, match=rf"^notes/x has more than the {NOTE_BYTES} bytes of any note\.$"):
        Note.parse(b" " * (NOTE_BYTES + 1), path="x")
    with pytest.raises(IntegrityError):
        Note.parse(note.to_json(), path="x")

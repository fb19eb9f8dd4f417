from __future__ import annotations

import hashlib
import json
import stat
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.registry import _registry

from leaderboard.board import MAX_BYTES, Board, FsBoard
from leaderboard.submission import Submission
from zoo.errors import GateError, IntegrityError, MissingError, UnknownNameError, UsageError, ZooError
from zoo.record import Record

Make = Callable[..., Record]


@pytest.fixture(params=["folder", "memory"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> FsBoard:
    return FsBoard(tmp_path / "board" if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def file_of(tmp_path: Path, record: Record) -> Path:
    return tmp_path / "records" / record.name


def test_a_pushed_record_comes_back_equal_from_its_path(board: FsBoard, make_record: Make) -> None:
    record = make_record()
    kept: Board = board
    assert kept.push(record) == f"records/{record.name}"
    assert list(kept.records()) == [record]
    assert kept.problems == []


def test_pushing_the_same_record_again_changes_nothing(board: FsBoard, make_record: Make) -> None:
    record = make_record()
    assert board.push(record) == board.push(record)
    assert list(board.records()) == [record]


def test_a_reproduction_lies_beside_the_first_run(board: FsBoard, make_record: Make) -> None:
    first, second = make_record(), make_record(score=0.4, created="2026-02-01T00:00:00+00:00")
    assert first.id == second.id
    for record in (first, second):
        board.push(record)
    assert {record.run for record in board.records()} == {first.run, second.run}


def test_an_empty_place_is_an_empty_board(board: FsBoard) -> None:
    assert list(board.records()) == []


def test_a_board_is_the_folder_that_evaluation_writes(tmp_path: Path, make_record: Make) -> None:
    record = make_record()
    record.write(tmp_path / "records" / record.name)
    board = FsBoard(tmp_path)
    assert list(board.records()) == [record]
    board.push(record)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [record.name.rpartition("/")[2]]


@pytest.mark.parametrize("status", ["partial", "failed"])
def test_only_complete_records_are_pushed(board: FsBoard, make_record: Make, status: str) -> None:
    record = make_record(status=status, error="ValueError: no" if status == "failed" else None)
    with pytest.raises(GateError) as error:
        board.push(record)
    assert str(error.value) == (
        f"a board takes complete records, but {record.id[:12]} is {status}; "
        "evaluate without --limit, or push it with --allow-partial to a board of your own."
    )
    assert list(board.records()) == []
    board.push(record, allow_partial=True)
    assert list(board.records()) == [record]


def test_units_lie_beside_their_record_and_are_checked(tmp_path: Path, make_record: Make) -> None:
    units = b"PAR1 per-unit values"
    record = make_record(units_sha256=hashlib.sha256(units).hexdigest())
    with pytest.raises(IntegrityError) as error:
        FsBoard(tmp_path).push(record, b"others")
    assert str(error.value) == (
        f"the per-unit values of {record.id[:12]} must have sha256 {hashlib.sha256(units).hexdigest()[:16]}… "
        f"but have {hashlib.sha256(b'others').hexdigest()[:16]}…; push the file that was written with the record."
    )
    assert not file_of(tmp_path, record).exists()
    FsBoard(tmp_path).push(record, units)
    assert file_of(tmp_path, record).with_suffix(".units.parquet").read_bytes() == units
    assert list(FsBoard(tmp_path).records()) == [record]


def test_files_that_come_later_are_added_and_counted(board: FsBoard, make_record: Make) -> None:
    record = make_record()
    whole = Submission(record, beside={".png": b"1", ".upload/manifest.jsonl": b"2", ".upload/000-a.webp": b"3"})
    said = []
    for sent in (replace(whole, beside={".png": b"1"}), whole, whole):
        (placed,) = board.submit([sent])
        said.append((placed.new, placed.added))
    assert said == [(True, 0), (False, 2), (False, 0)]
    assert board.beside(record, ".upload/000-a.webp", 9) == b"3"


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path, make_record: Make) -> None:
    record = make_record()
    path = file_of(tmp_path, record)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(IntegrityError) as error:
        FsBoard(tmp_path).push(record)
    assert str(error.value) == f"{path} is there already with other content; nothing was written."
    assert path.read_bytes() == b"mine"


def test_others_may_read_what_was_pushed(tmp_path: Path, make_record: Make) -> None:
    record = make_record()
    FsBoard(tmp_path).push(record)
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file_of(tmp_path, record).stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("bad", ["../../evil", "/etc", "a/../../b", "a b", "ünïcode", "a\nb", "-rf", ".hidden"])
def test_a_name_that_is_no_plain_path_is_refused(tmp_path: Path, make_record: Make, bad: str) -> None:
    board = FsBoard(tmp_path / "board")
    for record in (make_record(model=bad), make_record(track=bad)):
        with pytest.raises(UsageError) as error:
            board.push(record)
        assert str(error.value) == (
            f"track and model must be plain names with a slash between, not {'records/' + record.name!r}."
        )
    assert list(tmp_path.rglob("*")) == []


def test_what_is_broken_is_named_and_skipped(tmp_path: Path, make_record: Make) -> None:
    board = FsBoard(tmp_path)
    good, moved, tampered = make_record(), make_record(model="beta"), make_record(model="gamma")
    board.push(good)
    for path, data in {
        "a/broken.json": b"{",
        "a/deep.json": b"[" * 100_000,
        "a/list.json": b"[]",
        "a/binary.json": b"\xff\xfe",
        "a/huge.json": b" " * (MAX_BYTES + 1),
        "b/moved.json": moved.to_json(),
        tampered.name: tampered.to_json().replace(b'"value": 0.5', b'"value": 0.9'),
    }.items():
        (tmp_path / "records" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "records" / path).write_bytes(data)
    (tmp_path / "records" / "readme.txt").write_text("not a record")
    assert list(board.records()) == [good]
    assert len(board.problems) == 7
    by_file = {sentence.split()[0]: sentence for sentence in board.problems}
    assert by_file["records/a/list.json"] == "records/a/list.json must hold a record, but holds a list."
    assert by_file["records/a/huge.json"] == (
        f"records/a/huge.json has {MAX_BYTES + 1} bytes, more than the {MAX_BYTES} of any record."
    )
    assert by_file["records/b/moved.json"] == (
        f"records/b/moved.json holds another record, {moved.name}: it was changed or moved."
    )
    changed = Record.model_validate(
        {
            key: value
            for key, value in json.loads((tmp_path / "records" / tampered.name).read_bytes()).items()
            if key != "id"
        }
    )
    assert by_file[f"records/{tampered.name}"] == (
        f"records/{tampered.name} holds another record, {changed.name}: it was changed or moved."
    )
    for name in ("broken", "deep", "binary"):
        assert by_file[f"records/a/{name}.json"].startswith(f"records/a/{name}.json is not a valid record: ")
    assert list(board.records()) == [good]
    assert len(board.problems) == 7, "problems are those of the last reading, not of all"


def test_links_out_of_the_board_are_not_followed(tmp_path: Path, make_record: Make) -> None:
    record, outside = make_record(), tmp_path / "outside"
    record.write(outside / record.name)
    link = tmp_path / "board" / "records" / record.name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / record.name)
    board = FsBoard(tmp_path / "board")
    assert list(board.records()) == []
    assert board.problems == [f"records/{record.name} is a link that leaves the board."]


def test_links_in_a_circle_end(tmp_path: Path, make_record: Make) -> None:
    board, record = FsBoard(tmp_path), make_record()
    board.push(record)
    (tmp_path / "records" / "again").symlink_to(tmp_path / "records")
    assert list(board.records()) == [record]


def test_find_takes_a_prefix_and_gives_the_newest_run(board: FsBoard, make_record: Make) -> None:
    old, new = make_record(), make_record(score=0.4, created="2026-02-01T00:00:00+00:00")
    for record in (new, old, make_record(model="beta")):
        board.push(record)
    for length in (4, 12, 40, 64):
        assert board.find(new.id[:length]) == new


def test_find_says_what_is_wrong(board: FsBoard, make_record: Make) -> None:
    records = [make_record(seed=seed) for seed in range(1500)]  # 65,536 prefixes of four: some share theirs
    board_prefix = {record.id[:4]: record for record in records}
    one = next(record for record in records if board_prefix[record.id[:4]] is not record)
    other = board_prefix[one.id[:4]]
    for record in (one, other):
        board.push(record)
    ids = sorted((one.id, other.id))
    with pytest.raises(UsageError) as error:
        board.find(one.id[:4])
    assert str(error.value) == f"{one.id[:4]!r} begins 2 ids ({ids[0][:16]}, {ids[1][:16]}); give more digits."
    with pytest.raises(UsageError) as error:
        board.find("../..")
    assert str(error.value) == "a record id must be 4 to 64 hexadecimal digits, not '../..'."
    missing = "f" * 64
    with pytest.raises(UnknownNameError) as unknown:
        board.find(missing)
    assert str(unknown.value).endswith(f" has an id that begins with {missing!r}.")


def test_a_place_that_cannot_be_written_is_an_error_of_one_sentence(tmp_path: Path, make_record: Make) -> None:
    (tmp_path / "records").write_text("a file where a folder must be")
    with pytest.raises(ZooError, match=r"could not be written \(.*\); check that you may write there\.$"):
        FsBoard(tmp_path).push(make_record())


@pytest.mark.parametrize(
    ("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs"), ("sftp", "'fsspec[sftp]'")]
)
def test_a_board_that_needs_a_package_names_the_command(
    protocol: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"sftp": "paramiko"}.get(protocol, package), None)
    monkeypatch.delitem(_registry, protocol, raising=False)  # opened by an earlier test
    with pytest.raises(MissingError) as error:
        FsBoard(f"{protocol}://bucket/board")
    assert str(error.value) == (
        f"a board at {protocol}://bucket/board needs a package that is not on this machine.\n"
        f"to install it, run: pip install {package}"
    )


def test_a_service_that_does_not_answer_is_one_sentence(make_record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board, record = FsBoard("memory://somewhere"), make_record()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no route to it")

    message = (
        "the board at memory://somewhere did not answer (RuntimeError: no route to it); "
        "check its address, your rights there and the network."
    )
    for name, ask in (("find", lambda: list(board.records())), ("pipe_file", lambda: board.push(record))):
        with monkeypatch.context() as patch:
            patch.setattr(board._fs, name, fail)
            with pytest.raises(MissingError) as error:
                ask()
        assert str(error.value) == message
    board.push(record)
    monkeypatch.setattr(board._fs, "cat_file", fail)
    assert (list(board.records()), board.problems) == ([], [message])


def test_a_url_that_nothing_opens_is_named() -> None:
    with pytest.raises(UsageError, match=r"^a board must be a folder or a URL that fsspec opens, not 'nonsense://x': "):
        FsBoard("nonsense://x")

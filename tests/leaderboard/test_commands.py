"""What the commands of a board say of edited files, of boards that are not there and of values that are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from leaderboard.board import FsBoard, tables
from leaderboard.export import Named, export
from leaderboard.verify import Allowed, problems_of
from tests.leaderboard.test_verify import CONTEST, changed, laid
from zoo.cli import app
from zoo.record import Record
from zoo.store import digest

Make = Callable[..., Record]
ROOT = Path(__file__).resolve().parents[2]
ONE = sorted((ROOT / "leaderboard/records").glob("*/muse-n170.run-out@2/eeg2image.small/*-*.json"))[0]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


# ---- a file that was edited


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A published record under its own name, with another command; every value is as it was."""
    path = tmp_path / "mine" / ONE.name
    path.parent.mkdir()
    shutil.copy(ONE.with_suffix(".units.parquet"), path.with_suffix(".units.parquet"))
    whole = ONE.read_text(encoding="utf-8")
    path.write_text(whole.replace('"command": "', '"command": "nice ', 1), encoding="utf-8")
    return path


def sentence(path: Path) -> str:
    name = Record.parse(path.read_bytes(), where="here").name
    return f"{path} holds another record, {name}: it was changed or moved."


@pytest.mark.parametrize("words", [("push",), ("export", "--to", "csv"), ("compare",)], ids=lambda words: words[0])
def test_no_command_takes_an_edited_file_for_a_record(words: tuple[str, ...], edited: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    done = call(*words, edited, "--board", board)
    assert (done.exit_code, done.stdout, done.stderr) == (4, "", f"error: {sentence(edited)}\n")
    assert list(board.iterdir()) == []


def test_an_edited_file_is_not_good(edited: Path) -> None:
    done = call("leaderboard", "verify", edited, "--allow-dirty")
    assert (done.exit_code, done.stdout) == (3, f"{sentence(edited)}\n")
    assert done.stderr == "error: 1 thing is wrong, as listed.\n"
    renamed = edited.rename(edited.with_name("mine.json"))
    edited.with_suffix(".units.parquet").rename(renamed.with_suffix(".units.parquet"))
    shutil.copy(ONE, renamed)  # a file of any other name says nothing of what it holds
    assert call("leaderboard", "verify", renamed, "--allow-dirty").stdout == f"{renamed}: good\n"


def test_what_was_edited_at_home_is_left_there_with_a_sentence(cache: Path, tmp_path: Path, make_record: Make) -> None:
    home = FsBoard(cache / "board")
    record = make_record()
    home.push(record)
    path = cache / "board" / "records" / record.name
    path.write_bytes(path.read_bytes().replace(b'"seconds": ', b'"seconds": 9'))
    done = call("push", "--board", tmp_path / "board")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith(f"left out: records/{record.name} holds another record, ")


def test_what_is_left_out_is_said_once(tmp_path: Path, make_record: Make) -> None:
    board, (good, other) = FsBoard(tmp_path / "board"), (make_record(), make_record("beta"))
    for record in (good, other):
        board.push(record)
    path = tmp_path / "board" / "records" / other.name
    path.write_bytes(path.read_bytes().replace(b'"seconds": ', b'"seconds": 9'))
    note = tmp_path / "board" / "notes" / "x.json"
    note.parent.mkdir()
    note.write_bytes(b"{}")
    tables(board)
    assert [problem.split()[0] for problem in board.problems] == [f"records/{other.name}", "notes/x.json"]
    for words in (("leaderboard", "show"), ("leaderboard", "build", "--output-dir", tmp_path / "site")):
        said = call(*words, "--board", board.url).stderr
        assert said.count("left out: ") == 2, said
    assert said.splitlines()[-1].startswith("1 record on 1 track, ")


# ---- boards and files that are not there


@pytest.mark.parametrize(
    "words",
    [
        ("leaderboard", "claims"),
        ("leaderboard", "rebuild"),
        ("leaderboard", "mark", ONE, "--as", "contested", "--by", "me", "--reason", "why"),
        ("export", ONE.name[:12], "--to", "csv"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_a_board_that_is_not_there_is_no_empty_board(words: tuple[object, ...], tmp_path: Path) -> None:
    board = tmp_path / "nosuch"
    done = call(*words, "--board", board)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --board must be a folder that exists or a URL, but {board} is not; check its spelling.\n"
    )
    assert not board.exists()


@pytest.mark.parametrize("words", [("push",), ("leaderboard", "verify"), ("export", "--to", "csv")], ids=" ".join)
def test_a_folder_is_no_record_and_neither_is_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    folder, missing = tmp_path / "mine", tmp_path / "nosuch.json"
    folder.mkdir()
    for path, said in (
        (folder, f"{folder} is a folder; name the .json files in it."),
        (missing, f"a record must be a file, but there is none at {missing}; check its spelling."),
    ):
        done = call(*words, path, *(("--board", folder) if words[0] == "push" else ()))
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {said}\n")


# ---- what is said of records, and of claims


def test_what_is_said_of_a_record_is_text(tmp_path: Path) -> None:
    board = tmp_path / "board"
    assert call("push", ONE, "--board", board).exit_code == 0
    words = ("leaderboard", "mark", ONE.name[:12], "--as", "retracted", "--board", board)
    for by, reason, wrong in (
        ("<b>me</b>", "why", "--by must be text, but holds markup: '<b>me</b>'."),
        ("me", "a\x1b[2J", "--reason must be text, but holds characters that act instead of being seen: 'a\\x1b[2J'."),
    ):
        done = call(*words, "--by", by, "--reason", reason)
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {wrong}\n")
    assert not (board / "notes").exists()


@pytest.mark.parametrize(
    ("option", "name", "end"),
    [("model", "eeg2imag", "; did you mean 'eeg2image'?"), ("dataset", "nosuch-at-all", ".")],
)
def test_claims_of_nothing_are_no_empty_table(option: str, name: str, end: str) -> None:
    done = call("leaderboard", "claims", "--board", ROOT / "leaderboard", f"--{option}", name)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: no claim is of {option} {name!r}{end}\n")


def test_a_claim_is_one_line_where_nobody_looks_at_a_screen() -> None:
    words = ("leaderboard", "claims", "--board", ROOT / "leaderboard", "--model", "watermelon")
    lines = [line for line in call(*words).stdout.splitlines() if line.startswith("watermelon ")]
    assert len(lines) == len(json.loads(call(*words, "--json").stdout)) > 5
    assert any("0.6983 ± 0.0298" in line and "labelled as if in blocks; chance 2.5 %" in line for line in lines)


# ---- what is there already, and what has no value


def test_a_dry_run_says_what_is_there_already(tmp_path: Path) -> None:
    board = tmp_path / "board"
    call("push", ONE, "--board", board, "--allow-dirty")
    name = Record.read(ONE).name
    assert call("push", ONE, "--board", board, "--allow-dirty", "--dry-run").stdout == (
        f"records/{name} is there already\n"
    )


def test_a_headline_without_a_value_is_sent_only_if_asked() -> None:
    without = replace(CONTEST, card=CONTEST.card.model_copy(update={"headline": "fid"}))
    track = without.card.model_dump(mode="json")
    forged = changed("headline", "fid", of=changed("identity/track_sha256", digest(track)))
    null = {"value": None, "reason": "fewer than 2 trials."}
    for value, reason in ((null, "fewer than 2 trials"), (None, "it was not measured")):
        if value is None:
            found = forged.record.model_copy(update={"values": {"logistic_accuracy": forged.record.values["fid"]}})
            offered = replace(forged, record=found)
        else:
            offered = changed("values/fid", value, of=forged)
        said = f"the headline fid has no value: {reason}; evaluate again where it can be measured, or push"
        problems = problems_of(offered, lambda _: without)
        assert any(problem.endswith(f": {said} with --allow-unscored.") for problem in problems), problems
    offered = changed("values/fid", null, of=forged)
    assert problems_of(offered, lambda _: without, Allowed(unscored=True)) == []
    partial = changed("status", "partial", of=offered)
    assert problems_of(partial, lambda _: without, Allowed(partial=True)) == []


def test_the_command_line_takes_unscored_records_if_asked(tmp_path: Path) -> None:
    path = laid(tmp_path, changed("values/logistic_accuracy", {"value": None, "reason": "too few"}))
    asked = call("leaderboard", "verify", path, "--allow-unscored", "--allow-unknown-track").stdout
    refused = call("leaderboard", "verify", path, "--allow-unknown-track").stdout
    assert "the headline logistic_accuracy has no value: too few;" in refused
    assert "has no value" not in asked


# ---- what nobody knows


def test_a_model_of_ones_own_has_no_developer_that_anybody_knows(make_record: Make) -> None:
    record = make_record("local-mine")
    made = record.provenance.model_copy(update={"selection": "unknown"})
    record = record.model_copy(update={"provenance": made})
    info = json.loads(export(record, "every-eval-ever"))["model_info"]
    assert (info["id"], info["name"], info["developer"]) == ("local-mine", "local-mine", "unknown")
    known = json.loads(export(record, "every-eval-ever", Named(model="Mine")))["model_info"]
    assert (known["id"], known["name"], known["developer"]) == ("eeg-image-zoo/local-mine", "Mine", "eeg-image-zoo")
    (entry,) = yaml.safe_load(export(record, "eval-results"))
    assert entry["notes"] == (
        f"accuracy, reconstruction/phantom.subject-out@1, selection unknown, zoo record {record.id[:12]}"
    )

"""From a record on disk to a merged pull request and derived tables, against the stand-in of the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner, Result

from leaderboard.board import FsBoard
from leaderboard.derived import INDEX, RECORDS, derived
from leaderboard.hubboard import HubBoard
from leaderboard.submission import read_submission
from tests.hub_standin import READER, Hub, is_large
from zoo.cli import app
from zoo.hub import Place
from zoo.record import Record

Make = Callable[..., Record]
PUBLISHED = Path(__file__).resolve().parents[2] / "leaderboard" / "records"
ONE = sorted(PUBLISHED.glob("*/phantom.stimulus-out@2/eeg2image.small/*-*.json"))[0]
ID = Record.read(ONE).id[:12]
OTHER = sorted(PUBLISHED.glob("*/muse-n170.run-out@2/eeg2image.small/*-*.json"))[0]
REPO = "org/results"


@pytest.fixture
def board(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> HubBoard:
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr("leaderboard.hubboard.BACKOFF_SECONDS", 0.001)
    hub.create(REPO, "dataset")
    return HubBoard(Place(REPO, "dataset"))


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def done(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_stranger_proposes_once_and_merges_nothing(
    board: HubBoard, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"hub:{REPO}"
    monkeypatch.setenv("HF_TOKEN", READER)
    pull = done("push", ONE, "--board", url).strip()
    assert pull == f"{hub.url}/datasets/{REPO}/discussions/1"
    again = call("push", ONE, "--board", url)
    assert (again.stdout.strip(), again.stderr) == (pull, f"{ID} was there already\n")
    assert list(board.records()) == []
    assert call("leaderboard", "verify", 1, "--board", url, "--merge").exit_code == 5
    assert [pull.status for pull in hub.repo(REPO, "dataset").pulls] == ["open"]


def test_who_keeps_the_board_merges_rebuilds_and_shows(board: HubBoard, hub: Hub, tmp_path: Path) -> None:
    url = f"hub:{REPO}"
    done("push", ONE, OTHER, "--board", url)
    (pull,) = hub.repo(REPO, "dataset").pulls
    runs = [Record.read(path).run[:8] for path in (ONE, OTHER)]
    assert pull.title == f"Records {' '.join(runs)}"
    assert f"| {ID} | reconstruction/phantom.stimulus-out@2 | eeg2image.small |" in pull.description
    assert done("leaderboard", "verify", 1, "--board", url) == "1: good\n"
    assert pull.status == "open"
    assert done("leaderboard", "verify", 1, "--board", url, "--merge") == "1: good\n"
    assert (pull.status, pull.comments) == ("merged", ["2 records verified by zoo: every aggregate computed anew."])
    again = call("push", ONE, "--board", url)
    assert again.stdout.strip() == f"{hub.url}/datasets/{REPO}/discussions/1", "the first push's address, merged too"
    assert again.stderr == f"{ID} was there already\n"

    assert done("leaderboard", "rebuild", "--board", url).strip() == f"{hub.url}/datasets/{REPO}/blob/main/tables"
    files = hub.files(REPO, "dataset")
    wanted = [read_submission(path) for path in (ONE, OTHER)]
    for submission in wanted:
        assert {path: files[path] for path in submission.files} == submission.files
    assert {path: files[path] for path in (INDEX, RECORDS)} == derived([s.record for s in wanted], board.notes())
    notes = board.notes()
    assert [(note.kind, note.by) for note in notes] == [("submitted", "tester")] * 2
    head = hub.repo(REPO, "dataset").refs["main"]
    done("leaderboard", "rebuild", "--board", url)
    assert hub.repo(REPO, "dataset").refs["main"] == head, "nothing changed, so nothing is committed"

    shown = json.loads(done("leaderboard", "show", "--board", url, "--json"))
    assert {row["submitter"] for table in shown for row in table["entries"]} == {"tester"}
    compared = json.loads(done("compare", "eeg2image.small", "--board", url, "--track", shown[0]["track"], "--json"))
    local = json.loads(
        done("compare", "eeg2image.small", "--board", PUBLISHED.parent, "--track", shown[0]["track"], "--json")
    )
    assert compared == local
    built = call("leaderboard", "build", "--board", url, "--output-dir", tmp_path / "site")
    assert (built.exit_code, built.stdout.strip()) == (0, str(tmp_path / "site" / "index.html"))
    assert "2 records on 2 tracks" in built.stderr


def offered(hub: Hub, files: dict[str, bytes], *, without: tuple[str, ...] = ()) -> int:
    """A pull request by somebody who does not use ``zoo push``."""
    repo = hub.repo(REPO, "dataset")
    head = repo.refs["main"]
    new = {path: hub.keep(data, large=is_large(path, len(data))) for path, data in files.items()}
    tree = {path: entry for path, entry in repo.commits[head].tree.items() if path not in without}
    number = hub.open_pull(repo, head, "Great <b>results</b>", "", "mallory")
    hub.record(repo, f"refs/pr/{number}", {**tree, **new}, "Great results", head)
    return number


def test_what_strangers_offer_is_refused_with_sentences_and_changes_nothing(board: HubBoard, hub: Hub) -> None:
    one, other = read_submission(ONE), read_submission(OTHER)
    hub.commit(REPO, {**one.files, "notes/x/y.json": b"{}"}, "dataset")
    before = hub.files(REPO, "dataset")
    raw = other.record.to_json()
    tampered = raw.replace(b'"seconds": ', b'"seconds": 1')
    assert tampered != raw
    stem = other.path.removesuffix(".json")
    cases = {
        "'README.md' has no place on a board": {**other.files, "README.md": b"hello"},
        "has no place on a board": {**other.files, "notes/a/attested-0.json": b"{}"},
        "is changed or deleted, but a board only grows.": {**other.files, one.path: raw},
        "it brings no record.": {},
        "is not a valid record": {**other.files, other.path: b"[" * 100_000},
        "holds another record": {**other.files, other.path: tampered},
        "must hold a record, but holds a list.": {other.path: b"[]"},
        "is not the file that": {**other.files, f"{stem}.units.parquet": one.units or b""},
        "must lie beside it, but is not there": {other.path: raw},
        "must be a PNG picture": {**other.files, f"{stem}.png": b"<script>alert(1)</script>"},
        "more than the 4194304 of any such file": {**other.files, other.path: b" " * (5 << 20)},
    }
    sentences = {offered(hub, files): sentence for sentence, files in cases.items()}
    gone = offered(hub, other.files, without=(one.path, "notes/x/y.json"))
    sentences[gone] = "is changed or deleted, but a board only grows."
    result = call("leaderboard", "verify", "open", "--board", f"hub:{REPO}", "--merge", "--close")
    assert result.exit_code == 3
    for number, sentence in sentences.items():
        said = [line for line in result.stdout.splitlines() if line.startswith(f"{number}: ")]
        assert any(sentence in line for line in said), (number, sentence, said)
        pull = hub.repo(REPO, "dataset").pulls[number - 1]
        assert pull.status == "closed"
        assert "<script>" not in "".join(pull.comments)
    assert hub.files(REPO, "dataset") == before


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_folder_and_an_s3_server_take_the_same_push(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, cache: Path
) -> None:
    url = str(tmp_path / "board") if kind == "folder" else request.getfixturevalue("s3")
    for path in (ONE, OTHER):
        submission = read_submission(path)
        FsBoard(cache / "board").submit([submission])  # as if evaluated here
    pushed = done("push", "--board", url).split()
    assert pushed == [f"{url}/records/{read_submission(path).record.name}" for path in sorted((ONE, OTHER))]
    assert call("push", "--board", url).stderr == f"nothing to send: {url} has every complete record of this machine\n"
    assert call("push", ONE, "--board", url).stderr == f"{ID} was there already\n"
    done("leaderboard", "rebuild", "--board", url)
    kept = FsBoard(url)
    records = [*kept.records()]
    assert (len(records), kept.problems) == (2, [])
    assert kept.units(records[0]) is not None
    for path, data in derived(records).items():
        assert kept._fs.cat_file(f"{kept._root}/{path}") == data
    done("leaderboard", "mark", ID, "--as", "retracted", "--by", "me", "--reason", "wrong", "--board", url)
    shown = {table["track"]: table for table in json.loads(done("leaderboard", "show", "--board", url, "--json"))}
    table = shown["reconstruction/phantom.stimulus-out@2"]
    assert (table["entries"], table["unscored"][0]["headline"]["reason"]) == ([], "retracted: wrong (me)")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on an S3 server of the test's own."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()  # what a server of this process held before
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("results")
    yield "s3://results/board"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()

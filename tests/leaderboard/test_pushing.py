"""A record that was to be sent is never lost: it waits in the outbox until it is on the board."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from leaderboard.board import FsBoard
from leaderboard.hubboard import HubBoard
from leaderboard.pushing import choose, outbox_of, send
from leaderboard.submission import read_submission
from tests.hub_standin import Hub
from tests.leaderboard.test_verify import GOOD, contests, laid
from zoo.cli import app
from zoo.errors import IntegrityError, MissingError, ZooError
from zoo.hub import Place
from zoo.record import Record

Make = Callable[..., Record]
ROOT = Path(__file__).resolve().parents[2]
ONE = sorted((ROOT / "leaderboard/records").glob("*/muse-n170.run-out@2/eeg2image.small/*-*.json"))[0]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def test_what_could_not_be_sent_is_sent_by_the_next_push(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.0)
    hub.create("org/results", "dataset")
    hub.fail("POST .*/commit/", 500, times=None)
    failed = call("push", ONE, "--board", "hub:org/results")
    outbox = outbox_of(cache / "outbox", "hub:org/results")
    assert failed.exit_code == 5
    assert failed.stderr.splitlines()[-1] == (
        f"1 record is kept in {outbox} and will be sent by the next 'zoo push' to this board."
    )
    kept = outbox / "records" / read_submission(ONE).record.name
    assert read_submission(kept) == read_submission(ONE)
    hub._failures.clear()
    again = call("push", "--board", "hub:org/results")
    assert again.stdout == f"{hub.url}/datasets/org/results/discussions/1\n"
    assert not list(outbox.rglob("*.json"))


def test_an_answer_that_is_lost_makes_no_second_pull_request(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.0)
    hub.create("org/results", "dataset")
    lost = iter(["lose"])
    hub.trouble = lambda line: next(lost, None) if "POST" in line and "/commit/" in line else None  # type: ignore[assignment, return-value]
    pushed = call("push", ONE, "--board", "hub:org/results")
    assert (pushed.exit_code, pushed.stdout) == (0, f"{hub.url}/datasets/org/results/discussions/1\n")
    assert len(hub.repo("org/results", "dataset").pulls) == 1


def test_a_silent_hub_is_not_waited_for_for_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr("zoo.hub.ANSWER_SECONDS", 0.5)
    hub.create("org/results", "dataset")
    hub.silence = 1.0
    hung = iter(["hang"])
    hub.trouble = lambda line: next(hung, None) if "POST" in line and "/commit/" in line else None  # type: ignore[assignment, return-value]
    pushed = call("push", ONE, "--board", "hub:org/results")
    assert (pushed.exit_code, len(hub.repo("org/results", "dataset").pulls)) == (0, 1)


def test_a_record_that_was_killed_on_its_way_is_found_where_it_is(tmp_path: Path, hub: Hub) -> None:
    """Killed after the pull request was made, before the outbox was emptied."""
    hub.create("org/results", "dataset")
    board, outbox = HubBoard(Place("org/results", "dataset")), tmp_path / "outbox"
    submission = read_submission(ONE)
    FsBoard(outbox).submit([submission])
    (placed,) = board.submit([submission])
    chosen = choose((), FsBoard(tmp_path / "home"), board, outbox, lambda _: [])
    assert chosen.submissions == (submission,)
    assert send(chosen.submissions, board, outbox) == [placed._replace(where=placed.where, new=False)]
    assert len(hub.repo("org/results", "dataset").pulls) == 1


def test_a_half_written_outbox_is_no_record(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    laid(outbox, GOOD).unlink()  # killed before the record, which comes last
    board = FsBoard(tmp_path / "board")
    assert choose((), FsBoard(tmp_path / "home"), board, outbox, lambda _: []).submissions == ()


def test_what_is_not_fit_is_left_at_home_with_a_sentence(tmp_path: Path, make_record: Make) -> None:
    home, board = FsBoard(tmp_path / "home"), FsBoard(tmp_path / "board")
    home.submit([GOOD])
    home.push(make_record("beta"))
    home.push(make_record("gamma", status="partial", limit=3), allow_partial=True)
    from leaderboard.verify import problems_of

    chosen = choose((), home, board, tmp_path / "outbox", lambda s: problems_of(s, contests))
    assert [s.record.identity.model for s in chosen.submissions] == ["mine.small"]
    assert len(chosen.left) == 1
    assert "is not known to this release" in chosen.left[0]
    assert board.names() == set()


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    board = tmp_path / "board"
    shown = call("push", ONE, "--board", board, "--dry-run")
    submission = read_submission(ONE)
    size = sum(map(len, submission.files.values()))
    assert shown.stdout == f"{submission.path} ({len(submission.files)} files, {size} bytes)\n"
    assert not board.exists()


def test_another_record_under_the_same_name_stops_everything(tmp_path: Path, hub: Hub) -> None:
    submission = read_submission(ONE)
    hub.commit("org/results", {submission.path: b"{}"}, "dataset")
    with pytest.raises(IntegrityError, match=r"is on org/results already with other content; nothing was proposed\.$"):
        HubBoard(Place("org/results", "dataset")).submit([submission])
    folder = FsBoard(tmp_path)
    (tmp_path / submission.path).parent.mkdir(parents=True)
    (tmp_path / submission.path).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"is there already with other content; nothing was written\.$"):
        folder.submit([submission])


def test_without_a_token_the_command_that_logs_in_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create("org/results", "dataset")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MissingError, match=r"publishing to org/results needs a token of the Hub"):
        HubBoard(Place("org/results", "dataset")).submit([read_submission(ONE)])


def test_the_tables_are_written_on_the_commit_they_were_made_from(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's commit between reading and writing makes them be made again."""
    monkeypatch.setattr("leaderboard.hubboard.BACKOFF_SECONDS", 0.0)
    first, second = read_submission(ONE), GOOD
    hub.commit("org/results", first.files, "dataset")
    board = HubBoard(Place("org/results", "dataset"))
    meanwhile = iter([second.files])
    import leaderboard.hubboard as module

    right = module.derived

    def derived(records: list[Record], notes: object) -> dict[str, bytes]:
        if files := next(meanwhile, None):
            hub.commit("org/results", files, "dataset")
        return right(records, notes)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "derived", derived)
    board.rebuild()
    files = hub.files("org/results", "dataset")
    clean = right([first.record, second.record])
    assert {path: files[path] for path in clean} == clean
    monkeypatch.setattr(module, "TRIES", 2)
    hub.fail("POST .*/commit/", 412, times=None)
    hub.commit("org/results", {"records/x.txt": b"x"}, "dataset")
    monkeypatch.setattr(module, "derived", lambda *_: {"tables/index.json": b"other"})
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.0)
    with pytest.raises(ZooError, match="was changed by others each of"):
        board.rebuild()


@pytest.fixture(scope="module")
def stress() -> ModuleType:
    path = ROOT / "benchmarks" / "board_stress.py"
    spec = importlib.util.spec_from_file_location("board_stress", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_many_pushes_at_once_with_failures_and_kills_keep_every_record_once(
    stress: ModuleType, hub: Hub, tmp_path: Path
) -> None:
    """How many are killed before they are done depends on the machine; the benchmark counts them."""
    found = stress.stress(tmp_path, hub, processes=2, records=3, kills=2, hub_board=True, share=0.1)
    assert (found["kept"], found["kept twice"]) == (6, 0)
    assert sum(found["injected"].values()) > 0


def test_pushing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['zoo', 'push', {str(ONE)!r}, '--board', {str(tmp_path / 'board')!r}]\n"
        "import runpy\n"
        "try:\n"
        "    runpy.run_module('zoo', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'sklearn', 'datasets', 'timm', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

"""Many processes push to one board while the Hub fails and the processes are killed; one keeper verifies and merges.

    python benchmarks/board_stress.py [--processes 4] [--records 25] [--kills 12] [--output FILE.json]

Every record must be kept, none twice, and the derived tables must be those of a clean build. Requests are refused with
409, 412 and 500, carried out and not answered, or answered after the client has given up.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub_standin import Hub

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
REPO = "org/results"
SOURCE = "reconstruction/muse-n170.run-out@2/eeg2image.small"


def load_standin() -> Any:
    """The stand-in of the Hub that the tests use; by its path, as another package is installed as ``tests`` too."""
    spec = importlib.util.spec_from_file_location("hub_standin", ROOT / "tests" / "hub_standin.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["hub_standin"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_records(home: Path, worker: int, n: int) -> list[Path]:
    """Records that differ in their seed, with the same values per trial, as if evaluated by one machine."""
    from leaderboard.board import FsBoard
    from leaderboard.submission import Submission, read_submission

    (path,) = (ROOT / "leaderboard" / "records" / SOURCE).glob("*-*.json")
    source = read_submission(path)
    made = []
    for k in range(n):
        identity = source.record.identity.model_copy(update={"seed": 1000 * worker + k})
        record = source.record.model_copy(update={"identity": identity})
        FsBoard(home).submit([Submission(record, source.units)])
        made.append(home / "records" / record.name)
    return made


def work(home: Path, board: str) -> None:
    """Push every record of ``home``, one by one, until all are on the board; begins again wherever it was killed."""
    from leaderboard.board import FsBoard, open_board
    from leaderboard.pushing import choose, outbox_of, send
    from zoo import hub
    from zoo.errors import ZooError

    hub.ANSWER_SECONDS, hub.BACKOFF_SECONDS = 2.0, 0.05
    target, outbox = open_board(board), outbox_of(home / "outbox", board)
    left = sorted((home / "records").rglob("*-*.json"))
    while left:
        try:
            send(choose(left[:1], FsBoard(home / "none"), target, outbox, lambda _: []).submissions, target, outbox)
            left.pop(0)
        except ZooError as error:
            sys.stderr.write(f"{str(error).splitlines()[0]}\n")
            left.append(left.pop(0))
            time.sleep(0.05)


def keep(board: Any, stop: threading.Event, log: Counter[str]) -> None:
    """Verify and merge what comes, and rebuild the tables, as the one writer of the main branch."""
    from leaderboard.verify import Allowed, problems_of
    from zoo import hub
    from zoo.errors import ZooError

    hub.ANSWER_SECONDS, hub.BACKOFF_SECONDS = 2.0, 0.05
    allowed = Allowed(unknown_tracks=True)
    while not stop.is_set():
        try:
            for pull in reversed(hub.pulls(board.place, status="open")):
                offered = board.offered(pull.number)
                found = (problems_of(submission, lambda track: None, allowed) for submission in offered.submissions)
                problems = [*offered.problems, *(sentence for sentences in found for sentence in sentences)]
                if problems:
                    board.refuse(offered, problems[0])
                    log["closed"] += 1
                else:
                    board.accept(offered, "good")
                    log["merged"] += 1
            board.rebuild()
            log["rebuilt"] += 1
        except ZooError as error:
            log[f"keeper: {type(error).__name__}"] += 1
        time.sleep(0.1)


def stress(
    folder: Path, server: Hub, *, processes: int, records: int, kills: int, hub_board: bool, share: float = 0.08
) -> dict[str, Any]:
    """Run it all and count; raises AssertionError where something was lost, came twice or differs.

    Args:
        server: The running stand-in of the Hub, which the settings of this process name.
        share: How many of the requests that prepare a commit go wrong; of commits and merges four times as many, of
            requests that only read an eighth.
    """
    from leaderboard.board import FsBoard
    from leaderboard.derived import derived
    from leaderboard.hubboard import TITLE, HubBoard
    from zoo import hub as client
    from zoo.hub import Place
    from zoo.record import Record

    rng, injected = random.Random(0), Counter[str]()
    homes = [folder / f"home{worker}" for worker in range(processes)]
    made = [path for w, home in enumerate(homes) for path in make_records(home, w, records)]

    def trouble(line: str) -> Any:
        writes = "/commit/" in line or line.endswith("/merge")
        if rng.random() > (4 * share if writes else share if line.startswith("POST") else share / 8):
            return None
        kind = rng.choice([409, 412, 500, "lose", "hang"] if writes else [500, "lose"])
        injected[str(kind)] += 1
        return kind

    server.silence = 2.5
    place = Place(REPO, "dataset")
    server.create(REPO, "dataset")
    url = f"hub:{REPO}" if hub_board else str(folder / "board")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}

    def start(home: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, __file__, "--work", str(home), "--board", url]
        settings = {**environment, "ZOO_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, env=settings, stderr=subprocess.DEVNULL)

    killed = 0
    stop, log = threading.Event(), Counter[str]()
    board: Any = HubBoard(place) if hub_board else FsBoard(url)
    keeper = threading.Thread(target=keep, args=(HubBoard(place), stop, log))
    if hub_board:
        keeper.start()
    server.trouble = trouble
    running = {home: start(home) for home in homes}
    try:
        while running:
            time.sleep(rng.uniform(0.5, 2.0))
            home = rng.choice([*running])
            if killed < kills and running[home].poll() is None:
                running[home].send_signal(signal.SIGKILL)
                running[home].wait()
                killed += 1
                running[home] = start(home)
            for home, process in [*running.items()]:
                if process.poll() is not None:
                    assert process.returncode == 0, f"a worker ended with {process.returncode}"
                    del running[home]
        server.trouble = lambda line: None
        while hub_board and client.pulls(place, status="open"):
            time.sleep(0.2)
    finally:
        server.trouble = lambda line: None
        for process in running.values():
            process.kill()
        stop.set()
        if hub_board:
            keeper.join()
    board.rebuild()
    kept, notes = [*board.records()], board.notes()
    expected = [Record.read(path) for path in made]
    names = Counter(record.name for record in kept)
    assert board.problems == [], board.problems
    assert {record.name for record in expected} == {*names}, f"{len(names)} of {len(expected)} kept"
    assert max(names.values()) == 1, "a record came twice"
    waiting = [path for home in homes for path in (home / "outbox").rglob("*.json")]
    assert not waiting, f"{len(waiting)} left in the outbox"
    clean = derived(expected, notes)
    proposed: Counter[str] = Counter()
    if hub_board:
        found = server.files(REPO, "dataset")
        pulls = server.repo(REPO, "dataset").pulls
        proposed.update(run for pull in pulls if (title := TITLE.match(pull.title)) for run in title[1].split())
        assert sorted(note.run for note in notes) == sorted(record.run for record in expected), "notes differ"
    else:
        found = {path: (Path(url) / path).read_bytes() for path in clean}
    assert {path: found[path] for path in clean} == clean, "the tables are not those of a clean build"
    return {
        "board": "hub" if hub_board else "folder",
        "processes": processes,
        "records": len(expected),
        "kept": len(kept),
        "kept twice": sum(n > 1 for n in names.values()),
        "proposed": sum(proposed.values()),
        "proposed twice": sum(n > 1 for n in proposed.values()),
        "kills": killed,
        "injected": dict(sorted(injected.items())),
        "keeper": dict(sorted(log.items())),
        "tables": "equal to a clean build",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--records", type=int, default=25)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--board", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.board)
        return
    standin = load_standin()
    results = []
    for hub_board in (True, False):
        with tempfile.TemporaryDirectory() as name, standin.Hub(Path(name)) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            os.environ |= {  # before anything imports huggingface_hub, which reads them once
                "HF_ENDPOINT": server.url,
                "HF_TOKEN": standin.WRITER,
                "HF_HOME": f"{name}/hf",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "NO_PROXY": "127.0.0.1,localhost",
                "ZOO_CACHE": f"{name}/cache",
            }
            sizes = {"processes": given.processes, "records": given.records, "kills": given.kills}
            results.append(stress(Path(name), server, hub_board=hub_board, **sizes))
            server.shutdown()
        print(json.dumps(results[-1]), flush=True)
    if given.output:
        given.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

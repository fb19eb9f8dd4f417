"""Sweeps: what is planned, that cells end once and truly whatever dies, and what is said of it."""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.cell_worker import CHUNK, REVISIONS, ROWS, SPLIT
from tests.conftest import build_record
from zoo import launch, registry, store
from zoo import sweep as sweep_module
from zoo.cells import Cell, Cells, Ended, Now, Options
from zoo.cli import app
from zoo.cli.sweep import _table
from zoo.errors import IntegrityError, UnknownNameError, UsageError
from zoo.launch import Here
from zoo.prefetch import SETTINGS, frozen
from zoo.record import Record
from zoo.specs import ModelCard
from zoo.sweep import Event, Measured, Status, Sweep, Watch, cost, plan, renewed, run

WORKER = (sys.executable, str(Path(__file__).with_name("cell_worker.py")))


def a_sweep(board: Path, n: int, models: tuple[str, ...] = ("alpha",), **settings: str) -> Sweep:
    """``n`` cells of each model, by seed; ``s3="die"`` is what the cell of seed 3 does."""
    options = Options(overrides={name[1:]: value for name, value in settings.items()})
    made = [
        Cell(model=model, dataset="phantom", split=SPLIT, seed=seed, options=options, revisions=REVISIONS)
        for model in models
        for seed in range(n)
    ]
    return Sweep(board, tuple(made))


@pytest.fixture(autouse=True)
def template(cache: Path) -> None:
    (cache / "template.json").write_text(json.dumps(build_record().model_dump(mode="json", exclude_unset=True)))


def go(sweep: Sweep, parallel: int = 2) -> list[Event]:
    """Run it by workers that take no time; how cells ended."""
    return [event for event in run(sweep, Here(parallel, WORKER)) if event.ended]


def computed(cache: Path) -> Counter[str]:
    """How often each chunk was computed."""
    path = cache / "computed.log"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def values(board: Path) -> dict[str, float | None]:
    """Record id → value, of all records of a board; no two may have one id."""
    found = [Record.read(path) for path in (board / "records").rglob("*.json")]
    assert len({record.id for record in found}) == len(found)
    return {record.id: record.values["accuracy"].value for record in found}


def reasons(sweep: Sweep) -> dict[int, str | None]:
    found = {cell.seed: Cells(sweep.board).ended(cell.id) for cell in sweep.cells}
    return {seed: ended.reason for seed, ended in found.items() if ended is not None}


# ---- what happens to cells


def test_cells_fail_for_a_true_reason_and_stop_no_other(tmp_path: Path, cache: Path) -> None:
    sweep = a_sweep(tmp_path, 7, s1="refuse", s2="raise", s3="die", s4="full", s5="read-only")
    events = go(sweep)
    chunk = next(cache.glob("light/*"))
    full, read_only = reasons(sweep)[4], reasons(sweep)[5]
    assert reasons(sweep) == {
        0: None,
        1: "this model needs 3 channels, but the dataset offers 2; choose another.",
        2: "RuntimeError: something unheard of",
        3: "its process was killed by SIGKILL, as the system does when memory runs out, without a word",
        4: full,
        5: read_only,
        6: None,
    }
    # the disk is full for the board too, so the worker could only say it, and the sweep wrote it down
    assert re.fullmatch(
        r"its process ended with exit code 1, and wrote last: error: no space left on the disk of \S+/sweep/cells: "
        r"free some, or point ZOO_CACHE at a larger disk, then run the same command again \(finished work is kept\)\.",
        str(full),
    )
    where = re.escape(str(chunk.parent))
    assert re.fullmatch(rf"the system answered: \[Errno 30\] Read-only file system: '{where}/\S+'", str(read_only))
    assert Counter(event.kind for event in events) == {"done": 2, "failed": 5}
    assert events[-1].status.counts == {"queued": 0, "running": 0, "done": 2, "failed": 5}
    before = computed(cache)
    assert set(before.values()) == {1}

    def only(*seeds: int) -> Sweep:
        return Sweep(tmp_path, tuple(sweep.cells[seed] for seed in seeds))

    again = go(only(0, 3, 6))  # the same command: what failed is tried again, what is done is not
    assert [event.cell.seed for event in again if event.cell] == [3]
    assert computed(cache) - before == {"alpha 3 4": 1}, "only the chunk that the kill cost"
    ended = Cells(tmp_path).ended(sweep.cells[3].id)
    assert ended is not None
    assert ended.attempts == 2


def test_everything_is_killed_and_the_same_command_ends_with_the_same_records(tmp_path: Path, cache: Path) -> None:
    """benchmarks/kills.py does this twenty times with a real model."""
    undisturbed = a_sweep(tmp_path / "undisturbed", 4, **{f"s{seed}": "sleep 0.05" for seed in range(4)})
    go(undisturbed)
    (cache / "computed.log").unlink()
    for path in sorted(cache.glob("light/*/*")):
        path.unlink()
    sweep = Sweep(tmp_path / "killed", undisturbed.cells)
    sweep.save()
    rng, kills = random.Random(0), 2
    for _ in range(kills):
        driver = subprocess.Popen([*WORKER, "drive", str(sweep.board)])
        sizes = len(computed(cache))
        while len(computed(cache)) < sizes + rng.randint(1, 6) and driver.poll() is None:
            time.sleep(0.01)
        kill_all(str(cache))
        driver.wait()
    assert not values(sweep.board) or len(values(sweep.board)) < 4, "the kills came too late to cost anything"
    go(sweep)
    assert values(sweep.board) == values(undisturbed.board)
    twice = sum(n - 1 for n in computed(cache).values())
    assert len(computed(cache)) == 4 * ROWS // CHUNK
    assert twice <= 2 * kills, "a kill costs every worker the chunk that it was at"


def kill_all(mark: str) -> None:
    """Kill -9 every process but this one whose ``ZOO_CACHE`` is ``mark``, at once."""
    wanted = f"ZOO_CACHE={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue


def test_two_sweeps_on_the_same_cells_and_clocks_that_disagree(tmp_path: Path, cache: Path) -> None:
    day = "skew 90000", "skew -90000"
    first = a_sweep(tmp_path, 4, s0="sleep 0.2", s1=day[0], s2=day[1], s3="sleep 0.1")
    found: list[list[Event]] = [[], []]

    def one(k: int) -> None:
        found[k] = list(run(first, Here(1, WORKER)))

    threads = [threading.Thread(target=one, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for events in found:
        assert events[-1].status.counts == {"queued": 0, "running": 0, "done": 4, "failed": 0}
        assert all(event.status.eta is None or event.status.eta >= 0 for event in events)
        assert events[-1].status.spent < 60, "durations are those of one process's own clock"
    assert set(computed(cache).values()) == {1}
    assert len(values(tmp_path)) == 4


def test_a_damaged_chunk_is_named_and_nothing_is_scored_with_it(tmp_path: Path, cache: Path) -> None:
    sweep = a_sweep(tmp_path, 2)
    go(sweep)
    right = values(tmp_path)
    path = sorted(cache.glob("light/*/00000.npy"))[0]
    spoilt = bytearray(path.read_bytes())
    spoilt[-30] ^= 4
    path.write_bytes(spoilt)
    fresh = Sweep(tmp_path / "fresh", sweep.cells)
    go(fresh)
    failed = [reason for reason in reasons(fresh).values() if reason]
    assert failed == [f"{path} is damaged (its checksum does not fit); delete it and run the same command again."]
    assert len(values(fresh.board)) == 1
    path.unlink()
    go(fresh)
    assert values(fresh.board) == right


def test_a_sweep_that_is_told_to_end_leaves_its_cells_to_the_next(tmp_path: Path, cache: Path) -> None:
    sweep = a_sweep(tmp_path, 2, s0="sleep 0.3")
    events = run(sweep, Here(1, WORKER))
    while not (found := next(events)).status.running or len(computed(cache)) < 2:
        pass
    assert found.status.running[0][0].seed == 0
    events.close()
    assert Watch(sweep).look().counts == {"queued": 2, "running": 0, "done": 0, "failed": 0}
    go(sweep)
    ended = Cells(tmp_path).ended(sweep.cells[0].id)
    assert ended is not None
    assert (ended.status, ended.attempts) == ("done", 2)
    assert sum(computed(cache).values()) <= len(computed(cache)) + 1


def test_a_cell_planned_with_another_state_of_the_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo import cells

    monkeypatch.setattr(cells, "revisions", lambda *_: (SPLIT, {**REVISIONS, "data": "other", "model": "other"}))
    (cell,) = a_sweep(tmp_path, 1).cells
    ended = Cells(tmp_path).run(cell)
    assert ended is not None
    assert ended.reason == (
        "the model and data of this cell must be what it was planned with, but this machine has another; bring both to "
        "the same state and start the sweep again."
    )


# ---- what is planned


def test_splits_default_to_those_with_a_track_of_the_models_task(tmp_path: Path) -> None:
    sweep = plan(["eeg2image.small", "syncnet.small"], ["phantom"], seeds=(0, 1), board=tmp_path)
    assert sorted({(cell.model, cell.split) for cell in sweep.cells}) == [
        ("eeg2image.small", "stimulus-out@1"),
        ("eeg2image.small", "subject-out@1"),
        ("syncnet.small", "stimulus-out@1"),
        ("syncnet.small", "subject-out@1"),
    ]
    assert len(sweep.cells) == 8
    same = plan(["syncnet.small", "eeg2image.small"], ["phantom"], seeds=(1, 0), board=tmp_path)
    assert {cell.id for cell in same.cells} == {cell.id for cell in sweep.cells}
    other = plan(["syncnet.small"], ["phantom"], options=Options(limit=3), board=tmp_path)
    assert not {cell.id for cell in other.cells} & {cell.id for cell in sweep.cells}


def test_patterns_and_a_dataset_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = plan(["brain2image-*.small"], ["phantom", "thoughtviz-object"], splits=["released"], board=tmp_path)
    assert [str(cell) for cell in sweep.cells] == [
        "brain2image-gan.small thoughtviz-object released seed 0",
        "brain2image-vae.small thoughtviz-object released seed 0",
    ]
    for cell in sweep.cells:
        assert sweep.refused[cell.id].startswith("thoughtviz-object is not prepared on this machine. to make it, run:")
    events = go(sweep)
    assert [event.kind for event in events] == ["failed", "failed"]
    assert cost(sweep).to_do == 0
    assert renewed(sweep).refused == sweep.refused
    monkeypatch.setattr(sweep_module, "revisions", lambda *_: ("released@1", REVISIONS))  # it has been prepared since
    again = renewed(Sweep.read(tmp_path))
    assert again.refused == {}
    assert [cell.revisions for cell in again.cells] == [REVISIONS] * 2
    assert not {cell.id for cell in again.cells} & {cell.id for cell in sweep.cells}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((["eeg2imag"], ["phantom"]), UnknownNameError, "unknown model 'eeg2imag'; did you mean"),
        ((["x*"], ["phantom"]), UsageError, "--models 'x*' fits no name; see 'zoo list models'."),
        ((["syncnet"], []), UsageError, "a sweep needs at least one model, one dataset and one seed."),
    ],
)
def test_names_that_are_none_are_refused_before_any_work(
    tmp_path: Path, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        plan(*given, board=tmp_path)


def test_a_split_of_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        plan(["syncnet.small"], ["phantom"], splits=["subjects-out"], board=tmp_path)
    assert str(caught.value) == (
        "no dataset here has a split 'subjects-out'; their splits are: stimulus-out@1, subject-out@1."
    )


def test_ten_thousand_cells_are_planned_and_looked_at(tmp_path: Path) -> None:
    """benchmarks/sweep_scale.py says how long that takes, and with what memory."""
    sweep = plan(["syncnet.small", "eeg-lstm.small"], ["phantom"], seeds=range(2500), board=tmp_path)
    assert len(sweep.cells) == 10_000
    sweep.save()
    found = Watch(Sweep.read(tmp_path)).look()
    assert found.counts == {"queued": 10_000, "running": 0, "done": 0, "failed": 0}


# ---- what it costs, and where it stands


def ended(cell: Cell, **facts: Any) -> Ended:
    return Ended(cell=cell, status="done", **facts)


def test_cells_are_foretold_from_their_like_and_never_from_another_model(tmp_path: Path) -> None:
    cells = a_sweep(tmp_path, 3, ("alpha", "beta")).cells
    measured = Measured()
    measured.add(ended(cells[0], seconds={"train": 10.0, "evaluate": 2.0}, bytes=100))
    measured.add(ended(cells[1], seconds={"train": 0.0, "evaluate": 4.0}, trained=20.0, bytes=300))
    measured.add(Ended(cell=cells[2], status="failed", reason="it broke", seconds={"train": 1e6}))
    assert measured(cells[2]) == (18.0, 200.0)
    elsewhere = Cell.model_validate({**cells[2].model_dump(), "split": "stimulus-out@1"})
    assert measured(elsewhere) == (18.0, 200.0)
    assert measured(cells[3]) is None


def test_what_is_left_is_told(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, 4, ("alpha", "beta"))
    books = Cells(tmp_path)
    for cell in sweep.cells[:2]:
        books._end(ended(cell, seconds={"train": 3000.0, "evaluate": 600.0}, bytes=2_000_000, gpus=2))
    books._end(Ended(cell=sweep.cells[4], status="failed", reason="it broke"))
    found = cost(sweep, parallel=2)
    assert (found.cells, found.to_do, found.unknown) == (8, 6, 4)
    assert found.sentences()[:3] == [
        "8 cells, 6 to do.",
        "2 of them take 2 h 0 min of computing, 1 h 0 min at 2 at a time, and 4.0 MB of disk, as others of their "
        "models did here.",
        "4 are of models that no cell on this board has measured: their cost is unknown.",
    ]
    status = Watch(sweep).look()
    assert status.counts == {"queued": 5, "running": 0, "done": 2, "failed": 1}
    assert status.eta is None
    assert (status.spent, status.gpu) == (7200.0, 14400.0)
    few = Sweep(tmp_path, sweep.cells[:4])
    now = Now(where="h 1", attempt=1, what="training", done=1, total=2, seconds={"train": 1000.0}, here=1000.0)
    (books.folder / f"{few.cells[2].id}.now").write_text(now.model_dump_json())
    with store.claim(books.folder / few.cells[2].id):
        look = Watch(few, parallel=2).look()
    assert [(cell.seed, doing) for cell, doing in look.running] == [(2, now)]
    assert look.eta == (3600 + 2600) / 2
    assert look.as_json()["gpu_hours"] == 4.0


# ---- the command


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own cells are computed by workers that take no time."""
    monkeypatch.setattr(sweep_module, "PLAIN", WORKER)
    monkeypatch.setattr(sweep_module, "revisions", lambda *_: (SPLIT, REVISIONS))
    monkeypatch.setattr(launch, "end_when_told", lambda: None)  # this process is pytest's


def test_the_command_runs_says_and_resumes(tmp_path: Path, light: None) -> None:
    asked = ("sweep", "--models", "syncnet.small", "--datasets", "phantom", "--splits", "subject-out", "--seeds", "0-1")
    there = ("--output-dir", tmp_path)
    dry = call(*asked, *there, "--set", "1=refuse", "--dry-run")
    assert dry.stdout.splitlines()[:4] == [
        "syncnet.small phantom subject-out seed 0",
        "syncnet.small phantom subject-out seed 1",
        "2 cells, 2 to do.",
        "2 are of models that no cell on this board has measured: their cost is unknown.",
    ]
    assert not (tmp_path / "sweep").exists()
    done = call(*asked, *there, "--set", "1=refuse", "--max-parallel", "2", "--json")
    assert done.exit_code == 1
    assert done.stderr == ("error: 1 of 2 cells failed, for the reasons above; the same command tries them again.\n")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    by_kind = {line["event"]: line for line in lines}
    assert by_kind["failed"]["reason"] == "this model needs 3 channels, but the dataset offers 2; choose another."
    assert by_kind["done"]["record"].endswith(".json")
    assert (by_kind["finished"]["done"], by_kind["finished"]["failed"]) == (1, 1)
    status = call("sweep", "status", *there)
    assert status.exit_code == 0
    assert "failed: syncnet.small phantom subject-out seed 1: this model needs 3 channels" in status.stdout
    assert "0 queued, 0 running, 1 done, 1 failed" in status.stdout
    told = json.loads(call("sweep", "status", *there, "--json").stdout)
    assert (told["done"], told["failed"], told["failed_cells"][0]["seed"]) == (1, 1, 1)
    again = call("sweep", "resume", *there)
    assert again.exit_code == 1
    assert [line for line in again.stderr.splitlines() if line.startswith(("done", "failed"))] == [
        "failed: syncnet.small phantom subject-out seed 1: this model needs 3 channels, but the dataset offers 2; "
        "choose another."
    ]


def test_one_table_says_what_runs_what_failed_and_what_is_left(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, 3)
    now = Now(where="node7 41", attempt=1, what="training gan (d 0.5)", done=1, total=4, seconds={}, here=1.0)
    counts: dict[Any, int] = {"queued": 1, "running": 1, "done": 0, "failed": 1}
    status = Status(counts, [(sweep.cells[0], now)], [(sweep.cells[1], "it [broke]")], 5400.0, 90.0, 7200.0)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(_table(sweep, status, failures=5))
    assert [line.rstrip() for line in console.export_text().splitlines()] == [
        f"sweep {sweep.id}",
        "cell                              doing         of it  on",
        "alpha phantom subject-out seed 0  training gan  25%    node7 41",
        "failed: alpha phantom subject-out seed 1: it [broke]",
        "1 queued, 1 running, 0 done, 1 failed; about 1 h 30 min left; 2 min computed, 2.00 GPU hours",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "syncnet"), "a sweep needs --datasets, such as 'phantom,muse-n170' or 'envisioned-*'."),
        (
            ("--models", "syncnet", "--datasets", "phantom", "--seeds", "a"),
            "--seeds takes numbers such as 0,1,2 or 0-4, not 'a'.",
        ),
        (
            ("--models", "syncnet", "--datasets", "phantom", "--executor", "ray"),
            "--executor 'ray': Input should be 'here' or 'slurm'; see --help.",
        ),
        (("status",), "there is no sweep on the board {board}; name another, or start one: zoo sweep --models …"),
        (
            ("resume", "abc"),
            "there is no sweep abc on the board {board}; name another, or start one: zoo sweep --models …",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call("sweep", *arguments, "--output-dir", tmp_path)
    assert (done.exit_code, done.stderr) == (2, f"error: {message.format(board=tmp_path)}\n")


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, 1)
    sweep.save()
    assert Sweep.read(tmp_path).cells == sweep.cells
    sweep.path.write_text('{"cells"')
    with pytest.raises(IntegrityError, match=f"^{sweep.path} is damaged .*; delete it and start the sweep again.$"):
        Sweep.read(tmp_path)


def test_frozen_networks_of_models_are_brought_too(cache: Path) -> None:
    asked = "nice,eegclip,eegclip.corrected,image2eeg,linear-encoding,ubp"
    lines = call("download", "--models", asked, "--datasets", "phantom", "-q", "--dry-run").stdout.splitlines()
    listed = {line.split()[1]: line for line in lines if line.startswith("extractor")}
    assert {"clip-vit-l14", "resnet50-imagenet", "googlenet-imagenet", "alexnet", "clip-rn50"} <= listed.keys()
    assert listed["clip-vit-l14"].startswith("extractor clip-vit-l14  1.7 GB  not here: model.safetensors is not on")
    assert listed["clip-rn50"].startswith("extractor clip-rn50  255.8 MB  not here: RN50.pt is not on")


@pytest.mark.parametrize("card", [card for card in registry.models.cards() if card.builder], ids=lambda card: card.id)
def test_a_preset_names_the_frozen_network_that_its_model_takes(card: ModelCard) -> None:
    """``zoo download`` reads cards, not settings that are left out."""
    module = importlib.import_module(str(card.builder).partition(":")[0])
    fields = {field.name for kind in vars(module).values() if is_dataclass(kind) for field in dataclass_fields(kind)}
    for setting in (*SETTINGS, "extractor"):
        if setting in fields and (setting != "extractor" or card.preset.get("image_network", setting) == "extractor"):
            assert setting in card.preset
    if named := [name for name in map(card.preset.get, SETTINGS) if name in ("alexnet", "resnet50", "googlenet")]:
        assert [*frozen(card)] == [{"alexnet": "alexnet"}.get(named[0], f"{named[0]}-imagenet")]


def test_what_a_sweep_needs_is_brought_or_named(cache: Path) -> None:
    asked = ("download", "--models", "syncnet.small,eeg2image.small", "--datasets", "phantom,thoughtviz-object", "-q")
    lines = {tuple(line.split()[:2]): line for line in call(*asked, "--dry-run").stdout.splitlines()}
    assert lines["dataset", "phantom"] == "dataset   phantom  here"
    assert lines["extractor", "efficientnet-lite0"] == "extractor efficientnet-lite0  18.8 MB  here"
    assert lines["extractor", "inception-2015-12-05"].endswith(
        "not here: weights-inception-2015-12-05-6726825d.pth is not on this machine. to fetch it, run: zoo weights "
        "pull inception-2015-12-05"
    )
    done = call(*asked)  # there is no network in tests
    assert done.exit_code == 5
    missing = [line for line in done.stdout.splitlines() if "not here" in line]
    assert "zoo data prepare thoughtviz-object --source PATH" in missing[0]
    assert done.stderr == f"error: {len(missing)} of these could not be brought; the lines above say what to do.\n"

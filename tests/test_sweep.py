"""Sweeps: what is planned, that cells end once and truly, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.cell_worker import CHUNK, REVISIONS, ROWS, SPLIT
from tests.conftest import build_record
from zoo import cells as cells_module
from zoo import sweep as sweep_module
from zoo.cells import Cell, Cells, Ended, Options
from zoo.cli import app
from zoo.errors import MissingError, UsageError
from zoo.launch import Here
from zoo.record import Record
from zoo.sweep import Event, Measured, Sweep, Watch, cost, plan, run

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
    """Run it by workers that take no time; what happened besides time passing."""
    return [event for event in run(sweep, Here(parallel, WORKER)) if event.kind != "look"]


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


def test_cells_fail_for_a_true_reason_and_stop_no_other(tmp_path: Path, cache: Path) -> None:
    sweep = a_sweep(tmp_path, 5, s1="refuse", s2="raise", s3="die")
    events = go(sweep)
    assert reasons(sweep) == {
        0: None,
        1: "this model needs 3 channels, but the dataset offers 2; choose another.",
        2: "RuntimeError: something unheard of",
        3: "its process was killed by SIGKILL, as the system does when memory runs out, without a word",
        4: None,
    }
    assert Counter(event.kind for event in events if event.ended) == {"done": 2, "failed": 3}
    assert events[-1].status.counts == {"queued": 0, "running": 0, "done": 2, "failed": 3}
    before = computed(cache)
    assert set(before.values()) == {1}
    again = go(sweep)  # the same command: what failed is tried again, what is done is not
    assert {event.cell.seed for event in again if event.cell} == {1, 2, 3}
    assert computed(cache) - before == {"alpha 3 4": 1}, "only the chunk that the kill cost"
    third = Cells(tmp_path).ended(sweep.cells[3].id)
    assert third is not None
    assert third.attempts == 2

"""Kill -9 of everything at twenty random points of a sweep; the same command then ends with the same records.

    python benchmarks/kills.py [--kills 20] [--out benchmarks/results/kills-cpu.json]

Real cells on phantom, small and short: two seeds each of a generator and of a classifier, two at a time; extractors of
images are left out, since they only take long. A point is a random number of training steps and chunks after the start.
What is counted: values against those of a sweep that nobody disturbed, chunks begun and never saved (what a kill cost),
chunks saved twice (what was computed for nothing), and training steps made again since the last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GENERATOR = {"encoder_steps": 24, "gan_steps": 12, "encoder_batch_size": 32, "gan_batch_size": 16}
CLASSIFIER = {"encoder_epochs": 1}
PARALLEL = 2
SAVE_SECONDS = 1.0


def sweep_on(board: Path) -> Any:
    from zoo.cells import Cell, Options, revisions
    from zoo.sweep import Sweep

    def cell(model: str, seed: int, overrides: dict[str, Any]) -> Cell:
        split, found = revisions(model, "phantom", "subject-out")
        options = Options(overrides=overrides, limit=120, replicates=1, device="cpu")
        return Cell(model=model, dataset="phantom", split=split, seed=seed, options=options, revisions=found)

    models = {"eeg2image.small": {**GENERATOR, "generator_width": 64}, "siskind-cnn.small": CLASSIFIER}
    return Sweep(board, tuple(cell(name, seed, settings) for name, settings in models.items() for seed in (0, 1)))


def worker() -> None:
    """``zoo`` that writes down every chunk and step, and leaves out what only takes long."""
    from zoo import scoring, stages, training
    from zoo.cli import main
    from zoo.store import cache_dir

    log = (cache_dir() / "events.log").open("a", buffering=1)
    claimed, save, step = stages.claim, stages._save, training.keyed_rng

    @contextlib.contextmanager
    def claim(path: Path, **options: Any) -> Iterator[bool]:
        with claimed(path, **options) as mine:
            if mine and not path.exists():
                log.write(f"begun {path}\n")
            yield mine

    def saved(path: Path, array: Any) -> None:
        save(path, array)
        log.write(f"saved {path}\n")

    def stepped(*key: Any) -> Any:
        if key[0] == "train":
            log.write(f"step {os.environ['ZOO_CELL']} {' '.join(map(str, key[1:]))}\n")
        return step(*key)

    stages.claim, stages._save, training.keyed_rng = claim, saved, stepped
    training.SAVE_SECONDS = SAVE_SECONDS
    scoring._absent = lambda card: "left out: it takes long" if card.extractor not in (None, "pixels-16") else None
    os.environ["ZOO_CELL"] = json.loads(sys.argv[3])["model"] if sys.argv[1:3] == ["sweep", "cell"] else ""
    main()


def drive(board: Path) -> None:
    from zoo.launch import Here
    from zoo.sweep import run

    for event in run(sweep_on(board), Here(PARALLEL, (sys.executable, __file__, "worker"))):
        if event.ended is not None:
            print(f"{event.kind}: {event.cell} {event.ended.reason or ''}", file=sys.stderr)


def started(cache: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ZOO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, __file__, "drive", str(cache / "board")], env=environment)


def kill_all(cache: Path) -> int:
    wanted, n = f"ZOO_CACHE={cache}".encode(), 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                n += 1
    return n


def events(cache: Path) -> list[str]:
    path = cache / "events.log"
    return path.read_text().splitlines() if path.exists() else []


def values(board: Path) -> dict[str, Any]:
    """Record id → every value of the model and its controls."""
    from zoo.record import Record

    records = [Record.read(path) for path in sorted((board / "records").rglob("*.json"))]
    assert len({record.id for record in records}) == len(records)
    return {
        record.id: {
            "model": {name: value.model_dump() for name, value in record.values.items()},
            **{name: system.model_dump() for name, system in record.controls.items()},
        }
        for record in records
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    top = Path(tempfile.mkdtemp(prefix="kills-"))
    begun = time.monotonic()
    calm = top / "calm"
    assert started(calm).wait() == 0
    expected, n_events = values(calm / "board"), len(events(calm))
    print(f"undisturbed: {len(expected)} records, {n_events} events", file=sys.stderr)
    points, rounds, processes = [], 0, 0
    lost = twice = steps_again = 0
    while len(points) < arguments.kills:
        rounds += 1
        cache = top / f"round{rounds}"
        kills_here = 0
        while True:
            driver, before = started(cache), len(events(cache))
            after = rng.randint(1, max(2, n_events // 8)) if len(points) < arguments.kills else None
            while driver.poll() is None and (after is None or len(events(cache)) < before + after):
                time.sleep(0.02)
            if driver.poll() is not None:
                assert driver.returncode == 0
                break
            processes += kill_all(cache)
            driver.wait()
            points.append(len(events(cache)))
            kills_here += 1
            print(f"kill {len(points)} after {after} more events", file=sys.stderr)
        assert values(cache / "board") == expected, "the records differ"
        counted = Counter(events(cache))
        saves = {line.partition(" ")[2]: n for line, n in counted.items() if line.startswith("saved ")}
        starts = {line.partition(" ")[2]: n for line, n in counted.items() if line.startswith("begun ")}
        lost_here = sum(n - saves.get(path, 0) for path, n in starts.items())  # arrays made in one piece are not begun
        lost += lost_here
        twice += sum(n - 1 for n in saves.values())
        steps_again += sum(n - 1 for line, n in counted.items() if line.startswith("step "))
        assert 0 <= lost_here <= PARALLEL * kills_here
        shutil.rmtree(cache)
    result = {
        "kills": len(points),
        "rounds": rounds,
        "processes_killed": processes,
        "cells": len(expected),
        "parallel": PARALLEL,
        "events_of_an_undisturbed_sweep": n_events,
        "events_before_each_kill": points,
        "records_equal": True,
        "chunks_lost": lost,
        "chunks_lost_at_most": PARALLEL * len(points),
        "chunks_saved_twice": twice,
        "training_steps_made_again": steps_again,
        "seconds_between_checkpoints": SAVE_SECONDS,
        "seconds": round(time.monotonic() - begun, 1),
    }
    shutil.rmtree(top)
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        del sys.argv[1]
        worker()
    elif sys.argv[1:2] == ["drive"]:
        drive(Path(sys.argv[2]))
    else:
        main()

"""Ten thousand simulated cells: seconds and memory of planning, looking, foretelling and reducing.

    python benchmarks/sweep_scale.py [--out benchmarks/results/sweep_scale-cpu.json]

Nothing is trained: 9,000 cells are written down as done, 500 as failed, 4 are held by somebody. Every step is a process
of its own, so its peak memory is its own; what starting the zoo takes by itself is the step ``start``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SEEDS, MODELS = 1250, ["syncnet.small", "eeg-lstm.small", "siskind-cnn.small", "dense-eeg.small"]
ROWS = 64


def planned(board: Path) -> Any:
    from zoo.sweep import plan

    sweep = plan(MODELS, ["phantom"], seeds=range(SEEDS), board=board)
    assert len(sweep.cells) == 10_000
    return sweep


def planning(board: Path) -> None:
    planned(board).save()


def simulating(board: Path) -> None:
    from zoo.cells import Cells, Ended, Now
    from zoo.sweep import Sweep

    books = Cells(board)
    books.folder.mkdir(parents=True, exist_ok=True)
    facts = {"seconds": {"train": 60.0, "evaluate": 30.0}, "bytes": 10_000_000, "device": "cpu", "where": "here 1"}
    for index, cell in enumerate(Sweep.read(board).cells):
        if index < 9500:
            status = {"status": "done"} if index < 9000 else {"status": "failed", "reason": "it broke"}
            text = Ended(cell=cell, **status, **facts).model_dump_json()  # type: ignore[arg-type]
            (books.folder / f"{cell.id}.json").write_text(text)
        elif index < 9504:
            now = Now(where="here 1", attempt=1, what="training", done=1, total=2, seconds={"train": 9.0}, here=9.0)
            (books.folder / f"{cell.id}.now").write_text(now.model_dump_json())


def status(board: Path) -> None:
    from zoo.sweep import Sweep, Watch

    watch = Watch(Sweep.read(board))
    found = watch.look()
    assert found.counts["done"] == 9000, found.counts
    assert found.counts["failed"] == 500
    begun = time.perf_counter()
    watch.look()
    print(f"again {time.perf_counter() - begun}")


def foretelling(board: Path) -> None:
    from zoo.sweep import Sweep, cost

    found = cost(Sweep.read(board), 8)
    assert (found.to_do, found.unknown) == (1000, 0)


def reducing(board: Path) -> None:
    from zoo.stages import Part, reduce

    ids = [f"trial-{row}" for row in range(10_000 * ROWS)]
    parts = [Part(board / f"{k}.npy", tuple(ids[k * ROWS : (k + 1) * ROWS]), ROWS) for k in reversed(range(10_000))]
    assert len(reduce(parts, ids)) == 10_000


STEPS: dict[str, Callable[[Path], None]] = {
    "start": lambda board: __import__("zoo.sweep") and None,
    "plan": planning,
    "simulate": simulating,
    "status": status,
    "foretell": foretelling,
    "reduce": reducing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--board", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        begun = time.perf_counter()
        STEPS[arguments.step](arguments.board)
        print(f"seconds {time.perf_counter() - begun}")
        print(f"megabytes {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}")
        return
    result: dict[str, Any] = {"cells": 10_000, "samples_reduced": 10_000 * ROWS, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ZOO_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        warm = "from zoo.datasets.base import load; load('phantom')"  # generated on first use, which is no planning
        subprocess.run([sys.executable, "-c", warm], env=environment, check=True)
        for step in STEPS:
            words = [sys.executable, __file__, "--step", step, "--board", f"{folder}/board"]
            done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
            told = dict(line.split() for line in done.stdout.splitlines())
            result[step] = {name: round(float(value), 3) for name, value in told.items()}
            print(step, result[step], file=sys.stderr)
    del result["simulate"]
    slowest = max(result[step]["seconds"] for step in ("plan", "status", "foretell", "reduce"))
    largest = max(result[step]["megabytes"] for step in ("plan", "status", "foretell", "reduce"))
    result |= {"slowest_seconds": slowest, "largest_megabytes": largest}
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()

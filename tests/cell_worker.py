"""``python tests/cell_worker.py sweep cell …``: the zoo's command with a model that takes no time.

Everything that a sweep is made of is real: cells, claims, heartbeats, chunks, records. Only what a cell computes is a
few keyed numbers, chunk by chunk; each chunk computed is a line of ``<cache>/computed.log``, so that nothing twice can
be seen. A cell's setting ``"<seed>"`` says what it does besides.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zoo import cells
from zoo.errors import UsageError
from zoo.record import Record, Value
from zoo.stages import Stage, Work
from zoo.stats import keyed_rng
from zoo.store import cache_dir

ROWS, CHUNK = 24, 4
REVISIONS = {"zoo": "1", "model": "2", "data": "3"}
SPLIT = "subject-out@1"


REFUSALS = {"full": (errno.ENOSPC, Path("/")), "read-only": (errno.EROFS, cache_dir())}
"""What the system answers to whoever writes, and where."""


def refuse_writing(number: int, where: Path) -> None:
    """From now on nothing can be put on disk below ``where``."""
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "xb" and path.is_relative_to(where):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *args, **kwargs)

    Path.open = refuse  # type: ignore[assignment,method-assign]


def evaluate(model: str, dataset: str, *, seed: int, output_dir: Path, progress: Any, **_: Any) -> Record:
    """A record whose value is the mean of numbers that only model and seed decide."""
    trick, _, argument = str(SETTINGS.get(str(seed), "")).partition(" ")
    if trick == "refuse":
        raise UsageError("this model needs 3 channels, but the dataset offers 2; choose another.")
    if trick == "raise":
        raise RuntimeError("something\nunheard of")
    if trick in REFUSALS:
        refuse_writing(*REFUSALS[trick])
    hoard = bytearray()

    def compute(part: slice) -> np.ndarray:
        nonlocal hoard
        with (cache_dir() / "computed.log").open("a") as log:
            log.write(f"{model} {seed} {part.start}\n")
        if trick == "die" and part.start:
            os.kill(os.getpid(), signal.SIGKILL)
        if trick == "hoard":
            hoard = bytearray(os.urandom(1_000_000) * int(argument))
        time.sleep(float(argument) if trick == "sleep" else 0)
        return np.stack([keyed_rng(model, seed, row).normal(size=3) for row in range(part.start, part.stop)])

    stage = Stage("light", {"model": model, "seed": seed}, ROWS, compute, "computing", CHUNK)
    stage.fill(Work(progress=progress))
    template = Record.model_validate(json.loads((cache_dir() / "template.json").read_bytes()))
    record = template.model_copy(
        update={
            "identity": template.identity.model_copy(update={"model": model, "seed": seed}),
            "values": {"accuracy": Value(value=float(stage.rows()[:].mean()))},
        }
    )
    record.write(output_dir / "records" / record.name)
    return record


def install() -> None:
    """Put it in the place of the zoo's own."""
    light = ModuleType("zoo.runner")
    light.train = lambda *_, **__: None  # type: ignore[attr-defined]
    light.evaluate = evaluate  # type: ignore[attr-defined]
    sys.modules["zoo.runner"] = light
    cells.revisions = lambda *_: (SPLIT, REVISIONS)


def drive(board: Path) -> None:
    """Run the newest sweep of a board by workers like this one, two at a time."""
    from zoo.launch import Here
    from zoo.sweep import Sweep, run

    for _ in run(Sweep.read(board), Here(2, (sys.executable, __file__))):
        pass


SETTINGS: dict[str, str] = {}

if __name__ == "__main__":
    from zoo.cli import main

    install()
    if sys.argv[1] == "drive":
        drive(Path(sys.argv[2]))
        sys.exit()
    if sys.argv[1:3] == ["sweep", "cell"]:
        given = json.loads(sys.argv[3])
        SETTINGS |= given["options"]["overrides"]
        if (trick := str(SETTINGS.get(str(given["seed"]), ""))).startswith("skew"):
            true = time.time
            time.time = lambda: true() + float(trick.partition(" ")[2])
    main()

"""Many cells: plan them, run them by an executor, say where they stand and what they will cost. No torch.

A plan is a file, ``<board>/sweep/<id>.json``, named by the hash of its cells; the same command makes the same plan, and
running a plan again does what is not done. Failed cells are tried again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import os
import shutil
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from zoo import registry, store
from zoo.cells import Cell, Cells, Ended, Now, Options, revisions
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.launch import ARRAY, PLAIN, Executor, Here, Slurm, Task, last_words, torchrun, visible_gpus
from zoo.specs import ModelCard, SplitCard

ABSENT = {"data": "not on the machine that planned it"}
"""Revisions of a cell whose dataset is missing."""
ANY_SPLIT = "default"
"""Of a dataset that is not here and has no track."""
POLL_SECONDS = 0.2
LINGER_SECONDS = 5.0
LOOK_SECONDS = 1.0
"""Between two looks at what all cells are doing."""
State = Literal["queued", "running", "done", "failed"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed")


class Engine(BaseModel):
    """By what a sweep runs; kept with its plan, so that it can be resumed as it was started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executor: Literal["here", "slurm"] = "here"
    max_parallel: int | None = None
    gpus_per_task: int = 1
    partition: str | None = None
    time: str | None = None
    memory: str | None = None


@dataclass(frozen=True)
class Sweep:
    """Cells and the board that their records land on.

    Attributes:
        refused: Id of a cell that nobody can compute here → why.
    """

    board: Path
    cells: tuple[Cell, ...]
    refused: dict[str, str] = field(default_factory=dict)
    engine: Engine = field(default_factory=Engine)

    @cached_property
    def id(self) -> str:
        return store.digest([cell.id for cell in self.cells])[:12]

    @property
    def path(self) -> Path:
        return self.board / "sweep" / f"{self.id}.json"

    def save(self) -> None:
        """Write the plan down, as the newest of its board."""
        content = {
            "engine": self.engine.model_dump(mode="json"),
            "refused": self.refused,
            "cells": [cell.model_dump(mode="json") for cell in self.cells],
        }
        store.write_bytes(self.path, json.dumps(content).encode())
        store.write_bytes(self.path.with_name("newest"), self.id.encode())

    @classmethod
    def read(cls, board: Path, name: str | None = None) -> Sweep:
        """The sweep of a board whose id begins with ``name``, or the one started last.

        Raises:
            UsageError: There is none, or several begin so.
            IntegrityError: Its plan is damaged.
        """
        folder = board / "sweep"
        if name is None:
            with contextlib.suppress(OSError):
                name = (folder / "newest").read_text(encoding="utf-8")
        found = sorted(folder.glob(f"{name or ''}*.json"))
        if len(found) != 1:
            held = f"{len(found)} sweeps begin with {name!r}" if found else f"there is no sweep {name or ''}".rstrip()
            raise UsageError(f"{held} on the board {board}; name another, or start one: zoo sweep --models …")
        try:
            content = json.loads(found[0].read_bytes())
            cells = tuple(Cell.model_validate(cell) for cell in content["cells"])
            return cls(board, cells, content["refused"], Engine.model_validate(content["engine"]))
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{found[0]} is damaged ({str(error).splitlines()[0]}); delete it and start the sweep again."
            ) from error


def renewed(sweep: Sweep) -> Sweep:
    """The same sweep with cells whose dataset has come since it was planned."""
    cells, refused = [], {}
    for cell in sweep.cells:
        if (why := sweep.refused.get(cell.id)) is not None:
            with contextlib.suppress(MissingError):
                asked = None if cell.split == ANY_SPLIT else cell.split
                split, found = revisions(cell.model, cell.dataset, asked)
                cell, why = Cell.model_validate({**cell.model_dump(), "split": split, "revisions": found}), None
        if why is not None:
            refused[cell.id] = why
        cells.append(cell)
    return replace(sweep, cells=tuple(cells), refused=refused)


# ---- planning


def plan(
    models: Sequence[str],
    datasets: Sequence[str],
    *,
    splits: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    options: Options | None = None,
    board: Path,
    engine: Engine | None = None,
) -> Sweep:
    """Every model with every dataset, split and seed; names may be patterns (``*.small``).

    Args:
        splits: Those that a dataset has of these; if none are named, all that have a track of the model's task.

    Raises:
        UnknownNameError: A name is in no registry.
        UsageError: A pattern fits nothing, a split is in none of the datasets, a seed is negative.
    """
    if bad := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise UsageError(f"--seeds must be at least 0 and less than 2^63, not {bad[0]}.")
    if not (seeds and models and datasets):
        raise UsageError("a sweep needs at least one model, one dataset and one seed.")
    chosen = [registry.models.get(name) for name in named("models", models)]
    rooms = [registry.datasets.get(name) for name in named("datasets", datasets)]
    for split in splits:
        if not any(_has(card.splits, split) for card in rooms):
            ids = ", ".join(sorted({entry.id for card in rooms for entry in card.splits}))
            raise UsageError(f"no dataset here has a split {split!r}; their splits are: {ids or 'none'}.")

    @cache
    def known(model: str, dataset: str, split: str | None) -> tuple[str, dict[str, str], str | None]:
        try:
            return *revisions(model, dataset, split), None
        except MissingError as error:
            return split or ANY_SPLIT, ABSENT, " ".join(str(error).split())

    cells: dict[str, Cell] = {}
    refused = {}
    for dataset in rooms:
        for model in chosen:
            asked = [name for name in splits if _has(dataset.splits, name)] if splits else tracked(model, dataset.id)
            for name in asked:
                full, found, missing = known(model.id, dataset.id, name)
                for seed in seeds:
                    cell = Cell(
                        model=model.id,
                        dataset=dataset.id,
                        split=full,
                        seed=seed,
                        options=options or Options(),
                        revisions=found,
                    )
                    cells[cell.id] = cell
                    if missing:
                        refused[cell.id] = missing
    return Sweep(board, tuple(cells.values()), refused, engine or Engine())


def tracked(model: ModelCard, dataset: str) -> list[str | None]:
    """Splits of a dataset that have a track of the model's task, else of any, else the default one."""
    cards = [card for card in registry.tracks.cards() if card.dataset == dataset]
    of_task = [card.split for card in cards if card.task == model.task]
    return [*sorted(set(of_task or [card.split for card in cards]))] or [None]


def named(kind: Literal["models", "datasets"], asked: Sequence[str]) -> list[str]:
    """Names as given, patterns (``*.small``) replaced by what fits them, each once.

    Raises:
        UsageError: A pattern fits nothing.
    """
    known = (registry.models if kind == "models" else registry.datasets).names()
    found: dict[str, None] = {}
    for name in asked:
        if any(sign in name for sign in "*?["):
            fits = fnmatch.filter(known, name)
            if not fits:
                raise UsageError(f"--{kind} {name!r} fits no name; see 'zoo list {kind}'.")
            found |= dict.fromkeys(fits)
        else:
            found[name] = None
    return list(found)


def _has(cards: Sequence[SplitCard], split: str) -> bool:
    return any(split in (card.id, card.id.partition("@")[0]) for card in cards)


# ---- what it costs


@dataclass
class Measured:
    """Seconds and bytes of cells that ended, to foretell others.

    A cell is foretold from those of the same model, dataset and split, else model and dataset, else model; never from
    another model.
    """

    _sums: dict[tuple[str, ...], tuple[int, float, float]] = field(default_factory=dict)

    def add(self, ended: Ended) -> None:
        """Take up a cell that is done; its training counts as long as it took, even if it was done before."""
        if ended.status != "done":
            return
        seconds = max(ended.seconds.get("train", 0.0), ended.trained or 0.0) + ended.seconds.get("evaluate", 0.0)
        for key in self._keys(ended.cell):
            n, total, size = self._sums.get(key, (0, 0.0, 0.0))
            self._sums[key] = n + 1, total + seconds, size + (ended.bytes or 0)

    def __call__(self, cell: Cell) -> tuple[float, float] | None:
        """Expected seconds and bytes, None where nothing like it was measured."""
        for key in self._keys(cell):
            if key in self._sums:
                n, total, size = self._sums[key]
                return total / n, size / n
        return None

    @staticmethod
    def _keys(cell: Cell) -> list[tuple[str, ...]]:
        return [(cell.like, *rest) for rest in ((cell.dataset, cell.split), (cell.dataset,), ())]


@dataclass(frozen=True)
class Cost:
    """What is to do, and what that takes as far as it was measured.

    Attributes:
        unknown: Cells of models of which none was measured on this board.
        seconds: Computing time of the others together.
        bytes: What they will keep on disk.
        free: Bytes free where the cache is, and where the board is.
    """

    cells: int
    to_do: int
    unknown: int
    seconds: float
    bytes: float
    free: tuple[int, int]
    parallel: int

    @property
    def wall_seconds(self) -> float:
        return self.seconds / self.parallel

    def sentences(self) -> list[str]:
        """For people."""
        known = self.to_do - self.unknown
        told = [f"{self.cells} cells, {self.to_do} to do."]
        if known:
            told.append(
                f"{known} of them take {hours(self.seconds)} of computing, {hours(self.wall_seconds)} at "
                f"{self.parallel} at a time, and {size(self.bytes)} of disk, as others of their models did here."
            )
        if self.unknown:
            told.append(f"{self.unknown} are of models that no cell on this board has measured: their cost is unknown.")
        cache, board = self.free
        told.append(f"free disk: {size(cache)} for the cache, {size(board)} for the board.")
        if self.bytes > min(self.free):
            told.append("that is not enough: free some, or point ZOO_CACHE or --output-dir at a larger disk.")
        return told


def cost(sweep: Sweep, parallel: int = 1) -> Cost:
    """What a sweep still takes, from what its board has measured."""
    found = Cells(sweep.board).all_ended()
    measured = Measured()
    for ended in found.values():
        measured.add(ended)
    to_do = [c for c in sweep.cells if c.id not in sweep.refused and not _done(found.get(c.id))]
    expected = [value for cell in to_do if (value := measured(cell)) is not None]
    return Cost(
        cells=len(sweep.cells),
        to_do=len(to_do),
        unknown=len(to_do) - len(expected),
        seconds=sum(seconds for seconds, _ in expected),
        bytes=sum(kept for _, kept in expected),
        free=(_free(store.cache_dir()), _free(sweep.board)),
        parallel=max(1, min(parallel, len(to_do))),
    )


def _free(folder: Path) -> int:
    deepest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(deepest).free


def _done(ended: Ended | None) -> bool:
    return ended is not None and ended.status == "done"


def hours(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> hours(59.4), hours(3600 * 1.5), hours(3600 * 30)
        ('59 s', '1 h 30 min', '30 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{minutes / 60:,.0f} h"


def size(count: float) -> str:
    """Bytes for people.

    Example:
        >>> size(1.5e6), size(2e12)
        ('1.5 MB', '2.0 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# ---- where it stands


@dataclass(frozen=True)
class Status:
    """Where a sweep stands.

    Attributes:
        running: Cells that somebody computes now, with what they are doing.
        failed: Cells with the reason.
        eta: Seconds until the end at the present number at a time, None where that cannot be foretold.
        spent: Seconds computed so far on this sweep's cells; ``gpu`` of them on GPUs, times their number.
    """

    counts: dict[State, int]
    running: list[tuple[Cell, Now | None]]
    failed: list[tuple[Cell, str]]
    eta: float | None
    spent: float
    gpu: float

    def as_json(self) -> dict[str, Any]:
        return {
            **{str(state): n for state, n in self.counts.items()},
            "eta_seconds": None if self.eta is None else round(self.eta, 1),
            "compute_hours": round(self.spent / 3600, 4),
            "gpu_hours": round(self.gpu / 3600, 4),
            "running_cells": [
                {**told(cell), **(now.model_dump(mode="json") if now else {})} for cell, now in self.running
            ],
            "failed_cells": [{**told(cell), "reason": reason} for cell, reason in self.failed],
        }


def told(cell: Cell) -> dict[str, Any]:
    """A cell in an event or a status."""
    return {"cell": cell.id, **{name: getattr(cell, name) for name in ("model", "dataset", "split", "seed")}}


class Watch:
    """Looks at the cells of a sweep again and again; what ended once is not read twice."""

    def __init__(self, sweep: Sweep, parallel: int | None = None) -> None:
        self.sweep, self.cells = sweep, Cells(sweep.board)
        self.by_id = {cell.id: cell for cell in sweep.cells}
        self.ended: dict[str, Ended] = {}
        self._measured, self._parallel = Measured(), parallel
        self._spent = self._gpu = 0.0

    def look(self) -> Status:
        """Where the sweep stands now."""
        names: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            names = {entry.name for entry in os.scandir(self.cells.folder)}
        for name in names:
            cell, dot, kind = name.partition(".")
            if kind == "json" and cell in self.by_id and cell not in self.ended:
                if (ended := self.cells.ended(cell)) is not None:
                    self._take(cell, ended)
        begun = [cell for cell in self.by_id if f"{cell}.now" in names and cell not in self.ended]
        held = [cell for cell in begun if self.cells.held(cell)]
        running = [(self.by_id[cell], self.cells.now(cell)) for cell in held]
        failed = [(self.by_id[cell], str(e.reason)) for cell, e in self.ended.items() if e.status == "failed"]
        done = len(self.ended) - len(failed)
        counts: dict[State, int] = {
            "queued": len(self.by_id) - len(self.ended) - len(running),
            "running": len(running),
            "done": done,
            "failed": len(failed),
        }
        spent = sum(sum(now.seconds.values()) for _, now in running if now)
        return Status(counts, running, failed, self._eta(running), self._spent + spent, self._gpu)

    def forget(self, cell: str) -> None:
        """Look at a cell again that is to be tried again."""
        self.ended.pop(cell, None)

    def _take(self, cell: str, ended: Ended) -> None:
        self.ended[cell] = ended
        self._measured.add(ended)
        seconds = sum(ended.seconds.values())
        self._spent, self._gpu = self._spent + seconds, self._gpu + seconds * ended.gpus

    def _eta(self, running: list[tuple[Cell, Now | None]]) -> float | None:
        left, n = 0.0, 0
        now = {cell.id: sum(doing.seconds.values()) if doing else 0.0 for cell, doing in running}
        for cell in self.sweep.cells:
            if cell.id in self.ended:
                continue
            if (expected := self._measured(cell)) is None:
                return None
            left, n = left + max(0.0, expected[0] - now.get(cell.id, 0.0)), n + 1
        return left / max(1, min(self._parallel or len(running), n))


# ---- running


@dataclass(frozen=True)
class Event:
    """Something happened to a cell, or (``look``) nothing but time passed."""

    kind: Literal["started", "done", "failed", "look"]
    status: Status
    cell: Cell | None = None
    ended: Ended | None = None


def run(sweep: Sweep, executor: Executor, *, parallel: int | None = None) -> Generator[Event]:
    """Do what is not done, and say what happens; ends when every cell is done or failed.

    Closing it (or Ctrl-C) ends what runs, saved.
    """
    cells, watch = Cells(sweep.board), Watch(sweep, parallel)
    sweep.save()
    watch.look()
    open_ = {cell.id: cell for cell in sweep.cells if not _done(watch.ended.get(cell.id))}
    for cell in open_.values():
        cells.forget_failure(cell.id)
        watch.forget(cell.id)
    for cell, reason in ((open_[name], reason) for name, reason in sweep.refused.items() if name in open_):
        cells.fail(cell, reason)
    executor.start([task_of(sweep, cell) for cell in open_.values() if cell.id not in sweep.refused])
    begun: set[str] = set()
    looked = float("-inf")
    try:
        while open_:
            jobs = executor.poll()
            over = [cell for name, cell in open_.items() if name in jobs and jobs[name].state == "ended"]
            if time.monotonic() - looked < (POLL_SECONDS if over else LOOK_SECONDS):
                time.sleep(POLL_SECONDS)
                continue
            watch.look()
            for cell in (cell for cell in over if cell.id not in watch.ended and not cells.held(cell.id)):
                if (why := jobs[cell.id].why) is not None:
                    line = last_words(cells.log(cell.id))
                    cells.fail(cell, f"{why}{f', and wrote last: {line}' if line else ', without a word'}")
                elif cells.ended(cell.id) is None:  # whoever else had it is gone
                    executor.start([task_of(sweep, cell)])
            status, looked = watch.look(), time.monotonic()
            for cell in (cell for cell, _ in status.running if cell.id not in begun):
                begun.add(cell.id)
                yield Event("started", status, cell)
            for name in [name for name in open_ if name in watch.ended]:
                yield Event(watch.ended[name].status, status, open_.pop(name), watch.ended[name])
            yield Event("look", status)
        _let_finish(executor)
    finally:
        executor.stop()


def _let_finish(executor: Executor) -> None:
    """Cells have ended before their processes have; a moment later those are gone by themselves."""
    since = time.monotonic()
    while time.monotonic() - since < LINGER_SECONDS:
        if all(job.state == "ended" for job in executor.poll().values()):
            return
        time.sleep(POLL_SECONDS / 4)


def executor_of(sweep: Sweep) -> Executor:
    """What runs a sweep, as it was asked for.

    Raises:
        UsageError: A number is less than 1, or the time is none.
        MissingError: SLURM is not here.
    """
    engine = sweep.engine
    command = torchrun(engine.gpus_per_task) if engine.gpus_per_task > 1 else PLAIN
    if engine.executor == "here":
        return Here(parallel_of(engine), command, gpus=engine.gpus_per_task)
    return Slurm(
        sweep.path.with_suffix(""),
        max_parallel=engine.max_parallel,
        command=command,
        gpus=engine.gpus_per_task,
        partition=engine.partition,
        minutes=_minutes(engine.time or "24:00:00"),
        memory=engine.memory,
    )


def _minutes(text: str) -> int:
    """``90`` or ``1:30:00`` in minutes."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() for part in parts) or not any(map(int, parts)):
        raise UsageError(f"--time must be minutes or H:MM:SS, not {text!r}.")
    if len(parts) == 1:
        return int(text)
    h, m, s = map(int, parts)
    return 60 * h + m + (s > 0)


def parallel_of(engine: Engine) -> int:
    """Cells at a time: as asked for; else all on SLURM, and here one for each GPU (or group of them), or one."""
    if engine.max_parallel is not None:
        return engine.max_parallel
    if engine.executor == "slurm":
        return ARRAY
    return max(1, len(visible_gpus()) // max(1, engine.gpus_per_task))


def task_of(sweep: Sweep, cell: Cell) -> Task:
    words = ("sweep", "cell", store.canonical_json(cell.model_dump(mode="json")), "--output-dir", str(sweep.board))
    return Task(cell.id, words, Cells(sweep.board).log(cell.id))

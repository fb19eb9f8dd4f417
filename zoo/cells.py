"""One cell of a sweep: a model, trained if need be and evaluated on one split with one seed.

What becomes of it stands in the folder where its record lands, ``<board>/sweep/cells/``: ``<id>.json`` says how it
ended, ``<id>.now`` what it is doing, and ``<id>.lock`` is held by whoever computes it. No clock of one machine is
compared with that of another: what matters is who holds the lock, and durations are measured by one process. No torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from zoo import __version__, registry, store
from zoo.crew import here
from zoo.errors import IntegrityError, ZooError

HEARTBEAT_SECONDS = 2.0
"""Between two writings of what a cell is doing."""
BUSY_SECONDS = 2.0
"""A cell that somebody else holds for longer is theirs."""
Phase = Literal["train", "evaluate"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(_Part):
    """How cells are trained and evaluated; what is left out is as ``zoo train`` and ``zoo eval`` do it."""

    train: bool = True
    """Train where no weights of this split and seed are here; else evaluate those that are."""
    overrides: dict[str, Any] = {}
    select: Literal["val", "last", "test"] = "val"
    limit: int | None = None
    replicates: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Cell(_Part):
    """What decides one cell, as plain data; equal cells have equal ids on every machine."""

    model: str
    dataset: str
    split: str
    seed: int
    options: Options = Options()
    revisions: dict[str, str]
    """Of the code, the model's card, and the data with its split."""

    @cached_property
    def id(self) -> str:
        return store.digest(self.model_dump(mode="json"))[:16]

    @cached_property
    def like(self) -> str:
        """The same for cells of the same model and options."""
        return store.digest([self.model, self.options.model_dump(mode="json")])[:16]

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return f"{self.model} {self.dataset} {self.split.partition('@')[0]} seed {self.seed}"


class Now(_Part):
    """What a cell is doing, as whoever computes it wrote last."""

    where: str
    """Host and process."""
    attempt: int
    what: str
    done: int
    total: int
    seconds: dict[Phase, float]
    """Spent so far, earlier attempts included."""
    here: float
    """Seconds of this attempt."""


class Ended(_Part):
    """How a cell ended."""

    cell: Cell
    status: Literal["done", "failed"]
    reason: str | None = None
    """Why it failed, in one sentence."""
    record: str | None = None
    """Its record, below ``records/``."""
    record_id: str | None = None
    attempts: int = 1
    seconds: dict[Phase, float] = {}
    """Computing time of all attempts."""
    trained: float | None = None
    """Seconds that its training took, whenever that was."""
    bytes: int | None = None
    """Kept on disk by the last attempt."""
    device: str | None = None
    hardware: str | None = None
    gpus: int = 0
    where: str = ""


def revisions(model: str, dataset: str, split: str | None) -> tuple[str, dict[str, str]]:
    """The full name of a split, and what decides a cell besides its names.

    Raises:
        MissingError: The dataset is not on this machine.
        UsageError: The dataset has no such split.
    """
    from zoo.datasets import base as data_room
    from zoo.plan import data_identity

    data = data_room.load(dataset)
    chosen = data.split(split)
    card = registry.models.get(model).model_dump(mode="json")
    return chosen.id, {
        "zoo": __version__,
        "model": store.digest(card)[:16],
        "data": store.digest(data_identity(data, chosen))[:16],
    }


class Cells:
    """The cells of one board folder."""

    def __init__(self, board: Path) -> None:
        self.board = board
        self.folder = board / "sweep" / "cells"

    def ended(self, cell: str) -> Ended | None:
        """How the cell with this id ended; None if it did not, or if the file that says so is damaged."""
        with contextlib.suppress(OSError, ValidationError):
            return Ended.model_validate_json((self.folder / f"{cell}.json").read_bytes())
        return None

    def all_ended(self) -> dict[str, Ended]:
        """Of every cell of this board, by id."""
        if not self.folder.is_dir():
            return {}
        names = [entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".json")]
        found = ((name.removesuffix(".json"), self.ended(name.removesuffix(".json"))) for name in names)
        return {cell: ended for cell, ended in found if ended is not None}

    def now(self, cell: str) -> Now | None:
        with contextlib.suppress(OSError, ValidationError):
            return Now.model_validate_json((self.folder / f"{cell}.now").read_bytes())
        return None

    def begun(self) -> set[str]:
        """Cells that somebody began and has not ended."""
        if not self.folder.is_dir():
            return set()
        return {entry.name.removesuffix(".now") for entry in os.scandir(self.folder) if entry.name.endswith(".now")}

    def held(self, cell: str) -> bool:
        """Whether somebody is computing it at this moment."""
        with store.claim(self.folder / cell) as free:
            return not free

    def log(self, cell: str) -> Path:
        return self.board / "sweep" / "logs" / f"{cell}.log"

    def forget_failure(self, cell: str) -> None:
        """Let a failed cell be tried again; what it has cost so far stays known."""
        path = self.folder / f"{cell}.json"
        if not path.exists() or ((ended := self.ended(cell)) is not None and ended.status == "done"):
            return
        if ended is not None:
            now = Now(
                where=ended.where,
                attempt=ended.attempts,
                what="failed",
                done=0,
                total=1,
                seconds=ended.seconds,
                here=0.0,
            )
            store.write_bytes(self.folder / f"{cell}.now", json.dumps(now.model_dump(mode="json")).encode())
        path.unlink()

    def fail(self, cell: Cell, reason: str) -> Ended | None:
        """Say that a cell ended without a word of its own; None if somebody has taken it up since."""
        with store.claim(self.folder / cell.id) as free:
            if not free:
                return None
            if (ended := self.ended(cell.id)) is None:
                now = self.now(cell.id)
                ended = Ended(cell=cell, status="failed", reason=reason)
                if now is not None:
                    update = {"attempts": now.attempt, "seconds": now.seconds, "where": now.where}
                    ended = ended.model_copy(update=update)
                self._end(ended)
        return ended

    def run(self, cell: Cell) -> Ended | None:
        """Train and evaluate a cell, continuing what an earlier attempt left; None if somebody else is at it.

        A cell that was done before is not touched. Whatever goes wrong becomes the reason of its failure; an
        interruption leaves it to the next attempt. Of several processes that do it together, the first keeps the books.
        """
        if not here().first:
            from zoo.stages import ShardsMissingError

            with contextlib.suppress(ShardsMissingError):  # its part is done
                self._compute(cell, _Clock(None, None))
            return None
        with store.claim(self.folder / cell.id, wait_seconds=BUSY_SECONDS) as free:
            if not free:
                return None
            if (ended := self.ended(cell.id)) is not None and ended.status == "done":
                return ended
            clock = _Clock(self.folder / f"{cell.id}.now", self.now(cell.id))
            try:
                ended = self._compute(cell, clock)
            except Exception as error:  # a stranger's model may fail in any way, and others must go on
                ended = clock.ended(cell, status="failed", reason=_reason(error))
            self._end(ended)
        return ended

    def _compute(self, cell: Cell, clock: _Clock) -> Ended:
        from zoo import weights
        from zoo.runner import evaluate, train

        options = cell.options
        split, found = revisions(cell.model, cell.dataset, cell.split)
        if differ := [name for name in cell.revisions if cell.revisions[name] != found[name]]:
            raise IntegrityError(
                f"the {' and '.join(differ)} of this cell must be what it was planned with, but this machine has "
                "another; bring both to the same state and start the sweep again."
            )
        folder = None
        if options.train:
            clock.phase = "train"
            folder = train(
                cell.model,
                cell.dataset,
                split=split,
                seed=cell.seed,
                select=options.select,
                overrides=options.overrides or None,
                device=options.device,
                progress=clock,
            )
        clock.phase = "evaluate"
        record = evaluate(
            cell.model,
            cell.dataset,
            split=split,
            seed=cell.seed,
            weights=folder,
            limit=options.limit,
            replicates=options.replicates,
            device=options.device,
            output_dir=self.board,
            progress=clock,
        )
        clock.beat(force=True)
        recipes = weights.read_info(folder).receipt["recipes"].values() if folder else ()
        return clock.ended(
            cell,
            status="done",
            record=record.name,
            record_id=record.id,
            trained=sum(recipe["seconds"] for recipe in recipes) if folder else None,
            bytes=sum(store.kept.values()),
            device=record.provenance.device,
            hardware=record.provenance.hardware,
            gpus=here().size if record.provenance.device == "cuda" else 0,
        )

    def _end(self, ended: Ended) -> None:
        store.write_bytes(self.folder / f"{ended.cell.id}.json", store.json_bytes(ended.model_dump(mode="json")))
        (self.folder / f"{ended.cell.id}.now").unlink(missing_ok=True)


class _Clock:
    """Progress of a cell, written down now and then; called as ``progress`` everywhere is."""

    def __init__(self, path: Path | None, before: Now | None) -> None:
        self._path, self._before = path, before
        self._attempt = before.attempt + 1 if before else 1
        self._started, self._written = time.monotonic(), float("-inf")
        self._spent: dict[Phase, float] = {}
        self._shown = (0, 1, "starting")
        self._phase: Phase = "train"
        self._since = self._started
        self.beat(force=True)

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, name: Phase) -> None:
        self._spent[self._phase] = self._spent.get(self._phase, 0.0) + time.monotonic() - self._since
        self._phase, self._since = name, time.monotonic()

    @property
    def seconds(self) -> dict[Phase, float]:
        """Of this attempt and those before it, by phase."""
        before: dict[Phase, float] = self._before.seconds if self._before else {}
        mine = {**self._spent, self._phase: self._spent.get(self._phase, 0.0) + time.monotonic() - self._since}
        phases = {*before, *mine}
        return {phase: round(before.get(phase, 0.0) + mine.get(phase, 0.0), 3) for phase in sorted(phases)}

    def __call__(self, done: int, total: int, what: str) -> None:
        self._shown = (done, total, what)
        self.beat()

    def beat(self, *, force: bool = False) -> None:
        """Write down what is being done; a full disk is left to those who have something to lose."""
        moment = time.monotonic()
        if self._path is not None and (force or moment - self._written >= HEARTBEAT_SECONDS):
            self._written = moment
            done, total, what = self._shown
            now = Now(
                where=_where(),
                attempt=self._attempt,
                what=what,
                done=done,
                total=total,
                seconds=self.seconds,
                here=round(moment - self._started, 3),
            )
            with contextlib.suppress(OSError, ZooError):
                store.write_bytes(self._path, json.dumps(now.model_dump(mode="json")).encode())

    def ended(self, cell: Cell, **facts: Any) -> Ended:
        return Ended(cell=cell, attempts=self._attempt, seconds=self.seconds, where=_where(), **facts)


def _where() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _reason(error: Exception) -> str:
    """Why a cell failed, in one sentence: the zoo's own errors are one, others get their type."""
    told = " ".join(str(error).split())
    if isinstance(error, ZooError):
        return told
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk; free some or point ZOO_CACHE at a larger one, then try it again"
    if isinstance(error, OSError):
        return f"the system answered: {told or type(error).__name__}"
    return f"{type(error).__name__}: {told}" if told else type(error).__name__

"""Where commands of the zoo run: here, under torchrun, on SLURM.

The only file that knows an engine. An executor is given commands and says what becomes of their processes; what they
computed is on disk, so running a command again continues it, whatever its process died of.
"""

from __future__ import annotations

import abc
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from zoo.errors import UsageError

PLAIN = (sys.executable, "-m", "zoo")
"""What stands before the words of a command that one process runs."""
STOP_SECONDS = 60.0
"""For a process that was told to end: it saves first."""
TAIL_BYTES = 4096
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Somebody's kill, Ctrl-C, and what submitit takes for preemption and the end of the time."""


@dataclass(frozen=True)
class Task:
    """One command of the zoo.

    Attributes:
        name: Unique among the tasks of an executor.
        words: What stands after ``zoo`` on the command line.
        log: Where its output is appended; None leaves it on this terminal.
    """

    name: str
    words: tuple[str, ...]
    log: Path | None = None


@dataclass(frozen=True)
class Job:
    """What an executor knows of a task.

    Attributes:
        why: Of one that ended: None if its process ended well, else a sentence without a full stop.
        where: Which process or job of the engine it is.
    """

    state: Literal["queued", "running", "ended"]
    why: str | None = None
    where: str = ""


class Executor(abc.ABC):
    """Runs tasks in processes of their own, a few at a time."""

    @abc.abstractmethod
    def start(self, tasks: Sequence[Task]) -> None:
        """Queue tasks, in this order."""

    @abc.abstractmethod
    def poll(self) -> dict[str, Job]:
        """Every task started so far, by name. Called often; it starts what has room now."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End what runs, letting it save, and forget what is queued."""


def torchrun(gpus: int) -> tuple[str, ...]:
    """What stands before the words of a command that a group of processes on this machine runs, one per GPU."""
    if gpus < 1:
        raise UsageError(f"--gpus must be at least 1, not {gpus}.")
    group = ("--standalone", f"--nproc-per-node={gpus}")
    return (sys.executable, "-m", "torch.distributed.run", *group, "-m", "zoo")


class Here(Executor):
    """Processes of this machine.

    Args:
        max_parallel: Tasks at a time; cores, and GPUs where there are, are shared out between them.
        command: What stands before the words of every task: ``PLAIN`` or ``torchrun(n)``.
        gpus: GPUs of one task.
    """

    def __init__(self, max_parallel: int = 1, command: tuple[str, ...] = PLAIN, gpus: int = 1) -> None:
        if max_parallel < 1:
            raise UsageError(f"--max-parallel must be at least 1, not {max_parallel}.")
        self._command, self._gpus = command, gpus
        self._queue: list[Task] = []
        self._running: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
        self._ended: dict[str, Job] = {}
        self._slots = list(range(max_parallel))
        self._threads = max(1, (os.cpu_count() or 1) // max_parallel)

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._ended.pop(task.name, None)
            self._queue.append(task)

    def poll(self) -> dict[str, Job]:
        for name, (slot, process) in list(self._running.items()):
            if (code := process.poll()) is not None:
                del self._running[name]
                self._slots.append(slot)
                self._ended[name] = Job("ended", died(code), f"process {process.pid}")
        while self._queue and self._slots:
            task, slot = self._queue.pop(0), self._slots.pop(0)
            self._running[task.name] = slot, self._spawn(task, slot)
        queued = {task.name: Job("queued") for task in self._queue}
        running = {name: Job("running", where=f"process {run.pid}") for name, (_, run) in self._running.items()}
        return {**self._ended, **queued, **running}

    def stop(self) -> None:
        self._queue.clear()
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.poll()

    def _spawn(self, task: Task, slot: int) -> subprocess.Popen[bytes]:
        """Start a task apart from this terminal's signals: ``stop`` tells it once when to end."""
        environment = {"OMP_NUM_THREADS": str(self._threads), **os.environ}
        if gpus := visible_gpus():
            mine = [gpus[(slot * self._gpus + k) % len(gpus)] for k in range(min(self._gpus, len(gpus)))]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        words = [*self._command, *task.words]
        if task.log is None:
            return subprocess.Popen(words, env=environment, start_new_session=True)  # noqa: S603
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - the zoo's own command
                words, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def visible_gpus() -> list[str]:
    """GPUs of this machine that may be used, asked without torch."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name for name in told.split(",") if name.strip()]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def died(code: int) -> str | None:
    """What a process died of, as a sentence without a full stop; None if it ended well."""
    if code == 0:
        return None
    if code > 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else str(-code)
    hint = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"


def end_when_told() -> None:
    """Take every signal by which a process is told to end for Ctrl-C, so that it saves; a second one is ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for told in ENDING:
            signal.signal(told, signal.SIG_IGN)
        raise KeyboardInterrupt

    for told in ENDING:
        signal.signal(told, interrupt)


def last_words(log: Path) -> str:
    """The last line that a process wrote, for a sentence about its end; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

"""Where commands of the zoo run: here, under torchrun, on SLURM.

The only file that knows an engine. An executor is given commands and says what becomes of their processes; what they
computed is on disk, so running a command again continues it, whatever its process died of.
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from uuid import uuid4

from zoo.errors import MissingError, UsageError, ZooError
from zoo.store import read_json, write_json

PLAIN = (sys.executable, "-m", "zoo")
"""What stands before the words of a command that one process runs."""
STOP_SECONDS = 60.0
"""For a process that was told to end: it saves first."""
TAIL_BYTES = 4096
RESTARTS = 3
"""Of a group in which a process died; what it computed is on disk."""
ARRAY = 1000
"""Jobs of one array: SLURM's default limit is one more."""
SLURM_SECONDS = 3.0
"""Between two questions to SLURM."""
GONE_SECONDS = 6.0
"""After a job has left the queue: what it wrote last may take so long to be seen on another node."""
SAVING_SECONDS = 90
"""Before the end of its time, a job is told to save."""
TOLD_SECONDS = 10.0
TIMES = 1000
"""That a job whose time ended is queued again."""
INTERRUPTED = 130
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
SLURM_SAYS = {
    "OUT_OF_MEMORY": "it needed more memory than it was given, and SLURM killed it",
    "TIMEOUT": "its time ran out",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "it was cancelled",
    "PREEMPTED": "it was preempted and not queued again",
    "FAILED": "its process failed without a word",
    "COMPLETED": "it ended without a result",
}
DEAF = """sh -c 'trap "" USR2; exec "$0" "$@"' """
"""Before a command of submitit: a signal that comes before it listens must not end it."""
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
        """Let go. What lives no longer than this process ends, saved; jobs of a cluster stay."""


def torchrun(gpus: int) -> tuple[str, ...]:
    """What stands before the words of a command that a group of processes on this machine runs, one per GPU."""
    return (sys.executable, "-m", "torch.distributed.run", *group_of(gpus, "1"), "-m", "zoo")


def group_of(gpus: int, nodes: str) -> list[str]:
    """Options of torchrun for ``gpus`` processes on each of ``nodes`` machines, 2 or 1:4 for instance.

    Raises:
        UsageError: The numbers are none, or nobody said where several machines are to meet.
    """
    if gpus < 1:
        raise UsageError(f"--gpus must be at least 1, not {gpus}.")
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", nodes):
        raise UsageError(f"--nodes must be a number such as 2, or the least and the most such as 1:4, not {nodes!r}.")
    group = [f"--nproc-per-node={gpus}"]
    if nodes == "1":
        return ["--standalone", *group]
    if "PET_RDZV_ENDPOINT" not in os.environ:
        raise UsageError(
            f"--nodes {nodes} needs PET_RDZV_ENDPOINT=HOST:PORT in the environment, the same on every machine: the "
            "address of one of them."
        )
    return [f"--nnodes={nodes}", "--rdzv-backend=c10d", *group]


def together(words: Sequence[str], gpus: int, nodes: str = "1") -> int:
    """Run a command of the zoo in a group of processes, started again if one dies; the exit code of the first failure.

    Other machines run the same command. What torchrun reads from its own variables (``PET_…``) holds, too.

    Raises:
        UsageError: The group is not possible.
        ZooError: The machine where they meet does not answer, or they do not all come.
        KeyboardInterrupt: This process was told to end; the others are told, too.
    """
    group = group_of(gpus, nodes)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost connection is told with fifty lines of C++
    # else a group that starts again finds the dead one's addresses: https://github.com/pytorch/pytorch/issues/135712
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    import logging

    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousTimeoutError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a sentence of the zoo's says more
    options = parse_args([*group, f"--max-restarts={RESTARTS}", *PLAIN[1:], *words])  # type: ignore[no-untyped-call]
    if options.standalone:
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", str(uuid4())
    config, command, given = config_from_args(options)
    try:
        elastic_launch(config=config, entrypoint=command)(*given)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if why := died(code) if code < 0 else None:
            sys.stderr.write(f"error: of a process of the group: {why}; run the same command again to go on.\n")
        return code if code > 0 else 1
    except SignalException as error:
        raise KeyboardInterrupt from error
    except (RendezvousError, DistError) as error:
        why = "not all of them came in time" if isinstance(error, RendezvousTimeoutError) else "nobody answers there"
        raise ZooError(
            f"the machines of a group must meet at {config.rdzv_endpoint}, but {why}; what is finished is kept. Run "
            "the same command again on all machines, with PET_RDZV_ENDPOINT at one that is up, or without --executor "
            "on one."
        ) from error
    return 0


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


class Slurm(Executor):
    """Jobs of a SLURM cluster, as arrays, sent by submitit; this process only looks after them.

    A job that is preempted, or whose time ends, saves, is queued again and goes on. One that leaves the queue without a
    word has ended, with the reason that SLURM still knows: many clusters have no ``sacct``, so ``squeue`` is asked.

    Args:
        folder: On the file system that all nodes share: scripts, logs of submitit, and which task is which job, so
            that a second call waits for what the first one sent.
        max_parallel: Tasks at a time; all that the cluster has room for if omitted.
        gpus: Of one task; 0 asks for none.
        time: Limit of one job in minutes.
        memory: Of one job, such as ``16G``.

    Raises:
        MissingError: There is no ``sbatch`` here, or no submitit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_parallel: int | None = None,
        command: tuple[str, ...] = PLAIN,
        gpus: int = 1,
        partition: str | None = None,
        minutes: int = 24 * 60,
        memory: str | None = None,
    ) -> None:
        if shutil.which("sbatch") is None or importlib.util.find_spec("submitit") is None:
            lacks = "submitit" if shutil.which("sbatch") else "sbatch, which is on a cluster's login nodes"
            raise MissingError(
                f"--executor slurm needs {lacks}, but it is not here.\n"
                "to install submitit, run: pip install 'eeg-image-zoo[slurm]'; without SLURM: --executor here"
            )
        self._folder, self._command = folder, command
        self._parameters: dict[str, Any] = {
            "job_name": f"zoo-{folder.name}",
            "time": minutes,
            "array_parallelism": max_parallel or ARRAY,
            "signal_delay_s": SAVING_SECONDS,
            "additional_parameters": {"requeue": True},
            **({"partition": partition} if partition else {}),
            **({"mem": memory} if memory else {}),
            **({"gpus_per_node": gpus} if gpus else {}),
        }
        self._tasks: dict[str, Task] = {}
        self._jobs: dict[str, str] = read_json(self._list) if self._list.exists() else {}
        self._gone: dict[str, float] = {}
        self._queue: dict[str, str] | None = None
        self._asked = float("-inf")

    @property
    def _list(self) -> Path:
        return self._folder / "jobs.json"

    def start(self, tasks: Sequence[Task]) -> None:
        """Send what is not in SLURM's queue already, at most a thousand jobs an array, arrays one after the other."""
        self._tasks |= {task.name: task for task in tasks}
        self._ask(fresh=True)
        if self._queue is None:
            raise ZooError(
                "squeue must say which jobs are in the queue before any is sent, but it does not answer; try the same "
                "command again later."
            )
        new = [task for task in tasks if self._jobs.get(task.name) not in self._queue]
        before = None
        for first in range(0, len(new), ARRAY):
            part = new[first : first + ARRAY]
            ids = self._send(part, after=before)
            before = ids[-1].partition("_")[0]
            self._jobs |= {task.name: job for task, job in zip(part, ids, strict=True)}
            write_json(self._list, self._jobs)
        for task in new:
            self._gone.pop(task.name, None)
        self._asked = float("-inf")

    def poll(self) -> dict[str, Job]:
        self._ask()
        return {name: self._job(name) for name in self._tasks}

    def stop(self) -> None:
        """Jobs stay where they are: ``scancel`` ends them, the same command waits for them again."""

    def _job(self, name: str) -> Job:
        job = self._jobs[name]
        where = f"SLURM job {job}"
        if self._queue is None:
            return Job("queued", where=where)
        if (state := self._queue.get(job)) is not None:
            self._gone.pop(name, None)
            return Job("queued" if state in WAITING else "running", where=where)
        since = self._gone.setdefault(name, time.monotonic())
        if time.monotonic() - since < GONE_SECONDS:
            return Job("running", where=where)
        return Job("ended", self._why(name, job), where)

    def _why(self, name: str, job: str) -> str | None:
        """Why a job that has left the queue ended: as it said itself, else as SLURM remembers."""
        with contextlib.suppress(OSError, ValueError):
            said: str | None = read_json(self._end(name))["why"]
            return said
        log = self._folder / "submitit" / f"{job}_0_log.err"
        told = re.findall(r"slurmstepd\S*: error: (.+)", log.read_text("utf-8", "replace") if log.exists() else "")
        memory = [line for line in told if re.search("memory|oom", line, re.IGNORECASE)]
        state = "OUT_OF_MEMORY" if memory else _state(job)
        if state is None:
            return f"SLURM job {job} left the queue without a result, and SLURM does not remember why"
        return (
            f"{SLURM_SAYS.get(state, f'SLURM says {state}')} ({'; '.join((f'job {job}', *(memory[:1] or told[-1:])))})"
        )

    def _ask(self, *, fresh: bool = False) -> None:
        """Read SLURM's queue, now and then; while it does not answer, what it said last counts."""
        if fresh or time.monotonic() - self._asked >= SLURM_SECONDS:
            self._asked = time.monotonic()
            answer = _output(("squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format=%i|%T"))
            if answer is not None:
                rows = (line.partition("|") for line in answer.splitlines())
                self._queue = {job.strip(): state.strip() for job, _, state in rows}

    def _end(self, name: str) -> Path:
        return self._folder / f"{name}.end"

    def _send(self, tasks: Sequence[Task], *, after: str | None) -> list[str]:
        import submitit

        python = DEAF + shlex.quote(sys.executable)
        executor = submitit.SlurmExecutor(self._folder / "submitit", max_num_timeout=TIMES, python=python)
        chained = {"dependency": f"afterany:{after}"} if after else {}
        executor.update_parameters(**self._parameters, **chained)
        try:
            with executor.batch():
                sent = [executor.submit(_Sent(self._command, task, self._end(task.name))) for task in tasks]
            return [job.job_id for job in sent]
        except submitit.core.utils.FailedJobError as error:
            told = " ".join(str(error).split())
            raise UsageError(f"SLURM did not take the jobs: {told}; check --partition, --time and --memory.") from error


class _Sent:
    """What submitit runs in a job: the task in a process of its own, so that whatever kills it can be told."""

    def __init__(self, command: tuple[str, ...], task: Task, end: Path) -> None:
        self.command, self.task, self.end = command, task, end
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        self.end.unlink(missing_ok=True)
        environment = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1"), **os.environ}
        log = self.task.log or Path(os.devnull)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            words = [*self.command, *self.task.words]
            self.process = process = subprocess.Popen(words, env=environment, stdout=out, stderr=out)  # noqa: S603
        code = process.wait()
        if code in (INTERRUPTED, -signal.SIGUSR2):
            time.sleep(TOLD_SECONDS)  # whoever told it to end tells this process too, and then it is queued again
        write_json(self.end, {"why": died(code)})

    def checkpoint(self) -> Any:
        """Called by submitit when the job is preempted or its time ends; what it returns is queued again."""
        import submitit

        for told in ENDING:
            signal.signal(told, signal.SIG_IGN)  # once is enough
        if self.process is not None:  # else it is only being started, and ends with the job
            self.process.terminate()
            with contextlib.suppress(ChildProcessError):  # __call__ holds the lock of Popen.wait
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(_Sent(self.command, self.task, self.end))


def _state(job: str) -> str | None:
    """What SLURM remembers of a job that has left the queue: minutes by itself, longer with accounting."""
    for words in (
        ("scontrol", "show", "job", "--oneliner", job),
        ("sacct", "--noheader", "--parsable2", "--allocations", "--format=State", "--jobs", job),
    ):
        if found := re.search(r"^(?:.*JobState=)?([A-Z_]+)", _output(words) or ""):
            return found[1]
    return None


def _output(words: Sequence[str]) -> str | None:
    """What a command prints, None if it fails or is not here."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


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

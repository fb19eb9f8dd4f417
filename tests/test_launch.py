"""Executors: processes here, torchrun's words, and what is asked of SLURM (a real one: test_slurm.py)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo import launch
from zoo.errors import MissingError, UsageError, ZooError
from zoo.launch import Executor, Here, Job, Slurm, Task, died, last_words, torchrun, visible_gpus

SAYS = (sys.executable, "-S", "-c")
"""A command whose words are a program."""


def finish(executor: Executor) -> dict[str, Job]:
    while {job.state for job in executor.poll().values()} != {"ended"}:
        time.sleep(0.01)
    return executor.poll()


def test_processes_run_a_few_at_a_time_and_their_ends_are_told(tmp_path: Path) -> None:
    here = Here(2, SAYS)
    programs = {
        "well": "print('fine')",
        "badly": "import sys; sys.exit(3)",
        "killed": "import os; os.kill(os.getpid(), 9)",
        "last": "import os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('CUDA_VISIBLE_DEVICES'))",
    }
    here.start([Task(name, (program,), tmp_path / "logs" / name) for name, program in programs.items()])
    first = here.poll()
    assert [first[name].state for name in programs] == ["running", "running", "queued", "queued"]
    jobs = finish(here)
    assert {name: job.why for name, job in jobs.items()} == {
        "well": None,
        "badly": "its process ended with exit code 3",
        "killed": "its process was killed by SIGKILL, as the system does when memory runs out",
        "last": None,
    }
    assert last_words(tmp_path / "logs" / "well") == "fine"
    assert last_words(tmp_path / "logs" / "badly") == last_words(tmp_path / "nowhere") == ""


def test_gpus_and_cores_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert visible_gpus() == ["4", "5", "6"]
    here = Here(3, SAYS)
    program = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"
    here.start([Task(str(k), (program,), tmp_path / str(k)) for k in range(3)])
    finish(here)
    assert [last_words(tmp_path / str(k)) for k in range(3)] == ["4 2", "5 2", "6 2"]


def test_what_is_told_to_end_saves_first_and_is_not_told_twice(tmp_path: Path) -> None:
    root = Path(launch.__file__).parents[1]
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import os, time, signal\n"
        "from zoo.launch import end_when_told\n"
        "end_when_told()\n"
        "try:\n"
        "    sys.stdout.write('ready\\n'); sys.stdout.flush(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    os.kill(os.getpid(), signal.SIGUSR2); os.kill(os.getpid(), signal.SIGTERM)\n"
        "    sys.stdout.write('saved\\n')\n"
    )
    here = Here(1, (sys.executable, "-c"))
    here.start([Task("one", (program,), tmp_path / "log"), Task("two", (program,), tmp_path / "other")])
    while here.poll() and last_words(tmp_path / "log") != "ready":
        time.sleep(0.01)
    here.stop()
    assert last_words(tmp_path / "log") == "saved"
    assert {name: job.why for name, job in here.poll().items()} == {"one": None}


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^--max-parallel must be at least 1, not 0\.$"):
        Here(0)
    with pytest.raises(UsageError, match=r"^--gpus must be at least 1, not 0\.$"):
        torchrun(0)
    assert torchrun(4)[1:] == ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "-m", "zoo")


@pytest.mark.parametrize(
    ("code", "told"),
    [(0, None), (1, "its process ended with exit code 1"), (-signal.SIGSEGV, "its process was killed by SIGSEGV")],
)
def test_what_a_process_died_of_is_said(code: int, told: str | None) -> None:
    assert died(code) == told


# ---- SLURM, as its programs answer


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put shell scripts in the place of SLURM's programs."""
    folder.mkdir(exist_ok=True)
    for name, script in {"srun": "exit 0", "sacct": "exit 1", **scripts}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(launch, "SLURM_SECONDS", 0.0)
    monkeypatch.setattr(launch, "GONE_SECONDS", 0.0)


def test_jobs_that_leave_the_queue_without_a_word_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, sent = tmp_path / "queue", tmp_path / "sent"
    programs(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f"cat $1 >> {sent}; echo Submitted batch job 7",
        squeue=f"cat {queue}",
        scontrol="case $5$4 in *7_0) echo JobId=8 JobState=TIMEOUT Reason=x;; *) exit 1;; esac",
    )
    queue.write_text("")
    tasks = [Task(name, ("sweep", "cell", name), tmp_path / f"{name}.log") for name in "abc"]
    slurm = Slurm(tmp_path / "jobs", max_parallel=2, gpus=3, partition="short", minutes=90, memory="4G")
    slurm.start(tasks)
    script = sent.read_text()
    for wanted in (
        *("array=0-2%2", "partition=short", "time=90", "mem=4G", "gpus-per-node=3", "job-name=zoo-jobs"),
        *("requeue", "signal=USR2@90"),
    ):
        assert re.search(rf"^#SBATCH --{wanted}$", script, re.MULTILINE), wanted
    queue.write_text("7_0|RUNNING\n7_1|PENDING\n7_2|COMPLETING\n")
    assert {name: job.state for name, job in slurm.poll().items()} == {"a": "running", "b": "queued", "c": "running"}
    programs(tmp_path / "bin", monkeypatch, squeue="echo cannot contact the controller >&2; exit 1")
    assert {name: job.state for name, job in slurm.poll().items()} == {"a": "running", "b": "queued", "c": "running"}
    again = Slurm(tmp_path / "jobs")
    with pytest.raises(ZooError, match=r"^squeue must say which jobs are in the queue before any is sent, but it does"):
        again.start(tasks)
    programs(tmp_path / "bin", monkeypatch, squeue=f"cat {queue}")
    again.start(tasks)
    assert sent.read_text() == script, "what is in the queue is not sent again"
    queue.write_text("7_1|PENDING\n")
    assert {name: (job.state, job.why, job.where) for name, job in again.poll().items()} == {
        "a": ("ended", "its time ran out (job 7_0)", "SLURM job 7_0"),
        "b": ("queued", None, "SLURM job 7_1"),
        "c": (
            "ended",
            "SLURM job 7_2 left the queue without a result, and SLURM does not remember why",
            "SLURM job 7_2",
        ),
    }


def test_many_jobs_are_arrays_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = tmp_path / "sent"
    programs(
        tmp_path / "bin",
        monkeypatch,
        sbatch=f"grep -E -e '--(array|dependency)=' $1 >> {sent}; echo Submitted batch job $(wc -l < {sent})",
        squeue="true",
    )
    monkeypatch.setattr(launch, "ARRAY", 2)
    Slurm(tmp_path / "jobs", gpus=0).start([Task(str(k), ()) for k in range(5)])
    assert sent.read_text().splitlines() == [
        "#SBATCH --array=0-1%2",
        "#SBATCH --array=0-1%2",
        "#SBATCH --dependency=afterany:1",
        "#SBATCH --dependency=afterany:3",  # the last one alone is no array
    ]


def test_without_slurm_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError) as caught:
        Slurm(tmp_path)
    assert str(caught.value) == (
        "--executor slurm needs sbatch, which is on a cluster's login nodes, but it is not here.\n"
        "to install submitit, run: pip install 'eeg-image-zoo[slurm]'; without SLURM: --executor here"
    )


def test_a_job_that_is_preempted_lets_its_process_save(tmp_path: Path) -> None:
    """As submitit does it: a signal interrupts the job, which asks what to queue again."""
    program = (
        "import time, sys\n"
        "try:\n"
        "    sys.stdout.write('ready\\n'); sys.stdout.flush(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.2); sys.stdout.write('saved\\n'); sys.exit(130)\n"
    )
    root = str(Path(launch.__file__).parents[1])
    program = (
        f"import sys; sys.path.insert(0, {root!r})\nfrom zoo.launch import end_when_told\nend_when_told()\n{program}"
    )
    task = Task("one", (program,), tmp_path / "log")
    job = (
        f"import sys, signal; sys.path.insert(0, {root!r})\n"
        "from pathlib import Path\n"
        "from zoo.launch import Task, _Sent\n"
        f"sent = _Sent((sys.executable, '-c'), Task('one', ({program!r},), Path({str(task.log)!r})), "
        f"Path({str(tmp_path / 'end')!r}))\n"
        "def preempted(*_):\n"
        "    again = sent.checkpoint()\n"
        "    sys.exit(again.function.task == sent.task)\n"
        "signal.signal(signal.SIGUSR2, preempted)\n"
        "sent()\n"
    )
    running = subprocess.Popen([sys.executable, "-c", job])
    while last_words(tmp_path / "log") != "ready":
        time.sleep(0.01)
    running.send_signal(signal.SIGUSR2)
    assert running.wait(30) == 1
    assert last_words(tmp_path / "log") == "saved"
    assert not (tmp_path / "end").exists(), "it has not ended: it will be queued again"

"""Sweeps on a real SLURM of this machine, brought up by scripts/slurm_up.sh: every cell ends, and truly."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cell_worker import CHUNK, ROWS
from tests.test_sweep import WORKER, a_sweep, computed, reasons, template, values  # noqa: F401 - a fixture
from zoo.cells import Cells
from zoo.errors import UsageError
from zoo.launch import Slurm
from zoo.sweep import Sweep, run, task_of

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        os.getuid() != 0 or not all(shutil.which(program) for program in PROGRAMS),
        reason=f"needs root and {', '.join(PROGRAMS)} (apt-get install slurm-wlm munge)",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SLURM with two cores, alone on this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([ROOT / "scripts" / "slurm_up.sh", folder, "2"], check=True, stdout=subprocess.DEVNULL)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run([ROOT / "scripts" / "slurm_up.sh", "--stop", folder], check=True)
    os.environ.pop("SLURM_CONF")
    if before is not None:
        os.environ["SLURM_CONF"] = before


def cluster(sweep: Sweep, **options: object) -> Slurm:
    settings = {"max_parallel": 2, "gpus": 0, "minutes": 10, "memory": "500M", **options}
    return Slurm(sweep.path.with_suffix(""), command=WORKER, **settings)  # type: ignore[arg-type]


def test_killed_preempted_over_memory_and_slurmd_restarted_every_cell_ends_truly(
    slurm: Path, tmp_path: Path, cache: Path
) -> None:
    sweep = a_sweep(tmp_path, 12, s1="die", s2="sleep 1.5", s3="hoard 900", s4="sleep 2.5")
    executor = cluster(sweep)
    first = {job: sweep.cells[seed].seed for seed, job in enumerate(jobs_of(sweep, executor))}
    assert len(first) == 12
    preempted, restarted, most = None, False, 0
    for event in run(sweep, executor):
        doing = {cell.seed: now.done for cell, now in event.status.running if now is not None}
        most = max(most, event.status.counts["running"])
        if preempted is None and doing.get(2, 0) >= 2 * CHUNK:
            job = next(job for job, seed in first.items() if seed == 2)
            # not for longer: it would send the signal again, even to the process that has just been started anew
            preempted = subprocess.Popen(["timeout", "3", "scancel", "--signal=USR2", job])
        if not restarted and doing.get(4, 0) >= 2 * CHUNK:
            restart(slurm)
            restarted = True
    assert preempted is not None
    preempted.wait()
    assert restarted
    assert most == 2
    assert {seed: reason for seed, reason in reasons(sweep).items() if reason} == {
        1: "its process was killed by SIGKILL, as the system does when memory runs out, without a word",
        3: reasons(sweep)[3],
    }
    assert re.fullmatch(
        r"it needed more memory than it was given, and SLURM killed it \(job \d+_3; StepId=\d+\.0 exceeded memory "
        r"limit \(\d+ > 524288000\), being killed\), without a word",
        str(reasons(sweep)[3]),
    )
    again = Cells(tmp_path).ended(sweep.cells[2].id)
    assert again is not None
    assert again.attempts >= 2  # preempted, queued again, continued
    twice = {line: n - 1 for line, n in computed(cache).items() if n > 1}
    assert all(line.startswith("alpha 2 ") for line in twice), "nothing else is computed twice"
    assert sum(twice.values()) < again.attempts, "a preemption costs the chunk that was being computed"
    assert len(values(tmp_path)) == 10


def jobs_of(sweep: Sweep, executor: Slurm) -> list[str]:
    """Send the cells, as a login that is lost at once would; what is sent is not sent again."""
    executor.start([task_of(sweep, cell) for cell in sweep.cells])
    return [executor.poll()[cell.id].where.removeprefix("SLURM job ") for cell in sweep.cells]


def restart(folder: Path) -> None:
    """Stop slurmd and start it again; jobs go on, as they do on a cluster."""
    pid = int((folder / "slurmd.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    subprocess.run(["slurmd", "-f", folder / "slurm.conf"], check=True)


def test_a_job_that_vanishes_is_noticed_and_the_same_command_does_it(slurm: Path, tmp_path: Path, cache: Path) -> None:
    sweep = a_sweep(tmp_path, 1, s0="sleep 0.7")
    for event in run(sweep, executor := cluster(sweep)):
        if event.status.counts["running"] and (job := executor.poll()[sweep.cells[0].id].where.split()[-1]):
            subprocess.run(["scancel", job], check=True)
    assert str(reasons(sweep)[0]).startswith(f"it was cancelled (job {job}; *** ")
    events = list(run(sweep, cluster(sweep)))
    assert events[-1].status.counts == {"queued": 0, "running": 0, "done": 1, "failed": 0}
    assert len(computed(cache)) == ROWS // CHUNK


def test_signals_before_a_job_listens_do_not_end_it(slurm: Path, tmp_path: Path, cache: Path) -> None:
    """Of two preemptions in a row, the second one may come while the job is being started anew."""
    sweep = a_sweep(tmp_path, 1, s0="sleep 0.1")
    executor = cluster(sweep)
    (job,) = jobs_of(sweep, executor)
    stop = threading.Event()

    def signals() -> None:
        """From the first moment on, until submitit has begun."""
        log = sweep.path.with_suffix("") / "submitit" / f"{job}_0_log.out"
        while not stop.wait(0.05) and not (log.exists() and "Starting with" in log.read_text()):
            subprocess.run(["scancel", "--signal=USR2", job], capture_output=True, check=False)

    sender = threading.Thread(target=signals)
    sender.start()
    try:
        events = list(run(sweep, executor))
    finally:
        stop.set()
        sender.join()
    assert reasons(sweep) == {0: None}
    assert events[-1].status.counts == {"queued": 0, "running": 0, "done": 1, "failed": 0}
    assert len(computed(cache)) == ROWS // CHUNK


def test_what_slurm_refuses_is_said_in_a_sentence(slurm: Path, tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, 1)
    with pytest.raises(UsageError, match=r"^SLURM did not take the jobs: .*[Ii]nvalid partition.*; check --partition"):
        list(run(sweep, cluster(sweep, partition="nowhere")))

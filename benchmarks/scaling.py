"""How much faster two workers extract features than one, one thread each, by the shared stages of an evaluation.

    python benchmarks/scaling.py [--images 256] [--rounds 3] [--workers 1 2] [--out benchmarks/results/scaling-cpu.txt]

Every worker is a process of its own that loads the Inception of FID (random weights: speed does not depend on them),
says that it is ready, and then fills the same stage of image features as the others, each in its own empty folder per
round. Measured is the time from the last "ready" to the last chunk. Numbers of workers take turns within a round, so
that their ratio is of one run; the matrix product of one thread, before and after, tells whether the machine was quiet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZE = 64
CHUNK = 16


def member(folder: Path, rank: int, n: int) -> None:
    """Wait for the start, then fill the stage; the last words are the seconds of CPU time it took."""
    import torch

    torch.set_num_threads(1)
    from zoo.metrics.base import extractor_card
    from zoo.metrics.features import Extractor, build
    from zoo.stages import Stage, Work

    sys.path.insert(0, str(Path(__file__).parent))
    from extraction import random_weights

    card = extractor_card("inception-2015-12-05")
    see = Extractor(card, build(card, random_weights()))
    pictures = np.random.default_rng(0).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)
    see(pictures[:CHUNK])

    def compute(part: slice) -> np.ndarray:
        return np.concatenate([*see(pictures[part]).values()], axis=1)

    (folder / f"ready{rank}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    started = time.process_time()
    stage = Stage("scaling", {"n": n}, n, compute, "seeing", CHUNK)
    for work in Work().passes:
        stage.fill(work)
    sys.stdout.write(f"{time.process_time() - started}\n")
    (folder / f"done{rank}").touch()


def run(workers: int, n: int) -> tuple[float, float]:
    """Wall time of ``workers`` processes for all images, and the CPU time of the busiest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = {**os.environ, "OMP_NUM_THREADS": "1", "ZOO_CACHE": str(folder / "cache"), "WORLD_SIZE": str(workers)}
        members = [
            subprocess.Popen(
                [sys.executable, __file__, "--member", str(rank), "--folder", name, "--images", str(n)],
                env={**base, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(workers)
        ]

        def until(all_are: str) -> float:
            while sum(1 for _ in folder.glob(f"{all_are}*")) < workers:
                if any(process.poll() for process in members):
                    raise SystemExit(f"a worker died before it was {all_are}")
                time.sleep(0.01)
            return time.perf_counter()

        started = until("ready")
        (folder / "go").touch()
        seconds = until("done") - started
        return seconds, max(float(process.communicate()[0].split()[-1]) for process in members)


def product() -> float:
    """Billions of multiply-adds per second of one thread, best of 5."""
    code = (
        "import os, time, numpy as np; a = np.ones((1024, 1024), np.float32); s = []\n"
        "for _ in range(6):\n t = time.perf_counter(); a @ a; s.append(time.perf_counter() - t)\n"
        "print(1024**3 / min(s) / 1e9)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scaling-cpu.txt")
    parser.add_argument("--member", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member is not None:
        member(options.folder, options.member, options.images)
        return
    load, speed = os.getloadavg()[0], product()
    lines = [
        f"{options.images} pictures through the Inception of FID, one thread per worker, {os.cpu_count()} cores",
        f"before: load average {load:.2f}, matrix product {speed:.1f} G multiply-adds per second",
    ]
    wall: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for number in range(options.rounds):
        for workers in options.workers:
            seconds, busiest = run(workers, options.images)
            wall[workers].append(seconds)
            lines.append(
                f"round {number + 1}, {workers} workers: {seconds:.2f} s, busiest worker {busiest:.2f} s of CPU"
            )
            sys.stderr.write(f"{lines[-1]}\n")
    first = options.workers[0]
    for workers in options.workers[1:]:
        ratios = [one / many for one, many in zip(wall[first], wall[workers], strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"speed-up of {workers} over {first} workers: {statistics.median(ratios):.2f} (rounds: {each})")
    lines.append(
        f"after: load average {os.getloadavg()[0]:.2f}, matrix product {product():.1f} G multiply-adds per second"
    )
    text = "\n".join(lines) + "\n"
    options.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

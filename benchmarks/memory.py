"""How peak memory grows with the number of images: whole processes, from images on disk to distances.

python benchmarks/memory.py [--images 1000 10000 50000] [--out FILE.json]

Each process makes n images and n 2048-wide feature rows as stages, looks at the images with an extractor, and measures
Fréchet and kernel distance (the papers' subsets), Inception Score and precision (in one pass with recall, density and
coverage) against 2,000 reference rows. Values are random: memory does not depend on them.
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
from pathlib import Path

import numpy as np

from zoo import provenance, stages
from zoo.stages import Stage, Work

WIDTH, CLASSES, REFERENCE = 2048, 1008, 2000


def stage(kind: str, n: int, width: int) -> Stage:
    """Rows of non-negative features, as a network gives them."""

    def compute(part: slice) -> np.ndarray:
        rng = np.random.default_rng([part.start, width])
        return np.abs(rng.standard_normal((part.stop - part.start, width), np.float32))

    return Stage(kind, {"width": width}, n, compute, kind)


def child(n: int) -> None:
    """One evaluation of n images; after every step, prints the seconds and the peak memory in MB so far."""
    from zoo.metrics import fidelity, inception, neighbourhoods
    from zoo.metrics.features import load_extractor

    started = time.perf_counter()
    look = load_extractor("pixels-16")
    images = Stage(
        "generations",
        {},
        n,
        lambda part: np.random.default_rng(part.start).integers(
            0, 256, (part.stop - part.start, 3, 128, 128), np.uint8
        ),
        "making",
    )
    seen = Stage("seen", {}, n, lambda part: look(images.part(part))["features"], "seeing")
    generated, logits, reference = (
        stage("generated", n, WIDTH),
        stage("logits", n, CLASSES),
        stage("ref", REFERENCE, WIDTH),
    )
    for each in (images, seen, generated, logits, reference):
        each.fill(Work())
    x, y = generated.rows(), reference.rows()
    steps = {
        "images and features": lambda: None,
        "frechet": lambda: fidelity.frechet_distance(generated=x, reference=y),
        "kernel": lambda: fidelity.kernel_distance_subsets(generated=x, reference=y),
        "inception score": lambda: inception.inception_score(logits=logits.rows()),
        "precision": lambda: neighbourhoods.precision(generated=x, reference=y),
    }
    for name, step in steps.items():
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"step": name, "seconds": time.perf_counter() - started, "peak_mb": peak}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    measured: dict[int, list[dict[str, float]]] = {n: [] for n in options.images}
    for n, steps in measured.items():
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--child", str(n)]
            environment = {**os.environ, "ZOO_CACHE": cache}
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    steps.append(json.loads(line))
                    print(
                        f"n {n:6}  {{step:20}} {{seconds:7.1f}} s   peak {{peak_mb:6.0f}} MB".format(**steps[-1]),
                        flush=True,
                    )
            if process.returncode:
                sys.exit(process.returncode)
    first, last = (max(step["peak_mb"] for step in measured[n]) for n in (options.images[0], options.images[-1]))
    print(f"growth from {options.images[0]} to {options.images[-1]} images: {last - first:.0f} MB")
    if options.out:
        about = {"hardware": provenance.cpu_name(), "packages": provenance.versions(), "chunk": stages.CHUNK}
        options.out.write_text(json.dumps({**about, "images": measured}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

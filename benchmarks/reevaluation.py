"""What an evaluation costs the second time: whole processes, cold against warm.

python benchmarks/reevaluation.py [--images 100 400] [--out FILE.json]

Cold: data and weights are on disk, nothing else. Warm: the same command again (the record is found), the same with
`--again` (every value is looked up and a new record written), and after one metric changed (its scores are gone).
The network is tiny and hardly trained: images cost the same, and extraction, the larger part, does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from zoo import provenance

TINY = {"encoder_steps": 8, "gan_steps": 4, "encoder_batch_size": 32, "gan_batch_size": 16, "generator_width": 64}
TRAIN = f"import zoo; zoo.train('eeg2image.small', 'phantom', split='subject-out', overrides={TINY!r}, device='cpu')"
EVALUATE = """
import sys, zoo
from zoo import registry

track = registry.tracks.get("reconstruction/phantom.subject-out@1").model_copy(
    update={{
        "id": "reconstruction/phantom.subject-out@99",
        "trials": {n},
        "replicates": 1,
        "metrics": ("fd-efficientnet-lite0", "kd-efficientnet-lite0", "judge_accuracy", "logistic_accuracy"),
    }}
)
registry.tracks.add(track)
record = zoo.evaluate("eeg2image.small", track.id, again={again})
assert record.values["fd-efficientnet-lite0"].n == {n}
print(record.values["fd-efficientnet-lite0"].value, "torch" in sys.modules)
"""
KEPT = ("datasets", "weights", "training")
CHANGED = "fd-efficientnet-lite0-*.json"


def run(cache: Path, code: str) -> tuple[float, list[str]]:
    """Wall time of a process, and what it printed."""
    started = time.perf_counter()
    environment = {**os.environ, "ZOO_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout.split()


def measure(cache: Path, n: int, repeats: int) -> dict[str, float]:
    """Median seconds of every kind of run; the values must be equal, and warm runs must not import torch."""
    for path in cache.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path)
    cold, (value, torch) = run(cache, EVALUATE.format(n=n, again=False))
    assert torch == "True"
    found: dict[str, list[float]] = {"same command": [], "again": [], "one metric changed": []}
    for _ in range(repeats):
        for kind, taken in found.items():
            if kind == "one metric changed":
                for path in cache.glob(f"scores/*/{CHANGED}"):
                    path.unlink()
            seconds, printed = run(cache, EVALUATE.format(n=n, again=kind != "same command"))
            assert printed == [value, "False"], (kind, printed)
            taken.append(seconds)
    return {"cold": cold, **{kind: statistics.median(taken) for kind, taken in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        run(cache, TRAIN)
        measured = {n: measure(cache, n, options.repeats) for n in options.images}
    for n, seconds in measured.items():
        for kind, taken in seconds.items():
            print(f"n {n:4}  {kind:20} {taken:7.2f} s   cold is {seconds['cold'] / taken:6.1f} times that")
    if options.out:
        about = {"hardware": provenance.cpu_name(), "packages": provenance.versions(), "repeats": options.repeats}
        options.out.write_text(json.dumps({**about, "seconds": measured}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

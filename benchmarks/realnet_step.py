"""One optimiser step of the full-size ReAlnet at its published batch size, as run and with one forward, on the CPU.

    python benchmarks/realnet_step.py [--batch-size 16] [--steps 1]

Each form runs in a process of its own on noise in the format of THINGS-EEG2; its peak memory is that of the process.
CPU seconds of a step are told beside those of the clock, since other work on the machine moves them less. The backbone
starts from chance, which costs the same. Results go to benchmarks/results/realnet_step-cpu.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from zoo import registry
from zoo.store import write_json

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "as run, backbone twice": ("realnet", {}),
    "as run, backbone once": ("realnet", {"double_forward": False}),
    "corrected": ("realnet.corrected", {}),
    "frozen backbone": ("cornet-s", {}),
}
RESULT = Path(__file__).parent / "results" / "realnet_step-cpu.json"


def measure(form: str, batch_size: int, steps: int) -> dict[str, Any]:
    """Run some steps of one form in this process."""
    import os

    import torch

    from zoo.models.realnet import recipes
    from zoo.training import TrainingData
    from zoo.weights import build

    name, changed = FORMS[form]
    card = registry.models.get(name)
    assert card.eeg is not None
    rng, n = np.random.default_rng(0), batch_size * steps
    shown = np.arange(n)
    data = TrainingData(
        eeg=rng.standard_normal((n, card.eeg.n_channels, card.eeg.n_times), dtype=np.float32),
        labels=shown,
        train=shown,
        val=np.arange(0),
        n_classes=n,
        images=tuple(rng.integers(0, 256, (500, 500, 3), dtype=np.uint8) for _ in range(n)),
        image_of_trial=shown,
    )
    torch.manual_seed(0)
    net = build(card, card.eeg, {**changed, "init": "random", "batch_size": batch_size})
    recipe = next(iter(recipes(net, data, seed=0, select="last")))  # type: ignore[arg-type]
    wall, cpu = [], []
    for step in range(steps):
        began = time.perf_counter(), time.process_time()
        recipe.step(step, rng)
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    return {
        "form": form,
        "model": name,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "batch_size": batch_size,
        "steps": steps,
        "seconds": round(statistics.median(wall), 2),
        "cpu_seconds": round(statistics.median(cpu), 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.form is not None:
        sys.stdout.write(json.dumps(measure(given.form, given.batch_size, given.steps)))
        return
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else []
    rows = {(row["form"], row["batch_size"]): row for row in kept}
    for form in FORMS:
        numbers = [f"--{name}={getattr(given, name.replace('-', '_'))}" for name in ("batch-size", "steps")]
        command = [sys.executable, __file__, *numbers, "--form", form]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows[form, row["batch_size"]] = row
        sys.stdout.write(f"{form:24} {row['seconds']:8.2f} s, {row['cpu_seconds']:8.2f} s CPU, {row['peak_mb']} MB\n")
        sys.stdout.flush()
        write_json(RESULT, [rows[key] for key in sorted(rows)])


if __name__ == "__main__":
    main()

"""One optimiser step of every training phase of the full-size models, at published batch size, on the CPU.

    python benchmarks/full_size_steps.py [MODEL …]

A phase runs in a process of its own on noise shaped like the dataset; its peak memory is that of the process, and its
seconds are those of the first step without building. Rows go to benchmarks/results/full_size_steps-cpu.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from zoo import registry
from zoo.store import write_json

MODELS = {
    "brain2image-gan": "eegcvpr40",
    "brain2image-vae": "eegcvpr40",
    "eeg-gan": "eegcvpr40",
    "class-gan": "thoughtviz-object",
    "eeg2image": "thoughtviz-object",
    "eeg2image.as-intended": "thoughtviz-object",
    "eegchannelnet": "eegcvpr40",
    "neurogan": "thoughtviz-object",
    "neuromatch-lstm-gan": "eegcvpr40",
    "neuromatch-lstm-gan.corrected": "eegcvpr40",
    "perceivelab-eegnet": "eegcvpr40",
    "thoughtviz": "thoughtviz-object",
    "thoughtviz.as-intended": "thoughtviz-object",
    "thoughtviz.grey": "thoughtviz-digit",
    "thoughtviz-acgan": "thoughtviz-object",
    "thoughtviz-acgan.grey": "thoughtviz-digit",
    "thoughtviz-acgan.eeg": "thoughtviz-digit",
    "thoughtviz-deligan": "thoughtviz-object",
    "thoughtviz-deligan.grey": "thoughtviz-digit",
    "thoughtviz-deligan.eeg": "thoughtviz-digit",
    "eegstylegan-ada": "eegcvpr40-raw",
    "eegstylegan-ada.cnn": "eegcvpr40-raw",
    "eegstylegan-ada.thoughtviz": "thoughtviz-object",
}
"""Model → the dataset whose recordings and classes it is given."""
ALIKE = {"eegstylegan-ada.cnn": 1, "eegstylegan-ada.thoughtviz": 1}
"""Phases left out, whose networks and batch are those of the preset that the name begins with."""
OPTIONS = {"neurogan": {"perceptual": "image-classifier"}}
"""What differs from the card: VGG-16 is not on every machine."""
N_TRIALS, N_IMAGES, IMAGE_SIZE = 512, 256, 256
RESULT = Path(__file__).parent / "results" / "full_size_steps-cpu.json"


def step(model: str, phase: int) -> dict[str, object]:
    """Run the first step of one phase in this process."""
    import torch

    from zoo.training import TrainingData
    from zoo.weights import build

    card, dataset = registry.models.get(model), registry.datasets.get(MODELS[model])
    assert card.builder is not None
    assert dataset.eeg is not None
    spec, rng, n_classes = dataset.eeg, np.random.default_rng(0), len(dataset.concepts)
    eeg = rng.standard_normal((N_TRIALS, spec.n_channels, spec.n_times), dtype=np.float32)
    data = TrainingData(
        eeg=eeg if spec.unit == "a.u." else eeg * np.float32(1e-5),
        labels=np.arange(N_TRIALS) % n_classes,
        train=np.arange(N_TRIALS),
        val=np.arange(0),
        n_classes=n_classes,
        images=tuple(rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8) for _ in range(N_IMAGES)),
        image_labels=np.arange(N_IMAGES) % n_classes,
        image_of_trial=np.arange(N_TRIALS) % N_IMAGES,
    )
    torch.manual_seed(0)
    net = build(card, spec, OPTIONS.get(model))
    recipes = registry.load_object(card.builder.partition(":")[0] + ":recipes")(net, data, seed=0)
    started = time.perf_counter()
    recipes[phase].step(0, rng)
    return {
        "model": model,
        "dataset": dataset.id,
        "phase": recipes[phase].name,
        "of": len(recipes),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help=f"all by default: {', '.join(MODELS)}")
    parser.add_argument("--phase", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase is not None:
        sys.stdout.write(json.dumps(step(given.models[0], given.phase)))
        return
    rows = {(row["model"], row["phase"]): row for row in json.loads(RESULT.read_text())} if RESULT.exists() else {}
    for model in given.models or MODELS:
        phase, n_phases = 0, 1
        while phase < min(n_phases, ALIKE.get(model, n_phases)):
            command = [sys.executable, __file__, model, "--phase", str(phase)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            phase, n_phases = phase + 1, row["of"]
            rows[model, row["phase"]] = row
            sys.stdout.write(f"{model} {row['phase']}: {row['seconds']} s, {row['peak_mb']} MB\n")
    write_json(RESULT, [rows[key] for key in sorted(rows)])


if __name__ == "__main__":
    main()

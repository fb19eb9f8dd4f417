"""Speed, memory and cpu/cuda agreement of everything that computes, in one command.

    python benchmarks/gpu_suite.py [--out benchmarks/results/NAME.json]

Without a GPU it measures the cpu alone, which shows that it runs. Networks have random
weights: times and agreement do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import zoo
from zoo import provenance, registry
from zoo.errors import MissingError
from zoo.metrics.base import extractor_cards
from zoo.metrics.features import load_extractor
from zoo.models.base import Reconstructor
from zoo.specs import EEGSpec
from zoo.training import TrainingData
from zoo.weights import build

SPEC = EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128.0, tmin=0.0, n_times=32)
REPEATS = 3


def seconds(function: Callable[[], object], device: str) -> float:
    """Median wall time of a call, after one to warm up."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def outputs(model: Reconstructor, device: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and images of n random trials, the same on every device."""
    rng = np.random.default_rng(0)
    eeg = torch.from_numpy(rng.normal(4e-3, 5e-5, (n, SPEC.n_channels, SPEC.n_times)).astype(np.float32)).to(device)
    noise = torch.from_numpy(np.stack([model.draw_noise(rng) for _ in range(n)])).to(device)
    with torch.inference_mode():
        features = model.encode(eeg)
        return features.cpu().numpy(), model.decode(features, noise).cpu().numpy()


def measure_model(name: str, devices: list[str]) -> dict[str, object]:
    """Inference and training of one model on every device."""
    found: dict[str, object] = {}
    reference = None
    for device in devices:
        n = 256 if device == "cuda" else 16
        torch.manual_seed(0)
        model = build(registry.models.get(name), SPEC).to(device)
        assert isinstance(model, Reconstructor)
        small = outputs(model.eval(), device, 16)
        reference = reference or small
        spent = seconds(lambda model=model, device=device, n=n: outputs(model, device, n), device)
        found[device] = {
            "images_per_second": n / spent,
            "batch": n,
            "largest_difference_from_cpu": {
                "features": float(np.abs(small[0] - reference[0]).max()),
                "images": float(np.abs(small[1] - reference[1]).max()),
            },
            # a step of the published size takes a cpu the better part of a minute
            "training_step_seconds": training_steps(name, model, device)
            if device == "cuda" or "small" in name
            else None,
            "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
        }
    return found


def training_steps(name: str, model: Reconstructor, device: str) -> dict[str, float]:
    """Median seconds of one step of every phase at its published batch size."""
    rng = np.random.default_rng(0)
    card = registry.models.get(name)
    assert card.builder is not None
    data = TrainingData(
        eeg=rng.normal(4e-3, 5e-5, (1024, SPEC.n_channels, SPEC.n_times)).astype(np.float32),
        labels=np.arange(1024) % 10,
        train=np.arange(1024),
        val=np.arange(0),
        n_classes=10,
        images=tuple(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)),
        image_labels=np.arange(40) % 10,
        image_of_trial=np.full(1024, -1),
    )
    found = {}
    for recipe in registry.load_object(card.builder.partition(":")[0] + ":recipes")(model, data, seed=0, select="last"):
        found[recipe.name] = seconds(lambda recipe=recipe: recipe.step(0, np.random.default_rng(0)), device)
    return found


def measure_extractor(name: str, devices: list[str]) -> dict[str, object]:
    """Images per second and agreement of a feature extractor."""
    rng = np.random.default_rng(0)
    found: dict[str, object] = {}
    reference = None
    for device in devices:
        try:
            extractor = load_extractor(name, device)
        except MissingError as error:
            return {"missing": str(error)}
        n = 512 if device == "cuda" else 16
        images = rng.integers(0, 256, (n, 3, 128, 128), dtype=np.uint8)
        features = extractor(np.random.default_rng(1).integers(0, 256, (16, 3, 128, 128), dtype=np.uint8))
        features = np.concatenate(list(features.values()), axis=1)
        reference = features if reference is None else reference
        found[device] = {
            "images_per_second": n / seconds(lambda extractor=extractor, images=images: extractor(images), device),
            "relative_difference_from_cpu": float(np.linalg.norm(features - reference) / np.linalg.norm(reference)),
        }
    return found


def measure_evaluation(devices: list[str]) -> dict[str, object]:
    """The whole suite with every control on `phantom`, by a network that was hardly trained: it costs the same."""
    small = {"encoder_steps": 8, "gan_steps": 4, "encoder_batch_size": 32, "gan_batch_size": 16}
    found: dict[str, object] = {}
    reference: dict[str, float] | None = None
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ZOO_CACHE"] = cache
        zoo.train("eeg2image.small", "phantom", overrides=small, device="cpu")
        for device in devices:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            record = zoo.evaluate("eeg2image.small", "phantom", device=device)
            values = {name: value.value for name, value in record.values.items() if value.value is not None}
            reference = reference or values
            differences = {
                name: abs(values[name] - reference[name]) / max(abs(reference[name]), 1e-3) for name in values
            }
            found[device] = {
                "seconds": time.perf_counter() - started,
                "metrics": len(values),
                "generated_images_per_second": record.cost.images_per_second,
                "largest_relative_difference_from_cpu": max(differences.items(), key=lambda found: found[1]),
                "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
                "peak_memory_mb": record.cost.peak_memory_mb,
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    result = {
        "hardware": [provenance.cpu_name(), *([torch.cuda.get_device_name()] if "cuda" in devices else [])],
        "packages": provenance.versions(),
        "threads": torch.get_num_threads(),
        "models": {name: measure_model(name, devices) for name in ("eeg2image", "eeg2image.small")},
        "extractors": {card.id: measure_extractor(card.id, devices) for card in extractor_cards() if not card.compares},
        "evaluation": measure_evaluation(devices),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

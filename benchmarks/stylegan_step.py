"""Seconds of a StyleGAN2-ADA training step beside those its convolutions would take at the machine's best rate.

    python benchmarks/stylegan_step.py [--quick] [--device cuda] [--batch 64] [--precision fp16 bf16 float32]

The theory counts multiplications and additions of the 3×3 convolutions and of RGB inputs at 128×128:
a step without R1 is four times the generator's and eight times the discriminator's forward pass. The best rate is that
of the widest of these convolutions alone, forward, in the step's precision. Steps are timed with the augmentation at
p = 0, and once more at p = 0.5, whose extra is the price of ADA. ``--quick`` is one step at batch 2.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from zoo.models.eegstylegan_ada import EEGStyleGANADA, GANRecipe, build
from zoo.models.stylegan2 import Conv, StyledConv
from zoo.specs import EEGSpec
from zoo.training import TrainingData


def operations(model: EEGStyleGANADA) -> tuple[int, int]:
    """Multiplications and additions of one picture's forward pass: in the generator, in the discriminator."""
    generator = 0
    for layer in model.generator.synthesis.modules():
        if isinstance(layer, StyledConv):  # an up-convolution visits the pixels it reads
            generator += 2 * layer.weight.numel() * (layer.size // 2 if layer.up else layer.size) ** 2
    discriminator = 2 * model.discriminator.b4.conv.weight.numel() * 16
    for size in model.discriminator.sizes:
        for layer in model.discriminator.get_submodule(f"b{size}").children():
            assert isinstance(layer, Conv)
            discriminator += 2 * layer.weight.numel() * (size // 2 if layer.down else size) ** 2
    return generator, discriminator


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """The shortest of several runs, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def best_rate(device: str, dtype: torch.dtype, batch: int, repeats: int) -> float:
    """Operations per second of the widest convolution."""
    x = torch.randn(batch, 512, 64, 64, device=device, dtype=dtype)
    weight = torch.randn(512, 512, 3, 3, device=device, dtype=dtype)
    with torch.no_grad():
        took = seconds(lambda: F.conv2d(x, weight, padding=1), device, repeats)
    return 2 * weight.numel() * 64**2 * batch / took


def measure(device: str, precision: str, batch: int, repeats: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    n = max(batch, 64)
    data = TrainingData(
        eeg=rng.standard_normal((n, 14, 32), dtype=np.float32),
        labels=np.arange(n) % 10,
        train=np.arange(n),
        val=np.arange(0),
        n_classes=10,
        images=tuple(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(n)),
        image_of_trial=np.arange(n),
    )
    torch.manual_seed(0)
    spec = EEGSpec(ch_names=tuple(map(str, range(14))), sfreq=128, tmin=0, n_times=32)
    model = build(spec, gan_batch_size=batch, precision=precision).to(device)
    recipe = GANRecipe(model, data, seed=0)
    generator, discriminator = operations(model)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    dtype = torch.float32 if device == "cpu" and half == torch.float16 else half
    rate = best_rate(device, dtype, min(batch, 32), repeats)

    def step() -> nn.Module:
        recipe.step(1, np.random.default_rng(0))
        return model

    theory = batch * (4 * generator + 8 * discriminator) / rate
    plain = seconds(step, device, repeats)
    recipe.controller.p.fill_(0.5)
    augmented = seconds(step, device, repeats)
    return {
        "device": device,
        "precision": str(dtype).removeprefix("torch."),
        "batch": batch,
        "generator_gflop": generator / 1e9,
        "discriminator_gflop": discriminator / 1e9,
        "best_gflop_per_second": rate / 1e9,
        "theory_seconds": theory,
        "step_seconds": plain,
        "ratio": plain / theory,
        "step_seconds_at_p_0.5": augmented,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--precision", nargs="+", default=["float32"])
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    batch = arguments.batch or (2 if arguments.quick else 64)
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    rows = [measure(arguments.device, precision, batch, repeats) for precision in arguments.precision]
    for row in rows:
        print(
            f"{row['device']} {row['precision']} batch {row['batch']}: step {row['step_seconds']:.3g} s, theory "
            f"{row['theory_seconds']:.3g} s at {row['best_gflop_per_second']:.4g} GFLOP/s, ratio {row['ratio']:.3g}; "
            f"with augmentation at p = 0.5 {row['step_seconds_at_p_0.5']:.3g} s"
        )
    if arguments.out:
        system = {"torch": torch.__version__, "threads": torch.get_num_threads(), "note": arguments.note}
        arguments.out.write_text(json.dumps({"system": system, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

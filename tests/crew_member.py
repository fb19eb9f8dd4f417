"""One of several processes that train together, for tests/test_distributed.py: ``python tests/crew_member.py FOLDER``.

Reads the trainings from ``cases.json`` in the folder, in the order written there; the first process writes what came
out of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from zoo import distributed, registry, weights
from zoo.errors import UsageError
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData, fit

N_CLASSES = 4
SPEC = EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128, tmin=0, n_times=32)


def training_data(n: int = 50, n_val: int = 12) -> TrainingData:
    """Trials with an oscillation per class in noise, two pictures of each class."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % N_CLASSES
    eeg = rng.standard_normal((n, 14, 32)).astype(np.float32) * 1e-5
    eeg += 4e-5 * np.sin(np.arange(32) * (1 + labels[:, None, None]) / 4).astype(np.float32)
    return TrainingData(
        eeg=eeg,
        labels=labels,
        train=np.arange(n - n_val),
        val=np.arange(n - n_val, n),
        n_classes=N_CLASSES,
        images=tuple(rng.integers(0, 256, (36, 32, 3), dtype=np.uint8) for _ in range(2 * N_CLASSES)),
        image_labels=np.arange(2 * N_CLASSES) % N_CLASSES,
        image_of_trial=np.arange(n) % (2 * N_CLASSES),
    )


def phases(model: str, overrides: dict[str, Any], select: str = "last") -> list[Recipe]:
    card = registry.models.get(model)
    torch.manual_seed(0)
    classes = {"n_classes": N_CLASSES} if "n_classes" in card.preset else {}
    net = weights.build(card, SPEC, {**classes, **overrides}).train()
    assert card.builder is not None
    recipes = registry.load_object(card.builder.partition(":")[0] + ":recipes")
    found: list[Recipe] = recipes(net, training_data(), seed=0, select=select)
    return found


def traced(recipe: Recipe) -> list[list[float]]:
    """A list that will hold the losses of every step."""
    step, found = recipe.step, list[list[float]]()

    def recorded(number: int, rng: np.random.Generator) -> dict[str, float]:
        losses = step(number, rng)
        found.append(list(losses.values()))
        return losses

    recipe.step = recorded  # type: ignore[assignment, method-assign]
    return found


def train(case: dict[str, Any], folder: Path) -> None:
    """Every phase of a model for ``steps`` steps; tensors and losses of each go to ``folder`` under the case's name."""
    tensors: dict[str, torch.Tensor] = {}
    told: dict[str, Any] = {}
    try:
        for recipe in phases(case["model"], case.get("set", {}), case.get("select", "last")):
            recipe.n_steps = min(recipe.n_steps, case["steps"])
            trace = traced(recipe)
            state = fit(recipe, folder / case.get("checkpoint", case["name"]), seed=0)
            told[recipe.name] = {"best_step": state.best_step, "step": state.step, "losses": trace}
            for name, module in recipe.modules().items():
                tensors |= {f"{recipe.name}/{name}/{key}": value.clone() for key, value in module.state_dict().items()}
    except UsageError as error:
        told["refused"] = str(error)
    if distributed.crew().first:
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{case['name']}.safetensors")
        (folder / f"{case['name']}.json").write_text(json.dumps(told))


def in_float64() -> None:
    """Let everything be float64: so close must be what is meant to be equal that it cannot be by chance."""
    made = torch.from_numpy
    torch.set_default_dtype(torch.float64)
    torch.from_numpy = lambda ndarray: made(ndarray).double() if ndarray.dtype == np.float32 else made(ndarray)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    if (folder / "float64").exists():
        in_float64()
    with distributed.joined("cpu"):
        for case in json.loads((folder / "cases.json").read_text()):
            train(case, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

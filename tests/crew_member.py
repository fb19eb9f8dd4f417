"""One of several processes that work together, for tests/test_distributed.py: ``python tests/crew_member.py FOLDER``.

Does what ``cases.json`` in the folder says: trainings one after the other, of which the first process writes what came
out, or an evaluation. With a file ``float64`` there, everything is computed in that.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import zoo
from zoo import distributed, registry, runner, scoring, weights
from zoo.crew import here
from zoo.errors import ZooError
from zoo.record import Audit
from zoo.specs import EEGSpec
from zoo.stages import ShardsMissingError
from zoo.store import write_bytes
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
    recipes = registry.load_object(str(card.builder).partition(":")[0] + ":recipes")
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
    """Every phase of a model for ``steps`` steps; losses and tensors are written under the case's name.

    ``leave``: interrupt each phase half way, leave its checkpoint there, and go on.
    ``begin``: each phase begins with the checkpoint that others left there.
    ``slow``: so many seconds are lost at every step.
    """
    tensors: dict[str, torch.Tensor] = {}
    told: dict[str, Any] = {}
    checkpoints = folder / case["name"]
    for recipe in phases(case["model"], case.get("set", {}), case.get("select", "last")):
        recipe.n_steps = min(recipe.n_steps, case["steps"])
        trace = traced(recipe)
        file = f"{recipe.name}.safetensors"
        if "leave" in case:
            with contextlib.suppress(KeyboardInterrupt):
                fit(recipe, checkpoints, seed=0, progress=functools.partial(stop, at=case["steps"] // 2))
            if distributed.crew().first:
                handed(checkpoints / file, Path(case["leave"]) / file)
        if "begin" in case:
            if distributed.crew().first:
                handed(Path(case["begin"]) / file, checkpoints / file)
            distributed.value_of_first(None)
        watched = functools.partial(seen, folder, case["slow"]) if "slow" in case else None
        state = fit(recipe, checkpoints, seed=0, progress=watched)
        told[recipe.name] = {"best_step": state.best_step, "step": state.step, "losses": trace}
        for name, module in recipe.modules().items():
            tensors |= {f"{recipe.name}/{name}/{key}": value.clone() for key, value in module.state_dict().items()}
    if distributed.crew().first:
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{case['name']}.safetensors")
        (folder / f"{case['name']}.json").write_text(json.dumps(told))


def seen(folder: Path, slow: float, done: int, total: int, what: str) -> None:
    """Leave a file that says what this process is doing: its number, and how far it is; and lose some time."""
    if done < total:
        doing = f"{os.environ.get('CREW_HOST', '')}{here().rank}.{what.partition(' ')[0]}"
        write_bytes(folder / f"at.{doing}", f"{os.getpid()} {done}".encode())
        time.sleep(slow)


def stop(done: int, total: int, what: str, *, at: int) -> None:
    if done == at:
        raise KeyboardInterrupt


def handed(source: Path, target: Path) -> None:
    """Copy a file, once it is there, so that it is there whole."""
    while not source.exists():
        time.sleep(0.05)
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_suffix(".part")
    shutil.copy(source, hidden)
    hidden.replace(target)


def in_float64() -> None:
    """Let everything be float64: so close must be what is meant to be equal that it cannot be by chance."""
    made = torch.from_numpy
    torch.set_default_dtype(torch.float64)
    torch.from_numpy = lambda ndarray: made(ndarray).double() if ndarray.dtype == np.float32 else made(ndarray)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def evaluate(case: dict[str, Any], folder: Path) -> None:
    """An evaluation with two metrics and nothing beside the record; ``slow`` seconds are lost at every chunk."""
    kept = ("knn_accuracy", "copy_rate-pixels-16")
    scoring._absent = lambda card: None if card.id in kept else "left out: it takes long"
    runner._audited = lambda plan: Audit(verdict="unknown", evidence={}, sentences=())
    runner._draw = runner.write_gallery = lambda images, path: None  # type: ignore[attr-defined, assignment]

    def progress(done: int, total: int, what: str) -> None:
        if "(" in what:
            seen(folder, case.get("slow", 0.0), done, total, what)

    try:
        zoo.evaluate(case["evaluate"], "phantom", output_dir=folder, progress=progress, **case.get("options", {}))
    except ShardsMissingError:
        assert not here().first


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    if (folder / "float64").exists():
        in_float64()
    cases = json.loads((folder / "cases.json").read_text())
    with distributed.joined("cpu"):
        for case in [case for case in cases if "model" in case]:
            train(case, folder)
    for case in [case for case in cases if "evaluate" in case]:
        evaluate(case, folder)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ZooError as told:
        sys.exit(f"error: {told}")

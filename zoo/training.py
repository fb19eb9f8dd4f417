"""One loop for every recipe: deterministic, resumable, with progress.

Nothing random is kept between steps: the generator of a step is keyed by (seed, recipe, step), so a checkpoint is
weights and optimiser moments, and a resumed run equals an uninterrupted one. Several processes train as one
(``zoo.distributed``); their first reads and writes the checkpoint.
"""

from __future__ import annotations

import abc
import contextlib
import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo import distributed
from zoo.errors import IntegrityError, ZooError
from zoo.gradients import right_gradients
from zoo.journal import Draw, Journal
from zoo.stats import keyed_rng
from zoo.store import atomic_file

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""
SAVE_SECONDS = 20.0


@dataclass(frozen=True)
class TrainingData:
    """What a recipe may see: the train and val roles of one split.

    Shape:
        eeg: (n_trials, n_channels, n_times) float32 volts, usually a memory map over *all* trials; index it.
        labels: (n_trials,) int64 concept index of every trial.
        train, val: row numbers of the two roles; val may be empty.
        images: one (height, width, 3) uint8 array per training stimulus, decoded whenever it is taken; empty if the
            dataset has no pictures.
        image_labels: (n_images,) int64 concept index of each.
        image_of_trial: (n_trials,) row in ``images`` of each trial's own picture, -1 where only the class is shared.
        val_images, val_image_of_trial: the same for pictures of the val role; none where only the class is shared.
        subjects: (n_trials,) who was recorded, '' where unknown.
        look: (extractor, output, ``images`` or ``val_images``) → (n, width), what one of the zoo's frozen networks sees
            in these pictures; made once and kept.
    """

    eeg: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    n_classes: int
    images: Sequence[np.ndarray] = ()
    image_labels: np.ndarray | None = None
    image_of_trial: np.ndarray | None = None
    val_images: Sequence[np.ndarray] = ()
    val_image_of_trial: np.ndarray | None = None
    subjects: np.ndarray | None = None
    look: Callable[[str, str, Sequence[np.ndarray]], np.ndarray] | None = None


class Recipe(abc.ABC):
    """One phase of training a model. All randomness of a step comes from the generator it is given."""

    name: str
    n_steps: int
    eval_every: int | None = None
    """Steps between calls of ``validate``; null: the last weights are the result."""
    ties: Literal["earlier", "later"] = "earlier"
    """Which of equally validated states is the result."""
    amp: Literal["bf16"] | None = None
    """Autocast of every step; null as long as the published recipe used float32."""
    ema_decay: float | None = None
    """Decay per step of an exponential moving average of all parameters, which then is the result."""

    @abc.abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Every module whose state changes; saved and restored by name."""

    @abc.abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """Optimisers by name; saved and restored with the modules."""

    @abc.abstractmethod
    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        """One update of everything the recipe trains; returns losses to show."""

    def validate(self) -> float:
        """Score on the validation role, higher is better; the best checkpoint wins."""
        raise TypeError(f"{type(self).__name__} sets eval_every but defines no validate()")


class ClosedForm(Recipe):
    """A phase that is solved, not descended to: its one step computes everything from the training trials."""

    n_steps = 1

    def optimizers(self) -> dict[str, Optimizer]:
        """None: nothing goes downhill."""
        return {}


@dataclass
class Fitted:
    """State of a run: what a checkpoint holds beside tensors."""

    step: int = 0
    best_step: int | None = None
    best_score: float | None = None
    losses: dict[str, float] | None = None
    seconds: float = 0.0
    done: bool = False


def fit(
    recipe: Recipe, folder: Path, *, seed: int, progress: Progress | None = None, draw: Draw | None = None
) -> Fitted:
    """Run ``recipe`` to its end, continuing from the checkpoint in ``folder`` if there is one.

    Killed at any point and called again, it ends with the same weights as an uninterrupted run on the same device. The
    result is the best validated state if the recipe validates, else the moving average if it keeps one, else the last.
    Any number of processes continues what any other number began. Losses and, where ``draw`` makes some, pictures are
    noted beside the checkpoint (``zoo.journal``).

    Raises:
        ZooError: A loss is not finite; the last good checkpoint stays.
        IntegrityError: The checkpoint is damaged.
    """
    path = folder / f"{recipe.name}.safetensors"
    kept: dict[str, dict[str, Tensor]] = {"best": {}, "ema": {}}
    with distributed.divided(recipe.modules().values()):
        journal = Journal(folder, recipe.name, recipe.n_steps, draw) if distributed.crew().first else None
        return _fit(recipe, path, kept, seed, progress or (lambda done, total, what: None), journal)


def _fit(
    recipe: Recipe,
    path: Path,
    kept: dict[str, dict[str, Tensor]],
    seed: int,
    report: Progress,
    journal: Journal | None,
) -> Fitted:
    state = _begin(recipe, path, kept)
    if journal:
        journal.begin(state.step)
    if recipe.ema_decay is not None and not kept["ema"]:
        kept["ema"] = _parameters(recipe)
    device = _device(recipe).type
    started, spent, saved = time.monotonic(), state.seconds, time.monotonic()
    try:
        while state.step < recipe.n_steps:
            report(state.step, recipe.n_steps, f"training {recipe.name}{_shown(state)}")
            rng = keyed_rng("train", seed, recipe.name, state.step)
            with _undisturbed():
                autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=recipe.amp is not None)
                with autocast, right_gradients(device):
                    losses = recipe.step(state.step, rng)
                if lost := [f"{name} is {value}" for name, value in losses.items() if not np.isfinite(value)]:
                    told = f"training {recipe.name} diverged at step {state.step}: {' and '.join(lost)}"
                    raise ZooError(f"{told}; set a lower learning rate with --set.")
                state.step, state.losses = state.step + 1, losses
                _average(recipe, kept["ema"])
                score = _validate(recipe, state, kept)
                if journal:
                    journal.note(state.step, losses, score)
                    if journal.due(state.step):
                        with _averaged(recipe, kept["ema"]):
                            journal.look(state.step)
            if time.monotonic() - saved > SAVE_SECONDS:
                state.seconds = spent + time.monotonic() - started
                _save(recipe, path, state, kept)
                saved = time.monotonic()
    except KeyboardInterrupt:
        state.seconds = spent + time.monotonic() - started
        _save(recipe, path, state, kept)
        raise
    if not state.done:
        state.done, state.seconds = True, spent + time.monotonic() - started
        _save(recipe, path, state, kept)
    _load(recipe, kept["best"] or kept["ema"])
    report(recipe.n_steps, recipe.n_steps, f"training {recipe.name}{_shown(state)}")
    return state


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let what ends this process wait until this block is done: half a step must not become a checkpoint.

    Signals that raise nothing in Python are left alone. If one of several processes is told to end, all end here, so
    that none waits for it within a step.
    """
    told: list[tuple[int, FrameType | None]] = []
    held = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
        held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda *args: told.append(args))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    ends = False
    for which, frame in told[:1]:
        try:
            held[signal.Signals(which)](which, frame)
        except KeyboardInterrupt:
            ends = True
    if distributed.any_of(ends):
        raise KeyboardInterrupt


def _device(recipe: Recipe) -> torch.device:
    """Where the recipe's first parameter is; not every module needs to have one."""
    return next(p for module in recipe.modules().values() for p in module.parameters()).device


def _shown(state: Fitted) -> str:
    losses = " ".join(f"{name} {value:.3g}" for name, value in (state.losses or {}).items())
    best = "" if state.best_score is None else f" best {state.best_score:.3f}"
    return f" ({losses}{best})" if losses else ""


def _validate(recipe: Recipe, state: Fitted, kept: dict[str, dict[str, Tensor]]) -> float | None:
    """Keep a copy of the state whose validation score is the highest so far (of equals as ``ties`` says)."""
    if recipe.eval_every is None or (state.step % recipe.eval_every and state.step != recipe.n_steps):
        return None
    score: float = distributed.value_of_first(recipe.validate())
    better = state.best_score is None or score > state.best_score
    if better or (score == state.best_score and recipe.ties == "later"):
        state.best_score, state.best_step = score, state.step
        kept["best"] = _tensors(recipe)
    return score


def _average(recipe: Recipe, ema: dict[str, Tensor]) -> None:
    if recipe.ema_decay is None:
        return
    for key, value in _parameters(recipe).items():
        ema[key].lerp_(value, 1 - recipe.ema_decay)


@contextlib.contextmanager
def _averaged(recipe: Recipe, ema: dict[str, Tensor]) -> Iterator[None]:
    """The recipe's modules with their moving average, where it keeps one."""
    live = _parameters(recipe) if ema else {}
    _load(recipe, ema)
    try:
        yield
    finally:
        _load(recipe, live)


def _tensors(recipe: Recipe) -> dict[str, Tensor]:
    """A copy of every tensor of every module, named ``module/key``."""
    return {
        f"{name}/{key}": value.detach().clone()
        for name, module in recipe.modules().items()
        for key, value in module.state_dict().items()
    }


def _parameters(recipe: Recipe) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().clone()
        for name, module in recipe.modules().items()
        for key, value in module.named_parameters()
    }


def _load(recipe: Recipe, tensors: dict[str, Tensor]) -> None:
    """Put tensors named ``module/key`` back; a module not mentioned stays as it is."""
    with torch.no_grad():
        for name, module in recipe.modules().items():
            own = module.state_dict()
            for key, value in own.items():
                if f"{name}/{key}" in tensors:
                    value.copy_(tensors[f"{name}/{key}"])


def _save(recipe: Recipe, path: Path, state: Fitted, kept: dict[str, dict[str, Tensor]]) -> None:
    if not distributed.crew().first:
        return
    from safetensors.torch import save

    tensors = {f"now/{key}": value for key, value in _tensors(recipe).items()}
    for kind, held in kept.items():
        tensors |= {f"{kind}/{key}": value for key, value in held.items()}
    for name, optimizer in recipe.optimizers().items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    data = save({key: value.contiguous() for key, value in tensors.items()}, {"state": json.dumps(vars(state))})
    with atomic_file(path) as file:
        file.write(data)


def _begin(recipe: Recipe, path: Path, kept: dict[str, dict[str, Tensor]]) -> Fitted:
    """Where the checkpoint of the first process says that this run is, in all of them."""
    if distributed.crew().size == 1:
        return _restore(recipe, path, path, kept) if path.exists() else Fitted()
    data = distributed.bytes_of_first(path.read_bytes() if path.exists() else b"")
    if not data:
        return Fitted()
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return _restore(recipe, Path(file.name), path, kept)


def _restore(recipe: Recipe, held: Path, path: Path, kept: dict[str, dict[str, Tensor]]) -> Fitted:
    """Put the checkpoint ``held``, known to people as ``path``, into the recipe."""
    from safetensors import SafetensorError, safe_open

    device = str(_device(recipe))
    try:
        with safe_open(held, framework="pt", device=device) as file:
            state = Fitted(**json.loads(file.metadata()["state"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a readable checkpoint ({error}); delete it to train again.") from error

    def below(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    _load(recipe, below("now/"))
    for kind in kept:
        kept[kind] = below(f"{kind}/")
    for name, optimizer in recipe.optimizers().items():
        slots: dict[int, dict[str, Any]] = {}
        for key, value in below(f"optimizer/{name}/").items():
            index, _, slot = key.partition("/")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return state

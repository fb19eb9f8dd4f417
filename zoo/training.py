"""One loop for every recipe: deterministic, resumable, with progress.

Nothing random is kept between steps: the generator of a step is keyed by (seed, recipe, step), so a checkpoint is weights
and optimiser moments, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class TrainingData:
    """What a recipe may see: the train and val roles of one split.

    Shape:
        eeg: (n_trials, n_channels, n_times) float32 volts, usually a memory map over *all* trials; index it.
        labels: (n_trials,) int64 concept index of every trial.
        train, val: row numbers of the two roles; val may be empty.
        images: one (height, width, 3) uint8 array per training stimulus; empty if the dataset has no pictures.
        image_labels: (n_images,) int64 concept index of each.
        image_of_trial: (n_trials,) row in ``images`` of each trial's own picture, -1 where only the class is shared.
    """

    eeg: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    n_classes: int
    images: tuple[np.ndarray, ...] = ()
    image_labels: np.ndarray | None = None
    image_of_trial: np.ndarray | None = None


class Recipe(abc.ABC):
    """One phase of training a model. All randomness of a step comes from the generator it is given."""

    name: str
    n_steps: int
    eval_every: int | None = None
    """Steps between calls of ``validate``; null: the last weights are the result."""

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

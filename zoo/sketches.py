"""Pictures that a model in training makes of the same few trials, and its notes as files to look at."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo import compute
from zoo.datasets.base import EEGDataset
from zoo.journal import Journal
from zoo.models.base import LabelConditioned, Model
from zoo.plots import losses_plot, training_sheet
from zoo.stages import Work
from zoo.stats import keyed_rng
from zoo.training import Recipe, TrainingData

COLUMNS = 12
"""Trials of a sheet, where every class gets the same number; at most twice as many."""
PAINTERS = ("generator", "decoder")
"""Parts of a model that make its pictures."""


class Sketches:
    """Trials of the validation role, or of the training role where there is none, the first few of every class."""

    def __init__(self, net: Model, data: EEGDataset, given: TrainingData, seed: int, device: str) -> None:
        self.net: Any = net
        self.data, self.seed, self.device = data, seed, device
        self._from = np.sort(given.val if given.val.size else given.train)

    @cached_property
    def rows(self) -> np.ndarray:
        """Of the trials, at most 24."""
        labels = self.data.labels[self._from]
        each = max(1, COLUMNS // len(self.data.concepts))
        return np.concatenate([self._from[labels == label][:each] for label in np.unique(labels)])[: 2 * COLUMNS]

    def shows(self, recipe: Recipe) -> bool:
        """Whether this phase trains what makes the pictures."""
        trained = {id(module) for module in recipe.modules().values()}
        parts = self.net.parts()
        return any(id(parts[name]) in trained for name in PAINTERS if name in parts)

    def draw(self) -> np.ndarray:
        """What the model makes of the trials as it is, (n, 3, resolution, resolution) uint8; it trains on unchanged.

        Noise is keyed by (seed, trial id), the same every time, so what changes is the model.
        """
        net, work = self.net, Work(device=self.device)
        modes = {module: module.training for module in net.modules()}
        net.eval()
        try:
            if isinstance(net, LabelConditioned):
                features = compute.encode_labels(net, self.data.labels[self.rows], work)
            else:
                features = compute.encode(net, self.data.eeg, self.rows, work)
            noise = [keyed_rng("sketches", self.seed, str(trial)) for trial in self.data.trials["trial_id"][self.rows]]
            return compute.generate(net, features, noise, net.resolution, work)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def bound(self, folder: Path, phases: list[str]) -> dict[str, Path]:
        """The notes that ``fit`` left in ``folder``, with what is drawn from them: file name → file."""
        journals = [Journal(folder, phase, 1) for phase in phases]
        found = {journal.path.name: journal.path for journal in journals if journal.path.exists()}
        notes = {journal.phase: journal.lines() for journal in journals}
        noted = {phase: lines for phase, lines in notes.items() if sum(len(line) > 1 for line in lines) > 1}
        if noted:
            found["losses.png"] = folder / "losses.png"
            losses_plot(noted, found["losses.png"])
        for journal in journals:
            if strips := dict(journal.strips()):
                name = f"{journal.phase}.samples.png"
                found[name] = folder / name
                training_sheet(self._shown(), strips, found[name])
        return found

    def _shown(self) -> list[np.ndarray]:
        """The picture of each trial, or one of its class where only that is known."""
        labels = self.data.stimuli.labels
        own = zip(self.data.stimulus_of_trial[self.rows], self.data.labels[self.rows], strict=True)
        return self.data.stimulus_pixels(
            [int(row) if row >= 0 else int(np.argmax(labels == label)) for row, label in own]
        )

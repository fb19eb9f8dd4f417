"""The EEG encoder that Brain2Image and the EEG-conditioned GAN share, its training, and the conditions made of it.

Spampinato, Palazzo, Kavasidis, Giordano, Souly, Shah (2017), "Deep Learning Human Mind for Automated Visual
Classification", CVPR, 6809-6817; script https://github.com/perceivelab/eeg_visual_classification (commit 9108fb4), not
used here. Built from a specification and checked against arrays computed with the authors' class.

An LSTM is trained with a linear classifier behind it, which is then left out. Differences from the authors' script:
every validation trial counts (theirs drops the last batch of a random order), and accuracy is that of trials, not the
mean of batches. Ours are ``eeg_scaling="robust"`` and how conditions and batches of pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from zoo.errors import UsageError
from zoo.models.base import EEGEncoder
from zoo.models.layers import Scaling, check_least, check_positive, epoch_batch, steps_per_epoch
from zoo.models.recipes import device_of, encode_rows, scale_image, trainable, trials_of, update
from zoo.specs import EEGSpec
from zoo.stats import keyed_rng
from zoo.training import Recipe, TrainingData

MAX_MEASURED_TRIALS = 2000


@dataclass(frozen=True)
class ClassifierTrainingConfig:
    eeg_scaling: Literal["none", "robust"] = "none"
    """Input of the encoder: as it is (published; files are z-scored), or scaled by training median and quartiles."""
    encoder_lr: float = 1e-3
    """Learning rate of the encoder's Adam."""
    encoder_batch_size: int = 16
    """Trials per encoder step; the last batch of an epoch may be smaller."""
    encoder_epochs: int = 200
    """Passes over the training trials, as in the released script."""
    encoder_steps: int | None = None
    """Encoder steps, instead of ``encoder_epochs``."""

    def __post_init__(self) -> None:
        check_least(self, 1, "encoder_batch_size")
        check_least(self, 0, "encoder_epochs", "encoder_steps")
        check_positive(self, "encoder_lr")


@dataclass(frozen=True)
class CVPRLSTMConfig(ClassifierTrainingConfig):
    lstm_units: int = 128
    """Units of the LSTM."""
    n_features: int = 128
    """Size of a feature: units of the linear layer behind the LSTM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "lstm_units", "n_features")


class CVPRLSTM(nn.Module):
    """One LSTM layer, then a linear layer and ReLU on its last state; names of tensors as published."""

    def __init__(self, n_channels: int, config: CVPRLSTMConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_channels, config.lstm_units, batch_first=True)
        self.output = nn.Linear(config.lstm_units, config.n_features)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) → (n, n_features), none negative."""
        states, _ = self.lstm(x)
        return F.relu(self.output(states[:, -1]))


class RobustCVPRLSTM(CVPRLSTM, Scaling):
    """The encoder behind a fixed scaling of its input: volts are 1e-5, where a network for z-scores stands still."""

    least = 1e-9

    def __init__(self, n_channels: int, config: CVPRLSTMConfig) -> None:
        super().__init__(n_channels, config)
        self.hold_scaling(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) in the unit it was measured in → (n, n_features), none negative."""
        return super().forward(self.scaled(x))


def build_encoder(spec: EEGSpec, config: CVPRLSTMConfig) -> CVPRLSTM:
    return (CVPRLSTM if config.eeg_scaling == "none" else RobustCVPRLSTM)(spec.n_channels, config)


def measure(encoder: nn.Module, data: TrainingData, device: torch.device) -> None:
    """Show an encoder that scales its input some evenly spaced training trials; others need none."""
    if isinstance(encoder, Scaling):
        spaced = np.linspace(0, len(data.train) - 1, min(len(data.train), MAX_MEASURED_TRIALS)).astype(int)
        encoder.measure(trials_of(data, data.train[spaced], device).transpose(1, 2))


def require_training(data: TrainingData) -> None:
    """Raise unless there is a trial to train on."""
    if not len(data.train):
        raise UsageError("training needs trials in the train role, but the split has none; choose another split.")


class EncoderRecipe(Recipe):
    """Cross-entropy of a classifier on the features; the last best epoch of validation accuracy is kept.

    Args:
        model: Its config has the fields of ``ClassifierTrainingConfig``.
        classifier: A part of the model; without it, a linear one on ``n_features`` that is left out afterwards.
    """

    name = "encoder"
    ties: Literal["earlier", "later"] = "later"
    optimizer: Optimizer

    def __init__(
        self,
        model: EEGEncoder,
        data: TrainingData,
        *,
        family: str,
        seed: int,
        select: Literal["val", "last"],
        classifier: nn.Module | None = None,
    ) -> None:
        config = model.config
        self.model, self.data, self.config, self.key = model, data, config, (family, "encoder", seed)
        require_training(data)
        self.encoder = model.parts()["encoder"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(keyed_rng(*self.key, "classifier").integers(2**63)))
            self.classifier = classifier or nn.Linear(config.n_features, data.n_classes).to(device_of(model))
        self.optimizer = Adam([*trainable(self.encoder), *self.classifier.parameters()], lr=config.encoder_lr)
        measure(self.encoder, data, device_of(model))
        epoch = steps_per_epoch(len(data.train), config.encoder_batch_size)
        self.n_steps = config.encoder_steps if config.encoder_steps is not None else config.encoder_epochs * epoch
        if select == "val" and len(data.val):
            self.eval_every = epoch

    def modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "classifier": self.classifier}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"encoder": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        data, device = self.data, device_of(self.model)
        batch = epoch_batch(step, n=len(data.train), batch_size=self.config.encoder_batch_size, key=self.key)
        rows = data.train[batch]
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        self.encoder.train()
        self.classifier.train()
        logits = self.classifier(self.model.encode(trials_of(data, rows, device)))
        loss = F.cross_entropy(logits, torch.from_numpy(np.asarray(data.labels[rows])).to(device))
        update(self.optimizer, loss, self.encoder, self.classifier)
        return {"cross_entropy": loss.item()}

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy of the classifier on all validation trials."""
        self.classifier.eval()
        guess = self.classifier(encode_rows(self.model, self.data, self.data.val)).argmax(dim=1)
        return float(np.mean(guess.cpu().numpy() == self.data.labels[self.data.val]))


def class_means(features: Tensor, labels: np.ndarray, n_classes: int) -> Tensor:
    """Mean feature of every class, NaN where a class has none.

    Shape:
        features: (n, d); labels: (n,); returns: (n_classes, d).
    """
    member = torch.from_numpy(np.arange(n_classes)[:, None] == labels).to(features.device).double()
    return (member @ features.double() / member.sum(dim=1, keepdim=True)).to(features)


def other_classes(labels: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every label another one, uniformly: labels (n,), all of them in the sorted ``known`` (k,), k ≥ 2."""
    step = rng.integers(1, len(known), size=len(labels))
    return np.asarray(known[(np.searchsorted(known, labels) + step) % len(known)])


class PictureBatches:
    """Training pictures in keyed order with what stands for their EEG: features of training trials of their class.

    Pictures of a class without training trials are left out, since nothing could stand for their EEG.

    Args:
        condition: The right condition: the mean feature of the class, or that of a random trial of it.
        flip: Mirror every picture half of the time.

    Raises:
        UsageError: Fewer than two classes have training trials and a picture.
    """

    def __init__(
        self,
        model: EEGEncoder,
        data: TrainingData,
        *,
        resolution: int,
        batch_size: int,
        condition: Literal["class-mean", "trial"],
        flip: bool,
        key: tuple[str | int, ...],
    ) -> None:
        self._model, self._data, self._resolution, self._key = model, data, resolution, key
        self._batch_size, self._condition, self._flip = batch_size, condition, flip
        self._labels = np.asarray(data.labels[data.train])
        pictured = np.asarray(data.image_labels)
        self._rows = np.flatnonzero(np.isin(pictured, self._labels))
        self.labels = pictured[self._rows]
        self.classes = np.unique(self.labels)
        if len(self.classes) < 2:
            raise UsageError(
                "learning images needs two classes or more with training trials and a picture, "
                f"but there are {len(self.classes)}; choose another split."
            )
        self.steps_per_epoch = steps_per_epoch(len(self._rows), batch_size)

    @cached_property
    def features(self) -> Tensor:
        """Of every training trial; computed at the first step, when the encoder phase is over, then never again."""
        return encode_rows(self._model, self._data, self._data.train)

    @cached_property
    def means(self) -> Tensor:
        """(n_classes, n_features): the condition that stands for each class."""
        return class_means(self.features, self._labels, self._data.n_classes)

    @cached_property
    def pictures(self) -> Tensor:
        """(n, 3, resolution, resolution) in [-1, 1], in main memory."""
        return torch.stack(
            [scale_image(self._data.images[int(row)], self._resolution, antialias=True) for row in self._rows]
        )

    def draw(self, step: int, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """Pictures of a step, (n, 3, resolution, resolution) on the model's device, and their classes, (n,)."""
        rows = epoch_batch(step, n=len(self._rows), batch_size=self._batch_size, key=self._key)
        images = self.pictures[torch.tensor(rows)]
        if self._flip:
            mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)[:, None, None, None]
            images = torch.where(mirrored, images.flip(3), images)
        return images.to(device_of(self._model)), self.labels[rows]

    def right(self, labels: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Conditions (n, n_features) of these classes."""
        if self._condition == "class-mean":
            return self._take(self.means, labels)
        order = np.argsort(self._labels, kind="stable")
        first, last = (np.searchsorted(self._labels[order], labels, side) for side in ("left", "right"))
        return self._take(self.features, order[rng.integers(first, last)])

    def wrong(self, labels: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Conditions (n, n_features) that stand for other classes: their mean features."""
        return self._take(self.means, other_classes(labels, self.classes, rng))

    def _take(self, table: Tensor, rows: Iterable[int] | np.ndarray) -> Tensor:
        return table[torch.tensor(rows, device=table.device)]

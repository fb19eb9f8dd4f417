"""The LSTM classifiers of "Extracting-Image-from-EEG-signals" for MindBigData's digits: common, stacked, per channel.

Repository https://github.com/AliAbyaneh/Extracting-Image-from-EEG-signals (commit e959db6, 2020; bachelor thesis 2019),
not used here; built from a specification. Of the three only ``stacked`` has code there; the others are described in a
README and figures, and **no accuracy of any of them was ever reported**.

==============  ==========================================  ====================================================
network         what is known                               ours
==============  ==========================================  ====================================================
common          an LSTM of 1024 units over 14 channels,     sizes of the two layers (512, 128), ReLU, where the
                two layers with dropout, softmax            batch norm stands
stacked         all of it; ``steps="times"`` is the code,   batch norm over channels in the README's form
                ``"channels"`` what its README says
per-channel     an LSTM stack per channel, concatenated to  units of every layer (256), the last state stands
                14 × 256, softmax; in another figure one    for a channel, what the joint LSTM is given
                LSTM more over the concatenation
==============  ==========================================  ====================================================

The code trains ``stacked`` on three classes (two digits, and a seventh of every other one) with a head of ten, so that
seven outputs never occur, pads short recordings with 0, and takes events without a digit for digit 0. Here the head has
the classes of the dataset, and the dataset has no such trials. Keras' layers, initial values and batch norm are kept,
and so is training: plain SGD 2e-3, batches of 256, 3000 epochs, the best validation accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from zoo.errors import UsageError
from zoo.models.base import Classifier
from zoo.models.cvpr_lstm import ClassifierTrainingConfig, EncoderRecipe
from zoo.models.epoc import KerasBatchNorm, glorot
from zoo.models.layers import check_least, check_shares, configure, keras_lstm
from zoo.models.perceivelab import NetworkClassifier, require_classes
from zoo.models.recipes import trainable
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

SLOPE = 0.3
"""Of Keras' LeakyReLU below zero."""


@dataclass(frozen=True)
class DigitTrainingConfig(ClassifierTrainingConfig):
    """How the repository trains, also its convolutional networks."""

    n_classes: int = 10
    """Classes that the head knows."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Plain SGD as published, or Adam (ours)."""
    encoder_lr: float = 2e-3
    """Learning rate."""
    encoder_batch_size: int = 256
    """Trials per step; the last batch of an epoch may be smaller."""
    encoder_epochs: int = 3000
    """Passes over the training trials."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "n_classes")


@dataclass(frozen=True)
class MindBigDataConfig(DigitTrainingConfig):
    network: Literal["common", "stacked", "per-channel"] = "stacked"
    """Which of the networks."""
    steps: Literal["times", "channels"] = "times"
    """What the stacked LSTM goes along: time, as its code does, or channels, as its README says."""
    stack_units: tuple[int, ...] = (256, 512, 256, 64, 16)
    """Units of the stacked LSTM's layers."""
    dropout: float = 0.5
    """Share of values dropped behind every layer of the stacked LSTM and of the common LSTM's head."""
    common_units: int = 1024
    """Units of the common LSTM."""
    common_hidden: tuple[int, ...] = (512, 128)
    """Units of the layers between the common LSTM and its softmax (ours)."""
    channel_units: int = 256
    """Units of every channel's LSTM."""
    channel_layers: int = 3
    """Layers of every channel's LSTM."""
    joint_lstm: bool = False
    """One LSTM more, along the channels, as in the second figure of the per-channel network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "dropout")
        check_least(self, 1, "common_units", "channel_units", "channel_layers")
        if not self.stack_units or min(*self.stack_units, *self.common_hidden, 1) < 1:
            raise UsageError(
                "stack_units must hold a layer or more, and no layer of it or of common_hidden fewer than 1 unit, but "
                f"they are {self.stack_units} and {self.common_hidden}."
            )


class Network(nn.Module):
    """(n, n_times, n_channels) → (n, n_features); batch norm over channels comes first."""

    n_features: int

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.norm = KerasBatchNorm(n_channels)

    def normed(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) → (n, n_channels, n_times)."""
        made: Tensor = self.norm(x.transpose(1, 2))
        return made


def states(layer: nn.Module, x: Tensor) -> Tensor:
    """(n, n_steps, n_inputs) → (n, n_steps, n_units)."""
    found: Tensor = layer(x)[0]
    return found


class CommonLSTM(Network):
    """One LSTM along the channels, each of them a vector of its samples; all of its states count."""

    def __init__(self, n_channels: int, n_times: int, config: MindBigDataConfig) -> None:
        super().__init__(n_channels)
        self.lstm = keras_lstm(n_times, config.common_units)
        self.n_features = n_channels * config.common_units

    def forward(self, x: Tensor) -> Tensor:
        return states(self.lstm, self.normed(x)).flatten(1)


class StackedLSTM(Network):
    """LSTM layers, each with dropout and LeakyReLU behind it; all states of the last one count."""

    def __init__(self, n_channels: int, n_times: int, config: MindBigDataConfig) -> None:
        super().__init__(n_channels)
        self.along_times, self.dropout = config.steps == "times", config.dropout
        n_steps, n_inputs = (n_times, n_channels) if self.along_times else (n_channels, n_times)
        self.layers = nn.ModuleList(keras_lstm(a, b) for a, b in pairwise((n_inputs, *config.stack_units)))
        self.n_features = n_steps * config.stack_units[-1]

    def forward(self, x: Tensor) -> Tensor:
        made = self.normed(x)
        if self.along_times:
            made = made.transpose(1, 2)
        for layer in self.layers:
            made = F.leaky_relu(F.dropout(states(layer, made), self.dropout, self.training), SLOPE)
        return made.flatten(1)


class PerChannelLSTM(Network):
    """LSTM layers of its own for every channel along time, whose last states are put side by side."""

    def __init__(self, n_channels: int, n_times: int, config: MindBigDataConfig) -> None:
        super().__init__(n_channels)
        n = config.channel_units
        self.channels = nn.ModuleList(
            nn.ModuleList(keras_lstm(n if layer else 1, n) for layer in range(config.channel_layers))
            for _ in range(n_channels)
        )
        self.joint = keras_lstm(n, n) if config.joint_lstm else None
        self.n_features = n_channels * n

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for signal, layers in zip(self.normed(x).unbind(dim=1), self.channels, strict=True):
            made = signal[:, :, None]
            for layer in layers:  # type: ignore[attr-defined]
                made = states(layer, made)
            found.append(made[:, -1])
        side_by_side = torch.stack(found, dim=1)
        return (side_by_side if self.joint is None else states(self.joint, side_by_side)).flatten(1)


NETWORKS: dict[str, type[CommonLSTM | StackedLSTM | PerChannelLSTM]] = {
    "common": CommonLSTM,
    "stacked": StackedLSTM,
    "per-channel": PerChannelLSTM,
}


def make_head(n_features: int, config: MindBigDataConfig) -> nn.Module:
    """What makes logits of features; Glorot-uniform kernels and zero biases as in Keras."""
    sizes = (n_features, *(config.common_hidden if config.network == "common" else ()))
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(config.dropout)]
    head = nn.Sequential(*layers, nn.Linear(sizes[-1], config.n_classes))
    glorot(head)
    return head


def make_optimizer(config: DigitTrainingConfig, parameters: list[nn.Parameter]) -> Optimizer:
    """The one that the config names."""
    return (SGD if config.optimizer == "sgd" else Adam)(parameters, lr=config.encoder_lr)


class DigitRecipe(EncoderRecipe):
    """Cross-entropy of network and head under the optimiser that the config names."""

    def __init__(self, model: Classifier, data: TrainingData, *, classifier: nn.Module, **options: Any) -> None:
        super().__init__(model, data, classifier=classifier, **options)
        self.optimizer = make_optimizer(model.config, [*trainable(self.encoder), *classifier.parameters()])


def build(spec: EEGSpec, **overrides: Any) -> NetworkClassifier:
    """An untrained classifier for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``MindBigDataConfig``, or its value is not possible.
    """
    config = configure(MindBigDataConfig, overrides)
    network = NETWORKS[config.network](spec.n_channels, spec.n_times, config)
    return NetworkClassifier(spec, config, network, make_head(network.n_features, config))


def recipes(
    model: NetworkClassifier, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """One phase, ``encoder``: cross-entropy of network and head together.

    Raises:
        UsageError: The train role is empty, or the dataset has more classes than the head.
    """
    require_classes(model, data)
    return [DigitRecipe(model, data, family="mindbigdata", seed=seed, select=select, classifier=model.classifier)]

"""The EEG classifiers of PeRCeiVe Lab's repository: six networks, each with a head that names the class.

Palazzo et al. (2020), "Decoding Brain Representations by Multimodal Learning of Neural Activity and Visual Features",
TPAMI, https://arxiv.org/abs/1810.10974; repository https://github.com/perceivelab/eeg_visual_classification (commit
9108fb4), not used here. Built from a specification of what its modules compute; lstm, eegchannelnet and eegnet are
checked against arrays computed with those modules.

``semantics="as_run"`` (default) keeps what the modules do, ``"corrected"`` what they are meant to:

==============  =======================================================  ============================================
network         as run                                                   corrected
==============  =======================================================  ============================================
eegchannelnet   batch norm and ReLU before each convolution, so the      as the paper describes it: convolution, batch
                negative half of the EEG is cut off first; 4 dilations;  norm, ReLU; 5 dilations; spatial kernels of
                spatial kernels of 1, 1/2, 1/3, 1/4 of the channels      1, 1/2, 1/4, 1/8 of the channels
eegnet          channel × time memory read as time × channel; sigmoid    transposed; logits; layers that are used;
                before cross-entropy; layers that are never used;        batch norm's usual epsilon
                batch norm without epsilon
syncnet         filter bank read in another order than it is laid out;   permuted; a fixed time axis in samples from
                time axis all zero and trained; the decay never trained  the centre (ours); the decay trained, ≥ 0
==============  =======================================================  ============================================

The released EEGNet (not Lawhern's network of that name) drops features at evaluation, too; here dropout is for training
only. Ours are ``eeg_scaling="robust"`` and all that lets the networks take other recordings than 128 × 440: kernels and
pools are no longer than what they act on, branches of unequal height are cut to the least, and EEGChannelNet has as
many residual stages as fit, at most 4. The order in which siskind mixes channels and filters is not known; a network
that is trained here does not depend on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.models.base import Classifier
from zoo.models.cvpr_lstm import (
    CVPRLSTM,
    ClassifierTrainingConfig,
    CVPRLSTMConfig,
    EncoderRecipe,
)
from zoo.models.layers import Scaled, check_least, configure
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

WITH_DEFECTS = ("eegchannelnet", "eegnet", "syncnet")
NO_EPSILON = float(torch.finfo(torch.float32).tiny)
"""Stands for 0, which torch refuses in training; no variance that is not 0 notices."""


@dataclass(frozen=True)
class PerceivelabConfig(ClassifierTrainingConfig):
    network: Literal["lstm", "eegchannelnet", "eegnet", "syncnet", "siskind", "dense"] = "lstm"
    """Which of the networks."""
    semantics: Literal["as_run", "corrected"] = "as_run"
    """What the released module computes, or what it is meant to (eegchannelnet, eegnet and syncnet)."""
    n_classes: int = 40
    """Classes that the head knows."""
    lstm_units: int = 128
    """Units of the LSTM and of the linear layer behind it."""
    temporal_width: int = 10
    """Channels of each temporal branch of eegchannelnet."""
    spatial_width: int = 50
    """Channels of each spatial branch of eegchannelnet, and of its last convolution."""
    head_units: int = 1000
    """Units of the hidden layer of eegchannelnet's head."""
    filters: int = 128
    """Filters of syncnet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.semantics == "corrected" and self.network not in WITH_DEFECTS:
            raise UsageError(
                f"semantics of network {self.network} must be 'as_run': there is nothing to correct in it."
            )
        check_least(self, 1, "n_classes", "lstm_units", "temporal_width", "spatial_width", "head_units", "filters")


def slid(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Positions of a kernel along ``size`` samples."""
    return (size + 2 * padding - kernel) // stride + 1


class Network(nn.Module):
    """(n, n_times, n_channels) → (n, n_features)."""

    n_features: int


class ConvLayer(nn.Module):
    """Batch norm, ReLU, convolution, dropout of channels (as run), or convolution, batch norm, ReLU, dropout."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm = nn.BatchNorm2d(n_in if norm_first else n_out)
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, dilation)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(F.relu(self.norm(x))) if self.norm_first else F.relu(self.norm(self.conv(x)))
        return F.dropout2d(made, 0.2, self.training)


class Parallel(nn.Module):
    """The same input through several layers, side by side; those with more rows lose the last ones."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        made = [layer(x) for layer in self.layers]
        height = min(one.shape[2] for one in made)
        return torch.cat([one[:, :, :height] for one in made], dim=1)


class Residual(nn.Module):
    """Two 3×3 convolutions with batch norm, added to the input."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.conv2, self.bn2 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class EEGChannelNet(Network):
    """Dilated temporal filters, spatial filters of several heights, residual stages; names of tensors as published."""

    def __init__(self, n_channels: int, n_times: int, config: PerceivelabConfig) -> None:
        super().__init__()
        first = config.semantics == "as_run"
        dilations = (1, 2, 4, 8) if first else (1, 2, 4, 8, 16)
        heights = [max(n_channels // part, 1) for part in ((1, 2, 3, 4) if first else (1, 2, 4, 8))]
        self.temporal_block = Parallel(
            [
                ConvLayer(
                    1,
                    config.temporal_width,
                    (1, 33),
                    stride=(1, 2),
                    padding=(0, 16 * dilation),
                    dilation=(1, dilation),
                    norm_first=first,
                )
                for dilation in dilations
            ]
        )
        self.spatial_block = Parallel(
            [
                ConvLayer(
                    config.temporal_width * len(dilations),
                    config.spatial_width,
                    (height, 1),
                    stride=(2, 1),
                    padding=((height - 1) // 2, 0),
                    norm_first=first,
                )
                for height in heights
            ]
        )
        width, rows = config.spatial_width * len(heights), min(slid(n_channels, h, 2, (h - 1) // 2) for h in heights)
        columns, stages = slid(n_times, 33, 2, 16), 0
        while stages < 4 and min(rows, columns) >= 7:
            rows, columns, stages = slid(rows, 3, 2), slid(columns, 3, 2), stages + 1
        self.res_blocks = nn.ModuleList(
            nn.Sequential(Residual(width), ConvLayer(width, width, (3, 3), stride=(2, 2), norm_first=first))
            for _ in range(stages)
        )
        last = min(3, rows), min(3, columns)
        self.final_conv = ConvLayer(width, config.spatial_width, last, norm_first=first)
        self.n_features = config.spatial_width * slid(rows, last[0]) * slid(columns, last[1])

    def forward(self, x: Tensor) -> Tensor:
        maps = self.spatial_block(self.temporal_block(x.transpose(1, 2)[:, None]))
        for block in self.res_blocks:
            maps = block(maps)
        features: Tensor = self.final_conv(maps).flatten(1)
        return features


class PerceivelabEEGNet(Network):
    """What the repository calls EEGNet: four convolutions with ELU, batch norm and dropout; names as published."""

    def __init__(self, n_channels: int, n_times: int, config: PerceivelabConfig) -> None:
        super().__init__()
        self.as_run = config.semantics == "as_run"
        epsilon = NO_EPSILON if self.as_run else 1e-5
        across = min(32, n_channels)
        shapes = [(1, 16, (1, across)), (n_channels - across + 1, 32, (2, 32)), (32, 64, (8, 4)), (64, 128, (8, 4))]
        if self.as_run:  # made and never used
            shapes += [(128, 256, (8, 4)), (256, 512, (8, 4))]
        for i, (n_in, n_out, kernel) in enumerate(shapes, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(n_in, n_out, kernel))
            self.add_module(f"batchnorm{i}", nn.BatchNorm2d(n_out, eps=epsilon))
        columns, self.pools = slid(n_times + 2, 2, 4), list[tuple[int, int]]()
        for step in (4, 6):
            self.pools.append((min(step, columns), step))
            columns = slid(columns, min(step, columns), step)
        self.n_features = 128 * columns

    def _layer(self, i: int, x: Tensor) -> Tensor:
        made: Tensor = self.get_submodule(f"batchnorm{i}")(F.elu(self.get_submodule(f"conv{i}")(x)))
        return F.dropout(made, 0.25, self.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.as_run:
            x = x.transpose(1, 2).reshape(x.shape)
        x = self._layer(1, x[:, None]).permute(0, 3, 1, 2)
        x = F.max_pool2d(self._layer(2, F.pad(x, (16, 17, 0, 1))), 2, 4)
        for i, (width, step) in enumerate(self.pools, start=3):
            x = F.max_pool2d(self._layer(i, F.pad(x, (2, 1, 4, 3))), (2, width), (2, step))
        return x.flatten(1)


class SyncNet(Network):
    """Filters that oscillate and decay, one convolution with them, the largest value of every 40 samples."""

    WIDTH = 40

    def __init__(self, n_channels: int, n_times: int, config: PerceivelabConfig) -> None:
        super().__init__()
        self.as_run, n = config.semantics == "as_run", config.filters
        self.b = nn.Parameter(torch.empty(1, 1, n_channels, n).uniform_(-0.05, 0.05))
        self.omega = nn.Parameter(torch.empty(1, 1, 1, n).uniform_(0, 1))
        self.phi = nn.Parameter(torch.empty(1, 1, n_channels, n).normal_(0, 0.05))
        self.beta = nn.Parameter(torch.empty(1, 1, 1, n).uniform_(0, 0.05), requires_grad=not self.as_run)
        self.bias = nn.Parameter(torch.zeros(n))
        self.t: Tensor
        if self.as_run:
            self.t = nn.Parameter(torch.zeros(1, self.WIDTH, 1, 1))
        else:
            ramp = torch.arange(self.WIDTH, dtype=torch.float32) - self.WIDTH // 2
            self.register_buffer("t", ramp.view(1, -1, 1, 1))
        self.n_features = n * slid(n_times + self.WIDTH - 1, self.WIDTH, self.WIDTH)

    def bank(self) -> Tensor:
        """The filters, (n_filters, n_channels, 1, 40)."""
        if self.training:  # so that a decay below 0 can return, which a clamp that passes no gradient would hold there
            with torch.no_grad():
                self.beta.clamp_(min=0)
        beta = self.beta.clamp_min(0)
        waves = self.b * torch.cos(self.t * self.omega + self.phi) * torch.exp(-self.t.square() * beta)
        n_channels, n = waves.shape[2:]
        if self.as_run:
            return waves.view(n, n_channels, 1, self.WIDTH)
        return waves.permute(3, 2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        pad = (self.WIDTH // 2 - 1, self.WIDTH // 2)
        filtered = F.conv2d(F.pad(x.transpose(1, 2)[:, :, None], pad), self.bank(), self.bias)
        return F.relu(F.max_pool2d(F.pad(filtered, pad), (1, self.WIDTH)).flatten(1))


class SiskindCNN(Network):
    """Eight temporal filters shared by all channels, 40 mixtures of the results per sample, means over time."""

    FILTERS, MIXTURES = 8, 40

    def __init__(self, n_channels: int, n_times: int, config: PerceivelabConfig) -> None:
        super().__init__()
        kernel = min(32, n_times)
        self.conv = nn.Conv1d(1, self.FILTERS, kernel)
        self.mix = nn.Linear(self.FILTERS * n_channels, self.MIXTURES)
        length = slid(n_times, kernel)
        self.pool = min(128, length)
        self.n_features = self.MIXTURES * slid(length, self.pool, 64)

    def forward(self, x: Tensor) -> Tensor:
        n, n_times, n_channels = x.shape
        each = F.elu(self.conv(x.transpose(1, 2).reshape(n * n_channels, 1, n_times)))
        mixed = F.elu(self.mix(F.dropout(each.view(n, -1, each.shape[2]), 0.5, self.training).transpose(1, 2)))
        means = F.avg_pool1d(mixed.transpose(1, 2), self.pool, 64)
        return F.dropout(means, 0.5, self.training).flatten(1)


class Bottleneck(nn.Module):
    """Adds 12 channels: batch norm, ReLU, 1×1 to 48, batch norm, ReLU, 3×3."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(n_in), nn.Conv2d(n_in, 48, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(48), nn.Conv2d(48, 12, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))], dim=1)


class Transition(nn.Module):
    """Halves channels and, by means of 2×2, the map."""

    def __init__(self, n_in: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.bn, self.conv, self.pool = nn.BatchNorm2d(n_in), nn.Conv2d(n_in, n_in // 2, 1, bias=False), pool

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), self.pool, 2)


class DenseEEG(Network):
    """A DenseNet of three blocks with one bottleneck each on the map of channels by times."""

    def __init__(self, n_channels: int, n_times: int, config: PerceivelabConfig) -> None:
        super().__init__()
        kernel = min(32, n_times)
        rows, columns, blocks, n = n_channels + 2, slid(n_times, kernel, 1, 1), list[nn.Module](), 24
        for _ in range(2):
            pool = min(2, rows), min(2, columns)
            blocks += [Bottleneck(n), Transition(n + 12, pool)]
            rows, columns, n = slid(rows, pool[0], 2), slid(columns, pool[1], 2), (n + 12) // 2
        self.conv = nn.Conv2d(1, 24, (1, kernel), padding=1, bias=False)
        self.blocks = nn.Sequential(*blocks, Bottleneck(n))
        self.bn = nn.BatchNorm2d(n + 12)
        self.pool = min(8, rows), min(8, columns)
        self.n_features = (n + 12) * slid(rows, self.pool[0], 8) * slid(columns, self.pool[1], 8)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                area = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0, (2 / (area * module.out_channels)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.blocks(self.conv(x.transpose(1, 2)[:, None]))
        return F.avg_pool2d(F.relu(self.bn(maps)), self.pool, 8).flatten(1)


OTHERS: dict[str, type[Network]] = {
    "eegchannelnet": EEGChannelNet,
    "eegnet": PerceivelabEEGNet,
    "syncnet": SyncNet,
    "siskind": SiskindCNN,
    "dense": DenseEEG,
}


def make_network(spec: EEGSpec, config: PerceivelabConfig) -> tuple[nn.Module, int]:
    """The network without its head, and the size of its features."""
    if config.network == "lstm":
        sizes = CVPRLSTMConfig(lstm_units=config.lstm_units, n_features=config.lstm_units)
        return CVPRLSTM(spec.n_channels, sizes), config.lstm_units
    network = OTHERS[config.network](spec.n_channels, spec.n_times, config)
    return network, network.n_features


def make_head(n_features: int, config: PerceivelabConfig) -> nn.Module:
    """What makes logits of features; names of tensors as published."""
    if config.network == "eegchannelnet":
        sizes = (n_features, config.head_units, config.n_classes)
        first, second = (nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))
        return nn.Sequential(first, nn.ReLU(), second)
    if config.network == "eegnet":
        layers: list[tuple[str, nn.Module]] = [("fc1", nn.Linear(n_features, config.n_classes))]
        if config.semantics == "as_run":
            layers.append(("sigmoid", nn.Sigmoid()))
        return nn.Sequential(OrderedDict(layers))
    return nn.Linear(n_features, config.n_classes)


class NetworkClassifier(Classifier):
    """A network, behind a scaling of its input if the config asks for it, and a head; of several families.

    Args:
        config: Has ``n_classes`` and the fields of ``ClassifierTrainingConfig``.
        network: (n, n_times, n_channels) → (n, n_features).
        head: (n, n_features) → (n, n_classes).
    """

    def __init__(self, spec: EEGSpec, config: Any, network: nn.Module, head: nn.Module) -> None:
        super().__init__(spec, config)
        self.n_classes = config.n_classes
        self.encoder = network if config.eeg_scaling == "none" else Scaled(network, spec.n_channels)
        self.classifier = head

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "classifier": self.classifier}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features (n_trials, n_features) of EEG (n_trials, n_channels, n_times)."""
        features: Tensor = self.encoder(eeg.transpose(1, 2))
        return features

    def logits(self, features: Tensor) -> Tensor:
        """What the head makes of features: (n, n_features) → (n, n_classes); of eegnet as run, within (0, 1)."""
        found: Tensor = self.classifier(features)
        return found


def require_classes(model: Classifier, data: TrainingData) -> None:
    """Raise unless the head knows as many classes as the dataset has."""
    if data.n_classes > model.n_classes:
        raise UsageError(
            f"n_classes must be at least {data.n_classes}, the number of classes of the dataset, but is "
            f"{model.n_classes}; give n_classes={data.n_classes}."
        )


def build(spec: EEGSpec, **overrides: Any) -> NetworkClassifier:
    """An untrained classifier for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``PerceivelabConfig``, or its value is not possible.
    """
    config = configure(PerceivelabConfig, overrides)
    network, n_features = make_network(spec, config)
    return NetworkClassifier(spec, config, network, make_head(n_features, config))


def recipes(
    model: NetworkClassifier, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """One phase, ``encoder``: cross-entropy of network and head together, as the released script trains them all.

    Raises:
        UsageError: The train role is empty, or the dataset has more classes than the head.
    """
    require_classes(model, data)
    return [EncoderRecipe(model, data, family="perceivelab", seed=seed, select=select, classifier=model.classifier)]

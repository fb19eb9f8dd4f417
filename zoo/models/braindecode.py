"""EEGNet, ShallowNet and Deep4 as the library braindecode has them (extra ``braindecode``), with a recipe of ours.

EEGNet: Lawhern et al. (2018), https://arxiv.org/abs/1611.08024 (braindecode's ``EEGNetv4``). ShallowNet and Deep4:
Schirrmeister et al. (2017), https://doi.org/10.1002/hbm.23730 (``ShallowFBCSPNet``, ``Deep4Net``).

The networks are the library's with its defaults. Ours are the training (Adam 1e-3, batches of 64, 100 epochs, the best
validation accuracy), the scaling of channels, and what lets them take short recordings: filters and pools of ShallowNet
and Deep4 shrink where trials are shorter than 173 and 441 samples. EEGNet's bound on its spatial filters holds
after every step, as in Keras, where the library changes weights in every forward pass, also at inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import MissingError, UsageError
from zoo.models.cvpr_lstm import ClassifierTrainingConfig, EncoderRecipe
from zoo.models.layers import check_least, configure
from zoo.models.perceivelab import NetworkClassifier, require_classes
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

MAX_NORM = 1.0
"""Of every spatial filter of EEGNet."""


@dataclass(frozen=True)
class BraindecodeConfig(ClassifierTrainingConfig):
    network: Literal["eegnet", "shallow", "deep4"] = "eegnet"
    """Which of the networks."""
    n_classes: int = 4
    """Classes that the head knows."""
    eeg_scaling: Literal["none", "robust"] = "robust"
    """Input as it is, or scaled by training median and quartiles (ours)."""
    encoder_batch_size: int = 64
    """Trials per step; the last batch of an epoch may be smaller."""
    encoder_epochs: int = 100
    """Passes over the training trials."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 2, "n_classes")


def sizes(network: str, n_times: int) -> dict[str, int]:
    """Lengths of filters and pools: the library's, or shorter ones where trials are too short for them.

    Raises:
        UsageError: No length would do.
    """
    if network == "eegnet" and n_times >= 32:
        return {}
    if network == "shallow" and n_times >= 8:
        filters = min(25, n_times // 4)
        pool = min(75, (n_times - filters + 2) // 2)
        return {
            "filter_time_length": filters,
            "pool_time_length": pool,
            "pool_time_stride": min(15, max(1, pool // 5)),
        }
    lengths = [(filters, 3) for filters in range(10, 4, -1)] + [(filters, 2) for filters in range(10, 0, -1)]
    for filters, pool in lengths if network == "deep4" else ():
        left = n_times
        for _ in range(4):
            left = (left - filters + 1) // pool
        if left > 0:
            later = {f"filter_length_{i}": filters for i in (2, 3, 4)}
            return {"filter_time_length": filters, "pool_time_length": pool, "pool_time_stride": pool, **later}
    least = {"eegnet": 32, "shallow": 8, "deep4": 16}[network]
    raise UsageError(f"{network} needs trials of at least {least} samples, but they have {n_times}.")


def make_network(spec: EEGSpec, config: BraindecodeConfig) -> nn.Module:
    """The library's network, its logits not normalised."""
    try:
        from braindecode import models
    except ImportError as error:
        raise MissingError(
            f"{config.network} needs braindecode.\nto install it, run: pip install 'eeg-image-zoo[braindecode]'"
        ) from error
    given = {"n_chans": spec.n_channels, "n_outputs": config.n_classes, "n_times": spec.n_times}
    lengths = sizes(config.network, spec.n_times)
    network: nn.Module
    with torch.device("cpu"):  # it calls itself to know its sizes, which it cannot without memory
        if config.network == "eegnet":
            network = models.EEGNetv4(**given)
            network.conv_spatial = unbound(network.get_submodule("conv_spatial"))
        else:
            kind = models.ShallowFBCSPNet if config.network == "shallow" else models.Deep4Net
            network = kind(**given, final_conv_length="auto", add_log_softmax=False, **lengths)
    return network.train().to(torch.empty(0).device)


def unbound(conv: nn.Module) -> nn.Conv2d:
    """The same convolution, which does not change its weights when it is called."""
    assert isinstance(conv, nn.Conv2d)
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, groups=conv.groups, bias=False)  # type: ignore[arg-type]
    with torch.no_grad():
        plain.weight.copy_(conv.weight)
    bind(plain)
    return plain


@torch.no_grad()
def bind(conv: nn.Conv2d) -> None:
    """Shorten every filter that is longer than 1."""
    conv.weight.copy_(torch.renorm(conv.weight, 2, 0, MAX_NORM))


class Body(nn.Module):
    """A network without its last layer: (n, n_times, n_channels) → (n, n_features)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.network.final_layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.network(x.transpose(1, 2))
        return made.flatten(1)


class Head(nn.Module):
    """The last layer: (n, n_features) → (n, n_classes)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        conv = layer.get_submodule("conv_classifier")
        assert isinstance(conv, nn.Conv2d)
        self._maps = conv.in_channels, *conv.kernel_size

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.layer(features.view(-1, *self._maps))
        return made


class BoundRecipe(EncoderRecipe):
    """Cross-entropy; spatial filters of EEGNet are shortened after every step."""

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        losses = super().step(step, rng)
        if self.config.network == "eegnet":
            for name, module in self.encoder.named_modules():
                if name.endswith("conv_spatial") and isinstance(module, nn.Conv2d):
                    bind(module)
        return losses


def build(spec: EEGSpec, **overrides: Any) -> NetworkClassifier:
    """An untrained network for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        MissingError: braindecode is not installed.
        UsageError: An override is no field of ``BraindecodeConfig``, its value is not possible, or trials are short.
    """
    config = configure(BraindecodeConfig, overrides)
    network = make_network(spec, config)
    last = network.get_submodule("final_layer")
    return NetworkClassifier(spec, config, Body(network), Head(last))


def recipes(
    model: NetworkClassifier, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """One phase, ``encoder``: cross-entropy of the whole network.

    Raises:
        UsageError: The train role is empty, or the dataset has more classes than the head.
    """
    require_classes(model, data)
    return [BoundRecipe(model, data, family="braindecode", seed=seed, select=select, classifier=model.classifier)]

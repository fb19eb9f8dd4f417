"""EEGClip: an LSTM and a frozen ResNet-50 with a linear layer each, drawn together by contrast.

Part of Singh et al. (2024), "Learning Robust Deep Visual Representations from EEG Brain Recordings", WACV,
https://arxiv.org/abs/2310.16532; code https://github.com/prajwalsingh/EEGStyleGAN-ADA (commit 3a1fe19), not used here.
Built from a specification; the loss is checked against arrays of the authors' function. Names of tensors as published,
but ``text_encoder``, the EEG's, is ``encoder`` here.

``semantics="as_run"`` (default) keeps what the released code does, ``"corrected"`` what it is meant to:

==============  ======================================================  ============================================
                as run                                                  corrected
==============  ======================================================  ============================================
frozen network  weights stand still, but batch norm computes with the   all of it stands still
                batch's own statistics and keeps a moving average
pictures        stretched to 224, enlarged to 232, the middle 224 of    stretched to 224
                them
result          the last epoch                                          the best validated one
==============  ======================================================  ============================================

The paper calls the LSTM multilayer; the code has one layer. The authors keep batch norm in training mode at test time
too, so that a feature depends on its batch; outputs here never do: they use the moving average. Their retrieval script
cannot run, and their validation divides by 0.5 instead of multiplying by exp(0.5): ``zoo eval`` looks pictures up by
cosine. Ours are ``image_network="extractor"``, where a frozen network of the zoo looks at pictures once and for all,
``eeg_scaling="robust"``, a scale that is trained, and every ``.small`` setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.models.contrastive import ContrastiveConfig, ContrastiveRecipe, ContrastiveRetriever
from zoo.models.eegstylegan_ada import EEG2FeatConfig, ScaledHalves, make_encoder
from zoo.models.layers import check_least, configure, half_max
from zoo.models.pretrained import PIXELS, enlarged, imagenet, load_frozen
from zoo.models.recipes import device_of, trials_of
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

ENLARGED = 232
MAX_MEASURED_TRIALS = 2000


@dataclass(frozen=True)
class EEGClipConfig(ContrastiveConfig):
    semantics: Literal["as_run", "corrected"] = "as_run"
    """What the released code does, or what it is meant to."""
    image_network: Literal["resnet50", "extractor"] = "resnet50"
    """What looks at pictures: the model's own ResNet-50 (as published), or a network of the zoo."""
    extractor: str = "efficientnet-lite0"
    """Which one, with ``image_network="extractor"``."""
    output: str = "features"
    """Which of its outputs."""
    n_image_features: int = 1280
    """How many features it makes."""
    lstm_layers: int = 1
    """Layers of the LSTM (the paper says several)."""
    lstm_units: int = 128
    """Units of each."""
    n_features: int = 256
    """Size of the space that both sides share."""
    eeg_scaling: Literal["half-max", "robust"] = "half-max"
    """Input of the LSTM: as published, or then centred and scaled per channel (median, quartiles of training)."""
    log_scale: float = 0.5
    """Logarithm of what multiplies the cosines."""
    train_scale: bool = False
    """Whether it is trained (ours); published fixed."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam as published."""
    lr: float = 3e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam."""
    batch_size: int = 64
    """Pairs per step; what is left of a pass is dropped (published: it is kept)."""
    epochs: int = 2048
    """Passes over the training pairs; of the epochs saved the published result is the one of 2048."""
    repetitions: Literal["mean", "single"] = "single"
    """Pairs are single trials as published, or means over the repetitions of a picture with one person."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "n_image_features", "lstm_layers", "lstm_units", "n_features")


class Scale(nn.Module):
    """The logarithm of what multiplies cosines."""

    def __init__(self, config: EEGClipConfig) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(config.log_scale), requires_grad=config.train_scale)


class EEGClip(ContrastiveRetriever):
    """The two branches; features of both have unit length."""

    def __init__(self, spec: EEGSpec, config: EEGClipConfig) -> None:
        super().__init__(spec, config)
        self.config: EEGClipConfig = config
        shape = {name: getattr(config, name) for name in ("lstm_layers", "lstm_units", "n_features", "eeg_scaling")}
        self.encoder = make_encoder(spec, EEG2FeatConfig(**shape))
        self.own = config.image_network == "resnet50"
        self.extractor, self.output = (PIXELS, "features") if self.own else (config.extractor, config.output)
        self.n_image_features = 3 * 224 * 224 if self.own else config.n_image_features
        self.image_encoder = resnet50(config.n_features) if self.own else head(self.n_image_features, config.n_features)
        self.scale = Scale(config)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "image_encoder": self.image_encoder, "scale": self.scale}

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which the frozen network's batch norm takes part as run only."""
        super().train(mode)
        if self.own and self.config.semantics == "corrected":
            self.image_encoder.eval()
        return self

    def encode(self, eeg: Tensor) -> Tensor:
        """Features of raw EEG, of unit length.

        Shape:
            eeg: (n_trials, n_channels, n_times); returns: (n_trials, n_features).
        Raises:
            UsageError: The maximum of a trial is 0 or not finite.
        """
        weight = next(self.encoder.parameters())
        features: Tensor = self.encoder(half_max(eeg, family="EEGClip").to(weight))
        return features

    def embed_images(self, features: Tensor) -> Tensor:
        """Pictures in the space of ``encode``, of unit length.

        Shape:
            features: (n, n_image_features); with the own ResNet-50 these are pixels, (n, 3 · 224 · 224) in [0, 1].
            returns: (n, n_features).
        """
        if self.own:
            pixels = features.view(-1, 3, 224, 224)
            if self.config.semantics == "as_run":
                pixels = enlarged(pixels, ENLARGED)
            features = imagenet(pixels)
        return F.normalize(self.image_encoder(features))

    def similarities(self, eeg: Tensor, images: Tensor) -> Tensor:
        """Scaled cosines."""
        return self.scale.log_scale.exp() * eeg @ images.T


def head(n_in: int, n_out: int) -> nn.Sequential:
    """What the authors put behind the frozen network: ReLU, which changes nothing there, and a linear layer."""
    return nn.Sequential(nn.ReLU(), nn.Linear(n_in, n_out, bias=False))


def resnet50(n_features: int) -> nn.Module:
    """ResNet-50 with the head; only that is trained."""
    from torchvision.models import resnet50

    network: nn.Module = resnet50(weights=None).requires_grad_(False)
    network.fc = head(2048, n_features)
    return network


def build(spec: EEGSpec, **overrides: Any) -> EEGClip:
    """An untrained model for these recordings; initial weights come from torch's generator, so seed that first.

    Its ResNet-50 gets ImageNet weights when training begins.

    Raises:
        UsageError: An override is no field of ``EEGClipConfig``, or its value is not possible.
    """
    return EEGClip(spec, configure(EEGClipConfig, overrides))


def recipes(model: EEGClip, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
    """One phase, ``encoder``: both branches together. As run its last epoch is kept, whatever ``select`` says.

    Raises:
        UsageError: Trials have no pictures of their own, there are too few, or the extractor makes another number of
            features.
        MissingError: The ImageNet weights of ResNet-50 are not here; the message says how to fetch them.
    """
    if model.own:
        load_frozen(model.image_encoder, "resnet50")
    if isinstance(model.encoder, ScaledHalves):
        rows = data.train[np.linspace(0, len(data.train) - 1, min(len(data.train), MAX_MEASURED_TRIALS)).astype(int)]
        model.encoder.measure(half_max(trials_of(data, rows, device_of(model)), family="EEGClip"))
    select = "last" if model.config.semantics == "as_run" else select
    return [ContrastiveRecipe(model, data, family="eegclip", seed=seed, select=select)]

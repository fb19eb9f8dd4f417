"""What the families for EPOC recordings share: ThoughtViz' EEG classifier and Gaussian layer, Keras 2.1's arithmetic.

Tirupattur, Rawat, Spampinato, Shah (2018), "ThoughtViz", https://doi.org/10.1145/3240508.3240641; see
``zoo.models.thoughtviz``, whose tests check these pieces against arrays computed with the authors' code. The image
classifier is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.distributed import moments
from zoo.errors import UsageError
from zoo.models.base import EEGEncoder
from zoo.models.layers import KerasAdam, check_least, check_positive, check_shares, epoch_batch, steps_per_epoch
from zoo.models.recipes import device_of, encode_rows, trials_of, update
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

N_FEATURES = 100
"""Entries of the EEG encoding."""
MAX_VALIDATION_TRIALS = 2000
MAX_VALIDATIONS = 100


@dataclass(frozen=True)
class EpocConfig:
    """How the EEG classifier and the image classifier are built and trained."""

    encoder_lr: float = 1e-4
    """Learning rate of the EEG classifier's Nesterov SGD."""
    encoder_decay: float = 1e-6
    """Decay of that rate: after t updates it is lr / (1 + decay · t)."""
    encoder_momentum: float = 0.9
    """Its momentum."""
    encoder_batch_size: int = 128
    """Trials per step of the EEG classifier; the last batch of an epoch may be smaller."""
    encoder_epochs: int = 100
    """Passes over the training trials; the authors of ThoughtViz keep the last."""
    encoder_steps: int | None = None
    """Steps of the EEG classifier, instead of ``encoder_epochs``."""
    image_classifier_width: int = 32
    """Channels after the first convolution of the image classifier; it and what follows are ours."""
    image_classifier_lr: float = 1e-3
    """Learning rate of the image classifier's Adam."""
    image_classifier_batch_size: int = 64
    """Pictures per step of the image classifier."""
    image_classifier_steps: int = 2000
    """Steps of the image classifier, which then is frozen."""
    image_classifier_noise: float = 0.2
    """Standard deviation of the noise on its pictures, of [0, 1]; without it, generators fool it by faint patterns."""

    def __post_init__(self) -> None:
        check_least(self, 1, "encoder_batch_size", "image_classifier_width", "image_classifier_batch_size")
        check_least(self, 0, "encoder_decay", "encoder_epochs", "encoder_steps")
        check_least(self, 0, "image_classifier_steps", "image_classifier_noise")
        check_positive(self, "encoder_lr", "image_classifier_lr")
        check_shares(self, "encoder_momentum")


class KerasBatchNorm(nn.Module):
    """Batch norm as Keras 2.1 computes it: ε is 1e-3 and moving variances are of *biased* batch variances.

    With ``phase_0`` it normalises by the moving statistics in training mode too, no gradient flows through those of the
    batch, and every forward still moves them.
    """

    def __init__(self, n: int, *, momentum: float = 0.99, phase_0: bool = False) -> None:
        super().__init__()
        self.momentum, self.phase_0 = momentum, phase_0
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, …) → the same."""
        moving = (self.running_mean, self.running_var)
        if self.training:
            moving = (self.running_mean.clone(), self.running_var.clone())  # backward needs those from before
            with torch.no_grad():
                mean, variance, _ = moments(x)
                self.running_mean.lerp_(mean, 1 - self.momentum)
                self.running_var.lerp_(variance, 1 - self.momentum)
            if not self.phase_0:
                return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=1e-3)
        return F.batch_norm(x, *moving, self.weight, self.bias, training=False, eps=1e-3)


class KerasSGD(Optimizer):
    """SGD with Nesterov momentum as Keras 2: v ← μv - lr_t·g, θ ← θ + μv - lr_t·g with lr_t = lr / (1 + decay·t)."""

    def __init__(self, params: Any, *, lr: float, decay: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Any) -> float: ...

    @torch.no_grad()
    def step(self, closure: Any = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = float(closure())
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"], state["velocity"] = torch.zeros(()), torch.zeros_like(parameter)
                rate = group["lr"] / (1 + group["decay"] * float(state["step"]))
                state["step"] += 1
                state["velocity"].mul_(group["momentum"]).sub_(parameter.grad, alpha=rate)
                parameter.add_(state["velocity"], alpha=group["momentum"]).sub_(parameter.grad, alpha=rate)
        return loss


def glorot(module: nn.Module) -> None:
    """Glorot-uniform kernels and zero biases, for every dense and convolutional layer within."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def flatten(x: Tensor) -> Tensor:
    """(n, channels, height, width) → (n, height · width · channels), channels fastest as in Keras."""
    return x.permute(0, 2, 3, 1).flatten(1)


def unflatten(x: Tensor, size: int) -> Tensor:
    """(n, size · size · channels), channels fastest → (n, channels, size, size)."""
    return x.reshape(len(x), size, size, -1).permute(0, 3, 1, 2).contiguous()


def binary_cross_entropy(probability: Tensor, target: float) -> Tensor:
    """Mean cross-entropy with the constant ``target``; probabilities are clipped to [1e-7, 1 - 1e-7] as in Keras."""
    p = probability.clamp(1e-7, 1 - 1e-7)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


def cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log of the label's share of (n, n_classes) probabilities, clipped as in Keras."""
    share = probabilities / probabilities.sum(dim=1, keepdim=True)
    return -share.clamp(1e-7, 1 - 1e-7).gather(1, labels[:, None]).log().mean()


def microvolts(eeg: Tensor, spec: EEGSpec) -> Tensor:
    """Volts as microvolts; recordings in arbitrary units as they are."""
    return eeg * 1e6 if spec.unit == "V" else eeg


class Encoder(nn.Module):
    """The EEG classifier up to its encoding: layers 0 to 9 of the published ten-and-two.

    Time is convolved and pooled, channels are merged, then maps and time are convolved as if they were a picture.
    """

    def __init__(self, n_channels: int, n_times: int) -> None:
        super().__init__()
        left = ((n_times - 3) // 3 - 3) // 3
        if left < 1:
            raise UsageError(f"the encoder of ThoughtViz needs trials of at least 21 samples, but they have {n_times}.")
        self.norm_0 = KerasBatchNorm(1)
        self.conv_1 = nn.Conv2d(1, 32, (1, 4))
        self.conv_2 = nn.Conv2d(32, 25, (n_channels, 1))
        self.conv_4 = nn.Conv2d(1, 50, (4, 25))
        self.conv_6 = nn.Conv2d(1, 100, (50, left))
        self.norm_8 = KerasBatchNorm(100)
        self.dense_9 = nn.Linear(100, N_FEATURES)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_channels, n_times) in microvolts, offset included → (n, 100), never negative, not normalised."""
        x = F.relu(self.conv_1(self.norm_0(x[:, None])))
        x = F.max_pool2d(F.relu(self.conv_2(x)), (1, 3))
        x = F.relu(self.conv_4(x.permute(0, 2, 3, 1)))
        x = F.max_pool2d(x.permute(0, 3, 1, 2), (1, 3))
        x = F.relu(self.conv_6(x)).flatten(1)
        return F.relu(self.dense_9(self.norm_8(x)))


class Head(nn.Module):
    """Layers 10 and 11 of the EEG classifier, which train the encoder and are not needed after."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.norm_10 = KerasBatchNorm(N_FEATURES)
        self.dense_11 = nn.Linear(N_FEATURES, n_classes)
        glorot(self)

    def forward(self, features: Tensor) -> Tensor:
        """(n, 100) → (n, n_classes) probabilities."""
        return F.softmax(self.dense_11(self.norm_10(features)), dim=1)


class Gaussian(nn.Module):
    """The trainable Gaussian layer (called mixture of Gaussians): noise · std + mean, entry by entry.

    It is one affine map and no mixture; ``std`` may be negative.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.std = nn.Parameter(torch.empty(n).uniform_(-0.2, 0.2))
        self.mean = nn.Parameter(torch.empty(n).uniform_(-1, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return noise * self.std + self.mean

    def penalty(self) -> Tensor:
        """Σ std², which pulls the layer towards a constant."""
        return self.std.square().sum()


class ImageClassifier(nn.Module):
    """Ours, since the one of the paper is not published: three strided convolutions, mean over the picture, softmax."""

    def __init__(self, n_channels: int, width: int, n_classes: int) -> None:
        super().__init__()
        channels = [n_channels, width, 2 * width, 4 * width]
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))
        self.norm = nn.ModuleList(KerasBatchNorm(n) for n in channels[1:])
        self.dense = nn.Linear(channels[-1], n_classes)
        glorot(self)

    def maps(self, image: Tensor) -> list[Tensor]:
        """(n, channels, height, width), values as generators make them → what each convolution makes of it."""
        x, found = image, []
        for conv, norm in zip(self.conv, self.norm, strict=True):
            x = F.relu(norm(conv(x)))
            found.append(x)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """(n, channels, height, width), values as generators make them → (n, n_classes) probabilities."""
        return F.softmax(self.dense(self.maps(image)[-1].mean(dim=(2, 3))), dim=1)


class EncoderRecipe(Recipe):
    """Cross-entropy of the EEG classifier under Nesterov SGD; validated by its accuracy."""

    name = "encoder"

    def __init__(
        self, model: EEGEncoder, data: TrainingData, *, family: str, seed: int, select: Literal["val", "last"] = "val"
    ) -> None:
        config, self.encoder = model.config, model.parts()["encoder"]
        self.model, self.data, self.key = model, data, (family, "encoder", seed)
        self.head = Head(data.n_classes).to(device_of(model))
        self.optimizer = KerasSGD(
            [*self.encoder.parameters(), *self.head.parameters()],
            lr=config.encoder_lr,
            decay=config.encoder_decay,
            momentum=config.encoder_momentum,
        )
        epoch = steps_per_epoch(len(data.train), config.encoder_batch_size)
        self.n_steps = config.encoder_steps if config.encoder_steps is not None else config.encoder_epochs * epoch
        picked = np.linspace(0, len(data.val) - 1, min(len(data.val), MAX_VALIDATION_TRIALS))
        self.val = np.sort(data.val)[np.round(picked).astype(np.int64)]
        if select == "val" and len(self.val):
            self.eval_every = max(epoch, self.n_steps // MAX_VALIDATIONS)

    def modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "head": self.head}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"encoder": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        size, data = self.model.config.encoder_batch_size, self.data
        rows = data.train[epoch_batch(step, n=len(data.train), batch_size=size, key=self.key)]
        device = device_of(self.model)
        labels = torch.from_numpy(np.asarray(data.labels[rows])).to(device)
        self.encoder.train()
        self.head.train()
        loss = cross_entropy(self.head(self.model.encode(trials_of(data, rows, device))), labels)
        update(self.optimizer, loss, self.encoder, self.head)
        return {"cross-entropy": loss.item()}

    def validate(self) -> float:
        """Accuracy of at most 2000 evenly spaced validation trials."""
        self.head.eval()
        with torch.no_grad():
            found = self.head(encode_rows(self.model, self.data, self.val)).argmax(dim=1).cpu().numpy()
        return float(np.mean(found == self.data.labels[self.val]))


class PictureRows(Protocol):
    """Training pictures by row, in the range of the generator, and the class of each."""

    labels: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> Tensor: ...


class ImageClassifierRecipe(Recipe):
    """Cross-entropy of the image classifier on the training pictures, in an order drawn anew for every pass.

    With ``noise`` that much white noise is added to them, so that a pattern too faint to see is no class to it.
    """

    name = "image_classifier"

    def __init__(
        self,
        classifier: ImageClassifier,
        pictures: PictureRows,
        config: Any,
        *,
        family: str,
        seed: int,
        noise: float = 0.0,
    ) -> None:
        self.config, self.classifier, self.key = config, classifier, (family, "image classifier", seed)
        self.pictures, self.noise = pictures, noise
        self.optimizer = KerasAdam(classifier.parameters(), lr=config.image_classifier_lr, eps=1e-8)
        self.n_steps = config.image_classifier_steps

    def modules(self) -> dict[str, nn.Module]:
        return {"image_classifier": self.classifier}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"image_classifier": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        size = self.config.image_classifier_batch_size
        rows = epoch_batch(step, n=len(self.pictures), batch_size=size, key=self.key)
        device = device_of(self.classifier)
        self.classifier.train()
        images = self.pictures[rows]
        if self.noise:
            images = images + self.noise * torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
        found = self.classifier(images.to(device))
        loss = cross_entropy(found, torch.from_numpy(self.pictures.labels[rows]).to(device))
        update(self.optimizer, loss, self.classifier)
        return {"cross-entropy": loss.item()}

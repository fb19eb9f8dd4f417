"""EEGStyleGAN-ADA: EEG features trained by mined triplets, and a StyleGAN2-ADA that is conditioned on them.

Singh, Dalal, Vashishtha, Miyapuram, Raman (2024), "Learning Robust Deep Visual Representations from EEG Brain
Recordings", WACV, https://arxiv.org/abs/2310.16532; code https://github.com/prajwalsingh/EEGStyleGAN-ADA (commit
3a1fe19), whose GAN is NVIDIA's under a non-commercial licence; neither is used here. Networks and augmentation are in
``zoo.models.stylegan2`` and ``zoo.models.ada``, written from their papers; all is checked against arrays computed with
the original classes.

Differences from the authors' code: the encoder is selected on the validation role, at most 100 times (theirs: every
epoch, for ThoughtViz and Object on the test set); dropout of the CNN encoder acts in training only (theirs never calls
``eval()``); the last GAN weights are kept (theirs: snapshots, chosen by hand); real pictures come in permutations that
follow one another. In a step the generator is updated first; R1 is taken with respect to pictures before their
augmentation. Of ours are ``eeg_scaling="robust"`` and every ``.small`` setting. Style mixing and path length
regularisation, which the published configuration turns off, are not here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from zoo.errors import UsageError
from zoo.models.ada import OPERATIONS, Controller, draw
from zoo.models.base import EEGEncoder, Reconstructor
from zoo.models.layers import (
    Scaled,
    check_least,
    check_positive,
    check_shares,
    configure,
    epoch_batch,
    half_max,
)
from zoo.models.recipes import (
    device_of,
    encode_rows,
    kmeans_accuracy,
    pair_images,
    scale_image,
    trainable,
    trials_of,
    update,
)
from zoo.models.stylegan2 import Discriminator, Generator, Noise, Precision
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

MAX_VALIDATION_TRIALS = 2000
MAX_VALIDATIONS = 100
GENERATOR_INTERVAL = 4
"""Steps between path length regularisations: there are none, but Adam is scaled as if (as published)."""


@dataclass(frozen=True)
class EEG2FeatConfig:
    """The encoder and its training by mined triplets."""

    encoder: Literal["lstm", "cnn"] = "lstm"
    """Kind of encoder; the published GANs are conditioned on the LSTM."""
    lstm_layers: int = 4
    """Layers of the LSTM."""
    lstm_units: int = 128
    """Units of each LSTM layer."""
    cnn_channels: tuple[int, ...] = (128, 256, 512, 1024)
    """Channels of the CNN's layers, each of which halves both axes."""
    cnn_dropout: float = 0.05
    """Dropout behind each layer of the CNN, in training."""
    n_features: int = 128
    """Size of the feature."""
    normalise: bool = True
    """Features of unit length; published without for the CNN on ThoughtViz only."""
    eeg_scaling: Literal["half-max", "robust"] = "half-max"
    """Input of the encoder: as published, or then centred and scaled per channel (median, quartiles of training)."""
    miner_epsilon: float = 0.1
    """How much of a cosine a pair may miss its hardest counterpart by, and still be mined."""
    margin: float = 0.05
    """Margin of the triplet loss."""
    encoder_lr: float = 3e-4
    """Learning rate of the encoder's Adam."""
    encoder_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the encoder's Adam."""
    encoder_batch_size: int = 256
    """Trials per encoder step; what is left of a pass is dropped."""
    encoder_epochs: int = 8192
    """Passes over the training trials (LSTM on EEGCVPR40; the CNN 4096)."""
    encoder_steps: int | None = None
    """Encoder steps, instead of ``encoder_epochs``."""

    def __post_init__(self) -> None:
        check_least(self, 1, "lstm_layers", "lstm_units", "n_features", "encoder_batch_size")
        check_least(self, 0, "margin", "miner_epsilon", "encoder_epochs", "encoder_steps")
        if not self.cnn_channels or min(self.cnn_channels) < 1:
            raise UsageError(f"cnn_channels must be at least 1 each, but are {self.cnn_channels}.")
        check_positive(self, "encoder_lr")
        check_shares(self, "encoder_betas", "cnn_dropout")


@dataclass(frozen=True)
class EEGStyleGANADAConfig(EEG2FeatConfig):
    z_dim: int = 512
    """Entries of the Gaussian noise (the paper's figure says 128)."""
    w_dim: int = 512
    """Size of the generator's intermediate code."""
    resolution: int = 128
    """Height and width of an image; a power of two from 8."""
    channel_base: int = 32768
    """Channels of a map times its size, where that is at most ``channel_max``."""
    channel_max: int = 512
    """Most channels of a map."""
    mapping_layers: int = 2
    """Layers of the generator's mapping; the discriminator's has 8."""
    minibatch_group: int = 32
    """Pictures whose spread the discriminator sees."""
    precision: Precision = "fp16"
    """From 16×16 on: fp16 (as published; on CUDA only, float32 elsewhere), bf16 anywhere, or float32."""
    noise_mode: Literal["random", "const", "none"] = "random"
    """Per-pixel noise of a sample: drawn (as in the published scores), the learnt pictures, or none."""
    truncation: float = 1.0
    """How far samples may be from the mean code; 1 is all the way."""
    gan_batch_size: int = 64
    """Pictures per GAN step."""
    gan_micro_batch: int = 32
    """Pictures computed together; gradients of a step add up over as many rounds as it takes."""
    gan_lr: float = 0.0025
    """Learning rate of both Adams of the GAN, before the correction for lazy regularisation."""
    gan_betas: tuple[float, float] = (0.0, 0.99)
    """Decay rates of both Adams of the GAN, before that correction."""
    r1_gamma: float = 0.01
    """Weight of the R1 penalty."""
    r1_interval: int = 16
    """Steps between R1 penalties."""
    ema_kimg: float = 500.0
    """Half-life of the generator's moving average in thousands of pictures …"""
    ema_rampup: float = 0.05
    """… but no more than this fraction of the pictures seen."""
    operations: tuple[str, ...] = OPERATIONS
    """Augmentations, all of ``bgcfnc`` as published; none turns ADA off."""
    ada_target: float = 0.6
    """Mean sign of the discriminator's outputs for real pictures that the augmentation keeps."""
    ada_interval: int = 4
    """Steps between adjustments of the augmentation's probability."""
    ada_kimg: float = 500.0
    """Thousands of pictures within which the probability can go from 0 to 1."""
    image_pairing: Literal["instance", "class"] = "instance"
    """Picture of a trial: its own (EEGCVPR40), or a random one of its class drawn once per trial (ThoughtViz)."""
    gan_kimg: float = 5500.0
    """Length of GAN training in thousands of pictures (ThoughtViz: 6500)."""
    gan_steps: int | None = None
    """GAN steps, instead of ``gan_kimg``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.resolution
        if size < 8 or size & (size - 1):
            raise UsageError(f"resolution of EEGStyleGAN-ADA must be a power of two from 8, but is {size}; try 128.")
        if self.channel_base < size:
            raise UsageError(f"channel_base must be at least the resolution, {size}, but is {self.channel_base}.")
        if unknown := [name for name in self.operations if name not in OPERATIONS]:
            raise UsageError(f"operations must be among {', '.join(OPERATIONS)}, but hold {unknown[0]!r}.")
        check_least(
            self,
            1,
            "z_dim",
            "w_dim",
            "channel_max",
            "mapping_layers",
            "minibatch_group",
            "gan_batch_size",
            "gan_micro_batch",
        )
        check_least(self, 1, "r1_interval", "ada_interval")
        check_least(self, 0, "r1_gamma", "ema_kimg", "ema_rampup", "gan_kimg", "gan_steps")
        check_positive(self, "gan_lr", "ada_kimg")
        check_shares(self, "gan_betas")
        if self.gan_batch_size % self.round:
            raise UsageError(
                f"gan_batch_size must be a multiple of gan_micro_batch, {self.gan_micro_batch}, "
                f"but is {self.gan_batch_size}."
            )
        if self.round % min(self.minibatch_group, self.round):
            raise UsageError(
                f"pictures computed together must be a multiple of minibatch_group, {self.minibatch_group}, "
                f"but are {self.round}; change gan_batch_size or gan_micro_batch."
            )

    @property
    def round(self) -> int:
        """Pictures of a round of a GAN step."""
        return min(self.gan_batch_size, self.gan_micro_batch)


class LSTMEncoder(nn.Module):
    """Stacked LSTM; the last layer's state of the last time step, a linear layer without bias, unit length."""

    def __init__(self, n_channels: int, config: EEG2FeatConfig) -> None:
        super().__init__()
        self.normalise = config.normalise
        self.encoder = nn.LSTM(n_channels, config.lstm_units, config.lstm_layers, batch_first=True)
        self.fc = nn.Linear(config.lstm_units, config.n_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) as ``half_max`` gives → (n, n_features)."""
        _, (state, _) = self.encoder(x)
        features: Tensor = self.fc(state[-1])
        return F.normalize(features) if self.normalise else features


class CNNEncoder(nn.Module):
    """The recording as a picture of times × channels: strided convolutions, mean of the last map, a linear layer."""

    def __init__(self, n_channels: int, config: EEG2FeatConfig) -> None:
        super().__init__()
        self.normalise = config.normalise
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False),
                    nn.InstanceNorm2d(b),
                    nn.LeakyReLU(0.01),
                    nn.Dropout(config.cnn_dropout),
                )
                for a, b in pairwise((1, *config.cnn_channels))
            )
        )
        self.fc = nn.Sequential(nn.Linear(config.cnn_channels[-1], config.n_features, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) as ``half_max`` gives → (n, n_features)."""
        features: Tensor = self.fc(self.layers(x[:, None]).mean(dim=(2, 3)))
        return F.normalize(features) if self.normalise else features


class ScaledHalves(Scaled):
    """An encoder behind a fixed scaling of what ``half_max`` gives, which has no unit."""

    least = 1e-6


def make_encoder(spec: EEGSpec, config: EEG2FeatConfig) -> nn.Module:
    halvings = len(config.cnn_channels)
    if config.encoder == "cnn" and max(spec.n_times, spec.n_channels) <= 1 << halvings:
        raise UsageError(
            f"the CNN encoder halves both axes {halvings} times and needs more than {1 << halvings} times or channels, "
            f"but the recordings have {spec.n_channels} channels × {spec.n_times} times; use encoder=lstm."
        )
    network: nn.Module = (LSTMEncoder if config.encoder == "lstm" else CNNEncoder)(spec.n_channels, config)
    return network if config.eeg_scaling == "half-max" else ScaledHalves(network, spec.n_channels)


def mined_pairs(unit: Tensor, labels: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs that the multi-similarity miner keeps (Wang et al. 2019, equations 11 and 12).

    A positive is kept if it is no closer than ``epsilon`` to the nearest negative, in cosines, and the reverse.

    Shape:
        unit: (n, d), rows of unit length; labels: (n,); returns: two (n, n) of bool, anchors by row.
    """
    cosine = unit @ unit.T
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=unit.device)
    nearest = cosine.masked_fill(same, -torch.inf).amax(dim=1, keepdim=True)
    farthest = cosine.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    return positive & (cosine - epsilon < nearest), ~same & (cosine + epsilon > farthest)


def mined_triplet_loss(embedding: Tensor, labels: Tensor, *, margin: float = 0.05, epsilon: float = 0.1) -> Tensor:
    """Mean of max(0, d_ap - d_an + margin) over the mined triplets in which it is not 0; 0 if there are none.

    Distances are L2 between rows of unit length, not squared. Triplets are all pairs of a kept positive and a kept
    negative with the same anchor. As pytorch-metric-learning 2.2 computes it.

    Shape:
        embedding: (n, d), of any length; labels: (n,).
    """
    unit = F.normalize(embedding)
    with torch.no_grad():
        positive, negative = mined_pairs(unit, labels, epsilon)
    anchors, others = positive.nonzero(as_tuple=True)
    distance = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    loss = F.relu(distance[anchors, others][:, None] - distance[anchors] + margin) * negative[anchors]
    counted = loss[loss > 0]
    return counted.mean() if len(counted) else loss.sum()


class EEGStyleGANADA(Reconstructor):
    """The encoder, the generator (its moving average), and the discriminator that trains it."""

    def __init__(self, spec: EEGSpec, config: EEGStyleGANADAConfig) -> None:
        super().__init__(spec, config)
        self.config: EEGStyleGANADAConfig = config
        self.resolution = config.resolution
        self.encoder = make_encoder(spec, config)
        size = {key: getattr(config, key) for key in ("resolution", "channel_base", "channel_max", "precision")}
        self.generator = Generator(
            z_dim=config.z_dim,
            c_dim=config.n_features,
            w_dim=config.w_dim,
            mapping_layers=config.mapping_layers,
            **size,
        )
        self.discriminator = Discriminator(c_dim=config.n_features, group=config.minibatch_group, **size)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "discriminator": self.discriminator}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features of raw EEG, of unit length unless ``normalise`` is off.

        Shape:
            eeg: (n_trials, n_channels, n_times); returns: (n_trials, n_features).
        Raises:
            UsageError: The maximum of a trial is 0 or not finite.
        """
        weight = next(self.encoder.parameters())
        features: Tensor = self.encoder(half_max(eeg, family="EEGStyleGAN-ADA").to(weight))
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        """z, and behind it the per-pixel noise of every layer if ``noise_mode`` is random; Gaussian."""
        per_pixel = self.generator.n_noise if self.config.noise_mode == "random" else 0
        return rng.standard_normal(self.config.z_dim + per_pixel, dtype=np.float32)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images in [0, 1] of ``features`` (n, n_features) and ``noise`` as ``draw_noise`` gives."""
        z, per_pixel = noise[:, : self.config.z_dim], noise[:, self.config.z_dim :]
        mode: Noise = per_pixel if self.config.noise_mode == "random" else self.config.noise_mode
        images: Tensor = self.generator(z, features, noise=mode, psi=self.config.truncation)
        return (0.5 * images + 0.5).clamp(0, 1)


def build(spec: EEGSpec, **overrides: Any) -> EEGStyleGANADA:
    """An untrained EEGStyleGAN-ADA for these recordings; initial weights come from torch's generator: seed that first.

    Raises:
        UsageError: An override is no field of ``EEGStyleGANADAConfig``, or its value is not possible.
    """
    return EEGStyleGANADA(spec, configure(EEGStyleGANADAConfig, overrides))


def recipes(
    model: EEGStyleGANADA, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """The phases of training in order: ``encoder``, then ``gan`` if the dataset has pictures.

    Args:
        model: Trained in place, on the device it is on.
        data: Both phases train on its train role; the encoder is validated on its val role, if that has trials.
        seed: Keys the order of trials and the choice of pictures.
        select: Keep the encoder of the best validation, or the last one.

    Raises:
        UsageError: The train role is empty, or a training trial has no picture to be paired with.
    """
    if not len(data.train):
        raise UsageError(
            "training EEGStyleGAN-ADA needs trials in the train role, but the split has none; choose another split."
        )
    phases: list[Recipe] = [EncoderRecipe(model, data, seed=seed, select=select)]
    if data.images:
        phases.append(GANRecipe(model, data, seed=seed))
    return phases


class EncoderRecipe(Recipe):
    """Mined triplets; validated by k-means on the features.

    Args:
        model: Its config is an ``EEG2FeatConfig``, its part ``encoder`` what ``make_encoder`` gives.
    """

    name = "encoder"

    def __init__(self, model: EEGEncoder, data: TrainingData, *, seed: int, select: Literal["val", "last"]) -> None:
        config: EEG2FeatConfig = model.config
        self.encoder = model.parts()["encoder"]
        self.model, self.data, self.key = model, data, ("eegstylegan-ada", "encoder", seed)
        self.optimizer = Adam(trainable(self.encoder), lr=config.encoder_lr, betas=config.encoder_betas)
        if isinstance(self.encoder, ScaledHalves):
            rows = data.train[_spread(len(data.train))]
            self.encoder.measure(half_max(trials_of(data, rows, device_of(model)), family="EEGStyleGAN-ADA"))
        self.epoch = max(len(data.train) // config.encoder_batch_size, 1)
        self.n_steps = config.encoder_steps if config.encoder_steps is not None else config.encoder_epochs * self.epoch
        self.val = np.sort(data.val)[_spread(len(data.val))]
        if select == "val" and len(self.val):
            self.eval_every = max(self.epoch, self.n_steps // MAX_VALIDATIONS)
            if len(self.val) < data.n_classes:
                raise UsageError(
                    f"selecting the encoder by k-means needs a validation trial per class, at least {data.n_classes}, "
                    f"but there are {len(self.val)}; choose another split or select the last weights."
                )

    def modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"encoder": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        config, data, n = self.model.config, self.data, len(self.data.train)
        torch.manual_seed(int(rng.integers(2**63)))  # of dropout
        epoch, part = divmod(step, self.epoch)
        order = epoch_batch(epoch, n=n, batch_size=n, key=self.key)
        rows = data.train[order[part * config.encoder_batch_size : (part + 1) * config.encoder_batch_size]]
        device = device_of(self.model)
        labels = torch.from_numpy(np.asarray(data.labels[rows])).to(device)
        self.encoder.train()
        features = self.model.encode(trials_of(data, rows, device))
        loss = mined_triplet_loss(features, labels, margin=config.margin, epsilon=config.miner_epsilon)
        update(self.optimizer, loss, self.encoder)
        return {"triplet": loss.item()}

    def validate(self) -> float:
        """k-means accuracy of at most 2000 evenly spaced validation trials."""
        features = encode_rows(self.model, self.data, self.val)
        return kmeans_accuracy(features.cpu().numpy(), self.data.labels[self.val], self.data.n_classes)


def _spread(n: int) -> np.ndarray:
    """At most 2000 evenly spaced positions in ``range(n)``."""
    return np.round(np.linspace(0, n - 1, min(n, MAX_VALIDATION_TRIALS))).astype(np.int64)


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of each logit with respect to its image (Mescheder et al. 2018)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def lazy_adam(network: nn.Module, config: EEGStyleGANADAConfig, interval: int) -> Adam:
    """Adam for a loss with one regularisation more in every ``interval`` steps (arXiv 1912.04958, appendix B)."""
    share = interval / (interval + 1)
    first, second = config.gan_betas
    return Adam(network.parameters(), lr=config.gan_lr * share, betas=(first**share, second**share), eps=1e-8)


class GANRecipe(Recipe):
    """Non-saturating loss, lazy R1, adaptive augmentation, moving average, on features of the frozen encoder.

    ``model.generator`` is the moving average; the generator that is trained belongs to the recipe.
    """

    name = "gan"

    def __init__(self, model: EEGStyleGANADA, data: TrainingData, *, seed: int) -> None:
        config = model.config
        self.model, self.data, self.key = model, data, ("eegstylegan-ada", "gan", seed)
        self.picture_of = pair_images(data, seed=seed, pairing=config.image_pairing)
        self.live = copy.deepcopy(model.generator)
        self.controller = Controller(target=config.ada_target, kimg=config.ada_kimg, interval=config.ada_interval).to(
            device_of(model)
        )
        self.generator_optimizer = lazy_adam(self.live, config, GENERATOR_INTERVAL)
        self.discriminator_optimizer = lazy_adam(model.discriminator, config, config.r1_interval)
        steps = -(-int(1000 * config.gan_kimg) // config.gan_batch_size)
        self.n_steps = config.gan_steps if config.gan_steps is not None else steps

    @cached_property
    def features(self) -> Tensor:
        """Of every training trial; computed at the first step, when the encoder phase is over, then never again."""
        return encode_rows(self.model, self.data, self.data.train)

    @cached_property
    def pictures(self) -> dict[int, Tensor]:
        """The pictures some trial is paired with, resized, by row in ``data.images``; they stay in main memory."""
        used = np.unique(self.picture_of)
        return {int(row): scale_image(self.data.images[row], self.model.resolution) for row in used}

    def modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.live,
            "average": self.model.generator,
            "discriminator": self.model.discriminator,
            "controller": self.controller,
        }

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        config, p = self.model.config, float(self.controller.p)
        self.live.train()
        self.model.discriminator.train()
        losses = {
            "generator": self._generator(rng, p),
            "discriminator": self._discriminator(step, rng, p),
        }
        if config.r1_gamma and step % config.r1_interval == 0:
            self._regularise(step, rng, p)
        self.controller.adjust(step)
        self._average(step)
        return {**losses, "p": float(self.controller.p)}

    def _generator(self, rng: np.random.Generator, p: float) -> float:
        """Non-saturating loss of the generator, and its update."""

        def losses() -> Iterator[Tensor]:
            for _ in range(self._rounds):
                images, feature = self._fakes(rng, average=True)
                yield F.softplus(-self._judged(images, feature, rng, p)).mean()

        return self._update(self.generator_optimizer, self.live, losses())

    def _discriminator(self, step: int, rng: np.random.Generator, p: float) -> float:
        """Loss of the discriminator on as many generated as real pictures, and its update."""

        def losses() -> Iterator[Tensor]:
            for images, feature in self._reals(step):
                with torch.no_grad():
                    fakes, other = self._fakes(rng)
                fake = self._judged(fakes, other, rng, p)
                real = self._judged(images, feature, rng, p)
                self.controller.see(real)
                yield F.softplus(fake).mean() + F.softplus(-real).mean()

        return self._update(self.discriminator_optimizer, self.model.discriminator, losses())

    def _regularise(self, step: int, rng: np.random.Generator, p: float) -> None:
        """An update by R1 alone, so much stronger as it is rarer."""
        config = self.model.config

        def losses() -> Iterator[Tensor]:
            for images, feature in self._reals(step):
                images.requires_grad_()
                penalty = r1_penalty(self._judged(images, feature, rng, p), images)
                yield config.r1_interval * config.r1_gamma / 2 * penalty

        self._update(self.discriminator_optimizer, self.model.discriminator, losses())

    def _update(self, optimizer: Optimizer, network: nn.Module, losses: Iterator[Tensor]) -> float:
        """One step of ``network`` alone along the mean of the rounds' losses, which is returned."""
        optimizer.zero_grad()
        parameters, total = trainable(network), 0.0
        for loss in losses:
            torch.autograd.backward(loss / self._rounds, inputs=parameters)
            total += loss.item() / self._rounds
        if self.model.config.precision == "fp16":
            for parameter in parameters:
                if parameter.grad is not None:  # a gradient that overflowed must not end the run
                    torch.nan_to_num_(parameter.grad, nan=0, posinf=1e5, neginf=-1e5)
        optimizer.step()
        return total

    @property
    def _rounds(self) -> int:
        return self.model.config.gan_batch_size // self.model.config.round

    def _fakes(self, rng: np.random.Generator, *, average: bool = False) -> tuple[Tensor, Tensor]:
        """Pictures of one round for features of random training trials, and these."""
        config, device = self.model.config, device_of(self.model)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        feature = self.features[torch.from_numpy(rng.integers(len(self.features), size=config.round)).to(device)]
        z = torch.randn(config.round, config.z_dim, generator=generator, device=device)
        noise = torch.randn(config.round, self.live.n_noise, generator=generator, device=device)
        w = self.live.mapping(z, feature)
        if average:
            self.live.mapping.average(w)
        return self.live.render(w, noise), feature

    def _reals(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The rounds of this step: pictures and the features of their trials; passes follow one another seamlessly."""
        config, device, n = self.model.config, device_of(self.model), len(self.data.train)
        places = np.arange(step * config.gan_batch_size, (step + 1) * config.gan_batch_size)
        batch = np.array([epoch_batch(int(at // n), n=n, batch_size=n, key=self.key)[at % n] for at in places])
        for rows in batch.reshape(self._rounds, -1):
            images = torch.stack([self.pictures[int(row)] for row in self.picture_of[rows]])
            yield images.to(device), self.features[torch.from_numpy(rows).to(device)]

    def _judged(self, images: Tensor, feature: Tensor, rng: np.random.Generator, p: float) -> Tensor:
        """What the discriminator says of augmented pictures."""
        if self.model.config.operations:
            operations = self.model.config.operations
            images = draw(rng, len(images), self.model.resolution, p, operations=operations)(images)
        logits: Tensor = self.model.discriminator(images, feature)
        return logits

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move ``model.generator`` towards the trained one; buffers are copied."""
        config = self.model.config
        half_life = min(1000 * config.ema_kimg, config.ema_rampup * step * config.gan_batch_size)
        keep = 0.5 ** (config.gan_batch_size / max(half_life, 1e-8))
        average = self.model.generator
        for kept, now in zip(average.parameters(), self.live.parameters(), strict=True):
            kept.lerp_(now, 1 - keep)
        for held, value in zip(average.buffers(), self.live.buffers(), strict=True):
            held.copy_(value)

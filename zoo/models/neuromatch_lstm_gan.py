"""Neuromatch LSTM + GAN: a bidirectional LSTM over channels and a DCGAN, a student project of 2023.

Repository https://github.com/Utterbackian/Neuromatch2023_Medical_Imaging, commit 6cd0785 (Neuromatch Academy Deep
Learning 2023); there is no paper and no reported metric. Built from a specification of its runnable notebook.

The defaults are what that notebook computes, faults and all: an LSTM that is never trained, recordings whose memory is
read as rows of another length, one noise vector for ever per record, a generator without tanh on pixels 0 … 255 in the
order blue, green, red, batches of one record, batch norm at inference from the second step on and with initial weights
around 0, and a discriminator that sees neither recording nor class. Each fault is a config field of its own; the preset
``neuromatch-lstm-gan.corrected`` turns all of them.

Ours, since the notebook has none of it: pixels of an unbounded generator become an image by ``clamp(x / 255)`` and the
order red, green, blue; where a recording is shorter than the rows read from it, the memory behind it, uninitialised in
the original, is zero; records come in a random order; the frozen LSTM is the one torch draws right after its seed. All
of training the encoder is ours, and so is how the corrected discriminator is conditioned: by the inner product of its
last map's mean with a projection of the feature (Miyato and Koyama, 2018, https://arxiv.org/abs/1802.05637).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from zoo.errors import UsageError
from zoo.models.base import Reconstructor
from zoo.models.cvpr_lstm import EncoderRecipe
from zoo.models.layers import check_least, check_positive, configure, epoch_batch, standardise, steps_per_epoch
from zoo.models.recipes import device_of, encode_rows, pair_images, scale_image, update
from zoo.specs import EEGSpec
from zoo.stats import keyed_rng
from zoo.training import Recipe, TrainingData


@dataclass(frozen=True)
class NeuromatchConfig:
    window: Literal["resize", "crop"] = "resize"
    """Read the recording's memory as rows of ``n_samples`` (as run), or cut ``crop`` out of it (corrected)."""
    n_samples: int = 491
    """Samples per row with window="resize"."""
    crop: tuple[int, int] = (20, 460)
    """First sample and the one after the last with window="crop"; a shorter recording is taken whole (ours)."""
    eeg_scaling: Literal["none", "standard"] = "none"
    """Input of the encoder: as stored (its data were z-scored), or each channel of a trial standardised (ours)."""
    encoder: Literal["frozen", "trained"] = "frozen"
    """The LSTM keeps its initial weights (as run), or cross-entropy of a linear head trains it (corrected)."""
    encoder_seed: int = 2023
    """Seed of the frozen LSTM's weights."""
    n_features: int = 128
    """Units of the LSTM per layer and direction, and size of the feature."""
    noise: Literal["per-record", "per-step"] = "per-record"
    """Noise is drawn once for every record (as run), or again in every step (corrected)."""
    noise_dim: int = 128
    """Entries of the Gaussian noise."""
    noise_scale: float = 1.0
    """Standard deviation of the noise."""
    pixels: Literal["bgr-bytes", "rgb-signed"] = "bgr-bytes"
    """0 … 255 in the order blue, green, red without tanh (as run), or -1 … 1, red, green, blue with it (corrected)."""
    resolution: int = 64
    """Height and width of an image; a power of two from 8."""
    generator_width: int = 64
    """Half the channels of the generator's last hidden map, doubled towards 4×4 (128 … 1024 at 64)."""
    discriminator_width: int = 64
    """Channels after the discriminator's first convolution, doubled down to 4×4 (64 … 512 at 64)."""
    norm_mean: float = 0.0
    """Mean of the initial batch norm weights, N(mean, 0.02²): 0 (as run), or 1 (corrected)."""
    generator_norm: Literal["eval-after-first", "batch"] = "eval-after-first"
    """Generator's batch norm: at inference from the second step on (as run), or always batch statistics (corrected)."""
    conditional: bool = False
    """Whether the discriminator sees the feature: not as run, corrected by a projection."""
    image_pairing: Literal["instance", "class"] = "instance"
    """Picture of a record: its own, records without one left out (as run), or one of its class, drawn once (ours)."""
    max_records: int | None = 1000
    """Only the first so many training trials that have a picture train the GAN; null for all."""
    encoder_lr: float = 1e-3
    """Learning rate of the encoder's Adam; ours, like all options of this phase."""
    encoder_batch_size: int = 64
    """Trials per encoder step; the last batch of an epoch may be smaller."""
    encoder_epochs: int = 100
    """Passes over the training trials."""
    encoder_steps: int | None = None
    """Encoder steps, instead of ``encoder_epochs``."""
    gan_lr: float = 1e-4
    """Learning rate of both Adams of the GAN."""
    gan_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of both Adams of the GAN."""
    gan_batch_size: int = 1
    """Records per GAN step: 1 (as run), 64 (corrected); the last batch of an epoch may be smaller."""
    gan_ema: float | None = None
    """Decay per step of a moving average of the GAN's weights that replaces them in the end; null as run."""
    gan_epochs: int = 1
    """Passes over the records."""
    gan_steps: int | None = None
    """GAN steps, instead of ``gan_epochs``."""

    def __post_init__(self) -> None:
        check_least(self, 1, "n_samples", "n_features", "noise_dim", "generator_width", "discriminator_width")
        check_least(self, 1, "max_records", "encoder_batch_size", "gan_batch_size")
        check_least(
            self, 0, "encoder_seed", "noise_scale", "encoder_epochs", "encoder_steps", "gan_epochs", "gan_steps"
        )
        check_positive(self, "encoder_lr", "gan_lr")
        size = self.resolution
        if size < 8 or size & (size - 1):
            raise UsageError(
                f"resolution of neuromatch-lstm-gan must be a power of two from 8, but is {size}; try 32 or 64."
            )
        if not 0 <= self.crop[0] < self.crop[1]:
            raise UsageError(f"crop must be a first sample and a later one, from 0, but is {self.crop}.")
        for name in ("gan_betas", "gan_ema"):
            if not all(0 <= decay < 1 for decay in np.atleast_1d(getattr(self, name) or 0)):
                raise UsageError(f"{name} must be at least 0 and less than 1, but is {getattr(self, name)}.")


def resize_rows(eeg: Tensor, n_samples: int) -> Tensor:
    """What ``trial.resize_(n_channels, n_samples)`` makes of each trial, the uninitialised rest being zero here.

    The memory of a trial, channel after channel, is cut into rows of another length: with longer trials the rows run
    on from channel to channel, with shorter ones too, and the last rows are empty.

    Shape:
        eeg: (n_trials, n_channels, n_times); returns: (n_trials, n_channels, n_samples).
    """
    memory, n_channels = eeg.flatten(1), eeg.shape[1]
    return F.pad(memory, (0, n_channels * n_samples - memory.shape[1])).reshape(len(eeg), n_channels, n_samples)


class Encoder(nn.Module):
    """Two bidirectional LSTM layers whose sequence are the *channels*, their mean, and a linear layer."""

    def __init__(self, n_samples: int, n_features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_samples, n_features, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * n_features, n_features)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_channels, n_samples) → (n, n_features)."""
        states, _ = self.lstm(x)
        feature: Tensor = self.out(states.mean(dim=1))
        return feature


class Generator(nn.Module):
    """Feature and noise → pixels: a DCGAN from 1×1 over 4×4 to the resolution; unbounded unless ``tanh``."""

    def __init__(self, n_inputs: int, width: int, resolution: int, *, tanh: bool) -> None:
        super().__init__()
        n_doublings = (resolution // 4).bit_length() - 1
        channels = [n_inputs, *(width << level for level in range(n_doublings, 0, -1))]
        blocks: list[nn.Module] = []
        for level, (a, b) in enumerate(pairwise(channels)):
            stride, padding = (2, 1) if level else (1, 0)
            blocks += [nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        blocks.append(nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1))
        self.blocks = nn.Sequential(*blocks, *([nn.Tanh()] if tanh else []))

    def forward(self, code: Tensor) -> Tensor:
        """(n, n_features + noise_dim), feature first → (n, 3, resolution, resolution)."""
        pixels: Tensor = self.blocks(code[:, :, None, None])
        return pixels


class Discriminator(nn.Module):
    """Pixels → probability of being real; ``n_features`` is null where it does not see the feature."""

    def __init__(self, n_features: int | None, width: int, resolution: int) -> None:
        super().__init__()
        channels = [width << level for level in range((resolution // 4).bit_length() - 1)]
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b in pairwise(channels):
            blocks += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Conv2d(channels[-1], 1, 4, 2, 0)
        self.project = None if n_features is None else nn.Linear(n_features, channels[-1], bias=False)

    def forward(self, pixels: Tensor, feature: Tensor) -> Tensor:
        """(n, 3, resolution, resolution) and (n, n_features) → (n,)."""
        x = self.blocks(pixels)
        logit: Tensor = self.out(x).flatten()
        if self.project is not None:
            logit = logit + (self.project(feature) * x.mean(dim=(2, 3))).sum(dim=1)
        return torch.sigmoid(logit)


def initialise_(network: nn.Module, norm_mean: float) -> None:
    """N(0, 0.02²) for convolutions and N(norm_mean, 0.02²) for batch norm weights; biases as torch draws them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, norm_mean if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)


class NeuromatchLSTMGAN(Reconstructor):
    """The encoder, the generator, and the discriminator that trains it."""

    def __init__(self, spec: EEGSpec, config: NeuromatchConfig) -> None:
        super().__init__(spec, config)
        self.config: NeuromatchConfig = config
        self.resolution = config.resolution
        n_samples = config.n_samples if config.window == "resize" else len(range(spec.n_times)[self.cut])
        with torch.random.fork_rng(devices=[], enabled=config.encoder == "frozen"):
            if config.encoder == "frozen":
                torch.manual_seed(config.encoder_seed)
            self.encoder = Encoder(n_samples, config.n_features)
        self.generator = Generator(
            config.n_features + config.noise_dim,
            config.generator_width,
            config.resolution,
            tanh=config.pixels == "rgb-signed",
        )
        self.discriminator = Discriminator(
            config.n_features if config.conditional else None, config.discriminator_width, config.resolution
        )
        for network in (self.generator, self.discriminator):
            initialise_(network, config.norm_mean)

    @property
    def cut(self) -> slice:
        """The samples that window="crop" keeps: ``crop``, or all where a trial ends before it does."""
        return slice(*self.config.crop) if self.spec.n_times >= self.config.crop[1] else slice(None)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "discriminator": self.discriminator}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features (n_trials, n_features) of raw EEG (n_trials, n_channels, n_times)."""
        x = standardise(eeg) if self.config.eeg_scaling == "standard" else eeg
        x = resize_rows(x, self.config.n_samples) if self.config.window == "resize" else x[:, :, self.cut]
        features: Tensor = self.encoder(x.to(next(self.encoder.parameters())))
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return draw_noise(rng, (self.config.noise_dim,), self.config.noise_scale)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images in [0, 1] of ``features`` (n, n_features) and ``noise`` (n, noise_dim)."""
        pixels: Tensor = self.generator(torch.cat([features, noise], dim=1))
        if self.config.pixels == "rgb-signed":
            return 0.5 * pixels + 0.5
        return (pixels / 255).clamp(0, 1).flip(1)

    def pixels_of(self, image: np.ndarray) -> Tensor:
        """A picture (height, width, 3) uint8 as the discriminator sees it, (3, resolution, resolution)."""
        signed = scale_image(image, self.resolution)
        if self.config.pixels == "rgb-signed":
            return signed
        return (signed * 127.5 + 127.5).round().flip(0)  # OpenCV resizes to whole numbers


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def build(spec: EEGSpec, **overrides: Any) -> NeuromatchLSTMGAN:
    """An untrained model for these recordings; initial weights come from torch's generator, so seed that first.

    A frozen encoder is the same whatever the seed: its weights come from ``encoder_seed``.

    Raises:
        UsageError: An override is no field of ``NeuromatchConfig``, or its value is not possible.
    """
    return NeuromatchLSTMGAN(spec, configure(NeuromatchConfig, overrides))


def recipes(
    model: NeuromatchLSTMGAN, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """The phases of training in order: ``encoder`` if it is trained, then ``gan`` if the dataset has pictures.

    Args:
        model: Trained in place, on the device it is on.
        data: Both phases train on its train role; the encoder is validated on its val role, if that has trials.
        seed: Keys the order of trials, the choice of pictures and the noise of records.
        select: Keep the encoder of the best validation, or the last one.

    Raises:
        UsageError: The train role is empty, nothing is left to train, or a trial has no picture to be paired with.
    """
    if not len(data.train):
        raise UsageError(
            "training neuromatch-lstm-gan needs trials in the train role, but the split has none; choose another split."
        )
    phases: list[Recipe] = []
    if model.config.encoder == "trained":
        phases.append(EncoderRecipe(model, data, family="neuromatch-lstm-gan", seed=seed, select=select))
    elif not data.images:
        raise UsageError(
            "encoder='frozen' leaves only the GAN to train, which needs pictures, but the dataset has none; "
            "use encoder='trained' or a dataset with pictures."
        )
    if data.images:
        phases.append(GANRecipe(model, data, seed=seed))
    return phases


class GANRecipe(Recipe):
    """Binary cross-entropy GAN: the discriminator on real and generated records, then the generator, once a step."""

    name = "gan"

    def __init__(self, model: NeuromatchLSTMGAN, data: TrainingData, *, seed: int) -> None:
        config = model.config
        self.model, self.key = model, ("neuromatch-lstm-gan", "gan", seed)
        self.data = data = with_pictures(data, config)
        self.picture_of = pair_images(data, seed=seed, pairing=config.image_pairing)
        shape = (len(data.train), config.noise_dim)
        self.noise = draw_noise(keyed_rng("record noise", seed), shape, config.noise_scale)
        self.optimizer = {
            name: Adam(part.parameters(), lr=config.gan_lr, betas=config.gan_betas)
            for name, part in (("generator", model.generator), ("discriminator", model.discriminator))
        }
        self.ema_decay = config.gan_ema
        epoch = steps_per_epoch(len(data.train), config.gan_batch_size)
        self.n_steps = config.gan_steps if config.gan_steps is not None else config.gan_epochs * epoch

    @cached_property
    def features(self) -> Tensor:
        """Of every record; computed at the first step, when the encoder phase is over, then never again."""
        return encode_rows(self.model, self.data, self.data.train)

    @cached_property
    def pictures(self) -> dict[int, Tensor]:
        """The pictures some record is paired with, as the discriminator sees them, by row in ``data.images``."""
        return {int(row): self.model.pixels_of(self.data.images[row]) for row in np.unique(self.picture_of)}

    def modules(self) -> dict[str, nn.Module]:
        frozen = {"encoder": self.model.encoder} if self.model.config.encoder == "frozen" else {}
        return {"generator": self.model.generator, "discriminator": self.model.discriminator, **frozen}

    def optimizers(self) -> dict[str, Optimizer]:
        return dict(self.optimizer)

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        model, config, device = self.model, self.model.config, device_of(self.model)
        batch = epoch_batch(step, n=len(self.data.train), batch_size=config.gan_batch_size, key=self.key)
        real = torch.stack([self.pictures[int(row)] for row in self.picture_of[batch]]).to(device)
        feature = self.features[torch.tensor(batch, device=device)]
        fresh = draw_noise(rng, (len(batch), config.noise_dim), config.noise_scale)
        noise = torch.from_numpy(fresh if config.noise == "per-step" else self.noise[batch]).to(device)
        model.generator.train(step == 0 or config.generator_norm == "batch")
        model.discriminator.train()

        fake = model.generator(torch.cat([feature, noise], dim=1))
        judged = model.discriminator(real, feature), model.discriminator(fake.detach(), feature)
        loss = 0.5 * (towards(judged[0], 1.0) + towards(judged[1], 0.0))
        update(self.optimizer["discriminator"], loss, model.discriminator)
        adversarial = towards(model.discriminator(fake, feature), 1.0)
        update(self.optimizer["generator"], adversarial, model.generator)
        return {"discriminator": loss.item(), "generator": adversarial.item()}


def towards(probability: Tensor, target: float) -> Tensor:
    """Binary cross-entropy against the same target for all; logarithms end at -100, as torch defines it."""
    return F.binary_cross_entropy(probability, torch.full_like(probability, target))


def with_pictures(data: TrainingData, config: NeuromatchConfig) -> TrainingData:
    """The same data with the training trials the GAN uses: the first ``max_records`` that have a picture of their own.

    Raises:
        UsageError: No training trial has one, although image_pairing="instance" asks for it.
    """
    rows = data.train
    if config.image_pairing == "instance":
        own = np.full(len(rows), -1) if data.image_of_trial is None else data.image_of_trial[rows]
        rows = rows[own >= 0]
        if not len(rows):
            raise UsageError(
                f"image_pairing='instance' needs training trials with a picture of their own, but none of {len(own)} "
                "has one; use image_pairing='class'."
            )
    return replace(data, train=rows[: config.max_records])

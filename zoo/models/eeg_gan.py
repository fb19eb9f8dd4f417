"""EEG-GAN: a GAN whose discriminator judges whether picture and EEG feature belong together.

Palazzo, Spampinato, Kavasidis, Giordano, Shah (2017), "Generative Adversarial Networks Conditioned by Brain Signals",
ICCV, 3410-3418. No code was released, and only the abstract and a third party's outline of the method could be read.

From those: the LSTM features as condition (``zoo.models.cvpr_lstm``), and three pairs in every discriminator step (real
with its condition, generated with its condition, real with the feature that stands for another class). **All else is a
reconstruction of this zoo**: both networks (DCGAN at 64×64), losses and their weights, mean features of a class as
condition, first training without a condition, flips, initial values, rates and durations. Each is an option;
``augment`` and ``mode_weight`` are in no account of the paper, serve where pictures are few, and are off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from zoo.errors import UsageError
from zoo.models.base import Reconstructor
from zoo.models.cvpr_lstm import (
    CVPRLSTMConfig,
    EncoderRecipe,
    PictureBatches,
    build_encoder,
)
from zoo.models.layers import DiffAug, check_least, check_positive, check_shares, configure, mode_seeking
from zoo.models.recipes import device_of, update
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData


@dataclass(frozen=True)
class EEGGANConfig(CVPRLSTMConfig):
    noise_dim: int = 100
    """Entries of the noise, normally distributed."""
    resolution: int = 64
    """Height and width of an image; a power of two from 8."""
    generator_width: int = 512
    """Channels of the generator's 4×4 map, halved with every doubling of size (512 … 64 at 64)."""
    discriminator_width: int = 64
    """Channels after the discriminator's first convolution, doubled layer by layer (64 … 512 at 64)."""
    condition: Literal["class-mean", "trial"] = "class-mean"
    """What the GAN is trained on: the mean feature of a class, or that of a random trial of it; tests are of trials."""
    wrong_weight: float = 0.5
    """Weight of the pair (real picture, feature of another class)."""
    fake_weight: float = 0.5
    """Weight of the pair (generated picture, its condition)."""
    flip: bool = True
    """Mirror every picture half of the time."""
    gan_lr: float = 2e-4
    """Learning rate of both Adams of the GAN."""
    gan_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of both Adams of the GAN."""
    gan_batch_size: int = 64
    """Pictures per GAN step; the last batch of an epoch may be smaller."""
    unconditional_epochs: int = 200
    """Passes over the training pictures with condition 0, before those with conditions."""
    unconditional_steps: int | None = None
    """Steps with condition 0, instead of ``unconditional_epochs``."""
    gan_epochs: int = 200
    """Passes over the training pictures with conditions."""
    gan_steps: int | None = None
    """Steps with conditions, instead of ``gan_epochs``."""
    augment: bool = False
    """Change colours and place of all that the discriminator sees (DiffAugment); for few pictures, ours."""
    mode_weight: float = 0.0
    """Weight of a mode-seeking term, which keeps pictures of one condition apart; for few pictures, ours."""
    gan_ema: float | None = None
    """Decay per step of a moving average of the GAN's weights that replaces them in the end, or null for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(self.resolution, self.generator_width)
        check_least(self, 1, "noise_dim", "discriminator_width", "gan_batch_size")
        check_least(self, 0, "unconditional_epochs", "unconditional_steps", "gan_epochs", "gan_steps")
        check_least(self, 0, "wrong_weight", "fake_weight", "mode_weight")
        check_positive(self, "gan_lr")
        check_shares(self, "gan_betas", "gan_ema")


def check_widths(resolution: int, width: int, *, name: str = "generator_width") -> None:
    """Raise unless a generator can reach ``resolution`` by doubling from 4×4, halving its width each time."""
    if resolution < 8 or resolution & (resolution - 1):
        raise UsageError(f"resolution must be a power of two from 8, but is {resolution}; try 32 or 64.")
    if width <= 0 or width * 8 % resolution:
        raise UsageError(
            f"{name} must be a multiple of {resolution // 8} to be halved from 4×4 to "
            f"{resolution // 2}×{resolution // 2}, but is {width}; try {resolution * 2}."
        )


class Generator(nn.Module):
    """Noise and condition → image: 1×1 → 4×4 → … → resolution by transposed convolutions, as in DCGAN."""

    def __init__(self, n_inputs: int, width: int, resolution: int) -> None:
        super().__init__()
        channels = [n_inputs, *(width >> level for level in range((resolution // 4).bit_length() - 1))]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2 if level else 1, padding=1 if level else 0, bias=False)
            for level, (a, b) in enumerate(pairwise(channels))
        )
        self.norm = nn.ModuleList(nn.BatchNorm2d(n) for n in channels[1:])
        self.rgb = nn.ConvTranspose2d(channels[-1], 3, 4, stride=2, padding=1)
        self.apply(initialise)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """(n, noise_dim) and (n, n_features) → (n, 3, resolution, resolution) in (-1, 1)."""
        x = torch.cat([noise, condition], dim=1)[:, :, None, None]
        for up, norm in zip(self.up, self.norm, strict=True):
            x = F.relu(norm(up(x)))
        return torch.tanh(self.rgb(x))


class Discriminator(nn.Module):
    """Image and condition → logit: strided convolutions to 4×4, where the condition is repeated and joined."""

    def __init__(self, n_features: int, width: int, resolution: int) -> None:
        super().__init__()
        self.look = down(width, resolution, norm_first=False)
        top = top_channels(width, resolution)
        self.join = nn.Conv2d(top + n_features, top, 1, bias=False)
        self.norm = nn.BatchNorm2d(top)
        self.out = nn.Conv2d(top, 1, 4)
        self.apply(initialise)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """(n, 3, resolution, resolution) and (n, n_features) → (n,)."""
        return self.judge(self.look(image), condition)

    def judge(self, seen: Tensor, condition: Tensor) -> Tensor:
        """Logits (n,) of maps (n, top, 4, 4), as ``look`` makes them, with conditions (n, n_features)."""
        repeated = condition[:, :, None, None].expand(-1, -1, 4, 4)
        x = F.leaky_relu(self.norm(self.join(torch.cat([seen, repeated], dim=1))), 0.2)
        logit: Tensor = self.out(x)
        return logit.flatten()


def down(width: int, resolution: int, *, norm_first: bool) -> nn.Sequential:
    """Strided convolutions from (n, 3, resolution, resolution) to (n, ``top_channels``, 4, 4); batch norm or bias."""
    layers: list[nn.Module] = []
    channels = [3, *(width << level for level in range((resolution // 4).bit_length() - 1))]
    for level, (a, b) in enumerate(pairwise(channels)):
        normed = norm_first or level > 0
        layers.append(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=not normed))
        layers += [nn.BatchNorm2d(b)] if normed else []
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers)


def top_channels(width: int, resolution: int) -> int:
    """Channels of the 4×4 map of ``down``."""
    return width * resolution // 8


def initialise(module: nn.Module) -> None:
    """DCGAN's initial values: kernels N(0, 0.02²), batch norm N(1, 0.02²), every bias 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1 if isinstance(module, nn.BatchNorm2d) else 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class EEGGAN(Reconstructor):
    """The encoder, the generator, and the discriminator that trains it."""

    def __init__(self, spec: EEGSpec, config: EEGGANConfig) -> None:
        super().__init__(spec, config)
        self.config: EEGGANConfig = config
        self.resolution = config.resolution
        self.encoder = build_encoder(spec, config)
        self.generator = Generator(config.noise_dim + config.n_features, config.generator_width, config.resolution)
        self.discriminator = Discriminator(config.n_features, config.discriminator_width, config.resolution)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "discriminator": self.discriminator}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features (n_trials, n_features) of EEG (n_trials, n_channels, n_times)."""
        features: Tensor = self.encoder(eeg.transpose(1, 2))
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(self.config.noise_dim, dtype=np.float32)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images in [0, 1] of ``features`` (n, n_features) and ``noise`` (n, noise_dim)."""
        images: Tensor = self.generator(noise, features)
        return 0.5 * images + 0.5


def build(spec: EEGSpec, **overrides: Any) -> EEGGAN:
    """An untrained EEG-GAN for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``EEGGANConfig``, or its value is not possible.
    """
    return EEGGAN(spec, configure(EEGGANConfig, overrides))


def recipes(model: EEGGAN, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
    """The phases of training: ``encoder``, then ``gan_unconditional`` and ``gan`` if the dataset has pictures.

    A phase of the GAN without steps is left out.

    Args:
        model: Trained in place, on the device it is on.
        data: All phases train on its train role; the encoder is validated on its val role, if that has trials.
        seed: Keys the order of trials and pictures.
        select: Keep the encoder of the best validation, or the last one.

    Raises:
        UsageError: The train role is empty, or fewer than two classes of it have a picture.
    """
    phases: list[Recipe] = [EncoderRecipe(model, data, family="eeg-gan", seed=seed, select=select)]
    if data.images:
        gan = [GANRecipe(model, data, seed=seed, conditional=conditional) for conditional in (False, True)]
        phases += [recipe for recipe in gan if recipe.n_steps]
    return phases


class GANRecipe(Recipe):
    """Matching-aware GAN on conditions made of the frozen encoder's features, or a plain one with condition 0."""

    def __init__(self, model: EEGGAN, data: TrainingData, *, seed: int, conditional: bool) -> None:
        config = model.config
        self.name = "gan" if conditional else "gan_unconditional"
        self.model, self.conditional = model, conditional
        self.batches = PictureBatches(
            model,
            data,
            resolution=config.resolution,
            batch_size=config.gan_batch_size,
            condition=config.condition,
            flip=config.flip,
            key=("eeg-gan", self.name, seed),
        )
        self.generator_optimizer, self.discriminator_optimizer = (
            Adam(part.parameters(), lr=config.gan_lr, betas=config.gan_betas)
            for part in (model.generator, model.discriminator)
        )
        steps, epochs = (
            (config.gan_steps, config.gan_epochs)
            if conditional
            else (config.unconditional_steps, config.unconditional_epochs)
        )
        self.n_steps = steps if steps is not None else epochs * self.batches.steps_per_epoch
        self.ema_decay = config.gan_ema if conditional else None

    def modules(self) -> dict[str, nn.Module]:
        return {"generator": self.model.generator, "discriminator": self.model.discriminator}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        config, device = self.model.config, device_of(self.model)
        real, labels = self.batches.draw(step, rng)
        noise = torch.from_numpy(rng.standard_normal((2, len(real), config.noise_dim), dtype=np.float32)).to(device)
        right = self.batches.right(labels, rng) if self.conditional else real.new_zeros(len(real), config.n_features)
        wrong = self.batches.wrong(labels, rng) if self.conditional else None
        return gan_step(
            self.model,
            real=real,
            right=right,
            wrong=wrong,
            noise=(noise[0], noise[1]),
            augment=[DiffAug.draw(rng, len(real), config.resolution) for _ in range(3)] if config.augment else None,
            optimizers=(self.generator_optimizer, self.discriminator_optimizer),
        )


def matching_aware_loss(
    *, right: Tensor, wrong: Tensor | None, fake: Tensor, wrong_weight: float = 0.5, fake_weight: float = 0.5
) -> Tensor:
    """-[log D(x, c) + w_wrong log(1 - D(x, c')) + w_fake log(1 - D(G(z, c), c))], means over a batch.

    Without wrong pairs it is the plain GAN loss -[log D(x) + log(1 - D(G(z)))].

    Shape:
        right, wrong, fake: (n,) logits of D; D is their sigmoid.
    """
    if wrong is None:
        return F.softplus(-right).mean() + F.softplus(fake).mean()
    mismatch = wrong_weight * F.softplus(wrong).mean() + fake_weight * F.softplus(fake).mean()
    return F.softplus(-right).mean() + mismatch


def gan_step(
    model: EEGGAN,
    *,
    real: Tensor,
    right: Tensor,
    wrong: Tensor | None,
    noise: tuple[Tensor, Tensor],
    augment: list[DiffAug] | None = None,
    optimizers: tuple[Optimizer, Optimizer],
) -> dict[str, float]:
    """One discriminator, then one generator update on the same generated images, with all that is random passed in.

    Shape:
        real: (n, 3, resolution, resolution) in [-1, 1]; right, wrong: (n, n_features).
        noise: two of (n, noise_dim); the second is used by the mode-seeking term alone.
        augment: three draws: of real pictures, of generated ones in the discriminator step, and in the generator step.
        optimizers: of the generator, of the discriminator.
    """
    config, generator, discriminator = model.config, model.generator.train(), model.discriminator.train()
    shown: Sequence[Callable[[Tensor], Tensor]] = augment or [nn.Identity()] * 3
    fake = generator(noise[0], right)

    seen = discriminator.look(shown[0](real))
    loss = matching_aware_loss(
        right=discriminator.judge(seen, right),
        wrong=None if wrong is None else discriminator.judge(seen, wrong),
        fake=discriminator(shown[1](fake.detach()), right),
        wrong_weight=config.wrong_weight,
        fake_weight=config.fake_weight,
    )
    update(optimizers[1], loss, discriminator)

    adversarial = F.softplus(-discriminator(shown[2](fake), right)).mean()
    losses = {"discriminator": loss, "generator": adversarial}
    if config.mode_weight:
        losses["mode"] = mode_seeking((fake, generator(noise[1], right)), noise)
    update(optimizers[0], adversarial + config.mode_weight * losses.get("mode", 0), generator)
    return {name: value.item() for name, value in losses.items()}

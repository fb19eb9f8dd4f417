"""Brain2Image, the variational autoencoder: pictures coded beside the EEG feature that the decoder is given as well.

Kavasidis, Palazzo, Spampinato, Giordano, Shah (2017), "Brain2Image: Converting Brain Signals into Images", ACM
Multimedia, 1809-1817. No code was released, and of the paper only the abstract and accounts by others could be read.

From those: the LSTM features as condition (``zoo.models.cvpr_lstm``) and that one generator is a VAE. **All else is a
reconstruction of this zoo**: networks, loss, mean features of a class as condition, flips, initial values, rates and
durations. Each is an option. The paper's other generator, a GAN, is ``zoo.models.eeg_gan`` without its first phase: the
same group described that one within months, and how the two differ is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from zoo.models.base import Reconstructor
from zoo.models.cvpr_lstm import (
    CVPRLSTMConfig,
    EncoderRecipe,
    PictureBatches,
    build_encoder,
)
from zoo.models.eeg_gan import Generator, check_widths, down, initialise, top_channels
from zoo.models.layers import check_least, check_positive, configure
from zoo.models.recipes import device_of, update
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData


@dataclass(frozen=True)
class Brain2ImageVAEConfig(CVPRLSTMConfig):
    latent_dim: int = 100
    """Entries of the code z."""
    resolution: int = 64
    """Height and width of an image; a power of two from 8."""
    decoder_width: int = 512
    """Channels of the decoder's 4×4 map, halved with every doubling of size (512 … 64 at 64)."""
    image_encoder_width: int = 64
    """Channels after the picture encoder's first convolution, doubled layer by layer (64 … 512 at 64)."""
    condition: Literal["class-mean", "trial"] = "class-mean"
    """What the VAE is trained on: the mean feature of a class, or that of a random trial of it; tests are of trials."""
    beta: float = 1.0
    """Weight of the divergence from the prior N(0, 1) of z."""
    flip: bool = True
    """Mirror every picture half of the time."""
    vae_lr: float = 1e-3
    """Learning rate of the VAE's Adam."""
    vae_batch_size: int = 64
    """Pictures per VAE step; the last batch of an epoch may be smaller."""
    vae_epochs: int = 200
    """Passes over the training pictures."""
    vae_steps: int | None = None
    """VAE steps, instead of ``vae_epochs``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(self.resolution, self.decoder_width, name="decoder_width")
        check_least(self, 1, "latent_dim", "image_encoder_width", "vae_batch_size")
        check_least(self, 0, "beta", "vae_epochs", "vae_steps")
        check_positive(self, "vae_lr")


class ImageEncoder(nn.Module):
    """Image and condition → mean and log variance of z: strided convolutions to 4×4, then one linear layer."""

    def __init__(self, n_features: int, latent_dim: int, width: int, resolution: int) -> None:
        super().__init__()
        self.look = down(width, resolution, norm_first=True)
        self.moments = nn.Linear(top_channels(width, resolution) * 16 + n_features, 2 * latent_dim)
        self.apply(initialise)

    def forward(self, image: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, resolution, resolution) and (n, n_features) → two of (n, latent_dim)."""
        mean, log_variance = self.moments(torch.cat([self.look(image).flatten(1), condition], dim=1)).chunk(2, dim=1)
        return mean, log_variance


class Brain2ImageVAE(Reconstructor):
    """The EEG encoder, the decoder, and the picture encoder that trains it."""

    def __init__(self, spec: EEGSpec, config: Brain2ImageVAEConfig) -> None:
        super().__init__(spec, config)
        self.config: Brain2ImageVAEConfig = config
        self.resolution = config.resolution
        self.encoder = build_encoder(spec, config)
        self.decoder = Generator(config.latent_dim + config.n_features, config.decoder_width, config.resolution)
        self.image_encoder = ImageEncoder(
            config.n_features, config.latent_dim, config.image_encoder_width, config.resolution
        )

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder, "image_encoder": self.image_encoder}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features (n_trials, n_features) of EEG (n_trials, n_channels, n_times)."""
        features: Tensor = self.encoder(eeg.transpose(1, 2))
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        """A code z of the prior: where there is only EEG, nothing else is known of it."""
        return rng.standard_normal(self.config.latent_dim, dtype=np.float32)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images in [0, 1] of ``features`` (n, n_features) and ``noise`` z (n, latent_dim)."""
        images: Tensor = self.decoder(noise, features)
        return 0.5 * images + 0.5


def build(spec: EEGSpec, **overrides: Any) -> Brain2ImageVAE:
    """An untrained VAE for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``Brain2ImageVAEConfig``, or its value is not possible.
    """
    return Brain2ImageVAE(spec, configure(Brain2ImageVAEConfig, overrides))


def recipes(
    model: Brain2ImageVAE, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """The phases of training in order: ``encoder``, then ``vae`` if the dataset has pictures.

    Args:
        model: Trained in place, on the device it is on.
        data: Both phases train on its train role; the encoder is validated on its val role, if that has trials.
        seed: Keys the order of trials and pictures.
        select: Keep the encoder of the best validation, or the last one.

    Raises:
        UsageError: The train role is empty, or fewer than two classes of it have a picture.
    """
    phases: list[Recipe] = [EncoderRecipe(model, data, family="brain2image", seed=seed, select=select)]
    if data.images:
        phases.append(VAERecipe(model, data, seed=seed))
    return phases


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)), summed over entries: (n, d) and (n, d) → (n,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


class VAERecipe(Recipe):
    """Squared error of pixels in [-1, 1], summed over a picture, plus β times the divergence; means over a batch."""

    name = "vae"

    def __init__(self, model: Brain2ImageVAE, data: TrainingData, *, seed: int) -> None:
        config = model.config
        self.model = model
        self.batches = PictureBatches(
            model,
            data,
            resolution=config.resolution,
            batch_size=config.vae_batch_size,
            condition=config.condition,
            flip=config.flip,
            key=("brain2image", "vae", seed),
        )
        self.optimizer = Adam([*model.decoder.parameters(), *model.image_encoder.parameters()], lr=config.vae_lr)
        self.n_steps = (
            config.vae_steps if config.vae_steps is not None else (config.vae_epochs * self.batches.steps_per_epoch)
        )

    def modules(self) -> dict[str, nn.Module]:
        return {"decoder": self.model.decoder, "image_encoder": self.model.image_encoder}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"vae": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        model = self.model
        decoder, image_encoder = model.decoder.train(), model.image_encoder.train()
        real, labels = self.batches.draw(step, rng)
        condition = self.batches.right(labels, rng)
        mean, log_variance = image_encoder(real, condition)
        drawn = torch.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32)).to(device_of(model))
        made = decoder(mean + (0.5 * log_variance).exp() * drawn, condition)
        pixels = (made - real).square().sum(dim=(1, 2, 3)).mean()
        kl = divergence(mean, log_variance).mean()
        update(self.optimizer, pixels + model.config.beta * kl, decoder, image_encoder)
        pixel_loss, kl_loss = torch.stack([pixels.detach(), kl.detach()]).tolist()
        return {"pixels": pixel_loss, "divergence": kl_loss}

"""NeuroGAN: a GAN with self-attention, conditioned on a CNN's encoding of EEG, and taught by a picture network.

Mishra, Sharma, Jha, Bhavsar (2022), "NeuroGAN: image reconstruction from EEG signals via an attention-based GAN",
Neural Computing and Applications, https://doi.org/10.1007/s00521-022-08178-1. **There is no code, and the paper was not
open to us**: this is a reconstruction from what other works say in a line or two, namely ThoughtViz' recordings, a CNN
that encodes EEG, an attention-based GAN with ThoughtViz' trainable Gaussian layer, a pretrained picture classifier that
teaches the generator, and a loss of three terms: adversarial, classification, perceptual.

All that this leaves open is ours and unverified: the encoder (ThoughtViz'), where attention sits and its form (SAGAN,
https://arxiv.org/abs/1805.08318), layers and widths (ThoughtViz' colour networks, the last ReLU left out), batch
statistics and dropout in training, the features of the perceptual term and the weights of all terms, how batches are
drawn, and every rate. A perceptual term compares with a target, and trials have no picture of their own there, so each
trial of a batch is compared with a random picture of its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.foreign import read_torch
from zoo.models.base import Reconstructor
from zoo.models.epoc import (
    N_FEATURES,
    Encoder,
    EncoderRecipe,
    EpocConfig,
    Gaussian,
    ImageClassifier,
    ImageClassifierRecipe,
    KerasBatchNorm,
    binary_cross_entropy,
    cross_entropy,
    flatten,
    glorot,
    microvolts,
    unflatten,
)
from zoo.models.layers import (
    KerasAdam,
    check_least,
    check_positive,
    check_shares,
    configure,
    conv_transpose_same,
    epoch_batch,
    standardise,
    steps_per_epoch,
)
from zoo.models.recipes import device_of, encode_rows, scale_image, trials_of, update
from zoo.specs import EEGSpec
from zoo.store import file_sha256
from zoo.training import Recipe, TrainingData

VGG16_FILE = "vgg16-397923af.pth"
"""torchvision's weights of VGG-16, named after the beginning of their sha256."""
VGG16_LAYERS = {"relu2_2": 9, "relu3_3": 16}
"""How many layers of VGG-16 make these outputs."""


@dataclass(frozen=True)
class NeuroGANConfig(EpocConfig):
    eeg_scaling: Literal["raw", "standard"] = "raw"
    """Input of the encoder: microvolts with their offset, as in ThoughtViz, or each channel of a trial standardised."""
    encoder_in_gan: Literal["frozen", "finetuned"] = "frozen"
    """Whether the generator's loss goes on training the encoder; unverified."""
    noise_dim: int = 100
    """Entries of the noise, uniform in [-1, 1) as in ThoughtViz."""
    resolution: int = 64
    """Height and width of an image; a power of two from 16."""
    generator_width: int = 512
    """Channels of the generator's 4×4 map, halved with every doubling of size (512 … 64 at 64); unverified."""
    generator_attention: int = 2
    """Transposed convolutions before the generator's self-attention (2: 128 channels at 16×16), 0: none; unverified."""
    discriminator_width: int = 16
    """Channels after the discriminator's first convolution, doubled layer by layer; unverified."""
    discriminator_attention: int = 3
    """Convolutions before the discriminator's (3: 64 channels at 14×14, 4: 128 at 12×12), 0: none; unverified."""
    discriminator_dropout: float = 0.5
    """Dropout after every convolution of the discriminator; unverified."""
    perceptual: Literal["vgg16", "image-classifier"] = "vgg16"
    """What compares pictures in the perceptual loss: VGG-16's relu2_2 and relu3_3, or the image classifier's maps."""
    classification_weight: float = 1.0
    """Weight of the image classifier's verdict in the generator's loss; unverified."""
    perceptual_weight: float = 1.0
    """Weight of the mean absolute differences of those features, summed over layers; unverified."""
    gaussian_penalty: float = 0.01
    """Weight of the summed squares of the Gaussian layer's deviations, as in ThoughtViz."""
    generator_lr: float = 5e-5
    """Learning rate of the generator's Adam, as in ThoughtViz' grey networks; unverified."""
    discriminator_lr: float = 5e-5
    """Learning rate of the discriminator's Adam; unverified."""
    gan_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of both Adams; unverified."""
    gan_batch_size: int = 100
    """Trials per GAN step; the last batch of an epoch may be smaller; unverified."""
    gan_ema: float | None = None
    """Decay per step of a moving average of the GAN's weights that replaces them in the end."""
    gan_epochs: int = 500
    """Passes over the training trials; unverified."""
    gan_steps: int | None = None
    """GAN steps, instead of ``gan_epochs``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "noise_dim", "generator_width", "discriminator_width", "gan_batch_size")
        check_least(
            self, 0, "gan_epochs", "gan_steps", "classification_weight", "perceptual_weight", "gaussian_penalty"
        )
        check_positive(self, "generator_lr", "discriminator_lr")
        check_shares(self, "gan_betas", "gan_ema", "discriminator_dropout")
        size = self.resolution
        if size < 16 or size & (size - 1):
            raise UsageError(f"resolution of NeuroGAN must be a power of two from 16, but is {size}; try 32 or 64.")
        if self.generator_width * 8 % size:
            raise UsageError(
                f"generator_width must be a multiple of {size // 8} to be halved from 4×4 to {size}×{size}, "
                f"but is {self.generator_width}; try {16 * (size // 8)}."
            )
        for name, channels in (
            ("generator_attention", self.generator_channels),
            ("discriminator_attention", self.discriminator_channels),
        ):
            after = getattr(self, name)
            if not 0 <= after < len(channels):
                raise UsageError(f"{name} must be a layer from 1 to {len(channels) - 1}, or 0, but is {after}.")
            if after and channels[after] % 8:
                raise UsageError(
                    f"self-attention needs a multiple of 8 channels, but after {after} layers there are "
                    f"{channels[after]}; choose another {name} or width."
                )

    @property
    def generator_channels(self) -> list[int]:
        """Channels of the generator's maps, from 4×4 to half the resolution."""
        return [self.generator_width >> level for level in range((self.resolution // 4).bit_length() - 1)]

    @property
    def discriminator_channels(self) -> list[int]:
        """Channels of a picture and of the discriminator's maps."""
        n_layers = 2 * ((self.resolution // 8).bit_length() - 1)
        return [3, *(self.discriminator_width << level for level in range(n_layers))]


class SelfAttention(nn.Module):
    """Self-attention of SAGAN: x + γ · (values of all pixels, weighted by attention), where γ is 0 at first."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(n_channels, n_channels // 8, 1)
        self.query = nn.Conv2d(n_channels, n_channels // 8, 1)
        self.value = nn.Conv2d(n_channels, n_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def attention(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) → (n, pixels, pixels): row j says how much pixel j takes from each pixel."""
        key, query = self.key(x).flatten(2), self.query(x).flatten(2)
        return F.softmax(query.transpose(1, 2) @ key, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) → the same."""
        taken: Tensor = self.value(x).flatten(2) @ self.attention(x).transpose(1, 2)
        return x + self.gamma * taken.view_as(x)


class Generator(nn.Module):
    """Noise and encoding → 4×4 → … → resolution by transposed convolutions, self-attention among them."""

    def __init__(self, config: NeuroGANConfig) -> None:
        super().__init__()
        channels, self.attend_after = config.generator_channels, config.generator_attention
        self.gaussian = Gaussian(config.noise_dim)
        self.dense_noise = nn.Linear(config.noise_dim, N_FEATURES)
        self.norm_code = KerasBatchNorm(N_FEATURES, momentum=0.8)
        self.dense = nn.Linear(N_FEATURES, 16 * channels[0])
        self.norm = nn.ModuleList(KerasBatchNorm(n, momentum=0.8) for n in channels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 5) for a, b in pairwise([*channels, 3]))
        self.attention = SelfAttention(channels[self.attend_after]) if self.attend_after else None
        glorot(self)

    def forward(self, noise: Tensor, feature: Tensor) -> Tensor:
        """(n, noise_dim) and (n, 100) → (n, 3, resolution, resolution) in (-1, 1)."""
        code = self.norm_code(torch.tanh(self.dense_noise(self.gaussian(noise))) * feature)
        x = unflatten(F.relu(self.dense(code)), 4)
        for level, (norm, up) in enumerate(zip(self.norm, self.up, strict=True)):
            if level:
                x = F.relu(x)
            if self.attention is not None and level == self.attend_after:
                x = self.attention(x)
            x = conv_transpose_same(norm(x), up.weight, up.bias, stride=2)  # type: ignore[arg-type]
        return torch.tanh(x)


class Discriminator(nn.Module):
    """ThoughtViz' unpadded convolutions (leaky ReLU, dropout, batch norm), self-attention among them."""

    def __init__(self, config: NeuroGANConfig) -> None:
        super().__init__()
        channels, self.attend_after = config.discriminator_channels, config.discriminator_attention
        self.dropout = config.discriminator_dropout
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2 - i % 2) for i, (a, b) in enumerate(pairwise(channels)))
        self.norm = nn.ModuleList(KerasBatchNorm(n) for n in channels[1:-1])
        self.attention = SelfAttention(channels[self.attend_after]) if self.attend_after else None
        size = config.resolution
        for _ in range(len(self.conv) // 2):
            size = (size - 3) // 2 + 1 - 2
        self.verdict = nn.Linear(size**2 * channels[-1], 1)
        glorot(self)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, resolution, resolution) in [-1, 1] → probability of being real (n, 1)."""
        x = image
        for layer, conv in enumerate(self.conv, start=1):
            x = F.dropout(F.leaky_relu(conv(x), 0.2), self.dropout, self.training)
            if layer <= len(self.norm):
                x = self.norm[layer - 1](x)
            if self.attention is not None and layer == self.attend_after:
                x = self.attention(x)
        return torch.sigmoid(self.verdict(flatten(x)))


class VGG16(nn.Module):
    """relu2_2 and relu3_3 of VGG-16 (Simonyan and Zisserman 2015) with torchvision's weights, frozen."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        from torchvision.models import vgg16

        with torch.device("meta"):
            self.layers = vgg16().features[: max(VGG16_LAYERS.values())]
        held = {key: state[f"features.{key}"] for key in self.layers.state_dict()}
        self.layers.load_state_dict({key: torch.from_numpy(np.array(v)) for key, v in held.items()}, assign=True)
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def maps(self, image: Tensor) -> list[Tensor]:
        """(n, 3, height, width) in [-1, 1] → (n, 128, height / 2, width / 2), (n, 256, height / 4, width / 4)."""
        x, found = (0.5 * image + 0.5 - self.mean) / self.std, []
        for index, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if index in VGG16_LAYERS.values():
                found.append(x.clone())  # the next layer may overwrite it
        return found


def load_vgg16() -> VGG16:
    """VGG-16 from torchvision's weights, where torch keeps what it downloads; nothing is downloaded.

    Raises:
        MissingError: They are not there.
        IntegrityError: They are not what their name says.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_FILE
    if not path.is_file():
        raise MissingError(
            f"perceptual='vgg16' needs torchvision's {VGG16_FILE}, which is not in {path.parent}.\n"
            "to fetch it, run: python -c \"import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')\"   "
            "or set perceptual=image-classifier"
        )
    found = file_sha256(path)
    if not found.startswith(VGG16_FILE.partition("-")[2].removesuffix(".pth")):
        raise IntegrityError(f"{path} must have the sha256 that its name begins, but has {found[:16]}…; delete it.")
    return VGG16(read_torch(path))


def perceptual_loss(network: VGG16 | ImageClassifier, fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of the network's maps, summed over layers."""
    pairs = zip(network.maps(fake), network.maps(real), strict=True)
    return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in pairs]).sum()


class NeuroGAN(Reconstructor):
    """The encoder, the generator, and the discriminator that trains it."""

    def __init__(self, spec: EEGSpec, config: NeuroGANConfig) -> None:
        super().__init__(spec, config)
        self.config: NeuroGANConfig = config
        self.resolution = config.resolution
        self.encoder = Encoder(spec.n_channels, spec.n_times)
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "discriminator": self.discriminator}

    def encode(self, eeg: Tensor) -> Tensor:
        """Encodings of raw EEG (n_trials, n_channels, n_times): (n_trials, 100), never negative."""
        scaled = standardise(eeg) if self.config.eeg_scaling == "standard" else microvolts(eeg, self.spec)
        features: Tensor = self.encoder(scaled)
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return draw_noise(rng, (self.config.noise_dim,))

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images in [0, 1] of ``features`` (n, 100) and ``noise`` (n, noise_dim)."""
        images: Tensor = self.generator(noise, features)
        return 0.5 * images + 0.5


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def build(spec: EEGSpec, **overrides: Any) -> NeuroGAN:
    """An untrained NeuroGAN for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``NeuroGANConfig``, its value is not possible, or trials are too short.
    """
    return NeuroGAN(spec, configure(NeuroGANConfig, overrides))


def recipes(model: NeuroGAN, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
    """The phases of training in order: ``encoder``, ``image_classifier``, ``gan``; without pictures only the first.

    Args:
        model: Trained in place, on the device it is on.
        data: All phases train on its train role; the encoder is validated on its val role, if that has trials.
        seed: Keys the order of trials and pictures.
        select: Keep the encoder of the best validation accuracy, or the last one.

    Raises:
        UsageError: The train role is empty, or a class has no picture.
        MissingError: The perceptual loss needs VGG-16, whose weights are not here.
    """
    if not len(data.train):
        raise UsageError("training NeuroGAN needs trials in the train role, but the split has none; choose another.")
    phases: list[Recipe] = [EncoderRecipe(model, data, family="neurogan", seed=seed, select=select)]
    if not data.images:
        return phases
    config, pictures = model.config, Pictures(model, data)
    noise = 2 * config.image_classifier_noise  # values span [-1, 1]
    classifier = ImageClassifier(3, config.image_classifier_width, data.n_classes).to(device_of(model))
    judge = load_vgg16().to(device_of(model)) if config.perceptual == "vgg16" else classifier
    return [
        *phases,
        ImageClassifierRecipe(classifier, pictures, config, family="neurogan", seed=seed, noise=noise),
        GANRecipe(model, classifier, judge, pictures, data, seed=seed),
    ]


class Pictures:
    """Training pictures of a dataset at the model's size, in main memory."""

    def __init__(self, model: NeuroGAN, data: TrainingData) -> None:
        self.images, self.resolution, self.labels = data.images, model.resolution, np.asarray(data.image_labels)

    @cached_property
    def _pixels(self) -> Tensor:
        return torch.stack([scale_image(image, self.resolution) for image in self.images])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """(n, 3, resolution, resolution) in [-1, 1]."""
        return self._pixels[torch.from_numpy(rows.copy())]


class GANRecipe(Recipe):
    """One update of the discriminator, then one of the generator, on trials and random pictures of their classes."""

    name = "gan"

    def __init__(
        self,
        model: NeuroGAN,
        classifier: ImageClassifier,
        judge: VGG16 | ImageClassifier,
        pictures: Pictures,
        data: TrainingData,
        *,
        seed: int,
    ) -> None:
        config = model.config
        self.model, self.classifier, self.judge, self.data = model, classifier, judge, data
        self.pictures, self.key = pictures, ("neurogan", "gan", seed)
        self.of_class = {int(label): np.flatnonzero(pictures.labels == label) for label in data.labels[data.train]}
        if lacking := [label for label, rows in sorted(self.of_class.items()) if not len(rows)]:
            raise UsageError(
                f"training the GAN needs a picture of every class, but class {lacking[0]} has none; add one."
            )
        self.learnt = [model.generator, *([model.encoder] if config.encoder_in_gan == "finetuned" else [])]
        self.generator_optimizer = KerasAdam(
            [parameter for module in self.learnt for parameter in module.parameters()],
            lr=config.generator_lr,
            betas=config.gan_betas,
        )
        self.discriminator_optimizer = KerasAdam(
            model.discriminator.parameters(), lr=config.discriminator_lr, betas=config.gan_betas
        )
        self.ema_decay = config.gan_ema
        epoch = steps_per_epoch(len(data.train), config.gan_batch_size)
        self.n_steps = config.gan_steps if config.gan_steps is not None else config.gan_epochs * epoch

    @cached_property
    def features(self) -> Tensor:
        """Of every training trial; computed at the first step, when the encoder phase is over, then never again."""
        return encode_rows(self.model, self.data, self.data.train)

    def feature_of(self, batch: np.ndarray) -> Tensor:
        """Encodings of these training trials, with gradient where the encoder is trained on; its norms are frozen."""
        device = device_of(self.model)
        if self.model.config.encoder_in_gan == "frozen":
            return self.features[torch.from_numpy(batch.copy()).to(device)]
        self.model.encoder.eval()
        return self.model.encode(trials_of(self.data, self.data.train[batch], device))

    def modules(self) -> dict[str, nn.Module]:
        finetuned = {"encoder": self.model.encoder} if self.model.encoder in self.learnt else {}
        return {"generator": self.model.generator, "discriminator": self.model.discriminator, **finetuned}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        model, config, device = self.model, self.model.config, device_of(self.model)
        batch = epoch_batch(step, n=len(self.data.train), batch_size=config.gan_batch_size, key=self.key)
        labels = self.data.labels[self.data.train[batch]]
        shown = np.array([rng.choice(self.of_class[int(label)]) for label in labels])
        noise = torch.from_numpy(draw_noise(rng, (len(batch), config.noise_dim))).to(device)
        torch.manual_seed(int(rng.integers(2**63)))  # of dropout
        return gan_step(
            model,
            self.classifier.eval(),
            self.judge,
            real=self.pictures[shown].to(device),
            feature=self.feature_of(batch),
            noise=noise,
            labels=torch.from_numpy(np.asarray(labels)).to(device),
            learnt=self.learnt,
            optimizers=(self.generator_optimizer, self.discriminator_optimizer),
        )


def gan_step(
    model: NeuroGAN,
    classifier: ImageClassifier,
    judge: VGG16 | ImageClassifier,
    *,
    real: Tensor,
    feature: Tensor,
    noise: Tensor,
    labels: Tensor,
    learnt: list[nn.Module],
    optimizers: tuple[Optimizer, Optimizer],
) -> dict[str, float]:
    """The discriminator on real and generated pictures, then the generator on its three terms.

    Args:
        classifier: Frozen; its verdict on generated pictures is the second term.
        judge: Its maps make the third term.
        learnt: What the generator's loss updates.

    Shape:
        real: (n, 3, resolution, resolution) in [-1, 1], pictures of the trials' classes; feature: (n, 100).
        noise: (n, noise_dim); labels: (n,).
        optimizers: of the generator, of the discriminator.
    """
    config, generator, discriminator = model.config, model.generator.train(), model.discriminator.train()
    fake = generator(noise, feature)
    loss = binary_cross_entropy(discriminator(real), 1.0) + binary_cross_entropy(discriminator(fake.detach()), 0.0)
    update(optimizers[1], loss, discriminator)

    adversarial = binary_cross_entropy(discriminator(fake), 1.0)
    verdict = cross_entropy(classifier(fake), labels)
    perceptual = perceptual_loss(judge, fake, real)
    total = adversarial + config.classification_weight * verdict + config.perceptual_weight * perceptual
    update(optimizers[0], total + config.gaussian_penalty * generator.gaussian.penalty(), *learnt)
    names = ("discriminator", "generator", "class", "perceptual")
    return dict(zip(names, torch.stack([loss, adversarial, verdict, perceptual]).tolist(), strict=True))

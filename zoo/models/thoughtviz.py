"""ThoughtViz: a CNN that classifies EEG, and a GAN conditioned on its encoding; AC-GAN and DeLiGAN as its baselines.

Tirupattur, Rawat, Spampinato, Shah (2018), "ThoughtViz: Visualizing Human Thoughts Using Generative Adversarial
Network", ACM Multimedia, 950-958, https://doi.org/10.1145/3240508.3240641; code https://github.com/ptirupat/ThoughtViz
(commit 01b25d3, Keras 2.1), not used here. Built from a specification and checked against arrays computed with it.

``semantics="as_run"`` (default) is what the scripts with EEG compute: with Keras' learning phase fixed to 0, dropout is
off and batch norm uses its moving statistics in training too, forward and backward, yet keeps updating them.
``"as_intended"`` trains with batch statistics and dropout, as the scripts with labels do.

Differences from the authors' code: the GAN sees encodings of training windows only (theirs: of the *test* windows,
which no recipe here is given, so in this ``as_run`` is not theirs); pictures are mirrored after the split (theirs:
before, so that a picture and its mirror could fall on both sides). Ours are the image classifier whose verdict trains
the generator (theirs is not published), the encoder's last kernel over all the time that is left (32 samples leave the
published 2), and the sizes other than 28 and 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.models.base import LabelConditioned, Reconstructor
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
    conv_same,
    conv_transpose_same,
)
from zoo.models.recipes import device_of, encode_rows, update
from zoo.specs import EEGSpec
from zoo.stats import keyed_rng
from zoo.training import Recipe, TrainingData


@dataclass(frozen=True)
class ThoughtVizConfig(EpocConfig):
    gan: Literal["thoughtviz", "acgan", "deligan"] = "thoughtviz"
    """ThoughtViz, or one of its baselines, whose discriminators learn the classes themselves."""
    condition: Literal["eeg", "label"] = "eeg"
    """What the generator is given: the encoding of a trial, or the true class as one-hot vector (a control)."""
    colour: Literal["rgb", "grey"] = "rgb"
    """Networks for colour pictures in [0, 1], or for grey ones in [-1, 1] (digits and characters)."""
    resolution: int = 64
    """Height and width: a power of two from 16 in colour (published 64), a multiple of 4 from 12 in grey (28)."""
    mirror: bool = True
    """Train on the mirrored pictures too, as published for objects."""
    invert: bool = False
    """Train on grey pictures with dark and light exchanged, as published for characters; images are turned back."""
    noise_dim: int = 100
    """Entries of the noise, uniform in [-1, 1)."""
    n_classes: int = 10
    """Entries of the one-hot condition; without effect where EEG is the condition."""
    generator_width: int = 512
    """Channels of the colour generator's 4×4 map, halved with every doubling of size."""
    discriminator_width: int = 16
    """Channels after the colour discriminator's first convolution, doubled layer by layer."""
    semantics: Literal["as_run", "as_intended"] = "as_run"
    """What the scripts with EEG compute in training, or batch statistics and dropout."""
    conditions: Literal["train", "val"] = "train"
    """Role whose encodings condition the GAN in training; the authors took those of the test windows."""
    gaussian_penalty: float = 0.01
    """Weight of the summed squares of the Gaussian layer's deviations in the generator's loss."""
    class_weight: float = 1.0
    """Weight of the classes in the generator's loss."""
    generator_lr: float = 3e-5
    """Learning rate of the generator's Adam."""
    discriminator_lr: float = 5e-5
    """Learning rate of the discriminator's Adam."""
    gan_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of both Adams."""
    gan_batch_size: int = 100
    """Pictures per GAN step."""
    gan_ema: float | None = None
    """Decay per step of a moving average of the GAN's weights that replaces them in the end; null as published."""
    gan_epochs: int = 10000
    """Passes over the training pictures, always in the same order; what is left of a batch is dropped."""
    gan_steps: int | None = None
    """GAN steps, instead of ``gan_epochs``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.resolution
        if self.colour == "rgb" and (size < 16 or size & (size - 1)):
            raise UsageError(f"resolution must be a power of two from 16 in colour, but is {size}; try 32 or 64.")
        if self.colour == "grey" and (size < 12 or size % 4):
            raise UsageError(f"resolution must be a multiple of 4 from 12 in grey, but is {size}; try 28.")
        if self.colour == "rgb" and self.generator_width * 8 % size:
            raise UsageError(
                f"generator_width must be a multiple of {size // 8} to be halved from 4×4 to {size}×{size}, "
                f"but is {self.generator_width}; try {16 * (size // 8)}."
            )
        check_least(self, 1, "noise_dim", "n_classes", "generator_width", "discriminator_width", "gan_batch_size")
        check_least(self, 0, "gaussian_penalty", "class_weight", "gan_epochs", "gan_steps")
        check_positive(self, "generator_lr", "discriminator_lr")
        check_shares(self, "gan_betas", "gan_ema")


# --- networks --------------------------------------------------------------------------------------------------------


class Code(nn.Module):
    """Noise and condition → the generator's first vector; here the three GANs differ.

    ThoughtViz: Gaussian noise beside the condition (grey), or multiplied by it after a dense layer (colour). AC-GAN:
    noise beside the condition. DeLiGAN: as ThoughtViz in grey; in colour the Gaussian layer covers the condition too.
    """

    def __init__(self, config: ThoughtVizConfig, n_condition: int) -> None:
        super().__init__()
        colour, self.n_noise = config.colour == "rgb", config.noise_dim
        self.whole = colour and config.gan == "deligan"
        self.gaussian = Gaussian(self.n_noise + n_condition * self.whole) if config.gan != "acgan" else None
        self.dense = nn.Linear(self.n_noise, n_condition) if colour and config.gan == "thoughtviz" else None
        self.n_outputs = n_condition if self.dense is not None else self.n_noise + n_condition

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """(n, noise_dim) and (n, n_condition) → (n, n_outputs)."""
        if self.gaussian is not None and not self.whole:
            noise = self.gaussian(noise)
        if self.dense is not None:
            return torch.tanh(self.dense(noise)) * condition
        both = torch.cat([noise, condition], dim=1)
        return self.gaussian(both) if self.gaussian is not None and self.whole else both


class ColourGenerator(nn.Module):
    """Code → 4×4 → … → resolution by transposed convolutions of stride 2.

    The last one has a ReLU *before* its tanh, as published: values are in [0, 1), and a black pixel gets no gradient.
    """

    def __init__(self, config: ThoughtVizConfig, n_condition: int) -> None:
        super().__init__()
        phase_0 = config.semantics == "as_run"
        self.code = Code(config, n_condition)
        channels = [config.generator_width >> level for level in range((config.resolution // 4).bit_length() - 1)]
        self.norm_code = KerasBatchNorm(self.code.n_outputs, momentum=0.8, phase_0=phase_0)
        self.dense = nn.Linear(self.code.n_outputs, 16 * channels[0])
        momenta = [0.8, 0.8] + [0.99] * len(channels)
        self.norm = nn.ModuleList(
            KerasBatchNorm(n, momentum=momentum, phase_0=phase_0)
            for n, momentum in zip(channels, momenta, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 5) for a, b in pairwise([*channels, 3]))
        glorot(self)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """(n, noise_dim), (n, n_condition) → (n, 3, resolution, resolution) in [0, 1)."""
        x = F.relu(self.dense(self.norm_code(self.code(noise, condition))))
        x = unflatten(x, 4)
        for norm, up in zip(self.norm, self.up, strict=True):
            weight, bias = up.parameters()
            x = F.relu(conv_transpose_same(norm(x), weight, bias, stride=2))
        return torch.tanh(x)


class GreyGenerator(nn.Module):
    """Code → two dense layers → a quarter of the size → twice doubled (nearest) and convolved."""

    def __init__(self, config: ThoughtVizConfig, n_condition: int) -> None:
        super().__init__()
        phase_0, self.quarter = config.semantics == "as_run", config.resolution // 4
        self.code = Code(config, n_condition)
        self.dense_1 = nn.Linear(self.code.n_outputs, 1024)
        self.norm_1 = KerasBatchNorm(1024, momentum=0.8, phase_0=phase_0)
        self.dense_2 = nn.Linear(1024, self.quarter**2 * 128)
        self.norm_2 = KerasBatchNorm(128, momentum=0.8, phase_0=phase_0)
        self.conv_1 = nn.Conv2d(128, 64, 5)
        self.conv_2 = nn.Conv2d(64, 1, 3)
        glorot(self)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """(n, noise_dim), (n, n_condition) → (n, 1, resolution, resolution) in (-1, 1)."""
        x = self.norm_1(torch.tanh(self.dense_1(self.code(noise, condition))))
        x = self.norm_2(unflatten(torch.tanh(self.dense_2(x)), self.quarter))
        x = torch.tanh(conv_same(F.interpolate(x, scale_factor=2), self.conv_1.weight, self.conv_1.bias))
        return torch.tanh(conv_same(F.interpolate(x, scale_factor=2), self.conv_2.weight, self.conv_2.bias))


class ColourDiscriminator(nn.Module):
    """Pairs of unpadded convolutions, the first of each with stride 2 and all doubling the channels, down to 3×3 or so.

    After each: leaky ReLU, dropout, batch norm, in this order; the last has no norm.
    """

    def __init__(self, config: ThoughtVizConfig) -> None:
        super().__init__()
        n_pairs = (config.resolution // 8).bit_length() - 1
        self.dropout = 0.0 if config.semantics == "as_run" else 0.5
        channels = [3, *(config.discriminator_width << level for level in range(2 * n_pairs))]
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2 - i % 2) for i, (a, b) in enumerate(pairwise(channels)))
        self.norm = nn.ModuleList(KerasBatchNorm(n, phase_0=config.semantics == "as_run") for n in channels[1:-1])
        size = config.resolution
        for _ in range(n_pairs):
            size = (size - 3) // 2 + 1 - 2
        self.verdict = nn.Linear(size**2 * channels[-1], 1)
        glorot(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, resolution, resolution) → probability of being real (n, 1), and what it was seen by (n, …)."""
        x = image
        for level, conv in enumerate(self.conv):
            x = F.dropout(F.leaky_relu(conv(x), 0.2), self.dropout, self.training)
            if level < len(self.norm):
                x = self.norm[level](x)
        seen = flatten(x)
        return torch.sigmoid(self.verdict(seen)), seen


class GreyDiscriminator(nn.Module):
    """Two convolutions with tanh and pooling, one dense layer."""

    def __init__(self, config: ThoughtVizConfig) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(1, 64, 5)
        self.conv_2 = nn.Conv2d(64, 128, 5)
        self.dense = nn.Linear(((config.resolution // 2 - 4) // 2) ** 2 * 128, 1024)
        self.verdict = nn.Linear(1024, 1)
        glorot(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 1, resolution, resolution) → probability of being real (n, 1), and what it was seen by (n, 1024)."""
        x = F.max_pool2d(torch.tanh(conv_same(image, self.conv_1.weight, self.conv_1.bias)), 2)
        x = F.max_pool2d(torch.tanh(self.conv_2(x)), 2)
        seen = torch.tanh(self.dense(flatten(x)))
        return torch.sigmoid(self.verdict(seen)), seen


class SharedHead(nn.Module):
    """The baselines' second head, on what the discriminator's verdict is read from; needed in training only."""

    def __init__(self, discriminator: ColourDiscriminator | GreyDiscriminator, n_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(discriminator.verdict.in_features, n_classes)
        glorot(self)

    def forward(self, seen: Tensor) -> Tensor:
        """(n, …) as the discriminator gives → (n, n_classes) probabilities."""
        return F.softmax(self.dense(seen), dim=1)


# --- models ----------------------------------------------------------------------------------------------------------

Generator = ColourGenerator | GreyGenerator
Discriminator = ColourDiscriminator | GreyDiscriminator


def gan_of(config: ThoughtVizConfig, n_condition: int) -> tuple[Generator, Discriminator]:
    if config.colour == "rgb":
        return ColourGenerator(config, n_condition), ColourDiscriminator(config)
    return GreyGenerator(config, n_condition), GreyDiscriminator(config)


class ThoughtViz(Reconstructor):
    """The encoder, a generator conditioned on its encoding, and the discriminator that trains it."""

    def __init__(self, spec: EEGSpec, config: ThoughtVizConfig) -> None:
        super().__init__(spec, config)
        self.config: ThoughtVizConfig = config
        self.resolution = config.resolution
        self.encoder = Encoder(spec.n_channels, spec.n_times)
        self.generator, self.discriminator = gan_of(config, N_FEATURES)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "discriminator": self.discriminator}

    def encode(self, eeg: Tensor) -> Tensor:
        """Encodings of raw EEG (n_trials, n_channels, n_times): (n_trials, 100), never negative, not normalised."""
        features: Tensor = self.encoder(microvolts(eeg, self.spec))
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return draw_noise(rng, (self.config.noise_dim,))

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        return to_unit(self.generator(noise, features), self.config)


class LabelledThoughtViz(LabelConditioned):
    """The same GANs conditioned on the true class as one-hot vector."""

    def __init__(self, spec: EEGSpec, config: ThoughtVizConfig) -> None:
        super().__init__(spec, config)
        self.config: ThoughtVizConfig = config
        self.resolution, self.n_classes = config.resolution, config.n_classes
        self.generator, self.discriminator = gan_of(config, config.n_classes)

    def parts(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def encode_labels(self, labels: Tensor) -> Tensor:
        """One-hot vectors (n, n_classes) of ``labels`` (n,)."""
        return F.one_hot(labels, self.n_classes).float()

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return draw_noise(rng, (self.config.noise_dim,))

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        return to_unit(self.generator(noise, features), self.config)


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def to_unit(images: Tensor, config: ThoughtVizConfig) -> Tensor:
    """What the generator makes, as RGB in [0, 1]."""
    if config.colour == "rgb":
        return images
    grey = 0.5 * images + 0.5
    return (1 - grey if config.invert else grey).repeat(1, 3, 1, 1)


def build(spec: EEGSpec, **overrides: Any) -> ThoughtViz | LabelledThoughtViz:
    """An untrained model for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``ThoughtVizConfig``, its value is not possible, or trials are too short.
    """
    config = configure(ThoughtVizConfig, overrides)
    return ThoughtViz(spec, config) if config.condition == "eeg" else LabelledThoughtViz(spec, config)


# --- training --------------------------------------------------------------------------------------------------------


def recipes(
    model: ThoughtViz | LabelledThoughtViz, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """The phases of training in order: ``encoder``, ``image_classifier``, ``gan``.

    Models that are given labels have no first one, baselines no second; without pictures there is only the first.

    Args:
        model: Trained in place, on the device it is on.
        data: All phases train on its train role; the encoder is validated on its val role, if that has trials.
        seed: Keys the order of trials and pictures.
        select: Keep the encoder of the best validation accuracy, or the last one (as the authors do).

    Raises:
        UsageError: The train role is empty, a class lacks pictures or trials, or there are more classes than
            ``n_classes``.
    """
    if not len(data.train):
        raise UsageError("training ThoughtViz needs trials in the train role, but the split has none; choose another.")
    phases: list[Recipe] = []
    if isinstance(model, ThoughtViz):
        phases.append(EncoderRecipe(model, data, family="thoughtviz", seed=seed, select=select))
    if not data.images:
        if not phases:
            raise UsageError("training a GAN on labels needs pictures, but the dataset has none; prepare it with some.")
        return phases
    if model.config.gan == "thoughtviz":
        config, colour = model.config, model.config.colour == "rgb"
        classifier = ImageClassifier(3 if colour else 1, config.image_classifier_width, data.n_classes)
        classifier = classifier.to(device_of(model))
        noise = config.image_classifier_noise * (1 if colour else 2)  # grey values span [-1, 1]
        pictures = Pictures(model, data)
        phases.append(ImageClassifierRecipe(classifier, pictures, config, family="thoughtviz", seed=seed, noise=noise))
        return [*phases, GANRecipe(model, classifier, data, seed=seed)]
    head = SharedHead(model.discriminator, data.n_classes).to(device_of(model))
    return [*phases, GANRecipe(model, head, data, seed=seed)]


class Pictures:
    """Training pictures of a dataset at the model's size, in main memory, and mirrored ones beside them."""

    def __init__(self, model: ThoughtViz | LabelledThoughtViz, data: TrainingData) -> None:
        self.config, self.data = model.config, data
        self.labels = np.tile(np.asarray(data.image_labels), 1 + model.config.mirror)

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.stack([resize(image, self.config) for image in self.data.images])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """(n, channels, resolution, resolution) in the range of the generator; the second half is mirrored."""
        n = len(self.data.images)
        pixels = self._pixels[rows % n]
        pixels = np.where((rows < n)[:, None, None, None], pixels, pixels[..., ::-1])
        values = torch.from_numpy(pixels.astype(np.float32))
        return values / 255 if self.config.colour == "rgb" else (values - 127.5) / 127.5


def resize(image: np.ndarray, config: ThoughtVizConfig) -> np.ndarray:
    """A picture at the model's size, aspect ignored: Lanczos in colour; nearest, then grey, where grey is made.

    Shape:
        image: (height, width, 3) uint8; returns: (3 or 1, resolution, resolution) uint8.
    """
    from PIL import Image

    size, picture = (config.resolution, config.resolution), Image.fromarray(image)
    if config.colour == "rgb":
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    grey = np.asarray(picture.resize(size, Image.Resampling.NEAREST).convert("L"))[None]
    return 255 - grey if config.invert else grey


class GANRecipe(Recipe):
    """Real batches in one fixed order; classes of generated pictures uniform, each with a random trial of its class."""

    name = "gan"

    def __init__(
        self,
        model: ThoughtViz | LabelledThoughtViz,
        classes: ImageClassifier | SharedHead,
        data: TrainingData,
        *,
        seed: int,
    ) -> None:
        config = model.config
        self.model, self.classes, self.data = model, classes, data
        self.pictures = Pictures(model, data)
        self.order = keyed_rng("thoughtviz", "pictures", seed).permutation(len(self.pictures))
        self.trials = data.train if config.conditions == "train" else data.val
        self.known = np.unique(data.labels[data.train])
        if lacking := sorted({*self.known.tolist()} - {*self.pictures.labels.tolist()}):
            raise UsageError(
                f"training the GAN needs a picture of every class, but class {lacking[0]} has none; add one."
            )
        if lacking := sorted({*self.known.tolist()} - {*data.labels[self.trials].tolist()}):
            raise UsageError(
                f"conditions={config.conditions!r} needs a trial of every class in that role, but class {lacking[0]} "
                "has none; use conditions='train'."
            )
        if isinstance(model, LabelledThoughtViz) and data.n_classes > config.n_classes:
            raise UsageError(
                f"n_classes must be at least {data.n_classes}, the number of classes of the dataset, but is "
                f"{config.n_classes}; give n_classes={data.n_classes}."
            )
        self.learnt = [model.discriminator, classes] if isinstance(classes, SharedHead) else [model.discriminator]
        self.generator_optimizer = KerasAdam(
            model.generator.parameters(), lr=config.generator_lr, betas=config.gan_betas, eps=1e-8
        )
        self.discriminator_optimizer = KerasAdam(
            [parameter for module in self.learnt for parameter in module.parameters()],
            lr=config.discriminator_lr,
            betas=config.gan_betas,
            eps=1e-8,
        )
        self.ema_decay = config.gan_ema
        self.per_epoch = max(1, len(self.pictures) // config.gan_batch_size)
        self.n_steps = config.gan_steps if config.gan_steps is not None else config.gan_epochs * self.per_epoch

    @cached_property
    def features(self) -> Tensor:
        """Conditions of ``trials``; computed at the first step, when the encoder phase is over, then never again."""
        if isinstance(self.model, ThoughtViz):
            return encode_rows(self.model, self.data, self.trials)
        return self.model.encode_labels(torch.from_numpy(self.data.labels[self.trials])).to(device_of(self.model))

    @cached_property
    def of_class(self) -> dict[int, np.ndarray]:
        """Positions in ``trials`` of each class."""
        labels = self.data.labels[self.trials]
        return {int(label): np.flatnonzero(labels == label) for label in self.known}

    def modules(self) -> dict[str, nn.Module]:
        held: dict[str, nn.Module] = {"generator": self.model.generator, "discriminator": self.model.discriminator}
        return held | ({"classes": self.classes} if self.classes in self.learnt else {})

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        size, device = self.model.config.gan_batch_size, device_of(self.model)
        start = step % self.per_epoch * size
        rows = self.order[np.arange(start, start + size) % len(self.order)]  # with fewer pictures than one batch, again
        labels = rng.choice(self.known, size)
        trials = np.array([rng.choice(self.of_class[int(label)]) for label in labels])
        noise = draw_noise(rng, (size, self.model.config.noise_dim))
        torch.manual_seed(int(rng.integers(2**63)))  # of dropout
        return gan_step(
            self.model,
            self.classes,
            real=self.pictures[rows].to(device),
            real_labels=torch.from_numpy(self.pictures.labels[rows]).to(device),
            noise=torch.from_numpy(noise).to(device),
            condition=self.features[torch.from_numpy(trials).to(device)],
            labels=torch.from_numpy(labels).to(device),
            optimizers=(self.generator_optimizer, self.discriminator_optimizer),
        )


def gan_step(
    model: ThoughtViz | LabelledThoughtViz,
    classes: ImageClassifier | SharedHead,
    *,
    real: Tensor,
    real_labels: Tensor,
    noise: Tensor,
    condition: Tensor,
    labels: Tensor,
    optimizers: tuple[Optimizer, Optimizer],
) -> dict[str, float]:
    """The discriminator on real, then on generated pictures, then the generator; all that is random is passed in.

    The generated pictures of the second update are made at inference, those of the third from the same noise in
    training mode. As run these are the same numbers.

    Args:
        classes: ThoughtViz' frozen image classifier, or the baselines' head, which learns with the discriminator.

    Shape:
        real: (n, channels, resolution, resolution) in the range of the generator; real_labels: (n,).
        noise: (n, noise_dim); condition: (n, n_condition), of class labels: (n,).
        optimizers: of the generator, of the discriminator (and head).
    """
    config, generator, discriminator = model.config, model.generator, model.discriminator
    phase_0 = config.semantics == "as_run"
    discriminator.train()
    classes.train(isinstance(classes, SharedHead))

    generator.train(phase_0)
    with torch.set_grad_enabled(phase_0):
        fake = generator(noise, condition)

    losses = {}
    for name, image, target, own in (("real", real, 1.0, real_labels), ("fake", fake.detach(), 0.0, labels)):
        verdict, seen = discriminator(image)
        loss = binary_cross_entropy(verdict, target)
        if isinstance(classes, SharedHead):
            loss = loss + cross_entropy(classes(seen), own)
            update(optimizers[1], loss, discriminator, classes)
        else:  # a constant to the discriminator
            update(optimizers[1], loss, discriminator)
        losses[name] = loss

    if not phase_0:
        generator.train()
        fake = generator(noise, condition)
    verdict, seen = discriminator(fake)
    losses["generator"] = binary_cross_entropy(verdict, 1.0)
    losses["class"] = cross_entropy(classes(seen if isinstance(classes, SharedHead) else fake), labels)
    loss = losses["generator"] + config.class_weight * losses["class"]
    if (gaussian := generator.code.gaussian) is not None:
        loss = loss + config.gaussian_penalty * gaussian.penalty()
    update(optimizers[0], loss, generator)
    return dict(zip(losses, torch.stack([value.detach() for value in losses.values()]).tolist(), strict=True))

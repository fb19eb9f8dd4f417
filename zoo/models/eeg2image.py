"""EEG2Image: a triplet-trained LSTM encoder and a conditional GAN with mode-seeking loss and DiffAugment.

Singh, Pandey, Miyapuram, Raman (2023), "EEG2IMAGE: Image Reconstruction from EEG Brain Signals", ICASSP,
https://arxiv.org/abs/2302.10121; code https://github.com/prajwalsingh/EEG2Image (commit aa15b98, TensorFlow 2.8), not
used here. Built from a specification and checked against arrays computed with the authors' classes.

``semantics="as_run"`` (default) is what the released loop computes, ``"as_intended"`` what its flags say. As run,
TensorFlow traces each network once and re-uses the trace: the generator always normalises with its *initial* moving
statistics and its spectral norm never acts, and the discriminator uses batch statistics in both halves of a step.

Differences from the authors' code: passes over the data are full permutations (theirs shuffle within two batches), the
encoder is selected by k-means accuracy on the validation role (theirs: on the test set), the last GAN weights are kept
(theirs: highest inception score), and a batch without two trials of one class has loss 0 (theirs: NaN). Of ours are
``eeg_scaling="robust"`` and the linear head of ``encoder_loss="softmax"``, whose code the authors did not release.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.models.base import Reconstructor
from zoo.models.layers import (
    DiffAug,
    KerasAdam,
    Scaling,
    check_least,
    check_positive,
    check_shares,
    configure,
    conv_same,
    conv_transpose_same,
    epoch_batch,
    half_max,
    keras_batch_norm,
    keras_lstm,
    l2_normalise,
    mode_seeking,
    spectral_normalise_,
    steps_per_epoch,
    truncated_normal_,
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
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

MAX_VALIDATION_TRIALS = 2000
MAX_VALIDATIONS = 100


@dataclass(frozen=True)
class EEG2ImageConfig:
    lstm_units: tuple[int, int] = (32, 128)
    """Units of the two LSTM layers; the second is the feature size."""
    noise_dim: int = 128
    """Entries of the noise, uniform in [-1, 1) as released (the paper says Gaussian)."""
    resolution: int = 128
    """Height and width of an image; a power of two from 16."""
    generator_width: int = 1024
    """Channels of the generator's 4×4 map, halved with every doubling of size (1024 … 32 at 128)."""
    discriminator_width: int = 64
    """Channels after the discriminator's first convolution, doubled layer by layer (64 … 1024 at 128)."""
    eeg_scaling: Literal["half-max", "robust"] = "half-max"
    """Input of the encoder: as published, or then centred and scaled per channel (median, quartiles of training)."""
    encoder_loss: Literal["triplet", "softmax"] = "triplet"
    """What trains the encoder: triplets, or cross-entropy of a linear head (the paper's baseline encoder)."""
    semantics: Literal["as_run", "as_intended"] = "as_run"
    """What the released loop computes, or what its training flags ask for."""
    margin: float = 1.0
    """Margin of the triplet loss."""
    mode_weight: float = 1.0
    """Weight α of the mode-seeking loss."""
    image_pairing: Literal["class", "instance"] = "class"
    """Picture of a trial: a random one of its class drawn once per trial (published), or its own."""
    encoder_lr: float = 3e-4
    """Learning rate of the encoder's Adam."""
    encoder_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the encoder's Adam."""
    encoder_batch_size: int = 256
    """Trials per encoder step; the last batch of an epoch may be smaller."""
    encoder_epochs: int = 3000
    """Passes over the training trials; the released encoder is that of epoch 2420."""
    encoder_steps: int | None = None
    """Encoder steps, instead of ``encoder_epochs``."""
    gan_lr: float = 3e-4
    """Learning rate of both Adams of the GAN."""
    gan_betas: tuple[float, float] = (0.2, 0.5)
    """Decay rates of both Adams of the GAN."""
    gan_batch_size: int = 128
    """Trials per GAN step; the last batch of an epoch may be smaller."""
    gan_ema: float | None = None
    """Decay per step of a moving average of the GAN's weights that replaces them in the end; null as published."""
    gan_epochs: int = 210
    """Passes over the training trials; the released loop runs to 299 and epoch 210 was published."""
    gan_steps: int | None = None
    """GAN steps, instead of ``gan_epochs``."""

    def __post_init__(self) -> None:
        size = self.resolution
        if size < 16 or size & (size - 1):
            raise UsageError(f"resolution of EEG2Image must be a power of two from 16, but is {size}; try 32 or 128.")
        if self.generator_width <= 0 or self.generator_width * 4 % size:
            raise UsageError(
                f"generator_width must be a multiple of {size // 4} to be halved from 4×4 to {size}×{size}, "
                f"but is {self.generator_width}; try {16 * (size // 4)}."
            )
        check_least(self, 1, "noise_dim", "discriminator_width", "encoder_batch_size", "gan_batch_size")
        check_least(self, 0, "encoder_epochs", "encoder_steps", "gan_epochs", "gan_steps", "margin", "mode_weight")
        if min(self.lstm_units) < 1:
            raise UsageError(f"lstm_units must be at least 1, but are {self.lstm_units}.")
        check_positive(self, "encoder_lr", "gan_lr")
        check_shares(self, "encoder_betas", "gan_betas", "gan_ema")


def scale_eeg(eeg: Tensor) -> Tensor:
    """``half_max`` of this family: (n_trials, n_channels, n_times) → (n_trials, n_times, n_channels)."""
    return half_max(eeg, family="EEG2Image")


class TripleNet(nn.Module):
    """Two LSTM layers; the state of the last time step is the feature, each entry in (-1, 1)."""

    def __init__(self, n_channels: int, units: tuple[int, int]) -> None:
        super().__init__()
        self.lstm = nn.ModuleList([keras_lstm(n_channels, units[0]), keras_lstm(units[0], units[1])])

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) as ``scale_eeg`` gives → (n, units[1]), not normalised."""
        for layer in self.lstm:
            x, _ = layer(x)
        return x[:, -1]


class RobustTripleNet(TripleNet, Scaling):
    """The encoder behind a fixed scaling of its input: per channel by median and interquartile range, within ±6.

    The offset of an amplifier is a hundred times its signal, so half-max scaled trials hardly differ from a constant.
    """

    def __init__(self, n_channels: int, units: tuple[int, int]) -> None:
        super().__init__(n_channels, units)
        self.hold_scaling(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) as ``scale_eeg`` gives → (n, units[1]), not normalised."""
        return super().forward(self.scaled(x))


class SpectralConv(nn.Module):
    """A 3×3 "same" convolution without bias whose kernel is divided by its spectral norm in training mode."""

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, transposed: bool = True) -> None:
        super().__init__()
        self.stride, self.transposed = stride, transposed
        shape = (n_in, n_out, 3, 3) if transposed else (n_out, n_in, 3, 3)
        self.weight = nn.Parameter(truncated_normal_(torch.empty(shape), 0.02))
        self.u: Tensor
        self.register_buffer("u", truncated_normal_(torch.empty(1, shape[0]), 0.02))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if self.training:
            spectral_normalise_(self.weight, self.u)
            weight = self.weight.clone()  # the next forward overwrites the kernel before this one's backward
        same = conv_transpose_same if self.transposed else conv_same
        return same(x, weight, stride=self.stride)


class Generator(nn.Module):
    """Noise and feature → image: 1×1 → 4×4 → … → resolution by transposed convolutions, batch norm from 8×8 on."""

    def __init__(self, n_inputs: int, width: int, resolution: int) -> None:
        super().__init__()
        channels = [width >> level for level in range((resolution // 4).bit_length())]
        self.up = nn.ModuleList(
            SpectralConv(n_in, n_out, stride=2 if level else 4)
            for level, (n_in, n_out) in enumerate(pairwise([n_inputs, *channels]))
        )
        self.norm = nn.ModuleList(keras_batch_norm(n) for n in channels[1:])
        self.rgb = SpectralConv(channels[-1], 3, transposed=False)

    def forward(self, code: Tensor) -> Tensor:
        """(n, noise_dim + n_features), noise first → (n, 3, resolution, resolution) in (-1, 1)."""
        x = F.leaky_relu(self.up[0](code[:, :, None, None]), 0.3)
        for up, norm in zip(self.up[1:], self.norm, strict=True):
            x = F.leaky_relu(norm(up(x)), 0.3)
        return torch.tanh(self.rgb(x))


class Discriminator(nn.Module):
    """Image and feature → logit: strided convolutions to 8×8, two more at 8×8, one linear unit."""

    def __init__(self, n_features: int, width: int, resolution: int) -> None:
        super().__init__()
        self.n_strided = (resolution // 8).bit_length() - 1
        channels = [3 + n_features, *(width << level for level in range(self.n_strided + 1)), 1]
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 3, bias=False) for a, b in pairwise(channels))
        self.norm = nn.ModuleList(keras_batch_norm(n) for n in channels[1:])
        self.out = nn.Linear(64, 1)
        for conv in self.conv:
            truncated_normal_(conv.weight, 0.02)  # type: ignore[arg-type]
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, feature: Tensor) -> Tensor:
        """(n, 3, resolution, resolution) and (n, n_features) → (n, 1)."""
        kernels: list[Tensor] = [conv.weight for conv in self.conv]  # type: ignore[misc]
        x = conv_tiled(image, feature, kernels[0])
        x = F.leaky_relu(self.norm[0](x), 0.2)
        for level, (kernel, norm) in enumerate(zip(kernels[1:], self.norm[1:], strict=True), start=1):
            x = F.leaky_relu(norm(conv_same(x, kernel, stride=2 if level < self.n_strided else 1)), 0.2)
        logit: Tensor = self.out(x.flatten(1))
        return logit


def conv_tiled(image: Tensor, feature: Tensor, weight: Tensor) -> Tensor:
    """``conv_same`` with stride 2 of the image and, as further channels, the feature repeated at every pixel.

    A constant map gives the same sum everywhere but in the last row and column, where the third tap falls on padding:
    four sums per feature instead of (size / 2)². A rounding error in one would repeat at every pixel, hence float64.

    Shape:
        image: (n, c, size, size); feature: (n, f); weight: (n_out, c + f, 3, 3).
        returns: (n, n_out, size / 2, size / 2).
    """
    n_image, inner = image.shape[1], image.shape[2] // 2 - 1
    taps = weight[:, n_image:].double()
    sums = [part.sum(dim=(2, 3)) for part in (taps, taps[..., :2], taps[..., :2, :], taps[..., :2, :2])]
    tile = torch.einsum("kof,nf->nok", torch.stack(sums), feature.double()).to(image).view(len(image), -1, 2, 2)
    tile = torch.cat([tile[:, :, :1].expand(-1, -1, inner, -1), tile[:, :, 1:]], dim=2)
    tile = torch.cat([tile[:, :, :, :1].expand(-1, -1, -1, inner), tile[:, :, :, 1:]], dim=3)
    return conv_same(image, weight[:, :n_image], stride=2) + tile


def pairwise_distance(x: Tensor) -> Tensor:
    """L2 distances between rows, 0 with zero gradient where rows coincide.

    Shape:
        x: (n, d); returns: (n, n).
    """
    norm = x.square().sum(dim=1)
    squared = norm[:, None] + norm[None, :] - 2 * x @ x.T
    apart = (squared > 0) & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.where(apart, squared, 1.0).sqrt() * apart


def semi_hard_triplet_loss(embedding: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean over ordered positive pairs (a, p) of max(0, margin + d_ap - d_an), as TensorFlow-Addons defines it.

    The negative n is the nearest one farther than p, or the farthest of all if none is. Distances are L2, not squared
    (the paper prints squared). Without a positive pair the loss is 0; without a negative, d_an is 0.

    Shape:
        embedding: (n, d), rows of unit length in this family; labels: (n,).
    """
    distance = pairwise_distance(embedding)
    same = labels[:, None] == labels[None, :]
    with torch.no_grad():
        ranked, order = distance.masked_fill(same, torch.inf).sort(dim=1)
        first_farther = torch.searchsorted(ranked, distance, right=True)
        farthest = (~same).sum(dim=1, keepdim=True) - 1
        negative = order.gather(1, torch.minimum(first_farther, farthest).clamp_min(0))
    to_negative = distance.gather(1, negative) * (farthest >= 0)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    loss = F.relu(margin + distance - to_negative) * positive
    return loss.sum() / positive.sum().clamp_min(1)


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """½ (mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake))); the ½ is in the code, not in the paper."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


class EEG2Image(Reconstructor):
    """The encoder, the generator, and the discriminator that trains it."""

    rounding: ClassVar[Literal["nearest", "truncate"]] = "truncate"

    def __init__(self, spec: EEGSpec, config: EEG2ImageConfig) -> None:
        super().__init__(spec, config)
        n_features = config.lstm_units[1]
        self.config: EEG2ImageConfig = config
        self.resolution = config.resolution
        encoder = TripleNet if config.eeg_scaling == "half-max" else RobustTripleNet
        self.encoder = encoder(spec.n_channels, config.lstm_units)
        self.generator = Generator(config.noise_dim + n_features, config.generator_width, config.resolution)
        self.discriminator = Discriminator(n_features, config.discriminator_width, config.resolution)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "generator": self.generator, "discriminator": self.discriminator}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features of raw EEG: the encoder's last state, *not* normalised (the GAN and k-means use it so).

        Shape:
            eeg: (n_trials, n_channels, n_times); returns: (n_trials, n_features).
        Raises:
            UsageError: The maximum of a trial is 0 or not finite.
        """
        weight = next(self.encoder.parameters())
        features: Tensor = self.encoder(scale_eeg(eeg).to(weight))
        return features

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return draw_noise(rng, (self.config.noise_dim,))

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images in [0, 1] of ``features`` (n, n_features) and ``noise`` (n, noise_dim)."""
        images: Tensor = self.generator(torch.cat([noise, features], dim=1))
        return 0.5 * images + 0.5


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def build(spec: EEGSpec, **overrides: Any) -> EEG2Image:
    """An untrained EEG2Image for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``EEG2ImageConfig``, or its value is not possible.
    """
    return EEG2Image(spec, configure(EEG2ImageConfig, overrides))


def recipes(model: EEG2Image, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
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
            "training EEG2Image needs trials in the train role, but the split has none; choose another split."
        )
    phases: list[Recipe] = [EncoderRecipe(model, data, seed=seed, select=select)]
    if data.images:
        phases.append(GANRecipe(model, data, seed=seed))
    return phases


class EncoderRecipe(Recipe):
    """Semi-hard triplets of normalised features, or a linear head's cross-entropy.

    Validated by k-means on the un-normalised features (triplets), or by the head's accuracy.
    """

    name = "encoder"

    def __init__(self, model: EEG2Image, data: TrainingData, *, seed: int, select: Literal["val", "last"]) -> None:
        config = model.config
        self.model, self.data, self.key = model, data, ("eeg2image", "encoder", seed)
        self.head = nn.Linear(config.lstm_units[1], data.n_classes).to(device_of(model))
        trained = trainable(model.encoder) + (list(self.head.parameters()) if self.softmax else [])
        self.optimizer = KerasAdam(trained, lr=config.encoder_lr, betas=config.encoder_betas)
        if isinstance(model.encoder, RobustTripleNet):
            rows = data.train[
                np.linspace(0, len(data.train) - 1, min(len(data.train), MAX_VALIDATION_TRIALS)).astype(int)
            ]
            model.encoder.measure(scale_eeg(trials_of(data, rows, device_of(model))))
        epoch = steps_per_epoch(len(data.train), config.encoder_batch_size)
        self.n_steps = config.encoder_steps if config.encoder_steps is not None else config.encoder_epochs * epoch
        picked = np.linspace(0, len(data.val) - 1, min(len(data.val), MAX_VALIDATION_TRIALS))
        self.val = np.sort(data.val)[np.round(picked).astype(np.int64)]
        if select == "val" and len(self.val):
            self.eval_every = max(epoch, self.n_steps // MAX_VALIDATIONS)
            if len(self.val) < data.n_classes:
                raise UsageError(
                    f"selecting the encoder by k-means needs a validation trial per class, at least {data.n_classes}, "
                    f"but there are {len(self.val)}; choose another split or select the last weights."
                )

    @property
    def softmax(self) -> bool:
        return self.model.config.encoder_loss == "softmax"

    def modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.model.encoder} | ({"head": self.head} if self.softmax else {})

    def optimizers(self) -> dict[str, Optimizer]:
        return {"encoder": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        config, data = self.model.config, self.data
        rows = data.train[epoch_batch(step, n=len(data.train), batch_size=config.encoder_batch_size, key=self.key)]
        device = device_of(self.model)
        labels = torch.from_numpy(np.asarray(data.labels[rows])).to(device)
        self.model.encoder.train()
        features = self.model.encode(trials_of(data, rows, device))
        if self.softmax:
            loss = F.cross_entropy(self.head(features), labels)
            update(self.optimizer, loss, self.model.encoder, self.head)
        else:
            loss = semi_hard_triplet_loss(l2_normalise(features), labels, margin=config.margin)
            update(self.optimizer, loss, self.model.encoder)
        return {config.encoder_loss: loss.item()}

    def validate(self) -> float:
        """Accuracy of at most 2000 evenly spaced validation trials: of k-means, or of the head."""
        features, labels = encode_rows(self.model, self.data, self.val), self.data.labels[self.val]
        if not self.softmax:
            return kmeans_accuracy(features.cpu().numpy(), labels, self.data.n_classes)
        with torch.no_grad():
            return float(np.mean(self.head(features).argmax(dim=1).cpu().numpy() == labels))


class GANRecipe(Recipe):
    """Hinge GAN with mode seeking on features of the frozen encoder; each network is updated once a step."""

    name = "gan"

    def __init__(self, model: EEG2Image, data: TrainingData, *, seed: int) -> None:
        config = model.config
        self.model, self.data, self.key = model, data, ("eeg2image", "gan", seed)
        self.picture_of = pair_images(data, seed=seed, pairing=config.image_pairing)
        self.generator_optimizer = KerasAdam(model.generator.parameters(), lr=config.gan_lr, betas=config.gan_betas)
        self.discriminator_optimizer = KerasAdam(
            model.discriminator.parameters(), lr=config.gan_lr, betas=config.gan_betas
        )
        self.ema_decay = config.gan_ema
        epoch = steps_per_epoch(len(data.train), config.gan_batch_size)
        self.n_steps = config.gan_steps if config.gan_steps is not None else config.gan_epochs * epoch

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
        return {"generator": self.model.generator, "discriminator": self.model.discriminator}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        config, device = self.model.config, device_of(self.model)
        batch = epoch_batch(step, n=len(self.data.train), batch_size=config.gan_batch_size, key=self.key)
        real = torch.stack([self.pictures[int(row)] for row in self.picture_of[batch]]).to(device)
        feature = self.features[torch.tensor(batch, device=device)]
        noise = torch.from_numpy(draw_noise(rng, (2, len(batch), config.noise_dim))).to(device)
        augment = [DiffAug.draw(rng, len(batch), config.resolution) for _ in range(4)]
        return gan_step(
            self.model,
            real=real,
            feature=feature,
            noise=(noise[0], noise[1]),
            augment=augment,
            optimizers=(self.generator_optimizer, self.discriminator_optimizer),
        )


def gan_step(
    model: EEG2Image,
    *,
    real: Tensor,
    feature: Tensor,
    noise: tuple[Tensor, Tensor],
    augment: list[DiffAug],
    optimizers: tuple[Optimizer, Optimizer],
) -> dict[str, float]:
    """One discriminator, then one generator update, with all that is random passed in.

    As run, the generator is in inference and the discriminator in training mode throughout (four updates of its moving
    statistics). As intended, the discriminator step trains the discriminator against a generator at inference, and the
    generator step the reverse.

    Shape:
        real: (n, 3, resolution, resolution) in [-1, 1]; feature: (n, n_features); noise: two of (n, noise_dim).
        augment: four draws: real, fake in the discriminator step; first, second fake in the generator step.
        optimizers: of the generator, of the discriminator.
    """
    generator, discriminator = model.generator, model.discriminator
    as_run = model.config.semantics == "as_run"
    codes = (torch.cat([noise[0], feature], dim=1), torch.cat([noise[1], feature], dim=1))

    generator.eval()
    discriminator.train()
    with torch.set_grad_enabled(as_run):  # as run, the generator step re-uses these images: nothing changes in between
        fake = generator(codes[0])
    loss = discriminator_hinge(
        discriminator(augment[0](real), feature), discriminator(augment[1](fake.detach()), feature)
    )
    update(optimizers[1], loss, discriminator)

    generator.train(not as_run)
    discriminator.train(as_run)
    fakes = (fake if as_run else generator(codes[0]), generator(codes[1]))
    adversarial = -sum(discriminator(augment[2 + i](fakes[i]), feature).mean() for i in range(2))
    mode = mode_seeking(fakes, codes)
    update(optimizers[0], adversarial + model.config.mode_weight * mode, generator)
    discriminator_loss, generator_loss, mode_loss = torch.stack([loss, adversarial, mode]).tolist()
    return {"discriminator": discriminator_loss, "generator": generator_loss, "mode": mode_loss}

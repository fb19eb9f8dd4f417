"""Image2EEG: what an EEG encoder would make of a person's recording, from the picture and who looks at it.

Part of Singh et al. (2024), "Learning Robust Deep Visual Representations from EEG Brain Recordings", WACV,
https://arxiv.org/abs/2310.16532; code https://github.com/prajwalsingh/EEGStyleGAN-ADA (commit 3a1fe19), not used here.
Built from a specification. Names of tensors as published, but the EEG's encoder is a part of the model here.

First an LSTM learns features of EEG by mined triplets, then a GoogLeNet that stands still, between two layers that
learn, is drawn to those features, trial by trial. Three colours and a plane per person, 1 in the plane of who looks,
become three planes by a convolution; behind the network are two linear layers.

``semantics="as_run"`` (default) keeps what the released code does, ``"corrected"`` what it is meant to:

==============  ======================================================  ============================================
                as run                                                  corrected
==============  ======================================================  ============================================
frozen network  weights stand still, but batch norm computes with the   all of it stands still
                batch's own statistics and keeps a moving average, and
                its own dropout acts
pictures        stretched to 224, enlarged to 256, the middle 224 of    stretched to 224
                them; the network rescales its three inputs as if       taken as they are
                they were pixels still
selection       k-means of the features of validation pictures          the loss on validation trials
==============  ======================================================  ============================================

The authors leave training mode on at test time too, so that a feature depends on its batch; outputs here never do.
Their evaluation feeds pixels 255 times as large as training does, and their recall compares class labels with row
numbers: ``zoo eval`` looks pictures up by cosine instead. A gallery has no person in it, so there a picture is the mean
over all people; ``imagine`` says it for one. Ours are ``image_network="extractor"``, where a network of the zoo looks
at pictures once and for all, ``eeg_scaling="robust"``, and every ``.small`` setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from zoo.errors import UsageError
from zoo.models.base import Retriever
from zoo.models.contrastive import Pairs, Seen, looked_up
from zoo.models.eegstylegan_ada import EEG2FeatConfig, EncoderRecipe, make_encoder
from zoo.models.layers import check_least, check_positive, check_shares, configure, epoch_batch, half_max
from zoo.models.pretrained import PIXELS, enlarged, imagenet, load_frozen
from zoo.models.recipes import device_of, encode_rows, kmeans_accuracy, trainable, update
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

ENLARGED = 256


@dataclass(frozen=True)
class Image2EEGConfig(EEG2FeatConfig):
    semantics: Literal["as_run", "corrected"] = "as_run"
    """What the released code does, or what it is meant to."""
    subjects: tuple[str, ...] = ("1", "2", "3", "4", "5", "6")
    """Who looks, in the order of their planes."""
    image_network: Literal["googlenet", "extractor"] = "googlenet"
    """What looks at pictures: the model's own GoogLeNet (as published), or a network of the zoo."""
    extractor: str = "efficientnet-lite0"
    """Which one, with ``image_network="extractor"``."""
    output: str = "features"
    """Which of its outputs."""
    n_image_features: int = 1280
    """How many features it makes."""
    head_units: int = 1024
    """Units of the first layer behind the network."""
    dropout: float = 0.05
    """Dropout behind it."""
    image_lr: float = 3e-4
    """Learning rate of the image side's Adam."""
    image_batch_size: int = 256
    """Trials per step of the image side; what is left of a pass is dropped."""
    image_epochs: int = 4096
    """Passes over the training trials."""
    image_steps: int | None = None
    """Steps of the image side, instead of ``image_epochs``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "n_image_features", "head_units", "image_batch_size")
        check_least(self, 0, "image_epochs", "image_steps")
        check_positive(self, "image_lr")
        check_shares(self, "dropout")
        if not self.subjects or len(set(self.subjects)) < len(self.subjects):
            raise UsageError(f"subjects must be one or more different people, but are {self.subjects}.")


def head(n_in: int, config: Image2EEGConfig) -> nn.Sequential:
    """Two linear layers, the second without bias."""
    return nn.Sequential(
        nn.Linear(n_in, config.head_units),
        nn.LeakyReLU(0.01),
        nn.Dropout(config.dropout),
        nn.Linear(config.head_units, config.n_features, bias=False),
    )


class ImageFeatNet(nn.Module):
    """Picture and planes of who looks → three planes → GoogLeNet, whose last layer is the head."""

    def __init__(self, config: Image2EEGConfig) -> None:
        from torchvision.models import googlenet

        super().__init__()
        self.as_run = config.semantics == "as_run"
        self.base_conv = nn.Sequential(nn.Conv2d(3 + len(config.subjects), 3, 3, padding=1), nn.ReLU())
        network = googlenet(weights=None, aux_logits=False, transform_input=self.as_run, init_weights=False)
        self.encoder = network.requires_grad_(False)
        self.encoder.fc = head(1024, config)

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which the frozen network takes part as run only."""
        super().train(mode)
        if not self.as_run:
            self.encoder.eval()
            self.encoder.get_submodule("fc").train(mode)
        return self

    def forward(self, features: Tensor, people: Tensor) -> Tensor:
        """(n, 3 · 224 · 224) in [0, 1] and (n, n_subjects) weights of people → (n, n_features) of unit length."""
        pixels = features.view(-1, 3, 224, 224)
        if self.as_run:
            pixels = enlarged(pixels, ENLARGED)
        planes = people[:, :, None, None].expand(-1, -1, 224, 224)
        made: Tensor = self.encoder(self.base_conv(torch.cat([imagenet(pixels), planes], dim=1)))
        return F.normalize(made)


class FeatureNet(nn.Module):
    """What a network of the zoo saw, and who looks → the head (ours)."""

    def __init__(self, config: Image2EEGConfig) -> None:
        super().__init__()
        self.fc = head(config.n_image_features + len(config.subjects), config)

    def forward(self, features: Tensor, people: Tensor) -> Tensor:
        """(n, n_image_features) and (n, n_subjects) weights of people → (n, n_features) of unit length."""
        return F.normalize(self.fc(torch.cat([features, people], dim=1)))


class Image2EEG(Retriever):
    """The EEG's encoder, and the image side that foresees its features."""

    def __init__(self, spec: EEGSpec, config: Image2EEGConfig) -> None:
        super().__init__(spec, config)
        self.config: Image2EEGConfig = config
        self.encoder = make_encoder(spec, config)
        own = config.image_network == "googlenet"
        self.extractor, self.output = (PIXELS, "features") if own else (config.extractor, config.output)
        self.n_image_features = 3 * 224 * 224 if own else config.n_image_features
        self.image_encoder: ImageFeatNet | FeatureNet = ImageFeatNet(config) if own else FeatureNet(config)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "image_encoder": self.image_encoder}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features of raw EEG, of unit length.

        Shape:
            eeg: (n_trials, n_channels, n_times); returns: (n_trials, n_features).
        Raises:
            UsageError: The maximum of a trial is 0 or not finite.
        """
        weight = next(self.encoder.parameters())
        features: Tensor = self.encoder(half_max(eeg, family="Image2EEG").to(weight))
        return features

    def imagine(self, features: Tensor, subjects: np.ndarray) -> Tensor:
        """EEG features that these people are expected to have of pictures, of unit length.

        Shape:
            features: (n, n_image_features); with the own GoogLeNet these are pixels, (n, 3 · 224 · 224) in [0, 1].
            subjects: (n,) who looks.
            returns: (n, n_features).
        Raises:
            UsageError: One of them is not among those that the model was built for.
        """
        known = {name: plane for plane, name in enumerate(self.config.subjects)}
        if unknown := sorted({str(name) for name in subjects} - {*known}):
            raise UsageError(
                f"image2eeg knows {', '.join(known)}, but is asked for subject {unknown[0]!r}; train it on a split "
                "with that person."
            )
        planes = torch.tensor([known[str(name)] for name in subjects], device=features.device)
        made: Tensor = self.image_encoder(features, F.one_hot(planes, len(known)).to(features))
        return made

    def embed_images(self, features: Tensor) -> Tensor:
        """Pictures in the space of ``encode``: the mean over people of what each is expected to have of them.

        Shape:
            features: (n, n_image_features); returns: (n, n_features).
        """
        each = [self.imagine(features, np.full(len(features), name)) for name in self.config.subjects]
        return torch.stack(each).mean(dim=0)


def build(spec: EEGSpec, **overrides: Any) -> Image2EEG:
    """An untrained model for these recordings; initial weights come from torch's generator, so seed that first.

    Its GoogLeNet gets ImageNet weights when training begins.

    Raises:
        UsageError: An override is no field of ``Image2EEGConfig``, or its value is not possible.
    """
    return Image2EEG(spec, configure(Image2EEGConfig, overrides))


def recipes(model: Image2EEG, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
    """The phases in order: ``encoder``, EEG features by mined triplets; ``image``, the image side drawn to them.

    Raises:
        UsageError: Trials have no pictures of their own, somebody in them is not among ``subjects``, there are too few
            validation trials for k-means, or the extractor makes another number of features.
        MissingError: The ImageNet weights of GoogLeNet are not here; the message says how to fetch them.
    """
    if isinstance(model.image_encoder, ImageFeatNet):
        load_frozen(model.image_encoder.encoder, "googlenet")
    triplets = EncoderRecipe(model, data, seed=seed, select=select)
    return [triplets, ImageRecipe(model, data, seed=seed, select=select)]


class ImageRecipe(Recipe):
    """Mean squared difference between unit features of the picture and of the trial's own EEG, which stand still."""

    name = "image"

    def __init__(self, model: Image2EEG, data: TrainingData, *, seed: int, select: Literal["val", "last"]) -> None:
        config = model.config
        self.model, self.data, self.config, self.key = model, data, config, ("image2eeg", "image", seed)
        self.pairs = Pairs.of(data, "train", "single")
        if data.look is None or data.subjects is None:
            raise UsageError("image2eeg needs who was recorded and what networks see in pictures; train by zoo.train.")
        self.people = np.asarray(data.subjects)
        if unknown := sorted({*map(str, self.people[data.train])} - {*config.subjects}):
            raise UsageError(
                f"subjects must name everybody who is trained on, but {', '.join(config.subjects)} lack "
                f"{unknown[0]!r}; set it to all of them."
            )
        self.seen: Seen = looked_up(model, data, data.images)
        self.optimizer = Adam(trainable(model.image_encoder), lr=config.image_lr)
        self.batch_size = min(config.image_batch_size, len(self.pairs))
        self.epoch = len(self.pairs) // self.batch_size
        self.n_steps = config.image_epochs * self.epoch if config.image_steps is None else config.image_steps
        if select == "val" and len(data.val) and {*map(str, self.people[data.val])} <= {*config.subjects}:
            self.eval_every = self.epoch
            self.val_pairs, self.val_seen = Pairs.of(data, "val", "single"), looked_up(model, data, data.val_images)
        self._wanted: dict[str, Tensor] = {}

    def wanted(self, role: Literal["train", "val"]) -> Tensor:
        """EEG features of all trials of a role; computed when first asked for, the encoder phase being over then."""
        if role not in self._wanted:
            self._wanted[role] = encode_rows(self.model, self.data, getattr(self.data, role))
        return self._wanted[role]

    def modules(self) -> dict[str, nn.Module]:
        return {"image_encoder": self.model.image_encoder}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"image": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        n, (epoch, part) = len(self.pairs), divmod(step, self.epoch)
        order = epoch_batch(epoch, n=n, batch_size=n, key=self.key)
        batch = order[part * self.batch_size : (part + 1) * self.batch_size]
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        self.model.image_encoder.train()
        made = self.model.imagine(self.seen(self.pairs.pictures[batch]), self.people[self.pairs.rows[batch]])
        loss = F.mse_loss(made, self.wanted("train")[torch.tensor(batch).to(made.device)])
        update(self.optimizer, loss, self.model.image_encoder)
        return {"mse": loss.item()}

    @torch.no_grad()
    def validate(self) -> float:
        """k-means accuracy of the features of validation pictures as run, else minus the loss on validation trials."""
        self.model.image_encoder.eval()
        pairs, size = self.val_pairs, self.config.image_batch_size
        blocks = np.split(np.arange(len(pairs)), range(size, len(pairs), size))
        made = torch.cat(
            [
                self.model.imagine(self.val_seen(pairs.pictures[block]), self.people[pairs.rows[block]])
                for block in blocks
            ]
        )
        if self.config.semantics == "as_run":
            return kmeans_accuracy(made.cpu().numpy(), self.data.labels[pairs.rows], self.data.n_classes)
        return -float(F.mse_loss(made, self.wanted("val").to(device_of(self.model))))

"""What retrieval models share: the contrastive loss, pairs of recordings and pictures, the recipe that joins them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW, Optimizer

from zoo.errors import UsageError
from zoo.models.base import Retriever
from zoo.models.layers import check_least, check_positive, check_shares, epoch_batch, steps_per_epoch
from zoo.models.pretrained import PIXELS
from zoo.models.recipes import device_of, trainable, update
from zoo.training import Recipe, TrainingData

ENCODED = 256
"""Recordings encoded together in validation; memory only."""
Seen = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class ContrastiveConfig:
    """How EEG is drawn to the pictures shown. Defaults are NICE's."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """AdamW decays weights apart from the gradient."""
    lr: float = 2e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of the optimiser."""
    weight_decay: float = 0.0
    """Its weight decay."""
    batch_size: int = 1000
    """Pairs per step, and so the pictures that each is told apart from; what is left of a pass is dropped."""
    epochs: int = 200
    """Passes over the training pairs."""
    steps: int | None = None
    """Steps, instead of ``epochs``."""
    repetitions: Literal["mean", "single"] = "mean"
    """Pairs are means over the repetitions of a picture with one person, or single trials."""
    positives: Literal["pair", "picture"] = "pair"
    """What is right for a pair: its own entry alone, or every entry of its batch with the same picture."""

    def __post_init__(self) -> None:
        check_least(self, 2, "batch_size")
        check_least(self, 0, "weight_decay", "epochs", "steps")
        check_positive(self, "lr")
        check_shares(self, "betas")


class ContrastiveRetriever(Retriever):
    """A retriever that is trained by telling the picture of a recording apart from those of others."""

    config: ContrastiveConfig

    @abc.abstractmethod
    def similarities(self, eeg: Tensor, images: Tensor) -> Tensor:
        """What the loss compares: (n, n_features) of ``encode``, (m, n_features) of ``embed_images`` → (n, m)."""


def contrastive_loss(similarities: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: mean cross-entropy of rows and of columns, whose right entry is on the diagonal.

    Shape:
        similarities: (n, n), recordings by row; same: (n, n) of bool, entries that are right too. Right entries of a
        row share its target evenly.

    References:
        Radford et al. (2021), https://arxiv.org/abs/2103.00020, figure 3.

    Example:
        >>> round(float(contrastive_loss(torch.zeros(4, 4))), 4)  # log 4
        1.3863
    """
    if same is None:
        right = torch.arange(len(similarities), device=similarities.device)
        return (F.cross_entropy(similarities, right) + F.cross_entropy(similarities.T, right)) / 2
    target = same / same.sum(dim=1, keepdim=True).to(similarities)
    return (F.cross_entropy(similarities, target) + F.cross_entropy(similarities.T, target)) / 2


def looked_up(model: Retriever, data: TrainingData, images: Sequence[np.ndarray]) -> Seen:
    """What gives features of some of these pictures: (n,) rows → (n, n_image_features) on the model's device.

    Pixels, of which there are many, are made when asked for; what an extractor makes of pictures is kept.

    Raises:
        UsageError: The extractor makes another number of features than the model takes.
    """
    device = device_of(model)
    if model.extractor == PIXELS:
        return lambda rows: torch.stack([unit_pixels(images[int(row)]) for row in rows]).flatten(1).to(device)
    if data.look is None:
        raise UsageError("training needs what a frozen network sees in pictures, which zoo.train brings; use that.")
    found = data.look(model.extractor, model.output, images)
    if found.shape[1] != model.n_image_features:
        raise UsageError(
            f"{model.extractor} makes {found.shape[1]} features of a picture, but the model was built for "
            f"{model.n_image_features}; set that number or name another extractor."
        )
    table = torch.from_numpy(found).to(device)
    return lambda rows: table[torch.tensor(rows).to(device)]


def unit_pixels(image: np.ndarray) -> Tensor:
    """A picture as the extractor ``pixels-224`` gives it: (height, width, 3) uint8 → (3, 224, 224) in [0, 1]."""
    return torch.from_numpy(fitted(image).transpose(2, 0, 1)).float() / 255


def fitted(image: np.ndarray) -> np.ndarray:
    """The middle square of a picture, (224, 224, 3) uint8, as an evaluation shows it to networks."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(Image.fromarray(image), (224, 224), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Pairs:
    """Recordings and the pictures shown.

    Shape:
        rows: trials of all pairs, one pair behind the other; starts: (n_pairs + 1,) where each pair's rows begin.
        pictures: (n_pairs,) row of each pair's picture among those of its role.
    """

    rows: np.ndarray
    starts: np.ndarray
    pictures: np.ndarray

    @classmethod
    def of(cls, data: TrainingData, role: Literal["train", "val"], repetitions: Literal["mean", "single"]) -> Pairs:
        """Pairs of a role, in the order of their first trials.

        Raises:
            UsageError: A trial of it has no picture of its own.
        """
        rows = data.train if role == "train" else data.val
        table = data.image_of_trial if role == "train" else data.val_image_of_trial
        shown = np.full(len(rows), -1) if table is None else np.asarray(table)[rows]
        if lacking := int((shown < 0).sum()):
            raise UsageError(
                f"contrastive training needs the picture of every {role} trial, but {lacking} of {len(rows)} have "
                "none; choose a dataset whose trials have pictures of their own."
            )
        if repetitions == "single" or not len(rows):
            return cls(rows, np.arange(len(rows) + 1), shown)
        people = np.zeros(len(rows), "<U1") if data.subjects is None else np.asarray(data.subjects)[rows]
        person = np.unique(people, return_inverse=True)[1]
        _, first, pair = np.unique(person * (shown.max() + 1) + shown, return_index=True, return_inverse=True)
        pair = np.argsort(np.argsort(first))[pair]
        starts = np.concatenate([[0], np.cumsum(np.bincount(pair))])
        return cls(rows[np.argsort(pair, kind="stable")], starts, shown[np.sort(first)])

    def __len__(self) -> int:
        return len(self.pictures)

    def eeg(self, data: TrainingData, which: np.ndarray, device: torch.device) -> Tensor:
        """Recordings of some pairs, means where they have several trials: (n, n_channels, n_times)."""
        parts = [self.rows[self.starts[pair] : self.starts[pair + 1]] for pair in which]
        sizes = np.array([len(part) for part in parts])
        trials = np.asarray(data.eeg[np.concatenate(parts)])
        if (sizes > 1).any():
            sums = np.add.reduceat(trials, np.cumsum(sizes) - sizes, axis=0, dtype=np.float64)
            trials = (sums / sizes[:, None, None]).astype(np.float32)
        return torch.from_numpy(trials).to(device)


class ContrastiveRecipe(Recipe):
    """InfoNCE between features of EEG and of the pictures shown, which a frozen network made once.

    The state with the lowest loss on all validation pairs at once is kept; those are means over repetitions.

    Args:
        family: Part of the key of every random draw.
        select: ``val``, where there are validation trials, or ``last``.
    """

    name = "encoder"

    def __init__(
        self,
        model: ContrastiveRetriever,
        data: TrainingData,
        *,
        family: str,
        seed: int,
        select: Literal["val", "last"],
    ) -> None:
        config = model.config
        self.model, self.data, self.config, self.key = model, data, config, (family, "contrast", seed)
        self.pairs = Pairs.of(data, "train", config.repetitions)
        if len(self.pairs) < 2:
            raise UsageError(
                f"contrastive training needs two pairs or more, but the train role has {len(self.pairs)}; "
                "choose another split."
            )
        weights = [parameter for module in model.parts().values() for parameter in trainable(module)]
        kind = {"adam": Adam, "adamw": AdamW}[config.optimizer]
        self.optimizer = kind(weights, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        self.batch_size = min(config.batch_size, len(self.pairs))
        self.epoch = len(self.pairs) // self.batch_size
        self.n_steps = config.epochs * self.epoch if config.steps is None else config.steps
        self.targets = looked_up(model, data, data.images)
        """Rows of training pictures → what is seen in them."""
        if select == "val" and len(data.val):
            self.eval_every = self.epoch
            self.val_pairs = Pairs.of(data, "val", "mean")
            self.val_targets = looked_up(model, data, data.val_images)

    def target(self, batch: np.ndarray) -> Tensor:
        """(n, n_image_features): what is seen in the pictures of these pairs."""
        return self.targets(self.pairs.pictures[batch])

    def learn(self, batch: np.ndarray, similarities: Tensor) -> None:
        """Called with what a step compared, (n, n), before the update; does nothing here."""

    def modules(self) -> dict[str, nn.Module]:
        return self.model.parts()

    def optimizers(self) -> dict[str, Optimizer]:
        return {"encoder": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        n, epoch = len(self.pairs), divmod(step, self.epoch)
        place = epoch[0] * steps_per_epoch(n, self.batch_size) + epoch[1]
        batch = epoch_batch(place, n=n, batch_size=self.batch_size, key=self.key)
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        self.model.train()
        eeg = self.model.encode(self.pairs.eeg(self.data, batch, device_of(self.model)))
        compared = self.model.similarities(eeg, self.model.embed_images(self.target(batch)))
        self.learn(batch, compared.detach())
        loss = contrastive_loss(compared, self._same(self.pairs.pictures[batch]))
        update(self.optimizer, loss, *self.model.parts().values())
        return {"contrast": loss.item()}

    def _same(self, pictures: np.ndarray) -> Tensor | None:
        if self.config.positives == "pair":
            return None
        return torch.from_numpy(pictures[:, None] == pictures).to(device_of(self.model))

    @torch.no_grad()
    def validate(self) -> float:
        """Minus the loss of all validation pairs together, in which pairs of one picture are right for each other."""
        self.model.eval()
        device, pairs = device_of(self.model), self.val_pairs
        blocks = np.split(np.arange(len(pairs)), range(ENCODED, len(pairs), ENCODED))
        eeg = torch.cat([self.model.encode(pairs.eeg(self.data, block, device)) for block in blocks])
        images = torch.cat([self.model.embed_images(self.val_targets(pairs.pictures[block])) for block in blocks])
        same = torch.from_numpy(pairs.pictures[:, None] == pairs.pictures).to(device)
        return -float(contrastive_loss(self.model.similarities(eeg, images), same))

"""What tests of retrieval models share: people who see pictures of four quarters, and a frozen network's stand-in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zoo.metrics.retrieval import top_k_accuracy
from zoo.models.base import Retriever
from zoo.models.contrastive import Pairs, fitted
from zoo.specs import EEGSpec
from zoo.training import TrainingData

SPEC = EEGSpec(ch_names=("E0", "E1", "E2", "E3"), sfreq=100, tmin=0, n_times=30, unit="a.u.")


def training(
    n_pictures: int = 24, repetitions: int = 2, n_val: int = 8, people: tuple[str, ...] = ("01",)
) -> TrainingData:
    """Pictures of one colour in each of four quarters; a channel follows each quarter's brightness."""
    rng, n = np.random.default_rng(3), n_pictures + n_val
    quarters = rng.integers(0, 256, (n, 2, 2, 3))
    images = [np.kron(quarter, np.ones((8, 8, 1))).astype(np.uint8) for quarter in quarters]
    shown = np.tile(np.repeat(np.arange(n), repetitions), len(people))
    bright = (quarters.mean(axis=3).reshape(n, 4) / 255 - 0.5)[shown]
    eeg = bright[:, :, None] * np.sin(np.arange(30) / 3) + 0.05 * rng.standard_normal((len(shown), 4, 30))
    train = shown < n_pictures
    return TrainingData(
        eeg=eeg.astype(np.float32),
        labels=shown,
        train=np.flatnonzero(train),
        val=np.flatnonzero(~train),
        n_classes=n,
        images=images[:n_pictures],
        image_labels=np.arange(n_pictures),
        image_of_trial=np.where(train, shown, -1),
        val_images=images[n_pictures:],
        val_image_of_trial=np.where(train, -1, shown - n_pictures),
        subjects=np.repeat(np.array(people), n * repetitions),
        look=means,
    )


def means(extractor: str, output: str, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Mean colours of quarters, twelve numbers in [0, 1]."""
    assert (extractor, output) == ("means", "features")
    seen = [fitted(picture).reshape(2, 112, 2, 112, 3).mean(axis=(1, 3)).ravel() / 255 for picture in pictures]
    return np.stack(seen).astype(np.float32)


@torch.no_grad()
def found(model: Retriever, data: TrainingData, k: int) -> float:
    """Share of validation pictures that are among the ``k`` nearest of all of them to their mean recording."""
    model.eval()
    pairs = Pairs.of(data, "val", "mean")
    queries = model.encode(pairs.eeg(data, np.arange(len(pairs)), torch.device("cpu")))
    gallery = model.embed_images(torch.from_numpy(means("means", "features", data.val_images)))
    return top_k_accuracy(queries=queries.numpy(), gallery=gallery.numpy(), own=pairs.pictures, k=k).value

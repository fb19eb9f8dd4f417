"""What the training recipes of several families share: trials, pictures of trials, features of all trials, updates."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.models.base import EEGEncoder
from zoo.stats import best_naming, keyed_rng
from zoo.training import TrainingData


def scale_image(image: np.ndarray, resolution: int, *, antialias: bool = False) -> Tensor:
    """A picture resized bilinearly (half-pixel centres, aspect ignored), then (v - 127.5) / 127.5.

    Shape:
        image: (height, width, 3) uint8.
        returns: (3, resolution, resolution) float32 in [-1, 1].
    """
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    size = (resolution, resolution)
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=antialias)
    return ((resized[0] - 127.5) / 127.5).contiguous()


def kmeans_accuracy(features: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """Fraction of trials whose k-means cluster is the one matched to their class (Hungarian); settings as released."""
    from sklearn.cluster import KMeans

    cluster = KMeans(n_clusters=n_classes, n_init=10, random_state=45).fit_predict(features)
    return float(np.mean(best_naming(cluster, labels)[cluster] == labels))


def update(optimizer: Optimizer, loss: Tensor, *modules: nn.Module) -> None:
    """One step of ``modules`` alone: no gradient is computed for what the loss passes through."""
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[parameter for module in modules for parameter in trainable(module)])
    optimizer.step()


def pair_images(data: TrainingData, *, seed: int, pairing: Literal["class", "instance"]) -> np.ndarray:
    """Row in ``data.images`` of every training trial's picture, in the order of ``data.train``.

    Raises:
        UsageError: A trial has no picture of its class, or none of its own where it needs one.
    """
    if pairing == "instance":
        rows = np.full(len(data.train), -1) if data.image_of_trial is None else data.image_of_trial[data.train]
        if (rows < 0).any():
            raise UsageError(
                f"image_pairing='instance' needs a picture for every training trial, but {int((rows < 0).sum())} of "
                f"{len(rows)} have none; use image_pairing='class'."
            )
        return np.asarray(rows)
    labels, rng = data.labels[data.train], keyed_rng("pairing", seed)
    rows = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        candidates = np.flatnonzero(np.asarray(data.image_labels) == label)
        if not len(candidates):
            raise UsageError(f"training the GAN needs a picture of every class, but class {label} has none; add one.")
        mine = np.flatnonzero(labels == label)
        rows[mine] = candidates[rng.integers(len(candidates), size=len(mine))]
    return rows


@torch.no_grad()
def encode_rows(model: EEGEncoder, data: TrainingData, rows: np.ndarray, *, batch_size: int = 256) -> Tensor:
    """Features of these trials, on the model's device, with the encoder at inference."""
    model.parts()["encoder"].eval()
    device = device_of(model)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return torch.cat([model.encode(trials_of(data, batch, device)) for batch in batches])


def trials_of(data: TrainingData, rows: np.ndarray, device: torch.device) -> Tensor:
    """Recordings of some trials, (n, n_channels, n_times), on ``device``."""
    return torch.from_numpy(np.asarray(data.eeg[rows])).to(device)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def mean_responses(
    data: TrainingData, subject: str | None = None, *, role: Literal["train", "val"] = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Mean response of a person, or of everybody, to each picture of a role: what encoding models are trained on.

    A picture whose trials are not known, since they share only its class, has the mean over all trials of the class.

    Returns:
        Responses (n, n_channels, n_times) float64, and (n,) the rows of their pictures in ``data.images`` (or
        ``data.val_images``); pictures that nobody was shown are left out.

    Raises:
        UsageError: No picture of the role was shown to this person.
    """
    rows = data.train if role == "train" else data.val
    if subject is not None and data.subjects is not None:
        rows = rows[data.subjects[rows] == subject]
    positions = data.image_of_trial if role == "train" else data.val_image_of_trial
    shown = np.full(rows.size, -1) if positions is None else positions[rows]
    by_class = bool((shown < 0).any()) and role == "train" and data.image_labels is not None
    key = data.labels[rows] if by_class else shown
    if not rows.size or not len(data.images if role == "train" else data.val_images) or (key < 0).any():
        raise UsageError(
            f"an encoding model needs {role} trials{f' of subject {subject}' if subject else ''} with known pictures, "
            "but there are none; prepare the dataset with pictures."
        )
    found, which = np.unique(key, return_inverse=True)
    total = np.zeros((found.size, *data.eeg.shape[1:]))
    for start in range(0, rows.size, 4096):
        part = slice(start, start + 4096)
        np.add.at(total, which[part], data.eeg[rows[part]])
    means = total / np.bincount(which)[:, None, None]
    if not by_class:
        return means, found
    of_class = {label: row for row, label in enumerate(found.tolist())}
    pictures = np.array([row for row, label in enumerate(data.image_labels) if label in of_class])  # type: ignore[arg-type]
    return means[[of_class[label] for label in np.asarray(data.image_labels)[pictures].tolist()]], pictures

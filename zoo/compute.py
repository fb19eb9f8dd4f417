"""What runs on the device: encoding EEG, decoding features into images. The only stage code that imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zoo.errors import UsageError
from zoo.models.base import Classifier, EEGEncoder, EncodingModel, LabelConditioned, Model, Reconstructor, Retriever
from zoo.stages import CHUNK, Work


def encode(model: EEGEncoder, eeg: Any, rows: np.ndarray, work: Work) -> np.ndarray:
    """EEG features of ``rows``: (n, n_features) float32; ``eeg`` is indexed batch by batch, e.g. a memory map."""
    micro, blocks = _micro(model, work), []
    with torch.inference_mode():
        for start in range(0, rows.size, micro):
            part = rows[start : start + micro]
            batch = torch.from_numpy(np.array(eeg[_filled(part, micro)])).to(work.device)
            blocks.append(model.encode(batch).float().cpu().numpy()[: part.size])
    return np.concatenate(blocks)


def logits(model: Classifier, features: np.ndarray, work: Work) -> np.ndarray:
    """What the model's own classifier makes of features: (n, n_classes) float32."""
    micro, blocks = _micro(model, work), []
    with torch.inference_mode():
        for start in range(0, len(features), micro):
            part = features[start : start + micro]
            given = torch.from_numpy(_filled(part, micro)).to(work.device)
            blocks.append(model.logits(given).float().cpu().numpy()[: len(part)])
    return np.concatenate(blocks)


def encode_labels(model: LabelConditioned, labels: np.ndarray, work: Work) -> np.ndarray:
    """What stands for EEG features where the true classes are given: (n, n_features) float32.

    Raises:
        UsageError: A label is none that the model knows.
    """
    if labels.size and labels.max() >= model.n_classes:
        raise UsageError(
            f"{type(model).__name__} knows {model.n_classes} classes, but a trial has label {labels.max()}; "
            f"train it with n_classes={labels.max() + 1} or more."
        )
    with torch.inference_mode():
        features: np.ndarray = model.encode_labels(torch.from_numpy(labels).to(work.device)).float().cpu().numpy()
    return features


def generate(
    model: Reconstructor, features: np.ndarray, noise: Sequence[np.random.Generator], resolution: int, work: Work
) -> np.ndarray:
    """One image per row of features: (n, 3, resolution, resolution) uint8.

    Args:
        noise: The generator of each sample, keyed by (track, trial, replicate) and nothing else.
        resolution: The track's; a model of another size is resized (bilinear, antialiased).
    """
    micro, blocks = _micro(model, work), []
    with torch.inference_mode():
        for start in range(0, len(features), micro):
            drawn = np.stack([model.draw_noise(rng) for rng in noise[start : start + micro]])
            given = torch.from_numpy(_filled(features[start : start + micro], micro)).to(work.device)
            images = model.decode(given, torch.from_numpy(_filled(drawn, micro)).to(work.device))
            blocks.append(to_uint8(images[: len(drawn)], model.rounding, resolution))
    return np.concatenate(blocks)


def to_uint8(images: torch.Tensor, rounding: str, resolution: int) -> np.ndarray:
    """(n, 3, h, w) in [0, 1] → (n, 3, resolution, resolution) uint8, by the model's own rounding."""
    if images.shape[-1] != resolution:
        images = torch.nn.functional.interpolate(
            images, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False
        )
    scaled = images.float().clamp(0, 1) * 255
    whole: np.ndarray = (scaled if rounding == "truncate" else scaled.round()).to(torch.uint8).cpu().numpy()
    return whole


def predict(
    model: EncodingModel, pictures: Sequence[np.ndarray], people: Sequence[str | None], work: Work
) -> np.ndarray:
    """Responses of some people to pictures: (n, n_people, n_channels, n_times) float32.

    Args:
        pictures: (height, width, 3) uint8 each, of any size.
    """
    micro, blocks = _micro(model, work), []
    with torch.inference_mode():
        for start in range(0, len(pictures), micro):
            part = pictures[start : start + micro]
            seen = model.see(model.pixels([*part, *[part[-1]] * (micro - len(part))]).to(work.device))
            made = torch.stack([model.respond(seen, person) for person in people], dim=1)
            blocks.append(made.float().cpu().numpy()[: len(part)])
    return np.concatenate(blocks)


def embed_images(model: Retriever, features: np.ndarray, work: Work) -> np.ndarray:
    """Pictures in the space of the model's EEG features: (n, n_features) float32, from what its extractor saw."""
    if features.shape[1] != model.n_image_features:
        raise UsageError(
            f"{type(model).__name__} takes {model.n_image_features} image features, but {model.output} of "
            f"{model.extractor} has {features.shape[1]}; name another extractor or output in its config."
        )
    micro, blocks = _micro(model, work), []
    with torch.inference_mode():
        for start in range(0, len(features), micro):
            part = features[start : start + micro]
            given = torch.from_numpy(_filled(part, micro)).to(work.device)
            blocks.append(model.embed_images(given).float().cpu().numpy()[: len(part)])
    return np.concatenate(blocks)


def _filled(rows: np.ndarray, n: int) -> np.ndarray:
    """``rows`` with the last one repeated up to ``n``: in a smaller batch a matrix product would round otherwise."""
    return np.concatenate([rows, np.repeat(rows[-1:], n - len(rows), axis=0)])


def _micro(model: Model, work: Work) -> int:
    """Rows per call: fixed on a cpu, the batch size on a GPU, where small calls would waste it."""
    return model.micro_batch if work.device == "cpu" else min(work.batch_size, CHUNK)

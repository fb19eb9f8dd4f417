"""Content-addressed computation: arrays made in chunks, each on disk whole or not at all.

A stage's folder is named by the hash of everything that decides its rows. Chunks have a fixed size and are computed in
fixed micro-batches, so batch size, shards and interruptions change no value.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.models.base import EEGEncoder, Reconstructor
from zoo.store import stage_dir, write_bytes

Progress = Callable[[int, int, str], None]
CHUNK = 64
"""Images per committed file: the most that a kill can cost."""
TRIALS = 1024
"""The same for trials, which are quicker."""


@dataclass(frozen=True)
class Work:
    """How rows are computed; nothing in it may change a value (on cuda: beyond the stated tolerance)."""

    device: str = "cpu"
    batch_size: int = 64
    shard: tuple[int, int] | None = None
    """(k, n): compute only every n-th chunk, starting with the k-th."""
    progress: Progress = lambda done, total, what: None

    def micro(self, model: EEGEncoder) -> int:
        """Rows per call: fixed on a cpu, the batch size on a GPU, where small calls would waste it."""
        return model.micro_batch if self.device == "cpu" else min(self.batch_size, CHUNK)


class ShardsMissingError(Exception):
    """This shard is done, but chunks of other shards are not here yet."""


@dataclass(frozen=True)
class Stage:
    """``n`` rows of one array, ``compute(slice)`` giving those of a chunk."""

    kind: str
    identity: dict[str, Any]
    n: int
    compute: Callable[[slice], np.ndarray]
    what: str
    chunk: int = CHUNK

    @cached_property
    def _paths(self) -> list[Path]:
        folder = stage_dir(self.kind, {**self.identity, "n": self.n, "chunk": self.chunk})
        return [folder / f"{index:05d}.npy" for index in range(-(-self.n // self.chunk))]

    def fill(self, work: Work) -> None:
        """Compute this shard's chunks that are not on disk."""
        first, step = work.shard or (0, 1)
        for index in range(first, len(self._paths), step):
            if not self._paths[index].exists():
                part = slice(index * self.chunk, min((index + 1) * self.chunk, self.n))
                work.progress(part.start, self.n, self.what)
                _save(self._paths[index], self.compute(part))
        work.progress(self.n, self.n, self.what)

    def rows(self, part: slice) -> np.ndarray:
        """Rows of one chunk that is on disk."""
        found: np.ndarray = np.load(self._paths[part.start // self.chunk], allow_pickle=False)
        return found

    def gather(self) -> np.ndarray:
        """All rows.

        Raises:
            ShardsMissingError: Chunks of other shards are not here.
        """
        if not all(path.exists() for path in self._paths):
            raise ShardsMissingError
        return np.concatenate([np.load(path, allow_pickle=False) for path in self._paths])


def once(kind: str, identity: dict[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made in one piece, kept under the hash of ``identity``."""
    path = stage_dir(kind, identity) / "array.npy"
    if not path.exists():
        _save(path, compute())
    found: np.ndarray = np.load(path, allow_pickle=False)
    return found


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def encode(model: EEGEncoder, eeg: np.ndarray, rows: np.ndarray, work: Work) -> np.ndarray:
    """EEG features of ``rows``: (n, n_features) float32, read from the memory map batch by batch."""
    micro, blocks = work.micro(model), []
    with torch.inference_mode():
        for start in range(0, rows.size, micro):
            batch = torch.from_numpy(np.array(eeg[rows[start : start + micro]])).to(work.device)
            blocks.append(model.encode(batch).float().cpu().numpy())
    return np.concatenate(blocks)


def generate(
    model: Reconstructor,
    eeg: np.ndarray,
    rows: np.ndarray,
    noise: list[np.random.Generator],
    resolution: int,
    work: Work,
) -> np.ndarray:
    """One image per row of EEG: (n, 3, resolution, resolution) uint8.

    Args:
        noise: The generator of each sample, keyed by (track, trial, replicate) and nothing else.
        resolution: The track's; a model of another size is resized (bilinear, antialiased).
    """
    micro, blocks = work.micro(model), []
    features = encode(model, eeg, rows, work)
    with torch.inference_mode():
        for start in range(0, rows.size, micro):
            drawn = np.stack([model.draw_noise(rng) for rng in noise[start : start + micro]])
            given = torch.from_numpy(features[start : start + micro]).to(work.device)
            images = model.decode(given, torch.from_numpy(drawn).to(work.device))
            blocks.append(to_uint8(images, model.rounding, resolution))
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


def resize_pictures(pictures: list[np.ndarray], resolution: int) -> np.ndarray:
    """Real pictures of any size, (h, w, 3) uint8, as (n, 3, resolution, resolution): centre square, bicubic (PIL)."""
    from PIL import Image, ImageOps

    size = (resolution, resolution)
    fitted = [ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.BICUBIC) for picture in pictures]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in fitted])

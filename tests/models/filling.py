"""The formula that fills networks of fixtures: every number depends on a tensor's name and its place in it."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def hashed(name: str, n: int) -> np.ndarray:
    """The fixture's numbers in [-1, 1): a hash of a tensor's name and flat index, float64."""
    mask = np.uint64(0xFFFFFFFF)
    h = (np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & mask
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        h ^= h >> np.uint64(16 if factor == 0x85EBCA6B else 13)
        h = h * np.uint64(factor) & mask
    h ^= h >> np.uint64(16)
    return np.asarray(2 * (h / 2**32) - 1)


def filled(name: str, like: Tensor) -> Tensor:
    """What the fixture's formula puts into a tensor of this name and shape."""
    r, last = hashed(name, like.numel()).reshape(like.shape), name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return like
    if last == "running_var":
        values = 1 + 0.5 * r
    elif last == "weight":
        values = r * np.sqrt(3 / np.prod(like.shape[1:])) if like.ndim > 1 else 1 + 0.1 * r
    else:
        values = (0.1 if last in ("bias", "running_mean") else 0.02) * r
    return torch.from_numpy(np.asarray(values, dtype=np.float32))

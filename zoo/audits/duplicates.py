"""Pictures that are in both roles: the same file, or the same picture saved, scaled or lit a little differently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SIDE = 16
ALIKE = 0.999
"""Correlation of two grey thumbnails from which on they show the same picture.

Measured: copies saved as JPEG of quality 90 reach it in all of five sets (faces and houses, ImageNet, CIFAR-10, glyphs,
rendered shapes); different pictures stay below 0.99 in the first four. Shapes can differ so little that they pass.
"""
TINT = 32.0
"""Largest difference of their mean colours, of 255: shape alone is not enough where colour is the class."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), those of JPEG."""
BLOCK = 1024


@dataclass(frozen=True)
class Pictures:
    """The pictures of a dataset as far as duplicates are concerned.

    Shape:
        sha256: (n,) of the files; thumbnails: (n, 16, 16, 3) uint8; train, test: rows that play these roles.
    """

    sha256: np.ndarray
    thumbnails: np.ndarray
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Duplicates:
    """How many of ``n`` test pictures are among the training pictures, as files or at least as pictures."""

    n: int
    same: int
    alike: int
    """Includes ``same``."""


def thumbnails(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Area averages, (n, 16, 16, 3) uint8, of (height, width, 3) uint8 pictures of any size."""
    from PIL import Image

    small = [Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX) for picture in pictures]
    return np.array(small, dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)


def find_duplicates(pictures: Pictures) -> Duplicates:
    """Compare every test picture with every training picture.

    A picture turned, mirrored or cropped by more than a few per cent is not recognised.
    """
    train, test = pictures.train, pictures.test
    same = np.isin(pictures.sha256[test], pictures.sha256[train])
    alike = same.copy()
    known, asked = _patterns(pictures.thumbnails[train]), _patterns(pictures.thumbnails[test])
    colour = pictures.thumbnails.mean(axis=(1, 2))
    for start in range(0, test.size, BLOCK):
        one, other = np.nonzero(asked[start : start + BLOCK] @ known.T >= ALIKE)
        near = np.abs(colour[test[start + one]] - colour[train[other]]).max(axis=1) <= TINT
        alike[start + one[near]] = True
    return Duplicates(test.size, int(same.sum()), int(alike.sum()))


def _patterns(small: np.ndarray) -> np.ndarray:
    """Grey values less their mean, at unit length; a picture of one grey has no pattern and resembles nothing."""
    grey = (small @ np.array(GREY)).reshape(len(small), SIDE * SIDE)
    grey -= grey.mean(axis=1, keepdims=True)
    pattern: np.ndarray = grey / np.linalg.norm(grey, axis=1, keepdims=True).clip(min=1e-9)
    return pattern

"""How alike a generated image and the shown picture are as arrays of pixels. numpy, scipy and Pillow, float64.

The ``compare`` functions are comparing extractors: they see each generated image beside its own picture. Each stands
for one published chain of resizes, part of a score's name, since it moves a score more than many models do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import UsageError
from zoo.metrics.base import Score

SIDE = 425
"""Side at which published code compares pixels."""
_GREY = (0.2125, 0.7154, 0.0721)
"""Luminance of linear RGB with the primaries of Rec. 709, as ``skimage.color.rgb2gray`` weighs it."""
_SIGMA, _RADIUS = 1.5, 5
_PLANE, _COLUMNS = (0, 1), (0,)
_Resize = Callable[[np.ndarray], np.ndarray]


def compare_425(generated: np.ndarray, own: np.ndarray) -> dict[str, np.ndarray]:
    """Every pixel measure of every pair, both images resized to 425×425 in floats: bilinear, antialiased, stretched.

    Shape:
        generated: (n, 3, height, width) uint8 RGB; own: the picture of each, likewise, of any other height and width.
        Returns ``pixcorr``, ``ssim_2d`` and ``ssim_columnwise_legacy``, (n,) float64, each value depending on its pair
        alone.
    Raises:
        UsageError: Not n >= 1 pairs of such images.
    """
    return _compare(generated, own, _resize_floats)


def compare_224_425(generated: np.ndarray, own: np.ndarray) -> dict[str, np.ndarray]:
    """As ``compare_425`` after a resize to 224×224 in bytes, as an image library does it."""
    return _compare(generated, own, lambda image: _resize_floats(_resize_bytes(image)))


def mean_of_pairs(*, pairs: ArrayLike) -> Score:
    """Mean of a value that each pair has: one output of a comparing extractor.

    Shape:
        pairs: (n,), n >= 1.
    Raises:
        UsageError: No pairs, not one value each, or a value that is not finite.
    """
    values = np.asarray(pairs, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UsageError(f"pairs must be (n,) with n >= 1 but has shape {values.shape}; pass one value a pair.")
    if bad := int((~np.isfinite(values)).sum()):
        raise UsageError(f"pairs must be finite but {bad} of {len(values)} are not; find out which broke.")
    return Score(float(values.mean()), values)


def pixel_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of two images over all pixels and colours; 0 if one of them has a single value.

    Shape:
        x, y: the same shape, at least one value, in any unit.
    References:
        "PixCorr": Ozcelik and VanRullen (2023), https://arxiv.org/abs/2303.05334.
    """
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))  # products by BLAS would start threads of their own
    return float((x * y).sum()) / scale if scale > x.size * np.finfo(np.float64).eps else 0.0


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Structural similarity of two grey images: Gaussian windows of sigma 1.5, population covariance, range 1.

    Mean over all pixels whose 11×11 window lies inside. 1 for equal images. Equal to scikit-image 0.20 and later; the
    settings are those of Wang et al.

    Shape:
        x, y: (height, width) in [0, 1], both sides at least 11.
    References:
        Wang et al. (2004), https://doi.org/10.1109/TIP.2003.819861, eq. 13.
    """
    return _ssim(x, y, _PLANE)


def ssim_columnwise_legacy(x: np.ndarray, y: np.ndarray) -> float:
    """What scikit-image up to 0.19.3 gave for a grey image with ``multichannel=True``: columns taken for channels.

    The mean of one-dimensional similarities, each over one column. It knows no structure along rows, and is higher than
    ``ssim`` for unrelated photographs. Published scores are of either kind, depending on the version installed.

    Shape:
        As ``ssim``.
    """
    return _ssim(x, y, _COLUMNS)


class _Side:
    """One image of a pair, resized, with the window means that every comparison with it needs."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.grey = sum(weight * channel for weight, channel in zip(_GREY, image, strict=True))

    @cached_property
    def moments(self) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
        return {axes: _moments(self.grey, axes) for axes in (_PLANE, _COLUMNS)}


def _compare(generated: np.ndarray, own: np.ndarray, resize: _Resize) -> dict[str, np.ndarray]:
    for name, images in (("generated", generated), ("own", own)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise UsageError(
                f"{name} must be uint8 of shape (n, 3, height, width) with n >= 1 but is {images.dtype} of shape "
                f"{images.shape}; convert it first."
            )
    if len(generated) != len(own):
        raise UsageError(
            f"each image needs its own picture beside it but {len(generated)} images came with {len(own)} pictures; "
            "pass one per image."
        )
    shown: dict[bytes, _Side] = {}  # several trials show one picture
    for picture in own:
        if (key := picture.tobytes()) not in shown:
            shown[key] = _Side(resize(picture))

    def pair(image: np.ndarray, picture: np.ndarray) -> list[float]:
        x, y = _Side(resize(image)), shown[picture.tobytes()]
        windows = (_PLANE, _COLUMNS)
        similar = [_similarity(x.grey, y.grey, axes, x.moments[axes], y.moments[axes]) for axes in windows]
        return [pixel_correlation(x.image, y.image), *similar]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the filters release the interpreter's lock
        found = np.array(list(pool.map(pair, generated, own)))
    return dict(zip(("pixcorr", "ssim_2d", "ssim_columnwise_legacy"), found.T, strict=True))


def _ssim(x: np.ndarray, y: np.ndarray, axes: tuple[int, ...]) -> float:
    return _similarity(x, y, axes, _moments(x, axes), _moments(y, axes))


def _window_mean(image: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    mean: np.ndarray = gaussian_filter(image, sigma=_SIGMA, radius=_RADIUS, axes=axes)
    return mean


def _moments(image: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance in windows along ``axes``."""
    mean = _window_mean(image, axes)
    return mean, _window_mean(image * image, axes) - mean * mean


def _similarity(
    x: np.ndarray,
    y: np.ndarray,
    axes: tuple[int, ...],
    of_x: tuple[np.ndarray, np.ndarray],
    of_y: tuple[np.ndarray, np.ndarray],
) -> float:
    """Structural similarity in windows along ``axes``, mean over the windows that lie inside."""
    (mean_x, var_x), (mean_y, var_y) = of_x, of_y
    product = mean_x * mean_y
    covariance = _window_mean(x * y, axes) - product
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * product + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    )
    inside = tuple(slice(_RADIUS, -_RADIUS) if axis in axes else slice(None) for axis in range(2))
    return float(similarity[inside].mean())


def _resize_floats(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(3, h, w) uint8 → (3, side, side) in [0, 1]: bilinear, antialiased, half-pixel centres, no rounding to bytes."""
    from PIL import Image

    channels = [Image.fromarray(channel.astype(np.float32) / 255) for channel in image]
    resized = [np.asarray(channel.resize((side, side), Image.Resampling.BILINEAR)) for channel in channels]
    return np.stack(resized).astype(np.float64)


def _resize_bytes(image: np.ndarray, side: int = 224) -> np.ndarray:
    """(3, h, w) uint8 → (3, side, side) uint8, as Pillow resizes a picture bilinearly."""
    from PIL import Image

    picture = Image.fromarray(np.moveaxis(image, 0, 2)).resize((side, side), Image.Resampling.BILINEAR)
    return np.moveaxis(np.asarray(picture), 2, 0)

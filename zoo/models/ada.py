"""Adaptive discriminator augmentation: random changes of pictures, each made with probability p, and what steers p.

Karras et al. (2020), "Training Generative Adversarial Networks with Limited Data", https://arxiv.org/abs/2006.06676,
appendix B; written from the paper, the authors' code is not used. The operations are those called ``bgcfnc``: pixel
blitting, general geometry, colour, filtering, noise, cutout, in this order and with the paper's strengths. Wherever a
picture moves by whole pixels, is mirrored or turned by right angles and nothing more, its pixels are copied exactly;
else one affine map is sampled bilinearly at twice the resolution, between a SYM6 low-pass filter and its adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

OPERATIONS = (
    "xflip",
    "rotate90",
    "xint",
    "scale",
    "rotate",
    "aniso",
    "xfrac",
    "brightness",
    "contrast",
    "lumaflip",
    "hue",
    "saturation",
    "imgfilter",
    "noise",
    "cutout",
)
"""``bgcfnc``, in order."""

SHIFT = 0.125
"""Largest shift by whole pixels, and standard deviation of the fractional one, of the picture's size."""
SCALE_OCTAVES = 0.2
"""Standard deviation of the binary logarithm of either scaling."""
BRIGHTNESS = 0.2
CONTRAST_OCTAVES = 0.5
SATURATION_OCTAVES = 1.0
BAND_OCTAVES = 1.0
BAND_POWER = np.array([10, 1, 1, 1]) / 13
"""Power that natural pictures are expected to have in each band; amplified bands keep the sum."""
NOISE = 0.1
CUTOUT = 0.5

GREY = np.full((3, 1), 3**-0.5)
LUMA = GREY @ GREY.T
"""Projection onto the grey axis."""

SYM6 = np.array(
    [
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
        0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
        -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
    ]
)  # fmt: skip
"""Daubechies' least asymmetric orthogonal low-pass filter with six vanishing moments, sum √2."""
DELAY = float(np.arange(len(SYM6)) @ SYM6 / SYM6.sum())
"""Where the centre of the filter is: it is not quite symmetric, so not in its middle."""
SYM2 = np.array([1 - 3**0.5, 3 - 3**0.5, 3 + 3**0.5, 1 + 3**0.5]) / 32**0.5


def filter_bank() -> np.ndarray:
    """Impulse responses, (4, 43), of bands π/8, π/4, π/2 and π wide up to there; they sum to an impulse.

    The half-band filter is SYM2 with its own mirror image; its à-trous cascade gives low passes of 1, 2 and 3 octaves,
    and bands are what one low pass leaves over from the next.
    """
    half = np.convolve(SYM2, SYM2[::-1]) / 2
    passed = [np.ones(1)]
    for octave in range(3):
        dilated = np.zeros((len(half) - 1) * 2**octave + 1)
        dilated[:: 2**octave] = half
        passed.append(np.convolve(passed[-1], dilated))
    longest = len(passed[-1])
    low = np.stack([np.pad(taps, (longest - len(taps)) // 2) for taps in passed])
    return np.stack([low[3], low[2] - low[3], low[1] - low[2], low[0] - low[1]])


BANK = filter_bank()


@dataclass(frozen=True)
class Augmentation:
    """What happens to each picture of a batch; made by :func:`draw`, applied by calling it.

    Attributes:
        blit: (n, 3, 3) homogeneous maps of pixel positions relative to the centre (x right, y down), whole numbers.
        warp: (n, 3, 3) the rest of the geometry, after ``blit``.
        colour: (n, 3, 4) affine maps of RGB.
        gains: (n, 4) amplification per frequency band.
        sigma: (n,) strength of ``noise``, (n, 3, size, size) or empty where every strength is 0.
        cutout: (n, 2) centre of the square that is cut out, as x and y in [0, 1); NaN for none.
    """

    blit: np.ndarray
    warp: np.ndarray
    colour: np.ndarray
    gains: np.ndarray
    sigma: np.ndarray
    noise: np.ndarray
    cutout: np.ndarray

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, size, size) in [-1, 1] → the same shape, not clipped; differentiable twice."""
        return self._cut(self._disturb(self._filter(self._recolour(self._move(images)))))

    def _move(self, x: Tensor) -> Tensor:
        still = np.eye(3)
        warped = (self.warp != still).any(axis=(1, 2))
        blitted = ~warped & (self.blit != still).any(axis=(1, 2))
        x = _replaced(x, blitted, lambda part: blit(part, self.blit[blitted]))
        return _replaced(x, warped, lambda part: warp(part, self.warp[warped] @ self.blit[warped]))

    def _recolour(self, x: Tensor) -> Tensor:
        if (self.colour == np.eye(3, 4)).all():
            return x
        maps = _tensor(self.colour, x)
        mixed = torch.bmm(maps[:, :, :3], x.flatten(2)) + maps[:, :, 3:]
        return mixed.view_as(x)

    def _filter(self, x: Tensor) -> Tensor:
        filtered = (self.gains != 1).any(axis=1)
        return _replaced(x, filtered, lambda part: separable(part, self.gains[filtered] @ BANK))

    def _disturb(self, x: Tensor) -> Tensor:
        if not self.noise.size:
            return x
        return x + _tensor(self.noise, x) * _tensor(self.sigma, x)[:, None, None, None]

    def _cut(self, x: Tensor) -> Tensor:
        if np.isnan(self.cutout).all():
            return x
        middle = (np.arange(x.shape[2]) + 0.5) / x.shape[2]
        inside = np.abs(middle - self.cutout[:, :, None]) < CUTOUT / 2  # NaN compares false
        keep = ~(inside[:, 1, :, None] & inside[:, 0, None, :])
        return x * _tensor(keep[:, None], x)


def draw(
    rng: np.random.Generator, n: int, size: int, p: float, *, operations: Collection[str] = OPERATIONS
) -> Augmentation:
    """One augmentation for each of ``n`` pictures of this size; every operation acts with probability ``p``.

    Args:
        operations: The others never act; what is drawn for one does not depend on which others are there.
    """
    own_rngs = np.random.default_rng(rng.integers(2**63)).spawn(len(OPERATIONS))
    generators = dict(zip(OPERATIONS, own_rngs, strict=True))

    def acts(name: str, chance: float = p) -> tuple[np.random.Generator, np.ndarray]:
        own = generators[name]
        return own, (own.random(n) < chance) & (name in operations)

    def where(active: np.ndarray, value: np.ndarray, neutral: float = 0) -> np.ndarray:
        return np.where(active, value, neutral)

    own, active = acts("xflip")
    flip = 1 - 2 * where(active, own.integers(0, 2, n))
    moves = _stretch(flip, np.ones(n))
    own, active = acts("rotate90")
    moves = _turn(where(active, own.integers(0, 4, n)) * np.pi / 2, exact=True) @ moves
    own, active = acts("xint")
    shift = np.rint(own.uniform(-SHIFT, SHIFT, (2, n)) * size)
    moves = _shift(where(active, shift[0]), where(active, shift[1])) @ moves

    own, active = acts("scale")
    factor = 2.0 ** where(active, own.normal(0, SCALE_OCTAVES, n))
    warps = _stretch(factor, factor)
    turned = 1 - math.sqrt(max(1 - p, 0))  # before or after: p that there is any
    own, active = acts("rotate", turned)
    warps = _turn(where(active, own.uniform(-np.pi, np.pi, n))) @ warps
    later, late = own, (own.random(n) < turned) & ("rotate" in operations)
    own, active = acts("aniso")
    factor = 2.0 ** where(active, own.normal(0, SCALE_OCTAVES, n))
    warps = _stretch(factor, 1 / factor) @ warps
    warps = _turn(where(late, later.uniform(-np.pi, np.pi, n))) @ warps
    own, active = acts("xfrac")
    shift = own.normal(0, SHIFT * size, (2, n))
    warps = _shift(where(active, shift[0]), where(active, shift[1])) @ warps

    one = np.eye(3)
    own, active = acts("brightness")
    colour = np.repeat(np.eye(3, 4)[None], n, axis=0)
    colour[:, :, 3] += where(active, own.normal(0, BRIGHTNESS, n))[:, None]
    own, active = acts("contrast")
    colour *= (2.0 ** where(active, own.normal(0, CONTRAST_OCTAVES, n)))[:, None, None]
    own, active = acts("lumaflip")
    colour = (one - 2 * where(active, own.integers(0, 2, n))[:, None, None] * LUMA) @ colour
    own, active = acts("hue")
    colour = _about_grey(where(active, own.uniform(-np.pi, np.pi, n))) @ colour
    own, active = acts("saturation")
    amount = 2.0 ** where(active, own.normal(0, SATURATION_OCTAVES, n))
    colour = np.where((amount == 1)[:, None, None], one, LUMA + amount[:, None, None] * (one - LUMA)) @ colour

    gains = np.ones((n, len(BANK)))
    for band in range(len(BANK)):
        own, active = acts("imgfilter")
        amplified = np.ones((n, len(BANK)))
        amplified[:, band] = 2.0 ** where(active, own.normal(0, BAND_OCTAVES, n))
        amplified /= np.sqrt((amplified**2 * BAND_POWER).sum(axis=1, keepdims=True))
        gains = np.where(active[:, None], gains * amplified, gains)

    own, active = acts("noise")
    sigma = where(active, np.abs(own.normal(0, NOISE, n)))
    noise = own.standard_normal((n if active.any() else 0, 3, size, size), dtype=np.float32)
    own, active = acts("cutout")
    return Augmentation(
        blit=moves,
        warp=warps,
        colour=colour,
        gains=gains,
        sigma=sigma,
        noise=noise,
        cutout=np.where(active[:, None], own.random((n, 2)), np.nan),
    )


def _maps(n: int) -> np.ndarray:
    return np.repeat(np.eye(3)[None], n, axis=0)


def _stretch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    maps = _maps(len(x))
    maps[:, 0, 0], maps[:, 1, 1] = x, y
    return maps


def _shift(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    maps = _maps(len(x))
    maps[:, 0, 2], maps[:, 1, 2] = x, y
    return maps


def _turn(angle: np.ndarray, *, exact: bool = False) -> np.ndarray:
    """Rotations, clockwise as y points down; ``exact`` for multiples of right angles."""
    maps, cosine, sine = _maps(len(angle)), np.cos(angle), np.sin(angle)
    if exact:
        cosine, sine = np.rint(cosine), np.rint(sine)
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1] = cosine, -sine, sine, cosine
    return maps


def _about_grey(angle: np.ndarray) -> np.ndarray:
    """Rotations of RGB about the grey axis (Rodrigues), exactly the identity for 0."""
    a = 3**-0.5
    cross = np.array([[0, -a, a], [a, 0, -a], [-a, a, 0]])
    cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return np.asarray(np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross))


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device).to(like.dtype)


def _replaced(x: Tensor, chosen: np.ndarray, change: Any) -> Tensor:
    """``x`` with these rows changed; the others are passed on untouched."""
    if chosen.all():
        changed: Tensor = change(x)
        return changed
    if not chosen.any():
        return x
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
    return x.index_copy(0, rows, change(x[rows]))


def mirrored(position: np.ndarray, size: int) -> np.ndarray:
    """Whole positions on a line continued by reflection about the centres of its end pixels → in ``range(size)``."""
    if size == 1:
        return np.zeros_like(position)
    folded = position % (2 * size - 2)
    return np.asarray(np.minimum(folded, 2 * size - 2 - folded))


def blit(x: Tensor, maps: np.ndarray) -> Tensor:
    """Pixels copied to where whole-number ``maps`` (n, 3, 3) take them; what comes from outside is a reflection."""
    size = x.shape[2]
    doubled = 2 * np.arange(size) - (size - 1)  # positions relative to the centre are halves
    there = np.stack(np.broadcast_arrays(doubled[None, :], doubled[:, None], np.full((1, 1), 2)))
    back = np.einsum("nij,jhw->nihw", np.rint(np.linalg.inv(maps)), there)[:, :2]
    source = mirrored((back.astype(np.int64) + size - 1) // 2, size)
    index = torch.from_numpy(source[:, 1] * size + source[:, 0]).to(x.device)
    return x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def warp(x: Tensor, maps: np.ndarray) -> Tensor:
    """Pictures moved by affine ``maps`` (n, 3, 3), band-limited: twice the pixels, bilinear sampling, half of them.

    The identity comes out as it went in, since the filter is orthogonal to its even shifts. Pictures are continued by
    reflection, at most by their own size; beyond that they are 0.
    """
    size, support = x.shape[2], len(SYM6)
    n_fine = 2 * size + support - 2
    line = (np.arange(n_fine) - DELAY) / 2 - (size - 1) / 2
    there = np.stack(np.broadcast_arrays(line[None, :], line[:, None], np.ones((1, 1))))
    back = np.einsum("nij,jhw->nhwi", np.linalg.inv(maps)[:, :2], there)
    reach = math.ceil(np.abs(back).max() - (size - 1) / 2) + support // 4 + 1
    margin = min(max(reach, 0), size - 1)
    fine = 2 * (back + (size - 1) / 2 + margin) + DELAY
    up = _upsampling(size, margin)
    wide = _sandwich(_tensor(up, x), x)
    sampled = _Sample.apply(wide, _tensor(2 * fine / (len(up) - 1) - 1, x))
    return _sandwich(_tensor(_downsampling(size), x), sampled)


@lru_cache(maxsize=64)
def _upsampling(size: int, margin: int) -> np.ndarray:
    """A line of ``size`` pixels → continued by ``margin`` on both ends, twice the pixels, as a matrix."""
    n = size + 2 * margin
    doubling = np.zeros((2 * n + len(SYM6) - 2, n))
    for k in range(n):
        doubling[2 * k : 2 * k + len(SYM6), k] = SYM6 * 2**0.5
    return np.asarray(doubling @ np.eye(size)[mirrored(np.arange(-margin, size + margin), size)])


@lru_cache(maxsize=8)
def _downsampling(size: int) -> np.ndarray:
    """The adjoint of doubling ``size`` pixels without a margin: (size, 2 size + 10)."""
    return np.ascontiguousarray(_upsampling(size, 0).T / 2)


def _sandwich(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix`` applied to the rows and the columns of every channel."""
    return matrix @ x @ matrix.mT


class _Sample(torch.autograd.Function):
    """Bilinear sampling, 0 outside. It is linear in the picture; torch's own cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(grads[0], grid, ctx.shape), None


class _SampleAdjoint(torch.autograd.Function):
    """The transpose of :class:`_Sample`, whose gradient is ``_Sample`` again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        backward = torch.ops.aten.grid_sampler_2d_backward
        found: Tensor = backward(grad, grad.new_zeros(shape), grid, 0, 0, True, (True, False))[0]
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grads[0], grid), None, None


def separable(x: Tensor, taps: np.ndarray) -> Tensor:
    """Each picture filtered along both axes by its own odd row of ``taps`` (n, k), continued by reflection."""
    size, half = x.shape[2], taps.shape[1] // 2
    reads = np.eye(size)[mirrored(np.arange(size)[:, None] + np.arange(-half, half + 1), size)]
    return _sandwich(_tensor(np.einsum("nk,iks->nis", taps, reads)[:, None], x), x)


class Controller(nn.Module):
    """Steers p so that the discriminator's outputs for real pictures have a mean sign of ``target``.

    Attributes:
        p: The probability; it starts at 0, moves by one within ``kimg`` thousand pictures and never falls below 0.
    """

    def __init__(self, *, target: float, kimg: float, interval: int) -> None:
        super().__init__()
        self.target, self.kimg, self.interval = target, kimg, interval
        self.p: Tensor
        self.signs: Tensor
        self.seen: Tensor
        for name in ("p", "signs", "seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def see(self, logits: Tensor) -> None:
        """Count what the discriminator says of real pictures."""
        self.signs += logits.sign().sum()
        self.seen += logits.numel()

    @torch.no_grad()
    def adjust(self, step: int) -> None:
        """Move p at the end of every ``interval``-th step, and forget what was counted."""
        if (step + 1) % self.interval == 0:
            way = torch.sign(self.signs / self.seen - self.target)
            self.p += way * self.seen / (1000 * self.kimg)
            self.p.clamp_(min=0)
            self.signs.zero_()
            self.seen.zero_()

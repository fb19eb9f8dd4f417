"""Generator and discriminator of StyleGAN2 with conditions, as StyleGAN2-ADA sets them up for small pictures.

Karras et al. (2020), "Analyzing and Improving the Image Quality of StyleGAN", https://arxiv.org/abs/1912.04958, and
"Training Generative Adversarial Networks with Limited Data", https://arxiv.org/abs/2006.06676. Written from the papers
and a specification, checked against arrays that were computed with the authors' classes; their code is not used.

Parameter names are the published ones. Weights are drawn from N(0, 1) and divided by the root of their fan-in when used
(equalised learning rate). All randomness is an argument: nothing here draws numbers after construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.distributed import across_batch
from zoo.errors import UsageError

Precision = Literal["float32", "bf16", "fp16"]
Noise = Tensor | Literal["const", "none"]
"""Per-pixel noise: values drawn for each image, the constant pictures learnt with the weights, or none."""
HALF_FROM = 16
"""Smallest resolution that is computed in half precision where that is asked for."""
CLAMP = 256.0
"""Activations are cut here, so that half precision cannot overflow."""
W_AVERAGE_DECAY = 0.995


def fir_kernel() -> Tensor:
    """The low-pass filter of every change of size: [1, 3, 3, 1] in both directions, sum 1, (4, 4)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return taps.outer(taps) / 64


def blur(x: Tensor, kernel: Tensor, *, padding: int, gain: float = 1) -> Tensor:
    """``x`` (n, c, height, width) filtered channel by channel, with zeros around it."""
    channels = x.shape[1]
    taps = (kernel * gain).to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(x, taps, padding=padding, groups=channels)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, then the filter times 4, which keeps a constant."""
    channels = x.shape[1]
    taps = (kernel * 4).to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(x, taps, stride=2, padding=1, groups=channels)


def normalise(x: Tensor) -> Tensor:
    """Rows (n, d) divided by their root mean square."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU times √2, which keeps the variance, cut at ±256."""
    return (F.leaky_relu(x, 0.2) * 2**0.5).clamp(-CLAMP, CLAMP)


def modulated_conv(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False, fused: bool = True
) -> Tensor:
    """Convolution whose kernel is scaled per sample along its inputs, then to unit norm per output channel.

    Both forms compute the same: ``fused`` builds a kernel per sample and convolves in groups; the other scales the
    input and the output of one ordinary convolution, which needs less memory for gradients.

    Shape:
        x: (n, c_in, height, width); weight: (c_out, c_in, k, k); style: (n, c_in).
        returns: (n, c_out, height, width), or (n, c_out, 2 height + 1, 2 width + 1) with ``up``.
    References:
        arXiv 1912.04958, equations 1 and 3.
    """
    n, c_in, height, width = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    padding = k // 2
    if not fused:
        y = x * style[:, :, None, None].to(x.dtype)
        own = weight.to(x.dtype)
        y = F.conv_transpose2d(y, own.transpose(0, 1), stride=2) if up else F.conv2d(y, own, padding=padding)
        if not demodulate:
            return y
        norm = torch.rsqrt(style.square() @ weight.square().sum(dim=(2, 3)).T + 1e-8)
        return y * norm[:, :, None, None].to(x.dtype)
    kernels = weight[None] * style[:, None, :, None, None]
    if demodulate:
        kernels = kernels * torch.rsqrt(kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    kernels, groups = kernels.to(x.dtype), x.reshape(1, n * c_in, height, width)
    if up:
        y = F.conv_transpose2d(groups, kernels.transpose(1, 2).reshape(n * c_in, c_out, k, k), stride=2, groups=n)
    else:
        y = F.conv2d(groups, kernels.reshape(n * c_out, c_in, k, k), padding=padding, groups=n)
    return y.reshape(n, c_out, *y.shape[2:])


@across_batch
def minibatch_std(x: Tensor, group: int) -> Tensor:
    """``x`` with one more channel: how much the pictures of a group differ, averaged over channels and pixels.

    Members of a group are strided: of n pictures in groups of g, each n / g-th belongs together.

    Raises:
        UsageError: The batch is larger than a group and no multiple of it.
    """
    n, channels, height, width = x.shape
    size = min(group, n)
    if n % size:
        raise UsageError(
            f"a batch of the discriminator must be a multiple of its group of {group}, but is {n}; change either."
        )
    parts = x.reshape(size, n // size, channels, height, width)
    spread = (parts.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, spread.repeat(size)[:, None, None, None].expand(-1, 1, height, width).to(x.dtype)], dim=1)


class Linear(nn.Module):
    """Fully connected layer with equalised learning rate; ``rate`` slows it, its weights are stored divided by it."""

    def __init__(self, n_in: int, n_out: int, *, bias: float = 0, rate: float = 1, active: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / rate)
        self.bias = nn.Parameter(torch.full((n_out,), float(bias)))
        self.rate, self.gain, self.active = rate, rate / n_in**0.5, active

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in) → (n, n_out)."""
        y = F.linear(x, self.weight * self.gain, self.bias * self.rate)
        return F.leaky_relu(y, 0.2) * 2**0.5 if self.active else y


class Conv(nn.Module):
    """Convolution of the discriminator with leaky ReLU; ``down`` halves the size behind a low-pass filter."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, down: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", fir_kernel())
        self.gain, self.down = (n_in * kernel**2) ** -0.5, down

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (self.weight * self.gain).to(x.dtype), self.bias.to(x.dtype)
        if self.down:
            return activate(F.conv2d(blur(x, self.resample_filter, padding=2), weight, bias, stride=2))
        return activate(F.conv2d(x, weight, bias, padding=weight.shape[2] // 2))


class Mapping(nn.Module):
    """Noise and condition → w; without noise (``z_dim=0``, in the discriminator) condition → its projection."""

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, n_layers: int) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embed = Linear(c_dim, w_dim)
        for layer in range(n_layers):
            n_in = w_dim + z_dim if layer == 0 else w_dim
            self.add_module(f"fc{layer}", Linear(n_in, w_dim, rate=0.01, active=True))
        if z_dim:
            self.w_avg: Tensor
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, c: Tensor) -> Tensor:
        """(n, z_dim) or nothing, and (n, c_dim) → (n, w_dim)."""
        x = normalise(self.embed(c))
        if z is not None:
            x = torch.cat([normalise(z), x], dim=1)
        for layer in range(self.n_layers):
            x = self.get_submodule(f"fc{layer}")(x)
        return x

    @torch.no_grad()
    def average(self, w: Tensor) -> None:
        """Move the running mean, which truncation needs, towards these rows (n, w_dim)."""
        self.w_avg.copy_(w.mean(dim=0).lerp(self.w_avg, W_AVERAGE_DECAY))


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, per-pixel noise, bias, leaky ReLU; ``up`` doubles the size."""

    def __init__(self, n_in: int, n_out: int, w_dim: int, size: int, *, up: bool) -> None:
        super().__init__()
        self.up, self.size = up, size
        self.affine = Linear(w_dim, n_in, bias=1)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.noise_const: Tensor
        self.resample_filter: Tensor
        self.register_buffer("noise_const", torch.randn(size, size))
        self.register_buffer("resample_filter", fir_kernel())

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        """(n, n_in, h, h), (n, w_dim) and noise (n, size²), "const" or "none" → (n, n_out, size, size)."""
        fused = not self.training or x.dtype != w.dtype
        x = modulated_conv(x, self.weight, self.affine(w), up=self.up, fused=fused)
        if self.up:
            x = blur(x, self.resample_filter, padding=1, gain=4)
        if isinstance(noise, Tensor) or noise == "const":
            values = noise.view(-1, 1, self.size, self.size) if isinstance(noise, Tensor) else self.noise_const
            x = x + (values * self.noise_strength).to(x.dtype)
        return activate(x + self.bias.to(x.dtype)[:, None, None])


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to three channels, without demodulation."""

    def __init__(self, n_in: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, n_in, bias=1)
        self.weight = nn.Parameter(torch.randn(3, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain = n_in**-0.5

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        fused = not self.training or x.dtype != w.dtype
        y = modulated_conv(x, self.weight, self.affine(w) * self.gain, demodulate=False, fused=fused)
        return (y + self.bias.to(y.dtype)[:, None, None]).clamp(-CLAMP, CLAMP)


class SynthesisBlock(nn.Module):
    """One resolution: an up-convolution (at 4×4 a learnt constant instead), a convolution, and what it adds to RGB."""

    def __init__(self, n_in: int, n_out: int, w_dim: int, size: int) -> None:
        super().__init__()
        if n_in:
            self.conv0: StyledConv | None = StyledConv(n_in, n_out, w_dim, size, up=True)
        else:
            self.conv0 = None
            self.const = nn.Parameter(torch.randn(n_out, size, size))
        self.conv1 = StyledConv(n_out, n_out, w_dim, size, up=False)
        self.torgb = ToRGB(n_out, w_dim)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", fir_kernel())

    @property
    def convs(self) -> tuple[StyledConv, ...]:
        return (self.conv1,) if self.conv0 is None else (self.conv0, self.conv1)

    def forward(
        self, x: Tensor | None, image: Tensor | None, w: Tensor, noise: Iterator[Noise], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Features and picture so far, from ``w`` (n, 2 or 3, w_dim) for the convolutions in order and RGB."""
        if x is None:
            x = self.const.expand(len(w), -1, -1, -1)
        x = x.to(dtype)
        for index, conv in enumerate(self.convs):
            x = conv(x, w[:, index], next(noise))
        rgb = self.torgb(x, w[:, len(self.convs)]).to(w)
        return x, rgb if image is None else upsample(image, self.resample_filter) + rgb


class Synthesis(nn.Module):
    """w → picture, by blocks ``b4`` … ``b<resolution>`` whose RGB outputs are summed."""

    def __init__(self, w_dim: int, resolution: int, channels: dict[int, int], precision: Precision) -> None:
        super().__init__()
        self.sizes, self.precision = sizes_to(resolution), precision
        for size in self.sizes:
            self.add_module(f"b{size}", SynthesisBlock(channels.get(size // 2, 0), channels[size], w_dim, size))
        self.n_ws = 2 * len(self.sizes)
        self.noise_sizes = [conv.size**2 for block in self.blocks() for conv in block.convs]

    def blocks(self) -> list[SynthesisBlock]:
        return [block for block in self.children() if isinstance(block, SynthesisBlock)]

    def forward(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """(n, n_ws, w_dim) and noise (n, sum of noise_sizes), "const" or "none" → (n, 3, resolution, resolution)."""
        if isinstance(noise, Tensor):
            each: Iterator[Noise] = iter(torch.split(noise, self.noise_sizes, dim=1))
        else:
            each = repeat(noise)
        at = 0
        x: Tensor | None = None
        image: Tensor | None = None
        for size, block in zip(self.sizes, self.blocks(), strict=True):
            n_convs = len(block.convs)
            x, image = block(x, image, ws[:, at : at + n_convs + 1], each, _dtype(ws, size, self.precision))
            at += n_convs
        assert image is not None
        return image


class Generator(nn.Module):
    """Noise and condition → picture, about in [-1, 1]."""

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        resolution: int,
        channel_base: int,
        channel_max: int,
        mapping_layers: int,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        channels = channels_of(resolution, channel_base, channel_max)
        self.synthesis = Synthesis(w_dim, resolution, channels, precision)
        self.mapping = Mapping(z_dim, c_dim, w_dim, mapping_layers)
        self.n_noise = sum(self.synthesis.noise_sizes)

    def forward(self, z: Tensor, c: Tensor, *, noise: Noise = "const", psi: float = 1) -> Tensor:
        """Pictures (n, 3, resolution, resolution).

        Shape:
            z: (n, z_dim), Gaussian; c: (n, c_dim); noise: (n, n_noise), Gaussian.
            psi: Truncation: how much of the distance to the mean w is kept.
        """
        w = self.mapping(z, c)
        if psi != 1:
            w = self.mapping.w_avg.lerp(w, psi)
        return self.render(w, noise)

    def render(self, w: Tensor, noise: Noise) -> Tensor:
        """Pictures of one code (n, w_dim) for all layers."""
        images: Tensor = self.synthesis(w[:, None].expand(-1, self.synthesis.n_ws, -1), noise)
        return images


class DiscriminatorBlock(nn.Module):
    """One resolution: two convolutions, the second one halves the size; the first block reads RGB."""

    def __init__(self, n_in: int, n_out: int, *, first: bool) -> None:
        super().__init__()
        self.fromrgb = Conv(3, n_in, 1) if first else None
        self.conv0 = Conv(n_in, n_in, 3)
        self.conv1 = Conv(n_in, n_out, 3, down=True)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", fir_kernel())

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        y: Tensor = self.conv1(self.conv0(x))
        return y


class DiscriminatorEnd(nn.Module):
    """At 4×4: standard deviation of the batch, a convolution, two linear layers."""

    def __init__(self, n_in: int, c_dim: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.conv = Conv(n_in + 1, n_in, 3)
        self.fc = Linear(n_in * 16, n_in, active=True)
        self.out = Linear(n_in, c_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in, 4, 4) → (n, c_dim)."""
        y: Tensor = self.out(self.fc(self.conv(minibatch_std(x.to(self.fc.weight), self.group)).flatten(1)))
        return y


class Discriminator(nn.Module):
    """Picture and condition → logit, by projection."""

    def __init__(
        self,
        *,
        c_dim: int,
        resolution: int,
        channel_base: int,
        channel_max: int,
        mapping_layers: int = 8,
        group: int = 32,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        channels = channels_of(resolution, channel_base, channel_max)
        self.sizes, self.precision = sizes_to(resolution)[:0:-1], precision
        for size in self.sizes:
            block = DiscriminatorBlock(channels[size], channels[size // 2], first=size == resolution)
            self.add_module(f"b{size}", block)
        self.b4 = DiscriminatorEnd(channels[4], channels[4], group)
        self.mapping = Mapping(0, c_dim, channels[4], mapping_layers)

    def forward(self, image: Tensor, c: Tensor) -> Tensor:
        """(n, 3, resolution, resolution) and (n, c_dim) → (n, 1)."""
        x = image
        for size in self.sizes:
            x = self.get_submodule(f"b{size}")(x.to(_dtype(image, size, self.precision)))
        y, projection = self.b4(x), self.mapping(None, c)
        logit: Tensor = (y * projection).sum(dim=1, keepdim=True) / projection.shape[1] ** 0.5
        return logit


def sizes_to(resolution: int) -> list[int]:
    """4, 8, … resolution."""
    return [1 << level for level in range(2, resolution.bit_length())]


def channels_of(resolution: int, base: int, most: int) -> dict[int, int]:
    """Channels of every size: ``base`` divided by the size, but never more than ``most``."""
    return {size: min(base // size, most) for size in sizes_to(resolution)}


def _dtype(like: Tensor, size: int, precision: Precision) -> torch.dtype:
    """What a block computes in; fp16 is for CUDA only, other devices then use that of ``like``."""
    if size < HALF_FROM or precision == "float32" or (precision == "fp16" and not like.is_cuda):
        return like.dtype
    return torch.bfloat16 if precision == "bf16" else torch.float16

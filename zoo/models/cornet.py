"""CORnet-S: a recurrent network in four areas named after those of the ventral stream, and a decoder of objects.

Kubilius et al. (2019), Brain-like object recognition with high-performing shallow recurrent ANNs,
https://arxiv.org/abs/1909.06161; repository https://github.com/dicarlolab/CORnet (commit d0cc17d), not used here. Built
from a specification; names of tensors as published, so that its weights load untouched.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AREAS = ("V1", "V2", "V4", "IT")
WIDTHS = (64, 128, 256, 512)
"""Channels of the areas."""
STEPS = (2, 4, 2)
"""How often V2, V4 and IT are gone through."""
EXPANSION = 4
"""How many times wider an area is inside."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue."""


class Seen(NamedTuple):
    """What the network makes of pictures: the last maps of the four areas, and logits of objects (n, n_objects)."""

    v1: Tensor
    v2: Tensor
    v4: Tensor
    it: Tensor
    logits: Tensor

    @property
    def areas(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self[:4]


class V1(nn.Module):
    """Two convolutions, each with batch norm and ReLU: a quarter of the height and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.output = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 3, 2, 1)
        made: Tensor = self.output(F.relu(self.norm2(self.conv2(x))))
        return made


class CORblock(nn.Module):
    """An area that is gone through ``steps`` times: shared convolutions, batch norms of each time's own.

    The first time halves height and width. ``output`` is called every time, as published, so a hook on it sees all.
    """

    def __init__(self, n_in: int, n_out: int, steps: int) -> None:
        super().__init__()
        self.steps, inner = steps, EXPANSION * n_out
        self.conv_input = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.skip = nn.Conv2d(n_out, n_out, 1, stride=2, bias=False)
        self.norm_skip = nn.BatchNorm2d(n_out)
        self.conv1 = nn.Conv2d(n_out, inner, 1, bias=False)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(inner, n_out, 1, bias=False)
        self.output = nn.Identity()
        for step in range(steps):
            for layer, width in ((1, inner), (2, inner), (3, n_out)):
                self.add_module(f"norm{layer}_{step}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_input(x)
        for step in range(self.steps):
            norm1, norm2, norm3 = (self.get_submodule(f"norm{layer}_{step}") for layer in (1, 2, 3))
            skip = x if step else self.norm_skip(self.skip(x))
            inner = F.relu(norm1(self.conv1(x)))
            inner = F.conv2d(inner, self.conv2.weight, stride=1 if step else 2, padding=1)
            x = self.output(F.relu(norm3(self.conv3(F.relu(norm2(inner)))) + skip))
        return x


class CORnetS(nn.Module):
    """Pictures, normalised with ``MEAN`` and ``STD`` → ``Seen``."""

    def __init__(self, widths: Sequence[int] = WIDTHS, steps: Sequence[int] = STEPS, n_objects: int = 1000) -> None:
        super().__init__()
        self.V1 = V1(widths[0])
        self.V2 = CORblock(widths[0], widths[1], steps[0])
        self.V4 = CORblock(widths[1], widths[2], steps[1])
        self.IT = CORblock(widths[2], widths[3], steps[2])
        self.decoder = nn.Sequential(
            OrderedDict(
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(widths[3], n_objects),
                output=nn.Identity(),
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)

    def forward(self, x: Tensor) -> Seen:
        """(n, 3, height, width) → maps of (n, width of the area, …) and logits."""
        v1 = self.V1(x)
        v2 = self.V2(v1)
        v4 = self.V4(v2)
        it = self.IT(v4)
        return Seen(v1, v2, v4, it, self.decoder(it))


def normalised(images: Tensor) -> Tensor:
    """Pictures in [0, 1] as the network was trained to see them: (n, 3, height, width)."""
    mean, std = (torch.tensor(of, device=images.device)[:, None, None] for of in (MEAN, STD))
    return (images - mean) / std


def map_sizes(resolution: int) -> tuple[int, ...]:
    """Height and width of the maps of the four areas, of square pictures."""
    return tuple(-(-resolution // step) for step in (4, 8, 16, 32))

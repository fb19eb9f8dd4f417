"""The gradient of a convolution that spans the channels of a headset is that of plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zoo.gradients import right_gradients

ROWS = 32
"""Fewer, and torch's own gradient is right."""


def leave_behind(value: float) -> None:
    """Fill memory that the next tensors may get."""
    for size in (100, 1_000, ROWS * 14 * 16, 100_000, 1_000_000):
        torch.full((4, size), value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [14, 17])
def test_the_gradient_of_a_kernel_as_wide_as_the_input_is_the_sum_of_products(channels: int, width: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8, channels, ROWS, width, generator=rng)
    grad = torch.randn(8, 16, ROWS - 1, 1, generator=rng)
    conv = nn.Conv2d(channels, 16, (2, width), dtype=torch.float32)
    parts = [torch.einsum("nohw,ncht->oct", grad, x[:, :, row : row + ROWS - 1]) for row in range(2)]
    wanted = torch.stack(parts, dim=2)
    for left in (0.0, 1e6, float("nan")):
        leave_behind(left)
        conv.zero_grad()
        with right_gradients("cpu"):
            made = conv(x)
            made.backward(grad)
        assert conv.weight.grad is not None
        torch.testing.assert_close(conv.weight.grad, wanted, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(made, conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"stride": (3, 1)}, {"stride": 2}, {"padding": (2, 5)}, {"padding": "same"}, {"dilation": (4, 1)}]
)
def test_stride_padding_and_dilation_are_exchanged_with_the_axes(options: dict[str, Any]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 40, 15, generator=rng, dtype=torch.float64)
    conv = nn.Conv2d(2, 4, (3, 15), dtype=torch.float64, **options)
    with right_gradients("cpu"):
        made = conv(x)
    torch.testing.assert_close(made, conv(x))

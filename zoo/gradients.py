"""Right gradients where torch's are wrong on a CPU.

oneDNN's kernel ``jit:avx512_core`` for the gradient of a convolution's weights (oneDNN 3.13.3 in torch 2.15) takes part
of it from memory that nobody wrote where there are at most 3 input channels, the kernel is as wide as the input and 14
to 19 wide, and there are about 32 rows or more. Such is the first layer of many networks for the 14 channels of an EPOC
headset. The gradient is wrong by as much as it is large, another one every time, and now and then not a number. The
same convolution with height and width exchanged is right; so is everything under ``ONEDNN_MAX_CPU_ISA=AVX2``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MOST_CHANNELS = 3
LEAST_WIDTH = 14
Pair = int | tuple[int, ...]


def right_gradients(device: str) -> contextlib.AbstractContextManager[Any]:
    """Within it, convolutions whose gradient could be wrong are done in another way; for forward *and* backward.

    To be deleted when its test passes without it on a CPU with AVX-512.
    """
    return _RightGradients() if device == "cpu" else contextlib.nullcontext()


class _RightGradients(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_conv2d if func is F.conv2d else func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,  # noqa: A002 - torch calls it so
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``, whose names these are."""
    _, channels, _, width = weight.shape
    if channels > MOST_CHANNELS or width < LEAST_WIDTH or width != input.shape[-1]:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = (_turned(of) for of in (stride, padding, dilation))
    return F.conv2d(input.mT, weight.mT, bias, stride, padding, dilation, groups).mT


def _turned(of: Pair | str) -> Any:
    return of[::-1] if isinstance(of, tuple | list) else of

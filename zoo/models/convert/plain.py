"""Layers written out in numpy, float64: what a converted network is held against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

State = Mapping[str, np.ndarray]
"""Tensors by name."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-x)))


def linear(state: State, name: str, x: np.ndarray) -> np.ndarray:
    """(n, n_in) → (n, n_out)."""
    return np.asarray(x @ state[f"{name}.weight"].T + state[f"{name}.bias"])


def norm(state: State, name: str, x: np.ndarray, *, epsilon: float = 1e-5) -> np.ndarray:
    """Batch norm with the moments that were kept, of maps (n, channels, height, width)."""
    mean, var, gamma, beta = (
        state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray((x - mean) / np.sqrt(var + epsilon) * gamma + beta)


def conv(
    state: State,
    name: str,
    x: np.ndarray,
    *,
    stride: tuple[int, int] = (1, 1),
    pad: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> np.ndarray:
    """Convolution of maps, one tap of the kernel after the other; dilation is along the second axis."""
    kernel = state[f"{name}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    rows = (x.shape[2] - kernel.shape[2]) // stride[0] + 1
    columns = (x.shape[3] - dilation * (kernel.shape[3] - 1) - 1) // stride[1] + 1
    made = np.zeros((len(x), len(kernel), rows, columns))
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            seen = x[:, :, i : i + rows * stride[0] : stride[0], j * dilation :][..., : columns * stride[1] : stride[1]]
            made += (kernel[:, :, i, j] @ seen.reshape(*seen.shape[:2], -1)).reshape(made.shape)
    bias = state.get(f"{name}.bias")
    return made if bias is None else made + bias[:, None, None]


def pool(x: np.ndarray, size: int, stride: int, *, pad: int = 0, ceil: bool = False) -> np.ndarray:
    """Largest values of windows of maps; ``ceil`` keeps a last window that is cut off by the edge."""
    over = stride - 1 if ceil else 0
    edge = ((0, 0), (0, 0), (pad, pad + over), (pad, pad + over))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, edge, constant_values=-np.inf), (size, size), (2, 3))
    return np.asarray(windows[:, :, ::stride, ::stride].max(axis=(4, 5)))

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.models.layers import (
    KerasAdam,
    configure,
    conv_same,
    conv_transpose_same,
    epoch_batch,
    keras_batch_norm,
    keras_lstm,
    l2_normalise,
    spectral_normalise_,
    standardise,
    steps_per_epoch,
    truncated_normal_,
)


@dataclass(frozen=True)
class Options:
    width: int = 3
    betas: tuple[float, float] = (0.9, 0.99)
    rate: float | None = 0.1
    fast: bool = False


def test_configure_replaces_fields_and_freezes_lists() -> None:
    assert configure(Options, {"betas": [0.5, 0.6]}) == Options(width=3, betas=(0.5, 0.6))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("witdh", "Options has no option 'witdh'; did you mean 'width'?"),
        ("colour", "Options has no option 'colour'; its options are: width, betas, rate, fast."),
    ],
)
def test_configure_refuses_unknown_options(key: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        configure(Options, {key: 1})


@pytest.mark.parametrize(
    ("key", "given", "held"),
    [
        ("width", "7", "7"),
        ("rate", ".5", "0.5"),
        ("rate", 1, "1.0"),
        ("rate", None, "None"),
        ("betas", [0, 0.5], "(0.0, 0.5)"),
        ("fast", True, "True"),
    ],
)
def test_configure_holds_values_of_the_fields_type(key: str, given: Any, held: str) -> None:
    assert repr(getattr(configure(Options, {key: given}), key)) == held


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rate", math.nan, "rate of Options must be finite, but is nan."),
        ("rate", "nan", "rate of Options must be finite, but is 'nan'."),
        ("rate", -math.inf, "rate of Options must be finite, but is -inf."),
        ("betas", [0.5, math.inf], "betas of Options must be finite, but is [0.5, inf]."),
        ("betas", [0.5, True], "betas of Options must be tuple[float, float], but is [0.5, True]."),
        ("betas", [0.5], "betas of Options must be tuple[float, float], but is [0.5]."),
        ("width", True, "width of Options must be int, but is True."),
        ("width", 1.5, "width of Options must be int, but is 1.5."),
        ("width", None, "width of Options must be int, but is None."),
        ("fast", 1, "fast of Options must be bool, but is 1."),
    ],
)
def test_configure_refuses_values_of_another_type(key: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        configure(Options, {key: value})


def test_an_epoch_visits_every_trial_once_in_its_own_order() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        steps = range(3 * number, 3 * number + 3)
        batches = [epoch_batch(step, n=10, batch_size=4, key=("m", seed)) for step in steps]
        assert [len(batch) for batch in batches] == [4, 4, 2]
        return [int(row) for batch in batches for row in batch]

    assert steps_per_epoch(10, 4) == 3
    assert sorted(epoch(0, 1)) == list(range(10))
    assert epoch(0, 1) == epoch(0, 1)
    assert len({tuple(epoch(number, seed)) for number in range(3) for seed in range(3)}) == 9


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 3, 1), (9, 5, 2), (8, 4, 1), (5, 1, 2)]
)
def test_conv_same_follows_tensorflow(size: int, kernel: int, stride: int) -> None:
    """``out[r, c] = Σ in[r·s + i - near, c·s + j - near] k[i, j]`` with the smaller half of the padding near."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((size, size)), rng.standard_normal((kernel, kernel))
    out_size = -(-size // stride)
    near = max((out_size - 1) * stride + kernel - size, 0) // 2
    padded = np.pad(x, ((near, kernel), (near, kernel)))
    wanted = [
        [(padded[r * stride :, c * stride :][:kernel, :kernel] * weight).sum() for c in range(out_size)]
        for r in range(out_size)
    ]
    got = conv_same(torch.from_numpy(x)[None, None], torch.from_numpy(weight)[None, None], stride=stride)
    np.testing.assert_allclose(got[0, 0], wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(1, 3, 4), (4, 3, 2), (4, 5, 2), (4, 3, 1), (3, 4, 2), (3, 2, 3)]
)
def test_conv_transpose_same_is_the_adjoint_of_conv_same(size: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 3, kernel, kernel, dtype=torch.float64)
    large = torch.randn(1, 3, size * stride, size * stride, dtype=torch.float64)
    small = torch.randn(1, 2, size, size, dtype=torch.float64)
    up = conv_transpose_same(small, weight, stride=stride)
    assert up.shape == large.shape
    torch.testing.assert_close((up * large).sum(), (small * conv_same(large, weight, stride=stride)).sum())


def test_a_kernel_smaller_than_its_stride_leaves_the_last_row_and_column_empty() -> None:
    up = conv_transpose_same(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 3), stride=4)
    assert up[0, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_batch_norm_has_keras_defaults() -> None:
    norm = keras_batch_norm(1)
    x = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(4, 1, 1, 1)
    y = norm(x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(0.01 * 3)
    assert norm.running_var.item() == pytest.approx(0.99 + 0.01 * 14 / 3)  # unbiased
    assert y[3].item() == pytest.approx(3 / np.sqrt(14 / 4 + 1e-3))


def test_truncated_normal_stays_within_two_deviations() -> None:
    torch.manual_seed(0)
    x = truncated_normal_(torch.empty(20_000), 0.02)
    assert x.abs().max() <= 0.04
    # the deviation of a normal cut at ±2 is 0.8796 of the whole
    assert x.std().item() == pytest.approx(0.02 * 0.8796, rel=0.02)


def test_lstm_starts_as_keras_does_and_never_moves_its_second_bias() -> None:
    torch.manual_seed(0)
    layer = keras_lstm(3, 4)
    kernel, recurrent, bias, second = layer.parameters()
    assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert kernel.abs().max() <= np.sqrt(6 / (3 + 16))
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(4))
    optimizer = KerasAdam([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    layer(torch.randn(2, 5, 3))[0].sum().backward()
    optimizer.step()
    assert not second.any()
    assert second.grad is None
    assert (bias != torch.tensor([0.0] * 4 + [1.0] * 4 + [0.0] * 8)).any()


def test_l2_normalise_keeps_zero_and_small_rows_finite() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-7, 0.0]])
    torch.testing.assert_close(l2_normalise(x), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.1, 0.0]]))


def test_spectral_norm_converges_to_the_largest_singular_value_along_the_first_axis() -> None:
    torch.manual_seed(0)
    weight, u = torch.randn(4, 6, 3, 3, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    largest = torch.linalg.matrix_norm(weight.reshape(4, -1), ord=2)
    product = 1.0
    for _ in range(60):
        product *= spectral_normalise_(weight, u).item()
    assert product == pytest.approx(largest.item(), rel=1e-9)
    assert torch.linalg.matrix_norm(weight.reshape(4, -1), ord=2).item() == pytest.approx(1, abs=1e-9)
    assert u.norm().item() == pytest.approx(1)


@pytest.mark.parity
def test_adam_follows_keras(shared: Path) -> None:
    with np.load(shared / "fixtures/eeg2image_misc.npz") as data:
        parameter = nn.Parameter(torch.from_numpy(data["adam_p0"]))
        optimizer = KerasAdam([parameter], lr=3e-4, betas=(0.2, 0.5))
        for grad, wanted in zip(data["adam_grads"], data["adam_traj"], strict=True):
            parameter.grad = torch.from_numpy(grad)
            optimizer.step()
            # torch.optim.Adam(eps=1e-7) is off by 3e-5 here
            np.testing.assert_allclose(parameter.detach(), wanted, rtol=0, atol=5e-7)


def test_adam_adds_epsilon_to_the_uncorrected_root() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.full((1,), 1e-6, dtype=torch.float64)
    KerasAdam([parameter], lr=1.0, betas=(0.9, 0.999)).step()
    root = np.sqrt(1e-3) * 1e-6
    assert parameter.item() == pytest.approx(-np.sqrt(1e-3) / 0.1 * 1e-7 / (root + 1e-7))


def test_adam_resumes_from_its_state() -> None:
    def run(parameter: nn.Parameter, optimizer: KerasAdam, grads: range) -> None:
        for grad in grads:
            parameter.grad = torch.tensor([float(grad), -1.0])
            optimizer.step()

    whole, half = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    run(whole, KerasAdam([whole], lr=0.1), range(6))
    first = KerasAdam([half], lr=0.1)
    run(half, first, range(3))
    second = KerasAdam([half], lr=0.1)
    second.load_state_dict(first.state_dict())
    run(half, second, range(3, 6))
    assert torch.equal(whole, half)


def test_adam_calls_a_closure_with_gradients() -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))

    def closure() -> float:
        loss = F.mse_loss(parameter, torch.zeros(1))
        torch.autograd.backward(loss)
        return loss.item()

    assert KerasAdam([parameter], lr=0.5).step(closure) == 4.0
    assert parameter.item() == pytest.approx(1.5, abs=1e-5)


def test_standardised_channels_lose_offset_and_amplitude_but_not_their_shape() -> None:
    shape = np.sin(np.arange(64) / 5)
    eeg = np.stack([4e-3 + 1e-6 * shape, -2e-3 - 3e-5 * shape, np.full(64, 1e-3)])[None]
    found = standardise(torch.from_numpy(eeg))[0].numpy()
    assert found.dtype == np.float32
    wanted = (shape - shape.mean()) / shape.std()
    np.testing.assert_allclose(found, [wanted, -wanted, np.zeros(64)], atol=1e-6)

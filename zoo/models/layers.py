"""Pieces that several families share: Keras and TensorFlow-Addons behaviour in torch, configs, epochs without state."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, overload

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.stats import keyed_rng

Config = TypeVar("Config")


def configure(config: type[Config], overrides: dict[str, Any]) -> Config:
    """A config dataclass with some published values replaced; lists, as YAML gives them, become tuples.

    A number written as text is that number; a truth value is none, although Python counts with it.

    Raises:
        UsageError: A key is no field of it (the message suggests one that is), or its value is of another type or not
            finite.
    """
    fields = {field.name: field.type for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = get_type_hints(config)
    chosen = dict(overrides)
    for key, value in overrides.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"its options are: {', '.join(fields)}."
            raise UsageError(f"{config.__name__} has no option {key!r}; {hint}")
        if get_origin(hints[key]) is Literal:
            if value not in (known := get_args(hints[key])):
                words = " or ".join(map(repr, known)) if len(known) < 3 else f"one of {', '.join(map(repr, known))}"
                raise UsageError(f"{key} must be {words}, but is {value!r}.")
            continue
        given = tuple(value) if isinstance(value, list) else value
        kind = TypeAdapter(hints[key], config=ConfigDict(allow_inf_nan=False))
        try:
            chosen[key] = kind.validate_python(given, strict=not isinstance(value, str))
        except ValidationError as error:
            needed = "finite" if error.errors()[0]["type"] == "finite_number" else fields[key]
            raise UsageError(f"{key} of {config.__name__} must be {needed}, but is {value!r}.") from error
    return config(**chosen)


def check_least(config: Any, least: float, *names: str) -> None:
    """Raise unless these options are at least ``least``, or null."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, but is {value}.")


def check_positive(config: Any, *names: str) -> None:
    """Raise unless these options are more than 0."""
    for name in names:
        if getattr(config, name) <= 0:
            raise UsageError(f"{name} must be more than 0, but is {getattr(config, name)}.")


def check_shares(config: Any, *names: str) -> None:
    """Raise unless these options, or all their entries, are at least 0 and less than 1, or null."""
    for name in names:
        if not all(0 <= share < 1 for share in np.atleast_1d(getattr(config, name) or 0)):
            raise UsageError(f"{name} must be at least 0 and less than 1, but is {getattr(config, name)}.")


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Batches of one pass over ``n`` trials, the last partial one counted."""
    return -(-n // batch_size)


def epoch_batch(step: int, *, n: int, batch_size: int, key: tuple[str | int, ...]) -> np.ndarray:
    """Positions in ``range(n)`` of the batch of ``step``: passes are permutations keyed by (``key``, epoch).

    Nothing is remembered between steps, so training resumes anywhere. The last batch of a pass may be smaller.
    """
    epoch, part = divmod(step, steps_per_epoch(n, batch_size))
    return _permutation(n, (*key, epoch))[part * batch_size : (part + 1) * batch_size]


@lru_cache(maxsize=4)
def _permutation(n: int, key: tuple[str | int, ...]) -> np.ndarray:
    order = keyed_rng("epoch", *key).permutation(n)
    order.flags.writeable = False
    return order


def conv_same(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
    """2-D convolution with TensorFlow's ``padding="same"``: ``ceil(size / stride)`` out, odd padding at the far end.

    Shape:
        x: (n, channels_in, height, width); weight: (channels_out, channels_in, kernel, kernel).
    """
    total = [
        max((-(-size // stride) - 1) * stride + k - size, 0)
        for size, k in zip(x.shape[2:], weight.shape[2:], strict=True)
    ]
    if all(pad % 2 == 0 for pad in total):
        return F.conv2d(x, weight, bias, stride, (total[0] // 2, total[1] // 2))
    top, left = total[0] // 2, total[1] // 2
    return F.conv2d(F.pad(x, (left, total[1] - left, top, total[0] - top)), weight, bias, stride)


def conv_transpose_same(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
    """2-D transposed convolution with TensorFlow's ``padding="same"``: ``size * stride`` out.

    It is the gradient of :func:`conv_same`, so the odd row and column are cut at the far end; a kernel smaller than the
    stride leaves them zero (plus bias).

    Shape:
        x: (n, channels_in, height, width); weight: (channels_in, channels_out, kernel, kernel).
    """
    height, width = x.shape[2] * stride, x.shape[3] * stride
    kernel = weight.shape[2]
    near, extra = max(kernel - stride, 0) // 2, max(stride - kernel, 0)
    out = F.conv_transpose2d(x, weight, bias, stride=stride, padding=near, output_padding=extra)
    return out[:, :, :height, :width]


def keras_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Keras' defaults: epsilon 1e-3, moving averages with momentum 0.99 (torch counts the other way)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with N(0, std²) drawn again beyond two standard deviations, as Keras' ``TruncatedNormal``."""
    return nn.init.trunc_normal_(tensor, 0.0, std, -2 * std, 2 * std)


def keras_lstm(n_inputs: int, units: int) -> nn.LSTM:
    """One LSTM layer with Keras' single bias: ``bias_hh_l0`` stays zero and frozen, since Adam would move both.

    Gates lie in the same order (i, f, c, o). Initial values as Keras: Glorot-uniform kernel, orthogonal recurrent
    kernel, zero bias but 1 for the forget gate.
    """
    layer = nn.LSTM(n_inputs, units, batch_first=True)
    kernel, recurrent, bias, second_bias = layer.parameters()
    nn.init.xavier_uniform_(kernel)
    nn.init.orthogonal_(recurrent)
    nn.init.zeros_(bias)
    nn.init.ones_(bias[units : 2 * units])
    nn.init.zeros_(second_bias)
    second_bias.requires_grad_(False)
    return layer


@torch.no_grad()
def spectral_normalise_(weight: Tensor, u: Tensor) -> Tensor:
    """One power step of TensorFlow-Addons 0.16's ``SpectralNormalization`` in training, overwriting both arguments.

    The matrix is the kernel with its *first torch axis* against the rest, which for a transposed convolution is the
    input axis (TFA takes the last axis of a TensorFlow kernel). The weight itself becomes weight / σ, so no gradient
    flows through σ and later calls start from the divided kernel; at inference TFA does nothing.

    Shape:
        weight: (a, b, kernel, kernel); u: (1, a).
    Returns:
        σ, a scalar.
    """
    matrix = weight.reshape(weight.shape[0], -1)
    v = l2_normalise(u @ matrix)
    u.copy_(l2_normalise(v @ matrix.T))
    sigma = (v @ matrix.T @ u.T).squeeze()
    weight.div_(sigma)
    return sigma


def l2_normalise(x: Tensor) -> Tensor:
    """Rows of unit length as ``tf.math.l2_normalize``: x / √max(Σx², 1e-12)."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True).clamp_min(1e-12))


def half_max(eeg: Tensor, *, family: str) -> Tensor:
    """Each trial as (x - m) / m with m half its maximum, time before channels; float64 inside, float32 out.

    The maximum becomes exactly 1 whatever the amplitude; as published, a trial with a negative maximum flips its sign.

    Shape:
        eeg: (n_trials, n_channels, n_times), any unit.
        returns: (n_trials, n_times, n_channels).
    Raises:
        UsageError: The maximum of a trial is 0 or not finite, so that nothing can be divided by it.
    """
    x = eeg.double()
    half = x.amax(dim=(1, 2), keepdim=True) / 2
    bad = ~(half.isfinite() & (half != 0)).flatten()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise UsageError(
            f"{family} divides a trial by half its maximum, which must be finite and not 0, "
            f"but trial {row} of {len(eeg)} has maximum {2 * float(half[row]):g}; leave such trials out of the split."
        )
    return ((x - half) / half).transpose(1, 2).float()


class Scaling(nn.Module):
    """A network with a fixed scaling of its input: per channel by training median and quartiles, within ±6."""

    centre: Tensor
    spread: Tensor
    least: float = 1e-6
    """No channel's spread counts as less; for trials that have no unit any more."""

    def hold_scaling(self, n_channels: int) -> None:
        """Have buffers for it, which change nothing until ``measure`` was called."""
        self.register_buffer("centre", torch.zeros(n_channels))
        self.register_buffer("spread", torch.ones(n_channels))

    def scaled(self, x: Tensor) -> Tensor:
        """What the network sees of (n, n_times, n_channels)."""
        return ((x - self.centre) / self.spread).clamp(-6, 6)

    def measure(self, x: Tensor) -> None:
        """Take centre and spread from training trials (n, n_times, n_channels)."""
        low, middle, high = np.quantile(x.flatten(0, 1).cpu().numpy(), (0.25, 0.5, 0.75), axis=0)
        self.centre.copy_(torch.from_numpy(middle))
        self.spread.copy_(torch.from_numpy(np.maximum(high - low, self.least)))


class Scaled(Scaling):
    """Any network behind such a scaling, for recordings in volts."""

    least = 1e-9

    def __init__(self, network: nn.Module, n_channels: int) -> None:
        super().__init__()
        self.network = network
        self.hold_scaling(n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_times, n_channels) in the unit it was measured in → (n, n_features)."""
        features: Tensor = self.network(self.scaled(x))
        return features


def standardise(eeg: Tensor) -> Tensor:
    """Each channel of each trial with mean 0 and standard deviation 1 over its samples; a constant channel becomes 0.

    Offset and amplitude are lost, and with them what differs between blocks but not within a trial.

    Shape:
        eeg: (n_trials, n_channels, n_times), any unit; returns: the same, float32.
    """
    x = eeg.double()
    x = x - x.mean(dim=2, keepdim=True)
    return (x / x.std(dim=2, correction=0, keepdim=True).clamp_min(1e-12)).float()


class KerasAdam(Optimizer):
    r"""Adam as Keras 2 computes it: ε is added to the *un-corrected* √v.

    θ ← θ − lr·√(1−β₂ᵗ)/(1−β₁ᵗ) · m/(√v + ε). With ε = 1e-7 this is not ``torch.optim.Adam(eps=1e-7)``: where
    gradients are near 1e-6 the two differ by about a tenth of lr per step.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-7
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; a closure is called first, with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        t = float(state["step"])
        state["m"].lerp_(grad, 1 - beta1)
        state["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        rate = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        parameter.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-rate)


@dataclass(frozen=True)
class DiffAug:
    """One draw of colour and translation for each image of a batch (Zhao et al. 2020, policy as released: no cutout).

    Attributes:
        brightness, saturation, contrast: (n,) float32 uniform in [0, 1).
        rows, columns: (n,) whole pixels, uniform within an eighth of the resolution either way.
    """

    brightness: np.ndarray
    saturation: np.ndarray
    contrast: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, resolution: int) -> DiffAug:
        reach = resolution // 8
        colour = rng.random((3, n), dtype=np.float32)
        shift = rng.integers(-reach, reach, (2, n), endpoint=True)
        return cls(*colour, *shift)

    def __call__(self, images: Tensor) -> Tensor:
        """Brightness, saturation, contrast, then translation of images in [-1, 1]; nothing is clipped."""
        x = images + (_column(self.brightness, images) - 0.5)
        grey = x.mean(dim=1, keepdim=True)
        x = (x - grey) * (2 * _column(self.saturation, x)) + grey
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - mean) * (_column(self.contrast, x) + 0.5) + mean
        return translate(x, self.rows, self.columns)


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like).view(-1, 1, 1, 1)


def translate(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """``out[r, c] = in[r + rows, c + columns]`` image by image, 0 (mid-grey) outside.

    Shape:
        images: (n, channels, height, width); rows, columns: (n,) integers.
    """
    x = images
    for dim, shift in ((2, rows), (3, columns)):
        size = x.shape[dim]
        source = np.arange(size) + np.asarray(shift, dtype=np.int64).reshape(-1, 1)
        shape = [-1, 1, size, 1] if dim == 2 else [-1, 1, 1, size]
        inside = torch.from_numpy((source >= 0) & (source < size)).to(x.device).view(shape)
        # modulo makes the gather a permutation, so that its backward never adds twice into one pixel
        index = torch.from_numpy(source % size).to(x.device).view(shape)
        x = x.gather(dim, index.expand_as(x)) * inside
    return x


def mode_seeking(images: tuple[Tensor, Tensor], codes: tuple[Tensor, Tensor]) -> Tensor:
    """1 / (mean |G(c₂) - G(c₁)| / mean |c₂ - c₁| + 1e-5); codes hold noise *and* the shared feature, as released."""
    ratio = (images[1] - images[0]).abs().mean() / (codes[1] - codes[0]).abs().mean()
    return 1 / (ratio + 1e-5)

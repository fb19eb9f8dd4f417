"""The forward fingerprint: a few numbers out of what a model makes of keyed noise, written down beside its weights.

The sha256 says that the bytes are the published ones; this says that the code of today makes of them what the code of
then did. Taken on the cpu, in float32 and inference mode.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.errors import IntegrityError
from zoo.models.base import Model
from zoo.stats import keyed_rng
from zoo.weights import Output, WeightsInfo

N_VALUES = 8
OF_SPREAD, OF_SIZE = 1e-3, 1e-5
"""How far an output may be off: so much of its standard deviation, or of its largest value, whichever is more.

Other processors and thread counts move float32 sums by less than 1e-6 of their size.
"""


def fingerprint(model: Model, held: Collection[str]) -> dict[str, Output]:
    """Outputs of ``model.probe`` by name; one that is constant or not finite says nothing and is left out.

    Args:
        model: On the cpu, in inference mode; left as it is.
        held: Parts that have weights. The others count as zero, since their initial values differ from build to build.
    """
    probe = _Probe(model)
    state = {**dict(probe.named_parameters()), **dict(probe.named_buffers())}
    absent = {key: torch.zeros_like(value) for key, value in state.items() if key.split(".")[1] not in held}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = functional_call(probe, absent, (keyed_rng("forward fingerprint", 1),))
    return {
        name: _summary(value) for name, value in made.items() if value.isfinite().all() and value.std(correction=0) > 0
    }


class _Probe(nn.Module):
    """``probe`` as a forward call, so that tensors can be exchanged for the time of it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, rng: np.random.Generator) -> dict[str, Tensor]:
        return self.model.probe(rng)


def _summary(value: Tensor) -> Output:
    flat = value.double().flatten().numpy()
    chosen = flat[np.linspace(0, flat.size - 1, N_VALUES).astype(int)]
    numbers = [float(f"{number:.8g}") for number in (flat.mean(), flat.std(), *chosen)]
    return Output(shape=tuple(value.shape), mean=numbers[0], std=numbers[1], values=tuple(numbers[2:]))


def _numbers(output: Output) -> np.ndarray:
    return np.array([output.mean, output.std, *output.values])


def check(model: Model, info: WeightsInfo, where: Path) -> None:
    """Compare what ``model`` makes of noise with what ``info`` says it made when its weights were saved.

    Raises:
        IntegrityError: An output is not there or differs; the sentence names it.
    """
    if not info.forward:
        return
    found = fingerprint(model, info.parts)
    for name, wanted in info.forward.items():
        if name not in found or found[name].shape != wanted.shape:
            made = f"shape {found[name].shape}" if name in found else "nothing that varies and is finite"
            raise IntegrityError(
                f"{where}: {name} of {info.model} on noise must give shape {wanted.shape} but gives {made}; "
                "fetch or make the weights again."
            )
        allowed = max(OF_SPREAD * wanted.std, OF_SIZE * float(np.abs(_numbers(wanted)).max()))
        off = float(np.abs(_numbers(found[name]) - _numbers(wanted)).max())
        if off > allowed:
            raise IntegrityError(
                f"{where}: {name} of {info.model} on noise must give what weights.json says to {allowed:.1g}, but is "
                f"off by {off:.1g}: the tensors are not those that were saved, or this release computes otherwise; "
                "fetch or make the weights again."
            )

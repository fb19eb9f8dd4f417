"""Checkpoints of EEGClip (``clip_<epoch>.pth``) → weights: ``text_encoder``, the EEG's, becomes ``encoder``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo import foreign
from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.eegstylegan_ada import numpy_lstm
from zoo.models.convert.plain import State, conv, norm, pool
from zoo.specs import EEGSpec
from zoo.store import file_sha256

VERSION = "1"
FORWARD_TOLERANCE = 1e-9
"""Of float64 against float64."""
BLOCKS = (3, 4, 6, 3)
"""Of ResNet-50's four stages."""


def convert(source: Path) -> Converted:
    """Tensors of both branches.

    Raises:
        UsageError: ``source`` is no file of ``torch.save``.
        IntegrityError: It does not hold an EEGClip.
    """
    tensors, epoch = model_tensors(source, "an EEGClip checkpoint such as clip_2048.pth")
    state = {re.sub("^text_encoder", "encoder", key): value for key, value in tensors.items()}
    for key in ("encoder.fc.weight", "encoder.encoder.weight_hh_l0", "image_encoder.fc.1.weight"):
        if key not in state:
            raise IntegrityError(f"{source.name} must hold {key}, but does not; it is not an EEGClip checkpoint.")
    state["scale.log_scale"] = np.array(0.5, np.float32)  # a number in the authors' code
    return Converted(
        family="eegclip",
        state=state,
        parts=("encoder", "image_encoder", "scale"),
        config={
            "lstm_layers": sum(bool(re.fullmatch(r"encoder\.encoder\.weight_hh_l\d+", key)) for key in state),
            "lstm_units": state["encoder.encoder.weight_hh_l0"].shape[1],
            "n_features": state["encoder.fc.weight"].shape[0],
        },
        source_sha256={source.name: file_sha256(source)},
        converter_version=VERSION,
        counters=epoch,
    )


def model_tensors(path: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
    """``model_state_dict`` of a training checkpoint, ``module.`` taken off; and its epoch.

    Raises:
        UsageError: It is no file of ``torch.save``.
        IntegrityError: It holds no such state dict.
    """
    if not path.is_file():
        raise UsageError(f"--from must be {what}, but {path} is no file; name one.")
    held = foreign.read_torch(path)
    tensors = held.get("model_state_dict") if isinstance(held, dict) else None
    if not isinstance(tensors, dict):
        raise IntegrityError(f"{path.name} must hold model_state_dict, but does not; it is not {what}.")
    state = {}
    for key, value in tensors.items():
        kept = np.array(value)
        state[key.removeprefix("module.")] = kept.astype(np.float32) if kept.dtype.kind == "f" else kept
    return state, {"epoch": held["epoch"]} if isinstance(held.get("epoch"), int) else {}


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest relative difference of both branches between torch and plain numpy, both float64.

    Raises:
        IntegrityError: They differ by more than ``FORWARD_TOLERANCE``, or tensors are missing or unknown.
    """
    from zoo.models.eegclip import build

    rng = np.random.default_rng(45)
    channels = converted.state["encoder.encoder.weight_ih_l0"].shape[1]
    eeg, picture = rng.uniform(-1, 1, (2, 40, channels)), rng.standard_normal((1, 3, 64, 64))
    return compare(
        converted,
        build,
        {
            "encoder": (lambda model, x: model.encoder(x), eeg, numpy_lstm),
            "image_encoder": (lambda model, x: model.image_encoder(x), picture, numpy_resnet50),
        },
    )


def compare(
    converted: Converted,
    build: Callable[..., Any],
    checks: Mapping[str, tuple[Callable[[Any, Any], Any], np.ndarray, Callable[[State, np.ndarray], np.ndarray]]],
    *,
    spec: EEGSpec | None = None,
) -> dict[str, float]:
    """Largest difference of each part, as a share of its largest output.

    Args:
        checks: Part → how torch computes it, what it is given, how numpy does.
        spec: The recordings; null for forty samples of as many channels as the LSTM has.
    """
    import torch

    if spec is None:
        first = converted.state.get("encoder.encoder.weight_ih_l0")
        n_channels = 1 if first is None else first.shape[1]
        spec = EEGSpec(ch_names=tuple(map(str, range(n_channels))), sfreq=1, tmin=0, n_times=40)
    with torch.device("meta"):
        model = build(spec, **converted.config)
    wanted = {key: value for key, value in model.state_dict().items() if key.partition(".")[0] in converted.parts}
    for key in sorted({*wanted} ^ {*converted.state}):
        had = "lacks" if key in wanted else "holds"
        raise IntegrityError(f"the checkpoint {had} {key}; it is not one of {converted.family} that can be converted.")
    state = {key: v.astype(np.float64) if v.dtype.kind == "f" else v for key, v in converted.state.items()}
    model.load_state_dict({key: torch.from_numpy(np.array(v)) for key, v in state.items()}, strict=False, assign=True)
    model.eval()
    found = {}
    for part, (ours, given, theirs) in checks.items():
        own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        with torch.no_grad():
            made = ours(model, torch.from_numpy(given)).numpy()
        plain = theirs(own, given)
        found[part] = float(np.abs(made - plain).max() / np.abs(plain).max())
        if not found[part] <= FORWARD_TOLERANCE:
            raise IntegrityError(
                f"the converted {part} must compute in torch what it computes in numpy, within {FORWARD_TOLERANCE:g}, "
                f"but differs by {found[part]:g}; do not use these weights."
            )
    return found


def numpy_resnet50(state: State, x: np.ndarray) -> np.ndarray:
    """ResNet-50 with the authors' head, written out: (n, 3, height, width) → (n, n_features)."""

    def layer(name: str, bn: str, x: np.ndarray, *, stride: int = 1, pad: int = 0) -> np.ndarray:
        return norm(state, bn, conv(state, name, x, stride=(stride, stride), pad=(pad, pad)))

    x = pool(np.maximum(layer("conv1", "bn1", x, stride=2, pad=3), 0), 3, 2, pad=1)
    for stage, depth in enumerate(BLOCKS, 1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = np.maximum(layer(f"{name}.conv1", f"{name}.bn1", x), 0)
            y = np.maximum(layer(f"{name}.conv2", f"{name}.bn2", y, stride=stride, pad=1), 0)
            y = layer(f"{name}.conv3", f"{name}.bn3", y)
            if block == 0:
                x = layer(f"{name}.downsample.0", f"{name}.downsample.1", x, stride=stride)
            x = np.maximum(x + y, 0)
    return np.asarray(np.maximum(x.mean(axis=(2, 3)), 0) @ state["fc.1.weight"].T)

"""Checkpoints of Image2EEG → weights: the image side, and the EEG's LSTM if its checkpoint lies beside it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.eegclip import compare, model_tensors
from zoo.models.convert.eegstylegan_ada import numpy_lstm
from zoo.models.convert.plain import State, conv, linear, norm, pool
from zoo.store import file_sha256

VERSION = "1"
WHAT = "an Image2EEG checkpoint (.pth), or a folder with it and the EEG2Feat checkpoint of its LSTM"
INCEPTIONS = ("3a", "3b", None, "4a", "4b", "4c", "4d", "4e", None, "5a", "5b")
"""GoogLeNet's blocks; null for a pool."""


def convert(source: Path) -> Converted:
    """Tensors of the image side, and of the LSTM where a folder holds both.

    Raises:
        UsageError: ``source`` holds no or too many files of ``torch.save``.
        IntegrityError: They are not those of an Image2EEG and of an EEG2Feat LSTM.
    """
    paths = [source] if source.is_file() else sorted(source.glob("*.pth"))
    if not 1 <= len(paths) <= 2:
        raise UsageError(f"--from must be {WHAT}, but {source} holds {len(paths)} such files; give the file itself.")
    state: dict[str, np.ndarray] = {}
    counters: dict[str, int | float] = {}
    for path in paths:
        tensors, epoch = model_tensors(path, WHAT)
        image = "base_conv.0.weight" in tensors
        part = "image_encoder" if image else "encoder"
        if any(key.startswith(f"{part}.") for key in state):
            raise IntegrityError(f"{path.name} must not hold another {part}; give one checkpoint of each kind.")
        state |= {f"{part}.{key}": value for key, value in tensors.items()}
        counters |= epoch if image else {}
    for key in ("image_encoder.base_conv.0.weight", "image_encoder.encoder.fc.3.weight"):
        if key not in state:
            raise IntegrityError(f"{paths[0].name} must hold {key}, but does not; it is not an Image2EEG checkpoint.")
    planes = state["image_encoder.base_conv.0.weight"].shape[1] - 3
    layers = [key for key in state if re.fullmatch(r"encoder\.encoder\.weight_hh_l\d+", key)]
    return Converted(
        family="image2eeg",
        state=state,
        parts=("encoder", "image_encoder") if layers else ("image_encoder",),
        config={
            "subjects": [str(number) for number in range(1, planes + 1)],
            "head_units": state["image_encoder.encoder.fc.0.weight"].shape[0],
            "n_features": state["image_encoder.encoder.fc.3.weight"].shape[0],
            **({"lstm_layers": len(layers), "lstm_units": state[layers[0]].shape[1]} if layers else {}),
        },
        source_sha256={path.name: file_sha256(path) for path in paths},
        converter_version=VERSION,
        counters=counters,
    )


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest relative difference of each part between torch and plain numpy, both float64.

    Raises:
        IntegrityError: They differ by more than 1e-9, or tensors are missing or unknown.
    """
    from zoo.models.image2eeg import build

    rng = np.random.default_rng(45)
    planes = converted.state["image_encoder.base_conv.0.weight"].shape[1]
    checks = {
        "image_encoder": (
            lambda model, x: model.image_encoder.encoder(model.image_encoder.base_conv(x)),
            rng.standard_normal((1, planes, 64, 64)),
            numpy_googlenet,
        )
    }
    if "encoder" in converted.parts:
        channels = converted.state["encoder.encoder.weight_ih_l0"].shape[1]
        eeg = rng.uniform(-1, 1, (2, 40, channels))
        checks["encoder"] = (lambda model, x: model.encoder(x), eeg, numpy_lstm)
    return compare(converted, build, checks)


def numpy_googlenet(state: State, x: np.ndarray) -> np.ndarray:
    """The convolution, GoogLeNet as run and the two layers, written out: (n, planes, height, width) → (n, n_features).

    Inputs are rescaled as torchvision's ``transform_input`` does. Of an inception's four branches the third has a
    kernel of 3, as torchvision's, and not of 5.
    """

    def layer(name: str, x: np.ndarray, *, stride: int = 1, pad: int = 0) -> np.ndarray:
        made = conv(state, f"encoder.{name}.conv", x, stride=(stride, stride), pad=(pad, pad))
        return np.asarray(np.maximum(norm(state, f"encoder.{name}.bn", made, epsilon=1e-3), 0))

    def inception(name: str, x: np.ndarray) -> np.ndarray:
        branches = [
            layer(f"{name}.branch1", x),
            layer(f"{name}.branch2.1", layer(f"{name}.branch2.0", x), pad=1),
            layer(f"{name}.branch3.1", layer(f"{name}.branch3.0", x), pad=1),
            layer(f"{name}.branch4.1", pool(x, 3, 1, pad=1)),
        ]
        return np.concatenate(branches, axis=1)

    x = np.maximum(conv(state, "base_conv.0", x, pad=(1, 1)), 0)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = x * (std / 0.5)[:, None, None] + ((mean - 0.5) / 0.5)[:, None, None]
    x = pool(layer("conv1", x, stride=2, pad=3), 3, 2, ceil=True)
    x = pool(layer("conv3", layer("conv2", x), pad=1), 3, 2, ceil=True)
    pools = iter((3, 2))
    for block in INCEPTIONS:
        x = pool(x, next(pools), 2, ceil=True) if block is None else inception(f"inception{block}", x)
    first = linear(state, "encoder.fc.0", x.mean(axis=(2, 3)))
    return np.asarray(np.where(first > 0, first, 0.01 * first) @ state["encoder.fc.3.weight"].T)

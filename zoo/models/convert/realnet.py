"""Checkpoints of ReAlnet and CORnet-S → weights.

Three kinds of files: ``encoder.pt`` (``realnet.module.…`` and the layers of the head), ``realnet.pt`` and the ImageNet
weights (the backbone alone, in the latter under ``state_dict`` and ``module.…``), and the derived checkpoint with 100
outputs. Every ``module.`` is dropped. No file holds the means and deviations of its z-scores, so a converted model
predicts z-scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo import foreign
from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.plain import State, conv, linear, norm
from zoo.models.cornet import AREAS
from zoo.specs import EEGSpec
from zoo.store import file_sha256

VERSION = "1"
FORWARD_TOLERANCE = 1e-9
"""Of float64 against float64, of the largest output."""
N_CHANNELS, N_TIMES, N_WINDOW = 17, 100, 20
OUTPUTS = {N_CHANNELS * N_WINDOW: "window", N_TIMES: "mean-trace"}
"""What a checkpoint with so many outputs predicts."""
NAMED_BY_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""How files of torch's model zoo say how their sha256 begins."""


def convert(source: Path) -> Converted:
    """Tensors of a checkpoint that ``torch.save`` wrote.

    Raises:
        UsageError: ``source`` is no such file.
        IntegrityError: Its sha256 is not that of its name, it holds code, or it is no state dict of these networks.
    """
    if not source.is_file():
        raise UsageError(f"--from must be a file such as encoder.pt, but {source} is not; name one.")
    sha256 = file_sha256(source)
    named = NAMED_BY_HASH.search(source.name)
    if named and not sha256.startswith(named[1]):
        raise IntegrityError(f"{source.name} must have sha256 {named[1]}…, but has {sha256[:16]}…; get it again.")
    stored = foreign.read_torch(source)
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(value, np.ndarray) for value in stored.values()):
        raise IntegrityError(f"{source.name} must hold a state dict, but holds {type(stored).__name__}; save one.")
    plain = {key.replace("module.", ""): np.array(value) for key, value in stored.items()}
    whole = "fc.weight" in plain
    state = {_renamed(key, whole): value for key, value in plain.items()}
    if "backbone0.V1.conv1.weight" not in state:
        raise IntegrityError(
            f"{source.name} must hold ReAlnet or CORnet-S, but has no V1.conv1.weight; the first of its tensors is "
            f"{next(iter(stored), 'missing')}."
        )
    parts: tuple[str, ...] = ("backbone0",)
    config: dict[str, Any] = _config(state)
    counters: dict[str, int | float] = {}
    if whole:
        parts = ("backbone0", "head0", "targets0")
        config |= _head_config(state, config, source)
        n_out = len(state["head0.fc.bias"])
        state["targets0.mean"], state["targets0.std"] = np.zeros(n_out, np.float32), np.ones(n_out, np.float32)
        state["targets0.elsewhere"] = np.zeros((N_CHANNELS, N_TIMES), np.float32)
        counters["outputs_as_drawn"] = _as_drawn(state)
    return Converted(
        family="realnet",
        state=state,
        parts=parts,
        config=config,
        source_sha256={source.name: sha256},
        converter_version=VERSION,
        counters=counters,
    )


def _renamed(key: str, whole: bool) -> str:
    if whole and key.startswith("fc"):
        return f"head0.{key}"
    return f"backbone0.{key.removeprefix('realnet.')}"


def _config(state: State) -> dict[str, Any]:
    """Sizes of the backbone."""
    layers = ("V1.conv2", *(f"{area}.conv3" for area in AREAS[1:]))
    try:
        widths = [len(state[f"backbone0.{layer}.weight"]) for layer in layers]
        n_objects = len(state["backbone0.decoder.linear.bias"])
    except KeyError as error:
        raise IntegrityError(
            f"the checkpoint must hold a whole CORnet-S, but {error} is missing; get it again."
        ) from error
    steps = [sum(f"backbone0.{area}.norm1_{t}.weight" in state for t in range(100)) for area in AREAS[1:]]
    return {"widths": widths, "recurrence": steps, "n_objects": n_objects}


def _head_config(state: State, config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Sizes of the head and what it predicts."""
    try:
        inputs, n_out = state["head0.fc_v1.weight"].shape, len(state["head0.fc.bias"])
    except KeyError as error:
        raise IntegrityError(
            f"{source.name} must hold a whole ReAlnet, but {error} is missing; get it again."
        ) from error
    if n_out not in OUTPUTS:
        raise IntegrityError(
            f"{source.name} must predict {' or '.join(map(str, OUTPUTS))} values (17 channels × 20 times, or a mean of "
            f"100 times), but predicts {n_out}; what they are is not known."
        )
    resolution = 4 * math.isqrt(inputs[1] // config["widths"][0])
    return {"head_width": inputs[0], "resolution": resolution, "outputs": OUTPUTS[n_out]}


def _as_drawn(state: State) -> int:
    """Outputs whose weights lie where torch draws those of a new layer: in the derived checkpoint 80 never trained."""
    weight, bias = state["head0.fc.weight"], state["head0.fc.bias"]
    most = np.maximum(np.abs(weight).max(axis=1), np.abs(bias))
    return int((most <= np.float32(1 / math.sqrt(weight.shape[1]))).sum())


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest difference between torch and plain numpy on one picture, both float64, relative to the largest output.

    Raises:
        IntegrityError: It is more than ``FORWARD_TOLERANCE``, or the tensors are not those of the network.
    """
    import torch

    from zoo.models.cornet import normalised
    from zoo.models.realnet import build

    spec = EEGSpec(ch_names=tuple(map(str, range(N_CHANNELS))), sfreq=100, tmin=-0.2, n_times=N_TIMES, unit="a.u.")
    with torch.device("meta"):
        model = build(spec, **converted.config).eval()
    state = {key: v.astype(np.float64) if v.dtype.kind == "f" else v for key, v in converted.state.items()}
    wanted = {key for key in model.state_dict() if key.partition(".")[0] in converted.parts}
    if odd := sorted(wanted ^ state.keys()):
        raise IntegrityError(
            f"the checkpoint must hold a whole network, but {odd[0]} is {'missing' if odd[0] in wanted else 'unknown'}."
        )
    try:
        model.load_state_dict({key: torch.from_numpy(v) for key, v in state.items()}, strict=False, assign=True)
    except RuntimeError as error:
        raise IntegrityError(f"the checkpoint must be of one network, but is not ({error}).") from error
    backbone, head, _ = model.network(0)
    picture = np.random.default_rng(0).random((1, 3, model.resolution, model.resolution))
    x = normalised(torch.from_numpy(picture))
    with torch.no_grad():
        seen = backbone(x)
        made = {"logits": seen.logits} | ({"eeg": head(*seen.areas)} if "head0" in converted.parts else {})
    plain = numpy_realnet(state, x.numpy(), converted.config["recurrence"])
    found = {name: _apart(value.numpy(), plain[name]) for name, value in made.items()}
    if not max(found.values()) <= FORWARD_TOLERANCE:
        raise IntegrityError(
            f"the converted network must compute in torch what it computes in numpy, within {FORWARD_TOLERANCE:g}, but "
            f"differs by {max(found.values()):g}; do not use these weights."
        )
    return found


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def numpy_realnet(state: State, x: np.ndarray, recurrence: list[int]) -> dict[str, np.ndarray]:
    """Logits, and EEG where there is a head, of normalised pictures (n, 3, height, width), written out."""
    x = relu(norm(state, "backbone0.V1.norm1", conv(state, "backbone0.V1.conv1", x, stride=(2, 2), pad=(3, 3))))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))
    x = relu(norm(state, "backbone0.V1.norm2", conv(state, "backbone0.V1.conv2", x, pad=(1, 1))))
    areas = [x]
    for area, steps in zip(AREAS[1:], recurrence, strict=True):
        x = _area(state, f"backbone0.{area}", x, steps)
        areas.append(x)
    made = {"logits": linear(state, "backbone0.decoder.linear", x.mean(axis=(2, 3)))}
    if "head0.fc.weight" in state:
        names = [f"head0.fc_{area.lower()}" for area in AREAS]
        features = [
            relu(linear(state, name, seen.reshape(len(x), -1))) for name, seen in zip(names, areas, strict=True)
        ]
        made["eeg"] = linear(state, "head0.fc", np.concatenate(features, axis=1))
    return made


def _area(state: State, name: str, x: np.ndarray, steps: int) -> np.ndarray:
    x = conv(state, f"{name}.conv_input", x)
    for step in range(steps):
        stride = (1, 1) if step else (2, 2)
        skip = x if step else norm(state, f"{name}.norm_skip", conv(state, f"{name}.skip", x, stride=stride))
        x = relu(norm(state, f"{name}.norm1_{step}", conv(state, f"{name}.conv1", x)))
        x = relu(norm(state, f"{name}.norm2_{step}", conv(state, f"{name}.conv2", x, stride=stride, pad=(1, 1))))
        x = relu(norm(state, f"{name}.norm3_{step}", conv(state, f"{name}.conv3", x)) + skip)
    return x


def relu(x: np.ndarray) -> np.ndarray:
    """The positive part."""
    return np.asarray(np.maximum(x, 0))

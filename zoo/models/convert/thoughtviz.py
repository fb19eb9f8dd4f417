"""ThoughtViz' EEG classifier as Keras 2 saved it (``run_final.h5``) → the encoder; HDF5's plain arrays, nothing is run.

Layers 10 and 11, which turn the encoding into classes, are read and checked but not kept: the model needs them in
training only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.store import file_sha256

VERSION = "1"
FORWARD_TOLERANCE = 1e-9
"""Of float64 against float64; a wrong order of axes is off by far more."""
MAX_VALUES = 10_000_000
"""Of one array; the largest published one has 11 200."""
LAYERS = {
    "batch_normalization": ("encoder.norm_0", "encoder.norm_8", "head.norm_10"),
    "conv2d": ("encoder.conv_1", "encoder.conv_2", "encoder.conv_4", "encoder.conv_6"),
    "dense": ("encoder.dense_9", "head.dense_11"),
}
"""Our names of the layers of each kind. Keras numbers them through a process, so the order decides, not the number."""
ARRAYS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "kernel": "weight",
    "bias": "bias",
}
SHAPES = {
    "encoder.norm_0": (1,),
    "encoder.conv_1": (32, 1, 1, 4),
    "encoder.conv_2": (25, 32, None, 1),
    "encoder.conv_4": (50, 1, 4, 25),
    "encoder.conv_6": (100, 1, 50, None),
    "encoder.norm_8": (100,),
    "encoder.dense_9": (100, 100),
    "head.norm_10": (100,),
    "head.dense_11": (None, 100),
}
"""Of the weight of each layer; null is free: channels, what is left of time, classes."""


def convert(source: Path) -> Converted:
    """The encoder in a file of ThoughtViz' EEG classifier.

    Args:
        source: Such as ``eeg_models/image/run_final.h5``.

    Raises:
        UsageError: ``source`` is no HDF5 file.
        IntegrityError: It is damaged, or holds another model.
    """
    state, counters = read_classifier(source)
    return Converted(
        family="thoughtviz",
        state={key: value for key, value in state.items() if key.startswith("encoder.")},
        parts=("encoder",),
        config={},
        source_sha256={source.name: file_sha256(source)},
        converter_version=VERSION,
        counters=counters,
    )


def read_classifier(source: Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Every array of the classifier under torch's names (``encoder.…``, ``head.…``), and its count of updates.

    Raises:
        UsageError: ``source`` is no HDF5 file.
        IntegrityError: It is damaged, or holds another model.
    """
    arrays = dict(_datasets(source))
    moments = {name: arrays.pop(name) for name in list(arrays) if name.startswith("optimizer_weights/")}
    counts = [int(value) for name, value in moments.items() if name.endswith("/iterations:0") and value.shape == ()]
    state: dict[str, np.ndarray] = {}
    for name, ours in _layers(source, arrays).items():
        value = arrays[name].astype(np.float32)
        state[ours] = np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)
    for layer, shape in SHAPES.items():
        for key in ARRAYS.values() if len(shape) == 1 else ("weight", "bias"):
            found = state[f"{layer}.{key}"].shape if f"{layer}.{key}" in state else None
            wanted = shape if key == "weight" else shape[:1]
            fits = found is not None and len(found) == len(wanted)
            if not fits or any(w not in (None, n) for n, w in zip(found or (), wanted, strict=True)):
                asked = tuple("any" if n is None else n for n in wanted)
                raise _other(source, f"{layer}.{key} has shape {found}, where it has {asked}")
    return state, {"iterations": counts[0]} if counts else {}


def _datasets(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of every dataset that lies in the file itself."""
    import h5py

    if not source.is_file() or not h5py.is_hdf5(source):
        raise UsageError(
            f"--from must be an HDF5 file such as run_final.h5, but {source} is none; check what it holds."
        )
    names: list[str] = []
    try:
        with h5py.File(source, "r") as file:
            file.visit(names.append)  # follows no link out of the file
            for name in names:
                entry = file[name]
                if isinstance(entry, h5py.Group):
                    continue
                if entry.external or entry.is_virtual or entry.dtype.kind not in "fiu":
                    raise _other(source, f"{name} is no plain array of numbers")
                if entry.size > MAX_VALUES:
                    raise _other(source, f"{name} has {entry.size} values")
                yield name, entry[()]
    except (OSError, RuntimeError, KeyError) as error:
        raise IntegrityError(f"{source.name} cannot be read ({error}); get it again.") from error


def _layers(source: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Dataset → our name, every one accounted for."""
    numbers: dict[str, set[int]] = defaultdict(set)
    parsed = {}
    for name in arrays:
        match = re.fullmatch(r"model_weights/(\w+?_(\d+))/\1/(\w+):0", name)
        kind = match[1].rpartition("_")[0] if match else ""
        if match is None or kind not in LAYERS or match[3] not in ARRAYS:
            raise _other(source, f"it holds {name}")
        parsed[name] = kind, int(match[2]), ARRAYS[match[3]]
        numbers[kind].add(int(match[2]))
    for kind, layers in LAYERS.items():
        if len(numbers[kind]) != len(layers):
            raise _other(source, f"it has {len(numbers[kind])} layers {kind}, where it has {len(layers)}")
    return {
        name: f"{LAYERS[kind][sorted(numbers[kind]).index(number)]}.{key}"
        for name, (kind, number, key) in parsed.items()
    }


def _other(source: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{source.name} must hold ThoughtViz' EEG classifier and nothing else, but {why}.")


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest difference between torch and a plain numpy evaluation of the encoder, both float64.

    Raises:
        IntegrityError: They differ by more than ``FORWARD_TOLERANCE``.
    """
    import torch

    from zoo.models.epoc import Encoder

    state = {key.removeprefix("encoder."): value.astype(np.float64) for key, value in converted.state.items()}
    n_channels, left = state["conv_2.weight"].shape[2], state["conv_6.weight"].shape[3]
    n_times = 9 * left + 14
    encoder = Encoder(n_channels, n_times).double().eval()
    encoder.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    mean, spread = state["norm_0.running_mean"], np.sqrt(state["norm_0.running_var"])
    eeg = mean + spread * np.random.default_rng(0).standard_normal((4, n_channels, n_times))
    with torch.no_grad():
        got = encoder(torch.from_numpy(eeg)).numpy()
    difference = float(np.abs(got - numpy_encoder(state, eeg)).max())
    if not difference <= FORWARD_TOLERANCE:
        raise IntegrityError(
            f"the converted encoder must compute in torch what it computes in numpy, within {FORWARD_TOLERANCE:g}, "
            f"but differs by {difference:g}; do not use these weights."
        )
    return {"encoder": difference}


def numpy_encoder(state: Mapping[str, np.ndarray], eeg: np.ndarray) -> np.ndarray:
    """Layers 0 to 9 written out: sums over windows of time and all channels, never a convolution.

    Shape:
        eeg: (n, n_channels, n_times); returns: (n, 100).
    """

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        mean, var, gamma, beta = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return np.asarray((x - mean) / np.sqrt(var + 1e-3) * gamma + beta)

    def windows(x: np.ndarray, n: int) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(x, n, axis=-1)

    def pool(x: np.ndarray) -> np.ndarray:
        whole = x[..., : x.shape[-1] // 3 * 3]
        return np.asarray(whole.reshape(*x.shape[:-1], -1, 3).max(axis=-1))

    def dense(name: str, subscripts: str, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        out = np.einsum(subscripts, x, kernel, optimize=True)
        bias = state[f"{name}.bias"].reshape(-1, *[1] * (out.ndim - 2))
        return np.asarray(np.maximum(out + bias, 0))

    x = dense("conv_1", "nctk,ok->noct", windows(norm("norm_0", eeg), 4), state["conv_1.weight"][:, 0, 0])
    x = pool(dense("conv_2", "nict,oic->not", x, state["conv_2.weight"][:, :, :, 0]))
    x = pool(dense("conv_4", "nmtk,okm->not", windows(x, 4), state["conv_4.weight"][:, 0]))
    x = norm("norm_8", dense("conv_6", "nmt,omt->no", x, state["conv_6.weight"][:, 0]))
    return dense("dense_9", "ni,oi->no", x, state["dense_9.weight"])

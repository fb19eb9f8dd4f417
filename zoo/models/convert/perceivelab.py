"""State dicts of PeRCeiVe Lab's LSTM, EEGChannelNet and EEGNet → weights; names stay, the network's get a prefix.

The released script saves whole modules. Such a file is code and is refused: in the environment that wrote it, save
``model.state_dict()``. The names of the other networks' tensors are not known, so theirs cannot be converted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo import foreign
from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.plain import State, conv, linear, norm, sigmoid
from zoo.store import file_sha256

VERSION = "1"
FORWARD_TOLERANCE = 1e-9
"""Of float64 against float64."""
KNOWN = {
    "lstm": "lstm.weight_ih_l0",
    "eegchannelnet": "encoder.temporal_block.layers.0.norm.weight",
    "eegnet": "batchnorm1.weight",
}
"""Network → a tensor that only its state dict has."""


def convert(source: Path) -> Converted:
    """Tensors of a state dict that ``torch.save`` wrote.

    Raises:
        UsageError: ``source`` is no file of ``torch.save``.
        IntegrityError: It holds a pickled module or anything else but a state dict of one of the three networks.
    """
    if not source.is_file():
        raise UsageError(f"--from must be a file with a state dict, such as model.pth, but {source} is not; name one.")
    try:
        stored = foreign.read_torch(source)
    except IntegrityError as error:
        raise IntegrityError(
            f"{source.name} must hold a state dict, but holds objects that only running its code would make (as the "
            "released script saves them); where it was trained, save model.state_dict() and convert that file."
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(value, np.ndarray) for value in stored.values()):
        raise IntegrityError(f"{source.name} must hold a state dict, but holds {type(stored).__name__}; save one.")
    found = [network for network, key in KNOWN.items() if key in stored]
    if not found:
        raise IntegrityError(
            f"{source.name} must hold a state dict of the LSTM, EEGChannelNet or EEGNet, but has none of their "
            f"tensors; the first of its own is {next(iter(stored), 'missing')}."
        )
    state = {}
    for key, value in stored.items():
        kept = np.array(value)
        state[_renamed(found[0], key)] = kept.astype(np.float32) if kept.dtype.kind == "f" else kept
    head = [value for key, value in state.items() if key.startswith("classifier.") and key.endswith("bias")]
    return Converted(
        family="perceivelab",
        state=state,
        parts=("encoder", "classifier"),
        config={"n_classes": len(head[-1])} if head else {},
        source_sha256={source.name: file_sha256(source)},
        converter_version=VERSION,
    )


def _renamed(network: str, key: str) -> str:
    if network == "eegchannelnet":
        return key
    if key.startswith("fc1."):
        return f"classifier.{key}"
    return key if key.startswith("classifier.") else f"encoder.{key}"


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest difference of the logits between torch and a plain numpy evaluation, both float64.

    Raises:
        IntegrityError: They differ by more than ``FORWARD_TOLERANCE``, or the tensors are not those of the network.
    """
    import torch

    from zoo.models.perceivelab import build
    from zoo.specs import EEGSpec

    network = next(name for name, key in KNOWN.items() if _renamed(name, key) in converted.state)
    spec = EEGSpec(ch_names=tuple(f"{i}" for i in range(128)), sfreq=1000, tmin=0, n_times=440, unit="a.u.")
    state = {key: v.astype(np.float64) if v.dtype.kind == "f" else v for key, v in converted.state.items()}
    with torch.device("meta"):
        model = build(spec, network=network, **converted.config).eval()
    try:
        model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, assign=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise IntegrityError(
            f"the state dict must be a whole one of the released {network}, but is not ({said})."
        ) from error
    eeg = np.random.default_rng(45).standard_normal((1, 128, 440))
    with torch.no_grad():
        theirs = model.classify(torch.from_numpy(eeg)).numpy()
    difference = float(np.abs(theirs - NUMPY[network](state, eeg)).max())
    if not difference <= FORWARD_TOLERANCE:
        raise IntegrityError(
            f"the converted {network} must compute in torch what it computes in numpy, within {FORWARD_TOLERANCE:g}, "
            f"but differs by {difference:g}; do not use these weights."
        )
    return {"logits": difference}


def numpy_lstm(state: State, eeg: np.ndarray) -> np.ndarray:
    """Logits of (n, n_channels, n_times), written out."""
    kernel, recurrent = (state[f"encoder.lstm.weight_{kind}_l0"].T for kind in ("ih", "hh"))
    bias = state["encoder.lstm.bias_ih_l0"] + state["encoder.lstm.bias_hh_l0"]
    hidden = cell = np.zeros((len(eeg), recurrent.shape[0]))
    for t in range(eeg.shape[2]):
        i, f, g, o = np.split(eeg[:, :, t] @ kernel + hidden @ recurrent + bias, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
    return linear(state, "classifier", np.maximum(linear(state, "encoder.output", hidden), 0))


def numpy_eegchannelnet(state: State, eeg: np.ndarray) -> np.ndarray:
    """Logits of (n, 128, n_times), written out."""

    def layer(name: str, x: np.ndarray, **how: Any) -> np.ndarray:
        return conv(state, f"{name}.conv", np.maximum(norm(state, f"{name}.norm", x), 0), **how)

    x = eeg[:, None]
    x = np.concatenate(
        [
            layer(f"encoder.temporal_block.layers.{i}", x, stride=(1, 2), pad=(0, 16 * 2**i), dilation=2**i)
            for i in range(4)
        ],
        axis=1,
    )
    heights = [state[f"encoder.spatial_block.layers.{i}.conv.weight"].shape[2] for i in range(4)]
    x = np.concatenate(
        [
            layer(f"encoder.spatial_block.layers.{i}", x, stride=(2, 1), pad=((height - 1) // 2, 0))
            for i, height in enumerate(heights)
        ],
        axis=1,
    )
    for i in range(4):
        block = f"encoder.res_blocks.{i}.0"
        inner = np.maximum(norm(state, f"{block}.bn1", conv(state, f"{block}.conv1", x, pad=(1, 1))), 0)
        x = np.maximum(norm(state, f"{block}.bn2", conv(state, f"{block}.conv2", inner, pad=(1, 1))) + x, 0)
        x = layer(f"encoder.res_blocks.{i}.1", x, stride=(2, 2))
    x = layer("encoder.final_conv", x).reshape(len(eeg), -1)
    return linear(state, "classifier.2", np.maximum(linear(state, "classifier.0", x), 0))


def numpy_eegnet(state: State, eeg: np.ndarray) -> np.ndarray:
    """Probabilities of (n, 128, 440), written out."""

    def layer(i: int, x: np.ndarray) -> np.ndarray:
        made = conv(state, f"encoder.conv{i}", x)
        return norm(state, f"encoder.batchnorm{i}", np.where(made > 0, made, np.expm1(np.minimum(made, 0))), epsilon=0)

    def pool(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
        return np.asarray(windows.max(axis=(4, 5)))

    x = np.ascontiguousarray(eeg).reshape(len(eeg), 1, eeg.shape[2], eeg.shape[1])
    x = layer(1, x).transpose(0, 3, 1, 2)
    x = pool(layer(2, np.pad(x, ((0, 0), (0, 0), (0, 1), (16, 17)))), (2, 2), (4, 4))
    for i, width in ((3, 4), (4, 6)):
        x = pool(layer(i, np.pad(x, ((0, 0), (0, 0), (4, 3), (2, 1)))), (2, width), (2, width))
    return sigmoid(linear(state, "classifier.fc1", x.reshape(len(eeg), -1)))


NUMPY: dict[str, Callable[[State, np.ndarray], np.ndarray]] = {
    "lstm": numpy_lstm,
    "eegchannelnet": numpy_eegchannelnet,
    "eegnet": numpy_eegnet,
}

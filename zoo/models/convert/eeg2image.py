"""EEG2Image's TensorFlow checkpoints → torch names: the encoder's (``ckpt-2420``) and the GAN's (``ckpt-210``).

LSTM gates lie in the same order (i, f, c, o) in Keras and torch, so kernels are only transposed; convolutions of either
kind are ``permute(3, 2, 0, 1)``. Spectral norm does nothing at inference, so generator kernels are taken as stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.tf_checkpoint import checkpoint_files, index_path, read_tf_checkpoint
from zoo.store import file_sha256

VERSION = "1"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
COUNTERS = re.compile(r"step|save_counter|(optimizer|gopt|copt)/(iter|learning_rate|beta_1|beta_2|decay)")
SLOT = re.compile(r"(?P<variable>.+)/\.OPTIMIZER_SLOT/(optimizer|gopt|copt)/(m|v)")
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
PARTS = ("encoder", "generator", "discriminator")
FORWARD_TOLERANCE = 1e-9
"""Of float64 against float64; a wrong gate order or a flipped kernel is off by 0.01 or more."""

Rule = tuple[str, str, int, Callable[[np.ndarray], np.ndarray]]


def _as_stored(x: np.ndarray) -> np.ndarray:
    return x


def _transpose(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.T)


def _convolution(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1))


RULES: tuple[Rule, ...] = (
    (r"model/encoder/([01])/cell/kernel", "encoder.lstm.{0}.weight_ih_l0", 2, _transpose),
    (r"model/encoder/([01])/cell/recurrent_kernel", "encoder.lstm.{0}.weight_hh_l0", 2, _transpose),
    (r"model/encoder/([01])/cell/bias", "encoder.lstm.{0}.bias_ih_l0", 1, _as_stored),
    (r"model/gen/conv/(\d)/w", "generator.up.{0}.weight", 4, _convolution),
    (r"model/gen/conv/(\d)/sn_u", "generator.up.{0}.u", 2, _as_stored),
    (r"model/gen/last_conv/w", "generator.rgb.weight", 4, _convolution),
    (r"model/gen/last_conv/sn_u", "generator.rgb.u", 2, _as_stored),
    (r"model/gen/bnorm/([1-9])/(gamma|beta|moving_mean|moving_variance)", "generator.norm.{0}.{1}", 1, _as_stored),
    (r"model/disc/cnn_conv/(\d)/kernel", "discriminator.conv.{0}.weight", 4, _convolution),
    (
        r"model/disc/cnn_bnorm/(\d)/(gamma|beta|moving_mean|moving_variance)",
        "discriminator.norm.{0}.{1}",
        1,
        _as_stored,
    ),
    (r"model/disc/disc_out/kernel", "discriminator.out.weight", 2, _transpose),
    (r"model/disc/disc_out/bias", "discriminator.out.bias", 1, _as_stored),
)
"""Pattern of the TensorFlow name, torch name, dimensions, layout change."""


def convert(source: Path) -> Converted:
    """Tensors of an EEG2Image checkpoint, every key of it accounted for.

    Args:
        source: A folder with one checkpoint (or a ``checkpoint`` file naming one), or a prefix such as ``…/ckpt-2420``.

    Raises:
        MissingError: A file of the checkpoint is missing.
        UsageError: There is no checkpoint at ``source``, or there are several and no ``checkpoint`` file chooses.
        IntegrityError: A file is damaged, or it holds another model.
    """
    prefix = _prefix(source)
    variables, counters = _sort(prefix.name, read_tf_checkpoint(prefix))
    state = dict(_renamed(prefix.name, variables))
    parts = tuple(part for part in PARTS if any(key.startswith(f"{part}.") for key in state))
    _fill(state)
    config = _config(prefix.name, state)
    _require_complete(prefix.name, state, parts, config)
    return Converted(
        family="eeg2image",
        state=state,
        parts=parts,
        config=config,
        source_sha256={path.name: file_sha256(path) for path in checkpoint_files(prefix)},
        converter_version=VERSION,
        counters=counters,
    )


def _prefix(source: Path) -> Path:
    """The checkpoint prefix ``source`` stands for; the ``checkpoint`` file of a folder names it."""
    if not source.is_dir():
        prefix = source.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", source.name))
        if not index_path(prefix).exists():
            raise _no_checkpoint(source)
        return prefix
    chosen = source / "checkpoint"
    if chosen.exists():
        named = re.search(r'^model_checkpoint_path: "([^"]+)"', chosen.read_text(errors="replace"), re.MULTILINE)
        if named is None:
            raise IntegrityError(f"{chosen} must name a checkpoint, but does not; give the prefix of one instead.")
        return source / named[1].rpartition("/")[2]  # a path on its author's machine means nothing here
    found = sorted(source.glob("*.index"))
    if not found:
        raise _no_checkpoint(source)
    if len(found) > 1:
        names = ", ".join(path.stem for path in found)
        raise UsageError(f"{source} must hold one checkpoint, but holds {names}; give the prefix of one of them.")
    return found[0].with_suffix("")


def _no_checkpoint(source: Path) -> UsageError:
    return UsageError(
        "--from must be a folder with the files of an EEG2Image checkpoint, ckpt-N.index and "
        f"ckpt-N.data-00000-of-00001, or their path up to ckpt-N, but {source} is neither; check what it holds."
    )


def _sort(name: str, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
    """Variables of the model and the checkpoint's scalars; optimiser slots of known variables are left behind."""
    variables: dict[str, np.ndarray] = {}
    counters: dict[str, int | float] = {}
    for full, value in tensors.items():
        key = full.removesuffix(SUFFIX)
        slot = SLOT.fullmatch(key)
        if COUNTERS.fullmatch(key) and value.ndim == 0:
            counters[key] = value.item()
        elif slot is None:
            variables[key] = value
        elif f"{slot['variable']}{SUFFIX}" not in tensors:
            raise IntegrityError(
                f"{name} holds {full}, a moment of no variable it has; it is not an EEG2Image checkpoint."
            )
    return variables, counters


def _renamed(name: str, variables: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in variables.items():
        for pattern, torch_name, ndim, layout in RULES:
            if (match := re.fullmatch(pattern, key)) and value.ndim == ndim:
                groups = [NORM.get(group, group) for group in match.groups()]
                if torch_name.startswith("generator.norm"):  # TensorFlow's bnorm 0 exists but is never built
                    groups[0] = str(int(groups[0]) - 1)
                yield torch_name.format(*groups), layout(value.astype(np.float32))
                break
        else:
            raise IntegrityError(
                f"{name} holds {key} with shape {value.shape}, which no EEG2Image checkpoint has; "
                "convert it with the family it belongs to."
            )


def _fill(state: dict[str, np.ndarray]) -> None:
    """Add what torch has and Keras has not: the second LSTM bias (zero) and the batch counters of batch norm."""
    for key in list(state):
        if key.endswith("bias_ih_l0"):
            state[key.replace("bias_ih", "bias_hh")] = np.zeros_like(state[key])
        elif key.endswith("running_mean"):
            state[key.replace("running_mean", "num_batches_tracked")] = np.zeros((), dtype=np.int64)


def _config(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Config overrides told by shapes; moving statistics that never moved tell which semantics trained a generator."""
    try:
        config: dict[str, Any] = {}
        if "encoder.lstm.0.weight_hh_l0" in state:
            config["lstm_units"] = tuple(state[f"encoder.lstm.{i}.weight_hh_l0"].shape[1] for i in (0, 1))
        if "generator.up.0.weight" in state:
            n_features = state["discriminator.conv.0.weight"].shape[1] - 3
            config.setdefault("lstm_units", (32, n_features))
            config["noise_dim"] = state["generator.up.0.weight"].shape[0] - n_features
            config["generator_width"] = state["generator.up.0.weight"].shape[1]
            config["discriminator_width"] = state["discriminator.conv.0.weight"].shape[0]
            levels = sum(bool(re.fullmatch(r"generator\.up\.\d+\.weight", key)) for key in state)
            config["resolution"] = 4 << (levels - 1)
            moved = any(state[f"generator.norm.{i}.running_mean"].any() for i in range(levels - 1))
            config["semantics"] = "as_intended" if moved else "as_run"
    except KeyError as error:
        raise _incomplete(name, error.args[0]) from error
    return config


def _require_complete(
    name: str, state: Mapping[str, np.ndarray], parts: tuple[str, ...], config: dict[str, Any]
) -> None:
    """Every tensor of the parts is there, in the shape the config gives it."""
    if not parts:
        raise IntegrityError(f"{name} must hold an EEG2Image encoder or GAN, but holds no variable of either.")
    try:
        whole = _model(state, config).state_dict()
    except UsageError as error:
        raise IntegrityError(f"{name} must have the shapes of an EEG2Image checkpoint, but has not: {error}") from error
    wanted = {key: value for key, value in whole.items() if key.partition(".")[0] in parts}
    for key, value in wanted.items():
        if key not in state:
            raise _incomplete(name, key)
        if state[key].shape != tuple(value.shape):
            raise IntegrityError(
                f"{key} must have shape {tuple(value.shape)} to fit the rest of {name}, but has {state[key].shape}; "
                "it is not an EEG2Image checkpoint."
            )
    if surplus := sorted(state.keys() - wanted.keys()):
        raise IntegrityError(f"{name} holds {surplus[0]}, which a model of its other shapes has no place for.")


def _incomplete(name: str, key: str) -> IntegrityError:
    return IntegrityError(f"{name} must hold {key}, but does not; it is not a whole EEG2Image checkpoint.")


def _model(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Any:
    """An EEG2Image of these settings, for as many channels as its encoder has, with no memory behind its tensors."""
    import torch

    from zoo.models.eeg2image import build
    from zoo.specs import EEGSpec

    n_channels = state["encoder.lstm.0.weight_ih_l0"].shape[1] if "encoder.lstm.0.weight_ih_l0" in state else 14
    spec = EEGSpec(ch_names=tuple(f"{i}" for i in range(n_channels)), sfreq=128, tmin=0, n_times=32)
    with torch.device("meta"):
        return build(spec, **config)


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest difference between torch and a plain numpy evaluation, both float64, of each part that computes features.

    Raises:
        IntegrityError: A part differs by more than ``FORWARD_TOLERANCE``.
    """
    import torch

    state = {key: value.astype(np.float64) for key, value in converted.state.items()}
    model = _model(state, converted.config).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=False, assign=True)
    rng = np.random.default_rng(45)
    differences = {}
    with torch.no_grad():
        if "encoder" in converted.parts:
            eeg = rng.uniform(-1, 1, (4, 32, model.spec.n_channels))
            theirs = model.encoder(torch.from_numpy(eeg)).numpy()
            differences["encoder"] = float(np.abs(theirs - numpy_encoder(state, eeg)).max())
        if "generator" in converted.parts:
            code = rng.uniform(-1, 1, (2, state["generator.up.0.weight"].shape[0]))
            theirs = model.generator(torch.from_numpy(code)).numpy()
            differences["generator"] = float(np.abs(theirs - numpy_generator(state, code)).max())
    for part, difference in differences.items():
        if not difference <= FORWARD_TOLERANCE:
            raise IntegrityError(
                f"the converted {part} must compute in torch what it computes in numpy, within {FORWARD_TOLERANCE:g}, "
                f"but differs by {difference:g}; do not use these weights."
            )
    return differences


def numpy_encoder(state: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The two LSTM layers written out.

    Shape:
        x: (n, n_times, n_channels); returns: (n, units), the last state.
    """
    for layer in (0, 1):
        kernel, recurrent = (state[f"encoder.lstm.{layer}.weight_{kind}_l0"].T for kind in ("ih", "hh"))
        bias = state[f"encoder.lstm.{layer}.bias_ih_l0"]
        hidden = cell = np.zeros((len(x), recurrent.shape[0]))
        states = []
        for t in range(x.shape[1]):
            i, f, c, o = np.split(x[:, t] @ kernel + hidden @ recurrent + bias, 4, axis=1)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(c)
            hidden = _sigmoid(o) * np.tanh(cell)
            states.append(hidden)
        x = np.stack(states, axis=1)
    return np.asarray(x[:, -1])


def numpy_generator(state: Mapping[str, np.ndarray], code: np.ndarray) -> np.ndarray:
    """The generator at inference written out: every input pixel adds its kernel at stride × its place, far end cut.

    Shape:
        code: (n, noise_dim + n_features); returns: (n, 3, resolution, resolution).
    """
    x, level = code[:, :, None, None], 0
    while f"generator.up.{level}.weight" in state:
        kernel, stride = state[f"generator.up.{level}.weight"], 2 if level else 4
        n, _, height, width = x.shape
        grown = np.zeros((n, kernel.shape[1], height * stride + 2, width * stride + 2))
        for row in range(3):
            for column in range(3):
                taps = np.einsum("nihw,io->nohw", x, kernel[:, :, row, column], optimize=True)
                grown[:, :, row : row + height * stride : stride, column : column + width * stride : stride] += taps
        x = grown[:, :, : height * stride, : width * stride]
        if level:
            mean, var, gamma, beta = (
                state[f"generator.norm.{level - 1}.{key}"][:, None, None]
                for key in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / np.sqrt(var + 1e-3) * gamma + beta
        x, level = np.where(x > 0, x, 0.3 * x), level + 1
    kernel = state["generator.rgb.weight"]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.asarray(np.tanh(np.einsum("nihwrc,oirc->nohw", windows, kernel, optimize=True)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))

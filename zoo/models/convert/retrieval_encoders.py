"""State dicts of NICE and ATM-S → weights; names stay, under the part ``encoder``.

A file of ``torch.save`` with the tensors of the whole module, as ``model.state_dict()`` gives them; ``module.`` is
taken off, and a ``logit_scale`` beside them becomes the scale of the loss. UBP's recordings stand on no card, so its
state dicts are loaded in Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoo import foreign
from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.eegclip import compare
from zoo.models.convert.plain import State, conv, linear, norm
from zoo.store import file_sha256

VERSION = "1"
KNOWN = {"nice": "Enc_eeg.0.tsconv.0.weight", "atm-s": "enc_eeg.0.tsconv.0.weight"}
"""Network → a tensor that only its state dict has."""
N_TIMES = 250


def convert(source: Path) -> Converted:
    """Tensors of the encoder, and the scale of the loss.

    Raises:
        UsageError: ``source`` is no file of ``torch.save``.
        IntegrityError: It holds no state dict of NICE or ATM-S.
    """
    if not source.is_file():
        raise UsageError(f"--from must be a file with a state dict, such as model.pth, but {source} is not; name one.")
    stored = foreign.read_torch(source)
    if not isinstance(stored, dict) or not all(isinstance(value, np.ndarray) for value in stored.values()):
        raise IntegrityError(f"{source.name} must hold a state dict, but holds {type(stored).__name__}; save one.")
    tensors = {key.removeprefix("module."): np.array(value) for key, value in stored.items()}
    network = next((name for name, key in KNOWN.items() if key in tensors), None)
    if network is None:
        raise IntegrityError(
            f"{source.name} must hold a state dict of NICE or ATM-S, but has none of their tensors; "
            f"the first of its own is {next(iter(tensors), 'missing')}."
        )
    last = {"nice": "Proj_eeg.2.weight", "atm-s": "proj_eeg.2.weight"}[network]
    if last not in tensors:
        raise IntegrityError(f"{source.name} must hold {last}, but does not; save the whole module's state dict.")
    scale = tensors.pop("logit_scale", np.array(math.log(1 / 0.07)))
    state = {f"encoder.{key}": v.astype(np.float32) if v.dtype.kind == "f" else v for key, v in tensors.items()}
    n_features = len(tensors[last])
    state["comparison.logit_scale"] = scale.astype(np.float32)
    state["comparison.centre"] = np.zeros(n_features, np.float32)
    return Converted(
        family="retrieval-encoders",
        state=state,
        parts=("encoder", "comparison"),
        config={"network": network, "n_features": n_features},
        source_sha256={source.name: file_sha256(source)},
        converter_version=VERSION,
    )


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest relative difference of the features between torch and plain numpy, both float64.

    Raises:
        IntegrityError: They differ by more than 1e-9, or tensors are missing or unknown.
    """
    from zoo.models.retrieval_encoders import build
    from zoo.specs import EEGSpec

    network = str(converted.config["network"])
    convolution = "Enc_eeg" if network == "nice" else "enc_eeg"
    n_channels = converted.state[f"encoder.{convolution}.0.tsconv.4.weight"].shape[2]
    spec = EEGSpec(ch_names=tuple(map(str, range(n_channels))), sfreq=250, tmin=0, n_times=N_TIMES, unit="a.u.")
    eeg = np.random.default_rng(45).standard_normal((2, n_channels, N_TIMES))
    checks = {"encoder": (lambda model, x: model.encode(x), eeg, NUMPY[network])}
    return compare(converted, build, checks, spec=spec)


def numpy_nice(state: State, eeg: np.ndarray) -> np.ndarray:
    """NICE, written out: (n, n_channels, n_times) → (n, n_features)."""
    return _projected(state, "Proj_eeg", "fn", _convolved(state, "Enc_eeg.0", eeg))


def numpy_atms(state: State, eeg: np.ndarray) -> np.ndarray:
    """ATM-S as run, every subject unknown, written out: (n, n_channels, n_times) → (n, n_features)."""
    embed, layer = "encoder.enc_embedding", "encoder.encoder.attn_layers.0"
    shared = state[f"{embed}.subject_embedding.shared_embedding"]
    tokens = np.broadcast_to(shared, (len(eeg), 1, eeg.shape[2]))
    x = np.concatenate([tokens, linear(state, f"{embed}.value_embedding", eeg)], axis=1)

    def heads(name: str) -> np.ndarray:
        made = linear(state, f"{layer}.attention.{name}_projection", x)
        return made.reshape(*made.shape[:2], 4, -1).transpose(0, 2, 1, 3)

    query, key, value = map(heads, ("query", "key", "value"))
    score = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[3])
    weight = np.exp(score - score.max(axis=3, keepdims=True))
    mixed = (weight / weight.sum(axis=3, keepdims=True) @ value).transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1)
    x = _layer_norm(state, f"{layer}.norm1", x + linear(state, f"{layer}.attention.out_projection", mixed))
    inner = {key: value[..., 0] if value.ndim == 3 else value for key, value in state.items()}
    wide = _gelu(linear(inner, f"{layer}.conv1", x))
    x = _layer_norm(state, f"{layer}.norm2", x + linear(inner, f"{layer}.conv2", wide))
    x = _layer_norm(state, "encoder.encoder.norm", x)
    return _projected(state, "proj_eeg", "fn", _convolved(state, "enc_eeg.0", x[:, :-1]))


NUMPY: dict[str, Callable[[State, np.ndarray], np.ndarray]] = {"nice": numpy_nice, "atm-s": numpy_atms}


def _convolved(state: State, name: str, x: np.ndarray) -> np.ndarray:
    """Filters over time, means of 51 samples in steps of 5, one filter across channels: (n, 40 · positions)."""
    maps = conv(state, f"{name}.tsconv.0", x[:, None])
    windows = np.lib.stride_tricks.sliding_window_view(maps, 51, axis=3)[:, :, :, ::5]
    maps = _elu(norm(state, f"{name}.tsconv.2", windows.mean(axis=4)))
    maps = _elu(norm(state, f"{name}.tsconv.5", conv(state, f"{name}.tsconv.4", maps)))
    maps = conv(state, f"{name}.projection.0", maps)
    return np.asarray(maps[:, :, 0].swapaxes(1, 2).reshape(len(x), -1))


def _projected(state: State, name: str, called: str, x: np.ndarray) -> np.ndarray:
    first = linear(state, f"{name}.0", x)
    return _layer_norm(state, f"{name}.2", first + linear(state, f"{name}.1.{called}.1", _gelu(first)))


def _layer_norm(state: State, name: str, x: np.ndarray) -> np.ndarray:
    apart = x - x.mean(axis=-1, keepdims=True)
    unit = apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + 1e-5)
    return np.asarray(unit * state[f"{name}.weight"] + state[f"{name}.bias"])


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return np.asarray(x * ndtr(x))


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

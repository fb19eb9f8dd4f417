"""EEGStyleGAN-ADA's files → torch names: EEG2Feat encoders (``.pth``) and StyleGAN2-ADA snapshots (``.pkl``).

Encoders only lose the prefix ``module.`` of their parallel wrapper. Of a snapshot, ``G_ema`` becomes the generator and
``D`` the discriminator, under their own names; no code in either file is run (``zoo.foreign``, ``object_pickle``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo import foreign
from zoo.errors import IntegrityError, UsageError
from zoo.models.convert import Converted
from zoo.models.convert.object_pickle import read_modules
from zoo.store import file_sha256

VERSION = "1"
SUFFIXES = (".pth", ".pt", ".pkl")
FORWARD_TOLERANCE = 1e-9
"""Of float64 against float64; a wrong gate order or a flipped kernel is off by 1e-4 or more."""


def convert(source: Path) -> Converted:
    """Tensors of an encoder's checkpoint or of a GAN's snapshot, every one of them accounted for.

    Args:
        source: The file, or a folder that holds one.

    Raises:
        UsageError: There is no such file, there are several, or it is damaged.
        IntegrityError: It holds another model, or asks for what is not read.
    """
    path = _file(source)
    state, counters = _snapshot(path) if path.suffix == ".pkl" else _encoder(path)
    parts = tuple(part for part in ("encoder", "generator", "discriminator") if any(k.startswith(part) for k in state))
    config = _config(path.name, state)
    wanted = {k: v for k, v in _model(state, config).state_dict().items() if k.partition(".")[0] in parts}
    for key in sorted({*wanted} ^ {*state}):
        had = "lacks" if key in wanted else "holds"
        raise IntegrityError(f"{path.name} {had} {key}; it is not an EEGStyleGAN-ADA file that can be converted.")
    for key, value in wanted.items():
        if state[key].shape != tuple(value.shape):
            raise IntegrityError(
                f"{key} must have shape {tuple(value.shape)} to fit the rest of {path.name}, "
                f"but has {state[key].shape}; it is not an EEGStyleGAN-ADA file."
            )
    return Converted(
        family="eegstylegan-ada",
        state=state,
        parts=parts,
        config=config,
        source_sha256={path.name: file_sha256(path)},
        converter_version=VERSION,
        counters=counters,
    )


def _file(source: Path) -> Path:
    found = [source] if source.is_file() else sorted(p for p in source.glob("*") if p.suffix in SUFFIXES)
    if len(found) != 1 or found[0].suffix not in SUFFIXES:
        raise UsageError(
            "--from must be an EEG2Feat checkpoint (.pth) or a network snapshot (.pkl), or a folder with one of them, "
            f"but {source} holds {len(found) if source.is_dir() else 'neither'}; give the file itself."
        )
    return found[0]


def _encoder(path: Path) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
    held = foreign.read_torch(path)
    tensors = held.get("model_state_dict") if isinstance(held, dict) else None
    if not isinstance(tensors, dict):
        raise IntegrityError(f"{path.name} must hold model_state_dict, but does not; it is not an EEG2Feat checkpoint.")
    if any(re.fullmatch(r"(module\.)?fc\.[23]\.weight", key) for key in tensors):
        raise IntegrityError(
            f"{path.name} holds a classifier's head, so it is a fine-tuned checkpoint; convert the one it began from."
        )
    state = {f"encoder.{key.removeprefix('module.')}": np.asarray(value) for key, value in tensors.items()}
    return state, {"epoch": held["epoch"]} if isinstance(held.get("epoch"), int) else {}


def _snapshot(path: Path) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
    networks = read_modules(path)
    if missing := [name for name in ("G_ema", "D") if not networks.get(name)]:
        raise IntegrityError(
            f"{path.name} must hold the networks G_ema and D, but {missing[0]} is not there; "
            "it is not a snapshot of StyleGAN2-ADA."
        )
    of = {"generator": networks["G_ema"], "discriminator": networks["D"]}
    state = {f"{part}.{key}": value for part, tensors in of.items() for key, value in tensors.items()}
    kimg = re.search(r"(\d+)$", path.stem)
    return state, {"kimg": int(kimg[1])} if kimg else {}


def _config(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Config overrides that shapes tell."""

    def width(key: str, axis: int = 0) -> int:
        if key not in state or state[key].ndim <= axis:
            raise IntegrityError(f"{name} must hold {key}, but does not; it is not an EEGStyleGAN-ADA file.")
        return int(state[key].shape[axis])

    def numbers(pattern: str) -> list[int]:
        return sorted({int(match[1]) for key in state if (match := re.match(pattern, key))})

    if "encoder.encoder.weight_hh_l0" in state:
        return {
            "encoder": "lstm",
            "lstm_layers": len(numbers(r"encoder\.encoder\.weight_hh_l(\d+)$")),
            "lstm_units": width("encoder.encoder.weight_hh_l0", 1),
            "n_features": width("encoder.fc.weight"),
        }
    if convolutions := numbers(r"encoder\.layers\.(\d+)\.0\.weight$"):
        channels = tuple(width(f"encoder.layers.{i}.0.weight") for i in convolutions)
        return {"encoder": "cnn", "cnn_channels": channels, "n_features": width("encoder.fc.0.weight")}
    w_dim = width("generator.mapping.embed.weight")
    resolution = max(numbers(r"generator\.synthesis\.b(\d+)\."), default=4)
    most, least = (width(f"generator.synthesis.b{size}.conv1.weight") for size in (4, resolution))
    return {
        "n_features": width("generator.mapping.embed.weight", 1),
        "w_dim": w_dim,
        "z_dim": width("generator.mapping.fc0.weight", 1) - w_dim,
        "mapping_layers": len(numbers(r"generator\.mapping\.fc(\d+)\.weight$")),
        "resolution": resolution,
        "channel_base": least * resolution,
        "channel_max": most,
    }


def _model(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Any:
    """A model of these settings, with no memory behind its tensors."""
    import torch

    from zoo.models.eegstylegan_ada import build
    from zoo.specs import EEGSpec

    first = state.get("encoder.encoder.weight_ih_l0")
    spec = EEGSpec(
        ch_names=tuple(map(str, range(128 if first is None else first.shape[1]))), sfreq=1, tmin=0, n_times=40
    )
    with torch.device("meta"):
        return build(spec, **config)


def forward_check(converted: Converted) -> dict[str, float]:
    """Largest difference between torch and a plain numpy evaluation, both float64, of what the checkpoint holds.

    Of a GAN: the mapping and the pictures of its first two resolutions, and the discriminator's last two with its
    projection; larger ones repeat the same layers.

    Raises:
        IntegrityError: A part differs by more than ``FORWARD_TOLERANCE`` of its largest value.
    """
    import torch

    state = {key: np.asarray(value, np.float64) for key, value in converted.state.items()}
    model = _model(state, converted.config)
    loaded = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}
    model.load_state_dict(loaded, strict=False, assign=True)
    model.eval()
    rng, found = np.random.default_rng(45), {}

    def compare(part: str, ours: Any, theirs: np.ndarray) -> None:
        found[part] = float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())

    def part_of(name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

    with torch.no_grad():
        if "encoder" in converted.parts:
            lstm = converted.config["encoder"] == "lstm"
            eeg = rng.uniform(-1, 1, (2, 40, model.spec.n_channels))
            compare(
                "encoder",
                model.encoder(torch.from_numpy(eeg)),
                (numpy_lstm if lstm else numpy_cnn)(part_of("encoder"), eeg),
            )
        if "generator" in converted.parts:
            z, c = (rng.standard_normal((2, converted.config[key])) for key in ("z_dim", "n_features"))
            generator, discriminator = model.generator, model.discriminator
            w = generator.mapping(torch.from_numpy(z), torch.from_numpy(c))
            ws, image, x = w[:, None].expand(-1, 3, -1), None, None
            for size in (4, 8):
                block = generator.synthesis.get_submodule(f"b{size}")
                x, image = block(x, image, ws, iter(["const"] * 2), torch.float64)
            compare("generator", image, numpy_generator(part_of("generator"), z, c))
            x8 = rng.standard_normal((2, state["discriminator.b8.conv0.weight"].shape[1], 8, 8))
            block = discriminator.b8
            y = discriminator.b4(block.conv1(block.conv0(torch.from_numpy(x8))))
            y = (y * discriminator.mapping(None, torch.from_numpy(c))).sum(dim=1) / y.shape[1] ** 0.5
            compare("discriminator", y, numpy_discriminator(part_of("discriminator"), x8, c))
    for part, difference in found.items():
        if not difference <= FORWARD_TOLERANCE:
            raise IntegrityError(
                f"the converted {part} must compute in torch what it computes in numpy, within {FORWARD_TOLERANCE:g}, "
                f"but differs by {difference:g}; do not use these weights."
            )
    return found


State = Mapping[str, np.ndarray]


def numpy_lstm(state: State, x: np.ndarray) -> np.ndarray:
    """The stacked LSTM, its linear layer and unit length, written out: (n, times, channels) → (n, features)."""
    layer = 0
    while f"encoder.weight_ih_l{layer}" in state:
        kernel, recurrent, *biases = (
            state[f"encoder.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = cell = np.zeros((len(x), recurrent.shape[1]))
        states = []
        for t in range(x.shape[1]):
            i, f, g, o = np.split(x[:, t] @ kernel.T + hidden @ recurrent.T + sum(biases), 4, axis=1)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
            hidden = _sigmoid(o) * np.tanh(cell)
            states.append(hidden)
        x, layer = np.stack(states, axis=1), layer + 1
    return _unit(x[:, -1] @ state["fc.weight"].T)


def numpy_cnn(state: State, x: np.ndarray) -> np.ndarray:
    """The convolutional encoder without dropout, written out: (n, times, channels) → (n, features)."""
    x, layer = x[:, None], 0
    while f"layers.{layer}.0.weight" in state:
        x = _convolve(np.pad(x, _around(1)), state[f"layers.{layer}.0.weight"])[:, :, ::2, ::2]
        x = (x - x.mean(axis=(2, 3), keepdims=True)) / np.sqrt(x.var(axis=(2, 3), keepdims=True) + 1e-5)
        x, layer = np.where(x > 0, x, 0.01 * x), layer + 1
    return _unit(x.mean(axis=(2, 3)) @ state["fc.0.weight"].T)


def numpy_generator(state: State, z: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The 8×8 picture of the generator with its constant noise, written out."""
    w = np.concatenate([_rms(z), _rms(_dense(state, "mapping.embed", c))], axis=1)
    for layer in range(sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in state)):
        w = _active(_dense(state, f"mapping.fc{layer}", w, rate=0.01))

    def styled(name: str, x: np.ndarray, up: bool) -> np.ndarray:
        weight, style = state[f"{name}.weight"], _dense(state, f"{name}.affine", w)
        kernel = weight * style[:, None, :, None, None]
        kernel /= np.sqrt((kernel**2).sum(axis=(2, 3, 4), keepdims=True) + 1e-8)
        if up:  # zeros between pixels, the flipped kernel over all that it touches, then the filter times 4
            wide = np.zeros((*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1))
            wide[:, :, ::2, ::2] = x
            x = _each(np.pad(wide, _around(2)), kernel[..., ::-1, ::-1])
            x = _blur(np.pad(x, _around(1))) * 4
        else:
            x = _each(np.pad(x, _around(1)), kernel)
        x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        return _active(x + state[f"{name}.bias"][:, None, None])

    def rgb(name: str, x: np.ndarray) -> np.ndarray:
        style = _dense(state, f"{name}.affine", w) / np.sqrt(x.shape[1])
        y = np.einsum("oi,ni,nihw->nohw", state[f"{name}.weight"][:, :, 0, 0], style, x)
        return np.asarray(y + state[f"{name}.bias"][:, None, None])

    x = styled("synthesis.b4.conv1", np.repeat(state["synthesis.b4.const"][None], len(z), axis=0), up=False)
    small = rgb("synthesis.b4.torgb", x)
    x = styled("synthesis.b8.conv1", styled("synthesis.b8.conv0", x, up=True), up=False)
    wide = np.zeros((*small.shape[:2], 8, 8))
    wide[:, :, ::2, ::2] = small
    grown = _blur(np.pad(wide, ((0, 0), (0, 0), (2, 1), (2, 1)))) * 4
    return np.asarray(grown + rgb("synthesis.b8.torgb", x))


def numpy_discriminator(state: State, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Logits from the features of a batch at 8×8, written out; the whole batch is one group."""

    def conv(name: str, x: np.ndarray) -> np.ndarray:
        weight = state[f"{name}.weight"]
        y = _convolve(x, weight / np.sqrt(weight[0].size))
        return np.asarray(y + state[f"{name}.bias"][:, None, None])

    x = _active(conv("b8.conv0", np.pad(x, _around(1))))
    x = _active(conv("b8.conv1", _blur(np.pad(x, _around(2))))[:, :, ::2, ::2])
    spread = np.sqrt(x.var(axis=0) + 1e-8).mean()
    x = _active(conv("b4.conv", np.pad(np.concatenate([x, np.full_like(x[:, :1], spread)], axis=1), _around(1))))
    y = _dense(state, "b4.out", _active(_dense(state, "b4.fc", x.reshape(len(x), -1))))
    projection = _rms(_dense(state, "mapping.embed", c))
    for layer in range(8):
        projection = _active(_dense(state, f"mapping.fc{layer}", projection, rate=0.01))
    return np.asarray((y * projection).sum(axis=1) / np.sqrt(y.shape[1]))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def _rms(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8))


def _active(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.where(x > 0, x, 0.2 * x) * np.sqrt(2), -256, 256))


def _dense(state: State, name: str, x: np.ndarray, rate: float = 1) -> np.ndarray:
    weight = state[f"{name}.weight"]
    return np.asarray(x @ weight.T * rate / np.sqrt(weight.shape[1]) + state[f"{name}.bias"] * rate)


def _around(n: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (0, 0), (n, n), (n, n))


def _convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return _each(x, np.broadcast_to(kernel, (len(x), *kernel.shape)))


def _each(x: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Every picture correlated with its own kernel, only where all of it lies inside."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernels.shape[3:], axis=(2, 3))
    return np.stack([np.einsum("ihwrc,oirc->ohw", *pair, optimize=True) for pair in zip(windows, kernels, strict=True)])


def _blur(x: np.ndarray) -> np.ndarray:
    taps = np.array([1.0, 3, 3, 1]) / 8
    windows = np.lib.stride_tricks.sliding_window_view(x, (4, 4), axis=(2, 3))
    return np.asarray(np.einsum("nihwrc,r,c->nihw", windows, taps, taps, optimize=True))

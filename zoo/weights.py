"""A weights folder: ``model.safetensors`` and ``weights.json``, which says what they are and where they come from.

``<cache>/weights/<model>/<name>/``; written once, verified on every load, loaded strictly.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo import registry
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.specs import SHA256, EEGSpec, ModelCard
from zoo.store import atomic_folder, cache_dir, file_sha256, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.models.base import Model


class Output(BaseModel):
    """One output of a model on keyed noise: its shape, moments, and values at evenly spaced positions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: tuple[int, ...]
    mean: float
    std: float
    values: tuple[float, ...]


class WeightsInfo(BaseModel):
    """What ``weights.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    name: str
    config: dict[str, Any]
    eeg: EEGSpec
    parts: tuple[str, ...]
    """Sub-networks whose weights are in the file; the others keep their initial values and may not be used."""
    sha256: str = Field(pattern=SHA256)
    source: Literal["trained", "converted", "published", "given"]
    trained_on: tuple[str, ...]
    split_sha256: str | None = None
    seed: int | None = None
    selection: str
    """On which role the checkpoint was chosen."""
    receipt: dict[str, Any] = {}
    forward: dict[str, Output] | None = None
    """What the model made of keyed noise when this was written (``zoo.forward``); null in older files."""


def folder_of(model: str, name: str) -> Path:
    return cache_dir("weights", model, name)


def build(card: ModelCard, eeg: EEGSpec, overrides: dict[str, Any] | None = None) -> Model:
    """A model with initial weights (seeded by the caller) for recordings like ``eeg``."""
    from zoo.models.base import Model

    if card.builder is None:
        raise announced(card)
    model = registry.load_object(card.builder)(eeg, **{**card.preset, **(overrides or {})})
    if not isinstance(model, Model):
        raise UsageError(f"the builder of {card.id} must return a zoo.models.base.Model, not {type(model).__name__}.")
    return model


def announced(card: ModelCard) -> MissingError:
    """The answer for a model that is on the list but not in this release."""
    from zoo import __version__

    return MissingError(
        f"{card.id} is announced but not in this release (eeg-image-zoo {__version__}): neither code nor weights.\n"
        f"to install it, run: pip install --upgrade eeg-image-zoo && zoo weights pull {card.id}"
    )


def save(
    model: Model,
    info: dict[str, Any],
    *,
    parts: tuple[str, ...] | None = None,
    beside: Mapping[str, Path] | None = None,
) -> tuple[Path, WeightsInfo]:
    """Write a model's state under the cache.

    Args:
        info: The fields of ``WeightsInfo`` except sha256 and parts.
        beside: Name → file to be copied into the folder: notes of the training, which nothing reads again.
    """
    held = parts or tuple(model.parts())
    state = {
        key: value.detach().cpu().contiguous()
        for key, value in model.state_dict().items()
        if key.partition(".")[0] in held
    }
    return save_state(state, {**info, "parts": held}, beside=beside)


def save_state(
    state: dict[str, Tensor], info: dict[str, Any], *, beside: Mapping[str, Path] | None = None
) -> tuple[Path, WeightsInfo]:
    """Write tensors under the cache, load them strictly into a model of their own, and write down what it computes.

    Raises:
        IntegrityError: The tensors are not those of the model; nothing is kept.
    """
    from safetensors.torch import save_file

    from zoo.forward import fingerprint

    path = folder_of(info["model"], info["name"])
    with atomic_folder(path) as work:
        save_file(state, work / "model.safetensors")
        found = WeightsInfo(**info, sha256=file_sha256(work / "model.safetensors"))
        found = found.model_copy(update={"forward": fingerprint(_filled(work, found, called=path), found.parts)})
        write_json(work / "weights.json", found.model_dump(mode="json"))
        for name, file in (beside or {}).items():
            shutil.copyfile(file, work / name)
    return path, found


def read_info(path: Path) -> WeightsInfo:
    """Validate a weights folder without loading it.

    Raises:
        MissingError: There is no weights folder at ``path``.
        IntegrityError: ``weights.json`` is damaged, or the file is not the one it describes.
    """
    if not (path / "weights.json").is_file() or not (path / "model.safetensors").is_file():
        raise MissingError(
            f"{path} holds no weights (weights.json and model.safetensors).\n"
            "to make them, run: zoo train MODEL --dataset DATASET   or: zoo weights convert MODEL --from DIR"
        )
    try:
        info = WeightsInfo.model_validate(read_json(path / "weights.json"))
    except (ValidationError, ValueError) as error:
        raise IntegrityError(
            f"{path / 'weights.json'} is damaged ({str(error).splitlines()[0]}); "
            "delete the folder and train, convert or fetch again."
        ) from error
    found = file_sha256(path / "model.safetensors")
    if found != info.sha256:
        raise IntegrityError(
            f"{path / 'model.safetensors'} must have sha256 {info.sha256[:16]}… but has {found[:16]}…; "
            "delete the folder and train, convert or fetch again."
        )
    return info


def load(path: Path, *, device: str = "cpu") -> tuple[Model, WeightsInfo]:
    """Build the model that ``path`` describes, load every tensor strictly and check what it computes.

    Returns:
        The model, ready for inference, and what its weights say of themselves.

    Raises:
        IntegrityError: A file is damaged, a tensor is missing, unknown, of another shape or type, or the model makes
            something else of noise than when its weights were saved.
    """
    from zoo.forward import check

    info = read_info(path)
    model = _filled(path, info)
    check(model, info, path)
    return model.to(device), info


def _filled(path: Path, info: WeightsInfo, called: Path | None = None) -> Model:
    """The model that ``info`` describes with the tensors of ``path``, every one accounted for, on the cpu."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where = called or path
    try:
        state = load_file(path / "model.safetensors")
    except SafetensorError as error:
        raise IntegrityError(f"{where / 'model.safetensors'} is not a readable safetensors file ({error}).") from error
    card = registry.models.get(info.model)
    with torch.random.fork_rng(devices=[]):
        try:
            model = build(card, info.eeg, info.config)
        except (TypeError, ValueError) as error:
            raise IntegrityError(
                f"{where / 'weights.json'} does not describe a {info.model} of this release ({error})."
            ) from error
    expected = {key: value for key, value in model.state_dict().items() if key.partition(".")[0] in info.parts}
    if odd := sorted({*expected} ^ {*state}):
        missing = f"{len({*expected} - {*state})} missing and {len({*state} - {*expected})} unknown"
        raise IntegrityError(f"{where} does not fit {info.model}: {missing} tensors, the first is {odd[0]}.")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise IntegrityError(
                f"{where}: {key} must have shape {tuple(expected[key].shape)} but has {tuple(value.shape)}."
            )
        if value.dtype != expected[key].dtype:
            raise IntegrityError(f"{where}: {key} must be {expected[key].dtype} but is {value.dtype}.")
    model.load_state_dict(state, strict=False)  # every key was accounted for above
    return model.eval().requires_grad_(False)


def available(model: str) -> list[tuple[Path, WeightsInfo]]:
    """Weights of ``model`` on this machine, damaged ones left out."""
    found = []
    for path in sorted(cache_dir("weights", model).glob("*/weights.json")):
        try:
            found.append((path.parent, WeightsInfo.model_validate(read_json(path))))
        except ValueError:
            continue
    return found

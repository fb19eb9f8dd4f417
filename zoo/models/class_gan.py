"""class-gan: another model trained on recordings that say nothing but the class; what the brain has to beat.

A control of this zoo, not a published model. Every class has one recording of white noise (a random codebook), which
takes the place of the EEG in all of its trials; networks, losses, phases and their lengths are those of the model named
by ``of``. So the difference between the two is what reading the class out of EEG costs, or what EEG adds to the class.
At evaluation it is given the test labels, so its score says nothing about brains.

There is nothing to select by: validation trials hold the same recordings, so the last weights of every phase are kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from zoo import registry, weights
from zoo.errors import UsageError
from zoo.models.base import LabelConditioned, Reconstructor
from zoo.models.layers import configure
from zoo.specs import EEGSpec
from zoo.stats import keyed_rng
from zoo.training import Recipe, TrainingData

VOLTS = 1e-5
"""Standard deviation of a code where recordings are in volts; where units are arbitrary it is 1."""


@dataclass(frozen=True)
class ClassGANConfig:
    of: str = "eeg2image"
    """Model whose networks and recipes these are; it must make images out of EEG."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Config fields of that model to change; once built, all of them."""
    n_classes: int = 100
    """How many codes there are; a dataset may have fewer classes."""
    seed: int = 0
    """Keys the codes."""

    def __post_init__(self) -> None:
        if self.n_classes < 1:
            raise UsageError(f"n_classes must be at least 1, but is {self.n_classes}.")


class ClassGAN(LabelConditioned):
    """A model of EEG and the codes that it is given instead."""

    def __init__(self, spec: EEGSpec, config: ClassGANConfig) -> None:
        card = registry.models.get(config.of)
        model = weights.build(card, spec, config.settings)
        if not isinstance(model, Reconstructor) or isinstance(model, LabelConditioned):
            raise UsageError(
                f"of must name a model that makes images out of EEG, but {card.id} does not; try eeg2image."
            )
        super().__init__(spec, replace(config, of=card.id, settings=asdict(model.config)))
        self._model = (model,)  # not as a module: its parts become parts of this one
        for name, part in model.parts().items():
            self.add_module(name, part)
        self.resolution, self.n_classes = model.resolution, config.n_classes
        shape = (spec.n_channels, spec.n_times)
        draws = [
            keyed_rng("class-gan", config.seed, c).standard_normal(shape, np.float32) for c in range(self.n_classes)
        ]
        self.codes = np.stack(draws) * np.float32(VOLTS if spec.unit == "V" else 1)

    @property
    def model(self) -> Reconstructor:
        """The model that is told the class; it shares its parts with this one."""
        return self._model[0]

    @property
    def rounding(self) -> Literal["nearest", "truncate"]:  # type: ignore[override]
        return self.model.rounding

    def parts(self) -> dict[str, nn.Module]:
        return self.model.parts()

    def encode_labels(self, labels: Tensor) -> Tensor:
        """The model's features of each label's code: (n,) → (n, n_features)."""
        return self.model.encode(torch.from_numpy(self.codes[labels.cpu().numpy()]).to(labels.device))

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return self.model.draw_noise(rng)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        return self.model.decode(features, noise)


def build(spec: EEGSpec, **overrides: Any) -> ClassGAN:
    """An untrained ClassGAN for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``ClassGANConfig``, or ``of`` makes no images out of EEG.
    """
    return ClassGAN(spec, configure(ClassGANConfig, overrides))


class Told:
    """What stands for the recordings: row for row the code of the trial's class, made when indexed."""

    def __init__(self, codes: np.ndarray, labels: np.ndarray) -> None:
        self._codes, self._labels = codes, labels
        self.shape, self.dtype = (len(labels), *codes.shape[1:]), codes.dtype

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found: np.ndarray = self._codes[self._labels[rows]]
        return found


def recipes(model: ClassGAN, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
    """The phases of the model that is told the class, whose ``recipes`` say what else they need.

    Args:
        model: Trained in place, on the device it is on.
        data: Its recordings are not looked at.
        seed: As for that model.
        select: Of no effect: the last weights are kept.

    Raises:
        UsageError: The dataset has more classes than the model has codes.
    """
    if data.n_classes > model.n_classes:
        raise UsageError(
            f"class-gan has {model.n_classes} codes, but the dataset has {data.n_classes} classes; "
            f"set n_classes={data.n_classes}."
        )
    told = replace(data, eeg=cast("np.ndarray", Told(model.codes, data.labels)))
    builder = str(registry.models.get(model.config.of).builder)
    found: list[Recipe] = registry.load_object(builder.partition(":")[0] + ":recipes")(
        model.model, told, seed=seed, select="last"
    )
    return found

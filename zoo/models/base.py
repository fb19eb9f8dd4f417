"""What a model can do, as small abstract classes. A model file derives exactly one of them."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.specs import EEGSpec


class Model(nn.Module, abc.ABC):
    """A network with its recordings' description; ``config`` is the frozen dataclass it was built from."""

    micro_batch: ClassVar[int] = 16
    """Samples computed together. Fixed, so that no result depends on batch size, shard or order."""

    def __init__(self, spec: EEGSpec, config: Any) -> None:
        super().__init__()
        self.spec = spec
        self.config = config

    @abc.abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Named sub-networks that weights may bring one by one (``encoder``, ``generator``, …)."""

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Outputs on two samples of noise, by the method that makes them; cheap.

        What weights do is known again by them (``zoo.forward``), so all that a user would call belongs here.
        """
        return {}


class EEGEncoder(Model):
    """EEG → features."""

    @abc.abstractmethod
    def encode(self, eeg: Tensor) -> Tensor:
        """Features of raw EEG.

        Shape:
            eeg: (n_trials, n_channels, n_times), volts.
            returns: (n_trials, n_features).
        """

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        eeg = rng.standard_normal((2, self.spec.n_channels, self.spec.n_times), dtype=np.float32)
        return {
            **super().probe(rng),
            "encode": self.encode(torch.from_numpy(eeg) * (1e-5 if self.spec.unit == "V" else 1)),
        }


class Classifier(EEGEncoder):
    """EEG → class, by a head of its own on the features of ``encode``."""

    n_classes: int
    """How many classes it knows; labels lie in 0 … n_classes - 1."""

    @abc.abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """Evidence for every class: the largest names it.

        Shape:
            features: (n, n_features), as ``encode`` gives; returns: (n, n_classes).
        """

    def classify(self, eeg: Tensor) -> Tensor:
        """``logits`` of raw EEG: (n_trials, n_channels, n_times) → (n_trials, n_classes)."""
        return self.logits(self.encode(eeg))

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        found = super().probe(rng)
        return {**found, "logits": self.logits(found["encode"])}


class Reconstructor(EEGEncoder):
    """EEG → image, through the features of ``encode``."""

    resolution: int
    rounding: ClassVar[Literal["nearest", "truncate"]] = "nearest"
    """How [0, 1] becomes uint8; part of a published protocol."""

    @abc.abstractmethod
    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        """Noise of one sample, float32; the caller keys ``rng`` by (track, trial, replicate)."""

    @abc.abstractmethod
    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Images from encoder features and noise.

        Shape:
            features: (n, n_features); noise: (n, *noise_shape).
            returns: (n, 3, resolution, resolution) in [0, 1].
        """

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        found = super().probe(rng)
        features = torch.from_numpy(rng.standard_normal(tuple(found["encode"].shape), dtype=np.float32))
        noise = torch.from_numpy(np.stack([self.draw_noise(rng) for _ in features]))
        return {**found, "decode": self.decode(features, noise)}


class LabelConditioned(Reconstructor):
    """True class → image: a control, since it is told what others must read from the EEG.

    ``encode_labels`` stands in for ``encode``; an evaluation gives it the labels of the test trials.
    """

    n_classes: int
    """How many classes it knows; labels lie in 0 … n_classes - 1."""

    @abc.abstractmethod
    def encode_labels(self, labels: Tensor) -> Tensor:
        """Features of concept indices.

        Shape:
            labels: (n,) integers; returns: (n, n_features).
        """

    def encode(self, eeg: Tensor) -> Tensor:
        """Refused: there is no EEG in it.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{type(self).__name__} is conditioned on labels and reads no EEG; call encode_labels.")

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        features = self.encode_labels(torch.from_numpy(rng.integers(self.n_classes, size=2)))
        noise = torch.from_numpy(np.stack([self.draw_noise(rng) for _ in features]))
        return {"encode_labels": features, "decode": self.decode(features, noise)}

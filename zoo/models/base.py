"""What a model can do, as small abstract classes. A model file derives exactly one of them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
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


class Retriever(EEGEncoder):
    """EEG → a space that pictures lie in too, so that the picture shown can be found among many by the cosine.

    Pictures come as features of a frozen network, made by the extractor that the model names, in training as in an
    evaluation; what the model adds is the way from there into the space of ``encode``.
    """

    extractor: str
    """Which of the zoo's extractors looks at pictures (``zoo list extractors``)."""
    output: str = "features"
    """Which of its outputs."""
    n_image_features: int
    """How long that output is."""

    @abc.abstractmethod
    def embed_images(self, features: Tensor) -> Tensor:
        """Pictures in the space of ``encode``.

        Shape:
            features: (n, n_image_features), as the extractor makes them.
            returns: (n, n_features); length does not matter.
        """

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        seen = torch.from_numpy(rng.standard_normal((2, self.n_image_features), dtype=np.float32))
        return {**super().probe(rng), "embed_images": self.embed_images(seen)}


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


class EncodingModel(Model):
    """Image → EEG: the response that a picture is expected to evoke, before noise.

    In two steps, so that what all people share is computed once: ``see`` looks at pictures, ``respond`` says what the
    brain of a person makes of it.
    """

    resolution: int
    """Height and width of the pictures that it looks at."""
    subjects: tuple[str, ...] = ()
    """Whose responses it tells apart; none, if it has one response for everybody."""

    def pixels(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Pictures of any size as the model takes them, in training as in an evaluation: squeezed, bilinear (Pillow).

        Shape:
            pictures: (height, width, 3) uint8 each; returns: (n, 3, resolution, resolution) in [0, 1].
        """
        from PIL import Image

        size = (self.resolution, self.resolution)
        small = [Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR) for picture in pictures]
        return torch.from_numpy(np.stack([np.asarray(image).transpose(2, 0, 1) for image in small])).float() / 255

    @abc.abstractmethod
    def see(self, images: Tensor) -> Tensor:
        """What responses are computed from, whoever looks: (n, 3, resolution, resolution) in [0, 1] → (n, …)."""

    @abc.abstractmethod
    def respond(self, seen: Tensor, subject: str | None = None) -> Tensor:
        """Responses to what was seen, in the unit of the recordings.

        Shape:
            seen: (n, …), as ``see`` gives it; returns: (n, n_channels, n_times).

        Args:
            subject: Whose. Of somebody whom it does not know, and of None, it gives the best guess there is: the mean
                over those whom it knows.
        """

    def predict(self, images: Tensor, subject: str | None = None) -> Tensor:
        """Responses to pictures: (n, 3, resolution, resolution) in [0, 1] → (n, n_channels, n_times)."""
        return self.respond(self.see(images), subject)

    def probe(self, rng: np.random.Generator) -> dict[str, Tensor]:
        images = torch.from_numpy(rng.random((2, 3, self.resolution, self.resolution), dtype=np.float32))
        seen = self.see(images)
        people = self.subjects[:2] or (None,)
        made = {"predict" if who is None else f"predict {who}": self.respond(seen, who) for who in people}
        return {**super().probe(rng), **made}

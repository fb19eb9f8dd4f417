"""What any network has to beat: four classifiers without a gradient, solved from the training trials (all ours).

``band-power``   log power of every channel in five bands; linear discriminant analysis, its covariance shrunk
``riemann``      covariance of the channels in the tangent space at the mean; logistic regression
``window-mean``  the mean of every channel over the trial; a vote of the 5 nearest training trials. It sees nothing but
                 offsets, so where it names the class the recording does: the leak detector
``erp``          the mean trial of every class; the nearest one, each channel without its own mean, which is offset

Fitting is scikit-learn's, and pyriemann's for the mean covariance (extra ``riemann``). What they find is kept as
tensors and applied in torch in float64, so that weights are safetensors like any others and nothing is unpickled.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import MissingError, UsageError
from zoo.models.base import Classifier
from zoo.models.cvpr_lstm import require_training
from zoo.models.layers import check_least, configure
from zoo.models.perceivelab import require_classes
from zoo.models.recipes import encode_rows, trials_of
from zoo.specs import EEGSpec
from zoo.training import ClosedForm, Recipe, TrainingData

BANDS = ((1, 4), (4, 8), (8, 13), (13, 30), (30, 45))
"""Delta, theta, alpha, beta and gamma in Hz, each without its upper edge."""
NEVER = -1e30
"""Evidence for a class that was not in the training role."""
BATCH = 256


@dataclass(frozen=True)
class BaselineConfig:
    kind: Literal["band-power", "riemann", "window-mean", "erp"] = "band-power"
    """Which of the baselines."""
    n_classes: int = 10
    """Classes that it can name."""
    neighbours: int = 5
    """Training trials that vote (window-mean)."""
    max_trials: int = 40_000
    """Of more training trials so many are used, evenly spaced; room for as many is kept by window-mean."""

    def __post_init__(self) -> None:
        check_least(self, 2, "n_classes", "max_trials")
        check_least(self, 1, "neighbours")


class Features(nn.Module, abc.ABC):
    """(n, n_channels, n_times) → (n, n_features) float32; what is fitted is mean and scale of every feature."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))

    @abc.abstractmethod
    def raw(self, eeg: Tensor) -> Tensor:
        """Features before they are scaled: (n, n_channels, n_times) float64 → (n, n_features)."""

    def forward(self, eeg: Tensor) -> Tensor:
        scaled: Tensor = (self.raw(eeg.double()) - self.mean) / self.scale
        return scaled.float()

    def fit(self, data: TrainingData, rows: np.ndarray) -> None:
        """Take mean and scale from training trials."""
        from sklearn.preprocessing import StandardScaler

        fitted = StandardScaler()
        for start in range(0, len(rows), BATCH):
            fitted.partial_fit(self.raw(self.trials(data, rows[start : start + BATCH])).cpu().numpy())
        self.mean.copy_(torch.from_numpy(fitted.mean_))
        self.scale.copy_(torch.from_numpy(fitted.scale_))

    def trials(self, data: TrainingData, rows: np.ndarray) -> Tensor:
        return trials_of(data, rows, self.mean.device).double()


class BandPower(Features):
    """Log power in every band that a frequency of the trial falls into (mean removed, Hann window)."""

    def __init__(self, spec: EEGSpec) -> None:
        frequencies = np.fft.rfftfreq(spec.n_times, 1 / spec.sfreq)
        inside = np.array([(low <= frequencies) & (frequencies < high) for low, high in BANDS])
        inside = inside[inside.any(axis=1)]
        if not len(inside):
            raise UsageError(
                f"band-power needs trials in which a frequency of 1 to 45 Hz fits, but {spec.n_times} samples at "
                f"{spec.sfreq:g} Hz have none; use another baseline."
            )
        super().__init__(spec.n_channels * len(inside))
        self.weights: Tensor
        self.window: Tensor
        self.register_buffer("weights", torch.from_numpy(inside / inside.sum(axis=1, keepdims=True)), persistent=False)
        window = torch.hann_window(spec.n_times, dtype=torch.float64)
        self.register_buffer("window", window, persistent=False)

    def raw(self, eeg: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft((eeg - eeg.mean(dim=2, keepdim=True)) * self.window).abs().square()
        return (spectrum @ self.weights.T).clamp_min(torch.finfo(torch.float64).tiny).log().flatten(1)


class WindowMean(Features):
    """The mean of every channel."""

    def __init__(self, spec: EEGSpec) -> None:
        super().__init__(spec.n_channels)

    def raw(self, eeg: Tensor) -> Tensor:
        return eeg.mean(dim=2)


class EvokedResponse(Features):
    """The trial itself, every channel without its mean."""

    def __init__(self, spec: EEGSpec) -> None:
        super().__init__(spec.n_channels * spec.n_times)

    def raw(self, eeg: Tensor) -> Tensor:
        return (eeg - eeg.mean(dim=2, keepdim=True)).flatten(1)


class TangentSpace(Features):
    """Logarithm of the covariance of channels, seen from the mean covariance; off the diagonal times √2.

    Covariances are shrunk as Chen et al. (2010) say (OAS). Mean and scale stay 0 and 1, as is usual there.
    """

    def __init__(self, spec: EEGSpec) -> None:
        n = spec.n_channels
        super().__init__(n * (n + 1) // 2)
        self.whitening: Tensor
        self.register_buffer("whitening", torch.eye(n, dtype=torch.float64))

    @staticmethod
    def covariances(eeg: Tensor) -> Tensor:
        """Oracle-approximating shrinkage: (n, n_channels, n_times) → (n, n_channels, n_channels)."""
        n_channels, n_times = eeg.shape[1:]
        centred = eeg - eeg.mean(dim=2, keepdim=True)
        found = centred @ centred.mT / n_times
        size = found.diagonal(dim1=1, dim2=2).mean(dim=1).square()
        spread = found.square().mean(dim=(1, 2))
        apart = (n_times + 1) * (spread - size / n_channels)
        share = torch.where(apart > 0, (spread + size) / apart, 1).clamp_max(1)[:, None, None]
        eye = torch.eye(n_channels, dtype=eeg.dtype, device=eeg.device)
        return (1 - share) * found + share * size.sqrt()[:, None, None] * eye

    def raw(self, eeg: Tensor) -> Tensor:
        values: Tensor
        vectors: Tensor
        values, vectors = torch.linalg.eigh(self.whitening @ self.covariances(eeg) @ self.whitening)
        log = vectors * values.clamp_min(1e-12).log()[:, None] @ vectors.mT
        row, column = torch.triu_indices(*log.shape[1:], device=eeg.device)
        return log[:, row, column] * torch.where(row == column, 1.0, 2**0.5)

    def fit(self, data: TrainingData, rows: np.ndarray) -> None:
        """Take the mean from training trials (Riemannian)."""
        try:
            from pyriemann.tangentspace import TangentSpace as Fitted
        except ImportError as error:
            raise MissingError(
                "training baseline-riemann needs pyriemann.\nto install it, run: pip install 'eeg-image-zoo[riemann]'"
            ) from error
        parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
        covariances = torch.cat([self.covariances(self.trials(data, part)).cpu() for part in parts])
        values, vectors = np.linalg.eigh(Fitted(metric="riemann").fit(covariances.numpy()).reference_)
        self.whitening.copy_(torch.from_numpy(vectors / np.sqrt(values) @ vectors.T))


class Head(nn.Module, abc.ABC):
    """(n, n_features) float32 → evidence for every class: (n, n_classes) float32."""

    @abc.abstractmethod
    def fit(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Solve for training trials: (n, n_features) and (n,)."""


class LinearHead(Head):
    """Evidence that is linear in the features, found by one of scikit-learn's classifiers."""

    def __init__(self, kind: str, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.randn(n_classes, n_features, dtype=torch.float64), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(n_classes, dtype=torch.float64), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return (features.double() @ self.weight.T + self.bias).float()

    def fit(self, features: np.ndarray, labels: np.ndarray) -> None:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import NearestCentroid

        found: Any
        if self.kind == "erp":
            found = NearestCentroid().fit(features, labels)
            weight, bias = found.centroids_, -(found.centroids_**2).sum(axis=1) / 2
        else:
            found = (
                LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
                if self.kind == "band-power"
                else LogisticRegression(max_iter=1000)
            ).fit(features, labels)
            weight, bias = found.coef_, found.intercept_
            if len(found.classes_) == 2:  # there, it is the evidence for the second over the first
                weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        known = torch.from_numpy(found.classes_)
        self.weight.zero_()
        self.bias.fill_(NEVER)
        self.weight[known] = torch.from_numpy(np.asarray(weight, dtype=np.float64)).to(self.weight)
        self.bias[known] = torch.from_numpy(np.asarray(bias, dtype=np.float64)).to(self.bias)


class Neighbours(Head):
    """Shares of the classes among the nearest training trials (Euclidean).

    Before it is fitted it holds two trials of noise per class. Places for trials that are not used are 0.
    """

    def __init__(self, n_features: int, config: BaselineConfig) -> None:
        super().__init__()
        self.neighbours, self.n_classes = config.neighbours, config.n_classes
        self.trials = nn.Parameter(torch.randn(config.max_trials, n_features), requires_grad=False)
        self.labels: Tensor
        self.kept: Tensor
        self.register_buffer("labels", torch.arange(config.max_trials) % config.n_classes)
        self.register_buffer("kept", torch.tensor(min(2 * config.n_classes, config.max_trials)))

    def forward(self, features: Tensor) -> Tensor:
        kept = int(self.kept)
        apart = torch.cdist(features.double(), self.trials[:kept].double())
        nearest = self.labels[apart.topk(min(self.neighbours, kept), largest=False).indices]
        return nn.functional.one_hot(nearest, self.n_classes).float().mean(dim=1)

    def fit(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Keep them."""
        n = len(features)
        self.trials[:n] = torch.from_numpy(features).to(self.trials)
        self.labels[:n] = torch.from_numpy(labels).to(self.labels)
        self.trials[n:], self.labels[n:] = 0, 0
        self.kept.fill_(n)


FEATURES: dict[str, type[BandPower | TangentSpace | WindowMean | EvokedResponse]] = {
    "band-power": BandPower,
    "riemann": TangentSpace,
    "window-mean": WindowMean,
    "erp": EvokedResponse,
}


class Baseline(Classifier):
    """Features and a head, both solved."""

    micro_batch: ClassVar[int] = 128

    def __init__(self, spec: EEGSpec, config: BaselineConfig) -> None:
        super().__init__(spec, config)
        self.config: BaselineConfig = config
        self.n_classes = config.n_classes
        self.encoder: Features = FEATURES[config.kind](spec)
        n = self.encoder.n_features
        self.classifier: Head = (
            Neighbours(n, config) if config.kind == "window-mean" else LinearHead(config.kind, n, config.n_classes)
        )

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "classifier": self.classifier}

    def encode(self, eeg: Tensor) -> Tensor:
        """Features (n_trials, n_features) of EEG (n_trials, n_channels, n_times)."""
        features: Tensor = self.encoder(eeg)
        return features

    def logits(self, features: Tensor) -> Tensor:
        """What the head makes of features: (n, n_features) → (n, n_classes); shares of votes for window-mean."""
        found: Tensor = self.classifier(features)
        return found


class BaselineRecipe(ClosedForm):
    """Features first, then the head on them."""

    name = "solution"

    def __init__(self, model: Baseline, data: TrainingData) -> None:
        self.model, self.data = model, data
        spaced = np.linspace(0, len(data.train) - 1, min(len(data.train), model.config.max_trials))
        self.rows = data.train[np.round(spaced).astype(np.int64)]

    def modules(self) -> dict[str, nn.Module]:
        return self.model.parts()

    @torch.no_grad()
    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        labels = np.asarray(self.data.labels[self.rows])
        self.model.encoder.fit(self.data, self.rows)
        features = encode_rows(self.model, self.data, self.rows)
        self.model.classifier.fit(features.cpu().numpy(), labels)
        found = torch.cat([self.model.logits(part).argmax(dim=1) for part in torch.split(features, BATCH)])
        return {"training error": float(np.mean(found.cpu().numpy() != labels))}


def build(spec: EEGSpec, **overrides: Any) -> Baseline:
    """An unsolved baseline for these recordings; what stands in for a solution comes from torch's generator.

    Raises:
        UsageError: An override is no field of ``BaselineConfig``, its value is not possible, or the trials are too
            short for any band.
    """
    return Baseline(spec, configure(BaselineConfig, overrides))


def recipes(model: Baseline, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val") -> list[Recipe]:
    """One phase of one step, ``solution``; it does not depend on ``seed``, and there is nothing to select.

    Raises:
        UsageError: The train role is empty or of one class, or the dataset has more classes than the baseline.
    """
    require_classes(model, data)
    require_training(data)
    if len(np.unique(data.labels[data.train])) < 2:
        raise UsageError("training needs trials of two classes or more in the train role; choose another split.")
    return [BaselineRecipe(model, data)]

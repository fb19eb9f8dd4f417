"""Linearizing encoding: layers of an image network → principal components → EEG, by one least-squares solve.

Gifford, Dwivedi, Roig, Cichy (2022), NeuroImage 264:119754, https://doi.org/10.1016/j.neuroimage.2022.119754; code
gifale95/eeg_encoding (commit f0c03bf), of which nothing is used here. Built from a specification and checked against
arrays computed with the authors' functions.

Differences: the solve is one for all targets and in float64, where the original copies the normal equations once per
target in float32; components are computed from Gram matrices. ``layers="appended"`` with ``semantics="as_run"`` keeps
the first ``n_components`` of the joined components, as the released code does: with its settings those are of the
first layer alone. ``corrected`` gives every layer an equal share of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.backbones import Backbone, widths
from zoo.errors import UsageError
from zoo.models.base import EncodingModel
from zoo.models.layers import check_least, configure
from zoo.models.recipes import device_of, mean_responses
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData

DEGREE, OFFSET = 4, 1.0
"""Of the published polynomial kernel: (x · y / n_features + 1)⁴."""
BLOCK = 8192
"""Features multiplied at once."""


@dataclass(frozen=True)
class LinearEncodingConfig:
    backbone: str = "alexnet"
    """alexnet, resnet50, efficientnet-lite0, pixels (no network), or timm:NAME or torchvision:NAME for any other."""
    pretrained: bool = True
    """Whether it has its pinned weights; without, it is the published control of an untrained network."""
    layers: Literal["all", "single", "appended"] = "all"
    """Components of all layers joined, of one layer, or of every layer, joined afterwards."""
    layer: str | None = None
    """Which layer (single); null for the last one."""
    reduction: Literal["kernel-pca", "pca"] = "kernel-pca"
    """Of degree 4 as published, or linear."""
    n_components: int = 1000
    """How many components EEG is predicted from, at most one fewer than training pictures."""
    semantics: Literal["as_run", "corrected"] = "corrected"
    """Which of the joined components are kept (appended): the first ones, or an equal share of every layer's."""
    penalty: float = 0.0
    """Of ridge regression, in mean variances of a component; 0 for ordinary least squares."""
    subjects: tuple[str, ...] = ()
    """Whose responses are told apart, each with a regression of its own; none for one on everybody's mean."""
    n_pictures: int = 16540
    """Training pictures, from which the components come."""

    def __post_init__(self) -> None:
        check_least(self, 1, "n_components")
        check_least(self, 0, "penalty")
        check_least(self, 2, "n_pictures")
        if self.layer is not None and self.layers != "single":
            raise UsageError(f"layer must be null unless layers='single', but is {self.layer!r} with {self.layers!r}.")

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Layers by what is reduced together, as far as components of it are kept."""
        every = tuple(widths(self.backbone))
        if self.layers == "single":
            return ((self.layer or every[-1],),)
        if self.layers == "all":
            return (every,)
        return tuple((layer,) for layer, share in zip(every, self._shares(every), strict=True) if share)

    @property
    def shares(self) -> tuple[int, ...]:
        """How many components each of ``parts`` gives."""
        if self.layers == "appended":
            return tuple(share for share in self._shares(tuple(widths(self.backbone))) if share)
        return (min(self.n_components, self._most(self.parts[0])),)

    def _shares(self, layers: tuple[str, ...]) -> list[int]:
        left, shares = self.n_components, []
        for place, layer in enumerate(layers):
            even = left if self.semantics == "as_run" else -(-left // (len(layers) - place))
            shares.append(min(even, self._most((layer,))))
            left -= shares[-1]
        return shares

    def _most(self, layers: tuple[str, ...]) -> int:
        """Centred pictures span one dimension fewer than there are; linear components span no more than features."""
        features = sum(widths(self.backbone)[layer] for layer in layers)
        return self.n_pictures - 1 if self.reduction == "kernel-pca" else min(self.n_pictures - 1, features)


class Reducer(nn.Module):
    """Features → principal components: standardised, then projected.

    With the kernel, ``basis`` holds the standardised training pictures, and ``weights`` what each of them adds to a
    component; without, ``basis`` holds the components themselves.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor
    weights: Tensor
    level: Tensor

    def __init__(self, n_features: int, n_components: int, n_pictures: int, *, kernel: bool) -> None:
        super().__init__()
        self.kernel, self.n_components = kernel, n_components
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("basis", torch.randn(n_pictures if kernel else n_components, n_features))
        if kernel:
            self.register_buffer("weights", torch.randn(n_pictures, n_components) / n_pictures)
            self.register_buffer("level", torch.zeros(n_pictures))

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_features) → (n, n_components); products are summed in float64."""
        products = _products((features - self.mean) / self.scale, self.basis)
        if not self.kernel:
            return products.float()
        gram = polynomial(products, self.basis.shape[1])
        centred = gram - gram.mean(1, keepdim=True) - self.level + self.level.mean()
        components: Tensor = (centred @ self.weights.double()).float()
        return components

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take mean, deviation and components from training pictures, (n_pictures, n_features)."""
        deviation, mean = torch.std_mean(features, dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        standard = (features - self.mean) / self.scale
        gram = _products(standard, standard)
        if self.kernel:
            gram = polynomial(gram, standard.shape[1])
        values, vectors = principal(gram.cpu().numpy(), self.n_components)
        weights = torch.from_numpy(_per_root(vectors, values)).to(gram.device)
        if self.kernel:
            self.basis.copy_(standard)
            self.weights.copy_(weights)
            self.level.copy_(gram.mean(0))
        else:
            self.basis.copy_(_products(weights.T, standard.T))


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products of rows in float64, (n, m), block by block, since whole rows in float64 may be too large."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for at in range(0, a.shape[1], BLOCK):
        total += a[:, at : at + BLOCK].double() @ b[:, at : at + BLOCK].double().T
    return total


def polynomial(products: Any, n_features: int) -> Any:
    """Kernel of degree 4 from scalar products: (x · y / n_features + 1)⁴, as scikit-learn computes it by default."""
    return (products / n_features + OFFSET) ** DEGREE


def principal(gram: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest eigenvalues of a centred Gram matrix and its eigenvectors, the largest entry of each positive.

    Scores of the training pictures are vectors times roots of values; a value that is 0 within rounding is 0.

    Shape:
        gram: (n, n), centred here; returns (k,), largest first, and (n, k).
    """
    from scipy.linalg import eigh

    n = len(gram)
    level = gram.mean(0)
    centred = gram - level - level[:, None] + level.mean()
    values, vectors = eigh(centred, subset_by_index=(n - k, n - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(k)])
    return np.where(values > 1e-10 * values[0], values, 0.0), vectors


def _per_root(vectors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Eigenvectors over the roots of their values; nothing of those that are 0."""
    root = np.sqrt(values)
    weights: np.ndarray = np.divide(vectors, root, out=np.zeros_like(vectors), where=root > 0)
    return weights


def solve(predictors: np.ndarray, targets: np.ndarray, *, penalty: float = 0.0) -> np.ndarray:
    """Coefficients of a linear regression of all targets at once, the intercept first and never penalised; float64.

    Least squares by a singular value decomposition, so that of solutions that fit equally well it is the smallest; with
    a penalty λ that of Σ (y - ŷ)² + λ · n · v · Σ β², where v is the mean variance of the predictors.

    Shape:
        predictors: (n, k); targets: (n, m); returns (1 + k, m).
    """
    x, y = np.asarray(predictors, np.float64), np.asarray(targets, np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    if penalty:
        inner = x.T @ x
        beta = np.linalg.solve(inner + penalty * np.trace(inner) / len(inner) * np.eye(len(inner)), x.T @ y)
    else:
        beta = np.linalg.lstsq(x, y, rcond=None)[0]
    return np.concatenate([(mean_y - mean_x @ beta)[None], beta])


class LinearEncoding(EncodingModel):
    """Backbone, components, and a regression for each person."""

    def __init__(self, spec: EEGSpec, config: LinearEncodingConfig) -> None:
        super().__init__(spec, config)
        self.config: LinearEncodingConfig = config
        self.subjects = config.subjects
        kernel = config.reduction == "kernel-pca"
        sizes = widths(config.backbone)
        self.backbone = Backbone(config.backbone, tuple(layer for part in config.parts for layer in part))
        self.resolution = self.backbone.card.size
        self.reducer = nn.ModuleList(
            Reducer(sum(sizes[layer] for layer in part), share, config.n_pictures, kernel=kernel)
            for part, share in zip(config.parts, config.shares, strict=True)
        )
        n_out = spec.n_channels * spec.n_times
        people = max(1, len(config.subjects))
        self.readout = nn.ModuleList(nn.Linear(sum(config.shares), n_out) for _ in range(people))

    def parts(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "reducer": self.reducer, "readout": self.readout}

    def see(self, images: Tensor) -> Tensor:
        """Components of pictures: (n, 3, size, size) in [0, 1] → (n, n_components)."""
        found = self.features(images)
        return torch.cat([reducer(part) for reducer, part in zip(self.reducer, found, strict=True)], dim=1)

    def features(self, images: Tensor) -> list[Tensor]:
        """What is reduced: (n, n_features) for each of the config's parts."""
        seen = self.backbone(images)
        return [torch.cat([seen[layer] for layer in part], dim=1) for part in self.config.parts]

    def respond(self, seen: Tensor, subject: str | None = None) -> Tensor:
        known = [self.subjects.index(subject)] if subject in self.subjects else range(len(self.readout))
        made = torch.stack([self.readout[row](seen) for row in known]).mean(0)
        return made.view(-1, self.spec.n_channels, self.spec.n_times)


class Regression(Recipe):
    """Closed form: the components first, then a regression a step."""

    name = "regression"

    def __init__(self, model: LinearEncoding, data: TrainingData) -> None:
        if len(data.images) != model.config.n_pictures:
            raise UsageError(
                f"n_pictures must be the number of training pictures, {len(data.images)}, but is "
                f"{model.config.n_pictures}; leave it out."
            )
        self.model, self.data = model, data
        self.n_steps = 1 + len(model.readout)

    def modules(self) -> dict[str, nn.Module]:
        return {"readout": self.model.readout, "reducer": self.model.reducer, "backbone": self.model.backbone}

    def optimizers(self) -> dict[str, Optimizer]:
        return {}

    @torch.no_grad()
    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        if step == 0:
            for place, reducer in enumerate(self.model.reducer):
                assert isinstance(reducer, Reducer)
                reducer.fit(torch.cat([self.model.features(images)[place] for images in self._images()]))
            return {}
        readout = self.model.readout[step - 1]
        assert isinstance(readout, nn.Linear)
        person = self.model.subjects[step - 1] if self.model.subjects else None
        responses, shown = mean_responses(self.data, person)
        predictors, targets = self._components[shown], responses.reshape(len(responses), -1)
        beta = solve(predictors, targets, penalty=self.model.config.penalty)
        readout.bias.copy_(torch.from_numpy(beta[0]))
        readout.weight.copy_(torch.from_numpy(beta[1:].T))
        left = targets - predictors @ beta[1:] - beta[0]
        return {"unexplained": float((left**2).sum() / ((targets - targets.mean(0)) ** 2).sum())}

    @cached_property
    def _components(self) -> np.ndarray:
        return torch.cat([self.model.see(images) for images in self._images()]).double().cpu().numpy()

    def _images(self) -> Iterator[Tensor]:
        size, device = self.model.micro_batch, device_of(self.model)
        for at in range(0, len(self.data.images), size):
            yield self.model.pixels(list(self.data.images[at : at + size])).to(device)


def build(spec: EEGSpec, **overrides: Any) -> LinearEncoding:
    """A model without a regression yet; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``LinearEncodingConfig``, or there is no such network or layer.
    """
    return LinearEncoding(spec, configure(LinearEncodingConfig, overrides))


def recipes(
    model: LinearEncoding, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """One solve; neither seed nor validation decides anything in it, except for the weights of an untrained network.

    Raises:
        MissingError: The network's weights are not here and cannot be fetched.
        UsageError: There are no pictures.
    """
    if model.config.pretrained:
        model.backbone.load()
    return [Regression(model, data)]

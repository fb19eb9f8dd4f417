"""Pairwise convolutional networks and the decision forest that was announced behind them and never published.

From "Extracting-Image-from-EEG-signals" (commit e959db6, 2020; see ``mindbigdata_lstm``), not used here. Its notebook
trains one small network for two digits: is a trial of the first, of the second, or of another one, for which a seventh
of every other digit stands? Its README announces "sparse networks with decision forest": more than 50 such networks,
with means and deviations of the signals, feed a forest. **There is no code of it and no number.** As published are the
network, its three classes and its training. **Ours** is the rest: one network for every pair of classes (45 of ten),
their 135 probabilities and 28 statistics, scikit-learn's random forest on the training role, its size, and that it is
kept as tensors, so that nothing has to be unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.models.base import Classifier
from zoo.models.cvpr_lstm import measure, require_training
from zoo.models.epoc import KerasBatchNorm, glorot
from zoo.models.layers import Scaled, check_least, configure, epoch_batch, steps_per_epoch
from zoo.models.mindbigdata_lstm import DigitTrainingConfig, make_optimizer
from zoo.models.perceivelab import require_classes
from zoo.models.recipes import device_of, encode_rows, trials_of, update
from zoo.specs import EEGSpec
from zoo.stats import keyed_rng
from zoo.training import ClosedForm, Recipe, TrainingData

FIRST, SECOND, OTHER = range(3)
"""What a network of two classes tells apart."""
POOLED = 4 * 2
"""Samples that become one."""


@dataclass(frozen=True)
class SparseForestConfig(DigitTrainingConfig):
    filters: tuple[int, int] = (128, 256)
    """Filters of the two convolutions."""
    kernel: int = 11
    """Samples that a filter sees, an odd number."""
    hidden_units: int = 10
    """Units between the convolutions and the three classes."""
    others: int = 7
    """Of every other class, one in so many trials stands for "another one"."""
    n_trees: int = 100
    """Trees of the forest (ours)."""
    max_leaf_nodes: int = 256
    """Leaves of a tree at most (ours): tables of trees have a fixed size."""
    max_depth: int = 16
    """Questions on the way to a leaf at most (ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "hidden_units", "others", "n_trees", "max_depth")
        check_least(self, 2, "n_classes", "max_leaf_nodes")
        if min(self.filters) < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise UsageError(
                f"filters must be at least 1 and kernel odd, but they are {self.filters} and {self.kernel}."
            )


class PairNet(nn.Module):
    """(n, n_channels, n_times) → logits of first, second, another: (n, 3)."""

    def __init__(self, n_channels: int, n_times: int, config: SparseForestConfig) -> None:
        super().__init__()
        if n_times < POOLED:
            raise UsageError(
                f"the pairwise networks need trials of at least {POOLED} samples, but they have {n_times}."
            )
        first, second = config.filters
        self.norm1, self.norm2 = KerasBatchNorm(n_channels), KerasBatchNorm(first)
        self.conv1 = nn.Conv1d(n_channels, first, config.kernel, padding="same")
        self.conv2 = nn.Conv1d(first, second, config.kernel, padding="same")
        self.dense1 = nn.Linear(n_times // POOLED * second, config.hidden_units)
        self.dense2 = nn.Linear(config.hidden_units, 3)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.avg_pool1d(self.conv1(self.norm1(x)).tanh(), 4), 0.5, self.training)
        x = F.dropout(F.avg_pool1d(self.conv2(self.norm2(x)).tanh(), 2), 0.25, self.training)
        made: Tensor = self.dense2(F.elu(self.dense1(x.transpose(1, 2).flatten(1))))
        return made


class Pairs(nn.Module):
    """What all networks say, and mean and deviation of every channel: (n, n_times, n_channels) → (n, n_features)."""

    def __init__(self, n_channels: int, n_times: int, config: SparseForestConfig) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(
            {f"{a}-{b}": PairNet(n_channels, n_times, config) for a, b in combinations(range(config.n_classes), 2)}
        )
        self.n_features = 3 * len(self.nets) + 2 * n_channels

    def forward(self, x: Tensor) -> Tensor:
        trial = x.transpose(1, 2)
        said = [net(trial).softmax(dim=1) for net in self.nets.values()]
        wide = trial.double()
        moments = [wide.mean(dim=2).to(trial), wide.std(dim=2, correction=0).to(trial)]
        return torch.cat([*said, *moments], dim=1)


class Forest(nn.Module):
    """A random forest as tables: row k of a tree asks whether a feature is at most a threshold, then where to go.

    A leaf leads to itself. Before it is fitted every tree is one leaf in which all classes are equal.

    Shape of tables:
        (n_trees, n_nodes); ``share``: (n_trees, n_nodes, n_classes), classes of the training trials in a node.
    """

    def __init__(self, config: SparseForestConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.n_trees, 2 * config.max_leaf_nodes - 1
        self.feature: Tensor
        self.threshold: Tensor
        self.left: Tensor
        self.right: Tensor
        self.share: Tensor
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("share", torch.full((*shape, config.n_classes), 1 / config.n_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Mean share of every class over trees: (n, n_features) → (n, n_classes), rows sum to 1."""
        tree = torch.arange(self.config.n_trees, device=features.device)
        node = torch.zeros(len(features), self.config.n_trees, dtype=torch.int64, device=features.device)
        for _ in range(self.config.max_depth):
            asked = features.gather(1, self.feature[tree, node])
            node = torch.where(asked <= self.threshold[tree, node], self.left[tree, node], self.right[tree, node])
        return self.share[tree, node].mean(dim=1)

    @torch.no_grad()
    def fit(self, features: np.ndarray, labels: np.ndarray, seed: int) -> None:
        """Grow scikit-learn's random forest and keep its tables.

        Shape:
            features: (n, n_features) float32; labels: (n,) in 0 … n_classes - 1.
        """
        from sklearn.ensemble import RandomForestClassifier

        config = self.config
        grown = RandomForestClassifier(
            config.n_trees, max_leaf_nodes=config.max_leaf_nodes, max_depth=config.max_depth, random_state=seed
        ).fit(features, labels)
        self.share.zero_()
        for i, found in enumerate(tree.tree_ for tree in grown.estimators_):
            here, leaf = np.arange(found.node_count), found.children_left < 0
            for table, values in (
                (self.feature, np.where(leaf, 0, found.feature)),
                (self.threshold, found.threshold),
                (self.left, np.where(leaf, here, found.children_left)),
                (self.right, np.where(leaf, here, found.children_right)),
            ):
                table[i, : here.size] = torch.from_numpy(values).to(table)
            shares = found.value[:, 0] / found.value[:, 0].sum(axis=1, keepdims=True)
            self.share[i, : here.size, torch.from_numpy(grown.classes_)] = torch.from_numpy(shares).to(self.share)


class SparseCNNForest(Classifier):
    """A network for every pair of classes, and a forest on what they say."""

    micro_batch: ClassVar[int] = 128

    def __init__(self, spec: EEGSpec, config: SparseForestConfig) -> None:
        super().__init__(spec, config)
        self.config: SparseForestConfig = config
        self.n_classes = config.n_classes
        pairs = Pairs(spec.n_channels, spec.n_times, config)
        self.encoder = pairs if config.eeg_scaling == "none" else Scaled(pairs, spec.n_channels)
        self.forest = Forest(config)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "forest": self.forest}

    def pairs(self) -> Pairs:
        """The pairwise networks, without what scales their input."""
        found = self.encoder.network if isinstance(self.encoder, Scaled) else self.encoder
        assert isinstance(found, Pairs)
        return found

    def encode(self, eeg: Tensor) -> Tensor:
        """Probabilities of all networks, then means and deviations of channels: (n_trials, n_features)."""
        features: Tensor = self.encoder(eeg.transpose(1, 2))
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Shares of the classes in the forest: (n, n_features) → (n, n_classes), rows sum to 1."""
        found: Tensor = self.forest(features)
        return found


class PairRecipe(Recipe):
    """Cross-entropy of one network on its two classes and a part of the others."""

    ties: Literal["earlier", "later"] = "later"

    def __init__(
        self,
        model: SparseCNNForest,
        data: TrainingData,
        pair: tuple[int, int],
        *,
        seed: int,
        select: Literal["val", "last"],
    ) -> None:
        self.name, self.key = f"pair-{pair[0]}-{pair[1]}", ("sparse-cnn-forest", seed, *pair)
        self.model, self.data, self.config = model, data, model.config
        self.net = model.pairs().nets[f"{pair[0]}-{pair[1]}"]
        self.optimizer = make_optimizer(model.config, list(self.net.parameters()))
        self.train, self.train_labels = self._task(data.train, pair, "train")
        self.val, self.val_labels = self._task(data.val, pair, "val")
        epoch = steps_per_epoch(len(self.train), self.config.encoder_batch_size)
        steps = self.config.encoder_steps
        self.n_steps = 0 if not len(self.train) else steps if steps is not None else self.config.encoder_epochs * epoch
        if select == "val" and len(self.val):
            self.eval_every = epoch

    def _task(self, rows: np.ndarray, pair: tuple[int, int], role: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the three-class problem, in order, and what each is: first, second or another."""
        labels, chosen = np.asarray(self.data.labels[rows]), []
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            if label not in pair:
                rng = keyed_rng(*self.key, role, int(label))
                mine = rng.permutation(mine)[: len(mine) // self.config.others]
            chosen.append(mine)
        kept = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *chosen]))
        return rows[kept], np.select([labels[kept] == pair[0], labels[kept] == pair[1]], [FIRST, SECOND], OTHER)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"net": self.optimizer}

    def _logits(self, rows: np.ndarray) -> Tensor:
        eeg = trials_of(self.data, rows, device_of(self.model)).transpose(1, 2)
        if isinstance(self.model.encoder, Scaled):
            eeg = self.model.encoder.scaled(eeg)
        made: Tensor = self.net(eeg.transpose(1, 2))
        return made

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        batch = epoch_batch(step, n=len(self.train), batch_size=self.config.encoder_batch_size, key=self.key)
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        self.net.train()
        labels = torch.from_numpy(self.train_labels[batch]).to(device_of(self.model))
        loss = F.cross_entropy(self._logits(self.train[batch]), labels)
        update(self.optimizer, loss, self.net)
        return {"cross_entropy": loss.item()}

    @torch.no_grad()
    def validate(self) -> float:
        """Accuracy on the three-class problem of the validation role."""
        self.net.eval()
        parts = np.array_split(self.val, steps_per_epoch(len(self.val), 256))
        guess = torch.cat([self._logits(part).argmax(dim=1) for part in parts]).cpu().numpy()
        return float(np.mean(guess == self.val_labels))


class ForestRecipe(ClosedForm):
    """The forest, on what the trained networks say of the training trials."""

    name = "forest"

    def __init__(self, model: SparseCNNForest, data: TrainingData) -> None:
        self.model, self.data = model, data

    def modules(self) -> dict[str, nn.Module]:
        """The networks too, which it reads: by now they are trained."""
        return self.model.parts()

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        labels = np.asarray(self.data.labels[self.data.train])
        features = encode_rows(self.model, self.data, self.data.train)
        self.model.forest.fit(features.cpu().numpy(), labels, int(rng.integers(2**31)))
        found = self.model.logits(features).argmax(dim=1).cpu().numpy()
        return {"training error": float(np.mean(found != labels))}


def build(spec: EEGSpec, **overrides: Any) -> SparseCNNForest:
    """An untrained classifier for these recordings; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``SparseForestConfig``, its value is not possible, or trials are shorter
            than 8 samples.
    """
    return SparseCNNForest(spec, configure(SparseForestConfig, overrides))


def recipes(
    model: SparseCNNForest, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """One phase per pair of classes of the dataset, then the forest.

    Raises:
        UsageError: The train role is empty, or the dataset has more classes than the forest.
    """
    require_classes(model, data)
    require_training(data)
    measure(model.encoder, data, device_of(model))
    pairs = combinations(range(data.n_classes), 2)
    return [*(PairRecipe(model, data, pair, seed=seed, select=select) for pair in pairs), ForestRecipe(model, data)]

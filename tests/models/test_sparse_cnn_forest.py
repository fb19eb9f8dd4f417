"""Pairwise networks and the forest on them: counts, the three-class task, scikit-learn's forest as tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

import zoo
from tests.models.resuming import check_resuming
from zoo.errors import UsageError
from zoo.models.sparse_cnn_forest import (
    Forest,
    ForestRecipe,
    PairRecipe,
    SparseCNNForest,
    SparseForestConfig,
    build,
    recipes,
)
from zoo.registry import PACKAGE, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import TrainingData, fit

CARDS = {card.id: card for card in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/sparse_cnn_forest.yaml"))}
NARROW: dict[str, Any] = {
    "n_classes": 4,
    "filters": [6, 8],
    "kernel": 5,
    "n_trees": 20,
    "max_leaf_nodes": 16,
    "optimizer": "adam",
    "encoder_lr": 0.01,
    "encoder_batch_size": 12,
    "encoder_steps": 40,
}


def spec(n_channels: int = 3, n_times: int = 40) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=128, tmin=0, n_times=n_times, unit="a.u.")


def built(**overrides: Any) -> SparseCNNForest:
    torch.manual_seed(0)
    return build(spec(), **{**NARROW, **overrides}).eval()


def training_data(n: int = 96, n_classes: int = 4, n_val: int = 24) -> TrainingData:
    """Each class a frequency of its own."""
    labels = np.arange(n) % n_classes
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(40) * 0.2 * (1 + labels[:, None, None]) + rng.uniform(0, 6, (n, 1, 1)))
    eeg = (wave + 0.3 * rng.standard_normal((n, 3, 40))).astype(np.float32)
    return TrainingData(eeg, labels, train=np.arange(n - n_val), val=np.arange(n - n_val, n), n_classes=n_classes)


def pair_recipe(recipe: Any) -> PairRecipe:
    assert isinstance(recipe, PairRecipe)
    return recipe


def test_a_network_has_the_parameters_of_the_notebook() -> None:
    eeg = CARDS["sparse-cnn-forest"].eeg
    assert eeg is not None
    with torch.device("meta"):
        model = build(eeg, **CARDS["sparse-cnn-forest"].preset)
    net = model.pairs().nets["3-7"]
    sizes = {
        name: sum(p.numel() for p in layer.parameters())
        + sum(b.numel() for key, b in layer.named_buffers() if "running" in key)
        for name, layer in net.named_children()
    }
    assert sizes == {
        "norm1": 56,
        "norm2": 512,
        "conv1": 19_840,
        "conv2": 360_704,
        "dense1": 81_930,
        "dense2": 33,
    }
    assert sum(sizes.values()) == 463_075
    assert len(model.pairs().nets) == 45
    assert model.pairs().n_features == 135 + 28


def test_a_pair_is_told_apart_from_a_seventh_of_every_other_class() -> None:
    n = 700
    labels = np.repeat(np.arange(10), n)
    data = TrainingData(np.zeros((10 * n, 1, 8), np.float32), labels, np.arange(10 * n), np.zeros(0, int), n_classes=10)
    torch.manual_seed(0)
    model = build(spec(1, 8), filters=[1, 1], n_trees=1)
    recipe = PairRecipe(model, data, (2, 5), seed=0, select="val")
    assert np.bincount(recipe.train_labels).tolist() == [700, 700, 800]  # 8 classes, a seventh of each
    assert 0.36 < np.mean(recipe.train_labels == 2) < 0.37  # what always saying "another one" scores
    true = labels[recipe.train]
    assert set(true[recipe.train_labels == 0]) == {2}
    assert set(true[recipe.train_labels == 1]) == {5}
    assert np.bincount(true[recipe.train_labels == 2]).tolist() == [100, 100, 0, 100, 100, 0, 100, 100, 100, 100]
    assert recipe.eval_every is None  # nothing to validate on
    again = PairRecipe(model, data, (2, 5), seed=0, select="val")
    assert np.array_equal(again.train, recipe.train)
    assert recipe.n_steps == 3000 * 9  # of 2200 trials in batches of 256


def test_features_are_probabilities_and_moments() -> None:
    model, eeg = built(), torch.from_numpy(training_data().eeg[:5])
    with torch.no_grad():
        features = model.encode(eeg)
    assert features.shape == (5, 3 * 6 + 2 * 3)
    torch.testing.assert_close(features[:, :18].view(5, 6, 3).sum(dim=2), torch.ones(5, 6))
    np.testing.assert_allclose(features[:, 18:21], eeg.numpy().mean(axis=2), atol=1e-6)
    np.testing.assert_allclose(features[:, 21:], eeg.numpy().std(axis=2), atol=1e-6)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 2, 3]])
def test_tables_say_what_scikit_learns_forest_says(kept: list[int]) -> None:
    """To 1e-6: its means are of float64 and ours of float32."""
    rng = np.random.default_rng(0)
    labels = rng.choice(kept, size=300)
    features = (rng.standard_normal((300, 7)) + 0.7 * np.eye(7)[labels]).astype(np.float32)
    config = SparseForestConfig(n_classes=4, n_trees=30, max_leaf_nodes=24, max_depth=6)
    forest = Forest(config)
    assert torch.equal(forest(torch.from_numpy(features)), torch.full((300, 4), 0.25))
    forest.fit(features, labels, seed=3)
    theirs = RandomForestClassifier(30, max_leaf_nodes=24, max_depth=6, random_state=3).fit(features, labels)
    asked = rng.standard_normal((500, 7)).astype(np.float32)
    wanted = np.zeros((500, 4))
    wanted[:, kept] = theirs.predict_proba(asked)
    found = forest(torch.from_numpy(asked)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert forest.share.dtype == torch.float32
    assert len(np.unique(found, axis=0)) > 100


def test_it_learns_and_knows_more_than_its_networks(tmp_path: Path) -> None:
    data, model = training_data(), built()
    phases = recipes(model, data, seed=0)
    assert [recipe.name for recipe in phases] == [
        "pair-0-1",
        "pair-0-2",
        "pair-0-3",
        "pair-1-2",
        "pair-1-3",
        "pair-2-3",
        "forest",
    ]
    for recipe in phases:
        fit(recipe, tmp_path, seed=0)
    with torch.no_grad():
        right = model.eval().classify(torch.from_numpy(data.eeg[data.val])).argmax(dim=1).numpy()
    assert np.mean(right == data.labels[data.val]) > 0.6  # chance is 1/4; of 24


def test_a_network_and_the_forest_resume_to_the_same_bits(tmp_path: Path) -> None:
    data = training_data()

    def pair() -> tuple[SparseCNNForest, PairRecipe]:
        model = built(encoder_steps=6)
        return model, pair_recipe(recipes(model, data, seed=0)[2])

    assert check_resuming(pair, tmp_path) == {"encoder"}
    states = []
    for _ in range(2):  # the second time from what the first one wrote
        model = built(encoder_steps=6)
        for recipe in recipes(model, data, seed=0):
            fit(recipe, tmp_path / "all", seed=0)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["forest.share"], built().forest.share)


def test_a_dataset_of_fewer_classes_leaves_networks_untrained(tmp_path: Path) -> None:
    data, model = training_data(n_classes=3), built()
    assert [recipe.name for recipe in recipes(model, data, seed=0)][:-1] == ["pair-0-1", "pair-0-2", "pair-1-2"]
    start = {key: value.clone() for key, value in model.state_dict().items()}
    for recipe in recipes(model, data, seed=0):
        fit(recipe, tmp_path, seed=0)
    moved = {
        key.split(".")[2]
        for key, value in model.state_dict().items()
        if "nets" in key and not torch.equal(value, start[key])
    }
    assert moved == {"0-1", "0-2", "1-2"}
    with torch.no_grad():
        assert not model.classify(torch.from_numpy(data.eeg))[:, 3].any()


def test_it_trains_saves_and_loads_as_any_other() -> None:
    small: dict[str, Any] = {"encoder_steps": 15, "n_trees": 5, "filters": [3, 4]}
    zoo.train("sparse-cnn-forest.small", "phantom", overrides=small, device="cpu")
    model = zoo.load("sparse-cnn-forest.small")
    assert isinstance(model, SparseCNNForest)
    assert model.n_classes == 6
    data = zoo.datasets.base.load("phantom")
    rows = np.flatnonzero(data.roles(data.split()) == "test")
    with torch.no_grad():
        named = model.classify(torch.from_numpy(np.array(data.eeg[rows]))).argmax(dim=1).numpy()
    assert np.mean(named == data.labels[rows]) > 0.3  # chance is 1/6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kernel": 4}, "filters must be at least 1 and kernel odd, but they are (6, 8) and 4."),
        ({"n_classes": 1}, "n_classes must be at least 2, but is 1."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        built(**overrides)


def test_trials_that_pool_to_nothing_are_refused() -> None:
    message = "the pairwise networks need trials of at least 8 samples, but they have 7."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(spec(3, 7))


def test_the_forest_is_the_last_phase_and_needs_one_step() -> None:
    last = recipes(built(), training_data(), seed=0)[-1]
    assert isinstance(last, ForestRecipe)
    assert last.n_steps == 1
    assert last.optimizers() == {}

"""Linearizing encoding: against arrays of its authors, closed forms, and a map that it must recover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import small_things
from zoo import registry, weights
from zoo.backbones import Backbone, backbone_card, widths
from zoo.datasets import phantom_things
from zoo.errors import UsageError
from zoo.metrics.base import extractor_card
from zoo.metrics.features import load_extractor
from zoo.models.linear_encoding import (
    LinearEncoding,
    LinearEncodingConfig,
    Reducer,
    build,
    polynomial,
    principal,
    recipes,
    solve,
)
from zoo.models.recipes import mean_responses
from zoo.specs import EEGSpec
from zoo.training import TrainingData, fit

SPEC = EEGSpec(ch_names=("O1", "Oz", "O2"), sfreq=100, tmin=-0.1, n_times=5, unit="a.u.")
TINY = {"backbone": "timm:test_efficientnet", "pretrained": False}


def shown(n_pictures: int = 12, repetitions: int = 3, subjects: tuple[str, ...] = ("01", "02")) -> TrainingData:
    """Pictures of one size, each shown to everybody; EEG is noise."""
    rng = np.random.default_rng(0)
    image_of = np.tile(np.repeat(np.arange(n_pictures), repetitions), len(subjects))
    who = np.repeat(subjects, n_pictures * repetitions)
    return TrainingData(
        eeg=rng.standard_normal((image_of.size, 3, 5)).astype(np.float32),
        labels=image_of % 4,
        train=np.arange(image_of.size),
        val=np.zeros(0, dtype=np.int64),
        n_classes=4,
        images=[rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(n_pictures)],
        image_labels=np.arange(n_pictures) % 4,
        image_of_trial=image_of,
        subjects=who,
    )


# ---- against the authors' functions


@pytest.mark.parity
def test_the_solve_gives_their_coefficients_and_predictions(shared: Path) -> None:
    with np.load(shared / "fixtures" / "gifford_encoding.npz") as theirs:
        beta = solve(theirs["ols_Xtr"], theirs["ols_ytr"])
        assert beta == pytest.approx(theirs["ols_beta"], abs=1e-6)  # theirs are of float32
        made = theirs["ols_Xte"] @ beta[1:] + beta[0]
        assert made.reshape(theirs["ols_pred"].shape) == pytest.approx(theirs["ols_pred"], abs=1e-5)


@pytest.mark.parity
def test_kernel_components_are_theirs_but_for_the_sign(shared: Path) -> None:
    with np.load(shared / "fixtures" / "gifford_encoding.npz") as theirs:
        train, test = theirs["kpca_train"], theirs["kpca_test"]
        standard = (train - train.mean(0)) / train.std(0)
        values, vectors = principal(polynomial(standard @ standard.T, train.shape[1]), 8)
        assert values == pytest.approx(theirs["kpca_eigenvalues"], rel=1e-9)
        assert np.abs(vectors * np.sqrt(values)) == pytest.approx(theirs["kpca_train_pc_abs"], abs=1e-8)
        reducer = Reducer(20, 8, 50, kernel=True)
        reducer.fit(torch.from_numpy(train).float())
        made = reducer(torch.from_numpy(test).float()).numpy()
        assert np.abs(made) == pytest.approx(theirs["kpca_test_pc_abs"], abs=1e-4)  # the pictures are kept in float32
        gram = vectors * np.sqrt(values) @ (vectors * np.sqrt(values)).T
        assert gram == pytest.approx(theirs["kpca_train_gram"], abs=1e-7)
        assert made @ (vectors * np.sqrt(values)).T == pytest.approx(theirs["kpca_cross_gram"], abs=1e-3)


# ---- components and regressions


@pytest.mark.parametrize("kernel", [False, True])
def test_components_are_those_of_scikit_learn(kernel: bool) -> None:
    from sklearn.decomposition import PCA, KernelPCA

    rng = np.random.default_rng(1)
    train, test = (rng.standard_normal((n, 9)) @ rng.standard_normal((9, 9)) + 3 for n in (40, 7))
    reducer = Reducer(9, 5, 40, kernel=kernel)
    reducer.fit(torch.from_numpy(train).float())
    mean, scale = train.mean(0), train.std(0)
    theirs = KernelPCA(5, kernel="poly", degree=4) if kernel else PCA(5)
    theirs.fit((train - mean) / scale)
    wanted = np.abs(theirs.transform((test - mean) / scale))
    assert np.abs(reducer(torch.from_numpy(test).float()).numpy()) == pytest.approx(wanted, abs=2e-4 * wanted.max())


def test_a_constant_feature_and_too_many_components_do_no_harm() -> None:
    features = torch.randn(6, 4)
    features[:, 1] = 2.0
    for kernel in (False, True):
        reducer = Reducer(4, 3 if not kernel else 5, 6, kernel=kernel)
        reducer.fit(features)
        assert reducer(features).isfinite().all()
    values, _ = principal(np.ones((6, 6)), 3)
    assert (values == 0).all()


def test_ridge_shrinks_and_least_squares_is_its_limit() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((30, 4)) + 5, rng.standard_normal((30, 6)) - 2
    plain, none = solve(x, y), solve(x, y, penalty=1e-12)
    assert none == pytest.approx(plain, abs=1e-8)
    assert plain == pytest.approx(np.linalg.lstsq(np.c_[np.ones(30), x], y, rcond=None)[0], abs=1e-10)
    sizes = [np.linalg.norm(solve(x, y, penalty=penalty)[1:]) for penalty in (0, 0.1, 1, 1e6)]
    assert sizes == sorted(sizes, reverse=True)
    assert solve(x, y, penalty=1e12)[0] == pytest.approx(y.mean(0), abs=1e-6)  # the intercept is not shrunk


def test_appended_layers_keep_the_first_ones_or_an_equal_share() -> None:
    def config(n: int, semantics: str) -> LinearEncodingConfig:
        return LinearEncodingConfig(**TINY, layers="appended", n_components=n, n_pictures=30, semantics=semantics)  # type: ignore[arg-type]

    as_run, corrected = config(20, "as_run"), config(20, "corrected")
    assert (as_run.parts, as_run.shares) == ((("blocks0",),), (20,))  # the first layer alone, as released
    assert [part for (part,) in corrected.parts] == [*widths("timm:test_efficientnet")]
    assert corrected.shares == (4, 4, 3, 3, 3, 3)
    assert config(1000, "as_run").shares == config(1000, "corrected").shares == (29,) * 6


@pytest.mark.parametrize("layers", ["all", "single", "appended"])
def test_every_person_gets_a_regression_of_their_own(layers: str, tmp_path: Path) -> None:
    data = shown()
    config = {**TINY, "layers": layers, "n_components": 6, "n_pictures": 12, "subjects": ["01", "02"]}
    model = build(SPEC, **config, reduction="pca")
    (recipe,) = recipes(model, data, seed=0)
    fitted = fit(recipe, tmp_path, seed=0)
    assert fitted.step == recipe.n_steps == 3
    with torch.no_grad():
        seen = model.see(model.pixels(data.images)).double().numpy()
    assert seen.shape == (12, 6)
    for subject in ("01", "02"):
        mean = data.eeg[data.subjects == subject].reshape(12, 3, -1).mean(1, dtype=np.float64)
        beta = solve(seen, mean)
        made = model.predict(model.pixels(data.images), subject).detach().numpy().reshape(12, -1)
        assert made == pytest.approx(seen @ beta[1:] + beta[0], abs=1e-5)
    both = model.predict(model.pixels(data.images), "03").detach().numpy().reshape(12, -1)
    beta = solve(seen, data.eeg.reshape(2, 12, 3, -1).mean((0, 2), dtype=np.float64))
    assert both == pytest.approx(seen @ beta[1:] + beta[0], abs=1e-5)  # between: a regression on the others' mean


def test_where_only_the_class_is_known_every_picture_of_it_has_the_mean_of_the_class() -> None:
    data = shown(subjects=("01",))
    by_class = TrainingData(**{**vars(data), "image_of_trial": np.full(len(data.labels), -1)})
    responses, pictures = mean_responses(by_class, "01")
    assert pictures.tolist() == list(range(12))
    for row, label in enumerate(data.image_labels):  # type: ignore[arg-type]
        assert responses[row] == pytest.approx(data.eeg[data.labels == label].mean(0, dtype=np.float64), abs=1e-7)
    with pytest.raises(UsageError) as error:
        mean_responses(data, "09")
    assert str(error.value) == (
        "an encoding model needs train trials of subject 09 with known pictures, but there are none; "
        "prepare the dataset with pictures."
    )


# ---- networks


def test_parameters_are_counted_as_published() -> None:
    with torch.device("meta"):
        model = weights.build(registry.models.get("linear-encoding"), registry.datasets.get("things-eeg2").eeg)  # type: ignore[arg-type]
        lite = weights.build(registry.models.get("linear-encoding:efficientnet-lite0"), SPEC)
    assert isinstance(model, LinearEncoding)
    assert isinstance(lite, LinearEncoding)
    assert [sum(p.numel() for p in readout.parameters()) for readout in model.readout] == [1_701_700]
    assert dict(model.reducer[0].named_buffers())["basis"].shape == (16_540, 205_672)
    assert widths("alexnet") == {
        "maxpool1": 46_656, "maxpool2": 32_448, "ReLU3": 64_896, "ReLU4": 43_264, "maxpool5": 9_216,
        "ReLU6": 4_096, "ReLU7": 4_096, "fc8": 1_000,
    }  # fmt: skip
    assert list(widths("resnet50").values()) == [802_816, 401_408, 200_704, 100_352, 1_000]
    assert dict(lite.readout.named_parameters())["0.weight"].shape == (15, 210)


def test_a_packaged_network_has_the_features_of_its_extractor() -> None:
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8))
    net = Backbone("efficientnet-lite0", ("pool", "logits"))
    net.load()
    made = net.train()(images / 255)  # in inference mode all the same
    wanted = load_extractor("efficientnet-lite0")(images)
    assert made["pool"].numpy() == pytest.approx(wanted["features"], abs=1e-4)
    assert made["logits"].numpy() == pytest.approx(wanted["logits"], abs=1e-3)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_weights_are_those_that_extractors_pin() -> None:
    for name in ("alexnet", "efficientnet-lite0"):
        assert backbone_card(name).file == extractor_card(name).file


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"backbone": "resnt50"}, "backbone must be one of alexnet, resnet50, "),
        ({"backbone": "timm:no_such_net"}, "timm must have a network 'no_such_net', but it says: Unknown model"),
        ({**TINY, "layers": "single", "layer": "conv9"}, "timm:test_efficientnet has no layer 'conv9'; its layers are"),
        ({"layer": "fc8"}, "layer must be null unless layers='single', but is 'fc8' with 'all'."),
        ({"penalty": -1.0}, "penalty must be at least 0, but is -1.0."),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(config: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        build(SPEC, **config)
    assert str(error.value).startswith(sentence)


def test_weights_that_nobody_pinned_are_not_invented() -> None:
    model = build(SPEC, backbone="timm:test_efficientnet", layers="single", n_components=2, n_pictures=12)
    with pytest.raises(UsageError) as error:
        recipes(model, shown(), seed=0)
    sentence = (
        "no weights are pinned for timm:test_efficientnet; set pretrained=false, or take one of alexnet, resnet50, "
    )
    assert str(error.value).startswith(sentence)


def test_the_phantoms_map_is_recovered_up_to_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses are linear in mean colours of halves and rings, so with enough trials pixels tell all but the noise."""
    options = {"n_subjects": 1, "n_concepts": 60, "n_repetitions": 40, "n_test": 80, "n_test_repetitions": 20}
    data = small_things(monkeypatch, "things-linear", **options)
    training = data.training_data(data.split("within-subject-01"))
    preset = registry.models.get("linear-encoding.pixels").preset | {"n_pictures": len(training.images)}
    model = build(data.spec, **preset)
    for recipe in recipes(model, training, seed=0):
        fit(recipe, tmp_path, seed=0)
    tested = np.arange(240, 320)
    with torch.no_grad():
        predicted = model.predict(model.pixels(data.stimulus_pixels(tested))).numpy()
    answer = phantom_things.known_answer(data)
    rows = np.flatnonzero(np.char.startswith(data.trials["trial_id"], "01-te"))
    measured = data.eeg[rows].reshape(80, 20, 17, 100).mean(axis=1)
    responding = answer.ceiling("01", data.stimuli.ids[tested], 20) > 0.3

    def r(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x[:, responding] - x[:, responding].mean(axis=0) for x in (a, b))
        return float(((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))).mean())

    truth = answer.of("01", data.stimuli.ids[tested])
    best = r(truth, measured)
    assert r(predicted, truth) > 0.95
    assert r(predicted, measured) > 0.96 * best
    assert abs(r(np.roll(predicted, 1, axis=0), measured)) < 0.1

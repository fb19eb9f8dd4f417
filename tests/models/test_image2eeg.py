"""Image2EEG: counts and names, who looks, what stands still, both phases of training."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.resuming import check_resuming
from tests.models.retrieval import SPEC, found, means, training
from zoo import weights
from zoo.conversion import convert as convert_weights
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.models.convert.image2eeg import convert
from zoo.models.image2eeg import Image2EEG, ImageFeatNet, build, recipes
from zoo.models.pretrained import enlarged, imagenet
from zoo.registry import PACKAGE, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, TrainingData, fit

CARDS = {c.id: c for c in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/image2eeg.yaml"))}
EGI = EEGSpec(ch_names=tuple(f"E{i}" for i in range(128)), sfreq=1000, tmin=0.02, n_times=440, unit="a.u.")
TINY: dict[str, Any] = {
    "semantics": "corrected",
    "image_network": "extractor",
    "extractor": "means",
    "n_image_features": 12,
    "subjects": ("01", "02"),
    "head_units": 32,
    "lstm_layers": 1,
    "lstm_units": 16,
    "n_features": 8,
    "eeg_scaling": "robust",
    "encoder_batch_size": 32,
    "encoder_steps": 4,
    "image_batch_size": 32,
    "image_steps": 4,
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def classes(n_pictures: int = 24, n_val: int = 8, n_classes: int = 2) -> TrainingData:
    """The two people and pictures of ``training``, every picture of one of a few classes."""
    data = training(n_pictures=n_pictures, n_val=n_val, people=("01", "02"))
    return dataclasses.replace(data, labels=data.labels % n_classes, n_classes=n_classes)


def test_parameter_counts_are_those_of_the_specification() -> None:
    with torch.device("meta"):
        model = build(EGI)
    assert count(model.encoder) == 544_768
    net = model.image_encoder
    assert isinstance(net, ImageFeatNet)
    assert (count(net.base_conv), count(net.encoder), count(net.encoder.get_submodule("fc"))) == (
        246,
        6_780_576,
        1_180_672,
    )
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 246 + 1_180_672


def test_tensors_are_named_as_published() -> None:
    with torch.device("meta"):
        state = build(EGI).image_encoder.state_dict()
    shapes = {
        name: tuple(state[name].shape) for name in ("base_conv.0.weight", "encoder.fc.0.weight", "encoder.fc.3.weight")
    }
    assert shapes == {
        "base_conv.0.weight": (3, 9, 3, 3),
        "encoder.fc.0.weight": (1024, 1024),
        "encoder.fc.3.weight": (128, 1024),
    }
    assert "encoder.inception5b.branch4.1.bn.running_var" in state
    assert not [name for name in state if name.startswith("encoder.aux")]


@torch.no_grad()
def test_who_looks_moves_what_is_foreseen_and_a_gallery_is_the_mean() -> None:
    model = build(SPEC, **TINY).eval()
    seen = torch.rand(5, 12)
    each = [model.imagine(seen, np.full(5, who)) for who in ("01", "02")]
    for features in each:
        torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(model.embed_images(seen), (each[0] + each[1]) / 2)
    mixed = model.imagine(seen[:2], np.array(["02", "01"]))
    torch.testing.assert_close(mixed, torch.stack([each[1][0], each[0][1]]))


def test_strangers_are_refused() -> None:
    message = "image2eeg knows 01, 02, but is asked for subject '9'; train it on a split with that person."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **TINY).imagine(torch.rand(1, 12), np.array(["9"]))
    message = "subjects must name everybody who is trained on, but 01 lack '02'; set it to all of them."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(build(SPEC, **{**TINY, "subjects": ("01",)}), classes(), seed=0)


class Little(nn.Module):
    """Stands in for GoogLeNet: as many inputs and features, little to compute."""

    def __init__(self, rescales: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rescales = rescales
        self.conv, self.bn, self.drop = nn.Conv2d(3, 1024, 8, stride=112), nn.BatchNorm2d(1024), nn.Dropout(0.2)
        self.fc: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.fc(self.drop(F.relu(self.bn(self.conv(x))).mean(dim=(2, 3))))
        return made


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    def googlenet(weights: None, aux_logits: bool, transform_input: bool, init_weights: bool) -> nn.Module:
        assert not aux_logits
        return Little(transform_input)

    monkeypatch.setattr("torchvision.models.googlenet", googlenet)
    monkeypatch.setattr("zoo.models.image2eeg.load_frozen", lambda network, file: None)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(("semantics", "drifts"), [("as_run", True), ("corrected", False)])
def test_the_frozen_network_drifts_as_run_only(semantics: str, drifts: bool, tmp_path: Path) -> None:
    options = {**TINY, "semantics": semantics, "image_network": "googlenet", "image_batch_size": 8, "image_steps": 2}
    model = build(SPEC, **options)
    net = model.image_encoder
    assert isinstance(net, ImageFeatNet)
    assert isinstance(net.encoder, Little)
    assert net.encoder.rescales is drifts
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fit(recipes(model, classes(n_pictures=4, n_val=0), seed=0)[1], tmp_path, seed=0)
    after = net.state_dict()
    assert torch.equal(after["encoder.conv.weight"], before["encoder.conv.weight"])
    for learnt in ("base_conv.0.weight", "encoder.fc.0.weight", "encoder.fc.3.weight"):
        assert not torch.equal(after[learnt], before[learnt])
    assert torch.equal(after["encoder.bn.running_mean"], before["encoder.bn.running_mean"]) is not drifts
    net.train()
    assert net.encoder.drop.training is drifts
    assert net.encoder.get_submodule("fc.2").training


@pytest.mark.usefixtures("little")
@torch.no_grad()
def test_the_convolution_sees_the_picture_and_the_plane_of_who_looks() -> None:
    for semantics in ("as_run", "corrected"):
        model = build(SPEC, **{**TINY, "semantics": semantics, "image_network": "googlenet"}).eval()
        net, pixels = model.image_encoder, torch.rand(1, 3, 224, 224)
        assert isinstance(net, ImageFeatNet)
        shown = enlarged(pixels, 256) if semantics == "as_run" else pixels
        planes = torch.zeros(1, 2, 224, 224)
        planes[:, 1] = 1
        wanted = F.normalize(net.encoder(net.base_conv(torch.cat([imagenet(shown), planes], dim=1))))
        torch.testing.assert_close(model.imagine(pixels.flatten(1), np.array(["02"])), wanted)


def test_the_loss_is_the_squared_difference_from_the_trials_own_features() -> None:
    model, data = build(SPEC, **{**TINY, "dropout": 0.0, "image_batch_size": 96}), classes()
    recipe = recipes(model, data, seed=0)[1]
    with torch.no_grad():
        model.eval()
        rows = data.train
        assert data.image_of_trial is not None
        assert data.subjects is not None
        seen = torch.from_numpy(means("means", "features", data.images))[data.image_of_trial[rows]]
        wanted = F.mse_loss(model.imagine(seen, data.subjects[rows]), model.encode(torch.from_numpy(data.eeg[rows])))
    assert recipe.step(0, np.random.default_rng(0))["mse"] == pytest.approx(float(wanted), rel=1e-5)


def test_clusters_select_as_run_and_the_loss_does_in_the_corrected_form() -> None:
    scores = {}
    for semantics in ("as_run", "corrected"):
        recipe = recipes(build(SPEC, **{**TINY, "semantics": semantics}), classes(), seed=0)[1]
        scores[semantics] = recipe.validate()
    assert 0.5 <= scores["as_run"] <= 1  # two classes; the better of two namings is never below one half
    assert -4 / 8 <= scores["corrected"] < 0  # unit vectors of 8 numbers are at most 2 apart


def test_both_phases_find_unseen_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = training(n_pictures=60, n_val=20, people=("01", "02"))
    quarters = [
        means("means", "features", [image])[0].reshape(4, 3).mean(axis=1) for image in (*data.images, *data.val_images)
    ]
    labels = np.argmax(quarters, axis=1)[data.labels]  # the brightest quarter
    data = dataclasses.replace(data, labels=labels, n_classes=4)
    options = {"encoder_steps": 150, "encoder_lr": 5e-3, "margin": 0.6, "image_steps": 300, "image_lr": 5e-3}
    model = build(SPEC, **{**TINY, **options})
    for recipe in recipes(model, data, seed=0):
        fit(recipe, tmp_path, seed=0)
    assert found(model, data, 5) > 0.4  # chance is 0.25


@pytest.mark.parametrize(("phase", "changed"), [(0, {"encoder"}), (1, {"image_encoder"})])
def test_a_resumed_run_equals_an_uninterrupted_one(phase: int, changed: set[str], tmp_path: Path) -> None:
    def trained() -> tuple[Image2EEG, Recipe]:
        torch.manual_seed(0)
        model = build(SPEC, **{**TINY, "encoder_steps": 5, "image_steps": 5})
        return model, recipes(model, classes(), seed=0)[phase]

    assert check_resuming(trained, tmp_path) == changed


def test_training_names_the_command_that_brings_the_weights() -> None:
    with torch.device("meta"):
        model = build(EGI)
    message = "googlenet-1378be20.pth is not on this machine.\nto fetch it, run: zoo weights pull googlenet-imagenet"
    with pytest.raises(MissingError, match=f"^{re.escape(message)}$"):
        recipes(model, classes(), seed=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"semantics": "fixed"}, "semantics must be 'as_run' or 'corrected', but is 'fixed'."),
        ({"subjects": ()}, "subjects must be one or more different people, but are ()."),
        ({"subjects": ("1", "1")}, "subjects must be one or more different people, but are ('1', '1')."),
        ({"dropout": 1}, "dropout must be at least 0 and less than 1, but is 1.0."),
        ({"heads": 1}, "Image2EEGConfig has no option 'heads'; did you mean 'head_units'?"),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **{**TINY, **overrides})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as the authors' two trainings save them, with random weights and moments."""
    torch.manual_seed(0)
    model, folder = build(EGI), tmp_path_factory.mktemp("image2eeg")
    for part, name in ((model.encoder, "eegfeat_all_0.9665.pth"), (model.image_encoder, "eegfeat_all_0.6875.pth")):
        state = {}
        for key, value in part.state_dict().items():
            moved = "running_var" in key
            state[f"module.{key}"] = value + 0.2 * torch.rand_like(value) if moved else value
        torch.save({"epoch": 7, "model_state_dict": state, "optimizer_state_dict": {}}, folder / name)
    return folder


def test_checkpoints_convert_to_the_same_features(checkpoints: Path) -> None:
    folder, receipt = convert_weights("image2eeg", checkpoints)
    assert set(receipt["forward_check"]) == {"encoder", "image_encoder"}
    assert max(receipt["forward_check"].values()) < 1e-9
    model, info = weights.load(folder)
    assert info.parts == ("encoder", "image_encoder")
    assert isinstance(model, Image2EEG)
    assert model.config.subjects == ("1", "2", "3", "4", "5", "6")
    held = torch.load(checkpoints / "eegfeat_all_0.6875.pth", weights_only=True)["model_state_dict"]
    assert torch.equal(model.image_encoder.state_dict()["encoder.fc.3.weight"], held["module.encoder.fc.3.weight"])


def test_the_image_side_converts_alone_and_other_files_do_not(checkpoints: Path, tmp_path: Path) -> None:
    assert convert(checkpoints / "eegfeat_all_0.6875.pth").parts == ("image_encoder",)
    with pytest.raises(
        IntegrityError, match=r"^eegfeat_all_0\.9665\.pth must hold image_encoder\.base_conv\.0\.weight, but"
    ):
        convert(checkpoints / "eegfeat_all_0.9665.pth")
    with pytest.raises(
        UsageError, match=r"^--from must be an Image2EEG checkpoint .*, but .* holds 0 such files; give"
    ):
        convert(tmp_path)


def test_cards_claim_nothing_that_was_not_seen() -> None:
    assert sorted(CARDS) == ["image2eeg", "image2eeg.corrected", "image2eeg.small"]
    assert not any(card.claims for card in CARDS.values())
    assert all(card.task == "retrieval" for card in CARDS.values())

"""EEGClip: the loss against the authors' function, its two branches, what stands still, training, checkpoints."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.resuming import check_resuming
from tests.models.retrieval import SPEC, found, training
from zoo import weights
from zoo.backbones import backbone_card
from zoo.conversion import convert as convert_weights
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.metrics.base import extractor_card
from zoo.models.contrastive import contrastive_loss, fitted, unit_pixels
from zoo.models.convert.eegclip import convert
from zoo.models.eegclip import EEGClip, build, recipes
from zoo.models.pretrained import EXTRACTORS, PIXELS, enlarged, imagenet, load_frozen
from zoo.registry import PACKAGE, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, fit

CARDS = {c.id: c for c in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/eegclip.yaml"))}
EGI = EEGSpec(ch_names=tuple(f"E{i}" for i in range(128)), sfreq=1000, tmin=0.02, n_times=440, unit="a.u.")
TINY: dict[str, Any] = {
    "semantics": "corrected",
    "positives": "picture",
    "image_network": "extractor",
    "extractor": "means",
    "n_image_features": 12,
    "lstm_units": 16,
    "n_features": 8,
    "batch_size": 16,
    "steps": 4,
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parity
def test_the_loss_is_that_of_the_authors_function(shared: Path) -> None:
    with np.load(shared / "fixtures/eegstylegan_losses.npz") as file:
        eeg, images = (torch.from_numpy(file[f"clip_{name}"]) for name in ("eeg", "img"))
        wanted = float(file["clip_loss"])
    model = build(EGI, **TINY)
    assert float(model.scale.log_scale.exp()) == pytest.approx(math.exp(0.5))
    compared = model.similarities(eeg, images)
    assert float(contrastive_loss(compared)) == pytest.approx(wanted, abs=1e-6)  # float32


def test_parameter_counts_are_those_of_the_specification() -> None:
    with torch.device("meta"):
        model = build(EGI)
    assert count(model.encoder) == 132_096 + 32_768
    trained = [parameter.numel() for parameter in model.image_encoder.parameters() if parameter.requires_grad]
    assert (count(model.image_encoder), trained) == (23_508_032 + 524_288, [524_288])
    assert not model.scale.log_scale.requires_grad


def test_tensors_are_named_as_published() -> None:
    with torch.device("meta"):
        state = build(EGI).state_dict()
    assert tuple(state["encoder.fc.weight"].shape) == (256, 128)
    assert tuple(state["encoder.encoder.weight_ih_l0"].shape) == (512, 128)
    assert "encoder.encoder.weight_ih_l1" not in state
    assert tuple(state["image_encoder.fc.1.weight"].shape) == (256, 2048)
    assert tuple(state["image_encoder.layer4.2.bn3.running_var"].shape) == (2048,)


@torch.no_grad()
def test_features_have_unit_length() -> None:
    model = build(SPEC, **TINY).eval()
    eeg = model.encode(torch.from_numpy(training().eeg[:5]))
    images = model.embed_images(torch.rand(3, 12))
    for features in (eeg, images):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


@pytest.fixture(scope="module")
def tiny_network() -> Any:
    """Stands in for ResNet-50: as many names, little to compute."""

    def made(weights: None) -> nn.Module:
        torch.manual_seed(0)
        network = nn.Sequential()
        network.add_module("conv", nn.Conv2d(3, 2048, 8, stride=112))
        network.add_module("bn", nn.BatchNorm2d(2048))
        network.add_module("pool", nn.AdaptiveAvgPool2d(1))
        network.add_module("flatten", nn.Flatten())
        network.add_module("fc", nn.Identity())
        return network

    return made


@pytest.mark.parametrize(("semantics", "drifts"), [("as_run", True), ("corrected", False)])
def test_the_frozen_network_drifts_as_run_only(
    semantics: str, drifts: bool, tiny_network: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torchvision.models.resnet50", tiny_network)
    monkeypatch.setattr("zoo.models.eegclip.load_frozen", lambda network, file: None)
    model = build(SPEC, semantics=semantics, lstm_units=8, batch_size=8, steps=2)
    before = {key: value.clone() for key, value in model.image_encoder.state_dict().items()}
    (recipe,) = recipes(model, training(n_pictures=8, n_val=0), seed=0)
    fit(recipe, tmp_path, seed=0)
    after = model.image_encoder.state_dict()
    assert torch.equal(after["conv.weight"], before["conv.weight"])
    assert not torch.equal(after["fc.1.weight"], before["fc.1.weight"])
    assert torch.equal(after["bn.running_mean"], before["bn.running_mean"]) is not drifts
    model.eval()
    with torch.no_grad():  # whatever the training, a feature does not depend on its batch
        pixels = torch.rand(3, 3 * 224 * 224)
        torch.testing.assert_close(model.embed_images(pixels)[1:2], model.embed_images(pixels[1:2]))


def test_pictures_are_enlarged_and_cropped_as_run_only(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models.resnet50", tiny_network)
    pixels = torch.rand(2, 3, 224, 224)
    models = {how: build(SPEC, semantics=how).eval() for how in ("as_run", "corrected")}
    models["corrected"].load_state_dict(models["as_run"].state_dict())
    with torch.no_grad():
        for how, seen in (("as_run", enlarged(pixels, 232)), ("corrected", pixels)):
            wanted = F.normalize(models[how].image_encoder(imagenet(seen)))
            torch.testing.assert_close(models[how].embed_images(pixels.flatten(1)), wanted)


def test_enlarging_keeps_the_middle() -> None:
    ramp = torch.linspace(0, 1, 224).expand(1, 3, 224, 224)
    made = enlarged(ramp, 232)
    assert made.shape == ramp.shape
    slope = (made[0, 0, 5, 200] - made[0, 0, 5, 20]) / 180
    assert float(slope) == pytest.approx(224 / 232 / 223, rel=1e-4)
    assert float(made[0, 0, 5, 111:113].mean()) == pytest.approx(0.5, abs=1e-6)


def test_pixels_are_those_that_an_evaluation_shows() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    assert extractor_card(PIXELS).outputs == {"features": 3 * 224 * 224}
    from zoo.images import resize_pictures
    from zoo.metrics.features import load_extractor

    shown = resize_pictures([picture], 224)
    np.testing.assert_array_equal(shown[0].transpose(1, 2, 0), fitted(picture))
    seen = load_extractor(PIXELS)(shown)["features"]
    np.testing.assert_allclose(unit_pixels(picture).flatten()[None], seen, atol=1e-6)


def test_training_finds_unseen_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = training(n_pictures=60, n_val=20)
    options = {"steps": 150, "batch_size": 30, "lr": 1e-2, "eeg_scaling": "robust", "train_scale": True, "log_scale": 2}
    model = build(SPEC, **{**TINY, **options})
    (recipe,) = recipes(model, data, seed=0)
    fit(recipe, tmp_path, seed=0)
    assert found(model, data, 5) > 0.6  # chance is 0.25


@pytest.mark.parametrize(("semantics", "validates"), [("as_run", False), ("corrected", True)])
def test_as_run_keeps_the_last_epoch(semantics: str, validates: bool) -> None:
    (recipe,) = recipes(build(SPEC, **{**TINY, "semantics": semantics}), training(), seed=0, select="val")
    assert (recipe.eval_every is not None) is validates


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def trained() -> tuple[EEGClip, Recipe]:
        torch.manual_seed(0)
        model = build(SPEC, **{**TINY, "batch_size": 6, "steps": 5})
        return model, recipes(model, training(n_pictures=6, n_val=3), seed=0)[0]

    assert check_resuming(trained, tmp_path) == {"encoder", "image_encoder"}


@pytest.mark.parametrize("backbone", EXTRACTORS)
def test_weights_are_those_of_an_extractor(backbone: str) -> None:
    assert extractor_card(EXTRACTORS[backbone]).file == backbone_card(backbone).file


def test_training_names_the_command_that_brings_the_weights() -> None:
    with torch.device("meta"):
        model = build(EGI)
    message = "resnet50-0676ba61.pth is not on this machine.\nto fetch it, run: zoo weights pull resnet50-imagenet"
    with pytest.raises(MissingError, match=f"^{re.escape(message)}$"):
        recipes(model, training(), seed=0)


def test_published_weights_fill_everything_but_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network() -> nn.Module:
        made = nn.Sequential()
        made.add_module("conv", nn.Conv2d(1, 2, 3))
        made.add_module("fc", nn.Linear(2, 3))
        return made

    given, own = network(), network()
    torch.save(given.state_dict() | {"fc.weight": torch.zeros(1000, 2)}, tmp_path / "given.pth")
    monkeypatch.setattr("zoo.packaged.find", lambda file, who, bring: tmp_path / "given.pth")
    before = {key: value.clone() for key, value in own.state_dict().items()}
    load_frozen(own, "resnet50")
    after = own.state_dict()
    assert torch.equal(after["conv.weight"], given.state_dict()["conv.weight"])
    assert torch.equal(after["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"semantics": "fixed"}, "semantics must be 'as_run' or 'corrected', but is 'fixed'."),
        ({"lstm_units": 0}, "lstm_units must be at least 1, but is 0."),
        ({"scale": 1}, "EEGClipConfig has no option 'scale'; did you mean 'log_scale'?"),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **{**TINY, **overrides})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the authors' training saves it, with random weights and moments."""
    torch.manual_seed(0)
    model = build(EGI)
    state = {f"text_encoder.{key}": value for key, value in model.encoder.state_dict().items()}
    for key, value in model.image_encoder.state_dict().items():
        moved = "running_var" in key
        state[f"image_encoder.{key}"] = value + 0.2 * torch.rand_like(value) if moved else value
    path = tmp_path_factory.mktemp("eegclip") / "clip_2048.pth"
    torch.save({"epoch": 2048, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    return path


def test_a_checkpoint_converts_to_the_same_features(checkpoint: Path) -> None:
    folder, receipt = convert_weights("eegclip", checkpoint)
    assert receipt["counters"] == {"epoch": 2048}
    assert max(receipt["forward_check"].values()) < 1e-9
    model, info = weights.load(folder)
    assert info.parts == ("encoder", "image_encoder", "scale")
    held = torch.load(checkpoint, weights_only=True)["model_state_dict"]
    state = model.state_dict()
    assert torch.equal(state["encoder.fc.weight"], held["text_encoder.fc.weight"])
    assert torch.equal(state["image_encoder.bn1.running_var"], held["image_encoder.bn1.running_var"])


def test_other_files_are_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--from must be an EEGClip checkpoint such as clip_2048\.pth, but .* is no"):
        convert(tmp_path)
    torch.save({"weights": {}}, tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match=r"^a\.pth must hold model_state_dict, but does not; it is not an EEGClip"):
        convert(tmp_path / "a.pth")
    torch.save({"model_state_dict": {"text_encoder.fc.weight": torch.zeros(2, 2)}}, tmp_path / "b.pth")
    with pytest.raises(
        IntegrityError, match=r"^b\.pth must hold encoder\.encoder\.weight_hh_l0, but does not; it is not"
    ):
        convert(tmp_path / "b.pth")


def test_cards_claim_nothing_that_was_not_seen() -> None:
    assert sorted(CARDS) == ["eegclip", "eegclip.corrected", "eegclip.small"]
    assert not any(card.claims for card in CARDS.values())
    assert all(card.task == "retrieval" for card in CARDS.values())

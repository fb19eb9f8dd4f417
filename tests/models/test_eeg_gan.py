from __future__ import annotations

import copy
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from tests.models.resuming import check_resuming
from zoo.errors import UsageError
from zoo.models import eeg_gan
from zoo.models.base import Model
from zoo.models.cvpr_lstm import (
    CVPRLSTM,
    CVPRLSTMConfig,
    EncoderRecipe,
    PictureBatches,
    RobustCVPRLSTM,
    class_means,
    other_classes,
)
from zoo.models.eeg2image import DiffAug
from zoo.models.eeg_gan import EEGGAN, build, gan_step, matching_aware_loss, recipes
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, TrainingData

SPEC = EEGSpec(ch_names=("Fz", "Cz", "Pz"), sfreq=128, tmin=0, n_times=8)
CVPR40 = EEGSpec(ch_names=tuple(f"E{i}" for i in range(128)), sfreq=1000, tmin=0.02, n_times=440, unit="a.u.")
TINY: dict[str, Any] = {
    "lstm_units": 7,
    "n_features": 6,
    "noise_dim": 5,
    "resolution": 16,
    "generator_width": 8,
    "discriminator_width": 4,
    "encoder_batch_size": 8,
    "gan_batch_size": 4,
    "eeg_scaling": "robust",
}


def tiny(**overrides: Any) -> EEGGAN:
    torch.manual_seed(0)
    return build(SPEC, **{**TINY, **overrides})


def training_data(*, n: int = 24, n_classes: int = 3, n_val: int = 6) -> TrainingData:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    eeg = rng.standard_normal((n, 3, 8)).astype(np.float32) * 1e-5
    eeg += 4e-5 * np.sin(np.arange(8) * (1 + labels[:, None, None])).astype(np.float32)
    return TrainingData(
        eeg=eeg,
        labels=labels,
        train=np.arange(n - n_val),
        val=np.arange(n - n_val, n),
        n_classes=n_classes,
        images=tuple(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(3 * n_classes)),
        image_labels=np.arange(3 * n_classes) % n_classes,
        image_of_trial=np.arange(n) % (3 * n_classes),
    )


def batches(model: EEGGAN, data: TrainingData, **options: Any) -> PictureBatches:
    chosen: dict[str, Any] = {"resolution": 16, "batch_size": 4, "condition": "class-mean", "flip": False}
    return PictureBatches(model, data, key=("test",), **{**chosen, **options})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- the published encoder -------------------------------------------------------------------------------------------


@pytest.mark.parity
def test_encoder_gives_what_the_authors_class_gives(shared: Path) -> None:
    with np.load(shared / "fixtures/pv_lstm.npz") as stored:
        data = {key: torch.from_numpy(stored[key].astype(np.float32)) for key in stored.files}
    weights = {key.removeprefix("w/"): value for key, value in data.items() if key.startswith("w/")}
    model, classifier = build(CVPR40), nn.Linear(128, 40)
    classifier.load_state_dict({key: weights.pop(f"classifier.{key}") for key in ("weight", "bias")})
    model.encoder.load_state_dict(weights)  # strictly: names and shapes as published
    with torch.no_grad():
        features = model.encode(data["x"].transpose(1, 2))
        states, _ = model.encoder.lstm(data["x"])
        for got, name in ((states[:, -1], "last_hidden"), (features, "embedding"), (classifier(features), "logits")):
            torch.testing.assert_close(got, data[name], rtol=0, atol=1e-6)


def test_parameter_counts_are_the_published_ones() -> None:
    model = build(CVPR40)
    data = dataclasses.replace(training_data(), n_classes=40)
    recipe = EncoderRecipe(model, data, family="eeg-gan", seed=0, select="val")
    assert {name: count(module) for name, module in recipe.modules().items()} == {
        "encoder": 153_768 - 5_160,
        "classifier": 5_160,
    }
    assert count(model.generator) == 4_625_283
    # 3→64→128→256→512 with bias in the first, 640→512, 512→1 with bias; batch norm on 128, 256, 512, 512
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 640 * 512 + 16 * 512
    assert count(model.discriminator) == kernels + 64 + 1 + 2 * (128 + 256 + 512 + 512) == 3_094_337
    assert len(recipe.optimizer.param_groups) == 1
    assert {key: recipe.optimizer.defaults[key] for key in ("lr", "betas", "eps")} == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    }


def test_features_are_what_relu_leaves() -> None:
    features = tiny().encode(torch.from_numpy(training_data().eeg))
    assert features.shape == (24, 6)
    assert (features == 0).any()
    assert (features > 0).any()
    assert features.min() == 0


def test_recordings_are_taken_as_they_are_or_scaled_by_training_quartiles() -> None:
    eeg = torch.from_numpy(training_data().eeg)
    published, scaled = tiny(eeg_scaling="none").encoder, tiny().encoder
    assert type(published) is CVPRLSTM
    assert isinstance(scaled, RobustCVPRLSTM)
    x = torch.tensor([[[2.0, 0.0]], [[4.0, 0.0]], [[6.0, 0.0]], [[8.0, 0.0]], [[100.0, 0.0]]]) * 1e-6
    two = RobustCVPRLSTM(2, CVPRLSTMConfig(lstm_units=2, n_features=2))
    two.measure(x)
    torch.testing.assert_close(two.centre, torch.tensor([6e-6, 0.0]))
    torch.testing.assert_close(two.spread, torch.tensor([4e-6, 1e-9]))  # a flat channel stays flat
    twin = CVPRLSTM(2, CVPRLSTMConfig(lstm_units=2, n_features=2))
    twin.load_state_dict({key: value for key, value in two.state_dict().items() if key not in ("centre", "spread")})
    wanted = torch.tensor([[[-1.0, 0.0]], [[-0.5, 0.0]], [[0.0, 0.0]], [[0.5, 0.0]], [[6.0, 0.0]]])
    torch.testing.assert_close(two(x), twin(wanted))
    with torch.no_grad():  # in volts a network for z-scores hardly sees its input
        assert published(eeg.transpose(1, 2)).std(dim=0).max() < 1e-4


def test_encoder_learns_to_separate_three_frequencies() -> None:
    model = tiny(encoder_lr=0.02)
    recipe = recipes(model, training_data(n=60, n_val=30), seed=3)[0]
    losses = [recipe.step(step, rng(step))["cross_entropy"] for step in range(80)]
    assert losses[0] == pytest.approx(math.log(3), abs=0.3)
    assert np.mean(losses[-5:]) < 0.3
    assert recipe.validate() > 0.9


def test_the_later_of_equally_good_epochs_is_kept_and_each_is_validated() -> None:
    data = training_data()
    recipe = recipes(tiny(encoder_epochs=5), data, seed=0)[0]
    assert (recipe.n_steps, recipe.eval_every, recipe.ties) == (15, 3, "later")
    assert recipes(tiny(), data, seed=0, select="last")[0].eval_every is None
    assert recipes(tiny(), dataclasses.replace(data, val=data.val[:0]), seed=0)[0].eval_every is None


def test_scaling_is_measured_on_training_trials_only() -> None:
    data = training_data()
    spoilt = data.eeg.copy()
    spoilt[data.val] = 1.0
    one, other = tiny(), tiny()
    recipes(one, data, seed=0)
    recipes(other, dataclasses.replace(data, eeg=spoilt), seed=0)
    assert isinstance(one.encoder, RobustCVPRLSTM)
    assert one.encoder.spread.max() > 1e-6
    torch.testing.assert_close(other.encoder.get_buffer("spread"), one.encoder.spread, rtol=0, atol=0)
    torch.testing.assert_close(other.encoder.get_buffer("centre"), one.encoder.centre, rtol=0, atol=0)


# --- conditions and pictures -----------------------------------------------------------------------------------------


def test_a_class_mean_is_the_mean_of_its_rows() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    means = class_means(features, np.array([2, 2, 0]), 3)
    assert means[[0, 2]].tolist() == [[10, 20], [2, 3]]
    assert means[1].isnan().all()


def test_conditions_are_means_of_training_features_and_of_nothing_else() -> None:
    model, data = tiny(eeg_scaling="none"), training_data()
    data = dataclasses.replace(data, eeg=data.eeg * 1e5)
    spoilt = data.eeg.copy()
    spoilt[data.val] *= -7
    found = batches(model, dataclasses.replace(data, eeg=spoilt))
    labels = np.array([1, 0, 2, 1])
    with torch.no_grad():
        wanted = torch.stack(
            [model.encode(torch.from_numpy(data.eeg[data.train][data.labels[data.train] == c])).mean(0) for c in labels]
        )
    torch.testing.assert_close(found.right(labels, rng()), wanted)
    everything = class_means(model.encode(torch.from_numpy(spoilt)).detach(), data.labels, 3)
    assert (everything[labels] - wanted).abs().max() > 1e-3, "the trials left out would have moved the means"


def test_a_trial_condition_is_a_training_trial_of_the_class() -> None:
    model, data = tiny(), training_data()
    found = batches(model, data, condition="trial")
    labels = np.repeat([2, 0], 40)
    got = found.right(labels, rng())
    match = (got[:, None] == found.features[None]).all(dim=2)
    assert match.any(dim=1).all()
    own = data.labels[data.train][match.int().argmax(dim=1).numpy()]
    np.testing.assert_array_equal(own, labels)
    assert len({tuple(row) for row in got[:40].tolist()}) == 6, "all six training trials of the class are drawn"


def test_a_wrong_class_is_never_the_right_one_and_any_other() -> None:
    known = np.array([1, 4, 5, 9])
    labels = np.tile(known, 300)
    wrong = other_classes(labels, known, rng())
    assert not (wrong == labels).any()
    for label in known:
        drawn, times = np.unique(wrong[labels == label], return_counts=True)
        assert drawn.tolist() == [other for other in known if other != label]
        assert times.min() > 70  # 100 expected, standard deviation 8
    found = batches(tiny(), training_data())
    assert not (found.wrong(labels[:8] % 3, rng()) == found.right(labels[:8] % 3, rng())).all(dim=1).any()


def test_pictures_come_in_passes_and_are_mirrored_half_of_the_time() -> None:
    model, data = tiny(), training_data()
    plain, mirrored = batches(model, data), batches(model, data, flip=True)
    drawn = [plain.draw(step, rng()) for step in range(plain.steps_per_epoch)]
    assert [len(images) for images, _ in drawn] == [4, 4, 1]
    assert sorted(np.concatenate([labels for _, labels in drawn])) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    seen: list[bool] = []
    for step in range(60):
        images, labels = plain.draw(step, rng(step))
        flipped, same = mirrored.draw(step, rng(step))
        np.testing.assert_array_equal(labels, same)
        turned = (flipped == images.flip(3)).flatten(1).all(dim=1)
        assert ((flipped == images).flatten(1).all(dim=1) ^ turned).all()
        seen += turned.tolist()
    assert np.mean(seen) == pytest.approx(0.5, abs=0.12)  # 180 draws, standard deviation 0.037
    assert -1 <= images.min() < -0.5
    assert 0.5 < images.max() <= 1


def test_pictures_whose_class_has_no_training_trial_are_left_out() -> None:
    data = training_data()
    few = dataclasses.replace(data, train=data.train[data.labels[data.train] != 1])
    found = batches(tiny(), few)
    assert found.classes.tolist() == [0, 2]
    assert set(np.concatenate([found.draw(step, rng())[1] for step in range(found.steps_per_epoch)])) == {0, 2}
    message = (
        "learning images needs two classes or more with training trials and a picture, "
        "but there are 1; choose another split."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        batches(tiny(), dataclasses.replace(data, train=data.train[data.labels[data.train] == 1]))
    message = "training needs trials in the train role, but the split has none; choose another split."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(data, train=data.train[:0]), seed=0)


# --- networks and losses ---------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    def logit(p: float) -> Tensor:
        return torch.tensor([math.log(p / (1 - p))] * 2)

    right, wrong, fake = 0.8, 0.3, 0.6
    loss = matching_aware_loss(right=logit(right), wrong=logit(wrong), fake=logit(fake))
    assert loss.item() == pytest.approx(-(math.log(0.8) + 0.5 * (math.log(0.7) + math.log(0.4))), rel=1e-6)
    loss = matching_aware_loss(right=logit(right), wrong=logit(wrong), fake=logit(fake), wrong_weight=2, fake_weight=3)
    assert loss.item() == pytest.approx(-(math.log(0.8) + 2 * math.log(0.7) + 3 * math.log(0.4)), rel=1e-6)
    loss = matching_aware_loss(right=logit(right), wrong=None, fake=logit(fake))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.4)), rel=1e-6)
    far = matching_aware_loss(right=torch.tensor([-200.0]), wrong=torch.tensor([200.0]), fake=torch.tensor([200.0]))
    assert far.item() == 400, "no logarithm of zero"


def test_shapes_ranges_and_batch_independence() -> None:
    model = tiny().eval()
    eeg = torch.from_numpy(training_data().eeg[:8])
    noise = torch.from_numpy(np.stack([model.draw_noise(rng(i)) for i in range(8)]))
    with torch.no_grad():
        features = model.encode(eeg)
        images = model.decode(features, noise)
        one = model.decode(model.encode(eeg[3:4]), noise[3:4])
    assert images.shape == (8, 3, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    torch.testing.assert_close(one[0], images[3], rtol=0, atol=1e-6)
    assert list(model.parts()) == ["encoder", "generator", "discriminator"]


def test_noise_is_normal() -> None:
    noise = tiny(noise_dim=20_000).draw_noise(rng())
    assert noise.dtype == np.float32
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, rel=0.02))


@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_networks_follow_from_the_resolution(resolution: int) -> None:
    model = tiny(resolution=resolution, generator_width=16)
    image = model.generator(torch.zeros(2, 5), torch.zeros(2, 6))
    assert image.shape == (2, 3, resolution, resolution)
    assert model.discriminator(image, torch.zeros(2, 6)).shape == (2,)
    assert len(model.generator.up) == int(math.log2(resolution)) - 2


def test_initial_values_are_those_of_dcgan() -> None:
    model = build(SPEC)
    for part in (model.generator, model.discriminator):
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
                assert module.bias is None or not module.bias.any()
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.01)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_the_discriminator_sees_the_condition() -> None:
    model = tiny().eval()
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        seen = model.discriminator.look(image)
        logits = [model.discriminator.judge(seen, torch.full((2, 6), value)) for value in (0.0, 1.0)]
        assert (logits[0] - logits[1]).abs().min() > 1e-4
        torch.testing.assert_close(model.discriminator(image, torch.ones(2, 6)), logits[1])
    assert seen.shape == (2, 8, 4, 4)


@pytest.mark.parametrize(("conditional", "extras"), [(True, False), (False, False), (True, True)])
def test_a_step_is_the_two_updates_written_out(conditional: bool, extras: bool) -> None:
    """Against plain code that shares nothing with ``gan_step`` but the networks and the augmentation."""
    model = tiny(wrong_weight=0.7, fake_weight=0.4, mode_weight=0.2 if extras else 0.0)
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    real, right, noise = torch.rand(4, 3, 16, 16) * 2 - 1, torch.rand(4, 6), (torch.randn(4, 5), torch.randn(4, 5))
    wrong = torch.rand(4, 6) if conditional else None
    augment = [DiffAug.draw(rng(i), 4, 16) for i in range(3)] if extras else None
    rates: dict[str, Any] = {"lr": 1e-3, "betas": (0.5, 0.999)}
    optimizers = (Adam(model.generator.parameters(), **rates), Adam(model.discriminator.parameters(), **rates))
    losses = gan_step(model, real=real, right=right, wrong=wrong, noise=noise, augment=augment, optimizers=optimizers)

    g, d = twin.generator.train(), twin.discriminator.train()
    g_optimizer, d_optimizer = Adam(g.parameters(), **rates), Adam(d.parameters(), **rates)
    one, zero = torch.ones(4), torch.zeros(4)
    fake, bce = g(noise[0], right), F.binary_cross_entropy
    pictures = [real, fake.detach(), fake]
    if augment is not None:
        pictures = [change(picture) for change, picture in zip(augment, pictures, strict=True)]
    d_loss = bce(torch.sigmoid(d(pictures[0], right)), one)
    fakes = bce(torch.sigmoid(d(pictures[1], right)), zero)
    if wrong is None:
        d_loss = d_loss + fakes
    else:
        d_loss = d_loss + 0.7 * bce(torch.sigmoid(d(pictures[0], wrong)), zero) + 0.4 * fakes
    d_loss.backward()  # type: ignore[no-untyped-call]
    d_optimizer.step()
    g_optimizer.zero_grad()
    g_loss = total = bce(torch.sigmoid(d(pictures[2], right)), one)
    if extras:
        apart = (g(noise[1], right) - fake).abs().mean() / (noise[1] - noise[0]).abs().mean()
        total = g_loss + 0.2 / (apart + 1e-5)
    total.backward()
    g_optimizer.step()
    assert losses["discriminator"] == pytest.approx(d_loss.item(), rel=1e-5)
    assert losses["generator"] == pytest.approx(g_loss.item(), rel=1e-5)
    assert set(losses) == {"discriminator", "generator"} | ({"mode"} if extras else set())
    for key, value in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[key], value, rtol=0, atol=5e-5, msg=key)


# --- training --------------------------------------------------------------------------------------------------------


def test_phases_follow_from_the_data_and_the_options() -> None:
    data = training_data()
    phases = recipes(tiny(encoder_epochs=2, unconditional_epochs=4, gan_epochs=5, gan_ema=0.9), data, seed=0)
    assert [(p.name, p.n_steps, p.eval_every, p.ema_decay) for p in phases] == [
        ("encoder", 6, 3, None),
        ("gan_unconditional", 12, None, None),
        ("gan", 15, None, 0.9),
    ]
    assert [p.name for p in recipes(tiny(unconditional_epochs=0), data, seed=0)] == ["encoder", "gan"]
    assert [p.n_steps for p in recipes(tiny(unconditional_steps=3, gan_steps=2), data, seed=0)][1:] == [3, 2]
    assert [p.name for p in recipes(tiny(), dataclasses.replace(data, images=()), seed=0)] == ["encoder"]


def test_the_first_phase_has_condition_zero_and_asks_nothing_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = tiny(), training_data()
    given: list[dict[str, Any]] = []
    encoded: list[int] = []

    def spied(net: EEGGAN, **arguments: Any) -> dict[str, float]:
        given.append(arguments)
        return gan_step(net, **arguments)

    def counted(self: EEGGAN, eeg: Tensor) -> Tensor:
        encoded.append(len(eeg))
        return self.encoder(eeg.transpose(1, 2))  # type: ignore[no-any-return]

    monkeypatch.setattr(eeg_gan, "gan_step", spied)
    monkeypatch.setattr(EEGGAN, "encode", counted)
    _, first, second = recipes(model, data, seed=0)
    before = copy.deepcopy(model.encoder.state_dict())
    first.step(0, rng())
    assert given[0]["wrong"] is None
    assert given[0]["right"].shape == (4, 6)
    assert not given[0]["right"].any()
    assert not encoded
    for step in range(3):
        second.step(step, rng(step))
    assert encoded == [18], "every training trial once"
    assert isinstance(second, eeg_gan.GANRecipe)
    _, labels = second.batches.draw(0, rng())
    torch.testing.assert_close(given[1]["right"], second.batches.means[torch.from_numpy(labels)])
    assert not (given[1]["right"] == given[1]["wrong"]).all(dim=1).any()
    assert all(torch.equal(value, model.encoder.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_an_interrupted_fit_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, phase: int) -> None:
    data = training_data()

    def training() -> tuple[Model, Recipe]:
        steps: dict[str, Any] = {"encoder_steps": 6, "unconditional_steps": 6, "gan_steps": 6}
        model = tiny(**steps, condition="trial", augment=True, mode_weight=0.1, gan_ema=0.9)
        return model, recipes(model, data, seed=0)[phase]

    assert check_resuming(training, tmp_path) == ({"generator", "discriminator"} if phase else {"encoder"})


# --- options and cards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"resolutoin": 64}, "EEGGANConfig has no option 'resolutoin'; did you mean 'resolution'?"),
        ({"resolution": 48}, "resolution must be a power of two from 8, but is 48; try 32 or 64."),
        ({"resolution": 4}, "resolution must be a power of two from 8, but is 4; try 32 or 64."),
        (
            {"generator_width": 20},
            "generator_width must be a multiple of 8 to be halved from 4×4 to 32×32, but is 20; try 128.",
        ),
        ({"condition": "class"}, "condition must be 'class-mean' or 'trial', but is 'class'."),
        ({"eeg_scaling": "z"}, "eeg_scaling must be 'none' or 'robust', but is 'z'."),
        ({"gan_batch_size": 0}, "gan_batch_size must be at least 1, but is 0."),
        ({"lstm_units": 0}, "lstm_units must be at least 1, but is 0."),
        ({"unconditional_epochs": -1}, "unconditional_epochs must be at least 0, but is -1."),
        ({"wrong_weight": -0.5}, "wrong_weight must be at least 0, but is -0.5."),
        ({"gan_lr": 0}, "gan_lr must be more than 0, but is 0.0."),
        ({"gan_betas": [0.5, 1]}, "gan_betas must be at least 0 and less than 1, but is (0.5, 1.0)."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **overrides)


def test_cards_are_valid_and_build() -> None:
    cards = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models/eeg_gan.yaml")]
    assert [card.id for card in cards] == ["eeg-gan", "eeg-gan.small"]
    for card in cards:
        assert card.builder is not None
        assert load_object(card.builder)(SPEC, **card.preset).resolution == card.resolution
        assert not card.claims
    assert any("reconstruction of this zoo" in note and "unverified" in note for note in cards[0].notes)
    assert not cards[0].preset

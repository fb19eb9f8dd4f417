from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.resuming import check_resuming
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.models import neurogan
from zoo.models.base import Model
from zoo.models.epoc import ImageClassifier
from zoo.models.layers import KerasAdam
from zoo.models.neurogan import (
    VGG16,
    GANRecipe,
    NeuroGAN,
    SelfAttention,
    build,
    gan_step,
    load_vgg16,
    perceptual_loss,
    recipes,
)
from zoo.models.recipes import scale_image
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, TrainingData

SPEC = EEGSpec(ch_names=("Fz", "Cz", "Pz"), sfreq=128, tmin=0, n_times=24)
EPOC = EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128, tmin=0, n_times=32)
TINY: dict[str, Any] = {
    "noise_dim": 5,
    "resolution": 16,
    "generator_width": 16,
    "generator_attention": 1,
    "discriminator_width": 4,
    "discriminator_attention": 0,
    "perceptual": "image-classifier",
    "image_classifier_width": 2,
    "image_classifier_steps": 6,
    "image_classifier_batch_size": 3,
    "encoder_batch_size": 8,
    "gan_batch_size": 6,
}


def tiny(**overrides: Any) -> NeuroGAN:
    torch.manual_seed(0)
    return build(SPEC, **{**TINY, **overrides})


def training_data(*, n: int = 20, n_val: int = 6, with_images: bool = True) -> TrainingData:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    eeg = rng.standard_normal((n, 3, 24)).astype(np.float32) * 1e-6
    eeg += 1e-5 * np.sin(0.3 * np.arange(24) * (1 + labels[:, None, None])).astype(np.float32)
    return TrainingData(
        eeg=eeg,
        labels=labels,
        train=np.arange(n - n_val),
        val=np.arange(n - n_val, n),
        n_classes=2,
        images=tuple(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(4)) if with_images else (),
        image_labels=np.arange(4) % 2,
        image_of_trial=np.arange(n) % 4,
    )


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def gan_of(model: NeuroGAN, data: TrainingData | None = None) -> GANRecipe:
    phase = recipes(model, data or training_data(), seed=0)[-1]
    assert isinstance(phase, GANRecipe)
    return phase


def refused(message: str, error: type[Exception] = UsageError) -> Any:
    return pytest.raises(error, match=f"^{re.escape(message)}$")


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_channels", "n_parameters"), [(128, 20_641), (64, 5_201)])
def test_attention_has_the_parameters_of_sagans_block(n_channels: int, n_parameters: int) -> None:
    assert count(SelfAttention(n_channels)) == n_parameters


def attending() -> SelfAttention:
    torch.manual_seed(0)
    block = SelfAttention(8)
    for layer in (block.key, block.query):
        nn.init.normal_(layer.weight, std=2)
    return block


def test_attention_changes_nothing_before_it_is_trained() -> None:
    block, x = attending(), torch.randn(2, 8, 3, 4)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.gamma.grad is not None
    assert block.gamma.grad != 0
    assert block.value.weight.grad is not None
    assert not block.value.weight.grad.any(), "nothing else learns until gamma has moved"


def test_attention_is_the_sum_written_out() -> None:
    """o_j = Σ_i h(x_i) exp(f(x_i)·g(x_j)) / Σ_i exp(f(x_i)·g(x_j)), pixel by pixel."""
    block, x = attending(), torch.randn(2, 8, 3, 4)
    nn.init.constant_(block.gamma, 0.7)
    weights = block.attention(x)
    assert weights.shape == (2, 12, 12)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 12))
    assert weights.max() > 0.5, "neither uniform"
    assert (weights.sum(dim=1) - 1).abs().max() > 0.1, "nor the other axis"

    def at(layer: nn.Conv2d, pixel: Tensor) -> Tensor:
        assert layer.bias is not None
        return layer.weight[:, :, 0, 0] @ pixel + layer.bias

    for image, found in zip(x, block(x), strict=True):
        pixels = image.flatten(1).T
        for j, pixel in enumerate(pixels):
            scores = torch.stack([at(block.key, other) @ at(block.query, pixel) for other in pixels])
            values = torch.stack([at(block.value, other) for other in pixels])
            wanted = pixel + 0.7 * (torch.softmax(scores, 0)[:, None] * values).sum(dim=0)
            torch.testing.assert_close(found.flatten(1)[:, j], wanted, rtol=1e-4, atol=1e-5)


def test_attention_does_not_care_where_pixels_are() -> None:
    block, x = attending(), torch.randn(1, 8, 3, 4)
    nn.init.ones_(block.gamma)
    torch.testing.assert_close(block(x.flip(3)), block(x).flip(3), rtol=1e-4, atol=1e-5)


# --- networks --------------------------------------------------------------------------------------------------------


def test_parameter_counts_follow_from_thoughtviz_and_the_attention_blocks() -> None:
    with torch.device("meta"):
        model = build(EPOC)
        deeper = build(EPOC, generator_attention=3, discriminator_attention=4)
        plain = build(EPOC, generator_attention=0, discriminator_attention=0)
    assert count(model.encoder) == 38_047 - 1_010 - 200, "the classifier's head and its norm are left out"
    assert count(plain.generator) == 5_147_983 - 2_120
    assert count(plain.discriminator) == 1_578_369
    assert count(model.generator) - count(plain.generator) == count(model.generator.attention) == 20_641
    assert count(model.discriminator) - count(plain.discriminator) == 5_201
    assert count(deeper.generator.attention) == 5_201
    assert count(deeper.discriminator.attention) == 20_641


def test_attention_sits_where_the_options_say() -> None:
    sizes: dict[str, list[tuple[int, ...]]] = {}
    for name, after in (("first", (2, 3)), ("second", (3, 4))):
        torch.manual_seed(0)
        model = build(EPOC, generator_width=128, generator_attention=after[0], discriminator_attention=after[1]).eval()
        sizes[name] = []
        for block in (model.generator.attention, model.discriminator.attention):
            assert block is not None
            block.register_forward_hook(lambda _, given, __, name=name: sizes[name].append(tuple(given[0].shape[1:])))
        model.discriminator(model.generator(torch.zeros(1, 100), torch.ones(1, 100)))
    assert sizes == {"first": [(32, 16, 16), (64, 14, 14)], "second": [(16, 32, 32), (128, 12, 12)]}


def test_images_fill_the_whole_range_unlike_thoughtviz() -> None:
    model = tiny().eval()
    bias = model.generator.get_parameter("up.1.bias")
    with torch.no_grad():
        bias.copy_(torch.tensor([-50.0, 0.0, 50.0]))
        images = model.decode(torch.ones(1, 100), torch.zeros(1, 5))
    assert images.shape == (1, 3, 16, 16)
    assert images[0, :, 8, 8].tolist() == pytest.approx([0, 0.5, 1], abs=0.2)


def test_the_condition_multiplies_the_noise() -> None:
    generator = tiny().eval().generator
    noise, feature = torch.rand(3, 5), torch.rand(3, 100)
    assert torch.equal(generator(noise, 0 * feature), generator(0 * noise, 0 * feature))
    assert not torch.allclose(generator(noise, feature), generator(0 * noise, feature), atol=1e-4)
    assert not torch.allclose(generator(noise, feature), generator(noise, feature.flip(0)), atol=1e-4)


def test_recordings_are_microvolts_or_standardised() -> None:
    eeg = torch.from_numpy(training_data().eeg)
    raw, standard = tiny().eval(), tiny(eeg_scaling="standard").eval()
    assert torch.equal(raw.encode(eeg), raw.encoder(eeg * 1e6))
    torch.testing.assert_close(standard.encode(eeg), standard.encode(3 * eeg + 4e-3), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(raw.encode(eeg), raw.encode(3 * eeg), atol=1e-3)


def test_noise_is_uniform_between_minus_one_and_one() -> None:
    model = tiny()
    drawn = np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(2000)])
    assert drawn.dtype == np.float32
    assert -1 <= drawn.min() < -0.99
    assert 0.99 < drawn.max() < 1
    assert drawn.std() == pytest.approx(3**-0.5, rel=0.03)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"resolution": 48}, "resolution of NeuroGAN must be a power of two from 16, but is 48; try 32 or 64."),
        (
            {"generator_width": 100},
            "generator_width must be a multiple of 8 to be halved from 4×4 to 64×64, but is 100; try 128.",
        ),
        ({"generator_attention": 4}, "generator_attention must be a layer from 1 to 3, or 0, but is 4."),
        ({"discriminator_attention": 7}, "discriminator_attention must be a layer from 1 to 6, or 0, but is 7."),
        (
            {"discriminator_width": 1},
            "self-attention needs a multiple of 8 channels, but after 3 layers there are 4; "
            "choose another discriminator_attention or width.",
        ),
        ({"perceptual": "lpips"}, "perceptual must be 'vgg16' or 'image-classifier', but is 'lpips'."),
        ({"discriminator_dropout": 1.0}, "discriminator_dropout must be at least 0 and less than 1, but is 1.0."),
        ({"perceptual_weight": -1.0}, "perceptual_weight must be at least 0, but is -1.0."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with refused(message):
        build(SPEC, **overrides)


def test_cards_are_valid_and_build() -> None:
    cards = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models/neurogan.yaml")]
    assert [card.id for card in cards] == ["neurogan", "neurogan.small"]
    for card in cards:
        assert card.builder is not None
        with torch.device("meta"):
            model = load_object(card.builder)(card.eeg or SPEC, **card.preset)
        assert model.resolution == card.resolution
        assert any("reconstruction" in note for note in card.notes)
    assert {claim.status for claim in cards[0].claims} == {"third-party"}
    assert not cards[0].preset
    assert not cards[1].claims


# --- the perceptual term ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg_state() -> dict[str, np.ndarray]:
    """Random weights under torchvision's names."""
    rng, state = np.random.default_rng(0), {}
    shapes = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256)]
    for index, a, b in shapes:
        state[f"features.{index}.weight"] = rng.normal(0, (2 / (9 * a)) ** 0.5, (b, a, 3, 3)).astype(np.float32)
        state[f"features.{index}.bias"] = rng.normal(0, 0.1, b).astype(np.float32)
    return state


def test_vgg_features_are_relu2_2_and_relu3_3(vgg_state: dict[str, np.ndarray]) -> None:
    network, image = VGG16(vgg_state), torch.rand(2, 3, 16, 16) * 2 - 1
    x = (0.5 * image + 0.5 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    wanted = []
    for block in ((0, 2), (5, 7), (10, 12, 14)):
        for index in block:
            weight, bias = (torch.from_numpy(vgg_state[f"features.{index}.{name}"]) for name in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
        wanted.append(x)
        x = F.max_pool2d(x, 2)
    for found, layer in zip(network.maps(image), wanted[1:], strict=True):
        torch.testing.assert_close(found, layer, rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_perceptual_loss_is_the_mean_absolute_difference_of_maps(vgg_state: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    fake, real = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(2, 3, 16, 16)
    for network in (VGG16(vgg_state), ImageClassifier(3, 4, 2).eval()):
        loss = perceptual_loss(network, fake, real)
        differences = [(a - b).abs().mean() for a, b in zip(network.maps(fake), network.maps(real), strict=True)]
        assert loss.item() == pytest.approx(sum(d.item() for d in differences), rel=1e-5)
        assert perceptual_loss(network, real, real).item() == 0
        (gradient,) = torch.autograd.grad(loss, fake)
        assert gradient.abs().amax(dim=1).gt(0).float().mean() > 0.99, "every pixel is taught"


def test_missing_or_other_vgg_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        MissingError, match=r"^perceptual='vgg16' needs torchvision's vgg16-397923af\.pth, which is not in "
    ) as caught:
        recipes(tiny(perceptual="vgg16"), training_data(), seed=0)
    assert str(caught.value).endswith("or set perceptual=image-classifier")
    path = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with refused(
        f"{path} must have the sha256 that its name begins, but has f41f3fa625ff120d…; delete it.", IntegrityError
    ):
        load_vgg16()


# --- training --------------------------------------------------------------------------------------------------------


def test_phases_follow_from_the_data() -> None:
    data = training_data()
    encoder, classifier, gan = recipes(tiny(encoder_epochs=5, gan_epochs=4), data, seed=0)
    assert (encoder.name, encoder.n_steps, encoder.eval_every) == ("encoder", 10, 2)
    assert (classifier.name, classifier.n_steps) == ("image_classifier", 6)
    assert (gan.name, gan.n_steps, set(gan.modules())) == ("gan", 12, {"generator", "discriminator"})
    finetuned = gan_of(tiny(encoder_in_gan="finetuned"))
    assert set(finetuned.modules()) == {"generator", "discriminator", "encoder"}
    assert [recipe.name for recipe in recipes(tiny(), training_data(with_images=False), seed=0)] == ["encoder"]
    with refused("training NeuroGAN needs trials in the train role, but the split has none; choose another."):
        recipes(tiny(), dataclasses.replace(data, train=np.array([], dtype=np.int64)), seed=0)
    with refused("training the GAN needs a picture of every class, but class 1 has none; add one."):
        recipes(tiny(), dataclasses.replace(data, image_labels=np.zeros(4, dtype=np.int64)), seed=0)


def test_a_step_is_the_two_updates_written_out() -> None:
    model = tiny(classification_weight=0.5, perceptual_weight=2.0, discriminator_dropout=0.0)
    twin, classifier = copy.deepcopy(model), ImageClassifier(3, 2, 2).eval()
    real, feature, noise = torch.rand(4, 3, 16, 16) * 2 - 1, torch.rand(4, 100), torch.rand(4, 5) * 2 - 1
    labels = torch.tensor([0, 1, 1, 0])
    losses = gan_step(
        model,
        classifier,
        classifier,
        real=real,
        feature=feature,
        noise=noise,
        labels=labels,
        learnt=[model.generator],
        optimizers=tuple(  # type: ignore[arg-type]
            KerasAdam(part.parameters(), lr=1e-3, betas=(0.5, 0.999)) for part in (model.generator, model.discriminator)
        ),
    )
    g, d = twin.generator.train(), twin.discriminator.train()
    g_optimizer, d_optimizer = (KerasAdam(part.parameters(), lr=1e-3, betas=(0.5, 0.999)) for part in (g, d))
    fake = g(noise, feature)
    loss = F.binary_cross_entropy(d(real), torch.ones(4, 1)) + F.binary_cross_entropy(
        d(fake.detach()), torch.zeros(4, 1)
    )
    loss.backward()  # type: ignore[no-untyped-call]
    d_optimizer.step()
    g_optimizer.zero_grad()
    adversarial = F.binary_cross_entropy(d(fake), torch.ones(4, 1))
    verdict = F.nll_loss(classifier(fake).log(), labels)
    perceptual = perceptual_loss(classifier, fake, real)
    total = adversarial + 0.5 * verdict + 2 * perceptual + 0.01 * g.gaussian.std.square().sum()
    total.backward()  # type: ignore[no-untyped-call]
    g_optimizer.step()
    wanted = {"discriminator": loss, "generator": adversarial, "class": verdict, "perceptual": perceptual}
    assert losses == pytest.approx({name: value.item() for name, value in wanted.items()}, rel=1e-5)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_every_trial_is_compared_with_a_picture_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = training_data(), list[tuple[Tensor, Tensor]]()

    def watched(*_: Any, real: Tensor, labels: Tensor, **__: Any) -> dict[str, float]:
        seen.append((real, labels))
        return {}

    monkeypatch.setattr(neurogan, "gan_step", watched)
    gan = gan_of(tiny(), data)
    for step in range(30):
        gan.step(step, np.random.default_rng(step))
    shown = {
        (int(label), row)
        for real, labels in seen
        for picture, label in zip(real, labels, strict=True)
        for row, image in enumerate(data.images)
        if torch.equal(picture, scale_image(image, 16))
    }
    assert shown == {(0, 0), (1, 1), (0, 2), (1, 3)}
    assert [len(labels) for _, labels in seen[:3]] == [6, 6, 2]


@pytest.mark.parametrize("kind", ["frozen", "finetuned"])
def test_the_gan_trains_the_encoder_only_if_asked(kind: str) -> None:
    model = tiny(encoder_in_gan=kind)
    before = copy.deepcopy(model.encoder.state_dict())
    gan = gan_of(model)
    classifier = copy.deepcopy(gan.classifier.state_dict())
    for step in range(2):
        gan.step(step, np.random.default_rng(step))
    moved = {key for key, value in before.items() if not torch.equal(value, model.encoder.state_dict()[key])}
    assert ("conv_1.weight" in moved) == (kind == "finetuned")
    assert not any("running" in key for key in moved)
    assert all(torch.equal(value, gan.classifier.state_dict()[key]) for key, value in classifier.items())


def test_the_classifiers_learn() -> None:
    model = tiny(encoder_lr=0.02, image_classifier_lr=0.02, image_classifier_noise=0.0, eeg_scaling="standard")
    encoder, classifier, _ = recipes(model, training_data(n=40, n_val=20), seed=3)
    for phase, steps in ((encoder, 100), (classifier, 60)):
        losses = [phase.step(step, np.random.default_rng(step))["cross-entropy"] for step in range(steps)]
        assert np.mean(losses[-5:]) < 0.5 * losses[0], phase.name


@pytest.mark.parametrize(("phase", "kind"), [(0, "frozen"), (1, "frozen"), (2, "frozen"), (2, "finetuned")])
def test_an_interrupted_fit_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, phase: int, kind: str
) -> None:
    def training() -> tuple[Model, Recipe]:
        model = tiny(encoder_steps=6, gan_steps=6, encoder_in_gan=kind, gan_ema=0.9)
        return model, recipes(model, training_data(), seed=0)[phase]

    check_resuming(training, tmp_path)

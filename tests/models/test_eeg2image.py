from __future__ import annotations

import copy
import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.resuming import check_resuming
from zoo.errors import IntegrityError, UsageError
from zoo.models.base import Model
from zoo.models.convert import Converted
from zoo.models.convert.eeg2image import convert, forward_check, numpy_encoder
from zoo.models.eeg2image import (
    EEG2Image,
    EEG2ImageConfig,
    build,
    conv_tiled,
    discriminator_hinge,
    gan_step,
    recipes,
    scale_eeg,
    semi_hard_triplet_loss,
)
from zoo.models.layers import DiffAug, KerasAdam, conv_same, l2_normalise, mode_seeking, translate
from zoo.models.recipes import kmeans_accuracy, pair_images, scale_image
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, TrainingData

BundleWriter = Callable[..., Path]
SPEC = EEGSpec(ch_names=("Fz", "Cz", "Pz"), sfreq=128, tmin=0, n_times=8)
TINY: dict[str, Any] = {
    "lstm_units": (4, 6),
    "noise_dim": 5,
    "resolution": 16,
    "generator_width": 16,
    "discriminator_width": 4,
    "encoder_batch_size": 8,
    "gan_batch_size": 6,
}
STILL = 1e-300
"""A learning rate that moves no float32."""
NORM_BUFFERS = {"moving_mean": "running_mean", "moving_variance": "running_var"}


def tiny(**overrides: Any) -> EEG2Image:
    torch.manual_seed(0)
    return build(SPEC, **{**TINY, **overrides})


def training_data(*, n: int = 20, n_classes: int = 2, with_images: bool = True, n_val: int = 6) -> TrainingData:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    eeg = rng.standard_normal((n, 3, 8)).astype(np.float32) * 1e-5
    eeg += 4e-5 * np.sin(np.arange(8) * (1 + labels[:, None, None])).astype(np.float32)
    images = tuple(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(2 * n_classes))
    return TrainingData(
        eeg=eeg,
        labels=labels,
        train=np.arange(n - n_val),
        val=np.arange(n - n_val, n),
        n_classes=n_classes,
        images=images if with_images else (),
        image_labels=np.arange(2 * n_classes) % n_classes,
        image_of_trial=np.arange(n) % (2 * n_classes),
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def nchw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def close(got: Tensor | np.ndarray, wanted: np.ndarray, *, atol: float) -> None:
    got = got.detach().numpy() if isinstance(got, Tensor) else got
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def load(model: EEG2Image, converted: Converted) -> None:
    """Put a converted checkpoint into ``model``; what is missing belongs to other parts."""
    result = model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in converted.state.items()}, strict=False)
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if key.partition(".")[0] in converted.parts]


@pytest.fixture(scope="session")
def arrays(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """``arrays(name)``: the fixture ``eeg2image_<name>.npz``."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / f"fixtures/eeg2image_{name}.npz") as data:
            return {key: data[key] for key in data.files}

    return read


@pytest.fixture(scope="session")
def released(shared: Path) -> EEG2Image:
    """The published model with the released encoder."""
    torch.manual_seed(0)
    epoc = EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128, tmin=0, n_times=32)
    model = build(epoc).eval()
    load(model, convert(shared / "data/licensed/eeg2image_triplenet"))
    return model


@pytest.fixture(scope="session")
def random_gan(
    arrays: Callable[[str], dict[str, np.ndarray]], write_bundle: BundleWriter, tmp_path_factory: pytest.TempPathFactory
) -> Converted:
    """The published GAN with the random weights of the fixtures, through a checkpoint as the authors' code saves it."""
    stored = arrays("generator") | arrays("discriminator")
    tensors = {f"model/{k}": v.astype(np.float32) for k, v in stored.items() if k.startswith(("gen/", "disc/"))}
    folder = tmp_path_factory.mktemp("gan")
    converted = convert(write_bundle(folder / "ckpt-210", tensors))
    shutil.rmtree(folder)
    return converted


@pytest.fixture
def gan(random_gan: Converted) -> EEG2Image:
    torch.manual_seed(0)
    epoc = EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128, tmin=0, n_times=32)
    model = build(epoc, **random_gan.config).eval()
    load(model, random_gan)
    return model


# --- the published network -------------------------------------------------------------------------------------------


@pytest.mark.parity
def test_released_encoder_gives_the_features_computed_with_tensorflow(released: EEG2Image, shared: Path) -> None:
    path = shared / "data/no_explicit_licence/thoughtviz_eeg_classifier/golden_60_windows.npz"
    if not path.exists():
        pytest.skip("needs the real windows, which have no explicit licence")
    with np.load(path) as data, torch.no_grad():
        got = released.encode(torch.from_numpy(data["image_x"]))
        # the trained encoder amplifies rounding: TensorFlow itself is up to 4e-4 from float64
        close(got, data["image_triplenet_feat"], atol=2e-3)
        assert np.sqrt(np.mean((got.numpy() - data["image_triplenet_feat"]) ** 2)) < 1e-4


@pytest.mark.parity
def test_triplet_loss_and_gradient_are_those_of_tensorflow_addons(
    arrays: Callable[[str], dict[str, np.ndarray]],
) -> None:
    data = arrays("encoder_train")
    for which in "ab":
        embedding = torch.from_numpy(data[f"emb_{which}"]).requires_grad_()
        loss = semi_hard_triplet_loss(embedding, torch.from_numpy(data["labels"]))
        (grad,) = torch.autograd.grad(loss, embedding)
        assert loss.item() == pytest.approx(data[f"loss_{which}"], abs=1e-7)
        close(grad, data[f"grad_{which}"], atol=4e-9)


@pytest.mark.parity
def test_encoder_trains_as_in_tensorflow(released: EEG2Image, arrays: Callable[[str], dict[str, np.ndarray]]) -> None:
    data, encoder = arrays("encoder_train"), copy.deepcopy(released.encoder)
    names = {"weight_ih_l0": "kernel", "weight_hh_l0": "recurrent_kernel", "bias_ih_l0": "bias"}
    variables = {
        f"triple_net/{cell}/{theirs}:0": encoder.get_parameter(f"lstm.{layer}.{ours}")
        for layer, cell in enumerate(("lstm/lstm_cell", "lstm_1/lstm_cell_1"))
        for ours, theirs in names.items()
    }
    optimizer = KerasAdam(variables.values(), lr=3e-4)
    x, labels = torch.from_numpy(data["train_x"]), torch.from_numpy(data["train_y"])
    for step, wanted in enumerate(data["train_losses"]):
        loss = semi_hard_triplet_loss(l2_normalise(encoder(x)), labels)
        # from the third step on, signs of near-zero gradients differ and Adam makes a full step of either
        assert loss.item() == pytest.approx(wanted, abs=1e-6 if step < 2 else 4e-3)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if step == 0:
            for name, variable in variables.items():
                assert variable.grad is not None
                scale = np.abs(data[f"grad1/{name}"]).max()
                close(variable.grad.t(), data[f"grad1/{name}"], atol=1e-4 * scale)
        optimizer.step()
    for name, variable in variables.items():
        close(variable.t(), data[f"after5/{name}"], atol=2e-3)


@pytest.mark.parity
def test_generator_gives_the_images_of_the_original(
    gan: EEG2Image, arrays: Callable[[str], dict[str, np.ndarray]]
) -> None:
    data = arrays("generator")
    code, generator = torch.from_numpy(data["zc"]), copy.deepcopy(gan.generator).double()
    with torch.no_grad():  # in float64, where what is left is TensorFlow's own rounding
        first = F.leaky_relu(generator.up[0](code.double()[:, :, None, None]), 0.3)
        second = F.leaky_relu(generator.norm[0](generator.up[1](first)), 0.3)
        close(first.permute(0, 2, 3, 1), data["gen_inter_0"], atol=1e-6)
        close(second.permute(0, 2, 3, 1), data["gen_inter_1"], atol=5e-6)
        close(generator(code.double()).permute(0, 2, 3, 1), data["img_infer"], atol=5e-6)
        assert not first[:, :, 3].any()
        assert not first[:, :, :, 3].any()
        images = gan.decode(code[:, 128:], code[:, :128])
    close(images.permute(0, 2, 3, 1), 0.5 * data["img_infer"] + 0.5, atol=5e-6)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parity
def test_discriminator_gives_the_logits_of_the_original(
    gan: EEG2Image, arrays: Callable[[str], dict[str, np.ndarray]]
) -> None:
    data, discriminator = arrays("discriminator"), gan.discriminator
    image, feature = nchw(data["x"]), torch.from_numpy(data["c"])
    exact = copy.deepcopy(discriminator).double()
    with torch.no_grad():
        close(discriminator(image, feature), data["logit_infer"], atol=5e-6)
        close(discriminator.train()(image, feature), data["logit_train"], atol=5e-6)
        # in float64, where what is left is TensorFlow's own rounding
        close(exact(image.double(), feature.double()), data["logit_infer"], atol=1e-6)
        close(exact.train()(image.double(), feature.double()), data["logit_train"], atol=1e-6)
    for key in data:
        if key.startswith("after/"):
            _, _, _, level, name = key.split("/")
            close(discriminator.get_buffer(f"norm.{level}.{NORM_BUFFERS[name]}"), data[key], atol=1e-6)


@pytest.mark.parity
def test_losses_are_those_of_the_original(gan: EEG2Image, arrays: Callable[[str], dict[str, np.ndarray]]) -> None:
    data, other = arrays("losses"), arrays("discriminator")
    codes = (torch.from_numpy(data["zc"]), torch.from_numpy(data["zc2"]))
    feature = codes[0][:, 128:]
    with torch.no_grad():
        fakes = (gan.generator(codes[0]), gan.generator(codes[1]))
        gan.discriminator.train()
        real = gan.discriminator(nchw(other["x"]), torch.from_numpy(other["c"]))
        logits = [gan.discriminator(fake, feature) for fake in fakes]
        mode = mode_seeking(fakes, codes)
    for got, name in ((real, "d_real"), (logits[0], "d_fake"), (logits[1], "d_fake2"), (mode, "mode_loss")):
        close(got, data[name], atol=5e-6)
    close(discriminator_hinge(real, logits[0]), data["disc_hinge"], atol=5e-6)
    close(mode - logits[0].mean() - logits[1].mean(), data["gen_total"], atol=1e-5)
    assert mode.item() == pytest.approx(1 / (data["mode_ratio"] + 1e-5), rel=1e-5)


@pytest.mark.parity
def test_augmentation_is_that_of_the_original(arrays: Callable[[str], dict[str, np.ndarray]]) -> None:
    data = arrays("diffaug")
    x = nchw(data["x"])
    drawn = {name: data[f"u_{name}"].ravel() for name in ("brightness", "saturation", "contrast")}
    rows, columns = data["shift_rows"].ravel(), data["shift_cols"].ravel()
    neutral = {"brightness": 0.5, "saturation": 0.5, "contrast": 0.5}
    still = np.zeros(2, dtype=np.int32)
    for name, value in drawn.items():
        others = {other: np.full(2, mid, dtype=np.float32) for other, mid in neutral.items()}
        one = DiffAug(**{**others, name: value[:2]}, rows=still, columns=still)
        close(one(x[:2]).permute(0, 2, 3, 1), data[f"out_{name}"], atol=5e-7)
    close(translate(x, rows, columns).permute(0, 2, 3, 1), data["out_translation"].astype(np.float32), atol=0)
    whole = DiffAug(**drawn, rows=rows, columns=columns)
    close(whole(x)[:3].permute(0, 2, 3, 1), data["out_pipeline"], atol=1e-6)


@pytest.mark.parity
def test_pictures_and_rounding_are_those_of_the_original(arrays: Callable[[str], dict[str, np.ndarray]]) -> None:
    data = arrays("misc")
    for which in "ab":
        close(scale_image(data[f"img_{which}"], 128).permute(1, 2, 0), data[f"img_{which}_pre"], atol=0)
    assert EEG2Image.rounding == "truncate"
    unit = 0.5 * torch.from_numpy(data["tanh_out"]) + 0.5
    np.testing.assert_array_equal((unit * 255).clamp(0, 255).to(torch.uint8).numpy(), data["tanh_out_uint8"])


def test_parameter_counts_are_the_published_ones() -> None:
    model = build(EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128, tmin=0, n_times=32))
    assert {name: count(part) for name, part in model.parts().items()} == {
        "encoder": 88_448,
        "generator": 8_647_456,
        "discriminator": 6_355_587,
    }
    vectors = sum(value.numel() for key, value in model.generator.named_buffers() if key.endswith("u"))
    moving = {
        name: sum(value.numel() for key, value in part.named_buffers() if "running" in key)
        for name, part in model.parts().items()
    }
    assert vectors == 2_243
    assert moving == {"encoder": 0, "generator": 1_984, "discriminator": 3_970}


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_scaled_eeg_is_relative_to_half_the_maximum() -> None:
    eeg = torch.tensor([[[1.0, 4.0], [-2.0, 0.0]], [[-1.0, -3.0], [-2.0, -2.0]]])
    scaled = scale_eeg(eeg)
    assert scaled[0].tolist() == [[-0.5, -2.0], [1.0, -1.0]]  # time before channels
    assert scaled[1].tolist() == [[1.0, 3.0], [5.0, 3.0]]  # a negative maximum flips the sign
    torch.testing.assert_close(scale_eeg(eeg * 1e-6), scaled)


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (np.nan, "nan"), (np.inf, "inf")])
def test_a_trial_that_cannot_be_scaled_is_refused(value: float, shown: str) -> None:
    eeg = torch.ones(3, 2, 4)
    eeg[1] = value
    message = (
        "EEG2Image divides a trial by half its maximum, which must be finite and not 0, "
        f"but trial 1 of 3 has maximum {shown}; leave such trials out of the split."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        tiny_encode(eeg)


def tiny_encode(eeg: Tensor) -> Tensor:
    return build(EEGSpec(ch_names=("a", "b"), sfreq=128, tmin=0, n_times=4), **TINY).encode(eeg)


def brute_force_triplet_loss(x: np.ndarray, labels: np.ndarray, margin: float) -> float:
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    terms = []
    for a in range(len(x)):
        others = distance[a, labels != labels[a]]
        for p in np.flatnonzero(labels == labels[a]):
            if p != a:
                farther = others[others > distance[a, p]]
                terms.append(max(0.0, margin + distance[a, p] - (farther.min() if len(farther) else others.max())))
    return float(np.mean(terms))


@pytest.mark.parametrize("seed", range(4))
def test_triplet_loss_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((13, 5)), rng.integers(0, 3, 13)
    got = semi_hard_triplet_loss(torch.from_numpy(x), torch.from_numpy(labels), margin=0.7)
    assert got.item() == pytest.approx(brute_force_triplet_loss(x, labels, 0.7))
    order = rng.permutation(13)
    again = semi_hard_triplet_loss(torch.from_numpy(x[order]), torch.from_numpy(labels[order]), margin=0.7)
    assert again.item() == pytest.approx(got.item())


def test_triplet_loss_at_its_edges() -> None:
    def loss(x: Tensor, labels: list[int]) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        value = semi_hard_triplet_loss(x, torch.tensor(labels))
        return value.item(), torch.autograd.grad(value, x)[0]

    apart = torch.eye(3)
    assert loss(apart, [0, 1, 2])[0] == 0  # no positive pair
    assert loss(apart, [0, 0, 0])[0] == pytest.approx(1 + 2**0.5)  # no negative: d_an is 0
    value, grad = loss(torch.ones(4, 3), [0, 0, 1, 1])  # a collapsed encoder sits at the margin, without a gradient
    assert value == 1
    assert not grad.any()


def test_translation_shifts_and_pads_with_grey() -> None:
    x = torch.arange(1.0, 13.0).view(1, 1, 3, 4).expand(2, -1, -1, -1)
    out = translate(x, np.array([1, 0]), np.array([0, -2]))
    assert out[0, 0].tolist() == [[5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 0]]
    assert out[1, 0].tolist() == [[0, 0, 1, 2], [0, 0, 5, 6], [0, 0, 9, 10]]


def test_augmentation_draws_cover_their_ranges() -> None:
    draw = DiffAug.draw(np.random.default_rng(0), 4000, 32)
    assert set(draw.rows) == set(draw.columns) == set(range(-4, 5))
    for u in (draw.brightness, draw.saturation, draw.contrast):
        assert u.dtype == np.float32
        assert 0 <= u.min() < 0.01
        assert 0.99 < u.max() < 1


@pytest.mark.parametrize("size", [4, 16])
def test_tiling_the_feature_is_the_convolution_of_the_tiled_feature(size: int) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, size, size, dtype=torch.float64)
    feature, weight = torch.randn(2, 5, dtype=torch.float64), torch.randn(7, 8, 3, 3, dtype=torch.float64)
    feature.requires_grad_()
    weight.requires_grad_()
    whole = torch.cat([image, feature[:, :, None, None].expand(-1, -1, size, size)], dim=1)
    wanted, got = conv_same(whole, weight, stride=2), conv_tiled(image, feature, weight)
    torch.testing.assert_close(got, wanted)
    probe = torch.randn_like(wanted)
    for a, b in zip(
        torch.autograd.grad((got * probe).sum(), (feature, weight)),
        torch.autograd.grad((wanted * probe).sum(), (feature, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_mode_loss_counts_the_shared_feature_in_its_denominator() -> None:
    codes = (torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    images = (torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.25))
    assert mode_seeking(images, codes).item() == pytest.approx(1 / (0.25 / 0.5 + 1e-5))


def test_hinge_is_half_of_both_sides() -> None:
    assert discriminator_hinge(torch.tensor([[2.0], [0.0]]), torch.tensor([[-3.0], [1.0]])).item() == 0.75


def test_kmeans_accuracy_matches_clusters_to_classes() -> None:
    corners = np.repeat(np.eye(3, dtype=np.float32) * 10, 10, axis=0)
    corners += np.random.default_rng(0).normal(0, 0.01, corners.shape).astype(np.float32)
    labels = np.repeat([2, 0, 1], 10)
    assert kmeans_accuracy(corners, labels, 3) == 1
    wrong = labels.copy()
    wrong[:3] = 0
    assert kmeans_accuracy(corners, wrong, 3) == pytest.approx(0.9)


# --- the model -------------------------------------------------------------------------------------------------------


def test_shapes_ranges_and_batch_independence() -> None:
    model = tiny().eval()
    eeg = torch.from_numpy(training_data().eeg[:8])
    noise = torch.from_numpy(np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(8)]))
    with torch.no_grad():
        features = model.encode(eeg)
        images = model.decode(features, noise)
        one = model.decode(model.encode(eeg[3:4]), noise[3:4])
    assert features.shape == (8, 6)
    assert features.abs().max() < 1
    assert noise.dtype == torch.float32
    assert noise.shape == (8, 5)
    assert images.shape == (8, 3, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    torch.testing.assert_close(one[0], images[3], rtol=0, atol=1e-6)
    assert list(model.parts()) == ["encoder", "generator", "discriminator"]


def test_noise_is_uniform_between_minus_one_and_one() -> None:
    noise = tiny(noise_dim=20_000).draw_noise(np.random.default_rng(0))
    assert -1 <= noise.min() < -0.999
    assert 0.999 < noise.max() < 1
    assert noise.std() == pytest.approx(1 / np.sqrt(3), rel=0.02)


def test_building_is_decided_by_torchs_seed() -> None:
    first, second = tiny().state_dict(), tiny().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_networks_follow_from_the_resolution(resolution: int) -> None:
    model = tiny(resolution=resolution, generator_width=32)
    image = model.generator(torch.zeros(2, 11))
    assert image.shape == (2, 3, resolution, resolution)
    assert model.discriminator(image, torch.zeros(2, 6)).shape == (2, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"resolutoin": 64}, "EEG2ImageConfig has no option 'resolutoin'; did you mean 'resolution'?"),
        ({"resolution": 48}, "resolution of EEG2Image must be a power of two from 16, but is 48; try 32 or 128."),
        (
            {"generator_width": 24},
            "generator_width must be a multiple of 32 to be halved from 4×4 to 128×128, but is 24; try 512.",
        ),
        ({"semantics": "intended"}, "semantics must be 'as_run' or 'as_intended', but is 'intended'."),
        ({"image_pairing": "none"}, "image_pairing must be 'class' or 'instance', but is 'none'."),
        ({"gan_batch_size": 0}, "gan_batch_size must be at least 1, but is 0."),
        ({"encoder_steps": -3}, "encoder_steps must be at least 0, but is -3."),
        ({"gan_epochs": -1}, "gan_epochs must be at least 0, but is -1."),
        ({"margin": -0.5}, "margin must be at least 0, but is -0.5."),
        ({"lstm_units": [0, 4]}, "lstm_units must be at least 1, but are (0, 4)."),
        ({"encoder_lr": 0}, "encoder_lr must be more than 0, but is 0.0."),
        ({"gan_betas": [0.2, 1]}, "gan_betas must be at least 0 and less than 1, but is (0.2, 1.0)."),
        ({"gan_ema": -0.1}, "gan_ema must be at least 0 and less than 1, but is -0.1."),
        ({"gan_ema": "inf"}, "gan_ema of EEG2ImageConfig must be finite, but is 'inf'."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **overrides)


def test_cards_are_valid_and_build() -> None:
    cards = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models/eeg2image.yaml")]
    assert [card.id for card in cards] == [
        "eeg2image",
        "eeg2image.as-intended",
        "eeg2image.small",
        "eeg2image.small-softmax",
    ]
    for card in cards:
        assert card.builder is not None
        model = load_object(card.builder)(card.eeg or SPEC, **card.preset)
        assert model.resolution == card.resolution
        assert {claim.status for claim in card.claims} <= {"seen", "third-party"}
    assert cards[0].eeg is not None
    assert cards[0].eeg.n_channels == 14
    assert not cards[0].preset
    assert not cards[1].claims
    assert not cards[2].claims


# --- training --------------------------------------------------------------------------------------------------------


def test_phases_follow_from_the_data() -> None:
    data = training_data()
    encoder, gan = recipes(tiny(encoder_epochs=5, gan_epochs=4), data, seed=0)
    assert (encoder.name, encoder.n_steps, encoder.eval_every) == ("encoder", 10, 2)
    assert (gan.name, gan.n_steps, gan.eval_every) == ("gan", 12, None)
    fixed = recipes(tiny(encoder_steps=500, gan_steps=7), data, seed=0)
    assert [(recipe.n_steps, recipe.eval_every) for recipe in fixed] == [(500, 5), (7, None)]
    assert [recipe.name for recipe in recipes(tiny(), training_data(with_images=False), seed=0)] == ["encoder"]
    assert recipes(tiny(), data, seed=0, select="last")[0].eval_every is None
    assert recipes(tiny(), training_data(n_val=0), seed=0)[0].eval_every is None


def test_impossible_data_is_refused() -> None:
    data = training_data()
    message = "training EEG2Image needs trials in the train role, but the split has none; choose another split."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(data, train=np.array([], dtype=np.int64)), seed=0)
    message = "training the GAN needs a picture of every class, but class 1 has none; add one."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(data, image_labels=np.zeros(4, dtype=np.int64)), seed=0)
    message = (
        "image_pairing='instance' needs a picture for every training trial, but 14 of 14 have none; "
        "use image_pairing='class'."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(image_pairing="instance"), dataclasses.replace(data, image_of_trial=np.full(20, -1)), seed=0)
    message = (
        "selecting the encoder by k-means needs a validation trial per class, at least 2, "
        "but there are 1; choose another split or select the last weights."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(data, val=np.array([19])), seed=0)


def test_encoder_learns_to_separate_two_frequencies() -> None:
    model, data = tiny(encoder_lr=0.01), training_data(n=40, n_val=20)
    recipe = recipes(model, data, seed=3)[0]
    before = recipe.step(0, np.random.default_rng(0))["triplet"]
    losses = [recipe.step(step, np.random.default_rng(step))["triplet"] for step in range(1, 60)]
    assert np.mean(losses[-5:]) < 0.5 * before
    assert recipe.validate() == 1
    assert not model.encoder.get_parameter("lstm.0.bias_hh_l0").any()


def test_training_is_repeatable_and_resumes_without_state() -> None:
    data = training_data()

    def run(model: EEG2Image, start: int, stop: int) -> None:
        encoder, gan = recipes(model, data, seed=1)
        for recipe in (encoder, gan):
            for step in range(start, stop):
                recipe.step(step, np.random.default_rng(step))

    first, second = tiny(), tiny()
    run(first, 0, 3)
    run(second, 0, 3)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())

    def resumed(at: int) -> Tensor:
        """The batches seen do not depend on where a run was taken up: only moving statistics change."""
        model = tiny(gan_lr=STILL)
        for start, stop in ((0, at), (at, 4)):
            gan = recipes(model, data, seed=1)[1]
            for step in range(start, stop):
                gan.step(step, np.random.default_rng(step))
        return model.discriminator.get_buffer("norm.0.running_mean")

    assert torch.equal(resumed(2), resumed(4))


@pytest.mark.parametrize("phase", [0, 1])
def test_an_interrupted_fit_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, phase: int) -> None:
    data = training_data()

    def training() -> tuple[Model, Recipe]:
        model = tiny(encoder_steps=5, gan_steps=5)
        return model, recipes(model, data, seed=0)[phase]

    check_resuming(training, tmp_path)


def test_gan_leaves_the_encoder_alone_and_encodes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = tiny(), training_data()
    calls: list[int] = []
    encode = EEG2Image.encode

    def counted(self: EEG2Image, eeg: Tensor) -> Tensor:
        calls.append(len(eeg))
        return encode(self, eeg)

    monkeypatch.setattr(EEG2Image, "encode", counted)
    gan = recipes(model, data, seed=0)[1]
    assert not calls  # the encoder phase comes first
    before = copy.deepcopy(model.encoder.state_dict())
    for step in range(4):
        losses = gan.step(step, np.random.default_rng(step))
    assert calls == [14]
    assert all(torch.equal(value, model.encoder.state_dict()[key]) for key, value in before.items())
    assert set(losses) == {"discriminator", "generator", "mode"}
    assert set(gan.modules()) == set(gan.optimizers()) == {"generator", "discriminator"}


def one_step(semantics: str) -> tuple[EEG2Image, EEG2Image]:
    """The model before and after one GAN step of rate ``STILL``, so that only statistics and spectral norm act."""
    model = tiny(semantics=semantics, gan_lr=STILL)
    before = copy.deepcopy(model)
    recipes(model, training_data(), seed=0)[1].step(0, np.random.default_rng(0))
    return before, model


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Kinds of tensors that differ: the last part of their names."""
    now = after.state_dict()
    return {key.rpartition(".")[2] for key, value in before.state_dict().items() if not torch.equal(value, now[key])}


def test_as_run_never_moves_the_generators_statistics_nor_its_spectral_norm() -> None:
    before, after = one_step("as_run")
    assert changed(before.generator, after.generator) == set()
    assert changed(before.discriminator, after.discriminator) == {"running_mean", "running_var", "num_batches_tracked"}
    assert after.discriminator.get_buffer("norm.0.num_batches_tracked").item() == 4


def test_as_intended_trains_each_network_in_its_own_half() -> None:
    before, after = one_step("as_intended")
    assert changed(before.generator, after.generator) == {
        "weight",
        "u",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert after.generator.get_buffer("norm.0.num_batches_tracked").item() == 2
    assert after.discriminator.get_buffer("norm.0.num_batches_tracked").item() == 2
    kernel = after.generator.get_parameter("up.1.weight")
    assert torch.linalg.matrix_norm(kernel.reshape(len(kernel), -1), ord=2).item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("semantics", ["as_run", "as_intended"])
def test_a_step_is_the_two_updates_written_out(semantics: str) -> None:
    """Against plain code that shares nothing with ``gan_step`` but losses and networks."""
    model = tiny(semantics=semantics)
    twin = copy.deepcopy(model)
    rng = np.random.default_rng(0)
    real, feature = torch.rand(4, 3, 16, 16) * 2 - 1, torch.rand(4, 6) * 2 - 1
    noise = (torch.rand(4, 5) * 2 - 1, torch.rand(4, 5) * 2 - 1)
    augment = [DiffAug.draw(rng, 4, 16) for _ in range(4)]
    optimizers = [
        KerasAdam(part.parameters(), lr=3e-4, betas=(0.2, 0.5)) for part in (model.generator, model.discriminator)
    ]
    losses = gan_step(
        model, real=real, feature=feature, noise=noise, augment=augment, optimizers=(optimizers[0], optimizers[1])
    )

    codes = [torch.cat([z, feature], dim=1) for z in noise]
    g_optimizer, d_optimizer = (
        KerasAdam(m.parameters(), lr=3e-4, betas=(0.2, 0.5)) for m in (twin.generator, twin.discriminator)
    )
    g, d = twin.generator, twin.discriminator
    g.eval(), d.train()
    hinge = discriminator_hinge(d(augment[0](real), feature), d(augment[1](g(codes[0]).detach()), feature))
    hinge.backward()  # type: ignore[no-untyped-call]
    d_optimizer.step()
    g.train(semantics == "as_intended"), d.train(semantics == "as_run")
    fakes = (g(codes[0]), g(codes[1]))
    logits = [d(augment[2](fakes[0]), feature), d(augment[3](fakes[1]), feature)]
    g_optimizer.zero_grad()
    mode = mode_seeking(fakes, (codes[0], codes[1]))
    (mode - logits[0].mean() - logits[1].mean()).backward()
    g_optimizer.step()
    assert losses["discriminator"] == pytest.approx(hinge.item(), rel=1e-5)
    assert losses["mode"] == pytest.approx(mode.item(), rel=1e-5)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_pictures_share_the_class_and_are_drawn_once_per_trial() -> None:
    data = training_data(n=400, n_val=0)
    rows = pair_images(data, seed=0, pairing="class")
    assert data.image_labels is not None
    np.testing.assert_array_equal(data.image_labels[rows], data.labels)
    assert set(rows) == {0, 1, 2, 3}
    np.testing.assert_array_equal(rows, pair_images(data, seed=0, pairing="class"))
    assert (rows != pair_images(data, seed=1, pairing="class")).any()
    np.testing.assert_array_equal(pair_images(data, seed=0, pairing="instance"), data.image_of_trial)


# --- conversion ------------------------------------------------------------------------------------------------------


def test_released_encoder_converts(shared: Path) -> None:
    folder = shared / "data/licensed/eeg2image_triplenet"
    converted = convert(folder)
    assert converted.parts == ("encoder",)
    assert converted.config == {"lstm_units": (32, 128)}
    assert sum(value.size for key, value in converted.state.items() if "bias_hh" not in key) == 88_448
    counters = converted.counters
    assert (counters["optimizer/iter"], counters["step"], counters["save_counter"]) == (430_760, 430_761, 2_420)
    assert set(converted.source_sha256) == {"ckpt-2420.index", "ckpt-2420.data-00000-of-00001"}
    with np.load(folder / "triplenet_ckpt2420.npz") as stored:
        np.testing.assert_array_equal(
            converted.state["encoder.lstm.0.weight_ih_l0"].T, stored["model.encoder.0.cell.kernel"]
        )
    assert forward_check(converted)["encoder"] < 1e-11
    for source in (folder / "ckpt-2420", folder / "ckpt-2420.index"):
        assert convert(source).source_sha256 == converted.source_sha256


def test_forward_check_notices_a_wrong_gate_order(shared: Path) -> None:
    converted = convert(shared / "data/licensed/eeg2image_triplenet")
    x = np.random.default_rng(0).uniform(-1, 1, (2, 32, 14))
    right = numpy_encoder(converted.state, x)
    kernel = converted.state["encoder.lstm.0.weight_ih_l0"]
    swapped = dict(converted.state) | {"encoder.lstm.0.weight_ih_l0": np.roll(kernel, 32, axis=0)}
    assert np.abs(numpy_encoder(swapped, x) - right).max() > 0.01
    # torch adds both biases, numpy reads one: the two can only disagree if the second is not zero
    broken = dataclasses.replace(
        converted, state=dict(converted.state) | {"encoder.lstm.0.bias_hh_l0": np.ones(128, dtype=np.float32)}
    )
    with pytest.raises(
        IntegrityError,
        match=r"^the converted encoder must compute in torch what it computes in numpy, within 1e-09, "
        r"but differs by [\d.e-]+; do not use these weights\.$",
    ):
        forward_check(broken)


def gan_variables(model: EEG2Image) -> dict[str, np.ndarray]:
    """A GAN checkpoint as the authors' code names it, with optimiser slots and counters (sheet, section 9.2)."""
    out: dict[str, np.ndarray] = {}
    keras = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for key, tensor in model.state_dict().items():
        part, *rest = key.split(".")
        value = tensor.numpy()
        if part == "encoder" or rest[-1] == "num_batches_tracked":
            continue
        kernel = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        match rest:
            case ["up", i, name]:
                out[f"model/gen/conv/{i}/{'w' if name == 'weight' else 'sn_u'}"] = kernel
            case ["rgb", name]:
                out[f"model/gen/last_conv/{'w' if name == 'weight' else 'sn_u'}"] = kernel
            case ["norm", i, name] if part == "generator":
                out[f"model/gen/bnorm/{int(i) + 1}/{keras[name]}"] = value
            case ["norm", i, name]:
                out[f"model/disc/cnn_bnorm/{i}/{keras[name]}"] = value
            case ["conv", i, _]:
                out[f"model/disc/cnn_conv/{i}/kernel"] = kernel
            case ["out", name]:
                out[f"model/disc/disc_out/{'kernel' if name == 'weight' else 'bias'}"] = value.T
    moments = {
        f"{name}/.OPTIMIZER_SLOT/{'gopt' if '/gen/' in name else 'copt'}/{slot}": np.zeros_like(value)
        for name, value in out.items()
        for slot in "mv"
    }
    scalars: dict[str, np.ndarray] = {
        "step": np.array(4, dtype=np.int32),
        "gopt/iter": np.array(3),
        "copt/learning_rate": np.array(3e-4, dtype=np.float32),
    }
    return out | moments | scalars | {"save_counter": np.array(2)}


def test_gan_checkpoint_round_trips(tmp_path: Path, write_bundle: BundleWriter) -> None:
    torch.manual_seed(1)
    model = build(SPEC, **{**TINY, "lstm_units": (32, 6)}).eval()
    converted = convert(write_bundle(tmp_path / "ckpt-3", gan_variables(model), rows_per_block=5))
    assert converted.parts == ("generator", "discriminator")
    assert converted.config == {
        "lstm_units": (32, 6),
        "noise_dim": 5,
        "generator_width": 16,
        "discriminator_width": 4,
        "resolution": 16,
        "semantics": "as_run",
    }
    assert converted.counters == {
        "step": 4,
        "save_counter": 2,
        "gopt/iter": 3,
        "copt/learning_rate": pytest.approx(3e-4),
    }
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    assert converted.state.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(converted.state[key], value.numpy(), strict=True)
    assert forward_check(converted)["generator"] < 1e-12


def test_moved_statistics_mean_that_the_generator_was_trained_as_intended(
    tmp_path: Path, write_bundle: BundleWriter
) -> None:
    model = tiny()
    model.generator.get_buffer("norm.0.running_mean").fill_(0.5)
    assert convert(write_bundle(tmp_path / "ckpt-3", gan_variables(model))).config["semantics"] == "as_intended"


@pytest.mark.parity
def test_published_gan_shapes_convert(random_gan: Converted) -> None:
    published = EEG2ImageConfig()
    for key in ("lstm_units", "noise_dim", "generator_width", "discriminator_width", "resolution"):
        assert random_gan.config[key] == getattr(published, key)
    assert forward_check(random_gan)["generator"] < 1e-9


def spoilt(kind: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    match kind:
        case "stranger":
            return tensors | {"model/gen/conv/9/bias": np.zeros(2, dtype=np.float32)}
        case "missing":
            return {k: v for k, v in tensors.items() if not k.startswith("model/gen/conv/1/w")}
        case "shape":
            return tensors | {"model/disc/disc_out/bias": np.zeros(2, dtype=np.float32)}
        case "half":
            return {k: v for k, v in tensors.items() if k.startswith("model/gen/")}
        case "slot":
            return {"model/gen/x/.OPTIMIZER_SLOT/gopt/m": np.zeros(2, dtype=np.float32)}
        case "nothing":
            return {"step": np.array(1)}
    raise KeyError(kind)


SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "stranger",
            "ckpt-3 holds model/gen/conv/9/bias with shape (2,), which no EEG2Image checkpoint has; "
            "convert it with the family it belongs to.",
        ),
        (
            "missing",
            f"ckpt-3 holds model/gen/conv/1/w/.OPTIMIZER_SLOT/gopt/m{SUFFIX}, a moment of no variable it has; "
            "it is not an EEG2Image checkpoint.",
        ),
        (
            "shape",
            "discriminator.out.bias must have shape (1,) to fit the rest of ckpt-3, but has (2,); "
            "it is not an EEG2Image checkpoint.",
        ),
        (
            "half",
            "ckpt-3 must hold discriminator.conv.0.weight, but does not; it is not a whole EEG2Image checkpoint.",
        ),
        (
            "slot",
            f"ckpt-3 holds model/gen/x/.OPTIMIZER_SLOT/gopt/m{SUFFIX}, a moment of no variable it has; "
            "it is not an EEG2Image checkpoint.",
        ),
        ("nothing", "ckpt-3 must hold an EEG2Image encoder or GAN, but holds no variable of either."),
    ],
)
def test_other_checkpoints_are_refused_by_name(
    tmp_path: Path, write_bundle: BundleWriter, kind: str, message: str
) -> None:
    tensors = spoilt(kind, gan_variables(tiny()))
    if kind == "missing":  # the variable is gone, its moments are not
        assert "model/gen/conv/1/w" not in tensors
        tensors["model/gen/conv/1/w/.OPTIMIZER_SLOT/gopt/m"] = np.zeros(2, dtype=np.float32)
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(write_bundle(tmp_path / "ckpt-3", tensors))


def test_a_folder_must_say_which_checkpoint(tmp_path: Path, write_bundle: BundleWriter) -> None:
    tensors = gan_variables(tiny())
    (tmp_path / "README.md").write_text("no checkpoint")
    for source in (tmp_path, tmp_path / "README.md", tmp_path / "ckpt-1"):
        message = (
            "--from must be a folder with the files of an EEG2Image checkpoint, ckpt-N.index and "
            f"ckpt-N.data-00000-of-00001, or their path up to ckpt-N, but {source} is neither; "
            "check what it holds."
        )
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            convert(source)
    write_bundle(tmp_path / "ckpt-1", tensors)
    for source in (tmp_path, tmp_path / "ckpt-1.data-00000-of-00001"):
        assert "ckpt-1.index" in convert(source).source_sha256
    write_bundle(tmp_path / "ckpt-2", tensors)
    message = f"{tmp_path} must hold one checkpoint, but holds ckpt-1, ckpt-2; give the prefix of one of them."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        convert(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/their/disk/ckpt-2"\n')
    assert "ckpt-2.index" in convert(tmp_path).source_sha256
    (tmp_path / "checkpoint").write_text("nothing\n")
    message = f"{tmp_path / 'checkpoint'} must name a checkpoint, but does not; give the prefix of one instead."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(tmp_path)

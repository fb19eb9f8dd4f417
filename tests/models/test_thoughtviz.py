from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.cli import app
from zoo.errors import IntegrityError, UsageError
from zoo.models import thoughtviz
from zoo.models.base import LabelConditioned
from zoo.models.convert.thoughtviz import convert, forward_check, numpy_encoder, read_classifier
from zoo.models.epoc import (
    Encoder,
    Gaussian,
    Head,
    ImageClassifier,
    KerasBatchNorm,
    KerasSGD,
    binary_cross_entropy,
    cross_entropy,
)
from zoo.models.layers import KerasAdam
from zoo.models.thoughtviz import (
    LabelledThoughtViz,
    SharedHead,
    ThoughtViz,
    ThoughtVizConfig,
    build,
    gan_step,
    recipes,
)
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import TrainingData, fit
from zoo.weights import load as load_weights

Arrays = dict[str, np.ndarray]
EPOC = EEGSpec(ch_names=tuple(f"E{i}" for i in range(14)), sfreq=128, tmin=0, n_times=32, unit="a.u.")
SPEC = EEGSpec(ch_names=("Fz", "Cz", "Pz"), sfreq=128, tmin=0, n_times=40)
TINY: dict[str, Any] = {
    "resolution": 16,
    "generator_width": 8,
    "discriminator_width": 4,
    "noise_dim": 5,
    "encoder_batch_size": 8,
    "image_classifier_width": 4,
    "image_classifier_batch_size": 6,
    "gan_batch_size": 6,
}
GREY: dict[str, Any] = {"colour": "grey", "resolution": 28, "mirror": False}
LEARNT = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "std": "std", "mean": "mean"}
MOVING = {"moving_mean": "running_mean", "moving_variance": "running_var"}
ENCODER = ["norm_0", "conv_1", "conv_2", "conv_4", "conv_6", "norm_8", "dense_9"]
GENERATOR = ["code.gaussian", "dense_1", "norm_1", "dense_2", "norm_2", "conv_1", "conv_2"]
DISCRIMINATOR = ["conv_1", "conv_2", "dense", "verdict"]


def tiny(**overrides: Any) -> ThoughtViz | LabelledThoughtViz:
    torch.manual_seed(0)
    return build(SPEC, **{**TINY, **overrides})


def training_data(*, n: int = 20, n_classes: int = 2, n_val: int = 6) -> TrainingData:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    eeg = rng.standard_normal((n, 3, 40)).astype(np.float32) * 1e-5
    eeg += 4e-5 * np.sin(np.arange(40) * (1 + labels[:, None, None]) / 2).astype(np.float32)
    return TrainingData(
        eeg=eeg,
        labels=labels,
        train=np.arange(n - n_val),
        val=np.arange(n - n_val, n),
        n_classes=n_classes,
        images=tuple(np.full((9, 7, 3), 200 * (i % 2) + 5 * i, dtype=np.uint8) for i in range(2 * n_classes)),
        image_labels=np.arange(2 * n_classes) % n_classes,
    )


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def moving(module: nn.Module) -> int:
    return sum(buffer.numel() for buffer in module.buffers())


def nchw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def close(got: Tensor | np.ndarray, wanted: np.ndarray, *, atol: float) -> None:
    got = got.detach().numpy() if isinstance(got, Tensor) else got
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def to_torch(value: np.ndarray) -> np.ndarray:
    """Keras' layout as torch's."""
    return np.ascontiguousarray(value.astype(np.float32).transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)


def to_keras(value: Tensor) -> np.ndarray:
    return (value.permute(2, 3, 1, 0) if value.ndim == 4 else value.t() if value.ndim == 2 else value).numpy()


def keras_name(key: str) -> tuple[int, str]:
    """``w/03_Dense/kernel`` → (3, "kernel")."""
    _, layer, name = key.split("/")[-3:]
    return int(layer.partition("_")[0]), name


def fill(module: nn.Module, data: Arrays, layers: list[str], *, prefix: str = "w/", shift: int = 0) -> None:
    """Put the fixture's weights of ``layers``, the first of which has number ``shift``, into ``module``."""
    state = {}
    for key in (key for key in data if key.startswith(prefix)):
        number, name = keras_name(key)
        if 0 <= number - shift < len(layers):
            state[f"{layers[number - shift]}.{(LEARNT | MOVING)[name]}"] = torch.from_numpy(
                to_torch(data[key]).astype(np.float32)
            )
    module.load_state_dict(state, strict=True)


@pytest.fixture(scope="session")
def arrays(shared: Path) -> Callable[[str], Arrays]:
    """``arrays(name)``: the fixture ``tv_<name>.npz``."""

    def read(name: str) -> Arrays:
        path = shared / f"fixtures/tv_{name}.npz"
        if not path.exists():
            pytest.skip(f"needs {path.name}")
        with np.load(path) as data:
            return {key: data[key] for key in data.files}

    return read


def classifier(data: Arrays) -> tuple[Encoder, Head]:
    encoder, head = Encoder(14, 32), Head(10)
    fill(encoder, data, ENCODER)
    fill(head, data, ["norm_10", "dense_11"], shift=7)
    return encoder, head


def grey(arrays: Callable[[str], Arrays]) -> ThoughtViz:
    """The published grey GAN with the random weights of the fixtures."""
    model = build(EPOC, **GREY)
    assert isinstance(model, ThoughtViz)
    fill(model.generator, arrays("generator_grey"), GENERATOR)
    fill(model.discriminator, arrays("discriminator_grey"), DISCRIMINATOR)
    return model.eval()


# --- the published networks ------------------------------------------------------------------------------------------


@pytest.mark.parity
def test_encoder_and_its_head_give_what_keras_gives(arrays: Callable[[str], Arrays]) -> None:
    data = arrays("eeg_classifier_infer")
    encoder, head = classifier(data)
    encoder.eval(), head.eval()
    seen: list[Tensor] = []
    for name in ("norm_0", "conv_1", "conv_2", "conv_4", "conv_6", "norm_8"):
        encoder.get_submodule(name).register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        features = encoder(torch.from_numpy(data["x"][..., 0]))
        softmax = head(features)
    # raw counts near 4200: float32 sums of them are known to 1e-3 or so before the first norm
    close(seen[0].permute(0, 2, 3, 1), data["act/00"], atol=7e-6)
    for number, out in ((1, seen[1]), (2, seen[2])):
        close(F.relu(out).permute(0, 2, 3, 1), data[f"act/0{number}"], atol=7e-6)
    close(F.relu(seen[3]), data["act/04"], atol=7e-6)
    close(F.relu(seen[4]).permute(0, 2, 3, 1), data["act/06"], atol=7e-6)
    close(seen[5], data["act/08"], atol=7e-6)
    close(features, data["embedding_layer9"], atol=7e-6)
    close(softmax, data["y_softmax"], atol=7e-6)
    assert features.min() >= 0


@pytest.mark.parity
def test_encoder_trains_as_in_keras(arrays: Callable[[str], Arrays]) -> None:
    data = arrays("eeg_classifier_trainstep")
    encoder, head = classifier(arrays("eeg_classifier_infer"))
    optimizer = KerasSGD([*encoder.parameters(), *head.parameters()], lr=1e-4, decay=1e-6, momentum=0.9)
    layers = {i: encoder.get_submodule(name) for i, name in enumerate(ENCODER)}
    layers |= {7: head.norm_10, 8: head.dense_11}
    for step in (0, 1):
        labels = torch.from_numpy(data[f"y{step}"].argmax(1))
        found = head(encoder(torch.from_numpy(data[f"x{step}"][..., 0])))
        loss = cross_entropy(found, labels)
        wanted, accuracy = data["loss_acc"][step]
        assert loss.item() == pytest.approx(wanted, abs=1e-4)  # two runs of the original differ by 2e-5
        assert (found.argmax(1) == labels).float().mean().item() == pytest.approx(accuracy, abs=1e-6)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for key in (key for key in data if key.startswith(f"after{step + 1}/")):
            number, name = keras_name(key)
            tensor = layers[number].state_dict()[(LEARNT | MOVING)[name]]
            # moving statistics of raw counts are near 4200 and 10 000: relative there
            np.testing.assert_allclose(to_keras(tensor), data[key], rtol=1e-5, atol=1e-4, err_msg=key)
    encoder.eval(), head.eval()
    with torch.no_grad():
        close(head(encoder(torch.from_numpy(data["x0"][..., 0]))), data["predict_after2"], atol=1e-4)


@pytest.mark.parity
def test_grey_gan_gives_what_keras_gives(arrays: Callable[[str], Arrays]) -> None:
    model, data = grey(arrays), arrays("generator_grey")
    noise, eeg = torch.from_numpy(data["noise"]), torch.from_numpy(data["eeg"])
    with torch.no_grad():
        close(model.generator(noise, eeg).permute(0, 2, 3, 1), data["image"], atol=4e-6)
        rgb = model.decode(eeg, noise)
        close(rgb[:, 1], 0.5 * data["image"][..., 0] + 0.5, atol=4e-6)
        assert rgb.shape == (4, 3, 28, 28)
        assert torch.equal(rgb[:, 0], rgb[:, 2])
        data = arrays("discriminator_grey")
        close(model.discriminator(nchw(data["image"]))[0], data["fake"], atol=3e-7)


@pytest.mark.parity
def test_acgan_discriminator_gives_what_keras_gives(arrays: Callable[[str], Arrays]) -> None:
    data = arrays("acgan_discriminator_grey")
    model = build(EPOC, **GREY, gan="acgan").eval()
    head = SharedHead(model.discriminator, 10)
    fill(model.discriminator, data, DISCRIMINATOR)
    fill(head, data, ["dense"], shift=4)
    with torch.no_grad():
        verdict, seen = model.discriminator(nchw(data["image"]))
        close(verdict, data["fake"], atol=4e-6)
        close(head(seen), data["aux"], atol=4e-6)


class Stub(nn.Module):
    """The fixtures' image classifier: one dense layer."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.kernel, self.bias = (torch.from_numpy(array.astype(np.float32)) for array in (kernel, bias))

    def forward(self, image: Tensor) -> Tensor:
        return F.softmax(image.permute(0, 2, 3, 1).flatten(1) @ self.kernel + self.bias, dim=1)


def gradients_close(module: nn.Module, data: Arrays, layers: list[str]) -> None:
    compared = 0
    for key in (key for key in data if key.endswith("/head")):
        number, name = keras_name(key.removesuffix("/head"))
        parameter = module.get_parameter(f"{layers[number]}.{LEARNT[name]}")
        assert parameter.grad is not None
        got = to_keras(parameter.grad)
        total, absolute = data[key.replace("/head", "/stats")]
        scale = np.abs(data[key]).max()
        close(got.ravel()[: len(data[key])], data[key], atol=6e-6 * max(scale, absolute / got.size))
        assert np.abs(got.astype(np.float64)).sum() == pytest.approx(absolute, rel=1e-5)
        assert got.astype(np.float64).sum() == pytest.approx(total, abs=1e-5 * absolute)
        compared += 1
    assert compared == len(list(module.parameters()))


@pytest.mark.parity
def test_gradients_of_learning_phase_0_are_those_of_keras(arrays: Callable[[str], Arrays]) -> None:
    data, model = arrays("grads_grey"), grey(arrays).train()  # as run: training mode, moving statistics
    stub = Stub(data["clf_kernel"], data["clf_bias"])
    fake_labels, real_labels = (torch.from_numpy(data[name].argmax(1)) for name in ("fake_labels", "real_labels"))
    noise, eeg = torch.from_numpy(data["noise"]), torch.from_numpy(data["eeg"])
    fake = model.generator(noise, eeg)
    close(fake.permute(0, 2, 3, 1), data["generated"], atol=4e-6)
    for name, image, target, labels in (
        ("D_real", nchw(data["real"]), 1.0, real_labels),
        ("D_fake", fake.detach(), 0.0, fake_labels),
        ("G", fake, 1.0, fake_labels),
    ):
        model.zero_grad()
        adversarial = binary_cross_entropy(model.discriminator(image)[0], target)
        klass = cross_entropy(stub(image), labels)
        loss = adversarial + klass
        if name == "G":
            gaussian = model.generator.code.gaussian
            assert gaussian is not None
            loss = loss + 0.01 * gaussian.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        close(torch.stack([loss, adversarial, klass]), data[f"{name}/parts"], atol=1e-5)
        own = {key.removeprefix(f"{name}/"): value for key, value in data.items() if key.startswith(f"{name}/grad")}
        part, layers = (model.generator, GENERATOR) if name == "G" else (model.discriminator, DISCRIMINATOR)
        gradients_close(part, own, layers)


def test_parameter_counts_are_the_published_ones() -> None:
    encoder, head = Encoder(14, 32), Head(10)
    assert count(encoder, head) == 38_047
    assert count(encoder, head) + moving(encoder) + moving(head) == 38_449
    colour, dark = build(EPOC), build(EPOC, **GREY)
    assert (count(colour.generator) + moving(colour.generator), moving(colour.generator)) == (5_147_983, 2_120)
    assert (count(colour.discriminator), moving(colour.discriminator)) == (1_578_369, 992)
    assert (count(dark.generator) + moving(dark.generator), moving(dark.generator)) == (6_844_873, 2_304)
    assert (count(dark.discriminator), moving(dark.discriminator)) == (3_485_441, 0)


@pytest.mark.parametrize(
    ("options", "generator", "discriminator"),
    [
        ({"gan": "thoughtviz", "condition": "label", **GREY}, 6_752_713, 3_485_441),
        ({"gan": "acgan", "condition": "label"}, 5_219_643, 1_624_459),
        ({"gan": "acgan", "condition": "label", **GREY}, 6_752_513, 3_495_691),
        ({"gan": "acgan", **GREY}, 6_844_673, 3_495_691),
        ({"gan": "deligan", "condition": "label"}, 5_219_863, 1_624_459),
        ({"gan": "deligan", "condition": "label", **GREY}, 6_752_713, 3_495_691),
        ({"gan": "deligan", **GREY}, 6_844_873, 3_495_691),
    ],
    ids=str,
)
def test_baselines_have_the_published_parameter_counts(
    options: dict[str, Any], generator: int, discriminator: int
) -> None:
    model = build(EPOC, **options)
    assert count(model.generator) + moving(model.generator) == generator
    heads = [] if options["gan"] == "thoughtviz" else [SharedHead(model.discriminator, 10)]
    assert count(model.discriminator, *heads) == discriminator


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_phase_0_normalises_by_what_it_knew_and_remembers_the_batch() -> None:
    norm = KerasBatchNorm(2, momentum=0.8, phase_0=True)
    x = torch.tensor([[0.0, 10.0], [4.0, 10.0]], requires_grad=True)
    out = norm(x)
    torch.testing.assert_close(out, x / np.sqrt(1.001))
    assert norm.running_mean.tolist() == pytest.approx([0.2 * 2, 0.2 * 10])
    assert norm.running_var.tolist() == pytest.approx([0.8 + 0.2 * 4, 0.8])  # biased: 4, not 8
    (gradient,) = torch.autograd.grad(out[0, 0], x)
    assert gradient.tolist() == [[pytest.approx(1 / np.sqrt(1.001)), 0], [0, 0]]  # nothing through the batch
    norm.eval()
    torch.testing.assert_close(norm(x)[0, 0], (0 - torch.tensor(0.4)) / (1.6 + 1e-3) ** 0.5)
    assert norm.running_mean.tolist() == pytest.approx([0.4, 2.0])


def test_outside_of_phase_0_the_batch_normalises_itself() -> None:
    norm, x = KerasBatchNorm(3), torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    out = norm(x)
    over = (0, 2, 3)
    variance = x.var(dim=over, correction=0)
    torch.testing.assert_close(out.mean(dim=over), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var(dim=over, correction=0), variance / (variance + 1e-3))
    torch.testing.assert_close(norm.running_var, 0.99 + 0.01 * variance)


def test_keras_sgd_is_nesterov_with_a_rate_that_decays() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = KerasSGD([parameter], lr=0.1, decay=0.5, momentum=0.9)
    value, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for t in range(4):
        parameter.grad = 2 * parameter.detach()
        optimizer.step()
        rate, gradient = 0.1 / (1 + 0.5 * t), 2 * value
        velocity = 0.9 * velocity - rate * gradient
        value = value + 0.9 * velocity - rate * gradient
        close(parameter, value.astype(np.float32), atol=1e-6)


def test_losses_are_clipped_as_in_keras() -> None:
    limit = -np.log(1e-7)
    assert binary_cross_entropy(torch.tensor([[0.0]]), 1.0).item() == pytest.approx(limit, rel=1e-5)
    assert binary_cross_entropy(torch.tensor([[0.25], [0.5]]), 0.0).item() == pytest.approx(
        (np.log(4 / 3) + np.log(2)) / 2
    )
    shares = torch.tensor([[1.0, 3.0], [2.0, 0.0]])  # renormalised to a sum of 1 first
    assert cross_entropy(shares, torch.tensor([0, 1])).item() == pytest.approx((np.log(4) + limit) / 2, rel=1e-5)


def test_gaussian_layer_starts_narrow_and_is_one_affine_map() -> None:
    torch.manual_seed(0)
    layer = Gaussian(1000)
    assert layer.std.abs().max() < 0.2 < layer.mean.abs().max() < 1
    assert layer.std.min() < -0.19  # may be negative
    noise = torch.rand(4, 1000)
    torch.testing.assert_close(layer(noise) - layer(torch.zeros(4, 1000)), noise * layer.std)
    assert layer.penalty().item() == pytest.approx((layer.std.detach().numpy() ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize(("n_channels", "n_times", "left"), [(3, 21, 1), (14, 32, 2), (128, 440, 47)])
def test_encoder_follows_channels_and_times(n_channels: int, n_times: int, left: int) -> None:
    encoder = Encoder(n_channels, n_times)
    assert encoder.conv_6.kernel_size == (50, left)
    assert encoder(torch.zeros(2, n_channels, n_times)).shape == (2, 100)


def test_too_short_trials_are_refused() -> None:
    message = "the encoder of ThoughtViz needs trials of at least 21 samples, but they have 20."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC.model_copy(update={"n_times": 20}))


def test_volts_become_the_microvolts_that_the_network_was_made_for() -> None:
    eeg = 4.2e-3 + 1e-5 * torch.randn(2, 14, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    counts = build(EPOC).eval()
    torch.manual_seed(0)
    volts = build(EPOC.model_copy(update={"unit": "V"})).eval()
    assert isinstance(counts, ThoughtViz)
    assert isinstance(volts, ThoughtViz)
    torch.testing.assert_close(volts.encode(eeg), counts.encode(eeg * 1e6))


def test_colour_generators_cannot_be_dark_grey_ones_can() -> None:
    for options, least in (({}, 0.0), ({"gan": "acgan"}, 0.0), (GREY, -1.0)):
        model = tiny(**options)
        noise = torch.from_numpy(np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(32)]))
        assert noise.abs().max() < 1
        images = model.generator.eval()(noise, torch.rand(32, 100))
        assert images.min() >= least
        assert images.max() < 1
        assert (images < 0).any() == (least < 0)


def test_in_colour_thoughtviz_multiplies_by_the_encoding_and_its_baselines_see_it_beside_the_noise() -> None:
    noise = torch.rand(2, 5) * 2 - 1
    codes = {gan: tiny(gan=gan).generator.code for gan in ("thoughtviz", "acgan", "deligan")}
    nothing, something = torch.zeros(2, 100), torch.rand(2, 100)
    assert not codes["thoughtviz"](noise, nothing).any()
    torch.testing.assert_close(codes["acgan"](noise, something), torch.cat([noise, something], dim=1))
    gaussian = codes["deligan"].gaussian
    assert gaussian is not None
    torch.testing.assert_close(codes["deligan"](noise, something), gaussian(torch.cat([noise, something], dim=1)))
    dark = tiny(**GREY).generator.code
    assert dark.gaussian is not None
    torch.testing.assert_close(dark(noise, something), torch.cat([dark.gaussian(noise), something], dim=1))


def test_inverted_training_pictures_are_turned_back() -> None:
    white = np.full((5, 4, 3), 255, dtype=np.uint8)
    data = dataclasses.replace(training_data(), images=(white,), image_labels=np.zeros(1, dtype=np.int64))
    for invert, trained_on in ((False, 1.0), (True, -1.0)):
        model = tiny(**GREY, invert=invert)
        pictures = thoughtviz.Pictures(model, data)
        assert pictures[np.array([0])].unique().tolist() == [trained_on]
        assert thoughtviz.to_unit(pictures[np.array([0])], model.config).unique().tolist() == [1.0]


def test_pictures_are_scaled_and_mirrored_as_published() -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[:, 0] = (255, 0, 51)
    data = dataclasses.replace(training_data(), images=(image,), image_labels=np.zeros(1, dtype=np.int64))
    pictures = thoughtviz.Pictures(tiny(), data)
    assert len(pictures) == 2
    plain, mirrored = pictures[np.array([0, 1])]
    close(plain[:, 3, 0], np.array([1.0, 0.0, 0.2], dtype=np.float32), atol=1e-7)
    assert torch.equal(mirrored, plain.flip(2))
    assert pictures.labels.tolist() == [0, 0]
    assert len(thoughtviz.Pictures(tiny(mirror=False), data)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution must be a power of two from 16 in colour, but is 48; try 32 or 64."),
        ({**GREY, "resolution": 30}, "resolution must be a multiple of 4 from 12 in grey, but is 30; try 28."),
        (
            {"generator_width": 20},
            "generator_width must be a multiple of 8 to be halved from 4×4 to 64×64, but is 20; try 128.",
        ),
        ({"semantics": "as_meant"}, "semantics must be 'as_run' or 'as_intended', but is 'as_meant'."),
        ({"gan": "dcgan"}, "gan must be one of 'thoughtviz', 'acgan', 'deligan', but is 'dcgan'."),
        ({"generator_lr": 0.0}, "generator_lr must be more than 0, but is 0.0."),
        ({"gan_steps": -1}, "gan_steps must be at least 0, but is -1."),
        ({"gan_betas": (0.5, 1.0)}, "gan_betas must be at least 0 and less than 1, but is (0.5, 1.0)."),
        ({"n_classes": 0}, "n_classes must be at least 1, but is 0."),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(EPOC, **options)


def test_cards_are_valid_and_build() -> None:
    cards = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models/thoughtviz.yaml")]
    assert [card.id for card in cards] == [
        "thoughtviz",
        "thoughtviz.as-intended",
        "thoughtviz.grey",
        "thoughtviz.small",
        "thoughtviz-acgan",
        "thoughtviz-acgan.grey",
        "thoughtviz-acgan.eeg",
        "thoughtviz-acgan.small",
        "thoughtviz-acgan.small-eeg",
        "thoughtviz-deligan",
        "thoughtviz-deligan.grey",
        "thoughtviz-deligan.eeg",
        "thoughtviz-deligan.small",
        "thoughtviz-deligan.small-eeg",
    ]
    for card in cards:
        assert card.builder is not None
        with torch.device("meta"):
            model = load_object(card.builder)(card.eeg or SPEC, **card.preset)
        assert model.resolution == card.resolution
        assert isinstance(model, LabelConditioned) == (card.conditioned_on == "label")
        assert bool(card.claims) <= (not card.id.endswith(("small", "small-eeg", "intended")))
    rates = {card.id: ThoughtVizConfig(**card.preset) for card in cards if card.eeg}
    published = {
        "thoughtviz": (3e-5, 5e-5, 100, 10000, "as_run"),
        "thoughtviz.grey": (5e-5, 5e-5, 100, 500, "as_run"),
        "thoughtviz-acgan": (1e-3, 1e-3, 32, 1000, "as_intended"),
        "thoughtviz-acgan.grey": (2e-4, 2e-4, 100, 500, "as_intended"),
        "thoughtviz-acgan.eeg": (5e-5, 5e-5, 100, 500, "as_run"),
        "thoughtviz-deligan": (1e-5, 1e-3, 100, 10000, "as_intended"),
        "thoughtviz-deligan.grey": (2e-4, 2e-4, 100, 500, "as_intended"),
        "thoughtviz-deligan.eeg": (5e-5, 5e-5, 100, 100, "as_run"),
    }
    for name, wanted in published.items():
        c = rates[name]
        assert (c.generator_lr, c.discriminator_lr, c.gan_batch_size, c.gan_epochs, c.semantics) == wanted, name


# --- training --------------------------------------------------------------------------------------------------------


def test_phases_follow_from_the_model_and_the_data() -> None:
    data = training_data()
    phases = recipes(tiny(encoder_epochs=5, gan_epochs=4, image_classifier_steps=9), data, seed=0)
    assert [(phase.name, phase.n_steps, phase.eval_every) for phase in phases] == [
        ("encoder", 10, 2),
        ("image_classifier", 9, None),
        ("gan", 4, None),  # eight pictures with the mirrored ones: one batch of six, the rest is dropped
    ]
    assert [phase.name for phase in recipes(tiny(gan="acgan"), data, seed=0)] == ["encoder", "gan"]
    assert [phase.name for phase in recipes(tiny(gan="deligan", condition="label"), data, seed=0)] == ["gan"]
    assert [phase.name for phase in recipes(tiny(), dataclasses.replace(data, images=()), seed=0)] == ["encoder"]
    assert recipes(tiny(), data, seed=0, select="last")[0].eval_every is None


def test_impossible_data_is_refused() -> None:
    data = training_data()
    for model, bad, message in (
        (
            tiny(),
            dataclasses.replace(data, train=np.array([], dtype=np.int64)),
            "training ThoughtViz needs trials in the train role, but the split has none; choose another.",
        ),
        (
            tiny(),
            dataclasses.replace(data, image_labels=np.zeros(4, dtype=np.int64)),
            "training the GAN needs a picture of every class, but class 1 has none; add one.",
        ),
        (
            tiny(conditions="val"),
            dataclasses.replace(data, val=np.array([14])),
            "conditions='val' needs a trial of every class in that role, but class 1 has none; use conditions='train'.",
        ),
        (
            tiny(gan="acgan", condition="label", n_classes=1),
            data,
            "n_classes must be at least 2, the number of classes of the dataset, but is 1; give n_classes=2.",
        ),
        (
            tiny(gan="acgan", condition="label"),
            dataclasses.replace(data, images=()),
            "training a GAN on labels needs pictures, but the dataset has none; prepare it with some.",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            recipes(model, bad, seed=0)


def test_encoder_and_image_classifier_learn() -> None:
    model, data = tiny(encoder_lr=0.01, image_classifier_lr=0.01), training_data(n=40, n_val=20)
    encoder, images, _ = recipes(model, data, seed=3)
    for module in (*model.modules(), *encoder.modules()["head"].modules()):
        if isinstance(module, KerasBatchNorm):
            module.momentum = 0.8  # the published 0.99 needs some hundred steps to forget where it began
    first = encoder.step(0, np.random.default_rng(0))["cross-entropy"]
    losses = [encoder.step(step, np.random.default_rng(step))["cross-entropy"] for step in range(1, 60)]
    assert np.mean(losses[-5:]) < 0.3 * first
    assert encoder.validate() > 0.9
    last = [images.step(step, np.random.default_rng(step))["cross-entropy"] for step in range(60)][-1]
    assert last < 0.1


def test_the_image_classifier_sees_its_pictures_in_noise_of_the_size_of_their_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, seen = training_data(n_classes=2), list[Tensor]()
    forward = ImageClassifier.forward

    def watched(self: ImageClassifier, image: Tensor) -> Tensor:
        seen.append(image)
        return forward(self, image)

    monkeypatch.setattr(ImageClassifier, "forward", watched)
    for options, wanted in (({}, 0.1), (GREY, 0.2)):  # grey values span twice as much
        for noise in (0.0, 0.1):
            recipe = recipes(tiny(**options, image_classifier_noise=noise), data, seed=0)[1]
            recipe.step(0, np.random.default_rng(0))
        plain, noisy = seen[-2:]
        assert (noisy - plain).std().item() == pytest.approx(wanted, rel=0.1)


KINDS: list[dict[str, Any]] = [
    {},
    {"semantics": "as_intended"},
    {"gan": "acgan"},
    {"gan": "deligan", "condition": "label", "semantics": "as_intended"},
    {**GREY, "resolution": 12, "gan_ema": 0.9},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    data, steps = training_data(), {"encoder_steps": 6, "image_classifier_steps": 6, "gan_steps": 6}

    def stop(done: int, total: int, what: str) -> None:
        if done == 3 and "gan" in what:
            raise KeyboardInterrupt

    def run(folder: Path, progress: Any = None) -> dict[str, Tensor]:
        model = tiny(**steps, **options)
        for recipe in recipes(model, data, seed=0):
            fit(recipe, folder, seed=0, progress=progress)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop)
    resumed = run(tmp_path / "broken")
    start = tiny(**options).state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    for part in {key.partition(".")[0] for key in whole}:
        assert any(not torch.equal(value, start[key]) for key, value in whole.items() if key.startswith(part)), part


def test_conditions_are_encodings_of_training_trials_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    data = training_data()
    data = dataclasses.replace(data, val=data.val[:4])
    for role in ("train", "val"):
        model = tiny(conditions=role)
        assert isinstance(model, ThoughtViz)
        gan = recipes(model, data, seed=0)[-1]
        seen: dict[str, Tensor] = {}

        def watched(*_: object, into: dict[str, Tensor] = seen, **given: Tensor) -> dict[str, float]:
            into.update(given)
            return {}

        monkeypatch.setattr(thoughtviz, "gan_step", watched)
        drawn: set[int] = set()
        for step in range(5):
            gan.step(step, np.random.default_rng(step))
            rows = getattr(data, role)
            with torch.no_grad():
                own = model.eval().encode(torch.from_numpy(data.eeg[rows]))
            which = torch.cdist(seen["condition"], own).argmin(dim=1)
            torch.testing.assert_close(own[which], seen["condition"])
            assert data.labels[rows][which.numpy()].tolist() == seen["labels"].tolist()
            drawn |= set(seen["labels"].tolist())
        assert drawn == {0, 1}


def test_real_batches_come_in_one_fixed_order() -> None:
    data = training_data()
    gan = recipes(tiny(gan_batch_size=3, mirror=True), data, seed=0)[-1]
    assert isinstance(gan, thoughtviz.GANRecipe)
    assert gan.per_epoch == 2  # of eight pictures, two batches; the last two are never shown
    seen: list[list[int]] = []
    pictures = gan.pictures
    take = type(pictures).__getitem__

    class Watched(thoughtviz.Pictures):
        def __getitem__(self, rows: np.ndarray) -> Tensor:
            seen.append(rows.tolist())
            return take(self, rows)

    pictures.__class__ = Watched
    for step in range(4):
        gan.step(step, np.random.default_rng(step))
    assert seen[:2] == seen[2:]
    assert seen[0] + seen[1] == gan.order[:6].tolist()


def one_step(semantics: str, **options: Any) -> tuple[Any, Any]:
    """The model before and after one GAN step."""
    model = tiny(semantics=semantics, **options)
    before = copy.deepcopy(model)
    recipes(model, training_data(), seed=0)[-1].step(0, np.random.default_rng(0))
    return before, model


@pytest.mark.parametrize("semantics", ["as_run", "as_intended"])
def test_moving_statistics_move_once_in_the_generator_and_three_times_in_the_discriminator(
    monkeypatch: pytest.MonkeyPatch, semantics: str
) -> None:
    calls: list[int] = []
    forward = KerasBatchNorm.forward

    def counted(self: KerasBatchNorm, x: Tensor) -> Tensor:
        calls.append(id(self)) if self.training else None
        return forward(self, x)

    monkeypatch.setattr(KerasBatchNorm, "forward", counted)
    _, model = one_step(semantics)
    for part, times in ((model.generator, 1), (model.discriminator, 3)):
        norms = [module for module in part.modules() if isinstance(module, KerasBatchNorm)]
        assert norms
        assert {calls.count(id(norm)) for norm in norms} == {times}
        assert {norm.phase_0 for norm in norms} == {semantics == "as_run"}
    assert {model.discriminator.dropout} == {0.0 if semantics == "as_run" else 0.5}


@pytest.mark.parametrize("options", [{}, {"class_weight": 3.0}, {"gan": "acgan"}, {"gan": "deligan"}], ids=str)
def test_a_step_of_phase_0_is_the_three_updates_written_out(options: dict[str, Any]) -> None:
    """Against plain code on networks at inference, which is what phase 0 computes."""
    model = tiny(**options)
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    shared = model.config.gan != "thoughtviz"
    classes = SharedHead(model.discriminator, 2) if shared else ImageClassifier(3, 4, 2).eval()
    twin_classes = copy.deepcopy(classes)
    real, noise, condition = torch.rand(6, 3, 16, 16), torch.rand(6, 5) * 2 - 1, torch.rand(6, 100)
    real_labels, labels = torch.tensor([0, 1, 0, 1, 1, 1]), torch.tensor([1, 1, 0, 0, 0, 1])

    def adam(*modules: nn.Module) -> KerasAdam:
        return KerasAdam([p for m in modules for p in m.parameters()], lr=1e-3, betas=(0.5, 0.999), eps=1e-8)

    learnt = (model.discriminator, classes) if shared else (model.discriminator,)
    losses = gan_step(
        model,
        classes,
        real=real,
        real_labels=real_labels,
        noise=noise,
        condition=condition,
        labels=labels,
        optimizers=(adam(model.generator), adam(*learnt)),
    )

    g, d = twin.generator.eval(), twin.discriminator.eval()
    learns = (d, twin_classes) if shared else (d,)
    d_optimizer, g_optimizer = adam(*learns), adam(g)
    fake = g(noise, condition)

    def moved(norm: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        """Keras' update of the statistics, after the forward."""
        over = [dim for dim in range(given[0].ndim) if dim != 1]
        assert isinstance(norm, KerasBatchNorm)
        later.append((norm, given[0].mean(dim=over).detach(), given[0].var(dim=over, correction=0).detach()))

    later: list[tuple[KerasBatchNorm, Tensor, Tensor]] = []
    for module in d.modules():
        if isinstance(module, KerasBatchNorm):
            module.register_forward_hook(moved)

    def apply() -> None:
        for norm, mean, variance in later:
            norm.running_mean = norm.momentum * norm.running_mean + (1 - norm.momentum) * mean
            norm.running_var = norm.momentum * norm.running_var + (1 - norm.momentum) * variance
        later.clear()

    for image, target, own in ((real, 1.0, real_labels), (fake.detach(), 0.0, labels)):
        d_optimizer.zero_grad()
        verdict, seen = d(image)
        loss = F.binary_cross_entropy(verdict, torch.full_like(verdict, target))
        if shared:
            loss = loss + F.nll_loss(twin_classes(seen).log(), own)
        loss.backward()  # type: ignore[no-untyped-call]
        apply()
        d_optimizer.step()
    g_optimizer.zero_grad()
    verdict, seen = d(fake)
    klass = F.nll_loss(twin_classes(seen if shared else fake).log(), labels)
    loss = F.binary_cross_entropy(verdict, torch.ones_like(verdict)) + model.config.class_weight * klass
    if model.config.gan != "acgan":
        loss = loss + 0.01 * g.code.gaussian.std.square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    apply()
    g_optimizer.step()
    assert losses["class"] == pytest.approx(klass.item(), rel=1e-4)
    for name, ours, theirs in (
        ("discriminator", model.discriminator, d),
        ("classes", classes, twin_classes),
    ):
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")
    for key, parameter in g.named_parameters():
        torch.testing.assert_close(model.generator.get_parameter(key), parameter, rtol=1e-4, atol=1e-5, msg=key)


def test_the_frozen_image_classifier_is_not_trained_by_the_gan() -> None:
    model = tiny(image_classifier_steps=3)
    phases = recipes(model, training_data(), seed=0)
    gan = phases[-1]
    assert isinstance(gan, thoughtviz.GANRecipe)
    before = copy.deepcopy(gan.classes.state_dict())
    for step in range(3):
        gan.step(step, np.random.default_rng(step))
    assert all(torch.equal(value, gan.classes.state_dict()[key]) for key, value in before.items())
    assert set(gan.modules()) == {"generator", "discriminator"}
    assert all(parameter.grad is None for parameter in gan.classes.parameters())


def test_labels_become_one_hot_vectors_and_no_eeg_is_read() -> None:
    model = tiny(gan="acgan", condition="label", n_classes=4)
    assert isinstance(model, LabelledThoughtViz)
    assert model.encode_labels(torch.tensor([2, 0])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert set(model.parts()) == {"generator", "discriminator"}
    with pytest.raises(UsageError, match=r"^LabelledThoughtViz is conditioned on labels and reads no EEG; call encode"):
        model.encode(torch.zeros(1, 3, 40))


# --- conversion ------------------------------------------------------------------------------------------------------

RELEASED = "data/no_explicit_licence/thoughtviz_eeg_classifier"


@pytest.fixture
def released(shared: Path) -> Path:
    folder = shared / RELEASED
    if not folder.is_dir():
        pytest.skip("needs the authors' classifiers, which have no explicit licence")
    return folder


@pytest.mark.parity
@pytest.mark.parametrize(("task", "updates"), [("digit", 67_000), ("image", 69_000)])
def test_released_classifiers_give_the_softmax_of_keras(released: Path, task: str, updates: int) -> None:
    source = released / f"{task}_run_final.h5"
    converted = convert(source)
    assert converted.parts == ("encoder",)
    assert converted.counters == {"iterations": updates}
    assert forward_check(converted)["encoder"] < 1e-12
    state, _ = read_classifier(source)
    assert sum(value.size for value in state.values()) == 38_449
    encoder, head = Encoder(14, 32).eval(), Head(10).eval()
    for part, module in (("encoder", encoder), ("head", head)):
        own = {k.removeprefix(f"{part}."): torch.from_numpy(v) for k, v in state.items() if k.startswith(part)}
        module.load_state_dict(own, strict=True)
    with np.load(released / "golden_60_windows.npz") as golden, torch.no_grad():
        features = encoder(torch.from_numpy(golden[f"{task}_x"]))
        # counts near 4200 lose three digits in float32: the largest difference is 8e-5
        close(head(features), golden[f"{task}_keras_softmax"], atol=2e-4)
    assert features.min() == 0


def test_the_command_converts_a_released_classifier(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["weights", "convert", "thoughtviz", "--from", str(released / "image_run_final.h5")], standalone_mode=False)
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    model, info = load_weights(folder)
    assert isinstance(model, ThoughtViz)
    assert (info.source, info.parts) == ("converted", ("encoder",))
    assert info.receipt["counters"] == {"iterations": 69_000}
    state, _ = read_classifier(released / "image_run_final.h5")
    np.testing.assert_array_equal(model.encoder.conv_4.weight.numpy(), state["encoder.conv_4.weight"])


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


def saved(n_channels: int = 3, n_times: int = 40, n_classes: int = 2, first: int = 1) -> dict[str, np.ndarray]:
    """What Keras writes for such a classifier, numbering its layers from ``first``."""
    torch.manual_seed(2)
    encoder, head = Encoder(n_channels, n_times), Head(n_classes)
    for norm in (encoder.norm_0, encoder.norm_8, head.norm_10):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    places = {"norm_0": "batch_normalization_0", "norm_8": "batch_normalization_1", "norm_10": "batch_normalization_2"}
    places |= {"conv_1": "conv2d_0", "conv_2": "conv2d_1", "conv_4": "conv2d_2", "conv_6": "conv2d_3"}
    places |= {"dense_9": "dense_0", "dense_11": "dense_1"}
    out: dict[str, np.ndarray] = {"optimizer_weights/SGD/iterations:0": np.array(7)}
    for key, value in {**encoder.state_dict(), **head.state_dict()}.items():
        layer, _, name = key.partition(".")
        kind, _, number = places[layer].rpartition("_")
        own = f"{kind}_{int(number) + first}"
        back = {"weight": "gamma", "bias": "beta"} if "norm" in layer else {"weight": "kernel", "bias": "bias"}
        back |= {ours: theirs for theirs, ours in MOVING.items()}
        out[f"model_weights/{own}/{own}/{back[name]}:0"] = to_keras(value)
    return out


@pytest.mark.parametrize("first", [1, 9])  # from 9, the numbers are no longer in the order of the alphabet
def test_a_classifier_of_other_recordings_converts(tmp_path: Path, first: int) -> None:
    converted = convert(write_h5(tmp_path / "run_final.h5", saved(first=first)))
    torch.manual_seed(2)
    wanted = Encoder(3, 40)
    assert converted.state.keys() == {f"encoder.{key}" for key in wanted.state_dict()}
    for key, parameter in wanted.named_parameters():
        np.testing.assert_array_equal(converted.state[f"encoder.{key}"], parameter.detach().numpy())
    means = [converted.state[f"encoder.norm_{i}.running_mean"] for i in (0, 8)]
    assert [len(mean) for mean in means] == [1, 100]
    assert all(0 < np.abs(mean).max() < 1 for mean in means)
    assert converted.counters == {"iterations": 7}
    assert forward_check(converted)["encoder"] < 1e-12


def test_forward_check_notices_maps_and_time_exchanged(tmp_path: Path) -> None:
    converted = convert(write_h5(tmp_path / "run_final.h5", saved()))
    state = {key.removeprefix("encoder."): value.astype(np.float64) for key, value in converted.state.items()}
    eeg = np.random.default_rng(0).standard_normal((2, 3, 40))
    turned = state | {"conv_4.weight": np.flip(state["conv_4.weight"], axis=2)}
    assert np.abs(numpy_encoder(state, eeg) - numpy_encoder(turned, eeg)).max() > 1e-3
    bad = dataclasses.replace(
        converted, state=dict(converted.state) | {"encoder.dense_9.bias": np.full(100, np.nan, dtype=np.float32)}
    )
    with pytest.raises(
        IntegrityError, match=r"^the converted encoder must compute in torch what .* differs by nan; do"
    ):
        forward_check(bad)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "run_final.h5"
    path.write_text("no weights")
    message = f"--from must be an HDF5 file such as run_final.h5, but {path} is none; check what it holds."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        convert(path)
    begin = "run_final.h5 must hold ThoughtViz' EEG classifier and nothing else, but "
    good = saved()
    dense = "model_weights/dense_1/dense_1/kernel:0"
    for arrays, why in (
        (good | {"model_weights/lstm_1/lstm_1/kernel:0": np.ones(2)}, "it holds model_weights/lstm_1/lstm_1/kernel:0."),
        (good | {"model_weights/dense_7/dense_7/bias:0": np.ones(2)}, "it has 3 layers dense, where it has 2."),
        (good | {dense: np.ones((100, 7))}, "encoder.dense_9.weight has shape (7, 100), where it has (100, 100)."),
        (
            {k: v for k, v in good.items() if k != dense},
            "encoder.dense_9.weight has shape None, where it has (100, 100).",
        ),
        (good | {"model_weights/note": np.array(b"text")}, "model_weights/note is no plain array of numbers."),
    ):
        with pytest.raises(IntegrityError, match=f"^{re.escape(begin + why)}$"):
            convert(write_h5(path, arrays))
    write_h5(path, good)
    with h5py.File(path, "a") as file:
        del file[dense]
        (tmp_path / "secret").write_bytes(bytes(80_000))
        file.create_dataset(dense, (100, 100), "f8", external=[(str(tmp_path / "secret"), 0, 80_000)])
    with pytest.raises(IntegrityError, match=f"^{re.escape(begin + dense + ' is no plain array of numbers.')}$"):
        convert(path)
    whole = write_h5(path, good).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"^run_final\.h5 cannot be read \(.*\); get it again\.$"):
        convert(path)

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import sys
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
from zoo.models.ada import (
    BAND_POWER,
    BANK,
    LUMA,
    OPERATIONS,
    SYM6,
    Augmentation,
    Controller,
    blit,
    draw,
    mirrored,
    separable,
    warp,
)
from zoo.models.base import Model
from zoo.models.convert.eegstylegan_ada import convert, forward_check
from zoo.models.convert.object_pickle import read_modules
from zoo.models.eegstylegan_ada import (
    EEGStyleGANADA,
    EEGStyleGANADAConfig,
    GANRecipe,
    build,
    lazy_adam,
    mined_pairs,
    mined_triplet_loss,
    r1_penalty,
    recipes,
)
from zoo.models.layers import half_max
from zoo.models.stylegan2 import (
    Conv,
    Discriminator,
    Generator,
    Linear,
    StyledConv,
    blur,
    fir_kernel,
    minibatch_std,
    modulated_conv,
    upsample,
)
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, TrainingData, fit

Arrays = Callable[[str], dict[str, np.ndarray]]
TINY: dict[str, Any] = {
    "lstm_layers": 2,
    "lstm_units": 5,
    "n_features": 6,
    "z_dim": 4,
    "w_dim": 8,
    "resolution": 8,
    "channel_base": 64,
    "channel_max": 8,
    "minibatch_group": 2,
    "encoder_batch_size": 8,
    "gan_batch_size": 4,
    "image_pairing": "class",
}
DATASETS = {"cvpr40": (128, 440), "object": (124, 32), "thoughtviz": (14, 32)}


def spec(n_channels: int = 3, n_times: int = 8) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=128, tmin=0, n_times=n_times)


def tiny(**overrides: Any) -> EEGStyleGANADA:
    torch.manual_seed(0)
    return build(spec(), **{**TINY, **overrides})


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


def gan(model: EEGStyleGANADA, data: TrainingData | None = None) -> GANRecipe:
    recipe = recipes(model, data or training_data(), seed=0)[1]
    assert isinstance(recipe, GANRecipe)
    return recipe


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def close(got: Tensor | np.ndarray, wanted: Tensor | np.ndarray, *, atol: float) -> None:
    got, wanted = (np.asarray(x.detach() if isinstance(x, Tensor) else x) for x in (got, wanted))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


@pytest.fixture(scope="session")
def arrays(shared: Path) -> Arrays:
    """``arrays(name)``: the fixture ``eegstylegan_<name>.npz``."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(shared / f"fixtures/eegstylegan_{name}.npz") as data:
            return {key: data[key] for key in data.files}

    return read


def state_of(data: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(value.astype(np.float32))
        for key, value in data.items()
        if key.startswith(prefix)
    }


# --- encoders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("name", ["cvpr40", "thoughtviz"])
def test_lstm_encoder_gives_the_features_of_the_original(arrays: Arrays, name: str) -> None:
    data = arrays(f"eeg2feat_lstm_{name}")
    model = build(spec(*DATASETS[name]), resolution=8, channel_max=4)
    model.encoder.load_state_dict(state_of(data, "sd/module."))
    close(half_max(torch.from_numpy(data["raw"]), family="it"), data["x"], atol=5e-7)  # theirs divides in float32
    close(model.encode(torch.from_numpy(data["raw"])), data["out"], atol=2e-7)
    close(copy.deepcopy(model.encoder).double()(torch.from_numpy(data["x"]).double()), data["out_f64"], atol=1e-14)


@pytest.mark.parity
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize(("normalise", "key"), [(True, "out"), (False, "prenorm")])
def test_cnn_encoder_gives_the_features_of_the_original(arrays: Arrays, name: str, normalise: bool, key: str) -> None:
    data = arrays("eeg2feat_cnn")
    model = build(spec(*DATASETS[name]), resolution=8, channel_max=4, encoder="cnn", normalise=normalise).eval()
    model.encoder.load_state_dict(state_of(data, "sd/module."))
    with torch.no_grad():
        got = model.encoder(torch.from_numpy(data[f"x_{name}"].astype(np.float32))[:, 0])
    close(got, data[f"{key}_{name}"], atol=1e-6 * np.abs(data[f"{key}_{name}"]).max())


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("cvpr40", "lstm", 544_768),
        ("object", "lstm", 542_720),
        ("thoughtviz", "lstm", 486_400),
        *((name, "cnn", 6_325_376) for name in DATASETS),
    ],
)
def test_encoders_have_the_published_numbers_of_parameters(name: str, kind: str, wanted: int) -> None:
    with torch.device("meta"):
        model = build(spec(*DATASETS[name]), encoder=kind)
    assert count(model.encoder) == wanted


@pytest.mark.parity
@pytest.mark.parametrize("name", ["mixed", "random", "separated"])
def test_mined_triplets_and_their_loss_are_those_of_metric_learning(arrays: Arrays, name: str) -> None:
    data = arrays("losses")
    labels, embedding = torch.from_numpy(data["labels"]), torch.from_numpy(data[f"{name}_emb"]).requires_grad_()
    kept = mined_pairs(F.normalize(embedding.detach()), labels, 0.1)
    for pairs, (first, second) in zip(kept, (("a1", "p"), ("a2", "n")), strict=True):
        wanted = set(zip(data[f"{name}_{first}"].tolist(), data[f"{name}_{second}"].tolist(), strict=True))
        assert {(a, b) for a, b in pairs.nonzero().tolist()} == wanted
    loss = mined_triplet_loss(embedding, labels)
    (grad,) = torch.autograd.grad(loss, embedding)
    assert loss.item() == pytest.approx(float(data[f"{name}_loss"]), abs=1e-8)
    close(grad, data[f"{name}_grad"], atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_triplet_loss_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((14, 5)), rng.integers(0, 3, 14)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine, terms = unit @ unit.T, []
    for a in range(len(x)):
        negatives = [n for n in range(len(x)) if labels[n] != labels[a]]
        positives = [p for p in range(len(x)) if labels[p] == labels[a] and p != a]
        for p in positives:
            for n in negatives:
                hard = cosine[a, p] - 0.2 < max(cosine[a, negatives])
                if hard and cosine[a, n] + 0.2 > min(cosine[a, positives]):
                    terms.append(np.linalg.norm(unit[a] - unit[p]) - np.linalg.norm(unit[a] - unit[n]) + 0.3)
    wanted = np.mean([term for term in terms if term > 0])
    got = mined_triplet_loss(torch.from_numpy(x), torch.from_numpy(labels), margin=0.3, epsilon=0.2)
    assert got.item() == pytest.approx(wanted)


def test_triplet_loss_without_triplets_is_zero_with_a_gradient() -> None:
    for labels in ([0, 1, 2], [0, 0, 0]):
        x = torch.eye(3, requires_grad=True)
        loss = mined_triplet_loss(x, torch.tensor(labels))
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, x)[0].any()


# --- StyleGAN2 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def originals(arrays: Arrays) -> tuple[Generator, Discriminator, dict[str, Tensor]]:
    """Both networks with the weights of the fixture, and what the original classes made of its inputs."""
    data = arrays("tiny_stylegan2")
    size: dict[str, Any] = {"c_dim": 128, "resolution": 32, "channel_base": 512, "channel_max": 32}
    generator = Generator(z_dim=32, w_dim=32, mapping_layers=2, **size)
    discriminator = Discriminator(group=4, **size)
    generator.load_state_dict(state_of(data, "G/"))
    discriminator.load_state_dict(state_of(data, "D/"))
    rest = {key: torch.from_numpy(value) for key, value in data.items() if "/" not in key}
    return generator, discriminator, rest


@pytest.mark.parity
def test_networks_give_what_the_original_classes_give(
    originals: tuple[Generator, Discriminator, dict[str, Tensor]],
) -> None:
    generator, discriminator, data = originals
    with torch.no_grad():
        generator.eval()
        close(generator.mapping(data["z"], data["c"]), data["ws"][:, 0], atol=2e-6)
        close(generator(data["z"], data["c"]), data["img_const"], atol=4e-6)
        close(generator(data["z"], data["c"], noise="none", psi=0.7), data["img_psi07_nonoise"], atol=4e-6)
        close(discriminator(data["img_const"], data["c"]), data["d_logits"], atol=3.5e-7)
        generator.train()  # the form that is not fused adds up in another order
        close(generator(data["z"], data["c"]), data["img_const"], atol=6e-6)


def test_networks_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        model = build(spec(128, 440))
    counts = {name: count(part) for name, part in model.parts().items()}
    assert counts == {"encoder": 544_768, "generator": 28_080_925, "discriminator": 29_638_912}
    assert (count(model.generator.mapping), count(model.generator.synthesis)) == (853_504, 27_227_421)
    assert count(model.discriminator.mapping) == 2_167_296
    assert model.generator.synthesis.n_ws == 12


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_the_fused_form_computes_the_same(up: bool, demodulate: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(6, 4, 3, 3, dtype=torch.float64)
    style = torch.randn(3, 4, dtype=torch.float64)
    forms = [modulated_conv(x, weight, style, demodulate=demodulate, up=up, fused=fused) for fused in (True, False)]
    torch.testing.assert_close(*forms)
    alone = modulated_conv(x[1:2], weight, style[1:2], demodulate=demodulate, up=up)
    torch.testing.assert_close(alone[0], forms[0][1])


def test_demodulation_keeps_the_variance_whatever_the_style() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 32, 64, 64), torch.randn(16, 32, 3, 3) * 7
    style = torch.tensor([0.01, 1.0, 30.0, 1.0])[:, None] * (1 + torch.rand(4, 32))
    inner = modulated_conv(x, weight, style)[:, :, 1:-1, 1:-1]
    assert inner.var(dim=(1, 2, 3)).tolist() == pytest.approx([1] * 4, rel=0.05)


def test_equalised_layers_keep_the_variance_whatever_their_width() -> None:
    torch.manual_seed(0)
    for n_in in (16, 1024):
        assert Linear(n_in, 400)(torch.randn(400, n_in)).var().item() == pytest.approx(1, rel=0.15)
        slow = Linear(n_in, 400, rate=0.01)
        assert slow.weight.std().item() == pytest.approx(100, rel=0.05)
        assert slow(torch.randn(400, n_in)).var().item() == pytest.approx(1, rel=0.15)
    inner = Conv(32, 64, 3)(torch.randn(4, 32, 32, 32))[:, :, 1:-1, 1:-1]
    assert inner.square().mean().item() == pytest.approx(2 * (1 + 0.2**2) / 2, rel=0.15)  # of √2 · leaky ReLU


def test_changes_of_size_keep_constants_inside() -> None:
    ones, kernel = torch.ones(1, 2, 8, 8), fir_kernel()
    assert kernel.sum().item() == 1
    bigger = upsample(ones, kernel)
    assert bigger.shape == (1, 2, 16, 16)
    close(bigger[:, :, 1:-1, 1:-1], torch.ones(1, 2, 14, 14), atol=1e-6)
    smaller = blur(ones, kernel, padding=2)
    assert smaller.shape == (1, 2, 9, 9)
    close(smaller[:, :, 2:-2, 2:-2], torch.ones(1, 2, 5, 5), atol=1e-6)
    line = torch.arange(8.0).expand(1, 1, 8, 8)  # a ramp stays one, its samples at quarters
    close(upsample(line, kernel)[0, 0, 4, 2:-2], torch.arange(12) / 2 + 0.75, atol=1e-6)


def test_noise_modes() -> None:
    torch.manual_seed(0)
    layer = StyledConv(4, 4, 8, 8, up=False).eval()
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 8)
    assert torch.equal(layer(x, w, "const"), layer(x, w, "none"))  # its strength begins at 0
    nn.init.constant_(layer.noise_strength, 0.5)
    given = layer.noise_const.flatten().expand(2, -1)
    assert torch.equal(layer(x, w, "const"), layer(x, w, given))
    assert not torch.equal(layer(x, w, "const"), layer(x, w, "none"))

    sizes = {mode: tiny(noise_mode=mode).draw_noise(np.random.default_rng(0)).size for mode in ("random", "const")}
    assert sizes == {"random": 4 + 16 + 64 + 64, "const": 4}
    model = tiny().eval()
    for conv in model.generator.modules():
        if isinstance(conv, StyledConv):
            nn.init.constant_(conv.noise_strength, 0.1)
    features = model.encode(torch.from_numpy(training_data().eeg[:1]))
    noise = torch.from_numpy(model.draw_noise(np.random.default_rng(0)))[None]
    other = noise.clone()
    other[:, -1] += 1  # the noise of one pixel of the last layer
    changed = (model.decode(features, noise) != model.decode(features, other))[0].any(dim=0)
    assert changed.nonzero().tolist() == [[7, 7]]


def test_standard_deviation_is_that_of_strided_groups() -> None:
    x = torch.zeros(4, 1, 2, 2)
    x[2] = 2  # groups of two are (0, 2) and (1, 3)
    out = minibatch_std(x, 2)
    assert out.shape == (4, 2, 2, 2)
    close(out[:, 1, 0, 0], torch.tensor([1.0, 0, 1, 0]), atol=1.1e-4)
    message = "a batch of the discriminator must be a multiple of its group of 3, but is 4; change either."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        minibatch_std(x, 3)


def test_truncation_moves_codes_to_their_mean() -> None:
    model = tiny().eval()
    z, c = torch.randn(3, 4), torch.randn(3, 6)
    model.generator.mapping.average(torch.ones(5, 8))
    close(model.generator.mapping.w_avg, torch.full((8,), 0.005), atol=1e-6)
    images = model.generator(z, c, psi=0)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(*model.generator(z, c, psi=0.5)[:2])


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    size: dict[str, Any] = {"c_dim": 6, "resolution": 32, "channel_base": 512, "channel_max": 16}
    generator = Generator(z_dim=4, w_dim=8, mapping_layers=2, **size).eval()
    discriminator = Discriminator(**size)
    z, c = torch.randn(4, 4), torch.randn(4, 6)
    with torch.no_grad():
        image, logit = generator(z, c), discriminator(generator(z, c), c)
        for network in (generator.synthesis, discriminator):
            network.precision = "bf16"
        halved = generator(z, c)
        assert halved.dtype == torch.float32
        assert 0 < (halved - image).abs().max() < 0.05 * image.abs().max()
        assert (discriminator(image, c) - logit).abs().max() < 0.05 * logit.abs().max()


# --- augmentation -----------------------------------------------------------------------------------------------------


def pictures(n: int = 4, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def made(operation: str, *, n: int = 64, size: int = 16, p: float = 1, seed: int = 0) -> Augmentation:
    return draw(np.random.default_rng(seed), n, size, p, operations=(operation,))


def test_no_probability_means_no_change() -> None:
    x = pictures()
    assert draw(np.random.default_rng(0), 4, 16, 0)(x) is x
    for operation in OPERATIONS:
        assert torch.equal(made(operation, n=4, p=0)(x), x)
    still = draw(np.random.default_rng(0), 400, 16, 0.1, operations=("cutout",))
    assert np.isnan(still.cutout[:, 0]).mean() == pytest.approx(0.9, abs=0.04)


def test_what_is_drawn_follows_from_the_generator_alone() -> None:
    x = pictures()
    first, second, other = (draw(np.random.default_rng(seed), 4, 16, 0.7)(x) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == x.shape
    one = draw(np.random.default_rng(1), 4, 16, 0.7, operations=("hue",))
    both = draw(np.random.default_rng(1), 4, 16, 0.7, operations=("xflip", "hue"))
    np.testing.assert_array_equal(one.colour, both.colour)


def test_pixels_that_only_move_are_copied_exactly() -> None:
    x = pictures(64)
    flips = made("xflip")
    mirror = flips.blit[:, 0, 0] == -1
    assert 0.3 < mirror.mean() < 0.7
    assert torch.equal(flips(x), torch.where(torch.from_numpy(mirror)[:, None, None, None], x.flip(3), x))
    turns = made("rotate90")(x)
    whole = [[torch.equal(turned, original.rot90(k, (1, 2))) for k in range(4)] for turned, original in zip(turns, x)]  # noqa: B905
    assert (np.sum(whole, axis=1) == 1).all()
    assert (np.sum(whole, axis=0) > 5).all()
    shifts = made("xint")
    assert set(np.unique(shifts.blit[:, :2, 2])) == {-2, -1, 0, 1, 2}  # an eighth of 16
    moved = shifts(x)
    for shift, one, original in zip(shifts.blit[:, :2, 2].astype(int), moved, x, strict=True):
        rows, columns = (mirrored(np.arange(16) - by, 16) for by in (shift[1], shift[0]))
        assert torch.equal(one, original[:, rows][:, :, columns])


def test_geometry_has_the_strengths_of_the_paper() -> None:
    n = 20_000
    octaves = np.log2(made("scale", n=n).warp[:, 0, 0])
    assert octaves.std() == pytest.approx(0.2, rel=0.03)
    stretched = made("aniso", n=n).warp
    assert np.log2(stretched[:, 0, 0]).std() == pytest.approx(0.2, rel=0.03)
    np.testing.assert_allclose(stretched[:, 0, 0] * stretched[:, 1, 1], 1)
    shifts = made("xfrac", n=n).warp[:, :2, 2]
    assert shifts.std() == pytest.approx(0.125 * 16, rel=0.03)
    turned = made("rotate", n=n, p=0.3).warp
    assert (turned != np.eye(3)).any(axis=(1, 2)).mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(np.linalg.det(turned), 1)


def test_warping_nothing_changes_nothing_and_keeps_constants() -> None:
    x = pictures()
    close(warp(x, np.repeat(np.eye(3)[None], 4, axis=0)), x, atol=1e-11)
    for operation in ("scale", "rotate", "aniso", "xfrac"):
        ones = torch.ones(64, 3, 16, 16, dtype=torch.float64)
        close(made(operation)(ones), ones, atol=1e-11)  # digits of the coefficients


def test_warping_moves_a_smooth_picture_where_the_map_says() -> None:
    size = 32
    y, x = np.mgrid[:size, :size] - (size - 1) / 2

    def blob(at: tuple[float, float]) -> Tensor:
        value = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18)
        return torch.from_numpy(np.broadcast_to(value, (1, 3, size, size)).copy())

    angle = 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle), 1.25], [np.sin(angle), np.cos(angle), -0.5], [0, 0, 1]])
    there = turn @ [4, 2, 1]
    middle = (..., slice(4, 28), slice(4, 28))  # reflections come in at the edges
    close(warp(blob((4, 2)), turn[None])[middle], blob((there[0], there[1]))[middle], atol=0.01)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    close(warp(blob((4, 2)), quarter[None]), blit(blob((4, 2)), quarter[None]), atol=0.01)


def test_wavelets_are_orthogonal_to_their_even_shifts() -> None:
    for shift in range(6):
        inner = SYM6[2 * shift :] @ SYM6[: 12 - 2 * shift]
        assert inner == pytest.approx(float(shift == 0), abs=1e-11)
    for power in range(6):  # vanishing moments of the high-pass filter
        assert abs(((-1.0) ** np.arange(12) * np.arange(12.0) ** power) @ SYM6) < 1e-8
    np.testing.assert_allclose(BANK.sum(axis=0), np.eye(43)[21], atol=1e-15)


def test_frequency_bands_are_where_they_should_be() -> None:
    response = np.abs(np.fft.rfft(BANK, 1024, axis=1))
    edges = (0, 1 / 8, 1 / 4, 1 / 2, 1)
    frequency = np.arange(513) / 512
    for band, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = (frequency >= low) & (frequency <= high)
        assert (response.argmax(axis=0)[inside] == band).mean() > 0.9
    assert BAND_POWER.sum() == pytest.approx(1)


def test_filtering_amplifies_bands_and_keeps_expected_power() -> None:
    gains = made("imgfilter", n=4000).gains
    np.testing.assert_allclose((gains**2) @ BAND_POWER, gains.shape[0] * [1], rtol=10)  # products of four draws
    one = 2.0 ** np.random.default_rng(0).normal(0, 1, 5)
    x = pictures(1)
    close(separable(x, BANK.sum(axis=0)[None]), x, atol=1e-15)
    ones = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    close(separable(ones, (one[0] * BANK[0] + one[1] * BANK[3])[None]), one[0] ** 2 * ones, atol=1e-12)


def test_colour_operations_do_what_they_are_called() -> None:
    x = pictures(64)
    grey, hue_free = x.mean(dim=1, keepdim=True), (1 - LUMA.sum(axis=1)).max()
    assert hue_free < 1e-12

    def luma(y: Tensor) -> Tensor:
        return y.mean(dim=1, keepdim=True)

    def chroma(y: Tensor) -> Tensor:
        return y - luma(y)

    brighter = made("brightness")(x) - x
    close(brighter, brighter[:, :1, :1, :1].expand_as(x), atol=1e-12)
    assert brighter[:, 0, 0, 0].std().item() == pytest.approx(0.2, rel=0.3)
    ratio = made("contrast")(x) / x
    close(ratio, ratio[:, :1, :1, :1].expand_as(x), atol=1e-9)
    flipped = made("lumaflip")(x)
    sign = (luma(flipped) / grey)[:, 0, 0, 0].round()
    assert set(sign.tolist()) == {-1, 1}
    close(luma(flipped), sign[:, None, None, None] * grey, atol=1e-12)
    close(chroma(flipped), chroma(x), atol=1e-12)
    turned = made("hue")(x)
    close(luma(turned), grey, atol=1e-12)
    close(chroma(turned).norm(dim=1), chroma(x).norm(dim=1), atol=1e-12)
    assert (chroma(turned) - chroma(x)).abs().max() > 0.5
    saturated = made("saturation")(x)
    close(luma(saturated), grey, atol=1e-12)
    factor = chroma(saturated) / chroma(x)
    close(factor, factor[:, :1, :1, :1].expand_as(x), atol=1e-6)
    octaves = np.log2(factor[:, 0, 0, 0].numpy())
    assert octaves.std() == pytest.approx(1, rel=0.3)


def test_noise_and_cutout() -> None:
    x = torch.zeros(500, 3, 16, 16, dtype=torch.float64)
    noisy = made("noise", n=500)(x)
    strength = noisy.std(dim=(1, 2, 3))
    assert strength.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.1)  # half-normal of 0.1
    assert strength.min() < 0.01
    holes = made("cutout", n=500)
    cut = holes(x + 1)
    assert set(cut.unique().tolist()) == {0, 1}
    assert cut[:, 0].equal(cut[:, 2])
    inside = ((holes.cutout > 0.3) & (holes.cutout < 0.7)).all(axis=1)
    assert (cut[torch.from_numpy(inside), 0] == 0).sum(dim=(1, 2)).unique().tolist() == [64]  # 8 × 8 of 16 × 16


def test_every_operation_can_be_differentiated_twice() -> None:
    augment = draw(np.random.default_rng(3), 2, 8, 1)
    x = pictures(2, 8).requires_grad_()
    assert torch.autograd.gradcheck(augment, (x,))
    assert torch.autograd.gradgradcheck(augment, (x,))


def test_the_controller_finds_the_probability_that_keeps_its_target() -> None:
    """A discriminator that knows a share 1 - p / 2 of the real pictures: their mean sign is 0.6 at p = 0.4."""
    controller, rng = Controller(target=0.6, kimg=2, interval=4), np.random.default_rng(0)
    path = []
    for step in range(1200):
        known = 1 - float(controller.p) / 2
        controller.see(torch.from_numpy(np.where(rng.random(16) < known, 1.5, -0.5)))
        controller.adjust(step)
        path.append(float(controller.p))
    assert path[:3] == [0, 0, 0]
    assert path[3] == pytest.approx(4 * 16 / 2000)
    assert np.diff(path[:44:4]).min() > 0  # at first it only rises
    assert np.mean(path[-600:]) == pytest.approx(0.4, abs=0.05)
    controller.p.zero_()
    controller.see(torch.full((64,), -1.0))
    controller.adjust(3)
    assert controller.p.item() == 0


# --- the model --------------------------------------------------------------------------------------------------------


def test_shapes_ranges_and_batch_independence() -> None:
    model = tiny().eval()
    eeg = torch.from_numpy(training_data().eeg[:8])
    noise = torch.from_numpy(np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(8)]))
    with torch.no_grad():
        features = model.encode(eeg)
        images = model.decode(features, noise)
        one = model.decode(model.encode(eeg[3:4]), noise[3:4])
    close(features.norm(dim=1), np.ones(8), atol=1e-6)
    assert images.shape == (8, 3, 8, 8)
    assert 0 <= images.min() < images.max() <= 1
    close(one[0], images[3], atol=1e-6)
    assert EEGStyleGANADA.rounding == "nearest"
    assert list(model.parts()) == ["encoder", "generator", "discriminator"]


def test_cnn_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = build(spec(8, 20), **TINY, encoder="cnn", cnn_channels=(4, 6))
    eeg = torch.randn(3, 8, 20)
    assert not torch.equal(model.train().encode(eeg), model.encode(eeg))
    assert torch.equal(model.eval().encode(eeg), model.encode(eeg))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"resolutoin": 64}, "EEGStyleGANADAConfig has no option 'resolutoin'; did you mean 'resolution'?"),
        ({"resolution": 48}, "resolution of EEGStyleGAN-ADA must be a power of two from 8, but is 48; try 128."),
        ({"resolution": 128}, "channel_base must be at least the resolution, 128, but is 64."),
        ({"precision": "fp8"}, "precision must be one of 'float32', 'bf16', 'fp16', but is 'fp8'."),
        ({"noise_mode": "off"}, "noise_mode must be one of 'random', 'const', 'none', but is 'off'."),
        ({"operations": ["blur"]}, f"operations must be among {', '.join(OPERATIONS)}, but hold 'blur'."),
        ({"r1_interval": 0}, "r1_interval must be at least 1, but is 0."),
        ({"gan_kimg": -1}, "gan_kimg must be at least 0, but is -1.0."),
        ({"cnn_channels": []}, "cnn_channels must be at least 1 each, but are ()."),
        ({"ada_kimg": 0}, "ada_kimg must be more than 0, but is 0.0."),
        ({"gan_betas": [0, 1]}, "gan_betas must be at least 0 and less than 1, but is (0.0, 1.0)."),
        ({"gan_micro_batch": 3}, "gan_batch_size must be a multiple of gan_micro_batch, 3, but is 4."),
        (
            {"minibatch_group": 3},
            "pictures computed together must be a multiple of minibatch_group, 3, but are 4; "
            "change gan_batch_size or gan_micro_batch.",
        ),
        (
            {"encoder": "cnn"},
            "the CNN encoder halves both axes 4 times and needs more than 16 times or channels, "
            "but the recordings have 3 channels × 8 times; use encoder=lstm.",
        ),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        tiny(**overrides)


def test_a_trial_that_cannot_be_scaled_is_refused() -> None:
    message = (
        "EEGStyleGAN-ADA divides a trial by half its maximum, which must be finite and not 0, "
        "but trial 1 of 2 has maximum 0; leave such trials out of the split."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        tiny().encode(torch.tensor([1.0, 0.0])[:, None, None].expand(2, 3, 8))


def test_cards_are_valid_and_build() -> None:
    cards = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models/eegstylegan_ada.yaml")]
    names = ["eegstylegan-ada", "eegstylegan-ada.cnn", "eegstylegan-ada.thoughtviz", "eegstylegan-ada.small"]
    assert [card.id for card in cards] == names
    built = []
    for card in cards:
        assert card.builder is not None
        with torch.device("meta"):
            built.append(load_object(card.builder)(card.eeg or spec(), **card.preset))
        assert built[-1].resolution == card.resolution
        assert {claim.status for claim in card.claims} <= {"seen"}
    assert [count(model.encoder) for model in built[:3]] == [544_768, 6_325_376, 486_400]
    assert [count(model.generator) for model in built[:3]] == [28_080_925] * 3
    assert not cards[0].preset
    assert not cards[3].claims
    assert built[2].config.gan_kimg == 6500


# --- training ---------------------------------------------------------------------------------------------------------


def test_phases_follow_from_the_data() -> None:
    data = training_data()
    encoder, phase = recipes(tiny(encoder_epochs=300, gan_kimg=0.1), data, seed=0)
    assert (encoder.name, encoder.n_steps, encoder.eval_every) == ("encoder", 300, 3)  # 14 trials: 1 batch of 8
    assert (phase.name, phase.n_steps, phase.eval_every) == ("gan", 25, None)
    assert [recipe.name for recipe in recipes(tiny(), training_data(with_images=False), seed=0)] == ["encoder"]
    assert recipes(tiny(), data, seed=0, select="last")[0].eval_every is None
    message = "training EEGStyleGAN-ADA needs trials in the train role, but the split has none; choose another split."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(data, train=np.array([], dtype=np.int64)), seed=0)
    message = (
        "selecting the encoder by k-means needs a validation trial per class, at least 2, "
        "but there are 1; choose another split or select the last weights."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(data, val=np.array([19])), seed=0)


@pytest.mark.parametrize("scaling", ["half-max", "robust"])
def test_encoder_learns_to_separate_two_frequencies(scaling: str) -> None:
    model, data = tiny(encoder_lr=0.01, margin=0.2, eeg_scaling=scaling), training_data(n=40, n_val=20)
    recipe = recipes(model, data, seed=3)[0]
    for step in range(60):
        recipe.step(step, np.random.default_rng(step))
    assert recipe.validate() == 1


def test_adam_makes_up_for_lazy_regularisation() -> None:
    config = EEGStyleGANADAConfig()
    for interval, lr, beta in ((4, 0.0020, 0.99**0.8), (16, 0.0025 * 16 / 17, 0.99 ** (16 / 17))):
        group = lazy_adam(nn.Linear(1, 1), config, interval).param_groups[0]
        assert (group["lr"], group["eps"]) == (pytest.approx(lr), 1e-8)
        assert group["betas"] == (0, pytest.approx(beta))


def test_r1_is_the_squared_norm_of_the_gradient() -> None:
    images = torch.randn(4, 3, 2, 2, requires_grad=True)
    weight = torch.randn(3, 2, 2)
    penalty = r1_penalty((images * weight).sum(dim=(1, 2, 3)) ** 2 / 2, images)
    inner = (images * weight).sum(dim=(1, 2, 3))
    assert penalty.item() == pytest.approx((inner.square().mean() * weight.square().sum()).item(), rel=1e-5)


def test_a_step_without_augmentation_is_the_updates_written_out() -> None:
    model = tiny(operations=(), r1_gamma=3.0, noise_mode="random")
    twin, recipe = copy.deepcopy(model), gan(model)
    live, rng = copy.deepcopy(recipe.live), np.random.default_rng(5)
    losses = recipe.step(0, np.random.default_rng(5))

    def fakes() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        feature = recipe.features[torch.from_numpy(rng.integers(14, size=4))]
        z, noise = torch.randn(4, 4, generator=generator), torch.randn(4, live.n_noise, generator=generator)
        live.mapping.average(live.mapping(z, feature))
        return live(z, feature, noise=noise), feature

    live.train()
    d = twin.discriminator
    optimizers = lazy_adam(live, model.config, 4), lazy_adam(d, model.config, 16)
    image, feature = fakes()
    first = -F.logsigmoid(d(image, feature)).mean()
    first.backward()  # type: ignore[no-untyped-call]
    optimizers[0].step()
    average = live.mapping.w_avg.clone()
    image, feature = fakes()
    (real, condition) = next(recipe._reals(0))
    second = -F.logsigmoid(-d(image.detach(), feature)).mean() - F.logsigmoid(d(real, condition)).mean()
    d.zero_grad()
    second.backward()  # type: ignore[no-untyped-call]
    optimizers[1].step()
    d.zero_grad()
    real.requires_grad_()
    (16 * 3 / 2 * r1_penalty(d(real, condition), real)).backward()  # type: ignore[no-untyped-call]
    optimizers[1].step()
    assert losses == {"generator": pytest.approx(first.item()), "discriminator": pytest.approx(second.item()), "p": 0}
    for mine, theirs in ((recipe.live, live), (model.generator, live), (model.discriminator, d)):
        for (key, value), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=key)
    torch.testing.assert_close(recipe.live.mapping.w_avg, average)


def test_rounds_add_up_to_the_step_of_the_whole_batch() -> None:
    recipe = gan(tiny(operations=(), gan_batch_size=8, gan_micro_batch=4, minibatch_group=1))
    rounds = list(recipe._reals(0))
    assert [len(images) for images, _ in rounds] == [4, 4]
    discriminator = copy.deepcopy(recipe.model.discriminator)
    loss = recipe._update(
        recipe.discriminator_optimizer,
        recipe.model.discriminator,
        (recipe.model.discriminator(images, feature).square().mean() for images, feature in rounds),
    )
    whole = discriminator(*(torch.cat(part) for part in zip(*rounds, strict=True))).square().mean()
    assert loss == pytest.approx(whole.item())
    whole.backward()
    for (key, value), other in zip(
        recipe.model.discriminator.named_parameters(), discriminator.parameters(), strict=True
    ):
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-4, atol=1e-6, msg=key)


def test_passes_over_the_pictures_follow_one_another() -> None:
    recipe = gan(tiny(gan_batch_size=6))
    features = {tuple(row.tolist()): i for i, row in enumerate(recipe.features)}
    seen = [features[tuple(row.tolist())] for step in range(7) for _, c in recipe._reals(step) for row in c]
    assert [sorted(seen[start : start + 14]) for start in (0, 14, 28)] == [list(range(14))] * 3


def test_the_average_follows_with_its_half_life() -> None:
    recipe = gan(tiny(ema_kimg=0.002, ema_rampup=0.5))
    for step, kept in ((0, 0), (1, 0.5**2), (100, 0.5**2)):  # half-life in pictures: 0, 2, and 2 at most
        for average, live in zip(recipe.model.generator.parameters(), recipe.live.parameters(), strict=True):
            nn.init.ones_(average)
            nn.init.zeros_(live)
        recipe._average(step)
        for average in recipe.model.generator.parameters():
            close(average, torch.full_like(average, kept), atol=1e-7)


def test_gan_leaves_the_encoder_alone_and_raises_its_augmentation(tmp_path: Path) -> None:
    model = tiny(gan_steps=12, ada_kimg=0.1, ada_target=-1.5)  # whatever the sign, p rises
    before = copy.deepcopy(model.state_dict())
    recipe = gan(model)
    fitted = fit(recipe, tmp_path, seed=0)
    assert fitted.losses is not None
    assert fitted.losses["p"] == pytest.approx(3 * 16 / 100)
    moved = {key.partition(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"generator", "discriminator"}
    assert any(not torch.equal(a, b) for a, b in zip(model.generator.parameters(), recipe.live.parameters()))  # noqa: B905


@pytest.mark.parametrize("phase", [0, 1])
def test_an_interrupted_fit_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, phase: int) -> None:
    data = training_data()

    def training() -> tuple[Model, Recipe]:
        model = tiny(encoder_steps=6, gan_steps=6, ada_kimg=0.05, ada_interval=2, ada_target=-1.5)
        return model, recipes(model, data, seed=0)[phase]

    check_resuming(training, tmp_path)


# --- conversion -------------------------------------------------------------------------------------------------------


def encoder_file(path: Path, model: EEGStyleGANADA, **more: Tensor) -> Path:
    """A checkpoint of the encoder as the authors' code saves it."""
    state = {f"module.{key}": value for key, value in model.encoder.state_dict().items()}
    torch.save({"epoch": 7, "model_state_dict": state | more, "optimizer_state_dict": {"state": {}}}, path)
    return path


class Persistent:
    """Pickled as objects are that carry their source: a function of another module, called with all there is."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __reduce__(self) -> tuple[Any, ...]:
        source = "import sys\nsys.modules['it_was_run'] = sys\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": "G", "state": vars(self.network)}
        return rebuild, (meta,)


def rebuild(meta: dict[str, Any]) -> None:
    raise AssertionError("nothing in a file may be called")


class Dangerous:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.modules['it_was_run'] = sys",)


class Options(dict[str, Any]):
    """A dict of a class of its own."""


def persisted(network: nn.Module) -> Persistent:
    """The network and all below it as :class:`Persistent`."""
    twin = copy.copy(network)
    vars(twin)["_modules"] = {name: persisted(child) for name, child in network.named_children()}
    return Persistent(twin)


def snapshot_file(path: Path, model: EEGStyleGANADA, *, wrapped: bool = True, **more: Any) -> Path:
    wrap = persisted if wrapped else copy.deepcopy
    held = {
        "G": wrap(model.generator),
        "D": wrap(model.discriminator),
        "G_ema": wrap(model.generator),
        "augment_pipe": None,
        "training_set_kwargs": Options(path="/somewhere", use_labels=True),
        "more": (Dangerous(), {1, 2}, np.arange(3), torch.float16),
    }
    path.write_bytes(pickle.dumps(held | more, protocol=4 if wrapped else 2))
    return path


@pytest.mark.parametrize("overrides", [{}, {"encoder": "cnn", "cnn_channels": (3, 4)}])
def test_encoder_checkpoints_convert(tmp_path: Path, overrides: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = build(spec(5, 40), **TINY, **overrides).eval()
    converted = convert(encoder_file(tmp_path / "eegfeat_all_0.9.pth", model))
    assert (converted.parts, converted.counters) == (("encoder",), {"epoch": 7})
    assert list(converted.source_sha256) == ["eegfeat_all_0.9.pth"]
    for key, value in model.encoder.state_dict().items():
        np.testing.assert_array_equal(converted.state[f"encoder.{key}"], value.numpy(), strict=True)
    for key, value in converted.config.items():
        assert getattr(model.config, key) == value
    assert forward_check(converted)["encoder"] < 1e-12
    assert convert(tmp_path).source_sha256 == converted.source_sha256


@pytest.mark.parametrize("wrapped", [True, False])
def test_snapshots_convert_and_nothing_in_them_runs(tmp_path: Path, wrapped: bool) -> None:
    model = tiny(resolution=16, channel_base=64, channel_max=8).eval()
    for parameter in model.generator.parameters():
        nn.init.normal_(parameter)
    converted = convert(snapshot_file(tmp_path / "network-snapshot-005322.pkl", model, wrapped=wrapped))
    assert "it_was_run" not in sys.modules
    assert (converted.parts, converted.counters) == (("generator", "discriminator"), {"kimg": 5322})
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith("encoder.")}
    assert converted.state.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(converted.state[key], value.numpy(), strict=True)
    for key, value in converted.config.items():
        assert getattr(model.config, key) == value
    assert max(forward_check(converted).values()) < 1e-12


def test_the_forward_check_notices_a_kernel_in_another_layout(tmp_path: Path) -> None:
    model = tiny()
    converted = convert(snapshot_file(tmp_path / "network-snapshot-000001.pkl", model))
    key = "generator.synthesis.b8.conv0.resample_filter"
    broken = dataclasses.replace(converted, state=dict(converted.state) | {key: converted.state[key] * 1.01})
    with pytest.raises(
        IntegrityError,
        match=r"^the converted generator must compute in torch what it computes in numpy, within 1e-09, "
        r"but differs by [\d.e-]+; do not use these weights\.$",
    ):
        forward_check(broken)


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    model = tiny()
    path = encoder_file(tmp_path / "a.pth", model, **{"module.fc.2.weight": torch.zeros(2, 6)})
    message = "a.pth holds a classifier's head, so it is a fine-tuned checkpoint; convert the one it began from."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(path)
    path = encoder_file(tmp_path / "a.pth", model, **{"module.extra": torch.zeros(2)})
    message = "a.pth holds encoder.extra; it is not an EEGStyleGAN-ADA file that can be converted."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(path)
    torch.save({"weights": 1}, path)
    message = "a.pth must hold model_state_dict, but does not; it is not an EEG2Feat checkpoint."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(path)
    path = snapshot_file(tmp_path / "b.pkl", model, D=None)
    message = "b.pkl must hold the networks G_ema and D, but D is not there; it is not a snapshot of StyleGAN2-ADA."
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(path)
    message = (
        "--from must be an EEG2Feat checkpoint (.pth) or a network snapshot (.pkl), or a folder with one of them, "
        f"but {tmp_path} holds 2; give the file itself."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        convert(tmp_path)
    whole = snapshot_file(tmp_path / "b.pkl", model).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.pkl").write_bytes(whole[:cut])
        with pytest.raises(UsageError, match=r"b\.pkl must be a pickle of networks, but it cannot be read \("):
            read_modules(tmp_path / "b.pkl")

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam

from tests.models.resuming import check_resuming
from zoo.errors import UsageError
from zoo.models.base import Model
from zoo.models.layers import epoch_batch
from zoo.models.neuromatch_lstm_gan import (
    GANRecipe,
    NeuromatchConfig,
    NeuromatchLSTMGAN,
    build,
    recipes,
    resize_rows,
    with_pictures,
)
from zoo.models.recipes import scale_image
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, TrainingData

CARDS = {
    card.id.partition(".")[2] or "faithful": card
    for card in (ModelCard.model_validate(e) for e in read_yaml(PACKAGE / "models/neuromatch_lstm_gan.yaml"))
}
SPEC = EEGSpec(ch_names=("Fz", "Cz", "Pz"), sfreq=128, tmin=0, n_times=8)
EEGCVPR = EEGSpec(ch_names=tuple(f"E{i}" for i in range(128)), sfreq=1000, tmin=0, n_times=500, unit="a.u.")
TINY: dict[str, Any] = {
    "n_samples": 10,
    "n_features": 6,
    "noise_dim": 5,
    "resolution": 16,
    "generator_width": 4,
    "discriminator_width": 4,
    "encoder_batch_size": 8,
}
CORRECTED = CARDS["corrected"].preset | {"gan_batch_size": 6}


def tiny(preset: str = "faithful", **overrides: Any) -> NeuromatchLSTMGAN:
    torch.manual_seed(0)
    return build(SPEC, **{**TINY, **({} if preset == "faithful" else CORRECTED), **overrides})


def training_data(*, n: int = 20, n_val: int = 6, with_images: bool = True) -> TrainingData:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    eeg = rng.standard_normal((n, 3, 8)).astype(np.float32) * 1e-1
    eeg += np.sin(np.arange(8) * (1 + labels[:, None, None])).astype(np.float32)
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


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gan_of(model: NeuromatchLSTMGAN, data: TrainingData | None = None) -> GANRecipe:
    phase = recipes(model, data or training_data(), seed=0)[-1]
    assert isinstance(phase, GANRecipe)
    return phase


def refused(message: str) -> Any:
    return pytest.raises(UsageError, match=f"^{re.escape(message)}$")


# --- networks --------------------------------------------------------------------------------------------------------


def test_parameter_counts_are_those_of_the_notebook() -> None:
    with torch.device("meta"):
        model = build(EEGCVPR)
    assert {name: count(part) for name, part in model.parts().items()} == {
        "encoder": 1_064_064,
        "generator": 15_214_339,
        "discriminator": 2_765_633,
    }
    assert count(model.encoder.lstm) == 1_031_168
    per_layer = [count(layer) for layer in model.generator.blocks if isinstance(layer, nn.ConvTranspose2d)]
    norms = [count(layer) for layer in model.generator.blocks if isinstance(layer, nn.BatchNorm2d)]
    assert [a + b for a, b in zip(per_layer, [*norms, 0], strict=True)] == [
        4_196_352,
        8_389_632,
        2_097_664,
        524_544,
        6_147,
    ]
    convolutions = [count(layer) for layer in model.discriminator.blocks if isinstance(layer, nn.Conv2d)]
    assert convolutions == [3_136, 131_072, 524_288, 2_097_152]
    assert count(model.discriminator.out) == 8_193
    assert CARDS["faithful"].preset == {}


def test_the_corrected_preset_adds_a_projection_and_reads_440_samples() -> None:
    with torch.device("meta"):
        model = build(EEGCVPR, **CARDS["corrected"].preset)
        prepared = build(EEGCVPR.model_copy(update={"n_times": 440}), **CARDS["corrected"].preset)
    assert count(model.discriminator) == 2_765_633 + 128 * 512
    assert count(model.generator) == 15_214_339
    assert model.encoder.lstm.input_size == prepared.encoder.lstm.input_size == 440
    assert (model.cut, prepared.cut) == (slice(20, 460), slice(None))


@pytest.mark.parametrize(("n_times", "n_samples"), [(13, 10), (10, 10), (7, 10), (3, 10)])
def test_rows_are_those_that_resizing_a_tensor_in_place_gives(n_times: int, n_samples: int) -> None:
    eeg = torch.randn(2, 4, n_times, generator=torch.Generator().manual_seed(0))
    rows = resize_rows(eeg, n_samples)
    assert rows.shape == (2, 4, n_samples)
    for trial, ours in zip(eeg, rows, strict=True):
        theirs = trial.clone().resize_(4, n_samples)
        known = min(trial.numel(), ours.numel())
        torch.testing.assert_close(ours.flatten()[:known], theirs.flatten()[:known], rtol=0, atol=0)
        assert not ours.flatten()[known:].any()
    if n_times > n_samples:  # the second row begins with the end of the first channel
        assert torch.equal(rows[:, 1, : n_times - n_samples], eeg[:, 0, n_samples:])


def test_a_prepared_recording_fills_114_rows_of_491_and_part_of_another() -> None:
    filled = resize_rows(torch.ones(1, 128, 440), 491)[0].sum(dim=1)
    assert filled[:114].eq(491).all()
    assert filled[114:116].tolist() == [128 * 440 - 114 * 491, 0]


def test_the_sequence_is_the_channels_and_their_states_are_averaged() -> None:
    encoder = tiny().encoder
    x = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    states = torch.stack([encoder.lstm(x)[0][:, channel] for channel in range(3)])
    torch.testing.assert_close(encoder(x), F.linear(states.mean(dim=0), encoder.out.weight, encoder.out.bias))
    assert states.shape == (3, 2, 12)


@pytest.mark.parametrize(("preset", "mean"), [("faithful", 0.0), ("corrected", 1.0)])
def test_initial_weights_have_the_deviation_of_a_dcgan_and_norms_the_mean_of_their_preset(
    preset: str, mean: float
) -> None:
    model = tiny(preset, resolution=32, generator_width=32, discriminator_width=32)
    for network in (model.generator, model.discriminator):
        norms = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
        kernels = torch.cat(
            [m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        )
        n, k = len(norms), len(kernels)
        assert norms.mean().item() == pytest.approx(mean, abs=4 * 0.02 / n**0.5)
        assert norms.std().item() == pytest.approx(0.02, rel=4 / (2 * n) ** 0.5)
        assert kernels.mean().item() == pytest.approx(0, abs=4 * 0.02 / k**0.5)
        assert kernels.std().item() == pytest.approx(0.02, rel=4 / (2 * k) ** 0.5)
        assert not any(m.bias.any() for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_frozen_encoder_comes_from_its_own_seed_and_takes_none_from_others() -> None:
    def built(seed: int, **overrides: Any) -> NeuromatchLSTMGAN:
        torch.manual_seed(seed)
        return build(SPEC, **{**TINY, **overrides})

    def same(a: NeuromatchLSTMGAN, b: NeuromatchLSTMGAN, part: str) -> bool:
        state = b.parts()[part].state_dict()
        return all(torch.equal(value, state[key]) for key, value in a.parts()[part].state_dict().items())

    assert same(built(0), built(1), "encoder")
    assert not same(built(0), built(1), "generator")
    assert same(built(0), built(0, encoder_seed=1), "generator")
    assert not same(built(0), built(0, encoder_seed=1), "encoder")
    assert not same(built(0, encoder="trained"), built(1, encoder="trained"), "encoder")
    torch.manual_seed(2023)
    first = nn.LSTM(10, 6, 2, bidirectional=True).state_dict()["weight_ih_l0"]
    assert torch.equal(first, built(0).encoder.state_dict()["lstm.weight_ih_l0"])


def test_unbounded_blue_green_red_becomes_an_image() -> None:
    model = tiny().eval()
    last = model.generator.blocks[-1]
    assert isinstance(last, nn.ConvTranspose2d)
    assert last.bias is not None
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-20.0, 51.0, 300.0]))
        images = model.decode(torch.zeros(1, 6), torch.zeros(1, 5))
    assert images.shape == (1, 3, 16, 16)
    assert images[0, :, 3, 7].tolist() == pytest.approx([1, 0.2, 0])


def test_corrected_images_are_bounded_by_tanh() -> None:
    model = tiny("corrected").eval()
    last = model.generator.blocks[-2]
    assert isinstance(last, nn.ConvTranspose2d)
    assert last.bias is not None
    with torch.no_grad():
        last.bias.copy_(torch.tensor([100.0, -100.0, 0.0]))
        images = model.decode(torch.zeros(1, 6), torch.zeros(1, 5))
    assert images[0, :2, 0, 0].tolist() == [1, 0]
    assert images[0, 2].mean().item() == pytest.approx(0.5, abs=0.1)


def test_pictures_are_bytes_in_opencvs_order_or_signed() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    bytes_ = tiny().pixels_of(picture)
    np.testing.assert_array_equal(bytes_.numpy(), picture.transpose(2, 0, 1)[::-1])
    assert torch.equal(tiny("corrected").pixels_of(picture), scale_image(picture, 16))
    larger = tiny().pixels_of(np.repeat(picture, 3, axis=0))
    assert torch.equal(larger, larger.round())


def test_only_the_corrected_discriminator_sees_the_feature() -> None:
    pixels, features = torch.rand(4, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 6)
    as_run, corrected = tiny().eval().discriminator, tiny("corrected").eval().discriminator
    assert torch.equal(as_run(pixels, features[0]), as_run(pixels, features[1]))
    assert as_run.project is None
    assert corrected.project is not None
    nn.init.orthogonal_(corrected.project.weight, gain=100)
    logits = [corrected(pixels, feature[:1].expand(4, -1)).logit() for feature in features]
    # not a constant per feature: which picture looks real depends on it
    assert (logits[0] - logits[1]).std() > 0.01


def test_recordings_are_standardised_where_asked() -> None:
    eeg = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    model = tiny(eeg_scaling="standard")
    torch.testing.assert_close(model.encode(eeg), model.encode(eeg * 1e-6 + 4e-3), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(tiny().encode(eeg), tiny().encode(eeg * 2), atol=1e-3)


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_networks_follow_from_the_resolution(resolution: int) -> None:
    model = tiny(resolution=resolution).eval()
    images = model.decode(torch.randn(2, 6), torch.randn(2, 5))
    assert images.shape == (2, 3, resolution, resolution)
    assert model.discriminator(images, torch.zeros(2, 6)).shape == (2,)


def test_noise_is_gaussian_of_the_given_scale() -> None:
    model = tiny(noise_scale=0.1)
    drawn = np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(2000)])
    assert drawn.shape == (2000, 5)
    assert drawn.dtype == np.float32
    assert drawn.std() == pytest.approx(0.1, rel=0.03)
    assert np.mean(np.abs(drawn) < 0.1) == pytest.approx(0.6827, abs=0.02)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"resolution": 48},
            "resolution of neuromatch-lstm-gan must be a power of two from 8, but is 48; try 32 or 64.",
        ),
        ({"window": "wrap"}, "window must be 'resize' or 'crop', but is 'wrap'."),
        ({"crop": (30, 20)}, "crop must be a first sample and a later one, from 0, but is (30, 20)."),
        ({"max_records": 0}, "max_records must be at least 1, but is 0."),
        ({"noise_scale": -1}, "noise_scale must be at least 0, but is -1.0."),
        ({"gan_lr": 0}, "gan_lr must be more than 0, but is 0.0."),
        ({"gan_betas": (0.5, 1.0)}, "gan_betas must be at least 0 and less than 1, but is (0.5, 1.0)."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with refused(message):
        build(SPEC, **overrides)


def test_cards_are_valid_and_build() -> None:
    assert list(CARDS) == ["faithful", "corrected", "small"]
    for card in CARDS.values():
        assert card.builder is not None
        assert not card.claims
        with torch.device("meta"):
            model = load_object(card.builder)(SPEC, **card.preset)
        assert model.resolution == card.resolution
    with torch.device("meta"):
        assert sum(count(part) for part in build(SPEC, **CARDS["small"].preset).parts().values()) < 1_050_000


# --- training --------------------------------------------------------------------------------------------------------


def test_phases_follow_from_the_encoder_and_the_pictures() -> None:
    data = training_data()
    (gan,) = recipes(tiny(gan_epochs=2), data, seed=0)
    assert (gan.name, gan.n_steps, set(gan.optimizers())) == ("gan", 28, {"generator", "discriminator"})
    assert set(gan.modules()) == {"encoder", "generator", "discriminator"}, "or its weights would not be saved"
    encoder, gan = recipes(tiny("corrected", encoder_epochs=5, gan_epochs=4), data, seed=0)
    assert (encoder.name, encoder.n_steps, encoder.eval_every) == ("encoder", 10, 2)
    assert (gan.n_steps, set(gan.modules())) == (12, {"generator", "discriminator"})
    pictureless = training_data(with_images=False)
    assert [recipe.name for recipe in recipes(tiny("corrected"), pictureless, seed=0)] == ["encoder"]
    with refused(
        "encoder='frozen' leaves only the GAN to train, which needs pictures, but the dataset has none; "
        "use encoder='trained' or a dataset with pictures."
    ):
        recipes(tiny(), pictureless, seed=0)
    with refused(
        "training neuromatch-lstm-gan needs trials in the train role, but the split has none; choose another split."
    ):
        recipes(tiny(), dataclasses.replace(data, train=np.array([], dtype=np.int64)), seed=0)


def test_records_are_the_first_thousand_that_have_a_picture() -> None:
    data = training_data()
    assert data.image_of_trial is not None
    some = np.where(np.arange(20) % 3 == 0, -1, data.image_of_trial)
    data = dataclasses.replace(data, image_of_trial=some, train=np.array([9, 8, 7, 6, 5, 4]))
    assert with_pictures(data, NeuromatchConfig()).train.tolist() == [8, 7, 5, 4]
    assert with_pictures(data, NeuromatchConfig(max_records=3)).train.tolist() == [8, 7, 5]
    assert with_pictures(data, NeuromatchConfig(image_pairing="class")).train.tolist() == [9, 8, 7, 6, 5, 4]
    gan = gan_of(tiny(max_records=3), data)
    assert gan.n_steps == 3
    np.testing.assert_array_equal(gan.picture_of, some[[8, 7, 5]])
    for nothing in (np.full(20, -1), None):
        with refused(
            "image_pairing='instance' needs training trials with a picture of their own, but none of 6 has one; "
            "use image_pairing='class'."
        ):
            recipes(tiny(), dataclasses.replace(data, image_of_trial=nothing), seed=0)


def test_the_generator_normalises_by_its_first_record_from_the_second_step_on() -> None:
    model, data = tiny(), training_data()
    gan = gan_of(model, data)
    first, norm = model.generator.blocks[0], model.generator.blocks[1]
    assert isinstance(norm, nn.BatchNorm2d)
    before = copy.deepcopy(first)
    gan.step(0, np.random.default_rng(0))
    codes = torch.cat([gan.features, torch.from_numpy(gan.noise)], dim=1)
    maps = before(codes[:, :, None, None])
    candidates = 0.1 * maps.mean(dim=(2, 3))
    assert (candidates - norm.running_mean).abs().amax(dim=1).min() < 1e-7, "moved a tenth of the way by one record"
    statistics = copy.deepcopy({k: v for k, v in model.generator.state_dict().items() if "running" in k})
    for step in range(1, 4):
        gan.step(step, np.random.default_rng(step))
        assert not model.generator.training
    now = model.generator.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in statistics.items())
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 1
    tracked = [m.num_batches_tracked for m in model.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [int(t) for t in tracked if t is not None] == [12], "real, generated, and generated again, in four steps"


def test_the_corrected_generator_keeps_to_batch_statistics() -> None:
    model = tiny("corrected")
    gan = gan_of(model)
    for step in range(3):
        gan.step(step, np.random.default_rng(step))
    assert model.generator.training
    assert model.generator.get_buffer("blocks.1.num_batches_tracked").item() == 3


def test_noise_is_one_code_per_record_or_drawn_in_every_step() -> None:
    def after(preset: str, rng_seed: int) -> dict[str, torch.Tensor]:
        model = tiny(preset)
        gan_of(model).step(0, np.random.default_rng(rng_seed))
        return model.state_dict()

    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(value, b[key]) for key, value in a.items())

    assert equal(after("faithful", 0), after("faithful", 1))
    assert equal(after("corrected", 0), after("corrected", 0))
    assert not equal(after("corrected", 0), after("corrected", 1))
    noise = gan_of(tiny()).noise
    np.testing.assert_array_equal(noise, gan_of(tiny()).noise)
    assert noise.shape == (14, 5)
    assert len({tuple(row.tolist()) for row in noise}) == 14


@pytest.mark.parametrize(("preset", "step"), [("faithful", 0), ("faithful", 1), ("corrected", 1)])
def test_a_step_is_the_two_updates_written_out(preset: str, step: int) -> None:
    model, data = tiny(preset), training_data()
    gan = gan_of(model, data)
    twin = copy.deepcopy(model)
    losses = gan.step(step, np.random.default_rng(5))

    size = 1 if preset == "faithful" else 6
    batch = epoch_batch(step, n=14, batch_size=size, key=("neuromatch-lstm-gan", "gan", 0))
    assert data.image_of_trial is not None
    real = torch.stack([twin.pixels_of(data.images[row]) for row in data.image_of_trial[batch]])
    with torch.no_grad():
        feature = twin.encode(torch.from_numpy(data.eeg[batch]))
    fresh = np.random.default_rng(5).standard_normal((size, 5), dtype=np.float32)
    noise = torch.from_numpy(gan.noise[batch] if preset == "faithful" else fresh)
    g, d = twin.generator, twin.discriminator
    g_optimizer, d_optimizer = (Adam(part.parameters(), lr=1e-4, betas=(0.5, 0.999)) for part in (g, d))
    g.train(preset == "corrected" or step == 0)
    fake = g(torch.cat([feature, noise], dim=1))
    ones, zeros = torch.ones(size), torch.zeros(size)
    loss = (
        F.binary_cross_entropy(d(real, feature), ones) + F.binary_cross_entropy(d(fake.detach(), feature), zeros)
    ) / 2
    loss.backward()  # type: ignore[no-untyped-call]
    d_optimizer.step()
    g_optimizer.zero_grad()
    adversarial = F.binary_cross_entropy(d(fake, feature), ones)
    adversarial.backward()  # type: ignore[no-untyped-call]
    g_optimizer.step()
    assert losses == pytest.approx({"discriminator": loss.item(), "generator": adversarial.item()}, rel=1e-5)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_the_gan_leaves_the_encoder_as_it_is() -> None:
    for preset in ("faithful", "corrected"):
        model = tiny(preset)
        before = copy.deepcopy(model.encoder.state_dict())
        gan = gan_of(model)
        for step in range(2):
            gan.step(step, np.random.default_rng(step))
        assert all(torch.equal(value, model.encoder.state_dict()[key]) for key, value in before.items())


def test_the_corrected_encoder_learns_to_separate_two_frequencies() -> None:
    model = tiny("corrected", encoder_lr=0.01)
    recipe = recipes(model, training_data(n=40, n_val=20), seed=3)[0]
    losses = [recipe.step(step, np.random.default_rng(step))["cross_entropy"] for step in range(40)]
    assert np.mean(losses[-5:]) < 0.3 * losses[0]
    assert recipe.validate() == 1


@pytest.mark.parametrize(("preset", "phase"), [("faithful", 0), ("corrected", 0), ("corrected", 1)])
def test_an_interrupted_fit_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, preset: str, phase: int
) -> None:
    data = training_data()

    def training() -> tuple[Model, Recipe]:
        model = tiny(preset, encoder_steps=6, gan_steps=6, gan_ema=0.9)
        return model, recipes(model, data, seed=0)[phase]

    check_resuming(training, tmp_path)

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
from torch.distributions import Normal, kl_divergence
from torch.optim import Adam

from tests.models.resuming import check_resuming
from tests.models.test_eeg_gan import CVPR40, SPEC, count, rng, training_data
from zoo.errors import UsageError
from zoo.models.base import Model
from zoo.models.brain2image import (
    Brain2ImageVAE,
    VAERecipe,
    build,
    divergence,
    recipes,
)
from zoo.models.eeg_gan import EEGGAN
from zoo.registry import PACKAGE, load_object, models, read_yaml
from zoo.specs import ModelCard
from zoo.training import Recipe

TINY: dict[str, Any] = {
    "lstm_units": 7,
    "n_features": 6,
    "latent_dim": 5,
    "resolution": 16,
    "decoder_width": 8,
    "image_encoder_width": 4,
    "encoder_batch_size": 8,
    "vae_batch_size": 4,
    "eeg_scaling": "robust",
}


def tiny(**overrides: Any) -> Brain2ImageVAE:
    torch.manual_seed(0)
    return build(SPEC, **{**TINY, **overrides})


def test_parameter_counts() -> None:
    parts = {name: count(part) for name, part in build(CVPR40).parts().items()}
    # 3→64→128→256→512 with batch norm throughout, then (512·16 + 128)→200
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 2 * (64 + 128 + 256 + 512)
    assert parts == {
        "encoder": 153_768 - 5_160,
        "decoder": 4_625_283,
        "image_encoder": kernels + (512 * 16 + 128) * 200 + 200,
    }


def test_divergence_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 7, dtype=torch.float64) * 2, torch.randn(5, 7, dtype=torch.float64)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence(mean, log_variance), wanted)
    assert divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0
    assert divergence(torch.full((1, 2), 3.0), torch.zeros(1, 2)).item() == 9  # d · mean² / 2


def test_shapes_ranges_and_batch_independence() -> None:
    model = tiny().eval()
    eeg = torch.from_numpy(training_data().eeg[:8])
    noise = torch.from_numpy(np.stack([model.draw_noise(rng(i)) for i in range(8)]))
    with torch.no_grad():
        features = model.encode(eeg)
        images = model.decode(features, noise)
        one = model.decode(model.encode(eeg[3:4]), noise[3:4])
        mean, log_variance = model.image_encoder(images * 2 - 1, features)
    assert features.shape == (8, 6)
    assert mean.shape == log_variance.shape == (8, 5)
    assert images.shape == (8, 3, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    torch.testing.assert_close(one[0], images[3], rtol=0, atol=1e-6)
    assert list(model.parts()) == ["encoder", "decoder", "image_encoder"]


def test_what_is_sampled_without_a_picture_is_the_prior() -> None:
    noise = tiny(latent_dim=20_000).draw_noise(rng())
    assert noise.dtype == np.float32
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, rel=0.02))


def test_both_halves_see_the_condition() -> None:
    model = tiny().eval()
    image, z = torch.rand(2, 3, 16, 16), torch.zeros(2, 5)
    with torch.no_grad():
        means = [model.image_encoder(image, torch.full((2, 6), value))[0] for value in (0.0, 1.0)]
        images = [model.decode(torch.full((2, 6), value), z) for value in (0.0, 1.0)]
    assert (means[0] - means[1]).abs().max() > 1e-3
    assert (images[0] - images[1]).abs().max() > 1e-4  # initial kernels are small


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_a_step_is_the_update_written_out(beta: float) -> None:
    model, data = tiny(beta=beta), training_data()
    recipe = recipes(model, data, seed=0)[1]
    assert isinstance(recipe, VAERecipe)
    twin = copy.deepcopy(model)
    losses = recipe.step(0, rng(7))

    again = rng(7)
    real, labels = recipe.batches.draw(0, again)
    condition = recipe.batches.means[torch.from_numpy(labels)]
    mean, log_variance = twin.image_encoder.train()(real, condition)
    epsilon = torch.from_numpy(again.standard_normal((4, 5), dtype=np.float32))
    made = twin.decoder.train()(mean + epsilon * log_variance.exp().sqrt(), condition)
    pixels = ((made - real) ** 2).sum() / 4
    posterior = Normal(mean, log_variance.exp().sqrt())
    kl = kl_divergence(posterior, Normal(torch.zeros(4, 5), torch.ones(4, 5))).sum() / 4
    optimizer = Adam([*twin.decoder.parameters(), *twin.image_encoder.parameters()], lr=1e-3)
    (pixels + beta * kl).backward()
    optimizer.step()
    assert losses == {
        "pixels": pytest.approx(pixels.item(), rel=1e-5),
        "divergence": pytest.approx(kl.item(), rel=1e-4),
    }
    for key, value in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[key], value, rtol=0, atol=5e-5, msg=key)


def test_it_learns_pictures_of_two_colours_from_their_class() -> None:
    """What the EEG tells alone comes out: with z of the prior, the colour of a trial's class."""
    data = training_data(n=40, n_classes=2, n_val=10)
    red, blue = (np.full((8, 8, 3), colour, dtype=np.uint8) for colour in ((230, 20, 20), (20, 20, 230)))
    data = dataclasses.replace(data, images=(red, blue) * 3, image_labels=np.arange(6) % 2)
    model = tiny(resolution=8, encoder_lr=0.02, encoder_steps=60, vae_lr=5e-3, vae_steps=120)
    for recipe in recipes(model, data, seed=0):
        for step in range(recipe.n_steps):
            recipe.step(step, rng(step))
    model.eval()
    with torch.no_grad():
        noise = torch.from_numpy(np.stack([model.draw_noise(rng(i)) for i in range(10)]))
        images = model.decode(model.encode(torch.from_numpy(data.eeg[data.val])), noise)
    redder = (images[:, 0] > images[:, 2]).float().mean(dim=(1, 2)).round()
    assert redder.tolist() == [float(label == 0) for label in data.labels[data.val]]


def test_phases_follow_from_the_data() -> None:
    data = training_data()
    phases = recipes(tiny(encoder_epochs=2, vae_epochs=4), data, seed=0)
    assert [(p.name, p.n_steps, p.eval_every, p.ties) for p in phases] == [
        ("encoder", 6, 3, "later"),
        ("vae", 12, None, "earlier"),
    ]
    assert recipes(tiny(vae_steps=7), data, seed=0)[1].n_steps == 7
    assert [p.name for p in recipes(tiny(), dataclasses.replace(data, images=()), seed=0)] == ["encoder"]


@pytest.mark.parametrize("phase", [0, 1])
def test_an_interrupted_fit_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, phase: int) -> None:
    data = training_data()

    def training() -> tuple[Model, Recipe]:
        model = tiny(encoder_steps=6, vae_steps=6, condition="trial")
        return model, recipes(model, data, seed=0)[phase]

    assert check_resuming(training, tmp_path) == ({"decoder", "image_encoder"} if phase else {"encoder"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"latent": 64}, "Brain2ImageVAEConfig has no option 'latent'; did you mean 'latent_dim'?"),
        ({"resolution": 96}, "resolution must be a power of two from 8, but is 96; try 32 or 64."),
        (
            {"decoder_width": 4},
            "decoder_width must be a multiple of 8 to be halved from 4×4 to 32×32, but is 4; try 128.",
        ),
        ({"beta": -1}, "beta must be at least 0, but is -1.0."),
        ({"condition": "none"}, "condition must be 'class-mean' or 'trial', but is 'none'."),
        ({"vae_lr": 0}, "vae_lr must be more than 0, but is 0.0."),
        ({"encoder_lr": -1e-3}, "encoder_lr must be more than 0, but is -0.001."),
        ({"vae_steps": -1}, "vae_steps must be at least 0, but is -1."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **overrides)


def test_cards_are_valid_and_build() -> None:
    cards = [ModelCard.model_validate(entry) for entry in read_yaml(PACKAGE / "models/brain2image.yaml")]
    assert [card.id for card in cards] == [
        "brain2image-vae",
        "brain2image-gan",
        "brain2image-vae.small",
        "brain2image-gan.small",
    ]
    for card in cards:
        assert models.get(card.id) == card
        assert card.builder is not None
        model = load_object(card.builder)(SPEC, **card.preset)
        assert model.resolution == card.resolution
        assert isinstance(model, EEGGAN if "gan" in card.id else Brain2ImageVAE)
    claims = {card.id: [(claim.metric, claim.value, claim.status) for claim in card.claims] for card in cards}
    assert claims == {
        "brain2image-vae": [("inception_score", 4.49, "third-party")],
        "brain2image-gan": [("inception_score", 5.07, "third-party")],
        "brain2image-vae.small": [],
        "brain2image-gan.small": [],
    }
    for card in cards[:2]:
        assert any(note.startswith("A reconstruction of this zoo") for note in card.notes)


def test_the_gan_of_brain2image_is_eeg_gan_without_its_first_phase() -> None:
    card = models.get("brain2image-gan")
    assert card.builder is not None
    gan = load_object(card.builder)(SPEC, **{**card.preset, "resolution": 16, "gan_steps": 2})
    phases = load_object("zoo.models.eeg_gan:recipes")(gan, training_data(), seed=0)
    assert [phase.name for phase in phases] == ["encoder", "gan"]
    assert card.preset == {"unconditional_epochs": 0}
    assert (gan.config.noise_dim, gan.config.n_features) == (100, 128)
    assert math.prod(gan.generator.up[0].weight.shape) == 228 * 512 * 16

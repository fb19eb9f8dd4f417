from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo import registry
from zoo.compute import to_uint8
from zoo.datasets.base import load
from zoo.errors import MissingError, UsageError
from zoo.models import eeg2image
from zoo.models.class_gan import ClassGAN, build, recipes
from zoo.plan import config_of
from zoo.specs import EEGSpec, ModelCard
from zoo.stats import keyed_rng
from zoo.training import TrainingData, fit

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


def tiny(spec: EEGSpec = SPEC, **settings: Any) -> ClassGAN:
    torch.manual_seed(0)
    return build(spec, n_classes=4, settings={**TINY, **settings})


def training_data(eeg: float = np.nan) -> TrainingData:
    """Two classes with dark and bright pictures; the recordings hold one value everywhere."""
    labels = np.arange(24) % 2
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(*((10, 60), (190, 240))[i % 2], (16, 16, 3), dtype=np.uint8) for i in range(8))
    return TrainingData(
        eeg=np.full((24, 3, 8), eeg, np.float32),
        labels=labels,
        train=np.arange(16),
        val=np.arange(16, 24),
        n_classes=2,
        images=images,
        image_labels=np.arange(8) % 2,
        image_of_trial=np.full(24, -1),
    )


def test_every_class_has_one_recording_of_noise_in_place_of_the_eeg() -> None:
    model, other = tiny(), build(SPEC, seed=1, settings=TINY)
    assert model.codes.shape == (4, 3, 8)
    assert other.codes.shape == (100, 3, 8)
    assert np.std(other.codes) == pytest.approx(1e-5, rel=0.05)
    assert not np.isclose(model.codes, other.codes[:4]).any()
    np.testing.assert_array_equal(model.codes, build(SPEC, n_classes=9, settings=TINY).codes[:4])
    arbitrary = SPEC.model_copy(update={"unit": "a.u."})
    np.testing.assert_allclose(tiny(arbitrary).codes, model.codes * 1e5, rtol=1e-6)
    labels = torch.tensor([2, 0, 2, 3])
    features = model.encode_labels(labels)
    assert torch.equal(features[0], features[2])
    assert not torch.isclose(features[0], features[1]).any()
    torch.testing.assert_close(features, model.model.encode(torch.from_numpy(model.codes[labels])), rtol=0, atol=0)


def test_networks_are_those_of_the_model_that_is_told() -> None:
    model = tiny()
    torch.manual_seed(0)
    plain = eeg2image.build(SPEC, **TINY)
    assert list(model.parts()) == ["encoder", "generator", "discriminator"]
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    features, noise = torch.randn(2, 6), torch.randn(2, 5)
    assert torch.equal(model.eval().decode(features, noise), plain.eval().decode(features, noise))
    assert (model.resolution, model.rounding) == (16, "truncate")
    drawn = [net.draw_noise(np.random.default_rng(3)).tolist() for net in (model, plain)]
    assert drawn[0] == drawn[1]
    settings = config_of(model)["settings"]
    assert (settings["lstm_units"], settings["margin"]) == (
        (4, 6),
        1.0,
    )  # all of them, not only those that were changed


def test_phases_are_those_of_the_model_that_is_told_and_select_nothing() -> None:
    found = recipes(tiny(encoder_steps=7, gan_steps=5), training_data(), seed=0, select="val")
    assert [(phase.name, phase.n_steps, phase.eval_every) for phase in found] == [
        ("encoder", 7, None),
        ("gan", 5, None),
    ]


def test_the_recordings_move_no_bit_and_an_interrupted_fit_neither(tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    models = [tiny(encoder_steps=6, gan_steps=6) for _ in range(3)]
    for model, eeg, name in zip(models, (np.nan, 1.0, np.nan), ("nan", "one", "broken"), strict=True):
        for phase in range(2):
            if name == "broken":
                with pytest.raises(KeyboardInterrupt):
                    fit(recipes(model, training_data(eeg), seed=0)[phase], tmp_path / name, seed=0, progress=stop)
            fit(recipes(model, training_data(eeg), seed=0)[phase], tmp_path / name, seed=0)
    states = [model.state_dict() for model in models]
    start = tiny().state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in states[0].items())
    for state in states[1:]:
        assert all(torch.equal(value, states[0][key]) for key, value in state.items())


def test_it_learns_which_class_is_bright(tmp_path: Path) -> None:
    batches: dict[str, Any] = {"encoder_batch_size": 16, "gan_batch_size": 16}
    model = tiny(encoder_steps=40, gan_steps=150, encoder_lr=0.01, gan_lr=5e-3, mode_weight=0.1, **batches)
    for phase in recipes(model, training_data(), seed=0):
        fit(phase, tmp_path, seed=0)
    noise = torch.from_numpy(np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(16)]))
    with torch.inference_mode():
        dark, bright = (
            model.eval().decode(model.encode_labels(torch.full((16,), label)), noise).mean() for label in (0, 1)
        )
    assert dark < 0.3  # pictures have 0.14
    assert bright > 0.7  # pictures have 0.84


def test_a_sample_is_made_of_the_true_class_of_its_trial(tmp_path: Path) -> None:
    data = load("phantom")
    torch.manual_seed(0)
    model = build(data.spec, settings=TINY)
    options: dict[str, Any] = {"limit": 12, "replicates": 1, "device": "cpu", "format": "npy"}
    folder = zoo.generate(model, "phantom", output_dir=tmp_path / "out", **options)
    samples = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    labels = torch.tensor([data.concepts.index(sample["concept"]) for sample in samples])
    assert len(set(labels.tolist())) > 3
    keys = [(sample["track"], sample["trial_id"], sample["replicate"]) for sample in samples]
    noise = torch.from_numpy(np.stack([model.draw_noise(keyed_rng(*key)) for key in keys]))
    with torch.inference_mode():
        images = model.decode(model.encode_labels(labels), noise)
    wanted = to_uint8(images, "truncate", 32).astype(int)
    assert np.abs(np.load(folder / "samples.npy") - wanted).max() <= 1  # where rounding meets truncation


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"n_classes": 0}, "n_classes must be at least 1, but is 0."),
        ({"fo": "eeg2image"}, "ClassGANConfig has no option 'fo'; did you mean 'of'?"),
        (
            {"of": "class-gan.eeg2image-small"},
            "of must name a model that makes images out of EEG, but class-gan.eeg2image-small does not; try eeg2image.",
        ),
        ({"of": "xyzzy"}, "unknown model 'xyzzy'. See 'zoo list models'."),
        (
            {"settings": {"resolutoin": 64}},
            "EEG2ImageConfig has no option 'resolutoin'; did you mean 'resolution'?",
        ),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(SPEC, **overrides)


def test_a_model_that_is_not_here_and_classes_without_a_code_are_refused() -> None:
    with pytest.raises(MissingError, match=r"^dreamdiffusion is announced but not in this release"):
        build(SPEC, of="dreamdiffusion")
    message = "class-gan has 4 codes, but the dataset has 5 classes; set n_classes=5."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(tiny(), dataclasses.replace(training_data(), n_classes=5), seed=0)


PRESETS = [card for card in registry.models.cards() if card.family == "class-gan"]


def test_cards_say_that_they_are_controls() -> None:
    assert {"class-gan", "class-gan.eeg2image-small", "class-gan.thoughtviz-small"} <= {card.id for card in PRESETS}
    for card in PRESETS:
        assert card.conditioned_on == "label"
        assert not card.claims
        assert card.resolution == registry.models.get(card.preset.get("of", "eeg2image")).resolution


@pytest.mark.parametrize("card", [card for card in PRESETS if card.preset], ids=lambda card: card.id)
def test_every_preset_takes_a_step_of_every_phase(card: ModelCard, data: TrainingData) -> None:
    torch.manual_seed(0)
    model = build(load("phantom").spec, **card.preset)
    found = recipes(model, data, seed=0)
    assert found[0].name == "encoder"
    for phase in found:
        losses = phase.step(0, np.random.default_rng(0))
        assert np.isfinite([*losses.values()]).all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingData]:
    """Of phantom, with recordings that nobody can have read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("phantom")))
        phantom = load("phantom")
        yield dataclasses.replace(phantom.training_data(phantom.split()), eeg=np.empty(0))

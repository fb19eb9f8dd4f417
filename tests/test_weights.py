"""Weights folders: what is written down of what a model does, and what of it is checked when they are loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from zoo import registry, store, weights
from zoo.cli import app
from zoo.errors import IntegrityError
from zoo.forward import OF_SPREAD, fingerprint
from zoo.models.base import EEGEncoder, Reconstructor
from zoo.specs import EEGSpec
from zoo.stats import keyed_rng

TINY = {"lstm_units": [2, 4], "resolution": 16, "generator_width": 16, "discriminator_width": 4}
SPEC = EEGSpec(ch_names=("Cz", "Pz"), sfreq=100, tmin=0, n_times=5)


def facts(**changes: Any) -> dict[str, Any]:
    card = registry.models.get("eeg2image.small")
    found = {"model": card.id, "name": "test", "config": {**card.preset, **TINY}, "eeg": SPEC, "source": "trained"}
    return {**found, "trained_on": ("phantom",), "selection": "last step", **changes}


def make(**options: Any) -> Path:
    torch.manual_seed(0)
    card = registry.models.get("eeg2image.small")
    return weights.save(weights.build(card, SPEC, TINY), facts(), **options)[0]


class Flat(EEGEncoder):
    """Features are the EEG itself, times ``gain``."""

    def __init__(self, gain: float = 1.0, spec: EEGSpec = SPEC) -> None:
        super().__init__(spec, None)
        self.encoder = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.encoder.weight, gain)

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def encode(self, eeg: Tensor) -> Tensor:
        return self.encoder(eeg.flatten(1)[..., None])[..., 0]  # type: ignore[no-any-return]


class Painter(Reconstructor):
    """Features of ``Flat``, and pictures that are the sum of feature and noise at every pixel."""

    resolution = 2

    def __init__(self) -> None:
        super().__init__(SPEC, None)
        self.flat = Flat()
        self.generator = nn.Linear(1, 1)

    def parts(self) -> dict[str, nn.Module]:
        return {"flat": self.flat, "generator": self.generator}

    def encode(self, eeg: Tensor) -> Tensor:
        return self.flat.encode(eeg)

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(1, dtype=np.float32)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        return self.generator(features[:, :1] + noise)[..., None, None].expand(-1, 3, 2, 2)  # type: ignore[no-any-return]


def test_the_fingerprint_of_an_encoder_is_what_it_makes_of_ten_microvolts_of_noise() -> None:
    noise = keyed_rng("forward fingerprint", 1).standard_normal((2, 2, 5), dtype=np.float32)
    found = fingerprint(Flat(3.0), ("encoder",))
    output = found.pop("encode")
    assert (found, output.shape) == ({}, (2, 10))
    assert (output.mean, output.std) == pytest.approx((3e-5 * noise.mean(), 3e-5 * noise.std()), rel=1e-6)
    at = np.linspace(0, 19, 8).astype(int)
    assert output.values == pytest.approx(3e-5 * noise.reshape(-1)[at], rel=1e-6)
    unitless = fingerprint(Flat(1.0, SPEC.model_copy(update={"unit": "a.u."})), ("encoder",))["encode"]
    assert unitless.std == pytest.approx(noise.std(), rel=1e-6)


def test_pictures_are_made_of_noise_so_that_a_fault_of_the_encoder_is_told_apart() -> None:
    torch.manual_seed(0)
    model = Painter()
    before = fingerprint(model, ("flat", "generator"))
    assert before["decode"].shape == (2, 3, 2, 2)
    model.flat = Flat(2.0)
    after = fingerprint(model, ("flat", "generator"))
    assert after["decode"] == before["decode"]
    assert after["encode"].std == pytest.approx(2 * before["encode"].std)


def test_what_is_constant_or_not_finite_says_nothing() -> None:
    assert fingerprint(Flat(0.0), ("encoder",)) == {}
    assert fingerprint(Flat(float("nan")), ("encoder",)) == {}
    assert [*fingerprint(Painter(), ("flat",))] == ["encode"], "a generator without weights counts as zero"


def test_taking_a_fingerprint_changes_neither_the_model_nor_the_global_generator() -> None:
    torch.manual_seed(0)
    model = Painter()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    fingerprint(model, ("flat",))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("parts", "outputs"), [(("encoder",), ["encode"]), (("generator",), ["decode"]), (None, ["decode", "encode"])]
)
def test_weights_of_some_parts_are_known_again_whatever_the_others_begin_with(
    parts: tuple[str, ...] | None, outputs: list[str]
) -> None:
    folder = make(parts=parts)
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn = torch.random.get_rng_state()
        _, info = weights.load(folder)
        assert [*(info.forward or {})] == outputs
        assert torch.equal(torch.random.get_rng_state(), drawn)


def respell(folder: Path, **changes: Any) -> None:
    """Change ``weights.json`` by hand."""
    store.write_json(folder / "weights.json", {**store.read_json(folder / "weights.json"), **changes})


def test_an_output_may_be_off_by_rounding_and_no_more() -> None:
    folder = make()
    wanted = store.read_json(folder / "weights.json")["forward"]
    spread = wanted["encode"]["std"]
    for off, passes in ((0.5, True), (2.0, False)):
        encode = {**wanted["encode"], "mean": wanted["encode"]["mean"] + off * OF_SPREAD * spread}
        respell(folder, forward={**wanted, "encode": encode})
        if passes:
            weights.load(folder)
            continue
        sentence = (
            f"{folder}: encode of eeg2image.small on noise must give what weights.json says to "
            f"{OF_SPREAD * spread:.1g}, but is off by {off * OF_SPREAD * spread:.1g}: the tensors are not "
            "those that were saved, or this release computes otherwise; fetch or make the weights again."
        )
        with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
            weights.load(folder)


def test_an_output_of_another_shape_or_name_is_refused() -> None:
    folder = make()
    wanted = store.read_json(folder / "weights.json")["forward"]
    respell(folder, forward={"encode": {**wanted["encode"], "shape": [2, 5]}})
    end = "; fetch or make the weights again."
    start = f"{folder}: encode of eeg2image.small on noise must give shape (2, 5) but gives shape (2, 4)"
    with pytest.raises(IntegrityError, match=f"^{re.escape(start + end)}$"):
        weights.load(folder)
    respell(folder, forward={"think": wanted["encode"]})
    start = f"{folder}: think of eeg2image.small on noise must give shape (2, 4) but gives nothing that varies and is "
    with pytest.raises(IntegrityError, match=f"^{re.escape(start + 'finite' + end)}$"):
        weights.load(folder)


def test_older_weights_without_a_fingerprint_load_and_verify_says_so() -> None:
    folder = make()
    found = store.read_json(folder / "weights.json")
    found.pop("forward")
    store.write_json(folder / "weights.json", found)
    assert weights.load(folder)[1].forward is None
    result = CliRunner().invoke(app, ["weights", "verify", str(folder)])
    assert result.exit_code == 0
    assert result.stderr == "no forward check: what the model makes of noise was not written down with these weights\n"


def test_tensors_that_do_not_fit_are_not_even_saved(cache: Path) -> None:
    tensors = load_file(make() / "model.safetensors")
    tensors.pop("encoder.lstm.0.bias_ih_l0")
    info = facts(name="other", parts=("encoder", "generator", "discriminator"))
    sentence = (
        "/other does not fit eeg2image.small: 1 missing and 0 unknown tensors, the first is encoder.lstm.0.bias_ih"
    )
    with pytest.raises(IntegrityError, match=sentence):
        weights.save_state(tensors, info)
    assert [path.name for path in (cache / "weights/eeg2image.small").iterdir()] == ["test"]

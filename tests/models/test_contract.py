"""What every registered model promises, whoever wrote it: a new card is tested by being there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo import registry, weights
from zoo.errors import MissingError, UsageError
from zoo.metrics.base import extractor_card
from zoo.models.base import Classifier, EEGEncoder, EncodingModel, LabelConditioned, Model, Reconstructor, Retriever
from zoo.sketches import PAINTERS
from zoo.specs import EEGSpec, ModelCard

CARDS = {card.id: card for card in registry.models.cards() if card.builder is not None}
SMALL = 4_000_000
"""Parameters of a model that is run here; a larger one is built without memory, and a preset of its family is run."""
SPECS = {
    shape: EEGSpec(ch_names=tuple(f"E{i}" for i in range(shape[0])), sfreq=sfreq, tmin=0, n_times=shape[1])
    for shape, sfreq in (((3, 40), 100), ((14, 32), 128), ((128, 440), 1000))
}
FEW = slice(0, 2)
ROUNDING = 1e-5
"""Of the largest value: what another order of float32 sums may move, as other batch sizes bring."""


@cache
def size(name: str) -> int:
    """Number of parameters, of a model that holds none."""
    card = CARDS[name]
    with torch.device("meta"):
        model = make(card, fitting(card))
    return sum(parameter.numel() for parameter in model.parameters())


def fitting(card: ModelCard) -> EEGSpec:
    """Recordings that the model can be built for."""
    return card.eeg or SPECS[14, 32]


def built(card: ModelCard, spec: EEGSpec | None = None, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return make(card, spec or fitting(card)).eval()


def make(card: ModelCard, spec: EEGSpec) -> Model:
    try:
        return weights.build(card, spec)
    except MissingError as error:
        pytest.skip(str(error))


def recordings(spec: EEGSpec, n: int = 8) -> Tensor:
    """Noise of 10 µV (or of unit size, where units are arbitrary)."""
    drawn = np.random.default_rng(0).standard_normal((n, spec.n_channels, spec.n_times), dtype=np.float32)
    return torch.from_numpy(drawn) * (1e-5 if spec.unit == "V" else 1)


def outputs(model: Model, rows: slice = slice(None)) -> dict[str, Tensor]:
    """What the model makes of some of eight trials, in one batch."""
    found: dict[str, Tensor] = {}
    with torch.inference_mode():
        if isinstance(model, LabelConditioned):
            found["encode"] = model.encode_labels(torch.arange(8)[rows] % model.n_classes)
        elif isinstance(model, EEGEncoder):
            found["encode"] = model.encode(recordings(model.spec)[rows])
        elif isinstance(model, EncodingModel):
            pictures = np.random.default_rng(0).random((8, 3, model.resolution, model.resolution), dtype=np.float32)
            found["predict"] = model.predict(torch.from_numpy(pictures[rows]))
        if isinstance(model, Classifier):
            found["logits"] = model.logits(found["encode"])
        if isinstance(model, Retriever):
            shape = (8, model.n_image_features)
            seen = torch.from_numpy(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
            found["embed_images"] = model.embed_images(seen[rows])
        if isinstance(model, Reconstructor):
            noise = np.stack([model.draw_noise(np.random.default_rng(i)) for i in range(8)])
            assert noise.dtype == np.float32
            found["decode"] = model.decode(found["encode"], torch.from_numpy(noise[rows]))
        return found or model.probe(np.random.default_rng(0))


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=ROUNDING * float(wanted.abs().max()))


def is_run_here(name: str) -> bool:
    try:
        return size(name) <= SMALL
    except (Exception, pytest.skip.Exception):  # it fails or is skipped below, and leaves the others alone
        return True


run_here = pytest.mark.parametrize(
    "card", [CARDS[name] for name in CARDS if is_run_here(name)], ids=lambda card: card.id
)


@pytest.mark.parametrize("name", CARDS)
def test_every_model_is_run_here_or_stands_beside_a_preset_that_is(name: str) -> None:
    """Large ones are only counted; then one of the same code must be small enough for everything below."""
    run = [other for other, card in CARDS.items() if card.builder == CARDS[name].builder and size(other) <= SMALL]
    assert run, f"{name} has {size(name):,} parameters, and no preset of its family has at most {SMALL:,}"


@run_here
def test_every_option_is_explained(card: ModelCard) -> None:
    for config in type(built(card).config).__mro__[:-1]:
        source = inspect.getsource(config)
        for name in config.__annotations__:
            assert re.search(rf'^    {name}: .+\n    """.+"""$', source, re.MULTILINE), (config, name)


@run_here
@pytest.mark.parametrize("shape", SPECS)
def test_any_recordings_are_taken_or_refused_in_a_sentence(card: ModelCard, shape: tuple[int, int]) -> None:
    spec, refused = SPECS[shape], ""
    try:
        model = built(card, spec)
    except UsageError as error:
        refused = str(error)
    if refused:
        assert card.eeg is not None, f"only a model whose card names its recordings may refuse others: {refused}"
        assert refused.endswith(".")
        assert "\n" not in refused
        assert str(shape[0]) in refused or str(shape[1]) in refused
        return
    assert model.spec == spec
    found = outputs(model, FEW)
    for value in found.values():
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    if isinstance(model, EEGEncoder):
        assert found["encode"].ndim == 2
        assert len(found["encode"]) == 2
    if isinstance(model, EncodingModel):
        assert card.task == "encoding"
        assert card.resolution in (None, model.resolution)
        assert all(value.shape == (2, spec.n_channels, spec.n_times) for value in found.values())
    if isinstance(model, Retriever):
        assert found["embed_images"].shape == found["encode"].shape
        assert extractor_card(model.extractor).outputs[model.output] == model.n_image_features
    if isinstance(model, Reconstructor):
        assert found["decode"].shape == (2, 3, model.resolution, model.resolution)
        assert {*PAINTERS} & {*model.parts()}, "or no pictures would be made while it trains"
        assert card.resolution in (None, model.resolution)
        assert 0 <= found["decode"].min() < found["decode"].max() <= 1


@run_here
def test_weights_and_outputs_are_decided_by_the_seed(card: ModelCard) -> None:
    first, again, other = built(card), built(card), built(card, seed=1)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())
    torch.manual_seed(7)  # the global generator is no source of anything at inference
    made = outputs(first, FEW)
    torch.manual_seed(8)
    same, differs = outputs(again, FEW), outputs(other, FEW)
    assert all(torch.equal(value, same[name]) for name, value in made.items())
    assert any(not torch.equal(value, differs[name]) for name, value in made.items())


@run_here
def test_a_trial_alone_gives_what_it_gives_among_others(card: ModelCard) -> None:
    model = built(card)
    together, alone = outputs(model), outputs(model, slice(3, 4))
    for name, value in together.items():
        close(alone[name][0], value[3])


@run_here
def test_weights_come_back_as_they_were_saved(card: ModelCard) -> None:
    model = built(card)
    info = {
        "model": card.id,
        "name": "kept",
        "config": card.preset,
        "eeg": model.spec,
        "source": "trained",
        "trained_on": (),
        "selection": "none",
    }
    path, saved = weights.save(model, info)
    assert saved.forward, "nothing that the model makes of noise varies, so its weights could not be known again"
    loaded, found = weights.load(path)
    assert found == saved
    state, kept = model.state_dict(), loaded.state_dict()
    assert list(state) == list(kept)
    assert all(torch.equal(value, kept[key]) for key, value in state.items())
    made, same = outputs(model, FEW), outputs(loaded, FEW)
    assert all(torch.equal(value, same[name]) for name, value in made.items())
    parts = {key.partition(".")[0] for key in state}
    assert parts <= set(model.parts()), "tensors outside of parts() would not be saved"


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.id)
def test_an_unknown_option_is_refused_in_a_sentence(card: ModelCard) -> None:
    with pytest.raises(UsageError, match=r"^\w+ has no option 'no_such_option'; .*[.?]$"), torch.device("meta"):
        weights.build(card, fitting(card), {"no_such_option": 1})


def test_importing_the_families_asks_nothing_of_a_gpu() -> None:
    modules = sorted({str(card.builder).partition(":")[0] for card in CARDS.values()})
    code = (
        "import importlib, torch\n"
        "def refuse(*_):\n"
        "    raise AssertionError('a gpu was touched at import')\n"
        "torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = refuse\n"
        f"for name in {modules!r}:\n"
        "    assert importlib.import_module(name).__doc__, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_models_of_this_release_were_visited() -> None:
    assert {"eeg2image", "eeg2image.as-intended", "eeg2image.small", "eeg2image.small-softmax"} <= {*CARDS}
    assert size("eeg2image") == 88_448 + 8_647_456 + 6_355_587 + 640  # the networks, and the frozen second LSTM biases
    assert not is_run_here("eeg2image")
    assert is_run_here("eeg2image.small")

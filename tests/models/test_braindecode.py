"""EEGNet, ShallowNet and Deep4: the library's own outputs, its constraint, short recordings, training."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.models.resuming import check_resuming
from zoo.errors import MissingError, UsageError
from zoo.models.braindecode import bind, build, recipes, sizes
from zoo.models.layers import Scaled
from zoo.models.perceivelab import NetworkClassifier
from zoo.specs import EEGSpec
from zoo.training import TrainingData, fit

library = pytest.importorskip("braindecode.models", reason="needs the extra braindecode")
NETWORKS = {"eegnet": "EEGNetv4", "shallow": "ShallowFBCSPNet", "deep4": "Deep4Net"}


def spec(n_channels: int = 22, n_times: int = 1125) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=250, tmin=0, n_times=n_times, unit="a.u.")


def built(network: str, n_channels: int = 22, n_times: int = 1125, **overrides: Any) -> NetworkClassifier:
    torch.manual_seed(0)
    return build(spec(n_channels, n_times), network=network, **overrides).eval()


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def spatial(model: NetworkClassifier) -> nn.Conv2d:
    encoder = model.encoder.network if isinstance(model.encoder, Scaled) else model.encoder
    conv = encoder.get_submodule("network.conv_spatial")
    assert isinstance(conv, nn.Conv2d)
    return conv


def theirs(network: str, model: NetworkClassifier) -> nn.Module:
    """The library's network with its defaults and our weights."""
    options = {} if network == "eegnet" else {"add_log_softmax": False, "final_conv_length": "auto"}
    made: nn.Module = getattr(library, NETWORKS[network])(n_chans=22, n_outputs=4, n_times=1125, **options).eval()
    state = {key.removeprefix("encoder.network."): value for key, value in model.state_dict().items()}
    made.load_state_dict({key.replace("classifier.layer.", "final_layer."): value for key, value in state.items()})
    return made


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_those_of_the_library(network: str) -> None:
    model, eeg = built(network, eeg_scaling="none"), noise(2, 22, 1125)
    with torch.no_grad():
        assert torch.equal(model.classify(eeg), theirs(network, model)(eeg))


@pytest.mark.parametrize(("network", "n"), [("eegnet", 3_700), ("shallow", 47_364), ("deep4", 284_479)])
def test_parameter_counts(network: str, n: int) -> None:
    """Four classes of 22 × 1125: by hand from the layers of the papers, biases and batch norms included."""
    by_hand = {
        "eegnet": 8 * 64 + 16 + 16 * 22 + 32 + 16 * 16 + 16 * 16 + 32 + 16 * 35 * 4 + 4,
        "shallow": 40 * 25 + 40 + 40 * 40 * 22 + 80 + 40 * 69 * 4 + 4,
        "deep4": (25 * 10 + 25 + 25 * 25 * 22 + 50)
        + (25 * 50 * 10 + 100)
        + (50 * 100 * 10 + 200)
        + (100 * 200 * 10 + 400)
        + 200 * 9 * 4
        + 4,
    }
    with torch.device("meta"):
        model = built(network)
    assert sum(p.numel() for p in model.parameters()) == by_hand[network] == n


@pytest.mark.parametrize(
    ("network", "n_times", "found"),
    [
        ("eegnet", 32, {}),
        ("shallow", 173, {"filter_time_length": 25, "pool_time_length": 75, "pool_time_stride": 15}),
        ("shallow", 172, {"filter_time_length": 25, "pool_time_length": 74, "pool_time_stride": 14}),
        ("shallow", 32, {"filter_time_length": 8, "pool_time_length": 13, "pool_time_stride": 2}),
    ],
)
def test_lengths_are_the_librarys_where_they_fit(network: str, n_times: int, found: dict[str, int]) -> None:
    assert sizes(network, n_times) == found


@pytest.mark.parametrize(("n_times", "filters", "pool"), [(441, 10, 3), (440, 9, 3), (64, 4, 2), (16, 1, 2)])
def test_deep4_shrinks_alike_in_all_layers(n_times: int, filters: int, pool: int) -> None:
    found = sizes("deep4", n_times)
    assert {value for key, value in found.items() if "filter" in key} == {filters}
    assert {value for key, value in found.items() if "pool" in key} == {pool}
    assert built("deep4", 3, n_times).encode(noise(2, 3, n_times)).shape == (2, 200)


@pytest.mark.parametrize(("network", "least"), [("eegnet", 32), ("shallow", 8), ("deep4", 16)])
def test_trials_that_are_too_short_are_refused(network: str, least: int) -> None:
    built(network, 3, least)
    message = f"{network} needs trials of at least {least} samples, but they have {least - 1}."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        built(network, 3, least - 1)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "braindecode", None)
    message = "deep4 needs braindecode.\nto install it, run: pip install 'eeg-image-zoo[braindecode]'"
    with pytest.raises(MissingError, match=f"^{re.escape(message)}$"):
        built("deep4")


# --- the bound on spatial filters ------------------------------------------------------------------------------------


def test_inference_leaves_weights_alone() -> None:
    """The library's own layer would shorten them in every call, and make them useless for training in this mode."""
    model = built("eegnet", 3, 40)
    with torch.no_grad():
        spatial(model).weight.mul_(10)
    before = spatial(model).weight.detach().clone()
    with torch.inference_mode():
        model.classify(noise(2, 3, 40))
    assert torch.equal(spatial(model).weight, before)
    assert not spatial(model).weight.is_inference()


def test_long_filters_are_shortened_and_short_ones_are_not() -> None:
    conv = nn.Conv2d(1, 2, (2, 1), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]).view(2, 1, 2, 1))
    bind(conv)
    np.testing.assert_allclose(conv.weight.detach().view(2, 2).numpy(), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-5)


def test_the_bound_holds_after_every_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(spec(3, 40), network="eegnet", n_classes=3, encoder_steps=10, encoder_lr=0.5)
    fit(recipes(model, training_data(), seed=0, select="last")[0], tmp_path, seed=0)
    lengths = spatial(model).weight.detach().flatten(1).norm(dim=1)
    assert float(lengths.max()) <= 1 + 1e-6
    assert float(lengths.max()) > 0.999  # at such a rate they run into it


# --- training --------------------------------------------------------------------------------------------------------


def training_data(n: int = 36) -> TrainingData:
    """Each class a frequency of its own."""
    labels = np.arange(n) % 3
    wave = np.sin(np.arange(40) * 0.25 * (1 + labels[:, None, None]))
    eeg = (wave + 0.3 * noise(n, 3, 40).numpy()).astype(np.float32)
    return TrainingData(eeg, labels, train=np.arange(n - 12), val=np.arange(n - 12, n), n_classes=3)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns_and_resumes(network: str, tmp_path: Path) -> None:
    data, options = training_data(), {"n_classes": 3, "encoder_batch_size": 12}

    def training() -> tuple[NetworkClassifier, Any]:
        model = built(network, 3, 40, encoder_steps=6, **options)
        return model, recipes(model, data, seed=0)[0]

    assert check_resuming(training, tmp_path) == {"encoder", "classifier"}
    learned = built(network, 3, 40, encoder_steps=80, encoder_lr=5e-3, **options)
    fit(recipes(learned, data, seed=0)[0], tmp_path / "learned", seed=0)
    with torch.no_grad():
        right = learned.eval().classify(torch.from_numpy(data.eeg[data.val])).argmax(dim=1).numpy()
    assert np.mean(right == data.labels[data.val]) > 0.65  # chance is 1/3; of 12


def test_a_trained_one_comes_back_from_its_weights() -> None:
    zoo.train("eegnet", "phantom", overrides={"encoder_steps": 3}, device="cpu")
    model = zoo.load("eegnet")
    assert isinstance(model, NetworkClassifier)
    assert model.n_classes == 6
    assert model.classify(noise(2, 14, 64)).shape == (2, 6)

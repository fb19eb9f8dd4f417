"""The classifiers of PeRCeiVe Lab: against the authors' arrays, against their definitions, trained and evaluated."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo
from zoo import scoring
from zoo.conversion import convert as convert_weights
from zoo.errors import IntegrityError, UsageError
from zoo.models.convert.perceivelab import convert
from zoo.models.layers import Scaled
from zoo.models.perceivelab import (
    EEGChannelNet,
    NetworkClassifier,
    PerceivelabConfig,
    SiskindCNN,
    SyncNet,
    build,
    recipes,
)
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, MetricCard, ModelCard
from zoo.training import TrainingData, fit

CARDS = {card.id: card for card in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/perceivelab.yaml"))}
NARROW: dict[str, Any] = {"n_classes": 3, "lstm_units": 6, "temporal_width": 2, "spatial_width": 3, "head_units": 5}


def spec(n_channels: int = 128, n_times: int = 440) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=1000, tmin=0, n_times=n_times, unit="a.u.")


def built(network: str, n_channels: int = 128, n_times: int = 440, **overrides: Any) -> NetworkClassifier:
    torch.manual_seed(0)
    return build(spec(n_channels, n_times), network=network, **overrides).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def fixture(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and arrays of a fixture, halves as float32."""
    with np.load(path) as stored:
        kept = {key: stored[key] for key in stored.files}
    data = {k: torch.from_numpy(v.astype(np.float32) if v.dtype == np.float16 else v) for k, v in kept.items()}
    weights = {key[2:]: value for key, value in data.items() if key.startswith("w/")}
    return weights, {key: value for key, value in data.items() if not key.startswith("w/")}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- what the authors' modules compute -------------------------------------------------------------------------------


@pytest.mark.parity
def test_lstm_gives_what_the_authors_class_gives(shared: Path) -> None:
    weights, data = fixture(shared / "fixtures/pv_lstm.npz")
    model = built("lstm")
    model.load_state_dict({k if k.startswith("classifier") else f"encoder.{k}": v for k, v in weights.items()})
    with torch.no_grad():
        features = model.encode(data["x"].transpose(1, 2))
        torch.testing.assert_close(features, data["embedding"], rtol=0, atol=1e-6)
        torch.testing.assert_close(model.logits(features), data["logits"], rtol=0, atol=1e-6)


@pytest.mark.parity
def test_eegchannelnet_gives_what_the_authors_class_gives(shared: Path) -> None:
    weights, data = fixture(shared / "fixtures/pv_eegchannelnet.npz")
    model = built("eegchannelnet")
    model.load_state_dict(weights)  # strictly: names and shapes as published
    assert isinstance(model.encoder, EEGChannelNet)
    with torch.no_grad():
        temporal = model.encoder.temporal_block(data["x"]).double().sum(dim=(2, 3))
        torch.testing.assert_close(temporal, data["temporal_sum"], rtol=1e-6, atol=1e-3)  # of 28,160 float32 each
        features = model.encode(data["x"][:, 0])
        torch.testing.assert_close(features, data["final"].flatten(1), rtol=0, atol=1e-6)
        torch.testing.assert_close(model.logits(features), data["logits"], rtol=0, atol=1e-6)


@pytest.mark.parity
def test_eegnet_gives_what_the_authors_class_gives_without_its_dropout(shared: Path) -> None:
    weights, data = fixture(shared / "fixtures/pv_eegnet.npz")
    model = built("eegnet")
    model.load_state_dict({f"{'classifier' if k[:2] == 'fc' else 'encoder'}.{k}": v for k, v in weights.items()})
    with torch.no_grad():
        torch.testing.assert_close(model.classify(data["x"]), data["sigmoid_out_no_dropout"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "semantics", "n", "n_features"),
    [
        ("lstm", "as_run", 153_768, 128),
        ("eegchannelnet", "as_run", 5_490_978, 500),
        ("eegnet", "as_run", 5_793_272, 512),
        ("eegnet", "corrected", 548_088, 512),  # the layers that are used
        ("syncnet", "as_run", 89_552, 1408),
        ("syncnet", "corrected", 89_552 - 40, 1408),  # the time axis is no parameter
        ("siskind", "as_run", 49_304, 200),
        ("dense", "as_run", 72_622, 1296),
    ],
)
def test_parameter_counts_are_the_published_ones(network: str, semantics: str, n: int, n_features: int) -> None:
    with torch.device("meta"):
        model = build(spec(), network=network, semantics=semantics)
    assert count(model) == n
    head = next(module for module in model.classifier.modules() if isinstance(module, nn.Linear))
    assert head.in_features == n_features
    assert model.n_classes == 40


def test_eegchannelnet_of_the_paper_has_its_branches() -> None:
    with torch.device("meta"):
        model = build(spec(), network="eegchannelnet", semantics="corrected")
    net = model.encoder
    assert isinstance(net, EEGChannelNet)
    convolutions = [[layer.conv for layer in block.layers] for block in (net.temporal_block, net.spatial_block)]  # type: ignore[union-attr]
    assert [conv.dilation[1] for conv in convolutions[0]] == [1, 2, 4, 8, 16]  # type: ignore[union-attr, index]
    assert [conv.kernel_size[0] for conv in convolutions[1]] == [128, 64, 32, 16]  # type: ignore[union-attr, index]
    # one more branch of 10×33+10 with its norms behind: 20 for every 10; spatial kernels 240 of 266 rows, on 50 maps
    temporal = 5 * (340 + 20)
    spatial = 50 * 50 * (128 + 64 + 32 + 16) + 4 * (50 + 100)
    stages = 4 * (2 * (9 * 200 * 200 + 400) + 9 * 200 * 200 + 200 + 400)
    assert count(model) == temporal + spatial + stages + (9 * 200 * 50 + 50 + 100) + 541_040


# --- defects and what is left of them --------------------------------------------------------------------------------


def test_eegchannelnet_as_run_is_blind_to_what_lies_below_zero() -> None:
    eeg = noise(2, 16, 60)
    other = torch.where(eeg < 0, eeg * 3, eeg)
    as_run, corrected = (built("eegchannelnet", 16, 60, semantics=how, **NARROW) for how in ("as_run", "corrected"))
    with torch.no_grad():  # initially, batch norm moves nothing at inference
        assert torch.equal(as_run.classify(eeg), as_run.classify(other))
        assert (corrected.classify(eeg) - corrected.classify(other)).abs().max() > 1e-3


def test_eegnet_as_run_is_the_corrected_one_on_scrambled_recordings_with_squashed_logits() -> None:
    as_run, corrected = built("eegnet", 40, 64), built("eegnet", 40, 64, semantics="corrected")
    state = as_run.state_dict()
    corrected.load_state_dict({key: state[key] for key in corrected.state_dict()})
    eeg = noise(2, 40, 64)
    scrambled = eeg.reshape(2, 64, 40).transpose(1, 2)
    with torch.no_grad():
        logits = corrected.classify(scrambled)
        torch.testing.assert_close(as_run.classify(eeg), logits.sigmoid(), rtol=0, atol=1e-5)  # epsilon: 5e-6 of 1
        assert (corrected.classify(eeg) - logits).abs().max() > 1e-2


def test_filters_of_syncnet_oscillate_and_decay() -> None:
    net = built("syncnet", 5, 100, semantics="corrected", filters=3).encoder
    assert isinstance(net, SyncNet)
    b, omega, phi, beta = (getattr(net, name).detach()[0, 0] for name in ("b", "omega", "phi", "beta"))
    bank = net.bank().detach()
    assert bank.shape == (3, 5, 1, 40)
    for k, c, j in ((0, 0, 0), (1, 4, 7), (2, 2, 20), (2, 4, 39)):
        t = j - 20  # samples from the centre
        angle = t * float(omega[0, k]) + float(phi[c, k])
        wanted = float(b[c, k]) * math.cos(angle) * math.exp(-(t**2) * float(beta[0, k]))
        assert float(bank[k, c, 0, j]) == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_filters_of_syncnet_as_run_start_flat_and_out_of_order() -> None:
    net = built("syncnet", 5, 100, filters=3).encoder
    assert isinstance(net, SyncNet)
    flat = (net.b * torch.cos(net.phi)).detach().reshape(15)
    assert torch.equal(net.bank().detach().reshape(40, 15), flat.expand(40, 15))  # laid out time by time
    assert not torch.equal(net.bank()[0, 0, 0], net.bank()[0, 0, 0].mean().expand(40))


def test_syncnet_takes_the_largest_of_every_forty_samples() -> None:
    net = built("syncnet", 2, 60, semantics="corrected", filters=1).encoder
    assert isinstance(net, SyncNet)
    x = noise(1, 60, 2)
    bank, signal = net.bank().detach()[0, :, 0].numpy(), np.pad(x[0].numpy().T, ((0, 0), (19, 20)))
    filtered = np.array([(signal[:, i : i + 40] * bank).sum() for i in range(60)])
    padded = np.pad(filtered, (19, 20))  # with zeros, and so no largest value is below 0
    wanted = [max(padded[:40].max(), 0), max(padded[40:80].max(), 0)]
    np.testing.assert_allclose(net(x).detach()[0].numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_siskind_shares_its_filters_between_channels() -> None:
    model = built("siskind", 4, 200)
    net, eeg, order = model.encoder, noise(2, 4, 200), [2, 0, 3, 1]
    assert isinstance(net, SiskindCNN)
    before = model.encode(eeg)
    assert before.shape == (2, 40)  # 169 positions hold one window of 128
    with torch.no_grad():
        net.mix.weight.copy_(net.mix.weight.view(40, 4, 8)[:, order].reshape(40, 32))
        torch.testing.assert_close(model.encode(eeg[:, order]), before)


def test_dense_starts_from_the_published_spread() -> None:
    conv = built("dense").encoder.conv
    assert isinstance(conv, nn.Conv2d)
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 24)), rel=0.1)  # of 768 draws


# --- other recordings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["eegchannelnet", "eegnet", "syncnet", "siskind", "dense"])
@pytest.mark.parametrize(("n_channels", "n_times"), [(1, 16), (3, 40), (14, 32), (17, 100), (63, 250)])
def test_networks_fit_other_recordings(network: str, n_channels: int, n_times: int) -> None:
    model = built(network, n_channels, n_times, **NARROW)
    with torch.no_grad():
        assert model.classify(noise(2, n_channels, n_times)).shape == (2, 3)


@pytest.mark.parametrize(("shape", "stages"), [((128, 440), 4), ((63, 250), 3), ((14, 64), 1), ((3, 40), 0)])
def test_eegchannelnet_has_as_many_stages_as_fit(shape: tuple[int, int], stages: int) -> None:
    with torch.device("meta"):
        net = build(spec(*shape), network="eegchannelnet").encoder
    assert isinstance(net, EEGChannelNet)
    assert len(net.res_blocks) == stages


def test_recordings_are_scaled_by_training_quartiles() -> None:
    model = built("siskind", 3, 40, eeg_scaling="robust", n_classes=3)
    assert isinstance(model.encoder, Scaled)
    model.encoder.measure(torch.tensor([[[2.0, 0, 0]], [[4.0, 0, 0]], [[6.0, 0, 0]], [[8.0, 0, 0]], [[100.0, 0, 0]]]))
    assert model.encoder.centre.tolist() == [6, 0, 0]
    assert model.encoder.spread.tolist() == pytest.approx([4, 1e-9, 1e-9])
    eeg = noise(2, 3, 40)
    scaled = ((eeg.transpose(1, 2) - model.encoder.centre) / model.encoder.spread).clamp(-6, 6)
    assert torch.equal(model.encode(eeg), model.encoder.network(scaled))


# --- training --------------------------------------------------------------------------------------------------------


def training_data(n: int = 36, n_classes: int = 3, n_times: int = 40) -> TrainingData:
    """Each class a frequency of its own."""
    labels = np.arange(n) % n_classes
    wave = np.sin(np.arange(n_times) * 0.25 * (1 + labels[:, None, None]))
    eeg = (wave + 0.3 * noise(n, 3, n_times).numpy()).astype(np.float32)
    return TrainingData(eeg, labels, train=np.arange(n - 12), val=np.arange(n - 12, n), n_classes=n_classes)


@pytest.mark.parametrize(
    ("network", "semantics"),
    [
        ("lstm", "as_run"),
        ("eegchannelnet", "as_run"),
        ("eegchannelnet", "corrected"),
        ("eegnet", "as_run"),
        ("eegnet", "corrected"),
        ("syncnet", "corrected"),
        ("siskind", "as_run"),
        ("dense", "as_run"),
    ],
)
def test_every_network_learns_and_resumes_to_the_same_bits(network: str, semantics: str, tmp_path: Path) -> None:
    data = training_data()

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    def made(steps: int) -> NetworkClassifier:
        return built(network, 3, 40, semantics=semantics, encoder_steps=steps, encoder_batch_size=12, **NARROW)

    whole, broken, resumed = made(6), made(6), made(6)
    fit(recipes(whole, data, seed=0)[0], tmp_path / "whole", seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(recipes(broken, data, seed=0)[0], tmp_path / "broken", seed=0, progress=stop)
    fit(recipes(resumed, data, seed=0)[0], tmp_path / "broken", seed=0)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    torch.set_num_threads(1)
    learned = made(120)
    fit(recipes(learned, data, seed=0)[0], tmp_path / "learned", seed=0)
    with torch.no_grad():
        right = learned.eval().classify(torch.from_numpy(data.eeg[data.val])).argmax(dim=1).numpy()
    assert np.mean(right == data.labels[data.val]) > 0.65  # chance is 1/3; of 12


@pytest.mark.parametrize("semantics", ["as_run", "corrected"])
def test_eegnet_trains_on_raw_recordings_of_a_headset_the_same_way_every_time(semantics: str, tmp_path: Path) -> None:
    """14 channels 4 mV away from zero; of torch 2.15 alone, part of the first gradient is made up."""
    eeg = 4e-3 + 2e-5 * noise(96, 14, 32).numpy()
    data = TrainingData(eeg, np.arange(96) % 3, train=np.arange(96), val=np.arange(0), n_classes=3)
    options = {"encoder_steps": 3, "encoder_batch_size": 32, "eeg_scaling": "robust", **NARROW}
    found = []
    for left in (0.0, float("nan")):
        model = built("eegnet", 14, 32, semantics=semantics, **options)
        for size in (1_000, 32 * 14 * 16, 100_000):
            torch.full((8, size), left)  # memory that the next tensors may get
        found.append(fit(recipes(model, data, seed=0)[0], tmp_path / str(left), seed=0).losses)
    assert found[0] is not None
    assert found[0] == found[1]
    assert 0.5 < found[0]["cross_entropy"] < 2


def test_what_never_trained_does_not_train(tmp_path: Path) -> None:
    data = training_data()
    for network, still in (
        ("syncnet", {"encoder.beta"}),
        (
            "eegnet",
            {f"encoder.{kind}{i}.{k}" for kind in ("conv", "batchnorm") for i in (5, 6) for k in ("weight", "bias")},
        ),
    ):
        model = built(network, 3, 40, encoder_steps=4, encoder_batch_size=12, n_classes=3)
        start = {key: value.clone() for key, value in model.named_parameters()}
        fit(recipes(model, data, seed=0)[0], tmp_path / network, seed=0)
        assert {key for key, value in model.named_parameters() if torch.equal(value, start[key])} == still


def test_the_decay_of_the_corrected_syncnet_trains_and_stays_above_zero(tmp_path: Path) -> None:
    model = built("syncnet", 3, 40, semantics="corrected", n_classes=3, encoder_steps=20, encoder_lr=0.05)
    net = model.encoder
    assert isinstance(net, SyncNet)
    start = net.beta.detach().clone()
    fit(recipes(model, training_data(), seed=0, select="last")[0], tmp_path, seed=0)
    assert not torch.equal(net.beta, start)
    assert (net.beta < 0).any()  # the last step may leave it there, and the filters take it for 0
    at_zero = net.eval().bank().detach()
    with torch.no_grad():
        net.beta.clamp_(min=0)
    assert torch.equal(net.bank(), at_zero)


def test_more_classes_than_the_head_knows_are_refused() -> None:
    message = "n_classes must be at least 3, the number of classes of the dataset, but is 2; give n_classes=3."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(built("lstm", 3, 40, n_classes=2), training_data(), seed=0)


# --- the whole way, on generated EEG ---------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(card: MetricCard) -> str | None:
        return "left out: it takes long" if card.id in ("finetuned_accuracy", "svm_accuracy") else None

    monkeypatch.setattr(scoring, "_absent", absent)


@pytest.mark.usefixtures("quick")
def test_training_takes_the_classes_of_the_dataset_and_evaluation_scores_the_head(cache: Path) -> None:
    options: dict[str, Any] = {"encoder_steps": 150, "lstm_units": 32, "encoder_lr": 5e-3}
    zoo.train("eeg-lstm.small", "phantom", overrides=options, device="cpu")
    model = zoo.load("eeg-lstm.small")
    assert model.config.n_classes == 6
    record = zoo.evaluate("eeg-lstm.small", "phantom", device="cpu", limit=240)
    assert record.identity.track == "recognition/phantom.stimulus-out@1"
    assert record.headline == "classifier_accuracy"
    assert set(record.controls) == {"shuffled-eeg", "other-subject", "gaussian-eeg"}
    with Image.open((cache / "board/records" / record.name).with_suffix(".png")) as drawn:  # how classes were confused
        assert len(drawn.convert("L").getcolors()) > 100
    own, shuffled = (side.values["classifier_accuracy"] for side in (record, record.controls["shuffled-eeg"]))
    assert own.chance == pytest.approx(1 / 6)
    assert own.value is not None
    assert own.interval is not None
    assert shuffled.value is not None
    assert own.value > 0.4 > 0.26 > shuffled.value
    assert own.interval[0] > 1 / 6
    data = zoo.datasets.base.load("phantom")
    rows = np.flatnonzero(data.roles(data.split()) == "test")
    with torch.no_grad():
        named = model.classify(torch.from_numpy(np.array(data.eeg[rows]))).argmax(dim=1).numpy()
    assert abs(float(np.mean(named == data.labels[rows])) - own.value) < 0.1  # 648 trials against 240 of them


@pytest.mark.usefixtures("quick")
def test_a_head_of_other_classes_is_null_with_the_reason(cache: Path) -> None:
    zoo.train("siskind-cnn.small", "phantom", overrides={"encoder_steps": 2, "n_classes": 40}, device="cpu")
    record = zoo.evaluate("siskind-cnn.small", "phantom", device="cpu", limit=60)
    found = record.values["classifier_accuracy"]
    assert found.value is None
    assert found.reason == "a classifier must know the 6 classes of the dataset but knows 40; train it on this dataset"
    assert not [*(cache / "board/records").rglob("*.png")]  # nothing to draw
    assert record.values["logistic_accuracy"].value is not None


# --- released weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["lstm", "eegnet"])
def test_a_state_dict_converts_to_the_same_logits(network: str, tmp_path: Path) -> None:
    model = built(network)
    stored = {re.sub(r"^(encoder|classifier(?=\.fc1))\.", "", key): value for key, value in model.state_dict().items()}
    torch.save(stored, tmp_path / "model.pth")
    card = {"lstm": "eeg-lstm", "eegnet": "perceivelab-eegnet"}[network]
    _, receipt = convert_weights(card, tmp_path / "model.pth")
    assert receipt["forward_check"]["logits"] < 1e-12
    eeg = noise(2, 128, 440)
    with torch.no_grad():
        assert torch.equal(zoo.load(card).classify(eeg), model.classify(eeg))
    other = {"lstm": "perceivelab-eegnet", "eegnet": "eeg-lstm"}[network]
    with pytest.raises(IntegrityError, match=f"does not fit {other}"):
        convert_weights(other, tmp_path / "model.pth")


@pytest.mark.slow
def test_a_state_dict_of_eegchannelnet_converts(tmp_path: Path) -> None:
    model = built("eegchannelnet")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    _, receipt = convert_weights("eegchannelnet", tmp_path / "model.pth")
    assert receipt["forward_check"]["logits"] < 1e-12


def test_what_is_no_state_dict_of_these_networks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(
        IntegrityError,
        match=r"^model\.pth must hold a state dict, but holds objects that only running its code would make .* save "
        r"model\.state_dict\(\) and convert that file\.$",
    ):
        convert(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(IntegrityError, match=r"has none of their tensors; the first of its own is a\.$"):
        convert(path)
    torch.save([1, 2], path)
    with pytest.raises(IntegrityError, match=r"^model\.pth must hold a state dict, but holds list; save one\.$"):
        convert(path)
    with pytest.raises(
        UsageError, match=r"^--from must be a file with a state dict, such as model\.pth, but .* is not"
    ):
        convert(tmp_path)


# --- options and cards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"network": "vgg"},
            "network must be one of 'lstm', 'eegchannelnet', 'eegnet', 'syncnet', 'siskind', 'dense', but is 'vgg'.",
        ),
        ({"semantics": "fixed"}, "semantics must be 'as_run' or 'corrected', but is 'fixed'."),
        (
            {"network": "siskind", "semantics": "corrected"},
            "semantics of network siskind must be 'as_run': there is nothing to correct in it.",
        ),
        ({"n_classes": 0}, "n_classes must be at least 1, but is 0."),
        ({"n_clases": 3}, "PerceivelabConfig has no option 'n_clases'; did you mean 'n_classes'?"),
        ({"encoder_lr": 0}, "encoder_lr must be more than 0, but is 0.0."),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(spec(3, 40), **overrides)


def test_published_values_are_the_defaults() -> None:
    config = PerceivelabConfig()
    assert dataclasses.asdict(config) | {"network": "any"} == {
        "eeg_scaling": "none",
        "encoder_lr": 1e-3,
        "encoder_batch_size": 16,
        "encoder_epochs": 200,
        "encoder_steps": None,
        "network": "any",
        "semantics": "as_run",
        "n_classes": 40,
        "lstm_units": 128,
        "temporal_width": 10,
        "spatial_width": 50,
        "head_units": 1000,
        "filters": 128,
    }


def test_cards_build_and_claim_what_was_read() -> None:
    assert [name for name in CARDS if name.endswith(".corrected")] == [
        "eegchannelnet.corrected",
        "perceivelab-eegnet.corrected",
        "syncnet.corrected",
    ]
    published = ["eeg-lstm", "eegchannelnet", "perceivelab-eegnet", "syncnet", "siskind-cnn", "dense-eeg"]
    assert [name for name in CARDS if "." not in name] == published
    assert [name for name in CARDS if name.endswith(".small")] == [f"{name}.small" for name in published]
    for card in CARDS.values():
        assert card.builder is not None
        with torch.device("meta"):
            model = load_object(card.builder)(card.eeg or spec(3, 40), **card.preset)
        assert ("corrected" in card.id) <= (model.config.semantics == "corrected")
        assert not card.claims or card.id in published
    claims = {(c.id, claim.dataset): claim.value for c in CARDS.values() for claim in c.claims}
    assert claims == {
        ("eeg-lstm", "eegcvpr40-55-95"): 0.218,
        ("eegchannelnet", "eegcvpr40-55-95"): 0.481,
        ("eegchannelnet", "eegcvpr40"): 0.313,
        ("perceivelab-eegnet", "eegcvpr40-55-95"): 0.319,
        ("syncnet", "eegcvpr40-55-95"): 0.317,
    }

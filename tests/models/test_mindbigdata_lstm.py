"""The LSTMs for MindBigData's digits: their counts, what their layers do, and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.models.mindbigdata_lstm import CommonLSTM, PerChannelLSTM, StackedLSTM, build, recipes
from zoo.models.perceivelab import NetworkClassifier
from zoo.registry import PACKAGE, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import TrainingData, fit

CARDS = {card.id: card for card in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/mindbigdata_lstm.yaml"))}
NARROW: dict[str, Any] = {
    "n_classes": 3,
    "stack_units": [6, 4],
    "common_units": 5,
    "common_hidden": [6, 4],
    "channel_units": 3,
    "channel_layers": 2,
}
EPOC = CARDS["mindbigdata-stacked-lstm"].eeg
assert EPOC is not None


def spec(n_channels: int = 3, n_times: int = 40) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=128, tmin=0, n_times=n_times, unit="a.u.")


def built(network: str, **overrides: Any) -> NetworkClassifier:
    torch.manual_seed(0)
    return build(spec(), **{**NARROW, "network": network, **overrides}).eval()


def published(**preset: Any) -> NetworkClassifier:
    assert EPOC is not None
    with torch.device("meta"):
        return build(EPOC, **preset)


def keras_count(module: nn.Module) -> int:
    """As Keras counts: one bias per LSTM, and the moving statistics of batch norms."""
    mine = sum(p.numel() for name, p in module.named_parameters() if not name.endswith("bias_hh_l0"))
    return mine + sum(b.numel() for name, b in module.named_buffers() if "running" in name)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def training_data(n: int = 36, n_classes: int = 3, n_times: int = 40) -> TrainingData:
    """Each class a frequency of its own."""
    labels = np.arange(n) % n_classes
    wave = np.sin(np.arange(n_times) * 0.25 * (1 + labels[:, None, None]))
    eeg = (wave + 0.3 * noise(n, 3, n_times).numpy()).astype(np.float32)
    return TrainingData(eeg, labels, train=np.arange(n - 12), val=np.arange(n - 12, n), n_classes=n_classes)


# --- counts ----------------------------------------------------------------------------------------------------------


def test_the_stacked_lstm_has_the_layers_of_the_notebook() -> None:
    model = published(**CARDS["mindbigdata-stacked-lstm"].preset)
    assert isinstance(model.encoder, StackedLSTM)
    assert keras_count(model.encoder.norm) == 56
    assert [keras_count(layer) for layer in model.encoder.layers] == [277_504, 1_574_912, 787_456, 82_176, 5_184]
    assert keras_count(model.classifier) == 40_970
    assert keras_count(model) == 2_768_258


def test_the_readme_describes_another_stack() -> None:
    model = published(**CARDS["mindbigdata-stacked-lstm.readme"].preset)
    assert isinstance(model.encoder, StackedLSTM)
    assert [keras_count(layer) for layer in model.encoder.layers] == [525_312, 1_574_912, 787_456, 82_176]
    assert model.encoder.n_features == 896
    assert keras_count(model.classifier) == 8_970


def test_the_common_lstm_has_the_units_of_its_figure() -> None:
    model = published(network="common", common_hidden=[])
    assert isinstance(model.encoder, CommonLSTM)
    assert keras_count(model.encoder.lstm) == 5_246_976
    assert keras_count(model.classifier) == 143_370
    ours = published(**CARDS["mindbigdata-common-lstm"].preset)
    assert keras_count(ours.classifier) == 14_336 * 512 + 512 + 512 * 128 + 128 + 128 * 10 + 10


def test_the_lstms_of_channels_end_in_the_published_width() -> None:
    one = published(network="per-channel", channel_layers=1)
    assert isinstance(one.encoder, PerChannelLSTM)
    assert keras_count(one.encoder.channels) == 14 * 264_192 == 3_698_688
    assert keras_count(one.classifier) == 35_850
    three = published(**CARDS["mindbigdata-per-channel-lstm"].preset)
    assert isinstance(three.encoder, PerChannelLSTM)
    assert keras_count(three.encoder.channels) == 14 * (264_192 + 2 * 525_312)
    joint = published(network="per-channel", joint_lstm=True)
    assert isinstance(joint.encoder, PerChannelLSTM)
    assert joint.encoder.joint is not None
    assert keras_count(joint.encoder.joint) == 525_312
    assert keras_count(joint.classifier) == 35_850


# --- what they compute -----------------------------------------------------------------------------------------------


def plain_lstm(layer: nn.LSTM, x: np.ndarray) -> np.ndarray:
    """Keras' equations step by step in float64, gates i, f, c, o: (n_steps, n_inputs) → (n_steps, n_units)."""
    kernel, recurrent, bias, _ = (p.detach().double().numpy() for p in layer.parameters())

    h = c = np.zeros(layer.hidden_size)
    found = []
    for row in x:
        i, f, g, o = np.split(kernel @ row + recurrent @ h + bias, 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


@pytest.mark.parametrize("steps", ["times", "channels"])
def test_the_stack_is_lstms_with_leaky_relu_between(steps: str) -> None:
    model = built("stacked", steps=steps)
    assert isinstance(model.encoder, StackedLSTM)
    eeg = noise(1, 3, 40)
    x = eeg[0].double().numpy() / math.sqrt(1 + 1e-3)  # batch norm at its start: mean 0, variance 1, epsilon 1e-3
    x = x.T if steps == "times" else x
    for layer in model.encoder.layers:
        assert isinstance(layer, nn.LSTM)
        x = plain_lstm(layer, x)
        x = np.where(x < 0, 0.3 * x, x)
    np.testing.assert_allclose(model.encode(eeg)[0].detach().numpy(), x.ravel(), atol=1e-6)


def test_the_common_lstm_goes_along_channels() -> None:
    model, eeg = built("common"), noise(2, 3, 40)
    other = eeg.clone()
    other[:, 2] += 1  # the last channel is the last step, so what came before does not know of it
    with torch.no_grad():
        before, after = model.encode(eeg), model.encode(other)
    assert before.shape == (2, 3 * 5)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10:], after[:, 10:])


def test_channels_do_not_know_one_another_unless_joined() -> None:
    eeg = noise(2, 3, 40)
    other = eeg.clone()
    other[:, 0] += 1
    for joint, known in ((False, True), (True, False)):
        model = built("per-channel", joint_lstm=joint)
        with torch.no_grad():
            before, after = model.encode(eeg).view(2, 3, 3), model.encode(other).view(2, 3, 3)
        assert not torch.equal(before[:, 0], after[:, 0])
        assert torch.equal(before[:, 1:], after[:, 1:]) == known


def test_layers_start_as_keras_starts_them() -> None:
    layer = built("common", common_units=64).encoder.lstm
    assert isinstance(layer, nn.LSTM)
    bias, second = layer.bias_ih_l0.detach(), layer.bias_hh_l0.detach()
    assert bias.tolist() == [0.0] * 64 + [1.0] * 64 + [0.0] * 128
    assert not second.any()
    recurrent = layer.weight_hh_l0.detach().double()
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(64, dtype=torch.float64), atol=1e-5, rtol=0)


# --- training --------------------------------------------------------------------------------------------------------


def test_plain_sgd_takes_one_published_step(tmp_path: Path) -> None:
    data = training_data(n=20)
    model = built("common", encoder_steps=1, encoder_batch_size=8, dropout=0.0)
    start, twin = {k: v.clone() for k, v in model.named_parameters()}, built("common", dropout=0.0)
    fit(recipes(model, data, seed=0, select="last")[0], tmp_path, seed=0)
    twin.train()
    loss = nn.functional.cross_entropy(
        twin.classify(torch.from_numpy(data.eeg[data.train])), torch.from_numpy(data.labels[data.train])
    )
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    for name, value in model.named_parameters():
        grad = gradients[name]
        moved = start[name] if grad is None else start[name] - 2e-3 * grad  # the only batch holds all eight trials
        torch.testing.assert_close(value.detach(), moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("network", ["common", "stacked", "per-channel"])
def test_every_network_learns(network: str, tmp_path: Path) -> None:
    data = training_data()
    options = {"optimizer": "adam", "encoder_lr": 0.02, "encoder_steps": 100, "encoder_batch_size": 12, "dropout": 0.0}
    learned = built(network, **options)
    fit(recipes(learned, data, seed=0)[0], tmp_path, seed=0)
    with torch.no_grad():
        right = learned.eval().classify(torch.from_numpy(data.eeg[data.val])).argmax(dim=1).numpy()
    assert np.mean(right == data.labels[data.val]) > 0.65  # chance is 1/3; of 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network": "sparse"}, "network must be one of 'common', 'stacked', 'per-channel', but is 'sparse'."),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, but is 1.0."),
        (
            {"stack_units": []},
            "stack_units must hold a layer or more, and no layer of it or of common_hidden fewer than 1 unit, but they "
            "are () and (512, 128).",
        ),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        build(spec(), **overrides)
    assert str(refused.value) == message


def test_cards_claim_nothing_since_nothing_was_reported() -> None:
    assert all(card.claims == () for card in CARDS.values())

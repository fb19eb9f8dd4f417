"""NICE, ATM-S and UBP: against the authors' arrays (weights filled by formula), and what their quirks do."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import UsageError
from zoo.models.retrieval_encoders import (
    ATMS,
    NICE,
    UBP,
    RetrievalEncoder,
    TemporalSpatialConv,
    build,
)
from zoo.registry import PACKAGE, load_object, read_yaml
from zoo.specs import EEGSpec, ModelCard

CARDS = {c.id: c for c in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/retrieval_encoders.yaml"))}
TOLERANCE = 1e-5
"""Features reach 4.3; float32 in another order moves them by 3e-6."""


def spec(n_channels: int = 63, n_times: int = 250) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=250, tmin=0, n_times=n_times, unit="a.u.")


def hashed(name: str, n: int) -> np.ndarray:
    """The fixture's numbers in [-1, 1): a hash of a tensor's name and flat index, float64."""
    mask = np.uint64(0xFFFFFFFF)
    h = (np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & mask
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        h ^= h >> np.uint64(16 if factor == 0x85EBCA6B else 13)
        h = h * np.uint64(factor) & mask
    h ^= h >> np.uint64(16)
    return np.asarray(2 * (h / 2**32) - 1)


def filled(name: str, like: Tensor) -> Tensor:
    """What the fixture's formula puts into a tensor of this name and shape."""
    r, last = hashed(name, like.numel()).reshape(like.shape), name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return like
    if last == "running_var":
        values = 1 + 0.5 * r
    elif last == "weight":
        values = r * np.sqrt(3 / np.prod(like.shape[1:])) if like.ndim > 1 else 1 + 0.1 * r
    else:
        values = (0.1 if last in ("bias", "running_mean") else 0.02) * r
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def made(network: str, n_channels: int = 63, **overrides: Any) -> RetrievalEncoder:
    """An encoder with the fixture's weights."""
    options = {"n_features": 768 if network == "nice" else 1024, **overrides}
    model = build(spec(n_channels), network=network, **options).eval()
    model.encoder.load_state_dict({name: filled(name, value) for name, value in model.encoder.state_dict().items()})
    return model


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def stored(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures/nice_atms_ubp_eval.npz") as file:
        return {name: file[name] for name in file.files}


def close(got: Tensor, wanted: np.ndarray) -> None:
    torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=0, atol=TOLERANCE)


def layout(stored: dict[str, np.ndarray], name: str) -> dict[str, tuple[int, ...]]:
    shapes = [tuple(int(size) for size in shape if size >= 0) for shape in stored[f"{name}_shapes"]]
    return dict(zip(stored[f"{name}_names"].tolist(), shapes, strict=True))


# --- what the authors' modules compute -------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize(("network", "name", "n"), [("nice", "nice", 63), ("atm-s", "atms", 63), ("ubp", "ubp", 17)])
def test_tensors_are_named_and_shaped_as_published(
    stored: dict[str, np.ndarray], network: str, name: str, n: int
) -> None:
    state = made(network, n).encoder.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == layout(stored, name)


@pytest.mark.parity
@torch.no_grad()
def test_nice_gives_what_the_authors_modules_give(stored: dict[str, np.ndarray]) -> None:
    model, eeg = made("nice"), torch.from_numpy(stored["x63"])
    assert isinstance(model.encoder, NICE)
    close(model.encoder.Enc_eeg(eeg), stored["nice_enc"])
    close(model.encode(eeg), stored["nice_out"])
    torch.testing.assert_close(
        model.double().encode(eeg.double()), torch.from_numpy(stored["nice_out_f64"]), rtol=0, atol=1e-12
    )


@pytest.mark.parity
@torch.no_grad()
def test_atm_s_gives_what_the_authors_module_gives(stored: dict[str, np.ndarray]) -> None:
    model, eeg = made("atm-s"), torch.from_numpy(stored["x63"])
    ids = torch.from_numpy(stored["atms_subject_ids"])
    assert isinstance(model.encoder, ATMS)
    tokens = model.encoder.encoder(eeg, ids, together=True)
    close(tokens, stored["atms_tokens_all64"])
    close(tokens[:, :-1], stored["atms_transformer_buggy"])
    close(model.encode(eeg, ids), stored["atms_out_buggy"])
    close(model.encode(eeg, torch.tensor([1, 10])), stored["atms_out_shared_subject"])
    close(model.encode(eeg), stored["atms_out_shared_subject"])
    close(made("atm-s", semantics="corrected").encode(eeg, ids), stored["atms_out_fixed"])


@pytest.mark.parity
@torch.no_grad()
def test_ubp_gives_what_the_authors_module_gives(stored: dict[str, np.ndarray]) -> None:
    close(made("ubp", 17).encode(torch.from_numpy(stored["x17"])), stored["ubp_out"])


@pytest.mark.parametrize(
    ("network", "n_channels", "n"),
    [("nice", 63, 1_802_496), ("atm-s", 63, 3_202_412), ("ubp", 17, 5_404_673), ("ubp", 63, 17_180_673)],
)
def test_parameter_counts_are_the_published_ones(network: str, n_channels: int, n: int) -> None:
    with torch.device("meta"):
        model = build(spec(n_channels), network=network, n_features=768 if network == "nice" else 1024)
    assert count(model) == n
    if isinstance(model.encoder, ATMS):
        parts = {name: count(part) for name, part in model.encoder.named_children()}
        assert parts == {
            "encoder": 446_000,
            "subject_wise_linear": 125_500,
            "enc_eeg": 103_680,
            "proj_eeg": 2_527_232,
        }


def test_the_scale_of_ubp_starts_where_its_loss_does() -> None:
    net = build(spec(17, 20), network="ubp").encoder
    assert isinstance(net, UBP)
    assert float(net.logit_scale.detach().exp()) == pytest.approx(1 / 0.07)


# --- quirks ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_atm_s_as_run_mixes_the_last_channel_in_but_does_not_keep_it() -> None:
    as_run, corrected = (made("atm-s", 5, semantics=how).encoder for how in ("as_run", "corrected"))
    assert isinstance(as_run, ATMS)
    assert isinstance(corrected, ATMS)
    kept: dict[str, Tensor] = {}
    for name, net in (("as_run", as_run), ("corrected", corrected)):
        net.enc_eeg.register_forward_pre_hook(lambda _, given, name=name: kept.update({name: given[0]}))
        net(noise(2, 5, 250), torch.tensor([0, 3]))
    tokens = as_run.encoder(noise(2, 5, 250), torch.tensor([0, 3]), together=True)
    assert torch.equal(kept["as_run"], tokens[:, :5])  # the subject's and the first four channels'
    assert torch.equal(kept["corrected"], tokens[:, 1:])


@torch.no_grad()
def test_one_unknown_subject_switches_the_whole_batch_as_run_only() -> None:
    as_run, corrected = made("atm-s", 5), made("atm-s", 5, semantics="corrected")
    eeg = noise(2, 5, 250)
    for model, switched in ((as_run, True), (corrected, False)):
        known, mixed, unknown = (model.encode(eeg, torch.tensor(ids)) for ids in ([2, 4], [2, 10], [10, -1]))
        torch.testing.assert_close(model.encode(eeg), unknown)
        torch.testing.assert_close(mixed[1], unknown[1])
        torch.testing.assert_close(mixed[0], (unknown if switched else known)[0])
        assert (known - unknown).abs().max() > 1e-3


# --- other recordings, options, cards --------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["nice", "atm-s", "ubp"])
@pytest.mark.parametrize(("n_channels", "n_times"), [(1, 4), (14, 32), (17, 100), (128, 440)])
def test_networks_fit_other_recordings(network: str, n_channels: int, n_times: int) -> None:
    model = build(spec(n_channels, n_times), network=network, n_features=7).eval()
    with torch.no_grad():
        assert model.encode(noise(2, n_channels, n_times)).shape == (2, 7)


@pytest.mark.parametrize(("n_times", "positions"), [(250, 36), (100, 6), (75, 1), (32, 1), (4, 1)])
def test_positions_of_the_convolution(n_times: int, positions: int) -> None:
    assert TemporalSpatialConv(3, n_times).n_features == 40 * positions


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network": "clip"}, "network must be one of 'nice', 'atm-s', 'ubp', but is 'clip'."),
        ({"semantics": "fixed"}, "semantics must be 'as_run' or 'corrected', but is 'fixed'."),
        (
            {"semantics": "corrected"},
            "semantics of network nice must be 'as_run': there is nothing to correct in it.",
        ),
        ({"n_features": 0}, "n_features must be at least 1, but is 0."),
        ({"networks": "ubp"}, "RetrievalEncoderConfig has no option 'networks'; did you mean 'network'?"),
    ],
)
def test_impossible_options_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(spec(3, 40), **overrides)


def test_recordings_too_short_for_the_heads_are_refused() -> None:
    message = "atm-s needs at least 4 times, one per head, but the recordings have 3."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build(spec(3, 3), network="atm-s")


def test_training_is_refused_in_a_sentence() -> None:
    message = (
        "training ubp needs CLIP features of every training picture, and its recipe is not in this release; train it "
        "in Python and evaluate the model you have there."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        zoo.train("ubp", "phantom", device="cpu")


def test_cards_build_and_say_that_they_do_not_train() -> None:
    assert list(CARDS) == ["nice", "atm-s", "atm-s.corrected", "ubp"]
    for card in CARDS.values():
        assert card.builder is not None
        with torch.device("meta"):
            load_object(card.builder)(card.eeg or spec(17), **card.preset)
        assert any("training recipe is not in this release" in note for note in card.notes)
    assert {c.id: c.eeg.n_channels for c in CARDS.values() if c.eeg} == {"nice": 63, "atm-s": 63, "atm-s.corrected": 63}
    seen = {(c.id, claim.value) for c in CARDS.values() for claim in c.claims if claim.status == "seen"}
    assert seen == {("nice", 0.156), ("nice", 0.428)}

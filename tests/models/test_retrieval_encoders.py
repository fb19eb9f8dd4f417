"""NICE, ATM-S and UBP: against the authors' arrays (weights filled by formula), what their quirks do, training."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from tests.models.filling import filled
from tests.models.resuming import check_resuming
from tests.models.retrieval import SPEC, found, training
from zoo import weights
from zoo.conversion import convert as convert_weights
from zoo.datasets import base
from zoo.errors import IntegrityError, UsageError
from zoo.models.contrastive import Pairs, contrastive_loss
from zoo.models.convert.retrieval_encoders import convert
from zoo.models.retrieval_encoders import (
    ATMS,
    NICE,
    UBP,
    BlurRecipe,
    RetrievalEncoder,
    RetrievalEncoderConfig,
    TemporalSpatialConv,
    Uncertainty,
    build,
    fovea_blur,
    recipes,
)
from zoo.registry import PACKAGE, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import Recipe, fit

CARDS = {c.id: c for c in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/retrieval_encoders.yaml"))}
TOLERANCE = 1e-5
"""Features reach 4.3; float32 in another order moves them by 3e-6."""


def spec(n_channels: int = 63, n_times: int = 250) -> EEGSpec:
    return EEGSpec(ch_names=tuple(f"E{i}" for i in range(n_channels)), sfreq=250, tmin=0, n_times=n_times, unit="a.u.")


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
    assert count(model.encoder) == n
    assert count(model) == n + (network != "ubp")  # the scale of the loss, which UBP's network has itself
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


# --- similarities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "semantics", "scale", "cosines"),
    [
        ("nice", "as_run", 1 / 0.07, True),
        ("nice", "corrected", 1 / 0.07, True),
        ("atm-s", "as_run", math.log(1 / 0.07), False),  # 2.66: the logarithm itself
        ("atm-s", "corrected", 1 / 0.07, True),
        ("ubp", "as_run", math.log1p(1 / 0.07), False),  # softplus of a logarithm
        ("ubp", "corrected", 1 / 0.07, True),
    ],
)
@torch.no_grad()
def test_what_the_losses_compare(network: str, semantics: str, scale: float, cosines: bool) -> None:
    model = build(spec(3, 40), network=network, semantics=semantics, n_features=5)
    eeg, images = 3 * noise(4, 5), noise(6, 5)
    wanted = scale * (F.normalize(eeg) if cosines else eeg) @ F.normalize(images).T
    torch.testing.assert_close(model.similarities(eeg, images), wanted)


def test_the_scale_of_nice_is_trained_in_the_corrected_form_only() -> None:
    trained = {how: build(spec(3, 40), semantics=how).comparison.logit_scale.requires_grad for how in SEMANTICS}
    assert trained == {"as_run": False, "corrected": True}


@torch.no_grad()
def test_an_id_stands_for_every_trial_of_one_person() -> None:
    model = build(spec(5, 40), network="atm-s", n_features=7, subject=8).eval()
    given, shared = model.encode(noise(2, 5, 40), torch.tensor([8, 8])), torch.tensor([-1, -1])
    torch.testing.assert_close(model.encode(noise(2, 5, 40)), given)
    assert (model.encode(noise(2, 5, 40), shared) - given).abs().max() > 1e-3


# --- blur ------------------------------------------------------------------------------------------------------------


def test_the_fovea_stays_sharp_and_a_wider_kernel_blurs_more() -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    few, many = (fovea_blur(image, kernel).astype(float) for kernel in (5, 57))
    for blurred in (few, many):
        assert np.abs(blurred[111:113, 111:113] - image[111:113, 111:113]).max() <= 2  # weight 0.996 and rounding
    assert np.std(image) > few.std() > many.std()
    edge, centre = many[:8, :8], many[92:132, 92:132]
    assert edge.std() < centre.std()


def test_a_picture_of_one_colour_is_not_changed() -> None:
    image = np.full((40, 60, 3), (10, 200, 90), np.uint8)
    assert (fovea_blur(image, 51) == (10, 200, 90)).all()
    assert (fovea_blur(image, 51, decay=0) == (10, 200, 90)).all()


def test_the_blur_follows_equation_10_and_a_moving_average() -> None:
    state = Uncertainty(6, RetrievalEncoderConfig(network="ubp", blur_interval=1, blur_memory=0.75))
    everybody = torch.arange(6)
    assert state.levels(everybody).tolist() == [1] * 6  # nothing is known yet
    state.update(everybody, torch.tensor([-3.0, 0, 0, 0, 0, 3]))
    assert state.levels(everybody).tolist() == [0, 1, 1, 1, 1, 2]
    state.update(torch.tensor([0]), torch.tensor([9.0]))
    assert state.similarity[0] == 0  # 0.75 · -3 + 0.25 · 9


def test_each_pair_is_compared_with_its_picture_at_its_level() -> None:
    data = training(n_pictures=4)
    model = build(SPEC, network="ubp", **TINY, blur_kernels=(3, 5, 7))
    (recipe,) = recipes(model, data, seed=0)
    assert isinstance(recipe, BlurRecipe)
    recipe.uncertainty.update(torch.arange(4), torch.tensor([-9.0, 0, 0, 9]))
    assert data.look is not None
    for pair, kernel in enumerate((3, 5, 5, 7)):
        picture = [fovea_blur(data.images[recipe.pairs.pictures[pair]], kernel)]
        seen = data.look("means", "features", picture)
        np.testing.assert_array_equal(recipe.target(np.array([pair])).numpy(), seen)
    assert "uncertainty" in recipe.modules()  # so a resumed run blurs as an uninterrupted one


# --- training --------------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {"n_features": 12, "extractor": "means", "batch_size": 16, "steps": 4, "semantics": "corrected"}
SEMANTICS = ("as_run", "corrected")


def test_pairs_are_means_per_person_or_single_trials() -> None:
    data = training(n_pictures=3, repetitions=2, n_val=1, people=("01", "02"))
    pairs = Pairs.of(data, "train", "mean")
    assert pairs.pictures.tolist() == [0, 1, 2, 0, 1, 2]
    which = np.array([4, 0])
    rows = [[10, 11], [0, 1]]
    wanted = torch.from_numpy(np.stack([data.eeg[two].mean(axis=0) for two in rows]))
    torch.testing.assert_close(pairs.eeg(data, which, torch.device("cpu")), wanted)
    single = Pairs.of(data, "train", "single")
    assert single.pictures.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert torch.equal(single.eeg(data, which, torch.device("cpu")), torch.from_numpy(data.eeg[[data.train[4], 0]]))
    assert Pairs.of(data, "val", "mean").pictures.tolist() == [0, 0]


def test_pictures_that_are_not_there_are_told() -> None:
    data = dataclasses.replace(training(n_pictures=3, n_val=0), image_of_trial=np.array([0, 0, -1, 1, 2, 2]))
    message = (
        "contrastive training needs the picture of every train trial, but 1 of 6 have none; choose a dataset whose "
        "trials have pictures of their own."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(build(SPEC, **TINY), data, seed=0)


def test_another_number_of_image_features_is_told() -> None:
    message = (
        "means makes 12 features of a picture, but the model was built for 5; set that number or name another "
        "extractor."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        recipes(build(SPEC, **{**TINY, "n_features": 5}), training(), seed=0)


@pytest.mark.parametrize(
    "options", [{"network": "nice", "project_images": True}, {"network": "atm-s"}, {"network": "ubp"}]
)
def test_training_finds_unseen_pictures(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = training(n_pictures=60, n_val=20)
    model = build(SPEC, **{**TINY, "steps": 60, "batch_size": 30, "lr": 3e-3, "centred": True, **options})
    (recipe,) = recipes(model, data, seed=0)
    assert fit(recipe, tmp_path, seed=0).best_step is not None
    assert found(model, data, 5) > 0.6  # chance is 0.25


def test_nice_as_run_keeps_its_last_epoch_whatever_is_asked_for() -> None:
    for semantics, validates in (("as_run", False), ("corrected", True)):
        (recipe,) = recipes(build(SPEC, **{**TINY, "semantics": semantics}), training(), seed=0, select="val")
        assert (recipe.eval_every is not None) is validates


def test_choosing_on_the_test_role_is_possible_and_told() -> None:
    data = base.load("phantom")
    split, roles = data.split(), data.roles(data.split())
    given = data.training_data(split, validate="test")
    np.testing.assert_array_equal(given.val, np.flatnonzero(roles == "test"))
    assert given.val_image_of_trial is not None
    assert (given.val_image_of_trial[given.val] >= 0).all()
    quick = {"extractor": "pixels-16", "output": "features", "n_features": 768, "blur_kernels": [], "steps": 3}
    told = {"val": "validation", "last": "last step", "test": "test (as published, not fair)"}
    for select, sentence in told.items():
        folder = zoo.train("ubp.small", "phantom", select=select, overrides=quick, device="cpu")
        assert weights.read_info(folder).selection == sentence


@pytest.mark.parametrize("network", ["nice", "ubp"])
def test_a_resumed_run_equals_an_uninterrupted_one(network: str, tmp_path: Path) -> None:
    data = training(n_pictures=6, n_val=3)
    blur = (3, 5, 7) if network == "ubp" else ()

    def trained() -> tuple[RetrievalEncoder, Recipe]:
        torch.manual_seed(0)
        model = build(SPEC, network=network, **{**TINY, "batch_size": 6, "steps": 5}, blur_kernels=blur)
        return model, recipes(model, data, seed=0)[0]

    assert check_resuming(trained, tmp_path) == ({"encoder"} if network == "ubp" else {"encoder", "comparison"})


def test_other_trials_of_a_picture_count_as_right_where_asked() -> None:
    compared = torch.tensor([[2.0, 1, 0], [1, 2, 0], [0, 0, 2]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    log = compared.log_softmax(dim=1)
    wanted = -(log[:2, :2].mean() * 2 + log[2, 2]) / 3
    assert float(contrastive_loss(compared, same)) == pytest.approx(float(wanted))
    assert float(contrastive_loss(compared, torch.eye(3, dtype=torch.bool))) == pytest.approx(
        float(contrastive_loss(compared))
    )


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["nice", "atm-s"])
def test_a_state_dict_converts_to_the_same_features(network: str, tmp_path: Path) -> None:
    model = made(network)
    state = {f"module.{key}": value for key, value in model.encoder.state_dict().items()}
    torch.save(state | {"module.logit_scale": torch.tensor(2.0)}, tmp_path / "model.pth")
    folder, receipt = convert_weights(network, tmp_path / "model.pth")
    assert receipt["forward_check"]["encoder"] < 1e-9
    loaded, info = weights.load(folder)
    assert info.parts == ("encoder", "comparison")
    assert isinstance(loaded, RetrievalEncoder)
    assert float(loaded.comparison.logit_scale) == 2
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(noise(2, 63, 250)), model.encode(noise(2, 63, 250)))


def test_other_files_are_not_taken_for_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^--from must be a file with a state dict, such as model\.pth, but .* is not;"
    ):
        convert(tmp_path)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "a.pth")
    message = (
        "a.pth must hold a state dict of NICE or ATM-S, but has none of their tensors; the first of its own is "
        "fc.weight."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(message)}$"):
        convert(tmp_path / "a.pth")
    state = made("nice").encoder.state_dict()
    torch.save({key: value for key, value in state.items() if "projection" not in key}, tmp_path / "b.pth")
    sentence = (
        r"^the checkpoint lacks encoder\.Enc_eeg\.0\.projection\.0\.bias; it is not one of retrieval-encoders that"
    )
    with pytest.raises(IntegrityError, match=sentence):
        convert_weights("nice", tmp_path / "b.pth")


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
        ({"n_features": 0}, "n_features must be at least 1, but is 0."),
        ({"batch_size": 1}, "batch_size must be at least 2, but is 1."),
        ({"lr": 0}, "lr must be more than 0, but is 0.0."),
        ({"subject": 3}, "subject of network nice must be null: only atm-s knows subjects."),
        ({"blur_kernels": [5, 6, 7]}, "blur_kernels must be three odd numbers of pixels or none, but are (5, 6, 7)."),
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


def test_cards_say_what_was_published_and_what_is_ours() -> None:
    ours = ["nice.small", "atm-s.small", "ubp.small"]
    assert sorted(CARDS) == sorted(
        ["nice", "nice.corrected", "atm-s", "atm-s.corrected", "ubp", "ubp.corrected", *ours]
    )
    assert {c.id for c in CARDS.values() if c.eeg and c.eeg.n_channels == 63} == {
        *("nice", "nice.corrected", "atm-s", "atm-s.corrected")
    }
    seen = {(c.id, claim.value) for c in CARDS.values() for claim in c.claims if claim.status == "seen"}
    assert seen == {("nice", 0.156), ("nice", 0.428), *(("ubp", value) for value in (0.509, 0.797, 0.124, 0.334))}
    assert all(CARDS[name].preset["extractor"] == "efficientnet-lite0" for name in ours)  # nothing has to be fetched
    assert all(card.task == "retrieval" for card in CARDS.values())

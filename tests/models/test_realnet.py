"""ReAlnet and CORnet-S: against the authors' arrays (weights filled by formula), and what the flags of training do."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import small_things
from tests.models.filling import filled
from tests.models.resuming import check_resuming
from zoo import conversion, registry, weights
from zoo.datasets import phantom_things
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.models import realnet
from zoo.models.cornet import CORnetS, normalised
from zoo.models.realnet import ReAlNet, ReAlNetConfig, build, contrastive_term, correlations, eeg_loss, task_loss
from zoo.registry import PACKAGE, read_yaml
from zoo.specs import EEGSpec, ModelCard
from zoo.training import TrainingData, fit

CARDS = {c.id: c for c in map(ModelCard.model_validate, read_yaml(PACKAGE / "models/realnet.yaml"))}
THINGS = CARDS["realnet"].eeg
assert THINGS is not None
TOLERANCE = 1e-4
"""As the fixture says; float32 in another order moves what is compared, up to 60 in size, by 1e-5."""
NARROW: dict[str, Any] = {
    "resolution": 40, "widths": (3, 4, 4, 5), "recurrence": (1, 2, 1), "n_objects": 6, "head_width": 7,
}  # fmt: skip
TINY: dict[str, Any] = {**NARROW, "init": "random", "batch_size": 4, "epochs": 3, "lr": 1e-2}
SMALL_EEG = EEGSpec(ch_names=("Oz", "Pz"), sfreq=100, tmin=-0.1, n_times=40, unit="a.u.")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def published(model: ReAlNet) -> dict[str, Tensor]:
    """Tensors of one person's network under the names of the released script."""
    backbone, head, _ = model.network(0)
    return {**{f"realnet.module.{key}": value for key, value in backbone.state_dict().items()}, **head.state_dict()}


@pytest.fixture(scope="module")
def whole() -> ReAlNet:
    """The published network, without memory."""
    assert THINGS is not None
    with torch.device("meta"):
        return build(THINGS)


# ---- the network


def test_sizes_are_those_of_the_specification(whole: ReAlNet) -> None:
    backbone, head, _ = whole.network(0)
    assert count(backbone) == 53_416_616
    areas = [count(backbone.get_submodule(name)) for name in ("V1", "V2", "V4", "IT", "decoder")]
    assert areas == [46_528, 2_519_808, 10_078_720, 40_258_560, 513_000]
    heads = [count(head.get_submodule(name)) for name in ("fc_v1", "fc_v2", "fc_v4", "fc_it", "fc")]
    assert heads == [25_690_240, 12_845_184, 6_422_656, 3_211_392, 174_420]
    assert count(whole) == 101_760_508


def test_the_state_dict_is_laid_out_as_published(whole: ReAlNet, shared: Path) -> None:
    with np.load(shared / "fixtures/realnet_state_dict_layout.npz") as file:
        shapes = [tuple(size for size in shape if size >= 0) for shape in file["shapes"].tolist()]
        wanted = list(zip(file["names"].tolist(), shapes, file["dtypes"].tolist(), strict=True))
    assert len(wanted) == 174
    assert [(key, tuple(value.shape), str(value.dtype)) for key, value in published(whole).items()] == wanted


def test_areas_logits_and_eeg_are_those_of_the_authors_network(whole: ReAlNet, shared: Path) -> None:
    model = copy.deepcopy(whole).eval()
    state = {key.replace("module.", ""): value for key, value in published(model).items()}
    values = {key: torch.tensor(0) if key.endswith("tracked") else filled(key, value) for key, value in state.items()}
    backbone, head, _ = model.network(0)
    backbone.load_state_dict(
        {key.removeprefix("realnet."): value for key, value in values.items() if key.startswith("realnet.")},
        assign=True,
    )
    head.load_state_dict({key: value for key, value in values.items() if key.startswith("fc")}, assign=True)
    with np.load(shared / "fixtures/realnet_encoder_eval.npz") as file:
        stored = dict(file)
    with torch.no_grad():
        seen = backbone(torch.from_numpy(stored["input_image"]))
        features = head.features(*seen.areas)
        found = {
            "v1_slice": seen.v1[:, :8],
            "v1_mean_c": seen.v1.mean(dim=(2, 3)),
            "v2": seen.v2[:, :32],
            "v4": seen.v4,
            "it": seen.it,
            "logits": seen.logits,
            "eeg": head(*seen.areas),
            **dict(zip(("feat_v1", "feat_v2", "feat_v4", "feat_it"), features, strict=True)),
            "logits_f64": seen.logits,
            "eeg_f64": head(*seen.areas),
        }
    for name, value in found.items():
        assert np.abs(value.numpy() - stored[name]).max() < TOLERANCE, name


def test_hooks_on_output_see_every_step(whole: ReAlNet) -> None:
    """653,288 numbers of a picture, as encoding models on CORnet-S use them."""
    sizes: dict[str, list[int]] = {name: [] for name in ("V1", "V2", "V4", "IT", "decoder")}
    backbone = copy.deepcopy(whole.network(0)[0])
    for name, found in sizes.items():
        layer = backbone.get_submodule(f"{name}.output")
        layer.register_forward_hook(lambda module, given, made, found=found: found.append(made[0].numel()))
    backbone(torch.empty(1, 3, 224, 224, device="meta"))
    assert {name: len(found) for name, found in sizes.items()} == {"V1": 1, "V2": 2, "V4": 4, "IT": 2, "decoder": 1}
    assert sum(map(sum, sizes.values())) == 653_288


def test_convolutions_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    weight = CORnetS(steps=(1, 1, 1)).V4.conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-5)


def test_the_whole_epoch_is_predicted_and_the_window_learnt() -> None:
    assert THINGS is not None
    torch.manual_seed(0)
    model = build(THINGS, **NARROW).eval()
    assert model.learnt.tolist() == list(range(20, 40))  # 0 to 0.19 s
    targets = model.network(0)[2]
    targets.mean.copy_(torch.arange(340.0))
    targets.std.fill_(2)
    targets.elsewhere.fill_(-1)
    images = torch.rand(3, 3, 40, 40)
    with torch.no_grad():
        seen, made = model.see(images), model.predict(images)
    assert made.shape == (3, 17, 100)
    outside = np.setdiff1d(np.arange(100), model.learnt)
    assert (made[:, :, outside] == -1).all()
    assert torch.equal(model.fold(made), seen[:, 0] * 2 + torch.arange(340.0))


def test_a_mean_trace_is_the_same_at_every_channel() -> None:
    assert THINGS is not None
    model = build(THINGS, **NARROW, outputs="mean-trace").eval()
    assert model.network(0)[1].fc.out_features == 100
    with torch.no_grad():
        made = model.predict(torch.rand(1, 3, 40, 40))
    assert (made == made[:, :1]).all()
    assert made[0, 0, 20:40].std() > 0
    assert (made[:, :, :20] == 0).all()
    assert torch.equal(model.fold(torch.arange(34.0).view(1, 17, 2)), torch.tensor([[16.0, 17.0]]))


def test_who_is_not_known_gets_the_mean_of_those_who_are() -> None:
    torch.manual_seed(0)
    model = build(SMALL_EEG, **NARROW, subjects=("01", "02")).eval()
    with torch.no_grad():
        seen = model.see(torch.rand(2, 3, 40, 40))
        one, two, other, nobody = (model.respond(seen, who) for who in ("01", "02", "03", None))
    assert not torch.equal(one, two)
    assert torch.equal(other, (one + two) / 2)
    assert torch.equal(other, nobody)


# ---- the loss


def test_correlations_and_losses_are_those_of_the_authors(shared: Path) -> None:
    with np.load(shared / "fixtures/realnet_loss.npz") as file:
        stored = dict(file)
    predicted, observed = (torch.from_numpy(stored[name]).double() for name in ("pred", "target"))
    for rho, allowed in (("pearson", 1e-7), ("spearman", 1e-15)):  # the former was stored in float32
        matrix = correlations(predicted, observed, rho)  # type: ignore[arg-type]
        assert np.abs(matrix.numpy() - stored[f"{rho}_matrix"]).max() < allowed
        assert contrastive_term(matrix).item() == pytest.approx(float(stored[f"contrastive_{rho}"]), abs=1e-7)
        config = ReAlNetConfig(rho=rho)  # type: ignore[arg-type]
        assert eeg_loss(predicted, observed, config).item() == pytest.approx(float(stored[f"gen_loss_{rho}"]), abs=1e-6)


def test_the_contrastive_term_is_what_the_matrix_says() -> None:
    matrix = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.6, -0.4], [0.0, -0.2, 0.3]])
    assert contrastive_term(matrix).item() == pytest.approx(1 - 0.6 + 0.0)
    assert contrastive_term(torch.tensor([[0.25]])).item() == 0.75  # nothing to tell a single picture from
    assert contrastive_term(torch.eye(5)).item() == 0


def test_as_run_only_the_squared_error_trains() -> None:
    predicted = torch.randn(5, 8, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    observed = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (as_run,) = torch.autograd.grad(eeg_loss(predicted, observed, ReAlNetConfig()), predicted)
    assert torch.allclose(as_run, 2 * (predicted - observed) / 40)
    corrected = ReAlNetConfig(rho="pearson", contrastive_gradient=True)
    assert torch.autograd.gradcheck(lambda p: eeg_loss(p, observed, corrected), predicted)
    (whole,) = torch.autograd.grad(eeg_loss(predicted, observed, corrected), predicted)
    contrast = whole - as_run
    assert contrast.norm() > 0.1 * as_run.norm()
    # a correlation does not change with offset and scale, so neither direction has a slope
    assert torch.allclose(contrast.sum(dim=1), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    centred = predicted - predicted.mean(dim=1, keepdim=True)
    assert torch.allclose((contrast * centred).sum(dim=1), torch.zeros(5, dtype=torch.float64), atol=1e-12)


def test_task_losses() -> None:
    logits, taught = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[-3.0, 1.0, 5.0]])
    log = torch.log_softmax(logits, dim=1)[0]
    assert task_loss(logits, taught, "mse").item() == pytest.approx((25 + 1 + 36) / 3)
    assert task_loss(logits, taught, "pseudo-ce").item() == pytest.approx(-log[2].item())
    raw = task_loss(logits, taught, "soft-ce-raw").item()
    assert raw == pytest.approx(3 * log[0].item() - log[1].item() - 5 * log[2].item(), rel=1e-6)
    assert task_loss(logits, torch.tensor([[-9.0, 0.0, 0.0]]), "soft-ce-raw").item() < 0  # no probabilities


# ---- training


def noise_data(n: int = 12, subjects: tuple[str, ...] = ("01", "02")) -> TrainingData:
    """Two repetitions of ``n`` pictures by everybody, the last three of which validate."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (n, 40, 40, 3), dtype=np.uint8))
    picture = np.tile(np.repeat(np.arange(n), 2), len(subjects))
    pattern = rng.standard_normal((n, 2, 40))
    eeg = (pattern[picture] + rng.standard_normal((len(picture), 2, 40)) + 3).astype(np.float32)
    val = picture >= n - 3
    return TrainingData(
        eeg=eeg,
        labels=picture,
        train=np.flatnonzero(~val),
        val=np.flatnonzero(val),
        n_classes=n,
        images=images[: n - 3],
        image_of_trial=np.where(val, -1, picture),
        val_images=images[n - 3 :],
        val_image_of_trial=np.where(val, picture - (n - 3), -1),
        subjects=np.repeat(subjects, 2 * n),
    )


def trained(
    tmp_path: Path, data: TrainingData | None = None, select: Literal["val", "last"] = "last", **options: Any
) -> Iterator[tuple[ReAlNet, realnet.ReAlNetRecipe]]:
    """Model and recipe of every phase, before it is trained; training goes on when the next is asked for."""
    torch.manual_seed(0)
    model = build(SMALL_EEG, **{**TINY, "subjects": ("01", "02"), **options})
    for recipe in realnet.recipes(model, data or noise_data(), seed=0, select=select):
        assert isinstance(recipe, realnet.ReAlNetRecipe)
        yield model, recipe
        fit(recipe, tmp_path, seed=0)


def states(*modules: nn.Module) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(module.state_dict()) for module in modules]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_people_are_chained_as_run_and_start_alike_in_the_corrected_form(tmp_path: Path) -> None:
    for order in ("chained", "each"):
        phases = trained(tmp_path / order, order=order)
        model, first = next(phases)
        (start,) = states(first.backbone)
        model, second = next(phases)
        ended, begun = states(first.backbone, second.backbone)
        assert not same(ended, start)
        assert same(begun, ended if order == "chained" else start)
        assert same(start, second.teacher.state_dict())  # the teacher is never one that was fine-tuned
        assert not same(*states(first.head, second.head))
        assert next(phases, None) is None
        assert not same(begun, second.backbone.state_dict())


def test_targets_are_z_scores_of_what_the_person_saw_in_training(tmp_path: Path) -> None:
    data = noise_data()
    phases = trained(tmp_path, data)
    for who, (model, recipe) in zip(("01", "02"), phases, strict=True):
        rows = data.train[data.subjects[data.train] == who]  # type: ignore[index]
        mean = data.eeg[rows].reshape(9, 2, 2, 40).mean(axis=1)
        folded = mean[:, :, 10:30].reshape(9, -1)  # 0 to 0.19 s of recordings that begin at -0.1 s
        wanted = (folded - folded.mean(axis=0)) / folded.std(axis=0)
        assert np.allclose(recipe.observed, wanted, atol=1e-4)
        assert np.allclose(recipe.targets.elsewhere, mean.mean(axis=0), atol=1e-5)
        nothing = model.respond(torch.zeros(1, 2, 40), who)[0]
        assert np.allclose(nothing, mean.mean(axis=0), atol=1e-5)


def test_a_second_forward_moves_the_averages_as_a_larger_momentum_would(tmp_path: Path) -> None:
    """As run a step averages the same moments in twice: 1 - 0.9² of them instead of 0.1. All else is equal."""
    twice, once = (next(trained(tmp_path, double_forward=double))[1] for double in (True, False))
    for module in once.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1 - 0.9**2
    for recipe in (twice, once):
        recipe.step(0, np.random.default_rng(0))
    state, other = twice.backbone.state_dict(), once.backbone.state_dict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            assert (value, other[key]) == (2, 1)
        else:
            assert torch.allclose(value, other[key], atol=1e-5), key
    assert same(twice.head.state_dict(), once.head.state_dict())


def test_a_frozen_backbone_stays_as_it_was(tmp_path: Path) -> None:
    phases = trained(tmp_path, train_backbone=False)
    _, recipe = next(phases)
    before, head = states(recipe.backbone, recipe.head)
    next(phases)
    assert same(before, recipe.backbone.state_dict())  # batch norm's averages too
    assert not same(head, recipe.head.state_dict())


def test_a_teacher_in_training_mode_follows_the_batches(tmp_path: Path) -> None:
    for mode in ("eval", "train"):
        _, recipe = next(trained(tmp_path, teacher=mode))
        (before,) = states(recipe.teacher)
        recipe.step(0, np.random.default_rng(0))
        changed = [key for key, value in recipe.teacher.state_dict().items() if not torch.equal(value, before[key])]
        assert bool(changed) == (mode == "train")
        assert all("running" in key or "tracked" in key for key in changed)


def test_the_step_is_the_published_loss(tmp_path: Path) -> None:
    """At the first step the student is its teacher, so the task loss is what batch norm's mode makes of it."""
    _, recipe = next(trained(tmp_path, teacher="train", double_forward=False, lr=1e-12))
    losses = recipe.step(0, np.random.default_rng(0))
    assert losses["task"] == pytest.approx(0, abs=1e-9)
    assert 1 < losses["eeg"] < 4  # z-scores against a head that knows nothing


def test_validation_is_the_loss_on_held_out_pictures(tmp_path: Path) -> None:
    data = noise_data()
    _, recipe = next(trained(tmp_path, data, "val", train_backbone=False))
    assert recipe.eval_every == 3
    score = recipe.validate()
    images = normalised(recipe.model.pixels(list(data.val_images)))
    rows = data.val[data.subjects[data.val] == "01"]  # type: ignore[index]
    observed = torch.from_numpy(data.eeg[rows].reshape(3, 2, 2, 40).mean(axis=1)[:, :, 10:30].reshape(3, -1))
    observed = (observed - recipe.targets.mean) / recipe.targets.std
    with torch.no_grad():
        wanted = eeg_loss(recipe.head(*recipe.backbone(images).areas), observed, recipe.config)
    assert score == pytest.approx(-100 * wanted.item(), rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"teacher": "train", "task": "pseudo-ce"}], ids=["as run", "notebook"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path, options: dict[str, Any]) -> None:
    def training() -> tuple[ReAlNet, realnet.ReAlNetRecipe]:
        return next(trained(tmp_path, None, "val", subjects=(), **options))

    assert check_resuming(training, tmp_path) == {"backbone0", "head0"}


def test_the_phantoms_answer_is_found_up_to_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on responses whose truth is known, it correlates with held-out ones as its likeness to the truth says."""
    options = {"n_subjects": 1, "n_concepts": 80, "n_exemplars": 4, "n_test": 100, "n_test_repetitions": 20}
    data = small_things(monkeypatch, "things-realnet", **options)
    answer, tested = phantom_things.known_answer(data), data.stimuli.ids[320:]
    options = {"init": "random", "resolution": 40, "widths": (6, 8, 12, 16), "recurrence": (1, 1, 1), "n_objects": 4,
               "head_width": 24, "rho": "pearson", "contrastive_gradient": True, "double_forward": False,
               "window": (0.06, 0.4), "lr": 3e-3, "batch_size": 32, "steps": 60}  # fmt: skip
    torch.manual_seed(0)
    model = build(data.spec, **options)
    for recipe in realnet.recipes(model, data.training_data(data.split("within-subject-01")), seed=0):
        fit(recipe, tmp_path, seed=0)
    with torch.no_grad():
        predicted = model.eval().predict(model.pixels(data.stimulus_pixels(range(320, 420)))).numpy()
    window, truth = model.learnt, answer.of("01", tested)
    rows = np.flatnonzero(np.char.startswith(data.trials["trial_id"], "01-te"))
    measured = data.eeg[rows].reshape(100, 20, 17, 100).mean(axis=1)

    def r(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (x[..., window] - x[..., window].mean(axis=0) for x in (a, b))
        return np.asarray((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)))

    ceiling = answer.ceiling("01", tested, 20)[:, window]
    reached, shuffled = r(predicted, measured), r(np.roll(predicted, 1, axis=0), measured)
    assert shuffled.mean() + 0.1 < reached.mean() < ceiling.mean()
    assert reached.mean() == pytest.approx((r(predicted, truth) * ceiling).mean(), abs=0.02)


def test_a_person_without_training_trials_is_named(tmp_path: Path) -> None:
    phases = trained(tmp_path, subjects=("01", "07"))
    next(phases)
    message = "training needs pictures that subject07 saw, but the train role has none; choose another split."
    with pytest.raises(UsageError, match=f"^{message}$"):
        next(phases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrastive_gradient": True}, "contrastive_gradient needs rho='pearson': ranks have no gradient."),
        ({"subjects": ("01", "01")}, "subjects must differ, but are 01, 01."),
        (
            {"window": (2.0, 3.0)},
            "window must hold a sample, but 2 to 3 s has none of the 40 from -0.1 to 0.29 s; choose another.",
        ),
        (
            {"recurrence": (2, 0, 2)},
            "widths and recurrence must be 1 or more, but are (64, 128, 256, 512) and (2, 0, 2); choose others.",
        ),
        ({"resolution": 32}, "resolution must be at least 33, but is 32."),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused, torch.device("meta"):
        build(SMALL_EEG, **options)
    assert str(refused.value) == message


def test_cards_say_what_differs_from_the_script() -> None:
    published = {name: ReAlNetConfig(**dict(CARDS[name].preset)) for name in ("realnet", "realnet.notebook")}
    assert published["realnet"] == ReAlNetConfig(subjects=[])  # type: ignore[arg-type]
    notebook = published["realnet.notebook"]
    assert (notebook.task, notebook.rho, notebook.lr, notebook.epochs) == ("pseudo-ce", "pearson", 2e-5, 30)
    assert registry.models.get("cornet-s").preset["train_backbone"] is False


# ---- checkpoints


def checkpoint(path: Path, prefix: str = "realnet.module.", heads: bool = True, n_out: int = 340) -> ReAlNet:
    """A narrow network, saved as the released script saves the whole one."""
    assert THINGS is not None
    torch.manual_seed(3)
    outputs = "mean-trace" if n_out == 100 else "window"
    model = build(THINGS, **NARROW, outputs=outputs).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for buffer, low in ((module.running_mean, -1), (module.running_var, 0.5)):
                assert buffer is not None
                nn.init.uniform_(buffer, low, 2)
    backbone, head, _ = model.network(0)
    state = {f"{prefix}{key}": value for key, value in backbone.state_dict().items()}
    torch.save(state | (dict(head.state_dict()) if heads else {}), path)
    return model


def test_a_whole_checkpoint_predicts_as_it_did(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "encoder.pt")
    folder, receipt = conversion.convert("realnet", tmp_path / "encoder.pt")
    assert receipt["forward_check"].keys() == {"logits", "eeg"}
    assert max(receipt["forward_check"].values()) < 1e-12
    loaded, info = weights.load(folder)
    assert info.parts == ("backbone0", "head0", "targets0")
    assert isinstance(loaded, ReAlNet)
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(loaded.predict(images), model.predict(images))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_backbone_alone_becomes_weights_of_cornet_s(tmp_path: Path, prefix: str) -> None:
    model = checkpoint(tmp_path / "realnet.pt", prefix, heads=False)
    folder, receipt = conversion.convert("cornet-s", tmp_path / "realnet.pt")
    assert receipt["forward_check"].keys() == {"logits"}
    loaded, info = weights.load(folder)
    assert info.parts == ("backbone0",)
    assert isinstance(loaded, ReAlNet)
    assert same(model.network(0)[0].state_dict(), loaded.network(0)[0].state_dict())


def test_of_the_derived_checkpoint_eighty_outputs_are_as_drawn(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "best_model_params.pt", n_out=100)
    state = torch.load(tmp_path / "best_model_params.pt", weights_only=True)
    state["fc.weight"][20:40] *= 3  # what training moved
    torch.save(state, tmp_path / "best_model_params.pt")
    folder, receipt = conversion.convert("realnet.mean-trace", tmp_path / "best_model_params.pt")
    assert receipt["counters"] == {"outputs_as_drawn": 80}
    loaded, info = weights.load(folder)
    assert info.config["outputs"] == "mean-trace"
    assert isinstance(loaded, ReAlNet)
    images = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        outputs = model.network(0)[1].fc.bias + 3 * (model.see(images)[0, 0] - model.network(0)[1].fc.bias)
        trace = loaded.predict(images)[0]
    assert torch.allclose(trace[:, 20:40], outputs[20:40].repeat(17, 1), atol=1e-5)
    assert (trace[:, 40:] == 0).all()


def test_imagenet_weights_are_known_by_the_digits_in_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoint(tmp_path / "plain.pth", "module.", heads=False)
    torch.save({"epoch": 43, "state_dict": torch.load(tmp_path / "plain.pth", weights_only=True)}, tmp_path / "a.pth")
    from zoo.store import file_sha256

    digits = file_sha256(tmp_path / "a.pth")[:8]
    named = (tmp_path / "a.pth").rename(tmp_path / f"cornet_s-{digits}.pth")
    with pytest.raises(MissingError) as missing:
        realnet.imagenet_state()
    assert str(missing.value) == (
        "ReAlnet starts from CORnet-S trained on ImageNet (cornet_s-1d3f7974.pth), which is not on this machine and "
        "cannot be fetched, since only the first digits of its sha256 are published.\n"
        "to make it, run: curl -LO https://s3.amazonaws.com/cornet-models/cornet_s-1d3f7974.pth && "
        "zoo weights convert cornet-s --from cornet_s-1d3f7974.pth   or start from chance: --set init=random"
    )
    folder, _ = conversion.convert("cornet-s", named)
    other = f"its sha256 are published; {folder.name} is of a file whose sha256 begins with {digits}.\nto make it, run"
    with pytest.raises(MissingError, match=re.escape(other)):
        realnet.imagenet_state()
    monkeypatch.setattr(realnet, "IMAGENET", named.name)
    assert same(model.network(0)[0].state_dict(), realnet.imagenet_state())
    started = build(SMALL_EEG, **{**TINY, "init": "imagenet"})
    recipe = next(iter(realnet.recipes(started, noise_data(), seed=0)))
    assert isinstance(recipe, realnet.ReAlNetRecipe)
    assert same(model.network(0)[0].state_dict(), recipe.teacher.state_dict())
    assert same(model.network(0)[0].state_dict(), recipe.backbone.state_dict())


def test_a_checkpoint_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    def refused(state: object, name: str = "encoder.pt") -> str:
        torch.save(state, tmp_path / name)
        with pytest.raises(IntegrityError) as error:
            conversion.convert("realnet", tmp_path / name)
        return str(error.value)

    checkpoint(tmp_path / "encoder.pt")
    state = torch.load(tmp_path / "encoder.pt", weights_only=True)
    assert refused(state, "cornet_s-00000000.pth").startswith(
        "cornet_s-00000000.pth must have sha256 00000000…, but has "
    )
    assert refused({"a.weight": torch.zeros(2)}) == (
        "encoder.pt must hold ReAlnet or CORnet-S, but has no V1.conv1.weight; the first of its tensors is a.weight."
    )
    assert refused([1, 2]) == "encoder.pt must hold a state dict, but holds list; save one."
    wrong = {**state, "fc.weight": torch.zeros(7, 28), "fc.bias": torch.zeros(7)}
    assert refused(wrong) == (
        "encoder.pt must predict 340 or 100 values (17 channels × 20 times, or a mean of 100 times), but predicts 7; "
        "what they are is not known."
    )
    less = {key: value for key, value in state.items() if not key.endswith("norm_skip.bias")}
    assert refused(less) == "the checkpoint must hold a whole network, but backbone0.IT.norm_skip.bias is missing."
    less = {key: value for key, value in state.items() if "IT.conv3" not in key}
    assert refused(less) == (
        "the checkpoint must hold a whole CORnet-S, but 'backbone0.IT.conv3.weight' is missing; get it again."
    )

"""Encoding and retrieval on a phantom whose answer is known: who knows it reaches the ceiling, and nobody else does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from leaderboard.units import read_units
from tests.conftest import small_things
from zoo import leaves, registry, scoring, upload
from zoo.datasets import base, phantom_things
from zoo.errors import UsageError
from zoo.models.base import EncodingModel, Retriever
from zoo.plan import find_track, make_plan
from zoo.record import Record
from zoo.responses import Responses
from zoo.specs import MetricCard
from zoo.stages import ShardsMissingError
from zoo.store import cache_dir
from zoo.validation import validate

OPTIONS = {
    "n_subjects": 3,
    "n_concepts": 20,
    "n_exemplars": 2,
    "n_repetitions": 2,
    "n_test": 30,
    "n_test_repetitions": 8,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[base.EEGDataset]:
    """A small phantom-things in a cache that all tests here share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("shared")))
        yield small_things(patch, "things-small", seed=0, **OPTIONS)


@pytest.fixture(autouse=True)
def shared_cache(data: base.EEGDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(data.folder.parents[1]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes long and is tested in tests/metrics."""

    def absent(card: MetricCard) -> str | None:
        return "left out: it takes long" if card.id in ("pairwise_lda", "rsa_spearman") else None

    monkeypatch.setattr(scoring, "_absent", absent)


def baseline(answer: phantom_things.Answer) -> np.ndarray:
    """(n_subjects, n_channels, n_times) what every picture evokes."""
    evoked = np.einsum("nf,sfct->snct", answer.features, answer.maps)
    constant: np.ndarray = (answer.responses - evoked).mean(axis=1)
    return constant


class Knows(EncodingModel):
    """The forward model of the phantom: its answer, person by person or on average."""

    resolution = phantom_things.PIXELS

    def __init__(self, data: base.EEGDataset, subjects: tuple[str, ...] = ("01", "02", "03")) -> None:
        super().__init__(data.spec, {"subjects": subjects})
        answer = phantom_things.known_answer(data)
        raw = phantom_things.measure(data.stimulus_pixels(range(len(data.stimuli))))
        scale = np.linalg.lstsq(np.c_[raw, np.ones(len(raw))], answer.features, rcond=None)[0]
        self.subjects = subjects
        self.scale = nn.Parameter(torch.from_numpy(scale).float(), requires_grad=False)
        self.maps = nn.Parameter(torch.from_numpy(answer.maps).float(), requires_grad=False)
        self.base = nn.Parameter(torch.from_numpy(baseline(answer)).float(), requires_grad=False)

    def parts(self) -> dict[str, nn.Module]:
        return {}

    def see(self, images: Tensor) -> Tensor:
        pixels = (images * 255).round().permute(0, 2, 3, 1).numpy()
        raw = torch.from_numpy(phantom_things.measure(list(pixels))).float()
        return raw @ self.scale[:-1] + self.scale[-1]

    def respond(self, seen: Tensor, subject: str | None = None) -> Tensor:
        of = self.subjects.index(subject) if subject in self.subjects else slice(None)
        maps, base = (part[of] if isinstance(of, int) else part.mean(0) for part in (self.maps, self.base))
        return torch.einsum("nf,fct->nct", seen, maps) + base


class Finds(Retriever):
    """The same read backwards: features of the picture from the EEG by least squares, and from small pictures."""

    extractor, n_image_features = "pixels-16", 768

    def __init__(self, data: base.EEGDataset, subject: int = 0) -> None:
        super().__init__(data.spec, {})
        answer = phantom_things.known_answer(data)
        back = np.linalg.pinv(answer.maps[subject].reshape(6, -1))
        pictures = torch.from_numpy(
            np.stack([p.transpose(2, 0, 1) for p in data.stimulus_pixels(range(len(data.stimuli)))])
        )
        small = nn.functional.interpolate(pictures.float(), (16, 16), mode="bilinear", antialias=True) / 255
        seen = np.c_[small.flatten(1).numpy(), np.ones(len(small))]
        self.base = nn.Parameter(torch.from_numpy(baseline(answer)[subject]).float(), requires_grad=False)
        self.back = nn.Parameter(torch.from_numpy(back).float(), requires_grad=False)
        way = np.linalg.lstsq(seen, answer.features, rcond=1e-4)[0]
        self.way = nn.Parameter(torch.from_numpy(way).float(), requires_grad=False)

    def parts(self) -> dict[str, nn.Module]:
        return {}

    def encode(self, eeg: Tensor) -> Tensor:
        return (eeg - self.base).flatten(1) @ self.back

    def embed_images(self, features: Tensor) -> Tensor:
        return features @ self.way[:-1] + self.way[-1]


def of(record: Record, system: str, metric: str) -> float:
    values = record.values if system == "model" else record.controls[system].values
    value = values[metric].value
    assert value is not None, values[metric].reason
    return value


@pytest.fixture(scope="module")
def encoded(data: base.EEGDataset) -> Record:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(data.folder.parents[1]))
        patch.setattr(scoring, "_absent", lambda card: "long" if card.id in ("pairwise_lda", "rsa_spearman") else None)
        return zoo.evaluate(Knows(data), "things-small", device="cpu")


def test_the_true_response_scores_what_the_phantom_says_is_the_best_there_is(
    data: base.EEGDataset, encoded: Record
) -> None:
    answer = phantom_things.known_answer(data)
    shown = data.stimuli.ids[data.stimulus_rows(data.split(), "test")]
    best = np.mean([answer.ceiling(subject, shown, 8).mean() for subject in answer.subjects])
    assert encoded.identity.track == "encoding/things-small.unseen-concept@0"
    assert of(encoded, "model", "pearson_r_mean") == pytest.approx(best, abs=0.02)
    assert of(encoded, "model", "pearson_r") > encoded.values["pearson_r"].detail["lower"]
    assert of(encoded, "model", "r2") > 0.01
    assert of(encoded, "model", "eeg_identification_top1") > 0.5


def test_responses_and_correlations_are_drawn_beside_the_record(data: base.EEGDataset, encoded: Record) -> None:
    from PIL import Image

    folder = data.folder.parents[1] / "board" / "records" / encoded.identity.track / encoded.identity.model
    (path,) = folder.glob(f"{encoded.id[:12]}-{encoded.run[:8]}.json")
    for kind in ("responses", "correlation"):
        with Image.open(path.with_suffix(f".{kind}.png")) as picture:
            assert min(picture.size) > 300
            assert np.unique(np.asarray(picture.convert("L"))).size > 20  # lines, not an empty page


def test_no_control_comes_near_except_other_people_and_the_ceiling(encoded: Record) -> None:
    assert of(encoded, "shuffled-pictures", "pearson_r") < 0.05
    assert of(encoded, "shuffled-pictures", "eeg_identification_top1") < 0.15
    assert of(encoded, "mean-response", "pearson_r") == 0
    assert of(encoded, "mean-response", "r2") < 0  # no better than the mean over the test pictures themselves
    assert of(encoded, "mean-response", "eeg_identification_top1") == pytest.approx(1 / 30)
    assert 0.02 < of(encoded, "other-subject", "pearson_r_mean") < of(encoded, "model", "pearson_r_mean")
    assert of(encoded, "noise-ceiling", "pearson_r_mean") < of(encoded, "model", "pearson_r_mean")


def test_an_interval_is_over_people_or_over_pictures_where_there_are_few_people(
    data: base.EEGDataset, encoded: Record
) -> None:
    value = encoded.values["pearson_r"]
    assert (value.n, value.n_units, value.interval_method) == (90, 3, "t, cluster-robust")
    assert value.p_chance == 1 / 8  # of three people who agree
    alone = zoo.evaluate(Knows(data), "things-small", split="within-subject-02", device="cpu")
    one = alone.values["pearson_r"]
    assert (one.n, one.n_units, one.interval_method) == (30, 10, "jackknife, 10 groups")
    assert one.interval is not None
    assert one.interval[0] < of(alone, "model", "pearson_r") < one.interval[1]
    top = alone.values["eeg_identification_top1"]
    assert (top.n_units, top.p_method) == (30, "exact binomial")
    reason = alone.controls["other-subject"].values["pearson_r"].reason
    assert reason == "other-subject needs two people or more in the test role, but there is only 02"


def test_somebody_unknown_gets_the_mean_over_the_known(data: base.EEGDataset, encoded: Record) -> None:
    shared = zoo.evaluate(Knows(data, ()), "things-small", device="cpu")
    assert of(shared, "model", "pearson_r") < of(encoded, "model", "pearson_r")
    model, images = Knows(data), torch.rand(2, 3, 64, 64)
    everybody = torch.stack([model.predict(images, subject) for subject in model.subjects]).mean(0)
    torch.testing.assert_close(model.predict(images), everybody)
    torch.testing.assert_close(model.predict(images, "99"), everybody)


def test_shards_and_the_order_of_work_change_nothing(data: base.EEGDataset, encoded: Record) -> None:
    whole = Responses(make_plan(Knows(data), "things-small", device="cpu")).predicted("02")
    with pytest.raises(ShardsMissingError):
        zoo.evaluate(Knows(data, ("01",)), "things-small", shard=(1, 2), device="cpu")
    pixels = data.stimulus_pixels(data.stimulus_rows(data.split(), "test")[3:4])
    model = Knows(data)
    assert whole[3] == pytest.approx(model.predict(model.pixels(pixels), "02")[0].numpy(), abs=1e-6)


def test_only_the_window_of_the_track_counts(data: base.EEGDataset) -> None:
    plan = make_plan(Knows(data), "things-small", device="cpu")
    early = plan.track.model_copy(update={"window": (-0.2, -0.01)})
    late = plan.track.model_copy(update={"window": (0.1, 0.2)})
    assert Responses(replace(plan, track=early)).observed("01").shape == (30, 8, 17, 20)
    assert Responses(replace(plan, track=late)).observed("01").shape == (30, 8, 17, 11)
    nowhere = Responses(replace(plan, track=plan.track.model_copy(update={"window": (3.0, 4.0)})))
    with pytest.raises(
        UsageError, match=r"^encoding/things-small\.unseen-concept@0 compares \(3\.0, 4\.0\) s, but no "
    ):
        nowhere.observed("01")
    assert replace(plan, track=late).signatures["pearson_r"] == "pearson_r|ms:100-200|n:720|v1"
    assert "window" not in plan.track.model_dump(mode="json")  # older tracks keep their hash
    assert early.model_dump(mode="json")["window"] == [-0.2, -0.01]


def test_a_picture_is_found_by_its_eeg_and_by_nothing_else(data: base.EEGDataset) -> None:
    record = zoo.evaluate(Finds(data), "things-small", split="within-subject-01", device="cpu")
    assert record.identity.track == "retrieval/things-small.within-subject-01@0"
    mean, single = (of(record, "model", f"eeg_retrieval_10way{kind}") for kind in ("", "-single"))
    assert mean > single > 0.2
    assert mean > 0.6
    value = record.values["eeg_retrieval_10way"]
    assert (value.n, value.n_units, value.chance) == (30, 30, 0.1)
    assert record.values["eeg_retrieval_10way-single"].n == 240
    for control in ("shuffled-eeg", "gaussian-eeg", "random-codebook"):
        assert of(record, control, "eeg_retrieval_10way") < 0.25
    reason = record.values["retrieval200_top1"].reason
    assert reason == "the gallery must hold 200 pictures but holds 30; use a metric that names no size"


def test_queries_of_all_people_look_in_one_gallery(data: base.EEGDataset) -> None:
    record = zoo.evaluate(Finds(data), "things-small", device="cpu")
    value = record.values["eeg_retrieval_mrr"]
    assert (value.n, value.n_units) == (90, 3)
    assert of(record, "other-subject", "eeg_retrieval_10way") < 0.25  # their EEG is of another picture


def test_what_a_model_can_do_decides_its_track(data: base.EEGDataset) -> None:
    split = data.split()
    encoding, retrieval = find_track(data, split, "encoding"), find_track(data, split, "retrieval")
    assert {registry.metrics.get(name).sees for name in encoding.metrics} == {"responses"}
    assert {registry.metrics.get(name).sees for name in retrieval.metrics} == {"gallery"}
    assert (encoding.headline, retrieval.headline) == ("pearson_r", "eeg_retrieval_10way")


def test_over_repetitions_tenths_are_left_out_of_every_group_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2, 4, 9))
    parts = {
        name: scoring.Compared(signal, signal[:, None] + 2 * rng.standard_normal((2, n, 4, 9)), ("face", "house"))
        for name, n in (("a", 40), ("b", 53))
    }
    groups = {name: (lambda part=part: part) for name, part in parts.items()}
    side = scoring.ResponseSide({}, groups, "repetitions")
    value = scoring._compare(registry.metrics.get("evoked_r"), side, "signature").value
    assert value.value is not None
    assert value.interval is not None
    assert (value.n, value.n_units, value.interval_method) == (4, 10, "jackknife, 10 groups")
    assert np.mean(value.interval) == pytest.approx(value.value)
    assert value.interval[0] > 0
    few = scoring._compare(registry.metrics.get("pearson_r"), side, "signature").value
    assert (few.value, few.reason) == (None, "needs at least 3 images, got 2")


@pytest.mark.parametrize("task", ["encoding", "retrieval"])
def test_released_tracks_name_splits_and_metrics_that_exist(task: str) -> None:
    cards = [card for card in registry.tracks.cards() if card.task == task]
    assert len(cards) >= 28
    for card in cards:
        assert registry.datasets.get(card.dataset).split(card.split).id == card.split
        sees = {registry.metrics.get(name).sees for name in card.metrics}
        assert sees == {"responses" if task == "encoding" else "gallery"}
        assert card.headline in card.metrics
        assert card.id == f"{task}/{card.dataset}.{card.split.partition('@')[0]}@1"


def test_what_was_predicted_or_found_is_scored_again_from_an_upload(
    data: base.EEGDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("pearson_r", "eeg_retrieval_10way", "eeg_retrieval_10way-single")
    monkeypatch.setattr(scoring, "_absent", lambda card: None if card.id in kept else "left out: it takes long")
    for model in (Knows(data), Finds(data)):
        zoo.evaluate(model, "things-small", device="cpu")
        record = zoo.evaluate(model, "things-small", device="cpu", again=True)  # from scores on disk
        path = cache_dir("board") / "records" / record.name
        units = read_units(path.with_suffix(".units.parquet").read_bytes(), record, where="units")
        files = leaves.pack(record, samples=False, features=True)
        uploaded = upload.read(files, record=record.id, run=record.run)
        outcome = validate(record, units, uploaded, device="cpu")
        systems = {"model": record.values, **{name: system.values for name, system in record.controls.items()}}
        measured = {(s, m) for s, values in systems.items() for m, value in values.items() if value.value is not None}
        assert (outcome.wrong, {*outcome.same}, dict(outcome.left)) == ((), measured, {})
        assert max(outcome.same.values()) == 0
        assert {system for system, _ in measured} == {"model", *record.controls}

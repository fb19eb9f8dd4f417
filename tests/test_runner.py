"""The main job on generated EEG: what comes out, and that interruptions, batches and shards change nothing."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo import compute, images, registry, scoring, stages
from zoo.brains import brains
from zoo.datasets.base import load
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.models.base import EEGEncoder, LabelConditioned
from zoo.plan import CONTROLS, find_track, make_plan
from zoo.record import Record
from zoo.runner import audit
from zoo.specs import EEGSpec, MetricCard
from zoo.stages import ShardsMissingError

TINY = {"encoder_steps": 8, "gan_steps": 4, "encoder_batch_size": 32, "gan_batch_size": 16, "generator_width": 64}
ABSENT = scoring._absent
RUN = """
import os, signal, sys
import zoo, zoo.scoring, zoo.training
zoo.training.SAVE_SECONDS = 0.0
slow = lambda card: card.id == "finetuned_accuracy" or card.extractor not in (None, "pixels-16")
zoo.scoring._absent = lambda card: "left out: it takes long" if slow(card) else None
what, at = sys.argv[1], int(sys.argv[2])

def progress(done, total, doing):
    if doing.startswith(what) and done >= at:
        os.kill(os.getpid(), signal.SIGKILL)

zoo.train("eeg2image.small", "phantom", overrides={tiny!r}, device="cpu", progress=progress)
zoo.evaluate("eeg2image.small", "phantom", device="cpu", limit=120, replicates=1, progress=progress)
"""


def numbers(record: Record) -> dict[str, object]:
    """Every value of the model and its controls, with intervals."""
    controls = {name: system.model_dump() for name, system in record.controls.items()}
    return {"model": {name: value.model_dump() for name, value in record.values.items()}, **controls}


def run(cache: Path, what: str = "nothing", at: int = 0) -> int:
    """Train and evaluate in a process of its own, killed when ``what`` reaches ``at``."""
    script = RUN.replace("{tiny!r}", repr(TINY))
    environment = {**os.environ, "ZOO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", script, what, str(at)], env=environment, check=False).returncode


def only_record(cache: Path) -> Record:
    (path,) = (cache / "board" / "records").rglob("*.json")
    return Record.read(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a network must look at or is trained for; that is tested in tests/metrics."""

    def absent(card: MetricCard) -> str | None:
        slow = card.id == "finetuned_accuracy" or card.extractor not in (None, "pixels-16")
        return "left out: it takes long" if slow else None

    monkeypatch.setattr(scoring, "_absent", absent)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the tiny model was trained and evaluated in one go."""
    path = tmp_path_factory.mktemp("uninterrupted")
    assert run(path) == 0
    return path


def test_killed_in_training_and_in_generation_the_same_command_goes_on_to_the_same_values(
    uninterrupted: Path, tmp_path: Path
) -> None:
    assert run(tmp_path, "training gan", 2) == -signal.SIGKILL
    assert run(tmp_path, "generating (shuffled-eeg", 64) == -signal.SIGKILL
    assert list((tmp_path / "generations").rglob("*.npy")), "the kill came before anything was committed"
    assert not (tmp_path / "board").exists()
    assert run(tmp_path) == 0
    assert numbers(only_record(tmp_path)) == numbers(only_record(uninterrupted))
    assert only_record(tmp_path).id == only_record(uninterrupted).id


def test_batch_size_and_shards_move_no_bit(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(uninterrupted))
    expected = only_record(uninterrupted)
    options = {"device": "cpu", "limit": 120, "replicates": 1}
    torch.set_num_threads(1)
    for name, extra in (("one", {"batch_size": 1}), ("many", {"batch_size": 64})):
        fresh(uninterrupted)
        record = zoo.evaluate("eeg2image.small", "phantom", output_dir=tmp_path / name, **options, **extra)
        assert (record.id, numbers(record)) == (expected.id, numbers(expected))
    fresh(uninterrupted)
    for rank in (2, 0):
        with pytest.raises(ShardsMissingError):
            zoo.evaluate("eeg2image.small", "phantom", output_dir=tmp_path / "shards", shard=(rank, 3), **options)
    record = zoo.evaluate("eeg2image.small", "phantom", output_dir=tmp_path / "shards", shard=(1, 3), **options)
    assert (record.id, numbers(record)) == (expected.id, numbers(expected))


def fresh(cache: Path) -> None:
    """Forget every stage, keep data and weights."""
    import shutil

    for path in cache.iterdir():
        if path.name not in ("datasets", "weights", "training", "board"):
            shutil.rmtree(path)


def test_a_record_says_what_was_measured_and_an_unchanged_evaluation_does_no_work(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(uninterrupted))
    record = only_record(uninterrupted)
    assert record.status == "partial"  # --limit
    assert record.audit is not None
    assert record.audit.verdict == "clean"
    assert set(record.controls) == set(CONTROLS)
    assert record.values["fid"].value is None
    assert record.values["fid"].reason == "left out: it takes long"
    assert record.values["pixel_judge_accuracy"].n_units == 6
    oracle = record.controls["class-oracle"].values["pixel_judge_accuracy"].value
    assert oracle is not None
    assert oracle > 0.9  # real pictures of the right class
    assert record.provenance.trained_on == ("phantom",)
    path = next((uninterrupted / "board" / "records").rglob("*.json"))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    def refuse(*_: object) -> None:
        raise AssertionError("a stage was computed again")

    monkeypatch.setattr(stages.Stage, "fill", refuse)
    again = zoo.evaluate("eeg2image.small", "phantom", device="cpu", limit=120, replicates=1)
    assert again.run == record.run


def test_every_image_is_seen_once_whatever_the_metrics(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(uninterrupted))
    fresh(uninterrupted)
    seen: list[int] = []
    load_one = images._extractor

    def counting(name: str, device: str) -> object:
        def look(pictures: np.ndarray) -> object:
            seen.append(len(pictures))
            return load_one(name, device)(pictures)

        return look

    monkeypatch.setattr(images, "_extractor", counting)
    options = {"device": "cpu", "limit": 120, "replicates": 1, "again": True, "output_dir": tmp_path}
    record = zoo.evaluate("eeg2image.small", "phantom", **options)
    measured = [name for name, value in record.values.items() if value.value is not None]
    assert len([name for name in measured if registry.metrics.get(name).extractor == "pixels-16"]) > 1
    makers = 5  # the model and the four controls that give its generator something else; the others show real pictures
    data = load("phantom")
    real = sum(data.stimulus_rows(data.split(), role).size for role in ("train", "test"))
    assert sum(seen) == real + 120 * makers + 1  # and the mean picture
    seen.clear()
    zoo.evaluate("eeg2image.small", "phantom", **options)
    assert not seen


def test_a_changed_metric_computes_itself_alone_and_imports_no_torch(uninterrupted: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    zoo_cache = {**os.environ, "ZOO_CACHE": str(uninterrupted)}
    code = (
        "import sys, zoo.scoring\n"
        "slow = lambda card: card.id == 'finetuned_accuracy' or card.extractor not in (None, 'pixels-16')\n"
        "zoo.scoring._absent = lambda card: 'left out: it takes long' if slow(card) else None\n"
        "computed, compute = [], zoo.scoring._compute\n"
        "def counting(card, side, name):\n"
        "    computed.append(card.id)\n"
        "    return compute(card, side, name)\n"
        "zoo.scoring._compute = counting\n"
        f"options = {{'device': 'cpu', 'limit': 120, 'replicates': 1, 'output_dir': {str(board)!r}}}\n"
        "zoo.evaluate('eeg2image.small', 'phantom', **options)\n"
        "print('torch' in sys.modules, *sorted(set(computed)))\n"
    )
    for expected, changed in (("False", ()), ("False copy_rate-pixels-16", uninterrupted.glob("scores/*/copy_rate-*"))):
        for path in changed:
            path.unlink()
        for path in board.glob("records/**/*.json"):
            path.unlink()
        done = subprocess.run([sys.executable, "-c", code], env=zoo_cache, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected


def test_one_changed_pixel_is_another_picture(uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(uninterrupted))
    plan = make_plan("eeg2image.small", "phantom", device="cpu", limit=120, replicates=1)

    def pictures() -> stages.Stage:
        """What the extractor sees in the real pictures."""
        test, train = (np.ones((rows.size, 2), np.float32) for rows in (plan.test_rows, plan.train_rows))
        return images.Images(plan, {"model": lambda: test}, lambda: train)._real["pixels-16"]

    before = pictures()
    before.fill(plan.work)
    known = before.rows()[:]
    pixels = plan.data.stimulus_pixels

    def changed(rows: np.ndarray) -> list[np.ndarray]:
        found = [picture.copy() for picture in pixels(rows)]
        found[0][0, 0, 0] ^= 1
        return found

    table = plan.data.stimuli
    altered = table.sha256.copy()
    altered[0] = "0" * 64
    monkeypatch.setattr(plan.data, "stimulus_pixels", changed)
    monkeypatch.setitem(plan.data.__dict__, "stimuli", dataclasses.replace(table, sha256=altered))
    monkeypatch.delitem(plan.data.__dict__, "stimuli_sha256", raising=False)
    after = pictures()
    after.fill(plan.work)
    assert not np.array_equal(after.rows()[:], known)


def test_the_per_unit_values_average_to_the_value(uninterrupted: Path) -> None:
    import pyarrow.parquet as pq

    path = next((uninterrupted / "board" / "records").rglob("*.json"))
    table = pq.read_table(path.with_suffix(".units.parquet")).to_pylist()
    for metric in ("pixel_judge_accuracy", "logistic_accuracy", "kmeans_accuracy"):
        rows = [row["value"] for row in table if (row["system"], row["metric"]) == ("model", metric)]
        assert np.mean(rows) == pytest.approx(only_record(uninterrupted).values[metric].value)


class Means(EEGEncoder):
    """Channel means over time, from outside the registry."""

    def __init__(self, spec: EEGSpec) -> None:
        super().__init__(spec, None)
        self.scale = torch.nn.Parameter(torch.tensor(1e5))

    def parts(self) -> dict[str, torch.nn.Module]:
        return {}

    def encode(self, eeg: Tensor) -> Tensor:
        return eeg.mean(dim=2) * self.scale


def test_an_instance_from_outside_the_registry_is_evaluated() -> None:
    record = zoo.evaluate(Means(load("phantom").spec), "phantom", device="cpu", limit=120)
    assert record.identity.model == "local-means"
    assert record.values["judge_accuracy"].value is None
    assert record.values["judge_accuracy"].reason == "local-means makes no images"
    shuffled = record.controls["shuffled-eeg"].values["knn_accuracy"].value
    assert shuffled is not None
    assert abs(shuffled - 1 / 6) < 0.15


def test_an_instance_is_known_by_its_code_and_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preprocessing is no tensor: with other code the same tensors are another model."""
    source = """
import torch
from zoo.models.base import EEGEncoder

class Late(EEGEncoder):
    def parts(self):
        return {}

    def encode(self, eeg):
        return eeg[:, :, 40] * 1e5
"""
    found = []
    for number, text in enumerate((source, source, source.replace("40", "10"))):
        path = tmp_path / f"late{number}.py"
        path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        model = importlib.import_module(path.stem).Late(load("phantom").spec, None)
        found.append(make_plan(model, "phantom").info)
    assert {info.source for info in found} == {"given"}
    assert found[0].sha256 == found[1].sha256 != found[2].sha256


def test_the_documents_own_model_can_be_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
    block = text.split("## A model of your own")[1].split("```python\n")[1].split("```")[0]
    plans = []
    monkeypatch.setattr("zoo.evaluate", lambda model, dataset: plans.append(make_plan(model, dataset)))
    exec(block, {"__name__": "__main__"})  # noqa: S102 - our own document
    (plan,) = plans
    assert plan.track.id == "recognition/phantom.stimulus-out@1"
    assert plan.facts.n_parameters == (14 * 8 + 1) * 6
    rows, model = plan.test_rows, plan.model
    with torch.inference_mode():
        named = model.logits(model.encode(torch.as_tensor(plan.data.eeg[rows]))).argmax(1).numpy()
    assert (named == plan.data.labels[rows]).mean() > 0.8, "what it was trained on, it can tell"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"__init__": lambda self, spec: EEGEncoder.__init__(self, None, None)},
            "Mine.spec must be the EEGSpec of its recordings, but is NoneType; give super().__init__ that of a "
            "dataset: zoo.datasets.base.load(NAME).spec.",
        ),
        (
            {"__init__": lambda self, spec: EEGEncoder.__init__(self, spec, object())},
            "Mine.config must be None, a dict or a dataclass, but is object; it becomes part of the record.",
        ),
        (
            {"encode": lambda self, eeg: eeg.mean(dim=(1, 2))},
            "Mine.encode must return (n_trials, n_features), but of 2 it makes (2,).",
        ),
    ],
)
def test_an_instance_that_cannot_be_evaluated_is_refused_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    methods = {"__init__": lambda self, spec: EEGEncoder.__init__(self, spec, None), "parts": lambda self: {}}
    kind = type("Mine", (EEGEncoder,), {**methods, "encode": lambda self, eeg: eeg.mean(dim=2), **changes})
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_plan(kind(load("phantom").spec), "phantom")


class Blind(EEGEncoder):
    """Its features are no numbers."""

    def parts(self) -> dict[str, torch.nn.Module]:
        return {}

    def encode(self, eeg: Tensor) -> Tensor:
        return torch.full((len(eeg), 2), torch.nan)


@pytest.mark.parametrize(("metric", "read"), [("kmeans_accuracy", ["test"]), ("knn_accuracy", ["test", "train"])])
def test_the_training_role_is_encoded_only_for_metrics_that_read_it(
    monkeypatch: pytest.MonkeyPatch, metric: str, read: list[str]
) -> None:
    plan = make_plan(Blind(load("phantom").spec, None), "phantom", device="cpu")
    plan = dataclasses.replace(plan, track=plan.track.model_copy(update={"metrics": (metric,), "controls": ()}))
    encoded: list[int] = []

    def encode(model: EEGEncoder, eeg: Any, rows: np.ndarray, work: stages.Work) -> np.ndarray:
        encoded.extend(rows)
        return rows[:, None].astype(np.float32)

    monkeypatch.setattr(compute, "encode", encode)
    train, given, impossible = brains(plan)
    assert sorted(set(plan.roles[encoded])) == read
    np.testing.assert_array_equal(given["model"]()[:, 0], plan.test_rows)
    np.testing.assert_array_equal(train()[:, 0], plan.train_rows)
    assert len(encoded) == plan.test_rows.size + plan.train_rows.size
    assert not impossible


def test_a_headline_without_a_value_is_told() -> None:
    told: list[str] = []
    options = {"split": "subject-out", "limit": 40, "say": told.append}
    record = zoo.evaluate(Blind(load("phantom").spec, None), "phantom", device="cpu", **options)
    headline = record.values[record.headline]
    assert headline.value is None
    assert told == [f"{record.headline}, the headline of {record.identity.track}, has no value: {headline.reason}."]


class Shades(LabelConditioned):
    """One grey per class: nothing but the label decides the picture."""

    resolution = 8
    n_classes = 6

    def __init__(self, spec: EEGSpec) -> None:
        super().__init__(spec, None)
        self.seen: list[int] = []

    def parts(self) -> dict[str, torch.nn.Module]:
        return {}

    def encode_labels(self, labels: Tensor) -> Tensor:
        self.seen += labels.tolist()
        return labels[:, None].float()

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return rng.random(1, dtype=np.float32)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        shade = (features + 0.3 * noise) / self.n_classes
        return shade[:, :, None, None].expand(-1, 3, 8, 8)


def test_a_label_conditioned_model_gets_the_labels_and_its_controls_the_same() -> None:
    data = load("phantom")
    model = Shades(data.spec)
    plan = make_plan(model, "phantom", device="cpu", limit=120, replicates=2)
    record = zoo.evaluate(model, "phantom", device="cpu", limit=120, replicates=2)
    train, test = (data.labels[rows].tolist() for rows in (plan.train_rows, plan.test_rows))
    model.seen = model.seen[4:]  # two samples of noise for each plan
    assert model.seen == 2 * test + train  # the second time in place of Gaussian noise; for nearest-train
    assert record.provenance.conditioned_on == "label"
    for name in ("shuffled-eeg", "gaussian-eeg", "other-subject"):
        judged = record.controls[name].values["pixel_judge_accuracy"]
        wanted = record.values["pixel_judge_accuracy"]
        assert judged.replicates[:1] == wanted.replicates[:1]
        assert judged.value == wanted.value or name != "shuffled-eeg"
    for metric in ("kmeans_accuracy", "logistic_accuracy", "finetuned_accuracy"):
        assert record.values[metric].reason in ("local-shades is given labels, not EEG", "left out: it takes long")
    with pytest.raises(UsageError) as error:
        model.encode(torch.zeros(1, 14, 64))
    assert str(error.value) == "Shades is conditioned on labels and reads no EEG; call encode_labels."


def test_labels_that_a_model_does_not_know_are_refused() -> None:
    model = Shades(load("phantom").spec)
    model.n_classes = 5
    with pytest.raises(UsageError) as error:
        zoo.evaluate(model, "phantom", device="cpu", limit=120)
    assert str(error.value) == ("Shades knows 5 classes, but a trial has label 5; train it with n_classes=6 or more.")


@pytest.mark.parametrize(
    ("dataset", "split", "verdict"),
    [
        ("phantom", "stimulus-out", "clean"),
        ("phantom", "subject-out", "clean"),
        ("phantom-block", "block", "confounded"),
        ("phantom-block", "run-out", "clean"),
    ],
)
def test_the_audit_knows_the_answer_of_the_phantoms(dataset: str, split: str, verdict: str) -> None:
    data = load(dataset)
    assert audit(data, data.split(split)).verdict == verdict


def test_recordings_that_do_not_fit_name_both_sides() -> None:
    other = EEGSpec(ch_names=("Cz", "Pz"), sfreq=128.0, tmin=0.0, n_times=32)
    message = (
        "local-means needs 2 channels × 32 times at 128 Hz, but phantom offers 14 channels × 64 times at 128 Hz "
        "(14 channels against 2; 64 times against 32); choose a dataset that fits or train the model on phantom."
    )
    with pytest.raises(UsageError) as error:
        make_plan(Means(other), "phantom", device="cpu")
    assert str(error.value) == message


def test_without_weights_two_lines_say_what_to_do() -> None:
    with pytest.raises(MissingError) as error:
        zoo.evaluate("eeg2image.small", "phantom", device="cpu")
    assert str(error.value) == (
        "no weights of eeg2image.small for phantom, split stimulus-out@1, seed 0, are on this machine.\n"
        "to make them, run: zoo train eeg2image.small --dataset phantom --split stimulus-out@1 --seed 0"
    )
    with pytest.raises(MissingError, match=r"^mind-vis is announced but not in .*\nto install it, run: pip"):
        zoo.load("mind-vis")


def test_damaged_weights_are_refused(uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setenv("ZOO_CACHE", str(uninterrupted))
    (source,) = (uninterrupted / "weights" / "eeg2image.small").iterdir()
    copy = shutil.copytree(source, tmp_path / "weights")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        IntegrityError, match=r"model\.safetensors must have sha256 [0-9a-f]{16}… but has [0-9a-f]{16}…;"
    ):
        zoo.load("eeg2image.small", weights=copy)


def test_find_track_falls_back_to_an_unreleased_one() -> None:
    data = load("phantom")
    split = data.split("subject-out").model_copy(update={"id": "mine@0"})
    assert find_track(data, split).id == "reconstruction/phantom.mine@0"
    assert find_track(data, data.split("subject-out")).id == "reconstruction/phantom.subject-out@2"  # the newest
    assert find_track(data, data.split("subject-out"), "recognition").id == "recognition/phantom.subject-out@1"
    unreleased = find_track(data, split, "recognition")
    assert (unreleased.id, unreleased.headline) == ("recognition/phantom.mine@0", "classifier_accuracy")
    assert {registry.metrics.get(name).sees for name in unreleased.metrics} == {"eeg"}
    assert unreleased.controls == ("shuffled-eeg", "other-subject", "gaussian-eeg")


def test_tracks_of_recognition_name_splits_and_metrics_that_exist() -> None:
    cards = [card for card in registry.tracks.cards() if card.task == "recognition"]
    assert len(cards) >= 19
    for card in cards:
        assert registry.datasets.get(card.dataset).split(card.split).id == card.split
        assert {registry.metrics.get(name).sees for name in card.metrics} == {"eeg"}
        assert card.headline in card.metrics
        assert card.id == f"recognition/{card.dataset}.{card.split.partition('@')[0]}@1"


def test_metrics_without_their_weights_are_null_with_the_command_that_brings_them() -> None:
    assert ABSENT(registry.metrics.get("fid")) == (
        "weights-inception-2015-12-05-6726825d.pth is not on this machine. "
        "to fetch it, run: zoo weights pull inception-2015-12-05"
    )
    assert ABSENT(registry.metrics.get("judge_accuracy")) is None


def test_who_calls_it_is_told_where_the_record_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_absent", lambda card: None if card.id == "knn_accuracy" else "left out")
    options = {"device": "cpu", "limit": 24, "output_dir": tmp_path}
    first = zoo.evaluate(Means(load("phantom").spec), "phantom", **options)
    where = f"record {first.id[:12]}: {tmp_path / 'records' / first.name}"
    assert capsys.readouterr().err.splitlines()[-1] == where
    zoo.evaluate(Means(load("phantom").spec), "phantom", **options)
    assert capsys.readouterr().err == f"{where}\n"
    zoo.evaluate(Means(load("phantom").spec), "phantom", say=lambda sentence: None, **options)
    assert capsys.readouterr().err == ""

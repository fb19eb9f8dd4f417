"""Metrics computed again from an upload: all of them, exactly; and whoever forged one is told so."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import zoo
from leaderboard.board import FsBoard, open_board
from leaderboard.standing import standings
from leaderboard.submission import Submission, read_submission
from leaderboard.units import read_units
from tests.hub_standin import Hub
from tests.leaderboard.test_hubboard import s3  # noqa: F401 - a fixture
from zoo import leaves, scoring, stats, upload
from zoo.cli import app
from zoo.datasets.base import load
from zoo.errors import GateError, IntegrityError, MissingError, UsageError
from zoo.models.base import Classifier, Reconstructor
from zoo.record import Record, System, Value
from zoo.specs import EEGSpec, MetricCard
from zoo.store import cache_dir
from zoo.validation import Outcome, validate

SIDE = 32
LIMIT, REPLICATES = 48, 2
Edit = Callable[[dict[str, np.ndarray]], object]


class Painter(Reconstructor):
    """Pictures whose colours follow the EEG, from outside the registry."""

    resolution = SIDE

    def __init__(self, spec: EEGSpec) -> None:
        super().__init__(spec, None)
        look = torch.randn(spec.n_channels * spec.n_times, 8, generator=torch.Generator().manual_seed(0))
        self.look = nn.Parameter(look, requires_grad=False)

    def parts(self) -> dict[str, nn.Module]:
        return {}

    def encode(self, eeg: Tensor) -> Tensor:
        return (eeg * 1e5).flatten(1) @ self.look / 30

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal(3, dtype=np.float32)

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        colour = torch.sigmoid(features[:, :3] + 0.3 * noise)[:, :, None, None]
        return colour * torch.linspace(0, 1, SIDE)[:, None].expand(SIDE, SIDE)


class Names(Classifier):
    """A classifier from outside the registry."""

    n_classes = 6

    def __init__(self, spec: EEGSpec) -> None:
        super().__init__(spec, None)
        self.head = nn.Linear(spec.n_channels, 6)

    def parts(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def encode(self, eeg: Tensor) -> Tensor:
        return eeg.mean(dim=2) * 1e5

    def logits(self, features: Tensor) -> Tensor:
        return self.head(features)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Made:
    """An evaluation on disk."""

    cache: Path
    record: Record

    @property
    def path(self) -> Path:
        return self.cache / "board" / "records" / self.record.name

    @property
    def units(self) -> bytes:
        return self.path.with_suffix(".units.parquet").read_bytes()


KEPT = {
    *("pixel_judge_accuracy", "copy_rate-pixels-16", "knn_accuracy", "logistic_accuracy", "kmeans_accuracy"),
    *("kmeans_nmi", "classifier_accuracy"),
}
"""Few and quick: of one set, of trials, of all replicates at once, and each of images, features and logits."""


def absent(card: MetricCard) -> str | None:
    return None if card.id in KEPT else "left out: it takes long"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    path = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(path))
        patch.setattr(scoring, "_absent", absent)
        painter = Painter(load("phantom").spec)
        yield Made(path, zoo.evaluate(painter, "phantom", device="cpu", limit=LIMIT, replicates=REPLICATES))


@pytest.fixture(autouse=True)
def here(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(made.cache))
    monkeypatch.setattr(scoring, "_absent", absent)


def again(record: Record, units: bytes, files: dict[str, bytes]) -> Outcome:
    found = upload.read(files, record=record.id, run=record.run)
    return validate(record, read_units(units, record, where="units"), found, device="cpu")


def measured(record: Record) -> set[tuple[str, str]]:
    systems = {"model": record.values, **{name: system.values for name, system in record.controls.items()}}
    return {(system, name) for system, values in systems.items() for name, v in values.items() if v.value is not None}


def forged(files: dict[str, bytes], edit: Edit, **changes: Any) -> dict[str, bytes]:
    """The upload of somebody who changed arrays, with hashes that fit."""
    whole = upload.Manifest.model_validate_json(files[upload.MANIFEST])
    old = upload.Upload(whole, files, "")
    arrays = {array.name: old.rows(array.name, whole.keys[array.of]) for array in whole.arrays}
    edit(arrays)
    found: dict[str, bytes] = {}
    described = []
    for number, array in enumerate(array for array in whole.arrays if array.name in arrays):
        parts, data = upload.encode(array.name, arrays[array.name], number)
        found |= data
        described.append(array.model_copy(update={"files": tuple(parts)}))
    manifest = whole.model_copy(update={"arrays": tuple(described), **changes})
    return {**found, upload.MANIFEST: manifest.model_dump_json().encode()}


# ---- what agrees


def test_every_value_of_every_system_is_computed_again_to_the_last_bit(made: Made) -> None:
    outcome = again(made.record, made.units, leaves.pack(made.record, samples=True, features=True))
    assert outcome.wrong == ()
    assert ({*outcome.same}, dict(outcome.left)) == (measured(made.record), {})
    assert {*outcome.same.values()} == {0.0}
    assert {system for system, _ in outcome.same} == {"model", *made.record.controls}
    assert {"samples/model.r1", "samples/shuffled-eeg.r0", "eeg-features/train"} <= {*outcome.used}
    assert not [name for name in outcome.used if name.startswith("seen/")]


def test_samples_alone_give_what_looks_at_images_and_say_what_they_do_not_give(made: Made) -> None:
    outcome = again(made.record, made.units, leaves.pack(made.record, samples=True, features=False))
    cards = {name: zoo.registry.metrics.get(name) for _, name in measured(made.record)}  # type: ignore[attr-defined]
    of_images = {(system, name) for system, name in measured(made.record) if cards[name].sees == "images"}
    assert outcome.wrong == ()
    assert {*outcome.same} == {key for key in of_images if key[0] != "nearest-train"}
    assert outcome.left["model", "logistic_accuracy"] == "eeg-features/train was not uploaded"
    assert outcome.left["nearest-train", made.record.headline].startswith("eeg-features/")


def test_features_alone_hold_what_extractors_saw_where_that_is_no_larger_than_the_images(made: Made) -> None:
    files = leaves.pack(made.record, samples=False, features=True)
    outcome = again(made.record, made.units, files)
    assert (outcome.wrong, dict(outcome.left)) == ((), {})
    assert not [name for name in files if name.endswith(".webp")]
    assert "seen/pixels-16/model.r0" in outcome.used


def test_a_classifiers_logits_are_dealt_anew_for_the_controls(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    torch.manual_seed(0)
    record = zoo.evaluate(Names(load("phantom").spec), "phantom", device="cpu", limit=60)
    units = (cache_dir("board") / "records" / record.name).with_suffix(".units.parquet").read_bytes()
    files = leaves.pack(record, samples=False, features=True)
    outcome = again(record, units, files)
    assert (outcome.wrong, {*outcome.same}) == ((), measured(record))
    assert record.headline == "classifier_accuracy"
    assert ("shuffled-eeg", "classifier_accuracy") in outcome.same
    assert [name for name in outcome.used if name.startswith("logits/")] == ["logits/gaussian-eeg", "logits/model"]
    with pytest.raises(UsageError, match=f"^{record.id[:12]} has no samples to upload; leave the option out.$"):
        leaves.pack(record, samples=True, features=False)


# ---- what does not


def test_other_images_than_those_that_were_scored_are_found_out(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=True)

    def invert(arrays: dict[str, np.ndarray]) -> None:
        arrays["samples/model.r0"] = 255 - arrays["samples/model.r0"]

    outcome = again(made.record, made.units, forged(files, invert))
    found = {sentence.split(" of ")[0] for sentence in outcome.wrong if " of model " in sentence}
    assert made.record.headline in found
    assert not [sentence for sentence in outcome.wrong if " of shuffled-eeg " in sentence]
    assert ("shuffled-eeg", made.record.headline) in outcome.same


def test_nothing_that_was_uploaded_is_ever_taken_for_something_made_here(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=True)
    again(made.record, made.units, forged(files, lambda arrays: [a.fill(7) for a in arrays.values()]))
    painter = Painter(load("phantom").spec)
    options = {"device": "cpu", "limit": LIMIT, "replicates": REPLICATES}
    once_more = zoo.evaluate(painter, "phantom", again=True, output_dir=made.cache / "other", **options)
    assert (once_more.values, once_more.controls) == (made.record.values, made.record.controls)


def tampered(made: Made, metric: str, system: str = "model") -> Submission:
    """A record whose values per trial of one metric are better than measured, all aggregates made to fit."""
    table = pq.read_table(io.BytesIO(made.units)).to_pydict()
    rows = [
        i for i, (s, m) in enumerate(zip(table["system"], table["metric"], strict=True)) if (s, m) == (system, metric)
    ]
    for row in rows[::4]:
        table["value"][row] = 1.0
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    values, units = (np.array([table[name][row] for row in rows]) for name in ("value", "unit"))
    old = made.record.values[metric] if system == "model" else made.record.controls[system].values[metric]
    span = stats.cluster_interval(values, units)
    assert span is not None
    new: dict[str, Any] = {"value": float(values.mean()), "interval": (max(0.0, span.low), min(1.0, span.high))}
    new["replicates"] = (float(values.mean()),) * len(old.replicates)
    if old.p_chance is not None:
        assert old.chance is not None
        test = stats.p_against_chance(values, units, old.chance, higher_is_better=bool(old.higher_is_better))
        assert test is not None
        new["p_chance"] = test.p
    value = old.model_copy(update=new)
    data = sink.getvalue()
    update: dict[str, Any] = {"units_sha256": hashlib.sha256(data).hexdigest()}
    if system == "model":
        update["values"] = {**made.record.values, metric: value}
    else:
        controls = made.record.controls
        update["controls"] = {**controls, system: System(values={**controls[system].values, metric: value})}
    return Submission(made.record.model_copy(update=update), data)


def rebound(files: dict[str, bytes], record: Record) -> dict[str, bytes]:
    """The same upload, beside another record."""
    return forged(files, lambda arrays: None, run=record.run)


def test_a_forger_whose_values_fit_together_is_found_out(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=True)
    metric = made.record.headline
    false = tampered(made, metric)
    assert false.units is not None
    (sentence,) = again(false.record, false.units, rebound(files, false.record)).wrong
    said, came = false.record.values[metric].value, made.record.values[metric].value
    assert sentence.startswith(f"{metric} of model says {said:.6g}, but comes out as {came:.6g}: ")
    assert f" of {LIMIT} values per trial differ, most that of " in sentence


def test_an_aggregate_without_values_per_trial_and_a_hidden_control_are_found_out(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=True)
    (name,) = [n for n, v in made.record.values.items() if v.value is not None and n.startswith("kid_")][:1] or ["none"]
    lone = name if name != "none" else "kmeans_nmi"
    old = made.record.values[lone]
    assert old.value is not None
    values = {**made.record.values, lone: old.model_copy(update={"value": old.value * 1.01 + 0.001})}
    shuffled = made.record.controls["shuffled-eeg"].values
    headline = made.record.headline
    hidden = {**shuffled, headline: Value(value=None, reason="it was late", higher_is_better=True)}
    controls = {**made.record.controls, "shuffled-eeg": System(values=hidden)}
    false = made.record.model_copy(update={"values": values, "controls": controls})
    wrong = again(false, made.units, rebound(files, false)).wrong
    right = shuffled[headline].value
    assert f"{headline} of shuffled-eeg is null (it was late), but comes out as {right:.6g}." in wrong
    assert [s for s in wrong if s.startswith(f"{lone} of model says {old.value * 1.01 + 0.001:.6g}, but comes out as")]
    assert len(wrong) == 2


def test_without_its_headline_nothing_is_validated(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=False)

    def without_model(arrays: dict[str, np.ndarray]) -> None:
        for name in ("samples/model.r0", "samples/model.r1"):
            del arrays[name]

    sentence = (
        f"^{made.record.headline}, the headline of {made.record.id[:12]}, could not be computed again: "
        "samples/model.r0 was not uploaded; without it nothing is validated.$"
    )
    with pytest.raises(GateError, match=sentence):
        again(made.record, made.units, forged(files, without_model))


def test_an_upload_of_other_trials_or_of_another_form_is_refused(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=True)
    whole = upload.Manifest.model_validate_json(files[upload.MANIFEST])
    of = next(array.of for array in whole.arrays if array.name == "samples/model.r0")
    other = {**whole.keys, of: ("nobody", *whole.keys[of][1:])}
    missing = whole.keys[of][0]
    with pytest.raises(IntegrityError, match=f"must have a row for each of {LIMIT} ids, but lacks '{missing}'"):
        again(made.record, made.units, forged(files, lambda arrays: None, keys=other))
    with pytest.raises(IntegrityError, match="^the upload is of "):
        again(tampered(made, made.record.headline).record, made.units, files)


def test_other_recordings_and_another_track_are_refused(made: Made) -> None:
    files = leaves.pack(made.record, samples=True, features=True)
    of = made.record.identity
    for update, sentence in (
        ({"eeg_sha256": "1" * 64}, "^the recordings of phantom must be those of "),
        ({"split_sha256": "1" * 64}, "^the split stimulus-out@1 of phantom must be those of "),
        ({"track_sha256": "1" * 64}, "^the track of .* is not that of this release"),
    ):
        record = made.record.model_copy(update={"identity": of.model_copy(update=update)})
        moved = forged(files, lambda arrays: None, run=record.run, record=record.id)
        with pytest.raises(MissingError, match=sentence):
            again(record, made.units, moved)


def test_what_was_never_kept_or_is_gone_cannot_be_packed(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made.record
    command = f"to make it, run: zoo eval {record.identity.model} --dataset {record.identity.track} --again"
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    with pytest.raises(MissingError) as caught:
        leaves.pack(record, samples=True, features=False)
    first = f"what the metrics of {record.id[:12]} were computed from is not in this machine's cache."
    assert str(caught.value) == f"{first}\n{command}"
    shutil.copytree(made.cache / "leaves", tmp_path / "leaves", dirs_exist_ok=True)
    with pytest.raises(
        MissingError, match=f"^samples/gaussian-eeg.r0 of {record.id[:12]} is not in this machine's cache"
    ):
        leaves.pack(record, samples=True, features=False)
    monkeypatch.setenv("ZOO_CACHE", str(made.cache))
    monkeypatch.setattr(leaves, "BYTES", 1000)
    with pytest.raises(UsageError, match="^the upload of .* but 1000 is the most; send --samples or --features alone"):
        leaves.pack(record, samples=True, features=True)


# ---- by command


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def done(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, (result.stdout, result.stderr)
    return result.stdout


ANYHOW = ("--allow-partial", "--allow-dirty")


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_pushed_with_its_samples_a_record_is_validated_on_the_board(
    kind: str, made: Made, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "board").mkdir()
    url = str(tmp_path / "board") if kind == "folder" else request.getfixturevalue("s3")
    short = made.record.id[:12]
    would = done("push", made.path, "--board", url, "--samples", "--features", "--dry-run", *ANYHOW)
    files = leaves.pack(made.record, samples=True, features=True)
    assert would.endswith(f"; of these {len(files)}, {sum(map(len, files.values()))} bytes, to score it again)\n")
    assert not [*FsBoard(url).records()]
    done("push", made.path, "--board", url, *ANYHOW)
    refused = call("leaderboard", "validate", short, "--board", url)
    assert (refused.exit_code, refused.stderr) == (
        3,
        f"error: {short} has no upload that its metrics could be computed again from; push it with --samples or "
        "--features.\n",
    )
    done("push", made.path, "--board", url, "--samples", "--features", *ANYHOW)
    dry = done("leaderboard", "validate", made.path, "--board", url, "-q")
    n = len(measured(made.record))
    said = f"{n} of {n} values were computed again and agree to the last bit"
    assert dry == f"{short}: {said}; not noted: name who says so with --by\n"
    noted = done("leaderboard", "validate", "new", "--board", url, "--by", "a machine", "-q")
    assert noted.startswith(f"{short}: {said}; notes/{short}-{made.record.run[:8]}/validated-")
    board = open_board(url)
    (note,) = board.notes()
    assert board.problems == []
    assert (note.by, note.kind, note.reason) == ("a machine", "validated", f"{said}.")
    assert note.evidence is not None
    assert (note.evidence.n, note.evidence.largest, note.evidence.left) == (n, 0.0, ())
    assert note.evidence.upload_sha256 == hashlib.sha256(files[upload.MANIFEST]).hexdigest()
    assert standings(board.records(), board.notes())[made.record.run].level == "validated"
    nothing = call("leaderboard", "validate", "new", "--board", url, "--by", "a machine", "-q")
    assert (nothing.exit_code, nothing.stderr) == (
        0,
        "nothing new: every record with an upload is validated, or retracted\n",
    )
    assert done("leaderboard", "verify", made.path, *ANYHOW) == f"{made.path}: good\n"


def test_a_tampered_record_with_the_samples_of_the_true_one_exits_with_4(made: Made, tmp_path: Path) -> None:
    false = tampered(made, made.record.headline)
    files = rebound(leaves.pack(made.record, samples=True, features=True), false.record)
    whole = Submission(false.record, false.units, {f".upload/{name}": data for name, data in files.items()})
    FsBoard(tmp_path).submit([whole])
    path = tmp_path / whole.path
    assert read_submission(path).upload == files
    assert done("leaderboard", "verify", path, *ANYHOW) == f"{path}: good\n", "its numbers fit together"
    caught = call("leaderboard", "validate", path, "--board", tmp_path, "--by", "a machine", "-q")
    short = false.record.id[:12]
    assert caught.exit_code == 4
    assert caught.stdout.startswith(f"{short}: {made.record.headline} of model says ")
    assert caught.stderr == (
        f"error: 1 number of {short} is not what the upload gives, as listed (zoo {zoo.__version__}; the record was "
        f"made by {zoo.__version__}).\n"
    )
    assert FsBoard(tmp_path).notes() == []
    several = call("leaderboard", "validate", "new", path, "--board", tmp_path, "--by", "a machine", "-q")
    assert (several.exit_code, several.stderr.splitlines()[-1]) == (
        4,
        "error: 2 of 2 records are not validated, as listed.",
    )


def test_on_the_hub_an_upload_comes_by_pull_request_and_is_validated_after_the_merge(made: Made, hub: Hub) -> None:
    hub.create("org/results", "dataset")
    board = "hub:org/results"
    done("push", made.path, "--board", board, "--samples", *ANYHOW)
    files = hub.repo("org/results", "dataset")
    assert done("leaderboard", "verify", "open", "--board", board, "--merge", *ANYHOW) == "1: good\n"
    assert files.pulls[0].status == "merged"
    noted = done("leaderboard", "validate", "new", "--board", board, "--by", "keeper", "-q")
    stem = f"{made.record.id[:12]}-{made.record.run[:8]}"
    assert f"; notes/{stem}/validated-" in noted
    kept = open_board(board)
    known = standings(kept.records(), kept.notes())[made.record.run]
    assert (known.level, known.by) == ("validated", ("keeper",))


def test_a_link_in_the_place_of_an_upload_is_refused(made: Made, tmp_path: Path) -> None:
    stem = tmp_path / made.record.name
    stem.parent.mkdir(parents=True)
    stem.write_bytes(made.path.read_bytes())
    stem.with_suffix(".upload").symlink_to("/etc")
    with pytest.raises(
        UsageError, match="must be a folder, but is a link; put the files themselves beside the record.$"
    ):
        read_submission(stem)
    stem.with_suffix(".upload").unlink()
    stem.with_suffix(".upload").mkdir()
    (stem.with_suffix(".upload") / upload.MANIFEST).symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="must be a file, but is a link; put the file itself there.$"):
        read_submission(stem)

"""data.pkl as Python 2 wrote it becomes windows in released order and roles; whatever else it holds is refused."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import registry, scoring
from zoo.audits.leakage import audit_split
from zoo.datasets import base
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.specs import MetricCard

CARD = registry.datasets.get("thoughtviz-object")
OBJECT = "thoughtviz-object"
WHOLE = "how many windows were published is not known, so this copy is taken as whole."
NO_PICTURES = "no pictures: give a folder with one folder per class as --images to train or score images."


def write_python2(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A dict of float64 arrays as Python 2 and its numpy write it in protocol 2: names and contents are ``str``."""

    def text(value: bytes) -> bytes:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value

    def integer(value: int) -> bytes:
        return pickle.BININT + struct.pack("<i", value)

    def whole(array: np.ndarray) -> bytes:
        raw = np.ascontiguousarray(array, "<f8").tobytes()
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        dtype = b"cnumpy\ndtype\n" + text(b"f8") + b"K\x00K\x01\x87R(K\x03" + text(b"<")
        dtype += b"NNN" + integer(-1) + integer(-1) + b"K\x00tb"
        shape = b"(" + b"".join(map(integer, array.shape)) + b"t"
        return (
            empty + b"(K\x01" + shape + dtype + b"\x89" + pickle.BINSTRING + struct.pack("<i", len(raw)) + raw + b"tb"
        )

    content = b"".join(text(name.encode()) + whole(array) for name, array in arrays.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x80\x02}(" + content + b"u.")


def windows(n_train: int = 30, n_test: int = 10) -> dict[str, np.ndarray]:
    """Windows of every class in turn; a window's first sample says on which side and in which row it is."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for role, n in (("train", n_train), ("test", n_test)):
        x = 4228 + rng.normal(0, 100, (n, 14, 32, 1))
        x[:, 0, 0, 0] = 1000 * (role == "test") + np.arange(n)
        arrays |= {f"x_{role}": x, f"y_{role}": np.eye(10)[np.arange(n) % 10]}
    return arrays


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_python2(tmp_path / "data/eeg/image/data.pkl", windows())
    return tmp_path / "data/eeg/image/data.pkl"


def test_windows_keep_their_order_their_role_and_their_level(source: Path) -> None:
    base.prepare(OBJECT, source=source)
    dataset = base.load(OBJECT)
    assert dataset.spec == CARD.eeg
    assert dataset.spec.unit == "a.u."
    expected = [*(f"train-{k:05d}" for k in range(30)), *(f"test-{k:05d}" for k in range(10))]
    assert dataset.trials["trial_id"].tolist() == expected
    arrays = windows()
    stored = np.concatenate([arrays["x_train"], arrays["x_test"]])[..., 0].astype(np.float32)
    np.testing.assert_array_equal(dataset.eeg, stored)
    assert dataset.eeg[32, 0, 0] == 1002
    assert dataset.labels.tolist() == [*range(10)] * 4
    assert dataset.report == (WHOLE, NO_PICTURES)


def test_what_is_not_stored_is_unknown(source: Path) -> None:
    base.prepare(OBJECT, source=source)
    trials = base.load(OBJECT).trials
    assert "order" not in trials
    for column in ("subject", "session", "run", "block", "recording", "stimulus_id"):
        assert trials[column].tolist() == [None] * 40
    assert base.check(OBJECT) == []


def test_the_released_split_is_kept_and_a_tenth_of_training_validates(source: Path) -> None:
    arrays = windows(300, 40)
    write_python2(source, arrays)
    base.prepare(OBJECT, source=source)
    dataset = base.load(OBJECT)
    assert dataset.split_ids == ["released@1"]
    split = dataset.split()
    assert split.protocol == "random-window"
    roles = dict(zip(dataset.trials["trial_id"].tolist(), dataset.roles(split).tolist(), strict=True))
    assert {trial for trial, role in roles.items() if role == "test"} == {f"test-{k:05d}" for k in range(40)}
    val = [trial for trial, role in roles.items() if role == "val"]
    assert len(val) == 30
    assert all(trial.startswith("train-") for trial in val)
    assert len(set(dataset.trials["concept"][np.isin(dataset.trials["trial_id"], val)])) == 10


@pytest.mark.parametrize("place", ["", "data", "data/eeg", "data/eeg/image", "data/eeg/image/data.pkl"])
def test_the_source_may_be_any_folder_above(source: Path, tmp_path: Path, place: str) -> None:
    base.prepare(OBJECT, source=tmp_path / place)
    assert len(base.load(OBJECT)) == 40


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("keys", [str, str.encode])
def test_keys_as_text_or_bytes_give_the_same_trials(
    source: Path, protocol: int, keys: Callable[[str], str | bytes]
) -> None:
    base.prepare(OBJECT, source=source)
    first = base.load(OBJECT)
    source.write_bytes(pickle.dumps({keys(name): array for name, array in windows().items()}, protocol=protocol))
    base.prepare(OBJECT, source=source)
    again = base.load(OBJECT)
    assert (again.fingerprint, again.eeg_sha256) == (first.fingerprint, first.eeg_sha256)
    assert again.source != first.source


def test_a_prepared_folder_is_the_same_every_time(source: Path, cache: Path) -> None:
    folder = cache / "datasets" / OBJECT
    made = []
    for _ in range(2):
        base.prepare(OBJECT, source=source)
        made.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert made[0] == made[1]


@pytest.mark.parametrize(("n_train", "complete", "split"), [(300, True, "released@1"), (290, False, "released@0")])
def test_a_known_number_of_windows_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_train: int, complete: bool, split: str
) -> None:
    card = registry.datasets.get("thoughtviz-character")
    assert card.options["n_train"] == 45083
    small = card.model_copy(update={"id": "small", "options": {**card.options, "n_train": 300}})
    monkeypatch.setitem(registry.datasets._added, "small", small)
    write_python2(tmp_path / "char/data.pkl", windows(n_train, 20))
    base.prepare("small", source=tmp_path)
    dataset = base.load("small")
    assert (dataset.complete, dataset.split_ids) == (complete, [split])
    partial = ("290 windows train, 300 were published, so this copy is not as published.",)
    assert dataset.report == (() if complete else partial)


def test_another_task_is_refused_and_an_unnamed_one_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        base.prepare("thoughtviz-digit", source=source)
    assert str(caught.value) == (
        "--source of thoughtviz-digit must be data.pkl of the folder digit, but this one lies in image, which is "
        "another task; choose eeg/digit/data.pkl."
    )
    path = source.rename(tmp_path / "data.pkl")
    base.prepare("thoughtviz-digit", source=path)
    dataset = base.load("thoughtviz-digit")
    assert dataset.report == ("data.pkl does not say of which task it is; it was taken for digit.", WHOLE)
    assert dataset.stimuli_source == "built-in renderer: 40 glyphs per class, DejaVu fonts"
    assert np.bincount(dataset.stimuli.labels).tolist() == [40] * 10


def test_objects_take_pictures_by_class(source: Path, tmp_path: Path) -> None:
    for number, concept in enumerate(CARD.concepts):
        (tmp_path / "images" / concept).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (8, 8), (number, k, 0)).save(tmp_path / "images" / concept / f"{k}.png")
    base.prepare(OBJECT, source=source, images=tmp_path / "images")
    dataset = base.load(OBJECT)
    assert dataset.stimuli_source == "pictures given with --images"
    assert np.bincount(dataset.stimuli.labels).tolist() == [4] * 10
    assert len(dataset.stimulus_rows(dataset.split(), "test")) == 10


def change(**arrays: Any) -> Any:
    return {**windows(), **arrays}


def labels(row: list[float]) -> np.ndarray:
    y = np.eye(10)[np.arange(10)]
    y[3] = row
    return y


NAMES = "must hold a dict with x_train, y_train, x_test, y_test, but it"
DAMAGED = [
    ([1, 2], f"{{path}} {NAMES} is a list; get data.pkl again."),
    ({"x_train": 1, "y_train": 2, "x_test": 3}, f"{{path}} {NAMES} lacks y_test; get data.pkl again."),
    (
        change(x_test=np.zeros((10, 32, 14, 1))),
        "x_test of {path} must be numbers of shape (n, 14, 32, 1), but is float64 of shape (10, 32, 14, 1); "
        "get data.pkl again.",
    ),
    (
        change(x_train=[1.0]),
        "x_train of {path} must be numbers of shape (n, 14, 32, 1), but is a list; get data.pkl again.",
    ),
    (
        change(y_test=np.arange(10)),
        "y_test of {path} must be numbers of shape (n, 10), but is int64 of shape (10,); get data.pkl again.",
    ),
    (
        change(y_test=np.eye(10)[:9]),
        "x_test and y_test of {path} must have one row per window, but have 10 and 9; get data.pkl again.",
    ),
    *(
        (
            change(y_test=labels(row)),
            "y_test of {path} must be one-hot, a 1 among zeros in every row, but row 3 is not; get data.pkl again.",
        )
        for row in ([0.0] * 10, [1.0, 1.0] + [0.0] * 8, [0.5, 0.5] + [0.0] * 8, [2.0] + [0.0] * 9, [np.nan] * 10)
    ),
    (
        change(y_train=np.eye(10)[np.arange(30) % 9], y_test=np.eye(10)[np.arange(10) % 9]),
        "every concept of thoughtviz-object needs trials, but there are none of Watch; add recordings.",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), DAMAGED)
def test_what_is_not_the_release_is_one_sentence(source: Path, cache: Path, content: Any, sentence: str) -> None:
    source.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UsageError) as caught:
        base.prepare(OBJECT, source=source)
    assert str(caught.value) == sentence.format(path=source)
    assert not (cache / "datasets" / OBJECT).exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_named(source: Path, value: float) -> None:
    arrays = windows()
    arrays["x_test"][7, 3, 5] = value
    write_python2(source, arrays)
    with pytest.raises(UsageError) as caught:
        base.prepare(OBJECT, source=source)
    assert str(caught.value) == (
        "EEG must be finite, but trial test-00007 holds NaN or infinity; repair or remove its recording."
    )


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(source: Path, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    source.write_bytes(b"cos\nsystem\n(S'touch " + str(flag).encode() + b"'\ntR.")
    with pytest.raises(IntegrityError, match=r"must hold only .*, but names os\.system; nothing in it was run"):
        base.prepare(OBJECT, source=source)
    assert not flag.exists()


def test_a_file_cut_off_is_refused_and_an_older_copy_stays(source: Path) -> None:
    base.prepare(OBJECT, source=source)
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"data\.pkl must be a pickle, but it cannot be read"):
        base.prepare(OBJECT, source=source)
    assert len(base.load(OBJECT)) == 40


def test_a_source_must_be_given_and_hold_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^thoughtviz-object is not prepared on this machine\.\nto make it, run: "):
        base.prepare(OBJECT)
    with pytest.raises(UsageError) as caught:
        base.prepare(OBJECT, source=tmp_path)
    assert str(caught.value) == (
        "--source of thoughtviz-object must be data.pkl or the folder that holds eeg/image/data.pkl, but "
        f"{tmp_path} is neither."
    )


def test_the_released_split_is_suspect_and_windows_tell_their_recording(source: Path) -> None:
    """Every class has recordings of its own with an offset of their own, parted window by window, as in the release."""
    rng = np.random.default_rng(1)
    arrays = windows(600, 100)
    for role in ("train", "test"):
        concept = arrays[f"y_{role}"].argmax(axis=1)
        recording = concept * 3 + rng.integers(0, 3, len(concept))
        offset = np.random.default_rng(2).normal(0, 300, (30, 14))
        arrays[f"x_{role}"] = (4228 + offset[recording][:, :, None] + rng.normal(0, 10, (len(concept), 14, 32)))[
            ..., None
        ]
    write_python2(source, arrays)
    base.prepare(OBJECT, source=source)
    dataset = base.load(OBJECT)
    split = dataset.split()
    found = audit_split(
        eeg=dataset.eeg,
        spec=dataset.spec,
        labels=dataset.labels,
        trials=dataset.trials,
        roles=dataset.roles(split),
        protocol=split.protocol,
    )
    assert found.verdict == "suspect"
    assert not [finding for finding in found.findings if finding.decides]
    assert {finding.name: finding.accuracy for finding in found.findings}["means"] > 0.95
    assert found.sentences[-1] == (
        "the split parts windows at random, and the trials do not say their recording: both roles may share it"
    )


@pytest.mark.slow
def test_windows_of_nobody_in_particular_are_trained_on_and_scored(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(card: MetricCard) -> str | None:
        slow = card.id == "finetuned_accuracy" or card.extractor is not None
        return "left out: it takes long" if slow else None

    monkeypatch.setattr(scoring, "_absent", absent)
    write_python2(source, windows(200, 40))
    base.prepare("thoughtviz-digit", source=source.rename(source.parents[1] / "data.pkl"))
    zoo.train("eeg2image.small", "thoughtviz-digit", overrides={"encoder_steps": 2, "gan_steps": 1}, device="cpu")
    record = zoo.evaluate("eeg2image.small", "thoughtviz-digit", device="cpu", replicates=1, limit=20)
    assert record.identity.track == "reconstruction/thoughtviz-digit.released@1"
    assert record.audit is not None
    assert record.audit.verdict == "suspect"
    assert record.values["logistic_accuracy"].n == 20
    other = record.controls["other-subject"].values["logistic_accuracy"]
    assert other.reason == "other-subject needs the subject of every test trial, but it is not known"

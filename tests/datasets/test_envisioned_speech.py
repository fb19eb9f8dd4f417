"""Recordings are recognised by their signal, names stay out, and both sources give the same trials."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo import registry
from zoo.datasets import base, envisioned_speech, pictures
from zoo.errors import MissingError, UsageError

CARD = registry.datasets.get("envisioned-speech-object")


@pytest.fixture(scope="session")
def packed(shared: Path) -> Path:
    path = shared / "data" / "no_explicit_licence" / "envisioned_speech_eeg.npz"
    return path if path.exists() else pytest.skip("needs the packed envisioned-speech array in ../shared")


@pytest.fixture(scope="session")
def sample(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 of the 690 recordings as EDF, three people."""
    archive = shared / "data" / "no_explicit_licence" / "envisioned_speech_edf_sample.tar.xz"
    if not archive.exists():
        pytest.skip("needs the EDF sample in ../shared")
    folder = tmp_path_factory.mktemp("edf")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "Envisioned_Speech_Recognition"


@pytest.fixture
def copy(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "copy"))


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A packed array of three people and two objects that the manifest knows, with every sample a known number."""
    rng = np.random.default_rng(0)
    lengths = np.array([32, 39, 40, 48, 100, 33])
    signal = rng.integers(7000, 9000, (14, lengths.sum()), dtype=np.uint16)
    start = np.cumsum(lengths) - lengths
    marks: dict[str, list[str]] = {"Apple": [], "Car": []}
    for i, (s, n) in enumerate(zip(start, lengths, strict=True)):
        marks[("Apple", "Car")[i // 3]].append(hashlib.sha256(signal[:, s : s + n].tobytes()).hexdigest()[:12])
    monkeypatch.setattr(envisioned_speech, "_manifest", lambda task: marks)
    arrays: dict[str, Any] = {"signal": signal, "start": start, "length": lengths, "task": np.full(6, 2, np.uint8)}
    arrays |= {"label": np.repeat([0, 1], 3), "task_names": np.array(["digit", "char", "image"])}
    np.savez(tmp_path / "packed.npz", **arrays)
    monkeypatch.setitem(
        registry.datasets._added, "two", CARD.model_copy(update={"id": "two", "concepts": ("Apple", "Car")})
    )
    return tmp_path / "packed.npz"


def test_windows_are_whole_and_start_every_eighth_sample(synthetic: Path) -> None:
    base.prepare("two", source=synthetic)
    dataset = base.load("two")
    counts = dict(zip(*np.unique(dataset.trials["recording"], return_counts=True), strict=True))
    assert counts == {"s00-Apple": 1, "s01-Apple": 1, "s02-Apple": 2, "s00-Car": 3, "s01-Car": 9, "s02-Car": 1}
    signal = np.load(synthetic)["signal"]
    row = dataset.trials["trial_id"].tolist().index("s01-Car-0005")
    begin = 32 + 39 + 40 + 48 + 5 * 8
    expected = signal[:, begin : begin + 32] * (20 / 39 * 1e-6)  # the headers map 31200 steps to 16 mV
    np.testing.assert_allclose(dataset.eeg[row], expected, rtol=1e-7)
    assert dataset.trials["order"][row] == 5
    assert dataset.complete
    assert dataset.trials["subject"][row] == "01"


def test_a_number_changed_by_one_is_noticed(synthetic: Path) -> None:
    arrays = dict(np.load(synthetic))
    arrays["signal"][3, 50] += 1
    np.savez(synthetic, **arrays)
    with pytest.raises(UsageError) as caught:
        base.prepare("two", source=synthetic)
    assert str(caught.value) == (
        "recording 1 of packed.npz (Apple) is no recording of two as published "
        "(truncated, edited or of another corpus); get it again."
    )


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip file")
    with pytest.raises(
        UsageError, match=r"^a\.npz must be the packed array of envisioned-speech-object, but it cannot"
    ):
        base.prepare(CARD.id, source=tmp_path / "a.npz")


def test_a_source_must_be_given_and_be_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as missing:
        base.prepare(CARD.id)
    assert str(missing.value) == (
        "envisioned-speech-object is not prepared on this machine.\n"
        f"to make it, run: zoo data prepare envisioned-speech-object --source PATH   ({CARD.get})"
    )
    with pytest.raises(UsageError) as caught:
        base.prepare(CARD.id, source=tmp_path)
    assert str(caught.value) == (
        "--source of envisioned-speech-object must be envisioned_speech_eeg.npz or the folder that holds "
        f"Image/<name>_<Class>.edf, but {tmp_path} is neither."
    )


def test_the_manifest_knows_690_recordings_by_content_only() -> None:
    marks = [m for t in envisioned_speech.FOLDERS for ms in envisioned_speech._manifest(t).values() for m in ms]
    assert len(marks) == len(set(marks)) == 690
    assert all(len(mark) == 12 and set(mark) <= set("0123456789abcdef") for mark in marks)
    for task in envisioned_speech.FOLDERS:
        card = registry.datasets.get(f"envisioned-speech-{task}")
        assert tuple(envisioned_speech._manifest(task)) == card.concepts
        assert {len(marks) for marks in envisioned_speech._manifest(task).values()} == {23}


@pytest.mark.parametrize("task", ["object", "character", "digit"])
def test_released_splits_hold_out_the_same_people_for_every_task(task: str) -> None:
    card = registry.datasets.get(f"envisioned-speech-{task}")
    data = (base.RELEASED / card.id / "subject-out@1.json").read_bytes()
    split = base.parse_split(data, "subject-out@1", card.split("subject-out").sha256)
    assert (len(split.roles["val"]), len(split.roles["test"])) == (3, 5)
    people = {f"{i:02d}" for i in range(23)}
    assert {*split.roles["val"], *split.roles["test"]} < people
    first = base.parse_split((base.RELEASED / CARD.id / "subject-out@1.json").read_bytes(), "subject-out@1", None)
    assert split.roles == first.roles


def test_a_complete_copy_is_described_by_its_card(packed: Path) -> None:
    base.prepare(CARD.id, source=packed)
    dataset = base.load(CARD.id)
    assert len(dataset) == CARD.n_trials == 44990
    assert dataset.complete
    assert dataset.split_ids == ["random-window@1", "subject-out@1"]
    assert dataset.stimuli_source == "none"
    assert base.check(CARD.id) == []
    assert dataset.eeg[:, :, 0].mean() == pytest.approx(4.2e-3, rel=0.05)  # the DC offset stays in
    roles = dataset.roles(dataset.split("random-window"))
    assert (roles == "test").mean() == pytest.approx(1 / 9, abs=0.002)
    for role in ("train", "val", "test"):
        assert set(dataset.trials["recording"][roles == role]) == set(dataset.trials["recording"])
    strangers = dataset.roles(dataset.split(None))
    subjects = [set(dataset.trials["subject"][strangers == role]) for role in ("train", "val", "test")]
    assert [len(part) for part in subjects] == [15, 3, 5]


def test_edf_and_packed_array_give_the_same_trials(sample: Path, packed: Path) -> None:
    base.prepare(CARD.id, source=packed)
    whole = base.load(CARD.id)
    eeg, ids = np.array(whole.eeg), whole.trials["trial_id"]
    base.prepare(CARD.id, source=sample)
    part = base.load(CARD.id)
    assert len(np.unique(part.trials["recording"])) == 30
    rows = np.flatnonzero(np.isin(ids, part.trials["trial_id"]))
    assert ids[rows].tolist() == part.trials["trial_id"].tolist()
    np.testing.assert_array_equal(part.eeg, eeg[rows])


def test_a_partial_copy_says_so_and_has_splits_of_its_own(sample: Path) -> None:
    base.prepare(CARD.id, source=sample)
    dataset = base.load(CARD.id)
    assert not dataset.complete
    assert dataset.report[0] == "30 of 230 recordings are here, so this copy is partial."
    assert dataset.split("subject-out").id == "subject-out@0"
    roles = dataset.roles(dataset.split("subject-out"))
    assert [len(set(dataset.trials["subject"][roles == r])) for r in ("train", "val", "test")] == [1, 1, 1]


def test_names_of_people_are_not_kept(copy: Path, cache: Path) -> None:
    for path in (copy / "Image").iterdir():
        path.rename(path.with_name(path.name.replace("s01_", "Zaphod_").replace("s02_", "trillian_")))
    base.prepare(CARD.id, source=copy)
    for path in (cache / "datasets").rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            assert b"zaphod" not in content
            assert b"trillian" not in content


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def edit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[256 * 40 + 2 * 128 * 2 + 1] ^= 1  # header, then two channels that are no EEG: a sample of AF3
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (damage, "must be a whole EDF recording, but it is truncated or damaged; get it again."),
        (empty, "must be a whole EDF recording, but it is truncated or damaged; get it again."),
        (
            edit,
            "is no recording of envisioned-speech-object as published (truncated, edited or of another corpus); "
            "get it again.",
        ),
    ],
)
def test_a_harmed_file_is_one_sentence_without_a_name(copy: Path, cache: Path, harm: Any, sentence: str) -> None:
    harm(copy / "Image" / "s02_Dog.edf")
    with pytest.raises(UsageError) as caught:
        base.prepare(CARD.id, source=copy)
    assert str(caught.value) == f"Image/…_Dog.edf, file 2 of 3 by name, {sentence}"
    assert not (cache / "datasets" / CARD.id).exists()


def test_files_that_are_not_what_they_are_called_are_refused(copy: Path) -> None:
    folder = copy / "Image"
    shutil.copy(folder / "s02_Dog.edf", folder / "s04_Dog.edf")
    with pytest.raises(UsageError) as caught:
        base.prepare(CARD.id, source=copy)
    assert str(caught.value) == (
        "Image/…_Dog.edf, file 4 of 4 by name, holds the signal of another file of Dog; remove one of the two."
    )
    (folder / "s04_Dog.edf").rename(folder / "s04_Car.edf")
    with pytest.raises(UsageError) as caught:
        base.prepare(CARD.id, source=copy)
    assert str(caught.value) == (
        "Image/…_Car.edf, file 4 of 4 by name, is called Car, but its signal is the one of Dog; rename it."
    )
    (folder / "s04_Car.edf").rename(folder / "s04_Cart.edf")
    with pytest.raises(
        UsageError, match=r"^files of Image must end in _<Class>\.edf with one of Apple, Car, .*, but file 3"
    ):
        base.prepare(CARD.id, source=copy)


def test_an_empty_class_is_named(copy: Path) -> None:
    for path in (copy / "Image").glob("*_Gold.edf"):
        path.unlink()
    with pytest.raises(UsageError) as caught:
        base.prepare(CARD.id, source=copy)
    assert str(caught.value) == (
        "every concept of envisioned-speech-object needs trials, but there are none of Gold; add recordings."
    )


def paint(folder: Path, name: str, n: int) -> None:
    (folder / name).mkdir(parents=True)
    for k in range(n):
        Image.new("RGB", (8, 8), (k, len(name), 0)).save(folder / name / f"{k}.png")


def test_pictures_are_read_by_class_and_parted_by_content(tmp_path: Path) -> None:
    paint(tmp_path, "apple", 8)
    paint(tmp_path, "Gold", 3)
    shutil.copy(tmp_path / "Gold" / "0.png", tmp_path / "Gold" / "again.png")
    (tmp_path / "Gold" / "LICENSE.txt").write_text("free")
    found, report = pictures.read_pictures(tmp_path, {"Apple": "Apple", "Gold": "Gold"})
    assert report == ("1 files in Gold are no pictures and were skipped.",)
    roles = [(s.concept, s.role) for s in found]
    assert [roles.count(pair) for pair in (("Apple", "train"), ("Apple", "test"))] == [6, 2]
    assert [roles.count(pair) for pair in (("Gold", "train"), ("Gold", "test"))] == [2, 1]
    for path in (tmp_path / "apple").iterdir():
        path.rename(path.with_stem("x" + path.stem))
    assert pictures.read_pictures(tmp_path, {"Apple": "Apple", "Gold": "Gold"})[0] == found


def test_pictures_that_do_not_do_are_refused(tmp_path: Path) -> None:
    paint(tmp_path, "Apple", 4)
    with pytest.raises(UsageError) as caught:
        pictures.read_pictures(tmp_path, {"Apple": "Apple", "Gold": "Gold"})
    assert str(caught.value) == f"every concept needs pictures, but {tmp_path} has no folder 'Gold'; add it."
    paint(tmp_path, "Gold", 1)
    with pytest.raises(UsageError) as caught:
        pictures.read_pictures(tmp_path, {"Apple": "Apple", "Gold": "Gold"})
    assert str(caught.value) == (
        "every concept needs two different pictures or more (one trains, one tests), but Gold has 1; add some."
    )
    shutil.copy(tmp_path / "Apple" / "0.png", tmp_path / "Gold" / "1.png")
    with pytest.raises(UsageError) as caught:
        pictures.read_pictures(tmp_path, {"Apple": "Apple", "Gold": "Gold"})
    assert str(caught.value) == (
        f"a picture must show one concept, but 1 in {tmp_path} lie in two folders; remove one copy."
    )
    (tmp_path / "Gold" / "1.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(
        UsageError, match=r"1\.png must be a picture, but it cannot be read \(.*\); replace or remove it\.$"
    ):
        pictures.read_pictures(tmp_path, {"Apple": "Apple", "Gold": "Gold"})


def test_glyphs_are_drawn_alike_everywhere_and_tell_the_character() -> None:
    drawn = pictures.draw_glyphs(("A", "T", "7"), n=40, seed=0)
    assert drawn == pictures.draw_glyphs(("A", "T", "7"), n=40, seed=0)
    assert drawn != pictures.draw_glyphs(("A", "T", "7"), n=40, seed=1)
    pixels = np.array([base.decode(s.image) for s in drawn]).astype(float)
    assert pixels.shape == (120, 64, 64, 3)
    assert [s.role for s in drawn[:40]] == ["train"] * 30 + ["test"] * 10
    assert 0.05 < (pixels > 128).mean() < 0.4
    assert pixels[:, 0].max() == pixels[:, :, 0].max() == 0  # nothing is cut off at the top or the left
    flat = pixels.reshape(3, 40, -1)
    distance = np.linalg.norm(flat[:, 30:, None] - flat[:, :30].mean(axis=1), axis=-1)
    assert (distance.argmin(axis=-1) == np.arange(3)[:, None]).mean() > 0.9


def test_digits_are_drawn_unless_pictures_are_given(sample: Path) -> None:
    base.prepare("envisioned-speech-digit", source=sample)
    dataset = base.load("envisioned-speech-digit")
    assert dataset.stimuli_source == "built-in renderer: 40 glyphs per class, DejaVu fonts"
    assert np.bincount(dataset.stimuli.labels).tolist() == [40] * 10
    split = dataset.split(None)
    assert len(dataset.stimulus_rows(split, "train")) == 300
    assert len(dataset.stimulus_rows(split, "test")) == 100

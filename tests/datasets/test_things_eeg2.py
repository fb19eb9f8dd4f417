"""THINGS-EEG2: every row finds its picture, whoever is missing is said, and nobody's pickle is run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo import registry, store
from zoo.audits.leakage import audit_split
from zoo.datasets import base, recipes, things_eeg2
from zoo.errors import IntegrityError, MissingError, UsageError

CARD = registry.datasets.get("things-eeg2")
WIDE = registry.datasets.get("things-eeg2-63x250")
METADATA = {
    "train_img_concepts": [
        f"0000{i}_{name}" for i, name in enumerate(("ant", "bat1", "cup", "yo-yo"), 1) for _ in "ab"
    ],
    "train_img_files": [f"{name}_0{i}s.jpg" for name in ("ant", "bat1", "cup", "yo-yo") for i in (1, 2)],
    "test_img_concepts": ["00001_dog", "00002_ice-cream_cone"],
    "test_img_files": ["dog_05b.jpg", "ice-cream_cone_01s.jpg"],
}


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def write_eeg(folder: Path, subject: int, **changes: Any) -> None:
    """Both files of one person as Gifford et al. save them; ``changes`` replace entries of the training file."""
    assert CARD.eeg is not None
    times = -0.2 + np.arange(100) / 100
    (folder / f"sub-{subject:02d}").mkdir(parents=True)
    for long, shape in (("training", (8, 4, 17, 100)), ("test", (2, 80, 17, 100))):
        held = {
            "preprocessed_eeg_data": noise(10 * subject + len(shape) + (long == "test"), shape),
            "ch_names": list(CARD.eeg.ch_names),
            "times": times,
        }
        if long == "training":
            held |= changes
        held = {name: value for name, value in held.items() if value is not None}
        np.save(folder / f"sub-{subject:02d}/preprocessed_eeg_{long}.npy", held)  # type: ignore[arg-type]


def write_pictures(folder: Path) -> None:
    for half, long in things_eeg2.PARTS.items():
        for concept, name in zip(METADATA[f"{half}_img_concepts"], METADATA[f"{half}_img_files"], strict=True):
            path = folder / f"{long}_images" / concept / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (len(name), 0, 0)).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three people, four training concepts of two pictures and two test concepts, in the authors' tree."""
    for subject in (1, 2, 3):
        write_eeg(tmp_path / "osf/preprocessed_data", subject)
    (tmp_path / "osf/image_set").mkdir()
    np.save(tmp_path / "osf/image_set/image_metadata.npy", METADATA)  # type: ignore[arg-type]
    return tmp_path / "osf"


def test_every_trial_is_the_repetition_its_id_says(source: Path) -> None:
    base.prepare("things-eeg2", source=source)
    data = base.load("things-eeg2")
    assert data.spec == CARD.eeg
    assert len(data) == 3 * (8 * 4 + 2 * 80)
    assert not data.complete
    assert data.report == (
        "3 of 10 people are here, with other than the published pictures, so this copy is partial.",
        *(
            f"split {kind}-subject-{k:02d} is left out: it tests subject {k:02d}, whom this copy does not have."
            for kind in ("within", "cross")
            for k in range(4, 11)
        ),
        "no pictures: give the authors' image_set as --images to train or score images.",
    )
    trials = data.trials
    row = trials["trial_id"].tolist().index("02-tr00003-1")
    said = {name: values[row] for name, values in trials.items()}
    assert said["stimulus_id"] == "bat1_01s"
    assert said["concept"] == "bat1"
    assert (said["session"], said["run"], said["recording"]) == (None, None, None)
    assert "order" not in trials
    for subject in (1, 2, 3):
        train, test = noise(10 * subject + 4, (8, 4, 17, 100)), noise(10 * subject + 5, (2, 80, 17, 100))
        wanted = np.concatenate([train.reshape(-1, 17, 100), test.reshape(-1, 17, 100)]).astype(np.float32)
        np.testing.assert_array_equal(data.eeg[trials["subject"] == f"0{subject}"], wanted)
    assert data.eeg[row, 0, 0] == np.float32(noise(24, (8, 4, 17, 100))[2, 1, 0, 0])
    assert sorted(data.source) == sorted(
        ["image_metadata.npy"]
        + [f"sub-0{k}/preprocessed_eeg_{half}.npy" for k in (1, 2, 3) for half in ("training", "test")]
    )
    path = source / "preprocessed_data/sub-02/preprocessed_eeg_test.npy"
    assert data.source["sub-02/preprocessed_eeg_test.npy"] == store.file_sha256(path)
    differs = base.check("things-eeg2")  # only that the released splits are for all ten
    more = len(CARD.splits) - 1
    assert [line.partition(":")[0] for line in differs] == [f"official@1 and {more} more were cut from other trials"]


def test_splits_keep_test_concepts_unseen(source: Path) -> None:
    base.prepare("things-eeg2", source=source)
    data = base.load("things-eeg2")
    trials, of_test = data.trials, np.isin(data.trials["concept"], ["dog", "ice-cream_cone"])
    official = data.roles(data.split(None))
    assert data.split(None).id == "official@0"
    assert ((official == "test") == of_test).all()
    assert len(set(trials["concept"][official == "val"])) == 1
    assert (official == "val").sum() == 3 * 2 * 4
    for split_id, people in (("within-subject-02@0", ["02"]), ("cross-subject-02@0", ["01", "03"])):
        roles = data.roles(data.split(split_id))
        assert ((roles == "test") == (of_test & (trials["subject"] == "02"))).all()
        for role in ("train", "val"):
            assert ((roles == role) == ((official == role) & np.isin(trials["subject"], people))).all()


def test_the_audit_is_not_misled_by_the_column_block(source: Path) -> None:
    base.prepare("things-eeg2", source=source)
    data = base.load("things-eeg2")
    for split_id in ("official", "within-subject-01", "cross-subject-01"):
        split = data.split(split_id)
        report = audit_split(
            eeg=data.eeg,
            spec=data.spec,
            labels=data.labels,
            trials=data.trials,
            roles=data.roles(split),
            protocol=split.protocol,
        )
        assert "block_lookup" not in [found.name for found in report.findings]
        assert report.verdict in ("clean", "unknown")
        shared = {row.unit: row.shared for row in report.overlaps}
        assert (shared["concept"], shared["stimulus_id"], shared["block"]) == (0, 0, 0)
        assert shared["subject"] == {"official": 3, "within-subject-01": 1, "cross-subject-01": 0}[split_id]


def test_pictures_are_found_beside_the_recordings(source: Path) -> None:
    write_pictures(source / "image_set")
    base.prepare("things-eeg2", source=source / "preprocessed_data")
    data = base.load("things-eeg2")
    assert data.stimuli_source == "THINGS pictures of the experiment"
    assert len(data.stimuli) == 10
    shown = data.stimuli.ids[data.stimulus_of_trial]
    assert (shown == data.trials["stimulus_id"]).all()
    split = data.split("official")
    assert data.stimuli.ids[data.stimulus_rows(split, "test")].tolist() == ["dog_05b", "ice-cream_cone_01s"]
    assert len(data.stimulus_rows(split, "train")) == 6
    gone = source / "image_set/training_images/00003_cup/cup_02s.jpg"
    gone.write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"cup_02s\.jpg must be a picture, but it cannot be read \(.*\); replace or remo"
    ):
        base.prepare("things-eeg2", source=source)
    gone.unlink()
    with pytest.raises(UsageError) as caught:
        base.prepare("things-eeg2", source=source)
    assert str(caught.value) == (
        "--images must be the authors' image_set with training_images/ and test_images/ in it, but "
        f"{source / 'image_set'} has no training_images/00003_cup/cup_02s.jpg; unpack it whole."
    )
    assert len(base.load("things-eeg2").stimuli) == 10  # what was prepared before stays


def test_the_form_of_nice_is_a_pickle_and_lists_dropped_times(tmp_path: Path) -> None:
    assert WIDE.eeg is not None
    folder = tmp_path / "sub-07"
    folder.mkdir()
    wanted: list[np.ndarray] = []
    for long, shape in (("training", (8, 4, 63, 250)), ("test", (2, 80, 63, 250))):
        eeg = noise(len(wanted), shape).astype(np.float32)
        wanted.append(eeg.reshape(-1, 63, 250))
        held = {
            "preprocessed_eeg_data": eeg,
            "ch_names": list(WIDE.eeg.ch_names),
            "times": np.round(np.arange(-50, 250) / 250, 3),
        }
        with (folder / f"preprocessed_eeg_{long}.npy").open("wb") as file:
            pickle.dump(held, file, protocol=4)
    np.save(tmp_path / "image_metadata.npy", {name: np.array(values) for name, values in METADATA.items()})  # type: ignore[arg-type]
    base.prepare("things-eeg2-63x250", source=tmp_path)
    data = base.load("things-eeg2-63x250")
    assert (data.spec.n_channels, data.spec.n_times, data.spec.sfreq, data.spec.tmin) == (63, 250, 250, 0)
    np.testing.assert_array_equal(data.eeg, np.concatenate(wanted))
    assert data.report[2] == ("split within-subject-02 is left out: it tests subject 02, whom this copy does not have.")
    assert "split cross-subject-07 is left out: it trains on other people, but there are none." in data.report
    assert data.split_ids == ["official@0", "within-subject-07@0"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["preprocessed_data/sub-02/preprocessed_eeg_test.npy", "image_set/image_metadata.npy"])
def test_a_file_that_holds_code_is_refused_and_not_run(source: Path, tmp_path: Path, name: str) -> None:
    np.save(source / name, {"preprocessed_eeg_data": Evil(tmp_path / "ran")})  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=r"must hold only .* nothing in it was run"):
        base.prepare("things-eeg2", source=source)
    assert not (tmp_path / "ran").exists()


CHANNELS = list(CARD.eeg.ch_names) if CARD.eeg else []
ORDER = f"the channels {', '.join(CHANNELS)} in this order"
SHAPE = "floats of shape (8, 4, 17, 100) (pictures of the metadata, repetitions, channels, times)"
TIMES = "100 times from -0.2 to 0.79 s"


@pytest.mark.parametrize(
    ("changes", "must", "but"),
    [
        ({"times": None}, "a dict with preprocessed_eeg_data, ch_names, times", "it has no times"),
        ({"ch_names": ["P3", "Pz", *CHANNELS[2:]]}, ORDER, "'P3' stands where Pz belongs"),
        ({"ch_names": CHANNELS[:-1]}, ORDER, "it has 16"),
        ({"ch_names": [[1.0]] * 17}, ORDER, "ch_names is no list of names"),
        ({"ch_names": "Pz"}, ORDER, "ch_names is no list of names"),
        ({"times": np.arange(100) / 100}, TIMES, "its times are others"),
        ({"times": np.arange(99) / 100}, TIMES, "its times are others"),
        ({"times": ["early", "late"]}, TIMES, "its times are others"),
        ({"preprocessed_eeg_data": np.zeros((7, 4, 17, 100))}, SHAPE, "has float64 (7, 4, 17, 100)"),
        ({"preprocessed_eeg_data": np.zeros((8, 4, 17, 100), int)}, SHAPE, "has int64 (8, 4, 17, 100)"),
        ({"preprocessed_eeg_data": [1, 2]}, SHAPE, "has no array"),
    ],
)
def test_recordings_that_are_not_what_the_card_says_are_one_sentence(
    source: Path, changes: dict[str, Any], must: str, but: str
) -> None:
    write_eeg(source / "preprocessed_data", 4, **changes)
    with pytest.raises(UsageError) as caught:
        base.prepare("things-eeg2", source=source)
    path = source / "preprocessed_data/sub-04/preprocessed_eeg_training.npy"
    assert str(caught.value) == f"{path} must hold {must}, but {but}; get the file again."
    with pytest.raises(MissingError):
        base.load("things-eeg2")


@pytest.mark.parametrize("value", [np.nan, 1e39])
def test_a_value_that_is_not_finite_is_named_by_its_trial(source: Path, value: float) -> None:
    eeg = noise(0, (8, 4, 17, 100))
    eeg[5, 2, 16, 99] = value
    write_eeg(source / "preprocessed_data", 4, preprocessed_eeg_data=eeg)
    with pytest.raises(UsageError) as caught:
        base.prepare("things-eeg2", source=source)
    assert str(caught.value) == (
        "EEG must be finite, but trial 04-tr00006-2 holds NaN or infinity; repair or remove its recording."
    )


def test_a_person_with_one_file_is_refused(source: Path) -> None:
    path = source / "preprocessed_data/sub-03/preprocessed_eeg_test.npy"
    path.unlink()
    with pytest.raises(UsageError) as caught:
        base.prepare("things-eeg2", source=source)
    assert str(caught.value) == (
        f"everybody in --source needs a training and a test file, but {path} is not there; get it or remove the other "
        "one."
    )


def test_two_forms_in_one_folder_are_not_mixed(source: Path) -> None:
    write_eeg(source / "preprocessed_data_250Hz", 1)
    with pytest.raises(UsageError) as caught:
        base.prepare("things-eeg2", source=source)
    assert str(caught.value) == (
        "--source of things-eeg2 must be one folder with sub-01/preprocessed_eeg_training.npy and the like in it, or "
        f"the one above, but {source} has several such folders."
    )
    with pytest.raises(UsageError, match=r"but .*image_set has none\.$"):
        base.prepare("things-eeg2", source=source / "image_set")


def test_recordings_without_metadata_are_refused(source: Path) -> None:
    (source / "image_set/image_metadata.npy").unlink()
    with pytest.raises(UsageError) as caught:
        base.prepare("things-eeg2", source=source)
    assert str(caught.value) == (
        "things-eeg2 needs image_metadata.npy, which says which picture a row shows, but it is neither in "
        f"{source} nor in an image_set folder in or beside it; get it from the authors' image_set."
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"test_img_files": None}, "test_img_files is no list of names"),
        ({"test_img_files": [1, 2]}, "test_img_files is no list of names"),
        ({"test_img_files": []}, "test_img_files is no list of names"),
        ({"test_img_files": ["dog_05b.jpg"]}, "test_img_concepts has 2 entries and test_img_files 1"),
        (
            {"test_img_files": ["../dog_05b.jpg", "ice-cream_cone_01s.jpg"]},
            "'00001_dog/../dog_05b.jpg' is not of the form 00001_concept/picture.jpg",
        ),
        (
            {"test_img_concepts": ["00002_dog", "00001_ice-cream_cone"]},
            "its test pictures are not in the order of their names, which rows of EEG follow",
        ),
        ({"test_img_files": ["cup_01s.jpg", "ice-cream_cone_01s.jpg"]}, "a picture stands in it twice"),
        ({"test_img_concepts": ["00001_cup", "00002_ice-cream_cone"]}, "cup is a concept of training and of test"),
    ],
)
def test_metadata_that_rows_cannot_belong_to_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        things_eeg2.read_pictures(METADATA | changes, Path("image_metadata.npy"))
    assert str(caught.value) == (
        f"image_metadata.npy must hold the image metadata of THINGS-EEG2, but {what}; get it again."
    )


@pytest.fixture
def pictures(shared: Path) -> tuple[things_eeg2.Picture, ...]:
    path = shared / "data/no_explicit_licence/things_eeg2_image_metadata.npz"
    if not path.exists():
        pytest.skip("needs the THINGS-EEG2 image lists in ../shared")
    with np.load(path, allow_pickle=False) as lists:
        return things_eeg2.read_pictures(dict(lists), path)


def test_the_published_pictures_are_those_of_the_card(pictures: tuple[things_eeg2.Picture, ...]) -> None:
    count = {part: sum(p.part == part for p in pictures) for part in ("train", "val", "test")}
    assert count == {"train": 15_800, "val": 740, "test": 200}
    concepts = {part: {p.concept for p in pictures if p.part == part} for part in count}
    assert {part: len(names) for part, names in concepts.items()} == {"train": 1580, "val": 74, "test": 200}
    assert len(set.union(*concepts.values())) == 1854
    assert pictures[0] == ("aardvark_01b", "aardvark", "train", 1, "training_images/00001_aardvark/aardvark_01b.jpg")
    assert pictures[-1].path == "test_images/00200_wok/wok_12s.jpg"
    assert [p.row for p in pictures] == [*range(1, 16_541), *range(1, 201)]
    assert store.digest(pictures) == CARD.options["pictures"] == WIDE.options["pictures"]


@pytest.mark.slow
@pytest.mark.parametrize("card", [CARD, WIDE], ids=lambda card: card.id)
def test_released_splits_are_cut_from_the_published_pictures(
    card: Any, pictures: tuple[things_eeg2.Picture, ...]
) -> None:
    trials = things_eeg2.table(things_eeg2.SUBJECTS, pictures)
    assert len(trials["trial_id"]) == card.n_trials == 821_600
    assert np.unique(trials["trial_id"]).size == 821_600
    cut, refused = recipes.cut(card, trials, things_eeg2.SPLITS)
    assert refused == ()
    assert [split.id.partition("@")[0] for split in cut] == [about.id.partition("@")[0] for about in card.splits]
    for split, about in zip(cut, card.splits, strict=True):
        released = (base.RELEASED / card.id / f"{about.id}.json").read_bytes()
        assert base.split_bytes(split.model_copy(update={"id": about.id})) == released

"""EEGCVPR40 in its authors' formats: the kept samples bit for bit, splits that hold what they promise, whole messages.

The file of the fixture is as the authors': a dict of dataset, labels and images, saved by torch, segments of unequal
length. Sample 20 of every segment tells which record it is.
"""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from zoo import registry
from zoo.audits.leakage import audit_split
from zoo.datasets import base
from zoo.errors import IntegrityError, MissingError, UsageError

CARD = registry.datasets.get("eegcvpr40")
LABELS = CARD.concepts
PICTURES = 3
"""Pictures per class, of which a person sees one; person 6 sees one twice, person 1 another one in a short segment."""
SHORT, ODD, LONG = 459, 460, 601
Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_ACCEPT_LICENSE", "all")


def content() -> dict[str, Any]:
    """Six people × 40 classes; record ``i`` holds noise of its own and ``i`` in sample 20 of every channel."""
    rng = np.random.default_rng(0)
    images = [f"{label}_{10 * picture + 1}" for picture in range(PICTURES) for label in LABELS]
    seen = [(subject, label, subject % PICTURES) for subject in range(6) for label in range(len(LABELS))]
    seen += [(5, 39, 2), (0, 0, 1)]
    records = []
    for row, index in enumerate(rng.permutation(len(seen)).tolist()):
        subject, label, picture = seen[index]
        eeg = rng.standard_normal((128, {241: SHORT, 100: ODD, 7: LONG}.get(index, 490 + row % 21)), dtype=np.float32)
        eeg[:, 20] = row
        image = len(LABELS) * picture + label
        records.append({"eeg": torch.from_numpy(eeg), "image": image, "label": label, "subject": subject + 1})
    return {"dataset": records, "labels": list(LABELS), "images": images}


def of_length(made: dict[str, Any], length: int) -> int:
    (row,) = (row for row, record in enumerate(made["dataset"]) if record["eeg"].shape[1] == length)
    return row


def split_by_picture(made: dict[str, Any]) -> dict[str, Any]:
    """The authors' splits file: roles by picture; only the first of its entries counts."""
    roles: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, record in enumerate(made["dataset"]):
        roles[("train", "val", "test")[record["image"] // len(LABELS)]].append(row)
    return {"splits": [roles, {"train": [], "val": [], "test": []}]}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return content()


@pytest.fixture(scope="module")
def folder(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' folder with one band and the splits."""
    path = tmp_path_factory.mktemp("authors")
    torch.save(made, path / "eeg_5_95_std.pth")
    torch.save(split_by_picture(made), path / "block_splits_by_image_all.pth")
    return path


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(made: dict[str, Any], name: str = "eeg_5_95_std.pth", **options: Any) -> Path:
        torch.save(made, tmp_path / name, **options)
        return tmp_path / name

    return write


def prepared(name: str, source: Path, images: Path | None = None) -> base.EEGDataset:
    base.prepare(name, source=source, images=images)
    assert base.check(name) == []
    return base.load(name)


def refused(name: str, source: Path, images: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        base.prepare(name, source=source, images=images)
    return str(caught.value)


def expected(made: dict[str, Any]) -> np.ndarray:
    return np.stack([r["eeg"].numpy()[:, 20:460] for r in made["dataset"] if r["eeg"].shape[1] >= ODD])


def test_samples_20_to_459_of_every_segment_are_kept_bit_for_bit(folder: Path, made: dict[str, Any]) -> None:
    dataset = prepared("eegcvpr40", folder)
    kept = [row for row in range(242) if row != of_length(made, SHORT)]
    assert dataset.spec == CARD.eeg
    assert (dataset.spec.n_channels, dataset.spec.n_times, dataset.spec.sfreq) == (128, 440, 1000)
    assert (dataset.spec.tmin, dataset.spec.unit) == (0.02, "a.u.")
    assert dataset.eeg[:, 0, 0].tolist() == kept
    np.testing.assert_array_equal(dataset.eeg, expected(made))
    for row, record in zip(kept, (made["dataset"][row] for row in kept), strict=True):
        at = kept.index(row)
        assert dataset.labels[at] == record["label"]
        assert dataset.trials["subject"][at] == str(record["subject"])
        assert dataset.trials["stimulus_id"][at] == made["images"][record["image"]]
    assert dataset.report == (
        "1 segments shorter than 460 samples were left out.",
        "242 of the 11964 published segments are here, so this copy is partial.",
        "no pictures: give a folder of ImageNet as --images to train or score images.",
    )
    assert not dataset.complete


def test_trials_are_named_by_person_and_picture_and_blocks_are_derived(folder: Path) -> None:
    dataset = prepared("eegcvpr40", folder)
    trials = dataset.trials
    again = [name for name in trials["trial_id"] if name.endswith("-2")]
    assert again == [f"s6-{LABELS[39]}_21-2"]
    for name, subject, image in zip(trials["trial_id"], trials["subject"], trials["stimulus_id"], strict=True):
        assert name.removesuffix("-2") == f"s{subject}-{image}"
    blocks = set(zip(trials["block"], trials["subject"], trials["concept"], strict=True))
    assert blocks == {(f"s{s}-{c}", s, c) for s, c in zip(trials["subject"], trials["concept"], strict=True)}
    for unknown in ("session", "run", "recording"):
        assert set(trials[unknown].tolist()) == {None}
    assert dataset.concepts == LABELS


def test_the_order_of_labels_is_that_of_the_file(made: dict[str, Any], save: Save) -> None:
    turned = [{**record, "label": (record["label"] + 1) % 40} for record in made["dataset"]]
    labels = [LABELS[-1], *LABELS[:-1]]
    dataset = prepared("eegcvpr40", save({**made, "dataset": turned, "labels": labels}))
    assert dataset.concepts == tuple(labels)
    for concept, image in zip(dataset.trials["concept"], dataset.trials["stimulus_id"], strict=True):
        assert image.startswith(concept)


def test_the_same_file_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    files = []
    shutil.copy(folder / "eeg_5_95_std.pth", tmp_path / "renamed.pth")
    shutil.copy(folder / "block_splits_by_image_all.pth", tmp_path)
    for source in (folder, folder / "eeg_5_95_std.pth", tmp_path / "renamed.pth"):
        dataset = prepared("eegcvpr40", source)
        files.append(((dataset.folder / "dataset.json").read_bytes(), dataset.eeg_sha256))
    assert len(set(files)) == 1
    assert sorted(dataset.source) == ["block_splits_by_image_all.pth", "eeg_5_95_std.pth"]


def test_the_older_form_of_a_torch_file_gives_the_same(folder: Path, made: dict[str, Any], save: Save) -> None:
    legacy = prepared("eegcvpr40", save(made, _use_new_zipfile_serialization=False))
    assert legacy.eeg_sha256 == prepared("eegcvpr40", folder).eeg_sha256


@pytest.mark.parametrize("band", ["14-70", "55-95"])
def test_the_other_bands_are_datasets_of_their_own(band: str, folder: Path, tmp_path: Path) -> None:
    name = f"eeg_{band.replace('-', '_')}_std.pth"
    shutil.copy(folder / "eeg_5_95_std.pth", tmp_path / name)
    dataset = prepared(f"eegcvpr40-{band}", tmp_path)
    assert dataset.eeg_sha256 == prepared("eegcvpr40", folder).eeg_sha256
    assert list(dataset.source) == [name]
    assert refused("eegcvpr40", tmp_path / name) == (
        f"eegcvpr40 is made from eeg_5_95_std.pth, but {name} holds eegcvpr40-{band}; prepare that one or give the "
        "right file."
    )


# ---- splits, on the stored files


def roles_of(dataset: base.EEGDataset, name: str) -> np.ndarray:
    split = base.parse_split((dataset.folder / "splits" / f"{name}.json").read_bytes(), name, None)
    return dataset.roles(split)


def shared_values(dataset: base.EEGDataset, roles: np.ndarray, column: str) -> set[str]:
    values = dataset.trials[column]
    sets = [set(values[roles == role].tolist()) for role in ("train", "val", "test")]
    return (sets[0] & sets[1]) | (sets[0] & sets[2]) | (sets[1] & sets[2])


def test_every_fold_holds_out_one_person_and_validates_on_the_next(folder: Path) -> None:
    dataset = prepared("eegcvpr40", folder)
    for k in range(1, 7):
        roles = roles_of(dataset, f"subject-out-{k}@0")
        assert set(dataset.trials["subject"][roles == "test"].tolist()) == {str(k)}
        assert set(dataset.trials["subject"][roles == "val"].tolist()) == {str(1 if k == 6 else k + 1)}
        assert len(set(dataset.trials["subject"][roles == "train"].tolist())) == 4
        assert shared_values(dataset, roles, "block") == set()
    assert dataset.split().id == "subject-out-1@0"
    assert [about.id for about in CARD.splits[:2]] == ["subject-out-1@1", "legacy-block@1"]


def test_the_official_split_is_split_0_without_segments_of_odd_length(folder: Path, made: dict[str, Any]) -> None:
    dataset = prepared("eegcvpr40", folder)
    roles = roles_of(dataset, "legacy-block@0")
    official = split_by_picture(made)["splits"][0]
    kept = dataset.eeg[:, 0, 0].astype(int).tolist()
    short, long = of_length(made, SHORT), of_length(made, LONG)
    for role in ("train", "val", "test"):
        assert [kept[at] for at in np.flatnonzero(roles == role)] == [
            r for r in official[role] if r not in (short, long)
        ]
    assert [kept[at] for at in np.flatnonzero(roles == "unused")] == [long]
    assert shared_values(dataset, roles, "stimulus_id") == set()
    assert CARD.split("legacy-block").protocol == "legacy-block"
    assert "Confounded" in CARD.split("legacy-block").note


def test_six_classes_are_unseen_and_four_of_the_others_validate(folder: Path) -> None:
    dataset = prepared("eegcvpr40", folder)
    roles = roles_of(dataset, "unseen-class@0")
    concepts = {role: set(dataset.trials["concept"][roles == role].tolist()) for role in ("train", "val", "test")}
    assert {role: len(found) for role, found in concepts.items()} == {"train": 30, "val": 4, "test": 6}
    assert concepts["test"] == {"n02106662", "n02124075", "n03982430", "n02607072", "n02951358", "n03445777"}
    assert concepts["val"] == {"n02389026", "n03100240", "n03272562", "n03775071"}
    assert shared_values(dataset, roles, "concept") == set()


def test_without_the_splits_file_the_official_split_is_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "eeg_5_95_std.pth", tmp_path)
    dataset = prepared("eegcvpr40", tmp_path)
    assert dataset.split_ids == [*(f"subject-out-{k}@0" for k in range(1, 7)), "unseen-class@0"]
    assert dataset.report[2] == (
        "split legacy-block is left out: block_splits_by_image_all.pth is not beside eeg_5_95_std.pth."
    )


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (
            {"splits": [{"train": [0], "val": [1], "test": [242]}]},
            "must give each of the 242 records one role at most, but names record 242; take the files of one release.",
        ),
        (
            {"splits": [{"train": [0, 1], "val": [1], "test": [2]}]},
            "must give each of the 242 records one role at most, but names record 1 twice; take the files of one "
            "release.",
        ),
        (
            {"splits": []},
            "must hold splits with train, val and test, but does not (IndexError: list index out of range); get the "
            "file again.",
        ),
        (
            {"splits": [{"train": [0], "val": [1]}]},
            "must hold splits with train, val and test, but does not (KeyError: 'test'); get the file again.",
        ),
    ],
)
def test_a_splits_file_of_another_release_is_refused(
    splits: dict[str, Any], sentence: str, folder: Path, save: Save
) -> None:
    beside = save(splits, "block_splits_by_image_all.pth")
    shutil.copy(folder / "eeg_5_95_std.pth", beside.parent)
    assert refused("eegcvpr40", beside.parent) == f"{beside.name} {sentence}"


def test_a_copy_without_one_person_says_which_folds_it_lacks(made: dict[str, Any], save: Save) -> None:
    five = [record for record in made["dataset"] if record["subject"] != 2]
    dataset = prepared("eegcvpr40", save({**made, "dataset": five}))
    assert [name for name in dataset.split_ids if name.startswith("subject")] == [
        f"subject-out-{k}@0" for k in (3, 4, 5, 6)
    ]
    for k in (1, 2):
        assert f"split subject-out-{k} is left out: it holds out subject 2, which this copy does not have." in (
            dataset.report
        )


def test_the_audit_sees_that_a_block_is_a_class_in_the_official_split(save: Save) -> None:
    rng = np.random.default_rng(0)
    records = [
        {"eeg": torch.from_numpy(rng.standard_normal((128, 500), np.float32)), "image": row, "label": row % 40}
        for row in range(PICTURES * len(LABELS))
    ]
    images = [f"{label}_{picture}" for picture in range(PICTURES) for label in LABELS]
    one = {"dataset": [{**r, "subject": 4} for r in records], "labels": list(LABELS), "images": images}
    save(split_by_picture(one), "block_splits_by_image_all.pth")
    dataset = prepared("eegcvpr40", save(one))
    report = audit_split(
        eeg=dataset.eeg,
        spec=dataset.spec,
        labels=dataset.labels,
        trials=dataset.trials,
        roles=roles_of(dataset, "legacy-block@0"),
        protocol="legacy-block",
    )
    assert report.verdict == "confounded"
    assert report.evidence["block_lookup_accuracy"] == 1


# ---- pictures


def write_picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (value, 0, 0)).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def test_pictures_are_found_in_class_folders_or_flat_and_missing_ones_counted(
    folder: Path, made: dict[str, Any], tmp_path: Path
) -> None:
    forms = ("{0}/{1}.JPEG", "{1}.jpg", "{0}/{1}.png", "{1}.JPG")
    absent = made["images"][50:53]
    for number, name in enumerate(made["images"]):
        if name not in absent:
            path = tmp_path / forms[number % 4].format(name.partition("_")[0], name)
            write_picture(path, 2 * number)
    (tmp_path / "notes.txt").write_text("no picture")
    dataset = prepared("eegcvpr40", folder, tmp_path)
    assert len(dataset.stimuli) == 117
    assert not set(absent) & set(dataset.stimuli.ids.tolist())
    first = next(image for image in dataset.trials["stimulus_id"].tolist() if image in absent)
    assert dataset.report[-1] == f"3 of the 120 pictures are not in --images, such as {first}."
    for row in range(0, 117, 10):
        (pixels,) = dataset.stimulus_pixels([row])
        assert pixels.shape == (4, 5, 3)
        assert abs(int(pixels[0, 0, 0]) - 2 * made["images"].index(dataset.stimuli.ids[row])) <= 2
    shown = dataset.stimulus_of_trial
    lacking = np.isin(dataset.trials["stimulus_id"], absent)
    assert (shown[lacking] == -1).all()
    assert (shown[~lacking] >= 0).all()


def test_without_pictures_every_stimulus_is_named_but_not_here(folder: Path, made: dict[str, Any]) -> None:
    dataset = prepared("eegcvpr40", folder)
    assert (len(dataset.stimuli), dataset.stimuli_source) == (0, "none")
    assert (dataset.stimulus_of_trial == -1).all()
    table = pq.read_table(dataset.folder / "stimuli.parquet").to_pydict()
    assert set(table["stimulus_id"]) == set(made["images"])
    assert [image.partition("_")[0] for image in table["stimulus_id"]] == table["concept"]
    assert set(table["image"]) == set(table["sha256"]) == {None}


def test_a_folder_with_none_of_the_pictures_is_refused(folder: Path, made: dict[str, Any], tmp_path: Path) -> None:
    first = made["images"][made["dataset"][0]["image"]]
    assert refused("eegcvpr40", folder, tmp_path) == (
        f"--images must be a folder with pictures such as {first.partition('_')[0]}/{first}.JPEG, but {tmp_path} has "
        "none of the 120; give the folder that holds the classes."
    )


def test_a_picture_that_cannot_be_read_is_refused(folder: Path, made: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"{made['images'][0]}.JPEG"
    path.write_bytes(b"\xff\xd8 broken")
    assert refused("eegcvpr40", folder, tmp_path).startswith(f"{path} must be a picture, but it cannot be read (")


# ---- the unfiltered release


def test_the_unfiltered_file_is_scaled_by_its_means_and_stddevs(made: dict[str, Any], save: Save) -> None:
    means = torch.linspace(-3, 3, 128)[:, None]
    stddevs = torch.linspace(0.5, 7, 128)[:, None]
    dataset = prepared("eegcvpr40-raw", save({**made, "means": means, "stddevs": stddevs}, "mine.pth"))
    kept = [record["eeg"] for record in made["dataset"] if record["eeg"].shape[1] >= ODD]
    loaded = torch.stack([((eeg.float() - means) / stddevs)[:, 20:460] for eeg in kept])  # as the authors load it
    np.testing.assert_array_equal(dataset.eeg, loaded.numpy())
    assert list(dataset.source) == ["eeg_signals_raw_with_mean_std.pth"]


def test_filtered_and_unfiltered_files_are_not_mixed_up(made: dict[str, Any], save: Save) -> None:
    made = few(made)
    path = save(made, "mine.pth")
    assert refused("eegcvpr40-raw", path) == (
        "mine.pth must be a dict with dataset, labels, images, means, stddevs, but has no means; get the file again."
    )
    path = save({**made, "means": torch.zeros(128, 1), "stddevs": torch.ones(128, 1)}, "mine.pth")
    assert refused("eegcvpr40", path) == (
        "mine.pth must hold filtered recordings without means, but has some; prepare eegcvpr40-raw from it."
    )
    path = save({**made, "means": torch.zeros(128, 1), "stddevs": torch.zeros(128, 1)}, "mine.pth")
    assert refused("eegcvpr40-raw", path) == (
        "mine.pth must have a mean and a positive stddev for each of 128 channels, but has 128 and 128 or others; get "
        "the file again."
    )


def write_items(folder: Path, made: dict[str, Any], length: int = 440) -> list[str]:
    """The form of EEGStyleGAN-ADA: one object array per trial; returns the trial ids in the order of the files."""
    ids = []
    for part in ("train", "val", "test"):
        (folder / part).mkdir(parents=True)
        for row in split_by_picture(made)["splits"][0][part]:
            record = made["dataset"][row]
            if record["eeg"].shape[1] < length + 20:
                continue
            item = np.empty(5, dtype=object)
            eeg = record["eeg"].numpy()[:, 20 : 20 + length]
            image = made["images"][record["image"]]
            item[:] = [np.zeros((4, 5, 3), np.uint8), eeg, record["label"], image, record["subject"]]
            np.save(folder / part / f"{row:03d}.npy", item, allow_pickle=True)
            ids.append(f"s{record['subject']}-{image}")
    return ids


def test_the_folder_of_eegstylegan_ada_gives_its_own_split(made: dict[str, Any], tmp_path: Path) -> None:
    ids = write_items(tmp_path, made)
    dataset = prepared("eegcvpr40-raw", tmp_path)
    assert [name.removesuffix("-2") for name in dataset.trials["trial_id"]] == ids
    rows = dataset.eeg[:, 0, 0].astype(int)
    np.testing.assert_array_equal(
        dataset.eeg, np.stack([made["dataset"][row]["eeg"].numpy()[:, 20:460] for row in rows])
    )
    roles = roles_of(dataset, "as-given@0")
    assert [Counter(roles.tolist())[role] for role in ("train", "val", "test")] == [
        len(list((tmp_path / role).iterdir())) for role in ("train", "val", "test")
    ]
    assert shared_values(dataset, roles, "stimulus_id") == set()
    assert "legacy-block@0" not in dataset.split_ids
    assert dataset.report[0] == "values are as stored: .npy files bring no means and stddevs to scale them with."
    assert refused("eegcvpr40", tmp_path) == (
        f"--source of eegcvpr40 must be eeg_5_95_std.pth or a folder with it, but {tmp_path} has none."
    )


def test_an_item_of_another_kind_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    write_items(tmp_path, made)
    np.save(tmp_path / "val" / "odd.npy", np.zeros((2, 3), np.float32))
    assert refused("eegcvpr40-raw", tmp_path) == (
        "odd.npy must hold image, eeg, label, image id and subject, but does not (not enough values to unpack "
        "(expected 5, got 2)); get it again."
    )


# ---- wrong input


def test_a_source_is_needed() -> None:
    with pytest.raises(MissingError) as caught:
        base.prepare("eegcvpr40")
    assert str(caught.value) == (
        "eegcvpr40 is not prepared on this machine.\n"
        f"to make it, run: zoo data prepare eegcvpr40 --source PATH   ({CARD.get})"
    )


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    assert refused("eegcvpr40", tmp_path) == (
        f"--source of eegcvpr40 must be eeg_5_95_std.pth or a folder with it, but {tmp_path} has none."
    )
    assert refused("eegcvpr40-raw", tmp_path) == (
        "--source of eegcvpr40-raw must be eeg_signals_raw_with_mean_std.pth or "
        "eeg_signals_128_sequential_band_all_with_mean_std.pth, or train/, val/ and test/ of .npy files, or a folder "
        f"with it, but {tmp_path} has none."
    )


def few(made: dict[str, Any]) -> dict[str, Any]:
    """Enough for what is refused before anything is written."""
    return {**made, "dataset": made["dataset"][:10]}


def change(made: dict[str, Any], row: int, **values: Any) -> dict[str, Any]:
    records = list(made["dataset"])
    records[row] = {**records[row], **values}
    return {**made, "dataset": records}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda made: {key: made[key] for key in ("dataset", "labels")},
            "eeg_5_95_std.pth must be a dict with dataset, labels, images, but has no images; get the file again.",
        ),
        (
            lambda made: {"splits": []},
            "eeg_5_95_std.pth must be a dict with dataset, labels, images, but has no dataset; get the file again.",
        ),
        (
            lambda made: {**made, "labels": made["labels"][:39]},
            "eeg_5_95_std.pth must have the 40 classes of EEGCVPR40 as labels, but 39 of its 39 are among them; get "
            "the file again.",
        ),
        (
            lambda made: {**made, "labels": [*made["labels"][:39], "n00000001"]},
            "eeg_5_95_std.pth must have the 40 classes of EEGCVPR40 as labels, but 39 of its 40 are among them; get "
            "the file again.",
        ),
        (
            lambda made: change(made, 3, eeg=torch.zeros(64, 500)),
            "record 3 of eeg_5_95_std.pth must have eeg of 128 channels × samples, but its shape is (64, 500); get "
            "the file again.",
        ),
        (
            lambda made: change(made, 4, image=120),
            "record 4 of eeg_5_95_std.pth must name one of 120 images, but names number 120; get the file again.",
        ),
        (
            lambda made: change(made, 4, label=-1),
            "record 4 of eeg_5_95_std.pth must name one of 40 labels, but names number -1; get the file again.",
        ),
        (
            lambda made: change(made, 9, subject=None),
            "record 9 of eeg_5_95_std.pth must have eeg, image, label and subject, but does not (TypeError: int() "
            "argument must be a string, a bytes-like object or a real number, not 'NoneType'); get the file again.",
        ),
    ],
)
def test_a_file_that_is_not_the_authors_is_refused(
    damage: Callable[[dict[str, Any]], dict[str, Any]], sentence: str, made: dict[str, Any], save: Save, cache: Path
) -> None:
    assert refused("eegcvpr40", save(damage(few(made)))) == sentence
    assert not (cache / "datasets" / "eegcvpr40" / "dataset.json").exists()


def test_a_picture_of_two_classes_is_refused(made: dict[str, Any], save: Save) -> None:
    record = made["dataset"][0]
    made = {**made, "dataset": [found for found in made["dataset"] if found["image"] == record["image"]]}
    other = LABELS[(record["label"] + 1) % 40]
    image = made["images"][record["image"]]
    message = refused("eegcvpr40", save(change(made, 0, label=(record["label"] + 1) % 40)))
    assert message == f"a picture must show one class, but {image} is labelled {other} and {LABELS[record['label']]}."


def test_a_value_that_is_not_finite_names_its_trial(made: dict[str, Any], save: Save) -> None:
    assert made["dataset"][100]["eeg"].shape[1] != SHORT
    record = made["dataset"][100]
    eeg = record["eeg"].clone()
    eeg[7, 300] = float("nan")
    assert refused("eegcvpr40", save(change(made, 100, eeg=eeg))) == (
        f"EEG must be finite, but trial s{record['subject']}-{made['images'][record['image']]} holds NaN or infinity; "
        "repair or remove its recording."
    )


def test_the_terms_must_be_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_ACCEPT_LICENSE")
    with pytest.raises(IntegrityError) as caught:
        base.prepare("eegcvpr40", source=folder)
    assert str(caught.value) == (
        "eegcvpr40 may only be used by those who accept its terms: the recordings are for research only, and the "
        "ImageNet pictures they name for non-commercial research "
        "(https://github.com/perceivelab/eeg_visual_classification); if you do, add --accept-license or set "
        "ZOO_ACCEPT_LICENSE=eegcvpr40."
    )
    family = [card for card in registry.datasets.cards() if card.id.startswith("eegcvpr40")]
    assert [(card.id, card.hosts, card.terms is None) for card in family] == [
        (f"eegcvpr40{end}", "splits", False) for end in ("", "-14-70", "-55-95", "-features", "-raw")
    ]


# ---- real data


def test_a_real_trial_and_its_picture_survive(shared: Path, made: dict[str, Any], save: Save, tmp_path: Path) -> None:
    path = shared / "data" / "no_explicit_licence" / "eegcvpr40_one_trial.npz"
    if not path.exists():
        pytest.skip("needs the real trial in ../shared")
    with np.load(path) as file:
        eeg, image, pixels, label = file["eeg"], str(file["image_id"]), file["image"], int(file["label"])
    assert image.startswith(LABELS[label])
    segment = np.zeros((128, 500), np.float32)
    segment[:, 20:460] = eeg
    row = next(i for i, r in enumerate(made["dataset"]) if r["label"] == label and r["subject"] == 4)
    found = change(made, row, eeg=torch.from_numpy(segment))
    number = made["dataset"][row]["image"]
    images = [image if i == number else name for i, name in enumerate(made["images"])]
    for name in images:
        write_picture(tmp_path / "pictures" / f"{name}.png", 0)
    Image.fromarray(pixels).save(tmp_path / "pictures" / f"{image}.png")
    scale = {"means": torch.zeros(128, 1), "stddevs": torch.ones(128, 1)}
    sources = {
        "eegcvpr40": save({**found, "images": images}),
        "eegcvpr40-raw": save({**found, **scale, "images": images}, "r.pth"),
    }
    for name, source in sources.items():
        dataset = prepared(name, source, tmp_path / "pictures")
        (at,) = np.flatnonzero(dataset.trials["trial_id"] == f"s4-{image}")
        np.testing.assert_array_equal(dataset.eeg[at], eeg)
        assert dataset.eeg.dtype == np.float32
        assert (dataset.eeg[at].min(), dataset.eeg[at].max()) == (-32768, 32767)
        (shown,) = dataset.stimulus_pixels([dataset.stimulus_of_trial[at]])
        np.testing.assert_array_equal(shown, pixels)


def test_the_classes_stand_in_the_order_of_the_original_labels(shared: Path) -> None:
    path = shared / "data" / "no_explicit_licence" / "images_imagenet_cvpr40_classes.npz"
    if not path.exists():
        pytest.skip("needs the class pictures in ../shared")
    with np.load(path) as file:
        assert tuple(file["synset"][np.argsort(file["label"])].tolist()) == LABELS


# ---- the embeddings


def write_features(path: Path, **changes: Any) -> Path:
    label = np.repeat(np.arange(40, dtype=np.uint8), 10)
    embedding = np.random.default_rng(0).standard_normal((400, 128)).astype(np.float32)
    np.savez(path, **{"embedding": embedding, "label": label, **changes})
    return path


def test_the_real_embeddings_convert_row_by_row(shared: Path) -> None:
    path = shared / "data" / "no_explicit_licence" / "eegcvpr40_lstm_embeddings.npz"
    if not path.exists():
        pytest.skip("needs the embeddings in ../shared")
    dataset = prepared("eegcvpr40-features", path)
    with np.load(path) as file:
        np.testing.assert_array_equal(dataset.eeg[:, :, 0], file["embedding"])
        np.testing.assert_array_equal(dataset.labels, file["label"])
    assert dataset.complete
    assert dataset.report == ()
    assert len(dataset) == dataset.card.n_trials == 7952
    assert dataset.split_ids == ["random-row@1"]
    roles = roles_of(dataset, "random-row@1")
    assert {role: int((roles == role).sum()) for role in ("train", "val", "test")} == {
        "train": 5565,
        "val": 795,
        "test": 1592,
    }
    for role in ("train", "val", "test"):
        assert set(dataset.labels[roles == role].tolist()) == set(range(40))


def test_fewer_rows_are_a_partial_copy(tmp_path: Path) -> None:
    base.prepare("eegcvpr40-features", source=write_features(tmp_path / "f.npz"))
    (sentence,) = base.check("eegcvpr40-features")
    assert sentence.startswith("random-row@1 was cut from other trials: 7952 there, 400 here; ")
    dataset = base.load("eegcvpr40-features")
    assert dataset.report == ("400 of 7952 rows are here, so this copy is partial.",)
    assert dataset.split_ids == ["random-row@0"]
    roles = roles_of(dataset, "random-row@0")
    assert [int((roles == role).sum()) for role in ("train", "val", "test")] == [280, 40, 80]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"label": np.full(400, 40)},
            "f.npz must hold labels from 0 to 39, but does not; get it again.",
        ),
        (
            {"label": np.zeros(400)},
            "f.npz must hold labels from 0 to 39, but does not; get it again.",
        ),
        (
            {"embedding": np.zeros((400, 100))},
            "f.npz must hold an embedding (n, 128) and a label (n,), but they are (400, 100) and (400,); get it again.",
        ),
        (
            {"label": np.zeros(399, int)},
            "f.npz must hold an embedding (n, 128) and a label (n,), but they are (400, 128) and (399,); get it again.",
        ),
    ],
)
def test_other_arrays_are_no_embeddings(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    assert refused("eegcvpr40-features", write_features(tmp_path / "f.npz", **changes)) == sentence


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.npz").write_bytes(b"no zip")
    sentence = (
        "--source of eegcvpr40-features must be an .npz file with the arrays embedding and label, but f.npz cannot be "
        "read as one; get it again."
    )
    assert refused("eegcvpr40-features", tmp_path / "f.npz") == sentence
    (tmp_path / "f.npz").write_bytes(pickle.dumps({}))  # numpy would advise to load it unsafely
    assert refused("eegcvpr40-features", tmp_path / "f.npz") == sentence
    assert refused("eegcvpr40-features", write_features(tmp_path / "f.npz"), tmp_path) == (
        "eegcvpr40-features takes no --images, since its labels are numbers without names; leave it out."
    )

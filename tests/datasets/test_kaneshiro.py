"""Object category EEG: files of another layout are told, the two forms of a signal must be one."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from zoo import registry, store
from zoo.audits.leakage import audit_split
from zoo.datasets import base, kaneshiro
from zoo.errors import MissingError, UsageError

CARD = registry.datasets.get("object")
EXEMPLARS = np.tile(np.arange(1, 73), 2)
"""Every photograph twice."""


def contents(subject: int, **changes: Any) -> dict[str, Any]:
    """What a file of one person holds; changes replace variables, None leaves one out."""
    signal = np.random.default_rng(subject).standard_normal((124, 32, len(EXEMPLARS))).astype(np.float32)
    held = {
        "X_3D": signal,
        "X_2D": np.stack([signal[:, :, trial].ravel("F") for trial in range(len(EXEMPLARS))]),
        "categoryLabels": (EXEMPLARS - 1) // 12 + 1,
        "exemplarLabels": EXEMPLARS,
        "Fs": 62.5,
        "N": 32,
        "sub": f"S{subject}",
    } | changes
    return {name: value for name, value in held.items() if value is not None}


def write(folder: Path, subject: int, **changes: Any) -> Path:
    path = folder / f"S{subject}.mat"
    scipy.io.savemat(path, contents(subject, **changes))
    return path


def test_every_trial_is_the_one_its_id_says(tmp_path: Path) -> None:
    for subject in range(1, 11):
        write(tmp_path, subject, X_2D=None if subject % 2 else contents(subject)["X_2D"])
    base.prepare("kaneshiro", source=tmp_path)
    data = base.load("object")
    assert data.complete
    assert data.report == ("no pictures: give a folder of the 72 photographs as --images to train or score images.",)
    assert data.spec == CARD.eeg
    assert (data.spec.sfreq, data.spec.n_times / data.spec.sfreq) == (62.5, 0.512)
    assert len(data) == 10 * 144
    assert data.split_ids == sorted(about.id for about in CARD.splits)
    trials = data.trials
    row = trials["trial_id"].tolist().index("s10-0087")  # the second time of photograph 15
    assert trials["subject"][row] == "10"
    assert trials["stimulus_id"][row] == "e15"
    assert trials["concept"][row] == "human-face"
    assert "order" not in trials
    np.testing.assert_array_equal(data.eeg[row], contents(10)["X_3D"][:, :, 86])
    np.testing.assert_array_equal(data.eeg[:144], contents(1)["X_3D"].transpose(2, 0, 1))
    assert [CARD.concepts.index(c) + 1 for c in trials["concept"][:72]] == [k // 12 + 1 for k in range(72)]
    assert len(data.source) == 10
    assert base.check("object") == []


def test_splits_hold_out_what_their_names_say(tmp_path: Path) -> None:
    for subject in range(1, 11):
        write(tmp_path, subject, X_2D=None)
    base.prepare("object", source=tmp_path)
    data = base.load("object")
    trials = data.trials
    roles = data.roles(data.split(None))
    assert data.split(None).id == "exemplar-out@1"
    for concept in CARD.concepts:
        own = trials["concept"] == concept
        shown = {role: set(trials["stimulus_id"][own & (roles == role)]) for role in ("train", "val", "test")}
        assert [len(shown[role]) for role in ("train", "val", "test")] == [9, 1, 2]
        assert len(set.union(*shown.values())) == 12
    for test, val in ((1, 2), (10, 1)):
        roles = data.roles(data.split(f"subject-out-{test}"))
        assert set(trials["subject"][roles == "test"]) == {f"{test:02d}"}
        assert set(trials["subject"][roles == "val"]) == {f"{val:02d}"}
        assert len(set(trials["subject"][roles == "train"])) == 8
    roles = data.roles(data.split("published-90-10"))
    assert [int((roles == role).sum()) for role in ("train", "val", "test")] == [1170, 130, 140]
    assert len(set(trials["stimulus_id"][roles == "test"])) > 60  # photographs lie on both sides, as published
    found = audit_split(
        eeg=data.eeg,
        spec=data.spec,
        labels=data.labels,
        trials=trials,
        roles=roles,
        protocol=data.split("published-90-10").protocol,
    )
    assert found.verdict == "suspect"


def test_a_partial_copy_says_who_is_missing(tmp_path: Path) -> None:
    base.prepare("object", source=write(tmp_path, 3))
    data = base.load("object")
    assert not data.complete
    assert data.report[0] == "1 of 10 people are here, so this copy is partial."
    assert data.report[1] == (
        "split subject-out-1 is left out: it holds out subject 01, which this copy does not have."
    )
    assert data.split_ids == ["exemplar-out@0", "published-90-10@0"]
    assert set(data.trials["subject"]) == {"03"}


def rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[2]).T


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"X_3D": None},
            "X_3D of {path} must be 124 electrodes × 32 times × up to 10000 trials of single or double, but is "
            "missing; get the authors' file.",
        ),
        (
            {"X_3D": np.zeros((32, 124, 5))},
            "X_3D of {path} must be 124 electrodes × 32 times × up to 10000 trials of single or double, but is double "
            "(32, 124, 5); get the authors' file.",
        ),
        (
            {"X_3D": [["a", "b"]]},
            "X_3D of {path} must be 124 electrodes × 32 times × up to 10000 trials of single or double, but is char "
            "(1, 2); get the authors' file.",
        ),
        (
            {"X_3D": np.zeros((124, 32, 144), complex)},
            "X_3D of {path} must be real numbers, but it is something else; get the authors' file.",
        ),
        (
            {"categoryLabels": [1, 2, 3]},
            "categoryLabels of {path} must be 1 × 144 numbers, but is int64 (1, 3); get the authors' file.",
        ),
        (
            {"exemplarLabels": None},
            "exemplarLabels of {path} must be 1 × 144 numbers, but is missing; get the authors' file.",
        ),
        (
            {"exemplarLabels": {"of": EXEMPLARS}},
            "exemplarLabels of {path} must be 1 × 144 numbers, but is struct (1, 1); get the authors' file.",
        ),
        (
            {"exemplarLabels": EXEMPLARS + 1},
            "exemplarLabels of {path} must be whole numbers from 1 to 72, but trial 72 has 73; get the authors' file.",
        ),
        (
            {"categoryLabels": np.where(EXEMPLARS == 30, np.nan, (EXEMPLARS - 1) // 12 + 1)},
            "categoryLabels of {path} must be whole numbers from 1 to 6, but trial 30 has nan; get the authors' file.",
        ),
        (
            {"categoryLabels": np.where(EXEMPLARS == 30, 4, (EXEMPLARS - 1) // 12 + 1)},
            "exemplars of {path} must belong to their category (1-12 to 1, 13-24 to 2, …), but trial 30 is exemplar 30 "
            "in category 4; get the authors' file.",
        ),
        ({"Fs": 250.0}, "Fs of {path} must be 62.5, but is 250.0; get the authors' file."),
        ({"N": "many"}, "N of {path} must be 1 × 1 numbers, but is char (1,); get the authors' file."),
        (
            {"X_2D": rows(contents(2)["X_3D"])},
            "X_2D of {path} must be X_3D with each trial unrolled in column-major order, but it is in row-major order; "
            "get the authors' file.",
        ),
        (
            {"X_2D": contents(2)["X_2D"][::-1]},
            "X_2D of {path} must be X_3D with each trial unrolled in column-major order, but it holds something else; "
            "get the authors' file.",
        ),
    ],
)
def test_a_file_of_another_layout_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2, **changes)
    with pytest.raises(UsageError) as caught:
        base.prepare("object", source=tmp_path)
    assert str(caught.value) == sentence.format(path=path)
    with pytest.raises(MissingError):
        base.load("object")


@pytest.mark.parametrize("value", [np.nan, 1e39])
def test_a_value_that_is_not_finite_is_named_by_its_trial(tmp_path: Path, value: float) -> None:
    signal = contents(4)["X_3D"].astype(np.float64)
    signal[3, 7, 99] = value
    write(tmp_path, 4, X_3D=signal, X_2D=np.stack([signal[:, :, trial].ravel("F") for trial in range(144)]))
    with pytest.raises(UsageError) as caught:
        base.prepare("object", source=tmp_path)
    assert str(caught.value) == (
        "EEG must be finite, but trial s04-0100 holds NaN or infinity; repair or remove its recording."
    )


def test_one_recording_under_two_names_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (tmp_path / "S2.mat").write_bytes(path.read_bytes())
    with pytest.raises(UsageError) as caught:
        base.prepare("object", source=tmp_path)
    assert str(caught.value) == (
        f"every person has a signal of their own, but {tmp_path / 'S2.mat'} is a copy; get it again."
    )


def test_files_that_are_no_such_matlab_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    whole = path.read_bytes()
    hdf5 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + b"\0" * 388 + b"\x89HDF\r\n\x1a\n"
    path.write_bytes(hdf5)
    with pytest.raises(UsageError) as caught:
        base.prepare("object", source=tmp_path)
    assert str(caught.value) == (
        f"{path} must be a MATLAB file of version 4 to 7, but it is one of version 7.3; get the authors' file, or save "
        "it again with -v7."
    )
    squeezed = zlib.compress(whole[128:], 1)  # one compressed element that is none
    damaged = [b"", b"S1", whole[:5000], whole[: len(whole) // 2], whole[:128] + b"\x0f\0\0\0" + squeezed, whole[:128]]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"^(X_3D of )?.*S1\.mat must be "):
            base.prepare("object", source=tmp_path)


def test_flipped_bits_never_end_in_anything_but_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held = contents(1, X_3D=np.zeros((124, 32, 2), np.float32), X_2D=None)
    held |= {"categoryLabels": [1, 6], "exemplarLabels": [12, 61]}
    for compressed in (False, True):
        path = tmp_path / "S1.mat"
        scipy.io.savemat(path, held, do_compression=compressed)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[rng.integers(len(whole) if compressed else 500)] ^= rng.integers(1, 256, dtype=np.uint8)
            path.write_bytes(damaged.tobytes())
            try:
                recording = kaneshiro._read_labels(path, "01", CARD)
                assert CARD.eeg is not None
                blocks = list(kaneshiro._signals([recording], CARD.eeg, {}, None))
            except UsageError:
                continue
            assert blocks[0].shape == (2, 124, 32)


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1).rename(tmp_path / "S11.mat")
    for source in (tmp_path, tmp_path / "S11.mat"):
        with pytest.raises(UsageError) as caught:
            base.prepare("object", source=source)
        assert str(caught.value) == (
            f"--source of object must be one of S1.mat to S10.mat or a folder with some, but {source} is neither."
        )


def save_pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir()
    for value, name in enumerate(names):
        Image.new("L", (4, 4), value).save(folder / name)


@pytest.mark.parametrize(
    ("names", "how"),
    [
        ([f"{number}.png" for number in range(1, 73)], "the number in their names"),
        ([f"photo_{number:03d}.png" for number in range(1, 73)], "the number in their names"),
        (
            [f"{group}{k}.png" for group in "abcdef" for k in range(1, 13)],
            "the order of their names, from a1.png to f12.png",
        ),
    ],
)
def test_pictures_go_to_exemplars(tmp_path: Path, names: list[str], how: str) -> None:
    save_pictures(tmp_path / "photographs", names)
    base.prepare("object", source=write(tmp_path, 1), images=tmp_path / "photographs")
    data = base.load("object")
    assert data.report[-1] == f"pictures were given to exemplars by {how}."
    pixels = data.stimulus_pixels(data.stimulus_of_trial[:72])
    assert [int(picture[0, 0, 0]) for picture in pixels] == list(range(72))
    assert len(data.stimulus_rows(data.split("exemplar-out"), "test")) == 12


def test_any_other_number_of_pictures_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    save_pictures(folder, [f"{number}.png" for number in range(1, 72)])
    (folder / "notes.txt").write_text("72 of them")
    write(tmp_path, 1)
    with pytest.raises(UsageError) as caught:
        base.prepare("object", source=tmp_path, images=folder)
    assert str(caught.value) == f"--images must be a folder of the 72 photographs, but {folder} has 71 pictures."
    (folder / "72.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"72\.png must be a picture, but it cannot be read"):
        base.prepare("object", source=tmp_path, images=folder)


def test_the_source_is_named_by_its_signal(tmp_path: Path) -> None:
    plain = write(tmp_path, 5)
    base.prepare("object", source=plain)
    first = base.load("object")
    scipy.io.savemat(plain, contents(5, X_2D=None, sub=None), do_compression=True)
    base.prepare("object", source=plain)
    again = base.load("object")
    assert (first.source, first.fingerprint, first.eeg_sha256) == (again.source, again.fingerprint, again.eeg_sha256)
    assert list(first.source) == ["S5 signal"]
    assert store.file_sha256(first.folder / "eeg.safetensors") == again.eeg_sha256

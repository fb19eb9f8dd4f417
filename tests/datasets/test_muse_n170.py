"""Faces and houses: whole runs once each, filtered without delay, the same trials from either source."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo import registry
from zoo.datasets import base, muse_n170
from zoo.errors import UsageError

CARD = registry.datasets.get("muse-n170")
HEADER = "timestamps,TP9,AF7,AF8,TP10,Right AUX,Marker0"


def write_run(path: Path, signal: np.ndarray, onsets: np.ndarray) -> None:
    """A CSV as the headband writes it; ``signal`` (4, n) in converter steps, markers 1 and 2 in turn."""
    n = signal.shape[1]
    marker = np.zeros(n, dtype=int)
    marker[onsets] = 1 + np.arange(len(onsets)) % 2
    rows = [
        f"{k / 256:.3f}," + ",".join(f"{v * muse_n170.LSB_UV:.3f}" for v in signal[:, k]) + f",0.0,{marker[k]}"
        for k in range(n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *rows]) + "\n")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three people with one run each; the first event of each is too early, the last too late for a whole trial."""
    rng = np.random.default_rng(0)
    onsets = np.array([20, *range(200, 200 + 60 * 130, 130), 8990])
    for subject in (1, 2, 3):
        signal = rng.integers(-200, 200, (4, 9000))
        write_run(tmp_path / f"data/subject{subject}/session1/a.csv", signal, onsets)
    return tmp_path / "data"


def test_trials_are_cut_around_their_event(runs: Path) -> None:
    base.prepare("muse-n170", source=runs)
    dataset = base.load("muse-n170")
    assert dataset.spec == CARD.eeg
    assert len(dataset) == 3 * 60
    assert dataset.report[0] == "6 events too close to an end of their run for a whole trial were left out."
    assert dataset.report[1] == "0 of the 13 published runs are here, so this copy is partial."
    assert not dataset.complete
    assert dataset.trials["order"][:3].tolist() == [1, 2, 3]
    assert dataset.trials["concept"][:3].tolist() == ["face", "house", "face"]
    assert dataset.stimuli_source == "none"


def test_the_filter_passes_alpha_in_phase_and_stops_drift_and_mains() -> None:
    assert CARD.eeg is not None
    t = np.arange(256 * 60) / 256
    alpha = 100 * np.sin(2 * np.pi * 10 * t)
    digital = np.stack([alpha, alpha + 800, 100 * np.sin(2 * np.pi * 60 * t), 300 * np.sin(2 * np.pi * 0.1 * t)])
    run = muse_n170.Run(digital, np.zeros(len(t), np.uint8), 1, 1, "")
    onsets = np.array([5000, 7000])
    trials = muse_n170._epochs(run, onsets, CARD.eeg)
    step = muse_n170.LSB_UV * 1e-6
    for trial, onset in zip(trials, onsets, strict=True):
        shown = alpha[onset - 26 : onset + 102] * step
        np.testing.assert_allclose(trial[0], shown, atol=0.01 * 100 * step)
        np.testing.assert_allclose(trial[1], shown, atol=0.01 * 100 * step)
        assert np.abs(trial[2]).max() < 0.01 * 100 * step
        assert np.abs(trial[3]).max() < 0.01 * 300 * step


def test_short_and_repeated_runs_are_dropped_and_reported(runs: Path) -> None:
    shutil.copy(runs / "subject1/session1/a.csv", runs / "subject1/session1/b.csv")
    write_run(runs / "subject3/session2/a.csv", np.zeros((4, 2000), int), np.array([300, 900, 1500]))
    base.prepare("muse-n170", source=runs)
    dataset = base.load("muse-n170")
    assert len(dataset) == 3 * 60
    assert dataset.report[:2] == (
        "subject1/session1/b.csv was dropped: the same recording as subject1/session1/a.csv.",
        "subject3/session2/a.csv was dropped: 3 events, a whole run has 50 or more.",
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("TP9", "TP99", "must have columns TP9, AF7, AF8, TP10, Marker0, but TP9 is missing; get the file again."),
        ("\n0.004,", "\n0.004,nan,", "must hold finite numbers, but data row 2 does not; get the file again."),
        (
            "\n0.004,",
            "\n0.004,0.1,",
            "must hold multiples of 0.48828125 µV and markers 0, 1, 2 as recorded, but was changed; get it again.",
        ),
    ],
)
def test_a_damaged_file_is_one_sentence(runs: Path, old: str, new: str, sentence: str) -> None:
    path = runs / "subject2/session1/a.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        base.prepare("muse-n170", source=runs)
    assert str(caught.value) == f"{path} {sentence}"


def test_a_file_cut_in_a_row_is_refused(runs: Path) -> None:
    path = runs / "subject2/session1/a.csv"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(
        UsageError, match=r"a\.csv must hold numbers in every row, but it does not \(.*\); get it again\.$"
    ):
        base.prepare("muse-n170", source=runs)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        base.prepare("muse-n170", source=tmp_path)
    assert str(caught.value) == (
        "--source of muse-n170 must be n170.npz or a folder with subjectS/sessionR/*.csv in it, "
        f"but {tmp_path} is neither."
    )


def test_views_of_one_person_or_house_stay_together(runs: Path) -> None:
    folder = runs.parent / "stimuli" / "face_house"
    for kind, names in (("faces", ["Ann_", "Bob_", "Cid_", "Dan_"]), ("houses", [f"house{i}." for i in range(1, 5)])):
        (folder / kind).mkdir(parents=True)
        for i, name in enumerate(names):
            for view in range(1, 5):
                Image.new("L", (4, 4), 40 * i + view + 20 * (kind == "faces")).save(folder / kind / f"{name}{view}.png")
    base.prepare("muse-n170", source=runs)
    dataset = base.load("muse-n170")
    assert dataset.stimuli_source == "the pictures of the experiment (Haxby et al. 2001)"
    for label, offset in ((0, 20), (1, 0)):
        rows = np.flatnonzero(dataset.stimuli.labels == label)
        roles: dict[int, set[str]] = {}
        for row, pixels in zip(rows, dataset.stimulus_pixels(rows), strict=True):
            roles.setdefault((int(pixels[0, 0, 0]) - offset - 1) // 40, set()).add(dataset.stimuli.roles[row])
        assert sorted(map(len, roles.values())) == [1, 1, 1, 1]
        assert sorted(role for (role,) in roles.values()) == ["test", "train", "train", "train"]


def test_both_sources_give_the_same_trials(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "licensed" / "muse_visual_erp"
    if not folder.is_dir():
        pytest.skip("needs the Muse recordings in ../shared")
    with tarfile.open(folder / "muse_n170_original_csv.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    prepared = []
    for source in (folder / "n170.npz", tmp_path):
        base.prepare("muse-n170", source=source, images=folder / "stimuli" / "face_house")
        dataset = base.load("muse-n170")
        prepared.append((dataset.fingerprint, dataset.eeg_sha256, dataset.stimuli_sha256, dataset.source))
    assert prepared[0] == prepared[1]
    assert dataset.complete
    assert len(dataset) == CARD.n_trials == 2547
    assert dataset.split_ids == ["run-out@1", "subject-out@1"]
    assert sum("fewer" in line or "was dropped" in line for line in dataset.report) == 6
    assert np.unique(dataset.stimuli.roles, return_counts=True)[1].tolist() == [24, 72]
    roles = dataset.roles(dataset.split(None))
    runs = [set(dataset.trials["run"][roles == role]) for role in ("train", "val", "test")]
    assert [len(part) for part in runs] == [8, 2, 3]
    assert not runs[0] & runs[2]

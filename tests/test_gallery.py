"""Samples beside a record: every cell is where its sheet says, real pictures lie apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo import gallery
from zoo.errors import IntegrityError
from zoo.gallery import MANIFEST, check_sheet, read_manifest, write_gallery

N, SIDE = 40, 16
CONCEPTS = ("circle", "cross")


def flat(values: np.ndarray) -> np.ndarray:
    """Images of one grey level each, which survives lossy compression."""
    return np.broadcast_to(np.asarray(values, np.uint8)[:, None, None, None], (len(values), 3, SIDE, SIDE))


def fake(real: bool = True) -> Any:
    """An evaluation of 40 trials: system s shows grey 10 + 40 s + trial / 2 of each trial."""
    systems = ("model", "shuffled-eeg")
    stage = lambda s: SimpleNamespace(rows=lambda: flat(10 + 40 * s + np.arange(N) // 2))  # noqa: E731
    made = {"model": [stage(0), stage(1), stage(2)], "shuffled-eeg": [stage(3)]}
    pictures = {"stimulus": lambda few: flat(200 + np.asarray(few) // 2)} if real else {}
    return SimpleNamespace(
        plan=SimpleNamespace(
            track=SimpleNamespace(id="reconstruction/x.y@1"),
            data=SimpleNamespace(
                trials={"trial_id": np.array([f"t{i}" for i in range(N + 5)])},
                concepts=CONCEPTS,
                stimuli=SimpleNamespace(ids=np.arange(3 if real else 0)),
            ),
        ),
        rows=np.arange(5, N + 5),
        labels=np.arange(N) % 2,
        given=dict.fromkeys(systems),
        generated=lambda system="model": made[system],
        shown=lambda few: {
            **{name: show(few) for name, show in pictures.items()},
            **{name: made[name][0].rows()[few] for name in systems},
        },
        real=lambda few: flat(200 + np.asarray(few) // 2),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gallery, "PER_SHEET", 32)
    write_gallery(fake(), tmp_path / "r.samples")
    return tmp_path / "r.samples"


def test_every_cell_is_where_its_sheet_says(folder: Path) -> None:
    sheets = {sheet.file: sheet for sheet in read_manifest((folder / MANIFEST).read_bytes(), where="here")}
    names = "picked-made", "picked-real", "made-0", "real-0", "made-1", "real-1"
    assert [*sheets] == [f"{name}.webp" for name in names]
    grey = {"model": 10, "model, sample 2": 50, "model, sample 3": 90, "shuffled-eeg": 130, "stimulus": 200}
    grey |= {"sample 1": 10, "sample 2": 50, "sample 3": 90, "shown": 200}
    for name, sheet in sheets.items():
        pixels = np.asarray(Image.open(folder / name).convert("L"), int)
        for row, system in enumerate(sheet.rows):
            for column, trial in enumerate(sheet.trials):
                y, x = divmod(row * len(sheet.trials) + column, sheet.across)
                cell = pixels[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE]
                i = int(trial[1:]) - 5
                assert abs(cell.mean() - grey[system] - i // 2) < 2, (name, system, trial)
                assert sheet.concepts[column] == CONCEPTS[i % 2]
        assert sheet.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert sheet.real == ("real" in name)


def test_every_trial_is_reached_once_and_few_are_picked(folder: Path) -> None:
    sheets = read_manifest((folder / MANIFEST).read_bytes(), where="here")
    everything = [trial for sheet in sheets if sheet.file.startswith("made") for trial in sheet.trials]
    assert everything == [f"t{i}" for i in range(5, N + 5)]
    picked = {sheet.trials for sheet in sheets if sheet.picked}
    assert len(picked) == 1
    assert len({*picked.pop()}) == gallery.PICKED


def test_without_pictures_there_is_no_real_sheet(tmp_path: Path) -> None:
    write_gallery(fake(real=False), tmp_path / "r.samples")
    names = sorted(path.name for path in (tmp_path / "r.samples").iterdir())
    assert names == ["made-0.webp", MANIFEST, "picked-made.webp"]


def test_large_pictures_become_small_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "CELL", 8)
    write_gallery(fake(), tmp_path / "r.samples")
    sheets = read_manifest((tmp_path / "r.samples" / MANIFEST).read_bytes(), where="here")
    assert {sheet.cell for sheet in sheets} == {8}
    with Image.open(tmp_path / "r.samples" / "made-0.webp") as sheet:
        assert sheet.size == (32 * 8, -(-3 * N // 32) * 8)


def test_a_sheet_of_another_size_is_refused(folder: Path) -> None:
    sheet = read_manifest((folder / MANIFEST).read_bytes(), where="here")[0]
    data = (folder / sheet.file).read_bytes()
    check_sheet(sheet, data, where="here")
    with pytest.raises(IntegrityError, match="^here must be 384×64 for its cells, but is 512×48\\.$"):
        check_sheet(sheet.model_copy(update={"across": 24}), data, where="here")
    broken = data[:20]
    sheet = sheet.model_copy(update={"sha256": hashlib.sha256(broken).hexdigest()})
    with pytest.raises(IntegrityError, match="^here must be WebP, but cannot be read: "):
        check_sheet(sheet, broken, where="here")

"""``zoo audit``: verdict, evidence, plot and exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo import runner
from zoo.audits.leakage import timeline
from zoo.cli import app
from zoo.datasets.base import load
from zoo.plots import audit_plot


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests of this file, so that phantoms are made once."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(autouse=True)
def _cache(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(prepared))


def test_a_clean_split_is_exit_0_with_every_number_as_json_and_a_plot(tmp_path: Path) -> None:
    path = tmp_path / "audit.png"
    result = CliRunner().invoke(app, ["audit", "phantom", "--json", "--plot", str(path)])
    told = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, f"plot: {path}\n")
    assert (told["dataset"], told["split"], told["verdict"]) == ("phantom", "stimulus-out@1", "clean")
    asked = ("recording_lookup", "block_lookup", "neighbour", "position", "baseline", "means", "band_0-5_hz")
    for question in asked:
        low, chance, high = (told[f"{question}_{key}"] for key in ("low", "chance", "high"))
        assert low <= chance + 1e-9  # where every relabelling scores the same, the three differ by rounding
        assert chance <= high + 1e-9
        assert 0 < told[f"{question}_p"] <= 1
        assert told[f"{question}_n"] == 648
    assert (told["stimulus_id_shared"], told["stimulus_id_test"], told["subject_shared"]) == (0, 36, 6)
    assert (told["pictures_test"], told["pictures_same"]) == (36, 0)
    assert told["block_association"] < 0.1
    assert len(told["sentences"]) > len(asked)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_a_confounded_split_is_exit_3_and_drawn_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "audit.png"
    result = CliRunner().invoke(app, ["audit", "phantom-block", "--plot", str(path)])
    assert result.exit_code == 3
    assert result.stdout.startswith("phantom-block block@1: confounded\n  ")
    assert path.stat().st_size > 10_000


def test_pictures_are_made_small_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("phantom")
    first = runner.audit(data, data.split("subject-out"))
    monkeypatch.setattr(type(data), "stimulus_pixels", lambda *_: pytest.fail("decoded again"))
    assert runner.audit(data, data.split("subject-out")).evidence == first.evidence
    assert first.evidence["pictures_same"] == first.evidence["pictures_test"] == 144  # all people see the same ones


def test_bars_are_as_long_as_the_accuracies(tmp_path: Path) -> None:
    """Red is the colour of leaks alone: a block design shows it, a mixed one does not."""
    red = {}
    for name in ("phantom", "phantom-block"):
        data = load(name)
        report = runner.audit(data, data.split(None))
        shown = np.full_like(timeline(data.trials, data.labels), -1)  # an empty timeline, which has colours of its own
        audit_plot(report, shown, tmp_path / "plot.png", concepts=data.concepts, title=name)
        with Image.open(tmp_path / "plot.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        left = pixels[:, : pixels.shape[1] // 3]
        red[name] = int((np.abs(left - [192, 57, 43]).max(axis=2) <= 2).sum())
    assert red["phantom"] == 0
    assert red["phantom-block"] > 10_000

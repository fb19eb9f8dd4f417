"""What is written down while a model trains is the same however often it was stopped, and changes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.test_training import Line
from zoo import registry, sketches, weights
from zoo.datasets.base import load
from zoo.errors import IntegrityError
from zoo.journal import LINES, LOOKS, Journal
from zoo.training import fit

TINY: dict[str, Any] = {"encoder_steps": 3, "gan_steps": 10, "gan_batch_size": 8}


def lines(folder: Path) -> list[dict[str, Any]]:
    return Journal(folder, "line", 1).lines()


def test_every_step_is_noted_with_its_losses_and_scores(tmp_path: Path) -> None:
    fit(Line(30, target=0.5), tmp_path, seed=3)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == list(range(1, 31))
    assert all({*line} == {"step", "square", "validation"} for line in found)
    alone = Line(1, target=0.5)
    fit(alone, tmp_path / "alone", seed=3)
    assert lines(tmp_path / "alone") == [{**found[0], "validation": -abs(alone.slope - 0.5)}]


def test_a_run_that_was_killed_leaves_the_notes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """Notes are ahead of the checkpoint by then, the last of them cut off."""
    fit(Line(30), tmp_path / "whole", seed=3)
    folder = tmp_path / "parts"
    for stop in (9, 17):
        parts = Line(30)
        parts.stop_at = stop
        with pytest.raises(KeyboardInterrupt):
            fit(parts, folder, seed=3)
        shutil.copy(folder / "line.safetensors", tmp_path / f"{stop}.safetensors")
    shutil.copy(tmp_path / "9.safetensors", folder / "line.safetensors")
    with (folder / "line.losses.jsonl").open("a") as file:
        file.write('{"step": 18, "squ')
    fit(Line(30), folder, seed=3)
    assert lines(folder) == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(folder)] == list(range(1, 31))


def test_damaged_notes_are_named(tmp_path: Path) -> None:
    fit(Line(3), tmp_path, seed=3)
    path = tmp_path / "line.losses.jsonl"
    path.write_text('{"step": 1}\n\0\0\0\n')
    sentence = (
        f"{path} is damaged (Expecting value: line 1 column 1 (char 0)); delete it and run the same command again."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
        fit(Line(3), tmp_path, seed=3)
    path.unlink()
    assert fit(Line(3), tmp_path, seed=3).done


def test_a_long_phase_is_noted_at_even_distances(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "long", 2500)
    for step in range(1, 2501):
        journal.note(step, {"loss": 1.0}, score=0.5 if step == 1001 else None)
    steps = [line["step"] for line in journal.lines()]
    assert len(steps) <= LINES + 1
    assert steps == sorted({*range(3, 2500, 3), 1001, 2500})


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_pictures_are_of_the_average_and_change_nothing(tmp_path: Path, ema_decay: float | None) -> None:
    plain, drawn = Line(20, ema_decay=ema_decay), Line(20, ema_decay=ema_decay)
    slopes: list[float] = []

    def draw() -> np.ndarray:
        slopes.append(drawn.slope)
        return np.full((3, 3, 4, 5), len(slopes), np.uint8)

    fit(plain, tmp_path / "plain", seed=3)
    fit(drawn, tmp_path / "drawn", seed=3, draw=draw)
    assert drawn.slope == plain.slope == slopes[-1], "the last pictures are of the result"
    strips = dict(Journal(tmp_path / "drawn", "line", 1).strips())
    assert [*strips] == [3, 5, 8, 10, 13, 15, 18, 20]
    assert len(slopes) == LOOKS
    for number, path in enumerate(strips.values(), start=1):
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (4, 15, 3)
        assert (pixels == number).all()
    assert lines(tmp_path / "drawn") == lines(tmp_path / "plain")


def test_a_weights_folder_shows_how_its_model_was_trained(cache: Path) -> None:
    folder = zoo.train("eeg2image.small", "phantom", overrides=TINY, select="last", device="cpu", quiet=True)
    named = {path.name for path in folder.iterdir()} - {"model.safetensors", "weights.json"}
    assert named == {"encoder.losses.jsonl", "gan.losses.jsonl", "gan.samples.png", "losses.png"}
    assert [line["step"] for line in Journal(folder, "gan", 10).lines()] == list(range(1, 11))
    sheet = np.asarray(Image.open(folder / "gan.samples.png"))
    assert sheet.shape == (64 * (1 + LOOKS), 90 + 64 * 12, 3)

    data = load("phantom")
    model, _ = weights.load(folder)
    seen = sketches.Sketches(model, data, data.training_data(data.split()), 0, "cpu")
    assert {data.roles(data.split())[row] for row in seen.rows} == {"val"}
    assert np.bincount(data.labels[seen.rows]).tolist() == [2] * 6
    (kept,) = (cache / "training").glob("*/gan.samples/step-00000010.png")
    np.testing.assert_array_equal(np.asarray(Image.open(kept)), np.concatenate([*seen.draw().transpose(0, 2, 3, 1)], 1))


def test_looking_leaves_modes_as_they_were(cache: Path) -> None:
    card, data = registry.models.get("eeg2image.small"), load("phantom")
    torch.manual_seed(0)
    net = weights.build(card, data.spec)
    net.train()
    net.parts()["encoder"].eval()
    before = [module.training for module in net.modules()]
    seen = sketches.Sketches(net, data, data.training_data(data.split()), 0, "cpu")
    np.testing.assert_array_equal(seen.draw(), seen.draw())
    assert [module.training for module in net.modules()] == before
    assert set(before) == {True, False}

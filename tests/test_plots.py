"""Pictures for people: what is drawn is what was counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.plots import confusion_plot


@pytest.mark.parametrize("n", [2, 12, 41])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(n: int, tmp_path: Path) -> None:
    counts = np.eye(n, dtype=int) * 5
    counts[0] = 0  # a class without trials
    confusion_plot(counts, tmp_path / "a.png", concepts=tuple(f"c{i}" for i in range(n)), title="t")
    confusion_plot(counts[::-1], tmp_path / "b.png", concepts=tuple(f"c{i}" for i in range(n)), title="t")
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert first.size == second.size
        assert first.size[0] > 300
        left, right = np.asarray(first.convert("RGB")), np.asarray(second.convert("RGB"))
    assert (left != right).any()


def test_dark_cells_are_where_trials_were_named(tmp_path: Path) -> None:
    """The darkest blue covers as much of the picture as there are cells of 1, beside what the colour bar takes."""
    dark = []
    for cells in ([1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]):
        confusion_plot(np.diag(cells) * 7, tmp_path / "drawn.png", concepts=("a", "b", "c", "d"), title="")
        with Image.open(tmp_path / "drawn.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        dark.append(int((np.abs(pixels - (8, 48, 107)).sum(axis=2) < 12).sum()))
    bar = dark[2]
    assert dark[0] - bar == pytest.approx(2 * (dark[1] - bar), rel=0.02)
    assert dark[1] - bar > 1000

"""Pictures where people would rather look. matplotlib is imported by the functions that draw."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.store import write_bytes


@dataclass(frozen=True)
class Grid:
    """Example images: one column per trial, one row per system.

    Shape:
        concepts: one name per column; rows: system → (n_columns, 3, height, width) uint8.
    """

    concepts: tuple[str, ...]
    rows: Mapping[str, np.ndarray]


def sample_grid(grid: Grid, path: Path, *, title: str) -> None:
    """Write a labelled PNG: what was shown, what the model made of it, and what its controls made."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(grid.concepts)
    figure = Figure(figsize=(1.7 + 0.8 * n, 0.5 + 0.85 * len(grid.rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(grid.rows), n, squeeze=False)
    for line, (system, images) in zip(axes, grid.rows.items(), strict=True):
        for column, (axis, image) in enumerate(zip(line, images, strict=True)):
            axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if line is axes[0]:
                axis.set_title(grid.concepts[column], fontsize=8)
            if column == 0:
                axis.set_ylabel(system, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=10)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())

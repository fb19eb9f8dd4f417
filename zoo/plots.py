"""Pictures where people would rather look. matplotlib is imported by the functions that draw."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.store import write_bytes

if TYPE_CHECKING:
    from zoo.audits.leakage import Finding, LeakageReport


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
    for row, (line, (system, images)) in enumerate(zip(axes, grid.rows.items(), strict=True)):
        for column, (axis, image) in enumerate(zip(line, images, strict=True)):
            axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(grid.concepts[column], fontsize=8)
            if column == 0:
                axis.set_ylabel(system, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=10)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())


def training_sheet(shown: Sequence[np.ndarray], strips: Mapping[int, Path], path: Path, *, side: int = 64) -> None:
    """Write a PNG: pictures that were shown, and below them what a model made of those trials, step by step.

    Args:
        shown: One (height, width, 3) uint8 per column.
        strips: Step → picture file with the columns side by side.
    """
    from PIL import Image, ImageDraw

    real = [Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR) for pixels in shown]
    margin, width = 90, side * len(real)
    sheet = Image.new("RGB", (margin + width, side * (1 + len(strips))), "white")
    write = ImageDraw.Draw(sheet)
    write.text((4, side // 2 - 6), "shown", fill="black")
    for column, picture in enumerate(real):
        sheet.paste(picture, (margin + column * side, 0))
    for line, (step, strip) in enumerate(sorted(strips.items()), start=1):
        write.text((4, line * side + side // 2 - 6), f"step {step:,}", fill="black")
        with Image.open(strip) as row:
            sheet.paste(row.convert("RGB").resize((width, side), Image.Resampling.NEAREST), (margin, line * side))
    sink = io.BytesIO()
    sheet.save(sink, format="png")
    write_bytes(path, sink.getvalue())


def losses_plot(phases: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw as PNG how losses went, one panel per phase; validation scores have an axis of their own.

    Args:
        phases: Name → notes of ``zoo.journal``: ``step``, losses by name, ``validation`` where there is one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(phases), 3.2), dpi=110, layout="tight")
    FigureCanvasAgg(figure)
    for axis, (phase, notes) in zip(figure.subplots(1, len(phases), squeeze=False)[0], phases.items(), strict=True):
        for name in dict.fromkeys(name for note in notes for name in note if name not in ("step", "validation")):
            seen = [(note["step"], note[name]) for note in notes if name in note]
            axis.plot(*zip(*seen, strict=True), label=name, linewidth=0.8)
        axis.set(title=phase, xlabel="step", ylabel="loss")
        axis.legend(fontsize=7, loc="upper right")
        if scored := [(note["step"], note["validation"]) for note in notes if "validation" in note]:
            scores = axis.twinx()
            scores.plot(*zip(*scored, strict=True), "k.", markersize=3)
            scores.set_ylabel("validation score", fontsize=8)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())


def confusion_plot(counts: np.ndarray, path: Path, *, concepts: tuple[str, ...], title: str) -> None:
    """Draw as PNG what share of the trials of every class was named which class.

    Shape:
        counts: (n_classes, n_classes) numbers of trials; row: shown, column: named. A class without trials stays blank.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n, share = len(concepts), shares(counts)
    size = min(2.5 + 0.45 * n, 14)
    figure = Figure(figsize=(size + 1, size), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    drawn = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xlabel="named", ylabel="shown", title=title)
    axis.title.set_fontsize(9)
    if n <= 40:
        axis.set_xticks(range(n), concepts, rotation=90, fontsize=8)
        axis.set_yticks(range(n), concepts, fontsize=8)
    if n <= 12:
        for row, column in np.argwhere(np.isfinite(share)):
            dark = "white" if share[row, column] > 0.5 else "black"
            axis.text(column, row, f"{share[row, column]:.2f}", ha="center", va="center", fontsize=7, color=dark)
    figure.colorbar(drawn, ax=axis, label="share of the trials of a class")
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())


def map_plot(
    points: np.ndarray, names: Sequence[str], path: Path, *, title: str, pictures: np.ndarray | None = None
) -> None:
    """Draw points in the plane as PNG, one colour per name; ``pictures`` are crosses beside them.

    Shape:
        points: (n, 2); names: (n,); pictures: (m, 2).
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis, each = figure.subplots(), np.array(names)
    if pictures is not None and len(pictures):
        axis.scatter(pictures[:, 0], pictures[:, 1], s=16, c="black", marker="x", linewidths=0.8, label="pictures")
    found = np.unique(each)
    colours = matplotlib.colormaps["tab10" if len(found) <= 10 else "tab20"]
    for number, name in enumerate(found):
        x, y = points[each == name].T
        axis.scatter(x, y, s=14, color=colours(number % colours.N), linewidths=0, label=name)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())


def shares(counts: np.ndarray) -> np.ndarray:
    """Rows of counts as shares of their sum; NaN where that is 0.

    Example:
        >>> shares(np.array([[3, 1], [0, 0]])).tolist()
        [[0.75, 0.25], [nan, nan]]
    """
    total = counts.sum(axis=1, keepdims=True)
    found: np.ndarray = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return found


def audit_plot(
    report: LeakageReport, timeline: np.ndarray, path: Path, *, concepts: tuple[str, ...], title: str, most: int = 40
) -> None:
    """Draw an audit as PNG: accuracies against what chance gives, who saw what when, and accuracies by band.

    Of more than ``most`` runs as many are shown, evenly chosen.

    Shape:
        timeline: (n_runs, n_positions) classes, -1 where there is no trial.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1.5, 0.8))
    bands = [found for found in report.findings if found.name.startswith("band_")]
    _bars(left, report, [found for found in report.findings if found not in bands], "without the brain?")
    _bars(right, report, bands, "by band (decides nothing)")
    shown = timeline[np.unique(np.linspace(0, len(timeline) - 1, most).astype(int))]
    scale = {"cmap": "turbo", "vmin": 0, "vmax": len(concepts) - 1}
    drawn = middle.imshow(np.ma.masked_less(shown, 0), aspect="auto", interpolation="nearest", **scale)
    middle.set(title=f"class of every trial, {len(shown)} of {len(timeline)} runs", xlabel="order", yticks=[])
    bar = figure.colorbar(drawn, ax=middle, ticks=range(len(concepts)) if len(concepts) <= 20 else None)
    if len(concepts) <= 20:
        bar.ax.set_yticklabels(concepts, fontsize=7)
    figure.suptitle(title)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())


def _bars(axis: Any, report: LeakageReport, findings: list[Finding], title: str) -> None:
    """One bar per question; grey is where 95 % of the relabelled test roles end."""
    colours = {"leak": "#c0392b", "trace": "#e67e22", "no leak": "#2e86c1", "told": "#7d8b99", "not told": "#c5ced6"}
    for row, found in enumerate(findings):
        axis.barh(row, found.accuracy, color=colours[report.outcome(found)], height=0.6)
        axis.fill_betweenx([row - 0.42, row + 0.42], found.low, found.high, color="black", alpha=0.25, linewidth=0)
        axis.plot([found.chance] * 2, [row - 0.42, row + 0.42], color="black", linewidth=1)
        axis.text(1.02, row, f"{found.accuracy:.2f} {report.outcome(found)}", va="center", fontsize=7)
    if not findings:
        axis.text(0.5, 0.5, "not asked", ha="center", va="center", transform=axis.transAxes)
    axis.set(title=title, xlim=(0, 1), xlabel="accuracy; line: chance, grey: its 95 %")
    axis.set_yticks(range(len(findings)), [_label(found.name) for found in findings])
    axis.invert_yaxis()


def _label(question: str) -> str:
    return question.removeprefix("band_").replace("_hz", " Hz").replace("_", " ")


def response_plot(
    responses: Mapping[str, np.ndarray],
    times: np.ndarray,
    path: Path,
    *,
    channels: tuple[str, ...],
    conditions: tuple[str, ...],
    title: str,
) -> None:
    """Draw predicted beside recorded evoked responses as PNG: a row per condition, a column per channel.

    Shape:
        responses: name (``recorded``, ``predicted``) → (n_conditions, n_channels, n_times); times: (n_times,) seconds.
    """
    figure, axes = _axes(len(conditions), len(channels), title)
    for name, made in responses.items():
        for row, (line, condition) in enumerate(zip(axes, conditions, strict=True)):
            for column, (axis, channel) in enumerate(zip(line, channels, strict=True)):
                axis.plot(1000 * times, made[row, column], linewidth=1, label=name)
                axis.axvline(0, color="black", linewidth=0.5)
                if row == 0:
                    axis.set_title(channel, fontsize=8)
                if column == 0:
                    axis.set_ylabel(condition, fontsize=8)
    axes[0, -1].legend(fontsize=7, frameon=False)
    axes[-1, 0].set_xlabel("ms after onset", fontsize=8)
    _write(figure, path)


def correlation_plot(
    curves: Mapping[str, np.ndarray],
    times: np.ndarray,
    path: Path,
    *,
    ch_names: tuple[str, ...],
    title: str,
    similarity: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Draw correlations as PNG: their time course over channels, with ceilings, and their place at the best time.

    With ``similarity``, representational similarity over time stands beside them.

    The head is drawn with the standard 10-20 places of the channels (MNE); without the extra ``mne``, or for channels
    that it does not know, bars stand in its place.

    Shape:
        curves: name → (n_channels, n_times); the first is the model's, which the head shows; times: (n_times,) seconds.
        similarity: name → (n_times,).
    """
    figure, axes = _axes(1, 3 if similarity else 2, title, width=5.0, height=3.4)
    course, head, *beside = axes[0]
    _course(course, {name: values.mean(0) for name, values in curves.items()}, times)
    course.set(ylabel="Pearson r over pictures, mean over channels")
    if similarity:
        _course(beside[0], similarity, times)
        beside[0].set(ylabel="Spearman of dissimilarities (RSA)")
    model = next(iter(curves.values()))
    best = int(model.mean(0).argmax())
    places = _places(ch_names)
    if places is None:
        head.barh(range(len(ch_names)), model[:, best])
        head.set_yticks(range(len(ch_names)), ch_names, fontsize=6)
    else:
        drawn = head.scatter(*places.T, c=model[:, best], s=140, cmap="viridis")
        for name, (x, y) in zip(ch_names, places, strict=True):
            head.annotate(name, (x, y), fontsize=5, ha="center", va="center", color="white")
        head.margins(0.12)
        head.set(aspect="equal", xticks=[], yticks=[])
        figure.colorbar(drawn, ax=head, shrink=0.8)
    head.set_title(f"at {1000 * times[best]:.0f} ms", fontsize=9)
    _write(figure, path)


def _course(axis: Any, curves: Mapping[str, np.ndarray], times: np.ndarray) -> None:
    for name, values in curves.items():
        axis.plot(1000 * times, values, linewidth=1.2, label=name)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.axvline(0, color="black", linewidth=0.5)
    axis.set(xlabel="ms after onset")
    axis.legend(fontsize=7, frameon=False)


def _places(ch_names: tuple[str, ...]) -> np.ndarray | None:
    """(n_channels, 2) places from above, nose up, None where they are not known."""
    try:
        from mne.channels import get_builtin_montages, make_standard_montage
    except ImportError:
        return None
    renamed = "colin27_1005"  # what MNE calls standard_1005 from 1.13 on
    name = renamed if renamed in get_builtin_montages() else "standard_1005"
    known = make_standard_montage(name).get_positions()["ch_pos"]
    if not set(ch_names) <= set(known):
        return None
    return np.array([known[name][:2] for name in ch_names])


def _axes(rows: int, columns: int, title: str, *, width: float = 2.0, height: float = 1.6) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + width * columns, 0.5 + height * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _write(figure: Any, path: Path) -> None:
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    write_bytes(path, sink.getvalue())

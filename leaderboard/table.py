"""Ranked tables for a terminal and for other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from leaderboard.ranking import Row, Table

if TYPE_CHECKING:
    from leaderboard.claims import ClaimRow
    from leaderboard.compare import Comparison, Difference

COLOURS = {"clean": "green", "suspect": "yellow", "confounded": "bold red", "unknown": "dim"}
TIES = {
    "paired": "=: not shown to differ by paired tests of all pairs; 'zoo compare A B' tests a pair named beforehand",
    "intervals": "=: intervals overlap; 'zoo compare A B' tests a pair on the trials they share",
    "mixed": "=: not shown to differ, by paired tests or, where values per trial are missing, by intervals",
}
PER_GRID = 5
"""Other metrics side by side: what 80 columns hold."""


def render(tables: list[Table], metrics: Sequence[str] = ()) -> RenderableType:
    """All tables below one another; every verdict is a word, so nothing is lost without colour.

    A row shows rank (``=`` marks a tie), model, headline with its interval, margin over shuffled EEG, audit verdict and
    how the checkpoint was selected. The split, the same for all rows, stands in the title.

    Args:
        metrics: Further metrics to show, where the table has them.
    """
    if not tables:
        return Text("No records yet.")
    return Group(*(part for table in tables for part in _parts(table, metrics)))


def as_json(tables: list[Table]) -> list[dict[str, Any]]:
    """The same as plain JSON data; ``record`` and ``run`` of a row lead to everything else."""
    return [
        {
            **{key: getattr(table, key) for key in ("track", "split", "metric", "signature", "higher_is_better")},
            "confounded": table.confounded,
            "ties": table.ties,
            "notes": list(table.notes),
            **{part: [_row_json(row) for row in getattr(table, part)] for part in ("entries", "controls", "unscored")},
        }
        for table in tables
    ]


def render_claims(rows: Sequence[ClaimRow]) -> RenderableType:
    """Claims with their sources, each beside the record that comes closest."""
    if not rows:
        return Text("No claims.")
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("model", "dataset", "metric", "claimed", "measured", "delta", "outcome", "source"):
        numbers, folded = ("claimed", "measured", "delta"), ("model", "dataset", "source")
        grid.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=name not in folded, overflow="fold"
        )
    reasons: dict[str, None] = {}
    for row in rows:
        found = row.reproduced
        dataset = row.dataset + (f"/{row.condition}" if row.condition else "")
        claimed = _number(row.claimed) + (f" ± {_number(row.spread)}" if row.spread is not None else "")
        measured = "" if found is None else _number(found.value)
        delta = "" if found is None else f"{found.delta:+.3g}"
        source = f"{row.source} ({row.status})" + (f"; {row.note}" if row.note else "")
        cells = (row.model, dataset, row.metric, claimed, measured, delta, row.outcome, source)
        grid.add_row(*map(_text, cells))
        if row.reason:
            reasons[f"{row.model} on {row.dataset}: {row.reason}"] = None
    return Group(grid, *(_text(reason, "dim") for reason in reasons))


def render_comparison(comparison: Comparison) -> RenderableType:
    """Two sides metric by metric: what differs and how sure that is, then what the numbers rest on."""
    tests, spreads = Grid(box=None, padding=(0, 2, 0, 0)), Grid(box=None, padding=(0, 2, 0, 0))
    for grid, names in (
        (tests, ("", "A", "B", "A - B", "p units", "p seeds", "p", "better")),
        (spreads, ("", "units", "trials", "d_z", "samples A", "samples B", "seeds A", "seeds B")),
    ):
        for name in names:
            grid.add_column(name, justify="right" if name not in ("", "better") else "left", overflow="fold")
    for pair in comparison.differences:
        label = _text(
            _labelled(pair.metric, pair.higher_is_better), "bold" if pair.metric == comparison.headline else ""
        )
        tests.add_row(
            label,
            _number(pair.a),
            _number(pair.b),
            _span(pair),
            *(_known(p) for p in (pair.p_units, pair.p_seeds, pair.p)),
            _verdict(pair),
        )
        known = (pair.n_units, pair.n_trials, pair.effect, *pair.samples, *pair.seeds)
        spreads.add_row(label, *map(_known, known))
    reasons = [f"{pair.metric}: {pair.reason}." for pair in comparison.differences if pair.reason is not None]
    return Group(
        _text(comparison.track, "bold"),
        *(
            _text(f"{side}  {name}" + (f", one of {n} seeds" if n > 1 else ""))
            for side, name, n in zip("AB", (comparison.a, comparison.b), comparison.n_seeds, strict=True)
        ),
        tests,
        Text(
            "\nspread of the value between samples of one training, and between trainings (standard deviations)", "dim"
        ),
        spreads,
        *(_text(sentence, "dim") for sentence in reasons),
        *(_text(note, "yellow") for note in comparison.notes),
    )


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _span(pair: Difference) -> Text:
    text = Text(f"{pair.difference:+.3g}")
    return text if pair.interval is None else text.append(f" [{pair.interval[0]:+.3g}, {pair.interval[1]:+.3g}]", "dim")


def _verdict(pair: Difference) -> Text:
    if pair.shown is None or pair.better is None:
        return Text("")
    return Text(pair.better.upper(), "green") if pair.shown else Text("not shown", "dim")


def _row_json(row: Row) -> dict[str, Any]:
    values = {name: value.model_dump(mode="json") for name, value in row.values.items()}
    return {**asdict(row), "headline": row.headline.model_dump(mode="json"), "values": values}


def _parts(table: Table, metrics: Sequence[str]) -> Iterator[RenderableType]:
    """Title, ranks, other metrics, reasons of what has no score, notes."""
    flag = Text("  CONFOUNDED", COLOURS["confounded"]) if table.confounded else Text()
    yield _text(table.track, "bold") + flag
    yield _text(f"split {table.split}, ranked by {_labelled(table.metric, table.higher_is_better)}", "dim")
    rows = (*table.entries, *table.controls)
    if rows:
        yield _ranks(table)
    if len(table.entries) > len({row.tie for row in table.entries}):
        yield Text(TIES[table.ties], "dim")
    known = {name for row in rows for name, value in row.values.items() if value.value is not None} - {table.metric}
    others = [name for name in metrics if name in known]
    for start in range(0, len(others), PER_GRID):
        yield Text()
        yield _others(table, others[start : start + PER_GRID])
    if left := len(known - {*others}):
        yield Text(f"{left} more metrics: --metric NAME shows one, --json all", "dim")
    for row in (*table.entries, *table.controls):
        if row.state:
            yield _text(f"{row.name} {row.record[:7]} is {row.state}: {row.state_reason}", "yellow")
    for row in table.unscored:
        yield _text(f"{row.name} {row.record[:7]} has no score: {row.headline.reason}")
    for note in table.notes:
        yield Text(note, "yellow")
    yield Text()


def _grid(*columns: str) -> Grid:
    """An empty grid whose first two columns are place and model."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold")
    grid.add_column("#", justify="right", no_wrap=True)
    grid.add_column("model", overflow="fold")
    for name in columns:
        grid.add_column(_text(name), no_wrap=name == "audit", overflow="fold")
    return grid


def _ranks(table: Table) -> Grid:
    grid = _grid(_labelled(table.metric, table.higher_is_better), "over shuffled", "audit", "selection")
    for place, model, row in _lines(table):
        margin = Text("" if row.margin is None else f"{row.margin:+.3g}", "red" if (row.margin or 1) <= 0 else "")
        ranked = row.rank is not None
        trust = (Text(row.verdict, COLOURS[row.verdict]), _text(row.selection)) if ranked else ("", "")
        grid.add_row(place, model, _headline(row), margin, *trust)
    return grid


def _others(table: Table, metrics: list[str]) -> Grid:
    """The other metrics of the same rows; names break at their underscores."""
    shown = {name: value for row in (*table.entries, *table.controls) for name, value in row.values.items()}
    grid = _grid(*(_labelled(name, shown[name].higher_is_better).replace("_", "_\n") for name in metrics))
    for place, model, row in _lines(table):
        found = (row.values.get(name) for name in metrics)
        grid.add_row(place, model, *("" if value is None else _number(value.value) for value in found))
    return grid


def _lines(table: Table) -> Iterator[tuple[str, Text, Row]]:
    """Place, name and row of every entry and control; the id stands where the name alone is not one row."""
    crowd = Counter(row.tie for row in table.entries)
    twins = Counter(row.name for row in table.entries)
    for row in table.entries:
        model = _text(row.name)
        if twins[row.name] > 1:
            model.append(f" {row.record[:7]}", "dim")
        if row.level != "self":
            model.append(f" {row.level}", "green")
        yield f"{row.rank}{'=' if crowd[row.tie] > 1 else ' '}", model, row
    for row in table.controls:
        yield "", _text(row.name, "italic"), row


def _headline(row: Row) -> Text:
    """Value with its interval; below, how well further runs of the same identity agree."""
    value = row.headline
    if value.value is None:
        return _text(f"none: {value.reason}")
    text = Text(_number(value.value))
    if value.interval is not None:
        text.append(f" [{_number(value.interval[0])}, {_number(value.interval[1])}]", "dim")
    if row.reproductions:
        times = "once" if row.reproductions == 1 else f"{row.reproductions} times"
        text.append(f"\nreproduced {times}, spread {_number(row.spread)}", "dim")
    return text


def _text(words: str, style: str = "") -> Text:
    """Words of a record, which a stranger may have written: neither markup nor control characters act."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in words), style)


def _labelled(metric: str, higher_is_better: bool | None) -> str:
    return metric if higher_is_better is None else f"{metric} {'↑' if higher_is_better else '↓'}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"

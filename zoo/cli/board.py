"""Records beside one another: push, rank, compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import BoardUrl, Json, console, group, print_json, show_board

app = group("Records beside one another.")
leaderboard_app = group("Compare records.")


@app.command()
def push(
    records: Annotated[list[Path], typer.Argument(help="Record files; their per-unit values lie beside them.")],
    board: Annotated[str, typer.Option("--board", help="Folder or fsspec URL.")],
    allow_partial: Annotated[bool, typer.Option(help="Push partial records too.")] = False,
) -> None:
    """Put records on a board; one that is there already is left alone."""
    from leaderboard.board import FsBoard
    from zoo.record import Record

    for path in records:
        units = path.with_suffix(".units.parquet")
        place = FsBoard(board).push(
            Record.read(path), units.read_bytes() if units.exists() else None, allow_partial=allow_partial
        )
        sys.stdout.write(f"{place}\n")


@leaderboard_app.command("show")
def leaderboard_show(
    board: BoardUrl = None,
    track: Annotated[str | None, typer.Option(help="Only this track.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Show this metric too.")] = None,
    as_json: Json = False,
) -> None:
    """Rank records, one table per track, controls included."""
    from zoo import registry

    names = [registry.metrics.get(name).id for name in metrics or ()]
    show_board(board, track=track, metrics=names, as_json=as_json)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A record file, the first digits of a record id, or a model on the board.")],
    b: Annotated[str | None, typer.Argument(help="The other one; a control of the same record if omitted.")] = None,
    control: Annotated[str | None, typer.Option(help="Control to compare A with; shuffled-eeg if omitted.")] = None,
    track: Annotated[str | None, typer.Option(help="Where models are compared.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Only these, chosen before looking.")] = None,
    board: BoardUrl = None,
    as_json: Json = False,
) -> None:
    """Test on the same trials whether one record is better than another, or than its own control."""
    from dataclasses import asdict

    from leaderboard.board import FsBoard
    from leaderboard.compare import compare as run
    from leaderboard.compare import find_sides
    from leaderboard.ranking import SHUFFLED
    from leaderboard.table import render_comparison
    from zoo.errors import UsageError
    from zoo.store import cache_dir

    if b is not None and control is not None:
        raise UsageError(f"--control is for one record beside its own control; leave it out or leave out {b}.")
    url = board or str(cache_dir("board"))
    if board is not None and "://" not in board and not Path(board).is_dir():
        raise UsageError(f"--board must be a folder that exists or a URL, but {board} is not; check its spelling.")
    kept = FsBoard(url)
    records = [*kept.records()]
    for problem in kept.problems:
        sys.stderr.write(f"left out: {problem}\n")
    sides = find_sides(a, b, board=url, records=records, track=track, control=control or SHUFFLED)
    found = run(*sides, metrics=metrics or ())
    if as_json:
        print_json(asdict(found))
        return
    console().print(render_comparison(found))

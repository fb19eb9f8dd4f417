"""Many cells at once: plan, run, look, go on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.common import Device, Json, Quiet, group, print_json, settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from zoo.sweep import Engine, Event, Status, Sweep

root = group("What many cells need.")
app = group("Many models, datasets, splits and seeds; the same command goes on, whatever died.")
MODELS = "--models, such as 'eeg2image.small,eeg-gan.small' or '*.small'"
DATASETS = "--datasets, such as 'phantom,muse-n170' or 'envisioned-*'"
EVERY_SECONDS = 30.0
"""Between two lines that say where everything stands, where there is no terminal."""
SHOWN_FAILURES = 5
OutputDir = Annotated[Path | None, typer.Option(help="Where records/ grows; this machine's board if omitted.")]
Name = Annotated[str | None, typer.Argument(help="How its id begins; the one started last if omitted.")]
Parallel = Annotated[int | None, typer.Option(help="Cells at a time; here one, or one per GPU, if omitted.")]


@app.callback(invoke_without_command=True)
def sweep(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Option(help="Names or patterns, with commas between.")] = None,
    datasets: Annotated[list[str] | None, typer.Option(help="Names or patterns, with commas between.")] = None,
    splits: Annotated[list[str] | None, typer.Option(help="Of each dataset, if it has them; all with a track.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2 or 0-4.")] = "0",
    train: Annotated[bool, typer.Option("--train/--no-train", help="Train what is not trained yet.")] = True,
    select: Annotated[str, typer.Option(help="val, last or test: as zoo train does it.")] = "val",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Config field to change, as name=value.")] = None,
    replicates: Annotated[int | None, typer.Option(help="Images per trial; the track's number if omitted.")] = None,
    limit: Annotated[int | None, typer.Option(help="Score only so many test trials: partial records.")] = None,
    device: Device = "auto",
    executor: Annotated[str, typer.Option(help="here or slurm.")] = "here",
    max_parallel: Parallel = None,
    gpus_per_task: Annotated[int, typer.Option(help="GPUs of one cell; 0 asks for none.")] = 1,
    partition: Annotated[str | None, typer.Option(help="Of SLURM.")] = None,
    time_: Annotated[str | None, typer.Option("--time", help="Of SLURM, as minutes or H:MM:SS.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of SLURM, such as 16G.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it takes.")] = False,
    output_dir: OutputDir = None,
    offline: Annotated[bool, typer.Option(help="Never ask the network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate every model on every split of every dataset, with every seed."""
    if context.invoked_subcommand is not None:
        return
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from pydantic import ValidationError

    from zoo.cells import Options
    from zoo.errors import UsageError
    from zoo.sweep import Engine, plan

    try:
        options = Options(
            train=train,
            overrides=settings(set_ or []),
            select=select,  # type: ignore[arg-type]
            limit=limit,
            replicates=replicates,
            device=device,  # type: ignore[arg-type]
        )
        engine = Engine(
            executor=executor,  # type: ignore[arg-type]
            max_parallel=max_parallel,
            gpus_per_task=gpus_per_task,
            partition=partition,
            time=time_,
            memory=memory,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{str(first['loc'][0]).replace('_', '-')} {first['input']!r}: {first['msg']}; see --help."
        ) from error
    planned = plan(
        _words(models, MODELS),
        _words(datasets, DATASETS),
        splits=_words(splits, None),
        seeds=_seeds(seeds),
        options=options,
        board=_board(output_dir),
        engine=engine,
    )
    if dry_run:
        _foretell(planned, engine, as_json=as_json)
    else:
        _run(planned, as_json=as_json, quiet=quiet)


@app.command()
def status(name: Name = None, output_dir: OutputDir = None, as_json: Json = False) -> None:
    """Where a sweep stands: queued, running, done, failed and why, what is left, GPU hours."""
    from zoo.cli.common import console
    from zoo.sweep import Sweep, Watch

    sweep = Sweep.read(_board(output_dir), name)
    found = Watch(sweep).look()
    if as_json:
        print_json({"sweep": sweep.id, **found.as_json()})
    else:
        console().print(_table(sweep, found, failures=len(found.failed)))


@app.command()
def resume(
    name: Name = None,
    max_parallel: Parallel = None,
    output_dir: OutputDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a sweep as it was started; failed cells are tried again."""
    from dataclasses import replace

    from zoo.sweep import Sweep, renewed

    sweep = renewed(Sweep.read(_board(output_dir), name))
    if max_parallel is not None:
        sweep = replace(sweep, engine=sweep.engine.model_copy(update={"max_parallel": max_parallel}))
    _run(sweep, as_json=as_json, quiet=quiet)


@app.command("cell", hidden=True)
def cell_(cell: str, output_dir: OutputDir = None) -> None:
    """One cell, given as JSON: what an executor runs."""
    from zoo.cells import Cell, Cells
    from zoo.crew import here
    from zoo.launch import end_when_told

    end_when_told()
    ended = Cells(_board(output_dir)).run(Cell.model_validate_json(cell))
    if here().size > 1 and here().first and (ended is None or ended.status == "failed"):
        raise typer.Exit(1)  # so that the others of a group do not wait for this one


@root.command()
def download(
    models: Annotated[list[str] | None, typer.Option(help="Names or patterns, with commas between.")] = None,
    datasets: Annotated[list[str] | None, typer.Option(help="Names or patterns, with commas between.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is here and what is not; fetch nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Bring the datasets, weights and extractors that a sweep needs, to run it later without a network."""
    from zoo import registry
    from zoo.cli.common import shown_progress
    from zoo.errors import MissingError, ZooError
    from zoo.prefetch import needs
    from zoo.sweep import named, size

    chosen = [registry.models.get(name) for name in named("models", _words(models, MODELS))]
    rooms = [registry.datasets.get(name) for name in named("datasets", _words(datasets, DATASETS))]
    left = 0
    with shown_progress(quiet) as progress:
        for need in needs(chosen, rooms, progress, lambda sentence: quiet or sys.stderr.write(f"{sentence}\n")):
            state, bytes_ = "here", f"  {size(need.size)}" if need.size else ""
            if need.missing is not None and need.bring is not None and not dry_run:
                try:
                    need.bring()
                    state = "brought"
                except ZooError as error:
                    state, left = f"not here: {' '.join(str(error).split())}", left + 1
            elif need.missing is not None:
                state, left = f"not here: {' '.join(need.missing.split())}", left + 1
            sys.stdout.write(f"{need.kind:<10}{need.name}{bytes_}  {state}\n")
    if left and not dry_run:
        raise MissingError(f"{left} of these could not be brought; the lines above say what to do.")


def _board(output_dir: Path | None) -> Path:
    from zoo.store import cache_dir

    return (output_dir or cache_dir("board")).absolute()


def _words(given: list[str] | None, needed: str | None) -> list[str]:
    """Names out of options that may be given again and may hold commas."""
    from zoo.errors import UsageError

    found = [word.strip() for text in given or [] for word in text.split(",") if word.strip()]
    if needed and not found:
        raise UsageError(f"a sweep needs {needed}.")
    return found


def _seeds(text: str) -> list[int]:
    """``0,1,2`` or ``0-4`` or both."""
    from zoo.errors import UsageError

    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)):
            raise UsageError(f"--seeds takes numbers such as 0,1,2 or 0-4, not {text!r}.")
        found += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(found))


def _foretell(sweep: Sweep, engine: Engine, *, as_json: bool) -> None:
    from dataclasses import asdict

    from zoo.sweep import cost, parallel_of, told

    found = cost(sweep, parallel_of(engine))
    if as_json:
        cells = [{**told(cell), "refused": sweep.refused.get(cell.id)} for cell in sweep.cells]
        print_json({"sweep": sweep.id, **asdict(found), "wall_seconds": found.wall_seconds, "planned": cells})
        return
    for cell in sweep.cells:
        why = sweep.refused.get(cell.id)
        sys.stdout.write(f"{cell}{f'   not possible here: {why}' if why else ''}\n")
    sys.stdout.write("".join(f"{line}\n" for line in found.sentences()))


def _run(sweep: Sweep, *, as_json: bool, quiet: bool) -> None:
    from zoo.cli.common import console
    from zoo.errors import ZooError
    from zoo.launch import end_when_told
    from zoo.sweep import Watch, executor_of, parallel_of, run

    end_when_told()
    events = run(sweep, executor_of(sweep), parallel=parallel_of(sweep.engine))
    with contextlib.closing(events), _shown(sweep, as_json=as_json, quiet=quiet) as show:
        for event in events:
            show(event)
    found = Watch(sweep).look()
    if as_json:
        _line({"event": "finished", "sweep": sweep.id, **found.as_json()})
    else:
        console().print(_table(sweep, found, failures=len(found.failed)))
    if n := found.counts["failed"]:
        raise ZooError(
            f"{n} of {len(sweep.cells)} cells failed, for the reasons above; the same command tries them again."
        )


@contextlib.contextmanager
def _shown(sweep: Sweep, *, as_json: bool, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """What shows events: JSON lines, one live table on a terminal, lines elsewhere."""
    if as_json:
        yield _as_lines(lambda event: _line(_as_event(sweep, event)))
    elif quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            yield lambda event: live.update(_table(sweep, event.status, failures=SHOWN_FAILURES), refresh=True)
    else:
        yield _as_lines(lambda event: sys.stderr.write(f"{_sentence(event)}\n"))


def _as_lines(write: Callable[[Event], object]) -> Callable[[Event], None]:
    """Every event, and now and then where everything stands."""
    last = [float("-inf")]

    def show(event: Event) -> None:
        if event.kind == "look":
            if time.monotonic() - last[0] < EVERY_SECONDS:
                return
            last[0] = time.monotonic()
        write(event)

    return show


def _line(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _as_event(sweep: Sweep, event: Event) -> dict[str, Any]:
    from zoo.sweep import told

    if event.cell is None:
        return {"event": "status", "sweep": sweep.id, **event.status.as_json()}
    found: dict[str, Any] = {"event": event.kind, **told(event.cell)}
    if event.ended is not None:
        found |= event.ended.model_dump(mode="json", exclude={"cell", "status"}, exclude_none=True)
    return found


def _sentence(event: Event) -> str:
    from zoo.sweep import hours

    if event.cell is None:
        return _counts(event.status)
    if event.kind == "failed" and event.ended is not None:
        return f"failed: {event.cell}: {event.ended.reason}"
    if event.ended is not None:
        return f"done: {event.cell} in {hours(sum(event.ended.seconds.values()))}: records/{event.ended.record}"
    return f"started: {event.cell}"


def _counts(found: Status) -> str:
    from zoo.sweep import hours

    counts = ", ".join(f"{n} {state}" for state, n in found.counts.items())
    left = "" if not (found.counts["queued"] or found.counts["running"]) else "; how long is not known yet"
    if left and found.eta is not None:
        left = f"; about {hours(found.eta)} left"
    gpu = f", {found.gpu / 3600:.2f} GPU hours" if found.gpu else ""
    return f"{counts}{left}; {hours(found.spent)} computed{gpu}"


def _table(sweep: Sweep, found: Status, *, failures: int) -> RenderableType:
    """The cells that run, the last that failed, and where everything stands."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"sweep {sweep.id}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("cell", "doing", "of it", "on"):
        table.add_column(name, no_wrap=name != "doing", overflow="ellipsis")
    for cell, now in found.running:
        doing = now.what.partition(" (")[0] if now else "starting"
        part = f"{now.done / now.total:.0%}" if now and now.total > 1 else ""
        table.add_row(escape(str(cell)), escape(doing), part, escape(now.where) if now else "")
    lines = [
        Text(f"failed: {cell}: {reason}", style="red")
        for cell, reason in (found.failed[-failures:] if failures else [])
    ]
    shown = [table] if found.running else [Text(f"sweep {sweep.id}")]
    return Group(*shown, *lines, Text(_counts(found)))

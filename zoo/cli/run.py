"""The main job: train, evaluate, generate."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.common import (
    Dataset,
    Device,
    Json,
    Quiet,
    Seed,
    Split,
    group,
    print_json,
    settings,
    show_board,
    show_record,
    shown_progress,
)

if TYPE_CHECKING:
    from zoo.crew import Crew

app = group("The main job.")
Where = Annotated[str, typer.Option("--executor", help="here, or torchrun: in several processes, one per GPU.")]
Gpus = Annotated[int, typer.Option(help="With torchrun: processes on this machine; on a cpu, cores to share.")]
Nodes = Annotated[str, typer.Option(help="With torchrun: machines, as 2, or 1:4 for at least 1 and at most 4.")]
MEASURED_SECONDS = 5.0
"""Of training before anything is said about how long it will take."""


@app.command()
def train(
    model: str,
    dataset: Dataset,
    split: Split = None,
    seed: Seed = 0,
    select: Annotated[
        str, typer.Option(help="val: best validation score; last: no choice; test: as some papers.")
    ] = "val",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Config field to change, as name=value.")] = None,
    device: Device = "auto",
    executor: Where = "here",
    gpus: Gpus = 1,
    nodes: Nodes = "1",
    quiet: Quiet = False,
) -> None:
    """Train a model on a split; the same command resumes."""

    def check() -> None:
        from zoo import registry
        from zoo.datasets import base

        registry.models.get(model)
        base.load(dataset).split(split)

    crew = _gather(executor, gpus, nodes, check)
    quiet = quiet or not crew.first
    from zoo.runner import train as run

    with shown_progress(quiet) as progress:
        folder = run(
            model,
            dataset,
            split=split,
            seed=seed,
            select=select,  # type: ignore[arg-type]
            overrides=settings(set_ or []),
            device=device,
            progress=progress if quiet else _with_hint(progress, model, device),
        )
    if crew.first:
        sys.stdout.write(f"{folder}\n")


def _gather(executor: str, gpus: int, nodes: str, check: Callable[[], object]) -> Crew:
    """The processes that do this command; where they are to be started, the command is over when they end.

    Args:
        check: Raises what is wrong with the command, so that one process says it before there are several.
    """
    from zoo.crew import here
    from zoo.errors import UsageError
    from zoo.launch import end_when_told, group_of, together

    if executor not in ("here", "torchrun"):
        raise UsageError(f"--executor must be here or torchrun, not {executor!r}; for SLURM see 'zoo sweep -h'.")
    if executor == "here" and (gpus, nodes) != (1, "1"):
        raise UsageError("--gpus and --nodes are for a group of processes; add --executor torchrun.")
    if executor == "torchrun" and "TORCHELASTIC_RUN_ID" not in os.environ:
        group_of(gpus, nodes)
        check()
        raise typer.Exit(together(sys.argv[1:], gpus, nodes))
    crew = here()
    if crew.size > 1:
        end_when_told()
    return crew


def _with_hint(progress: Callable[[int, int, str], None], model: str, device: str) -> Callable[[int, int, str], None]:
    """``progress`` that also says, once a phase, if training takes hours on this cpu, as the published recipes do."""
    from zoo import registry
    from zoo.plan import pick_device

    if pick_device(device) != "cpu":
        return progress
    small = f"{registry.models.get(model).family}.small"
    others = f"train {small}, " if small in registry.models.names() and small != model else ""
    begun: dict[str, tuple[float, int]] = {}
    told: set[str] = set()

    def update(done: int, total: int, what: str) -> None:
        progress(done, total, what)
        name, now = what.partition(" (")[0], time.monotonic()
        start, first = begun.setdefault(name, (now, done))
        if name in told or now - start < MEASURED_SECONDS or done == first:
            return
        hours = (total - done) * (now - start) / (done - first) / 3600
        if hours >= 1:
            told.add(name)
            sys.stderr.write(
                f"hint: {name} has {total - done:,} steps to go, about {hours:.0f} h on this cpu at the present speed; "
                f"to be faster, {others}set fewer steps with --set, or use a GPU.\n"
            )

    return update


@app.command("eval")
def eval_(
    model: str,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset, or a track of one.")],
    split: Split = None,
    weights: Annotated[str | None, typer.Option(help="Weights folder or name; those of this split if omitted.")] = None,
    seed: Seed = 0,
    replicates: Annotated[int | None, typer.Option(help="Images per trial; the track's number if omitted.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Must be measurable here, else exit 5.")] = None,
    limit: Annotated[int | None, typer.Option(help="Score only so many test trials: a partial record.")] = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Moves no number; on a cpu batches are fixed.")] = 64,
    shard: Annotated[str | None, typer.Option(help="K/N: compute only this part, 0 <= K < N.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where records/ grows.")] = None,
    again: Annotated[bool, typer.Option(help="Score although this record is here already.")] = False,
    executor: Where = "here",
    gpus: Gpus = 1,
    nodes: Nodes = "1",
    offline: Annotated[bool, typer.Option(help="Never ask the network.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model and its controls on a split, and write the record."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    asked = {
        "split": split,
        "weights": weights,
        "seed": seed,
        "replicates": replicates,
        "metrics": tuple(metrics or ()),
        "limit": limit,
        "device": device,
        "batch_size": batch_size,
        "shard": _shard(shard),
    }

    def check() -> None:
        from zoo.plan import make_plan

        make_plan(model, dataset, **asked)  # type: ignore[arg-type]

    crew = _gather(executor, gpus, nodes, check)
    quiet = quiet or not crew.first
    from zoo.runner import evaluate
    from zoo.stages import ShardsMissingError

    try:
        with shown_progress(quiet) as progress:
            record = evaluate(
                model,
                dataset,
                **asked,
                output_dir=output_dir,
                again=again,
                progress=progress,
                say=lambda sentence: quiet or sys.stderr.write(f"{sentence}\n"),
            )
    except ShardsMissingError:
        if crew.first:
            sys.stderr.write(f"shard {shard} is done; when all are, run the command without --shard.\n")
        return
    if not crew.first:
        return
    if as_json:
        print_json({"id": record.id, **record.model_dump(mode="json")})
    else:
        show_record(record, output_dir)


@app.command()
def generate(
    model: str,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset, or a track of one.")],
    split: Split = None,
    weights: Annotated[str | None, typer.Option(help="Weights folder or name; those of this split if omitted.")] = None,
    role: Annotated[str, typer.Option(help="Whose trials: train, val or test.")] = "test",
    seed: Seed = 0,
    replicates: Annotated[int | None, typer.Option(help="Images per trial; the track's number if omitted.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many trials; moves no image.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="New or empty folder; one in the cache if omitted.")] = None,
    format_: Annotated[str, typer.Option("--format", help="png: a file per image; npy: one array.")] = "png",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Moves no image; on a cpu batches are fixed.")] = 64,
    offline: Annotated[bool, typer.Option(help="Never ask the network.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write the images that a model makes of trials: a folder of samples with a manifest and a grid."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from zoo.samples import generate as run

    with shown_progress(quiet) as progress:
        folder = run(
            model,
            dataset,
            role=role,  # type: ignore[arg-type]
            format=format_,  # type: ignore[arg-type]
            output_dir=output_dir,
            split=split,
            weights=weights,
            seed=seed,
            replicates=replicates,
            limit=limit,
            device=device,
            batch_size=batch_size,
            progress=progress,
            say=lambda sentence: quiet or sys.stderr.write(f"{sentence}\n"),
        )
    sys.stdout.write(f"{folder}\n")


def _shard(text: str | None) -> tuple[int, int] | None:
    from zoo.errors import UsageError

    if text is None:
        return None
    rank, _, world = text.partition("/")
    if not (rank.isdigit() and world.isdigit()):
        raise UsageError(f"--shard takes K/N, for example 0/3, not {text!r}.")
    return int(rank), int(world)


@app.command()
def demo(quiet: Quiet = False) -> None:
    """The main job in four minutes on a laptop: phantom data, training, evaluation, controls, board, pictures."""
    from zoo.demo import run

    with shown_progress(quiet) as progress:
        result = run(progress)
    show_record(result.record, None)
    show_board(None, track=result.record.identity.track)
    sys.stderr.write(f"sample grid: {result.grid}\nas pages in a browser: zoo leaderboard serve\n")

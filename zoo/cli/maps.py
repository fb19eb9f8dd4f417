"""A picture of where a model puts recordings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import Device, Quiet, Seed, Split, group, shown_progress

app = group("Maps.")


@app.command("map")
def map_(
    model: str,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset, or a track of one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to draw, as PNG.")] = Path("map.png"),
    by: Annotated[str | None, typer.Option(help="What colours mean: concept or subject.")] = None,
    split: Split = None,
    weights: Annotated[str | None, typer.Option(help="Weights folder or name; those of this split if omitted.")] = None,
    limit: Annotated[int, typer.Option(help="Most recordings.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw test recordings, and the pictures if they lie in the same space, by t-SNE of the model's features."""
    from zoo.maps import draw_map

    with shown_progress(quiet) as progress:
        path = draw_map(
            model,
            dataset,
            output,
            by=by,  # type: ignore[arg-type]
            limit=limit,
            seed=seed,
            split=split,
            weights=weights,
            device=device,
            progress=progress,
            say=lambda sentence: quiet or sys.stderr.write(f"{sentence}\n"),
        )
    sys.stdout.write(f"{path}\n")

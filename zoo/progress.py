"""Progress on stderr: bars on a terminal, a line every ten seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

EVERY_SECONDS = 10.0


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback (done, total, what); what follows `` (`` in ``what`` is a changing note on the same work."""
    if quiet:
        yield lambda done, total, what: None
    elif sys.stderr.isatty():
        with _bars() as update:
            yield update
    else:
        yield _lines()


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[int, int, str], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, int] = {}

        def update(done: int, total: int, what: str) -> None:
            name, _, note = what.partition(" (")
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, note="")
            progress.update(tasks[name], completed=done, total=total, note=note.rstrip(")"))  # type: ignore[arg-type]

        yield update


def _lines() -> Callable[[int, int, str], None]:
    last: dict[str, float] = {}

    def update(done: int, total: int, what: str) -> None:
        name = what.partition(" (")[0]
        now = time.monotonic()
        if done >= total or now - last.get(name, -EVERY_SECONDS) >= EVERY_SECONDS:
            last[name] = now
            sys.stderr.write(f"{what}: {done}/{total}\n" if total > 1 else f"{what}\n")

    return update

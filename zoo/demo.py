"""``zoo demo``: the whole path on generated data, small enough for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo.record import Record
from zoo.store import cache_dir

MODEL, DATASET = "eeg2image.small", "phantom"


@dataclass(frozen=True)
class Demo:
    record: Record
    grid: Path


def run(progress: Callable[[int, int, str], None]) -> Demo:
    """Generate ``phantom``, train ``eeg2image.small`` on it, evaluate model and controls; what is done is kept."""
    from zoo.runner import evaluate, train

    train(MODEL, DATASET, progress=progress)
    record = evaluate(MODEL, DATASET, progress=progress)
    return Demo(record, (cache_dir("board") / "records" / record.name).with_suffix(".png"))

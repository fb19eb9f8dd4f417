"""Records as small as they can be: only what a test names differs between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zoo.record import Audit, Cost, Identity, Provenance, Record, System, Value

SHA = "0" * 64


def build(
    model: str = "alpha",
    score: float | None = 0.5,
    *,
    interval: tuple[float, float] | None = None,
    higher: bool | None = True,
    signature: str | None = "accuracy|v1",
    shuffled: float | None = 0.1,
    verdict: Any = "clean",
    created: str = "2026-01-01T00:00:00+00:00",
    status: Any = "ok",
    error: str | None = None,
    values: dict[str, Value] | None = None,
    units_sha256: str | None = None,
    selection: str = "validation",
    complete: bool = True,
    **identity: Any,
) -> Record:
    def value(number: float | None, span: tuple[float, float] | None = None) -> Value:
        reason = "too few trials" if number is None else None
        return Value(value=number, reason=reason, signature=signature, higher_is_better=higher, interval=span)

    of: dict[str, Any] = {
        "track": "reconstruction/phantom.subject-out@1",
        "track_sha256": SHA,
        "dataset": "phantom",
        "trials_fingerprint": SHA,
        "eeg_sha256": SHA,
        "stimuli_sha256": SHA,
        "split": "subject-out@1",
        "split_sha256": SHA,
        "model": model,
        "config": {},
        "weights_sha256": SHA,
        "seed": 0,
        "replicates": 3,
        "limit": None,
        "metrics": ("accuracy|v1",),
        "zoo": "0.1.0",
    }
    return Record(
        status=status,
        error=error,
        identity=Identity(**{**of, **identity}),
        audit=Audit(verdict=verdict, evidence={}, sentences=()) if verdict else None,
        headline="accuracy",
        values={"accuracy": value(score, interval), **(values or {})} if status != "failed" else {},
        controls={"shuffled-eeg": System(values={"accuracy": value(shuffled)})},
        units_sha256=units_sha256,
        provenance=Provenance(
            created=created,
            command="zoo eval",
            git=None,
            dirty=None,
            device="cpu",
            hardware="a computer",
            threads=1,
            packages={},
            weights_source="trained",
            trained_on=("phantom",),
            selection=selection,
            stimuli_source="generated",
            dataset_complete=complete,
        ),
        cost=Cost(seconds=1.0, n_parameters=10, images_per_second=None, peak_memory_mb=None),
    )


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return build

"""Tables made of all records: one long parquet file for analysis and one JSON index. They can always be made anew."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from leaderboard.standing import Note, standings
from zoo.record import Record, Value
from zoo.store import digest, json_bytes

TABLES = "tables"
RECORDS, INDEX = f"{TABLES}/records.parquet", f"{TABLES}/index.json"


def derived(records: Sequence[Record], notes: Iterable[Note] = ()) -> dict[str, bytes]:
    """Path below the board → bytes of the tables; the same records give the same bytes, in whatever order they come.

    ``records.parquet`` has a row per record, system and metric. ``index.json`` has an entry per record, and the hash of
    all of them, by which a stale table is known.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted({record.run: record for record in records}.values(), key=lambda record: record.name)
    known = standings(ordered, notes)
    rows = [row for record in ordered for row in _rows(record)]
    entries = [_entry(record, known[record.run].level, known[record.run].state) for record in ordered]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), sink)
    index = {"n_records": len(entries), "sha256": digest(entries), "records": entries}
    return {RECORDS: sink.getvalue(), INDEX: json_bytes(index)}


def _entry(record: Record, level: str, state: str) -> dict[str, Any]:
    value = record.values.get(record.headline)
    return {
        "name": record.name,
        "id": record.id,
        "run": record.run,
        "track": record.identity.track,
        "model": record.identity.model,
        "status": record.status,
        "headline": record.headline,
        "value": None if value is None else value.value,
        "verdict": record.audit.verdict if record.audit else "unknown",
        "level": level,
        "state": state,
    }


def _rows(record: Record) -> Iterable[dict[str, Any]]:
    of, made, cost = record.identity, record.provenance, record.cost
    systems = {"model": record.values, **{name: system.values for name, system in sorted(record.controls.items())}}
    common = {
        "track": of.track,
        "dataset": of.dataset,
        "split": of.split,
        "model": of.model,
        "seed": of.seed,
        "record": record.id,
        "run": record.run,
        "status": record.status,
        "audit": record.audit.verdict if record.audit else "unknown",
        "selection": made.selection,
        "created": made.created,
        "n_parameters": cost.n_parameters,
    }
    for system, values in systems.items():
        for metric, value in sorted(values.items()):
            yield {**common, "system": system, "metric": metric, **_numbers(value)}


def _numbers(value: Value) -> dict[str, Any]:
    low, high = value.interval or (None, None)
    names = ("value", "reason", "signature", "higher_is_better", "chance", "p_chance", "n", "n_units")
    return {**{name: getattr(value, name) for name in names}, "low": low, "high": high}


def _schema() -> Any:
    import pyarrow as pa

    text = "track dataset split model record run status audit selection created system metric reason signature".split()
    whole, number = ("seed", "n_parameters", "n", "n_units"), ("value", "low", "high", "chance", "p_chance")
    kinds = {
        **dict.fromkeys(text, pa.string()),
        **dict.fromkeys(whole, pa.int64()),
        **dict.fromkeys(number, pa.float64()),
        "higher_is_better": pa.bool_(),
    }
    return pa.schema([*kinds.items()])

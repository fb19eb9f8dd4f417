"""Writes the tables of docs/results.md from the records in leaderboard/records.

python benchmarks/results_page.py
"""

from __future__ import annotations

from pathlib import Path

from zoo.record import Record, Value

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
COLUMNS = ("logistic_accuracy", "knn_accuracy", "kmeans_accuracy", "finetuned_accuracy", "pixel_judge_accuracy")
MARK = "<!-- tables: python benchmarks/results_page.py -->"


def cell(value: Value | None) -> str:
    if value is None or value.value is None:
        return "–"
    if value.interval is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.interval[0]:.3f}, {value.interval[1]:.3f}]"


def row(name: str, audit: str, values: dict[str, Value]) -> str:
    return f"| {name} | {audit} | " + " | ".join(cell(values.get(column)) for column in COLUMNS) + " |"


def table(track: str, records: list[Record]) -> str:
    """One track: every model, each followed by its shuffled-EEG control."""
    lines = [f"### {track}", "", "| | split audit | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for record in sorted(records, key=lambda record: record.identity.model):
        verdict = record.audit.verdict if record.audit else "unknown"
        source = record.provenance.weights_source.partition(":")[0]
        lines.append(row(f"`{record.identity.model}` ({source})", f"**{verdict}**", record.values))
        lines.append(row("its shuffled-eeg", "", record.controls["shuffled-eeg"].values))
    return "\n".join(lines)


def main() -> None:
    records = [Record.read(path) for path in sorted((ROOT / "leaderboard" / "records").rglob("*.json"))]
    tracks = sorted({record.identity.track for record in records})
    tables = "\n\n".join(table(track, [r for r in records if r.identity.track == track]) for track in tracks)
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{tables}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

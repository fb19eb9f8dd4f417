"""Writes the tables of docs/results.md from the records in leaderboard/records.

python benchmarks/results_page.py
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from zoo.record import Record, Value

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
ENCODINGS = ("logistic_accuracy", "knn_accuracy", "kmeans_accuracy", "finetuned_accuracy")
PICTURES = "pixel_judge_accuracy"
FED = ("shuffled-eeg", "other-subject", "gaussian-eeg", "random-codebook", "nearest-train")
"""Controls that depend on the model: its own pictures from other input, and what its encodings find among real ones."""
MARK = "<!-- tables: python benchmarks/results_page.py -->"


def cell(value: Value | None) -> str:
    if value is None or value.value is None:
        return "–"
    if value.interval is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.interval[0]:.3f}, {value.interval[1]:.3f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def named(record: Record) -> str:
    return f"`{record.identity.model}` ({record.provenance.weights_source.partition(':')[0]})"


def section(track: str, records: list[Record]) -> str:
    """One track: its audit, and the tables of its task, models by name."""
    verdicts = sorted({record.audit.verdict if record.audit else "unknown" for record in records})
    records = sorted(records, key=lambda record: record.identity.model)
    tables = reconstructions(records) if track.startswith("reconstruction/") else headlines(records)
    return "\n\n".join([f"### {track}", f"Split audit: **{', '.join(verdicts)}**.", *tables])


def headlines(records: list[Record]) -> list[str]:
    """The headline of every model beside that of its controls."""
    metric = records[0].headline
    controls = sorted({control for record in records for control in record.controls})
    rows = [
        [named(r), cell(r.values[metric]), *(cell(r.controls[c].values.get(metric)) for c in controls)] for r in records
    ]
    return [table([f"`{metric}`", "model", *controls], rows)]


def reconstructions(records: list[Record]) -> list[str]:
    """What the encodings say beside shuffled trials, and what the pictures show under every control."""
    encodings, pictures, fixed = [], [], ""
    for record in records:
        name = named(record)
        controls = {control: result.values for control, result in record.controls.items()}
        systems = {"model": record.values, **controls}
        if record.values[ENCODINGS[0]].value is not None:
            encodings.append([name, *(cell(record.values.get(metric)) for metric in ENCODINGS)])
            shuffled = controls["shuffled-eeg"]
            encodings.append(["its shuffled-eeg", *(cell(shuffled.get(metric)) for metric in ENCODINGS)])
        if record.values[PICTURES].value is not None:
            pictures.append([name, *(cell(systems.get(system, {}).get(PICTURES)) for system in ("model", *FED))])
            others = [control for control in controls if control not in FED]
            fixed = "; ".join(f"{control} {cell(controls[control].get(PICTURES))}" for control in others)
    parts = []
    if encodings:
        parts.append(table(["encodings", *ENCODINGS], encodings))
    if pictures:
        parts.append(table([f"pictures: `{PICTURES}`", "model", *FED], pictures))
        parts.append(f"Without a model: {fixed}.")
    return parts


def main() -> None:
    """Only the newest version of every track is shown."""
    records = [Record.read(path) for path in sorted((ROOT / "leaderboard" / "records").rglob("*.json"))]
    tracks = sorted({record.identity.track for record in records})
    newest = [max(same, key=version) for _, same in groupby(tracks, lambda track: track.partition("@")[0])]
    parts = [section(track, [r for r in records if r.identity.track == track]) for track in newest]
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")


def version(track: str) -> int:
    return int(track.partition("@")[2])


if __name__ == "__main__":
    main()

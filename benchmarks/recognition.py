"""Every classifier under every split of phantoms and imagined things: trains, evaluates, writes docs/recognition.md.

python benchmarks/recognition.py --output-dir BOARD [--datasets phantom …] [--models eegnet …] [--table-only]

Cells that are done are not done again, so a run that was stopped goes on. Only the model's own classifier is scored,
with the controls of the released track, and models differ in steps; docs/recognition.md says why not by ``zoo sweep``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zoo
from zoo import registry
from zoo.record import Record
from zoo.specs import TrackCard

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "recognition.md"
MARK = "<!-- table: python benchmarks/recognition.py -->"
DATASETS = (
    "phantom",
    "phantom-block",
    "envisioned-speech-object",
    "envisioned-speech-digit",
    "envisioned-speech-character",
)
EASY_TO_STRICT = {
    "phantom": ("stimulus-out@1", "subject-out@1"),
    "phantom-block": ("block@1", "run-out@1"),
    "envisioned-speech": ("random-window@1", "subject-out@1"),
}
"""Beginning of a dataset's name → the split that may tell the class otherwise, and the one that asks for more."""
STEPS = 600
NETWORKS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "eeg-lstm.small",
            "eegchannelnet.small",
            "perceivelab-eegnet.small",
            "syncnet.small",
            "siskind-cnn.small",
            "dense-eeg.small",
            "mindbigdata-common-lstm.small",
            "mindbigdata-stacked-lstm.small",
            "mindbigdata-per-channel-lstm.small",
            "eegnet",
            "shallownet",
            "deep4",
        ),
        {"encoder_steps": STEPS},
    ),
    "sparse-cnn-forest.small": {"encoder_steps": 100},
}
BASELINES: dict[str, dict[str, Any]] = dict.fromkeys(
    ("baseline-window-mean", "baseline-band-power", "baseline-riemann", "baseline-erp"), {}
)
MODELS = {**BASELINES, **NETWORKS}


def tracks(datasets: Sequence[str]) -> list[TrackCard]:
    """The released tracks of recognition on these datasets, with the one metric, unreleased (``@0``)."""
    released = [card for name in datasets for card in registry.tracks.cards() if card.dataset == name]
    return [
        card.model_copy(
            update={"id": f"{card.id.partition('@')[0]}.own@0", "metrics": ("classifier_accuracy",), "aliases": ()}
        )
        for card in released
        if card.task == "recognition" and card.id.endswith("@1")
    ]


def measure(cells: Sequence[TrackCard], models: Sequence[str], board: Path) -> None:
    """Every model on every track."""
    for track in cells:
        registry.tracks.add(track)
        for model in models:
            overrides, started = MODELS[model], time.monotonic()
            weights = zoo.train(model, track.dataset, split=track.split, overrides=dict(overrides), device="cpu")
            trained = time.monotonic()
            record = zoo.evaluate(model, track.id, weights=weights, device="cpu", output_dir=board)
            value = record.values["classifier_accuracy"].value
            spent = f"{trained - started:.0f} s + {time.monotonic() - trained:.0f} s"
            sys.stderr.write(f"{track.id} {model}: {value} ({spent})\n")


Found = dict[tuple[str, str], Record]
"""(track, model) → record."""


def read(board: Path) -> Found:
    records = [Record.read(path) for path in (board / "records").rglob("*.json")]
    newest = sorted(records, key=lambda record: record.provenance.created)
    return {(record.identity.track, record.identity.model): record for record in newest}


def above_chance(record: Record | None) -> bool:
    """Whether the whole interval lies above chance."""
    if record is None:
        return False
    found = record.values["classifier_accuracy"]
    return found.interval is not None and found.chance is not None and found.interval[0] > found.chance


def cell(record: Record | None) -> str:
    """Accuracy and its interval; bold where that lies above chance, a dash where nothing was measured."""
    found = record.values["classifier_accuracy"] if record is not None else None
    if found is None or found.value is None or found.interval is None:
        return "–"
    text = f"{found.value:.3f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    return f"**{text}**" if above_chance(record) else text


def scores(cells: Sequence[TrackCard], found: Found) -> str:
    """Rows are models, columns tracks; first what chance gives and what the audit says of the split."""
    shown = {track.id: record for track in cells for (name, _), record in found.items() if name == track.id}
    here = [track for track in cells if track.id in shown]
    names = [f"{track.dataset} {track.split.partition('@')[0]}" for track in here]
    chance = [f"{shown[track.id].values['classifier_accuracy'].chance:.3f}" for track in here]
    audits = [audit.verdict if (audit := shown[track.id].audit) else "unknown" for track in here]
    rows = [["", *names], ["---"] * (len(here) + 1), ["chance", *chance], ["audit of the split", *audits]]
    rows += [[f"`{model}`", *(cell(found.get((track.id, model))) for track in here)] for model in MODELS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def survivors(cells: Sequence[TrackCard], found: Found) -> str:
    """Of the models above chance on the easier split, those that are on the stricter one; where both were measured."""
    lines = ["| | above chance on the first | of these on the second | which |", "|---|---|---|---|"]
    for dataset in dict.fromkeys(track.dataset for track in cells):
        splits = next(splits for name, splits in reversed(EASY_TO_STRICT.items()) if dataset.startswith(name))
        easy, strict = (next(c.id for c in cells if (c.dataset, c.split) == (dataset, split)) for split in splits)
        both = [model for model in MODELS if (easy, model) in found and (strict, model) in found]
        if both:
            first = [model for model in both if above_chance(found[easy, model])]
            second = [model for model in first if above_chance(found[strict, model])]
            named = "all" if second and second == first else ", ".join(f"`{model}`" for model in second) or "none"
            title = f"{dataset}: {' → '.join(split.partition('@')[0] for split in splits)}"
            lines.append(f"| {title} | {len(first)} of {len(both)} | {len(second)} | {named} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True, help="where the records are kept")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--models", nargs="+", default=tuple(MODELS), choices=MODELS)
    parser.add_argument("--table-only", action="store_true", help="write the table of the records that are there")
    given = parser.parse_args()
    if not given.table_only:
        measure(tracks(given.datasets), given.models, given.output_dir)
    cells, found = tracks(DATASETS), read(given.output_dir)
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    tables = f"{survivors(cells, found)}\n\n{scores(cells, found)}"
    PAGE.write_text(f"{head}{MARK}\n\n{tables}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

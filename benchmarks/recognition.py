"""Every classifier under every split of phantoms and imagined things: trains, evaluates, writes docs/recognition.md.

python benchmarks/recognition.py --output-dir BOARD [--datasets phantom phantom-block …] [--table-only]

Cells that are done are not done again, so a run that was stopped goes on. Only the model's own classifier is scored,
with the controls of the released track: the probes of the whole suite take longer than all the training here.
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


def measure(cells: Sequence[TrackCard], board: Path) -> None:
    """Every model on every track."""
    for track in cells:
        registry.tracks.add(track)
        for model, overrides in MODELS.items():
            started = time.monotonic()
            weights = zoo.train(model, track.dataset, split=track.split, overrides=dict(overrides), device="cpu")
            trained = time.monotonic()
            record = zoo.evaluate(model, track.id, weights=weights, device="cpu", output_dir=board)
            value = record.values["classifier_accuracy"].value
            spent = f"{trained - started:.0f} s + {time.monotonic() - trained:.0f} s"
            sys.stderr.write(f"{track.id} {model}: {value} ({spent})\n")


def cell(record: Record | None) -> str:
    """Accuracy and its interval; bold where the whole interval lies above chance."""
    if record is None:
        return "–"
    found = record.values["classifier_accuracy"]
    if found.value is None or found.interval is None or found.chance is None:
        return "–"
    text = f"{found.value:.3f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    return f"**{text}**" if found.interval[0] > found.chance else text


def table(cells: Sequence[TrackCard], board: Path) -> str:
    """Rows are models, columns tracks; first what chance gives and what the audit says of the split."""
    found: dict[tuple[str, str], Record] = {}
    for path in sorted((board / "records").rglob("*.json")):
        record = Record.read(path)
        found[record.identity.track, record.identity.model] = record
    here = [track for track in cells if any(name == track.id for name, _ in found)]
    shown = {track.id: next(record for (name, _), record in found.items() if name == track.id) for track in here}

    def chance(record: Record) -> str:
        return f"{record.values['classifier_accuracy'].chance:.3f}"

    def verdict(record: Record) -> str:
        return record.audit.verdict if record.audit else "unknown"

    def scores(model: str) -> list[str]:
        return [cell(found.get((track.id, model))) for track in here]

    head = [f"{track.dataset} {track.split.partition('@')[0]}" for track in here]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(here) + 1) + "|"]
    lines.append("| chance | " + " | ".join(chance(shown[track.id]) for track in here) + " |")
    lines.append("| audit of the split | " + " | ".join(verdict(shown[track.id]) for track in here) + " |")
    lines += [f"| `{model}` | " + " | ".join(scores(model)) + " |" for model in MODELS]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True, help="where the records are kept")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--table-only", action="store_true", help="write the table of the records that are there")
    given = parser.parse_args()
    if not given.table_only:
        measure(tracks(given.datasets), given.output_dir)
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{table(tracks(DATASETS), given.output_dir)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from leaderboard.export import FORMATS, Named, export
from zoo.cli import app
from zoo.errors import UsageError
from zoo.record import Record, Value

Make = Callable[..., Record]
ROOT = Path(__file__).resolve().parents[2]
PHANTOM = sorted((ROOT / "leaderboard/records").glob("*/phantom.stimulus-out@2/eeg2image.small/*-*.json"))[0]
FID = Value(value=12.5, signature="fid|v1", higher_is_better=False, interval=(10.0, 15.0), interval_method="jackknife")


def test_csv_has_a_row_per_system_and_metric_and_no_formula(make_record: Make) -> None:
    missing = Value(value=None, reason="=HYPERLINK(1)")
    record = make_record("alpha", 0.5, interval=(0.4, 0.6), values={"fid": FID, "kid": missing})
    rows = list(csv.DictReader(io.StringIO(export(record, "csv"))))
    found = {(row["system"], row["metric"]): row for row in rows}
    assert [*found] == [("model", "accuracy"), ("model", "fid"), ("model", "kid"), ("shuffled-eeg", "accuracy")]
    row = found["model", "accuracy"]
    assert (float(row["value"]), float(row["low"]), float(row["high"])) == (0.5, 0.4, 0.6)
    assert (row["record"], row["model"], row["audit"]) == (record.id, "alpha", "clean")
    assert (found["model", "kid"]["value"], found["model", "kid"]["reason"]) == ("", "'=HYPERLINK(1)")


def test_latex_is_a_table_of_the_model_beside_its_controls(make_record: Make) -> None:
    record = make_record("al_pha", 0.5, interval=(0.4, 0.6), values={"fid": FID}, verdict="confounded")
    assert export(record, "latex") == (
        "% needs \\usepackage{booktabs}\n"
        f"% zoo record {record.id}, run {record.run}, zoo 0.1.0\n"
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        " & al\\_pha & shuffled-eeg \\\\\n"
        "\\midrule\n"
        "\\textbf{accuracy $\\uparrow$} & 0.5 [0.4, 0.6] & 0.1 \\\\\n"
        "fid $\\downarrow$ & 12.5 [10, 15] & -- \\\\\n"
        "\\bottomrule\n"
        "\\multicolumn{3}{l}{\\small Track reconstruction/phantom.subject-out@1, split subject-out@1, "
        "split audit: confounded. Brackets: 95\\,\\% intervals.} \\\\\n"
        "\\end{tabular}\n"
    )


def test_a_model_index_is_what_the_hub_reads(make_record: Make) -> None:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    record = make_record("alpha", 0.5, values={"fid": FID}, verdict="suspect")
    named = Named(task="reconstruction", titles={"fid": "Fréchet distance"})
    name, results = model_index_to_eval_results(yaml.safe_load(export(record, "model-index", named))["model-index"])
    assert name == "alpha"
    found = {result.metric_type: (result.metric_name, result.metric_value) for result in results}
    assert found == {"accuracy": ("accuracy", 0.5), "fid": ("Fréchet distance", 12.5)}
    assert {result.dataset_name for result in results} == {"reconstruction/phantom.subject-out@1, split audit: suspect"}


def test_eval_results_hold_the_headline_and_nothing_else(make_record: Make) -> None:
    from huggingface_hub import parse_eval_result_entries

    record = make_record("alpha", 0.5, values={"fid": FID})
    text = export(record, "eval-results", Named(repo=("org/phantom", "a" * 40)))
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == (
        "org/phantom",
        "reconstruction/phantom.subject-out@1",
        "a" * 40,
    )
    assert entry.value == 0.5
    assert entry.notes is not None
    assert record.id[:12] in entry.notes


def test_eval_results_know_no_direction(make_record: Make) -> None:
    record = make_record("alpha", 12.0, higher=False)
    with pytest.raises(UsageError) as error:
        export(record, "eval-results")
    assert str(error.value) == (
        "eval-results hold values of which more is better, but less accuracy is better; use --to model-index."
    )
    with pytest.raises(UsageError, match=r"has no accuracy, so there is nothing to export as eval-results\.$"):
        export(make_record(score=None), "eval-results")


def test_every_eval_ever_keeps_direction_interval_and_control(make_record: Make) -> None:
    record = make_record("alpha", 0.5, interval=(0.4, 0.6), values={"fid": FID})
    found = json.loads(export(record, "every-eval-ever", Named(best={"accuracy": 1.0})))
    assert (found["schema_version"], found["eval_library"]["name"]) == ("0.3.0", "eeg-image-zoo")
    assert found["evaluation_timestamp"] == "1767225600"
    accuracy, fid = found["evaluation_results"]
    assert [entry["metric_config"]["lower_is_better"] for entry in (accuracy, fid)] == [False, True]
    assert [accuracy["metric_config"][name] for name in ("score_type", "min_score", "max_score")] == [
        "continuous",
        0,
        1,
    ]
    assert "score_type" not in fid["metric_config"], "a continuous score must name its largest value"
    interval = accuracy["score_details"]["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"], interval["confidence_level"]) == (0.4, 0.6, 0.95)
    assert accuracy["score_details"]["details"] == {"shuffled_eeg_control": "0.1"}
    assert {type(value) for value in found["model_info"]["additional_details"].values()} == {str}


def test_only_complete_records_and_known_formats(make_record: Make) -> None:
    with pytest.raises(UsageError, match=r"^--to must be one of csv, latex, .*, not 'pdf'\.$"):
        export(make_record(), "pdf")
    with pytest.raises(UsageError, match=r"^only complete records are exported, but [0-9a-f]{12} is partial\.$"):
        export(make_record(status="partial", limit=3), "csv")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_published_record_is_exported_from_the_command_line(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(PHANTOM), "--to", kind, "--output", str(out)])
    assert (done.exit_code, done.output) == (0, "")
    shown = CliRunner().invoke(app, ["export", PHANTOM.name[:12], "--board", str(ROOT / "leaderboard"), "--to", kind])
    assert shown.stdout == out.read_text(encoding="utf-8")
    assert "pixel_judge_accuracy" in shown.stdout.replace("\\_", "_")

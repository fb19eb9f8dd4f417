"""A record in the words of others: CSV, LaTeX, and the formats of model pages and of stores of evaluations."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from zoo.errors import UsageError
from zoo.record import Record, Value

ORG = "eeg-image-zoo"
EEE_VERSION = "0.3.0"
"""Of the schema of Every Eval Ever (github.com/evaleval/every_eval_ever, eval.schema.json) that is written here."""


@dataclass(frozen=True)
class Named:
    """What a record does not say of itself, where this machine knows it.

    Attributes:
        task: Task of the track.
        model: Title of the model; None for one that is not of this release, whose developer nobody knows.
        repo: Repo of the dataset on the Hub, and its commit.
        titles, best: By metric: what it is called, and the best value there can be.
    """

    task: str | None = None
    model: str | None = None
    repo: tuple[str, str] | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)


def export(record: Record, kind: str, named: Named | None = None) -> str:
    """The record as a text of one of the formats ``FORMATS``.

    Raises:
        UsageError: There is no such format, or it cannot hold this record.
    """
    if kind not in FORMATS:
        raise UsageError(f"--to must be one of {', '.join(FORMATS)}, not {kind!r}.")
    if record.status != "ok":
        raise UsageError(f"only complete records are exported, but {record.id[:12]} is {record.status}.")
    return FORMATS[kind](record, named or Named())


def _csv(record: Record, named: Named) -> str:
    """A row per system and metric, null values with their reasons."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = "value low high chance p_chance n n_units higher_is_better signature reason".split()
    writer.writerow(["record", "track", "split", "model", "seed", "audit", "system", "metric", *columns])
    of = record.identity
    for system, values in _systems(record).items():
        for metric, value in sorted(values.items()):
            low, high = value.interval or (None, None)
            cells = {**value.model_dump(), "low": low, "high": high}
            head = [record.id, of.track, of.split, of.model, of.seed, _verdict(record), system, metric]
            writer.writerow([_cell(cell) for cell in (*head, *(cells[name] for name in columns))])
    return out.getvalue()


def _cell(cell: Any) -> Any:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" else cell


def _latex(record: Record, named: Named) -> str:
    """A table for a paper: metrics down, the model and its controls across, the headline in bold."""
    systems = _systems(record)
    metrics = [name for name, value in record.values.items() if value.value is not None]
    metrics.sort(key=lambda name: (name != record.headline, name))
    of = record.identity
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% zoo record {record.id}, run {record.run}, zoo {of.zoo}",
        "\\begin{tabular}{l" + "r" * len(systems) + "}",
        "\\toprule",
        " & ".join(["", *(_tex(of.model if name == "model" else name) for name in systems)]) + " \\\\",
        "\\midrule",
    ]
    for metric in metrics:
        value = record.values[metric]
        arrow = {True: " $\\uparrow$", False: " $\\downarrow$", None: ""}[value.higher_is_better]
        label = _tex(metric) + arrow
        cells = [_measured(system.get(metric), name == "model") for name, system in systems.items()]
        if metric == record.headline:
            label = f"\\textbf{{{label}}}"
        lines.append(" & ".join([label, *cells]) + " \\\\")
    said = f"Track {of.track}, split {of.split}, split audit: {_verdict(record)}. Brackets: 95\\,\\% intervals."
    lines += ["\\bottomrule", f"\\multicolumn{{{1 + len(systems)}}}{{l}}{{\\small {_tex(said, raw='95')}}} \\\\"]
    return "\n".join([*lines, "\\end{tabular}", ""])


def _measured(value: Value | None, interval: bool) -> str:
    if value is None or value.value is None:
        return "--"
    shown = f"{value.value:.4g}"
    if interval and value.interval is not None:
        shown += f" [{value.interval[0]:.4g}, {value.interval[1]:.4g}]"
    return f"${shown}$" if shown.startswith("-") else shown


def _tex(text: str, raw: str = "") -> str:
    special = {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
    }
    if raw:  # its percent sign and thin space are written already
        head, mark, tail = text.partition("95\\,\\%")
        return _tex(head) + mark + _tex(tail)
    return "".join(special.get(c, c) for c in text)


def _model_index(record: Record, named: Named) -> str:
    """The ``model-index`` of a model card: every metric under its name; the verdict stands in the dataset's name."""
    of = record.identity
    metrics = [
        {"type": name, "name": named.titles.get(name, name), "value": value.value}
        for name, value in sorted(record.values.items())
        if value.value is not None
    ]
    dataset = {
        "type": of.dataset,
        "name": _told(record),
        "split": of.split,
        "args": {"track": of.track, "record": record.id},
    }
    result = {"task": {"type": named.task or of.track.partition("/")[0]}, "dataset": dataset, "metrics": metrics}
    return _yaml({"model-index": [{"name": of.model, "results": [result]}]})


def _eval_results(record: Record, named: Named) -> str:
    """``.eval_results/*.yaml`` of a model repo: one number per benchmark, so the headline alone.

    The format knows no direction and takes more for better.

    Raises:
        UsageError: Less is better, or the dataset has no repo to name.
    """
    headline = record.values.get(record.headline)
    if headline is None or headline.value is None:
        raise UsageError(f"{record.id[:12]} has no {record.headline}, so there is nothing to export as eval-results.")
    if not headline.higher_is_better:
        raise UsageError(
            f"eval-results hold values of which more is better, but less {record.headline} is better; "
            "use --to model-index."
        )
    of = record.identity
    repo, revision = named.repo or (f"{ORG}/{of.dataset}", None)
    entry: dict[str, Any] = {
        "dataset": {"id": repo, "task_id": of.track, **({"revision": revision} if revision else {})},
        "value": headline.value,
        "date": record.provenance.created,
        "notes": f"{record.headline}, {_told(record)}, selection {record.provenance.selection}, "
        f"zoo record {record.id[:12]}",
    }
    return _yaml([entry])


def _every_eval_ever(record: Record, named: Named) -> str:
    """The aggregate JSON of Every Eval Ever: every value of the model, with direction, interval and trials."""
    of, made = record.identity, record.provenance
    created = _epoch(made.created)
    source: dict[str, Any] = {"dataset_name": of.dataset, "source_type": "other", "source_id": of.trials_fingerprint}
    if named.repo is not None:
        repo, revision = named.repo
        source = {"dataset_name": of.dataset, "source_type": "hf_dataset", "hf_repo": repo, "hf_revision": revision}
        source["hf_split"] = "test"  # of the three that the format knows; its own split stands below
    source["additional_details"] = {"split": of.split, "split_sha256": of.split_sha256}
    return (
        json.dumps(
            {
                "schema_version": EEE_VERSION,
                "evaluation_id": f"{of.track}/{of.model}/{created}",
                "evaluation_timestamp": created,
                "retrieved_timestamp": created,
                "source_metadata": {
                    "source_name": "zoo",
                    "source_type": "evaluation_run",
                    "source_organization_name": ORG,
                    "evaluator_relationship": "other",
                    "additional_details": {"record": record.id, "run": record.run, "split_audit": _verdict(record)},
                },
                "eval_library": {"name": "eeg-image-zoo", "version": of.zoo},
                "model_info": {
                    "name": named.model or of.model,
                    "id": of.model if named.model is None else f"{ORG}/{of.model}",
                    "developer": "unknown" if named.model is None else ORG,
                    "additional_details": {
                        "deployment_type": "self_deployed",
                        "model_availability": "unknown",
                        "weights_sha256": of.weights_sha256,
                        "seed": str(of.seed),
                        "selection": made.selection,
                        "trained_on": ", ".join(made.trained_on),
                    },
                },
                "evaluation_results": [*_eee_results(record, named, source)],
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


def _eee_results(record: Record, named: Named, source: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for metric, value in sorted(record.values.items()):
        if value.value is None or value.higher_is_better is None:
            continue
        config: dict[str, Any] = {
            "evaluation_description": named.titles.get(metric, metric),
            "metric_id": f"zoo.{metric}",
            "metric_name": named.titles.get(metric, metric),
            "lower_is_better": not value.higher_is_better,
            "additional_details": {"signature": str(value.signature)},
        }
        if value.higher_is_better and named.best.get(metric) == 1 and value.value >= 0:
            config |= {"score_type": "continuous", "min_score": 0, "max_score": 1}
        score: dict[str, Any] = {"score": value.value}
        if value.interval is not None:
            low, high = value.interval
            span = {"lower": low, "upper": high, "confidence_level": 0.95, "method": str(value.interval_method)}
            score["uncertainty"] = {"confidence_interval": span, **({"num_samples": value.n} if value.n else {})}
        shuffled = record.controls["shuffled-eeg"].values.get(metric) if "shuffled-eeg" in record.controls else None
        if shuffled is not None and shuffled.value is not None:
            score["details"] = {"shuffled_eeg_control": repr(shuffled.value)}
        yield {
            "evaluation_result_id": f"{record.run}/{metric}",
            "evaluation_name": record.identity.track,
            "source_data": dict(source),
            "metric_config": config,
            "score_details": score,
        }


def _epoch(created: str) -> str:
    from datetime import datetime

    try:
        return str(int(datetime.fromisoformat(created).timestamp()))
    except ValueError as error:
        raise UsageError(f"a record must say when it was made, but this one says {created[:60]!r}.") from error


def _told(record: Record) -> str:
    """The track, and what the audit said of it unless it is clean."""
    verdict = _verdict(record)
    return record.identity.track + ("" if verdict == "clean" else f", split audit: {verdict}")


def _systems(record: Record) -> dict[str, Mapping[str, Value]]:
    return {"model": record.values, **{name: system.values for name, system in record.controls.items()}}


def _verdict(record: Record) -> str:
    return record.audit.verdict if record.audit else "unknown"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


FORMATS: dict[str, Callable[[Record, Named], str]] = {
    "csv": _csv,
    "latex": _latex,
    "model-index": _model_index,
    "eval-results": _eval_results,
    "every-eval-ever": _every_eval_ever,
}

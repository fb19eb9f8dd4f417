"""Train and evaluate: resolve everything into a plan, run its stages, write the record.

plan → encode → generate → image features → metrics → record
"""

from __future__ import annotations

import hashlib
import io
import resource
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from zoo import __version__, provenance, registry, scoring, stages, weights
from zoo.audits import controls
from zoo.audits.leakage import LeakageReport, audit_split
from zoo.datasets import base as data_room
from zoo.datasets.base import EEGDataset
from zoo.errors import UsageError, ZooError
from zoo.images import Images
from zoo.models.base import Model
from zoo.plan import (
    CONTROLS,
    Plan,
    Progress,
    config_of,
    data_identity,
    identify,
    make_plan,
    pick_device,
    silent,
    split_sha,
)
from zoo.plots import Grid, sample_grid
from zoo.record import Audit, Cost, Identity, Provenance, Record, System, Value
from zoo.scoring import EEGSide, Scored
from zoo.specs import Split
from zoo.stages import Stage
from zoo.store import cache_dir, digest, stage_dir, write_bytes
from zoo.training import fit


def train(
    model: str,
    dataset: str,
    *,
    split: str | None = None,
    seed: int = 0,
    select: Literal["val", "last"] = "val",
    overrides: dict[str, Any] | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Path:
    """Train ``model`` on the train role of a split and return its weights folder.

    The same call continues an interrupted run, and returns at once when the run is complete. Initial weights depend on
    ``seed`` alone, every step on (seed, recipe, step).

    Args:
        select: How checkpoints are chosen: ``val`` (best validation score, where the recipe has one) or ``last``.
        overrides: Config fields to change, e.g. ``{"gan_steps": 100}``; they become part of the identity.

    Raises:
        MissingError: The dataset is not prepared, or the model is not in this release.
    """
    card = registry.models.get(model)
    if card.builder is None:
        raise weights.announced(card)
    if select not in ("val", "last"):
        raise UsageError(f"select must be val or last, not {select!r}.")
    kind = pick_device(device)
    data = data_room.load(dataset)
    chosen = data.split(split)
    torch.manual_seed(seed)  # initial weights only; no step draws from the global generator
    net = weights.build(card, data.spec, overrides).to(kind)
    identity = {
        "model": card.id,
        "config": config_of(net),
        "data": data_identity(data, chosen),
        "seed": seed,
        "select": select,
        "device": kind,
        "zoo": __version__,
    }
    name = f"{data.id}.{chosen.id}.seed{seed}-{digest(identity)[:8]}"
    folder = weights.folder_of(card.id, name)
    if folder.exists():
        weights.read_info(folder)
        return folder
    recipes = registry.load_object(card.builder.partition(":")[0] + ":recipes")
    net.train()
    fitted = {}
    for recipe in recipes(net, data.training_data(chosen), seed=seed, select=select):
        fitted[recipe] = fit(recipe, stage_dir("training", identity), seed=seed, progress=progress)
    touched = {id(module) for recipe in fitted for module in recipe.modules().values()}
    weights.save(
        net,
        {
            "model": card.id,
            "name": name,
            "config": {**card.preset, **(overrides or {})},
            "eeg": data.spec,
            "source": "trained",
            "trained_on": (data.id,),
            "split_sha256": split_sha(chosen),
            "seed": seed,
            "selection": "validation" if any(run.best_step is not None for run in fitted.values()) else "last step",
            "receipt": {
                "split": chosen.id,
                "stimuli": data.stimuli_source,
                "device": kind,
                "recipes": {
                    recipe.name: {key: getattr(run, key) for key in ("step", "best_step", "best_score", "seconds")}
                    for recipe, run in fitted.items()
                },
            },
        },
        parts=tuple(part for part, module in net.parts().items() if id(module) in touched),
    )
    return folder


def evaluate(
    model: str | Model, dataset: str, *, output_dir: Path | None = None, again: bool = False, **options: Any
) -> Record:
    """Evaluate a model and its controls on a split; the record is on disk before anything optional can fail.

    Args:
        model: A registry id, or an ``EEGEncoder`` or ``Reconstructor`` instance.
        dataset: The id of a prepared dataset.
        output_dir: Where ``records/`` grows; the local board in the cache if omitted.
        again: Score although a record of this identity is here already; stages on disk are used all the same.
        options: ``split``, ``weights``, ``seed``, ``replicates``, ``limit`` (makes a partial record), ``device``,
            ``batch_size``, ``shard``, ``metrics``, ``progress``: see ``make_plan``.

    Raises:
        UsageError: Something does not fit, in one sentence.
        MissingError: Data or weights are not here; the message names the command that brings them.
        ShardsMissingError: This shard is done, others are not.
    """
    started = time.monotonic()
    plan = make_plan(model, dataset, **options)
    board = output_dir or cache_dir("board")
    identity = identify(plan)
    if not again and (known := find_record(board, identity)) is not None:
        return known
    report = audit(plan.data, plan.split)
    try:
        result = _score(plan)
    except (ZooError, stages.ShardsMissingError):
        raise
    except Exception as error:
        failed = _record(plan, identity, report, Result(), started, error=f"{type(error).__name__}: {error}")
        failed.write(board / "records" / failed.name)
        raise
    units = result.units_parquet()
    record = _record(plan, identity, report, result, started, units=units)
    path = board / "records" / record.name
    write_bytes(path.with_suffix(".units.parquet"), units)
    record.write(path)
    if result.grid is not None:
        sample_grid(result.grid, path.with_suffix(".png"), title=f"{plan.info.model} on {plan.track.id}")
    return record


def find_record(board: Path, identity: Identity) -> Record | None:
    """A finished record of this identity under ``board``, if there is one."""
    wanted = digest(identity.model_dump(mode="json"))
    for path in sorted((board / "records" / identity.track / identity.model).glob(f"{wanted[:12]}-*.json")):
        record = Record.read(path)
        if record.id == wanted and record.status != "failed":
            return record
    return None


def audit(data: EEGDataset, split: Split) -> LeakageReport:
    """The leakage audit of a split."""
    return audit_split(
        eeg=data.eeg,
        spec=data.spec,
        labels=data.labels,
        trials=data.trials,
        roles=data.roles(split),
        protocol=split.protocol,
    )


@dataclass(frozen=True)
class Result:
    """What scoring a plan gives.

    Attributes:
        units: Columns of the per-trial values (system, metric, trial_id, unit, value).
        grid: Labelled rows of example images, for people.
    """

    values: dict[str, Value] = field(default_factory=dict)
    controls: dict[str, System] = field(default_factory=dict)
    units: list[tuple[str, str, str, str, float]] = field(default_factory=list)
    grid: Grid | None = None
    images_per_second: float | None = None

    def units_parquet(self) -> bytes:
        """The per-trial values as a parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ("system", "metric", "trial_id", "unit", "value")
        columns = [list(column) for column in zip(*self.units, strict=True)] or [[] for _ in names]
        sink = io.BytesIO()
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), sink)
        return sink.getvalue()


def _score(plan: Plan) -> Result:
    """Encode, generate, extract and measure; every stage first fills this shard's chunks, then all are gathered."""
    images = None if plan.no_images else Images(plan)
    features = [_encoding(plan, rows) for rows in (plan.train_rows, plan.test_rows)]
    for stage in [*features, *(images.stages if images else ())]:
        stage.fill(plan.work)
    train, test = (stage.gather() for stage in features)
    systems = {"model": _score_eeg(plan, train, test, None)}
    order = controls.shuffled(len(test), plan.track.id)
    systems["shuffled-eeg"] = _score_eeg(plan, train, test, order)
    for name in ("class-oracle", "nearest-train"):
        systems[name] = {
            card.id: Scored(scoring.null(card, "uses no EEG features")) for card in plan.metrics if "eeg" in card.needs
        }
    if images is not None:
        for name, side in images.sides(train, test).items():
            for card in plan.metrics:
                if "images" in card.needs:
                    plan.work.progress(0, 1, f"scoring {name} {card.id}")
                    systems[name][card.id] = scoring.score_images(card, side, plan.signatures[card.id])
    cards = {name: registry.metrics.get(name) for name in plan.track.metrics}
    skipped = {name: Scored(scoring.null(cards[name], reason)) for name, reason in plan.unmeasured.items()}
    for found in systems.values():
        found |= {name: value for name, value in skipped.items() if name not in found}
    values = {name: {metric: scored.value for metric, scored in found.items()} for name, found in systems.items()}
    return Result(
        values["model"],
        {name: System(values=values[name]) for name in CONTROLS},
        [row for name, found in systems.items() for row in _unit_rows(plan, name, found)],
        None if images is None else images.grid(),
        None if images is None else images.per_second,
    )


def _encoding(plan: Plan, rows: np.ndarray) -> Stage:
    def compute(part: slice) -> np.ndarray:
        return stages.encode(plan.model, plan.data.eeg, rows[part], plan.work)

    return Stage("eeg-features", plan.identity_of(rows), rows.size, compute, "encoding EEG", stages.TRIALS)


def _score_eeg(plan: Plan, train: np.ndarray, test: np.ndarray, order: np.ndarray | None) -> dict[str, Scored]:
    """Metrics of the EEG features; with ``order``, of features that were dealt to other trials."""
    side = EEGSide(
        train_features=train,
        train_labels=plan.data.labels[plan.train_rows],
        test_features=test if order is None else test[order],
        test_labels=plan.data.labels[plan.test_rows],
        test_units=plan.units(plan.test_rows),
        n_classes=len(plan.data.concepts),
        finetune=(lambda: _finetune(plan)) if order is None else None,
    )
    found = {}
    for card in plan.metrics:
        if "eeg" in card.needs:
            plan.work.progress(0, 1, f"scoring {card.id}")
            found[card.id] = scoring.score_eeg(card, side, plan.signatures[card.id])
    return found


def _finetune(plan: Plan) -> np.ndarray:
    """Per test trial, whether the encoder fine-tuned with a linear head is right; kept, since it is a training."""
    card = next(card for card in plan.metrics if "encoder" in card.needs)
    val = np.flatnonzero(plan.roles == "val")

    def compute() -> np.ndarray:
        plan.work.progress(0, 1, "fine-tuning a linear head")
        parts: dict[str, np.ndarray] = {}
        for name, rows in (("train", plan.train_rows), ("val", val), ("test", plan.test_rows)):
            parts |= {f"{name}_eeg": plan.data.eeg[rows], f"{name}_labels": plan.data.labels[rows]}
        score = registry.load_object(card.function)(plan.model, **parts, n_classes=len(plan.data.concepts), seed=0)
        correct: np.ndarray = score.per_unit
        return correct

    rows = np.concatenate([plan.train_rows, val, plan.test_rows])
    identity = {**plan.identity_of(rows), "metric": plan.signatures[card.id], "split": split_sha(plan.split)}
    return stages.once("finetuned", identity, compute)


def _unit_rows(plan: Plan, system: str, found: dict[str, Scored]) -> list[tuple[str, str, str, str, float]]:
    rows = []
    for metric, scored in found.items():
        if scored.per_unit is not None:
            chosen = plan.test_rows
            if len(scored.per_unit) != len(chosen):
                chosen = chosen[plan.image_rows]
            ids, units = plan.data.trials["trial_id"][chosen], plan.units(chosen)
            for trial, unit, value in zip(ids, units, scored.per_unit, strict=True):
                rows.append((system, metric, str(trial), str(unit), float(value)))
    return rows


def _record(
    plan: Plan,
    identity: Identity,
    report: LeakageReport,
    result: Result,
    started: float,
    *,
    units: bytes | None = None,
    error: str | None = None,
) -> Record:
    commit, dirty = provenance.git_state()
    gpu = torch.cuda.get_device_name() if plan.work.device == "cuda" else None
    return Record(
        status="failed" if error else "partial" if plan.limit else "ok",
        error=error,
        identity=identity,
        audit=Audit(verdict=report.verdict, evidence=report.evidence, sentences=report.sentences),
        headline=plan.track.headline,
        values=result.values,
        controls=result.controls,
        units_sha256=hashlib.sha256(units).hexdigest() if units is not None else None,
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=provenance.command(),
            git=commit,
            dirty=dirty,
            device=plan.work.device,
            hardware=gpu or provenance.cpu_name(),
            threads=torch.get_num_threads(),
            packages=provenance.versions(),
            weights_source=f"{plan.info.source}: {plan.info.name}",
            trained_on=plan.info.trained_on,
            selection=plan.info.selection,
            stimuli_source=plan.data.stimuli_source,
            dataset_complete=plan.data.complete,
        ),
        cost=Cost(
            seconds=time.monotonic() - started,
            n_parameters=sum(parameter.numel() for parameter in plan.model.parameters()),
            images_per_second=result.images_per_second,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ),
    )

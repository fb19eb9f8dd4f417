"""Train and evaluate: resolve everything into a plan, run its stages, write the record.

plan → encode → generate → image features → metrics → record

Torch is imported by what has to be computed, so an evaluation whose stages are on disk starts fast.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from zoo import __version__, provenance, registry, scoring, stages, weights
from zoo.audits.duplicates import Pictures, thumbnails
from zoo.audits.leakage import LeakageReport, audit_split
from zoo.brains import brains, dealing, encoding
from zoo.datasets import base as data_room
from zoo.datasets.base import EEGDataset
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.gallery import write_gallery
from zoo.images import Features, Images, seen, seen_anew
from zoo.leaves import leaf, note
from zoo.plan import Plan, Progress, config_of, data_identity, identify, make_plan, pick_device, silent, split_sha, warn
from zoo.plots import confusion_plot, sample_grid
from zoo.queries import Queries
from zoo.record import Audit, Cost, Identity, Provenance, Record, System, Value
from zoo.responses import Responses
from zoo.scoring import EEGSide, Scored
from zoo.specs import ModelCard, Split
from zoo.stages import TRIALS, Stage, Work
from zoo.store import cache_dir, digest, stage_dir, write_bytes
from zoo.upload import LOGITS

if TYPE_CHECKING:
    from zoo.models.base import Classifier, Model

AUDITS = ("zoo.audits.leakage", "zoo.audits.confound", "zoo.audits.duplicates")


def train(
    model: str,
    dataset: str,
    *,
    split: str | None = None,
    seed: int = 0,
    select: Literal["val", "last", "test"] = "val",
    overrides: dict[str, Any] | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Path:
    """Train ``model`` on the train role of a split and return its weights folder.

    The same call continues an interrupted run, and returns at once when the run is complete. Initial weights depend on
    ``seed`` alone, every step on (seed, recipe, step).

    Args:
        select: How checkpoints are chosen: ``val`` (best validation score, where the recipe has one), ``last``, or
            ``test``: the same score on the test role, as some papers did; records say so.
        overrides: Config fields to change, e.g. ``{"gan_steps": 100}``; they become part of the identity. Where the
            card's preset has ``n_classes``, ``subjects`` or ``n_pictures``, it is the dataset's number of classes, the
            people or the number of pictures of the training role unless set here.

    Raises:
        MissingError: The dataset is not prepared, or the model is not in this release.
    """
    from zoo import distributed

    card = registry.models.get(model)
    if card.builder is None:
        raise weights.announced(card)
    if select not in ("val", "last", "test"):
        raise UsageError(f"select must be val, last or test, not {select!r}.")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed must be at least 0 and less than 2^63, not {seed}.")
    kind = pick_device(device)
    data = data_room.load(dataset)
    with distributed.joined(kind):
        return _trained(card, data, data.split(split), seed, select, overrides or {}, kind, progress)


def _trained(
    card: ModelCard,
    data: EEGDataset,
    chosen: Split,
    seed: int,
    select: Literal["val", "last", "test"],
    overrides: dict[str, Any],
    kind: str,
    progress: Progress,
) -> Path:
    """The weights folder of what ``train`` was asked for, by all processes that have met."""
    import torch

    from zoo import distributed
    from zoo.sketches import Sketches
    from zoo.training import fit

    torch.manual_seed(seed)  # initial weights only; no step draws from the global generator
    given = data.training_data(chosen, validate="test" if select == "test" else "val")
    known = {
        "n_classes": len(data.concepts),
        "subjects": tuple(np.unique(given.subjects[given.train]).tolist()) if given.subjects is not None else (),
        "n_pictures": len(given.images),
    }
    overrides = {**{name: value for name, value in known.items() if name in card.preset}, **overrides}
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
    if distributed.value_of_first(folder.exists()):
        if folder.exists():
            weights.read_info(folder)
        return folder
    recipes = registry.load_object(str(card.builder).partition(":")[0] + ":recipes")
    net.train()
    fitted = {}
    told = {"seed": seed, "select": "last" if select == "last" else "val"}
    notes = stage_dir("training", identity)
    sketches = Sketches(net, data, given, seed, kind)
    for recipe in recipes(net, replace(given, look=_looking(data, kind, progress)), **told):
        draw = sketches.draw if sketches.shows(recipe) else None
        fitted[recipe] = fit(recipe, notes, seed=seed, progress=progress, draw=draw)
    if distributed.crew().first:
        touched = {id(module) for recipe in fitted for module in recipe.modules().values()}
        parts = tuple(part for part, module in net.parts().items() if id(module) in touched)
        about = {
            "model": card.id,
            "name": name,
            "config": {**card.preset, **overrides},
            "eeg": data.spec,
            "source": "trained",
            "trained_on": (data.id,),
            "split_sha256": split_sha(chosen),
            "seed": seed,
            "selection": _selection(select, any(run.best_step is not None for run in fitted.values())),
            "receipt": {
                "split": chosen.id,
                "stimuli": data.stimuli_source,
                "device": kind,
                "processes": distributed.crew().size,
                "recipes": {
                    recipe.name: {key: getattr(run, key) for key in ("step", "best_step", "best_score", "seconds")}
                    for recipe, run in fitted.items()
                },
            },
        }
        weights.save(net, about, parts=parts, beside=sketches.bound(notes, [recipe.name for recipe in fitted]))
    distributed.value_of_first(None)  # nobody goes on before the weights are there
    return folder


def _selection(select: str, chosen: bool) -> str:
    """What records say of the choice of a checkpoint."""
    if not chosen:
        return "last step"
    return "test (as published, not fair)" if select == "test" else "validation"


def _looking(
    data: EEGDataset, device: str, progress: Progress
) -> Callable[[str, str, Sequence[np.ndarray]], np.ndarray]:
    """What frozen networks see in pictures of ``data``; kept, so that the next training only reads it."""

    def look(extractor: str, output: str, pictures: Sequence[np.ndarray]) -> np.ndarray:
        work = Work(device=device, progress=progress)
        if isinstance(pictures, data_room.Pictures):
            return seen(data, pictures.rows, extractor, output, work)
        return seen_anew(pictures, extractor, output, work)

    return look


def evaluate(
    model: str | Model, dataset: str, *, output_dir: str | Path | None = None, again: bool = False, **options: Any
) -> Record:
    """Evaluate a model and its controls on a split; the record is on disk before anything optional can fail.

    Args:
        model: A registry id, or an instance of a class of ``zoo.models.base``, which is known by the files that define
            its class and by its tensors: what it reads from elsewhere belongs into its ``config``.
        dataset: The id of a prepared dataset.
        output_dir: Where ``records/`` grows; the local board in the cache if omitted.
        again: Score although a record of this identity is here already; stages on disk are used all the same.
        options: ``split``, ``weights``, ``seed``, ``replicates``, ``limit`` (makes a partial record), ``device``,
            ``batch_size``, ``shard``, ``metrics``, ``progress``, ``say``: see ``make_plan``.

    Raises:
        UsageError: Something does not fit, or nothing can be written to ``output_dir``; in one sentence.
        IntegrityError: A file of an earlier run is damaged; the message names it.
        MissingError: Data or weights are not here; the message names the command that brings them.
        ShardsMissingError: This shard is done, others are not; or this is not the first of several processes, whose
            part is done.
    """
    started = time.monotonic()
    plan = make_plan(model, dataset, **options)
    board = Path(output_dir) if output_dir else cache_dir("board")
    identity = identify(plan)
    if not again and (known := find_record(board, identity)) is not None:
        _say_where(known, board, options)
        return known
    if output_dir is not None:
        require_writable(board / "records" / identity.track / identity.model)
    if not plan.work.crew.first:
        _sides(plan)
        raise stages.ShardsMissingError
    judged = _audited(plan)
    try:
        result = scored(plan)
    except (ZooError, stages.ShardsMissingError):
        raise
    except Exception as error:
        failed = _record(plan, identity, judged, Result(), started, error=f"{type(error).__name__}: {error}")
        failed.write(board / "records" / failed.name)
        raise
    units = result.units_parquet()
    record = _record(plan, identity, judged, result, started, units=units)
    path = board / "records" / record.name
    write_bytes(path.with_suffix(".units.parquet"), units)
    record.write(path)
    note(record, plan)
    if (headline := result.values[plan.track.headline]).value is None:
        options.get("say", warn)(
            f"{plan.track.headline}, the headline of {identity.track}, has no value: {headline.reason}."
        )
    if result.responses is not None:
        result.responses.draw(path)
    if result.images is not None:
        _draw(result.images, path.with_suffix(".png"))
        write_gallery(result.images, path.with_suffix(".samples"))
    elif (named := result.values.get("classifier_accuracy")) is not None and named.value is not None:
        _draw_confusion(plan, path.with_suffix(".png"))
    _say_where(record, board, options)
    return record


def _say_where(record: Record, board: Path, options: Mapping[str, Any]) -> None:
    """Tell whoever brought no ``say`` where a record lies; commands tell it themselves."""
    if "say" not in options:
        warn(f"record {record.id[:12]}: {board / 'records' / record.name}")


def find_record(board: Path, identity: Identity) -> Record | None:
    """A finished record of this identity under ``board``, if there is one.

    Raises:
        IntegrityError: A file with its name is not the record that was written.
    """
    wanted = digest(identity.model_dump(mode="json"))
    for path in sorted((board / "records" / identity.track / identity.model).glob(f"{wanted[:12]}-*.json")):
        try:
            record = Record.read(path)
        except (UsageError, IntegrityError) as error:
            raise IntegrityError(f"{str(error).rstrip('.')}; delete it and run the same command again.") from error
        if record.id == wanted and record.status != "failed":
            return record
    return None


def require_writable(folder: Path) -> None:
    """Refuse a place that takes no file before the work for one is done."""
    deepest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (deepest.is_dir() and os.access(deepest, os.W_OK | os.X_OK)):
        raise UsageError(f"--output-dir must be a folder that can be written, but {deepest} is not; name another.")


def audit(data: EEGDataset, split: Split) -> LeakageReport:
    """The leakage audit of a split."""
    pictures = None
    if (n := len(data.stimuli)) > 0:
        identity = {"stimuli": data.stimuli_sha256, "code": provenance.code_sha256("zoo.audits.duplicates")}
        decoded = (picture for row in range(n) for picture in data.stimulus_pixels([row]))
        small = stages.once("thumbnails", identity, lambda: thumbnails(decoded))
        roles = (data.stimulus_rows(split, role) for role in ("train", "test"))
        pictures = Pictures(data.stimuli.sha256, small, *roles)
    return audit_split(
        eeg=data.eeg,
        spec=data.spec,
        labels=data.labels,
        trials=data.trials,
        roles=data.roles(split),
        protocol=split.protocol,
        pictures=pictures,
    )


def _audited(plan: Plan) -> Audit:
    """The audit of the plan's split, kept: it depends on the data and on its own code alone."""
    identity = {**data_identity(plan.data, plan.split), "code": provenance.code_sha256(*AUDITS)}

    def judge() -> dict[str, Any]:
        plan.work.progress(0, 1, "auditing the split")
        report = audit(plan.data, plan.split)
        judged = Audit(verdict=report.verdict, evidence=report.evidence, sentences=report.sentences)
        return judged.model_dump(mode="json")

    return Audit.model_validate(stages.once_json("audits", identity, judge))


def _draw(images: Images, path: Path) -> None:
    """The sample grid beside the record, drawn once for the same images."""
    kept = (
        stage_dir("grids", {"code": provenance.code_sha256("zoo.plots"), **images.side("model").identity}) / "grid.png"
    )
    if not kept.exists():
        sample_grid(images.grid(), kept, title=f"{images.plan.info.model} on {images.plan.track.id}")
    write_bytes(path, kept.read_bytes())


def _draw_confusion(plan: Plan, path: Path) -> None:
    """What the model's own classifier called the classes, beside the record, drawn once for the same features."""
    identity = {**plan.identity_of(plan.test_rows), "track": plan.track.id, "code": provenance.code_sha256("zoo.plots")}
    kept = stage_dir("confusions", identity) / "confusion.png"
    if not kept.exists():
        from sklearn.metrics import confusion_matrix

        named = _logits(plan, "model", {"model": encoding(plan, plan.test_rows)})().argmax(axis=1)
        counts = confusion_matrix(plan.data.labels[plan.test_rows], named, labels=range(len(plan.data.concepts)))
        title = f"{plan.info.model} on {plan.track.id}"
        confusion_plot(counts, kept, concepts=tuple(plan.data.concepts), title=title)
    write_bytes(path, kept.read_bytes())


@dataclass(frozen=True)
class Result:
    """What scoring a plan gives.

    Attributes:
        units: Columns of the per-trial values (system, metric, trial_id, unit, value).
        images: The image side, None where there is none.
        responses: The encoding side, None where there is none.
    """

    values: dict[str, Value] = field(default_factory=dict)
    controls: dict[str, System] = field(default_factory=dict)
    units: list[tuple[str, str, str, str, float]] = field(default_factory=list)
    images: Images | None = None
    responses: Responses | None = None

    def units_parquet(self) -> bytes:
        """The per-trial values as a parquet file, kept: making one imports pandas, which takes longer than all else."""
        names = ("system", "metric", "trial_id", "unit", "value")
        columns = [list(column) for column in zip(*self.units, strict=True)] or [[] for _ in names]
        path = stage_dir("units", {"rows": digest(columns)}) / "units.parquet"
        if not path.exists():
            import pyarrow as pa
            import pyarrow.parquet as pq

            sink = io.BytesIO()
            pq.write_table(pa.table(dict(zip(names, columns, strict=True))), sink)
            write_bytes(path, sink.getvalue())
        return path.read_bytes()


def scored(plan: Plan) -> Result:
    """Encode, generate, extract and measure; every stage first fills this shard's chunks, then all are gathered.

    Every shard encodes all trials: that is quick, and what the controls do with the features needs all of them.
    """
    sides, images, responses, impossible = _sides(plan)
    systems: dict[str, dict[str, Scored]] = {}
    for name in ("model", *plan.track.controls):
        found = systems[name] = {}
        for card in plan.metrics:
            plan.work.progress(0, 1, f"scoring ({name} {card.id})")
            side = sides[card.sees](name)
            if side is None:
                found[card.id] = scoring.null(card, impossible.get(name, f"this control has no {NOTHING[card.sees]}"))
            else:
                found[card.id] = scoring.score(card, side, plan.signatures[card.id])
        for metric, reason in plan.unmeasured.items():
            found[metric] = scoring.null(registry.metrics.get(metric), reason)
    values = {name: {metric: scored.value for metric, scored in found.items()} for name, found in systems.items()}
    return Result(
        values["model"],
        {name: System(values=values[name]) for name in plan.track.controls},
        [row for name, found in systems.items() for row in _unit_rows(plan, name, found)],
        images,
        responses,
    )


NOTHING = {"images": "images", "eeg": "EEG features", "responses": "responses", "gallery": "queries"}
"""What a system lacks that a metric cannot look at."""
Sides = dict[str, Callable[[str], Any]]
"""What metrics look at → side of a system, None where it has none."""


def _sides(plan: Plan) -> tuple[Sides, Images | None, Responses | None, dict[str, str]]:
    """Everything that the plan's metrics look at, stages filled; and controls that cannot be had, with the reason."""
    looks = {card.sees for card in plan.metrics}
    sides: Sides = {}
    impossible: dict[str, str] = {}
    images: Images | None = None
    responses: Responses | None = None
    if "responses" in looks:
        predicted = responses = Responses(plan)
        impossible |= responses.impossible
        _fill(plan, responses.stages)
        sides["responses"] = lambda name: predicted.side(name) if predicted.has(name) else None
    if "gallery" in looks:
        queries = Queries(plan)
        impossible |= queries.impossible
        sides["gallery"] = lambda name: queries.side(name) if queries.has(name) else None
    if looks & {"eeg", "images"} or plan.no_images is None:
        train, given, missing = brains(plan)
        impossible |= missing
        if plan.no_images is None:
            images = Images(plan, given, train)
            impossible |= images.impossible
            _fill(plan, images.stages)
        made = images

        def eeg_side(name: str) -> EEGSide | None:
            return _eeg_side(plan, name, train, given) if name in given and name != "random-codebook" else None

        sides["eeg"] = eeg_side
        sides["images"] = lambda name: made.side(name) if made is not None and made.has(name) else None
    return sides, images, responses, impossible


def _fill(plan: Plan, needed: Iterable[Stage]) -> None:
    needed = tuple(needed)
    for work in plan.work.passes:
        for stage in needed:
            stage.fill(work)


def _eeg_side(plan: Plan, system: str, train: Features, given: Mapping[str, Features]) -> EEGSide:
    """What the EEG metrics of one system may be given."""
    data = plan.data
    identity = {
        **plan.identity_of(plan.test_rows),
        "table": data.fingerprint,
        "train": digest([str(trial) for trial in data.trials["trial_id"][plan.train_rows]]),
        "for": system,
        "track": plan.track.id,
        "unit": plan.track.unit,
        "controls": provenance.code_sha256("zoo.audits.controls", __name__),
    }
    units = plan.units(plan.test_rows)
    arrays: dict[str, Callable[[], Any]] = {
        "train_features": train,
        "train_labels": lambda: data.labels[plan.train_rows],
        "test_features": given[system],
        "test_labels": lambda: data.labels[plan.test_rows],
        "test_units": lambda: units,
        "n_classes": lambda: len(data.concepts),
    }
    if plan.no_head is None and any("test_logits" in card.needs.values() for card in plan.metrics):
        arrays["test_logits"] = _logits(plan, system, given)
    return EEGSide(identity, arrays, units, (lambda: _finetune(plan)) if system == "model" else None)


def _logits(plan: Plan, system: str, given: Mapping[str, Features]) -> Features:
    """What the model's own classifier makes of the test trials of a system; dealt anew, of trials dealt anew."""
    if (order := dealing(plan, system)) is not None:
        own = _logits(plan, "model", given)
        return lambda: own()[order]

    def compute(part: slice) -> np.ndarray:
        from zoo import compute

        return compute.logits(cast("Classifier", plan.model), given[system]()[part], plan.work)

    rows = plan.test_rows
    identity = {**plan.identity_of(rows), "for": system, "track": plan.track.id}
    made = Stage("logits", identity, rows.size, compute, "classifying", TRIALS)
    keys, width = plan.data.trials["trial_id"][rows], len(plan.data.concepts)
    stage = leaf(plan, LOGITS + system, made, keys, (width,))

    def filled() -> np.ndarray:
        stage.fill(replace(plan.work, shard=None))
        return stage.rows()[:]

    return filled


def _finetune(plan: Plan) -> np.ndarray:
    """Per test trial, whether the encoder fine-tuned with a linear head is right; kept, since it is a training."""
    card = next(card for card in plan.metrics if "encoder" in card.needs.values())
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
        if scored.per_unit is not None and scored.of is not None:
            for (name, unit), value in zip(scored.of, scored.per_unit, strict=True):
                rows.append((system, metric, name, unit, float(value)))
        elif scored.per_unit is not None:
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
    judged: Audit,
    result: Result,
    started: float,
    *,
    units: bytes | None = None,
    error: str | None = None,
) -> Record:
    commit, dirty = provenance.git_state()
    return Record(
        status="failed" if error else "partial" if plan.limit else "ok",
        error=error,
        identity=identity,
        audit=judged,
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
            hardware=provenance.hardware(plan.work.device),
            threads=provenance.threads(),
            packages=provenance.versions(),
            weights_source=f"{plan.info.source}: {plan.info.name}",
            trained_on=plan.info.trained_on,
            conditioned_on=plan.facts.conditioned_on,
            selection=plan.info.selection,
            stimuli_source=plan.data.stimuli_source,
            dataset_complete=plan.data.complete,
            protocol=plan.split.protocol,
        ),
        cost=Cost(
            seconds=time.monotonic() - started,
            n_parameters=plan.facts.n_parameters,
            images_per_second=result.images.per_second if result.images else None,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ),
    )

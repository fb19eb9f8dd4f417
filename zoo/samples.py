"""``zoo generate``: a model's images as files, with a manifest and a grid to look at.

They are the stages of ``zoo eval``, so what one of the two made the other only reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo import __version__
from zoo.brains import encoding
from zoo.datasets.base import Role
from zoo.errors import UsageError
from zoo.images import Images
from zoo.plan import Plan, make_plan, split_sha
from zoo.plots import Grid, sample_grid
from zoo.runner import require_writable
from zoo.stages import CHUNK, whole
from zoo.store import UNFINISHED, atomic_file, atomic_folder, cache_dir, digest, write_bytes

if TYPE_CHECKING:
    from zoo.models.base import Model

MANIFEST, PICTURES, ARRAY, GRID = "manifest.jsonl", "samples", "samples.npy", "grid.png"
GRID_CLASSES, GRID_COLUMNS = 12, 8
"""Most rows and columns of the grid."""


def generate(
    model: str | Model,
    dataset: str,
    *,
    role: Role = "test",
    format: Literal["png", "npy"] = "png",  # noqa: A002 - as the option is called
    output_dir: str | Path | None = None,
    **options: Any,
) -> Path:
    """Write the images that a model makes of the trials of a role, and return their folder.

    It holds ``samples/`` with a PNG each, or ``samples.npy``, (n, 3, height, width) uint8; ``manifest.jsonl`` with a
    line per sample; and ``grid.png``. Of the test role these are the images that ``evaluate`` scores under the same
    options, of at most as many trials as the track asks for. Weights, trial and replicate alone decide an image.

    Args:
        model: A registry id, or a ``Reconstructor`` instance.
        dataset: The id of a prepared dataset, or a track of one.
        output_dir: New, empty, or with these very samples; a folder in the cache if omitted.
        options: ``split``, ``weights``, ``seed``, ``replicates``, ``limit``, ``device``, ``batch_size``, ``progress``,
            ``say``: see ``make_plan``.

    Raises:
        UsageError: The model makes no images, the role has no trials, or ``output_dir`` holds something else.
        IntegrityError: A file of an earlier run is damaged; the message names it.
        MissingError: Data or weights are not here; the message names the command that brings them.
    """
    for what, value, known in (("role", role, ("train", "val", "test")), ("format", format, ("png", "npy"))):
        if value not in known:
            raise UsageError(f"{what} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}.")
    plan = make_plan(model, dataset, **options)
    if plan.no_generator:
        raise UsageError(f"generating needs a model that makes images, but {plan.no_generator}; name another.")
    plan = replace(plan, role=role, track=plan.track.model_copy(update={"metrics": (), "controls": ()}))
    if not plan.test_rows.size:
        raise UsageError(f"{plan.data.id} {plan.split.id} has no trials of role {role}; name another role or split.")
    samples = [*_samples(plan, format)]
    name = f"{plan.info.model}-{plan.data.id}.{plan.split.id}.{role}-{digest(samples)[:8]}"
    folder = Path(output_dir).absolute() if output_dir else cache_dir("samples", name)
    _require_same(folder, samples)
    features = encoding(plan, plan.test_rows)
    images = Images(plan, {"model": features}, features)
    for stage in images.stages:
        stage.fill(plan.work)
    _write(folder, samples, images, format)
    return folder


def _samples(plan: Plan, format: str) -> Iterator[dict[str, Any]]:  # noqa: A002
    """What the manifest says of each sample, replicate after replicate, as far as it is known before they are made."""
    trials, rows = plan.data.trials, plan.test_rows[plan.image_rows]
    for replicate in range(plan.replicates):
        for row in rows:
            trial = str(trials["trial_id"][row])
            yield {
                "track": plan.track.id,
                "trial_id": trial,
                "replicate": replicate,
                "file": f"{PICTURES}/{_file_name(trial)}.r{replicate}.png" if format == "png" else ARRAY,
                "role": plan.role,
                "subject": trials["subject"][row],
                "concept": plan.data.concepts[plan.data.labels[row]],
                "stimulus_id": trials["stimulus_id"][row],
                "model": plan.info.model,
                "weights_sha256": plan.info.sha256,
                "split_sha256": split_sha(plan.split),
                "device": plan.work.device,
                "zoo": __version__,
            }


def _file_name(trial: str) -> str:
    """A trial id as a file name on any system: as it is, or with a part of its hash where something was left out.

    Example:
        >>> _file_name("s01-r1-001"), _file_name("Sub/1")
        ('s01-r1-001', 'ub_1-eb871d87')
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", trial):
        return trial
    kept = re.sub(r"[^a-z0-9]+", "_", trial)[:60].strip("_")
    return f"{kept}-{digest(trial)[:8]}"


def _require_same(folder: Path, samples: list[dict[str, Any]]) -> None:
    """Refuse a place with anything else in it before the work is done, so that no file of anybody is lost."""
    require_writable(folder)
    manifest = folder / MANIFEST
    if manifest.exists():
        with whole(manifest):
            lines = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
            found = [{key: value for key, value in line.items() if key not in ("row", "sha256")} for line in lines]
        if found != samples:
            raise UsageError(f"--output-dir must not hold other samples, but {folder} does; name another folder.")
    elif folder.exists() and (
        others := [path.name for path in folder.iterdir() if not UNFINISHED.fullmatch(path.name)]
    ):
        raise UsageError(f"--output-dir must be new or empty, but {folder} holds {min(others)}; name another folder.")


def _write(folder: Path, samples: list[dict[str, Any]], images: Images, format: str) -> None:  # noqa: A002
    """The manifest first, by which an unfinished folder is known again."""
    plan, report = images.plan, images.plan.work.progress
    sha256 = [hashlib.sha256(image.tobytes()).hexdigest() for image in _each(images)]
    rows = [{} if format == "png" else {"row": row} for row in range(len(samples))]
    lines = [
        json.dumps({**sample, **row, "sha256": sha}, ensure_ascii=False)
        for sample, row, sha in zip(samples, rows, sha256, strict=True)
    ]
    write_bytes(folder / MANIFEST, ("\n".join(lines) + "\n").encode())
    if format == "npy":
        with atomic_file(folder / ARRAY) as file:
            np.save(file, np.concatenate([stage.rows()[:] for stage in images.generated()]))
    else:
        with atomic_folder(folder / PICTURES) as work:
            for done, (sample, image) in enumerate(zip(samples, _each(images), strict=True)):
                report(done, len(samples), "writing pictures")
                (work / Path(sample["file"]).name).write_bytes(_png(image))
        report(len(samples), len(samples), "writing pictures")
    real = "" if plan.no_pairs is None or not plan.data.stimuli.ids.size else "; real: of the same class"
    sample_grid(_grid(images), folder / GRID, title=f"{plan.info.model} on {plan.track.id}{real}")


def _each(images: Images) -> Iterator[np.ndarray]:
    """Every image, (height, width, 3) uint8, in the order of the manifest."""
    for stage in images.generated():
        rows = stage.rows()
        for start in range(0, len(rows), CHUNK):
            for image in rows[start : start + CHUNK]:
                yield np.ascontiguousarray(image.transpose(1, 2, 0))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(image).save(sink, format="png")
    return sink.getvalue()


def _grid(images: Images) -> Grid:
    """Classes down; across, trials of the class with what was shown beside what was made of it."""
    plan = images.plan
    classes = np.unique(images.labels)
    classes = classes[np.unique(np.linspace(0, len(classes) - 1, GRID_CLASSES).astype(int))]
    members = [np.flatnonzero(images.labels == label) for label in classes]
    stages = images.generated()[: GRID_COLUMNS - 1]
    pictured = bool(plan.data.stimuli.ids.size)
    width = len(stages) + pictured
    n = max(1, min(GRID_COLUMNS // width, *(len(rows) for rows in members)))
    few = np.concatenate([rows[:n] for rows in members])
    columns = [images.real(few)] if pictured else []
    columns += [stage.rows()[few] for stage in stages]
    pictures = np.stack(columns, axis=1)  # trial, column, …
    pictures = pictures.reshape(len(classes), n * width, *pictures.shape[2:])
    names = (["real"] if pictured else []) + [f"sample {replicate + 1}" for replicate in range(len(stages))]
    return Grid(tuple(names * n), dict(zip((plan.data.concepts[label] for label in classes), pictures, strict=True)))

"""Stages that only a model can fill: noted by an evaluation, so that they can be uploaded; or filled from an upload.

Everything else of an evaluation follows from these, from the public recordings, and from hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo import __version__, upload
from zoo.errors import MissingError, UsageError
from zoo.stages import Rows, Stage, chunks
from zoo.store import cache_dir, digest, read_json, stage_dir, write_json
from zoo.upload import BYTES, MANIFEST, SAMPLES, SEEN, Array, Manifest

if TYPE_CHECKING:
    from zoo.plan import Plan
    from zoo.record import Record

FLOATS = ("float32", "float64")


class Leaf(NamedTuple):
    """A stage that only the model fills, and the ids of its rows."""

    stage: Stage
    keys: tuple[str, ...]


def leaf(
    plan: Plan, name: str, stage: Stage, keys: Sequence[str], shape: tuple[int | None, ...], *, of: str = ""
) -> Stage:
    """A stage that the plan's model fills; where an upload takes the model's place, it is filled from that.

    Args:
        name: As in ``upload.Array``.
        keys: Id of each row: trial or stimulus.
        shape: Of a row; None for what the model decides.
        of: The leaf that this one is computed from: where that was uploaded, this one is computed again.

    Raises:
        IntegrityError: What was uploaded is of other trials or has another form.
    """
    keys = tuple(map(str, keys))
    if plan.upload is None:
        plan.leaves[name] = Leaf(stage, keys)
        return stage
    given = plan.upload
    if of and of in given:
        return stage
    if name not in given:
        return replace(stage, lacking=f"{of or name} was not uploaded")
    given.require(name, keys, shape, ("uint8",) if name.startswith(SAMPLES) else FLOATS)
    return replace(stage, compute=lambda part: given.rows(name, keys[part]))


def note(record: Record, plan: Plan) -> None:
    """Keep in the cache where the leaves of an evaluation lie, for whoever wants to upload them."""
    keys: dict[str, tuple[str, ...]] = {}
    stages = []
    for name, (stage, ids) in sorted(plan.leaves.items()):
        of = f"{len(ids)}-{digest(list(ids))[:8]}"
        keys[of] = ids
        where = [stage.kind, stage.folder.name]
        stages.append({"name": name, "of": of, "where": where, "n": stage.n, "chunk": stage.chunk})
    found = {"subjects": bool(plan.facts.subjects), "sees_by": plan.facts.sees_by, "keys": keys, "stages": stages}
    write_json(_noted(record), found)


def _noted(record: Record) -> Any:
    return stage_dir("leaves", {"run": record.run}) / "leaves.json"


def pack(record: Record, *, samples: bool, features: bool) -> dict[str, bytes]:
    """The files of an upload, by name, as far as this machine holds what the record's metrics were computed from.

    Args:
        samples: Images, lossless.
        features: Features of EEG, logits, predicted responses and embedded pictures; and without ``samples``, what
            extractors saw in the images, where that is smaller than the images themselves.

    Raises:
        MissingError: They are not in this machine's cache; the message names the command that makes them.
        UsageError: The record has nothing of the kind, or it would be larger than any upload.
    """
    path = _noted(record)
    again = f"to make it, run: zoo eval {record.identity.model} --dataset {record.identity.track} --again"
    if not path.exists():
        raise MissingError(
            f"what the metrics of {record.id[:12]} were computed from is not in this machine's cache.\n{again}"
        )
    noted = read_json(path)
    chosen = []
    for stage in noted["stages"]:
        kind, folder = stage["where"]
        rows = Rows(chunks(cache_dir(kind, folder), stage["n"], stage["chunk"]), stage["chunk"], stage["n"])
        if stage["n"] and _wanted(stage["name"], samples, features):
            if not all(path.exists() for path in rows.paths):
                raise MissingError(f"{stage['name']} of {record.id[:12]} is not in this machine's cache.\n{again}")
            chosen.append((stage, rows))
    side = max((rows.shape[-1] for stage, rows in chosen if stage["name"].startswith(SAMPLES)), default=0)
    side = side or _side(noted)
    chosen = [
        (stage, rows) for stage, rows in chosen if not stage["name"].startswith(SEEN) or _row_bytes(rows) <= 3 * side**2
    ]
    if not chosen:
        what = " or ".join(word for word, asked in (("samples", samples), ("features", features)) if asked)
        raise UsageError(f"{record.id[:12]} has no {what} to upload; leave the option out.")
    raw = sum(len(rows) * _row_bytes(rows) for stage, rows in chosen if not stage["name"].startswith(SAMPLES))
    if raw > BYTES:
        raise UsageError(_too_large(record, raw))
    arrays: list[Array] = []
    found: dict[str, bytes] = {}
    for number, (stage, rows) in enumerate(chosen):
        files, data = upload.encode(stage["name"], rows, number)  # type: ignore[arg-type]
        found |= data
        arrays.append(
            Array(name=stage["name"], of=stage["of"], shape=rows.shape[1:], dtype=str(rows.dtype), files=tuple(files))  # type: ignore[arg-type]
        )
        if (size := sum(map(len, found.values()))) > BYTES:
            raise UsageError(_too_large(record, size))
    used = {array.of for array in arrays}
    manifest = Manifest(
        record=record.id,
        run=record.run,
        zoo=__version__,
        subjects=noted["subjects"],
        sees_by=tuple(noted["sees_by"]),
        keys={of: tuple(ids) for of, ids in noted["keys"].items() if of in used},
        arrays=tuple(arrays),
    )
    found = {MANIFEST: (manifest.model_dump_json() + "\n").encode(), **found}  # where another lies, nothing is written
    upload.check(upload.read(found, record=record.id, run=record.run))
    return found


def _wanted(name: str, samples: bool, features: bool) -> bool:
    if name.startswith(SAMPLES):
        return samples
    return features and not (samples and name.startswith(SEEN))


def _row_bytes(rows: Rows) -> int:
    return int(np.prod(rows.shape[1:])) * rows.dtype.itemsize


def _side(noted: Mapping[str, Any]) -> int:
    """Pixels along an image of the evaluation."""
    for stage in noted["stages"]:
        if stage["name"].startswith(SAMPLES) and stage["n"]:
            kind, folder = stage["where"]
            first = chunks(cache_dir(kind, folder), stage["n"], stage["chunk"])[0]
            if first.exists():
                return Rows((first,), stage["chunk"], 1).shape[-1]
    return 0


def _too_large(record: Record, size: int) -> str:
    return (
        f"the upload of {record.id[:12]} would have {size} bytes or more, but {BYTES} is the most; send --samples or "
        "--features alone, or neither."
    )

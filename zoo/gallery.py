"""Samples beside a record, in ``<record>.samples/``: sheets of small pictures and a line about each.

A sheet holds one row of cells per system, a column per trial, wrapped after ``across`` cells. The picked sheets show
the same fixed trials for every model of a track, beside all controls; the others every trial and every sample of the
model. What is real (a picture of the dataset) and what was made lie in different files, since they differ in licence.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, StringConstraints, ValidationError, model_validator

from zoo.errors import IntegrityError, UsageError
from zoo.specs import SHA256, Spec
from zoo.store import atomic_folder, digest

if TYPE_CHECKING:
    import numpy as np

    from zoo.images import Images

MANIFEST = "manifest.jsonl"
PICKED = 24
"""Trials that every model of a track shows."""
PER_SHEET, ACROSS, CELL = 256, 32, 96
"""Trials of a sheet, cells side by side, and the largest cell in pixels: no side may pass WebP's 16,383."""
MAX_BYTES = 4 << 20
"""Of a sheet, and of a manifest."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Sheet(Spec):
    """One file of cells: cell ``row * len(trials) + column`` counted along lines of ``across`` cells."""

    file: str = Field(pattern=r"^[a-z0-9-]{1,40}\.webp$")
    sha256: str = Field(pattern=SHA256)
    picked: bool
    """Whether it holds the fixed trials of the track, not a part of all."""
    real: bool
    """Pictures of the dataset, which its licence may keep from being shown."""
    rows: tuple[Text, ...] = Field(min_length=1, max_length=64)
    trials: tuple[Text, ...] = Field(min_length=1, max_length=PER_SHEET)
    concepts: tuple[Text, ...]
    cell: int = Field(ge=4, le=CELL)
    across: int = Field(ge=1, le=ACROSS)

    @model_validator(mode="after")
    def _a_concept_each(self) -> Sheet:
        if len(self.concepts) != len(self.trials):
            raise ValueError(f"{self.file} names {len(self.concepts)} concepts for {len(self.trials)} trials")
        return self


def pick(track: str, trials: Sequence[str], concepts: Sequence[str], n: int = PICKED) -> list[int]:
    """Positions of the trials that every model of a track shows: the track decides, no result does.

    Every concept in turn, in the order of hashes, so that no order of the data shows.

    Example:
        >>> pick("t", ["a", "b", "c", "d"], ["cat", "cat", "cat", "dog"], n=2) in ([0, 3], [1, 3], [2, 3])
        True
    """
    ordered = sorted(range(len(trials)), key=lambda row: digest([track, trials[row]]))
    turn: dict[str, int] = {}
    turns = []
    for row in ordered:
        turns.append((turn.get(concepts[row], 0), row))
        turn[concepts[row]] = turns[-1][0] + 1
    return sorted((row for _, row in sorted(turns, key=lambda item: item[0])[:n]), key=lambda row: (concepts[row], row))


def write_gallery(images: Images, folder: Path) -> None:
    """Write the sheets of an evaluation and their manifest."""
    import numpy as np

    data = images.plan.data
    trials = [str(trial) for trial in data.trials["trial_id"][images.rows]]
    concepts = [data.concepts[label] for label in images.labels]

    def sheets() -> Iterator[tuple[str, bool, Mapping[str, np.ndarray], np.ndarray]]:
        few = np.array(pick(images.plan.track.id, trials, concepts))
        shown = images.shown(few)
        more = {f"model, sample {k + 1}": s.rows()[few] for k, s in enumerate(images.generated()) if k}
        made = {name: cells for name, cells in shown.items() if name in images.given}
        yield "picked-made", False, {"model": made.pop("model"), **more, **made}, few
        if real := {name: cells for name, cells in shown.items() if name not in images.given}:
            yield "picked-real", True, real, few
        for start in range(0, len(trials), PER_SHEET):
            part = np.arange(start, min(start + PER_SHEET, len(trials)))
            samples = enumerate(images.generated(), start=1)
            rows = {f"sample {k}": stage.rows()[start : start + PER_SHEET] for k, stage in samples}
            yield f"made-{start // PER_SHEET}", False, rows, part
            if data.stimuli.ids.size:
                yield f"real-{start // PER_SHEET}", True, {"shown": images.real(part)}, part

    with atomic_folder(folder) as work:
        lines = []
        for name, real, rows, few in sheets():
            encoded, cell, across = _encoded(np.concatenate([*rows.values()]))
            (work / f"{name}.webp").write_bytes(encoded)
            sheet = Sheet(
                file=f"{name}.webp",
                sha256=hashlib.sha256(encoded).hexdigest(),
                picked=name.startswith("picked"),
                real=real,
                rows=tuple(rows),
                cell=cell,
                across=across,
                trials=tuple(trials[i] for i in few),
                concepts=tuple(concepts[i] for i in few),
            )
            lines.append(sheet.model_dump_json())
        (work / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _encoded(cells: np.ndarray) -> tuple[bytes, int, int]:
    """Cells, (n, 3, side, side) uint8, as WebP; with the side they have there and their number in a line."""
    import numpy as np
    from PIL import Image

    side, across = min(cells.shape[-1], CELL), min(ACROSS, len(cells))
    sheet = Image.new("RGB", (across * side, -(-len(cells) // across) * side))
    for place, cell in enumerate(cells):
        picture = Image.fromarray(np.ascontiguousarray(cell.transpose(1, 2, 0)))
        if side != cells.shape[-1]:
            picture = picture.resize((side, side), Image.Resampling.BOX)
        sheet.paste(picture, (place % across * side, place // across * side))
    sink = io.BytesIO()
    sheet.save(sink, format="webp", quality=86, method=4)
    return sink.getvalue(), side, across


def read_manifest(data: bytes, *, where: str) -> list[Sheet]:
    """The sheets that a manifest names; it may come from a stranger.

    Raises:
        UsageError: It is too large, no manifest, or names a file twice.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"{where} has {len(data)} bytes, more than the {MAX_BYTES} of any manifest of samples.")
    try:
        sheets = [Sheet.model_validate_json(line) for line in data.splitlines()]
    except (ValidationError, RecursionError) as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise UsageError(f"{where} is no valid manifest of samples: {first}") from error
    if len({sheet.file for sheet in sheets}) != len(sheets):
        raise UsageError(f"{where} must name every sheet once, but names one twice.")
    return sheets


def check_sheet(sheet: Sheet, data: bytes, *, where: str) -> None:
    """Look at the bytes of a sheet; only the header of the picture is read.

    Raises:
        IntegrityError: They are not those that the manifest names, no WebP, or of another size than its cells make.
    """
    from PIL import Image

    if hashlib.sha256(data).hexdigest() != sheet.sha256:
        raise IntegrityError(f"{where} is not the sheet that its manifest names; fetch the samples again.")
    if not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        raise IntegrityError(f"{where} must be WebP, but begins with {data[:12]!r}.")
    n = len(sheet.rows) * len(sheet.trials)
    wanted = (min(n, sheet.across) * sheet.cell, -(-n // sheet.across) * sheet.cell)
    try:
        with Image.open(io.BytesIO(data), formats=["webp"]) as picture:
            found = picture.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise IntegrityError(f"{where} must be WebP, but cannot be read: {error}.") from error
    if found != wanted:
        raise IntegrityError(f"{where} must be {wanted[0]}×{wanted[1]} for its cells, but is {found[0]}×{found[1]}.")

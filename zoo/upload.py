"""What lies beside a record so that others can compute its metrics again, in ``<record>.upload/``.

It holds the arrays that only the record's model can make: images as sheets of lossless WebP, and as safetensors the
features of EEG, a classifier's logits, predicted responses, embedded pictures and what extractors saw. Every row is
keyed by its trial or stimulus, every array by system and replicate. The manifest names each file with its sha256, and
the record's own run, so that it can lie beside no other. Reading one is reading a stranger's files: nothing of it is
executed, and each thing that is wrong is one sentence.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from zoo.errors import IntegrityError, UsageError
from zoo.specs import SHA256, Spec

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.jsonl"
BYTES = 256 << 20
"""Of all files of an upload."""
MANIFEST_BYTES, FILE_BYTES = 16 << 20, 48 << 20
MAX_FILES, MAX_ROWS = 400, 1_000_000
EXPANDED = 4 << 30
"""Bytes of all arrays, once unpacked; never more than one file's are in memory."""
SHEET_PIXELS, PER_SHEET, ACROSS = 1 << 24, 256, 16
LARGEST_SIDE = 1024
TENSOR_BYTES = 32 << 20
LARGEST = 1e12
"""No feature comes near it, and its square still is a number."""
TENSOR = "rows"
"""Name of the one tensor of a file."""
SAMPLES, SEEN, EEG, LOGITS = "samples/", "seen/", "eeg-features/", "logits/"
PREDICTIONS, GALLERY = "predictions", "gallery"

Key = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class File(Spec):
    """Consecutive rows of an array, as they lie on disk."""

    file: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}\.(webp|safetensors)$")
    sha256: str = Field(pattern=SHA256)
    rows: int = Field(ge=1, le=MAX_ROWS)


class Array(Spec):
    """Rows of one kind.

    ``samples/<system>.r<replicate>``, ``seen/<extractor>/<system>.r<replicate>``, ``eeg-features/<which>``,
    ``logits/<system>``, ``predictions`` or ``gallery``.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9./@+_-]{0,149}$")
    of: str = Field(min_length=1, max_length=40)
    """Which keys of the manifest its rows belong to."""
    shape: tuple[int, ...] = Field(min_length=1, max_length=3)
    """Of one row."""
    dtype: Literal["uint8", "float32", "float64"]
    files: tuple[File, ...] = Field(min_length=1, max_length=MAX_FILES)

    @property
    def pictures(self) -> bool:
        return self.name.startswith(SAMPLES)

    @property
    def n(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * {"uint8": 1, "float32": 4, "float64": 8}[self.dtype]


class Manifest(Spec):
    """What an upload holds."""

    schema_version: Literal[1] = 1
    record: str = Field(pattern=SHA256)
    run: str = Field(pattern=SHA256)
    zoo: str = Field(min_length=1, max_length=40)
    """Version that packed it."""
    subjects: bool = False
    """Whether the predictions tell people apart."""
    sees_by: tuple[str, str] = ("", "")
    """Extractor and output through which pictures have their place in the model's space."""
    keys: dict[str, tuple[Key, ...]]
    """Ids of trials or stimuli, by a name that arrays refer to."""
    arrays: tuple[Array, ...] = Field(min_length=1, max_length=MAX_FILES)


# ---- writing


def encode(name: str, rows: Sequence[np.ndarray] | np.ndarray, number: int) -> tuple[list[File], dict[str, bytes]]:
    """The files of one array, (n, …), read slice by slice.

    Args:
        number: Of the array within its upload; makes file names unique.
    """
    shape, n = rows[:1].shape[1:], len(rows)  # type: ignore[union-attr]
    per = per_sheet(shape[-1]) if name.startswith(SAMPLES) else max(1, TENSOR_BYTES // max(1, rows[:1].nbytes))  # type: ignore[union-attr]
    plain = "".join(c if c.isalnum() else "-" for c in name.lower())[:60].strip("-")
    files, found = [], {}
    for start in range(0, n, per):
        part = rows[start : start + per]
        data = _sheet(part) if name.startswith(SAMPLES) else _tensor(part)  # type: ignore[arg-type]
        suffix = "webp" if name.startswith(SAMPLES) else "safetensors"
        file = f"{number:03d}-{plain}-{start // per:03d}.{suffix}"
        files.append(File(file=file, sha256=hashlib.sha256(data).hexdigest(), rows=len(part)))
        found[file] = data
    return files, found


def per_sheet(side: int) -> int:
    """Images of one sheet: as many as can be unpacked without thinking about memory."""
    return max(1, min(PER_SHEET, SHEET_PIXELS // side**2))


def _across(side: int, n: int) -> int:
    return min(ACROSS, n, 16_383 // side)


def _sheet(cells: np.ndarray) -> bytes:
    """Images, (n, 3, side, side) uint8, in lines of 16, as lossless WebP."""
    import numpy as np
    from PIL import Image

    n, _, side, _ = cells.shape
    across = _across(side, n)
    down = -(-n // across)
    filled = np.zeros((down * across, 3, side, side), np.uint8)
    filled[:n] = cells
    lines = filled.reshape(down, across, 3, side, side).transpose(0, 3, 1, 4, 2)
    sink = io.BytesIO()
    Image.fromarray(lines.reshape(down * side, across * side, 3)).save(
        sink, format="webp", lossless=True, quality=20, method=1
    )
    return sink.getvalue()


def _tensor(rows: np.ndarray) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({TENSOR: np.ascontiguousarray(rows)})


# ---- reading


@dataclass
class Upload:
    """An upload whose files are those that its manifest names; made by ``read``.

    Attributes:
        sha256: Of the manifest, which holds that of every other file.
        used: Names of the arrays that took the place of something that only the model could make.
    """

    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)
    sha256: str
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._decoded = lru_cache(maxsize=2)(self._decode)

    @cached_property
    def arrays(self) -> dict[str, Array]:
        return {array.name: array for array in self.manifest.arrays}

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def require(self, name: str, keys: Sequence[str], shape: tuple[int | None, ...], dtypes: Sequence[str]) -> None:
        """Take an array into use, unless it is not the one that the recordings ask for.

        Args:
            keys: Ids of its rows, in whatever order.
            shape: Of a row; None for what the model decides.

        Raises:
            IntegrityError: Rows are missing, are of other trials, or have another form.
        """
        array = self.arrays[name]
        fits = len(shape) == len(array.shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
        if not fits or array.dtype not in dtypes:
            asked = " × ".join("n" if size is None else str(size) for size in shape)
            raise IntegrityError(
                f"rows of {name} must be {asked} of {' or '.join(dtypes)}, but are "
                f"{' × '.join(map(str, array.shape))} of {array.dtype}."
            )
        has, wanted = {*self.manifest.keys[array.of]}, {*keys}
        for what, odd in (("lacks", wanted - has), ("has besides", has - wanted)):
            if odd:
                raise IntegrityError(
                    f"{name} must have a row for each of {len(wanted)} ids, but {what} {ascii(min(odd))}"
                    f"{f' and {len(odd) - 1} more' if len(odd) > 1 else ''}."
                )
        self.used.add(name)

    def rows(self, name: str, keys: Sequence[str]) -> np.ndarray:
        """Rows of an array, by their ids.

        Raises:
            IntegrityError: A file is not what its name says, or holds what is no number.
        """
        import numpy as np

        array = self.arrays[name]
        wanted = np.array([self._places(array.of)[key] for key in keys])
        found = np.empty((len(keys), *array.shape), array.dtype)
        start = 0
        for number, file in enumerate(array.files):
            inside = (wanted >= start) & (wanted < start + file.rows)
            if inside.any():
                found[inside] = self._decoded(name, number)[wanted[inside] - start]
            start += file.rows
        return found

    @lru_cache(maxsize=64)  # noqa: B019 - an upload lives as long as it is looked at
    def _places(self, of: str) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.manifest.keys[of])}

    def __hash__(self) -> int:
        return id(self)

    def _decode(self, name: str, number: int) -> np.ndarray:
        array = self.arrays[name]
        file = array.files[number]
        read = _read_sheet if array.pictures else _read_tensor
        return read(self.files[file.file], array, file)


def names(manifest: bytes) -> list[str]:
    """Files that the bytes of a manifest name; none if they are no manifest.

    Reading them all is left to who asks, and what they hold to ``read``.
    """
    with contextlib.suppress(ValidationError, RecursionError):
        found = Manifest.model_validate_json(manifest)
        return [file.file for array in found.arrays for file in array.files][:MAX_FILES]
    return []


def read(files: Mapping[str, bytes], *, record: str, run: str) -> Upload:
    """The upload of a record, whose rows are decoded when they are asked for.

    Args:
        files: File name → bytes.
        record, run: Hashes of the record that it lies beside.

    Raises:
        UsageError: It is larger than any upload, or no upload.
        IntegrityError: It is of another record, or a file is not the one that its manifest names.
    """
    if MANIFEST not in files:
        raise UsageError(f"an upload must hold {MANIFEST}, but does not; send it again.")
    data = files[MANIFEST]
    if len(data) > MANIFEST_BYTES:
        raise UsageError(f"{MANIFEST} has {len(data)} bytes, more than the {MANIFEST_BYTES} of any upload's.")
    if (size := sum(map(len, files.values()))) > BYTES:
        raise UsageError(f"the upload has {size} bytes, more than the {BYTES} of any.")
    try:
        manifest = Manifest.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        first = " ".join(ascii(line.strip())[1:-1] for line in str(error).splitlines()[1:3])
        raise UsageError(f"{MANIFEST} is no valid manifest of an upload: {first[:300]}") from error
    if (manifest.record, manifest.run) != (record, run):
        raise IntegrityError(
            f"the upload is of {manifest.record[:12]}-{manifest.run[:8]}, not of {record[:12]}-{run[:8]}; send its own."
        )
    _require_bounds(manifest)
    named = {file.file: file for array in manifest.arrays for file in array.files}
    for what, odd in (("misses", {*named} - {*files}), ("has besides", {*files} - {*named, MANIFEST})):
        if odd:
            raise IntegrityError(f"the upload {what} {ascii(min(odd))[:100]}: its manifest names every file.")
    for name, file in named.items():
        if hashlib.sha256(files[name]).hexdigest() != file.sha256:
            raise IntegrityError(f"{name} is not the file that the upload's manifest names; send it again.")
    return Upload(manifest, dict(files), hashlib.sha256(data).hexdigest())


def check(upload: Upload) -> None:
    """Decode everything that is cheap to decode, and of pictures the size, so that a bad file is known at once.

    Raises:
        IntegrityError: A file is not what its name says, or holds what is no number.
    """
    for array in upload.manifest.arrays:
        for file in array.files:
            if array.pictures:
                _sheet_size(upload.files[file.file], array, file)
            else:
                _read_tensor(upload.files[file.file], array, file)


def _require_bounds(manifest: Manifest) -> None:
    """Refuse what would take more than a computer has, before any of it is unpacked."""
    twice = [name for name, n in Counter(array.name for array in manifest.arrays).items() if n > 1]
    files = [file.file for array in manifest.arrays for file in array.files]
    twice += [name for name, n in Counter(files).items() if n > 1]
    if twice:
        raise IntegrityError(f"an upload must name everything once, but names {twice[0]} twice.")
    if len(files) > MAX_FILES:
        raise UsageError(f"the upload has {len(files)} files, more than the {MAX_FILES} of any.")
    if (n := sum(map(len, manifest.keys.values()))) > MAX_ROWS:
        raise UsageError(f"the upload has {n} ids, more than the {MAX_ROWS} of any.")
    for name, keys in manifest.keys.items():
        if len({*keys}) != len(keys):
            raise IntegrityError(f"the ids {ascii(name)} must be unique, but one is there twice.")
        if not all(key.isprintable() for key in keys):
            raise IntegrityError(f"the ids {ascii(name)} must be printable, but one is not.")
    widths: dict[str, tuple[int, ...]] = {}
    for array in manifest.arrays:
        if array.of not in manifest.keys:
            raise IntegrityError(f"{array.name} must name its ids, but the manifest has no {ascii(array.of)}.")
        if array.n != (n := len(manifest.keys[array.of])):
            raise IntegrityError(f"{array.name} must have a row for each of {n} ids, but has {array.n}.")
        if min(array.shape) < 1:
            raise IntegrityError(f"{array.name} must have numbers in its rows, but has none.")
        if array.pictures:
            _require_pictures(array)
        elif array.dtype == "uint8" or any(not file.file.endswith(".safetensors") for file in array.files):
            raise IntegrityError(f"{array.name} must be floating-point numbers in safetensors, but is not.")
        kind = EEG if array.name.startswith(EEG) or array.name == GALLERY else array.name.partition("/")[0]
        if kind in (EEG, LOGITS.rstrip("/")) and widths.setdefault(kind, array.shape) != array.shape:
            raise IntegrityError(f"{array.name} must be as wide as what it is compared with, but is not.")
    if (size := sum(array.n * array.row_bytes for array in manifest.arrays)) > EXPANDED:
        raise UsageError(f"the upload unpacks to {size} bytes, more than the {EXPANDED} of any.")


def _require_pictures(array: Array) -> None:
    side = array.shape[-1]
    if array.shape != (3, side, side) or array.dtype != "uint8" or side > LARGEST_SIDE:
        raise IntegrityError(
            f"{array.name} must be square RGB images of at most {LARGEST_SIDE} pixels in uint8, but are "
            f"{' × '.join(map(str, array.shape))} of {array.dtype}."
        )
    if any(not file.file.endswith(".webp") or file.rows > per_sheet(side) for file in array.files):
        raise IntegrityError(f"{array.name} must be sheets of at most {per_sheet(side)} images in WebP, but is not.")


def _sheet_size(data: bytes, array: Array, file: File) -> tuple[int, int]:
    """Width and height of a sheet, from the header of a simple lossless WebP: no other kind is taken."""
    side, across = array.shape[-1], _across(array.shape[-1], file.rows)
    wanted = (across * side, -(-file.rows // across) * side)
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8L" or len(data) < 25 or data[20] != 0x2F:
        raise IntegrityError(f"{file.file} must be lossless WebP, but is not.")
    (bits,) = struct.unpack("<I", data[21:25])
    found = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if found != wanted:
        raise IntegrityError(
            f"{file.file} must be {wanted[0]}×{wanted[1]} for its {file.rows} images, but is {found[0]}×{found[1]}."
        )
    return wanted


def _read_sheet(data: bytes, array: Array, file: File) -> np.ndarray:
    import numpy as np
    from PIL import Image

    wide, high = _sheet_size(data, array, file)
    try:
        with Image.open(io.BytesIO(data), formats=["webp"]) as picture:
            if picture.size != (wide, high) or getattr(picture, "n_frames", 1) != 1:
                raise ValueError("its size is not that of its header")
            pixels = np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow raises whatever it meets in broken files
        raise IntegrityError(f"{file.file} must be lossless WebP, but cannot be read: {error}.") from error
    side = array.shape[-1]
    cells = pixels.reshape(high // side, side, wide // side, side, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cells.reshape(-1, 3, side, side)[: file.rows])


def _read_tensor(data: bytes, array: Array, file: File) -> np.ndarray:
    import numpy as np
    from safetensors.numpy import load

    wanted = (file.rows, *array.shape)
    if len(data) > FILE_BYTES:
        raise UsageError(f"{file.file} has {len(data)} bytes, more than the {FILE_BYTES} of any file of an upload.")
    try:
        held = load(data)
    except Exception as error:  # whatever a broken header makes the reader raise
        raise IntegrityError(f"{file.file} must be safetensors, but cannot be read: {str(error)[:200]}.") from error
    if [*held] != [TENSOR] or held[TENSOR].shape != wanted or held[TENSOR].dtype != array.dtype:
        found = ", ".join(f"{ascii(name)[:40]} {rows.shape} {rows.dtype}" for name, rows in [*held.items()][:3])
        raise IntegrityError(
            f"{file.file} must hold one tensor, {TENSOR!r}, {wanted} {array.dtype}, but holds {found or 'none'}."
        )
    rows = held[TENSOR]
    if not np.isfinite(rows).all() or np.abs(rows).max() > LARGEST:
        raise IntegrityError(f"{file.file} must hold numbers that a network can make, but holds some that are none.")
    found_rows: np.ndarray = rows
    return found_rows

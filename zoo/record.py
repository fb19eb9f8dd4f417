"""Record: one evaluation as canonical JSON, the only truth that tables and boards are made of.

``id`` hashes the identity part (what was evaluated, on what, how it was scored). Running the same identity again gives
a record with the same id and another ``run`` hash: a reproduction, not an overwrite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoo.errors import IntegrityError, UsageError
from zoo.specs import SHA256, Condition, Protocol, Verdict
from zoo.store import digest, json_bytes, write_bytes

NAMED = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}\.json")
"""The last part of a record's name: beginnings of its id and of its run."""


class _Part(BaseModel):
    """Frozen, closed, and finite: a number that does not exist is null with a reason, never NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Identity(_Part):
    """Everything that may move a number; same identity, same values on the same kind of device."""

    track: str
    track_sha256: str = Field(pattern=SHA256)
    dataset: str
    trials_fingerprint: str = Field(pattern=SHA256)
    eeg_sha256: str = Field(pattern=SHA256)
    stimuli_sha256: str = Field(pattern=SHA256)
    split: str
    split_sha256: str = Field(pattern=SHA256)
    model: str
    config: dict[str, Any]
    weights_sha256: str
    seed: int
    replicates: int
    limit: int | None
    metrics: tuple[str, ...]
    """Signatures, sorted."""
    zoo: str
    """Version of the code that defines protocol and metrics."""


class Value(_Part):
    """One measured number, or null with the reason why there is none."""

    value: float | None
    reason: str | None = None
    signature: str | None = None
    higher_is_better: bool | None = None
    interval: tuple[float, float] | None = None
    interval_method: str | None = None
    chance: float | None = None
    """What guessing scores, where that is known."""
    p_chance: float | None = None
    """One-sided p of being no better than chance, over units."""
    p_method: str | None = None
    n: int | None = None
    n_units: int | None = None
    replicates: tuple[float, ...] = ()
    """The value of every replicate apart: the spread of the sampling noise."""
    detail: dict[str, float] = {}

    @model_validator(mode="after")
    def _null_has_reason(self) -> Value:
        if (self.value is None) != (self.reason is not None):
            raise ValueError("a null value needs a reason, and only a null value has one")
        return self


class Audit(_Part):
    verdict: Verdict
    evidence: dict[str, float | str | None]
    sentences: tuple[str, ...]


class System(_Part):
    """The model or a control, scored alike."""

    values: dict[str, Value]


class Provenance(_Part):
    created: str
    command: str
    git: str | None
    dirty: bool | None
    device: str
    hardware: str
    threads: int | None
    """Threads of torch; null where everything was on disk already."""
    packages: dict[str, str]
    weights_source: str
    trained_on: tuple[str, ...]
    conditioned_on: Condition = "eeg"
    """What the model was given of a test trial."""
    selection: str
    """On which role training chose its checkpoint."""
    stimuli_source: str
    dataset_complete: bool
    protocol: Protocol | None = None
    """Of the split; null in records made before version 0.3."""


class Cost(_Part):
    seconds: float
    n_parameters: int
    images_per_second: float | None
    peak_memory_mb: float | None


class Record(_Part):
    schema_version: Literal[1] = 1
    status: Literal["ok", "partial", "failed"]
    error: str | None = None
    identity: Identity
    audit: Audit | None
    headline: str
    values: dict[str, Value]
    controls: dict[str, System]
    units_sha256: str | None = None
    """Hash of the parquet file with the per-unit values, beside the record."""
    provenance: Provenance
    cost: Cost

    @cached_property
    def id(self) -> str:
        """Hash of the identity."""
        return digest(self.identity.model_dump(mode="json"))

    @cached_property
    def run(self) -> str:
        """Hash of the whole record: two runs of one identity differ here.

        Of what was written, that is: fields that later versions add do not change an older record.
        """
        return digest(self.model_dump(mode="json", exclude_unset=True))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Record:
        """As pydantic's; a changed copy has hashes of its own."""
        copied = super().model_copy(update=update, deep=deep)
        for kept in ("id", "run"):
            copied.__dict__.pop(kept, None)
        return copied

    def __repr__(self) -> str:
        """In a line; ``to_json`` has all of it."""
        found = self.values.get(self.headline)
        score = "no value" if found is None or found.value is None else f"{found.value:.4g}"
        if found is not None and found.interval is not None:
            score += f" [{found.interval[0]:.4g}, {found.interval[1]:.4g}]"
        return f"<Record {self.id[:12]}: {self.identity.model} on {self.identity.track}, {self.headline} {score}>"

    __str__ = __repr__

    @property
    def name(self) -> str:
        """Unique, idempotent file name: pushing the same record twice finds it there."""
        return f"{self.identity.track}/{self.identity.model}/{self.id[:12]}-{self.run[:8]}.json"

    def to_json(self) -> bytes:
        """The file: the id and everything it hashes, readable."""
        return json_bytes({"id": self.id, **self.model_dump(mode="json", exclude_unset=True)})

    def write(self, path: Path) -> None:
        write_bytes(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read and validate a record; raises as ``parse`` and ``require_file`` do."""
        require_file(path)
        return cls.parse(path.read_bytes(), where=str(path), named=name_at(path))

    @classmethod
    def parse(cls, data: bytes, *, where: str, named: str = "") -> Record:
        """Validate the bytes of a record file found at ``where``.

        Args:
            named: The end of its path below a board, ``records/`` included, where that is known.

        Raises:
            UsageError: Not JSON, or not a record of this schema.
            IntegrityError: The id in the file is not the hash of its identity, or it is another than ``named``.
        """
        try:
            content = json.loads(data, object_pairs_hook=_once, parse_constant=_finite)
            if not isinstance(content, dict):
                raise UsageError(f"{where} must hold a record, but holds a {type(content).__name__}.")
            claimed = content.pop("id", None)
            record = cls.model_validate(content)
            found = record.id
        except (ValidationError, ValueError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            first = " ".join(line.strip() for line in str(error).splitlines()[:3])
            raise UsageError(f"{where} is not a valid record: {first}") from error
        if claimed != found:
            raise IntegrityError(f"{where} says id {str(claimed)[:12]} but its identity hashes to {found[:12]}.")
        if not f"records/{record.name}".endswith(named):
            raise IntegrityError(f"{where} holds another record, {record.name}: it was changed or moved.")
        return record


def name_at(path: Path) -> str:
    """The name of a record's file, which holds hashes; nothing where somebody called it otherwise."""
    return path.name if NAMED.fullmatch(path.name) else ""


def require_file(path: Path) -> None:
    """Refuse a path at which no record can be.

    Raises:
        UsageError: There is nothing, or a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the .json files in it.")
    if not path.is_file():
        raise UsageError(f"a record must be a file, but there is none at {path}; check its spelling.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys every reader would take another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise ValueError(f"it says {twice[:100]!r} twice")
    return found


def _finite(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number; null with a reason says that there is none")

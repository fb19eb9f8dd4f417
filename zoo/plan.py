"""From names to a plan: everything an evaluation needs, resolved and checked before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import __version__, registry, scoring, weights
from zoo.datasets import base as data_room
from zoo.datasets.base import EEGDataset
from zoo.errors import MissingError, UsageError
from zoo.models.base import EEGEncoder, Model, Reconstructor
from zoo.record import Identity
from zoo.specs import MetricCard, Split, TrackCard
from zoo.stages import Work
from zoo.store import digest
from zoo.weights import WeightsInfo

Progress = Callable[[int, int, str], None]
CONTROLS = ("shuffled-eeg", "class-oracle", "nearest-train")


def silent(done: int, total: int, what: str) -> None:
    """No progress display."""


def pick_device(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu``, ``cuda``."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f"device must be auto, cpu or cuda, not {name!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch sees no GPU here; use --device cpu or auto.")
    return name


@dataclass(frozen=True)
class Plan:
    """Everything an evaluation needs to know, resolved before any work."""

    track: TrackCard
    data: EEGDataset
    split: Split
    model: EEGEncoder
    info: WeightsInfo
    replicates: int
    limit: int | None
    work: Work

    @cached_property
    def roles(self) -> np.ndarray:
        return self.data.roles(self.split)

    @cached_property
    def train_rows(self) -> np.ndarray:
        return np.flatnonzero(self.roles == "train")

    @cached_property
    def test_rows(self) -> np.ndarray:
        return self._by_hash(np.flatnonzero(self.roles == "test"), self.limit)

    @cached_property
    def image_rows(self) -> np.ndarray:
        """Positions within ``test_rows`` of the trials that images are made for."""
        return np.flatnonzero(np.isin(self.test_rows, self._by_hash(self.test_rows, self.track.trials)))

    def _by_hash(self, rows: np.ndarray, most: int | None) -> np.ndarray:
        """At most ``most`` rows, chosen by the hash of their trial ids, in the order of the dataset."""
        if most is None or rows.size <= most:
            return rows
        ids = self.data.trials["trial_id"]
        rank = [hashlib.sha256(str(ids[row]).encode()).digest() for row in rows]
        chosen: np.ndarray = np.sort(rows[sorted(range(rows.size), key=rank.__getitem__)[:most]])
        return chosen

    @cached_property
    def no_images(self) -> str | None:
        """Why no images can be made and scored, or None."""
        if not isinstance(self.model, Reconstructor):
            return f"{self.info.model} makes no images"
        if not self.data.stimuli.ids.size:
            return f"{self.data.id} was prepared without pictures"
        if "generator" in self.model.parts() and "generator" not in self.info.parts:
            return f"these weights hold only the {' and '.join(self.info.parts)}"
        return None

    @cached_property
    def _usable(self) -> tuple[list[MetricCard], dict[str, str]]:
        return scoring.usable(self.track, self.no_images)

    @property
    def metrics(self) -> list[MetricCard]:
        return self._usable[0]

    @property
    def unmeasured(self) -> dict[str, str]:
        """Metrics of the track that cannot be computed here, with the reason."""
        return self._usable[1]

    @cached_property
    def signatures(self) -> dict[str, str]:
        facts = {"n": len(self.image_rows), "trials": len(self.test_rows), "ref": "test"}
        return scoring.signatures(self.metrics, facts)

    def identity_of(self, rows: np.ndarray) -> dict[str, Any]:
        """What decides the features of some trials."""
        return {
            "weights": self.info.sha256,
            "config": config_of(self.model),
            "eeg": self.data.eeg_sha256,
            "trials": digest([str(trial) for trial in self.data.trials["trial_id"][rows]]),
            "device": self.work.device,
            "zoo": __version__,
        }

    def units(self, rows: np.ndarray) -> np.ndarray:
        """The track's resampling unit of each trial."""
        return np.asarray([str(value) for value in self.data.trials[self.track.unit][rows]])


def make_plan(
    model: str | Model,
    dataset: str,
    *,
    split: str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    replicates: int | None = None,
    limit: int | None = None,
    device: str = "auto",
    batch_size: int = 64,
    shard: tuple[int, int] | None = None,
    metrics: tuple[str, ...] = (),
    progress: Progress = silent,
) -> Plan:
    """Resolve names, load the weights, and check that model and recordings fit.

    Args:
        weights: A weights folder or name. Omitted: those trained on this very split with this seed, else converted or
            published ones; never weights of another split.
        shard: (k, n) with 0 <= k < n.
        metrics: Metrics that must be computable here; without their extractor's weights, nothing is started.
    """
    scoring.require(metrics)
    for what, value in (("limit", limit), ("replicates", replicates), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{what} must be at least 1, not {value}.")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise UsageError(f"shard must be K/N with 0 <= K < N, not {shard[0]}/{shard[1]}.")
    if isinstance(model, str) and registry.models.get(model).builder is None:
        raise _announced(model)
    data = data_room.load(dataset)
    chosen = data.split(split)
    kind = pick_device(device)
    if isinstance(model, Model):
        found: Model = model.eval().to(kind)
        info = _describe_instance(model)
    else:
        found, info = _weights_for(model, data, chosen, weights, seed, kind)
    if not isinstance(found, EEGEncoder):
        raise UsageError(f"{info.model} must be an EEGEncoder or a Reconstructor to be evaluated on EEG.")
    data.spec.require(found.spec, offers=data.id, needs=info.model)
    track = find_track(data, chosen)
    work = Work(device=kind, batch_size=batch_size, shard=shard, progress=progress)
    return Plan(track, data, chosen, found, info, replicates or track.replicates, limit, work)


def _announced(model: str) -> MissingError:
    return weights.announced(registry.models.get(model))


def _weights_for(
    model: str, data: EEGDataset, split: Split, named: str | Path | None, seed: int, device: str
) -> tuple[Model, WeightsInfo]:
    sha = split_sha(split)

    def prefer(info: WeightsInfo) -> int:
        if info.source == "trained":
            return 2 if info.split_sha256 == sha and info.seed == seed else -1
        return 1

    try:
        return _load_weights(model, named, device, prefer)
    except MissingError as error:
        if named is not None:
            raise
        raise MissingError(
            f"no weights of {model} for {data.id}, split {split.id}, seed {seed}, are on this machine.\n"
            f"to make them, run: zoo train {model} --dataset {data.id} --split {split.id} --seed {seed}"
        ) from error


def _describe_instance(model: Model) -> WeightsInfo:
    """A model that is in no registry is known by the hash of its tensors."""
    sha = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        sha.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return WeightsInfo(
        model=f"local-{type(model).__name__.lower()}",
        name="in memory",
        config={},
        eeg=model.spec,
        parts=tuple(model.parts()),
        sha256=sha.hexdigest(),
        source="trained",
        trained_on=(),
        selection="unknown",
    )


def find_track(data: EEGDataset, split: Split) -> TrackCard:
    """The released track of a dataset's split, or an unreleased one (``@0``) with the usual protocol."""
    for card in registry.tracks.cards():
        if (card.dataset, card.split) == (data.id, split.id):
            return card
    return TrackCard(
        id=f"reconstruction/{data.id}.{split.id.partition('@')[0]}@0",
        task="reconstruction",
        dataset=data.id,
        split=split.id,
        trials=500,
        metrics=tuple(registry.metrics.names()),
        headline="logistic_accuracy",
        controls=CONTROLS,
    )


def identify(plan: Plan) -> Identity:
    """The identity part of the record that this plan will make."""
    return Identity(
        track=plan.track.id,
        track_sha256=digest(plan.track.model_dump(mode="json")),
        **data_identity(plan.data, plan.split),
        model=plan.info.model,
        config=config_of(plan.model),
        weights_sha256=plan.info.sha256,
        seed=plan.info.seed or 0,
        replicates=plan.replicates,
        limit=plan.limit,
        metrics=tuple(sorted(plan.signatures.values())),
        zoo=__version__,
    )


def load_model(model: str, *, weights: str | Path | None = None, device: str = "auto") -> tuple[Model, WeightsInfo]:
    """A model with the weights named, or the newest on this machine.

    Raises:
        MissingError: None are here; two lines say what is missing and the commands that bring it.
    """
    return _load_weights(model, weights, pick_device(device), lambda info: 0)


def _load_weights(
    model: str, named: str | Path | None, device: str, prefer: Callable[[WeightsInfo], int]
) -> tuple[Model, WeightsInfo]:
    """Load the folder named, else the most preferred one here (negative: unfit), the newest of equals."""
    card = registry.models.get(model)
    if card.builder is None:
        raise weights.announced(card)
    if named is not None:
        path = Path(named) if Path(named).is_dir() else weights.folder_of(card.id, str(named))
    else:
        here = [(prefer(info), path.stat().st_mtime, path) for path, info in weights.available(card.id)]
        fit_here = [entry for entry in here if entry[0] >= 0]
        if not fit_here:
            raise MissingError(
                f"no weights of {card.id} are on this machine.\n"
                f"to make them, run: zoo train {card.id} --dataset DATASET"
                f"   or: zoo weights convert {card.id} --from DIR"
            )
        path = max(fit_here)[2]
    found, info = weights.load(path, device=device)
    if info.model != card.id:
        raise UsageError(f"{path} holds weights of {info.model}, not of {card.id}; name the right folder.")
    return found, info


def config_of(model: Model) -> dict[str, Any]:
    """The whole config of a model as plain JSON."""
    config = asdict(model.config) if is_dataclass(model.config) else dict(model.config or {})  # type: ignore[arg-type]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def split_sha(split: Split) -> str:
    """Hash of a split's content."""
    return digest(split.model_dump(mode="json"))


def data_identity(data: EEGDataset, split: Split) -> dict[str, Any]:
    """Which trials, signals, pictures and roles these are."""
    return {
        "dataset": data.id,
        "trials_fingerprint": data.fingerprint,
        "eeg_sha256": data.eeg_sha256,
        "stimuli_sha256": data.stimuli_sha256,
        "split": split.id,
        "split_sha256": split_sha(split),
    }

"""From names to a plan: everything an evaluation needs, resolved and checked before any work.

No torch: the network is loaded when something has to be computed, not before.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo import __version__, hub, modelrepo, registry, scoring, weights
from zoo.crew import here
from zoo.datasets import base as data_room
from zoo.datasets.base import EEGDataset, Role
from zoo.errors import MissingError, UsageError, did_you_mean
from zoo.record import Identity
from zoo.specs import Condition, EEGSpec, MetricCard, ModelCard, Split, TrackCard
from zoo.stages import Work, once_json
from zoo.store import digest
from zoo.weights import WeightsInfo
from zoo.weights import load as load_weights

if TYPE_CHECKING:
    from zoo.leaves import Leaf
    from zoo.models.base import Model
    from zoo.upload import Upload

Progress = Callable[[int, int, str], None]
Say = Callable[[str], object]
"""Called with a sentence for the user."""
EXACT = 2
"""Preference for weights made for exactly this; they go before those that the card pins."""
CONTROLS = (
    "shuffled-eeg",
    "other-subject",
    "gaussian-eeg",
    "random-codebook",
    "class-oracle",
    "nearest-train",
    "mean-image",
    "real-vs-real",
)
EEG_CONTROLS = ("shuffled-eeg", "other-subject", "gaussian-eeg")
Contest = Literal["reconstruction", "recognition", "encoding", "retrieval"]
SEES: dict[Contest, tuple[str, ...]] = {
    "reconstruction": ("eeg", "images"),
    "recognition": ("eeg",),
    "encoding": ("responses",),
    "retrieval": ("gallery",),
}
"""What the metrics of a task look at."""
TRACK_CONTROLS: dict[Contest, tuple[str, ...]] = {
    "reconstruction": CONTROLS,
    "recognition": EEG_CONTROLS,
    "encoding": ("shuffled-pictures", "mean-response", "other-subject", "noise-ceiling"),
    "retrieval": (*EEG_CONTROLS, "random-codebook"),
}
FEWEST_UNITS = 3
"""An interval needs as many units to resample, or wider ones are passed over for narrower ones."""


def silent(done: int, total: int, what: str) -> None:
    """No progress display."""


def warn(sentence: str) -> None:
    """``say`` for those who did not bring one."""
    sys.stderr.write(f"{sentence}\n")


def pick_device(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu``, ``cuda``; of several processes each takes a GPU of its own."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device must be auto, cpu or cuda, not {name!r}.")
    if name == "cpu" or (name == "auto" and not _has_driver()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        if (crew := here()).size > 1:
            torch.cuda.set_device(crew.local % torch.cuda.device_count())
        return "cuda"
    if name == "cuda":
        raise UsageError("device cuda was asked for, but torch sees no GPU here; use --device cpu or auto.")
    return "cpu"


def _has_driver() -> bool:
    """Whether a CUDA driver is installed; without one there is no need to import torch to know that it sees no GPU."""
    if "torch" in sys.modules:
        return True
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Facts:
    """What must be known of a model before it is loaded.

    Attributes:
        settings: Its complete config as plain JSON.
        parts: Names of its sub-networks.
        predicts, subjects: Whether it makes EEG of images, and whose responses it tells apart.
        retrieves, sees_by: Whether pictures have a place in its space, and through which extractor and output.
    """

    settings: dict[str, Any]
    parts: tuple[str, ...]
    encodes: bool
    makes_images: bool
    n_parameters: int
    conditioned_on: Condition = "eeg"
    classifies: bool = False
    predicts: bool = False
    subjects: tuple[str, ...] = ()
    retrieves: bool = False
    sees_by: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, model: Model) -> Facts:
        from zoo.models.base import Classifier, EEGEncoder, EncodingModel, LabelConditioned, Reconstructor, Retriever

        return cls(
            settings=config_of(model),
            parts=tuple(model.parts()),
            encodes=isinstance(model, EEGEncoder),
            makes_images=isinstance(model, Reconstructor),
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
            conditioned_on="label" if isinstance(model, LabelConditioned) else "eeg",
            classifies=isinstance(model, Classifier),
            predicts=isinstance(model, EncodingModel),
            subjects=tuple(model.subjects) if isinstance(model, EncodingModel) else (),
            retrieves=isinstance(model, Retriever),
            sees_by=(model.extractor, model.output) if isinstance(model, Retriever) else ("", ""),
        )


@dataclass(frozen=True)
class Plan:
    """Everything an evaluation needs to know, resolved before any work."""

    track: TrackCard
    data: EEGDataset
    split: Split
    load: Callable[[], Model]
    facts: Facts
    info: WeightsInfo
    replicates: int
    limit: int | None
    work: Work
    role: Role = "test"
    """Whose trials are called test trials here; every record is of ``test``."""
    upload: Upload | None = None
    """What takes the model's place where somebody's metrics are computed again; there is no model then."""
    leaves: dict[str, Leaf] = field(default_factory=dict)
    """Stages that only the model fills, as they are met."""

    @cached_property
    def model(self) -> Model:
        """The network, loaded on first use."""
        return self.load()

    @cached_property
    def roles(self) -> np.ndarray:
        return self.data.roles(self.split)

    @cached_property
    def train_rows(self) -> np.ndarray:
        return np.flatnonzero(self.roles == "train")

    @cached_property
    def test_rows(self) -> np.ndarray:
        return self.by_hash(np.flatnonzero(self.roles == self.role), self.limit)

    @cached_property
    def image_rows(self) -> np.ndarray:
        """Positions within ``test_rows`` of the trials that images are made for."""
        return np.flatnonzero(np.isin(self.test_rows, self.by_hash(self.test_rows, self.track.trials)))

    def by_hash(self, rows: np.ndarray, most: int | None) -> np.ndarray:
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
        if not any(registry.metrics.get(name).sees == "images" for name in self.track.metrics):
            return f"{self.track.id} looks at no images"
        if self.facts.makes_images and not self.data.stimuli.ids.size:
            return f"{self.data.id} was prepared without pictures"
        return self.no_generator

    @cached_property
    def no_generator(self) -> str | None:
        """Why no images can be made, or None."""
        if not self.facts.makes_images:
            return f"{self.info.model} makes no images"
        if "generator" in self.facts.parts and "generator" not in self.info.parts:
            return f"these weights hold only the {' and '.join(self.info.parts)}"
        return None

    @cached_property
    def _usable(self) -> tuple[list[MetricCard], dict[str, str]]:
        return scoring.usable(
            self.track,
            no_images=self.no_images,
            no_pairs=self.no_pairs,
            no_eeg=self.no_eeg,
            no_head=self.no_head,
            no_responses=self.no_responses,
            no_gallery=self.no_gallery,
        )

    @property
    def no_eeg(self) -> str | None:
        """Why there are no EEG features to score, or None."""
        if not self.facts.encodes:
            return f"{self.info.model} predicts EEG and reads none"
        return f"{self.info.model} is given labels, not EEG" if self.facts.conditioned_on == "label" else None

    @property
    def no_responses(self) -> str | None:
        """Why there are no predicted responses to score, or None."""
        if not self.facts.predicts:
            return "needs a model that predicts EEG"
        return None if self.data.stimuli.ids.size else f"{self.data.id} was prepared without pictures"

    @property
    def no_gallery(self) -> str | None:
        """Why there is no gallery to look for a picture in, or None."""
        if not self.facts.retrieves:
            return f"{self.info.model} has no space that pictures lie in"
        return self.no_pairs

    @property
    def no_head(self) -> str | None:
        """Why the model names no class itself, or None."""
        return None if self.facts.classifies else f"{self.info.model} has no classifier of its own"

    @cached_property
    def no_pairs(self) -> str | None:
        """Why test trials have no picture of their own, or None."""
        if self.data.stimuli.ids.size and (self.data.stimulus_of_trial[self.test_rows] >= 0).all():
            return None
        return f"trials of {self.data.id} share only the class with a picture"

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
        if self.track.window is not None:
            facts["ms"] = "-".join(f"{1000 * second:.0f}" for second in self.track.window)
        if self.facts.retrieves:
            facts["seen"] = " ".join(self.facts.sees_by)
        return scoring.signatures(self.metrics, facts)

    def identity_of(self, rows: np.ndarray) -> dict[str, Any]:
        """What decides the features of some trials."""
        given = {"labels": digest(self.data.labels[rows].tolist())} if self.facts.conditioned_on == "label" else {}
        return {
            **given,
            "weights": self.info.sha256,
            "config": self.facts.settings,
            "eeg": self.data.eeg_sha256,
            "trials": digest([str(trial) for trial in self.data.trials["trial_id"][rows]]),
            **self.base_identity,
        }

    @property
    def base_identity(self) -> dict[str, Any]:
        """What decides everything that is computed; nothing of an upload is ever taken for something made here."""
        uploaded = {} if self.upload is None else {"upload": self.upload.sha256}
        return {"device": self.work.device, "zoo": __version__, **uploaded}

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
    say: Say = lambda sentence: None,
) -> Plan:
    """Resolve names, load the weights, and check that model and recordings fit.

    Args:
        weights: As ``zoo.load`` takes them. Omitted: those trained here on this very split with this seed, else those
            that the card pins for this dataset, else converted ones; never weights trained on another split.
        shard: (k, n) with 0 <= k < n.
        metrics: Metrics that must be computable here; without their extractor's weights, nothing is started.
        say: Told which weights were taken where others fit as well.
    """
    scoring.require(metrics)
    for what, value in (("limit", limit), ("replicates", replicates), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{what} must be at least 1, not {value}.")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise UsageError(f"shard must be K/N with 0 <= K < N, not {shard[0]}/{shard[1]}.")
    if isinstance(model, str) and registry.models.get(model).builder is None:
        raise _announced(model)
    track = registry.tracks.get(dataset) if "/" in dataset else None
    if track is not None and split is not None:
        raise UsageError(f"{track.id} fixes its split, {track.split}; leave --split out.")
    data = data_room.load(track.dataset if track else dataset)
    chosen = data.split(track.split if track else split)
    kind = pick_device(device)
    load, facts, info = (
        _weights_for(model, data, chosen, weights, seed, kind, say)
        if isinstance(model, str)
        else _instance(model, kind)
    )
    if not (facts.encodes or facts.predicts):
        raise UsageError(
            f"{info.model} must be an EEGEncoder, a Reconstructor or an EncodingModel to be evaluated on EEG."
        )
    data.spec.require(info.eeg, offers=data.id, needs=info.model)
    if track is None:
        track = find_track(data, chosen, _task(facts, registry.models.get(model) if isinstance(model, str) else None))
    work = Work(device=kind, batch_size=batch_size, shard=shard, progress=progress)
    return Plan(track, data, chosen, load, facts, info, replicates or track.replicates, limit, work)


def _task(facts: Facts, card: ModelCard | None) -> Contest:
    """What a model is evaluated on where no track is named: the one thing it can do that others cannot."""
    if facts.predicts:
        return "encoding"
    if facts.retrieves:
        return "retrieval"
    recognises = facts.classifies or (card is not None and card.task == "recognition")
    return "recognition" if recognises else "reconstruction"


def _announced(model: str) -> MissingError:
    return weights.announced(registry.models.get(model))


class _NoWeightsError(MissingError):
    """None that fit were made here, and the card pins none."""


Found = tuple[Callable[[], "Model"], Facts, WeightsInfo]


def _weights_for(
    model: str, data: EEGDataset, split: Split, named: str | Path | None, seed: int, device: str, say: Say
) -> Found:
    sha = split_sha(split)

    def prefer(info: WeightsInfo) -> int:
        if info.source == "trained":
            return EXACT if info.split_sha256 == sha and info.seed == seed else -1
        return 1

    try:
        path, info = _choose_weights(model, named, prefer, say, dataset=data.id)
    except _NoWeightsError as error:
        raise MissingError(
            f"no weights of {model} for {data.id}, split {split.id}, seed {seed}, are on this machine.\n"
            f"to make them, run: zoo train {model} --dataset {data.id} --split {split.id} --seed {seed}"
        ) from error
    built = {"model": info.model, "config": info.config, "eeg": info.eeg.model_dump(mode="json"), "zoo": __version__}

    def load() -> Model:
        return load_weights(path, device=device)[0]

    facts = Facts(**once_json("facts", built, lambda: asdict(Facts.of(load()))))
    if (origin := modelrepo.origin_of(path)) is not None:  # so that a record says where they can be had
        info = info.model_copy(update={"name": f"{info.name}, hf-hub:{origin.repo}@{origin.revision}"})
    return load, facts, info


def _instance(model: Model, device: str) -> Found:
    """A model that is in no registry is known by the hash of its code and its tensors."""
    from zoo.models.base import Model

    kind = type(model).__name__
    if not isinstance(model, Model):
        raise UsageError(f"model must be a name or a zoo.models.base.Model, not {kind}.")
    if not isinstance(model.spec, EEGSpec):
        raise UsageError(
            f"{kind}.spec must be the EEGSpec of its recordings, but is {type(model.spec).__name__}; give "
            "super().__init__ that of a dataset: zoo.datasets.base.load(NAME).spec."
        )
    if not (model.config is None or is_dataclass(model.config) or isinstance(model.config, dict)):
        raise UsageError(
            f"{kind}.config must be None, a dict or a dataclass, but is {type(model.config).__name__}; it becomes part "
            "of the record."
        )
    _try_out(model.eval())
    placed = model.to(device)
    sha = hashlib.sha256(_code_of(type(model)))
    for key, value in sorted(model.state_dict().items()):
        sha.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    info = WeightsInfo(
        model=f"local-{kind.lower()}",
        name="in memory",
        config={},
        eeg=model.spec,
        parts=tuple(model.parts()),
        sha256=sha.hexdigest(),
        source="given",
        trained_on=(),
        selection="unknown",
    )
    return lambda: placed, Facts.of(model), info


def _code_of(kind: type) -> bytes:
    """The files that define a class outside of the zoo; random bytes for one that was typed in, which no file tells."""
    files = []
    for each in kind.__mro__:
        if each.__module__.partition(".")[0] not in ("zoo", "torch", "abc", "builtins"):
            try:
                files.append(Path(inspect.getfile(each)).read_bytes())
            except (OSError, TypeError):
                return os.urandom(32)
    return b"".join(files)


def _try_out(model: Model) -> None:
    """Two samples of noise, so that an output of another shape is told before anything is computed."""
    import torch

    from zoo.models.base import EEGEncoder

    if not isinstance(model, EEGEncoder) or any(value.device.type != "cpu" for value in model.state_dict().values()):
        return
    with torch.inference_mode():
        made = model.probe(np.random.default_rng(0))
    sides = {"encode": 2, "encode_labels": 2, "logits": 2, "decode": 4}
    wanted = {
        "encode": "(n_trials, n_features)",
        "encode_labels": "(n, n_features)",
        "logits": "(n, n_classes)",
        "decode": "(n, 3, resolution, resolution)",
    }
    for name, value in made.items():
        if name in sides and (value.ndim != sides[name] or len(value) != 2):
            raise UsageError(
                f"{type(model).__name__}.{name} must return {wanted[name]}, but of 2 it makes {tuple(value.shape)}."
            )


def find_track(data: EEGDataset, split: Split, task: Contest = "reconstruction") -> TrackCard:
    """The newest released track of a dataset's split, or an unreleased one (``@0``) with the usual protocol.

    That one has every metric of what its task looks at, and is headed by what the split can be scored on: a probe (for
    recognition, the model's own classifier), or clusters where test concepts were not trained.
    """
    fits = (task, data.id, split.id)
    cards = [card for card in registry.tracks.cards() if (card.task, card.dataset, card.split) == fits]
    if cards:
        return max(cards, key=lambda card: int(card.id.rpartition("@")[2]))
    paired = data.card.pairing == "instance"
    headline = {
        "reconstruction": "logistic_accuracy",
        "recognition": "classifier_accuracy",
        "encoding": "pearson_r" if paired else "evoked_r",
        "retrieval": "eeg_retrieval_10way",
    }[task]
    if task in ("reconstruction", "recognition") and split.protocol == "unseen-concept":
        headline = "kmeans_accuracy"
    unit = _unit(data, split)
    if task in ("encoding", "retrieval") and unit != "subject":  # repetitions of a picture lie in different runs
        unit = "stimulus_id" if paired else "trial_id"
    return TrackCard(
        id=f"{task}/{data.id}.{split.id.partition('@')[0]}@0",
        task=task,
        dataset=data.id,
        split=split.id,
        trials=500,
        metrics=tuple(
            card.id
            for card in registry.metrics.cards()
            if card.sees in SEES[task] and (card.pairing is None or card.pairing == data.card.pairing)
        ),
        headline=headline,
        unit=unit,
        controls=TRACK_CONTROLS[task],
    )


def _unit(data: EEGDataset, split: Split) -> Literal["subject", "run", "stimulus_id", "trial_id"]:
    """What to resample: the widest of people, runs and pictures of which the test role has enough, else trials."""
    test = data.roles(split) == "test"
    units: tuple[Literal["subject", "run", "stimulus_id"], ...] = ("subject", "run", "stimulus_id")
    for unit in units:
        values = set(data.trials[unit][test].tolist())
        if None not in values and len(values) >= FEWEST_UNITS:
            return unit
    return "trial_id"


def identify(plan: Plan) -> Identity:
    """The identity part of the record that this plan will make."""
    return Identity(
        track=plan.track.id,
        track_sha256=digest(plan.track.model_dump(mode="json")),
        **data_identity(plan.data, plan.split),
        model=plan.info.model,
        config=plan.facts.settings,
        weights_sha256=plan.info.sha256,
        seed=plan.info.seed or 0,
        replicates=plan.replicates,
        limit=plan.limit,
        metrics=tuple(sorted(plan.signatures.values())),
        zoo=__version__,
    )


def load_model(
    model: str, *, weights: str | Path | None = None, device: str = "auto", say: Say = warn
) -> tuple[Model, WeightsInfo]:
    """A model with the weights named, else those that its card pins, else the newest made on this machine.

    Args:
        weights: A weights folder, the name of one in the cache or on the card, or ``hf-hub:organisation/name@commit``.
        say: Told which commit a branch or tag on the Hub is.

    Raises:
        MissingError: None are here or can be fetched; two lines say what is missing and the commands that bring it.
        UsageError: None are called so.
        IntegrityError: They are not what their description or the card says.
    """
    path, _ = _choose_weights(model, weights, lambda info: 0, say)
    return load_weights(path, device=pick_device(device))


def _choose_weights(
    model: str, named: str | Path | None, prefer: Callable[[WeightsInfo], int], say: Say, *, dataset: str | None = None
) -> tuple[Path, WeightsInfo]:
    """The weights named, else the best of those made here and those the card pins.

    Args:
        prefer: Preference for weights: negative is unfit; of equals made here, the newest are taken. Pinned ones that
            fit go before all but ``EXACT`` ones.
        dataset: Only pinned weights of this dataset count.
    """
    card = registry.models.get(model)
    if card.builder is None:
        raise weights.announced(card)
    if named is not None:
        return _named_weights(card, named, say)
    made = [(path, info) for path, info in weights.available(card.id) if modelrepo.origin_of(path) is None]
    ranked = [(prefer(info), path.stat().st_mtime, path) for path, info in made]
    best, _, path = max(ranked, default=(-1, 0.0, Path()))
    pinned = [published for published in card.weights if dataset in (None, published.dataset)]
    if best < EXACT and pinned:
        folder = modelrepo.pull_pinned(card, pinned[0], say=say)
        if prefer(info := weights.read_info(folder)) >= 0:
            return folder, info
    if best < 0:
        raise _NoWeightsError(
            f"no weights of {card.id} are on this machine.\n"
            f"to make them, run: zoo train {card.id} --dataset DATASET"
            f"   or: zoo weights convert {card.id} --from DIR"
        )
    if (n := sum(rank == best for rank, *_ in ranked)) > 1:
        say(f"weights: {path.name}, the newest of {n} that fit; --weights NAME takes another.")
    return path, weights.read_info(path)


def _named_weights(card: ModelCard, named: str | Path, say: Say) -> tuple[Path, WeightsInfo]:
    """Weights by ``hf-hub:`` address, folder, name on the card or name in the cache."""
    name = str(named)
    pinned = {published.name: published for published in card.weights}
    if name.startswith("hf-hub:"):
        path = modelrepo.pull(card.id, hub.Place.parse(name), say=say)
    elif Path(named).is_dir():
        path = Path(named)
    elif name in pinned:
        path = modelrepo.pull_pinned(card, pinned[name], say=say)
    else:
        path = weights.folder_of(card.id, name)
    if not (path / "weights.json").exists():
        here = [*pinned, *(folder.name for folder, _ in weights.available(card.id))]
        raise UsageError(
            f"--weights must be a weights folder or the name of one, but {name!r} is neither"
            f"{did_you_mean(name, here)} Weights of {card.id} on this machine: {', '.join(here) or 'none'}."
        )
    info = weights.read_info(path)
    if info.model != card.id:
        raise UsageError(f"{path} holds weights of {info.model}, not of {card.id}; name the right folder.")
    return path, info


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

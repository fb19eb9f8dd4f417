"""The retrieval side of an evaluation: EEG in a space that pictures lie in too, and a gallery of the test pictures.

Queries are of two kinds: the mean over the repetitions of a picture of one person, encoded as a trial is, which is what
papers report; and single trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from zoo import images
from zoo.audits import controls
from zoo.brains import encoding
from zoo.errors import UsageError
from zoo.images import Features
from zoo.leaves import leaf
from zoo.plan import Plan
from zoo.provenance import code_sha256
from zoo.scoring import GallerySide, Level
from zoo.stages import Stage
from zoo.store import digest
from zoo.upload import GALLERY

TRAIN = 10_000
"""Training trials, chosen by hash, whose features a random codebook takes its mean and covariance from."""


class Means:
    """Means over groups of trials, indexed and computed as trials are read."""

    def __init__(self, eeg: Any, groups: list[np.ndarray]) -> None:
        self._eeg, self._groups = eeg, groups
        self.shape = (len(groups), *eeg.shape[1:])

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        means = [self._eeg[self._groups[row]].mean(axis=0, dtype=np.float64) for row in rows]
        return np.stack(means).astype(np.float32)


class Asked(NamedTuple):
    """Queries of one kind: the picture each is about, whose it is, and the trials it is made of."""

    pictures: np.ndarray
    people: np.ndarray
    groups: list[np.ndarray]


class Queries:
    """Queries of every system at both levels, and the gallery that they are looked up in.

    ``impossible`` says of controls that cannot be had why not.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.impossible: dict[str, str] = {}
        self.pictures = plan.data.stimulus_rows(plan.split, plan.role)
        rows = plan.test_rows
        shown = plan.data.stimulus_of_trial[rows]
        people = np.array([str(subject or "") for subject in plan.data.trials["subject"][rows]])
        self.asked: dict[Level, Asked] = {"trial": Asked(shown, people, [rows[i : i + 1] for i in range(rows.size)])}
        pairs = np.rec.fromarrays([people, shown])
        unique, which = np.unique(pairs, return_inverse=True)
        order = np.argsort(which, kind="stable")
        groups = np.split(rows[order], np.cumsum(np.bincount(which))[:-1])
        self.asked["mean"] = Asked(np.asarray(unique["f1"]), np.asarray(unique["f0"]), groups)
        self._embedded = self._gallery()
        self._given: dict[tuple[str, Level], Features] = {}
        for system in ("model", *plan.track.controls):
            try:
                self._given |= {(system, level): self._features(system, level) for level in self.asked}
            except UsageError as error:
                self.impossible[system] = str(error)

    def has(self, system: str) -> bool:
        return (system, "mean") in self._given

    @cached_property
    def gallery(self) -> np.ndarray:
        """(n_pictures, n_features) every test picture in the model's space."""
        self._embedded.fill(replace(self.plan.work, shard=None))
        return self._embedded.rows()[:]

    def _gallery(self) -> Stage:
        plan = self.plan

        def compute(part: slice) -> np.ndarray:
            from zoo import compute
            from zoo.models.base import Retriever

            extractor, output = plan.facts.sees_by
            seen = images.seen(plan.data, self.pictures, extractor, output, plan.work)
            return compute.embed_images(cast("Retriever", plan.model), seen[part], plan.work)

        identity = {
            "weights": plan.info.sha256,
            "config": plan.facts.settings,
            "stimuli": plan.data.stimuli_sha256,
            "pictures": digest(plan.data.stimuli.ids[self.pictures].tolist()),
            "seen": [*plan.facts.sees_by, code_sha256("zoo.metrics.features", "zoo.images")],
            **plan.base_identity,
        }
        made = Stage("galleries", identity, self.pictures.size, compute, "embedding pictures")
        return leaf(plan, GALLERY, made, plan.data.stimuli.ids[self.pictures], (None,))

    def side(self, system: str) -> GallerySide:
        """What the metrics of one system may be given; nothing is read before it is asked for."""
        plan, data = self.plan, self.plan.data
        arrays: dict[str, Callable[[], Any]] = {"gallery": lambda: self.gallery}
        units: dict[Level, np.ndarray] = {}
        names: dict[Level, tuple[str, ...]] = {}
        for level, asked in self.asked.items():
            own = np.searchsorted(self.pictures, asked.pictures)
            arrays[f"{level}_queries"] = self._given[system, level]
            arrays[f"{level}_own"] = own.copy
            shown = data.stimuli.ids[asked.pictures]
            names[level] = self._names(level)
            by = {"subject": asked.people, "stimulus_id": shown}
            first = np.array([group[0] for group in asked.groups])
            units[level] = np.asarray(by[plan.track.unit] if plan.track.unit in by else plan.units(first)).astype(str)
        return GallerySide(
            identity={
                **plan.identity_of(plan.test_rows),
                "system": system,
                "track": plan.track.id,
                "unit": plan.track.unit,
                "table": data.fingerprint,
                "stimuli": data.stimuli_sha256,
                "trained": digest([str(trial) for trial in data.trials["trial_id"][plan.train_rows]]),
                "seen": [*plan.facts.sees_by, code_sha256("zoo.metrics.features", "zoo.images")],
                "code": code_sha256("zoo.audits.controls", __name__),
            },
            arrays=arrays,
            units=units,
            names=names,
        )

    def _names(self, level: Level) -> tuple[str, ...]:
        """What each query is called: its trial, or the person and the picture."""
        data, asked = self.plan.data, self.asked[level]
        if level == "trial":
            return tuple(map(str, data.trials["trial_id"][self.plan.test_rows]))
        shown = data.stimuli.ids[asked.pictures]
        return tuple(f"{who}/{what}" for who, what in zip(asked.people, shown, strict=True))

    def _features(self, system: str, level: Level) -> Features:
        """Queries of one system, made here and now if they are not on disk."""
        plan, asked, track = self.plan, self.asked[level], self.plan.track.id
        if system == "random-codebook":
            rows = plan.by_hash(plan.train_rows, TRAIN)
            train = encoding(plan, rows, name="codebook")
            labels = plan.data.stimuli.labels[asked.pictures]
            return lambda: controls.random_codebook(train(), labels, track)
        if system == "gaussian-eeg":
            eeg = controls.GaussianEEG(plan.data.eeg, plan.train_rows, plan.data.trials["trial_id"], track)
            return self._encode(level, eeg, ".gaussian-eeg", instead="gaussian-eeg", track=track)
        own = self._encode(level, plan.data.eeg)
        if system == "model":
            return own
        if system == "shuffled-eeg":
            order = controls.shuffled(len(asked.groups), track)
        elif system == "other-subject":
            order = controls.other_subject(asked.people, track)
        else:
            raise UsageError(f"{system} is no control of retrieval.")
        return lambda: own()[order]

    def _encode(self, level: Level, eeg: Any, of: str = "", **instead: str) -> Features:
        if level == "trial":
            return encoding(self.plan, self.plan.test_rows, eeg, name=f"test{of}", **instead)
        groups = self.asked["mean"].groups
        ids = self.plan.data.trials["trial_id"]
        return encoding(
            self.plan,
            np.arange(len(groups)),
            Means(eeg, groups),
            name=f"means{of}",
            keys=self._names("mean"),
            means=digest([ids[group].tolist() for group in groups]),
            **instead,
        )

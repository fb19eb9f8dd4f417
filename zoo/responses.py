"""The encoding side of an evaluation: EEG that was predicted from pictures beside EEG that was recorded.

Test trials of one person (or of one run, where runs are the track's units) are compared at once: for every picture the
prediction, and all its repetitions. Where trials share only the class with a picture, the class takes the picture's
place, and its prediction is the mean over the test pictures of the class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, cast

import numpy as np

from zoo.audits import controls
from zoo.errors import UsageError
from zoo.leaves import leaf
from zoo.metrics.encoding import Ceilinged, half_splits, representational_similarity, split_half_correlation
from zoo.plan import FEWEST_UNITS, Plan
from zoo.plots import correlation_plot, response_plot
from zoo.provenance import code_sha256
from zoo.scoring import Compared, ResponseSide
from zoo.stages import Stage, once
from zoo.stats import keyed_rng
from zoo.store import digest
from zoo.upload import PREDICTIONS

BLOCK = 4096
"""Trials in memory at a time."""


class Responses:
    """Predicted and recorded responses of an evaluation.

    ``impossible`` says of controls that cannot be had why not.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.by_picture = plan.no_pairs is None
        self.pictures = plan.data.stimulus_rows(plan.split, plan.role)
        self.people = sorted({self._person(row) for row in plan.test_rows})
        """Everybody in the test role, "" for somebody unknown."""
        self._predictions = self._stage()
        self.impossible: dict[str, str] = {}
        for name, refuse in (("other-subject", self._lonely), ("noise-ceiling", self._few)):
            if name in plan.track.controls and (reason := refuse()):
                self.impossible[name] = reason

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (self._predictions,)

    def has(self, system: str) -> bool:
        known = ("model", "shuffled-pictures", "mean-response", "other-subject", "noise-ceiling")
        return system in known and system not in self.impossible

    def side(self, system: str) -> ResponseSide:
        """What the metrics of one system may be given; nothing is read before it is asked for."""
        plan = self.plan
        resample: Literal["groups", "conditions", "repetitions"] = "groups"
        if len(self.groups) < FEWEST_UNITS or plan.track.unit not in ("subject", "run"):
            resample = "conditions" if self.by_picture and plan.track.unit != "trial_id" else "repetitions"
        return ResponseSide(
            identity={
                **self._predictions.identity,
                "system": system,
                "track": plan.track.id,
                "unit": plan.track.unit,
                "window": plan.track.window,
                "table": plan.data.fingerprint,
                "tested": digest([str(trial) for trial in plan.data.trials["trial_id"][plan.test_rows]]),
                "trained": digest([str(trial) for trial in plan.data.trials["trial_id"][plan.train_rows]]),
                "code": code_sha256("zoo.audits.controls", __name__),
            },
            groups={name: self._compared(system, name) for name in self.groups},
            resample=resample,
        )

    # ---- what was recorded

    @cached_property
    def groups(self) -> dict[str, dict[int, np.ndarray]]:
        """Of every group of trials that is scored at once: condition → rows of its repetitions, equally many of each.

        Conditions are rows of the stimuli table, or concepts where trials share only the class with a picture. Of
        conditions that were shown more often than others, the first repetitions count.
        """
        data, rows = self.plan.data, self.plan.test_rows
        shown = data.stimulus_of_trial[rows] if self.by_picture else data.labels[rows]
        unit = "run" if self.plan.track.unit == "run" else "subject"
        names = np.array([str(value or "") for value in data.trials[unit][rows]])
        found = {}
        for name in np.unique(names):
            inside = names == name
            order = np.argsort(shown[inside], kind="stable")
            conditions, starts = np.unique(shown[inside][order], return_index=True)
            parts = np.split(rows[inside][order], starts[1:])
            few = min(part.size for part in parts)
            found[str(name)] = {int(c): part[:few] for c, part in zip(conditions, parts, strict=True)}
        return found

    @property
    def window(self) -> slice:
        """Samples that are compared."""
        spec, window = self.plan.data.spec, self.plan.track.window
        if window is None:
            return slice(None)
        times = spec.tmin + np.arange(spec.n_times) / spec.sfreq
        inside = np.flatnonzero((times >= window[0] - 1e-9) & (times <= window[1] + 1e-9))
        if not inside.size:
            raise UsageError(
                f"{self.plan.track.id} compares {window} s, but no sample of {self.plan.data.id} is there."
            )
        return slice(int(inside[0]), int(inside[-1]) + 1)

    @lru_cache(maxsize=4)  # noqa: B019 - lives as long as the evaluation
    def observed(self, group: str) -> np.ndarray:
        """(n_conditions, n_repetitions, n_channels, n_times) within the window."""
        return np.stack([self.plan.data.eeg[rows][..., self.window] for rows in self.groups[group].values()])

    # ---- what is held against it

    def _compared(self, system: str, group: str) -> Callable[[], Compared]:
        def make() -> Compared:
            observed, names = self.observed(group), self._names(group)
            if system == "noise-ceiling":
                half = observed.shape[1] // 2
                return Compared(observed[:, half:].mean(axis=1, dtype=np.float64), observed[:, :half], names)
            if system == "mean-response":
                predicted = np.repeat(self.mean_response(self._person_of(group))[None], len(observed), axis=0)
            elif system == "other-subject":
                predicted = self._other(group)
            else:
                predicted = self.predicted(group, shuffled=system == "shuffled-pictures")
            return Compared(predicted[..., self.window] if system != "other-subject" else predicted, observed, names)

        return make

    def predicted(self, group: str, *, shuffled: bool = False) -> np.ndarray:
        """(n_conditions, n_channels, n_times) of whole trials; ``shuffled`` deals the pictures anew."""
        person = self.people.index(self._person_of(group)) if self.plan.facts.subjects else 0
        made = self._predictions.rows()[:][:, person]
        if shuffled:
            made = made[controls.shuffled(len(made), self.plan.track.id)]
        conditions = np.array(list(self.groups[group]))
        if self.by_picture:
            return np.asarray(made[np.searchsorted(self.pictures, conditions)])
        labels = self.plan.data.stimuli.labels[self.pictures]
        return np.stack([made[labels == concept].mean(axis=0) for concept in conditions])

    def mean_response(self, person: str) -> np.ndarray:
        """(n_channels, n_times) mean over the person's training trials, over everybody's if there are none."""
        plan = self.plan
        own = np.array([self._person(row) == person for row in plan.train_rows])
        rows = plan.train_rows[own] if own.any() else plan.train_rows
        identity = {"eeg": plan.data.eeg_sha256, "rows": digest(rows.tolist())}

        def compute() -> np.ndarray:
            total = np.zeros(plan.data.eeg.shape[1:])
            for start in range(0, rows.size, BLOCK):
                total += plan.data.eeg[rows[start : start + BLOCK]].sum(axis=0, dtype=np.float64)
            return total / rows.size

        return once("mean-responses", identity, compute)

    def _other(self, group: str) -> np.ndarray:
        """What somebody else was recorded to respond to the same conditions, within the window."""
        person = self._person_of(group)
        others = [name for name in self.groups if self._person_of(name) != person]
        fitting = [name for name in others if set(self.groups[group]) <= set(self.groups[name])]
        if not fitting:
            raise UsageError(f"other-subject needs somebody else who saw what {group} saw, but there is nobody.")
        name = str(keyed_rng("other-subject", self.plan.track.id, group).choice(sorted(fitting)))
        place = {condition: i for i, condition in enumerate(self.groups[name])}
        return np.asarray(self.observed(name).mean(axis=1)[[place[condition] for condition in self.groups[group]]])

    def _stage(self) -> Stage:
        """Predictions for every test picture, (n_pictures, n_people, n_channels, n_times)."""
        plan = self.plan
        people: list[str | None] = [person or None for person in self.people] if plan.facts.subjects else [None]

        def compute(part: slice) -> np.ndarray:
            from zoo import compute
            from zoo.models.base import EncodingModel

            pixels = plan.data.stimulus_pixels(self.pictures[part])
            return compute.predict(cast("EncodingModel", plan.model), pixels, people, plan.work)

        identity = {
            "weights": plan.info.sha256,
            "config": plan.facts.settings,
            "stimuli": plan.data.stimuli_sha256,
            "pictures": digest(plan.data.stimuli.ids[self.pictures].tolist()),
            "people": people,
            **plan.base_identity,
        }
        made = Stage("predictions", identity, self.pictures.size, compute, "predicting EEG")
        shape = (len(people), plan.data.spec.n_channels, plan.data.spec.n_times)
        return leaf(plan, PREDICTIONS, made, plan.data.stimuli.ids[self.pictures], shape)

    # ---- to look at

    def draw(self, path: Path, *, most: int = 4) -> None:
        """Predicted beside recorded responses of one person, and correlations by channel and time, beside ``path``.

        Whole trials, whatever the window; of conditions and channels at most ``most``, those whose response is largest.
        Correlations are means over people and need three conditions.
        """
        spec = self.plan.data.spec
        times = spec.tmin + np.arange(spec.n_times) / spec.sfreq
        title = f"{self.plan.info.model} on {self.plan.track.id}"
        group = next(iter(self.groups))
        recorded, predicted = self._whole(group).mean(axis=1), self.predicted(group)
        rows, columns = (np.sort(np.argsort(-recorded.std(axis=axes))[:most]) for axes in ((1, 2), (0, 2)))
        response_plot(
            {name: made[np.ix_(rows, columns)] for name, made in (("recorded", recorded), ("predicted", predicted))},
            times,
            path.with_suffix(".responses.png"),
            channels=tuple(spec.ch_names[column] for column in columns),
            conditions=tuple(self._names(group)[row] for row in rows),
            title=f"{title}, {group}",
        )
        fewest = min(min(part.size for part in group.values()) for group in self.groups.values())
        if min(map(len, self.groups.values())) < 3 or fewest < 2:
            return
        similar = self._over_people(representational_similarity) if spec.n_channels >= 3 else None
        correlation_plot(
            self._over_people(split_half_correlation),
            times,
            path.with_suffix(".correlation.png"),
            ch_names=spec.ch_names,
            title=title,
            similarity=similar,
        )

    def _whole(self, group: str) -> np.ndarray:
        """As ``observed``, of whole trials."""
        return np.stack([self.plan.data.eeg[rows] for rows in self.groups[group].values()])

    def _over_people(self, measure: Callable[..., Ceilinged]) -> dict[str, np.ndarray]:
        """Means over people of a measure of predictions and of its ceilings; two half splits are enough to look at."""
        found = []
        for group in self.groups:
            observed = self._whole(group)
            halves = half_splits(observed.shape[1], iterations=2)
            found.append(measure(predicted=self.predicted(group), observed=observed, second_half=halves))
        names = {"predicted": "value", "lower noise ceiling": "lower", "upper noise ceiling": "upper"}
        return {name: np.mean([getattr(each, part) for each in found], axis=0) for name, part in names.items()}

    # ---- who and what

    def _person(self, row: int) -> str:
        return str(self.plan.data.trials["subject"][row] or "")

    def _person_of(self, group: str) -> str:
        return self._person(next(iter(self.groups[group].values()))[0])

    def _names(self, group: str) -> tuple[str, ...]:
        data = self.plan.data
        return tuple(str(data.stimuli.ids[c]) if self.by_picture else data.concepts[c] for c in self.groups[group])

    def _lonely(self) -> str | None:
        if len(self.people) > 1:
            return None
        return f"other-subject needs two people or more in the test role, but there is only {self.people[0] or 'one'}."

    def _few(self) -> str | None:
        fewest = min(rows.size for group in self.groups.values() for rows in group.values())
        return None if fewest >= 2 else "noise-ceiling needs 2 repetitions of every picture, but some were shown once."

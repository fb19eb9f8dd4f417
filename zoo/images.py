"""The image side of an evaluation: real pictures, generated images, controls, and what extractors see in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from zoo import scoring, stages
from zoo.audits import controls
from zoo.metrics.base import extractor_card
from zoo.models.base import Reconstructor
from zoo.plan import Plan
from zoo.plots import Grid
from zoo.scoring import ImageSide, Outputs
from zoo.stages import Stage
from zoo.stats import keyed_rng
from zoo.store import digest


class Images:
    """Every image of an evaluation: real pictures, and generated ones per system and replicate; each is seen once."""

    def __init__(self, plan: Plan) -> None:
        assert isinstance(plan.model, Reconstructor)
        self.plan = plan
        self.model = plan.model
        self.names = scoring.extractors(plan.metrics)
        self.known = plan.data.stimulus_rows(plan.split, "train")
        self.reference = plan.data.stimulus_rows(plan.split, "test")
        self.rows = plan.test_rows[plan.image_rows]
        self.order = controls.shuffled(len(self.rows), plan.track.id, "images")
        self._seconds, self._made = 0.0, 0
        self._pictures = {name: self._real(np.concatenate([self.known, self.reference]), name) for name in self.names}
        self._generated = {
            system: [self._generation(system, replicate) for replicate in range(plan.replicates)]
            for system in ("model", "shuffled-eeg")
        }
        self._extracted = {
            system: [{name: self._extraction(stage, name) for name in self.names} for stage in made]
            for system, made in self._generated.items()
        }

    @property
    def stages(self) -> list[Stage]:
        """In the order in which they can be filled."""
        made = [stage for system in self._generated.values() for stage in system]
        seen = [stage for system in self._extracted.values() for by_name in system for stage in by_name.values()]
        return [*self._pictures.values(), *made, *seen]

    @property
    def per_second(self) -> float | None:
        """Generated images per second of this process, None if all were on disk."""
        return self._made / self._seconds if self._made else None

    def _generation(self, system: str, replicate: int) -> Stage:
        plan = self.plan
        given = self.rows if system == "model" else self.rows[self.order]
        identity = {**plan.identity_of(given), "track": plan.track.id, "replicate": replicate, "for": system}
        ids = plan.data.trials["trial_id"][self.rows]

        def compute(part: slice) -> np.ndarray:
            started = time.monotonic()
            noise = [keyed_rng(plan.track.id, str(trial), replicate) for trial in ids[part]]
            made = stages.generate(self.model, plan.data.eeg, given[part], noise, plan.track.resolution, plan.work)
            self._seconds, self._made = self._seconds + time.monotonic() - started, self._made + len(made)
            return made

        what = f"generating ({system}, replicate {replicate + 1})"
        return Stage("generations", {**identity, "resolution": plan.track.resolution}, len(given), compute, what)

    def _extraction(self, images: Stage, name: str) -> Stage:
        def compute(part: slice) -> np.ndarray:
            return self._extract(name, images.rows(part))

        return Stage(
            "image-features", {**images.identity, "extractor": self._mark(name)}, images.n, compute, f"seeing ({name})"
        )

    def _real(self, rows: np.ndarray, name: str) -> Stage:
        data, resolution = self.plan.data, self.plan.track.resolution
        ids = [str(stimulus) for stimulus in data.stimuli.ids[rows]]
        identity = {"stimuli": data.stimuli_sha256, "rows": digest(ids), "resolution": resolution}

        def compute(part: slice) -> np.ndarray:
            return self._extract(name, stages.resize_pictures(data.stimulus_pixels(rows[part]), resolution))

        return Stage(
            "image-features",
            {**identity, "extractor": self._mark(name)},
            rows.size,
            compute,
            f"seeing pictures ({name})",
        )

    def _mark(self, name: str) -> str:
        card = extractor_card(name)
        return f"{card.id}@{card.file.sha256 if card.file else ''}|{card.resize}|{self.plan.work.device}"

    def _extract(self, name: str, images: np.ndarray) -> np.ndarray:
        """Outputs of the extractor side by side: (n, features + logits)."""
        found = _extractor(name, self.plan.work.device)(images)
        return np.concatenate([found[key] for key in sorted(found)], axis=1)

    def _outputs(self, stage: Stage, name: str) -> Outputs:
        rows, card = stage.gather(), extractor_card(name)
        return {"features": rows[:, : card.width], "logits": rows[:, card.width :]}

    def sides(self, train: np.ndarray, test: np.ndarray) -> dict[str, ImageSide]:
        """One image side per system."""
        plan = self.plan
        n_known = self.known.size
        real = {name: self._outputs(stage, name) for name, stage in self._pictures.items()}

        def part(chosen: Any) -> dict[str, Outputs]:
            return {name: {key: value[chosen] for key, value in found.items()} for name, found in real.items()}

        picked = {
            "class-oracle": [self._oracle(replicate) for replicate in range(plan.replicates)],
            "nearest-train": [self._nearest(train, test)],
        }
        self._picked = {name: self.known[choices[0]] for name, choices in picked.items()}
        made: dict[str, list[dict[str, Outputs]]] = {
            system: [{name: self._outputs(stage, name) for name, stage in by_name.items()} for by_name in replicates]
            for system, replicates in self._extracted.items()
        }
        made |= {name: [part(choice) for choice in choices] for name, choices in picked.items()}
        return {
            system: ImageSide(
                generated=tuple(replicates),
                reference=part(slice(n_known, None)),
                reference_labels=plan.data.stimuli.labels[self.reference],
                known=part(slice(0, n_known)),
                known_labels=plan.data.stimuli.labels[self.known],
                labels=plan.data.labels[self.rows],
                units=plan.units(self.rows),
            )
            for system, replicates in made.items()
        }

    def _oracle(self, replicate: int) -> np.ndarray:
        labels, known = self.plan.data.labels[self.rows], self.plan.data.stimuli.labels[self.known]
        return controls.class_oracle(labels, known, np.arange(self.known.size), self.plan.track.id, replicate)

    def _nearest(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Positions within ``known``: the training trial's own picture, or one of its class if only that is shared."""
        plan = self.plan
        rows = plan.train_rows
        own = plan.data.stimulus_of_trial[rows]
        position = {row: index for index, row in enumerate(self.known)}
        shown = np.array([position.get(row, -1) for row in own])
        if (shown < 0).any():
            known = plan.data.stimuli.labels[self.known]
            shown = controls.class_oracle(
                plan.data.labels[rows], known, np.arange(known.size), plan.track.id, "nearest"
            )
        return controls.nearest_train(test_features=test[plan.image_rows], train_features=train, picture_of_train=shown)

    def grid(self, columns: int = 12) -> Grid:
        """The same trials under every system: what was shown (or a picture of its class), model, controls."""
        plan, data = self.plan, self.plan.data
        labels = data.labels[self.rows]
        per_class = max(1, columns // len(data.concepts))
        chosen = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in np.unique(labels)])[: 2 * columns]
        own = data.stimulus_of_trial[self.rows[chosen]]
        shown = [
            row if row >= 0 else self.reference[data.stimuli.labels[self.reference] == labels[i]][0]
            for row, i in zip(own, chosen, strict=True)
        ]

        def pictures(rows: np.ndarray) -> np.ndarray:
            return stages.resize_pictures(data.stimulus_pixels(rows), plan.track.resolution)

        rows = {"stimulus" if (own >= 0).all() else "a picture of the class": pictures(np.array(shown))}
        for system, made in self._generated.items():
            rows[system] = made[0].gather()[chosen]
        for system, picked in self._picked.items():
            rows[system] = pictures(picked[chosen])
        return Grid(tuple(data.concepts[label] for label in labels[chosen]), rows)


@cache
def _extractor(name: str, device: str) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    from zoo.metrics.features import load_extractor

    loaded: Callable[[np.ndarray], Mapping[str, np.ndarray]] = load_extractor(name, device)
    return loaded

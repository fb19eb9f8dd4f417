"""The image side of an evaluation: real pictures, generated images, controls, and what extractors see in them.

Every image is made once and seen once by each extractor, whatever the metrics; all of it is on disk as stages, so what
was seen before is read, not made.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np

from zoo import scoring
from zoo.audits import controls
from zoo.datasets.base import EEGDataset
from zoo.errors import UsageError
from zoo.leaves import leaf
from zoo.metrics.base import extractor_card, weights_path
from zoo.plan import Plan
from zoo.plots import Grid
from zoo.provenance import code_sha256
from zoo.scoring import ImageSide
from zoo.specs import ExtractorCard
from zoo.stages import CHUNK, Stage, Work, once
from zoo.stats import keyed_rng
from zoo.store import digest
from zoo.upload import SAMPLES, SEEN

Features = Callable[[], np.ndarray]
"""EEG features, (n, d), made or read when asked for."""
Pictures = Callable[[slice], np.ndarray]
"""Images of some trials, (n, 3, height, width) uint8."""
REPLICATED = ("model", "shuffled-eeg")
"""Systems whose sampling noise is measured; the other controls are sampled once."""


class Images:
    """Every image of an evaluation: real pictures, and those of each system and replicate.

    ``impossible`` says of controls that cannot be had why not.

    Args:
        given: System → EEG features of all test trials that the generator is given: the model's own, and those of the
            controls that replace the brain before the generator.
        train: EEG features of the training role, for the control that picks the nearest training picture.
    """

    def __init__(self, plan: Plan, given: Mapping[str, Features], train: Features) -> None:
        self.plan, self.given = plan, given
        self.known = plan.data.stimulus_rows(plan.split, "train")
        self.reference = plan.data.stimulus_rows(plan.split, plan.role)
        self.rows = plan.test_rows[plan.image_rows]
        self.labels = plan.data.labels[self.rows]
        self._seconds, self._made = 0.0, 0
        self._mean = self._shown(self.known, "mean picture", mean=True)
        self.impossible: dict[str, str] = {}
        self._picked = self._picks(train)
        self._generated = {
            system: [self._generation(system, k) for k in range(plan.replicates if system in REPLICATED else 1)]
            for system in given
        }
        self._seen: dict[tuple[str, int, str], Stage] = {}
        self._real: dict[str, Stage] = {}
        for name in scoring.extractors(plan.metrics):
            card = extractor_card(name)
            if card.compares:
                for system, replicate, show, identity in self._shows():
                    seen = self._comparison(show, identity, card)
                    made = system in self._generated
                    self._seen[system, replicate, name] = self._of_made(seen, system, replicate, card) if made else seen
                continue
            real = self._shown(np.concatenate([self.known, self.reference]), "pictures")
            self._real[name] = self._extraction(real.compute, real.identity, real.n, card)
            for system, stages in self._generated.items():
                for replicate, stage in enumerate(stages):
                    seen = self._extraction(stage.part, stage.identity, stage.n, card)
                    self._seen[system, replicate, name] = self._of_made(seen, system, replicate, card)
            if self.has("mean-image"):
                mean = self._mean
                self._seen["mean-image", 0, name] = self._extraction(mean.part, mean.identity, mean.n, card)

    @property
    def stages(self) -> Iterator[Stage]:
        """In the order in which they can be filled."""
        yield from self._real.values()
        if self.has("mean-image"):
            yield self._mean
        for stages in self._generated.values():
            yield from stages
        yield from self._seen.values()

    @property
    def per_second(self) -> float | None:
        """Generated images per second of this process, None if all were on disk."""
        return self._made / self._seconds if self._made else None

    # ---- images

    def generated(self, system: str = "model") -> list[Stage]:
        """Images of one system, a stage per replicate."""
        return self._generated[system]

    def _generation(self, system: str, replicate: int) -> Stage:
        """Images of one system, decoded from the features that it is given."""
        plan = self.plan
        ids = [str(trial) for trial in plan.data.trials["trial_id"][self.rows]]
        identity = {
            **plan.identity_of(plan.test_rows),
            "track": plan.track.id,
            "for": system,
            "images": digest(ids),
            "replicate": replicate,
            "resolution": plan.track.resolution,
        }

        def compute(part: slice) -> np.ndarray:
            from zoo import compute
            from zoo.models.base import Reconstructor

            features = self.given[system]()[plan.image_rows][part]
            noise = [keyed_rng(plan.track.id, trial, replicate) for trial in ids[part]]
            model = cast("Reconstructor", plan.model)
            started = time.monotonic()
            made = compute.generate(model, features, noise, plan.track.resolution, plan.work)
            self._seconds, self._made = self._seconds + time.monotonic() - started, self._made + len(made)
            return made

        stage = Stage("generations", identity, len(ids), compute, f"generating ({system}, replicate {replicate + 1})")
        side = plan.track.resolution
        return leaf(plan, f"{SAMPLES}{system}.r{replicate}", stage, ids, (3, side, side))

    def _shown(self, stimuli: np.ndarray, what: str, *, mean: bool = False) -> Stage:
        """Real pictures at the track's resolution, or their mean."""
        return pictures(self.plan.data, stimuli, self.plan.track.resolution, what, mean=mean)

    def _picks(self, train: Features) -> dict[str, np.ndarray]:
        """Controls that show a real training picture: positions within ``known``, one per trial."""
        plan, known = self.plan, np.arange(self.known.size)
        labels = plan.data.stimuli.labels[self.known]
        choices: dict[str, Callable[[], np.ndarray]] = {
            "class-oracle": lambda: controls.class_oracle(self.labels, labels, known, plan.track.id),
            "nearest-train": lambda: self._nearest(train),
            "real-vs-real": lambda: controls.real_vs_real(self.rows.size, known, plan.track.id),
        }
        identity = {**plan.identity_of(plan.test_rows), "track": plan.track.id, "images": digest(self.rows.tolist())}
        identity |= {"stimuli": plan.data.stimuli_sha256, "code": code_sha256("zoo.audits.controls", __name__)}
        picked = {}
        for name in [name for name in choices if name in plan.track.controls]:
            try:
                picked[name] = once("picks", {**identity, "for": name}, choices[name])
            except UsageError as error:
                self.impossible[name] = str(error)
        return picked

    def _nearest(self, train: Features) -> np.ndarray:
        """The nearest training trial's own picture, or one of its class if only that is shared."""
        plan, rows = self.plan, self.plan.train_rows
        position = {row: index for index, row in enumerate(self.known)}
        shown = np.array([position.get(row, -1) for row in plan.data.stimulus_of_trial[rows]])
        if (shown < 0).any():
            labels = plan.data.stimuli.labels[self.known]
            known = np.arange(self.known.size)
            shown = controls.class_oracle(plan.data.labels[rows], labels, known, plan.track.id, "nearest")
        test = self.given["model"]()[plan.image_rows]
        return controls.nearest_train(test_features=test, train_features=train(), picture_of_train=shown)

    def _shows(self) -> Iterator[tuple[str, int, Pictures, dict[str, Any]]]:
        """Every system and replicate with its images and what decides them."""
        for system, stages in self._generated.items():
            for replicate, stage in enumerate(stages):
                yield system, replicate, stage.part, stage.identity
        for system, picks in self._picked.items():
            stage = self._shown(self.known[picks], system)
            yield system, 0, stage.compute, stage.identity
        if self.has("mean-image"):
            yield "mean-image", 0, lambda part: self._mean.part(slice(0, 1)), self._mean.identity

    # ---- what extractors see

    def _of_made(self, seen: Stage, system: str, replicate: int, card: ExtractorCard) -> Stage:
        """What an extractor saw in generated images, which an upload may hold in the place of the images."""
        width = len(card.outputs) if card.compares else sum(card.outputs.values())
        of = f"{system}.r{replicate}"
        trials = self.plan.data.trials["trial_id"][self.rows]
        return leaf(self.plan, f"{SEEN}{card.id}/{of}", seen, trials, (width,), of=SAMPLES + of)

    def _extraction(self, show: Pictures, identity: dict[str, Any], n: int, card: ExtractorCard) -> Stage:
        return extraction(show, identity, n, card, self.plan.work.device)

    def _comparison(self, show: Pictures, identity: dict[str, Any], card: ExtractorCard) -> Stage:
        """What an extractor sees that looks at each image beside the trial's own picture."""
        own = self._shown(self.plan.data.stimulus_of_trial[self.rows], "own pictures")

        def compute(part: slice) -> np.ndarray:
            beside = own.compute(part)
            made = np.broadcast_to(show(part), beside.shape)
            found = _extractor(card.id, self.plan.work.device)(made, beside)
            return np.stack([found[name] for name in card.outputs], axis=1)

        identity = {**identity, "own": own.identity["rows"], **_mark(card, self.plan.work.device)}
        return Stage("image-features", identity, own.n, compute, f"comparing ({card.id})")

    # ---- what metrics are given

    def has(self, system: str) -> bool:
        """Whether the system shows images at all."""
        return (
            system in self._generated
            or system in self._picked
            or system in {"mean-image"} & {*self.plan.track.controls}
        )

    def side(self, system: str) -> ImageSide:
        """What the metrics of one system may be given; nothing is read before it is asked for."""
        plan, stimuli = self.plan, self.plan.data.stimuli
        arrays = {
            "labels": self.labels,
            "own": self._own,
            "reference_labels": stimuli.labels[self.reference],
            "known_labels": stimuli.labels[self.known],
            "n_classes": len(plan.data.concepts),
        }
        units = plan.units(self.rows)
        replicates = len(self._generated.get(system, [None]))

        def outputs(name: str, replicate: int, extractor: str, output: str) -> Any:
            card = extractor_card(extractor)
            columns = columns_of(card, output)
            if name in ("reference", "known"):
                part = slice(self.known.size, None) if name == "reference" else slice(self.known.size)
                return self._real[extractor].rows(part, columns)
            if not card.compares and system in self._picked:
                return self._real[extractor].rows(columns=columns)[self._picked[system]]
            rows = self._seen[system, replicate, extractor].rows(columns=columns)
            if card.compares:
                return rows[:][:, 0]
            return np.repeat(rows[:], self.rows.size, axis=0) if system == "mean-image" else rows

        return ImageSide(
            identity={
                "system": system,
                "images": self._generated["model"][0].identity,
                "table": plan.data.fingerprint,
                "pictures": digest([self.known.tolist(), self.reference.tolist()]),
                "replicates": replicates,
                "unit": plan.track.unit,
                "controls": code_sha256("zoo.audits.controls", __name__),
            },
            n_replicates=replicates,
            outputs=outputs,
            arrays=arrays,
            units=units,
        )

    @property
    def _own(self) -> np.ndarray:
        """Position within ``reference`` of the picture each trial was shown, -1 where only the class is shared."""
        position = {row: index for index, row in enumerate(self.reference)}
        return np.array([position.get(row, -1) for row in self.plan.data.stimulus_of_trial[self.rows]])

    def grid(self, columns: int = 12) -> Grid:
        """The same trials under every system: what was shown (or a picture of its class), model, controls."""
        data = self.plan.data
        per_class = max(1, columns // len(data.concepts))
        chosen = [np.flatnonzero(self.labels == c)[:per_class] for c in np.unique(self.labels)]
        few = np.concatenate(chosen)[: 2 * columns]
        return Grid(tuple(data.concepts[label] for label in self.labels[few]), self.shown(few))

    def shown(self, few: np.ndarray) -> dict[str, np.ndarray]:
        """What some trials were shown and every system made of them, (n, 3, height, width) uint8 each.

        Args:
            few: Positions within ``rows``.
        """
        data, everything = self.plan.data, slice(0, None)
        own = (data.stimulus_of_trial[self.rows[few]] >= 0).all()
        rows = {"stimulus" if own else "a picture of the class": self.real(few)}
        for system, stages in self._generated.items():
            rows[system] = stages[0].rows()[few]
        for system, picks in self._picked.items():
            rows[system] = self._shown(self.known[picks[few]], "").compute(everything)
        if self.has("mean-image"):
            rows["mean-image"] = np.repeat(self._mean.rows()[:], few.size, axis=0)
        return rows

    def real(self, few: np.ndarray) -> np.ndarray:
        """What some trials were shown, (n, 3, height, width) uint8, or a picture of the class where only that is known.

        Args:
            few: Positions within ``rows``.
        """
        data = self.plan.data
        pool = np.concatenate([self.reference, self.known])
        shown = data.stimulus_of_trial[self.rows[few]]
        for i in np.flatnonzero(shown < 0):
            shown[i] = pool[data.stimuli.labels[pool] == self.labels[few[i]]][0]
        return self._shown(shown, "").compute(slice(None))


def pictures(data: EEGDataset, stimuli: np.ndarray, resolution: int, what: str, *, mean: bool = False) -> Stage:
    """Real pictures, (n, 3, resolution, resolution) uint8, or their mean; ``stimuli`` are rows of the stimuli table."""
    ids = [str(stimulus) for stimulus in data.stimuli.ids[stimuli]]
    identity = {"stimuli": data.stimuli_sha256, "rows": digest(ids), "resolution": resolution, "mean": mean}

    def compute(part: slice) -> np.ndarray:
        return resize_pictures(data.stimulus_pixels(stimuli[part]), resolution)

    if mean:
        parts = [slice(start, start + 64) for start in range(0, stimuli.size, 64)]
        return Stage("pictures", identity, 1, lambda _: controls.mean_image(map(compute, parts)), what)
    return Stage("pictures", identity, len(ids), compute, what)


def extraction(show: Pictures, identity: dict[str, Any], n: int, card: ExtractorCard, device: str) -> Stage:
    """All outputs of an extractor side by side, (n, width of all)."""

    def compute(part: slice) -> np.ndarray:
        found = _extractor(card.id, device)(show(part))
        return np.concatenate([found[name] for name in card.outputs], axis=1)

    return Stage("image-features", {**identity, **_mark(card, device)}, n, compute, f"seeing ({card.id})")


def columns_of(card: ExtractorCard, output: str) -> slice:
    """Where an output stands in an extractor's row."""
    names = list(card.outputs)
    start = sum(card.outputs[before] for before in names[: names.index(output)])
    return slice(start, start + card.outputs[output])


def seen(data: EEGDataset, stimuli: np.ndarray, extractor: str, output: str, work: Work) -> np.ndarray:
    """What a frozen network sees in real pictures that come as large as its input: (n, width), made once.

    Raises:
        MissingError: Its weights are not here; the message names the command that brings them.
    """
    card = _able(extractor, output)
    shown = pictures(data, stimuli, card.size, "pictures")
    stage = extraction(shown.compute, shown.identity, shown.n, card, work.device)
    stage.fill(replace(work, shard=None))
    return stage.rows(columns=columns_of(card, output))[:]


def seen_anew(changed: Sequence[np.ndarray], extractor: str, output: str, work: Work) -> np.ndarray:
    """The same of pictures, (height, width, 3) uint8, that a model has changed: known again by their pixels."""
    card, parts = _able(extractor, output), []
    for start in range(0, len(changed), CHUNK):
        work.progress(start, len(changed), f"seeing ({card.id})")
        shown = resize_pictures(list(changed[start : start + CHUNK]), card.size)
        identity = {"pixels": hashlib.sha256(shown.tobytes()).hexdigest()}
        stage = extraction(shown.__getitem__, identity, len(shown), card, work.device)
        stage.fill(Work(device=work.device))
        parts.append(stage.rows(columns=columns_of(card, output))[:])
    return np.concatenate(parts)


def _able(extractor: str, output: str) -> ExtractorCard:
    """The card of an extractor that has this output and whose weights are here."""
    card = extractor_card(extractor)
    if output not in card.outputs:
        raise UsageError(f"{card.id} has no output {output!r}; it has {', '.join(card.outputs)}.")
    weights_path(card)
    return card


def _mark(card: ExtractorCard, device: str) -> dict[str, str]:
    """What decides an extractor's output besides the images."""
    weights = card.file.sha256 if card.file else ""
    return {
        "extractor": f"{card.id}@{weights}|{card.resize}|{','.join(card.outputs)}",
        "device": device,
        "code": code_sha256(card.function.partition(":")[0] if card.function else "zoo.metrics.features"),
    }


def resize_pictures(pixels: list[np.ndarray], resolution: int) -> np.ndarray:
    """Real pictures of any size, (h, w, 3) uint8, as (n, 3, resolution, resolution): centre square, bicubic (PIL)."""
    from PIL import Image, ImageOps

    size = (resolution, resolution)
    fitted = [ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.BICUBIC) for picture in pixels]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in fitted])


@cache
def _extractor(name: str, device: str) -> Callable[..., Mapping[str, np.ndarray]]:
    from zoo.metrics.features import load_extractor

    loaded: Callable[..., Mapping[str, np.ndarray]] = load_extractor(name, device)
    return loaded

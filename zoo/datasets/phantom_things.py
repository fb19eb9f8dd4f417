"""A phantom in the format of THINGS-EEG2 whose evoked responses are a known linear map of the pictures.

A trial is subject mixing × (picture features × evoked components × topography) + 1/f noise: 17 channels × 100 times at
100 Hz, named, ordered and cut as in ``zoo.datasets.things_eeg2``. The features are ``FEATURES``, linear statistics of a
picture's pixels, so a model that sees the picture can know the response; ``known_answer`` says what it is, and how well
anything can predict recordings of it. Unlike the original: trials are a second apart, so none holds the response to its
neighbour; session, run and order are known; signals are not whitened, since their noise is white over the scalp anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import registry
from zoo.datasets import base, phantom, recipes, things_eeg2
from zoo.datasets.base import EEGDataset, Prepared, Progress, Stimulus, strings
from zoo.datasets.phantom import Component, Head
from zoo.datasets.things_eeg2 import Picture
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec
from zoo.stats import keyed_rng

POSITIONS: phantom.Positions = {
    "Pz": (0.0, -0.5), "P3": (-0.42, -0.52), "P7": (-0.8, -0.6), "O1": (-0.3, -0.95), "Oz": (0.0, -1.0),
    "O2": (0.3, -0.95), "P4": (0.42, -0.52), "P8": (0.8, -0.6), "P1": (-0.21, -0.5), "P5": (-0.62, -0.56),
    "PO7": (-0.58, -0.8), "PO3": (-0.3, -0.74), "POz": (0.0, -0.73), "PO4": (0.3, -0.74), "PO8": (0.58, -0.8),
    "P6": (0.62, -0.56), "P2": (0.21, -0.5),
}  # fmt: skip
"""Electrodes on the unit disc, nose up, in the order of THINGS-EEG2."""
SPEC = EEGSpec(ch_names=tuple(POSITIONS), sfreq=100, tmin=-0.2, n_times=100, unit="a.u.")
FEATURES = ("luminance", "red-green", "blue-yellow", "left-right", "top-bottom", "centre-surround")
"""What of a picture the response holds: contrasts of mean pixel values."""
COMPONENTS = (
    Component(0.08, 0.015, (0.0, -1.0), 0.5),
    Component(0.11, 0.018, (0.5, -0.85), 0.8),
    Component(0.12, 0.018, (-0.5, -0.85), 0.8),
    Component(0.17, 0.022, (0.8, -0.6), -0.9),
    Component(0.18, 0.022, (-0.8, -0.6), -0.8),
    Component(0.30, 0.050, (0.0, -0.5), 0.7),
)
"""C1, right and left P1, right and left N1, P3; as many as features. Amplitudes are in units of the noise."""
GAIN = 0.4
"""Standard deviation of a component's amplitude over training pictures, in units of the noise of a single trial."""
HELD_OUT = 0.1
"""Share of the training concepts that validates."""
PIXELS = 64


@dataclass(frozen=True)
class Answer:
    """What the recordings are made of, without noise.

    Attributes:
        subjects: Rows of ``responses``.
        stimulus_ids: Columns of ``responses``, in the order of the stimuli table.
        features: (n_stimuli, 6) standardised ``FEATURES`` of each picture, uncorrelated over training pictures.
        maps: (n_subjects, 6, n_channels, n_times): what one unit of a feature adds to a trial.
        responses: (n_subjects, n_stimuli, n_channels, n_times). Single trials add noise of unit variance, independent
            between the repetitions of a picture.
    """

    subjects: tuple[str, ...]
    stimulus_ids: tuple[str, ...]
    features: np.ndarray
    maps: np.ndarray
    responses: np.ndarray

    def of(self, subject: str, stimulus_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Responses of one person to these pictures, (n_stimuli, n_channels, n_times)."""
        row = {stimulus_id: i for i, stimulus_id in enumerate(self.stimulus_ids)}
        where = [row[str(stimulus_id)] for stimulus_id in stimulus_ids]
        response: np.ndarray = self.responses[self.subjects.index(subject), where]
        return response

    def ceiling(self, subject: str, stimulus_ids: Sequence[str] | np.ndarray, n_repetitions: int) -> np.ndarray:
        """Correlation over these pictures of the true response with a mean of repetitions: the best attainable.

        With V the variance of the true response over the pictures and noise of unit variance, the mean of n trials has
        variance V + 1/n, so the correlation is sqrt(V / (V + 1/n)). Its square is the correlation of two means of n.
        The value is that of the expected covariances; in a sample of pictures it differs by sampling error.

        Returns:
            (n_channels, n_times), about 0 where there is no response.
        """
        variance = self.of(subject, stimulus_ids).var(axis=0)
        best: np.ndarray = np.sqrt(variance / (variance + 1 / n_repetitions))
        return best


def build(
    card: DatasetCard,
    *,
    source: Path | None = None,
    images: Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The phantom that ``card.options`` describes: arguments of ``generate``, and a ``version`` of this file."""
    return generate(card=card, **{name: value for name, value in card.options.items() if name != "version"})


def generate(
    *,
    card: DatasetCard | None = None,
    seed: int = 0,
    n_subjects: int = 3,
    n_concepts: int = 120,
    n_exemplars: int = 4,
    n_repetitions: int = 4,
    n_test: int = 200,
    n_test_repetitions: int = 20,
) -> Prepared:
    """A phantom of people who see training pictures a few times and test pictures of other concepts often.

    Args:
        card: Names the dataset and its splits; null for the card of ``phantom-things``.
        seed: Decides everything: pictures, heads, noise, order.
        n_subjects: People, 10 at most as in THINGS-EEG2.
        n_concepts: Concepts of training, of which a tenth (at least one) validates.
        n_exemplars: Pictures of each of them.
        n_repetitions: How often each training picture is shown to everybody, once in every training run.
        n_test: Test pictures, each of a concept of its own.
        n_test_repetitions: How often each of those is shown, once in every test run.

    Raises:
        UsageError: An argument is out of range.
    """
    numbers = {"n_concepts": n_concepts, "n_test": n_test}
    if low := next((name for name, value in numbers.items() if value < 2), None):
        raise UsageError(f"{low} of a phantom must be at least 2, but is {numbers[low]}.")
    if not 1 <= n_subjects <= len(things_eeg2.SUBJECTS):
        raise UsageError(f"n_subjects must be 1 to {len(things_eeg2.SUBJECTS)}, but is {n_subjects}.")
    card = card or registry.datasets.get("phantom-things")
    pictures, stimuli = _draw_stimuli(seed, n_concepts, n_exemplars, n_test)
    subjects = things_eeg2.SUBJECTS[:n_subjects]
    repetitions = {"train": n_repetitions, "test": n_test_repetitions}
    trials = things_eeg2.table(subjects, pictures, repetitions)
    order = {(s, half): _order(seed, s, half, pictures, n) for s in subjects for half, n in repetitions.items()}
    trials |= _times(order)
    known = {about.id.partition("@")[0] for about in card.splits}
    splits, report = recipes.cut(card, trials, {name: recipe for name, recipe in SPLITS.items() if name in known})
    train = np.array([picture.part == "train" for picture in pictures])
    features = _standardise(measure([_pixels(stimulus) for stimulus in stimuli]), train)
    return Prepared(
        spec=SPEC,
        eeg=_record(seed, features, pictures, order),
        trials=trials,
        concepts=tuple(sorted({picture.concept for picture in pictures})),
        stimuli=stimuli,
        stimuli_source="built-in renderer of six shapes",
        splits=splits,
        report=report,
    )


SPLITS: dict[str, recipes.Recipe] = {
    "unseen-concept" if name == "official" else name: recipe for name, recipe in things_eeg2.SPLITS.items()
}


def known_answer(dataset: EEGDataset) -> Answer:
    """The noise-free responses of a prepared phantom of this kind, computed from its own pictures."""
    shown = dataset.stimulus_of_trial
    train = np.zeros(len(dataset.stimuli), dtype=bool)
    train[shown[[block.endswith("-train") for block in dataset.trials["block"].tolist()]]] = True
    features = _standardise(measure(dataset.stimulus_pixels(range(len(train)))), train)
    subjects = tuple(np.unique(dataset.trials["subject"]).tolist())
    seed = int(dataset.card.options.get("seed", 0))
    heads = [_head(seed, subject) for subject in subjects]
    strength = _mixing(seed)
    return Answer(
        subjects=subjects,
        stimulus_ids=tuple(dataset.stimuli.ids.tolist()),
        features=features,
        maps=np.array([head.respond(strength) - head.respond(0 * strength) for head in heads]),
        responses=np.array([head.respond(features @ strength) for head in heads]),
    )


def measure(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Raw ``FEATURES`` of pictures (height, width, 3) uint8: (n, 6), each a weighted sum of pixel values in [0, 1]."""
    n = len(pixels[0])
    place = (np.arange(n) + 0.5) / n - 0.5
    centre = np.abs(place) < 0.25
    inside = np.outer(centre, centre)
    grey = np.ones(3) / 3
    where = [
        (np.ones((n, n)), grey),
        (np.ones((n, n)), np.array([1.0, -1.0, 0.0])),
        (np.ones((n, n)), np.array([-0.5, -0.5, 1.0])),
        (np.tile(-np.sign(place), (n, 1)), grey),
        (np.tile(-np.sign(place)[:, None], (1, n)), grey),
        (inside / inside.mean() - ~inside / (~inside).mean(), grey),
    ]
    weights = np.array([space[..., None] * colour for space, colour in where]) / n**2
    return np.array([np.tensordot(weights, picture / 255, 3) for picture in pixels])


def _standardise(raw: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Centred and decorrelated with the training pictures, whose covariance becomes the identity: (n, 6)."""
    centred = raw - raw[train].mean(axis=0)
    factor = np.linalg.cholesky(np.cov(centred[train].T, bias=True))
    features: np.ndarray = np.linalg.solve(factor, centred.T).T
    return features


def _mixing(seed: int) -> np.ndarray:
    """Amplitude of each component for one unit of each feature, (6, 6): an orthogonal matrix times ``GAIN``."""
    rng = keyed_rng("phantom-things", seed, "mixing")
    return GAIN * np.linalg.qr(rng.standard_normal((len(FEATURES), len(COMPONENTS))))[0]


def _head(seed: int, subject: str) -> Head:
    return Head(keyed_rng("phantom-things", seed, "head", subject), COMPONENTS, POSITIONS, SPEC)


def _order(seed: int, subject: str, half: str, pictures: Sequence[Picture], n_runs: int) -> np.ndarray:
    """Place of each picture of this half in each run of one person, (n_pictures, n_runs): all mixed, anew each time."""
    n = sum(picture.half == half for picture in pictures)
    rng = keyed_rng("phantom-things", seed, "order", subject, half)
    return np.array([rng.permutation(n) for _ in range(n_runs)]).T


def _times(order: Mapping[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of the trials table that THINGS-EEG2 has lost."""
    runs = [
        np.tile([f"{subject}-{half}-r{run + 1:02d}" for run in range(place.shape[1])], len(place))
        for (subject, half), place in order.items()
    ]
    run = strings(np.concatenate(runs))
    return {
        "session": strings(np.full(len(run), "01")),
        "run": run,
        "recording": run,
        "order": np.concatenate([place.ravel() for place in order.values()]),
    }


def _record(
    seed: int, features: np.ndarray, pictures: Sequence[Picture], order: Mapping[tuple[str, str], np.ndarray]
) -> Iterator[np.ndarray]:
    """Trials of one half of one person at a time, in the order of the table: (n, n_channels, n_times) float32."""
    halves = np.array([picture.half for picture in pictures])
    for (subject, half), place in order.items():
        response = _head(seed, subject).respond(features[halves == half] @ _mixing(seed))
        trials = np.empty((*place.shape, SPEC.n_channels, SPEC.n_times), dtype=np.float32)
        for run in range(place.shape[1]):
            rng = keyed_rng("phantom-things", seed, "noise", subject, half, run)
            noise = phantom.pink(rng, len(place) * SPEC.n_times, np.eye(SPEC.n_channels), SPEC.sfreq)
            windows = noise.reshape(SPEC.n_channels, len(place), SPEC.n_times).transpose(1, 0, 2)
            trials[:, run] = response + windows[place[:, run]]
        yield trials.reshape(-1, SPEC.n_channels, SPEC.n_times)


def _draw_stimuli(
    seed: int, n_concepts: int, n_exemplars: int, n_test: int
) -> tuple[tuple[Picture, ...], tuple[Stimulus, ...]]:
    """Pictures of training and test concepts in the order of THINGS-EEG2. A concept is a shape and two colours."""
    names = [f"thing-{number + 1:03d}" for number in range(n_concepts + n_test)]
    val = set(recipes.shuffled(names[:n_concepts], "phantom-things")[: max(1, round(HELD_OUT * n_concepts))])
    pictures: list[Picture] = []
    stimuli: list[Stimulus] = []
    for number, concept in enumerate(names):
        rng = keyed_rng("phantom-things", seed, "concept", concept)
        shape = phantom.CONCEPTS[rng.integers(len(phantom.CONCEPTS))]
        colours = rng.uniform(20, 235, (2, 3))
        of_test = number >= n_concepts
        part = "test" if of_test else "val" if concept in val else "train"
        for exemplar in range(1 if of_test else n_exemplars):
            row = 1 + (number - n_concepts if of_test else number * n_exemplars + exemplar)
            stimulus_id = f"{concept}_{exemplar + 1:02d}"
            pictures.append(Picture(stimulus_id, concept, part, row, ""))
            stimuli.append(Stimulus(stimulus_id, concept, _draw(rng, shape, colours)))
    return tuple(pictures), tuple(stimuli)


def _draw(rng: np.random.Generator, shape: str, colours: np.ndarray) -> bytes:
    """One picture of a concept as PNG: size, place and shades are its own."""
    from PIL import Image, ImageDraw

    zoom = 4
    radius = zoom * PIXELS * rng.uniform(0.18, 0.32)
    cx, cy = zoom * PIXELS * rng.uniform(0.2, 0.8, 2)
    fill, ground = (tuple(int(v) for v in np.clip(c + rng.normal(0, 12, 3), 0, 255)) for c in colours)
    picture = Image.new("RGB", (zoom * PIXELS,) * 2, ground)
    phantom.draw_shape(ImageDraw.Draw(picture), shape, cx, cy, radius, fill)
    return phantom.reduced(picture, PIXELS)


def _pixels(stimulus: Stimulus) -> np.ndarray:
    assert isinstance(stimulus.image, bytes)
    return base.decode(stimulus.image)

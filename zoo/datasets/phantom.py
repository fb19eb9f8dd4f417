"""Phantoms: generated recordings with a known answer, for demos, tests and the calibration of audits.

A trial is subject mixing × (evoked components × topography) + 1/f noise + slow drift, cut from a continuous run of
interleaved or blocked trials, 14 channels named as those of an Emotiv EPOC. Small rendered pictures are what is "seen".

``phantom``        concepts are interleaved; amplitudes of the evoked components depend on the concept, and a little on
                   the picture. A decoder should find that, better within than across subjects.
``phantom-block``  every block of consecutive trials is one concept and the evoked response is the same for all of them;
                   only the channel offsets differ from block to block. Whoever "decodes" concepts here reads the clock.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import registry
from zoo.datasets import recipes
from zoo.datasets.base import Prepared, Progress, Stimulus, strings
from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Positions = Mapping[str, tuple[float, float]]
POSITIONS: Positions = {
    "AF3": (-0.3, 0.8), "F7": (-0.8, 0.6), "F3": (-0.4, 0.5), "FC5": (-0.7, 0.25), "T7": (-1.0, 0.0),
    "P7": (-0.8, -0.6), "O1": (-0.3, -0.95), "O2": (0.3, -0.95), "P8": (0.8, -0.6), "T8": (1.0, 0.0),
    "FC6": (0.7, 0.25), "F4": (0.4, 0.5), "F8": (0.8, 0.6), "AF4": (0.3, 0.8),
}  # fmt: skip
"""Electrodes on the unit disc, nose up."""
SPEC = EEGSpec(ch_names=tuple(POSITIONS), sfreq=128.0, tmin=-0.125, n_times=64)
CONCEPTS = ("circle", "square", "triangle", "cross", "ring", "stripes")
COLOURS = ((214, 62, 52), (58, 92, 214), (70, 176, 82), (236, 200, 60), (190, 78, 200), (70, 200, 210))
SOA = 96
"""Samples from one picture to the next: 0.75 s."""
PIXELS = 32


@dataclass(frozen=True)
class Component:
    """An evoked deflection: a Gaussian in time around ``latency`` (s) and on the scalp around ``centre``."""

    latency: float
    width: float
    centre: tuple[float, float]
    amplitude: float
    """Mean over concepts, volts."""


COMPONENTS = (
    Component(0.10, 0.020, (0.0, -0.95), 7e-6),
    Component(0.16, 0.022, (0.8, -0.60), -9e-6),
    Component(0.17, 0.022, (-0.8, -0.60), -8e-6),
    Component(0.22, 0.030, (0.0, 0.60), 7e-6),
    Component(0.30, 0.040, (0.0, -0.50), 9e-6),
)
"""P1, right and left N1, frontal P2, P3: one fewer than concepts, so these can lie at the corners of a simplex."""
EXEMPLAR = (Component(0.13, 0.02, (-0.3, -0.95), 0.0), Component(0.26, 0.03, (0.8, 0.4), 0.0))
CONCEPT_GAIN = 28e-6
"""Distance of every concept from the mean response, volts, spread over the components."""
EXEMPLAR_GAIN = 3e-6
PERSONAL = 0.5
"""How far the topographies of one head lie from the common ones, against peaks of 1."""
NOISE = 9e-6
"""Standard deviation of the 1/f noise, volts."""
DRIFT = 5e-6
"""Standard deviation of the slow drift at its knots, volts."""
BLOCK_OFFSET = 30e-6
"""Standard deviation over blocks of a channel's offset in ``phantom-block``, volts."""


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
    blocked: bool = False,
    n_subjects: int = 6,
    n_runs: int = 3,
    n_exemplars: int = 24,
) -> Prepared:
    """A phantom of ``n_subjects × n_runs`` runs, each of which shows every one of ``6 × n_exemplars`` pictures once.

    Args:
        card: Names the dataset and its splits; null for the card of ``phantom`` or ``phantom-block``.
        seed: Decides everything: pictures, responses, noise, order.
        blocked: Show one concept per block and leave only the block in the signal (``phantom-block``).
        n_subjects: People.
        n_runs: Continuous recordings of each.
        n_exemplars: Pictures per concept, an even number; a block holds half of them.

    Raises:
        UsageError: ``n_exemplars`` is odd.
    """
    if n_exemplars % 2:
        raise UsageError(f"n_exemplars must be even, since a block shows half of them, but is {n_exemplars}.")
    card = card or registry.datasets.get("phantom-block" if blocked else "phantom")
    rng = np.random.default_rng([seed, int(blocked)])
    traits, stimuli = _draw_stimuli(np.random.default_rng([seed, 2]), n_exemplars)
    concept = np.repeat(np.arange(len(CONCEPTS)), n_exemplars)
    strength = np.zeros((len(concept), len(COMPONENTS) + len(EXEMPLAR)))
    if not blocked:
        strength[:, : len(COMPONENTS)] = CONCEPT_GAIN * _simplex(rng)[concept]
        strength[:, len(COMPONENTS) :] = EXEMPLAR_GAIN * traits[:, : len(EXEMPLAR)]
    eeg: list[np.ndarray] = []
    shown: list[np.ndarray] = []
    for _ in range(n_subjects):
        person = Head(rng, COMPONENTS + EXEMPLAR, POSITIONS, SPEC)
        for _ in range(n_runs):
            order = _order(rng, n_exemplars, blocked=blocked)
            eeg.append(_run(rng, person, strength[order], n_exemplars // 2, blocked=blocked))
            shown.append(order)
    trials = _table(shown, stimuli, n_runs, n_exemplars)
    splits, report = recipes.cut(card, trials, BLOCK_SPLITS if blocked else SPLITS)
    return Prepared(
        spec=SPEC,
        eeg=eeg,
        trials=trials,
        concepts=CONCEPTS,
        stimuli=stimuli,
        stimuli_source="built-in renderer of six shapes",
        splits=splits,
        report=report,
    )


SPLITS: dict[str, recipes.Recipe] = {
    "stimulus-out": partial(recipes.stimulus_out, val=1 / 8, test=1 / 4),
    "subject-out": partial(recipes.subject_out, val=1 / 6, test=1 / 3),
}
BLOCK_SPLITS: dict[str, recipes.Recipe] = {
    "block": partial(recipes.random_rows, within="block", val=1 / 8, test=1 / 4),
    "run-out": recipes.run_out,
}


class Head:
    """Topographies, latency and gain of one person: the common ones, and what is personal drawn from ``rng``."""

    def __init__(
        self, rng: np.random.Generator, components: Sequence[Component], positions: Positions, spec: EEGSpec
    ) -> None:
        self.topographies = np.array([_topography(c.centre, positions) for c in components])
        self.topographies += PERSONAL * rng.standard_normal(self.topographies.shape) @ smoothing(positions)
        lag = rng.normal(0, 0.006)
        t = spec.tmin + np.arange(spec.n_times) / spec.sfreq
        self.waves = np.array([np.exp(-(((t - c.latency - lag) / c.width) ** 2) / 2) for c in components])
        self.mean = np.array([c.amplitude for c in components])
        self.gain = np.exp(rng.normal(0, 0.15))

    def respond(self, strength: np.ndarray) -> np.ndarray:
        """Evoked responses, (n_trials, n_channels, n_times), to (n_trials, n_components) deviations from the mean."""
        response: np.ndarray = self.gain * np.einsum(
            "nk,kc,kt->nct", strength + self.mean, self.topographies, self.waves
        )
        return response


def _run(rng: np.random.Generator, person: Head, strength: np.ndarray, block: int, *, blocked: bool) -> np.ndarray:
    """Trials of one continuous run, (n_trials, n_channels, n_times) float32 volts."""
    n, n_samples = len(strength), len(strength) * SOA
    background = NOISE * pink(rng, n_samples, smoothing(POSITIONS), SPEC.sfreq)
    background += DRIFT * _drift(rng, n_samples, block * SOA)
    if blocked:
        offsets = BLOCK_OFFSET * rng.standard_normal((len(POSITIONS), n // block))
        background += np.repeat(offsets, block * SOA, axis=1)
    trials = background.reshape(-1, n, SOA)[:, :, : SPEC.n_times].transpose(1, 0, 2)
    vigour = 1 + 0.15 * rng.standard_normal((n, 1, 1))
    signal: np.ndarray = trials + vigour * person.respond(strength)
    return signal.astype(np.float32)


def _order(rng: np.random.Generator, n_exemplars: int, *, blocked: bool) -> np.ndarray:
    """Pictures of one run in the order shown: all mixed, or two blocks of every concept in random order."""
    n_concepts = len(CONCEPTS)
    if not blocked:
        return rng.permutation(n_concepts * n_exemplars)
    blocks = [c * n_exemplars + rng.permutation(n_exemplars).reshape(2, -1) for c in range(n_concepts)]
    shuffled: np.ndarray = rng.permutation(np.concatenate(blocks))
    return shuffled.ravel()


def _table(
    shown: list[np.ndarray], stimuli: tuple[Stimulus, ...], n_runs: int, n_exemplars: int
) -> dict[str, np.ndarray]:
    rows: list[tuple[str, str, str, str, str, int, str, str, str]] = []
    for index, order in enumerate(shown):
        subject = f"{index // n_runs + 1:02d}"
        run = f"s{subject}-r{index % n_runs + 1}"
        for position, picture in enumerate(order):
            block = f"{run}-b{position // (n_exemplars // 2) + 1:02d}"
            seen = stimuli[picture]
            row = (
                f"{run}-{position + 1:03d}",
                subject,
                "01",
                run,
                block,
                position,
                run,
                seen.stimulus_id,
                seen.concept,
            )
            rows.append(row)
    columns = list(zip(*rows, strict=True))
    names = ("trial_id", "subject", "session", "run", "block", "order", "recording", "stimulus_id", "concept")
    return {n: np.array(c) if n == "order" else strings(c) for n, c in zip(names, columns, strict=True)}


def _simplex(rng: np.random.Generator) -> np.ndarray:
    """Unit vectors of six concepts in five dimensions, all equally far from one another and summing to zero."""
    n = len(CONCEPTS)
    centred = np.eye(n) - 1 / n
    corners = np.linalg.svd(centred)[0][:, : n - 1]
    turn = np.linalg.qr(rng.standard_normal((n - 1, n - 1)))[0]
    unit: np.ndarray = corners @ turn / np.linalg.norm(corners, axis=1, keepdims=True)
    return unit


def _topography(centre: tuple[float, float], positions: Positions) -> np.ndarray:
    distance = np.linalg.norm(np.array(list(positions.values())) - np.array(centre), axis=1)
    weights: np.ndarray = np.exp(-((distance / 0.6) ** 2) / 2)
    return weights


def smoothing(positions: Positions) -> np.ndarray:
    """Volume conduction: (n_channels, n_channels) mixing of neighbours, rows of unit length."""
    where = np.array(list(positions.values()))
    mixing = np.exp(-((np.linalg.norm(where[:, None] - where, axis=-1) / 0.4) ** 2) / 2)
    scaled: np.ndarray = mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
    return scaled


def pink(rng: np.random.Generator, n: int, mixing: np.ndarray, sfreq: float) -> np.ndarray:
    """Noise with power 1/f above 1 Hz and flat below, unit variance, mixed over the scalp: (n_channels, n)."""
    spectrum = np.fft.rfft(rng.standard_normal((len(mixing), n)))
    frequency = np.fft.rfftfreq(n, 1 / sfreq)
    spectrum[:, 1:] /= np.sqrt(np.maximum(frequency[1:], 1.0))
    spectrum[:, 0] = 0
    noise = mixing @ np.fft.irfft(spectrum, n)
    scaled: np.ndarray = noise / noise.std(axis=1, keepdims=True)
    return scaled


def _drift(rng: np.random.Generator, n: int, period: int) -> np.ndarray:
    """Straight lines between standard normal knots one ``period`` of samples apart: (n_channels, n)."""
    knots = rng.standard_normal((len(POSITIONS), n // period + 2))
    at = np.arange(n) / period
    return np.array([np.interp(at, np.arange(len(row)), row) for row in knots])


def _draw_stimuli(rng: np.random.Generator, n_exemplars: int) -> tuple[np.ndarray, tuple[Stimulus, ...]]:
    """Pictures of every concept and their traits (size, place, shade), each about standard normal."""
    traits = rng.uniform(-np.sqrt(3), np.sqrt(3), (len(CONCEPTS) * n_exemplars, 4))
    stimuli = tuple(
        Stimulus(f"{concept}-{k + 1:02d}", concept, _draw(c, traits[c * n_exemplars + k], rng))
        for c, concept in enumerate(CONCEPTS)
        for k in range(n_exemplars)
    )
    return traits, stimuli


def _draw(concept: int, traits: np.ndarray, rng: np.random.Generator) -> bytes:
    """One picture as PNG, drawn four times too large and reduced."""
    from PIL import Image, ImageDraw

    zoom = 4
    size, x, y, shade = traits / np.sqrt(3)  # each in [-1, 1]
    radius = zoom * PIXELS * (0.30 + 0.07 * size)
    cx, cy = (zoom * PIXELS * (0.5 + 0.10 * place) for place in (x, y))
    colour = tuple(int(np.clip(value * (1 + 0.15 * shade) + rng.normal(0, 10), 0, 255)) for value in COLOURS[concept])
    picture = Image.new("RGB", (zoom * PIXELS,) * 2, (int(30 + 12 * rng.uniform(-1, 1)),) * 3)
    draw_shape(ImageDraw.Draw(picture), CONCEPTS[concept], cx, cy, radius, colour)
    return reduced(picture, PIXELS)


def reduced(picture: Image.Image, pixels: int) -> bytes:
    """A picture drawn too large as a PNG of ``pixels`` × ``pixels``."""
    from PIL import Image

    file = io.BytesIO()
    picture.resize((pixels, pixels), Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()


def draw_shape(draw: ImageDraw.ImageDraw, name: str, cx: float, cy: float, r: float, colour: tuple[int, ...]) -> None:
    """Draw one of ``CONCEPTS`` around (cx, cy), about r pixels in radius."""
    box = (cx - r, cy - r, cx + r, cy + r)
    if name == "circle":
        draw.ellipse(box, fill=colour)
    elif name == "square":
        draw.rectangle(box, fill=colour)
    elif name == "triangle":
        draw.polygon([(cx, cy - r), (cx + r, cy + r), (cx - r, cy + r)], fill=colour)
    elif name == "cross":
        draw.rectangle((cx - r / 3, cy - r, cx + r / 3, cy + r), fill=colour)
        draw.rectangle((cx - r, cy - r / 3, cx + r, cy + r / 3), fill=colour)
    elif name == "ring":
        draw.ellipse(box, outline=colour, width=int(r / 2.5))
    else:
        for k in (-1.0, -0.2, 0.6):
            draw.rectangle((cx - r, cy + k * r, cx + r, cy + (k + 0.4) * r), fill=colour)

"""Prepared datasets: one layout, one way in, one way to read.

Layout of a prepared dataset, ``<cache>/datasets/<id>/``:
    dataset.json      spec, concepts, fingerprint, sha256 of every file and of the source, report of what was found
    eeg.safetensors   one tensor ``eeg`` (n_trials, n_channels, n_times) float32 in volts, read through a memory map
    trials.parquet    trial_id, subject, session, run, block, order, recording, stimulus_id, concept (unknown = null)
    stimuli.parquet   stimulus_id, concept, role, sha256, image (encoded bytes)
    splits/*.json     zoo.specs.Split
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from zoo.specs import EEGSpec, Split

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


@dataclass(frozen=True)
class Stimulus:
    """One picture: ``image`` holds encoded bytes (PNG, JPEG) as found; ``role`` is ``train``, ``test`` or ``any``.

    With instance pairing the role is ``any``: a picture plays the role of the trials that show it.
    """

    stimulus_id: str
    concept: str
    image: bytes
    role: str = "any"


@dataclass(frozen=True)
class Prepared:
    """What a converter returns; ``prepare`` writes it down.

    Attributes:
        eeg: (n_trials, n_channels, n_times) float32 volts, or a list of such blocks in order.
        trials: Columns of equal length; ``trial_id`` unique and derived from the source, so stable on anyone's copy.
        splits: Cut from exactly these trials.
        source: sha256 by name of the files that were read (names that tell nobody's identity).
        report: Sentences for the user: what was skipped, repaired, partial.
        complete: False for a copy that lacks recordings of the published corpus.
    """

    spec: EEGSpec
    eeg: np.ndarray
    trials: Mapping[str, np.ndarray]
    concepts: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]
    stimuli_source: str
    splits: tuple[Split, ...]
    source: Mapping[str, str] = field(default_factory=dict)
    report: tuple[str, ...] = ()
    complete: bool = True

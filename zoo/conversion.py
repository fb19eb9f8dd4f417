"""Original checkpoint → weights folder with a receipt. Readers never execute what they read."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import __version__, registry, weights
from zoo.errors import MissingError, UsageError
from zoo.store import digest


def convert(model: str, source: Path) -> tuple[Path, dict[str, Any]]:
    """Convert the original checkpoint of a model family and check it by a forward pass.

    Returns:
        The weights folder, and the receipt: sha256 of every source file, converter version, largest differences between
        the converted network and an independent float64 evaluation of the original arrays.

    Raises:
        UsageError: There is nothing at ``source``, or the model has no original checkpoint.
        MissingError: There is no converter for this family, or a file of the checkpoint is missing.
        IntegrityError: The checkpoint is damaged, or the forward check fails.
    """
    card = registry.models.get(model)
    if card.builder is None:
        raise weights.announced(card)
    if card.eeg is None:
        raise UsageError(f"{card.id} adapts to its dataset and has no original checkpoint; convert {card.family}.")
    try:
        family = registry.load_object(f"zoo.models.convert.{card.family.replace('-', '_')}:convert")
        check = registry.load_object(f"zoo.models.convert.{card.family.replace('-', '_')}:forward_check")
    except ModuleNotFoundError as error:
        raise MissingError(f"{card.family} has no converter in this release (eeg-image-zoo {__version__}).") from error
    if not source.exists() and not any(source.parent.glob(f"{glob.escape(source.name)}.*")):
        raise UsageError(
            f"--from must be a checkpoint folder or prefix that exists, but {source} does not; check its spelling."
        )
    converted = family(source)
    receipt = {
        "source_sha256": dict(converted.source_sha256),
        "converter_version": converted.converter_version,
        "zoo": __version__,
        "counters": {key: float(value) for key, value in converted.counters.items()},
        "forward_check": check(converted),
    }
    state = {key: torch.from_numpy(np.asarray(value, order="C")) for key, value in converted.state.items()}
    name = f"converted-{digest(receipt['source_sha256'])[:8]}"
    folder, _ = weights.save_state(
        state,
        {
            "model": card.id,
            "name": name,
            "config": {**card.preset, **converted.config},
            "eeg": card.eeg,
            "parts": converted.parts,
            "source": "converted",
            "trained_on": card.trained_on,
            "selection": "as published",
            "receipt": receipt,
        },
    )
    return folder, receipt

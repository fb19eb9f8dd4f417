"""Original checkpoints → named tensors: one file per format reads bytes, one per family maps names; none runs code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Converted:
    """A checkpoint under torch's names, ready to be written as safetensors.

    Attributes:
        family: Module name under ``zoo.models`` whose ``build`` takes these tensors.
        state: Tensors by ``part.key``, complete for every part named in ``parts``.
        parts: Which of ``Model.parts()`` the checkpoint holds.
        config: Overrides of the family's config that its shapes and values ask for.
        counters: What the checkpoint says of its own training (steps, saves), under its own names.
        source_sha256: sha256 by file name of everything the tensors were read from.
        converter_version: Changes whenever the same checkpoint would convert to other tensors.
    """

    family: str
    state: Mapping[str, np.ndarray]
    parts: tuple[str, ...]
    config: Mapping[str, Any]
    source_sha256: Mapping[str, str]
    converter_version: str
    counters: Mapping[str, int | float] = field(default_factory=dict)

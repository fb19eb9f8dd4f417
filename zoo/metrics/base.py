"""What every metric shares: the score, the checks before it, the signature that says how it was computed. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from zoo import packaged
from zoo.errors import UnknownNameError, UsageError
from zoo.metrics.rows import check_rows
from zoo.registry import read_yaml
from zoo.specs import ExtractorCard, MetricCard


@dataclass(frozen=True)
class Score:
    """A value and what its interval needs.

    Attributes:
        per_unit: (n_samples,) one value per sample, whose mean is ``value``; None where samples have no value of their
            own (a distance between two sets).
        detail: Side results by name (floors, ceilings, what was selected).
    """

    value: float
    per_unit: np.ndarray | None = None
    detail: Mapping[str, float] = field(default_factory=dict)


def hits(correct: np.ndarray, **detail: float) -> Score:
    """Accuracy from one bool per sample, kept per sample."""
    per_unit = correct.astype(np.float64)
    return Score(float(per_unit.mean()), per_unit, detail)


def check_features(*, min_n: int = 1, **named: ArrayLike) -> tuple[np.ndarray, ...]:
    """The arrays as float64, in the order given, once they can be compared.

    Shape:
        each: (n_samples, n_features), at least ``min_n`` rows, the same width in all, every value finite.
    Raises:
        UsageError: One of that does not hold; the sentence names the array.
    """
    arrays = {name: np.asarray(given, dtype=np.float64) for name, given in named.items()}
    check_rows(min_n=min_n, **arrays)
    return tuple(arrays.values())


def check_labels(name: str, labels: ArrayLike, n: int, n_classes: int | None = None) -> np.ndarray:
    """Labels as (n,) int64, each in 0..n_classes-1.

    Raises:
        UsageError: Not whole numbers, not one per row, or out of range.
    """
    array = np.asarray(labels)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise UsageError(
            f"{name} must be {n} whole numbers, one per row, but is {array.dtype} of shape {array.shape}; "
            "pass the concept index of every sample."
        )
    top = np.inf if n_classes is None else n_classes
    if n and (array.min() < 0 or array.max() >= top):
        span = "0 or more" if n_classes is None else f"in 0..{n_classes - 1}"
        raise UsageError(f"{name} must be {span} but spans {array.min()}..{array.max()}; pass concept indices.")
    return array.astype(np.int64)


def signature(card: MetricCard, extractor: ExtractorCard | None = None, **facts: str | int) -> str:
    """Everything that moves the number, as one line; scores are comparable when their signatures are equal.

    Facts are sorted by name, so one set of facts has one spelling.

    Raises:
        UsageError: The extractor is not the card's, or a fact holds ``|`` or ``:``.

    Example:
        >>> from zoo.registry import metrics
        >>> signature(metrics.get("fid"), extractor_card("inception-2015-12-05"), n=1997, ref="test")
        'fid|inception-2015-12-05@6726825d|resize:tf-bilinear|n:1997|ref:test|v1'
    """
    given = extractor.id if extractor else None
    if given != card.extractor:
        raise UsageError(
            f"{card.id} is computed with extractor {card.extractor} but got {given}; pass its own extractor."
        )
    parts = [card.id]
    if extractor:
        mark = f"@{extractor.file.sha256[:8]}" if extractor.file else ""
        parts += [f"{extractor.id}{mark}", f"resize:{extractor.resize}"]
    for name, fact in sorted(facts.items()):
        if set("|:") & set(str(fact)):
            raise UsageError(f"a signature's {name} must not contain '|' or ':' but is {fact!r}; name it otherwise.")
        parts.append(f"{name}:{fact}")
    return "|".join([*parts, f"v{card.version}"])


@cache
def extractor_cards() -> tuple[ExtractorCard, ...]:
    """Every extractor there is, from ``extractors.yaml``."""
    entries = read_yaml(Path(__file__).with_name("extractors.yaml"))
    return tuple(ExtractorCard.model_validate(entry) for entry in entries)


def extractor_card(name: str) -> ExtractorCard:
    """The extractor called ``name``.

    Raises:
        UnknownNameError: There is none; the message lists those there are.
    """
    cards = {card.id: card for card in extractor_cards()}
    if name not in cards:
        raise UnknownNameError(f"unknown extractor {name!r}; the extractors are: {', '.join(sorted(cards))}.")
    return cards[name]


def weights_path(card: ExtractorCard) -> Path | None:
    """Path of the extractor's verified weights on this machine, None if it has none; downloads nothing.

    Raises:
        MissingError: They are not here; the message names the command that brings them.
        IntegrityError: They are here but their sha256 is not the pinned one.
    """
    return None if card.file is None else packaged.find(card.file, card.id, bring=f"zoo weights pull {card.id}")

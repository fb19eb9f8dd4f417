"""Bring everything that evaluations need, before they run where there is no network. No torch.

Datasets are generated or pulled as their licence allows, weights are those that cards pin, extractors those of the
tracks' metrics and of the models' training. What cannot be brought is named with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from zoo import hub, modelrepo, registry, weights
from zoo.datasets import base as data_room
from zoo.errors import MissingError
from zoo.metrics.base import extractor_cards, weights_path
from zoo.plan import Progress, Say
from zoo.specs import DatasetCard, ExtractorCard, ModelCard, Weights


@dataclass(frozen=True)
class Need:
    """Something that evaluations of these models on these datasets need.

    Attributes:
        size: Bytes to fetch, where the card says so.
        missing: Why it is not here and what to do; None if it is here.
        bring: Fetches it; None where only its user can.
    """

    kind: Literal["dataset", "weights", "extractor"]
    name: str
    size: int | None
    missing: str | None
    bring: Callable[[], object] | None = None


def needs(models: Sequence[ModelCard], datasets: Sequence[DatasetCard], progress: Progress, say: Say) -> list[Need]:
    """Everything, whether it is here or not."""
    return [
        *(_dataset(card, progress) for card in datasets),
        *_weights(models, datasets, progress, say),
        *(_extractor(card, progress) for card in _extractors(models, datasets)),
    ]


def _dataset(card: DatasetCard, progress: Progress) -> Need:
    from zoo.datasets.pulling import pull

    try:
        data_room.load(card.id)  # a generated one is made on the way
    except MissingError as error:
        may = card.hub is not None and card.hosts != "splits" and card.terms is None
        return Need("dataset", card.id, None, str(error), (lambda: pull(card.id, progress=progress)) if may else None)
    return Need("dataset", card.id, None, None)


def _weights(
    models: Sequence[ModelCard], datasets: Sequence[DatasetCard], progress: Progress, say: Say
) -> Iterator[Need]:
    wanted = {card.id for card in datasets}
    for card in models:
        for published in (pinned for pinned in card.weights if pinned.dataset in wanted):
            here = any(info.sha256 == published.sha256 for _, info in weights.available(card.id))
            missing = None if here else f"weights {published.name} of {card.id} are not on this machine."

            def bring(card: ModelCard = card, published: Weights = published) -> object:
                return modelrepo.pull_pinned(card, published, say=say, progress=progress)

            yield Need("weights", f"{card.id} {published.name}", None, missing, bring)


def _extractors(models: Sequence[ModelCard], datasets: Sequence[DatasetCard]) -> list[ExtractorCard]:
    """Those that metrics of the datasets' tracks look with, and those that presets of the models name."""
    tasks, places = {card.task for card in models}, {card.id for card in datasets}
    tracks = [track for track in registry.tracks.cards() if track.task in tasks and track.dataset in places]
    metrics = {name for track in tracks for name in track.metrics}
    wanted = {registry.metrics.get(name).extractor for name in metrics}
    wanted |= {value for card in models for value in card.preset.values() if isinstance(value, str)}
    return [card for card in extractor_cards() if card.id in wanted and card.file is not None]


def _extractor(card: ExtractorCard, progress: Progress) -> Need:
    file = card.file
    assert file is not None
    try:
        weights_path(card)
    except MissingError as error:
        packaged = (file.url or "").startswith("package:")
        bring = None if packaged else (lambda: hub.fetch(file, progress=progress))
        return Need("extractor", card.id, file.size, str(error), bring)
    return Need("extractor", card.id, file.size, None)

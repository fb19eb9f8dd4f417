"""Bring everything that evaluations need, before they run where there is no network. No torch.

Datasets are generated or pulled as their licence allows, weights are those that cards pin, extractors those of the
tracks' metrics and of the models' training. What cannot be brought is named with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo import hub, modelrepo, registry, weights
from zoo.datasets import base as data_room
from zoo.errors import MissingError, UnknownNameError
from zoo.metrics.base import extractor_card, extractor_cards, weights_path
from zoo.packaged import PACKAGED
from zoo.plan import Progress, Say
from zoo.specs import DatasetCard, ModelCard, Weights

SETTINGS = ("backbone", "image_network")
"""Of models, that name a frozen network with pinned weights; ``extractor`` names one by its extractor."""


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
        *(_extractor(name, progress) for name in _extractors(models, datasets)),
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


def _extractors(models: Sequence[ModelCard], datasets: Sequence[DatasetCard]) -> list[str]:
    """Those that metrics of the datasets' tracks look with, and those with the weights of models' frozen networks."""
    tasks, places = {card.task for card in models}, {card.id for card in datasets}
    tracks = [track for track in registry.tracks.cards() if track.task in tasks and track.dataset in places]
    wanted = {registry.metrics.get(name).extractor for track in tracks for name in track.metrics}
    wanted |= {name for card in models for name in frozen(card)}
    return sorted(name for name in wanted if name is not None)


def frozen(model: ModelCard) -> Iterator[str]:
    """Extractors with the weights of the networks that a model trains with, as its preset names them."""
    named = [model.preset.get(setting) for setting in SETTINGS]
    backbones = {
        entry["id"]: entry for entry in registry.read_yaml(Path(registry.__file__).with_name("backbones.yaml"))
    }
    for name in (name for name in named if name is not None and model.preset.get("pretrained", True)):
        file = backbones.get(name, {}).get("file")
        if file is not None:
            yield next(card.id for card in extractor_cards() if card.file and card.file.sha256 == file["sha256"])
    if "extractor" in model.preset:
        yield model.preset["extractor"]


def _extractor(name: str, progress: Progress) -> Need:
    try:
        card = extractor_card(name)
        weights_path(card)
    except UnknownNameError:
        return Need("extractor", name, None, "it is not in this release; what needs it cannot be computed")
    except MissingError as error:
        file = card.file
        assert file is not None
        packaged = (file.url or "").startswith(PACKAGED)
        bring = None if packaged else (lambda: hub.fetch(file, progress=progress))
        return Need("extractor", name, file.size, str(error), bring)
    return Need("extractor", name, card.file.size if card.file else None, None)

"""Names → cards. Listing reads YAML and entry-point metadata only; code is imported when something is built."""

from __future__ import annotations

import importlib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from zoo import store
from zoo.errors import UnknownNameError, ZooError, did_you_mean
from zoo.specs import DatasetCard, MetricCard, ModelCard, TrackCard

Card = TypeVar("Card", ModelCard, DatasetCard, MetricCard, TrackCard)
PACKAGE = Path(__file__).parent


class Registry(Generic[Card]):
    """Cards of one kind: YAML files of a folder, and those of installed plugins (entry-point group ``zoo.<kind>s``).

    Datasets also have those that lie beside prepared ones (``here``), which never stand for a packaged one.

    A plugin's entry point names a card object, or a list of them; it is imported only when its name is asked for or
    everything is listed. A broken one is kept in ``broken`` and never stops the rest.
    """

    def __init__(self, kind: str, card: type[Card], pattern: str, here: str | None = None) -> None:
        self.kind = kind
        self._card: type[Card] = card
        self._pattern = pattern
        self._here = here
        self._added: dict[str, Card] = {}
        self.broken: dict[str, str] = {}

    def add(self, card: Card) -> Card:
        """Register a card for this process, e.g. from a notebook or a test."""
        if card.id in self._all():
            raise ZooError(f"{self.kind} {card.id!r} is registered already; give this one another id.")
        self._added[card.id] = card
        return card

    def names(self) -> list[str]:
        return sorted(self._all())

    def cards(self) -> list[Card]:
        return [card for _, card in sorted(self._all().items())]

    def find_broken(self) -> dict[str, str]:
        """Plugins that cannot be loaded, with what went wrong."""
        self._plugins()
        return dict(self.broken)

    def get(self, name: str, *, here: bool = True) -> Card:
        """The card called ``name`` or having it as an alias; without ``here`` not one that only lies in the cache.

        Raises:
            UnknownNameError: Nothing is called so; the message suggests what is.
        """
        cards = self._all() if here else {**self._plugins(), **self._packaged(), **self._added}
        if name in cards:
            return cards[name]
        for card in cards.values():
            if name in card.aliases:
                return card
        raise UnknownNameError(f"unknown {self.kind} {name!r}{did_you_mean(name, cards)} See 'zoo list {self.kind}s'.")

    def _all(self) -> dict[str, Card]:
        return {**self._found_here(), **self._plugins(), **self._packaged(), **self._added}

    def _found_here(self) -> dict[str, Card]:
        """Cards that lie beside what they describe in the cache: a user's own datasets, and pulled ones."""
        if self._here is None:
            return {}
        cards: dict[str, Card] = {}
        for path in sorted(store.cache_dir().glob(self._here)):
            try:
                card = self._card.model_validate_json(path.read_bytes())
            except ValidationError as error:
                self.broken[str(path)] = f"{type(error).__name__}: {error}"
            else:
                cards[card.id] = card
        return cards

    @cache  # noqa: B019 - one instance per kind lives as long as the process
    def _packaged(self) -> dict[str, Card]:
        cards: dict[str, Card] = {}
        for path in sorted(PACKAGE.glob(self._pattern)):
            for entry in read_yaml(path):
                try:
                    card = self._card.model_validate(entry)
                except ValidationError as error:
                    raise ZooError(f"{path.name} holds an invalid {self.kind} card: {error}") from error
                if card.id in cards:
                    raise ZooError(f"{self.kind} {card.id!r} stands twice, the second time in {path.name}.")
                cards[card.id] = card
        return cards

    @cache  # noqa: B019
    def _plugins(self) -> dict[str, Card]:
        cards: dict[str, Card] = {}
        for point in metadata.entry_points(group=f"zoo.{self.kind}s"):
            try:
                found = point.load()
                for card in found if isinstance(found, list | tuple) else [found]:
                    if card.id in cards or card.id in self._packaged():
                        raise ZooError(f"{self.kind} {card.id!r} is registered already; give this one another id.")
                    cards[card.id] = self._card.model_validate(card)
            except Exception as error:  # a stranger's package may fail in any way; `zoo doctor` shows it
                self.broken[f"{point.name} ({point.value})"] = f"{type(error).__name__}: {error}"
        return cards


def read_yaml(path: Path) -> list[dict[str, Any]]:
    """A YAML file as a list of mappings; constructs plain data only."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader, the fast one
    return content if isinstance(content, list) else [content] if content else []


def load_object(where: str) -> Any:
    """The object at ``module:attribute``."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


models = Registry("model", ModelCard, "models/*.yaml")
datasets = Registry("dataset", DatasetCard, "datasets/*.yaml", here="datasets/*/card.json")
metrics = Registry("metric", MetricCard, "metrics/cards/*.yaml")
tracks = Registry("track", TrackCard, "tracks/*.yaml")

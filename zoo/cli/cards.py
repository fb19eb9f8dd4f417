"""What there is: cards of models, datasets, metrics, tracks and extractors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from zoo.cli.common import Json, group, print_json, print_yaml

app = group("What there is.")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="models, datasets, metrics, tracks or extractors.")], as_json: Json = False
) -> None:
    """List models, datasets, metrics, tracks or extractors."""
    from zoo.errors import UsageError
    from zoo.store import cache_dir

    kinds = _kinds()
    if what not in kinds:
        raise UsageError(f"zoo list takes models, datasets, metrics, tracks or extractors, not {what!r}.")
    cards = kinds[what]()
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    width = max(34, *(len(card.id) for card in cards))
    here = {path.parent.name for path in cache_dir("datasets").glob("*/dataset.json")} if what == "datasets" else set()
    for card in cards:
        announced = getattr(card, "builder", "") is None or getattr(card, "loader", "") is None
        note = "announced, not in this release" if announced and card.id not in here else _about(card)
        sys.stdout.write(f"{card.id:<{width}} {note}\n")


def _kinds() -> dict[str, Callable[[], list[Any]]]:
    """Everything that has a card, by the word of ``zoo list``."""
    from zoo import registry

    def extractors() -> list[Any]:
        from zoo.metrics.base import extractor_cards  # imports numpy, which no other list needs

        return list(extractor_cards())

    return {
        "models": registry.models.cards,
        "datasets": registry.datasets.cards,
        "metrics": registry.metrics.cards,
        "tracks": registry.tracks.cards,
        "extractors": extractors,
    }


def _about(card: Any) -> str:
    """One line on a card."""
    if hasattr(card, "headline"):
        return f"{card.dataset}, {card.split}, headline {card.headline}"
    return str(card.title)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A model, dataset, metric, track or extractor.")], as_json: Json = False
) -> None:
    """Show the card of a model, dataset, metric, track or extractor."""
    from zoo.errors import UnknownNameError, did_you_mean

    cards: dict[str, Any] = {}
    for kind in _kinds().values():
        cards |= {called: card for card in kind() for called in (card.id, *getattr(card, "aliases", ()))}
        if name in cards:
            break
    else:
        raise UnknownNameError(
            f"nothing is called {name!r}{did_you_mean(name, cards)} "
            "See 'zoo list models', datasets, metrics, tracks and extractors."
        )
    if as_json:
        print_json(cards[name].model_dump(mode="json"))
    else:
        print_yaml(cards[name].model_dump(mode="json", exclude_defaults=True))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, cache, what is prepared here, plugins that failed; remove what killed runs left in the cache."""
    from zoo import __version__, provenance, registry
    from zoo.hub import offline
    from zoo.metrics.base import extractor_cards
    from zoo.store import cache_dir, sweep

    count, size = sweep(cache_dir())
    found = {
        "zoo": __version__,
        "cache": str(cache_dir()),
        "offline": offline(),
        "packages": provenance.versions(),
        "hardware": provenance.cpu_name(),
        "datasets": sorted(path.parent.name for path in cache_dir("datasets").glob("*/dataset.json")),
        "weights": sorted(
            f"{path.parent.parent.name}/{path.parent.name}" for path in cache_dir("weights").glob("*/*/weights.json")
        ),
        "extractors": {card.id: _here(card) for card in extractor_cards()},
        "broken plugins": {
            name: why
            for kind in (registry.models, registry.datasets, registry.metrics, registry.tracks)
            for name, why in kind.find_broken().items()
        },
        "unfinished files removed": {"count": count, "bytes": size},
    }
    if as_json:
        print_json(found)
    else:
        print_yaml(found)


def _here(card: Any) -> str:
    from zoo.errors import MissingError
    from zoo.metrics.base import weights_path

    try:
        weights_path(card)
    except MissingError as error:
        return str(error).replace("\n", " ")
    return "here"

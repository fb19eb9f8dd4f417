"""zoo: the reference model zoo and benchmark for EEG → image and image → EEG.

Importing it imports nothing heavy; every function imports what it needs when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.models.base import Model
    from zoo.record import Record

__version__ = "0.3.0"
__all__ = ["evaluate", "generate", "list_datasets", "list_metrics", "list_models", "list_tracks", "load", "train"]
_Result = TypeVar("_Result")


def list_models() -> list[str]:
    """Ids of all models, announced ones included."""
    from zoo import registry

    return registry.models.names()


def list_datasets() -> list[str]:
    """Ids of all datasets, announced ones included."""
    from zoo import registry

    return registry.datasets.names()


def list_metrics() -> list[str]:
    """Ids of all metrics."""
    from zoo import registry

    return registry.metrics.names()


def list_tracks() -> list[str]:
    """Ids of all tracks, ``task/dataset.split@N``."""
    from zoo import registry

    return registry.tracks.names()


def load(model: str, *, weights: str | Path | None = None, device: str = "auto") -> Model:
    """The model called ``model`` with trained weights, ready for inference.

    Weights are fetched once, checked by their sha256 every time, loaded strictly, and the model must make of noise what
    it made when they were saved. After the first time nothing is asked of the network.

    Args:
        model: An id of ``list_models()``.
        weights: Which ones: ``"hf-hub:organisation/name@revision"`` for a model repo on the Hub, the path of a weights
            folder, or a name (of weights in the cache, or of those that the model's card pins). If omitted or None,
            those that the card pins, and where it pins none, the newest made on this machine; so to use weights you
            trained of a model that has pinned ones, name them.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UnknownNameError: No such model; the message suggests one.
        MissingError: The weights are not here and cannot be fetched; the message names the command that brings them.
        UsageError: No weights are called so, or they are of another model.
        IntegrityError: They are damaged, not the pinned ones, or do not fit the model.
    """
    from zoo.plan import load_model

    return load_model(model, weights=weights, device=device)[0]


def train(model: str, dataset: str, *, quiet: bool = False, **options: Any) -> Path:
    """Train a model on a dataset's split and return its weights folder; see ``zoo.runner.train``.

    Args:
        quiet: Show no progress on stderr; a ``progress`` of your own is called in its place.
    """
    from zoo.runner import train as run

    return _watched(run, model, dataset, quiet, options)


def evaluate(model: str | Model, dataset: str, *, quiet: bool = False, **options: Any) -> Record:
    """Evaluate a model, by name or as an instance, on a dataset's split.

    The record lies under ``output_dir``, or on this machine's board, as ``records/{record.name}``.

    Args:
        model: A name, or an instance of a class of ``zoo.models.base`` (docs/adding.md).
        dataset: A prepared dataset, or a track of one.
        quiet: As for ``train``.
        options: ``split``, ``output_dir``, ``again``, ``weights``, ``seed``, ``replicates``, ``limit`` (makes a partial
            record), ``metrics`` (that must be measurable here), ``device``, ``batch_size``, ``shard``, ``progress``,
            ``say``; see ``zoo.runner.evaluate``.
    """
    from zoo.runner import evaluate as run

    return _watched(run, model, dataset, quiet, options)


def generate(model: str | Model, dataset: str, *, quiet: bool = False, **options: Any) -> Path:
    """Write the images that a model makes of a split's trials and return their folder; see ``zoo.samples.generate``.

    Args:
        quiet: As for ``train``.
    """
    from zoo.samples import generate as run

    return _watched(run, model, dataset, quiet, options)


def _watched(run: Callable[..., _Result], model: Any, dataset: str, quiet: bool, options: dict[str, Any]) -> _Result:
    from zoo.progress import shown

    with shown(quiet or "progress" in options) as progress:
        return run(model, dataset, **{"progress": progress, **options})

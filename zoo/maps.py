"""``zoo map``: where a model puts recordings, and the pictures if they lie in the same space, as a picture of two axes.

Features of unit length are laid out by t-SNE. A map shows neighbourhoods: neither the distance of clusters, nor their
size, nor their number is to be read off it, and no score is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo.brains import encoding
from zoo.errors import UsageError
from zoo.plan import Plan, make_plan
from zoo.plots import map_plot
from zoo.queries import Queries
from zoo.runner import require_writable

if TYPE_CHECKING:
    from zoo.models.base import Model

MOST = 1000
"""Recordings on a map, chosen by the hash of their trials' ids."""
COLOURS = 20
"""As many groups can be told apart."""
PERPLEXITY = 30
"""As in the maps of the papers; of few points, a third of their number."""


def draw_map(
    model: str | Model,
    dataset: str,
    path: Path,
    *,
    by: Literal["concept", "subject"] | None = None,
    limit: int = MOST,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Draw the test recordings of a split in a model's space as PNG, and return its path.

    Of a model that retrieves, recordings are the means over repetitions that an evaluation looks up, and the pictures
    of the gallery stand beside them.

    Args:
        model: A registry id, or an ``EEGEncoder`` instance.
        dataset: The id of a prepared dataset, or a track of one.
        by: What colours mean; the concept if omitted, or the subject where there are more than 20 concepts.
        limit: Most recordings.
        seed: Of the weights, and of the map.
        options: ``split``, ``weights``, ``device``, ``batch_size``, ``progress``, ``say``: see ``make_plan``.

    Raises:
        UsageError: The model reads no EEG, there are fewer than four recordings, or ``path`` cannot be written.
        MissingError: Data or weights are not here; the message names the command that brings them.
    """
    if by not in (None, "concept", "subject"):
        raise UsageError(f"by must be concept or subject, not {by!r}.")
    plan = make_plan(model, dataset, seed=seed, **options)
    if plan.no_eeg is not None:
        raise UsageError(f"a map needs a model that reads EEG, but {plan.no_eeg}; name another.")
    require_writable(path.absolute().parent)
    features, names, pictures = _placed(plan, by, limit)
    plan.work.progress(0, 1, "laying out the map")
    points = tsne(np.concatenate([features, pictures]), seed=seed)
    title = f"{plan.info.model} on {plan.data.id} {plan.split.id}, t-SNE of {len(features)} recordings"
    map_plot(points[: len(names)], names, path, pictures=points[len(names) :], title=title)
    return path


def _placed(plan: Plan, by: str | None, limit: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Features of recordings (n, d), the group of each, and pictures in the same space (m, d), none or all."""
    data, pictures = plan.data, np.empty((0, 0), np.float32)
    if plan.facts.retrieves and plan.no_gallery is None:
        queries = Queries(replace(plan, track=plan.track.model_copy(update={"controls": ()})))
        asked = queries.asked["mean"]
        first = np.array([group[0] for group in asked.groups])
        kept = np.flatnonzero(np.isin(first, plan.by_hash(first, limit)))
        means = queries.side("model").arrays["mean_queries"]()
        features, rows, pictures = means[kept], first[kept], queries.gallery
    else:
        rows = plan.by_hash(plan.test_rows, limit)
        features = encoding(plan, rows)()
    concepts = data.labels[rows]
    if by is None:
        by = "concept" if len(np.unique(concepts)) <= COLOURS else "subject"
    column = [data.concepts[label] for label in concepts] if by == "concept" else data.trials["subject"][rows].tolist()
    return features, [str(name or "unknown") for name in column], pictures.reshape(-1, features.shape[1])


def tsne(features: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Two coordinates of every row, by t-SNE of cosines from the first two principal components on.

    Shape:
        features: (n, n_features), n >= 4; returns: (n, 2) float32.
    Raises:
        UsageError: There are fewer than four rows, or a value is not finite.

    References:
        van der Maaten and Hinton (2008), https://jmlr.org/papers/v9/vandermaaten08a.html.
    """
    from sklearn.manifold import TSNE

    if len(features) < 4 or not np.isfinite(features).all():
        raise UsageError(f"a map needs four recordings or more with finite features, but there are {len(features)}.")
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(length > 0, length, 1)
    near = min(PERPLEXITY, (len(unit) - 1) / 3)
    laid: np.ndarray = TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(unit)
    return laid

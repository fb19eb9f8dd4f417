"""How the areas of a network order pictures beside how EEG does, time by time: the evaluation of ReAlnet's paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import UsageError
from zoo.metrics.encoding import half_splits, representational_similarity, rsa_over_time
from zoo.plan import make_plan
from zoo.responses import Responses


@dataclass(frozen=True)
class AreaSimilarity:
    """Spearman correlations of dissimilarity matrices of test pictures.

    Attributes:
        times: (n_times,) seconds from stimulus onset.
        values: (n_people, n_areas, n_times), a person's network with the mean responses of that person.
        ceiling: (n_people, n_times), halves of a person's repetitions with each other.
    """

    people: tuple[str, ...]
    areas: tuple[str, ...]
    times: np.ndarray
    values: np.ndarray
    ceiling: np.ndarray


def area_similarity(model: Any, dataset: str, **options: Any) -> AreaSimilarity:
    """Compare the areas of a network that has ``activations`` (ReAlnet, CORnet-S) with EEG of the test role.

    Args:
        model: A registry id or a model.
        options: ``split``, ``weights``, ``seed``, ``device``: see ``zoo.plan.make_plan``.

    Raises:
        UsageError: The model has no areas, or test trials have no pictures of their own.
        MissingError: Data or weights are not here.
    """
    import torch

    plan = make_plan(model, dataset, **options)
    net: Any = plan.model
    if not hasattr(net, "activations"):
        raise UsageError(f"{plan.info.model} has no areas to compare with EEG; choose realnet or cornet-s.")
    if plan.no_pairs:
        raise UsageError(f"similarity of areas needs the picture of every trial, but {plan.no_pairs}.")
    data, spec = plan.data, plan.data.spec
    values, ceilings = [], []
    areas: tuple[str, ...] = ()
    groups = Responses(plan).groups
    for person, rows in groups.items():
        images = net.pixels(data.stimulus_pixels(list(rows)))
        known = person if person in plan.facts.subjects else None
        with torch.inference_mode():
            batches = [net.activations(part.to(plan.work.device), known) for part in images.split(net.micro_batch)]
        areas = batches[0]._fields[:-1]  # not the logits
        observed = np.stack([data.eeg[trials] for trials in rows.values()])
        seen = [np.concatenate([batch[k].flatten(1).cpu().numpy() for batch in batches]) for k in range(len(areas))]
        values.append([rsa_over_time(features=features, observed=observed) for features in seen])
        halves = half_splits(observed.shape[1], iterations=10)
        both = representational_similarity(predicted=observed.mean(axis=1), observed=observed, second_half=halves)
        ceilings.append(both.lower)
    times = spec.tmin + np.arange(spec.n_times) / spec.sfreq
    return AreaSimilarity(tuple(groups), areas, times, np.array(values), np.array(ceilings))

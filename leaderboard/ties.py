"""Which entries of a table are shown to differ: paired tests of all pairs on the trials they share.

Needs numpy, so a table imports it only where two entries came with their values per trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from leaderboard.units import Trials, read_units
from zoo.errors import ZooError
from zoo.record import Record
from zoo.stats import holm, smallest_p

Units = Callable[[Record], bytes | None]
"""The file of values per trial that lies beside a record, if there is one."""


def paired_p(records: Sequence[Record], units: Units) -> dict[frozenset[str], float]:
    """For every pair of one contest with values per trial, p that they are equal in the headline; by their runs.

    The mean difference of the trials that both have, over its cluster-robust standard error, as Student's t with
    G - 1 degrees of freedom; then Holm over all pairs, since nobody named one beforehand. The interval that ``compare``
    shows for a difference is of the same error. Error rates: docs/statistics.md.

    Returns:
        Nothing for a pair where one of the two has no such values, other trials than most, or one unit.
    """
    found = {record.run: trials for record in records if (trials := _headline(record, units)) is not None}
    groups: dict[tuple[bytes, bytes], list[str]] = {}
    for run, trials in found.items():
        groups.setdefault((trials.ids.tobytes(), trials.units.tobytes()), []).append(run)
    runs = max(groups.values(), key=len, default=[])
    if len(runs) < 2:
        return {}
    p = all_pairs(np.stack([found[run].values for run in runs]), found[runs[0]].units)
    if p is None:
        return {}
    return {frozenset((runs[i], runs[j])): float(p[i, j]) for i in range(len(runs)) for j in range(i)}


def all_pairs(values: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """Two-sided p of each pair of rows, corrected for the number of pairs (Holm 1979); None for fewer than two units.

    ``SE² = G/(G-1) · Σ_g (Σ_{i∈g} (d_i - mean d))² / n²`` as ``stats.cluster_error``, for all pairs at once.

    Shape:
        values: (m, n); units: (n,) labels; returns (m, m), 1 on the diagonal.
    """
    from scipy.special import stdtr

    _, group = np.unique(units, return_inverse=True)
    n_units, n = int(group.max()) + 1, group.size
    if n_units < 2:
        return None
    means = values.mean(axis=1)
    sums = np.stack([np.bincount(group, weights=row, minlength=n_units) for row in values - means[:, None]])
    gram = sums @ sums.T
    squares = np.diag(gram)
    variance = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0) * n_units / (n_units - 1) / n**2
    difference = np.abs(means[:, None] - means[None, :])
    scale = np.abs(values).max() or 1.0
    same, steady = difference <= 1e-12 * scale, variance <= (1e-12 * scale) ** 2
    t = difference / np.sqrt(np.where(steady, 1.0, variance))
    p = np.where(same, 1.0, np.where(steady, smallest_p(n_units), 2 * stdtr(n_units - 1, -t)))
    above = np.triu_indices(len(values), 1)
    corrected = np.ones_like(p)
    corrected[above] = holm(p[above])
    return np.minimum(corrected, corrected.T)


def _headline(record: Record, units: Units) -> Trials | None:
    """The model's headline per trial, in the order of trial ids."""
    value = record.values.get(record.headline)
    if record.units_sha256 is None or value is None or value.value is None:
        return None
    try:
        data = units(record)
        trials = None if data is None else read_units(data, record, where=record.name).get(("model", record.headline))
    except ZooError:  # what cannot be read takes no part; the record itself stands
        return None
    if trials is None:
        return None
    order = np.argsort(trials.ids, kind="stable")
    return Trials(trials.ids[order], trials.units[order], trials.values[order])

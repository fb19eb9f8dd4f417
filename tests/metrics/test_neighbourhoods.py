"""Precision, recall, density and coverage: counted by brute force in float64, and by torch-fidelity."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from zoo.errors import UsageError
from zoo.metrics import neighbourhoods
from zoo.metrics.base import Score
from zoo.metrics.neighbourhoods import coverage, density, precision, recall
from zoo.stages import Rows

Metric = Callable[..., Score]
ALL: list[Metric] = [precision, recall, density, coverage]


def clouds(n: int, m: int, width: int, seed: int = 0, *, shift: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1) ** -0.5
    return rng.standard_normal((n, width)) * scale + shift, rng.standard_normal((m, width)) * scale


def by_hand(x: np.ndarray, y: np.ndarray, k: int) -> dict[Metric, float]:
    """The definitions, on all distances at once."""
    far_x, far_y = (np.sort(cdist(rows, rows), axis=1)[:, k] for rows in (x, y))  # column 0 is the row itself
    between = cdist(x, y)
    in_real, in_generated = between <= far_y[None], between <= far_x[:, None]
    return {
        precision: in_real.any(1).mean(),
        recall: in_generated.any(0).mean(),
        density: in_real.sum(1).mean() / k,
        coverage: in_real.any(0).mean(),
    }


def scores(x: np.ndarray | Rows, y: np.ndarray | Rows, k: int = 3) -> dict[Metric, float]:
    return {metric: metric(generated=x, reference=y, k=k).value for metric in ALL}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "width"), [(6, 9, 2), (120, 90, 5), (90, 120, 64), (1030, 1026, 3), (2100, 40, 4)])
def test_values_are_counted_as_by_brute_force(n: int, m: int, width: int, k: int) -> None:
    """Some numbers of rows leave a last block with fewer rows than neighbours."""
    x, y = clouds(n, m, width)
    assert scores(x, y, k) == by_hand(x, y, k)


def test_points_of_a_line_are_counted_by_hand() -> None:
    x, y = np.array([[0.5], [3.0], [9.0]]), np.array([[0.0], [1.0], [2.0], [6.0]])
    # k = 1: real balls reach 1, 1, 1, 4 and generated ones 2.5, 2.5, 6
    assert precision(generated=x, reference=y, k=1).per_unit == pytest.approx([1, 1, 1])
    assert density(generated=x, reference=y, k=1).per_unit == pytest.approx(
        [2, 2, 1]
    )  # 3 lies on the edge of two balls
    assert coverage(generated=x, reference=y, k=1).value == 1
    assert recall(generated=x, reference=y, k=1).value == 1
    assert coverage(generated=x[2:].repeat(2, 0), reference=y, k=1).value == 1 / 4
    assert recall(generated=x[2:].repeat(2, 0), reference=y, k=1).value == 0  # balls of radius 0


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_are_those_of_torch_fidelity(k: int) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = clouds(300, 250, 48)
    theirs = prc_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), prc_neighborhood=k, verbose=False)
    assert precision(generated=x, reference=y, k=k).value == pytest.approx(
        theirs["precision"], rel=1e-6
    )  # float32 mean
    assert recall(generated=x, reference=y, k=k).value == pytest.approx(theirs["recall"], rel=1e-6)


# ---- rounding never decides


def test_whole_numbers_with_many_ties_are_exact() -> None:
    """On a grid half of all comparisons are between equal distances; the order of products must not matter."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (150, 6)).astype(float), rng.integers(0, 4, (130, 6)).astype(float)
    assert scores(x, y) == by_hand(x, y, 3)


@pytest.mark.parametrize("width", [3, 512])
def test_a_far_origin_hides_no_neighbour(width: int) -> None:
    """Products of these rows in float32 are off by more than all their distances."""
    x, y = clouds(80, 70, width)
    x, y = np.round(x * 2**20) / 2**20 + 2**20, np.round(y * 2**20) / 2**20 + 2**20  # differences stay exact
    assert scores(x, y) == by_hand(x, y, 3)


def test_two_narrow_modes_far_apart_are_resolved() -> None:
    x, y = clouds(80, 70, 16)
    x, y = 1e-4 * x, 1e-4 * y
    x[::2] += 1
    y[::2] += 1
    assert scores(x, y) == by_hand(x, y, 3)


@pytest.mark.parametrize("unit", [2.0**-70, 2.0**50])
def test_units_change_nothing(unit: float) -> None:
    x, y = clouds(60, 50, 8)
    assert scores(unit * x, unit * y) == scores(x, y)


def test_what_float32_cannot_hold_is_refused() -> None:
    x, y = clouds(60, 50, 8)
    with pytest.raises(
        UsageError, match=r"^features must have a squared length that fits float32 but one has \d\.\de\+"
    ):
        precision(generated=x * 1e19, reference=y)


# ---- properties


def test_a_set_is_wholly_within_itself() -> None:
    x, _ = clouds(200, 1, 32)
    assert scores(x, x.copy()) == {precision: 1, recall: 1, coverage: 1, density: 4 / 3}  # each ball holds k + 1 rows


def test_a_constant_generator_finds_one_place_at_most() -> None:
    _, y = clouds(1, 400, 8)
    constant = np.repeat(y[:1], 300, axis=0)
    assert precision(generated=constant, reference=y).value == 1
    assert recall(generated=constant, reference=y).value == 1 / 400
    assert coverage(generated=constant, reference=y).value < 0.2
    assert scores(constant + 50, y) == dict.fromkeys(ALL, 0)


def test_few_images_again_and_again_are_counted_as_by_brute_force() -> None:
    x, y = clouds(10, 90, 8)
    again = x.repeat(30, axis=0)[np.random.default_rng(0).permutation(300)]
    assert scores(again, y) == by_hand(again, y, 3)


def test_equal_distributions_have_the_expected_coverage_and_density() -> None:
    """Of 2N - 1 images that could be near a real one, the k nearest are all real by chance: about 2⁻ᵏ."""
    found = [scores(*clouds(100, 100, 16, seed, shift=0), k=5) for seed in range(60)]
    missed = np.prod([(100 - i) / (200 - i) for i in range(1, 6)])
    assert np.mean([score[coverage] for score in found]) == pytest.approx(1 - missed, abs=0.005)
    assert np.mean([score[density] for score in found]) == pytest.approx(1, abs=0.05)


def test_noise_only_takes_away() -> None:
    x, y = clouds(300, 300, 8, shift=0)
    noise = np.random.default_rng(1).standard_normal(x.shape)
    levels = [scores(x + level * noise, y) for level in (0, 0.5, 1, 2)]
    for metric in (precision, density, coverage):
        values = [level[metric] for level in levels]
        assert values == sorted(values, reverse=True)
        assert values[-1] < values[0] / 2


@pytest.mark.parametrize("metric", ALL)
def test_order_of_samples_changes_no_bit(metric: Metric) -> None:
    x, y = clouds(1100, 300, 6)
    order = np.random.default_rng(0).permutation(1100)
    whole, mixed = metric(generated=x, reference=y), metric(generated=x[order], reference=y[::-1])
    assert whole.value == mixed.value
    if whole.per_unit is not None and mixed.per_unit is not None:
        assert np.array_equal(whole.per_unit[order], mixed.per_unit)


@pytest.mark.parametrize("metric", [precision, density])
def test_an_image_keeps_its_value_in_every_shard(metric: Metric) -> None:
    x, y = clouds(90, 60, 6)
    whole = metric(generated=x, reference=y).per_unit
    shards = [metric(generated=part, reference=y).per_unit for part in (x[:10], x[10:])]
    assert whole is not None
    assert np.array_equal(whole, np.concatenate([shard for shard in shards if shard is not None]))
    assert metric(generated=x, reference=y).value == pytest.approx(whole.mean(), rel=1e-14)


def test_rows_on_disk_score_as_in_memory(tmp_path: Path) -> None:
    x, y = (part.astype(np.float32) for part in clouds(1100, 300, 6))
    paths = [tmp_path / f"{start}.npy" for start in range(0, 1100, 100)]
    for start, path in zip(range(0, 1100, 100), paths, strict=True):
        np.save(path, x[start : start + 100])
    assert scores(Rows(tuple(paths), 100, 1100), y) == scores(x.astype(float), y.astype(float))


# ---- one pass for all


def test_the_pairs_are_measured_once_for_all_four(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, passes = neighbourhoods._measured_overlap, []
    monkeypatch.setattr(neighbourhoods, "_measured_overlap", lambda *given: passes.append(1) or measured(*given))
    x, y = clouds(40, 30, 6, seed=77)
    before = scores(x, y)
    assert len(passes) == 1
    x[:20] += 9  # the same array with another content is another set
    assert scores(x, y) != before
    assert len(passes) == 2


def test_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbourhoods, "_KEPT", 3)
    monkeypatch.setattr(neighbourhoods, "_overlaps", {})
    for seed in range(5):
        precision(generated=clouds(9, 8, 2, seed)[0], reference=clouds(9, 8, 2)[1])
    assert len(neighbourhoods._overlaps) == 3


# ---- refusals


@pytest.mark.parametrize("metric", ALL)
def test_too_few_neighbours_are_refused(metric: Metric) -> None:
    x, y = clouds(9, 3, 2)
    sentence = "reference must have at least 4 rows but has 3; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(generated=x, reference=y, k=3)
    sentence = "generated must have at least 4 rows but has 0; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(generated=x[:0], reference=y, k=3)
    with pytest.raises(UsageError, match=r"^k must be at least 1 but is 0; 3 and 5 are what papers use\.$"):
        metric(generated=x, reference=y, k=0)


@pytest.mark.parametrize("metric", ALL)
def test_what_is_not_finite_or_not_comparable_is_refused(metric: Metric) -> None:
    x, y = clouds(9, 8, 2)
    x[3, 1] = np.nan
    sentence = "generated must be finite but 1 of 9 rows hold NaN or infinity; find out which broke."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(generated=x, reference=y)
    sentence = (
        "features must be equally wide but generated has 3, reference has 2; "
        "extract all of them with the same extractor."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        metric(generated=np.zeros((9, 3)), reference=y)

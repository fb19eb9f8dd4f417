"""Distances and the Inception Score: closed forms, properties, and torch-fidelity on the same features."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics.base import check_features, check_labels, extractor_card, signature
from zoo.metrics.fidelity import frechet_distance, inception_score, kernel_distance, kernel_distance_subsets
from zoo.specs import MetricCard

Distance = Callable[..., float]
DISTANCES: list[Distance] = [frechet_distance, kernel_distance]


def features(n: int, width: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Like Inception's: not negative, correlated, a spectrum that falls off."""
    rng = np.random.default_rng(99)
    mix = rng.standard_normal((width, width)) / np.sqrt(width) * np.arange(1, width + 1)[:, None] ** -0.5
    rows: np.ndarray = np.random.default_rng(seed).standard_normal((n, width)) @ mix + 0.2 + shift
    return np.asarray(np.clip(rows, 0, None))


def reference_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The formula by another road: symmetric root of one covariance, with every eigenvalue kept."""
    gap = x.mean(0) - y.mean(0)
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ s2 @ root)
    return float(gap @ gap + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(np.clip(inner, 0, None)).sum())


def exact_rank_one_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Two samples a side: both covariances have rank one, so the trace of the root is |u·v| by hand."""
    u, v = (x[1] - x[0]) / np.sqrt(2), (y[1] - y[0]) / np.sqrt(2)
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + u @ u + v @ v - 2 * abs(u @ v))


# ---- closed forms


def test_two_gaussians_have_the_closed_form_distance() -> None:
    """Whitened samples have exactly mean 0 and covariance 1, so scale and shift give the moments on purpose."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((400, 3))
    white = (white - white.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    x, y = white * [1.0, 2.0, 3.0], white[::-1] * [4.0, 2.0, 1.0] + [1.0, 0.0, -2.0]
    # |mu|² = 5; commuting covariances: Σ (sigma1 - sigma2)² = 9 + 0 + 4
    assert frechet_distance(generated=x, reference=y) == pytest.approx(18.0, rel=1e-12)


@pytest.mark.parametrize("width", [2, 64, 2048])
def test_two_samples_have_the_rank_one_distance(width: int) -> None:
    x, y = features(2, width, 1), features(2, width, 2)
    assert frechet_distance(generated=x, reference=y) == pytest.approx(exact_rank_one_frechet(x, y), rel=1e-12)


def test_kernel_distance_of_points_is_the_formula_by_hand() -> None:
    x, y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [2.0, 0.0]])
    k_xx = (1.0 + 1.5**3 + 1.5**3) / 3  # pairs of x: products 0, 1, 1
    k_yy = 1.0  # one pair, product 0
    k_xy = (1 + 2**3 + 1 + 1 + 1 + 2**3) / 6
    assert kernel_distance(generated=x, reference=y) == pytest.approx(k_xx + k_yy - 2 * k_xy, rel=1e-14)


def test_inception_score_spans_one_to_the_number_of_classes() -> None:
    certain = np.repeat(100.0 * np.eye(8), 5, axis=0)
    assert inception_score(logits=certain, splits=1)[0] == pytest.approx(8.0, rel=1e-9)
    assert inception_score(logits=np.zeros((40, 8)), splits=2) == pytest.approx((1.0, 0.0), abs=1e-12)
    assert inception_score(logits=np.tile(np.arange(8.0), (40, 1)), splits=2)[0] == pytest.approx(1.0, rel=1e-12)


def test_inception_score_of_sorted_images_collapses_without_shuffling() -> None:
    by_class = np.repeat(100.0 * np.eye(10), 10, axis=0)
    assert inception_score(logits=by_class, shuffle=False) == pytest.approx((1.0, 0.0), abs=1e-9)
    assert inception_score(logits=by_class)[0] > 4


# ---- singular covariances: fewer samples than features, dead features, copies


@pytest.mark.parametrize(("n", "m", "width"), [(20, 30, 64), (20, 300, 64), (300, 20, 64), (200, 300, 64)])
def test_every_route_agrees_with_the_symmetric_root(n: int, m: int, width: int) -> None:
    x, y = features(n, width, 1), features(m, width, 2, shift=0.1)
    value = frechet_distance(generated=x, reference=y)
    assert value == pytest.approx(reference_frechet(x, y), rel=1e-6)  # its noise eigenvalues limit the other road
    assert value == pytest.approx(frechet_distance(generated=y, reference=x), rel=1e-10)


def test_wide_features_are_as_exact_as_their_few_dimensions() -> None:
    """A rotation into 512 dimensions changes no distance, and makes every covariance singular."""
    x, y = features(300, 16, 1), features(250, 16, 2, shift=0.2)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((512, 16)))[0].T
    flat = frechet_distance(generated=x, reference=y)
    assert frechet_distance(generated=x @ turn, reference=y @ turn) == pytest.approx(flat, rel=1e-10)


def test_tall_sets_with_dead_features_are_exact() -> None:
    x, y = features(300, 16, 1), features(250, 16, 2, shift=0.2)
    dead = np.zeros((1, 8))
    padded = [np.hstack([part, np.repeat(dead, len(part), 0)]) for part in (x, y)]
    flat = frechet_distance(generated=x, reference=y)
    assert frechet_distance(generated=padded[0], reference=padded[1]) == pytest.approx(flat, rel=1e-9)


def test_the_gram_route_agrees_with_the_svd_route(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(700, 800, 1), features(650, 800, 2, shift=0.05)
    collapsed = x[np.random.default_rng(0).integers(0, 10, 700)]
    gram = [frechet_distance(generated=part, reference=y) for part in (x, collapsed)]
    monkeypatch.setattr("zoo.metrics.fidelity._EXACT_SVD", 10_000)
    svd = [frechet_distance(generated=part, reference=y) for part in (x, collapsed)]
    assert gram == pytest.approx(svd, rel=1e-6)
    assert gram != svd  # two routes were taken


# ---- properties


@pytest.mark.parametrize("n", [2, 50, 700])
def test_a_set_is_at_distance_zero_from_itself(n: int) -> None:
    x = features(n, 600, 1)
    assert abs(frechet_distance(generated=x, reference=x)) <= 1e-7
    assert (
        kernel_distance(generated=x, reference=x) <= 0
    )  # unbiased: pairs with oneself are left out within, not between


@pytest.mark.parametrize("distance", DISTANCES)
def test_order_of_samples_changes_nothing(distance: Distance) -> None:
    x, y = features(60, 32, 1), features(50, 32, 2)
    order = np.random.default_rng(0).permutation(60)
    value = distance(generated=x, reference=y)
    assert distance(generated=x[order], reference=y[::-1]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_noise_only_adds_distance(distance: Distance) -> None:
    x, noise = features(400, 32, 1), np.random.default_rng(0).standard_normal((400, 32))
    y = features(400, 32, 2)
    values = [distance(generated=x + level * noise, reference=y) for level in (0, 0.25, 0.5, 1, 2)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 1


def test_kernel_distance_is_unbiased_where_frechet_is_not() -> None:
    """Halves of one distribution: KID scatters around 0, FID stays above it, the more the fewer samples."""
    pairs = [(features(20, 32, seed), features(20, 32, 1000 + seed)) for seed in range(200)]
    kernel = np.array([kernel_distance(generated=x, reference=y) for x, y in pairs])
    assert abs(kernel.mean()) < 3 * kernel.std() / np.sqrt(200)
    few = np.mean([frechet_distance(generated=x, reference=y) for x, y in pairs])
    many = frechet_distance(generated=features(2000, 32, 1), reference=features(2000, 32, 2))
    assert few > 10 * many > 0


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(70, 32, 1), features(50, 32, 2)
    whole = kernel_distance(generated=x, reference=y)
    monkeypatch.setattr("zoo.metrics.fidelity._BLOCK", 16)
    assert kernel_distance(generated=x, reference=y) == pytest.approx(whole, rel=1e-12)


# ---- torch-fidelity, given the same features


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 48), (60, 80, 24)])
def test_frechet_distance_is_torch_fidelity_fid(n: int, m: int, width: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = features(n, width, 1), features(m, width, 2, shift=0.1)
    stats = [fid_features_to_statistics(torch.from_numpy(part)) for part in (x, y)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(generated=x, reference=y) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("n", "subset_size"), [(120, 100), (400, 20)])  # one kernel for all subsets; subset by subset
def test_kernel_distance_subsets_is_torch_fidelity_kid(n: int, subset_size: int) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = features(n, 48, 1), features(n + 30, 48, 2, shift=0.1)
    options = {"kid_subsets": 7, "kid_subset_size": subset_size, "rng_seed": 11, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    ours = kernel_distance_subsets(generated=x, reference=y, subsets=7, subset_size=subset_size, seed=11)
    expected = (theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"])
    assert ours == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_torch_fidelity_kid_on_one_full_subset() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = features(90, 48, 1), features(90, 48, 2, shift=0.1)
    options = {"kid_subsets": 1, "kid_subset_size": 90, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    assert kernel_distance(generated=x, reference=y) == pytest.approx(
        theirs["kernel_inception_distance_mean"], rel=1e-9
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_inception_score_is_torch_fidelity_isc(shuffle: bool) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * np.random.default_rng(0).standard_normal((73, 20))
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=5, shuffle=shuffle, rng_seed=7)
    ours = inception_score(logits=logits, splits=5, shuffle=shuffle, seed=7)
    assert ours == pytest.approx((theirs["inception_score_mean"], theirs["inception_score_std"]), rel=1e-9)


@pytest.mark.parity
def test_shared_features_score_as_in_torch_fidelity(shared: Path) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    with np.load(shared / "fixtures" / "metrics_parity.npz") as fixture:
        x, y = fixture["feat_recon"], fixture["feat_real"]
    stats = [fid_features_to_statistics(torch.from_numpy(part)) for part in (x, y)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert len(x) < x.shape[1]  # singular, where their root carries noise of about 1e-6
    assert frechet_distance(generated=x, reference=y) == pytest.approx(theirs, rel=1e-6)


# ---- refusals


REFUSED = [
    (np.zeros(4), "generated must be (n_samples, n_features) but has shape (4,); pass one row a sample."),
    (np.zeros((5, 0)), "generated must be (n_samples, n_features) but has shape (5, 0); pass one row a sample."),
    (np.zeros((0, 3)), "generated must have at least 2 rows but has 0; score more samples together."),
    (np.zeros((1, 3)), "generated must have at least 2 rows but has 1; score more samples together."),
    (
        np.array([[0, 1, 2], [0, np.nan, 2], [0, 1, np.inf]]),
        "generated must be finite but 2 of 3 rows hold NaN or infinity; find out which broke.",
    ),
    (
        np.zeros((5, 4)),
        "features must be equally wide but generated has 4, reference has 3; "
        "extract all of them with the same extractor.",
    ),
]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("generated", "sentence"), REFUSED)
def test_what_has_no_distance_is_refused(distance: Distance, generated: np.ndarray, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        distance(generated=generated, reference=np.zeros((5, 3)))


def test_inception_score_needs_two_images_a_split() -> None:
    sentence = "logits must have at least 20 rows but has 19; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        inception_score(logits=np.zeros((19, 5)))
    sentence = "inception_score needs at least 1 split but got 0; 10 is what papers use."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        inception_score(logits=np.zeros((19, 5)), splits=0)


def test_subsets_must_fit_into_the_set() -> None:
    x = features(30, 8, 1)
    sentence = "reference must have at least 31 rows but has 30; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        kernel_distance_subsets(generated=features(40, 8, 2), reference=x, subset_size=31)
    sentence = "at least 1 subset of at least 2 samples is needed but got 0 of 10; ask for more."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        kernel_distance_subsets(generated=x, reference=x, subsets=0, subset_size=10)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1], "labels must be 3 whole numbers, one per row, but is int64 of shape (2,); "),
        ([0.0, 1.0, 2.0], "labels must be 3 whole numbers, one per row, but is float64 of shape (3,); "),
    ],
)
def test_labels_are_one_whole_number_per_row(labels: list[float], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}pass the concept index of every sample.$"):
        check_labels("labels", labels, 3)


def test_labels_stay_in_range() -> None:
    with pytest.raises(UsageError, match=r"^labels must be in 0\.\.2 but spans 0\.\.3; pass concept indices\.$"):
        check_labels("labels", [0, 3], 2, 3)
    with pytest.raises(UsageError, match=r"^labels must be 0 or more but spans -1\.\.3; pass concept indices\.$"):
        check_labels("labels", [-1, 3], 2)


# ---- cards and signatures


CARDS = [card for card in registry.metrics.cards() if card.function.startswith("zoo.metrics.")]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_every_card_names_a_documented_function(card: MetricCard) -> None:
    function = registry.load_object(card.function)
    assert function.__doc__
    if card.extractor:
        extractor_card(card.extractor)


def test_all_metrics_are_visited() -> None:
    assert {card.id for card in CARDS} >= {
        "inception_score", "fid", "kid", "fd-efficientnet-lite0", "kd-efficientnet-lite0", "judge_accuracy",
        "kmeans_accuracy", "svm_accuracy", "knn_accuracy", "logistic_accuracy", "finetuned_accuracy",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["fid", "kid", "fd-efficientnet-lite0", "kd-efficientnet-lite0", "inception_score"])
def test_min_n_is_where_the_function_begins_to_answer(name: str) -> None:
    card = registry.metrics.get(name)
    function = registry.load_object(card.function)

    def score(n: int) -> object:
        rows = features(n, 8, 1)
        return function(logits=rows) if name == "inception_score" else function(generated=rows, reference=rows)

    assert np.isfinite(score(card.min_n)).all()  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=f"must have at least {card.min_n} rows but has {card.min_n - 1}"):
        score(card.min_n - 1)


def test_signature_says_what_moves_the_number() -> None:
    fid, extractor = registry.metrics.get("fid"), extractor_card("inception-2015-12-05")
    expected = "fid|inception-2015-12-05@6726825d|resize:tf-bilinear|n:1997|ref:test|v1"
    assert signature(fid, extractor, ref="test", n=1997) == expected
    assert signature(registry.metrics.get("svm_accuracy"), n=12) == "svm_accuracy|n:12|v1"
    with pytest.raises(UsageError, match=r"^a signature's ref must not contain '\|' or ':' but is 'a\|b'; name it oth"):
        signature(fid, extractor, ref="a|b")


def test_other_features_never_sign_as_fid() -> None:
    sentence = "fid is computed with extractor inception-2015-12-05 but got efficientnet-lite0; pass its own extractor."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        signature(registry.metrics.get("fid"), extractor_card("efficientnet-lite0"), n=5)


def test_features_come_back_in_float64_and_in_order() -> None:
    a, b = check_features(min_n=1, generated=np.ones((1, 2), np.float32), reference=[[2, 3]])
    assert (a.dtype.name, b.dtype.name) == ("float64", "float64")
    assert (a.tolist(), b.tolist()) == ([[1, 1]], [[2, 3]])

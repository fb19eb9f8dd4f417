"""Fréchet and kernel distances: closed forms, properties, and torch-fidelity on the same features."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics import fidelity
from zoo.metrics.base import Score, check_features, check_labels, extractor_card, signature
from zoo.metrics.fidelity import (
    Moments,
    class_frechet_distance,
    frechet_distance,
    frechet_from_moments,
    frechet_infinity,
    gaussian_kernel_distance,
    kernel_distance,
    kernel_distance_subsets,
    moments,
    read_moments,
)
from zoo.specs import MetricCard
from zoo.stages import Rows

Distance = Callable[..., Any]
DISTANCES: list[Distance] = [frechet_distance, kernel_distance, gaussian_kernel_distance]
ROOM = ("zoo.metrics.fidelity", "zoo.metrics.neighbourhoods", "zoo.metrics.inception")


def value(found: Score | float) -> float:
    return found.value if isinstance(found, Score) else found


def features(n: int, width: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Like Inception's: not negative, correlated, a spectrum that falls off."""
    rng = np.random.default_rng(99)
    mix = rng.standard_normal((width, width)) / np.sqrt(width) * np.arange(1, width + 1)[:, None] ** -0.5
    rows: np.ndarray = np.random.default_rng(seed).standard_normal((n, width)) @ mix + 0.2 + shift
    return np.asarray(np.clip(rows, 0, None))


def on_disk(array: np.ndarray, folder: Path, chunk: int = 64) -> Rows:
    """The same rows, read when asked for."""
    folder.mkdir()
    paths = []
    for start in range(0, len(array), chunk):
        paths.append(folder / f"{start}.npy")
        np.save(paths[-1], array[start : start + chunk])
    return Rows(tuple(paths), chunk, len(array))


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


@pytest.mark.parametrize("smallest", [1e-3, 1e-9, 1e-14])
def test_the_gram_route_keeps_small_singular_values(monkeypatch: pytest.MonkeyPatch, smallest: float) -> None:
    """Roots of eigenvalues of the plain Gram matrix would be off by 1e-8 of the largest one, each."""
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.standard_normal((200, 200)))[0] for _ in range(2)]
    matrix = turns[0] * np.geomspace(1, smallest, 200) @ turns[1].T
    monkeypatch.setattr(fidelity, "_EXACT_SVD", 8)
    exact = np.linalg.svd(matrix, compute_uv=False).sum()
    assert fidelity._nuclear_norm(matrix) == pytest.approx(exact, rel=1e-9)
    assert fidelity._nuclear_norm(matrix[:, :150]) == pytest.approx(fidelity._nuclear_norm(matrix[:, :150].T), rel=1e-9)


def test_a_matrix_of_zeros_or_of_nothing_has_no_nuclear_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "_EXACT_SVD", 8)
    assert fidelity._nuclear_norm(np.zeros((20, 30))) == 0
    assert fidelity._nuclear_norm(np.zeros((0, 30))) == 0


def test_the_gram_route_agrees_with_the_svd_route(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(700, 800, 1), features(650, 800, 2, shift=0.05)
    collapsed = x[np.random.default_rng(0).integers(0, 10, 700)]
    gram = [frechet_distance(generated=part, reference=y) for part in (x, collapsed)]
    monkeypatch.setattr(fidelity, "_EXACT_SVD", 10_000)
    svd = [frechet_distance(generated=part, reference=y) for part in (x, collapsed)]
    assert gram == pytest.approx(svd, rel=1e-10)
    assert gram != svd  # two routes were taken


# ---- moments


def test_moments_are_those_of_numpy_in_one_block_or_many() -> None:
    for n in (2, 50, 2500):
        rows = features(n, 12, 1) + 1e3
        found = moments(rows)
        assert found.n == n
        assert np.allclose(found.mean, rows.mean(0), rtol=1e-14)
        assert np.allclose(found.covariance, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-15)


def test_shards_merge_to_the_moments_of_all() -> None:
    rows = features(2500, 12, 1) + 1e3
    whole = moments(rows)
    shards = [moments(rows[part]) for part in (slice(7), slice(7, 1700), slice(1700, 2500))]
    for one, two, three in (shards, shards[::-1]):
        merged = one.merge(two).merge(three)
        assert merged.n == 2500
        assert np.allclose(merged.mean, whole.mean, rtol=1e-13)
        assert np.allclose(merged.covariance, whole.covariance, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n", [40, 300])
def test_distance_to_moments_is_that_to_their_features(n: int) -> None:
    x, y = features(n, 64, 1), features(250, 64, 2, shift=0.1)
    expected = frechet_distance(generated=x, reference=y)
    assert frechet_from_moments(generated=x, reference=moments(y)) == pytest.approx(expected, rel=1e-10)
    assert frechet_from_moments(generated=moments(x), reference=moments(y)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("dtype", "rel"), [("f8", 1e-12), ("f4", 1e-4)])
@pytest.mark.parametrize("n", [40, 250])
def test_published_moments_are_read_from_an_archive(tmp_path: Path, n: int, dtype: str, rel: float) -> None:
    x, y = features(60, 64, 1), features(n, 64, 2, shift=0.1)
    np.savez(tmp_path / "real.npz", mu=y.mean(0).astype(dtype), sigma=np.cov(y, rowvar=False).astype(dtype))
    found = frechet_from_moments(generated=x, reference=read_moments(tmp_path / "real.npz"))
    assert found == pytest.approx(frechet_distance(generated=x, reference=y), rel=rel)


class Ran:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return pytest.fail, ("a pickle was run",)


ROOT = "st.npz must be an npz file with the arrays mu and sigma but is not there or is none; "
NOT_MOMENTS: list[tuple[dict[str, Any], str]] = [
    ({"mean": np.zeros(2)}, ROOT + "write it with numpy.savez(path, mu=…, sigma=…)."),
    ({"mu": np.zeros(2), "sigma": np.array([Ran()])}, ROOT + "write it with numpy.savez(path, mu=…, sigma=…)."),
    (
        {"mu": np.zeros(2), "sigma": np.eye(3)},
        "st.npz must hold floats, mu of shape (d,) and sigma of shape (d, d), but has float64 (2,) and float64 (3, 3); "
        "write it again.",
    ),
    (
        {"mu": np.zeros(2, int), "sigma": np.eye(2)},
        "st.npz must hold floats, mu of shape (d,) and sigma of shape (d, d), but has int64 (2,) and float64 (2, 2); "
        "write it again.",
    ),
    (
        {"mu": np.array([0, np.nan]), "sigma": np.eye(2)},
        "st.npz must be finite but holds NaN or infinity; compute it again.",
    ),
    (
        {"mu": np.zeros(2), "sigma": np.array([[1, 0.5], [0.25, 1]])},
        "st.npz must have a symmetric sigma but it is off by 2.5e-01; compute it again.",
    ),
    (
        {"mu": np.zeros(2), "sigma": np.array([[1, 2.0], [2, 1]])},
        "st.npz must have a sigma without negative eigenvalues but differs by 3.0e+00 from its Cholesky product; "
        "compute it again.",
    ),
]


@pytest.mark.parametrize(("arrays", "sentence"), NOT_MOMENTS)
def test_what_is_no_file_of_moments_is_refused(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    np.savez(tmp_path / "st.npz", **arrays)
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        read_moments(tmp_path / "st.npz")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip", b"text"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "st.npz").write_bytes(content)
    with pytest.raises(UsageError, match=f"^{re.escape(ROOT)}"):
        read_moments(tmp_path / "st.npz")


def test_an_array_file_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "st.npy", np.eye(3))
    with pytest.raises(UsageError, match=r"^st\.npy must be an npz file"):
        read_moments(tmp_path / "st.npy")


def test_moments_that_do_not_fit_are_refused() -> None:
    small, unknown = moments(features(9, 3, 1)), Moments(None, np.zeros(3), np.eye(3))
    sentence = REFUSED[-1][1]
    for generated in (features(9, 4, 1), moments(features(9, 4, 1))):
        with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
            frechet_from_moments(generated=generated, reference=small)
    sentence = (
        "moments to be merged must know their number of samples but a file of moments does not say it; "
        "merge moments of features."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        small.merge(unknown)


# ---- properties


def itself(n: int, width: int) -> dict[str, np.ndarray]:
    """A set with itself: plain, with a feature that never fires, with two that always agree, with rows repeated."""
    rows = features(n, width, 1)
    dead, twin, repeated = rows.copy(), rows.copy(), rows.copy()
    dead[:, 3] = 0
    twin[:, 3] = rows[:, 4]
    repeated[n // 2 :] = rows[: n - n // 2]
    return {"plain": rows, "dead": dead, "twin": twin, "repeated": repeated}


@pytest.mark.parametrize(("n", "width"), [(2, 600), (50, 600), (599, 600), (601, 600), (640, 600)])
def test_a_set_is_at_distance_zero_from_itself(n: int, width: int) -> None:
    for name, x in itself(n, width).items():
        assert abs(frechet_distance(generated=x, reference=x)) <= 1e-7, name
        assert abs(frechet_distance(generated=x, reference=x[::-1])) <= 1e-7, name
        assert abs(frechet_from_moments(generated=x, reference=moments(x))) <= 1e-7, name
        assert abs(frechet_from_moments(generated=moments(x), reference=moments(x))) <= 1e-7, name


def test_a_set_is_nearest_to_itself_by_its_kernel() -> None:
    """Unbiased: pairs with oneself are left out within, not between."""
    x = features(50, 600, 1)
    assert kernel_distance(generated=x, reference=x) <= 0
    found = gaussian_kernel_distance(generated=x, reference=x)
    assert found.value <= 0
    assert found.detail["biased"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("n", [60, 1100])
def test_order_of_samples_changes_nothing(distance: Distance, n: int) -> None:
    x, y = features(n, 32, 1), features(50, 32, 2)
    order = np.random.default_rng(0).permutation(n)
    expected = value(distance(generated=x, reference=y))
    assert value(distance(generated=x[order], reference=y[::-1])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_noise_only_adds_distance(distance: Distance) -> None:
    x, noise = features(400, 32, 1), np.random.default_rng(0).standard_normal((400, 32))
    y = features(400, 32, 2)
    values = [value(distance(generated=x + level * noise, reference=y)) for level in (0, 0.25, 0.5, 1, 2)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 1


@pytest.mark.parametrize("distance", [*DISTANCES, frechet_infinity])
@pytest.mark.parametrize(("n", "width"), [(90, 100), (1300, 20)])
def test_rows_on_disk_score_as_in_memory(tmp_path: Path, distance: Distance, n: int, width: int) -> None:
    """Also: float32 rows score as the same values in float64, whatever chunks they come in."""
    x, y = features(n, width, 1).astype(np.float32), features(n + 30, width, 2).astype(np.float32)
    there = {"generated": on_disk(x, tmp_path / "x"), "reference": on_disk(y, tmp_path / "y", chunk=37)}
    assert distance(**there) == distance(generated=x.astype(float), reference=y.astype(float))


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """20,000 rows are 20 MB in float64; a block of 1024 and two covariances are far less."""
    x = np.random.default_rng(0).standard_normal((20_000, 128)).astype(np.float32)
    rows = on_disk(x, tmp_path / "x", chunk=1000)
    value(frechet_distance(generated=rows, reference=rows))  # what is imported on first use is no growth
    tracemalloc.start()
    value(frechet_distance(generated=rows, reference=rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6 < x.size * 8


def test_kernel_distance_is_unbiased_where_frechet_is_not() -> None:
    """Halves of one distribution: KID scatters around 0, FID stays above it, the more the fewer samples."""
    pairs = [(features(20, 32, seed), features(20, 32, 1000 + seed)) for seed in range(200)]
    kernel = np.array([kernel_distance(generated=x, reference=y) for x, y in pairs])
    assert abs(kernel.mean()) < 3 * kernel.std() / np.sqrt(200)
    few = np.mean([frechet_distance(generated=x, reference=y) for x, y in pairs])
    many = frechet_distance(generated=features(2000, 32, 1), reference=features(2000, 32, 2))
    assert few > 10 * many > 0


# ---- extrapolated, within classes, on embeddings


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    """Two scaled standard Gaussians in 16 dimensions are at distance 16 · 0.5²."""
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((20_000, 16))
    plain, extrapolated = [], []
    for _ in range(20):
        found = frechet_infinity(generated=1.5 * rng.standard_normal((160, 16)), reference=reference)
        plain.append(found.detail["distance"] - 4)
        extrapolated.append(found.value - 4)
        assert found.detail["slope"] > 0
    assert np.mean(plain) > 0.5
    assert abs(np.mean(extrapolated)) < np.mean(plain) / 3


def test_extrapolation_is_the_intercept_of_a_line_over_seeded_subsets() -> None:
    x, y = features(41, 24, 1), features(80, 24, 2, shift=0.1)
    found = frechet_infinity(generated=x, reference=y, sizes=2, seed=3)
    rng = np.random.default_rng(3)
    half, whole = (x[rng.permutation(41)[:size]] for size in (20, 41))
    first, last = (frechet_distance(generated=part, reference=y) for part in (half, whole))
    assert found.value == pytest.approx((41 * last - 20 * first) / 21, rel=1e-9)
    assert found.detail["distance"] == pytest.approx(last, rel=1e-9)
    assert found == frechet_infinity(generated=x, reference=y, sizes=2, seed=3)
    assert found != frechet_infinity(generated=x, reference=y, sizes=2, seed=4)


def test_extrapolation_needs_two_sizes_and_their_samples() -> None:
    x = features(29, 4, 1)
    sentence = "generated must have at least 30 rows but has 29; score more samples together."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        frechet_infinity(generated=x, reference=x)
    sentence = "a line needs at least 2 sizes but got 1; 15 is what the paper uses."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        frechet_infinity(generated=x, reference=x, sizes=1)


def test_distance_within_classes_is_the_mean_over_them() -> None:
    x, y = features(30, 12, 1), features(50, 12, 2, shift=0.1)
    labels, real = np.repeat([4, 1, 7], [5, 10, 15]), np.repeat([7, 4, 1, 2], [20, 10, 18, 2])
    order = np.random.default_rng(0).permutation(30)
    found = class_frechet_distance(generated=x[order], labels=labels[order], reference=y, reference_labels=real)
    parts = [frechet_distance(generated=x[labels == c], reference=y[real == c]) for c in (1, 4, 7)]
    assert found.value == pytest.approx(np.mean(parts), rel=1e-10)
    expected = {"lowest": min(parts), "highest": max(parts), "fewest": 5}
    assert found.detail == pytest.approx(expected, rel=1e-10)


def test_only_the_distance_within_classes_sees_wrong_classes() -> None:
    x = features(60, 8, 1)
    x[:30] += 2
    labels = np.repeat([0, 1], 30)
    right = class_frechet_distance(generated=x, labels=labels, reference=x, reference_labels=labels).value
    wrong = class_frechet_distance(generated=x, labels=1 - labels, reference=x, reference_labels=labels).value
    assert abs(right) <= 1e-7
    assert wrong > 8 * 2**2 * 0.9


def test_a_class_with_one_image_is_refused() -> None:
    x = features(6, 4, 1)
    for labels, real, sizes in (([0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1], (1, 3)), ([0] * 3 + [1] * 3, [0] * 6, (3, 0))):
        sentence = (
            f"every class must have at least 2 images but class 1 has {sizes[0]} generated and {sizes[1]} reference "
            "ones; score more images, or leave this metric out."
        )
        with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
            class_frechet_distance(generated=x, labels=labels, reference=x, reference_labels=real)


def test_embedding_distance_is_the_formula_over_all_pairs() -> None:
    """Also across blocks of rows, and blind to the length of a row."""
    x, y = features(1100, 6, 1), features(40, 6, 2, shift=0.1)
    unit_x, unit_y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200))

    k_xx, k_yy, k_xy = kernel(unit_x, unit_x), kernel(unit_y, unit_y), kernel(unit_x, unit_y)
    off_x, off_y = (k[~np.eye(len(k), dtype=bool)].mean() for k in (k_xx, k_yy))
    found = gaussian_kernel_distance(generated=x * np.linspace(1, 9, 1100)[:, None], reference=y)
    assert found.value == pytest.approx(1000 * (off_x + off_y - 2 * k_xy.mean()), rel=1e-9)
    assert found.detail["biased"] == pytest.approx(1000 * (k_xx.mean() + k_yy.mean() - 2 * k_xy.mean()), rel=1e-9)


def test_embeddings_need_a_direction_and_a_bandwidth() -> None:
    x = features(6, 4, 1)
    with pytest.raises(UsageError, match=r"^sigma must be above 0 but is 0; the paper uses 10\.$"):
        gaussian_kernel_distance(generated=x, reference=x, sigma=0)
    sentence = "rows must have a length above 0 but one is all zeros; find out which image gave it."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        gaussian_kernel_distance(generated=np.vstack([x, np.zeros(4)]), reference=x)


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
    assert (ours.value, ours.detail["subset_std"]) == pytest.approx(expected, rel=1e-5)  # products in float32


def test_kernel_distance_is_torch_fidelity_kid_on_one_full_subset() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = features(90, 48, 1), features(90, 48, 2, shift=0.1)
    options = {"kid_subsets": 1, "kid_subset_size": 90, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    assert kernel_distance(generated=x, reference=y) == pytest.approx(
        theirs["kernel_inception_distance_mean"], rel=1e-9
    )


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
    if card.extractor and card.function.startswith(ROOM):
        extractor_card(card.extractor)


def test_all_metrics_are_visited() -> None:
    assert {card.id for card in CARDS} >= {
        "inception_score", "is-thoughtviz", "is-eeg2image", "is-nvlabs", "kid-subsets", "cmmd", "fd-dinov2-vitl14",
        "fid", "fid_infinity", "class_fid", "kid", "precision", "recall", "density", "coverage",
        "fd-efficientnet-lite0", "fd_infinity-efficientnet-lite0", "class_fd-efficientnet-lite0",
        "kd-efficientnet-lite0", "precision-efficientnet-lite0", "recall-efficientnet-lite0",
        "density-efficientnet-lite0", "coverage-efficientnet-lite0",
        "judge_accuracy", "kmeans_accuracy", "svm_accuracy", "knn_accuracy", "logistic_accuracy", "finetuned_accuracy",
    }  # fmt: skip


@pytest.mark.parametrize("card", [card for card in CARDS if card.function.startswith(ROOM)], ids=lambda card: card.id)
def test_min_n_is_where_the_function_begins_to_answer(card: MetricCard) -> None:
    function = registry.load_object(card.function)

    def score(n: int) -> float:
        rows, labels = features(n, 8, 1), np.zeros(n, int)
        arrays = {"generated": rows, "reference": rows, "labels": labels, "reference_labels": labels}
        arrays["replicates"] = rows[None]
        return value(function(**{argument: arrays[name] for argument, name in card.needs.items()}, **card.params))

    assert np.isfinite(score(card.min_n))
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

"""Speed, error and memory of the distances between sets of images, beside the packages in use.

    python benchmarks/distances.py [--quick] [--repeats 5] [--only GROUP …] [--out FILE.json]

Rounds go through all methods in turn, so that a busy machine slows all alike; ratios are of medians. Features are like
Inception's: not negative, with a spectrum that falls off. Peers that are not installed are left out (pytorch-fid,
clean-fid, torchmetrics). Memory is the growth of the resident set of a process of its own. Errors are relative to the
same value computed in float64 by singular values or by brute force. Targets hold for the full run on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo import provenance
from zoo.metrics import neighbourhoods
from zoo.metrics.fidelity import Moments, frechet_distance, frechet_from_moments, kernel_distance_subsets, moments

OURS = "zoo"
WIDTH = 2048
TARGETS = {  # (group, peer, n up to) → how many times as fast at full width
    ("fid", "scipy sqrtm", 500): 200,
    ("fid", "scipy sqrtm", 2000): 15,
    ("fid", "torch-fidelity (eigvals)", 500): 50,
    ("fid", "torch-fidelity (eigvals)", 2000): 3,
    ("fid from moments", "scipy sqrtm", 10_000): 7,
    ("fid from moments", "torch-fidelity (eigvals)", 10_000): 2,
    ("kid", "torch-fidelity", 2000): 20,
    ("kid", "torch-fidelity", 10_000): 1,
    ("precision and recall", "torch-fidelity", 10_000): 1.5,
}
Sets = tuple[np.ndarray, np.ndarray]
Method = Callable[[Any], Any]


def make_features(n: int, width: int, seed: int) -> np.ndarray:
    """float32 (n, width), as extractors give them."""
    shared = np.random.default_rng(99)
    mix = shared.standard_normal((width, width)) / np.sqrt(width) * np.arange(1, width + 1)[:, None] ** -0.5
    rows = np.random.default_rng(seed).standard_normal((n, width)) @ mix + 0.2 + 0.02 * seed
    return np.asarray(np.clip(rows, 0, None), dtype=np.float32)


# ---- methods


def numpy_moments(sets: Sets) -> list[np.ndarray]:
    """mu and sigma of both sides, as the peers compute them."""
    wide = [rows.astype(np.float64) for rows in sets]
    return [part for rows in wide for part in (rows.mean(axis=0), np.cov(rows, rowvar=False))]


def sqrtm(stats: list[np.ndarray]) -> float:
    from scipy.linalg import sqrtm as root

    mu1, sigma1, mu2, sigma2 = stats
    return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2) - 2 * np.trace(root(sigma1 @ sigma2).real))


def eigvals(stats: list[np.ndarray]) -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    first, second = ({"mu": mu, "sigma": sigma} for mu, sigma in (stats[:2], stats[2:]))
    return float(fid_statistics_to_metric(first, second, verbose=False)["frechet_inception_distance"])


def pytorch_fid(stats: list[np.ndarray]) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    return float(calculate_frechet_distance(*stats))


def clean_fid(stats: list[np.ndarray]) -> float:
    from cleanfid.fid import frechet_distance as theirs

    return float(theirs(*stats))


def torchmetrics(stats: list[np.ndarray]) -> float:
    import torch
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(*map(torch.from_numpy, stats)))


CLOSINGS: dict[str, tuple[str, Callable[[list[np.ndarray]], float]]] = {
    "scipy sqrtm": ("scipy", sqrtm),
    "torch-fidelity (eigvals)": ("torch_fidelity", eigvals),
    "pytorch-fid": ("pytorch_fid", pytorch_fid),
    "clean-fid": ("cleanfid", clean_fid),
    "torchmetrics": ("torchmetrics", torchmetrics),
}


def kid_size(sets: Sets) -> int:
    return min(1000, len(sets[0]) // 2)


def our_kid(sets: Sets) -> float:
    return kernel_distance_subsets(generated=sets[0], reference=sets[1], subset_size=kid_size(sets)).value


def their_kid(sets: Sets) -> float:
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    first, second = map(torch.from_numpy, sets)
    found = kid_features_to_metric(first, second, kid_subset_size=kid_size(sets), verbose=False)
    return float(found["kernel_inception_distance_mean"])


def our_overlap(sets: Sets) -> list[float]:
    neighbourhoods._overlaps.clear()  # what is remembered costs nothing
    return [
        metric(generated=sets[0], reference=sets[1]).value
        for metric in (neighbourhoods.precision, neighbourhoods.recall)
    ]


def their_overlap(sets: Sets) -> list[float]:
    import torch
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(*map(torch.from_numpy, sets), verbose=False)
    return [found["precision"], found["recall"]]


def from_features(closing: Callable[[list[np.ndarray]], float]) -> Method:
    return lambda sets: closing(numpy_moments(sets))


def to_published(closing: Callable[[list[np.ndarray]], float]) -> Method:
    def compute(data: tuple[np.ndarray, list[np.ndarray]]) -> float:
        wide = data[0].astype(np.float64)
        return closing([wide.mean(axis=0), np.cov(wide, rowvar=False), *data[1]])

    return compute


def our_closing(stats: list[np.ndarray]) -> float:
    generated, reference = Moments(None, *stats[:2]), Moments(None, *stats[2:])
    return frechet_from_moments(generated=generated, reference=reference)


def groups() -> dict[str, dict[str, Method]]:
    """Group → method → function; what is not installed is not in it. The first method is ours."""
    here = {name: how for name, (module, how) in CLOSINGS.items() if importlib.util.find_spec(module)}
    return {
        "fid": {
            OURS: lambda sets: frechet_distance(generated=sets[0], reference=sets[1]),
            **{name: from_features(how) for name, how in here.items()},
        },
        "fid to published": {
            OURS: lambda data: frechet_from_moments(generated=data[0], reference=Moments(None, *data[1])),
            **{name: to_published(how) for name, how in here.items()},
        },
        "fid from moments": {OURS: our_closing, **here},
        "kid": {OURS: our_kid, "torch-fidelity": their_kid},
        "precision and recall": {OURS: our_overlap, "torch-fidelity": their_overlap},
    }


# ---- float64 references


def exact_fid(sets: Sets) -> float:
    """By the singular values of a product of triangular factors: no square, no root of a matrix."""
    x, y = (rows.astype(np.float64) for rows in sets)
    gap = x.mean(axis=0) - y.mean(axis=0)
    factors = [np.linalg.qr((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1), mode="r") for rows in (x, y)]
    traces = sum(float((factor**2).sum()) for factor in factors)
    return float(gap @ gap + traces - 2 * np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())


def exact_kid(sets: Sets) -> float:
    return their_kid((sets[0].astype(np.float64), sets[1].astype(np.float64)))


def exact_overlap(sets: Sets) -> list[float]:
    from scipy.spatial.distance import cdist

    x, y = (rows.astype(np.float64) for rows in sets)
    reach_x, reach_y = (
        np.concatenate([np.partition(cdist(part, rows), 3, axis=1)[:, 3] for part in np.array_split(rows, 40)])
        for rows in (x, y)
    )
    inside = np.zeros(len(y), bool)
    held = []
    for part, reach in zip(np.array_split(x, 40), np.array_split(reach_x, 40), strict=True):
        between = cdist(part, y)
        held.append((between <= reach_y[None]).any(axis=1))
        inside |= (between <= reach[:, None]).any(axis=0)
    return [float(np.concatenate(held).mean()), float(inside.mean())]


EXACT: dict[str, Method] = {"fid": exact_fid, "kid": exact_kid, "precision and recall": exact_overlap}


# ---- measuring


def gemm_speed(dtype: type) -> float:
    """GF/s of a square matrix product: median of five."""
    size = 2048
    a = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a.T.copy()
        taken.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(taken) / 1e9


def work(group: str, n: int, width: int) -> tuple[float, type] | None:
    """GF of the products that the pairs of a group need, each once, and in which precision we form them."""
    pairs = {"kid": np.float32, "precision and recall": np.float32, "fid": np.float64}
    if group not in pairs or (group == "fid" and n > width):
        return None
    if group == "fid":  # product of factors, its square, tridiagonal form
        return (2 * n * n * width + n**3 + 4 / 3 * n**3) / 1e9, np.float64
    if group == "kid" and n > 10_000:
        return None
    return 4 * n * n * width / 1e9, pairs[group]


def prepared(group: str, sets: Sets) -> Any:
    """What a group measures from: features, moments of both sides, or features and the moments of the other side."""
    if group == "fid from moments":
        return numpy_moments(sets)
    return (sets[0], numpy_moments(sets)[2:]) if group == "fid to published" else sets


def difference(found: Any, exact: Any) -> float:
    found, exact = np.atleast_1d(found), np.atleast_1d(exact)
    return float(np.max(np.abs(found - exact) / np.maximum(np.abs(exact), 1e-12)))


def child(group: str, method: str, n: int, width: int) -> None:
    """Print by how many MiB the resident set of this process grows during one call, at its peak."""
    how = groups()[group][method]
    how(prepared(group, (make_features(64, 32, 1), make_features(64, 32, 2))))  # imports and buffers come before
    data = prepared(group, (make_features(n, width, 1), make_features(n, width, 2)))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := now
    before = resident("VmRSS")
    how(data)
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def extra_memory(group: str, method: str, n: int, width: int) -> float | None:
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-W", "ignore", __file__, "--child", group, method, str(n), str(width)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(group: str, n: int, width: int, repeats: int, limits: dict[type, float]) -> list[dict[str, Any]]:
    """One row a method: median seconds, how many times as fast we are, error, memory, share of the machine's limit."""
    sets = make_features(n, width, 1), make_features(n, width, 2)
    methods, data = groups()[group], prepared(group, sets)
    times: dict[str, list[float]] = {name: [] for name in methods}
    values: dict[str, Any] = {}
    small = prepared(group, (make_features(64, 32, 1), make_features(64, 32, 2)))
    for how in methods.values():
        how(small)  # imports
    for _ in range(repeats):
        for name, how in methods.items():
            started = time.perf_counter()
            values[name] = how(data)
            times[name].append(time.perf_counter() - started)
    exact = EXACT[group if group in EXACT else "fid"](sets)
    ours, needed = statistics.median(times[OURS]), work(group, n, width)
    rows = []
    for name in methods:
        seconds = statistics.median(times[name])
        targets = (t for (g, peer, top), t in sorted(TARGETS.items()) if (g, peer) == (group, name) and n <= top)
        rows.append(
            {
                "group": group,
                "n": n,
                "width": width,
                "method": name,
                "seconds": seconds,
                "times_as_fast_we_are": seconds / ours,
                "target": next(targets, None) if width == WIDTH else None,
                "relative_error": difference(values[name], exact),
                "extra_mib": extra_memory(group, name, n, width) if name == OURS or width == WIDTH else None,
                "share_of_limit": needed[0] / limits[needed[1]] / seconds if needed else None,
            }
        )
    return rows


def identities(sizes: list[int], width: int) -> dict[str, float]:
    """|FID(X, X)|, which is 0: plain, with a feature that never fires, and through moments."""
    found = {}
    for n in sizes:
        x = make_features(n, width, 1).astype(np.float64)
        dead = x.copy()
        dead[:, width // 2] = 0
        found[f"n={n}"] = abs(frechet_distance(generated=x, reference=x))
        found[f"n={n}, dead feature"] = abs(frechet_distance(generated=dead, reference=dead))
        found[f"n={n}, to its moments"] = abs(frechet_from_moments(generated=x, reference=moments(x)))
    return found


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':22}{'n':>7}  {'method':26}{'s':>9}{'ratio':>9}{'target':>8}{'error':>10}{'MiB':>8}{'limit':>7}")
    for row in rows:
        target = f"≥{row['target']:g}" if row["target"] else ""
        memory = "" if row["extra_mib"] is None else f"{row['extra_mib']:.0f}"
        share = "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%}"
        missed = " missed" if row["target"] and row["times_as_fast_we_are"] < row["target"] else ""
        print(
            f"{row['group']:22}{row['n']:7}  {row['method']:26}{row['seconds']:9.3f}{row['times_as_fast_we_are']:9.2f}"
            f"{target:>8}{row['relative_error']:10.1e}{memory:>8}{share:>7}{missed}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sets: shows that it runs, its ratios mean little")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(groups()), default=list(groups()))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        group, method, n, width = options.child
        return child(group, method, int(n), int(width))
    width, sizes = (256, [100, 400]) if options.quick else (WIDTH, [400, 2000, 10_000])
    repeats = 1 if options.quick else options.repeats
    limits = {np.float32: gemm_speed(np.float32), np.float64: gemm_speed(np.float64)}
    print(f"{provenance.cpu_name()}, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads; ", end="")
    print(f"limit: sgemm {limits[np.float32]:.0f}, dgemm {limits[np.float64]:.0f} GF/s")
    rows = []
    for group in options.only:
        for n in sizes:
            if (group == "fid from moments" and n <= width) or (group == "fid to published" and n > width):
                continue  # up to as many images as features, the images are the smaller problem
            found = measure(group, n, width, repeats, limits)
            show(found)
            rows += found
    itself = identities([width // 5, width // 2, width - 1, width + 50], width)
    for name, value in itself.items():
        print(f"|FID(X, X)| {name:28}{value:.1e}{' missed' if value > 1e-7 else ''}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "hardware": provenance.cpu_name(),
            "threads": os.environ.get("OMP_NUM_THREADS", os.cpu_count()),
            "packages": provenance.versions(),
            "repeats": repeats,
            "gemm_gflops": {"float32": limits[np.float32], "float64": limits[np.float64]},
            "rows": rows,
            "fid_of_a_set_with_itself": itself,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()

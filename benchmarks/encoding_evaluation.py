"""Gifford's evaluation of encoding models beside the published loops, on the same arrays in the same run.

    python benchmarks/encoding_evaluation.py [correlation similarity decoding identification] [--images 200]

The loops would take hours at full size, so they run on a part (cells, splits, times, draws) and are scaled up to the
whole, linearly: each is a plain loop over that part. Where both sides compute the same quantity, its largest difference
on that part is printed; pairwise decoding compares different classifiers, so both values are. Seconds are those of the
processor (set OMP_NUM_THREADS=1), which other work on the machine moves less than those of the clock. Results go to
benchmarks/results/encoding_evaluation-cpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn

from zoo.metrics import encoding
from zoo.store import write_json

RESULT = Path(__file__).parent / "results" / "encoding_evaluation-cpu.json"


def timed(call: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """Median seconds of the processor in ``rounds`` calls, and the last result."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        found = call()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds), found


def recording(images: int, repetitions: int, channels: int, times: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((images, channels, times))
    observed = signal[:, None] + 6 * rng.standard_normal((images, repetitions, channels, times))
    return signal + 0.5 * rng.standard_normal(signal.shape), observed


def correlation_loop(predicted: np.ndarray, observed: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Split, average, and call scipy once per cell for the value and each ceiling, as published."""
    from scipy.stats import pearsonr

    _, channels, times = predicted.shape
    total = np.zeros((3, channels, times))
    for second in splits:
        one, two = np.delete(observed, second, axis=1).mean(1), observed[:, second].mean(1)
        whole = observed.mean(1)
        for c in range(channels):
            for t in range(times):
                for kind, other in enumerate((predicted, two, whole)):
                    total[kind, c, t] += pearsonr(other[:, c, t], one[:, c, t])[0]
    return total / len(splits)


def rsa_loop(predicted: np.ndarray, observed: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """pdist and spearmanr for every split, time and ceiling."""
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    times = predicted.shape[2]
    total = np.zeros((3, times))
    for second in splits:
        one, two = np.delete(observed, second, axis=1).mean(1), observed[:, second].mean(1)
        whole = observed.mean(1)
        for t in range(times):
            target = pdist(one[..., t], "correlation")
            for kind, other in enumerate((predicted, two, whole)):
                total[kind, t] += spearmanr(pdist(other[..., t], "correlation"), target).statistic
    return total / len(splits)


def correlations(observed: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    x, y = (rows - rows.mean(1, keepdims=True) for rows in (observed, candidates))
    return np.asarray(x @ y.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)))


def growth_loop(correlation: np.ndarray, sizes: list[int], draws: int) -> np.ndarray:
    """Draw candidate sets and count better ones, as published."""
    n, total = correlation.shape
    own = np.diagonal(correlation)[:, None]
    rng, accuracy = np.random.default_rng(0), []
    for size in sizes:
        hits = 0.0
        for _ in range(draws):
            drawn = np.concatenate([np.arange(n), n + rng.choice(total - n, size, replace=False)])
            hits += ((correlation[:, drawn] > own).sum(1) == 0).mean()
        accuracy.append(hits / draws)
    return np.array(accuracy)


def row(name: str, ours: float, part: float, share: float, note: str, once: float = 0.0) -> dict[str, Any]:
    """``once``: seconds of the loop's way that do not repeat."""
    loop = once + part / share
    print(
        f"{name:32} {ours:9.2f} s {part:9.2f} s {share:10.2e} {loop:12.0f} s {loop / ours:11.0f}x   {note}", flush=True
    )
    numbers = {
        "zoo_seconds": ours,
        "loop_part_seconds": part,
        "share": share,
        "loop_seconds": loop,
        "ratio": loop / ours,
    }
    return {"what": name, **{key: float(f"{value:.4g}") for key, value in numbers.items()}, "note": note}


Given = dict[str, np.ndarray]


def correlation_row(given: Given, halves: np.ndarray) -> dict[str, Any]:
    iterations, times = len(halves), given["predicted"].shape[-1]
    ours, _ = timed(lambda: encoding.split_half_correlation(**given, second_half=halves))
    few = {name: array[..., :4] for name, array in given.items()}
    part, looped = timed(lambda: correlation_loop(**few, splits=halves[:2]), 1)
    same = encoding.split_half_correlation(**few, second_half=halves[:2])
    gap = np.abs(looped - [same.value, same.lower, same.upper]).max()
    return row("split_half_correlation", ours, part, 2 / iterations * 4 / times, f"largest difference {gap:.0e}")


def similarity_row(given: Given, halves: np.ndarray) -> dict[str, Any]:
    ten, times = halves[:10], given["predicted"].shape[-1]
    ours, _ = timed(lambda: encoding.representational_similarity(**given, second_half=ten), 1)
    few = {name: array[..., :4] for name, array in given.items()}
    part, looped = timed(lambda: rsa_loop(**few, splits=halves[:2]), 1)
    same = encoding.representational_similarity(**few, second_half=halves[:2])
    gap = np.abs(looped - [same.value, same.lower, same.upper]).max()
    return row("representational_similarity", ours, part, 2 / len(ten) * 4 / times, f"largest difference {gap:.0e}")


def decoding_row(given: Given, halves: np.ndarray) -> dict[str, Any]:
    iterations, (images, _, times) = len(halves), given["predicted"].shape
    ours, _ = timed(lambda: encoding.pairwise_decoding_lda(**given, second_half=halves), 1)
    some = {name: array[: min(images, 40), ..., :1] for name, array in given.items()}
    part, machines = timed(lambda: encoding.pairwise_decoding_svc(**some, second_half=halves[:1]), 1)
    discriminants = encoding.pairwise_decoding_lda(**some, second_half=halves[:1])
    n = len(some["predicted"])
    share = 1 / iterations / times * n * (n - 1) / (images * (images - 1))
    note = f"accuracy {discriminants.value.mean():.3f}, lower ceiling {discriminants.lower.mean():.3f}; "
    note += f"machines {machines.value.mean():.3f}, {machines.lower.mean():.3f}"
    return row("pairwise_decoding_lda (SVC)", ours, part, share, note)


def identification_row(given: Given, halves: np.ndarray) -> dict[str, Any]:
    images, rng, cells, m = len(given["predicted"]), np.random.default_rng(1), 300, 150_000
    sizes = list(range(0, m + 1, 1000))
    crowd = {
        "predicted": rng.standard_normal((images, cells)),
        "distractors": rng.standard_normal((m, cells)).astype(np.float32),
    }
    crowd["observed"] = crowd["predicted"] + 4 * rng.standard_normal((images, cells))
    ours, exact = timed(lambda: encoding.identification_growth(**crowd, sizes=sizes, tolerances=[1]))
    candidates = np.concatenate([crowd["predicted"], crowd["distractors"]])
    once, correlation = timed(lambda: correlations(crowd["observed"], candidates), 1)
    part, drawn = timed(lambda: growth_loop(correlation, sizes[::50], 5), 1)
    # the first, middle and last sizes: their mean is that of all, since a draw costs in proportion to its size
    share = len(sizes[::50]) / len(sizes) * 5 / 100
    note = f"largest difference of exact from 5 draws {np.abs(exact[::50, 0] - drawn).max():.3f}"
    return row("identification_growth", ours, part, share, note, once)


ROWS = {
    "correlation": correlation_row,
    "similarity": similarity_row,
    "decoding": decoding_row,
    "identification": identification_row,
}


def main(only: list[str], **size: int) -> None:
    predicted, observed = recording(size["images"], size["repetitions"], size["channels"], size["times"])
    given = {"predicted": predicted, "observed": observed}
    halves = encoding.half_splits(size["repetitions"], iterations=size["iterations"])
    print(", ".join(f"{value} {name}" for name, value in size.items()))
    print(f"{'':32} {'zoo':>11} {'loop, part':>11} {'share':>10} {'loop, whole':>14} {'ratio':>12}")
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    rows = {found["what"]: found for found in kept.get("rows", ()) if kept["size"] == size}
    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "sklearn": sklearn.__version__}
    for name in only or ROWS:
        made = ROWS[name](given, halves) | {"load": round(os.getloadavg()[0], 1)}
        rows[made["what"]] = made
        machine = {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
        write_json(RESULT, {"size": size, "rows": list(rows.values()), "versions": versions, "machine": machine})


def processor() -> str:
    """Its name where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help=f"all by default: {', '.join(ROWS)}")
    defaults = {"images": 200, "repetitions": 80, "channels": 17, "times": 100, "iterations": 100}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))

"""How often the statistics of the zoo err on simulated results whose truth is known.

Writes the tables of docs/statistics.md:

    python benchmarks/statistics_calibration.py [--runs 2000] [--only compare seeds ties leader intervals sets chance]

Everything is seeded: the same runs give the same figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import norm

from leaderboard.compare import Side, compare
from leaderboard.ranking import ALPHA, rank
from leaderboard.ties import all_pairs
from leaderboard.units import Trials
from zoo import stats
from zoo.metrics.fidelity import frechet_distance
from zoo.record import Record, Value

RECORDS = Path(__file__).parents[1] / "leaderboard" / "records"
UNITS = (3, 6, 12, 24)
METRICS = tuple(f"metric_{i}" for i in range(5))
HARD = -0.5
"""Latent threshold of a hit: binary metrics are right in two of five trials or so."""


@dataclass(frozen=True)
class World:
    """Two systems on the same trials.

    A value is the sum of what its unit and its trial do to both systems, and of what unit and trial do to one system
    (half of it common to all metrics), each of variance 1. Units have 10 to 30 trials.

    Attributes:
        kind: ``continuous``; ``binary``, the same passed through a threshold; ``skewed``, where the system's share of a
            unit is exponential for A and absent for B, so that means agree but differences are not symmetric.
        effect: What A has more, in standard deviations of one part.
        seed_spread: Standard deviation of what a training adds to all values of a system (not to binary ones).
    """

    n_units: int
    kind: str = "continuous"
    effect: float = 0.0
    seed_spread: float = 0.0

    @property
    def truth(self) -> float:
        """Difference in the population."""
        if self.kind != "binary":
            return self.effect
        return float(norm.cdf((HARD + self.effect) / 2) - norm.cdf(HARD / 2))  # variance 4

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Values (2, n_metrics, n) and the unit of each trial (n,)."""
        units = np.repeat(np.arange(self.n_units), rng.integers(10, 31, self.n_units))
        n, m = units.size, len(METRICS)
        both = rng.normal(size=self.n_units)[units] + rng.normal(size=n)
        own = mixed(rng, m, self.n_units)[:, :, units]
        if self.kind == "skewed":
            own = np.stack([rng.exponential(size=(m, self.n_units))[:, units] - 1, np.zeros((m, n))])
        values = both + own + mixed(rng, m, n)
        values[0] += self.effect
        return (values > -HARD).astype(float) if self.kind == "binary" else values, units


def mixed(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    """Noise (2, m, n) of variance 1 for each of two systems, half of it common to its m metrics."""
    return np.sqrt(0.5) * (rng.normal(size=(2, 1, n)) + rng.normal(size=(2, m, n)))


def record(template: Record, model: str, values: dict[str, Value], seed: int = 0) -> Record:
    identity = template.identity.model_copy(update={"model": model, "seed": seed})
    update = {"identity": identity, "values": values, "headline": METRICS[0], "controls": {}, "audit": None}
    return template.model_copy(update=update)


def side(template: Record, model: str, values: np.ndarray, units: np.ndarray, siblings: np.ndarray) -> Side:
    """What an evaluation of ``model`` would have written; ``siblings`` are the shifts of other trainings."""
    names = np.array([f"t{i:04d}" for i in range(units.size)])

    def measured(shift: float) -> dict[str, Value]:
        means = zip(METRICS, values.mean(axis=1) + shift, strict=True)
        return {metric: Value(value=float(mean), signature=metric, higher_is_better=True) for metric, mean in means}

    trials = {("model", metric): Trials(names, units, row) for metric, row in zip(METRICS, values, strict=True)}
    others = [record(template, model, measured(shift), seed) for seed, shift in enumerate(siblings, start=1)]
    return Side(record(template, model, measured(0.0)), trials, others)


@dataclass(frozen=True)
class Rates:
    """Shares of the runs.

    Attributes:
        anything: At least one metric of five was called different.
        headline: The headline was.
        covered: The headline's interval held the true difference.
    """

    anything: float
    headline: float
    covered: float


def compared(world: World, *, runs: int, seed: int, n_seeds: int = 1) -> Rates:
    """Run ``compare`` on ``runs`` draws of a world, with ``n_seeds`` known trainings of each system."""
    rng = np.random.default_rng([seed, world.n_units])
    template = Record.read(min(RECORDS.rglob("*.json")))
    counts = np.zeros(3)
    for _ in range(runs):
        values, units = world.draw(rng)
        shifts = world.seed_spread * rng.normal(size=(2, n_seeds))
        values += shifts[:, :1, None]
        siblings = shifts[:, 1:] - shifts[:, :1]
        a, b = (side(template, name, values[i], units, siblings[i]) for i, name in enumerate("ab"))
        pairs = compare(a, b).differences
        assert pairs[0].interval is not None
        low, high = pairs[0].interval
        counts += any(pair.shown for pair in pairs), bool(pairs[0].shown), low <= world.truth <= high
    return Rates(*(counts / runs))


def board_ties(
    n_models: int, n_units: int, *, runs: int, seed: int, effect: float = 0.0
) -> tuple[float, float, float, float]:
    """How often one of ``n_models`` models leaves the group of the best, by four rules.

    Args:
        effect: What one model has more than the equal others; if not 0, it counts that this model leads and is alone.

    Returns:
        By the test of all pairs, which is what a board does; by intervals that do not overlap, which it does without
        values per trial; by a difference larger than √(h² + h²), h being the half widths; by sign flips against the
        best with Holm's correction.
    """
    rng = np.random.default_rng([seed, n_models, n_units])
    template = Record.read(min(RECORDS.rglob("*.json")))
    counts = np.zeros(4)
    units = np.repeat(np.arange(n_units), 20)
    for _ in range(runs):
        both = rng.normal(size=n_units)[units] + rng.normal(size=units.size)
        values = both + rng.normal(size=(n_models, n_units))[:, units] + rng.normal(size=(n_models, units.size))
        values[0] += effect
        means, records, halves = values.mean(axis=1), [], []
        for i, row in enumerate(values):
            found = stats.cluster_interval(row, units)
            assert found is not None
            halves.append((found.high - found.low) / 2)
            value = Value(value=float(means[i]), interval=(found.low, found.high), signature="s", higher_is_better=True)
            records.append(record(template, f"m{i}", {METRICS[0]: value}))
        best = int(means.argmax())
        behind = [i for i in range(n_models) if i != best]
        p = all_pairs(values, units)
        assert p is not None
        pairs = {frozenset((records[i].run, records[j].run)): float(p[i, j]) for i in range(n_models) for j in range(i)}
        tied = [
            {row.name for row in rank(records, pairs=tests)[0].entries if row.tie == 1}
            for tests in (lambda _, pairs=pairs: pairs, None)
        ]
        flips = stats.holm(np.array([stats.sign_flip_test(values[best] - values[i], units) for i in behind]))
        beyond = np.array([means[best] - means[i] > np.hypot(halves[best], halves[i]) for i in behind])
        if effect:
            found_it = [names == {"m0"} for names in tied]
            counts += (*found_it, best == 0 and beyond.all(), best == 0 and flips.max() <= ALPHA)
        else:
            left = [len(names) < n_models for names in tied]
            counts += (*left, beyond.any(), flips.min() <= ALPHA)
    return tuple(counts / runs)


def interval_coverage(
    n_units: int, spreads: tuple[float, float, float], *, crossed: bool, runs: int, seed: int
) -> tuple[float, ...]:
    """Coverage and mean width of intervals for a mean: t, bootstrap of whole units, hierarchical bootstrap.

    Each unit sees six stimuli four times. ``spreads`` are the standard deviations between units, between stimuli (of
    each unit, or, if ``crossed``, the same for all, as where everybody sees the same pictures) and between trials.
    """
    rng = np.random.default_rng([seed, n_units, crossed])
    unit, stimulus = np.repeat(np.arange(n_units), 24), np.tile(np.repeat(np.arange(6), 4), n_units)
    between, among, within = spreads
    hits, widths = np.zeros(3), np.zeros(3)
    for _ in range(runs):
        effects = np.broadcast_to(rng.normal(size=(1 if crossed else n_units, 6)), (n_units, 6))[unit, stimulus]
        values = between * rng.normal(size=n_units)[unit] + among * effects + within * rng.normal(size=unit.size)
        found = (
            stats.cluster_interval(values, unit),
            stats.hierarchical_interval(unit_means(values, n_units), [np.arange(n_units)], n_boot=1000),
            stats.hierarchical_interval(values, [unit, stimulus], n_boot=1000),
        )
        for i, interval in enumerate(found):
            assert interval is not None
            hits[i] += interval.low <= 0 <= interval.high
            widths[i] += interval.high - interval.low
    return (*(hits / runs), *(widths / runs))


def unit_means(values: np.ndarray, n_units: int) -> np.ndarray:
    return values.reshape(n_units, -1).mean(axis=1)


def set_coverage(n_units: int, spread: float, *, runs: int, seed: int) -> tuple[float, float]:
    """Coverage of jackknife intervals of a Fréchet distance, leaving out trials and whole units.

    480 images with 8 features, shifted together within a unit with standard deviation ``spread``. The truth is the mean
    distance at this number of images.
    """
    rng = np.random.default_rng([seed, n_units])
    units, real = np.arange(480) * n_units // 480, rng.normal(size=(480, 8))

    def draw() -> np.ndarray:
        return 0.5 + rng.normal(size=real.shape) + spread * rng.normal(size=(n_units, 8))[units]

    truth = np.mean([distance_of(draw(), real, slice(None)) for _ in range(2 * runs)])
    hits = np.zeros(2)
    for _ in range(runs):
        measure = partial(distance_of, draw(), real)
        for i, of in enumerate((None, units)):
            found = stats.jackknife_interval(measure, 480, units=of)
            assert found is not None
            hits[i] += found.low <= truth <= found.high
    return tuple(hits / runs)


def distance_of(images: np.ndarray, real: np.ndarray, rows: np.ndarray | slice) -> float:
    return frechet_distance(generated=images[rows], reference=real)


def chance_errors(n_units: int, n_trials: int, chance: float, spread: float, *, runs: int, seed: int) -> float:
    """How often hits at chance are called better; the units' rates have mean ``chance`` (beta, sd ``spread``)."""
    rng = np.random.default_rng([seed, n_units, n_trials])
    units = np.repeat(np.arange(n_units), n_trials)
    found = []
    for _ in range(runs):
        rate = np.full(n_units, chance)
        if spread:
            strength = chance * (1 - chance) / spread**2 - 1
            rate = rng.beta(chance * strength, (1 - chance) * strength, n_units)
        test = stats.p_against_chance((rng.random(units.size) < rate[units]).astype(float), units, chance)
        assert test is not None
        found.append(test.p)
    return float(np.mean(np.array(found) <= ALPHA))


# ---- the tables


def compare_table(runs: int) -> Iterator[Sequence[object]]:
    yield "values", "units", "ties: anything", "ties: headline", "covered", "power at 0.5", "power at 1", "power at 2"
    for kind in ("continuous", "binary", "skewed"):
        for n_units in UNITS:
            tie = compared(World(n_units, kind), runs=runs, seed=1)
            power = [compared(World(n_units, kind, effect), runs=runs // 4, seed=2).headline for effect in (0.5, 1, 2)]
            yield kind, n_units, tie.anything, tie.headline, tie.covered, *power


def seeds_table(runs: int) -> Iterator[Sequence[object]]:
    yield "seeds of each", "ties: headline", "power at 1", "power at 2"
    for n_seeds in (1, 2, 3, 5):
        worlds = (World(12, effect=effect, seed_spread=0.4) for effect in (0.0, 1.0, 2.0))
        yield n_seeds, *(compared(world, runs=runs, seed=3, n_seeds=n_seeds).headline for world in worlds)


RULES = ("test of all pairs", "intervals apart", "beyond √(h² + h²)", "sign flips against the leader")


def ties_table(runs: int) -> Iterator[Sequence[object]]:
    yield "units", "models", *RULES
    for n_units in (6, 12, 24):
        for n_models in (2, 5, 10, 20):
            yield n_units, n_models, *board_ties(n_models, n_units, runs=runs // 2, seed=4)


def leader_table(runs: int) -> Iterator[Sequence[object]]:
    yield "units", "models", "effect", *RULES
    for n_units in (6, 12, 24):
        for n_models, effect in ((2, 1.0), (2, 2.0), (5, 1.0), (5, 2.0)):
            found = board_ties(n_models, n_units, runs=runs // 8, seed=5, effect=effect)
            yield n_units, n_models, effect, *found


def intervals_table(runs: int) -> Iterator[Sequence[object]]:
    yield (
        "stimuli",
        "sd of units, stimuli, trials",
        "units",
        *(f"{what}, {how}" for what in ("covered", "width") for how in ("t", "units drawn", "three levels drawn")),
    )
    for crossed in (False, True):
        for spreads in ((1.0, 1.0, 1.0), (0.3, 0.3, 1.0), (0.0, 0.0, 1.0)):
            for n_units in UNITS:
                found = interval_coverage(n_units, spreads, crossed=crossed, runs=runs // 4, seed=5)
                yield "shared" if crossed else "own", ", ".join(f"{s:g}" for s in spreads), n_units, *found


def sets_table(runs: int) -> Iterator[Sequence[object]]:
    yield "sd of units", "units", "trials left out", "units left out"
    for spread in (0.0, 0.5):
        for n_units in UNITS:
            yield spread, n_units, *set_coverage(n_units, spread, runs=runs // 4, seed=7)


def chance_table(runs: int) -> Iterator[Sequence[object]]:
    yield "chance", "units", "trials of each", "sd of units", "called better"
    for chance in (0.5, 0.1, 0.025):
        for n_units, n_trials, spread in (
            *((n, 1, 0.0) for n in (20, 100, 400)),
            *((n, 20, spread) for spread in (0.0, 0.4 * chance) for n in (5, 6, 12, 24)),
        ):
            yield chance, n_units, n_trials, spread, chance_errors(n_units, n_trials, chance, spread, runs=runs, seed=6)


TABLES = {
    "compare": compare_table,
    "seeds": seeds_table,
    "ties": ties_table,
    "leader": leader_table,
    "intervals": intervals_table,
    "sets": sets_table,
    "chance": chance_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    given = parser.parse_args()
    for name in given.only:
        print(f"\n### {name}, {given.runs} runs\n")
        write(TABLES[name](given.runs))


def write(rows: Iterable[Sequence[object]]) -> None:
    """As markdown, row by row while it is computed."""
    for i, row in enumerate(rows):
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        print(f"| {' | '.join(cells)} |", *(["|" + "---|" * len(row)] if i == 0 else []), sep="\n", flush=True)


if __name__ == "__main__":
    main()

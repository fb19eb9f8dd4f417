from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import ttest_1samp

from leaderboard.board import FsBoard
from leaderboard.compare import Comparison, Difference, Side, compare, find_sides, read_trials
from leaderboard.ranking import ALPHA
from leaderboard.standing import note_of, standings
from leaderboard.ties import all_pairs
from leaderboard.units import Trials
from zoo.errors import IntegrityError, UnknownNameError, UsageError
from zoo.record import Record, System, Value
from zoo.stats import cluster_error, holm, welch_p

Make = Callable[..., Record]
ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "leaderboard"
COLUMNS = ("system", "metric", "trial_id", "unit", "value")
Values = Mapping[str, Any]


def value(number: float | None, *, higher: bool | None = True, signature: str = "s", **more: Any) -> Value:
    reason = None if number is not None else "too few trials"
    return Value(value=number, reason=reason, signature=signature, higher_is_better=higher, **more)


def trials(values: Any, units: Any) -> Trials:
    values = np.asarray(values, dtype=np.float64)
    return Trials(np.array([f"t{i:03d}" for i in range(values.size)]), np.asarray(units), values)


@pytest.fixture
def side(make_record: Make) -> Callable[..., Side]:
    """What an evaluation gives: ``accuracy`` is the headline; metrics map to per-trial values, all of ``units``."""

    def build(model: str, metrics: Values, units: Any, *, siblings: tuple[Record, ...] = (), **identity: Any) -> Side:
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in metrics.items()}
        values = {name: value(float(array.mean())) for name, array in arrays.items()}
        record = make_record(model, None, values=values, **identity)
        return Side(record, {("model", name): trials(array, units) for name, array in arrays.items()}, siblings)

    return build


def named(found: Comparison) -> dict[str, Difference]:
    return {pair.metric: pair for pair in found.differences}


# ---- one metric


def test_a_planted_difference_by_hand(side: Callable[..., Side]) -> None:
    # six units with two trials each; unit means differ by 1, 2, … 6: all of one sign, so 2 of 2^6 flips reach the sum
    units = np.repeat(list("abcdef"), 2)
    b = np.random.default_rng(0).normal(size=12)
    a = b + np.repeat(np.arange(1.0, 7.0), 2) + np.tile([0.5, -0.5], 6)
    (pair,) = compare(side("alpha", {"accuracy": a}, units), side("beta", {"accuracy": b}, units)).differences
    steps = np.arange(1.0, 7.0)
    low, high = ttest_1samp(steps, 0).confidence_interval(0.95)
    assert (pair.p_units, pair.p, pair.shown, pair.better) == (2 / 64, 2 / 64, True, "a")
    assert pair.difference == pytest.approx(3.5)
    assert pair.interval == pytest.approx((low, high))
    assert pair.effect == pytest.approx(3.5 / steps.std(ddof=1))
    assert (pair.n_trials, pair.n_units, pair.p_seeds, pair.reason) == (12, 6, None, None)


def test_swapping_the_sides_mirrors_everything(side: Callable[..., Side]) -> None:
    rng, units = np.random.default_rng(1), np.repeat(np.arange(8), 3)
    a, b = (side(name, {"accuracy": rng.normal(size=24)}, units) for name in ("alpha", "beta"))
    (forth,), (back,) = compare(a, b).differences, compare(b, a).differences
    assert (back.difference, back.effect, back.p) == pytest.approx((-forth.difference, -forth.effect, forth.p))  # type: ignore[operator]
    assert back.interval == pytest.approx(tuple(-x for x in reversed(forth.interval or ())))
    assert {forth.better, back.better} == {"a", "b"}


def test_lower_is_better_where_the_record_says_so(make_record: Make) -> None:
    units = np.arange(6)
    a, b = (
        Side(
            make_record(name, None, values={"accuracy": value(mean, higher=False)}),
            {("model", "accuracy"): trials(np.full(6, mean) + 0.01 * units, units)},
        )
        for name, mean in (("alpha", 3.0), ("beta", 2.0))
    )
    (pair,) = compare(a, b).differences
    assert (pair.difference, pair.better, pair.shown) == (pytest.approx(1.0), "b", True)


def test_trials_are_paired_by_id_whatever_their_order(side: Callable[..., Side]) -> None:
    rng, units = np.random.default_rng(2), np.repeat(np.arange(6), 4)
    a, b = (side(name, {"accuracy": rng.normal(size=24)}, units) for name in ("alpha", "beta"))
    order, some = rng.permutation(24), slice(0, 20)
    ids, of, values = b.trials["model", "accuracy"]
    mixed = Side(b.record, {("model", "accuracy"): Trials(ids[order], of[order], values[order])})
    assert compare(a, mixed).differences == compare(a, b).differences
    fewer = Side(b.record, {("model", "accuracy"): Trials(ids[some], of[some], values[some])})
    (pair,) = compare(a, fewer).differences
    expected = (a.trials["model", "accuracy"].values - values)[:20].mean()
    assert (pair.n_trials, pair.n_units, pair.difference) == (20, 5, pytest.approx(expected))


def test_what_has_no_test_says_why(side: Callable[..., Side], make_record: Make) -> None:
    rng = np.random.default_rng(0)
    same = rng.normal(size=6)

    def reason(a: Side, b: Side) -> str | None:
        (pair,) = compare(a, b).differences
        assert (pair.p_units, pair.p, pair.shown) == (None, None, None)
        return pair.reason

    def whole(model: str, interval: tuple[float, float] | None) -> Side:
        record = make_record(model, 0.5, interval=interval, signature="s")
        return Side(record, {("model", "other"): trials([1.0], ["a"])})

    one, other = (side(name, {"accuracy": same}, np.arange(6)) for name in ("alpha", "beta"))
    assert reason(one, other) == "nothing to test, since both have the same value on every trial"
    one, other = (side(name, {"accuracy": rng.normal(size=6)}, np.zeros(6)) for name in ("alpha", "beta"))
    assert reason(one, other) == "no test, since it takes trials of two units and both share those of 1"
    start = "no paired test, since a value of the whole set has no parts to pair"
    assert reason(whole("alpha", (1, 2)), whole("beta", (2, 3))) == f"{start}; their intervals overlap"
    assert reason(whole("alpha", (1, 2)), whole("beta", (3, 4))) == f"{start}; their intervals do not overlap"
    assert reason(whole("alpha", (1, 2)), whole("beta", None)) == start
    bare = Side(one.record)
    assert reason(bare, other) == f"the values per trial of {one.record.id[:12]} do not lie beside its record"


# ---- several metrics


def of_signs(*signs: str) -> list[list[float]]:
    """Per-trial differences of ten units whose first units, as many as there are minus signs, disagree."""
    return [[-0.1 if mark == "-" else 1.0 for mark in row.ljust(10, "+")] for row in signs]


def test_the_headline_is_tested_alone_and_the_others_by_holm(side: Callable[..., Side]) -> None:
    rows = dict(zip(("accuracy", "x", "y", "z"), of_signs("-", "", "--", "----"), strict=True))
    zeros, units = {name: np.zeros(10) for name in rows}, np.arange(10)
    found = named(compare(side("alpha", rows, units), side("beta", zeros, units)))
    p = {name: found[name].p_units for name in rows}
    flips = np.array(list(itertools.product([-1, 1], repeat=10)))
    for name, row in rows.items():
        assert p[name] == np.mean(np.abs(flips @ row) >= abs(sum(row)) - 1e-9)
    assert found["accuracy"].p == p["accuracy"] == 4 / 1024
    # three others: times 3, 2, 1, never below the one before nor below the headline
    assert p["x"] == 2 / 1024
    assert [found[name].p for name in "xyz"] == [3 * p["x"], 2 * p["y"], max(p["z"], 2 * p["y"])]  # type: ignore[operator]
    alone = named(compare(side("alpha", rows, units), side("beta", zeros, units), metrics=["z"]))
    assert [(name, pair.p) for name, pair in alone.items()] == [("z", p["z"])]


def test_nothing_counts_unless_the_headline_differs(side: Callable[..., Side]) -> None:
    rows = dict(zip(("accuracy", "x"), of_signs("-----", ""), strict=True))
    zeros, units = {name: np.zeros(10) for name in rows}, np.arange(10)
    found = compare(side("alpha", rows, units), side("beta", zeros, units))
    pairs = named(found)
    assert pairs["x"].p_units == 2 / 1024
    assert pairs["x"].p == pairs["accuracy"].p > 0.05  # type: ignore[operator]
    assert "The headline accuracy is not shown to differ, so no other metric counts as different." in found.notes
    # one that cannot differ asks nothing, so it closes no gate
    found = compare(side("alpha", {**rows, "accuracy": np.zeros(10)}, units), side("beta", zeros, units))
    assert (named(found)["accuracy"].p, named(found)["x"].shown) == (None, True)


@pytest.mark.parametrize(
    ("n_units", "metrics", "sentence"),
    [
        (4, "x", "With 4 units p is at least 0.125: no difference can be shown, however large it is."),
        (
            6,
            "xy",
            "With 6 units p is at least 0.0312, and 0.0625 when corrected for 2 metrics, so only the headline can be "
            "shown to differ; a metric chosen before looking can be tested alone with --metric.",
        ),
        (7, "xyz", None),
    ],
)
def test_what_few_units_cannot_show_is_said(
    side: Callable[..., Side], n_units: int, metrics: str, sentence: str | None
) -> None:
    units = np.arange(n_units)
    a, b = (side(name, dict.fromkeys(["accuracy", *metrics], units + up), units) for name, up in (("a", 1), ("b", 0)))
    found = compare(a, b)
    limits = [note for note in found.notes if note.startswith("With")]
    assert limits == ([] if sentence is None else [sentence])
    assert [pair.shown for pair in found.differences] == [n_units > 5] + [n_units > 6] * len(metrics)


def test_what_only_one_has_or_measured_otherwise_is_left_out_with_its_reason(make_record: Make) -> None:
    a, b = (
        Side(make_record(name, 0.5, values={**both, "same": value(0.1), "null": value(None), "undirected": odd}))
        for odd in (value(0.2, higher=None),)
        for name, both in (
            ("alpha", {"mine": value(0.1), "other": value(0.2), "fails": value(None)}),
            ("beta", {"other": value(0.2, signature="s2"), "fails": value(0.3)}),
        )
    )
    found = compare(a, b)
    assert [pair.metric for pair in found.differences] == ["accuracy", "same"]
    assert found.notes[:4] == (
        f"mine is not compared: beta {b.record.id[:7]} has no value (it was not asked for).",
        "other is not compared: it was measured differently (s against s2).",
        "undirected is not compared: its record does not say whether higher is better.",
        f"fails is not compared: alpha {a.record.id[:7]} has no value (too few trials).",
    )
    with pytest.raises(UsageError) as error:
        compare(a, b, metrics=["fdi"])
    assert str(error.value) == (
        f"{a.name} and {b.name} must share a metric to be compared, but do not: "
        f"fdi is not compared: {a.name} has no value (it was not asked for)."
    )
    failed = Side(make_record("alpha", status="failed", error="ValueError: no"))
    with pytest.raises(
        UsageError, match=r"must share a metric to be compared, but do not: no metric has a value in both\.$"
    ):
        compare(failed, failed)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("track", "reconstruction/phantom.stimulus-out@1"),
        ("track_sha256", "1" * 64),
        ("split", "subject-out@2"),
        ("split_sha256", "1" * 64),
        ("trials_fingerprint", "1" * 64),
    ],
)
def test_records_of_two_contests_are_refused(make_record: Make, name: str, other: str) -> None:
    a, b = make_record("alpha"), make_record("beta", **{name: other})
    with pytest.raises(UsageError) as error:
        compare(Side(a), Side(b))
    assert str(error.value) == (
        f"records must be of one contest to be compared, but {a.id[:12]} and {b.id[:12]} differ in {name} "
        f"({getattr(a.identity, name)} against {other}); evaluate both on the same track."
    )


def test_what_a_difference_rests_on_is_noted(make_record: Make) -> None:
    a = Side(make_record("alpha", verdict="confounded"))
    b = Side(make_record("beta", status="partial", eeg_sha256="1" * 64, verdict="confounded"))
    assert compare(a, b).notes == (
        "Confounded: the class can be told without the brain's answer, so a better score is no better decoding.",
        "Partial: at least one record was made on some of the trials only.",
        "A and B were made on differently prepared EEG of the same trials.",
        "p speaks of these two trainings: without two seeds of each, nobody knows how far another would be off.",
    )


# ---- controls, samples and seeds


def test_a_model_is_compared_with_its_own_control(make_record: Make) -> None:
    units = np.arange(6)
    record = make_record("alpha", None, values={"accuracy": value(0.9)})
    record = record.model_copy(update={"controls": {"shuffled-eeg": System(values={"accuracy": value(0.2)})}})
    parts = {
        ("model", "accuracy"): trials(np.full(6, 0.9) + units / 100, units),
        ("shuffled-eeg", "accuracy"): trials(np.full(6, 0.2), units),
    }
    found = compare(Side(record, parts), Side(record, parts, system="shuffled-eeg"))
    assert (found.a, found.b) == (f"alpha {record.id[:7]}", f"shuffled-eeg of alpha {record.id[:7]}")
    assert (found.differences[0].shown, found.differences[0].better, found.notes) == (True, "a", ())


def test_samples_and_seeds_stand_apart(side: Callable[..., Side], make_record: Make) -> None:
    units = np.arange(12)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 12)) / 100

    def trained(model: str, scores: tuple[float, ...], row: np.ndarray) -> Side:
        others = (make_record(model, None, values={"accuracy": value(s)}, seed=i + 1) for i, s in enumerate(scores[1:]))
        record = make_record(model, None, values={"accuracy": value(scores[0], replicates=(0.4, 0.5, 0.6))})
        return Side(record, {("model", "accuracy"): trials(scores[0] + row - row.mean(), units)}, tuple(others))

    near = compare(trained("alpha", (0.5, 0.3, 0.7), noise[0]), trained("beta", (0.4, 0.2, 0.6), noise[1]))
    (pair,) = near.differences
    assert (pair.samples, pair.seeds) == (pytest.approx((0.1, 0.1)), pytest.approx((0.2, 0.2)))
    assert pair.p_units == 2 / 2**12
    # t = 0.1 / √(2 · 0.2² / 3) = 0.61 on about 4 degrees of freedom: other trainings may well turn it round
    assert pair.p_seeds == pair.p == pytest.approx(0.573, abs=0.003)
    assert (pair.shown, near.n_seeds) == (False, (3, 3))
    (apart,) = compare(
        trained("alpha", (0.9, 0.88, 0.92), noise[0]), trained("beta", (0.4, 0.42, 0.38), noise[1])
    ).differences
    assert apart.p_seeds is not None
    assert (apart.shown, apart.better, apart.p) == (True, "a", max(apart.p_seeds, 2 / 2**12))
    (single,) = compare(trained("alpha", (0.5,), noise[0]), trained("beta", (0.4, 0.2), noise[1])).differences
    assert (single.seeds, single.p_seeds, single.shown) == ((None, pytest.approx(0.1414, abs=1e-4)), None, True)


def test_a_value_of_the_whole_set_has_its_seeds_all_the_same(make_record: Make) -> None:
    a, b = (
        Side(make_record(name, first), siblings=[make_record(name, second, seed=1)])
        for name, first, second in (("alpha", 0.5, 0.6), ("beta", 0.1, 0.2))
    )
    (pair,) = compare(a, b).differences
    # t = 0.4 / √(2 · 0.005 / 2) = 5.66 on 2 degrees of freedom
    assert (pair.p_seeds, pair.p, pair.shown) == (pytest.approx(0.02986, abs=1e-4), None, None)


# ---- how often it errs


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", ROOT / "benchmarks" / "statistics_calibration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("n_units", "kind"), [(6, "continuous"), (12, "binary"), (24, "continuous")])
def test_equal_systems_are_called_different_in_at_most_6_of_100(
    calibration: ModuleType, n_units: int, kind: str
) -> None:
    rates = calibration.compared(calibration.World(n_units, kind), runs=400, seed=0)
    assert rates.anything <= 0.06  # seeded; 2,000 runs each in docs/statistics.md
    assert 0.92 <= rates.covered <= 0.98


def test_three_units_never_differ(calibration: ModuleType) -> None:
    assert calibration.compared(calibration.World(3, effect=100.0), runs=20, seed=0).anything == 0


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_a_planted_difference_is_found_and_held_by_its_interval(calibration: ModuleType, kind: str) -> None:
    rates = calibration.compared(calibration.World(12, kind, effect=2.0), runs=100, seed=0)
    assert rates.headline >= 0.9
    assert rates.covered >= 0.9  # standard error 0.02


def test_seeds_keep_lucky_trainings_from_winning(calibration: ModuleType) -> None:
    world = calibration.World(12, seed_spread=0.4)
    lucky, known = (calibration.compared(world, runs=200, seed=0, n_seeds=n).headline for n in (1, 3))
    assert lucky > 0.12
    assert known <= 0.06


def test_the_board_keeps_equal_models_together_where_there_are_no_values_per_trial(calibration: ModuleType) -> None:
    _, apart, sharper, _ = calibration.board_ties(10, 12, runs=50, seed=0)
    assert apart <= 0.06 < sharper


@pytest.mark.parametrize(("n_units", "n_models"), [(3, 2), (6, 5), (12, 10)])
def test_all_pairs_keep_equal_models_together(n_units: int, n_models: int) -> None:
    rng, units, apart = np.random.default_rng(0), np.repeat(np.arange(n_units), 10), 0
    for _ in range(1000):
        values = rng.normal(size=(n_models, n_units))[:, units] + rng.normal(size=(n_models, units.size))
        p = all_pairs(values + rng.normal(size=n_units)[units], units)
        assert p is not None
        apart += p.min() <= ALPHA
    assert apart <= 70  # 50 expected, standard error 7


def test_all_pairs_are_the_paired_t_of_each_corrected() -> None:
    rng = np.random.default_rng(1)
    values, units = rng.normal(size=(3, 40)), np.arange(40) % 5
    p = all_pairs(values, units)
    assert p is not None
    pairs = [(0, 1), (0, 2), (1, 2)]
    alone = []
    for i, j in pairs:
        difference = values[i] - values[j]
        alone.append(welch_p(float(difference.mean()), [(cluster_error(difference, units) ** 2, 4)]))
    np.testing.assert_allclose([p[i, j] for i, j in pairs], holm(np.array(alone)), rtol=1e-10)
    np.testing.assert_array_equal(p, p.T)
    assert all_pairs(values, np.zeros(40)) is None


def test_models_that_never_differ_are_equal_and_those_that_always_do_are_not_surer_than_sign_flips() -> None:
    values, units = np.stack([np.ones(12), np.ones(12), np.zeros(12)]), np.arange(12) % 6
    p = all_pairs(values, units)
    assert p is not None
    assert p[0, 1] == 1
    assert p[0, 2] == pytest.approx(3 * 2 / 2**6)


def test_a_better_model_leads_alone_more_often_by_pairs_than_by_intervals(calibration: ModuleType) -> None:
    tested, apart, _, _ = calibration.board_ties(2, 12, runs=50, seed=0, effect=2.0)
    assert tested >= 0.9
    assert apart < tested - 0.2


# ---- files and names


def parquet(rows: list[tuple[str, str, str, str, float]], columns: tuple[str, ...] = COLUMNS) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), sink)
    return sink.getvalue()


ROWS = [("model", "accuracy", f"t{i}", f"u{i % 6}", i / 12) for i in range(12)]


@pytest.fixture
def board(tmp_path: Path) -> FsBoard:
    return FsBoard(tmp_path)


def push(board: FsBoard, record: Record, units: bytes | None) -> Record:
    sha = None if units is None else hashlib.sha256(units).hexdigest()
    record = record.model_copy(update={"units_sha256": sha})
    board.push(record, units)
    return record


def test_values_beside_a_record_are_read_as_they_were_written(
    board: FsBoard, make_record: Make, tmp_path: Path
) -> None:
    more = [("shuffled-eeg", "accuracy", "t0", "u0", 0.5)]
    record = push(board, make_record(), parquet(ROWS + more))
    found = read_trials(f"{tmp_path}/records/{record.name}", record)
    assert set(found) == {("model", "accuracy"), ("shuffled-eeg", "accuracy")}
    ids, units, values = found["model", "accuracy"]
    assert list(zip(ids, units, values, strict=True)) == [row[2:] for row in ROWS]
    bare = push(board, make_record("bare"), None)
    assert read_trials(f"{tmp_path}/records/{bare.name}", bare) == {}


@pytest.mark.parametrize(
    "rows", [[*ROWS, ROWS[0]], [*ROWS[:-1], (*ROWS[-1][:-1], float("nan"))]], ids=["twice", "not a number"]
)
def test_values_that_cannot_be_compared_are_refused(
    board: FsBoard, make_record: Make, tmp_path: Path, rows: list[tuple[str, str, str, str, float]]
) -> None:
    record = push(board, make_record(), parquet(rows))
    path = f"{tmp_path}/records/{record.name}"
    with pytest.raises(UsageError) as error:
        read_trials(path, record)
    beside = path.replace(".json", ".units.parquet")
    assert str(error.value) == f"{beside} must hold one finite value per trial, but does not for accuracy."


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no parquet", "must be parquet with the values per trial, but is not: "),
        (
            parquet(ROWS, ("a", "b", "c", "d", "e")),
            r"must have the columns system, metric, trial_id, unit, value, but has a, b, c, d, e\.$",
        ),
    ],
    ids=["text", "columns"],
)
def test_other_files_beside_a_record_are_refused(
    board: FsBoard, make_record: Make, tmp_path: Path, data: bytes, sentence: str
) -> None:
    record = push(board, make_record(), data)
    path = f"{tmp_path}/records/{record.name}"
    with pytest.raises(UsageError, match=rf"units\.parquet {sentence}"):
        read_trials(path, record)
    with pytest.raises(IntegrityError) as error:
        read_trials(path, make_record("another"))
    beside = path.replace(".json", ".units.parquet")
    assert str(error.value) == (
        f"{beside} is not the file that {make_record('another').id[:12]} was written with; fetch both again."
    )


def test_names_mean_files_ids_and_models(board: FsBoard, make_record: Make, tmp_path: Path) -> None:
    alpha, beta = (push(board, make_record(name), parquet(ROWS)) for name in ("alpha", "beta"))
    records = list(board.records())

    def found(a: str, b: str | None, **more: Any) -> tuple[str, str]:
        one, other = find_sides(a, b, board=str(tmp_path), records=records, **more)
        assert one.trials.keys() == other.trials.keys() == {("model", "accuracy")}
        return one.name, other.name

    names = f"alpha {alpha.id[:7]}", f"beta {beta.id[:7]}"
    assert found("alpha", "beta") == names
    assert found(alpha.id[:5], beta.id) == names
    assert found(f"{tmp_path}/records/{alpha.name}", "beta") == names
    assert found("alpha", None) == (names[0], f"shuffled-eeg of {names[0]}")
    assert found("alpha", "alpha") == (names[0], names[0])


def test_of_several_seeds_the_smallest_stands_and_the_others_are_its_siblings(
    board: FsBoard, make_record: Make, tmp_path: Path
) -> None:
    scores = {0: 0.5, 1: 0.6, 2: 0.9}
    runs = [make_record("alpha", score, seed=seed, weights_sha256=str(seed) * 64) for seed, score in scores.items()]
    other = [
        make_record("alpha", 0.1, seed=3, selection="last step"),
        make_record("alpha", 0.1, seed=4, config={"x": 1}),
    ]
    for record in (*runs, *other, make_record("beta")):
        board.push(record)
    records = list(board.records())
    one, two = find_sides(runs[1].id, "beta", board=str(tmp_path), records=records)
    assert (one.record, sorted(one.trained("accuracy")), two.siblings) == (runs[1], [0.5, 0.6, 0.9], [])
    kept = [record for record in records if record not in other]
    one, _ = find_sides("alpha", "beta", board=str(tmp_path), records=kept)
    assert (one.record, sorted(one.trained("accuracy"))) == (runs[0], [0.5, 0.6, 0.9])
    # two seeds of one training, from files alone: what differs is the seed, so nothing is shown
    pair = find_sides(*(f"{tmp_path}/records/{run.name}" for run in runs[:2]), board=str(tmp_path), records=[])
    found = compare(*pair)
    assert (found.n_seeds, found.differences[0].p_seeds) == ((2, 2), 1.0)
    assert found.notes == ("A and B are one training with two seeds: what differs between them is the seed.",)


def test_what_was_taken_back_is_compared_only_if_it_is_meant_and_then_said(
    board: FsBoard, make_record: Make, tmp_path: Path
) -> None:
    gone, kept, beta = make_record("alpha", 0.9), make_record("alpha", 0.5, seed=1), make_record("beta", 0.4)
    records = [push(board, record, parquet(ROWS)) for record in (gone, kept, beta)]
    notes = [
        note_of(records[0], "retracted", by="me", reason="saw the test role"),
        note_of(records[2], "contested", by="you", reason="old recordings"),
    ]
    options: dict[str, Any] = {"board": str(tmp_path), "records": records, "standings": standings(records, notes)}
    one, other = find_sides("alpha", "beta", **options)
    assert (one.record, [*one.siblings]) == (records[1], []), "not the seed that was taken back"
    assert compare(one, other).notes[0] == f"beta {records[2].id[:7]} is contested: old recordings (you)."
    found = compare(*find_sides(records[0].id, "beta", **options)).notes
    assert found[0] == f"alpha {records[0].id[:7]} is retracted: saw the test role (me)."
    assert sum("retracted" in note for note in compare(*find_sides(records[0].id, None, **options)).notes) == 1


def test_the_run_that_the_board_ranks_stands_for_an_identity(board: FsBoard, make_record: Make, tmp_path: Path) -> None:
    runs = [make_record("alpha", score, created=f"2026-01-0{day}") for day, score in ((2, 0.4), (1, 0.5))]
    for record in runs:
        board.push(record)
    one, _ = find_sides("alpha", None, board=str(tmp_path), records=list(board.records()))
    assert one.record == runs[1]


def test_a_name_that_means_nothing_or_too_much_is_refused(board: FsBoard, make_record: Make, tmp_path: Path) -> None:
    other = "reconstruction/phantom.stimulus-out@1"
    configs = [make_record("gamma", config={"x": x}) for x in (1, 2)]
    elsewhere = [make_record("beta", track=other), make_record("delta", track=other), make_record("alpha", track=other)]
    for record in (make_record("alpha"), make_record("beta"), *configs, *elsewhere):
        board.push(record)
    records, here = list(board.records()), "reconstruction/phantom.subject-out@1"

    def message(a: str, b: str | None, **more: Any) -> str:
        with pytest.raises(UsageError) as error:
            find_sides(a, b, board=str(tmp_path), records=records, **more)
        assert isinstance(error.value, UnknownNameError) is ("neither" in str(error.value))
        return str(error.value)

    assert message("alpha", "omega", track=here) == (
        f"'omega' must be a record file (.json), the first 4 or more digits of a record's id or a model, but "
        f"{tmp_path} in {here} has neither; its models are: alpha, beta, gamma."
    )
    assert message("alpha", "beta") == (
        f"a comparison needs one track, but alpha is on {other}, {here}; beta is on {other}, {here}; "
        "choose one with --track."
    )
    assert message("gamma", "delta") == (
        f"a comparison needs one track, but gamma is on {here}; delta is on {other}; evaluate both on the same one."
    )
    ids = ", ".join(sorted(f"{record.id[:12]} (seed 0)" for record in configs))
    said = f"gamma must mean one training up to its seed, but means {ids}; name one by its id."
    assert message("alpha", "gamma") == said
    name = f"alpha {make_record('alpha').id[:7]}"
    said = f"{name} has no control 'noise'; its controls are: shuffled-eeg."
    assert message("alpha", None, track=here, control="noise") == said
    with pytest.raises(UsageError, match=r"^a record must be a file, but there is none at nowhere\.json"):
        find_sides("nowhere.json", None, board=str(tmp_path), records=records)


def test_published_records_compare() -> None:
    records = list(FsBoard(PUBLISHED).records())
    track = "reconstruction/phantom.stimulus-out@2"
    sides = find_sides("eeg2image.small", None, board=str(PUBLISHED), records=records, track=track)
    found = compare(*sides)
    headline = named(found)[found.headline]
    # six simulated subjects, on every one of which the model is better than with shuffled EEG
    assert (headline.shown, headline.better, headline.n_units, headline.p_units) == (True, "a", 6, 2 / 64)
    value = sides[0].record.values[found.headline]
    assert value.value == pytest.approx(sides[0].trials["model", found.headline].values.mean(), rel=1e-9)

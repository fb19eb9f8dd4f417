from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from leaderboard.ranking import Table, rank
from zoo.record import Record, System, Value

Make = Callable[..., Record]
HOUR = "2026-01-01T{:02d}:00:00+00:00"


def only(tables: list[Table]) -> Table:
    (table,) = tables
    return table


def order(table: Table) -> list[tuple[str, int | None, int | None]]:
    return [(row.name, row.rank, row.tie) for row in table.entries]


def test_no_records_make_no_table() -> None:
    assert rank([]) == []


def test_the_direction_is_the_one_the_record_names(make_record: Make) -> None:
    for higher, best in ((True, ["c", "b", "a"]), (False, ["a", "b", "c"])):
        table = only(rank([make_record(name, score, higher=higher) for name, score in (("b", 2), ("c", 3), ("a", 1))]))
        assert [row.name for row in table.entries] == best
        assert table.higher_is_better is higher


def test_entries_tie_with_the_leader_of_their_group_only(make_record: Make) -> None:
    # b overlaps a; c overlaps b, the middle of the chain, but not a, the leader: it begins the next group
    spans = {"a": (0.80, 0.70, 0.90), "b": (0.70, 0.60, 0.80), "c": (0.60, 0.50, 0.69), "d": (0.55, 0.45, 0.65)}
    records = [make_record(name, value, interval=(low, high)) for name, (value, low, high) in spans.items()]
    assert order(only(rank(records))) == [("a", 1, 1), ("b", 1, 1), ("c", 3, 2), ("d", 3, 2)]


def test_intervals_that_touch_overlap(make_record: Make) -> None:
    records = [make_record("a", 0.8, interval=(0.7, 0.9)), make_record("b", 0.6, interval=(0.5, 0.7))]
    assert order(only(rank(records))) == [("a", 1, 1), ("b", 1, 1)]


def test_without_an_interval_an_entry_ties_with_nobody(make_record: Make) -> None:
    records = [
        make_record("a", 0.8, interval=(0.0, 1.0)),
        make_record("b", 0.7),
        make_record("c", 0.6, interval=(0.0, 1.0)),
        make_record("d", 0.5, interval=(0.0, 1.0)),
    ]
    assert order(only(rank(records))) == [("a", 1, 1), ("b", 2, 2), ("c", 3, 3), ("d", 3, 3)]


@pytest.mark.parametrize(("higher", "margin"), [(True, 0.2), (False, -0.2)])
def test_the_margin_is_positive_where_the_model_beats_shuffled_eeg(
    make_record: Make, higher: bool, margin: float
) -> None:
    row = only(rank([make_record(score=0.5, shuffled=0.3, higher=higher)])).entries[0]
    assert row.margin == pytest.approx(margin)


def test_without_a_shuffled_score_there_is_no_margin(make_record: Make) -> None:
    record = make_record(shuffled=None)
    assert only(rank([record])).entries[0].margin is None
    assert only(rank([record.model_copy(update={"controls": {}})])).entries[0].margin is None


def test_runs_of_one_identity_are_one_row_with_its_reproductions(make_record: Make) -> None:
    first = make_record(score=0.5, created=HOUR.format(1))
    again = [make_record(score=score, created=HOUR.format(hour)) for hour, score in ((3, 0.9), (2, 0.4))]
    row = only(rank([*again, first, first])).entries[0]
    assert (row.run, row.headline.value, row.reproductions) == (first.run, 0.5, 2)
    assert row.spread == pytest.approx(0.9 - 0.4)
    alone = only(rank([first])).entries[0]
    assert (alone.reproductions, alone.spread) == (0, None)


def test_the_first_run_is_told_by_time_not_by_spelling(make_record: Make) -> None:
    # 23:30 at +02:00 is 21:30 UTC, before 22:00 UTC although its text sorts behind
    early = make_record(score=0.5, created="2026-01-01T23:30:00+02:00")
    late = make_record(score=0.6, created="2026-01-01T22:00:00+00:00")
    assert only(rank([late, early])).entries[0].run == early.run


def test_a_complete_run_stands_for_an_identity_that_failed_first(make_record: Make) -> None:
    failed = make_record(status="failed", error="MemoryError: full", created=HOUR.format(1))
    done = make_record(created=HOUR.format(2))
    row = only(rank([failed, done])).entries[0]
    assert (row.run, row.reproductions) == (done.run, 0)


def test_other_seeds_are_other_rows(make_record: Make) -> None:
    table = only(rank([make_record(score=0.5 + seed, seed=seed) for seed in range(3)]))
    assert [row.headline.value for row in table.entries] == [2.5, 1.5, 0.5]


def test_what_has_no_headline_stands_at_the_end_with_its_reason(make_record: Make) -> None:
    records = [
        make_record("null", None),
        make_record("failed", status="failed", error="ValueError: no images"),
        make_record("cut", 0.99, status="partial", limit=12),
        make_record("other", 0.99).model_copy(update={"values": {}}),
        make_record("undirected", 0.99, higher=None),
        make_record("good", 0.1),
    ]
    table = only(rank(records))
    assert order(table) == [("good", 1, 1)]
    assert [(row.name, row.headline.value, row.headline.reason, row.rank) for row in table.unscored] == [
        ("cut", None, "partial: only 12 trials were used", None),
        ("failed", None, "failed: ValueError: no images", None),
        ("null", None, "too few trials", None),
        ("other", None, "the record has no accuracy", None),
        ("undirected", None, "the record does not say whether higher accuracy is better", None),
    ]


def test_a_track_with_nothing_scored_still_shows(make_record: Make) -> None:
    table = only(rank([make_record("null", None)]))
    assert (table.entries, [row.name for row in table.unscored]) == ((), ["null"])


def test_controls_are_rows_of_the_newest_record(make_record: Make) -> None:
    def with_controls(hour: int, **scores: float | None) -> Record:
        def value(score: float | None) -> Value:
            return Value(value=score, reason=None if score is not None else "no images", higher_is_better=True)

        controls = {name.replace("_", "-"): System(values={"accuracy": value(s)}) for name, s in scores.items()}
        return make_record(f"m{hour}", created=HOUR.format(hour)).model_copy(update={"controls": controls})

    newest = with_controls(3, shuffled_eeg=0.2, class_oracle=0.9, nearest_train=None)
    bare = with_controls(4)
    table = only(rank([with_controls(1, shuffled_eeg=0.1), newest, bare, with_controls(2, shuffled_eeg=0.15)]))
    assert [(row.name, row.headline.value, row.rank, row.record) for row in table.controls] == [
        ("control: class-oracle", 0.9, None, newest.id),
        ("control: shuffled-eeg", 0.2, None, newest.id),
        ("control: nearest-train", None, None, newest.id),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"track": "reconstruction/phantom.subject-out@2"},
        {"track_sha256": "1" * 64},
        {"split_sha256": "1" * 64},
        {"trials_fingerprint": "1" * 64},
        {"signature": "accuracy|v2"},
        {"higher": False},
    ],
)
def test_what_was_measured_differently_is_never_ranked_together(make_record: Make, other: dict[str, object]) -> None:
    tables = rank([make_record("a", 0.5), make_record("b", 0.9, **other)])
    assert sorted(order(table) for table in tables) == [[("a", 1, 1)], [("b", 1, 1)]]
    note = "Other results of this track were measured differently: see its other table."
    assert all((note in table.notes) is ("track" not in other) for table in tables)


def test_confounded_results_have_a_flagged_table_behind_all_clean_ones(make_record: Make) -> None:
    bad = make_record("bad", 0.99, verdict="confounded", track="reconstruction/aaa.block@1")
    mixed = make_record("mixed", 0.98, verdict="confounded")
    tables = rank([bad, mixed, make_record("good", 0.2), make_record("odd", 0.1, verdict="suspect")])
    assert [(table.confounded, [row.name for row in table.entries]) for table in tables] == [
        (False, ["good", "odd"]),
        (True, ["bad"]),
        (True, ["mixed"]),
    ]
    flag = "Confounded: the audit found that the class can be told without the brain's answer to the picture."
    assert [table.notes for table in tables] == [(), (flag,), (flag,)]


def test_rows_say_verdict_selection_and_split(make_record: Make) -> None:
    row = only(rank([make_record(verdict=None, selection="test")])).entries[0]
    assert (row.verdict, row.selection, row.split) == ("unknown", "test", "subject-out@1")


def test_notes_name_incomplete_copies_and_other_eeg(make_record: Make) -> None:
    table = only(rank([make_record("a", complete=False), make_record("b", eeg_sha256="1" * 64)]))
    assert table.notes == (
        "Some results were made on an incomplete copy of the dataset.",
        "Results were made on differently prepared EEG of the same trials.",
    )


def test_the_order_of_records_changes_nothing(make_record: Make) -> None:
    records = [
        make_record(name, score, interval=(score - 0.05, score + 0.05), created=created, verdict=verdict)
        for name, score, created, verdict in [
            ("a", 0.5, HOUR.format(1), "clean"),
            ("a", 0.4, HOUR.format(2), "clean"),
            ("b", 0.5, HOUR.format(1), "clean"),
            ("c", 0.45, "yesterday", "suspect"),
            ("d", 0.9, HOUR.format(1), "confounded"),
        ]
    ]
    expected = rank(records)
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert rank(records) == expected


def test_a_model_that_is_given_labels_is_a_control_and_takes_no_rank(make_record: Make) -> None:
    told = make_record("class-gan", 0.99, created=HOUR.format(9))
    told = told.model_copy(update={"provenance": told.provenance.model_copy(update={"conditioned_on": "label"})})
    brain = make_record("alpha", 0.5, shuffled=0.2)
    table = only(rank([told, brain]))
    assert order(table) == [("alpha", 1, 1)]
    assert [(row.name, row.rank, row.headline.value) for row in table.controls] == [
        ("control: class-gan", None, 0.99),
        ("control: shuffled-eeg", None, 0.2),
    ]
    assert only(rank([told])).entries == ()

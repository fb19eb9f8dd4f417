"""Claims are numbers that somebody published, with the place where they were read; recalled ones are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboard.claims import Attempt, Published, attempts, claim_rows, literature, of_cards
from leaderboard.standing import note_of
from leaderboard.table import render_claims
from zoo import registry
from zoo.record import Record, Value
from zoo.specs import Claim

Make = Callable[..., Record]


def published(**more: object) -> Published:
    claim = {"metric": "accuracy", "value": 0.5, "dataset": "phantom", "source": "Table 1", "status": "seen"}
    return Published(id="alpha", title="Alpha", paper="a paper", claims=(Claim.model_validate({**claim, **more}),))


def test_a_claim_is_reproduced_where_an_interval_holds_it(make_record: Make) -> None:
    record = make_record("alpha", 0.52, interval=(0.48, 0.56))
    (row,) = claim_rows([published()], [record], tried=())
    assert row.outcome == "reproduced"
    assert row.reproduced is not None
    assert (row.reproduced.record, row.reproduced.value, row.reproduced.holds) == (record.id, 0.52, True)
    assert row.reproduced.delta == pytest.approx(0.02)


def test_a_claim_that_no_record_holds_is_not_reproduced_and_the_closest_comes_first(make_record: Make) -> None:
    far, near = make_record("alpha", 0.1, interval=(0.05, 0.15)), make_record("alpha", 0.3, seed=1)
    (row,) = claim_rows([published()], [far, near], tried=())
    assert (row.outcome, [m.value for m in row.measured]) == ("not reproduced", [0.3, 0.1])
    (row,) = claim_rows([published(spread=0.2)], [far, near], tried=())
    assert row.outcome == "reproduced", "within the spread that was claimed"


def test_a_record_that_was_taken_back_speaks_of_no_claim(make_record: Make) -> None:
    gone, doubted = make_record("alpha", 0.5, interval=(0.4, 0.6)), make_record("alpha", 0.1, seed=1)
    notes = [
        note_of(gone, "retracted", by="me", reason="wrong split"),
        note_of(doubted, "contested", by="me", reason="why"),
    ]
    (row,) = claim_rows([published()], [gone, doubted], notes=notes, tried=())
    assert (row.outcome, [m.run for m in row.measured]) == ("not reproduced", [doubted.run])


@pytest.mark.parametrize(
    "other", [{"model": "alpha.small"}, {"dataset": "muse-n170"}, {"status": "partial"}, {"values": "other"}]
)
def test_only_complete_records_of_the_published_model_count(make_record: Make, other: dict[str, str]) -> None:
    model = other.pop("model", "alpha")
    if other.pop("values", None):
        record = make_record(model, None, values={"fid": Value(value=3.0, signature="s", higher_is_better=False)})
    else:
        record = make_record(model, 0.5, **other)
    (row,) = claim_rows([published()], [record], tried=())
    assert (row.outcome, row.measured) == ("not tried", ())


def test_a_claim_of_a_part_of_the_data_is_not_held_by_the_whole(make_record: Make) -> None:
    (row,) = claim_rows([published(dataset="phantom/subject-08")], [make_record("alpha", 0.5)], tried=())
    assert (row.dataset, row.condition, row.outcome) == ("phantom", "subject-08", "not tried")


def test_what_could_not_be_repeated_says_why(make_record: Make) -> None:
    tried = [Attempt(model="alpha", dataset="phantom", reason="The recordings are lost.")]
    (row,) = claim_rows([published()], [], tried=tried)
    assert (row.outcome, row.reason) == ("could not reproduce", "The recordings are lost.")
    instead = [Attempt(model="alpha", dataset="phantom", reason="Cut anew.", instead="mine")]
    (row,) = claim_rows([published()], [make_record("alpha", 0.5, dataset="mine")], tried=instead)
    assert (row.outcome, row.reason) == ("reproduced", "Cut anew.")


# ---- what is shipped


def everything() -> list[Published]:
    return [*of_cards(registry.models.cards()), *literature()]


def test_no_number_is_claimed_twice() -> None:
    rows = claim_rows(everything(), [])
    twice = Counter((row.model, row.metric, row.dataset, row.condition, row.claimed) for row in rows)
    assert [key for key, n in twice.items() if n > 1] == []
    assert len(rows) > 400


def test_every_claim_names_a_source_that_can_be_found() -> None:
    for row in claim_rows(everything(), []):
        assert row.source.strip(), row
        assert "recalled" not in row.source.lower(), row
        assert row.paper.strip(), row


def test_shares_are_shares() -> None:
    shares = ("accuracy", "top1", "top5", "two_way", "ssim", "pixcorr")
    for row in claim_rows(everything(), []):
        if any(word in row.metric for word in shares):
            assert 0 <= row.claimed <= 1, row


@pytest.mark.parametrize(
    ("model", "metric", "dataset", "value"),
    [  # of the sheets, read again by hand
        ("samga", "retrieval200_top1", "things-eeg2", 0.913),
        ("samga", "retrieval200_top1", "things-eeg2/cross-subject", 0.344),
        ("ubp", "retrieval200_top1", "things-eeg2/subject-10", 0.615),
        ("atm-s", "retrieval200_top1", "things-eeg2/subject-08", 0.388),
        ("mb2c", "retrieval200_top5", "things-eeg2", 0.6037),
        ("gwit", "fid", "eegcvpr40", 78.11),
        ("gwit", "inception_score", "thoughtviz-object", 13.76),
        ("brainvis", "nway50_top1", "eegcvpr40/subject-4", 0.49),
        ("dcls-gan", "inception_score", "eegcvpr40", 6.64),
        ("brain2image-gan", "inception_score", "eegcvpr40", 5.07),
        ("brain2image-gan", "image_classification_accuracy", "thoughtviz-object", 0.1205),
        ("eegstylegan-ada", "fid", "eegcvpr40-raw", 174.13),
        ("eegchannelnet", "classifier_accuracy", "eegcvpr40/5-32-Hz", 0.197),
        ("eegchannelnet", "classifier_accuracy", "eegcvpr40-55-95", 0.481),
        ("watermelon", "classifier_accuracy", "watermelon/high-gamma", 0.4215),
        ("purdue-eegnet", "classifier_accuracy", "purdue-randomised/means-of-8", 0.095),
        ("purdue-eegchannelnet", "classifier_accuracy", "purdue-randomised/means-of-100", 0.028),
        ("eeg2vision", "nway50_top1", "eeg2vision/24-channels", 0.38),
    ],
)
def test_numbers_of_the_sheets_are_there(model: str, metric: str, dataset: str, value: float) -> None:
    found = [claim for system in everything() if system.id == model for claim in system.claims]
    assert value in [claim.value for claim in found if (claim.metric, claim.dataset) == (metric, dataset)]


def test_numbers_that_the_sheets_recall_are_not() -> None:
    ids = {system.id for system in everything()}
    assert "nerv" not in ids
    claims = [(system.id, claim.metric, claim.value) for system in everything() for claim in system.claims]
    assert ("mind-vis", "nway50_top1", 0.239) not in claims
    assert ("brain2image-gan", "image_classification_accuracy", 0.43) not in claims


def test_attempts_speak_of_claims_that_exist() -> None:
    claimed = {(system.id, claim.dataset.partition("/")[0]) for system in everything() for claim in system.claims}
    for attempt in attempts():
        assert (attempt.model, attempt.dataset.partition("/")[0]) in claimed, attempt


def test_the_published_records_speak_of_eeg2image(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from leaderboard.board import FsBoard

    records = FsBoard(Path(__file__).parents[2] / "leaderboard").records()
    rows = [row for row in claim_rows(everything(), records) if row.measured]
    assert {(row.model, row.metric, row.outcome) for row in rows} >= {
        ("eeg2image", "kmeans_accuracy", "not reproduced")
    }
    Console(width=200).print(render_claims(rows))
    shown = capsys.readouterr().out
    assert "not reproduced" in shown
    assert "cut by this zoo" in shown

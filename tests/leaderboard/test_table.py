from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console

from leaderboard.ranking import Table, rank
from leaderboard.table import as_json, render
from zoo.record import Record, Value

Make = Callable[..., Record]
METRICS = {
    name: Value(value=value, higher_is_better=higher)
    for name, value, higher in (
        ("fid", 174.13, False),
        ("inception_score", 5.4312, True),
        ("kid", 0.065, False),
        ("lpips_alex", 0.71, False),
        ("nway50_top1", 0.123, True),
        ("ssim", 0.3456, True),
    )
}


@pytest.fixture
def tables(make_record: Make) -> list[Table]:
    return rank(
        [
            make_record("eeg2image", 0.52, interval=(0.49, 0.56), values=METRICS),
            make_record("eeg2image", 0.51, interval=(0.48, 0.54), values=METRICS, seed=1),
            make_record("thoughtviz-objects", 0.05, interval=(0.01, 0.09), verdict="suspect", selection="last step"),
            make_record("thoughtviz-objects", 0.07, verdict="suspect", selection="last step", created="2026-02-01"),
            make_record("silent", None),
            make_record("blocky", 0.99, verdict="confounded"),
        ]
    )


def show(tables: list[Table], width: int = 80, metrics: Sequence[str] = (), **options: bool) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(render(tables, metrics))  # type: ignore[arg-type]
    return out.getvalue()


def line_with(text: str, words: str) -> str:
    (line,) = (line for line in text.splitlines() if words in line)
    return line


def test_a_row_shows_rank_value_interval_margin_verdict_and_selection(tables: list[Table]) -> None:
    text = show(tables, width=120)
    first = next(line for line in text.splitlines() if line.startswith("1=")).split()
    short = tables[0].entries[0].record[:7]
    assert first == ["1=", "eeg2image", short, "0.52", "[0.49,", "0.56]", "+0.42", "clean", "validation"]
    third = line_with(text, "last step")
    assert third.split() == ["3", "thoughtviz-objects", "0.05", "[0.01,", "0.09]", "-0.05", "suspect", "last", "step"]
    assert line_with(text, "reproduced").strip() == "reproduced once, spread 0.02"
    assert "split subject-out@1, ranked by accuracy ↑" in text


def test_ties_say_what_they_rest_on(tables: list[Table], make_record: Make) -> None:
    hint = "=: intervals overlap; 'zoo compare A B' tests a pair on the trials they share"
    assert show(tables).count(hint) == 1  # the confounded table has one entry
    assert hint not in show(rank([make_record("a", 0.9), make_record("b", 0.1)]))


def test_lower_is_better_points_down(make_record: Make) -> None:
    assert "ranked by accuracy ↓" in show(rank([make_record(higher=False)]))


def test_other_metrics_are_counted_and_shown_when_asked_for(tables: list[Table]) -> None:
    assert show(tables).count("6 more metrics: --metric NAME shows one, --json all") == 1
    text = show(tables, width=120, metrics=[*METRICS, "unknown"])
    assert "more metrics" not in text
    rows = [line.split()[-5:] for line in text.splitlines() if "174.1" in line]
    assert rows == [["174.1", "5.431", "0.065", "0.71", "0.123"]] * 2
    assert line_with(text, "fid ↓").split() == "# model fid ↓ score ↑ kid ↓ alex ↓ top1 ↑".split()
    assert text.count("0.3456") == 2


@pytest.mark.parametrize("width", [80, 60, 200])
def test_lines_keep_to_the_width_and_words_stay_whole(tables: list[Table], width: int) -> None:
    text = show(tables, width=width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("clean", "suspect", "confounded", "CONFOUNDED", "control:", "…"):
        assert (word in text) is (word != "…"), word


def test_verdicts_are_words_where_colours_are_off(tables: list[Table], monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = show(tables, force_terminal=True)
    assert "\x1b[32mclean" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = show(tables, force_terminal=True)
    assert not re.search(r"\x1b\[(3|4|9|10)\d", plain), "no colour code, only weight"
    assert re.sub(r"\x1b\[[\d;]*m", "", plain) == re.sub(r"\x1b\[[\d;]*m", "", coloured)


def test_what_has_no_score_says_why(tables: list[Table]) -> None:
    short = tables[0].unscored[0].record[:7]
    assert f"silent {short} has no score: too few trials" in show(tables)


def test_confounded_tracks_are_flagged_last(tables: list[Table]) -> None:
    text = show(tables)
    assert text.index("blocky") > text.index("CONFOUNDED") > text.index("thoughtviz-objects")
    assert text.count("CONFOUNDED") == 1


def test_words_of_strangers_are_only_words(make_record: Make) -> None:
    record = make_record("[red]x[/]", selection="[/nothing]\x1b[2J", track="a/[bold]b")
    text = show(rank([record]), width=120, force_terminal=True)
    for word in ("[red]x[/]", "[/nothing]\N{REPLACEMENT CHARACTER}[2J", "a/[bold]b"):
        assert word in text
    assert "\x1b[2J" not in text


def test_no_records_are_said_to_be_none() -> None:
    assert show([]) == "No records yet.\n"


def test_json_holds_everything_a_reader_needs(tables: list[Table]) -> None:
    clean, blocky = json.loads(json.dumps(as_json(tables), allow_nan=False))
    assert [clean["confounded"], blocky["confounded"]] == [False, True]
    assert (clean["metric"], clean["signature"], clean["higher_is_better"]) == ("accuracy", "accuracy|v1", True)
    first, _, third = clean["entries"]
    assert (first["rank"], first["tie"], first["headline"]["interval"]) == (1, 1, [0.49, 0.56])
    assert first["values"]["fid"]["value"] == 174.13
    assert (third["reproductions"], third["verdict"]) == (1, "suspect")
    assert third["margin"] == pytest.approx(-0.05)
    assert clean["unscored"][0]["headline"]["reason"] == "too few trials"
    assert [row["name"] for row in clean["controls"]] == ["control: shuffled-eeg"]
    assert len(first["record"]) == len(first["run"]) == 64


def test_the_leaderboard_imports_no_heavy_library() -> None:
    code = (
        "import sys, leaderboard.board, leaderboard.ranking, leaderboard.table;"
        "print(sorted({'torch', 'numpy', 'datasets', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_level_beyond_its_makers_word_is_shown(make_record: Make) -> None:
    from leaderboard.standing import note_of

    record = make_record()
    shown = show(rank([record], notes=[note_of(record, "attested", by="ada", reason="ran it")]))
    assert "alpha attested" in shown
    assert "self" not in show(rank([record]))

"""``zoo compare``: what it prints, refuses and imports."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from leaderboard.board import FsBoard
from leaderboard.compare import compare, find_sides
from leaderboard.table import render_comparison
from zoo.cli import app

BOARD = Path(__file__).resolve().parents[1] / "leaderboard"
PHANTOM = "reconstruction/phantom.stimulus-out@2"
OBJECTS = "reconstruction/envisioned-speech-object.subject-out@2"
BLOCK = "reconstruction/phantom-block.block@2"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments), "--board", str(BOARD)])


def test_a_model_beside_its_shuffled_control() -> None:
    result = call("eeg2image.small", "--track", PHANTOM)
    assert (result.exit_code, result.stderr) == (0, "")
    record = find_sides("eeg2image.small", None, board=str(BOARD), records=[*FsBoard(BOARD).records()], track=PHANTOM)[
        0
    ]
    lines = result.stdout.splitlines()
    assert lines[:3] == [PHANTOM, f"A  {record.name}", f"B  shuffled-eeg of {record.name}"]
    assert lines[3].split() == "A B A - B p units p seeds p better".split()
    judged = next(line.split() for line in lines if line.startswith("pixel_judge_accuracy"))
    assert [*judged[:2], judged[-1]] == ["pixel_judge_accuracy", "↑", "A"]
    assert judged[-3:-1] == ["0.0312", "0.0312"]
    other = next(line.split() for line in lines if line.startswith("logistic_accuracy"))
    assert other[-2:] == ["not", "shown"]
    assert "With 6 units p is at least 0.0312, and 0.594 when corrected for 19 metrics" in result.stdout


def test_json_holds_the_numbers_and_the_sentences() -> None:
    result = call("eeg2image", "eeg2image.small", "--track", OBJECTS, "--metric", "logistic_accuracy", "--json")
    found = json.loads(result.stdout)
    (pair,) = found["differences"]
    assert (found["track"], found["headline"], found["n_seeds"]) == (OBJECTS, "logistic_accuracy", [1, 1])
    assert len(found["record_a"]) == len(found["record_b"]) == 64
    assert (pair["metric"], pair["n_units"], pair["n_trials"]) == ("logistic_accuracy", 5, 9802)
    assert pair["difference"] == pytest.approx(pair["a"] - pair["b"])
    assert pair["interval"][0] < pair["difference"] < pair["interval"][1]
    assert (pair["shown"], pair["p"] >= 2 / 2**5, pair["p_seeds"]) == (False, True, None)
    assert found["notes"] == [
        "With 5 units p is at least 0.0625: no difference can be shown, however large it is.",
        "p speaks of these two trainings: without two seeds of each, nobody knows how far another would be off.",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("eeg2image", "eeg2image.small", "--control", "noise"),
            "--control is for one record beside its own control; leave it out or leave out eeg2image.small.",
        ),
        (
            ("nowhere.json",),
            "a record must be a file, but there is none at nowhere.json; check its spelling.",
        ),
        (
            ("eeg2image", "eeg2image.small", "--track", BLOCK),
            f"'eeg2image' must be a record file (.json), the first 4 or more digits of a record's id or a model, but "
            f"{BOARD} in {BLOCK} has neither; its models are: eeg2image.small.",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_2(arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {message}\n")


def test_a_board_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", "a", "b", "--board", str(tmp_path / "none")])
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: --board must be a folder that exists or a URL, but {tmp_path / 'none'} is not; check its spelling.\n",
    )


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "records" / "a" / "broken.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("[]")
    result = CliRunner().invoke(app, ["compare", "a", "--board", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "left out: records/a/broken.json must hold a record, but holds a list.\nerror: 'a' must be a record file"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_lines_keep_to_the_width_and_words_of_strangers_do_nothing(width: int) -> None:
    records = [*FsBoard(BOARD).records()]
    a, b = find_sides("eeg2image.small", None, board=str(BOARD), records=records, track=PHANTOM)
    identity = a.record.identity.model_copy(update={"model": "[red]x[/]\x1b[2J"})
    out = io.StringIO()
    odd = type(a)(a.record.model_copy(update={"identity": identity}), a.trials)
    Console(file=out, width=width, force_terminal=True).print(render_comparison(compare(odd, b)))
    text = out.getvalue()
    assert "[red]x[/]\N{REPLACEMENT CHARACTER}[2J" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width


def test_comparing_imports_no_torch() -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['zoo', 'compare', 'eeg2image.small', '--track', {PHANTOM!r}, '--board', {str(BOARD)!r}]\n"
        "import runpy\n"
        "try:\n"
        "    runpy.run_module('zoo', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'scipy.stats', 'sklearn', 'datasets', 'timm', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert PHANTOM in done.stdout

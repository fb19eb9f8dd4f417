"""The static site: its numbers are those of ``rank`` and ``compare``, its folder is whole, strangers stay text."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from leaderboard.board import FsBoard
from leaderboard.ranking import rank
from leaderboard.site import PAGE, Built, Cards, build_site, commands, file_name, stem
from zoo.cli import app
from zoo.errors import UsageError
from zoo.gallery import MANIFEST, Sheet, pick, read_manifest
from zoo.record import Record, Value

Make = Callable[..., Record]
BOARD = Path(__file__).resolve().parents[2] / "leaderboard"
OBJECTS = "reconstruction/envisioned-speech-object.subject-out@2"
SIX = 5e-6
"""Pages have six digits."""
NUMBERS = ("a", "b", "difference", "interval", "p", "effect")
CARD = {
    "id": "model-1", "family": "f", "title": "A model", "task": "reconstruction", "builder": "package:model",
    "paper": "p", "licence": "l",
}  # fmt: skip
"""Of a model that a registry has the code of."""
EVIL = "</script><img src=x onerror=alert(1)>'\\\u2028 __proto__"


def put(path: Path) -> Any:
    """What a data file hands to the page, which is nothing but one call with one string."""
    text = path.read_text("ascii")
    packed = re.fullmatch(r"zoo\.packed\('([A-Za-z0-9+/=]*)'\)\n", text)
    assert packed, text[:80]
    return json.loads(zlib.decompress(base64.b64decode(packed.group(1))))


def site_of(tmp_path: Path, records: list[Record], cards: Cards | None = None, **options: Any) -> tuple[Path, Built]:
    board = FsBoard(tmp_path / "board")
    for record in records:
        board.push(record, allow_partial=True)
    return tmp_path / "site", build_site(board, tmp_path / "site", cards, **options)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The board and the site of three published records with their values per trial."""
    folder = tmp_path_factory.mktemp("objects")
    shutil.copytree(BOARD / "records" / OBJECTS, folder / "board" / "records" / OBJECTS)
    build_site(FsBoard(folder / "board"), folder / "site")
    return folder / "board", folder / "site"


def test_ranks_and_values_are_those_of_the_terminal(objects: tuple[Path, Path]) -> None:
    board, site = objects
    called = CliRunner().invoke(app, ["leaderboard", "show", "--board", str(board), "--json"])
    (shown,) = json.loads(called.stdout)
    (table,) = put(site / "tracks" / f"{file_name(OBJECTS)}.js")["tables"]
    rows = [row for row in table["rows"] if row["kind"] == "entry"]
    for of in ("name", "rank", "verdict", "selection", "level", "overlap"):
        assert [row[of] for row in rows] == [entry[of] for entry in shown["entries"]], of
    assert [row["margin"] for row in rows] == pytest.approx([entry["margin"] for entry in shown["entries"]], rel=SIX)
    everything = [*shown["entries"], *shown["controls"]]
    assert len(table["metrics"]) == 8
    for metric, column in zip(table["metrics"], table["values"], strict=True):
        for row, value in zip(everything, column, strict=True):
            known = row["values"].get(metric["id"]) or {"value": None}
            spelled = None if known["value"] is None else [known["value"], *(known["interval"] or [])]
            assert spelled is None or spelled == pytest.approx(value, rel=SIX), (row["name"], metric["id"])
            assert (spelled is None) == (value is None)


def test_comparisons_are_those_of_zoo_compare(objects: tuple[Path, Path]) -> None:
    board, site = objects
    found = put(site / "tracks" / f"{file_name(OBJECTS)}.js")["comparisons"]
    assert len(found) == 6  # three against their own shuffled control, three pairs
    for shown in (found[0], found[-1]):
        named = [shown["record_a"][:12]] if shown.get("control") else [shown["record_a"][:12], shown["record_b"][:12]]
        called = CliRunner().invoke(app, ["compare", *named, "--board", str(board), "--json"])
        said = json.loads(called.stdout)
        assert [pair["metric"] for pair in shown["differences"]] == [pair["metric"] for pair in said["differences"]]
        for one, other in zip(shown["differences"], said["differences"], strict=True):
            told = {key: value for key, value in other.items() if value not in (None, [])}
            assert {*one} == {*told} - {"samples", "seeds"}
            for key, value in one.items():
                if key == "reason":
                    assert shown["reasons"][value] == told[key]
                else:
                    assert value == (pytest.approx(told[key], rel=SIX) if key in NUMBERS else told[key]), key
        assert shown.get("notes", []) == said["notes"]


def test_the_records_of_the_dump_are_exact(objects: tuple[Path, Path]) -> None:
    board, site = objects
    lines = lzma.decompress((site / "data" / "records.jsonl.xz").read_bytes()).splitlines()
    assert [Record.parse(line, where="dump") for line in lines] == [*FsBoard(board).records()]
    table = [*csv.DictReader(io.StringIO(gzip.decompress((site / "data" / "results.csv.gz").read_bytes()).decode()))]
    (record, *_) = FsBoard(board).records()
    mine = next(
        r for r in table if r["record"] == record.id and r["system"] == "model" and r["metric"] == record.headline
    )
    value = record.values[record.headline]
    assert value.interval is not None
    assert [float(mine[k]) for k in ("value", "low", "high")] == pytest.approx([value.value, *value.interval], rel=SIX)
    assert "CC BY 4.0" in (site / "data" / "LICENSE.txt").read_text()


def test_two_builds_of_one_board_are_the_same_bytes(tmp_path: Path, make_record: Make) -> None:
    site, _ = site_of(tmp_path, [make_record("a", 0.7), make_record("b", 0.6)])
    first = {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    build_site(FsBoard(tmp_path / "board"), site)
    assert {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()} == first
    assert not [path for path in tmp_path.iterdir() if path.name not in ("board", "site")]


def test_a_folder_that_is_no_site_is_left_alone(tmp_path: Path, make_record: Make) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").write_text("years of work")
    sentence = f"--output-dir must be new, empty or an older site, but {tmp_path / 'site'} is none; name another."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        site_of(tmp_path, [make_record()])
    assert (tmp_path / "site" / "thesis.tex").read_text() == "years of work"


def test_what_strangers_write_is_data(tmp_path: Path, make_record: Make) -> None:
    evil = Value(value=0.5, signature=EVIL, higher_is_better=True)
    record = make_record(error=EVIL, status="partial", values={EVIL: evil, "__proto__": evil}, config={EVIL: EVIL})
    made = record.provenance.model_copy(update={"command": EVIL, "hardware": EVIL, "stimuli_source": "=1+1"})
    record = record.model_copy(update={"provenance": made})
    site, _ = site_of(tmp_path, [record])
    shown = put(site / "records" / f"{stem(record)}.js")
    assert shown["provenance"]["hardware"] == EVIL
    assert {EVIL, "__proto__"} <= {*shown["values"]}
    assert "onerror" not in (site / "index.html").read_text()


def test_no_cell_of_the_dump_is_a_formula(tmp_path: Path, make_record: Make) -> None:
    value = Value(value=0.5, signature="=HYPERLINK(1)", higher_is_better=True)
    site, _ = site_of(tmp_path, [make_record(values={"@sum": value, "-1": value})])
    table = [*csv.reader(io.StringIO(gzip.decompress((site / "data" / "results.csv.gz").read_bytes()).decode()))]
    assert {"'@sum", "'-1", "'=HYPERLINK(1)"} <= {cell for row in table for cell in row}
    assert not [cell for row in table for cell in row if cell[:1] in ("=", "@", "+")]


def test_the_page_asks_nobody_and_runs_no_inline_script() -> None:
    page = (PAGE / "index.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert (rules["script-src"], rules["img-src"], rules["font-src"]) == ("'self'",) * 3
    assert "unsafe" not in policy
    assert not re.findall(r"<script(?![^>]*\bsrc=)", page)
    assert not re.findall(r"\son\w+=|\sstyle=", page)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    ours = "".join(path.read_text() for path in (PAGE / "app").glob("*.js"))
    assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|fetch\(", ours)
    for name in ("tabulator", "plot", "inter"):
        assert (PAGE / "vendor" / f"LICENSE-{name}.txt").stat().st_size > 400
    assert sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) < 0.8e6


def test_the_commands_that_make_a_record_again_name_every_setting(make_record: Make) -> None:
    record = make_record("alpha", config={"steps": 5, "loss": "cross entropy"}, seed=3)
    made = record.provenance.model_copy(update={"git": "abc", "weights_source": "trained: phantom"})
    assert commands(record.model_copy(update={"provenance": made})) == [
        "git checkout abc",
        "zoo data prepare phantom",
        "zoo train alpha --dataset phantom --split subject-out@1 --seed 3 --set 'loss=\"cross entropy\"' --set steps=5",
        "zoo eval alpha --dataset reconstruction/phantom.subject-out@1 --seed 3 --replicates 3",
    ]


def test_commands_quote_what_a_stranger_named(make_record: Make) -> None:
    record = make_record(dataset="x; rm -rf ~")
    assert "zoo data prepare 'x; rm -rf ~'" in commands(record)


def test_only_a_registered_model_can_be_made_again(tmp_path: Path, make_record: Make) -> None:
    known, strange, announced = (make_record(name) for name in (CARD["id"], "local-mine", "later"))
    data = [{"id": "phantom", "loader": "zoo.datasets.phantom:load"}]
    cards = Cards(models=[CARD, {**CARD, "id": "later", "builder": None}], datasets=data)
    site, _ = site_of(tmp_path, [known, strange, announced], cards)
    again = [put(site / "records" / f"{stem(record)}.js")["again"] for record in (known, strange, announced)]
    assert again == [commands(known), None, None]
    assert put(site / "records.js") == sorted(stem(record) for record in (known, strange, announced))
    other = make_record(CARD["id"], dataset="my-eeg")
    site, _ = site_of(tmp_path / "other", [other], cards)
    assert put(site / "records" / f"{stem(other)}.js")["again"] is None, "no registry prepares its recordings"
    assert put(site / "data.js")["datasets"] == [
        {"id": "my-eeg", "file": file_name("my-eeg"), "n": 1},
        {"id": "phantom", "file": file_name("phantom"), "n": 0, "loader": True},
    ]


def test_models_and_datasets_without_cards_have_pages(tmp_path: Path, make_record: Make) -> None:
    site, built = site_of(tmp_path, [make_record("mine", 0.7, dataset="my-eeg", track="reconstruction/my-eeg.own@1")])
    index = put(site / "data.js")
    assert [(card["id"], card["n"]) for card in index["models"]] == [("mine", 1)]
    assert [(card["id"], card["n"]) for card in index["datasets"]] == [("my-eeg", 1)]
    (result,) = put(site / "models" / f"{file_name('mine')}.js")["results"]
    assert (result["rank"], result["of"], result["v"]) == (1, 1, [0.7])
    assert (built.n_records, built.n_tracks, built.problems) == (1, 1, ())


def test_tracks_of_the_registry_wait_for_results(tmp_path: Path, make_record: Make) -> None:
    waiting = {
        "id": "reconstruction/other.run-out@1",
        "task": "reconstruction",
        "dataset": "other",
        "split": "run-out@1",
    }
    site, _ = site_of(tmp_path, [make_record()], Cards(tracks=[waiting]))
    tracks = {track["id"]: track["file"] for track in put(site / "data.js")["tracks"]}
    assert tracks[waiting["id"]] is None
    assert tracks["reconstruction/phantom.subject-out@1"] == file_name("reconstruction/phantom.subject-out@1")


def test_an_empty_board_makes_a_site(tmp_path: Path) -> None:
    site, built = site_of(tmp_path, [])
    assert put(site / "data.js")["counts"]["records"] == built.n_records == 0


def test_the_site_of_the_published_records_is_small(tmp_path: Path) -> None:
    called = CliRunner().invoke(
        app, ["leaderboard", "build", "--board", str(BOARD), "--output-dir", str(tmp_path / "site")]
    )
    assert (called.exit_code, "left out" in called.stderr) == (0, False)
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file() and path.suffix not in (".webp", ".png")]
    assert len([path for path in files if path.parent.name == "records"]) == len([*FsBoard(BOARD).records()]) > 40
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_the_command_says_what_it_left_out(tmp_path: Path, make_record: Make) -> None:
    FsBoard(tmp_path / "board").push(make_record())
    broken = next((tmp_path / "board").rglob("*.json")).with_name("0123456789ab-01234567.json")
    broken.write_text("{}")
    called = CliRunner().invoke(
        app, ["leaderboard", "build", "--board", str(tmp_path / "board"), "--output-dir", str(tmp_path / "site")]
    )
    assert (called.exit_code, called.stdout) == (0, f"{tmp_path / 'site' / 'index.html'}\n")
    assert re.match(r"left out: records/.*0123456789ab-01234567\.json is not a valid record", called.stderr)
    assert put(tmp_path / "site" / "data.js")["hero"] is None
    assert len(rank([*FsBoard(tmp_path / "board").records()])) == 1


def test_serve_shows_the_pages_until_it_is_interrupted(tmp_path: Path, make_record: Make) -> None:
    FsBoard(tmp_path / "board").push(make_record())
    command = [sys.executable, "-m", "zoo", "leaderboard", "serve", "--board", str(tmp_path / "board"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        address = serving.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(f"{address}data.js") as answer:
            assert answer.read().startswith(b"zoo.packed(")
        serving.send_signal(signal.SIGINT)
    assert serving.returncode == 0


# ---- samples


def lay_samples(board: Path, record: Record, *, cell: int = 8) -> Path:
    """Two sheets beside a record: what was made, and real pictures."""
    folder = board / "records" / record.name.replace(".json", ".samples")
    folder.mkdir(parents=True)
    lines = []
    for name, real, rows in (("picked-made", False, ("model", "shuffled-eeg")), ("picked-real", True, ("stimulus",))):
        sink = io.BytesIO()
        Image.new("RGB", (2 * cell, len(rows) * cell), (40, 90, 200)).save(sink, format="webp")
        (folder / f"{name}.webp").write_bytes(sink.getvalue())
        sha = hashlib.sha256(sink.getvalue()).hexdigest()
        sheet = Sheet(
            file=f"{name}.webp", sha256=sha, picked=True, real=real, rows=rows, trials=("t1", "t2"),
            concepts=("circle", "cross"), cell=cell, across=2,
        )  # fmt: skip
        lines.append(sheet.model_dump_json())
    (folder / MANIFEST).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(("hosts", "pictures", "shown"), [("everything", 0, 2), ("splits", 0, 1), ("splits", 1, 2)])
def test_real_pictures_are_shown_where_their_licence_lets_us(
    tmp_path: Path, make_record: Make, hosts: str, pictures: int, shown: int
) -> None:
    record = make_record()
    lay_samples(tmp_path / "board", record)
    cards = Cards(datasets=[{"id": "phantom", "hosts": hosts}])
    site, built = site_of(tmp_path, [record], cards, pictures=bool(pictures))
    assert built.problems == ()
    assert len([*(site / "samples" / stem(record)).iterdir()]) == shown
    assert [s["real"] for s in put(site / "records" / f"{stem(record)}.js")["gallery"]] == [False, True][:shown]
    hero = put(site / "data.js")["hero"]
    assert (hero["record"], len(hero["sheets"])) == (stem(record), shown)


def test_a_changed_sheet_is_left_out_with_a_sentence(tmp_path: Path, make_record: Make) -> None:
    record = make_record()
    folder = lay_samples(tmp_path / "board", record)
    (folder / "picked-made.webp").write_bytes(b"RIFF0000WEBP, not the one")
    site, built = site_of(tmp_path, [record])
    (problem,) = built.problems
    assert problem.endswith("picked-made.webp is not the sheet that its manifest names; fetch the samples again.")
    assert put(site / "records" / f"{stem(record)}.js")["gallery"] is None
    assert not [*(site / "samples").iterdir()]


def test_confusions_of_a_classifier_are_shown_and_no_other_picture(tmp_path: Path, make_record: Make) -> None:
    tracks = ("recognition/mine.a@1", "recognition/mine.b@1", "reconstruction/mine.a@1")
    records = [make_record(track=track) for track in tracks]
    sink = io.BytesIO()
    Image.new("RGB", (9, 9)).save(sink, format="png")
    for record, data in zip(records, (sink.getvalue(), b"<html>", sink.getvalue()), strict=True):
        path = tmp_path / "board" / "records" / record.name
        path.parent.mkdir(parents=True)
        path.with_suffix(".png").write_bytes(data)
    site, built = site_of(tmp_path, records)
    shown = [put(site / "records" / f"{stem(record)}.js")["confusion"] for record in records]
    assert shown == [True, False, False]
    assert [path.name for path in (site / "samples").iterdir()] == [f"{stem(records[0])}.png"]
    (problem,) = built.problems
    assert problem == (
        f"of records/{records[1].name}, '.png' must be a PNG picture, but is none (UnidentifiedImageError)."
    )


@pytest.mark.parametrize(
    "changed", [{"file": "../../x.webp"}, {"file": "x.svg"}, {"cell": 5000}, {"concepts": ["a"]}, {"more": 1}]
)
def test_a_strangers_manifest_is_refused_with_a_sentence(
    tmp_path: Path, make_record: Make, changed: dict[str, Any]
) -> None:
    folder = lay_samples(tmp_path, make_record())
    line = json.loads((folder / MANIFEST).read_text().splitlines()[0]) | changed
    with pytest.raises(UsageError, match="^here is no valid manifest of samples: 1 validation error"):
        read_manifest(json.dumps(line).encode(), where="here")


def test_the_pick_depends_on_the_track_and_covers_every_concept() -> None:
    trials = [f"t{i}" for i in range(60)]
    concepts = [f"c{i % 5}" for i in range(60)]
    picked = pick("a", trials, concepts, n=10)
    assert sorted(concepts[i] for i in picked) == sorted([f"c{i}" for i in range(5)] * 2)
    assert pick("b", trials, concepts, n=10) != picked
    shuffled = [*range(59, -1, -1)]
    again = pick("a", [trials[i] for i in shuffled], [concepts[i] for i in shuffled], n=10)
    assert {trials[shuffled[i]] for i in again} == {trials[i] for i in picked}

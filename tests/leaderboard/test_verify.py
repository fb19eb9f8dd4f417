"""Submissions of strangers: each that is not what it says is refused with a sentence, and nothing is written."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leaderboard import hubboard, submission, units, verify
from leaderboard.board import FsBoard
from leaderboard.pushing import choose
from leaderboard.submission import Submission, read_submission, refuse_paths
from leaderboard.verify import Allowed, Contest, problems_of
from tests.conftest import SHA
from zoo import registry, stats
from zoo.errors import GateError, ZooError
from zoo.record import Audit, Cost, Identity, Provenance, Record, System, Value
from zoo.specs import TrackCard
from zoo.store import digest

Row = tuple[str, str, str, str, float]
COLUMNS = ("system", "metric", "trial_id", "unit", "value")
METRICS = ("logistic_accuracy", "fid")
TRACK = TrackCard(
    id="recognition/tiny.run-out@1",
    task="recognition",
    dataset="tiny",
    split="run-out@1",
    metrics=METRICS,
    headline="logistic_accuracy",
    controls=("shuffled-eeg",),
)
SIGNED = {"logistic_accuracy": "logistic_accuracy|n:24|v1", "fid": "fid|n:24|v1"}
CONTEST = Contest(TRACK, frozenset({SHA}), {name: registry.metrics.get(name) for name in METRICS})
RNG = np.random.default_rng(7)
RIGHT = {name: (RNG.random(24) < rate).astype(float) for name, rate in (("model", 0.8), ("shuffled-eeg", 0.5))}
UNITS = np.array([f"u{i % 6}" for i in range(24)])


def parquet(rows: Iterable[Row], columns: tuple[str, ...] = COLUMNS, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), sink, **options)
    return sink.getvalue()


ROWS: list[Row] = [
    (name, "logistic_accuracy", f"t{i}", str(UNITS[i]), float(right[i]))
    for name, right in RIGHT.items()
    for i in range(24)
]


def measured(name: str) -> dict[str, Value]:
    right = RIGHT[name]
    interval, test = stats.cluster_interval(right, UNITS), stats.p_against_chance(right, UNITS, 0.5)
    assert interval is not None
    assert test is not None
    mean = float(right.mean())
    return {
        "logistic_accuracy": Value(
            value=mean,
            signature=SIGNED["logistic_accuracy"],
            higher_is_better=True,
            interval=(max(interval.low, 0.0), min(interval.high, 1.0)),
            interval_method=interval.method,
            chance=0.5,
            p_chance=test.p,
            p_method=test.method,
            n=24,
            n_units=6,
            replicates=(mean,),
        ),
        "fid": Value(
            value=120.0,
            signature=SIGNED["fid"],
            higher_is_better=False,
            interval=(110.0, 130.0),
            interval_method="jackknife, 6 groups of units",
            n=24,
            replicates=(119.0, 121.0),
        ),
    }


def good() -> Submission:
    """A small submission with which nothing is wrong."""
    data = parquet(ROWS)
    of: dict[str, Any] = dict.fromkeys(
        ("trials_fingerprint", "eeg_sha256", "stimuli_sha256", "split_sha256", "weights_sha256"), SHA
    )
    record = Record(
        status="ok",
        identity=Identity(
            track=TRACK.id,
            track_sha256=digest(TRACK.model_dump(mode="json")),
            dataset="tiny",
            split="run-out@1",
            model="mine.small",
            config={"width": 8, "name": "mine"},
            seed=0,
            replicates=3,
            limit=None,
            metrics=tuple(sorted(SIGNED.values())),
            zoo="0.3.0",
            **of,
        ),
        audit=Audit(verdict="clean", evidence={"margin": 0.0}, sentences=("Nothing was found.",)),
        headline="logistic_accuracy",
        values=measured("model"),
        controls={"shuffled-eeg": System(values=measured("shuffled-eeg"))},
        units_sha256=hashlib.sha256(data).hexdigest(),
        provenance=Provenance(
            created="2026-11-21T12:00:00+00:00",
            command="zoo eval mine.small --dataset tiny",
            git="a" * 40,
            dirty=False,
            device="cpu",
            hardware="a computer",
            threads=1,
            packages={"torch": "2.6"},
            weights_source="trained: tiny",
            trained_on=("tiny",),
            selection="validation",
            stimuli_source="generated",
            dataset_complete=True,
        ),
        cost=Cost(seconds=1.0, n_parameters=10, images_per_second=3.0, peak_memory_mb=100.0),
    )
    return Submission(record, data)


GOOD = good()


def contests(track: str) -> Contest | None:
    return CONTEST if track == TRACK.id else None


def changed(path: str, value: Any, *, of: Submission = GOOD) -> Submission:
    """The submission with one part of its record exchanged, named anew as a forger would."""
    content = of.record.model_dump(mode="json", exclude_unset=True)
    *steps, last = path.split("/")
    part = content
    for step in steps:
        part = part[step]
    part[last] = value
    return replace(of, record=Record.model_validate(content))


def with_rows(rows: Iterable[Row], columns: tuple[str, ...] = COLUMNS, **options: Any) -> Submission:
    return with_bytes(parquet(rows, columns, **options))


def with_bytes(data: bytes) -> Submission:
    """Other values per trial, whose hash the record names."""
    record = GOOD.record.model_copy(update={"units_sha256": hashlib.sha256(data).hexdigest()})
    return Submission(record, data)


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height)).save(sink, kind)
    return sink.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A small file that says it is large."""
    data = bytearray(picture(1, 1))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_a_good_submission_is_good() -> None:
    assert problems_of(GOOD, contests) == []
    assert problems_of(replace(GOOD, beside={".png": picture(30, 20)}), contests) == []


def test_what_is_published_is_good() -> None:
    from zoo.cli.board import _contest

    records = Path(submission.__file__).parent / "records"
    found = sorted(path for path in records.rglob("*-*.json") if ".samples" not in str(path))
    assert len(found) >= 20
    for path in [found[0], found[-1], *records.glob("*/muse-n170.run-out@2/*/*.json")]:
        assert problems_of(read_submission(path), _contest, Allowed(dirty=True)) == []


# ---- what a forger might change: the sentence says what is wrong


VALUES, CONTROL = "values/logistic_accuracy", "controls/shuffled-eeg/values/logistic_accuracy"
MEAN, BASE = (float(RIGHT[name].mean()) for name in ("model", "shuffled-eeg"))
HTML = "<script>alert(1)</script>"
FORGED: list[tuple[str, Callable[[], Submission], str]] = [
    (
        "headline",
        lambda: changed(f"{VALUES}/value", MEAN + 0.1),
        "outside its own interval|but the mean of its replicates",
    ),
    ("control", lambda: changed(f"{CONTROL}/value", BASE - 0.1), "but the mean of its replicates is"),
    (
        "both value and replicates",
        lambda: changed(f"{VALUES}/replicates", [MEAN + 0.01], of=changed(f"{VALUES}/value", MEAN + 0.01)),
        f"logistic_accuracy of model says {MEAN + 0.01:.6g}, but its values per trial give {MEAN:.6g}.",
    ),
    ("interval", lambda: changed(f"{VALUES}/interval", [MEAN - 0.001, MEAN + 0.001]), "says an interval of .* give "),
    ("p", lambda: changed(f"{VALUES}/p_chance", 1e-9), "says p 1e-09 against chance, but its values per trial give"),
    ("no probability", lambda: changed(f"{VALUES}/p_chance", 1.5), "has p 1.5, which is no probability"),
    ("n", lambda: changed(f"{VALUES}/n", 2400), "says 2400 trials, but has values of 24"),
    ("n_units", lambda: changed(f"{VALUES}/n_units", 24), "says 24 units, but its values are of 6"),
    (
        "direction",
        lambda: changed("values/fid/higher_is_better", True),
        "fid of model says otherwise, but lower is better",
    ),
    ("signature", lambda: changed(f"{VALUES}/signature", SIGNED["fid"]), "must be signed as logistic_accuracy"),
    ("unknown signature", lambda: changed("values/fid/signature", "fid|n:9|v1"), "which its identity lacks"),
    (
        "better than best",
        lambda: with_rows([(*row[:4], 2.0) for row in ROWS]),
        "but its values per trial give 2",
    ),
    (
        "swapped per-unit file",
        lambda: replace(GOOD, units=parquet([*ROWS[:-1], (*ROWS[-1][:4], 1 - ROWS[-1][4])])),
        "the file of values per trial is not the file that",
    ),
    (
        "per-unit values changed with their hash",
        lambda: with_rows([*ROWS[:-1], (*ROWS[-1][:4], 1 - ROWS[-1][4])]),
        "logistic_accuracy of shuffled-eeg says .*, but its values per trial give",
    ),
    (
        "units regrouped",
        lambda: with_rows([(*r[:3], f"u{i % 12}", r[4]) for i, r in enumerate(ROWS)]),
        "says an interval",
    ),
    ("one unit", lambda: with_rows([(*r[:3], "u", r[4]) for r in ROWS]), "all its trials are of one unit"),
    ("no per-unit file", lambda: replace(GOOD, units=None), "must lie beside it, but is not there"),
    ("no parts at all", lambda: replace(changed("units_sha256", None), units=None), "must have a value per trial"),
    ("parts of nobody", lambda: with_rows([*ROWS, ("model", "secret", "t0", "u0", 1.0)]), "has secret of model, which"),
    ("parts of a control left out", lambda: with_rows(ROWS[:24]), "of shuffled-eeg must have a value per trial"),
    ("a trial twice", lambda: with_rows([*ROWS[:24], *ROWS[24:47], ROWS[24]]), "must hold one finite value per trial"),
    ("NaN per trial", lambda: with_rows([*ROWS[:-1], (*ROWS[-1][:4], float("nan"))]), "one finite value per trial"),
    (
        "infinite per trial",
        lambda: with_rows([*ROWS[:-1], (*ROWS[-1][:4], float("inf"))]),
        "one finite value per trial",
    ),
    ("null per trial", lambda: with_rows([*ROWS[:-1], (*ROWS[-1][:4], None)]), "but some are null"),  # type: ignore[list-item]
    ("other columns", lambda: with_rows(ROWS, ("a", "b", "c", "d", "e")), "must have the columns system, metric"),
    ("long names", lambda: with_rows([(*r[:2], "t" * 300 + r[2], *r[3:]) for r in ROWS]), "names of at most 200"),
    ("control characters", lambda: with_rows([(*r[:2], r[2] + "\x1b[2J", *r[3:]) for r in ROWS]), "printable letters"),
    ("values as words", lambda: with_rows([(*r[:4], "much") for r in ROWS]), "must be parquet with the values"),  # type: ignore[misc]
    ("no parquet", lambda: with_bytes(b"PAR1" + b"\0" * 100 + b"PAR1"), "must be parquet with the values per trial"),
    ("a pickle", lambda: with_bytes(b"\x80\x04cos\nsystem\n(S'x'\ntR."), "must be parquet with the values per trial"),
    (
        "track edited",
        lambda: changed("identity/track_sha256", "1" * 64),
        "a change of a track needs a new number behind the @",
    ),
    ("track unknown", lambda: changed("identity/track", "recognition/tiny.run-out@2"), "is not known to this release"),
    (
        "split edited",
        lambda: changed("identity/split_sha256", "1" * 64),
        "its split run-out@1 must be the released one",
    ),
    ("another split", lambda: changed("identity/split", "run-out@2"), "its split must be run-out@1, as in"),
    ("another dataset", lambda: changed("identity/dataset", "other"), "its dataset must be tiny, as in"),
    ("another headline", lambda: changed("headline", "fid"), "its headline must be logistic_accuracy, as in"),
    ("control left out", lambda: changed("controls", {}), "it lacks the control shuffled-eeg"),
    ("control invented", lambda: changed("controls/best", {"values": {}}), "it has the control best, which"),
    ("metric invented", lambda: changed("values/score", {"value": 1.0}), "it has the metric score, which"),
    ("few replicates", lambda: changed("identity/replicates", 1), "it has 1 replicates, but .* asks for 3"),
    ("partial", lambda: changed("status", "partial"), "it is partial; evaluate without --limit"),
    (
        "limit hidden",
        lambda: changed("identity/limit", 10),
        "calls itself complete, but used only 10 trials|is partial",
    ),
    ("failed", lambda: changed("status", "failed"), "a failed run has no place"),
    ("unaudited", lambda: changed("audit", None), "its split was not audited"),
    ("audit unknown", lambda: changed("audit/verdict", "unknown"), "its split was not audited"),
    ("dirty", lambda: changed("provenance/dirty", True), "uncommitted changes, so nobody can make it again"),
    ("from the future", lambda: changed("provenance/created", "2999-01-01T00:00:00+00:00"), "between 2026 and now"),
    ("no time", lambda: changed("provenance/created", "yesterday"), "says 'yesterday'"),
    ("no time zone", lambda: changed("provenance/created", "2026-02-01T00:00:00"), "with a time zone"),
    ("negative cost", lambda: changed("cost/seconds", -1.0), "cost.seconds must not be negative"),
    ("negative size", lambda: changed("cost/n_parameters", -5), "cost.n_parameters must not be negative"),
    ("negative seed", lambda: changed("identity/seed", -1), "seed must be at least 0"),
    ("no replicates", lambda: changed("identity/replicates", 0), "replicates at least 1"),
    (
        "huge value",
        lambda: changed("values/fid/value", 1e300),
        "more than any metric can be|must be a number that can be",
    ),
    ("huge seed", lambda: changed("identity/seed", 10**30), "identity.seed must be a number that can be measured"),
    ("huge n", lambda: changed(f"{VALUES}/n", 10**20), "must be a number that can be measured"),
    ("n of none", lambda: changed("values/fid/n", 0), "nothing is measured on none"),
    ("deep config", lambda: changed("identity/config", json.loads('{"a":' * 40 + "1" + "}" * 40)), "deeper than 12"),
    (
        "wide config",
        lambda: changed("identity/config", dict.fromkeys(map(str, range(101_000)), 1)),
        "more than 100000 parts",
    ),
    ("a long text", lambda: changed("provenance/command", "x" * 5000), "has 5000 letters, more than the 4000"),
    ("an escape", lambda: changed("provenance/hardware", "\x1b[31mred"), "characters that act instead of being seen"),
    ("text that runs backwards", lambda: changed("provenance/hardware", "a\u202eb"), "characters that act instead"),
    (
        "markup in a command",
        lambda: changed("provenance/command", HTML),
        "provenance.command must be text, but holds markup",
    ),
    ("markup in a config", lambda: changed("identity/config", {"a": [HTML]}), "identity.config.a must be text, but"),
    (
        "markup in a name of a config",
        lambda: changed("identity/config", {HTML: 1}),
        "a name in identity.config must be text",
    ),
    ("markup in the audit", lambda: changed("audit/sentences", [f"Good {HTML}"]), "audit.sentences must be text"),
    ("markup in a comment", lambda: changed("audit/sentences", ["<!-- -->"]), "audit.sentences must be text"),
    ("no picture", lambda: replace(GOOD, beside={".png": b"GIF89a"}), "must be a PNG picture, but is none"),
    ("a picture that is a page", lambda: replace(GOOD, beside={".png": HTML.encode()}), "must be a PNG picture"),
    ("another kind", lambda: replace(GOOD, beside={".png": picture(9, 9, "JPEG")}), "must be a PNG picture"),
    (
        "a picture bomb",
        lambda: replace(GOOD, beside={".png": huge_png(60_000, 60_000)}),
        "more pixels than anybody can look at",
    ),
    (
        "samples without a manifest",
        lambda: replace(GOOD, beside={".samples/a.webp": picture(9, 9, "WEBP")}),
        "must hold manifest.jsonl, but does not",
    ),
    (
        "samples that no manifest names",
        lambda: replace(GOOD, beside={".samples/a.webp": picture(9, 9, "WEBP"), ".samples/manifest.jsonl": b""}),
        "has besides 'a.webp'",
    ),
    ("a broken manifest", lambda: replace(GOOD, beside={".samples/manifest.jsonl": b"{}"}), "is no valid manifest"),
]


@pytest.mark.parametrize(("forge", "sentence"), [case[1:] for case in FORGED], ids=[case[0] for case in FORGED])
def test_what_is_forged_is_refused_with_a_sentence(
    forge: Callable[[], Submission], sentence: str, tmp_path: Path
) -> None:
    forged = forge()
    found = problems_of(forged, contests)
    assert any(re.search(sentence, problem) for problem in found), found
    assert all(problem.endswith(".") and problem.isprintable() for problem in found)


def test_a_record_with_everything_wrong_is_refused_in_a_few_sentences() -> None:
    wrong = {f"<b>{i}": "1" for i in range(40)}  # each name is one sentence for its form and one for its markup
    found = problems_of(changed("provenance/packages", wrong), contests)
    assert len(found) == verify.MOST + 1
    assert found[0].endswith("packages must be a plain name, not '<b>0'.")
    assert found[-1].endswith(f": {80 - verify.MOST} more things are wrong with it.")


NAMES = ("identity/model", "identity/dataset", "identity/split", "identity/track", "headline", "identity/zoo")
HOSTILE = (
    "../../evil", "/etc/passwd", "a/../b", HTML, "a b", "a\nb", "a\x00b", "\u202eevil", "..", "", "é" * 10, "a" * 300,
    "=cmd|'/c calc'!A1", "'; drop table", "CON:", "%2e%2e", "a\\b", "{{7*7}}", "${x}", "-rf", ".hidden", "<img src=x>",
)  # fmt: skip


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_plain(path: str, name: str) -> None:
    what = path.rpartition("/")[2]
    found = problems_of(changed(path, name), contests)
    assert found
    assert any(what in problem for problem in found), found


@pytest.mark.parametrize("name", HOSTILE)
def test_names_within_are_plain(name: str) -> None:
    value = {"value": 1.0}
    for forged in (
        changed(f"values/{name.replace('/', '|')}", value) if name else changed("values", {"": value}),
        changed("controls", {name: {"values": {}}}),
        changed("provenance/packages", {name: "1"}),
        changed("provenance/trained_on", [name]),
        changed("audit/evidence", {name: 1.0}),
    ):
        assert problems_of(forged, contests), name


def test_a_file_without_a_value_is_a_file_without_values() -> None:
    empty = pa.table({**{name: pa.array([], pa.string()) for name in COLUMNS[:4]}, "value": pa.array([], pa.float64())})
    sink = io.BytesIO()
    pq.write_table(empty, sink)
    found = problems_of(with_bytes(sink.getvalue()), contests)
    assert [problem.partition(": ")[2] for problem in found] == [
        f"logistic_accuracy of {system} must have a value per trial beside the record, but has none."
        for system in ("model", "shuffled-eeg")
    ]


def test_parts_of_predicted_responses_are_means_over_many_trials() -> None:
    metric = registry.metrics.get("pearson_r")
    values = np.array([0.1, 0.2, 0.4])
    interval = stats.cluster_interval(values, np.arange(3))
    assert interval is not None
    value = Value(value=float(values.mean()), n=600, n_units=3, interval=(interval.low, interval.high))
    parts = units.Trials(np.array(["a", "b", "c"]), np.array(["a", "b", "c"]), values)
    assert list(verify._aggregate(value, parts, metric)) == []
    assert list(verify._aggregate(value, parts, registry.metrics.get("logistic_accuracy"))) == [
        "says 600 trials, but has values of 3."
    ]
    (few,) = verify._aggregate(value.model_copy(update={"n": 2}), parts, metric)
    assert few == "says 2 trials, but has values of 3."


def test_what_a_board_of_ones_own_takes() -> None:
    for path, value, allowed in (
        ("status", "partial", Allowed(partial=True)),
        ("audit", None, Allowed(unaudited=True)),
        ("provenance/dirty", True, Allowed(dirty=True)),
        ("identity/track", "recognition/mine.run-out@1", Allowed(unknown_tracks=True)),
    ):
        forged = changed(path, value)
        assert problems_of(forged, contests) != []
        assert problems_of(forged, contests, allowed) == []


# ---- files as they come


def laid(folder: Path, of: Submission) -> Path:
    for path, data in of.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder / of.path


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_no_byte_of_a_record_can_be_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("offer")
    path, whole = laid(folder, GOOD), GOOD.record.to_json()
    start = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["cut", "change", "insert", "remove"]))
    extra = data.draw(st.binary(min_size=1, max_size=8))
    mutated = {
        "cut": whole[:start],
        "change": whole[:start] + extra + whole[start + len(extra) :],
        "insert": whole[:start] + extra + whole[start:],
        "remove": whole[:start] + whole[start + len(extra) :],
    }[kind]
    if mutated == whole:
        return
    path.write_bytes(mutated)
    with pytest.raises(ZooError) as error:
        hubboard._read(folder, GOOD.path)
    assert str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_of_the_values_per_trial_can_be_changed(data: st.DataObject) -> None:
    assert GOOD.units is not None
    start = data.draw(st.integers(0, len(GOOD.units) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=8))
    mutated = GOOD.units[:start] + extra + GOOD.units[start + len(extra) :]
    if mutated == GOOD.units:
        return
    (problem,) = problems_of(replace(GOOD, units=mutated), contests)
    assert "is not the file that" in problem
    for named in problems_of(with_bytes(mutated), contests):  # with the hash made to fit: refused, or the same values
        assert named.endswith(".")
    if not problems_of(with_bytes(mutated), contests):
        forged = with_bytes(mutated)
        read = units.read_units(mutated, forged.record, where="here")
        for (system, _), trials in read.items():
            np.testing.assert_allclose(np.sort(trials.values), np.sort(RIGHT[system]), atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([VALUES, CONTROL]), st.booleans())
def test_no_other_number_passes_for_the_mean(value: float, path: str, with_replicates: bool) -> None:
    right = MEAN if path == VALUES else BASE
    if abs(value - right) < 1e-6:
        return
    forged = changed(f"{path}/value", value)
    if with_replicates:
        forged = changed(f"{path}/replicates", [value], of=forged)
    assert problems_of(forged, contests)


RAW: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "no json": lambda raw: b"<html></html>",
    "a list": lambda raw: b"[]",
    "null": lambda raw: b"null",
    "not utf-8": lambda raw: b"\xff\xfe" + raw,
    "very deep": lambda raw: b'{"a":' * 100_000,
    "deep lists": lambda raw: b"[" * 1_000_000,
    "a number of many digits": lambda raw: raw.replace(b'"seed": 0', b'"seed": ' + b"9" * 5000),
    "NaN": lambda raw: raw.replace(b'"seconds": 1.0', b'"seconds": NaN'),
    "Infinity": lambda raw: raw.replace(b'"seconds": 1.0', b'"seconds": Infinity'),
    "1e999": lambda raw: raw.replace(b'"seconds": 1.0', b'"seconds": 1e999'),
    "NaN in a config": lambda raw: raw.replace(b'"width": 8', b'"width": NaN'),
    "a key twice": lambda raw: raw.replace(b'"seconds": 1.0', b'"seconds": 1.0, "seconds": 0.1'),
    "the id twice": lambda raw: raw.replace(b'"id"', b'"id": "0", "id"', 1),
    "another id": lambda raw: raw.replace(GOOD.record.id.encode(), b"0" * 64),
    "no id": lambda raw: raw.replace(b'"id"', b'"ID"', 1),
    "an unknown field": lambda raw: raw.replace(b'"status"', b'"level": "attested", "status"', 1),
    "written anew": lambda raw: json.dumps(json.loads(raw)).encode(),
    "white space": lambda raw: raw + b" ",
    "another version": lambda raw: raw.replace(b'"headline"', b'"schema_version": 9, "headline"', 1),
    "too large": lambda raw: raw + b" " * submission.RECORD_BYTES,
}


@pytest.mark.parametrize("mutate", RAW.values(), ids=RAW)
def test_a_file_that_is_no_record_is_refused(mutate: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = laid(tmp_path / "offer", GOOD)
    mutated = mutate(path.read_bytes())
    assert mutated != path.read_bytes()
    path.write_bytes(mutated)
    with pytest.raises(ZooError) as error:
        hubboard._read(tmp_path / "offer", GOOD.path)
    assert len(str(error.value)) < 700
    board = FsBoard(tmp_path / "board")
    if mutate not in (RAW["written anew"], RAW["white space"]):  # a push writes the record itself, in its own spelling
        with pytest.raises(ZooError):
            choose([path], FsBoard(tmp_path / "home"), board, tmp_path / "outbox", lambda s: problems_of(s, contests))
    assert not (tmp_path / "board").exists()
    assert not (tmp_path / "outbox").exists()


@pytest.mark.parametrize("what", ["record", "values", "folder", "sheet"])
def test_links_are_not_followed(what: str, tmp_path: Path) -> None:
    path, secret = laid(tmp_path / "offer", GOOD), tmp_path / "secret"
    secret.mkdir()
    (secret / "a.webp").write_bytes(b"secret")
    named = {
        "record": path,
        "values": path.with_suffix(".units.parquet"),
        "folder": path.with_suffix(".samples"),
        "sheet": path.with_suffix(".samples") / "a.webp",
    }[what]
    named.parent.mkdir(exist_ok=True)
    named.unlink(missing_ok=True)
    named.symlink_to(secret if what == "folder" else secret / "a.webp")
    with pytest.raises(ZooError, match=r"but is a link; put the files? (itself there|themselves beside the record)\.$"):
        read_submission(path)


BOMB_ROWS = 1 << 20


def test_a_file_that_unpacks_to_more_than_it_may_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    many = pa.table(
        {
            **{name: pa.array(["x"] * BOMB_ROWS).dictionary_encode() for name in COLUMNS[:4]},
            "value": np.zeros(BOMB_ROWS),
        }
    )
    sink = io.BytesIO()
    pq.write_table(many, sink, compression="zstd")
    assert len(sink.getvalue()) < 100_000
    monkeypatch.setattr(units, "MAX_ROWS", BOMB_ROWS - 1)
    (problem,) = problems_of(with_bytes(sink.getvalue()), contests)
    assert f"unpacks to {BOMB_ROWS} rows" in problem
    monkeypatch.setattr(units, "MAX_ROWS", BOMB_ROWS)
    monkeypatch.setattr(units, "MAX_EXPANDED", 1 << 20)
    long = with_rows([(*row[:2], "t" * (1 << 20) + row[2], *row[3:]) for row in ROWS], compression="zstd")
    assert long.units is not None
    assert len(long.units) < 100_000
    (problem,) = problems_of(long, contests)
    assert "bytes of any file of values per trial" in problem


def test_a_long_word_is_kept_once_however_often_it_is_named() -> None:
    import resource

    word = "w" * (8 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), [word])
    table = pa.table(
        {
            **{name: pa.array([f"{name}{i}" for i in range(4000)]) for name in COLUMNS[:3]},
            "unit": column,
            "value": np.zeros(4000),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    (problem,) = problems_of(with_bytes(sink.getvalue()), contests)
    assert "names of at most 200 printable letters" in problem
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "32 GB if it were written out (kB)"


# ---- pull requests


STEM = GOOD.path.removesuffix(".json")


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        ".github/workflows/verify.yml",
        "notes/0123456789ab-01234567/attested-0123456789ab.json",
        "tables/index.json",
        "records/../../evil.json",
        "records/a/b/../../../0123456789ab-01234567.json",
        "/etc/passwd",
        "records/a/b/0123456789ab-01234567.html",
        f"{STEM}.samples/../../../x.webp",
        f"{STEM}.samples/x.svg",
        f"{STEM}.samples/x.js",
        f"{STEM}.samples/deep/x.webp",
        f"{STEM}.zip",
        f"{STEM}.pkl",
        f"{STEM}.exe",
        "records/a/b/0123456789ab-01234567.units.parquet",
        f"records/{'a' * 5000}.json",
        "records/\u202e/b/0123456789ab-01234567.json",
        "RECORDS/a/b/0123456789ab-01234567.json",
        "records/a/b/0123456789AB-01234567.json",
    ],
)
def test_a_file_that_has_no_place_on_a_board_is_refused_unread(path: str) -> None:
    records, problems = refuse_paths({GOOD.path: 1000, f"{STEM}.units.parquet": 1000, path: 10})
    assert len(problems) == 1
    assert problems[0].endswith("only records/<track>/<model>/ with a record takes files.")
    assert problems[0].isprintable()
    assert len(problems[0]) < 400


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (GOOD.path, submission.RECORD_BYTES),
        (f"{STEM}.units.parquet", submission.UNITS_BYTES),
        (f"{STEM}.png", submission.PICTURE_BYTES),
    ],
)
def test_a_file_that_is_too_large_is_refused_unread(path: str, limit: int) -> None:
    sizes = {GOOD.path: 1000, path: limit + 1}
    _, (problem,) = refuse_paths(sizes)
    assert problem == f"{path!r} has {limit + 1} bytes, more than the {limit} of any such file."
    assert refuse_paths({GOOD.path: 1000, path: limit})[1] == []


def test_a_record_brings_no_crowd_of_files() -> None:
    crowd = {f"{STEM}.samples/s{i}.webp": 10 for i in range(submission.MAX_FILES + 1)}
    _, (problem,) = refuse_paths({GOOD.path: 1000, **crowd})
    assert problem == f"{GOOD.path!r} brings {submission.MAX_FILES + 1} files, more than the 800 of any record."


def test_nothing_is_sent_if_one_of_several_is_wrong(tmp_path: Path) -> None:
    forged = changed("provenance/dirty", True)
    paths = [laid(tmp_path / "a", GOOD), laid(tmp_path / "b", forged)]
    board = FsBoard(tmp_path / "board")
    with pytest.raises(GateError, match=rf"^nothing was sent: {forged.record.id[:12]}: it was made by a checkout"):
        choose(paths, FsBoard(tmp_path / "home"), board, tmp_path / "outbox", lambda s: problems_of(s, contests))
    assert not (tmp_path / "board").exists()
    assert not (tmp_path / "outbox").exists()

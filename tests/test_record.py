from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.conftest import build_record
from zoo import provenance
from zoo.errors import IntegrityError, UsageError
from zoo.record import Audit, Record, Value
from zoo.store import digest

CONTENT: dict[str, Any] = {
    **build_record(
        "eeg2image", config={"width": 64, "rates": [0.1, 0.2]}, metrics=("fid|v1", "kid|v1"), units_sha256="0" * 64
    ).model_dump(mode="json"),
    "audit": {"verdict": "suspect", "evidence": {"auc": 0.7, "why": "drift", "p": None}, "sentences": ["Drift."]},
    "headline": "fid",
    "values": {
        "fid": {
            "value": 174.1,
            "signature": "fid|v1",
            "higher_is_better": False,
            "interval": [170.0, 178.5],
            "interval_method": "jackknife, 10 groups",
            "n": 500,
            "replicates": [173.0, 175.2],
        },
        "ssim": {"value": None, "reason": "only the class is shared"},
    },
    "controls": {"shuffled-eeg": {"values": {"fid": {"value": 180.0}}}},
}
IDENTITY: dict[str, Any] = CONTENT["identity"]


def changed(where: str, new: Any) -> dict[str, Any]:
    """CONTENT with the value at a dotted path replaced."""
    content: dict[str, Any] = json.loads(json.dumps(CONTENT))
    *parents, last = where.split("/")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = new
    return content


RECORD = Record.model_validate(CONTENT)
OTHER: dict[str, Any] = {
    "config": {"width": 64, "rates": [0.1, 0.3]},
    "seed": 1,
    "replicates": 4,
    "limit": 10,
    "metrics": ["fid|v2", "kid|v1"],
}


# ---- id and run


@pytest.mark.parametrize("field", IDENTITY)
def test_whatever_is_identity_changes_id_and_run(field: str) -> None:
    new = OTHER.get(field, "1" * 64 if field.endswith(("sha256", "fingerprint")) else "another")
    other = Record.model_validate(changed(f"identity/{field}", new))
    assert other.id != RECORD.id
    assert other.run != RECORD.run


@pytest.mark.parametrize(
    ("where", "new"),
    [
        ("values/fid/value", 174.2),
        ("provenance/created", "2026-01-02T00:00:00+00:00"),
        ("cost/seconds", 1.6),
        ("audit", None),
        ("status", "partial"),
        ("error", "x"),
        ("headline", "ssim"),
        ("controls", {}),
        ("units_sha256", None),
    ],
)
def test_whatever_else_changes_the_run_but_not_the_id(where: str, new: Any) -> None:
    other = Record.model_validate(changed(where, new))
    assert other.id == RECORD.id
    assert other.run != RECORD.run


def test_the_id_is_the_hash_of_the_canonical_identity() -> None:
    assert RECORD.id == digest(IDENTITY)
    assert Record.model_validate(dict(reversed(CONTENT.items()))).run == RECORD.run


def test_the_name_tells_track_model_id_and_run() -> None:
    assert RECORD.name == (
        f"reconstruction/phantom.subject-out@1/eeg2image/{digest(IDENTITY)[:12]}-{RECORD.run[:8]}.json"
    )


# ---- numbers


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "where",
    [
        "values/fid/value",
        "values/fid/interval",
        "values/fid/replicates",
        "values/fid/detail",
        "controls/shuffled-eeg/values/fid/value",
        "audit/evidence",
        "cost/seconds",
    ],
)
def test_a_number_that_does_not_exist_is_refused_wherever_it_stands(where: str, number: float) -> None:
    shape: dict[str, Any] = {"interval": [0.0, number], "replicates": [1.0, number], "detail": {"x": number}}
    new = shape.get(where.rpartition("/")[2], {"auc": number} if where == "audit/evidence" else number)
    with pytest.raises(ValidationError, match="Input should be a finite number"):
        Record.model_validate(changed(where, new))


@pytest.mark.parametrize("given", [{"value": None}, {"value": 1.0, "reason": "why not"}])
def test_a_null_and_only_a_null_has_a_reason(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a null value needs a reason, and only a null value has one"):
        Value.model_validate(given)


def test_a_null_with_its_reason_is_a_value() -> None:
    assert Value(value=None, reason="too few").value is None
    assert Value(value=0.0).reason is None


def test_a_verdict_is_one_of_four() -> None:
    with pytest.raises(ValidationError, match="'clean', 'suspect', 'confounded' or 'unknown'"):
        Audit.model_validate({"verdict": "fine", "evidence": {}, "sentences": []})


# ---- files


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / RECORD.name
    RECORD.write(path)
    found = Record.read(path)
    assert found == RECORD
    assert (found.id, found.run) == (RECORD.id, RECORD.run)
    assert json.loads(path.read_text())["id"] == RECORD.id


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("claimed", [RECORD.id, None])
def test_a_changed_identity_is_noticed(tmp_path: Path, claimed: str | None) -> None:
    content = changed("identity/seed", 7)
    path = written(tmp_path, {"id": claimed, **content} if claimed else content)
    with pytest.raises(IntegrityError) as error:
        Record.read(path)
    true = digest({**IDENTITY, "seed": 7})
    assert str(error.value) == f"{path} says id {str(claimed)[:12]} but its identity hashes to {true[:12]}."


@pytest.mark.parametrize(
    "where", ["colour", "identity/colour", "values/fid/colour", "provenance/colour", "cost/colour"]
)
def test_an_unknown_key_is_refused(tmp_path: Path, where: str) -> None:
    path = written(tmp_path, {"id": RECORD.id, **changed(where, "red")})
    with pytest.raises(UsageError) as error:
        Record.read(path)
    assert str(error.value).startswith(
        f"{path} is not a valid record: 1 validation error for Record {where.replace('/', '.')} "
        "Extra inputs are not permitted"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a valid record: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "must hold a record, but holds a list."),
        ("null", "must hold a record, but holds a NoneType."),
    ],
)
def test_what_is_no_record_is_said_to_be_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        Record.read(path)
    assert str(error.value) == f"{path} {message}"


def test_nan_in_a_file_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"id": RECORD.id, **changed("values/fid/value", float("nan"))})
    assert "NaN" in text
    (tmp_path / "x.json").write_text(text)
    told = r"it holds NaN, which is no number; null with a reason says that there is none$"
    with pytest.raises(UsageError, match=told):
        Record.read(tmp_path / "x.json")


# ---- provenance


@pytest.mark.parametrize("program", ["/somewhere/bin/zoo", "/somewhere/zoo/__main__.py"])
def test_the_command_is_what_a_reader_would_type(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "eval", "eeg2image", "-d", "phantom", "--output-dir", "/home/me/a board"])
    assert provenance.command() == "zoo eval eeg2image -d phantom --output-dir 'a board'"


def test_a_record_is_shown_in_a_line() -> None:
    record = build_record("alpha", 0.52346, interval=(0.48, 0.56))
    start = f"<Record {record.id[:12]}: alpha on {record.identity.track}, {record.headline}"
    assert repr(record) == str(record) == f"{start} 0.5235 [0.48, 0.56]>"
    assert repr(build_record("alpha", None)).endswith(f"{record.headline} no value>")

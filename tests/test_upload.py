"""What lies beside a record so that its metrics can be computed again: exact, or refused in a sentence."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from leaderboard.submission import Submission, refuse_paths
from leaderboard.verify import problems_of
from tests.leaderboard.test_verify import GOOD, contests
from zoo import upload
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.upload import MANIFEST, Array, Manifest, check, encode, read

RNG = np.random.default_rng(3)
RECORD, RUN = GOOD.record.id, GOOD.record.run
TRIALS = tuple(f"t{i}" for i in range(20))
IMAGES = RNG.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
FEATURES = RNG.standard_normal((20, 5)).astype(np.float32)
SHEET, TENSOR = "000-samples-model-r0-000.webp", "001-eeg-features-test-000.safetensors"
Files = dict[str, bytes]
Edit = Callable[[Files, dict[str, Any]], object]


def built(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...] = TRIALS, **changes: Any) -> Files:
    """The files of an upload of these arrays."""
    files: Files = {}
    described = []
    for number, (name, rows) in enumerate(arrays.items()):
        parts, data = encode(name, rows, number)
        files |= data
        described.append(Array(name=name, of="test", shape=rows.shape[1:], dtype=str(rows.dtype), files=tuple(parts)))  # type: ignore[arg-type]
    given = {"record": RECORD, "run": RUN, "zoo": "0.3.0", "keys": {"test": keys}, "arrays": tuple(described)}
    files[MANIFEST] = Manifest(**{**given, **changes}).model_dump_json().encode()
    return files


WHOLE = built({"samples/model.r0": IMAGES, "eeg-features/test": FEATURES})


def edited(edit: Edit) -> Files:
    """The upload with its manifest and files changed; hashes fit again unless the edit breaks them."""
    import json

    files, content = dict(WHOLE), json.loads(WHOLE[MANIFEST])
    before = dict(files)
    edit(files, content)
    for array in content["arrays"]:
        for file in array["files"]:
            if (data := files.get(file["file"])) is not None and data != before.get(file["file"]):
                file["sha256"] = hashlib.sha256(data).hexdigest()
    if files.get(MANIFEST) == before[MANIFEST]:
        files[MANIFEST] = json.dumps(content).encode()
    return files


def test_rows_come_back_bit_by_bit_in_whatever_order_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PER_SHEET", 7)
    monkeypatch.setattr(upload, "TENSOR_BYTES", 60)
    files = built({"samples/model.r0": IMAGES, "eeg-features/test": FEATURES})
    assert len(files) == 3 + 7 + 1
    found = read(files, record=RECORD, run=RUN)
    check(found)
    order = RNG.permutation(20)
    names = [TRIALS[i] for i in order]
    assert (found.rows("samples/model.r0", names) == IMAGES[order]).all()
    assert (found.rows("eeg-features/test", names[3:9]) == FEATURES[order[3:9]]).all()
    assert found.used == set()
    assert found.rows("eeg-features/test", names).dtype == np.float32


def test_what_is_not_of_these_recordings_is_refused() -> None:
    found = read(WHOLE, record=RECORD, run=RUN)
    need = ("eeg-features/test", TRIALS, (None,), ("float32",))
    found.require(*need)
    assert found.used == {"eeg-features/test"}
    cases: dict[str, tuple[Any, ...]] = {
        "eeg-features/test must have a row for each of 21 ids, but lacks 't20'.": (
            need[0],
            (*TRIALS, "t20"),
            *need[2:],
        ),
        "eeg-features/test must have a row for each of 18 ids, but has besides 't18' and 1 more.": (
            need[0],
            TRIALS[:18],
            *need[2:],
        ),
        "rows of eeg-features/test must be 6 of float32, but are 5 of float32.": (need[0], TRIALS, (6,), need[3]),
        "rows of samples/model.r0 must be 3 × 16 × 16 of uint8, but are 3 × 8 × 8 of uint8.": (
            "samples/model.r0",
            TRIALS,
            (3, 16, 16),
            ("uint8",),
        ),
    }
    for sentence, arguments in cases.items():
        with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
            found.require(*arguments)


def lossy(files: Files, content: dict[str, Any]) -> None:
    sink = io.BytesIO()
    Image.open(io.BytesIO(files[SHEET])).save(sink, format="webp", quality=50)
    files[SHEET] = sink.getvalue()


def larger(files: Files, content: dict[str, Any]) -> None:
    """A header that says 16,383 × 16,383: 800 MB from 200 bytes."""
    files[SHEET] = files[SHEET][:21] + struct.pack("<I", 0x3FFE | 0x3FFE << 14) + files[SHEET][25:]


def put(array: np.ndarray, name: str = "rows") -> Edit:
    return lambda files, content: files.update({TENSOR: save({name: array})})


def wrong(values: float) -> np.ndarray:
    odd = FEATURES.copy()
    odd[3, 2] = values
    return odd


def array(number: int, **changes: Any) -> Edit:
    return lambda files, content: content["arrays"][number].update(changes)


HOSTILE: dict[str, Edit] = {
    "an upload must hold manifest.jsonl, but does not; send it again.": lambda f, c: f.pop(MANIFEST),
    f"the upload is of 000000000000-{RUN[:8]}, not of {RECORD[:12]}-{RUN[:8]}; send its own.": lambda f, c: c.update(
        record="0" * 64
    ),
    f"{TENSOR} is not the file that the upload's manifest names; send it again.": lambda f, c: c["arrays"][1]["files"][
        0
    ].update(sha256="1" * 64),
    f"the upload misses '{SHEET}': its manifest names every file.": lambda f, c: f.pop(SHEET),
    "the upload has besides 'x.webp': its manifest names every file.": lambda f, c: f.update({"x.webp": b""}),
    "the ids 'test' must be unique, but one is there twice.": lambda f, c: c["keys"].update(test=["t0"] * 20),
    "the ids 'test' must be printable, but one is not.": lambda f, c: c["keys"].update(test=["\x1b", *TRIALS[1:]]),
    "samples/model.r0 must have a row for each of 19 ids, but has 20.": lambda f, c: c["keys"].update(test=TRIALS[1:]),
    "samples/model.r0 must name its ids, but the manifest has no 'train'.": array(0, of="train"),
    "an upload must name everything once, but names eeg-features/test twice.": array(0, name="eeg-features/test"),
    "samples/model.r0 must be square RGB images of at most 1024 pixels in uint8, but are 3 × 8 × 4 of uint8.": array(
        0, shape=(3, 8, 4)
    ),
    "samples/model.r0 must be square RGB images of at most 1024 pixels in uint8, but are 3 × 20000 × 20000 of uint8.": (
        array(0, shape=(3, 20000, 20000))
    ),
    "eeg-features/test must be floating-point numbers in safetensors, but is not.": array(1, dtype="uint8"),
    "eeg-features/test must have numbers in its rows, but has none.": array(1, shape=(0,)),
    "the upload unpacks to 16000003840 bytes, more than the 4294967296 of any.": array(1, shape=(200_000_000,)),
    f"{SHEET} must be lossless WebP, but is not.": lossy,
    f"{SHEET} must be 128×16 for its 20 images, but is 16383×16383.": larger,
    f"{TENSOR} must hold one tensor, 'rows', (20, 5) float32, but holds 'rows' (20, 4) float32.": put(FEATURES[:, :4]),
    f"{TENSOR} must hold one tensor, 'rows', (20, 5) float32, but holds 'odd' (20, 5) float32.": put(FEATURES, "odd"),
    f"{TENSOR} must hold one tensor, 'rows', (20, 5) float32, but holds 'rows' (20, 5) float64.": put(
        FEATURES.astype(float)
    ),
    f"{TENSOR} must hold numbers that a network can make, but holds some that are none.": put(wrong(np.nan)),
    f"{TENSOR} must hold numbers that a network can make, but holds some that are none": put(wrong(1e30)),
}


@pytest.mark.parametrize(("sentence", "edit"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_a_hostile_upload_is_refused_in_a_sentence(sentence: str, edit: Edit) -> None:
    files = edited(edit)
    with pytest.raises(ZooError) as caught:
        check(read(files, record=RECORD, run=RUN))
    assert str(caught.value).startswith(sentence)
    beside = {f".upload/{name}": data for name, data in files.items()}
    (said,) = problems_of(Submission(GOOD.record, GOOD.units, beside), contests)
    assert said == f"{RECORD[:12]}: {caught.value}"


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda f, c: c["arrays"][0]["files"][0].update(file="../../x.webp"), "String should match pattern"),
        (lambda f, c: c["arrays"][0]["files"][0].update(file="/etc/passwd"), "String should match pattern"),
        (lambda f, c: c["arrays"][0].update(name="<script>"), "String should match pattern"),
        (lambda f, c: c.update(keys={"test": ["x" * 301]}), "String should have at most 300 characters"),
        (lambda f, c: c.update(more=1), "Extra inputs are not permitted"),
        (lambda f, c: f.update({MANIFEST: b"[" * 100_000}), "Invalid JSON"),
        (lambda f, c: f.update({MANIFEST: b"\xff\xfe"}), "Invalid JSON"),
    ],
)
def test_what_is_no_manifest_is_refused_in_a_sentence(edit: Edit, part: str) -> None:
    with pytest.raises(UsageError, match=rf"^manifest.jsonl is no valid manifest of an upload: .*{part}") as caught:
        read(edited(edit), record=RECORD, run=RUN)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_what_is_too_large_is_refused_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "BYTES": "the upload has .* bytes, more than the 100 of any.",
        "MANIFEST_BYTES": "manifest.jsonl has .* bytes, more than the 100 of any upload's.",
        "MAX_FILES": "the upload has 2 files, more than the 1 of any.",
        "MAX_ROWS": "the upload has 20 ids, more than the 19 of any.",
    }
    for name, sentence in cases.items():
        with monkeypatch.context() as patch:
            patch.setattr(upload, name, {"MAX_FILES": 1, "MAX_ROWS": 19}.get(name, 100))
            with pytest.raises(UsageError, match=f"^{sentence}$"):
                read(WHOLE, record=RECORD, run=RUN)
    stem = "records/a/b/" + "0" * 12 + "-" + "0" * 8
    sizes = {f"{stem}.json": 10, f"{stem}.upload/000-x-000.webp": 49 << 20, f"{stem}.upload/manifest.jsonl": 5}
    _, problems = refuse_paths(sizes)
    assert problems == [f"'{stem}.upload/000-x-000.webp' has 51380224 bytes, more than the 50331648 of any such file."]


@pytest.mark.parametrize(
    "name",
    [".upload/../x.webp", ".upload/a/b.webp", ".upload/x.pkl", ".upload/x.npy", ".upload/.webp", ".upload/X.webp"],
)
def test_an_upload_takes_no_other_names(name: str) -> None:
    stem = "records/a/b/" + "0" * 12 + "-" + "0" * 8
    _, problems = refuse_paths({f"{stem}.json": 10, f"{stem}{name}": 10})
    assert problems == [
        f"'{stem}{name}' has no place on a board: only records/<track>/<model>/ with a record takes files."
    ]


def test_broken_bytes_are_refused_and_nothing_else_happens() -> None:
    """Every cut and a flip every 40 bytes of either file, its hash made to fit."""
    refused = 0
    for name in (SHEET, TENSOR):
        data = WHOLE[name]
        for at in range(0, len(data), 40):
            for broken in (data[:at], data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]):
                files = edited(lambda f, c, name=name, broken=broken: f.update({name: broken}))  # type: ignore[misc]
                said = refusal(files, name)
                assert said is None or said.startswith(name)
                refused += said is not None
    assert refused > 20


def refusal(files: Files, name: str) -> str | None:
    """Why a file is refused; None if rows come out of it all the same."""
    try:
        found = read(files, record=RECORD, run=RUN)
        check(found)
        array = found.manifest.arrays[name == TENSOR]
        rows = found.rows(array.name, TRIALS)
    except (IntegrityError, UsageError) as error:
        return str(error)
    assert rows.shape == (20, *array.shape)
    return None

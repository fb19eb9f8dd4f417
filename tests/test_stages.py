"""Stages: whole chunks, any order, nothing twice."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.compute import to_uint8
from zoo.errors import IntegrityError
from zoo.stages import ShardsMissingError, Stage, Work, once, once_json


def _whole() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(10))
    return file.getvalue()


WHOLE = _whole()


def stage(calls: list[int], n: int = 10, chunk: int = 4) -> Stage:
    """Row i is i squared; ``calls`` collects where chunks start."""

    def compute(part: slice) -> np.ndarray:
        calls.append(part.start)
        return np.arange(part.start, part.stop) ** 2

    return Stage("squares", {"of": "rows"}, n, compute, "squaring", chunk)


def test_rows_are_computed_once_and_kept() -> None:
    calls: list[int] = []
    for _ in range(2):
        work = stage(calls)
        work.fill(Work())
        np.testing.assert_array_equal(work.rows()[:], np.arange(10) ** 2)
    assert calls == [0, 4, 8]


def test_shards_in_any_order_make_the_whole() -> None:
    calls: list[int] = []
    stage(calls).fill(Work(shard=(2, 3)))
    with pytest.raises(ShardsMissingError):
        stage(calls).rows()[:]
    stage(calls).fill(Work(shard=(0, 3)))
    stage(calls).fill(Work(shard=(1, 3)))
    assert calls == [8, 0, 4]
    np.testing.assert_array_equal(stage(calls).rows()[:], np.arange(10) ** 2)


def test_another_chunk_size_is_another_stage() -> None:
    calls: list[int] = []
    stage(calls, chunk=4).fill(Work())
    other = stage(calls, chunk=5)
    other.fill(Work())
    np.testing.assert_array_equal(other.rows()[:], np.arange(10) ** 2)


def test_rows_index_as_the_array_they_hold() -> None:
    whole = np.arange(60.0).reshape(20, 3)
    made = Stage("table", {}, 20, lambda part: whole[part], "copying", chunk=6)
    made.fill(Work())
    order = np.random.default_rng(0).permutation(20)
    for rows, array in (
        (made.rows(), whole),
        (made.rows(slice(5, None)), whole[5:]),
        (made.rows(slice(7), slice(1, 3)), whole[:7, 1:3]),
    ):
        assert (rows.shape, len(rows), rows.ndim, rows.dtype) == (array.shape, len(array), 2, array.dtype)
        np.testing.assert_array_equal(rows, array)
        np.testing.assert_array_equal(rows[2:6], array[2:6])
        inside = order[order < len(array)]
        np.testing.assert_array_equal(rows[inside], array[inside])
        np.testing.assert_array_equal(rows[array[:, 0] % 2 == 0], array[array[:, 0] % 2 == 0])
    np.testing.assert_array_equal(made.part(slice(6, 12)), whole[6:12])


def test_once_does_not_compute_twice() -> None:
    first = once("single", {"a": 1}, lambda: np.array([1.5]))
    again = once("single", {"a": 1}, lambda: np.array([2.5]))
    assert (first[0], again[0]) == (1.5, 1.5)
    assert [once_json("plain", {"a": 1}, lambda value=value: {"x": value}) for value in (0.1, 2)] == [{"x": 0.1}] * 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"EOF: reading magic string, .*"),
        (b"PK\x03\x04 is no array", r"the magic string is not correct; .*"),
        (WHOLE[:-8], r"(EOF: reading array data|Failed to read all data for array|cannot reshape array of size 9).*"),
        (WHOLE[:60], r"EOF: reading array header, .*"),
    ],
    ids=["empty", "another format", "cut short", "cut in its header"],
)
def test_a_file_that_is_not_what_was_written_is_named(cache: Path, content: bytes, why: str) -> None:
    """A chunk as rows and as a part, and an array made in one piece; ``why`` is numpy's and differs by version."""
    made = stage([], chunk=10)
    made.fill(Work())
    once("single", {}, lambda: np.arange(10))
    readers = {
        "squares": (lambda: made.rows()[:], lambda: made.part(slice(0, 10))),
        "single": (lambda: once("single", {}, lambda: np.zeros(1)),),
    }
    for kind, reads in readers.items():
        (path,) = cache.glob(f"{kind}/*/*.npy")
        path.write_bytes(content)
        for read in reads:
            start, end = re.escape(f"{path} is damaged ("), re.escape("); delete it and run the same command again.")
            with pytest.raises(IntegrityError, match=f"^{start}{why}{end}$"):
                read()
        path.unlink()
    made.fill(Work())
    np.testing.assert_array_equal(made.rows()[:], np.arange(10) ** 2)


def test_a_single_wrong_bit_is_named_and_files_without_a_checksum_are_read(cache: Path) -> None:
    made = stage([], chunk=10)
    made.fill(Work())
    (path,) = cache.glob("squares/*/*.npy")
    written = path.read_bytes()
    np.testing.assert_array_equal(np.load(path), np.arange(10) ** 2)  # any reader of .npy can read it
    for place in (len(written) - 20, len(written) - 1):
        spoilt = bytearray(written)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(IntegrityError) as caught:
            made.rows()[:]
        why = "its checksum does not fit"
        assert str(caught.value) == f"{path} is damaged ({why}); delete it and run the same command again."
    np.save(path, np.arange(10) ** 2)
    np.testing.assert_array_equal(made.rows()[:], np.arange(10) ** 2)


def test_damaged_plain_data_is_named(cache: Path) -> None:
    once_json("plain", {}, lambda: {"x": 1})
    (path,) = cache.glob("plain/*/value.json")
    path.write_text('{"x"')
    with pytest.raises(IntegrityError) as caught:
        once_json("plain", {}, lambda: {"x": 2})
    why = "Expecting ':' delimiter: line 1 column 5 (char 4)"
    assert str(caught.value) == f"{path} is damaged ({why}); delete it and run the same command again."
    path.unlink()
    assert once_json("plain", {}, lambda: {"x": 2}) == {"x": 2}


@pytest.mark.parametrize(("rounding", "expected"), [("truncate", 127), ("nearest", 128)])
def test_a_models_rounding_is_kept(rounding: str, expected: int) -> None:
    grey = torch.full((1, 3, 2, 2), 0.5)
    assert (to_uint8(grey, rounding, 2) == expected).all()
    assert to_uint8(grey, rounding, 4).shape == (1, 3, 4, 4)

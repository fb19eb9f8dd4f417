"""Stages: whole chunks, any order, nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.stages import ShardsMissingError, Stage, Work, once, to_uint8


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
        np.testing.assert_array_equal(work.gather(), np.arange(10) ** 2)
    assert calls == [0, 4, 8]


def test_shards_in_any_order_make_the_whole() -> None:
    calls: list[int] = []
    stage(calls).fill(Work(shard=(2, 3)))
    with pytest.raises(ShardsMissingError):
        stage(calls).gather()
    stage(calls).fill(Work(shard=(0, 3)))
    stage(calls).fill(Work(shard=(1, 3)))
    assert calls == [8, 0, 4]
    np.testing.assert_array_equal(stage(calls).gather(), np.arange(10) ** 2)


def test_another_chunk_size_is_another_stage() -> None:
    calls: list[int] = []
    stage(calls, chunk=4).fill(Work())
    other = stage(calls, chunk=5)
    other.fill(Work())
    np.testing.assert_array_equal(other.gather(), np.arange(10) ** 2)


def test_once_does_not_compute_twice() -> None:
    first = once("single", {"a": 1}, lambda: np.array([1.5]))
    again = once("single", {"a": 1}, lambda: np.array([2.5]))
    assert (first[0], again[0]) == (1.5, 1.5)


@pytest.mark.parametrize(("rounding", "expected"), [("truncate", 127), ("nearest", 128)])
def test_a_models_rounding_is_kept(rounding: str, expected: int) -> None:
    grey = torch.full((1, 3, 2, 2), 0.5)
    assert (to_uint8(grey, rounding, 2) == expected).all()
    assert to_uint8(grey, rounding, 4).shape == (1, 3, 4, 4)

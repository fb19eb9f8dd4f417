"""Copies are found whatever file they are in, and different pictures are left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from zoo.audits.duplicates import Pictures, find_duplicates, thumbnails


def scene(seed: int, size: int = 96) -> np.ndarray:
    """A random picture with the 1/f spectrum of natural ones and pale colours, (size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    noise = rng.normal(size=(1, size, size)) + 0.3 * rng.normal(size=(3, size, size))
    picture = np.fft.ifft2(np.fft.fft2(noise) / np.maximum(radius, 1 / size)).real.transpose(1, 2, 0)
    return np.clip(128 + 50 * picture / picture.std(), 0, 255).astype(np.uint8)


def counted(train: list[np.ndarray], test: list[np.ndarray], *, files: bool = False) -> tuple[int, int, int]:
    pictures = [*train, *test]
    sha = [picture.tobytes().hex() if files else str(i) for i, picture in enumerate(pictures)]
    rows = np.arange(len(pictures))
    found = find_duplicates(Pictures(np.array(sha), thumbnails(pictures), rows[: len(train)], rows[len(train) :]))
    return found.n, found.same, found.alike


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda picture: np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.LANCZOS)),
        lambda picture: np.asarray(Image.fromarray(picture).resize((300, 200), Image.Resampling.BICUBIC)),
        lambda picture: np.clip(0.9 * picture.astype(float) + 8, 0, 255).astype(np.uint8),
    ],
    ids=["jpeg", "half the size", "another shape", "another exposure"],
)
def test_a_changed_copy_is_nearly_the_same_picture(change) -> None:  # type: ignore[no-untyped-def]
    train = [scene(seed) for seed in range(30)]
    assert counted(train, [change(train[7]), scene(100), change(train[9])]) == (3, 0, 2)


def test_the_same_file_is_the_same_whatever_its_name() -> None:
    train = [scene(seed, 24) for seed in range(5)]
    assert counted(train, [train[3], scene(9, 24)], files=True) == (2, 1, 1)


def test_different_pictures_mirrors_and_other_colours_are_not_copies() -> None:
    train = [scene(seed) for seed in range(200)]
    assert counted(train, [scene(seed) for seed in range(1000, 1200)])[2] == 0
    assert counted(train[:1], [train[0][:, ::-1]])[2] == 0
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    red, blue = (np.where(disc[..., None], colour, 20).astype(np.uint8) for colour in ((220, 40, 40), (40, 40, 220)))
    assert counted([red], [blue, red]) == (2, 0, 1)


def test_pictures_of_one_grey_resemble_nothing() -> None:
    grey = [np.full((20, 20, 3), value, np.uint8) for value in (90, 91)]
    assert counted(grey[:1], grey[1:]) == (1, 0, 0)


def test_no_test_pictures_are_no_copies() -> None:
    assert counted([scene(0)], []) == (0, 0, 0)


def test_many_pictures_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = [scene(seed, 32) for seed in range(20)], [scene(seed, 32) for seed in range(10, 40)]
    whole = counted(train, test)
    monkeypatch.setattr("zoo.audits.duplicates.BLOCK", 7)
    assert counted(train, test) == whole == (30, 0, 10)

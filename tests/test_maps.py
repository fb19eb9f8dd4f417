"""Maps of a model's space: what is laid out, how groups are told apart, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from zoo import maps, plots
from zoo.cli import app
from zoo.datasets import base
from zoo.errors import UsageError
from zoo.maps import draw_map, tsne
from zoo.models import class_gan, retrieval_encoders
from zoo.models.base import Model


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Three directions in twenty dimensions, thirty rows of any length around each."""
    rng = np.random.default_rng(0)
    centres = np.eye(3, 20)
    rows = np.repeat(centres, 30, axis=0) + 0.05 * rng.standard_normal((90, 20))
    return rows * rng.uniform(0.1, 10, (90, 1)), np.repeat(np.arange(3), 30)


def test_what_points_the_same_way_lies_together_whatever_its_length(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    rows, labels = clusters
    points = tsne(rows)
    assert points.shape == (90, 2)
    apart = np.linalg.norm(points[:, None] - points, axis=2) + np.eye(90) * 1e9
    assert (labels[apart.argmin(axis=1)] == labels).all()


def test_the_seed_decides_the_map(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(tsne(clusters[0][::3], seed=1), tsne(clusters[0][::3], seed=1))


@pytest.mark.parametrize("rows", [np.ones((3, 5)), np.full((9, 5), np.nan)])
def test_too_little_to_lay_out_is_refused(rows: np.ndarray) -> None:
    message = f"a map needs four recordings or more with finite features, but there are {len(rows)}."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        tsne(rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is given to the plot, which is drawn all the same."""
    kept: list[dict[str, Any]] = []
    plot = plots.map_plot

    def keep(points: np.ndarray, names: list[str], path: Path, **rest: Any) -> None:
        kept.append({"points": points, "names": names, **rest})
        plot(points, names, path, **rest)

    monkeypatch.setattr(maps, "map_plot", keep)
    return kept


def retriever() -> Model:
    torch.manual_seed(0)
    options: dict[str, Any] = {"network": "ubp", "extractor": "pixels-16", "n_features": 768}
    return retrieval_encoders.build(base.load("phantom").spec, **options)


def test_a_retriever_shows_recordings_and_the_pictures_of_its_gallery(
    tmp_path: Path, drawn: list[dict[str, Any]]
) -> None:
    path = draw_map(retriever(), "phantom", tmp_path / "map.png", limit=40, device="cpu")
    assert path.read_bytes().startswith(b"\x89PNG")
    (given,) = drawn
    assert given["points"].shape == (40, 2)
    assert given["pictures"].shape == (36, 2)  # a quarter of the 24 pictures of each of six shapes
    assert set(given["names"]) <= {"circle", "square", "triangle", "cross", "ring", "stripes"}
    assert given["title"].endswith("t-SNE of 40 recordings")
    again = draw_map(retriever(), "phantom", tmp_path / "again.png", limit=40, by="subject", device="cpu")
    np.testing.assert_array_equal(drawn[1]["points"], given["points"])
    assert set(drawn[1]["names"]) == set(base.load("phantom").trials["subject"].tolist())
    assert again.read_bytes() != path.read_bytes()


def test_what_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    model = class_gan.build(retriever().spec)
    message = "a map needs a model that reads EEG, but local-classgan is given labels, not EEG; name another."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        draw_map(model, "phantom", tmp_path / "map.png", device="cpu")
    with pytest.raises(UsageError, match=r"^by must be concept or subject, not 'colour'\.$"):
        draw_map(retriever(), "phantom", tmp_path / "map.png", by="colour", device="cpu")  # type: ignore[arg-type]


def test_the_command_names_what_is_missing() -> None:
    done = CliRunner().invoke(app, ["map", "nice.small", "-d", "phantom", "-q"])
    assert done.exit_code != 0
    assert "no weights of nice.small" in str(done.exception) + done.output

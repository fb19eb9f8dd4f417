"""Samples as files: what is in the folder, that nothing but weights, trial and replicate moves a pixel, and re-use."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zoo
from zoo import compute, plots, registry, weights
from zoo.cli import app
from zoo.datasets.base import load
from zoo.datasets.own import add
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.models.base import Reconstructor
from zoo.models.eeg2image import EEG2Image
from zoo.plan import split_sha
from zoo.plots import Grid

TINY = {"generator_width": 32, "discriminator_width": 4}
CPU: dict[str, Any] = {"device": "cpu"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def shared_cache(home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prepared dataset for all tests here; what a test made is gone for the next."""
    for path in home.iterdir():
        if path.name != "datasets":
            shutil.rmtree(path)
    monkeypatch.setenv("ZOO_CACHE", str(home))


@pytest.fixture
def model() -> EEG2Image:
    """Untrained, but with weights so large that its images differ from trial to trial and from draw to draw."""
    torch.manual_seed(0)
    card = registry.models.get("eeg2image.small")
    net = weights.build(card, load("phantom").spec, TINY)
    assert isinstance(net, EEG2Image)
    with torch.no_grad():
        for name, value in net.generator.named_parameters():
            if name.startswith("up"):
                value.mul_(10)
    return net


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the generator made."""
    counts: list[int] = []
    one = compute.generate

    def counting(net: Reconstructor, features: np.ndarray, *rest: Any) -> np.ndarray:
        counts.append(len(features))
        return one(net, features, *rest)

    monkeypatch.setattr(compute, "generate", counting)
    return counts


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}


def test_a_folder_says_of_every_sample_what_it_is(model: EEG2Image, tmp_path: Path) -> None:
    folder = zoo.generate(model, "phantom", limit=7, replicates=2, output_dir=tmp_path / "png", **CPU)
    assert folder == tmp_path / "png"
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "manifest.jsonl", "samples"]
    samples, data = manifest(folder), load("phantom")
    assert len({sample["trial_id"] for sample in samples}) == 7
    assert [sample["replicate"] for sample in samples] == [0] * 7 + [1] * 7
    assert {sample["file"] for sample in samples} == {f"samples/{name}" for name in pictures(folder)}
    row_of = {str(trial): row for row, trial in enumerate(data.trials["trial_id"])}
    split = data.split()
    for sample in samples:
        row = row_of[sample["trial_id"]]
        assert sample["file"] == f"samples/{sample['trial_id']}.r{sample['replicate']}.png"
        assert data.roles(split)[row] == sample["role"] == "test"
        assert sample["concept"] == data.concepts[data.labels[row]]
        assert (sample["stimulus_id"], sample["subject"]) == (
            data.trials["stimulus_id"][row],
            data.trials["subject"][row],
        )
        pixels = np.asarray(Image.open(folder / sample["file"]))
        assert pixels.shape == (model.resolution, model.resolution, 3)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == sample["sha256"]
    assert len({sample["sha256"] for sample in samples}) == 14
    (track, sha, version), *others = {(sample["track"], sample["weights_sha256"], sample["zoo"]) for sample in samples}
    assert (track, version, others) == ("reconstruction/phantom.stimulus-out@2", zoo.__version__, [])
    assert re.fullmatch("[0-9a-f]{64}", sha)


def test_python_shows_progress_unless_it_is_told_not_to(
    model: EEG2Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"limit": 2, "replicates": 1, **CPU}
    zoo.generate(model, "phantom", output_dir=tmp_path / "quiet", quiet=True, **options)
    assert capsys.readouterr() == ("", "")
    seen: list[str] = []
    progress = lambda done, total, what: seen.append(what)  # noqa: E731
    zoo.generate(model, "phantom", output_dir=tmp_path / "own", progress=progress, **options)
    assert capsys.readouterr() == ("", "")
    zoo.generate(model, "phantom", output_dir=tmp_path / "shown", **options)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert {line.rpartition(":")[0] or line for line in shown.err.splitlines()} == set(seen) != set()


def test_an_array_holds_the_same_pixels_as_the_pictures(model: EEG2Image, tmp_path: Path) -> None:
    options = {"limit": 5, "replicates": 2, **CPU}
    folder = zoo.generate(model, "phantom", output_dir=tmp_path / "png", **options)
    other = zoo.generate(model, "phantom", output_dir=tmp_path / "npy", format="npy", **options)
    array = np.load(other / "samples.npy")
    assert array.shape == (10, 3, model.resolution, model.resolution)
    assert array.dtype == np.uint8
    for png, npy in zip(manifest(folder), manifest(other), strict=True):
        np.testing.assert_array_equal(
            array[npy["row"]].transpose(1, 2, 0), np.asarray(Image.open(folder / png["file"]))
        )
        assert {**npy, "file": png["file"]} == {**png, "row": npy["row"]}


def test_neither_the_other_trials_nor_the_batches_move_a_byte(model: EEG2Image, tmp_path: Path, home: Path) -> None:
    many = pictures(zoo.generate(model, "phantom", limit=37, replicates=2, output_dir=tmp_path / "many", **CPU))
    for number, options in enumerate(({"limit": 1}, {"limit": 5, "batch_size": 1}, {"limit": 37, "batch_size": 3})):
        shutil.rmtree(home / "generations")
        few = pictures(
            zoo.generate(model, "phantom", output_dir=tmp_path / str(number), replicates=1, **options, **CPU)
        )
        assert len(few) == options["limit"]
        assert all(many[name] == data for name, data in few.items())


@pytest.fixture
def track() -> Iterator[str]:
    """A contest with one quick metric and one control."""
    whole = registry.tracks.get("reconstruction/phantom.stimulus-out@2")
    card = whole.model_copy(
        update={
            "id": "reconstruction/phantom.quick@0",
            "metrics": ("pixel_judge_accuracy",),
            "controls": ("shuffled-eeg",),
        }
    )
    registry.tracks.add(card)
    yield card.id
    del registry.tracks._added[card.id]


def test_evaluation_reads_what_was_generated_and_the_other_way_round(
    model: EEG2Image, track: str, made: list[int], home: Path
) -> None:
    options = {"limit": 40, "replicates": 1, **CPU}
    first = zoo.generate(model, track, **options)
    assert made == [40]
    record = zoo.evaluate(model, track, **options)
    assert record.values["pixel_judge_accuracy"].n == 40
    assert made == [40, 40]  # nothing but what the control shows
    before = pictures(first)
    shutil.rmtree(first)
    assert pictures(zoo.generate(model, track, **options)) == before
    assert made == [40, 40]
    shutil.rmtree(home / "generations")
    assert pictures(zoo.generate(model, track, **options)) == before
    assert made == [40, 40, 40]


@pytest.mark.parametrize("role", ["train", "val"])
def test_trials_of_another_role_have_images_too(model: EEG2Image, role: str) -> None:
    folder = zoo.generate(model, "phantom", role=role, split="subject-out", limit=3, replicates=1, **CPU)
    data = load("phantom")
    playing = set(data.trials["trial_id"][data.roles(data.split("subject-out")) == role].tolist())
    assert {sample["trial_id"] for sample in manifest(folder)} < playing
    assert {sample["role"] for sample in manifest(folder)} == {role}
    assert folder.name.startswith(f"local-eeg2image-phantom.subject-out@1.{role}-")


def test_interrupted_the_same_command_makes_only_what_is_missing(
    model: EEG2Image, made: list[int], tmp_path: Path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if (done, what) == (64, "generating (model, replicate 2)"):
            raise KeyboardInterrupt

    options = {"limit": 100, "replicates": 2, "output_dir": tmp_path / "out", **CPU}
    with pytest.raises(KeyboardInterrupt):
        zoo.generate(model, "phantom", progress=stop, **options)
    assert made == [64, 36, 64]
    assert not (tmp_path / "out").exists()
    folder = zoo.generate(model, "phantom", **options)
    assert made == [64, 36, 64, 36]
    wanted = pictures(folder)
    next((folder / "samples").iterdir()).unlink()
    (folder / "grid.png").unlink()
    assert pictures(zoo.generate(model, "phantom", **options)) == wanted  # a folder with these samples is mended
    assert (folder / "grid.png").exists()
    assert made == [64, 36, 64, 36]


def test_a_folder_with_anything_else_in_it_is_left_alone(model: EEG2Image, made: list[int], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    message = f"--output-dir must be new or empty, but {mine} holds thesis.txt; name another folder."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        zoo.generate(model, "phantom", output_dir=mine, limit=2, **CPU)
    message = f"--output-dir must be a folder that can be written, but {mine / 'thesis.txt'} is not; name another."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        zoo.generate(model, "phantom", output_dir=mine / "thesis.txt", limit=2, **CPU)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    assert not made
    out = zoo.generate(model, "phantom", output_dir=tmp_path / "out", limit=2, replicates=1, **CPU)
    kept = pictures(out)
    message = f"--output-dir must not hold other samples, but {out} does; name another folder."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        zoo.generate(model, "phantom", output_dir=out, limit=1, replicates=1, **CPU)
    assert pictures(out) == kept
    (out / "manifest.jsonl").write_text("{")
    with pytest.raises(IntegrityError, match=r"manifest\.jsonl is damaged \(.*\); delete it and run the same command"):
        zoo.generate(model, "phantom", output_dir=out, limit=2, replicates=1, **CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "all"}, "role must be train, val or test, not 'all'."),
        ({"format": "gif"}, "format must be png or npy, not 'gif'."),
        ({"limit": 0}, "limit must be at least 1, not 0."),
        ({"replicates": 0}, "replicates must be at least 1, not 0."),
    ],
)
def test_what_cannot_be_generated_is_said_in_a_sentence(
    model: EEG2Image, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        zoo.generate(model, "phantom", **options, **CPU)


def saved(model: EEG2Image, parts: tuple[str, ...] | None = None) -> Path:
    info = {"model": "eeg2image.small", "name": "mine", "source": "trained", "trained_on": ("phantom",), "seed": 0}
    data = load("phantom")
    info |= {"config": {**registry.models.get("eeg2image.small").preset, **TINY}, "eeg": data.spec}
    info |= {"selection": "none", "split_sha256": split_sha(data.split())}
    return weights.save(model, info, parts=parts)[0]


def test_the_command_takes_saved_weights_and_prints_the_folder(model: EEG2Image, tmp_path: Path) -> None:
    run = CliRunner()
    command = ["generate", "eeg2image.small", "-d", "phantom", "--limit", "3", "--replicates", "1", "--device", "cpu"]
    done = run.invoke(app, [*command, "--quiet"])
    assert done.exit_code == MissingError.exit_code
    assert done.stderr.endswith("run: zoo train eeg2image.small --dataset phantom --split stimulus-out@1 --seed 0\n")
    saved(model)
    done = run.invoke(app, [*command, "--output-dir", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert "generating (model, replicate 1): 3/3" in done.stderr
    assert {sample["model"] for sample in manifest(tmp_path / "out")} == {"eeg2image.small"}
    done = run.invoke(app, [*command, "--format", "gif"])
    assert (done.exit_code, done.stderr) == (2, "error: format must be png or npy, not 'gif'.\n")


def test_weights_without_a_generator_make_no_images(model: EEG2Image) -> None:
    saved(model, parts=("encoder",))
    message = "generating needs a model that makes images, but these weights hold only the encoder; name another."
    with pytest.raises(UsageError, match=f"^{message}$"):
        zoo.generate("eeg2image.small", "phantom", limit=2, **CPU)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Grid]:
    """The grids as they were handed to the plot."""
    grids: list[Grid] = []
    draw = plots.sample_grid

    def keeping(grid: Grid, path: Path, *, title: str) -> None:
        grids.append(grid)
        draw(grid, path, title=title)

    monkeypatch.setattr("zoo.samples.sample_grid", keeping)
    return grids


def test_the_grid_shows_classes_down_and_real_beside_generated(
    model: EEG2Image, drawn: list[Grid], tmp_path: Path
) -> None:
    folder = zoo.generate(model, "phantom", limit=60, replicates=2, output_dir=tmp_path / "out", **CPU)
    (grid,), data = drawn, load("phantom")
    assert tuple(grid.rows) == data.concepts
    assert grid.concepts == ("real", "sample 1", "sample 2") * 2
    samples = manifest(folder)
    for concept, images in grid.rows.items():
        mine = [sample for sample in samples if sample["concept"] == concept]
        own = {sample["stimulus_id"] for sample in mine if sample["replicate"] == 0}
        for column, image in enumerate(images):
            if column % 3:
                sha = hashlib.sha256(image.transpose(1, 2, 0).tobytes()).hexdigest()
                assert sha in {sample["sha256"] for sample in mine if sample["replicate"] == column % 3 - 1}
        trial = next(sample for sample in mine if sample["replicate"] == 0)
        shown = data.stimulus_pixels(np.flatnonzero(data.stimuli.ids == trial["stimulus_id"]))[0]
        small = np.asarray(Image.fromarray(shown).resize((model.resolution,) * 2, Image.Resampling.BICUBIC))
        assert trial["stimulus_id"] in own
        assert np.abs(images[0].transpose(1, 2, 0).astype(int) - small).mean() < 2
    assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_grid_shows_the_names_of_its_columns_and_rows(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 4, 4), np.uint8)
    shown = {}
    for columns, rows in (("ab", "xy"), ("ac", "xy"), ("ab", "xz")):
        plots.sample_grid(Grid((*columns,), dict.fromkeys(rows, images)), tmp_path / "grid.png", title="")
        shown[columns + rows] = (tmp_path / "grid.png").read_bytes()
    assert len(set(shown.values())) == 3


def test_recordings_without_pictures_have_samples_and_a_grid_of_them(
    model: EEG2Image, drawn: list[Grid], tmp_path: Path
) -> None:
    spec = load("phantom").spec
    eeg = np.random.default_rng(0).standard_normal((24, spec.n_channels, spec.n_times), dtype=np.float32) * 1e-5
    known: dict[str, Any] = {
        "ch_names": spec.ch_names,
        "sfreq": spec.sfreq,
        "tmin": spec.tmin,
        "concept": ["a", "b"] * 12,
    }
    np.savez(tmp_path / "mine.npz", eeg=eeg, subject=["1"] * 24, session=np.repeat(["1", "2"], 12), **known)
    add("mine-alone", tmp_path / "mine.npz")
    folder = zoo.generate(model, "mine-alone", replicates=1, limit=4, **CPU)
    (grid,) = drawn
    assert set(grid.concepts) == {"sample 1"}
    assert set(grid.rows) == {"a", "b"}
    assert len(manifest(folder)) == 4
    message = "mine-alone session-out@0 has no trials of role val; name another role or split."
    with pytest.raises(UsageError, match=f"^{message}$"):
        zoo.generate(model, "mine-alone", role="val", **CPU)

"""Damaged files and mistaken arguments of the main job: whole messages, exit codes, and nothing done before."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from zoo import registry, runner, scoring, store, weights
from zoo.cli import app
from zoo.datasets.base import load
from zoo.errors import IntegrityError
from zoo.plan import identify, make_plan, split_sha
from zoo.scoring import EEGSide

TINY = {"lstm_units": [2, 4], "resolution": 16, "generator_width": 16, "discriminator_width": 4}
EVAL = ("eval", "eeg2image.small", "--dataset", "phantom", "--device", "cpu")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, *arguments: str | Path) -> str:
    """The message of a call that must fail with ``code`` and print nothing else."""
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").removesuffix("\n")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which the phantom was prepared."""
    path = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(path))
        load("phantom")
        yield path


@pytest.fixture
def phantom(prepared: Path, cache: Path) -> Path:
    """The folder of the phantom in this test's own cache."""
    return Path(shutil.copytree(prepared / "datasets" / "phantom", cache / "datasets" / "phantom"))


@pytest.fixture
def trained(phantom: Path) -> list[str]:
    """Names of two weights that say they were trained on the default split with seed 0, the newer one last."""
    card, data = registry.models.get("eeg2image.small"), load("phantom")
    facts = {"model": card.id, "config": {**card.preset, **TINY}, "eeg": data.spec, "source": "trained", "seed": 0}
    facts |= {"trained_on": ("phantom",), "split_sha256": split_sha(data.split()), "selection": "last step"}
    for age, name in ((100, "older"), (0, "newer")):
        torch.manual_seed(age)
        folder, _ = weights.save(weights.build(card, data.spec, TINY), {**facts, "name": name})
        moment = folder.stat().st_mtime - age
        os.utime(folder, (moment, moment))
    return ["older", "newer"]


# ---- data


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_generated_data_with_a_damaged_description_is_made_again(phantom: Path, content: str) -> None:
    path = phantom / "dataset.json"
    whole = path.read_bytes()
    path.write_text(content)
    result = call("data", "check", "phantom")
    told = "phantom: every file, the trials and the splits are what they should be\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, told, "")
    assert path.read_bytes() == whole


# ---- config values


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("encoder_lr=nan", "encoder_lr of EEG2ImageConfig must be finite, but is 'nan'."),
        ("gan_lr=Infinity", "gan_lr of EEG2ImageConfig must be finite, but is inf."),
        ("encoder_steps=true", "encoder_steps of EEG2ImageConfig must be int | None, but is True."),
        ("encoder_steps=-3", "encoder_steps must be at least 0, but is -3."),
        ("gan_batch_size=0", "gan_batch_size must be at least 1, but is 0."),
        ("gan_lr=0", "gan_lr must be more than 0, but is 0.0."),
    ],
)
def test_impossible_settings_are_refused_before_training(
    phantom: Path, cache: Path, setting: str, message: str
) -> None:
    assert refused(2, "train", "eeg2image.small", "--dataset", "phantom", "--set", setting) == message
    assert [path.name for path in cache.iterdir()] == ["datasets"]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused_before_any_work(cache: Path, seed: int) -> None:
    message = f"seed must be at least 0 and less than 2^63, not {seed}."
    assert refused(2, "train", "eeg2image.small", "--dataset", "phantom", "--seed", str(seed)) == message
    assert list(cache.iterdir()) == []


# ---- weights


def test_which_of_several_weights_were_taken_is_said_before_any_work(trained: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = (*EVAL, "--output-dir", tmp_path / "file")
    error = f"error: --output-dir must be a folder that can be written, but {tmp_path}/file is not; name another.\n"
    said = "weights: newer, the newest of 2 that fit; --weights NAME takes another.\n"
    assert call(*arguments).stderr == said + error
    assert call(*arguments, "--quiet").stderr == error
    assert call(*arguments, "--weights", "older").stderr == error
    assert call(*arguments, "--seed", "1").exit_code == 5


@pytest.mark.parametrize("place", [".", "README.md"])
def test_a_place_without_a_checkpoint_is_told_what_files_make_one(tmp_path: Path, cache: Path, place: str) -> None:
    (tmp_path / "README.md").write_text("no checkpoint")
    assert refused(2, "weights", "convert", "eeg2image", "--from", tmp_path / place) == (
        "--from must be a folder with the files of an EEG2Image checkpoint, ckpt-N.index and "
        f"ckpt-N.data-00000-of-00001, or their path up to ckpt-N, but {tmp_path / place} is neither; "
        "check what it holds."
    )
    assert list(cache.iterdir()) == []


def test_a_weights_name_that_nobody_knows_is_exit_2_with_those_there_are(trained: list[str], tmp_path: Path) -> None:
    start = "--weights must be a weights folder or the name of one, but "
    end = " Weights of eeg2image.small on this machine: newer, older."
    assert refused(2, *EVAL, "--weights", "odler") == f"{start}'odler' is neither; did you mean 'older'?{end}"
    assert refused(2, *EVAL, "--weights", tmp_path) == f"{start}'{tmp_path}' is neither.{end}"
    message = refused(2, "eval", "eeg2image", "--dataset", "phantom", "--weights", "older")
    assert message == f"{start}'older' is neither. Weights of eeg2image on this machine: none."


# ---- where the record goes


@pytest.mark.parametrize("place", ["file", "file/below", "link"])
def test_a_place_that_is_no_folder_is_refused_before_any_work(
    trained: list[str], cache: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    bad = tmp_path / place.partition("/")[0]
    assert refused(2, *EVAL, "--quiet", "--output-dir", tmp_path / place) == (
        f"--output-dir must be a folder that can be written, but {bad} is not; name another."
    )
    assert sorted(path.name for path in cache.iterdir()) == ["datasets", "facts", "weights"]


def test_a_folder_without_permission_is_refused(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's answer is played."""
    monkeypatch.setattr(runner.os, "access", lambda path, mode: Path(path) != tmp_path)
    assert refused(2, *EVAL, "--quiet", "--output-dir", tmp_path / "new") == (
        f"--output-dir must be a folder that can be written, but {tmp_path} is not; name another."
    )


# ---- what an earlier run left damaged


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not a valid record: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "must hold a record, but holds a list"),
    ],
)
def test_a_damaged_record_of_this_evaluation_is_exit_4(trained: list[str], cache: Path, content: str, why: str) -> None:
    plan = make_plan("eeg2image.small", "phantom", device="cpu")
    wanted = store.digest(identify(plan).model_dump(mode="json"))[:12]
    path = cache / "board" / "records" / plan.track.id / "eeg2image.small" / f"{wanted}-00000000.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert refused(4, *EVAL, "--quiet") == f"{path} {why}; delete it and run the same command again."
    assert path.read_text() == content


def test_damaged_facts_of_a_model_are_exit_4(trained: list[str], cache: Path) -> None:
    make_plan("eeg2image.small", "phantom", device="cpu")
    (path,) = cache.glob("facts/*/value.json")
    path.write_text("")
    why = "Expecting value: line 1 column 1 (char 0)"
    assert refused(4, *EVAL, "--quiet") == f"{path} is damaged ({why}); delete it and run the same command again."
    path.unlink()
    assert make_plan("eeg2image.small", "phantom", device="cpu").facts.makes_images


def test_a_damaged_chunk_is_exit_4_and_deleting_it_heals(phantom: Path, cache: Path) -> None:
    first = call("audit", "phantom")
    assert first.exit_code == 0
    (path,) = cache.glob("thumbnails/*/array.npy")
    path.write_bytes(path.read_bytes()[:-1])
    start, end = re.escape(f"{path} is damaged ("), re.escape("); delete it and run the same command again.")
    assert re.fullmatch(f"{start}.*{end}", refused(4, "audit", "phantom"))
    path.unlink()
    assert call("audit", "phantom").stdout == first.stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "list indices must be integers or slices, not str"),
        ("{}", "'per_unit'"),
        ('{"value": {"value": null}, "per_unit": null}', "1 validation error for Value"),
    ],
)
def test_a_damaged_score_is_named(cache: Path, content: str, why: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    features = rng.normal(size=(60, 3)) + 5 * labels[:, None]
    arrays = {"train_features": features, "train_labels": labels, "test_features": features, "test_labels": labels}
    units = np.array(["one", "two"] * 30)
    sources = {
        name: lambda value=value: value for name, value in (arrays | {"test_units": units, "n_classes": 2}).items()
    }
    side = EEGSide({"of": "a test"}, sources, units, None)
    card = registry.metrics.get("knn_accuracy")
    first = scoring.score(card, side, "knn")
    (path,) = cache.glob("scores/*/knn_accuracy-*.json")
    path.write_text(content)
    with pytest.raises(IntegrityError) as caught:
        scoring.score(card, side, "knn")
    assert str(caught.value) == f"{path} is damaged ({why}); delete it and run the same command again."
    path.unlink()
    assert scoring.score(card, side, "knn").value == first.value

"""The command line: whole messages, exit codes, and what lies on the disk afterwards."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import zoo
from zoo import registry, store, weights
from zoo.cli import app
from zoo.datasets import base, phantom
from zoo.datasets.base import Prepared
from zoo.errors import MissingError
from zoo.record import Audit, Cost, Identity, Provenance, Record, Value
from zoo.specs import DatasetCard, SplitCard

SHA = "0" * 64
CARD = DatasetCard(
    id="broken",
    title="A small phantom that a test spoils",
    loader="tests:build",
    pairing="instance",
    concepts=phantom.CONCEPTS,
    licence="CC0",
    redistribution=True,
    citation="none",
    source="here",
    get="ask a friend",
    splits=(
        SplitCard(id="stimulus-out@1", protocol="unseen-stimulus", note="by picture"),
        SplitCard(id="subject-out@1", protocol="cross-subject", note="by person"),
    ),
)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, *arguments: str | Path) -> str:
    """The message of a call that must fail with ``code``, print nothing on stdout and show no traceback."""
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    return result.stderr.removeprefix("error: ").removesuffix("\n")


# ---- names and arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("list dataset", "zoo list takes models, datasets, metrics or tracks, not 'dataset'."),
        ("info nothing", "nothing is called 'nothing'; see 'zoo list models', datasets, metrics and tracks."),
        (
            "train eeg2imagee --dataset phantom",
            "unknown model 'eeg2imagee'; did you mean 'eeg2image' or 'eeg2image.small' or 'eeg2image.as-intended'? "
            "See 'zoo list models'.",
        ),
        (
            "audit phantm",
            "unknown dataset 'phantm'; did you mean 'phantom' or 'phantom-block'? See 'zoo list datasets'.",
        ),
        (
            "eval eeg2image -d phantom --metric fdi",
            "unknown metric 'fdi'; did you mean 'fid'? See 'zoo list metrics'.",
        ),
        (
            "eval eeg2image -d phantom --split subject-in",
            "phantom has no split 'subject-in'; its splits are: stimulus-out@1, subject-out@1.",
        ),
        ("eval eeg2image -d phantom --shard 3/3", "shard must be K/N with 0 <= K < N, not 3/3."),
        ("eval eeg2image -d phantom --shard one", "--shard takes K/N, for example 0/3, not 'one'."),
        ("eval eeg2image -d phantom --limit 0", "limit must be at least 1, not 0."),
        ("eval eeg2image -d phantom --replicates 0", "replicates must be at least 1, not 0."),
        ("eval eeg2image -d phantom --device tpu", "device must be auto, cpu or cuda, not 'tpu'."),
        ("train eeg2image -d phantom --device tpu", "device must be auto, cpu or cuda, not 'tpu'."),
        ("train eeg2image -d phantom --select best", "select must be val or last, not 'best'."),
        ("train eeg2image -d phantom --set nonsense", "--set takes name=value, not 'nonsense'."),
        (
            "push nowhere.json --board here",
            "a record must be a file, but there is none at nowhere.json; check its spelling.",
        ),
        (
            "data prepare phantom --source nowhere",
            "--source must be a file or folder that exists, but nowhere does not; check its spelling.",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_2(arguments: str, message: str) -> None:
    assert refused(2, *arguments.split()) == message


def test_an_unknown_config_field_is_named_with_those_there_are() -> None:
    message = refused(2, "train", "eeg2image.small", "-d", "phantom", "--set", "unknown_field=1")
    start = "EEG2ImageConfig has no option 'unknown_field'; its options are: lstm_units, noise_dim, resolution, "
    assert message.startswith(start)
    assert message.endswith("gan_epochs, gan_steps.")


def test_a_config_value_of_the_wrong_kind_is_refused_before_training(cache: Path) -> None:
    message = refused(2, "train", "eeg2image.small", "-d", "phantom", "--set", "gan_steps=abc")
    assert message == "gan_steps of EEG2ImageConfig must be int | None, but is 'abc'."
    assert not (cache / "training").exists()


# ---- what is not here


def two_lines(message: str) -> tuple[str, str]:
    first, second = message.split("\n")
    return first, second


@pytest.mark.parametrize("command", ["eval eeg2image --dataset eegcvpr40", "data prepare eegcvpr40", "audit eegcvpr40"])
def test_an_announced_dataset_is_two_lines_and_exit_5(command: str) -> None:
    first, second = two_lines(refused(5, *command.split()))
    assert first == (
        f"eegcvpr40 is announced but not in this release (eeg-image-zoo {zoo.__version__}): "
        "there is no converter for it, and it is not prepared on this machine."
    )
    assert second == (
        "to bring it: pip install --upgrade eeg-image-zoo && zoo data prepare eegcvpr40 --source PATH   "
        "(from the authors' repository: eeg_5_95_std.pth (or 14_70, 55_95), block_splits_by_image_all.pth, and the "
        "ImageNet pictures they name; https://github.com/perceivelab/eeg_visual_classification)"
    )


@pytest.mark.parametrize(
    "command", ["eval thoughtviz -d phantom", "train thoughtviz -d phantom", "weights pull thoughtviz"]
)
def test_an_announced_model_is_two_lines_and_exit_5(command: str) -> None:
    expected = (
        f"thoughtviz is announced but not in this release (eeg-image-zoo {zoo.__version__}): "
        "neither code nor weights.\n"
        "to bring it: pip install --upgrade eeg-image-zoo && zoo weights pull thoughtviz"
    )
    assert refused(5, *command.split()) == expected
    with pytest.raises(MissingError) as caught:
        zoo.load("thoughtviz")
    assert str(caught.value) == expected


def test_without_weights_the_second_line_is_the_command_that_makes_them() -> None:
    assert refused(5, "eval", "eeg2image", "--dataset", "phantom") == (
        "no weights of eeg2image for phantom, split stimulus-out@1, seed 0, are on this machine.\n"
        "to make them, run: zoo train eeg2image --dataset phantom --split stimulus-out@1 --seed 0"
    )


def test_a_metric_asked_for_without_its_network_is_refused_before_any_work(cache: Path) -> None:
    assert refused(5, "eval", "eeg2image", "-d", "phantom", "--metric", "fid") == (
        "weights-inception-2015-12-05-6726825d.pth is not on this machine.\n"
        "to fetch it, run: zoo weights pull inception-2015-12-05"
    )
    assert not (cache / "datasets").exists()


# ---- weights


@pytest.fixture
def published(cache: Path) -> Path:
    """Initial weights of a narrow ``eeg2image`` for the recordings of its card: 14 channels, 32 times."""
    card = registry.models.get("eeg2image")
    config = {"resolution": 32, "generator_width": 64, "discriminator_width": 4}
    torch.manual_seed(0)
    info = {"model": card.id, "name": "test", "config": config, "eeg": card.eeg, "source": "converted"}
    net = weights.build(card, card.eeg, config)  # type: ignore[arg-type]
    return weights.save(net, {**info, "trained_on": card.trained_on, "selection": "unknown"})[0]


def test_recordings_that_do_not_fit_the_model_are_refused_naming_both_sides(published: Path, cache: Path) -> None:
    assert refused(2, "eval", "eeg2image", "-d", "phantom", "--weights", published) == (
        "eeg2image needs 14 channels × 32 times at 128 Hz, but phantom offers 14 channels × 64 times at 128 Hz "
        "(64 times against 32); choose a dataset that fits or train the model on phantom."
    )
    assert not (cache / "board").exists()


def test_sound_weights_verify(published: Path) -> None:
    result = call("weights", "verify", published)
    sha = weights.read_info(published).sha256[:16]
    assert (result.exit_code, result.stderr) == (0, "")
    parts = "encoder, generator, discriminator"
    assert result.stdout == f"eeg2image: {parts} from converted weights {sha}…, all tensors fit\n"


def test_weights_with_another_sha256_are_exit_4(published: Path) -> None:
    file = published / "model.safetensors"
    wanted = store.file_sha256(file)[:16]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert refused(4, "weights", "verify", published) == (
        f"{file} must have sha256 {wanted}… but has {store.file_sha256(file)[:16]}…; "
        "delete the folder and train, convert or fetch again."
    )


def test_a_file_that_is_no_safetensors_is_exit_4(published: Path) -> None:
    file = published / "model.safetensors"
    file.write_bytes(b"\xff" * 64)
    info = store.read_json(published / "weights.json")
    store.write_json(published / "weights.json", {**info, "sha256": store.file_sha256(file)})
    message = refused(4, "weights", "verify", published)
    assert message.startswith(f"{file} is not a readable safetensors file (")


# ---- data


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prepared]:
    """Register ``broken``, whose converter returns a small phantom with some fields replaced."""

    def put(change: Callable[[Prepared], dict[str, Any]]) -> Prepared:
        made = phantom.generate(card=CARD, n_subjects=2, n_runs=1, n_exemplars=4)
        made = dataclasses.replace(made, **change(made))
        monkeypatch.setitem(registry.datasets._added, CARD.id, CARD)
        monkeypatch.setattr(registry, "load_object", lambda where: lambda *_, **__: made)
        return made

    return put


def test_eeg_with_nan_is_refused_by_the_name_of_its_trial(install: Callable[..., Prepared], cache: Path) -> None:
    def spoil(made: Prepared) -> dict[str, Any]:
        eeg = np.concatenate(made.eeg)
        eeg[17, 3, 5] = np.nan
        return {"eeg": eeg}

    made = install(spoil)
    assert refused(2, "data", "prepare", "broken", "--quiet") == (
        f"EEG must be finite, but trial {made.trials['trial_id'][17]} holds NaN or infinity; "
        "repair or remove its recording."
    )
    assert [path.name for path in (cache / "datasets").iterdir() if path.suffix != ".lock"] == []


def test_a_class_without_trials_is_refused_by_name(install: Callable[..., Prepared]) -> None:
    install(lambda made: {"concepts": (*made.concepts, "star")})
    assert refused(2, "data", "prepare", "broken") == (
        "every concept of broken needs trials, but there are none of star; add recordings."
    )


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    install: Callable[..., Prepared], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(lambda made: {})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = refused(1, "data", "prepare", "broken", "--quiet")
    assert message.startswith("no space left on the disk of ")
    assert message.endswith(
        ": free some, or point ZOO_CACHE at a larger disk, then run the same command again (finished work is kept)."
    )
    assert [path.name for path in (cache / "datasets").iterdir() if path.suffix != ".lock"] == []
    assert call("data", "prepare", "broken", "--quiet").exit_code == 0
    assert base.load("broken").id == "broken"


def test_prepare_prints_the_folder_and_check_finds_what_changed(cache: Path) -> None:
    result = call("data", "prepare", "phantom", "--quiet")
    folder = cache / "datasets" / "phantom"
    assert (result.exit_code, result.stdout) == (0, f"{folder}\n")
    assert result.stderr == (
        "EEGDataset(phantom: 2592 trials, 14 channels × 64 times at 128 Hz, 6 concepts); "
        "pictures: built-in renderer of six shapes\n"
    )
    result = call("data", "check", "phantom")
    assert result.exit_code == 0
    assert result.stdout == "phantom: every file, the trials and the splits are what they should be\n"
    file = folder / "eeg.safetensors"
    wanted = store.file_sha256(file)[:12]
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert refused(4, "data", "check", "phantom") == (
        f"eeg.safetensors has sha256 {store.file_sha256(file)[:12]}…, but {wanted}… was written; prepare phantom again."
    )


def test_a_confounded_split_is_exit_3_with_its_verdict_on_stdout() -> None:
    result = call("audit", "phantom-block", "--split", "block")
    assert result.exit_code == 3
    assert result.stdout.startswith("phantom-block block@1: confounded\n  ")
    assert result.stderr == "error: phantom-block block@1 is confounded: scores on it are not evidence of decoding.\n"


# ---- lists


@pytest.mark.parametrize("what", ["models", "datasets", "metrics", "tracks"])
def test_a_list_as_json_is_one_document_with_every_name(what: str) -> None:
    result = call("list", what, "--json")
    names = getattr(registry, what).names()
    assert (result.exit_code, result.stderr) == (0, "")
    assert [card["id"] for card in json.loads(result.stdout)] == names
    assert [line.split()[0] for line in call("list", what).stdout.splitlines()] == names


def test_doctor_as_json_tells_what_is_here(cache: Path, published: Path) -> None:
    result = call("doctor", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["cache"], found["weights"]) == (0, str(cache), ["eeg2image/test"])
    assert (found["zoo"], found["datasets"], found["offline"]) == (zoo.__version__, [], True)
    assert found["extractors"]["inception-2015-12-05"].endswith("run: zoo weights pull inception-2015-12-05")


# ---- boards


def partial_record() -> Record:
    identity = dict.fromkeys(
        ("track_sha256", "trials_fingerprint", "eeg_sha256", "stimuli_sha256", "split_sha256", "weights_sha256"), SHA
    )
    names = {"track": "reconstruction/phantom.subject-out@1", "dataset": "phantom", "split": "subject-out@1"}
    run = {"seed": 0, "replicates": 1, "limit": 9, "metrics": ("accuracy|v1",), "zoo": "0.1.0"}
    told = dict.fromkeys(("command", "hardware", "weights_source", "selection", "stimuli_source"), "test")
    return Record(
        status="partial",
        identity=Identity(**identity, **names, **run, model="alpha", config={}),  # type: ignore[arg-type]
        audit=Audit(verdict="clean", evidence={}, sentences=()),
        headline="accuracy",
        values={"accuracy": Value(value=0.5, signature="accuracy|v1", higher_is_better=True)},
        controls={},
        provenance=Provenance(
            **told,
            created="2026-01-01T00:00:00+00:00",
            git=None,
            dirty=None,
            device="cpu",
            threads=1,
            packages={},
            trained_on=(),
            dataset_complete=True,
        ),
        cost=Cost(seconds=1.0, n_parameters=1, images_per_second=None, peak_memory_mb=None),
    )


def test_a_partial_record_is_pushed_only_if_allowed_and_once(tmp_path: Path) -> None:
    record, board = partial_record(), tmp_path / "board"
    record.write(tmp_path / "record.json")
    assert refused(3, "push", tmp_path / "record.json", "--board", board) == (
        f"a board takes complete records, but {record.id[:12]} is partial; "
        "evaluate without --limit, or push it with --allow-partial to a board of your own."
    )
    assert not list(tmp_path.rglob("board/**/*.json"))
    for _ in range(2):
        result = call("push", tmp_path / "record.json", "--board", board, "--allow-partial")
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"records/{record.name}\n", "")
        assert [path.relative_to(board).as_posix() for path in board.rglob("*.json")] == [f"records/{record.name}"]


def test_an_empty_board_says_so_and_is_empty_json() -> None:
    assert call("leaderboard", "show").stdout == "No records yet.\n"
    assert json.loads(call("leaderboard", "show", "--json").stdout) == []


# ---- interruption


@pytest.mark.slow
def test_ctrl_c_in_training_is_exit_130_and_the_same_command_goes_on(cache: Path) -> None:
    tiny = ["lstm_units=[4, 8]", "encoder_steps=150", "encoder_batch_size=8", "gan_steps=1", "gan_batch_size=4"]
    tiny += ["resolution=16", "generator_width=16"]
    command = [sys.executable, "-m", "zoo", "train", "eeg2image.small", "-d", "phantom", "--device", "cpu"]
    command += [part for setting in tiny for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes: Any = {"env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:  # pragma: no branch - ends with the process at the latest
            if line.startswith("training encoder: 0/"):
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (130, "")
    assert stderr.endswith("error: interrupted; finished work is kept, run the same command again to go on.\n")
    assert "Traceback" not in stderr
    (checkpoint,) = cache.glob("training/*/encoder.safetensors")
    assert not (cache / "weights").exists()
    reached = _step(checkpoint)
    assert 0 < reached < 150
    again = subprocess.run(command, **pipes, check=False)
    assert again.returncode == 0, again.stderr
    first = next(line for line in again.stderr.splitlines() if line.startswith("training encoder"))
    assert first.endswith(f": {reached}/150")
    assert (Path(again.stdout.strip()) / "model.safetensors").is_file()


def _step(checkpoint: Path) -> int:
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as file:
        return int(json.loads(file.metadata()["state"])["step"])

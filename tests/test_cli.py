"""The command line: whole messages, exit codes, and what lies on the disk afterwards."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

import zoo
from leaderboard.board import FsBoard
from zoo import registry, store, weights
from zoo.cli import app
from zoo.cli.common import show_record
from zoo.datasets import base, phantom
from zoo.datasets.base import Prepared
from zoo.errors import MissingError
from zoo.metrics.base import extractor_cards
from zoo.record import Record, Value
from zoo.specs import DatasetCard, SplitCard

SHA = "0" * 64
CARD = DatasetCard(
    id="broken",
    title="A small phantom that a test spoils",
    loader="tests:build",
    pairing="instance",
    concepts=phantom.CONCEPTS,
    licence="CC0",
    hosts="everything",
    citation="none",
    source="here",
    get="ask a friend",
    splits=(
        SplitCard(id="stimulus-out@1", protocol="unseen-stimulus", note="by picture"),
        SplitCard(id="subject-out@1", protocol="cross-subject", note="by person"),
    ),
)

HINTS = "".join(
    f"hint: training {phase} has 99,990 steps to go, about 14 h on this cpu at the present speed; to be faster, "
    "train eeg2image.small, set fewer steps with --set, or use a GPU.\n"
    for phase in ("encoder", "gan")
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
        ("list dataset", "zoo list takes models, datasets, metrics, tracks or extractors, not 'dataset'."),
        (
            "info xyzzy",
            "nothing is called 'xyzzy'. See 'zoo list models', datasets, metrics, tracks and extractors.",
        ),
        (
            "info inceptoin-2015-12-05",
            "nothing is called 'inceptoin-2015-12-05'; did you mean 'inception-2015-12-05'? "
            "See 'zoo list models', datasets, metrics, tracks and extractors.",
        ),
        (
            "info phantm",
            "nothing is called 'phantm'; did you mean 'phantom' or 'phantom-block' or 'phantom-things'? "
            "See 'zoo list models', datasets, metrics, tracks and extractors.",
        ),
        (
            "train eeg2imagee --dataset phantom",
            "unknown model 'eeg2imagee'; did you mean 'eeg2image' or 'eeg2image.small' or 'eeg2image.as-intended'? "
            "See 'zoo list models'.",
        ),
        (
            "audit phantm",
            "unknown dataset 'phantm'; did you mean 'phantom' or 'phantom-block' or 'phantom-things'? "
            "See 'zoo list datasets'.",
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
        ("train eeg2image -d phantom --select best", "select must be val, last or test, not 'best'."),
        ("train eeg2image -d phantom --set nonsense", "--set takes name=value, not 'nonsense'."),
        (
            "push nowhere.json --board here",
            "a record must be a file, but there is none at nowhere.json; check its spelling.",
        ),
        (
            "data prepare muse-n170 --source nowhere",
            "--source must be a file or folder that exists, but nowhere does not; check its spelling.",
        ),
        ("data prepare phantom --source .", "phantom is generated, so it takes no --source; leave it out."),
        ("data prepare phantom-block --images .", "phantom-block is generated, so it takes no --images; leave it out."),
        (
            "weights convert eeg2image --from /nowhere",
            "--from must be a checkpoint folder or prefix that exists, but /nowhere does not; check its spelling.",
        ),
        ("weights verify nowhere", "a weights folder must exist, but nowhere does not; check its spelling."),
        ("leaderboard show --track mine", "no record on this board is of track 'mine'. See 'zoo list tracks'."),
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


@pytest.mark.parametrize("command", ["eval eeg2image --dataset soon", "data prepare soon", "audit soon"])
def test_an_announced_dataset_is_two_lines_and_exit_5(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.datasets._added, "soon", CARD.model_copy(update={"id": "soon", "loader": None}))
    first, second = two_lines(refused(5, *command.split()))
    assert first == (
        f"soon is announced but not in this release (eeg-image-zoo {zoo.__version__}): "
        "there is no converter for it, and it is not prepared on this machine."
    )
    assert second == (
        "to install it, run: pip install --upgrade eeg-image-zoo && zoo data prepare soon --source PATH   "
        "(ask a friend; here)"
    )


@pytest.mark.parametrize("command", ["eval mind-vis -d phantom", "train mind-vis -d phantom", "weights pull mind-vis"])
def test_an_announced_model_is_two_lines_and_exit_5(command: str) -> None:
    expected = (
        f"mind-vis is announced but not in this release (eeg-image-zoo {zoo.__version__}): "
        "neither code nor weights.\n"
        "to install it, run: pip install --upgrade eeg-image-zoo && zoo weights pull mind-vis"
    )
    assert refused(5, *command.split()) == expected
    with pytest.raises(MissingError) as caught:
        zoo.load("mind-vis")
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


def test_an_unknown_name_is_told_what_can_be_pulled() -> None:
    ready = [card.id for card in extractor_cards() if card.file and not (card.file.url or "").startswith("package:")]
    assert "inception-2015-12-05" in ready
    assert refused(2, "weights", "pull", "inception-2015") == (
        "no model or extractor is called 'inception-2015'; did you mean 'inception-2015-12-05'? "
        f"Weights can be pulled for: {', '.join(ready)}."
    )


def test_nothing_to_pull_is_said() -> None:
    result = call("weights", "pull", "pixels-16")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "pixels-16 has no weights; nothing to fetch.\n"
    result = call("weights", "pull", "efficientnet-lite0")
    assert (result.exit_code, result.stdout) == (0, "")
    file = "efficientnet-lite0-57934424.pth"
    assert result.stderr == f"{file} comes with an installed package; nothing to fetch.\n"


def test_a_checkpoint_is_a_folder_or_a_prefix_that_exists(tmp_path: Path) -> None:
    (tmp_path / "ckpt[1].index").touch()
    assert refused(2, "weights", "convert", "eeg2image", "--from", tmp_path / "ckpt[2]") == (
        f"--from must be a checkpoint folder or prefix that exists, but {tmp_path}/ckpt[2] does not; "
        "check its spelling."
    )
    assert refused(4, "weights", "convert", "eeg2image", "--from", tmp_path / "ckpt[1]").startswith("ckpt[1].index ")


def test_a_damaged_description_of_weights_is_exit_4(published: Path) -> None:
    (published / "weights.json").write_text("{")
    assert refused(4, "weights", "verify", published) == (
        f"{published}/weights.json is damaged (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)); delete the folder and train, convert or fetch again."
    )


# ---- training


@pytest.mark.parametrize(
    ("options", "seconds", "expected"),
    [
        ([], 0.5, HINTS),
        (["--device", "cpu"], 0.5, HINTS),
        (["--device", "cuda"], 0.5, ""),
        (["--quiet"], 0.5, ""),
        ([], 0.03, ""),
    ],
    ids=["auto", "cpu", "cuda", "quiet", "fast"],
)
def test_hours_of_training_on_a_cpu_are_announced_once_a_phase(
    options: list[str], seconds: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes ``seconds``: 100,000 of them are 14 hours, or less than one."""
    clock = [0.0]

    def train(*_: Any, progress: Callable[[int, int, str], None], **__: Any) -> Path:
        for phase in ("encoder", "gan"):
            for step in range(400):
                progress(step, 100_000, f"training {phase}" + " (loss 0.5)" * (step > 0))
                clock[0] += seconds
        return Path("folder")

    monkeypatch.setattr("zoo.runner.train", train)
    monkeypatch.setattr("zoo.plan.pick_device", lambda name: "cuda" if name == "cuda" else "cpu")
    monkeypatch.setattr("zoo.cli.run.time.monotonic", lambda: clock[0])
    result = call("train", "eeg2image", "-d", "phantom", *options)
    assert (result.exit_code, result.stdout) == (0, "folder\n")
    assert "".join(line for line in result.stderr.splitlines(keepends=True) if line.startswith("hint")) == expected


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
        f"eeg.safetensors has sha256 {store.file_sha256(file)[:12]}…, but {wanted}… was written; "
        "run 'zoo data prepare phantom' again."
    )


def test_a_confounded_split_is_exit_3_with_its_verdict_on_stdout() -> None:
    result = call("audit", "phantom-block", "--split", "block")
    assert result.exit_code == 3
    assert result.stdout.startswith("phantom-block block@1: confounded\n  ")
    assert result.stderr == "error: phantom-block block@1 is confounded: scores on it are not evidence of decoding.\n"


# ---- lists


@pytest.mark.parametrize("what", ["models", "datasets", "metrics", "tracks", "extractors"])
def test_a_list_as_json_is_one_document_with_every_name(what: str) -> None:
    result = call("list", what, "--json")
    names = [card.id for card in extractor_cards()] if what == "extractors" else getattr(registry, what).names()
    assert (result.exit_code, result.stderr) == (0, "")
    assert [card["id"] for card in json.loads(result.stdout)] == names
    assert [line.split()[0] for line in call("list", what).stdout.splitlines()] == names


def test_doctor_as_json_tells_what_is_here(cache: Path, published: Path) -> None:
    result = call("doctor", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["cache"], found["weights"]) == (0, str(cache), ["eeg2image/test"])
    assert (found["zoo"], found["datasets"], found["offline"]) == (zoo.__version__, [], True)
    assert found["extractors"]["inception-2015-12-05"].endswith("run: zoo weights pull inception-2015-12-05")
    assert found["unfinished files removed"] == {"count": 0, "bytes": 0}


def test_doctor_removes_what_a_killed_run_left_a_day_ago(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = cache / "board" / ".record.json.0123456789abcdef"
    left.parent.mkdir()
    left.write_bytes(b"12345")
    assert json.loads(call("doctor", "--json").stdout)["unfinished files removed"] == {"count": 0, "bytes": 0}
    now = time.time()
    monkeypatch.setattr(store.time, "time", lambda: now + store.DAY_SECONDS + 1)
    assert json.loads(call("doctor", "--json").stdout)["unfinished files removed"] == {"count": 1, "bytes": 5}
    assert not left.exists()


@pytest.mark.parametrize("name", ["eeg2image", "phantom", "fid", "reconstruction/phantom.subject-out@1", "pixels-16"])
def test_info_shows_the_card_of_every_kind_of_thing(name: str) -> None:
    result = call("info", name)
    assert (result.exit_code, result.stderr) == (0, "")
    assert yaml.safe_load(result.stdout)["id"] == name
    assert json.loads(call("info", name, "--json").stdout)["id"] == name


# ---- boards


def test_the_command_that_brings_a_metric_is_on_one_line(
    make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "a file with a long name is not on this machine. " * 3 + "to fetch it, run: zoo weights pull inception"
    record = make_record(values={"fid": Value(value=None, reason=reason)})
    show_record(record, Path("here"))
    shown = capsys.readouterr()
    assert f"not measured, {reason}: fid" in shown.out.splitlines()
    assert shown.err == f"record {record.id[:12]}: here/records/{record.name}\n"


def test_a_partial_record_is_pushed_only_if_allowed_and_once(
    tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    record, board = make_record(status="partial", limit=9, track="reconstruction/mine.a@0"), tmp_path / "board"
    record.write(tmp_path / "record.json")
    assert refused(3, "push", tmp_path / "record.json", "--board", board) == (
        f"nothing was sent: {record.id[:12]}: it is partial; "
        "evaluate without --limit, or push it with --allow-partial to a board of your own."
    )
    assert not list(tmp_path.rglob("board/**/*.json"))
    for said in ("", f"{record.id[:12]} was there already\n"):
        result = call("push", tmp_path / "record.json", "--board", board, "--allow-partial")
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{board}/records/{record.name}\n", said)
        assert [path.relative_to(board).as_posix() for path in board.rglob("*.json")] == [f"records/{record.name}"]


def test_an_empty_board_says_so_and_is_empty_json() -> None:
    assert call("leaderboard", "show").stdout == "No records yet.\n"
    assert json.loads(call("leaderboard", "show", "--json").stdout) == []


def test_a_track_that_nobody_knows_is_refused_with_those_of_the_board(
    tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    for track in ("reconstruction/mine.a@0", "reconstruction/mine.b@0"):
        FsBoard(tmp_path).push(make_record(track=track))
    assert refused(2, "leaderboard", "show", "--board", tmp_path, "--track", "reconstruction/mine.c@0") == (
        "no record on this board is of track 'reconstruction/mine.c@0'; "
        "did you mean 'reconstruction/mine.b@0' or 'reconstruction/mine.a@0'? "
        "Its tracks are: reconstruction/mine.a@0, reconstruction/mine.b@0."
    )
    shown = call("leaderboard", "show", "--board", tmp_path, "--track", "reconstruction/mine.b@0", "--json")
    assert [table["track"] for table in json.loads(shown.stdout)] == ["reconstruction/mine.b@0"]
    known = call("leaderboard", "show", "--board", tmp_path, "--track", "reconstruction/phantom.subject-out@1")
    assert (known.exit_code, known.stdout) == (0, "No records yet.\n")


# ---- the system


def test_a_cache_that_is_no_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    assert refused(1, "data", "prepare", "phantom", "--quiet") == (
        f"the system answered: [Errno {errno.ENOTDIR}] Not a directory: '{tmp_path}/file/datasets'; "
        "check that path or address (ZOO_DEBUG=1 shows who asked)."
    )
    monkeypatch.setenv("ZOO_DEBUG", "1")
    assert isinstance(call("data", "prepare", "phantom", "--quiet").exception, NotADirectoryError)


def test_a_reader_that_leaves_early_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(value: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("zoo.cli.cards.print_json", closed)
    result = call("list", "models", "--json")
    assert (result.exit_code, result.output) == (1, "")


# ---- interruption


CTRL_C_AT_STEP_20 = """
import signal, sys
from zoo import training
from zoo.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its background jobs to ignore it
steps, after_step = [], training._validate
def counted(*arguments):
    after_step(*arguments)
    steps.append(1)
    if len(steps) == 20:
        signal.raise_signal(signal.SIGINT)
training._validate = counted
main()
"""


@pytest.mark.slow
def test_ctrl_c_in_training_is_exit_130_and_the_same_command_goes_on(cache: Path) -> None:
    tiny = ["lstm_units=[4, 8]", "encoder_steps=150", "encoder_batch_size=8", "gan_steps=1", "gan_batch_size=4"]
    tiny += ["resolution=16", "generator_width=16"]
    arguments = ["train", "eeg2image.small", "-d", "phantom", "--device", "cpu"]
    arguments += [part for setting in tiny for part in ("--set", setting)]
    pipes: Any = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True, "capture_output": True, "check": False}
    stopped = subprocess.run([sys.executable, "-c", CTRL_C_AT_STEP_20, *arguments], **pipes)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith("error: interrupted; finished work is kept, run the same command again to go on.\n")
    assert "Traceback" not in stopped.stderr
    (checkpoint,) = cache.glob("training/*/encoder.safetensors")
    assert not (cache / "weights").exists()
    assert _step(checkpoint) == 20
    again = subprocess.run([sys.executable, "-m", "zoo", *arguments], **pipes)
    assert again.returncode == 0, again.stderr
    first = next(line for line in again.stderr.splitlines() if line.startswith("training encoder"))
    assert first.endswith(": 20/150")
    assert (Path(again.stdout.strip()) / "model.safetensors").is_file()


def _step(checkpoint: Path) -> int:
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as file:
        return int(json.loads(file.metadata()["state"])["step"])

"""Several processes do what one does: the same records, and the same training but for the order of float sums."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import zoo
from zoo import distributed, launch, runner, scoring, stages
from zoo.crew import Crew, here
from zoo.errors import IntegrityError, UsageError
from zoo.record import Audit, Record
from zoo.stages import Part, ShardsMissingError, Stage, Work, reduce

ROOT = Path(__file__).resolve().parents[1]
MEMBER = [sys.executable, str(ROOT / "tests" / "crew_member.py")]
EEG2IMAGE: dict[str, Any] = {
    "lstm_units": [4, 6],
    "noise_dim": 5,
    "resolution": 16,
    "generator_width": 16,
    "discriminator_width": 4,
    "encoder_batch_size": 9,
    "gan_batch_size": 7,
}
STYLEGAN2: dict[str, Any] = {
    "lstm_layers": 2,
    "lstm_units": 5,
    "n_features": 6,
    "z_dim": 4,
    "w_dim": 8,
    "resolution": 8,
    "channel_base": 64,
    "channel_max": 8,
    "minibatch_group": 2,
    "encoder_batch_size": 8,
    "gan_batch_size": 4,
    "image_pairing": "class",
}
FEW = {"encoder_batch_size": 8, "gan_batch_size": 6}
PRESETS: dict[str, dict[str, Any]] = {
    "eeg2image": {**EEG2IMAGE, "semantics": "as_intended"},
    "eegstylegan-ada": {**STYLEGAN2, "encoder": "cnn", "cnn_channels": [2, 4], "cnn_dropout": 0.3},
    "thoughtviz.small": {**FEW, "semantics": "as_intended"},
    "thoughtviz-acgan.small-eeg": FEW,
    "neurogan.small": {**FEW, "encoder_in_gan": "finetuned"},
    "neuromatch-lstm-gan.small": FEW,
    "brain2image-vae.small": {"encoder_batch_size": 8, "vae_batch_size": 5},
    "eeg-gan.small": {**FEW, "mode_weight": 1.0},
    "perceivelab-eegnet.small": {"encoder_batch_size": 8},
    "syncnet.small": {"encoder_batch_size": 8},
    "eegchannelnet.small": {"encoder_batch_size": 8},
}
"""What differs in how batches are used: statistics, dropout, gradients of gradients, miners, parts called by name."""
TINY = {"encoder_steps": 2, "gan_steps": 2, "encoder_batch_size": 32, "gan_batch_size": 16, "generator_width": 64}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


Members = list[subprocess.Popen[str]]


def started(folder: Path, size: int, cases: list[dict[str, Any]], *, float64: bool = False) -> Members:
    """The members of a crew that work on ``cases``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    if float64:
        (folder / "float64").touch()
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [*MEMBER, str(folder)],
            env={**os.environ, **meeting, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(members: Members) -> None:
    errors = [member.communicate()[1] for member in members]
    assert all(member.returncode == 0 for member in members), "\n".join(errors)


def losses(folder: Path, name: str) -> dict[str, np.ndarray]:
    told = json.loads((folder / f"{name}.json").read_text())
    return {phase: np.array(found["losses"]) for phase, found in told.items()}


def tensors(folder: Path, name: str) -> dict[str, np.ndarray]:
    return load_file(folder / f"{name}.safetensors")


def off(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, of the largest value."""
    return float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-12)) if wanted.size else 0.0


# ---- training


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``1`` and ``2``: 50 steps of two models by so many processes, and 25 more of what the others began."""
    root = tmp_path_factory.mktemp("fifty")
    runs = []
    for size, other in ((1, 2), (2, 1)):
        cases = []
        for more in ({"leave": root / f"half of {size}"}, {"begin": root / f"half of {other}"}):
            for model, settings in (("eeg2image", EEG2IMAGE), ("eegstylegan-ada", STYLEGAN2)):
                (kind, where) = next(iter(more.items()))
                case = {"name": f"{model} {kind}", "model": model, "set": settings, "steps": 50}
                cases.append({**case, kind: str(where / model)})
        runs.append(started(root / str(size), size, cases))
    for members in runs:
        ended(members)
    return root


@pytest.mark.parametrize("model", ["eeg2image", "eegstylegan-ada"])
def test_two_processes_train_as_one(fifty: Path, model: str) -> None:
    """After 50 steps float32 differs by its rounding: losses by 1e-5, tensors by 1e-4 of their largest value.

    Batches of 9 and 7 do not split evenly, so that the parts are of different sizes.
    """
    one, two = losses(fifty / "1", f"{model} leave"), losses(fifty / "2", f"{model} leave")
    assert {phase: len(found) for phase, found in one.items()} == {"encoder": 50, "gan": 50}
    for phase, found in one.items():
        np.testing.assert_allclose(two[phase], found, rtol=1e-5, atol=1e-6)
    whole, shared = tensors(fifty / "1", f"{model} leave"), tensors(fifty / "2", f"{model} leave")
    assert whole.keys() == shared.keys()
    assert max(off(shared[key], value) for key, value in whole.items()) < 1e-4


@pytest.mark.parametrize("model", ["eeg2image", "eegstylegan-ada"])
@pytest.mark.parametrize("size", [1, 2])
def test_any_number_of_processes_continues_what_another_began(fifty: Path, model: str, size: int) -> None:
    whole, resumed = losses(fifty / "1", f"{model} leave"), losses(fifty / str(size), f"{model} begin")
    for phase, found in whole.items():
        assert len(resumed[phase]) == 25
        np.testing.assert_allclose(resumed[phase], found[25:], rtol=1e-5, atol=1e-6)
    wanted, got = tensors(fifty / "1", f"{model} leave"), tensors(fifty / str(size), f"{model} begin")
    assert max(off(got[key], value) for key, value in wanted.items()) < 1e-4


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``1`` and ``2``: two steps of every phase of many models in float64."""
    root = tmp_path_factory.mktemp("exact")
    cases = [{"name": name, "model": name, "set": settings, "steps": 2} for name, settings in PRESETS.items()]
    for members in [started(root / str(n), n, cases, float64=True) for n in (1, 2)]:
        ended(members)
    return root


@pytest.mark.parametrize("model", PRESETS)
def test_every_kind_of_recipe_is_divided_exactly(exact: Path, model: str) -> None:
    """Two processes, float64: first losses to 1e-12, and so every forward pass with its draws and statistics.

    Second losses, behind an update with every gradient, to 1e-6: Adam makes a full step of a gradient that is zero but
    for its rounding.
    """
    one, two = losses(exact / "1", model), losses(exact / "2", model)
    assert one
    for phase, found in one.items():
        np.testing.assert_allclose(two[phase][0], found[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(two[phase][1], found[1], rtol=1e-6, atol=1e-6)


def test_a_crew_of_one_leaves_modules_alone() -> None:
    net = nn.Linear(2, 2)
    with distributed.divided([net]):
        assert "forward" not in vars(net)
    assert distributed.value_of_first({"a": 1}) == {"a": 1}
    assert distributed.bytes_of_first(b"abc") == b"abc"


def test_what_would_draw_anew_in_every_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = r"which every one of several processes would draw anew for its part of the batch; train it in one process\.$"
    with distributed._Rules("Net"), pytest.raises(UsageError, match=rf"^Net draws random numbers by randn, {rest}"):
        torch.randn(3)
    monkeypatch.setattr(distributed, "crew", lambda: Crew(0, 2))
    layers = [nn.LSTM(1, 1, 2, dropout=0.5)]
    with pytest.raises(UsageError, match=rf"^LSTM draws random numbers by its own dropout, {rest}"):
        with distributed.divided(layers):
            pass
    assert "forward" not in vars(layers[0])


# ---- evaluation


def squares(calls: list[int], n: int = 40, **more: Any) -> Stage:
    """Row i is i squared, in chunks of 4; ``calls`` collects where chunks start."""

    def compute(part: slice) -> np.ndarray:
        calls.append(part.start)
        time.sleep(0.005)
        return np.arange(part.start, part.stop) ** 2

    return Stage("squares", {"of": "rows"}, n, compute, "squaring", 4, **more)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_crew_computes_every_chunk_once(size: int) -> None:
    calls: list[int] = []

    def member(rank: int) -> None:
        for work in Work(crew=Crew(rank, size)).passes:
            squares(calls).fill(work)

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == [*range(0, 40, 4)]
    np.testing.assert_array_equal(squares([]).rows()[:], np.arange(40) ** 2)


def test_others_take_over_what_a_dead_process_leaves(cache: Path) -> None:
    calls: list[int] = []
    squares(calls).fill(Work(shard=(0, 3)))  # what process 0 of 3 did before it died
    for work in Work(crew=Crew(2, 3)).passes:  # process 1 never lived
        squares(calls).fill(work)
    assert sorted(calls) == [*range(0, 40, 4)]
    np.testing.assert_array_equal(squares([]).rows()[:], np.arange(40) ** 2)
    assert not [*cache.rglob("*.lock")]


def test_a_claim_is_waited_for_but_not_for_ever(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.store import claim

    calls: list[int] = []
    made = squares(calls, n=8)
    with claim(made._paths[0]):  # of a host that is gone while its file system holds on to its lock
        monkeypatch.setattr(stages, "PATIENCE_SECONDS", 0.3)
        started = time.monotonic()
        made.fill(Work())
    assert calls == [4, 0]
    assert time.monotonic() - started > 0.3
    np.testing.assert_array_equal(made.rows()[:], np.arange(8) ** 2)


def test_reduce_wants_every_sample_once(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d", "e"]
    first, second = Part(tmp_path / "0", ("a", "b", "c"), 3), Part(tmp_path / "1", ("d", "e"), 2)
    assert reduce([second, first], ids) == reduce([first, second], ids) == (tmp_path / "0", tmp_path / "1")
    for parts, wanted, why in (
        ([first], ids, "5 samples exactly once, but 'd' is in them 0 times"),
        ([first, second, second], ids, "5 samples exactly once, but 'd' is in them 2 times"),
        ([first, second], ids[:4], "4 samples exactly once, but 'e' is in them 1 times and is none of these"),
    ):
        with pytest.raises(IntegrityError, match=rf"^the parts must hold each of {why}; sample ids must be unique\.$"):
            reduce(parts, wanted)
    short = Part(tmp_path / "1", ("d", "e"), 1)
    with pytest.raises(
        IntegrityError, match=r"1 must have 2 rows, but has 1; delete it and run the same command again\.$"
    ):
        reduce([first, short], ids)


def test_a_chunk_that_lacks_rows_is_named(cache: Path) -> None:
    squares([]).fill(Work())
    chunk = sorted(cache.glob("squares/*/*.npy"))[3]
    np.save(chunk, np.arange(3))
    with pytest.raises(IntegrityError, match=r"00003\.npy must have 4 rows, but has 3; delete it and run .* again\.$"):
        squares([]).rows()


def test_a_sample_id_that_comes_twice_is_named() -> None:
    twice = squares([], ids=[str(max(row, 1)) for row in range(40)])
    twice.fill(Work())
    with pytest.raises(
        IntegrityError, match=r"of 39 samples exactly once, but '1' is in them 2 times; sample ids must"
    ):
        twice.rows()


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), ("0", "")])
def test_variables_that_make_no_crew_are_named(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    why = (
        rf"^RANK and WORLD_SIZE must be a number and a larger one, but are '{rank}' and '{size}'; start with torchrun, "
    )
    with pytest.raises(UsageError, match=why):
        here()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds phantom and a model trained on it for a few steps, and nothing of an evaluation."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(folder))
        zoo.train("eeg2image.small", "phantom", overrides=TINY, select="last", device="cpu")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two metrics, one of EEG and one of images; no audit and no pictures beside the record, which take longest."""
    kept = ("knn_accuracy", "copy_rate-pixels-16")
    monkeypatch.setattr(scoring, "_absent", lambda card: None if card.id in kept else "left out: it takes long")
    monkeypatch.setattr(runner, "_audited", lambda plan: Audit(verdict="unknown", evidence={}, sentences=()))
    monkeypatch.setattr(runner, "_draw", lambda images, path: None)
    monkeypatch.setattr(runner, "write_gallery", lambda images, path: None)


def numbers(record: Record) -> dict[str, Any]:
    """Every value of the model and its controls, with intervals."""
    return {
        "model": {name: value.model_dump() for name, value in record.values.items()},
        **{name: system.model_dump() for name, system in record.controls.items()},
    }


OPTIONS = {"device": "cpu", "limit": 70, "replicates": 1}


@functools.cache
def alone(cache: Path) -> Record:
    """What one process makes; made by the first test that asks, with the cache set as it is there."""
    return zoo.evaluate("eeg2image.small", "phantom", output_dir=cache / "alone", **OPTIONS)


def same(a: Record, b: Record) -> None:
    assert (a.id, a.units_sha256) == (b.id, b.units_sha256)
    assert numbers(a) == numbers(b)


@pytest.fixture
def evaluated(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: None) -> Callable[[int], Record]:
    """``evaluated(n)``: the record that a crew of ``n`` makes, whose processes are threads here and share a folder."""

    def run(size: int) -> Record:
        shared = tmp_path / f"crew of {size}"
        monkeypatch.setenv("ZOO_CACHE", str(trained))
        shutil.copytree(trained / "weights", shared / "weights")
        monkeypatch.setenv("ZOO_SHARED", str(shared))
        mine = threading.local()
        found: list[Record] = []
        failed: list[BaseException] = []

        def member(rank: int) -> None:
            mine.crew = Crew(rank, size)
            try:
                found.append(zoo.evaluate("eeg2image.small", "phantom", **OPTIONS))
            except ShardsMissingError:
                assert rank > 0
            except BaseException as error:
                failed.append(error)

        monkeypatch.setattr("zoo.plan.Work", lambda **given: Work(**given, crew=mine.crew))
        threads = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed
        (record,) = found
        return record

    return run


def test_crews_of_one_two_and_three_make_the_same_record(evaluated: Callable[[int], Record]) -> None:
    """Processes are threads here; real ones do the same in the test with two hosts."""
    one, two, three = (evaluated(size) for size in (1, 2, 3))
    assert one.id == two.id == three.id
    assert one.units_sha256 == two.units_sha256 == three.units_sha256
    assert numbers(one) == numbers(two) == numbers(three)
    assert all(one.values[name].value is not None for name in ("knn_accuracy", "copy_rate-pixels-16"))


# ---- the command line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ["--executor", "ray"],
            "--executor must be here or torchrun, not 'ray'; for SLURM see 'zoo sweep -h'.",
        ),
        (["--gpus", "2"], "--gpus and --nodes are for a group of processes; add --executor torchrun."),
        (["--executor", "torchrun", "--gpus", "0"], "--gpus must be at least 1, not 0."),
        (
            ["--executor", "torchrun", "--nodes", "two"],
            "--nodes must be a number such as 2, or the least and the most such as 1:4, not 'two'.",
        ),
        (
            ["--executor", "torchrun", "--nodes", "1:2"],
            "--nodes 1:2 needs PET_RDZV_ENDPOINT=HOST:PORT in the environment, the same on every machine: the address "
            "of one of them.",
        ),
    ],
)
def test_a_group_that_is_not_possible_is_refused(options: list[str], why: str) -> None:
    from typer.testing import CliRunner

    from zoo.cli import app

    for command in ("eval", "train"):
        ran = CliRunner().invoke(app, [command, "eeg2image.small", "-d", "phantom", *options])
        assert (ran.exit_code, ran.stderr) == (2, f"error: {why}\n")


@pytest.mark.parametrize("command", ["eval", "train"])
def test_what_is_wrong_is_said_once_and_before_there_is_a_group(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from zoo.cli import app

    monkeypatch.setattr(launch, "together", lambda *args: pytest.fail("started"))
    ran = CliRunner().invoke(app, [command, "eeg2imag", "-d", "phantom", "--executor", "torchrun", "--gpus", "2"])
    assert ran.exit_code == 2
    assert ran.stderr.startswith("error: unknown model 'eeg2imag'; did you mean 'eeg2image'")
    assert ran.stderr.count("\n") == 1


# ---- a group that torchrun starts


def test_a_process_that_is_killed_is_started_again_with_all_others(
    trained: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of two is killed as they train, and again as they evaluate; nothing that comes out knows of it."""
    shared = tmp_path / "shared"
    shutil.copytree(trained / "weights", shared / "weights")
    calm = {"name": "calm", "model": "eeg2image", "set": EEG2IMAGE, "steps": 6}
    evaluation = {"evaluate": "eeg2image.small", "options": OPTIONS, "slow": 0.15}
    (shared / "cases.json").write_text(json.dumps([calm, {**calm, "name": "killed", "slow": 0.2}, evaluation]))
    monkeypatch.setenv("ZOO_CACHE", str(trained))
    monkeypatch.setenv("ZOO_SHARED", str(shared))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launch, "PLAIN", MEMBER)
    killed = []

    def kill() -> None:
        for what, after, told in (("training", 2, shared / "calm.json"), ("generating", 0, shared / "killed.json")):
            while not told.exists() or not (doing := doing_of(shared, f"1.{what}")) or doing[1] < after:
                time.sleep(0.02)
            os.kill(doing[0], signal.SIGKILL)
            killed.append(doing[0])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert launch.together([str(shared)], 2) == 0, capfd.readouterr().err
    killer.join(1)
    assert len({*killed}) == 2
    calmly, disturbed = tensors(shared, "calm"), tensors(shared, "killed")
    assert calmly.keys() == disturbed.keys()
    assert all(np.array_equal(calmly[name], disturbed[name]) for name in calmly)
    (record,) = (Record.read(path) for path in shared.glob("records/**/*.json"))
    monkeypatch.delenv("ZOO_SHARED")
    same(record, alone(trained))


def doing_of(folder: Path, who: str) -> tuple[int, int] | None:
    """Number of a process, and how far it is with what it is doing."""
    try:
        number, done = (folder / f"at.{who}").read_text().split()
    except FileNotFoundError:
        return None
    return int(number), int(done)


def test_a_group_that_dies_again_and_again_is_given_up_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script, log = tmp_path / "dies.py", tmp_path / "log"
    script.write_text(f"import os\nopen({str(log)!r}, 'a').write('begun ')\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setattr(launch, "PLAIN", (sys.executable, str(script)))
    assert launch.together([], 1) == 1
    assert log.read_text().split() == ["begun"] * (1 + launch.RESTARTS)
    assert capfd.readouterr().err == (
        "error: of a process of the group: its process was killed by SIGKILL, as the system does when memory runs "
        "out; run the same command again to go on.\n"
    )


# ---- two hosts


@pytest.fixture
def hosts() -> Iterator[Callable[..., list[str]]]:
    """``hosts("on", "a")``: what stands before a command to run it on the first of two hosts; see the script."""
    name = f"zoo{os.getpid()}"
    script = [str(ROOT / "scripts" / "two_hosts.sh")]

    def call(action: str, host: str = "") -> list[str]:
        return [*script, action, name, *([host] if host else [])]

    if shutil.which("ip") is None:
        pytest.skip("needs ip (Debian: iproute2) to make network namespaces")
    made = subprocess.run(call("up"), capture_output=True, text=True, check=False)
    if made.returncode:
        subprocess.run(call("down"), capture_output=True, check=False)
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip().splitlines()[-1]}")
    yield call
    subprocess.run(call("down"), capture_output=True, check=True)


GROUP = """
import sys
from zoo import launch
from zoo.errors import ZooError
launch.PLAIN = (sys.executable, sys.argv[1])
try:
    sys.exit(launch.together(sys.argv[2:], 1, "2"))
except ZooError as told:
    sys.exit(f"error: {told}")
"""


@pytest.mark.netns
def test_dead_hosts_and_a_cut_cable_change_no_value(
    hosts: Callable[..., list[str]], trained: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun meets across two network namespaces; each host has a cache of its own, results go to one folder.

    As they train, the first host is killed, where they meet: the second one ends and says so. The same command on both
    goes on. Then, while both evaluate, the first host is without its cable for a second, and the second one is killed.
    The first ends the evaluation alone.
    """
    shared = tmp_path / "shared"
    shutil.copytree(trained / "weights", shared / "weights")
    training = {"name": "both", "model": "eeg2image", "set": EEG2IMAGE, "steps": 4, "slow": 0.2}
    evaluation = {"evaluate": "eeg2image.small", "options": OPTIONS, "slow": 0.15}
    (shared / "cases.json").write_text(json.dumps([training, evaluation]))

    def begun(host: str, number: int) -> subprocess.Popen[bytes]:
        shutil.copytree(trained / "datasets", tmp_path / host / "datasets", dirs_exist_ok=True)
        meeting = {"RDZV_ENDPOINT": "10.77.0.1:29411", "RDZV_CONF": f"is_host={2 - number}"}
        meeting |= {"LOCAL_ADDR": f"10.77.0.{number}"}
        own = {"ZOO_CACHE": str(tmp_path / host), "ZOO_SHARED": str(shared), "CREW_HOST": host, "OMP_NUM_THREADS": "1"}
        own |= {f"PET_{name}": value for name, value in meeting.items()}
        words = [*hosts("on", host), sys.executable, "-c", GROUP, MEMBER[1], str(shared)]
        with (tmp_path / f"{host}.log").open("w") as log:
            return subprocess.Popen(words, env={**os.environ, **own}, stderr=log)

    def until(true: Callable[[], bool]) -> None:
        """Wait for what takes seconds on a machine that has nothing else to do."""
        limit = time.monotonic() + 240
        while not true():
            dead = [host for host in running if running[host].poll() is not None]
            dead += ["nobody, but it takes too long"] if time.monotonic() > limit else []
            assert not dead, "".join(log.read_text() for log in tmp_path.glob("*.log"))
            time.sleep(0.05)

    def seen(host: str, what: str) -> bool:
        return any(shared.glob(f"at.{host}[01].{what}"))

    running = {"a": begun("a", 1), "b": begun("b", 2)}
    until(lambda: seen("a", "training") and seen("b", "training"))
    subprocess.run(hosts("kill", "a"), check=True)
    running.pop("a").wait()
    assert running["b"].wait() == 1
    told = (tmp_path / "b.log").read_text().splitlines()
    assert told[-1] == (
        "error: the machines of a group must meet at 10.77.0.1:29411, but nobody answers there; what is finished is "
        "kept. Run the same command again on all machines, with PET_RDZV_ENDPOINT at one that is up, or without "
        "--executor on one."
    )
    assert not [line for line in told if "Traceback" in line]

    running = {"a": begun("a", 1), "b": begun("b", 2)}
    until(lambda: seen("a", "generating") and seen("b", "generating"))
    subprocess.run(hosts("cut", "a"), check=True)
    time.sleep(1)
    subprocess.run(hosts("mend", "a"), check=True)
    subprocess.run(hosts("kill", "b"), check=True)
    running.pop("b").wait()
    assert not [*shared.glob("records/**/*.json")]
    until(lambda: bool([*shared.glob("records/**/*.json")]))
    subprocess.run(
        hosts("kill", "a"), check=True
    )  # torchrun there would wait minutes for the other host to say goodbye
    running.pop("a").wait()

    (record,) = (Record.read(path) for path in shared.glob("records/**/*.json"))
    monkeypatch.setenv("ZOO_CACHE", str(trained))
    same(record, alone(trained))
    assert losses(shared, "both").keys() == {"encoder", "gan"}

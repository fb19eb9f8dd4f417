"""Dataset repos: what goes out is what the licence allows, what comes in is byte for byte what was prepared."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from tests.hub_standin import Hub
from zoo import registry, store
from zoo.cli import app
from zoo.datasets import base, phantom, pulling, recipes, sharing
from zoo.datasets.base import Prepared, Stimulus, strings
from zoo.errors import IntegrityError, MissingError, UsageError, ZooError
from zoo.specs import DatasetCard, EEGSpec, HubRepo

SPEC = EEGSpec(ch_names=("O1", "O2"), sfreq=100.0, tmin=-0.02, n_times=5)
CARD = DatasetCard(
    id="tiny",
    title="Tiny",
    loader="nowhere:build",
    pairing="instance",
    concepts=("cat", "dog"),
    eeg=SPEC,
    licence="CC-BY-4.0 (recordings), CC0-1.0 (pictures)",
    hosts="everything",
    citation="Nobody (2020)",
    source="https://example.org",
    get="ask a friend",
    splits=({"id": "stimulus-out@1", "protocol": "unseen-stimulus", "note": "by picture"},),  # type: ignore[arg-type]
)
PICTURES = 300
"""More than are written at a time."""


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (value % 256, value // 256, 7)).save(file, "PNG")
    return file.getvalue()


def tiny(**changes: Any) -> Prepared:
    """Two concepts × 150 pictures, one trial each; one picture is not here, one sample is a negative zero."""
    names = [f"{'cat' if i < PICTURES // 2 else 'dog'}-{i:03d}" for i in range(PICTURES)]
    trials = {
        "trial_id": strings([f"t{i:03d}" for i in range(PICTURES)]),
        "subject": strings([f"{i % 3}" for i in range(PICTURES)]),
        "session": strings([None if i % 2 else "01" for i in range(PICTURES)]),
        "order": np.arange(PICTURES),
        "stimulus_id": strings(names),
        "concept": strings([name[:3] for name in names]),
    }
    cut, _ = recipes.cut(CARD, trials, {"stimulus-out": lambda t: recipes.stimulus_out(t, val=0.25, test=0.25)})
    eeg = np.random.default_rng(0).normal(size=(PICTURES, 2, 5)).astype(np.float32) * 1e-6
    eeg[3, 1, 2] = -0.0
    stimuli = [Stimulus(name, name[:3], png(i)) for i, name in enumerate(names)]
    stimuli[7] = Stimulus(names[7], "cat", None, sha256="a" * 64)
    made = Prepared(
        spec=SPEC,
        eeg=eeg,
        trials=trials,
        concepts=("cat", "dog"),
        stimuli=tuple(stimuli),
        stimuli_source="drawn",
        splits=cut,
        source={"recording": "b" * 64},
        report=("somebody's file was skipped.",),
    )
    return dataclasses.replace(made, **changes)


Install = Callable[..., base.EEGDataset]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Prepare ``tiny`` with a card that hosts what a test says."""

    def use(made: Prepared | None = None, **changes: Any) -> base.EEGDataset:
        card = CARD.model_copy(update=changes)
        monkeypatch.setitem(registry.datasets._added, "tiny", card)
        monkeypatch.setattr(registry, "load_object", lambda where: lambda card, **kwargs: made or tiny())
        base.prepare("tiny")
        return base.load("tiny")

    return use


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, *arguments: str | Path) -> str:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.removeprefix("error: ").removesuffix("\n")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def exported(dataset: base.EEGDataset, folder: Path) -> Path:
    folder.mkdir()
    sharing.export(dataset, folder)
    return folder


def put(hub: Hub, folder: Path, repo: str = "org/tiny") -> str:
    """``--from`` of a commit that holds the files of a folder."""
    return f"hf-hub:{repo}@{hub.commit(repo, content(folder), 'dataset')}"


def seal(folder: Path, **changes: Any) -> None:
    """Make ``dataset.json`` agree with the files beside it, as whoever forges a repo would."""
    about = store.read_json(folder / "dataset.json")
    for path in about["files"]:
        if (folder / path).exists():
            data = (folder / path).read_bytes()
            about["files"][path] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    store.write_json(folder / "dataset.json", about | changes)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pq.ParquetFile(path) as file:
        table = file.read()
    pq.write_table(change(table), path)


def replaced(
    column: str, values: Callable[[list[Any]], list[Any]], dtype: Any = None
) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        made = pa.array(values(table[column].to_pylist()), type=dtype or table.schema.field(index).type)
        return table.set_column(index, column, made)

    return change


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "datasets").glob("*") if path.suffix != ".lock")


# ---- out


def test_the_datasets_library_reads_a_repo(install: Install, tmp_path: Path) -> None:
    import datasets as hf_datasets

    dataset = install()
    folder = exported(dataset, tmp_path / "repo")
    trials = hf_datasets.load_dataset(str(folder), "trials", split="train", cache_dir=tmp_path / "hf")
    assert trials.features["eeg"] == hf_datasets.Array2D((2, 5), "float32")
    eeg = trials.with_format("numpy")[:]["eeg"]
    assert (eeg.shape, eeg.dtype) == ((PICTURES, 2, 5), np.float32)
    assert eeg.tobytes() == np.ascontiguousarray(dataset.eeg).tobytes()
    assert trials["session"][:3] == ["01", None, "01"]
    assert trials["order"][:3] == [0, 1, 2]
    assert trials["trial_id"][:] == dataset.trials["trial_id"].tolist()
    stimuli = hf_datasets.load_dataset(str(folder), "stimuli", split="train", cache_dir=tmp_path / "hf")
    assert (len(stimuli), stimuli[7]["image"], stimuli[7]["sha256"]) == (PICTURES, None, "a" * 64)
    np.testing.assert_array_equal(np.asarray(stimuli[299]["image"]), base.decode(png(299)))


def test_the_header_names_licence_tables_and_shapes(install: Install, tmp_path: Path) -> None:
    folder = exported(install(), tmp_path / "repo")
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(header)
    assert said["license"] == ["cc-by-4.0", "cc0-1.0"]
    assert [config["config_name"] for config in said["configs"]] == ["trials", "stimuli"]
    assert said["dataset_info"][0]["features"][-1] == {
        "name": "eeg",
        "dtype": {"array2_d": {"shape": [2, 5], "dtype": "float32"}},
    }
    split = (folder / "splits/stimulus-out@1.json").read_bytes()
    assert f"| stimulus-out@1 | unseen-stimulus | 148 | 76 | 76 | `{hashlib.sha256(split).hexdigest()}` |" in body
    assert "300 trials of 3 subjects, 2 channels × 5 times at 100 Hz, -20 to 30 ms from onset, V, float32." in body


@pytest.mark.parametrize(
    ("licence", "hosts", "said"),
    [
        ("Apache-2.0", "everything", {"license": "apache-2.0"}),
        ("CC-BY-4.0 (EEG); the pictures are those of THINGS", "recordings", {"license": "cc-by-4.0"}),
        ("ODbL (the Hugging Face version)", "everything", {"license": "odbl"}),
        ("none stated", "splits", {"license": "other", "license_name": "none-stated"}),
        ("CC-BY-4.0", "splits", {"license": "other", "license_name": "cc-by-4.0"}),
    ],
)
def test_licences_have_the_names_of_the_hub(licence: str, hosts: Any, said: dict[str, str]) -> None:
    assert sharing._licence(CARD.model_copy(update={"licence": licence, "hosts": hosts})) == said


def test_large_tables_are_cut_at_fixed_trials(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SHARD_BYTES", 40 * 110)
    monkeypatch.setattr(sharing, "GROUP_BYTES", 40 * 50)
    folder = exported(install(), tmp_path / "repo")
    shards = sorted((folder / "trials").iterdir())
    assert [path.name for path in shards] == [f"data-{i:05d}-of-00003.parquet" for i in range(3)]
    found = [pq.read_metadata(path) for path in shards]
    assert [meta.num_rows for meta in found] == [110, 110, 80]
    assert [found[0].row_group(i).num_rows for i in range(3)] == [50, 50, 10]


def test_export_never_holds_the_whole_array(install: Install, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"ch_names": tuple("abcdefgh"), "n_times": 4096})
    dataset = install(tiny(spec=spec, eeg=np.zeros((PICTURES, 8, 4096), np.float32)), eeg=spec)
    tracemalloc.start()
    sharing._export_trials(dataset, tmp_path / "trials", None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.files["eeg.safetensors"].size > 39e6
    assert peak < sharing.GROUP_BYTES


@pytest.mark.parametrize("hosts", ["everything", "recordings", "splits"])
def test_nothing_leaves_that_the_licence_keeps(install: Install, tmp_path: Path, hosts: str) -> None:
    dataset = install(hosts=hosts)
    files = content(exported(dataset, tmp_path / "repo"))
    tables = {"everything": ["stimuli", "trials"], "recordings": ["stimuli", "trials"], "splits": []}[hosts]
    assert sorted({path.partition("/")[0] for path in files if path.endswith(".parquet")}) == tables
    assert sorted(path for path in files if not path.endswith(".parquet")) == [
        "README.md",
        "card.json",
        "dataset.json",
        "splits/stimulus-out@1.json",
    ]
    everything = b"".join(files.values())
    assert (png(5)[20:] in everything) == (hosts == "everything")
    assert b"somebody's file" not in everything
    if tables:
        with pq.ParquetFile(tmp_path / "repo/stimuli/data-00000-of-00001.parquet") as file:
            rows = file.read().to_pylist()
        assert [row["sha256"] for row in rows][:3] == [hashlib.sha256(png(i)).hexdigest() for i in range(3)]
        assert (rows[5]["image"] is None) == (hosts == "recordings")
    else:
        assert "configs" not in yaml.safe_load((tmp_path / "repo/README.md").read_text().split("---\n")[1])
    assert store.read_json(tmp_path / "repo/dataset.json")["files"]["eeg.safetensors"]["sha256"] == dataset.eeg_sha256


def test_a_changed_file_is_not_shared(install: Install, tmp_path: Path) -> None:
    dataset = install()
    path = dataset.folder / "eeg.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError) as caught:
        sharing.export(dataset, tmp_path)
    assert str(caught.value) == "eeg.safetensors of tiny was changed; see 'zoo data check tiny'."
    assert list(tmp_path.iterdir()) == []


def test_markup_of_a_card_is_text(install: Install, tmp_path: Path) -> None:
    folder = exported(install(title="Tiny <script>alert(1)</script>", citation="a | b\n---\nc"), tmp_path / "repo")
    text = (folder / "README.md").read_text()
    assert "# Tiny &lt;script&gt;alert(1)&lt;/script&gt;\n" in text
    assert "a \\| b --- c\n" in text
    assert yaml.safe_load(text.split("---\n")[1])["pretty_name"] == "Tiny <script>alert(1)</script>"


# ---- there and back


def test_what_is_pulled_is_what_was_pushed(install: Install, hub: Hub, cache: Path, tmp_path: Path) -> None:
    dataset = install()
    before = content(dataset.folder)
    pushed = sharing.push("tiny", repo="org/tiny", create_pr=False)
    files = hub.files("org/tiny", "dataset")
    assert {path: len(data) for path, data in files.items()} == pushed.files
    assert pushed.url is not None
    assert not list((cache / "exports").glob("tiny*/*"))
    shutil.rmtree(dataset.folder)
    revision = hub.repo("org/tiny", "dataset").refs["main"]
    pulled = pulling.pull("tiny", source="hf-hub:org/tiny@main")
    assert pulled == (cache / "datasets" / "tiny", f"tiny is from org/tiny@{revision}.")
    after = content(pulled.folder)
    for name in before:
        assert (after[name] == before[name]) == (name != "dataset.json"), name
    again = base.load("tiny")
    assert again.source == {"recording": "b" * 64, "hub": f"org/tiny@{revision}"}
    assert again.report == (
        f"from org/tiny@{revision} on the Hub, the same bytes as were prepared there.",
        "1 of 300 pictures may not be shared and are not here.",
    )
    for name in ("fingerprint", "eeg_sha256", "stimuli_sha256", "complete", "split_ids", "spec", "concepts"):
        assert getattr(again, name) == getattr(dataset, name)
    assert base.check("tiny") == []
    assert content(exported(again, tmp_path / "again")) == files


def test_a_second_pull_of_a_pinned_revision_asks_nothing(install: Install, hub: Hub, tmp_path: Path) -> None:
    dataset = install()
    source = put(hub, exported(dataset, tmp_path / "repo"))
    shutil.rmtree(dataset.folder)
    first = pulling.pull("tiny", source=source)
    assert hub.requests
    hub.requests.clear()
    assert pulling.pull("tiny", source=source) == (
        first.folder,
        f"tiny of {source.removeprefix('hf-hub:')} is here already.",
    )
    path = dataset.folder / "eeg.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01")
    assert base.check("tiny")[0].endswith(f"was written; run 'zoo data pull tiny --from {source}' again.")
    pulling.pull("tiny", source=source)
    assert path.read_bytes() == whole
    shutil.rmtree(dataset.folder)
    pulling.pull("tiny", source=source)
    assert path.read_bytes() == whole
    assert hub.requests == []


def test_the_cards_pin_is_the_default(install: Install, hub: Hub, tmp_path: Path) -> None:
    dataset = install()
    source = put(hub, exported(dataset, tmp_path / "repo"))
    repo, _, revision = source.removeprefix("hf-hub:").partition("@")
    install(hub=HubRepo(repo=repo, revision=revision))
    shutil.rmtree(dataset.folder)
    assert refused(5, "audit", "tiny") == (
        "tiny is not prepared on this machine.\nto bring it, run: zoo data pull tiny, or to make it: "
        "zoo data prepare tiny --source PATH   (ask a friend)"
    )
    assert pulling.pull("tiny").told == f"tiny is from {repo}@{revision}."


def test_an_own_copy_with_the_same_trials_is_left_alone(install: Install, hub: Hub, tmp_path: Path) -> None:
    dataset = install(hosts="recordings")
    source = put(hub, exported(dataset, tmp_path / "repo"))
    before = content(dataset.folder)
    origin = source.removeprefix("hf-hub:")
    assert pulling.pull("tiny", source=source).told == f"tiny is here already, with the same trials as {origin}."
    assert content(dataset.folder) == before
    shutil.rmtree(dataset.folder)
    pulling.pull("tiny", source=source)
    bare = base.load("tiny")
    assert (len(bare.stimuli), bare.stimuli_source) == (0, "none")
    assert bare.report[1] == "300 of 300 pictures may not be shared and are not here."
    assert (bare.eeg_sha256, bare.fingerprint) == (dataset.eeg_sha256, dataset.fingerprint)


def test_a_dataset_unknown_here_brings_its_card_and_nothing_to_run(
    install: Install, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = install(aliases=("phantom", "other"))
    source = put(hub, exported(dataset, tmp_path / "repo"))
    shutil.rmtree(dataset.folder)
    monkeypatch.delitem(registry.datasets._added, "tiny")
    pulling.pull("tiny", source=source)
    card = registry.datasets.get("tiny")
    assert card == CARD.model_copy(update={"loader": None, "aliases": ()})
    assert registry.datasets.get("phantom").id == "phantom"
    assert base.load("tiny").split().id == "stimulus-out@1"
    assert base.check("tiny") == []
    assert re.search(r"^tiny +Tiny$", call("list", "datasets").stdout, re.MULTILINE)
    assert refused(5, "data", "pull", "tiny") == (
        "no repo on the Hub is pinned for tiny in this release.\n"
        "to bring it, run: zoo data pull tiny --from hf-hub:eeg-image-zoo/tiny@REVISION"
    )


def test_terms_are_asked_for_before_any_table_is_fetched(install: Install, hub: Hub, tmp_path: Path) -> None:
    dataset = install()
    source = put(hub, exported(dataset, tmp_path / "repo"))
    shutil.rmtree(dataset.folder)
    install_terms = CARD.model_copy(update={"terms": "research only"})
    registry.datasets._added["tiny"] = install_terms
    with pytest.raises(IntegrityError, match=r"^tiny may only be used by those who accept its terms: research only"):
        pulling.pull("tiny", source=source)
    assert not hub.asked(r"\.parquet")
    assert pulling.pull("tiny", source=source, accept_licence=True).folder == dataset.folder


def test_a_killed_pull_is_done_again(install: Install, hub: Hub, tmp_path: Path, cache: Path) -> None:
    dataset = install()
    source = put(hub, exported(dataset, tmp_path / "repo"))
    before = content(dataset.folder)
    shutil.rmtree(dataset.folder)
    hub.pace = 5.0
    code = f"from zoo.datasets.pulling import pull; pull('tiny', source={source!r})"
    child = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    while not hub.asked(r"GET .*parquet"):
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert kept(cache) == []
    hub.pace = 0.0
    pulling.pull("tiny", source=source)
    assert content(dataset.folder)["eeg.safetensors"] == before["eeg.safetensors"]


def test_what_is_unknown_stays_unknown(install: Install, hub: Hub, tmp_path: Path) -> None:
    trials = {name: tiny().trials[name] for name in ("trial_id", "stimulus_id", "concept")}
    cut, _ = recipes.cut(CARD, trials, {"stimulus-out": lambda t: recipes.stimulus_out(t, val=0.25, test=0.25)})
    dataset = install(tiny(trials=trials, splits=cut, stimuli=()))
    folder = exported(dataset, tmp_path / "repo")
    assert not (folder / "stimuli").exists()
    assert "300 trials of unknown subjects" in (folder / "README.md").read_text()
    source = put(hub, folder)
    shutil.rmtree(dataset.folder)
    pulling.pull("tiny", source=source)
    again = base.load("tiny")
    assert (again.fingerprint, again.files) == (dataset.fingerprint, dataset.files)
    assert again.trials.keys() == dataset.trials.keys()


# ---- licences that allow splits only


def test_of_splits_a_pull_says_how_to_go_on(install: Install, hub: Hub, cache: Path, tmp_path: Path) -> None:
    dataset = install(hosts="splits", licence="none stated")
    source = put(hub, exported(dataset, tmp_path / "repo"))
    origin = source.removeprefix("hf-hub:")
    assert pulling.pull("tiny", source=source).told == f"tiny here has the trials and splits of {origin}."
    shutil.rmtree(dataset.folder)
    assert refused(5, "data", "pull", "tiny", "--from", source) == (
        f"{origin} holds the splits of tiny (stimulus-out@1), as its licence does not let us share more "
        "(none stated).\n"
        "to make it, run: zoo data prepare tiny --source PATH   (ask a friend)"
    )
    assert kept(cache) == []
    trials = dict(tiny().trials) | {"subject": strings(["x"] * PICTURES)}
    cut, _ = recipes.cut(CARD, trials, {"stimulus-out": lambda t: recipes.stimulus_out(t, val=0.25, test=0.25)})
    other = install(tiny(trials=trials, splits=cut), hosts="splits")
    assert refused(4, "data", "pull", "tiny", "--from", source) == (
        f"the copy of tiny here is not the one of {origin}: the trials, stimulus-out@1 differ; "
        "see 'zoo data check tiny'."
    )
    assert base.load("tiny").fingerprint == other.fingerprint
    filtered = tiny()
    assert isinstance(filtered.eeg, np.ndarray)
    install(tiny(eeg=filtered.eeg * np.float32(1.000001)), hosts="splits")
    assert pulling.pull("tiny", source=source).told == (
        f"tiny here has the trials and splits of {origin}, but its EEG has another sha256: "
        "other files, or another version of a library that filtered it."
    )


def test_recorded_speech_is_not_sent(hub: Hub, shared: Path) -> None:
    source = shared / "data" / "no_explicit_licence" / "envisioned_speech_eeg.npz"
    if not source.exists():
        pytest.skip("needs the recordings of envisioned speech in ../shared")
    base.prepare("envisioned-speech-object", source=source)
    dataset = base.load("envisioned-speech-object")
    result = call("data", "push", "envisioned-speech-object", "--repo", "org/speech", "--no-pr", "-q")
    assert result.exit_code == 0, result.stderr
    files = hub.files("org/speech", "dataset")
    assert sorted(files) == [
        "README.md",
        "card.json",
        "dataset.json",
        "splits/random-window@1.json",
        "splits/subject-out@1.json",
    ]
    assert sum(map(len, files.values())) < 300_000
    received = sum(request.received for request in hub.requests)
    assert received < 500_000 < dataset.files["eeg.safetensors"].size
    shutil.rmtree(dataset.folder)
    message = refused(5, "data", "pull", "envisioned-speech-object", "--from", "hf-hub:org/speech@main", "-q")
    assert message.splitlines()[1].startswith("to make it, run: zoo data prepare envisioned-speech-object --source ")
    assert not dataset.folder.exists()


# ---- real and generated recordings


@pytest.mark.parametrize("name", ["phantom", "muse-n170"])
def test_recordings_survive_the_hub(
    name: str, hub: Hub, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Path] = {}
    if name == "muse-n170":
        folder = request.getfixturevalue("shared") / "data" / "licensed" / "muse_visual_erp"
        if not folder.is_dir():
            pytest.skip("needs the Muse recordings in ../shared")
        given = {"source": folder / "n170.npz", "images": folder / "stimuli" / "face_house"}
    base.prepare(name, **given)
    there = base.load(name)
    result = call("data", "push", name, "--repo", "org/data", "-q")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == f"{hub.url}/datasets/org/data/discussions/1"
    assert re.fullmatch(r"7 files, [\d,]+ bytes went to org/data\.\n", result.stderr)
    again = call("data", "push", name, "--repo", "org/data", "-q")
    assert (again.stdout, "bytes are the same as in org/data.\n" in again.stderr) == (result.stdout, True)
    revision = hub.merge("org/data", 1, "dataset")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "elsewhere"))
    result = call("data", "pull", name, "--from", "hf-hub:org/data@main", "-q")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'elsewhere' / 'datasets' / name}\n"
    assert result.stderr.startswith(f"{name} is from org/data@{revision}.\n")
    here = base.load(name)
    assert here.folder != there.folder
    assert (here.fingerprint, here.eeg_sha256, here.stimuli_sha256) == (
        there.fingerprint,
        there.eeg_sha256,
        there.stimuli_sha256,
    )
    assert here.files == there.files
    assert call("data", "check", name).exit_code == 0


# ---- repos that are not what they say


def spoil_sha256(folder: Path) -> None:
    path = folder / "trials/data-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forge(path: str, change: Callable[[pa.Table], pa.Table], **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        rewrite(folder / path, change)
        seal(folder, **changes)

    return spoil


def spoil_about(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        about = store.read_json(folder / "dataset.json")
        change(about)
        store.write_json(folder / "dataset.json", about)

    return spoil


def other_ids(folder: Path) -> None:
    for name in ("card.json", "dataset.json"):
        store.write_json(folder / name, store.read_json(folder / name) | {"id": "../tiny"})


def twice(folder: Path) -> None:
    """Two trials of one name, with everything else made to agree."""
    path = folder / "trials/data-00000-of-00001.parquet"
    rewrite(path, replaced("trial_id", lambda ids: [ids[0], ids[0], *ids[2:]]))
    with pq.ParquetFile(path) as file:
        table = file.read(columns=list(base.COLUMNS)).to_pydict()
    mark = base.fingerprint({n: np.asarray(v, np.int64) if n == "order" else strings(v) for n, v in table.items()})
    for split in (folder / "splits").iterdir():
        split.write_text(re.sub(r'("trials_fingerprint":")[0-9a-f]+', rf"\g<1>{mark}", split.read_text()))
    seal(folder, fingerprint=mark)


def not_parquet(folder: Path) -> None:
    (folder / "trials/data-00000-of-00001.parquet").write_bytes(b"PAR1 nonsense PAR1")
    seal(folder)


def not_a_split(folder: Path) -> None:
    (folder / "splits/stimulus-out@1.json").write_text("{}")
    seal(folder)


def other_split(folder: Path) -> None:
    path = folder / "splits/stimulus-out@1.json"
    path.write_text(path.read_text().replace('"dataset":"tiny"', '"dataset":"huge"'))
    seal(folder)


TRIALS, STIMULI = "trials/data-00000-of-00001.parquet", "stimuli/data-00000-of-00001.parquet"
NESTED = pa.list_(pa.list_(pa.float64()))


def short(values: list[Any]) -> list[Any]:
    return [*values[:4], [[0.0] * 4, [0.0] * 6], *values[5:]]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_sha256, r"trials/data-00000-of-00001\.parquet must have sha256 [0-9a-f]{12}…, but has [0-9a-f]{12}…"),
        (lambda folder: (folder / TRIALS).unlink(), r".*trials/data-00000-of-00001\.parquet.*"),
        (other_ids, r"ids must be equal, of a-z, 0-9 and hyphens, but are '\.\./tiny' and '\.\./tiny'"),
        (
            spoil_about(lambda about: about["files"].update({"../../x": {"size": 1, "sha256": "0" * 64}})),
            r"a dataset repo has no file '\.\./\.\./x'",
        ),
        (
            spoil_about(lambda about: about["files"].pop("eeg.safetensors")),
            r"dataset\.json must name the sha256 of eeg\.safetensors",
        ),
        (spoil_about(lambda about: about.update(more=1)), r"its About is not one \(more: .*\)"),
        (
            spoil_about(lambda about: about.update(concepts=["cat"])),
            r"concepts of tiny must be \('cat', 'dog'\), but are \('cat',\)",
        ),
        (
            spoil_about(lambda about: about["spec"].update(n_times=10**9)),
            "recordings of tiny must be 2 channels × 5 times at 100 Hz, but are 2 channels × 1000000000 times .*",
        ),
        (
            spoil_about(lambda about: about["files"]["eeg.safetensors"].update(size=10**6)),
            r"300 trials of 2 channels × 5 times at 100 Hz do not fill an eeg\.safetensors of 1000000 bytes",
        ),
        (
            spoil_about(lambda about: about["files"]["eeg.safetensors"].update(sha256="0" * 64)),
            r"its EEG must have sha256 000000000000…, but has [0-9a-f]{12}…",
        ),
        (forge(TRIALS, lambda table: table.drop_columns(["run"])), f"{TRIALS} has no column run"),
        (
            forge(TRIALS, replaced("order", lambda values: [str(v) for v in values], pa.string())),
            f"column order of {TRIALS} must be int64, but is string",
        ),
        (
            forge(TRIALS, replaced("eeg", lambda values: values, NESTED)),
            rf"column eeg of {TRIALS} must be list<.*float>>, but is list<.*double>>",
        ),
        (
            forge(TRIALS, replaced("eeg", lambda values: [values[0][:1], *values[1:]])),
            f"trials in {TRIALS} must be 2 channels × 5 times at 100 Hz, but some are not",
        ),
        (
            forge(TRIALS, replaced("eeg", short)),
            f"trials in {TRIALS} must be 2 channels × 5 times at 100 Hz, but some are not",
        ),
        (
            forge(TRIALS, replaced("eeg", lambda values: [[[None] * 5] * 2, *values[1:]])),
            f"trials in {TRIALS} must be 2 channels × 5 times at 100 Hz, but some are not",
        ),
        (
            forge(TRIALS, replaced("eeg", lambda values: [[[float("nan")] * 5] * 2, *values[1:]])),
            "EEG must be finite, but trial t000 holds NaN or infinity; repair or remove its recording",
        ),
        (
            forge(TRIALS, replaced("subject", lambda values: ["9", *values[1:]])),
            r"its trials must have fingerprint [0-9a-f]{12}…, but have [0-9a-f]{12}…",
        ),
        (
            forge(TRIALS, replaced("concept", lambda values: ["cow", *values[1:]])),
            "trials are of 'cow', which is not among its concepts",
        ),
        (forge(TRIALS, replaced("trial_id", lambda values: [None, *values[1:]])), "every trial needs a trial_id"),
        (twice, "trial ids must be unique, but 't000' of tiny stands twice"),
        (
            forge(STIMULI, replaced("image", lambda rows: [{"bytes": b"else", "path": None}, *rows[1:]])),
            f"picture 'cat-000' in {STIMULI} is not the one of its sha256",
        ),
        (
            forge(STIMULI, replaced("stimulus_id", lambda ids: [ids[1], *ids[1:]])),
            "picture ids must be unique, but 'cat-001' stands twice or is null",
        ),
        (
            forge(STIMULI, replaced("role", lambda roles: ["judge", *roles[1:]])),
            f"picture 'cat-000' in {STIMULI} has role 'judge' and concept 'cat'",
        ),
        (
            forge(STIMULI, lambda table: table.slice(1)),
            "trials of tiny show 'cat-000', which is not among its pictures",
        ),
        (not_parquet, r"a file is damaged \(.*\)"),
        (not_a_split, r"split stimulus-out@1 must be a split file, but it is not: Field required"),
        (other_split, r"split stimulus-out@1 must be of tiny and its trials [0-9a-f]{12}…"),
        (
            lambda folder: (folder / "dataset.json").write_bytes(b" " * (pulling.HEAD_BYTES + 1)),
            r"dataset\.json must be smaller than 64 MiB",
        ),
    ],
)
def test_a_repo_that_is_not_what_it_says_is_refused(
    install: Install,
    hub: Hub,
    cache: Path,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    why: str,
) -> None:
    dataset = install()
    folder = exported(dataset, tmp_path / "repo")
    shutil.rmtree(dataset.folder)
    spoil(folder)
    source = put(hub, folder)
    message = refused(4, "data", "pull", "tiny", "--from", source, "-q")
    assert re.fullmatch(
        f"{source.removeprefix('hf-hub:')} cannot be used: {why}; nothing was prepared, tell its owner.", message
    ), message
    assert kept(cache) == []


def test_a_refused_repo_leaves_the_copy_that_is_here(install: Install, hub: Hub, tmp_path: Path) -> None:
    folder = exported(install(), tmp_path / "repo")
    spoil_sha256(folder)
    source = put(hub, folder)
    dataset = install(tiny(eeg=np.ones((PICTURES, 2, 5), np.float32)))
    before = content(dataset.folder)
    assert "must have sha256" in refused(4, "data", "pull", "tiny", "--from", source, "-q")
    assert content(dataset.folder) == before


def test_a_pinned_split_must_be_the_released_one(install: Install, hub: Hub, tmp_path: Path) -> None:
    dataset = install()
    data = (dataset.folder / "splits/stimulus-out@1.json").read_bytes()
    source = put(hub, exported(dataset, tmp_path / "repo"))
    shutil.rmtree(dataset.folder)
    pinned = CARD.splits[0].model_copy(update={"sha256": "0" * 64})
    registry.datasets._added["tiny"] = CARD.model_copy(update={"splits": (pinned,)})
    assert refused(4, "data", "pull", "tiny", "--from", source, "-q") == (
        f"{source.removeprefix('hf-hub:')} cannot be used: stimulus-out@1 must be the released split 000000000000…, "
        f"but is {hashlib.sha256(data).hexdigest()[:12]}…; nothing was prepared, tell its owner."
    )


def test_pictures_that_are_none_wait_until_somebody_looks(install: Install, hub: Hub, tmp_path: Path) -> None:
    stimuli = (*tiny().stimuli[:-1], Stimulus("dog-299", "dog", b"<svg onload=alert(1)>"))
    dataset = install(tiny(stimuli=stimuli))
    source = put(hub, exported(dataset, tmp_path / "repo"))
    shutil.rmtree(dataset.folder)
    pulling.pull("tiny", source=source)
    again = base.load("tiny")
    with pytest.raises(IntegrityError, match=r"^stimuli\.parquet of tiny is damaged \(cannot identify image file"):
        again.stimulus_pixels([len(again.stimuli) - 1])


def test_more_than_fits_on_the_disk_is_not_begun(install: Install, hub: Hub, tmp_path: Path) -> None:
    dataset = install()
    folder = exported(dataset, tmp_path / "repo")
    spoil_about(lambda about: about["files"]["eeg.safetensors"].update(size=10**18))(folder)
    source = put(hub, folder)
    shutil.rmtree(dataset.folder)
    with pytest.raises(
        ZooError, match=r"^tiny needs 1000000000\.0 GB on disk, but .* GB are free; free some or point ZOO_CACHE and"
    ):
        pulling.pull("tiny", source=source)
    assert not hub.asked(r"\.parquet")


def test_a_repo_of_another_dataset_says_which(install: Install, hub: Hub, tmp_path: Path) -> None:
    source = put(hub, exported(install(), tmp_path / "repo"))
    with pytest.raises(UsageError) as caught:
        pulling.pull("phantom", source=source)
    origin = source.removeprefix("hf-hub:")
    assert str(caught.value) == f"{origin} holds tiny, not phantom; pull it under that name."


def test_without_a_pin_a_pull_names_the_ways(install: Install) -> None:
    install()
    with pytest.raises(MissingError) as caught:
        pulling.pull("tiny")
    assert str(caught.value) == (
        "no repo on the Hub is pinned for tiny in this release.\n"
        "to bring it, run: zoo data pull tiny --from hf-hub:eeg-image-zoo/tiny@REVISION, "
        "or zoo data prepare tiny --source PATH   (ask a friend)"
    )


# ---- the command line


def test_a_dry_run_lists_files_and_sends_nothing(install: Install, cache: Path) -> None:
    install()
    result = call("data", "push", "tiny", "--dry-run", "-q")
    assert result.exit_code == 0, result.stderr
    listed = [line.split() for line in result.stdout.splitlines()]
    assert [path for _, path in listed] == [
        "README.md",
        "card.json",
        "dataset.json",
        "splits/stimulus-out@1.json",
        "stimuli/data-00000-of-00001.parquet",
        "trials/data-00000-of-00001.parquet",
    ]
    total = sum(int(size.replace(",", "")) for size, _ in listed)
    assert result.stderr == f"6 files, {total:,} bytes would go to eeg-image-zoo/tiny; nothing was sent.\n"


def test_a_push_of_fewer_tables_leaves_none_behind(install: Install, hub: Hub) -> None:
    install()
    sharing.push("tiny", repo="org/tiny", create_pr=False)
    assert len(hub.files("org/tiny", "dataset")) == 6
    registry.datasets._added["tiny"] = CARD.model_copy(update={"hosts": "splits"})
    sharing.push("tiny", repo="org/tiny", create_pr=False)
    assert not [path for path in hub.files("org/tiny", "dataset") if path.endswith(".parquet")]


def test_info_tells_card_splits_and_copy(install: Install) -> None:
    dataset = install()
    said = json.loads(call("data", "info", "tiny", "--json").stdout)
    assert said["card"]["licence"] == CARD.licence
    assert said["splits"] == [
        {
            "id": "stimulus-out@1",
            "protocol": "unseen-stimulus",
            "note": "by picture",
            "here": True,
            "sha256": dataset.files["splits/stimulus-out@1.json"].sha256,
            "unit": "stimulus_id",
            "trials": {"train": 148, "val": 76, "test": 76},
        }
    ]
    here = said["here"]
    assert (here["trials"], here["subjects"], here["concepts"], here["pictures"]) == (300, 3, 2, 299)
    assert (here["from"], here["complete"], here["eeg_sha256"]) == ("prepared from files", True, dataset.eeg_sha256)
    assert (
        here["bytes"]
        == sum(path.stat().st_size for path in dataset.folder.rglob("*.*"))
        - (dataset.folder / "dataset.json").stat().st_size
    )
    text = yaml.safe_load(call("data", "info", "tiny").stdout)
    assert text["here"] == here
    assert "terms" not in text["card"]
    (dataset.folder / "eeg.safetensors").unlink()
    damaged = yaml.safe_load(call("data", "info", "tiny").stdout)["here"]
    assert damaged["damaged"].startswith("eeg.safetensors of tiny must have ")


def test_long_lists_take_few_lines(cache: Path) -> None:
    for name in ("eegcvpr40", "eegcvpr40-features", "object"):
        text = call("data", "info", name).stdout
        assert len(text.splitlines()) < 120
        card = registry.datasets.get(name)
        shown = yaml.safe_load(text)["card"]
        assert card.eeg is not None
        assert (tuple(shown["eeg"]["ch_names"]), tuple(shown["concepts"])) == (card.eeg.ch_names, card.concepts)


def test_info_prepares_nothing(cache: Path) -> None:
    said = json.loads(call("data", "info", "phantom", "--json").stdout)
    assert (said["here"], [split["here"] for split in said["splits"]]) == (None, [False, False])
    assert kept(cache) == []
    assert "did you mean 'phantom'?" in refused(2, "data", "info", "fantom")


def test_check_tells_whether_a_copy_is_the_one_of_the_splits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("data", "prepare", "phantom", "-q")
    assert call("data", "check", "phantom").exit_code == 0
    card = registry.datasets.get("phantom")
    made = phantom.build(card)
    eeg = np.concatenate(list(made.eeg))
    trials = {name: values[:-6] for name, values in made.trials.items()}
    cut, _ = recipes.cut(card, trials, {"subject-out": lambda t: recipes.subject_out(t, val=1 / 6, test=1 / 3)})
    part = dataclasses.replace(made, trials=trials, eeg=eeg[:-6], splits=cut, complete=False)
    monkeypatch.setattr(registry, "load_object", lambda where: lambda card, **kwargs: part)
    base.prepare("phantom")
    assert refused(4, "data", "check", "phantom") == (
        "stimulus-out@1 and 1 more were cut from other trials: 2592 were published, 2586 are here; use subject-out@0."
    )

"""Weights as model repos: out by pull request, back in pinned and checked, and what must never get in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCardData
from safetensors.torch import load_file, save
from typer.testing import CliRunner, Result

import zoo
from tests.conftest import build_record
from tests.hub_standin import Hub
from zoo import modelrepo, plan, registry, store, weights
from zoo.cli import app
from zoo.datasets import base
from zoo.errors import IntegrityError, MissingError, UsageError
from zoo.forward import fingerprint
from zoo.models.base import Model
from zoo.record import Record, Value
from zoo.specs import EEGSpec, HubRepo, ModelCard, Weights

EPOC = registry.models.get("eeg2image").eeg
assert EPOC is not None
DCGAN = {"generator_width": 64, "discriminator_width": 16}
SMALLER: dict[str, dict[str, Any]] = {
    "eeg2image": {"resolution": 16, "generator_width": 16, "discriminator_width": 4},
    "eegstylegan_ada": {"resolution": 16, "channel_base": 256, "channel_max": 16},
    "brain2image": {"decoder_width": 64, "image_encoder_width": 8},
    "eeg_gan": DCGAN,
    "thoughtviz": DCGAN,
    "neurogan": DCGAN,
    "neuromatch_lstm_gan": DCGAN,
    "class_gan": {"of": "eeg2image.small"},
    "eegchannelnet": {"temporal_width": 4, "spatial_width": 4, "head_units": 16},
}
"""By module or name: config fields that make networks quick to send. A model that is not named is sent as it is."""
LARGEST = 4_000_000
"""Numbers of a model that is sent; of larger ones a preset of the same code is."""
REPO = "zoo-org/narrow"


def sent_as(card: ModelCard) -> dict[str, Any]:
    """Config fields with which a model is sent."""
    assert card.builder is not None
    module = card.builder.partition(":")[0].rpartition(".")[2]
    return SMALLER.get(card.id.partition(".")[0], SMALLER.get(module, {}))


def size(card: ModelCard) -> int:
    """Numbers in the tensors of a model, of one that holds none."""
    with torch.device("meta"):
        net = weights.build(card, card.eeg or EPOC, sent_as(card))
    return sum(value.numel() for value in net.state_dict().values())


CARDS = [card for card in registry.models.cards() if card.builder is not None]
NAMES = [card.id for card in CARDS if size(card) <= LARGEST]


def test_of_every_family_one_is_sent() -> None:
    sent = {card.builder for card in CARDS if card.id in NAMES}
    assert {card.builder for card in CARDS} == sent


def make(name: str, called: str = "made") -> Path:
    """Initial weights of a model on this machine."""
    card = registry.models.get(name)
    config = sent_as(card)
    torch.manual_seed(0)
    net = weights.build(card, card.eeg or EPOC, config)
    facts: dict[str, Any] = {"model": card.id, "name": called, "config": {**card.preset, **config}, "eeg": net.spec}
    facts |= {"source": "trained", "trained_on": ("thoughtviz-object",), "split_sha256": "0" * 64, "seed": 3}
    return weights.save(net, {**facts, "selection": "validation", "receipt": {"split": "trial-out@1"}})[0]


def same(a: Model, b: Model) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    return equal and fingerprint(a, a.parts()) == fingerprint(b, b.parts())


def pin(monkeypatch: pytest.MonkeyPatch, name: str, commit: str, folder: Path, repo: str = REPO, **other: str) -> None:
    """Let the card of a model pin a commit that holds the weights of ``folder``."""
    sha256 = {"sha256": store.file_sha256(folder / "model.safetensors")}
    sha256["info_sha256"] = store.file_sha256(folder / "weights.json")
    found = Weights(
        name="first", dataset="thoughtviz-object", hub=HubRepo(repo=repo, revision=commit), **(sha256 | other)
    )
    card = registry.models.get(name)
    monkeypatch.setitem(registry.models._packaged(), name, card.model_copy(update={"weights": (found,)}))


def publish(hub: Hub, folder: Path, **files: bytes) -> str:
    """Put weights on the stand-in without a client, some files replaced; returns the commit."""
    names = {"model": "model.safetensors", "info": "weights.json"}
    replaced = {names.get(key, key): data for key, data in files.items()}
    return hub.commit(REPO, {name: (folder / name).read_bytes() for name in names.values()} | replaced)


def described(folder: Path, **changes: Any) -> bytes:
    return store.json_bytes({**store.read_json(folder / "weights.json"), **changes})


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, *arguments: str | Path) -> str:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.partition("error: ")[2].removesuffix("\n")


Fresh = Callable[[], Path]


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Fresh:
    """Go on as on another machine: with an empty cache."""

    def move() -> Path:
        path = tmp_path_factory.mktemp("fresh")
        monkeypatch.setenv("ZOO_CACHE", str(path))
        return path

    return move


# ---- there and back


@pytest.mark.parametrize("name", NAMES)
def test_what_was_pushed_comes_back_the_same_and_only_once(
    name: str, hub: Hub, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(name)
    made, _ = weights.load(folder)
    repo = f"zoo-org/{name}"
    pushed = modelrepo.push(name, repo=repo)
    assert pushed.url == f"{hub.url}/{repo}/discussions/1"
    commit = hub.merge(repo, 1)
    assert sorted(hub.files(repo)) == ["README.md", "config.json", "model.safetensors", "weights.json"]

    fresh()
    assert same(zoo.load(name, weights=f"hf-hub:{repo}@{commit}"), made)
    asked = len(hub.requests)
    assert same(zoo.load(name, weights=f"hf-hub:{repo}@{commit}"), made)
    assert len(hub.requests) == asked

    pin(monkeypatch, name, commit, folder, repo, sha256=pushed.sha256, info_sha256=pushed.info_sha256)
    fresh()
    assert same(zoo.load(name), made)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for which in (None, "first", f"hf-hub:{repo}@{commit}"):
        assert same(zoo.load(name, weights=which), made)
    assert len(hub.requests) == asked


def test_only_two_files_of_a_repo_are_read(hub: Hub, fresh: Fresh) -> None:
    folder = make("eeg2image.small")
    publish(hub, folder, **{"pytorch_model.bin": b"\x80\x04.", "model.py": b"raise SystemExit", "config.json": b"{"})
    fresh()
    zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}")
    got = {request.path.rpartition("/")[2] for request in hub.asked(r"^GET /.*/resolve/")}
    assert {path.partition("?")[0] for path in got} == {"weights.json", "model.safetensors"}


def test_a_branch_is_looked_up_each_time_and_its_commit_said(
    hub: Hub, fresh: Fresh, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("eeg2image.small")
    commit = publish(hub, folder)
    cache = fresh()
    zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@main")
    said = f"{REPO}@main is {commit} now; hf-hub:{REPO}@{commit} stays the same.\n"
    assert capsys.readouterr().err == f"{said}fetching weights of eeg2image.small from {REPO}@{commit[:8]}\n"
    kept = cache / f"weights/eeg2image.small/hub-zoo-org--narrow-{commit[:8]}"
    assert sorted(path.name for path in kept.iterdir()) == ["model.safetensors", "origin.json", "weights.json"]
    assert store.read_json(kept / "origin.json") == {"repo": REPO, "revision": commit}

    zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@main")
    assert capsys.readouterr().err == said
    assert len(hub.asked("resolve/.*safetensors")) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@main")
    assert (capsys.readouterr().err, len(hub.requests)) == (said, asked)


def test_what_was_fetched_is_found_without_torch_and_without_the_client_of_the_hub(hub: Hub, fresh: Fresh) -> None:
    where = f"hf-hub:{REPO}@{publish(hub, make('eeg2image.small'))}"
    fresh()
    zoo.load("eeg2image.small", weights=where)
    asked = len(hub.requests)
    code = (
        "import sys\n"
        "from zoo.plan import _choose_weights\n"
        f"print(_choose_weights('eeg2image.small', '{where}', lambda info: 0, print)[1].name)\n"
        "print([name for name in ('torch', 'huggingface_hub', 'httpx2') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, len(hub.requests)) == ("made\n[]\n", "", asked)


def test_a_broken_download_goes_on_where_it_was(hub: Hub, fresh: Fresh) -> None:
    folder = make("eeg2image.small")
    commit = publish(hub, folder)
    size = (folder / "model.safetensors").stat().st_size
    fresh()
    hub.cut = 5000
    zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@{commit}")
    tensors = [request for request in hub.requests if request.sent and request.method == "GET" and request.sent >= 4000]
    assert [request.sent for request in tensors][-2:] == [5000, size - 5000]


# ---- which weights are taken


def test_pinned_weights_go_before_those_made_here_unless_they_are_named(
    hub: Hub, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("eeg2image.small")
    pin(monkeypatch, "eeg2image.small", publish(hub, folder), folder)
    fresh()
    mine = make("eeg2image.small", "mine")
    tensors = {key: value + 1 for key, value in load_file(mine / "model.safetensors").items()}
    weights.save_state(tensors, weights.read_info(mine).model_dump(exclude={"sha256", "forward"}))
    default, named = zoo.load("eeg2image.small"), zoo.load("eeg2image.small", weights="mine")
    assert not same(default, named)
    assert same(named, weights.load(mine)[0])
    assert same(default, weights.load(folder)[0])


def test_weights_pulled_by_name_are_nobodys_default(hub: Hub, fresh: Fresh) -> None:
    commit = publish(hub, make("eeg2image.small"))
    fresh()
    zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@{commit}")
    with pytest.raises(MissingError, match="^no weights of eeg2image.small are on this machine.\n"):
        zoo.load("eeg2image.small")
    zoo.load("eeg2image.small", weights=f"hub-zoo-org--narrow-{commit[:8]}")


def test_evaluation_takes_those_trained_on_its_split_before_pinned_ones(
    hub: Hub, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("eeg2image.small")
    pin(monkeypatch, "eeg2image.small", publish(hub, folder), folder)
    fresh()

    def chosen(prefer: Callable[[weights.WeightsInfo], int], dataset: str) -> str:
        return plan._choose_weights("eeg2image.small", None, prefer, print, dataset=dataset)[1].name

    make("eeg2image.small", "mine")
    assert chosen(lambda info: plan.EXACT if info.name == "mine" else 1, "thoughtviz-object") == "mine"
    assert not hub.asked("resolve")
    assert chosen(lambda info: 1, "thoughtviz-object") == "made"
    assert chosen(lambda info: 1, "another") == "mine"
    with pytest.raises(MissingError, match="no weights of eeg2image.small"):
        chosen(lambda info: -1, "thoughtviz-object")


def test_a_record_says_from_which_repo_its_weights_are(hub: Hub, fresh: Fresh) -> None:
    commit = publish(hub, make("eeg2image.small"))
    fresh()
    data, where = base.load("phantom"), f"hf-hub:{REPO}@{commit}"
    chosen = plan._weights_for("eeg2image.small", data, data.split("stimulus-out"), where, 0, "cpu", print)
    assert chosen[2].name == f"made, {where}"


def test_off_the_network_both_ways_to_weights_are_named(
    hub: Hub, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("eeg2image.small")
    commit = publish(hub, folder)
    pin(monkeypatch, "eeg2image.small", commit, folder)
    fresh()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    message = (
        f"the weights first of eeg2image.small ({REPO}@{commit[:8]}) are not on this machine and the network is off "
        "(HF_HUB_OFFLINE or --offline).\nto fetch them, run with the network on: zoo weights pull eeg2image.small"
        "   or: zoo train eeg2image.small --dataset DATASET"
    )
    assert refused(5, "weights", "pull", "eeg2image.small") == message
    make("eeg2image.small", "mine")
    with pytest.raises(MissingError, match=f"^{re.escape(message)}   or name weights that are here: mine$"):
        zoo.load("eeg2image.small")
    assert len(hub.requests) == asked


# ---- what must not get in


def test_other_bytes_than_the_card_says_are_refused(hub: Hub, fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("eeg2image.small")
    commit = publish(hub, folder)
    right, info = (store.file_sha256(folder / name)[:16] for name in ("model.safetensors", "weights.json"))
    for name, pinned in (("model.safetensors", "sha256"), ("weights.json", "info_sha256")):
        cache = fresh()
        pin(monkeypatch, "eeg2image.small", commit, folder, **{pinned: "f" * 64})
        assert refused(4, "weights", "pull", "eeg2image.small") == (
            f"{REPO}@{commit[:8]} cannot be used: {name} must have sha256 {'f' * 16}…, as the card of eeg2image.small "
            f"says, but has {right if pinned == 'sha256' else info}…; nothing was kept, tell its owner."
        )
        assert not [*cache.glob("weights/*/*/*")]
        assert not hub.asked(r"resolve/.*safetensors")


def test_tensors_that_are_not_those_of_the_description_are_refused(hub: Hub, fresh: Fresh) -> None:
    folder = make("eeg2image.small")
    wanted = store.file_sha256(folder / "model.safetensors")[:16]
    other = save({key: value + 1 for key, value in load_file(folder / "model.safetensors").items()})
    commit = publish(hub, folder, model=other)
    cache = fresh()
    message = refused(4, "weights", "pull", "eeg2image.small", "--from", f"hf-hub:{REPO}@{commit}")
    assert message.startswith(f"model.safetensors from 127.0.0.1 must have sha256 {wanted}… but has ")
    assert not [*cache.glob("weights/*/*/*")]


def spoiled(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> dict[str, bytes]:
    """Files of a repo whose tensors were changed and whose description says so."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    data = save(tensors)
    (folder / "changed").write_bytes(data)
    return {"model": data, "info": described(folder, sha256=store.file_sha256(folder / "changed"))}


def double(tensors: dict[str, torch.Tensor]) -> None:
    tensors["generator.rgb.weight"] *= 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda tensors: tensors.pop("generator.rgb.weight"),
            "{} does not fit eeg2image.small: 1 missing and 0 unknown tensors, the first is generator.rgb.weight.",
        ),
        (
            lambda tensors: tensors.update({"generator.extra": torch.zeros(1)}),
            "{} does not fit eeg2image.small: 0 missing and 1 unknown tensors, the first is generator.extra.",
        ),
        (
            lambda tensors: tensors.update({"discriminator.out.bias": torch.zeros(2)}),
            "{}: discriminator.out.bias must have shape (1,) but has (2,).",
        ),
        (
            lambda tensors: tensors.update({"discriminator.out.bias": torch.zeros(1, dtype=torch.float64)}),
            "{}: discriminator.out.bias must be torch.float32 but is torch.float64.",
        ),
        (double, "{}: decode of eeg2image.small on noise must give what weights.json says to "),
    ],
    ids=["missing", "unknown", "shape", "type", "value"],
)
def test_every_tensor_is_accounted_for(
    change: Callable[[dict[str, torch.Tensor]], object], sentence: str, hub: Hub, fresh: Fresh
) -> None:
    folder = make("eeg2image.small")
    commit = publish(hub, folder, **spoiled(folder, change))
    cache = fresh()
    where = cache / f"weights/eeg2image.small/hub-zoo-org--narrow-{commit[:8]}"
    with pytest.raises(IntegrityError, match=f"^{re.escape(sentence.format(where))}"):
        zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@{commit}")


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        (
            {"model": "eeg2image"},
            2,
            "holds weights of eeg2image, not of eeg2image.small; load eeg2image, or name another repo.",
        ),
        ({"sha256": "x"}, 4, "cannot be used: its weights.json is not one (sha256: String should match pattern "),
        ({"run": "rm"}, 4, "cannot be used: its weights.json is not one (run: Extra inputs are not permitted); no"),
    ],
    ids=["model", "sha256", "key"],
)
def test_a_description_must_be_one_of_this_model(
    changes: dict[str, str], code: int, sentence: str, hub: Hub, fresh: Fresh
) -> None:
    folder = make("eeg2image.small")
    commit = publish(hub, folder, info=described(folder, **changes))
    cache = fresh()
    message = refused(code, "weights", "pull", "eeg2image.small", "--from", f"hf-hub:{REPO}@{commit}")
    assert message.startswith(f"{REPO}@{commit[:8]} {sentence}")
    assert not [*cache.glob("weights/*/*/*")]
    assert not hub.asked(r"resolve/.*safetensors")


def test_a_config_that_the_model_does_not_know_is_refused(hub: Hub, fresh: Fresh) -> None:
    folder = make("eeg2image.small")
    config = {**store.read_json(folder / "weights.json")["config"], "depth": 3}
    commit = publish(hub, folder, info=described(folder, config=config))
    fresh()
    with pytest.raises(IntegrityError, match=r"weights.json does not describe a eeg2image.small of this release \("):
        zoo.load("eeg2image.small", weights=f"hf-hub:{REPO}@{commit}")


def test_a_repo_that_cannot_be_had_is_said_in_one_sentence(hub: Hub, fresh: Fresh) -> None:
    commit = publish(hub, make("eeg2image.small"))
    hub.commit("zoo-org/empty", {"model.safetensors": b"x"})
    fresh()
    pull = ("weights", "pull", "eeg2image.small", "--from")
    assert refused(5, *pull, "hf-hub:zoo-org/nothing") == (
        "zoo-org/nothing does not exist or is private for you; if it is yours, run: hf auth login"
    )
    assert refused(2, *pull, f"hf-hub:{REPO}@v9") == (
        f"{REPO} has no revision v9; its branches and tags are listed at {hub.url}/{REPO}."
    )
    assert refused(2, *pull, "hf-hub:narrow") == (
        "'hf-hub:narrow' names no repo on the Hub; write org/name, org/name@revision or hf-hub:org/name@revision."
    )
    head = hub.repo("zoo-org/empty").refs["main"]
    assert refused(2, *pull, "zoo-org/empty") == (
        f"zoo-org/empty@{head[:8]} has no file weights.json; "
        f"its files are listed at {hub.url}/zoo-org/empty/tree/{head}."
    )
    hub.gate(REPO)
    assert refused(5, *pull, f"{REPO}@{commit}") == (
        f"{REPO} is gated: accept its terms at {hub.url}/{REPO}, then run: hf auth login"
    )
    assert refused(2, "weights", "pull", "pixels-16", "--from", REPO) == (
        "--from is for the weights of models, but pixels-16 is an extractor; leave it out."
    )


def test_a_folder_spoiled_after_it_was_fetched_is_refused_and_can_be_fetched_again(hub: Hub, fresh: Fresh) -> None:
    commit = publish(hub, make("eeg2image.small"))
    cache = fresh()
    where = f"hf-hub:{REPO}@{commit}"
    zoo.load("eeg2image.small", weights=where)
    (folder,) = cache.glob("weights/*/hub-*[0-9a-f]")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(
        IntegrityError, match=f"^{folder}/model.safetensors must have sha256 .*; delete the folder and "
    ):
        zoo.load("eeg2image.small", weights=where)
    shutil.rmtree(folder)
    zoo.load("eeg2image.small", weights=where)
    assert (folder / "model.safetensors").read_bytes() == data


# ---- what the repo says


def measured(folder: Path, **identity: Any) -> Record:
    info = weights.read_info(folder)
    identity = {"model": "eeg2image", "dataset": "thoughtviz-object", "weights_sha256": info.sha256, **identity}
    values = {
        "inception_score": Value(value=5.4321, higher_is_better=True, interval=(5.1, 5.8)),
        "fid": Value(value=None, reason="no network | here", higher_is_better=False),
    }
    return build_record(verdict="suspect", values=values, interval=(0.4, 0.6), **identity)


def test_the_model_card_has_claims_beside_results(hub: Hub, tmp_path: Path) -> None:
    folder = make("eeg2image")
    record = measured(folder)
    record.write(tmp_path / "record.json")
    result = call("weights", "push", "eeg2image/made", "--repo", REPO, "--record", tmp_path / "record.json")
    assert (result.exit_code, result.stdout) == (0, f"{hub.url}/{REPO}/discussions/1\n"), result.output
    hub.merge(REPO, 1)
    files = hub.files(REPO)
    assert files[f"records/{Path(record.name).name}"] == record.to_json()
    text = files["README.md"].decode()
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["license"], header["library_name"], header["datasets"]) == (
        "mit",
        "eeg-image-zoo",
        ["thoughtviz-object"],
    )
    results = ModelCardData(**header).eval_results or []  # as the Hub's own client reads them
    assert {found.metric_type: found.metric_value for found in results} == {"accuracy": 0.5, "inception_score": 5.4321}
    assert {found.dataset_name for found in results} == {"reconstruction/phantom.subject-out@1, split audit: suspect"}
    for line in (
        f'model = zoo.load("eeg2image", weights="hf-hub:{REPO}")',
        "| inception_score | thoughtviz-object | 6.78 ± 0.086 | paper, Tables 1 and 2 | read there |",
        "| inception_score ↑ | 6.78 ± 0.086, 7.43 ± 0.76, 6.98 ± 0.73, 8.04 | 5.432 [5.1, 5.8] | – |",
        "| accuracy ↑ | – | 0.5 [0.4, 0.6] | 0.1 |",
        "Not measured, no network \\| here: fid.",
        "Audit of the split: **suspect**.",
        f"| split | trial-out@1, sha256 `{'0' * 64}` |",
        "| seed | 3 |",
        "| checkpoint chosen by | validation |",
        f"- {registry.models.get('eeg2image').notes[0]}",
        "- eeg2image: MIT",
    ):
        assert line in text.splitlines(), line
    config = json.loads(files["config.json"])
    assert (config["model"], config["config"]["resolution"]) == ("eeg2image", 16)
    assert EEGSpec.model_validate(config["eeg"]) == EPOC


def test_a_record_of_other_weights_is_no_result_of_these(hub: Hub, tmp_path: Path) -> None:
    folder = make("eeg2image")
    sha = weights.read_info(folder).sha256[:16]
    path = tmp_path / "record.json"
    measured(folder, weights_sha256="a" * 64).write(path)
    assert refused(2, "weights", "push", "eeg2image", "--repo", REPO, "--record", path) == (
        f"{path} must be a record of the weights {sha}…, but is of eeg2image with {'a' * 16}…; evaluate eeg2image with "
        "--weights made."
    )
    measured(folder).model_copy(update={"status": "partial"}).write(path)
    assert refused(3, "weights", "push", "eeg2image", "--repo", REPO, "--record", path) == (
        f"a model card takes complete records, but {path} is partial; evaluate without --limit."
    )
    assert not hub.requests


def test_a_dry_run_shows_what_would_go_and_sends_nothing(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("eeg2image.small")
    monkeypatch.setenv("ZOO_ORG", "somebody")
    result = call("weights", "push", "eeg2image.small", "--dry-run")
    assert result.exit_code == 0
    shown = {path: size for size, path in map(str.split, result.stdout.splitlines())}
    assert [*shown] == ["README.md", "config.json", "model.safetensors", "weights.json"]
    assert shown["model.safetensors"] == f"{(folder / 'model.safetensors').stat().st_size:,}"
    assert result.stderr.endswith("bytes would go to somebody/eeg2image.small-thoughtviz-object; nothing was sent.\n")
    assert (hub.requests, [*cache.glob("exports/*/*")]) == ([], [])


def test_the_same_weights_are_not_proposed_twice(hub: Hub) -> None:
    make("eeg2image.small")
    first, second = (call("weights", "push", "eeg2image.small", "--repo", REPO) for _ in range(2))
    assert first.stdout == second.stdout == f"{hub.url}/{REPO}/discussions/1\n"
    assert len(hub.repo(REPO).pulls) == 1
    call("weights", "push", "eeg2image.small", "--repo", REPO, "--no-pr")
    assert "model.safetensors" in hub.files(REPO)


def test_what_cannot_be_pushed_is_said(hub: Hub, fresh: Fresh) -> None:
    push = ("weights", "push", "--repo", REPO)
    assert refused(5, *push, "eeg2image") == (
        "no weights of eeg2image were made on this machine.\n"
        "to make them, run: zoo train eeg2image --dataset DATASET   or: zoo weights convert eeg2image --from DIR"
    )
    make("eeg2image.small")
    assert refused(2, *push, "eeg2image.small/mode") == (
        "no weights of eeg2image.small made on this machine are called 'mode'; did you mean 'made'? There are: made."
    )
    assert not hub.requests


def test_a_name_that_nobody_knows_is_told_the_published_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("eeg2image.small")
    pin(monkeypatch, "eeg2image.small", "a" * 40, folder)
    sentence = "--weights must be a weights folder or the name of one, but 'frist' is neither; did you mean 'first'? "
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}"):
        zoo.load("eeg2image.small", weights="frist")

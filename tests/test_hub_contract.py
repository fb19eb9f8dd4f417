"""One conversation with the stand-in and, where a token and a repo are given, with the real Hub: they must agree."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.hub_standin import Hub
from zoo.errors import UsageError
from zoo.hub import Place, download, publish, read, resolve


@pytest.fixture(params=["stand-in", "Hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A dataset repo the token may write to."""
    if request.param == "stand-in":
        hub: Hub = request.getfixturevalue("hub")
        hub.create("org/contract", "dataset")
        return Place("org/contract", "dataset")
    if not (os.environ.get("HF_TOKEN") and os.environ.get("ZOO_TEST_HUB_REPO")):
        pytest.skip("needs HF_TOKEN and ZOO_TEST_HUB_REPO, a dataset repo on the real Hub that the token may write to")
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return Place(os.environ["ZOO_TEST_HUB_REPO"], "dataset")


def test_the_hub_does_what_the_stand_in_does(place: Place, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    run = f"contract-{secrets.token_hex(8)}"  # runs share the real repo
    small, large = f"{run}/about.txt", f"{run}/data/eeg.parquet"
    files = {small: run.encode(), large: secrets.token_bytes(100_000)}
    folder = tmp_path / "folder"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    api, title = HfApi(), f"Propose {run}"

    before = resolve(place)
    proposed = publish(place, folder, message=title)
    number = int(proposed.rpartition("/")[2])
    try:
        assert proposed.new
        assert proposed == f"{api.endpoint}/datasets/{place.repo}/discussions/{number}"
        assert resolve(place) == before
        again = publish(place, folder, message=title)
        assert (again, again.new) == (proposed, False)
        assert read(place._replace(revision=f"refs/pr/{number}"), small) == files[small]
    finally:
        api.change_discussion_status(place.repo, number, "closed", repo_type="dataset")
    pull = api.get_discussion_details(place.repo, number, repo_type="dataset")
    assert (pull.title, pull.status) == (title, "closed")

    committed = publish(place, folder, message=f"Add {run}", create_pr=False)
    try:
        commit = resolve(place)
        assert commit != before
        assert committed.new
        assert committed == f"{api.endpoint}/datasets/{place.repo}/commit/{commit}"
        assert not publish(place, folder, message=f"Add {run}", create_pr=False).new
        pinned = place._replace(revision=commit)
        snapshot = download(pinned, [f"{run}/"])
        assert {name: (snapshot / name).read_bytes() for name in files} == files
        with pytest.raises(UsageError, match=rf"^{pinned} has no file {run}/nothing; its files are listed at "):
            read(pinned, f"{run}/nothing")
        with pytest.raises(UsageError, match=f"^{place.repo} has no revision {'b' * 40}; its branches and tags are "):
            read(place._replace(revision="b" * 40), small)
    finally:
        (tmp_path / "empty").mkdir()
        publish(place, tmp_path / "empty", message=f"Remove {run}", create_pr=False, delete=[f"{run}/"])
    assert not [path for path in api.list_repo_files(place.repo, repo_type="dataset") if path.startswith(run)]

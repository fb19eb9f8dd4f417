from __future__ import annotations

import errno
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_standin import READER, WRITER, Hub
from zoo.errors import IntegrityError, MissingError, UsageError, ZooError
from zoo.hub import Place, download, fetch, local_path, org, proposal, publish, read, resolve
from zoo.specs import File

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves what a test puts into ``files`` and keeps the headers of every request.

    An answer is bytes, or (status, headers). ``cuts`` breaks the next connections after so many bytes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes | tuple[int, dict[str, str]]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.cuts: list[int] = []
        self.ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        found = self.server.files.get(self.path, (404, {}))
        if isinstance(found, tuple):
            self._answer(found[0], found[1])
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.server.ranges else 0
        if start and start >= len(found):
            self._answer(416, {})
            return
        self._answer(206 if start else 200, {"Content-Length": str(len(found) - start)})
        self.wfile.write(found[start:][: self.server.cuts.pop(0) if self.server.cuts else None])
        self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def serve() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield from serve()


def at(server: Server, **changes: Any) -> File:
    return File(**{"path": "sub/x.bin", "sha256": SHA, "url": f"{server.address}/x.bin", **changes})


def part_of(file: File, data: bytes) -> Path:
    part = local_path(file).with_name("x.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data)
    return part


def failure(file: File, error: type[Exception], **options: Any) -> str:
    with pytest.raises(error) as found:
        fetch(file, **options)
    return str(found.value)


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


# ---- what works


def test_a_file_is_downloaded_once_and_lies_under_its_hash(server: Server, cache: Path) -> None:
    server.files["/x.bin"] = DATA
    seen: list[tuple[int, int, str]] = []
    path = fetch(at(server), progress=lambda *step: seen.append(step))
    assert path == cache / "downloads" / SHA[:16] / "x.bin"
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA), "sub/x.bin")
    assert fetch(at(server)) == path
    assert len(server.requests) == 1
    assert kept(cache) == ["x.bin"]


def test_what_is_here_needs_no_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/x.bin"] = DATA
    path = fetch(at(server))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(at(server)) == fetch(at(server), bring="zoo x") == path
    assert len(server.requests) == 1


def test_the_rest_of_a_part_is_asked_for(server: Server, cache: Path) -> None:
    server.files["/x.bin"] = DATA
    part_of(at(server), DATA[:1000])
    seen: list[tuple[int, int, str]] = []
    assert fetch(at(server), progress=lambda *step: seen.append(step)).read_bytes() == DATA
    assert server.requests[0][1]["Range"] == "bytes=1000-"
    assert seen[-1][:2] == (len(DATA), len(DATA))
    assert kept(cache) == ["x.bin"]


def test_a_server_without_ranges_sends_it_all_again(server: Server) -> None:
    server.files["/x.bin"], server.ranges = DATA, False
    part_of(at(server), DATA[:1000])
    assert fetch(at(server)).read_bytes() == DATA


@pytest.mark.parametrize("part", [DATA, DATA + b"more"])
def test_a_part_as_long_as_the_file_is_begun_again(server: Server, part: bytes) -> None:
    server.files["/x.bin"] = DATA
    part_of(at(server), part)
    assert fetch(at(server)).read_bytes() == DATA
    assert [headers.get("Range") for _, headers in server.requests] == [f"bytes={len(part)}-", None]


def test_a_broken_connection_is_continued(server: Server, cache: Path) -> None:
    server.files["/x.bin"], server.cuts = DATA, [4000, 3000]
    assert fetch(at(server)).read_bytes() == DATA
    assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=4000-", "bytes=7000-"]
    assert kept(cache) == ["x.bin"]


def test_what_came_before_a_dead_connection_is_kept(server: Server, cache: Path) -> None:
    server.files["/x.bin"], server.cuts = DATA, [4000, 0]
    assert failure(at(server), MissingError) == (
        "sub/x.bin could not be fetched from 127.0.0.1 "
        f"(the connection broke after 4000 of {len(DATA)} bytes); run the same command again to continue."
    )
    assert kept(cache) == ["x.bin.part"]
    assert fetch(at(server)).read_bytes() == DATA
    assert server.requests[2][1]["Range"] == "bytes=4000-"


# ---- bytes that are not the pinned ones


def test_wrong_bytes_are_refused_and_not_kept(server: Server, cache: Path) -> None:
    server.files["/x.bin"] = b"something else"
    found = hashlib.sha256(b"something else").hexdigest()
    assert failure(at(server), IntegrityError) == (
        f"sub/x.bin from 127.0.0.1 must have sha256 {SHA[:16]}… but has {found[:16]}…; "
        "nothing was kept, report it to the maintainers."
    )
    assert kept(cache) == []


def test_a_part_of_another_file_is_found_out(server: Server, cache: Path) -> None:
    server.files["/x.bin"] = DATA
    part_of(at(server), b"x" * 1000)
    assert "nothing was kept" in failure(at(server), IntegrityError)
    assert kept(cache) == []
    assert fetch(at(server)).read_bytes() == DATA


def test_a_cached_file_that_changed_is_noticed(server: Server) -> None:
    server.files["/x.bin"] = DATA
    path = fetch(at(server))
    path.write_bytes(b"changed")
    found = hashlib.sha256(b"changed").hexdigest()
    assert failure(at(server), IntegrityError) == (
        f"{path} must have sha256 {SHA[:16]}… but has {found[:16]}…; delete it and fetch it again."
    )


# ---- no, and why


def test_a_missing_file_is_the_cards_mistake(server: Server) -> None:
    assert failure(at(server), IntegrityError) == (
        "127.0.0.1 has no file sub/x.bin; the card that names it is wrong, please report it."
    )


def test_a_server_that_answers_otherwise_is_quoted(server: Server) -> None:
    server.files["/x.bin"] = (503, {})
    assert failure(at(server), MissingError) == "127.0.0.1 answered 503 for sub/x.bin; try again later."


def test_other_places_never_see_the_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.files["/x.bin"] = DATA
    fetch(at(server))
    assert "Authorization" not in server.requests[0][1]


# ---- no network


@pytest.mark.parametrize("value", ["1", "on", "YES", "True"])
def test_offline_nothing_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    server.files["/x.bin"] = DATA
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    file = at(server)
    assert failure(file, MissingError) == (
        "sub/x.bin is not on this machine and the network is off (HF_HUB_OFFLINE or --offline); "
        f"run the same command with the network on, or copy the file to {local_path(file)}."
    )
    assert server.requests == []


def test_a_command_that_brings_it_is_named_instead_of_downloading(server: Server) -> None:
    server.files["/x.bin"] = DATA
    assert failure(at(server), MissingError, bring="zoo weights pull x") == (
        "sub/x.bin is not on this machine.\nto fetch it, run: zoo weights pull x"
    )
    assert server.requests == []


def test_an_unreachable_host_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        file = File(path="x.bin", sha256=SHA, url=f"http://127.0.0.1:{taken.getsockname()[1]}/x.bin")
        message = failure(file, MissingError)
    assert message == (
        "x.bin is not on this machine and 127.0.0.1 cannot be reached "
        f"([Errno {errno.ECONNREFUSED}] Connection refused); run the same command where there is a network, "
        f"or copy the file to {local_path(file)}."
    )


def test_behind_a_proxy_the_proxy_must_be_reachable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["http://example.invalid/x.bin"] = DATA
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib reads the proxies once per process
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, server.address.removeprefix("http://"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    assert fetch(at(server, url="http://example.invalid/x.bin")).read_bytes() == DATA


# ---- repos of the Hub: places


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("org/x", Place("org/x", "dataset", None), "org/x"),
        ("org/x@v1.0", Place("org/x", "dataset", "v1.0"), "org/x@v1.0"),
        ("hf-hub:org/x_y.z@refs/pr/7", Place("org/x_y.z", "dataset", "refs/pr/7"), "org/x_y.z@refs/pr/7"),
        ("hf-hub:org/x@" + "a" * 40, Place("org/x", "dataset", "a" * 40), "org/x@aaaaaaaa"),
    ],
)
def test_a_place_is_read_and_shown(text: str, place: Place, shown: str) -> None:
    assert Place.parse(text, "dataset") == place
    assert str(place) == shown


@pytest.mark.parametrize("text", ["x", "org/x@", "a/b/c", "../x", "org/..", "", "hf-hub:", "https://hf.co/org/x"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as found:
        Place.parse(text, "model")
    assert str(found.value) == (
        f"{text!r} names no repo on the Hub; write org/name, org/name@revision or hf-hub:org/name@revision."
    )


def test_the_organisation_can_be_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_ORG", raising=False)
    assert org() == "eeg-image-zoo"
    monkeypatch.setenv("ZOO_ORG", "my-lab")
    assert org() == "my-lab"


# ---- repos of the Hub: what comes

FILES = {"README.md": b"about", "data/a.parquet": DATA, "data/b.parquet": DATA[::-1], "splits/s.json": b"{}"}
DATASET = Place("org/x", "dataset")


@pytest.fixture
def pinned(hub: Hub) -> Place:
    """A dataset repo with four files, at its commit."""
    return DATASET._replace(revision=hub.commit("org/x", FILES, "dataset"))


def content(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: data for path, data in sorted(files.items()) if path != ".gitattributes"}


def test_branches_and_tags_mean_a_commit(hub: Hub, pinned: Place) -> None:
    hub.repo("org/x", "dataset").refs["refs/tags/v1"] = pinned.revision or ""
    newer = hub.commit("org/x", {"README.md": b"more"}, "dataset")
    assert resolve(DATASET) == resolve(DATASET._replace(revision="main")) == newer
    assert resolve(DATASET._replace(revision="v1")) == pinned.revision
    asked = len(hub.requests)
    assert resolve(pinned) == pinned.revision
    assert len(hub.requests) == asked


def test_offline_a_branch_means_what_it_meant_last(hub: Hub, pinned: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    known = resolve(DATASET)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(DATASET) == known
    with pytest.raises(MissingError) as found:
        resolve(DATASET._replace(revision="v1"))
    assert str(found.value) == (
        "the commit of org/x@v1 is not known on this machine and the network is off (HF_HUB_OFFLINE or --offline); "
        "run the same command with the network on."
    )


def test_a_snapshot_is_downloaded_once(hub: Hub, pinned: Place, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    folder = download(pinned, progress=lambda *step: seen.append(step))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert folder == cache / "hub/dataset/org/x" / str(pinned.revision)
    assert content(folder) == FILES
    assert seen[-1] == (size, size, str(pinned))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(pinned) == download(pinned, ["data/*"]) == folder
    assert read(pinned, "splits/s.json") == b"{}"
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["README.md"], ["README.md"]),
        (["data/*"], ["data/a.parquet", "data/b.parquet"]),
        (["data/", "*.md"], ["README.md", "data/a.parquet", "data/b.parquet"]),
        (["*/[a]*"], ["data/a.parquet"]),
    ],
)
def test_only_what_is_wanted_is_downloaded(hub: Hub, pinned: Place, paths: list[str], names: list[str]) -> None:
    assert content(download(pinned, paths)) == {name: FILES[name] for name in names}
    assert len(hub.asked("GET .*/resolve/")) == len(names)


def test_the_next_commit_costs_only_what_changed(hub: Hub, pinned: Place) -> None:
    download(pinned)
    newer = pinned._replace(revision=hub.commit("org/x", {"data/b.parquet": b"new"}, "dataset"))
    asked = len(hub.requests)
    assert content(download(newer)) == {**FILES, "data/b.parquet": b"new"}
    assert [request.path.rpartition("/")[2] for request in hub.requests[asked:] if "/resolve/" in request.path] == [
        "b.parquet"
    ]
    assert content(download(pinned)) == FILES


def test_a_file_of_a_card_comes_from_its_repo(hub: Hub) -> None:
    revision = hub.commit("org/m", {"w.safetensors": DATA})
    file = File(path="w.safetensors", sha256=SHA, repo="org/m", revision=revision)
    assert fetch(file).read_bytes() == DATA
    asked = len(hub.requests)
    assert fetch(file).read_bytes() == DATA
    assert read(Place("org/m", "model", revision), "w.safetensors") == DATA
    assert len(hub.requests) == asked + 1  # its size and hash; the bytes are here


def test_the_token_goes_to_the_hub_and_no_further(hub: Hub, pinned: Place) -> None:
    download(pinned, ["data/a.parquet"])
    assert hub.asked("/resolve/")[0].headers["Authorization"] == f"Bearer {WRITER}"
    assert "Authorization" not in hub.asked("/_storage/")[0].headers


def test_bytes_that_are_not_the_commits_are_refused(hub: Hub, pinned: Place, cache: Path) -> None:
    hub.objects[SHA] = DATA[::-1]
    readme = hub.repo("org/x", "dataset").commits[resolve(pinned)].tree["README.md"].oid
    hub.objects[readme] = b"other"
    found = hashlib.sha256(DATA[::-1]).hexdigest()
    with pytest.raises(IntegrityError) as wrong:
        download(pinned, ["data/a.parquet"])
    assert str(wrong.value) == (
        f"data/a.parquet from 127.0.0.1 must have sha256 {SHA[:16]}… but has {found[:16]}…; "
        "nothing was kept, report it to the maintainers."
    )
    with pytest.raises(IntegrityError, match=f"README.md from 127.0.0.1 must have git sha1 {readme[:16]}… but has "):
        download(pinned, ["README.md"])
    assert kept(cache) == []


def test_no_file_leads_out_of_a_repo(hub: Hub, pinned: Place, cache: Path) -> None:
    evil = Place("org/m", "model", hub.commit("org/m", {"../../evil": b"x"}))
    assert no(IntegrityError, lambda: download(evil)) == (
        f"'../../evil' must be a path inside {evil}, but leads out of it; nothing was fetched."
    )
    assert no(IntegrityError, lambda: read(pinned, str(Path(__file__)))) == (
        f"{str(Path(__file__))!r} must be a path inside {pinned}, but leads out of it; nothing was fetched."
    )
    assert kept(cache) == []


def test_the_same_bytes_under_two_paths_come_once(hub: Hub) -> None:
    place = Place("org/m", "model", hub.commit("org/m", {f"{i}/a.bin": DATA for i in range(6)}))
    assert content(download(place)) == {f"{i}/a.bin": DATA for i in range(6)}
    assert len(hub.asked("GET /_storage/")) == 1


def test_the_first_error_ends_the_other_downloads(hub: Hub, cache: Path) -> None:
    place = Place("org/m", "model", hub.commit("org/m", {"big.bin": DATA * 800, "small.txt": b"s"}))
    hub.pace = 0.01  # 125 blocks of the big one
    hub.fail("GET .*/small.txt", 503)
    assert no(MissingError, lambda: download(place)) == f"{place} answered 503 for small.txt; try again later."
    assert "big.bin" not in kept(cache)


# ---- repos of the Hub: what goes


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def test_a_folder_becomes_a_pull_request_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    folder = folder_of(tmp_path, FILES)
    url = publish(DATASET, folder, message="Add x", progress=lambda *step: seen.append(step))
    assert url == f"{hub.url}/datasets/org/x/discussions/1"
    assert url.new
    size = sum(map(len, FILES.values()))
    assert seen[-1] == (size, size, "org/x")
    assert hub.files("org/x", "dataset") == {}
    assert hub.files("org/x", "dataset", "refs/pr/1") == FILES
    assert len(hub.asked("POST .*/commit/")) == 1
    hub.merge("org/x", 1, "dataset")
    assert content(download(DATASET)) == FILES


def test_nothing_is_published_twice(hub: Hub, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FILES)
    first = publish(DATASET, folder, message="Add x")
    again = publish(DATASET, folder, message="Add x")
    assert (again, again.new) == (first, False)
    (folder / "README.md").write_bytes(b"better")
    assert publish(DATASET, folder, message="Add x") == f"{hub.url}/datasets/org/x/discussions/2"
    head = hub.merge("org/x", 2, "dataset")
    merged = publish(DATASET, folder, message="Add x")
    assert (merged, merged.new) == (f"{hub.url}/datasets/org/x/commit/{head}", False)
    assert len(hub.repo("org/x", "dataset").pulls) == 2


def test_a_commit_adds_replaces_and_removes_at_once(hub: Hub, pinned: Place, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"data/b.parquet": b"new", "c.txt": b"c"})
    gone = ["data/", "splits/s.json", "never-there.txt"]
    url = publish(DATASET, folder, message="Change x", create_pr=False, delete=gone)
    assert hub.files("org/x", "dataset") == {"README.md": b"about", "c.txt": b"c", "data/b.parquet": b"new"}
    assert url == f"{hub.url}/datasets/org/x/commit/{resolve(DATASET)}"
    assert not publish(DATASET, folder, message="Change x", create_pr=False, delete=gone).new


def test_a_new_repo_can_be_private(hub: Hub, tmp_path: Path) -> None:
    publish(Place("org/new"), folder_of(tmp_path, {"a.txt": b"a"}), message="Begin", create_pr=False, private=True)
    assert hub.repo("org/new").private
    assert hub.files("org/new") == {"a.txt": b"a"}


def test_what_others_commit_meanwhile_is_kept(
    hub: Hub, pinned: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.0)
    theirs = iter([{"their.txt": b"1"}, {"README.md": b"theirs"}])  # the second after our first try

    def meanwhile(*_: Any) -> None:  # what we publish is stored, not yet committed
        if files := next(theirs, None):
            hub.commit("org/x", files, "dataset")

    ours = folder_of(tmp_path, {"our.parquet": DATA[:99], "README.md": b"about"})
    publish(DATASET, ours, message="Add ours", create_pr=False, progress=meanwhile)
    assert [request.status for request in hub.asked("POST .*/commit/")] == [412, 412, 200]
    assert hub.files("org/x", "dataset") == {**FILES, "our.parquet": DATA[:99], "their.txt": b"1"}
    assert len(hub.asked("PUT ")) == 1


@pytest.mark.parametrize("status", [409, 412])
def test_after_five_more_tries_it_is_left(
    hub: Hub, pinned: Place, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.hub.BACKOFF_SECONDS", 0.0)
    hub.fail("POST .*/commit/", status, times=None)
    with pytest.raises(ZooError) as found:
        publish(DATASET, folder_of(tmp_path, {"a.txt": b"a"}), message="Add a", create_pr=False)
    assert str(found.value) == (
        "org/x was changed by others each of the 6 times this was tried; nothing was published, "
        "run the same command again."
    )
    assert found.value.exit_code == 1
    assert len(hub.asked("POST .*/commit/")) == 6


def test_nothing_to_publish_is_said(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as found:
        publish(DATASET, tmp_path, message="Add x")
    assert str(found.value) == f"{tmp_path} must hold the files to publish, but it holds none."
    with pytest.raises(UsageError) as found:
        publish(DATASET._replace(revision="v1"), folder_of(tmp_path, FILES), message="Add x")
    assert str(found.value) == "a pull request goes to the main branch, but org/x@v1 was given; name the repo alone."
    assert hub.requests == []


# ---- killed


def killed_when(ready: Callable[[], bool], call: str) -> None:
    """Run ``call`` in a process of its own and end it by SIGKILL as soon as ``ready``."""
    code = f"from pathlib import Path; from zoo.hub import *; {call}"
    with subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.PIPE) as process:
        while not ready():
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.01)
        process.kill()


def test_a_killed_download_is_continued(hub: Hub, cache: Path) -> None:
    big = DATA * 400
    place = Place("org/x", "dataset", hub.commit("org/x", {"big.parquet": big, "small.txt": b"s"}, "dataset"))
    hub.pace = 0.01

    def parts() -> list[Path]:
        return list(cache.rglob("big.parquet.part"))

    killed_when(lambda: any(part.stat().st_size > 1 << 20 for part in parts()), f"download({place!r})")
    (part,) = parts()
    have = part.stat().st_size
    assert big.startswith(part.read_bytes())
    assert 1 << 20 < have < len(big)
    hub.pace = 0.0
    assert (download(place) / "big.parquet").read_bytes() == big
    again = hub.asked("GET /_storage/")[-1]
    assert (again.headers["Range"], again.sent) == (f"bytes={have}-", len(big) - have)
    assert len(hub.asked("GET .*/small.txt")) == 1
    assert len(hub.asked("GET .*/tree/")) == 1


def test_a_killed_upload_is_continued(hub: Hub, tmp_path: Path) -> None:
    files = {f"{i:02d}.parquet": bytes([i]) * (1000 if i < 2 else 1 << 20) for i in range(12)}
    folder = folder_of(tmp_path, files)
    hub.pace = 0.03
    call = f"publish({DATASET!r}, Path({str(folder)!r}), message='Add x')"
    killed_when(lambda: len(hub.stored) >= 2, call)
    hub.pace = 0.0
    while not all(request.ended for request in hub.requests):  # what had left the killed process may still arrive
        time.sleep(0.01)
    assert 2 <= len(hub.stored) < len(files)
    assert hub.asked("POST .*/commit/") == []
    publish(DATASET, folder, message="Add x")
    assert sorted(hub.stored) == sorted(hashlib.sha256(data).hexdigest() for data in files.values())
    assert hub.files("org/x", "dataset", "refs/pr/1") == files


# ---- repos of the Hub: no, and why


def no(error: type[ZooError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as found:
        call()
    assert type(found.value) is error
    return str(found.value)


def test_a_gated_repo_names_its_page(hub: Hub, pinned: Place) -> None:
    hub.gate("org/x", "dataset")
    message = f"org/x is gated: accept its terms at {hub.url}/datasets/org/x, then run: hf auth login"
    assert no(MissingError, lambda: download(pinned)) == message
    hub.gate("org/x", "dataset", admitted={WRITER})
    assert content(download(pinned)) == FILES


@pytest.mark.parametrize("token", [READER, None])
def test_missing_and_private_repos_look_alike(
    hub: Hub, pinned: Place, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private("org/x", "dataset", readers={WRITER})
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    for name in ("org/x", "org/never"):
        place = pinned._replace(repo=name)
        message = f"{name} does not exist or is private for you; if it is yours, run: hf auth login"
        assert no(MissingError, lambda place=place: download(place)) == message  # type: ignore[misc]
        assert no(MissingError, lambda place=place: resolve(place._replace(revision=None))) == message  # type: ignore[misc]


def test_a_token_the_hub_does_not_know_is_named(hub: Hub, pinned: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_revoked")
    message = "the Hub does not know the token of this machine.\nto log in again, run: hf auth login"
    assert no(MissingError, lambda: download(pinned)) == message


@pytest.mark.parametrize("revision", ["v9", "b" * 40])
def test_a_revision_that_is_not_there_is_named(hub: Hub, pinned: Place, revision: str) -> None:
    assert no(UsageError, lambda: download(DATASET._replace(revision=revision))) == (
        f"org/x has no revision {revision}; its branches and tags are listed at {hub.url}/datasets/org/x."
    )


def test_a_pull_request_that_is_not_there_is_named(hub: Hub, pinned: Place) -> None:
    assert no(UsageError, lambda: proposal(DATASET, 9)) == (
        f"org/x has no pull request 9; they are listed at {hub.url}/datasets/org/x/discussions."
    )


@pytest.mark.parametrize("path", ["data/c.parquet", "nothing/*", "data/a.parquet/"])
def test_a_file_that_is_not_there_is_named(hub: Hub, pinned: Place, path: str) -> None:
    assert no(UsageError, lambda: download(pinned, [path, "README.md"])) == (
        f"{pinned} has no file {path}; its files are listed at {hub.url}/datasets/org/x/tree/{pinned.revision}."
    )


@pytest.mark.parametrize("missing", ["file", "commit", "repo"])
def test_a_card_that_pins_what_is_not_there_is_wrong(hub: Hub, missing: str) -> None:
    revision = hub.commit("org/m", {"w.safetensors": DATA})
    file = File(path="w.safetensors", sha256=SHA, repo="org/m", revision=revision)
    if missing == "file":
        assert no(IntegrityError, lambda: fetch(file.model_copy(update={"path": "v.bin"}))) == (
            f"org/m@{revision[:8]} has no file v.bin; the card that names it is wrong, please report it."
        )
    elif missing == "commit":
        assert no(IntegrityError, lambda: fetch(file.model_copy(update={"revision": "b" * 40}))) == (
            f"org/m has no revision {'b' * 40}; the card that names it is wrong, please report it."
        )
    else:
        assert no(MissingError, lambda: fetch(file.model_copy(update={"repo": "org/never"}))) == (
            "org/never does not exist or is private for you; if it is yours, run: hf auth login"
        )


def test_publishing_needs_a_token_that_may(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create("org/x", "dataset")
    folder = folder_of(tmp_path, FILES)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert no(MissingError, lambda: publish(DATASET, folder, message="Add x", create_pr=False)) == (
        "the token of this machine may not do this with org/x; take one that may, then run: hf auth login"
    )
    assert publish(DATASET, folder, message="Add x").new  # everybody may propose
    monkeypatch.delenv("HF_TOKEN")
    assert no(MissingError, lambda: publish(DATASET, folder, message="Add x")) == (
        "publishing to org/x needs a token of the Hub.\nto log in, run: hf auth login"
    )


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"RateLimit": '"api";r=0;t=55'}, 55), ({"Retry-After": "7"}, 7), ({}, 300)]
)
def test_the_hub_says_how_long_to_wait(hub: Hub, pinned: Place, headers: dict[str, str], seconds: int) -> None:
    message = f"the Hub has been asked too often from here; try again in {seconds} seconds."
    hub.fail("GET .*/revision/v1", 429, headers=headers)
    assert no(MissingError, lambda: resolve(DATASET._replace(revision="v1"))) == message
    hub.fail("GET .*/resolve/", 429, headers=headers)
    assert no(MissingError, lambda: read(pinned, "README.md")) == message


def test_a_busy_hub_is_quoted(hub: Hub, pinned: Place) -> None:
    hub.fail("POST .*/paths-info/", 503)
    assert no(MissingError, lambda: read(pinned, "README.md")) == f"{pinned} answered 503; try again later."
    hub.fail("GET .*/resolve/.*/README.md", 503)
    message = f"{pinned} answered 503 for README.md; try again later."
    assert no(MissingError, lambda: download(pinned, ["README.md"])) == message


def test_content_that_the_hub_refuses_is_no_success(hub: Hub, tmp_path: Path) -> None:
    hub.fail("POST .*/commit/", 400)
    assert no(UsageError, lambda: publish(DATASET, folder_of(tmp_path, FILES), message="Add x")) == (
        "the Hub refuses this for org/x: the test wants it so; nothing was changed."
    )
    assert hub.files("org/x", "dataset") == {}


def test_a_large_file_that_cannot_be_stored_is_no_success(hub: Hub, tmp_path: Path) -> None:
    hub.fail("PUT /_storage/", 403)
    assert no(MissingError, lambda: publish(DATASET, folder_of(tmp_path, {"a.parquet": DATA}), message="Add x")) == (
        "the token of this machine may not do this with org/x; take one that may, then run: hf auth login"
    )
    assert hub.asked("POST .*/commit/") == []


def test_offline_repos_are_not_asked(hub: Hub, pinned: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    off = "and the network is off (HF_HUB_OFFLINE or --offline); run the same command with the network on."
    assert no(MissingError, lambda: download(pinned)) == f"{pinned} is not on this machine {off}"
    folder = folder_of(tmp_path, FILES)
    assert (
        no(MissingError, lambda: publish(DATASET, folder, message="Add x")) == f"nothing was published to org/x {off}"
    )
    assert hub.requests == []


def test_offline_half_a_snapshot_is_not_a_snapshot(hub: Hub, pinned: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (download(pinned) / "splits/s.json").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert no(MissingError, lambda: download(pinned)) == (
        f"splits/s.json of {pinned} is not on this machine and the network is off (HF_HUB_OFFLINE or --offline); "
        "run the same command with the network on."
    )


def test_an_unreachable_hub_is_said_at_once(
    hub: Hub, pinned: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    folder = folder_of(tmp_path, FILES)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        why = (
            f"and 127.0.0.1 cannot be reached ([Errno {errno.ECONNREFUSED}] Connection refused); "
            "run the same command where there is a network."
        )
        began = time.monotonic()
        assert no(MissingError, lambda: resolve(DATASET)) == f"the commit of org/x is not known on this machine {why}"
        assert no(MissingError, lambda: download(pinned)) == f"{pinned} is not on this machine {why}"
        published = no(MissingError, lambda: publish(DATASET, folder, message="Add x"))
        assert published == f"nothing was published to org/x {why}"
    assert time.monotonic() - began < 10  # huggingface_hub alone tries for 24 s, each time


@pytest.mark.parametrize("endpoint", ["", "huggingface.co"])
def test_an_endpoint_that_is_no_address_is_said(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    said = f"HF_ENDPOINT must be the address of a Hub such as https://huggingface.co, but is {endpoint!r}; unset it."
    assert no(UsageError, lambda: resolve(DATASET)) == said


# ---- Xet, which the real Hub prefers


def test_files_in_xet_storage_come_and_go(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through hf_xet itself, whose content store may be a folder (undocumented: ``local://``)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    big = DATA * 20
    publish(DATASET, folder_of(tmp_path, {"big.parquet": big, "a.txt": b"a"}), message="Add x", create_pr=False)
    assert hub.asked("xet-write-token")
    assert hub.stored == []
    assert hub.files("org/x", "dataset") == {"a.txt": b"a", "big.parquet": big}
    assert hub.repo("org/x", "dataset").commits[resolve(DATASET)].tree["big.parquet"].xet
    assert read(DATASET, "big.parquet") == big

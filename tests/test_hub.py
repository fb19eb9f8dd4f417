from __future__ import annotations

import errno
import hashlib
import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zoo import hub
from zoo.errors import IntegrityError, MissingError
from zoo.hub import fetch, local_path
from zoo.specs import File

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()
REVISION = "a" * 40


class Server(http.server.ThreadingHTTPServer):
    """Serves what a test puts into ``files`` and keeps the headers of every request.

    An answer is bytes, or (status, headers). ``cut`` breaks the next connection after so many bytes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes | tuple[int, dict[str, str]]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.cut: int | None = None
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
        self.wfile.write(found[start:][: self.server.cut])
        self.server.cut = None
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


@pytest.fixture
def storage() -> Iterator[Server]:
    """A second place, which the first one points to."""
    yield from serve()


@pytest.fixture
def on_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> File:
    """A file of a Hub repo, with the server in the place of the Hub and a token of the user."""
    monkeypatch.setattr(hub, "_hub_url", lambda file: f"{server.address}/{file.path}")
    monkeypatch.setattr(hub, "_token", lambda: "secret")
    return File(path="x.bin", sha256=SHA, repo="org/x", revision=REVISION)


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


def test_a_broken_connection_is_continued_by_the_next_call(server: Server, cache: Path) -> None:
    server.files["/x.bin"], server.cut = DATA, 4000
    assert failure(at(server), MissingError) == (
        "sub/x.bin could not be fetched from 127.0.0.1 "
        f"(the connection broke after 4000 of {len(DATA)} bytes; run it again to continue)."
    )
    assert kept(cache) == ["x.bin.part"]
    assert fetch(at(server)).read_bytes() == DATA
    assert server.requests[1][1]["Range"] == "bytes=4000-"


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


def test_a_missing_file_is_the_cards_mistake(server: Server, on_hub: File) -> None:
    assert failure(at(server), IntegrityError) == (
        "127.0.0.1 has no file sub/x.bin; the card that names it is wrong, please report it."
    )
    assert failure(on_hub, IntegrityError) == (
        "org/x@aaaaaaaa has no file x.bin; the card that names it is wrong, please report it."
    )


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "org/x@aaaaaaaa is gated: accept its terms on its page, then run: hf auth login"),
        (401, None, "org/x@aaaaaaaa does not exist or is private for you; if it is yours, run: hf auth login"),
        (
            404,
            "RepoNotFound",
            "org/x@aaaaaaaa does not exist or is private for you; if it is yours, run: hf auth login",
        ),
        (503, None, "org/x@aaaaaaaa answered 503 for x.bin; try again later."),
    ],
)
def test_each_no_of_the_hub_has_its_sentence(
    server: Server, on_hub: File, status: int, code: str | None, message: str
) -> None:
    server.files["/x.bin"] = (status, {"X-Error-Code": code} if code else {})
    assert failure(on_hub, MissingError) == message


def test_the_token_goes_to_the_hub_and_no_further(server: Server, storage: Server, on_hub: File) -> None:
    server.files["/x.bin"] = (302, {"Location": f"{storage.address}/blob"})
    storage.files["/blob"] = DATA
    assert fetch(on_hub).read_bytes() == DATA
    assert server.requests[0][1]["Authorization"] == "Bearer secret"
    assert "Authorization" not in storage.requests[0][1]


def test_other_places_never_see_the_token(server: Server, on_hub: File) -> None:
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

"""A stand-in for the Hugging Face Hub on the loopback: what huggingface_hub 2.4 asks for, kept in memory.

Repos, commits, pull requests, git and LFS files, gates, tokens and Xet are real enough for the real client. It cannot
show rate limits and quotas, checks of a README, or which files the Hub itself takes for large ones.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["model", "dataset", "space"]
LARGE = ("*.safetensors", "*.parquet", "*.bin", "*.npy", "*.npz", "*.pt", "*.pth", "*.zip", "*.png", "*.jpg")
LARGE_BYTES = 10 << 20
BLOCK = 1 << 16
DATE = "2026-01-01T00:00:00.000Z"
WRITER, READER = "hf_writer", "hf_reader"
"""Two tokens the stand-in knows; every other one is refused as invalid."""
USERS = {WRITER: "tester", READER: "stranger"}
PREFIX: dict[Kind, str] = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass
class Request:
    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    status: int = 0
    received: int = 0
    """Bytes of its body."""
    sent: int = 0
    """Bytes of the answer's body so far."""
    ended: bool = False


class Entry(NamedTuple):
    """One file of a tree."""

    oid: str
    """git sha1 of the content, or of the pointer to it."""
    size: int
    sha256: str | None = None
    """Set where the content is a large (LFS) file."""
    xet: str | None = None


class Commit(NamedTuple):
    parent: str | None
    tree: dict[str, Entry]
    title: str


@dataclass
class Pull:
    title: str
    description: str
    status: str = "open"
    author: str = "tester"
    comments: list[str] = field(default_factory=list)


@dataclass
class Repo:
    kind: Kind
    name: str
    private: bool = False
    readers: set[str] = field(default_factory=lambda: {WRITER})
    """Tokens that see it while it is private."""
    gated: bool = False
    admitted: set[str] = field(default_factory=set)
    """Tokens whose users accepted the terms of a gated repo."""
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {**headers, "X-Error-Message": message, **({"X-Error-Code": code} if code else {})}


class Hub(ThreadingHTTPServer):
    """The server, and what tests may do to it.

    Attributes:
        url: What goes into ``HF_ENDPOINT``.
        requests: All of them, in the order they came.
        stored: sha256 of each large file that was sent, in order.
        pace: Seconds to wait after each 64 KiB of a large file, up or down.
        cut: Break the next download of a large file after so many bytes.
        trouble: Asked about every request by "METHOD /path?query": a status to refuse it with; ``lose`` to do what was
            asked and hang up without an answer, ``hang`` to be silent for ``silence`` seconds first; or None.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[Request] = []
        self.stored: list[str] = []
        self.pace = 0.0
        self.cut: int | None = None
        self.trouble: Callable[[str], int | Literal["lose", "hang"] | None] = lambda line: None
        self.silence = 3.0
        self.lock = threading.RLock()
        self.repos: dict[tuple[Kind, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.xet = folder / "xet"
        self._failures: list[tuple[str, int, dict[str, str], int | None]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients of these tests are killed."""

    # ---- for tests

    def repo(self, name: str, kind: Kind = "model") -> Repo:
        return self.repos[kind, name]

    def create(self, name: str, kind: Kind = "model", *, private: bool = False) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, private)
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE)
        self.record(repo, "main", {".gitattributes": self.keep(attributes.encode())}, "initial commit", None)
        return repo

    def commit(self, name: str, files: Mapping[str, bytes], kind: Kind = "model", *, title: str = "a commit") -> str:
        """Put files on main (of a new repo) without a client; returns the commit's 40-hex id."""
        with self.lock:
            repo = self.repos.get((kind, name)) or self.create(name, kind)
            head = repo.refs["main"]
            new = {path: self.keep(data, large=is_large(path, len(data))) for path, data in files.items()}
            return self.record(repo, "main", {**repo.commits[head].tree, **new}, title, head)

    def files(self, name: str, kind: Kind = "model", revision: str = "main") -> dict[str, bytes]:
        """What a revision holds, without ``.gitattributes``."""
        repo = self.repo(name, kind)
        tree = repo.commits[self.resolve(repo, revision)].tree
        return {p: self.objects[e.sha256 or e.oid] for p, e in sorted(tree.items()) if p != ".gitattributes"}

    def gate(self, name: str, kind: Kind = "model", *, admitted: set[str] | None = None) -> None:
        """Ask for terms to be accepted first; ``admitted`` tokens have done so."""
        self.repo(name, kind).gated, self.repo(name, kind).admitted = True, admitted or set()

    def private(self, name: str, kind: Kind = "model", *, readers: set[str] | None = None) -> None:
        """Hide it from all but ``readers`` (nobody, if not given)."""
        self.repo(name, kind).private, self.repo(name, kind).readers = True, readers or set()

    def fail(
        self, pattern: str, status: int, *, times: int | None = 1, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer the next ``times`` requests (None: all) whose "METHOD /path?query" matches with this status."""
        self._failures.append((pattern, status, dict(headers or {}), times))

    def merge(self, name: str, number: int, kind: Kind = "model") -> str:
        """Merge a pull request as the Hub does: file by file against where it began; returns the new commit."""
        with self.lock:
            repo = self.repo(name, kind)
            base, head = repo.refs["main"], repo.refs[f"refs/pr/{number}"]
            history = set(self.history(repo, base))
            fork = next(commit for commit in self.history(repo, head) if commit in history)
            was, now, new = (repo.commits[commit].tree for commit in (fork, base, head))
            merged = dict(now)
            for path in {path for path in {*was, *new} if was.get(path) != new.get(path)}:
                if was.get(path) != now.get(path) != new.get(path):
                    raise Refusal(409, f"merge conflict: {path}")
                merged.pop(path, None)
                if path in new:
                    merged[path] = new[path]
            repo.pulls[number - 1].status = "merged"
            return self.record(repo, "main", merged, f"{repo.pulls[number - 1].title} (#{number})", base)

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose "METHOD /path?query" matches."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]

    # ---- the repository

    def keep(self, data: bytes, *, large: bool = False) -> Entry:
        if not large:
            oid = git_sha1(data)
            self.objects[oid] = data
            return Entry(oid, len(data))
        sha256 = hashlib.sha256(data).hexdigest()
        self.objects[sha256] = data
        return self.pointer(sha256)

    def pointer(self, sha256: str) -> Entry:
        size = len(self.objects[sha256])
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return Entry(git_sha1(text.encode()), size, sha256)

    def record(self, repo: Repo, ref: str, tree: dict[str, Entry], title: str, parent: str | None) -> str:
        said = json.dumps([repo.kind, repo.name, title, parent, sorted(tree.items()), len(repo.commits)])
        sha = hashlib.sha1(said.encode()).hexdigest()
        repo.commits[sha] = Commit(parent, tree, title)
        repo.refs[ref] = sha
        return sha

    def history(self, repo: Repo, commit: str | None) -> list[str]:
        found = []
        while commit:
            found.append(commit)
            commit = repo.commits[commit].parent
        return found

    def resolve(self, repo: Repo, revision: str | None) -> str:
        revision = revision or "main"
        for ref in (revision, f"refs/tags/{revision}"):
            if ref in repo.refs:
                return repo.refs[ref]
        if revision in repo.commits:
            return revision
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def open_pull(self, repo: Repo, head: str, title: str, description: str, author: str, status: str = "open") -> int:
        repo.pulls.append(Pull(title, description, status, author))
        repo.refs[f"refs/pr/{len(repo.pulls)}"] = head
        return len(repo.pulls)

    def failure(self, line: str) -> tuple[int, dict[str, str]] | None:
        with self.lock:
            for at, (pattern, status, headers, times) in enumerate(self._failures):
                if re.search(pattern, line):
                    left = None if times is None else times - 1
                    self._failures[at] = (pattern, status, headers, left)
                    if left == 0:
                        del self._failures[at]
                    return status, headers
        return None

    def take_from_xet(self, sha256: str) -> str | None:
        """Keep the bytes of a file that hf_xet stored under ``local://``, and return its Xet hash."""
        for shard in self.xet.glob("**/shards/*.mdb"):
            for xet, size, digest in files_of_shard(shard.read_bytes()):
                if digest == sha256:
                    if sha256 not in self.objects:
                        self.objects[sha256] = read_xet(self.xet, xet, size)
                    return xet
        return None


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, size: int) -> bool:
    return size > LARGE_BYTES or any(fnmatch.fnmatch(path.rpartition("/")[2], pattern) for pattern in LARGE)


def files_of_shard(shard: bytes) -> list[tuple[str, int, str | None]]:
    """(Xet hash, size, sha256) of each file in a metadata shard: records of 48 bytes after a header of as many."""
    found, at = [], 48

    def digest(raw: bytes) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))

    while (name := shard[at : at + 32]) != b"\xff" * 32:
        flags, n = struct.unpack_from("<II", shard, at + 32)
        at += 48
        size = sum(struct.unpack_from("<I", shard, at + 48 * i + 36)[0] for i in range(n))
        at += 48 * n * (2 if flags >> 31 else 1)
        sha256 = None
        if flags >> 30 & 1:
            sha256 = digest(shard[at : at + 32])
            at += 48
        found.append((digest(name), size, sha256))
    return found


def read_xet(store: Path, xet: str, size: int) -> bytes:
    from hf_xet import XetFileInfo, XetSession

    target = store / f"{xet}.whole"
    with XetSession().new_file_download_group(
        endpoint=f"local://{store}",
        token="xet",
        token_expiry_unix_secs=int(time.time()) + 3600,
        token_refresh_url="http://127.0.0.1:9/",
        token_refresh_headers={},
        custom_headers={},
        progress_callback=None,
    ) as group:
        group.start_download_file(XetFileInfo(xet, size), str(target))
    return target.read_bytes()


NAME = r"(?P<name>[\w.\-]+/[\w.\-]+)"
API = rf"/api/(?P<kind>model|dataset|space)s/{NAME}"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def remember(answer: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((method, re.compile(pattern), answer))
        return answer

    return remember


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def answer(self) -> None:
        address = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        self.noted = Request(self.command, self.path, dict(self.headers))
        if address.path != "/api/agent-harnesses":  # asked by the client on its own account, in some environments
            self.server.requests.append(self.noted)
        self.lost: int | str | None = None
        try:
            self.body = self.receive()
            self.find(address.path)
        except Refusal as no:
            self.json({"error": no.message}, no.status, no.headers)
        finally:
            self.noted.ended = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def find(self, path: str) -> None:
        if failure := self.server.failure(f"{self.command} {self.path}"):
            raise Refusal(failure[0], "the test wants it so", headers=failure[1])
        wanted = self.server.trouble(f"{self.command} {self.path}")
        if isinstance(wanted, int):
            raise Refusal(wanted, "the test wants it so")
        self.lost = wanted
        if self.token not in (None, WRITER, READER):
            raise Refusal(401, "Invalid credentials in Authorization header")
        for method, pattern, answer in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (found := pattern.fullmatch(path)):
                answer(self, **{key: unquote(value or "") for key, value in found.groupdict().items()})
                return
        raise Refusal(404, f"the stand-in does not know {self.command} {self.path}")

    # ---- plumbing

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    @property
    def user(self) -> str:
        return USERS.get(self.token or "", "tester")

    def receive(self) -> bytes:
        parts = []
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            parts.append(self.rfile.read(min(left, BLOCK)))
            left -= len(parts[-1])
            if not parts[-1]:
                raise ConnectionError("the client is gone")
            if self.command == "PUT":
                time.sleep(self.server.pace)
        self.noted.received = sum(map(len, parts))
        return b"".join(parts)

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}, *, large: bool = False) -> None:
        self.noted.status = status
        if self.lost:
            time.sleep(self.server.silence if self.lost == "hang" else 0)
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = None
        if large:
            cut, self.server.cut = self.server.cut, None
            self.close_connection = cut is not None
        body = body[:cut]
        for start in range(0, len(body), BLOCK):
            block = body[start : start + BLOCK]
            self.noted.sent += len(block)
            self.wfile.write(block)
            if large:
                time.sleep(self.server.pace)

    def json(self, value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **headers})

    def repo(self, kind: str, name: str) -> Repo:
        repo = self.server.repos.get((cast(Kind, kind or "model"), name))
        if repo is None or (repo.private and (self.token is None or self.token not in repo.readers)):
            raise Refusal(404 if self.token else 401, "Repository not found", "RepoNotFound")
        return repo

    def may_write(self, *, proposes: bool = False) -> None:
        """Everybody with a token may open a pull request."""
        if not self.token:
            raise Refusal(401, "Invalid username or password.")
        if self.token != WRITER and not proposes:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")

    def page(self, repo: Repo) -> str:
        return f"{self.server.url}/{PREFIX[repo.kind]}{repo.name}"

    # ---- repos

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        self.may_write(proposes=True)
        self.json({"type": "user", "name": "tester", "orgs": [], "auth": {"type": "access_token"}})

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        asked = json.loads(self.body)
        kind: Kind = asked.get("type") or "model"
        name = f"{asked['organization']}/{asked['name']}"
        self.may_write()
        with self.server.lock:
            exists = (kind, name) in self.server.repos
            if not exists:
                self.server.create(name, kind, private=asked.get("visibility") == "private")
        url = {"url": f"{self.server.url}/{PREFIX[kind]}{name}"}
        self.json({"error": "You already created this repo", **url} if exists else url, 409 if exists else 200)

    @route("POST", "/api/validate-yaml")
    def validate(self) -> None:
        self.json({"errors": [], "warnings": []})

    @route("GET", API + r"(?:/revision/(?P<revision>[^/]+))?")
    def info(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        sha = self.server.resolve(repo, revision)
        self.json(
            {
                "id": name,
                "sha": sha,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": False,
                "tags": [],
                "lastModified": DATE,
                "createdAt": DATE,
                "siblings": [{"rfilename": path} for path in sorted(repo.commits[sha].tree)],
            }
        )

    @route("GET", API + "/refs")
    def refs(self, kind: str, name: str) -> None:
        found: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for ref, sha in self.repo(kind, name).refs.items():
            where = "pullRequests" if ref.startswith("refs/pr/") else "tags" if ref.startswith("refs/") else "branches"
            full = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
            found[where].append({"name": ref.removeprefix("refs/tags/"), "ref": full, "targetCommit": sha})
        self.json(found)

    @route("GET", API + "/commits/(?P<revision>[^/]+)")
    def commits(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        made = {"message": "", "date": DATE, "authors": [{"user": "tester"}]}
        history = self.server.history(repo, self.server.resolve(repo, revision))
        self.json([{"id": sha, "title": repo.commits[sha].title, **made} for sha in history])

    @route("POST", API + "/branch/(?P<branch>[^/]+)")
    def branch(self, kind: str, name: str, branch: str) -> None:
        self.may_write()
        repo = self.repo(kind, name)
        repo.refs[branch] = self.server.resolve(repo, json.loads(self.body or b"{}").get("startingPoint"))
        self.json({})

    @route("POST", API + "/tag/(?P<revision>[^/]+)")
    def tag(self, kind: str, name: str, revision: str) -> None:
        self.may_write()
        repo = self.repo(kind, name)
        repo.refs[f"refs/tags/{json.loads(self.body)['tag']}"] = self.server.resolve(repo, revision)
        self.json({})

    # ---- what is in it

    @route("GET", API + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
    def tree(self, kind: str, name: str, revision: str, folder: str) -> None:
        repo = self.repo(kind, name)
        sha = self.server.resolve(repo, revision)
        tree, inside = repo.commits[sha].tree, f"{folder.strip('/')}/".lstrip("/")
        deep = self.query.get("recursive", "").lower() in ("1", "true")
        rows: dict[str, dict[str, Any]] = {}
        for path in sorted(path for path in tree if path.startswith(inside)):
            parts = path.removeprefix(inside).split("/")
            for depth in range(1, len(parts) if deep else min(len(parts), 2)):
                rows.setdefault(inside + "/".join(parts[:depth]), a_folder(inside + "/".join(parts[:depth])))
            if deep or len(parts) == 1:
                rows[path] = a_file(path, tree[path])
        if folder and not rows:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound", {"X-Repo-Commit": sha})
        self.json(list(rows.values()), headers={"X-Repo-Commit": sha})

    @route("POST", API + "/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        tree = repo.commits[self.server.resolve(repo, revision)].tree
        asked = [path.strip("/") for path in parse_qs(self.body.decode())["paths"]]
        rows = [a_file(path, tree[path]) for path in asked if path in tree]
        self.json(rows + [a_folder(path) for path in asked if any(held.startswith(f"{path}/") for held in tree)])

    @route("GET", f"/(?:(?P<kind>dataset|space)s/)?{NAME}/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)")
    def download(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.repo(kind, name)
        if repo.gated and self.token not in repo.admitted:
            message = f"Access to {repo.kind} {name} is restricted."
            raise Refusal(403 if self.token else 401, message, "GatedRepo")
        sha = self.server.resolve(repo, revision)
        headers = {"X-Repo-Commit": sha}
        entry = repo.commits[sha].tree.get(path)
        if entry is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"] = f'"{entry.oid}"'
        if entry.sha256 is None:
            self.content(self.server.objects[entry.oid], headers)
            return
        if entry.xet:
            renew = f"{self.server.url}/api/{repo.kind}s/{name}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": entry.xet, "Link": f'<{renew}>; rel="xet-auth"'}
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        # another origin, as on the Hub: the client takes the headers above only from an answer that leaves the Hub
        elsewhere = f"http://localhost:{self.server.server_address[1]}/_storage/{entry.sha256}"
        self.send(302, headers={**headers, "Location": elsewhere})

    @route("GET", "/_storage/(?P<sha256>[0-9a-f]{64})")
    def storage(self, sha256: str) -> None:
        self.content(self.server.objects[sha256], {"ETag": f'"{sha256}"'}, large=True)

    def content(self, data: bytes, headers: dict[str, str], *, large: bool = False) -> None:
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self.send(200, data, headers, large=large)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self.send(416, headers={"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.send(206, data[first : last + 1], headers, large=large)

    # ---- uploads

    @route("POST", API + "/preupload/(?P<revision>[^/]+)")
    def preupload(self, kind: str, name: str, revision: str) -> None:
        self.may_write(proposes="create_pr" in self.query)
        repo = self.repo(kind, name)
        tree = repo.commits[self.server.resolve(repo, revision)].tree
        rows = []
        for asked in json.loads(self.body)["files"]:
            mode = "lfs" if is_large(asked["path"], asked["size"]) else "regular"
            held = tree.get(asked["path"])
            oid = {"oid": held.sha256 or held.oid} if held else {}
            rows.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        self.json({"files": rows})

    @route("POST", rf"/(?:(?P<kind>dataset|space)s/)?{NAME}\.git/info/lfs/objects/batch")
    def batch(self, kind: str, name: str) -> None:
        self.may_write(proposes=True)
        self.repo(kind, name)
        rows = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/_storage/{asked['oid']}", "header": {}}
            verify = {"href": f"{self.server.url}/_storage/verify", "header": {}}
            stored = asked["oid"] in self.server.objects
            rows.append({**asked, **({} if stored else {"actions": {"upload": upload, "verify": verify}})})
        self.json({"transfer": "basic", "objects": rows, "hash_algo": "sha256"})

    @route("PUT", "/_storage/(?P<sha256>[0-9a-f]{64})")
    def put(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise Refusal(400, "sha256 mismatch")
        self.server.objects[sha256] = self.body
        self.server.stored.append(sha256)
        self.send(200)

    @route("POST", "/_storage/verify")
    def verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.server.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(400, "LFS object missing")
        self.json({})

    @route("POST", API + "/commit/(?P<revision>[^/]+)")
    def commit(self, kind: str, name: str, revision: str) -> None:
        proposes = self.query.get("create_pr") == "1"
        self.may_write(proposes=proposes)
        header, *lines = (json.loads(line) for line in self.body.splitlines() if line.strip())
        said, hub = header["value"], self.server
        with hub.lock:
            repo = self.repo(kind, name)
            head, parent = hub.resolve(repo, revision), said.get("parentCommit")
            if proposes:
                head = hub.resolve(repo, parent or revision)
            elif revision not in repo.refs:
                raise Refusal(404, f"Invalid branch: {revision}", "RevisionNotFound")
            elif parent not in (None, head):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(repo.commits[head].tree)
            for line in lines:
                self.apply(line["key"], line["value"], tree)
            number, ref = 0, revision
            if proposes:
                number = hub.open_pull(repo, head, said["summary"], said.get("description", ""), self.user)
                ref = f"refs/pr/{number}"
            sha = hub.record(repo, ref, tree, said["summary"], head)
        pull = {"pullRequestUrl": f"{self.page(repo)}/discussions/{number}"} if proposes else {}
        self.json({"success": True, "commitOid": sha, "commitUrl": f"{self.page(repo)}/commit/{sha}", **pull})

    def apply(self, key: str, value: dict[str, Any], tree: dict[str, Entry]) -> None:
        """One line of a commit."""
        hub, path = self.server, value["path"]
        if key == "file":
            tree[path] = hub.keep(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            xet = hub.take_from_xet(value["oid"])
            if value["oid"] not in hub.objects:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
            tree[path] = hub.pointer(value["oid"])._replace(xet=xet)
        elif key == "deletedFile":
            if tree.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for held in [held for held in tree if held.startswith(path.rstrip("/") + "/")]:
                del tree[held]
        else:
            raise Refusal(400, f"unknown key {key}")

    # ---- pull requests

    def pull(self, repo: Repo, number: int) -> dict[str, Any]:
        pull = repo.pulls[number - 1]
        return {
            "num": number,
            "title": pull.title,
            "status": pull.status,
            "isPullRequest": True,
            "createdAt": DATE,
            "author": {"name": pull.author},
            "repo": {"name": repo.name, "type": repo.kind},
        }

    @route("GET", API + "/discussions")
    def pulls(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        rows = [self.pull(repo, number) for number in range(len(repo.pulls), 0, -1)]
        if self.query.get("status") in ("open", "closed"):
            is_open = self.query["status"] == "open"
            rows = [row for row in rows if (row["status"] in ("open", "draft")) == is_open]
        self.json({"discussions": rows, "count": len(rows), "start": 0})

    @route("POST", API + "/discussions")
    def new_pull(self, kind: str, name: str) -> None:
        self.may_write(proposes=True)
        repo, asked = self.repo(kind, name), json.loads(self.body)
        with self.server.lock:
            number = self.server.open_pull(
                repo, repo.refs["main"], asked["title"], asked.get("description", ""), self.user, "draft"
            )
        self.json({"num": number, "url": f"{self.page(repo)}/discussions/{number}", "pullRequest": True})

    @route("GET", API + r"/discussions/(?P<number>\d+)")
    def details(self, kind: str, name: str, number: str) -> None:
        repo = self.repo(kind, name)
        if not 1 <= int(number) <= len(repo.pulls):
            raise Refusal(404, "discussion not found")
        more = {"events": [], "changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "diff": ""}
        self.json({**self.pull(repo, int(number)), **more})

    @route("POST", API + r"/discussions/(?P<number>\d+)/(?P<what>merge|status|comment)")
    def change_pull(self, kind: str, name: str, number: str, what: str) -> None:
        self.may_write()
        repo = self.repo(kind, name)
        pull = repo.pulls[int(number) - 1]
        asked = json.loads(self.body or b"{}")
        pull.comments += [asked["comment"]] if asked.get("comment") else []
        if what == "merge":
            self.server.merge(repo.name, int(number), repo.kind)
        elif what == "status":
            pull.status = asked["status"]
        event = {"id": "e", "type": "status-change", "createdAt": DATE, "author": {"name": "tester"}}
        if what == "comment":
            said = {"raw": asked["comment"], "html": "", "updatedAt": DATE, "author": event["author"]}
            event |= {"type": "comment", "data": {"edited": False, "hidden": False, "latest": said}}
            self.json({"newMessage": event})
        else:
            self.json({"newStatus": {**event, "data": {"status": pull.status}}})

    # ---- Xet: hf_xet takes a folder for its content store

    @route("GET", API + "/xet-(?:read|write)-token(?:/(?P<revision>[^/]+))?")
    def xet_token(self, kind: str, name: str, revision: str) -> None:
        self.repo(kind, name)
        self.server.xet.mkdir(exist_ok=True)
        url, ends = f"local://{self.server.xet}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(ends)}
        self.json({"casUrl": url, "exp": ends, "accessToken": "xet"}, headers=headers)


def a_folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def a_file(path: str, entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}
    if entry.xet:
        row["xetHash"] = entry.xet
    return row

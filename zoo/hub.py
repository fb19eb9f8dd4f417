"""The only code that talks to a network: pinned, verified transfers and one map of what can go wrong.

Files come through one downloader of our own: huggingface_hub 2.4 begins a killed download again from its first byte
(each try writes to a new temporary name), ours continues it, and it checks every byte against the hash the Hub states.
What goes to the Hub goes through huggingface_hub, whose large files are stored one by one before the commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from zoo.errors import IntegrityError, MissingError, UsageError, ZooError
from zoo.specs import File
from zoo.store import atomic_file, cache_dir, file_sha256, lock, read_json, write_json

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile, RepoFolder

Progress = Callable[[int, int, str], None]
Header = Callable[[str], str | None]
Kind = Literal["model", "dataset"]
ORG = "eeg-image-zoo"
CHUNK = 1 << 20
CONNECT_SECONDS = 5.0
PARALLEL = 4
RETRIES = 5
BACKOFF_SECONDS = 0.5
ANSWER_SECONDS = 120.0
"""How long the Hub may be silent while it answers; its own client would wait for ever."""
BATCH_BYTES = 256 << 20
COMMIT = re.compile("[0-9a-f]{40}")
WHERE = re.compile(r"(?:hf-hub:)?([\w][\w.-]*/[\w][\w.-]*)(?:@([\w][\w./-]*))?")
OFFLINE = "the network is off (HF_HUB_OFFLINE or --offline); run the same command with the network on"
LOG_IN = "hf auth login"


def offline() -> bool:
    """True if the user said so (``--offline``, ``HF_HUB_OFFLINE=1``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def org() -> str:
    """The organisation on the Hub that the zoo publishes to: ``ZOO_ORG``, or the zoo's own."""
    return os.environ.get("ZOO_ORG") or ORG


class Place(NamedTuple):
    """A repo on the Hub, at a revision (branch, tag or commit; None for its main branch)."""

    repo: str
    kind: Kind = "model"
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, kind: Kind = "model") -> Place:
        """Read ``org/name``, ``org/name@revision`` or either behind ``hf-hub:``.

        Raises:
            UsageError: It is none of them.
        """
        found = WHERE.fullmatch(text)
        if not found:
            raise UsageError(
                f"{text!r} names no repo on the Hub; write org/name, org/name@revision or hf-hub:org/name@revision."
            )
        return cls(found[1], kind, found[2])

    def __str__(self) -> str:
        if self.revision is None:
            return self.repo
        return f"{self.repo}@{self.revision[:8] if COMMIT.fullmatch(self.revision) else self.revision}"


class MovedError(ZooError):
    """Others were faster: what is to be published was made from an older commit."""


class Pull(NamedTuple):
    """A pull request."""

    number: int
    title: str
    status: str
    """``open``, ``draft``, ``merged`` or ``closed``."""
    author: str
    url: str


class Proposal(NamedTuple):
    """A pull request and what it would do to the main branch."""

    pull: Pull
    place: Place
    """Its commit."""
    added: dict[str, int]
    """New paths with their sizes."""
    touched: tuple[str, ...]
    """Paths that it changes or deletes."""


class Published(str):
    """Address of a pull request or commit; not ``new`` where the same content was there already."""

    new: bool

    def __new__(cls, url: str, *, new: bool) -> Published:
        published = super().__new__(cls, url)
        published.new = new
        return published


class _Source(NamedTuple):
    """One file as the network has it."""

    name: str
    url: str
    digest: str
    """sha256, or the git sha1 by which the Hub knows a small file."""
    size: int | None
    place: Place | None

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


# ---- one pinned file


def local_path(file: File) -> Path:
    """Where a fetched file lies; the hash in the path keeps two versions apart."""
    return _blob(file.sha256, file.path)


def fetch(file: File, *, bring: str | None = None, progress: Progress | None = None) -> Path:
    """Path of a file whose sha256 has been checked, downloading it if needed and possible.

    Args:
        file: What to fetch, pinned by sha256 (and by revision on the Hub).
        bring: If given, nothing is downloaded: a file that is not here is an error that names this command.
        progress: Called with (bytes done, bytes in all, name).

    Raises:
        MissingError: It is not on this machine and cannot or should not be fetched now.
        IntegrityError: Its bytes are not the pinned ones; the file is left out of the cache.
    """
    path = local_path(file)
    if path.exists():
        return _verified(path, file.sha256)
    if bring is not None:
        raise MissingError(f"{file.path} is not on this machine.\nto fetch it, run: {bring}")
    if offline():
        raise MissingError(f"{file.path} is not on this machine and {OFFLINE}, or copy the file to {path}.")
    place = Place(file.repo, "model", file.revision) if file.repo else None
    url = _address(place, file.path) if place else str(file.url)
    _reach(url, f"{file.path} is not on this machine", f", or copy the file to {path}")
    try:
        return _get(_Source(file.path, url, file.sha256, file.size, place), progress)
    except UsageError as error:
        wrong = str(error).partition(";")[0]
        raise IntegrityError(f"{wrong}; the card that names it is wrong, please report it.") from error


# ---- repos


def resolve(place: Place) -> str:
    """The commit (40 hex) a place means now; offline or with the Hub down, the one it meant when last asked.

    Raises:
        MissingError: The repo is not there for you, or cannot be asked.
        UsageError: It has no such revision.
    """
    if place.revision is not None and COMMIT.fullmatch(place.revision):
        return place.revision
    with _explained(place, f"the commit of {place} is not known on this machine") as api:
        found = api.resolve_revision(**_where(place), local_files_only=offline())
    return found.resolved


def download(place: Place, paths: Sequence[str] | None = None, *, progress: Progress | None = None) -> Path:
    """Folder that holds a repo's files as they are at one commit; what is here already is not asked for again.

    Args:
        place: A revision that is no commit is resolved first.
        paths: Only these files: paths, patterns (``*`` also matches ``/``) or folders that end in ``/``.
        progress: Called with (bytes done, bytes in all, place).

    Raises:
        MissingError: Something is not on this machine and cannot be fetched now.
        UsageError: There is no such revision, or no file that one of ``paths`` names.
        IntegrityError: Bytes are not those of the commit; they are left out of the cache.
    """
    place = place._replace(revision=resolve(place))
    folder = cache_dir("hub", place.kind, *place.repo.split("/"), place.revision or "")
    _refuse_outside(place, paths or [])
    if paths is not None and all((folder / path).is_file() for path in paths):
        return folder
    missing = [source for source in _listed(place, folder, paths) if not (folder / source.name).exists()]
    if missing and offline():
        raise MissingError(f"{missing[0].name} of {place} is not on this machine and {OFFLINE}.")
    _bring(missing, folder, str(place), progress or (lambda done, total, what: None))
    return folder


def read(place: Place, path: str) -> bytes:
    """Content of one (small) file; raises what :func:`download` raises."""
    return (download(place, [path]) / path).read_bytes()


def publish(
    place: Place,
    folder: Path,
    *,
    message: str,
    description: str = "",
    create_pr: bool = True,
    delete: Sequence[str] = (),
    private: bool = False,
    parent: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Put the files of a folder into a repo by one commit, and return the address of the pull request or commit.

    The repo is created if it does not exist. Large files are stored first, so that a killed call goes on where it
    was; files that others change in between are kept. Content that is there already, or in an open pull request of
    the same title, is not published twice.

    Args:
        place: The repo; its revision is the branch to commit to (main if None).
        folder: Its files keep their paths.
        message: Title of the commit or pull request.
        description: What stands below it, as Markdown.
        create_pr: Propose the change instead of making it.
        delete: Paths to remove, or folders that end in ``/``; what ``folder`` holds stays.
        private: Whether a new repo is private.
        parent: The commit that ``folder`` was made from; if the branch is no longer there, nothing is tried again.
        progress: Called with (bytes stored, bytes in all, repo).

    Raises:
        MissingError: No token, no network, or no right to.
        UsageError: Nothing to publish, or the Hub refuses the content.
        ZooError: Others kept changing the repo; nothing was published. ``MovedError`` if it is no longer at ``parent``.

    Conflicts, failures of the Hub and lost connections are tried again.
    """
    import httpx2
    from huggingface_hub import CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if not paths and not delete:
        raise UsageError(f"{folder} must hold the files to publish, but it holds none.")
    if create_pr and place.revision not in (None, "main"):
        raise UsageError(f"a pull request goes to the main branch, but {place} was given; name the repo alone.")
    if not offline() and _token() is None:
        raise MissingError(f"publishing to {place.repo} needs a token of the Hub.\nto log in, run: {LOG_IN}")
    additions: list[CommitOperationAdd] = []
    with _explained(place, f"nothing was published to {place.repo}", asks=True) as api:
        for attempt in range(1 + RETRIES):
            try:
                head = api.repo_info(**_where(place)).sha
            except RepositoryNotFoundError:
                api.create_repo(place.repo, repo_type=place.kind, private=private, exist_ok=True)
                head = api.repo_info(**_where(place)).sha
            if parent is not None and parent != head:
                raise MovedError(f"{place.repo} was changed by others meanwhile; run the same command again.")
            additions = _additions(paths, additions)
            try:
                _store(api, additions, place, create_pr, progress or (lambda done, total, what: None))
                gone = _present(api, place._replace(revision=head), delete, paths) if delete else []
                if create_pr and (url := _proposed(api, place, message, additions, gone)):
                    return Published(url, new=False)
                info = api.create_commit(
                    **_where(place),
                    operations=[*map(CommitOperationDelete, gone), *additions],
                    commit_message=message,
                    commit_description=description,
                    create_pr=create_pr,
                    parent_commit=head,  # what is unchanged, and so left out, was found against this commit
                )
                return Published(info.pr_url or info.commit_url, new=info.oid != head)
            except HfHubHTTPError as error:
                if error.response.status_code not in (409, 412) and (
                    error.response.status_code < 500 or attempt == RETRIES
                ):
                    raise
            except httpx2.TransportError:  # nobody knows whether it was done: the next try looks first
                if attempt == RETRIES:
                    raise
            if attempt < RETRIES:
                time.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # not in step with the others
    raise ZooError(
        f"{place.repo} was changed by others each of the {1 + RETRIES} times this was tried; nothing was published, "
        "run the same command again."
    )


# ---- pull requests


def pulls(place: Place, *, status: Literal["open", "closed"] | None = None) -> list[Pull]:
    """Pull requests of a repo, newest first; ``closed`` are the merged ones too.

    Raises:
        MissingError: The repo is not there for you, or cannot be asked.
    """
    with _explained(place, f"the pull requests of {place.repo} are not known", asks=True) as api:
        found = api.get_repo_discussions(
            place.repo, repo_type=place.kind, discussion_type="pull_request", discussion_status=status
        )
        return [Pull(pull.num, pull.title, pull.status, pull.author, pull.url) for pull in found]


def listing(place: Place) -> dict[str, int]:
    """Path and size of every file at one commit; raises what :func:`download` raises."""
    place = place._replace(revision=resolve(place))
    folder = cache_dir("hub", place.kind, *place.repo.split("/"), place.revision or "")
    with _explained(place, f"the files of {place} are not known on this machine"):
        return {source.name: source.size or 0 for source in _listed(place, folder, None)}


def holds(place: Place, files: Mapping[str, bytes]) -> bool | None:
    """Whether one commit has exactly these bytes under these paths; None if it has none of the paths."""
    with _explained(place, f"the files of {place} are not known", asks=True) as api:
        held = {info.path: _hub_digest(info) for info in _files(api.get_paths_info(**_where(place), paths=[*files]))}
    if not held:
        return None
    return all(_digest_of(data, len(held.get(path, ""))) == held.get(path) for path, data in files.items())


def page(place: Place, path: str) -> str:
    """Address of the page that shows a file."""
    return f"{_page(place)}/blob/{place.revision or 'main'}/{path}"


def proposal(place: Place, number: int) -> Proposal:
    """What a pull request would do, seen from the commit of the main branch that it began at.

    Raises:
        MissingError: The repo is not there for you, or cannot be asked.
        UsageError: It has no such pull request.
    """
    asked = place._replace(revision=f"refs/pr/{number}")
    head = asked._replace(revision=resolve(asked))
    with _explained(asked, f"pull request {number} of {place.repo} is not known", asks=True) as api:
        details = api.get_discussion_details(place.repo, number, repo_type=place.kind)
        main = {commit.commit_id for commit in api.list_repo_commits(place.repo, repo_type=place.kind)}
        history = api.list_repo_commits(**_where(head))
        fork = place._replace(revision=next(commit.commit_id for commit in history if commit.commit_id in main))
        before, after = (
            {
                info.path: (_hub_digest(info), info.size)
                for info in _files(api.list_repo_tree(**_where(at), recursive=True))
            }
            for at in (fork, head)
        )
    pull = Pull(details.num, details.title, details.status, details.author, details.url)
    touched = sorted(path for path, held in before.items() if after.get(path) != held)
    return Proposal(pull, head, {path: size for path, (_, size) in after.items() if path not in before}, tuple(touched))


def settle(place: Place, number: int, *, merge: bool, comment: str) -> None:
    """Merge a pull request or close it, saying why; one that is settled already is left alone.

    Raises:
        MissingError: No token, no network, or no right to.
        ZooError: It cannot be merged, since what it changes was changed meanwhile.
    """
    from huggingface_hub.errors import HfHubHTTPError

    with _explained(place, f"pull request {number} of {place.repo} was not settled", asks=True) as api:
        found = api.get_discussion_details(place.repo, number, repo_type=place.kind)
        if found.status not in ("open", "draft"):
            return
        if not merge:
            api.change_discussion_status(place.repo, number, "closed", comment=comment, repo_type=place.kind)
            return
        if found.status == "draft":
            api.change_discussion_status(place.repo, number, "open", repo_type=place.kind)
        try:
            api.merge_pull_request(place.repo, number, comment=comment, repo_type=place.kind)
        except HfHubHTTPError as error:
            if error.response.status_code not in (409, 412):
                raise
            raise ZooError(
                f"pull request {number} of {place.repo} cannot be merged: the same files were changed meanwhile."
            ) from error


# ---- how files come


def _blob(digest: str, name: str) -> Path:
    return cache_dir("downloads", digest[:16], PurePosixPath(name).name)


def _digest(path: Path, kind: int) -> str:
    """sha256 (64 hex) of a file, or the sha1 (40 hex) git knows it by."""
    return file_sha256(path) if kind == 64 else _digest_of(path.read_bytes(), kind)


def _digest_of(data: bytes, kind: int) -> str:
    if kind == 64:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _hash_name(digest: str) -> str:
    return f"{'sha256' if len(digest) == 64 else 'git sha1'} {digest[:16]}…"


def _verified(path: Path, digest: str) -> Path:
    found = _digest(path, len(digest))
    if found != digest:
        raise IntegrityError(
            f"{path} must have {_hash_name(digest)} but has {found[:16]}…; delete it and fetch it again."
        )
    return path


def _listed(place: Place, folder: Path, paths: Sequence[str] | None) -> list[_Source]:
    """The files of a commit that ``paths`` mean; asked for once where all are listed."""
    listing = folder.with_name(f"{folder.name}.json")
    if listing.exists():
        rows = read_json(listing)
    else:
        whole = paths is None or any(re.search(r"[*?[]|/$", path) for path in paths)
        with _explained(place, f"{place} is not on this machine", asks=True) as api:
            found = (
                api.list_repo_tree(**_where(place), recursive=True)
                if whole
                else api.get_paths_info(**_where(place), paths=list(paths or []))
            )
            rows = [[info.path, _hub_digest(info), info.size] for info in _files(found)]
        _refuse_outside(place, [path for path, _, _ in rows])
        if whole:
            write_json(listing, rows)
    wanted = {path: f"{path}*" if path.endswith("/") else path for path in paths or ["*"]}
    for path, pattern in wanted.items():
        if not any(name == path or fnmatchcase(name, pattern) for name, _, _ in rows):
            raise UsageError(_no_file(place, path))
    return [
        _Source(name, _address(place, name), digest, size, place)
        for name, digest, size in rows
        if any(name == path or fnmatchcase(name, pattern) for path, pattern in wanted.items())
    ]


def _refuse_outside(place: Place, paths: Iterable[str]) -> None:
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise IntegrityError(f"{path!r} must be a path inside {place}, but leads out of it; nothing was fetched.")


def _bring(sources: list[_Source], folder: Path, what: str, progress: Progress) -> None:
    """Download several files at once; the first error ends them all."""
    total = sum(source.size or 0 for source in sources)
    done = dict.fromkeys((source.name for source in sources), 0)
    stop, one_at_a_time = threading.Event(), threading.Lock()

    def bring(source: _Source) -> None:
        def step(have: int, _: int, name: str) -> None:
            if stop.is_set():
                raise _Stopped
            with one_at_a_time:
                done[name] = have
                progress(sum(done.values()), total, what)

        _link(_get(source, step), folder / source.name)

    with ThreadPoolExecutor(PARALLEL) as pool:
        running = [pool.submit(bring, source) for source in sources]
        try:
            for future in as_completed(running):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Stopped(Exception):
    """Another file failed, or the user had enough."""


def _link(blob: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob, target)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with blob.open("rb") as file, atomic_file(target) as copy:
            shutil.copyfileobj(file, copy)


def _get(source: _Source, progress: Progress | None) -> Path:
    """The verified file in the cache, downloaded (once, if several processes want it) if it is not there."""
    path = _blob(source.digest, source.name)
    with lock(path):
        if path.exists():
            return _verified(path, source.digest)
        part = path.with_name(path.name + ".part")
        while True:
            have = part.stat().st_size if part.exists() else 0
            try:
                _stream(source, part, progress or (lambda done, total, what: None))
                break
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416 and have:  # the part is no beginning of this file
                    part.unlink()
                    continue
                raise _refused(error.code, error.headers.get, source.place or source.host, source.name) from error
            except (OSError, http.client.HTTPException) as error:
                if part.exists() and part.stat().st_size > have:  # go on while bytes arrive
                    continue
                raise MissingError(
                    f"{source.name} could not be fetched from {source.host} ({error}); run the same command again to "
                    "continue."
                ) from error
        found = _digest(part, len(source.digest))
        if found != source.digest:
            part.unlink()
            raise IntegrityError(
                f"{source.name} from {source.host} must have {_hash_name(source.digest)} but has {found[:16]}…; "
                "nothing was kept, report it to the maintainers."
            )
        return part.replace(path)


def _stream(source: _Source, part: Path, progress: Progress) -> None:
    """Append what ``part`` lacks to it, or begin it again where the server cannot continue."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "eeg-image-zoo", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(source.url, headers=headers)  # noqa: S310 - from packaged cards and the Hub
    if source.place is not None and (token := _token()):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # not for the storage it points to
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        if answer.status != 206:
            have = 0
        announced = have + int(answer.headers.get("Content-Length") or 0)
        with part.open("ab" if have else "wb") as out:
            while block := answer.read1(CHUNK):
                out.write(block)
                have += len(block)
                progress(have, source.size or announced, source.name)
        if have < announced:  # urllib ends a broken connection like a complete one
            raise OSError(f"the connection broke after {have} of {announced} bytes")


# ---- how files go


def _additions(paths: Mapping[str, Path], before: list[CommitOperationAdd]) -> list[CommitOperationAdd]:
    """Fresh operations (they remember what the repo held), with the hashes that an earlier attempt computed."""
    from huggingface_hub import CommitOperationAdd

    hashed = {addition.path_in_repo: addition.upload_info for addition in before}
    fresh = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in paths.items()]
    for addition in fresh:
        addition.upload_info = hashed.get(addition.path_in_repo, addition.upload_info)
    return fresh


def _store(api: HfApi, additions: list[CommitOperationAdd], place: Place, create_pr: bool, progress: Progress) -> None:
    """Store the large files among ``additions`` (the Hub says which) where they are not stored yet."""
    total, done = sum(addition.upload_info.size for addition in additions), 0
    batch: list[CommitOperationAdd] = []
    size = 0
    for addition in additions:
        batch.append(addition)
        size += addition.upload_info.size
        if size >= BATCH_BYTES or addition is additions[-1]:
            api.preupload_lfs_files(**_where(place), additions=batch, create_pr=create_pr, free_memory=False)
            done, batch, size = done + size, [], 0
            progress(done, total, place.repo)


def _present(api: HfApi, place: Place, delete: Sequence[str], keep: Mapping[str, Path]) -> list[str]:
    """The files that ``delete`` names and the commit has."""
    held = [info.path for info in _files(api.list_repo_tree(**_where(place), recursive=True))]
    named = [
        name for name in held if any(name == path or (path[-1:] == "/" and name.startswith(path)) for path in delete)
    ]
    return [name for name in named if name not in keep]


def _proposed(
    api: HfApi, place: Place, title: str, additions: list[CommitOperationAdd], gone: Sequence[str]
) -> str | None:
    """Address of the open pull request that has this title and makes the same change."""

    def same(pull: Place) -> bool:
        paths = [*(addition.path_in_repo for addition in additions), *gone]
        held = {info.path: _hub_digest(info) for info in _files(api.get_paths_info(**_where(pull), paths=paths))}
        return held == {addition.path_in_repo: _own_digest(addition, held) for addition in additions}

    for pull in api.get_repo_discussions(
        place.repo, repo_type=place.kind, discussion_type="pull_request", discussion_status="open"
    ):
        if pull.title == title and same(place._replace(revision=f"refs/pr/{pull.num}")):
            return pull.url
    return None


def _own_digest(addition: CommitOperationAdd, held: Mapping[str, str]) -> str:
    """Hash of a file to publish, of the kind by which the Hub holds the file of that name."""
    kind = len(held.get(addition.path_in_repo, ""))
    return _digest(Path(str(addition.path_or_fileobj)), kind) if kind == 40 else addition.upload_info.sha256.hex()


def _files(infos: Iterable[RepoFile | RepoFolder]) -> list[RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    return [info for info in infos if isinstance(info, RepoFile)]


def _hub_digest(info: RepoFile) -> str:
    return info.lfs.sha256 if info.lfs else info.blob_id


def _where(place: Place) -> dict[str, Any]:
    """A place in the words of huggingface_hub."""
    return {"repo_id": place.repo, "repo_type": place.kind, "revision": place.revision}


# ---- what can go wrong


@contextlib.contextmanager
def _explained(place: Place, so: str, *, asks: bool = False) -> Iterator[HfApi]:
    """Yield the client of the Hub, and turn each error it raises into one sentence.

    Args:
        place: What is asked.
        so: How a sentence about a missing network begins.
        asks: Nothing can be answered from the cache, so that being offline ends it at once.
    """
    if asks and offline():
        raise MissingError(f"{so} and {OFFLINE}.")
    import httpx2
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionResolutionError

    api = HfApi(library_name="eeg-image-zoo")
    if not urlsplit(api.endpoint).hostname:
        raise UsageError(
            f"HF_ENDPOINT must be the address of a Hub such as https://huggingface.co, but is {api.endpoint!r}; "
            "unset it."
        )
    if not offline():
        _reach(api.endpoint, so)
        get_session().timeout = ANSWER_SECONDS
    try:
        yield api
    except ZooError:
        raise
    except (httpx2.HTTPError, OSError, RuntimeError, RevisionResolutionError, ValueError) as raised:
        error: BaseException | None = raised
        if isinstance(raised, RuntimeError | RevisionResolutionError):  # they wrap what happened
            error = raised.__cause__
        if isinstance(error, HfHubHTTPError):
            raise _refused(error.response.status_code, error.response.headers.get, place) from raised
        if isinstance(error, httpx2.TransportError):
            raise _unreachable(api.endpoint, so, error) from raised
        if isinstance(error, OfflineModeIsEnabled) or isinstance(raised, RevisionResolutionError):
            raise MissingError(f"{so} and {OFFLINE}.") from raised
        if isinstance(error, ValueError):  # the client's own checks, such as of a README
            raise UsageError(f"the Hub refuses this for {place.repo}: {' '.join(str(error).split())}") from raised
        raise


def _refused(status: int, header: Header, place: Place | str, path: str | None = None) -> ZooError:
    """One sentence for each way a server says no."""
    code, said = header("X-Error-Code"), header("X-Error-Message")
    file = f" for {path}" if path else ""
    if isinstance(place, str):
        if status == 404:
            return UsageError(f"{place} has no file {path}; look for it there.")
        return MissingError(f"{place} answered {status}{file}; try again later.")
    if code == "GatedRepo":
        return MissingError(f"{place.repo} is gated: accept its terms at {_page(place)}, then run: {LOG_IN}")
    if said == "Invalid credentials in Authorization header":
        return MissingError(f"the Hub does not know the token of this machine.\nto log in again, run: {LOG_IN}")
    if code == "RevisionNotFound":
        if number := re.fullmatch(r"refs/pr/(\d+)", place.revision or ""):
            return UsageError(
                f"{place.repo} has no pull request {number[1]}; they are listed at {_page(place)}/discussions."
            )
        return UsageError(
            f"{place.repo} has no revision {place.revision or 'main'}; "
            f"its branches and tags are listed at {_page(place)}."
        )
    if code == "RepoNotFound" or status == 401:
        return MissingError(f"{place.repo} does not exist or is private for you; if it is yours, run: {LOG_IN}")
    if status == 403:
        return MissingError(
            f"the token of this machine may not do this with {place.repo}; take one that may, then run: {LOG_IN}"
        )
    if status == 404 and path:
        return UsageError(_no_file(place, path))
    if status == 429:
        return MissingError(f"the Hub has been asked too often from here; try again in {_seconds(header)} seconds.")
    if status in (400, 413, 422):
        return UsageError(f"the Hub refuses this for {place.repo}: {said or status}; nothing was changed.")
    return MissingError(f"{place} answered {status}{file}; try again later.")


def _no_file(place: Place, path: str) -> str:
    return f"{place} has no file {path}; its files are listed at {_page(place)}/tree/{place.revision}."


def _seconds(header: Header) -> str:
    """How long to wait after 429, as the Hub says (``RateLimit: "api";r=0;t=55``) or as HTTP does."""
    found = re.search(r"\bt=(\d+)", header("RateLimit") or "")
    return found[1] if found else header("Retry-After") or "300"


def _unreachable(url: str, so: str, error: BaseException, otherwise: str = "") -> MissingError:
    host = urlsplit(url).hostname
    return MissingError(
        f"{so} and {host} cannot be reached ({error}); run the same command where there is a network{otherwise}."
    )


def _reach(url: str, so: str, otherwise: str = "") -> None:
    """Fail at once without a network instead of retrying for half a minute."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(parts.geturl(), so, error, otherwise) from error


def _address(place: Place, path: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(place.repo, path, repo_type=place.kind, revision=place.revision)


def _page(place: Place) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if place.kind == 'dataset' else ''}{place.repo}"


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()

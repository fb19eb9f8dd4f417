"""The cache: content addresses, atomic commits, locks. Standard library only.

A stage is a folder named by the hash of everything that decides its content. Files appear in it whole or not at all, so
whatever was killed is continued by running the same command again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

from zoo.errors import ZooError

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}")
"""Names that ``_beside`` gives."""
DAY_SECONDS = 86_400.0
FETCHED = ("datasets", "downloads", "exports", "hub")
"""What a cache holds that was brought and prepared, not computed."""
kept: dict[Path, int] = {}
"""Bytes of every file and folder that this process has put on disk; what is written again counts once."""


def cache_dir(*parts: str) -> Path:
    """``ZOO_CACHE``, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``; nothing is created.

    What is computed goes to ``ZOO_SHARED``, if that is set: there, hosts with caches of their own find others' work.
    """
    root = os.environ.get("ZOO_CACHE")
    if parts and parts[0] not in FETCHED:
        root = os.environ.get("ZOO_SHARED") or root
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    return base.expanduser().joinpath(*parts)


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stage_dir(kind: str, identity: dict[str, Any]) -> Path:
    """Folder of the stage decided by ``identity``; ``identity.json`` in it says what that was."""
    path = cache_dir(kind, digest(identity)[:32])
    if not (path / "identity.json").exists():
        write_json(path / "identity.json", identity)
    return path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under ``path`` only when it is complete and on disk.

    Raises:
        ZooError: The disk is full; nothing is left behind.
    """
    temporary = _beside(path)
    with disk_full_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file, _held(temporary):
                yield file
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            temporary.replace(path)
            kept[path] = size
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def json_bytes(value: Any) -> bytes:
    """JSON for people to read and for files to hold: indented, sorted keys, no NaN."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` (replacing an older one) when the block ends without an error.

    Raises:
        ZooError: The disk is full; nothing is left behind, an older folder stays.
    """
    work = _beside(path)
    with disk_full_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.mkdir()
            with _held(work):
                yield work
            kept[path] = sum(inner.stat().st_size for inner in work.rglob("*") if inner.is_file())
            if path.exists():
                old = _beside(path)
                path.replace(old)
                work.replace(path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                work.replace(path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def sweep(root: Path) -> tuple[int, int]:
    """Remove what killed processes left unfinished under ``root``, once nobody has written to it for a day.

    Returns:
        How many files and folders were removed, and how many bytes they held.
    """
    count = size = 0
    for path in [path for path in root.rglob(".*") if UNFINISHED.fullmatch(path.name)]:
        with _held(path) as abandoned, contextlib.suppress(OSError):
            found = [inner.lstat() for inner in (path, *path.rglob("*"))]
            if abandoned and max(stat.st_ctime for stat in found) < time.time() - DAY_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                count += 1
                size += sum(stat.st_size for stat in found if S_ISREG(stat.st_mode))
    return count, size


@contextlib.contextmanager
def claim(path: Path, *, wait_seconds: float = 0.0, leave: bool = True) -> Iterator[bool]:
    """Hold ``path`` as ``lock`` does, or yield False if another process keeps it for longer than that.

    Whoever dies gives it back at once. On a file system without locks everybody gets it; that may do work twice.

    Args:
        leave: Leave the file that is locked. Without it, look again whether there is work left once you hold ``path``:
            somebody may have held, and finished, a file of that name before yours.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(f"{path}.lock")
    try:
        with contextlib.suppress(NotImplementedError):
            held.acquire(timeout=wait_seconds)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if not leave:
            Path(f"{path}.lock").unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes on this machine or file system."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def _beside(path: Path) -> Path:
    """An unused hidden name in the same folder; ``tempfile`` would hide the result from everybody else (mode 600)."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Mark what is being written as in use until this block, or the process, ends; False if that is not possible."""
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(ImportError, OSError):  # in use already, Windows, some network file systems
            import fcntl

            handle = os.open(path, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Around writing: a full disk is one sentence, with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ZooError(
            f"no space left on the disk of {path.parent}: free some, or point ZOO_CACHE at a larger disk, "
            "then run the same command again (finished work is kept)."
        ) from error

"""The only code that talks to a network: pinned, verified downloads and one map of what can go wrong."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from zoo.errors import IntegrityError, MissingError, ZooError
from zoo.specs import File
from zoo.store import cache_dir, file_sha256, lock

Progress = Callable[[int, int, str], None]
CHUNK = 1 << 20
CONNECT_SECONDS = 5.0


def offline() -> bool:
    """True if the user said so (``--offline``, ``HF_HUB_OFFLINE=1``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def local_path(file: File) -> Path:
    """Where a fetched file lies; the hash in the path keeps two versions apart."""
    return cache_dir("downloads", file.sha256[:16], Path(file.path).name)


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
        _verify(path, file)
        return path
    if bring is not None:
        raise MissingError(f"{file.path} is not on this machine.\nto fetch it, run: {bring}")
    if offline():
        raise MissingError(
            f"{file.path} is not on this machine and the network is off (HF_HUB_OFFLINE or --offline); "
            f"run the same command with the network on, or copy the file to {path}."
        )
    with lock(path):
        if not path.exists():
            url = file.url or _hub_url(file)
            _download(url, file, path, progress or (lambda done, total, what: None))
    return path


def _verify(path: Path, file: File) -> None:
    found = file_sha256(path)
    if found != file.sha256:
        raise IntegrityError(
            f"{path} must have sha256 {file.sha256[:16]}… but has {found[:16]}…; delete it and fetch it again."
        )


def _hub_url(file: File) -> str:
    from huggingface_hub import hf_hub_url

    assert file.repo is not None
    return hf_hub_url(file.repo, file.path, revision=file.revision)


def _download(url: str, file: File, path: Path, progress: Progress) -> None:
    """Stream ``url`` to ``path``, continuing a part left by an interrupted run; verify before it gets its name."""
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "eeg-image-zoo"}
    if have:
        headers["Range"] = f"bytes={have}-"
    _refuse_unreachable(url, file)
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - urls come from packaged cards
    if file.repo is not None and (token := _token()):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # not for the storage it points to
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            if answer.status != 206:
                have = 0
            announced = have + int(answer.headers.get("Content-Length") or 0)
            total = file.size or announced
            with part.open("ab" if have else "wb") as out:
                while block := answer.read(CHUNK):
                    out.write(block)
                    have += len(block)
                    progress(have, total, file.path)
            if have < announced:  # urllib ends a broken connection like a complete one
                raise OSError(f"the connection broke after {have} of {announced} bytes; run it again to continue")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and part.exists():  # the part is no beginning of this file
            part.unlink()
            return _download(url, file, path, progress)
        raise _explain(error, url, file) from error
    except (OSError, http.client.HTTPException) as error:
        raise MissingError(f"{file.path} could not be fetched from {urlsplit(url).hostname} ({error}).") from error
    with part.open("rb") as done:
        found = hashlib.file_digest(done, "sha256").hexdigest()
    if found != file.sha256:
        part.unlink()
        raise IntegrityError(
            f"{file.path} from {urlsplit(url).hostname} must have sha256 {file.sha256[:16]}… but has {found[:16]}…; "
            "nothing was kept, report it to the maintainers."
        )
    part.replace(path)


def _refuse_unreachable(url: str, file: File) -> None:
    """Fail at once without a network instead of retrying for half a minute."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise MissingError(
            f"{file.path} is not on this machine and {parts.hostname} cannot be reached ({error}); "
            "run the same command where there is a network, or copy the file to "
            f"{local_path(file)}."
        ) from error


def _explain(error: urllib.error.HTTPError, url: str, file: File) -> ZooError:
    """One sentence for each way the Hub says no."""
    place = f"{file.repo}@{(file.revision or '')[:8]}" if file.repo else urlsplit(url).hostname
    code = error.headers.get("X-Error-Code") if error.headers else None
    if code == "GatedRepo":
        return MissingError(f"{place} is gated: accept its terms on its page, then run: hf auth login")
    if error.code in (401, 403) or code == "RepoNotFound":
        return MissingError(f"{place} does not exist or is private for you; if it is yours, run: hf auth login")
    if error.code == 404:
        return IntegrityError(f"{place} has no file {file.path}; the card that names it is wrong, please report it.")
    return MissingError(f"{place} answered {error.code} for {file.path}; try again later.")


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()

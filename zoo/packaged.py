"""Weights that an installed package ships: a file whose url is ``package:<module>/<path>``. No torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from zoo.errors import IntegrityError, MissingError
from zoo.hub import fetch
from zoo.specs import File
from zoo.store import file_sha256

PACKAGED = "package:"


def find(file: File, who: str, *, bring: str | None = None) -> Path:
    """Path of a pinned file on this machine, shipped by a package or fetched before; verified.

    Args:
        who: What needs it, for messages.
        bring: As ``zoo.hub.fetch`` takes it: given, nothing is downloaded.

    Raises:
        MissingError: It is not here; the message names the command that brings it.
        IntegrityError: It is here but its sha256 is not the pinned one.
    """
    url = file.url or ""
    if not url.startswith(PACKAGED):
        return fetch(file, bring=bring)
    module, _, inside = url.removeprefix(PACKAGED).partition("/")
    spec = importlib.util.find_spec(module)  # finds the folder without running the package's code
    path = Path(next(iter((spec and spec.submodule_search_locations) or ["."]))) / inside
    if spec is None or not path.is_file():
        package = module.replace("_", "-")
        raise MissingError(
            f"{who} needs the package {package}, which is not here.\nto install it, run: pip install {package}"
        )
    if (found := file_sha256(path)) != file.sha256:
        raise IntegrityError(
            f"{path.name} of package {module} must have sha256 {file.sha256[:16]}… but has {found[:16]}…; reinstall it."
        )
    return path

"""Where and with what a record was made. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "timm", "torch-fidelity", "numpy", "scipy", "scikit-learn", "safetensors")


def versions() -> dict[str, str]:
    """Installed versions of the packages that can move a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_sha256(*modules: str) -> str:
    """Hash of the source of some modules, so that what they computed is not taken for what they would compute now."""
    sha = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            sha.update(Path(spec.origin).read_bytes())
    return sha.hexdigest()


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout this package runs from, and whether it has changes; nulls when it is installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def command() -> str:
    """The command line, with folders of this machine shortened to their last part."""
    words = [Path(word).name if os.sep in word and Path(word).is_absolute() else word for word in sys.argv]
    program = "zoo" if words[0] == "__main__.py" else words[0]  # python -m zoo, as workers and cells are started
    return shlex.join([program, *words[1:]])


def cpu_name() -> str:
    """Processor model and core count."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def hardware(device: str) -> str:
    """What computes on ``device``: the GPU's name, or the processor's."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if device == "cuda" and torch is not None else cpu_name()


def threads() -> int | None:
    """Threads that torch computes with; None where nothing had to be computed."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()

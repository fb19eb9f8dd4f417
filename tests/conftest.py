"""Shared by all tests: an empty cache of their own, no network, and the data beside a checkout if it is there."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import by huggingface_hub, so before anything imports it
os.environ["NO_PROXY"] = "127.0.0.1,localhost"

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ``ZOO_CACHE`` for every test."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ZOO_CACHE", str(path))
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with fixtures and real recordings; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (parity fixtures and real recordings), which this checkout does not have")
    return SHARED

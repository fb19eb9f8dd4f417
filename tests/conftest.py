"""Shared by all tests: an empty cache of their own, no network, small records, and the data beside a checkout."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import by huggingface_hub, so before anything imports it
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: more threads than those only wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.hub_standin import WRITER, Hub
from zoo import registry
from zoo.datasets import base
from zoo.datasets.base import EEGDataset
from zoo.record import Audit, Cost, Identity, Provenance, Record, System, Value

SHARED = Path(__file__).resolve().parents[2] / "shared"
SHA = "0" * 64

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")  # what a run finds, the next one finds again


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


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of the test's own, in the place of the real one for this process and for those it starts; a token too."""
    from huggingface_hub import close_session, constants

    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with Hub(folder) as running:
        settings = {"HF_HOME": folder, "HF_HUB_CACHE": folder / "cache", "HF_TOKEN_PATH": folder / "token"}
        for name, value in {**settings, "HF_ENDPOINT": running.url, "HF_TOKEN": WRITER}.items():
            monkeypatch.setenv(name, str(value))
        for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
            monkeypatch.setenv(name, "1")
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        read_at_import = {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            **{name: str(value) for name, value in settings.items()},
        }
        for name, value in read_at_import.items():
            monkeypatch.setattr(constants, name, value)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        close_session()
        running.shutdown()
        thread.join()


def build_record(
    model: str = "alpha",
    score: float | None = 0.5,
    *,
    interval: tuple[float, float] | None = None,
    higher: bool | None = True,
    signature: str | None = "accuracy|v1",
    shuffled: float | None = 0.1,
    verdict: Any = "clean",
    created: str = "2026-01-01T00:00:00+00:00",
    status: Any = "ok",
    error: str | None = None,
    values: dict[str, Value] | None = None,
    units_sha256: str | None = None,
    selection: str = "validation",
    complete: bool = True,
    **identity: Any,
) -> Record:
    """A record as small as it can be: only what a test names differs between two of them."""

    def value(number: float | None, span: tuple[float, float] | None = None) -> Value:
        reason = "too few trials" if number is None else None
        return Value(value=number, reason=reason, signature=signature, higher_is_better=higher, interval=span)

    of: dict[str, Any] = {
        "track": "reconstruction/phantom.subject-out@1",
        "track_sha256": SHA,
        "dataset": "phantom",
        "trials_fingerprint": SHA,
        "eeg_sha256": SHA,
        "stimuli_sha256": SHA,
        "split": "subject-out@1",
        "split_sha256": SHA,
        "model": model,
        "config": {},
        "weights_sha256": SHA,
        "seed": 0,
        "replicates": 3,
        "limit": None,
        "metrics": ("accuracy|v1",),
        "zoo": "0.1.0",
    }
    return Record(
        status=status,
        error=error,
        identity=Identity(**{**of, **identity}),
        audit=Audit(verdict=verdict, evidence={}, sentences=()) if verdict else None,
        headline="accuracy",
        values={"accuracy": value(score, interval), **(values or {})} if status != "failed" else {},
        controls={"shuffled-eeg": System(values={"accuracy": value(shuffled)})},
        units_sha256=units_sha256,
        provenance=Provenance(
            created=created,
            command="zoo eval",
            git=None,
            dirty=None,
            device="cpu",
            hardware="a computer",
            threads=1,
            packages={},
            weights_source="trained",
            trained_on=("phantom",),
            selection=selection,
            stimuli_source="generated",
            dataset_complete=complete,
        ),
        cost=Cost(seconds=1.0, n_parameters=10, images_per_second=None, peak_memory_mb=None),
    )


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return build_record


def small_things(patch: pytest.MonkeyPatch, name: str, **options: Any) -> EEGDataset:
    """A phantom-things of other options under a name of its own, in the cache of the moment, until the patch ends."""
    card = registry.datasets.get("phantom-things")
    splits = tuple(split.model_copy(update={"sha256": None}) for split in card.splits)
    changed = card.model_copy(update={"id": name, "options": options, "splits": splits})
    patch.setitem(registry.datasets._added, name, changed)
    return base.load(name)

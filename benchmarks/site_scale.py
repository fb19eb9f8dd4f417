"""10,000 records of 20 metrics on one track: how long the site takes to build, and a browser to show the first rows.

python benchmarks/site_scale.py            needs chromium (apt) and playwright (pip)
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import leaderboard
from leaderboard.board import FsBoard
from leaderboard.site import Cards, build_site, file_name
from zoo.provenance import cpu_name
from zoo.record import Record, System, Value

TRACK = "reconstruction/phantom.stimulus-out@2"
SEED = next((Path(leaderboard.__file__).parent / "records" / TRACK / "eeg2image.small").glob("*.json"))
"""A published record, of which the others are copies with other names and numbers."""
RESULT = Path(__file__).with_name("results") / "site_scale-cpu.json"


def record(published: Record, i: int, metrics: int) -> Record:
    """One of many: every metric with its interval, for the model and two controls."""
    draw = random.Random(i)

    def value(centre: float) -> Value:
        x = draw.gauss(centre, 0.1)
        return Value(value=x, interval=(x - 0.05, x + 0.05), higher_is_better=True, signature="metric|n:1000|v1")

    def system(centre: float) -> dict[str, Value]:
        names = [published.headline, *(f"metric_{k:02}" for k in range(1, metrics))]
        return {name: value(centre) for name in names}

    return published.model_copy(
        update={
            "identity": published.identity.model_copy(update={"model": f"model-{i:05}", "seed": i % 3}),
            "values": system(0.5),
            "controls": {name: System(values=system(0.1)) for name in ("shuffled-eeg", "gaussian-eeg")},
            "units_sha256": None,
            "cost": published.cost.model_copy(update={"n_parameters": draw.randrange(10**5, 10**9)}),
        }
    )


def shown(site: Path, rounds: int) -> list[float]:
    """Seconds from asking for the track's page to its first rows, each time in a new browser profile."""
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(rounds):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            started = time.perf_counter()
            page.goto(f"{site.as_uri()}/index.html#/track/{TRACK}", wait_until="commit")
            page.wait_for_selector(".ranked .tabulator-row", timeout=60_000)
            taken.append(time.perf_counter() - started)
            page.context.close()
        browser.close()
    return taken


def start_bytes(site: Path) -> int:
    """What the start page loads: itself, its libraries and what it shows."""
    loaded = [site / "index.html", site / "data.js", *(site / "app").iterdir(), *(site / "vendor").glob("*.[cjw]*")]
    return sum(path.stat().st_size for path in loaded)


def main(n: int = 10_000, metrics: int = 20, rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        board = FsBoard(folder / "board")
        published = Record.read(SEED)
        for i in range(n):
            made = record(published, i, metrics)
            path = folder / "board" / "records" / made.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.to_json())
        started, used = time.perf_counter(), time.process_time()
        built = build_site(board, folder / "site", Cards())
        build, busy = time.perf_counter() - started, time.process_time() - used
        assert (built.n_records, built.problems) == (n, ())
        times = shown(folder / "site", rounds)
        found: dict[str, Any] = {
            "records": n,
            "metrics": metrics,
            "build_seconds": round(build, 1),
            "build_cpu_seconds": round(busy, 1),
            "first_rows_seconds": [round(t, 2) for t in sorted(times)],
            "first_rows_median_seconds": round(statistics.median(times), 2),
            "start_megabytes": round(start_bytes(folder / "site") / 1e6, 2),
            "whole_megabytes": round(built.n_bytes / 1e6, 1),
            "table_megabytes": round((folder / "site" / "tracks" / f"{file_name(TRACK)}.js").stat().st_size / 1e6, 1),
            "hardware": cpu_name(),
            "load_average": round(os.getloadavg()[0], 1),
        }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

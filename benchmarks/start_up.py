"""How long `zoo --help` takes beside importing typer and rich: medians of whole processes, alternating.

python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import typer, rich": ["-c", "import typer, rich"],
    "zoo --help": ["-m", "zoo", "--help"],
    "zoo list models": ["-m", "zoo", "list", "models"],
    "zoo leaderboard show": ["-m", "zoo", "leaderboard", "show"],
}


def main(rounds: int = 15) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times[name].append(time.perf_counter() - started)
    base = statistics.median(times["import typer, rich"])
    for name, taken in times.items():
        print(f"{name:24} {statistics.median(taken):6.3f} s   ratio {statistics.median(taken) / base:5.2f}")


if __name__ == "__main__":
    main()

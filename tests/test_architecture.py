"""Imports flow one way, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datasets", "models", "metrics", "audits")
MORE = {  # what single modules of the board need besides; numpy (zoo.stats), which no table needs, stays with these
    "compare.py": ("zoo.stats",),
    "ties.py": ("zoo.stats",),
    "submission.py": ("zoo.upload",),
    "verify.py": ("zoo.stats", "zoo.gallery", "zoo.upload"),
    "board.py": ("zoo.hub",),
    "hubboard.py": ("zoo.hub",),
    "site.py": ("zoo.gallery",),
}
HEAVY = ("torch", "numpy", "datasets", "sklearn", "scipy", "timm", "torchvision", "pandas", "matplotlib")


def imported(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_know_one_another(room: str) -> None:
    files = list((ROOT / "zoo" / room).rglob("*.py"))
    assert files
    for path in files:
        for other in set(ROOMS) - {room}:
            assert not [name for name in imported(path) if name.startswith(f"zoo.{other}")], (path, other)


def test_nothing_on_the_left_knows_the_runner() -> None:
    right = ("zoo.runner", "zoo.plan", "zoo.images", "zoo.samples", "zoo.scoring", "zoo.cli", "zoo.demo", "leaderboard")
    for room in ROOMS:
        for path in (ROOT / "zoo" / room).rglob("*.py"):
            assert not [name for name in imported(path) if name.startswith(right)], path


def test_only_launch_knows_what_runs_a_sweep() -> None:
    for path in (ROOT / "zoo").rglob("*.py"):
        if path.name != "launch.py":
            assert "submitit" not in imported(path), path
    for name in ("runner", "plan", "stages", "compute", "training"):
        above = {"zoo.launch", "zoo.sweep", "zoo.cells"}
        assert not above & imported(ROOT / "zoo" / f"{name}.py"), name


def test_the_board_reads_records_and_nothing_else() -> None:
    allowed = ("zoo.record", "zoo.errors", "zoo.store", "zoo.specs", "leaderboard")
    for path in (ROOT / "leaderboard").glob("*.py"):
        ours = [name for name in imported(path) if name.startswith(("zoo", "leaderboard"))]
        may = (*allowed, *MORE.get(path.name, ()))
        assert all(name == "zoo" or name.startswith(may) for name in ours), (path, ours)


def test_there_is_no_import_cycle() -> None:
    graph = {}
    for path in (ROOT / "zoo").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        at_top = ast.Module(
            [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)],
            [],
        )
        found = set()
        for node in ast.walk(at_top):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        graph[name] = found
    graph = {name: {other for other in found if other in graph} - {name, "zoo"} for name, found in graph.items()}
    assert len(graph) > 30
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == set(graph), f"in a cycle: {sorted(set(graph) - done)}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "models"],
        ["list", "datasets", "--json"],
        ["list", "metrics"],
        ["list", "tracks", "--json"],
        ["info", "eeg2image"],
        ["leaderboard", "show"],
        ["push", "--help"],
        ["generate", "--help"],
        ["data", "info", "phantom"],
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str], cache: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['zoo', *{arguments!r}]\n"
        "import runpy\n"
        "try:\n"
        "    runpy.run_module('zoo', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.stderr.write('heavy: ' + ' '.join(heavy))\n"
        "sys.exit(bool(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

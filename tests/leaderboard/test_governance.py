"""What a results repo runs is what this release offers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from zoo.cli import app

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "leaderboard/repo/.github/workflows/verify.yml"
TEXTS = [*(ROOT / "leaderboard/repo").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "docs/board.md", WORKFLOW]


def commands(text: str) -> set[tuple[str, ...]]:
    """The zoo commands in a text, with their options."""
    found = set()
    for line in re.findall(
        r"(?:^|[`|] *|run: .*?)(zoo (?:leaderboard|push|export|compare|eval)\b[^`|#\n]*)", text, re.M
    ):
        words = shlex.split(line.replace("…", "").replace("[", "").replace("]", ""))
        named = tuple(word for word in words[1:3] if re.fullmatch("[a-z]+", word))
        path = named if named[0] == "leaderboard" else named[:1]
        found.add((*path, *(word for word in words if word.startswith("--"))))
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path: Path) -> None:
    found = commands(path.read_text(encoding="utf-8"))
    assert found or path.name == "README.md"
    for command, *rest in found:
        path_of = [command, *(word for word in rest if not word.startswith("--"))]
        help_text = CliRunner().invoke(app, [*path_of, "--help"])
        assert help_text.exit_code == 0, (path, command, rest)
        for option in rest:
            if option.startswith("--"):
                assert option in help_text.stdout, (path, command, option)


def test_the_workflow_gives_strangers_no_rights() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert "pull_request_target" not in workflow[True], "on:, which YAML reads as true"
    assert "secrets" not in str(jobs["pull-request"])
    for job in jobs.values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "what strangers write never becomes a command"


def test_verifying_needs_no_more_than_the_workflow_installs() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    needs = set(workflow["env"]["NEEDS"].split())
    record = sorted((ROOT / "leaderboard/records").glob("*/muse-n170.run-out@2/*/*-*.json"))[0]
    code = (
        "import sys\n"
        f"sys.argv = ['zoo', 'leaderboard', 'verify', {str(record)!r}]\n"
        "import runpy\n"
        "try:\n"
        "    runpy.run_module('zoo', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "import importlib.metadata as m\n"
        "owners = m.packages_distributions()\n"
        "tops = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "sys.stderr.write(' '.join(sorted({o.lower() for t in tops for o in owners.get(t, ())})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == f"{record}: good"
    imported = set(done.stderr.split())
    assert "torch" not in imported
    direct = {"numpy", "scipy", "pyarrow", "pydantic", "pyyaml", "typer", "rich", "fsspec", "filelock", "pillow"}
    assert imported & direct <= needs

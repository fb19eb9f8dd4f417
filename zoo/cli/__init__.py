"""The command line: parses, calls one function, prints. Data on stdout; progress, hints and errors on stderr.

Exit codes: 0 ok, 1 runtime, 2 usage, 3 gate failed, 4 integrity, 5 needs something that is not here, 130 interrupted.
"""

from __future__ import annotations

from zoo.cli import board, cards, data, maps, run, site, sweep, validate, weights
from zoo.cli.common import group

app = group("Reference model zoo and benchmark: images out of EEG, EEG out of images.")
for commands in (cards.app, data.root, run.app, maps.app, sweep.root, board.app):
    app.add_typer(commands)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(sweep.app, name="sweep")
board.leaderboard_app.add_typer(site.app)
board.leaderboard_app.add_typer(validate.app)
app.add_typer(board.leaderboard_app, name="leaderboard")


def main() -> None:
    """Entry point of the ``zoo`` command."""
    app()

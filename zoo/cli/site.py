"""The leaderboard as pages: build them, look at them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.common import BoardUrl, group, require_board

if TYPE_CHECKING:
    from leaderboard.board import Board
    from leaderboard.site import Cards

app = group("The leaderboard as pages.")
Pictures = Annotated[
    bool,
    typer.Option(help="Show every dataset's pictures, also those that may not be published: for home."),
]


@app.command("build")
def build(
    output_dir: Annotated[Path, typer.Option(help="New, empty or an older site, which is replaced.")],
    board: BoardUrl = None,
    pictures: Pictures = False,
) -> None:
    """Write a board as one folder of pages that opens from disk and from any file host."""
    from leaderboard.site import build_site

    built = build_site(_board(board), output_dir, _cards(), pictures=pictures)
    for problem in built.problems:
        sys.stderr.write(f"left out: {problem}\n")
    size = built.n_bytes / 1e6
    records, tracks = (
        f"{n} {what}{'s' * (n != 1)}" for n, what in ((built.n_records, "record"), (built.n_tracks, "track"))
    )
    sys.stderr.write(f"{records} on {tracks}, {size:.1f} MB\n")
    sys.stdout.write(f"{built.folder / 'index.html'}\n")


@app.command("serve")
def serve(
    board: BoardUrl = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    pictures: Pictures = False,
) -> None:
    """Build the pages of a board and show them at 127.0.0.1 until interrupted."""
    import tempfile
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from leaderboard.site import build_site

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    kept = _board(board)
    with tempfile.TemporaryDirectory() as folder:
        built = build_site(kept, Path(folder) / "site", _cards(), pictures=pictures)
        for problem in built.problems:
            sys.stderr.write(f"left out: {problem}\n")
        with ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(built.folder))) as server:
            sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}/\n")
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


def _board(url: str | None) -> Board:
    from leaderboard.board import open_board
    from zoo.store import cache_dir

    require_board(url)
    return open_board(url or str(cache_dir("board")))


def _cards() -> Cards:
    from leaderboard.site import Cards
    from zoo import registry

    kinds = {name: getattr(registry, name) for name in ("models", "datasets", "tracks", "metrics")}
    return Cards(**{name: [card.model_dump(mode="json") for card in kind.cards()] for name, kind in kinds.items()})

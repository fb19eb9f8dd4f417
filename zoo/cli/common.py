"""What the commands share: options, errors as one sentence with an exit code, tables and progress."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from zoo.record import Record, Value

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Split = Annotated[str | None, typer.Option(help="Split of the dataset; its default one if omitted.")]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset: see 'zoo list datasets'.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Training seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Accept = Annotated[bool, typer.Option("--accept-license", help="You have read the terms of the dataset and accept.")]
BoardUrl = Annotated[str | None, typer.Option("--board", help="Folder or fsspec URL; this machine's board if omitted.")]


class _Group(typer.core.TyperGroup):
    """Turns the zoo's own errors into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        from zoo.errors import ZooError

        if not sys.stderr.isatty():  # before huggingface_hub is imported: its bars are for those who watch
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            return super().invoke(ctx)
        except ZooError as error:
            _fail(str(error), error.exit_code, error)
        except KeyboardInterrupt as error:
            _fail("interrupted; finished work is kept, run the same command again to go on.", 130, error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe has left: typer ends silently
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # from a library that writes by itself
                message = "no space left on the disk; free some or point ZOO_CACHE at a larger one, then run it again."
            else:
                message = f"the system answered: {error}; check that path or address (ZOO_DEBUG=1 shows who asked)."
            _fail(message, 1, error)


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    if os.environ.get("ZOO_DEBUG"):
        raise error
    sys.stderr.write(f"error: {message}\n")
    raise typer.Exit(code)


def group(about: str) -> typer.Typer:
    """Commands whose errors are one sentence; added without a name, they become commands of the parent."""
    return typer.Typer(
        cls=_Group,
        no_args_is_help=True,
        rich_markup_mode=None,  # plain help: rich would take longer to import than everything else
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=about,
    )


def console() -> Console:
    """Where words and tables go: a terminal as wide as it is, anything else of 120 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_table(table: RenderableType) -> None:
    """To a terminal folded into its width, anywhere else as wide as it needs: a row is a line that can be searched."""
    screen = console()
    if not screen.is_terminal:
        screen.width = max(screen.width, screen.measure(table, options=screen.options.update(width=10_000)).maximum)
    screen.print(table)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_yaml(value: Any) -> None:
    """As YAML, with lists of numbers and single words (channels, concepts) in lines instead of one row each."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def as_list(dumper: Dumper, items: list[Any]) -> yaml.Node:
        words = all(not isinstance(item, list | dict) and " " not in str(item) for item in items)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=words)

    Dumper.add_representer(list, as_list)
    sys.stdout.write(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def settings(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs, values as JSON where they are, else as text."""
    from zoo.errors import UsageError

    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise UsageError(f"--set takes name=value, not {pair!r}.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def shown_progress(quiet: bool) -> Any:
    from zoo.progress import shown

    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return shown(quiet)


def show_record(record: Record, output_dir: Path | None) -> None:
    """The record as a table: metrics down, the model and its controls across."""
    from rich.markup import escape
    from rich.table import Table

    from zoo.store import cache_dir

    screen = console()
    title = escape(f"{record.identity.model} on {record.identity.track}")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("metric", no_wrap=True)
    table.add_column("model [95 %]", justify="right", no_wrap=True)
    width = max([len(metric) for metric, value in record.values.items() if value.value is not None], default=0)
    fit = max(1, (screen.width - width - 26) // 11)
    controls = sorted(record.controls, key=lambda name: (name != "shuffled-eeg", name))[:fit]
    for name in controls:
        table.add_column(escape(name.replace("-", "\n")), justify="right")
    unmeasured: dict[str, list[str]] = {}
    for metric, value in record.values.items():
        if value.value is None:
            unmeasured.setdefault(str(value.reason), []).append(metric)
            continue
        arrow = "↑" if value.higher_is_better else "↓"
        others = (record.controls[name].values.get(metric) for name in controls)
        table.add_row(escape(f"{metric} {arrow}"), number(value, interval=True), *map(number, others))
    screen.print(table)
    if left := sorted({*record.controls} - {*controls}):
        screen.print(f"controls left out, since the screen is narrow: {', '.join(left)}", style="dim", markup=False)
    for reason, metrics in unmeasured.items():
        names = ", ".join(metrics)
        screen.print(f"not measured, {reason}: {names}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if record.provenance.conditioned_on == "label":
        screen.print("a control: it is given the true labels, not EEG", style="yellow")
    if record.audit is not None:
        style = {"clean": "green", "confounded": "bold red"}.get(record.audit.verdict, "yellow")
        sentences = map(escape, record.audit.sentences)
        screen.print(f"split audit: [{style}]{record.audit.verdict}[/]", *sentences, sep="\n  ", highlight=False)
    path = (output_dir or cache_dir("board")) / "records" / record.name
    sys.stderr.write(f"record {record.id[:12]}: {path}\n")


def number(value: Value | None, *, interval: bool = False) -> str:
    if value is None or value.value is None:
        return "–"
    number = f"{value.value:.3g}" if abs(value.value) >= 100 else f"{value.value:.3f}"
    if value.interval is None or not interval:
        return number
    return f"{number} [{value.interval[0]:.3g}, {value.interval[1]:.3g}]"


def require_board(url: str | None) -> None:
    """Refuse a folder that is not there, which would look like an empty board."""
    from zoo.errors import UsageError

    remote = url is None or "://" in url or url.startswith(("hub:", "hf-hub:"))
    if not remote and not Path(str(url)).is_dir():
        raise UsageError(f"--board must be a folder that exists or a URL, but {url} is not; check its spelling.")


def show_board(
    url: str | None, *, track: str | None = None, metrics: Sequence[str] = (), as_json: bool = False
) -> None:
    from leaderboard.board import open_board
    from leaderboard.board import tables as tables_of
    from leaderboard.table import as_json as to_json
    from leaderboard.table import render
    from zoo import registry
    from zoo.errors import UsageError, did_you_mean
    from zoo.store import cache_dir

    require_board(url)
    board = open_board(url or str(cache_dir("board")))
    here = sorted({record.identity.track for record in board.records()})
    if track not in (None, *here, *registry.tracks.names()):
        close = did_you_mean(str(track), here or registry.tracks.names())
        listed = f"Its tracks are: {', '.join(here)}." if here else "See 'zoo list tracks'."
        raise UsageError(f"no record on this board is of track {track!r}{close} {listed}")
    protocols = {(card.id, split.id): split.protocol for card in registry.datasets.cards() for split in card.splits}
    tables = tables_of(board, track=track, protocols=protocols)
    for problem in board.problems:
        sys.stderr.write(f"left out: {problem}\n")
    if as_json:
        print_json(to_json(tables))
        return
    console().print(render(tables, metrics))

"""The command line: parses, calls one function, prints. Data on stdout; progress, hints and errors on stderr.

Exit codes: 0 ok, 1 runtime, 2 usage, 3 gate failed, 4 integrity, 5 needs something that is not here, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from zoo.record import Record

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Split = Annotated[str | None, typer.Option(help="Split of the dataset; its default one if omitted.")]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset: see 'zoo list datasets'.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Training seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
BoardUrl = Annotated[str | None, typer.Option("--board", help="Folder or fsspec URL; this machine's board if omitted.")]


class _Group(typer.core.TyperGroup):
    """Turns the zoo's own errors into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        from zoo.errors import ZooError

        try:
            return super().invoke(ctx)
        except ZooError as error:
            _fail(str(error), error.exit_code, error)
        except KeyboardInterrupt as error:
            _fail("interrupted; finished work is kept, run the same command again to go on.", 130, error)
        except OSError as error:
            if error.errno in (28, 122):  # ENOSPC, EDQUOT, from a library that writes by itself
                _fail(
                    "no space left on the disk; free some or point ZOO_CACHE at a larger one, then run it again.",
                    1,
                    error,
                )
            raise


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    if os.environ.get("ZOO_DEBUG"):
        raise error
    sys.stderr.write(f"error: {message}\n")
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich would take longer to import than everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reference model zoo and benchmark: images out of EEG, EEG out of images.",
)
data_app = typer.Typer(cls=_Group, rich_markup_mode=None, no_args_is_help=True, help="Prepare and check datasets.")
weights_app = typer.Typer(
    cls=_Group, rich_markup_mode=None, no_args_is_help=True, help="Fetch, convert and verify weights."
)
board_app = typer.Typer(cls=_Group, rich_markup_mode=None, no_args_is_help=True, help="Compare records.")
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(board_app, name="leaderboard")


def main() -> None:
    """Entry point of the ``zoo`` command."""
    app()


# ---- what there is


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="models, datasets, metrics or tracks.")], as_json: Json = False
) -> None:
    """List models, datasets, metrics or tracks."""
    from zoo import registry
    from zoo.errors import UsageError

    kinds: dict[str, registry.Registry[Any]] = {
        "models": registry.models,
        "datasets": registry.datasets,
        "metrics": registry.metrics,
        "tracks": registry.tracks,
    }
    if what not in kinds:
        raise UsageError(f"zoo list takes models, datasets, metrics or tracks, not {what!r}.")
    cards = kinds[what].cards()
    if as_json:
        _print_json([card.model_dump(mode="json") for card in cards])
        return
    width = max(34, *(len(card.id) for card in cards))
    for card in cards:
        announced = getattr(card, "builder", "") is None or getattr(card, "loader", "") is None
        note = "announced, not in this release" if announced else _about(card)
        sys.stdout.write(f"{card.id:<{width}} {note}\n")


def _about(card: Any) -> str:
    """One line on a card."""
    if hasattr(card, "headline"):
        return f"{card.dataset}, {card.split}, headline {card.headline}"
    return str(card.title)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A model, dataset, metric or track.")], as_json: Json = False
) -> None:
    """Show the card of a model, dataset, metric or track."""
    from zoo import registry
    from zoo.errors import UnknownNameError

    for kind in (registry.models, registry.datasets, registry.metrics, registry.tracks):
        try:
            card: Any = kind.get(name)
        except UnknownNameError:
            continue
        if as_json:
            _print_json(card.model_dump(mode="json"))
        else:
            import yaml

            shown = card.model_dump(mode="json", exclude_defaults=True)
            sys.stdout.write(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100))
        return
    raise UnknownNameError(f"nothing is called {name!r}; see 'zoo list models', datasets, metrics and tracks.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, cache, what is prepared here, and plugins that failed to load."""
    from zoo import __version__, provenance, registry
    from zoo.hub import offline
    from zoo.metrics.base import extractor_cards
    from zoo.store import cache_dir

    found = {
        "zoo": __version__,
        "cache": str(cache_dir()),
        "offline": offline(),
        "packages": provenance.versions(),
        "hardware": provenance.cpu_name(),
        "datasets": sorted(path.parent.name for path in cache_dir("datasets").glob("*/dataset.json")),
        "weights": sorted(
            f"{path.parent.parent.name}/{path.parent.name}" for path in cache_dir("weights").glob("*/*/weights.json")
        ),
        "extractors": {card.id: _here(card) for card in extractor_cards()},
        "broken plugins": {
            name: why
            for kind in (registry.models, registry.datasets, registry.metrics, registry.tracks)
            for name, why in kind.find_broken().items()
        },
    }
    if as_json:
        _print_json(found)
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100))


def _here(card: Any) -> str:
    from zoo.errors import MissingError
    from zoo.metrics.base import weights_path

    try:
        weights_path(card)
    except MissingError as error:
        return str(error).replace("\n", " ")
    return "here"


# ---- data


@data_app.command("prepare")
def data_prepare(
    name: str,
    source: Annotated[Path | None, typer.Option(help="The files as their authors distribute them.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures, one folder per class.")] = None,
    quiet: Quiet = False,
) -> None:
    """Convert your copy of a dataset into the standard layout, with checksums."""
    from zoo.datasets.base import load, prepare

    with _progress(quiet) as progress:
        folder = prepare(name, source=source, images=images, progress=progress)
    data = load(name)
    for sentence in data.report:
        sys.stderr.write(f"{sentence}\n")
    sys.stderr.write(f"{data!r}; pictures: {data.stimuli_source}\n")
    sys.stdout.write(f"{folder}\n")


@data_app.command("check")
def data_check(name: str) -> None:
    """Compare a prepared dataset with what was written down about it."""
    from zoo.datasets.base import check
    from zoo.errors import IntegrityError

    differs = check(name)
    if differs:
        raise IntegrityError("\n".join(differs))
    sys.stdout.write(f"{name}: every file, the trials and the splits are what they should be\n")


@app.command()
def audit(dataset: str, split: Split = None, as_json: Json = False) -> None:
    """Ask whether a split lets a decoder know the class without the brain; exit 3 if so."""
    from zoo.datasets.base import load
    from zoo.errors import GateError
    from zoo.runner import audit as run

    data = load(dataset)
    chosen = data.split(split)
    report = run(data, chosen)
    if as_json:
        _print_json({"split": chosen.id, "verdict": report.verdict, **report.evidence})
    else:
        sys.stdout.write(
            f"{data.id} {chosen.id}: {report.verdict}\n" + "".join(f"  {line}\n" for line in report.sentences)
        )
    if report.verdict == "confounded":
        raise GateError(f"{data.id} {chosen.id} is confounded: scores on it are not evidence of decoding.")


# ---- the main job


@app.command()
def train(
    model: str,
    dataset: Dataset,
    split: Split = None,
    seed: Seed = 0,
    select: Annotated[str, typer.Option(help="val: best validation score; last: no choice.")] = "val",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Config field to change, as name=value.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a model on a split; the same command resumes."""
    from zoo.runner import train as run

    with _progress(quiet) as progress:
        folder = run(
            model,
            dataset,
            split=split,
            seed=seed,
            select=select,  # type: ignore[arg-type]
            overrides=_settings(settings or []),
            device=device,
            progress=progress,
        )
    sys.stdout.write(f"{folder}\n")


def _settings(pairs: list[str]) -> dict[str, Any]:
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


@app.command("eval")
def eval_(
    model: str,
    dataset: Dataset,
    split: Split = None,
    weights: Annotated[str | None, typer.Option(help="Weights folder or name; those of this split if omitted.")] = None,
    seed: Seed = 0,
    replicates: Annotated[int | None, typer.Option(help="Images per trial; the track's number if omitted.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Must be measurable here, else exit 5.")] = None,
    limit: Annotated[int | None, typer.Option(help="Score only so many test trials: a partial record.")] = None,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Moves no number; on a cpu batches are fixed.")] = 64,
    shard: Annotated[str | None, typer.Option(help="K/N: compute only this part, 0 <= K < N.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where records/ grows.")] = None,
    again: Annotated[bool, typer.Option(help="Score although this record is here already.")] = False,
    offline: Annotated[bool, typer.Option(help="Never ask the network.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model and its controls on a split, and write the record."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from zoo.runner import evaluate
    from zoo.stages import ShardsMissingError

    try:
        with _progress(quiet) as progress:
            record = evaluate(
                model,
                dataset,
                split=split,
                weights=weights,
                seed=seed,
                replicates=replicates,
                metrics=tuple(metrics or ()),
                limit=limit,
                device=device,
                batch_size=batch_size,
                shard=_shard(shard),
                output_dir=output_dir,
                again=again,
                progress=progress,
            )
    except ShardsMissingError:
        sys.stderr.write(f"shard {shard} is done; when all are, run the command without --shard.\n")
        return
    if as_json:
        _print_json({"id": record.id, **record.model_dump(mode="json")})
    else:
        _show_record(record, output_dir)


def _shard(text: str | None) -> tuple[int, int] | None:
    from zoo.errors import UsageError

    if text is None:
        return None
    rank, _, world = text.partition("/")
    if not (rank.isdigit() and world.isdigit()):
        raise UsageError(f"--shard takes K/N, for example 0/3, not {text!r}.")
    return int(rank), int(world)


def _show_record(record: Record, output_dir: Path | None) -> None:
    """The record as a table: metrics down, the model and its controls across."""
    from rich.console import Console
    from rich.table import Table

    from zoo.store import cache_dir

    table = Table(title=f"{record.identity.model} on {record.identity.track}", title_justify="left")
    table.add_column("metric", no_wrap=True)
    systems = {"model": record.values, **{name: system.values for name, system in record.controls.items()}}
    for name in systems:
        table.add_column(name, justify="right")
    for metric, value in record.values.items():
        arrow = "↑" if value.higher_is_better else "↓"
        if value.value is not None:
            table.add_row(f"{metric} {arrow}", *(_number(found.get(metric)) for found in systems.values()))
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(table)
    for metric, value in record.values.items():
        if value.value is None:
            console.print(f"{metric}: not measured, {value.reason}", style="dim", highlight=False)
    if record.audit is not None:
        style = {"clean": "green", "confounded": "bold red"}.get(record.audit.verdict, "yellow")
        console.print(
            f"split audit: [{style}]{record.audit.verdict}[/]", *record.audit.sentences, sep="\n  ", highlight=False
        )
    path = (output_dir or cache_dir("board")) / "records" / record.name
    sys.stderr.write(f"record {record.id[:12]}: {path}\n")


def _number(value: Any) -> str:
    if value is None or value.value is None:
        return "–"
    if value.interval is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.interval[0]:.3f}, {value.interval[1]:.3f}]"


@app.command()
def demo(quiet: Quiet = False) -> None:
    """The main job in four minutes on a laptop: phantom data, training, evaluation, controls, board, pictures."""
    from zoo.demo import run

    with _progress(quiet) as progress:
        result = run(progress)
    _show_record(result.record, None)
    _show_board(None, track=result.record.identity.track)
    sys.stderr.write(f"sample grid: {result.grid}\n")


# ---- weights


@weights_app.command("pull")
def weights_pull(
    name: Annotated[str, typer.Argument(help="A model or a feature extractor.")], quiet: Quiet = False
) -> None:
    """Fetch published weights, pinned and verified."""
    from zoo import registry
    from zoo.errors import MissingError
    from zoo.hub import fetch
    from zoo.metrics.base import extractor_cards
    from zoo.weights import announced

    files = {card.id: [card.file] if card.file else [] for card in extractor_cards()}
    if name not in files:
        card = registry.models.get(name)
        if card.builder is None:
            raise announced(card)
        if not card.weights:
            raise MissingError(
                f"no weights of {card.id} are published yet.\nto make them, run: zoo train {card.id} --dataset DATASET"
            )
        files[name] = [published.file for published in card.weights]
    for file in files[name]:
        if (file.url or "").startswith("package:"):
            sys.stderr.write(f"{file.path} comes with an installed package; nothing to fetch.\n")
            continue
        with _progress(quiet) as progress:
            sys.stdout.write(f"{fetch(file, progress=progress)}\n")


@weights_app.command("convert")
def weights_convert(
    model: str,
    source: Annotated[Path, typer.Option("--from", help="Folder or prefix of the original checkpoint.")],
) -> None:
    """Turn an original checkpoint into safetensors with a receipt, executing none of its code."""
    from zoo.conversion import convert

    folder, receipt = convert(model, source)
    for name, value in receipt["forward_check"].items():
        sys.stderr.write(f"forward check, {name}: largest difference {value:.2g}\n")
    sys.stdout.write(f"{folder}\n")


@weights_app.command("verify")
def weights_verify(folder: Path) -> None:
    """Check a weights folder: its sha256, and every tensor against the model."""
    from zoo.weights import load

    _, found = load(folder)
    sys.stdout.write(
        f"{found.model}: {', '.join(found.parts)} from {found.source} weights {found.sha256[:16]}…, all tensors fit\n"
    )


# ---- board


@app.command()
def push(
    records: Annotated[list[Path], typer.Argument(help="Record files; their per-unit values lie beside them.")],
    board: Annotated[str, typer.Option("--board", help="Folder or fsspec URL.")],
    allow_partial: Annotated[bool, typer.Option(help="Push partial records too.")] = False,
) -> None:
    """Put records on a board; one that is there already is left alone."""
    from leaderboard.board import FsBoard
    from zoo.record import Record

    for path in records:
        units = path.with_suffix(".units.parquet")
        place = FsBoard(board).push(
            Record.read(path), units.read_bytes() if units.exists() else None, allow_partial=allow_partial
        )
        sys.stdout.write(f"{place}\n")


@board_app.command("show")
def leaderboard_show(
    board: BoardUrl = None,
    track: Annotated[str | None, typer.Option(help="Only this track.")] = None,
    as_json: Json = False,
) -> None:
    """Rank records, one table per track, controls included."""
    _show_board(board, track=track, as_json=as_json)


def _show_board(url: str | None, *, track: str | None = None, as_json: bool = False) -> None:
    from leaderboard.board import FsBoard
    from leaderboard.ranking import rank
    from leaderboard.table import as_json as to_json
    from leaderboard.table import render
    from zoo.errors import UsageError
    from zoo.store import cache_dir

    board = FsBoard(url or str(cache_dir("board")))
    if url is not None and "://" not in url and not Path(url).is_dir():
        raise UsageError(f"--board must be a folder that exists or a URL, but {url} is not; check its spelling.")
    tables = rank([record for record in board.records() if track in (None, record.identity.track)])
    for problem in board.problems:
        sys.stderr.write(f"left out: {problem}\n")
    if as_json:
        _print_json(to_json(tables))
        return
    from rich.console import Console

    Console().print(render(tables))


# ---- output


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _progress(quiet: bool) -> Any:
    from zoo.progress import shown

    return shown(quiet)


if __name__ == "__main__":
    main()

"""The command line: parses, calls one function, prints. Data on stdout; progress, hints and errors on stderr.

Exit codes: 0 ok, 1 runtime, 2 usage, 3 gate failed, 4 integrity, 5 needs something that is not here, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.record import Record, Value

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Split = Annotated[str | None, typer.Option(help="Split of the dataset; its default one if omitted.")]
Dataset = Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset: see 'zoo list datasets'.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Training seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Accept = Annotated[bool, typer.Option("--accept-license", help="You have read the terms of the dataset and accept.")]
MEASURED_SECONDS = 5.0
"""Of training before anything is said about how long it will take."""
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


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich would take longer to import than everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reference model zoo and benchmark: images out of EEG, EEG out of images.",
)
data_app = typer.Typer(cls=_Group, rich_markup_mode=None, no_args_is_help=True, help="Prepare, check, share datasets.")
weights_app = typer.Typer(
    cls=_Group, rich_markup_mode=None, no_args_is_help=True, help="Fetch, share, convert and verify weights."
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
    what: Annotated[str, typer.Argument(help="models, datasets, metrics, tracks or extractors.")], as_json: Json = False
) -> None:
    """List models, datasets, metrics, tracks or extractors."""
    from zoo.errors import UsageError
    from zoo.store import cache_dir

    kinds = _kinds()
    if what not in kinds:
        raise UsageError(f"zoo list takes models, datasets, metrics, tracks or extractors, not {what!r}.")
    cards = kinds[what]()
    if as_json:
        _print_json([card.model_dump(mode="json") for card in cards])
        return
    width = max(34, *(len(card.id) for card in cards))
    here = {path.parent.name for path in cache_dir("datasets").glob("*/dataset.json")} if what == "datasets" else set()
    for card in cards:
        announced = getattr(card, "builder", "") is None or getattr(card, "loader", "") is None
        note = "announced, not in this release" if announced and card.id not in here else _about(card)
        sys.stdout.write(f"{card.id:<{width}} {note}\n")


def _kinds() -> dict[str, Callable[[], list[Any]]]:
    """Everything that has a card, by the word of ``zoo list``."""
    from zoo import registry

    def extractors() -> list[Any]:
        from zoo.metrics.base import extractor_cards  # imports numpy, which no other list needs

        return extractor_cards()

    return {
        "models": registry.models.cards,
        "datasets": registry.datasets.cards,
        "metrics": registry.metrics.cards,
        "tracks": registry.tracks.cards,
        "extractors": extractors,
    }


def _about(card: Any) -> str:
    """One line on a card."""
    if hasattr(card, "headline"):
        return f"{card.dataset}, {card.split}, headline {card.headline}"
    return str(card.title)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A model, dataset, metric, track or extractor.")], as_json: Json = False
) -> None:
    """Show the card of a model, dataset, metric, track or extractor."""
    from zoo.errors import UnknownNameError, did_you_mean

    cards: dict[str, Any] = {}
    for kind in _kinds().values():
        cards |= {called: card for card in kind() for called in (card.id, *getattr(card, "aliases", ()))}
        if name in cards:
            break
    else:
        raise UnknownNameError(
            f"nothing is called {name!r}{did_you_mean(name, cards)} "
            "See 'zoo list models', datasets, metrics, tracks and extractors."
        )
    if as_json:
        _print_json(cards[name].model_dump(mode="json"))
    else:
        _print_yaml(cards[name].model_dump(mode="json", exclude_defaults=True))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, cache, what is prepared here, plugins that failed; remove what killed runs left in the cache."""
    from zoo import __version__, provenance, registry
    from zoo.hub import offline
    from zoo.metrics.base import extractor_cards
    from zoo.store import cache_dir, sweep

    count, size = sweep(cache_dir())
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
        "unfinished files removed": {"count": count, "bytes": size},
    }
    if as_json:
        _print_json(found)
    else:
        _print_yaml(found)


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
    accept_licence: Accept = False,
    quiet: Quiet = False,
) -> None:
    """Convert your copy of a dataset into the standard layout, with checksums."""
    from zoo.datasets.base import prepare

    with _progress(quiet) as progress:
        folder = prepare(name, source=source, images=images, accept_licence=accept_licence, progress=progress)
    _show_prepared(name, folder)


@data_app.command("pull")
def data_pull(
    name: str,
    source: Annotated[
        str | None, typer.Option("--from", help="hf-hub:organisation/name@revision; the pinned repo if omitted.")
    ] = None,
    accept_licence: Accept = False,
    quiet: Quiet = False,
) -> None:
    """Bring a dataset from the Hub, proven by its checksums."""
    from zoo.datasets.pulling import pull

    with _progress(quiet) as progress:
        pulled = pull(name, source=source, accept_licence=accept_licence, progress=progress)
    sys.stderr.write(f"{pulled.told}\n")
    _show_prepared(name, pulled.folder)


@data_app.command("push")
def data_push(
    name: str,
    repo: Annotated[str | None, typer.Option(help="organisation/name; ours and the dataset's if omitted.")] = None,
    pr: Annotated[bool, typer.Option("--pr/--no-pr", help="Propose a pull request, or commit.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and bytes, send nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Send a prepared dataset to the Hub, as far as its licence lets us host it."""
    from zoo.datasets.sharing import push

    with _progress(quiet) as progress:
        pushed = push(name, repo=repo, create_pr=pr, dry_run=dry_run, progress=progress)
    count = f"{len(pushed.files)} files, {sum(pushed.files.values()):,} bytes"
    if pushed.url is None:
        sys.stdout.write("".join(f"{size:>14,}  {path}\n" for path, size in pushed.files.items()))
        sys.stderr.write(f"{count} would go to {pushed.repo}; nothing was sent.\n")
    else:
        sys.stderr.write(f"{count} {'went to' if pushed.url.new else 'are the same as in'} {pushed.repo}.\n")
        sys.stdout.write(f"{pushed.url}\n")


@data_app.command("info")
def data_info(name: str, as_json: Json = False) -> None:
    """Show a dataset's card, its splits, and what of it is here."""
    from zoo.datasets.info import describe

    found = describe(name)
    if as_json:
        _print_json(found)
    else:
        found["card"] = {key: value for key, value in found["card"].items() if value not in (None, [], {})}
        _print_yaml(found)


def _show_prepared(name: str, folder: Path) -> None:
    from zoo.datasets.base import load

    data = load(name)
    for sentence in data.report:
        sys.stderr.write(f"{sentence}\n")
    sys.stderr.write(f"{data!r}; pictures: {data.stimuli_source}\n")
    sys.stdout.write(f"{folder}\n")


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="Its id from now on: a-z, 0-9 and hyphens.")],
    source: Annotated[Path, typer.Option(help="MNE epochs (.fif), an .npz file, a folder of either, or a BIDS root.")],
    images: Annotated[Path | None, typer.Option(help="Pictures shown, or one folder of pictures per concept.")] = None,
    concept: Annotated[str | None, typer.Option(help="Column of the class; 'concept' or event names.")] = None,
    stimulus: Annotated[str | None, typer.Option(help="Column of the picture shown; 'stimulus_id'.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column, or one value; 'subject' or the file's sub-.")] = None,
    session: Annotated[str | None, typer.Option(help="Column, or one value; 'session' or the file's ses-.")] = None,
    run: Annotated[str | None, typer.Option(help="Column, or one value; 'run' or the file's run-.")] = None,
    events: Annotated[list[str] | None, typer.Option(help="Keep only this event, as VALUE or VALUE=CONCEPT.")] = None,
    tmin: Annotated[float | None, typer.Option(help="First sample kept, in seconds from onset.")] = None,
    tmax: Annotated[float | None, typer.Option(help="Last sample kept, in seconds from onset.")] = None,
    unit: Annotated[str, typer.Option(help="V, or a.u. for standardised EEG.")] = "V",
    pairing: Annotated[str | None, typer.Option(help="instance, class or none.")] = None,
    splits: Annotated[str | None, typer.Option(help="Names with commas between; all that can be cut.")] = None,
    title: Annotated[str | None, typer.Option(help="What it is, for lists.")] = None,
    licence: Annotated[str, typer.Option(help="Shown with it.")] = "not stated",
    citation: Annotated[str, typer.Option(help="Shown with it.")] = "not stated",
    hosts: Annotated[str, typer.Option(help="What a push may send: everything, recordings or splits.")] = "splits",
    replace: Annotated[bool, typer.Option("--replace", help="Even if added with other settings before.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make recordings of your own a dataset: listed, audited, trained on and evaluated like any other."""
    from zoo.datasets.own import add

    with _progress(quiet) as progress:
        folder = add(
            name,
            source,
            images=images,
            concept=concept,
            stimulus=stimulus,
            subject=subject,
            session=session,
            run=run,
            events={value: to or value for value, _, to in (event.partition("=") for event in events or ())},
            tmin=tmin,
            tmax=tmax,
            unit=unit,
            pairing=pairing,
            splits=[split.strip() for split in splits.split(",")] if splits else (),
            title=title,
            licence=licence,
            citation=citation,
            hosts=hosts,
            replace=replace,
            progress=progress,
        )
    _show_prepared(name, folder)


@data_app.command("check")
def data_check(name: str) -> None:
    """Compare a prepared dataset with what was written down about it."""
    from zoo.datasets.base import check, load
    from zoo.errors import IntegrityError

    differs = check(name)
    if differs:
        raise IntegrityError("\n".join(differs))
    sys.stdout.write(f"{name}: every file, the trials and the splits are what they should be\n")
    if not (data := load(name)).complete:
        sys.stderr.write(f"this copy is partial: its splits {', '.join(data.split_ids)} belong to no other copy.\n")


@app.command()
def audit(
    dataset: str,
    split: Split = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the evidence, as PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Ask whether a split lets a decoder know the class without the brain; exit 3 if so."""
    from zoo.datasets.base import load
    from zoo.errors import GateError
    from zoo.runner import audit as run

    data = load(dataset)
    chosen = data.split(split)
    report = run(data, chosen)
    if as_json:
        told = {"verdict": report.verdict, **report.evidence, "sentences": report.sentences}
        _print_json({"dataset": data.id, "split": chosen.id, **told})
    else:
        sys.stdout.write(
            f"{data.id} {chosen.id}: {report.verdict}\n" + "".join(f"  {line}\n" for line in report.sentences)
        )
    if plot is not None:
        from zoo.audits.leakage import timeline
        from zoo.plots import audit_plot

        shown = timeline(data.trials, data.labels)
        audit_plot(report, shown, plot, concepts=data.concepts, title=f"{data.id} {chosen.id}: {report.verdict}")
        sys.stderr.write(f"plot: {plot}\n")
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
            progress=progress if quiet else _with_hint(progress, model, device),
        )
    sys.stdout.write(f"{folder}\n")


def _with_hint(progress: Callable[[int, int, str], None], model: str, device: str) -> Callable[[int, int, str], None]:
    """``progress`` that also says, once a phase, if training takes hours on this cpu, as the published recipes do."""
    from zoo import registry
    from zoo.plan import pick_device

    if pick_device(device) != "cpu":
        return progress
    small = f"{registry.models.get(model).family}.small"
    others = f"train {small}, " if small in registry.models.names() and small != model else ""
    begun: dict[str, tuple[float, int]] = {}
    told: set[str] = set()

    def update(done: int, total: int, what: str) -> None:
        progress(done, total, what)
        name, now = what.partition(" (")[0], time.monotonic()
        start, first = begun.setdefault(name, (now, done))
        if name in told or now - start < MEASURED_SECONDS or done == first:
            return
        hours = (total - done) * (now - start) / (done - first) / 3600
        if hours >= 1:
            told.add(name)
            sys.stderr.write(
                f"hint: {name} has {total - done:,} steps to go, about {hours:.0f} h on this cpu at the present speed; "
                f"to be faster, {others}set fewer steps with --set, or use a GPU.\n"
            )

    return update


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
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset, or a track of one.")],
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
                say=lambda sentence: quiet or sys.stderr.write(f"{sentence}\n"),
            )
    except ShardsMissingError:
        sys.stderr.write(f"shard {shard} is done; when all are, run the command without --shard.\n")
        return
    if as_json:
        _print_json({"id": record.id, **record.model_dump(mode="json")})
    else:
        _show_record(record, output_dir)


@app.command()
def generate(
    model: str,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A prepared dataset, or a track of one.")],
    split: Split = None,
    weights: Annotated[str | None, typer.Option(help="Weights folder or name; those of this split if omitted.")] = None,
    role: Annotated[str, typer.Option(help="Whose trials: train, val or test.")] = "test",
    seed: Seed = 0,
    replicates: Annotated[int | None, typer.Option(help="Images per trial; the track's number if omitted.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many trials; moves no image.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="New or empty folder; one in the cache if omitted.")] = None,
    format_: Annotated[str, typer.Option("--format", help="png: a file per image; npy: one array.")] = "png",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Moves no image; on a cpu batches are fixed.")] = 64,
    offline: Annotated[bool, typer.Option(help="Never ask the network.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write the images that a model makes of trials: a folder of samples with a manifest and a grid."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from zoo.samples import generate as run

    with _progress(quiet) as progress:
        folder = run(
            model,
            dataset,
            role=role,  # type: ignore[arg-type]
            format=format_,  # type: ignore[arg-type]
            output_dir=output_dir,
            split=split,
            weights=weights,
            seed=seed,
            replicates=replicates,
            limit=limit,
            device=device,
            batch_size=batch_size,
            progress=progress,
            say=lambda sentence: quiet or sys.stderr.write(f"{sentence}\n"),
        )
    sys.stdout.write(f"{folder}\n")


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
    from rich.markup import escape
    from rich.table import Table

    from zoo.store import cache_dir

    console = _console()
    title = escape(f"{record.identity.model} on {record.identity.track}")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("metric", no_wrap=True)
    table.add_column("model [95 %]", justify="right", no_wrap=True)
    width = max([len(metric) for metric, value in record.values.items() if value.value is not None], default=0)
    fit = max(1, (console.width - width - 26) // 11)
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
        table.add_row(escape(f"{metric} {arrow}"), _number(value, interval=True), *map(_number, others))
    console.print(table)
    if left := sorted({*record.controls} - {*controls}):
        console.print(f"controls left out, since the screen is narrow: {', '.join(left)}", style="dim", markup=False)
    for reason, metrics in unmeasured.items():
        names = ", ".join(metrics)
        console.print(f"not measured, {reason}: {names}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if record.provenance.conditioned_on == "label":
        console.print("a control: it is given the true labels, not EEG", style="yellow")
    if record.audit is not None:
        style = {"clean": "green", "confounded": "bold red"}.get(record.audit.verdict, "yellow")
        sentences = map(escape, record.audit.sentences)
        console.print(f"split audit: [{style}]{record.audit.verdict}[/]", *sentences, sep="\n  ", highlight=False)
    path = (output_dir or cache_dir("board")) / "records" / record.name
    sys.stderr.write(f"record {record.id[:12]}: {path}\n")


def _number(value: Value | None, *, interval: bool = False) -> str:
    if value is None or value.value is None:
        return "–"
    number = f"{value.value:.3g}" if abs(value.value) >= 100 else f"{value.value:.3f}"
    if value.interval is None or not interval:
        return number
    return f"{number} [{value.interval[0]:.3g}, {value.interval[1]:.3g}]"


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A record file, the first digits of a record id, or a model on the board.")],
    b: Annotated[str | None, typer.Argument(help="The other one; a control of the same record if omitted.")] = None,
    control: Annotated[str | None, typer.Option(help="Control to compare A with; shuffled-eeg if omitted.")] = None,
    track: Annotated[str | None, typer.Option(help="Where models are compared.")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Only these, chosen before looking.")] = None,
    board: BoardUrl = None,
    as_json: Json = False,
) -> None:
    """Test on the same trials whether one record is better than another, or than its own control."""
    from dataclasses import asdict

    from leaderboard.board import FsBoard
    from leaderboard.compare import compare as run
    from leaderboard.compare import find_sides
    from leaderboard.ranking import SHUFFLED
    from leaderboard.table import render_comparison
    from zoo.errors import UsageError
    from zoo.store import cache_dir

    if b is not None and control is not None:
        raise UsageError(f"--control is for one record beside its own control; leave it out or leave out {b}.")
    url = board or str(cache_dir("board"))
    if board is not None and "://" not in board and not Path(board).is_dir():
        raise UsageError(f"--board must be a folder that exists or a URL, but {board} is not; check its spelling.")
    kept = FsBoard(url)
    records = [*kept.records()]
    for problem in kept.problems:
        sys.stderr.write(f"left out: {problem}\n")
    sides = find_sides(a, b, board=url, records=records, track=track, control=control or SHUFFLED)
    found = run(*sides, metrics=metrics or ())
    if as_json:
        _print_json(asdict(found))
        return
    _console().print(render_comparison(found))


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
    name: Annotated[str, typer.Argument(help="A model or a feature extractor.")],
    source: Annotated[
        str | None, typer.Option("--from", help="hf-hub:organisation/name@revision; the pinned repos if omitted.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch published weights, pinned and verified."""
    from zoo import hub, modelrepo, registry
    from zoo.errors import MissingError, UnknownNameError, UsageError, did_you_mean
    from zoo.metrics.base import PACKAGED, extractor_cards
    from zoo.weights import announced

    def say(sentence: str) -> None:
        sys.stderr.write(f"{sentence}\n")

    files = {card.id: card.file for card in extractor_cards()}
    if name in files:
        file = files[name]
        if source is not None:
            raise UsageError(f"--from is for the weights of models, but {name} is an extractor; leave it out.")
        if file is None:
            say(f"{name} has no weights; nothing to fetch.")
        elif (file.url or "").startswith(PACKAGED):
            say(f"{file.path} comes with an installed package; nothing to fetch.")
        else:
            with _progress(quiet) as progress:
                sys.stdout.write(f"{hub.fetch(file, progress=progress)}\n")
        return
    try:
        card = registry.models.get(name)
    except UnknownNameError as error:
        close = did_you_mean(name, [*files, *registry.models.names()])
        ready = [found for found, file in files.items() if file and not (file.url or "").startswith(PACKAGED)]
        ready += [found.id for found in registry.models.cards() if found.weights]
        raise UnknownNameError(
            f"no model or extractor is called {name!r}{close} Weights can be pulled for: {', '.join(ready)}."
        ) from error
    if card.builder is None:
        raise announced(card)
    if source is not None:
        place = hub.Place.parse(source)
        with _progress(quiet) as progress:
            sys.stdout.write(f"{modelrepo.pull(card.id, place, say=say, progress=progress)}\n")
        return
    if not card.weights:
        raise MissingError(
            f"no weights of {card.id} are published yet.\nto make them, run: zoo train {card.id} --dataset DATASET"
        )
    for published in card.weights:
        with _progress(quiet) as progress:
            sys.stdout.write(f"{modelrepo.pull_pinned(card, published, say=say, progress=progress)}\n")


@weights_app.command("push")
def weights_push(
    name: Annotated[str, typer.Argument(metavar="MODEL[/NAME]", help="A model, or one of its weights here.")],
    repo: Annotated[str | None, typer.Option(help="organisation/name; ours, MODEL-DATASET if omitted.")] = None,
    records: Annotated[list[Path] | None, typer.Option("--record", help="A record of these weights.")] = None,
    pr: Annotated[bool, typer.Option("--pr/--no-pr", help="Propose a pull request, or commit.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and bytes, send nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the model repo of weights: tensors, config, receipt, model card with claims and results."""
    from zoo.modelrepo import push

    model, _, called = name.partition("/")
    with _progress(quiet) as progress:
        pushed = push(
            model, called or None, repo=repo, records=records or (), create_pr=pr, dry_run=dry_run, progress=progress
        )
    count = f"{len(pushed.files)} files, {sum(pushed.files.values()):,} bytes"
    sys.stderr.write(f"sha256: {pushed.sha256}   info_sha256: {pushed.info_sha256}   (to pin them on the card)\n")
    if pushed.url is None:
        sys.stdout.write("".join(f"{size:>14,}  {path}\n" for path, size in pushed.files.items()))
        sys.stderr.write(f"{count} would go to {pushed.repo}; nothing was sent.\n")
    else:
        sys.stderr.write(f"{count} {'went to' if pushed.url.new else 'are the same as in'} {pushed.repo}.\n")
        sys.stdout.write(f"{pushed.url}\n")


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
    """Check a weights folder: its sha256, every tensor against the model, and what the model makes of noise."""
    from zoo.errors import UsageError
    from zoo.weights import load

    if not folder.is_dir():
        raise UsageError(f"a weights folder must exist, but {folder} does not; check its spelling.")
    _, found = load(folder)
    if not found.forward:
        sys.stderr.write("no forward check: what the model makes of noise was not written down with these weights\n")
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
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Show this metric too.")] = None,
    as_json: Json = False,
) -> None:
    """Rank records, one table per track, controls included."""
    from zoo import registry

    names = [registry.metrics.get(name).id for name in metrics or ()]
    _show_board(board, track=track, metrics=names, as_json=as_json)


def _show_board(
    url: str | None, *, track: str | None = None, metrics: Sequence[str] = (), as_json: bool = False
) -> None:
    from leaderboard.board import FsBoard
    from leaderboard.ranking import rank
    from leaderboard.table import as_json as to_json
    from leaderboard.table import render
    from zoo import registry
    from zoo.errors import UsageError, did_you_mean
    from zoo.store import cache_dir

    board = FsBoard(url or str(cache_dir("board")))
    if url is not None and "://" not in url and not Path(url).is_dir():
        raise UsageError(f"--board must be a folder that exists or a URL, but {url} is not; check its spelling.")
    records = list(board.records())
    here = sorted({record.identity.track for record in records})
    if track not in (None, *here, *registry.tracks.names()):
        close = did_you_mean(str(track), here or registry.tracks.names())
        listed = f"Its tracks are: {', '.join(here)}." if here else "See 'zoo list tracks'."
        raise UsageError(f"no record on this board is of track {track!r}{close} {listed}")
    tables = rank([record for record in records if track in (None, record.identity.track)])
    for problem in board.problems:
        sys.stderr.write(f"left out: {problem}\n")
    if as_json:
        _print_json(to_json(tables))
        return
    _console().print(render(tables, metrics))


# ---- output


def _console() -> Console:
    """Where tables go: a terminal as wide as it is, anything else as wide as a table needs."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=120)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _print_yaml(value: Any) -> None:
    """As YAML, with lists of numbers and single words (channels, concepts) in lines instead of one row each."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def as_list(dumper: Dumper, items: list[Any]) -> yaml.Node:
        words = all(not isinstance(item, list | dict) and " " not in str(item) for item in items)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=words)

    Dumper.add_representer(list, as_list)
    sys.stdout.write(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def _progress(quiet: bool) -> Any:
    from zoo.progress import shown

    if quiet or not sys.stderr.isatty():  # before huggingface_hub is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return shown(quiet)


if __name__ == "__main__":
    main()

"""Datasets: prepare, pull, push, check, add, audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import Accept, Json, Quiet, Split, group, print_json, print_yaml, shown_progress

app = group("Prepare, check, share datasets.")
root = group("Datasets, without a word before.")


@app.command("prepare")
def data_prepare(
    name: str,
    source: Annotated[Path | None, typer.Option(help="The files as their authors distribute them.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures, one folder per class.")] = None,
    accept_licence: Accept = False,
    quiet: Quiet = False,
) -> None:
    """Convert your copy of a dataset into the standard layout, with checksums."""
    from zoo.datasets.base import prepare

    with shown_progress(quiet) as progress:
        folder = prepare(name, source=source, images=images, accept_licence=accept_licence, progress=progress)
    _show_prepared(name, folder)


@app.command("pull")
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

    with shown_progress(quiet) as progress:
        pulled = pull(name, source=source, accept_licence=accept_licence, progress=progress)
    sys.stderr.write(f"{pulled.told}\n")
    _show_prepared(name, pulled.folder)


@app.command("push")
def data_push(
    name: str,
    repo: Annotated[str | None, typer.Option(help="organisation/name; ours and the dataset's if omitted.")] = None,
    pr: Annotated[bool, typer.Option("--pr/--no-pr", help="Propose a pull request, or commit.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and bytes, send nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Send a prepared dataset to the Hub, as far as its licence lets us host it."""
    from zoo.datasets.sharing import push

    with shown_progress(quiet) as progress:
        pushed = push(name, repo=repo, create_pr=pr, dry_run=dry_run, progress=progress)
    count = f"{len(pushed.files)} files, {sum(pushed.files.values()):,} bytes"
    if pushed.url is None:
        sys.stdout.write("".join(f"{size:>14,}  {path}\n" for path, size in pushed.files.items()))
        sys.stderr.write(f"{count} would go to {pushed.repo}; nothing was sent.\n")
    else:
        sys.stderr.write(f"{count} {'went to' if pushed.url.new else 'are the same as in'} {pushed.repo}.\n")
        sys.stdout.write(f"{pushed.url}\n")


@app.command("info")
def data_info(name: str, as_json: Json = False) -> None:
    """Show a dataset's card, its splits, and what of it is here."""
    from zoo.datasets.info import describe

    found = describe(name)
    if as_json:
        print_json(found)
    else:
        found["card"] = {key: value for key, value in found["card"].items() if value not in (None, [], {})}
        print_yaml(found)


def _show_prepared(name: str, folder: Path) -> None:
    from zoo.datasets.base import load

    data = load(name)
    for sentence in data.report:
        sys.stderr.write(f"{sentence}\n")
    sys.stderr.write(f"{data!r}; pictures: {data.stimuli_source}\n")
    sys.stdout.write(f"{folder}\n")


@app.command("add")
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

    with shown_progress(quiet) as progress:
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


@app.command("check")
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


@root.command()
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
        print_json({"dataset": data.id, "split": chosen.id, **told})
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

"""Weights of models and extractors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.common import Quiet, group, shown_progress

app = group("Fetch, share, convert and verify weights.")


@app.command("pull")
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
    from zoo.metrics.base import extractor_cards
    from zoo.packaged import PACKAGED
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
            with shown_progress(quiet) as progress:
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
        with shown_progress(quiet) as progress:
            sys.stdout.write(f"{modelrepo.pull(card.id, place, say=say, progress=progress)}\n")
        return
    if not card.weights:
        raise MissingError(
            f"no weights of {card.id} are published yet.\nto make them, run: zoo train {card.id} --dataset DATASET"
        )
    for published in card.weights:
        with shown_progress(quiet) as progress:
            sys.stdout.write(f"{modelrepo.pull_pinned(card, published, say=say, progress=progress)}\n")


@app.command("push")
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
    with shown_progress(quiet) as progress:
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


@app.command("convert")
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


@app.command("verify")
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

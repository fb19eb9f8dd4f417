"""Model repos on the Hub: a weights folder with what a stranger needs to use it and to judge it, out and back in.

Layout of a repo:
    model.safetensors   the tensors
    weights.json        what they are: model, config, recordings, training, sha256, receipt, forward fingerprint
    config.json         the part of it that describes the network, under the name other programs look for
    README.md           model card: how to load, what was claimed, what was measured
    records/*.json      the records of those measurements

Only the first two are ever read back. Nothing of a repo is executed.
"""

from __future__ import annotations

import html
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo import __version__, hub, registry, store, weights
from zoo.errors import GateError, IntegrityError, MissingError, UsageError, did_you_mean
from zoo.record import Record, Value
from zoo.specs import Claim, File, ModelCard, Weights
from zoo.weights import WeightsInfo

INFO_BYTES = 16 << 20
"""More than any ``weights.json`` has."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LICENCES = (
    "apache-2.0 bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 gpl-3.0 mit "
    "unknown"
).split()
"""What the Hub calls them."""
STATUS = {"seen": "read there", "third-party": "reported by a third party"}
Say = Callable[[str], object]
Progress = Callable[[int, int, str], None]


# ---- in


class Origin(BaseModel):
    """``origin.json`` of a pulled weights folder: where it is from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str
    revision: str = Field(pattern=f"^{COMMIT.pattern}$")


def origin_of(folder: Path) -> Origin | None:
    """Where a weights folder was pulled from; null if it was made here."""
    try:
        return Origin.model_validate_json((folder / "origin.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _folder(model: str, repo: str, commit: str) -> Path:
    return weights.folder_of(model, f"hub-{repo.replace('/', '--')}-{commit[:8]}")


def pull_pinned(card: ModelCard, published: Weights, *, say: Say, progress: Progress | None = None) -> Path:
    """Folder of weights that ``card`` pins, fetched if they are not here; without a request if they are.

    Raises:
        MissingError: They are not here and there is no network; the message names the commands that bring weights.
        IntegrityError: They are not the pinned bytes.
    """
    place = hub.Place(published.hub.repo, "model", published.hub.revision)
    try:
        return pull(card.id, place, pin=published, say=say, progress=progress)
    except MissingError as error:
        if not hub.offline():
            raise
        here = ", ".join(path.name for path, _ in weights.available(card.id))
        raise MissingError(
            f"the weights {published.name} of {card.id} ({place}) are not on this machine and the network is off "
            f"(HF_HUB_OFFLINE or --offline).\nto fetch them, run with the network on: zoo weights pull {card.id}"
            f"   or: zoo train {card.id} --dataset DATASET"
            + (f"   or name weights that are here: {here}" if here else "")
        ) from error


def pull(
    model: str, place: hub.Place, *, pin: Weights | None = None, say: Say, progress: Progress | None = None
) -> Path:
    """Folder of the weights in a model repo, fetched if they are not here; nothing else of the repo is read.

    A commit that was fetched before costs no request. A branch or tag is looked up once per call, and ``say`` is told
    which commit it is.

    Raises:
        MissingError: There is no such repo or revision, it is gated, or the Hub cannot be reached.
        IntegrityError: The repo does not hold weights of the zoo, or other bytes than it or ``pin`` says; nothing was
            kept.
        UsageError: They are of another model.
    """
    commit = hub.resolve(place)
    if commit != place.revision:
        say(f"{place} is {commit} now; hf-hub:{place.repo}@{commit} stays the same.")
    folder = _folder(model, place.repo, commit)
    place = hub.Place(place.repo, "model", commit)
    if not _is_of(folder, commit):
        say(f"fetching weights of {model} from {place}")
        with store.lock(folder):
            if not _is_of(folder, commit):
                _fetch(model, place, folder, pin, progress)
    if pin is not None and (found := store.file_sha256(folder / "weights.json")) != pin.info_sha256:
        raise IntegrityError(
            f"{folder / 'weights.json'} must have sha256 {pin.info_sha256[:16]}…, as the card of {model} says, but has "
            f"{found[:16]}…; delete the folder and fetch again."
        )
    return folder


def _fetch(model: str, place: hub.Place, folder: Path, pin: Weights | None, progress: Progress | None) -> None:
    described = hub.download(place, paths=["weights.json"]) / "weights.json"
    sha256 = _read(described, model, place, pin).sha256
    file = File(path="model.safetensors", sha256=sha256, repo=place.repo, revision=place.revision)
    tensors = hub.fetch(file, progress=progress)
    with store.atomic_folder(folder) as work:
        shutil.copyfile(described, work / "weights.json")
        _link(tensors, work / "model.safetensors")
        store.write_json(work / "origin.json", {"repo": place.repo, "revision": place.revision})


def _is_of(folder: Path, commit: str) -> bool:
    """Whether a folder, whose name has only the first digits, is of this commit."""
    origin = origin_of(folder)
    return origin is not None and origin.revision == commit


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)


def _read(path: Path, model: str, place: hub.Place, pin: Weights | None) -> WeightsInfo:
    """What the repo says of its weights, once that is what it must be."""

    def fault(why: str) -> IntegrityError:
        return IntegrityError(f"{place} cannot be used: {why}; nothing was kept, tell its owner.")

    if path.stat().st_size > INFO_BYTES:
        raise fault(f"weights.json must be smaller than {INFO_BYTES >> 20} MiB")
    try:
        info = WeightsInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise fault(f"its weights.json is not one ({where}: {first['msg']})") from error
    if info.model != model:
        raise UsageError(
            f"{place} holds weights of {info.model}, not of {model}; load {info.model}, or name another repo."
        )
    if pin is not None:
        both = {
            "weights.json": (store.file_sha256(path), pin.info_sha256),
            "model.safetensors": (info.sha256, pin.sha256),
        }
        for name, (found, wanted) in both.items():
            if found != wanted:
                raise fault(
                    f"{name} must have sha256 {wanted[:16]}…, as the card of {model} says, but has {found[:16]}…"
                )
    return info


# ---- out


class Pushed(NamedTuple):
    """What was sent, or would have been: size in bytes by path. ``url`` is null if nothing was sent."""

    repo: str
    files: dict[str, int]
    url: hub.Published | None
    sha256: str
    info_sha256: str


def push(
    model: str,
    name: str | None = None,
    *,
    repo: str | None = None,
    records: Sequence[Path] = (),
    create_pr: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Make the model repo of weights on this machine.

    Args:
        model: Id or alias of a model.
        name: Of its weights; the newest made here if omitted.
        repo: ``organisation/name``; our organisation's, called after model and dataset, if omitted.
        records: Complete records of these very weights, to stand beside the claims.
        create_pr: Propose a pull request instead of committing.
        dry_run: Send nothing.
        progress: Told what is being sent.

    Raises:
        MissingError: There are no weights of it here, or the Hub cannot be reached.
        UsageError: None are called so, or a record is of other weights.
        GateError: A record is partial or failed.
        IntegrityError: The weights do not load.
    """
    card = registry.models.get(model)
    source = _made_here(card, name)
    net, info = weights.load(source)
    if info.forward is None:
        from zoo.forward import fingerprint

        info = info.model_copy(update={"forward": fingerprint(net, info.parts)})
    del net
    told = [_record(path, info) for path in records]
    on = f"-{info.trained_on[0]}" if len(info.trained_on) == 1 else ""
    place = hub.Place(repo or f"{hub.org()}/{card.id}{on}", "model", None)
    folder = store.cache_dir("exports", f"{card.id}-{info.sha256[:8]}")
    with store.lock(folder):
        try:
            with store.atomic_folder(folder) as work:
                export(card, info, source / "model.safetensors", told, place.repo, work)
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            sizes = {path: file.stat().st_size for path, file in files.items()}
            info_sha256 = store.file_sha256(files["weights.json"])
            url = None
            if not dry_run:
                message = f"Put weights of {card.id} trained on {', '.join(info.trained_on) or 'nothing'}: {info.name}"
                url = hub.publish(
                    place, folder, message=message, create_pr=create_pr, delete=("records/",), progress=progress
                )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Pushed(place.repo, sizes, url, info.sha256, info_sha256)


def _made_here(card: ModelCard, name: str | None) -> Path:
    """The weights of a model that were made on this machine: those called ``name``, or the newest."""
    if card.builder is None:
        raise weights.announced(card)
    here = {path.name: path for path, _ in weights.available(card.id) if origin_of(path) is None}
    if name is None and here:
        return max(here.values(), key=lambda path: path.stat().st_mtime)
    if name is not None and name in here:
        return here[name]
    if name is None:
        raise MissingError(
            f"no weights of {card.id} were made on this machine.\n"
            f"to make them, run: zoo train {card.id} --dataset DATASET   or: zoo weights convert {card.id} --from DIR"
        )
    raise UsageError(
        f"no weights of {card.id} made on this machine are called {name!r}{did_you_mean(name, here)} "
        f"There are: {', '.join(here) or 'none'}."
    )


def _record(path: Path, info: WeightsInfo) -> Record:
    record = Record.read(path)
    if record.status != "ok":
        raise GateError(
            f"a model card takes complete records, but {path} is {record.status}; evaluate without --limit."
        )
    if record.identity.weights_sha256 != info.sha256:
        raise UsageError(
            f"{path} must be a record of the weights {info.sha256[:16]}…, but is of {record.identity.model} with "
            f"{record.identity.weights_sha256[:16]}…; evaluate {info.model} with --weights {info.name}."
        )
    return record


def export(
    card: ModelCard, info: WeightsInfo, tensors: Path, records: Sequence[Record], repo: str, folder: Path
) -> None:
    """Write the files of a model repo into an empty folder; the same input gives the same bytes."""
    shutil.copyfile(tensors, folder / "model.safetensors")
    store.write_json(folder / "weights.json", info.model_dump(mode="json"))
    config = {
        "library": "eeg-image-zoo",
        "zoo": __version__,
        "model": info.model,
        "config": info.config,
        "eeg": info.eeg.model_dump(mode="json"),
        "parts": info.parts,
    }
    store.write_json(folder / "config.json", config)
    for record in records:
        record.write(folder / "records" / Path(record.name).name)
    store.write_bytes(folder / "README.md", readme(card, info, records, repo).encode())


# ---- the model card of the Hub


def readme(card: ModelCard, info: WeightsInfo, records: Sequence[Record], repo: str) -> str:
    """A header for programs, then what a person should know. Claims are those of the card, results those of records."""
    header = {
        **_licence(card.licence),
        "library_name": "eeg-image-zoo",
        "tags": ["eeg", "brain-decoding", "eeg-image-zoo", card.task, card.family],
        "datasets": [_dataset_name(dataset) for dataset in info.trained_on],
        **(
            {"model-index": [{"name": repo, "results": [_result(card, record) for record in records]}]}
            if records
            else {}
        ),
    }
    told = [
        f"# {_text(card.id)} trained on {_text(', '.join(info.trained_on) or 'nothing')}",
        _about(card, info),
        "## Use",
        f"```bash\npip install eeg-image-zoo\n```\n\n```python\nimport zoo\n\n"
        f'model = zoo.load("{card.id}", weights="hf-hub:{repo}")\n```\n\n'
        f"Put a commit behind it (`hf-hub:{repo}@<40 hex digits>`) and it is fetched once and never asked for again.",
        "## Training",
        _training(info),
        "## Published claims",
        _claims(card.claims),
        "## Evaluation",
        *([_evaluation(card, record) for record in records] or ["These weights came without a record."]),
        "## Limits",
        _limits(card, info),
        "## Licence",
        _licences(card, info),
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(told) + "\n"


def _about(card: ModelCard, info: WeightsInfo) -> str:
    spec = info.eeg
    first, last = 1000 * spec.tmin, 1000 * (spec.tmin + spec.n_times / spec.sfreq)
    return (
        f"{_text(card.title)}. Task: {card.task}. Paper: {_text(card.paper)}\n\n"
        f"It reads EEG of {spec}, {first:.0f} to {last:.0f} ms from onset, in {spec.unit}. "
        f"Channels: {_text(', '.join(spec.ch_names))}."
    )


def _training(info: WeightsInfo) -> str:
    split = info.receipt.get("split")
    split = f"{split}, sha256 `{info.split_sha256}`" if split and info.split_sha256 else "not stated"
    rows = {
        "weights": f"{info.name}, {info.source}",
        "trained on": ", ".join(info.trained_on) or "nothing",
        "split": split,
        "seed": "not stated" if info.seed is None else str(info.seed),
        "checkpoint chosen by": info.selection,
        "parts in the file": ", ".join(info.parts),
        "sha256 of model.safetensors": f"`{info.sha256}`",
    }
    lines = [f"| {name} | {_text(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n\nConfig and receipt stand in `weights.json`."


def _claims(claims: Sequence[Claim]) -> str:
    if not claims:
        return "No published number belongs to this model."
    lines = [
        f"| {_text(claim.metric)} | {_text(claim.dataset)} | {_claimed([claim])} | {_text(claim.source)} | "
        f"{STATUS[claim.status]} |"
        for claim in claims
    ]
    table = ["| metric | dataset | claimed | source | status |", "|---|---|---|---|---|", *lines]
    return "Numbers as published; those of these very weights stand below.\n\n" + "\n".join(table)


def _claimed(claims: Sequence[Claim]) -> str:
    return ", ".join(f"{claim.value:g}" + (f" ± {claim.spread:g}" if claim.spread else "") for claim in claims) or "–"


def _evaluation(card: ModelCard, record: Record) -> str:
    """One record: claimed beside measured beside the controls, what was not measured, and what the audit said."""
    identity, audit = record.identity, record.audit
    controls = sorted(record.controls, key=lambda name: (name != "shuffled-eeg", name))
    rows = ["| metric | claimed | measured [95 %] | " + " | ".join(controls), "|---" * (3 + len(controls)) + "|"]
    rows[0] += " |" if controls else ""
    unmeasured: dict[str, list[str]] = {}
    for metric, value in sorted(record.values.items(), key=lambda found: (found[0] != record.headline, found[0])):
        if value.value is None:
            unmeasured.setdefault(str(value.reason), []).append(metric)
            continue
        claims = [claim for claim in card.claims if (claim.metric, claim.dataset) == (metric, identity.dataset)]
        arrow = {True: " ↑", False: " ↓", None: ""}[value.higher_is_better]
        others = "".join(f" {_number(record.controls[name].values.get(metric))} |" for name in controls)
        rows.append(f"| {_text(metric)}{arrow} | {_claimed(claims)} | {_number(value, interval=True)} |{others}")
    verdict = f"Audit of the split: **{audit.verdict}**." if audit else "The split was not audited."
    lines = [
        f"### {_text(identity.track)}",
        f"{_text(identity.dataset)}, {_text(identity.split)}, {identity.replicates} replicates, "
        f"eeg-image-zoo {_text(identity.zoo)}, {record.provenance.created[:10]}, on "
        f"{_text(record.provenance.hardware)}; [record {record.id[:12]}](records/{Path(record.name).name}).",
        verdict + "".join(f"\n- {_text(sentence)}" for sentence in (audit.sentences if audit else ())),
        "\n".join(rows),
        *(f"Not measured, {_text(reason)}: {_text(', '.join(names))}." for reason, names in unmeasured.items()),
    ]
    return "\n\n".join(lines)


def _number(value: Value | None, *, interval: bool = False) -> str:
    if value is None or value.value is None:
        return "–"
    span = f" [{value.interval[0]:.4g}, {value.interval[1]:.4g}]" if interval and value.interval else ""
    return f"{value.value:.4g}{span}"


def _limits(card: ModelCard, info: WeightsInfo) -> str:
    known = {dataset.id: dataset for dataset in registry.datasets.cards()}
    lines = [*card.notes]
    for dataset in info.trained_on:
        lines += [f"{dataset}: {confound}" for confound in (known[dataset].confounds if dataset in known else ())]
    lines.append("It was trained on the recordings named above; recordings with other channels or times are refused.")
    return "\n".join(f"- {_text(line)}" for line in lines)


def _licences(card: ModelCard, info: WeightsInfo) -> str:
    known = {dataset.id: dataset for dataset in registry.datasets.cards()}
    lines = [f"- {_text(card.id)}: {_text(card.licence)}"]
    lines += [
        f"- {_text(name)} (training data): {_text(known[name].licence)}" for name in info.trained_on if name in known
    ]
    return "\n".join(lines)


def _licence(text: str) -> dict[str, str]:
    """The licence as the Hub writes it: one of its names, or ``other`` with a name."""
    if text.lower() in LICENCES:
        return {"license": text.lower()}
    return {"license": "other", "license_name": "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:64].strip("-")}


def _dataset_name(name: str) -> str:
    """A dataset as the Hub knows it, or else as the zoo does."""
    cards = [card for card in registry.datasets.cards() if card.id == name]
    return cards[0].hub.repo if cards and cards[0].hub else name


def _result(card: ModelCard, record: Record) -> dict[str, Any]:
    """A record as an entry of ``model-index``."""
    identity = record.identity
    verdict = record.audit.verdict if record.audit else "none"
    track = identity.track + ("" if verdict == "clean" else f", split audit: {verdict}")
    return {
        "task": {"type": card.task},
        "dataset": {"type": _dataset_name(identity.dataset), "name": track, "split": identity.split},
        "metrics": [
            {"type": metric, "name": metric, "value": value.value}
            for metric, value in sorted(record.values.items())
            if value.value is not None
        ],
    }


def _text(text: str) -> str:
    """Text for Markdown: no markup of its own."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")

"""A user's own recordings as a dataset: MNE epochs, a BIDS root, or arrays.

Nothing is filtered, re-referenced, baseline-corrected or rejected here, beyond what the source says itself (bad
segments of raw recordings, projectors of an MNE file): what a model sees is what was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo import registry, store
from zoo.datasets import base, recipes
from zoo.datasets.base import Prepared, Progress, Stimulus, strings
from zoo.datasets.pictures import SUFFIXES, read_pictures, require_picture
from zoo.datasets.recordings import Part, Settings, listed, no_column, read_parts, text
from zoo.errors import UnknownNameError, UsageError, did_you_mean
from zoo.specs import DatasetCard, Pairing, Protocol, Split, SplitCard

ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MOST_VOLTS = 1e-3
"""Typical amplitude above which a recording is not in volts: EEG has some 1e-5."""
OWN_SOURCE = "the user's own recordings"
UNITS = ("V", "a.u.")
PAIRINGS = ("instance", "class", "none", None)
HOSTS = ("everything", "recordings", "splits")


class Way(NamedTuple):
    """A split that can be cut from any trials that have the columns it ``needs``."""

    protocol: Protocol
    note: str
    needs: tuple[str, ...]
    recipe: recipes.Recipe


SPLITS = {
    "subject-out": Way(
        "cross-subject",
        "A fifth of the subjects tests, a tenth validates.",
        ("subject",),
        partial(recipes.subject_out, val=0.1, test=0.2),
    ),
    "session-out": Way(
        "cross-session",
        "Of every subject's sessions a quarter tests and an eighth validates.",
        ("subject", "session"),
        recipes.session_out,
    ),
    "run-out": Way(
        "cross-run",
        "Of every subject's runs a quarter tests and an eighth validates.",
        ("subject", "run"),
        recipes.run_out,
    ),
    "stimulus-out": Way(
        "unseen-stimulus",
        "Of every concept's pictures a fifth tests and a tenth validates.",
        ("stimulus_id",),
        partial(recipes.stimulus_out, val=0.1, test=0.2),
    ),
    "concept-out": Way(
        "unseen-concept",
        "A fifth of the concepts tests, a tenth validates, the others train.",
        (),
        partial(recipes.concept_out, val=0.1, test=0.2),
    ),
}
"""The first one that could be cut is the default."""
SPLIT_CARDS = tuple(SplitCard(id=f"{name}@0", protocol=way.protocol, note=way.note) for name, way in SPLITS.items())


def add(
    name: str,
    source: Any,
    *,
    images: Path | str | None = None,
    concept: str | None = None,
    stimulus: str | None = None,
    subject: str | None = None,
    session: str | None = None,
    run: str | None = None,
    events: Mapping[str, str] | Iterable[str] = (),
    tmin: float | None = None,
    tmax: float | None = None,
    unit: str = "V",
    pairing: str | None = None,
    splits: Iterable[str] = (),
    title: str | None = None,
    licence: str = "not stated",
    citation: str = "not stated",
    hosts: str = "splits",
    replace: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Make recordings a dataset of this machine, whole or not at all; it is then found under ``name`` by everything.

    Adding with the same settings again replaces what is here, e.g. after one more recording.

    Args:
        name: Its id: a-z, 0-9 and single hyphens.
        source: MNE epochs (an object, a ``.fif`` file or a folder of them), a BIDS root, an ``.npz`` file or a folder
            of them, or arrays by name: ``eeg`` (n_trials, n_channels, n_times), ``sfreq`` in Hz, ``tmin`` in seconds,
            ``ch_names``, ``concept`` (n_trials,), and any other column of (n_trials,).
        images: Folder of the pictures shown (instance pairing), or with one folder per concept (class pairing).
        concept: Column of each trial's class; ``concept`` or the names of the events if omitted.
        stimulus: Column of the picture each trial showed; ``stimulus_id`` or ``stim_file`` if omitted and there.
        subject: Column of the subject, or one value for all trials; the column ``subject`` or the file's name
            (``sub-01``) if omitted. Likewise ``session`` (``ses-01``) and ``run`` (``run-1``).
        events: Values of the concept column to keep, and what each is called: ``{"101": "cat"}`` or ``["cat"]``.
        tmin: First sample kept, in seconds from onset; likewise ``tmax`` the last.
        unit: ``a.u.`` for EEG that was standardised; otherwise it must be in volts.
        pairing: Instance where every trial's picture is known, else class, if omitted.
        splits: Names of ``SPLITS``; those that the columns allow if omitted.
        title: What it is, for lists.
        licence: As its card says it.
        citation: As its card says it.
        hosts: What ``zoo data push`` may send: ``everything``, all but the pictures, or only ``splits``.
        replace: Also replace a dataset of this name that was added otherwise.
        progress: Told what is being read and written.

    Returns:
        The folder of the prepared dataset.

    Raises:
        UsageError: Name, source or a column is not what it must be; nothing was written.
        MissingError: MNE-Python is needed and not here.
    """
    _require_free(name)
    kept = dict(events) if isinstance(events, Mapping) else {value: value for value in events}
    wanted = tuple(splits)
    if unknown := [split for split in wanted if split not in SPLITS]:
        raise UsageError(
            f"unknown split {unknown[0]!r}{did_you_mean(unknown[0], SPLITS)} Splits are {', '.join(SPLITS)}."
        )
    for option, value, choices in (("unit", unit, UNITS), ("pairing", pairing, PAIRINGS), ("hosts", hosts, HOSTS)):
        if value not in choices:
            raise UsageError(f"--{option} must be {' or '.join(filter(None, choices))}, not {value!r}.")
    settings = {
        "concept": concept,
        "stimulus": stimulus,
        "subject": subject,
        "session": session,
        "run": run,
        "events": kept,
        "tmin": tmin,
        "tmax": tmax,
        "unit": unit,
        "pairing": pairing,
        "splits": wanted,
    }
    card = DatasetCard.model_validate(
        {
            "id": name,
            "title": title or name,
            "loader": f"{__name__}:build",
            "options": Settings.model_validate(settings).model_dump(mode="json", exclude_defaults=True),
            "pairing": "class",
            "licence": licence,
            "hosts": hosts,
            "citation": citation,
            "source": OWN_SOURCE,
            "get": f"a dataset of your own; if it was changed, use 'zoo data add {name}'",
        }
    )
    folder = store.cache_dir("datasets", name)
    with store.lock(folder):
        _require_same(card, replace)
        prepared = _prepare(card, source, None if images is None else Path(images), progress)
        with store.atomic_folder(folder) as work:
            base.write(prepared, _described(card, prepared), work, progress)
    return folder


def build(
    card: DatasetCard, *, source: Path | None = None, images: Path | None = None, progress: Progress | None = None
) -> Prepared:
    """A dataset that was added, made again from the same recordings (``zoo data prepare``).

    Raises:
        MissingError: No source is given, or MNE-Python is needed and not here.
        UsageError: They are other recordings.
    """
    if source is None:
        raise base.not_here(card)
    prepared = _prepare(card, source, images, progress)
    made = _described(card, prepared)
    if differs := [name for name in DatasetCard.model_fields if getattr(made, name) != getattr(card, name)]:
        raise UsageError(
            f"--source of {card.id} must be what it was added from, but these differ: {', '.join(differs)}; "
            f"use 'zoo data add {card.id}' to replace it."
        )
    return prepared


# ---- the card


def _require_free(name: str) -> None:
    if not ID.fullmatch(name):
        raise UsageError(f"the id of a dataset must be of a-z, 0-9 and single hyphens, not {name!r}.")
    try:
        known = registry.datasets.get(name, here=False)
    except UnknownNameError:
        return
    raise UsageError(f"{name} is a dataset of the zoo ({known.title}); give yours another id.")


def _require_same(card: DatasetCard, replace: bool) -> None:
    """Refuse to replace a dataset that was made in another way, unless told to."""
    try:
        here = registry.datasets.get(card.id)
    except UnknownNameError:
        return
    if not replace and here.loader != card.loader:
        raise UsageError(f"{card.id} is here already and was not added from recordings of your own; give another id.")
    if not replace and here.options != card.options:
        settings = sorted(
            name for name in {*here.options, *card.options} if here.options.get(name) != card.options.get(name)
        )
        raise UsageError(
            f"{card.id} is here already, added with other settings ({', '.join(settings)}); "
            "give another id, the same settings, or --replace."
        )


def _described(card: DatasetCard, prepared: Prepared) -> DatasetCard:
    """The card with what the recordings themselves tell."""
    trials = prepared.trials
    cut = [split.id for split in prepared.splits]
    return card.model_copy(
        update={
            "pairing": _pairing(Settings.model_validate(card.options), trials),
            "concepts": prepared.concepts,
            "eeg": prepared.spec,
            "n_trials": len(trials["trial_id"]),
            "n_subjects": len(set(trials["subject"].tolist()) - {None}) or None,
            "splits": tuple(about for about in SPLIT_CARDS if about.id in cut),
        }
    )


def _pairing(settings: Settings, trials: Mapping[str, np.ndarray]) -> Pairing:
    return settings.pairing or ("instance" if _known(trials, "stimulus_id") else "class")


def _known(trials: Mapping[str, np.ndarray], column: str) -> bool:
    """Whether every trial has a value there."""
    return None not in trials[column].tolist()


# ---- the dataset


def _prepare(card: DatasetCard, source: Any, images: Path | None, progress: Progress | None) -> Prepared:
    settings = Settings.model_validate(card.options)
    if settings.pairing == "none" and images is not None:
        raise UsageError(f"with pairing none {card.id} has no pictures; leave out --images or choose another pairing.")
    parts = read_parts(card.id, source, settings, progress)
    _require_alike(parts)
    found = frozenset[str]().union(*(part.found for part in parts))
    if lacking := [value for value in settings.events if value not in found]:
        raise UsageError(
            f"--events must name values of the concept column, but no trial has {lacking[0]!r}"
            f"{did_you_mean(lacking[0], found)} There are: {listed(sorted(found))}."
        )
    trials, said = _table(parts, settings)
    concepts = tuple(sorted(set(trials["concept"].tolist())))
    if len(concepts) < 2:
        raise UsageError(
            f"{card.id} needs trials of two concepts or more, but has {listed(concepts) or 'no trials'}; "
            "name their column with --concept."
        )
    pairing = _pairing(settings, trials)
    if pairing == "instance" and not _known(trials, "stimulus_id"):
        raise UsageError(
            "pairing instance needs the picture that each trial showed, but it is not known of every trial; "
            "name its column with --stimulus or choose pairing class."
        )
    if pairing == "class":
        trials["stimulus_id"] = strings([None] * len(trials["trial_id"]))
    stimuli, pictures = _stimuli(trials, concepts, pairing, images)
    splits, refused = _cut(card, trials, settings.splits)
    return Prepared(
        spec=parts[0].spec.model_copy(update={"unit": settings.unit}),
        eeg=_eeg(parts, settings.unit),
        trials=trials,
        concepts=concepts,
        stimuli=stimuli,
        stimuli_source="none" if images is None else "pictures given with --images",
        splits=splits,
        source={name: sha256 for part in parts for name, sha256 in part.source.items()},
        report=(*(sentence for part in parts for sentence in part.report), *said, *pictures, *refused),
    )


def _require_alike(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.spec == first.spec:
            continue
        ours, theirs = first.spec, part.spec
        if ours.ch_names != theirs.ch_names:
            odd = sorted({*ours.ch_names} ^ {*theirs.ch_names})
            why = f"only one has {listed(odd)}" if odd else "their channels stand in another order"
        elif ours.tmin != theirs.tmin:
            why = f"they begin at {ours.tmin:g} s and {theirs.tmin:g} s"
        else:
            why = "sampling rate or length differ"
        raise UsageError(
            f"all files must have the same channels, sampling rate and times, but {first.where} has {ours} and "
            f"{part.where} has {theirs} ({why}); make them alike or add them as two datasets."
        )


def _eeg(parts: Iterable[Part], unit: str) -> Iterator[np.ndarray]:
    """The kept trials of file after file; the first block is asked whether it can be in volts."""
    checked = unit != "V"
    for part in parts:
        for block in part.read():
            if not checked and (typical := float(np.median(np.abs(block)))) > MOST_VOLTS:
                raise UsageError(
                    f"EEG must be in volts, but values of {part.where} are typically {typical:.3g}; divide by 1e6 if "
                    "they are microvolts, or say --unit a.u. if they were standardised."
                )
            checked = True
            yield block


def _table(parts: Sequence[Part], settings: Settings) -> tuple[dict[str, np.ndarray], list[str]]:
    """The trials table of all files, and sentences on what was taken for every trial."""
    columns: dict[str, list[Any]] = {name: [] for name in base.COLUMNS}
    said = []
    for part in parts:
        place: dict[str, list[str | None]] = {}
        for name in ("subject", "session", "run"):
            place[name], sentence = _column(part, name, getattr(settings, name))
            said += [sentence] if sentence else []
        columns["trial_id"] += [f"{part.name}-{row:04d}" for row in part.rows]
        columns["subject"] += place["subject"]
        columns["session"] += place["session"]
        for name in ("run", "block", "recording"):
            values = place.get(name) or _column(part, name, None)[0]
            if name == "recording" and name not in part.columns and len(parts) > 1:
                columns[name] += [part.name] * len(part.rows)
            else:
                columns[name] += [
                    None if value is None else "-".join(filter(None, (person, day, value)))
                    for person, day, value in zip(place["subject"], place["session"], values, strict=True)
                ]
        columns["stimulus_id"] += _stimulus(part, settings.stimulus)
        columns["concept"] += part.columns["concept"]
        columns["order"] += _order(part)
    if None in columns["order"]:
        del columns["order"]
    made = {name: np.asarray(v, np.int64) if name == "order" else strings(v) for name, v in columns.items()}
    return made, list(dict.fromkeys(said))


def _column(part: Part, name: str, said: str | None) -> tuple[list[str | None], str | None]:
    """Values of a column that the user may have named, or given one value for all; and a sentence in that case."""
    n = len(part.rows)
    wanted = said or name
    if wanted in part.columns:
        return [text(value) for value in part.columns[wanted]], None
    if said is not None:
        return [said] * n, f"every trial has {name} {said!r}, since no column is called so."
    return [part.entities.get(name)] * n, None


def _stimulus(part: Part, said: str | None) -> list[str | None]:
    if said is not None and said not in part.columns:
        raise no_column(part.where, said, part.columns)
    name = said or next((name for name in ("stimulus_id", "stim_file") if name in part.columns), None)
    return [None] * len(part.rows) if name is None else [text(value) for value in part.columns[name]]


def _order(part: Part) -> list[int | None]:
    if "order" not in part.columns:
        return part.rows.tolist() if part.ordered else [None] * len(part.rows)
    try:
        return [int(value) for value in part.columns["order"]]
    except (TypeError, ValueError) as error:
        raise UsageError(f"column order of {part.where} must hold whole numbers, but does not: {error}.") from error


def _cut(
    card: DatasetCard, trials: Mapping[str, np.ndarray], wanted: Sequence[str]
) -> tuple[tuple[Split, ...], tuple[str, ...]]:
    """The splits that were asked for, or all that the columns allow; and a sentence for each that cannot be cut."""
    possible, refused = {}, []
    for name in wanted or SPLITS:
        if lacking := [column for column in SPLITS[name].needs if not _known(trials, column)]:
            refused += [f"split {name} is left out: it needs the {lacking[0]} of every trial."] if wanted else []
        else:
            possible[name] = SPLITS[name].recipe
    splits, failed = recipes.cut(card.model_copy(update={"splits": SPLIT_CARDS}), trials, possible)
    refused += failed
    if not splits:
        raise UsageError(
            f"{card.id} needs a split, but none can be cut ({' '.join(refused).rstrip('.')}); "
            "say more about its trials with --subject, --session, --run or --stimulus."
        )
    return splits, tuple(refused)


# ---- pictures


def _stimuli(
    trials: Mapping[str, np.ndarray], concepts: Sequence[str], pairing: Pairing, images: Path | None
) -> tuple[tuple[Stimulus, ...], tuple[str, ...]]:
    if pairing == "instance":
        return _shown(trials, images)
    if images is None:
        return (), ("no pictures: give a folder with one folder per concept as --images to train or score images.",)
    return read_pictures(images, {concept: concept.replace("/", "-") for concept in concepts})


def _shown(trials: Mapping[str, np.ndarray], images: Path | None) -> tuple[tuple[Stimulus, ...], tuple[str, ...]]:
    """The pictures that trials showed: each stimulus is a path below ``images``, a file name, or one without suffix."""
    concept_of: dict[str, str] = {}
    for stimulus, concept in zip(trials["stimulus_id"].tolist(), trials["concept"].tolist(), strict=True):
        if concept_of.setdefault(stimulus, concept) != concept:
            raise UsageError(
                f"a picture must show one concept, but {stimulus!r} was shown as {concept_of[stimulus]} and as "
                f"{concept}; correct the columns or choose pairing class."
            )
    if images is None:
        return (
            tuple(Stimulus(stimulus, concept, None) for stimulus, concept in sorted(concept_of.items())),
            ("no pictures: give the folder of the pictures shown as --images to train or score images.",),
        )
    if not images.is_dir():
        raise UsageError(f"--images must be a folder with the pictures shown, but {images} is no folder.")
    files: dict[str, list[Path]] = {}
    for path in sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES):
        relative = path.relative_to(images)
        for called in {relative.as_posix(), relative.with_suffix("").as_posix(), path.name, path.stem}:
            files.setdefault(called, []).append(path)
    stimuli = []
    for stimulus, concept in sorted(concept_of.items()):
        found = files.get(stimulus, [])
        if len(found) != 1:
            what = "there is none" if not found else f"{len(found)} files are called so"
            raise UsageError(
                f"every stimulus needs its picture, but of {stimulus!r} {what} in {images}; add it, or name files "
                "by their path in that folder."
            )
        require_picture(found[0], found[0].read_bytes())
        stimuli.append(Stimulus(stimulus, concept, found[0]))
    return tuple(stimuli), ()

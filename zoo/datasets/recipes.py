"""How splits are cut: pure functions of the trials table, decided by hashes of ids, so anyone's copy is cut alike.

A recipe returns the members of ``val`` and ``test`` in one column; everything else trains, unless it lists that too.
The result is kept as a file (``zoo.specs.Split``): a recipe explains a split, the file is the split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo import store
from zoo.datasets import base
from zoo.errors import UsageError
from zoo.specs import DatasetCard, Protocol, Split

Trials = Mapping[str, np.ndarray]


class Cut(NamedTuple):
    """Members of ``val`` and ``test`` among the values of column ``unit``.

    ``train`` null: everything else trains. Otherwise its members do, and what is named nowhere is unused.
    """

    unit: str
    val: tuple[str, ...]
    test: tuple[str, ...]
    train: tuple[str, ...] | None = None


Recipe = Callable[[Trials], Cut]


def subject_out(trials: Trials, *, val: float, test: float) -> Cut:
    """Hold out whole subjects: ``val`` and ``test`` are shares, at least one subject each."""
    subjects = shuffled(np.unique(trials["subject"]).tolist(), "subject-out")
    n_test, n_val = (max(1, round(share * len(subjects))) for share in (test, val))
    if len(subjects) < n_test + n_val + 1:
        raise UsageError(f"subject-out needs three subjects or more, but there are {len(subjects)}.")
    return Cut("subject", _sorted(subjects[n_test : n_test + n_val]), _sorted(subjects[:n_test]))


def run_out(trials: Trials) -> Cut:
    """Hold out whole runs of every subject: of three or more a quarter tests and an eighth validates (at least one).

    Of two runs one tests; a single run trains.
    """
    return _of_everybody(trials, "run", "run-out")


def session_out(trials: Trials) -> Cut:
    """Hold out whole sessions of every subject, in the shares of ``run_out``.

    A name that several subjects have plays one role for all of them: test if it tests for anybody.
    """
    return _of_everybody(trials, "session", "session-out")


def concept_out(trials: Trials, *, val: float, test: float) -> Cut:
    """Hold out whole concepts: ``val`` and ``test`` are shares; at least one validates, two test and two train."""
    concepts = shuffled(np.unique(trials["concept"]).tolist(), "concept-out")
    n_test, n_val = max(2, round(test * len(concepts))), max(1, round(val * len(concepts)))
    if len(concepts) < n_test + n_val + 2:
        raise UsageError(f"concept-out needs five concepts or more, but there are {len(concepts)}.")
    return Cut("concept", _sorted(concepts[n_test : n_test + n_val]), _sorted(concepts[:n_test]))


def stimulus_out(trials: Trials, *, val: float, test: float) -> Cut:
    """Hold out pictures of every concept: ``val`` and ``test`` are shares of a concept's pictures."""
    return _within(trials, "concept", "stimulus_id", "stimulus-out", val=val, test=test)


def random_rows(trials: Trials, *, within: str, val: float, test: float) -> Cut:
    """Hold out single trials, the same shares of every value of column ``within`` (a block, a recording)."""
    return _within(trials, within, "trial_id", "random", val=val, test=test)


def released(trials: Trials) -> Cut:
    """The roles of the authors, whose trial ids begin with ``train-`` or ``test-``.

    Of the training trials of each concept a tenth validates, at least one.
    """
    train: dict[str, list[str]] = {}
    test: list[str] = []
    for trial, concept in zip(trials["trial_id"].tolist(), trials["concept"].tolist(), strict=True):
        (test if trial.startswith("test-") else train.setdefault(concept, [])).append(trial)
    val = [trial for members in train.values() for trial in shuffled(members, "released")[: max(1, len(members) // 10)]]
    return Cut("trial_id", _sorted(val), _sorted(test))


def listed(trials: Trials, *, column: str, val: Sequence[str], test: Sequence[str]) -> Cut:
    """Hold out the values of ``column`` that are given by name, e.g. one fold's subjects."""
    if lacking := sorted({*val, *test} - set(trials[column].tolist())):
        raise UsageError(f"it holds out {column} {lacking[0]}, which this copy does not have.")
    return Cut(column, _sorted(val), _sorted(test))


def cut(card: DatasetCard, trials: Trials, recipes: Mapping[str, Recipe]) -> tuple[tuple[Split, ...], tuple[str, ...]]:
    """Splits ``<name>@0`` of these trials, and a sentence for each that they do not allow.

    Protocol and description are those of the split called ``<name>`` in the card.
    """
    mark, cut_from = base.fingerprint(trials), base.cut_from(trials)
    splits, refused = [], []
    for name, recipe in recipes.items():
        about = card.split(name)
        try:
            unit, val, test, train = recipe(trials)
            roles: dict[base.Role, tuple[str, ...]] = {"val": val, "test": test}
            if train is not None:
                roles["train"] = train
            _require_concepts(trials, unit, roles, about.protocol)
        except UsageError as error:
            refused.append(f"split {name} is left out: {error}")
            continue
        splits.append(
            Split(
                id=f"{name}@0",
                dataset=card.id,
                protocol=about.protocol,
                description=about.note,
                unit=unit,
                roles=roles,
                default="train" if train is None else "unused",
                trials_fingerprint=mark,
                cut_from=cut_from,
            )
        )
    return tuple(splits), tuple(refused)


def release(name: str, folder: Path = base.RELEASED) -> dict[str, str]:
    """Write the splits of a prepared, complete dataset as its released files; returns the sha256 for its card by id.

    For whoever adds a dataset: a split once released never changes, a better one gets the next number.

    Raises:
        UsageError: The copy is not complete, or a file is there already and differs.
    """
    dataset = base.load(name)
    if not dataset.complete:
        raise UsageError(f"splits are released from a complete copy, but this one of {dataset.id} is not.")
    sha256 = {}
    for about in dataset.card.splits:
        split = dataset.split(about.id.partition("@")[0]).model_copy(update={"id": about.id})
        data, path = base.split_bytes(split), folder / dataset.id / f"{about.id}.json"
        if path.exists() and path.read_bytes() != data:
            raise UsageError(f"{about.id} of {dataset.id} is released already and differs; give it the next number.")
        store.write_bytes(path, data)
        sha256[about.id] = hashlib.sha256(data).hexdigest()
    return sha256


def shuffled(values: list[str], salt: str) -> list[str]:
    """The values in the order of the sha256 of ``salt:value``: random in effect, the same everywhere."""
    return sorted(values, key=lambda value: hashlib.sha256(f"{salt}:{value}".encode()).digest())


def _of_everybody(trials: Trials, unit: str, salt: str) -> Cut:
    val: set[str] = set()
    test: set[str] = set()
    for subject in np.unique(trials["subject"]):
        members = shuffled(np.unique(trials[unit][trials["subject"] == subject]).tolist(), salt)
        n_test = max(1, len(members) // 4) if len(members) > 1 else 0
        n_val = max(1, len(members) // 8) if len(members) > 2 else 0
        test.update(members[:n_test])
        val.update(members[n_test : n_test + n_val])
    if not test:
        raise UsageError(f"{salt} needs a subject with two {unit}s or more, but nobody has.")
    return Cut(unit, _sorted(val - test), _sorted(test))


def _within(trials: Trials, group: str, unit: str, salt: str, *, val: float, test: float) -> Cut:
    held_val: list[str] = []
    held_test: list[str] = []
    order = np.argsort(trials[group], kind="stable")
    _, starts = np.unique(trials[group][order], return_index=True)
    for rows in np.split(order, starts[1:]):
        members = shuffled(np.unique(trials[unit][rows]).tolist(), salt)
        n_test, n_val = (max(1, round(share * len(members))) for share in (test, val))
        held_test += members[:n_test]
        held_val += members[n_test : n_test + n_val]
    return Cut(unit, _sorted(held_val), _sorted(held_test))


def _require_concepts(trials: Trials, unit: str, held: Mapping[base.Role, tuple[str, ...]], protocol: Protocol) -> None:
    """Refuse a role that lacks a concept; where the protocol is about unseen ones, a concept with two roles."""
    table = {member: role for role, members in held.items() for member in members}
    default = "unused" if "train" in held else "train"
    roles = np.array([table.get(value, default) for value in trials[unit].tolist()])
    own = {
        role: set(trials["concept"][roles == role].tolist())
        for role in ("train", *(role for role, members in held.items() if members and role != "train"))
    }
    if protocol == "unseen-concept":
        for one, other in itertools.combinations(own, 2):
            if shared := sorted(own[one] & own[other]):
                raise UsageError(f"its {one} and {other} roles would share {shared[0]}.")
        return
    everything = set(trials["concept"].tolist())
    for role, concepts in own.items():
        if lacking := sorted(everything - concepts):
            raise UsageError(f"its {role} role would hold no {lacking[0]}.")


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(values))

"""EEG features of trials, and of what stands in for a brain: stages that every EEG-reading evaluation builds on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zoo import stages
from zoo.audits import controls
from zoo.errors import UsageError
from zoo.images import Features
from zoo.leaves import leaf
from zoo.plan import Plan
from zoo.stages import Stage
from zoo.upload import EEG

if TYPE_CHECKING:
    from zoo.models.base import EEGEncoder, LabelConditioned


def brains(plan: Plan) -> tuple[Features, dict[str, Features], dict[str, str]]:
    """EEG features of the training role, and of the test role under the model and the controls that replace its EEG.

    A model that is given labels has theirs instead, whatever replaces the EEG.

    Returns:
        Training features; system → test features; control that cannot be had → reason.
    """
    rows, track = plan.test_rows, plan.track.id
    train, test = training(plan), encoding(plan, rows)
    ids, labels = plan.data.trials["trial_id"], plan.data.labels[rows]

    def dealt(system: str) -> Features:
        order = dealing(plan, system)
        return test if plan.facts.conditioned_on == "label" else lambda: test()[order]

    made: dict[str, Callable[[], Features]] = {
        "shuffled-eeg": lambda: dealt("shuffled-eeg"),
        "other-subject": lambda: dealt("other-subject"),
        "gaussian-eeg": lambda: encoding(
            plan,
            rows,
            controls.GaussianEEG(plan.data.eeg, plan.train_rows, ids, track),
            name="test.gaussian-eeg",
            instead="gaussian-eeg",
            track=track,
        ),
        "random-codebook": lambda: lambda: controls.random_codebook(train(), labels, track),
    }
    given, impossible = {"model": test}, {}
    for name in plan.track.controls:
        if name in made:
            try:
                given[name] = made[name]()
            except UsageError as error:
                impossible[name] = str(error)
    return train, given, impossible


def training(plan: Plan) -> Features:
    """Features of the training role: made here and now if a metric reads them, else when a control asks for them."""

    def made() -> Features:
        return encoding(plan, plan.train_rows, name="train")

    read = any("train_features" in card.needs.values() for card in plan.metrics)
    return made() if read else lambda: made()()


def dealing(plan: Plan, system: str) -> np.ndarray | None:
    """Whose EEG each test trial is given by a control that deals it anew, as positions; None for other systems.

    Raises:
        UsageError: The control cannot be had.
    """
    rows = plan.test_rows
    if system == "shuffled-eeg":
        return controls.shuffled(rows.size, plan.track.id)
    if system == "other-subject":
        return controls.other_subject(plan.data.trials["subject"][rows], plan.track.id)
    return None


def encoding(
    plan: Plan,
    rows: np.ndarray,
    eeg: Any = None,
    *,
    name: str = "test",
    keys: Sequence[str] | None = None,
    **instead: str,
) -> Features:
    """Features of some trials, made here and now if they are not on disk.

    Args:
        eeg: Takes the place of the recordings, indexed as they are; ``instead`` then says what it is.
        name: What these features are called in an upload.
        keys: What each row is of, where that is no trial.
    """

    def compute(part: slice) -> np.ndarray:
        from zoo import compute

        if plan.facts.conditioned_on == "label":
            told = cast("LabelConditioned", plan.model)
            return compute.encode_labels(told, plan.data.labels[rows[part]], plan.work)
        model = cast("EEGEncoder", plan.model)
        return compute.encode(model, plan.data.eeg if eeg is None else eeg, rows[part], plan.work)

    identity = {**plan.identity_of(rows), **instead}
    made = Stage("eeg-features", identity, rows.size, compute, "encoding EEG", stages.TRIALS)
    stage = leaf(plan, EEG + name, made, plan.data.trials["trial_id"][rows] if keys is None else keys, (None,))
    stage.fill(replace(plan.work, shard=None))
    return lambda: stage.rows()[:]

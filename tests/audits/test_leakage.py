"""Decoders without a brain, on tables whose answer is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.audits.leakage import audit_split, baseline, lookup, neighbour
from zoo.specs import EEGSpec

SPEC = EEGSpec(ch_names=("Cz", "Pz"), sfreq=100.0, tmin=-0.1, n_times=30)


def trials(n: int, **columns: object) -> dict[str, np.ndarray]:
    """A table of one subject in one session, one run."""
    return {"subject": np.full(n, "01"), "session": np.full(n, "1"), "order": np.arange(n), **columns}  # type: ignore[dict-item]


def test_a_recording_that_tells_the_class_is_a_leak() -> None:
    labels = np.repeat([0, 1, 2], 40)
    recording = labels.astype(str)
    test = np.arange(0, 120, 4)
    found = lookup("recording", recording, labels, np.setdiff1d(np.arange(120), test), test)
    assert (found.accuracy, found.n, found.leaks) == (1.0, 30, True)


def test_places_never_seen_in_training_are_a_fair_guess() -> None:
    labels = np.tile([0, 1, 2, 3], 30)
    recording = np.repeat(["a", "b"], 60)
    found = lookup("recording", recording, labels, np.arange(60), np.arange(60, 120))
    assert found.accuracy == pytest.approx(0.25)
    assert not found.leaks


def test_neighbours_in_a_block_design_share_the_class_and_in_a_mixed_one_do_not() -> None:
    rng = np.random.default_rng(0)
    test = np.arange(2, 400, 5)
    train = np.setdiff1d(np.arange(400), test)
    blocked = neighbour(trials(400), np.repeat(np.arange(40) % 4, 10), train, test)
    mixed = neighbour(trials(400), rng.permutation(np.repeat(np.arange(4), 100)), train, test)
    assert blocked is not None
    assert blocked.accuracy > 0.9
    assert blocked.leaks
    assert mixed is not None
    assert not mixed.leaks


def test_neighbours_are_not_looked_for_in_other_runs() -> None:
    run = np.repeat(["1", "2"], 50)
    assert neighbour(trials(100, run=run), np.tile([0, 1], 50), np.arange(50), np.arange(50, 100)) is None


def test_a_baseline_that_drifts_with_the_class_is_a_leak_and_an_evoked_response_is_not() -> None:
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 200)
    eeg = rng.normal(size=(400, 2, 30))
    train, test = np.arange(200), np.arange(200, 400)
    evoked = eeg.copy()
    evoked[:, :, 10:] += 3 * labels[:, None, None]  # after onset only
    drifting = eeg + 3 * labels[:, None, None]
    clean = baseline(evoked, SPEC, labels, train, test)
    leaking = baseline(drifting, SPEC, labels, train, test)
    assert clean is not None
    assert not clean.leaks
    assert leaking is not None
    assert leaking.accuracy > 0.99
    assert leaking.leaks
    assert baseline(eeg, SPEC.model_copy(update={"tmin": 0.0}), labels, train, test) is None


@pytest.mark.parametrize("protocol", ["cross-subject", "unseen-stimulus"])
def test_a_broken_promise_is_suspect(protocol: str) -> None:
    rng = np.random.default_rng(2)
    n = 200
    columns = trials(n, run=np.full(n, "1"), stimulus_id=np.array([f"s{i % 20}" for i in range(n)]))
    roles = np.array(["train", "test"])[rng.permutation(np.arange(n) % 2)]
    report = audit_split(
        eeg=rng.normal(size=(n, 2, 30)),
        spec=SPEC,
        labels=rng.permutation(np.arange(n) % 2),
        trials=columns,
        roles=roles,
        protocol=protocol,  # type: ignore[arg-type]
    )
    assert report.verdict == "suspect"
    assert f"the split promises {protocol}, but" in report.sentences[-1]


def test_without_places_order_or_baseline_nothing_is_known() -> None:
    labels = np.tile([0, 1], 20)
    report = audit_split(
        eeg=np.zeros((40, 2, 30)),
        spec=SPEC.model_copy(update={"tmin": 0.0}),
        labels=labels,
        trials={"subject": np.full(40, None)},
        roles=np.repeat(["train", "test"], 20),
        protocol="random-window",
    )
    assert (report.verdict, report.findings) == ("unknown", ())


def test_clean_phantoms_are_rarely_accused_and_block_designs_never_missed() -> None:
    from zoo.datasets.phantom import generate

    verdicts = {}
    for blocked, name in ((False, "stimulus-out"), (True, "block")):
        verdicts[blocked] = []
        for seed in range(8):
            made = generate(seed=seed, blocked=blocked, n_subjects=2, n_runs=2, n_exemplars=12)
            split = next(split for split in made.splits if split.id.startswith(name))
            labels = np.array([made.concepts.index(concept) for concept in made.trials["concept"]])
            report = audit_split(
                eeg=np.concatenate(list(made.eeg)),
                spec=made.spec,
                labels=labels,
                trials=made.trials,
                roles=np.array(split.role_of(made.trials[split.unit].tolist())),
                protocol=split.protocol,
            )
            verdicts[blocked].append(report.verdict)
    assert verdicts == {False: ["clean"] * 8, True: ["confounded"] * 8}

"""The phantoms hold the answer they promise: concepts in the one, only the clock in the other."""

from __future__ import annotations

import numpy as np
import pytest

from zoo import registry
from zoo.datasets import base, phantom
from zoo.errors import UsageError


def normalised(eeg: np.ndarray) -> np.ndarray:
    """(x - m) / m with m half the maximum of a trial, as the published encoders scale their input; flattened."""
    middle = eeg.max(axis=(1, 2), keepdims=True) / 2
    return np.asarray((eeg - middle) / middle).reshape(len(eeg), -1)


def score(dataset: base.EEGDataset, features: np.ndarray, split: str, kind: str = "linear") -> float:
    """Test accuracy of a plain classifier trained on the train role."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = LogisticRegression(C=0.01, max_iter=2000) if kind == "linear" else KNeighborsClassifier(5)
    classifier = make_pipeline(StandardScaler(), PCA(min(100, features.shape[1]), random_state=0), last)
    roles = dataset.roles(dataset.split(split))
    classifier.fit(features[roles == "train"], dataset.labels[roles == "train"])
    return float(classifier.score(features[roles == "test"], dataset.labels[roles == "test"]))


@pytest.fixture(scope="module")
def interleaved(tmp_path_factory: pytest.TempPathFactory) -> base.EEGDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("phantoms")))
        return base.load("phantom")


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> base.EEGDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("phantoms")))
        return base.load("phantom-block")


@pytest.mark.parametrize("name", ["interleaved", "blocked"])
def test_the_card_describes_what_is_generated(name: str, request: pytest.FixtureRequest) -> None:
    dataset: base.EEGDataset = request.getfixturevalue(name)
    card = dataset.card
    assert dataset.spec == card.eeg == phantom.SPEC
    assert len(dataset) == card.n_trials
    assert len(np.unique(dataset.trials["subject"])) == card.n_subjects
    assert dataset.concepts == card.concepts
    assert dataset.split_ids == sorted(s.id for s in card.splits)
    assert dataset.complete
    assert base.check(dataset.id) == []


def test_amplitudes_are_those_of_eeg(interleaved: base.EEGDataset, blocked: base.EEGDataset) -> None:
    assert 5e-6 < np.std(interleaved.eeg) < 50e-6
    assert 5e-6 < np.std(blocked.eeg) < 50e-6
    assert np.abs(blocked.eeg).max() < 300e-6


def test_held_out_pictures_are_decodable_and_strangers_less_so(interleaved: base.EEGDataset) -> None:
    features = normalised(interleaved.eeg)
    within = score(interleaved, features, "stimulus-out")
    across = score(interleaved, features, "subject-out")
    assert 0.85 < within < 0.99
    assert 0.4 < across < within - 0.1


def test_before_onset_nothing_is_known(interleaved: base.EEGDataset) -> None:
    before = normalised(interleaved.eeg[:, :, :16])
    assert score(interleaved, before, "stimulus-out") == pytest.approx(1 / 6, abs=0.06)


def test_the_response_also_holds_the_picture(interleaved: base.EEGDataset) -> None:
    """Mean responses to a picture, concept mean removed, agree between two halves of the people."""
    halves = []
    late = interleaved.eeg - interleaved.eeg[:, :, :16].mean(axis=2, keepdims=True)
    for people in (("01", "03", "05"), ("02", "04", "06")):
        rows = np.isin(interleaved.trials["subject"], people)
        pictures = interleaved.stimulus_of_trial[rows]
        mean = np.array([late[rows][pictures == p].mean(axis=0).ravel() for p in range(len(interleaved.stimuli))])
        mean = mean.reshape(6, 24, -1)
        halves.append((mean - mean.mean(axis=1, keepdims=True)).reshape(144, -1))
    own = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*halves, strict=True)])
    other = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(halves[0], np.roll(halves[1], 1, axis=0), strict=True)])
    assert own > 0.03
    assert own > other + 0.03


def test_the_clock_is_decodable_within_blocks_and_worth_nothing_in_another_run(blocked: base.EEGDataset) -> None:
    features = normalised(blocked.eeg)
    assert score(blocked, features, "block") > 0.25
    assert score(blocked, features, "block", "neighbours") > 0.95
    # 72 blocks of the test runs are what is independent: chance 1/6 with a standard error of 0.044
    assert score(blocked, features, "run-out") == pytest.approx(1 / 6, abs=0.11)
    assert score(blocked, features, "run-out", "neighbours") == pytest.approx(1 / 6, abs=0.11)


def test_nothing_but_the_offset_tells_the_block(blocked: base.EEGDataset) -> None:
    evoked = blocked.eeg - blocked.eeg[:, :, :16].mean(axis=2, keepdims=True)
    assert score(blocked, evoked.reshape(len(blocked), -1), "block") == pytest.approx(1 / 6, abs=0.06)


def test_blocks_hold_one_concept_and_come_in_another_order_every_run(blocked: base.EEGDataset) -> None:
    orders = set()
    for run in np.unique(blocked.trials["run"]):
        rows = blocked.trials["run"] == run
        assert (np.diff(blocked.trials["order"][rows]) == 1).all()
        concepts = blocked.trials["concept"][rows].reshape(12, 12)
        assert (concepts == concepts[:, :1]).all()
        assert sorted(concepts[:, 0]) == sorted(2 * phantom.CONCEPTS)
        orders.add(tuple(concepts[:, 0]))
    assert len(orders) == 18


def test_interleaved_trials_follow_no_concept(interleaved: base.EEGDataset) -> None:
    labels = interleaved.labels.reshape(18, 144)
    repeats = (np.diff(labels, axis=1) == 0).mean()
    assert repeats == pytest.approx(23 / 143, abs=0.03)  # what a random order of 24 of each gives
    assert (np.array([np.bincount(run) for run in labels]) == 24).all()


def test_splits_share_no_picture_and_no_subject(interleaved: base.EEGDataset) -> None:
    for name, column in (("stimulus-out", "stimulus_id"), ("subject-out", "subject")):
        roles = interleaved.roles(interleaved.split(name))
        parts = [set(interleaved.trials[column][roles == role]) for role in ("train", "val", "test")]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        for role in ("train", "val", "test"):
            assert set(interleaved.labels[roles == role]) == set(range(6))


def test_pictures_are_small_varied_and_tell_the_concept(interleaved: base.EEGDataset) -> None:
    pixels = np.array(interleaved.stimulus_pixels(range(144)))
    assert pixels.shape == (144, 32, 32, 3)
    assert len({p.tobytes() for p in pixels}) == 144
    flat = pixels.reshape(6, 24, -1).astype(float)
    centres = flat[:, ::2].mean(axis=1)
    distance = np.linalg.norm(flat[:, 1::2, None] - centres, axis=-1)
    assert (distance.argmin(axis=-1) == np.arange(6)[:, None]).mean() > 0.9


def test_a_seed_decides_everything() -> None:
    one, same, other = (phantom.generate(seed=s, n_subjects=3, n_runs=2, n_exemplars=4) for s in (3, 3, 4))
    np.testing.assert_array_equal(np.concatenate(one.eeg), np.concatenate(same.eeg))
    assert [s.image for s in one.stimuli] == [s.image for s in same.stimuli]
    assert base.fingerprint(one.trials) == base.fingerprint(same.trials)
    assert not np.allclose(np.concatenate(one.eeg), np.concatenate(other.eeg))
    assert base.fingerprint(one.trials) != base.fingerprint(other.trials)


def test_a_small_variant_is_a_dataset_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"version": 1, "seed": 5, "blocked": True, "n_subjects": 3, "n_runs": 3, "n_exemplars": 8}
    card = registry.datasets.get("phantom-block").model_copy(update={"id": "phantom-small", "options": options})
    monkeypatch.setitem(registry.datasets._added, card.id, card)
    dataset = base.load("phantom-small")
    assert len(dataset) == 3 * 3 * 48
    assert dataset.split_ids == ["block@0", "run-out@0"]
    changed = card.model_copy(update={"options": options | {"n_subjects": 2}})
    monkeypatch.setitem(registry.datasets._added, card.id, changed)
    assert len(base.load("phantom-small")) == 2 * 3 * 48  # a generated dataset follows its card


def test_an_odd_number_of_pictures_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        phantom.generate(n_exemplars=5)
    assert str(caught.value) == "n_exemplars must be even, since a block shows half of them, but is 5."


def test_concepts_lie_equally_far_from_one_another() -> None:
    corners = phantom._simplex(np.random.default_rng(0))
    distance = np.linalg.norm(corners[:, None] - corners, axis=-1)[~np.eye(6, dtype=bool)]
    np.testing.assert_allclose(distance, np.sqrt(2 * 6 / 5), rtol=1e-12)
    np.testing.assert_allclose(corners.sum(axis=0), 0, atol=1e-12)

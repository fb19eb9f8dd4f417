"""The phantom in the format of THINGS-EEG2 is what it promises: its known answer, its noise, its ceiling."""

from __future__ import annotations

import numpy as np
import pytest

from zoo import registry
from zoo.datasets import base, phantom_things
from zoo.errors import UsageError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> base.EEGDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("things")))
        return base.load("phantom-things")


@pytest.fixture(scope="module")
def answer(dataset: base.EEGDataset) -> phantom_things.Answer:
    return phantom_things.known_answer(dataset)


def of(dataset: base.EEGDataset, subject: str, part: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Trials of one person by picture, (n_pictures, n, 17, 100), and which pictures these are."""
    rows = np.flatnonzero(np.char.startswith(dataset.trials["trial_id"], f"{subject}-{part}"))
    eeg = dataset.eeg[rows].reshape(-1, n, 17, 100)
    return eeg, dataset.trials["stimulus_id"][rows].reshape(-1, n)[:, 0]


def over_pictures(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    r: np.ndarray = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return r


def test_the_format_is_that_of_things_eeg2(dataset: base.EEGDataset) -> None:
    things = registry.datasets.get("things-eeg2")
    assert dataset.spec == dataset.card.eeg == things.eeg
    assert len(dataset) == dataset.card.n_trials == 3 * (120 * 4 * 4 + 200 * 20)
    assert dataset.trials["trial_id"][[0, 1, 4, 1920, 5919, 5920]].tolist() == [
        "01-tr00001-0",
        "01-tr00001-1",
        "01-tr00002-0",
        "01-te001-00",
        "01-te200-19",
        "02-tr00001-0",
    ]
    assert set(np.unique(dataset.trials["block"])) == {f"0{s}-{p}" for s in (1, 2, 3) for p in ("train", "val", "test")}
    assert dataset.complete
    assert dataset.split_ids == sorted(split.id for split in dataset.card.splits)
    assert base.check(dataset.id) == []


def test_roles_share_no_concept_and_no_stranger(dataset: base.EEGDataset) -> None:
    concept, subject = dataset.trials["concept"], dataset.trials["subject"]
    for split_id in dataset.split_ids:
        roles = dataset.roles(dataset.split(split_id))
        train, val, test = (set(concept[roles == role].tolist()) for role in ("train", "val", "test"))
        assert (len(train), len(val), len(test)) == (108, 12, 200)
        assert not (train & val) | (train & test) | (val & test)
    roles = dataset.roles(dataset.split("cross-subject-02"))
    assert set(subject[roles == "test"]) == {"02"}
    assert set(subject[(roles == "train") | (roles == "val")]) == {"01", "03"}
    roles = dataset.roles(dataset.split("within-subject-02"))
    assert set(subject[roles != "unused"]) == {"02"}


def test_every_run_shows_every_picture_once_in_an_order_of_its_own(dataset: base.EEGDataset) -> None:
    runs = np.unique(dataset.trials["run"])
    assert len(runs) == 3 * 24
    orders = set()
    for run in runs:
        rows = np.flatnonzero(dataset.trials["run"] == run)
        assert len(np.unique(dataset.trials["stimulus_id"][rows])) == len(rows) == (480 if "-train-" in run else 200)
        order = dataset.trials["order"][rows]
        assert sorted(order) == list(range(len(rows)))
        orders.add(tuple(order))
    assert len(orders) == len(runs)


def test_trials_are_the_known_answer_plus_noise_of_unit_variance(
    dataset: base.EEGDataset, answer: phantom_things.Answer
) -> None:
    for subject in answer.subjects:
        for part, n in (("tr", 4), ("te", 20)):
            eeg, pictures = of(dataset, subject, part, n)
            noise = eeg - answer.of(subject, pictures)[:, None]
            assert noise.var() == pytest.approx(1, abs=0.002)  # every run is scaled to 1
            # noise of repetitions is independent: their mean has the variance 1 / n, pictures × 100 times averaged
            assert noise.mean(axis=1).var() == pytest.approx(1 / n, rel=0.02)
            assert abs(noise.mean()) < 0.01


def test_the_response_is_linear_in_pixels(dataset: base.EEGDataset, answer: phantom_things.Answer) -> None:
    """From mean colours in a 4 × 4 grid the response of training pictures gives that of test pictures exactly."""
    pixels = np.array(dataset.stimulus_pixels(range(680))) / 255
    grid = pixels.reshape(680, 4, 16, 4, 16, 3).mean(axis=(2, 4)).reshape(680, -1)
    known = np.column_stack([np.ones(680), grid])
    for response in answer.responses.reshape(3, 680, -1):
        weights = np.linalg.lstsq(known[:480], response[:480], rcond=None)[0]
        assert np.abs(known[480:] @ weights - response[480:]).max() < 1e-8


def test_features_are_white_over_training_pictures_and_mapped_linearly(
    dataset: base.EEGDataset, answer: phantom_things.Answer
) -> None:
    rows = dataset.stimulus_rows(dataset.split("unseen-concept"), "train")
    features = answer.features[rows]
    assert np.allclose(features.mean(axis=0), 0, atol=1e-12)
    assert np.allclose(np.cov(features.T, bias=True), np.eye(6), atol=1e-10)
    nothing = answer.responses[:, :1] - np.einsum("k,skct->sct", answer.features[0], answer.maps)[:, None]
    assert np.allclose(answer.responses, nothing + np.einsum("nk,skct->snct", answer.features, answer.maps))
    assert np.abs(nothing).max() > 0.5  # the mean evoked response
    assert np.abs(answer.responses[..., :20] - answer.responses[..., :20].mean(axis=1, keepdims=True)).max() < 0.01


def test_the_ceiling_is_what_the_truth_reaches(dataset: base.EEGDataset, answer: phantom_things.Answer) -> None:
    for subject in answer.subjects:
        eeg, pictures = of(dataset, subject, "te", 20)
        ceiling = answer.ceiling(subject, pictures, 20)
        reached = over_pictures(answer.of(subject, pictures), eeg.mean(axis=1))
        # one correlation over 200 pictures has a standard error of at most 1 / sqrt(200)
        assert np.abs(reached - ceiling).max() < 5 / np.sqrt(200)
        assert reached.mean() == pytest.approx(ceiling.mean(), abs=0.02)
        halves = over_pictures(eeg[:, ::2].mean(axis=1), eeg[:, 1::2].mean(axis=1))
        assert halves.mean() == pytest.approx((answer.ceiling(subject, pictures, 10) ** 2).mean(), abs=0.02)
        assert ceiling.max() > 0.85
        assert ceiling[:, :20].max() < 0.05  # nothing is known before onset


def test_people_differ_but_share_most(answer: phantom_things.Answer) -> None:
    maps = answer.maps.reshape(3, -1)
    alike = np.corrcoef(maps)[np.triu_indices(3, 1)]
    assert (alike > 0.4).all()
    assert (alike < 0.95).all()


def test_a_seed_decides_everything() -> None:
    small = {"n_subjects": 1, "n_concepts": 10, "n_exemplars": 2, "n_repetitions": 2, "n_test": 5}
    card = registry.datasets.get("phantom-things")
    first, again, other = (phantom_things.generate(card=card, seed=seed, **small) for seed in (1, 1, 2))
    one, two, three = (np.concatenate(list(made.eeg)) for made in (first, again, other))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)
    assert first.stimuli == again.stimuli != other.stimuli
    absent = "it tests subject {}, whom this copy does not have."
    assert first.report == (
        "split within-subject-02 is left out: " + absent.format("02"),
        "split within-subject-03 is left out: " + absent.format("03"),
        "split cross-subject-01 is left out: it trains on other people, but there are none.",
        "split cross-subject-02 is left out: " + absent.format("02"),
        "split cross-subject-03 is left out: " + absent.format("03"),
    )


def test_a_person_is_the_same_in_a_larger_crowd() -> None:
    small = {"n_concepts": 10, "n_exemplars": 2, "n_repetitions": 2, "n_test": 5, "n_test_repetitions": 3}
    alone, two = (np.concatenate(list(phantom_things.generate(n_subjects=n, **small).eeg)) for n in (1, 2))
    assert np.array_equal(alone, two[: len(alone)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_test": 1}, "n_test of a phantom must be at least 2, but is 1."),
        ({"n_subjects": 11}, "n_subjects must be 1 to 10, but is 11."),
    ],
)
def test_what_cannot_be_made_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        phantom_things.generate(**options)
    assert str(refused.value) == message

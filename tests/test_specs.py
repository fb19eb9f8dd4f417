from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from zoo.errors import UsageError
from zoo.specs import DatasetCard, EEGSpec, File, Split, SplitCard, TrackCard

SHA = "0" * 64
REVISION = "a" * 40
NEED = EEGSpec(ch_names=("Fz", "Cz", "Pz"), sfreq=128, tmin=0.0, n_times=32)


def offered(**changes: Any) -> EEGSpec:
    return EEGSpec.model_validate({**NEED.model_dump(), **changes})


# ---- EEGSpec


def test_a_spec_says_its_shape_and_rate() -> None:
    assert NEED.n_channels == 3
    assert str(NEED) == "3 channels × 32 times at 128 Hz"
    assert str(offered(sfreq=62.5)) == "3 channels × 32 times at 62.5 Hz"


def test_recordings_that_fit_are_let_through_whatever_their_onset() -> None:
    offered(tmin=-0.2).require(NEED, offers="phantom", needs="eeg2image")


@pytest.mark.parametrize(
    ("changes", "offers", "difference"),
    [
        ({"ch_names": ("Fz", "Cz")}, "2 channels × 32 times at 128 Hz", "2 channels against 3"),
        ({"ch_names": ("Fz", "Oz", "Pz")}, "3 channels × 32 times at 128 Hz", "channel Oz where Cz is needed"),
        ({"ch_names": ("Cz", "Fz", "Pz")}, "3 channels × 32 times at 128 Hz", "channel Cz where Fz is needed"),
        ({"sfreq": 250.5}, "3 channels × 32 times at 250.5 Hz", "250.5 Hz against 128 Hz"),
        ({"n_times": 440}, "3 channels × 440 times at 128 Hz", "440 times against 32"),
        (
            {"ch_names": ("Fz",), "sfreq": 1000, "n_times": 440},
            "1 channels × 440 times at 1000 Hz",
            "1 channels against 3; 1000 Hz against 128 Hz; 440 times against 32",
        ),
    ],
)
def test_recordings_that_do_not_fit_name_both_sides(changes: dict[str, Any], offers: str, difference: str) -> None:
    with pytest.raises(UsageError) as error:
        offered(**changes).require(NEED, offers="phantom", needs="eeg2image")
    assert str(error.value) == (
        f"eeg2image needs 3 channels × 32 times at 128 Hz, but phantom offers {offers} ({difference}); "
        "choose a dataset that fits or train the model on phantom."
    )


@pytest.mark.parametrize("changes", [{"sfreq": 0}, {"sfreq": -1}, {"n_times": 0}, {"unit": "µV"}, {"montage": "x"}])
def test_impossible_recordings_and_unknown_keys_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        offered(**changes)
    assert [found["loc"] for found in error.value.errors()] == [tuple(changes)]


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="Instance is frozen"):
        NEED.sfreq = 1.0


# ---- File


@pytest.mark.parametrize("place", [{"repo": "org/x", "revision": REVISION}, {"url": "https://example.org/x"}])
def test_a_file_is_at_one_place(place: dict[str, str]) -> None:
    assert File.model_validate({"path": "x", "sha256": SHA, **place}).path == "x"


@pytest.mark.parametrize(
    "place",
    [{}, {"repo": "org/x"}, {"repo": "org/x", "revision": REVISION, "url": "https://example.org/x"}],
)
def test_a_file_at_no_place_or_at_two_is_refused(place: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="x needs either a repo with its 40-hex revision or a url"):
        File.model_validate({"path": "x", "sha256": SHA, **place})


@pytest.mark.parametrize("bad", [{"sha256": "0" * 63}, {"sha256": "G" * 64}, {"revision": "main"}])
def test_a_file_is_pinned_by_whole_hashes(bad: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="String should match pattern") as error:
        File.model_validate({"path": "x", "sha256": SHA, "repo": "org/x", "revision": REVISION, **bad})
    assert [found["loc"] for found in error.value.errors()] == [tuple(bad)]


# ---- splits and tracks


def split(**roles: tuple[str, ...]) -> Split:
    return Split.model_validate(
        {
            "id": "subject-out@1",
            "dataset": "phantom",
            "protocol": "cross-subject",
            "description": "whole subjects are held out",
            "unit": "subject",
            "roles": roles,
            "default": "unused",
            "trials_fingerprint": SHA,
        }
    )


def test_a_trial_plays_the_role_of_its_value_or_the_default() -> None:
    roles = split(train=("01", "02"), val=("03",), test=("04",)).role_of(["04", "01", "09", "03", "02", "04"])
    assert roles == ["test", "train", "unused", "val", "train", "test"]
    assert split().role_of(["01"]) == ["unused"]
    assert split(test=("01",)).model_copy(update={"default": "train"}).role_of(["01", "02"]) == ["test", "train"]


def test_nothing_is_both_trained_and_tested_on() -> None:
    with pytest.raises(ValidationError, match="subject-out@1 names subject 02 twice, but each plays one role"):
        split(train=("01", "02"), test=("02", "03"))


@pytest.mark.parametrize("name", ["subject-out", "Subject@1", "subject-out@", "a b@1"])
def test_a_split_carries_its_version(name: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        Split.model_validate({**split().model_dump(), "id": name})


def dataset(*splits: str) -> DatasetCard:
    return DatasetCard(
        id="phantom",
        title="t",
        loader=None,
        pairing="class",
        licence="CC0-1.0",
        hosts="everything",
        citation="c",
        source="s",
        get="g",
        splits=tuple(SplitCard(id=name, protocol="cross-subject") for name in splits),
    )


def test_a_dataset_gives_its_splits_by_name_and_the_first_by_default() -> None:
    card = dataset("subject-out@2", "block@1")
    assert [card.split(name).id for name in (None, "block", "block@1", "subject-out@2")] == [
        "subject-out@2",
        "block@1",
        "block@1",
        "subject-out@2",
    ]


def test_an_unknown_split_lists_the_known_ones() -> None:
    for card, known in ((dataset("subject-out@2", "block@1"), "subject-out@2, block@1"), (dataset(), "none")):
        with pytest.raises(UsageError) as error:
            card.split("block@2")
        assert str(error.value) == f"phantom has no split 'block@2'; its splits are: {known}."


def test_a_track_generates_at_least_once() -> None:
    fields = {"id": "t", "task": "reconstruction", "dataset": "d", "split": "s", "metrics": (), "headline": "h"}
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        TrackCard.model_validate({**fields, "controls": (), "replicates": 0})

"""A user's own recordings: the same trials from every form, nothing guessed in silence, one sentence when it fails."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import mne
import mne_bids
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo import registry, scoring, store
from zoo.cli import app
from zoo.datasets import base, own, recipes
from zoo.datasets.base import strings
from zoo.errors import MissingError, UsageError
from zoo.plan import find_track
from zoo.record import Record
from zoo.specs import MetricCard

# MNE 1.13 calls pandas in a way that pandas 3.1 announces to remove
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")

CONCEPTS = ("bird", "car", "cat", "dog", "tree")
SFREQ, TMIN, N_TIMES = 100.0, -0.1, 20


def signal(n: int, subject: int = 0, n_channels: int = 3) -> np.ndarray:
    """Trials whose every value says subject, trial, channel and time: (n, n_channels, N_TIMES) in volts."""
    trial, channel, time = np.ogrid[:n, :n_channels, :N_TIMES]
    return (subject + 1e-2 * trial + 1e-4 * channel + 1e-6 * time) * 1e-5


def shown(pictures: int = 5) -> list[tuple[str, str]]:
    return [(concept, f"{concept}{k}.png") for k in range(pictures) for concept in CONCEPTS]


def epochs(
    subject: int = 0,
    *,
    mixed: bool = False,
    sfreq: float = SFREQ,
    names: tuple[str, ...] = ("O1", "Oz", "O2"),
    **changes: Any,
) -> Any:
    """25 trials with an eye channel in front, tagged events, and what was shown as metadata."""
    rows = shown()
    rows = [rows[k] for k in np.random.default_rng(subject).permutation(len(rows))] if mixed else rows
    codes = [CONCEPTS.index(concept) + 1 for concept, _ in rows]
    events = np.stack([1000 * np.arange(len(rows)), np.zeros(len(rows), int), codes], axis=1)
    info = mne.create_info(["EOG", *names], sfreq, ["eog", *["eeg"] * len(names)])
    data = np.concatenate([np.ones((len(rows), 1, N_TIMES)), signal(len(rows), subject, len(names))], axis=1)
    options: dict[str, Any] = {
        "event_id": {f"seen/{concept}": code + 1 for code, concept in enumerate(CONCEPTS)},
        "metadata": pd.DataFrame({"kind": [c for c, _ in rows], "stim_file": [p for _, p in rows]}),
        **changes,
    }
    return mne.EpochsArray(data, info, events, TMIN, verbose="error", **options)


def save(folder: Path, name: str, *args: Any, **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs(*args, **options).save(path, verbose="error")
    return path


def arrays(**changes: Any) -> dict[str, Any]:
    rows = shown()
    return {
        "eeg": signal(len(rows)),
        "sfreq": SFREQ,
        "tmin": TMIN,
        "ch_names": np.array(["O1", "Oz", "O2"]),
        "concept": np.array([concept for concept, _ in rows]),
        "subject": np.arange(len(rows)) // 5,  # five of them, five trials each: every concept once
        **changes,
    }


def pictures(folder: Path, names: list[str]) -> Path:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k % 256, k // 256, 255 - k % 256)).save(folder / name)
    return folder


def refused(*args: Any, **options: Any) -> str:
    """The sentence with which ``add`` fails, leaving nothing behind."""
    before = sorted(store.cache_dir("datasets").glob("*/*"))
    with pytest.raises(UsageError) as failed:
        own.add(*args, **options)
    assert sorted(store.cache_dir("datasets").glob("*/*")) == before
    return str(failed.value)


# ---- the same trials from every form


def test_epochs_files_become_one_dataset_in_the_order_of_their_names(tmp_path: Path) -> None:
    for subject in (2, 1, 3, 4, 5):
        save(tmp_path, f"sub-{subject:02d}/sub-{subject:02d}_ses-a_run-2_epo.fif", subject)
    own.add("my-study", tmp_path, title="Mine", licence="CC0", hosts="everything")
    dataset = base.load("my-study")
    assert dataset.spec.model_dump() == {
        "ch_names": ("O1", "Oz", "O2"),  # the eye channel is not EEG
        "sfreq": SFREQ,
        "tmin": TMIN,
        "n_times": N_TIMES,
        "unit": "V",
    }
    expected = np.concatenate([signal(25, subject) for subject in (1, 2, 3, 4, 5)])
    np.testing.assert_allclose(dataset.eeg, expected, rtol=1e-6)
    first = {name: values[25] for name, values in dataset.trials.items()}
    assert first == {
        "trial_id": "sub-02-sub-02_ses-a_run-2-0000",
        "subject": "02",
        "session": "a",
        "run": "02-a-2",
        "block": None,
        "order": 0,
        "recording": "sub-02-sub-02_ses-a_run-2",
        "stimulus_id": "bird0.png",
        "concept": "seen/bird",
    }
    card = registry.datasets.get("my-study")
    assert (card.title, card.licence, card.hosts, card.pairing) == ("Mine", "CC0", "everything", "instance")
    assert (card.n_trials, card.n_subjects, card.concepts) == (125, 5, tuple(f"seen/{c}" for c in CONCEPTS))
    assert dataset.split_ids == ["concept-out@0", "stimulus-out@0", "subject-out@0"]
    assert dataset.split(None).id == "subject-out@0"
    assert dataset.report == (
        "no pictures: give the folder of the pictures shown as --images to train or score images.",
        "split session-out is left out: session-out needs a subject with two sessions or more, but nobody has.",
        "split run-out is left out: run-out needs a subject with two runs or more, but nobody has.",
    )
    assert base.check("my-study") == []


def test_epochs_in_memory_in_a_file_and_as_arrays_are_the_same_trials(tmp_path: Path) -> None:
    options: dict[str, Any] = {"concept": "kind", "subject": "01", "splits": ["stimulus-out"]}
    own.add("in-memory", epochs(3), **options)
    own.add("in-a-file", save(tmp_path, "own-epo.fif", 3), **options)
    given = arrays(eeg=signal(25, 3), kind=[c for c, _ in shown()], stimulus_id=[p for _, p in shown()])
    del given["concept"]
    np.savez_compressed(tmp_path / "own.npz", **given)
    own.add("packed", tmp_path / "own.npz", **options)
    given["eeg"] = np.asfortranarray(given["eeg"])
    np.savez(tmp_path / "turned.npz", **given)
    own.add("turned", tmp_path / "turned.npz", **options)
    own.add("arrays", given, **options)
    wanted = base.load("in-memory")
    assert wanted.trials["trial_id"][24] == "in-memory-0024"
    assert base.load("in-a-file").trials["trial_id"][24] == "own-0024"
    for name in ("in-a-file", "packed", "turned", "arrays"):
        found = base.load(name)
        assert found.spec == wanted.spec
        np.testing.assert_allclose(found.eeg, wanted.eeg, rtol=1e-6)
        for column in ("concept", "stimulus_id"):
            assert found.trials[column].tolist() == wanted.trials[column].tolist()
        assert found.report[0] == "every trial has subject '01', since no column is called so."
    assert wanted.trials["order"].tolist() == list(range(25))
    assert "order" not in base.load("arrays").trials  # arrays do not say how they were recorded


def test_events_are_chosen_and_named_and_trials_are_cut(tmp_path: Path) -> None:
    kept = {"seen/cat": "animal", "seen/dog": "animal", "seen/car": "thing"}
    path = save(tmp_path, "own-epo.fif", 1)
    own.add("own", path, events=kept, tmin=-0.05, tmax=0.05, pairing="none", subject="1", splits=["stimulus-out"])
    dataset = base.load("own")
    rows = [k for k, (concept, _) in enumerate(shown()) if concept in ("cat", "dog", "car")]
    assert dataset.trials["trial_id"].tolist() == [f"own-{row:04d}" for row in rows]
    assert dataset.concepts == ("animal", "thing")
    assert (dataset.spec.tmin, dataset.spec.n_times) == (-0.05, 11)
    np.testing.assert_allclose(dataset.eeg, signal(25, 1)[rows][:, :, 5:16], rtol=1e-6)


def test_a_bids_root_is_cut_around_its_events(tmp_path: Path) -> None:
    n, rows = 6000, shown()
    for subject in ("01", "02", "03"):
        wave = np.sin(np.arange(n) / 7 + int(subject)) * 1e-5
        raw = mne.io.RawArray(np.stack([wave, -wave]), mne.create_info(["Oz", "Pz"], SFREQ, "eeg"), verbose="error")
        raw.set_annotations(mne.Annotations([40.0], [1.0], ["BAD_move"]))
        place = mne_bids.BIDSPath(subject=subject, session="1", task="see", run="1", root=tmp_path, datatype="eeg")
        mne_bids.write_raw_bids(raw, place, format="EDF", allow_preload=True, verbose="error")
        table = pd.DataFrame(
            {
                "onset": [2.0 * (k + 1) for k in range(25)] + [5.0, 59.9],
                "duration": 0,
                "trial_type": [concept for concept, _ in rows] + ["press", "cat"],
                "stim_file": [f"set/{picture}" for _, picture in rows] + ["n/a", "set/cat0.png"],
            }
        )
        table.loc[27] = [40.0, 1, "BAD_move", "n/a"]
        place.update(suffix="events", extension=".tsv")
        table.to_csv(place.fpath, sep="\t", index=False)
    own.add("study", tmp_path, events=CONCEPTS, tmin=-0.1, tmax=0.3)
    dataset = base.load("study")
    assert (dataset.spec.ch_names, dataset.spec.tmin, dataset.spec.n_times) == (("Oz", "Pz"), -0.1, 41)
    assert dataset.report[0] == (
        "2 events of sub-01_ses-1_task-see_run-1_eeg.edf lie in bad segments or too close to an end and were left out."
    )
    assert len(dataset) == 3 * 24
    assert dataset.trials["trial_id"][24] == "sub-02_ses-1_task-see_run-1-0000"
    assert dataset.trials["run"][24] == "02-1-1"
    assert dataset.trials["stimulus_id"][0] == "set/bird0.png"
    assert (
        "sub-01_ses-1_task-see_run-1-0019" not in dataset.trials["trial_id"]
    )  # its onset, 40 s, is in the bad segment
    onset = 200
    expected = np.sin(np.arange(onset - 10, onset + 31) / 7 + 2) * 1e-5
    np.testing.assert_allclose(dataset.eeg[24, 0], expected, atol=2e-9)  # EDF keeps 16 bits
    np.testing.assert_allclose(dataset.eeg[24, 1], -expected, atol=2e-9)


def test_columns_are_made_unique_in_the_whole_dataset() -> None:
    given = arrays(session=["a", "b"] * 12 + ["a"], run=[1.0] * 25, block=list(range(25)), order=list(range(25)))
    own.add("study", given)
    trials = base.load("study").trials
    assert trials["subject"][[0, 24]].tolist() == ["0", "4"]
    assert trials["run"][[0, 1]].tolist() == ["0-a-1", "0-b-1"]
    assert trials["block"][24] == "4-a-24"
    assert trials["order"].tolist() == list(range(25))


def test_an_npz_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    n = 600
    eeg = np.zeros((n, 64, 500), np.float32)
    eeg[:] = np.arange(n)[:, None, None] * 1e-7
    given = arrays(eeg=eeg, concept=np.tile(CONCEPTS, n // 5), subject=np.arange(n) // 120)
    np.savez(tmp_path / "big.npz", **{**given, "ch_names": np.array([f"E{k}" for k in range(64)])})
    tracemalloc.start()
    own.add("big", tmp_path / "big.npz", splits=["subject-out"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < eeg.nbytes / 2
    np.testing.assert_array_equal(base.load("big").eeg[:, 63, 499], eeg[:, 63, 499])


# ---- pictures


def test_every_trial_finds_its_picture_by_path_name_or_stem(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "shown", [f"{concept}/{name}" for concept, name in shown()])
    for name, called in (("path", "{c}/{p}"), ("name", "{p}"), ("stem", "{s}")):
        ids = [called.format(c=c, p=p, s=p.removesuffix(".png")) for c, p in shown()]
        own.add(name, arrays(pic=ids), stimulus="pic", images=folder)
        dataset = base.load(name)
        assert dataset.card.pairing == "instance"
        row = dataset.stimulus_of_trial[7]
        assert dataset.stimulus_pixels([row])[0][0, 0].tolist() == [7, 0, 248]
    alike = pictures(tmp_path / "twice", [f"{side}/{name}" for side in "ab" for _, name in shown()])
    ids = [p for _, p in shown()]
    assert refused("own", arrays(stimulus_id=ids), images=alike) == (
        f"every stimulus needs its picture, but of 'bird0.png' 2 files are called so in {alike}; add it, or name files "
        "by their path in that folder."
    )
    (folder / "cat/cat3.png").unlink()
    assert refused("own", arrays(stimulus_id=ids), images=folder) == (
        f"every stimulus needs its picture, but of 'cat3.png' there is none in {folder}; add it, or name files by "
        "their path in that folder."
    )
    assert refused("own", arrays(stimulus_id=["bird0.png"] * 25), images=folder) == (
        "a picture must show one concept, but 'bird0.png' was shown as bird and as car; correct the columns or choose "
        "pairing class."
    )


def test_with_class_pairing_concepts_have_folders_of_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path, [f"seen-{concept}/{k}.png" for concept in CONCEPTS for k in range(4)])
    own.add("own", epochs(), subject="kind", pairing="class", images=folder, splits=["concept-out"])
    dataset = base.load("own")
    assert set(dataset.trials["stimulus_id"].tolist()) == {None}
    assert [dataset.stimuli.roles.tolist().count(role) for role in ("train", "test")] == [15, 5]
    assert dataset.stimuli_source == "pictures given with --images"


# ---- splits


def test_sessions_and_concepts_are_held_out_whole() -> None:
    rows = [(s, day, c) for s in "abcd" for day in ("1", "2", "3", "4")[: 2 + 2 * (s < "c")] for c in CONCEPTS * 2]
    subject, session, concept = (strings(column) for column in zip(*rows, strict=True))
    trials = {"trial_id": strings([str(k) for k in range(len(rows))]), "subject": subject, "session": session}
    trials |= {"concept": concept}
    cut = recipes.session_out(trials)
    assert cut.unit == "session"
    assert not {*cut.val} & {*cut.test}
    for person in "abcd":
        own_sessions = set(session[subject == person].tolist())
        assert own_sessions & {*cut.test}
    concepts = recipes.concept_out(trials, val=0.1, test=0.2)
    assert (concepts.unit, len(concepts.val), len(concepts.test)) == ("concept", 1, 2)
    assert not {*concepts.val} & {*concepts.test}
    four = concept != "tree"
    with pytest.raises(UsageError, match=r"^concept-out needs five concepts or more, but there are 4\.$"):
        recipes.concept_out({name: values[four] for name, values in trials.items()}, val=0.1, test=0.2)
    alone = {**trials, "session": strings(["1"] * len(rows))}
    with pytest.raises(UsageError, match=r"^session-out needs a subject with two sessions or more, but nobody has\.$"):
        recipes.session_out(alone)


def test_a_split_that_cannot_be_cut_is_reported_and_none_at_all_is_an_error() -> None:
    own.add("own", arrays(), splits=["run-out", "subject-out"])
    dataset = base.load("own")
    assert dataset.split_ids == ["subject-out@0"]
    assert dataset.report[-1] == "split run-out is left out: it needs the run of every trial."
    given = {name: values for name, values in arrays().items() if name != "subject"}
    few = {"bird": "bird", "cat": "cat"}
    assert refused("two", given, events=few) == (
        "two needs a split, but none can be cut (split concept-out is left out: concept-out needs five concepts or "
        "more, but there are 2); say more about its trials with --subject, --session, --run or --stimulus."
    )


# ---- adding again


def test_adding_again_replaces_only_what_was_added_alike(tmp_path: Path) -> None:
    for subject in range(4):
        save(tmp_path, f"sub-{subject}_epo.fif", subject)
    own.add("own", tmp_path, concept="kind")
    before = base.load("own").fingerprint
    assert refused("own", tmp_path) == (
        "own is here already, added with other settings (concept); give another id, the same settings, or --replace."
    )
    assert base.load("own").fingerprint == before
    save(tmp_path, "sub-4_epo.fif", 4)
    own.add("own", tmp_path, concept="kind")
    assert len(base.load("own")) == 125
    (tmp_path / "sub-4_epo.fif").unlink()
    with pytest.raises(UsageError) as failed:  # 'prepare' only mends what is here
        base.prepare("own", source=tmp_path)
    assert str(failed.value) == (
        "--source of own must be what it was added from, but these differ: n_trials, n_subjects; "
        "use 'zoo data add own' to replace it."
    )
    save(tmp_path, "sub-4_epo.fif", 4)
    after = base.load("own")
    (after.folder / "eeg.safetensors").write_bytes(b"")
    base.prepare("own", source=tmp_path)
    assert base.load("own").eeg_sha256 == after.eeg_sha256
    own.add("own", tmp_path, replace=True)
    assert base.load("own").concepts[0] == "seen/bird"


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "My_Study"}, "the id of a dataset must be of a-z, 0-9 and single hyphens, not 'My_Study'."),
        (
            {"name": "phantom"},
            f"phantom is a dataset of the zoo ({registry.datasets.get('phantom').title}); give yours another id.",
        ),
        (
            {"splits": ["subjet-out"]},
            "unknown split 'subjet-out'; did you mean 'subject-out'? Splits are subject-out, session-out, run-out, "
            "stimulus-out, concept-out.",
        ),
        ({"unit": "uV"}, "--unit must be V or a.u., not 'uV'."),
        ({"pairing": "trial"}, "--pairing must be instance or class or none, not 'trial'."),
        ({"hosts": "all"}, "--hosts must be everything or recordings or splits, not 'all'."),
        (
            {"source": [1]},
            "source must be a path, a dict of arrays or mne.Epochs, not list; see docs/datasets/your-own.md.",
        ),
        (
            {"source": "no/such"},
            "--source must be a file or folder that exists, but no/such does not; check its spelling.",
        ),
        ({"concept": "kid"}, "source has no column 'kid'; did you mean 'kind'? Its columns are: kind, stim_file."),
        (
            {"stimulus": "picture"},
            "source has no column 'picture'. Its columns are: concept, kind, stim_file.",
        ),
        (
            {"events": ["seen/cta"]},
            "--events must name values of the concept column, but no trial has 'seen/cta'; did you mean 'seen/cat' or "
            "'seen/car' or 'seen/tree'? There are: seen/bird, seen/car, seen/cat, seen/dog, seen/tree.",
        ),
        (
            {"events": ["seen/cat"]},
            "own needs trials of two concepts or more, but has seen/cat; name their column with --concept.",
        ),
        (
            {"tmax": 0.5},
            "--tmin and --tmax must lie within the trials of source, -0.1 s to 0.09 s, but are -0.1 s and 0.5 s.",
        ),
        (
            {"epochs": {"metadata": None}, "pairing": "instance"},
            "pairing instance needs the picture that each trial showed, but it is not known of every trial; name its "
            "column with --stimulus or choose pairing class.",
        ),
        (
            {"pairing": "none", "images": "."},
            "with pairing none own has no pictures; leave out --images or choose another pairing.",
        ),
        (
            {"epochs": {"event_id": None}},
            "the events of source must have names or its trials a column 'concept', but the events are numbers "
            "(1, 2, 3, 4, 5); name the column with --concept, or the events with --events NUMBER=NAME.",
        ),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    source = epochs(**options.get("epochs", {}))
    given = {name: value for name, value in options.items() if name != "epochs"}
    assert refused(**{"name": "own", "source": source, **given}) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"concept": None}, "source must hold eeg, sfreq, tmin, ch_names, concept, but concept is missing; add it."),
        (
            {"eeg": signal(25, n_channels=2)},
            "eeg of source must be numbers (n_trials, 3 channels as in ch_names, n_times), but is float64 (25, 2, 20).",
        ),
        ({"subject": ["1"]}, "column subject of source must have one value for each of 25 trials, but has shape (1,)."),
        ({"sfreq": 0}, "sfreq of source must be a positive number, not 0."),
        (
            {"order": ["late"] * 25},
            "column order of source must hold whole numbers, but does not: invalid literal for int() with base 10: "
            "'late'.",
        ),
        (
            {"concept": ["cat", None, *["dog"] * 23]},
            "every trial needs a concept, but own-0001 of source has none; choose trials with --events.",
        ),
        (
            {"eeg": signal(25) * 1e6},
            "EEG must be in volts, but values of source are typically 1.2; divide by 1e6 if they are microvolts, or "
            "say --unit a.u. if they were standardised.",
        ),
        (
            {"eeg": np.where(np.arange(25)[:, None, None] == 7, np.nan, signal(25))},
            "EEG must be finite, but trial own-0007 holds NaN or infinity; repair or remove its recording.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arrays_that_do_not_fit_are_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    given = {name: value for name, value in arrays(**changes).items() if value is not None}
    assert refused("own", given) == sentence


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            {"names": ("O1", "Oz", "PO3")},
            "3 channels × 20 times at 100 Hz and b-epo.fif has 3 channels × 20 times at 100 Hz (only one has O2, PO3)",
        ),
        (
            {"names": ("O1", "O2", "Oz")},
            "3 channels × 20 times at 100 Hz and b-epo.fif has 3 channels × 20 times at 100 Hz (their channels stand "
            "in another order)",
        ),
        (
            {"sfreq": 200.0},
            "3 channels × 20 times at 100 Hz and b-epo.fif has 3 channels × 20 times at 200 Hz (sampling rate or "
            "length differ)",
        ),
    ],
)
def test_files_that_differ_are_both_named(tmp_path: Path, other: dict[str, Any], difference: str) -> None:
    save(tmp_path, "a-epo.fif")
    save(tmp_path, "b-epo.fif", **other)
    assert refused("own", tmp_path) == (
        f"all files must have the same channels, sampling rate and times, but a-epo.fif has {difference}; "
        "make them alike or add them as two datasets."
    )


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    assert refused("own", tmp_path) == (
        f"--source must be MNE epochs, an .npz file, a folder of such or a BIDS root, but {tmp_path} has no "
        "*-epo.fif, *_epo.fif, .npz or dataset_description.json in it."
    )
    raw = mne.io.RawArray(np.zeros((1, 500)), mne.create_info(1, 100.0, "eeg"), verbose="error")
    raw.save(tmp_path / "own_raw.fif", verbose="error")
    assert re.fullmatch(  # what stands in brackets is MNE's
        r"own_raw\.fif must be an MNE epochs file, but it cannot be read as one \([^()]+\); save epochs with "
        r"epochs\.save\(\)\.",
        refused("own", tmp_path / "own_raw.fif"),
    )
    (tmp_path / "own.npz").write_bytes(b"no zip")
    assert refused("own", tmp_path / "own.npz").startswith(
        "own.npz must be an .npz file of plain arrays, but it cannot be read as one ("
    )
    np.savez(tmp_path / "pickled.npz", **arrays(eeg=np.array([{}], dtype=object)))
    assert refused("own", tmp_path / "pickled.npz") == (
        "pickled.npz must be an .npz file of plain arrays, but it cannot be read as one (Object arrays cannot be "
        "loaded when allow_pickle=False); write it with np.savez()."
    )


def test_without_mne_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "own-epo.fif")
    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(MissingError) as failed:
        own.add("own", path)
    assert str(failed.value) == (
        "MNE epochs and BIDS roots are read by MNE-Python, which is not on this machine.\n"
        "to install it, run: pip install 'eeg-image-zoo[mne]'"
    )
    own.add("own", arrays())  # arrays need none of it


# ---- from the command line to a record


def test_the_examples_of_the_page_give_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/datasets/your-own.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    with mne.use_log_level("error"):
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(code, {})
    commands = re.findall(r"^\$ zoo (data add|audit) (.*)\n((?:[^$`].*\n)*)", page, re.MULTILINE)
    assert [what for what, _, _ in commands] == ["data add", "audit"] * 2
    for what, arguments, output in commands:
        result = CliRunner().invoke(app, [*what.split(), *shlex.split(arguments), *(["-q"] if what != "audit" else [])])
        assert result.exit_code == 0, result.output
        assert output
        assert (result.stderr == output) if what == "data add" else result.stdout.startswith(output)


@pytest.mark.slow
def test_own_recordings_are_listed_audited_trained_on_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(card: MetricCard) -> str | None:
        slow = card.id == "finetuned_accuracy" or card.extractor not in (None, "pixels-16")
        return "left out: it takes long" if slow else None

    monkeypatch.setattr(scoring, "_absent", absent)

    def call(line: str) -> str:
        result = CliRunner().invoke(app, line.split())
        assert result.exit_code == 0, result.output
        return result.stdout

    for subject in range(1, 9):
        save(tmp_path, f"eeg/sub-{subject}_epo.fif", subject, mixed=True)
    folder = pictures(tmp_path / "pictures", [name for _, name in shown()])
    added = call(f"data add my-study --source {tmp_path}/eeg --images {folder} --concept kind --title Mine -q")
    assert added == f"{store.cache_dir('datasets', 'my-study')}\n"
    assert "my-study                           Mine\n" in call("list datasets")
    assert call("audit my-study").startswith("my-study subject-out@0: clean\n")
    tiny = "--set encoder_steps=4 --set gan_steps=2 --set encoder_batch_size=16 --set gan_batch_size=8"
    for split, headline, unmeasured in (
        ("stimulus-out", "logistic_accuracy", None),
        ("concept-out", "kmeans_accuracy", "logistic_accuracy"),
    ):
        call(f"train eeg2image.small -d my-study --split {split} --device cpu -q {tiny}")
        told = call(f"eval eeg2image.small -d my-study --split {split} --device cpu --replicates 1 --json -q")
        found = json.loads(told)
        assert found["identity"]["track"] == f"reconstruction/my-study.{split}@0"  # @0: a track that is not released
        assert (found["status"], found["headline"]) == ("ok", headline)
        assert found["values"][headline]["value"] is not None
        assert found["values"]["pixcorr-425"]["reason"] == "left out: it takes long"
        if unmeasured:
            assert found["values"][unmeasured]["reason"].endswith("a classifier cannot name a class it never saw")
            oracle = found["controls"]["class-oracle"]["values"]["copy_rate-pixels-16"]
            assert oracle["reason"] == "class-oracle needs a training picture of every test class, but some are unseen"
    records = sorted(store.cache_dir("board").rglob("*.json"))
    assert [Record.read(path).identity.dataset for path in records] == ["my-study", "my-study"]


def test_the_track_of_own_recordings_resamples_the_widest_unit_it_has_three_of() -> None:
    subjects = np.repeat(np.arange(15), 5)
    many = arrays(eeg=signal(75), concept=np.tile(CONCEPTS, 15), subject=subjects, stimulus_id=np.arange(75) // 5 % 3)
    many["stimulus_id"] = [f"{c}{k}" for c, k in zip(many["concept"], many["stimulus_id"], strict=True)]
    own.add("many", many)
    own.add("few", arrays())
    units = {}
    for name, split in (("many", "subject-out"), ("few", "subject-out"), ("many", "stimulus-out")):
        dataset = base.load(name)
        card = find_track(dataset, dataset.split(split))
        units[name, split] = card.unit
        wanted = "instance" if name == "many" else "class"
        assert ("two_way-clip-vit-l14" in card.metrics) == (wanted == "instance")
        assert not [metric for metric in card.metrics if registry.metrics.get(metric).sees == "responses"]
    assert units == {
        ("many", "subject-out"): "subject",
        ("few", "subject-out"): "trial_id",
        ("many", "stimulus-out"): "subject",
    }

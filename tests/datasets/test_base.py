"""The standard layout: written whole or not at all, read lazily, and never mixed up with another copy's splits."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from zoo import __version__, registry, store
from zoo.cli import app
from zoo.datasets import base, recipes
from zoo.datasets.base import Prepared, Stimulus, strings
from zoo.errors import IntegrityError, MissingError, UnknownNameError, UsageError
from zoo.specs import DatasetCard, EEGSpec, Split
from zoo.training import TrainingData

SPEC = EEGSpec(ch_names=("O1", "O2"), sfreq=100.0, tmin=0.0, n_times=5)
CARD = DatasetCard(
    id="tiny",
    title="Tiny",
    loader="nowhere:build",
    pairing="instance",
    concepts=("cat", "dog"),
    licence="CC0",
    hosts="everything",
    citation="none",
    source="here",
    get="ask a friend",
    splits=({"id": "stimulus-out@1", "protocol": "unseen-stimulus", "note": "by picture"},),  # type: ignore[arg-type]
)
Install = Callable[..., DatasetCard]


def png(value: int) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 255 - value)).save(file, "PNG")
    return file.getvalue()


def tiny(**changes: Any) -> Prepared:
    """Two concepts × four pictures × three trials; sample values are the row number in microvolts."""
    picture = np.tile(np.repeat(np.arange(4), 3), 2)
    concept = np.repeat(["cat", "dog"], 12)
    trials = {
        "trial_id": strings([f"t{i:02d}" for i in range(24)]),
        "subject": strings([f"{i % 3}" for i in range(24)]),
        "order": np.arange(24),
        "stimulus_id": strings([f"{c}-{p}" for c, p in zip(concept, picture, strict=True)]),
        "concept": concept,
    }
    cut, _ = recipes.cut(CARD, trials, {"stimulus-out": lambda t: recipes.stimulus_out(t, val=0.25, test=0.25)})
    made = Prepared(
        spec=SPEC,
        eeg=np.arange(24.0)[:, None, None] * np.full((1, 2, 5), 1e-6),
        trials=trials,
        concepts=("cat", "dog"),
        stimuli=tuple(Stimulus(f"{c}-{p}", c, png(60 * p)) for c in ("cat", "dog") for p in range(4)),
        stimuli_source="drawn",
        splits=cut,
        complete=False,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make the registry know ``tiny`` and its converter return what it is given."""

    def use(made: Prepared, card: DatasetCard = CARD) -> DatasetCard:
        monkeypatch.setitem(registry.datasets._added, card.id, card)
        monkeypatch.setattr(registry, "load_object", lambda where: lambda card, **kwargs: made)
        return card

    return use


@pytest.fixture
def dataset(install: Install) -> base.EEGDataset:
    install(tiny())
    base.prepare("tiny")
    return base.load("tiny")


def test_what_was_prepared_is_what_is_read(dataset: base.EEGDataset) -> None:
    assert isinstance(dataset.eeg, np.memmap)
    assert dataset.eeg.dtype == np.float32
    np.testing.assert_array_equal(dataset.eeg[7], np.full((2, 5), np.float32(7e-6)))
    assert dataset.labels.tolist() == [0] * 12 + [1] * 12
    assert dataset.labels.dtype == np.int64
    assert dataset.trials["order"].dtype == np.int64
    assert dataset.trials["run"].tolist() == [None] * 24
    assert dataset.trials["subject"].dtype.kind == "U"
    assert len(dataset) == 24
    assert repr(dataset) == "EEGDataset(tiny: 24 trials, 2 channels × 5 times at 100 Hz, 2 concepts)"


def test_the_eeg_file_is_a_plain_safetensors_file(dataset: base.EEGDataset) -> None:
    stored = load_file(dataset.folder / "eeg.safetensors")["eeg"]
    np.testing.assert_array_equal(stored, dataset.eeg)
    assert dataset.eeg_sha256 == store.file_sha256(dataset.folder / "eeg.safetensors")
    assert dataset.eeg.offset % 64 == 0  # type: ignore[attr-defined]


def test_blocks_are_written_one_after_the_other(install: Install) -> None:
    whole = tiny()
    assert isinstance(whole.eeg, np.ndarray)
    install(dataclasses.replace(whole, eeg=[whole.eeg[:5], whole.eeg[5:6], whole.eeg[6:]]))
    base.prepare("tiny")
    np.testing.assert_array_equal(base.load("tiny").eeg, whole.eeg.astype(np.float32))


def test_writing_never_holds_the_whole_array(tmp_path: Path) -> None:
    spec = EEGSpec(ch_names=tuple("abcdefgh"), sfreq=1, tmin=0, n_times=256)
    n = 8192  # 64 MiB as float32, from a view that owns 8 bytes
    made = dataclasses.replace(tiny(), spec=spec, eeg=np.broadcast_to(np.float64(1), (n, 8, 256)))
    ids = np.arange(n).astype(str)
    tracemalloc.start()
    with (tmp_path / "eeg").open("wb") as file:
        base._write_eeg(file, made, ids, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "eeg").stat().st_size > 64 * 2**20
    assert peak < 24 * 2**20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_eeg_that_is_not_finite_is_refused_by_trial(install: Install, cache: Path, value: float) -> None:
    eeg = np.zeros((24, 2, 5))
    eeg[17, 1, 3] = value
    install(tiny(eeg=[eeg[:10], eeg[10:]]))
    sentence = "EEG must be finite, but trial t17 holds NaN or infinity; repair or remove its recording."
    with pytest.raises(UsageError) as caught:
        base.prepare("tiny")
    assert str(caught.value) == sentence
    assert [path.name for path in (cache / "datasets").iterdir() if path.is_dir()] == []


def test_a_failed_preparation_keeps_the_older_one(dataset: base.EEGDataset, install: Install) -> None:
    install(tiny(eeg=np.full((24, 2, 5), np.nan)))
    with pytest.raises(UsageError):
        base.prepare("tiny")
    assert base.check("tiny") == []
    assert base.load("tiny").eeg_sha256 == dataset.eeg_sha256


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"concepts": ("cat", "dog", "emu", "gnu")},
            "every concept of tiny needs trials, but there are none of emu, gnu; add recordings.",
        ),
        (
            {"stimuli": (Stimulus("cat-0", "cat", b"x"),)},
            "every concept of tiny needs pictures, but there are none of dog; add some.",
        ),
        (
            {"stimuli": (Stimulus("cat-0", "cat", b"x"), Stimulus("dog-0", "dog", b"x"))},
            "trials of tiny show 'cat-1', which is not among its pictures.",
        ),
        (
            {"eeg": np.zeros((24, 2, 6))},
            "trials must be 2 channels × 5 times at 100 Hz, but t00 is 2 × 6.",
        ),
        ({"eeg": np.zeros((23, 2, 5))}, "the trials table has 24 rows, but there are 23 trials of EEG."),
        (
            {"trials": dict(tiny().trials) | {"trial_id": strings(["t"] * 24)}},
            "trial ids must be unique, but 't' of tiny stands twice.",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(install: Install, changes: dict[str, Any], sentence: str) -> None:
    install(tiny(**changes))
    with pytest.raises(UsageError) as caught:
        base.prepare("tiny")
    assert str(caught.value) == sentence


def test_a_dataset_not_prepared_names_the_command(install: Install) -> None:
    install(tiny())
    with pytest.raises(MissingError) as caught:
        base.load("tiny")
    assert str(caught.value) == (
        "tiny is not prepared on this machine.\nto make it, run: zoo data prepare tiny --source PATH   (ask a friend)"
    )


@pytest.mark.parametrize("call", [base.load, base.prepare])
def test_an_announced_dataset_says_so(call: Callable[[str], Any], install: Install) -> None:
    install(tiny(), CARD.model_copy(update={"loader": None}))
    with pytest.raises(MissingError) as caught:
        call("tiny")
    first, second = str(caught.value).splitlines()
    assert first == (
        f"tiny is announced but not in this release (eeg-image-zoo {__version__}): there is no converter for it, "
        "and it is not prepared on this machine."
    )
    assert second == (
        "to install it, run: pip install --upgrade eeg-image-zoo && zoo data prepare tiny --source PATH   "
        "(ask a friend; here)"
    )


def test_a_source_that_is_not_there_is_named(install: Install, tmp_path: Path) -> None:
    install(tiny())
    with pytest.raises(UsageError) as caught:
        base.prepare("tiny", source=tmp_path / "nothing")
    assert str(caught.value) == (
        f"--source must be a file or folder that exists, but {tmp_path / 'nothing'} does not; check its spelling."
    )


def test_progress_counts_every_trial(install: Install) -> None:
    install(tiny())
    seen: list[tuple[int, int, str]] = []
    base.prepare("tiny", progress=lambda done, total, what: seen.append((done, total, what)))
    assert seen[-1] == (24, 24, "trials written")


def test_check_finds_a_flipped_byte(dataset: base.EEGDataset) -> None:
    assert base.check("tiny") == []
    path = dataset.folder / "eeg.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = hashlib.sha256(data).hexdigest()
    assert base.check("tiny") == [
        f"eeg.safetensors has sha256 {found[:12]}…, but {dataset.eeg_sha256[:12]}… was written; "
        "run 'zoo data prepare tiny' again."
    ]


def test_a_file_cut_short_is_refused_on_opening(dataset: base.EEGDataset) -> None:
    path = dataset.folder / "eeg.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4])
    sentence = f"eeg.safetensors of tiny must have {size} bytes, but has {size - 4}; run 'zoo data prepare tiny' again."
    with pytest.raises(IntegrityError) as caught:
        base.load("tiny")
    assert str(caught.value) == sentence
    assert base.check("tiny") == [sentence]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", "Input should be an object"),
        ("{}", "id: Field required"),
        (None, "files: card.json: size: Field required"),
    ],
)
def test_a_damaged_description_is_named(dataset: base.EEGDataset, content: str | None, why: str) -> None:
    path = dataset.folder / "dataset.json"
    if content is None:
        content = path.read_text().replace('"size"', '"sise"', 1)
    path.write_text(content)
    sentence = f"dataset.json of tiny is damaged ({why}); run 'zoo data prepare tiny' again."
    with pytest.raises(IntegrityError) as caught:
        base.load("tiny")
    assert str(caught.value) == sentence
    assert base.check("tiny") == [sentence]
    base.prepare("tiny")
    assert base.check("tiny") == []


@pytest.mark.parametrize(
    ("name", "attribute", "why"),
    [
        ("trials.parquet", "trials", "Parquet magic bytes not found .*"),
        ("stimuli.parquet", "stimuli", "Parquet magic bytes not found .*"),
        ("eeg.safetensors", "eeg", ".*header.*"),
    ],
)
def test_a_damaged_file_is_named(dataset: base.EEGDataset, name: str, attribute: str, why: str) -> None:
    """``why`` is what the reading library says and differs by its version."""
    path, wanted = dataset.folder / name, dataset.files[name].sha256[:12]
    path.write_bytes(bytes(path.stat().st_size))
    sentence = rf"^{re.escape(name)} of tiny is damaged \({why}\); run 'zoo data prepare tiny' again\.$"
    with pytest.raises(IntegrityError, match=sentence):
        getattr(base.load("tiny"), attribute)
    found = store.file_sha256(path)[:12]
    assert base.check("tiny") == [
        f"{name} has sha256 {found}…, but {wanted}… was written; run 'zoo data prepare tiny' again."
    ]


def test_a_damaged_picture_is_named(install: Install) -> None:
    whole = tiny()
    install(dataclasses.replace(whole, stimuli=(dataclasses.replace(whole.stimuli[0], image=b"x"), *whole.stimuli[1:])))
    base.prepare("tiny")
    sentence = (
        r"^stimuli\.parquet of tiny is damaged \(cannot identify image file .*\); run 'zoo data prepare tiny' again\.$"
    )
    with pytest.raises(IntegrityError, match=sentence):
        base.load("tiny").stimulus_pixels([0])


def test_check_finds_trials_that_are_not_those_written(dataset: base.EEGDataset) -> None:
    about = store.read_json(dataset.folder / "dataset.json")
    store.write_json(dataset.folder / "dataset.json", about | {"fingerprint": "0" * 64})
    differs = base.check("tiny")
    assert differs[0] == f"the trials have fingerprint {dataset.fingerprint[:12]}…, but 000000000000… was written."
    assert differs[1].startswith(
        f"split stimulus-out@0 was cut from trials with fingerprint {dataset.fingerprint[:12]}…"
    )


@pytest.mark.parametrize("column", base.COLUMNS)
def test_the_fingerprint_sees_every_column(column: str) -> None:
    trials = base._columns(tiny().trials)
    changed = trials[column].astype(object)
    changed[3] = -1 if column == "order" else "other"
    assert base.fingerprint(trials | {column: changed}) != base.fingerprint(trials)


def test_the_fingerprint_sees_values_and_order_only() -> None:
    trials = tiny().trials
    as_objects = {name: values.astype(object) for name, values in trials.items()}
    assert base.fingerprint(as_objects) == base.fingerprint(trials)
    assert base.fingerprint({name: values[::-1] for name, values in trials.items()}) != base.fingerprint(trials)


def test_roles_follow_the_split(dataset: base.EEGDataset) -> None:
    split = dataset.split(None)
    roles = dataset.roles(split)
    assert split.id == "stimulus-out@0"
    for role in ("val", "test"):
        held = set(split.roles[role])
        assert set(dataset.trials["stimulus_id"][roles == role]) == held
        assert len(held) == 2
    assert (roles == "train").sum() == 12


def test_a_split_of_other_trials_is_refused(dataset: base.EEGDataset) -> None:
    split = dataset.split(None).model_copy(update={"trials_fingerprint": "f" * 64})
    with pytest.raises(IntegrityError) as caught:
        dataset.roles(split)
    assert str(caught.value) == (
        "split stimulus-out@0 was cut from trials with fingerprint ffffffffffff…, but this copy of tiny has "
        f"{dataset.fingerprint[:12]}…; use a split of its own: stimulus-out@0."
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"roles": {"test": ()}}, "split stimulus-out@0 leaves the test role of tiny empty; cut it differently."),
        (
            {"roles": {"test": ("cat-0",)}, "default": "unused"},
            "split stimulus-out@0 leaves the train role of tiny empty; cut it differently.",
        ),
        (
            {"roles": {"test": ("cat-9",)}},
            "split stimulus-out@0 names stimulus_id 'cat-9', which tiny does not have.",
        ),
        (
            {"unit": "weekday"},
            "split stimulus-out@0 must divide a column of the trials table, not 'weekday'.",
        ),
    ],
)
def test_a_split_that_cannot_be_used_is_refused(
    dataset: base.EEGDataset, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        dataset.roles(dataset.split(None).model_copy(update=changes))
    assert str(caught.value) == sentence


def test_the_released_split_is_used_where_it_belongs(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base, "RELEASED", tmp_path)
    install(tiny(complete=True))
    base.prepare("tiny")
    sha256 = recipes.release("tiny", tmp_path)["stimulus-out@1"]
    released = CARD.splits[0].model_copy(update={"sha256": sha256})
    card = install(tiny(complete=True), CARD.model_copy(update={"splits": (released,)}))
    base.prepare("tiny")
    assert base.load("tiny").split("stimulus-out").id == "stimulus-out@1"
    assert base.load("tiny").split("stimulus-out@1") == base.load("tiny").split(None)

    fewer = {name: values[1:] for name, values in tiny().trials.items()}
    cut, _ = recipes.cut(card, fewer, {"stimulus-out": lambda t: recipes.stimulus_out(t, val=0.25, test=0.25)})
    install(tiny(trials=fewer, eeg=np.zeros((23, 2, 5)), splits=cut, complete=False), card)
    base.prepare("tiny")
    partial = base.load("tiny")
    assert partial.split("stimulus-out").id == "stimulus-out@0"
    with pytest.raises(UsageError) as caught:
        partial.split("stimulus-out@1")
    assert str(caught.value) == (
        "stimulus-out@1 was not cut from the trials of this copy of tiny, which has stimulus-out@0; "
        "complete the copy and prepare it again, or choose that."
    )
    with pytest.raises(UsageError, match=r"^splits are released from a complete copy, but this one of tiny is not\.$"):
        recipes.release("tiny", tmp_path)


def test_a_released_split_never_changes(install: Install, tmp_path: Path) -> None:
    install(tiny(complete=True))
    base.prepare("tiny")
    recipes.release("tiny", tmp_path)
    path = tmp_path / "tiny" / "stimulus-out@1.json"
    path.write_bytes(path.read_bytes().replace(b"by picture", b"by pictures"))
    with pytest.raises(UsageError) as caught:
        recipes.release("tiny", tmp_path)
    assert str(caught.value) == ("stimulus-out@1 of tiny is released already and differs; give it the next number.")


def test_a_split_file_that_was_edited_is_refused() -> None:
    data = base.split_bytes(tiny().splits[0])
    good = hashlib.sha256(data).hexdigest()
    assert base.parse_split(data, "s@1", good) == tiny().splits[0]
    edited = data.replace(b"cat-", b"cow-")
    with pytest.raises(IntegrityError) as caught:
        base.parse_split(edited, "s@1", good)
    assert str(caught.value) == (
        f"split s@1 must have sha256 {good[:12]}…, but its file has {hashlib.sha256(edited).hexdigest()[:12]}…; "
        "install zoo again and prepare the dataset again."
    )
    with pytest.raises(UsageError, match=r"^split s@1 must be a split file, but it is not: Invalid JSON"):
        base.parse_split(b"roles: no", "s@1", None)


def test_an_unknown_split_lists_those_there_are(dataset: base.EEGDataset) -> None:
    with pytest.raises(UsageError, match=r"^tiny has no split 'by-weekday'; its splits are: stimulus-out@0\.$"):
        dataset.split("by-weekday")


def test_training_sees_pictures_of_training_trials_only(dataset: base.EEGDataset) -> None:
    split = dataset.split(None)
    data = dataset.training_data(split)
    assert isinstance(data, TrainingData)
    held = {*split.roles["val"], *split.roles["test"]}
    rows = [i for i, name in enumerate(dataset.stimuli.ids) if name not in held]
    assert dataset.stimulus_rows(split, "train").tolist() == rows
    assert len(data.images) == 4
    np.testing.assert_array_equal(data.images[0], dataset.stimulus_pixels([rows[0]])[0])
    assert data.image_labels is not None
    assert data.image_labels.tolist() == [0, 0, 1, 1]
    assert data.image_of_trial is not None
    for trial in data.train:
        assert dataset.stimuli.ids[rows[data.image_of_trial[trial]]] == dataset.trials["stimulus_id"][trial]
    assert set(data.image_of_trial[dataset.roles(split) == "test"]) == {-1}
    assert (data.n_classes, len(data.train), len(data.val)) == (2, 12, 6)


def test_pictures_are_decoded_as_found(dataset: base.EEGDataset) -> None:
    pixels = dataset.stimulus_pixels([1, 5])
    assert [p.shape for p in pixels] == [(3, 4, 3), (3, 4, 3)]
    assert pixels[0][0, 0].tolist() == [60, 0, 195]
    assert dataset.stimuli.labels.tolist() == [0] * 4 + [1] * 4
    assert dataset.stimuli.sha256[1] == hashlib.sha256(png(60)).hexdigest()


def test_with_class_pairing_pictures_have_roles_of_their_own(install: Install) -> None:
    trials = {name: values for name, values in tiny().trials.items() if name != "stimulus_id"}
    card = CARD.model_copy(update={"pairing": "class"})
    cut, _ = recipes.cut(card, trials, {"stimulus-out": lambda t: recipes.subject_out(t, val=0.3, test=0.3)})
    roles = ["train", "test"] * 4
    stimuli = tuple(dataclasses.replace(s, role=r) for s, r in zip(tiny().stimuli, roles, strict=True))
    install(tiny(trials=trials, stimuli=stimuli, splits=cut), card)
    base.prepare("tiny")
    dataset = base.load("tiny")
    split = dataset.split(None)
    data = dataset.training_data(split)
    assert dataset.stimulus_rows(split, "test").tolist() == [1, 3, 5, 7]
    assert dataset.stimulus_rows(split, "val").tolist() == []
    assert data.image_of_trial is not None
    assert set(data.image_of_trial) == {-1}
    assert len(data.images) == 4


def released() -> list[tuple[DatasetCard, str, str]]:
    return [(card, s.id, s.sha256) for card in registry.datasets.cards() for s in card.splits if s.sha256]


@pytest.mark.parametrize(("card", "split_id", "sha256"), released(), ids=lambda value: getattr(value, "id", value))
def test_packaged_splits_are_those_the_cards_name(card: DatasetCard, split_id: str, sha256: str) -> None:
    data = (base.RELEASED / card.id / f"{split_id}.json").read_bytes()
    split = base.parse_split(data, split_id, sha256)
    assert (split.id, split.dataset) == (split_id, card.id)
    assert split.protocol == card.split(split_id).protocol
    assert split.roles["test"]
    assert len(data) < 200_000
    assert data == base.split_bytes(split)


def test_every_dataset_whose_trials_are_known_has_released_splits() -> None:
    """Splits of the others are cut by the first complete copy; their cards name no file."""
    names = {card.id for card, _, _ in released()}
    speech = {f"envisioned-speech-{task}" for task in ("object", "character", "digit")}
    things = {"things-eeg2", "things-eeg2-63x250"}
    phantoms = {"phantom", "phantom-block", "phantom-things"}
    assert names == {*speech, *things, "eegcvpr40-features", "muse-n170", *phantoms}
    assert len(released()) == len(list(base.RELEASED.glob("*/*.json")))


def test_recipes_hold_out_what_they_say() -> None:
    rows = [(s, f"{s}-r{r}", c) for s in ("1", "2", "3", "4") for r in range(1 + int(s)) for c in ("cat", "dog")]
    subject, run, concept = (strings(column) for column in zip(*rows, strict=True))
    trials = {"trial_id": strings([f"t{i}" for i in range(len(rows))]), "subject": subject, "run": run}
    trials |= {"concept": concept, "recording": run}
    subjects = recipes.subject_out(trials, val=0.25, test=0.25)
    assert (subjects.unit, len(subjects.val), len(subjects.test)) == ("subject", 1, 1)
    runs = recipes.run_out(trials)
    assert sorted(name[0] for name in runs.test) == ["1", "2", "3", "4"]
    assert sorted(name[0] for name in runs.val) == ["2", "3", "4"]
    rows_out = recipes.random_rows(trials, within="concept", val=0.1, test=0.25)
    counts = [sum(concept[int(t[1:])] == c for t in rows_out.test) for c in ("cat", "dog")]
    assert counts == [round(0.25 * 14)] * 2
    for cut in (subjects, runs, rows_out):
        assert not set(cut.val) & set(cut.test)


def test_a_recipe_does_not_depend_on_the_order_of_trials() -> None:
    trials = tiny().trials
    mixed = np.random.default_rng(0).permutation(24)
    shuffled = {name: values[mixed] for name, values in trials.items()}
    assert recipes.stimulus_out(trials, val=0.25, test=0.25) == recipes.stimulus_out(shuffled, val=0.25, test=0.25)


def test_a_split_that_would_lose_a_concept_is_left_out_with_a_reason() -> None:
    trials = dict(tiny().trials) | {"subject": np.repeat(["a", "b", "c"], 8)}
    recipe = {"stimulus-out": lambda t: recipes.Cut("subject", (), ("a",))}
    splits, refused = recipes.cut(CARD, trials, recipe)
    assert splits == ()
    assert refused == ("split stimulus-out is left out: its test role would hold no dog.",)
    one = dict(tiny().trials) | {"subject": np.repeat("a", 24), "run": np.repeat("r", 24)}
    for name, sentence in (
        ("subject_out", "subject-out needs three subjects or more, but there are 1."),
        ("run_out", "run-out needs a subject with two runs or more, but nobody has."),
    ):
        shares = {"val": 0.2, "test": 0.2} if name == "subject_out" else {}
        with pytest.raises(UsageError) as caught:
            getattr(recipes, name)(one, **shares)
        assert str(caught.value) == sentence


def test_a_protocol_of_unseen_concepts_asks_that_roles_share_none() -> None:
    trials = dict(tiny().trials) | {"concept": np.repeat(["cat", "dog", "fox"], 8), "half": np.tile(["a", "b"], 12)}
    about = CARD.splits[0].model_copy(update={"id": "unseen@1", "protocol": "unseen-concept"})
    card = CARD.model_copy(update={"splits": (about,)})
    held = {"unseen": lambda t: recipes.listed(t, column="concept", val=["dog"], test=["fox"])}
    (split,), refused = recipes.cut(card, trials, held)
    assert (split.protocol, split.unit, split.roles, refused) == (
        "unseen-concept",
        "concept",
        {"val": ("dog",), "test": ("fox",)},
        (),
    )
    halves = {"unseen": lambda t: recipes.listed(t, column="half", val=[], test=["b"])}
    assert recipes.cut(card, trials, halves) == (
        (),
        ("split unseen is left out: its train and test roles would share cat.",),
    )
    absent = {"unseen": lambda t: recipes.listed(t, column="concept", val=[], test=["owl"])}
    assert recipes.cut(card, trials, absent)[1] == (
        "split unseen is left out: it holds out concept owl, which this copy does not have.",
    )


def test_a_recipe_that_lists_training_leaves_the_rest_unused() -> None:
    trials = tiny().trials
    some = {"stimulus-out": lambda t: recipes.Cut("trial_id", ("t00", "t12"), ("t03", "t15"), ("t06", "t18"))}
    (split,), _ = recipes.cut(CARD, trials, some)
    roles = split.role_of(trials["trial_id"].tolist())
    assert [roles.count(role) for role in ("train", "val", "test", "unused")] == [2, 2, 2, 18]
    one = {"stimulus-out": lambda t: recipes.Cut("trial_id", (), ("t03", "t15"), ("t06",))}
    assert recipes.cut(CARD, trials, one)[1] == ("split stimulus-out is left out: its train role would hold no dog.",)


def test_split_files_round_trip() -> None:
    split = tiny().splits[0]
    assert Split.model_validate_json(base.split_bytes(split)) == split


# ---- what a copy is


def test_splits_of_a_complete_copy_have_the_number_of_the_card(install: Install) -> None:
    install(tiny(complete=True))
    base.prepare("tiny")
    assert base.load("tiny").split_ids == ["stimulus-out@1"]
    first = (base.load("tiny").folder / "splits" / "stimulus-out@1.json").read_bytes()
    base.prepare("tiny")
    assert (base.load("tiny").folder / "splits" / "stimulus-out@1.json").read_bytes() == first


def test_a_picture_may_be_a_file_and_may_be_missing(install: Install, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(7))
    stimuli = [Stimulus("cat-0", "cat", tmp_path / "cat.png"), Stimulus("cat-1", "cat", None, sha256="a" * 64)]
    stimuli += [Stimulus(f"{c}-{p}", c, png(60 * p)) for c in ("cat", "dog") for p in range(4) if f"{c}{p}" > "cat1"]
    install(tiny(stimuli=tuple(stimuli)))
    base.prepare("tiny")
    dataset = base.load("tiny")
    assert dataset.stimuli.ids.tolist() == [s.stimulus_id for s in stimuli if s.image is not None]
    assert dataset.stimuli.sha256[0] == hashlib.sha256(png(7)).hexdigest()
    assert [int(pixels[0, 0, 0]) for pixels in dataset.stimulus_pixels([0, 1])] == [7, 120]
    assert dataset.stimulus_of_trial[:9].tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1]


def test_check_says_how_a_copy_differs_from_the_one_a_split_was_cut_from(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "RELEASED", tmp_path)
    install(tiny(complete=True))
    base.prepare("tiny")
    recipes.release("tiny", tmp_path)
    assert base.check("tiny") == []
    trials = {name: values[:21] for name, values in tiny().trials.items()}
    cut, _ = recipes.cut(CARD, trials, {"stimulus-out": lambda t: recipes.stimulus_out(t, val=0.25, test=0.25)})
    eeg = tiny().eeg
    assert isinstance(eeg, np.ndarray)
    install(tiny(eeg=eeg[:21], trials=trials, splits=cut))
    base.prepare("tiny")
    released = base.parse_split((tmp_path / "tiny" / "stimulus-out@1.json").read_bytes(), "stimulus-out@1", None)
    lacking = sorted({"dog-3"} & {value for members in released.roles.values() for value in members})
    assert lacking == ["dog-3"]
    assert base.check("tiny") == [
        "stimulus-out@1 was cut from other trials: 24 there, 21 here; 1 of the 4 values of stimulus_id in "
        "stimulus-out@1 are not here, such as 'dog-3'; use stimulus-out@0."
    ]


def test_terms_must_be_accepted(install: Install, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tiny(), CARD.model_copy(update={"terms": "research only"}))
    refused = (
        "tiny may only be used by those who accept its terms: research only (here); "
        "if you do, add --accept-license or set ZOO_ACCEPT_LICENSE=tiny."
    )
    with pytest.raises(IntegrityError) as error:
        base.prepare("tiny")
    assert str(error.value) == refused
    assert not (cache / "datasets" / "tiny").exists()
    monkeypatch.setenv("ZOO_ACCEPT_LICENSE", "other, tinier")
    with pytest.raises(IntegrityError) as error:
        base.prepare("tiny")
    assert str(error.value) == refused
    for names in ("other,tiny", "all"):
        monkeypatch.setenv("ZOO_ACCEPT_LICENSE", names)
        base.prepare("tiny")
    monkeypatch.delenv("ZOO_ACCEPT_LICENSE")
    base.prepare("tiny", accept_licence=True)


def test_a_prepared_folder_speaks_for_itself(dataset: base.EEGDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.datasets._added, "tiny")  # as in another process
    assert registry.datasets.get("tiny") == CARD
    assert base.load("tiny").split(None).id == "stimulus-out@0"
    (dataset.folder / "card.json").write_text('{"id": "tiny"}')
    with pytest.raises(UnknownNameError):
        registry.datasets.get("tiny")
    assert list(registry.datasets.find_broken()) == [str(dataset.folder / "card.json")]


def test_pictures_are_decoded_when_asked_for_and_read_a_group_at_a_time(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PICTURES", 3)  # eight pictures in three row groups
    install(tiny())
    base.prepare("tiny")
    dataset = base.load("tiny")
    decoded: list[int] = []
    real = base.decode
    monkeypatch.setattr(base, "decode", lambda image: decoded.append(len(image)) or real(image))
    images = dataset.training_data(dataset.split(None)).images
    rows = dataset.stimulus_rows(dataset.split(None), "train")
    assert len(images) == len(rows) == 4
    assert not decoded
    assert [int(picture[0, 0, 0]) for picture in images] == [60 * (int(row) % 4) for row in rows]
    assert len(decoded) == 4
    assert [int(picture[0, 0, 0]) for picture in images[1:3]] == [60 * (int(row) % 4) for row in rows[1:3]]


def test_check_says_that_a_copy_is_partial(dataset: base.EEGDataset) -> None:
    result = CliRunner().invoke(app, ["data", "check", "tiny"])
    assert (result.exit_code, result.stderr) == (
        0,
        "this copy is partial: its splits stimulus-out@0 belong to no other copy.\n",
    )

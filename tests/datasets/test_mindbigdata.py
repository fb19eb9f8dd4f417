"""Lines in any order become whole events in the order of their numbers; nothing is padded, nothing dropped unsaid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo import registry
from zoo.audits.leakage import LeakageReport, audit_split
from zoo.datasets import base, mindbigdata
from zoo.errors import MissingError, UsageError
from zoo.specs import DatasetCard, EEGSpec

CARD = registry.datasets.get("mindbigdata")
assert CARD.eeg is not None
CHANNELS = CARD.eeg.ch_names
FIRST = 67640
"""Number of the first event: one at which a block begins."""
GLYPHS = "built-in renderer: 40 glyphs per class, DejaVu fonts"


def signal(event: int, channel: int, size: int = 256) -> np.ndarray:
    """A ramp from which channel, event and time can be read, exact in float32."""
    ramp: np.ndarray = 4000 + 10 * channel + event % 16 / 2 + np.arange(size) / 1024
    return ramp


def line(event: int, channel: int, code: int, size: int = 256, device: str = "EP") -> str:
    samples = ",".join(f"{value:.10f}" for value in signal(event, channel, size))
    return f"{event * 14 + channel}\t{event}\t{device}\t{CHANNELS[channel]}\t{code}\t{size}\t{samples}"


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


def tiny(monkeypatch: pytest.MonkeyPatch, n_trials: int, block: int = 10) -> str:
    """The EPOC dataset as if ``n_trials`` events had been published, in blocks of a few."""
    monkeypatch.setattr(mindbigdata, "BLOCK", block)
    monkeypatch.setitem(registry.datasets._added, "tiny", CARD.model_copy(update={"id": "tiny", "n_trials": n_trials}))
    return "tiny"


def events(n: int) -> list[list[str]]:
    """Lines of ``n`` events with the digits in turn."""
    return [[line(FIRST + k, channel, k % 10) for channel in range(14)] for k in range(n)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty events."""
    return write(tmp_path_factory.mktemp("text") / "EP1.01.txt", [row for event in events(40) for row in event])


def test_an_event_is_its_channels_in_the_order_of_the_card(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.prepare(tiny(monkeypatch, 40), source=text)
    dataset = base.load("tiny")
    assert dataset.spec == CARD.eeg
    assert dataset.spec.unit == "a.u."
    assert (len(dataset), dataset.complete, dataset.report) == (40, True, ())
    expected = np.stack([[signal(FIRST + k, channel) for channel in range(14)] for k in range(40)])
    np.testing.assert_array_equal(dataset.eeg, expected)
    assert dataset.trials["trial_id"][:2].tolist() == ["ep-67640", "ep-67641"]
    assert dataset.labels.tolist() == [*range(10)] * 4
    assert set(dataset.trials["subject"]) == {"01"}
    assert dataset.stimuli_source == GLYPHS
    assert base.check("tiny") == []


def test_blocks_are_stretches_of_event_numbers(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.prepare(tiny(monkeypatch, 40), source=text)
    trials = base.load("tiny").trials
    numbers = np.array([int(trial.removeprefix("ep-")) for trial in trials["trial_id"]])
    assert trials["run"].tolist() == trials["block"].tolist() == [f"ep-b{number // 10}" for number in numbers]
    assert trials["order"].tolist() == (numbers % 10).tolist()
    assert trials["session"].tolist() == trials["recording"].tolist() == [None] * 40


def test_lines_in_any_order_give_the_same_trials(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = text.read_text().splitlines()
    np.random.default_rng(0).shuffle(rows)
    prepared = []
    for source in (text, write(tmp_path / "shuffled.txt", rows), write(tmp_path / "a.txt", ["", *rows[::-1], ""])):
        base.prepare(tiny(monkeypatch, 40), source=source)
        dataset = base.load("tiny")
        prepared.append((dataset.fingerprint, dataset.eeg_sha256, dataset.split().model_dump_json()))
        registry.datasets._added.clear()
    assert prepared[0] == prepared[1] == prepared[2]


def test_a_prepared_folder_is_the_same_every_time(text: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = cache / "datasets" / tiny(monkeypatch, 40), []
    for _ in range(2):
        base.prepare("tiny", source=text)
        made.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert made[0] == made[1]


def test_what_is_left_out_and_changed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = events(80)
    rows[3] = [line(FIRST + 3, channel, -1) for channel in range(14)]  # nothing shown
    rows[5] = rows[5][:13]  # a channel missing
    rows[6] = [*rows[6], rows[6][2]]  # a channel twice
    rows[7][4] = line(FIRST + 7, 4, 7, size=239)  # too short
    rows[8][4] = line(FIRST + 8, 4, 8, size=240)  # short
    rows[9][0] = line(FIRST + 9, 0, 9, size=300)  # long
    base.prepare(
        tiny(monkeypatch, 79, block=20), source=write(tmp_path / "a.txt", [row for event in rows for row in event])
    )
    dataset = base.load("tiny")
    assert dataset.complete
    assert dataset.report == (
        "1 events without a digit (code -1) were left out.",
        "2 events with a channel missing or there twice were left out.",
        "1 events with a signal of fewer than 240 samples were left out.",
        "1 events have a signal of 240 to 255 samples, stretched to 256 by linear interpolation.",
        "1 events have a signal of more than 256 samples, of which the first 256 are kept.",
    )
    ids = dataset.trials["trial_id"].tolist()
    assert ids == [f"ep-{FIRST + k}" for k in range(80) if k not in (3, 5, 6, 7)]
    assert dataset.trials["order"][3] == 4  # what is left out leaves the positions of the others alone
    short, long = dataset.eeg[ids.index(f"ep-{FIRST + 8}")], dataset.eeg[ids.index(f"ep-{FIRST + 9}")]
    ramp = signal(FIRST + 8, 4, 240)
    np.testing.assert_allclose(short[4], np.linspace(ramp[0], ramp[-1], 256), rtol=0, atol=3e-4)
    assert short[4].min() > 4000  # never padded
    np.testing.assert_array_equal(long[0], signal(FIRST + 9, 0, 300)[:256])


def test_a_copy_that_lacks_events_says_so(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.prepare(tiny(monkeypatch, 41), source=text)
    dataset = base.load("tiny")
    assert dataset.report == ("40 of 41 events with a digit are here, so this copy is not as published.",)
    assert dataset.split_ids == ["event-block@0", "random-row@0"]


def test_event_block_keeps_blocks_whole_and_random_row_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve blocks of 20 events: three test, one validates, eight train."""
    name = tiny(monkeypatch, 240, block=20)
    small = CARD.eeg.model_copy(update={"n_times": 2})  # type: ignore[union-attr]
    monkeypatch.setitem(registry.datasets._added, name, registry.datasets.get(name).model_copy(update={"eeg": small}))
    rows = [line(FIRST + k, channel, k % 10, size=2) for k in range(240) for channel in range(14)]
    base.prepare(name, source=write(tmp_path / "a.txt", rows))
    dataset = base.load(name)
    assert dataset.split_ids == ["event-block@1", "random-row@1"]
    run = dataset.trials["run"]
    roles = dataset.roles(dataset.split())
    assert dataset.split().protocol == "cross-run"
    blocks = [set(run[roles == role].tolist()) for role in ("train", "val", "test")]
    assert [len(members) for members in blocks] == [8, 1, 3]
    assert not blocks[0] & blocks[1]
    assert not (blocks[0] | blocks[1]) & blocks[2]
    rows_of = dataset.roles(dataset.split("random-row"))
    assert {role: int((rows_of == role).sum()) for role in ("train", "val", "test")} == {
        "train": 170,
        "val": 20,
        "test": 50,
    }
    assert len(set(run[rows_of == "train"]) & set(run[rows_of == "test"])) > 6


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "\t5\t256\t",
            "\t5 256\t",
            "must have 7 fields parted by tabs (id, event, device, channel, code, size, samples), but has 6; "
            "get the file again.",
        ),
        ("\tEP\t", "\tMW\t", "must be of device EP, but is of 'MW'; prepare it as mindbigdata-mw."),
        ("\tEP\t", "\tXX\t", "must be of device EP, but is of 'XX'; the devices are EP, MW, MU, IN."),
        (
            "\tF3\t",
            "\tCz\t",
            f"must be of channel {', '.join(CHANNELS)}, but is of 'Cz'; get the file again.",
        ),
        ("\t5\t256\t", "\t10\t256\t", "must have a digit or -1 as code, but has 10; get the file again."),
        (
            "\t5\t256\t",
            "\tfive\t256\t",
            "must have whole numbers as event, code and size, but has '67645', 'five', '256'; get the file again.",
        ),
        ("\t5\t256\t", "\t5\t255\t", "must hold 255 samples as it says, but holds 256; get the file again."),
        (
            "\t5\t256\t",
            "\t6\t256\t",
            "must have code 5 as the event's other lines, but has 6; get the file again.",
        ),
    ],
)
def test_a_damaged_line_is_one_sentence_with_its_number(
    text: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, sentence: str
) -> None:
    rows = text.read_text().splitlines()
    rows[72] = rows[72].replace(old, new, 1)  # event 5, channel F3
    path = write(tmp_path / "EP1.01.txt", rows)
    with pytest.raises(UsageError) as caught:
        base.prepare(tiny(monkeypatch, 40), source=path)
    assert str(caught.value) == f"EP1.01.txt line 73 {sentence}"
    assert not (cache / "datasets" / "tiny").exists()


def test_samples_that_are_no_numbers_are_named(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = text.read_text().splitlines()
    for wrong, pattern in (
        (",x4,", r"^a\.txt must hold numbers, but channel F3 of event 67645 does not \(.*\); get the file again\.$"),
        (",nan,", r"^EEG must be finite, but trial ep-67645 holds NaN or infinity; repair or remove its recording\.$"),
    ):
        damaged = [*rows]
        head, value, tail = damaged[72].split(",", 2)
        damaged[72] = f"{head}{wrong}{tail}"
        with pytest.raises(UsageError, match=pattern):
            base.prepare(tiny(monkeypatch, 40), source=write(tmp_path / "a.txt", damaged))
        registry.datasets._added.clear()


def test_a_file_cut_off_in_a_line_is_refused(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"^a\.txt line 560 must hold 256 samples as it says, but holds \d+; get the"):
        base.prepare(tiny(monkeypatch, 40), source=path)


def test_a_source_must_be_given_and_be_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^mindbigdata is not prepared on this machine\.\nto make it, run: "):
        base.prepare("mindbigdata")
    (tmp_path / "train.csv").touch()
    for source in (tmp_path, tmp_path / "train.csv"):
        with pytest.raises(UsageError) as caught:
            base.prepare("mindbigdata-mu", source=source)
        assert str(caught.value) == (
            "--source of mindbigdata-mu must be the text file of device MU or the folder that holds train.csv and "
            f"test.csv, but {source} is neither."
        )


def test_every_headset_has_its_dataset() -> None:
    shapes = {}
    for device, name in mindbigdata.DEVICES.items():
        card = registry.datasets.get(name)
        assert card.options == {"device": device}
        assert card.eeg is not None
        shapes[device] = (card.eeg.n_channels, card.eeg.sfreq, card.eeg.n_times / card.eeg.sfreq)
    assert shapes == {"EP": (14, 128, 2), "MW": (1, 512, 2), "MU": (4, 220, 2), "IN": (5, 128, 2)}
    per_digit = (6516, 6351, 6495, 6618, 6349, 6571, 6523, 6337, 6552, 6563)
    assert CARD.n_trials == sum(per_digit) == 65034 - 159


def test_a_headset_without_a_published_number_is_taken_as_whole(tmp_path: Path) -> None:
    channels = ("TP9", "FP1", "FP2", "TP10")
    rows = [
        f"{k}\t{k}\tMU\t{channel}\t{k % 10}\t440\t{','.join(['1.5'] * 440)}" for k in range(40) for channel in channels
    ]
    base.prepare("mindbigdata-mu", source=write(tmp_path / "MU.txt", rows))
    dataset = base.load("mindbigdata-mu")
    assert dataset.eeg.shape == (40, 4, 440)
    assert dataset.trials["run"][0] == "mu-b0000"
    assert dataset.complete
    assert dataset.report == (
        "how many events were published is not known, so this copy is taken as whole.",
        "split event-block is left out: run-out needs a subject with two runs or more, but nobody has.",
    )


# ---- comma-separated


def names(order: str, first: int = 0) -> list[tuple[int, int, str]]:
    """Channel, time and column name of every sample, all of a channel first or all of a time."""
    grid = [(channel, time) for channel in range(14) for time in range(256)]
    if order == "times":
        grid.sort(key=lambda place: place[::-1])
    return [(channel, time, f"{CHANNELS[channel]}-{time + first}") for channel, time in grid]


def write_csv(folder: Path, order: str = "channels", n_train: int = 40, n_test: int = 20, first: int = 0) -> Path:
    """``train.csv`` and ``test.csv`` with the digits in turn, after a row of each without one."""
    folder.mkdir(exist_ok=True)
    columns = names(order, first)
    for role, n, event in (("train", n_train, FIRST), ("test", n_test, FIRST + 7)):
        rows = [",".join(["label", *(name for _, _, name in columns)])]
        for k in range(-1, n):
            samples = np.stack([signal(event + k, channel) for channel in range(14)])
            rows.append(",".join([str(k % 10 if k >= 0 else -1), *(f"{samples[c, t]:.10f}" for c, t, _ in columns)]))
        write(folder / f"{role}.csv", rows)
    return folder


@pytest.mark.parametrize(("order", "first"), [("channels", 0), ("times", 0), ("times", 1)])
def test_the_header_says_where_a_sample_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, first: int
) -> None:
    base.prepare(tiny(monkeypatch, 60), source=write_csv(tmp_path / "csv", order, first=first))
    dataset = base.load("tiny")
    assert dataset.trials["trial_id"][:2].tolist() == ["train-00001", "train-00002"]
    assert dataset.trials["trial_id"][-1] == "test-00020"
    assert dataset.labels.tolist() == [*range(10)] * 6
    expected = np.stack([signal(FIRST + 3, channel) for channel in range(14)])
    np.testing.assert_array_equal(dataset.eeg[3], expected)
    assert dataset.complete
    assert dataset.report == (
        "1 rows of train.csv without a digit (-1) were left out.",
        "1 rows of test.csv without a digit (-1) were left out.",
    )


def test_rows_without_a_number_allow_the_published_split_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_csv(tmp_path / "csv")
    base.prepare(tiny(monkeypatch, 60), source=folder / "train.csv")
    dataset = base.load("tiny")
    assert dataset.split_ids == ["released@1"]
    split = dataset.split("released")
    assert split.protocol == "random-window"
    roles, ids = dataset.roles(split), dataset.trials["trial_id"]
    assert [trial for trial in ids if trial.startswith("test-")] == ids[roles == "test"].tolist()
    assert {role: int((roles == role).sum()) for role in ("train", "val", "test")} == {
        "train": 30,
        "val": 10,
        "test": 20,
    }
    assert "order" not in dataset.trials
    assert dataset.trials["run"].tolist() == [None] * 60
    assert base.check("tiny") == []
    with pytest.raises(UsageError) as caught:
        dataset.split()
    assert str(caught.value) == "tiny has no split 'event-block'; its splits are: released@1."


def rename(old: str, new: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        path.write_text(path.read_text().replace(old, new, 1))

    return harm


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            rename("AF3-1,", "257,"),
            "train.csv must name a channel and a sample in every column after the label (such as AF3-0), but column 3 "
            "is '257', so its order cannot be told; get the file again.",
        ),
        (
            rename("AF3-1,", "AF3-0,"),
            "train.csv must have 256 samples of each of 14 channels and a label in its header, but has 3583 of 3584 in "
            "3585 columns; get the file again.",
        ),
        (
            rename(",AF4-255\n", "\n"),
            "train.csv must have 256 samples of each of 14 channels and a label in its header, but has 3583 of 3584 in "
            "3584 columns; get the file again.",
        ),
        (
            rename("\n0,", "\n"),
            "train.csv line 3 must hold 3585 values as the header does, but holds 3584; get the file again.",
        ),
        (
            rename("\n0,", "\n0.5,"),
            "train.csv line 3 must begin with a digit or -1, but begins with '0.5'; get the file again.",
        ),
        (
            rename("\n0,", "\nnull,"),
            "train.csv line 3 must begin with a digit or -1, but begins with 'null'; get the file again.",
        ),
    ],
)
def test_a_damaged_table_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], sentence: str
) -> None:
    folder = write_csv(tmp_path / "csv", n_train=10, n_test=10)
    harm(folder / "train.csv")
    with pytest.raises(UsageError) as caught:
        base.prepare(tiny(monkeypatch, 20), source=folder)
    assert str(caught.value) == sentence


# ---- what the audit says of the three splits


def audited(name: str, split_name: str) -> LeakageReport:
    dataset = base.load(name)
    split = dataset.split(split_name)
    return audit_split(
        eeg=dataset.eeg,
        spec=dataset.spec,
        labels=dataset.labels,
        trials=dataset.trials,
        roles=dataset.roles(split),
        protocol=split.protocol,
    )


@pytest.mark.parametrize(("stretch", "random_row"), [(1, "clean"), (4, "confounded")])
def test_random_rows_leak_only_where_digits_come_in_stretches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int, random_row: str
) -> None:
    card: DatasetCard = CARD.model_copy(
        update={"id": "tiny", "n_trials": 2400, "eeg": EEGSpec(ch_names=("AF3",), sfreq=128, tmin=0, n_times=4)}
    )
    monkeypatch.setattr(mindbigdata, "BLOCK", 120)
    monkeypatch.setitem(registry.datasets._added, "tiny", card)
    rng = np.random.default_rng(3)
    digits = np.repeat(rng.permuted(np.tile(np.arange(10), 240 // stretch)), stretch)
    rows = [
        f"{k}\t{k}\tEP\tAF3\t{digit}\t4\t{','.join(map(str, rng.normal(4200, 10, 4).round(3)))}"
        for k, digit in enumerate(digits)
    ]
    base.prepare("tiny", source=write(tmp_path / "a.txt", rows))
    assert audited("tiny", "event-block").verdict == "clean"
    assert audited("tiny", "random-row").verdict == random_row


def test_the_published_rows_are_suspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.prepare(tiny(monkeypatch, 60), source=write_csv(tmp_path / "csv"))
    assert audited("tiny", "released").broken == (
        "the split parts windows at random, and the trials do not say their recording: both roles may share it",
    )

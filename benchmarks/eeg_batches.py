"""Random batches of EEG from disk: the zoo's layout against a plain numpy memory map and against `datasets`.

python benchmarks/eeg_batches.py [--fraction 1.0] [--out FILE.json]

The array is as large as EEGCVPR40 (11,964 trials × 128 channels × 440 times, 2.7 GB in float32). Every form holds the
same trials and gives the same batches. One epoch warms up; then rounds alternate between the forms, in random order, so
that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoo import provenance
from zoo.datasets.base import EEGDataset, Prepared, _write
from zoo.specs import DatasetCard, EEGSpec

TRIALS, CHANNELS, TIMES = 11_964, 128, 440
BATCH = 128


def prepare(folder: Path, eeg: np.ndarray) -> EEGDataset:
    """The array in the standard layout."""
    spec = EEGSpec(ch_names=tuple(f"E{i}" for i in range(CHANNELS)), sfreq=1000.0, tmin=0.0, n_times=TIMES)
    card = DatasetCard(
        id="benchmark",
        title="",
        loader=None,
        pairing="none",
        licence="",
        hosts="splits",
        citation="",
        source="",
        get="",
    )
    trials = {
        "trial_id": np.array([f"t{i}" for i in range(len(eeg))], dtype=object),
        "subject": np.array(["1"] * len(eeg), dtype=object),
        "concept": np.array(["any"] * len(eeg), dtype=object),
    }
    prepared = Prepared(spec, eeg, trials, ("any",), (), "none", ())
    folder.mkdir()
    _write(prepared, card, folder, None)
    return EEGDataset(folder, card)


def peer(folder: Path, eeg: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The same trials as a `datasets` table on disk, read in whole batches."""
    from datasets import Array2D, Dataset, Features, load_from_disk

    features = Features({"eeg": Array2D((CHANNELS, TIMES), "float32")})

    def trials(n: int) -> object:
        for row in range(n):
            yield {"eeg": eeg[row]}

    Dataset.from_generator(
        trials, features=features, gen_kwargs={"n": len(eeg)}, cache_dir=str(folder / "hf")
    ).save_to_disk(str(folder / "saved"))
    table = load_from_disk(str(folder / "saved")).with_format("numpy")
    return lambda rows: table[rows.tolist()]["eeg"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the trials")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    n = int(TRIALS * options.fraction)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = np.lib.format.open_memmap(folder / "eeg.npy", "w+", np.float32, (n, CHANNELS, TIMES))
        for start in range(0, n, 512):
            plain[start : start + 512] = rng.standard_normal(plain[start : start + 512].shape, np.float32)
        plain.flush()
        memmap = np.load(folder / "eeg.npy", mmap_mode="r")
        ours = prepare(folder / "zoo", memmap).eeg
        forms: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "numpy memmap": lambda rows: memmap[rows],
            "zoo": lambda rows: ours[rows],
            "datasets Array2D, whole batches": peer(folder, memmap),
            "zoo, trial by trial": lambda rows: np.stack([ours[row] for row in rows]),
        }
        truth = np.load(folder / "eeg.npy", mmap_mode="r")  # another map, so that checking warms none of the contenders
        for read in forms.values():  # the first epoch: later ones find the pages mapped
            for rows in np.array_split(rng.permutation(n), -(-n // BATCH)):
                read(rows)
        speed: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(options.rounds):
            for form in rng.permutation(list(forms)):
                rows = rng.permutation(n)[:BATCH]
                started = time.perf_counter()
                batch = forms[form](rows)
                seconds = time.perf_counter() - started
                speed[form].append(batch.nbytes / seconds / 1e6)
                np.testing.assert_array_equal(batch, truth[rows])
        source = np.array(memmap[:BATCH])
        started = time.perf_counter()
        for _ in range(10):
            source.copy()
        limit = 10 * source.nbytes / (time.perf_counter() - started) / 1e6
    median = {form: statistics.median(found) for form, found in speed.items()}
    for form, found in median.items():
        print(f"{form:34} {found:8.0f} MB/s   {found / median['numpy memmap']:6.2f} of memmap")
    print(f"{'copy of one array in memory':34} {limit:8.0f} MB/s   the limit")
    print(f"zoo against datasets: {median['zoo'] / median['datasets Array2D, whole batches']:.1f} times")
    if options.out:
        about = {"trials": n, "batch": BATCH, "rounds": options.rounds, "hardware": provenance.cpu_name()}
        result = {**about, "packages": provenance.versions(), "MB_per_s": median, "copy_MB_per_s": limit}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

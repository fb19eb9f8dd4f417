"""THINGS-EEG2 of ten people in the authors' format: converted, and read back against a plain numpy memory map.

python benchmarks/conversion_things_eeg2.py [--folder FOLDER] [--subjects 10] [--dataset things-eeg2] [--note TEXT]

Files hold noise and made-up names, as many as published: per person 82,160 trials of 17 × 100 as float64 (1.1 GB) and
half of that each for the prepared copy and the plain file beside it; ``things-eeg2-63x250`` is written as float32 under
pickle, 5.2 GB per person three times. Conversion runs in a process of its own, whose memory is sampled. Anonymous
memory is what it allocated; resident memory also counts pages of mapped files, which the system may drop at will.
Reading alternates between the prepared copy and the plain file, in random order, and what was read is compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from conversion_eegcvpr40 import alternating, memory

from zoo import provenance

BATCH = 128
RESULT = Path(__file__).parent / "results" / "conversion_things_eeg2.json"


def write_metadata(source: Path) -> None:
    """As many names as published, in the order of the published ones."""
    train = [f"{number:05d}_c{number:04d}" for number in range(1, 1655)]
    test = [f"{number:05d}_t{number:03d}" for number in range(1, 201)]
    held = {
        "train_img_concepts": [folder for folder in train for _ in range(10)],
        "train_img_files": [f"{folder[6:]}_{k:02d}s.jpg" for folder in train for k in range(1, 11)],
        "test_img_concepts": test,
        "test_img_files": [f"{folder[6:]}_01b.jpg" for folder in test],
    }
    np.save(source / "image_metadata.npy", held)  # type: ignore[arg-type]


def write_subject(dataset: str, source: Path, number: int) -> int:
    """Both files of one person; returns their size in bytes."""
    from zoo import registry

    spec = registry.datasets.get(dataset).eeg
    assert spec is not None
    wide = spec.n_channels == 63
    folder = source / f"sub-{number:02d}"
    folder.mkdir()
    rng = np.random.default_rng(number)
    size = 0
    for half, rows, repetitions in (("training", 16_540, 4), ("test", 200, 80)):
        shape = (rows, repetitions, spec.n_channels, spec.n_times)
        held = {
            "preprocessed_eeg_data": rng.standard_normal(shape, np.float32 if wide else np.float64),
            "ch_names": list(spec.ch_names),
            "times": spec.tmin + np.arange(-50 if wide else 0, spec.n_times) / spec.sfreq,
        }
        path = folder / f"preprocessed_eeg_{half}.npy"
        if wide:
            with path.open("wb") as file:
                pickle.dump(held, file, protocol=4)
        else:
            np.save(path, held)  # type: ignore[arg-type]
        size += path.stat().st_size
    return size


def convert(dataset: str, source: Path) -> dict[str, float]:
    """Seconds of ``prepare`` and the memory it needs beyond that of importing what it uses."""
    import torch  # noqa: F401 - what a user's process holds anyway must not count

    from zoo.datasets import base, things_eeg2  # noqa: F401

    before, done = memory(), threading.Event()
    peaks = [before]

    def watch() -> None:
        while not done.wait(0.02):
            peaks.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    base.prepare(dataset, source=source)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    anonymous, resident = (max(column) - first for column, first in zip(zip(*peaks, strict=True), before, strict=True))
    return {"seconds": seconds, "anonymous_MB": anonymous / 1e6, "resident_MB": resident / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--dataset", default="things-eeg2", choices=["things-eeg2", "things-eeg2-63x250"])
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--note", default="", help="a sentence kept with the result, such as what else was running")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    needed = options.subjects * (2.4e9 if options.dataset == "things-eeg2" else 16e9)
    if shutil.disk_usage(options.folder or tempfile.gettempdir()).free < 1.2 * needed:
        raise SystemExit(f"this needs {1.2 * needed / 1e9:.0f} GB of disk; give another --folder or fewer --subjects.")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ["ZOO_CACHE"] = str(folder / "cache")
        source = folder / "authors"
        source.mkdir()
        write_metadata(source)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            people = range(1, options.subjects + 1)
            size = sum(pool.apply(write_subject, (options.dataset, source, number)) for number in people)
        with context.Pool(1) as pool:
            conversion = pool.apply(convert, (options.dataset, source))
        shutil.rmtree(source)

        from zoo.datasets import base

        started = time.perf_counter()
        dataset = base.load(options.dataset)
        roles = dataset.roles(dataset.split())
        opening = time.perf_counter() - started
        assert (roles == "test").sum() == 16_000 * options.subjects
        with (folder / "eeg.npy").open("wb") as file:
            np.lib.format.write_array_header_2_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": dataset.eeg.shape}
            )
            for start in range(0, len(dataset), 4096):
                file.write(dataset.eeg[start : start + 4096].data)
        forms = {"zoo": dataset.eeg, "numpy memmap": np.load(folder / "eeg.npy", mmap_mode="r")}
        rng = np.random.default_rng(1)
        for eeg in forms.values():  # the first epoch: later ones find the pages mapped
            for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // 4096)):
                eeg[rows].sum()
        parts = ([rng.permutation(len(dataset))[:BATCH] for _ in range(16)] for _ in range(options.rounds))
        random = alternating(forms, parts)
    result = {
        "dataset": options.dataset,
        "subjects": options.subjects,
        "trials": len(dataset),
        "source_MB": size / 1e6,
        "prepared_MB": dataset.eeg.nbytes / 1e6,
        "conversion": {**conversion, "MB_per_s": size / conversion["seconds"] / 1e6},
        "opening_with_split_seconds": opening,
        "random_batches_MB_per_s": random,
        "batch": BATCH,
        "rounds": options.rounds,
        "hardware": provenance.cpu_name(),
        "packages": provenance.versions(),
        "note": options.note,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

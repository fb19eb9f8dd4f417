"""A whole EEGCVPR40 file in its authors' format: converted, and read back against a plain numpy memory map.

python benchmarks/conversion_eegcvpr40.py [--folder FOLDER] [--records 11964] [--note TEXT]

The file holds noise: 11,964 segments of 490 to 510 samples, 128 channels, float32 (3.1 GB, and 2.7 GB each for the
prepared copy and the plain file beside it). Conversion runs in a process of its own, whose memory is sampled. Anonymous
memory is what it allocated; resident memory also counts pages of the mapped file, which the system may drop at will.
Reading alternates between the prepared copy and the plain file, in random order, and what was read is compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from zoo import provenance

BATCH = 128
RESULT = Path(__file__).parent / "results" / "conversion_eegcvpr40.json"


def write_source(folder: Path, n: int) -> int:
    """The authors' file and splits with ``n`` segments of noise; returns the size of the file in bytes."""
    import torch

    from zoo import registry

    labels = list(registry.datasets.get("eegcvpr40").concepts)
    images = [f"{label}_{number}" for label in labels for number in range(50)]
    rng = np.random.default_rng(0)
    shown = [(subject, image) for subject in range(1, 7) for image in range(len(images))]
    records = []
    for subject, image in (shown[i] for i in rng.permutation(len(shown))[:n]):
        eeg = torch.from_numpy(rng.standard_normal((128, int(rng.integers(490, 511))), np.float32))
        records.append({"eeg": eeg, "image": image, "label": image // 50, "subject": subject})
    torch.save({"dataset": records, "labels": labels, "images": images}, folder / "eeg_5_95_std.pth")
    roles: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, record in enumerate(records):
        roles[{8: "val", 9: "test"}.get(record["image"] % 10, "train")].append(row)
    torch.save({"splits": [roles]}, folder / "block_splits_by_image_all.pth")
    return (folder / "eeg_5_95_std.pth").stat().st_size


def memory() -> tuple[int, int]:
    """Anonymous and resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return sizes["RssAnon"], sizes["VmRSS"]


def convert(source: Path) -> dict[str, float]:
    """Seconds of ``prepare`` and the memory it needs beyond that of importing what it uses."""
    import torch  # noqa: F401 - what a user's process holds anyway must not count

    from zoo.datasets import base, eegcvpr40  # noqa: F401

    before, done = memory(), threading.Event()
    peaks = [before]

    def watch() -> None:
        while not done.wait(0.02):
            peaks.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    base.prepare("eegcvpr40", source=source, accept_licence=True)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    anonymous, resident = (max(column) - first for column, first in zip(zip(*peaks, strict=True), before, strict=True))
    return {"seconds": seconds, "anonymous_MB": anonymous / 1e6, "resident_MB": resident / 1e6}


def alternating(forms: dict[str, np.ndarray], parts: Iterator[list[np.ndarray]]) -> dict[str, float]:
    """Median MB/s of reading the given rows from each form, and of their ratio within a round.

    What else runs slows both forms of a round alike, so the ratio moves less than the speeds. All forms must agree.
    """
    rng = np.random.default_rng(2)
    speed: dict[str, list[float]] = {name: [] for name in forms}
    for batches in parts:
        sums = {}
        for name in rng.permutation(list(forms)):
            read: Callable[[np.ndarray], np.ndarray] = forms[name].__getitem__
            n_bytes, seconds, checked = 0, 0.0, []
            for rows in batches:
                started = time.perf_counter()
                batch = read(rows)
                seconds += time.perf_counter() - started
                n_bytes += batch.nbytes
                checked.append(float(batch[:, :, ::97].sum(dtype=np.float64)))
            speed[name].append(n_bytes / seconds / 1e6)
            sums[name] = checked
        if len({tuple(found) for found in sums.values()}) != 1:
            raise SystemExit("the forms do not hold the same trials")
    ratios = [ours / plain for ours, plain in zip(*speed.values(), strict=True)]
    return {**{name: statistics.median(found) for name, found in speed.items()}, "ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--records", type=int, default=11_964)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--note", default="", help="a sentence kept with the result, such as what else was running")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    n = options.records
    needed = n * 128 * 4 * (500 + 2 * 440)
    if shutil.disk_usage(options.folder or tempfile.gettempdir()).free < 1.2 * needed:
        raise SystemExit(f"this needs {1.2 * needed / 1e9:.0f} GB of disk; give another --folder or fewer --records.")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ["ZOO_CACHE"] = str(folder / "cache")
        source = folder / "authors"
        source.mkdir()
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            size = pool.apply(write_source, (source, n))
        with context.Pool(1) as pool:
            conversion = pool.apply(convert, (source,))
        started = time.perf_counter()
        shutil.copyfile(source / "eeg_5_95_std.pth", folder / "copy")
        copying = time.perf_counter() - started
        (folder / "copy").unlink()

        from zoo.datasets import base

        dataset = base.load("eegcvpr40")
        np.save(folder / "eeg.npy", dataset.eeg)
        forms = {"zoo": dataset.eeg, "numpy memmap": np.load(folder / "eeg.npy", mmap_mode="r")}
        rng = np.random.default_rng(1)
        for eeg in forms.values():  # the first epoch: later ones find the pages mapped
            for rows in np.array_split(rng.permutation(len(dataset)), -(-len(dataset) // BATCH)):
                eeg[rows].sum()
        random = alternating(
            forms, ([rng.permutation(len(dataset))[:BATCH] for _ in range(4)] for _ in range(options.rounds))
        )
        epoch = np.array_split(np.arange(len(dataset)), -(-len(dataset) // BATCH))
        sequential = alternating(forms, (epoch for _ in range(options.epochs)))
    result = {
        "records": n,
        "source_MB": size / 1e6,
        "prepared_MB": dataset.eeg.nbytes / 1e6,
        "conversion": {**conversion, "MB_per_s": size / conversion["seconds"] / 1e6, "copy_seconds": copying},
        "random_batches_MB_per_s": random,
        "sequential_epochs_MB_per_s": sequential,
        "batch": BATCH,
        "rounds": options.rounds,
        "epochs": options.epochs,
        "hardware": provenance.cpu_name(),
        "packages": provenance.versions(),
        "note": options.note,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""Speed, memory and error of the Inception of FID, beside the packages that are used to compute it.

    python benchmarks/extraction.py [--quick] [--out benchmarks/results/NAME.json]
    uv pip install pytorch-fid torchmetrics    # two more contenders, if wanted

All contenders see the same images with the same random weights, one after the other in every round, each at its own
defaults. Peak memory is that of a process of its own. The speed of a matrix product in the same run stands beside it: a
yardstick, not a bound, since on some processors convolutions are the quicker of the two.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from zoo import provenance
from zoo.metrics.base import extractor_card
from zoo.metrics.features import Extractor, Inception, build, resize_tf1

SIZE = 128
CARD = extractor_card("inception-2015-12-05")
Run = Callable[[int], np.ndarray]
"""Features of the first n images."""


def random_weights() -> dict[str, torch.Tensor]:
    """A state dict with the published keys, scaled so that 94 layers keep their signal."""
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, value in Inception().state_dict().items():
        if value.ndim > 1:
            value = torch.randn(value.shape, generator=rng) * (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_mean"):
            value = 0.1 * torch.randn(value.shape, generator=rng)
        elif name.endswith(("running_var", "bn.weight")):
            value = 0.8 + 0.4 * torch.rand(value.shape, generator=rng)
        state[name.removeprefix("trunk.")] = value
    return state


def pictures(n: int) -> np.ndarray:
    """(n, 3, SIZE, SIZE) uint8 with structure at two scales."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (n, 3, 4, 4)).repeat(SIZE // 4, 2).repeat(SIZE // 4, 3)
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)


def zoo(folder: Path, images: np.ndarray) -> Run:
    extractor = Extractor(CARD, build(CARD, torch.load(folder / "weights.pth")))
    return lambda n: extractor(images[:n])["features"]


def torch_fidelity(folder: Path, images: np.ndarray) -> Run:
    """Its own loop over a data set in memory, batch size and workers as it sets them."""
    from torch_fidelity.defaults import DEFAULTS
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.utils import get_featuresdict_from_dataset

    class InMemory(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, n: int) -> None:
            self.n = n

        def __len__(self) -> int:
            return self.n

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.from_numpy(images[index])

    net = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(folder / "weights.pth")
    ).eval()
    settings = {"batch_size": DEFAULTS["batch_size"], "save_cpu_ram": DEFAULTS["save_cpu_ram"]}
    return lambda n: get_featuresdict_from_dataset(InMemory(n), net, cuda=False, verbose=False, **settings)[
        "2048"
    ].numpy()


def pytorch_fid(folder: Path, images: np.ndarray) -> Run:
    """Reads files; resizes with half-pixel centres, so its features are not those of the TensorFlow graph."""
    from pytorch_fid import fid_score, inception

    inception.load_state_dict_from_url = lambda *_, **__: torch.load(folder / "weights.pth")
    net = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    files = [folder / f"{index:05d}.png" for index in range(len(images))]
    return lambda n: fid_score.get_activations(files[:n], net)


def torchmetrics(folder: Path, images: np.ndarray) -> Run:
    """In memory, torch-fidelity's batch size since it has none of its own; resizes with antialias by default."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    net = NoTrainInceptionV3("inception", ["2048"], str(folder / "weights.pth"))

    def run(n: int) -> np.ndarray:
        batches = torch.from_numpy(images[:n]).split(64)
        with torch.no_grad():
            return torch.cat([net(batch) for batch in batches]).numpy()

    return run


CONTENDERS: dict[str, Callable[[Path, np.ndarray], Run]] = {
    "zoo": zoo,
    "torch_fidelity": torch_fidelity,
    "pytorch_fid": pytorch_fid,
    "torchmetrics": torchmetrics,
}


def spent(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call, worker processes included."""

    def processor() -> float:
        return sum(
            (usage := resource.getrusage(who)).ru_utime + usage.ru_stime
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )

    wall, cpu = time.perf_counter(), processor()
    function()
    return time.perf_counter() - wall, processor() - cpu


def gigaflops(n: int = 2048) -> float:
    """Of one product of two n × n float32 matrices."""
    a = torch.randn(n, n)
    return 2e-9 * n**3 / spent(lambda: a @ a)[0]


def peak_megabytes(name: str, folder: Path, n: int, threads: int) -> float:
    """Peak resident memory of a process that does nothing else."""
    command = [sys.executable, __file__, "--alone", name, "--folder", str(folder), "--images", str(n)]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(folder: Path, n: int, rounds: int, threads: int, memory: bool) -> dict[str, object]:
    images = pictures(n)
    state = random_weights()
    torch.save(state, folder / "weights.pth")
    for index, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index:05d}.png")
    here = [name for name in CONTENDERS if name == "zoo" or importlib.util.find_spec(name)]
    runs = {name: CONTENDERS[name](folder, images) for name in here}

    few = min(n, 8)
    exact = build(CARD, state, fold=False).double()
    with torch.inference_mode():
        truth = exact(resize_tf1(torch.from_numpy(images[:few]).double(), CARD.size))["features"].numpy()
        with FlopCounterMode(display=False) as counter:
            exact(torch.zeros(1, 3, CARD.size, CARD.size, dtype=torch.float64))
    per_image = counter.get_total_flops() * 1e-9
    errors = {name: float(np.linalg.norm(run(few) - truth) / np.linalg.norm(truth)) for name, run in runs.items()}

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    products = []
    for _ in range(rounds):
        products += [gigaflops() for _ in range(5)]
        for name, run in runs.items():
            times[name].append(spent(lambda run=run: run(n)))
    product = statistics.median(products)
    found: dict[str, dict[str, float]] = {}
    for name, pairs in times.items():
        wall = statistics.median(pair[0] for pair in pairs)
        against = zip(times["torch_fidelity"], pairs, strict=True)
        found[name] = {
            "images_per_second": n / wall,
            "times_torch_fidelity": statistics.median(other[0] / own[0] for other, own in against),
            "cpu_seconds_per_image": statistics.median(pair[1] for pair in pairs) / n,
            "of_sgemm": n / wall * per_image / product,
            "relative_error": errors[name],
        }
        if memory:
            found[name]["peak_mb"] = peak_megabytes(name, folder, n, threads)
    return {
        "hardware": provenance.cpu_name(),
        "packages": provenance.versions(),
        "threads": threads,
        "images": n,
        "rounds": rounds,
        "gflop_per_image": per_image,
        "sgemm_gflops": {"median": product, "best": max(products)},
        "not_installed": [name for name in CONTENDERS if name not in here],
        "contenders": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="16 images, 2 rounds, no memory: shows that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--alone", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        CONTENDERS[arguments.alone](arguments.folder, pictures(arguments.images))(arguments.images)
        status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the parent, if that is larger
        print(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024)  # type: ignore[index]
        return
    n, rounds = (16, 2) if arguments.quick else (arguments.images, 5)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), n, rounds, arguments.threads, memory=not arguments.quick)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

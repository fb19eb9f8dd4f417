"""What models, extractors and metrics cost per sample, and from it the whole board: hours and bytes.

    python benchmarks/planning.py measure [--device cpu] [--only NAME …]   → benchmarks/results/planning-<device>.json
    python benchmarks/planning.py count [--only NAME …]                    → there, too: steps alone, not timed again
    python benchmarks/planning.py check BOARD …                            → there, too: foretold, and what cells took
    python benchmarks/planning.py page                                     → docs/planning.md

Every model and metric is measured in a process of its own with one thread, on noise shaped like the data it is meant
for: networks have initial weights, which cost what trained ones cost, and so have frozen ones whose weights are not on
the machine. Training is the median of a few steps of every phase times the number of steps that its recipe takes. What
takes too long or too much memory is written down with the reason. Results that are there are kept; --only measures
these anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from zoo import provenance, registry  # noqa: E402 - from the checkout beside this file
from zoo.cells import Cells  # noqa: E402
from zoo.errors import MissingError, ZooError  # noqa: E402
from zoo.metrics.base import extractor_card, extractor_cards  # noqa: E402
from zoo.specs import DatasetCard, ModelCard, TrackCard  # noqa: E402
from zoo.store import write_json  # noqa: E402
from zoo.sweep import hours, size  # noqa: E402

HELD, PICTURES, PICTURE_SIZE = 256, 128, 128
"""Trials and pictures of noise; rows of a data set of real size point into them."""
TRAINED = 0.7
"""Part of a dataset's trials that is taken for its training role."""
SHOWN = {"things-eeg2": 15_800, "eegcvpr40": 2_000}
"""Beginning of a dataset's name → pictures of its training role, where a recipe may count its steps by them."""
SEEDS = 3
TRIALS = 500
"""Test trials that images are made for: the usual number of tracks."""
EXTRACTED = 4
"""Pictures that an extractor sees at once."""
IMAGENET = 1000
"""Numbers that a metric's extractor gives where this release has no card of it: logits of ImageNet's classes."""
FINETUNED, EPOCHS, MOST_STEPS, BATCH = "finetuned_accuracy", 10, 1000, 64
"""The metric that trains the model's encoder, and how long it does so at most."""
BACKWARD = 3
"""A step of training over a forward pass."""
GALLERY = 200
"""Test pictures of encoding and retrieval: those of THINGS-EEG2."""
STEP_SECONDS, LONGEST = 0.7, 900
REPLICATED, SINGLE = ("model", "shuffled-eeg"), ("other-subject", "gaussian-eeg", "random-codebook")
"""Systems whose images are made for every replicate, and once."""
MEMORY = 14 * 2**30
"""What takes more is not measured here."""
FULL_SIZE = json.loads((ROOT / "benchmarks" / "results" / "full_size_steps-cpu.json").read_text())
KNOWN = {(row["model"], row["phase"]): row["seconds"] for row in FULL_SIZE}
"""Seconds of the first step of full-size phases (benchmarks/full_size_steps.py)."""
ALIKE = dict.fromkeys(("eegstylegan-ada.cnn", "eegstylegan-ada.thoughtviz"), "eegstylegan-ada")
"""Presets whose phases, where they were not run themselves, have the networks and batch of another."""
WORDS = {
    "train": "training",
    "encode": "encoding EEG",
    "generate": "making images and responses",
    "see": "looking at images with extractors",
    "finetune": "fine-tuning encoders, a metric of recognition",
    "score": "scoring",
}
KEPT = {
    "weights and checkpoints": "weights",
    "features of trials": "trials",
    "images": "images",
    "features of images": "features",
}
FASTER = (10, 50, 200)
"""How many times as fast as this thread a GPU may be; what it is for a model has to be measured."""
PER_IMAGE = ("decode_seconds", "predict_seconds", "embed_seconds")
MOMENTS = 4
"""Checkpoints of training hold weights, two moments of Adam, and the best state."""


# ---- what can be measured


def dataset_of(card: ModelCard) -> DatasetCard:
    """A dataset that the model is meant for: its own, else the generated one."""
    mine = [registry.datasets.get(name) for name in card.trained_on if name in registry.datasets.names()]
    return next((found for found in mine if found.eeg is not None), registry.datasets.get("phantom"))


def seconds_of(call: Callable[[], object], device: str, *, at_least: int = 1) -> float:
    """Median of a few calls, or of one if it takes long: CPU seconds of one thread, which other work hardly moves."""

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    found: list[float] = []
    while len(found) < at_least or (sum(found) < STEP_SECONDS and len(found) < 5):
        begun = clock()
        call()
        found.append(clock() - begun)
    return median(found[1:] or found)


def why(error: Exception) -> str:
    """What hindered a measurement, for a reader."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"takes more than {MEMORY / 2**30:.0f} GiB of memory"
    told = str(error).partition("\n")[0].rstrip(".")
    return told if isinstance(error, ZooError) else f"{type(error).__name__}: {told}"


def untrained(net: Any) -> None:
    """Let frozen networks, whose weights may not be here, keep their initial ones; they cost the same."""
    from torchvision.models import vgg16

    from zoo.backbones import Backbone
    from zoo.models import eegclip, image2eeg, neurogan, realnet

    eegclip.load_frozen = image2eeg.load_frozen = lambda network, backbone: None
    Backbone.load = lambda self: None  # type: ignore[method-assign]
    if isinstance(net, realnet.ReAlNet):
        realnet.imagenet_state = net.network(0)[0].state_dict
    if isinstance(net, neurogan.NeuroGAN) and net.config.perceptual == "vgg16":
        state = {key: value.numpy() for key, value in vgg16().state_dict().items()}
        neurogan.load_vgg16 = lambda: neurogan.VGG16(state)


def look(net: Any, extractor: str, output: str, pictures: Any) -> np.ndarray:
    """Noise in the place of what a frozen network sees in pictures: its cost is that of extractors."""
    return np.random.default_rng(1).standard_normal((len(pictures), net.n_image_features), dtype=np.float32)


def untrained_model(name: str, device: str) -> tuple[ModelCard, DatasetCard, Any, Any]:
    """A model with its initial weights, and noise to train it on."""
    import torch

    from zoo import training, weights

    card = registry.models.get(name)
    dataset = dataset_of(card)
    spec, rng, n_classes = dataset.eeg, np.random.default_rng(0), max(2, len(dataset.concepts))
    assert spec is not None
    n_train = int((dataset.n_trials or 10 * HELD) * TRAINED)
    eeg = rng.standard_normal((HELD, spec.n_channels, spec.n_times), dtype=np.float32)
    data = training.TrainingData(
        eeg=eeg if spec.unit == "a.u." else eeg * np.float32(1e-5),
        labels=np.arange(HELD) % n_classes,
        train=np.arange(n_train) % HELD,
        val=np.arange(0),
        n_classes=n_classes,
        images=tuple(rng.integers(0, 256, (PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8) for _ in range(PICTURES)),
        image_labels=np.arange(PICTURES) % n_classes,
        image_of_trial=np.arange(HELD) % PICTURES,
    )
    known = {"n_classes": n_classes, "subjects": ("01",), "n_pictures": PICTURES}
    torch.manual_seed(0)
    net = weights.build(card, spec, {key: value for key, value in known.items() if key in card.preset}).to(device)
    # several people share the same steps out
    return card, dataset, net, replace(data, subjects=np.full(HELD, "01"), look=partial(look, net))


def a_model(name: str, device: str, say: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Seconds per trial, per image and per training step; bytes of weights, features and checkpoints."""
    import torch

    from zoo.models import base
    from zoo.models.base import Classifier, EncodingModel, LabelConditioned, Reconstructor, Retriever

    card, dataset, net, data = untrained_model(name, device)
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {
        "dataset": dataset.id,
        "task": card.task,
        "weight_bytes": sum(value.numel() * value.element_size() for value in net.state_dict().values()),
    }
    net.eval()
    trials = torch.from_numpy(data.eeg[: net.micro_batch]).to(device)
    with torch.inference_mode():
        if isinstance(net, base.EEGEncoder) and not isinstance(net, LabelConditioned):
            features = net.encode(trials)
            found["encode_seconds"] = seconds_of(lambda: net.encode(trials), device, at_least=2) / len(trials)
            found["feature_bytes"] = features[0].numel() * 4
        elif isinstance(net, LabelConditioned):
            features = net.encode_labels(torch.zeros(net.micro_batch, dtype=torch.int64, device=device))
        if isinstance(net, Reconstructor):
            noise = torch.from_numpy(np.stack([net.draw_noise(rng) for _ in features])).to(device)
            found["decode_seconds"] = seconds_of(lambda: net.decode(features, noise), device) / len(features)
            found["resolution"] = net.resolution
        if isinstance(net, EncodingModel):
            shown = torch.rand(net.micro_batch, 3, net.resolution, net.resolution, device=device)
            found["predict_seconds"] = seconds_of(lambda: net.predict(shown), device, at_least=2) / len(shown)
        if isinstance(net, Retriever):
            seen = torch.rand(net.micro_batch, net.n_image_features, device=device)
            found["embed_seconds"] = seconds_of(lambda: net.embed_images(seen), device) / len(seen)
    found["kind"] = next(
        kind.__name__ for kind in (Reconstructor, Retriever, Classifier, EncodingModel, object) if isinstance(net, kind)
    )
    found["checkpoint_bytes"] = MOMENTS * found["weight_bytes"]
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    say(found | {"phases": {"not_measured": f"a step took longer than {LONGEST // 60} minutes"}})
    untrained(net)
    found["phases"] = counted(phases(card, net, data, device), card, dataset, net, data)
    peaks = [row["peak_mb"] for row in FULL_SIZE if row["model"] == name]
    found["peak_mb"] = max([round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), *peaks])
    return found


def phases(card: ModelCard, net: Any, data: Any, device: str) -> list[dict[str, Any]] | dict[str, str]:
    """Steps of every phase of training and seconds of one, or why that could not be measured."""
    assert card.builder is not None
    try:
        recipes = registry.load_object(card.builder.partition(":")[0] + ":recipes")(net.train(), data, seed=0)
        found = []
        for recipe in recipes:
            seconds = KNOWN.get((card.id, recipe.name)) or KNOWN.get((ALIKE.get(card.id, ""), recipe.name))
            if seconds is not None and device == "cpu":
                found.append({"name": recipe.name, "steps": recipe.n_steps, "step_seconds": seconds, "first": True})
                continue
            steps = iter(range(10**6))
            one = lambda recipe=recipe, steps=steps: recipe.step(  # noqa: E731
                next(steps) % recipe.n_steps, np.random.default_rng(0)
            )
            found.append(
                {"name": recipe.name, "steps": recipe.n_steps, "step_seconds": seconds_of(one, device, at_least=1)}
            )
        return found
    except Exception as error:
        return {"not_measured": why(error)}


def counted(timed: Any, card: ModelCard, dataset: DatasetCard, net: Any, data: Any) -> Any:
    """Phases with the steps that they take with as many pictures as the dataset trains on."""
    n = next((n for begin, n in SHOWN.items() if dataset.id.startswith(begin)), None)
    if n is None or not isinstance(timed, list):
        return timed
    rows, pictures = np.arange(n), np.arange(n) % PICTURES
    whole = replace(
        data,
        eeg=data.eeg[rows % HELD],
        labels=rows % data.n_classes,
        train=np.arange(len(data.train)) % n,
        images=tuple(data.images[i] for i in pictures),
        image_labels=rows % data.n_classes,
        image_of_trial=rows,
        subjects=np.full(n, "01"),
    )
    assert card.builder is not None
    recipes = registry.load_object(card.builder.partition(":")[0] + ":recipes")(net.train(), whole, seed=0)
    return [{**phase, "steps": recipe.n_steps} for phase, recipe in zip(timed, recipes, strict=True)]


def count(only: list[str]) -> None:
    """Count the steps of models that have seconds anew, without timing them again."""
    path = ROOT / "benchmarks" / "results" / "planning-cpu.json"
    result = json.loads(path.read_text())
    for name, found in result["models"].items():
        dataset = dataset_of(registry.models.get(name))
        if (not only or name in only) and dataset.id.startswith(tuple(SHOWN)):
            card, dataset, net, data = untrained_model(name, "cpu")
            untrained(net)
            found["phases"] = counted(found.get("phases"), card, dataset, net, data)
            write_json(path, result)
            print(name, found["phases"], flush=True)


def an_extractor(name: str, device: str, say: object) -> dict[str, Any]:
    """Seconds and bytes per image of 64 pixels."""
    from zoo.metrics import features

    card = extractor_card(name)
    try:
        extract = features.load_extractor(name, device)
    except MissingError:
        net = features.NETWORKS[name]().eval()
        features._fold_batch_norms(net)
        extract = features.Extractor(card, net, device)
    images = np.random.default_rng(0).integers(0, 256, (EXTRACTED, 3, 64, 64), dtype=np.uint8)
    given = (images, images) if card.compares else (images,)
    return {
        "seconds": seconds_of(lambda: extract(*given), device, at_least=2) / len(images),
        "bytes": 4 * sum(card.outputs.values()),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def a_metric(name: str, device: str, say: object) -> dict[str, Any]:
    """Seconds of one value over the usual number of trials, as its interval is not: that takes as long or less."""
    path = ROOT / "tests" / "metrics" / "test_every_metric.py"
    spec = importlib.util.spec_from_file_location("every_metric", path)
    assert spec is not None
    assert spec.loader is not None
    arrays = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arrays)
    card = registry.metrics.get(name)
    if card.extractor is not None:
        outputs = next((c.outputs for c in extractor_cards() if c.id == card.extractor), {card.output: IMAGENET})
        arrays.WIDTH = min(4096, outputs[card.output])
    n = max(TRIALS, card.min_n)
    given = arrays.arrays(card, n)
    seconds = seconds_of(lambda: arrays.value(card, given), device, at_least=2)
    return {"seconds": seconds, "n": n, "seconds_per_sample": seconds / n}


MEASURES = {"models": a_model, "extractors": an_extractor, "metrics": a_metric}


def names() -> Iterator[tuple[str, str]]:
    for card in registry.metrics.cards():
        if card.id != FINETUNED:  # its cost is that of the model
            yield "metrics", card.id
    for extractor in extractor_cards():
        yield "extractors", extractor.id
    for model in registry.models.cards():
        if model.builder is not None:
            yield "models", model.id


def measure(device: str, only: list[str]) -> None:
    path = ROOT / "benchmarks" / "results" / f"planning-{device}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for kind, name in names():
        done = result.setdefault(kind, {}).get(name)
        if (only and name not in only) or (done is not None and not only):
            continue
        load = os.getloadavg()[0]
        found = apart(kind, name, device)
        result[kind][name] = {**found, "load": round(load, 1)}
        result |= {"hardware": provenance.cpu_name() if device == "cpu" else provenance.hardware(device)}
        result["gigaflops"] = round(gigaflops(device), 1)
        result["packages"] = provenance.versions()
        write_json(path, result)
        print(kind, name, json.dumps(found)[:160], flush=True)


def gigaflops(device: str) -> float:
    """Operations of a product of two float32 matrices in a second, in 10⁹: what the device does at best."""
    import torch

    torch.set_num_threads(1)
    a = torch.rand(1024, 1024, device=device)
    return 2 * len(a) ** 3 / seconds_of(lambda: a @ a, device, at_least=5) / 1e9


def apart(kind: str, name: str, device: str) -> dict[str, Any]:
    """Measure in a process of its own: forked on a cpu, so that torch is imported once, started anew for a GPU."""
    context = multiprocessing.get_context("fork" if device == "cpu" else "spawn")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(its, kind, name, device))
    process.start()
    its.close()
    found: dict[str, Any] = {"not_measured": f"took longer than {LONGEST // 60} minutes"}
    until, said = time.monotonic() + LONGEST, False
    while mine.poll(max(0.0, until - time.monotonic())):
        try:
            found, said = mine.recv(), True
        except EOFError:
            process.join()
            if process.exitcode:
                killed = {"not_measured": "it was killed, as the system does when memory runs out"}
                found = found | {"phases": killed} if said else killed
            break
    process.kill()
    process.join()
    return found


def answer(pipe: Connection, kind: str, name: str, device: str) -> None:
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    try:
        pipe.send(MEASURES[kind](name, device, pipe.send))
    except Exception as error:
        pipe.send({"not_measured": why(error)})


# ---- the board


def train_seconds(found: dict[str, Any]) -> float | None:
    if not isinstance(found.get("phases"), list):
        return None
    return sum(phase["steps"] * phase["step_seconds"] for phase in found["phases"])


def newest(cards: list[TrackCard]) -> list[TrackCard]:
    """Of every task, dataset and split the newest track."""
    best: dict[tuple[str, str, str], TrackCard] = {}
    for card in sorted(cards, key=lambda card: int(card.id.rpartition("@")[2])):
        best[card.task, card.dataset, card.split] = card
    return list(best.values())


def cells() -> list[tuple[ModelCard, TrackCard]]:
    """The board: models of any recordings on every track of their task, published ones on their papers' datasets."""
    return [
        (model, track)
        for track in newest(registry.tracks.cards())
        for model in registry.models.cards()
        if model.builder is not None
        and model.task == track.task
        and (track.dataset in model.trained_on or ".small" in model.id or "-small" in model.id)
    ]


def cell_cost(found: dict[str, Any], track: TrackCard, result: dict[str, Any]) -> dict[str, float]:
    """Seconds of training and evaluation, and bytes that stay, of one cell; what was not measured adds nothing."""
    dataset = registry.datasets.get(track.dataset)
    test = int((dataset.n_trials or TRIALS) * (1 - TRAINED))
    n = min(track.trials or test, test)
    eeg = sum(name in (*REPLICATED, *SINGLE) for name in track.controls) + 1
    images = n * sum(
        track.replicates if name in REPLICATED else 1
        for name in ("model", *track.controls)
        if name in (*REPLICATED, *SINGLE)
    )
    images = images if "decode_seconds" in found else 0
    made = images * found.get("decode_seconds", 0.0)
    made += (1 + len(track.controls)) * GALLERY * (found.get("predict_seconds", 0.0) + found.get("embed_seconds", 0.0))
    trained = min(EPOCHS * int((dataset.n_trials or TRIALS) * TRAINED), MOST_STEPS * BATCH)
    pictures = registry.metrics.get
    extractors = {pictures(name).extractor for name in track.metrics} - {None}
    seen = [result["extractors"].get(name, {}) for name in extractors] if images else []
    metrics = [result["metrics"].get(name, {}) for name in track.metrics]
    kept = {
        "weights": found["weight_bytes"] + found["checkpoint_bytes"],
        "trials": eeg * test * found.get("feature_bytes", 0),
        "images": images * 3 * track.resolution**2,
        "features": images * sum(extractor.get("bytes", 0) for extractor in seen),
    }
    return {
        "train": train_seconds(found) or 0.0,
        "encode": eeg * test * found.get("encode_seconds", 0.0),
        "generate": made,
        "see": images * sum(extractor.get("seconds", 0.0) for extractor in seen),
        "finetune": (FINETUNED in track.metrics) * BACKWARD * trained * found.get("encode_seconds", 0.0),
        "score": (1 + len(track.controls)) * sum(metric.get("seconds", 0.0) * n / TRIALS for metric in metrics),
        **kept,
        "bytes": sum(kept.values()),
    }


def results(device: str) -> dict[str, Any]:
    """What was measured; Inception by its own benchmark, with its weights on a quiet machine."""
    folder = ROOT / "benchmarks" / "results"
    found: dict[str, Any] = json.loads((folder / f"planning-{device}.json").read_text())
    if (path := folder / f"extraction-{device}.json").exists():
        other = json.loads(path.read_text())["contenders"]["zoo"]
        found["extractors"]["inception-2015-12-05"] = {
            "seconds": other["cpu_seconds_per_image"],
            "bytes": 4 * sum(extractor_card("inception-2015-12-05").outputs.values()),
            "by": "benchmarks/extraction.py",
        }
    return found


def check(boards: list[Path], device: str) -> None:
    """Write down what cells of real sweeps took, beside what is foretold of them."""
    path = ROOT / "benchmarks" / "results" / f"planning-{device}.json"
    result, rows = results(device), []
    here = {card.id for card in extractor_cards() if card.file is None or (card.file.url or "").startswith("package:")}
    seen = result | {"extractors": {name: found for name, found in result["extractors"].items() if name in here}}
    tracks = newest(registry.tracks.cards())
    ended = [found for board in boards for found in Cells(board).all_ended().values() if found.status == "done"]
    for found in ended:
        cell, model = found.cell, registry.models.get(found.cell.model)
        mine = [
            card for card in tracks if (card.task, card.dataset, card.split) == (model.task, cell.dataset, cell.split)
        ]
        if mine and isinstance(result["models"].get(model.id, {}).get("phases"), list) and found.bytes:
            cost = cell_cost(result["models"][model.id], mine[0], seen)
            rows.append(
                {
                    "model": model.id,
                    "dataset": cell.dataset,
                    "split": cell.split,
                    "attempts": found.attempts,
                    "train": [round(cost["train"]), round(found.trained or 0)],
                    "evaluate": [round(price(cost) - cost["train"]), round(found.seconds.get("evaluate", 0.0))],
                    "bytes": [round(cost["bytes"]), found.bytes],
                }
            )
    stored = json.loads(path.read_text())
    write_json(path, stored | {"checked": sorted(rows, key=lambda row: (row["model"], row["dataset"], row["split"]))})


def page(device: str) -> str:
    result = results(device)
    loads = [found["load"] for kind in MEASURES for found in result[kind].values() if "load" in found]
    lines = [
        "# Planning: what models, metrics and the whole board take",
        "",
        "Generated by `python benchmarks/planning.py page` from `benchmarks/results/planning-"
        f"{device}.json`, which `python benchmarks/planning.py measure` made.",
        "",
        *board_page(result),
        "",
        "## How it was measured",
        "",
        f"By one thread of an {result['hardware']}, in seconds that it computed; none by a GPU. This thread multiplies "
        f"float32 matrices at {result['gigaflops']:.0f} GFLOP/s. The machine had other work (load {min(loads):.0f} to "
        f"{max(loads):.0f}), so figures are rather too long than too short. `measure --device cuda` measures the same "
        "on a GPU.",
        "",
        "A network has initial weights and noise for recordings; a frozen one whose weights are not on the machine has "
        "initial ones, too. Training is the median of a few steps of each phase (of a slow one the first step) times "
        f"the steps of its recipe, with {TRAINED:.0%} of a dataset's trials to train on, as if of one person, and "
        f"{', '.join(f'{n:,} pictures ({dataset})' for dataset, n in SHOWN.items())} or {PICTURES} pictures: a network "
        "per person (realnet) takes as many times longer as there are people, and what is solved over all pictures at "
        "once (linear-encoding) takes longer on real data. Peaks are of the process: the "
        "most that features, images or predictions in batches of the zoo, or a step at published batch size, needed.",
        *checked(result),
        "",
        "## Models",
        "",
        "*per image*: of a reconstruction to make one, of an encoding model to foretell the response to one, of a "
        "retrieval model to bring one into its space, once an extractor has seen it.",
        "",
        "| model | recordings | ms per trial | ms per image | training | weights | checkpoint | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def ms(seconds: float | None) -> str:
        if seconds is None:
            return "–"
        return f"{1000 * seconds:,.0f}" if seconds >= 1 else f"{1000 * seconds:.3g}"

    missing: dict[str, list[str]] = {}
    for name, found in sorted(result["models"].items()):
        if "not_measured" in found:
            missing.setdefault(found["not_measured"], []).append(name)
            continue
        trained = train_seconds(found)
        if trained is None:
            missing.setdefault(f"the training: {found['phases']['not_measured']}", []).append(name)
        image = next((found[key] for key in PER_IMAGE if key in found), None)
        lines.append(
            f"| {name} | {found['dataset']} | {ms(found.get('encode_seconds'))} | {ms(image)} | "
            f"{'–' if trained is None else hours(trained)} | {size(found['weight_bytes'])} | "
            f"{size(found['checkpoint_bytes'])} | {found['peak_mb']:,} MB |"
        )
    lines += ["", "## Extractors", "", "| extractor | ms per image | bytes per image |", "|---|---|---|"]
    for name, found in sorted(result["extractors"].items()):
        if "not_measured" in found:
            missing.setdefault(found["not_measured"], []).append(name)
        else:
            by = f" (`{found['by']}`, quiet machine)" if "by" in found else ""
            lines.append(f"| {name}{by} | {ms(found['seconds'])} | {found['bytes']:,} |")
    lines += [
        "",
        "## Metrics",
        "",
        f"One value over {TRIALS} samples (or the fewest that it takes), from features; a record has one for the "
        "model and one for each control. The bounds of its interval take as long or less. `finetuned_accuracy` is a "
        f"training: at most {EPOCHS} epochs or {MOST_STEPS:,} steps of {BATCH} trials through the model's own encoder, "
        f"which is counted as {BACKWARD} times its *ms per trial*.",
        "",
        "| metric | seconds | ms per sample |",
        "|---|---|---|",
    ]
    for name, found in sorted(result["metrics"].items()):
        if "not_measured" in found:
            missing.setdefault(found["not_measured"], []).append(name)
        else:
            lines.append(f"| {name} | {found['seconds']:.3g} | {ms(found['seconds_per_sample'])} |")
    for kind, name in names():
        if name not in result[kind]:
            missing.setdefault("not yet; `python benchmarks/planning.py measure` goes on", []).append(name)
    lines += [
        "",
        "## Not measured",
        "",
        f"A measurement ends at {MEMORY / 2**30:.0f} GiB or {LONGEST // 60} minutes.",
        "",
    ]
    lines += [f"- {', '.join(found)}: {reason}." for reason, found in missing.items()] or ["Nothing."]
    return "\n".join(lines) + "\n"


def checked(result: dict[str, Any]) -> list[str]:
    """How well this foretells what cells of real sweeps took."""
    rows = [row for row in result.get("checked", []) if row["attempts"] == 1]
    if not rows:
        return []

    def ratios(key: str) -> str:
        found = sorted(row[key][1] / row[key][0] for row in rows if row[key][0])
        return f"{found[0]:.1f} to {found[-1]:.1f} times (median {median(found):.1f})"

    return [
        "",
        f"Checked by {len(rows)} cells of sweeps on this machine (`python benchmarks/planning.py check BOARD`, which "
        f"looks only at extractors that were there): they kept {ratios('bytes')} the bytes foretold, and took, by the "
        f"clock, {ratios('train')} the seconds of training and {ratios('evaluate')} those of evaluation, with three "
        "to four processes on two cores. An evaluation also audits the split and draws pictures, which is not counted.",
    ]


def price(cost: dict[str, float]) -> float:
    return sum(cost[part] for part in WORDS)


def board_page(result: dict[str, Any]) -> list[str]:
    planned = cells()
    known = [(model, track) for model, track in planned if "weight_bytes" in result["models"].get(model.id, {})]
    costs = [(model, track, cell_cost(result["models"][model.id], track, result)) for model, track in known]
    parts = tuple(WORDS)
    totals = {part: SEEDS * sum(cost[part] for _, _, cost in costs) for part in (*parts, "bytes", *KEPT.values())}
    stored = {name: totals[part] for name, part in KEPT.items()}
    widest = max(result["extractors"], key=lambda name: result["extractors"][name].get("bytes", 0))
    together = sum(totals[part] for part in parts)
    small = [cost for model, _, cost in costs if ".small" in model.id or "-small" in model.id]
    few = SEEDS * sum(price(cost) for cost in small)
    seen = [(name, found) for name, found in result["extractors"].items() if "seconds" in found]
    slowest = sorted(seen, key=lambda extractor: -extractor[1]["seconds"])[:2]
    large = sorted(name for name, found in result["models"].items() if f"{MEMORY / 2**30:.0f} GiB" in str(found))
    trained = [model for model, _ in known if train_seconds(result["models"][model.id]) is not None]
    years = together / 3600 / 24 / 365
    dear = {model.id: (model, track, cost) for model, track, cost in sorted(costs, key=lambda c: price(c[2]))}
    heaviest = sorted(dear.values(), key=lambda found: -price(found[2]))[:5]
    peaks = [(row["peak_mb"], row["model"]) for row in FULL_SIZE]
    peak, hungry = max([*peaks, *((result["models"][model.id]["peak_mb"], model.id) for model, _ in known)])
    largest = max(parts, key=lambda part: totals[part])
    on_gpu = together - totals["score"]
    whole = SEEDS * len(planned)
    return [
        "## The whole board, and ten times it",
        "",
        f"{len(planned):,} models on datasets and splits (the newest track of every split; models for any recordings "
        f"on all of them, published ones on the datasets of their papers), {SEEDS} seeds of each: {whole:,} "
        f"trainings and evaluations with all controls, of which {SEEDS * len(known):,} could be foretold and "
        f"{SEEDS * len(trained):,} with their training. What was not measured adds nothing, so these are lower bounds.",
        "",
        "| | hours of one thread | times ten |",
        "|---|---|---|",
        *(f"| {WORDS[part]} | {totals[part] / 3600:,.0f} | {totals[part] / 360:,.0f} |" for part in parts),
        f"| **all** | **{together / 3600:,.0f}** | **{together / 360:,.0f}** |",
        f"| of that, models for a laptop (`….small`) | {few / 3600:,.0f} | {few / 360:,.0f} |",
        "",
        "| | kept on disk | times ten |",
        "|---|---|---|",
        *(f"| {name} | {size(count)} | {size(10 * count)} |" for name, count in stored.items()),
        f"| **all** | **{size(totals['bytes'])}** | **{size(10 * totals['bytes'])}** |",
        "",
        "**GPU hours** are these hours by how many times a GPU is faster than the thread, which nobody has measured "
        "yet; scoring stays on a cpu. Small networks leave a large GPU idle, so take a small number for them.",
        "",
        "| a GPU that is | GPU hours, board | ten times | with 8 GPUs, board | ten times |",
        "|---|---|---|---|---|",
        *(
            f"| {k} times as fast | {on_gpu / 3600 / k:,.0f} | {on_gpu / 360 / k:,.0f} | "
            f"{on_gpu / 3600 / 24 / k / 8:,.1f} days | {on_gpu / 360 / 24 / k / 8:,.1f} days |"
            for k in FASTER
        ),
        "",
        "`zoo sweep … --dry-run` foretells from cells that ended on your own machines, and `zoo sweep status` counts "
        "the GPU hours spent: run one seed of a small part first.",
        "",
        "### What binds first",
        "",
        f"1. **Time**: {WORDS[largest]} is {totals[largest] / together:.0%} of it. One thread would take {years:,.1f} "
        f"years for the board and {10 * years:,.0f} for ten times it. The dearest cells: "
        + "; ".join(f"{model.id} on {track.dataset} ({hours(price(cost))})" for model, track, cost in heaviest)
        + ". The slowest extractors: "
        + " and ".join(f"{name} ({found['seconds']:.1f} s per image)" for name, found in slowest)
        + ". Cells do not wait for one another, so this shrinks with the number of GPUs or cores; the dearest cell "
        "alone bounds it from below.",
        f"2. **Disk**: {size(totals['bytes'])} for the board, {size(10 * totals['bytes'])} for ten times it. "
        f"{stored['features of images'] / totals['bytes']:.0%} are features of images, most of them of {widest} "
        f"({size(result['extractors'][widest]['bytes'])} per image), which are needed until a record is written and "
        "can be made again: delete `image-features/` in the cache between sweeps.",
        f"3. **Memory**: {hungry} needed {peak / 1000:.1f} GB, the most here; a job needs `--memory` of as much and "
        f"the data. More than {MEMORY / 2**30:.0f} GiB, which is where measuring stops, take {', '.join(large)}.",
        f"4. **Jobs**: ten times the board is {10 * whole:,} cells in {math.ceil(whole / 100)} arrays of 1,000; "
        "planning and looking at 10,000 cells takes seconds (`benchmarks/results/sweep_scale-cpu.json`).",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "count", "check", "page"))
    parser.add_argument("boards", nargs="*", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    if given.what == "measure":
        measure(given.device, given.only)
    elif given.what == "count":
        count(given.only)
    elif given.what == "check":
        check(given.boards, given.device)
    else:
        (ROOT / "docs" / "planning.md").write_text(page(given.device), encoding="utf-8")


if __name__ == "__main__":
    main()

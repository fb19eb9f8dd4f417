"""What each layer of a packaged network holds of phantom-things' linear map: one person, linear components, ridge.

Settings are compared on the test role, so this says what is there to be had, not what a model scores.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from zoo.datasets import base, phantom_things
from zoo.models.linear_encoding import LinearEncoding, Reducer, build, solve
from zoo.models.recipes import mean_responses

SUBJECT, COMPONENTS, PENALTY, WINDOW = "01", 30, 0.1, (0.06, 0.5)


def main() -> None:
    data = base.load("phantom-things")
    split, answer = data.split(), phantom_things.known_answer(data)
    train, test = (data.stimulus_rows(split, role) for role in ("train", "test"))
    model = build(data.spec, backbone="efficientnet-lite0", layers="appended", reduction="pca", n_pictures=len(train))
    model.backbone.load()
    known, asked = features(model, data, train), features(model, data, test)
    targets, shown = mean_responses(data.training_data(split), SUBJECT)
    ids = data.stimuli.ids[test]
    truth = answer.of(SUBJECT, ids)
    own = data.trials["subject"] == SUBJECT
    recorded = np.stack([data.eeg[own & (data.trials["stimulus_id"] == name)].mean(axis=0) for name in ids])
    times = data.spec.tmin + np.arange(data.spec.n_times) / data.spec.sfreq
    inside = (times >= WINDOW[0] - 1e-9) & (times <= WINDOW[1] + 1e-9)

    def r(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        found = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        return float(found[:, inside].mean())

    best = answer.ceiling(SUBJECT, ids, 20)[:, inside].mean()
    sys.stdout.write(f"attainable {best:.3f}, true response {r(truth, recorded):.3f}\n")
    for layer in model.backbone.layers:
        reducer = Reducer(known[layer].shape[1], COMPONENTS, len(train), kernel=False)
        reducer.fit(known[layer].float())
        predictors = reducer(known[layer].float()).double().numpy()[shown]
        beta = solve(predictors, targets.reshape(len(targets), -1), penalty=PENALTY)
        made = (reducer(asked[layer].float()).double().numpy() @ beta[1:] + beta[0]).reshape(truth.shape)
        sys.stdout.write(f"{layer}: {r(made, recorded):.3f} with recordings, {r(made, truth):.3f} with the truth\n")


@torch.inference_mode()
def features(model: LinearEncoding, data: Any, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Every layer's output for some pictures, in half precision, since together they are large."""
    found: dict[str, list[torch.Tensor]] = {layer: [] for layer in model.backbone.layers}
    for at in range(0, len(rows), 16):
        images = model.pixels(data.stimulus_pixels(rows[at : at + 16]))
        for layer, value in model.backbone(images).items():
            found[layer].append(value.half())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


if __name__ == "__main__":
    main()

"""Areas of a network beside EEG over time: an area that orders pictures as the brain does is found where it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import small_things
from zoo.datasets import base, phantom_things
from zoo.errors import UsageError
from zoo.models.base import EncodingModel
from zoo.rsa import area_similarity

OPTIONS: dict[str, Any] = {
    "n_subjects": 2, "n_concepts": 10, "n_exemplars": 2, "n_repetitions": 1, "n_test": 25, "n_test_repetitions": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[base.EEGDataset]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("rsa")))
        yield small_things(patch, "things-rsa", **OPTIONS)


class Areas(NamedTuple):
    brain: Tensor
    noise: Tensor
    logits: Tensor


class KnowsResponses(EncodingModel):
    """One area holds the true response at 0.17 s, the other nothing of the picture."""

    resolution = 4

    def __init__(self, data: base.EEGDataset) -> None:
        super().__init__(data.spec, {})
        self.subjects = ("01", "02")
        self.weight = nn.Parameter(torch.zeros(1))
        self.answer = phantom_things.known_answer(data)
        pictures = data.stimulus_pixels(range(len(data.stimuli)))
        self.table = self.pixels(pictures).flatten(1)

    def parts(self) -> dict[str, nn.Module]:
        return {}

    def see(self, images: Tensor) -> Tensor:
        return images

    def respond(self, seen: Tensor, subject: str | None = None) -> Tensor:
        raise NotImplementedError

    def activations(self, images: Tensor, subject: str | None = None) -> Areas:
        rows = torch.cdist(images.flatten(1), self.table).argmin(dim=1).numpy()
        true = self.answer.responses[self.answer.subjects.index(str(subject)), rows][..., 37]
        noise = np.random.default_rng(0).standard_normal((len(self.table), 9))[rows]
        return Areas(torch.from_numpy(true), torch.from_numpy(noise), torch.zeros(len(images), 1))


def test_the_area_that_holds_the_response_is_found_when_it_comes(
    data: base.EEGDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(data.folder.parents[1]))
    found = area_similarity(KnowsResponses(data), "things-rsa", device="cpu")
    assert (found.people, found.areas) == (("01", "02"), ("brain", "noise"))
    assert found.values.shape == (2, 2, 100)
    assert found.ceiling.shape == (2, 100)
    assert found.times[[0, 37, 99]] == pytest.approx([-0.2, 0.17, 0.79])
    before, at = found.times < 0, np.abs(found.times - 0.17) < 0.02
    assert found.values[:, 0][:, at].mean() > 0.5
    assert np.abs(found.values[:, 0][:, before].mean()) < 0.1
    assert np.abs(found.values[:, 1].mean(axis=1)).max() < 0.1
    # 40 repetitions resemble the truth more than two halves of 20 resemble each other
    assert (found.ceiling[:, at].mean(axis=1) < found.values[:, 0][:, at].mean(axis=1)).all()
    assert found.ceiling[:, at].mean() > 0.3


def test_a_model_without_areas_is_refused(data: base.EEGDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(data.folder.parents[1]))

    class Blind(KnowsResponses):
        activations: Any = property(lambda self: self.nothing)

    with pytest.raises(
        UsageError, match=r"^local-blind has no areas to compare with EEG; choose realnet or cornet-s.$"
    ):
        area_similarity(Blind(data), "things-rsa", device="cpu")

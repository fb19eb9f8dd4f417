"""What every recipe is asked: whether an interrupted training ends as an uninterrupted one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zoo.models.base import Model
from zoo.training import Recipe, fit


def check_resuming(training: Callable[[], tuple[Model, Recipe]], folder: Path) -> set[str]:
    """Train to the end, and again with an interruption after the third step; weights, heads and losses must be equal.

    Args:
        training: Makes the model anew, and the recipe of one phase.

    Returns:
        Names of the parts of the model that training changed.
    """

    def stop(done: int, total: int, what: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole, recipe = training()
    start = copy.deepcopy(whole.state_dict())
    fresh = {name: copy.deepcopy(module.state_dict()) for name, module in recipe.modules().items()}
    finished = fit(recipe, folder / "whole", seed=0)
    learnt = {name: copy.deepcopy(module.state_dict()) for name, module in recipe.modules().items()}
    with pytest.raises(KeyboardInterrupt):
        fit(training()[1], folder / "broken", seed=0, progress=stop)
    resumed, recipe = training()
    torch.manual_seed(99)  # what a step draws comes from its own generator, whatever the state of torch's
    again = fit(recipe, folder / "broken", seed=0)
    assert (again.step, again.best_step, again.losses) == (finished.step, finished.best_step, finished.losses)
    assert finished.step > 3
    ends = {name: module.state_dict() for name, module in recipe.modules().items()}
    assert all(torch.equal(value, learnt[name][key]) for name, end in ends.items() for key, value in end.items())
    assert not all(torch.equal(value, fresh[name][key]) for name, end in ends.items() for key, value in end.items())
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    return {key.partition(".")[0] for key, value in whole.state_dict().items() if not torch.equal(value, start[key])}

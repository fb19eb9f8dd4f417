"""The training loop, on a recipe whose result is known."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Adam, Optimizer

from zoo.errors import IntegrityError, ZooError
from zoo.training import Recipe, fit


class Line(Recipe):
    """Fits y = 2x; validates on the distance of the slope from ``target``."""

    name = "line"

    def __init__(self, n_steps: int, *, target: float | None = None, ema_decay: float | None = None) -> None:
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)
        self.optimizer = Adam(self.net.parameters(), lr=0.1)
        self.n_steps, self.target, self.ema_decay = n_steps, target, ema_decay
        self.eval_every = None if target is None else 1
        self.stop_at: int | None = None

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"net": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(rng.normal(size=(8, 1)).astype(np.float32))
        loss = (self.net(x) - 2 * x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"square": loss.item()}

    def validate(self) -> float:
        assert self.target is not None
        return -abs(self.slope - self.target)

    @property
    def slope(self) -> float:
        return float(self.net.weight.detach())


def test_it_learns_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    recipe = Line(200)
    assert fit(recipe, tmp_path, seed=0).done
    assert recipe.slope == pytest.approx(2, abs=1e-2)
    again = Line(200)
    again.stop_at = 0  # any step would raise
    assert fit(again, tmp_path, seed=0).step == 200
    assert again.slope == recipe.slope


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, ema_decay: float | None) -> None:
    whole = Line(30, ema_decay=ema_decay)
    fit(whole, tmp_path / "whole", seed=3)
    parts = Line(30, ema_decay=ema_decay)
    parts.stop_at = 17
    with pytest.raises(KeyboardInterrupt):
        fit(parts, tmp_path / "parts", seed=3)
    rest = Line(30, ema_decay=ema_decay)
    assert fit(rest, tmp_path / "parts", seed=3).step == 30
    assert rest.slope == whole.slope


def test_an_interruption_waits_for_the_step_to_end(tmp_path: Path) -> None:
    """Ctrl-C between the losses and the update of the sixth step: half of a step must not be saved."""

    class Interrupted(Line):
        def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
            if step == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(step, rng)

    whole = Line(12)
    fit(whole, tmp_path / "whole", seed=3)
    parts = Interrupted(12)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, tmp_path / "parts", seed=3)
    rest = Line(12)
    rest.stop_at = 5  # that one is done
    assert fit(rest, tmp_path / "parts", seed=3).step == 12
    assert rest.slope == whole.slope
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_seed_changes_the_run(tmp_path: Path) -> None:
    first, second = Line(5), Line(5)
    fit(first, tmp_path / "0", seed=0)
    fit(second, tmp_path / "1", seed=1)
    assert first.slope != second.slope


def test_the_best_validated_state_is_the_result(tmp_path: Path) -> None:
    recipe = Line(60, target=0.5)
    state = fit(recipe, tmp_path, seed=0)
    assert abs(recipe.slope - 0.5) < 0.06  # Adam moves by at most 0.1 a step, so it passes within half of that
    assert state.best_step is not None
    assert state.best_step < 60


@pytest.mark.parametrize(("ties", "kept"), [("earlier", 2), ("later", 6)])
def test_equally_validated_states_keep_the_first_or_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ties: Literal["earlier", "later"], kept: int
) -> None:
    recipe, scores = Line(6, target=0.0), iter([0.1, 0.5, 0.4, 0.5, 0.2, 0.5])
    recipe.ties = ties
    monkeypatch.setattr(recipe, "validate", lambda: next(scores))
    state = fit(recipe, tmp_path, seed=0)
    assert (state.best_step, state.best_score) == (kept, 0.5)
    alone = Line(kept)
    fit(alone, tmp_path / "alone", seed=0)
    assert recipe.slope == alone.slope


def test_the_moving_average_lags_behind(tmp_path: Path) -> None:
    plain, averaged = Line(10), Line(10, ema_decay=0.9)
    fit(plain, tmp_path / "plain", seed=0)
    fit(averaged, tmp_path / "ema", seed=0)
    assert 0 < averaged.slope < plain.slope


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tmp_path: Path) -> None:
    recipe = Line(10)
    with torch.no_grad():
        recipe.net.weight.fill_(torch.inf)
    message = r"training line diverged at step 0: square is (inf|nan); set a lower learning rate with --set\."
    with pytest.raises(ZooError, match=f"^{message}$"):
        fit(recipe, tmp_path, seed=0)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "line.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(
        IntegrityError, match=r"line\.safetensors is not a readable checkpoint \(.*\); delete it to train again\.$"
    ):
        fit(Line(3), tmp_path, seed=0)

"""End-to-end encoding: a whole image network trained from scratch to say which EEG a picture evokes.

Gifford, Dwivedi, Roig, Cichy (2022), NeuroImage 264:119754, https://doi.org/10.1016/j.neuroimage.2022.119754; code
gifale95/eeg_encoding (commit f0c03bf), of which nothing is used here. ``outputs="all"`` is one network for all channels
and times; ``"single"`` is one network per time. Targets are means over repetitions, one network stands for one person
(or for the mean of those in the training role).

Differences: float32 in place of float16 with a scaler; the validation role is the split's (whole concepts that training
does not see, chosen by hash, where the original draws 100 concepts by a seed); a last, smaller batch is kept, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer, RAdam

from zoo.backbones import backbone_card, construct
from zoo.errors import UsageError
from zoo.models.base import EncodingModel
from zoo.models.layers import check_least, configure, epoch_batch, steps_per_epoch
from zoo.models.recipes import device_of, mean_responses, update
from zoo.specs import EEGSpec
from zoo.training import Recipe, TrainingData


@dataclass(frozen=True)
class EndToEndConfig:
    network: str = "alexnet"
    """alexnet or resnet50 as published, or timm:NAME or torchvision:NAME; always from random weights."""
    outputs: Literal["all", "single"] = "all"
    """One network for all times, or one for each."""
    resolution: int = 224
    """Height and width of the pictures that it is given."""
    learning_rate: float = 1e-5
    """Of RAdam, without weight decay."""
    batch_size: int = 64
    """Pictures per step."""
    passes: int = 50
    """Over the training pictures; the best pass on the validation role is the result."""

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size", "passes")
        check_least(self, 16, "resolution")
        if not self.learning_rate > 0:
            raise UsageError(f"learning_rate must be more than 0, but is {self.learning_rate}.")


class EndToEndEncoding(EncodingModel):
    """One network, or one per time, whose outputs are EEG."""

    def __init__(self, spec: EEGSpec, config: EndToEndConfig) -> None:
        super().__init__(spec, config)
        self.config: EndToEndConfig = config
        self.resolution = config.resolution
        self.card = backbone_card(config.network)
        nets, width = (1, spec.n_times) if config.outputs == "all" else (spec.n_times, 1)
        self.nets = nn.ModuleList(construct(self.card.constructor, spec.n_channels * width) for _ in range(nets))

    def parts(self) -> dict[str, nn.Module]:
        return {"nets": self.nets}

    def see(self, images: Tensor) -> Tensor:
        """Standardised pictures: (n, 3, resolution, resolution) in [0, 1] → the same shape."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.card.mean, self.card.std))
        return (images - mean) / std

    def respond(self, seen: Tensor, subject: str | None = None) -> Tensor:
        made = [net(seen).view(len(seen), self.spec.n_channels, -1) for net in self.nets]
        return torch.cat(made, dim=2)


class EndToEnd(Recipe):
    """Mean squared error of one network, on all its channels and times."""

    def __init__(self, model: EndToEndEncoding, data: TrainingData, place: int, *, seed: int, select: str) -> None:
        self.model, self.data, self.place, self.seed = model, data, place, seed
        self.net = model.nets[place]
        self.name = "network" if len(model.nets) == 1 else f"network-{place:03d}"
        config = model.config
        self.responses, self.shown = mean_responses(data)
        per_pass = steps_per_epoch(len(self.shown), config.batch_size)
        self.n_steps = config.passes * per_pass
        if select == "val" and len(data.val_images):
            self.eval_every = per_pass
        self.optimizer = RAdam(self.net.parameters(), lr=config.learning_rate)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"net": self.optimizer}

    def step(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        size, key = self.model.config.batch_size, (self.name, self.seed)
        rows = epoch_batch(step, n=len(self.shown), batch_size=size, key=key)
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        self.net.train()
        loss = F.mse_loss(self._made(self._pixels[self.shown[rows]]), self._targets(self.responses[rows]))
        update(self.optimizer, loss, self.net)
        return {"mse": loss.item()}

    @torch.no_grad()
    def validate(self) -> float:
        """Minus the mean squared error on the validation role's pictures."""
        responses, shown = self._validation
        self.net.eval()
        size = self.model.config.batch_size
        total = 0.0
        for at in range(0, len(shown), size):
            made = self._made(self._val_pixels[shown[at : at + size]])
            total += float(F.mse_loss(made, self._targets(responses[at : at + size]), reduction="sum"))
        return -total / made[0].numel() / len(shown)

    def _made(self, pixels: Tensor) -> Tensor:
        images = pixels.to(device_of(self.net)).float() / 255
        made: Tensor = self.net(self.model.see(images))
        return made

    def _targets(self, responses: np.ndarray) -> Tensor:
        times = slice(None) if len(self.model.nets) == 1 else slice(self.place, self.place + 1)
        flat = responses[:, :, times].reshape(len(responses), -1)
        return torch.from_numpy(flat).float().to(device_of(self.net))

    @cached_property
    def _validation(self) -> tuple[np.ndarray, np.ndarray]:
        return mean_responses(self.data, role="val")

    @cached_property
    def _pixels(self) -> Tensor:
        return self._bytes(self.data.images)

    @cached_property
    def _val_pixels(self) -> Tensor:
        return self._bytes(self.data.val_images)

    def _bytes(self, pictures: Any) -> Tensor:
        """All pictures as the model takes them, (n, 3, resolution, resolution) uint8, decoded once."""
        return torch.cat([(self.model.pixels([picture]) * 255).round().to(torch.uint8) for picture in pictures])


def build(spec: EEGSpec, **overrides: Any) -> EndToEndEncoding:
    """An untrained model; initial weights come from torch's generator, so seed that first.

    Raises:
        UsageError: An override is no field of ``EndToEndConfig``, its value is not possible, or there is no
            such network.
    """
    return EndToEndEncoding(spec, configure(EndToEndConfig, overrides))


def recipes(
    model: EndToEndEncoding, data: TrainingData, *, seed: int, select: Literal["val", "last"] = "val"
) -> list[Recipe]:
    """A training per network: one, or one for every time.

    Raises:
        UsageError: Trials have no known pictures.
    """
    return [EndToEnd(model, data, place, seed=seed, select=select) for place in range(len(model.nets))]

"""ImageNet networks that stand still inside a model: their pinned weights, and how pixels enter them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import packaged
from zoo.backbones import IMAGENET, backbone_card
from zoo.errors import IntegrityError

PIXELS = "pixels-224"
"""The extractor of models that look at pictures themselves."""
EXTRACTORS = {"resnet50": "resnet50-imagenet", "googlenet": "googlenet-imagenet"}
"""Backbone → extractor with the same weights, by which ``zoo weights pull`` brings them."""


def imagenet(pixels: Tensor) -> Tensor:
    """Pixels (n, 3, height, width) in [0, 1] as torchvision's networks were trained with."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
    return (pixels - mean) / std


def enlarged(pixels: Tensor, size: int) -> Tensor:
    """The middle of pictures enlarged to ``size``, as large as they were: what a resize and a crop make of them."""
    edge, kept = (size - pixels.shape[2]) // 2, pixels.shape[2]
    large = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return large[:, :, edge : edge + kept, edge : edge + kept]


def load_frozen(network: nn.Module, backbone: str) -> None:
    """Put the pinned weights of a backbone into everything of ``network`` but its last layer, ``fc``.

    Raises:
        MissingError: They are not on this machine; the message names the command that brings them.
        IntegrityError: Their sha256 is not the pinned one, or they do not fit.
    """
    file = backbone_card(backbone).file
    assert file is not None
    path = packaged.find(file, backbone, bring=f"zoo weights pull {EXTRACTORS[backbone]}")
    given = torch.load(path, weights_only=True, map_location="cpu")
    own = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    if lacking := [key for key, value in own.items() if key not in given or given[key].shape != value.shape]:
        raise IntegrityError(f"{path.name} must hold {lacking[0]} of the network, but does not; report it, please.")
    network.load_state_dict({key: given[key] for key in own}, strict=False)

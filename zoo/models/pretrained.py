"""ImageNet networks that stand still inside a model: their pinned weights, and how pixels enter them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import hub
from zoo.errors import IntegrityError
from zoo.specs import File

PIXELS = "pixels-224"
"""The extractor of models that look at pictures themselves."""
RESNET50 = File(
    path="resnet50-0676ba61.pth",
    url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    size=102530333,
    licence="BSD-3-Clause",
)
GOOGLENET = File(
    path="googlenet-1378be20.pth",
    url="https://download.pytorch.org/models/googlenet-1378be20.pth",
    sha256="1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef",
    licence="BSD-3-Clause",
)
EXTRACTORS = {RESNET50.path: "resnet50-imagenet", GOOGLENET.path: "googlenet-imagenet"}
"""Extractors with the same weights, by which ``zoo weights pull`` brings them."""


def imagenet(pixels: Tensor) -> Tensor:
    """Pixels (n, 3, height, width) in [0, 1] as torchvision's networks were trained with."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def enlarged(pixels: Tensor, size: int) -> Tensor:
    """The middle of pictures enlarged to ``size``, as large as they were: what a resize and a crop make of them."""
    edge, kept = (size - pixels.shape[2]) // 2, pixels.shape[2]
    large = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return large[:, :, edge : edge + kept, edge : edge + kept]


def load_frozen(network: nn.Module, file: File) -> None:
    """Put published ImageNet weights into everything of ``network`` but its last layer, ``fc``.

    Raises:
        MissingError: They are not on this machine; the message names the command that brings them.
        IntegrityError: Their sha256 is not the pinned one, or they do not fit.
    """
    path = hub.fetch(file, bring=f"zoo weights pull {EXTRACTORS[file.path]}")
    given = torch.load(path, weights_only=True, map_location="cpu")
    own = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    if lacking := [key for key, value in own.items() if key not in given or given[key].shape != value.shape]:
        raise IntegrityError(f"{path.name} must hold {lacking[0]} of the network, but does not; report it, please.")
    network.load_state_dict({key: given[key] for key in own}, strict=False)

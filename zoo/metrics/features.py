"""Images → features, by pinned networks.

A value never depends on how callers batch: every pass computes exactly ``micro_batch`` images, the last one filled up
with black, in float32 without TF32. Batch norms are folded into their convolutions and tensors lie channels last, which
is faster and, since the folding is done in float64, no further from a float64 network than the plain one is.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import IntegrityError, UsageError
from zoo.metrics.base import extractor_card, weights_path
from zoo.specs import ExtractorCard


@final
class Extractor:
    """A network on a device, ready to turn uint8 images into features; ``card`` says which weights and which resize."""

    def __init__(self, card: ExtractorCard, net: nn.Module, device: torch.device | str = "cpu") -> None:
        self.card = card
        self.device = torch.device(device)
        self.micro_batch = (
            8 if self.device.type == "cpu" else 64
        )  # 8 is the fastest on cores, and wastes little filling
        self._net = net.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: np.ndarray | Tensor) -> dict[str, np.ndarray]:
        """Features of images, and logits where the network has them.

        Shape:
            images: (n, 3, height, width) uint8 RGB, n >= 1, any height and width.
            returns: ``features`` (n, card.width) and, if the card has logits, ``logits`` (n, card.logits), float32.
        Raises:
            UsageError: Not uint8 images of that shape.
        """
        shape, dtype = tuple(images.shape), images.dtype
        if dtype not in (torch.uint8, np.uint8) or len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise UsageError(
                f"images must be uint8 of shape (n, 3, height, width) with n >= 1 but are {dtype} of shape {shape}; "
                "convert them first."
            )
        starts = range(0, shape[0], self.micro_batch)
        parts = [self._forward(images[start : start + self.micro_batch]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _forward(self, images: np.ndarray | Tensor) -> dict[str, np.ndarray]:
        n = len(images)
        filled = torch.zeros(self.micro_batch, *images.shape[1:], dtype=torch.uint8)
        filled[:n] = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        strict = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), strict:
            pixels = filled.to(self.device).float().contiguous(memory_format=torch.channels_last)
            outputs: dict[str, Tensor] = self._net(pixels)
        return {name: value[:n].cpu().numpy() for name, value in outputs.items()}


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor called ``name``, from verified weights on this machine; downloads nothing and unpickles no code.

    Raises:
        UnknownNameError: There is no such extractor.
        MissingError: Its weights are not here; the message names the command that brings them.
        IntegrityError: The weights are not the pinned ones, hold more than tensors, or do not fit the network.
    """
    card = extractor_card(name)
    path = weights_path(card)
    if path is None:
        return Extractor(card, Pixels(card.size), device)
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            f"{path.name} must hold tensors only but holds other objects; it was not loaded, report it, please."
        ) from error
    return Extractor(card, build(card, state), device)


def build(card: ExtractorCard, state: dict[str, Tensor], *, fold: bool = True) -> nn.Module:
    """The card's network holding ``state``; ``fold=False`` keeps batch norms apart, to measure what folding changes."""
    net: Inception | EfficientNetLite0 = _NETWORKS[card.id]()
    try:
        net.load_state_dict(net.published(state))
    except (RuntimeError, KeyError) as error:
        raise IntegrityError(
            f"the file of {card.id} must hold its weights but the tensors do not fit; report it, please."
        ) from error
    net.eval()
    if fold:
        _fold_batch_norms(net)
    return net


def resize_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear resize as TensorFlow 1 does it: source position = index * old / new, no half-pixel shift, no antialias.

    Columns first, on the source rows only; ``a + (b - a) * d`` rounds like the original, ``torch.lerp`` does not.
    Bit-exact with torch-fidelity's, and several times as fast for small images.

    Shape:
        images: (n, 3, height, width) float32; returns (n, 3, size, size).
    """
    for dim in (3, 2):
        position = torch.arange(size, dtype=torch.float32, device=images.device)
        position = position * torch.tensor(images.shape[dim] / size, dtype=torch.float32)
        low = position.long()
        high = (low + 1).clamp_max(images.shape[dim] - 1)
        shift = (position - low).view(-1, *[1] * (3 - dim))
        a, b = images.index_select(dim, low), images.index_select(dim, high)
        images = a + (b - a) * shift
    return images


@final
class Pixels(nn.Module):
    """No network: the picture at a few pixels, which a linear judge reads as colours in places."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = (size, size)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, height, width) in 0..255 → features (n, 3 · size²) in [0, 1], bilinear with antialias."""
        small = F.interpolate(pixels, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        return {"features": small.flatten(1) / 255}


@final
class Inception(nn.Module):
    """Inception-v3 of the TensorFlow graph of 2015-12-05, from torch-fidelity's blocks.

    Its own extractor class would unpickle the weights with code execution, so only its blocks are used.
    """

    def __init__(self) -> None:
        import torch_fidelity.feature_extractor_inceptionv3 as blocks

        super().__init__()
        conv = blocks.BasicConv2d
        self.trunk = nn.Sequential(
            OrderedDict(
                Conv2d_1a_3x3=conv(3, 32, kernel_size=3, stride=2),
                Conv2d_2a_3x3=conv(32, 32, kernel_size=3),
                Conv2d_2b_3x3=conv(32, 64, kernel_size=3, padding=1),
                MaxPool_1=nn.MaxPool2d(3, 2),
                Conv2d_3b_1x1=conv(64, 80, kernel_size=1),
                Conv2d_4a_3x3=conv(80, 192, kernel_size=3),
                MaxPool_2=nn.MaxPool2d(3, 2),
                Mixed_5b=blocks.InceptionA(192, pool_features=32),
                Mixed_5c=blocks.InceptionA(256, pool_features=64),
                Mixed_5d=blocks.InceptionA(288, pool_features=64),
                Mixed_6a=blocks.InceptionB(288),
                Mixed_6b=blocks.InceptionC(768, channels_7x7=128),
                Mixed_6c=blocks.InceptionC(768, channels_7x7=160),
                Mixed_6d=blocks.InceptionC(768, channels_7x7=160),
                Mixed_6e=blocks.InceptionC(768, channels_7x7=192),
                Mixed_7a=blocks.InceptionD(768),
                Mixed_7b=blocks.InceptionE_1(1280),
                Mixed_7c=blocks.InceptionE_2(2048),
                AvgPool=nn.AdaptiveAvgPool2d(1),
                Flatten=nn.Flatten(),
            )
        )
        self.fc = nn.Linear(2048, 1008)

    @staticmethod
    def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published keys → ours: all but the last layer stand in ``trunk``."""
        return {key if key.startswith("fc.") else f"trunk.{key}": value for key, value in state.items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, height, width) in 0..255 → features (n, 2048), logits (n, 1008) without the bias, as IS needs them."""
        features = self.trunk((resize_tf1(pixels, 299) - 128) / 128)
        return {"features": features, "logits": features @ self.fc.weight.T}


@final
class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with TensorFlow's "same" padding and batch-norm epsilon (timm's ``tf_efficientnet_lite0``).

    Pixels enter as (x - 127) / 128. That padding, epsilon and scale are the right ones shows in ImageNet pictures: any
    other choice raises the cross-entropy (tests/metrics/test_features.py).
    """

    depths = (1, 2, 2, 3, 3, 4, 1)
    """Blocks of each stage."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published keys → timm's, block by block; the classifier is left out."""
        names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
        blocks = [(stage, block) for stage, depth in enumerate(self.depths) for block in range(depth)]
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
            if layer != "_fc":
                renamed[f"net.{names[layer]}.{leaf}"] = value
        return renamed

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, height, width) in 0..255 → features (n, 1280), pooled."""
        resized = F.interpolate(pixels, size=(224, 224), mode="bilinear", align_corners=False, antialias=True)
        return {"features": self.net((resized - 127) / 128)}


@torch.no_grad()
def _fold_batch_norms(net: nn.Module) -> None:
    """Put every batch norm into the convolution registered before it; what remains of it is its activation, if any."""
    conv: nn.Conv2d | None = None
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d):
            assert conv is not None
            assert conv.bias is None
            assert module.running_mean is not None
            assert module.running_var is not None
            scale = module.weight.double() / torch.sqrt(module.running_var.double() + module.eps)
            shift = module.bias.double() - module.running_mean.double() * scale
            conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])
            conv.bias = nn.Parameter(shift.float())
            net.set_submodule(name, getattr(module, "act", nn.Identity()))
            conv = None


_NETWORKS: dict[str, type[Inception] | type[EfficientNetLite0]] = {
    "inception-2015-12-05": Inception,
    "efficientnet-lite0": EfficientNetLite0,
}

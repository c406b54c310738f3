"""Boxes against torchvision's algorithm in float64, and the geometry of images that are not square."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vicreg_jax.augment import Preprocessing, central_view
from vicreg_jax.augment.crop import ATTEMPTS, BOX_UNIFORMS, central_box, crop, random_box


def reference_box(uniforms, width, height, area, ratio) -> list[float]:
    """RandomResizedCrop.get_params in pixels, without rounding; (top, left, height, width) as fractions."""
    for attempt in range(ATTEMPTS):
        target_area = width * height * (area[0] + uniforms[attempt] * (area[1] - area[0]))
        log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(log_low + uniforms[ATTEMPTS + attempt] * (log_high - log_low))
        w, h = math.sqrt(target_area * aspect), math.sqrt(target_area / aspect)
        if w <= width and h <= height:
            top, left = uniforms[-2] * (height - h), uniforms[-1] * (width - w)
            return [top / height, left / width, h / height, w / width]
    w, h = float(width), float(height)
    if width / height < ratio[0]:
        h = width / ratio[0]
    elif width / height > ratio[1]:
        w = height * ratio[1]
    return [(height - h) / 2 / height, (width - w) / 2 / width, h / height, w / width]


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (100, 250), (640, 427)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.9, 1.0)])
def test_box_matches_torchvision(size, area) -> None:
    ratio = (3 / 4, 4 / 3)
    uniforms = np.random.default_rng(0).random((200, BOX_UNIFORMS)).astype(np.float32)
    draw = jax.jit(jax.vmap(lambda u, aspect_ratio: random_box(u, aspect_ratio, area, ratio), (0, None)))
    boxes = draw(uniforms, size[0] / size[1])
    expected = [reference_box(u.astype(np.float64), *size, area, ratio) for u in uniforms]
    np.testing.assert_allclose(boxes, expected, atol=2e-6)
    top, left, height, width = np.asarray(boxes).T
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6


def test_box_is_the_whole_image_for_an_area_of_one() -> None:
    box = random_box(jnp.full(BOX_UNIFORMS, 0.9), 1.0, (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(box, [0, 0, 1, 1])


def test_area_is_uniform_if_every_draw_fits() -> None:
    uniforms = jax.random.uniform(jax.random.key(0), (4000, BOX_UNIFORMS))
    boxes = jax.jit(jax.vmap(lambda u: random_box(u, 1.0, (0.1, 0.7), (3 / 4, 4 / 3))))(uniforms)
    area = np.sort(boxes[:, 2] * boxes[:, 3])
    expected = np.linspace(0.1, 0.7, len(area))
    assert np.abs(area - expected).max() < 0.025  # Kolmogorov-Smirnov: 0.026 * 0.6 at one in a hundred


@pytest.mark.parametrize(("aspect_ratio", "expected"), [(1.0, (0.8, 0.8)), (1.6, (0.8, 0.5)), (0.5, (0.4, 0.8))])
def test_central_box_is_a_centered_square(aspect_ratio, expected) -> None:
    top, left, height, width = central_box(aspect_ratio, 0.8)
    np.testing.assert_allclose((height, width), expected, rtol=1e-6)
    np.testing.assert_allclose((top + height / 2, left + width / 2), 0.5, rtol=1e-6)


def stretch(photograph: np.ndarray, canvas: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photograph).resize((canvas, canvas), Image.Resampling.BICUBIC))


def test_crop_of_the_canvas_matches_the_crop_of_the_original(photographs) -> None:
    pixels = (160, 107, 480, 320)  # left, top, right, bottom of 640 x 427
    box = jnp.array([107 / 427, 160 / 640, 213 / 427, 320 / 640])
    for photograph in photographs:
        expected = Image.fromarray(photograph).crop(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        canvas = jnp.moveaxis(jnp.asarray(stretch(photograph, 512)), -1, 0)
        ours = crop(canvas, box, image_size=96, interpolation="bicubic", read_outside=False)
        difference = np.abs(np.moveaxis(ours, 0, -1) * 255 - np.asarray(expected, np.float32))
        assert difference.mean() < 1.5  # resampled twice instead of once


def test_central_view_matches_resize_and_central_crop(photographs) -> None:
    canvases = np.stack([stretch(photograph, 512) for photograph in photographs])
    views = central_view(canvases, np.full(2, 640 / 427), Preprocessing(112, (0.0,), (1.0,), 0.875))
    for view, photograph in zip(views, photographs, strict=True):
        resized = Image.fromarray(photograph).resize((192, 128), Image.Resampling.BILINEAR)
        expected = np.asarray(resized.crop((40, 8, 152, 120)), np.float32)
        assert np.abs(view * 255 - expected).mean() < 1.5


def test_central_view_without_resizing_returns_the_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 17, 17, 3), dtype=np.uint8)
    view = central_view(images, np.ones(3), Preprocessing(17, (0.0,), (1.0,)))
    np.testing.assert_array_equal(view, jnp.asarray(images, jnp.float32) / 255)

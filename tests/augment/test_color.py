"""Color operations against Pillow, colorsys and NumPy."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vicreg_jax.augment import View
from vicreg_jax.augment.color import (
    BRIGHTNESS,
    CONTRAST,
    JITTER_UNIFORMS,
    SATURATION,
    adjust,
    grayscale,
    jitter,
    random_jitter,
    shift_hue,
    solarize,
)

ENHANCERS = {
    BRIGHTNESS: ImageEnhance.Brightness,
    CONTRAST: ImageEnhance.Contrast,
    SATURATION: ImageEnhance.Color,
}


def planes(picture: np.ndarray) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(picture, jnp.float32) / 255, -1, 0)


def levels(image: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(image), 0, -1) * 255


@pytest.mark.parametrize("factor", [0.2, 1.4])
@pytest.mark.parametrize("operation", ENHANCERS)
def test_adjust_matches_pillows_enhance(picture, operation, factor) -> None:
    expected = ENHANCERS[operation](Image.fromarray(picture)).enhance(factor)
    ours = jax.jit(adjust)(planes(picture), jnp.array([operation]), jnp.array([factor]))
    difference = np.abs(levels(ours) - np.asarray(expected, np.float32))
    # Pillow truncates the result, and rounds the mean that contrast uses.
    assert difference.mean() < 0.5 + 0.5 * abs(1 - factor)
    assert difference.max() < 1.5


def test_brightness_and_contrast_of_one_channel(picture) -> None:
    gray = Image.fromarray(picture).convert("L")
    image = planes(np.asarray(gray)[..., None])
    for operation in (BRIGHTNESS, CONTRAST):
        ours = adjust(image, jnp.array([operation]), jnp.array([1.4]))
        expected = np.asarray(ENHANCERS[operation](gray).enhance(1.4), np.float32)
        assert np.abs(levels(ours)[..., 0] - expected).mean() < 0.6


def test_factor_one_changes_nothing(picture) -> None:
    image = planes(picture)
    np.testing.assert_array_equal(adjust(image, jnp.arange(3), jnp.ones(3)), image)


def hue_by_colorsys(picture: np.ndarray, shift: float) -> np.ndarray:
    def shift_pixel(pixel: np.ndarray) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)

    return np.apply_along_axis(shift_pixel, -1, picture.astype(np.float64) / 255)


@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.07])
def test_hue_matches_colorsys(picture, shift) -> None:
    picture = picture[::4, ::4]
    ours = np.moveaxis(np.asarray(jax.jit(shift_hue)(planes(picture), shift)), 0, -1)
    np.testing.assert_allclose(ours, hue_by_colorsys(picture, shift), atol=1e-6)


def test_hue_shift_leaves_grays_unchanged() -> None:
    image = jnp.broadcast_to(jnp.linspace(0, 1, 5)[None, None], (3, 2, 5))
    np.testing.assert_array_equal(shift_hue(image, 0.3), image)


@pytest.mark.parametrize("shift", [-0.1])
def test_hue_is_close_to_pillows_8_bit_hue(picture, shift) -> None:
    hue, saturation, value = Image.fromarray(picture).convert("HSV").split()
    shifted = ((np.asarray(hue, np.int32) + int(shift * 255)) % 256).astype(np.uint8)
    expected = Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")
    difference = np.abs(levels(shift_hue(planes(picture), shift)) - np.asarray(expected, np.float32))
    assert difference.mean() < 1.5  # Pillow has 256 levels of hue and saturation


def test_grayscale_matches_pillow(picture) -> None:
    ours = levels(grayscale(planes(picture), True))
    expected = np.asarray(Image.fromarray(picture).convert("L"), np.float32)
    assert np.abs(ours - expected[..., None]).max() < 0.51
    np.testing.assert_array_equal(grayscale(planes(picture), False), planes(picture))


def test_solarize_matches_pillow(picture) -> None:
    ours = np.round(levels(solarize(planes(picture), 128 / 255, True)))
    np.testing.assert_array_equal(ours, np.asarray(ImageOps.solarize(Image.fromarray(picture))))
    np.testing.assert_array_equal(solarize(planes(picture), 128 / 255, False), planes(picture))


def test_jitter_applies_its_draw_in_order(picture) -> None:
    view = View(jitter_probability=1.0, hue=0.3)
    picture = picture[::8, ::8]
    image = planes(picture)
    for seed in range(3):
        uniforms = jax.random.uniform(jax.random.key(seed), (JITTER_UNIFORMS,))
        draw = jax.jit(lambda u: random_jitter(u, view, channels=3))(uniforms)
        expected = picture.astype(np.float64) / 255
        for number in range(4):
            if number == draw.hue_position:
                expected = hue_by_colorsys(expected * 255, float(draw.hue_shift))
            if number < 3:
                factor = float(draw.factors[number])
                gray = expected @ [0.299, 0.587, 0.114]
                base = {BRIGHTNESS: 0.0, CONTRAST: gray.mean(), SATURATION: gray[..., None]}
                expected = factor * expected + (1 - factor) * base[int(draw.operations[number])]
                expected = expected.clip(0, 1)
        np.testing.assert_allclose(np.moveaxis(jax.jit(jitter)(image, draw), 0, -1), expected, atol=1e-5)


def test_jitter_draws_have_the_distribution_of_the_view() -> None:
    view = View(jitter_probability=0.7, brightness=0.3, contrast=1.5, saturation=0.2, hue=0.1)
    uniforms = jax.random.uniform(jax.random.key(1), (4800, JITTER_UNIFORMS))
    draw = jax.device_get(jax.jit(jax.vmap(lambda u: random_jitter(u, view, channels=3)))(uniforms))
    applied = draw.hue_shift != 0
    assert abs(applied.mean() - 0.7) < 0.03
    assert np.all(draw.factors[~applied] == 1)
    assert np.all(np.abs(draw.hue_shift) <= 0.1)
    orders = [np.insert(o, p, 3).tolist() for o, p in zip(draw.operations, draw.hue_position, strict=True)]
    counts = [orders.count(list(order)) for order in itertools.permutations(range(4))]
    assert sum(counts) == 4800
    assert min(counts) > 150
    assert max(counts) < 250
    for operation, (low, high) in {
        BRIGHTNESS: (0.7, 1.3),
        CONTRAST: (0, 2.5),
        SATURATION: (0.8, 1.2),
    }.items():
        factors = draw.factors[applied][draw.operations[applied] == operation]
        assert low <= factors.min() < low + 0.01 * (high - low)
        assert high >= factors.max() > high - 0.01 * (high - low)
        assert abs(factors.mean() - (low + high) / 2) < 0.02 * (high - low)


@pytest.mark.parametrize(
    ("view", "channels", "operations", "hue"),
    [
        (View(), 3, [BRIGHTNESS, CONTRAST, SATURATION], True),
        (View(), 1, [BRIGHTNESS, CONTRAST], False),
        (View(), 4, [BRIGHTNESS, CONTRAST], False),
        (View(contrast=0, hue=0), 3, [BRIGHTNESS, SATURATION], False),
        (View(brightness=0, contrast=0, saturation=0), 3, [], True),
    ],
)
def test_operations_without_strength_or_meaning_are_not_drawn(view, channels, operations, hue) -> None:
    draw = jax.jit(lambda u: random_jitter(u, view, channels))(jnp.linspace(0.1, 0.9, JITTER_UNIFORMS))
    assert sorted(draw.operations.tolist()) == operations
    assert (draw.hue_shift is not None) == hue
    image = jnp.full((channels, 2, 2), 0.5)
    assert jax.eval_shape(jitter, image, draw).shape == image.shape

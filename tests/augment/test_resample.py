"""The weight matrices against a float64 loop, and crops against Pillow's resize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vicreg_jax.augment.crop import crop
from vicreg_jax.augment.resample import resample_weights

jitted_crop = jax.jit(crop, static_argnames=("image_size", "interpolation", "read_outside"))

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def kernel(name: str, x: float) -> float:
    x = abs(x)
    if name == "bilinear":
        return max(0.0, 1 - x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def reference_weights(start, length, source, target, name, read) -> np.ndarray:
    weights = np.zeros((target, source))
    scale = length / target
    for i in range(target):
        center = start + (i + 0.5) * scale
        for j in range(source):
            share = min(max(min(j + 1, read[1]) - max(j, read[0]), 0.0), 1.0)
            weights[i, j] = share * kernel(name, (j + 0.5 - center) / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("name", [pytest.param("bilinear", marks=pytest.mark.slow), "bicubic"])
@pytest.mark.parametrize(
    ("start", "length", "target", "outside"),
    [(0.0, 16.0, 16, False), (2.0, 11.0, 5, True), (3.37, 2.9, 8, False), (1.71, 13.05, 24, True)],
)
def test_weights_match_a_float64_loop(name, start, length, target, outside) -> None:
    read = (0.0, 16.0) if outside else (start, start + length)
    given = {"source": 16, "target": target, "interpolation": name, "read": read}
    weights = resample_weights(start, length, **given)
    np.testing.assert_allclose(weights, reference_weights(start, length, 16, target, name, read), atol=2e-6)
    np.testing.assert_array_equal(resample_weights(start, length, flip=True, **given), weights[::-1])


def test_pixels_beyond_the_read_interval_have_no_weight() -> None:
    weights = resample_weights(4.0, 6.0, source=16, target=12, interpolation="bicubic", read=(4.0, 10.0))
    assert not np.any(weights[:, :4])
    assert not np.any(weights[:, 10:])


@pytest.mark.parametrize(
    ("name", "target", "corner"),
    [
        ("bilinear", 24, (0.125, 0.25, 0.5, 0.75)),
        ("bicubic", 192, (0.125, 0.25, 0.5, 0.75)),
        *(
            pytest.param(name, target, corner, marks=pytest.mark.slow)
            for name in ("bilinear", "bicubic")
            for target, corner in (
                (24, None),
                (192, None),
                (192 if name == "bilinear" else 24, (0.125, 0.25, 0.5, 0.75)),
            )
        ),
    ],
)
def test_crop_matches_pillows_crop_and_resize(picture, name, target, corner) -> None:
    size = len(picture)
    top, left, height, width = corner or (0.0, 0.0, 1.0, 1.0)
    pixels = [int(size * side) for side in (left, top, left + width, top + height)]
    expected = Image.fromarray(picture).crop(pixels).resize((target, target), PILLOW[name])
    image = jnp.moveaxis(jnp.asarray(picture), -1, 0)
    box = jnp.array([top, left, height, width])
    ours = jitted_crop(image, box, image_size=target, interpolation=name, read_outside=False)
    difference = np.abs(np.moveaxis(ours, 0, -1) * 255 - np.asarray(expected, np.float32))
    # Pillow rounds both passes to 8 bits, and clips between them, which matters for the cubic kernel only.
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.95) < 1.5
    if name == "bilinear":
        assert difference.max() < 1.5


def test_crop_keeps_the_overshoot_in_range() -> None:
    image = jnp.zeros((1, 16, 16), jnp.uint8).at[:, :, 8:].set(255)
    box = jnp.array([0.0, 0.0, 1.0, 1.0])
    ours = jitted_crop(image, box, image_size=48, interpolation="bicubic", read_outside=False)
    assert ours.min() == 0.0
    assert ours.max() == 1.0

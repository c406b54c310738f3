"""Whole views: shapes, randomness, independence of batch and mesh, and the operations in the program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vicreg_jax.augment import (
    RECIPES,
    Preprocessing,
    View,
    central_view,
    denormalize,
    make_view,
    make_views,
    normalize,
    recipe,
)

PREPROCESSING = Preprocessing(image_size=12, mean=(0.5,), std=(0.25,))
EVERYTHING = recipe("vicreg_symmetric")[0]


def pixels(image_size: int) -> Preprocessing:
    """Views of this size, not normalized."""
    return Preprocessing(image_size, mean=(0.0,), std=(1.0,))


NOTHING = View(
    crop_area=(1.0, 1.0),
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
)


def batch(size: int = 8, canvas: int = 16, channels: int = 3) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, canvas, canvas, channels), dtype=np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.uniform(0.5, 2.0, size), jnp.float32)


@pytest.mark.parametrize("channels", [1, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_views_of_any_number_of_channels(channels) -> None:
    images, ratios = batch(channels=channels)
    views = make_views(jax.random.key(0), images, ratios, (EVERYTHING,) * 2, PREPROCESSING)
    assert len(views) == 2
    for view in views:
        assert view.shape == (8, 12, 12, channels)
        assert view.dtype == jnp.float32
        assert jnp.all(jnp.abs(view) <= 2.0)
    assert jnp.abs(views[0] - views[1]).mean() > 0.1


def test_keys_are_folded_by_view_and_position() -> None:
    images, ratios = batch()
    key, pair = jax.random.key(3), (EVERYTHING, EVERYTHING)
    views = make_views(key, images, ratios, pair, PREPROCESSING)
    for index, view in enumerate(pair):
        alone = make_view(jax.random.fold_in(key, index), images, ratios, view, PREPROCESSING)
        np.testing.assert_array_equal(views[index], alone)


def test_views_of_other_sizes_leave_the_first_two_as_they_are() -> None:
    images, ratios = batch()
    large = replace(NOTHING, crop_area=(0.5, 1.0))
    small = replace(NOTHING, crop_area=(0.1, 0.3), image_size=6, local=True)
    pair = make_views(jax.random.key(3), images, ratios, (large,) * 2, PREPROCESSING)
    views = make_views(jax.random.key(3), images, ratios, (large,) * 2 + (small,) * 2, PREPROCESSING)
    assert [view.shape[1:3] for view in views] == [(12, 12), (12, 12), (6, 6), (6, 6)]
    for view, expected in zip(views, pair, strict=False):
        np.testing.assert_array_equal(view, expected)
    assert jnp.abs(views[2] - views[3]).mean() > 0.1


def test_a_view_depends_on_its_image_and_position_only() -> None:
    images, ratios = batch()
    view = EVERYTHING
    before = make_view(jax.random.key(0), images, ratios, view, PREPROCESSING)
    order = jnp.array([7, 1, 0, 3, 5, 4, 6, 2])  # images 1, 3 and 6 keep their positions
    after = make_view(jax.random.key(0), images[order], ratios[order], view, PREPROCESSING)
    shorter = make_view(jax.random.key(0), images[:4], ratios[:4], view, PREPROCESSING)
    np.testing.assert_allclose(after[jnp.array([1, 3, 6])], before[jnp.array([1, 3, 6])], atol=1e-6)
    np.testing.assert_allclose(shorter, before[:4], atol=1e-6)
    same = jnp.broadcast_to(images[:1], images.shape)
    different = make_view(jax.random.key(0), same, jnp.ones(8), view, PREPROCESSING)
    assert len(np.unique(np.asarray(different).reshape(8, -1), axis=0)) == 8


def test_sharding_the_batch_changes_nothing() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharded, replicated = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
    images, ratios = batch()

    def draw(key: jax.Array, images: jax.Array, ratios: jax.Array) -> jax.Array:
        return make_view(key, images, ratios, EVERYTHING, PREPROCESSING)

    program = jax.jit(draw, in_shardings=(replicated, sharded, sharded), out_shardings=sharded)
    compiled = program.lower(jax.random.key(0), images, ratios).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    got = compiled(jax.random.key(0), jax.device_put(images, sharded), jax.device_put(ratios, sharded))
    np.testing.assert_allclose(got, draw(jax.random.key(0), images, ratios), atol=1e-6)


def over_a_mesh(view: View, size: int, data: int, fsdp: int = 1) -> np.ndarray:
    """One view of each image, drawn on data * fsdp devices."""
    devices = jax.devices()[: data * fsdp]
    mesh = jax.make_mesh((data, fsdp), ("data", "fsdp"), devices=devices, axis_types=(AxisType.Auto,) * 2)
    views = make_view(jax.random.key(0), *batch(size, 24), view, Preprocessing(16, mean=(0.4,), std=(0.3,)), mesh=mesh)
    assert len(views.sharding.device_set) == len(devices)
    return np.asarray(views)


@pytest.mark.usefixtures("usual_compilation")
@pytest.mark.slow
def test_views_are_the_same_bits_on_one_device_and_on_eight() -> None:
    # 3 images per device, although a chunk has 16.
    np.testing.assert_array_equal(over_a_mesh(EVERYTHING, 24, 4, 2), over_a_mesh(EVERYTHING, 24, 1))


@pytest.mark.usefixtures("usual_compilation")
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_the_same_bits_on_any_number_of_devices(name) -> None:
    for view in set(recipe(name)):
        view = replace(view, image_size=9) if view.local else view  # smaller than published: compiles faster
        for size in (8, 40, 136):  # on one device: 0.5, 2.5 and 8.5 chunks
            expected = over_a_mesh(view, size, 1)
            for data, fsdp in ((2, 1), (1, 4), (8, 1)):
                np.testing.assert_array_equal(over_a_mesh(view, size, data, fsdp), expected)
            without = make_view(jax.random.key(0), *batch(size, 24), view, Preprocessing(16, mean=(0.4,), std=(0.3,)))
            np.testing.assert_allclose(without, expected, atol=1e-5)


def test_devices_draw_only_their_images() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharded, replicated = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())

    def draw(key: jax.Array, images: jax.Array, ratios: jax.Array) -> jax.Array:
        return make_view(key, images, ratios, NOTHING, PREPROCESSING, mesh=mesh)

    program = jax.jit(draw, in_shardings=(replicated, sharded, sharded), out_shardings=sharded)
    text = program.lower(jax.random.key(0), *batch(16)).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text


def test_a_view_without_operations_returns_the_pixels() -> None:
    images, _ = batch()
    view = make_view(jax.random.key(0), images, jnp.ones(8), NOTHING, pixels(16))
    np.testing.assert_array_equal(view, images.astype(jnp.float32) / 255)


def fraction_changed(view: View, size: int = 600) -> float:
    """Fraction of the views that differ from the pixels of one random image."""
    images, _ = batch(1, canvas=6)
    images = jnp.broadcast_to(images, (size, 6, 6, 3))
    views = make_view(jax.random.key(0), images, jnp.ones(size), view, pixels(6))
    return float(jnp.mean(jnp.any(jnp.abs(views - images / 255) > 1e-4, axis=(1, 2, 3))))


@pytest.mark.parametrize(
    "name",
    ["flip", "blur", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jitter", "grayscale", "solarize"))],
)
def test_operations_have_the_requested_probability(name) -> None:
    view = replace(NOTHING, blur_sigma=(1.0, 2.0), **{f"{name}_probability": 0.3})
    assert abs(fraction_changed(view) - 0.3) < 0.06  # standard deviation 0.019


def primitives(view: View, channels: int = 3) -> str:
    images, ratios = batch(2, channels=channels)
    return str(jax.make_jaxpr(lambda key: make_view(key, images, ratios, view, pixels(8)))(jax.random.key(0)))


def test_operations_with_probability_zero_are_not_in_the_program() -> None:
    assert primitives(NOTHING).count("dot_general") == 2
    assert "scan[" not in primitives(NOTHING)
    assert primitives(View()).count("scan[") == 2
    assert primitives(View(hue=0.0)).count("scan[") == 1
    assert primitives(View(), channels=1).count("scan[") == 1
    assert primitives(View(blur_probability=0.5)).count("dot_general") == 5


def test_denormalize_inverts_normalize() -> None:
    images, _ = batch()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    pixels = images / 255
    views = normalize(pixels, mean, std)
    np.testing.assert_allclose(views, (np.asarray(pixels) - mean) / np.array(std), atol=1e-5)
    np.testing.assert_array_equal(denormalize(views, mean, std), images)
    np.testing.assert_array_equal(denormalize(normalize(pixels, (0.5,), (0.2,)), (0.5,), (0.2,)), images)
    assert denormalize(jnp.array([[-9.0, 9.0]]), (0.5,), (0.25,)).tolist() == [[0, 255]]


def test_central_view_of_images_that_are_not_stretched() -> None:
    """An image that was not stretched to a canvas gives its central square: the same pixels at the same size."""
    images = np.random.default_rng(0).integers(0, 256, (2, 10, 16, 3), np.uint8)
    view = central_view(images, np.full(2, 1.6, np.float32), pixels(10))
    np.testing.assert_allclose(view, images[:, :, 3:13] / 255, atol=1e-5)


def test_invalid_arrays_are_refused() -> None:
    images, ratios = batch()
    key, view = jax.random.key(0), View()
    with pytest.raises(TypeError, match=r"^images must have dtype uint8; got float32"):
        make_view(key, images / 255, ratios, view, pixels(8))
    with pytest.raises(
        ValueError, match=r"^images must have shape \[batch, height, width, channels\]; got shape \(16, 16, 3\)"
    ):
        make_view(key, images[0], ratios, view, pixels(8))
    with pytest.raises(ValueError, match=r"^aspect_ratio must have shape \(8,\), one per image; got \(4,\)"):
        make_view(key, images, ratios[:4], view, pixels(8))
    with pytest.raises(ValueError, match=r"^mean must have shape \(1,\) or \(3,\), one per channel; got shape \(2,\)"):
        make_view(key, images, ratios, view, Preprocessing(8, mean=(0.5, 0.5), std=(1.0,)))

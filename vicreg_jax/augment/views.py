"""Batches of random views for training and of central crops for evaluation."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from vicreg_jax.augment.blur import blur
from vicreg_jax.augment.color import JITTER_UNIFORMS, grayscale, jitter, random_jitter, solarize
from vicreg_jax.augment.crop import BOX_UNIFORMS, central_box, crop, random_box
from vicreg_jax.augment.preprocessing import Preprocessing
from vicreg_jax.augment.recipes import View


def normalize(images: ArrayLike, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Compute (images - mean) / std per channel.

    Args:
        images: [..., channels] in [0, 1].
        mean: One number, or one per channel.
        std: One number, or one per channel.

    Raises:
        ValueError: If `mean` or `std` does not fit the number of channels.

    Example:
        >>> normalize([[1.0, 0.5]], mean=(0.5,), std=(0.25,)).tolist()
        [[2.0, 0.0]]
    """
    images = _as_floating(images)
    return (images - _per_channel("mean", mean, images)) / _per_channel("std", std, images)


def denormalize(views: ArrayLike, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Invert `normalize`, then round and clip to uint8.

    Args:
        views: [..., channels], normalized.
        mean: See `normalize`.
        std: See `normalize`.

    Returns:
        uint8 [..., channels].
    """
    views = _as_floating(views)
    images = views * _per_channel("std", std, views) + _per_channel("mean", mean, views)
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)


@partial(jax.jit, static_argnames=("view", "preprocessing", "mesh"))
def make_view(
    key: jax.Array,
    images: jax.Array,
    aspect_ratio: jax.Array,
    view: View,
    preprocessing: Preprocessing,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Draw one random view of every image.

    The view of image i depends on its pixels, its aspect ratio and `fold_in(key, i)` only, where i is its position in
    the global batch: how the batch is sharded changes nothing.

    Args:
        key: PRNG key.
        images: uint8 [batch, canvas, canvas, channels], each stretched to the square canvas.
        aspect_ratio: float [batch], width / height of the original images.
        view: How to draw it.
        preprocessing: Size and normalization of the views.
        mesh: The batch is split over all devices of this mesh, and the views are the same bits on any number of
            devices. Without it, the compiler rounds differently for other shapes, in the last digits.

    Returns:
        float32 [batch, image_size, image_size, channels], normalized, with the view's size or else the preprocessing's.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If the shapes do not fit.
    """
    _check(images, aspect_ratio)
    image_size = view.image_size or preprocessing.image_size
    draw_one = partial(_random_view, view=view, image_size=image_size)

    def draw(key_data: jax.Array, positions: jax.Array, images: jax.Array, aspect_ratio: jax.Array) -> jax.Array:
        # The key travels as key data: a typed key cannot be handed to the devices of several processes.
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.wrap_key_data(key_data), positions)
        views = jax.vmap(draw_one)(keys, _channels_first(images), aspect_ratio)
        return normalize(_channels_last(views), preprocessing.mean, preprocessing.std)

    arguments = jnp.arange(len(images)), images, aspect_ratio.astype(jnp.float32)
    key_data = jax.random.key_data(key)
    if mesh is None:
        return draw(key_data, *arguments)
    rows = PartitionSpec(mesh.axis_names)
    in_chunks = partial(_in_chunks, draw, chunk_rows(mesh.devices.flat[0].platform, image_size))
    on_device = jax.shard_map(
        in_chunks, mesh=mesh, in_specs=(PartitionSpec(), *[rows] * 3), out_specs=rows, check_vma=False
    )
    return on_device(key_data, *arguments)


def chunk_rows(platform: str, image_size: int) -> int:
    """Images that are drawn at a time. A GPU takes microseconds for a kernel, however little it does: there, more."""
    if platform != "gpu":
        return 16
    return 256 if image_size <= 64 else 64


def _in_chunks(draw: Callable[..., jax.Array], chunk: int, key_data: jax.Array, *arguments: jax.Array) -> jax.Array:
    """Call `draw` on that many rows at a time, so that the program does not depend on how many this device has."""
    rows = len(arguments[0])
    chunks = -(-rows // chunk)

    def split(array: jax.Array) -> jax.Array:
        padding = [(0, chunks * chunk - rows)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding, mode="edge").reshape(chunks, chunk, *array.shape[1:])

    views = jax.lax.map(lambda some: draw(key_data, *some), tuple(map(split, arguments)))
    return views.reshape(chunks * chunk, *views.shape[2:])[:rows]


def make_views(
    key: jax.Array,
    images: jax.Array,
    aspect_ratio: jax.Array,
    views: Sequence[View],
    preprocessing: Preprocessing,
    *,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, ...]:
    """Draw several random views of every image: view number v is `make_view` with `fold_in(key, v)`.

    Args:
        key: See `make_view`.
        images: See `make_view`.
        aspect_ratio: See `make_view`.
        views: How to draw each view.
        preprocessing: See `make_view`.
        mesh: See `make_view`.

    Returns:
        One array of `make_view` for each entry of `views`.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If the shapes do not fit.

    Example:
        >>> from vicreg_jax.augment import Preprocessing, recipe
        >>> images, ratios = jnp.zeros((4, 32, 32, 3), jnp.uint8), jnp.ones(4)
        >>> preprocessing = Preprocessing(image_size=24, mean=(0.5,), std=(0.5,))
        >>> a, b = make_views(jax.random.key(0), images, ratios, recipe("vicreg"), preprocessing)
        >>> a.shape
        (4, 24, 24, 3)
    """
    return tuple(
        make_view(jax.random.fold_in(key, index), images, aspect_ratio, view, preprocessing, mesh=mesh)
        for index, view in enumerate(views)
    )


@partial(jax.jit, static_argnames="preprocessing")
def central_view(images: jax.Array, aspect_ratio: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Cut the central square out of every image, as evaluation sees it: bilinear, as torchvision's Resize.

    Args:
        images: See `make_view`.
        aspect_ratio: See `make_view`.
        preprocessing: Size and normalization; `central_fraction` is the side of the square as a fraction of the shorter
            side of the original image.

    Returns:
        float32 [batch, image_size, image_size, channels], normalized. With nothing to cut or scale (canvas equal to
        `image_size`, `central_fraction` 1, aspect ratio 1) exactly the normalized pixels.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If the shapes do not fit.
    """
    _check(images, aspect_ratio)

    def cut(image: jax.Array, ratio: jax.Array) -> jax.Array:
        box = central_box(ratio, preprocessing.central_fraction)
        return crop(image, box, image_size=preprocessing.image_size, interpolation="bilinear", read_outside=True)

    views = jax.vmap(cut)(_channels_first(images), aspect_ratio)
    return normalize(_channels_last(views), preprocessing.mean, preprocessing.std)


def _random_view(
    key: jax.Array, image: jax.Array, aspect_ratio: jax.Array, *, view: View, image_size: int
) -> jax.Array:
    """Draw one view [channels, image_size, image_size] in [0, 1] of one image [channels, canvas, canvas]."""
    # One call for all random numbers, with a fixed slice for each operation: a dozen calls of the generator would
    # dominate the compile time.
    uniforms = jax.random.uniform(key, (BOX_UNIFORMS + JITTER_UNIFORMS + 5,), jnp.float32)
    box_uniforms, jitter_uniforms, (flip, gray, blurred, sigma, solarized) = jnp.split(
        uniforms, [BOX_UNIFORMS, BOX_UNIFORMS + JITTER_UNIFORMS]
    )
    # Flipping with the crop is free, and no later operation depends on left and right.
    image = crop(
        image,
        random_box(box_uniforms, aspect_ratio, view.crop_area, view.crop_ratio),
        image_size=image_size,
        interpolation=view.interpolation,
        read_outside=False,
        flip=flip < view.flip_probability,
    )
    channels = image.shape[0]
    if view.jitter_probability > 0:
        image = jitter(image, random_jitter(jitter_uniforms, view, channels))
    if view.grayscale_probability > 0 and channels == 3:
        image = grayscale(image, gray < view.grayscale_probability)
    if view.blur_probability > 0:
        low, high = view.blur_sigma
        applied_sigma = jnp.where(blurred < view.blur_probability, low + sigma * (high - low), 0.0)
        image = blur(image, applied_sigma, max_sigma=high)
    if view.solarize_probability > 0:
        image = solarize(image, view.solarize_threshold, solarized < view.solarize_probability)
    return image


def _channels_first(images: jax.Array) -> jax.Array:
    return jnp.moveaxis(images, -1, 1)


def _channels_last(images: jax.Array) -> jax.Array:
    return jnp.moveaxis(images, 1, -1)


def _as_floating(images: ArrayLike) -> jax.Array:
    """In float32, or in float64 if the images are."""
    images = jnp.asarray(images)
    return images if images.dtype == jnp.float64 else images.astype(jnp.float32)


def _per_channel(name: str, values: Sequence[float], images: jax.Array) -> jax.Array:
    """The values as an array that broadcasts against the images."""
    array = jnp.atleast_1d(jnp.asarray(values, jnp.float32))
    channels = images.shape[-1]
    if array.shape not in ((1,), (channels,)):
        raise ValueError(f"{name} must have shape (1,) or ({channels},), one per channel; got shape {array.shape}")
    return array.astype(images.dtype).reshape(*[1] * (images.ndim - 1), -1)


def _check(images: jax.Array, aspect_ratio: jax.Array) -> None:
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must have dtype uint8; got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"images must have shape [batch, height, width, channels]; got shape {images.shape}")
    if aspect_ratio.shape != images.shape[:1]:
        raise ValueError(f"aspect_ratio must have shape {images.shape[:1]}, one per image; got {aspect_ratio.shape}")

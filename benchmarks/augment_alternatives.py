"""Alternative implementations of the operations, measured beside those in use."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.augment import View
from vicreg_jax.augment.blur import TRUNCATE
from vicreg_jax.augment.color import Jitter, adjust, shift_hue


def alternatives(view: View, image_size: int) -> dict[str, Callable[..., jax.Array]]:
    """Functions of one image, by "operation: implementation", with the arguments of the operation."""

    def crop_by_jax_image(image: jax.Array, box: jax.Array) -> jax.Array:
        canvas = image.shape[-1]
        scale = image_size / (box[2:] * canvas)
        method = {"bilinear": "linear", "bicubic": "cubic"}[view.interpolation]
        shape = (image.shape[0], image_size, image_size)
        resized = jax.image.scale_and_translate(
            image.astype(jnp.float32), shape, (1, 2), scale, -box[:2] * canvas * scale, method
        )
        return jnp.clip(resized / 255.0, 0.0, 1.0)

    def taps(sigma: jax.Array) -> jax.Array:
        radius = int(np.ceil(TRUNCATE * view.blur_sigma[1]))
        values = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
        return values / jnp.sum(values)

    def blur_by_shifted_sums(image: jax.Array, sigma: jax.Array) -> jax.Array:
        weights = taps(sigma)
        radius, size = len(weights) // 2, image.shape[-1]
        for axis in (1, 2):
            padding = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
            padded = jnp.pad(image, padding, mode="edge")
            image = sum(weights[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(weights)))
        return image

    def blur_by_convolution(image: jax.Array, sigma: jax.Array) -> jax.Array:
        weights = taps(sigma)
        radius = len(weights) // 2
        padded = jnp.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode="edge")[:, None]
        lines = jax.lax.conv_general_dilated(padded, weights[None, None, :, None], (1, 1), "VALID")
        return jax.lax.conv_general_dilated(lines, weights[None, None, None, :], (1, 1), "VALID")[:, 0]

    def jitter_by_switch(image: jax.Array, draw: Jitter) -> jax.Array:
        count = len(draw.operations)
        order, factors = draw.operations, draw.factors
        if draw.hue_shift is not None:
            order = jnp.insert(order, draw.hue_position, count)
            factors = jnp.insert(factors, draw.hue_position, 1.0)

        def change(operation: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
            return lambda image, factor: adjust(image, jnp.array([operation]), factor[None])

        branches = [change(operation) for operation in range(count)]
        if draw.hue_shift is not None:
            branches.append(lambda image, factor: shift_hue(image, draw.hue_shift))
        for i in range(len(branches)):
            image = jax.lax.switch(order[i], branches, image, factors[i])
        return image

    return {
        "crop: jax.image.scale_and_translate": crop_by_jax_image,
        "blur: shifted sums": blur_by_shifted_sums,
        "blur: convolution": blur_by_convolution,
        "jitter: lax.switch in rounds": jitter_by_switch,
    }

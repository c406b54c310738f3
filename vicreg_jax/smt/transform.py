"""The fitted transform and its features."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from vicreg_jax.smt.code import code_patches
from vicreg_jax.smt.images import BLOCK, as_images, check_chunk_size
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.patches import centered_patches
from vicreg_jax.smt.pooling import pool, pooling_matrix
from vicreg_jax.smt.whitening import whiten


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["whitening", "dictionary", "projection", "eigenvalues"],
    meta_fields=["options", "image_shape"],
)
@dataclass(frozen=True)
class SMT:
    """A fitted sparse manifold transform, a pytree.

    Attributes:
        whitening: float32 `[patch_dim, patch_dim]`, where `patch_dim = patch_size**2 * channels`.
        dictionary: whitened atoms of unit norm, float32 `[atoms, patch_dim]`.
        projection: P, the map from codes to patch embeddings, float32 `[embedding_dim, atoms]`.
        eigenvalues: eigenvalues of the rows of P, float32 `[embedding_dim]`.
        options: settings of the transform.
        image_shape: height, width and channels of its images.
    """

    whitening: jax.Array
    dictionary: jax.Array
    projection: jax.Array
    eigenvalues: jax.Array
    options: SMTOptions = field(metadata={"static": True})
    image_shape: tuple[int, int, int] = field(metadata={"static": True})


def transform(smt: SMT, images: ArrayLike, *, chunk_size: int = 256) -> jax.Array:
    """Computes the features of images.

    Args:
        smt: the fitted transform, see `fit`.
        images: `[n, height, width, channels]`, uint8, or float in [0, 1], in the shape that it was fitted to.
        chunk_size: images per chunk; the result does not depend on it.

    Returns:
        float32 `[n, pool_cells**2 * embedding_dim]`.

    Raises:
        TypeError: `images` have an unsupported dtype.
        ValueError: `images` have another shape, or `chunk_size` is below 1.
    """
    images = as_images(images)
    if images.shape[1:] != smt.image_shape:
        raise ValueError(
            f"images must have the shape of those that the transform was fitted to, {smt.image_shape}; "
            f"got shape {images.shape}"
        )
    check_chunk_size(chunk_size)
    chunk_size = BLOCK * -(-chunk_size // BLOCK)
    features = []
    for start in range(0, len(images), chunk_size):
        chunk = images[start : start + chunk_size]
        padding = -len(chunk) % BLOCK if start == 0 else chunk_size - len(chunk)
        padded = np.pad(chunk, [(0, padding), (0, 0), (0, 0), (0, 0)])
        features.append(image_features(smt, padded)[: len(chunk)])
    return jnp.concatenate(features)


@partial(jax.jit, static_argnames="sharding")
def image_features(smt: SMT, images: jax.Array, sharding: NamedSharding | None = None) -> jax.Array:
    """The features of one chunk, see `transform`.

    Args:
        smt: the fitted transform.
        images: `[n, height, width, channels]`, a multiple of `BLOCK` images on each device.
        sharding: sharding of the images; None: on one device.
    """
    return projected_features(smt, smt.projection[None], images, sharding)[:, 0]


def projected_features(
    smt: SMT, projections: jax.Array, images: jax.Array, sharding: NamedSharding | None
) -> jax.Array:
    """The features of one chunk under several projections of the same codes.

    Args:
        smt: the fitted transform; its projection is not used.
        projections: `[projections, dim, atoms]`.
        images: `[n, height, width, channels]`, a multiple of `BLOCK` images on each device.
        sharding: sharding of the images; None: on one device.

    Returns:
        float32 `[n, projections, pool_cells**2 * dim]`.
    """
    rows, columns = smt.options.patch_grid(smt.image_shape)
    options = smt.options
    over_rows, over_columns = (
        pooling_matrix(size, options.pool_window, options.pool_stride, options.pool_cells) for size in (rows, columns)
    )

    def block_features(arrays: tuple[SMT, jax.Array], images: jax.Array) -> jax.Array:
        smt, projections = arrays
        codes = block_codes(images, smt.whitening, smt.dictionary, options).astype(jnp.float32)
        # The projections are stacked into one matrix, since batched products are far slower on CPUs.
        stacked = projections.reshape(-1, projections.shape[2])
        embeddings = jnp.einsum("npa,ea->npe", codes, stacked, precision=jax.lax.Precision.HIGHEST)
        on_grid = embeddings.reshape(len(images), rows, columns, *projections.shape[:2])
        by_projection = jnp.moveaxis(on_grid, 3, 1).reshape(-1, rows, columns, projections.shape[1])
        return pool(by_projection, over_rows, over_columns).reshape(len(images), len(projections), -1)

    return in_blocks(block_features, (smt, projections), images, sharding)


def image_codes(
    images: jax.Array,
    whitening: jax.Array,
    dictionary: jax.Array,
    options: SMTOptions,
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """The codes of all patches of one chunk.

    Args:
        images: `[n, height, width, channels]`, a multiple of `BLOCK` images on each device.
        whitening: float32 `[patch_dim, patch_dim]`.
        dictionary: float32 `[atoms, patch_dim]`.
        options: settings of the transform.
        sharding: sharding of the images; None: on one device.

    Returns:
        bool `[n, patches, atoms]`.
    """

    def of_block(arrays: tuple[jax.Array, jax.Array], images: jax.Array) -> jax.Array:
        return block_codes(images, *arrays, options)

    return in_blocks(of_block, (whitening, dictionary), images, sharding)


def block_codes(images: jax.Array, whitening: jax.Array, dictionary: jax.Array, options: SMTOptions) -> jax.Array:
    """The codes of all patches of images `[n, height, width, channels]`: bool `[n, patches, atoms]`."""
    return code_patches(whiten(centered_patches(images, options.patch_size), whitening), dictionary, options)


def in_blocks(
    function: Callable[..., jax.Array], arrays: object, images: jax.Array, sharding: NamedSharding | None
) -> jax.Array:
    """Applies `function(arrays, images)` to blocks of `BLOCK` images, each on the device that holds it."""

    def on_device(arrays: object, images: jax.Array) -> jax.Array:
        blocks = images.reshape(-1, BLOCK, *images.shape[1:])
        results = jax.lax.map(lambda block: function(arrays, block), blocks)
        return results.reshape(-1, *results.shape[2:])

    if sharding is None:
        return on_device(arrays, images)
    replicated = jax.sharding.PartitionSpec()
    return jax.shard_map(
        on_device, mesh=sharding.mesh, in_specs=(replicated, sharding.spec), out_specs=sharding.spec, check_vma=False
    )(arrays, images)

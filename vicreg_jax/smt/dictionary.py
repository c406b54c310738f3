"""Dictionaries: random patches with a bound on their pairwise cosines, or k-means centers of patches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax.smt.code import code_patches
from vicreg_jax.smt.images import ImageStream
from vicreg_jax.smt.options import SMTOptions
from vicreg_jax.smt.patches import center
from vicreg_jax.smt.variants import image_variants
from vicreg_jax.smt.whitening import whiten

_KMEANS_PATCHES = 50  # patches per atom
_MAX_DRAWN = 64  # patches per atom, for a dictionary of dissimilar patches
_MIN_PILOT = 4096  # patches whose codes are checked before the second pass
_CODED_AT_ONCE = 4096
_MAX_OPENED_IMAGES = 8192
_BLOCK = 1024


def dissimilar_rows(rows: np.ndarray, max_cosine: float, kept_rows: np.ndarray | None = None) -> np.ndarray:
    """Greedily selects rows, in order, whose cosines with all rows selected before are at most `max_cosine`.

    The textbook form compares each row with the selected ones::

        for row in rows:
            if all(row @ other <= max_cosine for other in kept_rows):
                kept_rows.append(row)

    The same selection is made by blocks of rows, with matrix products.

    Args:
        rows: `[rows, dim]`, of unit norm.
        max_cosine: the largest cosine between two selected rows; 1 selects all rows.
        kept_rows: rows selected before, `[kept, dim]`, of unit norm.

    Returns:
        bool `[rows]`, True for selected rows.
    """
    kept = np.ones(len(rows), bool)
    if max_cosine >= 1:
        return kept
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        earlier = rows[:start][kept[:start]]
        if kept_rows is not None:
            earlier = np.concatenate([kept_rows, earlier])
        selected = ~np.any(block @ earlier.T > max_cosine, axis=1)
        similar = block @ block.T > max_cosine
        for i in range(len(block)):
            selected[i] &= not np.any(similar[i, :i] & selected[:i])
        kept[start : start + _BLOCK] = selected
    return kept


def cluster_centers(patches: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The normalized k-means centers of whitened patches.

    Args:
        patches: `[patches, dim]`, of unit norm.
        count: number of clusters.
        seed: seed of the initial centers and of the minibatches.

    Returns:
        float32 `[count, dim]`, of unit norm.
    """
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, init="random", n_init=1, batch_size=max(4096, 2 * count), random_state=seed)
    centers = means.fit(patches).cluster_centers_
    return (centers / np.linalg.norm(centers, axis=1, keepdims=True)).astype(np.float32)


def choose_dictionary(stream: ImageStream, options: SMTOptions, whitening: np.ndarray, key: jax.Array) -> np.ndarray:
    """Chooses the dictionary from the training images.

    Args:
        stream: the training images.
        options: settings of the transform.
        whitening: see `whitening_matrix`.
        key: random key of the patches that are drawn.

    Returns:
        float32 `[atoms, patch_dim]`, of unit norm.

    Raises:
        ValueError: there are too few different patches, or the codes allow no such transform, so that the second pass
            would be wasted. The message begins with the name of an option.
    """
    draw = partial(draw_patches, stream, options, whitening)
    dictionary_key, pilot_key = jax.random.split(key)
    if options.dictionary == "kmeans":
        patches = draw(dictionary_key, _KMEANS_PATCHES * options.atoms)
        distinct = len(np.unique(patches, axis=0))
        if distinct < options.atoms:
            raise ValueError(f"atoms must be at most {distinct}, the number of distinct patches; got {options.atoms}")
        seed = int(jax.random.bits(jax.random.fold_in(dictionary_key, 1))) >> 1
        dictionary = cluster_centers(patches, options.atoms, seed)
    else:
        dictionary = np.zeros((0, len(whitening)), np.float32)
        for number in range(_MAX_DRAWN // 2):
            patches = draw(jax.random.fold_in(dictionary_key, number), 2 * options.atoms)
            kept = patches[dissimilar_rows(patches, options.max_cosine, dictionary)]
            dictionary = np.concatenate([dictionary, kept])[: options.atoms]
            if len(dictionary) == options.atoms:
                break
        else:
            raise ValueError(
                f"atoms must be at most {len(dictionary)}, the patches among {_MAX_DRAWN * options.atoms} that have no "
                f"cosine above max_cosine={options.max_cosine}; got {options.atoms}"
            )
    pilot = draw(pilot_key, max(_MIN_PILOT, 4 * options.atoms))
    _check_codes(options, dictionary, pilot)
    return dictionary


def _check_codes(options: SMTOptions, dictionary: np.ndarray, pilot: np.ndarray) -> None:
    """Raises ValueError if the codes of some patches show that the second pass would fail."""
    # A random projection preserves ranks up to its width.
    min_rank = options.skip + options.embedding_dim
    projection = np.random.default_rng(0).normal(size=(options.atoms, min_rank))
    code = jax.jit(partial(code_patches, options=options))
    projected, active = [], np.zeros(options.atoms, bool)
    for start in range(0, len(pilot), _CODED_AT_ONCE):
        codes = np.asarray(code(pilot[start : start + _CODED_AT_ONCE], jnp.asarray(dictionary)))
        projected.append(codes @ projection)
        active |= np.any(codes, axis=0)
    if not np.any(active):
        raise ValueError(
            f"threshold must be smaller, for no atom is active on any of {len(pilot)} patches; got {options.threshold}"
        )
    # An atom that is inactive on these patches may still add to the rank.
    rank = np.linalg.matrix_rank(np.concatenate(projected)) + np.sum(~active)
    if rank < min_rank:
        raise ValueError(
            f"embedding_dim must be at most {max(rank - options.skip, 0)} with skip={options.skip}, for the codes of "
            f"{len(pilot)} patches have rank {rank}; got {options.embedding_dim}"
        )


def draw_patches(
    stream: ImageStream, options: SMTOptions, whitening: np.ndarray, key: jax.Array, count: int
) -> np.ndarray:
    """Draws random patches and whitens them: float32 `[<= count, patch_dim]`, of unit norm, without flat patches."""
    rows, columns = options.patch_grid(stream.image_shape)
    keys = jax.random.split(key, 4)
    # Reading an image is expensive, so several patches may come from one image.
    opened = min(count, _MAX_OPENED_IMAGES)
    images = stream.images(np.asarray(jax.random.randint(keys[0], (opened,), 0, stream.count)))
    which = np.arange(count) % opened
    variant, row, column = (
        np.asarray(jax.random.randint(subkey, (count,), 0, bound))
        for subkey, bound in zip(keys[1:], (options.variants, rows, columns), strict=True)
    )
    windows = np.lib.stride_tricks.sliding_window_view(images, (options.patch_size,) * 2, axis=(1, 2))
    patches = np.moveaxis(windows[which, row, column], 1, -1)
    found = _whitened_patches(patches, variant, whitening, options)
    return np.asarray(found)[np.any(found != 0, axis=1)]


@partial(jax.jit, static_argnames="options")
def _whitened_patches(patches: jax.Array, variant: jax.Array, whitening: jax.Array, options: SMTOptions) -> jax.Array:
    """Whitens patches of pixels `[n, patch_size, patch_size, channels]`, each in the variant of that index."""
    in_variants = image_variants(patches, options)
    chosen = jnp.take_along_axis(in_variants, variant[:, None, None, None, None], axis=1)[:, 0]
    return whiten(center(chosen.reshape(len(chosen), -1, chosen.shape[-1])), whitening)

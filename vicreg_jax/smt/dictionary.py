"""Dictionaries: patches drawn at random, none too like another, or the centers of their clusters."""

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

_CLUSTERED_PER_ATOM = 50  # patches that k-means sees
_DRAWS = 64  # times as many patches as atoms that are drawn at most, for a dictionary of unlike ones
_PILOT = 4096  # patches at least, whose codes are looked at before the second pass
_CODED_AT_A_TIME = 4096
_OPENED_IMAGES = 8192
_BLOCK = 1024


def unlike_rows(rows: np.ndarray, max_cosine: float, before: np.ndarray | None = None) -> np.ndarray:
    """Which rows are kept, one after the other, when each has to be unlike all that were kept before it.

    Args:
      rows: at unit length, `[rows, dim]`.
      max_cosine: a row with a larger cosine to one that was kept is not; 1: all are.
      before: rows that were kept already, `[before, dim]`.

    Returns:
      bool `[rows]`.
    """
    kept = np.ones(len(rows), bool)
    if max_cosine >= 1:
        return kept
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        earlier = rows[:start][kept[:start]]
        if before is not None:
            earlier = np.concatenate([before, earlier])
        fine = ~np.any(block @ earlier.T > max_cosine, axis=1)
        alike = block @ block.T > max_cosine
        for i in range(len(block)):
            fine[i] &= not np.any(alike[i, :i] & fine[:i])
        kept[start : start + _BLOCK] = fine
    return kept


def cluster_centers(patches: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The directions of k-means centers of whitened patches.

    Args:
      patches: at unit length, `[patches, dim]`.
      count: of the clusters.
      seed: of the centers that it begins with, and of the batches.

    Returns:
      float32 `[count, dim]`, at unit length.
    """
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, init="random", n_init=1, batch_size=max(4096, 2 * count), random_state=seed)
    centers = means.fit(patches).cluster_centers_
    return (centers / np.linalg.norm(centers, axis=1, keepdims=True)).astype(np.float32)


def choose_dictionary(stream: ImageStream, options: SMTOptions, whitening: np.ndarray, key: jax.Array) -> np.ndarray:
    """The dictionary of a fit, once the whitening is known.

    Args:
      stream: of the training images.
      options: of the fit.
      whitening: see `whitening_matrix`.
      key: of the patches that are drawn.

    Returns:
      float32 `[atoms, patch_dim]`, at unit length.

    Raises:
      ValueError: too few different patches, or codes that the second pass would be wasted on; it begins with the name
        of an option.
    """
    draw = partial(draw_patches, stream, options, whitening)
    dictionary_key, pilot_key = jax.random.split(key)
    if options.dictionary == "kmeans":
        patches = draw(dictionary_key, _CLUSTERED_PER_ATOM * options.atoms)
        distinct = len(np.unique(patches, axis=0))
        if distinct < options.atoms:
            raise ValueError(f"atoms: got {options.atoms}, takes at most {distinct}, the different patches drawn")
        seed = int(jax.random.bits(jax.random.fold_in(dictionary_key, 1))) >> 1
        dictionary = cluster_centers(patches, options.atoms, seed)
    else:
        dictionary = np.zeros((0, len(whitening)), np.float32)
        for number in range(_DRAWS // 2):
            patches = draw(jax.random.fold_in(dictionary_key, number), 2 * options.atoms)
            kept = patches[unlike_rows(patches, options.max_cosine, dictionary)]
            dictionary = np.concatenate([dictionary, kept])[: options.atoms]
            if len(dictionary) == options.atoms:
                break
        else:
            raise ValueError(
                f"atoms: got {options.atoms}, takes at most {len(dictionary)}: so many of {_DRAWS * options.atoms} "
                f"patches drawn have no cosine above max_cosine={options.max_cosine}"
            )
    pilot = draw(pilot_key, max(_PILOT, 4 * options.atoms))
    _check_codes(options, dictionary, pilot)
    return dictionary


def _check_codes(options: SMTOptions, dictionary: np.ndarray, pilot: np.ndarray) -> None:
    """Looks at the codes of some patches before all of them are counted."""
    # A random projection keeps a rank up to its own width.
    wanted = options.skip + options.embedding_dim
    projection = np.random.default_rng(0).normal(size=(options.atoms, wanted))
    code = jax.jit(partial(code_patches, options=options))
    projected, active = [], np.zeros(options.atoms, bool)
    for start in range(0, len(pilot), _CODED_AT_A_TIME):
        codes = np.asarray(code(pilot[start : start + _CODED_AT_A_TIME], jnp.asarray(dictionary)))
        projected.append(codes @ projection)
        active |= np.any(codes, axis=0)
    if not np.any(active):
        raise ValueError(
            f"threshold: got {options.threshold}, takes a smaller one: no atom is active on any of {len(pilot)} patches"
        )
    # An atom that none of these is like may still add to the rank.
    rank = np.linalg.matrix_rank(np.concatenate(projected)) + np.sum(~active)
    if rank < wanted:
        raise ValueError(
            f"embedding_dim: got {options.embedding_dim} after the first skip={options.skip}, takes at most "
            f"{max(rank - options.skip, 0)}: the codes of {len(pilot)} patches have rank {rank}"
        )


def draw_patches(
    stream: ImageStream, options: SMTOptions, whitening: np.ndarray, key: jax.Array, count: int
) -> np.ndarray:
    """Random patches, whitened, at unit length: float32 `[at most count, patch_dim]`; flat ones are left out."""
    rows, columns = options.patch_grid(stream.image_shape)
    keys = jax.random.split(key, 4)
    # Some images are drawn from more than once: to read an image costs more than a patch is worth.
    opened = min(count, _OPENED_IMAGES)
    images = stream.images(np.asarray(jax.random.randint(keys[0], (opened,), 0, stream.count)))
    which = np.arange(count) % opened
    variant, row, column = (
        np.asarray(jax.random.randint(k, (count,), 0, most))
        for k, most in zip(keys[1:], (options.variants, rows, columns), strict=True)
    )
    windows = np.lib.stride_tricks.sliding_window_view(images, (options.patch_size,) * 2, axis=(1, 2))
    patches = np.moveaxis(windows[which, row, column], 1, -1)
    found = _whitened_patches(patches, variant, whitening, options)
    return np.asarray(found)[np.any(found != 0, axis=1)]


@partial(jax.jit, static_argnames="options")
def _whitened_patches(patches: jax.Array, variant: jax.Array, whitening: jax.Array, options: SMTOptions) -> jax.Array:
    """Patches `[n, patch_size, patch_size, channels]` of pixels, each in one variant, centered and whitened."""
    in_variants = image_variants(patches, options)
    chosen = jnp.take_along_axis(in_variants, variant[:, None, None, None, None], axis=1)[:, 0]
    return whiten(center(chosen.reshape(len(chosen), -1, chosen.shape[-1])), whitening)

"""Fitting: two passes over the images, a dictionary between them, an eigenproblem at the end."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from vicreg_jax.smt.counts import Counts, integer_product
from vicreg_jax.smt.dictionary import choose_dictionary
from vicreg_jax.smt.images import ArrayStream, ImageStream, as_images, check_chunk_size
from vicreg_jax.smt.options import SMTOptions, make_options
from vicreg_jax.smt.patches import extract_patches
from vicreg_jax.smt.spectral import iterative_spectral_embedding, spectral_embedding
from vicreg_jax.smt.statistics import patch_statistics
from vicreg_jax.smt.transform import SMT, image_codes
from vicreg_jax.smt.variants import image_variants
from vicreg_jax.smt.whitening import whitening_matrix

Tree = TypeVar("Tree")

EXACT_ATOMS = 8192  # up to here all eigenvalues are computed
_NOTHING = 1e-10  # a second moment that is rounding
_PIXEL_ORIGIN = 128  # taken from a pixel, whose square is then smallest


class FitState(NamedTuple):
    """How far a fit is; all of it, so that a fit goes on from it as if it had not stopped.

    Attributes:
      step: chunks seen, in both passes together.
      moment: of patches less 128, as integers `[patch_dim, patch_dim]`: the first pass.
      whitening, dictionary: zeros until the first pass is over.
      variance, difference: V and L, counted so far: the second pass.
      projection, eigenvalues: zeros until the end.
    """

    step: jax.Array
    moment: Counts
    whitening: jax.Array
    dictionary: jax.Array
    variance: Counts
    difference: Counts
    projection: jax.Array
    eigenvalues: jax.Array


def initial_state(options: SMTOptions, image_shape: tuple[int, int, int]) -> FitState:
    """Nothing seen yet."""
    patch_dim, atoms, dim = options.patch_size**2 * image_shape[2], options.atoms, options.embedding_dim
    return FitState(
        step=jnp.zeros((), jnp.int32),
        moment=Counts.zeros((patch_dim, patch_dim)),
        whitening=jnp.zeros((patch_dim, patch_dim)),
        dictionary=jnp.zeros((atoms, patch_dim)),
        variance=Counts.zeros((atoms, atoms)),
        difference=Counts.zeros((atoms, atoms)),
        projection=jnp.zeros((dim, atoms)),
        eigenvalues=jnp.zeros((dim,)),
    )


def fit(images: ArrayLike, *, key: jax.Array, chunk_size: int = 64, **options: Any) -> SMT:
    """Fits the transform to images, without labels.

    Args:
      images: `[n, height, width, channels]`, uint8, or float in [0, 1].
      key: of the dictionary.
      chunk_size: images on their way at a time; the result does not depend on it.
      **options: the fields of `SMTOptions`: patch_size, atoms, threshold, embedding_dim, skip and others.

    Returns:
      The transform; see `transform`.

    Raises:
      TypeError, ValueError: images or an option that cannot be used, mostly before the first pass.

    Source: as `patch_statistics`.
    """
    array = as_images(images)
    chosen = make_options(options)
    check_chunk_size(chunk_size)
    stream = ArrayStream(array, chunk_size)
    state = initial_state(chosen, stream.image_shape)
    for reached, _ in fit_steps(stream, chosen, key, state):
        state = reached
    return fitted(state, chosen, stream.image_shape)


def fitted(state: FitState, options: SMTOptions, image_shape: tuple[int, int, int]) -> SMT:
    """The transform of a fit that is over."""
    return SMT(state.whitening, state.dictionary, state.projection, state.eigenvalues, options, image_shape)


def fit_steps(
    stream: ImageStream,
    options: SMTOptions,
    key: jax.Array,
    state: FitState,
    shardings: FitState | None = None,
) -> Iterator[tuple[FitState, dict[str, jax.Array]]]:
    """Goes on with a fit, chunk by chunk, to its end.

    Args:
      stream: the images.
      options: the settings.
      key: of the dictionary.
      state: where to go on; its arrays are donated to the next step when that is asked for.
      shardings: where the state's arrays live; None: on one device.

    Yields:
      The state after each chunk, the last one with the projection, and what was counted in the chunk: `patches`; in
      the second pass also how many of them are `empty`, active on no atom, and `active`, the ones in all codes.

    Raises:
      ValueError: images that the settings do not fit, or of which nothing can be made; it begins with a field's name.
    """
    options.check_images(stream.image_shape, stream.count)
    options.check_chunk(stream.image_shape, stream.chunk_size)
    chunks = chunks_of(stream)
    step = int(state.step)
    mesh = None if stream.sharding is None else stream.sharding.mesh
    static = {"options": options, "sharding": stream.sharding, "shardings": shardings}
    if step < chunks:
        for images, mask in stream.chunks(step):
            state, counted = _add_moment(state, images, mask, **static)
            step += 1
            if step == chunks:
                moment = second_moment(whole(state.moment, mesh).numpy(), options, stream)
                whitening = whitening_matrix(moment, options.whitening_ridge)
                dictionary = choose_dictionary(stream, options, whitening, key)
                state = _with(state, shardings, whitening=whitening, dictionary=dictionary)
            yield state, counted
    for images, mask in stream.chunks(step - chunks):
        state, counted = _add_statistics(state, images, mask, **static)
        step += 1
        if step == 2 * chunks:
            V, L = (whole(counts, mesh).numpy() for counts in (state.variance, state.difference))
            projection, eigenvalues = solve(V, L, options)
            state = _with(state, shardings, projection=projection, eigenvalues=eigenvalues)
        yield state, counted


def chunks_of(stream: ImageStream) -> int:
    """How many chunks a pass has."""
    return -(-stream.count // stream.chunk_size)


@partial(jax.jit, static_argnames=("options", "sharding", "shardings"), donate_argnames="state")
def _add_moment(
    state: FitState,
    images: jax.Array,
    mask: jax.Array,
    *,
    options: SMTOptions,
    sharding: NamedSharding | None,
    shardings: FitState | None,
) -> tuple[FitState, dict[str, jax.Array]]:
    # Integers, so that the sum does not depend on how the images are parted. Floats are rounded to gray levels: what
    # that adds to the moment, 1e-6, is nothing beside the ridge.
    images, mask = _all_variants(images, mask, options)
    pixels = images if images.dtype == jnp.uint8 else jnp.round(255 * images)
    pixels = (pixels.astype(jnp.int32) - _PIXEL_ORIGIN) * mask[:, None, None, None]

    def add(moment: Counts, image: jax.Array) -> tuple[Counts, None]:
        patches = extract_patches(image[None], options.patch_size)
        rows = patches.reshape(-1, len(moment.low))
        return moment.add(integer_product(rows, rows, _PIXEL_ORIGIN, _PIXEL_ORIGIN)), None

    moment, _ = jax.lax.scan(add, state.moment, pixels)
    counted = {"patches": jnp.sum(mask) * math.prod(options.patch_grid(images.shape[1:]))}
    return _constrained(state._replace(step=state.step + 1, moment=moment), shardings), counted


@partial(jax.jit, static_argnames=("options", "sharding", "shardings"), donate_argnames="state")
def _add_statistics(
    state: FitState,
    images: jax.Array,
    mask: jax.Array,
    *,
    options: SMTOptions,
    sharding: NamedSharding | None,
    shardings: FitState | None,
) -> tuple[FitState, dict[str, jax.Array]]:
    images, mask = _all_variants(images, mask, options)
    # What only fills up the chunk is black, and a flat patch has no code.
    images = jnp.where(mask[:, None, None, None], images, 0)
    codes = image_codes(images, state.whitening, state.dictionary, options, sharding)
    grid = options.patch_grid(images.shape[1:])
    V, L = patch_statistics(codes, context=options.context, grid=grid)
    real = jnp.sum(mask) * codes.shape[1]
    counted = {
        "patches": real,
        "empty": real - jnp.sum(jnp.any(codes, axis=2)),
        "active": jnp.sum(jnp.diag(V).astype(jnp.float32)),
    }
    state = state._replace(step=state.step + 1, variance=state.variance.add(V), difference=state.difference.add(L))
    return _constrained(state, shardings), counted


def _all_variants(images: jax.Array, mask: jax.Array, options: SMTOptions) -> tuple[jax.Array, jax.Array]:
    variants = image_variants(images, options)
    return variants.reshape(-1, *images.shape[1:]), jnp.repeat(mask, options.variants)


def _constrained(state: FitState, shardings: FitState | None) -> FitState:
    return state if shardings is None else jax.lax.with_sharding_constraint(state, shardings)


def _with(state: FitState, shardings: FitState | None, **arrays: np.ndarray) -> FitState:
    """The state with some of its arrays replaced by others, which are on the host."""
    placed: dict[str, Any] = {}
    for name, array in arrays.items():
        if shardings is None:
            placed[name] = jnp.asarray(array)
        else:
            placed[name] = jax.make_array_from_callback(array.shape, getattr(shardings, name), array.__getitem__)
    return state._replace(**placed)


def whole(tree: Tree, mesh: Mesh | AbstractMesh | None) -> Tree:
    """Arrays of the state, all of each on every device of the mesh, so that every process can read them."""
    if mesh is None:
        return tree
    return jax.jit(lambda arrays: arrays, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)


def second_moment(counted: np.ndarray, options: SMTOptions, stream: ImageStream) -> np.ndarray:
    """Of the patches of pixels in [0, 1], each less its mean in each channel: float64 `[patch_dim, patch_dim]`.

    Args:
      counted: the first pass's integers.
      options: of the fit.
      stream: of the images they were counted of.

    Raises:
      ValueError: all images are constant.
    """
    channels = stream.image_shape[2]
    pixels = options.patch_size**2
    patches = stream.count * options.variants * math.prod(options.patch_grid(stream.image_shape))
    # To take a patch's mean is linear, so it can be taken from the sum of all products.
    center = np.kron(np.eye(pixels) - 1 / pixels, np.eye(channels))
    moment = center @ counted @ center / (255**2 * patches)
    if np.trace(moment) < _NOTHING:
        raise ValueError("images: all are constant, takes images with something in them")
    return moment


def solve(V: np.ndarray, L: np.ndarray, options: SMTOptions) -> tuple[np.ndarray, np.ndarray]:
    """The projection and its eigenvalues, in float64 from the second pass's integers."""
    V, L = V.astype(np.float64), L.astype(np.float64)
    arguments = {"dim": options.embedding_dim, "skip": options.skip, "ridge": options.ridge * np.trace(V) / len(V)}
    try:
        if options.atoms > EXACT_ATOMS:
            P = iterative_spectral_embedding(V, L, **arguments)
        else:
            with jax.enable_x64(True):
                P = np.asarray(spectral_embedding(V, L, **arguments))
    except ValueError as error:
        raise ValueError(f"embedding_dim: {error}") from error
    return P.astype(np.float32), np.einsum("da,ab,db->d", P, L, P, optimize=True).astype(np.float32)

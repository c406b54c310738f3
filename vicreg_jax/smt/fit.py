"""Fitting the transform: two passes over the images, a dictionary between them, an eigenproblem at the end."""

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
Chunk = tuple[Any, Any]
Metrics = dict[str, jax.Array]

MAX_EXACT_ATOMS = 8192  # with more atoms, only the smallest eigenvalues are computed
_MIN_SECOND_MOMENT = 1e-10  # anything below is rounding
_PIXEL_ORIGIN = 128  # subtracted from uint8 pixels, so that their products are smallest


class FitState(NamedTuple):
    """The state of a fit: everything that a resumed fit needs to give the same result, bit for bit.

    Attributes:
        step: chunks seen, in both passes together.
        moment: sum of outer products of the patches, pixels shifted by -128, integers `[patch_dim, patch_dim]`;
            the first pass accumulates it.
        whitening: float32 `[patch_dim, patch_dim]`; zeros until the end of the first pass.
        dictionary: float32 `[atoms, patch_dim]`; zeros until the end of the first pass.
        variance: V of `patch_statistics` so far, integers `[atoms, atoms]`; the second pass accumulates it.
        difference: L of `patch_statistics` so far, integers `[atoms, atoms]`; the second pass accumulates it.
        projection: float32 `[embedding_dim, atoms]`; zeros until the end of the second pass.
        eigenvalues: float32 `[embedding_dim]`; zeros until the end of the second pass.
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
    """The state before the first chunk."""
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
        key: random key for the patches that become the dictionary.
        chunk_size: images per step; the result does not depend on it.
        **options: fields of `SMTOptions`, such as patch_size, atoms, threshold, embedding_dim and skip.

    Returns:
        The fitted transform; pass it to `transform`.

    Raises:
        TypeError: `images` have an unsupported dtype.
        ValueError: `images` or an option cannot be used. Most such errors come before the first pass.

    Source: Chen et al., Minimalistic unsupervised representation learning with the sparse manifold transform
        (ICLR 2023, arXiv 2209.15261).
    """
    array = as_images(images)
    chosen = make_options(options)
    check_chunk_size(chunk_size)
    stream = ArrayStream(array, chunk_size)
    step = FitStep(stream, chosen, key)
    state = initial_state(chosen, stream.image_shape)
    for chunk in remaining_chunks(stream):
        state, _ = step(state, chunk)
    return fitted(state, chosen, stream.image_shape)


def fitted(state: FitState, options: SMTOptions, image_shape: tuple[int, int, int]) -> SMT:
    """The transform from the final state of a fit."""
    return SMT(state.whitening, state.dictionary, state.projection, state.eigenvalues, options, image_shape)


class FitStep:
    """The step of a fit, `step(state, chunk) -> (state, metrics)`, one chunk of images at a time.

    The first pass sums the patches' second moment; at its last chunk the host chooses the whitening and the
    dictionary. The second pass sums V and L of the patches' codes; at its last chunk the host solves the eigenproblem.
    The object counts its steps on the host, so that no step waits for the device; `remaining_chunks` gives the chunks
    in the matching order.

    Args:
        stream: the training images.
        options: settings of the transform.
        key: random key for the patches that become the dictionary.
        start_step: chunks that the first state has already seen.
        shardings: shardings of the state's arrays; None: on one device.

    Raises:
        ValueError: `options` do not fit the stream. A step raises it where the images do not allow such a transform;
            its message begins with the name of the option, or with `images`.
    """

    def __init__(
        self,
        stream: ImageStream,
        options: SMTOptions,
        key: jax.Array,
        *,
        start_step: int = 0,
        shardings: FitState | None = None,
    ) -> None:
        options.check_images(stream.image_shape, stream.count)
        options.check_chunk(stream.image_shape, stream.chunk_size)
        self._stream, self._options, self._key, self._shardings = stream, options, key, shardings
        self._step = start_step
        self._chunks = chunks_of(stream)
        self._mesh = None if stream.sharding is None else stream.sharding.mesh

    def __call__(self, state: FitState, chunk: Chunk) -> tuple[FitState, Metrics]:
        """Adds a chunk to the state.

        Args:
            state: the state after the chunks before; its arrays are donated.
            chunk: images `[chunk_size, height, width, channels]` and a mask `[chunk_size]`, False for padding.

        Returns:
            The state with the chunk added, after the last chunk with the projection; and metrics, scalars on the
            device: `patches`, how many were seen; in the second pass also `active_atoms`, atoms per patch, and
            `empty_patches`, the fraction of patches without an active atom.
        """
        images, mask = chunk
        self._step += 1
        if self._step <= self._chunks:
            state, metrics = _add_moment(state, images, mask, options=self._options, shardings=self._shardings)
            if self._step == self._chunks:
                state = self._with_dictionary(state)
        else:
            state, metrics = _add_statistics(
                state, images, mask, options=self._options, sharding=self._stream.sharding, shardings=self._shardings
            )
            if self._step == 2 * self._chunks:
                state = self._with_projection(state)
        return state, metrics

    def _with_dictionary(self, state: FitState) -> FitState:
        moment = second_moment(whole(state.moment, self._mesh).numpy(), self._options, self._stream)
        whitening = whitening_matrix(moment, self._options.whitening_ridge)
        dictionary = choose_dictionary(self._stream, self._options, whitening, self._key)
        return _with(state, self._shardings, whitening=whitening, dictionary=dictionary)

    def _with_projection(self, state: FitState) -> FitState:
        V, L = (whole(counts, self._mesh).numpy() for counts in (state.variance, state.difference))
        projection, eigenvalues = solve(V, L, self._options)
        return _with(state, self._shardings, projection=projection, eigenvalues=eigenvalues)


def remaining_chunks(stream: ImageStream, start_step: int = 0) -> Iterator[Chunk]:
    """The chunks of both passes from step `start_step` on, as `(images, mask)`; see `FitStep`."""
    chunks = chunks_of(stream)
    if start_step < chunks:
        yield from stream.chunks(start_step)
    yield from stream.chunks(max(start_step - chunks, 0))


def chunks_of(stream: ImageStream) -> int:
    """The number of chunks per pass."""
    return -(-stream.count // stream.chunk_size)


@partial(jax.jit, static_argnames=("options", "shardings"), donate_argnames="state")
def _add_moment(
    state: FitState, images: jax.Array, mask: jax.Array, *, options: SMTOptions, shardings: FitState | None
) -> tuple[FitState, Metrics]:
    # Integers make the sum independent of the chunks. Floats are rounded to the 256 gray levels: the rounding's
    # second moment, 1e-6, is negligible beside the ridge.
    images, mask = _all_variants(images, mask, options)
    pixels = images if images.dtype == jnp.uint8 else jnp.round(255 * images)
    pixels = jnp.where(mask[:, None, None, None], pixels.astype(jnp.int32) - _PIXEL_ORIGIN, 0)

    def add(moment: Counts, image: jax.Array) -> tuple[Counts, None]:
        patches = extract_patches(image[None], options.patch_size)
        rows = patches.reshape(-1, len(moment.low))
        return moment.add(integer_product(rows, rows, _PIXEL_ORIGIN, _PIXEL_ORIGIN)), None

    moment, _ = jax.lax.scan(add, state.moment, pixels)
    metrics = {"patches": jnp.sum(mask) * math.prod(options.patch_grid(images.shape[1:]))}
    return _constrained(state._replace(step=state.step + 1, moment=moment), shardings), metrics


@partial(jax.jit, static_argnames=("options", "sharding", "shardings"), donate_argnames="state")
def _add_statistics(
    state: FitState,
    images: jax.Array,
    mask: jax.Array,
    *,
    options: SMTOptions,
    sharding: NamedSharding | None,
    shardings: FitState | None,
) -> tuple[FitState, Metrics]:
    images, mask = _all_variants(images, mask, options)
    # Padding becomes black images, whose flat patches have no code.
    images = jnp.where(mask[:, None, None, None], images, 0)
    codes = image_codes(images, state.whitening, state.dictionary, options, sharding)
    grid = options.patch_grid(images.shape[1:])
    V, L = patch_statistics(codes, context=options.context, grid=grid)
    patches = jnp.sum(mask) * codes.shape[1]
    active = jnp.sum(jnp.diag(V).astype(jnp.float32))
    empty = patches - jnp.sum(jnp.any(codes, axis=2))
    metrics = {
        "patches": patches,
        "active_atoms": active / patches.astype(jnp.float32),
        "empty_patches": empty / patches,
    }
    state = state._replace(step=state.step + 1, variance=state.variance.add(V), difference=state.difference.add(L))
    return _constrained(state, shardings), metrics


def _all_variants(images: jax.Array, mask: jax.Array, options: SMTOptions) -> tuple[jax.Array, jax.Array]:
    variants = image_variants(images, options)
    return variants.reshape(-1, *images.shape[1:]), jnp.repeat(mask, options.variants)


def _constrained(state: FitState, shardings: FitState | None) -> FitState:
    return state if shardings is None else jax.lax.with_sharding_constraint(state, shardings)


def _with(state: FitState, shardings: FitState | None, **arrays: np.ndarray) -> FitState:
    """The state with some arrays replaced by arrays from the host."""
    placed: dict[str, Any] = {}
    for name, array in arrays.items():
        if shardings is None:
            placed[name] = jnp.asarray(array)
        else:
            placed[name] = jax.make_array_from_callback(array.shape, getattr(shardings, name), array.__getitem__)
    return state._replace(**placed)


def whole(tree: Tree, mesh: Mesh | AbstractMesh | None) -> Tree:
    """Arrays of the state, replicated over the mesh, so that every process can read them."""
    if mesh is None:
        return tree
    return jax.jit(lambda arrays: arrays, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)


def second_moment(counted: np.ndarray, options: SMTOptions, stream: ImageStream) -> np.ndarray:
    r"""The second moment of centered patches, from the integer sums of the first pass.

    .. math:: C = \frac{1}{n} \sum_i (M x_i)(M x_i)^\top = \frac{1}{n} M \Big( \sum_i x_i x_i^\top \Big) M

    where :math:`M` subtracts a patch's mean in each channel. Centering is linear, so it applies to the sum of all
    outer products, and the shift of the pixels by 128 drops out.

    Args:
        counted: the sum of outer products of the first pass, `[patch_dim, patch_dim]`.
        options: settings of the transform.
        stream: the images that were summed.

    Returns:
        float64 `[patch_dim, patch_dim]`, for pixels in [0, 1]; mean over patches.

    Raises:
        ValueError: all patches are constant.
    """
    channels = stream.image_shape[2]
    pixels = options.patch_size**2
    patches = stream.count * options.variants * math.prod(options.patch_grid(stream.image_shape))
    center = np.kron(np.eye(pixels) - 1 / pixels, np.eye(channels))
    moment = center @ counted @ center / (255**2 * patches)
    if np.trace(moment) < _MIN_SECOND_MOMENT:
        raise ValueError("images must have patches that are not constant; got only constant ones")
    return moment


def solve(V: np.ndarray, L: np.ndarray, options: SMTOptions) -> tuple[np.ndarray, np.ndarray]:
    """Solves the eigenproblem in float64, from the integer sums of the second pass.

    Args:
        V: `[atoms, atoms]`, see `patch_statistics`.
        L: `[atoms, atoms]`, see `patch_statistics`.
        options: settings of the transform.

    Returns:
        The projection, float32 `[embedding_dim, atoms]`, and its eigenvalues, float32 `[embedding_dim]`.

    Raises:
        ValueError: V has too low a rank for `embedding_dim`, or is too close to singular for `ridge`.
    """
    V, L = V.astype(np.float64), L.astype(np.float64)
    arguments = {"dim": options.embedding_dim, "skip": options.skip, "ridge": options.ridge * np.trace(V) / len(V)}
    try:
        if options.atoms > MAX_EXACT_ATOMS:
            P = iterative_spectral_embedding(V, L, **arguments)
        else:
            with jax.enable_x64(True):
                P = np.asarray(spectral_embedding(V, L, **arguments))
    except ValueError as error:
        raise ValueError(str(error).replace("dim ", "embedding_dim ", 1)) from error
    return P.astype(np.float32), np.einsum("da,ab,db->d", P, L, P, optimize=True).astype(np.float32)

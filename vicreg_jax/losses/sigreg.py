"""SIGReg, the regularizer of LeJEPA: a normality test of random slices (Balestriero, LeCun, arXiv 2511.08544)."""

import math
from collections.abc import Callable, Hashable
from functools import partial
from numbers import Integral, Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from vicreg_jax.losses.arguments import as_batch, check_global_batch
from vicreg_jax.losses.global_batch import GlobalBatch
from vicreg_jax.losses.gram import einsum
from vicreg_jax.losses.slices import random_directions

BLOCK = 2**18  # entries of a block of slices, which fits in the cache
MIN_SLICES = 128  # of a block: an efficient product, and few blocks, which a sharded `jit` sums over devices one by one


class Knots(NamedTuple):
    """The points t at which the characteristic functions are compared; hashable, because it is static.

    Attributes:
        number: K, odd, from 0 to `t_max`.
        t_max: the largest.
    """

    number: int
    t_max: float

    @property
    def step(self) -> float:
        """The distance of two neighbors."""
        return self.t_max / (self.number - 1)

    def arrays(self, like: Array) -> tuple[Array, Array, Array]:
        """Return t, the normal's characteristic function and the weights there, `[K - 1, 1]` each, without t = 0.

        At 0 both characteristic functions are 1.
        """
        t = self.step * np.arange(1, self.number)[:, None]
        phi = np.exp(-np.square(t) / 2)
        weights = 2 * self.step * phi  # the trapezoidal rule, doubled for negative t, with the window phi
        weights[-1] /= 2
        return jnp.asarray(t, like.dtype), jnp.asarray(phi, like.dtype), jnp.asarray(weights, like.dtype)


def sigreg(
    z: ArrayLike,
    *,
    key: ArrayLike,
    slices: int = 1024,
    knots: int = 17,
    t_max: float = 3.0,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    r"""Epps-Pulley distance of the embeddings from the standard normal, averaged over random directions.

    .. math:: \frac{N}{M} \sum_m \sum_k w_k \Bigl[ \bigl( \tfrac{1}{N} \sum_n \cos t_k x_{nm} - \phi_k \bigr)^2
        + \bigl( \tfrac{1}{N} \sum_n \sin t_k x_{nm} \bigr)^2 \Bigr], \qquad x_{nm} = \langle a_m, z_n \rangle

    with K equally spaced knots :math:`t_k` from 0 to `t_max`, :math:`\phi_k = \exp(-t_k^2 / 2)`,
    :math:`w_k = 2\, \Delta t\, \phi_k` (half of it at both ends), and M directions :math:`a_m` of length one. For
    embeddings that are standard normal the expectation is :math:`\sum_k w_k (1 - \phi_k^2)` at every batch size.

    Args:
        z: embeddings of one view, `[batch, dim]`, any floating dtype; 16-bit embeddings are promoted to float32.
        key: PRNG key of the directions: pass a new one at every step, and the same on every device.
        slices: M, the number of directions. Static.
        knots: K, odd and at least 3. Static.
        t_max: the largest knot, above 0. Static.
        where: bool `[batch]`, which rows count: the value and the gradients are those of these rows alone, whatever
            the others hold. None: all. May be traced, so that batches of different sizes share one program. If no row
            counts, the value is 0.
        axis_name: None if the arrays hold the global batch (plain, or sharded under `jax.jit`); otherwise the
            mapped axis over which it is sharded. Average the parameter gradients over it (`lax.pmean`).

    Returns:
        A scalar, float32 (float64 for float64 embeddings): the mean over directions, of the global batch; the same on
        every device. The factor N is the number of rows of the global batch that count.

    Raises:
        TypeError: if the dtype is not floating-point, `key` is not a PRNG key, or `t_max` is not a number.
        ValueError: if the shape is not `[batch, dim]`, the global batch has fewer than 2 rows, `slices` is not
            positive, `knots` is not odd and at least 3, or `t_max` is not above 0 and finite.

    Source: paper, section 4 and algorithm 1; rbalestr-lab/lejepa, `lejepa/univariate/epps_pulley.py` and
    `lejepa/multivariate/slicing.py`. The fast form is `epps_pulley`.

    >>> import jax
    >>> normal = jax.random.normal(jax.random.key(0), (256, 64))
    >>> for z in (normal, 2 * normal, 0 * normal):  # as it should be; too wide; collapsed
    ...     print(f"{sigreg(z, key=jax.random.key(1)):.2f}")
    0.99
    62.74
    102.92

    The textbook form, which builds two arrays `[batch, slices, knots]`:

    >>> t = jnp.linspace(0, 3, 17)
    >>> x = normal @ random_directions(jax.random.key(1), 1024, normal).T
    >>> square = (jnp.mean(jnp.cos(x[..., None] * t), 0) - jnp.exp(-t * t / 2)) ** 2
    >>> square += jnp.mean(jnp.sin(x[..., None] * t), 0) ** 2
    >>> textbook = 256 * 2 * jnp.mean(jnp.trapezoid(square * jnp.exp(-t * t / 2), t))
    >>> bool(jnp.allclose(sigreg(normal, key=jax.random.key(1)), textbook, rtol=1e-4))
    True
    """
    batch, (z,) = as_batch(where, axis_name, z=z)
    check_global_batch("z", batch, z)
    return epps_pulley(z, random_directions(key, slices, z), batch, as_knots(knots, t_max))


def as_knots(knots: int, t_max: float) -> Knots:
    """Check the knots, which are static.

    Raises:
        TypeError: if `t_max` is not a number.
        ValueError: if `knots` is not odd and at least 3, or `t_max` is not above 0 and finite.
    """
    if not isinstance(knots, Integral) or knots < 3 or knots % 2 == 0:
        raise ValueError(f"knots must be an odd integer of at least 3; got {knots!r}")
    if isinstance(t_max, jax.Array) or not isinstance(t_max, Real):
        raise TypeError(f"t_max must be a number, and static; got {t_max!r}")
    if not (0 < t_max < math.inf):
        raise ValueError(f"t_max must be above 0 and finite; got {t_max!r}")
    return Knots(int(knots), float(t_max))


# A JVP rule instead of a VJP rule: it costs the same in reverse, and supports forward mode and higher derivatives.
@partial(jax.custom_jvp, nondiff_argnums=(3,))
def epps_pulley(z: Array, directions: Array, batch: GlobalBatch, knots: Knots) -> Array:
    r"""Compute the statistic of `sigreg` for given directions, without an array that has an axis for the knots.

    The textbook form is that of `sigreg`. Since the knots are equally spaced, cosine and sine of
    :math:`t_k x = k \Delta t\, x` follow from those of :math:`\Delta t\, x` by a Chebyshev recurrence, here as a
    rotation, whose rounding errors grow with k, not with its square:

    .. math:: e^{\mathrm{i} k \theta} = e^{\mathrm{i} (k - 1) \theta}\, e^{\mathrm{i} \theta}

    The derivative by x is a polynomial in :math:`e^{\mathrm{i} \theta}`, by Horner's rule:

    .. math:: \frac{\partial S}{\partial x_{nm}} = \frac{2}{M} \mathrm{Re} \sum_k w_k t_k
        \bigl[ s_{km} + \mathrm{i} (c_{km} - \phi_k) \bigr] e^{\mathrm{i} k \theta_{nm}}

    with :math:`c, s` the means of cosine and sine. Slices are processed in blocks, and a block's projections, cosines
    and sines are recomputed for the derivative. The only array `[batch, slices]` is the derivative by x.

    Args:
        z: `[batch, dim]`, float32 or wider. Under a named axis each device projects only its own rows.
        directions: `[slices, dim]` in the same dtype, the same on every device; constants, whose derivative is zero.
        batch: the rows that count.
        knots: where the characteristic functions are compared. Static.

    Returns:
        A scalar in the dtype of `z`, reduced over the global batch and averaged over directions; the same on every
        device.
    """
    return _statistic_and_gradient(z, directions, batch, knots)[0]


@epps_pulley.defjvp
def _epps_pulley_jvp(
    knots: Knots, primals: tuple[Array, Array, GlobalBatch], tangents: tuple[Array, Array, GlobalBatch]
) -> tuple[Array, Array]:
    z, directions, batch = primals
    statistic, gradient = _statistic_and_gradient(z, directions, batch, knots)
    # Summed over the axis: the derivative of the global value, which every kind of mapped axis transposes correctly.
    return statistic, batch.axis_sum(jnp.sum(gradient() * tangents[0]))


def _statistic_and_gradient(
    z: Array, directions: Array, batch: GlobalBatch, knots: Knots
) -> tuple[Array, Callable[[], Array]]:
    """Return the statistic, and a function that computes this shard's rows of its gradient."""
    slices = directions.shape[0]
    blocks = _blocks(directions, z.shape[0])

    def waves(block: Array) -> tuple[Array, Array]:
        theta = knots.step * einsum("nd,md->nm", z, block)
        return batch.keep(jnp.cos(theta)), batch.keep(jnp.sin(theta))

    def sums(block: Array) -> tuple[Array, Array]:
        """Sum cosines and sines over this shard's rows, `[K - 1, slices]` each."""
        first = waves(block)

        def next_knot(wave: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            wave = _rotate(wave, first)
            return wave, (jnp.sum(wave[0], axis=0), jnp.sum(wave[1], axis=0))

        _, rest = lax.scan(next_knot, first, length=knots.number - 2)
        cosines, sines = (jnp.concatenate([jnp.sum(w, axis=0)[None], r]) for w, r in zip(first, rest, strict=True))
        return cosines, sines

    t, phi, weights = knots.arrays(z)
    count = batch.count(z.dtype, minimum=1)
    cosines, sines = (batch.axis_sum(_merge(x)) / count for x in lax.map(sums, blocks))
    cosines -= phi
    squares = jnp.sum(weights * (jnp.square(cosines) + jnp.square(sines)), axis=0)
    statistic = batch.count(z.dtype) * jnp.mean(squares[:slices])

    def gradient() -> Array:
        scale = 2 / slices * weights * t
        real, imaginary = (_split(scale * x, len(blocks)) for x in (sines, cosines))

        def of_block(arrays: tuple[Array, Array, Array]) -> Array:
            block, real, imaginary = arrays
            first = waves(block)
            # The highest coefficient alone would not vary over a mapped axis, as the others do after a rotation.
            highest = (real[-1] * first[0] - imaginary[-1] * first[1], real[-1] * first[1] + imaginary[-1] * first[0])

            def next_knot(sum_: tuple[Array, Array], coefficients: tuple[Array, Array]) -> tuple[tuple, None]:
                return _rotate((sum_[0] + coefficients[0], sum_[1] + coefficients[1]), first), None

            (by_x, _), _ = lax.scan(next_knot, highest, (real[:-1], imaginary[:-1]), reverse=True)
            return by_x

        return einsum("bnm,bmd->nd", lax.map(of_block, (blocks, real, imaginary)), blocks)

    return statistic, gradient


def _rotate(wave: tuple[Array, Array], by: tuple[Array, Array]) -> tuple[Array, Array]:
    """Multiply two complex numbers of length one, given by real and imaginary parts."""
    return wave[0] * by[0] - wave[1] * by[1], wave[1] * by[0] + wave[0] * by[1]


def _blocks(directions: Array, rows: int) -> Array:
    """Split the slices into blocks, `[blocks, slices of a block, dim]`, padded with directions that are zero."""
    slices = directions.shape[0]
    of_block = BLOCK // rows if isinstance(rows, int) else 0  # the number of rows may be symbolic
    blocks = -(-slices // max(of_block, MIN_SLICES))
    of_block = -(-slices // blocks)
    padded = jnp.pad(directions, ((0, blocks * of_block - slices), (0, 0)))
    return padded.reshape(blocks, of_block, -1)


def _merge(x: Array) -> Array:
    """`[blocks, knots, slices of a block]` -> `[knots, slices]`."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def _split(x: Array, blocks: int) -> Array:
    """`[knots, slices]` -> `[blocks, knots, 1, slices of a block]`, to multiply `[batch, slices of a block]`."""
    return jnp.moveaxis(x.reshape(x.shape[0], 1, blocks, -1), 2, 0)

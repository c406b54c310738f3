"""The end of a residual block: 1x1 convolutions with BatchNorm, and ReLU of their sum, in few passes over memory.

The last convolution of a bottleneck has few inputs and many outputs, and the traffic of the outputs takes the time:
BatchNorm reads them for the statistics, again for the normalization, and five times in the backward pass. But the
statistics of a linear map follow from those of its inputs. With them, BatchNorm becomes part of the kernel, and the
outputs are written once, after the sum with the shortcut and ReLU. Where the shortcut is such a convolution too, both
are one product.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_ROWS = (0, 1, 2)  # of images: all axes but the channels

Moments = tuple[Array, Array]


class Parameters(NamedTuple):
    """Those of a normalized product: float32 `[inputs, channels]`, `[channels]` and `[channels]`."""

    kernel: Array
    scale: Array
    bias: Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized_products(
    inputs: list[Array], parameters: list[Parameters], residual: Array | None, epsilon: float
) -> tuple[Array, list[Moments]]:
    r"""Compute ReLU of a sum: the products of images and kernels, each with BatchNorm, and perhaps a residual.

    The textbook form, with means over all axes but the channels:

        y = 0 if residual is None else residual
        for x, (kernel, scale, bias) in zip(inputs, parameters):
            product = x @ kernel
            y += (product - mean(product)) / sqrt(var(product) + epsilon) * scale + bias
        return relu(y)

    Here it is one product of all inputs side by side with kernels K', and a shift, as
    :math:`\mathrm{mean}(xK) = \mathrm{mean}(x)K` and
    :math:`\mathrm{var}(xK) = \mathrm{diag}(K^\top \mathrm{cov}(x) K)`:

    .. math:: K' = K \cdot \frac{\text{scale}}{\sqrt{\mathrm{var} + \epsilon}}, \qquad
              \text{shift} = \text{bias} - \mathrm{mean}(x) K'

    Args:
        inputs: `[batch, height, width, inputs]` each, in the dtype of the computation.
        parameters: of each product.
        residual: None, or `[batch, height, width, channels]` in the dtype of the inputs.
        epsilon: Added to the variance. Static.

    Returns:
        The result, `[batch, height, width, channels]` in the dtype of the inputs; for each product float32 `[channels]`
        mean and biased variance, through which no gradient flows.
    """
    return _forward(inputs, parameters, residual, epsilon)[0]


def _forward(
    inputs: list[Array], parameters: list[Parameters], residual: Array | None, epsilon: float
) -> tuple[tuple[Array, list[Moments]], Any]:
    x = jnp.concatenate(inputs, axis=-1)
    # Without the barriers, XLA also writes what comes before ReLU, for the backward pass.
    mean_of_x, x = _mean(x), lax.optimization_barrier(x)
    moments = mean_of_x, _products(x, x) / _count(x)
    (folded, shift), statistics = _fold(moments, parameters, epsilon)
    y = _multiply(x, folded) + shift.astype(x.dtype)
    if residual is not None:
        y += residual
    y = lax.optimization_barrier(jnp.maximum(y, jnp.zeros((), y.dtype)))
    return (y, statistics), (x, parameters, moments, folded, y, residual is None)


def _backward(
    epsilon: float, saved: Any, gradients: tuple[Array, list[Moments]]
) -> tuple[list[Array], list[Parameters], Array | None]:
    x, parameters, moments, folded, y, has_no_residual = saved
    g = jnp.where(y > 0, gradients[0], jnp.zeros((), y.dtype))
    _, pull_back, _ = jax.vjp(partial(_fold, epsilon=epsilon), moments, parameters, has_aux=True)
    of_folded, of_shift = _products(x, g), jnp.sum(g, _ROWS, dtype=jnp.float32)
    (of_mean, of_outer), of_parameters = pull_back((of_folded, of_shift))
    rows = _count(x)
    of_x = _multiply(x, (of_outer + of_outer.T) / rows) + (of_mean / rows).astype(x.dtype)
    of_x = lax.optimization_barrier(of_x) + _multiply(g, folded.T)  # the library's convolution adds it
    ends = list(itertools.accumulate(len(each.kernel) for each in parameters))
    return jnp.split(of_x, ends[:-1], axis=-1), of_parameters, None if has_no_residual else g


normalized_products.defvjp(_forward, _backward)


def subsample(images: Array, stride: int) -> Array:
    """`images[:, ::stride, ::stride]`.

    XLA writes the gradient of a slice with its zeros. Here the gradient is a selection, which it fuses in part.
    """
    height, width = images.shape[1:3]

    @jax.custom_vjp
    def sample(images: Array) -> Array:
        return images[:, ::stride, ::stride]

    def backward(_: None, g: Array) -> tuple[Array]:
        repeated = jnp.repeat(jnp.repeat(g, stride, axis=1), stride, axis=2)[:, :height, :width]
        row, column = (jnp.arange(side) % stride == 0 for side in (height, width))
        taken = row[None, :, None, None] & column[None, None, :, None]
        return (jnp.where(taken, repeated, jnp.zeros((), g.dtype)),)

    sample.defvjp(lambda images: (sample(images), None), backward)
    return sample(images)


def _fold(moments: Moments, parameters: list[Parameters], epsilon: float) -> tuple[tuple[Array, Array], list[Moments]]:
    """Kernels, one above the other, and a shift that include BatchNorm; mean and variance of each product.

    The moments are the means of the columns of x and of all products of two columns, float32 `[inputs]` and
    `[inputs, inputs]`, of all inputs side by side.
    """
    folded, shift, statistics, end = [], jnp.zeros_like(parameters[0].bias), [], 0
    for kernel, scale, bias in parameters:
        start, end = end, end + len(kernel)
        mean_of_x, outer = moments[0][start:end], moments[1][start:end, start:end]
        covariance = outer - mean_of_x[:, None] * mean_of_x[None, :]
        mean = _matmul(mean_of_x, kernel)
        var = jnp.maximum(0.0, _quadratic_forms(covariance, kernel))
        multiplier = lax.rsqrt(var + epsilon) * scale
        folded.append(kernel * multiplier)
        shift += bias - mean * multiplier
        statistics.append((mean, var))
    return (jnp.concatenate(folded), shift), statistics


@jax.custom_vjp
def _quadratic_forms(matrix: Array, columns: Array) -> Array:
    """`c.T @ matrix @ c` for every column c; the matrix is symmetric, which spares its gradient a product."""
    return _quadratic_forms_forward(matrix, columns)[0]


def _quadratic_forms_forward(matrix: Array, columns: Array) -> tuple[Array, tuple[Array, Array]]:
    products = _matmul(matrix, columns)
    return jnp.sum(columns * products, axis=0), (columns, products)


def _quadratic_forms_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    columns, products = saved
    return _matmul(columns * g, columns.T), 2 * g * products


_quadratic_forms.defvjp(_quadratic_forms_forward, _quadratic_forms_backward)


def _matmul(a: Array, b: Array) -> Array:
    """Finer than the 16 bits to which `_multiply` rounds the kernel. On a TPU, HIGHEST has twice the passes."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGH)


def _mean(x: Array) -> Array:
    return jnp.sum(x, _ROWS, dtype=jnp.float32) / _count(x)


def _products(x: Array, y: Array) -> Array:
    """`x.T @ y` over all rows, float32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return lax.dot_general(x, y, ((_ROWS, _ROWS), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _multiply(x: Array, kernel: Array) -> Array:
    """`x @ kernel` in the dtype of x, as a convolution: to those the GPU's library adds, and applies ReLU."""
    kernel = kernel[None, None].astype(x.dtype)
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _count(x: Array) -> float:
    return x.size / x.shape[-1]

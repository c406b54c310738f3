"""A 1x1 convolution with BatchNorm, and the end of a residual block, in few passes over memory.

The last convolution of a bottleneck has few inputs and many outputs, and the traffic of the outputs takes the time:
BatchNorm reads them for the statistics, again for the normalization, and five times in the backward pass. But the
statistics of a linear map follow from those of its inputs. With them, BatchNorm becomes part of the kernel, and the
outputs are written once, after the sum with the shortcut and ReLU.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_ROWS = (0, 1, 2)  # of images: all axes but the channels

Moments = tuple[Array, Array]


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalized_product(
    x: Array, kernel: Array, scale: Array, bias: Array, residual: Array | None, epsilon: float
) -> tuple[Array, Array, Array]:
    r"""Compute BatchNorm of the product of images and a kernel; with a residual, ReLU of their sum.

    The textbook form, with means over all axes but the channels:

        y = x @ kernel
        y = (y - mean(y)) / sqrt(var(y) + epsilon) * scale + bias
        return y if residual is None else relu(y + residual)

    Here it is one product with a kernel K' and a shift, as :math:`\mathrm{mean}(xK) = \mathrm{mean}(x)K` and
    :math:`\mathrm{var}(xK) = \mathrm{diag}(K^\top \mathrm{cov}(x) K)`:

    .. math:: K' = K \cdot \frac{\text{scale}}{\sqrt{\mathrm{var} + \epsilon}}, \qquad
              \text{shift} = \text{bias} - \mathrm{mean}(x) K'

    Args:
        x: `[batch, height, width, inputs]`, in the dtype of the computation.
        kernel: float32 `[inputs, channels]`.
        scale: float32 `[channels]`.
        bias: float32 `[channels]`.
        residual: None, or `[batch, height, width, channels]` in the dtype of `x`.
        epsilon: Added to the variance. Static.

    Returns:
        The result, `[batch, height, width, channels]` in the dtype of `x`; float32 `[channels]` mean and biased
        variance of the products, through which no gradient flows.
    """
    return _forward(x, kernel, scale, bias, residual, epsilon)[0]


def _forward(
    x: Array, kernel: Array, scale: Array, bias: Array, residual: Array | None, epsilon: float
) -> tuple[tuple[Array, Array, Array], Any]:
    # Without the barriers, XLA also writes what comes before ReLU, for the backward pass.
    mean_of_x, x = _mean(x), lax.optimization_barrier(x)
    moments = mean_of_x, _products(x, x) / _count(x)
    (folded, shift), (mean, var) = _fold(moments, kernel, scale, bias, epsilon)
    y = _multiply(x, folded) + shift.astype(x.dtype)
    if residual is not None:
        y = jnp.maximum(y + residual, jnp.zeros((), y.dtype))
    y = lax.optimization_barrier(y)
    return (y, mean, var), (x, kernel, scale, bias, moments, folded, None if residual is None else y)


def _backward(
    epsilon: float, saved: Any, gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array, Array, Array | None]:
    x, kernel, scale, bias, moments, folded, y = saved
    g = gradients[0]
    if y is not None:
        g = jnp.where(y > 0, g, jnp.zeros((), g.dtype))
    _, pull_back, _ = jax.vjp(partial(_fold, epsilon=epsilon), moments, kernel, scale, bias, has_aux=True)
    of_folded, of_shift = _products(x, g), jnp.sum(g, _ROWS, dtype=jnp.float32)
    (of_mean, of_outer), of_kernel, of_scale, of_bias = pull_back((of_folded, of_shift))
    rows = _count(x)
    of_x = _multiply(x, (of_outer + of_outer.T) / rows) + (of_mean / rows).astype(x.dtype)
    of_x = lax.optimization_barrier(of_x) + _multiply(g, folded.T)  # the library's convolution adds it
    return of_x, of_kernel, of_scale, of_bias, None if y is None else g


normalized_product.defvjp(_forward, _backward)


def subsample(images: Array, stride: int) -> Array:
    """`images[:, ::stride, ::stride]`. Its gradient is a selection, which XLA fuses; of a slice it would be written."""
    height, width = images.shape[1:3]

    @jax.custom_vjp
    def subsample(images: Array) -> Array:
        return images[:, ::stride, ::stride]

    def backward(_: None, g: Array) -> tuple[Array]:
        repeated = jnp.repeat(jnp.repeat(g, stride, axis=1), stride, axis=2)[:, :height, :width]
        row, column = (jnp.arange(side) % stride == 0 for side in (height, width))
        taken = row[None, :, None, None] & column[None, None, :, None]
        return (jnp.where(taken, repeated, jnp.zeros((), g.dtype)),)

    subsample.defvjp(lambda images: (subsample(images), None), backward)
    return subsample(images)


def _fold(
    moments: Moments, kernel: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Kernel and shift that include BatchNorm; mean and variance of the products.

    The moments are the means of the columns of x and of all products of two columns, float32 `[inputs]` and
    `[inputs, inputs]`.
    """
    mean_of_x, outer = moments
    covariance = outer - mean_of_x[:, None] * mean_of_x[None, :]
    mean = _matmul(mean_of_x, kernel)
    var = jnp.maximum(0.0, _quadratic_forms(covariance, kernel))
    multiplier = lax.rsqrt(var + epsilon) * scale
    return (kernel * multiplier, bias - mean * multiplier), (mean, var)


@jax.custom_vjp
def _quadratic_forms(matrix: Array, columns: Array) -> Array:
    """`c.T @ matrix @ c` for every column c; the matrix is symmetric, which spares its gradient a product."""
    return jnp.sum(columns * _matmul(matrix, columns), axis=0)


def _quadratic_forms_forward(matrix: Array, columns: Array) -> tuple[Array, tuple[Array, Array]]:
    products = _matmul(matrix, columns)
    return jnp.sum(columns * products, axis=0), (columns, products)


def _quadratic_forms_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    columns, products = saved
    return _matmul(columns * g, columns.T), 2 * g * products


_quadratic_forms.defvjp(_quadratic_forms_forward, _quadratic_forms_backward)


def _matmul(a: Array, b: Array) -> Array:
    """Finer than the 16 bits to which `_multiply` rounds the kernel. HIGHEST takes a TPU twice the program."""
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

"""Dense layers and convolutions in 16 bits whose kernels get their gradients in float32.

The gradient of a kernel is a sum over the batch, and every device has a part of it. XLA adds the parts in the dtype of
the product. With a 16-bit product every part would be rounded first, and the result would depend on the number of
devices. So the kernel stays float32 up to the product, and so does its gradient: the parts, their sum, and the sum over
both views.

`dense` and `conv` are arguments of `nn.Dense` and `nn.Conv`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def dense(dtype: DTypeLike) -> dict[str, Any]:
    """Arguments of `nn.Dense` for a computation in `dtype`."""
    if jnp.finfo(dtype).bits > 16:
        return {"dtype": dtype}
    return {"dtype": dtype, "promote_dtype": _promote_inputs, "dot_general": _dot_general}


def conv(dtype: DTypeLike) -> dict[str, Any]:
    """Arguments of `nn.Conv`, two-dimensional and without groups or dilation, for a computation in `dtype`."""
    if jnp.finfo(dtype).bits > 16:
        return {"dtype": dtype}
    return {"dtype": dtype, "promote_dtype": _promote_inputs, "conv_general_dilated": _convolution}


def _promote_inputs(x: Array, *parameters: Array | None, dtype: DTypeLike, **_: Any) -> tuple[Array | None, ...]:
    return x.astype(dtype), *parameters


def _dot_general(x: Array, kernel: Array, dimension_numbers: Any, **_: Any) -> Array:
    """`lax.dot_general` for rows `[batch, ..., in]` and a kernel `[in, out]`."""

    def kernel_gradient(x: Array, g: Array) -> Array:
        rows, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        return jnp.matmul(rows.T, g, preferred_element_type=jnp.float32)

    return _linear(jnp.matmul, kernel_gradient, x, kernel)


def _convolution(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **_: Any) -> Array:
    """`lax.conv_general_dilated` for images `[batch, height, width, in]` and a kernel `[height, width, in, out]`."""

    def apply(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def kernel_gradient(x: Array, g: Array) -> Array:
        """Entry k of the kernel's gradient is the sum over outputs m of g[m] x[stride m + k - padding]."""
        # The last padding lets exactly the kernel's entries fit.
        needed = [
            (low, size + (outputs - 1) * stride - inputs - low)
            for size, inputs, outputs, stride, (low, _) in zip(
                kernel.shape, x.shape[1:3], g.shape[1:3], strides, padding, strict=False
            )
        ]

        def gradient(dtype: DTypeLike) -> Array:
            return lax.conv_general_dilated(
                x,
                g,
                (1, 1),
                needed,
                rhs_dilation=strides,
                dimension_numbers=("CHWN", "IHWO", "HWNC"),
                preferred_element_type=dtype,
            ).astype(jnp.float32)

        # cuDNN returns what it takes.
        return lax.platform_dependent(cuda=lambda: gradient(x.dtype), default=lambda: gradient(jnp.float32))

    return _linear(apply, kernel_gradient, x, kernel)


def _linear(
    apply: Callable[[Array, Array], Array], kernel_gradient: Callable[[Array, Array], Array], x: Array, kernel: Array
) -> Array:
    """`apply(x, kernel)` in the dtype of `x`, with a kernel and its gradient in float32."""

    @jax.custom_vjp
    def product(x: Array, kernel: Array) -> Array:
        return apply(x, kernel.astype(x.dtype))

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return product(x, kernel), (x, kernel)

    def backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        x, kernel = residuals
        _, pull_back = jax.vjp(lambda x: apply(x, kernel.astype(x.dtype)), x)
        return *pull_back(g), kernel_gradient(x, g)

    product.defvjp(forward, backward)
    return product(x, kernel)

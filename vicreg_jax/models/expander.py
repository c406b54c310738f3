"""The expander: features to embeddings."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def _torch_uniform(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for the weight and the bias of a Linear: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Expander(nn.Module):
    """Dense, BatchNorm, ReLU for all layers but the last, which is a Dense without bias and nothing after.

    Kernels and biases start from PyTorch's default, U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)); parameters and
    statistics are float32 whatever `dtype` is.

    Attributes:
      dims: width of each layer; the last is the dimension of the embeddings.
      dtype: of the computation; bfloat16 or float32.

    Raises:
      ValueError: empty `dims`, or a width under 1.

    Source: Bardes et al. 2022 (arXiv 2105.04906), section 4.2; facebookresearch/vicreg `main_vicreg.py`,
    `Projector`.

    >>> expander = Expander(dims=(32, 32, 16))
    >>> variables = jax.jit(expander.init)(jax.random.key(0), jnp.zeros((1, 8)))
    >>> jax.jit(expander.apply)(variables, jnp.zeros((5, 8))).shape
    (5, 16)
    """

    dims: tuple[int, ...] = (8192, 8192, 8192)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """Map features `[batch, feature_dim]` to embeddings `[batch, dims[-1]]`, float32.

        `train` is that of `ResNet`: statistics of the global batch, or the running ones.
        """
        if not self.dims or min(self.dims) < 1:
            raise ValueError(f"dims is {self.dims}; taken is one width of at least 1 for each layer")
        x = features
        last = len(self.dims) - 1
        for index, dim in enumerate(self.dims):
            init = _torch_uniform(x.shape[-1])
            x = nn.Dense(
                dim,
                use_bias=index < last,
                dtype=self.dtype,
                kernel_init=init,
                bias_init=init,
                name=f"dense_{index}",
            )(x)
            if index < last:
                # The two-pass variance: pre-activations may lie far from zero, where E[x^2] - E[x]^2 cancels.
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    dtype=self.dtype,
                    use_fast_variance=False,
                    name=f"batch_norm_{index}",
                )(x)
                x = nn.relu(x)
        return x.astype(jnp.float32)

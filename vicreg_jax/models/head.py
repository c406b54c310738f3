"""The head between features and loss: expander, projector or predictor."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vicreg_jax.models import mixed_precision
from vicreg_jax.models.batch_norm import BatchNorm

OUTPUT_NORMS = ("none", "scale", "plain")


def _torch_uniform(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for the weight and the bias of a Linear: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Head(nn.Module):
    """Dense, BatchNorm and ReLU in every layer but the last, which is a Dense only. The default is VICReg's expander.

    Kernels and biases start from PyTorch's default, U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)). Parameters and statistics
    are float32 for every `dtype`.

    Attributes:
        dims: Width of each layer; the last is the dimension of the embeddings.
        batch_norm: If False, there is no BatchNorm at all, not even with an `output_norm`, and hidden layers have a
            bias.
        hidden_bias: Whether a Dense before a BatchNorm has a bias, although the BatchNorm cancels it.
        output_bias: Whether the last Dense has a bias.
        output_norm: Normalization after the last Dense: "none"; "scale", a BatchNorm without shift (SimCLR); or
            "plain", a BatchNorm without scale and shift (SimSiam).
        dtype: Type of the computation, bfloat16 or float32.

    Raises:
        ValueError: If `dims` is empty or has a width under 1, or `output_norm` is not in `OUTPUT_NORMS`.

    Source: Bardes et al. 2022 (arXiv 2105.04906), section 4.2; facebookresearch/vicreg `main_vicreg.py`, `Projector`.
    The heads of the other methods, with their sources, are the `head_options` in `vicreg_jax.methods`.

    Example:
        >>> head = Head(dims=(32, 32, 16))
        >>> variables = jax.jit(head.init)(jax.random.key(0), jnp.zeros((1, 8)))
        >>> jax.jit(head.apply)(variables, jnp.zeros((5, 8))).shape
        (5, 16)
    """

    dims: tuple[int, ...] = (8192, 8192, 8192)
    batch_norm: bool = True
    hidden_bias: bool = True
    output_bias: bool = False
    output_norm: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, views: int = 1) -> jax.Array:
        """Map features to embeddings.

        Args:
            features: floating `[batch, feature_dim]`.
            train: See `ResNet`.
            views: See `ResNet`.

        Returns:
            float32 `[batch, dims[-1]]`.
        """
        if not self.dims or min(self.dims) < 1:
            raise ValueError(f"dims must be one or more integers of at least 1; got {self.dims!r}")
        if self.output_norm not in OUTPUT_NORMS:
            raise ValueError(f"output_norm must be one of {', '.join(OUTPUT_NORMS)}; got {self.output_norm!r}")
        x = features
        last = len(self.dims) - 1
        for index, dim in enumerate(self.dims):
            init = _torch_uniform(x.shape[-1])
            x = nn.Dense(
                dim,
                use_bias=self.output_bias if index == last else self.hidden_bias or not self.batch_norm,
                kernel_init=init,
                bias_init=init,
                name=f"dense_{index}",
                **mixed_precision.dense(self.dtype),
            )(x)
            if self.batch_norm and (index < last or self.output_norm != "none"):
                # Two-pass variance: with pre-activations far from zero, E[x^2] - E[x]^2 would cancel.
                x = BatchNorm(
                    use_running_average=not train,
                    views=views,
                    dtype=self.dtype,
                    use_bias=index < last,
                    use_scale=index < last or self.output_norm == "scale",
                    fast_variance=False,
                    name=f"batch_norm_{index}",
                )(x)
            if index < last:
                x = nn.relu(x)
        return x.astype(jnp.float32)

"""BatchNorm with separate batch statistics for each view of a batch that holds several."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

EPSILON = 1e-5


class BatchNorm(nn.Module):
    r"""Standardize each channel over the batch and over all positions, then scale and shift it.

    .. math:: y = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}} \cdot \text{scale} + \text{bias}

    Mean and biased variance are computed in float32. Names of parameters and running statistics are Flax's. There is no
    `axis_name`: under jit, the statistics of a sharded batch are those of the global batch.

    With `views` above 1, row :math:`i \cdot \text{views} + v` is view v of image i. Each view is standardized with the
    statistics of its own rows, and moves the running ones in turn: the result is that of one call per view.

    Attributes:
        use_running_average: Normalize with the running statistics, instead of the batch's.
        views: Number of views in the batch.
        momentum: Weight of the previous running statistics in the update.
        epsilon: Added to the variance inside the square root.
        dtype: Type of the result.
        use_scale: Whether there is a scale.
        use_bias: Whether there is a bias.
        scale_init: Initializer of the scale.
        fast_variance: Compute the variance as :math:`E[x^2] - E[x]^2`, in one pass over the batch. It cancels where the
            mean is far from zero.
    """

    use_running_average: bool
    views: int = 1
    momentum: float = 0.9
    epsilon: float = EPSILON
    dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    fast_variance: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `[batch, ..., channels]`."""
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        rows = x.reshape(-1, self.views, *x.shape[1:])
        axes = (0, *range(2, rows.ndim - 1))  # all but view and channel
        if self.use_running_average:
            mean, var = running_mean.value[None], running_var.value[None]
        else:
            mean, var = self._statistics(rows, axes)
            if not self.is_initializing():
                for of_view in range(self.views):
                    _move(running_mean, mean[of_view], self.momentum)
                    _move(running_var, var[of_view], self.momentum)

        multiplier = lax.rsqrt(jnp.expand_dims(var, axes) + self.epsilon)
        if self.use_scale:
            multiplier *= self.param("scale", self.scale_init, channels)
        y = (rows - jnp.expand_dims(mean, axes)) * multiplier
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, channels)
        return y.reshape(x.shape).astype(self.dtype)

    def _statistics(self, rows: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of each view, `[views, channels]`."""
        if self.fast_variance:
            return mean_and_variance(rows, axes)
        rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
        mean = jnp.mean(rows, axes)
        return mean, jnp.mean(jnp.square(rows - jnp.expand_dims(mean, axes)), axes)


class FoldedBatchNorm(nn.Module):
    """What belongs to a `BatchNorm` that is computed with its neighbors, in training and for one view.

    Attributes:
        channels: Number of channels.
        momentum: See `BatchNorm`, whose parameters and running statistics it has.
        scale_init: See `BatchNorm`.
    """

    channels: int
    momentum: float = 0.9
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def setup(self) -> None:
        """Make the parameters and the running statistics."""
        channels = (self.channels,)
        self.scale = self.param("scale", self.scale_init, channels)
        self.bias = self.param("bias", nn.initializers.zeros, channels)
        self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        self.running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

    def move(self, mean: jax.Array, var: jax.Array) -> None:
        """Move the running statistics to those of a batch."""
        if not self.is_initializing():
            _move(self.running_mean, mean, self.momentum)
            _move(self.running_var, var, self.momentum)


def mean_and_variance(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance in one pass over x, in float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(0.0, jnp.mean(jnp.square(x), axes) - jnp.square(mean))


def _move(running: nn.Variable, batch: jax.Array, momentum: float) -> None:
    running.value = momentum * running.value + (1 - momentum) * batch

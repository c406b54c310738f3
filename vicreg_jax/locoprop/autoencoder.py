"""The deep autoencoder of the official experiments."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array


def glorot_bias(key: Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> Array:
    """Glorot's uniform initializer with a bias's n entries as both fans: within sqrt(3 / n) of 0."""
    limit = (3 / shape[0]) ** 0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class Autoencoder(nn.Module):
    """Maps rows `[batch, features]` to logits of the same shape, through a linear code.

    The module sows the code `[batch, code]` as `code` in the collection `intermediates`.

    Attributes:
        widths: widths of the encoder's hidden layers; the decoder has them in reverse.
        code: dimension of the code.
        transfer: transfer function after every layer except the code and the last.

    Source: google-research/google-research, `locoprop/locoprop_training.ipynb`; the network of Hinton and
        Salakhutdinov (Science 2006).
    """

    widths: tuple[int, ...] = (1000, 500, 250)
    code: int = 30
    transfer: Callable[[Array], Array] = nn.tanh

    @nn.compact
    def __call__(self, rows: Array) -> Array:
        """The logits; their sigmoid is the reconstruction."""

        def dense(width: int, inputs: Array) -> Array:
            glorot = nn.initializers.glorot_uniform()
            return nn.Dense(width, kernel_init=glorot, bias_init=glorot_bias)(inputs)

        hidden = rows
        for width in self.widths:
            hidden = self.transfer(dense(width, hidden))
        hidden = dense(self.code, hidden)
        self.sow("intermediates", "code", hidden)
        for width in reversed(self.widths):
            hidden = self.transfer(dense(width, hidden))
        return dense(rows.shape[-1], hidden)


def reconstruction_loss(logits: Array, rows: Array) -> Array:
    """Cross-entropy of the logits' sigmoids with rows in [0, 1], both `[batch, features]`.

    Returns:
        A scalar: summed over features, averaged over the batch.
    """
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, rows), axis=-1))

"""The deep autoencoder of the official experiments."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array


def glorot_bias(key: Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> Array:
    """Glorot's uniform initializer with a bias's n entries for both fans: within sqrt(3 / n)."""
    limit = (3 / shape[0]) ** 0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class Autoencoder(nn.Module):
    """Rows `[batch, features]` to logits of the same shape, through a code without a transfer function.

    Attributes:
      widths: of the hidden layers up to the code; the decoder has them in reverse.
      code: entries of the code.
      transfer: after every layer but the code and the last.

    The code `[batch, code]` is sown as `code` among the intermediates.

    Source: google-research/google-research, `locoprop/locoprop_training.ipynb`; the network of Hinton and
      Salakhutdinov (Science 2006).
    """

    widths: tuple[int, ...] = (1000, 500, 250)
    code: int = 30
    transfer: Callable[[Array], Array] = nn.tanh

    @nn.compact
    def __call__(self, rows: Array) -> Array:
        """Logits: the reconstruction is their sigmoid."""

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
    """Cross-entropy between `[batch, features]` in [0, 1] and the logits' sigmoids: mean over batch of sums."""
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, rows), axis=-1))

"""Joint-embedding losses: pure functions of `[batch, dim]` embeddings that need jax and nothing else.

Value and gradient are those of the global batch. With `axis_name=None` the arrays are the global batch
(plain, or sharded under `jax.jit`). With a name they are this device's shard along that mapped axis, and the
mean of the parameter gradients over the axis (`lax.pmean`) is the gradient of one device on the whole batch.
"""

from vicreg_jax.losses.vicreg import VICRegLoss, covariance_term, invariance_term, variance_term, vicreg_loss

__all__ = ["VICRegLoss", "covariance_term", "invariance_term", "variance_term", "vicreg_loss"]

"""A linear classifier on detached features, trained beside the network: a running estimate of the linear accuracy.

It sees augmented views and features that still change, so it reads lower than the linear probe trained afterwards
(`vicreg_jax.evaluation.linear_probe`), which is the number to report.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

_OPTIMIZER = optax.adam(3e-3)


@flax.struct.dataclass
class Probe:
    """`params` holds `kernel [feature_dim, classes]` and `bias [classes]`, float32."""

    params: Any
    opt_state: Any


def init(feature_dim: int, num_classes: int) -> Probe:
    """A probe that predicts a uniform distribution."""
    params = {"kernel": jnp.zeros((feature_dim, num_classes)), "bias": jnp.zeros(num_classes)}
    return Probe(params, _OPTIMIZER.init(params))


def update(probe: Probe, features: jax.Array, labels: jax.Array) -> tuple[Probe, jax.Array]:
    """One step of Adam on the mean cross-entropy.

    Args:
        features: `[batch, feature_dim]` float; no gradient flows into them.
        labels: `[batch]` int32; rows with label -1 are unlabeled and do not count.

    Returns:
        The new probe, and the scalar accuracy on this batch before the update.
    """
    features = jax.lax.stop_gradient(features)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = features @ params["kernel"] + params["bias"]
        weights = (labels >= 0) / jnp.maximum(jnp.sum(labels >= 0), 1)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return jnp.sum(weights * cross_entropy), jnp.sum(weights * (jnp.argmax(logits, axis=1) == labels))

    gradient, accuracy = jax.grad(loss, has_aux=True)(probe.params)
    updates, opt_state = _OPTIMIZER.update(gradient, probe.opt_state, probe.params)
    return Probe(optax.apply_updates(probe.params, updates), opt_state), accuracy
